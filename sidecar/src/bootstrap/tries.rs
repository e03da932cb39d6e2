//! When what an order says is tried again: a restore that can't be written to its end begins anew each time.

use super::decide::Place;
use std::time::{Duration, Instant};

/// After the first failure, and doubled with each further one.
const SHORTEST: Duration = Duration::from_secs(2);
/// What waits is soon tried again when its cause is mended.
const LONGEST: Duration = Duration::from_secs(30);

/// The tries that have failed one after the other, by the same order and with the same outcome.
#[derive(Debug, Default)]
pub(super) struct Tries(Option<Failed>);

#[derive(Debug)]
struct Failed {
    order: String,
    /// What the last one left.
    place: Place,
    times: u32,
    next: Instant,
}

impl Tries {
    /// Whether it is too early for the next one.
    pub(super) fn wait(&self, order: &str, place: &Place, now: Instant) -> bool {
        let failed = self.of(order, place);
        failed.is_some_and(|failed| now < failed.next)
    }

    /// One has failed. `place`: what it left.
    pub(super) fn failed(&mut self, order: &str, place: Place, now: Instant) {
        let times = self.of(order, &place).map_or(1, |failed| failed.times + 1);
        self.0 = Some(Failed {
            order: order.to_owned(),
            place,
            times,
            next: now + pause(times),
        });
    }

    fn of(&self, order: &str, place: &Place) -> Option<&Failed> {
        let failed = self.0.as_ref();
        failed.filter(|failed| failed.order == order && failed.place == *place)
    }
}

/// Before the next try, after so many that have failed.
fn pause(times: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(times.saturating_sub(1));
    SHORTEST.saturating_mul(doubled).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound() {
        for (times, seconds) in [
            (1, 2),
            (2, 4),
            (3, 8),
            (4, 16),
            (5, 30),
            (6, 30),
            (u32::MAX, 30),
        ] {
            assert_eq!(pause(times), Duration::from_secs(seconds), "{times}");
        }
    }

    #[test]
    fn what_has_changed_is_tried_at_once_and_counted_anew() {
        let begin = Instant::now();
        let mut tries = Tries::default();
        // An order, what stands there at that second, whether it has to wait, and what a try leaves that fails.
        for (second, order, place, waits, leaves) in [
            (0, "a1", Place::Empty, false, Some(Place::Unfinished)),
            (1, "a1", Place::Unfinished, true, None),
            (2, "a1", Place::Unfinished, false, Some(Place::Unfinished)),
            (5, "a1", Place::Unfinished, true, None),
            (6, "a1", Place::Unfinished, false, Some(Place::Unfinished)),
            (13, "a1", Place::Unfinished, true, None),
            // Another order, and what somebody has emptied.
            (13, "a2", Place::Unfinished, false, None),
            (13, "a1", Place::Empty, false, Some(Place::Empty)),
            (14, "a1", Place::Empty, true, None),
            (15, "a1", Place::Empty, false, None),
        ] {
            let now = begin + Duration::from_secs(second);
            assert_eq!(tries.wait(order, &place, now), waits, "{second} {place:?}");
            if let Some(left) = leaves {
                tries.failed(order, left, now);
            }
        }
    }
}
