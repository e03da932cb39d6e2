//! The filesystem store under the suite that every store passes, and what only a folder can have. S3 passes the same
//! suite on a real MinIO in the end-to-end tests.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on fails"
)]

use futures::TryStreamExt;
use holdfast_repository::store::conformance;
use holdfast_repository::store::{Created, Store, StoreSettings};
use std::fs;
use std::path::Path;

fn open(path: &Path) -> Store {
    StoreSettings::Filesystem {
        path: path.to_owned(),
    }
    .open("shop/orders")
    .unwrap()
}

macro_rules! cases {
    ($($case:ident)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $case() {
            let folder = tempfile::tempdir().unwrap();
            conformance::$case(&open(folder.path())).await;
        }
    )* };
}

cases! {
    creates_only
    one_of_many_writers_wins
    reads_are_exact
    listings_are_whole
    deletes_are_idempotent
    lost_answers_are_safe
    bad_reads_are_damage
    trouble_is_never_absence
    archives_are_made_once
    wal_survives_all_of_it
}

#[tokio::test]
async fn staging_files_of_killed_writers_are_no_objects() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let _ = store.create("w/o", vec!["x".into()]).await.unwrap();
    for leftover in ["o#1", "p#1", "p#27"] {
        fs::write(folder.path().join("shop/orders/w").join(leftover), "half").unwrap();
    }
    let listed: Vec<_> = store
        .list("w")
        .map_ok(|l| l.key)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(listed, ["w/o"]);
    // Nor do they stand in the way of the next writer.
    assert!(matches!(
        store.create("w/p", vec!["whole".into()]).await,
        Ok(Created::New)
    ));
    assert_eq!(store.get("w/p", 9).await.unwrap(), "whole");
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_an_error_and_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("not-mounted");
    let error = StoreSettings::Filesystem {
        path: missing.clone(),
    }
    .open("shop/orders")
    .unwrap_err();
    assert!(error.to_string().contains("not-mounted"), "{error}");
    assert!(!missing.exists());
}
