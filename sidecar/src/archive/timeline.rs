//! Whose timeline it is: the local history file against the archived one.

use super::NotArchived;
use super::local::local_history;
use holdfast_postgres::{ControlFile, TimelineId, WalFileName};
use holdfast_repository::{Archive, WalStore};
use std::path::Path;

/// Proves that the timeline of this directory is the one that is archived under its number, as far as one is: a backup
/// of another would find that one's WAL, and look complete.
///
/// # Errors
/// [`NotArchived::Diverged`], or what kept the files from being read.
pub async fn confirm_timeline(
    archive: &Archive,
    control: &ControlFile,
    directory: &Path,
) -> Result<(), NotArchived> {
    let timeline = control.timeline;
    if timeline <= TimelineId(1) {
        return Ok(());
    }
    let history = WalFileName::History(timeline);
    let wal = WalStore::new(
        archive.clone(),
        control.system_identifier,
        control.segment_size,
        control.major,
    );
    let stored = match wal.small_file(&history).await {
        // Nobody has archived it: this one will, or is refused its WAL.
        Err(e) if e.is_not_found() => return Ok(()),
        other => other?,
    };
    match local_history(directory, timeline)? {
        Some((_, ours)) => same_history(archive, timeline, &ours, &stored),
        None => Err(NotArchived::NoHistory {
            name: history,
            history,
        }),
    }
}

/// Two servers that promoted to one timeline have written different files.
pub(super) fn same_history(
    archive: &Archive,
    timeline: TimelineId,
    ours: &[u8],
    stored: &[u8],
) -> Result<(), NotArchived> {
    if stored == ours {
        return Ok(());
    }
    let digest = |content: &[u8]| hex(&archive.digest(content));
    Err(NotArchived::Diverged {
        history: WalFileName::History(timeline),
        timeline,
        place: archive.store().description().to_owned(),
        ours: digest(ours),
        stored: digest(stored),
    })
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
