//! The sidecars of all pods: one server that answers for whichever address it was asked at, with the certificate of the
//! name that it was asked by, which it reads from the rendered Secrets as a pod would from its mount.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::TryStreamExt;
use holdfast_protocol::control::{
    ArchivedFile, BackupAccepted, BackupOrder, ErrorBody, InstanceReport, PostgresReport, Role,
    WalReport, WalSwitched, sidecar_name,
};
use holdfast_protocol::status::{
    BackupRepository, BackupStatus, Condition, ConditionStatus, Lag, ProgressStatus,
};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::population::{PlayedPod, Pods, REPOSITORY};
use super::stored::Template;

/// Where every sidecar listens.
const PORT: u16 = 9643;
/// A backup takes so long.
const BACKUP: Duration = Duration::from_secs(3);

/// Plays the sidecars until it is dropped.
pub struct Sidecars {
    shared: Arc<Shared>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

struct Shared {
    pods: Pods,
    report: InstanceReport,
    loaded: Arc<Loaded>,
    tls: OnceLock<TlsAcceptor>,
    /// By id: when it was ordered.
    backups: Mutex<HashMap<String, (String, Instant)>>,
    asked: AtomicU64,
}

/// What the rendered Secrets hold, by the name of their sidecars.
#[derive(Debug, Default)]
struct Loaded(RwLock<HashMap<String, (Arc<CertifiedKey>, i64)>>);

impl ResolvesServerCert for Loaded {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let loaded = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (certificate, _) = loaded.get(hello.server_name()?)?;
        Some(certificate.clone())
    }
}

