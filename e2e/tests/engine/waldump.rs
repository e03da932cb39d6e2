//! Holdfast's reading of WAL against Postgres' own: pg_walinspect in 15 to 18, pg_waldump of 17 and 18, and for 14,
//! which has neither here, the server's word on every transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Postgres, Shutdown, World};
use holdfast_postgres::wal::{
    self, Record, RecordKind, RecordReader, SegmentEnd, SegmentIndex, SegmentScanner,
};
use holdfast_postgres::{
    Lineage, Lsn, PgTimestamp, SegmentName, SegmentSize, TimelineHistory, TimelineId,
};
use jiff::Timestamp;

/// Every kind of record that matters: small ones, such that run over pages and segments, subtransactions, prepared
/// transactions with much and little to tell, restore points, switches, a checkpoint.
async fn traffic(postgres: &Postgres) -> Result<()> {
    postgres.pgbench(&["-i", "-s", "1", "-q"]).await?;
    postgres.pgbench(&["-n", "-c", "4", "-t", "400"]).await?;
    postgres.restore_point("first point").await?;
    let statements = [
        "CREATE TABLE big (id serial, b text)",
        "ALTER TABLE big ALTER b SET STORAGE external",
        "INSERT INTO big (b) SELECT string_agg(md5((g * h)::text), '')
         FROM generate_series(1, 5000) g, generate_series(1, 10) h GROUP BY h",
        "SELECT pg_logical_emit_message(false, 'p', repeat('x', 3000000))",
        "SELECT pg_logical_emit_message(true, 'p', repeat('y', 20000000))",
        "CREATE UNLOGGED TABLE unlogged AS SELECT generate_series(1, 1000)",
        "DO $$ BEGIN FOR i IN 1..300 LOOP BEGIN INSERT INTO big (b) VALUES ('x'); EXCEPTION WHEN OTHERS THEN NULL; END;
         END LOOP; END $$",
        "BEGIN; INSERT INTO big (b) VALUES ('a'); PREPARE TRANSACTION 'one'",
        "BEGIN; CREATE TABLE two AS SELECT 1; DROP TABLE two; CREATE TABLE three AS SELECT 1; SAVEPOINT a;
         INSERT INTO big (b) VALUES ('c'); SAVEPOINT b; INSERT INTO big (b) VALUES ('d'); DROP TABLE unlogged;
         PREPARE TRANSACTION 'two'",
        "BEGIN; CREATE TABLE four AS SELECT 1; PREPARE TRANSACTION 'three'",
        "BEGIN; INSERT INTO big (b) VALUES ('e'); ROLLBACK",
        "COMMIT PREPARED 'one'",
        "COMMIT PREPARED 'two'",
        "ROLLBACK PREPARED 'three'",
        "SELECT pg_switch_wal()",
        "CHECKPOINT",
    ];
    for statement in statements {
        postgres.execute(statement).await?;
    }
    postgres.restore_point("after the switch").await?;
    postgres.execute("VACUUM FULL big").await?;
    postgres.pgbench(&["-n", "-c", "4", "-t", "400"]).await?;
    postgres.execute("SELECT pg_switch_wal()").await
}

struct Segment {
    name: SegmentName,
    path: PathBuf,
}

/// The segments in pg_wal on one timeline, up to the one with the last byte that was flushed.
fn segments(
    postgres: &Postgres,
    timeline: TimelineId,
    flushed: Lsn,
    size: SegmentSize,
) -> Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(postgres.dir().join("pg_wal"))? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().to_string_lossy().parse::<SegmentName>()
            && name.timeline == timeline
            && name.number(size)? <= flushed.segment_before(size)
        {
            segments.push(Segment {
                name,
                path: entry.path(),
            });
        }
    }
    segments.sort_by_key(|segment| segment.name);
    Ok(segments)
}

fn records(segments: &[Segment], size: SegmentSize, major: u32) -> Result<(Vec<Record>, Lsn)> {
    let first = segments.first().context("no segments")?.name.number(size)?;
    let mut reader = RecordReader::new(first.start(size), size, major);
    let mut records = Vec::new();
    for segment in segments {
        for piece in std::fs::read(&segment.path)?.chunks(100_001) {
            reader.feed(piece, &mut |record| records.push(record))?;
        }
    }
    Ok((records, reader.valid_through()))
}

