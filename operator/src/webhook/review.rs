//! An AdmissionReview, read and answered as raw JSON.
//! <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>

use crate::inject::{InjectSettings, Outcome, inject};
use crate::names::INJECT_ANNOTATION;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// The API server's are UUIDs.
const LONGEST_UID: usize = 128;

/// What is no question that could be answered.
#[derive(Debug, Error)]
pub(super) enum BadReview {
    #[error("this is no AdmissionReview: {0}")]
    Json(#[from] serde_json::Error),
    #[error("this is {kind} of {api_version}: send {KIND} of {API_VERSION}")]
    Kind { api_version: String, kind: String },
    #[error("the AdmissionReview has no uid of 1 to {LONGEST_UID} characters")]
    Uid,
    #[error("the AdmissionReview brings no object")]
    NoObject,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Request,
}

/// What is asked. What is not named here, such as `oldObject`, is skipped without being kept.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    operation: String,
    #[serde(default)]
    resource: Option<Resource>,
    #[serde(default)]
    sub_resource: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    dry_run: Option<bool>,
    #[serde(default)]
    object: Value,
}

#[derive(Debug, Deserialize)]
struct Resource {
    group: String,
    resource: String,
}

/// What was answered, for the log and the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answered {
    Patched,
    Unchanged,
    Refused,
}

/// The answer as an AdmissionReview.
pub(super) fn answer(
    body: &[u8],
    settings: &InjectSettings,
) -> Result<(Value, Answered), BadReview> {
    let Review {
        api_version,
        kind,
        request,
    } = serde_json::from_slice(body)?;
    if api_version != API_VERSION || kind != KIND {
        return Err(BadReview::Kind {
            api_version: cut(Some(&api_version)),
            kind: cut(Some(&kind)),
        });
    }
    if !(1..=LONGEST_UID).contains(&request.uid.len()) {
        return Err(BadReview::Uid);
    }
    let (response, answered) = if concerns_us(&request) {
        if request.object.is_null() {
            return Err(BadReview::NoObject);
        }
        decide(&request, settings)?
    } else {
        (json!({"allowed": true}), Answered::Unchanged)
    };
    let mut review = json!({"apiVersion": API_VERSION, "kind": KIND, "response": response});
    review["response"]["uid"] = json!(request.uid);
    Ok((review, answered))
}

/// Only the making of pods. A rule that sends more is let through, not obeyed.
fn concerns_us(request: &Request) -> bool {
    let pods = |resource: &Resource| resource.group.is_empty() && resource.resource == "pods";
    request.operation == "CREATE"
        && request.resource.as_ref().is_none_or(pods)
        && request.sub_resource.as_deref().unwrap_or("").is_empty()
}

/// For the log: no name in Kubernetes is longer.
fn cut(name: Option<&str>) -> String {
    name.unwrap_or("").chars().take(253).collect()
}

