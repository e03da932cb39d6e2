//! What the Secret of an archive's pods holds. Pure: the same needs give the same bytes.
//!
//! The generation counts up with every change and is reported back by the sidecars. What a new generation does not need
//! any more (old keys, an old password) stays until every instance has loaded it: an instance reads its files whenever
//! it needs them, by the settings that it has.

use super::histories::{self, Histories};
use super::stores::repository;
use super::validate::Wanted;
use crate::authority::Signed;
use crate::names::{CONTROL_PORT, Key, MONITORING_PORT};
use holdfast_crds::{RecoveryTarget, SslMode};
use holdfast_postgres::SystemIdentifier;
use holdfast_protocol::settings as written;
use holdfast_protocol::settings::{
    Backup, Bootstrap, Compression, Control, HISTORIES_OF, Monitoring, Postgres, RestoreOrder,
    SettingsFile, Streaming, Wal,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use thiserror::Error;

/// The settings.
pub(crate) const CONFIG: &str = "config.yaml";
const CA: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const PASSWORD: &str = "postgres-password";

/// All containers of a pod share its loopback interface, and not the folder of the server's socket.
const HOST: &str = "localhost";

/// What the API server takes, in bytes, with room.
const LARGEST: usize = 1_000_000;

/// The entries of a Secret.
pub type Entries = BTreeMap<String, Vec<u8>>;

/// The Secret as it stands. `Debug` shows names alone.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Present {
    /// Of its settings; 0 where nobody can tell.
    pub generation: i64,
    /// What it holds.
    pub entries: Entries,
}

impl fmt::Debug for Present {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Present")
            .field("generation", &self.generation)
            .field("entries", &self.entries.keys())
            .finish()
    }
}

impl Present {
    /// The certificate that stands, with its key.
    pub fn signed(&self) -> Option<Signed> {
        let text = |name: &str| String::from_utf8(self.entries.get(name)?.clone()).ok();
        Some(Signed {
            certificate: text(CERTIFICATE)?,
            key: text(KEY)?,
        })
    }

    /// The history files that stand.
    pub fn histories(&self) -> Histories {
        let files = self.entries.iter();
        files
            .filter(|(name, _)| histories::is_name(name))
            .map(|(name, content)| (name.clone(), content.clone()))
            .collect()
    }

    /// The id of the restore in place that its settings order: what a pod that mounts it now will find.
    pub fn order(&self) -> Option<String> {
        let config = std::str::from_utf8(self.entries.get(CONFIG)?).ok()?;
        let config: Value = serde_saphyr::from_str(config).ok()?;
        let id = config.pointer("/bootstrap/order/id")?.as_str()?;
        Some(id.to_owned())
    }
}

/// What goes into the Secret besides what the user wants.
#[derive(Debug, Clone)]
pub struct Own<'a> {
    /// The authorities to trust, in PEM.
    pub bundle: &'a str,
    /// The sidecars' certificate.
    pub signed: &'a Signed,
    /// The history files that are known.
    pub histories: &'a Histories,
    /// Whose they are; none while that is not known.
    pub system: Option<SystemIdentifier>,
    /// The restore in place that is under way.
    pub order: Option<&'a RestoreOrder>,
}

/// How far the instances are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// The newest generation that any instance has reported.
    pub newest: i64,
    /// The oldest that an instance may still use; none where there are no instances.
    pub oldest: Option<i64>,
}

/// A Secret that can't be made.
#[derive(Debug, Error)]
pub enum RenderError {
    /// The settings can't be written. A bug.
    #[error("the settings can't be written as YAML: {0}")]
    Yaml(String),
    /// More than a Secret takes.
    #[error(
        "the Secret would have {0} bytes, and it can have {LARGEST}: use fewer repositories or keys"
    )]
    TooLarge(usize),
}

