//! Whether the target can be reached, known before anything is touched. Whether there is space on the volume is for
//! the pod to tell: nobody else sees it.

use super::report::State;
use super::{Look, Restores};
use crate::names::Key;
use crate::repository::{Access, OpenFailure, open_archive_of};
use crate::text;
use holdfast_crds::{RecoveryTarget, RestoreAction};
use holdfast_postgres::SystemIdentifier;
use holdfast_protocol::status::RestorePlan;
use holdfast_repository::catalogue::{Catalogue, CatalogueError};
use holdfast_repository::expiry;
use holdfast_repository::facts::BackupFacts;
use holdfast_repository::reach::text::{parse_name, parse_time, parse_timeline, parse_xid};
use holdfast_repository::reach::{self, Plan, Request, Target, TimelineChoice};
use holdfast_repository::retention::Doomed;
use holdfast_repository::wal::WalStore;
use holdfast_repository::{Archive, OpenError};
use std::time::Duration;

/// For one archive: that of years has many pages of listings.
const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// For a look that everything waits for.
const AT_ONCE: Duration = Duration::from_secs(3);

/// What will be done.
pub struct Planned {
    /// For the status.
    pub plan: RestorePlan,
    /// Whose database it is.
    pub system: SystemIdentifier,
    /// What it begins with.
    pub backup: BackupFacts,
}

/// What is asked for. The resource's rules let nothing in that has no meaning, but perhaps another version's do.
fn request(target: &RecoveryTarget) -> Result<Request, String> {
    let RecoveryTarget {
        time,
        lsn,
        xid,
        name,
        immediate,
        latest,
        exclusive,
        timeline,
        backup,
    } = target;
    let given = [
        time.as_deref()
            .map(|text| parse_time(text).map(Target::Time)),
        lsn.as_deref().map(|text| {
            let lsn = text.parse().map(Target::Lsn);
            lsn.map_err(|_| format!("{text} is no LSN: write it as 16/B374D848"))
        }),
        xid.map(|xid| parse_xid(&xid.to_string()).map(Target::Xid)),
        name.as_deref()
            .map(|text| parse_name(text).map(Target::Name)),
        immediate.map(|_| Ok(Target::Immediate)),
        latest.map(|_| Ok(Target::Latest)),
    ];
    let mut given = given.into_iter().flatten();
    let (Some(target), None) = (given.next(), given.next()) else {
        return Err(
            "a target is exactly one of time, lsn, xid, name, immediate: {} and latest: {}"
                .to_owned(),
        );
    };
    let timeline = timeline.as_deref().map(parse_timeline).transpose()?;
    Ok(Request {
        target: target?,
        exclusive: *exclusive,
        timeline: timeline.unwrap_or(TimelineChoice::Latest),
        backup: backup.clone(),
    })
}

/// As the status tells it.
fn told(plan: &Plan, repository: &str, action: RestoreAction) -> RestorePlan {
    let backup = &plan.backup;
    RestorePlan {
        repository: repository.to_owned(),
        backup: backup.id.clone(),
        timeline: plan.timeline.0,
        target: plan.stop.words.clone(),
        action: action.name().to_owned(),
        start_lsn: backup.start.to_string(),
        end_lsn: Some(plan.stop.lsn.to_string()),
        end_time: plan.stop.time,
        files: backup.files,
        bytes: backup.database_bytes,
        wal_segments: plan.wal_segments,
    }
}

impl Restores {
    /// Plans it by what the repository holds of an archive now.
    pub(super) async fn preflight(
        &self,
        look: &Look<'_>,
        archive: &Key,
        repository: &str,
    ) -> Result<Planned, State> {
        let planning = self.plan(look, archive, repository);
        let planned = tokio::time::timeout(PATIENCE, planning).await;
        planned.unwrap_or_else(|_| {
            let seconds = PATIENCE.as_secs();
            let message =
                format!("the repository {repository} could not be read within {seconds} s");
            Err(State::unknown("StoreUnreachable", message))
        })
    }

    /// What somebody has to mend before the archive can be read. It would hold up every sidecar, too, in words that are
    /// a sidecar's. Of a store that does not answer at once nothing is told.
    pub(super) async fn unusable(
        &self,
        look: &Look<'_>,
        archive: &Key,
        repository: &str,
    ) -> Option<State> {
        let opening = self.opened(look, archive, repository);
        let opened = tokio::time::timeout(AT_ONCE, opening).await.ok()?;
        opened.err().filter(State::is_for_somebody)
    }

    async fn opened(
        &self,
        look: &Look<'_>,
        archive: &Key,
        repository: &str,
    ) -> Result<Archive, State> {
        let repository = look.key.beside(repository);
        let opened = open_archive_of(&self.context, &repository, archive, Access::Read).await;
        opened.map_err(|failure| not_opened(&failure))
    }

