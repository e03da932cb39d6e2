//! `holdfast bootstrap`: runs in a pod before Postgres does. Usually it says what data directory it finds, and changes
//! nothing; an empty one it restores, where the settings say from what; and it carries out the order of a restore in place.
//!
//! What is done follows from what stands there and in the settings alone ([`decide`], [`ordered`]), looked at anew each
//! time: so whatever ends it, the next one goes on.

mod decide;
mod in_place;
mod ordered;
mod told;
mod tries;

pub use told::reported;

use crate::commands;
use crate::config::{self, Overrides, Recovery, Repository, RestoreOrder, Settings};
use crate::data_directory::{self, DataDirectoryError};
use crate::environment::Environment;
use crate::exit::{ExitClass, Failure};
use crate::histories;
use crate::open::{self, ArchiveError};
use crate::orders::LetGo;
use crate::origin::Origin;
use crate::progress::Counters;
use crate::restore::destination::{self, State};
use crate::restore::prepare::{Wanted, prepare};
use crate::socket;
use decide::{Decision, Found, Held, Place, Seen, decide};
use holdfast_postgres::TimelineId;
use holdfast_repository::OpenError;
use ordered::Ordered;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use told::Told;
use tries::Tries;

/// Between two times that progress is told.
const TOLD_EVERY: Duration = Duration::from_secs(2);
/// Between two looks at an order that waits, be it for its next try.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Of the pod, by Kubernetes: its number in a StatefulSet; empty elsewhere.
const INDEX_VARIABLE: &str = "HOLDFAST_POD_INDEX";

/// Of the pod, by its annotation: `true` lets an old primary start without its WAL having been stored.
const SKIP_DRAIN_VARIABLE: &str = "HOLDFAST_SKIP_DRAIN";

/// Where `pg_wal` of a directory that was empty leads to as a link, as `initdb --waldir` has it; empty: it is a directory.
const WAL_DIRECTORY_VARIABLE: &str = "HOLDFAST_WAL_DIRECTORY";

/// What a look has led to.
enum Next {
    /// Postgres may start.
    Start,
    /// It is looked at again.
    Again,
}

