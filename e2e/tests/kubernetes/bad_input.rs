//! What people get wrong: told in a condition, an event or a refusal, with what to do; mended without deleting anything.

use crate::fixtures::{
    Database, archive, ask_store, backed_up, backup, event, repository, schedule, shop, told,
};
use anyhow::{Context, Result, ensure};
use holdfast_e2e::Space;

#[tokio::test]
async fn in_any_order() -> Result<()> {
    Space::scenario("order", async |space| {
        let database = Database::new("orders", 17);
        space.apply(&schedule("nightly", "orders", "")).await?;
        space.apply(&backup("early", "orders", "")).await?;
        space.apply(&database.yaml()).await?;
        let none = &["the Archive orders does not exist in this namespace: make it"];
        told(space, "scheduledbackup/nightly", "Ready", "False", none).await?;
        told(space, "backup/early", "Started", "False", none).await?;
        event(space, "pod/orders-0", &["holdfast-orders", "not found"]).await?;

        space.apply(&archive("orders")).await?;
        let none = &["the Repository s3 does not exist in this namespace: make it"];
        told(space, "archive/orders", "Ready", "False", none).await?;

        space.apply(&repository(space)).await?;
        database.rolled_out(space).await?;
        for (object, condition) in [
            ("archive/orders", "condition=Ready"),
            ("scheduledbackup/nightly", "condition=Ready"),
            ("backup/early", "condition=Complete"),
        ] {
            space.wait_for(object, condition, 180).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_wrong_store() -> Result<()> {
    Space::scenario("store", async |space| {
        let place = &space.namespace;
        let bucket = format!("bucket-of-{place}");
        let service = format!("store.{place}.svc");
        let secret = |name: &str, entries: &str| {
            format!("{{apiVersion: v1, kind: Secret, metadata: {{name: {name}}}, stringData: {{{entries}}}}}")
        };
        space
            .apply(&secret("writer", "accessKeyId: holdfast, secretAccessKey: wrong"))
            .await?;
        space.apply(&secret("stranger", "accessKeyId: nobody, secretAccessKey: holdfast-secret")).await?;
        space.apply(&secret("half", "accessKeyId: holdfast")).await?;
        space.apply(&secret("short", "current: k1, k1: c2hvcnQ=")).await?;
        let wrong = [
            ("no-bucket", "bucket: holdfast", format!("bucket: {bucket}"), vec![bucket.as_str(), "create"]),
            ("no-store", "minio.minio.svc", service.clone(), vec![service.as_str(), "check s3.endpoint"]),
            ("wrong-secret", "name: s3-writer", "name: writer".into(), vec!["check the credentials", "the Secret writer"]),
            ("wrong-id", "name: s3-writer", "name: stranger".into(), vec!["check the credentials", "the Secret stranger"]),
            ("no-secret", "name: s3-writer", "name: gone".into(), vec!["the Secret gone is missing"]),
            ("half-secret", "name: s3-writer", "name: half".into(), vec!["the Secret half has no entry secretAccessKey"]),
            ("no-key", "name: backup-key", "name: lost".into(), vec!["the Secret lost is missing", "openssl rand -base64 32"]),
            ("short-key", "name: backup-key", "name: short".into(), vec!["of the Secret short", "openssl rand -base64 32"]),
        ];
        for (name, from, to, _) in &wrong {
            let good = repository(space).replace("{name: s3}", &format!("{{name: {name}}}"));
            space.apply(&good.replace(from, to)).await?;
        }
        for (name, _, _, says) in &wrong {
            let object = format!("repository/{name}");
            told(space, &object, "Ready", "False", says).await?;
            event(space, &object, &["Warning"]).await?;
        }

        // Each is mended where it is wrong.
        ask_store(space, "make-bucket", &bucket, &["-X", "PUT"]).await?;
        space
            .apply("{apiVersion: v1, kind: Service, metadata: {name: store}, spec: {type: ExternalName, externalName: minio.minio.svc.cluster.local}}")
            .await?;
        for name in ["writer", "stranger", "gone", "half"] {
            let entries = "accessKeyId: holdfast, secretAccessKey: holdfast-secret";
            space.apply(&secret(name, entries)).await?;
        }
        for name in ["lost", "short"] {
            let entries = "current: k1, k1: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
            space.apply(&secret(name, entries)).await?;
        }
        for (name, ..) in &wrong {
            let object = format!("repository/{name}");
            space.wait_for(&object, "condition=Ready", 180).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn two_databases_with_one_label() -> Result<()> {
    Space::scenario("two", async |space| {
        let database = Database::new("orders", 17);
        shop(space, &database).await?;
        database.archive_rows(space, 0).await?;
        let other = Database {
            archive: Some("orders".to_owned()),
            ..Database::new("others", 17)
        };
        other.begin(space).await?;
        let says = &["others-0", "an Archive and a label of its own"];
        told(space, "archive/orders", "IdentityAccepted", "False", says).await?;
        event(space, "archive/orders", &["Warning", "TwoDatabases"]).await?;
        database.archive_rows(space, 0).await?;

        space.apply(&archive("others")).await?;
        let other = Database::new("others", 17);
        other.begin(space).await?;
        for archive in ["archive/orders", "archive/others"] {
            space.wait_for(archive, "condition=Ready", 120).await?;
        }
        other.archive_rows(space, 0).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_archive_that_pods_still_use() -> Result<()> {
    Space::scenario("deleted", async |space| {
        let database = Database::new("orders", 17);
        shop(space, &database).await?;
        database.archive_rows(space, 0).await?;
        space
            .kubectl(&["delete", "archive", "orders", "--timeout=60s"])
            .await?
            .success()?;
        let says = &["Warning", "ArchiveDeleted", "make the Archive again, or remove the label"];
        event(space, "pod/orders-0", says).await?;
        database.archive_rows(space, 0).await?;

        // It is made again, and with another key: nobody could read what is stored.
        let key = |key: &str| {
            format!("{{apiVersion: v1, kind: Secret, metadata: {{name: backup-key}}, stringData: {{current: k1, k1: {key}}}}}")
        };
        space.apply(&key("HwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")).await?;
        space.apply(&archive("orders")).await?;
        let says = &["data key", "wrapped by k1"];
        told(space, "archive/orders", "Recoverable", "False", says).await?;

        space.apply(&key("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")).await?;
        space
            .wait_for("archive/orders", "condition=Ready", 180)
            .await?;
        database.archive_rows(space, 0).await?;
        backed_up(space, "after", "orders", "").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_second_installation_on_the_same_bucket() -> Result<()> {
    Space::scenario("owner", async |space| {
        let database = Database::new("orders", 17);
        shop(space, &database).await?;
        database.archive_rows(space, 0).await?;
        // What another installation writes that has taken over, with the digest (BLAKE3) of the rest.
        let place = &space.namespace;
        let path = format!("holdfast/{place}/{place}/orders/owner/7");
        let owner = r#"{"formatVersion": 1, "oldestReader": 1, "epoch": 7, "installation": "another-cluster", "since": "2026-11-01T02:00:00Z", "version": "0.1.0", "digest": "d6436cdf5e3f60100078365fd4fa52a2e7dd97c1eeab02fca03bf170a1c2399a"}"#;
        ask_store(
            space,
            "other",
            &path,
            &["-X", "PUT", "--data-binary", owner],
        )
        .await?;
        backed_up(space, "ours", "orders", ", keep: Forever").await?;
        let says = &["another-cluster.7", "nothing expires here", "kubectl -n"];
        told(space, "archive/orders", "Owner", "False", says).await?;
        event(space, "archive/orders", &["Warning", "OtherInstallation"]).await?;
        // Archiving goes on meanwhile.
        database.archive_rows(space, 0).await?;

        let (_, _, message) = space.condition("archive/orders", "Owner").await?;
        let line = message.split_once("say so: ").context("the line")?.1;
        let here = std::path::Path::new(".");
        space.shell(line, here).await?.success()?;
        space
            .wait_for("archive/orders", "condition=Owner", 120)
            .await?;
        space
            .wait_for("archive/orders", "condition=Ready", 120)
            .await?;
        event(space, "archive/orders", &["TookOver", "another-cluster.7"]).await
    })
    .await
}

/// What is longer is refused by the rules of the resources, each with its sentence.
#[tokio::test]
async fn the_longest_names() -> Result<()> {
    let long = |count: usize| "a".repeat(count);
    // With what makes it unique, a namespace's name of 63 characters.
    Space::scenario(&long(56), async |space| {
        ensure!(space.namespace.len() == 63, "{}", space.namespace);
        let (repository_name, archive_name) = (long(63), long(63));
        let named =
            |yaml: String| yaml.replace("{name: s3}", &format!("{{name: {repository_name}}}"));
        space.apply(&named(repository(space))).await?;
        space.apply(&named(archive(&archive_name))).await?;
        let database = Database {
            archive: Some(archive_name.clone()),
            ..Database::new("orders", 17)
        };
        database.begin(space).await?;
        let object = format!("archive/{archive_name}");
        space.wait_for(&object, "condition=Ready", 120).await?;
        let schedule_name = long(52);
        space
            .apply(&schedule(&schedule_name, &archive_name, ""))
            .await?;
        let object = format!("scheduledbackup/{schedule_name}");
        space
            .wait_for(&object, "jsonpath={.status.lastBackup}", 60)
            .await?;
        let backup = space.get(&object).await?["status"]["lastBackup"].clone();
        let backup = format!("backup/{}", backup.as_str().context("a name")?);
        space.wait_for(&backup, "condition=Complete", 180).await?;

        for (kind, yaml, says) in [
            (
                "archive",
                archive(&long(64)),
                "an Archive's name has 63 characters at most",
            ),
            (
                "schedule",
                schedule(&long(53), "orders", ""),
                "a ScheduledBackup's name has 52 characters at most",
            ),
        ] {
            let refused = space.try_apply(&yaml).await?.refused()?;
            ensure!(refused.contains(says), "{kind}: {refused}");
        }
        Ok(())
    })
    .await
}
