//! A repository: reachable, create-only, readable back, and with the right key and the right database.

use super::Finding;
use crate::config::{Repository, Settings};
use bytes::Bytes;
use futures::TryStreamExt;
use holdfast_postgres::ControlFile;
use holdfast_repository::backup::BackupId;
use holdfast_repository::store::Created;
use holdfast_repository::{Archive, ErrorKind, OpenError, Store, StoreError};
use jiff::{SignedDuration, Timestamp};

/// The folder of what is written and removed at once.
const PROBES: &str = "checks";
/// S3 refuses requests at 15 minutes.
const MOST_SKEW: SignedDuration = SignedDuration::from_mins(5);

pub(super) async fn look(
    settings: &Settings,
    repository: &Repository,
    control: Option<&ControlFile>,
) -> Vec<Finding> {
    let subject = format!("repository {}", repository.name);
    let store = match repository.store_settings() {
        Err(error) => return vec![Finding::told(&subject, error.to_string())],
        Ok(store) => match store.open(&settings.archive) {
            Err(error) => return vec![failed(&subject, &error)],
            Ok(store) => store,
        },
    };
    let mut findings = match probe(&subject, &store).await {
        Ok(findings) => findings,
        Err(error) => return vec![failed(&subject, &error)],
    };
    match repository.master_keys() {
        Err(error) => findings.push(Finding::told(&subject, error.to_string())),
        Ok(masters) => findings.push(match Archive::open(store, masters.as_ref()).await {
            Ok(archive) => match belongs(settings, &archive, control).await {
                Ok(message) => Finding::good(&subject, message),
                Err(error) => unopened(&subject, &error),
            },
            Err(OpenError::NotThere(place)) => Finding::good(
                &subject,
                format!(
                    "there is no archive at {place} yet; the first WAL segment or backup makes it"
                ),
            ),
            Err(error) => unopened(&subject, &error),
        }),
    }
    findings
}

/// Writes an object, tries to write another in its place, finds it, reads it and removes it.
async fn probe(subject: &str, store: &Store) -> Result<Vec<Finding>, StoreError> {
    let key = format!("{PROBES}/{}", BackupId::generate(Timestamp::now()));
    let (first, second) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
    store.create(&key, vec![first.clone()]).await?;
    let mut findings = Vec::new();
    match store.create(&key, vec![second]).await? {
        Created::Occupied(stored) if stored == first => {
            findings.push(Finding::good(
                subject,
                format!(
                    "{} takes new objects and keeps what is there",
                    store.description()
                ),
            ));
        }
        Created::Occupied(_) | Created::New => findings.push(Finding::problem(
            subject,
            format!(
                "{} overwrote an object that it was asked only to create (If-None-Match: *)",
                store.description()
            ),
            "use a store that honours conditional writes, as AWS S3 and MinIO do",
        )),
    }
    let listed: Vec<_> = store.list(PROBES).try_collect().await?;
    match listed.iter().find(|object| object.key == key) {
        Some(object) => findings.extend(clock(
            subject,
            Timestamp::now().duration_since(object.modified),
        )),
        None => findings.push(Finding::problem(
            subject,
            "a new object does not show in a listing",
            "use a store whose listings are consistent, as AWS S3's and MinIO's are",
        )),
    }
    match store.delete(&key).await {
        Ok(()) => {}
        // Deleting is the owner's business, not archiving's.
        Err(error) if error.kind() == ErrorKind::Denied => {
            findings.push(Finding::good(
                subject,
                format!("may not delete; {key} of this check stays there"),
            ));
        }
        Err(error) => return Err(error),
    }
    Ok(findings)
}

fn clock(subject: &str, ahead: SignedDuration) -> Option<Finding> {
    let minutes = ahead.as_mins();
    let message = match (ahead > MOST_SKEW, ahead < -MOST_SKEW) {
        (true, _) => format!("this machine's clock is {minutes} minutes ahead of the store's"),
        (_, true) => format!(
            "this machine's clock is {} minutes behind the store's",
            -minutes
        ),
        _ => return None,
    };
    Some(Finding::problem(
        subject,
        message,
        "timedatectl set-ntp true",
    ))
}

/// Whose archive it is, without claiming it.
async fn belongs(
    settings: &Settings,
    archive: &Archive,
    control: Option<&ControlFile>,
) -> Result<String, OpenError> {
    let how = if archive.is_encrypted() {
        "the key opens it"
    } else {
        "it is not encrypted"
    };
    let place = archive.store().description();
    let Some(control) = control else {
        return Ok(format!("the archive at {place} can be read, and {how}"));
    };
    let ours = control.system_identifier;
    if archive.identity(ours).await?.is_some() {
        // Compares only, since it stands.
        archive
            .claim(ours, control.major, control.segment_size, None)
            .await?;
        return Ok(format!(
            "the archive at {place} is this database's, and {how}"
        ));
    }
    match archive.incarnations().await?.last() {
        Some((existing, _)) if settings.accept_system_identifier != Some(ours) => {
            Err(OpenError::OtherDatabase {
                place: place.to_owned(),
                existing: *existing,
                ours,
            })
        }
        _ => Ok(format!(
            "the archive at {place} awaits this database's first WAL, and {how}"
        )),
    }
}

fn failed(subject: &str, error: &StoreError) -> Finding {
    if error.is_permanent() {
        Finding::told(subject, error.to_string())
    } else {
        Finding::unknown(subject, error.to_string())
    }
}

fn unopened(subject: &str, error: &OpenError) -> Finding {
    if error.is_permanent() {
        Finding::told(subject, error.to_string())
    } else {
        Finding::unknown(subject, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::config;

    async fn look_at(folder: &std::path::Path, more: &str) -> Vec<Finding> {
        let text = format!(
            "archive: a/b\npostgres: {{dataDirectory: /d}}\nrepositories: [{{name: main, filesystem: {{path: store}}{more}}}]\n"
        );
        let settings =
            config::parse(&folder.join("settings.yaml"), &text, &Default::default()).unwrap();
        look(&settings, &settings.repositories[0], None).await
    }

    #[tokio::test]
    async fn a_good_store_is_good_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("store")).unwrap();
        let findings = look_at(folder.path(), "").await;
        assert!(
            findings.iter().all(|f| f.verdict == Verdict::Good),
            "{findings:?}"
        );
        let left: Vec<_> = std::fs::read_dir(folder.path().join("store/a/b/checks"))
            .into_iter()
            .flatten()
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[tokio::test]
    async fn a_missing_folder_and_a_missing_key_are_problems() {
        let folder = tempfile::tempdir().unwrap();
        let findings = look_at(folder.path(), "").await;
        assert!(
            findings.iter().any(|f| f.verdict != Verdict::Good),
            "{findings:?}"
        );
        std::fs::create_dir(folder.path().join("store")).unwrap();
        let findings = look_at(
            folder.path(),
            ", encryption: {currentKey: k, keyFiles: {k: nowhere}}",
        )
        .await;
        assert!(
            findings
                .iter()
                .any(|f| f.verdict == Verdict::Problem && f.message.contains("nowhere")),
            "{findings:?}"
        );
    }

    #[test]
    fn clocks() {
        assert_eq!(clock("s", SignedDuration::from_secs(30)), None);
        assert_eq!(clock("s", SignedDuration::from_secs(-30)), None);
        assert!(
            clock("s", SignedDuration::from_mins(20))
                .unwrap()
                .message
                .contains("20 minutes ahead")
        );
        assert!(
            clock("s", SignedDuration::from_mins(-20))
                .unwrap()
                .message
                .contains("20 minutes behind")
        );
    }
}
