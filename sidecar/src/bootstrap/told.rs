//! How a restore goes that Postgres waits for, in a file beside the socket: the sidecar reports it. Losing it costs nothing
//! else.

use crate::exit::{ExitClass, Failure};
use crate::status::ProgressStatus;
use holdfast_protocol::control::{BootstrapReport, BootstrapState};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// It is one sentence and some figures, in bytes.
const LARGEST: u64 = 64 << 10;

/// The file, for who restores.
#[derive(Debug)]
pub(super) struct Told {
    file: PathBuf,
    order: Option<String>,
}

fn file(socket: &Path) -> PathBuf {
    socket.with_file_name("bootstrap.json")
}

/// What stands there; none where nothing is restored, or it can't be told.
pub fn reported(socket: &Path) -> Option<BootstrapReport> {
    read(&file(socket))
}

fn read(file: &Path) -> Option<BootstrapReport> {
    let mut text = Vec::new();
    let opened = fs::File::open(file).ok()?;
    opened.take(LARGEST).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

impl Told {
    pub(super) fn beside(socket: &Path) -> Self {
        Self {
            file: file(socket),
            order: None,
        }
    }

    /// About a restore in place.
    pub(super) fn of_order(socket: &Path, order: &str) -> Self {
        Self {
            order: Some(order.to_owned()),
            ..Self::beside(socket)
        }
    }

    /// An order waits to be let go.
    pub(super) fn holding(&self, why: &str) {
        self.put(BootstrapState::Holding, why, None, true);
    }

    /// Whether this order was refused in this pod before, and nothing was touched.
    pub(super) fn has_refused(&self) -> bool {
        let report = read(&self.file);
        report.is_some_and(|report| {
            report.state == BootstrapState::Refused
                && report.untouched
                && report.order.is_some()
                && report.order == self.order
        })
    }

    /// It is on its way.
    pub(super) fn restoring(&self, what: &str, progress: ProgressStatus) {
        self.put(BootstrapState::Restoring, what, Some(progress), false);
    }

    /// It can't be done, or not yet. `untouched`: the directory is as it was.
    pub(super) fn not_done(&self, failure: &Failure, untouched: bool) {
        let state = match failure.class {
            ExitClass::Refused | ExitClass::Usage => BootstrapState::Refused,
            _ => BootstrapState::Waiting,
        };
        self.put(state, &failure.message, None, untouched);
    }

    /// Postgres may start, or not: hands on what it was given.
    pub(super) fn ended(&self, result: Result<(), Failure>) -> Result<(), Failure> {
        match &result {
            Ok(()) => {
                let _ = fs::remove_file(&self.file);
            }
            Err(failure) => self.not_done(failure, false),
        }
        result
    }

    fn put(
        &self,
        state: BootstrapState,
        message: &str,
        progress: Option<ProgressStatus>,
        untouched: bool,
    ) {
        let report = BootstrapReport {
            state,
            message: message.to_owned(),
            progress,
            order: self.order.clone(),
            untouched,
        };
        let new = self.file.with_extension("json.new");
        let put = serde_json::to_vec(&report)
            .map_err(std::io::Error::from)
            .and_then(|text| fs::write(&new, text))
            .and_then(|()| fs::rename(&new, &self.file));
        if let Err(error) = put {
            tracing::warn!(%error, "the sidecar can't be told how the restore goes");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_was_refused_stays_so() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("wal.sock");
        let told = Told::of_order(&socket, "a1");
        told.not_done(&Failure::unknown("the store is away"), true);
        assert!(!told.has_refused());
        told.not_done(&Failure::refused("damaged"), false);
        assert!(!told.has_refused());
        told.not_done(&Failure::refused("no room"), true);
        assert!(told.has_refused());
        assert!(!Told::of_order(&socket, "a2").has_refused());
    }

    #[test]
    fn the_sidecar_reads_what_was_told_last() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("wal.sock");
        let told = Told::beside(&socket);
        assert_eq!(reported(&socket), None);
        told.restoring("it is restored", ProgressStatus::new(1, 2));
        let report = reported(&socket).unwrap();
        assert_eq!(report.state, BootstrapState::Restoring);
        assert_eq!(report.progress.map(|progress| progress.percent), Some(50));
        for (failure, state) in [
            (Failure::refused("never"), BootstrapState::Refused),
            (Failure::failed("no room"), BootstrapState::Waiting),
        ] {
            let message = failure.message.clone();
            assert!(told.ended(Err(failure)).is_err());
            let report = reported(&socket).unwrap();
            assert_eq!((report.state, report.message), (state, message));
        }
        fs::write(file(&socket), "half").unwrap();
        assert_eq!(reported(&socket), None);
        told.ended(Ok(())).unwrap();
        assert!(!file(&socket).exists());
    }
}
