//! Archiving and restoring WAL: what is acknowledged is durable, what is absent is proven, and whose WAL it is.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Holdfast, Ledger, Minio, Postgres, Shutdown, Sidecar, Target, World, eventually,
};
use holdfast_postgres::{Lsn, SegmentName, SegmentSize, TimelineId};

use crate::sidecar::free_port;

const MIB: u32 = 1 << 20;

fn segment(timeline: u32, lsn: Lsn) -> Result<SegmentName> {
    let size = SegmentSize::new(MIB)?;
    Ok(SegmentName::new(
        TimelineId(timeline),
        lsn.segment(size),
        size,
    ))
}

/// Fetches a file as restore_command would: exit code, and the file if there is one.
async fn fetch(holdfast: &Holdfast, dir: &Path, name: &str) -> Result<(i32, Option<Vec<u8>>)> {
    let to = dir.join("fetched");
    let _ = std::fs::remove_file(&to);
    let output = holdfast
        .wal(&["restore", name, &to.to_string_lossy()])
        .await?;
    let content = std::fs::read(&to).ok();
    ensure!(
        (output.code == 0) == content.is_some(),
        "exit {} with a file: {}; {}",
        output.code,
        content.is_some(),
        output.stderr
    );
    ensure!(
        output.code == 0 || output.stderr.lines().count() <= 1,
        "one line is enough: {}",
        output.stderr
    );
    let _ = std::fs::remove_file(&to);
    Ok((output.code, content))
}

/// Waits until a server's archiver has nothing left to do.
async fn nothing_ready(postgres: &Postgres) -> Result<()> {
    let status = postgres.dir().join("pg_wal/archive_status");
    eventually("nothing is left to archive", async || {
        for entry in std::fs::read_dir(&status)? {
            let name = entry?.file_name();
            ensure!(
                !name.to_string_lossy().ends_with(".ready"),
                "{name:?}\n{}",
                postgres.tail()
            );
        }
        Ok(())
    })
    .await
}

/// Fetches every segment of a timeline and holds it against the file in the server's pg_wal.
async fn compare_segments(
    postgres: &Postgres,
    holdfast: &Holdfast,
    timeline: u32,
    names: &[String],
) -> Result<()> {
    let prefix = format!("{timeline:08X}");
    for name in names.iter().filter(|name| name.starts_with(&prefix)) {
        let (code, content) = fetch(holdfast, postgres.dir(), name).await?;
        ensure!(
            code == 0,
            "{name} was acknowledged, and fetching it ends with {code}"
        );
        let local = std::fs::read(postgres.dir().join("pg_wal").join(name))?;
        ensure!(content == Some(local), "{name} is not what the server has");
    }
    Ok(())
}

/// The names of the segments that the repository holds.
async fn stored_segments(holdfast: &Holdfast) -> Result<Vec<String>> {
    let keys = holdfast.objects()?.keys("/wal/").await?;
    Ok(keys
        .iter()
        .filter_map(|key| key.rsplit('/').next())
        .filter(|name| name.parse::<SegmentName>().is_ok())
        .map(str::to_owned)
        .collect())
}

/// Restores the newest there is, along that timeline, and finds exactly what the ledger has.
pub async fn restored_has_all(
    world: &World,
    major: u32,
    holdfast: &Holdfast,
    ledger: &Ledger,
    timeline: u32,
) -> Result<()> {
    let name = format!("restored-{timeline}");
    let along = timeline.to_string();
    let arguments = ["--timeline", along.as_str()];
    let mut restored = world
        .restored(&name, major, holdfast, &[], &arguments)
        .await?;
    restored.postgres.start().await?;
    restored.postgres.wait_promoted().await?;
    let all = ledger.expected(timeline, &Target::Latest, false)?;
    Ledger::compare(&restored.postgres, &all).await
}

/// Restores to `NAME/data` for a sidecar that serves it as a copy, under its own socket.
async fn restored_with_sidecar(
    world: &World,
    name: &str,
    holdfast: &Holdfast,
    arguments: &[&str],
) -> Result<(Postgres, Holdfast, Sidecar)> {
    let restored = world.restored(name, 17, holdfast, &[], arguments).await?;
    let copy = holdfast.also_for(&restored.postgres).build()?;
    let sidecar = copy.sidecar().await?;
    Ok((restored.postgres, copy, sidecar))
}

