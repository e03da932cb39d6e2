//! An archive: what identifies it, its keys, and the incarnations that it holds.

use crate::compression::Compression;
use crate::keys::{DataKey, KeyError, MasterKeys, WrappedKey};
use crate::layout;
use crate::object::{self, ObjectError, ObjectKind, ObjectReader, ObjectWriter, Sealing};
use crate::store::{Created, Store, StoreError};
use bytes::Bytes;
use futures::TryStreamExt;
use holdfast_postgres::{SegmentSize, SystemIdentifier};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use thiserror::Error;

/// The version of everything that this program writes.
pub const FORMAT_VERSION: u32 = 1;

/// No JSON object of ours is larger, in bytes.
const LARGEST_JSON: u64 = 64 << 10;

/// The field of a JSON object of ours that holds the digest of the others.
const DIGEST: &str = "digest";

/// Random, made once with the archive; every object is bound to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ArchiveId(pub [u8; 16]);

/// An archive that was opened: its store, its id and its data keys. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Archive {
    store: Store,
    id: ArchiveId,
    /// By number; empty where the archive is not encrypted.
    keys: BTreeMap<u32, DataKey>,
}

/// `archive.json`
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchiveJson {
    format_version: u32,
    /// The oldest version of this program's formats that may read what is here.
    oldest_reader: u32,
    archive_id: ArchiveId,
    created: jiff::Timestamp,
    /// The master key under which data key 1 was first wrapped; left out: not encrypted. Fixed here, so that two
    /// installations that start at once with different keys can't make two data keys of one number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_master_key: Option<String>,
}

/// `<system identifier>/identity.json`: what is true of one incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    format_version: u32,
    oldest_reader: u32,
    /// 14 to 18.
    pub postgres_major: u32,
    /// In bytes.
    pub segment_size: u32,
    /// By the clock of whoever came first.
    pub created: jiff::Timestamp,
    /// The incarnation before this one, if consent was given to begin this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<SystemIdentifier>,
}

/// An archive that can't be opened or used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// No `archive.json`.
    #[error(
        "there is no archive at {0}: check the bucket or path, the prefix and the archive's name; the first WAL segment or backup makes one"
    )]
    NotThere(String),
    /// Written by a newer version.
    #[error(
        "{object} at {place} has format {found}, and this program reads up to {FORMAT_VERSION}: use a newer holdfast"
    )]
    NewerFormat {
        /// Its key.
        object: String,
        /// The store.
        place: String,
        /// What it needs.
        found: u32,
    },
    /// Not JSON, or not ours.
    #[error("{object} at {place} is damaged: {why}")]
    Damaged {
        /// Its key.
        object: String,
        /// The store.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// Encrypted, and no key is configured.
    #[error(
        "the archive at {place} is encrypted: give encryption.currentKey and encryption.keyFiles (its master keys: {wanted})"
    )]
    KeyRequired {
        /// The store.
        place: String,
        /// Ids of the keys that wrap its data keys.
        wanted: String,
    },
    /// None of the given keys opens a data key.
    #[error(
        "data key {number} of the archive at {place} can't be opened: it is wrapped by {wrapped_by}, and {given} was given ({why}): give the key that it was wrapped with"
    )]
    KeyLost {
        /// The data key.
        number: u32,
        /// The store.
        place: String,
        /// Ids found in the repository.
        wrapped_by: String,
        /// Ids found in the configuration.
        given: String,
        /// What was tried.
        why: String,
    },
    /// Not encrypted, and a key is configured.
    #[error(
        "the archive at {0} is not encrypted, and encryption is configured: remove `encryption`, or begin a new archive under another name or prefix"
    )]
    NotEncrypted(String),
    /// Key files are gone, but data is there.
    #[error(
        "the archive at {0} holds data, but none of its data keys: the objects under keys/ were lost; restore them from a copy of the bucket"
    )]
    KeysGone(String),
    /// Another database lives here.
    #[error(
        "the archive at {place} belongs to the database with system identifier {existing}, and this one has {ours}: if this is the same database after pg_upgrade or initdb, say so with `acceptSystemIdentifier: \"{ours}\"`; else give it another archive name"
    )]
    OtherDatabase {
        /// The store.
        place: String,
        /// What is there.
        existing: SystemIdentifier,
        /// What came.
        ours: SystemIdentifier,
    },
    /// Same system identifier, other facts.
    #[error(
        "the archive at {place} describes {system} as Postgres {stored_major} with {stored_segment}-byte segments, and the data directory is Postgres {our_major} with {our_segment}-byte segments"
    )]
    IdentityDiffers {
        /// The store.
        place: String,
        /// Of both.
        system: SystemIdentifier,
        /// As stored.
        stored_major: u32,
        /// As stored.
        stored_segment: u32,
        /// As found.
        our_major: u32,
        /// As found.
        our_segment: u32,
    },
    /// A key that can't be made or used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OpenError {
    /// Whether trying again can't help.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Store(e) => e.is_permanent(),
            _ => true,
        }
    }
}

