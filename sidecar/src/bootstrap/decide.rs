//! What becomes of a data directory before Postgres starts on it. Pure.

use holdfast_postgres::{SystemIdentifier, TimelineId};
use std::path::Path;

/// What stands where Postgres' data directory belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A database.
    Database(Found),
    /// Nothing of anybody's.
    Empty,
    /// What a restore that was killed has left: it can't be started.
    Unfinished,
    /// Files, and no database.
    Foreign,
    /// It can't be told: why.
    Unreadable(String),
}

/// A database that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Which it is, in words.
    pub words: String,
    /// Whose WAL it writes.
    pub system: SystemIdentifier,
    /// The restore in place that was carried out here last; or why that can't be told.
    pub last_order: Result<Option<String>, String>,
    /// It would start as a primary of this timeline,
    pub primary_of: Option<TimelineId>,
}

/// What the pod's own archive holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// Nothing, in no repository that it must be in.
    Nothing,
    /// A database.
    Database(SystemIdentifier),
}

/// All that is decided by.
#[derive(Debug, Clone)]
pub(super) struct Seen<'a> {
    /// Of Postgres.
    pub directory: &'a Path,
    /// What stands there.
    pub place: &'a Place,
    /// Whether the settings say from what an empty one is restored.
    pub recovers: bool,
    /// Whether that is the pod's own archive.
    pub from_itself: bool,
    /// Of the pod in its StatefulSet; none elsewhere.
    pub index: Option<u32>,
    /// None: not looked at yet.
    pub held: Option<Held>,
    /// The newest timeline of the database in [`Place::Database`] that is known.
    pub newest: Option<TimelineId>,
    /// Whether it may start without its WAL having been stored.
    pub skips_drain: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// Postgres may start, or make its database; this is said.
    LeaveIt(String),
    /// It depends on what the pod's own archive holds.
    LookIntoArchive,
    /// It is restored.
    Restore,
    /// Its WAL is stored first: another server has taken over, and what only this one has would never be. This is said.
    Drain(String),
    /// Postgres must not start: why, and what to do.
    Refuse(String),
}

