//! Whether a restore in place may be carried out, as far as that can be told without touching anything. Pure.

use super::phase::Phase;
use super::report::State;
use super::wipe::clones;
use crate::archive::Member;
use crate::inject::{Refusal, check_owner};
use crate::names::{ARCHIVE_LABEL, Key};
use crate::text;
use holdfast_crds::{Archive, InPlace, OtherReplicas, RestoreSource, RestoreSpec, limits};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;

/// Another Restore for the same StatefulSet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rival {
    /// Its name.
    pub name: String,
    /// When the object was made.
    pub created: Timestamp,
    /// How far it is.
    pub phase: Phase,
    /// `suspend` holds it.
    pub suspended: bool,
    /// Its object is being deleted.
    pub going: bool,
}

/// What is known before anything is touched.
#[derive(Debug)]
pub struct Observed<'a> {
    /// The Restore's.
    pub key: &'a Key,
    /// What is wanted.
    pub spec: &'a RestoreSpec,
    /// On what.
    pub in_place: &'a InPlace,
    /// When the object was made.
    pub created: Timestamp,
    /// The id that its order would have.
    pub order: &'a str,
    /// What is to be restored.
    pub stateful_set: Option<&'a StatefulSet>,
    /// The Archive that its pods belong to.
    pub archive: Option<&'a Archive>,
    /// Whether that Archive's settings have been rendered.
    pub rendered: bool,
    /// Its pods.
    pub members: &'a [Member],
    /// One of them as it is, where there are several replicas.
    pub pod: Option<&'a Pod>,
    /// The other Restores for it.
    pub rivals: &'a [Rival],
    /// The Backup that runs.
    pub backup: Option<&'a str>,
}

/// The Archive that the pods of a StatefulSet belong to.
pub fn label_of(set: &StatefulSet) -> Option<&str> {
    let template = &set.spec.as_ref()?.template;
    let labels = template.metadata.as_ref()?.labels.as_ref()?;
    labels.get(ARCHIVE_LABEL).map(String::as_str)
}

/// The names of the pods, the one that is restored first; or why nothing is done.
pub fn check(observed: &Observed<'_>) -> Result<Vec<String>, State> {
    let InPlace { name, .. } = observed.in_place;
    let set = observed
        .stateful_set
        .filter(|set| set.metadata.deletion_timestamp.is_none());
    let Some(set) = set else {
        return Err(State::refused(
            "StatefulSetNotFound",
            format!(
                "the StatefulSet {name} does not exist in this namespace: correct spec.destination.statefulSet.name"
            ),
        ));
    };
    // First: nobody shall be told to put our label on what another operator runs.
    check_foreign(set)?;
    check_archive(observed, set)?;
    let pods = pods(observed, set)?;
    check_rivals(observed)?;
    check_carried_out(observed)?;
    check_ready(observed)?;
    if pods.len() > 1 {
        check_wipe(observed, name)?;
    }
    Ok(pods)
}

/// In place goes on with its own archive.
fn check_archive(observed: &Observed<'_>, set: &StatefulSet) -> Result<(), State> {
    let name = set.name_any();
    let Some(label) = label_of(set) else {
        return Err(State::refused(
            "NotArchived",
            format!(
                "the pods of the StatefulSet {name} carry no label {ARCHIVE_LABEL}, so nothing would restore them: add it to the pod template, and wait until the pods have their sidecar"
            ),
        ));
    };
    let other = |what: String| {
        State::refused(
            "OtherArchive",
            format!(
                "the pods of the StatefulSet {name} belong to the Archive {label}, and the source is {what}: in place a database goes on with its own archive; to restore another one, give a StatefulSet with empty volumes an Archive with bootstrap.recovery"
            ),
        )
    };
    let RestoreSource {
        archive_ref,
        repository_ref,
        namespace,
        archive,
    } = &observed.spec.source;
    if let Some(own) = archive_ref {
        return match own.name == label {
            true => Ok(()),
            false => Err(other(format!("the Archive {}", own.name))),
        };
    }
    let namespace = namespace.as_deref().unwrap_or_default();
    let archive = archive.as_deref().unwrap_or_default();
    if namespace != observed.key.namespace || archive != label {
        return Err(other(format!("{namespace}/{archive}")));
    }
    let repository = repository_ref.as_ref().map(|own| own.name.as_str());
    let names = observed.archive.map(|archive| &archive.spec.repositories);
    match names {
        Some(names)
            if !names
                .iter()
                .any(|own| Some(own.name.as_str()) == repository) =>
        {
            let repository = repository.unwrap_or_default();
            Err(other(format!(
                "in the Repository {repository}, which that Archive does not name"
            )))
        }
        _ => Ok(()),
    }
}

