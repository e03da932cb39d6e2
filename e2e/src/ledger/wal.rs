//! The events of a server's WAL: by Postgres' own pg_walinspect where it exists (15 and later), else by our reader. All is
//! asked over a connection: a pod's files are not at hand.

use anyhow::{Context, Result};
use holdfast_postgres::wal::{RecordKind, RecordReader};
use holdfast_postgres::{Lsn, PgTimestamp, SegmentName, SegmentSize, TimelineHistory, TimelineId};

use super::server::{self, Server};
use super::target::{Event, What};
use tokio_postgres::Client;

/// What the server has flushed.
pub(super) async fn flushed(client: &Client) -> Result<Lsn> {
    Ok(server::value(client, "SELECT pg_current_wal_flush_lsn()")
        .await?
        .parse()?)
}

/// The events of that timeline from `from` to `to`.
pub(super) async fn events(
    client: &Client,
    timeline: u32,
    from: Lsn,
    to: Lsn,
) -> Result<Vec<Event>> {
    if major(client).await? >= 15 {
        inspect(client, from, to).await
    } else {
        read(client, timeline, from, to).await
    }
}

/// The same stretch of timeline 1 by pg_walinspect and by our own reader: for the test that they agree.
///
/// # Errors
/// If either fails.
pub async fn both_readers(
    on: &impl Server,
    from: &str,
    to: &str,
) -> Result<(Vec<Event>, Vec<Event>)> {
    let (from, to) = (from.parse()?, to.parse()?);
    let client = on.client().await?;
    Ok((
        inspect(&client, from, to).await?,
        read(&client, 1, from, to).await?,
    ))
}

/// Asks pg_walinspect.
async fn inspect(client: &Client, from: Lsn, to: Lsn) -> Result<Vec<Event>> {
    client
        .batch_execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect")
        .await?;
    let rows = client
        .query(
            &format!(
                r"SELECT start_lsn::text, prev_lsn::text, xid::text, record_type, description,
                         (extract(epoch FROM substring(description FROM
                            '\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?[+-]\d\d(?::\d\d)?')::timestamptz
                          - timestamptz '2000-01-01 00:00:00 UTC') * 1000000)::bigint,
                         substring(description FROM '^(\d+): ')
                  FROM pg_get_wal_records_info('{from}', '{to}') AS record
                  WHERE resource_manager = 'Transaction'
                        AND record_type IN ('COMMIT', 'ABORT', 'COMMIT_PREPARED', 'ABORT_PREPARED')
                     OR resource_manager = 'XLOG' AND record_type = 'RESTORE_POINT'
                  ORDER BY record.start_lsn"
            ),
            &[],
        )
        .await
        .with_context(|| format!("pg_walinspect from {from} to {to}"))?;
    rows.iter()
        .map(|row| {
            let kind: String = row.get(3);
            let prepared: Option<String> = row.get(6);
            let xid: String = row.get(2);
            Ok(Event {
                lsn: row.get::<_, String>(0).parse()?,
                previous: row.get::<_, String>(1).parse()?,
                xid: prepared.unwrap_or(xid).parse()?,
                time: PgTimestamp(row.get::<_, Option<i64>>(5).unwrap_or_default()),
                what: match kind.as_str() {
                    "RESTORE_POINT" => What::RestorePoint(row.get(4)),
                    "COMMIT" | "COMMIT_PREPARED" => What::Commit,
                    _ => What::Abort,
                },
            })
        })
        .collect()
}

/// Reads the segments in pg_wal with our own reader. The timeline is the server's, or the one that its own came from, which
/// then ends at `to`.
async fn read(client: &Client, timeline: u32, from: Lsn, to: Lsn) -> Result<Vec<Event>> {
    let bytes = "SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'";
    let size = SegmentSize::new(server::value(client, bytes).await?.parse()?)?;
    let own = server::timeline(client).await?;
    let mut number = from.segment(size);
    let mut reader = RecordReader::new(number.start(size), size, major(client).await?);
    let mut events = Vec::new();
    let mut previous = Lsn::INVALID;
    while number.start(size) < to && !reader.ended() {
        // What a timeline ends in belongs to the one that goes on from there: the old name is renamed to .partial.
        let of = if number == to.segment(size) {
            own
        } else {
            timeline
        };
        let name = SegmentName::new(TimelineId(of), number, size);
        let content = server::file(client, &format!("pg_wal/{name}")).await?;
        reader.feed(&content, &mut |record| {
            let event = |xid, time, what| Event {
                lsn: record.lsn,
                previous,
                xid,
                time,
                what,
            };
            let found = match &record.kind {
                RecordKind::Commit { xid, time } => Some(event(*xid, *time, What::Commit)),
                RecordKind::Abort { xid, time } => Some(event(*xid, *time, What::Abort)),
                RecordKind::RestorePoint { name, .. } => {
                    Some(event(0, PgTimestamp(0), What::RestorePoint(name.clone())))
                }
                _ => None,
            };
            events.extend(found.filter(|event| event.lsn >= from && event.lsn < to));
            previous = record.lsn;
        })?;
        number = number.next();
    }
    Ok(events)
}

async fn major(client: &Client) -> Result<u32> {
    let number: u32 = server::value(client, "SHOW server_version_num")
        .await?
        .parse()?;
    Ok(number / 10_000)
}

/// The timeline's parents, from the history file in pg_wal.
pub(super) async fn history(client: &Client, timeline: u32) -> Result<TimelineHistory> {
    let timeline = TimelineId(timeline);
    if timeline.0 == 1 {
        return Ok(TimelineHistory::root(timeline));
    }
    let path = format!("pg_wal/{}.history", timeline.hex());
    let file = server::file(client, &path).await?;
    Ok(TimelineHistory::parse(timeline, &file)?)
}
