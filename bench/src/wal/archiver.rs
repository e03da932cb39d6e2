//! WAL that waits, handed over by a real server's archiver: the same one for a command and for a module.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Postgres, Shutdown, World};
use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use tokio::sync::oneshot;

use crate::measure::{Run, has_archiver, watched};

/// An archiver that fails waits between tries, and so a hang is told by the calls, not by this.
const PATIENCE: Duration = Duration::from_secs(900);

/// Marks the segments as waiting, starts the server with these settings, and waits until each mark says `done`. The run is from
/// when there is an archiver until then, the calls from one mark to the next. The server goes on running.
pub async fn drain(
    world: &World,
    postgres: &mut Postgres,
    settings: &[(&str, &str)],
    words: &[&'static str],
    segments: &[String],
) -> Result<(Run, Vec<f64>)> {
    // Not a clean one, which would close a segment and archive it.
    if postgres.is_running()? {
        postgres.stop(Shutdown::Immediate).await?;
    }
    let status = postgres.dir().join("pg_wal/archive_status");
    for name in segments {
        let mark = |end: &str| status.join(format!("{name}.{end}"));
        std::fs::rename(mark("done"), mark("ready")).with_context(|| format!("marking {name}"))?;
    }
    for (name, value) in settings {
        postgres.option(name, value);
    }
    let marks = marks(&status, segments)?;
    let (mut begun, mut times) = (Instant::now(), Vec::new());
    let mut run = watched(world, words, async {
        postgres.launch()?;
        while !has_archiver(world.user()) {
            ensure!(postgres.is_running()?, "{}", postgres.tail());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        begun = Instant::now();
        times = tokio::time::timeout(PATIENCE, marks)
            .await
            .with_context(|| format!("WAL still waits\n{}", postgres.tail()))???;
        Ok(())
    })
    .await?;
    let mut calls = Vec::new();
    let mut before = begun;
    for at in times {
        calls.push((at - before).as_secs_f64());
        before = at;
    }
    run.seconds = (before - begun).as_secs_f64();
    postgres.wait_ready().await?;
    let failed = "SELECT failed_count FROM pg_stat_archiver";
    let failed = postgres.value(failed).await?;
    ensure!(failed == "0", "{failed} calls failed\n{}", postgres.tail());
    Ok((run, calls))
}

/// When each mark said `done`, as the archiver does it. A thread waits, for a look now and then would come too late for calls that
/// take a millisecond; where they never all do it ends with the world's directory.
fn marks(status: &Path, segments: &[String]) -> Result<oneshot::Receiver<Result<Vec<Instant>>>> {
    let events = init(CreateFlags::CLOEXEC)?;
    add_watch(&events, status, WatchFlags::MOVED_TO)?;
    let waiting = segments.iter().map(|name| format!("{name}.done")).collect();
    let (send, receive) = oneshot::channel();
    // Nobody listens any longer where something else has failed.
    std::thread::spawn(move || drop(send.send(all_done(events, waiting))));
    Ok(receive)
}

fn all_done(events: OwnedFd, mut waiting: BTreeSet<String>) -> Result<Vec<Instant>> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = Reader::new(events, &mut buffer);
    let mut times = Vec::new();
    while !waiting.is_empty() {
        let event = events.next()?;
        ensure!(
            !event.events().contains(ReadFlags::IGNORED),
            "the marks are gone"
        );
        let name = event.file_name().map(|name| name.to_string_lossy());
        if name.is_some_and(|name| waiting.remove(&*name)) {
            times.push(Instant::now());
        }
    }
    Ok(times)
}
