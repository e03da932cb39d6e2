//! The command line.

use crate::inject::{Memory, PullPolicy};
use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Keeps the PostgreSQL of a Kubernetes cluster recoverable.
#[derive(Debug, Parser)]
#[command(name = "holdfast-operator", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the operator
    Run(RunArgs),
    /// Says whether an installation works: 0 it does, 1 something is wrong, 2 something could not be seen
    Check(CheckArgs),
    /// Before the operator is uninstalled: has no replica act any more, and takes the finalizers off Backups and
    /// Restores, so that nothing waits for an operator that is gone. Stored data stays
    Retire(RetireArgs),
    /// Prints the CustomResourceDefinitions, or writes them
    Crds(CrdsArgs),
}

/// How the operator runs.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The namespace that the operator runs in
    #[arg(long, env = "POD_NAMESPACE", default_value = "holdfast-system")]
    pub namespace: String,
    /// The name of the operator's own pod
    #[arg(long, env = "POD_NAME", default_value = "holdfast-operator")]
    pub pod_name: String,
    /// The image of the sidecars. Default: that of the operator's own pod
    #[arg(
        long,
        env = "HOLDFAST_IMAGE",
        default_value = "",
        hide_default_value = true
    )]
    pub image: String,
    /// When a node pulls that image: Always, IfNotPresent or Never
    #[arg(long, default_value_t)]
    pub image_pull_policy: PullPolicy,
    /// The memory of a sidecar whose pod does not say
    #[arg(long, default_value = "256Mi")]
    pub sidecar_memory: Memory,
    /// Only these namespaces, separated by commas. Default: all
    #[arg(long, env = "HOLDFAST_WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
    /// Where the webhook listens
    #[arg(long, default_value = "[::]:9443")]
    pub webhook_address: SocketAddr,
    /// Where metrics and probes are served, in plain HTTP
    #[arg(long, default_value = "[::]:8080")]
    pub metrics_address: SocketAddr,
    /// A folder with tls.crt, tls.key and ca.crt for the webhook, such as one that cert-manager fills. Default: the
    /// operator makes them
    #[arg(long)]
    pub webhook_certificates: Option<PathBuf>,
    /// The MutatingWebhookConfiguration whose caBundle the operator fills. Default: none
    #[arg(long)]
    pub webhook_configuration: Option<String>,
    /// The Service through which the API server calls the webhook
    #[arg(long, default_value = "holdfast-webhook")]
    pub webhook_service: String,
    /// For how long what expires is announced in its repository before it is deleted, in seconds
    #[arg(long, env = "HOLDFAST_EXPIRY_GRACE_SECONDS", default_value_t = 3600)]
    pub expiry_grace_seconds: u64,
    /// How often archives are looked through for what expires and for what has no Backup object, in seconds
    #[arg(long, env = "HOLDFAST_UPKEEP_SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(5..))]
    pub upkeep_seconds: u64,
}

/// Which installation is looked at.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// The namespace that the operator runs in
    #[arg(long, env = "POD_NAMESPACE", default_value = "holdfast-system")]
    pub namespace: String,
    /// The operator's ServiceAccount and Deployment there
    #[arg(long, default_value = "holdfast")]
    pub service_account: String,
    /// The MutatingWebhookConfiguration that the operator fills; empty where somebody else does
    #[arg(long, default_value = "holdfast")]
    pub webhook_configuration: Option<String>,
    /// The namespaces that the operator looks after, separated by commas. Default: all
    #[arg(long, env = "HOLDFAST_WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
    /// For how long to look again while something is not well, in seconds
    #[arg(long, default_value_t = 0)]
    pub wait_seconds: u64,
    /// Prints JSON
    #[arg(long)]
    pub json: bool,
}

/// Which installation is retired.
#[derive(Debug, Clone, Args)]
pub struct RetireArgs {
    /// The namespace that the operator runs in
    #[arg(long, env = "POD_NAMESPACE", default_value = "holdfast-system")]
    pub namespace: String,
    /// The namespaces that the operator looks after, separated by commas. Default: all
    #[arg(long, env = "HOLDFAST_WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
}

/// Where definitions go.
#[derive(Debug, Clone, Args)]
pub struct CrdsArgs {
    /// The folder to write them into, a file each. Default: all to stdout
    #[arg(long)]
    pub output: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_separated_by_commas_and_none_means_all() {
        let run = |more: &[&str]| {
            let words = ["holdfast-operator", "run", "--image", "i"]
                .iter()
                .chain(more);
            match Cli::try_parse_from(words).unwrap().command {
                Command::Run(args) => args,
                other => panic!("{other:?}"),
            }
        };
        assert!(run(&[]).watch_namespaces.is_empty());
        assert_eq!(
            run(&["--watch-namespaces", "a,b"]).watch_namespaces,
            ["a", "b"]
        );
        assert!(
            Cli::try_parse_from([
                "holdfast-operator",
                "run",
                "--image",
                "i",
                "--webhook-address",
                "x"
            ])
            .is_err()
        );
    }
}
