//! Which claims the Job mounts beside the data directory's, and where: the WAL's and those of tablespaces. Pure.

use super::super::report::State;
use super::shape::{Mounted, Shape};
use crate::inject::hides;
use crate::text;
use holdfast_crds::{ClaimTemplate, IntoClaim};
use holdfast_postgres::outside::Outside;
use holdfast_repository::facts::{BackupFacts, TablespaceFacts};
use std::path::{Component, Path};

/// A claim of a volume that does not hold the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beside {
    /// Its name.
    pub claim: String,
    /// Where it is mounted.
    pub mount: Mounted,
    /// What it has to hold.
    pub bytes: u64,
}

/// Where everything but the data directory goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// Other claims, each mount once.
    pub beside: Vec<Beside>,
    /// Where pg_wal leads to; none: it is a directory.
    pub wal: Option<String>,
    /// What the data directory's own claim has to hold, in bytes.
    pub bytes: u64,
    /// Directories that are written besides the data directory: what is above them has to be there.
    pub directories: Vec<String>,
    /// What its configuration needs from elsewhere.
    pub outside: Vec<Outside>,
}

/// The claims that are named, each once, and how they are made.
pub fn claims(into: &IntoClaim) -> Vec<(&str, Option<&ClaimTemplate>)> {
    let mut claims = vec![(into.name.as_str(), into.template.as_ref())];
    let wal = into.wal.iter();
    let wal = wal.map(|wal| (wal.claim.as_str(), wal.template.as_ref()));
    let tablespaces = into.tablespaces.iter();
    let tablespaces = tablespaces.map(|one| (one.claim.as_str(), one.template.as_ref()));
    for (claim, template) in wal.chain(tablespaces) {
        match claims.iter_mut().find(|(name, _)| *name == claim) {
            Some((_, known)) => *known = known.or(template),
            None => claims.push((claim, template)),
        }
    }
    claims
}

/// Decides for a backup.
pub fn layout(into: &IntoClaim, shape: &Shape, backup: &BackupFacts) -> Result<Layout, State> {
    let mut unknown = into
        .tablespaces
        .iter()
        .filter(|one| backup.tablespaces.iter().all(|known| known.oid != one.oid));
    if let Some(unknown) = unknown.next() {
        let known: Vec<String> = backup.tablespaces.iter().map(words).collect();
        let known = match known.as_slice() {
            [] => "none".to_owned(),
            known => text::some(known.iter().map(String::as_str)),
        };
        return Err(refused(format!(
            "the backup {} has no tablespace {}; it has {known}",
            backup.id, unknown.oid
        )));
    }
    let elsewhere: u64 = backup.tablespaces.iter().map(|one| one.bytes).sum();
    let mut layout = Layout {
        outside: backup
            .outside
            .iter()
            .filter(|one| one.is_for_recovery() && is_line(&one.value))
            .cloned()
            .collect(),
        bytes: backup.database_bytes.saturating_sub(elsewhere),
        ..Layout::default()
    };
    for tablespace in &backup.tablespaces {
        let location = &tablespace.location;
        if !is_plain(location) {
            return Err(refused(format!(
                "the path {location:?} of the backup's tablespace {} can't be mounted: restore it with holdfast restore --tablespace",
                tablespace.oid
            )));
        }
        layout.directories.push(location.clone());
        let entry = into.tablespaces.iter().find(|e| e.oid == tablespace.oid);
        let deeper = |mount: &Mounted| mount.path.len() > shape.mount.len();
        let mut mounts = shape.mounts.iter();
        let lies_in_the_same = holds(&shape.mount, location)
            && !mounts.any(|mount| deeper(mount) && holds(&mount.path, location));
        match (entry, lies_in_the_same) {
            (None, true) => layout.bytes = layout.bytes.saturating_add(tablespace.bytes),
            (Some(_), true) => {
                return Err(refused(format!(
                    "the tablespace {} lies on the data directory's own volume, at {}: leave it out of spec.destination.persistentVolumeClaim.tablespaces",
                    words(tablespace),
                    shape.mount
                )));
            }
            (None, false) => {
                return Err(refused(format!(
                    "the backup {} has a tablespace {}, which needs a claim of its own: make another Restore with tablespaces: [{{oid: {}, claim: NAME}}] beside the claim's name",
                    backup.id,
                    words(tablespace),
                    tablespace.oid
                )));
            }
            (Some(entry), false) => {
                let mount = mount(entry.mount_path.as_deref(), shape, location)?;
                layout.add(&entry.claim, mount, tablespace.bytes)?;
            }
        }
    }
    match &into.wal {
        None => layout.bytes = layout.bytes.saturating_add(backup.wal_room()),
        Some(wal) => {
            let Some(directory) = wal.directory.as_ref().or(shape.wal.as_ref()) else {
                return Err(refused(
                    "nothing tells where pg_wal is to lead to: make another Restore with wal.directory beside wal.claim, such as /wal/pg_wal"
                        .to_owned(),
                ));
            };
            let mount = mount(wal.mount_path.as_deref(), shape, directory)?;
            if Path::new(&mount.path) == Path::new(directory) {
                return Err(refused(format!(
                    "{directory} would be the root of the claim {}, which Postgres can't own: make another Restore with a wal.directory below it",
                    wal.claim
                )));
            }
            layout.directories.push(directory.clone());
            layout.wal = Some(directory.clone());
            layout.add(&wal.claim, mount, backup.wal_room())?;
        }
    }
    for beside in &layout.beside {
        check(beside, shape)?;
    }
    Ok(layout)
}

