//! Takes away what a restore replaces: pg_control before everything else, so that what is left can't be started. Until
//! the first file has gone, nothing is asked of the disk: it may be full.

use super::destination::{Destination, MARKER, is_tablespace_version, owner, seen};
use rustix::fs::{FlockOperation, flock, fsync};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::Path;

/// Its holder alone writes the directory: a lock on the marker, which ends with the process. A pod that is gone for
/// Kubernetes may still run, and would write old pages into what another has completed.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "open, they are locked")] Vec<File>);

impl Claim {
    /// Takes pg_control away, durably, and leaves the marker that tells why it is not there. The marker is what pg_control
    /// was: a new file needs room, and may find none on a full disk, while a file that moves needs none. It moves as a
    /// whole, so whatever ends this leaves a database or what is known as unfinished. Beside pg_control the marker means
    /// nothing, and is replaced.
    fn take(root: &Path, seen_before: Option<&[u8]>) -> io::Result<Self> {
        let (global, marker) = (root.join("global"), root.join(MARKER));
        let control = global.join("pg_control");
        // Another one that is about to end has a marker beside its pg_control, and one that begins has pg_control alone.
        let mut held: Vec<File> = lock(&marker)?.into_iter().collect();
        let moves = lock(&control)?;
        // It may have been long since it was decided that nobody uses what is there.
        if seen(root).as_deref() != seen_before {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "what is there has changed since it was looked at: somebody else has restored it or runs Postgres on it; look, and begin anew",
            ));
        }
        if let Some(file) = moves {
            held.push(file);
            fs::rename(&control, &marker)?;
            sync_directory(root)?;
            sync_directory(&global)?;
            return Ok(Self(held));
        }
        if held.is_empty() {
            match File::create_new(&marker) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(another()),
                other => other?.sync_all()?,
            }
            held.push(lock(&marker)?.ok_or_else(another)?);
        }
        sync_directory(root)?;
        Ok(Self(held))
    }
}

/// Opens and locks a file; none where it is not there.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = match File::options().read(true).write(true).open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let is_still_it =
        || -> io::Result<bool> { Ok(fs::metadata(path)?.ino() == file.metadata()?.ino()) };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => Err(another()),
        // Not every file system has locks. Who comes right after another has ended holds what is not that file any more.
        _ if is_still_it().unwrap_or(false) => Ok(Some(file)),
        _ => Err(another()),
    }
}

fn another() -> io::Error {
    io::Error::new(
        io::ErrorKind::ResourceBusy,
        "another restore writes there: wait until it has ended, or end it",
    )
}

/// Afterwards the data directory holds the marker alone (and `pg_wal` if that is a mount point, or a link to another volume
/// and is to stay one), the other directories are there and empty, and it is durable that pg_control has gone. While
/// another holds the claim nothing is touched.
pub fn clear(destination: &Destination) -> io::Result<Claim> {
    let root = &destination.root;
    make(root)?;
    let claim = Claim::take(root, destination.seen.as_deref())?;
    // The links to them are in the data directory, and say whose they are: so these first.
    let (there, missing): (Vec<_>, Vec<_>) = destination
        .tablespaces
        .values()
        .partition(|path| path.exists());
    for path in there {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if is_tablespace_version(&entry.file_name().to_string_lossy()) {
                remove(&entry.path())?;
            }
        }
    }
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == MARKER || name == "lost+found" {
            continue;
        }
        if name == "pg_wal" && entry.file_type()?.is_symlink() {
            // A volume of its own: it stays, its content goes.
            remove_contents(&entry.path())?;
            if destination.wal.is_none() {
                continue;
            }
        }
        remove(&entry.path())?;
    }
    let wal = destination.wal.iter().filter(|wal| !wal.exists());
    missing
        .into_iter()
        .chain(wal)
        .try_for_each(|path| make(path))?;
    Ok(claim)
}

