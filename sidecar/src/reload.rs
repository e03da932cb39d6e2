//! Takes over new settings, and what the files that they name hold now, without a restart.
//!
//! kubelet swaps all files of a mounted Secret at once, but a reader that is between two of them sees some of either;
//! and whoever edits by hand writes one after the other. So the files are looked at every few seconds, and what can't
//! be used changes nothing: the old stays in use and the reason is told.

use crate::config::{self, Control, Fingerprint, Live, Overrides, Settings};
use crate::control::tls::Identity;
use crate::exit::{ExitClass, Failure};
use holdfast_repository::blocking;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(2);

/// Watches the settings' files.
#[derive(Debug)]
pub struct Watcher {
    live: Live,
    overrides: Overrides,
    identity: Arc<Identity>,
    /// Those in use, and those that could not be used.
    files: BTreeSet<PathBuf>,
    /// None: to be looked at whatever they hold.
    seen: Option<Fingerprint>,
    begun: bool,
}

impl Watcher {
    /// For the settings in use. Nothing is read yet.
    pub fn new(live: Live, overrides: Overrides, identity: Arc<Identity>) -> Self {
        let files = live.get().files();
        Self {
            live,
            overrides,
            identity,
            files,
            seen: None,
            begun: false,
        }
    }

    /// Looks for ever.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(EVERY).await;
            self = blocking(move || {
                self.look();
                self
            })
            .await;
        }
    }

    /// Takes over what has changed. Reads files.
    pub fn look(&mut self) {
        if self.seen == Some(Fingerprint::of(&self.files)) {
            return;
        }
        let first = !std::mem::replace(&mut self.begun, true);
        let current = self.live.get();
        let found = self.read(&current);
        let mut trouble = Vec::new();
        match found {
            // Told once the writer is done.
            Found::Changing => {
                self.seen = None;
                return;
            }
            Found::Bad(why) => trouble.push(why),
            Found::Good {
                settings,
                unchanged,
            } => {
                trouble.extend(unchanged);
                if !first {
                    tracing::info!(
                        generation = settings.generation,
                        "the settings, or files that they name, have changed, and are in use as they are now"
                    );
                }
                self.live.replace(Arc::new(*settings));
            }
        }
        trouble.extend(self.certificates(self.live.get().control.as_ref()));
        let trouble = (!trouble.is_empty()).then(|| trouble.join("; "));
        if let Some(why) = &trouble {
            tracing::warn!(why, "new settings are not in use");
        }
        self.live.set_trouble(trouble);
    }

    fn certificates(&self, control: Option<&Control>) -> Option<String> {
        let error = self.identity.load(control?).err()?;
        Some(format!(
            "the control API's certificates stay as they were: {error}"
        ))
    }

    /// Reads all of it, once.
    fn read(&mut self, current: &Settings) -> Found {
        let bad = |error: &(dyn std::error::Error + 'static)| {
            Found::Bad(Failure::from_error(ExitClass::Refused, error).message)
        };
        self.files = current.files();
        let text = config::read(&current.file);
        let parsed = text.and_then(|text| {
            let settings = config::parse(&current.file, &text, &self.overrides)?;
            Ok((text, settings))
        });
        let (text, settings) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                self.seen = Some(Fingerprint::of(&self.files));
                return bad(&error);
            }
        };
        self.files.extend(settings.files());
        // What changes from here on is seen the next time.
        self.seen = Some(Fingerprint::of(&self.files));
        if config::read(&current.file).ok().as_ref() != Some(&text) {
            return Found::Changing;
        }
        if let Err(error) = settings.check_secrets() {
            return bad(&error);
        }
        match take_over(current, settings) {
            Ok((settings, unchanged)) => Found::Good {
                settings: Box::new(settings),
                unchanged,
            },
            Err(why) => Found::Bad(why),
        }
    }
}

enum Found {
    Good {
        settings: Box<Settings>,
        /// What of them is not taken over.
        unchanged: Option<String>,
    },
    Bad(String),
    Changing,
}

/// What is in use after `new` was read: what only a restart can change stays as it is, and is named. Whose WAL is
/// archived, and where, is no mere setting: then nothing is taken over.
fn take_over(old: &Settings, new: Settings) -> Result<(Settings, Option<String>), String> {
    if new.archive != old.archive {
        return Err(format!(
            "the archive's name has changed from {} to {}: restart the sidecar",
            old.archive, new.archive
        ));
    }
    if new.postgres.data_directory != old.postgres.data_directory {
        return Err(format!(
            "postgres.dataDirectory has changed from {} to {}: restart the sidecar",
            old.postgres.data_directory.display(),
            new.postgres.data_directory.display()
        ));
    }
    let listens = |settings: &Settings| settings.control.as_ref().map(|control| control.listen);
    let changed = [
        ("socket", new.socket != old.socket),
        ("control.listen", listens(&new) != listens(old)),
        ("monitoring.listen", new.monitoring != old.monitoring),
        ("limits.memory", new.memory != old.memory),
    ];
    let names: Vec<_> = changed
        .iter()
        .filter(|(_, changed)| *changed)
        .map(|(name, _)| *name)
        .collect();
    let control = match (&old.control, new.control) {
        (Some(old), Some(new)) => Some(Control {
            listen: old.listen,
            ..new
        }),
        (old, _) => old.clone(),
    };
    let settings = Settings {
        socket: old.socket.clone(),
        control,
        monitoring: old.monitoring,
        memory: old.memory,
        ..new
    };
    let unchanged = (!names.is_empty()).then(|| {
        format!(
            "{} can't change while the sidecar runs, and stays as it was: restart it",
            names.join(" and ")
        )
    });
    Ok((settings, unchanged))
}

#[cfg(test)]
mod tests;
