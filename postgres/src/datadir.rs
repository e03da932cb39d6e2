//! What of a data directory belongs into a backup: pg_basebackup's rules (`basebackup.c` of 14 to 18), and what
//! Holdfast leaves out besides.

use crate::version;

/// What to do with a directory entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Leave it out, with all below it.
    Skip,
    /// Keep the directory, leave out what is in it.
    EmptyDirectory,
    /// Copy it as it is; if it is a directory, look into it.
    Copy,
    /// A file of a relation, made of pages.
    Relation(RelationFile),
}

/// What the name of a relation's file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelationFile {
    /// The directory that holds it, relative to the data directory: `global`, `base/5` or
    /// `pg_tblspc/16400/PG_17_202406281/5`.
    pub directory: String,
    /// Its filenode.
    pub filenode: u32,
    /// Which of the relation's forks.
    pub fork: Fork,
    /// Which file of the fork, from 0.
    pub segment: u32,
}

/// A relation's forks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fork {
    /// The data.
    Main,
    /// The free space map.
    Fsm,
    /// The visibility map.
    Vm,
    /// What an unlogged relation is reset to.
    Init,
}

/// The control file, which is copied apart from all else, and last.
pub const CONTROL_FILE: &str = "global/pg_control";

/// Directories whose contents the server makes anew (`excludeDirContents`). pg_wal is filled from the archive.
const EMPTIED: [&str; 7] = [
    "pg_stat_tmp",
    "pg_replslot",
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_subtrans",
];

/// Files that are left out wherever they stand (`excludeFiles`).
const LEFT_OUT: [&str; 8] = [
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "backup_label",
    "tablespace_map",
    "backup_manifest",
    "postmaster.pid",
    "postmaster.opts",
    ".DS_Store",
];

/// Files of the data directory that say how this server was recovered: a restored one is told anew.
const RECOVERY_FILES: [&str; 5] = [
    "standby.signal",
    "recovery.signal",
    "recovery.done",
    "holdfast.restore",
    "holdfast.unfinished",
];

impl RelationFile {
    /// Reads the name of a relation's file, as `parse_filename_for_nontemp_relation` (reinit.c) does.
    fn parse(directory: &str, name: &str) -> Option<Self> {
        let (stem, segment) = match name.split_once('.') {
            Some((stem, number)) => (stem, positive(number)?),
            None => (name, 0),
        };
        let (number, fork) = match stem.split_once('_') {
            None => (stem, Fork::Main),
            Some((number, "fsm")) => (number, Fork::Fsm),
            Some((number, "vm")) => (number, Fork::Vm),
            Some((number, "init")) => (number, Fork::Init),
            Some(_) => return None,
        };
        Some(Self {
            directory: directory.to_owned(),
            filenode: positive(number)?,
            fork,
            segment,
        })
    }

    /// The number, in its fork, of the file's first block. `relation_segment_blocks` is pg_control's.
    #[must_use]
    pub fn first_block(&self, relation_segment_blocks: u32) -> u32 {
        self.segment.wrapping_mul(relation_segment_blocks)
    }

    /// The name of the file whose presence in the same directory makes the relation unlogged.
    #[must_use]
    pub fn init_fork_name(&self) -> String {
        format!("{}_init", self.filenode)
    }
}

/// Decides about an entry. `relative_path` is relative to the data directory, with forward slashes and without a
/// leading one; tablespaces are reached through `pg_tblspc/<oid>`. `is_dir` follows symbolic links; `major` is the
/// server's.
///
/// The control file is skipped: see [`CONTROL_FILE`].
#[must_use]
pub fn classify(relative_path: &str, is_dir: bool, major: u32) -> Entry {
    let (parent, name) = relative_path
        .rsplit_once('/')
        .unwrap_or(("", relative_path));
    let top = relative_path.split('/').next().unwrap_or_default();

    if name.starts_with("pgsql_tmp") || relative_path == CONTROL_FILE {
        return Entry::Skip;
    }
    if !is_dir && (LEFT_OUT.contains(&name) || name.starts_with("pg_internal.init")) {
        return Entry::Skip;
    }
    if parent.is_empty() && RECOVERY_FILES.contains(&name) {
        return Entry::Skip;
    }
    if is_dir && (EMPTIED.contains(&name) || is_emptied_wal_directory(relative_path, major)) {
        return Entry::EmptyDirectory;
    }
    if !parent.is_empty() && (EMPTIED.contains(&top) || top == "pg_wal") {
        return Entry::Skip;
    }
    match relation_directory(parent, major) {
        Place::Foreign => Entry::Skip,
        Place::Elsewhere => match relation_directory(relative_path, major) {
            // A directory of another major, left in a tablespace by pg_upgrade.
            Place::Foreign => Entry::Skip,
            _ => Entry::Copy,
        },
        Place::Relations { temporary } if !is_dir => {
            if temporary && is_temporary_relation(name) {
                return Entry::Skip;
            }
            RelationFile::parse(parent, name).map_or(Entry::Copy, Entry::Relation)
        }
        Place::Relations { .. } => Entry::Copy,
    }
}

