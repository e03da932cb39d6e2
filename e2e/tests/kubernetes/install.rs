//! Installing, upgrading and uninstalling: neither databases nor what is stored notice.

use crate::chart::root;
use crate::fixtures::{Database, backed_up, shop};
use crate::incarnations::{is_sign_of_life, stored};
use anyhow::{Result, ensure};
use holdfast_e2e::cluster::SYSTEM;
use holdfast_e2e::{Space, eventually};
use serde_json::Value;
use std::collections::BTreeMap;

/// A scenario that does with the installation what it likes. The next one finds Holdfast installed as ever.
pub async fn installation<F>(name: &str, scenario: F) -> Result<()>
where
    F: AsyncFnOnce(&Space) -> Result<()>,
{
    Space::alone(name, async |space| {
        let result = scenario(space).await;
        if result.is_err() {
            let words = ["-n", SYSTEM, "get", "pods,jobs,events", "-o", "wide"];
            let said = space.cluster().kubectl(&words).await?;
            eprintln!("--- {}{}", said.out, said.err);
            let words = ["-n", SYSTEM, "logs", "--tail=60", "deployment/holdfast"];
            let said = space.cluster().kubectl(&words).await?;
            eprintln!("--- {}{}", said.out, said.err);
        }
        let installed = space.cluster().install(&[]).await;
        result.and(installed)
    })
    .await
}

/// Which pods the database has, and how often their containers were started.
async fn pods(space: &Space) -> Result<BTreeMap<String, String>> {
    let said = space
        .kubectl(&["get", "pods", "-l", "app=orders", "-o", "json"])
        .await?
        .success()?;
    let list: Value = serde_json::from_str(&said)?;
    let pods = list["items"].as_array().cloned().unwrap_or_default();
    Ok(pods
        .iter()
        .map(|pod| {
            let restarts = ["initContainerStatuses", "containerStatuses"].map(|list| {
                let statuses = pod["status"][list].as_array().cloned().unwrap_or_default();
                let counts = statuses
                    .iter()
                    .map(|one| format!("{} {}", one["name"], one["restartCount"]));
                counts.collect::<Vec<_>>().join(", ")
            });
            let name = pod["metadata"]["name"].to_string();
            (
                name,
                format!("{} {}", pod["metadata"]["uid"], restarts.join(", ")),
            )
        })
        .collect())
}

/// A database and what is stored of it, before something is done with the installation.
struct Before {
    pods: BTreeMap<String, String>,
    stored: BTreeMap<String, String>,
}

impl Before {
    async fn look(space: &Space) -> Result<Self> {
        let (pods, stored) = (pods(space).await?, stored(space, "stored-before").await?);
        ensure!(stored.len() > 5, "{stored:?}");
        Ok(Self { pods, stored })
    }

    /// The pods are the same ones, all that was stored is as it was, and archiving and backups go on.
    async fn stands(&self, space: &Space, database: &Database) -> Result<()> {
        space
            .wait_for("archive/orders", "condition=Ready", 120)
            .await?;
        database.archive_rows(space, 0).await?;
        backed_up(space, "after", "orders", "").await?;
        ensure!(pods(space).await? == self.pods, "{:?}", self.pods);
        let now = stored(space, "stored-after").await?;
        for (name, state) in &self.stored {
            ensure!(
                is_sign_of_life(name) || now.get(name) == Some(state),
                "{name} was {state}, is {:?}",
                now.get(name)
            );
        }
        tested(space).await
    }
}

/// helm in the operator's namespace.
pub async fn helm(space: &Space, words: &[&str]) -> Result<String> {
    let mut all = vec!["--namespace", SYSTEM];
    all.extend(words);
    space.cluster().helm(&all).await?.success()
}

/// `helm test`, and all that the check says.
pub async fn tested(space: &Space) -> Result<()> {
    let said = helm(space, &["test", "holdfast", "--logs", "--timeout=2m"]).await?;
    for check in ["definitions", "rights", "leader", "webhook"] {
        let well = |line: &str| line.split_whitespace().take(2).eq(["ok", check]);
        ensure!(said.lines().any(well), "{check}: {said}");
    }
    Ok(())
}

