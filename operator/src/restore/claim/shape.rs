//! What runs on a claim, and how: as the Archive's pods do, else as is known of the image. Pure.

use super::super::report::State;
use crate::inject::names::{BOOTSTRAP_CONTAINER, SHARED_VOLUME};
use crate::inject::{describe, user_of};
use k8s_openapi::api::core::v1::{
    Container, LocalObjectReference, NodeAffinity, Pod, ResourceRequirements, SELinuxOptions,
    Toleration, VolumeMount,
};
use std::collections::BTreeMap;

/// Where the data directory goes if nobody says so.
const PATH: &str = "pgdata";
/// Where the claim is mounted, if not as in the Archive's pods.
const MOUNT: &str = "/restored";

/// How the Job's pod is made.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// Of Postgres.
    pub image: String,
    /// Of that image.
    pub pull_policy: Option<String>,
    /// Who owns the data directory.
    pub user: i64,
    /// None: the runtime's choice.
    pub group: Option<i64>,
    /// Owns what the claim's file system begins with.
    pub fs_group: i64,
    /// Others that the user is in.
    pub supplemental_groups: Option<Vec<i64>>,
    /// Of Postgres' container.
    pub se_linux: Option<SELinuxOptions>,
    /// Of Postgres' container.
    pub resources: Option<ResourceRequirements>,
    /// Where the claim is mounted: as in the Archive's pods where that can be, since settings may name files there.
    pub mount: String,
    /// Of the data directory below that.
    pub path: String,
    /// What else the Archive's pods mount.
    pub mounts: Vec<Mounted>,
    /// Where initdb was told to put pg_wal in the Archive's pods.
    pub wal: Option<String>,
    /// On which nodes.
    pub place: Place,
}

/// Where a volume is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// In the container.
    pub path: String,
    /// In the volume; none: its root.
    pub sub_path: Option<String>,
    /// The path in the volume has variables in it.
    pub by_variable: bool,
}

impl Mounted {
    /// Of a volume's root.
    pub fn at(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            sub_path: None,
            by_variable: false,
        }
    }
}

/// On which nodes a pod may run, and how it gets there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Place {
    /// By labels.
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Only towards nodes: other pods are avoided by those that carry their labels, which this one does not.
    pub node_affinity: Option<NodeAffinity>,
    /// What of nodes is borne.
    pub tolerations: Option<Vec<Toleration>>,
    /// Before whom.
    pub priority_class_name: Option<String>,
    /// How containers are run.
    pub runtime_class_name: Option<String>,
    /// For the images.
    pub image_pull_secrets: Option<Vec<LocalObjectReference>>,
}

impl Shape {
    /// The whole path of the data directory.
    pub fn data_directory(&self) -> String {
        format!("{}/{}", self.mount, self.path)
    }

    /// Decides: what the Restore says beats what a pod of the Archive shows.
    pub fn decide(
        pod: Option<&Pod>,
        image: Option<&str>,
        path: Option<&str>,
    ) -> Result<Self, State> {
        let shown = pod.and_then(Shown::of);
        let own = shown.as_ref().map(|shown| shown.image.as_str());
        let Some(chosen) = image.or(own) else {
            return Err(State::bad(
                "NoImage",
                "no pod of the Archive is there to tell the image of Postgres: start one, or make another Restore with spec.postgres.image, such as postgres:17",
            ));
        };
        let of_image = user_of(chosen);
        let of_pod = shown.as_ref().and_then(|shown| shown.user);
        // Another image may have another user.
        let user = match image.is_some_and(|image| Some(image) != own) {
            true => of_image.or(of_pod),
            false => of_pod.or(of_image),
        };
        let Some((user, group)) = user else {
            return Err(State::refused(
                "NoUser",
                format!(
                    "the image {chosen} is not known, so nobody tells as which user its Postgres runs: restore while a pod of the Archive runs, or write a known image into spec.postgres.image, such as postgres:17"
                ),
            ));
        };
        let place = shown.as_ref().map(|shown| shown.place.clone());
        let seen = shown.as_ref().and_then(|shown| shown.directory.as_ref());
        let (mount, path) = match (path, seen) {
            (Some(path), _) => (MOUNT, path),
            (None, Some(Directory { mount, path })) => (mount.as_str(), path.as_str()),
            (None, None) => (MOUNT, PATH),
        };
        Ok(Self {
            image: chosen.to_owned(),
            pull_policy: shown.as_ref().and_then(|shown| shown.pull_policy.clone()),
            user,
            group,
            fs_group: shown
                .as_ref()
                .and_then(|shown| shown.fs_group)
                .or(group)
                .unwrap_or(user),
            supplemental_groups: shown.as_ref().and_then(|shown| shown.groups.clone()),
            se_linux: shown.as_ref().and_then(|shown| shown.se_linux.clone()),
            resources: shown.as_ref().and_then(|shown| shown.resources.clone()),
            mount: mount.to_owned(),
            path: path.to_owned(),
            mounts: shown
                .as_ref()
                .map(|shown| shown.mounts.clone())
                .unwrap_or_default(),
            wal: shown.as_ref().and_then(|shown| shown.wal.clone()),
            place: place.unwrap_or_default(),
        })
    }
}

