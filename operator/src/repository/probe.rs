//! Looks at a repository's store: can it be reached, listed, read and written, and does it keep what is there.

use super::resolve::Resolved;
use bytes::Bytes;
use holdfast_crds::AccessMode;
use holdfast_repository::store::{Created, StoreSettings};
use holdfast_repository::{ErrorKind, Store, StoreError};
use std::time::Duration;

/// The folder of the object that is written once for each Repository, beside the namespaces: no namespace begins with
/// a dot.
const FOLDER: &str = ".holdfast-probe";

/// For all of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Reached, listed and, unless it is ReadOnly, written.
    pub access: Result<(), Trouble>,
    /// Whether an object that is there was left alone; none where that was not tried.
    pub keeps_objects: Option<bool>,
    /// Whether what has the right to delete may delete; none where no such credentials are given.
    pub maintenance: Option<Result<(), Trouble>>,
}

/// A store that did not do what was asked, as conditions tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// One word.
    pub reason: &'static str,
    /// One sentence, with what to do.
    pub message: String,
}

/// Looks. `uid` is the Repository's: each has an object of its own, which is written once and stays. `secret` is where
/// the credentials stand.
pub async fn probe(
    resolved: &Resolved,
    store: &StoreSettings,
    uid: &str,
    secret: Option<&str>,
) -> Probe {
    let looked = async {
        let (access, keeps_objects) = match look(store, resolved.mode, uid).await {
            Ok(keeps_objects) => (Ok(()), keeps_objects),
            Err(error) => (Err(trouble(&error, resolved.place.field(), secret)), None),
        };
        let maintenance = match (&resolved.maintenance, resolved.mode) {
            (Some(_), AccessMode::ReadWrite) => match resolved.maintenance_store() {
                Some(store) => Some(may_delete(&store, uid).await),
                None => None,
            },
            _ => None,
        };
        Probe {
            access,
            keeps_objects,
            maintenance,
        }
    };
    tokio::time::timeout(PATIENCE, looked)
        .await
        .unwrap_or_else(|_| Probe {
            access: Err(Trouble {
                reason: "Unreachable",
                message: format!("the store gave no answer within {} s", PATIENCE.as_secs()),
            }),
            keeps_objects: None,
            maintenance: None,
        })
}

/// Whether what is there is kept; none where nothing may be written.
async fn look(
    settings: &StoreSettings,
    mode: AccessMode,
    uid: &str,
) -> Result<Option<bool>, StoreError> {
    let store = settings.open(FOLDER)?;
    store.list_folders("").await?;
    match mode {
        AccessMode::ReadOnly => Ok(None),
        AccessMode::ReadWrite => keeps_objects(&store, uid).await.map(Some),
    }
}

/// Asks to create what is there already. The object is small, has one content for ever, and is never deleted: where the
/// store does as it is asked, nothing is written but the first time.
async fn keeps_objects(store: &Store, uid: &str) -> Result<bool, StoreError> {
    let (own, other) = (
        Bytes::from(format!(
            "holdfast writes this once for the Repository {uid}\n"
        )),
        Bytes::from_static(b"this must never be stored\n"),
    );
    match store.create(uid, vec![own.clone()]).await? {
        // What the store once wrote over it, before it learned better.
        Created::Occupied(_) => return Ok(true),
        Created::New => {}
    }
    match store.create(uid, vec![other]).await? {
        Created::Occupied(stored) => Ok(stored == own),
        Created::New => Ok(false),
    }
}

/// Deletes what is not there.
async fn may_delete(settings: &StoreSettings, uid: &str) -> Result<(), Trouble> {
    let tried = async {
        let store = settings.open(FOLDER)?;
        store.delete(&format!("{uid}-never-written")).await
    };
    tried.await.map_err(|error| Trouble {
        reason: "MaintenanceDenied",
        message: format!(
            "the credentials of maintenanceSecretRef may not delete, so nothing can expire: {error}"
        ),
    })
}

/// `field` is the store's in the Repository.
fn trouble(error: &StoreError, field: &str, secret: Option<&str>) -> Trouble {
    let message = error.to_string();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let wrong_key = [
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "InvalidToken",
        "ExpiredToken",
        "AuthenticationFailed",
        "AuthenticationRequired",
    ];
    let (reason, advice) = match error.kind() {
        ErrorKind::NoBucket => ("BucketNotFound", String::new()),
        ErrorKind::Denied if says(&["clock"]) => ("ClockSkew", String::new()),
        ErrorKind::Denied if says(&wrong_key) => ("WrongCredentials", String::new()),
        ErrorKind::Denied => ("AccessDenied", String::new()),
        ErrorKind::Invalid => ("InvalidSettings", String::new()),
        ErrorKind::NotFound | ErrorKind::Damaged => ("UnexpectedAnswer", String::new()),
        ErrorKind::Trouble if says(&["InvalidContentType"]) => (
            "NotTls",
            format!("; it does not speak TLS: is it http:// in {field}.endpoint?"),
        ),
        ErrorKind::Trouble if says(&["certificate", "UnknownIssuer"]) => (
            "UntrustedCertificate",
            format!("; name the authority that signed it in {field}.caSecretRef"),
        ),
        ErrorKind::Trouble => (
            "Unreachable",
            format!("; check {field}.endpoint, and whether the operator's pod may reach it"),
        ),
    };
    let place = match (reason, secret) {
        ("WrongCredentials" | "AccessDenied", Some(secret)) => {
            format!("; they stand in the Secret {secret}")
        }
        _ => String::new(),
    };
    Trouble {
        reason,
        message: format!("{message}{advice}{place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(mode: AccessMode) -> Resolved {
        Resolved {
            place: super::super::Place::S3(
                serde_json::from_value(serde_json::json!({"bucket": "b"})).unwrap(),
            ),
            ca: None,
            access: None,
            maintenance: None,
            keys: None,
            mode,
        }
    }

    fn objects(folder: &std::path::Path) -> usize {
        std::fs::read_dir(folder.join(FOLDER)).map_or(0, Iterator::count)
    }

    #[tokio::test]
    async fn looking_again_writes_nothing_and_read_only_never_does() {
        let folder = tempfile::tempdir().unwrap();
        let store = StoreSettings::Filesystem {
            path: folder.path().to_owned(),
        };
        let found = probe(&resolved(AccessMode::ReadOnly), &store, "uid", None).await;
        assert_eq!((&found.access, found.keeps_objects), (&Ok(()), None));
        assert_eq!(objects(folder.path()), 0);
        for _ in 0..2 {
            let found = probe(&resolved(AccessMode::ReadWrite), &store, "uid", None).await;
            assert_eq!((&found.access, found.keeps_objects), (&Ok(()), Some(true)));
            assert_eq!(objects(folder.path()), 1);
        }
    }

    #[tokio::test]
    async fn a_store_that_is_not_there_is_told() {
        let store = StoreSettings::Filesystem {
            path: "/nowhere/at/all".into(),
        };
        let found = probe(&resolved(AccessMode::ReadWrite), &store, "uid", None).await;
        assert!(found.access.is_err() && found.keeps_objects.is_none());
    }
}
