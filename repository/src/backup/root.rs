//! A backup's root: the object whose creation is the commit.

use super::entry::Frame;
use super::{BackupId, Digest, proto};
use crate::facts::{BackupFacts, RecoverySettings, TablespaceFacts};
use crate::object::ObjectError;
use holdfast_postgres::outside::Outside;
use holdfast_postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};
use prost::Message;

/// Everything of a backup but its leaves.
#[derive(Debug, Clone)]
pub struct Root {
    /// What people and plans want to know.
    pub facts: BackupFacts,
    /// The first pages that failed their checksum.
    pub bad_pages: Vec<BadPage>,
    /// Read after everything else.
    pub pg_control: Vec<u8>,
    /// As `pg_backup_stop` gave it.
    pub backup_label: Vec<u8>,
    /// Permission bits of the data directory.
    pub directory_mode: u32,
    /// Frames name one by its place here.
    pub packs: Vec<PackRef>,
    pub(super) leaves: Vec<LeafPlace>,
}

/// A page that failed its checksum, again after re-reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadPage {
    /// Relative to the data directory.
    pub path: String,
    /// Within the relation's fork.
    pub block: u32,
}

/// A pack that a backup uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRef {
    /// The backup that wrote it.
    pub backup: BackupId,
    /// Its number there.
    pub number: u32,
    /// What is used of it, in bytes.
    pub live_bytes: u64,
    pub(super) index: Option<Frame>,
}

#[derive(Debug, Clone)]
pub(super) struct LeafPlace {
    pub(super) first_path: Vec<u8>,
    pub(super) first_region: u64,
    pub(super) leaf: Frame,
    pub(super) digest: Digest,
}

/// What stands where a backup is committed.
#[derive(Debug, Clone)]
pub(crate) enum Manifest {
    /// The backup.
    Committed(Box<Root>),
    /// There will never be one.
    Aborted(Aborted),
}

/// A backup that the archive's owner has given up, because it showed no sign of life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aborted {
    /// By the owner's clock.
    pub time: jiff::Timestamp,
    /// The owner.
    pub installation: String,
}

impl Aborted {
    pub(super) fn encode(&self, system: SystemIdentifier, id: &BackupId) -> Vec<u8> {
        proto::Root {
            format_version: crate::archive::FORMAT_VERSION,
            oldest_reader: 1,
            id: id.to_string(),
            system_identifier: system.0,
            aborted: Some(proto::Aborted {
                time: self.time.as_microsecond(),
                installation: self.installation.clone(),
            }),
            ..proto::Root::default()
        }
        .encode_to_vec()
    }
}

