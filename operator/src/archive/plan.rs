//! From what was observed of an archive to its conditions. Pure.

use super::identity::Identity;
use super::member::Member;
use super::reports::Said;
use super::stored::{Known, Stored, UNUSABLE};
use super::validate::Fault;
use crate::conditions::{Finding, Tone, find};
use crate::repository::lines;
use crate::text;
use holdfast_crds::Repository;
use holdfast_protocol::control::{BestEffortReport, BootstrapState, InstanceReport, Role};
use holdfast_protocol::status::{Condition, ConditionStatus};
use holdfast_repository::owner::Ownership;

/// The conditions' types.
pub const READY: &str = "Ready";
/// WAL gets stored.
pub const ARCHIVING: &str = "Archiving";
/// What is committed is stored within about a second.
pub const STREAMING: &str = "Streaming";
/// A complete backup and its WAL are stored.
pub const RECOVERABLE: &str = "Recoverable";
/// Labelled pods have sidecars.
pub const INJECTED: &str = "Injected";
/// Every instance has the present settings.
pub const CONFIGURATION_APPLIED: &str = "ConfigurationApplied";
/// This installation may expire.
pub const OWNER: &str = "Owner";

/// A best-effort repository is told to be behind once it is for so long: in ordinary work it gets a file within seconds, and what
/// is told must not turn with each of them.
const BEHIND_SECONDS: u64 = 60;
/// And it is told to be so until it has come this close again, for the same reason.
const CAUGHT_UP_SECONDS: u64 = 10;
/// The reason that is told then.
const BEST_EFFORT_BEHIND: &str = "BestEffortBehind";

/// What became of the Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rendering {
    /// It stands, with settings of this generation.
    Stands(i64),
    /// Something is missing: it was left as it was.
    Faulty(Vec<Fault>),
    /// It could not be made or written, and why.
    Failed(&'static str, String),
}

/// All that conditions follow from.
pub struct Observed<'a> {
    /// The Archive's namespace and name.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The Repositories that are there.
    pub repositories: &'a [&'a Repository],
    /// The labelled pods.
    pub members: &'a [Member],
    /// The Secret.
    pub rendering: &'a Rendering,
    /// What is stored.
    pub stored: &'a Known,
    /// Whose databases the pods have.
    pub identity: &'a Identity,
    /// The conditions as they stand: kept where nothing new could be found out.
    pub before: &'a [Condition],
}