/// Takes away a whole database, so that another can be cloned into its place: afterwards the directory is empty. What ends
/// this in between leaves what can't be started, and doing it again completes it.
pub fn wipe(root: &Path) -> io::Result<()> {
    let mut tablespaces = BTreeMap::new();
    let links = match fs::read_dir(root.join("pg_tblspc")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        other => Some(other?),
    };
    for link in links.into_iter().flatten() {
        let link = link?;
        let oid = link.file_name().to_str().and_then(|name| name.parse().ok());
        if let (Some(oid), Ok(place)) = (oid, fs::read_link(link.path())) {
            tablespaces.insert(oid, place);
        }
    }
    let _claim = clear(&Destination {
        root: root.to_owned(),
        tablespaces,
        wal: None,
        seen: seen(root),
    })?;
    // Who clones makes its own link, if any.
    remove_if_there(&root.join("pg_wal")).or_else(|e| match e.kind() {
        io::ErrorKind::IsADirectory => Ok(false),
        _ => Err(e),
    })?;
    remove_if_there(&root.join(MARKER))?;
    sync_directory(root)
}

/// Makes a directory and those above it that are missing, durably. Whoever may not make them is told before.
fn make(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !path.exists() => parent,
        _ => return Ok(()),
    };
    make(parent)?;
    let owner = owner(parent);
    DirBuilder::new().mode(0o700).create(path)?;
    if let Some((user, group)) = owner {
        chown(path, Some(user), Some(group))?;
    }
    sync_directory(parent)
}

fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Removes a file, a link (not what it leads to) or a directory; a mount point is emptied and stays.
fn remove(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    remove_contents(path)?;
    match fs::remove_dir(path) {
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => Ok(()),
        other => other,
    }
}

