//! A service mesh's injector puts its containers around ours.

use crate::fixtures::{Database, containers};
use crate::pods::{begin, labelled};
use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Space, eventually};
use std::path::Path;

/// What a service mesh's injector does, as a policy of the API server: a proxy before all other init containers, and one
/// more at the end, once there is a sidecar of ours. So our webhook is asked again. Needs Kubernetes 1.36.
fn mesh(namespace: &str) -> String {
    let container = |name: &str, more: &str| {
        format!(
            "Object.spec.initContainers{{name: '{name}', image: 'postgres:17', command: ['bash', '-c', {more}}}"
        )
    };
    let proxy = container(
        "mesh-proxy",
        "'trap \"exit 0\" INT TERM; sleep infinity & wait'], restartPolicy: 'Always'",
    );
    let ready = container("mesh-ready", "'exit 0']");
    format!(
        "apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {{name: {namespace}}}
spec:
  matchConstraints:
    resourceRules: [{{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}}]
    namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}
  failurePolicy: Fail
  reinvocationPolicy: IfNeeded
  variables:
  - {{name: names, expression: 'has(object.spec.initContainers) ? object.spec.initContainers.map(c, c.name) : []'}}
  mutations:
  - patchType: JSONPatch
    jsonPatch:
      expression: >-
        (variables.names.exists(n, n == 'mesh-proxy') ? []
        : (size(variables.names) > 0 ? [] : [JSONPatch{{op: 'add', path: '/spec/initContainers', value: []}}])
        + [JSONPatch{{op: 'add', path: '/spec/initContainers/0', value: {proxy}}}])
        + (variables.names.exists(n, n == 'holdfast') && !variables.names.exists(n, n == 'mesh-ready')
        ? [JSONPatch{{op: 'add', path: '/spec/initContainers/-', value: {ready}}}] : [])
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {{name: {namespace}}}
spec: {{policyName: {namespace}}}
"
    )
}

#[tokio::test]
async fn between_the_containers_of_a_mesh() -> Result<()> {
    Space::scenario("mesh", async |space| {
        let policy = mesh(&space.namespace);
        let result = in_a_mesh(space, &policy).await;
        for kind in ["mutatingadmissionpolicybinding", "mutatingadmissionpolicy"] {
            space
                .kubectl(&["delete", kind, &space.namespace])
                .await?
                .success()?;
        }
        result
    })
    .await
}

async fn in_a_mesh(space: &Space, policy: &str) -> Result<()> {
    space.apply(policy).await?;
    let plain = "{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: x, image: postgres:17}]}}";
    eventually("the policy is in force", async || {
        let said = space
            .shell(
                &format!("kubectl create --dry-run=server -o yaml -f - <<<'{plain}'"),
                Path::new("/"),
            )
            .await?
            .success()?;
        ensure!(said.contains("mesh-proxy"), "{said}");
        Ok(())
    })
    .await?;
    // A clone of the user's makes three: ours come right before it, since it may write the data directory.
    let set = labelled(
        "
securityContext: {fsGroup: 999}
initContainers:
- name: prepare
  image: postgres:17
  command: ['true']
- name: clone
  image: postgres:17
  command: ['true']
  volumeMounts: [{name: data, mountPath: /var/lib/postgresql/data}]
containers:
- name: postgres
  image: postgres:17
  env:
  - {name: POSTGRES_HOST_AUTH_METHOD, value: trust}
  - {name: PGDATA, value: /var/lib/postgresql/data/pgdata}
  readinessProbe: {exec: {command: [pg_isready, -U, postgres, -h, 127.0.0.1]}, periodSeconds: 1}
  volumeMounts: [{name: data, mountPath: /var/lib/postgresql/data}]",
        &["data"],
    );
    begin(space, &set).await?;
    let pod = space.get("pod/orders-0").await?;
    let names: Vec<_> = pod["spec"]["initContainers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|container| container["name"].as_str().unwrap_or_default())
        .collect();
    let expected = [
        "mesh-proxy",
        "prepare",
        "holdfast",
        "holdfast-bootstrap",
        "clone",
        "mesh-ready",
    ];
    ensure!(names == expected, "{names:?}");
    let postgres = containers(&pod)
        .find(|c| c["name"] == "postgres")
        .context("postgres")?;
    let arguments = postgres["args"].as_array().map_or(0, Vec::len);
    ensure!(arguments == 8, "patched twice: {}", postgres["args"]);
    space
        .wait_for("archive/orders", "condition=Ready", 120)
        .await?;
    Database::new("orders", 17).archive_rows(space, 0).await?;
    Ok(())
}
