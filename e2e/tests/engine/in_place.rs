//! `holdfast bootstrap` with an order: a database is replaced by what it was, and nothing that it held is lost.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::restored::ensure_not_startable;
use holdfast_e2e::{
    Daemon, Holdfast, Ledger, Output, Postgres, Shutdown, Snapshot, Target, World, eventually,
};
use serde_json::Value;

/// The settings' line.
fn order(id: &str, system: &str, target: &str) -> String {
    format!(
        "bootstrap: {{order: {{id: {id}, pod: orders-0, wiped: [orders-1], systemIdentifier: '{system}', repository: main, target: {target}, action: Promote}}}}"
    )
}

fn command(holdfast: &Holdfast, pod: &str) -> Result<tokio::process::Command> {
    let mut command = holdfast.command(&["bootstrap"])?;
    command.env("HOLDFAST_POD_NAME", pod);
    Ok(command)
}

async fn bootstrap(world: &World, holdfast: &Holdfast, pod: &str) -> Result<Output> {
    world.run(command(holdfast, pod)?).await?.success()
}

/// One request over the control socket.
async fn control(world: &World, holdfast: &Holdfast, path: &str, body: &str) -> Result<Value> {
    let socket = holdfast.socket().with_file_name("control.sock");
    let mut command = world.command("curl");
    command
        .args(["--silent", "--show-error", "--max-time", "20"])
        .args(["--header", "content-type: application/json"])
        .arg("--unix-socket")
        .arg(socket)
        .arg(format!("http://sidecar/v1/{path}"));
    if !body.is_empty() {
        command.args(["--data", body]);
    }
    world.run(command).await?.success()?.json()
}

async fn go(world: &World, holdfast: &Holdfast, id: &str) -> Result<()> {
    let answer = control(
        world,
        holdfast,
        "restore",
        &format!("{{\"order\": \"{id}\"}}"),
    )
    .await?;
    ensure!(answer["order"] == id, "{answer}");
    Ok(())
}

/// Until everything of the data directory is in the archive.
async fn drain(world: &World, holdfast: &Holdfast) -> Result<Value> {
    eventually("it is drained", async || {
        let drain = control(world, holdfast, "drain", "{}").await?;
        ensure!(drain["done"] == true, "{drain}");
        Ok(drain)
    })
    .await
}

/// A primary that was killed with WAL that nobody has archived: whole segments and an unfinished one. What was archived
/// ends at the position that is returned.
async fn crashed(
    world: &World,
    major: u32,
) -> Result<(Postgres, Holdfast, Ledger, String, String)> {
    let (mut primary, holdfast, sidecar) = world.archiving(major).await?;
    let system = primary
        .value("SELECT system_identifier FROM pg_control_system()")
        .await?;
    let mut ledger = Ledger::create(&primary).await?;
    primary.pgbench(&["-i", "-s", "3", "-q"]).await?;
    holdfast.backup().await?;
    ledger.write(&primary, 30).await?;
    primary.archive_all().await?;
    let archived = primary.lsn().await?;
    sidecar.stop().await?;
    ledger.write(&primary, 30).await?;
    primary.pgbench(&["-i", "-s", "1", "-q"]).await?;
    ledger.write(&primary, 5).await?;
    ledger.read_wal(&primary).await?;
    primary.kill9().await?;
    Ok((primary, holdfast, ledger, archived, system))
}

/// What fills a disk beside a data directory: bytes in one file, and files.
async fn fill(world: &World, disk: &Path) -> Result<()> {
    let mut fill = world.command("sh");
    fill.current_dir(disk).args([
        "-c",
        "cat /dev/zero >bytes; mkdir files; n=0; while : >files/$n; do n=$((n + 1)); done",
    ]);
    world.run(fill).await?;
    let more = std::fs::File::create(disk.join("more"));
    ensure!(
        more.as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::StorageFull),
        "{more:?}"
    );
    Ok(())
}