impl Observed<'_> {
    /// All conditions, the summary first.
    pub fn findings(&self) -> Vec<Finding> {
        let parts = vec![
            self.archiving(),
            self.streaming(),
            self.recoverable(),
            self.injected(),
            self.configuration(),
            self.identity.finding(self.name),
            self.owner(),
        ];
        let ready = self.ready(&parts);
        std::iter::once(ready).chain(parts).collect()
    }

    fn counting(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.counts())
    }

    fn injected(&self) -> Finding {
        let Self {
            namespace, name, ..
        } = self;
        let present: Vec<&Member> = self.counting().filter(|member| !member.leaving).collect();
        let without: Vec<&Member> = present.iter().filter(|m| !m.injected).copied().collect();
        if present.is_empty() {
            return Finding::unknown(
                INJECTED,
                "NoPods",
                format!(
                    "no pod carries the label: add holdfast.dev/archive: {name} to the labels of the pod template"
                ),
            );
        }
        if without.is_empty() {
            return Finding::good(INJECTED, "Injected", "every labelled pod has its sidecar");
        }
        let pods = text::some(without.iter().map(|member| member.name.as_str()));
        let how = match without.iter().find_map(|member| member.controller.as_ref()) {
            Some((kind, owner)) if matches!(kind.as_str(), "StatefulSet" | "Deployment") => {
                format!(
                    "kubectl -n {namespace} rollout restart {}/{owner}",
                    kind.to_lowercase()
                )
            }
            _ => format!("kubectl -n {namespace} delete pod {}", without[0].name),
        };
        Finding::bad(
            INJECTED,
            "NotInjected",
            format!(
                "the label came after these pods were made, or the webhook was not there: {pods}; have them made again: {how}"
            ),
        )
    }

    fn configuration(&self) -> Finding {
        let generation = match self.rendering {
            Rendering::Faulty(faults) => {
                let reason = faults.first().map_or("Invalid", Fault::reason);
                return Finding::bad(CONFIGURATION_APPLIED, reason, lines(faults));
            }
            Rendering::Failed(reason, why) => {
                return Finding::bad(CONFIGURATION_APPLIED, reason, why.clone());
            }
            Rendering::Stands(generation) => *generation,
        };
        let reports = || {
            self.counting()
                .filter_map(|member| Some((member, member.report()?)))
        };
        if let Some((member, why)) = reports()
            .find_map(|(member, report)| Some((member, report.configuration_error.as_ref()?)))
        {
            let message = format!(
                "{} can't use the settings and goes on with the ones before: {}",
                member.name,
                text::line(why)
            );
            return Finding::bad(CONFIGURATION_APPLIED, "Refused", message);
        }
        let behind = text::some(
            reports()
                .filter(|(_, report)| report.configuration_generation.unwrap_or(0) < generation)
                .map(|(member, _)| member.name.as_str()),
        );
        if !behind.is_empty() {
            let message =
                format!("{behind}: older settings are in use; new ones arrive within two minutes");
            return Finding::pending(CONFIGURATION_APPLIED, "Spreading", message);
        }
        let untold = text::some(
            self.counting()
                .filter(|member| member.injected && member.report().is_none())
                .map(|member| member.name.as_str()),
        );
        if !untold.is_empty() {
            let message = format!("{untold}: which settings are in use is not known");
            return Finding::unknown(CONFIGURATION_APPLIED, "NotKnown", message);
        }
        Finding::good(
            CONFIGURATION_APPLIED,
            "Applied",
            "every instance has the present settings",
        )
    }

    fn archiving(&self) -> Finding {
        let injected: Vec<&Member> = self.counting().filter(|m| m.injected).collect();
        if injected.is_empty() {
            return Finding::unknown(
                ARCHIVING,
                "NoInstances",
                "no pod has a sidecar: see Injected",
            );
        }
        let primary = injected.iter().find(|m| m.role() == Some(Role::Primary));
        let Some((member, report)) = primary.and_then(|member| Some((member, member.report()?)))
        else {
            return restoring(&injected).unwrap_or_else(|| no_primary(&injected));
        };
        let name = &member.name;
        if let Some(why) = &report.postgres.archiving_off {
            let message = format!("on {name}: {}", text::line(why));
            return Finding::bad(ARCHIVING, "ArchivingOff", message);
        }
        let full_within = report.wal.volume.and_then(|volume| volume.full_within());
        let last = report.wal.last_archived.as_ref();
        let failure = report.wal.last_failure.as_ref();
        if let Some(failure) =
            failure.filter(|failure| last.is_none_or(|last| last.time < failure.time))
        {
            let mut message = format!(
                "{name} can't store {}: {}; Postgres keeps it and hands it over again",
                text::line(&failure.name),
                text::line(&failure.reason)
            );
            if let Some(within) = full_within {
                message += &format!(
                    "; if it goes on so, the volume of its pg_wal is full within {within}"
                );
            }
            return Finding::bad(ARCHIVING, "ArchivingFails", message);
        }
        if let Some(why) = &report.postgres.unreachable {
            let message = format!("the server in {name} can't be asked: {}", text::line(why));
            return Finding::unknown(ARCHIVING, "ServerUnreachable", message);
        }
        if let Some(waiting) = member.untried() {
            // What was wrong before the sidecar's start is no better for that.
            return Finding::as_before(ARCHIVING, self.before)
                .filter(|before| before.status == ConditionStatus::False)
                .unwrap_or_else(|| {
                    let message = format!(
                        "the sidecar of {name} has started, and has not tried yet to store what waits: {waiting} files"
                    );
                    Finding::unknown(ARCHIVING, "Starting", message)
                });
        }
        if let Some(within) = full_within {
            let message = format!(
                "{name} writes WAL faster than it is stored: if it goes on so, the volume of its pg_wal is full within {within}"
            );
            return Finding::bad(ARCHIVING, "FallingBehind", message);
        }
        let behind = self.best_effort_behind(report);
        if !behind.is_empty() {
            let message = format!(
                "what the primary {name} writes is stored as it is written; {}",
                behind.join("; ")
            );
            return Finding::failed(ARCHIVING, BEST_EFFORT_BEHIND, message);
        }
        let message = format!("{name} is the primary, and its WAL is stored as it is written");
        Finding::good(ARCHIVING, "Archiving", message)
    }

    /// What best-effort repositories lack, without figures.
    fn best_effort_behind(&self, report: &InstanceReport) -> Vec<String> {
        let told = find(self.before, ARCHIVING).is_some_and(|c| c.reason == BEST_EFFORT_BEHIND);
        let least = if told {
            CAUGHT_UP_SECONDS
        } else {
            BEHIND_SECONDS
        };
        let all = report.wal.best_effort.iter();
        all.filter(|repository| repository.behind_seconds >= Some(least))
            .map(|BestEffortReport { name, trouble, .. }| {
                let why = trouble.as_deref().map(text::line);
                let why = why.map_or(String::new(), |why| format!(": {why}"));
                let name = text::line(name);
                format!("the best-effort repository {name} lacks some of it{why}")
            })
            .collect()
    }

    fn streaming(&self) -> Finding {
        let mut primaries = self.counting().filter(|m| m.role() == Some(Role::Primary));
        let primary = primaries.find_map(|member| Some((&member.name, member.report()?)));
        let Some((name, report)) = primary else {
            return Finding::unknown(
                STREAMING,
                "NoPrimary",
                "no server is known to be the primary",
            );
        };
        let Some(streaming) = &report.wal.streaming else {
            let message = format!(
                "{name} does not stream: it has just started, or spec.wal.streaming.intervalSeconds is 0"
            );
            return Finding::pending(STREAMING, "NotStreaming", message);
        };
        if let Some(why) = &streaming.trouble {
            let message = format!(
                "what is committed on {name} is not stored at once: {}",
                text::line(why)
            );
            return Finding::bad(STREAMING, "StreamingFails", message);
        }
        let message = format!("what is committed on {name} is stored within about a second");
        Finding::good(STREAMING, "Streaming", message)
    }

    fn recoverable(&self) -> Finding {
        let stored = match self.stored {
            Known::NotYet => {
                return Finding::as_before(RECOVERABLE, self.before).unwrap_or_else(|| {
                    Finding::unknown(RECOVERABLE, "NotRead", "the repository is being read")
                });
            }
            Known::Trouble { reason, why, .. } if *reason == UNUSABLE => {
                return Finding::bad(RECOVERABLE, UNUSABLE, why.clone());
            }
            Known::Trouble { reason, why, .. } => {
                return Finding::unknown(RECOVERABLE, reason, why.clone());
            }
            Known::Read(stored) => stored,
        };
        let Some(newest) = &stored.newest else {
            return Finding::pending(RECOVERABLE, "NothingStored", "nothing is stored yet");
        };
        if let Some(damage) = &newest.damage {
            return Finding::bad(RECOVERABLE, "Damaged", damage.clone());
        }
        match (&newest.window, newest.hole) {
            (None, _) => Finding::pending(
                RECOVERABLE,
                "NoCompleteBackup",
                "there is no complete backup: make a Backup or a ScheduledBackup",
            ),
            (Some(_), Some(missing)) => Finding::bad(
                RECOVERABLE,
                "Gap",
                format!(
                    "the WAL segment {missing} is missing: what was archived after it can't be recovered; make a Backup"
                ),
            ),
            (Some(window), None) => Finding::good(
                RECOVERABLE,
                "Recoverable",
                format!(
                    "the database can be recovered, along timeline {}",
                    window.timeline
                ),
            ),
        }
    }

    fn owner(&self) -> Finding {
        let Self {
            namespace, name, ..
        } = self;
        let stored: &Stored = match self.stored {
            Known::Read(stored) => stored,
            Known::NotYet | Known::Trouble { .. } => {
                return Finding::as_before(OWNER, self.before).unwrap_or_else(|| {
                    Finding::unknown(OWNER, "NotRead", "the repository could not be read yet")
                });
            }
        };
        match &stored.ownership {
            Ok(Ownership::Ours) => Finding::good(
                OWNER,
                "Ours",
                "this installation expires what retention does not keep",
            ),
            Ok(Ownership::None) => Finding::unknown(
                OWNER,
                "Nobody",
                "nobody has claimed what is stored: this installation does before it expires anything",
            ),
            Ok(Ownership::Other { id, since }) => Finding::bad(
                OWNER,
                "OtherInstallation",
                format!(
                    "another installation, {id}, owns what is stored, since {since:.0}: nothing expires here; if that one is gone or must not expire any more, say so: kubectl -n {namespace} patch archive {name} --type merge -p '{{\"spec\":{{\"takeOver\":\"{id}\"}}}}'"
                ),
            ),
            Err(why) => Finding::unknown(OWNER, "NotKnown", why.clone()),
        }
    }

    fn ready(&self, parts: &[Finding]) -> Finding {
        let bad_repository = self.repositories.iter().find_map(|repository| {
            let status = repository.status.as_ref()?;
            let ready = find(&status.conditions, READY)?;
            let name = repository.metadata.name.as_deref().unwrap_or_default();
            (ready.status == ConditionStatus::False).then_some((name, ready))
        });
        // WAL is archived without it.
        let parts: Vec<&Finding> = parts.iter().filter(|part| part.kind != STREAMING).collect();
        let fails =
            |part: &&&Finding| part.tone == Tone::Bad && part.status != ConditionStatus::True;
        if let Some(part) = parts.iter().find(fails) {
            // What it says is an event already.
            return Finding {
                kind: READY,
                status: ConditionStatus::False,
                tone: Tone::Open,
                message: format!("{}: {}", part.kind, part.message),
                ..(*part).clone()
            };
        }
        if let Some((name, ready)) = bad_repository {
            let message = format!("the Repository {name}: {}", ready.message);
            return Finding::bad(READY, "RepositoryNotReady", message);
        }
        // Nobody's archive is as safe as ours. And an archive is ready for its first backup before it has one: that
        // nothing can be recovered yet stands in its own condition.
        let open = parts
            .iter()
            .filter(|part| part.kind != OWNER && part.kind != RECOVERABLE)
            .find(|part| part.status != ConditionStatus::True);
        match open {
            Some(part) => Finding {
                kind: READY,
                tone: Tone::Open,
                message: format!("{}: {}", part.kind, part.message),
                ..(*part).clone()
            },
            None => match parts.iter().find(|part| part.kind == RECOVERABLE) {
                Some(part) if part.status != ConditionStatus::True => {
                    Finding::good(READY, "Ready", format!("WAL is archived; {}", part.message))
                }
                _ => Finding::good(
                    READY,
                    "Ready",
                    "WAL is archived and the database can be recovered",
                ),
            },
        }
    }
}

