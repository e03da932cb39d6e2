//! What the API server must let in and what it must refuse: the table that a scenario carries out on a real one.
//!
//! One file per kind in `rules/`: a good object (`base`), and cases. `create` changes the base before it is created;
//! `update` changes what was created (both as JSON merge patches, RFC 7396: `null` removes a field). A case with
//! `refused` is refused with an answer that holds these words, at its last step; one without is let in.

use serde::Deserialize;
use serde_json::Value;

const FILES: [&str; 5] = [
    include_str!("rules/repository.yaml"),
    include_str!("rules/archive.yaml"),
    include_str!("rules/backup.yaml"),
    include_str!("rules/scheduled_backup.yaml"),
    include_str!("rules/restore.yaml"),
];

/// One thing to try.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// The kind and a few words, for messages.
    pub name: String,
    /// The whole object to create, with `apiVersion`, `kind` and `metadata.name`.
    pub create: Value,
    /// A merge patch for the created object.
    pub update: Option<Value>,
    /// Words of the answer that refuses the last step; left out: it is let in.
    pub refused: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    base: Value,
    cases: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    #[serde(default)]
    create: Value,
    update: Option<Value>,
    refused: Option<String>,
}

/// All cases of all kinds.
///
/// # Errors
/// When one of the files is no such table.
pub fn cases() -> Result<Vec<Case>, serde_saphyr::Error> {
    let mut cases = Vec::new();
    for text in FILES {
        let File { base, cases: rows } = serde_saphyr::from_str(text)?;
        let kind = base["kind"].as_str().unwrap_or("?").to_owned();
        for row in rows {
            let mut create = base.clone();
            if !row.create.is_null() {
                merge(&mut create, &row.create);
            }
            cases.push(Case {
                name: format!("{kind}: {}", row.name),
                create,
                update: row.update,
                refused: row.refused,
            });
        }
    }
    Ok(cases)
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else {
        return;
    };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Archive, Backup, Repository, Restore, ScheduledBackup};
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use std::collections::BTreeSet;

    /// Reads the object by its type and writes it again: nothing that was in it may be lost.
    fn through<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value, String> {
        let yaml = serde_saphyr::to_string(object).unwrap();
        let typed: T = serde_saphyr::from_str(&yaml).map_err(|e| e.to_string())?;
        Ok(serde_json::to_value(typed).unwrap())
    }

    fn typed(object: &Value) -> Result<Value, String> {
        match object["kind"].as_str().unwrap() {
            "Repository" => through::<Repository>(object),
            "Archive" => through::<Archive>(object),
            "Backup" => through::<Backup>(object),
            "ScheduledBackup" => through::<ScheduledBackup>(object),
            "Restore" => through::<Restore>(object),
            other => panic!("{other}"),
        }
    }

    /// Whether all of `part` is in `whole`; an empty text is as good as none.
    fn within(part: &Value, whole: &Value) -> bool {
        match (part, whole) {
            (Value::Object(part), Value::Object(whole)) => part.iter().all(|(name, value)| {
                value == "" || whole.get(name).is_some_and(|whole| within(value, whole))
            }),
            (Value::Array(part), Value::Array(whole)) => {
                part.len() == whole.len() && part.iter().zip(whole).all(|(a, b)| within(a, b))
            }
            (part, whole) => part == whole,
        }
    }

    #[test]
    fn the_types_hold_all_that_is_let_in() {
        for case in cases().unwrap() {
            let Case {
                name,
                create,
                update,
                refused,
            } = case;
            if refused.is_some() && update.is_none() {
                continue;
            }
            let read = typed(&create).unwrap_or_else(|why| panic!("{name}: {why}"));
            assert!(within(&create, &read), "{name}: {create} became {read}");
            // What was written is read as the same.
            assert_eq!(typed(&read), Ok(read.clone()), "{name}");
        }
    }

    #[test]
    fn the_types_refuse_what_has_another_shape() {
        let bad = [
            ("Repository", r#"{"s3": {}}"#),
            (
                "Repository",
                r#"{"s3": {"bucket": "b"}, "accessMode": "Write"}"#,
            ),
            ("Archive", r#"{}"#),
            (
                "Archive",
                r#"{"repositories": [{"name": "a"}], "postgres": {"port": 65536}}"#,
            ),
            (
                "Archive",
                r#"{"repositories": [{"name": "a"}], "retention": {"recoveryWindow": "2w"}}"#,
            ),
            ("Backup", r#"{"type": "Full"}"#),
            (
                "Backup",
                r#"{"archiveRef": {"name": "a"}, "type": "Differential"}"#,
            ),
            ("ScheduledBackup", r#"{"archiveRef": {"name": "a"}}"#),
            (
                "Restore",
                r#"{"source": {"archiveRef": {"name": "a"}}, "target": {"latest": {}}, "destination": {"statefulSet": {}}}"#,
            ),
        ];
        for (kind, spec) in bad {
            let spec: Value = serde_json::from_str(spec).unwrap();
            let object = serde_json::json!({
                "apiVersion": "holdfast.dev/v1alpha1", "kind": kind, "metadata": {"name": "a"}, "spec": spec
            });
            assert!(typed(&object).is_err(), "{object}");
        }
    }

    #[test]
    fn every_rule_has_a_case() {
        let mut messages = BTreeSet::new();
        for crd in crate::all() {
            collect(
                &crd.spec.names.kind,
                &serde_json::to_value(&crd).unwrap(),
                &mut messages,
            );
        }
        assert!(messages.len() > 20, "{messages:?}");
        let refused: Vec<(String, String)> = cases()
            .unwrap()
            .into_iter()
            .filter_map(|case| Some((case.name, case.refused?)))
            .collect();
        let of_rule = |kind: &str, message: &str| {
            refused.iter().any(|(name, words)| {
                name.starts_with(&format!("{kind}:")) && message.starts_with(words.as_str())
            })
        };
        for (kind, message) in &messages {
            assert!(
                of_rule(kind, message),
                "no case of a {kind} is refused with {message:?}"
            );
        }
    }

    /// The messages of all rules, each with its kind. A rule without one fails here.
    fn collect(kind: &str, value: &Value, messages: &mut BTreeSet<(String, String)>) {
        match value {
            Value::Object(fields) => {
                let rules = fields
                    .get("x-kubernetes-validations")
                    .and_then(Value::as_array);
                for rule in rules.into_iter().flatten() {
                    let message = rule["message"]
                        .as_str()
                        .unwrap_or_else(|| panic!("{kind}: {rule}"));
                    messages.insert((kind.to_owned(), message.to_owned()));
                }
                fields
                    .values()
                    .for_each(|value| collect(kind, value, messages));
            }
            Value::Array(items) => items
                .iter()
                .for_each(|value| collect(kind, value, messages)),
            _ => {}
        }
    }
}