impl Root {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self {
            facts,
            bad_pages,
            pg_control,
            backup_label,
            directory_mode,
            packs,
            leaves,
        } = self;
        let BackupFacts {
            id,
            system,
            timeline,
            start,
            stop,
            start_time,
            stop_time,
            postgres_major,
            segment_size,
            from_standby,
            database_bytes,
            stored_bytes,
            files,
            data_checksums,
            page_errors,
            tablespaces,
            settings,
            outside,
            reference,
            changed_bytes,
        } = facts;
        let leaves = leaves
            .iter()
            .map(|l| proto::LeafPlace {
                first_path: l.first_path.clone(),
                first_region: l.first_region,
                leaf: Some(l.leaf.to_proto()),
                digest: l.digest.to_vec(),
            })
            .collect();
        proto::Root {
            format_version: crate::archive::FORMAT_VERSION,
            oldest_reader: 1,
            id: id.clone(),
            system_identifier: system.0,
            postgres_major: *postgres_major,
            segment_size: segment_size.bytes(),
            timeline: timeline.0,
            start_lsn: start.0,
            stop_lsn: stop.0,
            start_time: start_time.as_microsecond(),
            stop_time: stop_time.as_microsecond(),
            from_standby: *from_standby,
            database_bytes: *database_bytes,
            stored_bytes: *stored_bytes,
            files: *files,
            data_checksums: *data_checksums,
            page_errors: *page_errors,
            bad_pages: bad_pages
                .iter()
                .map(|p| proto::BadPage {
                    path: p.path.clone(),
                    block: p.block,
                })
                .collect(),
            settings: Some(proto::Settings {
                max_connections: settings.max_connections,
                max_worker_processes: settings.max_worker_processes,
                max_wal_senders: settings.max_wal_senders,
                max_prepared_transactions: settings.max_prepared_transactions,
                max_locks_per_transaction: settings.max_locks_per_transaction,
            }),
            tablespaces: tablespaces
                .iter()
                .map(|t| proto::Tablespace {
                    oid: t.oid,
                    location: t.location.clone(),
                    bytes: t.bytes,
                })
                .collect(),
            outside: outside
                .iter()
                .map(|one| proto::Outside {
                    file: one.file.clone(),
                    setting: one.setting.clone(),
                    value: one.value.clone(),
                })
                .collect(),
            pg_control: pg_control.clone(),
            backup_label: backup_label.clone(),
            directory_mode: *directory_mode,
            reference: reference.clone().unwrap_or_default(),
            changed_bytes: *changed_bytes,
            aborted: None,
            packs: packs
                .iter()
                .map(|p| proto::Pack {
                    backup: p.backup.to_string(),
                    number: p.number,
                    live_bytes: p.live_bytes,
                    index: p.index.map(|index| Frame { pack: 0, ..index }.to_proto()),
                })
                .collect(),
            leaves,
        }
        .encode_to_vec()
    }

    /// `key` names the object in errors; `system` and `id` are what its place says.
    pub(super) fn decode(
        key: &str,
        bytes: &[u8],
        system: SystemIdentifier,
        id: &BackupId,
    ) -> Result<Manifest, ObjectError> {
        let damaged = |why: String| ObjectError::damaged(key, why);
        let root = proto::Root::decode(bytes).map_err(|e| damaged(e.to_string()))?;
        if root.oldest_reader > crate::archive::FORMAT_VERSION {
            return Err(ObjectError::NewerFormat {
                key: key.to_owned(),
                found: root.oldest_reader,
            });
        }
        if root.id != id.as_str() || root.system_identifier != system.0 {
            return Err(damaged(format!(
                "it describes backup {} of system {}",
                root.id, root.system_identifier
            )));
        }
        let time =
            |us: i64| jiff::Timestamp::from_microsecond(us).map_err(|e| damaged(e.to_string()));
        if let Some(aborted) = root.aborted {
            return Ok(Manifest::Aborted(Aborted {
                time: time(aborted.time)?,
                installation: aborted.installation,
            }));
        }
        let settings = root.settings.unwrap_or_default();
        let packs = root
            .packs
            .into_iter()
            .map(|p| {
                Ok(PackRef {
                    backup: p
                        .backup
                        .parse()
                        .map_err(|_| damaged("it names an impossible pack".into()))?,
                    number: p.number,
                    live_bytes: p.live_bytes,
                    index: Frame::from_proto(p.index, 1).map_err(damaged).map(Some)?,
                })
            })
            .collect::<Result<Vec<_>, ObjectError>>()?;
        let leaves = root
            .leaves
            .into_iter()
            .map(|l| {
                let leaf = Frame::from_proto(l.leaf, packs.len()).map_err(damaged)?;
                let digest = l.digest.try_into();
                Ok(LeafPlace {
                    first_path: l.first_path,
                    first_region: l.first_region,
                    leaf,
                    digest: digest.map_err(|_| damaged("a leaf has no digest".into()))?,
                })
            })
            .collect::<Result<Vec<_>, ObjectError>>()?;
        let facts = BackupFacts {
            id: root.id,
            system,
            timeline: TimelineId(root.timeline),
            start: Lsn(root.start_lsn),
            stop: Lsn(root.stop_lsn),
            start_time: time(root.start_time)?,
            stop_time: time(root.stop_time)?,
            postgres_major: root.postgres_major,
            segment_size: SegmentSize::new(root.segment_size)
                .map_err(|e| damaged(e.to_string()))?,
            from_standby: root.from_standby,
            database_bytes: root.database_bytes,
            stored_bytes: root.stored_bytes,
            files: root.files,
            data_checksums: root.data_checksums,
            page_errors: root.page_errors,
            tablespaces: root
                .tablespaces
                .into_iter()
                .map(|t| TablespaceFacts {
                    oid: t.oid,
                    location: t.location,
                    bytes: t.bytes,
                })
                .collect(),
            settings: RecoverySettings {
                max_connections: settings.max_connections,
                max_worker_processes: settings.max_worker_processes,
                max_wal_senders: settings.max_wal_senders,
                max_prepared_transactions: settings.max_prepared_transactions,
                max_locks_per_transaction: settings.max_locks_per_transaction,
            },
            outside: root
                .outside
                .into_iter()
                .map(|one| Outside {
                    file: one.file,
                    setting: one.setting,
                    value: one.value,
                })
                .collect(),
            reference: Some(root.reference).filter(|reference| !reference.is_empty()),
            changed_bytes: root.changed_bytes,
        };
        if facts.stop < facts.start || root.timeline == 0 {
            return Err(damaged("its WAL range can't be".into()));
        }
        Ok(Manifest::Committed(Box::new(Self {
            facts,
            bad_pages: root
                .bad_pages
                .into_iter()
                .map(|p| BadPage {
                    path: p.path,
                    block: p.block,
                })
                .collect(),
            pg_control: root.pg_control,
            backup_label: root.backup_label,
            directory_mode: root.directory_mode & 0o7777,
            packs,
            leaves,
        })))
    }
}
