//! Create-only writes.

use super::error::says_that_it_is_there;
use super::{ErrorKind, LARGEST_WHOLE_OBJECT, Operation, Store, StoreError};
use bytes::Bytes;
use object_store::{ObjectStore, PutMode, PutOptions, PutPayload};

/// What a create-only write found.
#[derive(Debug)]
pub enum Created {
    /// The object was not there and is now, or holds exactly these bytes (a retry of a write whose answer was lost).
    New,
    /// The key holds other bytes, which are these. Whether they mean the same is for the caller to say.
    Occupied(Bytes),
}

impl Store {
    /// Creates the object if its key is free. Never overwrites.
    ///
    /// Returns only when the store has confirmed the whole object; over S3 it has compared a checksum of it as well.
    /// After an error it is unknown whether the object exists; calling again with the same bytes is safe.
    pub async fn create(&self, key: &str, parts: Vec<Bytes>) -> Result<Created, StoreError> {
        Operation::Write.count(self.create_uncounted(key, parts).await)
    }

    async fn create_uncounted(&self, key: &str, parts: Vec<Bytes>) -> Result<Created, StoreError> {
        let path = self.path(key)?;
        let payload: PutPayload = parts.into_iter().collect();
        let options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        let answer = self.inner.put_opts(&path, payload.clone(), options).await;
        let Err(error) = answer else {
            return Ok(Created::New);
        };
        let is_there = says_that_it_is_there(&error);
        let refused = StoreError::new(&self.description, "write", key, error);
        if !is_there {
            return Err(refused);
        }
        // Also the answer to the retry of a write that went through, so what stands there decides.
        let limit = LARGEST_WHOLE_OBJECT.max(payload.content_length() as u64);
        let stored = match self.get(key, limit).await {
            Err(_) if refused.kind() == ErrorKind::Denied => return Err(refused),
            // Two writers at once, and neither has won yet.
            Err(e) if e.is_not_found() => {
                return Err(StoreError::undecided(&self.description, key));
            }
            other => other?,
        };
        if holds(&stored, &payload) {
            self.make_durable(&path, key).await?;
            Ok(Created::New)
        } else {
            Ok(Created::Occupied(stored))
        }
    }
}

fn holds(stored: &[u8], payload: &PutPayload) -> bool {
    let mut rest = stored;
    stored.len() == payload.content_length()
        && payload
            .iter()
            .all(|part| match rest.split_at_checked(part.len()) {
                Some((head, tail)) if head == part.as_ref() => {
                    rest = tail;
                    true
                }
                _ => false,
            })
}
