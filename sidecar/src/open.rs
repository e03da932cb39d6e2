//! From the settings to opened archives. Credentials and keys are read from their files at each opening.

use crate::config::{Repository, SecretError, Settings};
use crate::exit::{ExitClass, Failure};
use holdfast_repository::{Archive, OpenError, StoreError};

/// What to do where there is no archive yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Create {
    /// Make it.
    IfMissing,
    /// That is an error.
    Never,
}

/// An archive that could not be opened in one of the settings' repositories.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file that the settings name.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The settings don't make a store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl ArchiveError {
    /// Whether trying again can't help without somebody changing something.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Secret(_) => true,
            Self::Store(e) => e.is_permanent(),
            Self::Open(e) => e.is_permanent(),
        }
    }
}

/// What can't be told because of an outage is unknown; everything else that keeps an archive closed is refused.
impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Self {
        let class = if error.is_permanent() {
            ExitClass::Refused
        } else {
            ExitClass::Unknown
        };
        Self::from_error(class, &error)
    }
}

/// Opens the archive in the repository that is read from, and names it.
pub async fn first(settings: &Settings, create: Create) -> Result<(String, Archive), Failure> {
    let repository = settings
        .first_repository()
        .ok_or_else(|| Failure::refused("the settings name no repository"))?;
    Ok((
        repository.name.clone(),
        open(settings, repository, create).await?,
    ))
}

/// Opens the archive in one repository.
pub async fn open(
    settings: &Settings,
    repository: &Repository,
    create: Create,
) -> Result<Archive, Failure> {
    Ok(named(repository, &settings.archive, create).await?)
}

/// Opens an archive of this name (`namespace/name`), the settings' own or another's, in one repository.
pub async fn named(
    repository: &Repository,
    archive: &str,
    create: Create,
) -> Result<Archive, ArchiveError> {
    let (store, masters) = (repository.store_settings()?, repository.master_keys()?);
    let store = store.open(archive)?;
    Ok(match create {
        Create::IfMissing => Archive::open_or_create(store, masters.as_ref()).await?,
        Create::Never => Archive::open(store, masters.as_ref()).await?,
    })
}

/// What can't be told because of an outage is unknown; everything else that keeps an archive closed is refused.
pub fn open_failure(error: &OpenError) -> Failure {
    let class = if error.is_permanent() {
        ExitClass::Refused
    } else {
        ExitClass::Unknown
    };
    Failure::from_error(class, error)
}
