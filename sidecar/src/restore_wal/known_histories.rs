//! History files that were seen, kept for the time when the store does not answer.

use holdfast_postgres::{SystemIdentifier, WalFileName};
use std::fs;
use std::io::Write;
use std::path::PathBuf;

/// A folder by system identifier, with the files under their names. What is created once never changes, so what is
/// here is right.
#[derive(Debug)]
pub(super) struct KnownHistories {
    folder: Option<PathBuf>,
}

impl KnownHistories {
    /// Without a folder nothing is kept.
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    fn path(&self, system: SystemIdentifier, name: WalFileName) -> Option<PathBuf> {
        matches!(name, WalFileName::History(_)).then_some(())?;
        Some(
            self.folder
                .as_ref()?
                .join(system.to_string())
                .join(name.to_string()),
        )
    }

    /// As it was seen.
    pub(super) fn get(&self, system: SystemIdentifier, name: WalFileName) -> Option<Vec<u8>> {
        fs::read(self.path(system, name)?).ok()
    }

    /// Keeps it. That this fails is told and costs nothing else.
    pub(super) fn put(&self, system: SystemIdentifier, name: WalFileName, content: &[u8]) {
        let Some(path) = self.path(system, name) else {
            return;
        };
        if path.exists() {
            return;
        }
        let kept = || {
            let folder = path.parent().unwrap_or(&path);
            fs::create_dir_all(folder)?;
            let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
            fs::File::create(&temporary)?.write_all(content)?;
            fs::rename(&temporary, &path)
        };
        if let Err(error) = kept() {
            tracing::warn!(%error, path = %path.display(), "the history file is not kept");
        }
    }
}