/// The Secret as it has to be written; none where it stands as it should.
pub fn render(
    archive: &Key,
    wanted: &Wanted,
    own: &Own<'_>,
    present: Option<&Present>,
    loaded: Loaded,
) -> Result<Option<Present>, RenderError> {
    let mut entries = Entries::new();
    let mut settings = settings(archive, wanted, own.order, &mut entries);
    let Own {
        bundle,
        signed,
        histories,
        system,
        order: _,
    } = own;
    for (name, text) in [
        (CA, *bundle),
        (CERTIFICATE, signed.certificate.as_str()),
        (KEY, signed.key.as_str()),
    ] {
        entries.insert(name.to_owned(), text.as_bytes().to_vec());
    }
    entries.extend(histories.iter().map(|(n, c)| (n.clone(), c.clone())));
    if let Some(system) = system.filter(|_| !histories.is_empty()) {
        entries.insert(HISTORIES_OF.to_owned(), system.to_string().into_bytes());
    }

    let write = |settings: &SettingsFile| {
        serde_saphyr::to_string(settings)
            .map(String::into_bytes)
            .map_err(|error| RenderError::Yaml(error.to_string()))
    };
    if let Some(present) = present.filter(|present| present.generation > 0) {
        settings.generation = Some(present.generation);
        entries.insert(CONFIG.to_owned(), write(&settings)?);
        let stands = |(name, content): (&String, &Vec<u8>)| {
            present.entries.get(name).is_some_and(|one| one == content)
        };
        if entries.iter().all(stands) {
            let all_have_it = loaded
                .oldest
                .is_none_or(|oldest| oldest >= present.generation);
            let stale = present.entries.len() > entries.len();
            let clean = Present {
                generation: present.generation,
                entries,
            };
            return Ok((stale && all_have_it).then_some(clean));
        }
    }
    let generation = present.map_or(0, |present| present.generation);
    let generation = generation.max(loaded.newest).saturating_add(1);
    settings.generation = Some(generation);
    entries.insert(CONFIG.to_owned(), write(&settings)?);
    if let Some(present) = present
        && loaded.oldest.is_some()
    {
        keep_stale(&mut entries, present);
    }
    let size: usize = entries.iter().map(|(n, c)| n.len() + c.len()).sum();
    if size > LARGEST {
        return Err(RenderError::TooLarge(size));
    }
    Ok(Some(Present {
        generation,
        entries,
    }))
}

/// Histories go when they are another cluster's: an instance of this one must not take them for its own.
fn keep_stale(entries: &mut Entries, present: &Present) {
    for (name, content) in &present.entries {
        if !histories::is_name(name) && name != HISTORIES_OF {
            entries
                .entry(name.clone())
                .or_insert_with(|| content.clone());
        }
    }
}

/// Adds the files that the settings name.
fn settings(
    archive: &Key,
    wanted: &Wanted,
    order: Option<&RestoreOrder>,
    entries: &mut Entries,
) -> SettingsFile {
    let Wanted {
        repositories,
        source,
        recovery,
        port,
        user,
        password,
        ssl_mode,
        wal,
        streaming,
        backup,
        parallelism,
        accepted,
    } = wanted;
    let mut file = |name: String, content: Vec<u8>| {
        entries.insert(name.clone(), content);
        name
    };
    let compression = |(algorithm, level): &(String, Option<i32>)| Compression {
        algorithm: algorithm.clone(),
        level: *level,
    };
    SettingsFile {
        archive: archive.to_string(),
        generation: None,
        postgres: Postgres {
            host: Some(HOST.to_owned()),
            port: Some(*port),
            user: Some(user.clone()),
            password_file: password
                .as_ref()
                .map(|password| file(PASSWORD.to_owned(), password.clone())),
            ssl_mode: Some(
                match ssl_mode {
                    SslMode::Disable => "disable",
                    SslMode::Prefer => "prefer",
                    SslMode::Require => "require",
                }
                .to_owned(),
            ),
            ..Postgres::default()
        },
        repositories: repositories
            .iter()
            .map(|wanted| repository(wanted, &mut file))
            .collect(),
        sources: source
            .iter()
            .map(|wanted| repository(wanted, &mut file))
            .collect(),
        wal: Some(Wal {
            compression: compression(wal),
            streaming: Streaming {
                interval_seconds: streaming.interval_seconds,
                synchronous: streaming.synchronous,
            },
        }),
        backup: Some(Backup {
            compression: compression(backup),
            parallelism: *parallelism,
        }),
        control: Some(Control {
            listen: format!("[::]:{CONTROL_PORT}"),
            ca_file: CA.to_owned(),
            certificate_file: CERTIFICATE.to_owned(),
            key_file: KEY.to_owned(),
        }),
        monitoring: Some(Monitoring {
            listen: format!("[::]:{MONITORING_PORT}"),
        }),
        history_directory: Some(".".to_owned()),
        accept_system_identifier: accepted.clone(),
        bootstrap: (recovery.is_some() || order.is_some()).then(|| Bootstrap {
            recovery: recovery.as_ref().map(|recovery| written::Recovery {
                repository: recovery.source.repository_ref.name.clone(),
                archive: Key::new(
                    recovery.source.namespace.clone(),
                    recovery.source.archive.clone(),
                )
                .to_string(),
                target: target(&recovery.target),
                action: None,
            }),
            order: order.cloned(),
        }),
    }
}

