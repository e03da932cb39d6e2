//! Whether the API server serves our kinds, as this version has them.

use super::Found;
use holdfast_crds::{GROUP, VERSION};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::Api;
use kube::{Client, ResourceExt};
use serde_json::Value;
use std::collections::BTreeSet;

const CHECK: &str = "definitions";

const ADVICE: &str = "upgrade the chart with crds.install=true, or run `kubectl apply --server-side --force-conflicts -f deploy/crds.yaml` of this version";

/// What stands in the cluster of one definition of ours.
type Standing = (CustomResourceDefinition, Option<CustomResourceDefinition>);

/// Rights: discovery, which everybody has; get on our CustomResourceDefinitions.
pub async fn check(client: &Client) -> Found {
    let version = format!("{GROUP}/{VERSION}");
    let served: BTreeSet<String> = match client.list_api_group_resources(&version).await {
        Ok(list) => list.resources.into_iter().map(|kind| kind.name).collect(),
        Err(kube::Error::Api(refused)) if refused.code == 404 => BTreeSet::new(),
        Err(error) => return Found::unanswered(CHECK, "what is served can't be asked", &error),
    };
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut standing = Vec::new();
    for ours in holdfast_crds::all() {
        match api.get_opt(&ours.name_any()).await {
            Ok(theirs) => standing.push((ours, theirs)),
            Err(error) => {
                let what = format!("{} can't be read", ours.name_any());
                return Found::unanswered(CHECK, &what, &error);
            }
        }
    }
    judge(&served, &standing)
}

fn judge(served: &BTreeSet<String>, standing: &[Standing]) -> Found {
    let plurals = standing.iter().map(|(ours, _)| &ours.spec.names.plural);
    let missing: Vec<&str> = plurals
        .clone()
        .filter(|name| !served.contains(*name))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        let message = format!("{GROUP}/{VERSION} does not serve {}", missing.join(", "));
        return Found::wrong(CHECK, message, ADVICE);
    }
    for (ours, theirs) in standing {
        let name = ours.name_any();
        let spec = |crd: &CustomResourceDefinition| serde_json::to_value(&crd.spec);
        let different = match theirs.as_ref().map(spec) {
            Some(Ok(theirs)) => match spec(ours) {
                Ok(ours) => difference("spec", &ours, &theirs),
                Err(error) => Some(error.to_string()),
            },
            Some(Err(error)) => Some(error.to_string()),
            None => Some("metadata".to_owned()),
        };
        if let Some(place) = different {
            let message = format!("{name} is another version's: it differs at {place}");
            return Found::wrong(CHECK, message, ADVICE);
        }
    }
    let names: Vec<&str> = plurals.map(String::as_str).collect();
    let message = format!(
        "{GROUP}/{VERSION} serves {}, as this version has them",
        names.join(", ")
    );
    Found::ok(CHECK, message)
}

/// The first place where what we have is not what stands there. The API server adds what it defaults to, and leaves out
/// what is empty.
fn difference(place: &str, ours: &Value, theirs: &Value) -> Option<String> {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => ours.iter().find_map(|(name, ours)| {
            let place = format!("{place}.{name}");
            match theirs.get(name) {
                Some(theirs) => difference(&place, ours, theirs),
                None => (!is_empty(ours)).then_some(place),
            }
        }),
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            let mut pairs = ours.iter().zip(theirs).enumerate();
            pairs.find_map(|(n, (ours, theirs))| difference(&format!("{place}[{n}]"), ours, theirs))
        }
        _ => (ours != theirs).then(|| place.to_owned()),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_server_adds_is_no_difference_and_what_it_lacks_is() {
        for (ours, theirs, place) in [
            (json!({"a": 1}), json!({"a": 1, "b": 2}), None),
            (json!({"a": 1, "c": 0, "d": null}), json!({"a": 1}), None),
            (
                json!({"a": {"b": true}}),
                json!({"a": {}}),
                Some("spec.a.b"),
            ),
            (json!({"a": [1, 2]}), json!({"a": [1]}), Some("spec.a")),
            (
                json!({"a": [1, {"b": 2}]}),
                json!({"a": [1, {"b": 3}]}),
                Some("spec.a[1].b"),
            ),
            (json!(1), json!("1"), Some("spec")),
        ] {
            assert_eq!(
                difference("spec", &ours, &theirs).as_deref(),
                place,
                "{ours} {theirs}"
            );
        }
    }

    #[test]
    fn every_kind_has_to_be_served_as_this_version_has_it() {
        let all = holdfast_crds::all();
        let served: BTreeSet<String> = all
            .iter()
            .map(|crd| crd.spec.names.plural.clone())
            .collect();
        let same: Vec<Standing> = all
            .iter()
            .map(|crd| (crd.clone(), Some(crd.clone())))
            .collect();
        assert_eq!(judge(&served, &same).verdict, Verdict::Ok);

        let mut fewer = served.clone();
        fewer.remove("backups");
        let found = judge(&fewer, &same);
        assert!(
            found.verdict == Verdict::Wrong && found.message.contains("backups"),
            "{found:?}"
        );

        let mut older = same.clone();
        if let Some((_, Some(crd))) = older.get_mut(1) {
            crd.spec.names.short_names = None;
        }
        let found = judge(&served, &older);
        let told =
            found.message.contains("archives.holdfast.dev") && found.message.contains("shortNames");
        assert!(found.verdict == Verdict::Wrong && told, "{found:?}");
    }
}
