//! Data pages: whether one is new, its LSN, its checksum (`bufpage.h`, `checksum_impl.h`).

use crate::bytes;
use crate::lsn::Lsn;

/// The size of a page. Postgres can be built with another; such clusters are refused by their control file.
pub const SIZE: usize = 8192;

/// Sums that run side by side.
const LANES: usize = 32;
const PRIME: u32 = 16_777_619;
const ROWS: usize = SIZE / (4 * LANES);
/// `pd_checksum` (`PageHeaderData`) after the LSN.
const CHECKSUM_OFFSET: usize = 8;

const OFFSETS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// What a page's checksum says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageState {
    /// All zero: allocated and not yet used.
    New,
    /// The checksum holds.
    Good,
    /// It does not: damaged, torn, misplaced, or not [`SIZE`] bytes (both sums are then zero).
    Bad {
        /// What the page says.
        stored: u16,
        /// What its bytes give.
        computed: u16,
    },
}

/// Whether every byte is zero.
#[must_use]
pub fn is_new(page: &[u8]) -> bool {
    let (words, rest) = page.as_chunks::<64>();
    words
        .iter()
        .all(|chunk| chunk.iter().fold(0, |any, byte| any | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

/// The page's LSN (`PageGetLSN`): its last change is in WAL before that. [`Lsn::INVALID`] for less than 8 bytes.
#[must_use]
pub fn lsn(page: &[u8]) -> Lsn {
    // Stored as two halves, the upper first, each in the machine's order.
    match (bytes::u32_at(page, 0), bytes::u32_at(page, 4)) {
        (Some(high), Some(low)) => Lsn(u64::from(high) << 32 | u64::from(low)),
        _ => Lsn::INVALID,
    }
}

/// The page's checksum (`pg_checksum_page`). `block` counts from the relation fork's start, across its segment
/// files. A slice that is not [`SIZE`] bytes long gives 0, which no page has.
#[must_use]
pub fn checksum(page: &[u8], block: u32) -> u16 {
    let Ok(page) = <&[u8; SIZE]>::try_from(page) else {
        return 0;
    };
    let (words, _) = page.as_chunks::<4>();
    let (rows, _) = words.as_chunks::<LANES>();
    let mut sums = OFFSETS;
    for (number, row) in rows.iter().enumerate() {
        for (lane, (sum, word)) in sums.iter_mut().zip(row).enumerate() {
            let mut value = u32::from_le_bytes(*word);
            if number == 0 && lane == CHECKSUM_OFFSET / 4 {
                value &= 0xFFFF_0000; // the checksum itself counts as zero
            }
            *sum = mix(*sum, value);
        }
    }
    for _ in 0..2 {
        for sum in &mut sums {
            *sum = mix(*sum, 0);
        }
    }
    let folded = sums.iter().fold(0, |all, sum| all ^ sum) ^ block;
    // An offset of one, so that no page has checksum zero.
    (folded % 65535 + 1) as u16
}

/// Whether the page is new, good or bad. Postgres fills in checksums only when they were enabled.
#[must_use]
pub fn check(page: &[u8], block: u32) -> PageState {
    let computed = checksum(page, block);
    let stored = bytes::u16_at(page, CHECKSUM_OFFSET).unwrap_or(0);
    if computed != 0 && stored == computed {
        PageState::Good
    } else if page.len() == SIZE && is_new(page) {
        PageState::New
    } else {
        PageState::Bad { stored, computed }
    }
}

#[inline(always)]
fn mix(sum: u32, value: u32) -> u32 {
    let mixed = sum ^ value;
    mixed.wrapping_mul(PRIME) ^ (mixed >> 17)
}

const _: () = assert!(ROWS * LANES * 4 == SIZE);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The algorithm as it is written down, one word at a time.
    fn plain_checksum(page: &[u8], block: u32) -> u16 {
        let mut copy = page.to_vec();
        copy[8] = 0;
        copy[9] = 0;
        let mut sums = OFFSETS;
        for (index, word) in copy.chunks(4).enumerate() {
            sums[index % LANES] = mix(
                sums[index % LANES],
                u32::from_le_bytes(word.try_into().expect("a word")),
            );
        }
        for index in 0..2 * LANES {
            sums[index % LANES] = mix(sums[index % LANES], 0);
        }
        ((sums.iter().fold(0, |all, sum| all ^ sum) ^ block) % 65535 + 1) as u16
    }

    #[test]
    fn new_good_and_bad() {
        let mut page = vec![0; SIZE];
        assert!(is_new(&page));
        assert_eq!(check(&page, 7), PageState::New);
        page[..8].copy_from_slice(&[0x16, 0, 0, 0, 0x48, 0xD8, 0x74, 0xB3]);
        page[SIZE - 1] = 1;
        assert!(!is_new(&page));
        assert_eq!(lsn(&page), Lsn(0x16_B374_D848));
        let sum = checksum(&page, 7);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(check(&page, 7), PageState::Good);
        assert!(matches!(check(&page, 8), PageState::Bad { stored, .. } if stored == sum));
        page[4000] ^= 1;
        assert!(matches!(check(&page, 7), PageState::Bad { .. }));
    }

    #[test]
    fn what_is_no_page_is_bad() {
        for length in [0, 1, 9, SIZE - 1, SIZE + 1] {
            assert_eq!(
                check(&vec![0; length], 0),
                PageState::Bad {
                    stored: 0,
                    computed: 0
                }
            );
        }
        assert_eq!(lsn(&[1; 7]), Lsn::INVALID);
    }

    proptest! {
        #[test]
        fn the_fast_sum_is_the_plain_one(bytes in proptest::collection::vec(any::<u8>(), SIZE), block: u32) {
            prop_assert_eq!(checksum(&bytes, block), plain_checksum(&bytes, block));
        }
    }
}