impl Layout {
    /// What a claim has to hold, in bytes.
    pub fn needed(&self, into: &IntoClaim, claim: &str) -> u64 {
        let data = if claim == into.name { self.bytes } else { 0 };
        let beside = self.beside.iter().filter(|beside| beside.claim == claim);
        beside.fold(data, |sum, beside| sum.saturating_add(beside.bytes))
    }

    fn add(&mut self, claim: &str, mount: Mounted, bytes: u64) -> Result<(), State> {
        let mut others = self.beside.iter();
        if let Some(other) = others.find(|b| b.claim == claim && b.mount.path != mount.path) {
            return Err(refused(format!(
                "the claim {claim} would be mounted at {} and at {}: make another Restore with a claim for each",
                other.mount.path, mount.path
            )));
        }
        match self.beside.iter_mut().find(|b| b.mount.path == mount.path) {
            None => self.beside.push(Beside {
                claim: claim.to_owned(),
                mount,
                bytes,
            }),
            Some(same) if same.claim == claim => {
                same.bytes = same.bytes.saturating_add(bytes);
            }
            Some(other) => {
                return Err(refused(format!(
                    "the claims {} and {claim} would both be mounted at {}: name one claim, or make another Restore with a mountPath for each",
                    other.claim, mount.path
                )));
            }
        }
        Ok(())
    }
}

fn check(beside: &Beside, shape: &Shape) -> Result<(), State> {
    let Beside { claim, mount, .. } = beside;
    let hidden = [mount.path.as_str()]
        .into_iter()
        .find_map(hides)
        .or_else(|| holds(&mount.path, &shape.mount).then_some(shape.mount.as_str()));
    match hidden {
        Some(ours) => Err(refused(format!(
            "the claim {claim}, mounted at {}, would hide {ours}: make another Restore with another mountPath",
            mount.path
        ))),
        None => Ok(()),
    }
}

/// Where a claim is mounted that holds this directory.
fn mount(given: Option<&str>, shape: &Shape, directory: &str) -> Result<Mounted, State> {
    if let Some(path) = given {
        return match holds(path, directory) {
            true => Ok(Mounted::at(path)),
            false => Err(refused(format!(
                "{directory} does not lie in the mountPath {path}"
            ))),
        };
    }
    let above = shape.mounts.iter().filter(|m| holds(&m.path, directory));
    if let Some(known) = above.max_by_key(|mount| mount.path.len()) {
        return match known.by_variable {
            false => Ok(known.clone()),
            true => Err(refused(format!(
                "the Archive's pods mount a path of {} that a variable tells: make another Restore with a mountPath",
                known.path
            ))),
        };
    }
    let parent = Path::new(directory).parent().and_then(Path::to_str);
    let parent = parent.filter(|path| *path != "/");
    Ok(Mounted::at(parent.unwrap_or(directory)))
}

/// Whether a directory is this one or lies below it.
fn holds(mount: &str, directory: &str) -> bool {
    Path::new(directory).starts_with(mount)
}

/// Absolute, without `..`, and fit for a mount.
fn is_plain(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    parts.next() == Some(Component::RootDir)
        && parts.all(|part| matches!(part, Component::Normal(_)))
        && path.len() > 1
        && is_line(path)
        && !path.contains([':', '$'])
}

/// Fit for a shell's list of lines.
fn is_line(text: &str) -> bool {
    !text.contains(|c: char| c.is_control() || "*?[".contains(c))
}

fn words(tablespace: &TablespaceFacts) -> String {
    format!("{} (at {})", tablespace.oid, tablespace.location)
}

fn refused(message: String) -> State {
    State::refused("Volumes", message)
}

#[cfg(test)]
mod tests;
