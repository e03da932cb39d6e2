//! What the operator orders before and during a restore in place: that everything is archived, and that the restore which
//! the settings hold may begin.

use crate::archive::{Archiver, NotArchived};
use crate::config::Live;
use crate::control::OrderError;
use crate::exit::{ExitClass, Failure};
use crate::report::{NoAnswer, on_the_server};
use crate::restore::destination::{self, State};
use holdfast_postgres::Lsn;
use holdfast_protocol::control::Drain;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinHandle;

/// The answer to `ORDER` on the socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LetGo {
    /// The order that may be carried out; none: none was let go since this program's start.
    pub order: Option<String>,
}

/// Shared by the control API and the socket.
pub struct Orders {
    settings: Live,
    archiver: Arc<Archiver>,
    let_go: Mutex<Option<String>>,
    drain: Mutex<Option<Draining>>,
    /// What the last drain ended with, until one ends well.
    trouble: Mutex<Option<String>>,
}

/// A drain that is under way, or whose end nobody was told.
struct Draining {
    begun: Timestamp,
    files: Arc<AtomicU64>,
    work: JoinHandle<Result<Option<Lsn>, String>>,
}

/// What the server beside this program is, as far as draining is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    /// It has closed its segment here.
    Closed(Lsn),
    /// What it replays comes from a primary or an archive, which have it.
    Standby,
    /// It can't be asked: the data directory is all there is.
    Gone,
}

impl Orders {
    /// Nothing was ordered.
    pub fn new(settings: Live, archiver: Arc<Archiver>) -> Self {
        Self {
            settings,
            archiver,
            let_go: Mutex::default(),
            drain: Mutex::default(),
            trouble: Mutex::default(),
        }
    }

    /// What was let go.
    pub fn let_go(&self) -> LetGo {
        LetGo {
            order: lock(&self.let_go).clone(),
        }
    }

    /// Lets the order go that the settings hold. It is forgotten when this program ends, and may be said again.
    pub fn go(&self, order: &str) -> Result<(), OrderError> {
        let settings = self.settings.get();
        match &settings.order {
            Some(known) if known.id == order => {
                *lock(&self.let_go) = Some(order.to_owned());
                Ok(())
            }
            Some(known) => Err(OrderError::Busy(format!(
                "the settings hold the order {:?} and not {order:?}: newer ones arrive within two minutes",
                known.id
            ))),
            None => Err(OrderError::Busy(
                "the settings hold no order of a restore: newer ones arrive within two minutes"
                    .to_owned(),
            )),
        }
    }

    /// Begins to archive what the data directory has and the archive lacks, unless that is under way, and tells how far
    /// it is. An end is told once: whoever asks after it begins anew.
    pub async fn drain(&self) -> Drain {
        let ended = {
            let mut drain = lock(&self.drain);
            let draining = drain.get_or_insert_with(|| self.begin());
            let archived = draining.files.load(Ordering::Relaxed);
            if !draining.work.is_finished() {
                let failure = self.archiver.progress().last_failure;
                let ours = failure.filter(|(_, _, time)| *time >= draining.begun);
                return Drain {
                    archived,
                    retrying: ours
                        .map(|(name, why, _)| format!("{name}: {why}"))
                        .or_else(|| lock(&self.trouble).clone()),
                    ..Drain::default()
                };
            }
            drain.take().map(|draining| (draining.work, archived))
        };
        let Some((work, archived)) = ended else {
            return Drain::default();
        };
        let done = work.await;
        if let Ok(done) = &done {
            *lock(&self.trouble) = done.as_ref().err().cloned();
        }
        match done {
            Ok(Ok(through)) => Drain {
                done: true,
                archived,
                through: through.map(|lsn| lsn.to_string()),
                ..Drain::default()
            },
            Ok(Err(trouble)) => Drain {
                archived,
                trouble: Some(trouble),
                ..Drain::default()
            },
            Err(_) => Drain {
                trouble: Some("the program is ending".to_owned()),
                ..Drain::default()
            },
        }
    }

    fn begin(&self) -> Draining {
        let files = Arc::new(AtomicU64::new(0));
        let work = {
            let (settings, archiver, files) =
                (self.settings.clone(), self.archiver.clone(), files.clone());
            tokio::spawn(async move {
                let told =
                    |error: NotArchived| Failure::from_error(ExitClass::Failed, &error).message;
                // What a restore has left that has not ended holds nothing that could be lost.
                if is_unfinished(&settings) {
                    return Ok(None);
                }
                match close_segment(&settings).await {
                    Server::Standby => Ok(None),
                    Server::Closed(end) => {
                        archiver
                            .archive_rest(Some(end), &files)
                            .await
                            .map_err(told)?;
                        Ok(Some(end))
                    }
                    Server::Gone => archiver.archive_rest(None, &files).await.map_err(told),
                }
            })
        };
        Draining {
            begun: Timestamp::now(),
            files,
            work,
        }
    }
}

