//! A hand on every node: a scenario sees its pods' processes there, and kills them and the kubelet.

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Space, eventually};
use std::collections::BTreeSet;

/// Privileged, and gone with the namespace.
const YAML: &str = "apiVersion: apps/v1
kind: DaemonSet
metadata: {name: hand}
spec:
  selector: {matchLabels: {app: hand}}
  template:
    metadata: {labels: {app: hand}}
    spec:
      hostPID: true
      terminationGracePeriodSeconds: 0
      tolerations: [{operator: Exists}]
      containers:
      - name: hand
        image: tools:dev
        imagePullPolicy: IfNotPresent
        command: [sleep, infinity]
        securityContext: {runAsUser: 0, privileged: true}
";

/// Processes of the node that a pod is on.
#[derive(Debug, Clone, Copy)]
pub enum Processes {
    /// Of the pod, whose command line matches this.
    OfPod(&'static str),
    /// The kubelet.
    Kubelet,
}

/// What reaches into nodes.
#[derive(Debug)]
pub struct Hand<'a>(&'a Space);

impl<'a> Hand<'a> {
    pub async fn on_every_node(space: &'a Space) -> Result<Self> {
        space.apply(YAML).await?;
        let set = ["rollout", "status", "daemonset/hand", "--timeout=120s"];
        space.kubectl(&set).await?.success()?;
        Ok(Self(space))
    }

    /// Runs a script on the pod's node. `$pod` matches the pod's control group, which has its UID in its name, with
    /// dashes or, by systemd, with underscores.
    async fn script(&self, pod: &str, script: &str) -> Result<String> {
        let pod = self.0.get(&format!("pod/{pod}")).await?;
        let uid = pod["metadata"]["uid"].as_str().context("the pod's UID")?;
        let node = pod["spec"]["nodeName"].as_str();
        let node = format!("spec.nodeName={}", node.context("the pod's node")?);
        let hand = ["get", "pods", "-l=app=hand", "--field-selector", &node];
        let hand = [&hand[..], &["-o", "name"]].concat();
        let hand = self.0.kubectl(&hand).await?.success()?;
        let script = format!("pod=pod{}\n{script}", uid.replace('-', "[-_]"));
        let words = ["exec", hand.trim(), "--", "bash", "-c", &script];
        self.0.kubectl(&words).await?.success()
    }

    /// The numbers of those processes.
    async fn processes(&self, pod: &str, which: Processes) -> Result<BTreeSet<String>> {
        let script = match which {
            Processes::Kubelet => "pgrep -x kubelet".to_owned(),
            Processes::OfPod(words) => format!(
                "for process in $(grep -l \"$pod\" /proc/[0-9]*/cgroup 2>/dev/null | cut -d/ -f3); do
                   tr '\\0' ' ' <\"/proc/$process/cmdline\" | grep -qE '{words}' && echo \"$process\"
                 done 2>/dev/null; :"
            ),
        };
        let said = self.script(pod, &script).await?;
        Ok(said.split_whitespace().map(str::to_owned).collect())
    }

    /// Waits until there are some.
    pub async fn run(&self, pod: &str, which: Processes) -> Result<BTreeSet<String>> {
        eventually(&format!("{pod}: {which:?} run"), async || {
            let processes = self.processes(pod, which).await?;
            ensure!(!processes.is_empty(), "there are none");
            Ok(processes)
        })
        .await
    }

    /// SIGKILL for all of them, and waits until they are gone.
    pub async fn kill(&self, pod: &str, which: Processes) -> Result<()> {
        let victims = self.run(pod, which).await?;
        let numbers: Vec<&str> = victims.iter().map(String::as_str).collect();
        // With the kubelet this connection ends; those that others take with them are gone by then.
        let _ = self
            .script(pod, &format!("kill -KILL {}", numbers.join(" ")))
            .await;
        eventually(&format!("{pod}: {which:?} are killed"), async || {
            let left = self.processes(pod, which).await?;
            ensure!(left.is_disjoint(&victims), "{left:?} of {victims:?}");
            Ok(())
        })
        .await
    }

    /// Whether a file is in what one of the pod's containers sees.
    pub async fn has_file(&self, pod: &str, path: &str) -> Result<bool> {
        let script = format!(
            "for process in $(grep -l \"$pod\" /proc/[0-9]*/cgroup 2>/dev/null | cut -d/ -f3); do
               [ ! -e \"/proc/$process/root{path}\" ] || {{ echo there; exit; }}
             done"
        );
        Ok(!self.script(pod, &script).await?.is_empty())
    }
}
