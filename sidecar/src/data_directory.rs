//! What a data directory says about itself: whose it is, whether it recovers, and where its WAL lies.

use holdfast_postgres::{ControlError, ControlFile, Lsn, TimelineHistory, TimelineId, WalFileName};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// pg_control is written in place: a reading may catch it half written.
const CONTROL_READINGS: usize = 20;
/// A history file is a few lines, in bytes.
const LARGEST_HISTORY: u64 = 4 << 20;
const BETWEEN_READINGS: Duration = Duration::from_millis(20);

/// What a data directory does not tell.
#[derive(Debug, thiserror::Error)]
pub enum DataDirectoryError {
    /// The kernel.
    #[error("{} can't be read: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// No pg_control.
    #[error("{} is not a data directory, {} is missing: correct postgres.dataDirectory", directory.display(), file.display())]
    Missing {
        /// As configured.
        directory: PathBuf,
        /// What is missing.
        file: PathBuf,
    },
    /// Somebody else's.
    #[error("{} can't be read: {source}; run holdfast as the user that owns the data directory", file.display())]
    Denied {
        /// The file.
        file: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// pg_control.
    #[error("{}: {source}", file.display())]
    Control {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: ControlError,
    },
    /// A path that is not pg_wal's.
    #[error(
        "{path:?} is not the path of {name} in {}: only files in pg_wal of the data directory are archived; \
         archive_command must pass %f and %p",
        data_directory.display()
    )]
    NotInWal {
        /// As it was given.
        path: String,
        /// As it was given.
        name: WalFileName,
        /// As configured.
        data_directory: PathBuf,
    },
    /// A link, a folder, a device.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
}

/// Why and how a server that starts here recovers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// `standby.signal`: it goes on for ever, and asks again by itself.
    Standby,
    /// `recovery.signal`: it ends where the WAL or its target does.
    Archive,
    /// Neither.
    None,
}

/// Which signal file stands there. Both are a standby, as Postgres reads them.
pub fn recovery(data_directory: &Path) -> Recovery {
    // What can't be looked at is taken for archive recovery, where nothing is ended on a doubt.
    let stands = |name: &str| data_directory.join(name).try_exists();
    match (stands("standby.signal"), stands("recovery.signal")) {
        (Ok(true), _) => Recovery::Standby,
        (_, Ok(true)) | (Err(_), _) | (_, Err(_)) => Recovery::Archive,
        (Ok(false), Ok(false)) => Recovery::None,
    }
}

/// Reads pg_control, again where it was caught half written.
pub fn control_file(data_directory: &Path) -> Result<ControlFile, DataDirectoryError> {
    control_file_bytes(data_directory).map(|(_, control)| control)
}

/// The same, with the file as it is.
pub fn control_file_bytes(
    data_directory: &Path,
) -> Result<(Vec<u8>, ControlFile), DataDirectoryError> {
    let file = data_directory.join("global/pg_control");
    let mut reading = 1;
    loop {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => DataDirectoryError::Missing {
                directory: data_directory.to_owned(),
                file: file.clone(),
            },
            io::ErrorKind::PermissionDenied => DataDirectoryError::Denied {
                file: file.clone(),
                source,
            },
            _ => DataDirectoryError::Read {
                file: file.clone(),
                source,
            },
        };
        let mut bytes = Vec::new();
        let largest = holdfast_postgres::control_file::FILE_SIZE as u64 + 1;
        let opened = File::open(&file).map_err(failed)?;
        opened
            .take(largest)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        match ControlFile::parse(&bytes) {
            Ok(control) => return Ok((bytes, control)),
            Err(ControlError::BadChecksum { .. }) if reading < CONTROL_READINGS => {
                reading += 1;
                std::thread::sleep(BETWEEN_READINGS);
            }
            Err(source) => return Err(DataDirectoryError::Control { file, source }),
        }
    }
}

/// Opens the WAL file that Postgres named: `path` is absolute or relative to the data directory, and must lead to the
/// regular file `name` in pg_wal, which itself may be a symbolic link.
pub fn open_wal_file(
    data_directory: &Path,
    name: &WalFileName,
    path: &str,
) -> Result<File, DataDirectoryError> {
    let given = data_directory.join(path);
    let elsewhere = || DataDirectoryError::NotInWal {
        path: path.chars().take(200).collect(),
        name: *name,
        data_directory: data_directory.to_owned(),
    };
    let file_name = name.to_string();
    if given.file_name().and_then(|f| f.to_str()) != Some(&file_name) || path.ends_with('/') {
        return Err(elsewhere());
    }
    let folder = wal_folder(data_directory)?;
    let given_folder = given.parent().and_then(|parent| parent.canonicalize().ok());
    if given_folder.as_ref() != Some(&folder) {
        return Err(elsewhere());
    }
    open_regular(&folder.join(file_name))
}

