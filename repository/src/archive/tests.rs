use super::*;
use crate::store::StoreSettings;
use serde_json::{Value, json};
use std::fs;

const SYSTEM: SystemIdentifier = SystemIdentifier(7);

/// What is changed in a description is found, though it is JSON still; how it is laid out does not matter.
type Change<'a> = dyn Fn(&mut Value) + 'a;

#[tokio::test]
async fn a_changed_description_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let store = StoreSettings::Filesystem { path }.open("a/b").unwrap();
    let masters = MasterKeys::new("k1".into(), [("k1".into(), [7; 32])].into()).unwrap();
    let archive = Archive::open_or_create(store.clone(), Some(&masters))
        .await
        .unwrap();
    let size = SegmentSize::DEFAULT;
    archive.claim(SYSTEM, 17, size, None).await.unwrap();
    let open = async || {
        let archive = Archive::open(store.clone(), Some(&masters)).await?;
        archive.identity(SYSTEM).await
    };
    let change = |key: &str, change: &dyn Fn(&mut Value)| {
        let file = dir.path().join("a/b").join(key);
        let before = fs::read(&file).unwrap();
        let mut value = serde_json::from_slice(&before).unwrap();
        change(&mut value);
        fs::write(&file, serde_json::to_vec_pretty(&value).unwrap()).unwrap();
        (file, before)
    };
    for (key, field) in [
        ("archive.json", "created"),
        ("7/identity.json", "postgresMajor"),
        ("keys/1/k1.json", "wrapped"),
    ] {
        let (file, before) = change(key, &|_| {});
        assert!(open().await.unwrap().is_some(), "{key}");
        fs::write(file, before).unwrap();
        let changes: [(&str, &Change<'_>); 4] = [
            ("a value", &|value| {
                let field = &mut value[field];
                *field = match field.as_str() {
                    Some(text) => json!(text.to_lowercase()),
                    None => json!(16),
                };
            }),
            ("a field more", &|value| value["more"] = json!(1)),
            ("no digest", &|value| {
                value.as_object_mut().unwrap().remove(DIGEST).unwrap();
            }),
            ("another digest", &|value| value[DIGEST] = json!("00")),
        ];
        for (what, changed) in changes {
            let (file, before) = change(key, changed);
            let refused = open().await;
            assert!(
                matches!(&refused, Err(OpenError::Damaged { object, .. }) if object == key),
                "{what} in {key}: {refused:?}"
            );
            fs::write(file, before).unwrap();
        }
        let (file, before) = change(key, &|value| value["oldestReader"] = json!(99));
        let refused = open().await;
        assert!(
            matches!(&refused, Err(OpenError::NewerFormat { found: 99, .. })),
            "{key}: {refused:?}"
        );
        fs::write(file, before).unwrap();
    }
    assert!(open().await.unwrap().is_some());
}

/// A database's members and its backup may all come first.
#[tokio::test]
async fn of_many_that_claim_at_once_none_is_another_database() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let store = StoreSettings::Filesystem { path }.open("a/b").unwrap();
        let archive = Archive::open_or_create(store, None).await.unwrap();
        let claim = || archive.claim(SYSTEM, 17, SegmentSize::DEFAULT, None);
        let claims = futures::future::join_all((0..8).map(|_| claim())).await;
        for claimed in claims {
            assert_eq!(claimed.unwrap().previous, None);
        }
    }
}
