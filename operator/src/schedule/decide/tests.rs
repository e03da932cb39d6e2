use super::*;
use holdfast_protocol::status::{Condition, ConditionStatus};
use serde_json::{Value, json};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn spec(changes: Value) -> ScheduledBackupSpec {
    let mut spec = json!({"archiveRef": {"name": "orders"}, "schedule": "0 2 * * *"});
    json_patch::merge(&mut spec, &changes);
    serde_json::from_value(spec).unwrap()
}

/// A ScheduledBackup that goes on from look to look, as the controller has it.
struct Story {
    spec: ScheduledBackupSpec,
    status: ScheduledBackupStatus,
    archive: Option<bool>,
    running: Option<String>,
}

impl Story {
    /// Made on 20 November at noon.
    fn new(changes: Value) -> Self {
        Self {
            spec: spec(changes),
            status: ScheduledBackupStatus::default(),
            archive: Some(false),
            running: None,
        }
    }

    fn look(&mut self, now: &str) -> Decision {
        let decision = decide(
            at(now),
            &Seen {
                name: "nightly",
                created: at("2026-11-20T12:00:30Z"),
                spec: &self.spec,
                status: &self.status,
                archive: self.archive,
                running: self.running.as_deref(),
            },
        );
        self.status = decision.status.clone();
        self.status.conditions = vec![Condition {
            observed_generation: None,
            ..Condition::new(READY, ConditionStatus::True, &decision.finding.reason, "")
        }];
        decision
    }

    /// For which time a Backup is made, the next time, and how many were missed.
    fn told(&mut self, now: &str) -> (Option<String>, Option<String>, i64) {
        let decision = self.look(now);
        (
            decision.make.map(|make| make.time.to_string()),
            decision
                .status
                .next_schedule_time
                .map(|time| time.to_string()),
            decision.status.missed.unwrap_or(0),
        )
    }
}

fn expect(made: &str, next: &str, missed: i64) -> (Option<String>, Option<String>, i64) {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    (some(made), some(next), missed)
}

#[test]
fn a_night_after_the_other() {
    let mut story = Story::new(json!({}));
    for (now, made, next) in [
        ("2026-11-20T12:00:31Z", "", "2026-11-21T02:00:00Z"),
        ("2026-11-21T01:59:59Z", "", "2026-11-21T02:00:00Z"),
        (
            "2026-11-21T02:00:00Z",
            "2026-11-21T02:00:00Z",
            "2026-11-22T02:00:00Z",
        ),
        ("2026-11-21T02:00:01Z", "", "2026-11-22T02:00:00Z"),
        (
            "2026-11-22T02:00:05Z",
            "2026-11-22T02:00:00Z",
            "2026-11-23T02:00:00Z",
        ),
    ] {
        assert_eq!(story.told(now), expect(made, next, 0), "{now}");
    }
    assert_eq!(
        story.status.last_backup.as_deref(),
        Some("nightly-29921880")
    );
    assert_eq!(
        story.status.last_schedule_time,
        Some(at("2026-11-22T02:00:00Z"))
    );
    let decision = story.look("2026-11-22T03:00:00Z");
    assert_eq!(decision.again, Some(at("2026-11-23T02:00:00Z")));
    assert_eq!(decision.finding.reason, "Scheduled");
}

#[test]
fn names_tell_their_time_and_are_the_same_for_everybody() {
    let time = at("2026-11-22T02:00:00Z");
    assert_eq!(backup_name("nightly", time), "nightly-29921880");
    for (schedule, backup, expected) in [
        ("nightly", "nightly-29921880", Some(time)),
        ("nightly", "nightly-029921880", None),
        ("nightly", "nightly-x", None),
        ("nightly", "other-29921880", None),
        ("nightly", "nightly", None),
        ("nightly", "nightly-99999999999999999999", None),
        ("a-1", "a-1-29921880", Some(time)),
        ("a", "a-1-29921880", None),
    ] {
        assert_eq!(time_of(schedule, backup), expected, "{schedule} {backup}");
    }
}

#[test]
fn the_latest_missed_time_is_made_up_for_and_the_others_are_told() {
    let mut story = Story::new(json!({"schedule": "0 * * * *"}));
    story.look("2026-11-20T12:01:00Z");
    // The operator was down from 12:01 to 17:20.
    let decision = story.look("2026-11-20T17:20:00Z");
    assert_eq!(decision.make.unwrap().time, at("2026-11-20T17:00:00Z"));
    assert_eq!(decision.missed, Some((4, at("2026-11-20T16:00:00Z"))));
    assert_eq!(
        decision.status.missed, None,
        "none since the last that was made"
    );
    assert_eq!(
        decision.status.next_schedule_time,
        Some(at("2026-11-20T18:00:00Z"))
    );
}