/// What a pod of the Archive shows.
struct Shown {
    image: String,
    pull_policy: Option<String>,
    user: Option<(i64, Option<i64>)>,
    fs_group: Option<i64>,
    groups: Option<Vec<i64>>,
    se_linux: Option<SELinuxOptions>,
    resources: Option<ResourceRequirements>,
    directory: Option<Directory>,
    mounts: Vec<Mounted>,
    wal: Option<String>,
    place: Place,
}

/// Where a claim is mounted, and the data directory in it.
struct Directory {
    mount: String,
    path: String,
}

impl Shown {
    /// None for a pod without our containers.
    fn of(pod: &Pod) -> Option<Self> {
        let told = describe(pod)?;
        let spec = pod.spec.as_ref()?;
        let named = |container: &&Container| Some(&container.name) == told.container.as_ref();
        let postgres = spec.containers.iter().find(named)?;
        let mut init = spec.init_containers.iter().flatten();
        // The webhook found out who Postgres runs as, and has its own containers run so.
        let ours = init.find(|container| container.name == BOOTSTRAP_CONTAINER);
        let security = ours.and_then(|container| container.security_context.as_ref());
        let user = security.and_then(|security| security.run_as_user);
        let all = spec.security_context.as_ref();
        let group = security
            .and_then(|security| security.run_as_group)
            .or(all.and_then(|all| all.run_as_group));
        let affinity = spec.affinity.as_ref();
        Some(Self {
            image: postgres.image.clone()?,
            pull_policy: postgres.image_pull_policy.clone(),
            user: user.map(|user| (user, group)),
            fs_group: all.and_then(|all| all.fs_group),
            groups: all.and_then(|all| all.supplemental_groups.clone()),
            se_linux: security.and_then(|security| security.se_linux_options.clone()),
            resources: postgres.resources.clone(),
            directory: told
                .data_directory
                .and_then(|directory| place_of(postgres, &directory)),
            mounts: mounts(postgres),
            wal: told.wal_directory,
            place: Place {
                node_selector: spec.node_selector.clone(),
                node_affinity: affinity.and_then(|affinity| affinity.node_affinity.clone()),
                tolerations: spec.tolerations.clone(),
                priority_class_name: spec.priority_class_name.clone(),
                runtime_class_name: spec.runtime_class_name.clone(),
                image_pull_secrets: spec.image_pull_secrets.clone(),
            },
        })
    }
}

fn mounts(postgres: &Container) -> Vec<Mounted> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let mounts = postgres.volume_mounts.iter().flatten();
    let theirs = mounts.filter(|mount| mount.name != SHARED_VOLUME && mount.mount_path != "/");
    theirs
        .map(|mount| Mounted {
            path: mount.mount_path.trim_end_matches('/').to_owned(),
            sub_path: given(&mount.sub_path),
            by_variable: given(&mount.sub_path_expr).is_some(),
        })
        .collect()
}