/// As [`crashed`], by a disk that WAL has filled while nobody took it, up to the last byte and the last file. In the backup
/// are many files that the database has no more.
async fn filled(world: &World) -> Result<(Postgres, Holdfast, Ledger, String, String, PathBuf)> {
    let disk = world.small_disk("primary", 128).await?;
    let (mut primary, holdfast, sidecar) = world.archiving(17).await?;
    let system = primary
        .value("SELECT system_identifier FROM pg_control_system()")
        .await?;
    let mut ledger = Ledger::create(&primary).await?;
    let many = |statement: &str| {
        format!(
            "DO $$ BEGIN FOR n IN 1..500 LOOP EXECUTE format('{statement}', n); END LOOP; END $$"
        )
    };
    primary.execute(&many("CREATE TABLE many_%s ()")).await?;
    holdfast.backup().await?;
    primary.execute(&many("DROP TABLE many_%s")).await?;
    primary.execute("CHECKPOINT").await?;
    ledger.write(&primary, 30).await?;
    primary.archive_all().await?;
    let archived = primary.lsn().await?;
    sidecar.stop().await?;
    ledger.write(&primary, 30).await?;
    ledger.read_wal(&primary).await?;
    // So that WAL stays for the archive's sake alone; and as in a container, where what has crashed is started anew.
    let settings = [
        ("wal_keep_size", "0"),
        ("min_wal_size", "2MB"),
        ("max_wal_size", "8MB"),
    ];
    primary.configure(&settings).await?;
    primary.configure(&[("restart_after_crash", "off")]).await?;
    while primary.is_running()? {
        let write = "SELECT pg_logical_emit_message(true, 'fill', repeat('x', 500000))";
        let _ = primary.execute(write).await;
    }
    primary.wait_exit().await?;
    let log = primary.log();
    let panic = log.lines().find(|line| line.contains("PANIC"));
    ensure!(
        panic.is_some_and(|line| line.contains("No space left on device")),
        "{}",
        primary.tail()
    );
    for (name, value) in settings {
        primary.option(name, value);
    }
    fill(world, &disk).await?;
    let started = primary.start().await;
    ensure!(
        started.is_err() && primary.tail().contains("No space left on device"),
        "{}",
        primary.tail()
    );
    Ok((primary, holdfast, ledger, archived, system, disk))
}

