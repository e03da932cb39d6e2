//! Carrying out what retention decides: announce, wait, look again, delete.
//!
//! A pass reads everything, decides, and writes a tombstone for what it would delete. A later one, once the tombstone is
//! as old as the grace period, decides again from what is there then, and deletes what both name: manifests first, then
//! packs, then WAL. So whatever is stopped anywhere leaves a tombstone, and the next pass goes on from there. Nothing is
//! deleted unless the archive was this installation's ten seconds before.
//!
//! Who reads writes a marker first and looks at the tombstones then; who deletes writes a tombstone first and looks at
//! the markers then. So one of them sees the other.

mod announce;
mod carry_out;
mod clock;
mod keep;
mod leave_out;
mod marker;
mod observe;
mod pass;
mod tombstone;

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/holdfast.expiry.rs"));
}

pub use keep::{kept_for_ever, set_keep};
pub use leave_out::leave_out;
pub use marker::Reading;
pub use observe::look;
pub use pass::{Pass, Progress, pass};
pub use tombstone::{announced, ask_to_delete, doomed};

use crate::archive::OpenError;
use crate::catalogue::CatalogueError;
use crate::object::ObjectError;
use crate::owner::OwnerName;
use crate::retention::Refusal;
use crate::store::StoreError;
use jiff::Timestamp;
use thiserror::Error;

/// A pass that was broken off, or never begun. What it had begun is gone on with by the next one.
#[derive(Debug, Error)]
pub enum ExpiryError {
    /// Only the owner may expire.
    #[error(
        "nothing is deleted: the archive at {place} is owned by {owner} since {since:.0}; to expire here instead, say `takeOver: \"{owner}\"`"
    )]
    NotOurs {
        /// The store.
        place: String,
        /// What consent to replace it has to name.
        owner: OwnerName,
        /// By its clock.
        since: Timestamp,
    },
    /// Nobody has claimed the archive.
    #[error("nothing is deleted: the archive at {0} has no owner yet")]
    NoOwner(String),
    /// Something can't be told.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What is there.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// Something stored.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

impl From<StoreError> for ExpiryError {
    fn from(error: StoreError) -> Self {
        Self::Object(error.into())
    }
}

impl From<OpenError> for ExpiryError {
    fn from(error: OpenError) -> Self {
        Self::Catalogue(error.into())
    }
}

impl ExpiryError {
    /// Whether trying again can't help without somebody changing something.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::NotOurs { .. } | Self::NoOwner(_) | Self::Refused(_) => true,
            Self::Catalogue(e) => e.is_permanent(),
            Self::Object(ObjectError::Store(e)) => e.is_permanent(),
            Self::Object(_) => true,
        }
    }
}