    async fn plan(
        &self,
        look: &Look<'_>,
        archive: &Key,
        repository: &str,
    ) -> Result<Planned, State> {
        let spec = &look.restore.spec;
        let request =
            request(&spec.target).map_err(|message| State::refused("Unreachable", message))?;
        let archive = self.opened(look, archive, repository).await?;
        let incarnations = archive.incarnations().await;
        let newest = incarnations.map_err(|e| unreadable(&e.into()))?.pop();
        let Some((system, identity)) = newest else {
            return Err(nothing_stored());
        };
        let wal = WalStore::of_identity(archive.clone(), system, &identity)
            .map_err(|e| unreadable(&e.into()))?;
        let catalogue = Catalogue::load(&archive, system)
            .await
            .map_err(|e| unreadable(&e))?;
        let announced = match expiry::announced(&archive, system).await {
            Ok(announced) => announced,
            // Then nothing is deleted either.
            Err(error) if error.is_damage() => Doomed::default(),
            Err(error) => return Err(unreadable(&error.into())),
        };
        if let Some(going) = going(&request, &announced) {
            return Err(State::refused("Unreachable", going));
        }
        let catalogue = expiry::leave_out(catalogue, &announced);
        match reach::plan(&catalogue, &wal, &request).await {
            Ok(plan) => Ok(Planned {
                plan: told(&plan, repository, spec.action),
                system,
                backup: plan.backup,
            }),
            Err(refusal) if refusal.could_not_tell() => {
                let why = text::line(&refusal.to_string());
                Err(State::unknown("StoreUnreachable", why))
            }
            Err(refusal) => Err(State::refused("Unreachable", refusal.to_string())),
        }
    }
}

/// A backup that is named must not be about to go.
fn going(request: &Request, announced: &Doomed) -> Option<String> {
    let id = request.backup.as_ref()?;
    let why = text::line(&announced.backups.get(id)?.reason);
    Some(format!(
        "backup {id} is about to be deleted ({why}): choose another, or have it kept and make the Restore again once it is no longer announced"
    ))
}

fn nothing_stored() -> State {
    let message = "nothing is stored in the archive yet, so there is nothing to restore";
    State::refused("Unreachable", message)
}

/// What somebody can mend is waited for: the archive may be as good as ever.
fn not_opened(failure: &OpenFailure) -> State {
    let why = failure.to_string();
    match failure {
        _ if failure.is_not_there() => nothing_stored(),
        OpenFailure::NoRepository(_) => State::bad("RepositoryNotFound", why),
        OpenFailure::NoCredentials(_) => State::bad("NoCredentials", why),
        OpenFailure::Lacking { lacks, .. } => {
            let reason = lacks.first().map_or("SecretInvalid", |lack| lack.reason());
            State::bad(reason, why)
        }
        OpenFailure::Open(OpenError::Store(_)) | OpenFailure::Api(_) => {
            State::unknown("StoreUnreachable", why)
        }
        OpenFailure::Open(_) => State::bad("ArchiveUnusable", why),
    }
}

fn unreadable(error: &CatalogueError) -> State {
    let why = text::line(&error.to_string());
    match error.is_permanent() {
        true => State::bad("ArchiveUnusable", why),
        false => State::unknown("StoreUnreachable", why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_postgres::{Lsn, TimelineId};
    use serde_json::{Value, json};

    #[test]
    fn a_target_is_understood_as_the_pod_will() {
        let of = |target: Value| request(&serde_json::from_value(target).unwrap());
        for (target, expected) in [
            (
                json!({"time": "2026-11-20T10:00:00+01:00"}),
                Target::Time("2026-11-20T09:00:00Z".parse().unwrap()),
            ),
            (
                json!({"lsn": "16/B374D848"}),
                Target::Lsn(Lsn(0x16_B374_D848)),
            ),
            // Postgres has the low half alone.
            (json!({"xid": 4_294_968_037_u64}), Target::Xid(741)),
            (json!({"name": "before"}), Target::Name("before".into())),
            (json!({"immediate": {}}), Target::Immediate),
            (json!({"latest": {}}), Target::Latest),
        ] {
            assert_eq!(of(target).unwrap().target, expected);
        }
        let all = json!({"lsn": "0/1", "exclusive": true, "timeline": "2", "backup": "b"});
        let all = of(all).unwrap();
        assert!(all.exclusive);
        assert_eq!(all.timeline, TimelineChoice::Number(TimelineId(2)));
        assert_eq!(all.backup.as_deref(), Some("b"));
        for (target, words) in [
            (json!({}), "exactly one"),
            (json!({"lsn": "0/1", "latest": {}}), "exactly one"),
            (json!({"lsn": "x"}), "no LSN"),
            (json!({"time": "2026-11-20T10:00:00"}), "no time zone"),
            (json!({"latest": {}, "timeline": "new"}), "a timeline is"),
        ] {
            let why = of(target).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }
}
