//! Whether a labelled pod gets its sidecar: one is made as a dry run, through the API server as a StatefulSet would.

use super::{Found, Installation, said};
use crate::inject::names::{BOOTSTRAP_CONTAINER, SIDECAR_CONTAINER};
use crate::names::ARCHIVE_LABEL;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

const CHECK: &str = "webhook";

/// Rights: create on Pods, where archives are looked after.
pub async fn check(client: &Client, installation: &Installation<'_>) -> Found {
    let namespace = place(installation);
    let pod = match serde_json::from_value(probe()) {
        Ok(pod) => pod,
        Err(error) => return Found::unknown(CHECK, error.to_string(), "report this"),
    };
    let parameters = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    judge(api.create(&parameters, &pod).await, installation)
}

/// Where the webhook is asked.
fn place<'a>(installation: &Installation<'a>) -> &'a str {
    let first = installation.watch_namespaces.first();
    first.copied().unwrap_or(installation.namespace)
}

/// As the strictest namespace lets it in, and a quota counts it.
fn probe() -> Value {
    let security = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
    });
    json!({
        "metadata": {"generateName": "holdfast-check-", "labels": {ARCHIVE_LABEL: "holdfast-check"}},
        "spec": {
            "automountServiceAccountToken": false,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 999, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "postgres", "image": "postgres:17",
                "resources": {"requests": {"cpu": "1m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}},
                "securityContext": security,
                "volumeMounts": [{"name": "data", "mountPath": "/var/lib/postgresql/data"}],
            }],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    })
}

fn judge(answer: Result<Pod, kube::Error>, installation: &Installation<'_>) -> Found {
    let namespace = place(installation);
    match answer {
        Ok(pod) => {
            let containers = pod.spec.and_then(|spec| spec.init_containers);
            let names: Vec<String> = containers.into_iter().flatten().map(|c| c.name).collect();
            let has = |name: &str| names.iter().any(|own| own == name);
            if has(SIDECAR_CONTAINER) && has(BOOTSTRAP_CONTAINER) {
                let message = format!("a labelled pod in {namespace} would get its sidecar");
                return Found::ok(CHECK, message);
            }
            let name = installation
                .webhook_configuration
                .unwrap_or("of this release");
            Found::wrong(
                CHECK,
                format!(
                    "a labelled pod in {namespace} would get no sidecar: the API server did not ask the webhook"
                ),
                format!(
                    "see that the MutatingWebhookConfiguration {name} is there and that its namespaceSelector takes {namespace} in; `helm upgrade` puts it back"
                ),
            )
        }
        Err(error) => {
            let sentence = said(&error);
            // As the API server words it, whoever the webhook is.
            if sentence.contains("failed calling webhook") {
                return Found::wrong(
                    CHECK,
                    format!("labelled pods can't be made: {sentence}"),
                    installation.look(),
                );
            }
            if sentence.contains("holdfast.dev\" denied the request") {
                return Found::wrong(
                    CHECK,
                    format!("the webhook answers, and refuses a plain Postgres pod: {sentence}"),
                    "report this",
                );
            }
            Found::unanswered(
                CHECK,
                &format!("no pod can be tried in {namespace}"),
                &error,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::inject::{InjectSettings, Outcome, PullPolicy, inject};

    fn installation(watch: &[&'static str]) -> Installation<'static> {
        Installation {
            namespace: "system",
            service_account: "holdfast",
            webhook_configuration: Some("hook"),
            watch_namespaces: watch.to_vec(),
        }
    }

    fn refused(code: u16, message: &str) -> Result<Pod, kube::Error> {
        let status = json!({"status": "Failure", "code": code, "reason": "X", "message": message});
        Err(kube::Error::Api(serde_json::from_value(status).unwrap()))
    }

    #[test]
    fn a_pod_with_its_sidecar_says_that_the_webhook_answers() {
        let with = |names: &[&str]| {
            let containers: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
            let pod = json!({"spec": {"containers": [], "initContainers": containers}});
            Ok(serde_json::from_value(pod).unwrap())
        };
        for (answer, verdict, told) in [
            (
                with(&["holdfast", "holdfast-bootstrap"]),
                Verdict::Ok,
                "system",
            ),
            (with(&["istio-proxy"]), Verdict::Wrong, "did not ask"),
            (with(&[]), Verdict::Wrong, "did not ask"),
            (
                refused(
                    500,
                    "Internal error occurred: failed calling webhook \"inject.holdfast.dev\": no endpoints available",
                ),
                Verdict::Wrong,
                "no endpoints",
            ),
            (
                refused(
                    400,
                    "admission webhook \"inject.holdfast.dev\" denied the request: no volume",
                ),
                Verdict::Wrong,
                "no volume",
            ),
            (
                refused(403, "pods is forbidden: exceeded quota"),
                Verdict::Unknown,
                "quota",
            ),
        ] {
            let found = judge(answer, &installation(&[]));
            assert!(
                found.verdict == verdict && found.message.contains(told),
                "{found:?}"
            );
        }
    }

    #[test]
    fn the_pod_that_is_tried_is_one_that_gets_a_sidecar() {
        let settings = InjectSettings {
            image: "holdfast:dev".to_owned(),
            pull_policy: PullPolicy::IfNotPresent,
            memory: "256Mi".parse().unwrap(),
        };
        let outcome = inject(&probe(), &settings);
        assert!(matches!(outcome, Outcome::Patch(_)), "{outcome:?}");
    }

    #[test]
    fn the_webhook_is_tried_where_it_is_asked() {
        assert_eq!(place(&installation(&[])), "system");
        assert_eq!(place(&installation(&["a", "b"])), "a");
    }
}
