//! A server that a ledger is kept on, and what is asked of it.

use std::future::Future;

use anyhow::{Context, Result};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::postgres::Postgres;

/// A server on which a ledger can be written and read.
pub trait Server {
    /// A connection to the database `postgres`, as superuser.
    fn client(&self) -> impl Future<Output = Result<Client>> + Send;

    /// The end of its log, or where that is.
    fn tail(&self) -> String;
}

impl Server for Postgres {
    async fn client(&self) -> Result<Client> {
        Self::client(self).await
    }

    fn tail(&self) -> String {
        Self::tail(self)
    }
}

/// The first column of the first row, as text (every type is cast).
///
/// # Errors
/// The server's, or if there is no row or it is NULL.
pub async fn value(client: &Client, sql: &str) -> Result<String> {
    let messages = client
        .simple_query(sql)
        .await
        .with_context(|| sql.to_owned())?;
    messages
        .iter()
        .find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .with_context(|| format!("no value: {sql}"))
}

/// The timeline that the server writes, or replays.
///
/// # Errors
/// The server's.
pub async fn timeline(client: &Client) -> Result<u32> {
    let text = value(
        client,
        "SELECT CASE WHEN pg_is_in_recovery()
           THEN (SELECT to_hex(min_recovery_end_timeline) FROM pg_control_recovery())
           ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END",
    )
    .await?;
    Ok(u32::from_str_radix(&text, 16)?)
}

/// A file of the data directory.
pub(super) async fn file(client: &Client, path: &str) -> Result<Vec<u8>> {
    let row = client
        .query_one("SELECT pg_read_binary_file($1)", &[&path])
        .await
        .with_context(|| format!("reading {path}"))?;
    Ok(row.get(0))
}
