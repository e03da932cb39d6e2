use super::super::order::tests::{condition, planned};
use super::*;
use serde_json::{Value, json};

/// A pod `orders-db-<n>` whose sidecar says this; `null`: nothing.
fn pod(n: u32, uid: &str, report: Value) -> Seen {
    let said = match report {
        Value::Null => Err("gone".to_owned()),
        report => Ok(serde_json::from_value(report).unwrap()),
    };
    Seen {
        name: format!("orders-db-{n}"),
        uid: uid.into(),
        leaving: false,
        said,
        idle: Duration::ZERO,
    }
}

fn bootstrap(state: &str, untouched: bool) -> Value {
    json!({"configurationGeneration": 4, "bootstrap": {"state": state, "message": "why", "order": "o1", "untouched": untouched,
        "progress": {"bytesDone": 1, "bytesTotal": 2, "percent": 50}}})
}

fn server(changes: Value) -> Value {
    let mut server = json!({"lastOrder": "o1", "role": "Primary", "timeline": 2,
        "recovery": {"lsn": "0/5000000", "time": "2026-11-20T09:59:59Z", "paused": false}});
    json_patch::merge(&mut server, &changes);
    json!({"configurationGeneration": 4, "postgres": server})
}

fn started() -> Value {
    json!({"conditions": [condition("Started", "True")]})
}

fn two(conditions: &[&str]) -> Value {
    let conditions: Vec<Value> = conditions.iter().map(|c| condition(c, "True")).collect();
    json!({"pods": [{"name": "orders-db-0", "uid": "old0"}, {"name": "orders-db-1"}], "conditions": conditions})
}

/// Act, state and reason, in words.
fn words(step: &Step) -> String {
    let act = match &step.act {
        Act::Nothing => String::new(),
        Act::Delete(pods) | Act::DeleteAgain(pods) => {
            let again = matches!(step.act, Act::DeleteAgain(_));
            let uids: Vec<&str> = pods.iter().filter_map(|pod| pod.uid.as_deref()).collect();
            let delete = if again { "delete again" } else { "delete" };
            format!("{delete} {}: ", uids.join(" "))
        }
        Act::Go(uids) => format!("go {}: ", uids.join(" ")),
    };
    let state = match &step.state {
        State::Ordered { reason, .. } => format!("Ordered {reason}"),
        State::Restoring { reason, bad, .. } => format!("Restoring {reason} {bad}"),
        State::Restored { reason, .. } => format!("Restored {reason}"),
        State::Complete => "Complete".to_owned(),
        State::Failed { reason, .. } => format!("Failed {reason}"),
        other => format!("{other:?}"),
    };
    act + &state
}

fn next(status: Value, pods: &[Seen]) -> Step {
    step(
        &planned(status),
        &Observed {
            pods,
            rendered: Some((4, Some("o1"))),
            backup: None,
            action: RestoreAction::Promote,
        },
    )
}

#[test]
fn nothing_goes_on_before_the_order_stands_and_every_old_pod_is_gone() {
    let old = || pod(0, "old0", server(json!({"lastOrder": null})));
    let leaving = || Seen {
        leaving: true,
        ..old()
    };
    let holds = || pod(0, "new0", bootstrap("Holding", true));
    for (rendered, backup, pods, expected) in [
        (None, None, vec![old()], "Ordered Ordering"),
        (Some((4, None)), None, vec![old()], "Ordered Ordering"),
        (Some((4, Some("o0"))), None, vec![old()], "Ordered Ordering"),
        (
            Some((4, Some("o1"))),
            Some("nightly"),
            vec![old()],
            "Ordered BackupRuns",
        ),
        (
            Some((4, Some("o1"))),
            None,
            vec![old()],
            "delete old0: Ordered PodsGoing",
        ),
        (
            Some((4, Some("o1"))),
            None,
            vec![leaving()],
            "Ordered PodsGoing",
        ),
        (
            Some((4, Some("o1"))),
            None,
            vec![leaving(), holds()],
            "Ordered PodsGoing",
        ),
        (Some((4, Some("o1"))), None, vec![], "Ordered Holding"),
        (
            Some((4, Some("o1"))),
            None,
            vec![holds()],
            "go new0: Restoring Restoring false",
        ),
    ] {
        let observed = Observed {
            pods: &pods,
            rendered,
            backup,
            action: RestoreAction::Promote,
        };
        let step = step(&planned(json!({})), &observed);
        assert_eq!(words(&step), expected, "{pods:?}");
    }
    // One of two is not enough.
    let both = json!({"pods": [{"name": "orders-db-0", "uid": "old0"}, {"name": "orders-db-1", "uid": "old1"}]});
    let pods = [holds(), pod(1, "old1", Value::Null)];
    assert_eq!(words(&next(both, &pods)), "delete old1: Ordered PodsGoing");
}

