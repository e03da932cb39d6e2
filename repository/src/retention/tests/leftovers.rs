//! What is left of backups that were interrupted, and packs that several need.

use super::*;

fn fate(world: &mut World, id: &str) -> (Fate, String) {
    let plan = world.plan().unwrap();
    let all = plan.incarnations.iter().flat_map(|i| &i.backups);
    let fate = all.into_iter().find(|b| b.id == id).unwrap().clone();
    (fate.fate, fate.reason)
}

fn removes(manifest: bool, packs: impl IntoIterator<Item = u32>) -> Fate {
    let packs = packs.into_iter().collect();
    Fate::Delete(Remove { manifest, packs })
}

fn base() -> World {
    let mut world = World::new();
    world.timeline(1, &[], 1..=20, 0.0, NOW);
    world.backup("a", 1, 5, 5, 50.0);
    world.backup("b", 1, 9, 9, 60.0);
    world
}

#[test]
fn an_interrupted_backup_is_given_up_then_cleared_then_forgotten() {
    for (state, last_sign, expected) in [
        (State::Open, 99.999, Fate::Keep),
        (State::Open, 99.995, Fate::Keep),
        (State::Open, 99.98, Fate::GiveUp),
        (State::Open, 10.0, Fate::GiveUp),
        // A clock that is ahead.
        (State::Open, 101.0, Fate::Keep),
        (State::Aborted(day(99.9)), 99.8, Fate::Keep),
        (State::Aborted(day(99.0)), 98.9, removes(false, 0..3)),
    ] {
        let mut world = base();
        world.open("x", state, last_sign);
        let (fate, reason) = fate(&mut world, "x");
        assert_eq!(fate, expected, "{state:?} {last_sign}: {reason}");
    }
    // All but the word that it was given up is gone.
    for (at, expected) in [
        (99.0, Fate::Keep),
        (71.0, Fate::Keep),
        (69.0, removes(true, [])),
    ] {
        let mut world = base();
        world.open("x", State::Aborted(day(at)), at);
        world.stored("x").packs = PackNumbers::default();
        world.stored("x").signs = false;
        assert_eq!(fate(&mut world, "x").0, expected, "{at}");
    }
}

#[test]
fn what_an_interrupted_backup_sent_waits_for_one_that_runs() {
    let mut world = base();
    world.open("x", State::Aborted(day(90.0)), 89.0);
    world.open("r", State::Open, 99.999);
    assert_eq!(fate(&mut world, "x").0, Fate::Keep);
    world.stored("r").state = State::Aborted(day(99.999));
    assert_eq!(fate(&mut world, "x").0, removes(false, 0..3));
}

#[test]
fn a_half_deleted_backup_is_deleted_to_its_end() {
    for by_person in [false, true] {
        let mut world = base();
        world.open("x", State::Open, 20.0);
        let request = Request {
            reason: String::new(),
            by_person,
        };
        world.last().doomed.backups.insert("x".into(), request);
        // What a person wanted to go may never have been committed, and could be still.
        let expected = if by_person {
            Fate::GiveUp
        } else {
            removes(true, 0..3)
        };
        assert_eq!(fate(&mut world, "x").0, expected);
        // Whatever is announced, what runs is left alone.
        world.stored("x").last_sign = day(99.999);
        assert_eq!(fate(&mut world, "x").0, Fate::Keep);
    }
}

#[test]
fn packs_stay_as_long_as_anybody_needs_them() {
    let mut world = base();
    // b needs one of a's two packs.
    let one = PackNumbers::from_iter([1]);
    world.stored("b").uses.insert("a".into(), one);
    assert_eq!(fate(&mut world, "a").0, removes(true, [0]));
    // What is left then has no manifest, and is given up; its pack stays as long as b does.
    world.last().catalogue.backups.retain(|b| b.facts.id == "b");
    world.last().stored.remove("a");
    world.open("a", State::Aborted(day(90.0)), 50.0);
    world.stored("a").packs = PackNumbers::from_iter([1]);
    assert_eq!(fate(&mut world, "a").0, removes(false, []));
    world.stored("a").signs = false;
    assert_eq!(fate(&mut world, "a").0, Fate::Keep);
}
