//! The harness itself: what every scenario stands on.

use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use holdfast_e2e::ledger::{What, both_readers};
use holdfast_e2e::{Ledger, Minio, Postgres, Shutdown, Target, World, eventually};
use object_store::{ObjectStore, ObjectStoreExt, PutMode};
use tokio::io::{AsyncBufReadExt, BufReader};

/// A primary with pg_wal elsewhere and a tablespace, its standby, a promotion, and the ledger through it all.
async fn major(major: u32, segment_mib: u32) -> Result<()> {
    World::scenario(&format!("harness-{major}"), async |world| {
        let mut primary = world
            .postgres("primary", major)
            .segment_mib(segment_mib)
            .wal_elsewhere()
            .create()
            .await?;
        ensure!(
            primary
                .value("SHOW server_version_num")
                .await?
                .starts_with(&major.to_string())
        );
        ensure!(primary.value("SHOW wal_segment_size").await? == format!("{segment_mib}MB"));
        ensure!(primary.value("SHOW data_checksums").await? == "on");
        let (oid, folder) = primary.tablespace("space").await?;
        ensure!(primary.dir().join(format!("pg_tblspc/{oid}")).read_link()? == folder);

        let mut ledger = Ledger::create_in(&primary, "space").await?;
        let load = ledger.start(&primary, 3).await?;
        let mut standby = primary.standby("standby").await?;
        primary.pgbench(&["-i", "-s", "1", "-q"]).await?;
        primary.restore_point("halfway").await?;
        load.stop().await?;
        ledger.write(&primary, 20).await?;
        ledger.read_wal(&primary).await?;
        standby.wait_replayed(&primary.lsn().await?).await?;

        let before = ledger.expected(1, &Target::Latest, false)?;
        ensure!(before.len() > 20, "only {} rows", before.len());
        Ledger::compare(&primary, &before).await?;
        Ledger::compare(&standby, &before).await?;
        let halfway = ledger.expected(1, &Target::Name("halfway".into()), false)?;
        ensure!(!halfway.is_empty() && halfway.len() < before.len());
        ensure!(Ledger::compare(&standby, &halfway).await.is_err());
        let commits = ledger.commits(1)?;
        let middle = commits.get(commits.len() / 2).context("commits")?;
        let to_xid = ledger.expected(1, &Target::Xid(middle.xid), false)?;
        ensure!(to_xid == ledger.expected(1, &Target::Lsn(middle.lsn), false)?);
        ensure!(to_xid.len() > ledger.expected(1, &Target::Xid(middle.xid), true)?.len());

        // Nobody asks the primary about these any more: the ledger has them from who recovered its WAL.
        ledger.write(&primary, 5).await?;
        standby.wait_replayed(&primary.lsn().await?).await?;
        primary.kill9().await?;
        standby.promote().await?;
        ensure!(standby.timeline().await? == 2);
        ledger.write(&standby, 20).await?;
        ledger.read_wal(&standby).await?;
        let all = ledger.expected(2, &Target::Latest, false)?;
        Ledger::compare(&standby, &all).await?;
        let of_the_first = ledger.expected(1, &Target::Latest, false)?;
        ensure!(before.len() < of_the_first.len() && of_the_first.len() < all.len());
        standby.amcheck().await?;

        standby.stop(Shutdown::Immediate).await?;
        standby.start().await?;
        Ledger::compare(&standby, &all).await
    })
    .await
}

#[tokio::test]
async fn postgres_14() -> Result<()> {
    major(14, 16).await
}

#[tokio::test]
async fn postgres_15() -> Result<()> {
    major(15, 1).await
}

#[tokio::test]
async fn postgres_16() -> Result<()> {
    major(16, 16).await
}

#[tokio::test]
async fn postgres_17() -> Result<()> {
    major(17, 64).await
}

#[tokio::test]
async fn postgres_18() -> Result<()> {
    major(18, 1).await
}

