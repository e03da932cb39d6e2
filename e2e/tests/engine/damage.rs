//! What is damaged or missing is named by `verify` and refused by `restore`, and what was begun and not ended is never taken
//! for something whole.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::restored::ensure_not_startable;
use holdfast_e2e::{
    Daemon, Holdfast, Ledger, Objects, Output, Postgres, Shutdown, Snapshot, Target, World,
    eventually,
};

/// What a kind of object may be answered with when it is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    clippy::enum_variant_names,
    reason = "read as a sentence where they are used"
)]
enum Kind {
    /// A restore begins with it; `verify` lists it as damage.
    OfABackup,
    /// Recovery needs it later: Postgres stops there.
    OfTheWal,
    /// Without it nothing can be opened.
    OfTheArchive,
}

/// An archive with a backup, WAL past it, and a second timeline. Nothing runs any more.
async fn kept(world: &World, encrypted: bool, segment_mib: u32) -> Result<Holdfast> {
    let mut primary = world
        .postgres("primary", 17)
        .segment_mib(segment_mib)
        .create()
        .await?;
    let mut settings = world
        .holdfast("shop/orders", &primary)
        .filesystem("backups")?;
    if encrypted {
        settings = settings.encrypted()?;
    }
    let holdfast = settings.build()?;
    let sidecar = holdfast.sidecar().await?;
    primary.archive_with(&holdfast).await?;
    let ledger = Ledger::create(&primary).await?;
    holdfast.backup().await?;
    ledger.write(&primary, 500).await?;
    if segment_mib > 16 {
        primary.pgbench(&["-i", "-s", "5", "-q"]).await?;
    }
    let mut standby = primary.standby("standby").await?;
    let second = holdfast.also_for(&standby).build()?;
    let second_sidecar = second.sidecar().await?;
    standby.archive_with(&second).await?;
    primary.archive_all().await?;
    primary.stop(Shutdown::Fast).await?;
    standby.promote().await?;
    ledger.write(&standby, 20).await?;
    standby.archive_all().await?;
    standby.stop(Shutdown::Fast).await?;
    second_sidecar.stop().await?;
    sidecar.stop().await?;
    holdfast.verify().await?.success()?;
    Ok(holdfast)
}