#[test]
fn a_pod_that_came_with_older_settings_is_deleted_again() {
    let fresh = |changes: Value| {
        let mut report =
            json!({"configurationGeneration": 4, "postgres": {"systemIdentifier": "7"}});
        json_patch::merge(&mut report, &changes);
        pod(0, "new0", report)
    };
    let late = Seen {
        idle: Duration::from_secs(60),
        ..fresh(json!({}))
    };
    for (pods, expected) in [
        (vec![fresh(json!({}))], "Ordered Holding"),
        (vec![pod(0, "new0", Value::Null)], "Ordered Holding"),
        (
            vec![fresh(json!({"configurationGeneration": 3}))],
            "delete again new0: Ordered Holding",
        ),
        (
            vec![fresh(json!({"postgres": {"role": "Primary"}}))],
            "delete again new0: Ordered Holding",
        ),
        (vec![late], "delete again new0: Ordered Holding"),
        (
            vec![pod(0, "new0", bootstrap("Refused", true))],
            "Failed Refused",
        ),
        // It says that it did this before anybody told it to.
        (vec![pod(0, "new0", server(json!({})))], "Failed CarriedOut"),
    ] {
        assert_eq!(words(&next(json!({}), &pods)), expected, "{pods:?}");
    }
}

#[test]
fn the_restored_pod_is_followed() {
    let recovering = json!({"role": "Standby", "recovery": {"lsn": "0/3000000", "paused": false}});
    let restored =
        json!({"conditions": [condition("Started", "True"), condition("Restored", "True")]});
    for (status, report, expected) in [
        (started(), Value::Null, "Restoring Restoring false"),
        (
            started(),
            bootstrap("Holding", true),
            "go new0: Restoring Restoring false",
        ),
        (
            started(),
            bootstrap("Restoring", false),
            "Restoring Restoring false",
        ),
        (
            started(),
            bootstrap("Waiting", false),
            "Restoring Waiting true",
        ),
        (
            started(),
            bootstrap("Refused", false),
            "Restoring Refused true",
        ),
        (started(), bootstrap("Refused", true), "Failed Refused"),
        (
            started(),
            server(json!({"role": null})),
            "Restored Recovering",
        ),
        (
            started(),
            server(json!({"unreachable": "it starts"})),
            "Restored Recovering",
        ),
        (started(), server(recovering.clone()), "Restored Recovering"),
        (started(), server(json!({})), "Complete"),
        (started(), server(json!({"recovery": null})), "Complete"),
        // The headers of a page lie between.
        (
            started(),
            server(json!({"recovery": {"lsn": "0/4FFFFC0"}})),
            "Complete",
        ),
        (
            started(),
            server(json!({"recovery": {"lsn": "0/4FFFFBF"}})),
            "Failed EndedEarly",
        ),
        // It was whole, and does not answer for a moment.
        (restored, Value::Null, "Restored Recovering"),
    ] {
        let step = next(status, &[pod(0, "new0", report.clone())]);
        assert_eq!(words(&step), expected, "{report}");
    }
    let step = next(started(), &[pod(0, "new0", bootstrap("Restoring", false))]);
    assert_eq!(step.progress.unwrap().percent, 50);
    let step = next(started(), &[pod(0, "new0", server(json!({})))]);
    let reached = step.reached.unwrap();
    assert_eq!(
        (reached.lsn.as_deref(), reached.timeline),
        (Some("0/5000000"), Some(2))
    );
    assert!(step.is_spent);
}

#[test]
fn a_server_that_stands_still_is_where_it_should_be_only_if_it_was_told_to() {
    let paused = server(json!({"role": "Standby", "recovery": {"paused": true}}));
    let pods = [pod(0, "new0", paused)];
    for (action, expected) in [
        (RestoreAction::Pause, "Complete"),
        (RestoreAction::Promote, "Restored Recovering"),
    ] {
        let observed = Observed {
            pods: &pods,
            rendered: Some((4, Some("o1"))),
            backup: None,
            action,
        };
        assert_eq!(words(&step(&planned(started()), &observed)), expected);
    }
}

#[test]
fn the_others_are_emptied_only_once_the_restored_one_is_whole() {
    let holds = || pod(1, "new1", bootstrap("Holding", true));
    let primary = || pod(0, "new0", server(json!({})));
    let clone = |changes: Value| {
        let mut own = json!({"role": "Standby", "recovery": null});
        json_patch::merge(&mut own, &changes);
        pod(1, "new1", server(own))
    };
    for (conditions, pods, expected, is_spent) in [
        (
            &[][..],
            vec![pod(0, "new0", bootstrap("Holding", true)), holds()],
            "go new0: Restoring Restoring false",
            false,
        ),
        (
            &["Started"],
            vec![pod(0, "new0", bootstrap("Restoring", false)), holds()],
            "Restoring Restoring false",
            false,
        ),
        (
            &["Started"],
            vec![primary(), holds()],
            "go new1: Restored Cloning",
            false,
        ),
        (
            &["Started"],
            vec![pod(0, "new0", server(json!({"role": null}))), holds()],
            "go new1: Restored Recovering",
            false,
        ),
        (&["Started"], vec![primary()], "Restored Cloning", false),
        // It clones: empty, no server.
        (
            &["Started"],
            vec![
                primary(),
                pod(1, "new1", json!({"configurationGeneration": 4})),
            ],
            "Restored Cloning",
            false,
        ),
        (
            &["Started"],
            vec![primary(), clone(json!({"lastOrder": "o0"}))],
            "delete again new1: Restored Cloning",
            false,
        ),
        (
            &["Started"],
            vec![primary(), clone(json!({}))],
            "Complete",
            true,
        ),
    ] {
        let step = next(two(conditions), &pods);
        assert_eq!(words(&step), expected, "{pods:?}");
        assert_eq!(step.is_spent, is_spent, "{pods:?}");
    }
}