/// Scans every segment; all but the last must be whole. The indexes are joined.
fn indexes(segments: &[Segment], size: SegmentSize, major: u32) -> Result<Vec<SegmentIndex>> {
    let mut indexes: Vec<SegmentIndex> = Vec::new();
    for segment in segments {
        let mut scanner = SegmentScanner::new(segment.name, size, major);
        std::fs::read(&segment.path)?
            .chunks(65_537)
            .for_each(|piece| scanner.feed(piece));
        let scan = scanner.finish();
        let header = scan.header.context("no header")?;
        ensure!(
            header.major == major && header.segment_size == size,
            "{header:?}"
        );
        ensure!(scan.end.is_whole(), "{}: {:?}", segment.name, scan.end);
        if let Some(last) = indexes.last_mut() {
            wal::join(last, &scan.index, major);
        }
        indexes.push(scan.index);
    }
    Ok(indexes)
}

/// The indexes of the segments say the same as their records.
fn compare_indexes(
    indexes: &[SegmentIndex],
    records: &[Record],
    never_ended: Option<Lsn>,
) -> Result<()> {
    let mut xids = Vec::new();
    let mut points = Vec::new();
    let mut commits = Vec::new();
    let mut aborts = Vec::new();
    let mut latest = None;
    let mut changes = 0;
    for record in records {
        let time = match &record.kind {
            RecordKind::Commit { xid, time } => {
                xids.push(*xid);
                commits.push(*time);
                Some(*time)
            }
            RecordKind::Abort { xid, time } => {
                xids.push(*xid);
                aborts.push(*time);
                Some(*time)
            }
            RecordKind::RestorePoint { name, time } => {
                points.push((record.lsn, name.clone(), *time));
                Some(*time)
            }
            RecordKind::Checkpoint { time_unix, .. } => {
                Some(PgTimestamp::from_unix_seconds(*time_unix))
            }
            RecordKind::EndOfRecovery { time, .. } => Some(*time),
            RecordKind::ParameterChange(_) => {
                changes += 1;
                None
            }
            RecordKind::Switch | RecordKind::Other => None,
        };
        latest = latest.max(time);
    }
    ensure!(
        indexes
            .iter()
            .flat_map(|index| &index.xids)
            .copied()
            .eq(xids)
    );
    let indexed_points = indexes.iter().flat_map(|index| &index.restore_points);
    ensure!(
        indexed_points
            .map(|point| (point.lsn, point.name.clone(), point.time))
            .eq(points)
    );
    let range = |ranges: Vec<Option<(PgTimestamp, PgTimestamp)>>| {
        let ranges: Vec<_> = ranges.into_iter().flatten().collect();
        (
            ranges.iter().map(|range| range.0).min(),
            ranges.iter().map(|range| range.1).max(),
        )
    };
    let of_commits = range(indexes.iter().map(|index| index.commit_times).collect());
    ensure!(of_commits == (commits.iter().min().copied(), commits.iter().max().copied()));
    let of_aborts = range(indexes.iter().map(|index| index.abort_times).collect());
    ensure!(of_aborts == (aborts.iter().min().copied(), aborts.iter().max().copied()));
    ensure!(indexes.iter().filter_map(|index| index.latest_time).max() == latest);
    ensure!(
        indexes
            .iter()
            .map(|index| index.parameter_changes.len())
            .sum::<usize>()
            == changes
    );
    let starts: BTreeSet<Lsn> = records
        .iter()
        .map(|record| record.lsn)
        .chain(never_ended)
        .collect();
    for index in indexes {
        ensure!(
            [index.first_record, index.last_record]
                .into_iter()
                .flatten()
                .all(|lsn| starts.contains(&lsn))
        );
    }
    Ok(())
}

const RESOURCE_MANAGERS: [&str; 22] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
];