fn check_foreign(set: &StatefulSet) -> Result<(), State> {
    let template = set.spec.as_ref().map(|spec| &spec.template);
    let metadata = template.and_then(|template| template.metadata.as_ref());
    let pod = json!({
        "metadata": {
            "labels": metadata.and_then(|metadata| metadata.labels.as_ref()),
            "ownerReferences": set.metadata.owner_references,
        },
        "spec": template.and_then(|template| template.spec.as_ref()),
    });
    let who = match check_owner(&pod) {
        Ok(()) => return Ok(()),
        Err(Refusal::OtherOperator(operator)) => operator,
        Err(Refusal::Patroni { .. }) => "Patroni",
        Err(other) => return Err(State::refused("OtherOperator", other.to_string())),
    };
    Err(State::refused(
        "OtherOperator",
        format!(
            "{who} runs the Postgres of the StatefulSet {} and would undo what a restore in place sets: restore it by the means of {who}, or what Holdfast has archived into a claim",
            set.name_any()
        ),
    ))
}

/// Which pod is restored, and which others there are.
fn pods(observed: &Observed<'_>, set: &StatefulSet) -> Result<Vec<String>, State> {
    let InPlace {
        name,
        primary_ordinal,
        other_replicas,
    } = observed.in_place;
    let spec = set.spec.as_ref();
    let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let first = spec
        .and_then(|spec| spec.ordinals.as_ref()?.start)
        .unwrap_or(0);
    let ordinals = first..first.saturating_add(replicas);
    let last = ordinals.end.saturating_sub(1);
    if replicas < 1 {
        return Err(State::refused(
            "NoReplicas",
            format!(
                "the StatefulSet {name} has no replicas, and its pods do the work: scale it up"
            ),
        ));
    }
    if usize::try_from(replicas).unwrap_or(usize::MAX) > limits::PODS {
        return Err(State::refused(
            "TooManyReplicas",
            format!(
                "the StatefulSet {name} has {replicas} replicas, and a restore in place takes {}: scale it down",
                limits::PODS
            ),
        ));
    }
    if replicas > 1 && *other_replicas == OtherReplicas::Refuse {
        return Err(State::refused(
            "SeveralReplicas",
            format!(
                "the StatefulSet {name} has {replicas} replicas, and the others can't follow a restored one: scale it to 1, or write otherReplicas: Wipe, which empties their data directories, to be cloned again by an init container of yours"
            ),
        ));
    }
    let primary = match primary_ordinal {
        Some(ordinal) => *ordinal,
        None if replicas == 1 => first,
        None => {
            return Err(State::refused(
                "NoPrimaryOrdinal",
                format!(
                    "the StatefulSet {name} has {replicas} replicas: say by primaryOrdinal which of {first} to {last} is restored, and becomes the primary"
                ),
            ));
        }
    };
    if !ordinals.contains(&primary) {
        return Err(State::refused(
            "NoSuchOrdinal",
            format!(
                "the StatefulSet {name} has no pod {name}-{primary}: correct primaryOrdinal to one of {first} to {last}"
            ),
        ));
    }
    let parallel = spec.and_then(|spec| spec.pod_management_policy.as_deref()) == Some("Parallel");
    if primary != first && !parallel {
        return Err(State::refused(
            "WouldWait",
            format!(
                "with podManagementPolicy OrderedReady the pod {name}-{first} comes first, and would wait for {name}-{primary} for ever: write primaryOrdinal: {first}, or make the StatefulSet with podManagementPolicy: Parallel"
            ),
        ));
    }
    let others = ordinals.filter(|ordinal| *ordinal != primary);
    Ok(std::iter::once(primary)
        .chain(others)
        .map(|ordinal| format!("{name}-{ordinal}"))
        .collect())
}

/// One at a time, the oldest first.
fn check_rivals(observed: &Observed<'_>) -> Result<(), State> {
    let own = (observed.created, &observed.key.name);
    let blocks = |rival: &&Rival| match rival.phase {
        // What was begun and is given up may be replaced; what was not is taken back.
        Phase::Ordered => !rival.going,
        Phase::Waiting => !rival.going && !rival.suspended && (rival.created, &rival.name) < own,
        Phase::Complete | Phase::Failed => false,
    };
    match observed.rivals.iter().find(blocks) {
        None => Ok(()),
        Some(rival) => Err(State::refused("AnotherRestore", another(&rival.name))),
    }
}

