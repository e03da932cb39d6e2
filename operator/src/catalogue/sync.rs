//! Which Backup objects there should be for what is stored. Pure.
//!
//! An object is made for what is stored and has none: from before the Archive was made, taken by another installation,
//! or ordered by a person in the pod. A backup that was ordered through an object of this cluster gets no second one:
//! somebody, or a schedule's limit, has removed the first, and that shall stay so.

use crate::backup::{Phase, State};
use holdfast_repository::facts::BackupFacts;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Objects made, removed or filled in one run: whoever has thousands gets them in several.
pub const AT_ONCE: usize = 200;

/// A backup as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// As its manifest says; none where that is damaged.
    pub facts: Result<Box<BackupFacts>, String>,
    /// What it lacks: the name of the first segment that is missing.
    pub missing: Option<String>,
    /// The repository says that it stays for ever.
    pub forever: bool,
    /// Somebody asked that it be deleted.
    pub asked_to_go: bool,
    /// The Repository that has it.
    pub repository: String,
}

/// A Backup object of the Archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub name: String,
    /// The backup that it stands for: its UID, or `existingId`.
    pub id: String,
    /// It has an `existingId`.
    pub existing: bool,
    /// We have made it.
    pub ours: bool,
    /// How far it is.
    pub phase: Phase,
    /// It is being deleted.
    pub going: bool,
}

/// An Archive, as far as the catalogue has to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its name.
    pub name: String,
    /// When the object was made.
    pub created: Timestamp,
    /// Whether this installation owns what is stored.
    pub is_owner: bool,
    /// Whether every Repository of the Archive was read: else what is not seen may still be there.
    pub all_read: bool,
}

/// An object to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct New {
    /// Its name.
    pub name: String,
    /// The backup that it stands for.
    pub id: String,
    /// It stays for ever.
    pub forever: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Actions {
    /// To be made, and then filled.
    pub make: Vec<New>,
    /// Objects of ours whose backup is gone.
    pub remove: Vec<String>,
    /// Objects whose backup is gone, to be told so.
    pub expire: Vec<String>,
    /// Objects with an `existingId` whose backup is there.
    pub fill: Vec<String>,
    /// There is more than was put here.
    pub more: bool,
}

/// Decides. `stored` is by id.
pub fn plan(about: &About, stored: &BTreeMap<String, Stored>, objects: &[Object]) -> Actions {
    let mut actions = Actions::default();
    let known: BTreeSet<&str> = objects.iter().map(|object| object.id.as_str()).collect();
    let names = names(&about.name, stored.keys().map(String::as_str));
    for (id, one) in stored {
        if known.contains(id.as_str()) || one.asked_to_go || !is_listed(about, id, one) {
            continue;
        }
        if let Some(name) = names.get(id.as_str()) {
            actions.make.push(New {
                name: name.clone(),
                id: id.clone(),
                forever: one.forever,
            });
        }
    }
    for object in objects.iter().filter(|object| !object.going) {
        let is_there = stored.contains_key(&object.id);
        if object.existing && is_there {
            actions.fill.push(object.name.clone());
        } else if !is_there && about.all_read {
            if object.existing && object.ours {
                actions.remove.push(object.name.clone());
            } else if object.phase == Phase::Complete
                || (object.existing && object.phase != Phase::Expired)
            {
                actions.expire.push(object.name.clone());
            }
        }
    }
    actions.more = actions.make.len() > AT_ONCE || actions.remove.len() > AT_ONCE;
    actions.make.truncate(AT_ONCE);
    actions.remove.truncate(AT_ONCE);
    actions
}

/// Whether an object stands for it although nobody ordered it through one.
fn is_listed(about: &About, id: &str, stored: &Stored) -> bool {
    let before = match &stored.facts {
        Ok(facts) => facts.start_time < about.created,
        // Whose it is can't be told; that it is damaged should be.
        Err(_) => true,
    };
    !is_uid(id) || !about.is_owner || before
}

