//! What a person wants to go, goes as soon as the window and the minimum can do without it.

use super::*;

fn three() -> World {
    let mut world = World::new();
    world.timeline(1, &[], 1..=60, 0.0, NOW);
    world.backup("a", 1, 10, 10, 90.0);
    world.backup("b", 1, 30, 30, 95.0);
    world.backup("c", 1, 50, 50, 99.0);
    world
}

#[test]
fn the_window_comes_first() {
    for (asked, minimum, lost, expected) in [
        (vec![], 1, None, "1:1-9"),
        // Its moments are reached from a.
        (vec!["b"], 1, None, "b 1:1-9"),
        (vec!["c"], 1, None, "c 1:1-9"),
        (vec!["b", "c"], 1, None, "b c 1:1-9"),
        // The window's first moments are reached from a alone.
        (vec!["a"], 1, None, "1:1-9"),
        (vec!["a", "b", "c"], 1, None, "b c 1:1-9"),
        // A hole before it: a does not reach as far.
        (vec!["b"], 1, Some(20), "1:1-9"),
        (vec!["c"], 1, Some(20), "c 1:1-9"),
        (vec!["b", "c"], 1, Some(20), "c 1:1-9"),
        (vec!["c"], 1, Some(40), "1:1-9"),
        // The minimum.
        (vec!["b"], 2, None, "b 1:1-9"),
        (vec!["b"], 3, None, "1:1-9"),
        (vec!["b", "c"], 2, None, "b 1:1-9"),
    ] {
        let mut world = three();
        world.policy.minimum_backups = minimum;
        if let Some(lost) = lost {
            let runs = (1..=60).filter(|n| *n != lost).map(SegmentNumber);
            world.last().catalogue.timelines[0].runs = runs.collect();
        }
        asked.iter().for_each(|id| world.ask(id));
        assert_eq!(world.gone(), expected, "{asked:?} {minimum} {lost:?}");
    }
}

#[test]
fn it_is_said_why_one_stays_and_why_one_goes() {
    let mut world = three();
    world.ask("a");
    world.ask("b");
    let plan = world.plan().unwrap();
    let (a, b) = (reason(&plan, "a"), reason(&plan, "b"));
    assert!(
        a.starts_with("it shall be deleted, and is still needed: the recovery window"),
        "{a}"
    );
    assert_eq!(b, "its object was deleted");
}

#[test]
fn for_ever_ends_when_somebody_asks() {
    let mut world = three();
    world.stored("b").forever = true;
    world.wishes.forever.insert("b".into());
    world.ask("b");
    assert_eq!(world.gone(), "b 1:1-9");
}

#[test]
fn one_that_can_not_be_restored_goes() {
    let mut world = three();
    let runs = (1..=60).filter(|n| *n != 30).map(SegmentNumber);
    world.last().catalogue.timelines[0].runs = runs.collect();
    assert_eq!(world.gone(), "1:1-9");
    world.ask("b");
    assert_eq!(world.gone(), "b 1:1-9");
}
