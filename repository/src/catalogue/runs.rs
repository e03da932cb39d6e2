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
            let set: BTreeSet<u64> = numbers.into_iter().collect();
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
    }
}
