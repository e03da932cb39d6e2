//! A data directory, a repository and settings, for the tests of archiving and restoring.

use crate::config::{self, Overrides, Settings};
use crate::origin::{ORIGIN_FILE, Origin, Source};
use holdfast_postgres::{
    SegmentName, SegmentNumber, SegmentSize, SystemIdentifier, TimelineId, WalFileName,
};
use holdfast_repository::ArchiveId;
use holdfast_repository::wal::sample::{self, Cluster, Fill};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) const SYSTEM: SystemIdentifier = SystemIdentifier(7_000_000_000_000_000_001);
pub(crate) const IN_PRODUCTION: u32 = 6;
pub(crate) const IN_RECOVERY: u32 = 5;

pub(crate) struct Bench {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) cluster: Cluster,
}

impl Bench {
    /// A server of timeline 1 with segments of 1 MiB, in production, and an empty repository `main`.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let segment_size = SegmentSize::new(1 << 20).unwrap();
        let bench = Self {
            folder,
            cluster: Cluster {
                system: SYSTEM,
                segment_size,
                major: 17,
            },
        };
        for made in [
            "data",
            "data/global",
            "data/pg_wal",
            "run",
            "store",
            "spare",
        ] {
            fs::create_dir(bench.path(made)).unwrap();
        }
        bench.control(1, IN_PRODUCTION);
        bench
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// Of the archive of that name, with whatever stands under `repositories` after the one in `store`.
    pub(crate) fn settings_with(&self, archive: &str, more: &str) -> Arc<Settings> {
        let text = format!(
            "archive: {archive}\nsocket: {0}/run/wal.sock\npostgres: {{dataDirectory: {0}/data, host: {0}/run, port: 5432, user: postgres}}\n\
             repositories:\n- name: main\n  filesystem: {{path: {0}/store}}\n{more}",
            self.folder.path().display()
        );
        Arc::new(config::parse(Path::new("holdfast.yaml"), &text, &Overrides::default()).unwrap())
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings_with("shop/orders", "")
    }

    pub(crate) fn control(&self, timeline: u32, state: u32) {
        let content = sample::control_file(self.cluster, TimelineId(timeline), state);
        fs::write(self.path("data/global/pg_control"), content).unwrap();
    }

    pub(crate) fn name(&self, timeline: u32, number: u64) -> SegmentName {
        SegmentName::new(
            TimelineId(timeline),
            SegmentNumber(number),
            self.cluster.segment_size,
        )
    }

    pub(crate) fn content(&self, timeline: u32, number: u64, fill: Fill) -> Vec<u8> {
        sample::segment(
            self.cluster,
            self.name(timeline, number),
            fill,
            number as u8,
        )
    }

    /// Puts a segment into pg_wal; its name and the path that Postgres would give.
    pub(crate) fn segment(&self, timeline: u32, number: u64, fill: Fill) -> (String, String) {
        let name = self.name(timeline, number).to_string();
        fs::write(
            self.path("data/pg_wal").join(&name),
            self.content(timeline, number, fill),
        )
        .unwrap();
        (name.clone(), format!("pg_wal/{name}"))
    }

    /// Puts a history file into pg_wal.
    pub(crate) fn history(&self, timeline: u32, content: &str) -> String {
        let name = WalFileName::History(TimelineId(timeline)).to_string();
        fs::write(self.path("data/pg_wal").join(&name), content).unwrap();
        name
    }

    /// Makes the data directory a copy of the database in that archive.
    pub(crate) fn is_copy_of(&self, archive_id: ArchiveId) {
        let source = Source {
            archive_id,
            place: "x".into(),
            system_identifier: SYSTEM,
        };
        let origin = Origin::new(vec![source], None).to_json();
        fs::write(self.data().join(ORIGIN_FILE), origin).unwrap();
    }

    /// Where an object of the incarnation lies.
    pub(crate) fn object(&self, relative: &str) -> PathBuf {
        self.path(&format!("store/shop/orders/{SYSTEM}/{relative}"))
    }

    pub(crate) fn segment_object(&self, timeline: u32, number: u64) -> PathBuf {
        let name = self.name(timeline, number);
        self.object(&format!(
            "wal/{}/{:08X}/{name}",
            name.timeline.hex(),
            name.log
        ))
    }
}
