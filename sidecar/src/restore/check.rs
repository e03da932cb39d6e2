//! Everything that can be known to go wrong with a restore's destination, before a byte is written.

use super::destination::{self, Destination, State};
use crate::config::{Place, Settings};
use holdfast_repository::facts::BackupFacts;
use indicatif::HumanBytes;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is asked for, as far as the destination is concerned.
pub struct Wish<'a> {
    /// `--overwrite`
    pub overwrite: bool,
    /// Tablespaces that were given a place by name.
    pub named: &'a [u32],
    /// The settings' own data directory.
    pub in_place: bool,
    /// Directories above it that are missing are made, too.
    pub parents: bool,
}

/// Looks at the destination. The error says what to do; nothing was changed.
pub fn check(
    settings: &Settings,
    wish: &Wish<'_>,
    backup: &BackupFacts,
    destination: &Destination,
) -> Result<(), String> {
    let look = |path: &Path, e: io::Error| format!("can't look at {}: {e}", path.display());
    let root = &destination.root;
    let made = |path: &Path, state: State| match state {
        State::NoParent if wish.parents && destination::existing(path).is_dir() => State::Missing,
        state => state,
    };
    let root_state = made(
        root,
        destination::observe_root(root).map_err(|e| look(root, e))?,
    );
    destination::decide("the data directory", root, root_state, wish.overwrite)?;
    spares_what_is_needed(settings, destination)?;
    spares_other_tablespaces(destination)?;
    if !wish.in_place {
        spares_live_wal(settings, root)?;
    }
    let room = backup.wal_room();
    let elsewhere: u64 = backup.tablespaces.iter().map(|t| t.bytes).sum();
    let files = backup.database_bytes.saturating_sub(elsewhere);
    let wal_here = if destination.wal.is_none() { room } else { 0 };
    let mut wanted = vec![(root.clone(), root_state, files + wal_here)];
    for facts in &backup.tablespaces {
        let Some(path) = destination.tablespaces.get(&facts.oid) else {
            continue;
        };
        let what = format!("the place of tablespace {},", facts.oid);
        let apart = destination
            .tablespaces
            .iter()
            .filter(|(oid, _)| **oid != facts.oid)
            .map(|(_, other)| other)
            .chain([root]);
        if apart
            .into_iter()
            .any(|other| lies_within(path, other) || lies_within(other, path))
        {
            return Err(format!(
                "{what} {} overlaps another directory of this restore: give --tablespace {}=DIR",
                path.display(),
                facts.oid
            ));
        }
        let state = made(
            path,
            destination::observe_tablespace(path).map_err(|e| look(path, e))?,
        );
        let overwrite = state == State::Postgres
            && may_replace(settings, wish, root_state, root, path, facts.oid);
        if state == State::Postgres && !overwrite {
            return Err(format!(
                "{what} {} holds data that may be another cluster's: give --tablespace {}=DIR with an empty or a new directory",
                path.display(),
                facts.oid
            ));
        }
        destination::decide(&what, path, state, overwrite)?;
        wanted.push((path.clone(), state, facts.bytes));
    }
    if let Some(path) = &destination.wal {
        let others = destination.tablespaces.values().chain([root]);
        if others
            .into_iter()
            .any(|other| lies_within(path, other) || lies_within(other, path))
        {
            return Err(format!(
                "the place of the WAL, {}, overlaps another directory of this restore: give another --waldir",
                path.display()
            ));
        }
        let state = made(
            path,
            destination::observe_wal(path, root).map_err(|e| look(path, e))?,
        );
        if state == State::Foreign {
            return Err(format!(
                "the place of the WAL, {}, holds files, perhaps WAL of a database that was never archived: keep them elsewhere and empty it, or name another directory (--waldir; in a pod, what initdb is told)",
                path.display()
            ));
        }
        let is_own = state == State::Postgres;
        destination::decide("the place of the WAL,", path, state, is_own)?;
        // What the root links to on its own file system is counted with it.
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
        let counted = is_own && device(path) == device(root);
        let state = if counted { State::Empty } else { state };
        wanted.push((path.clone(), state, room));
    }
    for (path, ..) in &wanted {
        destination::writable(path)?;
    }
    room_for(&wanted)
}

/// A tablespace's data is replaced only where the directory that is replaced links to it, and not for a copy unless it
/// was named: a directory that was copied from a live one links to the live one's tablespaces.
fn may_replace(
    settings: &Settings,
    wish: &Wish<'_>,
    root_state: State,
    root: &Path,
    path: &Path,
    oid: u32,
) -> bool {
    let meant = wish.in_place || wish.named.contains(&oid) || root_state == State::Unfinished;
    let live = !wish.in_place && destination::links_to(&settings.postgres.data_directory, path);
    (wish.overwrite || root_state == State::Unfinished)
        && meant
        && !live
        && destination::links_to(root, path)
}

