//! What the Job and its pods say of the restore. Pure.

use super::super::phase::{RESTORED, was_started};
use super::super::report::State;
use super::super::step::ended;
use super::job::{POSTGRES_CONTAINER, PREPARE_CONTAINER};
use crate::inject::names::BOOTSTRAP_CONTAINER;
use crate::text;
use holdfast_protocol::status::{Reached, RestoreStatus, is_true};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};

/// What is on a claim's way of being restored, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// No container of it has begun.
    Nothing,
    /// It is looked whether the claim is empty.
    Prepare,
    /// The data directory is written.
    Restore,
    /// Postgres recovers.
    Recover,
}

/// What is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// Its state.
    pub state: State,
    /// Where recovery ended.
    pub reached: Option<Reached>,
}

impl From<State> for Told {
    fn from(state: State) -> Self {
        Self {
            state,
            reached: None,
        }
    }
}

/// From a Job and the pods that it has made. `place`: the claim and the directory on it, in words. `verify`: Postgres
/// recovers there.
pub fn outcome(status: &RestoreStatus, job: &Job, pods: &[Pod], place: &str, verify: bool) -> Told {
    let newest = |pods: Vec<&Pod>| {
        let created = |pod: &&Pod| pod.metadata.creation_timestamp.as_ref().map(|at| at.0);
        pods.into_iter().max_by_key(|pod| created(pod)).cloned()
    };
    let of_phase = |wanted: &[&str]| {
        let is = |pod: &&Pod| {
            let phase = pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            wanted.contains(&phase.unwrap_or("Pending"))
        };
        newest(pods.iter().filter(is).collect())
    };
    let conditions = job
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let has = |kind: &str| {
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|condition| condition.type_ == kind && condition.status == "True")
    };
    let failure = of_phase(&["Failed"]).as_ref().map(failure);
    if has("Complete") && !verify {
        return State::Complete.into();
    }
    if has("Complete") {
        return complete(status, of_phase(&["Succeeded"]).as_ref(), place);
    }
    if has("Failed") {
        return failed(failure, place).into();
    }
    let running = of_phase(&["Pending", "Running", "Unknown"]);
    let part = running.as_ref().map_or(Part::Nothing, part);
    let message = match (&running, &failure) {
        (Some(_), _) if part == Part::Recover && !verify => {
            format!("the data directory is restored into {place}")
        }
        (Some(pod), _) if part > Part::Prepare => doing(pod, part, place),
        (Some(pod), None) => waits(pod).unwrap_or_else(|| doing(pod, part, place)),
        (_, Some((_, words))) => {
            format!("it is tried again, after a pod that ended: {words}")
        }
        (None, None) => "the Job makes its pod".to_owned(),
    };
    let stuck = failure.is_some() || running.as_ref().is_some_and(|pod| waits(pod).is_some());
    // What has been whole stays whole, also while another pod looks at it.
    if part == Part::Recover || is_true(&status.conditions, RESTORED) {
        let reason = if stuck { "Waiting" } else { "Recovering" };
        return State::Restored { reason, message }.into();
    }
    if part == Part::Restore || was_started(status) {
        let reason = if stuck { "Waiting" } else { "Restoring" };
        return State::Restoring {
            reason,
            message,
            bad: stuck,
        }
        .into();
    }
    State::Ordered {
        reason: "Preparing",
        message,
    }
    .into()
}

/// What recovery said at its end.
fn complete(status: &RestoreStatus, pod: Option<&Pod>, place: &str) -> Told {
    let told = pod
        .and_then(|pod| terminated(pod, POSTGRES_CONTAINER))
        .and_then(|ended| ended.message.clone())
        .and_then(|message| serde_json::from_str::<Reached>(&message).ok())
        .filter(|reached| reached.lsn.is_some());
    match told {
        Some(reached) => Told {
            state: ended(status, &reached),
            reached: Some(reached),
        },
        None => State::Failed {
            reason: "NotTold",
            message: format!(
                "the database is recovered and shut down in {place}, and the pod that knew where recovery ended is gone: look for it in the database, or restore again into another claim"
            ),
        }
        .into(),
    }
}

