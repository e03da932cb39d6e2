//! Where a restore goes: what stands there, and whether that lets it begin.

use rustix::fs::statvfs;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Marks a directory whose restore has begun and not ended.
pub const MARKER: &str = "holdfast.unfinished";

/// Directories to write, absolute.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The data directory.
    pub root: PathBuf,
    /// By the tablespace's OID.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// Where `pg_wal` leads to as a link; none: a directory, or the link that is there.
    pub wal: Option<PathBuf>,
    /// pg_control, when it was decided that this may be written; none: there was none.
    pub seen: Option<Vec<u8>>,
}

/// pg_control as it is; none where there is none.
pub fn seen(root: &Path) -> Option<Vec<u8>> {
    fs::read(root.join("global/pg_control")).ok()
}

/// What stands in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing, and its parent is there.
    Missing,
    /// Nor its parent.
    NoParent,
    /// An empty directory; `lost+found` does not count.
    Empty,
    /// What a killed restore left: it can't be started.
    Unfinished,
    /// A data directory, or a tablespace's directory.
    Postgres,
    /// A data directory that a running Postgres uses.
    Running(u32),
    /// Files of somebody else.
    Foreign,
    /// Not a directory.
    NotADirectory,
}

/// Whether a restore may write there. Pure; the error says what to do.
pub fn decide(what: &str, path: &Path, state: State, overwrite: bool) -> Result<(), String> {
    let place = path.display();
    match (state, overwrite) {
        (State::Missing | State::Empty | State::Unfinished, _) | (State::Postgres, true) => Ok(()),
        (State::Postgres, false) => Err(format!(
            "{what} {place} is not empty: it holds a database; name another directory, or replace it with --overwrite"
        )),
        (State::Running(pid), _) => Err(format!(
            "Postgres is running on {place} (process {pid}): stop it first"
        )),
        (State::Foreign, _) => Err(format!(
            "{what} {place} is not empty, and what it holds is not a database: name an empty or a new directory"
        )),
        (State::NotADirectory, _) => Err(format!("{what} {place} is not a directory")),
        (State::NoParent, _) => Err(format!(
            "{what} {place} can't be made: the directory above it does not exist; make it first"
        )),
    }
}

/// Looks at the data directory's place.
pub fn observe_root(path: &Path) -> io::Result<State> {
    let Some(names) = entries(path)? else {
        return Ok(absent(path));
    };
    if let Some(pid) = running(path) {
        return Ok(State::Running(pid));
    }
    let has = |name: &str| names.iter().any(|n| n == name);
    Ok(if names.iter().all(|n| n == "lost+found") {
        State::Empty
    } else if has(MARKER) && !path.join("global/pg_control").exists() {
        State::Unfinished
    } else if has("PG_VERSION") || path.join("global/pg_control").exists() {
        State::Postgres
    } else {
        State::Foreign
    })
}

/// Looks at a tablespace's place. Postgres keeps everything there in directories named `PG_<major>_<catalogue version>`.
pub fn observe_tablespace(path: &Path) -> io::Result<State> {
    let Some(names) = entries(path)? else {
        return Ok(absent(path));
    };
    let mut ours = names.iter().filter(|n| *n != "lost+found").peekable();
    Ok(if ours.peek().is_none() {
        State::Empty
    } else if ours.all(|n| is_tablespace_version(n)) {
        State::Postgres
    } else {
        State::Foreign
    })
}

/// Looks at the place of the WAL of the data directory at `root`: what lies there is Postgres' only where it belongs to
/// that directory.
pub fn observe_wal(path: &Path, root: &Path) -> io::Result<State> {
    let Some(names) = entries(path)? else {
        return Ok(absent(path));
    };
    let is_own = fs::read_link(root.join("pg_wal")).is_ok_and(|target| target == path);
    Ok(if names.iter().all(|n| n == "lost+found") {
        State::Empty
    } else if is_own {
        State::Postgres
    } else {
        State::Foreign
    })
}

/// Whether the data directory at `root` links to `location` as one of its tablespaces.
pub fn links_to(root: &Path, location: &Path) -> bool {
    let Ok(links) = fs::read_dir(root.join("pg_tblspc")) else {
        return false;
    };
    links
        .flatten()
        .any(|link| fs::read_link(link.path()).is_ok_and(|target| target == location))
}

/// Whether a name is that of a tablespace's version directory.
pub fn is_tablespace_version(name: &str) -> bool {
    name.strip_prefix("PG_")
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(major, catalogue)| {
            !major.is_empty()
                && !catalogue.is_empty()
                && major
                    .chars()
                    .chain(catalogue.chars())
                    .all(|c| c.is_ascii_digit())
        })
}

fn absent(path: &Path) -> State {
    match fs::symlink_metadata(path) {
        Ok(_) => State::NotADirectory,
        Err(_) if path.parent().is_some_and(Path::is_dir) => State::Missing,
        Err(_) => State::NoParent,
    }
}

