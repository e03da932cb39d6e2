//! Repositories as the settings of pods have them. Pure.

use super::validate::WantedRepository;
use crate::repository::{Place, StoreKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_protocol::settings as written;
use holdfast_protocol::settings::{Credentials, Encryption, Repository};

/// A repository as settings have it, and the files that it names.
pub(crate) fn repository(
    wanted: &WantedRepository,
    file: &mut impl FnMut(String, Vec<u8>) -> String,
) -> Repository {
    let WantedRepository {
        name,
        required,
        resolved,
    } = wanted;
    let mut own = |suffix: &str, content: Vec<u8>| file(format!("{name}.{suffix}"), content);
    let ca_file = resolved.ca.clone().map(|ca| own("ca.crt", ca));
    let place = place(&resolved.place, ca_file);
    let credentials = resolved.access.as_ref().map(|key| match key {
        StoreKey::AccessKey(key) => Credentials::AccessKey {
            access_key_id_file: own("access-key-id", key.id.clone().into()),
            secret_access_key_file: own("secret-access-key", key.secret.clone().into()),
            session_token_file: key
                .session_token
                .clone()
                .map(|token| own("session-token", token.into())),
        },
        StoreKey::AccountKey(key) => Credentials::AccountKey {
            account_key_file: own("account-key", key.clone().into()),
        },
        StoreKey::SasToken(token) => Credentials::SasToken {
            sas_token_file: own("sas-token", token.clone().into()),
        },
        StoreKey::ServiceAccount(key) => Credentials::ServiceAccount {
            service_account_file: own("service-account.json", key.clone().into()),
        },
    });
    let encryption = resolved.keys.as_ref().map(|keys| Encryption {
        current_key: keys.current.clone(),
        key_files: keys
            .keys
            .iter()
            .map(|(id, key)| {
                let content = STANDARD.encode(key).into_bytes();
                (id.clone(), own(&format!("key.{id}"), content))
            })
            .collect(),
    });
    Repository {
        name: name.clone(),
        place,
        credentials,
        encryption,
        mode: if *required { "Required" } else { "BestEffort" }.to_owned(),
    }
}

fn place(place: &Place, ca_file: Option<String>) -> written::Place {
    match place {
        Place::S3(s3) => written::Place::S3(written::S3 {
            bucket: s3.bucket.clone(),
            prefix: s3.prefix.clone(),
            region: s3.region.clone(),
            endpoint: s3.endpoint.clone(),
            ca_file,
        }),
        Place::Azure(azure) => written::Place::Azure(written::Azure {
            account: azure.account.clone(),
            container: azure.container.clone(),
            prefix: azure.prefix.clone(),
            endpoint: azure.endpoint.clone(),
            ca_file,
        }),
        Place::Gcs(gcs) => written::Place::Gcs(written::Gcs {
            bucket: gcs.bucket.clone(),
            prefix: gcs.prefix.clone(),
            endpoint: gcs.endpoint.clone(),
            ca_file,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::resolve;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    #[test]
    fn each_kind_of_store_names_its_own_files() {
        let key = r#"{"type": "service_account"}"#;
        let secrets: [(&str, &[(&str, &str)]); 4] = [
            ("account", &[("accountKey", "a")]),
            ("sas", &[("sasToken", "s")]),
            ("google", &[("serviceAccount.json", key)]),
            ("ca", &[("ca.crt", "pem")]),
        ];
        let found = secrets
            .into_iter()
            .map(|(name, data)| {
                let data = data.iter().copied().collect();
                (name.to_owned(), Some(Arc::new(data)))
            })
            .collect();
        let azure = json!({"account": "acme", "container": "c", "prefix": "p", "endpoint": "https://h",
            "caSecretRef": {"name": "ca", "key": "ca.crt"}});
        for (spec, expected, content) in [
            (
                json!({"azure": azure, "credentials": {"secretRef": {"name": "account"}}}),
                json!({"azure": {"account": "acme", "container": "c", "prefix": "p", "endpoint": "https://h", "caFile": "r.ca.crt"},
                    "credentials": {"accountKeyFile": "r.account-key"}}),
                vec![("r.account-key", "a"), ("r.ca.crt", "pem")],
            ),
            (
                json!({"azure": {"account": "acme", "container": "c"}, "credentials": {"secretRef": {"name": "sas"}}}),
                json!({"azure": {"account": "acme", "container": "c"}, "credentials": {"sasTokenFile": "r.sas-token"}}),
                vec![("r.sas-token", "s")],
            ),
            (
                json!({"gcs": {"bucket": "b", "prefix": "p"}, "credentials": {"secretRef": {"name": "google"}}}),
                json!({"gcs": {"bucket": "b", "prefix": "p"}, "credentials": {"serviceAccountFile": "r.service-account.json"}}),
                vec![("r.service-account.json", key)],
            ),
            (
                json!({"gcs": {"bucket": "b"}}),
                json!({"gcs": {"bucket": "b"}}),
                vec![],
            ),
        ] {
            let resolved = resolve(&serde_json::from_value(spec).unwrap(), &found).unwrap();
            let wanted = WantedRepository {
                name: "r".into(),
                required: false,
                resolved,
            };
            let mut files = BTreeMap::new();
            let repository = repository(&wanted, &mut |name: String, content: Vec<u8>| {
                files.insert(name.clone(), String::from_utf8(content).unwrap());
                name
            });
            let text = serde_saphyr::to_string(&repository).unwrap();
            let mut read: Value = serde_saphyr::from_str(&text).unwrap();
            let object = read.as_object_mut().unwrap();
            assert_eq!(object.remove("name"), Some("r".into()));
            assert_eq!(object.remove("mode"), Some("BestEffort".into()));
            assert_eq!(read, expected);
            let content: BTreeMap<String, String> = content
                .into_iter()
                .map(|(n, c)| (n.into(), c.into()))
                .collect();
            assert_eq!(files, content);
        }
    }
}
