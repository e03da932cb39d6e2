use super::super::tests::restore;
use super::*;
use holdfast_crds::IntoClaim;
use holdfast_postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};
use holdfast_repository::facts::{BackupFacts, RecoverySettings};

fn into(restore: &Restore) -> IntoClaim {
    let destination = restore.spec.destination.clone();
    destination.persistent_volume_claim.unwrap()
}

fn standing(changes: Value) -> PersistentVolumeClaim {
    let mut claim = json!({"metadata": {"name": "orders-copy"}});
    json_patch::merge(&mut claim, &changes);
    serde_json::from_value(claim).unwrap()
}

pub fn backup(bytes: u64) -> BackupFacts {
    let time = "2026-11-20T10:00:00Z".parse().unwrap();
    BackupFacts {
        id: "b1".into(),
        system: SystemIdentifier(7),
        timeline: TimelineId(1),
        start: Lsn(0x200_0028),
        stop: Lsn(0x200_0100),
        start_time: time,
        stop_time: time,
        postgres_major: 17,
        segment_size: SegmentSize::new(16 << 20).unwrap(),
        from_standby: false,
        database_bytes: bytes,
        stored_bytes: 1,
        files: 1,
        data_checksums: true,
        page_errors: 0,
        tablespaces: vec![],
        settings: RecoverySettings::default(),
        outside: Vec::new(),
        reference: None,
        changed_bytes: 0,
    }
}

fn rival(is_older: bool, phase: Phase) -> Rival {
    Rival {
        name: "other".into(),
        phase,
        is_older,
    }
}

#[test]
fn a_claim_is_written_only_where_it_is_free() {
    let with = restore(json!({}));
    let without =
        restore(json!({"spec": {"destination": {"persistentVolumeClaim": {"template": null}}}}));
    let annotated = |uid: &str| json!({"metadata": {"annotations": {"holdfast.dev/restore": "first", "holdfast.dev/restore-uid": uid}}});
    let going = json!({"metadata": {"deletionTimestamp": "2026-11-20T10:00:00Z"}});
    let used = vec!["orders-db-0".to_owned()];
    let waiting = rival(true, Phase::Waiting);
    for (restore, claim, users, rivals, expected) in [
        (&with, None, vec![], vec![], None),
        (&with, Some(annotated("r")), vec![], vec![], None),
        (&without, Some(json!({})), vec![], vec![], None),
        (&without, Some(annotated("x")), vec![], vec![], None),
        (
            &with,
            None,
            vec![],
            vec![rival(true, Phase::Failed), rival(false, Phase::Waiting)],
            None,
        ),
        (&without, None, vec![], vec![], Some("does not exist")),
        (
            &with,
            Some(json!({})),
            vec![],
            vec![],
            Some("never changed to what the template says"),
        ),
        (
            &with,
            Some(annotated("x")),
            vec![],
            vec![],
            Some("was made by the Restore first"),
        ),
        (&with, Some(going), vec![], vec![], Some("is being deleted")),
        (
            &without,
            Some(json!({})),
            used,
            vec![],
            Some("used by the pod orders-db-0"),
        ),
        (
            &with,
            None,
            vec![],
            vec![waiting],
            Some("the Restore other into the claim"),
        ),
    ] {
        let claim = claim.map(standing);
        let template = into(restore).template;
        let named = ("orders-copy", template.as_ref());
        let checked = check(restore, named, claim.as_ref(), &users, &rivals);
        match (checked, expected) {
            (Ok(()), None) => {}
            (Err(State::Refused { message, .. } | State::Waiting { message, .. }), Some(words)) => {
                assert!(message.contains(words), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn pods_use_a_claim_until_they_have_ended() {
    let pod = |name: &str, claim: &str, phase: &str, owner: &str| -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": owner, "uid": "j"}]},
            "spec": {"containers": [], "volumes": [{"name": "tmp", "emptyDir": {}},
                {"name": "data", "persistentVolumeClaim": {"claimName": claim}}]},
            "status": {"phase": phase},
        }))
        .unwrap()
    };
    let pods = [
        pod("a", "orders-copy", "Running", "x"),
        pod("b", "orders-copy", "Pending", "x"),
        pod("c", "orders-copy", "Succeeded", "x"),
        pod("d", "other", "Running", "x"),
        pod("e", "orders-copy", "Running", "holdfast-restore-copy"),
    ];
    assert_eq!(
        users(&pods, "orders-copy", |job| job != "holdfast-restore-copy"),
        ["a", "b"]
    );
}

#[test]
fn what_is_restored_fits() {
    let capacity = |size: &str| standing(json!({"status": {"capacity": {"storage": size}}}));
    let (mut template, template_less) = (into(&restore(json!({}))).template, None);
    for (size, claim, mebibytes, fits) in [
        (Some("1Gi"), None, 1024, true),
        (Some("1Gi"), None, 1025, false),
        (Some("1G"), None, 1024, false),
        (Some("1Gi"), Some(capacity("2Gi")), 1500, true),
        (Some("2Gi"), Some(capacity("1Gi")), 1500, false),
        (None, Some(standing(json!({}))), 1500, true),
    ] {
        if let (Some(template), Some(size)) = (&mut template, size) {
            template.size = size.to_owned();
        }
        let named = size.map_or(&template_less, |_| &template).as_ref();
        let checked = check_room(("orders-copy", named), claim.as_ref(), mebibytes << 20);
        assert_eq!(checked.is_ok(), fits, "{size:?} {mebibytes}: {checked:?}");
    }
    // Four segments, and what is fetched ahead.
    assert_eq!(backup(1).wal_room(), 128 << 20);
}

#[test]
fn a_claim_is_made_as_the_template_says_and_belongs_to_nobody() {
    let restore = restore(
        json!({"spec": {"destination": {"persistentVolumeClaim": {"template":
        {"storageClassName": "fast", "accessModes": ["ReadWriteOncePod"]}}}}}),
    );
    let template = into(&restore).template.unwrap();
    assert_eq!(
        claim(&restore, "orders-copy", &template),
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "orders-copy", "namespace": "fresh",
                "labels": {"app.kubernetes.io/managed-by": "holdfast"},
                "annotations": {"holdfast.dev/restore": "copy", "holdfast.dev/restore-uid": "r"}},
            "spec": {"accessModes": ["ReadWriteOncePod"], "storageClassName": "fast",
                "resources": {"requests": {"storage": "10Gi"}}},
        })
    );
}