/// What there is of the installation in the cluster as a whole.
pub async fn in_the_cluster(space: &Space) -> Result<String> {
    let kinds = "mutatingwebhookconfigurations,clusterroles,clusterrolebindings";
    let of_release = "app.kubernetes.io/part-of=holdfast";
    let words = ["get", kinds, "-l", of_release, "-o", "name"];
    space.cluster().kubectl(&words).await?.success()
}

/// What holds a Backup.
pub async fn finalizers(space: &Space, backup: &str) -> Result<Value> {
    let backup = space.get(&format!("backup/{backup}")).await?;
    Ok(backup["metadata"]["finalizers"].clone())
}

/// A labelled pod, made as a dry run: what it would have.
pub async fn tried(space: &Space) -> Result<Value> {
    let overrides = r#"{"spec": {"containers": [{"name": "postgres", "image": "postgres:17",
        "volumeMounts": [{"name": "data", "mountPath": "/var/lib/postgresql/data"}]}], "volumes": [{"name": "data", "emptyDir": {}}]}}"#;
    let overrides = format!("--overrides={overrides}");
    let words = [
        "run",
        "tried",
        "--image=postgres:17",
        "--labels=holdfast.dev/archive=orders",
        "--dry-run=server",
        "-o",
        "json",
        &overrides,
    ];
    let said = space.kubectl(&words).await?.success()?;
    Ok(serde_json::from_str::<Value>(&said)?["spec"].clone())
}

/// Whether a pod has what the webhook adds.
pub fn has_sidecar(spec: &Value) -> bool {
    let mut containers = spec["initContainers"].as_array().into_iter().flatten();
    containers.any(|container| container["name"] == "holdfast")
}

#[tokio::test]
async fn helm_test_says_that_it_works_and_what_does_not() -> Result<()> {
    installation("check", async |space| {
        let before = in_the_cluster(space).await?;
        tested(space).await?;
        // It leaves nothing.
        ensure!(in_the_cluster(space).await? == before, "{before}");
        let words = [
            "-n",
            SYSTEM,
            "get",
            "pod,serviceaccount,role,rolebinding",
            "-l",
            "app.kubernetes.io/name=holdfast-check",
            "-o",
            "name",
        ];
        let left = space.cluster().kubectl(&words).await?.success()?;
        ensure!(left.is_empty(), "{left}");

        // With one definition of another version, and without an operator.
        made_older(space).await?;
        space.cluster().scale_operator(0).await?;
        let said = space
            .cluster()
            .helm(&["--namespace", SYSTEM, "test", "holdfast", "--timeout=3m"])
            .await?
            .refused()?;
        ensure!(said.contains("holdfast-check"), "{said}");
        let log = space
            .cluster()
            .kubectl(&["-n", SYSTEM, "logs", "holdfast-check"])
            .await?
            .success()?;
        for (check, says) in [
            (
                "ok      rights",
                "system:serviceaccount:holdfast-system:holdfast may do all",
            ),
            (
                "WRONG   definitions",
                "archives.holdfast.dev is another version's: it differs at spec.names.shortNames",
            ),
            ("WRONG   leader", "no replica acts"),
            ("WRONG   webhook", "failed calling webhook"),
        ] {
            let line = log.lines().find(|line| line.starts_with(check));
            ensure!(
                line.is_some_and(|line| line.contains(says)),
                "{check}, {says}: {log}"
            );
        }
        space.cluster().install(&[]).await?;
        tested(space).await
    })
    .await
}

/// Upgrades to the chart as an older version might have been: other definitions, another number.
async fn made_older(space: &Space) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = std::process::Command::new("cp")
        .arg("-r")
        .arg(root().join("charts/holdfast"))
        .arg(folder.path())
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for (file, from, to) in [
        ("Chart.yaml", "\nversion: 0.1.0", "\nversion: 0.0.9"),
        ("files/crds/archives.yaml", "- hfa\n", "- hfold\n"),
    ] {
        let file = folder.path().join("holdfast").join(file);
        let text = std::fs::read_to_string(&file)?;
        ensure!(text.contains(from), "{}: {text}", file.display());
        std::fs::write(&file, text.replace(from, to))?;
    }
    let chart = folder.path().join("holdfast").display().to_string();
    let words = [
        "upgrade",
        "holdfast",
        &chart,
        "--reuse-values",
        "--force-conflicts",
        "--wait",
        "--timeout=3m",
    ];
    helm(space, &words).await?;
    Ok(())
}

