//! The program's parts, and the order in which they begin and end.

use crate::archive::{Archives, Orphans};
use crate::authority::{self, Authority, Serving};
use crate::backup::Backups;
use crate::catalogue::Catalogue;
use crate::cli::{CrdsArgs, RunArgs};
use crate::context::{Context, Parts, Settings};
use crate::controller::{self, Controller, Waker};
use crate::inject::InjectSettings;
use crate::leader;
use crate::metrics::Metrics;
use crate::names::Key;
use crate::probes::{self, Readiness};
use crate::repository::Repositories;
use crate::restore::Restores;
use crate::schedule::Schedules;
use crate::webhook::{self, Webhook};
use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use rustls::ServerConfig;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A replica that goes is still asked for a moment, until every node knows that it goes.
const LAST_CALLS: Duration = Duration::from_secs(3);

/// The operator's container in its own pod.
const CONTAINER: &str = "operator";

/// For all that runs when the program ends.
const GRACE: Duration = Duration::from_secs(15);

/// `holdfast-operator crds`
pub fn definitions(args: &CrdsArgs) -> anyhow::Result<()> {
    let files = holdfast_crds::files()?;
    let Some(folder) = &args.output else {
        let texts: Vec<&str> = files.iter().map(|(_, text)| text.as_str()).collect();
        std::io::stdout().write_all(texts.join("---\n").as_bytes())?;
        return Ok(());
    };
    std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    for (name, text) in files {
        let file = folder.join(name);
        std::fs::write(&file, text).with_context(|| format!("can't write {}", file.display()))?;
    }
    Ok(())
}

/// `holdfast-operator run`: until SIGTERM or SIGINT, or until the Lease is lost.
pub async fn operator(args: RunArgs) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let stop = CancellationToken::new();
    let running = run(args, stop.clone());
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => return ended,
        _ = terminate.recv() => tracing::info!("asked to end by SIGTERM"),
        _ = interrupt.recv() => tracing::info!("asked to end by SIGINT"),
    }
    stop.cancel();
    running.await
}

async fn run(mut args: RunArgs, stop: CancellationToken) -> anyhow::Result<()> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "begins");
    let client = kube::Client::try_default()
        .await
        .context("can't find the API server")?;
    if args.image.is_empty() {
        args.image = own_image(&client, &args).await?;
    }
    let metrics = Arc::new(Metrics::new());
    let authority = Authority::open(client.clone(), &args.namespace).await?;
    let serving = match &args.webhook_certificates {
        Some(folder) => Serving::files(folder.clone()),
        None => Serving::made(
            authority.clone(),
            client.clone(),
            &args.namespace,
            &args.webhook_service,
        ),
    };
    let tasks = TaskTracker::new();
    let leads = watch::Sender::new(false);

    // Every replica: webhook, probes, certificates.
    let ends_serving = stop.child_token();
    let listener = listen(args.metrics_address, "metrics").await?;
    tasks.spawn(probes::serve(
        listener,
        metrics.clone(),
        readiness(serving.clone()),
        ends_serving.clone(),
    ));
    tasks.spawn(serving.clone().keep(stop.clone()));
    tasks.spawn(authority.clone().keep(leads.subscribe(), stop.clone()));
    let listener = listen(args.webhook_address, "the webhook").await?;
    tasks.spawn(serve_webhook(
        listener,
        &args,
        serving.clone(),
        &metrics,
        stop.clone(),
    )?);

    // The one that leads: everything else.
    let identity = format!("{}_{}", args.pod_name, random_word());
    let release = CancellationToken::new();
    let election = leader::run(
        client.clone(),
        &args.namespace,
        identity,
        &leads,
        release.clone(),
    );
    let acting = async {
        let mut leads = leads.subscribe();
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            // The sender is kept above.
            _ = leads.wait_for(|leads| *leads) => {}
        }
        metrics.leads(true);
        if let Some(name) = &args.webhook_configuration {
            let (client, name) = (client.clone(), name.clone());
            tasks.spawn(authority::keep_filled(
                client,
                name,
                serving.clone(),
                stop.clone(),
            ));
        }
        let beginning = Context::begin(Parts {
            client: client.clone(),
            settings: Settings::from(&args),
            authority: authority.clone(),
            metrics: metrics.clone(),
            stop: stop.clone(),
        });
        let context = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            context = beginning => context?,
        };
        wake_on_new_authority(&context);
        controllers(&context).await;
        anyhow::Ok(())
    };
    let ended = lead(election, acting, &release).await;
    metrics.leads(false);
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!("ended in the middle of work");
    }
    ended
}