/// Whether a relation's file is left out because the relation is unlogged: `has_init_fork` says whether
/// [`RelationFile::init_fork_name`] stands beside it.
#[must_use]
pub fn is_unlogged_skip(file: &RelationFile, has_init_fork: bool) -> bool {
    has_init_fork && file.fork != Fork::Init
}

/// pg_wal and the directories that the server wants to find in it. WAL summaries came with 17.
fn is_emptied_wal_directory(path: &str, major: u32) -> bool {
    matches!(path, "pg_wal" | "pg_wal/archive_status")
        || (path == "pg_wal/summaries" && major >= 17)
}

/// What kind of directory a path is.
enum Place {
    /// One that holds relations; shared ones are never temporary.
    Relations { temporary: bool },
    /// In a tablespace, but not this major's.
    Foreign,
    /// Anything else.
    Elsewhere,
}

fn relation_directory(path: &str, major: u32) -> Place {
    let parts: Vec<&str> = path.split('/').collect();
    let is_database = |name: &str| positive(name).is_some();
    match parts.as_slice() {
        ["global"] => Place::Relations { temporary: false },
        ["base", database] if is_database(database) => Place::Relations { temporary: true },
        ["pg_tblspc", oid, version, rest @ ..] if is_database(oid) => {
            let ours = version::catalog_version(major)
                .is_some_and(|catalog| *version == format!("PG_{major}_{catalog}"));
            match rest {
                _ if !ours => Place::Foreign,
                [database] if is_database(database) => Place::Relations { temporary: true },
                _ => Place::Elsewhere,
            }
        }
        _ => Place::Elsewhere,
    }
}

/// `t<backend>_<filenode>`, with fork and segment (`looks_like_temp_rel_name`).
fn is_temporary_relation(name: &str) -> bool {
    name.strip_prefix('t')
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(backend, file)| {
            !backend.is_empty()
                && backend.bytes().all(|byte| byte.is_ascii_digit())
                && RelationFile::parse("", file).is_some_and(|file| file.fork != Fork::Init)
        })
}

