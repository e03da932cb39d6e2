//! `holdfast wal-restore %f %p`: the `restore_command` of a restored directory beside which no sidecar runs.

use super::{Restorer, absent_without_asking};
use crate::config;
use crate::data_directory::{self, Recovery};
use crate::histories::Histories;
use crate::socket::RestoreAnswer;
use futures::StreamExt;
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Anything but "restored" and "proven absent": Postgres stops instead of ending recovery.
const TROUBLE: u8 = 200;
/// A standby would stop as well, so it hears the same for trouble as for absence, and asks again.
const ABSENT: u8 = 1;

/// Restores the WAL file `name` to `path` and returns the exit code that Postgres acts on, which is that of
/// `holdfast-wal restore`: 0 restored and verified, 1 proven absent, 200 anything else; on a standby 1 for that too.
///
/// The data directory is the current one, where Postgres runs its commands; else the settings' own.
pub async fn restore_one(settings: &Path, name: &str, path: &Path) -> u8 {
    let current = Path::new(".");
    let here = current.join("PG_VERSION").exists();
    let loaded = config::load(settings);
    let directory = match (&loaded, here) {
        (Ok(settings), false) => settings.postgres.data_directory.clone(),
        _ => current.to_owned(),
    };
    let trouble = |why: &dyn std::fmt::Display| {
        let line: String = why
            .to_string()
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        eprintln!("holdfast: {name}: {line}");
        if data_directory::recovery(&directory) == Recovery::Standby {
            ABSENT
        } else {
            TROUBLE
        }
    };
    if let Ok(name) = name.parse()
        && absent_without_asking(&directory, name)
    {
        return ABSENT;
    }
    let settings = match loaded {
        Ok(settings) => settings,
        Err(e) => return trouble(&e),
    };
    let restorer = Restorer::of_directory(Arc::new(settings), directory.clone(), Histories::none());
    match restorer.restore(name).await {
        RestoreAnswer::Absent => ABSENT,
        RestoreAnswer::Trouble(why) => trouble(&why),
        RestoreAnswer::Found { length, mut body } => {
            let target = directory.join(path);
            let write = async {
                let mut file = Unpublished::create(&target)?;
                let mut written = 0;
                while let Some(piece) = body.next().await {
                    let piece = piece?;
                    written += piece.len() as u64;
                    file.file.write_all(&piece)?;
                }
                if written != length {
                    return Err(io::Error::other(format!(
                        "{written} of {length} bytes came"
                    )));
                }
                file.publish(&target)
            };
            match write.await {
                Ok(()) => 0,
                Err(e) => trouble(&format!("{}: {e}", target.display())),
            }
        }
    }
}

/// A file under a temporary name, gone when it is dropped before it was published.
struct Unpublished {
    path: PathBuf,
    file: File,
}

impl Unpublished {
    fn create(target: &Path) -> io::Result<Self> {
        // Postgres removes `xlogtemp.*` from pg_wal when it starts: a killed call leaves nothing for long.
        let path = target.with_file_name(format!("xlogtemp.holdfast.{}", std::process::id()));
        let flags = OFlags::NOFOLLOW.bits() as i32;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(flags)
            .open(&path)?;
        Ok(Self { path, file })
    }

    fn publish(self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, target)?;
        let folder = target
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }
}

impl Drop for Unpublished {
    fn drop(&mut self) {
        // After publishing there is nothing of this name.
        let _ = fs::remove_file(&self.path);
    }
}
