//! The last of the WAL: what a server that has stopped could not hand over any more is archived by its sidecar.
//!
//! In a pod the sidecar ends after Postgres. A server that is shut down gives its archiver up at the first failure, and
//! one that is killed has none: what is marked `.ready` by then would wait for the server's next start, which may never
//! come. Archiving it from here does no harm, whoever does it again: objects are created and never replaced. The marks
//! stay, for the data directory is not ours to write.

use crate::archive::Archiver;
use crate::config::Settings;
use crate::data_directory;
use crate::queue::{MOST_ENTRIES, Queue};
use crate::report::on_the_server;
use holdfast_postgres::WalFileName;
use holdfast_repository::blocking;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

const PAUSE: Duration = Duration::from_secs(1);

/// Whether a server's archiver will hand its WAL over itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    /// It answers, and be it that it is starting or stopping.
    Lives,
    /// Nobody answers where it was.
    Silent,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Files that are in the repository now, or gone.
    pub archived: usize,
    /// Files that still wait.
    pub left: usize,
}

/// Archives what a stopped server has left behind, in its order, until `grace` is over; none: until it is killed. Files
/// after one that can't be archived are left alone: the archive must not have a gap.
pub async fn run(
    settings: &Arc<Settings>,
    archiver: &Archiver,
    grace: Option<Duration>,
) -> Option<Drained> {
    let pid_file = settings.postgres.data_directory.join("postmaster.pid");
    let pid_file = pid_file.try_exists().unwrap_or(true);
    // Who has no file is not asked.
    if pid_file && !is_left_alone(pid_file, ask(settings).await) {
        return None;
    }
    let looked = {
        let directory = settings.postgres.data_directory.clone();
        blocking(move || Queue::look(&directory, MOST_ENTRIES)).await
    };
    let names = match looked {
        Ok(queue) => queue.names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(%error, "can't tell what WAL Postgres has left behind");
            return None;
        }
    };
    if names.is_empty() {
        return None;
    }
    tracing::info!(
        files = names.len(),
        "Postgres has stopped: archiving what it has left behind"
    );
    let all = names.len();
    let mut archived = 0;
    let work = async {
        for name in names {
            if !one(settings, archiver, name).await {
                break;
            }
            archived += 1;
        }
    };
    match grace {
        None => work.await,
        Some(grace) => {
            // Cut off where it stands, which is safe: see `Archiver::archive`.
            let _ = timeout_at(Instant::now() + grace, work).await;
        }
    }
    let drained = Drained {
        archived,
        left: all - archived,
    };
    if drained.left > 0 {
        tracing::warn!(
            archived,
            left = drained.left,
            "WAL that Postgres has left behind is not archived: it is when Postgres runs again"
        );
    }
    Some(drained)
}

/// Until it is archived, or can't be. A mark without its file is an orphan, which Postgres forgets, too.
async fn one(settings: &Settings, archiver: &Archiver, name: WalFileName) -> bool {
    if let Ok(None) = data_directory::find_wal_file(&settings.postgres.data_directory, &name) {
        return true;
    }
    loop {
        match archiver.archive_left_behind(name).await {
            Ok(_) => return true,
            Err(error) if error.is_permanent() => {
                tracing::warn!(%name, %error, "not archived");
                return false;
            }
            Err(error) => {
                tracing::info!(%name, %error, "archiving is tried again");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Whether nobody but us will archive what waits. The file that a server removes at its end decides; one that was
/// killed leaves it, and then nobody answers either.
fn is_left_alone(pid_file: bool, server: Server) -> bool {
    !pid_file || server == Server::Silent
}

async fn ask(settings: &Settings) -> Server {
    match on_the_server(settings, async |_| Ok(())).await {
        Err(no_answer) if no_answer.silent => Server::Silent,
        Ok(()) | Err(_) => Server::Lives,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal_bench::{Bench, IN_PRODUCTION};
    use holdfast_repository::wal::sample::Fill;
    use std::fs;

    const SHUT_DOWN: u32 = 1;

    #[test]
    fn a_server_that_lives_archives_by_itself() {
        for (pid_file, server, alone) in [
            (false, Server::Silent, true),
            // Another's: this directory's would have a file.
            (false, Server::Lives, true),
            (true, Server::Silent, true),
            (true, Server::Lives, false),
        ] {
            assert_eq!(is_left_alone(pid_file, server), alone);
        }
    }

    /// Segments 3 to `last`, marked.
    fn left_behind(last: u64) -> (Bench, Archiver) {
        let bench = Bench::new();
        bench.control(1, SHUT_DOWN);
        fs::create_dir(bench.data().join("pg_wal/archive_status")).unwrap();
        for number in 3..=last {
            bench.segment(1, number, Fill::Whole);
            mark(&bench, number);
        }
        let archiver = Archiver::new(bench.settings());
        (bench, archiver)
    }

    fn mark(bench: &Bench, number: u64) {
        let name = format!("pg_wal/archive_status/{}.ready", bench.name(1, number));
        fs::write(bench.data().join(name), "").unwrap();
    }

    #[tokio::test]
    async fn what_is_marked_is_archived_in_order() {
        let (bench, archiver) = left_behind(6);
        // Marked, and gone.
        mark(&bench, 2);
        // Not marked, as the segment that was being written.
        bench.segment(1, 7, Fill::Whole);
        let drained = run(&bench.settings(), &archiver, None).await.unwrap();
        assert_eq!((drained.archived, drained.left), (5, 0));
        for number in 3..=6 {
            assert!(bench.segment_object(1, number).exists());
        }
        assert!(!bench.segment_object(1, 7).exists());
        // Once more, as the server does when it starts.
        let drained = run(&bench.settings(), &archiver, None).await.unwrap();
        assert_eq!((drained.archived, drained.left), (5, 0));
    }

    #[tokio::test]
    async fn what_cannot_be_archived_ends_it_without_a_gap() {
        let (bench, archiver) = left_behind(6);
        let broken = bench
            .data()
            .join("pg_wal")
            .join(bench.name(1, 5).to_string());
        fs::write(broken, "short").unwrap();
        let drained = run(&bench.settings(), &archiver, None).await.unwrap();
        assert_eq!((drained.archived, drained.left), (2, 2));
        assert!(!bench.segment_object(1, 6).exists());
    }

    #[tokio::test]
    async fn a_store_that_is_away_costs_the_grace_period_and_no_more() {
        let (bench, archiver) = left_behind(4);
        fs::rename(bench.path("store"), bench.path("away")).unwrap();
        fs::write(bench.path("store"), "in the way").unwrap();
        let begun = Instant::now();
        let grace = Some(Duration::from_millis(300));
        let drained = run(&bench.settings(), &archiver, grace).await.unwrap();
        assert_eq!((drained.archived, drained.left), (0, 2));
        assert!(begun.elapsed() < Duration::from_secs(4));
    }

    #[tokio::test]
    async fn nothing_is_done_beside_a_server_that_lives_or_left_nothing() {
        let (bench, archiver) = left_behind(2);
        assert_eq!(run(&bench.settings(), &archiver, None).await, None);
        fs::remove_dir_all(bench.data().join("pg_wal/archive_status")).unwrap();
        assert_eq!(run(&bench.settings(), &archiver, None).await, None);
        // Killed: the file is still there, and nobody answers.
        let (bench, archiver) = left_behind(3);
        bench.control(1, IN_PRODUCTION);
        fs::write(bench.data().join("postmaster.pid"), "1").unwrap();
        let drained = run(&bench.settings(), &archiver, None).await.unwrap();
        assert_eq!(drained.archived, 1);
    }
}