pub(super) fn another(rival: &str) -> String {
    format!(
        "the Restore {rival} for the same StatefulSet has not ended: wait for it or delete it, and make this one again"
    )
}

fn check_carried_out(observed: &Observed<'_>) -> Result<(), State> {
    let has_it = |member: &&Member| {
        let report = member.report();
        report.is_some_and(|said| said.postgres.last_order.as_deref() == Some(observed.order))
    };
    match observed.members.iter().find(has_it) {
        None => Ok(()),
        Some(member) => Err(State::refused(
            "CarriedOut",
            format!(
                "a Restore of this name did just this before, as the data directory of {} tells: give it another name to do it again",
                member.name
            ),
        )),
    }
}

/// What it waits for.
fn check_ready(observed: &Observed<'_>) -> Result<(), State> {
    let Some(archive) = observed
        .archive
        .filter(|archive| archive.metadata.deletion_timestamp.is_none())
    else {
        return Err(State::bad(
            "ArchiveNotFound",
            "the Archive of the StatefulSet's pods does not exist in this namespace: make it",
        ));
    };
    if !observed.rendered {
        let name = archive.name_any();
        return Err(State::passing(
            "ArchiveNotReady",
            format!(
                "the settings of the Archive {name} are not there yet: its condition Ready tells why"
            ),
        ));
    }
    if let Some(backup) = observed.backup {
        return Err(State::passing(
            "BackupRuns",
            format!("the Backup {backup} runs: the restore begins after it, or once it is deleted"),
        ));
    }
    if observed.members.is_empty() {
        return Err(State::bad(
            "NoPod",
            "the StatefulSet has no pods, although it should have: kubectl describe statefulset tells why",
        ));
    }
    if !observed.members.iter().any(|member| member.injected) {
        let names = text::some(observed.members.iter().map(|member| member.name.as_str()));
        return Err(State::bad(
            "NotInjected",
            format!(
                "no sidecar runs in {names}: delete the pod once, so that it comes back with one"
            ),
        ));
    }
    Ok(())
}

