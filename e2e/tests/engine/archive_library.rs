//! The archive module, loaded into real servers: it archives as archive_command does, and never holds a server up.

use crate::wal::restored_has_all;
use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Holdfast, Ledger, Postgres, Shutdown, World, eventually};
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

/// What the server has logged from there on.
fn logged(postgres: &Postgres, from: usize) -> String {
    postgres.log().get(from..).unwrap_or_default().to_owned()
}

/// Waits until the server has logged this since.
async fn logs(postgres: &Postgres, from: usize, words: &str) -> Result<()> {
    eventually(&format!("it logs {words:?}"), async || {
        let said = logged(postgres, from);
        ensure!(said.contains(words), "{said}");
        Ok(())
    })
    .await
}

/// Its process.
async fn archiver(postgres: &Postgres) -> Result<String> {
    let question = "SELECT pid::text FROM pg_stat_activity WHERE backend_type = 'archiver'";
    postgres.value(question).await
}

async fn failures(postgres: &Postgres) -> Result<String> {
    let question = "SELECT failed_count FROM pg_stat_archiver";
    postgres.value(question).await
}

/// A server whose module asks a sidecar that does not run yet.
async fn server(world: &World, major: u32) -> Result<(Postgres, Holdfast)> {
    let primary = world.postgres("primary", major).create().await?;
    let holdfast = world
        .holdfast("shop/orders", &primary)
        .filesystem("backups")?
        // A walsender, too, would hold a shutdown up for a sidecar that hangs.
        .line("wal: {streaming: {intervalSeconds: 0}}")
        .build()?;
    Ok((primary, holdfast))
}