/// What a record says, as text that both readers' words can be brought to.
fn words(kind: &RecordKind) -> Option<String> {
    match kind {
        RecordKind::Commit { xid, time } => Some(format!("COMMIT {xid} {time}")),
        RecordKind::Abort { xid, time } => Some(format!("ABORT {xid} {time}")),
        RecordKind::RestorePoint { name, .. } => Some(format!("RESTORE_POINT {name}")),
        RecordKind::Switch => Some("SWITCH".into()),
        RecordKind::Checkpoint {
            online: true, redo, ..
        } => Some(format!("CHECKPOINT_ONLINE {redo}")),
        RecordKind::Checkpoint {
            online: false,
            redo,
            ..
        } => Some(format!("CHECKPOINT_SHUTDOWN {redo}")),
        RecordKind::EndOfRecovery { timeline, .. } => Some(format!("END_OF_RECOVERY {timeline}")),
        RecordKind::ParameterChange(change) => {
            Some(format!("PARAMETER_CHANGE {}", change.max_connections))
        }
        RecordKind::Other => None,
    }
}

/// The same, made of the record type and description that Postgres' own reader gives. `xid` is the record's.
fn their_words(kind: &str, description: &str, xid: u32) -> Option<String> {
    let (word, _) = kind.split_once("_PREPARED").unwrap_or((kind, ""));
    let upto = |text: &str, end: &[char]| text.split(end).next().unwrap_or_default().to_owned();
    match word {
        "COMMIT" | "ABORT" => {
            // "731: 2026-11-21 …" of a prepared transaction, else without its id.
            let (xid, rest) = match description.split_once(": ") {
                Some((prepared, rest)) if prepared.parse::<u32>().is_ok() => {
                    (prepared.parse().ok()?, rest)
                }
                _ => (xid, description),
            };
            // pg_waldump writes " UTC" behind it, the server "+00".
            let time: Timestamp = format!("{}Z", rest.get(..19)?).parse().ok()?;
            let decimals = upto(rest.get(19..)?, &['+', ' ', ';']);
            let micros: f64 = if decimals.is_empty() {
                0.0
            } else {
                format!("0{decimals}").parse().ok()?
            };
            let time = time + jiff::SignedDuration::from_micros((micros * 1e6).round() as i64);
            Some(format!("{word} {xid} {time}"))
        }
        "RESTORE_POINT" => Some(format!("{word} {description}")),
        "SWITCH" => Some(word.into()),
        "CHECKPOINT_ONLINE" | "CHECKPOINT_SHUTDOWN" => {
            let redo: Lsn = upto(description.strip_prefix("redo ")?, &[';'])
                .parse()
                .ok()?;
            Some(format!("{word} {redo}"))
        }
        "END_OF_RECOVERY" => Some(format!(
            "{word} {}",
            upto(description.strip_prefix("tli ")?, &[';'])
        )),
        "PARAMETER_CHANGE" => Some(format!(
            "{word} {}",
            upto(description.strip_prefix("max_connections=")?, &[' '])
        )),
        _ => None,
    }
}

/// pg_walinspect's word on each record: start, end, predecessor, transaction, resource manager, length, and what it is.
async fn compare_with_walinspect(postgres: &Postgres, records: &[Record]) -> Result<()> {
    postgres
        .execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect")
        .await?;
    let (first, last) = records.first().zip(records.last()).context("no records")?;
    let client = postgres.client().await?;
    let rows = client
        .query(
            &format!(
                "SELECT start_lsn::text, end_lsn::text, prev_lsn::text, xid::text::bigint, resource_manager,
                        record_length::bigint, record_type, description
                 FROM pg_get_wal_records_info('{}', '{}')",
                first.lsn, last.end
            ),
            &[],
        )
        .await?;
    ensure!(
        rows.len() == records.len(),
        "{} records, walinspect has {}",
        records.len(),
        rows.len()
    );
    for (row, record) in rows.iter().zip(records) {
        let lsn = |column| -> Result<Lsn> { Ok(row.try_get::<_, String>(column)?.parse()?) };
        let theirs = (
            lsn(0)?,
            lsn(1)?,
            lsn(2)?,
            row.try_get::<_, i64>(3)?,
            row.try_get::<_, String>(4)?,
            row.try_get::<_, i64>(5)?,
        );
        let manager = RESOURCE_MANAGERS[usize::from(record.rmid)].to_owned();
        let ours = (
            record.lsn,
            record.end,
            record.prev,
            record.xid.into(),
            manager,
            record.total_length.into(),
        );
        ensure!(ours == theirs, "{ours:?} instead of {theirs:?}");
        let description = row.try_get::<_, Option<String>>(7)?.unwrap_or_default();
        let theirs = their_words(row.try_get::<_, &str>(6)?, &description, record.xid);
        let ours = words(&record.kind);
        ensure!(
            ours == theirs,
            "{ours:?} instead of {theirs:?} at {}: {description}",
            record.lsn
        );
    }
    Ok(())
}

