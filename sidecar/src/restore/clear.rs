//! Takes away what a restore replaces: pg_control before everything else, so that what is left can't be started.

use super::destination::{Destination, MARKER, is_tablespace_version};
use rustix::fs::fsync;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Afterwards the data directory holds the marker alone (and `pg_wal` if that is a mount point, or a link to another volume
/// and is to stay one), the other directories are there and empty, and it is durable that pg_control has gone.
pub fn clear(destination: &Destination) -> io::Result<()> {
    let root = &destination.root;
    if !root.exists() {
        fs::create_dir(root)?;
    }
    // First, so that a directory without pg_control always tells why; beside it, it means nothing.
    File::create(root.join(MARKER))?.sync_all()?;
    sync_directory(root)?;
    let global = root.join("global");
    if remove_if_there(&global.join("pg_control"))? {
        sync_directory(&global)?;
    }
    // The links to them are in the data directory, and say whose they are: so these first.
    for path in destination.tablespaces.values() {
        if !path.exists() {
            fs::create_dir(path)?;
            continue;
        }
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
    match &destination.wal {
        Some(wal) if !wal.exists() => fs::create_dir(wal),
        _ => Ok(()),
    }
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
    clear(&Destination {
        root: root.to_owned(),
        tablespaces,
        wal: None,
    })?;
    // Who clones makes its own link, if any.
    remove_if_there(&root.join("pg_wal")).or_else(|e| match e.kind() {
        io::ErrorKind::IsADirectory => Ok(false),
        _ => Err(e),
    })?;
    remove_if_there(&root.join(MARKER))?;
    sync_directory(root)
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