async fn archives(major: u32, musl: bool) -> Result<()> {
    let name = if musl { "musl" } else { "glibc" };
    World::scenario(&format!("module-{major}-{name}"), async |world| {
        let (mut primary, holdfast) = server(world, major).await?;
        if musl {
            primary.stop(Shutdown::Fast).await?;
            primary.use_musl()?;
            primary.start().await?;
            let version = primary.value("SELECT version()").await?;
            ensure!(version.contains("musl"), "{version}");
        }
        let sidecar = holdfast.sidecar().await?;
        primary.archive_by_module(&holdfast).await?;
        let mut ledger = Ledger::create(&primary).await?;
        holdfast.backup().await?;
        for _ in 0..3 {
            ledger.write(&primary, 10).await?;
            primary.archive_all().await?;
        }
        ensure!(failures(&primary).await? == "0", "{}", primary.tail());
        let module = primary.value("SHOW archive_library").await?;
        let command = primary.value("SHOW archive_command").await?;
        ensure!(command.is_empty() && module.ends_with("holdfast_archive.so"));
        let said = holdfast.run(&["check"]).await?;
        ensure!(said.stdout.contains(&module), "{}", said.stdout);

        // Without a sidecar it says why, and goes on by itself.
        let from = primary.log().len();
        sidecar.kill9().await?;
        ledger.write(&primary, 10).await?;
        primary.execute("SELECT pg_switch_wal()").await?;
        logs(&primary, from, "is not archived: the sidecar's socket").await?;
        let sidecar = holdfast.sidecar().await?;
        primary.archive_all().await?;

        // What can't be configured waits, and where the server asks it is told why.
        let from = primary.log().len();
        primary.configure(&[("holdfast.socket", "")]).await?;
        ledger.write(&primary, 10).await?;
        primary.execute("SELECT pg_switch_wal()").await?;
        logs(&primary, from, "archiving is not configured").await?;
        if major >= 17 {
            logs(&primary, from, "holdfast.socket is empty").await?;
        }
        primary.archive_by_module(&holdfast).await?;
        primary.archive_all().await?;

        // A sidecar that hangs holds up neither a shutdown nor a SIGTERM.
        sidecar.daemon.pause()?;
        ledger.write(&primary, 10).await?;
        primary.execute("SELECT pg_switch_wal()").await?;
        let from = primary.log().len();
        primary.stop(Shutdown::Fast).await?;
        let said = logged(&primary, from);
        ensure!(said.matches("is not archived").count() == 1, "{said}");
        ensure!(said.contains("is shutting down, and nothing"), "{said}");
        ensure!(said.contains("database system is shut down"), "{said}");
        primary.start().await?;
        let from = primary.log().len();
        let archiver = eventually("there is an archiver", async || archiver(&primary).await);
        let archiver = archiver.await?;
        // Nor what all processes have to take note of.
        primary.execute("CREATE DATABASE fleeting").await?;
        primary.execute("DROP DATABASE fleeting").await?;
        let said = logged(&primary, from);
        ensure!(!said.contains("is not archived"), "{said}");
        eventually("it takes note of SIGTERM", async || {
            let mut terminate = world.command("kill");
            terminate.args(["-TERM", &archiver]);
            world.run(terminate).await?.success()?;
            let said = logged(&primary, from);
            ensure!(said.contains("is not waited for any longer"), "{said}");
            Ok(())
        })
        .await?;
        primary.stop(Shutdown::Immediate).await?;
        sidecar.kill9().await?;

        // What waited is archived by the next start.
        primary.start().await?;
        let sidecar = holdfast.sidecar().await?;
        primary.archive_all().await?;
        ledger.read_wal(&primary).await?;
        restored_has_all(world, major, &holdfast, &ledger, 1).await?;
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn archived_by_postgres_15() -> Result<()> {
    archives(15, false).await
}

#[tokio::test]
async fn archived_by_postgres_16() -> Result<()> {
    archives(16, false).await
}

#[tokio::test]
async fn archived_by_postgres_17() -> Result<()> {
    archives(17, false).await
}

#[tokio::test]
async fn archived_by_postgres_18() -> Result<()> {
    archives(18, false).await
}

#[tokio::test]
async fn archived_by_postgres_17_on_musl() -> Result<()> {
    archives(17, true).await
}

/// In kB, of what a process has for itself (proc_pid_status(5)).
fn own_memory(pid: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let line = line.context("RssAnon")?.trim();
    Ok(line.strip_suffix(" kB").context("kB")?.parse()?)
}

/// Somebody answers at once, for no sidecar could store so many within a test.
#[tokio::test]
#[ignore = "takes minutes: make soak"]
async fn a_hundred_thousand_files_take_no_memory() -> Result<()> {
    const FILES: u32 = 100_000;
    World::scenario("many", async |world| {
        let (primary, holdfast) = server(world, 17).await?;
        let folder = holdfast.socket().parent().context("a folder")?.to_owned();
        std::fs::create_dir_all(folder)?;
        let listener = UnixListener::bind(holdfast.socket())?;
        std::fs::set_permissions(holdfast.socket(), Permissions::from_mode(0o777))?;
        let answered = Arc::new(AtomicU32::new(0));
        let answers = answered.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut line = String::new();
                let _ = BufReader::new(&mut stream).read_line(&mut line).await;
                let _ = stream.write_all(b"WAIT a moment\nOK\n").await;
                answers.fetch_add(1, Ordering::Relaxed);
            }
        });
        let owner = std::fs::metadata(primary.dir())?;
        let wal = primary.dir().join("pg_wal");
        for number in 0..FILES {
            let name = format!("{:08X}.history", number + 2);
            for path in [
                wal.join(&name),
                wal.join(format!("archive_status/{name}.ready")),
            ] {
                std::fs::write(&path, "")?;
                std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid()))?;
            }
        }
        primary.archive_by_module(&holdfast).await?;
        let until = async |files: u32| {
            while answered.load(Ordering::Relaxed) < files {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            archiver(&primary).await
        };
        let archiver = until(FILES / 100).await?;
        let before = own_memory(&archiver)?;
        ensure!(until(FILES).await? == archiver, "{}", primary.tail());
        let after = own_memory(&archiver)?;
        ensure!(after <= before + 256, "{before} kB became {after} kB");
        Ok(())
    })
    .await
}
