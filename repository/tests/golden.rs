//! Archives as they were stored are read for ever: `golden/` holds one object of each kind at least, plain and sealed,
//! written by `examples/golden.rs`.
#![allow(clippy::unwrap_used, missing_docs)]

mod collect;

use collect::Collect;
use futures::TryStreamExt;
use holdfast_postgres::{SegmentName, SegmentNumber, SystemIdentifier, TimelineId, WalFileName};
use holdfast_repository::backup::{self, BackupId, BackupReader, ScanSettings};
use holdfast_repository::catalogue::{Catalogue, Runs};
use holdfast_repository::expiry::{announced, kept_for_ever};
use holdfast_repository::owner::{self, InstallationId, Ownership};
use holdfast_repository::reach::{self, Request, Standing, Target, TimelineChoice};
use holdfast_repository::store::{Store, StoreSettings};
use holdfast_repository::{Archive, MasterKeys, WalStore, verify};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const SYSTEM: SystemIdentifier = SystemIdentifier(7_301_234_567_890_123_456);
/// The database that came after it in the same archive, with segments whose data lies in chunks.
const LATER: SystemIdentifier = SystemIdentifier(7_301_234_567_890_123_457);

/// Digests of what was stored.
#[derive(Deserialize)]
struct Expected {
    wal: BTreeMap<String, String>,
    parts: BTreeMap<String, String>,
    chunked: BTreeMap<String, String>,
    files: BTreeMap<String, String>,
}

struct Golden {
    expected: Expected,
    store: Store,
    masters: Option<MasterKeys>,
}

impl Golden {
    async fn open(&self) -> (Archive, WalStore) {
        self.open_of(SYSTEM).await
    }

    async fn open_of(&self, system: SystemIdentifier) -> (Archive, WalStore) {
        let archive = Archive::open(self.store.clone(), self.masters.as_ref());
        let archive = archive.await.unwrap();
        let identity = archive.identity(system).await.unwrap().unwrap();
        let wal = WalStore::of_identity(archive.clone(), system, &identity).unwrap();
        (archive, wal)
    }
}

/// The numbers of the kinds that `docs/repository-format.md` names.
fn documented_kinds() -> BTreeSet<u8> {
    let page = include_str!("../../docs/repository-format.md");
    let (_, kinds) = page.split_once("Kinds: ").unwrap();
    let (kinds, _) = kinds.split_once('.').unwrap();
    let number = |kind: &str| kind.split_whitespace().next().unwrap().parse().unwrap();
    kinds.split(',').map(number).collect()
}

fn golden() -> Vec<Golden> {
    let folder = |name: &str| -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(name)
    };
    let key = BTreeMap::from([("k1".into(), [7; 32])]);
    let sealed = MasterKeys::new("k1".into(), key).unwrap();
    [("plain", None), ("sealed", Some(sealed))]
        .into_iter()
        .map(|(name, masters)| {
            let path = folder(name);
            let text = std::fs::read(path.join("expected.json")).unwrap();
            Golden {
                expected: serde_json::from_slice(&text).unwrap(),
                store: StoreSettings::Filesystem { path }
                    .open("shop/orders")
                    .unwrap(),
                masters,
            }
        })
        .collect()
}

fn digest(content: &[u8]) -> String {
    blake3::hash(content).to_hex().to_string()
}

#[tokio::test]
async fn there_is_one_of_each_kind() {
    for Golden { store, masters, .. } in golden() {
        let objects: Vec<_> = store.list("").try_collect().await.unwrap();
        let own = format!("{SYSTEM}/");
        let mut kinds = vec![
            "archive.json".to_owned(),
            "owner/".to_owned(),
            format!("{own}identity.json"),
        ];
        for kind in [
            "wal/00000001/",
            "wal/history/00000002.history",
            "parts/00000001/",
            "aside/",
            "packs/",
            "backups/kept/manifest",
            "backups/kept/started",
            "backups/kept/keep/",
            "backups/given-up/manifest",
            "backups/unfinished/started",
            "backups/unfinished/alive/",
            "markers/",
            "tombstones/",
        ] {
            kinds.push(format!("{own}{kind}"));
        }
        kinds.push(format!("{LATER}/identity.json"));
        kinds.push(format!("{LATER}/chunks/"));
        if masters.is_some() {
            kinds.push("keys/".to_owned());
        }
        for kind in kinds {
            assert!(
                objects.iter().any(|object| object.key.starts_with(&kind)),
                "no {kind}: {objects:#?}"
            );
        }
        let mut sealed = BTreeSet::new();
        for object in &objects {
            let bytes = store.get(&object.key, object.size).await.unwrap();
            if bytes.starts_with(b"HFST") {
                sealed.insert(bytes[8]);
            }
        }
        assert_eq!(sealed, documented_kinds());
    }
}

