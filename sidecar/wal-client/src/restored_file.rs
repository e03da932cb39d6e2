//! The file that `restore` leaves behind: whole, durable and under its name, or not at all.

use crate::connection::{Connection, Trouble};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest segment that initdb makes, in bytes. No other WAL file is larger.
const LARGEST: u64 = 1 << 30;

/// Removes the file when it is dropped before it was published.
struct Temporary {
    path: PathBuf,
    published: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Receives `length` bytes and the end of the connection, then publishes the file as `target`.
pub(crate) fn receive(
    connection: &mut Connection,
    length: u64,
    target: &Path,
    deadline: Duration,
) -> Result<(), Trouble> {
    if length > LARGEST {
        return Err(Trouble::Protocol(format!(
            "a file of {length} bytes, where no WAL file has more than {LARGEST}"
        )));
    }
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // PostgreSQL removes `xlogtemp.*` from pg_wal when it starts: a killed call leaves nothing for long.
    let mut temporary = Temporary {
        path: directory.join(format!("xlogtemp.holdfast.{}", std::process::id())),
        published: false,
    };
    let mut file = create(&temporary.path).map_err(|e| Trouble::File(temporary.path.clone(), e))?;
    let failed = |e| Trouble::File(target.to_owned(), e);
    let mut left = length;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        let bytes = connection.bytes(most, deadline)?;
        if bytes.is_empty() {
            return Err(Trouble::Short(format!(
                "it sent {} of {length} bytes",
                length - left
            )));
        }
        file.write_all(bytes).map_err(failed)?;
        left -= bytes.len() as u64;
    }
    if !connection.bytes(1, deadline)?.is_empty() {
        return Err(Trouble::Protocol(format!(
            "more than the {length} bytes that it had announced"
        )));
    }
    file.sync_all().map_err(failed)?;
    fs::rename(&temporary.path, target).map_err(failed)?;
    temporary.published = true;
    File::open(directory)
        .and_then(|d| d.sync_all())
        .map_err(failed)
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    match options.open(path) {
        // Of a killed call that had the same process id.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            options.open(path)
        }
        opened => opened,
    }
}
