//! `holdfast bootstrap`: runs in a pod before Postgres does. Usually it says what data directory it finds, and changes
//! nothing; an empty one it restores, where the settings say from what.

mod decide;
mod told;

pub use told::reported;

use crate::commands;
use crate::config::{self, Overrides, Recovery, Settings};
use crate::data_directory::{self, DataDirectoryError};
use crate::exit::{ExitClass, Failure};
use crate::open::{self, ArchiveError};
use crate::progress::Counters;
use crate::restore::destination::{self, State};
use crate::restore::prepare::{Wanted, prepare};
use crate::restore::recovery::Action;
use crate::socket;
use decide::{Decision, Held, Place, Seen, decide};
use holdfast_repository::OpenError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use told::Told;

/// Between two times that progress is told.
const TOLD_EVERY: Duration = Duration::from_secs(2);

/// Of the pod, by Kubernetes: its number in a StatefulSet; empty elsewhere.
const INDEX_VARIABLE: &str = "HOLDFAST_POD_INDEX";

/// Returns once Postgres may start. The settings are read only where the environment names no data directory, or where it
/// is not a database: what else is wrong with them is the sidecar's to tell, and must not keep Postgres from starting.
pub async fn run(file: impl Fn() -> Result<PathBuf, Failure>) -> Result<(), Failure> {
    let load = || config::load(&file()?).map_err(Failure::refused);
    let directory = match Overrides::of_process().data_directory {
        Some(directory) => directory,
        None => load()?.postgres.data_directory,
    };
    let place = look(&directory);
    let settings = match place {
        Place::Database(_) => None,
        Place::Unreadable(_) => load().ok(),
        Place::Empty | Place::Unfinished | Place::Foreign => Some(load()?),
    };
    let acted = act(settings.as_ref(), &directory, &place).await;
    match &settings {
        Some(settings) => Told::beside(&settings.socket).ended(acted),
        None => acted,
    }
}

async fn act(settings: Option<&Settings>, directory: &Path, place: &Place) -> Result<(), Failure> {
    let recovery = settings.and_then(|settings| settings.recovery.as_ref());
    let mut seen = Seen {
        directory,
        place,
        recovers: recovery.is_some(),
        from_itself: settings.is_some_and(restores_itself),
        index: match recovery {
            Some(_) => index()?,
            None => None,
        },
        held: None,
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
        (Decision::Refuse(why), ..) => Err(Failure::refused(why)),
        (Decision::LeaveIt(words), ..) => commands::print(&format!("holdfast: {words}\n")),
        // Never decided without settings that say so.
        (Decision::Restore | Decision::LookIntoArchive, ..) => {
            Err(Failure::failed("there is nothing to restore from"))
        }
    }
}

fn look(directory: &Path) -> Place {
    match data_directory::control_file(directory) {
        Ok(control) => Place::Database(format!(
            "a data directory of Postgres {} with system identifier {}, {}, on timeline {}",
            control.major, control.system_identifier, control.state, control.timeline
        )),
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
    let required = settings
        .repositories
        .iter()
        .filter(|repository| repository.mode == config::Mode::Required);
    for repository in required {
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
    // Recovery gets its WAL from there: this program is not in Postgres' container.
    if !socket::is_served(&settings.socket).await {
        let socket = settings.socket.display();
        let why = format!("not restored yet: no sidecar serves {socket}, which recovery will need");
        return Err(Failure::unknown(why));
    }
    let repository = settings.repository(&recovery.repository).ok_or_else(|| {
        let name = &recovery.repository;
        Failure::refused(format!("the settings have no repository named {name:?}"))
    })?;
    let wanted = Wanted {
        repository,
        archive: &recovery.archive,
        request: recovery.request.clone(),
        action: Action::Promote,
        to,
        tablespaces: &[],
        overwrite: false,
        dry_run: false,
    };
    let prepared = prepare(settings, &wanted).await.map_err(|mut failure| {
        let what = match failure.class {
            ExitClass::Unknown => "not restored yet, and tried again",
            _ => "not restored",
        };
        failure.message = format!("{what}: {}", failure.message);
        failure
    })?;
    commands::print(&prepared.told())?;
    let counters: Arc<Counters> = Arc::default();
    let told = Told::beside(&settings.socket);
    let what = format!("{} is restored from {}", to.display(), recovery.archive);
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
        let told = format!(
            "a data directory of Postgres 17 with system identifier {SYSTEM}, in production, on timeline 3"
        );
        assert_eq!(look(&bench.data()), Place::Database(told));
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
