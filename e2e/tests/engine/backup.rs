//! Taking backups: whose they are, what is in them, what is told of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use holdfast_e2e::{
    Daemon, Holdfast, Ledger, Minio, Postgres, Shutdown, Target, World, eventually,
};
use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Restores to the end and holds every row against the ledger.
async fn judge(
    world: &World,
    name: &str,
    major: u32,
    holdfast: &Holdfast,
    ledger: &Ledger,
) -> Result<Postgres> {
    let mut restored = world.restored(name, major, holdfast, &[], &[]).await?;
    restored.postgres.start().await?;
    restored.postgres.wait_promoted().await?;
    let all = ledger.expected(1, &Target::Latest, false)?;
    Ledger::compare(&restored.postgres, &all).await?;
    Ok(restored.postgres)
}

/// The path of a table's file, relative to the data directory.
async fn file_of(postgres: &Postgres, table: &str) -> Result<String> {
    postgres
        .value(&format!("SELECT pg_relation_filepath('{table}')"))
        .await
}

#[tokio::test]
async fn while_tables_come_go_and_shrink() -> Result<()> {
    World::scenario("churn", async |world| {
        let (primary, holdfast, sidecar) = world.archiving(17).await?;
        let mut ledger = Ledger::create(&primary).await?;
        primary.pgbench(&["-i", "-s", "4", "-q"]).await?;
        let load = ledger.start(&primary, 2).await?;
        let bench = primary.pgbench_load(&["-n", "-c", "2", "-T", "3600"])?;
        let script = world.write(
            "home/churn.sql",
            "\\set n random(1, 1000000)
             CREATE TABLE churn_:n AS SELECT generate_series(1, 20000) AS i;
             CREATE INDEX ON churn_:n (i);
             DELETE FROM churn_:n WHERE i > 10; VACUUM churn_:n; TRUNCATE churn_:n;
             INSERT INTO churn_:n VALUES (1); DROP TABLE churn_:n;\n",
        )?;
        let script = script.display().to_string();
        let churn = primary.pgbench_load(&["-n", "-c", "1", "-T", "3600", "-f", &script])?;
        for _ in 0..3 {
            let backup = holdfast.backup().await?;
            ensure!(backup["pageErrors"] == 0, "{backup:#}");
        }
        drop(churn);
        drop(bench);
        load.stop().await?;
        primary.archive_all().await?;
        ledger.read_wal(&primary).await?;
        for backup in holdfast.info().await?["backups"].as_array().context("backups")? {
            let id = backup["id"].as_str().context("id")?;
            let mut restored = world
                .restored(id, 17, &holdfast, &[], &["--backup", id])
                .await?;
            restored.postgres.start().await?;
            restored.postgres.wait_promoted().await?;
            let all = ledger.expected(1, &Target::Latest, false)?;
            Ledger::compare(&restored.postgres, &all).await?;
            restored.postgres.amcheck().await?;
            let sums = restored
                .postgres
                .value(
                    "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)
                        AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history)
                        AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history)",
                )
                .await?;
            ensure!(sums == "t", "pgbench's sums differ in a restore of {id}");
        }
        holdfast.verify().await?.success()?;
        sidecar.stop().await
    })
    .await
}

/// Nothing is written any more: only the primary can close the segment that a standby's backup ends in. The backup
/// names it, says what to run there, waits, and is complete when that was done.
async fn waits_for_the_primary(
    world: &World,
    primary: &Postgres,
    standby: &Holdfast,
    log: &str,
) -> Result<()> {
    let mut backup = Daemon::spawn(
        "holdfast backup",
        standby.command(&["backup"])?,
        &world.path(&format!("log/{log}.log")),
    )?;
    eventually("it says what to run", async || {
        ensure!(
            backup.log().contains("pg_switch_wal()"),
            "{}",
            backup.tail()
        );
        Ok(())
    })
    .await?;
    ensure!(backup.is_running()?);
    let named = backup
        .log()
        .split(|c: char| !c.is_ascii_hexdigit())
        .any(|word| word.len() == 24 && word.starts_with("00000001"));
    ensure!(named, "it names no segment\n{}", backup.tail());
    primary.execute("SELECT pg_switch_wal()").await?;
    let status = backup.wait(Duration::from_secs(120)).await?;
    ensure!(status.success(), "{status}\n{}", backup.tail());
    Ok(())
}

