//! Every member helps: a standby stores the segments that its primary has not.
//!
//! A standby marks what it receives as archived already (`XLogWalRcvClose`), and removes it in time. What a primary that
//! dies had not stored yet would never be.

use super::rest::written;
use super::{Archiver, Left, NotArchived};
use crate::config::Settings;
use crate::data_directory::{self, Recovery};
use holdfast_postgres::{SegmentName, TimelineId};
use holdfast_repository::{ObjectError, blocking};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How soon a promotion is seen.
const TICK: Duration = Duration::from_secs(1);
/// How often a standby looks for what is not stored.
const LOOK: Duration = Duration::from_secs(10);
/// So long a complete segment is left to the primary.
const LEFT_TO_THE_PRIMARY: Duration = Duration::from_secs(10);

/// What the server of the data directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It may have been promoted before this program began: what it had received by then may not be stored.
    Begun,
    Standby,
    /// What it had received by then is not all stored yet.
    Promoted,
    Primary,
}

impl Role {
    fn now(self, is_standby: bool) -> Self {
        match (self, is_standby) {
            (_, true) => Self::Standby,
            (Self::Standby, false) => Self::Promoted,
            (before, false) => before,
        }
    }
}

/// The complete segments of a standby, and what is known of them.
#[derive(Debug, Default)]
struct Received {
    /// When they were first looked at: what was there by then is older than is known.
    begun: Option<Instant>,
    segments: BTreeMap<SegmentName, State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Complete since, or since before.
    Since(Instant),
    Stored,
}

impl Received {
    /// Takes in what there is now, and tells what is to be stored if the repository lacks it, in order.
    fn see(
        &mut self,
        complete: Vec<SegmentName>,
        now: Instant,
        patience: Duration,
    ) -> Vec<SegmentName> {
        self.begun.get_or_insert(now);
        let known = std::mem::take(&mut self.segments);
        let state = |name| known.get(name).copied().unwrap_or(State::Since(now));
        self.segments = complete.iter().map(|name| (*name, state(name))).collect();
        // One that is not due yet holds up those behind it: the archive must not have a gap.
        let due = self.segments.iter().take_while(|(_, state)| match state {
            State::Since(since) => now.duration_since(*since) >= patience,
            State::Stored => true,
        });
        due.filter(|(_, state)| **state != State::Stored)
            .map(|(name, _)| *name)
            .collect()
    }

    fn is_stored(&mut self, name: SegmentName) {
        self.segments.insert(name, State::Stored);
    }

    /// Those that are not stored, and not there any more. Of timelines that the server has left: Postgres hands over its own
    /// before it removes them. `complete` is what there is now, sorted.
    fn lost(&self, complete: &[SegmentName], reached: TimelineId) -> Vec<SegmentName> {
        let is_lost =
            |name: &SegmentName| name.timeline < reached && complete.binary_search(name).is_err();
        let all = self.segments.iter();
        all.filter(|(name, state)| **state != State::Stored && is_lost(name))
            .map(|(name, _)| *name)
            .collect()
    }

    /// What is told of one that is not stored.
    fn left(&self, name: SegmentName) -> Left {
        let since = match self.segments.get(&name) {
            Some(State::Since(since)) if Some(*since) > self.begun => {
                Timestamp::now().checked_sub(since.elapsed()).ok()
            }
            _ => None,
        };
        Left {
            segment: name,
            since,
        }
    }
}

impl Archiver {
    /// Stores what a standby has received, and a required repository lacks ten seconds later; at once when it is promoted.
    /// Never ends; safe to drop.
    pub async fn run_member(&self) {
        let mut received = Received::default();
        let mut of = self.settings.get();
        let (mut role, mut next) = (Role::Begun, Instant::now());
        let mut told: Option<String> = None;
        loop {
            let settings = self.settings.get();
            // They may name other repositories.
            if !Arc::ptr_eq(&of, &settings) {
                (received, of) = (Received::default(), settings.clone());
            }
            let was = role;
            role = was.now(self.is_standby(&settings).await);
            if role == Role::Standby && was != role {
                // Another server is the primary again: what it has is stored from there.
                self.lock_progress().left = None;
            }
            let is_due = role != Role::Primary && next <= Instant::now();
            if is_due || (was, role) == (Role::Standby, Role::Promoted) {
                let help = self.help(&settings, &mut received, role);
                let done = if role == Role::Standby {
                    tokio::select! {
                        done = help => done,
                        // Its first checkpoint does not wait for a store that hangs.
                        () = self.promoted(&settings) => continue,
                    }
                } else {
                    help.await
                };
                let error = done.err().map(|error| error.to_string());
                // Whatever stands in the way may be mended. It is said once.
                if let Some(error) = &error
                    && role != Role::Begun
                    && told.as_ref() != Some(error)
                {
                    tracing::warn!(
                        %error,
                        "what the primary has not stored is not stored from here"
                    );
                }
                if error.is_none() && role != Role::Standby {
                    role = Role::Primary;
                }
                told = error.filter(|_| role != Role::Begun);
                next = Instant::now() + LOOK;
            }
            sleep(TICK).await;
        }
    }