fn is_unfinished(settings: &Live) -> bool {
    let directory = &settings.get().postgres.data_directory;
    matches!(destination::observe_root(directory), Ok(State::Unfinished))
}

async fn close_segment(settings: &Live) -> Server {
    let settings = settings.get();
    let asked = on_the_server(&settings, async |server| {
        if server.settings().await?.in_recovery {
            return Ok(Server::Standby);
        }
        server.switch_wal().await.map(Server::Closed)
    });
    match asked.await {
        Ok(server) => server,
        // Also one that is starting or ending, or lets nobody in: what it writes yet is stored before its directory is
        // replaced.
        Err(NoAnswer { why, .. }) => {
            tracing::info!(why, "the data directory is drained without its server");
            Server::Gone
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain values, whole whatever happened to who held them.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal_bench::Bench;
    use holdfast_repository::wal::sample::Fill;
    use std::fs;
    use std::time::Duration;

    async fn drained(orders: &Orders) -> Drain {
        loop {
            let drain = orders.drain().await;
            if drain.done || drain.trouble.is_some() {
                return drain;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn orders(bench: &Bench, more: &str) -> Orders {
        let settings: Live = bench.settings_with("shop/orders", more).into();
        Orders::new(settings.clone(), Arc::new(Archiver::new(settings)))
    }

    const ORDER: &str = "bootstrap: {order: {id: a1, pod: orders-0, wiped: [], systemIdentifier: '7', repository: main, target: {latest: {}}, action: Promote}}\n";

    #[test]
    fn only_the_order_of_the_settings_is_let_go() {
        let bench = Bench::new();
        let none = orders(&bench, "");
        assert!(matches!(none.go("a1"), Err(OrderError::Busy(_))));
        let orders = orders(&bench, ORDER);
        assert_eq!(orders.let_go(), LetGo::default());
        assert!(matches!(orders.go("a2"), Err(OrderError::Busy(_))));
        assert_eq!(orders.let_go().order, None);
        orders.go("a1").unwrap();
        orders.go("a1").unwrap();
        assert_eq!(orders.let_go().order.as_deref(), Some("a1"));
    }

    #[tokio::test]
    async fn a_server_that_is_gone_leaves_everything_to_the_archive() {
        let bench = Bench::new();
        for number in 3..=4 {
            bench.segment(1, number, Fill::Whole);
        }
        let first = orders(&bench, "");
        // Where the last checkpoint would be, there is nothing.
        let drain = drained(&first).await;
        assert!(!drain.done);
        let why = drain.trouble.unwrap();
        assert!(why.contains("is damaged or missing"), "{why}");
        // It is told while the next one is under way, too.
        assert_eq!(first.drain().await.retrying, Some(why));
        drained(&first).await;
        for number in 0..=2 {
            bench.segment(1, number, Fill::Whole);
        }
        // One that can't be read is no end of the WAL.
        let broken = bench.path("data/pg_wal").join(bench.name(1, 2).to_string());
        let whole = fs::read(&broken).unwrap();
        let mut damaged = whole.clone();
        damaged[300_000..400_000].fill(7);
        for content in [&damaged, &whole[..1000].to_vec(), &Vec::new()] {
            fs::write(&broken, content).unwrap();
            let drain = drained(&first).await;
            assert!(!drain.done && drain.trouble.is_some(), "{drain:?}");
        }
        fs::write(&broken, whole).unwrap();
        let drain = drained(&first).await;
        assert!(drain.done, "{drain:?}");
        assert!(bench.segment_object(1, 4).exists());
        // What a killed restore has left.
        fs::remove_file(bench.path("data/global/pg_control")).unwrap();
        assert!(!drained(&first).await.done);
        fs::write(bench.path("data").join(destination::MARKER), "").unwrap();
        assert!(drained(&first).await.done);
    }

    #[tokio::test]
    async fn what_a_drain_tries_again_is_told_meanwhile() {
        let bench = Bench::new();
        for number in 0..=2 {
            bench.segment(1, number, Fill::Whole);
        }
        let status = bench.path("data/pg_wal/archive_status");
        fs::create_dir(&status).unwrap();
        fs::write(status.join(format!("{}.ready", bench.name(1, 0))), "").unwrap();
        fs::remove_dir(bench.path("store")).unwrap();
        fs::write(bench.path("store"), "in the way").unwrap();
        let orders = orders(&bench, "");
        let why = loop {
            let drain = orders.drain().await;
            assert!(!drain.done && drain.trouble.is_none(), "{drain:?}");
            if let Some(why) = drain.retrying {
                break why;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert!(why.contains(&bench.name(1, 0).to_string()), "{why}");
    }
}
