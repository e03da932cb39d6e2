//! The chart as text: what it takes, what it makes, and that `deploy/` is made of it. No cluster is asked.

use anyhow::{Context, Result, ensure};
use holdfast_e2e::parts;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What helm says, and whether it was well.
fn helm(words: &[&str], values: &[&str]) -> Result<(bool, String)> {
    let mut command = Command::new(parts::helm()?);
    command.args(words).current_dir(root()).stdin(Stdio::null());
    for value in values {
        // JSON knows numbers from text, as values.yaml does.
        command.args(["--set-json", value]);
    }
    let output = command.output().context("helm")?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

/// What the chart makes of values.
fn rendered(values: &[&str]) -> Result<String> {
    let words = [
        "template",
        "holdfast",
        "charts/holdfast",
        "--namespace",
        "holdfast-system",
    ];
    let (ok, said) = helm(&words, values)?;
    ensure!(ok, "{values:?}: {said}");
    Ok(said)
}

/// The object of this kind and name.
fn object<'a>(rendered: &'a str, kind: &str, name: &str) -> Option<&'a str> {
    rendered.split("\n---\n").find(|object| {
        let has = |line: &str| object.lines().any(|own| own == line);
        has(&format!("kind: {kind}")) && has(&format!("  name: {name}"))
    })
}

/// All that can be asked for.
const EVERYTHING: &[&str] = &[
    r#"watchNamespaces=["shop", "bank"]"#,
    "webhook.certManager.enabled=true",
    "metrics.serviceMonitor.enabled=true",
    "metrics.podMonitor.enabled=true",
    r#"imagePullSecrets=[{"name": "registry"}]"#,
    r#"nodeSelector={"disk": "ssd"}"#,
    r#"tolerations=[{"key": "system", "operator": "Exists"}]"#,
    r#"podLabels={"team": "data"}"#,
    r#"podAnnotations={"note": "x"}"#,
    r#"serviceAccount.annotations={"note": "x"}"#,
    r#"priorityClassName="system-cluster-critical""#,
    r#"fullnameOverride="keeper""#,
];

#[test]
fn helm_finds_no_fault_with_it() -> Result<()> {
    for values in [&[][..], EVERYTHING] {
        let (ok, said) = helm(&["lint", "--strict", "charts/holdfast"], values)?;
        ensure!(ok, "{values:?}: {said}");
    }
    Ok(())
}

