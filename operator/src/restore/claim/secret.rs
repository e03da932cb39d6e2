//! The settings of the Job's containers: what the pods of an archive have, for one that is only read. Pure.

use crate::archive::{CONFIG, Entries, RenderError, WantedRepository, repository, target};
use crate::names::{Key, MONITORING_PORT};
use holdfast_crds::{RecoveryTarget, Restore};
use holdfast_protocol::settings::{Bootstrap, Monitoring, Postgres, Recovery, SettingsFile};
use k8s_openapi::ByteString;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::names::metadata;

/// What is restored.
#[derive(Debug)]
pub struct Source<'a> {
    /// As the archive is named in the repository.
    pub archive: &'a Key,
    /// Where it lies.
    pub repository: &'a WantedRepository,
    /// The backup that pre-flight chose.
    pub backup: &'a str,
    /// To which moment.
    pub target: &'a RecoveryTarget,
}

/// The files. The settings' own archive is one that nobody has and nothing is ever put into: what is restored is a copy,
/// and says so in its `holdfast.origin`.
pub fn entries(restore: &Restore, source: &Source<'_>) -> Result<Entries, RenderError> {
    let mut entries = Entries::new();
    let mut file = |name: String, content: Vec<u8>| {
        entries.insert(name.clone(), content);
        name
    };
    let own = Key::new(
        restore.namespace().unwrap_or_default(),
        format!("restore-{}", restore.uid().unwrap_or_default()),
    );
    let settings = SettingsFile {
        archive: own.to_string(),
        generation: Some(1),
        // The environment names the data directory, and nobody asks the server anything.
        postgres: Postgres::default(),
        repositories: vec![repository(source.repository, &mut file)],
        sources: Vec::new(),
        wal: None,
        backup: None,
        control: None,
        // For the probes.
        monitoring: Some(Monitoring {
            listen: format!("[::]:{MONITORING_PORT}"),
        }),
        history_directory: None,
        accept_system_identifier: None,
        bootstrap: Some(Bootstrap {
            recovery: Some(Recovery {
                repository: source.repository.name.clone(),
                archive: source.archive.to_string(),
                target: target(&RecoveryTarget {
                    backup: Some(source.backup.to_owned()),
                    ..source.target.clone()
                }),
                action: Some(restore.spec.action.name().to_owned()),
            }),
            order: None,
        }),
    };
    let text =
        serde_saphyr::to_string(&settings).map_err(|error| RenderError::Yaml(error.to_string()))?;
    entries.insert(CONFIG.to_owned(), text.into_bytes());
    Ok(entries)
}

/// The Secret. It goes with the Restore, and as soon as that has ended.
pub fn secret(restore: &Restore, entries: Entries) -> Value {
    let data: std::collections::BTreeMap<String, ByteString> = entries
        .into_iter()
        .map(|(name, content)| (name, ByteString(content)))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(restore),
        "data": data,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::restore;
    use super::*;
    use crate::repository::resolve;
    use std::sync::Arc;

    #[test]
    fn the_settings_restore_a_copy_and_archive_nowhere() {
        let restore = restore(json!({}));
        let spec = json!({"s3": {"bucket": "b"}, "credentials": {"secretRef": {"name": "writer"}},
            "encryption": {"secretRef": {"name": "keys"}}});
        let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let found = [
            (
                "writer",
                vec![("accessKeyId", "id"), ("secretAccessKey", "hunter2")],
            ),
            ("keys", vec![("current", "k1"), ("k1", key)]),
        ];
        let found = found
            .into_iter()
            .map(|(name, data)| (name.to_owned(), Some(Arc::new(data.into_iter().collect()))))
            .collect();
        let resolved = resolve(&serde_json::from_value(spec).unwrap(), &found).unwrap();
        let source = Source {
            archive: &Key::new("shop", "orders"),
            repository: &WantedRepository {
                name: "s3".into(),
                required: true,
                resolved,
            },
            backup: "b1",
            target: &restore.spec.target,
        };
        let entries = entries(&restore, &source).unwrap();
        let names: Vec<&str> = entries.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "config.yaml",
                "s3.access-key-id",
                "s3.key.k1",
                "s3.secret-access-key"
            ]
        );
        let text = String::from_utf8(entries["config.yaml"].clone()).unwrap();
        let config: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(config["archive"], "fresh/restore-r");
        assert_eq!(config["repositories"][0]["mode"], "Required");
        assert_eq!(
            config["bootstrap"],
            json!({"recovery": {"repository": "s3", "archive": "shop/orders",
                "target": {"lsn": "0/5000000", "backup": "b1"}, "action": "Promote"}})
        );
        assert!(config.get("control").is_none());
        let secret = secret(&restore, entries);
        assert_eq!(secret["metadata"]["name"], "holdfast-restore-copy");
        assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], "r");
        assert!(secret["data"]["config.yaml"].is_string());
    }
}