#[test]
fn a_deadline_that_has_passed_is_a_missed_time() {
    let mut story = Story::new(json!({"startingDeadlineSeconds": 600}));
    story.look("2026-11-20T12:01:00Z");
    assert_eq!(
        story.told("2026-11-21T02:10:00Z"),
        expect("2026-11-21T02:00:00Z", "2026-11-22T02:00:00Z", 0)
    );
    assert_eq!(
        story.told("2026-11-22T02:10:01Z"),
        expect("", "2026-11-23T02:00:00Z", 1)
    );
    // Two more, and the last one of all can be made.
    let decision = story.look("2026-11-24T02:05:00Z");
    assert_eq!(decision.make.unwrap().time, at("2026-11-24T02:00:00Z"));
    assert_eq!(decision.missed, Some((1, at("2026-11-23T02:00:00Z"))));
    // None could be.
    let decision = story.look("2026-11-27T03:00:00Z");
    assert_eq!(decision.make, None);
    assert_eq!(decision.missed, Some((3, at("2026-11-27T02:00:00Z"))));
    assert_eq!(
        (decision.status.missed, decision.finding.reason.as_ref()),
        (Some(3), "Missed")
    );
    // It is told until one is made.
    assert_eq!(story.look("2026-11-27T04:00:00Z").finding.reason, "Missed");
    assert_eq!(
        story.told("2026-11-28T02:00:00Z"),
        expect("2026-11-28T02:00:00Z", "2026-11-29T02:00:00Z", 0)
    );
}

#[test]
fn backups_of_one_schedule_never_overlap() {
    let mut story = Story::new(json!({"schedule": "0 * * * *", "startingDeadlineSeconds": 5400}));
    assert!(story.look("2026-11-20T13:00:00Z").make.is_some());
    story.running = Some("nightly-1".into());
    // 14:00 waits, and does until 15:30.
    let decision = story.look("2026-11-20T14:00:00Z");
    assert_eq!((decision.make, decision.status.missed), (None, None));
    assert_eq!(
        decision.status.next_schedule_time,
        Some(at("2026-11-20T14:00:00Z"))
    );
    assert_eq!(decision.again, Some(at("2026-11-20T15:00:00Z")));
    // Now 15:00 waits in its stead, once.
    for now in [
        "2026-11-20T15:00:00Z",
        "2026-11-20T15:10:00Z",
        "2026-11-20T15:59:00Z",
    ] {
        assert_eq!(
            story.told(now),
            expect("", "2026-11-20T15:00:00Z", 1),
            "{now}"
        );
    }
    story.running = None;
    assert_eq!(
        story.told("2026-11-20T15:59:30Z"),
        expect("2026-11-20T15:00:00Z", "2026-11-20T16:00:00Z", 0)
    );
    // One that takes for ever: each time is missed when its deadline passes.
    story.running = Some("nightly-2".into());
    story.look("2026-11-20T16:00:00Z");
    let decision = story.look("2026-11-20T16:30:00Z");
    assert_eq!(decision.again, Some(at("2026-11-20T17:00:00Z")));
    let decision = story.look("2026-11-20T21:00:00Z");
    assert_eq!(decision.status.missed, Some(5));
    assert!(
        decision
            .finding
            .message
            .contains("nightly-2 has not ended yet")
    );
}

#[test]
fn what_passes_while_it_is_suspended_is_not_made_up_for() {
    for (own, reason) in [(true, SUSPENDED), (false, ARCHIVE_SUSPENDED)] {
        let mut story = Story::new(json!({}));
        story.look("2026-11-20T12:01:00Z");
        let suspend = |story: &mut Story, value| {
            if own {
                story.spec.suspend = value;
            } else {
                story.archive = Some(value);
            }
        };
        suspend(&mut story, true);
        for now in [
            "2026-11-20T23:00:00Z",
            "2026-11-21T02:00:00Z",
            "2026-11-25T02:00:00Z",
        ] {
            let decision = story.look(now);
            assert_eq!((decision.make, decision.again), (None, None), "{now}");
            assert_eq!(decision.finding.reason, reason);
            assert_eq!(decision.status.next_schedule_time, None);
        }
        suspend(&mut story, false);
        assert_eq!(
            story.told("2026-11-25T12:00:00Z"),
            expect("", "2026-11-26T02:00:00Z", 0)
        );
    }
}

#[test]
fn the_first_is_made_at_once_if_that_is_wanted() {
    let mut story = Story::new(json!({"immediate": true}));
    story.archive = None;
    let decision = story.look("2026-11-20T12:00:31Z");
    assert_eq!(
        (decision.make, decision.finding.reason.as_ref()),
        (None, "ArchiveNotFound")
    );
    story.archive = Some(true);
    assert_eq!(story.look("2026-11-20T13:00:00Z").make, None);
    story.archive = Some(false);
    let decision = story.look("2026-11-20T14:00:00Z");
    // By the time that it was made itself, so that it is the same whoever decides when.
    let name = backup_name("nightly", at("2026-11-20T12:00:00Z"));
    assert_eq!(decision.make.unwrap().name, name);
    assert_eq!(decision.status.last_schedule_time, None);
    assert_eq!(
        decision.status.next_schedule_time,
        Some(at("2026-11-21T02:00:00Z"))
    );
    // Once.
    assert_eq!(
        story.told("2026-11-20T14:00:01Z"),
        expect("", "2026-11-21T02:00:00Z", 0)
    );
    assert_eq!(
        story.told("2026-11-21T02:00:00Z"),
        expect("2026-11-21T02:00:00Z", "2026-11-22T02:00:00Z", 0)
    );
}