impl Archive {
    /// Opens what is there; makes nothing.
    pub async fn open(store: Store, masters: Option<&MasterKeys>) -> Result<Self, OpenError> {
        let json: ArchiveJson = match read_json(&store, layout::ARCHIVE).await {
            Err(OpenError::Store(e)) if e.is_not_found() => {
                return Err(OpenError::NotThere(store.description().to_owned()));
            }
            other => other?,
        };
        let keys = open_keys(&store, &json, masters).await?;
        Ok(Self {
            store,
            id: json.archive_id,
            keys,
        })
    }

    /// Opens what is there, else makes a new archive: encrypted if `masters` are given.
    pub async fn open_or_create(
        store: Store,
        masters: Option<&MasterKeys>,
    ) -> Result<Self, OpenError> {
        match Self::open(store.clone(), masters).await {
            Err(OpenError::NotThere(_)) => {}
            other => return other,
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|_| KeyError::Cipher)?;
        let json = ArchiveJson {
            format_version: FORMAT_VERSION,
            oldest_reader: 1,
            archive_id: ArchiveId(id),
            created: jiff::Timestamp::now(),
            first_master_key: masters.map(|m| m.current().to_owned()),
        };
        // Whoever came first wins; what stands there is read back in either case.
        let _ = store.create(layout::ARCHIVE, vec![to_json(&json)]).await?;
        Self::open(store, masters).await
    }

    /// Where the archive lies.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The archive's random id.
    pub fn id(&self) -> ArchiveId {
        self.id
    }