/// A decimal number above zero without leading zeros.
fn positive(digits: &str) -> Option<u32> {
    let well_formed = !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
    well_formed.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn relation(directory: &str, filenode: u32, fork: Fork, segment: u32) -> Entry {
        Entry::Relation(RelationFile {
            directory: directory.into(),
            filenode,
            fork,
            segment,
        })
    }

    #[test]
    fn files() {
        let tablespace = "pg_tblspc/16400/PG_17_202406281/5";
        for (path, entry) in [
            ("PG_VERSION", Entry::Copy),
            ("postgresql.conf", Entry::Copy),
            ("postgresql.auto.conf", Entry::Copy),
            ("postgresql.auto.conf.tmp", Entry::Skip),
            ("current_logfiles", Entry::Copy),
            ("current_logfiles.tmp", Entry::Skip),
            ("log/postgresql.log", Entry::Copy),
            ("backup_label", Entry::Skip),
            ("backup_label.old", Entry::Copy),
            ("tablespace_map", Entry::Skip),
            ("backup_manifest", Entry::Skip),
            ("postmaster.pid", Entry::Skip),
            ("postmaster.opts", Entry::Skip),
            ("standby.signal", Entry::Skip),
            ("recovery.signal", Entry::Skip),
            ("holdfast.restore", Entry::Skip),
            ("holdfast.origin", Entry::Copy),
            ("extra/standby.signal", Entry::Copy),
            (".DS_Store", Entry::Skip),
            ("global/pg_control", Entry::Skip),
            ("global/pg_filenode.map", Entry::Copy),
            ("global/pg_internal.init", Entry::Skip),
            ("global/pg_internal.init.4711", Entry::Skip),
            ("global/1262", relation("global", 1262, Fork::Main, 0)),
            ("global/1262_vm", relation("global", 1262, Fork::Vm, 0)),
            ("base/5/PG_VERSION", Entry::Copy),
            ("base/5/pg_filenode.map", Entry::Copy),
            ("base/5/pg_internal.init", Entry::Skip),
            ("base/5/16384", relation("base/5", 16384, Fork::Main, 0)),
            ("base/5/16384.12", relation("base/5", 16384, Fork::Main, 12)),
            ("base/5/16384_fsm", relation("base/5", 16384, Fork::Fsm, 0)),
            ("base/5/16384_vm.1", relation("base/5", 16384, Fork::Vm, 1)),
            (
                "base/5/16384_init",
                relation("base/5", 16384, Fork::Init, 0),
            ),
            ("base/5/t3_16384", Entry::Skip),
            ("base/5/t3_16384_fsm.2", Entry::Skip),
            ("base/5/t3_x", Entry::Copy),
            ("base/5/16384_foo", Entry::Copy),
            ("base/5/016384", Entry::Copy),
            ("base/5/16384.0", Entry::Copy),
            ("base/5/99999999999", Entry::Copy),
            ("base/five/16384", Entry::Copy),
            ("base/pgsql_tmp/pgsql_tmp12.0", Entry::Skip),
            ("base/5/pgsql_tmp", Entry::Skip),
            (
                "pg_tblspc/16400/PG_17_202406281/5/16401",
                relation(tablespace, 16401, Fork::Main, 0),
            ),
            ("pg_tblspc/16400/PG_17_202406281/5/t9_16401", Entry::Skip),
            ("pg_tblspc/16400/PG_16_202307071/5/16401", Entry::Skip),
            ("pg_tblspc/16400/PG_17_202406281/pgsql_tmp/x", Entry::Copy),
            ("pg_wal/000000010000000000000001", Entry::Skip),
            (
                "pg_wal/archive_status/000000010000000000000001.done",
                Entry::Skip,
            ),
            ("pg_replslot/slot/state", Entry::Skip),
            ("pg_xact/0000", Entry::Copy),
            ("pg_logical/replorigin_checkpoint", Entry::Copy),
            ("pg_twophase/00000300", Entry::Copy),
        ] {
            assert_eq!(classify(path, false, 17), entry, "{path}");
        }
    }

    #[test]
    fn directories() {
        for (path, entry) in [
            ("", Entry::Copy),
            ("base", Entry::Copy),
            ("base/5", Entry::Copy),
            ("base/pgsql_tmp", Entry::Skip),
            ("global", Entry::Copy),
            ("log", Entry::Copy),
            ("pg_wal", Entry::EmptyDirectory),
            ("pg_wal/archive_status", Entry::EmptyDirectory),
            ("pg_wal/summaries", Entry::EmptyDirectory),
            ("pg_wal/else", Entry::Skip),
            ("pg_stat_tmp", Entry::EmptyDirectory),
            ("pg_replslot", Entry::EmptyDirectory),
            ("pg_replslot/slot", Entry::Skip),
            ("pg_dynshmem", Entry::EmptyDirectory),
            ("pg_notify", Entry::EmptyDirectory),
            ("pg_serial", Entry::EmptyDirectory),
            ("pg_snapshots", Entry::EmptyDirectory),
            ("pg_subtrans", Entry::EmptyDirectory),
            ("pg_xact", Entry::Copy),
            ("pg_tblspc", Entry::Copy),
            ("pg_tblspc/16400", Entry::Copy),
            ("pg_tblspc/16400/PG_17_202406281", Entry::Copy),
            ("pg_tblspc/16400/PG_17_202406281/5", Entry::Copy),
            ("pg_tblspc/16400/PG_17_202406281/pgsql_tmp", Entry::Skip),
            ("pg_tblspc/16400/PG_16_202307071", Entry::Skip),
        ] {
            assert_eq!(classify(path, true, 17), entry, "{path}");
        }
        assert_eq!(classify("pg_wal/summaries", true, 16), Entry::Skip);
    }

    #[test]
    fn unlogged_relations_keep_only_their_init_fork() {
        for (name, skipped) in [
            ("7", true),
            ("7.1", true),
            ("7_fsm", true),
            ("7_vm", true),
            ("7_init", false),
        ] {
            let file = RelationFile::parse("base/5", name).expect("a relation");
            assert_eq!(file.init_fork_name(), "7_init");
            assert_eq!(is_unlogged_skip(&file, true), skipped, "{name}");
            assert!(!is_unlogged_skip(&file, false));
        }
    }

    #[test]
    fn blocks_count_across_the_files_of_a_fork() {
        let file = RelationFile::parse("base/5", "7.3").expect("a relation");
        assert_eq!(file.first_block(131_072), 393_216);
    }

    proptest! {
        #[test]
        fn any_path_is_decided(path in "\\PC{0,60}", is_dir: bool, major in 0u32..30) {
            let _ = classify(&path, is_dir, major);
        }
    }
}