/// A file in pg_wal, by its name; none if there is none.
pub fn find_wal_file(
    data_directory: &Path,
    name: &WalFileName,
) -> Result<Option<File>, DataDirectoryError> {
    match open_regular(&wal_folder(data_directory)?.join(name.to_string())) {
        Err(DataDirectoryError::Read { source, .. })
            if source.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// Where a timeline left its parent, by its history file in pg_wal; none without a readable one.
pub fn switch_point(data_directory: &Path, timeline: TimelineId) -> Option<Lsn> {
    let file = find_wal_file(data_directory, &WalFileName::History(timeline)).ok()??;
    let mut content = Vec::new();
    file.take(LARGEST_HISTORY).read_to_end(&mut content).ok()?;
    let history = TimelineHistory::parse(timeline, &content).ok()?;
    Some(history.parent()?.switch)
}

fn wal_folder(data_directory: &Path) -> Result<PathBuf, DataDirectoryError> {
    let file = data_directory.join("pg_wal");
    file.canonicalize()
        .map_err(|source| DataDirectoryError::Read { file, source })
}

fn open_regular(file: &Path) -> Result<File, DataDirectoryError> {
    // Not blocking, or a named pipe would hold us up for ever.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(file, flags, Mode::empty()) {
        Ok(opened) => File::from(opened),
        Err(rustix::io::Errno::LOOP) => return Err(DataDirectoryError::NotAFile(file.to_owned())),
        Err(e) => {
            return Err(DataDirectoryError::Read {
                file: file.to_owned(),
                source: e.into(),
            });
        }
    };
    let kind = opened
        .metadata()
        .map_err(|source| DataDirectoryError::Read {
            file: file.to_owned(),
            source,
        })?;
    if kind.is_file() {
        Ok(opened)
    } else {
        Err(DataDirectoryError::NotAFile(file.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_the_named_file_in_pg_wal_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let (data, wal) = (folder.path().join("data"), folder.path().join("wal"));
        for made in [&data, &wal, &wal.join("archive_status"), &data.join("base")] {
            fs::create_dir(made).unwrap();
        }
        symlink(&wal, data.join("pg_wal")).unwrap();
        let text = "000000010000000000000003";
        let name: WalFileName = text.parse().unwrap();
        for place in [
            wal.join(text),
            data.join("base").join(text),
            data.join(text),
        ] {
            fs::write(place, "x").unwrap();
        }
        let absolute = |path: &str| data.join(path).to_str().unwrap().to_owned();
        for good in [
            format!("pg_wal/{text}"),
            format!("./base/../pg_wal/{text}"),
            absolute(&format!("pg_wal/{text}")),
        ] {
            assert!(open_wal_file(&data, &name, &good).is_ok(), "{good}");
        }
        for bad in [
            text.to_owned(),
            format!("base/{text}"),
            format!("pg_wal/../data/base/{text}"),
            format!("pg_wal/{text}/"),
            "pg_wal/000000010000000000000004".to_owned(),
            "pg_wal".to_owned(),
            String::new(),
            "/etc/passwd".to_owned(),
            absolute(&format!("base/{text}")),
        ] {
            let error = open_wal_file(&data, &name, &bad).unwrap_err();
            assert!(
                matches!(error, DataDirectoryError::NotInWal { .. }),
                "{bad}: {error}"
            );
        }
        fs::remove_file(wal.join(text)).unwrap();
        assert!(find_wal_file(&data, &name).unwrap().is_none());
        symlink(data.join("base").join(text), wal.join(text)).unwrap();
        let path = format!("pg_wal/{text}");
        assert!(matches!(
            open_wal_file(&data, &name, &path),
            Err(DataDirectoryError::NotAFile(_))
        ));
        fs::remove_file(wal.join(text)).unwrap();
        fs::create_dir(wal.join(text)).unwrap();
        assert!(matches!(
            open_wal_file(&data, &name, &path),
            Err(DataDirectoryError::NotAFile(_))
        ));
    }

    #[test]
    fn signal_files_say_how_it_recovers() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(recovery(folder.path()), Recovery::None);
        fs::write(folder.path().join("recovery.signal"), "").unwrap();
        assert_eq!(recovery(folder.path()), Recovery::Archive);
        fs::write(folder.path().join("standby.signal"), "").unwrap();
        assert_eq!(recovery(folder.path()), Recovery::Standby);
    }
}