/// Restores must fail, now or, where only the WAL is damaged, when Postgres comes to it.
async fn ensure_refused(world: &World, holdfast: &Holdfast, kind: Kind, key: &str) -> Result<()> {
    let dir = world.path("refused");
    let restore = ["restore", "--to", &dir.to_string_lossy()].map(str::to_owned);
    let words: Vec<&str> = restore.iter().map(String::as_str).collect();
    let output = holdfast.run(&words).await?;
    if output.code == 0 {
        ensure!(kind == Kind::OfTheWal, "a restore took no notice of {key}");
        let mut postgres = world.copy_on("refused", 17, &dir)?;
        postgres.launch()?;
        let status = postgres.wait_exit().await?;
        ensure!(
            !status.success() && !dir.join("pg_wal/00000003.history").exists(),
            "Postgres ended recovery in spite of {key}: {status}\n{}",
            postgres.tail()
        );
    } else {
        ensure!(
            output.stderr.contains(key)
                || kind == Kind::OfTheArchive && output.stderr.lines().count() == 1,
            "a restore that failed for {key} does not name it: {}",
            output.stderr
        );
        ensure_not_startable(world, 17, &dir).await?;
    }
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

/// `verify` must not say that all is good, and must name the object.
fn ensure_named(output: &Output, key: &str) -> Result<()> {
    ensure!(
        output.code == 1,
        "verify ended with {} for {key}: {}{}",
        output.code,
        output.stdout,
        output.stderr
    );
    let found = output.json()?;
    let named = found["damage"]
        .as_array()
        .context("damage")?
        .iter()
        .any(|damage| {
            // A chunk is part of its segment.
            let reason = damage["reason"].as_str().unwrap_or_default();
            damage["object"] == key || key.contains("/chunks/") && reason.contains(key)
        });
    ensure!(named, "{key} is not named: {found:#}");
    Ok(())
}

async fn kinds(objects: &Objects, encrypted: bool) -> Result<Vec<(Kind, String)>> {
    let mut wal = objects.keys("/wal/00000001/").await?;
    // A `.backup` file is for people; no restore needs it.
    wal.retain(|key| !key.ends_with(".backup"));
    // The last but one: after the backup, before the switch.
    wal.pop();
    let mut kinds = vec![
        (Kind::OfTheWal, wal.pop().context("WAL")?),
        (Kind::OfTheWal, objects.key("00000002.history").await?),
        (Kind::OfABackup, objects.key("/manifest").await?),
        (Kind::OfTheArchive, "archive.json".to_owned()),
        (Kind::OfTheArchive, objects.key("/identity.json").await?),
    ];
    for pack in objects.keys("/packs/").await? {
        kinds.push((Kind::OfABackup, pack));
    }
    if encrypted {
        kinds.push((Kind::OfTheArchive, objects.key("keys/").await?));
    }
    Ok(kinds)
}

async fn every_flipped_bit(encrypted: bool) -> Result<()> {
    World::scenario("flipped", async |world| {
        let holdfast = kept(world, encrypted, 1).await?;
        let objects = holdfast.objects()?;
        let mut missed = Vec::new();
        for (kind, key) in kinds(&objects, encrypted).await? {
            let length = objects.get(&key).await?.len();
            let mut offsets = match kind {
                // Recovery asks for damaged WAL for a while before it gives up.
                Kind::OfTheWal => vec![length / 2, length - 1],
                _ => vec![0, 9, length / 3, length / 2, length - 1],
            };
            offsets.dedup();
            for offset in offsets {
                objects.flip(&key, offset).await?;
                let verified = holdfast.verify().await?;
                let named = ensure_named(&verified, &key);
                // A pack ends with its index, which no restore reads.
                let refused = if key.contains("/packs/") && offset + 1 == length {
                    Ok(())
                } else {
                    ensure_refused(world, &holdfast, kind, &key).await
                };
                let _ = std::fs::remove_dir_all(world.path("refused"));
                objects.flip(&key, offset).await?;
                for failure in [named, refused].into_iter().filter_map(Result::err) {
                    missed.push(format!("byte {offset} of {length} of {key}: {failure}"));
                }
            }
        }
        holdfast.verify().await?.success()?;
        ensure!(missed.is_empty(), "{}", missed.join("\n"));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn every_flipped_bit_is_named_and_refused() -> Result<()> {
    every_flipped_bit(false).await
}

#[tokio::test]
async fn every_flipped_bit_is_named_and_refused_where_all_is_encrypted() -> Result<()> {
    every_flipped_bit(true).await
}

#[tokio::test]
async fn every_lost_object_is_named_and_refused() -> Result<()> {
    World::scenario("lost", async |world| {
        let holdfast = kept(world, true, 1).await?;
        let objects = holdfast.objects()?;
        let mut missed = Vec::new();
        for (kind, key) in kinds(&objects, true).await? {
            let content = objects.take(&key).await?;
            let verified = holdfast.verify().await?;
            let named = if key.ends_with("/manifest") {
                // No manifest, no backup: as one that was interrupted, and none that could be restored.
                (|| {
                    ensure!(
                        verified.json()?["backups"]
                            .as_array()
                            .is_some_and(Vec::is_empty),
                        "verify: {}",
                        verified.stdout
                    );
                    ensure!(
                        verified.stderr.contains("has no manifest"),
                        "verify does not say so: {}",
                        verified.stderr
                    );
                    Ok(())
                })()
            } else if kind == Kind::OfTheArchive {
                (|| {
                    ensure!(verified.code != 0, "verify: {}", verified.stdout);
                    Ok(())
                })()
            } else {
                ensure_named(&verified, &key)
            };
            let dir = world.path("refused");
            let output = holdfast
                .run(&["restore", "--to", &dir.to_string_lossy()])
                .await?;
            let refused = if output.code == 0 {
                let _ = std::fs::remove_dir_all(&dir);
                Err(anyhow::anyhow!("a restore took no notice"))
            } else {
                let proof = ensure_not_startable(world, 17, &dir).await;
                let _ = std::fs::remove_dir_all(&dir);
                proof
            };
            objects.put(&key, &content).await?;
            for failure in [named, refused].into_iter().filter_map(Result::err) {
                missed.push(format!("{key}: {failure}"));
            }
        }
        holdfast.verify().await?.success()?;
        ensure!(missed.is_empty(), "{}", missed.join("\n"));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_damaged_or_lost_chunk_of_a_large_segment_is_named() -> Result<()> {
    World::scenario("chunks", async |world| {
        let holdfast = kept(world, false, 64).await?;
        let objects = holdfast.objects()?;
        let chunks = objects.keys("/chunks/").await?;
        // Of the newest segment: no restore reads those before the backup.
        let chunk = chunks.last().context("no chunk objects")?;
        let length = objects.get(chunk).await?.len();
        for offset in [0, length / 2, length - 1] {
            objects.flip(chunk, offset).await?;
            let verified = holdfast.verify().await?;
            objects.flip(chunk, offset).await?;
            ensure_named(&verified, chunk)?;
        }
        let content = objects.take(chunk).await?;
        let verified = holdfast.verify().await?;
        objects.put(chunk, &content).await?;
        ensure_named(&verified, chunk)?;
        holdfast.verify().await?.success()?;
        Ok(())
    })
    .await
}

/// A server with some 100 MB, its backup, and what must be there after a restore to the end.
struct Large {
    postgres: Postgres,
    holdfast: Holdfast,
    ledger: Ledger,
    bytes: u64,
}

impl Large {
    async fn make(world: &World) -> Result<Self> {
        let (postgres, holdfast, sidecar) = world.archiving(17).await?;
        let mut ledger = Ledger::create(&postgres).await?;
        postgres.pgbench(&["-i", "-s", "6", "-q"]).await?;
        let backup = holdfast.backup().await?;
        ledger.write(&postgres, 30).await?;
        postgres.archive_all().await?;
        ledger.read_wal(&postgres).await?;
        sidecar.stop().await?;
        Ok(Self {
            postgres,
            holdfast,
            ledger,
            bytes: backup["size"]["database"].as_u64().context("size")?,
        })
    }

    fn restore(&self, world: &World, dir: &Path, overwrite: bool) -> Result<Daemon> {
        let to = dir.to_string_lossy();
        let mut words = vec!["restore", "--to", &to];
        if overwrite {
            words.push("--overwrite");
        }
        let command = self.holdfast.command(&words)?;
        Daemon::spawn("holdfast restore", command, &world.path("log/restore.log"))
    }

    /// See [`World::held_restore`].
    async fn held(&self, world: &World, dir: &Path, overwrite: bool, bytes: u64) -> Result<Daemon> {
        let words: &[&str] = if overwrite { &["--overwrite"] } else { &[] };
        world.held_restore(&self.holdfast, dir, words, bytes).await
    }

    async fn judge(&self, world: &World, name: &str, dir: &Path) -> Result<()> {
        world.verify_backup(dir, 17).await?;
        let mut postgres = world.copy_on(name, 17, dir)?;
        postgres.start().await?;
        postgres.wait_promoted().await?;
        let all = self.ledger.expected(1, &Target::Latest, false)?;
        Ledger::compare(&postgres, &all).await?;
        postgres.stop(Shutdown::Fast).await
    }
}

#[tokio::test]
async fn a_restore_that_is_killed_leaves_what_cannot_start_and_a_repeat_completes() -> Result<()> {
    World::scenario("killed", async |world| {
        let large = Large::make(world).await?;
        let dir = world.make_dir("restored")?.join("data");
        for overwrite in [false, true] {
            for percent in [0, 30, 60, 90] {
                let bytes = large.bytes * percent / 100;
                let mut restore = large.held(world, &dir, overwrite, bytes).await?;
                restore.kill9().await?;
                ensure_not_startable(world, 17, &dir).await?;
                if !overwrite {
                    // The repeat needs no other words than the first.
                    let mut again = large.restore(world, &dir, false)?;
                    let status = again.wait(Duration::from_secs(120)).await?;
                    ensure!(status.success(), "{status}\n{}", again.tail());
                    if percent < 90 {
                        std::fs::remove_dir_all(&dir)?;
                    }
                }
            }
            if overwrite {
                large.holdfast.restore(&dir, &["--overwrite"]).await?;
            }
            large
                .judge(world, &format!("judged-{overwrite}"), &dir)
                .await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_restore_that_stands_still_is_not_overtaken() -> Result<()> {
    World::scenario("overtaken", async |world| {
        let large = Large::make(world).await?;
        let dir = world.make_dir("restored")?.join("data");
        let mut first = large.held(world, &dir, false, large.bytes / 3).await?;
        let half = Snapshot::of(&dir)?;
        let to = dir.to_string_lossy();
        for more in [&[][..], &["--overwrite"]] {
            let words = [&["restore", "--to", &to], more].concat();
            let second = large.holdfast.run(&words).await?.expect_code(1)?;
            let said = second.stderr;
            ensure!(said.contains("another restore writes there"), "{said}");
            half.ensure_unchanged()?;
        }
        first.resume()?;
        let status = first.wait(Duration::from_secs(120)).await?;
        ensure!(status.success(), "{status}\n{}", first.tail());
        large.judge(world, "judged", &dir).await
    })
    .await
}

#[tokio::test]
async fn a_disk_that_fills_up_during_a_restore_leaves_what_cannot_start() -> Result<()> {
    World::scenario("full", async |world| {
        let large = Large::make(world).await?;
        let mib = u32::try_from(large.bytes >> 20)? + 120;
        let disk = world.small_disk("disk", mib).await?;
        let dir = disk.join("data");
        let mut restore = large.held(world, &dir, false, large.bytes / 4).await?;
        let mut fill = world.command("dd");
        fill.args(["if=/dev/zero", "bs=1M"])
            .arg(format!("of={}", disk.join("filler").display()));
        world.run(fill).await?.expect_code(1)?;
        restore.resume()?;
        let status = restore.wait(Duration::from_secs(120)).await?;
        ensure!(status.code() == Some(1), "{status}\n{}", restore.tail());
        let log = restore.log();
        ensure!(
            log.contains("No space left on device") && log.contains(&*dir.to_string_lossy()),
            "{log}"
        );
        ensure_not_startable(world, 17, &dir).await?;
        std::fs::remove_file(disk.join("filler"))?;
        large.holdfast.restore(&dir, &[]).await?;
        large.judge(world, "judged", &dir).await
    })
    .await
}

#[tokio::test]
async fn a_disk_that_is_too_small_is_refused_before_a_byte_is_written() -> Result<()> {
    World::scenario("small", async |world| {
        let large = Large::make(world).await?;
        let disk = world.small_disk("disk", 40).await?;
        let dir = disk.join("data");
        let refused = large
            .holdfast
            .run(&["restore", "--to", &dir.to_string_lossy()])
            .await?
            .expect_code(3)?;
        ensure!(
            refused.stderr.lines().count() == 1 && refused.stderr.contains(&*dir.to_string_lossy()),
            "{}",
            refused.stderr
        );
        ensure!(!dir.exists());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_backup_that_is_killed_is_no_backup_and_the_next_one_works() -> Result<()> {
    World::scenario("no-backup", async |world| {
        let large = Large::make(world).await?;
        // Without a sidecar the command does the work itself; WAL is archived by one under another name.
        let other = large.holdfast.settings().instance("other").build()?;
        let sidecar = other.sidecar().await?;
        large.postgres.archive_with(&other).await?;
        for number in 0..3 {
            let known = large.holdfast.complete_backups().await?;
            let mut backup = large.holdfast.held_backup(&format!("backup-{number}")).await?;
            backup.kill9().await?;
            let now = large.holdfast.complete_backups().await?;
            ensure!(now == known, "{now:?} and not {known:?}");
            large.holdfast.verify().await?.success()?;
            eventually("the dead backup's session is gone", async || {
                let sessions = large
                    .postgres
                    .value("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'holdfast%' AND application_name <> 'holdfast-test' AND backend_type = 'client backend'")
                    .await?;
                ensure!(sessions == "0", "{sessions} sessions");
                Ok(())
            })
            .await?;
            let next = large.holdfast.backup().await?;
            let id = next["id"].as_str().context("id")?;
            let backups = large.holdfast.info().await?["backups"].clone();
            ensure!(
                backups.as_array().is_some_and(|all| all.iter().any(|backup| backup["id"] == id)),
                "{backups:#}"
            );
        }
        let mut restored = world
            .restored("restored", 17, &large.holdfast, &[], &[])
            .await?;
        restored.postgres.start().await?;
        restored.postgres.wait_promoted().await?;
        let all = large.ledger.expected(1, &Target::Latest, false)?;
        Ledger::compare(&restored.postgres, &all).await?;
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn a_full_repository_acknowledges_nothing() -> Result<()> {
    World::scenario("full-store", async |world| {
        let disk = world.small_disk("backups", 60).await?;
        let (primary, holdfast, sidecar) = world.archiving(17).await?;
        let mut ledger = Ledger::create(&primary).await?;
        holdfast.backup().await?;
        let mut fill = world.command("dd");
        fill.args(["if=/dev/zero", "bs=4k"])
            .arg(format!("of={}", disk.join("filler").display()));
        world.run(fill).await?.expect_code(1)?;
        ledger.write(&primary, 300).await?;
        let name = primary
            .value("SELECT pg_walfile_name(pg_switch_wal())")
            .await?;
        let refused = holdfast
            .wal(&["archive", &name, &format!("pg_wal/{name}")])
            .await?
            .expect_code(1)?;
        ensure!(
            refused.stderr.contains("No space left"),
            "{}",
            refused.stderr
        );
        ensure!(
            holdfast
                .objects()?
                .keys(&format!("/{name}"))
                .await?
                .is_empty()
        );
        let failed = holdfast.run(&["backup"]).await?;
        ensure!(
            failed.code == 1 && failed.stderr.contains("No space left"),
            "{}",
            failed.stderr
        );
        std::fs::remove_file(disk.join("filler"))?;
        primary.archive_all().await?;
        ledger.read_wal(&primary).await?;
        let complete = holdfast.complete_backups().await?;
        ensure!(complete.len() == 1, "{}\n{complete:?}", failed.stderr);
        holdfast.verify().await?.success()?;
        let mut restored = world.restored("restored", 17, &holdfast, &[], &[]).await?;
        restored.postgres.start().await?;
        restored.postgres.wait_promoted().await?;
        let all = ledger.expected(1, &Target::Latest, false)?;
        Ledger::compare(&restored.postgres, &all).await?;
        sidecar.stop().await
    })
    .await
}
