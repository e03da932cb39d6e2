//! What was committed when, and what must therefore be there after a restore: row by row.
//!
//! Writers note each transaction's rows, id and acknowledged commit time. The order of commits is the WAL's, not that of
//! the acknowledgements: [`Ledger::read_wal`] takes it from there, and holds it against the notes. Call it on each server
//! that wrote, before its WAL is gone (test servers keep 1 GB) and before a restore is judged.

pub mod server;
mod target;
mod wal;
mod writers;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use holdfast_postgres::{Lsn, PgTimestamp};
use tokio_postgres::Client;

pub use server::Server;
pub use target::{Event, Target, What};
pub use wal::both_readers;
pub use writers::Load;

/// How a transaction ended, as its client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged, with the commit time that the server keeps for it.
    Committed {
        /// `pg_xact_commit_timestamp`
        time: PgTimestamp,
    },
    /// Acknowledged by a server that went away right after.
    Acknowledged,
    /// Rolled back, or never brought to its COMMIT.
    RolledBack,
    /// The server went away during COMMIT: the WAL knows.
    InDoubt,
}

/// A transaction of a writer.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The timeline it was written on.
    pub timeline: u32,
    /// Its top-level id (the low 32 bits).
    pub xid: u32,
    /// The rows that are there if it committed.
    pub rows: Vec<i64>,
    /// How it ended.
    pub outcome: Outcome,
}

/// The book over one database's life, all its timelines included.
#[derive(Debug)]
pub struct Ledger {
    notes: Arc<Notes>,
    timelines: BTreeMap<u32, Timeline>,
}

#[derive(Debug, Default)]
struct Notes {
    transactions: Mutex<Vec<Transaction>>,
    transactions_begun: AtomicUsize,
    next_row: AtomicI64,
}

impl Notes {
    fn lock(&self) -> MutexGuard<'_, Vec<Transaction>> {
        self.transactions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Timeline {
    /// The parent, and where this one left it.
    parent: Option<(u32, Lsn)>,
    events: Vec<Event>,
    read_to: Lsn,
}

/// What a row holds, as an SQL expression over its id: some small, some large enough to be stored out of line.
fn payload(id: &str) -> String {
    format!("repeat(md5(({id})::text), CASE WHEN ({id}) % 16 = 0 THEN 300 ELSE 3 END)")
}

impl Ledger {
    /// Makes the table `ledger` in the database `postgres` and notes where the WAL is.
    ///
    /// # Errors
    /// The server's.
    pub async fn create(on: &impl Server) -> Result<Self> {
        Self::create_in(on, "pg_default").await
    }

    /// As [`Ledger::create`], with the table in this tablespace.
    ///
    /// # Errors
    /// The server's.
    pub async fn create_in(on: &impl Server, tablespace: &str) -> Result<Self> {
        let client = on.client().await?;
        client
            .batch_execute(&format!(
                "CREATE TABLE ledger (id bigint NOT NULL, payload text NOT NULL) TABLESPACE {tablespace};
                 ALTER TABLE ledger ADD PRIMARY KEY (id)"
            ))
            .await?;
        let timeline = server::timeline(&client).await?;
        let read_to = wal::flushed(&client).await?;
        let start = Timeline {
            parent: None,
            events: Vec::new(),
            read_to,
        };
        Ok(Self {
            notes: Arc::default(),
            timelines: BTreeMap::from([(timeline, start)]),
        })
    }

    /// Takes the order of commits from a server's WAL: what came since the last call on its timeline. What was
    /// acknowledged on that timeline must be there, with the noted time.
    ///
    /// A commit that is noted after this call belongs to the next one: stop the load first where all must be in.
    ///
    /// # Errors
    /// If the WAL is gone, or disagrees with what the server told its clients.
    pub async fn read_wal(&mut self, on: &impl Server) -> Result<()> {
        let client = on.client().await?;
        let timeline = server::timeline(&client).await?;
        if let Entry::Vacant(new) = self.timelines.entry(timeline) {
            let history = wal::history(&client, timeline).await?;
            let parent = history.parent().context("a new timeline has a parent")?;
            let (parent, switch) = (parent.timeline.0, parent.switch);
            new.insert(Timeline {
                parent: Some((parent, switch)),
                events: Vec::new(),
                read_to: switch,
            });
            // What its server still wrote when nobody could ask it any more: who recovered from that WAL has it.
            if self.timelines.contains_key(&parent) {
                self.read(&client, parent, switch)
                    .await
                    .with_context(|| on.tail())?;
            }
        }
        let flushed = wal::flushed(&client).await?;
        self.read(&client, timeline, flushed)
            .await
            .with_context(|| on.tail())
    }

