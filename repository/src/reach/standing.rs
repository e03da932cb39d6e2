//! What people want to know of an archive first: can it be recovered, up to when, and from which backup.

use super::{Indexes, Window};
use crate::catalogue::Catalogue;
use crate::facts::BackupFacts;
use crate::object::ObjectError;
use holdfast_postgres::SegmentName;

/// How an incarnation's archive stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What can be reached; none without a complete backup.
    pub window: Option<Window>,
    /// The segment whose absence ends the window although there is later WAL. What came after it is recoverable only
    /// once another backup is complete.
    pub hole: Option<SegmentName>,
    /// The newest complete backup, on any timeline.
    pub newest: Option<BackupFacts>,
}

impl Standing {
    /// Reads the few indexes that it takes.
    pub async fn of(catalogue: &Catalogue, source: &impl Indexes) -> Result<Self, ObjectError> {
        let window = Window::of(catalogue, source).await?;
        Ok(Self {
            hole: window
                .as_ref()
                .and_then(|window| hole_after(catalogue, window)),
            newest: newest_complete(catalogue).cloned(),
            window,
        })
    }
}

/// The newest complete backup, on any timeline.
pub fn newest_complete(catalogue: &Catalogue) -> Option<&BackupFacts> {
    catalogue
        .backups
        .iter()
        .filter(|backup| backup.is_complete())
        .map(|backup| &backup.facts)
        .max_by_key(|facts| (facts.timeline, facts.stop))
}

/// The segment whose absence ends the window although there is later WAL.
pub fn hole_after(catalogue: &Catalogue, window: &Window) -> Option<SegmentName> {
    let lineage = catalogue.lineage(window.timeline)?;
    let newest = catalogue.restorable(&lineage).first()?.start;
    let chain = catalogue.chain(&lineage, newest.segment(catalogue.segment_size));
    chain.gap.then_some(chain.missing)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::sample::{MIB, Model, commit, other};
    use super::*;
    use futures::executor::block_on;
    use holdfast_postgres::Lsn;

    fn standing(model: &Model) -> Standing {
        block_on(Standing::of(&model.catalogue(), model)).unwrap()
    }

    #[test]
    fn it_tells_the_newest_complete_backup_and_the_hole_after_it() {
        let mut model = Model::default();
        assert_eq!(
            standing(&model),
            Standing {
                window: None,
                hole: None,
                newest: None
            }
        );
        model.write(1, Lsn(MIB), [commit(3, 50), other(100)]);
        let start = model.position(1);
        model.write(1, Lsn(0), [other(100)]);
        let stop = model.position(1);
        model.fill(1, Lsn(5 * MIB));
        model.back_up("a", 1, start, stop, 90);
        model.back_up("b", 1, Lsn(3 * MIB), Lsn(4 * MIB + 8), 95);
        let unfinished = standing(&model);
        assert_eq!((unfinished.window, unfinished.newest), (None, None));

        model.archive(1, [1, 2]);
        let one = standing(&model);
        assert!(one.window.is_some() && one.hole.is_none());
        assert_eq!(one.newest.unwrap().id, "a");

        model.archive(1, [4]);
        let two = standing(&model);
        assert_eq!(two.window, one.window);
        assert_eq!(two.hole.unwrap().to_string(), "000000010000000000000003");

        model.archive(1, [3]);
        let three = standing(&model);
        assert_eq!(three.hole, None);
        assert_eq!(three.newest.unwrap().id, "b");
    }
}