fn decide(
    request: &Request,
    settings: &InjectSettings,
) -> Result<(Value, Answered), serde_json::Error> {
    let namespace = cut(request.namespace.as_deref());
    let name = |field: &str| request.object["metadata"][field].as_str();
    let pod = cut(name("name").or(name("generateName")));
    let dry_run = request.dry_run.unwrap_or(false);
    Ok(match inject(&request.object, settings) {
        Outcome::Patch(patch) => {
            tracing::info!(
                namespace,
                pod,
                dry_run,
                warnings = patch.warnings.join("; "),
                "the sidecar is added"
            );
            let operations = serde_json::to_vec(&patch.operations)?;
            let mut response = json!({
                "allowed": true,
                "patchType": "JSONPatch",
                "patch": BASE64_STANDARD.encode(operations),
            });
            if !patch.warnings.is_empty() {
                response["warnings"] = json!(patch.warnings);
            }
            (response, Answered::Patched)
        }
        Outcome::Unchanged => (json!({"allowed": true}), Answered::Unchanged),
        Outcome::Refused(refusal) => {
            let message = format!(
                "{refusal}. (The annotation {INJECT_ANNOTATION}: \"false\" lets the pod in without Holdfast.)"
            );
            tracing::warn!(namespace, pod, dry_run, "refused: {refusal}");
            let status = json!({"code": 403, "reason": "Forbidden", "message": message});
            (
                json!({"allowed": false, "status": status}),
                Answered::Refused,
            )
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> InjectSettings {
        InjectSettings {
            image: "holdfast:1".to_owned(),
            pull_policy: Default::default(),
            memory: "256Mi".parse().unwrap(),
        }
    }

    fn pod(label: &str) -> Value {
        json!({
            "metadata": {"name": "db-0", "labels": {"holdfast.dev/archive": label}},
            "spec": {
                "containers": [{"name": "db", "image": "postgres:17",
                    "volumeMounts": [{"name": "data", "mountPath": "/var/lib/postgresql/data"}]}],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
            },
        })
    }

    fn review(change: impl Fn(&mut Value)) -> Value {
        let mut review = json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "operation": "CREATE",
                "namespace": "shop",
                "oldObject": null,
                "object": pod("orders"),
            },
        });
        change(&mut review);
        review
    }

    fn answered(review: &Value) -> (Value, Answered) {
        let (value, answered) = answer(review.to_string().as_bytes(), &settings()).unwrap();
        assert_eq!(value["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(value["kind"], "AdmissionReview");
        assert_eq!(value["response"]["uid"], review["request"]["uid"]);
        (value["response"].clone(), answered)
    }

    #[test]
    fn a_labelled_pod_is_patched() {
        let (response, outcome) = answered(&review(|_| {}));
        assert_eq!(outcome, Answered::Patched);
        assert_eq!(response["allowed"], true);
        assert_eq!(response["patchType"], "JSONPatch");
        let patch = BASE64_STANDARD
            .decode(response["patch"].as_str().unwrap())
            .unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
        let mut pod = pod("orders");
        json_patch::patch(&mut pod, &patch).unwrap();
        assert_eq!(pod["spec"]["initContainers"][0]["name"], "holdfast");
    }

    #[test]
    fn a_refusal_says_what_to_write() {
        let (response, outcome) = answered(&review(|r| r["request"]["object"] = pod("Orders")));
        assert_eq!(outcome, Answered::Refused);
        assert_eq!(response["allowed"], false);
        let message = response["status"]["message"].as_str().unwrap();
        assert!(message.contains("holdfast.dev/archive"), "{message}");
        assert!(
            message.contains("holdfast.dev/inject: \"false\""),
            "{message}"
        );
    }

    #[test]
    fn warnings_are_passed_on() {
        let (response, _) = answered(&review(|r| {
            r["request"]["object"]["metadata"]["annotations"] = json!({"holdfast.dev/typo": "x"});
        }));
        assert_eq!(response["warnings"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_new_pod_is_let_through() {
        for change in [
            |r: &mut Value| r["request"]["operation"] = json!("UPDATE"),
            |r: &mut Value| {
                r["request"]["operation"] = json!("DELETE");
                r["request"]["object"] = json!(null);
            },
            |r: &mut Value| r["request"]["subResource"] = json!("exec"),
            |r: &mut Value| r["request"]["resource"]["resource"] = json!("services"),
            |r: &mut Value| r["request"]["object"]["metadata"]["labels"] = json!({}),
        ] {
            let (response, outcome) = answered(&review(change));
            assert_eq!(outcome, Answered::Unchanged);
            assert_eq!(response["allowed"], true);
            assert_eq!(response["patch"], Value::Null);
        }
    }

    #[test]
    fn what_can_not_be_answered_is_an_error() {
        let nested = "[".repeat(100_000);
        for bad in ["", "{}", "null", "[]", "\"x\"", "{\"kind\":", &nested] {
            assert!(answer(bad.as_bytes(), &settings()).is_err(), "{bad}");
        }
        for change in [
            |r: &mut Value| r["apiVersion"] = json!("admission.k8s.io/v1beta1"),
            |r: &mut Value| r["kind"] = json!("Pod"),
            |r: &mut Value| r["request"]["uid"] = json!(""),
            |r: &mut Value| r["request"]["uid"] = json!("x".repeat(1000)),
            |r: &mut Value| r["request"]["object"] = json!(null),
            |r: &mut Value| r["request"] = json!(null),
        ] {
            let bad = review(change).to_string();
            assert!(answer(bad.as_bytes(), &settings()).is_err(), "{bad}");
        }
    }
}
