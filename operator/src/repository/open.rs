//! Opens an archive of a repository, for whoever reads, expires or deletes in the operator's own process.

use super::resolve::{Lack, Resolved, resolve, secrets};
use crate::context::Context;
use crate::controller::ReconcileError;
use crate::names::Key;
use crate::repository::lines;
use holdfast_repository::{Archive, OpenError, StoreError};
use thiserror::Error;

/// What will be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read and add.
    Read,
    /// Delete, too: with the credentials for maintenance, where there are such.
    Maintain,
}

/// An archive that could not be opened.
#[derive(Debug, Error)]
pub enum OpenFailure {
    /// No such object.
    #[error("the Repository {0} does not exist in this namespace: make it, or correct its name")]
    NoRepository(String),
    /// Secrets.
    #[error("the Repository {name}: {}", lines(lacks))]
    Lacking {
        /// Which.
        name: String,
        /// What is missing or wrong.
        lacks: Vec<Lack>,
    },
    /// Only the pods have credentials.
    #[error(
        "the Repository {0} has no credentials that the operator could use: give credentials.secretRef"
    )]
    NoCredentials(String),
    /// The archive itself.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The API server.
    #[error(transparent)]
    Api(#[from] ReconcileError),
}

impl OpenFailure {
    /// Whether nothing is stored there yet.
    pub fn is_not_there(&self) -> bool {
        matches!(self, Self::Open(OpenError::NotThere(_)))
    }

    /// Whether it helps only if somebody changes something.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::NoRepository(_) | Self::Lacking { .. } | Self::NoCredentials(_) => true,
            Self::Open(error) => error.is_permanent(),
            Self::Api(_) => false,
        }
    }
}

impl From<StoreError> for OpenFailure {
    fn from(error: StoreError) -> Self {
        Self::Open(error.into())
    }
}

/// A Repository with all that it names. Secrets are at most 45 seconds old.
pub async fn resolved(context: &Context, repository: &Key) -> Result<Resolved, OpenFailure> {
    let found = context.watched.repositories.get(repository);
    let found = found.ok_or_else(|| OpenFailure::NoRepository(repository.name.clone()))?;
    let data = context
        .secrets
        .get(&repository.namespace, secrets(&found.spec))
        .await?;
    resolve(&found.spec, &data).map_err(|lacks| OpenFailure::Lacking {
        name: repository.name.clone(),
        lacks,
    })
}

/// Opens the archive `archive` in the Repository `repository` of its namespace. Makes nothing.
pub async fn open_archive(
    context: &Context,
    archive: &Key,
    repository: &str,
    access: Access,
) -> Result<Archive, OpenFailure> {
    open_archive_of(context, &archive.beside(repository), archive, access).await
}

/// Opens the archive that lies in `repository` under the name of `archive`, of whatever namespace. Makes nothing.
pub async fn open_archive_of(
    context: &Context,
    repository: &Key,
    archive: &Key,
    access: Access,
) -> Result<Archive, OpenFailure> {
    let resolved = resolved(context, repository).await?;
    let settings = match access {
        Access::Read => resolved.store(),
        Access::Maintain => resolved.maintenance_store(),
    };
    let settings = settings.ok_or_else(|| OpenFailure::NoCredentials(repository.name.clone()))?;
    let store = settings.open(&archive.to_string())?;
    Ok(Archive::open(store, resolved.master_keys().as_ref()).await?)
}
