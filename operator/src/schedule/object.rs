//! The Backup that a ScheduledBackup makes. Pure.

use super::decide::Make;
use crate::names::Key;
use holdfast_crds::{Backup, BackupSpec, BackupTemplateSpec, ScheduledBackupSpec};
use kube::ResourceExt;

/// On a Backup: the ScheduledBackup that made it. No owner reference: that would delete the objects with it, and they
/// tell what is stored.
pub const SCHEDULE_LABEL: &str = "holdfast.dev/scheduled-backup";

/// On a Backup: the time that it was made for.
pub const TIME_ANNOTATION: &str = "holdfast.dev/scheduled-time";

/// As it is to be made.
pub fn backup(schedule: &Key, spec: &ScheduledBackupSpec, make: &Make) -> Backup {
    let BackupTemplateSpec {
        r#type,
        from,
        keep,
        deletion_policy,
    } = spec.backup_template.spec.clone();
    let mut backup = Backup::new(
        &make.name,
        BackupSpec {
            archive_ref: spec.archive_ref.clone(),
            r#type,
            from,
            existing_id: String::new(),
            keep,
            deletion_policy,
        },
    );
    backup.metadata.namespace = Some(schedule.namespace.clone());
    let template = &spec.backup_template.metadata;
    let labels = backup.labels_mut();
    labels.clone_from(&template.labels);
    labels.insert(SCHEDULE_LABEL.to_owned(), schedule.name.clone());
    let annotations = backup.annotations_mut();
    annotations.clone_from(&template.annotations);
    annotations.insert(TIME_ANNOTATION.to_owned(), make.time.to_string());
    backup
}

/// Whether a Backup was made by that ScheduledBackup.
pub fn is_of(backup: &Backup, schedule: &str) -> bool {
    let label = backup.labels().get(SCHEDULE_LABEL);
    label.is_some_and(|name| name == schedule) && backup.spec.existing_id.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_backup_is_made_from_the_template_and_says_whose_it_is() {
        let spec = serde_json::from_value(json!({
            "archiveRef": {"name": "orders"}, "schedule": "0 2 * * *",
            "backupTemplate": {
                "metadata": {"labels": {"team": "a", "holdfast.dev/scheduled-backup": "mine"}, "annotations": {"note": "x"}},
                "spec": {"type": "Full", "from": "Primary", "keep": "Forever", "deletionPolicy": "Delete"},
            },
        }))
        .unwrap();
        let make = Make {
            time: "2026-11-22T02:00:00Z".parse().unwrap(),
            name: "nightly-29921880".into(),
        };
        let backup = backup(&Key::new("shop", "nightly"), &spec, &make);
        assert_eq!(
            serde_json::to_value(&backup).unwrap(),
            json!({
                "apiVersion": "holdfast.dev/v1alpha1", "kind": "Backup",
                "metadata": {
                    "namespace": "shop", "name": "nightly-29921880",
                    "labels": {"team": "a", "holdfast.dev/scheduled-backup": "nightly"},
                    "annotations": {"note": "x", "holdfast.dev/scheduled-time": "2026-11-22T02:00:00Z"},
                },
                "spec": {"archiveRef": {"name": "orders"}, "type": "Full", "from": "Primary", "keep": "Forever", "deletionPolicy": "Delete"},
            })
        );
        assert!(is_of(&backup, "nightly") && !is_of(&backup, "other"));
    }
}