/// Only the first pod is restored, and only before its archive holds anything: so neither a pod that was added later nor a
/// lost volume ever becomes a second primary.
pub(super) fn decide(seen: &Seen<'_>) -> Decision {
    let directory = seen.directory.display();
    let first = seen.index.is_none_or(|index| index == 0);
    match seen.place {
        Place::Database(found) => match (found.primary_of, seen.newest) {
            (Some(own), Some(newest)) if own < newest && !seen.skips_drain => {
                Decision::Drain(format!(
                    "{directory} was the primary's on timeline {own}, and timeline {newest} has taken over: what only it has is stored first"
                ))
            }
            _ => Decision::LeaveIt(format!("{directory} is {}", found.words)),
        },
        // Whoever can look there might find it empty, and make a new database.
        Place::Unreadable(why) if seen.recovers && first => Decision::Refuse(format!(
            "{why}; so it can't be told whether {directory} is empty, which bootstrap.recovery restores"
        )),
        Place::Unreadable(why) => Decision::LeaveIt(why.clone()),
        Place::Foreign if seen.recovers && first => Decision::Refuse(format!(
            "{directory} holds files and no database, and bootstrap.recovery restores only into an empty directory: empty it, or take bootstrap.recovery out of the Archive"
        )),
        Place::Foreign => Decision::LeaveIt(format!(
            "{directory} is no data directory: it holds files, and no global/pg_control"
        )),
        Place::Empty if !seen.recovers => Decision::LeaveIt(format!("{directory} is empty")),
        Place::Empty if !first => Decision::LeaveIt(format!(
            "{directory} is empty, and only the pod with the number 0 is restored: this one is to be cloned"
        )),
        Place::Empty | Place::Unfinished if seen.recovers && first && seen.from_itself => {
            Decision::Refuse(
                "bootstrap.recovery names this Archive itself, and a database that is restored from an archive never goes on in it as a copy: give the Archive another name, or make it in another namespace".to_owned(),
            )
        }
        Place::Unfinished if !seen.recovers || !first => Decision::Refuse(format!(
            "a restore into {directory} has begun and not ended: what is there can't be started; restore it again, or empty it"
        )),
        Place::Empty | Place::Unfinished => match (seen.held, seen.place) {
            (None, _) => Decision::LookIntoArchive,
            (Some(Held::Nothing), _) => Decision::Restore,
            (Some(Held::Database(system)), Place::Empty) => Decision::LeaveIt(format!(
                "{directory} is empty, and the archive holds the database {system} already: bootstrap.recovery restores only before anything was archived"
            )),
            (Some(Held::Database(system)), _) => Decision::Refuse(format!(
                "a restore into {directory} has begun and not ended, and the archive holds the database {system} by now: empty the directory, and clone or restore that one"
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_primary_gives_up_its_wal_before_it_starts() {
        for (primary_of, newest, skips_drain, drains) in [
            (Some(1), Some(2), false, true),
            (Some(1), Some(2), true, false),
            (Some(2), Some(2), false, false),
            (Some(3), Some(2), false, false),
            (Some(1), None, false, false),
            // A standby, or one that recovers.
            (None, Some(2), false, false),
        ] {
            let place = Place::Database(Found {
                words: "a data directory".into(),
                system: SystemIdentifier(7),
                last_order: Ok(None),
                primary_of: primary_of.map(TimelineId),
            });
            let decision = decide(&Seen {
                directory: Path::new("/data"),
                place: &place,
                recovers: false,
                from_itself: false,
                index: None,
                held: None,
                newest: newest.map(TimelineId),
                skips_drain,
            });
            let drained = matches!(decision, Decision::Drain(_));
            assert_eq!(drained, drains, "{primary_of:?} {newest:?} {decision:?}");
        }
    }

    #[test]
    fn every_state() {
        let database = Place::Database(Found {
            words: "a data directory".into(),
            system: SystemIdentifier(7),
            last_order: Ok(None),
            primary_of: None,
        });
        let unreadable = Place::Unreadable("it can't be read".into());
        let other = Some(Held::Database(SystemIdentifier(7)));
        let nothing = Some(Held::Nothing);
        let (leave, refuse) = ("leave", "refuse");
        for (place, recovers, index, held, does, says) in [
            (&database, false, None, None, leave, "a data directory"),
            (&database, true, Some(0), None, leave, "a data directory"),
            (&unreadable, false, None, None, leave, "can't be read"),
            (&unreadable, true, Some(1), None, leave, "can't be read"),
            (&unreadable, true, None, None, refuse, "can't be told"),
            (&Place::Foreign, false, None, None, leave, "holds files"),
            (&Place::Foreign, true, Some(1), None, leave, "holds files"),
            (&Place::Foreign, true, Some(0), None, refuse, "empty it"),
            (&Place::Foreign, true, None, None, refuse, "empty it"),
            (&Place::Empty, false, Some(0), None, leave, "is empty"),
            (&Place::Empty, true, Some(1), None, leave, "to be cloned"),
            (&Place::Empty, true, Some(0), None, "look", ""),
            (&Place::Empty, true, None, None, "look", ""),
            (&Place::Empty, true, Some(0), nothing, "restore", ""),
            (&Place::Empty, true, None, nothing, "restore", ""),
            (&Place::Empty, true, Some(0), other, leave, "database 7"),
            (
                &Place::Unfinished,
                false,
                Some(0),
                None,
                refuse,
                "not ended",
            ),
            (&Place::Unfinished, true, Some(1), None, refuse, "not ended"),
            (&Place::Unfinished, true, Some(0), None, "look", ""),
            (&Place::Unfinished, true, Some(0), nothing, "restore", ""),
            (
                &Place::Unfinished,
                true,
                Some(0),
                other,
                refuse,
                "database 7",
            ),
        ] {
            let seen = Seen {
                directory: Path::new("/data"),
                place,
                recovers,
                from_itself: false,
                index,
                held,
                newest: Some(TimelineId(9)),
                skips_drain: false,
            };
            let (done, said) = match decide(&seen) {
                Decision::LeaveIt(said) => (leave, said),
                Decision::Refuse(said) => (refuse, said),
                Decision::LookIntoArchive => ("look", String::new()),
                Decision::Restore => ("restore", String::new()),
                Decision::Drain(said) => ("drain", said),
            };
            assert_eq!(done, does, "{seen:?}: {said}");
            assert!(said.contains(says), "{seen:?}: {said}");
            // Of itself nothing is ever restored.
            let decision = decide(&Seen {
                from_itself: true,
                ..seen
            });
            let asked = matches!(does, "look" | "restore") || held == other;
            assert_eq!(
                matches!(decision, Decision::Refuse(_)),
                asked || does == refuse
            );
        }
    }
}
