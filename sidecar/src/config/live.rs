//! Settings that may be replaced while they are in use.

use super::Settings;
use std::sync::{Arc, PoisonError, RwLock};

/// The settings in use, shared by all that work with them. Cheap to clone.
///
/// Whoever begins a piece of work takes them once, with [`Live::get`], and ends it with the same: a change in between
/// is for the next piece. What was opened with some is kept for these alone ([`Arc::ptr_eq`]), for a replacement also
/// says that the files that they name have changed.
#[derive(Debug, Clone)]
pub struct Live(Arc<RwLock<State>>);

#[derive(Debug)]
struct State {
    settings: Arc<Settings>,
    trouble: Option<String>,
}

impl From<Arc<Settings>> for Live {
    fn from(settings: Arc<Settings>) -> Self {
        Self(Arc::new(RwLock::new(State {
            settings,
            trouble: None,
        })))
    }
}

impl Live {
    /// Those of now.
    pub fn get(&self) -> Arc<Settings> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        state.settings.clone()
    }

    /// From now on.
    pub fn replace(&self, settings: Arc<Settings>) {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        state.settings = settings;
    }

    /// Why newer ones, or all that they name, are not in use.
    pub fn trouble(&self) -> Option<String> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        state.trouble.clone()
    }

    /// Says why; none: all of them are.
    pub fn set_trouble(&self, trouble: Option<String>) {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        state.trouble = trouble;
    }
}