/// Until both have ended. The Lease is let go of after the last controller has ended: nobody else begins before.
async fn lead(
    election: impl Future<Output = ()>,
    acting: impl Future<Output = anyhow::Result<()>>,
    release: &CancellationToken,
) -> anyhow::Result<()> {
    tokio::pin!(election, acting);
    tokio::select! {
        () = &mut election => {
            bail!("the Lease was lost: the program ends, to begin anew as one of the others")
        }
        acted = &mut acting => {
            release.cancel();
            election.await;
            acted
        }
    }
}

/// All controllers, until the context's `stop`, and then until each has ended what it was at.
async fn controllers(context: &Arc<Context>) {
    let running = TaskTracker::new();
    let wakers = &context.wakers;
    begin(
        context,
        &running,
        Repositories::new(context.clone()),
        &wakers.repositories,
    );
    begin(
        context,
        &running,
        Archives::new(context.clone()),
        &wakers.archives,
    );
    begin(
        context,
        &running,
        Orphans::new(context.clone()),
        &wakers.orphans,
    );
    begin(
        context,
        &running,
        Backups::new(context.clone()),
        &wakers.backups,
    );
    begin(
        context,
        &running,
        Schedules::new(context.clone()),
        &wakers.schedules,
    );
    begin(
        context,
        &running,
        Restores::new(context.clone()),
        &wakers.restores,
    );
    begin(
        context,
        &running,
        Catalogue::new(context.clone()),
        &wakers.upkeep,
    );
    running.close();
    running.wait().await;
    context.tasks.close();
    let _ = tokio::time::timeout(GRACE, context.tasks.wait()).await;
}

fn begin<C: Controller>(
    context: &Arc<Context>,
    running: &TaskTracker,
    controller: C,
    waker: &Waker,
) {
    running.spawn(controller::run(
        Arc::new(controller),
        waker.clone(),
        context.metrics.clone(),
        context.stop.clone(),
    ));
}

/// What every archive's Secret holds has changed.
fn wake_on_new_authority(context: &Arc<Context>) {
    let (context, mut keyrings) = (context.clone(), context.authority.subscribe());
    context.tasks.clone().spawn(async move {
        loop {
            tokio::select! {
                () = context.stop.cancelled() => return,
                changed = keyrings.changed() => if changed.is_err() { return },
            }
            for archive in context.watched.archives.all() {
                if let Some(key) = Key::of(archive.as_ref()) {
                    context.wakers.archives.wake(key);
                }
            }
        }
    });
}

fn serve_webhook(
    listener: TcpListener,
    args: &RunArgs,
    serving: Serving,
    metrics: &Metrics,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + Send + use<>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(serving));
    let certificates = watch::Sender::new(Arc::new(config)).subscribe();
    let webhook = Webhook {
        settings: Arc::new(InjectSettings {
            image: args.image.clone(),
            pull_policy: args.image_pull_policy,
            memory: args.sidecar_memory.clone(),
        }),
        metrics: metrics.webhook(),
    };
    let limits = webhook::Limits::default();
    let last_calls = async move {
        stop.cancelled().await;
        tokio::time::sleep(LAST_CALLS).await;
    };
    Ok(webhook::serve(
        listener,
        certificates,
        webhook,
        limits,
        last_calls,
    ))
}

fn readiness(serving: Serving) -> Readiness {
    Arc::new(move || match serving.is_ready() {
        true => Ok(()),
        false => Err("the webhook has no certificate yet".to_owned()),
    })
}

async fn listen(address: std::net::SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("can't listen on {address} for {what}"))
}

/// Operator and sidecar are one image: whoever says which for the operator's pod has said it for the sidecars.
///
/// Verbs on pods in the operator's namespace: get.
async fn own_image(client: &kube::Client, args: &RunArgs) -> anyhow::Result<String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &args.namespace);
    let pod = pods.get(&args.pod_name).await.with_context(|| {
        format!(
            "can't read the operator's own pod {}/{}: say by --image which image the sidecars get",
            args.namespace, args.pod_name
        )
    })?;
    let containers = pod.spec.map(|spec| spec.containers).unwrap_or_default();
    let own = containers.into_iter().find(|own| own.name == CONTAINER);
    own.and_then(|own| own.image).with_context(|| {
        format!("the operator's own pod has no container {CONTAINER}: say by --image which image the sidecars get")
    })
}

/// A container that was killed and started again in one pod is somebody else.
fn random_word() -> String {
    let mut random = [0; 4];
    // Without random numbers the pod's name alone tells replicas apart.
    let _ = getrandom::fill(&mut random);
    hex::encode(random)
}
