//! What a restore that is ordered does next. Pure: it follows from the status and from what is seen of the pods, so an
//! operator that starts goes on where another ended.

use super::phase::{RESTORED, was_started};
use super::report::State;
use crate::text;
use holdfast_crds::RestoreAction;
use holdfast_postgres::Lsn;
use holdfast_protocol::control::{BootstrapReport, BootstrapState, InstanceReport, Role};
use holdfast_protocol::status::{ProgressStatus, Reached, RestorePod, RestoreStatus, is_true};
use std::time::Duration;

/// A sidecar that answers, and whose pod neither holds nor is restored for so long, came with older settings. A pod
/// that holds does so within seconds.
const IDLE: Duration = Duration::from_secs(60);

/// Between the end of the last record and the position that was planned may lie the headers of a page and padding.
const SLACK: u64 = 64;

/// A pod of the set, as it is seen.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// It is on its way out.
    pub leaving: bool,
    /// What its sidecar says, or why nothing.
    pub said: Result<InstanceReport, String>,
    /// How long it has been answering without a restore to wait for.
    pub idle: Duration,
}

/// What is seen.
#[derive(Debug)]
pub struct Observed<'a> {
    /// The pods of the set.
    pub pods: &'a [Seen],
    /// The settings that pods mount now: their generation, and the order in them.
    pub rendered: Option<(i64, Option<&'a str>)>,
    /// The Backup that runs.
    pub backup: Option<&'a str>,
    /// What Postgres does at the target.
    pub action: RestoreAction,
}

/// What is to be done, beside telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Nothing,
    /// Delete these pods: they must be gone.
    Delete(Vec<RestorePod>),
    /// Delete these pods, but not again at once: they came back with older settings.
    DeleteAgain(Vec<RestorePod>),
    /// Tell these pods, by UID, to go on.
    Go(Vec<String>),
}

/// What is done next, and what is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// First the state is written, then this is done.
    pub act: Act,
    /// As it is told.
    pub state: State,
    /// How far the restored pod is.
    pub progress: Option<ProgressStatus>,
    /// Where recovery ended.
    pub reached: Option<Reached>,
    /// Whether the order is needed by no pod any more.
    pub is_spent: bool,
}

impl Step {
    fn new(act: Act, state: State) -> Self {
        Self {
            act,
            state,
            progress: None,
            reached: None,
            is_spent: false,
        }
    }
}

/// The next step of what the status says was ordered.
pub fn step(status: &RestoreStatus, observed: &Observed<'_>) -> Step {
    let (Some(id), Some((restored, others))) =
        (status.order_id.as_deref(), status.pods.split_first())
    else {
        let message =
            "the status does not say which pods were ordered to be restored: make another Restore";
        return Step::new(Act::Nothing, failed("StatusLost", message));
    };
    let started = was_started(status);
    if !started && let Some(step) = before_the_go(status, id, observed) {
        return step;
    }
    let find = |name: &str| {
        let mut pods = observed.pods.iter();
        pods.find(|pod| pod.name == name && !pod.leaving)
    };
    let stale = stale(status, id, observed);
    let (act, state, progress) = match find(&restored.name).map(|pod| (pod, &pod.said)) {
        Some((_, Ok(report))) if is_done(report, id) => {
            if !started {
                let message = format!(
                    "the data directory of {} says that this order was carried out before, and nothing was done now: give the Restore another name to do it again",
                    restored.name
                );
                return Step::new(Act::Nothing, failed("CarriedOut", message));
            }
            let others: Vec<(&RestorePod, Option<&Seen>)> =
                others.iter().map(|pod| (pod, find(&pod.name))).collect();
            let step = after_the_restore(status, id, observed, report, &others);
            return match (&step.act, stale.is_empty()) {
                (Act::Nothing, false) => Step {
                    act: Act::DeleteAgain(stale),
                    ..step
                },
                _ => step,
            };
        }
        Some((pod, Ok(report))) => match ours(report, id) {
            Some(bootstrap) => of_restored(pod, bootstrap),
            None => {
                let message = format!("{} has come back and does not hold yet", pod.name);
                (Act::Nothing, waits(started, message), None)
            }
        },
        Some((pod, Err(why))) => {
            let message = format!("{} does not answer yet: {why}", pod.name);
            (Act::Nothing, waits(started, message), None)
        }
        None => {
            let message = format!(
                "{} has not come back yet: kubectl describe pod {} tells why",
                restored.name, restored.name
            );
            (Act::Nothing, waits(started, message), None)
        }
    };
    // Nobody is let go while another may run on what was there before.
    let act = match act {
        Act::Nothing | Act::Go(_) if !stale.is_empty() => Act::DeleteAgain(stale),
        act => act,
    };
    // The data directory was whole before: it is still.
    let state = match state {
        State::Restoring { message, .. } if is_true(&status.conditions, RESTORED) => {
            State::Restored {
                reason: "Recovering",
                message,
            }
        }
        state => state,
    };
    Step {
        progress,
        ..Step::new(act, state)
    }
}

