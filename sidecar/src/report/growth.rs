//! How the WAL that waits to be stored grows.

use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// What is older says nothing of now.
const WINDOW: Duration = Duration::from_secs(600);
/// A shorter time gives no rate.
const LEAST: Duration = Duration::from_secs(20);
/// No more often than this is it noted.
const SPACING: Duration = Duration::from_secs(5);

/// What waited, in bytes, at some moments.
#[derive(Debug, Default)]
pub(super) struct Growth(VecDeque<(Instant, u64)>);

impl Growth {
    /// Notes what waits now.
    pub(super) fn note(&mut self, now: Instant, bytes: u64) {
        while self
            .0
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > WINDOW)
        {
            self.0.pop_front();
        }
        if self
            .0
            .back()
            .is_none_or(|(at, _)| now.duration_since(*at) >= SPACING)
        {
            self.0.push_back((now, bytes));
        }
    }

    /// Bytes a second, since it was least; none where it has not grown, or not for long enough to tell.
    pub(super) fn rate(&self) -> Option<u64> {
        let (now, bytes) = *self.0.back()?;
        // Of equal ones the last.
        let (since, least) = *self.0.iter().rev().min_by_key(|(_, bytes)| *bytes)?;
        let time = now.duration_since(since);
        if time < LEAST {
            return None;
        }
        let rate = bytes.saturating_sub(least) / time.as_secs();
        (rate > 0).then_some(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_from_where_it_was_least() {
        let begun = Instant::now();
        for (noted, rate) in [
            (&[][..], None),
            (&[(0, 0)][..], None),
            // Too short.
            (&[(0, 0), (19, 1900)], None),
            (&[(0, 0), (20, 2000)], Some(100)),
            (&[(0, 500), (100, 500)], None),
            // What was stored since is gone.
            (&[(0, 5000), (100, 1000), (200, 2000)], Some(10)),
            (&[(0, 5000), (100, 1000)], None),
            // Of equal ones the last.
            (&[(0, 0), (100, 0), (150, 500)], Some(10)),
            // Longer ago than it is looked at.
            (&[(0, 0), (500, 1000), (700, 3000)], Some(10)),
            // Noted too often.
            (&[(0, 0), (40, 400), (42, 4000)], Some(10)),
        ] {
            let mut growth = Growth::default();
            for (at, bytes) in noted {
                growth.note(begun + Duration::from_secs(*at), *bytes);
            }
            assert_eq!(growth.rate(), rate, "{noted:?}");
        }
    }
}