#[tokio::test]
async fn wal_that_was_stored_is_read() {
    for golden in golden() {
        let (_, wal) = golden.open().await;
        let expected = golden.expected;
        assert_eq!(expected.wal.len(), 5);
        let size = wal.segment_size();
        for (name, stored) in expected.wal {
            let name: WalFileName = name.parse().unwrap();
            let content = match name {
                WalFileName::Segment(segment) => {
                    let index = wal.index(segment).await.unwrap();
                    assert!(index.end > segment.number(size).unwrap().start(size));
                    wal.segment(segment).await.unwrap()
                }
                _ => wal.small_file(&name).await.unwrap(),
            };
            assert_eq!(digest(&content), stored, "{name}");
        }
        let history = wal.history(TimelineId(2)).await.unwrap();
        assert_eq!(history.ancestors.len(), 1);
    }
}

#[tokio::test]
async fn data_in_chunks_is_read() {
    for golden in golden() {
        let (archive, wal) = golden.open_of(LATER).await;
        let identity = archive.identity(LATER).await.unwrap().unwrap();
        assert_eq!(identity.previous, Some(SYSTEM));
        assert_eq!(golden.expected.chunked.len(), 1);
        for (name, stored) in golden.expected.chunked {
            let content = wal.segment(name.parse().unwrap()).await.unwrap();
            assert_eq!(content.len(), 32 << 20);
            assert_eq!(digest(&content), stored, "{name}");
        }
    }
}

#[tokio::test]
async fn a_part_that_was_stored_is_read_and_reached() {
    for golden in golden() {
        let (archive, wal) = golden.open().await;
        let catalogue = Catalogue::load(&archive, SYSTEM).await.unwrap();
        assert_eq!(golden.expected.parts.len(), 1);
        for (name, stored) in golden.expected.parts {
            let name: SegmentName = name.parse().unwrap();
            let mut part = wal.part(name).await.unwrap().unwrap();
            let end = part.end();
            let start = name
                .number(wal.segment_size())
                .unwrap()
                .start(wal.segment_size());
            assert_eq!(end.0, start.0 + 3 * 8192);
            let mut content = Vec::new();
            while let Some(piece) = part.next().await.unwrap() {
                content.extend_from_slice(&piece);
            }
            assert_eq!(digest(&content), stored, "{name}");
            let index = wal.part(name).await.unwrap().unwrap().index().await;
            assert_eq!(index.unwrap().end, end);

            // A restore goes to its end, by the part.
            let request = Request {
                target: Target::Latest,
                exclusive: false,
                timeline: TimelineChoice::Current,
                backup: None,
            };
            let plan = reach::plan(&catalogue, &wal, &request).await.unwrap();
            assert_eq!((plan.end, plan.last_segment), (end, name));
        }
    }
}

#[tokio::test]
async fn a_backup_that_was_stored_is_read() {
    for golden in golden() {
        let (archive, wal) = golden.open().await;
        let expected = golden.expected;
        let catalogue = Catalogue::load(&archive, SYSTEM).await.unwrap();
        assert!(
            catalogue.unreadable.is_empty(),
            "{:?}",
            catalogue.unreadable
        );
        assert_eq!(catalogue.unfinished, ["unfinished"]);
        let mut ids: Vec<_> = catalogue.backups.iter().map(|b| &*b.facts.id).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["kept", "wished"]);
        assert!(catalogue.backups.iter().all(|b| b.is_complete()));
        let standing = Standing::of(&catalogue, &wal).await.unwrap();
        assert!(standing.window.is_some() && standing.hole.is_none());

        let id: BackupId = "kept".parse().unwrap();
        let reader = BackupReader::open(archive.clone(), SYSTEM, &id)
            .await
            .unwrap();
        let reader = Arc::new(reader);
        let found = verify::verify(reader.clone(), 2, Arc::default()).await;
        assert!(
            found.damage.is_empty() && found.unknown.is_empty(),
            "{found:?}"
        );
        let collected = Arc::new(Collect::default());
        let settings = ScanSettings {
            parallelism: 2,
            patience: Duration::ZERO,
        };
        backup::scan(reader, collected.clone(), settings)
            .await
            .unwrap();
        let files = collected.files.lock().unwrap();
        let files: BTreeMap<_, _> = files
            .iter()
            .map(|(path, content)| (path.clone(), digest(content)))
            .collect();
        assert_eq!(files, expected.files);
    }
}

#[tokio::test]
async fn what_was_said_about_them_is_read() {
    for golden in golden() {
        let (archive, _) = golden.open().await;
        let ours: InstallationId = "ours".parse().unwrap();
        let owner = owner::present(&archive).await.unwrap();
        assert_eq!(owner::ownership(owner.as_ref(), &ours), Ownership::Ours);
        let kept = |id: &str| id.parse::<BackupId>().unwrap();
        assert!(
            kept_for_ever(&archive, SYSTEM, &kept("kept"))
                .await
                .unwrap()
        );
        assert!(
            !kept_for_ever(&archive, SYSTEM, &kept("wished"))
                .await
                .unwrap()
        );
        // A wish announces nothing yet, and must be readable for that to be known.
        let doomed = announced(&archive, SYSTEM).await.unwrap();
        assert!(doomed.backups.is_empty(), "{doomed:?}");
        let wal = |number| {
            let number = SegmentNumber(number);
            BTreeMap::from([(TimelineId(1), Runs::from_iter([number]))])
        };
        assert_eq!((doomed.wal, doomed.parts), (wal(1), wal(2)));
    }
}
