//! The store that a Repository names. Pure.

use holdfast_crds::{Azure, Gcs, RepositorySpec, S3, SecretKeyReference};

/// One of a Repository's stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A bucket of S3.
    S3(S3),
    /// A container of Azure Blob Storage.
    Azure(Azure),
    /// A bucket of Google Cloud Storage.
    Gcs(Gcs),
}

impl Place {
    /// None where there is none or more than one, which the API server refuses.
    pub fn of(spec: &RepositorySpec) -> Option<Self> {
        match (&spec.s3, &spec.azure, &spec.gcs) {
            (Some(s3), None, None) => Some(Self::S3(s3.clone())),
            (None, Some(azure), None) => Some(Self::Azure(azure.clone())),
            (None, None, Some(gcs)) => Some(Self::Gcs(gcs.clone())),
            _ => None,
        }
    }

    /// Its field in the Repository.
    pub fn field(&self) -> &'static str {
        match self {
            Self::S3(_) => "s3",
            Self::Azure(_) => "azure",
            Self::Gcs(_) => "gcs",
        }
    }

    /// Certificates to trust.
    pub fn ca_secret_ref(&self) -> Option<&SecretKeyReference> {
        match self {
            Self::S3(s3) => s3.ca_secret_ref.as_ref(),
            Self::Azure(azure) => azure.ca_secret_ref.as_ref(),
            Self::Gcs(gcs) => gcs.ca_secret_ref.as_ref(),
        }
    }
}
