//! The two files in a data directory that say where it came from.
//!
//! `holdfast.restore` says where recovery finds its WAL. It counts only beside `recovery.signal`.
//! `holdfast.origin` stays for the directory's life, in clones and backups too: a copy of an archive's database may
//! not archive into that archive.

use holdfast_postgres::{Ancestor, Lineage, Lsn, SystemIdentifier, TimelineHistory, TimelineId};
use holdfast_repository::ArchiveId;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The name of an [`Origin`] in a data directory.
pub const ORIGIN_FILE: &str = "holdfast.origin";
/// The name of a [`RestoreOrder`] in a data directory.
pub const RESTORE_FILE: &str = "holdfast.restore";
/// Both are a few lines, in bytes.
const LARGEST_FILE: u64 = 1 << 20;
/// What is written, and the newest that is read.
const FORMAT: u32 = 1;

/// `holdfast.origin`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    format_version: u32,
    /// The archives that this directory is a copy of, and may not archive into. A copy of a copy has several.
    #[serde(default)]
    pub copy_of: Vec<Source>,
    /// The last restore order that was carried out here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_order: Option<String>,
}

/// An archive that a directory was restored from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// What counts.
    pub archive_id: ArchiveId,
    /// For people, such as `s3://bucket/prefix/shop/orders`.
    pub place: String,
    /// Of the incarnation.
    pub system_identifier: SystemIdentifier,
}

/// `holdfast.restore`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreOrder {
    format_version: u32,
    /// As the settings call it.
    pub repository: String,
    /// `namespace/name`
    pub archive: String,
    /// What is found there must have this id.
    pub archive_id: ArchiveId,
    /// The incarnation.
    pub system_identifier: SystemIdentifier,
    /// Oldest first; never empty, and each but the last has an end.
    lineage: Vec<OrderSpan>,
    /// Up to here pre-flight found all WAL: what is missing before it is a gap, what begins at or after it is absent.
    pub end: Lsn,
}

/// What of a timeline recovery replays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderSpan {
    /// The timeline.
    pub timeline: TimelineId,
    /// Its first byte here.
    pub begin: Lsn,
    /// Where the next one begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Lsn>,
}

/// A file that says where a directory came from, and can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// The kernel.
    #[error("{} can't be read: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Not what we wrote.
    #[error("{} is damaged ({why}): restore this directory again", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Written by a newer version.
    #[error("{} has format {found}, and this program reads up to {FORMAT}: use a newer holdfast", file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// What it has.
        found: u32,
    },
}

impl Origin {
    /// Of a directory that is a copy of these, after this order.
    pub fn new(copy_of: Vec<Source>, last_order: Option<String>) -> Self {
        Self {
            format_version: FORMAT,
            copy_of,
            last_order,
        }
    }

    /// Reads it from a data directory; none if there is none.
    pub fn read(data_directory: &Path) -> Result<Option<Self>, OriginError> {
        read(&data_directory.join(ORIGIN_FILE))
    }

    /// The source that has this id, if this directory is a copy of it.
    pub fn copied_from(&self, archive: ArchiveId) -> Option<&Source> {
        self.copy_of
            .iter()
            .find(|source| source.archive_id == archive)
    }

    /// What the file holds.
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

impl RestoreOrder {
    /// Recovery along `lineage`, with all WAL present up to `end`, from the archive of that name and id in the
    /// repository that the settings call so.
    pub fn new(
        repository: String,
        archive: String,
        archive_id: ArchiveId,
        system_identifier: SystemIdentifier,
        lineage: &Lineage,
        end: Lsn,
    ) -> Self {
        let span = |span: &holdfast_postgres::Span| OrderSpan {
            timeline: span.timeline,
            begin: span.begin,
            end: span.end,
        };
        Self {
            format_version: FORMAT,
            repository,
            archive,
            archive_id,
            system_identifier,
            lineage: lineage.spans().iter().map(span).collect(),
            end,
        }
    }

    /// Reads it from a data directory; none if there is none.
    pub fn read(data_directory: &Path) -> Result<Option<Self>, OriginError> {
        let file = data_directory.join(RESTORE_FILE);
        let order: Option<Self> = read(&file)?;
        if let Some(order) = &order {
            let whole = order
                .lineage
                .iter()
                .rev()
                .skip(1)
                .all(|span| span.end.is_some());
            let sorted = order.lineage.is_sorted_by(|a, b| a.timeline < b.timeline);
            if order.lineage.is_empty() || !whole || !sorted {
                let why = "its lineage is not one".to_owned();
                return Err(OriginError::Damaged { file, why });
            }
        }
        Ok(order)
    }

