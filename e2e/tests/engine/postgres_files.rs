//! What Holdfast knows of Postgres' files and of its SQL protocol, held against Postgres itself.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use holdfast_e2e::{Postgres, Shutdown, World};
use holdfast_postgres::backup_label::{self, BackupFrom};
use holdfast_postgres::backup_manifest::{self, WalRange, Writer};
use holdfast_postgres::datadir::{self, CONTROL_FILE, Entry};
use holdfast_postgres::page::{self, PageState};
use holdfast_postgres::server::{ConnectOptions, LockError, Server};
use holdfast_postgres::{
    ClusterState, ControlFile, Lsn, SystemIdentifier, TimelineId, WalLevel, auto_conf, crc,
};
use jiff::Timestamp;
use serde_json::Value;

fn options(postgres: &Postgres) -> ConnectOptions {
    ConnectOptions {
        host: postgres.host().to_string_lossy().into_owned(),
        port: postgres.port(),
        application_name: "holdfast backup".into(),
        ..ConnectOptions::default()
    }
}

/// A server with everything that a backup must leave out or take along.
async fn furnished(world: &World, major: u32) -> Result<Postgres> {
    let postgres = world
        .postgres("primary", major)
        .set("autovacuum", "off")
        // pg_basebackup waits for the archive.
        .set("archive_command", "true")
        .wal_elsewhere()
        .create()
        .await?;
    postgres.tablespace("space").await?;
    postgres.pgbench(&["-i", "-s", "1", "-q"]).await?;
    postgres
        .execute(
            "CREATE TABLE elsewhere (t text) TABLESPACE space;
             INSERT INTO elsewhere SELECT repeat('x', 100) FROM generate_series(1, 5000);
             CREATE UNLOGGED TABLE unlogged AS SELECT g FROM generate_series(1, 1000) g;
             CREATE UNLOGGED TABLE unlogged_elsewhere (i int PRIMARY KEY) TABLESPACE space;
             INSERT INTO unlogged_elsewhere SELECT generate_series(1, 1000);",
        )
        .await?;
    postgres.execute("CREATE DATABASE other").await?;
    postgres.execute("VACUUM ANALYZE").await?;
    for folder in ["base/pgsql_tmp", "of the user/pg_notify"] {
        world.make_dir(&format!("primary/data/{folder}"))?;
    }
    for file in [
        "base/pgsql_tmp/pgsql_tmp1.0",
        "pg_stat_tmp/x",
        "pg_snapshots/x",
        "postgresql.auto.conf.tmp",
        "current_logfiles",
        "current_logfiles.tmp",
        "backup_label.old",
        "of the user/pg_notify/x",
        "of the user/standby.signal",
        "of the user/ö \"quoted\"",
    ] {
        world.write(&format!("primary/data/{file}"), file)?;
    }
    if major > 14 {
        // pg_basebackup of 14 takes what a Mac left in the directory; we never do.
        world.write("primary/data/.DS_Store", "")?;
    }
    postgres.execute("CHECKPOINT").await?;
    Ok(postgres)
}

/// The files that Holdfast would copy, the control file aside, and whether every page of them is good.
fn walk(root: &Path, major: u32) -> Result<(BTreeSet<String>, usize)> {
    let mut files = BTreeSet::new();
    let mut pages = 0;
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(root.join(&directory))? {
            let entry = entry?;
            let name = entry
                .file_name()
                .into_string()
                .ok()
                .context("a name that is not UTF-8")?;
            let path = if directory.is_empty() {
                name
            } else {
                format!("{directory}/{name}")
            };
            let is_dir = std::fs::metadata(entry.path())?.is_dir();
            match datadir::classify(&path, is_dir, major) {
                Entry::Skip | Entry::EmptyDirectory => {}
                Entry::Copy if is_dir => directories.push(path),
                Entry::Copy => drop(files.insert(path)),
                Entry::Relation(file) => {
                    let init = root.join(&file.directory).join(file.init_fork_name());
                    if datadir::is_unlogged_skip(&file, init.exists()) {
                        continue;
                    }
                    let bytes = std::fs::read(entry.path())?;
                    for (block, bytes) in
                        (file.first_block(131_072)..).zip(bytes.chunks(page::SIZE))
                    {
                        let state = page::check(bytes, block);
                        ensure!(
                            !matches!(state, PageState::Bad { .. }),
                            "{path}, block {block}: {state:?}"
                        );
                        pages += 1;
                    }
                    files.insert(path);
                }
            }
        }
    }
    Ok((files, pages))
}