/// pg_waldump's word on each record: start, predecessor, transaction, length, and what it is.
async fn compare_with_waldump(
    world: &World,
    postgres: &Postgres,
    records: &[Record],
) -> Result<()> {
    let (first, last) = records.first().zip(records.last()).context("no records")?;
    let mut command = world.command(world.client_program("pg_waldump", postgres.major())?);
    command
        .arg("--path")
        .arg(postgres.dir().join("pg_wal"))
        .arg(format!("--start={}", first.lsn))
        .arg(format!("--end={}", last.end));
    let output = world.run(command).await?.success()?;
    let lines: Vec<&str> = output.stdout.lines().collect();
    ensure!(
        lines.len() == records.len(),
        "{} records, waldump has {}",
        records.len(),
        lines.len()
    );
    for (line, record) in lines.iter().zip(records) {
        let field = |begin: &str, end: &str| -> Option<&str> {
            let (_, rest) = line.split_once(begin)?;
            Some(rest.split_once(end).map_or(rest, |(field, _)| field).trim())
        };
        let parsed = || -> Option<_> {
            Some((
                field("lsn: ", ",")?.parse::<Lsn>().ok()?,
                field("prev ", ",")?.parse::<Lsn>().ok()?,
                field("tx:", ",")?.parse::<u32>().ok()?,
                field("len (rec/tot):", ",")?
                    .split_once('/')?
                    .1
                    .trim()
                    .parse::<u32>()
                    .ok()?,
                field("rmgr: ", "len")?,
                field("desc: ", "\n")?,
            ))
        };
        let (lsn, prev, xid, length, manager, description) =
            parsed().with_context(|| (*line).to_owned())?;
        let ours = (
            record.lsn,
            record.prev,
            record.xid,
            record.total_length,
            RESOURCE_MANAGERS[usize::from(record.rmid)],
        );
        ensure!(
            ours == (lsn, prev, xid, length, manager),
            "{record:?} instead of {line}"
        );
        let (kind, description) = description.split_once(' ').unwrap_or((description, ""));
        let (ours, theirs) = (
            words(&record.kind),
            their_words(kind, description, record.xid),
        );
        ensure!(ours == theirs, "{ours:?} instead of {theirs:?}: {line}");
    }
    Ok(())
}

/// The server's word on each transaction: whether it was committed, and when.
async fn compare_with_commit_timestamps(
    postgres: &Postgres,
    records: &[Record],
    since: Lsn,
) -> Result<()> {
    let mut endings = BTreeMap::new();
    for record in records.iter().filter(|record| record.lsn >= since) {
        match record.kind {
            RecordKind::Commit { xid, time } => endings.insert(xid, Some(time.to_jiff())),
            RecordKind::Abort { xid, .. } => endings.insert(xid, None),
            _ => continue,
        };
    }
    ensure!(endings.len() > 800, "only {} transactions", endings.len());
    let client = postgres.client().await?;
    let rows = client
        .query(
            "SELECT xid, pg_xact_status(xid::text::xid8),
                    (extract(epoch FROM pg_xact_commit_timestamp(xid::text::xid)) * 1000000)::bigint
             FROM unnest($1::bigint[]) xid",
            &[&endings
                .keys()
                .map(|xid| i64::from(*xid))
                .collect::<Vec<i64>>()],
        )
        .await?;
    for row in rows {
        let (xid, status, time): (i64, String, Option<i64>) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        match endings[&(xid as u32)] {
            Some(ours) => ensure!(
                status == "committed" && time == Some(ours.as_microsecond()),
                "{xid}: {ours}, {time:?}"
            ),
            None => ensure!(status == "aborted", "{xid} was {status}"),
        }
    }
    for row in client
        .query(
            "SELECT DISTINCT xmin::text::bigint FROM pgbench_history",
            &[],
        )
        .await?
    {
        let xid: i64 = row.try_get(0)?;
        ensure!(
            endings.contains_key(&(xid as u32)),
            "the commit of {xid} was not seen"
        );
    }
    Ok(())
}