/// Until no pod of before is left.
fn before_the_go(status: &RestoreStatus, id: &str, observed: &Observed<'_>) -> Option<Step> {
    let ordered = |reason, message: String| State::Ordered { reason, message };
    if observed.rendered.and_then(|(_, order)| order) != Some(id) {
        let message = "the order is being written into the settings of the Archive's pods; where it is not, the Archive's condition Ready tells why".to_owned();
        return Some(Step::new(Act::Nothing, ordered("Ordering", message)));
    }
    if let Some(backup) = observed.backup {
        let message =
            format!("the Backup {backup} runs: the restore begins after it, or once it is deleted");
        return Some(Step::new(Act::Nothing, ordered("BackupRuns", message)));
    }
    let is_old = |pod: &&Seen| {
        let mut pods = status.pods.iter();
        pods.any(|old| old.uid.as_ref() == Some(&pod.uid))
    };
    let old: Vec<&Seen> = observed.pods.iter().filter(is_old).collect();
    if old.is_empty() {
        return None;
    }
    let names = text::some(old.iter().map(|pod| pod.name.as_str()));
    let message = format!(
        "waits until {names} is gone; where its node is lost for good, kubectl delete pod --force lets it go"
    );
    let delete: Vec<RestorePod> = old
        .iter()
        .filter(|pod| !pod.leaving)
        .map(|p| named(p))
        .collect();
    let act = match delete.is_empty() {
        true => Act::Nothing,
        false => Act::Delete(delete),
    };
    Some(Step::new(act, ordered("PodsGoing", message)))
}

/// What the restored pod does, which is not whole yet.
fn of_restored(pod: &Seen, bootstrap: &BootstrapReport) -> (Act, State, Option<ProgressStatus>) {
    let name = &pod.name;
    let why = text::line(&bootstrap.message);
    let restoring = |reason, message: String, bad| State::Restoring {
        reason,
        message,
        bad,
    };
    match bootstrap.state {
        BootstrapState::Holding => {
            let message = format!("{name} is told to go on");
            let go = Act::Go(vec![pod.uid.clone()]);
            (go, restoring("Restoring", message, false), None)
        }
        BootstrapState::Restoring => {
            let message = format!("the data directory of {name} is being restored");
            let state = restoring("Restoring", message, false);
            (Act::Nothing, state, bootstrap.progress)
        }
        BootstrapState::Waiting => {
            let message = format!("{name} waits: {why}; {}", volume(bootstrap.untouched));
            let state = restoring("Waiting", message, true);
            (Act::Nothing, state, bootstrap.progress)
        }
        BootstrapState::Refused if bootstrap.untouched => {
            let message = format!(
                "{name} refused the restore: {why}; the data directory is as it was, and Postgres starts on it; mend this and make another Restore"
            );
            (Act::Nothing, failed("Refused", message), None)
        }
        BootstrapState::Refused => {
            let message = format!("{name} can't go on: {why}; {}", volume(false));
            (Act::Nothing, restoring("Refused", message, true), None)
        }
    }
}

/// The restored pod is whole: the others are let go on, and recovery is followed.
fn after_the_restore(
    status: &RestoreStatus,
    id: &str,
    observed: &Observed<'_>,
    report: &InstanceReport,
    others: &[(&RestorePod, Option<&Seen>)],
) -> Step {
    let missing: Vec<&str> = others
        .iter()
        .filter(|(_, seen)| !said(*seen).is_some_and(|report| is_done(report, id)))
        .map(|(pod, _)| pod.name.as_str())
        .collect();
    // Only now are others emptied: while the restored one might have refused, they were whole.
    let held: Vec<String> = others
        .iter()
        .filter_map(|(_, seen)| *seen)
        .filter(|seen| {
            let bootstrap = said(Some(seen)).and_then(|report| ours(report, id));
            bootstrap.is_some_and(|bootstrap| bootstrap.state == BootstrapState::Holding)
        })
        .map(|seen| seen.uid.clone())
        .collect();
    let act = match held.is_empty() {
        true => Act::Nothing,
        false => Act::Go(held),
    };
    let whole = |reason, message: String| State::Restored { reason, message };
    let reached = match &status.recovered_to {
        Some(known) => Ok(known.clone()),
        None => recovered(report, observed.action),
    };
    let reached = match reached {
        Ok(reached) => reached,
        Err(why) => {
            return Step {
                is_spent: missing.is_empty(),
                ..Step::new(act, whole("Recovering", why))
            };
        }
    };
    let state = if !missing.is_empty() {
        let names = text::some(missing.iter().copied());
        let trouble = others.iter().find_map(|(pod, seen)| {
            let bootstrap = said(*seen).and_then(|report| ours(report, id))?;
            let stuck = matches!(
                bootstrap.state,
                BootstrapState::Waiting | BootstrapState::Refused
            );
            stuck.then(|| format!("; {}: {}", pod.name, text::line(&bootstrap.message)))
        });
        let message = format!(
            "{names} is emptied and cloned again{}",
            trouble.unwrap_or_default()
        );
        whole("Cloning", message)
    } else {
        ended(status, &reached)
    };
    Step {
        is_spent: missing.is_empty(),
        reached: Some(reached),
        ..Step::new(act, state)
    }
}

