//! Where a repository is, and the files that let in.

use super::SecretError;
use super::secrets::{read, read_text};
use holdfast_repository::store::{
    AzureCredentials, AzureSettings, Credentials, GcsSettings, S3Settings, StoreSettings,
};
use std::path::{Path, PathBuf};

/// Where a repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A bucket.
    S3(S3),
    /// A container.
    Azure(Azure),
    /// A bucket of Google's.
    Gcs(Gcs),
    /// A folder.
    Filesystem {
        /// Must exist.
        path: PathBuf,
    },
}

/// A bucket and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3 {
    /// Must exist.
    pub bucket: String,
    /// Before every key; may be empty.
    pub prefix: String,
    /// Left out: from the environment.
    pub region: Option<String>,
    /// Left out: AWS.
    pub endpoint: Option<String>,
    /// PEM certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// False accepts any certificate.
    pub verify_tls: bool,
    /// Left out: the environment, as the SDKs read it.
    pub credentials: Option<CredentialFiles>,
}

/// The files that hold a bucket's credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialFiles {
    /// Names the key.
    pub access_key_id: PathBuf,
    /// The secret.
    pub secret_access_key: PathBuf,
    /// For temporary credentials.
    pub session_token: Option<PathBuf>,
}

/// A container of Azure Blob Storage and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Azure {
    /// The storage account.
    pub account: String,
    /// Must exist.
    pub container: String,
    /// Before every key; may be empty.
    pub prefix: String,
    /// The account's address. Left out: Azure's public cloud.
    pub endpoint: Option<String>,
    /// PEM certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// False accepts any certificate.
    pub verify_tls: bool,
    /// Left out: the environment, such as a workload identity.
    pub credentials: Option<AzureCredentialFile>,
}

/// The file that lets into a storage account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AzureCredentialFile {
    /// Holds one of the account's keys.
    AccountKey(PathBuf),
    /// Holds a shared access signature.
    SasToken(PathBuf),
}

/// A bucket of Google Cloud Storage and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gcs {
    /// Must exist.
    pub bucket: String,
    /// Before every key; may be empty.
    pub prefix: String,
    /// Left out: Google.
    pub endpoint: Option<String>,
    /// PEM certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// False accepts any certificate.
    pub verify_tls: bool,
    /// Holds a service account's key. Left out: the environment, such as a workload identity.
    pub service_account: Option<PathBuf>,
}

impl Place {
    /// The files that it names: certificates and credentials.
    pub fn files(&self) -> Vec<&Path> {
        let (ca, credentials) = match self {
            Self::Filesystem { .. } => (None, Vec::new()),
            Self::S3(s3) => {
                let files = s3.credentials.iter().flat_map(|files| {
                    let token = files.session_token.as_ref();
                    [&files.access_key_id, &files.secret_access_key]
                        .into_iter()
                        .chain(token)
                });
                (s3.ca_file.as_ref(), files.collect())
            }
            Self::Azure(azure) => {
                let file = azure.credentials.as_ref().map(|file| match file {
                    AzureCredentialFile::AccountKey(file) => file,
                    AzureCredentialFile::SasToken(file) => file,
                });
                (azure.ca_file.as_ref(), Vec::from_iter(file))
            }
            Self::Gcs(gcs) => {
                let file = gcs.service_account.as_ref();
                (gcs.ca_file.as_ref(), Vec::from_iter(file))
            }
        };
        ca.into_iter()
            .chain(credentials)
            .map(PathBuf::as_path)
            .collect()
    }

    /// Reads the files; what `StoreSettings::open` takes.
    pub(super) fn settings(&self) -> Result<StoreSettings, SecretError> {
        Ok(match self {
            Self::Filesystem { path } => StoreSettings::Filesystem { path: path.clone() },
            Self::S3(s3) => StoreSettings::S3(s3.settings()?),
            Self::Azure(azure) => StoreSettings::Azure(azure.settings()?),
            Self::Gcs(gcs) => StoreSettings::Gcs(gcs.settings()?),
        })
    }
}

fn read_ca(file: &Option<PathBuf>) -> Result<Option<Vec<u8>>, SecretError> {
    file.as_deref().map(|file| read("caFile", file)).transpose()
}