    /// Ends once it is no standby any more.
    async fn promoted(&self, settings: &Arc<Settings>) {
        while self.is_standby(settings).await {
            sleep(TICK).await;
        }
    }

    async fn is_standby(&self, settings: &Arc<Settings>) -> bool {
        let settings = settings.clone();
        let recovery = move || data_directory::recovery(&settings.postgres.data_directory);
        blocking(recovery).await == Recovery::Standby
    }

    async fn help(
        &self,
        settings: &Arc<Settings>,
        received: &mut Received,
        role: Role,
    ) -> Result<(), NotArchived> {
        let patience = match role {
            Role::Standby => LEFT_TO_THE_PRIMARY,
            // Its first checkpoint removes what is marked.
            Role::Begun | Role::Promoted | Role::Primary => Duration::ZERO,
        };
        let (control, complete) = {
            let settings = settings.clone();
            blocking(move || {
                let directory = &settings.postgres.data_directory;
                let control = data_directory::control_file(directory)?;
                let written = written(directory, &control)?;
                // What comes last is being received.
                let number = |name: &SegmentName| name.number(control.segment_size);
                let last = written.iter().filter_map(|name| number(name).ok()).max();
                let mut complete: Vec<SegmentName> = written.into_iter().collect();
                complete.retain(|name| number(name).ok() < last);
                Ok::<_, NotArchived>((control, complete))
            })
            .await?
        };
        let reached = control.timeline.max(control.min_recovery_timeline);
        if role != Role::Standby {
            for name in received.lost(&complete, reached) {
                tracing::error!(
                    %name,
                    "Postgres has removed it before it was stored: unless somebody else has stored it, the archive has a gap there"
                );
            }
        }
        let mut due = received.see(complete, Instant::now(), patience);
        // Postgres hands over its own.
        due.retain(|name| role != Role::Begun || name.timeline != reached);
        for name in due {
            if role != Role::Standby {
                self.lock_progress().left = Some(received.left(name));
            }
            let mut is_stored = true;
            for repository in settings.required_repositories() {
                let opened = self.opened(settings, repository, &control).await?;
                if !opened.wal.has(name).await.map_err(ObjectError::from)? {
                    tracing::info!(%name, repository = repository.name, "the primary has not stored it");
                    let done = self.rest_of(settings, name, &control).await?;
                    // What was left may never be whole.
                    is_stored &= done.is_some_and(|(_, whole)| whole) || name.timeline < reached;
                }
            }
            if is_stored {
                received.is_stored(name);
            }
        }
        self.lock_progress().left = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal_bench::{Bench, IN_PRODUCTION, IN_RECOVERY};
    use holdfast_repository::wal::sample::Fill;
    use std::fs;
    use tokio::time::timeout;

    #[test]
    fn a_promotion_is_what_comes_after_a_standby() {
        for (was, is_standby, role) in [
            (Role::Begun, false, Role::Begun),
            (Role::Begun, true, Role::Standby),
            (Role::Primary, false, Role::Primary),
            (Role::Primary, true, Role::Standby),
            (Role::Standby, true, Role::Standby),
            (Role::Standby, false, Role::Promoted),
            (Role::Promoted, false, Role::Promoted),
            // Cloned again before all was stored.
            (Role::Promoted, true, Role::Standby),
        ] {
            assert_eq!(was.now(is_standby), role, "{was:?}, {is_standby}");
        }
    }

    #[test]
    fn what_the_primary_has_had_time_for_is_due_in_order() {
        let bench = Bench::new();
        let names =
            |numbers: &[u64]| -> Vec<_> { numbers.iter().map(|n| bench.name(1, *n)).collect() };
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let (patience, none) = (LEFT_TO_THE_PRIMARY, Duration::ZERO);
        let mut received = Received::default();
        assert!(received.see(names(&[3, 4]), at(0), patience).is_empty());
        assert!(received.see(names(&[3, 4, 5]), at(9), patience).is_empty());
        // The last came later.
        let due = received.see(names(&[3, 4, 5]), at(10), patience);
        assert_eq!(due, names(&[3, 4]));
        received.is_stored(bench.name(1, 3));
        let due = received.see(names(&[3, 4, 5]), at(11), patience);
        assert_eq!(due, names(&[4]));
        // Of what was there at first it can't be told since when.
        assert_eq!(received.left(bench.name(1, 4)).since, None);
        assert!(received.left(bench.name(1, 5)).since.is_some());
        // Promoted.
        assert_eq!(
            received.see(names(&[3, 4, 5, 6]), at(11), none),
            names(&[4, 5, 6])
        );
        let complete = [bench.name(1, 5)];
        assert_eq!(
            received.lost(&complete, TimelineId(2)),
            names(&[4, 6]),
            "3 is stored"
        );
        assert!(
            received.lost(&complete, TimelineId(1)).is_empty(),
            "its own"
        );
        // One before them that was not there holds them up, and what is gone is forgotten.
        assert!(received.see(names(&[2, 5]), at(20), patience).is_empty());
        assert_eq!(received.see(names(&[2, 3]), at(30), patience), names(&[2]));
    }

    fn standby(segments: impl Iterator<Item = u64>) -> (Bench, Archiver) {
        let bench = Bench::new();
        bench.control(1, IN_RECOVERY);
        for number in segments {
            bench.segment(1, number, Fill::Whole);
        }
        let archiver = Archiver::new(bench.settings());
        (bench, archiver)
    }

    async fn help(
        archiver: &Archiver,
        received: &mut Received,
        role: Role,
    ) -> Result<(), NotArchived> {
        archiver
            .help(&archiver.settings.get(), received, role)
            .await
    }

    #[tokio::test]
    async fn complete_segments_that_nobody_has_stored_are_stored() {
        let (bench, archiver) = standby(3..=6);
        // The primary had stored one, and what its object says is not looked at again.
        archiver
            .archive_left_behind(holdfast_postgres::WalFileName::Segment(bench.name(1, 4)))
            .await
            .unwrap();
        fs::write(bench.segment_object(1, 4), "its own").unwrap();
        let mut received = Received::default();
        help(&archiver, &mut received, Role::Standby).await.unwrap();
        assert!(!bench.segment_object(1, 3).exists());
        help(&archiver, &mut received, Role::Promoted)
            .await
            .unwrap();
        assert!(bench.segment_object(1, 3).exists() && bench.segment_object(1, 5).exists());
        assert_eq!(fs::read(bench.segment_object(1, 4)).unwrap(), b"its own");
        // It is being received.
        assert!(!bench.segment_object(1, 6).exists());
    }

    #[tokio::test]
    async fn one_that_cannot_be_stored_holds_up_those_behind_it() {
        let (bench, archiver) = standby(3..=6);
        let short = bench
            .data()
            .join("pg_wal")
            .join(bench.name(1, 4).to_string());
        let whole = fs::read(&short).unwrap();
        fs::write(&short, &whole[..100_000]).unwrap();
        let mut received = Received::default();
        let error = help(&archiver, &mut received, Role::Promoted)
            .await
            .unwrap_err();
        assert!(error.is_permanent(), "{error}");
        let left = |archiver: &Archiver| archiver.progress().left.map(|left| left.segment);
        assert_eq!(left(&archiver), Some(bench.name(1, 4)));
        assert!(bench.segment_object(1, 3).exists() && !bench.segment_object(1, 5).exists());
        fs::write(&short, whole).unwrap();
        help(&archiver, &mut received, Role::Promoted)
            .await
            .unwrap();
        assert_eq!(left(&archiver), None);
        assert!(bench.segment_object(1, 5).exists());
    }

    #[tokio::test]
    async fn what_cannot_be_stored_counts_until_it_is() {
        let bench = Bench::new();
        bench.control(2, IN_PRODUCTION);
        for number in 3..=5 {
            bench.segment(1, number, Fill::Whole);
        }
        bench.history(2, "1\t0/500000\tno recovery target specified\n");
        let damaged = bench
            .data()
            .join("pg_wal")
            .join(bench.name(1, 3).to_string());
        let whole = fs::read(&damaged).unwrap();
        fs::write(&damaged, &whole[..100_000]).unwrap();
        let archiver = Archiver::new(bench.settings());
        let run = async || {
            // It never ends.
            let _ = timeout(Duration::from_millis(500), archiver.run_member()).await;
            archiver.progress().left.map(|left| left.segment)
        };
        assert_eq!(run().await, Some(bench.name(1, 3)));
        fs::write(&damaged, whole).unwrap();
        assert_eq!(run().await, None);
        assert!(bench.segment_object(1, 3).exists() && bench.segment_object(1, 4).exists());
        // A standby again.
        archiver.lock_progress().left = Some(Received::default().left(bench.name(1, 3)));
        fs::write(bench.data().join("standby.signal"), "").unwrap();
        assert_eq!(run().await, None);
    }
}
