//! The label's value: the name of an Archive.

use super::refusal::{Quoted, Refusal};

/// Archives' names are no longer, since they are label values.
const LONGEST: usize = 63;

/// Checks that an Archive can have this name: Kubernetes' rule for names, and short enough for a label. (A label may
/// hold capitals; an Archive's name can't, so such a label would wait for ever.)
pub(super) fn archive(value: &str) -> Result<&str, Refusal> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let part = |part: &str| {
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        edge(part.chars().next()) && edge(part.chars().next_back()) && part.chars().all(inside)
    };
    if value.len() <= LONGEST && value.split('.').all(part) {
        Ok(value)
    } else {
        Err(Refusal::Label(Quoted::new(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_an_archive_can_have() {
        let longest = "a".repeat(63);
        for good in ["orders", "a", "0", "a-b", "a.b-c", &longest] {
            assert_eq!(archive(good), Ok(good));
        }
        let longer = "a".repeat(64);
        for bad in [
            "", "Orders", "a_b", "-a", "a-", "a.", ".a", "a..b", "a-.b", "ä", &longer,
        ] {
            let sentence = archive(bad).unwrap_err().to_string();
            assert!(sentence.contains("holdfast.dev/archive"), "{sentence}");
        }
    }
}
