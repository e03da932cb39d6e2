//! What a restore or a verification reads is not deleted under it, and what is about to be deleted is not begun with.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::restored::ensure_not_startable;
use holdfast_e2e::{Daemon, Holdfast, Ledger, Objects, Shutdown, Snapshot, Target, World};
use holdfast_repository::Archive;
use holdfast_repository::expiry::{Pass, Progress, pass};
use holdfast_repository::owner::{self, InstallationId};
use holdfast_repository::retention::{Policy, Wishes};
use holdfast_repository::store::StoreSettings;

/// Two backups of some 100 MB. Nothing runs any more.
struct Kept {
    world: World,
    holdfast: Holdfast,
    objects: Objects,
    ledger: Ledger,
    old: String,
    new: String,
    bytes: u64,
}

impl Kept {
    async fn make(world: &World) -> Result<Self> {
        let (mut primary, holdfast, sidecar) = world.archiving(17).await?;
        let mut ledger = Ledger::create(&primary).await?;
        primary.pgbench(&["-i", "-s", "6", "-q"]).await?;
        let old = holdfast.backup().await?;
        ledger.write(&primary, 30).await?;
        let new = holdfast.backup().await?;
        ledger.write(&primary, 30).await?;
        primary.archive_all().await?;
        ledger.read_wal(&primary).await?;
        primary.stop(Shutdown::Fast).await?;
        sidecar.stop().await?;
        let id = |status: &serde_json::Value| {
            let id = status["id"].as_str().context("id");
            id.map(str::to_owned)
        };
        Ok(Self {
            world: world.clone(),
            objects: holdfast.objects()?,
            ledger,
            old: id(&old)?,
            new: id(&new)?,
            bytes: old["size"]["database"].as_u64().context("size")?,
            holdfast,
        })
    }

    fn folder(&self) -> Result<PathBuf> {
        Ok(self.holdfast.folder().context("a folder")?.to_owned())
    }

    /// Expires all but the newest backup, as its owner, without a grace period.
    async fn expire(&self) -> Result<Progress> {
        let path = self.folder()?;
        let store = StoreSettings::Filesystem { path }.open("shop/orders")?;
        let archive = Archive::open(store, None).await?;
        let installation: InstallationId = "ours".parse()?;
        owner::claim(&archive, &installation, "1").await?;
        let settings = Pass {
            installation: &installation,
            version: "1",
            policy: Policy {
                recovery_window: Some(Duration::ZERO),
                minimum_backups: 1,
            },
            wishes: Wishes::default(),
            grace: Duration::ZERO,
        };
        let progress = pass(&archive, &settings).await?;
        // What it made is the test's user's.
        self.world.own_tree(&self.folder()?)?;
        Ok(progress)
    }

    /// Expiry keeps everything, and says why.
    async fn ensure_kept(&self, why: &str) -> Result<()> {
        for _ in 0..3 {
            let progress = self.expire().await?;
            let plan = progress.plan.to_string();
            ensure!(progress.announced.is_empty(), "{plan}");
            ensure!(plan.contains(why), "{plan}");
        }
        Ok(())
    }

    async fn ensure_backups(&self, expected: &[&str]) -> Result<()> {
        let backups = self.holdfast.complete_backups().await?;
        ensure!(backups == expected, "{backups:?} and not {expected:?}");
        Ok(())
    }

    async fn markers(&self) -> Result<Vec<String>> {
        let mut markers = self.objects.keys("/markers/").await?;
        // Not yet published.
        markers.retain(|key| !key.contains('#'));
        Ok(markers)
    }

    async fn held_restore(&self, name: &str) -> Result<(Daemon, PathBuf)> {
        self.world.make_dir(name)?;
        let dir = self.world.path(&format!("{name}/data"));
        let words = ["--backup", &self.old];
        let restore = self
            .world
            .held_restore(&self.holdfast, &dir, &words, self.bytes / 3)
            .await?;
        ensure!(!self.markers().await?.is_empty(), "it has no marker");
        Ok((restore, dir))
    }
}