fn remove_contents(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name() != "lost+found" {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Makes names in a directory durable.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    Ok(fsync(File::open(path)?)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::restore::destination::{State, observe_root};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn the_marker_takes_no_room_and_whatever_was_killed_is_done_again() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        let (control, marker) = (root.join("global/pg_control"), root.join(MARKER));
        // What stands there: a database, one that a restore had just made, what was killed after the marker, while files
        // were removed, and before a file was written.
        for (has_global, has_control, has_marker, before) in [
            (true, true, false, State::Postgres),
            (true, true, true, State::Postgres),
            (true, false, true, State::Unfinished),
            (false, false, true, State::Unfinished),
            (false, false, false, State::Postgres),
        ] {
            fs::create_dir(&root).unwrap();
            fs::write(root.join("PG_VERSION"), "17").unwrap();
            if has_global {
                fs::create_dir(root.join("global")).unwrap();
            }
            if has_marker {
                fs::write(&marker, "").unwrap();
            }
            if has_control {
                fs::write(&control, "control").unwrap();
            }
            let inode = fs::metadata(&control).map(|file| file.ino()).ok();
            assert_eq!(observe_root(&root).unwrap(), before);
            drop(Claim::take(&root, seen(&root).as_deref()).unwrap());
            assert_eq!(observe_root(&root).unwrap(), State::Unfinished);
            if inode.is_some() {
                assert_eq!(fs::metadata(&marker).ok().map(|file| file.ino()), inode);
            }
            for _ in 0..2 {
                clear(&Destination {
                    root: root.clone(),
                    tablespaces: BTreeMap::new(),
                    wal: None,
                    seen: seen(&root),
                })
                .unwrap();
                assert_eq!(observe_root(&root).unwrap(), State::Unfinished);
                assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
            }
            fs::remove_dir_all(&root).unwrap();
        }
    }

    #[test]
    fn a_wiped_directory_is_empty_and_so_are_its_tablespaces() {
        let dir = tempfile::tempdir().unwrap();
        let (root, wal, space) = (
            dir.path().join("data"),
            dir.path().join("wal"),
            dir.path().join("ts"),
        );
        fs::create_dir_all(root.join("global")).unwrap();
        fs::create_dir_all(root.join("pg_tblspc")).unwrap();
        fs::create_dir_all(space.join("PG_17_202406281/5")).unwrap();
        fs::create_dir(&wal).unwrap();
        for file in [root.join("global/pg_control"), wal.join("segment")] {
            fs::write(file, "x").unwrap();
        }
        std::os::unix::fs::symlink(&wal, root.join("pg_wal")).unwrap();
        std::os::unix::fs::symlink(&space, root.join("pg_tblspc/16384")).unwrap();
        for _ in 0..2 {
            wipe(&root).unwrap();
            for path in [&root, &wal, &space] {
                assert_eq!(fs::read_dir(path).unwrap().count(), 0, "{}", path.display());
            }
        }
        // A directory of its own goes as well.
        fs::create_dir_all(root.join("pg_wal/archive_status")).unwrap();
        wipe(&root).unwrap();
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    }

    #[test]
    fn a_new_directory_is_made_with_those_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("18/docker");
        for _ in 0..2 {
            clear(&Destination {
                root: root.clone(),
                tablespaces: BTreeMap::new(),
                wal: None,
                seen: None,
            })
            .unwrap();
            assert!(root.join(MARKER).exists());
        }
        for made in [&dir.path().join("18"), &root] {
            let mode = fs::metadata(made).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", made.display());
        }
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(make(&dir.path().join("file/new")).is_err());
    }

    #[test]
    fn only_one_at_a_time_writes_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        let control = root.join("global/pg_control");
        fs::create_dir_all(root.join("global")).unwrap();
        fs::write(&control, "control").unwrap();
        let mut destination = Destination {
            root: root.clone(),
            tablespaces: BTreeMap::new(),
            wal: None,
            seen: None,
        };
        // Another one has completed in between, or Postgres runs.
        for before in [None, Some(b"other".to_vec())] {
            destination.seen = before;
            let refused = clear(&destination).unwrap_err().to_string();
            assert!(refused.contains("has changed"), "{refused}");
            assert!(control.exists() && !root.join(MARKER).exists());
        }
        destination.seen = seen(&root);
        let first = clear(&destination).unwrap();
        destination.seen = None;
        fs::write(root.join("written"), "x").unwrap();
        // Also where the first is about to end.
        for ends in [false, true] {
            if ends {
                fs::create_dir(root.join("global")).unwrap();
                fs::write(&control, "control").unwrap();
            }
            let refused = clear(&destination).unwrap_err().to_string();
            assert!(refused.contains("another restore"), "{refused}");
            assert!(wipe(&root).is_err());
            assert!(root.join("written").exists());
            assert_eq!(control.exists(), ends);
        }
        drop(first);
        destination.seen = seen(&root);
        clear(&destination).unwrap();
        assert!(!root.join("written").exists());
    }

    #[test]
    fn everything_goes_but_a_linked_wal_volume_and_what_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let (root, wal, space, outside) = (
            dir.path().join("data"),
            dir.path().join("wal"),
            dir.path().join("ts"),
            dir.path().join("outside"),
        );
        for path in [&root, &wal, &space, &outside] {
            fs::create_dir(path).unwrap();
        }
        fs::create_dir_all(root.join("global")).unwrap();
        fs::create_dir_all(root.join("base/5")).unwrap();
        fs::create_dir_all(space.join("PG_17_202406281/5")).unwrap();
        for file in [
            root.join("global/pg_control"),
            root.join("base/5/1"),
            wal.join("000000010000000000000001"),
            space.join("notes"),
            outside.join("kept"),
        ] {
            fs::write(file, "x").unwrap();
        }
        std::os::unix::fs::symlink(&wal, root.join("pg_wal")).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
        let elsewhere = dir.path().join("elsewhere");
        for (wanted, stay) in [
            (None, &[MARKER, "pg_wal"][..]),
            (Some(elsewhere.clone()), &[MARKER]),
        ] {
            clear(&Destination {
                root: root.clone(),
                tablespaces: BTreeMap::from([(16384, space.clone())]),
                wal: wanted,
                seen: seen(&root),
            })
            .unwrap();
            let mut left: Vec<_> = fs::read_dir(&root)
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            left.sort();
            assert_eq!(left, stay);
            assert_eq!(fs::read_dir(&wal).unwrap().count(), 0);
        }
        assert!(elsewhere.is_dir());
        assert!(
            outside.join("kept").exists()
                && space.join("notes").exists()
                && !space.join("PG_17_202406281").exists()
        );
    }
}
