//! Where the real parts are: Postgres servers, stores, Debian's programs, and Holdfast's own.
//!
//! `make parts` fetches or builds them. A part that is missing is an error that says how to get it, never a skipped test.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The folder that `e2e/parts/all` fills: `HOLDFAST_PARTS`, else `.parts` in the repository.
pub fn folder() -> PathBuf {
    match std::env::var_os("HOLDFAST_PARTS") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../.parts"),
    }
}

fn part(name: &str) -> Result<PathBuf> {
    let path = folder().join(name);
    path.canonicalize()
        .with_context(|| format!("{} is missing: run `make parts`", path.display()))
}

/// The tree (`bin`, `lib`, `share`) of a Postgres server of this major.
///
/// # Errors
/// If `make parts` has not fetched it.
pub fn postgres(major: u32) -> Result<PathBuf> {
    part(&format!("pg{major}"))
}

/// The tree of a server of Postgres 17 that is built for musl.
///
/// # Errors
/// If `make parts` has not fetched it.
pub fn postgres_on_musl() -> Result<PathBuf> {
    part("pg17-musl")
}

/// MinIO's program.
///
/// # Errors
/// If `make parts` has not built it.
pub fn minio() -> Result<PathBuf> {
    part("minio")
}

/// Azurite's folder: node runs its `blob.js`.
///
/// # Errors
/// If `make parts` has not fetched it.
pub fn azurite() -> Result<PathBuf> {
    part("azurite")
}

/// The Google Cloud Storage of the tests.
///
/// # Errors
/// If `make parts` has not built it.
pub fn gcs() -> Result<PathBuf> {
    part("gcs")
}

/// kubectl, of the cluster's version.
///
/// # Errors
/// If `make parts` has not built it.
pub fn kubectl() -> Result<PathBuf> {
    part("kubectl")?;
    // Not where the link leads: that program is every part of a cluster, by the name it is called by.
    Ok(folder().canonicalize()?.join("kubectl"))
}

/// helm.
///
/// # Errors
/// If `make parts` has not built it.
pub fn helm() -> Result<PathBuf> {
    part("helm")
}

/// A folder of wrappers that run a Debian root's programs, and that root, which lies beside it.
/// 18: Postgres 18's (`pg_verifybackup`, `pg_waldump`, …); anything else: Postgres 17's, and `pgbackrest`.
///
/// # Errors
/// If `make parts` has not made it.
pub fn client_programs(major: u32) -> Result<(PathBuf, PathBuf)> {
    let release = if major == 18 { "sid" } else { "trixie" };
    // The wrappers look for the link `trixie`, so its folder's own name would not do.
    Ok((
        part(&format!("{release}-bin"))?,
        folder().canonicalize()?.join(release),
    ))
}

/// The `holdfast` program under test: `HOLDFAST_BIN`, else the release build beside this test's own target folder.
///
/// # Errors
/// If it has not been built.
pub fn holdfast() -> Result<PathBuf> {
    product("HOLDFAST_BIN", "holdfast")
}

/// The `holdfast-wal` program under test: `HOLDFAST_WAL_BIN`, else the release build.
///
/// # Errors
/// If it has not been built.
pub fn holdfast_wal() -> Result<PathBuf> {
    product("HOLDFAST_WAL_BIN", "holdfast-wal")
}

/// The archive module under test: `HOLDFAST_ARCHIVE_MODULE`, else the release build.
///
/// # Errors
/// If it has not been built.
pub fn archive_module() -> Result<PathBuf> {
    product("HOLDFAST_ARCHIVE_MODULE", "holdfast_archive.so")
}

fn product(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return PathBuf::from(&path)
            .canonicalize()
            .with_context(|| format!("{variable} names {}, which is not there", path.display()));
    }
    // A test runs from TARGET/PROFILE/deps/name-hash; `make build` puts the programs into TARGET/release.
    let test = std::env::current_exe().context("finding this test's own program")?;
    let target = test
        .ancestors()
        .find(|folder| folder.ends_with("deps"))
        .and_then(|deps| deps.parent()?.parent())
        .context("this is not run from a target folder: set HOLDFAST_BIN and HOLDFAST_WAL_BIN")?;
    let path = target.join("release").join(name);
    if !path.exists() {
        bail!(
            "{} is missing: run `make build`, or set {variable}",
            path.display()
        );
    }
    Ok(path)
}