/// Returns once Postgres may start, or when it is told to end. The settings are needed only where the environment names
/// no data directory, or where it is not a database: what else is wrong with them is the sidecar's to tell, and must not
/// keep Postgres from starting.
pub async fn run(file: impl Fn() -> Result<PathBuf, Failure>) -> Result<(), Failure> {
    // As the first process of a container it would not be ended by a signal that it does not handle.
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::failed)?;
    let looks = async {
        let (mut said, mut tries) = (String::new(), Tries::default());
        loop {
            match look_once(&file, &mut said, &mut tries).await? {
                Next::Start => return Ok(()),
                Next::Again => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    };
    tokio::select! {
        done = looks => done,
        _ = terminate.recv() => Err(Failure::unknown("ended before Postgres could start")),
    }
}

/// `said`: what was printed last. `tries`: of the orders so far.
async fn look_once(
    file: &impl Fn() -> Result<PathBuf, Failure>,
    said: &mut String,
    tries: &mut Tries,
) -> Result<Next, Failure> {
    let load = || config::load(&file()?).map_err(Failure::refused);
    let directory = match Overrides::of_process().data_directory {
        Some(directory) => directory,
        None => load()?.postgres.data_directory,
    };
    let place = look(&directory);
    let settings = match place {
        Place::Database(_) | Place::Unreadable(_) => load().ok(),
        Place::Empty | Place::Unfinished | Place::Foreign => Some(load()?),
    };
    let settings = settings.map(Arc::new);
    if let Some(settings) = &settings
        && let Some(order) = &settings.order
        && let Some(decision) = by_order(settings, order, &directory, &place).await
    {
        let told = Told::of_order(&settings.socket, &order.id);
        // The operator has given that order up, or is about to: what is mended afterwards must not bring it back.
        if told.has_refused() {
            return Ok(Next::Again);
        }
        let done = match decision {
            Ordered::Hold(why) => {
                told.holding(&why);
                say(said, &why)?;
                return Ok(Next::Again);
            }
            Ordered::Restore | Ordered::Wipe if tries.wait(&order.id, &place, Instant::now()) => {
                return Ok(Next::Again);
            }
            Ordered::Restore => in_place::restore(settings, order, &directory, &place, &told).await,
            Ordered::Wipe => in_place::wipe(settings, order, &directory, &place).await,
            Ordered::Refuse(why) => Err(Failure::refused(why)),
        };
        if let Err(failure) = done {
            let left = look(&directory);
            let untouched = place != Place::Unfinished && place == left;
            told.not_done(&failure, untouched);
            say(said, &failure.message)?;
            tries.failed(&order.id, left, Instant::now());
        }
        return Ok(Next::Again);
    }
    let acted = act(settings.as_ref(), &directory, &place).await;
    match &settings {
        Some(settings) => Told::beside(&settings.socket).ended(acted)?,
        None => acted?,
    }
    Ok(Next::Start)
}

/// What is waited for is said once.
fn say(said: &mut String, words: &str) -> Result<(), Failure> {
    if said != words {
        commands::print(&format!("holdfast: {words}\n"))?;
        words.clone_into(said);
    }
    Ok(())
}

async fn by_order(
    settings: &Settings,
    order: &RestoreOrder,
    directory: &Path,
    place: &Place,
) -> Option<Ordered> {
    let pod = Environment::of_process().ok()?.pod.name?;
    let decide = |let_go| ordered::decide(order, &pod, directory, place, let_go);
    match decide(false) {
        Some(Ordered::Hold(_)) => {
            let told = socket::ask(&settings.socket, "ORDER").await;
            let let_go = told.and_then(|text| serde_json::from_str::<LetGo>(&text).ok());
            decide(let_go.and_then(|let_go| let_go.order).as_ref() == Some(&order.id))
        }
        decision => decision,
    }
}

fn newest(settings: Option<&Arc<Settings>>, place: &Place) -> Option<TimelineId> {
    let Place::Database(found) = place else {
        return None;
    };
    histories::newest_configured(settings?.history_directory.as_deref()?, found.system)
}

async fn drain(settings: &Arc<Settings>) -> Result<(), Failure> {
    let stored = in_place::store_the_rest(settings).await;
    let through = stored.map_err(|(mut failure, _)| {
        failure.message.push_str(
            "; Postgres starts once it is stored, or with the pod's annotation holdfast.dev/skip-drain: \"true\" without it",
        );
        failure
    })?;
    commands::print(&through)
}

async fn act(
    settings: Option<&Arc<Settings>>,
    directory: &Path,
    place: &Place,
) -> Result<(), Failure> {
    let recovery = settings.and_then(|settings| settings.recovery.as_ref());
    let mut seen = Seen {
        directory,
        place,
        recovers: recovery.is_some(),
        from_itself: settings.is_some_and(|settings| restores_itself(settings)),
        index: match recovery {
            Some(_) => index()?,
            None => None,
        },
        held: None,
        newest: newest(settings, place),
        skips_drain: std::env::var(SKIP_DRAIN_VARIABLE).is_ok_and(|value| value == "true"),
    };
    let mut decision = decide(&seen);
    if let (Decision::LookIntoArchive, Some(settings)) = (&decision, settings) {
        seen.held = Some(held(settings).await?);
        decision = decide(&seen);
    }
    match (decision, settings, recovery) {
        (Decision::Restore, Some(settings), Some(recovery)) => {
            restore(settings, recovery, directory).await
        }
        (Decision::Drain(words), Some(settings), _) => {
            commands::print(&format!("holdfast: {words}\n"))?;
            drain(settings).await
        }
        (Decision::Refuse(why), ..) => Err(Failure::refused(why)),
        (Decision::LeaveIt(words), ..) => commands::print(&format!("holdfast: {words}\n")),
        // Never decided without settings that say so.
        (Decision::Restore | Decision::LookIntoArchive | Decision::Drain(_), ..) => {
            Err(Failure::failed("there is nothing to restore from"))
        }
    }
}

fn look(directory: &Path) -> Place {
    match data_directory::control_file(directory) {
        Ok(control) => Place::Database(Found {
            words: format!(
                "a data directory of Postgres {} with system identifier {}, {}, on timeline {}",
                control.major, control.system_identifier, control.state, control.timeline
            ),
            system: control.system_identifier,
            last_order: match Origin::read(directory) {
                Ok(origin) => Ok(origin.and_then(|origin| origin.last_order)),
                Err(error) => Err(error.to_string()),
            },
            primary_of: (data_directory::recovery(directory) == data_directory::Recovery::None)
                .then_some(control.timeline.max(control.min_recovery_timeline)),
        }),
        Err(DataDirectoryError::Missing { .. }) => match destination::observe_root(directory) {
            Ok(State::Missing | State::NoParent | State::Empty) => Place::Empty,
            Ok(State::Unfinished) => Place::Unfinished,
            Ok(_) => Place::Foreign,
            Err(error) => Place::Unreadable(format!(
                "{} can't be looked at: {error}",
                directory.display()
            )),
        },
        Err(error) => Place::Unreadable(error.to_string()),
    }
}

fn wal_directory() -> Option<PathBuf> {
    let told = std::env::var_os(WAL_DIRECTORY_VARIABLE)?;
    (!told.is_empty()).then(|| told.into())
}

/// The number of this pod; none where it has none.
fn index() -> Result<Option<u32>, Failure> {
    let text = std::env::var(INDEX_VARIABLE).unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    let number = text.parse().map(Some);
    number.map_err(|_| Failure::refused(format!("{INDEX_VARIABLE} is {text:?}, and no number")))
}

fn restores_itself(settings: &Settings) -> bool {
    settings.recovery.as_ref().is_some_and(|recovery| {
        let mut own = settings.repositories.iter();
        recovery.archive == settings.archive && own.any(|own| own.name == recovery.repository)
    })
}

/// What the archive of this pod holds, in the repositories that an acknowledgement waits for.
async fn held(settings: &Settings) -> Result<Held, Failure> {
    for repository in settings.required_repositories() {
        let archive = match open::named(repository, &settings.archive, open::Create::Never).await {
            Err(ArchiveError::Open(OpenError::NotThere(_))) => continue,
            other => other?,
        };
        let incarnations = archive.incarnations().await;
        let incarnations = incarnations.map_err(|e| open::open_failure(&e))?;
        if let Some((system, _)) = incarnations.last() {
            return Ok(Held::Database(*system));
        }
    }
    Ok(Held::Nothing)
}

async fn restore(settings: &Settings, recovery: &Recovery, to: &Path) -> Result<(), Failure> {
    let wal_directory = wal_directory();
    let wanted = Wanted {
        repository: repository(settings, &recovery.repository)?,
        archive: &recovery.archive,
        request: recovery.request.clone(),
        action: recovery.action,
        to,
        parents: true,
        tablespaces: &[],
        wal_directory: wal_directory.as_deref(),
        overwrite: false,
        dry_run: false,
        order: None,
    };
    carry_out(settings, &wanted, &Told::beside(&settings.socket)).await
}

fn repository<'a>(settings: &'a Settings, name: &str) -> Result<&'a Repository, Failure> {
    let why = || Failure::refused(format!("the settings have no repository named {name:?}"));
    settings.repository(name).ok_or_else(why)
}

