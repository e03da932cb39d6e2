//! Lengths of time as people write them in a resource.

use kube::core::{Rule, validate};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A number and a unit: `14d` (days of 24 hours), `36h` or `30m`. At least a minute, at most 999,999 of the unit.
/// Printed as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Period {
    count: u32,
    unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Days,
    Hours,
    Minutes,
}

/// A text that is no length of time.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no length of time: write a number and d, h or m, such as 14d, 36h or 30m")]
pub struct BadPeriod(String);

impl Period {
    /// In seconds: 60 at least.
    pub fn seconds(self) -> u64 {
        let unit = match self.unit {
            Unit::Days => 24 * 60 * 60,
            Unit::Hours => 60 * 60,
            Unit::Minutes => 60,
        };
        u64::from(self.count) * unit
    }
}

impl FromStr for Period {
    type Err = BadPeriod;

    fn from_str(text: &str) -> Result<Self, BadPeriod> {
        let bad = || BadPeriod(text.chars().take(32).collect());
        let (digits, unit) = match text.as_bytes() {
            [digits @ .., b'd'] => (digits, Unit::Days),
            [digits @ .., b'h'] => (digits, Unit::Hours),
            [digits @ .., b'm'] => (digits, Unit::Minutes),
            _ => return Err(bad()),
        };
        let good = matches!(digits, [b'1'..=b'9', ..])
            && digits.len() <= 6
            && digits.iter().all(u8::is_ascii_digit);
        if !good {
            return Err(bad());
        }
        let count = digits
            .iter()
            .fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
        Ok(Self { count, unit })
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Days => 'd',
            Unit::Hours => 'h',
            Unit::Minutes => 'm',
        };
        write!(f, "{}{unit}", self.count)
    }
}

impl TryFrom<String> for Period {
    type Error = BadPeriod;

    fn try_from(text: String) -> Result<Self, BadPeriod> {
        text.parse()
    }
}

impl From<Period> for String {
    fn from(period: Period) -> Self {
        period.to_string()
    }
}

impl JsonSchema for Period {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Period".into()
    }

    /// A rule and no `pattern`: its message says what to write.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = json_schema!({"type": "string", "maxLength": 7});
        let rule = Rule::new("self.matches('^[1-9][0-9]{0,5}[dhm]$')")
            .message("write a number and d, h or m, such as 14d, 36h or 30m");
        validate(&mut schema, rule).expect("a rule is plain JSON");
        schema
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints_what_people_write() {
        for (text, seconds) in [
            ("14d", 14 * 86_400),
            ("36h", 36 * 3600),
            ("30m", 1800),
            ("1m", 60),
            ("999999d", 999_999 * 86_400),
        ] {
            let period: Period = serde_json::from_value(text.into()).unwrap();
            assert_eq!(period.seconds(), seconds, "{text}");
            assert_eq!(serde_json::to_value(period).unwrap(), text);
        }
    }

    #[test]
    fn refuses_what_is_no_length_of_time() {
        for text in [
            "", "d", "14", "0d", "014d", "-1d", "+1d", "1.5d", "1d12h", "14 d", "14D", "2w", "10s",
            "1000000d", "١d",
        ] {
            assert_eq!(text.parse::<Period>(), Err(BadPeriod(text.into())));
        }
        assert!(
            "9".repeat(100_000)
                .parse::<Period>()
                .unwrap_err()
                .to_string()
                .len()
                < 200
        );
    }
}