fn failed(failure: Option<(Part, String)>, place: &str) -> State {
    let Some((part, words)) = failure else {
        return State::Failed {
            reason: "JobFailed",
            message: format!(
                "the Job has failed, and no pod is left that tells why; what is in {place} can't be relied on: delete the claim, and make another Restore"
            ),
        };
    };
    let message = match part {
        Part::Nothing | Part::Prepare => {
            format!("nothing was written: {words}; mend this, and make another Restore")
        }
        Part::Restore => format!(
            "the data directory was not restored: {words}; what is in {place} can't be started: mend this, empty the claim, and make another Restore"
        ),
        Part::Recover => format!(
            "Postgres did not recover: {words}; what is in {place} is restored and has not reached its target: mend this, empty the claim, and make another Restore"
        ),
    };
    let reason = match part {
        Part::Nothing | Part::Prepare => "NotPrepared",
        Part::Restore => "NotRestored",
        Part::Recover => "NotRecovered",
    };
    State::Failed { reason, message }
}

fn doing(pod: &Pod, part: Part, place: &str) -> String {
    match (part, waits(pod)) {
        (_, Some(why)) => why,
        (Part::Recover, None) => format!("Postgres replays WAL up to the target in {place}"),
        (Part::Restore, None) => format!("the data directory is being restored into {place}"),
        (Part::Nothing | Part::Prepare, None) => "the Job's pod starts".to_owned(),
    }
}

/// What a pod that does not go on waits for.
fn waits(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    let scheduled = conditions.find(|condition| condition.type_ == "PodScheduled");
    if let Some(not) = scheduled.filter(|condition| condition.status == "False") {
        let why = text::line(not.message.as_deref().unwrap_or_default());
        return Some(format!("the Job's pod finds no node: {why}"));
    }
    statuses(pod).find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref()?;
        if matches!(reason, "PodInitializing" | "ContainerCreating") {
            return None;
        }
        let why = text::line(waiting.message.as_deref().unwrap_or_default());
        Some(format!(
            "{} of the Job's pod waits: {reason}: {why}",
            container.name
        ))
    })
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let others = status.and_then(|status| status.container_statuses.as_ref());
    init.into_iter()
        .flatten()
        .chain(others.into_iter().flatten())
}

fn terminated<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStateTerminated> {
    let container = statuses(pod).find(|container| container.name == name)?;
    container.state.as_ref()?.terminated.as_ref()
}

/// How far a pod is.
fn part(pod: &Pod) -> Part {
    let begun = |name: &str| {
        statuses(pod).any(|container| {
            let state = container.state.as_ref();
            let begun =
                state.is_some_and(|state| state.running.is_some() || state.terminated.is_some());
            container.name == name && begun
        })
    };
    [
        (POSTGRES_CONTAINER, Part::Recover),
        (BOOTSTRAP_CONTAINER, Part::Restore),
        (PREPARE_CONTAINER, Part::Prepare),
    ]
    .into_iter()
    .find_map(|(name, part)| begun(name).then_some(part))
    .unwrap_or(Part::Nothing)
}

/// Where a pod has failed, and what it said.
fn failure(pod: &Pod) -> (Part, String) {
    let words = [POSTGRES_CONTAINER, BOOTSTRAP_CONTAINER, PREPARE_CONTAINER]
        .into_iter()
        .find_map(|name| {
            let ended = terminated(pod, name).filter(|ended| ended.exit_code != 0)?;
            let said = ended.message.as_deref().map(last_lines).unwrap_or_default();
            Some(match said.as_str() {
                "" => format!("{name} ended with {}", ended.exit_code),
                said => said.to_owned(),
            })
        });
    let of_pod = || {
        let status = pod.status.as_ref()?;
        let why = status.message.as_deref().or(status.reason.as_deref())?;
        Some(text::line(why))
    };
    let words = words.or_else(of_pod);
    (
        part(pod),
        words.unwrap_or_else(|| "its pod has failed".to_owned()),
    )
}

/// The last lines are what it ended with.
fn last_lines(text: &str) -> String {
    const LINES: usize = 3;
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let last = lines.len().saturating_sub(LINES);
    text::line(&lines.get(last..).unwrap_or_default().join(" "))
}

#[cfg(test)]
mod tests;