#[tokio::test]
async fn what_has_filled_its_disk_goes_back_and_its_last_commits_can_be_reached_later() -> Result<()>
{
    World::scenario("disk-full", async |world| {
        let (mut primary, holdfast, mut ledger, archived, system, disk) = filled(world).await?;
        let dir = primary.dir().to_owned();
        let first = order("c1", &system, &format!("{{lsn: '{archived}'}}"));
        let ordered = holdfast.settings().line(&first).build()?;
        let sidecar = ordered.sidecar().await?;
        let untouched = Snapshot::of(&dir)?;
        let drained = drain(world, &ordered).await?;
        ensure!(drained["through"].is_string(), "{drained}");
        untouched.ensure_unchanged()?;

        // Nobody has counted files before: there is room for fewer than the backup has.
        go(world, &ordered, "c1").await?;
        let log = world.path("log/full.log");
        let mut running = Daemon::spawn("bootstrap", command(&ordered, "orders-0")?, &log)?;
        eventually("it can't be written", async || {
            let report = control(world, &ordered, "status", "").await?;
            let bootstrap = &report["bootstrap"];
            let message = bootstrap["message"].as_str().context("a message")?;
            ensure!(
                bootstrap["state"] == "Waiting"
                    && bootstrap["untouched"] == false
                    && message.contains("No space left on device")
                    && message.contains("is unfinished"),
                "{report}"
            );
            Ok(())
        })
        .await?;
        ensure!(!dir.join("global/pg_control").exists());
        // It goes on by itself.
        std::fs::remove_dir_all(disk.join("files"))?;
        let ended = running.wait(Duration::from_secs(120)).await?;
        ensure!(ended.success(), "{}", running.tail());
        world.verify_backup(&dir, 17).await?;
        primary.start().await?;
        primary.wait_promoted().await?;
        let target = Target::Lsn(archived.parse()?);
        Ledger::compare(&primary, &ledger.expected(1, &target, false)?).await?;
        ledger.write(&primary, 10).await?;
        ledger.read_wal(&primary).await?;
        primary.archive_all().await?;
        holdfast.backup().await?;
        primary.stop(Shutdown::Fast).await?;
        sidecar.stop().await?;

        let second = order("c2", &system, "{latest: {}, timeline: '1'}");
        let ordered = holdfast.settings().line(&second).build()?;
        let sidecar = ordered.sidecar().await?;
        go(world, &ordered, "c2").await?;
        bootstrap(world, &ordered, "orders-0").await?;
        primary.start().await?;
        primary.wait_promoted().await?;
        Ledger::compare(&primary, &ledger.expected(1, &Target::Latest, false)?).await?;
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn what_a_crash_left_is_archived_and_can_be_reached_later() -> Result<()> {
    World::scenario("in-place", async |world| {
        let (mut primary, holdfast, mut ledger, archived, system) = crashed(world, 17).await?;
        let dir = primary.dir().to_owned();
        let first = order("a1", &system, &format!("{{lsn: '{archived}'}}"));
        let ordered = holdfast.settings().line(&first).build()?;
        let sidecar = ordered.sidecar().await?;

        // Held, it touches nothing, and tells why.
        let before = Snapshot::of(&dir)?;
        let log = world.path("log/held.log");
        let mut held = Daemon::spawn("bootstrap", command(&ordered, "orders-0")?, &log)?;
        eventually("it holds", async || {
            let report = control(world, &ordered, "status", "").await?;
            let bootstrap = &report["bootstrap"];
            ensure!(
                bootstrap["state"] == "Holding"
                    && bootstrap["order"] == "a1"
                    && bootstrap["untouched"] == true,
                "{report}"
            );
            Ok(())
        })
        .await?;
        held.kill9().await?;
        // Another pod is not concerned.
        let left = bootstrap(world, &ordered, "orders-2").await?;
        ensure!(
            left.stdout.contains("is a data directory"),
            "{}",
            left.stdout
        );
        let refused = control(world, &ordered, "restore", "{\"order\": \"a2\"}").await?;
        ensure!(refused["error"].is_string(), "{refused}");
        before.ensure_unchanged()?;

        go(world, &ordered, "a1").await?;
        let restored = bootstrap(world, &ordered, "orders-0").await?;
        for words in [
            "is in the archive, up to ",
            "restored ",
            "is a data directory",
        ] {
            ensure!(
                restored.stdout.contains(words),
                "{words}: {}",
                restored.stdout
            );
        }
        world.verify_backup(&dir, 17).await?;
        let parts = holdfast.objects()?.keys("/parts/").await?;
        // Those of segments before were stored while they were written.
        let segment = |key: &String| key.rsplit('/').nth(1).map(str::to_owned);
        let last = parts.iter().filter_map(segment).max();
        let of_the_last = parts.iter().filter(|key| segment(key) == last);
        ensure!(of_the_last.count() == 1, "{parts:?}");
        primary.start().await?;
        primary.wait_promoted().await?;
        let target = Target::Lsn(archived.parse()?);
        Ledger::compare(&primary, &ledger.expected(1, &target, false)?).await?;
        let report = control(world, &ordered, "status", "").await?;
        ensure!(report["postgres"]["lastOrder"] == "a1", "{report}");
        ensure!(
            report["postgres"]["recovery"]["lsn"].is_string(),
            "{report}"
        );

        // It goes on with its archive, and what was carried out is not carried out again.
        ledger.write(&primary, 10).await?;
        primary.archive_all().await?;
        ensure!(primary.timeline().await? == 2);
        holdfast.backup().await?;
        ledger.read_wal(&primary).await?;
        primary.stop(Shutdown::Fast).await?;
        let whole = Snapshot::of(&dir)?;
        bootstrap(world, &ordered, "orders-0").await?;
        whole.ensure_unchanged()?;
        sidecar.stop().await?;

        // The future that was lost, to its last commit, which lies in the unfinished segment. Killed on the way.
        let second = order("a2", &system, "{latest: {}, timeline: '1'}");
        let ordered = holdfast.settings().line(&second).build()?;
        let sidecar = ordered.sidecar().await?;
        go(world, &ordered, "a2").await?;
        for milliseconds in [30, 100, 200, 300, 400, 600] {
            let mut running = Daemon::spawn("bootstrap", command(&ordered, "orders-0")?, &log)?;
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            running.kill9().await?;
            if !dir.join("global/pg_control").exists() {
                ensure_not_startable(world, 17, &dir).await?;
            }
        }
        bootstrap(world, &ordered, "orders-0").await?;
        world.verify_backup(&dir, 17).await?;
        primary.start().await?;
        primary.wait_promoted().await?;
        Ledger::compare(&primary, &ledger.expected(1, &Target::Latest, false)?).await?;
        ensure!(primary.timeline().await? == 3);
        primary.archive_all().await?;
        // And the other branch, which was drained while its server lived.
        let drained = drain(world, &ordered).await?;
        ensure!(drained["through"].is_string(), "{drained}");
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn what_cant_be_proven_safe_is_left_alone() -> Result<()> {
    World::scenario("in-place-refused", async |world| {
        let (primary, holdfast, _, archived, system) = crashed(world, 17).await?;
        let dir = primary.dir().to_owned();
        let target = format!("{{lsn: '{archived}'}}");
        let untouched = Snapshot::of(&dir)?;
        let log = world.path("log/refused.log");
        let foreign = order("b1", "7000000000000000001", &target);
        let late = order("b2", &system, "{lsn: 'F/0'}");
        let unknown = order("b3", &system, "{latest: {}, timeline: '9'}");
        for (line, id, says) in [
            (foreign, "b1", "the restore is of 7000000000000000001"),
            (late, "b2", "F/0"),
            (unknown, "b3", "timeline 9"),
        ] {
            let ordered = holdfast.settings().line(&line).build()?;
            let sidecar = ordered.sidecar().await?;
            go(world, &ordered, id).await?;
            let mut running = Daemon::spawn("bootstrap", command(&ordered, "orders-0")?, &log)?;
            eventually("it refuses", async || {
                let report = control(world, &ordered, "status", "").await?;
                let bootstrap = &report["bootstrap"];
                let message = bootstrap["message"].as_str().context("a message")?;
                ensure!(
                    bootstrap["state"] == "Refused"
                        && bootstrap["untouched"] == true
                        && message.contains(says),
                    "{report}"
                );
                Ok(())
            })
            .await?;
            running.kill9().await?;
            untouched.ensure_unchanged()?;
            sidecar.stop().await?;
        }

        // Withdrawn, the database of before may start.
        let plain = holdfast.settings().build()?;
        bootstrap(world, &plain, "orders-0").await?;
        untouched.ensure_unchanged()?;

        // A pod that is to be cloned again is emptied, after its WAL was stored.
        let ordered = holdfast
            .settings()
            .line(&order("b4", &system, &target))
            .build()?;
        let sidecar = ordered.sidecar().await?;
        go(world, &ordered, "b4").await?;
        let wiped = bootstrap(world, &ordered, "orders-1").await?;
        ensure!(
            wiped.stdout.contains("was emptied") && wiped.stdout.contains("is empty"),
            "{}",
            wiped.stdout
        );
        ensure!(std::fs::read_dir(&dir)?.count() == 0);
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn an_old_primary_gives_up_its_wal_before_it_starts() -> Result<()> {
    World::scenario("old-primary", async |world| {
        let (mut primary, holdfast, ledger, archived, system) = crashed(world, 17).await?;
        let dir = primary.dir().to_owned();
        // As the operator hands it to every pod: another server was promoted, and its history file is known.
        let folder = world.make_dir("known")?;
        world.write("known/histories-of", &system)?;
        world.write(
            "known/00000002.history",
            format!("1\t{archived}\tno recovery target specified\n"),
        )?;
        let line = format!("historyDirectory: {}", folder.display());
        let knows = holdfast.settings().line(&line).build()?;
        let untouched = Snapshot::of(&dir)?;
        let store = holdfast.folder().context("a folder")?;
        let away = store.with_extension("away");
        std::fs::rename(store, &away)?;
        let held = world.run(command(&knows, "orders-0")?).await?;
        ensure!(
            held.code != 0 && held.stderr.contains("holdfast.dev/skip-drain"),
            "{} {}",
            held.code,
            held.stderr
        );
        let mut skips = command(&knows, "orders-0")?;
        skips.env("HOLDFAST_SKIP_DRAIN", "true");
        let skipped = world.run(skips).await?.success()?;
        ensure!(
            skipped.stdout.contains("is a data directory"),
            "{}",
            skipped.stdout
        );
        std::fs::rename(&away, store)?;
        let drained = bootstrap(world, &knows, "orders-0").await?;
        ensure!(
            drained.stdout.contains("is in the archive, up to "),
            "{}",
            drained.stdout
        );
        untouched.ensure_unchanged()?;

        // So it can be reached, whatever becomes of that volume.
        primary.start().await?;
        primary.wait_ready().await?;
        Ledger::compare(&primary, &ledger.expected(1, &Target::Latest, false)?).await?;
        primary.stop(Shutdown::Immediate).await?;
        let to = world.path("copy");
        holdfast.restore(&to, &["--target", "latest"]).await?;
        let mut copy = world.postgres_on("copy", 17, &to)?;
        copy.start().await?;
        copy.wait_promoted().await?;
        Ledger::compare(&copy, &ledger.expected(1, &Target::Latest, false)?).await
    })
    .await
}
