//! The objects: namespaces, Repositories, Archives and pods.

use std::collections::HashMap;
use std::fmt::Debug;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use holdfast_crds::{Archive, Backup, Repository};
use holdfast_e2e::Bucket;
use holdfast_e2e::eventually;
use holdfast_e2e::minio::{ACCESS_KEY, SECRET_KEY};
use holdfast_protocol::status::{Condition, is_true};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, ServiceAccount};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::stored::PREFIX;

/// The operator's own namespace.
pub const SYSTEM: &str = "holdfast-system";
/// Of the one Repository in each namespace.
pub const REPOSITORY: &str = "s3";
/// Requests at once.
const TOGETHER: usize = 32;

/// A pod that nobody runs, and whose sidecar this program plays.
#[derive(Clone, Debug)]
pub struct PlayedPod {
    /// Of its Archive.
    pub namespace: String,
    /// The Archive.
    pub archive: String,
    /// The pod's UID.
    pub uid: String,
    /// 0 is the primary.
    pub ordinal: u32,
}

/// By the address of each.
pub type Pods = HashMap<Ipv4Addr, PlayedPod>;

/// Makes all of them, while there is no operator and no webhook: pods are made as the webhook would leave them.
pub async fn create(
    cluster: &Cluster,
    bucket: &Bucket,
    archives: &[(String, String)],
    sidecars: u32,
) -> Result<Pods> {
    let client = cluster.client();
    let mut namespaces: Vec<&str> = archives.iter().map(|(name, _)| name.as_str()).collect();
    namespaces.dedup();
    let all = namespaces.iter().copied().chain([SYSTEM]);
    each(all, async |name| {
        let api: Api<Namespace> = Api::all(client.clone());
        make(&api, json!({"metadata": {"name": name}})).await?;
        // Without it no pod is let in.
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), name);
        eventually("a namespace has its service account", async || {
            accounts.get("default").await?;
            Ok(())
        })
        .await
    })
    .await?;
    each(namespaces, async |name| prepare(client, bucket, name).await).await?;
    each(archives, async |(namespace, name)| {
        let api: Api<Archive> = Api::namespaced(client.clone(), namespace);
        let archive = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "Archive", "metadata": {"name": name},
            "spec": {"repositories": [{"name": REPOSITORY}], "retention": {"recoveryWindow": "14d"}},
        });
        make(&api, archive).await.map(drop)
    })
    .await?;
    let wanted = archives.iter().enumerate().flat_map(|(number, archive)| {
        (0..sidecars).map(move |ordinal| (number as u32 * sidecars + ordinal, archive, ordinal))
    });
    let pods = each(wanted, async |(number, (namespace, archive), ordinal)| {
        let address = address(number);
        let uid = pod(client, namespace, archive, ordinal, address).await?;
        let pod = PlayedPod {
            namespace: namespace.clone(),
            archive: archive.clone(),
            uid,
            ordinal,
        };
        Ok((address, pod))
    })
    .await?;
    Ok(pods.into_iter().collect())
}

/// Asserts by a list, not by what the operator says, that all is as it should be.
pub async fn check(cluster: &Cluster, archives: u32, backups: u32) -> Result<()> {
    let client = cluster.client();
    let ready = count::<Archive>(client, "Ready", |archive| {
        Some(&archive.status.as_ref()?.conditions)
    });
    let complete = count::<Backup>(client, "Complete", |backup| {
        Some(&backup.status.as_ref()?.conditions)
    });
    let (ready, complete) = (ready.await?, complete.await?);
    ensure!(
        (ready, complete) == (archives, backups),
        "{ready} of {archives} Archives are Ready, and {complete} of {backups} Backups Complete"
    );
    let metas = Api::<Pod>::all(client.clone());
    let labelled = ListParams::default().labels("holdfast.dev/archive");
    let pods: Vec<PartialObjectMeta<Pod>> = metas.list_metadata(&labelled).await?.items;
    ensure!(!pods.is_empty(), "the pods are gone");
    Ok(())
}

