//! Master keys, which the user holds, and data keys, which they wrap and which seal everything else.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use thiserror::Error;

use crate::archive::ArchiveId;

/// The length of every key, in bytes.
pub const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;

/// The master keys that a configuration gives, by id. `Debug` shows ids only.
#[derive(Clone)]
pub struct MasterKeys {
    current: String,
    keys: BTreeMap<String, [u8; KEY_BYTES]>,
}

/// One numbered data key, opened. `Debug` shows the number only.
#[derive(Clone)]
pub struct DataKey {
    /// 1 and up; the highest seals new data.
    pub number: u32,
    pub(crate) secret: [u8; KEY_BYTES],
}

/// `keys/<number>/<master key>.json`
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WrappedKey {
    format_version: u32,
    oldest_reader: u32,
    /// Nonce, sealed key and tag, base64.
    wrapped: String,
}

/// Keys that can't be used.
#[derive(Debug, Error)]
pub enum KeyError {
    /// `currentKey` names no key file.
    #[error("encryption.currentKey is {0:?}, and no key file of that name is given")]
    NoCurrent(String),
    /// The id would be a file name.
    #[error(
        "the master key id {0:?} can't be used: 1 to 63 letters, digits, '-', '_' or '.', beginning with a letter or digit"
    )]
    Id(String),
    /// The file is not what we wrote.
    #[error("the wrapped data key is damaged: {0}")]
    Damaged(String),
    /// The tag does not fit.
    #[error(
        "the master key does not open it: it is another key of the same name, or the file was changed"
    )]
    WrongKey,
    /// No random numbers, or a failure in the cipher.
    #[error("can't make or wrap a data key on this machine")]
    Cipher,
}

impl MasterKeys {
    /// `current` names the key that wraps new data keys.
    pub fn new(current: String, keys: BTreeMap<String, [u8; KEY_BYTES]>) -> Result<Self, KeyError> {
        if let Some(id) = keys.keys().find(|id| !valid_id(id)) {
            return Err(KeyError::Id(id.clone()));
        }
        if !keys.contains_key(&current) {
            return Err(KeyError::NoCurrent(current));
        }
        Ok(Self { current, keys })
    }

    /// The id of the key that wraps new data keys.
    pub fn current(&self) -> &str {
        &self.current
    }

    /// All ids.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    pub(crate) fn wrap(
        &self,
        master: &str,
        archive: ArchiveId,
        key: &DataKey,
    ) -> Result<WrappedKey, KeyError> {
        let secret = self
            .keys
            .get(master)
            .ok_or_else(|| KeyError::NoCurrent(master.to_owned()))?;
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|_| KeyError::Cipher)?;
        let mut sealed = key.secret.to_vec();
        cipher(secret)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(context(archive, key.number, master)),
                &mut sealed,
            )
            .map_err(|_| KeyError::Cipher)?;
        let wrapped = STANDARD.encode([&nonce[..], &sealed].concat());
        Ok(WrappedKey {
            format_version: 1,
            oldest_reader: 1,
            wrapped,
        })
    }

    pub(crate) fn unwrap(
        &self,
        master: &str,
        archive: ArchiveId,
        number: u32,
        wrapped: &WrappedKey,
    ) -> Result<DataKey, KeyError> {
        let secret = self
            .keys
            .get(master)
            .ok_or_else(|| KeyError::NoCurrent(master.to_owned()))?;
        if wrapped.oldest_reader > 1 {
            return Err(KeyError::Damaged(format!(
                "format {} needs a newer holdfast",
                wrapped.format_version
            )));
        }
        let bytes = STANDARD
            .decode(&wrapped.wrapped)
            .map_err(|e| KeyError::Damaged(e.to_string()))?;
        let (nonce, sealed) = bytes
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or_else(|| KeyError::Damaged("too short".into()))?;
        let mut sealed = sealed.to_vec();
        let opened = cipher(secret)?
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(context(archive, number, master)),
                &mut sealed,
            )
            .map_err(|_| KeyError::WrongKey)?;
        let secret = <[u8; KEY_BYTES]>::try_from(&*opened)
            .map_err(|_| KeyError::Damaged("not 32 bytes".into()))?;
        Ok(DataKey { number, secret })
    }
}

impl DataKey {
    pub(crate) fn generate(number: u32) -> Result<Self, KeyError> {
        let mut secret = [0; KEY_BYTES];
        getrandom::fill(&mut secret).map_err(|_| KeyError::Cipher)?;
        Ok(Self { number, secret })
    }
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKeys")
            .field("current", &self.current)
            .field("ids", &self.keys.keys())
            .finish()
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKey")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// A master key's id becomes part of an object's name.
pub fn valid_id(id: &str) -> bool {
    (1..=63).contains(&id.len())
        && id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn cipher(secret: &[u8; KEY_BYTES]) -> Result<LessSafeKey, KeyError> {
    UnboundKey::new(&AES_256_GCM, secret)
        .map(LessSafeKey::new)
        .map_err(|_| KeyError::Cipher)
}

/// What a wrap is bound to, so that it opens in no other place.
fn context(archive: ArchiveId, number: u32, master: &str) -> Vec<u8> {
    let mut out = b"holdfast data key\0".to_vec();
    out.extend_from_slice(&archive.0);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(master.as_bytes());
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn masters(byte: u8) -> MasterKeys {
        MasterKeys::new(
            "k1".into(),
            BTreeMap::from([("k1".into(), [byte; 32]), ("k2".into(), [byte + 1; 32])]),
        )
        .unwrap()
    }

    #[test]
    fn a_wrap_opens_only_with_its_key_in_its_place() {
        let id = ArchiveId([9; 16]);
        let key = DataKey::generate(1).unwrap();
        let wrapped = masters(1).wrap("k1", id, &key).unwrap();
        assert_eq!(
            masters(1).unwrap("k1", id, 1, &wrapped).unwrap().secret,
            key.secret
        );
        for (masters, name, id, number) in [
            (masters(5), "k1", id, 1),
            (masters(1), "k2", id, 1),
            (masters(1), "k1", ArchiveId([8; 16]), 1),
            (masters(1), "k1", id, 2),
        ] {
            assert!(matches!(
                masters.unwrap(name, id, number, &wrapped),
                Err(KeyError::WrongKey)
            ));
        }
    }

    #[test]
    fn ids_that_would_be_paths_are_refused() {
        for id in ["", "../k", "a/b", ".k", "k k"] {
            assert!(
                MasterKeys::new(id.into(), BTreeMap::from([(id.into(), [0; 32])])).is_err(),
                "{id:?}"
            );
        }
    }
}