#[tokio::test]
async fn what_is_read_stays_until_it_was_read() -> Result<()> {
    World::scenario("readers", async |world| {
        let kept = Kept::make(world).await?;
        let (mut restore, dir) = kept.held_restore("restored").await?;
        kept.ensure_kept(&format!("a restore into {} reads it", dir.display()))
            .await?;
        restore.resume()?;
        let status = restore.wait(Duration::from_secs(300)).await?;
        ensure!(status.success(), "{status}\n{}", restore.tail());
        ensure!(kept.markers().await?.is_empty());
        world.verify_backup(&dir, 17).await?;
        let mut postgres = world.copy_on("restored", 17, &dir)?;
        postgres.start().await?;
        postgres.wait_promoted().await?;
        let all = kept.ledger.expected(1, &Target::Latest, false)?;
        Ledger::compare(&postgres, &all).await?;
        postgres.stop(Shutdown::Fast).await?;

        let mut verify = Daemon::held(
            "holdfast verify",
            &world.path("log/verify.log"),
            || kept.holdfast.command(&["verify"]),
            async || Ok(!kept.markers().await?.is_empty()),
        )
        .await?;
        kept.ensure_kept("a verification reads, and may need it")
            .await?;
        verify.resume()?;
        let status = verify.wait(Duration::from_secs(300)).await?;
        ensure!(status.success(), "{status}\n{}", verify.tail());
        ensure!(kept.markers().await?.is_empty());

        // Nobody reads any more: it is announced, and whoever comes now is too late for it.
        let progress = kept.expire().await?;
        ensure!(
            progress.announced == [kept.old.clone()],
            "{}",
            progress.plan
        );
        let late = world.path("late");
        let to = late.to_string_lossy();
        let nothing = Snapshot::of(&late)?;
        for word in ["--dry-run", "--json"] {
            let refused = kept
                .holdfast
                .run(&["restore", "--to", &to, "--backup", &kept.old, word])
                .await?
                .expect_code(3)?;
            ensure!(
                refused.stderr.contains("is about to be deleted"),
                "{}",
                refused.stderr
            );
        }
        nothing.ensure_unchanged()?;
        let planned = kept.holdfast.restore(&late, &["--dry-run"]).await?;
        ensure!(planned["backup"] == kept.new.as_str(), "{planned:#}");
        let verified = kept.holdfast.verify().await?.success()?;
        ensure!(
            verified
                .stderr
                .contains(&format!("backup {} is about to be deleted", kept.old)),
            "{}",
            verified.stderr
        );
        ensure!(kept.markers().await?.is_empty());
        let progress = kept.expire().await?;
        ensure!(progress.deleted == [kept.old.clone()], "{}", progress.plan);
        kept.ensure_backups(&[&kept.new]).await?;
        kept.holdfast.verify().await?.success()?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_killed_reader_counts_for_a_quarter_of_an_hour() -> Result<()> {
    World::scenario("killed-reader", async |world| {
        let kept = Kept::make(world).await?;
        let (mut restore, dir) = kept.held_restore("restored").await?;
        restore.kill9().await?;
        ensure_not_startable(world, 17, &dir).await?;
        let age = async |minutes: u64| {
            let then = SystemTime::now() - Duration::from_secs(minutes * 60);
            for key in kept.markers().await? {
                let path = kept.folder()?.join("shop/orders").join(key);
                let file = std::fs::File::options().append(true).open(path)?;
                file.set_modified(then)?;
            }
            anyhow::Ok(())
        };
        age(14).await?;
        kept.ensure_kept("reads it").await?;
        kept.ensure_backups(&[&kept.old, &kept.new]).await?;
        age(16).await?;
        kept.expire().await?;
        let progress = kept.expire().await?;
        ensure!(progress.deleted == [kept.old.clone()], "{}", progress.plan);
        kept.ensure_backups(&[&kept.new]).await
    })
    .await
}

#[tokio::test]
async fn who_can_only_read_is_told_and_goes_on() -> Result<()> {
    World::scenario("only-reads", async |world| {
        let kept = Kept::make(world).await?;
        let folder = kept.folder()?;
        let mode = async |mode: &str| {
            let mut chmod = world.command("chmod");
            chmod.args(["-R", mode]).arg(&folder);
            world.run(chmod).await?.success()
        };
        mode("a-w").await?;
        let dir = world.path("restored");
        let restored = kept
            .holdfast
            .run(&["restore", "--json", "--to", &dir.to_string_lossy()])
            .await?;
        let verified = kept.holdfast.verify().await?;
        mode("u+w").await?;
        for output in [restored, verified] {
            let output = output.success()?;
            let told = output.stderr.lines().collect::<Vec<_>>();
            ensure!(
                told.len() == 1 && told[0].contains("grace period"),
                "{}",
                output.stderr
            );
        }
        ensure!(kept.markers().await?.is_empty());
        world.verify_backup(&dir, 17).await
    })
    .await
}
