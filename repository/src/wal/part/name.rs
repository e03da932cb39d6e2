//! What parts are called, and which of them follow each other without a hole. Pure.

use super::super::CHUNK_BYTES;
use crate::layout;
use holdfast_postgres::{SegmentName, SegmentSize, SystemIdentifier};
use std::collections::BTreeMap;

/// A part, as its key says. Offsets are those of the segment, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartName {
    pub(crate) segment: SegmentName,
    /// The beginning of the digest of all that it stores of the segment.
    pub(crate) writer: u64,
    /// Of the first byte.
    pub(crate) from: u32,
    /// After the last byte; at least one more, and [`CHUNK_BYTES`] more at most.
    pub(crate) to: u32,
}

impl PartName {
    /// Only a name that parses strictly, in the folder where it belongs, and within its segment, counts.
    pub(crate) fn parse(system: SystemIdentifier, size: SegmentSize, key: &str) -> Option<Self> {
        let (folder, name) = key.rsplit_once('/')?;
        let segment: SegmentName = folder.rsplit_once('/')?.1.parse().ok()?;
        let mut words = name.split('-');
        let writer = u64::from_str_radix(words.next()?, 16).ok()?;
        let from = u32::from_str_radix(words.next()?, 16).ok()?;
        let to = u32::from_str_radix(words.next()?, 16).ok()?;
        let part = Self {
            segment,
            writer,
            from,
            to,
        };
        let fits = from < to && to <= size.bytes() && u64::from(part.length()) <= CHUNK_BYTES;
        (fits && segment.number(size).is_ok() && part.key(system) == key).then_some(part)
    }

    /// Where it lies.
    pub(crate) fn key(&self, system: SystemIdentifier) -> String {
        layout::part(system, self.segment, self.writer, self.from, self.to)
    }

    /// In bytes.
    pub(crate) fn length(&self) -> u32 {
        self.to.saturating_sub(self.from)
    }
}

/// Of the parts of one segment, those that lead farthest from its first byte on, in order: all of one writer, each
/// where the one before ends. Empty where none begins with the first byte.
pub(crate) fn longest_run(parts: &[PartName]) -> Vec<PartName> {
    let mut by_writer: BTreeMap<u64, Vec<PartName>> = BTreeMap::new();
    for part in parts {
        by_writer.entry(part.writer).or_default().push(*part);
    }
    by_writer
        .into_values()
        .map(run)
        .max_by_key(|run| run.last().map(|part| part.to))
        .unwrap_or_default()
}