/// Postgres waits for a restore.
fn restoring(injected: &[&Member]) -> Option<Finding> {
    let (name, bootstrap) = injected
        .iter()
        .find_map(|member| Some((&member.name, member.report()?.bootstrap.as_ref()?)))?;
    let why = text::line(&bootstrap.message);
    Some(match bootstrap.state {
        BootstrapState::Restoring => {
            let percent = bootstrap.progress.map_or(0, |progress| progress.percent);
            let tens = percent / 10 * 10;
            let message = format!("{name}: {why}, {tens} % and more of it are there");
            Finding::pending(ARCHIVING, "Restoring", message)
        }
        BootstrapState::Holding => {
            Finding::pending(ARCHIVING, "Restoring", format!("{name}: {why}"))
        }
        BootstrapState::Waiting => {
            Finding::bad(ARCHIVING, "RestoreWaits", format!("{name}: {why}"))
        }
        BootstrapState::Refused => {
            Finding::bad(ARCHIVING, "RestoreRefused", format!("{name}: {why}"))
        }
    })
}

/// No sidecar says that its server takes writes.
fn no_primary(injected: &[&Member]) -> Finding {
    let silent = injected.iter().find_map(|member| match &member.said {
        Said::Silent(why) => Some((member, why)),
        Said::Report(_) | Said::Nothing => None,
    });
    let unreachable = injected.iter().find_map(|member| {
        let why = member.report()?.postgres.unreachable.as_ref()?;
        Some((member, why))
    });
    if let Some((member, why)) = silent {
        let message = format!("{}: {}", member.name, text::line(why));
        Finding::unknown(ARCHIVING, "SidecarUnreachable", message)
    } else if let Some((member, why)) = unreachable {
        let message = format!(
            "the server in {} can't be asked: {}",
            member.name,
            text::line(why)
        );
        Finding::unknown(ARCHIVING, "ServerUnreachable", message)
    } else if injected.iter().any(|member| member.report().is_none()) {
        Finding::unknown(ARCHIVING, "Starting", "the pods are starting")
    } else {
        Finding::bad(
            ARCHIVING,
            "NoPrimary",
            "every server is a standby: nothing is written until one is promoted",
        )
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::member::tests::{member, reporting};
    use super::super::stored::Incarnation;
    use super::*;
    use crate::conditions::settle;
    use crate::repository::Lack;
    use holdfast_postgres::{Lsn, SystemIdentifier, TimelineId};
    use holdfast_repository::reach::Window;
    use jiff::Timestamp;
    use serde_json::{Value, json};
    use std::sync::Arc;

    pub fn window() -> Window {
        Window {
            timeline: TimelineId(1),
            earliest_lsn: Lsn(0x100),
            earliest_time: Timestamp::UNIX_EPOCH,
            latest_lsn: Lsn(0x3000000),
            latest_time: "2026-11-21T12:00:00Z".parse().unwrap(),
        }
    }

    pub fn incarnation(system: u64) -> Incarnation {
        Incarnation {
            system: SystemIdentifier(system),
            major: 17,
            timeline: Some(TimelineId(1)),
            end: Some(Lsn(0x3000000)),
            window: Some(window()),
            hole: None,
            damage: None,
            last_backup: Some(("b1".into(), Timestamp::UNIX_EPOCH)),
        }
    }

    pub fn stored(system: Option<u64>) -> Known {
        Known::Read(Arc::new(Stored {
            newest: system.map(incarnation),
            ownership: Ok(Ownership::Ours),
        }))
    }

    fn primary(changes: Value) -> Member {
        let mut report = json!({"configurationGeneration": 3, "postgres": {"role": "Primary", "systemIdentifier": "7"}});
        json_patch::merge(&mut report, &changes);
        reporting(0, report)
    }

    fn silent(why: &str) -> Member {
        Member {
            said: Said::Silent(why.into()),
            ..member(json!({}))
        }
    }

    fn conditions(members: &[Member], rendering: &Rendering, stored: &Known) -> Vec<Finding> {
        let identity = Identity::of(stored, members, "");
        Observed {
            namespace: "shop",
            name: "orders",
            repositories: &[],
            members,
            rendering,
            stored,
            identity: &identity,
            before: &[],
        }
        .findings()
    }

    fn one(kind: &str, members: &[Member], rendering: &Rendering, stored: &Known) -> Finding {
        let all = conditions(members, rendering, stored);
        all.into_iter()
            .find(|finding| finding.kind == kind)
            .unwrap()
    }

    const STANDS: Rendering = Rendering::Stands(3);

    #[test]
    fn all_is_well() {
        let streams = json!({"wal": {"streaming": {"active": true}}});
        let all = conditions(&[primary(streams)], &STANDS, &stored(Some(7)));
        let kinds: Vec<_> = all.iter().map(|finding| finding.kind).collect();
        assert_eq!(
            kinds,
            [
                READY,
                ARCHIVING,
                STREAMING,
                RECOVERABLE,
                INJECTED,
                CONFIGURATION_APPLIED,
                "IdentityAccepted",
                OWNER
            ]
        );
        for finding in all {
            assert_eq!(finding.status, ConditionStatus::True, "{finding:?}");
        }
    }

    #[test]
    fn archiving_is_what_the_primary_says() {
        let standby = || {
            reporting(
                1,
                json!({"configurationGeneration": 3, "postgres": {"role": "Standby", "systemIdentifier": "7"}}),
            )
        };
        let fails = |archived: &str| {
            json!({"wal": {
            "lastArchived": {"name": "a", "time": archived},
            "lastFailure": {"name": "000000010000000000000003", "reason": "the bucket is gone", "time": "2026-11-21T12:00:00Z"}}})
        };
        for (members, reason, words) in [
            (vec![], "NoInstances", "see Injected"),
            (
                vec![primary(json!({}))],
                "Archiving",
                "orders-0 is the primary",
            ),
            (vec![standby(), primary(json!({}))], "Archiving", "orders-0"),
            (vec![standby()], "NoPrimary", "promoted"),
            (
                vec![silent("refused")],
                "SidecarUnreachable",
                "orders-0: refused",
            ),
            (
                vec![standby(), silent("refused")],
                "SidecarUnreachable",
                "refused",
            ),
            (vec![member(json!({}))], "Starting", "starting"),
            (
                vec![primary(
                    json!({"postgres": {"archivingOff": "set archive_mode"}}),
                )],
                "ArchivingOff",
                "set archive_mode",
            ),
            (
                vec![primary(fails("2026-11-21T11:59:59Z"))],
                "ArchivingFails",
                "the bucket is gone",
            ),
            (
                vec![primary(fails("2026-11-21T12:00:01Z"))],
                "Archiving",
                "primary",
            ),
            (
                vec![primary(
                    json!({"wal": {"volume": {"availableBytes": 10, "fullInSeconds": 86_400}}}),
                )],
                "FallingBehind",
                "within a day",
            ),
            (
                vec![primary(
                    json!({"wal": {"volume": {"availableBytes": 10, "fullInSeconds": 86_401}}}),
                )],
                "Archiving",
                "primary",
            ),
            (
                vec![primary(json!({"postgres": {"unreachable": "starting up"}}))],
                "ServerUnreachable",
                "starting up",
            ),
            (
                vec![primary(json!({"wal": {"readyCount": 7}}))],
                "Starting",
                "7 files",
            ),
            (
                vec![primary(
                    json!({"postgres": {"role": null, "unreachable": "no"}}),
                )],
                "ServerUnreachable",
                "no",
            ),
        ] {
            let finding = one(ARCHIVING, &members, &STANDS, &stored(Some(7)));
            assert_eq!(finding.reason, reason, "{members:?}");
            assert!(finding.message.contains(words), "{}", finding.message);
        }
    }

    #[test]
    fn what_is_not_streamed_is_told_and_archived_all_the_same() {
        let line = "local replication keeper trust";
        let refused = json!({"wal": {"streaming": {"active": false, "trouble": line}}});
        for (members, status, reason, words) in [
            (vec![], ConditionStatus::Unknown, "NoPrimary", "no server"),
            (
                vec![primary(json!({}))],
                ConditionStatus::False,
                "NotStreaming",
                "intervalSeconds",
            ),
            (
                vec![primary(refused)],
                ConditionStatus::False,
                "StreamingFails",
                line,
            ),
        ] {
            let finding = one(STREAMING, &members, &STANDS, &stored(Some(7)));
            assert_eq!((finding.status, &*finding.reason), (status, reason));
            assert!(finding.message.contains(words), "{}", finding.message);
            if !members.is_empty() {
                let ready = one(READY, &members, &STANDS, &stored(Some(7)));
                assert_eq!(ready.status, ConditionStatus::True, "{}", ready.message);
            }
        }
    }

    /// Where a condition stood so, and the primary reports this.
    fn findings_after(before: &Finding, report: serde_json::Value) -> Vec<Finding> {
        let before = settle(&[], vec![before.clone()], None, Timestamp::UNIX_EPOCH).conditions;
        let members = [primary(report)];
        let known = stored(Some(7));
        Observed {
            namespace: "shop",
            name: "orders",
            repositories: &[],
            members: &members,
            rendering: &STANDS,
            stored: &known,
            identity: &Identity::of(&known, &members, ""),
            before: &before,
        }
        .findings()
    }

    #[test]
    fn a_sidecar_that_starts_does_not_mend_what_fails() {
        let bad = Finding::bad(ARCHIVING, "ArchivingFails", "the bucket is gone");
        let good = Finding::good(ARCHIVING, "Archiving", "it is stored");
        for (before, waiting, reason) in [
            (&bad, 7, "ArchivingFails"),
            (&good, 7, "Starting"),
            (&bad, 0, "Archiving"),
        ] {
            let findings = findings_after(before, json!({"wal": {"readyCount": waiting}}));
            let archiving = findings.iter().find(|f| f.kind == ARCHIVING).unwrap();
            assert_eq!(archiving.reason, reason, "{waiting}");
        }
    }

    #[test]
    fn a_best_effort_repository_that_stays_behind_is_named_and_nothing_is_less_ready() {
        let told = Finding::failed(ARCHIVING, BEST_EFFORT_BEHIND, "it lacks some of it");
        let usual = Finding::good(ARCHIVING, "Archiving", "it is stored");
        let fails = Finding::bad(ARCHIVING, "ArchivingFails", "the bucket is gone");
        let spare = |seconds: Option<u64>, trouble: Option<&str>| json!({"name": "spare", "waitingCount": 7, "behindSeconds": seconds, "trouble": trouble});
        let all_is_well = "orders-0 is the primary, and its WAL is stored as it is written";
        let lacks = "what the primary orders-0 writes is stored as it is written; the best-effort repository spare lacks some of it";
        for (before, best_effort, expected) in [
            (&usual, json!([spare(None, None)]), all_is_well.to_owned()),
            (
                &usual,
                json!([spare(Some(59), Some("refused"))]),
                all_is_well.to_owned(),
            ),
            (
                &fails,
                json!([spare(Some(59), None)]),
                all_is_well.to_owned(),
            ),
            // It catches up, or nobody knows what is wrong.
            (&usual, json!([spare(Some(60), None)]), lacks.to_owned()),
            (
                &usual,
                json!([spare(Some(9999), Some("no\nbucket"))]),
                format!("{lacks}: no bucket"),
            ),
            (
                &usual,
                json!([{"name": "near"}, spare(Some(60), Some("refused")), {"name": "far", "behindSeconds": 60}]),
                format!("{lacks}: refused; the best-effort repository far lacks some of it"),
            ),
            // It has nearly caught up.
            (&told, json!([spare(Some(10), None)]), lacks.to_owned()),
            (
                &told,
                json!([spare(Some(9), Some("refused"))]),
                all_is_well.to_owned(),
            ),
            (&told, json!([spare(None, None)]), all_is_well.to_owned()),
        ] {
            let report = json!({"wal": {"bestEffort": best_effort, "streaming": {"active": true}}});
            let findings = findings_after(before, report);
            let of = |kind| findings.iter().find(|f| f.kind == kind).unwrap();
            let archiving = of(ARCHIVING);
            assert_eq!(archiving.message, expected, "{best_effort}");
            let is_behind = archiving.reason == BEST_EFFORT_BEHIND;
            assert_eq!(is_behind, expected != all_is_well);
            // People should look, and nothing waits for it.
            assert_eq!(archiving.tone == Tone::Bad, is_behind);
            for found in [archiving, of(READY)] {
                assert_eq!(found.status, ConditionStatus::True, "{found:?}");
            }
        }
    }

    #[test]
    fn pods_without_a_sidecar_are_named_with_what_to_do() {
        let without = || json!({"spec": {"initContainers": null}});
        let lonely =
            || json!({"spec": {"initContainers": null}, "metadata": {"ownerReferences": null}});
        for (members, reason, words) in [
            (vec![], "NoPods", "holdfast.dev/archive: orders"),
            (vec![member(json!({}))], "Injected", "every"),
            (
                vec![member(without())],
                "NotInjected",
                "kubectl -n shop rollout restart statefulset/orders",
            ),
            (
                vec![member(lonely())],
                "NotInjected",
                "kubectl -n shop delete pod orders-0",
            ),
            (
                vec![member(
                    json!({"spec": {"initContainers": null}, "status": {"phase": "Succeeded"}}),
                )],
                "NoPods",
                "label",
            ),
            (
                vec![member(
                    json!({"spec": {"initContainers": null}, "metadata": {"annotations": {"holdfast.dev/inject": "false"}}}),
                )],
                "NoPods",
                "label",
            ),
            (
                vec![member(
                    json!({"spec": {"initContainers": null}, "metadata": {"deletionTimestamp": "2026-11-21T12:00:00Z"}}),
                )],
                "NoPods",
                "label",
            ),
        ] {
            let finding = one(INJECTED, &members, &STANDS, &stored(Some(7)));
            assert_eq!(finding.reason, reason, "{members:?}");
            assert!(finding.message.contains(words), "{}", finding.message);
        }
    }

    #[test]
    fn a_restore_that_postgres_waits_for_is_told() {
        let waits = |bootstrap: serde_json::Value| {
            vec![reporting(
                0,
                json!({"bootstrap": bootstrap, "postgres": {"unreachable": "no server"}}),
            )]
        };
        let half = json!({"bytesDone": 57, "bytesTotal": 100, "percent": 57});
        for (bootstrap, status, reason, words) in [
            (
                json!({"state": "Restoring", "message": "it is restored", "progress": half}),
                ConditionStatus::False,
                "Restoring",
                "orders-0: it is restored, 50 % and more",
            ),
            (
                json!({"state": "Waiting", "message": "no route"}),
                ConditionStatus::False,
                "RestoreWaits",
                "orders-0: no route",
            ),
            (
                json!({"state": "Refused", "message": "no such time"}),
                ConditionStatus::False,
                "RestoreRefused",
                "orders-0: no such time",
            ),
        ] {
            let members = waits(bootstrap);
            let finding = one(ARCHIVING, &members, &STANDS, &stored(None));
            assert_eq!((finding.status, &*finding.reason), (status, reason));
            assert!(finding.message.contains(words), "{}", finding.message);
            let ready = one(READY, &members, &STANDS, &stored(None));
            assert!(ready.message.contains(words), "{}", ready.message);
        }
    }

    #[test]
    fn settings_are_applied_when_every_instance_says_so() {
        let fault = Fault::Repository {
            repository: "s3".into(),
            lack: Lack::Secret {
                name: "writer".into(),
                what: "w",
            },
        };
        let faulty = Rendering::Faulty(vec![Fault::NoRepository("x".into()), fault]);
        let failed = Rendering::Failed("SecretTaken", "it is another's".into());
        for (members, rendering, reason, words) in [
            (vec![], &STANDS, "Applied", "every"),
            (vec![primary(json!({}))], &STANDS, "Applied", "every"),
            (
                vec![primary(json!({"configurationGeneration": 2}))],
                &STANDS,
                "Spreading",
                "orders-0",
            ),
            (
                vec![primary(json!({"configurationGeneration": null}))],
                &STANDS,
                "Spreading",
                "orders-0",
            ),
            (
                vec![primary(json!({"configurationError": "line 3"}))],
                &STANDS,
                "Refused",
                "line 3",
            ),
            (vec![silent("gone")], &STANDS, "NotKnown", "orders-0"),
            (
                vec![primary(json!({}))],
                &faulty,
                "RepositoryNotFound",
                "the Secret writer is missing",
            ),
            (
                vec![primary(json!({}))],
                &failed,
                "SecretTaken",
                "another's",
            ),
        ] {
            let finding = one(CONFIGURATION_APPLIED, &members, rendering, &stored(Some(7)));
            assert_eq!(finding.reason, reason, "{members:?}");
            assert!(finding.message.contains(words), "{}", finding.message);
        }
    }

    #[test]
    fn recoverable_is_what_the_repository_proves() {
        let with = |change: fn(&mut Incarnation)| {
            let mut newest = incarnation(7);
            change(&mut newest);
            Known::Read(Arc::new(Stored {
                newest: Some(newest),
                ownership: Ok(Ownership::None),
            }))
        };
        let trouble = |reason, why: &str| Known::Trouble {
            reason,
            why: why.into(),
            last: None,
        };
        for (known, status, reason, words) in [
            (Known::NotYet, ConditionStatus::Unknown, "NotRead", "read"),
            (
                trouble("StoreUnreachable", "no route"),
                ConditionStatus::Unknown,
                "StoreUnreachable",
                "no route",
            ),
            (
                trouble(UNUSABLE, "another key"),
                ConditionStatus::False,
                UNUSABLE,
                "another key",
            ),
            (
                stored(None),
                ConditionStatus::False,
                "NothingStored",
                "nothing",
            ),
            (
                stored(Some(7)),
                ConditionStatus::True,
                "Recoverable",
                "timeline 1",
            ),
            (
                with(|n| n.window = None),
                ConditionStatus::False,
                "NoCompleteBackup",
                "Backup",
            ),
            (
                with(|n| n.hole = "000000010000000000000003".parse().ok()),
                ConditionStatus::False,
                "Gap",
                "000000010000000000000003",
            ),
            (
                with(|n| n.damage = Some("bad index".into())),
                ConditionStatus::False,
                "Damaged",
                "bad index",
            ),
        ] {
            let finding = one(RECOVERABLE, &[primary(json!({}))], &STANDS, &known);
            assert_eq!((finding.status, finding.reason.as_ref()), (status, reason));
            assert!(finding.message.contains(words), "{}", finding.message);
        }
    }

    #[test]
    fn what_is_not_known_yet_stays_as_it_was() {
        let good = Finding::good(RECOVERABLE, "Recoverable", "along timeline 4");
        let before = settle(&[], vec![good], None, Timestamp::UNIX_EPOCH).conditions;
        let identity = Identity::of(&Known::NotYet, &[], "");
        let findings = Observed {
            namespace: "shop",
            name: "orders",
            repositories: &[],
            members: &[],
            rendering: &STANDS,
            stored: &Known::NotYet,
            identity: &identity,
            before: &before,
        }
        .findings();
        let kept = findings.iter().find(|f| f.kind == RECOVERABLE).unwrap();
        assert_eq!(
            (kept.status, kept.message.as_str()),
            (ConditionStatus::True, "along timeline 4")
        );
    }

    #[test]
    fn another_owner_is_named_with_the_line_that_takes_over() {
        let id: holdfast_repository::owner::InstallationId = "other.1".parse().unwrap();
        let ours = "ours.2".parse().unwrap();
        let owner = holdfast_repository::owner::Owner {
            epoch: 3,
            installation: id,
            since: "2026-11-21T12:00:00.5Z".parse().unwrap(),
            version: "1".into(),
        };
        for (ownership, reason, words) in [
            (Ok(Ownership::Ours), "Ours", "this"),
            (Ok(Ownership::None), "Nobody", "claim"),
            (
                Ok(holdfast_repository::owner::ownership(Some(&owner), &ours)),
                "OtherInstallation",
                r#"kubectl -n shop patch archive orders --type merge -p '{"spec":{"takeOver":"other.1.3"}}'"#,
            ),
            (Err("damaged".to_owned()), "NotKnown", "damaged"),
        ] {
            let known = Known::Read(Arc::new(Stored {
                newest: None,
                ownership,
            }));
            let finding = one(OWNER, &[], &STANDS, &known);
            assert_eq!(finding.reason, reason);
            assert!(finding.message.contains(words), "{}", finding.message);
        }
    }

    #[test]
    fn the_summary_names_the_first_thing_to_mend() {
        let repository = |status: &str| -> Repository {
            serde_json::from_value(json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "Repository", "metadata": {"name": "s3"},
                "spec": {"s3": {"bucket": "b"}}, "status": {"conditions": [
                    {"type": "Ready", "status": status, "reason": "BucketNotFound", "message": "make it", "lastTransitionTime": "2026-11-21T12:00:00Z"}]}}))
            .unwrap()
        };
        let (good, bad) = (repository("True"), repository("False"));
        let off = || primary(json!({"postgres": {"archivingOff": "set it"}}));
        for (members, repositories, known, status, reason, words) in [
            (
                vec![primary(json!({}))],
                vec![&good],
                stored(Some(7)),
                ConditionStatus::True,
                "Ready",
                "recovered",
            ),
            (
                vec![primary(json!({}))],
                vec![&bad],
                stored(Some(7)),
                ConditionStatus::False,
                "RepositoryNotReady",
                "s3: make it",
            ),
            (
                vec![off()],
                vec![&bad],
                stored(Some(7)),
                ConditionStatus::False,
                "ArchivingOff",
                "Archiving: on orders-0",
            ),
            (
                vec![primary(json!({}))],
                vec![],
                stored(None),
                ConditionStatus::True,
                "Ready",
                "WAL is archived; nothing is stored yet",
            ),
            (
                vec![],
                vec![],
                stored(Some(7)),
                ConditionStatus::Unknown,
                "NoInstances",
                "Archiving: ",
            ),
        ] {
            let identity = Identity::of(&known, &members, "");
            let findings = Observed {
                namespace: "shop",
                name: "orders",
                repositories: &repositories,
                members: &members,
                rendering: &STANDS,
                stored: &known,
                identity: &identity,
                before: &[],
            }
            .findings();
            assert_eq!(
                (findings[0].status, findings[0].reason.as_ref()),
                (status, reason)
            );
            assert!(
                findings[0].message.contains(words),
                "{}",
                findings[0].message
            );
        }
    }
}