    /// The line of timelines that recovery follows.
    pub fn lineage(&self) -> Lineage {
        let ancestors = self.lineage.iter().filter_map(|span| {
            let (timeline, switch) = (span.timeline, span.end?);
            Some(Ancestor {
                timeline,
                switch,
                reason: String::new(),
            })
        });
        let timeline = self
            .lineage
            .last()
            .map_or(TimelineId(0), |span| span.timeline);
        let mut ancestors: Vec<Ancestor> = ancestors.collect();
        // The newest one's end, if it has one, is told by `end`.
        ancestors.retain(|ancestor| ancestor.timeline != timeline);
        Lineage::from(&TimelineHistory {
            timeline,
            ancestors,
        })
    }

    /// What the file holds.
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    // Plain structs of ours always serialise.
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

fn read<T: for<'a> Deserialize<'a>>(file: &Path) -> Result<Option<T>, OriginError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        format_version: u32,
    }
    let failed = |source| OriginError::Read {
        file: file.to_owned(),
        source,
    };
    let opened = match fs::File::open(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    let mut text = Vec::new();
    opened
        .take(LARGEST_FILE + 1)
        .read_to_end(&mut text)
        .map_err(failed)?;
    let damaged = |why: String| OriginError::Damaged {
        file: file.to_owned(),
        why,
    };
    if text.len() as u64 > LARGEST_FILE {
        return Err(damaged(format!("it has more than {LARGEST_FILE} bytes")));
    }
    let version: Version = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    if version.format_version > FORMAT {
        return Err(OriginError::Newer {
            file: file.to_owned(),
            found: version.format_version,
        });
    }
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|e| damaged(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage() -> Lineage {
        let history = TimelineHistory::parse(TimelineId(4), b"1\t0/100\tx\n3\t0/200\tx\n").unwrap();
        Lineage::from(&history)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Origin::read(folder.path()).unwrap(), None);
        assert_eq!(RestoreOrder::read(folder.path()).unwrap(), None);
        let source = Source {
            archive_id: ArchiveId([7; 16]),
            place: "s3://b/shop/orders".into(),
            system_identifier: SystemIdentifier(5),
        };
        let origin = Origin::new(vec![source.clone()], Some("order".into()));
        fs::write(folder.path().join(ORIGIN_FILE), origin.to_json()).unwrap();
        let read = Origin::read(folder.path()).unwrap().unwrap();
        assert_eq!(read, origin);
        assert_eq!(read.copied_from(ArchiveId([7; 16])), Some(&source));
        assert_eq!(read.copied_from(ArchiveId([8; 16])), None);
        let order = RestoreOrder::new(
            "main".into(),
            "shop/orders".into(),
            ArchiveId([7; 16]),
            SystemIdentifier(5),
            &lineage(),
            Lsn(0x300),
        );
        fs::write(folder.path().join(RESTORE_FILE), order.to_json()).unwrap();
        let read = RestoreOrder::read(folder.path()).unwrap().unwrap();
        assert_eq!(read, order);
        assert_eq!(read.lineage(), lineage());
    }

    #[test]
    fn damage_and_newer_formats_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            fs::write(folder.path().join(RESTORE_FILE), text).unwrap();
            RestoreOrder::read(folder.path())
        };
        assert!(matches!(read(""), Err(OriginError::Damaged { .. })));
        assert!(matches!(
            read("{\"formatVersion\":1}"),
            Err(OriginError::Damaged { .. })
        ));
        assert!(matches!(
            read("{\"formatVersion\":2}"),
            Err(OriginError::Newer { found: 2, .. })
        ));
        let single = Lineage::single(TimelineId(1));
        let order = RestoreOrder::new(
            "main".into(),
            "a/b".into(),
            ArchiveId([1; 16]),
            SystemIdentifier(1),
            &single,
            Lsn(1),
        );
        let text = String::from_utf8(order.to_json()).unwrap();
        assert_eq!(read(&text).unwrap(), Some(order));
        let no_lineage: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut no_lineage = no_lineage;
        no_lineage["lineage"] = serde_json::json!([]);
        assert!(matches!(
            read(&no_lineage.to_string()),
            Err(OriginError::Damaged { .. })
        ));
    }
}
