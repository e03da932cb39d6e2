//! Postgres' timestamps.

use std::fmt;

use jiff::Timestamp;

/// Microseconds since 2000-01-01 00:00 UTC (`TimestampTz`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PgTimestamp(pub i64);

/// 2000-01-01 00:00 UTC in microseconds since 1970.
const EPOCH: i64 = 946_684_800_000_000;

impl PgTimestamp {
    /// The same moment; beyond what the calendar can say, its nearest end.
    #[must_use]
    pub fn to_jiff(self) -> Timestamp {
        Timestamp::from_microsecond(self.0.saturating_add(EPOCH)).unwrap_or(if self.0 < 0 {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        })
    }

    /// The same moment, whole microseconds.
    #[must_use]
    pub fn from_jiff(timestamp: Timestamp) -> Self {
        Self(timestamp.as_microsecond().saturating_sub(EPOCH))
    }

    /// The moment that a `pg_time_t` means: seconds since 1970, as checkpoints carry it.
    #[must_use]
    pub fn from_unix_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000).saturating_sub(EPOCH))
    }
}

impl fmt::Display for PgTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_jiff().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        assert_eq!(PgTimestamp(0).to_string(), "2000-01-01T00:00:00Z");
        assert_eq!(PgTimestamp(1).to_string(), "2000-01-01T00:00:00.000001Z");
        assert_eq!(
            PgTimestamp::from_unix_seconds(946_684_801),
            PgTimestamp(1_000_000)
        );
        let moment = PgTimestamp(843_000_000_123_456);
        assert_eq!(PgTimestamp::from_jiff(moment.to_jiff()), moment);
        assert_eq!(PgTimestamp(i64::MAX).to_jiff(), Timestamp::MAX);
        assert_eq!(PgTimestamp(i64::MIN).to_jiff(), Timestamp::MIN);
        let _ = PgTimestamp::from_unix_seconds(i64::MAX).to_string();
    }
}