/// On 14 by the functions' old names, on 17 by the new ones.
async fn of_a_standby(major: u32) -> Result<()> {
    World::scenario("standby", async |world| {
        let (primary, holdfast, sidecar) = world.archiving(major).await?;
        let mut ledger = Ledger::create(&primary).await?;
        primary.pgbench(&["-i", "-s", "2", "-q"]).await?;
        let standby = primary.standby("standby").await?;
        let second = holdfast.also_for(&standby).build()?;
        ledger.write(&primary, 20).await?;
        standby.wait_replayed(&primary.lsn().await?).await?;
        primary.execute("CHECKPOINT").await?;
        waits_for_the_primary(world, &primary, &second, "standby-backup").await?;

        // Taken by a sidecar, it tells the same to who ordered it.
        ledger.write(&primary, 5).await?;
        standby.wait_replayed(&primary.lsn().await?).await?;
        primary.execute("CHECKPOINT").await?;
        let of_standby = second.sidecar().await?;
        waits_for_the_primary(world, &primary, &second, "ordered-backup").await?;
        of_standby.stop().await?;

        // Under load it closes by itself.
        let load = ledger.start(&primary, 2).await?;
        let bench = primary.pgbench_load(&["-n", "-c", "1", "-T", "3600"])?;
        let status = second.backup().await?;
        drop(bench);
        load.stop().await?;
        ensure!(status["timeline"] == 1, "{status:#}");
        primary.archive_all().await?;
        ledger.read_wal(&primary).await?;
        let restored = judge(world, "restored", major, &holdfast, &ledger).await?;
        ensure!(!restored.dir().join("standby.signal").exists());
        ensure!(restored.value("SHOW primary_conninfo").await?.is_empty() || major >= 14);
        restored.amcheck().await?;
        let immediate = world
            .restored(
                "immediate",
                major,
                &holdfast,
                &[],
                &["--target", "immediate"],
            )
            .await?;
        let mut immediate = immediate.postgres;
        immediate.start().await?;
        immediate.wait_promoted().await?;
        immediate.amcheck().await?;
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn of_a_standby_of_14() -> Result<()> {
    of_a_standby(14).await
}

#[tokio::test]
async fn of_a_standby_of_17() -> Result<()> {
    of_a_standby(17).await
}

#[tokio::test]
async fn a_second_one_at_once_is_told_who_holds_the_server() -> Result<()> {
    World::scenario("twice", async |world| {
        let (primary, holdfast, sidecar) = world.archiving(17).await?;
        primary.pgbench(&["-i", "-s", "6", "-q"]).await?;
        // By two processes of their own.
        let other = holdfast.settings().instance("other").build()?;
        let third = holdfast.settings().instance("third").build()?;
        let mut first = other.held_backup("first").await?;
        for holdfast in [&third, &holdfast] {
            let refused = holdfast.run(&["backup"]).await?.expect_code(3)?;
            ensure!(
                refused.stderr.lines().count() == 1
                    && refused.stderr.contains("holdfast backup")
                    && refused.stderr.contains("since"),
                "{}",
                refused.stderr
            );
            let pid = primary
                .value(
                    "SELECT pid FROM pg_stat_activity WHERE application_name = 'holdfast backup'",
                )
                .await?;
            ensure!(
                refused.stderr.contains(&pid),
                "{} is not named: {}",
                pid,
                refused.stderr
            );
        }
        first.resume()?;
        let status = first.wait(Duration::from_secs(120)).await?;
        ensure!(status.success(), "{status}\n{}", first.tail());
        holdfast.backup().await?;
        ensure!(holdfast.info().await?["backups"].as_array().map(Vec::len) == Some(2));
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn unlogged_and_temporary_relations_are_left_out() -> Result<()> {
    World::scenario("unlogged", async |world| {
        let (primary, holdfast, sidecar) = world.archiving(17).await?;
        let mut ledger = Ledger::create(&primary).await?;
        let (oid, _) = primary.tablespace("space").await?;
        primary
            .execute(
                "CREATE UNLOGGED TABLE fleeting AS SELECT generate_series(1, 10000) AS i;
                 CREATE INDEX ON fleeting (i);
                 CREATE UNLOGGED TABLE fleeting_there TABLESPACE space AS SELECT generate_series(1, 10000) AS i;
                 CREATE TABLE stays AS SELECT generate_series(1, 10000) AS i; CHECKPOINT",
            )
            .await?;
        let session = primary.client().await?;
        session
            .batch_execute("CREATE TEMP TABLE passing AS SELECT generate_series(1, 100000) AS i; CHECKPOINT")
            .await?;
        let temporary = session
            .query_one("SELECT pg_relation_filepath('passing')", &[])
            .await?
            .get::<_, String>(0);
        ensure!(primary.dir().join(&temporary).exists());
        world.write("primary/data/base/pgsql_tmp_is_not_this", "kept")?;
        world.make_dir("primary/data/base/pgsql_tmp")?;
        world.write("primary/data/base/pgsql_tmp/pgsql_tmp1.0", "sorted")?;
        let unlogged = [
            file_of(&primary, "fleeting").await?,
            file_of(&primary, "fleeting_i_idx").await?,
            file_of(&primary, "fleeting_there").await?,
        ];
        holdfast.backup().await?;
        ledger.write(&primary, 20).await?;
        primary.archive_all().await?;
        ledger.read_wal(&primary).await?;
        let mut restored = world.restored("restored", 17, &holdfast, &[oid], &[]).await?;
        let dir = restored.postgres.dir().to_owned();
        ensure!(!dir.join(&temporary).exists(), "{temporary} is in the backup");
        for file in &unlogged {
            ensure!(!dir.join(file).exists(), "{file} is in the backup");
            let init = dir.join(format!("{file}_init"));
            ensure!(init.exists(), "{} is not in the backup", init.display());
        }
        for gone in [
            "base/pgsql_tmp/pgsql_tmp1.0",
            "postmaster.pid",
            "postmaster.opts",
            "standby.signal",
        ] {
            ensure!(!dir.join(gone).exists(), "{gone} is in the backup");
        }
        restored.postgres.start().await?;
        restored.postgres.wait_promoted().await?;
        let all = ledger.expected(1, &Target::Latest, false)?;
        Ledger::compare(&restored.postgres, &all).await?;
        for (table, count) in [("fleeting", "0"), ("fleeting_there", "0"), ("stays", "10000")] {
            let found = restored
                .postgres
                .value(&format!("SELECT count(*) FROM {table}"))
                .await?;
            ensure!(found == count, "{found} rows in {table}");
        }
        restored
            .postgres
            .execute("INSERT INTO fleeting SELECT generate_series(1, 100)")
            .await?;
        restored.postgres.amcheck().await?;
        drop(session);
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn where_pg_wal_is_a_symbolic_link() -> Result<()> {
    World::scenario("link", async |world| {
        let mut primary = world
            .postgres("primary", 16)
            .segment_mib(1)
            .wal_elsewhere()
            .create()
            .await?;
        let holdfast = world
            .holdfast("shop/orders", &primary)
            .filesystem("backups")?
            .build()?;
        let sidecar = holdfast.sidecar().await?;
        primary.archive_with(&holdfast).await?;
        let mut ledger = Ledger::create(&primary).await?;
        holdfast.backup().await?;
        ledger.write(&primary, 40).await?;
        primary.archive_all().await?;
        ledger.read_wal(&primary).await?;
        let copy = judge(world, "copy", 16, &holdfast, &ledger).await?;
        ensure!(copy.dir().join("pg_wal").symlink_metadata()?.is_dir());
        // In place the link stays, and leads to a volume that was emptied.
        primary.stop(Shutdown::Fast).await?;
        let leads_to = std::fs::read_link(primary.dir().join("pg_wal"))?;
        holdfast.restore(primary.dir(), &["--overwrite"]).await?;
        ensure!(std::fs::read_link(primary.dir().join("pg_wal"))? == leads_to);
        world.verify_backup(primary.dir(), 16).await?;
        primary.start().await?;
        primary.wait_promoted().await?;
        let all = ledger.expected(1, &Target::Latest, false)?;
        Ledger::compare(&primary, &all).await?;
        primary.archive_all().await?;
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn every_corrupted_page_is_named() -> Result<()> {
    World::scenario("corrupt", async |world| {
        let (mut primary, holdfast, sidecar) = world.archiving(17).await?;
        primary
            .execute("CREATE TABLE t AS SELECT generate_series(1, 100000) AS i; CREATE TABLE u AS SELECT 1 AS i")
            .await?;
        let (t, u) = (file_of(&primary, "t").await?, file_of(&primary, "u").await?);
        primary.stop(Shutdown::Fast).await?;
        let corrupt = |file: &str, block: usize| -> Result<()> {
            let path = primary.dir().join(file);
            let mut content = std::fs::read(&path)?;
            *content
                .get_mut(block * 8192 + 4000)
                .with_context(|| format!("{file} has no block {block}"))? ^= 0x10;
            Ok(std::fs::write(&path, content)?)
        };
        // The second in another region of 1 MiB than the first.
        corrupt(&t, 3)?;
        corrupt(&t, 200)?;
        corrupt(&u, 0)?;
        primary.start().await?;
        let backup = holdfast.backup().await?;
        let bad: Vec<(&str, u64)> = backup["badPages"]
            .as_array()
            .context("badPages")?
            .iter()
            .filter_map(|page| Some((page["file"].as_str()?, page["block"].as_u64()?)))
            .collect();
        let mut expected = vec![(&*t, 3), (&*t, 200), (&*u, 0)];
        expected.sort_unstable();
        let mut sorted = bad.clone();
        sorted.sort_unstable();
        ensure!(backup["pageErrors"] == 3 && sorted == expected, "{backup:#}");
        // People are told, too.
        let told = holdfast.run(&["backup"]).await?.success()?;
        let told = told.stdout + &told.stderr;
        ensure!(told.contains(&t) && told.contains("200"), "{told}");
        let info = holdfast.info().await?;
        ensure!(info["backups"][0]["pageErrors"] == 3, "{info:#}");
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn the_sidecars_memory_is_bounded() -> Result<()> {
    World::scenario("memory", async |world| {
        let minio = Minio::start(world).await?;
        let primary = world.postgres("primary", 17).create().await?;
        let holdfast = world
            .holdfast("shop/orders", &primary)
            .s3(&minio.bucket("backups")?)
            .encrypted()?
            .line("limits: {memory: 256Mi}")
            .build()?;
        let sidecar = holdfast.sidecar().await?;
        primary.archive_with(&holdfast).await?;
        let ledger = Ledger::create(&primary).await?;
        primary.pgbench(&["-i", "-s", "30", "-q"]).await?;
        let load = ledger.start(&primary, 2).await?;
        let backup = holdfast.backup().await?;
        load.stop().await?;
        primary.archive_all().await?;
        ensure!(
            backup["size"]["database"].as_u64() > Some(400 << 20),
            "{backup:#}"
        );
        let peak = sidecar.daemon.peak_memory()?;
        ensure!(peak < 256 << 20, "{} MiB", peak >> 20);
        sidecar.stop().await
    })
    .await
}

/// The names of an object's fields.
fn fields(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .map(|object| object.keys().map(String::as_str).collect())
        .unwrap_or_default()
}

fn control_socket(holdfast: &Holdfast) -> PathBuf {
    holdfast.socket().with_file_name("control.sock")
}

/// One request to a control socket: the status line and the body.
async fn ask(socket: &Path, request: &str, body: &str) -> Result<(String, Value)> {
    let mut stream = tokio::net::UnixStream::connect(socket).await?;
    let text = format!(
        "{request} HTTP/1.1\r\nhost: holdfast\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer")?;
    let status = head.lines().next().unwrap_or_default().to_owned();
    Ok((status, serde_json::from_str(body).unwrap_or_default()))
}

#[tokio::test]
async fn through_the_sidecar_and_without_it_the_same_is_told() -> Result<()> {
    World::scenario("roads", async |world| {
        let (primary, holdfast, sidecar) = world.archiving(17).await?;
        let ledger = Ledger::create(&primary).await?;
        ledger.write(&primary, 20).await?;
        let socket = control_socket(&holdfast);
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&socket)?) & 0o777;
        ensure!(mode == 0o600, "the control socket has mode {mode:o}");

        let asked = holdfast.backup().await?;
        let id = asked["id"].as_str().context("id")?;
        ensure!(
            sidecar.daemon.log().contains(id),
            "the sidecar did not take it"
        );
        let alone = holdfast
            .settings()
            .instance("alone")
            .build()?
            .backup()
            .await?;
        let other = alone["id"].as_str().context("id")?;
        ensure!(!sidecar.daemon.log().contains(other), "the sidecar took it");
        ensure!(fields(&asked) == fields(&alone), "{asked:#} {alone:#}");
        for status in [&asked, &alone] {
            for field in [
                "id",
                "type",
                "startLsn",
                "stopLsn",
                "timeline",
                "startTime",
                "completionTime",
                "size",
                "pageErrors",
                "repositories",
                "conditions",
            ] {
                ensure!(status.get(field).is_some(), "no {field} in {status:#}");
            }
            ensure!(
                status["type"] == "Full" && status["repositories"][0]["name"] == "main",
                "{status:#}"
            );
            let complete = status["conditions"]
                .as_array()
                .context("conditions")?
                .iter()
                .any(|condition| condition["type"] == "Complete" && condition["status"] == "True");
            ensure!(complete, "{status:#}");
        }
        // What is told of a backup does not change.
        let info = holdfast.info().await?;
        for (told, listed) in [(&asked, &info["backups"][0]), (&alone, &info["backups"][1])] {
            for field in [
                "id",
                "type",
                "startLsn",
                "stopLsn",
                "timeline",
                "startTime",
                "size",
                "pageErrors",
            ] {
                ensure!(told[field] == listed[field], "{field}: {told:#} {listed:#}");
            }
        }
        for field in [
            "systemIdentifier",
            "postgresVersion",
            "timeline",
            "archivedThrough",
            "recoveryWindow",
            "lastBackup",
            "conditions",
            "backups",
            "timelines",
        ] {
            ensure!(info.get(field).is_some(), "no {field} in {info:#}");
        }
        ensure!(info["lastBackup"] == *other, "{info:#}");

        // Ordering twice does nothing.
        let order = r#"{"type": "Full", "id": "twice"}"#;
        let (first, _) = ask(&socket, "POST /v1/backups", order).await?;
        let (second, _) = ask(&socket, "POST /v1/backups", order).await?;
        ensure!(
            first.contains("202") && second.contains("202"),
            "{first} {second}"
        );
        eventually("it is complete", async || {
            let (status, backup) = ask(&socket, "GET /v1/backups/twice", "").await?;
            let complete = backup["conditions"].as_array().is_some_and(|all| {
                all.iter()
                    .any(|one| one["type"] == "Complete" && one["status"] == "True")
            });
            ensure!(status.contains("200") && complete, "{status} {backup}");
            Ok(())
        })
        .await?;
        ensure!(holdfast.info().await?["backups"].as_array().map(Vec::len) == Some(3));
        let (unknown, _) = ask(&socket, "GET /v1/backups/unknown", "").await?;
        ensure!(unknown.contains("404"), "{unknown}");
        for nonsense in ["", "{", r#"{"kind": "Full"}"#, r#"{"id": "../../x"}"#] {
            let (status, _) = ask(&socket, "POST /v1/backups", nonsense).await?;
            ensure!(status.contains(" 4"), "{nonsense}: {status}");
        }
        // What people see.
        let told = holdfast.run(&["info"]).await?.success()?;
        ensure!(
            told.stdout.contains(id) && told.stdout.contains(other),
            "{}",
            told.stdout
        );
        let checked = holdfast.run(&["check"]).await?;
        ensure!(checked.code == 0, "{}{}", checked.stdout, checked.stderr);
        sidecar.stop().await?;
        ensure!(!socket.exists());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn long_work_shows_lines_where_there_is_no_terminal() -> Result<()> {
    World::scenario("lines", async |world| {
        let (primary, holdfast, sidecar) = world.archiving(17).await?;
        primary.pgbench(&["-i", "-s", "6", "-q"]).await?;
        let alone = holdfast.settings().instance("alone").build()?;
        let mut backup = alone.held_backup("lines").await?;
        // A line is due every five seconds, also of work that was held up.
        tokio::time::sleep(Duration::from_secs(6)).await;
        backup.resume()?;
        let status = backup.wait(Duration::from_secs(120)).await?;
        ensure!(status.success(), "{}", backup.tail());
        let last = backup.log();
        ensure!(
            last.contains("%)") && last.contains("/s"),
            "no line with percent and rate: {last}"
        );
        ensure!(!last.contains('\u{1b}') && !last.contains('\r'), "{last}");
        sidecar.stop().await
    })
    .await
}

/// A client whose backup has begun its first pack, if it was not complete before that was seen.
async fn begun_backup(holdfast: &Holdfast, log: &Path) -> Result<Daemon> {
    let objects = holdfast.objects()?;
    let packs = objects.begun("/packs/").await?;
    let mut client = Daemon::spawn("holdfast backup", holdfast.command(&["backup"])?, log)?;
    while objects.begun("/packs/").await? == packs && client.is_running()? {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(client)
}

#[tokio::test]
async fn a_sidecar_killed_in_the_middle_leaves_no_backup_and_its_client_is_told() -> Result<()> {
    World::scenario("killed", async |world| {
        let (primary, holdfast, mut sidecar) = world.archiving(17).await?;
        let mut ledger = Ledger::create(&primary).await?;
        primary.pgbench(&["-i", "-s", "6", "-q"]).await?;
        let load = ledger.start(&primary, 2).await?;
        let objects = holdfast.objects()?;
        // A busy machine may come too late to kill it in the middle: such a round proves nothing, and is repeated.
        let (mut killed, mut late) = (0, 0);
        while killed < 3 {
            ensure!(late < 10, "always complete before it could be killed");
            let mut client = begun_backup(
                &holdfast,
                &world.path(&format!("log/client-{killed}-{late}.log")),
            )
            .await?;
            sidecar.kill9().await?;
            sidecar = holdfast.sidecar().await?;
            let status = client.wait(Duration::from_secs(120)).await?;
            let manifests = objects.keys("/manifest").await?.len();
            if manifests > late {
                late = manifests;
                continue;
            }
            ensure!(status.code() == Some(2), "{status}\n{}", client.tail());
            let complete = holdfast.complete_backups().await?;
            ensure!(complete.len() <= late, "{complete:?}");
            killed += 1;
        }
        holdfast.backup().await?;
        load.stop().await?;
        primary.archive_all().await?;
        ledger.read_wal(&primary).await?;
        judge(world, "restored", 17, &holdfast, &ledger).await?;
        sidecar.stop().await
    })
    .await
}

/// SIGTERM while a backup runs ends it at once: a pod that must go does not wait for an hour's work.
#[tokio::test]
async fn a_sidecar_that_ends_stops_its_backup_and_finishes_its_wal() -> Result<()> {
    World::scenario("ends", async |world| {
        let (primary, holdfast, mut sidecar) = world.archiving(17).await?;
        primary.pgbench(&["-i", "-s", "6", "-q"]).await?;
        let objects = holdfast.objects()?;
        // A busy machine may come too late to end it in the middle: such a round proves nothing, and is repeated.
        let mut late = 0;
        let mut client = loop {
            ensure!(late < 10, "always complete before it could be ended");
            let mut client =
                begun_backup(&holdfast, &world.path(&format!("log/client-{late}.log"))).await?;
            sidecar.daemon.pause()?;
            if objects.begun("/manifest").await? == late {
                break client;
            }
            sidecar.daemon.resume()?;
            client.wait(Duration::from_secs(120)).await?;
            late = objects.begun("/manifest").await?;
        };
        sidecar.daemon.signal(Signal::TERM)?;
        sidecar.daemon.resume()?;
        let ended = sidecar.daemon.wait(Duration::from_secs(60)).await?;
        ensure!(ended.success(), "{ended}\n{}", sidecar.daemon.tail());
        let status = client.wait(Duration::from_secs(120)).await?;
        let Some(1 | 2) = status.code() else {
            bail!("{status}\n{}", client.tail());
        };
        let sidecar = holdfast.sidecar().await?;
        ensure!(holdfast.complete_backups().await?.len() == late);
        holdfast.backup().await?;
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn a_backup_whose_wal_is_missing_is_not_complete() -> Result<()> {
    World::scenario("incomplete", async |world| {
        let (primary, holdfast, sidecar) = world.archiving(17).await?;
        let alone = holdfast.settings().instance("alone").build()?;
        primary.archive_all().await?;
        sidecar.stop().await?;
        let mut backup = Daemon::spawn(
            "holdfast backup",
            alone.command(&["backup"])?,
            &world.path("log/waits.log"),
        )?;
        eventually("the manifest is stored", async || {
            // Not what the store is still writing.
            let keys = holdfast.objects()?.keys("/manifest").await?;
            ensure!(
                keys.iter().any(|key| key.ends_with("/manifest")),
                "{keys:?}"
            );
            Ok(())
        })
        .await?;
        ensure!(
            backup.is_running()?,
            "it does not wait for its WAL\n{}",
            backup.tail()
        );
        backup.kill9().await?;
        let info = holdfast.info().await?;
        ensure!(info["recoveryWindow"].is_null(), "{info:#}");
        ensure!(info["lastBackup"].is_null(), "{info:#}");
        let refused = holdfast
            .run(&["restore", "--to", &world.path("nowhere").to_string_lossy()])
            .await?
            .expect_code(3)?;
        ensure!(!world.path("nowhere").exists(), "{}", refused.stderr);
        // Completed is computed: once the WAL is there, it is.
        let sidecar = holdfast.sidecar().await?;
        primary.archive_all().await?;
        let info = holdfast.info().await?;
        ensure!(info["lastBackup"] == info["backups"][0]["id"], "{info:#}");
        world.restored("restored", 17, &holdfast, &[], &[]).await?;
        sidecar.stop().await
    })
    .await
}
