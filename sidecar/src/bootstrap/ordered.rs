//! What an order of a restore in place means for the pod's data directory. Pure.

use super::decide::{Found, Place};
use crate::config::RestoreOrder;
use std::path::Path;

/// What becomes of a pod by an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It is restored.
    Restored,
    /// It is emptied, to be cloned again.
    Wiped,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ordered {
    /// It waits to be let go: nothing is done, and Postgres does not start. This is said.
    Hold(String),
    /// It is restored.
    Restore,
    /// It is emptied, to be cloned again.
    Wipe,
    /// It is not carried out: why, and what to do.
    Refuse(String),
}

/// Decides for the pod of this name; none: the order is not about it, or has been carried out here. `let_go`: the operator
/// has said that nobody uses the data directories any more.
pub(super) fn decide(
    order: &RestoreOrder,
    pod: &str,
    directory: &Path,
    place: &Place,
    let_go: bool,
) -> Option<Ordered> {
    let role = if order.pod == pod {
        Role::Restored
    } else if order.wiped.iter().any(|wiped| wiped == pod) {
        Role::Wiped
    } else {
        return None;
    };
    let at = directory.display();
    let unless_forced = |why: String| (!order.force).then_some(Ordered::Refuse(why));
    let refused = match (place, role) {
        (
            Place::Database(Found {
                last_order: Ok(Some(last)),
                ..
            }),
            _,
        ) if *last == order.id => {
            return None;
        }
        // It is to be cloned, or is just being so.
        (Place::Empty | Place::Foreign, Role::Wiped) => return None,
        (Place::Database(found), _) if found.system != order.system_identifier => {
            Some(Ordered::Refuse(format!(
                "{at} holds the database {}, and the restore is of {}: it is left as it is",
                found.system, order.system_identifier
            )))
        }
        (
            Place::Database(Found {
                last_order: Err(why),
                ..
            }),
            _,
        ) => unless_forced(format!(
            "{why}; so it can't be told whether this restore was carried out before: with spec.force it is carried out"
        )),
        (Place::Foreign, Role::Restored) => Some(Ordered::Refuse(format!(
            "{at} holds files and no database, and a restore in place replaces only a database: empty it first"
        ))),
        (Place::Unreadable(why), _) => unless_forced(format!(
            "{why}; so it can't be told which WAL of it is missing from the archive: with spec.force it is replaced all the same"
        )),
        (Place::Database(_) | Place::Empty | Place::Unfinished, _) => None,
    };
    Some(refused.unwrap_or(match (let_go, role) {
        (false, _) => Ordered::Hold(format!(
            "the restore {} is ordered, and begins once the operator has seen that the pods of before are gone",
            order.id
        )),
        (true, Role::Restored) => Ordered::Restore,
        (true, Role::Wiped) => Ordered::Wipe,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::recovery::Action;
    use holdfast_postgres::SystemIdentifier;
    use holdfast_repository::reach::{Request, Target, TimelineChoice};

    fn order(force: bool) -> RestoreOrder {
        RestoreOrder {
            id: "a1".into(),
            pod: "orders-0".into(),
            wiped: vec!["orders-1".into()],
            system_identifier: SystemIdentifier(7),
            repository: "s3".into(),
            request: Request {
                target: Target::Latest,
                exclusive: false,
                timeline: TimelineChoice::Latest,
                backup: None,
            },
            action: Action::Promote,
            force,
        }
    }

    fn database(system: u64, last_order: Option<&str>) -> Place {
        Place::Database(Found {
            words: "a data directory".into(),
            system: SystemIdentifier(system),
            last_order: Ok(last_order.map(str::to_owned)),
            primary_of: None,
        })
    }

    #[test]
    fn every_state() {
        let unreadable = Place::Unreadable("pg_control is damaged".into());
        let (old, other) = (database(7, Some("a0")), database(8, None));
        let done = database(7, Some("a1"));
        // What is done before it is let go, what afterwards, and what afterwards by force.
        for (place, pod, held, gone, forced) in [
            (&old, "orders-0", "hold", "restore", "restore"),
            (&old, "orders-1", "hold", "wipe", "wipe"),
            (&old, "orders-2", "none", "none", "none"),
            (&done, "orders-0", "none", "none", "none"),
            (&done, "orders-1", "none", "none", "none"),
            (&other, "orders-0", "refuse", "refuse", "refuse"),
            (&other, "orders-1", "refuse", "refuse", "refuse"),
            (&other, "other-0", "none", "none", "none"),
            (&Place::Empty, "orders-0", "hold", "restore", "restore"),
            (&Place::Empty, "orders-1", "none", "none", "none"),
            (&Place::Unfinished, "orders-0", "hold", "restore", "restore"),
            (&Place::Unfinished, "orders-1", "hold", "wipe", "wipe"),
            (&Place::Foreign, "orders-0", "refuse", "refuse", "refuse"),
            (&Place::Foreign, "orders-1", "none", "none", "none"),
            (&unreadable, "orders-0", "refuse", "refuse", "restore"),
            (&unreadable, "orders-1", "refuse", "refuse", "wipe"),
        ] {
            for (let_go, force, does) in [
                (false, false, held),
                (true, false, gone),
                (true, true, forced),
            ] {
                let decided = decide(&order(force), pod, Path::new("/data"), place, let_go);
                let done = match &decided {
                    None => "none",
                    Some(Ordered::Hold(_)) => "hold",
                    Some(Ordered::Restore) => "restore",
                    Some(Ordered::Wipe) => "wipe",
                    Some(Ordered::Refuse(_)) => "refuse",
                };
                assert_eq!(done, does, "{place:?} {pod} {let_go} {force}: {decided:?}");
            }
        }
    }
}