/// How many have this condition.
async fn count<K>(
    client: &Client,
    condition: &str,
    conditions: impl Fn(&K) -> Option<&Vec<Condition>>,
) -> Result<u32>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let mut page = ListParams::default().limit(500);
    let mut found = 0;
    loop {
        let list = api.list(&page).await?;
        let holds = |object: &&K| conditions(object).is_some_and(|all| is_true(all, condition));
        found += list.items.iter().filter(holds).count() as u32;
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// Does it for each, many at once.
async fn each<I, T, F>(items: impl IntoIterator<Item = I>, work: F) -> Result<Vec<T>>
where
    F: AsyncFn(I) -> Result<T>,
{
    futures::stream::iter(items)
        .map(|item| work(item))
        .buffer_unordered(TOGETHER)
        .try_collect()
        .await
}

async fn make<K>(api: &Api<K>, object: Value) -> Result<K>
where
    K: Clone + DeserializeOwned + Debug + Serialize,
{
    let shown = object["metadata"].to_string();
    let object: K = serde_json::from_value(object)?;
    let made = api.create(&PostParams::default(), &object).await;
    made.with_context(|| format!("making {shown}"))
}

async fn prepare(client: &Client, bucket: &Bucket, namespace: &str) -> Result<()> {
    fn within<K>(client: &Client, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(client.clone(), namespace)
    }
    let secret = json!({"metadata": {"name": "s3-writer"},
        "stringData": {"accessKeyId": ACCESS_KEY, "secretAccessKey": SECRET_KEY}});
    make(&within::<Secret>(client, namespace), secret).await?;
    let repository = json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "Repository", "metadata": {"name": REPOSITORY},
        "spec": {
            "s3": {"bucket": bucket.name, "prefix": PREFIX, "region": "us-east-1", "endpoint": bucket.endpoint},
            "credentials": {"secretRef": {"name": "s3-writer"}},
        },
    });
    make(&within::<Repository>(client, namespace), repository).await?;
    Ok(())
}

/// Of the loopback network, which all belongs to this machine.
fn address(number: u32) -> Ipv4Addr {
    let (high, low) = (number / 250, number % 250 + 1);
    Ipv4Addr::new(127, 1 + (high / 250) as u8, (high % 250) as u8, low as u8)
}

/// Makes a pod for which no scheduler feels responsible, and says of it what a kubelet would. Its UID.
async fn pod(
    client: &Client,
    namespace: &str,
    archive: &str,
    ordinal: u32,
    address: Ipv4Addr,
) -> Result<String> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let name = format!("{archive}-db-{ordinal}");
    let made = make(&api, injected(&name, archive)).await?;
    let running = |name: &str| {
        json!({"name": name, "ready": true, "started": true, "restartCount": 0, "image": "docker.io/library/holdfast:bench",
            "imageID": "docker.io/library/holdfast@sha256:6b3f9aa1f29cf1d4c4a1f2e6c1f3e8b9a9b1d5e0b0d4f8e5c3a2b1908f7e6d5c",
            "containerID": "containerd://6b3f9aa1f29cf1d4c4a1f2e6c1f3e8b9a9b1d5e0b0d4f8e5c3a2b1908f7e6d5c",
            "state": {"running": {"startedAt": "2026-11-20T00:00:00Z"}}})
    };
    let is_true = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-11-20T00:00:00Z"});
    let mut bootstrap = running("holdfast-bootstrap");
    bootstrap["started"] = json!(false);
    bootstrap["state"] = json!({"terminated": {"exitCode": 0, "reason": "Completed",
        "startedAt": "2026-11-20T00:00:00Z", "finishedAt": "2026-11-20T00:00:00Z"}});
    let kinds = ["Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let status = json!({"status": {
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
        "conditions": kinds.map(is_true),
        "initContainerStatuses": [running("holdfast"), bootstrap],
        "containerStatuses": [running("postgres")],
    }});
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
        .await
        .with_context(|| format!("the status of the pod {namespace}/{name}"))?;
    made.metadata.uid.context("an object has a UID")
}