/// Where in the claim a pod's data directory is, so that the copy can take the claim's place in such a pod; none where
/// that is the claim's root, which belongs to root, and where a variable has a part in it.
fn place_of(postgres: &Container, directory: &str) -> Option<Directory> {
    let below = |mount: &VolumeMount| {
        let rest = directory.strip_prefix(mount.mount_path.trim_end_matches('/'))?;
        let inside = rest.is_empty() || rest.starts_with('/');
        inside.then(|| rest.trim_matches('/').to_owned())
    };
    let (mount, rest) = postgres
        .volume_mounts
        .iter()
        .flatten()
        .filter(|mount| mount.name != SHARED_VOLUME)
        .filter_map(|mount| Some((mount, below(mount)?)))
        .min_by_key(|(_, rest)| rest.len())?;
    if mount
        .sub_path_expr
        .as_ref()
        .is_some_and(|text| !text.is_empty())
    {
        return None;
    }
    let sub = mount.sub_path.as_deref().unwrap_or_default();
    match (sub.trim_matches('/'), rest.as_str()) {
        ("", "") => None,
        ("", rest) => Some(Directory {
            mount: mount.mount_path.trim_end_matches('/').to_owned(),
            path: rest.to_owned(),
        }),
        (sub, rest) => Some(Directory {
            mount: MOUNT.to_owned(),
            path: format!("{sub}/{rest}").trim_end_matches('/').to_owned(),
        }),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A pod of the Archive as it runs, with these changes.
    pub fn pod(changes: Value) -> Pod {
        let mut pod = json!({"metadata": {"name": "orders-db-0"}, "spec": {
            "securityContext": {"fsGroup": 999, "supplementalGroups": [7]},
            "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "db", "operator": "Exists"}],
            "priorityClassName": "high",
            "imagePullSecrets": [{"name": "registry"}],
            "affinity": {
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}},
                "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}},
            "initContainers": [
                {"name": "holdfast", "image": "h", "restartPolicy": "Always",
                    "env": [{"name": "HOLDFAST_DATA_DIRECTORY", "value": "/var/lib/postgresql/data/pgdata"}]},
                {"name": "holdfast-bootstrap", "image": "h", "securityContext": {"runAsUser": 999, "runAsGroup": 998}}],
            "containers": [{"name": "postgres", "image": "acme/db:17", "imagePullPolicy": "Always",
                "resources": {"requests": {"memory": "2Gi"}},
                "volumeMounts": [
                    {"name": "holdfast", "mountPath": "/holdfast"}, {"name": "root", "mountPath": "/"},
                    {"name": "data", "mountPath": "/var/lib/postgresql/data"}]}],
        }});
        json_patch::merge(&mut pod, &changes);
        serde_json::from_value(pod).unwrap()
    }

    fn mounted(mount: Value, directory: &str) -> Pod {
        pod(json!({"spec": {
            "initContainers": [{"name": "holdfast", "image": "h",
                "env": [{"name": "HOLDFAST_DATA_DIRECTORY", "value": directory}]}],
            "containers": [{"name": "postgres", "image": "postgres:17",
                "volumeMounts": [{"name": "holdfast", "mountPath": "/holdfast"}, mount]}]}}))
    }

    #[test]
    fn it_runs_as_the_archives_pods_do() {
        let shape = Shape::decide(Some(&pod(json!({}))), None, None).unwrap();
        assert_eq!(shape.image, "acme/db:17");
        assert_eq!(shape.pull_policy.as_deref(), Some("Always"));
        assert_eq!(
            (shape.user, shape.group, shape.fs_group),
            (999, Some(998), 999)
        );
        assert_eq!(shape.supplemental_groups, Some(vec![7]));
        assert_eq!(shape.data_directory(), "/var/lib/postgresql/data/pgdata");
        assert!(shape.place.node_affinity.is_some() && shape.place.node_selector.is_some());
        assert_eq!(shape.place.priority_class_name.as_deref(), Some("high"));
        assert!(shape.resources.is_some());
    }

    #[test]
    fn the_path_is_that_of_the_archives_pods_below_the_claims_root() {
        for (mount, directory, given, expected) in [
            (
                json!({"mountPath": "/data"}),
                "/data/pg",
                None,
                ("/data", "pg"),
            ),
            (
                json!({"mountPath": "/data"}),
                "/data/pg",
                Some("x"),
                ("/restored", "x"),
            ),
            (
                json!({"mountPath": "/data/"}),
                "/data",
                None,
                ("/restored", "pgdata"),
            ),
            (
                json!({"mountPath": "/var/lib/postgresql"}),
                "/var/lib/postgresql/18/docker",
                None,
                ("/var/lib/postgresql", "18/docker"),
            ),
            (
                json!({"mountPath": "/data", "subPath": "pg"}),
                "/data",
                None,
                ("/restored", "pg"),
            ),
            (
                json!({"mountPath": "/data", "subPath": "a/b"}),
                "/data/pg",
                None,
                ("/restored", "a/b/pg"),
            ),
            (
                json!({"mountPath": "/data", "subPathExpr": "$(POD)"}),
                "/data/pg",
                None,
                ("/restored", "pgdata"),
            ),
        ] {
            let mut mount = mount;
            mount["name"] = "data".into();
            let shape = Shape::decide(Some(&mounted(mount, directory)), None, given).unwrap();
            assert_eq!((shape.mount.as_str(), shape.path.as_str()), expected);
        }
    }

    #[test]
    fn without_a_pod_the_image_tells() {
        let shape = Shape::decide(None, Some("postgres:17-alpine"), None).unwrap();
        assert_eq!(
            (shape.user, shape.group, shape.fs_group),
            (70, Some(70), 70)
        );
        assert_eq!(shape.data_directory(), "/restored/pgdata");
        assert_eq!(shape.place, Place::default());
        // An image that is given beats that of the pod, and its user, too.
        let shape = Shape::decide(Some(&pod(json!({}))), Some("bitnami/postgresql:17"), None);
        assert_eq!(shape.unwrap().user, 1001);
        let shape = Shape::decide(Some(&pod(json!({}))), Some("acme/other:17"), None);
        assert_eq!(shape.unwrap().user, 999);
    }

    #[test]
    fn what_cant_be_told_is_refused() {
        for (pod, image, words) in [
            (None, None, "another Restore with spec.postgres.image"),
            (None, Some("acme/db:17"), "acme/db:17 is not known"),
        ] {
            match Shape::decide(pod, image, None) {
                Err(State::Refused { message, .. } | State::Waiting { message, .. }) => {
                    assert!(message.contains(words), "{message}")
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
