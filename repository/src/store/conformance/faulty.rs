//! A store in front of another that loses answers, fails, or delivers other bytes than there are.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// So many writes go through, and their answers are lost.
    LoseAnswers(u32),
    /// So many writes fail before they reach the store.
    FailWrites(u32),
    /// So many operations go through, and then every one fails.
    FailAfter(u32),
    /// Every operation fails.
    FailAll,
    /// Listings fail.
    FailListings,
    /// Reads end early, by so many bytes, without an error.
    Truncate(usize),
    /// Reads go on for so many bytes too many.
    Extend(usize),
    /// Reads break off with an error halfway.
    BreakOff,
    /// The byte in the middle of each read has a flipped bit.
    Flip,
    /// Every operation takes so long.
    Delay(Duration),
}

/// The store with the fault, which can be changed while it is used.
#[derive(Debug, Clone)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    fault: Arc<Mutex<Fault>>,
}

impl Faulty {
    /// Without a fault so far.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            fault: Arc::new(Mutex::new(Fault::None)),
        }
    }

    /// From now on.
    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    fn fault(&self) -> Fault {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a write down; true if this one has the fault.
    fn hits(&self, counted: impl Fn(u32) -> Fault, left: u32) -> bool {
        if left > 0 {
            self.set(counted(left - 1));
        }
        left > 0
    }

    /// Whether the store is away for this operation.
    fn is_away(&self) -> bool {
        match self.fault() {
            Fault::FailAll => true,
            Fault::FailAfter(left) => !self.hits(Fault::FailAfter, left),
            _ => false,
        }
    }

    async fn begin(&self) -> Result<()> {
        if self.is_away() {
            return Err(broken("the store is away"));
        }
        match self.fault() {
            Fault::Delay(delay) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn broken(why: &'static str) -> Error {
    Error::Generic {
        store: "faulty",
        source: why.into(),
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.begin().await?;
        if let Fault::FailWrites(left) = self.fault()
            && self.hits(Fault::FailWrites, left)
        {
            return Err(broken("the write never arrived"));
        }
        let done = self.inner.put_opts(location, payload, options).await;
        if let Fault::LoseAnswers(left) = self.fault()
            && self.hits(Fault::LoseAnswers, left)
        {
            return Err(broken("the answer was lost"));
        }
        done
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.begin().await?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.begin().await?;
        let head = options.head;
        let mut answer = self.inner.get_opts(location, options).await?;
        let fault = self.fault();
        if head
            || !matches!(
                fault,
                Fault::Truncate(_) | Fault::Extend(_) | Fault::BreakOff | Fault::Flip
            )
        {
            return Ok(answer);
        }
        let (meta, range) = (answer.meta.clone(), answer.range.clone());
        let (attributes, extensions) = (answer.attributes.clone(), answer.extensions.clone());
        let payload = std::mem::replace(
            &mut answer.payload,
            GetResultPayload::Stream(futures::stream::empty().boxed()),
        );
        let whole = GetResult { payload, ..answer };
        let mut bytes: BytesMut = whole
            .into_stream()
            .try_fold(BytesMut::new(), |mut all, piece| async move {
                all.extend_from_slice(&piece);
                Ok(all)
            })
            .await?;
        let mut pieces: Vec<Result<Bytes>> = Vec::new();
        match fault {
            Fault::Truncate(by) => bytes.truncate(bytes.len().saturating_sub(by)),
            Fault::Extend(by) => bytes.resize(bytes.len() + by, 0),
            Fault::BreakOff => {
                bytes.truncate(bytes.len() / 2);
                pieces.push(Err(broken("the connection broke")));
            }
            _ => {
                let middle = bytes.len() / 2;
                if let Some(byte) = bytes.get_mut(middle) {
                    *byte ^= 1;
                }
            }
        }
        pieces.insert(0, Ok(bytes.freeze()));
        let payload = GetResultPayload::Stream(futures::stream::iter(pieces).boxed());
        Ok(GetResult {
            payload,
            meta,
            range,
            attributes,
            extensions,
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        if self.is_away() {
            return futures::stream::iter([Err(broken("the store is away"))]).boxed();
        }
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.fault() == Fault::FailListings || self.is_away() {
            return futures::stream::iter([Err(broken("the listing broke off"))]).boxed();
        }
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.begin().await?;
        if self.fault() == Fault::FailListings {
            return Err(broken("the listing broke off"));
        }
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.begin().await?;
        self.inner.copy_opts(from, to, options).await
    }
}