/// The same for the parts of one writer.
fn run(mut parts: Vec<PartName>) -> Vec<PartName> {
    parts.sort_by_key(|part| (part.from, part.to));
    // By its end: a part to which others lead.
    let mut reached: BTreeMap<u32, PartName> = BTreeMap::new();
    for part in parts {
        if part.from == 0 || reached.contains_key(&part.from) {
            // One that begins earlier takes fewer requests.
            reached.entry(part.to).or_insert(part);
        }
    }
    let mut run = Vec::new();
    let mut next = reached.last_key_value().map(|(end, _)| *end);
    while let Some(part) = next.and_then(|end| reached.get(&end)) {
        run.push(*part);
        next = (part.from > 0).then_some(part.from);
    }
    run.reverse();
    run
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_postgres::{SegmentNumber, TimelineId};
    use proptest::prelude::*;

    const SYSTEM: SystemIdentifier = SystemIdentifier(7);

    fn size() -> SegmentSize {
        SegmentSize::new(64 << 20).unwrap()
    }

    fn part(writer: u64, from: u32, to: u32) -> PartName {
        PartName {
            segment: SegmentName::new(TimelineId(1), SegmentNumber(9), size()),
            writer,
            from,
            to,
        }
    }

    #[test]
    fn a_name_is_read_as_it_is_written_and_not_otherwise() {
        let written = part(0xAB, 0x10, 0x1000);
        let key = written.key(SYSTEM);
        assert_eq!(
            key,
            "7/parts/00000001/000000010000000000000009/00000000000000ab-00000010-00001000"
        );
        assert_eq!(PartName::parse(SYSTEM, size(), &key), Some(written));
        let place = "7/parts/00000001/000000010000000000000009";
        for key in [
            format!("{place}/00000000000000AB-00000010-00001000"),
            format!("{place}/00000000000000ab-00000010-0000100a"),
            format!("{place}/ab-00000010-00001000"),
            format!("{place}/+0000000000000ab-00000010-00001000"),
            format!("{place}/00000000000000ab-00000010-00001000-1"),
            format!("{place}/00000000000000ab-00000010"),
            format!("{place}/00000000000000ab-00000010-00001000/x"),
            format!("{place}/x/00000000000000ab-00000010-00001000"),
            // Nothing, backwards, too much, past the segment's end.
            format!("{place}/00000000000000ab-00000010-00000010"),
            format!("{place}/00000000000000ab-00001000-00000010"),
            format!("{place}/00000000000000ab-00000000-01000001"),
            format!("{place}/00000000000000ab-03FFFFFF-04000001"),
            // Not its folder, not its timeline's, not this system's, no segment of this size.
            key.replace("/parts/", "/wal/"),
            key.replace("parts/00000001", "parts/00000002"),
            key.replace("7/", "8/"),
            "7/parts/00000001/000000010000000000000040/00000000000000ab-00000010-00001000"
                .to_owned(),
            String::new(),
            "/".to_owned(),
        ] {
            assert_eq!(PartName::parse(SYSTEM, size(), &key), None, "{key}");
        }
    }

    #[test]
    fn one_writer_is_followed_as_far_as_there_is_no_hole() {
        type Run<'a> = &'a [(u64, u32, u32)];
        let cases: &[(Run<'_>, Run<'_>)] = &[
            (&[], &[]),
            (&[(1, 0, 5)], &[(1, 0, 5)]),
            (&[(1, 5, 9), (1, 0, 5)], &[(1, 0, 5), (1, 5, 9)]),
            // A hole, and no beginning.
            (&[(1, 0, 5), (1, 6, 9)], &[(1, 0, 5)]),
            (&[(1, 1, 5)], &[]),
            // What another one wrote fills no hole.
            (&[(1, 0, 5), (2, 5, 9)], &[(1, 0, 5)]),
            (&[(1, 0, 5), (2, 0, 3), (2, 3, 7)], &[(2, 0, 3), (2, 3, 7)]),
            // Overlapping ones: by those that meet, and by as few as can be.
            (&[(1, 0, 5), (1, 3, 9)], &[(1, 0, 5)]),
            (&[(1, 0, 2), (1, 0, 5), (1, 2, 9)], &[(1, 0, 2), (1, 2, 9)]),
            (&[(1, 0, 2), (1, 2, 5), (1, 0, 5)], &[(1, 0, 5)]),
        ];
        for (stored, expected) in cases {
            let parts =
                |list: Run<'_>| -> Vec<_> { list.iter().map(|p| part(p.0, p.1, p.2)).collect() };
            assert_eq!(longest_run(&parts(stored)), parts(expected), "{stored:?}");
        }
    }

    proptest! {
        #[test]
        fn a_run_never_has_a_hole_and_none_is_longer(stored in proptest::collection::vec((0u64..3, 0u32..12, 1u32..5), 0..24)) {
            let parts: Vec<_> = stored.iter().map(|(writer, from, length)| part(*writer, *from, from + length)).collect();
            let run = longest_run(&parts);
            let mut at = 0;
            for part in &run {
                prop_assert_eq!((part.from, part.writer), (at, run[0].writer));
                prop_assert!(parts.contains(part));
                at = part.to;
            }
            // By trying all of them, again and again.
            let mut ends = std::collections::BTreeSet::from([(0, 0), (1, 0), (2, 0)]);
            for _ in 0..parts.len() {
                ends.extend(parts.iter().filter(|p| ends.contains(&(p.writer, p.from))).map(|p| (p.writer, p.to)).collect::<Vec<_>>());
            }
            prop_assert_eq!(Some(at), ends.into_iter().map(|(_, end)| end).max());
        }
    }
}
