//! The events of a server's WAL: by Postgres' own pg_walinspect where it exists (15 and later), else by our reader.

use anyhow::{Context, Result};
use holdfast_postgres::wal::{RecordKind, RecordReader};
use holdfast_postgres::{Lsn, PgTimestamp, SegmentName, SegmentSize, TimelineHistory, TimelineId};

use super::target::{Event, What};
use crate::postgres::Postgres;

/// The events from `from` to what the server has flushed, and where that is.
pub(super) async fn events(
    postgres: &Postgres,
    timeline: u32,
    from: Lsn,
) -> Result<(Vec<Event>, Lsn)> {
    let to: Lsn = postgres
        .value("SELECT pg_current_wal_flush_lsn()")
        .await?
        .parse()?;
    if to <= from {
        return Ok((Vec::new(), from));
    }
    let events = if postgres.major() >= 15 {
        inspect(postgres, from, to).await?
    } else {
        read(postgres, timeline, from, to).await?
    };
    Ok((events, to))
}

/// The same stretch of timeline 1 by pg_walinspect and by our own reader: for the test that they agree.
///
/// # Errors
/// If either fails.
pub async fn both_readers(
    postgres: &Postgres,
    from: &str,
    to: &str,
) -> Result<(Vec<Event>, Vec<Event>)> {
    let (from, to) = (from.parse()?, to.parse()?);
    Ok((
        inspect(postgres, from, to).await?,
        read(postgres, 1, from, to).await?,
    ))
}

/// Asks pg_walinspect.
async fn inspect(postgres: &Postgres, from: Lsn, to: Lsn) -> Result<Vec<Event>> {
    let client = postgres.client().await?;
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
        .with_context(|| format!("pg_walinspect from {from} to {to}\n{}", postgres.tail()))?;
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

/// Reads the segments in pg_wal with our own reader.
async fn read(postgres: &Postgres, timeline: u32, from: Lsn, to: Lsn) -> Result<Vec<Event>> {
    let bytes = postgres
        .value("SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'")
        .await?
        .parse()?;
    let size = SegmentSize::new(bytes)?;
    let mut number = from.segment(size);
    let mut reader = RecordReader::new(number.start(size), size, postgres.major());
    let mut events = Vec::new();
    let mut previous = Lsn::INVALID;
    while number.start(size) < to && !reader.ended() {
        let name = SegmentName::new(TimelineId(timeline), number, size);
        let path = postgres.dir().join("pg_wal").join(name.to_string());
        let content =
            std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
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

/// The timeline's parents, from the history file in pg_wal.
pub(super) fn history(postgres: &Postgres, timeline: u32) -> Result<TimelineHistory> {
    let timeline = TimelineId(timeline);
    if timeline.0 == 1 {
        return Ok(TimelineHistory::root(timeline));
    }
    let path = postgres
        .dir()
        .join("pg_wal")
        .join(format!("{}.history", timeline.hex()));
    let file = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(TimelineHistory::parse(timeline, &file)?)
}
