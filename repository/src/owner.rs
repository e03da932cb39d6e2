//! Who may expire: of the installations that know an archive, exactly one (invariant 11). All others only read and add.
//!
//! `owner/<epoch>` names it, in plain JSON, created once; the highest epoch counts. So of two that come at the same time
//! one wins, and one that was replaced sees it before it deletes anything.

use crate::archive::{Archive, FORMAT_VERSION, OpenError, read_json, to_json};
use crate::layout;
use crate::store::Created;
use futures::TryStreamExt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Names one installation of Holdfast for all its life: letters, digits, `-` and `.`, 63 at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallationId(String);

/// A text that can't name an installation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} can't name an installation: 1 to 63 letters, digits, '-' and '.'")]
pub struct BadInstallationId(String);

/// `owner/<epoch>`, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OwnerJson {
    format_version: u32,
    oldest_reader: u32,
    epoch: u32,
    installation: InstallationId,
    since: Timestamp,
    version: String,
}

/// The installation that may expire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Counts up with every change of hands, from 1.
    pub epoch: u32,
    /// Which it is.
    pub installation: InstallationId,
    /// By its clock.
    pub since: Timestamp,
    /// Of the program that wrote it.
    pub version: String,
}

/// What an owner is called where consent to replace it is asked for: the installation and the epoch, such as
/// `5f0c….1`. With the epoch a consent serves once: who takes the archive back is not replaced again by what still
/// stands in the other's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerName(String);

/// Whose an archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ownership {
    /// This installation's.
    Ours,
    /// Another's.
    Other {
        /// What consent to replace it has to name.
        id: OwnerName,
        /// By its clock.
        since: Timestamp,
    },
    /// Nobody's yet.
    None,
}

/// An archive that was not taken over.
#[derive(Debug, Error)]
pub enum TakeOverError {
    /// Somebody else than the one that consent was given for.
    #[error(
        "the archive at {place} is owned by {present} since {since:.0}, and consent was given to replace {given}: to replace the present owner, say `takeOver: \"{present}\"`"
    )]
    OtherOwner {
        /// The store.
        place: String,
        /// What consent would have to name.
        present: OwnerName,
        /// By its clock.
        since: Timestamp,
        /// What it names.
        given: String,
    },
    /// The archive, or its present owner, can't be read or written.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl InstallationId {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Owner {
    /// What consent to replace it has to name.
    pub fn name(&self) -> OwnerName {
        OwnerName(format!("{}.{}", self.installation, self.epoch))
    }
}

/// Whose it is, as `ours` sees it. Pure.
pub fn ownership(owner: Option<&Owner>, ours: &InstallationId) -> Ownership {
    match owner {
        None => Ownership::None,
        Some(owner) if owner.installation == *ours => Ownership::Ours,
        Some(owner) => Ownership::Other {
            id: owner.name(),
            since: owner.since,
        },
    }
}

/// The present owner; none where nobody has claimed the archive. A damaged one is an error: then nobody can tell.
pub async fn present(archive: &Archive) -> Result<Option<Owner>, OpenError> {
    let store = archive.store();
    let prefix = format!("{}/", layout::OWNERS);
    let mut newest: Option<u32> = None;
    let mut listing = store.list(layout::OWNERS);
    while let Some(object) = listing.try_next().await? {
        let epoch = object
            .key
            .strip_prefix(&prefix)
            .and_then(|name| name.parse::<u32>().ok());
        newest = newest.max(epoch.filter(|epoch| layout::owner(*epoch) == object.key));
    }
    let Some(epoch) = newest else {
        return Ok(None);
    };
    let key = layout::owner(epoch);
    let owner: OwnerJson = read_json(store, &key).await?;
    if owner.epoch != epoch {
        return Err(OpenError::Damaged {
            object: key,
            place: store.description().to_owned(),
            why: format!("it says that it is epoch {}", owner.epoch),
        });
    }
    Ok(Some(Owner {
        epoch,
        installation: owner.installation,
        since: owner.since,
        version: owner.version,
    }))
}

