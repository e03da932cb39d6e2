//! The files that settings name: keys, credentials, passwords. What they hold never reaches a message or a log.

use super::{Encryption, Postgres, Repository};
use base64::Engine;
use holdfast_postgres::server::ConnectOptions;
use holdfast_repository::MasterKeys;
use holdfast_repository::keys::{KEY_BYTES, KeyError};
use holdfast_repository::store::StoreSettings;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// No secret is longer, in bytes.
const LARGEST_SECRET: u64 = 64 << 10;

/// A file of the settings that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// For instance a missing one.
    #[error("{what} {} can't be read: {source}", file.display())]
    Read {
        /// What the settings call it.
        what: &'static str,
        /// As configured.
        file: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Empty, or not text.
    #[error("{what} {} is empty or not text", file.display())]
    NoText {
        /// What the settings call it.
        what: &'static str,
        /// As configured.
        file: PathBuf,
    },
    /// Not what the line would have made.
    #[error(
        "the key file {} does not hold {KEY_BYTES} bytes in base64 ({found}); a new key is made with: openssl rand -base64 32 > {}",
        file.display(),
        file.display()
    )]
    Key {
        /// As configured.
        file: PathBuf,
        /// What it holds instead.
        found: String,
    },
    /// An id that can't be one.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

/// Reads a file of at most `limit` bytes.
pub(super) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// Reads a file that the settings call `what`.
pub(crate) fn read(what: &'static str, file: &Path) -> Result<Vec<u8>, SecretError> {
    read_bounded(file, LARGEST_SECRET).map_err(|source| SecretError::Read {
        what,
        file: file.to_owned(),
        source,
    })
}

/// The text, without blanks and newlines around it.
pub(super) fn read_text(what: &'static str, file: &Path) -> Result<String, SecretError> {
    let text = String::from_utf8(read(what, file)?).unwrap_or_default();
    match text.trim() {
        "" => Err(SecretError::NoText {
            what,
            file: file.to_owned(),
        }),
        text => Ok(text.to_owned()),
    }
}

fn read_key(file: &Path) -> Result<[u8; KEY_BYTES], SecretError> {
    let wrong = |found: String| SecretError::Key {
        file: file.to_owned(),
        found,
    };
    let mut text = read("the key file", file)?;
    text.retain(|b| !b.is_ascii_whitespace());
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|_| wrong("it is no base64".to_owned()))?;
    let length = bytes.len();
    bytes
        .try_into()
        .map_err(|_| wrong(format!("it holds {length} bytes")))
}

impl Encryption {
    /// Reads the key files.
    pub fn master_keys(&self) -> Result<MasterKeys, SecretError> {
        let keys: Result<BTreeMap<_, _>, _> = self
            .key_files
            .iter()
            .map(|(id, file)| Ok((id.clone(), read_key(file)?)))
            .collect::<Result<_, SecretError>>();
        Ok(MasterKeys::new(self.current_key.clone(), keys?)?)
    }
}

impl Repository {
    /// Reads the key files; none where it is not encrypted.
    pub fn master_keys(&self) -> Result<Option<MasterKeys>, SecretError> {
        self.encryption
            .as_ref()
            .map(Encryption::master_keys)
            .transpose()
    }

    /// Reads the credentials; what `StoreSettings::open` takes.
    pub fn store_settings(&self) -> Result<StoreSettings, SecretError> {
        self.place.settings()
    }
}

impl Postgres {
    /// Reads the password; what `Server::connect` takes.
    pub fn connect_options(&self, application_name: &str) -> Result<ConnectOptions, SecretError> {
        let password = self
            .password_file
            .as_deref()
            .map(|file| read_text("passwordFile", file))
            .transpose()?;
        Ok(ConnectOptions {
            host: self.host.clone(),
            port: self.port,
            user: self.user.clone(),
            password,
            database: self.database.clone(),
            application_name: application_name.to_owned(),
            ssl_mode: self.ssl_mode,
            ..ConnectOptions::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CredentialFiles, Mode, Place, S3};

    fn encryption(folder: &Path, content: &[u8]) -> Encryption {
        let file = folder.join("k1");
        std::fs::write(&file, content).unwrap();
        Encryption {
            current_key: "k1".into(),
            key_files: BTreeMap::from([("k1".to_owned(), file)]),
        }
    }

    #[test]
    fn a_key_file_is_what_openssl_makes() {
        let folder = tempfile::tempdir().unwrap();
        let good = b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
        assert!(encryption(folder.path(), good).master_keys().is_ok());
        for (content, found) in [
            (b"".as_slice(), "0 bytes"),
            (b"AAECAw==\n", "4 bytes"),
            (b"\x00\x01\x02", "no base64"),
            (b"hunter2 is my secret", "no base64"),
            (&[b'A'; 70_000], "more than"),
        ] {
            let error = encryption(folder.path(), content)
                .master_keys()
                .unwrap_err();
            let message = error.to_string();
            assert!(
                message.contains(found) && message.contains("k1"),
                "{message}"
            );
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, content).unwrap();
            file
        };
        let repository = Repository {
            name: "main".into(),
            place: Place::S3(S3 {
                bucket: "b".into(),
                prefix: String::new(),
                region: None,
                endpoint: None,
                ca_file: None,
                verify_tls: true,
                credentials: Some(CredentialFiles {
                    access_key_id: write("id", "hunter1\n"),
                    secret_access_key: write("secret", "hunter2\n"),
                    session_token: Some(write("token", "hunter3\n")),
                }),
            }),
            encryption: None,
            mode: Mode::Required,
        };
        let settings = repository.store_settings().unwrap();
        assert!(!format!("{settings:?}").contains("hunter"));
        let StoreSettings::S3(s3) = settings else {
            panic!()
        };
        assert_eq!(s3.credentials.unwrap().secret_access_key, "hunter2");
        let postgres = Postgres {
            data_directory: "/d".into(),
            host: "h".into(),
            port: 5432,
            user: "u".into(),
            database: "postgres".into(),
            password_file: Some(write("password", "hunter4\n")),
            ssl_mode: Default::default(),
        };
        let options = postgres.connect_options("holdfast").unwrap();
        assert!(!format!("{options:?}").contains("hunter"), "{options:?}");
        assert_eq!(options.password.as_deref(), Some("hunter4"));
    }
}
