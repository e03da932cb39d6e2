//! What becomes of a data directory before Postgres starts on it. Pure.

use holdfast_postgres::SystemIdentifier;
use std::path::Path;

/// What stands where Postgres' data directory belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A database: in words, which.
    Database(String),
    /// Nothing of anybody's.
    Empty,
    /// What a restore that was killed has left: it can't be started.
    Unfinished,
    /// Files, and no database.
    Foreign,
    /// It can't be told: why.
    Unreadable(String),
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
    /// Postgres must not start: why, and what to do.
    Refuse(String),
}

/// Only the first pod is restored, and only before its archive holds anything: so neither a pod that was added later nor a
/// lost volume ever becomes a second primary.
pub(super) fn decide(seen: &Seen<'_>) -> Decision {
    let directory = seen.directory.display();
    let first = seen.index.is_none_or(|index| index == 0);
    match seen.place {
        Place::Database(words) => Decision::LeaveIt(format!("{directory} is {words}")),
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
    fn every_state() {
        let database = Place::Database("a data directory".into());
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
            };
            let (done, said) = match decide(&seen) {
                Decision::LeaveIt(said) => (leave, said),
                Decision::Refuse(said) => (refuse, said),
                Decision::LookIntoArchive => ("look", String::new()),
                Decision::Restore => ("restore", String::new()),
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