/// The names in a directory, `None` if it is not there or is none.
fn entries(path: &Path) -> io::Result<Option<Vec<String>>> {
    match fs::read_dir(path) {
        Ok(entries) => entries
            .map(|e| Ok(e?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()
            .map(Some),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// The process that `postmaster.pid` names, if it lives and may be that postmaster. In another container's process
/// namespace it can't be seen: there, who orders the restore has to know.
fn running(path: &Path) -> Option<u32> {
    let file = fs::read_to_string(path.join("postmaster.pid")).ok()?;
    let pid: u32 = file.lines().next()?.trim().parse().ok()?;
    let process = PathBuf::from(format!("/proc/{pid}"));
    if !process.exists() {
        return None;
    }
    match (fs::read_link(process.join("cwd")), fs::canonicalize(path)) {
        (Ok(theirs), Ok(ours)) => (theirs == ours).then_some(pid),
        // Somebody else's process: not known, so taken for it if it is a Postgres.
        _ => fs::read_to_string(process.join("comm"))
            .is_ok_and(|name| name.starts_with("post"))
            .then_some(pid),
    }
}

/// The directory itself, or the nearest above it that is there.
pub fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(path)
}

/// Whether this user may write there. The error says what to do.
pub fn writable(path: &Path) -> Result<(), String> {
    let existing = existing(path);
    rustix::fs::access(existing, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
        .map_err(|e| format!("can't write to {}: {e}; run holdfast as the user that Postgres runs as, or give that user the directory", existing.display()))
}

/// Bytes that may be filled of the file system where `path` is, what is filled already included.
pub fn volume(path: &Path) -> io::Result<u64> {
    let stat = statvfs(path)?;
    let reserved = stat.f_bfree.saturating_sub(stat.f_bavail);
    Ok(stat
        .f_blocks
        .saturating_sub(reserved)
        .saturating_mul(stat.f_frsize))
}

/// Bytes that are free where `path` is.
pub fn free(path: &Path) -> io::Result<u64> {
    let stat = statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Bytes that are free where `path` is or will be, and bytes that come free once what is there has gone.
pub fn space(path: &Path, state: State) -> io::Result<(u64, u64)> {
    let free = free(existing(path))?;
    let freed = match state {
        State::Postgres | State::Unfinished => {
            let (device, wal) = (fs::metadata(path)?.dev(), path.join("pg_wal"));
            let linked = if wal.is_symlink() {
                used(&wal, device)
            } else {
                0
            };
            used(path, device) + linked
        }
        _ => 0,
    };
    Ok((free, freed))
}

/// Bytes that lie under `path` on the same file system; what can't be read does not count.
fn used(path: &Path, device: u64) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .filter(|(_, meta)| meta.dev() == device)
        .map(|(path, meta)| {
            if meta.is_dir() {
                used(&path, device)
            } else {
                meta.blocks() * 512
            }
        })
        .sum()
}

/// Who should own what root writes: the owner of the directory, or of the nearest above it.
pub fn owner(path: &Path) -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let meta = fs::metadata(existing(path)).ok()?;
    (meta.uid() != 0).then_some((meta.uid(), meta.gid()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_empty_or_ours_is_written_to() {
        let path = Path::new("/data");
        for (state, overwrite, allowed) in [
            (State::Missing, false, true),
            (State::Empty, false, true),
            (State::Unfinished, false, true),
            (State::Postgres, false, false),
            (State::Postgres, true, true),
            (State::Running(7), true, false),
            (State::Foreign, true, false),
            (State::NotADirectory, true, false),
            (State::NoParent, true, false),
        ] {
            assert_eq!(
                decide("the data directory", path, state, overwrite).is_ok(),
                allowed,
                "{state:?} {overwrite}"
            );
        }
    }

    #[test]
    fn what_a_linked_pg_wal_holds_comes_free_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let (root, wal) = (dir.path().join("data"), dir.path().join("wal"));
        for path in [&root, &wal] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), [1; 10_000]).unwrap();
        }
        let (_, alone) = space(&root, State::Postgres).unwrap();
        assert!(alone >= 10_000);
        std::os::unix::fs::symlink(&wal, root.join("pg_wal")).unwrap();
        let (_, both) = space(&root, State::Postgres).unwrap();
        assert!(both >= alone + 10_000, "{both} and {alone}");
    }

    #[test]
    fn directories_are_seen_for_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        assert_eq!(observe_root(path).unwrap(), State::Empty);
        assert_eq!(observe_root(&path.join("new")).unwrap(), State::Missing);
        assert_eq!(observe_root(&path.join("no/new")).unwrap(), State::NoParent);
        fs::write(path.join("letter"), "x").unwrap();
        assert_eq!(observe_root(path).unwrap(), State::Foreign);
        assert_eq!(
            observe_root(&path.join("letter")).unwrap(),
            State::NotADirectory
        );
        fs::write(path.join(MARKER), "").unwrap();
        assert_eq!(observe_root(path).unwrap(), State::Unfinished);
        fs::create_dir(path.join("global")).unwrap();
        fs::write(path.join("global/pg_control"), "").unwrap();
        assert_eq!(observe_root(path).unwrap(), State::Postgres);
        assert_eq!(observe_tablespace(path).unwrap(), State::Foreign);
        assert!(
            is_tablespace_version("PG_17_202406281")
                && !is_tablespace_version("PG_17")
                && !is_tablespace_version("PG_x_1")
        );
    }
}