/// Whether recovery ended where it was planned to.
pub(super) fn ended(status: &RestoreStatus, reached: &Reached) -> State {
    let parse = |text: &Option<String>| text.as_deref()?.parse::<Lsn>().ok();
    let planned = status.plan.as_ref().and_then(|plan| parse(&plan.end_lsn));
    match (parse(&reached.lsn), planned) {
        (Some(lsn), Some(planned)) if lsn.0.saturating_add(SLACK) < planned.0 => failed(
            "EndedEarly",
            format!(
                "recovery ended at {lsn}, before {planned} that was planned, and the database runs with what it has; nothing in the archive is lost: look at the log of Postgres, and make another Restore"
            ),
        ),
        _ => State::Complete,
    }
}

/// Where the server is, once its recovery has ended, or stands still as it was told; else what it does.
fn recovered(report: &InstanceReport, action: RestoreAction) -> Result<Reached, String> {
    let server = &report.postgres;
    if let Some(why) = &server.unreachable {
        let why = text::line(why);
        return Err(format!(
            "the server can't be asked yet: {why}; its log tells more"
        ));
    }
    let stands = server
        .recovery
        .as_ref()
        .is_some_and(|recovery| recovery.paused);
    match server.role {
        Some(Role::Standby) if !(stands && action == RestoreAction::Pause) => {
            Err("Postgres replays WAL up to the target".to_owned())
        }
        None => Err("Postgres has not started yet".to_owned()),
        Some(Role::Primary | Role::Standby) => {
            // A server that was started again since does not know any more where its recovery ended.
            let recovery = server.recovery.as_ref();
            Ok(Reached {
                lsn: recovery.map(|recovery| recovery.lsn.clone()),
                time: recovery.and_then(|recovery| recovery.time),
                timeline: server.timeline,
            })
        }
    }
}

/// New pods that came with older settings: they have let Postgres start, or will.
fn stale(status: &RestoreStatus, id: &str, observed: &Observed<'_>) -> Vec<RestorePod> {
    let generation = observed
        .rendered
        .and_then(|(generation, order)| (order == Some(id)).then_some(generation));
    let is_stale = |pod: &&Seen| {
        let Some(index) = status.pods.iter().position(|one| one.name == pod.name) else {
            return false;
        };
        let Ok(report) = &pod.said else {
            return false;
        };
        if pod.leaving || report.bootstrap.is_some() || is_done(report, id) {
            return false;
        }
        let older = report.configuration_generation < generation;
        // A wiped one is long in cloning, and has no server meanwhile.
        older || report.postgres.role.is_some() || (index == 0 && pod.idle >= IDLE)
    };
    // Without the order in the settings it would come back as it is.
    match generation {
        Some(_) => observed.pods.iter().filter(is_stale).map(named).collect(),
        None => Vec::new(),
    }
}

/// Whether the order was carried out on its data directory, or on the one that this was cloned from.
fn is_done(report: &InstanceReport, id: &str) -> bool {
    ours(report, id).is_none() && report.postgres.last_order.as_deref() == Some(id)
}

fn said(seen: Option<&Seen>) -> Option<&InstanceReport> {
    seen?.said.as_ref().ok()
}

/// What it says of this order.
fn ours<'a>(report: &'a InstanceReport, id: &str) -> Option<&'a BootstrapReport> {
    let bootstrap = report.bootstrap.as_ref()?;
    (bootstrap.order.as_deref() == Some(id)).then_some(bootstrap)
}

/// Whether a pod's sidecar answers although nothing is being done about its data directory.
pub fn is_idle(report: &InstanceReport, id: &str) -> bool {
    report.bootstrap.is_none() && !is_done(report, id)
}

fn waits(started: bool, message: String) -> State {
    match started {
        false => State::Ordered {
            reason: "Holding",
            message,
        },
        true => State::Restoring {
            reason: "Restoring",
            message,
            bad: false,
        },
    }
}

/// What state the volume is in.
fn volume(untouched: bool) -> &'static str {
    match untouched {
        true => "the data directory is as it was, and it is tried again",
        false => {
            "the data directory is unfinished and can't be started; once this is mended, the restore goes on by itself"
        }
    }
}

fn failed(reason: &'static str, message: impl Into<String>) -> State {
    State::Failed {
        reason,
        message: message.into(),
    }
}

fn named(pod: &Seen) -> RestorePod {
    RestorePod {
        name: pod.name.clone(),
        uid: Some(pod.uid.clone()),
    }
}

#[cfg(test)]
mod tests;
