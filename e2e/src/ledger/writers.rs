//! Clients that write numbered rows and note what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_postgres::PgTimestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::server::{self, Server};
use super::{Ledger, Notes, Outcome, Transaction};

/// Writers at work, until they are stopped or their server goes away.
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    writers: Vec<JoinHandle<()>>,
}

impl Ledger {
    /// Starts so many writers, each with a connection of its own and some 200 transactions a second.
    ///
    /// # Errors
    /// If the server refuses the connections.
    pub async fn start(&self, on: &impl Server, writers: usize) -> Result<Load> {
        let timeline = server::timeline(&on.client().await?).await?;
        let (stop, stopped) = watch::channel(false);
        let mut load = Load {
            stop,
            writers: Vec::new(),
        };
        for _ in 0..writers {
            let client = on.client().await?;
            let (notes, stopped) = (Arc::clone(&self.notes), stopped.clone());
            load.writers.push(tokio::spawn(async move {
                // A server that goes away ends the writer; what it had acknowledged is noted.
                while !*stopped.borrow() && transaction(&client, &notes, timeline).await {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            }));
        }
        Ok(load)
    }

    /// Writes so many transactions over one connection.
    ///
    /// # Errors
    /// If the server goes away before the last.
    pub async fn write(&self, on: &impl Server, transactions: usize) -> Result<()> {
        let client = on.client().await?;
        let timeline = server::timeline(&client).await?;
        for number in 0..transactions {
            if !transaction(&client, &self.notes, timeline).await {
                anyhow::bail!(
                    "transaction {number} of {transactions} failed\n{}",
                    on.tail()
                );
            }
        }
        Ok(())
    }
}

impl Load {
    /// Lets every writer finish its transaction.
    ///
    /// # Errors
    /// If a writer panicked.
    pub async fn stop(self) -> Result<()> {
        self.stop.send_replace(true);
        for writer in self.writers {
            writer.await.context("a writer")?;
        }
        Ok(())
    }
}

/// The kinds of transaction, one after the other.
#[derive(Clone, Copy)]
enum Shape {
    One,
    Several,
    ReleasedSavepoint,
    RolledBackSavepoint,
    RolledBack,
}

const SHAPES: [Shape; 8] = [
    Shape::One,
    Shape::Several,
    Shape::One,
    Shape::RolledBackSavepoint,
    Shape::One,
    Shape::RolledBack,
    Shape::ReleasedSavepoint,
    Shape::Several,
];

/// Runs one transaction and notes it; false when the server has gone.
async fn transaction(client: &Client, notes: &Notes, timeline: u32) -> bool {
    let count = notes.transactions_begun.fetch_add(1, Ordering::Relaxed);
    let shape = SHAPES
        .get(count % SHAPES.len())
        .copied()
        .unwrap_or(Shape::One);
    let mut xid = None;
    let mut rows = Vec::new();
    let outcome = match attempt(client, notes, shape, &mut xid, &mut rows).await {
        Ok(Some(())) => match committed_at(client, xid).await {
            Ok(time) => Outcome::Committed { time },
            // Acknowledged, but nobody is left to ask for the time.
            Err(_) => Outcome::Acknowledged,
        },
        Ok(None) => Outcome::RolledBack,
        Err(Stage::Before) => Outcome::RolledBack,
        Err(Stage::Commit) => Outcome::InDoubt,
    };
    let alive = matches!(outcome, Outcome::Committed { .. })
        || matches!(outcome, Outcome::RolledBack) && !client.is_closed();
    if let Some(xid) = xid {
        notes.lock().push(Transaction {
            timeline,
            xid,
            rows,
            outcome,
        });
    }
    alive
}

/// Where a transaction was when the server went away.
enum Stage {
    Before,
    Commit,
}

async fn attempt(
    client: &Client,
    notes: &Notes,
    shape: Shape,
    xid: &mut Option<u32>,
    rows: &mut Vec<i64>,
) -> Result<Option<()>, Stage> {
    let before = |_| Stage::Before;
    client.batch_execute("BEGIN").await.map_err(before)?;
    let row = client
        .query_one("SELECT pg_current_xact_id()::text", &[])
        .await
        .map_err(before)?;
    let wide: u64 = row.get::<_, String>(0).parse().map_err(|_| Stage::Before)?;
    // Recovery targets and WAL records have the low half.
    *xid = Some(wide as u32);
    rows.push(insert(client, notes).await.map_err(before)?);
    match shape {
        Shape::One => {}
        Shape::Several => {
            for _ in 0..4 {
                rows.push(insert(client, notes).await.map_err(before)?);
            }
        }
        Shape::ReleasedSavepoint => {
            client.batch_execute("SAVEPOINT s").await.map_err(before)?;
            rows.push(insert(client, notes).await.map_err(before)?);
            client
                .batch_execute("RELEASE SAVEPOINT s")
                .await
                .map_err(before)?;
        }
        Shape::RolledBackSavepoint => {
            client.batch_execute("SAVEPOINT s").await.map_err(before)?;
            insert(client, notes).await.map_err(before)?;
            client
                .batch_execute("ROLLBACK TO SAVEPOINT s")
                .await
                .map_err(before)?;
            rows.push(insert(client, notes).await.map_err(before)?);
        }
        Shape::RolledBack => {
            client.batch_execute("ROLLBACK").await.map_err(before)?;
            return Ok(None);
        }
    }
    client
        .batch_execute("COMMIT")
        .await
        .map_err(|_| Stage::Commit)?;
    Ok(Some(()))
}

async fn insert(client: &Client, notes: &Notes) -> Result<i64, tokio_postgres::Error> {
    let id = notes.next_row.fetch_add(1, Ordering::Relaxed);
    client
        .batch_execute(&format!(
            "INSERT INTO ledger VALUES ({id}, {})",
            super::payload(&id.to_string())
        ))
        .await?;
    Ok(id)
}

async fn committed_at(client: &Client, xid: Option<u32>) -> Result<PgTimestamp> {
    let xid = xid.context("a committed transaction has an id")?;
    let row = client
        .query_one(
            &format!(
                "SELECT (extract(epoch FROM pg_xact_commit_timestamp('{xid}'::xid)
                                            - timestamptz '2000-01-01 00:00:00 UTC') * 1000000)::bigint"
            ),
            &[],
        )
        .await?;
    Ok(PgTimestamp(row.get(0)))
}
