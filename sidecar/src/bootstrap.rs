//! `holdfast bootstrap`: runs in a pod before Postgres does, and says what data directory it finds. It changes nothing.

use crate::commands;
use crate::config::{self, Overrides};
use crate::data_directory::{self, DataDirectoryError};
use crate::exit::Failure;
use std::fs;
use std::io;
use std::path::Path;

/// What a file system's own root holds when it is empty.
const OF_THE_FILE_SYSTEM: &str = "lost+found";

/// Says what is there, in one line. The settings file is read only if the environment names no data directory: what is
/// wrong with it is the sidecar's to tell, and must not keep Postgres from starting.
pub fn run(settings: impl FnOnce() -> Result<std::path::PathBuf, Failure>) -> Result<(), Failure> {
    let directory = match Overrides::of_process().data_directory {
        Some(directory) => directory,
        None => {
            let settings = config::load(&settings()?).map_err(Failure::refused)?;
            settings.postgres.data_directory
        }
    };
    commands::print(&format!("holdfast: {}\n", describe(&directory)))
}

fn describe(directory: &Path) -> String {
    let place = directory.display();
    match data_directory::control_file(directory) {
        Ok(control) => format!(
            "{place} is a data directory of Postgres {} with system identifier {}, {}, on timeline {}",
            control.major, control.system_identifier, control.state, control.timeline
        ),
        Err(DataDirectoryError::Missing { .. }) => match is_empty(directory) {
            Ok(true) => format!("{place} is empty"),
            Ok(false) => {
                format!("{place} is no data directory: it holds files, and no global/pg_control")
            }
            Err(error) => format!("{place} can't be looked at: {error}"),
        },
        Err(error) => error.to_string(),
    }
}

/// Whether there is nothing of anybody's. A folder that is not there yet is empty.
fn is_empty(directory: &Path) -> io::Result<bool> {
    match fs::read_dir(directory) {
        Ok(mut entries) => {
            Ok(entries
                .all(|entry| entry.is_ok_and(|entry| entry.file_name() == OF_THE_FILE_SYSTEM)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal_bench::{Bench, IN_PRODUCTION, SYSTEM};

    #[test]
    fn what_is_there_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert!(describe(&at("nowhere")).ends_with("nowhere is empty"));
        fs::create_dir_all(at("new/lost+found")).unwrap();
        assert!(describe(&at("new")).ends_with("new is empty"));
        fs::write(at("new/x"), "").unwrap();
        assert!(describe(&at("new")).contains("holds files, and no global/pg_control"));
        assert!(describe(&at("new/x")).contains("can't be"));
        let bench = Bench::new();
        bench.control(3, IN_PRODUCTION);
        let told = describe(&bench.data());
        assert!(
            told.ends_with(&format!(
                "is a data directory of Postgres 17 with system identifier {SYSTEM}, in production, on timeline 3"
            )),
            "{told}"
        );
        fs::write(bench.path("data/global/pg_control"), "short").unwrap();
        let told = describe(&bench.data());
        assert!(
            told.contains("pg_control") && told.lines().count() == 1,
            "{told}"
        );
    }
}