#[test]
fn values_that_can_not_work_are_refused() -> Result<()> {
    for (value, named) in [
        ("replica=2", "replica"),
        ("replicas=0", "replicas"),
        (r#"replicas="two""#, "replicas"),
        (r#"watchNamespaces="shop""#, "watchNamespaces"),
        (r#"watchNamespaces=["Shop"]"#, "watchNamespaces"),
        (r#"watchNamespaces=["shop", "shop"]"#, "watchNamespaces"),
        (r#"image.repository="""#, "image"),
        (r#"image.pullPolicy="Sometimes""#, "pullPolicy"),
        ("image.tag=1", "tag"),
        ("imagePullSecrets=[{}]", "imagePullSecrets"),
        ("webhook.timeoutSeconds=31", "timeoutSeconds"),
        ("webhook.certmanager.enabled=true", "certmanager"),
        (r#"webhook.certManager.enabled="yes""#, "certManager"),
        (r#"sidecar.memory="lots""#, "sidecar"),
        (r#"crds.install="yes""#, "crds"),
        (r#"metrics.podMonitor.interval="often""#, "interval"),
        ("networkPolicy=true", "networkPolicy"),
        ("podDisruptionBudget.minAvailable=1", "podDisruptionBudget"),
        (r#"logLevel="""#, "logLevel"),
        (r#"podLabels={"a": 1}"#, "podLabels"),
    ] {
        let (ok, said) = helm(&["template", "charts/holdfast"], &[value])?;
        ensure!(!ok && said.contains(named), "{value}: {said}");
    }
    Ok(())
}

#[test]
fn what_is_asked_for_is_made_and_nothing_else() -> Result<()> {
    let (plain, all) = (rendered(&[])?, rendered(EVERYTHING)?);
    for (kind, name, in_plain, name_of_all) in [
        ("Deployment", "holdfast", true, Some("keeper")),
        (
            "MutatingWebhookConfiguration",
            "holdfast",
            true,
            Some("keeper"),
        ),
        ("NetworkPolicy", "holdfast", true, Some("keeper")),
        ("PodDisruptionBudget", "holdfast", true, Some("keeper")),
        ("ServiceMonitor", "holdfast", false, Some("keeper")),
        (
            "PodMonitor",
            "holdfast-sidecars",
            false,
            Some("keeper-sidecars"),
        ),
        ("Issuer", "holdfast-webhook", false, Some("keeper-webhook")),
        (
            "Certificate",
            "holdfast-webhook",
            false,
            Some("keeper-webhook"),
        ),
        ("Role", "holdfast-archives", false, Some("keeper-archives")),
        (
            "CustomResourceDefinition",
            "archives.holdfast.dev",
            true,
            Some("archives.holdfast.dev"),
        ),
    ] {
        ensure!(
            object(&plain, kind, name).is_some() == in_plain,
            "{kind} {name}: {plain}"
        );
        if let Some(name) = name_of_all {
            ensure!(object(&all, kind, name).is_some(), "{kind} {name}: {all}");
        }
    }
    let without = rendered(&[
        "networkPolicy.enabled=false",
        "podDisruptionBudget.enabled=false",
        "crds.install=false",
    ])?;
    for kind in [
        "NetworkPolicy",
        "PodDisruptionBudget",
        "CustomResourceDefinition",
    ] {
        ensure!(
            !without.contains(&format!("\nkind: {kind}\n")),
            "{kind}: {without}"
        );
    }
    // With one replica a budget would keep its node from being drained.
    let alone = rendered(&["replicas=1"])?;
    ensure!(!alone.contains("\nkind: PodDisruptionBudget\n"), "{alone}");
    // cert-manager fills its own in: two would take turns.
    let deployment = object(&all, "Deployment", "keeper").context("no Deployment")?;
    ensure!(
        !deployment.contains("--webhook-configuration"),
        "{deployment}"
    );
    ensure!(
        deployment.contains("--webhook-certificates=/etc/webhook"),
        "{deployment}"
    );
    let configuration =
        object(&all, "MutatingWebhookConfiguration", "keeper").context("no configuration")?;
    ensure!(
        configuration.contains("cert-manager.io/inject-ca-from: holdfast-system/keeper-webhook"),
        "{configuration}"
    );
    Ok(())
}

#[test]
fn every_right_has_its_reason_and_few_are_the_clusters() -> Result<()> {
    let namespaces = r#"watchNamespaces=["shop"]"#;
    for values in [&[][..], &[namespaces], EVERYTHING] {
        let all = rendered(values)?;
        for role in all.split("\n---\n").filter(|object| {
            object.contains("\nkind: Role\n") || object.contains("\nkind: ClusterRole\n")
        }) {
            let lines: Vec<&str> = role.lines().collect();
            for pair in lines.windows(2) {
                let [before, rule] = pair else { continue };
                ensure!(
                    !rule.starts_with("- apiGroups") || before.starts_with('#'),
                    "{rule} after {before}: {role}"
                );
            }
            ensure!(!role.contains('*'), "{role}");
        }
    }
    let rules = |values: &[&str]| -> Result<Vec<String>> {
        let all = rendered(values)?;
        let name = if values.len() > 2 {
            "keeper"
        } else {
            "holdfast"
        };
        let role = object(&all, "ClusterRole", name).context("no ClusterRole")?;
        let resources = role.lines().filter(|line| line.starts_with("  resources:"));
        Ok(resources.map(|line| line.trim().to_owned()).collect())
    };
    let (kube_system, own_webhook) = (
        "resources: [namespaces]",
        "resources: [mutatingwebhookconfigurations]",
    );
    ensure!(
        rules(&[namespaces])? == [kube_system, own_webhook],
        "{:?}",
        rules(&[namespaces])?
    );
    ensure!(
        rules(EVERYTHING)? == [kube_system],
        "{:?}",
        rules(EVERYTHING)?
    );
    Ok(())
}

#[test]
fn deploy_is_what_the_chart_makes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = Command::new(root().join("deploy/render"))
        .arg(folder.path())
        .output()
        .context("deploy/render")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for name in ["crds.yaml", "holdfast.yaml"] {
        let committed =
            std::fs::read_to_string(root().join("deploy").join(name)).unwrap_or_default();
        let made = std::fs::read_to_string(folder.path().join(name))?;
        ensure!(made.len() > 1000, "{name}: {made}");
        ensure!(
            committed == made,
            "deploy/{name} is not what the chart makes: run `deploy/render`"
        );
    }
    Ok(())
}

/// kubectl writes what it applies into an annotation, of which the API server takes 256 KiB.
#[test]
fn definitions_can_be_applied_by_any_client() -> Result<()> {
    for entry in std::fs::read_dir(root().join("charts/holdfast/files/crds"))? {
        let file = entry?.path();
        let text = std::fs::read_to_string(&file)?;
        ensure!(
            text.len() < 200 << 10,
            "{} has {} bytes",
            file.display(),
            text.len()
        );
        // They stay when the chart is uninstalled.
        ensure!(
            text.contains("helm.sh/resource-policy: keep"),
            "{}",
            file.display()
        );
    }
    Ok(())
}