    /// Reads on to there, and holds what was noted against it.
    async fn read(&mut self, client: &Client, timeline: u32, to: Lsn) -> Result<()> {
        let noted = self.notes.lock().clone();
        let known = self
            .timelines
            .get_mut(&timeline)
            .context("a known timeline")?;
        if to <= known.read_to {
            return Ok(());
        }
        let events = wal::events(client, timeline, known.read_to, to).await?;
        let read_to = std::mem::replace(&mut known.read_to, to);
        known
            .events
            .extend(events.into_iter().filter(|event| read_to <= event.lsn));
        let commits: BTreeMap<u32, &Event> = known
            .events
            .iter()
            .filter(|event| event.what == What::Commit)
            .map(|event| (event.xid, event))
            .collect();
        for transaction in noted
            .iter()
            .filter(|transaction| transaction.timeline == timeline)
        {
            let found = commits.get(&transaction.xid);
            let right = match (&transaction.outcome, found) {
                (Outcome::Committed { time }, Some(event)) => event.time == *time,
                (Outcome::Acknowledged, Some(_))
                | (Outcome::RolledBack, None)
                | (Outcome::InDoubt, _) => true,
                _ => false,
            };
            if !right {
                bail!(
                    "the client noted {transaction:?}, but the WAL of timeline {timeline} has {found:?}"
                );
            }
        }
        Ok(())
    }

    /// All events of this timeline, parents included up to where they were left, in the order of their LSNs.
    ///
    /// # Errors
    /// If no WAL of that timeline was read.
    pub fn events(&self, timeline: u32) -> Result<Vec<Event>> {
        Ok(self
            .lineage(timeline)?
            .into_iter()
            .map(|(_, event)| event)
            .collect())
    }

    /// As [`Ledger::events`], commits of the ledger's own rows only: targets for a test to choose from.
    ///
    /// # Errors
    /// If no WAL of that timeline was read.
    pub fn commits(&self, timeline: u32) -> Result<Vec<Event>> {
        let ours: BTreeSet<(u32, u32)> = self
            .notes
            .lock()
            .iter()
            .map(|transaction| (transaction.timeline, transaction.xid))
            .collect();
        let lineage = self.lineage(timeline)?;
        Ok(lineage
            .into_iter()
            .filter(|(on, event)| event.what == What::Commit && ours.contains(&(*on, event.xid)))
            .map(|(_, event)| event)
            .collect())
    }

    fn lineage(&self, timeline: u32) -> Result<Vec<(u32, Event)>> {
        let known = self
            .timelines
            .get(&timeline)
            .with_context(|| format!("no WAL of timeline {timeline} was read"))?;
        let mut all = match known.parent {
            Some((parent, switch)) => {
                let mut inherited = self.lineage(parent)?;
                inherited.retain(|(_, event)| event.lsn < switch);
                inherited
            }
            None => Vec::new(),
        };
        all.extend(known.events.iter().map(|event| (timeline, event.clone())));
        Ok(all)
    }

    /// The rows that must be there, no more and no fewer, after a recovery along this timeline to this target.
    ///
    /// # Errors
    /// If no WAL of that timeline was read.
    pub fn expected(
        &self,
        timeline: u32,
        target: &Target,
        exclusive: bool,
    ) -> Result<BTreeSet<i64>> {
        let mut lineage = self.lineage(timeline)?;
        let events: Vec<Event> = lineage.iter().map(|(_, event)| event.clone()).collect();
        lineage.truncate(target.replayed(&events, exclusive));
        let committed: BTreeSet<(u32, u32)> = lineage
            .into_iter()
            .filter(|(_, event)| event.what == What::Commit)
            .map(|(on, event)| (on, event.xid))
            .collect();
        let notes = self.notes.lock();
        Ok(notes
            .iter()
            .filter(|transaction| committed.contains(&(transaction.timeline, transaction.xid)))
            .flat_map(|transaction| transaction.rows.iter().copied())
            .collect())
    }

    /// All transactions noted so far.
    pub fn transactions(&self) -> Vec<Transaction> {
        self.notes.lock().clone()
    }

    /// Holds a server's rows against what must be there, content included.
    ///
    /// # Errors
    /// With the numbers of rows that are too many, too few, or damaged.
    pub async fn compare(on: &impl Server, expected: &BTreeSet<i64>) -> Result<()> {
        let client = on.client().await?;
        // Not by the index: that is pg_amcheck's to judge.
        client.batch_execute("SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off").await?;
        let rows = client
            .query(
                &format!("SELECT id, payload = {} FROM ledger", payload("id")),
                &[],
            )
            .await
            .with_context(|| format!("reading the ledger\n{}", on.tail()))?;
        let found: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        let damaged: Vec<i64> = rows
            .iter()
            .filter(|row| !row.get::<_, bool>(1))
            .map(|row| row.get(0))
            .collect();
        let many: Vec<&i64> = found.difference(expected).collect();
        let few: Vec<&i64> = expected.difference(&found).collect();
        if rows.len() != found.len() || !many.is_empty() || !few.is_empty() || !damaged.is_empty() {
            let some = |rows: &[&i64]| {
                format!(
                    "{} {:?}",
                    rows.len(),
                    rows.get(..rows.len().min(20)).unwrap_or_default()
                )
            };
            bail!(
                "{} rows of which {} differ, {} expected; too many: {}; too few: {}; damaged: {damaged:?}",
                rows.len(),
                found.len(),
                expected.len(),
                some(&many),
                some(&few)
            );
        }
        Ok(())
    }
}