impl S3 {
    fn settings(&self) -> Result<S3Settings, SecretError> {
        let credentials = match &self.credentials {
            None => None,
            Some(files) => Some(Credentials {
                access_key_id: read_text("accessKeyIdFile", &files.access_key_id)?,
                secret_access_key: read_text("secretAccessKeyFile", &files.secret_access_key)?,
                session_token: files
                    .session_token
                    .as_deref()
                    .map(|file| read_text("sessionTokenFile", file))
                    .transpose()?,
            }),
        };
        Ok(S3Settings {
            bucket: self.bucket.clone(),
            prefix: self.prefix.clone(),
            region: self.region.clone(),
            endpoint: self.endpoint.clone(),
            ca: read_ca(&self.ca_file)?,
            verify_tls: self.verify_tls,
            credentials,
        })
    }
}

impl Azure {
    fn settings(&self) -> Result<AzureSettings, SecretError> {
        let credentials = match &self.credentials {
            None => None,
            Some(AzureCredentialFile::AccountKey(file)) => Some(AzureCredentials::AccountKey(
                read_text("accountKeyFile", file)?,
            )),
            Some(AzureCredentialFile::SasToken(file)) => {
                Some(AzureCredentials::SasToken(read_text("sasTokenFile", file)?))
            }
        };
        Ok(AzureSettings {
            account: self.account.clone(),
            container: self.container.clone(),
            prefix: self.prefix.clone(),
            endpoint: self.endpoint.clone(),
            ca: read_ca(&self.ca_file)?,
            verify_tls: self.verify_tls,
            credentials,
        })
    }
}

impl Gcs {
    fn settings(&self) -> Result<GcsSettings, SecretError> {
        let service_account = self
            .service_account
            .as_deref()
            .map(|file| read_text("serviceAccountFile", file))
            .transpose()?;
        Ok(GcsSettings {
            bucket: self.bucket.clone(),
            prefix: self.prefix.clone(),
            endpoint: self.endpoint.clone(),
            ca: read_ca(&self.ca_file)?,
            verify_tls: self.verify_tls,
            service_account,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn every_file_is_named_read_and_kept_secret() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let azure = |credentials| {
            Place::Azure(Azure {
                account: "acme".into(),
                container: "c".into(),
                prefix: String::new(),
                endpoint: None,
                ca_file: Some(file("ca")),
                verify_tls: true,
                credentials: Some(credentials),
            })
        };
        let gcs = Place::Gcs(Gcs {
            bucket: "b".into(),
            prefix: String::new(),
            endpoint: None,
            ca_file: Some(file("ca")),
            verify_tls: true,
            service_account: Some(file("secret")),
        });
        let s3 = Place::S3(S3 {
            bucket: "b".into(),
            prefix: String::new(),
            region: None,
            endpoint: None,
            ca_file: Some(file("ca")),
            verify_tls: true,
            credentials: Some(CredentialFiles {
                access_key_id: file("id"),
                secret_access_key: file("secret"),
                session_token: Some(file("token")),
            }),
        });
        for (place, what, files) in [
            (
                azure(AzureCredentialFile::AccountKey(file("secret"))),
                "accountKeyFile",
                vec!["ca", "secret"],
            ),
            (
                azure(AzureCredentialFile::SasToken(file("secret"))),
                "sasTokenFile",
                vec!["ca", "secret"],
            ),
            (gcs, "serviceAccountFile", vec!["ca", "secret"]),
            (
                s3,
                "secretAccessKeyFile",
                vec!["ca", "id", "secret", "token"],
            ),
        ] {
            let expected: Vec<_> = files.iter().map(|name| file(name)).collect();
            assert_eq!(place.files(), expected);
            for name in &expected {
                fs::write(name, "hunter2\n").unwrap();
            }
            let settings = place.settings().unwrap();
            assert!(!format!("{settings:?}").contains("hunter"), "{settings:?}");
            fs::remove_file(file("secret")).unwrap();
            let told = place.settings().unwrap_err().to_string();
            assert!(told.contains(what), "{told}");
        }
    }
}
