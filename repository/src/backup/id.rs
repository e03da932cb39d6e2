//! What names a backup.

use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Names a backup: a moment and some random letters where a person ordered it, a UID where Kubernetes did.
/// Part of object names, so only letters, digits and `-`, 63 at most.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId(String);

/// A text that can't name a backup.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{0:?} can't be a backup's id: 1 to 63 letters, digits and '-', beginning with a letter or digit; `holdfast info` lists the backups"
)]
pub struct BadBackupId(String);

impl BackupId {
    /// A new id, such as `20261120T020000Z-k3v9`.
    pub fn generate(now: jiff::Timestamp) -> Self {
        const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
        let mut random = [0; 6];
        // Without random numbers the moment alone names it; a second of the same moment fails on create-only writes.
        let _ = getrandom::fill(&mut random);
        let tail: String = random
            .iter()
            .map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()]))
            .collect();
        Self(format!("{}-{tail}", now.strftime("%Y%m%dT%H%M%SZ")))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BackupId {
    type Err = BadBackupId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = (1..=63).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadBackupId(text.to_owned()))
        }
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_safe_in_object_names() {
        let id = BackupId::generate("2026-11-20T02:00:00Z".parse().unwrap());
        assert!(id.as_str().starts_with("20261120T020000Z-"));
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        for bad in ["", "-a", "../x", "a/b", "a b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<BackupId>().is_err(), "{bad:?}");
        }
    }
}
