//! Whose turn it is: one backup of an Archive at a time, the oldest first. Pure.

use super::phase::Phase;
use holdfast_crds::BackupSource;
use jiff::Timestamp;

/// A Backup of the Archive that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InLine {
    /// Its name.
    pub name: String,
    /// When the object was made.
    pub created: Timestamp,
    /// How far it is.
    pub phase: Phase,
    /// Which server it is for.
    pub wanted: BackupSource,
    /// It waits for a server that it could read.
    pub blocked: bool,
    /// Its object is being deleted.
    pub going: bool,
}

/// The Backup that `own` has to wait for, and whether that one runs; none if it is its turn.
pub fn before<'a>(own: &InLine, others: &'a [InLine]) -> Option<(&'a str, bool)> {
    let others = others.iter().filter(|other| other.name != own.name);
    if let Some(runs) = others.clone().find(|other| other.phase == Phase::Ordered) {
        return Some((&runs.name, true));
    }
    // One that waits for a server of another kind holds up nobody who could begin.
    let holds_up = |other: &InLine| !(other.blocked && other.wanted != own.wanted);
    others
        .filter(|other| other.phase == Phase::Waiting && !other.going && holds_up(other))
        .filter(|other| (other.created, &other.name) < (own.created, &own.name))
        .min_by_key(|other| (other.created, &other.name))
        .map(|other| (other.name.as_str(), false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(name: &str, second: i64, phase: Phase) -> InLine {
        InLine {
            name: name.into(),
            created: Timestamp::from_second(second).unwrap(),
            phase,
            wanted: BackupSource::PreferStandby,
            blocked: false,
            going: false,
        }
    }

    #[test]
    fn the_oldest_goes_first_and_one_at_a_time() {
        let own = backup("b", 5, Phase::Waiting);
        let blocked = |wanted| InLine {
            blocked: true,
            wanted,
            ..backup("a", 1, Phase::Waiting)
        };
        for (others, expected) in [
            (vec![], None),
            (vec![own.clone()], None),
            (vec![backup("a", 1, Phase::Waiting)], Some(("a", false))),
            (vec![backup("c", 9, Phase::Waiting)], None),
            // Made in the same second.
            (vec![backup("a", 5, Phase::Waiting)], Some(("a", false))),
            (vec![backup("c", 5, Phase::Waiting)], None),
            (
                vec![
                    backup("c", 9, Phase::Ordered),
                    backup("a", 1, Phase::Waiting),
                ],
                Some(("c", true)),
            ),
            (
                vec![
                    backup("a2", 2, Phase::Waiting),
                    backup("a1", 1, Phase::Waiting),
                ],
                Some(("a1", false)),
            ),
            (
                vec![
                    backup("a", 1, Phase::Complete),
                    backup("a2", 1, Phase::Failed),
                ],
                None,
            ),
            // It waits for a standby that may never come.
            (vec![blocked(BackupSource::Standby)], None),
            (
                vec![blocked(BackupSource::PreferStandby)],
                Some(("a", false)),
            ),
            (
                vec![InLine {
                    going: true,
                    ..backup("a", 1, Phase::Waiting)
                }],
                None,
            ),
            // One that is cancelled runs until it has ended.
            (
                vec![InLine {
                    going: true,
                    ..backup("a", 1, Phase::Ordered)
                }],
                Some(("a", true)),
            ),
        ] {
            assert_eq!(before(&own, &others), expected, "{others:?}");
        }
    }
}
