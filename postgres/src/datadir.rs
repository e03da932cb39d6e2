//! What of a data directory belongs into a backup: pg_basebackup's rules (`basebackup.c` of 14 to 18).

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

impl RelationFile {
    /// The number, in its fork, of the file's first block.
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

/// Decides about an entry. `relative_path` is relative to the data directory, with forward slashes;
/// `major` is the server's.
#[must_use]
pub fn classify(relative_path: &str, is_dir: bool, major: u32) -> Entry {
    let _ = (relative_path, is_dir, major);
    Entry::Copy
}

/// Whether a relation's file is left out because the relation is unlogged: `has_init_fork` says whether
/// [`RelationFile::init_fork_name`] stands beside it.
#[must_use]
pub fn is_unlogged_skip(file: &RelationFile, has_init_fork: bool) -> bool {
    has_init_fork && file.fork != Fork::Init
}
