//! What the environment says about the one place where this program runs, over a file that many share.

use std::ffi::OsString;
use std::path::PathBuf;

/// Stronger than the settings file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// HOLDFAST_DATA_DIRECTORY, over `postgres.dataDirectory`.
    pub data_directory: Option<PathBuf>,
    /// HOLDFAST_MEMORY, over `limits.memory`.
    pub memory: Option<String>,
}

impl Overrides {
    /// This process'.
    pub fn of_process() -> Self {
        Self::from(|name| std::env::var_os(name))
    }

    /// An empty variable counts as none.
    fn from(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        Self {
            data_directory: set("HOLDFAST_DATA_DIRECTORY").map(PathBuf::from),
            memory: set("HOLDFAST_MEMORY").map(|memory| memory.to_string_lossy().into_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_is_none() {
        assert_eq!(Overrides::from(|_| Some("".into())), Overrides::default());
        assert_eq!(Overrides::from(|_| None), Overrides::default());
        let set = Overrides::from(|name| Some(name.into()));
        assert_eq!(set.data_directory, Some("HOLDFAST_DATA_DIRECTORY".into()));
        assert_eq!(set.memory.as_deref(), Some("HOLDFAST_MEMORY"));
    }
}