/// The form of an object's UID.
fn is_uid(id: &str) -> bool {
    let parts: Vec<usize> = id.split('-').map(str::len).collect();
    parts == [8, 4, 4, 4, 12]
        && id
            .bytes()
            .all(|b| b == b'-' || b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The object's name for each id: the same for everybody who sees the same backups, and short where that is enough.
fn names<'a>(archive: &str, ids: impl Iterator<Item = &'a str>) -> HashMap<&'a str, String> {
    let ids: Vec<&str> = ids.collect();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for id in &ids {
        *seen.entry(short(id)).or_default() += 1;
    }
    ids.into_iter()
        .map(|id| {
            let short = short(id);
            let is_only = seen.get(&short) == Some(&1);
            let is_name = !short.ends_with('-') && !short.is_empty();
            let part = if is_only && is_name {
                short
            } else {
                let digest = Sha256::digest(id);
                hex::encode(digest.get(..16).unwrap_or_default())
            };
            (id, format!("{archive}-{part}"))
        })
        .collect()
}

fn short(id: &str) -> String {
    match id.get(..8).filter(|_| is_uid(id)) {
        Some(first) => first.to_owned(),
        None => id.to_ascii_lowercase(),
    }
}

/// The state of an object that stands for what is stored.
pub fn state(stored: &Stored) -> State {
    match (&stored.facts, &stored.missing) {
        (Ok(_), None) => State::Complete,
        (Ok(_), Some(segment)) => State::Running {
            reason: "WalMissing",
            message: format!("the WAL segment {segment} is not archived, so it can't be restored"),
        },
        (Err(why), _) => State::Running {
            reason: "Damaged",
            message: why.clone(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};

    const UID: &str = "3f2a8c10-aaaa-bbbb-cccc-0123456789ab";
    const OTHER: &str = "3f2a8c10-dddd-bbbb-cccc-0123456789ab";
    const MANUAL: &str = "20261120T020000Z-k3v9ab";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn stored(start: i64) -> Stored {
        let facts = BackupFacts {
            id: String::new(),
            system: SystemIdentifier(7),
            timeline: TimelineId(1),
            start: Lsn(40),
            stop: Lsn(100),
            start_time: at(start),
            stop_time: at(start),
            postgres_major: 17,
            segment_size: SegmentSize::DEFAULT,
            from_standby: false,
            database_bytes: 1,
            stored_bytes: 1,
            files: 1,
            data_checksums: true,
            page_errors: 0,
            tablespaces: Vec::new(),
            settings: Default::default(),
            outside: Vec::new(),
            reference: None,
            changed_bytes: 0,
        };
        Stored {
            facts: Ok(Box::new(facts)),
            missing: None,
            forever: false,
            asked_to_go: false,
            repository: "s3".into(),
        }
    }

    fn about() -> About {
        About {
            name: "orders".into(),
            created: at(1000),
            is_owner: true,
            all_read: true,
        }
    }

    fn object(name: &str, id: &str, existing: bool, phase: Phase) -> Object {
        Object {
            name: name.into(),
            id: id.into(),
            existing,
            ours: existing,
            phase,
            going: false,
        }
    }

    fn made(about: &About, stored: &[(&str, Stored)], objects: &[Object]) -> Vec<String> {
        let stored = stored
            .iter()
            .map(|(id, one)| ((*id).to_owned(), one.clone()));
        let actions = plan(about, &stored.collect(), objects);
        actions.make.into_iter().map(|new| new.name).collect()
    }

    #[test]
    fn what_is_stored_and_has_no_object_gets_one() {
        let own = about();
        let follower = About {
            is_owner: false,
            ..about()
        };
        let damaged = Stored {
            facts: Err("flipped".into()),
            ..stored(0)
        };
        let asked = Stored {
            asked_to_go: true,
            ..stored(10)
        };
        for (about, stored, objects, expected) in [
            // From before the Archive was made: another cluster's, or an Archive that was made again.
            (
                &own,
                vec![(UID, stored(10))],
                vec![],
                vec!["orders-3f2a8c10"],
            ),
            // It had an object here, which was removed.
            (&own, vec![(UID, stored(2000))], vec![], vec![]),
            // Another installation goes on taking backups.
            (
                &follower,
                vec![(UID, stored(2000))],
                vec![],
                vec!["orders-3f2a8c10"],
            ),
            // Ordered in the pod.
            (
                &own,
                vec![(MANUAL, stored(2000))],
                vec![],
                vec!["orders-20261120t020000z-k3v9ab"],
            ),
            (&own, vec![(UID, damaged)], vec![], vec!["orders-3f2a8c10"]),
            (&own, vec![(UID, asked)], vec![], vec![]),
            (
                &own,
                vec![(UID, stored(10))],
                vec![object("x", UID, true, Phase::Complete)],
                vec![],
            ),
            (
                &own,
                vec![(UID, stored(10))],
                vec![object("nightly-1", UID, false, Phase::Complete)],
                vec![],
            ),
        ] {
            assert_eq!(made(about, &stored, &objects), expected, "{stored:?}");
        }
    }

    #[test]
    fn names_are_short_unless_two_would_have_the_same() {
        let two = [(UID, stored(10)), (OTHER, stored(10))];
        let names = made(&about(), &two, &[]);
        assert_eq!(names.len(), 2);
        assert_ne!(names[0], names[1]);
        assert!(
            names.iter().all(|name| name.len() == "orders-".len() + 32),
            "{names:?}"
        );
        // Ids that no name can be made of as they are.
        for ids in [["Ab", "aB"], ["a-", "b-"]] {
            let two = ids.map(|id| (id, stored(10)));
            let names = made(&about(), &two, &[]);
            assert!(
                names[0] != names[1] && names.iter().all(|n| !n.ends_with('-')),
                "{names:?}"
            );
        }
    }

    #[test]
    fn what_is_gone_is_removed_or_told() {
        let objects = [
            object("listed", UID, true, Phase::Complete),
            Object {
                ours: false,
                ..object("by-hand", UID, true, Phase::Waiting)
            },
            object("complete", OTHER, false, Phase::Complete),
            object("failed", "f", false, Phase::Failed),
            object("runs", "r", false, Phase::Ordered),
            object("waits", "w", false, Phase::Waiting),
            object("expired", "e", false, Phase::Expired),
            Object {
                going: true,
                ..object("going", "g", false, Phase::Complete)
            },
        ];
        let actions = plan(&about(), &BTreeMap::new(), &objects);
        assert_eq!(actions.remove, ["listed"]);
        assert_eq!(actions.expire, ["by-hand", "complete"]);
        // Not unless every Repository was seen.
        let half = About {
            all_read: false,
            ..about()
        };
        assert_eq!(plan(&half, &BTreeMap::new(), &objects), Actions::default());
        let all = BTreeMap::from([(UID.to_owned(), stored(10)), (OTHER.to_owned(), stored(10))]);
        let actions = plan(&about(), &all, &objects);
        assert_eq!((actions.remove.len(), actions.expire.len()), (0, 0));
        assert_eq!(actions.fill, ["listed", "by-hand"]);
    }

    #[test]
    fn thousands_come_in_several_runs() {
        let all = (0..1000).map(|n| (format!("b{n}"), stored(10))).collect();
        let actions = plan(&about(), &all, &[]);
        assert_eq!((actions.make.len(), actions.more), (AT_ONCE, true));
    }

    #[test]
    fn a_state_tells_what_a_backup_lacks() {
        let lacks = Stored {
            missing: Some("00000001000000000000000A".into()),
            ..stored(0)
        };
        assert_eq!(state(&stored(0)), State::Complete);
        assert!(
            matches!(state(&lacks), State::Running { reason: "WalMissing", message } if message.contains("0A"))
        );
    }
}