impl Sidecars {
    /// Begins to listen at all addresses.
    pub async fn serve(client: &Client, pods: Pods, template: &Template) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))
            .await
            .with_context(|| format!("port {PORT}, where the operator looks for sidecars"))?;
        let shared = Arc::new(Shared {
            pods,
            report: report(template),
            loaded: Arc::default(),
            tls: OnceLock::new(),
            backups: Mutex::default(),
            asked: AtomicU64::new(0),
        });
        let reading = tokio::spawn(read(shared.clone(), Api::all(client.clone())));
        let serving = tokio::spawn({
            let shared = shared.clone();
            async move {
                loop {
                    if let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(one(shared.clone(), stream));
                    }
                }
            }
        });
        Ok(Self {
            shared,
            tasks: [reading, serving],
        })
    }

    /// How many requests were answered.
    pub fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Sidecars {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What does not depend on the pod.
fn report(template: &Template) -> InstanceReport {
    let (name, time) = template.last_archived.clone();
    InstanceReport {
        sidecar_version: env!("CARGO_PKG_VERSION").to_owned(),
        postgres: PostgresReport {
            system_identifier: Some(template.system_identifier.clone()),
            version: Some("17.6".to_owned()),
            major: Some(17),
            timeline: Some(1),
            ..PostgresReport::default()
        },
        wal: WalReport {
            archived_count: 1,
            last_archived: Some(ArchivedFile { name, time }),
            ready_count: Some(0),
            archived_through: Some(template.archived_through.clone()),
            lag: Some(Lag {
                bytes: Some(0),
                seconds: Some(0),
            }),
            ..WalReport::default()
        },
        ..InstanceReport::default()
    }
}

/// Follows the rendered Secrets.
async fn read(shared: Arc<Shared>, secrets: Api<Secret>) {
    let ours = "app.kubernetes.io/managed-by=holdfast,holdfast.dev/archive";
    let config = watcher::Config::default().labels(ours);
    let mut events = std::pin::pin!(watcher::watcher(secrets, config));
    loop {
        let secret = match events.try_next().await {
            Ok(Some(Event::Apply(secret) | Event::InitApply(secret))) => secret,
            Ok(None) => return,
            Ok(Some(_)) => continue,
            Err(error) => {
                eprintln!("bench: watching the rendered Secrets: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        if let Err(error) = shared.load(&secret) {
            eprintln!("bench: the Secret {}: {error:#}", secret.name_any());
        }
    }
}

/// One connection, with one request.
async fn one(shared: Arc<Shared>, stream: TcpStream) {
    let Ok(IpAddr::V4(address)) = stream.local_addr().map(|address| address.ip()) else {
        return;
    };
    // Before anything is rendered nobody can be sure whom he speaks to.
    let (Some(tls), Some(pod)) = (shared.tls.get(), shared.pods.get(&address)) else {
        return;
    };
    let _ = stream.set_nodelay(true);
    let Ok(stream) = tls.accept(stream).await else {
        return;
    };
    let service = service_fn(|request| shared.answer(pod, request));
    let http = hyper::server::conn::http1::Builder::new();
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

impl Shared {
    fn load(&self, secret: &Secret) -> Result<()> {
        let entry = |name: &str| {
            let entry = secret.data.as_ref().and_then(|data| data.get(name));
            entry.with_context(|| format!("it has no {name}"))
        };
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let chain = CertificateDer::pem_slice_iter(&entry("tls.crt")?.0).collect::<Result<_, _>>();
        let key = PrivateKeyDer::from_pem_slice(&entry("tls.key")?.0)?;
        let certificate = CertifiedKey::from_der(chain?, key, &provider)?;
        if self.tls.get().is_none() {
            let mut roots = RootCertStore::empty();
            for authority in CertificateDer::pem_slice_iter(&entry("ca.crt")?.0) {
                roots.add(authority?)?;
            }
            let operator = WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
            let mut config =
                ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
                    .with_client_cert_verifier(operator)
                    .with_cert_resolver(self.loaded.clone());
            // As sidecars have it.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            let _ = self.tls.set(Arc::new(config).into());
        }
        let annotations = secret.annotations();
        let generation = annotations.get("holdfast.dev/generation");
        let generation = generation.context("it has no generation")?.parse()?;
        let labels = secret.labels();
        let Some(archive) = labels.get("holdfast.dev/archive") else {
            bail!("it has no label");
        };
        let name = sidecar_name(&secret.namespace().unwrap_or_default(), archive);
        let mut loaded = self
            .loaded
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        loaded.insert(name, (Arc::new(certificate), generation));
        Ok(())
    }

    async fn answer(
        &self,
        pod: &PlayedPod,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let backup = path.strip_prefix("/v1/backups/");
        Ok(match (head.method, path, backup) {
            (Method::GET, "/v1/status", _) => said(StatusCode::OK, &self.status(pod)),
            (Method::POST, "/v1/backups", _) => match body.collect().await {
                Ok(body) => self.order(pod, &body.to_bytes()),
                Err(_) => refused(StatusCode::BAD_REQUEST, "half a request"),
            },
            (Method::POST, "/v1/switch-wal", _) => {
                let lsn = self.report.wal.archived_through.as_ref();
                let lsn = lsn.and_then(|moment| moment.lsn.clone());
                let lsn = lsn.unwrap_or_default();
                said(StatusCode::OK, &WalSwitched { lsn })
            }
            (Method::GET, _, Some(id)) => match self.backup(id) {
                Some(status) => said(StatusCode::OK, &status),
                None => refused(StatusCode::NOT_FOUND, "no such backup"),
            },
            _ => refused(StatusCode::NOT_FOUND, "no such path"),
        })
    }

    fn status(&self, pod: &PlayedPod) -> InstanceReport {
        let name = sidecar_name(&pod.namespace, &pod.archive);
        let loaded = self.loaded.0.read().unwrap_or_else(PoisonError::into_inner);
        let primary = pod.ordinal == 0;
        let report = self.report.clone();
        InstanceReport {
            archive: format!("{}/{}", pod.namespace, pod.archive),
            pod_uid: Some(pod.uid.clone()),
            configuration_generation: loaded.get(&name).map(|(_, generation)| *generation),
            postgres: PostgresReport {
                role: Some(if primary {
                    Role::Primary
                } else {
                    Role::Standby
                }),
                ..report.postgres
            },
            wal: if primary {
                report.wal
            } else {
                WalReport::default()
            },
            running_backup: self.running(&pod.uid),
            ..report
        }
    }

    fn order(&self, pod: &PlayedPod, body: &[u8]) -> Response<Full<Bytes>> {
        let order: BackupOrder = match serde_json::from_slice(body) {
            Ok(order) => order,
            Err(error) => return refused(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string()),
        };
        if order.pod_uid.as_ref() != Some(&pod.uid) {
            return refused(
                StatusCode::PRECONDITION_FAILED,
                "the order is for another pod",
            );
        }
        let Some(id) = order.id else {
            return refused(StatusCode::UNPROCESSABLE_ENTITY, "the order has no id");
        };
        let mut backups = self.backups.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = (pod.uid.clone(), Instant::now());
        backups.entry(id.clone()).or_insert(begun);
        said(StatusCode::ACCEPTED, &BackupAccepted { id })
    }

    /// The backup that runs in a pod.
    fn running(&self, pod_uid: &str) -> Option<String> {
        let backups = self.backups.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = backups
            .iter()
            .filter(|(_, (uid, begun))| uid == pod_uid && begun.elapsed() < BACKUP);
        running.next().map(|(id, _)| id.clone())
    }

    fn backup(&self, id: &str) -> Option<BackupStatus> {
        let backups = self.backups.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, begun) = backups.get(id)?;
        let complete = begun.elapsed() >= BACKUP;
        let now = Timestamp::now();
        let state = if complete {
            ConditionStatus::True
        } else {
            ConditionStatus::False
        };
        Some(BackupStatus {
            id: id.to_owned(),
            r#type: "Full".to_owned(),
            timeline: Some(1),
            start_time: Some(now),
            completion_time: complete.then_some(now),
            progress: (!complete).then(|| ProgressStatus::new(1, 2)),
            repositories: vec![BackupRepository {
                name: REPOSITORY.to_owned(),
                ..BackupRepository::default()
            }],
            conditions: vec![
                Condition::new("Started", ConditionStatus::True, "Started", ""),
                Condition::new("Complete", state, "Played", ""),
            ],
            ..BackupStatus::default()
        })
    }
}

fn said(code: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    response
}

fn refused(code: StatusCode, why: &str) -> Response<Full<Bytes>> {
    let error = why.to_owned();
    said(code, &ErrorBody { error })
}