/// Neither the repository nor what opens it may lie where everything is removed.
fn spares_what_is_needed(settings: &Settings, destination: &Destination) -> Result<(), String> {
    let mut needed = vec![settings.file.clone()];
    for repository in settings.repositories_and_sources() {
        if let Place::Filesystem { path } = &repository.place {
            needed.push(path.clone());
        }
        needed.extend(repository.place.files().into_iter().map(PathBuf::from));
        needed.extend(
            repository
                .encryption
                .iter()
                .flat_map(|e| e.key_files.values().cloned()),
        );
    }
    let directories = || {
        std::iter::once(&destination.root)
            .chain(destination.tablespaces.values())
            .chain(&destination.wal)
    };
    match needed
        .iter()
        .find(|path| directories().any(|d| lies_within(path, d)))
    {
        Some(path) => Err(format!(
            "{} lies in a directory that this restore would replace: move it elsewhere first",
            path.display()
        )),
        None => Ok(()),
    }
}

/// A directory that was copied from a live one links to the live one's WAL.
fn spares_live_wal(settings: &Settings, root: &Path) -> Result<(), String> {
    let place = |directory: &Path| fs::canonicalize(directory.join("pg_wal")).ok();
    match (place(root), place(&settings.postgres.data_directory)) {
        (Some(ours), Some(live)) if ours == live => Err(format!(
            "{} leads to {}, where the configured database has its WAL: remove the link first",
            root.join("pg_wal").display(),
            live.display()
        )),
        _ => Ok(()),
    }
}

/// A tablespace that the backup does not know would keep its data, and a later CREATE TABLESPACE in the WAL would take
/// it for its own.
fn spares_other_tablespaces(destination: &Destination) -> Result<(), String> {
    let Ok(links) = fs::read_dir(destination.root.join("pg_tblspc")) else {
        return Ok(());
    };
    for target in links
        .flatten()
        .filter_map(|link| fs::read_link(link.path()).ok())
    {
        let known = destination.tablespaces.values().any(|path| *path == target);
        let holds_data =
            destination::observe_tablespace(&target).is_ok_and(|state| state == State::Postgres);
        if !known && holds_data {
            return Err(format!(
                "{} links to {}, a tablespace that is not in the backup and would keep its old data: empty it or remove the link, if it is this database's",
                destination.root.join("pg_tblspc").display(),
                target.display()
            ));
        }
    }
    Ok(())
}

/// Directories on one file system share its room.
fn room_for(wanted: &[(PathBuf, State, u64)]) -> Result<(), String> {
    let mut by_device: BTreeMap<u64, (u64, u64, &Path)> = BTreeMap::new();
    for (path, state, bytes) in wanted {
        let look = |e: io::Error| format!("can't look at {}: {e}", path.display());
        let existing = destination::existing(path);
        let device = fs::metadata(existing).map_err(look)?.dev();
        let (free, freed) = destination::space(path, *state).map_err(look)?;
        let entry = by_device.entry(device).or_insert((0, free, path));
        entry.0 += bytes;
        entry.1 = entry.1.saturating_add(freed);
    }
    match by_device.values().find(|(needed, free, _)| needed > free) {
        Some((needed, free, path)) => Err(format!(
            "{} has room for {}, and {} are needed: nothing was written",
            path.display(),
            HumanBytes(*free),
            HumanBytes(*needed)
        )),
        None => Ok(()),
    }
}

/// Whether `path` is `directory` or below it, links followed as far as they exist.
pub fn lies_within(path: &Path, directory: &Path) -> bool {
    resolved(path).starts_with(resolved(directory))
}

fn resolved(path: &Path) -> PathBuf {
    let mut rest = Vec::new();
    let mut existing = path;
    loop {
        if let Ok(found) = fs::canonicalize(existing) {
            return rest
                .iter()
                .rev()
                .fold(found, |whole, name| whole.join(name));
        }
        match (existing.parent(), existing.file_name()) {
            (Some(parent), Some(name)) => {
                rest.push(name);
                existing = parent;
            }
            _ => return path.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_do_not_hide_that_one_directory_lies_in_another() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(lies_within(&real.join("new/deep"), &link));
        assert!(lies_within(&link, &real));
        assert!(!lies_within(&dir.path().join("reality"), &real));
    }
}
