//! Following a backup that was ordered.

use super::choose::primary_of;
use super::follow::{Asked, Heard, Step, by_repository, by_sidecar};
use super::phase::{STARTED, was_accepted};
use super::report::State;
use super::{Backups, Look, POLL, Phase, WAITING};
use crate::archive::{Member, members};
use crate::conditions::find;
use crate::controller::{Outcome, ReconcileError};
use crate::repository::{Access, open_archive};
use crate::sidecar_client::SidecarError;
use crate::text;
use holdfast_protocol::status::BackupStatus;
use holdfast_repository::backup::BackupId;
use holdfast_repository::catalogue::{LookedUp, look_up};
use jiff::Timestamp;
use std::time::Duration;
use tokio::time::Instant;

/// The primary is told to close its segment this often.
const SWITCH: Duration = Duration::from_secs(15);
/// The repository is asked this often, where the sidecar can't tell.
const ASK: Duration = Duration::from_secs(15);

impl Backups {
    pub(super) async fn follow(&self, look: &Look<'_>) -> Result<Outcome, ReconcileError> {
        let known = look.status();
        self.sync_finalizer(look, Phase::Ordered).await?;
        let members = members(&self.context, &look.archive_key);
        let server = members
            .iter()
            .find(|member| Some(&member.name) == known.pod.as_ref() && !member.finished);
        if let Some(server) = server.filter(|server| server.sidecar().is_some())
            && !was_accepted(&known)
        {
            let silent = self.silent_since(look, &known);
            let waits = look.now.duration_since(silent) < super::follow::SILENCE;
            if waits || server.report().is_some() {
                return self.send_order(look, server).await;
            }
        }
        let heard = self.hear(look, server).await?;
        if let Heard::Status(_) = heard {
            self.set_pace(look.key, |pace| pace.heard = Some(look.now));
        }
        let silent = self.silent_since(look, &known);
        let mut step = by_sidecar(&known, &heard, Some(silent), look.now);
        if step == Step::AskRepository {
            let asked_lately = self
                .pace(look.key)
                .asked
                .is_some_and(|at| at.elapsed() < ASK);
            if asked_lately {
                return Ok(Outcome::Again(POLL));
            }
            let (asked, repository) = self.ask_repositories(look).await?;
            self.set_pace(look.key, |pace| pace.asked = Some(Instant::now()));
            step = by_repository(&known, &heard, &asked, &repository, look.now);
        }
        self.take(look, step, &members).await
    }

    async fn take(
        &self,
        look: &Look<'_>,
        step: Step,
        members: &[Member],
    ) -> Result<Outcome, ReconcileError> {
        match step {
            // The repository gives another answer than that it has to be asked.
            Step::AskRepository => Ok(Outcome::Again(POLL)),
            Step::OrderAgain => {
                self.give_back(&look.archive_key, look.key);
                let status = BackupStatus {
                    pod: None,
                    ..look.status()
                };
                let state = State::Waiting {
                    reason: "ServerUnreachable",
                    message: "the server that was chosen is gone, and had not begun".to_owned(),
                    bad: false,
                };
                self.write(look, status, &state).await?;
                Ok(Outcome::Again(Duration::from_secs(1)))
            }
            Step::Told {
                status,
                state,
                switch,
            } => {
                if switch {
                    self.switch_wal(look, members).await;
                }
                self.write(look, *status, &state).await?;
                Ok(match state {
                    State::Complete | State::Failed { .. } | State::Expired(_) => {
                        // Once more, for what is done when it has ended.
                        Outcome::Again(Duration::from_secs(1))
                    }
                    State::Unknown { .. } => Outcome::Again(WAITING),
                    _ => Outcome::Again(POLL),
                })
            }
        }
    }

    /// When its sidecar was last known to answer.
    fn silent_since(&self, look: &Look<'_>, known: &BackupStatus) -> Timestamp {
        let started = find(&known.conditions, STARTED).map(|c| c.last_transition_time);
        self.pace(look.key).heard.max(started).unwrap_or(look.now)
    }

    pub(super) async fn hear(
        &self,
        look: &Look<'_>,
        server: Option<&Member>,
    ) -> Result<Heard, ReconcileError> {
        let Some(server) = server else {
            return Ok(Heard::PodGone);
        };
        let Some(sidecar) = server.sidecar() else {
            return Ok(Heard::Silent("it does not listen".to_owned()));
        };
        Ok(
            match self.context.sidecars.backup(&sidecar, &look.id()?).await {
                Ok(status) => Heard::Status(Box::new(status)),
                Err(error) if error.is_unknown() || error.is_other_pod() => Heard::Forgotten,
                Err(error) => Heard::Silent(text::line(&error.to_string())),
            },
        )
    }

    /// The first Repository that has anything of it, and what.
    async fn ask_repositories(&self, look: &Look<'_>) -> Result<(Asked, String), ReconcileError> {
        let id = look.id()?;
        let repositories = look.repositories();
        if repositories.is_empty() {
            let gone = Asked::Trouble("the Archive is gone".to_owned());
            return Ok((gone, String::new()));
        }
        let mut trouble = None;
        for repository in repositories {
            match self.ask_repository(look, &repository, &id).await {
                Ok(LookedUp::Nothing) => {}
                Ok(found) => return Ok((Asked::Found(found), repository)),
                Err(why) => {
                    trouble.get_or_insert(why);
                }
            }
        }
        let asked = trouble.map_or(Asked::Found(LookedUp::Nothing), Asked::Trouble);
        Ok((asked, String::new()))
    }

    async fn ask_repository(
        &self,
        look: &Look<'_>,
        repository: &str,
        id: &BackupId,
    ) -> Result<LookedUp, String> {
        let key = &look.archive_key;
        match open_archive(&self.context, key, repository, Access::Read).await {
            Ok(archive) => look_up(&archive, id)
                .await
                .map_err(|error| text::line(&error.to_string())),
            Err(failure) if failure.is_not_there() => Ok(LookedUp::Nothing),
            Err(failure) => Err(text::line(&failure.to_string())),
        }
    }

    /// Has the primary close the segment that a standby's backup ends in.
    async fn switch_wal(&self, look: &Look<'_>, members: &[Member]) {
        let lately = self
            .pace(look.key)
            .switched
            .is_some_and(|at| at.elapsed() < SWITCH);
        if lately {
            return;
        }
        let system = members
            .iter()
            .find(|member| Some(&member.name) == look.status().pod.as_ref())
            .and_then(Member::report)
            .and_then(|report| report.postgres.system_identifier.as_deref());
        let primary = primary_of(members, system);
        let Some(sidecar) = primary.and_then(Member::sidecar) else {
            return;
        };
        self.set_pace(look.key, |pace| pace.switched = Some(Instant::now()));
        match self.context.sidecars.switch_wal(&sidecar).await {
            Ok(switched) => {
                tracing::info!(backup = %look.key, lsn = switched.lsn, "the primary has closed its segment");
            }
            // It is told again.
            Err(error @ SidecarError::Unreachable { .. }) => {
                tracing::debug!(backup = %look.key, "the primary can't be told to close its segment: {error}");
            }
            Err(error) => {
                tracing::warn!(backup = %look.key, "the primary does not close its segment: {error}");
            }
        }
    }
}
