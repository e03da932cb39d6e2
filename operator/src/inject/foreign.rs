//! Pods that another operator runs. It writes Postgres' configuration itself and would undo what we set, or we what it
//! sets; until one is tested, its pods are refused.

use super::pod::{Container, Metadata, Pod};
use super::reference::Reference;
use super::refusal::{Quoted, Refusal};

/// What an operator writes on its pods.
enum Mark {
    /// The pod, or the StatefulSet that it is of, belongs to an object of this API group.
    Owner(&'static str),
    /// A label of any value.
    Label(&'static str),
    /// A label whose name starts so.
    Prefix(&'static str),
    /// A label of this value.
    Value(&'static str, &'static str),
}

/// The first that fits gives the name: Percona's marks come before those of PGO, from which it descends.
const OPERATORS: &[(&str, &[Mark])] = &[
    (
        "CloudNativePG",
        &[
            Mark::Prefix("cnpg.io/"),
            Mark::Prefix("postgresql.cnpg.io/"),
            Mark::Owner("postgresql.cnpg.io"),
        ],
    ),
    (
        "EDB Postgres for Kubernetes",
        &[
            Mark::Prefix("k8s.enterprisedb.io/"),
            Mark::Owner("postgresql.k8s.enterprisedb.io"),
        ],
    ),
    (
        "Percona's operator for PostgreSQL",
        &[
            Mark::Prefix("pgv2.percona.com/"),
            Mark::Prefix("upstream.pgv2.percona.com/"),
            Mark::Owner("pgv2.percona.com"),
            Mark::Value(
                "app.kubernetes.io/managed-by",
                "percona-postgresql-operator",
            ),
        ],
    ),
    (
        "Crunchy Data's PGO",
        &[
            Mark::Prefix("postgres-operator.crunchydata.com/"),
            Mark::Owner("postgres-operator.crunchydata.com"),
        ],
    ),
    (
        "Zalando's postgres-operator",
        &[
            Mark::Value("application", "spilo"),
            Mark::Label("spilo-role"),
            Mark::Owner("acid.zalan.do"),
        ],
    ),
    (
        "StackGres",
        &[
            Mark::Label("stackgres.io/cluster-name"),
            Mark::Value("app", "StackGresCluster"),
            Mark::Owner("stackgres.io"),
        ],
    ),
    (
        "KubeDB",
        &[
            Mark::Value("app.kubernetes.io/managed-by", "kubedb.com"),
            Mark::Owner("kubedb.com"),
        ],
    ),
    (
        "KubeBlocks",
        &[
            Mark::Value("app.kubernetes.io/managed-by", "kubeblocks"),
            Mark::Owner("workloads.kubeblocks.io"),
        ],
    ),
];

/// Refuses what others run.
pub(super) fn check(pod: &Pod) -> Result<(), Refusal> {
    for (operator, marks) in OPERATORS {
        if marks.iter().any(|mark| mark.is_on(&pod.metadata)) {
            return Err(Refusal::OtherOperator(operator));
        }
    }
    for container in &pod.spec.containers {
        let image = Reference::parse(&container.image).repository;
        let name = image.rsplit('/').next().unwrap_or_default();
        if name.contains("spilo") {
            return Err(Refusal::OtherOperator(
                "Spilo (Zalando's image with Patroni)",
            ));
        }
        if name.contains("patroni") || runs_patroni(container) {
            return Err(Refusal::Patroni {
                container: Quoted::new(&container.name),
            });
        }
    }
    Ok(())
}

fn runs_patroni(container: &Container) -> bool {
    let command_line = container.command.iter().chain(&container.args);
    let program = |word: &String| word.rsplit('/').next() == Some("patroni");
    let variable = |name: &str| name.starts_with("PATRONI_");
    command_line.into_iter().any(program) || container.env.iter().any(|v| variable(&v.name))
}

impl Mark {
    fn is_on(&self, metadata: &Metadata) -> bool {
        let labels = &metadata.labels;
        match *self {
            Self::Owner(group) => metadata.owner_references.iter().any(|owner| {
                let own = owner.api_version.split_once('/');
                own.is_some_and(|(own, _)| own == group)
            }),
            Self::Label(name) => labels.contains_key(name),
            Self::Prefix(start) => labels.keys().any(|name| name.starts_with(start)),
            Self::Value(name, value) => labels.get(name).is_some_and(|v| v == value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn refused(labels: Value, container: Value) -> Option<String> {
        let raw = json!({"metadata": {"labels": labels}, "spec": {"containers": [container]}});
        let pod = Pod::read(&raw).unwrap();
        check(&pod).err().map(|refusal| refusal.to_string())
    }

    #[test]
    fn each_operator_is_told_by_name() {
        for (labels, says) in [
            (json!({"cnpg.io/cluster": "a"}), "CloudNativePG"),
            (json!({"k8s.enterprisedb.io/cluster": "a"}), "EDB"),
            (
                json!({"postgres-operator.crunchydata.com/cluster": "a"}),
                "PGO",
            ),
            (
                json!({"postgres-operator.crunchydata.com/cluster": "a", "app.kubernetes.io/managed-by": "percona-postgresql-operator"}),
                "Percona",
            ),
            (json!({"pgv2.percona.com/cluster": "a"}), "Percona"),
            (
                json!({"application": "spilo", "cluster-name": "a"}),
                "Zalando",
            ),
            (json!({"spilo-role": "master"}), "Zalando"),
            (json!({"stackgres.io/cluster-name": "a"}), "StackGres"),
            (
                json!({"app.kubernetes.io/managed-by": "kubedb.com"}),
                "KubeDB",
            ),
            (
                json!({"app.kubernetes.io/managed-by": "kubeblocks"}),
                "KubeBlocks",
            ),
        ] {
            let sentence = refused(labels, json!({"name": "db", "image": "x"})).unwrap();
            assert!(sentence.contains(says), "{sentence}");
            assert!(sentence.contains("holdfast.dev/archive"), "{sentence}");
        }
    }

    #[test]
    fn the_owner_tells_where_labels_do_not() {
        for (api_version, says) in [
            ("postgresql.cnpg.io/v1", Some("CloudNativePG")),
            ("postgresql.k8s.enterprisedb.io/v1", Some("EDB")),
            ("pgv2.percona.com/v2", Some("Percona")),
            ("postgres-operator.crunchydata.com/v1beta1", Some("PGO")),
            ("acid.zalan.do/v1", Some("Zalando")),
            ("stackgres.io/v1", Some("StackGres")),
            ("kubedb.com/v1", Some("KubeDB")),
            ("workloads.kubeblocks.io/v1", Some("KubeBlocks")),
            ("apps/v1", None),
            ("v1", None),
        ] {
            let owner =
                json!({"apiVersion": api_version, "kind": "Cluster", "name": "a", "uid": "u"});
            let raw = json!({"metadata": {"ownerReferences": [owner]}, "spec": {"containers": [{"name": "db"}]}});
            let refusal = check(&Pod::read(&raw).unwrap()).err();
            let sentence = refusal.map(|refusal| refusal.to_string());
            match says {
                Some(says) => assert!(sentence.unwrap().contains(says)),
                None => assert_eq!(sentence, None),
            }
        }
    }

    #[test]
    fn patroni_is_seen_in_image_command_and_variables() {
        for container in [
            json!({"name": "db", "image": "ghcr.io/acme/patroni:4"}),
            json!({"name": "db", "image": "x", "command": ["/usr/bin/patroni", "/etc/p.yml"]}),
            json!({"name": "db", "image": "x", "args": ["patroni"]}),
            json!({"name": "db", "image": "x", "env": [{"name": "PATRONI_SCOPE", "value": "a"}]}),
        ] {
            let sentence = refused(json!({}), container).unwrap();
            assert!(sentence.contains("Patroni"), "{sentence}");
        }
        let spilo = json!({"name": "db", "image": "ghcr.io/zalando/spilo-17:4.0-p2"});
        assert!(refused(json!({}), spilo).unwrap().contains("Spilo"));
    }

    #[test]
    fn others_pass() {
        for labels in [
            json!({}),
            json!({"app": "db", "cluster-name": "a", "application": "shop"}),
            json!({"app.kubernetes.io/managed-by": "Helm"}),
        ] {
            assert_eq!(
                refused(labels, json!({"name": "db", "image": "postgres:17"})),
                None
            );
        }
    }
}