/// Makes `ours` the owner of an archive that has none. Whoever comes first wins; what stands there then is told.
pub async fn claim(
    archive: &Archive,
    ours: &InstallationId,
    version: &str,
) -> Result<Ownership, OpenError> {
    if let Some(owner) = present(archive).await? {
        return Ok(ownership(Some(&owner), ours));
    }
    write(archive, ours, version, 1).await
}

/// Makes `ours` the owner in the place of the one that `replaced` names, which must be the present one. Where it is
/// `ours` already, there is nothing to do.
pub async fn take_over(
    archive: &Archive,
    ours: &InstallationId,
    version: &str,
    replaced: &str,
) -> Result<(), TakeOverError> {
    let refused = |owner: OwnerName, since| TakeOverError::OtherOwner {
        place: archive.store().description().to_owned(),
        present: owner,
        since,
        given: replaced.chars().take(100).collect(),
    };
    let epoch = match present(archive).await? {
        Some(owner) if owner.installation == *ours => return Ok(()),
        Some(owner) if owner.name().0 == replaced => owner.epoch.saturating_add(1),
        Some(owner) => return Err(refused(owner.name(), owner.since)),
        None => 1,
    };
    match write(archive, ours, version, epoch).await? {
        Ownership::Other { id, since } => Err(refused(id, since)),
        Ownership::Ours | Ownership::None => Ok(()),
    }
}

/// Writes this epoch, if nobody has, and reads back whose the archive is.
async fn write(
    archive: &Archive,
    ours: &InstallationId,
    version: &str,
    epoch: u32,
) -> Result<Ownership, OpenError> {
    let json = OwnerJson {
        format_version: FORMAT_VERSION,
        oldest_reader: 1,
        epoch,
        installation: ours.clone(),
        since: Timestamp::now(),
        version: version.to_owned(),
    };
    match archive
        .store()
        .create(&layout::owner(epoch), vec![to_json(&json)])
        .await?
    {
        Created::New | Created::Occupied(_) => {}
    }
    Ok(ownership(present(archive).await?.as_ref(), ours))
}

impl FromStr for InstallationId {
    type Err = BadInstallationId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = (1..=63).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadInstallationId(text.chars().take(100).collect()))
        }
    }
}

