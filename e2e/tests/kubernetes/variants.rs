//! Other ways to install: for some namespaces alone, by plain YAML, with somebody else's certificate.

use crate::chart::root;
use crate::fixtures::{Database, archive, backed_up, repository, shop};
use crate::install::{finalizers, has_sidecar, helm, in_the_cluster, installation, tested, tried};
use anyhow::{Context, Result, ensure};
use holdfast_e2e::cluster::SYSTEM;
use holdfast_e2e::{Space, eventually, parts};

#[tokio::test]
async fn told_some_namespaces_it_may_do_nothing_in_others() -> Result<()> {
    installation("watched", async |space| {
        let other = space.cluster().space("unwatched").await?;
        space
            .cluster()
            .install(&[&format!("watchNamespaces={{{}}}", space.namespace)])
            .await?;
        let operator = format!("--as=system:serviceaccount:{SYSTEM}:holdfast");
        for (verb, what, namespace, may) in [
            ("list", "secrets", space.namespace.as_str(), true),
            ("list", "secrets", &other.namespace, false),
            ("get", "secrets", &other.namespace, false),
            ("list", "pods", &other.namespace, false),
            ("list", "archives.holdfast.dev", &other.namespace, false),
            ("list", "secrets", SYSTEM, false),
        ] {
            let said = space
                .cluster()
                .kubectl(&["auth", "can-i", verb, what, "-n", namespace, &operator])
                .await?;
            ensure!(
                said.out.trim() == if may { "yes" } else { "no" },
                "{verb} {what} in {namespace}: {}{}",
                said.out,
                said.err
            );
        }
        tested(space).await?;

        let database = Database::new("orders", 17);
        let ignored = async {
            other.apply(&repository(&other)).await?;
            other.apply(&archive("orders")).await?;
            database.begin(&other).await
        };
        tokio::try_join!(shop(space, &database), ignored)?;
        database.archive_rows(space, 0).await?;
        backed_up(space, "one", "orders", "").await?;

        ensure!(has_sidecar(&space.get("pod/orders-0").await?["spec"]));
        ensure!(!has_sidecar(&other.get("pod/orders-0").await?["spec"]));
        for object in ["archive/orders", "repository/s3"] {
            let object = other.get(object).await?;
            ensure!(object["status"].is_null(), "{object:#}");
        }
        let secrets = other
            .kubectl(&["get", "secrets", "-o", "name"])
            .await?
            .success()?;
        ensure!(!secrets.contains("holdfast-orders"), "{secrets}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn plain_yaml_works_too() -> Result<()> {
    installation("plain", async |space| {
        let result = by_plain_yaml(space).await;
        // helm takes nothing over that is not its own.
        let left = "kubectl delete --ignore-not-found -f deploy/holdfast.yaml";
        space.shell(left, &root()).await?.success()?;
        result
    })
    .await
}

async fn by_plain_yaml(space: &Space) -> Result<()> {
    helm(space, &["uninstall", "holdfast", "--wait", "--timeout=4m"]).await?;
    let folder = tempfile::tempdir()?;
    let (repository, tag) = space.cluster().image().rsplit_once(':').context("a tag")?;
    let script = format!(
        "set -ex
             cp -r deploy {0}/deploy
             echo 'resources: [deploy]
images: [{{name: holdfast, newName: {repository}, newTag: {tag}}}]' >{0}/kustomization.yaml
             kubectl apply -k {0}
             kubectl -n holdfast-system rollout status deployment/holdfast --timeout=180s
             [ \"$(kubectl get archives --ignore-not-found -o name)\" = '' ]",
        folder.path().display()
    );
    space.shell(&script, &root()).await?.success()?;

    let database = Database::new("orders", 17);
    shop(space, &database).await?;
    database.archive_rows(space, 0).await?;
    backed_up(space, "held", "orders", ", deletionPolicy: Delete").await?;
    // Applied again it changes nothing, and takes nothing away that the operator has filled in.
    let generation = async || {
        let deployment = "deployment/holdfast";
        space
            .cluster()
            .field(deployment, "{.metadata.generation}")
            .await
    };
    let before = generation().await?;
    let script = format!("kubectl apply -k {}", folder.path().display());
    space.shell(&script, &root()).await?.success()?;
    ensure!(generation().await? == before, "{before}");
    ensure!(has_sidecar(&tried(space).await?));

    // As docs/kubernetes.md says.
    let page = std::fs::read_to_string(root().join("docs/kubernetes.md"))?;
    let uninstalling = page
        .split("```")
        .find(|block| block.contains("kubectl delete -f deploy/holdfast.yaml"))
        .and_then(|block| block.strip_prefix("console\n"))
        .context("the page tells how plain YAML is uninstalled")?;
    let script: String = uninstalling
        .lines()
        .map(|line| format!("{}\n", line.trim_start_matches("$ ")))
        .collect();
    space
        .shell(&format!("set -ex\n{script}"), &root())
        .await?
        .success()?;
    ensure!(finalizers(space, "held").await?.is_null());
    ensure!(in_the_cluster(space).await?.is_empty());
    space.get("archive/orders").await?;
    database.archive_rows(space, 0).await?;
    Ok(())
}

/// What cert-manager would do, done by hand: the Secret of the Certificate, and the bundle that its injector fills in.
/// cert-manager itself does not run; its definitions, and so its rules for what the chart makes, are the real ones.
fn issue(names: &str) -> String {
    format!(
        "folder=$(mktemp -d)
         openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=webhook -addext subjectAltName={names} -keyout $folder/pkcs8 -out $folder/tls.crt 2>/dev/null
         openssl ec -in $folder/pkcs8 -out $folder/tls.key 2>/dev/null
         kubectl -n {SYSTEM} create secret generic holdfast-webhook-certificate --type=kubernetes.io/tls --dry-run=client -o yaml \\
           --from-file=ca.crt=$folder/tls.crt --from-file=tls.crt=$folder/tls.crt --from-file=tls.key=$folder/tls.key | kubectl apply -f -
         bundle=$(base64 -w0 $folder/tls.crt)
         rm -r $folder"
    )
}

const TRUST: &str = r#"kubectl patch mutatingwebhookconfiguration holdfast --type=json -p "[{\"op\": \"add\", \"path\": \"/webhooks/0/clientConfig/caBundle\", \"value\": \"$bundle\"}]""#;

#[tokio::test]
async fn a_certificate_that_somebody_else_writes() -> Result<()> {
    installation("certificate", async |space| {
        foreign_definitions(space, "apply --server-side").await?;
        let result = certificate_of_others(space).await;
        space.cluster().install(&[]).await?;
        foreign_definitions(space, "delete --ignore-not-found").await?;
        result
    })
    .await
}

async fn certificate_of_others(space: &Space) -> Result<()> {
    let issue = issue("DNS:holdfast.holdfast-system.svc");
    // Pods wait for their Secret, as for cert-manager.
    space
        .shell(&format!("set -ex\n{issue}"), &root())
        .await?
        .success()?;
    let settings = [
        "webhook.certManager.enabled=true",
        "metrics.serviceMonitor.enabled=true",
        "metrics.podMonitor.enabled=true",
    ];
    space.cluster().install(&settings).await?;
    for (object, field, value) in [
        (
            "certificate.cert-manager.io/holdfast-webhook",
            "{.spec.dnsNames[0]}",
            "holdfast.holdfast-system.svc",
        ),
        (
            "issuer.cert-manager.io/holdfast-webhook",
            "{.spec.selfSigned}",
            "{}",
        ),
        (
            "servicemonitor.monitoring.coreos.com/holdfast",
            "{.spec.endpoints[0].port}",
            "metrics",
        ),
        (
            "podmonitor.monitoring.coreos.com/holdfast-sidecars",
            "{.spec.podMetricsEndpoints[0].port}",
            "hf-metrics",
        ),
        (
            "networkpolicy/holdfast",
            "{.spec.policyTypes[*]}",
            "Ingress",
        ),
        (
            "poddisruptionbudget/holdfast",
            "{.spec.maxUnavailable}",
            "1",
        ),
    ] {
        let said = space.cluster().field(object, field).await?;
        ensure!(said == value, "{object}: {said}");
    }
    // A first certificate, and a second one, as after a renewal: neither needs a restart, and nobody else writes the bundle.
    for _ in 0..2 {
        space
            .shell(&format!("set -ex\n{issue}\n{TRUST}"), &root())
            .await?
            .success()?;
        eventually(
            "the webhook answers with the certificate of the Secret",
            async || {
                ensure!(has_sidecar(&tried(space).await?));
                Ok(())
            },
        )
        .await?;
        tested(space).await?;
    }
    let database = Database::new("orders", 17);
    shop(space, &database).await?;
    database.archive_rows(space, 0).await?;
    Ok(())
}

async fn foreign_definitions(space: &Space, verb: &str) -> Result<()> {
    let folder = parts::folder().join("definitions");
    ensure!(
        folder.exists(),
        "{} is missing: run `make parts-cluster`",
        folder.display()
    );
    let script = format!("kubectl {verb} -f {}/", folder.display());
    space.shell(&script, &root()).await?.success()?;
    Ok(())
}
