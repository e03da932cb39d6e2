//! Create-only writes.

use super::error::says_that_it_is_there;
use super::{ErrorKind, LARGEST_WHOLE_OBJECT, Operation, Store, StoreError, Withheld};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, Extensions, ObjectStore, PutMode, PutOptions, PutPayload, PutResult};

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
        Operation::Write.count(self.create_uncounted(key, parts, None).await)
    }

    /// [`Store::create`] of what may exist only once it is released; where the store allows, it is on its way before. An error
    /// where it never is.
    pub async fn create_withheld(
        &self,
        key: &str,
        parts: Vec<Bytes>,
        withheld: &Withheld,
    ) -> Result<Created, StoreError> {
        let created = self.create_uncounted(key, parts, Some(withheld)).await;
        Operation::Write.count(created)
    }

    async fn create_uncounted(
        &self,
        key: &str,
        parts: Vec<Bytes>,
        withheld: Option<&Withheld>,
    ) -> Result<Created, StoreError> {
        let path = self.path(key)?;
        let payload: PutPayload = parts.into_iter().collect();
        let mut early = None;
        if let Some(withheld) = withheld {
            // Of nothing there is no last byte.
            if self.withholds && payload.content_length() > 0 {
                early = self.send_early(&path, payload.clone(), withheld).await;
            }
            if !withheld.released().await {
                return Err(StoreError::withdrawn(&self.description, key));
            }
        }
        let answer = match early {
            Some(answer) => answer,
            None => self.put(&path, payload.clone(), Extensions::new()).await,
        };
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

    /// None: it failed, of whatever it was, and is to be sent in its time.
    async fn send_early(
        &self,
        path: &Path,
        payload: PutPayload,
        withheld: &Withheld,
    ) -> Option<object_store::Result<PutResult>> {
        let answer = self.put(path, payload, withheld.extensions()).await;
        match &answer {
            Ok(_) | Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Some(answer),
            Err(error) => {
                tracing::debug!(%path, %error, "not sent before its time");
                None
            }
        }
    }

    async fn put(
        &self,
        path: &Path,
        payload: PutPayload,
        extensions: Extensions,
    ) -> object_store::Result<PutResult> {
        let options = PutOptions {
            mode: PutMode::Create,
            extensions,
            ..PutOptions::default()
        };
        self.inner.put_opts(path, payload, options).await
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
