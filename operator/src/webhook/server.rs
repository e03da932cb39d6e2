//! HTTPS: connections within bounds, each with the certificate of the moment.

use super::metrics::Metrics;
use super::respond::{Shared, router};
use super::slots::{Slot, Slots};
use crate::inject::InjectSettings;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// The certificate and its key, as they are now. Each connection takes what it finds: those that are open go on.
/// HTTP/2 is not spoken, so the configuration must not offer it (ALPN).
pub type Certificates = watch::Receiver<Arc<ServerConfig>>;

/// What the webhook answers with.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// What is added to pods.
    pub settings: Arc<InjectSettings>,
    /// Counts.
    pub metrics: Metrics,
}

/// The server's bounds. The API server gives up after 10 s, unless the webhook's configuration says otherwise.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open at once.
    pub connections: usize,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For a request's head, and so between requests: longer than the 90 s after which the API server closes an idle
    /// connection, or a request could meet one that is just being closed.
    pub head: Duration,
    /// For a request's body to arrive.
    pub request: Duration,
    /// Of one request's body, in bytes: more than a pod in Kubernetes' store can be. Taken apart, one of nothing but
    /// brackets needs some 24 times as much.
    pub body: usize,
    /// Of all bodies that are being read, in bytes.
    pub bodies: usize,
    /// For what is being answered when the server is to stop.
    pub stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(120),
            request: Duration::from_secs(5),
            body: 2 << 20,
            bodies: 16 << 20,
            stop: Duration::from_secs(10),
        }
    }
}

/// Serves until `shutdown` is ready, then answers what was asked and returns. Cancel-safe: dropped, it closes all
/// connections.
pub async fn serve(
    listener: TcpListener,
    certificates: Certificates,
    webhook: Webhook,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let slots = Slots::new(limits.connections);
    let shared = Arc::new(Shared::new(webhook, limits.clone()));
    let stopping = CancellationToken::new();
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let Some(slot) = slots.take() else {
                        tracing::debug!("the webhook has no place for another connection");
                        continue;
                    };
                    let slot = Arc::new(slot);
                    let tls = TlsAcceptor::from(certificates.borrow().clone());
                    let connection = serve_one(stream, tls, slot.clone(), shared.clone(), limits.clone(), stopping.clone());
                    let cancelled = slot.cancelled();
                    connections.spawn(async move {
                        tokio::select! {
                            () = cancelled.cancelled() => {}
                            () = connection => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the webhook can't accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    stopping.cancel();
    let ended = async { while connections.join_next().await.is_some() {} };
    // What is not over by then is cut off.
    let _ = timeout(limits.stop, ended).await;
    connections.shutdown().await;
}

async fn serve_one(
    stream: TcpStream,
    tls: TlsAcceptor,
    slot: Arc<Slot>,
    shared: Arc<Shared>,
    limits: Limits,
    stopping: CancellationToken,
) {
    // An answer is one small write: it must not wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let stream = match timeout(limits.handshake, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake with the webhook failed");
            return;
        }
        Err(_) => return,
    };
    let service = TowerToHyperService::new(router(shared, slot));
    let mut connection = pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        // A client that leaves or dawdles is its own affair.
        _ = connection.as_mut() => {}
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