/// As the webhook leaves a plain pod with the official image.
fn injected(name: &str, archive: &str) -> Value {
    let holdfast = |name: &str, command: Value| {
        json!({
            "name": name, "image": "holdfast:bench", "imagePullPolicy": "IfNotPresent", "command": command,
            "env": [
                {"name": "HOLDFAST_CONFIG", "value": "/etc/holdfast/config.yaml"},
                {"name": "HOLDFAST_DATA_DIRECTORY", "value": "/var/lib/postgresql/data/pgdata"},
                {"name": "HOLDFAST_CONFIGURE", "value": "Arguments"},
                {"name": "HOLDFAST_MEMORY", "value": "268435456"},
                {"name": "HOLDFAST_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "HOLDFAST_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
            ],
            "ports": [{"name": "hf-control", "containerPort": 9643}, {"name": "hf-metrics", "containerPort": 9644}],
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
            "securityContext": {"runAsUser": 999, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumeMounts": [
                {"name": "holdfast", "mountPath": "/holdfast"},
                {"name": "holdfast-config", "mountPath": "/etc/holdfast", "readOnly": true},
                {"name": "holdfast-no-token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true},
                {"name": "data", "mountPath": "/var/lib/postgresql/data", "readOnly": true},
            ],
        })
    };
    let mut sidecar = holdfast(
        "holdfast",
        json!([
            "/usr/local/bin/holdfast",
            "sidecar",
            "--install",
            "/holdfast"
        ]),
    );
    sidecar["restartPolicy"] = json!("Always");
    sidecar["startupProbe"] =
        json!({"httpGet": {"path": "/startz", "port": "hf-metrics"}, "periodSeconds": 1});
    sidecar["livenessProbe"] =
        json!({"httpGet": {"path": "/livez", "port": "hf-metrics"}, "periodSeconds": 10});
    let bootstrap = holdfast(
        "holdfast-bootstrap",
        json!(["/usr/local/bin/holdfast", "bootstrap"]),
    );
    json!({
        "metadata": {
            "name": name,
            "labels": {"app": archive, "apps.kubernetes.io/pod-index": "0", "holdfast.dev/archive": archive,
                "controller-revision-hash": "orders-6d4c8b7f9d", "statefulset.kubernetes.io/pod-name": name},
            "annotations": {"holdfast.dev/injected": "4f0c1d5a9be27a63"},
        },
        "spec": {
            // Nobody's: it stays without a node.
            "schedulerName": "nobody",
            "terminationGracePeriodSeconds": 120,
            "securityContext": {"fsGroup": 999},
            "initContainers": [sidecar, bootstrap],
            "containers": [{
                "name": "postgres", "image": "postgres:17",
                "args": ["-c", "archive_mode=on", "-c", "archive_command=/holdfast/bin/holdfast-wal archive %f %p",
                    "-c", "restore_command=/holdfast/bin/holdfast-wal restore %f %p"],
                "env": [{"name": "PGDATA", "value": "/var/lib/postgresql/data/pgdata"},
                    {"name": "POSTGRES_PASSWORD", "value": "not-so-secret"}],
                "readinessProbe": {"exec": {"command": ["pg_isready", "-U", "postgres"]}, "periodSeconds": 5},
                "resources": {"requests": {"cpu": "1", "memory": "2Gi"}},
                "volumeMounts": [{"name": "data", "mountPath": "/var/lib/postgresql/data"},
                    {"name": "holdfast", "mountPath": "/holdfast", "readOnly": true}],
            }],
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": format!("data-{name}")}},
                {"name": "holdfast", "emptyDir": {}},
                {"name": "holdfast-config", "secret": {"secretName": format!("holdfast-{archive}")}},
                {"name": "holdfast-no-token", "emptyDir": {}},
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_has_an_address_of_its_own() {
        let all: std::collections::HashSet<Ipv4Addr> = (0..200_000).map(address).collect();
        assert_eq!(all.len(), 200_000);
        assert!(all.iter().all(Ipv4Addr::is_loopback));
        assert!(!all.contains(&Ipv4Addr::LOCALHOST));
    }
}