/// A target as settings have it.
pub(crate) fn target(target: &RecoveryTarget) -> written::RecoveryTarget {
    let RecoveryTarget {
        time,
        lsn,
        xid,
        name,
        immediate,
        latest,
        exclusive,
        timeline,
        backup,
    } = target;
    written::RecoveryTarget {
        time: time.clone(),
        lsn: lsn.clone(),
        xid: xid.map(|xid| xid.to_string()),
        name: name.clone(),
        immediate: immediate.map(|_| written::Nothing {}),
        latest: latest.map(|_| written::Nothing {}),
        exclusive: *exclusive,
        timeline: timeline.clone(),
        backup: backup.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::validate::tests::{KEY as MASTER, wanted};
    use super::*;
    use serde_json::json;
    use std::collections::BTreeSet;

    const OTHER: &str = "HwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
    const ONE: &[(&str, &str)] = &[("current", "k1"), ("k1", MASTER)];
    const BOTH: &[(&str, &str)] = &[("current", "k2"), ("k1", MASTER), ("k2", OTHER)];
    const NEW: &[(&str, &str)] = &[("current", "k2"), ("k2", OTHER)];
    const NOBODY: Loaded = Loaded {
        newest: 0,
        oldest: None,
    };

    fn names(present: &Present) -> BTreeSet<&str> {
        present.entries.keys().map(String::as_str).collect()
    }

    fn all(generation: i64) -> Loaded {
        Loaded {
            newest: generation,
            oldest: Some(generation),
        }
    }

    fn rendered(
        changes: Value,
        keys: &[(&str, &str)],
        present: Option<&Present>,
        loaded: Loaded,
    ) -> Option<Present> {
        let signed = Signed {
            certificate: "certificate".into(),
            key: "key".into(),
        };
        let own = Own {
            bundle: "bundle",
            signed: &signed,
            histories: &Histories::from([("00000002.history".into(), b"1".to_vec())]),
            system: Some(SystemIdentifier(7)),
            order: None,
        };
        let archive = Key::new("shop", "orders");
        render(&archive, &wanted(changes, keys), &own, present, loaded).unwrap()
    }

    #[test]
    fn settings_name_the_files_beside_them() {
        let first = rendered(json!({}), ONE, None, NOBODY).unwrap();
        assert_eq!(first.generation, 1);
        let expected = [
            "00000002.history",
            "ca.crt",
            "config.yaml",
            "histories-of",
            "postgres-password",
            "s3.access-key-id",
            "s3.key.k1",
            "s3.secret-access-key",
            "tls.crt",
            "tls.key",
        ];
        assert_eq!(names(&first), BTreeSet::from(expected));
        let text = String::from_utf8(first.entries[CONFIG].clone()).unwrap();
        let config: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(config["archive"], "shop/orders");
        assert_eq!(config["generation"], 1);
        assert_eq!(
            config["postgres"],
            json!({"host": "localhost", "port": 5432, "user": "postgres", "passwordFile": "postgres-password", "sslMode": "prefer"})
        );
        assert_eq!(
            config["repositories"],
            json!([{"name": "s3", "s3": {"bucket": "b", "endpoint": "http://minio:9000"}, "mode": "Required",
                "credentials": {"accessKeyIdFile": "s3.access-key-id", "secretAccessKeyFile": "s3.secret-access-key"},
                "encryption": {"currentKey": "k1", "keyFiles": {"k1": "s3.key.k1"}}}])
        );
        assert_eq!(config["control"]["listen"], "[::]:9643");
        assert!(!text.contains("hunter"), "{text}");
        assert_eq!(first.entries["s3.key.k1"], MASTER.trim().as_bytes());
        assert_eq!(first.entries["histories-of"], b"7");
        let require = json!({"postgres": {"auth": {"sslMode": "require"}}});
        let require = rendered(require, ONE, None, NOBODY).unwrap();
        let text = String::from_utf8(require.entries[CONFIG].clone()).unwrap();
        assert!(text.contains("sslMode: require"), "{text}");
    }

    #[test]
    fn the_source_of_a_recovery_is_given_along() {
        let source =
            json!({"repositoryRef": {"name": "s3"}, "namespace": "shop", "archive": "old"});
        let target = json!({"xid": 741, "exclusive": true, "timeline": "2"});
        let spec = json!({"bootstrap": {"recovery": {"source": source, "target": target}}});
        let present = rendered(spec, ONE, None, NOBODY).unwrap();
        let text = String::from_utf8(present.entries[CONFIG].clone()).unwrap();
        let config: Value = serde_saphyr::from_str(&text).unwrap();
        let expected = json!({"recovery": {"repository": "s3", "archive": "shop/old", "target": {"xid": "741", "exclusive": true, "timeline": "2"}}});
        assert_eq!(config["bootstrap"], expected);
        assert!(config.get("sources").is_none(), "{text}");
    }

    #[test]
    fn an_order_stands_in_the_settings_until_it_is_withdrawn() {
        let signed = Signed {
            certificate: "certificate".into(),
            key: "key".into(),
        };
        let histories = Histories::new();
        let order = RestoreOrder {
            id: "o1".into(),
            pod: "orders-db-0".into(),
            wiped: Vec::new(),
            system_identifier: "7".into(),
            repository: "s3".into(),
            target: written::RecoveryTarget::default(),
            action: "Promote".into(),
            force: false,
        };
        let with = |order, present: Option<&Present>, loaded| {
            let own = Own {
                bundle: "bundle",
                signed: &signed,
                histories: &histories,
                system: None,
                order,
            };
            let archive = Key::new("shop", "orders");
            render(&archive, &wanted(json!({}), ONE), &own, present, loaded).unwrap()
        };
        let before = with(None, None, NOBODY).unwrap();
        assert_eq!(before.order(), None);
        let ordered = with(Some(&order), Some(&before), all(1)).unwrap();
        assert_eq!(ordered.order().as_deref(), Some("o1"));
        assert_eq!(ordered.generation, 2);
        assert_eq!(with(Some(&order), Some(&ordered), all(2)), None);
        let withdrawn = with(None, Some(&ordered), all(2)).unwrap();
        assert_eq!((withdrawn.order(), withdrawn.generation), (None, 3));
    }

    #[test]
    fn the_generation_counts_up_only_when_something_changes() {
        let first = rendered(json!({}), ONE, None, NOBODY).unwrap();
        assert_eq!(rendered(json!({}), ONE, Some(&first), all(1)), None);
        let second = rendered(
            json!({"postgres": {"port": 5433}}),
            ONE,
            Some(&first),
            all(1),
        );
        assert_eq!(second.unwrap().generation, 2);
        // The Secret was lost, and instances have seen more than we know.
        let after = rendered(json!({}), ONE, None, all(7)).unwrap();
        assert_eq!(after.generation, 8);
        // Somebody has changed what we wrote.
        let mut touched = first.clone();
        touched.entries.insert("s3.key.k1".into(), b"x".to_vec());
        let mended = rendered(json!({}), ONE, Some(&touched), all(1)).unwrap();
        assert_eq!(
            (mended.generation, &mended.entries["s3.key.k1"]),
            (2, &first.entries["s3.key.k1"])
        );
    }

    #[test]
    fn old_keys_stay_until_every_instance_has_the_new_settings() {
        let one = rendered(json!({}), ONE, None, NOBODY).unwrap();
        let both = rendered(json!({}), BOTH, Some(&one), all(1)).unwrap();
        let second = rendered(json!({}), NEW, Some(&both), all(2)).unwrap();
        assert_eq!(second.generation, 3);
        assert!(names(&second).contains("s3.key.k1"));
        for (loaded, goes) in [
            (all(2), false),
            (
                Loaded {
                    newest: 3,
                    oldest: Some(2),
                },
                false,
            ),
            (
                Loaded {
                    newest: 3,
                    oldest: Some(0),
                },
                false,
            ),
            (all(3), true),
            (NOBODY, true),
        ] {
            let cleaned = rendered(json!({}), NEW, Some(&second), loaded);
            assert_eq!(cleaned.is_some(), goes, "{loaded:?}");
            if let Some(cleaned) = cleaned {
                assert_eq!(cleaned.generation, 3);
                assert!(!names(&cleaned).contains("s3.key.k1"));
                assert_eq!(cleaned.entries[CONFIG], second.entries[CONFIG]);
                assert_eq!(rendered(json!({}), NEW, Some(&cleaned), loaded), None);
            }
        }
    }

    #[test]
    fn the_histories_of_another_cluster_go_at_once() {
        let mut one = rendered(json!({}), ONE, None, NOBODY).unwrap();
        one.entries.insert("00000009.history".into(), b"x".to_vec());
        let next = rendered(json!({"postgres": {"port": 1}}), ONE, Some(&one), all(1)).unwrap();
        assert!(!names(&next).contains("00000009.history"));
        assert!(names(&next).contains("00000002.history"));

        // And whose they were goes with the last of them.
        let signed = Signed {
            certificate: "certificate".into(),
            key: "key".into(),
        };
        let own = Own {
            bundle: "bundle",
            signed: &signed,
            histories: &Histories::new(),
            system: Some(SystemIdentifier(8)),
            order: None,
        };
        let archive = Key::new("shop", "orders");
        let wanted = wanted(json!({"postgres": {"port": 2}}), ONE);
        let last = render(&archive, &wanted, &own, Some(&next), all(2));
        let last = last.unwrap().unwrap();
        assert!(!names(&last).contains("histories-of"));
    }
}
