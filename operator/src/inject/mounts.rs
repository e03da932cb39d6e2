//! Which of Postgres' mounts the sidecar gets: those under which the data directory, the WAL and tablespaces lie.
//!
//! Where tablespaces are, only the running server knows. So, beside what holds the data directory and the WAL and what
//! lies below them, every volume counts that lasts longer than the pod and that Postgres may write. Configuration and
//! secrets never do, not even where they lie over a file of the data directory.

use super::data_directory::Places;
use super::environment::Environment;
use super::image::Known;
use super::names::{
    CONFIGURATION_DIRECTORY, PROGRAM_DIRECTORY, SHARED_DIRECTORY, SHARED_VOLUME, TOKEN_DIRECTORY,
};
use super::path::Path;
use super::pod::{Container, Mount, Volume};
use super::refusal::{Quoted, Refusal};
use serde_json::Value;

/// What the sidecar runs on and would not find below a mount over it.
const NEEDED: [&str; 10] = [
    SHARED_DIRECTORY,
    CONFIGURATION_DIRECTORY,
    TOKEN_DIRECTORY,
    PROGRAM_DIRECTORY,
    "/lib",
    "/lib64",
    "/usr/lib",
    "/etc/ssl",
    "/proc",
    "/dev",
];

/// What was chosen.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DataMounts {
    /// Postgres' own, as they are there.
    pub(super) mounts: Vec<Mount>,
    /// The volume of the data directory.
    pub(super) data_volume: String,
    /// Variables that the mounts' subPathExpr need.
    pub(super) variables: Vec<Value>,
    pub(super) warnings: Vec<String>,
}

impl DataMounts {
    /// Whether one lies in another: then its mount point may have to be made, which needs the outer one writable.
    pub(super) fn are_nested(&self) -> bool {
        let paths: Vec<_> = self.mounts.iter().filter_map(path_of).collect();
        let inside = |(index, path): (usize, &Path)| {
            let others = paths.iter().enumerate();
            others.into_iter().any(|(i, o)| i != index && o.holds(path))
        };
        paths.iter().enumerate().any(inside)
    }
}

/// How long what lies on a volume lasts, and whether it can be the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// May hold a tablespace.
    Lasting,
    /// May hold data where the pod says so.
    Passing,
    /// Configuration, secrets, files, devices.
    Never,
}

fn kind(volume: &Volume) -> Kind {
    let Some((source, details)) = volume.source.iter().find(|(_, value)| !value.is_null()) else {
        // The API server takes none for an emptyDir.
        return Kind::Passing;
    };
    match source.as_str() {
        "persistentVolumeClaim"
        | "ephemeral"
        | "nfs"
        | "iscsi"
        | "fc"
        | "rbd"
        | "cephfs"
        | "glusterfs"
        | "cinder"
        | "awsElasticBlockStore"
        | "gcePersistentDisk"
        | "azureDisk"
        | "azureFile"
        | "portworxVolume"
        | "vsphereVolume"
        | "scaleIO"
        | "storageos"
        | "quobyte"
        | "flocker"
        | "photonPersistentDisk" => Kind::Lasting,
        "hostPath" => match details.get("type").and_then(Value::as_str) {
            None | Some("" | "Directory" | "DirectoryOrCreate") => Kind::Lasting,
            Some(_) => Kind::Never,
        },
        "configMap" | "secret" | "projected" | "downwardAPI" | "image" | "gitRepo" => Kind::Never,
        // emptyDir; csi, which mostly brings secrets and certificates; and what does not exist yet.
        _ => Kind::Passing,
    }
}