/// Restores, and tells how it goes.
async fn carry_out(settings: &Settings, wanted: &Wanted<'_>, told: &Told) -> Result<(), Failure> {
    // Recovery gets its WAL from there: this program is not in Postgres' container.
    if !socket::is_served(&settings.socket).await {
        let socket = settings.socket.display();
        let why = format!("not restored yet: no sidecar serves {socket}, which recovery will need");
        return Err(Failure::unknown(why));
    }
    let prepared = prepare(settings, wanted).await.map_err(|mut failure| {
        let what = match failure.class {
            ExitClass::Unknown => "not restored yet, and tried again",
            _ => "not restored",
        };
        failure.message = format!("{what}: {}", failure.message);
        failure
    })?;
    commands::print(&prepared.told())?;
    let counters: Arc<Counters> = Arc::default();
    let what = format!(
        "{} is restored from {}",
        wanted.to.display(),
        wanted.archive
    );
    let telling = async {
        loop {
            told.restoring(&what, counters.status());
            tokio::time::sleep(TOLD_EVERY).await;
        }
    };
    let restored = tokio::select! {
        restored = prepared.carry_out(false, &counters) => restored,
        () = telling => return Err(Failure::failed("telling how it goes does not end")),
    };
    commands::print(&restored?.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal_bench::{Bench, IN_PRODUCTION, SYSTEM};
    use std::fs;

    #[test]
    fn what_is_there_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert_eq!(look(&at("nowhere")), Place::Empty);
        fs::create_dir_all(at("new/lost+found")).unwrap();
        assert_eq!(look(&at("new")), Place::Empty);
        fs::write(at("new/x"), "").unwrap();
        assert_eq!(look(&at("new")), Place::Foreign);
        assert!(matches!(look(&at("new/x")), Place::Unreadable(_)));
        fs::write(at("new").join(destination::MARKER), "").unwrap();
        assert_eq!(look(&at("new")), Place::Unfinished);
        let bench = Bench::new();
        bench.control(3, IN_PRODUCTION);
        let found = |last_order| {
            Place::Database(Found {
                words: format!(
                    "a data directory of Postgres 17 with system identifier {SYSTEM}, in production, on timeline 3"
                ),
                system: SYSTEM,
                last_order: Ok(last_order),
                primary_of: Some(TimelineId(3)),
            })
        };
        assert_eq!(look(&bench.data()), found(None));
        let origin = Origin::new(Vec::new(), Some("a1".into()));
        fs::write(
            bench.data().join(crate::origin::ORIGIN_FILE),
            origin.to_json(),
        )
        .unwrap();
        assert_eq!(look(&bench.data()), found(Some("a1".into())));
        fs::write(bench.path("data/global/pg_control"), "short").unwrap();
        let Place::Unreadable(why) = look(&bench.data()) else {
            panic!("a short pg_control");
        };
        assert!(
            why.contains("pg_control") && why.lines().count() == 1,
            "{why}"
        );
    }
}