async fn major(major: u32, segment_mib: u32) -> Result<()> {
    World::scenario(&format!("waldump-{major}-{segment_mib}"), async |world| {
        let postgres = world
            .postgres("primary", major)
            .segment_mib(segment_mib)
            .create()
            .await?;
        let size = SegmentSize::new(segment_mib << 20)?;
        let since: Lsn = postgres.lsn().await?.parse()?;
        traffic(&postgres).await?;
        let flushed: Lsn = postgres
            .value("SELECT pg_current_wal_flush_lsn()")
            .await?
            .parse()?;
        // The switch that ended the traffic closed the last segment.
        let segments = segments(
            &postgres,
            TimelineId(1),
            Lsn(flushed.0 - flushed.0 % u64::from(size.bytes())),
            size,
        )?;
        let (records, end) = records(&segments, size, major)?;
        ensure!(
            records.len() > 10_000 && end <= flushed,
            "{} records up to {end}",
            records.len()
        );
        compare_indexes(&indexes(&segments, size, major)?, &records, None)?;
        let points: Vec<&RecordKind> = records
            .iter()
            .map(|record| &record.kind)
            .filter(|kind| matches!(kind, RecordKind::RestorePoint { .. }))
            .collect();
        ensure!(points.len() == 2, "{points:?}");
        if major >= 15 {
            compare_with_walinspect(&postgres, &records).await?;
        }
        if major >= 17 {
            compare_with_waldump(world, &postgres, &records).await?;
        }
        compare_with_commit_timestamps(&postgres, &records, since).await
    })
    .await
}

#[tokio::test]
async fn wal_of_14() -> Result<()> {
    major(14, 1).await
}

#[tokio::test]
async fn wal_of_15() -> Result<()> {
    major(15, 16).await
}

#[tokio::test]
async fn wal_of_16() -> Result<()> {
    major(16, 1).await
}

#[tokio::test]
async fn wal_of_17_in_large_segments() -> Result<()> {
    major(17, 64).await
}

#[tokio::test]
async fn wal_of_17_in_small_segments() -> Result<()> {
    major(17, 1).await
}

#[tokio::test]
async fn wal_of_18() -> Result<()> {
    major(18, 16).await
}