#[tokio::test]
async fn what_is_acknowledged_is_there_after_the_sidecar_was_killed_again_and_again() -> Result<()>
{
    World::scenario("killed", async |world| {
        let (primary, holdfast, mut sidecar) = world.archiving(17).await?;
        let acknowledged = world.write("home/acknowledged", "")?;
        let command = format!(
            "{} && echo %f >> {}",
            holdfast.archive_command()?,
            acknowledged.display()
        );
        primary.configure(&[("archive_command", &command)]).await?;
        let mut ledger = Ledger::create(&primary).await?;
        holdfast.backup().await?;
        let load = ledger.start(&primary, 2).await?;
        let bench = primary.pgbench_load(&["-i", "-s", "6", "-q"])?;
        let noted = || -> Result<Vec<String>> {
            let text = std::fs::read_to_string(&acknowledged)?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        for round in 0..8 {
            let before = noted()?.len();
            eventually("more is acknowledged", async || {
                ensure!(
                    noted()?.len() > before + round % 3,
                    "nothing yet\n{}",
                    primary.tail()
                );
                Ok(())
            })
            .await?;
            sidecar.kill9().await?;
            // With the sidecar gone nothing can follow.
            let acknowledged = noted()?;
            let stored = holdfast.objects()?.list().await?;
            for name in &acknowledged {
                ensure!(
                    stored.keys().any(|key| key.ends_with(&format!("/{name}"))),
                    "{name} was acknowledged and is not stored"
                );
            }
            sidecar = holdfast.sidecar().await?;
        }
        drop(bench);
        load.stop().await?;
        primary.archive_all().await?;
        ledger.read_wal(&primary).await?;
        let names = noted()?;
        ensure!(names.len() > 20, "only {} segments", names.len());
        compare_segments(&primary, &holdfast, 1, &names).await?;
        let info = holdfast.info().await?;
        ensure!(
            info["timelines"][0]["gaps"]
                .as_array()
                .is_some_and(Vec::is_empty),
            "{info:#}"
        );
        let mut restored = world.restored("restored", 17, &holdfast, &[], &[]).await?;
        restored.postgres.start().await?;
        restored.postgres.wait_promoted().await?;
        let all = ledger.expected(1, &Target::Latest, false)?;
        Ledger::compare(&restored.postgres, &all).await?;
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn what_postgres_has_marked_is_stored_before_it_asks() -> Result<()> {
    World::scenario("ahead", async |world| {
        let primary = world
            .postgres("primary", 17)
            .segment_mib(1)
            .create()
            .await?;
        let holdfast = world
            .holdfast("shop/orders", &primary)
            .filesystem("backups")?
            .line("limits: {memory: 1Gi}")
            .build()?;
        let sidecar = holdfast.sidecar().await?;
        primary.archive_with(&holdfast).await?;
        let mut ledger = Ledger::create(&primary).await?;
        holdfast.backup().await?;
        // The first call comes late; those after it find what is stored.
        let held = world.write("home/held", "")?;
        let command = format!(
            "{}; while [ -e {} ]; do sleep 0.1; done",
            holdfast.archive_command()?,
            held.display()
        );
        primary.configure(&[("archive_command", &command)]).await?;
        let archived = "SELECT archived_count FROM pg_stat_archiver";
        let before = primary.value(archived).await?;
        let mut waiting = Vec::new();
        for _ in 0..20 {
            ledger.write(&primary, 10).await?;
            let switched = "SELECT pg_walfile_name(pg_switch_wal())";
            waiting.push(primary.value(switched).await?);
        }
        eventually("all of them are stored", async || {
            let stored = stored_segments(&holdfast).await?;
            let left = waiting.iter().filter(|name| !stored.contains(name));
            ensure!(left.count() == 0, "{stored:?}");
            Ok(())
        })
        .await?;
        ensure!(
            primary.value(archived).await? == before,
            "Postgres was answered"
        );
        // What is remembered of it goes with the sidecar, and Postgres asks for all of it.
        sidecar.kill9().await?;
        let sidecar = holdfast.sidecar().await?;
        std::fs::remove_file(&held)?;
        primary.archive_all().await?;
        ledger.read_wal(&primary).await?;
        compare_segments(&primary, &holdfast, 1, &waiting).await?;
        let mut restored = world.restored("restored", 17, &holdfast, &[], &[]).await?;
        restored.postgres.start().await?;
        restored.postgres.wait_promoted().await?;
        let all = ledger.expected(1, &Target::Latest, false)?;
        Ledger::compare(&restored.postgres, &all).await?;
        sidecar.stop().await
    })
    .await
}

/// How far the segments of a timeline reach without a hole, and whether any lies beyond.
fn ensure_no_hole(stored: &[String]) -> Result<()> {
    let mut numbers: Vec<u64> = stored
        .iter()
        .filter_map(|name| u64::from_str_radix(name.get(8..)?, 16).ok())
        // Of 1 MB: 4096 in each of the file name's middle parts.
        .map(|number| (number >> 32) * 4096 + (number & 0xFFFF_FFFF))
        .collect();
    numbers.sort_unstable();
    ensure!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "a hole: {stored:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_sidecar_that_is_killed_in_a_burst_leaves_no_hole() -> Result<()> {
    World::scenario("burst", async |world| {
        let minio = Minio::start(world).await?;
        let primary = world.postgres("primary", 17).segment_mib(1).create().await?;
        let holdfast = world
            .holdfast("shop/orders", &primary)
            .s3(&minio.bucket("backups")?)
            .line("limits: {memory: 1Gi}")
            .build()?;
        let mut sidecar = holdfast.sidecar().await?;
        primary.archive_with(&holdfast).await?;
        primary.pgbench(&["-i", "-s", "1", "-q"]).await?;
        let mut seen = Vec::new();
        for round in 0..12 {
            // Some segments wait while nobody archives them; then they come all at once.
            sidecar.kill9().await?;
            primary
                .execute(&format!(
                    "CREATE TABLE burst{round} AS SELECT repeat(md5(n::text), 8) FROM generate_series(1, 30000) n"
                ))
                .await?;
            sidecar = holdfast.sidecar().await?;
            tokio::time::sleep(Duration::from_millis(40 * round)).await;
            sidecar.kill9().await?;
            let stored = stored_segments(&holdfast).await?;
            ensure_no_hole(&stored).with_context(|| format!("round {round}"))?;
            seen.push(stored.len());
            sidecar = holdfast.sidecar().await?;
        }
        ensure!(
            seen.windows(2).any(|pair| pair[0] < pair[1]),
            "nothing was ever stored: {seen:?}"
        );
        primary.archive_all().await?;
        ensure_no_hole(&stored_segments(&holdfast).await?)?;
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn a_standby_may_archive_the_same_wal_first_or_second() -> Result<()> {
    World::scenario("always", async |world| {
        let (mut primary, holdfast, sidecar) = world.archiving(17).await?;
        let mut ledger = Ledger::create(&primary).await?;
        holdfast.backup().await?;
        let mut standby = primary.standby_unstarted("standby").await?;
        let second = holdfast.also_for(&standby).build()?;
        let second_sidecar = second.sidecar().await?;
        standby.option("archive_mode", "always");
        standby.option("archive_command", &second.archive_command()?);
        standby.option("restore_command", &second.restore_command()?);
        standby.start().await?;

        let load = ledger.start(&primary, 2).await?;
        let bench = primary.pgbench_load(&["-n", "-i", "-s", "2", "-q"])?;
        eventually("both archive", async || {
            ensure!(stored_segments(&holdfast).await?.len() > 12);
            Ok(())
        })
        .await?;
        drop(bench);
        // First the standby is ahead, then the primary.
        sidecar.stop().await?;
        let before = stored_segments(&holdfast).await?.len();
        primary.execute("SELECT pg_switch_wal()").await?;
        eventually("the standby archives alone", async || {
            let now = stored_segments(&holdfast).await?.len();
            ensure!(now > before, "{now} segments\n{}", standby.tail());
            Ok(())
        })
        .await?;
        let sidecar = holdfast.sidecar().await?;
        load.stop().await?;
        primary.archive_all().await?;
        standby.wait_replayed(&primary.lsn().await?).await?;
        nothing_ready(&standby).await?;
        for server in [&primary, &standby] {
            let failed = server.log().matches("holds other content").count();
            ensure!(failed == 0, "{}", server.tail());
        }
        ledger.read_wal(&primary).await?;
        primary.stop(Shutdown::Fast).await?;
        standby.promote().await?;
        ledger.write(&standby, 20).await?;
        standby.archive_all().await?;
        ledger.read_wal(&standby).await?;
        holdfast.verify().await?.success()?;
        let mut restored = world.restored("restored", 17, &holdfast, &[], &[]).await?;
        restored.postgres.start().await?;
        restored.postgres.wait_promoted().await?;
        let all = ledger.expected(2, &Target::Latest, false)?;
        Ledger::compare(&restored.postgres, &all).await?;
        second_sidecar.stop().await?;
        sidecar.stop().await
    })
    .await
}

/// 20 segments and an unfinished one, which nobody beside the primary has seen. The standby has them all marked as archived.
#[tokio::test]
async fn what_a_dead_primary_has_not_archived_its_standby_does() -> Result<()> {
    World::scenario("member", async |world| {
        let (mut primary, holdfast, sidecar) = world.archiving(17).await?;
        let mut ledger = Ledger::create(&primary).await?;
        holdfast.backup().await?;
        let mut standby = primary.standby("standby").await?;
        let second = holdfast.also_for(&standby).build()?;
        standby.archive_with(&second).await?;
        primary.archive_all().await?;
        let before = stored_segments(&holdfast).await?.len();
        sidecar.stop().await?;
        for _ in 0..20 {
            ledger.write(&primary, 2).await?;
            primary.execute("SELECT pg_switch_wal()").await?;
        }
        ledger.write(&primary, 20).await?;
        ledger.read_wal(&primary).await?;
        standby
            .wait_replayed(&primary.value("SELECT pg_current_wal_flush_lsn()").await?)
            .await?;
        primary.kill9().await?;
        let stored = stored_segments(&holdfast).await?.len();
        ensure!(stored == before, "{stored} of {before} segments");

        let second_sidecar = second.sidecar().await?;
        eventually("the standby stores them", async || {
            let stored = stored_segments(&holdfast).await?.len();
            ensure!(
                stored == before + 20,
                "{stored} segments\n{}",
                standby.tail()
            );
            Ok(())
        })
        .await?;
        standby.promote().await?;
        ledger.write(&standby, 20).await?;
        standby.archive_all().await?;
        ledger.read_wal(&standby).await?;
        ensure_no_hole(&stored_segments(&holdfast).await?)?;
        holdfast.verify().await?.success()?;
        // Along the new timeline, and along the one that died, to the last commit in its unfinished segment.
        for timeline in [2, 1] {
            restored_has_all(world, 17, &holdfast, &ledger, timeline).await?;
        }
        second_sidecar.stop().await
    })
    .await
}

/// What is not stored counts from the primary's last segment that is, for as long as it takes.
#[tokio::test]
async fn what_a_dead_primary_has_not_archived_counts_as_lag() -> Result<()> {
    World::scenario("left", async |world| {
        let (mut primary, holdfast, sidecar) = world.archiving(17).await?;
        let ledger = Ledger::create(&primary).await?;
        holdfast.backup().await?;
        let mut standby = primary.standby("standby").await?;
        let port = free_port()?;
        let second = holdfast
            .also_for(&standby)
            .line(&format!("monitoring: {{listen: \"127.0.0.1:{port}\"}}"))
            .build()?;
        standby.archive_with(&second).await?;
        primary.archive_all().await?;
        let second_sidecar = second.sidecar().await?;
        let lag = async || -> Result<f64> {
            let mut command = world.command("curl");
            command.args(["--silent", &format!("http://127.0.0.1:{port}/metrics")]);
            let page = world.run(command).await?.success()?.stdout;
            let mut lines = page.lines();
            let lag = lines.find_map(|line| line.strip_prefix("holdfast_wal_lag_bytes "));
            Ok(lag.with_context(|| page.clone())?.parse()?)
        };
        sidecar.stop().await?;
        let (store, away) = (world.path("backups"), world.path("away"));
        std::fs::rename(&store, &away)?;
        std::fs::write(&store, "in the way")?;
        const LEFT: u32 = 5;
        for _ in 0..LEFT {
            ledger.write(&primary, 2).await?;
            primary.execute("SELECT pg_switch_wal()").await?;
        }
        ledger.write(&primary, 2).await?;
        standby
            .wait_replayed(&primary.value("SELECT pg_current_wal_flush_lsn()").await?)
            .await?;
        primary.kill9().await?;
        standby.promote().await?;
        ledger.write(&standby, 2).await?;
        standby.execute("SELECT pg_switch_wal()").await?;
        let at_least = f64::from((LEFT + 1) * MIB);
        let is_true = async || {
            let lag = lag().await?;
            ensure!(lag >= at_least, "{lag}, not {at_least}");
            Ok(())
        };
        eventually("it is told", is_true).await?;
        // It is tried again and again.
        for _ in 0..12 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            is_true().await?;
        }
        std::fs::remove_file(&store)?;
        std::fs::rename(&away, &store)?;
        standby.archive_all().await?;
        eventually("nothing is behind", async || {
            let lag = lag().await?;
            ensure!(lag == 0.0, "{lag}\n{}", standby.tail());
            Ok(())
        })
        .await?;
        ensure_no_hole(&stored_segments(&holdfast).await?)?;
        second_sidecar.stop().await
    })
    .await
}

/// When its source is promoted, a cascading standby hands the half-filled segment of the old timeline to its
/// archive_command, under the segment's own name (walreceiver.c, at the end of a timeline).
#[tokio::test]
async fn a_half_filled_segment_from_a_timeline_switch_poisons_nothing() -> Result<()> {
    World::scenario("half", async |world| {
        let (primary, holdfast, sidecar) = world.archiving(17).await?;
        let mut ledger = Ledger::create(&primary).await?;
        holdfast.backup().await?;
        ledger.write(&primary, 50).await?;
        // Held back, so that the half-filled one comes first.
        primary.archive_all().await?;
        sidecar.stop().await?;

        let mut middle = primary.standby("middle").await?;
        let middle_holdfast = holdfast.also_for(&middle).build()?;
        let middle_sidecar = middle_holdfast.sidecar().await?;
        middle.archive_with(&middle_holdfast).await?;
        let mut last = primary.standby_unstarted("last").await?;
        let last_holdfast = holdfast.also_for(&last).build()?;
        let last_sidecar = last_holdfast.sidecar().await?;
        let source = format!(
            "host={} port={} user=postgres application_name=last",
            middle.host().display(),
            middle.port()
        );
        last.option("primary_conninfo", &source);
        last.option("archive_mode", "always");
        last.option("archive_command", &last_holdfast.archive_command()?);
        last.option("restore_command", &last_holdfast.restore_command()?);
        last.start().await?;
        ledger.write(&primary, 20).await?;
        let goal = primary.value("SELECT pg_current_wal_flush_lsn()").await?;
        middle.wait_replayed(&goal).await?;
        last.wait_replayed(&goal).await?;

        middle.promote().await?;
        let half = segment(1, goal.parse()?)?.to_string();
        ledger.write(&middle, 20).await?;
        last.wait_replayed(&middle.lsn().await?).await?;
        nothing_ready(&last).await?;
        ensure!(
            last.dir()
                .join(format!("pg_wal/archive_status/{half}.done"))
                .exists(),
            "the standby did not archive {half}\n{}",
            last.tail()
        );
        let stored = stored_segments(&holdfast).await?;
        ensure!(
            !stored.contains(&half),
            "{half} is not whole, and is stored as if it were"
        );
        ensure!(
            !holdfast
                .objects()?
                .keys(&format!("/aside/{half}"))
                .await?
                .is_empty(),
            "{half} is not kept aside"
        );
        // The old primary, which has not heard of the promotion, fills it.
        ledger.write(&primary, 200).await?;
        let sidecar = holdfast.sidecar().await?;
        primary.archive_all().await?;
        middle.archive_all().await?;
        ledger.read_wal(&primary).await?;
        ledger.read_wal(&middle).await?;
        compare_segments(&primary, &holdfast, 1, &[half]).await?;
        holdfast.verify().await?.success()?;
        for timeline in [1, 2] {
            restored_has_all(world, 17, &holdfast, &ledger, timeline).await?;
        }
        last_sidecar.stop().await?;
        middle_sidecar.stop().await?;
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn another_clusters_wal_is_refused() -> Result<()> {
    World::scenario("foreign", async |world| {
        let (primary, holdfast, sidecar) = world.archiving(17).await?;
        holdfast.backup().await?;
        primary.archive_all().await?;
        let other = world.postgres("other", 17).segment_mib(1).create().await?;
        other
            .execute("CREATE TABLE t AS SELECT generate_series(1, 100000)")
            .await?;
        let name = other
            .value("SELECT pg_walfile_name(pg_switch_wal())")
            .await?;
        let foreign = other.dir().join("pg_wal").join(&name);
        let before = holdfast.objects()?.list().await?;
        let identifiers = [
            primary
                .value("SELECT system_identifier FROM pg_control_system()")
                .await?,
            other
                .value("SELECT system_identifier FROM pg_control_system()")
                .await?,
        ];
        // Laid into our own pg_wal, where the sidecar may look for it.
        let planted = primary
            .dir()
            .join("pg_wal")
            .join("0000000100000000000000F0");
        std::fs::copy(&foreign, &planted)?;
        world.own(&planted)?;
        for (name, path) in [
            (name.as_str(), foreign.to_string_lossy().into_owned()),
            (
                "0000000100000000000000F0",
                "pg_wal/0000000100000000000000F0".to_owned(),
            ),
        ] {
            let output = holdfast
                .wal(&["archive", name, &path])
                .await?
                .expect_code(1)?;
            ensure!(output.stderr.lines().count() == 1, "{}", output.stderr);
            if path.starts_with("pg_wal") {
                ensure!(
                    identifiers.iter().any(|id| output.stderr.contains(id)),
                    "no system identifier: {}",
                    output.stderr
                );
            }
        }
        std::fs::remove_file(&planted)?;
        // With a sidecar of its own, but our archive's name.
        let wrong = holdfast.also_for(&other).build()?;
        let wrong_sidecar = wrong.sidecar().await?;
        let output = wrong
            .wal(&["archive", &name, &format!("pg_wal/{name}")])
            .await?
            .expect_code(1)?;
        for identifier in &identifiers {
            ensure!(output.stderr.contains(identifier), "{}", output.stderr);
        }
        other.archive_with(&wrong).await?;
        let refused = wrong.run(&["backup"]).await?.expect_code(3)?;
        ensure!(
            refused.stderr.contains("acceptSystemIdentifier"),
            "{}",
            refused.stderr
        );
        ensure!(
            holdfast.objects()?.list().await? == before,
            "the repository changed"
        );
        wrong_sidecar.stop().await?;
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn a_diverged_timeline_is_refused() -> Result<()> {
    World::scenario("diverged", async |world| {
        let (primary, holdfast, sidecar) = world.archiving(17).await?;
        let mut ledger = Ledger::create(&primary).await?;
        holdfast.backup().await?;
        let mut first = primary.standby("first").await?;
        let mut second = primary.standby_unstarted("second").await?;
        // It can't ask the archive what other timelines there are.
        second.option("restore_command", "");
        second.start().await?;
        let first_holdfast = holdfast.also_for(&first).build()?;
        let first_sidecar = first_holdfast.sidecar().await?;
        let second_holdfast = holdfast.also_for(&second).build()?;
        let second_sidecar = second_holdfast.sidecar().await?;
        first.archive_with(&first_holdfast).await?;
        second
            .configure(&[("archive_command", &second_holdfast.archive_command()?)])
            .await?;
        ledger.read_wal(&primary).await?;
        first.promote().await?;
        ledger.write(&first, 30).await?;
        first.archive_all().await?;
        ledger.read_wal(&first).await?;
        // More WAL on the old timeline, so that the second leaves it elsewhere.
        primary
            .execute("CREATE TABLE more AS SELECT generate_series(1, 30000)")
            .await?;
        second.wait_replayed(&primary.lsn().await?).await?;
        let before = holdfast.objects()?.keys("/wal/00000002/").await?;
        let history = holdfast.objects()?.key("00000002.history").await?;
        let (there, ours) = (
            holdfast.objects()?.get(&history).await?,
            second.dir().join("pg_wal/00000002.history"),
        );
        second.promote().await?;
        ensure!(
            second.timeline().await? == 2,
            "it knew of the other timeline 2"
        );
        let output = second_holdfast
            .wal(&["archive", "00000002.history", "pg_wal/00000002.history"])
            .await?
            .expect_code(1)?;
        ensure!(
            ours.exists() && output.stderr.contains("00000002.history"),
            "{}",
            output.stderr
        );
        second
            .execute("CREATE TABLE diverged AS SELECT generate_series(1, 100000)")
            .await?;
        let name = second
            .value("SELECT pg_walfile_name(pg_switch_wal())")
            .await?;
        let output = second_holdfast
            .wal(&["archive", &name, &format!("pg_wal/{name}")])
            .await?
            .expect_code(1)?;
        ensure!(
            output.stderr.contains("timeline") || output.stderr.contains("other content"),
            "{}",
            output.stderr
        );
        // A backup of it would find the other's WAL, and look complete.
        let refused = second_holdfast.run(&["backup"]).await?.expect_code(3)?;
        ensure!(
            refused.stderr.contains("00000002.history"),
            "{}",
            refused.stderr
        );
        ensure!(holdfast.objects()?.keys("/manifest").await?.len() == 1);
        eventually("the archiver has tried", async || {
            let failed = second
                .value("SELECT failed_count FROM pg_stat_archiver")
                .await?;
            ensure!(failed != "0");
            Ok(())
        })
        .await?;
        ensure!(holdfast.objects()?.get(&history).await? == there);
        ensure!(holdfast.objects()?.keys("/wal/00000002/").await? == before);
        // The first goes on, and is what a restore gives.
        ledger.write(&first, 30).await?;
        first.archive_all().await?;
        ledger.read_wal(&first).await?;
        let mut restored = world.restored("restored", 17, &holdfast, &[], &[]).await?;
        restored.postgres.start().await?;
        restored.postgres.wait_promoted().await?;
        let all = ledger.expected(2, &Target::Latest, false)?;
        Ledger::compare(&restored.postgres, &all).await?;
        for sidecar in [first_sidecar, second_sidecar, sidecar] {
            sidecar.stop().await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_hole_in_the_wal_stops_recovery_and_is_not_its_end() -> Result<()> {
    World::scenario("hole", async |world| {
        let (primary, holdfast, sidecar) = world.archiving(17).await?;
        let mut ledger = Ledger::create(&primary).await?;
        let backup = holdfast.backup().await?;
        let stop: Lsn = backup["stopLsn"].as_str().context("stopLsn")?.parse()?;
        primary
            .execute("CREATE TABLE filler AS SELECT generate_series(1, 100000)")
            .await?;
        ledger.write(&primary, 50).await?;
        primary.archive_all().await?;
        ledger.read_wal(&primary).await?;
        let size = SegmentSize::new(MIB)?;
        let missing = SegmentName::new(TimelineId(1), stop.segment(size).next().next(), size);
        let later = SegmentName::new(TimelineId(1), stop.segment(size).next().next().next(), size);
        let objects = holdfast.objects()?;
        ensure!(
            !objects.keys(&later.to_string()).await?.is_empty(),
            "too little WAL for this test"
        );
        let (mut copy, copy_holdfast, copy_sidecar) =
            restored_with_sidecar(world, "copy", &holdfast, &[]).await?;
        let by_sidecar = copy_holdfast.restore_command()?;
        copy.option("restore_command", &by_sidecar);
        let mut by_itself = world
            .restored("by-itself", 17, &holdfast, &[], &[])
            .await?
            .postgres;

        let key = objects.key(&missing.to_string()).await?;
        let content = objects.take(&key).await?;
        let (code, _) = fetch(&copy_holdfast, copy.dir(), &missing.to_string()).await?;
        ensure!(code == 200, "a hole is told as {code}");
        let (code, _) = fetch(&copy_holdfast, copy.dir(), &later.to_string()).await?;
        ensure!(code == 0, "what comes after the hole is there: {code}");
        let (code, _) = fetch(&copy_holdfast, copy.dir(), "0000000100000000000000F0").await?;
        ensure!(code == 1, "past the end is told as {code}");
        let (code, _) = fetch(&copy_holdfast, copy.dir(), "00000007.history").await?;
        ensure!(code == 1, "a timeline that never was is told as {code}");

        for server in [&mut copy, &mut by_itself] {
            server.launch()?;
            let status = server.wait_exit().await?;
            ensure!(!status.success(), "Postgres ended with {status}");
            let log = server.log();
            ensure!(
                !log.contains("archive recovery complete"),
                "{}",
                server.tail()
            );
            ensure!(log.contains(&missing.to_string()), "{}", server.tail());
            ensure!(server.dir().join("recovery.signal").exists());
            ensure!(!server.dir().join("pg_wal/00000002.history").exists());
        }
        let info = holdfast.info().await?;
        let gap = &info["timelines"][0]["gaps"][0];
        ensure!(
            gap["from"] == missing.number(size)?.start(size).to_string()
                && gap["to"] == later.number(size)?.start(size).to_string(),
            "{info:#}"
        );
        let damaged = holdfast.verify().await?.expect_code(1)?.json()?;
        ensure!(
            damaged.to_string().contains(&missing.to_string()),
            "{damaged:#}"
        );
        // What lies behind the hole is refused before anything is touched, and said which moments can be reached.
        let nowhere = world.path("nowhere");
        let target = ledger
            .commits(1)?
            .last()
            .context("commits")?
            .lsn
            .to_string();
        let refused = holdfast
            .run(&[
                "restore",
                "--to",
                &nowhere.to_string_lossy(),
                "--target-lsn",
                &target,
            ])
            .await?
            .expect_code(3)?;
        ensure!(
            refused.stderr.contains(&missing.to_string()),
            "{}",
            refused.stderr
        );
        ensure!(!nowhere.exists());

        objects.put(&key, &content).await?;
        let all = ledger.expected(1, &Target::Latest, false)?;
        for server in [&mut copy, &mut by_itself] {
            server.start().await?;
            server.wait_promoted().await?;
            Ledger::compare(server, &all).await?;
        }
        copy_sidecar.stop().await?;
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn nothing_of_a_parent_is_served_past_the_switch_point() -> Result<()> {
    World::scenario("switch", async |world| {
        let (primary, holdfast, sidecar) = world.archiving(17).await?;
        let mut ledger = Ledger::create(&primary).await?;
        holdfast.backup().await?;
        let mut standby = primary.standby("standby").await?;
        let second = holdfast.also_for(&standby).build()?;
        let second_sidecar = second.sidecar().await?;
        standby.archive_with(&second).await?;
        ledger.write(&primary, 30).await?;
        standby.wait_replayed(&primary.lsn().await?).await?;
        standby.promote().await?;
        // The parent goes on by itself: its segment of the switch point has other content behind it, and more follow.
        primary
            .execute("CREATE TABLE filler AS SELECT generate_series(1, 100000)")
            .await?;
        ledger.write(&primary, 50).await?;
        primary.archive_all().await?;
        ledger.write(&standby, 30).await?;
        standby.archive_all().await?;
        ledger.read_wal(&primary).await?;
        ledger.read_wal(&standby).await?;
        let history = std::fs::read_to_string(standby.dir().join("pg_wal/00000002.history"))?;
        let switch: Lsn = history
            .split_whitespace()
            .nth(1)
            .context("a switch point")?
            .parse()?;
        let size = SegmentSize::new(MIB)?;
        let at = segment(1, switch)?.to_string();
        let past = SegmentName::new(TimelineId(1), switch.segment(size).next(), size).to_string();
        ensure!(
            stored_segments(&holdfast).await?.contains(&past),
            "too little WAL"
        );

        let (mut copy, copy_holdfast, copy_sidecar) =
            restored_with_sidecar(world, "copy", &holdfast, &["--timeline", "2"]).await?;
        let (code, served) = fetch(&copy_holdfast, copy.dir(), &at).await?;
        if let Some(served) = served {
            let original = std::fs::read(primary.dir().join("pg_wal").join(&at))?;
            let cut = switch.segment_offset(size) as usize;
            ensure!(served.len() == MIB as usize, "{} bytes", served.len());
            ensure!(
                served[..cut] == original[..cut],
                "{at} differs before the switch point"
            );
            ensure!(
                served[cut..].iter().all(|byte| *byte == 0),
                "{at} holds WAL past the switch point"
            );
        } else {
            ensure!(code != 0);
        }
        let (code, _) = fetch(&copy_holdfast, copy.dir(), &past).await?;
        ensure!(
            code != 0,
            "{past} of the parent was served past the switch point"
        );

        // Without the child's own segments Postgres would take the parent's, and replay a history that was left.
        let child = segment(2, switch)?.to_string();
        let objects = holdfast.objects()?;
        let key = objects.key(&child).await?;
        let content = objects.take(&key).await?;
        copy.option("restore_command", &copy_holdfast.restore_command()?);
        copy.launch()?;
        let ended = copy.wait_exit().await?;
        ensure!(!ended.success(), "{}", copy.tail());
        ensure!(
            !copy.log().contains("archive recovery complete"),
            "{}",
            copy.tail()
        );
        objects.put(&key, &content).await?;
        copy.start().await?;
        copy.wait_promoted().await?;
        let all = ledger.expected(2, &Target::Latest, false)?;
        Ledger::compare(&copy, &all).await?;
        for sidecar in [copy_sidecar, second_sidecar, sidecar] {
            sidecar.stop().await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_store_that_is_down_stops_recovery_and_leaves_a_standby_up() -> Result<()> {
    World::scenario("down", async |world| {
        let mut minio = Minio::start(world).await?;
        let bucket = minio.bucket("backups")?;
        let mut primary = world
            .postgres("primary", 17)
            .segment_mib(1)
            .create()
            .await?;
        let holdfast = world
            .holdfast("shop/orders", &primary)
            .s3(&bucket)
            .build()?;
        let sidecar = holdfast.sidecar().await?;
        primary.archive_with(&holdfast).await?;
        let mut ledger = Ledger::create(&primary).await?;
        holdfast.backup().await?;
        ledger.write(&primary, 100).await?;
        primary.archive_all().await?;
        ledger.read_wal(&primary).await?;

        let (mut copy, copy_holdfast, copy_sidecar) =
            restored_with_sidecar(world, "copy", &holdfast, &[]).await?;
        copy.option("restore_command", &copy_holdfast.restore_command()?);
        let mut by_itself = world
            .restored("by-itself", 17, &holdfast, &[], &[])
            .await?
            .postgres;
        let mut standby = primary.standby_unstarted("standby").await?;
        let standby_holdfast = holdfast.also_for(&standby).build()?;
        let standby_sidecar = standby_holdfast.sidecar().await?;
        let codes = world.write("home/codes", "")?;
        let noting = format!(
            "{}; code=$?; echo $code >> {}; exit $code",
            standby_holdfast.restore_command()?,
            codes.display()
        );
        standby.option("restore_command", &noting);
        standby.start().await?;
        standby.wait_replayed(&primary.lsn().await?).await?;
        std::fs::write(&codes, "")?;

        minio.stop().await?;
        primary.stop(Shutdown::Fast).await?;
        for server in [&mut copy, &mut by_itself] {
            server.launch()?;
            let status = server.wait_exit().await?;
            ensure!(!status.success(), "Postgres ended with {status}");
            ensure!(
                !server.log().contains("archive recovery complete"),
                "{}",
                server.tail()
            );
            ensure!(server.dir().join("recovery.signal").exists());
        }
        eventually("the standby has asked three times", async || {
            let asked = std::fs::read_to_string(&codes)?.lines().count();
            ensure!(asked >= 3, "{asked} times\n{}", standby.tail());
            Ok(())
        })
        .await?;
        let answers = std::fs::read_to_string(&codes)?;
        ensure!(answers.lines().all(|code| code == "1"), "{answers}");
        ensure!(standby.is_running()?, "{}", standby.tail());
        ensure!(standby.value("SELECT pg_is_in_recovery()").await? == "t");

        minio.restart().await?;
        bucket.wait().await?;
        let all = ledger.expected(1, &Target::Latest, false)?;
        for server in [&mut copy, &mut by_itself] {
            server.start().await?;
            server.wait_promoted().await?;
            Ledger::compare(server, &all).await?;
        }
        Ledger::compare(&standby, &all).await?;
        for sidecar in [copy_sidecar, standby_sidecar, sidecar] {
            sidecar.stop().await?;
        }
        Ok(())
    })
    .await
}

/// Two minutes are past every retry. Another server was promoted to timeline 2 meanwhile: that number is taken, whether the
/// store can say so or not.
#[tokio::test]
async fn a_standby_outlives_its_store_and_takes_no_timeline_twice() -> Result<()> {
    World::scenario("outlives", async |world| {
        let mut minio = Minio::start(world).await?;
        let bucket = minio.bucket("backups")?;
        let mut primary = world
            .postgres("primary", 17)
            .segment_mib(1)
            .create()
            .await?;
        let holdfast = world
            .holdfast("shop/orders", &primary)
            .s3(&bucket)
            .build()?;
        let sidecar = holdfast.sidecar().await?;
        primary.archive_with(&holdfast).await?;
        let mut ledger = Ledger::create(&primary).await?;
        let mut other = primary.standby("other").await?;
        let mut standby = primary.standby_unstarted("standby").await?;
        // As the operator hands it to every pod: a standby that streams asks for no history file by itself.
        let known = world.make_dir("known")?;
        let standby_holdfast = holdfast
            .also_for(&standby)
            .line(&format!("historyDirectory: {}", known.display()))
            .build()?;
        let standby_sidecar = standby_holdfast.sidecar().await?;
        standby.option("restore_command", &standby_holdfast.restore_command()?);
        standby.start().await?;

        let other_holdfast = holdfast.also_for(&other).build()?;
        let other_sidecar = other_holdfast.sidecar().await?;
        other.archive_with(&other_holdfast).await?;
        other.promote().await?;
        other.execute("CREATE TABLE elsewhere ()").await?;
        other.archive_all().await?;
        ensure!(other.timeline().await? == 2);
        let history = std::fs::read(other.dir().join("pg_wal/00000002.history"))?;
        world.write("known/00000002.history", history)?;
        let system = "SELECT system_identifier FROM pg_control_system()";
        world.write("known/histories-of", other.value(system).await?)?;
        // The standby goes on with its own primary, past the point where the other one left.
        ledger.write(&primary, 50).await?;
        ledger.read_wal(&primary).await?;
        standby.wait_replayed(&primary.lsn().await?).await?;
        minio.stop().await?;
        primary.stop(Shutdown::Immediate).await?;
        tokio::time::sleep(Duration::from_secs(125)).await;
        ensure!(standby.is_running()?, "{}", standby.tail());
        ensure!(standby.value("SELECT pg_is_in_recovery()").await? == "t");
        standby.promote().await?;
        ensure!(standby.timeline().await? == 3, "{}", standby.tail());
        Ledger::compare(&standby, &ledger.expected(1, &Target::Latest, false)?).await?;
        for sidecar in [other_sidecar, standby_sidecar, sidecar] {
            sidecar.stop().await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_archive_call_waits_for_no_store_and_nothing_is_lost() -> Result<()> {
    World::scenario("outage", async |world| {
        let mut minio = Minio::start(world).await?;
        let bucket = minio.bucket("backups")?;
        let primary = world
            .postgres("primary", 17)
            .segment_mib(1)
            .create()
            .await?;
        let holdfast = world
            .holdfast("shop/orders", &primary)
            .s3(&bucket)
            .build()?;
        let sidecar = holdfast.sidecar().await?;
        primary.archive_with(&holdfast).await?;
        let mut ledger = Ledger::create(&primary).await?;
        holdfast.backup().await?;
        minio.stop().await?;
        ledger.write(&primary, 300).await?;
        let name = primary
            .value("SELECT pg_walfile_name(pg_switch_wal())")
            .await?;
        let output = holdfast
            .wal(&["archive", &name, &format!("pg_wal/{name}")])
            .await?
            .expect_code(1)?;
        ensure!(
            output.stderr.lines().count() == 1 && output.stderr.contains(&name),
            "{}",
            output.stderr
        );
        minio.restart().await?;
        bucket.wait().await?;
        // Answers that never come: the program hangs with its connections open.
        minio.daemon()?.pause()?;
        ledger.write(&primary, 100).await?;
        minio.daemon()?.kill9().await?;
        minio.restart().await?;
        bucket.wait().await?;
        primary.archive_all().await?;
        ledger.read_wal(&primary).await?;
        let mut restored = world.restored("restored", 17, &holdfast, &[], &[]).await?;
        restored.postgres.start().await?;
        restored.postgres.wait_promoted().await?;
        let all = ledger.expected(1, &Target::Latest, false)?;
        Ledger::compare(&restored.postgres, &all).await?;
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn a_sidecar_that_is_down_hung_or_restarting_is_never_taken_for_an_absence() -> Result<()> {
    World::scenario("hung", async |world| {
        let (primary, holdfast, sidecar) = world.archiving(17).await?;
        holdfast.backup().await?;
        primary.archive_all().await?;
        let copy = world
            .restored("copy", 17, &holdfast, &[], &[])
            .await?
            .postgres;
        let copy_holdfast = holdfast.also_for(&copy).build()?;
        let name = stored_segments(&holdfast)
            .await?
            .pop()
            .context("segments")?;
        let ask = async |signal: &str| -> Result<i32> {
            for file in ["recovery.signal", "standby.signal"] {
                let _ = std::fs::remove_file(copy.dir().join(file));
            }
            std::fs::write(copy.dir().join(signal), "")?;
            world.own(&copy.dir().join(signal))?;
            Ok(fetch(&copy_holdfast, copy.dir(), &name).await?.0)
        };
        // Down.
        ensure!(ask("recovery.signal").await? == 200);
        ensure!(ask("standby.signal").await? == 1);
        // Hung.
        let mut copy_sidecar = copy_holdfast.sidecar().await?;
        ensure!(ask("recovery.signal").await? == 0);
        ensure!(ask("standby.signal").await? == 0);
        copy_sidecar.daemon.pause()?;
        ensure!(ask("recovery.signal").await? == 200);
        ensure!(ask("standby.signal").await? == 1);
        copy_sidecar.daemon.resume()?;
        ensure!(ask("recovery.signal").await? == 0);
        // Restarting: a call that begins while it is away is answered once it is back.
        copy_sidecar.daemon.kill9().await?;
        let (code, again) = tokio::join!(ask("recovery.signal"), copy_holdfast.sidecar());
        ensure!(code? == 0);
        again?.stop().await?;

        let last = primary
            .value("SELECT pg_walfile_name(pg_switch_wal())")
            .await?;
        let path = format!("pg_wal/{last}");
        sidecar.daemon.pause()?;
        holdfast
            .wal(&["archive", &last, &path])
            .await?
            .expect_code(1)?;
        sidecar.daemon.resume()?;
        sidecar.stop().await?;
        holdfast
            .wal(&["archive", &last, &path])
            .await?
            .expect_code(1)?;
        let sidecar = holdfast.sidecar().await?;
        holdfast.wal(&["archive", &last, &path]).await?.success()?;
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn a_name_that_is_a_path_reaches_nothing() -> Result<()> {
    World::scenario("paths", async |world| {
        let (primary, holdfast, sidecar) = world.archiving(17).await?;
        holdfast.backup().await?;
        primary.archive_all().await?;
        let good = stored_segments(&holdfast)
            .await?
            .pop()
            .context("segments")?;
        let secret = world.write("home/secret", "not for the repository\n")?;
        let before = holdfast.objects()?.list().await?;
        let outside = primary.dir().join("../../home/secret");
        for (name, path) in [
            ("../../../home/secret", "pg_wal/x"),
            ("/etc/passwd", "/etc/passwd"),
            ("..", "pg_wal/x"),
            ("000000010000000000000001/../x", "pg_wal/x"),
            ("00000001000000000000000g", "pg_wal/x"),
            ("000000010000000000000001.gz", "pg_wal/x"),
            (&good, &*secret.to_string_lossy()),
            (&good, &*outside.to_string_lossy()),
            (&good, "../../home/secret"),
            ("00000002.history", "../../home/secret"),
            ("00000002.history", &*secret.to_string_lossy()),
        ] {
            let output = holdfast.wal(&["archive", name, path]).await?;
            ensure!(
                output.code == 1 || output.code == 64,
                "archive {name} {path} ended with {}: {}",
                output.code,
                output.stderr
            );
            ensure!(output.stderr.lines().count() == 1, "{}", output.stderr);
        }
        for name in [
            "../../../home/secret",
            "/etc/passwd",
            "..",
            "archive.json",
            "../archive.json",
        ] {
            let output = holdfast.wal(&["restore", name, "fetched"]).await?;
            ensure!(
                output.code == 200 || output.code == 1 || output.code == 64,
                "restore {name} ended with {}",
                output.code
            );
            ensure!(
                !primary.dir().join("fetched").exists(),
                "restore {name} wrote something"
            );
        }
        // Past the client, at the socket itself.
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        for line in [
            "RESTORE ../../archive.json\n".to_owned(),
            format!("ARCHIVE ../../x {}\n", secret.display()),
            format!("ARCHIVE 00000002.history {}\n", secret.display()),
            "ARCHIVE\n".to_owned(),
            "x".repeat(10_000) + "\n",
        ] {
            let mut stream = tokio::net::UnixStream::connect(holdfast.socket()).await?;
            stream.write_all(line.as_bytes()).await?;
            let mut answer = String::new();
            // A connection that is closed on what was not read may be reset.
            let _ = stream.read_to_string(&mut answer).await;
            ensure!(!answer.contains("OK"), "{line:.60} was answered: {answer}");
        }
        ensure!(
            holdfast.objects()?.list().await? == before,
            "the repository changed"
        );
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn a_copy_does_not_archive_into_its_source() -> Result<()> {
    World::scenario("copy", async |world| {
        let (primary, holdfast, sidecar) = world.archiving(17).await?;
        let mut ledger = Ledger::create(&primary).await?;
        holdfast.backup().await?;
        ledger.write(&primary, 50).await?;
        primary.archive_all().await?;
        ledger.read_wal(&primary).await?;
        // Its postgresql.conf is the source's: archive_command leads to the source's sidecar.
        let mut inherited = world
            .restored("inherited", 17, &holdfast, &[], &[])
            .await?
            .postgres;
        inherited.option("archive_mode", "on");
        // With a sidecar of its own, under the source's name.
        let labelled = world.restored("labelled", 17, &holdfast, &[], &[]).await?;
        let mut labelled = world.postgres_on("labelled", 17, labelled.postgres.dir())?;
        let labelled_holdfast = holdfast.also_for(&labelled).build()?;
        let labelled_sidecar = labelled_holdfast.sidecar().await?;
        labelled.option("archive_command", &labelled_holdfast.archive_command()?);
        let before = holdfast.objects()?.list().await?;
        for copy in [&mut inherited, &mut labelled] {
            copy.start().await?;
            copy.wait_promoted().await?;
            let all = ledger.expected(1, &Target::Latest, false)?;
            Ledger::compare(copy, &all).await?;
            copy.execute(
                "CREATE TABLE own AS SELECT generate_series(1, 50000); SELECT pg_switch_wal()",
            )
            .await?;
            eventually("its archiver has been refused", async || {
                let failed = copy
                    .value("SELECT failed_count FROM pg_stat_archiver")
                    .await?;
                ensure!(failed != "0", "not yet\n{}", copy.tail());
                Ok(())
            })
            .await?;
            ensure!(
                copy.value("SELECT archived_count FROM pg_stat_archiver")
                    .await?
                    == "0",
                "{}",
                copy.tail()
            );
        }
        ensure!(
            labelled.log().contains("shop/orders"),
            "it is not said whose copy it is\n{}",
            labelled.tail()
        );
        ensure!(
            holdfast.objects()?.list().await? == before,
            "the source's archive changed"
        );
        let refused = labelled_holdfast.run(&["backup"]).await?;
        ensure!(
            refused.code == 3,
            "a copy was backed up into its source: {}",
            refused.stderr
        );
        // Under a name of its own it may.
        labelled_sidecar.stop().await?;
        let own = holdfast
            .also_for(&labelled)
            .archive("shop/orders-copy")
            .build()?;
        let own_sidecar = own.sidecar().await?;
        labelled.archive_all().await?;
        own.backup().await?;
        // The source goes on undisturbed.
        ledger.write(&primary, 20).await?;
        primary.archive_all().await?;
        own_sidecar.stop().await?;
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn a_server_that_was_set_back_overwrites_nothing() -> Result<()> {
    World::scenario("set-back", async |world| {
        let (mut primary, holdfast, sidecar) = world.archiving(17).await?;
        primary.archive_all().await?;
        primary.stop(Shutdown::Fast).await?;
        let mut cp = world.command("cp");
        world.make_dir("back")?;
        cp.arg("-a").arg(primary.dir()).arg(world.path("back/data"));
        world.run(cp).await?.success()?;
        primary.start().await?;
        primary
            .execute("CREATE TABLE t AS SELECT generate_series(1, 100000)")
            .await?;
        primary.archive_all().await?;
        let name = stored_segments(&holdfast)
            .await?
            .pop()
            .context("segments")?;
        let path = format!("pg_wal/{name}");
        // The same again, as Postgres does after a crash.
        holdfast.wal(&["archive", &name, &path]).await?.success()?;
        let before = holdfast.objects()?.list().await?;

        let mut back = world.postgres_on("back", 17, &world.path("back/data"))?;
        let back_holdfast = holdfast.also_for(&back).build()?;
        let back_sidecar = back_holdfast.sidecar().await?;
        back.option("archive_command", "false");
        back.start().await?;
        back.execute("CREATE TABLE other AS SELECT 'x' || generate_series(1, 200000)")
            .await?;
        let output = back_holdfast
            .wal(&["archive", &name, &path])
            .await?
            .expect_code(1)?;
        ensure!(
            output.stderr.contains(&name) && output.stderr.contains("shop/orders"),
            "{}",
            output.stderr
        );
        ensure!(
            holdfast.objects()?.list().await? == before,
            "the repository changed"
        );
        holdfast.wal(&["archive", &name, &path]).await?.success()?;
        compare_segments(&primary, &holdfast, 1, &[name]).await?;
        back_sidecar.stop().await?;
        sidecar.stop().await
    })
    .await
}