#[tokio::test]
async fn an_upgrade_touches_neither_databases_nor_what_is_stored() -> Result<()> {
    installation("upgrade", async |space| {
        made_older(space).await?;
        let cluster = space.cluster();
        let short_names = async || {
            cluster
                .field("crd/archives.holdfast.dev", "{.spec.names.shortNames[*]}")
                .await
        };
        ensure!(short_names().await? == "hfold");

        let database = Database::new("orders", 17);
        shop(space, &database).await?;
        backed_up(space, "before", "orders", "").await?;
        let before = Before::look(space).await?;
        let bundle = async || {
            let object = "mutatingwebhookconfiguration/holdfast";
            cluster
                .field(object, "{.webhooks[0].clientConfig.caBundle}")
                .await
        };
        let trusted = bundle().await?;

        let settings = [
            "replicas=3",
            "logLevel=debug",
            "resources.limits.memory=160Mi",
            "sidecar.memory=128Mi",
        ];
        let upgrade = cluster.install(&settings);
        let archiving = async {
            for _ in 0..3 {
                database.archive_rows(space, 0).await?;
                // Labelled pods can be made all the while.
                ensure!(has_sidecar(&tried(space).await?));
            }
            anyhow::Ok(())
        };
        tokio::try_join!(upgrade, archiving)?;

        ensure!(
            short_names().await? == "hfa",
            "the definitions are the old ones"
        );
        ensure!(!trusted.is_empty() && bundle().await? == trusted);
        ensure!(
            cluster
                .field("deployment/holdfast", "{.status.readyReplicas}")
                .await?
                == "3"
        );
        // A replica that goes still answers for a moment.
        eventually("the new settings count", async || {
            ensure!(tried(space).await?.to_string().contains("128Mi"));
            Ok(())
        })
        .await?;
        before.stands(space, &database).await
    })
    .await
}

#[tokio::test]
async fn uninstalled_nothing_hangs_and_installed_again_it_goes_on() -> Result<()> {
    installation("uninstall", async |space| {
        let database = Database::new("orders", 17);
        let leaving = space.cluster().space("leaving").await?;
        tokio::try_join!(shop(space, &database), shop(&leaving, &database))?;
        for space in [space, &leaving] {
            backed_up(space, "held", "orders", ", deletionPolicy: Delete").await?;
            eventually("the Backup is held", async || {
                let finalizers = finalizers(space, "held").await?;
                ensure!(finalizers[0] == "holdfast.dev/backup", "{finalizers}");
                Ok(())
            })
            .await?;
        }
        let before = Before::look(space).await?;

        let (said, _) = tokio::try_join!(
            helm(space, &["uninstall", "holdfast", "--wait", "--timeout=4m"]),
            database.archive_rows(space, 0)
        )?;
        ensure!(said.contains("uninstalled"), "{said}");
        let left = in_the_cluster(space).await?;
        ensure!(left.is_empty(), "{left}");
        let definitions = space
            .cluster()
            .kubectl(&["api-resources", "--api-group=holdfast.dev", "-o", "name"])
            .await?
            .success()?;
        ensure!(definitions.lines().count() == 5, "{definitions}");

        // Databases go on, and pods are made as if there had never been a webhook.
        database.archive_rows(space, 0).await?;
        ensure!(!has_sidecar(&tried(space).await?));
        // Objects stay, and can go.
        for object in ["archive/orders", "repository/s3", "backup/held"] {
            space.get(object).await?;
        }
        ensure!(finalizers(space, "held").await?.is_null());
        let gone = ["delete", "namespace", &leaving.namespace, "--timeout=200s"];
        space.cluster().kubectl(&gone).await?.success()?;

        space.cluster().install(&[]).await?;
        eventually("the Backup is held again", async || {
            let finalizers = finalizers(space, "held").await?;
            ensure!(finalizers[0] == "holdfast.dev/backup", "{finalizers}");
            Ok(())
        })
        .await?;
        space
            .wait_for("archive/orders", "condition=Owner", 60)
            .await?;
        space
            .wait_for("backup/held", "condition=Complete", 60)
            .await?;
        before.stands(space, &database).await
    })
    .await
}