fn check_wipe(observed: &Observed<'_>, name: &str) -> Result<(), State> {
    match observed.pod {
        None => Err(State::unknown(
            "PodUnknown",
            "no pod of the StatefulSet could be read, to see whether it clones an empty data directory",
        )),
        Some(pod) if clones(pod) => Ok(()),
        Some(_) => Err(State::refused(
            "NobodyClones",
            format!(
                "otherReplicas: Wipe would leave empty data directories: no init container of {name} after holdfast-bootstrap has the image of Postgres and mounts its data volume, so nobody would clone them; add one, or scale to 1"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::order::tests::restore;
    use super::super::wipe::tests::{cloning, pod};
    use super::*;
    use crate::archive::Said;
    use crate::conditions::find;
    use holdfast_protocol::control::InstanceReport;
    use holdfast_protocol::status::RestoreStatus;
    use serde_json::{Value, json};
    use std::sync::Arc;

    /// All that is observed, before what a case changes.
    struct World {
        spec: Value,
        set: Value,
        archive: Option<Value>,
        rendered: bool,
        report: Option<Value>,
        injected: bool,
        later: Value,
        rivals: Vec<Rival>,
        backup: Option<&'static str>,
    }

    fn world() -> World {
        World {
            spec: json!({}),
            set: json!({
                "metadata": {"name": "orders-db"},
                "spec": {"selector": {}, "serviceName": "s", "template": {
                    "metadata": {"labels": {"holdfast.dev/archive": "orders"}},
                    "spec": {"containers": [{"name": "postgres", "image": "postgres:17"}]}}},
            }),
            archive: Some(
                json!({"metadata": {"name": "orders"}, "spec": {"repositories": [{"name": "s3"}]}}),
            ),
            rendered: true,
            report: Some(json!({})),
            injected: true,
            later: cloning(),
            rivals: vec![],
            backup: None,
        }
    }

    impl World {
        fn set(mut self, changes: Value) -> Self {
            json_patch::merge(&mut self.set, &changes);
            self
        }

        fn check(&self) -> Result<Vec<String>, State> {
            let restore = restore(json!({ "spec": self.spec }));
            let set: Option<StatefulSet> = serde_json::from_value(self.set.clone()).unwrap();
            let archive = self.archive.clone().map(|mut archive| {
                archive["apiVersion"] = "holdfast.dev/v1alpha1".into();
                archive["kind"] = "Archive".into();
                serde_json::from_value::<Archive>(archive).unwrap()
            });
            let init = match self.injected {
                true => json!([{"name": "holdfast"}]),
                false => json!([]),
            };
            let member: Pod = serde_json::from_value(json!({
                "metadata": {"namespace": "shop", "name": "orders-db-0", "uid": "u0", "labels": {"holdfast.dev/archive": "orders"}},
                "spec": {"containers": [{"name": "postgres"}], "initContainers": init},
            }))
            .unwrap();
            let said = |_: &str| match &self.report {
                Some(report) => {
                    let report: InstanceReport = serde_json::from_value(report.clone()).unwrap();
                    Said::Report(Arc::new(report))
                }
                None => Said::Nothing,
            };
            let members: Vec<Member> = Member::of(&member, said).into_iter().collect();
            check(&Observed {
                key: &Key::new("shop", "back"),
                spec: &restore.spec,
                in_place: restore.spec.destination.stateful_set.as_ref().unwrap(),
                created: Timestamp::from_second(5).unwrap(),
                order: "o1",
                stateful_set: set.as_ref(),
                archive: archive.as_ref(),
                rendered: self.rendered,
                members: if self.report.is_some() { &members } else { &[] },
                pod: Some(&pod(self.later.clone())),
                rivals: &self.rivals,
                backup: self.backup,
            })
        }
    }

    fn in_place(changes: Value) -> Value {
        json!({"destination": {"statefulSet": changes}})
    }

    #[test]
    fn what_can_be_carried_out_names_its_pods() {
        let wipe = || World {
            spec: in_place(json!({"otherReplicas": "Wipe", "primaryOrdinal": 1})),
            ..world()
        };
        let parallel = json!({"spec": {"replicas": 3, "podManagementPolicy": "Parallel"}});
        let own = json!({"archiveRef": null, "repositoryRef": {"name": "s3"}, "namespace": "shop", "archive": "orders"});
        for (world, expected) in [
            (world(), vec!["orders-db-0"]),
            (
                world().set(json!({"spec": {"ordinals": {"start": 4}}})),
                vec!["orders-db-4"],
            ),
            (
                World {
                    spec: json!({ "source": own }),
                    ..world()
                },
                vec!["orders-db-0"],
            ),
            (
                wipe().set(parallel),
                vec!["orders-db-1", "orders-db-0", "orders-db-2"],
            ),
            (
                wipe().set(json!({"spec": {"replicas": 2, "ordinals": {"start": 1}}})),
                vec!["orders-db-1", "orders-db-2"],
            ),
        ] {
            assert_eq!(world.check().unwrap(), expected);
        }
    }

    #[test]
    fn each_refusal_says_what_helps() {
        let two = || world().set(json!({"spec": {"replicas": 2}}));
        let with = |spec: Value, world: World| World { spec, ..world };
        let wipe = |more: Value| {
            let mut wipe = json!({"otherReplicas": "Wipe", "primaryOrdinal": 0});
            json_patch::merge(&mut wipe, &more);
            in_place(wipe)
        };
        let source = |repository: &str, namespace: &str, archive: &str| json!({"source": {"archiveRef": null, "repositoryRef": {"name": repository}, "namespace": namespace, "archive": archive}});
        let rival = |second, phase| Rival {
            name: "first".into(),
            created: Timestamp::from_second(second).unwrap(),
            phase,
            suspended: false,
            going: false,
        };
        let rivals = |rivals| World { rivals, ..world() };
        let labels = |labels: Value| {
            world().set(json!({"spec": {"template": {"metadata": {"labels": labels}}}}))
        };
        let cases = [
            (World { set: Value::Null, ..world() }, "StatefulSetNotFound", "spec.destination.statefulSet.name"),
            (world().set(json!({"metadata": {"deletionTimestamp": "2026-11-20T00:00:00Z"}})), "StatefulSetNotFound", "does not exist"),
            (labels(json!({"holdfast.dev/archive": null})), "NotArchived", "holdfast.dev/archive"),
            (labels(json!({"holdfast.dev/archive": "other"})), "OtherArchive", "bootstrap.recovery"),
            (with(source("s3", "shop", "old"), world()), "OtherArchive", "the source is shop/old"),
            (with(source("s3", "other", "orders"), world()), "OtherArchive", "the source is other/orders"),
            (with(source("offsite", "shop", "orders"), world()), "OtherArchive", "the Repository offsite"),
            (labels(json!({"application": "spilo"})), "OtherOperator", "into a claim"),
            (labels(json!({"application": "spilo", "holdfast.dev/archive": null})), "OtherOperator", "the means of Zalando's postgres-operator"),
            (world().set(json!({"metadata": {"ownerReferences": [{"apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "name": "a", "uid": "u"}]}})), "OtherOperator", "CloudNativePG"),
            (world().set(json!({"spec": {"template": {"spec": {"containers": [{"name": "db", "image": "patroni:4"}]}}}})), "OtherOperator", "Patroni"),
            (world().set(json!({"spec": {"replicas": 0}})), "NoReplicas", "scale it up"),
            (world().set(json!({"spec": {"replicas": 101}})), "TooManyReplicas", "takes 100"),
            (two(), "SeveralReplicas", "otherReplicas: Wipe, which empties their data directories"),
            (with(wipe(json!({"primaryOrdinal": null})), two()), "NoPrimaryOrdinal", "which of 0 to 1"),
            (with(wipe(json!({"primaryOrdinal": 2})), two()), "NoSuchOrdinal", "correct primaryOrdinal to one of 0 to 1"),
            (with(in_place(json!({"primaryOrdinal": 1})), world()), "NoSuchOrdinal", "no pod orders-db-1"),
            (with(wipe(json!({"primaryOrdinal": 1})), two()), "WouldWait", "podManagementPolicy: Parallel"),
            (World { later: json!({"name": "clone", "image": "busybox"}), ..with(wipe(json!({})), two()) }, "NobodyClones", "nobody would clone"),
            (rivals(vec![rival(1, Phase::Waiting)]), "AnotherRestore", "the Restore first"),
            (rivals(vec![rival(9, Phase::Ordered)]), "AnotherRestore", "the Restore first"),
            (World { report: Some(json!({"postgres": {"lastOrder": "o1"}})), ..world() }, "CarriedOut", "another name"),
        ];
        for (world, reason, words) in cases {
            let state = world.check().unwrap_err();
            let State::Refused {
                reason: given,
                message,
            } = &state
            else {
                panic!("{reason}: {state:?}");
            };
            assert_eq!(*given, reason, "{message}");
            assert!(message.contains(words), "{message}");
            let mut status = RestoreStatus::default();
            super::super::report::settle_into(&mut status, &state, None, Timestamp::UNIX_EPOCH);
            assert!(find(&status.conditions, "Failed").is_some());
        }
        for rivals in [
            vec![rival(9, Phase::Waiting)],
            vec![rival(1, Phase::Complete), rival(1, Phase::Failed)],
            vec![Rival {
                suspended: true,
                ..rival(1, Phase::Waiting)
            }],
            vec![Rival {
                going: true,
                ..rival(1, Phase::Waiting)
            }],
            vec![Rival {
                going: true,
                ..rival(1, Phase::Ordered)
            }],
        ] {
            let world = World { rivals, ..world() };
            assert!(world.check().is_ok(), "{:?}", world.rivals);
        }
    }

    #[test]
    fn what_passes_or_can_be_mended_is_waited_for() {
        let deleted = json!({"metadata": {"name": "orders", "deletionTimestamp": "2026-11-20T00:00:00Z"}, "spec": {"repositories": [{"name": "s3"}]}});
        for (world, expected) in [
            (
                World {
                    archive: None,
                    ..world()
                },
                "ArchiveNotFound",
            ),
            (
                World {
                    archive: Some(deleted),
                    ..world()
                },
                "ArchiveNotFound",
            ),
            (
                World {
                    rendered: false,
                    ..world()
                },
                "ArchiveNotReady",
            ),
            (
                World {
                    backup: Some("nightly"),
                    ..world()
                },
                "BackupRuns",
            ),
            (
                World {
                    report: None,
                    ..world()
                },
                "NoPod",
            ),
            (
                World {
                    injected: false,
                    ..world()
                },
                "NotInjected",
            ),
        ] {
            let state = world.check().unwrap_err();
            let is_it = matches!(&state, State::Waiting { reason, .. } if *reason == expected);
            assert!(is_it, "{expected}: {state:?}");
        }
    }
}