/// Two ways to the same events: pg_walinspect, and our own reader, which the ledger needs for 14.
#[tokio::test]
async fn both_readers_of_wal_see_the_same_events() -> Result<()> {
    World::scenario("readers", async |world| {
        let postgres = world
            .postgres("primary", 17)
            .segment_mib(1)
            .create()
            .await?;
        let mut ledger = Ledger::create(&postgres).await?;
        let from = postgres.lsn().await?;
        let load = ledger.start(&postgres, 3).await?;
        postgres.execute("CREATE TABLE t (i int)").await?;
        postgres.restore_point("here").await?;
        postgres
            .execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'p'")
            .await?;
        ledger.write(&postgres, 200).await?;
        postgres.execute("COMMIT PREPARED 'p'").await?;
        load.stop().await?;
        ledger.read_wal(&postgres).await?;
        let to = postgres.value("SELECT pg_current_wal_flush_lsn()").await?;
        let (inspected, read) = both_readers(&postgres, &from, &to).await?;
        ensure!(
            inspected
                .iter()
                .any(|event| event.what == What::RestorePoint("here".into()))
        );
        ensure!(inspected.len() > 200);
        for (inspected, read) in inspected.iter().zip(&read) {
            // The first record that was read has no known predecessor; walinspect does not tell a restore point's time.
            ensure!(
                inspected == read || read.previous.0 == 0,
                "{inspected:?} differs from {read:?}"
            );
        }
        ensure!(
            inspected.len() == read.len(),
            "{} and {} events",
            inspected.len(),
            read.len()
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn servers_take_settings_and_recover_from_a_copy() -> Result<()> {
    World::scenario("copy", async |world| {
        let mut postgres = world
            .postgres("one", 17)
            .checksums(false)
            .set("work_mem", "5MB")
            .create()
            .await?;
        ensure!(postgres.value("SHOW data_checksums").await? == "off");
        ensure!(postgres.value("SHOW work_mem").await? == "5MB");
        postgres.configure(&[("work_mem", "6MB")]).await?;
        ensure!(postgres.value("SHOW work_mem").await? == "6MB");
        postgres
            .execute("CREATE TABLE t AS SELECT generate_series(1, 10) AS i")
            .await?;
        postgres.stop(Shutdown::Fast).await?;
        let mut cp = world.command("cp");
        world.make_dir("two")?;
        cp.arg("-a").arg(postgres.dir()).arg(world.path("two/data"));
        world.run(cp).await?.success()?;
        let mut copy: Postgres = world.postgres_on("two", 17, &world.path("two/data"))?;
        copy.option("work_mem", "7MB");
        postgres.start().await?;
        copy.start().await?;
        ensure!(copy.value("SHOW work_mem").await? == "7MB");
        ensure!(copy.value("SELECT count(*) FROM t").await? == "10");
        // What is no data directory ends at once, and says so.
        let empty = world.make_dir("three/data")?;
        let failed = world.postgres_on("three", 17, &empty)?.start().await;
        ensure!(
            format!("{:?}", failed).contains("could not access the server configuration file"),
            "{failed:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn minio_is_an_s3_that_can_go_away() -> Result<()> {
    World::scenario("minio", async |world| {
        let mut minio = Minio::start(world).await?;
        let bucket = minio.bucket("one")?;
        let store = bucket.store()?;
        let path = "a/b".into();
        store.put(&path, "content".into()).await?;
        let again = store
            .put_opts(&path, "other".into(), PutMode::Create.into())
            .await;
        ensure!(
            matches!(again, Err(object_store::Error::AlreadyExists { .. })),
            "{again:?}"
        );
        ensure!(
            minio
                .bucket("two")?
                .store()?
                .put(&path, "late".into())
                .await
                .is_ok()
        );

        minio.stop().await?;
        ensure!(
            tokio::net::TcpStream::connect(minio.endpoint().trim_start_matches("http://"))
                .await
                .is_err()
        );
        minio.restart().await?;
        bucket.wait().await?;
        ensure!(store.get(&path).await?.bytes().await? == "content");
        minio.daemon()?.pause()?;
        minio.daemon()?.resume()?;
        ensure!(store.head(&path).await.is_ok());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn minio_speaks_tls() -> Result<()> {
    World::scenario("minio-tls", async |world| {
        let minio = Minio::start_tls(world).await?;
        ensure!(minio.endpoint().starts_with("https://"));
        let certificate = std::fs::read_to_string(minio.certificate().context("a certificate")?)?;
        ensure!(certificate.starts_with("-----BEGIN CERTIFICATE"));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn debian_programs_run_as_the_world_s_user() -> Result<()> {
    World::scenario("programs", async |world| {
        for (major, names) in [
            (
                17,
                &[
                    "pg_verifybackup",
                    "pg_waldump",
                    "pg_amcheck",
                    "pgbench",
                    "psql",
                ][..],
            ),
            (18, &["pg_verifybackup", "pg_waldump"][..]),
        ] {
            for name in names {
                let mut command = world.command(world.client_program(name, major)?);
                command.arg("--version");
                let output = world.run(command).await?.success()?;
                ensure!(
                    output.stdout.contains(&format!(" {major}.")),
                    "{name}: {}",
                    output.stdout
                );
            }
        }
        let mut id = world.command("id");
        id.arg("-u");
        let output = world.run(id).await?.success()?;
        ensure!(output.stdout.trim() != "0", "programs must not run as root");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_full_disk_is_full() -> Result<()> {
    World::scenario("disk", async |world| {
        let disk = world.small_disk("disk", 1).await?;
        let mut dd = world.command("dd");
        dd.args(["if=/dev/zero", "bs=1M", "count=2"])
            .arg(format!("of={}", disk.join("file").display()));
        let output = world.run(dd).await?.expect_code(1)?;
        ensure!(output.stderr.contains("No space left"), "{}", output.stderr);
        Ok(())
    })
    .await
}

/// Runs itself as a victim, kills that with SIGKILL, and looks for what is left.
#[tokio::test]
async fn a_killed_test_leaves_nothing() -> Result<()> {
    const NAME: &str = "harness::a_killed_test_leaves_nothing";
    const ROLE: &str = "HOLDFAST_E2E_VICTIM";
    if std::env::var_os(ROLE).is_some() {
        let world = World::new("victim")?;
        let mut primary = world.postgres("primary", 17).create().await?;
        let standby = primary.standby("standby").await?;
        let mut minio = Minio::start(&world).await?;
        minio.daemon()?.pause()?;
        primary.stop(Shutdown::Fast).await?;
        let pid = standby.pid().context("the standby runs")?;
        println!("\nvictim {} {} {pid}", world.id(), world.dir().display());
        std::future::pending::<()>().await;
    }
    let mut victim = tokio::process::Command::new(std::env::current_exe()?)
        .args(["--exact", NAME, "--nocapture"])
        .env(ROLE, "1")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(victim.stdout.take().context("piped")?).lines();
    let line = loop {
        let line = lines.next_line().await?.context("the victim ended early")?;
        if let Some(rest) = line.strip_prefix("victim ") {
            break rest.to_owned();
        }
    };
    let [id, dir, pid] = line.split(' ').collect::<Vec<_>>()[..] else {
        bail!("the victim said {line}");
    };
    ensure!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    let owner = std::fs::metadata(dir)?.uid().to_string();
    let before = shared_memory()?;
    victim.kill().await?;
    eventually("the directory is gone", async || {
        ensure!(!std::path::Path::new(dir).exists());
        Ok(())
    })
    .await?;
    for process in std::fs::read_dir("/proc")? {
        let process = process?.path();
        let environment = std::fs::read(process.join("environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment);
        ensure!(
            !environment.contains(&format!("HOLDFAST_TEST_ID={id}\0")),
            "{} is left",
            process.display()
        );
        let cwd = std::fs::read_link(process.join("cwd")).unwrap_or_default();
        ensure!(!cwd.starts_with(dir), "{} is left", process.display());
    }
    // A user of its own, which only root can give, tells the victim's shared memory from others'.
    if owner != rustix::process::geteuid().as_raw().to_string() {
        ensure!(
            before.contains(&owner),
            "the victim's servers had no shared memory"
        );
        ensure!(!shared_memory()?.contains(&owner), "shared memory is left");
    }
    Ok(())
}

/// The users that own System V shared memory.
fn shared_memory() -> Result<Vec<String>> {
    Ok(std::fs::read_to_string("/proc/sysvipc/shm")?
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().nth(7).map(str::to_owned))
        .collect())
}