/// A base backup by pg_basebackup, without WAL, its tablespaces beside it.
async fn base_backup(world: &World, postgres: &Postgres) -> Result<std::path::PathBuf> {
    let to = world.path("backup");
    let mut command = world.command(world.client_program("pg_basebackup", postgres.major())?);
    command
        .args([
            "--wal-method=none",
            "--checkpoint=fast",
            "--username=postgres",
            "--no-sync",
        ])
        .arg(format!("--host={}", postgres.host().display()))
        .arg(format!("--port={}", postgres.port()))
        .arg(format!("--pgdata={}", to.display()));
    for link in std::fs::read_dir(postgres.dir().join("pg_tblspc"))? {
        let from = link?.path().read_link()?;
        command.arg(format!(
            "--tablespace-mapping={}={}",
            from.display(),
            world.path("backup-space").display()
        ));
    }
    world.run(command).await?.success()?;
    Ok(to)
}

fn text<'v>(value: &'v Value, name: &str) -> Result<&'v str> {
    value[name]
        .as_str()
        .with_context(|| format!("no {name} in {value}"))
}

async fn files(major: u32) -> Result<()> {
    World::scenario(&format!("files-{major}"), async |world| {
        let postgres = furnished(world, major).await?;
        let client = postgres.client().await?;
        client
            .batch_execute("CREATE TEMP TABLE temporary AS SELECT generate_series(1, 1000)")
            .await?;

        let backup = base_backup(world, &postgres).await?;
        let manifest = std::fs::read_to_string(backup.join("backup_manifest"))?;
        let parsed: Value = serde_json::from_str(&manifest)?;
        let listed = parsed["Files"].as_array().context("no files")?;

        // The same files.
        let (ours, pages) = walk(postgres.dir(), major)?;
        ensure!(pages > 1000, "only {pages} pages");
        let theirs: BTreeSet<String> = listed
            .iter()
            .map(|file| Ok(text(file, "Path")?.to_owned()))
            .collect::<Result<_>>()?;
        let apart = [CONTROL_FILE, "backup_label", "tablespace_map"];
        let theirs: BTreeSet<String> = theirs
            .into_iter()
            .filter(|path| !apart.contains(&path.as_str()))
            .collect();
        ensure!(
            ours == theirs,
            "only ours {:?}, only theirs {:?}",
            ours.difference(&theirs).collect::<Vec<_>>(),
            theirs.difference(&ours).collect::<Vec<_>>()
        );

        // The same manifest, byte for byte.
        let control = ControlFile::parse(&std::fs::read(postgres.dir().join(CONTROL_FILE))?)?;
        let version = backup_manifest::version_of(major);
        let mut writer = Writer::new(Vec::new(), version, Some(control.system_identifier))?;
        for file in listed {
            let path = text(file, "Path")?;
            let bytes = std::fs::read(backup.join(path))?;
            let modified: Timestamp = text(file, "Last-Modified")?
                .replace(" GMT", "Z")
                .replacen(' ', "T", 1)
                .parse()?;
            writer.file(
                path,
                bytes.len() as u64,
                modified,
                Some(crc::crc32c(&bytes)),
            )?;
        }
        let ranges = parsed["WAL-Ranges"]
            .as_array()
            .context("no ranges")?
            .iter()
            .map(|range| {
                Ok(WalRange {
                    timeline: TimelineId(u32::try_from(
                        range["Timeline"].as_u64().context("no timeline")?,
                    )?),
                    start: text(range, "Start-LSN")?.parse()?,
                    end: text(range, "End-LSN")?.parse()?,
                })
            });
        let written = writer.finish_ranges(&ranges.collect::<Result<Vec<_>>>()?)?;
        ensure!(
            String::from_utf8(written)? == manifest,
            "another manifest than {manifest}"
        );

        // One of our own making, over what we see there.
        let (copied, _) = walk(&backup, major)?;
        let mut writer = Writer::new(Vec::new(), version, Some(control.system_identifier))?;
        for path in copied.iter().map(String::as_str).chain([
            CONTROL_FILE,
            "backup_label",
            "tablespace_map",
        ]) {
            let (bytes, metadata) = (
                std::fs::read(backup.join(path)),
                std::fs::metadata(backup.join(path)),
            );
            let Ok((bytes, metadata)) = bytes.and_then(|bytes| Ok((bytes, metadata?))) else {
                // A backup in plain format has links instead of a map.
                ensure!(path == "tablespace_map", "{path} is not there");
                continue;
            };
            let modified = Timestamp::from_second(metadata.mtime())?;
            // Encoded where it is not needed, it must still be understood.
            writer.file(
                path,
                bytes.len() as u64,
                modified,
                Some(crc::crc32c(&bytes)),
            )?;
        }
        let odd = OsStr::from_bytes(b"backup/of the user/n\xfc");
        std::fs::write(world.dir().join(odd), "")?;
        world.own(&world.dir().join(odd))?;
        writer.file(b"of the user/n\xfc", 0, Timestamp::now(), None)?;
        let written = writer.finish(TimelineId(1), Lsn(0x100_0000), Lsn(0x100_0001))?;
        std::fs::write(backup.join("backup_manifest"), written)?;
        world.verify_backup(&backup, major).await?;
        // It does look.
        world.write("backup/PG_VERSION", "99\n")?;
        ensure!(
            world.verify_backup(&backup, major).await.is_err(),
            "a changed file was not noticed"
        );
        drop(client);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn files_of_14() -> Result<()> {
    files(14).await
}

#[tokio::test]
async fn files_of_15() -> Result<()> {
    files(15).await
}

#[tokio::test]
async fn files_of_16() -> Result<()> {
    files(16).await
}

#[tokio::test]
async fn files_of_17() -> Result<()> {
    files(17).await
}

#[tokio::test]
async fn files_of_18() -> Result<()> {
    files(18).await
}

async fn control_file(postgres: &Postgres) -> Result<ControlFile> {
    Ok(ControlFile::parse(&std::fs::read(
        postgres.dir().join(CONTROL_FILE),
    )?)?)
}

/// The control file, settings, a backup's begin and end, its label, the lock, and what is said when something is wrong.
async fn session(major: u32) -> Result<()> {
    World::scenario(&format!("session-{major}"), async |world| {
        let mut postgres = world.postgres("primary", major).segment_mib(1).set("max_connections", "37").create().await?;
        let (oid, folder) = postgres.tablespace("space").await?;
        let server = Server::connect(&options(&postgres)).await?;
        ensure!(server.major() == major && !server.is_closed());

        let control = control_file(&postgres).await?;
        ensure!(control.major == major && control.state == ClusterState::InProduction, "{control:?}");
        let row = postgres
            .client()
            .await?
            .query_one(
                "SELECT system_identifier, pg_control_version, catalog_version_no, checkpoint_lsn::text, redo_lsn::text,
                        timeline_id, prev_timeline_id, next_xid, extract(epoch FROM checkpoint_time)::bigint,
                        min_recovery_end_lsn::text, backup_start_lsn::text, end_of_backup_record_required,
                        database_block_size, blocks_per_segment, wal_block_size, bytes_per_wal_segment,
                        data_page_checksum_version
                 FROM pg_control_system(), pg_control_checkpoint(), pg_control_recovery(), pg_control_init()",
                &[],
            )
            .await?;
        let number = |column: usize| -> Result<u32> { Ok(u32::try_from(row.try_get::<_, i32>(column)?)?) };
        let lsn = |column: usize| -> Result<Lsn> { Ok(row.try_get::<_, String>(column)?.parse()?) };
        ensure!(control.system_identifier == SystemIdentifier(row.try_get::<_, i64>(0)? as u64));
        ensure!((control.pg_control_version, control.catalog_version) == (number(1)?, number(2)?));
        ensure!((control.checkpoint, control.redo) == (lsn(3)?, lsn(4)?));
        ensure!((control.timeline.0, control.prev_timeline.0) == (number(5)?, number(6)?));
        let xid: String = row.try_get(7)?;
        ensure!(format!("{}:{}", control.next_xid >> 32, control.next_xid as u32) == xid, "{} {xid}", control.next_xid);
        ensure!(control.checkpoint_time == row.try_get::<_, i64>(8)?);
        ensure!((control.min_recovery_point, control.backup_start) == (lsn(9)?, lsn(10)?));
        ensure!(control.backup_end_required == row.try_get::<_, bool>(11)?);
        ensure!((control.block_size, control.relation_segment_blocks) == (number(12)?, number(13)?));
        ensure!((control.wal_block_size, control.segment_size.bytes()) == (number(14)?, number(15)?));
        ensure!(control.data_checksums == (number(16)? != 0));
        ensure!(control.wal_level == WalLevel::Replica && control.max_connections == 37 && control.track_commit_timestamp);
        ensure!((control.max_wal_senders, control.max_prepared_xacts, control.max_locks_per_xact) == (10, 10, 64));
        ensure!(control.max_worker_processes == 8 && !control.wal_log_hints);

        let settings = server.settings().await?;
        ensure!(settings.system_identifier == control.system_identifier && settings.server_version_num / 10_000 == major);
        ensure!(settings.timeline == TimelineId(1) && !settings.in_recovery && settings.data_checksums);
        ensure!(settings.wal_level == WalLevel::Replica && settings.archive_mode == "on" && settings.full_page_writes);
        ensure!(settings.data_directory == postgres.dir().to_string_lossy() && settings.archive_library.is_none());
        ensure!(server.show("max_connections").await? == "37");
        ensure!(server.tablespaces().await? == [(oid, folder.to_string_lossy().into_owned())]);

        // One backup at a time, and who runs it.
        server.try_lock_backup().await?;
        let second = Server::connect(&ConnectOptions { application_name: "second".into(), ..options(&postgres) }).await?;
        match second.try_lock_backup().await {
            Err(LockError::Held(by)) => ensure!(by.application_name == "holdfast backup" && by.since.is_some(), "{by:?}"),
            other => bail!("{other:?}"),
        }
        let stopped = second.stop_backup().await.err().context("stopped what was never started")?;
        ensure!(stopped.is_permanent() && stopped.reason().is_some_and(|reason| reason.hint.is_some()), "{stopped}");

        let started = server.start_backup("nightly 'one'", true).await?;
        let stop = server.stop_backup().await?;
        let label = backup_label::parse(&stop.label)?;
        ensure!(label.start == started.start && stop.stop > started.start && label.timeline == TimelineId(1));
        ensure!(label.label == "nightly 'one'" && label.from == BackupFrom::Primary && label.checkpoint >= label.start);
        ensure!(String::from_utf8_lossy(&stop.tablespace_map) == format!("{oid} {}\n", folder.display()));

        // A backup lives and dies with its session.
        server.start_backup("abandoned", true).await?;
        drop(server);
        holdfast_e2e::eventually("the lock is free", async || Ok(second.try_lock_backup().await?)).await?;

        let mut standby = postgres.standby("standby").await?;
        let on_standby = Server::connect(&options(&standby)).await?;
        ensure!(on_standby.settings().await?.in_recovery);
        on_standby.try_lock_backup().await?;
        on_standby.start_backup("from the standby", true).await?;
        let label = backup_label::parse(&on_standby.stop_backup().await?.label)?;
        ensure!(label.from == BackupFrom::Standby && on_standby.current_lsn().await? >= label.start);
        ensure!(on_standby.switch_wal().await.is_err() && second.switch_wal().await?.is_valid());
        standby.stop(Shutdown::Fast).await?;
        ensure!(control_file(&standby).await?.state == ClusterState::ShutDownInRecovery);

        postgres.stop(Shutdown::Fast).await?;
        ensure!(control_file(&postgres).await?.state.is_shut_down());
        holdfast_e2e::eventually("the session knows", async || {
            ensure!(second.is_closed());
            Ok(())
        })
        .await?;
        let nobody = Server::connect(&options(&postgres)).await.err().context("connected to nothing")?;
        ensure!(!nobody.is_permanent() && nobody.to_string().contains("No such file"), "{nobody}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn session_with_14() -> Result<()> {
    session(14).await
}

#[tokio::test]
async fn session_with_15() -> Result<()> {
    session(15).await
}

#[tokio::test]
async fn session_with_16() -> Result<()> {
    session(16).await
}

#[tokio::test]
async fn session_with_17() -> Result<()> {
    session(17).await
}

#[tokio::test]
async fn session_with_18() -> Result<()> {
    session(18).await
}

/// A password, a wrong one, and the same over TCP's address form.
#[tokio::test]
async fn passwords() -> Result<()> {
    World::scenario("passwords", async |world| {
        let postgres = world.postgres("primary", 17).create().await?;
        postgres
            .execute("ALTER USER postgres PASSWORD 'geheim ''x'")
            .await?;
        world.write("primary/data/pg_hba.conf", "local all all scram-sha-256\n")?;
        postgres.execute("SELECT pg_reload_conf()").await?;
        let good = ConnectOptions {
            password: Some("geheim 'x".into()),
            ..options(&postgres)
        };
        ensure!(!format!("{good:?}").contains("geheim"));
        let wrong = ConnectOptions {
            password: Some("x".into()),
            ..options(&postgres)
        };
        let refused = holdfast_e2e::eventually("a wrong password is refused", async || {
            Server::connect(&wrong).await.err().context("it was let in")
        })
        .await?;
        ensure!(
            refused.is_permanent()
                && refused
                    .to_string()
                    .contains("password authentication failed"),
            "{refused}"
        );
        Server::connect(&good).await?;
        Ok(())
    })
    .await
}

/// postgresql.auto.conf as the server reads it: what we add and strip among what ALTER SYSTEM wrote.
#[tokio::test]
async fn settings_that_the_server_reads_back() -> Result<()> {
    World::scenario("auto-conf", async |world| {
        let mut postgres = world.postgres("primary", 18).create().await?;
        let odd = "cp '/a b/%f' \"%p\" \\ it''s \u{fc} # no comment";
        let path = postgres.dir().join("postgresql.auto.conf");
        postgres
            .execute("ALTER SYSTEM SET archive_cleanup_command = 'echo ''x\\y'''")
            .await?;
        postgres
            .execute("ALTER SYSTEM SET work_mem = '5MB'")
            .await?;
        let written = std::fs::read_to_string(&path)?;
        ensure!(
            auto_conf::value(&written, "archive_cleanup_command").as_deref() == Some("echo 'x\\y'"),
            "{written}"
        );
        let rewritten = auto_conf::rewrite(
            &format!("{written}Recovery_Target_Name 'x'\nshop.odd = 1 # kept\n"),
            &["recovery_target_name", "absent"],
            &[("restore_command", odd), ("cluster_name", "it's")],
        );
        std::fs::write(&path, &rewritten)?;
        postgres.restart().await?;
        for (name, expected) in [
            ("restore_command", odd),
            ("cluster_name", "it's"),
            ("work_mem", "5MB"),
            ("shop.odd", "1"),
            ("recovery_target_name", ""),
            ("archive_cleanup_command", "echo 'x\\y'"),
        ] {
            let value = postgres.value(&format!("SHOW {name}")).await?;
            ensure!(value == expected, "{name} is {value}");
            if !expected.is_empty() {
                ensure!(auto_conf::value(&rewritten, name).as_deref() == Some(expected));
            }
        }
        Ok(())
    })
    .await
}