#[test]
fn an_archive_that_comes_later_finds_the_schedule_waiting() {
    let mut story = Story::new(json!({}));
    story.archive = None;
    assert_eq!(
        story.look("2026-11-20T12:01:00Z").finding.reason,
        "ArchiveNotFound"
    );
    let decision = story.look("2026-11-22T02:01:00Z");
    assert_eq!((decision.make, decision.status.missed), (None, Some(1)));
    story.archive = Some(false);
    assert_eq!(
        story.told("2026-11-22T03:00:00Z"),
        expect("2026-11-22T02:00:00Z", "2026-11-23T02:00:00Z", 0)
    );
}

#[test]
fn a_changed_schedule_counts_from_now() {
    let mut story = Story::new(json!({}));
    story.look("2026-11-20T12:01:00Z");
    // More often: the next one comes earlier than was announced.
    story.spec.schedule = "*/10 * * * *".into();
    assert_eq!(
        story.told("2026-11-20T12:02:00Z"),
        expect("", "2026-11-20T12:10:00Z", 0)
    );
    // Another one, noticed late: what was announced is no time of it, and nothing is made up for.
    story.spec.schedule = "5 4 * * *".into();
    assert_eq!(
        story.told("2026-11-20T18:00:00Z"),
        expect("", "2026-11-21T04:05:00Z", 0)
    );
    // One that can't be read, and is mended.
    story.spec.schedule = "5 4 * *".into();
    let decision = story.look("2026-11-20T19:00:00Z");
    assert_eq!(
        (decision.finding.reason.as_ref(), decision.again),
        ("ScheduleInvalid", None)
    );
    story.spec.schedule = "5 4 * * *".into();
    assert_eq!(
        story.told("2026-11-23T19:00:00Z"),
        expect("", "2026-11-24T04:05:00Z", 0)
    );
    // The same one in another zone.
    story.spec.time_zone = Some("Europe/Berlin".into());
    assert_eq!(
        story.told("2026-11-23T19:00:01Z"),
        expect("", "2026-11-24T03:05:00Z", 0)
    );
}

#[test]
fn a_clock_that_goes_back_makes_nothing_twice_and_stops_nothing() {
    let mut story = Story::new(json!({"schedule": "*/10 * * * *"}));
    story.look("2026-11-20T12:01:00Z");
    assert!(story.look("2026-11-20T13:00:00Z").make.is_some());
    // Half an hour back: what was made is not made again.
    for now in [
        "2026-11-20T12:30:00Z",
        "2026-11-20T12:40:00Z",
        "2026-11-20T13:00:00Z",
    ] {
        assert_eq!(
            story.told(now),
            expect("", "2026-11-20T13:10:00Z", 0),
            "{now}"
        );
    }
    assert!(story.look("2026-11-20T13:10:00Z").make.is_some());
    // It was wrong by a year: the schedule does not wait for it.
    assert!(story.look("2027-11-20T13:00:00Z").make.is_some());
    assert_eq!(
        story.told("2026-11-20T13:20:30Z"),
        expect("", "2026-11-20T13:30:00Z", 0)
    );
    assert!(story.look("2026-11-20T13:30:00Z").make.is_some());
}

#[test]
fn who_comes_back_after_years_does_not_count_for_years() {
    let mut story = Story::new(json!({"schedule": "* * * * *"}));
    story.look("2026-11-20T12:01:00Z");
    let begin = std::time::Instant::now();
    let decision = story.look("2036-11-20T12:00:30Z");
    assert_eq!(decision.make.unwrap().time, at("2036-11-20T12:00:00Z"));
    assert_eq!(decision.missed.map(|(count, _)| count), Some(COUNTED));
    assert_eq!(
        decision.status.next_schedule_time,
        Some(at("2036-11-20T12:01:00Z"))
    );
    assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
    story.spec.starting_deadline_seconds = Some(10);
    let decision = story.look("2046-11-20T12:00:30Z");
    assert!(
        decision.finding.message.starts_with("1000 or more"),
        "{}",
        decision.finding.message
    );
}

#[test]
fn a_status_that_was_lost_makes_nothing_twice() {
    let mut story = Story::new(json!({}));
    story.look("2026-11-20T12:01:00Z");
    let made = story.look("2026-11-21T02:00:00Z").make.unwrap();
    story.status = ScheduledBackupStatus::default();
    // Made again under the same name, which is taken.
    assert_eq!(story.look("2026-11-21T02:00:01Z").make, Some(made));
}
