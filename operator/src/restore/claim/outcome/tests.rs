use super::*;
use serde_json::{Value, json};

const PLACE: &str = "pgdata of the claim orders-copy";

fn job(condition: Option<&str>) -> Job {
    let conditions: Vec<Value> = condition
        .map(|kind| json!({"type": kind, "status": "True"}))
        .into_iter()
        .collect();
    serde_json::from_value(json!({"metadata": {}, "status": {"conditions": conditions}})).unwrap()
}

/// Of this phase, with these states of prepare, bootstrap and Postgres.
fn pod(phase: &str, states: [Value; 3]) -> Pod {
    let named = ["holdfast-prepare", "holdfast-bootstrap", "postgres"];
    let mut statuses: Vec<Value> = named
        .into_iter()
        .zip(states)
        .map(|(name, state)| json!({"name": name, "state": state, "image": "", "imageID": "", "ready": false, "restartCount": 0}))
        .collect();
    let last = statuses.pop();
    serde_json::from_value(json!({
        "metadata": {"creationTimestamp": "2026-11-20T10:00:00Z"},
        "spec": {"containers": []},
        "status": {"phase": phase, "initContainerStatuses": statuses, "containerStatuses": [last]},
    }))
    .unwrap()
}

fn done() -> Value {
    json!({"terminated": {"exitCode": 0}})
}

fn running() -> Value {
    json!({"running": {}})
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"waiting": {"reason": reason, "message": message}})
}

fn ended(code: i32, message: &str) -> Value {
    json!({"terminated": {"exitCode": code, "message": message}})
}

fn status(conditions: &[&str]) -> RestoreStatus {
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|kind| json!({"type": kind, "status": "True", "reason": "X", "message": "", "lastTransitionTime": "2026-11-20T10:00:00Z"}))
        .collect();
    serde_json::from_value(json!({"conditions": conditions, "plan": {"repository": "s3", "backup": "b1", "timeline": 1,
        "target": "w", "action": "Promote", "startLsn": "0/2000028", "endLsn": "0/5000000", "files": 1, "bytes": 2, "walSegments": 3}}))
    .unwrap()
}

/// The state's name, its reason, and its words.
fn told(told: &Told) -> String {
    match &told.state {
        State::Ordered { reason, message } => format!("Ordered {reason} {message}"),
        State::Restoring {
            reason,
            message,
            bad,
        } => format!("Restoring {reason} {bad} {message}"),
        State::Restored { reason, message } => format!("Restored {reason} {message}"),
        State::Failed { reason, message } => format!("Failed {reason} {message}"),
        State::Complete => "Complete".to_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_job_tells_how_far_the_restore_is() {
    let wait = || waiting("PodInitializing", "");
    let pull = || waiting("ImagePullBackOff", "no such image");
    let killed = || pod("Failed", [done(), ended(137, ""), wait()]);
    for (known, pods, expected) in [
        (&[][..], vec![], "Ordered Preparing the Job makes its pod"),
        (
            &[],
            vec![pod("Pending", [running(), wait(), wait()])],
            "Ordered Preparing the Job's pod starts",
        ),
        (
            &[],
            vec![pod("Pending", [pull(), wait(), wait()])],
            "Ordered Preparing holdfast-prepare of the Job's pod waits: ImagePullBackOff: no such image",
        ),
        (
            &[],
            vec![pod("Pending", [done(), running(), wait()])],
            "Restoring Restoring false the data directory is being restored into pgdata",
        ),
        (
            &["Started"],
            vec![],
            "Restoring Restoring false the Job makes its pod",
        ),
        (
            &["Started"],
            vec![killed()],
            "Restoring Waiting true it is tried again, after a pod that ended: holdfast-bootstrap ended with 137",
        ),
        (
            &["Started"],
            vec![pod("Running", [done(), done(), running()])],
            "Restored Recovering Postgres replays WAL up to the target in pgdata",
        ),
        // Another pod, which begins from the front.
        (
            &["Started", "Restored"],
            vec![killed(), pod("Pending", [running(), wait(), wait()])],
            "Restored Waiting it is tried again",
        ),
    ] {
        let answer = outcome(&status(known), &job(None), &pods, PLACE, true);
        assert!(
            told(&answer).starts_with(expected),
            "{}: {expected}",
            told(&answer)
        );
        assert_eq!(answer.reached, None);
    }
}

#[test]
fn where_recovery_ended_is_what_postgres_said() {
    for (message, expected) in [
        (
            r#"{"lsn":"0/5000028","time":"2026-11-20T10:00:00Z","timeline":2}"#,
            "Complete",
        ),
        (
            r#"{"lsn":"0/5000000","time":null,"timeline":2}"#,
            "Complete",
        ),
        (
            r#"{"lsn":"0/3000000","time":null,"timeline":2}"#,
            "Failed EndedEarly",
        ),
        ("", "Failed NotTold"),
        (r#"{"lsn":null}"#, "Failed NotTold"),
    ] {
        let pod = pod("Succeeded", [done(), done(), ended(0, message)]);
        let answer = outcome(
            &status(&["Started"]),
            &job(Some("Complete")),
            &[pod],
            PLACE,
            true,
        );
        assert!(
            told(&answer).starts_with(expected),
            "{message}: {}",
            told(&answer)
        );
        assert_eq!(
            answer.reached.is_some(),
            message.contains("0/"),
            "{message}"
        );
    }
    let answer = outcome(&status(&[]), &job(Some("Complete")), &[], PLACE, true);
    assert!(told(&answer).starts_with("Failed NotTold"));
}

#[test]
fn a_failure_says_at_which_step_and_what_is_on_the_claim() {
    let wait = || waiting("PodInitializing", "");
    let not_empty = || {
        pod(
            "Failed",
            [
                ended(3, "the claim is not empty: it holds x"),
                wait(),
                wait(),
            ],
        )
    };
    let refused = || {
        pod(
            "Failed",
            [
                done(),
                ended(3, "holdfast: one\n\nnot restored: no room"),
                wait(),
            ],
        )
    };
    let library = || {
        let words = "Postgres does not start: FATAL:  could not access file \"nolib\"";
        pod("Failed", [done(), done(), ended(3, words)])
    };
    for (pods, parts) in [
        (vec![], ["Failed JobFailed", "no pod is left", "pgdata"]),
        (
            vec![not_empty()],
            ["Failed NotPrepared", "nothing was written", "it holds x"],
        ),
        (
            vec![refused()],
            [
                "Failed NotRestored",
                "not restored: no room",
                "can't be started",
            ],
        ),
        (
            vec![library()],
            ["Failed NotRecovered", "nolib", "has not reached its target"],
        ),
    ] {
        let answer = outcome(
            &status(&["Started"]),
            &job(Some("Failed")),
            &pods,
            PLACE,
            true,
        );
        for part in parts {
            assert!(told(&answer).contains(part), "{}", told(&answer));
        }
    }
}

#[test]
fn what_is_not_recovered_is_complete_without_a_moment() {
    let left = || pod("Succeeded", [done(), done(), done()]);
    let of = |kind, pods: &[Pod]| outcome(&status(&["Started"]), &job(kind), pods, PLACE, false);
    for pods in [vec![left()], vec![]] {
        let answer = of(Some("Complete"), &pods);
        assert_eq!((told(&answer).as_str(), answer.reached), ("Complete", None));
    }
    let ending = pod("Running", [done(), done(), running()]);
    let words = told(&of(None, &[ending]));
    assert!(words.contains("is restored into"), "{words}");
}
