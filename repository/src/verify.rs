//! Verification is a virtual restore: every byte that a restore of a backup would use is fetched, opened, assembled
//! and compared.

use crate::backup::{BackupReader, Leaf, REGION_BYTES, ScanSettings, Slice, Visit, scan};
use crate::object::ObjectError;
use holdfast_postgres::{ControlFile, backup_label};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Damage that is named one by one; more is counted.
const NAMED: usize = 10_000;

/// Something that a restore would stumble over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The object, relative to the archive.
    pub object: String,
    /// The file of the data directory that can't be restored, if it is one.
    pub file: Option<String>,
    /// What is wrong.
    pub reason: String,
}

/// What verifying one backup found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Damage, in no particular order.
    pub damage: Vec<Damage>,
    /// What could not be read, so that nothing is known of it.
    pub unknown: Vec<String>,
    /// Files whose every byte was compared.
    pub files: u64,
    /// Bytes that were compared.
    pub bytes: u64,
}

/// Reads every byte of a backup, WAL left out, counting into `progress` (bytes) on the way.
pub async fn verify(
    reader: Arc<BackupReader>,
    parallelism: usize,
    progress: Arc<AtomicU64>,
) -> Findings {
    let verifier = Arc::new(Verifier {
        reader: reader.clone(),
        found: Mutex::default(),
        progress,
    });
    verifier.root();
    let settings = ScanSettings {
        parallelism,
        patience: Duration::from_secs(60),
    };
    match scan(reader.clone(), verifier.clone(), settings).await {
        Ok(()) => {}
        Err(never) => match never {},
    }
    verifier.indexes().await;
    let mut findings = std::mem::take(&mut *verifier.found());
    let facts = &reader.root().facts;
    let whole = findings.damage.is_empty() && findings.unknown.is_empty();
    if whole && (findings.files != facts.files || findings.bytes != facts.database_bytes) {
        findings.damage.push(Damage {
            object: crate::layout::manifest(facts.system, &facts.id),
            file: None,
            reason: format!(
                "it counts {} files of {} bytes, and {} of {} are there",
                facts.files, facts.database_bytes, findings.files, findings.bytes
            ),
        });
    }
    findings
}

struct Verifier {
    reader: Arc<BackupReader>,
    found: Mutex<Findings>,
    progress: Arc<AtomicU64>,
}

enum Never {}

impl Verifier {
    fn found(&self) -> std::sync::MutexGuard<'_, Findings> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self, object: &str, file: Option<&str>, error: &ObjectError) {
        let mut found = self.found();
        // What is not there is damage too: the manifest says that it should be.
        if error.is_damage() || error.is_not_found() {
            if found.damage.len() < NAMED {
                found.damage.push(Damage {
                    object: object.to_owned(),
                    file: file.map(str::to_owned),
                    reason: error.to_string(),
                });
            }
        } else {
            let text = error.to_string();
            if !found.unknown.contains(&text) && found.unknown.len() < NAMED {
                found.unknown.push(text);
            }
        }
    }

    /// What the root itself carries.
    fn root(&self) {
        let root = self.reader.root();
        let object = crate::layout::manifest(root.facts.system, &root.facts.id);
        let bad = |file: &str, reason: String| {
            self.found().damage.push(Damage {
                object: object.clone(),
                file: Some(file.to_owned()),
                reason,
            })
        };
        match ControlFile::parse(&root.pg_control) {
            Ok(control) if control.system_identifier != root.facts.system => bad(
                "global/pg_control",
                format!("it belongs to system {}", control.system_identifier),
            ),
            Ok(_) => {}
            Err(e) => bad("global/pg_control", e.to_string()),
        }
        if let Err(e) = backup_label::parse(&root.backup_label) {
            bad("backup_label", e.to_string());
        }
        let mut found = self.found();
        found.files += 1;
        found.bytes += root.pg_control.len() as u64;
    }

    /// A restore does not need what packs say of their layers, the next backup does: it must be readable, and have the page
    /// sums of all that is used.
    async fn indexes(&self) {
        let mut bad = BTreeSet::new();
        for pack in 0..self.reader.root().packs.len() as u32 {
            if let Err(e) = self.reader.index(pack).await {
                bad.insert(pack);
                self.trouble(e.object(), None, &e);
            }
        }
        for number in 0..self.reader.leaf_count() {
            // One that can't be read has been told already.
            let Ok(leaf) = self.reader.leaf(number).await else {
                continue;
            };
            let paged = leaf.entries.iter().filter(|entry| entry.paged);
            for region in paged.flat_map(|entry| &entry.regions) {
                let known = region.layers.iter().all(|l| !bad.contains(&l.frame.pack));
                if known && let Err(e) = self.reader.sums(region).await {
                    self.trouble(e.object(), None, &e);
                }
            }
        }
    }
}

impl Visit for Verifier {
    type Error = Never;

    fn leaf(&self, _: usize, leaf: &Leaf) -> Result<(), Never> {
        self.found().files += leaf
            .entries
            .iter()
            .filter(|e| !e.directory && e.first_region == 0)
            .count() as u64;
        Ok(())
    }

    fn region(
        &self,
        leaf: &Leaf,
        slice: &Slice,
        content: Result<&[u8], &ObjectError>,
    ) -> Result<(), Never> {
        match content {
            Ok(content) => {
                self.found().bytes += content.len() as u64;
                self.progress
                    .fetch_add(content.len() as u64, Ordering::Relaxed);
            }
            Err(e) => {
                let file = leaf
                    .entries
                    .get(slice.entry)
                    .map(|e| format!("{} (from byte {})", e.path, slice.region * REGION_BYTES));
                self.trouble(e.object(), file.as_deref(), e);
            }
        }
        Ok(())
    }

    fn leaf_lost(&self, number: usize, error: ObjectError) -> Result<(), Never> {
        self.trouble(&self.reader.leaf_key(number), None, &error);
        Ok(())
    }
}
