//! What is true of what Holdfast keeps: objects and how they are sealed, keys, WAL objects, packs and
//! manifests, the catalogue, what can be reached, and verification.
//!
//! This room knows no Kubernetes and no running server; of PostgreSQL it knows what [`holdfast_postgres`] tells.

pub mod archive;
pub mod backup;
mod blocking;
pub mod catalogue;
pub mod compression;
pub mod expiry;
pub mod facts;
pub mod keys;
pub mod layout;
pub mod object;
pub mod owner;
pub mod reach;
pub mod retention;
pub mod store;
pub mod verify;
pub mod wal;

pub use archive::{Archive, ArchiveId, Identity, OpenError};
pub use blocking::blocking;
pub use compression::Compression;
pub use keys::MasterKeys;
pub use object::{ObjectError, ObjectKind, ObjectReader, ObjectWriter};
pub use store::{Created, ErrorKind, Store, StoreError, withhold};
pub use wal::{PutError, PutOutcome, WalStore};