    /// Whether what is written is encrypted.
    pub fn is_encrypted(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Reads `archive.json` again: proof that the store that answers is the one that holds this archive.
    pub async fn confirm(&self) -> Result<(), OpenError> {
        let json: ArchiveJson = match read_json(&self.store, layout::ARCHIVE).await {
            Err(OpenError::Store(e)) if e.is_not_found() => {
                return Err(OpenError::NotThere(self.store.description().to_owned()));
            }
            other => other?,
        };
        if json.archive_id != self.id {
            return Err(OpenError::Damaged {
                object: layout::ARCHIVE.into(),
                place: self.store.description().to_owned(),
                why: "it names another archive than it did before".into(),
            });
        }
        Ok(())
    }

    /// Every incarnation that has an identity, with it, oldest first.
    pub async fn incarnations(&self) -> Result<Vec<(SystemIdentifier, Identity)>, OpenError> {
        self.incarnations_but(None).await
    }

    /// `own` is about to write its identity, so it may be missing.
    async fn incarnations_but(
        &self,
        own: Option<SystemIdentifier>,
    ) -> Result<Vec<(SystemIdentifier, Identity)>, OpenError> {
        let mut found = Vec::new();
        for folder in self.store.list_folders("").await? {
            let Ok(system) = folder.parse::<SystemIdentifier>() else {
                continue;
            };
            match self.identity(system).await? {
                Some(identity) => found.push((system, identity)),
                None if own == Some(system) => {}
                // It is written first: what lies beside it was once its own. A folder may be left empty.
                None => {
                    if self.store.list(&folder).try_next().await?.is_some() {
                        return Err(OpenError::Damaged {
                            object: layout::identity(system),
                            place: self.store.description().to_owned(),
                            why: "it is missing, and what it describes is there".to_owned(),
                        });
                    }
                }
            }
        }
        found.sort_by_key(|(_, identity)| identity.created);
        Ok(found)
    }

    /// One incarnation's identity, if it is there.
    pub async fn identity(&self, system: SystemIdentifier) -> Result<Option<Identity>, OpenError> {
        match read_json::<Identity>(&self.store, &layout::identity(system)).await {
            Ok(identity) => Ok(Some(identity)),
            Err(OpenError::Store(e)) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes sure that this database may write here: its identity stands and agrees, or none stands yet, or
    /// `accepted` is its system identifier.
    pub async fn claim(
        &self,
        system: SystemIdentifier,
        major: u32,
        segment_size: SegmentSize,
        accepted: Option<SystemIdentifier>,
    ) -> Result<Identity, OpenError> {
        if let Some(identity) = self.identity(system).await? {
            return self.agree(system, identity, major, segment_size);
        }
        let mut others = self.incarnations_but(Some(system)).await?;
        // Another of this database's writers was quicker.
        if let Some(at) = others.iter().position(|(other, _)| *other == system) {
            let (_, identity) = others.swap_remove(at);
            return self.agree(system, identity, major, segment_size);
        }
        let previous = others.last().map(|(system, _)| *system);
        if let Some(existing) = previous
            && accepted != Some(system)
        {
            return Err(OpenError::OtherDatabase {
                place: self.store.description().to_owned(),
                existing,
                ours: system,
            });
        }
        let identity = Identity {
            format_version: FORMAT_VERSION,
            oldest_reader: 1,
            postgres_major: major,
            segment_size: segment_size.bytes(),
            created: jiff::Timestamp::now(),
            previous,
        };
        match self
            .store
            .create(&layout::identity(system), vec![to_json(&identity)])
            .await?
        {
            Created::New => Ok(identity),
            Created::Occupied(_) => {
                let stored = read_json(&self.store, &layout::identity(system)).await?;
                self.agree(system, stored, major, segment_size)
            }
        }
    }

    fn agree(
        &self,
        system: SystemIdentifier,
        stored: Identity,
        major: u32,
        segment_size: SegmentSize,
    ) -> Result<Identity, OpenError> {
        if stored.postgres_major != major || stored.segment_size != segment_size.bytes() {
            return Err(OpenError::IdentityDiffers {
                place: self.store.description().to_owned(),
                system,
                stored_major: stored.postgres_major,
                stored_segment: stored.segment_size,
                our_major: major,
                our_segment: segment_size.bytes(),
            });
        }
        Ok(stored)
    }

    /// Begins an object under `key`, sealed by the newest data key.
    pub fn writer(&self, kind: ObjectKind, key: &str) -> Result<ObjectWriter, ObjectError> {
        let sealing = match self.keys.last_key_value() {
            Some((_, key)) => Sealing::Key(key.clone()),
            None => Sealing::Digest,
        };
        ObjectWriter::new(self.id, kind, key, sealing)
    }

    /// Reads an object's header, so that its frames can be opened.
    pub fn reader(
        &self,
        kind: ObjectKind,
        key: &str,
        start: &[u8],
    ) -> Result<ObjectReader, ObjectError> {
        ObjectReader::new(self.id, kind, key, start, self.is_encrypted(), |number| {
            self.keys.get(&number).cloned()
        })
    }

    /// Creates a small object of one frame.
    pub async fn create_single(
        &self,
        kind: ObjectKind,
        key: &str,
        content: &[u8],
    ) -> Result<Created, ObjectError> {
        let mut writer = self.writer(kind, key)?;
        writer.append(&Compression::Zstd(3).pack(content), true)?;
        Ok(self.store.create(key, vec![writer.finish()]).await?)
    }

    /// Opens a small object of one frame that was read as a whole.
    pub fn open_single(
        &self,
        kind: ObjectKind,
        key: &str,
        bytes: &[u8],
    ) -> Result<Vec<u8>, ObjectError> {
        let reader = self.reader(kind, key, bytes)?;
        let frames =
            object::split_frames(key, bytes.get(object::HEADER_BYTES..).unwrap_or_default())?;
        match frames.as_slice() {
            [only] => reader.open(0, true, only),
            _ => Err(ObjectError::damaged(key, "it should have one frame")),
        }
    }

    /// A digest of content that tells nothing about it without the key, where the archive is encrypted.
    /// The lowest data key makes it, so that it stays the same when keys are added.
    pub fn digest(&self, content: &[u8]) -> [u8; 32] {
        let mut hasher = self.hasher();
        hasher.update(content);
        *hasher.finalize().as_bytes()
    }

    /// The same, for content that comes in pieces.
    pub fn hasher(&self) -> blake3::Hasher {
        match self.keys.first_key_value() {
            Some((_, key)) => blake3::Hasher::new_keyed(&blake3::derive_key(
                "holdfast content digest v1",
                &key.secret,
            )),
            None => blake3::Hasher::new(),
        }
    }
}

async fn open_keys(
    store: &Store,
    json: &ArchiveJson,
    masters: Option<&MasterKeys>,
) -> Result<BTreeMap<u32, DataKey>, OpenError> {
    let place = || store.description().to_owned();
    let (first, masters) = match (&json.first_master_key, masters) {
        (None, None) => return Ok(BTreeMap::new()),
        (None, Some(_)) => return Err(OpenError::NotEncrypted(place())),
        (Some(first), None) => {
            return Err(OpenError::KeyRequired {
                place: place(),
                wanted: first.clone(),
            });
        }
        (Some(first), Some(masters)) => (first, masters),
    };
    let mut wraps = list_wraps(store).await?;
    if wraps.is_empty() {
        if store
            .list_folders("")
            .await?
            .iter()
            .any(|f| f.parse::<SystemIdentifier>().is_ok())
        {
            return Err(OpenError::KeysGone(place()));
        }
        if !masters.ids().any(|id| id == first) {
            return Err(OpenError::KeyRequired {
                place: place(),
                wanted: first.clone(),
            });
        }
        let wrapped = masters.wrap(first, json.archive_id, &DataKey::generate(1)?)?;
        let _ = store
            .create(&layout::wrapped_key(1, first), vec![to_json(&wrapped)])
            .await?;
        wraps = BTreeMap::from([(1, vec![first.clone()])]);
    }
    let mut keys = BTreeMap::new();
    for (number, wrapped_by) in wraps {
        let mut why = "none of them is among the given".to_owned();
        for id in wrapped_by
            .iter()
            .filter(|id| masters.ids().any(|m| m == id.as_str()))
        {
            let wrapped: WrappedKey = read_json(store, &layout::wrapped_key(number, id)).await?;
            match masters.unwrap(id, json.archive_id, number, &wrapped) {
                Ok(key) => {
                    keys.insert(number, key);
                }
                Err(e) => {
                    why = format!("{id}: {e}");
                    // Another key opens it, but who relies on this one would lose everything with the other.
                    if id == masters.current() {
                        keys.remove(&number);
                        break;
                    }
                }
            }
        }
        let Some(key) = keys.get(&number) else {
            return Err(OpenError::KeyLost {
                number,
                place: place(),
                wrapped_by: wrapped_by.join(", "),
                given: masters.ids().collect::<Vec<_>>().join(", "),
                why,
            });
        };
        // A new master key wraps what the old one opened, so that the old one can go.
        if !wrapped_by.iter().any(|id| id == masters.current()) {
            let wrapped = masters.wrap(masters.current(), json.archive_id, key)?;
            match store
                .create(
                    &layout::wrapped_key(number, masters.current()),
                    vec![to_json(&wrapped)],
                )
                .await
            {
                Ok(_) => {}
                // Reading goes on without the right to write.
                Err(e) => tracing::warn!(
                    "can't wrap data key {number} with {}: {e}",
                    masters.current()
                ),
            }
        }
    }
    Ok(keys)
}

/// Data key numbers and the ids of the master keys that wrap each.
async fn list_wraps(store: &Store) -> Result<BTreeMap<u32, Vec<String>>, OpenError> {
    let mut wraps: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let mut listing = store.list(layout::KEYS);
    loop {
        match listing.try_next().await {
            Ok(Some(object)) => {
                let mut parts = object.key.split('/').skip(1);
                let (Some(number), Some(file), None) = (parts.next(), parts.next(), parts.next())
                else {
                    continue;
                };
                let (Ok(number), Some(id)) = (number.parse::<u32>(), file.strip_suffix(".json"))
                else {
                    continue;
                };
                if crate::keys::valid_id(id) {
                    wraps.entry(number).or_default().push(id.to_owned());
                }
            }
            Ok(None) => return Ok(wraps),
            Err(e) if e.is_not_found() => return Ok(wraps),
            Err(e) => return Err(e.into()),
        }
    }
}

/// With the digest of everything else in it: these objects say what all others are, so a flipped bit must not pass.
pub(crate) fn to_json(value: &impl Serialize) -> Bytes {
    // Our own plain structs always serialise, as objects.
    let mut value = serde_json::to_value(value).unwrap_or_default();
    let digest = json_digest(&value);
    if let Some(fields) = value.as_object_mut() {
        fields.insert(DIGEST.to_owned(), digest.into());
    }
    format!("{value:#}\n").into()
}

/// BLAKE3 of the compact text with sorted names.
fn json_digest(value: &serde_json::Value) -> String {
    blake3::hash(value.to_string().as_bytes())
        .to_hex()
        .to_string()
}

/// Reads JSON, the versions first, so that a newer format is told as such and not as damage.
pub(crate) async fn read_json<T: for<'a> Deserialize<'a>>(
    store: &Store,
    key: &str,
) -> Result<T, OpenError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versions {
        format_version: u32,
        oldest_reader: u32,
    }
    let bytes = store.get(key, LARGEST_JSON).await?;
    let damaged = |why: String| OpenError::Damaged {
        object: key.to_owned(),
        place: store.description().to_owned(),
        why,
    };
    let mut value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
    let versions = Versions::deserialize(&value).map_err(|e| damaged(e.to_string()))?;
    let digest = value.as_object_mut().and_then(|f| f.remove(DIGEST));
    let fits = digest.is_some_and(|digest| digest == json_digest(&value));
    let newer = if fits {
        versions.oldest_reader
    } else {
        versions.oldest_reader.max(versions.format_version)
    };
    if newer > FORMAT_VERSION {
        return Err(OpenError::NewerFormat {
            object: key.to_owned(),
            place: store.description().to_owned(),
            found: newer,
        });
    }
    if !fits {
        return Err(damaged("its digest does not match".to_owned()));
    }
    T::deserialize(value).map_err(|e| damaged(e.to_string()))
}

impl fmt::Display for ArchiveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ArchiveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArchiveId({self})")
    }
}

impl Serialize for ArchiveId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ArchiveId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut id = [0; 16];
        hex::decode_to_slice(&text, &mut id).map_err(serde::de::Error::custom)?;
        Ok(Self(id))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