impl fmt::Display for InstallationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for OwnerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for InstallationId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for InstallationId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::{Store, StoreSettings};
    use bytes::Bytes;
    use std::path::Path;

    fn id(text: &str) -> InstallationId {
        text.parse().unwrap()
    }

    fn store(path: &Path) -> Store {
        StoreSettings::Filesystem {
            path: path.to_owned(),
        }
        .open("shop/orders")
        .unwrap()
    }

    async fn archive(path: &Path) -> Archive {
        Archive::open_or_create(store(path), None).await.unwrap()
    }

    #[test]
    fn whose_it_is() {
        let owner = |installation: &str| Owner {
            epoch: 3,
            installation: id(installation),
            since: Timestamp::UNIX_EPOCH,
            version: "1".into(),
        };
        for (owner, expected) in [
            (None, Ownership::None),
            (Some(owner("a")), Ownership::Ours),
            (
                Some(owner("b")),
                Ownership::Other {
                    id: OwnerName("b.3".into()),
                    since: Timestamp::UNIX_EPOCH,
                },
            ),
        ] {
            assert_eq!(ownership(owner.as_ref(), &id("a")), expected);
        }
        for bad in ["", "a b", "a/b", "a\n", &"x".repeat(64)] {
            assert!(bad.parse::<InstallationId>().is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn of_many_that_claim_at_once_one_wins() {
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let archive = archive(dir.path()).await;
            assert_eq!(present(&archive).await.unwrap(), None);
            let ids: Vec<_> = (0..8).map(|n| id(&format!("i{n}"))).collect();
            let claims =
                futures::future::join_all(ids.iter().map(|ours| claim(&archive, ours, "1"))).await;
            let ours = claims
                .into_iter()
                .filter(|claimed| matches!(claimed, Ok(Ownership::Ours)));
            assert_eq!(ours.count(), 1);
            let winner = present(&archive).await.unwrap().unwrap();
            assert_eq!(winner.epoch, 1);
            // Coming again changes nothing, for whomever.
            for ours in &ids {
                let again = claim(&archive, ours, "2").await.unwrap();
                assert_eq!(again == Ownership::Ours, *ours == winner.installation);
            }
            assert_eq!(present(&archive).await.unwrap(), Some(winner));
        }
    }

    #[tokio::test]
    async fn an_owner_is_replaced_only_by_name_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let archive = archive(dir.path()).await;
        let (a, b, c) = (id("a"), id("b"), id("c"));
        assert_eq!(claim(&archive, &a, "1").await.unwrap(), Ownership::Ours);
        for wrong in ["", "a", "b.1", "a.2", "A.1"] {
            let refused = take_over(&archive, &b, "1", wrong).await.unwrap_err();
            assert!(
                matches!(&refused, TakeOverError::OtherOwner { present, .. } if present.0 == "a.1"),
                "{wrong}: {refused}"
            );
        }
        take_over(&archive, &b, "1", "a.1").await.unwrap();
        assert_eq!(present(&archive).await.unwrap().unwrap().name().0, "b.2");
        // Its consent stands in the settings still, and changes nothing.
        take_over(&archive, &b, "1", "a.1").await.unwrap();
        // Nor is it a consent against what came after.
        take_over(&archive, &a, "1", "b.2").await.unwrap();
        assert!(take_over(&archive, &b, "1", "a.1").await.is_err());
        assert_eq!(present(&archive).await.unwrap().unwrap().name().0, "a.3");
        // Two that replace the same one: one wins, and the other is told whom it would have to name.
        let (one, other) = futures::join!(
            take_over(&archive, &b, "1", "a.3"),
            take_over(&archive, &c, "1", "a.3")
        );
        let winner = present(&archive).await.unwrap().unwrap();
        assert_eq!(winner.epoch, 4);
        let (won, lost) = if winner.installation == b {
            (one, other)
        } else {
            (other, one)
        };
        assert!(won.is_ok());
        assert!(
            lost.unwrap_err()
                .to_string()
                .contains(&winner.name().to_string())
        );
    }

    #[tokio::test]
    async fn the_highest_epoch_counts_and_a_damaged_one_is_no_absence() {
        let dir = tempfile::tempdir().unwrap();
        let archive = archive(dir.path()).await;
        let (a, b) = (id("a"), id("b"));
        claim(&archive, &a, "1").await.unwrap();
        for epoch in 2..12 {
            let (ours, name) = (
                if epoch % 2 == 0 { &b } else { &a },
                present(&archive).await.unwrap().unwrap().name(),
            );
            take_over(&archive, ours, "1", &name.to_string())
                .await
                .unwrap();
        }
        // 10 comes after 9, not after 1; what is no epoch is none.
        let store = store(dir.path());
        for key in ["owner/x", "owner/0012", "owner/99/1"] {
            let _ = store
                .create(key, vec![Bytes::from_static(b"{}")])
                .await
                .unwrap();
        }
        assert_eq!(present(&archive).await.unwrap().unwrap().name().0, "a.11");
        let _ = store
            .create("owner/12", vec![Bytes::from_static(b"{}")])
            .await
            .unwrap();
        for failed in [
            present(&archive).await.map(|_| ()),
            claim(&archive, &a, "1").await.map(|_| ()),
        ] {
            assert!(
                matches!(failed, Err(OpenError::Damaged { .. })),
                "{failed:?}"
            );
        }
        assert!(take_over(&archive, &b, "1", "a.11").await.is_err());
    }
}