/// Chooses them.
pub(super) fn choose(
    container: &Container,
    volumes: &[Volume],
    places: &Places,
    environment: &Environment<'_>,
    known: Option<&Known>,
    major: Option<u32>,
) -> Result<DataMounts, Refusal> {
    let kind_of = |mount: &Mount| {
        let volume = volumes.iter().find(|volume| volume.name == mount.name);
        volume.map_or(Kind::Never, kind)
    };
    let mounted: Vec<(&Mount, Path, Kind)> = container
        .volume_mounts
        .iter()
        .filter(|mount| mount.name != SHARED_VOLUME)
        .filter_map(|mount| Some((mount, path_of(mount)?, kind_of(mount))))
        .collect();
    let holder = |what, place: &Path| {
        let above = mounted.iter().filter(|(_, path, _)| path.holds(place));
        above
            .max_by_key(|(_, path, _)| path.depth())
            .filter(|(_, _, kind)| *kind != Kind::Never)
            .ok_or_else(|| Refusal::NoVolume {
                what,
                path: place.to_string(),
                container: Quoted::new(&container.name),
            })
    };
    let (data_mount, data_path, _) = holder("the data directory", &places.data)?;
    let wal_mount = match &places.wal {
        Some(wal) => Some(holder("the WAL directory", wal)?.0),
        None => None,
    };
    let mut warnings = hidden_by_image(places, data_path, known, major)?;

    let mut mounts = Vec::new();
    for (mount, path, kind) in &mounted {
        let holds = *mount == *data_mount || Some(*mount) == wal_mount;
        let below = |place: &Path| place.holds(path);
        let lies_there = below(&places.data) || places.wal.as_ref().is_some_and(below);
        let may_hold_tablespaces = *kind == Kind::Lasting && !mount.read_only;
        if !holds && (*kind == Kind::Never || !lies_there && !may_hold_tablespaces) {
            continue;
        }
        match hides_path(path) {
            None => mounts.push((*mount).clone()),
            Some(hidden) if holds || lies_there => {
                return Err(Refusal::MountHides {
                    path: Quoted::new(&mount.mount_path),
                    container: Quoted::new(&container.name),
                    hidden,
                });
            }
            Some(hidden) => warnings.push(format!(
                "Holdfast leaves the mount {path} out of its sidecar, where it would hide {hidden}: a tablespace there is not backed up"
            )),
        }
    }
    let variables = variables(&mounts, environment, container)?;
    Ok(DataMounts {
        data_volume: data_mount.name.clone(),
        mounts,
        variables,
        warnings,
    })
}

/// Container runtimes put a volume of their own at an image's `VOLUME` unless the pod mounts exactly there: then the
/// data directory is on that one, and a volume of the user's above it stays empty. Not all do (CRI-O by default only
/// makes a directory), so whoever annotates the directory is believed.
fn hidden_by_image(
    places: &Places,
    mount: &Path,
    known: Option<&Known>,
    major: Option<u32>,
) -> Result<Vec<String>, Refusal> {
    let Some(volume) = known.and_then(|known| known.volume(major)) else {
        return Ok(Vec::new());
    };
    let inside = |volume: &Path| volume.holds(&places.data) && !volume.holds(mount);
    if !Path::parse(volume).as_ref().is_some_and(inside) {
        return Ok(Vec::new());
    }
    if !places.annotated {
        return Err(Refusal::HiddenByImage {
            mount: mount.to_string(),
            volume,
            directory: places.data.to_string(),
        });
    }
    Ok(vec![format!(
        "the image declares {volume} a volume and yours is mounted above it, at {mount}: with containerd the data directory is then on a volume that is lost with the pod"
    )])
}

/// The first directory that our containers need and a mount at this path would hide, or be hidden by; none for a path that
/// can't be mounted.
pub(crate) fn hides(path: &str) -> Option<&'static str> {
    hides_path(&Path::parse(path)?)
}

fn hides_path(path: &Path) -> Option<&'static str> {
    let ours = [SHARED_DIRECTORY, CONFIGURATION_DIRECTORY, TOKEN_DIRECTORY];
    NEEDED.into_iter().find(|needed| {
        Path::parse(needed).is_some_and(|directory| {
            path.holds(&directory) || ours.contains(needed) && directory.holds(path)
        })
    })
}

fn variables(
    mounts: &[Mount],
    environment: &Environment<'_>,
    container: &Container,
) -> Result<Vec<Value>, Refusal> {
    let expressions = |mount: &Mount| mount.sub_path_expr.clone();
    for mount in mounts {
        if let Err(variable) = environment.needed_by(expressions(mount).as_deref()) {
            return Err(Refusal::SubPathVariable {
                path: Quoted::new(&mount.mount_path),
                variable: Quoted::new(&variable),
                container: Quoted::new(&container.name),
            });
        }
    }
    let all = mounts.iter().filter_map(|m| m.sub_path_expr.as_deref());
    // Each was fine alone, so all are.
    Ok(environment.needed_by(all).unwrap_or_default())
}

/// None for one whose path can't be compared; the kubelet takes a relative path for one below the root.
pub(super) fn path_of(mount: &Mount) -> Option<Path> {
    match mount.mount_path.starts_with('/') {
        true => Path::parse(&mount.mount_path),
        false => Path::parse(&format!("/{}", mount.mount_path)),
    }
}
