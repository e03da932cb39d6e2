//! Whose WAL it is: the cluster's identity and the branch of its history.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A timeline (`TimeLineID`). Timelines begin at 1; zero is "none".
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl TimelineId {
    /// The eight digits that stand for the timeline in WAL file names.
    #[must_use]
    pub fn hex(self) -> String {
        format!("{:08X}", self.0)
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What initdb stamps on a cluster (`system_identifier` in pg_control); standbys and copies share it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SystemIdentifier(pub u64);

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Text that is no identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not {1}: write it in decimal digits")]
pub struct ParseIdentifierError(String, &'static str);

/// Digits only: `u64::from_str` would take a sign as well.
fn decimal<T: FromStr>(text: &str, what: &'static str) -> Result<T, ParseIdentifierError> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
        .ok_or_else(|| ParseIdentifierError(text.chars().take(64).collect(), what))
}

impl FromStr for TimelineId {
    type Err = ParseIdentifierError;

    fn from_str(text: &str) -> Result<Self, ParseIdentifierError> {
        decimal(text, "a timeline").map(Self)
    }
}

impl FromStr for SystemIdentifier {
    type Err = ParseIdentifierError;

    fn from_str(text: &str) -> Result<Self, ParseIdentifierError> {
        decimal(text, "a system identifier").map(Self)
    }
}

impl Serialize for SystemIdentifier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SystemIdentifier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms() {
        assert_eq!(TimelineId(31).hex(), "0000001F");
        assert_eq!(
            "7568172923453462918".parse(),
            Ok(SystemIdentifier(7_568_172_923_453_462_918))
        );
        for text in ["", "+1", "-1", "1a", "18446744073709551616"] {
            assert!(text.parse::<SystemIdentifier>().is_err(), "{text}");
        }
        assert!("4294967296".parse::<TimelineId>().is_err());
    }
}