/// A promotion: the child's first segment begins with its parent's pages; what the parent had begun is `.partial`.
#[tokio::test]
async fn wal_across_a_promotion() -> Result<()> {
    World::scenario("waldump-promotion", async |world| {
        let size = SegmentSize::new(1 << 20)?;
        let mut primary = world
            .postgres("primary", 17)
            .segment_mib(1)
            .create()
            .await?;
        primary.pgbench(&["-i", "-s", "1", "-q"]).await?;
        let mut standby = primary.standby("standby").await?;
        primary.pgbench(&["-n", "-c", "2", "-t", "500"]).await?;
        standby.wait_replayed(&primary.lsn().await?).await?;
        primary.stop(Shutdown::Immediate).await?;
        standby.promote().await?;
        standby.pgbench(&["-n", "-c", "2", "-t", "500"]).await?;
        standby.execute("SELECT pg_switch_wal()").await?;
        let flushed: Lsn = standby
            .value("SELECT pg_current_wal_flush_lsn()")
            .await?
            .parse()?;
        let flushed = Lsn(flushed.0 - flushed.0 % u64::from(size.bytes()));

        let history = std::fs::read(standby.dir().join("pg_wal/00000002.history"))?;
        let history = TimelineHistory::parse(TimelineId(2), &history)?;
        let switch = history.parent().context("no parent")?.switch;
        let lineage = Lineage::from(&history);
        ensure!(
            lineage.timeline_at(switch) == TimelineId(2) && lineage.contains(TimelineId(1), switch)
        );

        let child = segments(&standby, TimelineId(2), flushed, size)?;
        let first = child.first().context("no segment of timeline 2")?;
        ensure!(first.name.number(size)? == switch.segment(size));
        let (records, _) = records(&child, size, 17)?;
        compare_indexes(&indexes(&child, size, 17)?, &records, None)?;
        ensure!(
            records.iter().any(|record| record.lsn == switch
                && matches!(
                    record.kind,
                    RecordKind::EndOfRecovery {
                        timeline: TimelineId(2),
                        prev_timeline: TimelineId(1),
                        ..
                    } | RecordKind::Checkpoint {
                        timeline: TimelineId(2),
                        prev_timeline: TimelineId(1),
                        ..
                    }
                )),
            "nothing at {switch} begins timeline 2"
        );

        // What is left of the parent's last segment is none.
        let partial = standby.dir().join(format!(
            "pg_wal/{}.partial",
            SegmentName {
                timeline: TimelineId(1),
                ..first.name
            }
        ));
        let mut scanner = SegmentScanner::new(
            SegmentName {
                timeline: TimelineId(1),
                ..first.name
            },
            size,
            17,
        );
        scanner.feed(&std::fs::read(&partial).with_context(|| partial.display().to_string())?);
        match scanner.finish().end {
            SegmentEnd::Incomplete { valid_through, .. } => {
                ensure!(valid_through >= switch, "{valid_through} before {switch}")
            }
            whole => anyhow::bail!("{whole:?}"),
        }
        Ok(())
    })
    .await
}

/// A crash in the middle of a record that runs over segments, with the later ones lost: the server says in its next page
/// that the record never happened.
#[tokio::test]
async fn wal_with_a_record_that_never_ended() -> Result<()> {
    World::scenario("waldump-overwrite", async |world| {
        let size = SegmentSize::new(1 << 20)?;
        let mut postgres = world
            .postgres("primary", 16)
            .segment_mib(1)
            .create()
            .await?;
        postgres
            .execute("CREATE TABLE t (i int); CHECKPOINT; SELECT pg_switch_wal()")
            .await?;
        let begun: Lsn = postgres.lsn().await?.parse()?;
        postgres
            .execute("SELECT pg_logical_emit_message(false, 'p', repeat('x', 2500000))")
            .await?;
        postgres.execute("SELECT pg_switch_wal()").await?;
        postgres.stop(Shutdown::Immediate).await?;
        for segment in segments(&postgres, TimelineId(1), Lsn(u64::MAX), size)? {
            if segment.name.number(size)? > begun.segment(size) {
                std::fs::remove_file(segment.path)?;
            }
        }
        postgres.start().await?;
        postgres.execute("INSERT INTO t VALUES (1)").await?;
        postgres.execute("SELECT pg_switch_wal()").await?;
        let flushed: Lsn = postgres
            .value("SELECT pg_current_wal_flush_lsn()")
            .await?
            .parse()?;
        let flushed = Lsn(flushed.0 - flushed.0 % u64::from(size.bytes()));

        let segments = segments(&postgres, TimelineId(1), flushed, size)?;
        let (records, end) = records(&segments, size, 16)?;
        let overwrite = records
            .iter()
            .find(|record| record.rmid == 0 && record.info & 0xF0 == 0xD0);
        let overwrite = overwrite.context("no record of what was overwritten")?;
        ensure!(
            overwrite.lsn.segment(size) == begun.segment(size).next() && end >= flushed,
            "{overwrite:?}, {end}"
        );
        ensure!(records.iter().all(|record| record.total_length < 2_500_000));
        compare_indexes(&indexes(&segments, size, 16)?, &records, Some(begun))?;
        compare_with_walinspect(&postgres, &records).await
    })
    .await
}
