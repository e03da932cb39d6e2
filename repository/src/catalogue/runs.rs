//! Which segments of a timeline there are.

use holdfast_postgres::SegmentNumber;
use std::collections::BTreeMap;

/// Segments as runs without a hole: memory grows with the holes, not with the segments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runs {
    /// The last one of a run, by its first.
    by_first: BTreeMap<u64, u64>,
}

/// Segments without a hole between them, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The lowest.
    pub first: SegmentNumber,
    /// The highest.
    pub last: SegmentNumber,
}

impl Runs {
    /// Adds a segment; they may come in any order.
    pub fn insert(&mut self, segment: SegmentNumber) {
        let number = segment.0;
        let mut first = number;
        if let Some((&before, &last)) = self.by_first.range(..=number).next_back() {
            if last >= number {
                return;
            }
            if last + 1 == number {
                first = before;
            }
        }
        let after = number
            .checked_add(1)
            .and_then(|next| self.by_first.remove(&next));
        self.by_first.insert(first, after.unwrap_or(number));
    }

    /// Adds every segment from `first` to `last`, both ends included.
    pub fn insert_run(
        &mut self,
        Run {
            mut first,
            mut last,
        }: Run,
    ) {
        if last < first {
            return;
        }
        // Those that touch it become one with it.
        while let Some((&before, &end)) =
            self.by_first.range(..=last.0.saturating_add(1)).next_back()
            && end.saturating_add(1) >= first.0
        {
            self.by_first.remove(&before);
            first = first.min(SegmentNumber(before));
            last = last.max(SegmentNumber(end));
        }
        self.by_first.insert(first.0, last.0);
    }

    /// What is here and in `other` as well.
    #[must_use]
    pub fn both(&self, other: &Self) -> Self {
        let mut common = Self::default();
        for run in self.iter() {
            let touching = other.by_first.range(..=run.last.0).rev();
            for (&first, &last) in touching.take_while(|(_, last)| **last >= run.first.0) {
                common.insert_run(Run {
                    first: run.first.max(SegmentNumber(first)),
                    last: run.last.min(SegmentNumber(last)),
                });
            }
        }
        common
    }

    /// What is here and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Self::default();
        for run in self.iter() {
            let mut next = run.first.0;
            for hole in within(run, other) {
                if next < hole.first.0 {
                    left.by_first.insert(next, hole.first.0 - 1);
                }
                next = hole.last.0.saturating_add(1);
                if hole.last.0 == u64::MAX {
                    return left;
                }
            }
            if next <= run.last.0 {
                left.by_first.insert(next, run.last.0);
            }
        }
        left
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.by_first.is_empty()
    }

    /// The run that holds this segment.
    pub fn holding(&self, segment: SegmentNumber) -> Option<Run> {
        let (&first, &last) = self.by_first.range(..=segment.0).next_back()?;
        (last >= segment.0).then_some(Run {
            first: SegmentNumber(first),
            last: SegmentNumber(last),
        })
    }

    /// Whether any segment lies in the range, both ends included.
    pub fn any_in(&self, first: SegmentNumber, last: SegmentNumber) -> bool {
        first <= last
            && self
                .by_first
                .range(..=last.0)
                .next_back()
                .is_some_and(|(_, &end)| end >= first.0)
    }

    /// Every run, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = Run> + '_ {
        self.by_first.iter().map(|(&first, &last)| Run {
            first: SegmentNumber(first),
            last: SegmentNumber(last),
        })
    }

    /// The lowest segment.
    pub fn first(&self) -> Option<SegmentNumber> {
        self.by_first
            .first_key_value()
            .map(|(&first, _)| SegmentNumber(first))
    }

    /// The highest segment.
    pub fn last(&self) -> Option<SegmentNumber> {
        self.by_first
            .last_key_value()
            .map(|(_, &last)| SegmentNumber(last))
    }

    /// How many segments there are.
    pub fn count(&self) -> u64 {
        self.by_first
            .iter()
            .map(|(first, last)| last - first + 1)
            .sum()
    }
}

/// What of `run` is in `other`, lowest first.
fn within(run: Run, other: &Runs) -> Vec<Run> {
    let mut one = Runs::default();
    one.insert_run(run);
    one.both(other).iter().collect()
}

impl FromIterator<SegmentNumber> for Runs {
    fn from_iter<I: IntoIterator<Item = SegmentNumber>>(segments: I) -> Self {
        let mut runs = Self::default();
        segments
            .into_iter()
            .for_each(|segment| runs.insert(segment));
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn runs_hold_what_was_inserted_and_nothing_else(numbers in proptest::collection::vec(0u64..40, 0..60)) {
            let runs: Runs = numbers.iter().map(|n| SegmentNumber(*n)).collect();
            let set: BTreeSet<u64> = numbers.iter().copied().collect();
            prop_assert_eq!(runs.count(), set.len() as u64);
            prop_assert_eq!(runs.first().map(|n| n.0), set.first().copied());
            prop_assert_eq!(runs.last().map(|n| n.0), set.last().copied());
            for n in 0..40 {
                prop_assert_eq!(runs.holding(SegmentNumber(n)).is_some(), set.contains(&n));
                prop_assert_eq!(runs.any_in(SegmentNumber(n), SegmentNumber(n + 3)), set.range(n..=n + 3).next().is_some());
            }
            let mut last = None;
            for run in runs.iter() {
                prop_assert!(run.first <= run.last);
                prop_assert!(last.is_none_or(|last: u64| last + 1 < run.first.0), "runs that touch are one");
                last = Some(run.last.0);
            }
        }

        #[test]
        fn they_are_added_and_compared_as_sets(
            one in proptest::collection::vec((0u64..40, 0u64..6), 0..12),
            other in proptest::collection::vec((0u64..40, 0u64..6), 0..12),
        ) {
            let build = |pairs: &[(u64, u64)]| {
                let (mut runs, mut set) = (Runs::default(), BTreeSet::new());
                for (first, length) in pairs {
                    runs.insert_run(Run { first: SegmentNumber(*first), last: SegmentNumber(first + length) });
                    set.extend(*first..=first + length);
                }
                (runs, set)
            };
            let members = |runs: &Runs| -> BTreeSet<u64> { runs.iter().flat_map(|run| run.first.0..=run.last.0).collect() };
            let ((a, in_a), (b, in_b)) = (build(&one), build(&other));
            prop_assert_eq!(members(&a), in_a.clone());
            prop_assert_eq!(members(&a.both(&b)), &in_a & &in_b);
            prop_assert_eq!(members(&a.without(&b)), &in_a - &in_b);
            // As they would be built one by one, so that they compare equal.
            for runs in [&a, &a.both(&b), &a.without(&b)] {
                let again: Runs = members(runs).into_iter().map(SegmentNumber).collect();
                prop_assert_eq!(runs, &again);
                prop_assert_eq!(runs.is_empty(), again.count() == 0);
            }
        }

        #[test]
        fn one_without_end_is_one(from in 0u64..40, first in 0u64..40) {
            let all = Run { first: SegmentNumber(from), last: SegmentNumber(u64::MAX) };
            let (mut open, some) = (Runs::default(), Runs::from_iter((first..first + 9).map(SegmentNumber)));
            open.insert_run(all);
            prop_assert_eq!(some.without(&open), (first..first + 9).filter(|n| *n < from).map(SegmentNumber).collect());
            prop_assert_eq!(some.both(&open), (first..first + 9).filter(|n| *n >= from).map(SegmentNumber).collect());
            open.insert_run(all);
            prop_assert_eq!(open.iter().count(), 1);
        }
    }
}
