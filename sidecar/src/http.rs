//! Serves HTTP within bounds, over whatever connections come.

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Where connections come from.
pub trait Transport: Send + Sync + 'static {
    /// As it is accepted.
    type Raw: Send + 'static;
    /// As it is spoken over.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// For messages.
    const NAME: &'static str;

    /// The next. Safe to drop.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Raw>> + Send;

    /// From one to the other: a handshake, where there is one.
    fn open(&self, raw: Self::Raw) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// The server's bounds.
#[derive(Debug, Clone)]
pub struct Limits {
    /// In their handshake at once; more wait in the kernel's queue. Who has not said who he is takes no place from
    /// those who have.
    pub opening: usize,
    /// Served at once.
    pub connections: usize,
    /// For a handshake.
    pub handshake: Duration,
    /// For a client to send a request's head.
    pub head: Duration,
    /// For one connection, of one request; no answer takes long.
    pub connection: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            opening: 64,
            connections: 16,
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(10),
            connection: Duration::from_secs(60),
        }
    }
}

/// No request's head is larger, in bytes.
const LARGEST_HEAD: usize = 16 << 10;

/// Serves until `shutdown` is ready, then ends the connections.
pub async fn serve<T: Transport>(
    transport: T,
    router: Router,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let transport = Arc::new(transport);
    let opening = Arc::new(Semaphore::new(limits.opening));
    let serving = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            let slot = opening.clone().acquire_owned().await;
            (slot, transport.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            (slot, accepted) = accepted => match accepted {
                Ok(raw) => {
                    let (transport, serving) = (transport.clone(), serving.clone());
                    let (router, limits) = (router.clone(), limits.clone());
                    connections.spawn(async move {
                        let stream = match timeout(limits.handshake, transport.open(raw)).await {
                            Ok(Ok(stream)) => stream,
                            Ok(Err(error)) => {
                                tracing::debug!(%error, "a client of the {} is refused", T::NAME);
                                return;
                            }
                            Err(_) => return,
                        };
                        let _serving = serving.acquire_owned().await;
                        drop(slot);
                        answer(stream, router, &limits).await;
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: going round at once would only burn the processor.
                    tracing::warn!(%error, "the {} can't accept a connection", T::NAME);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    connections.shutdown().await;
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    limits: &Limits,
) {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(LARGEST_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A client that leaves or dawdles is its own affair.
    let _ = timeout(limits.connection, connection).await;
}

/// Listens. Where `[::]` is asked for and there is no IPv6, on all of IPv4.
///
/// # Errors
/// The kernel's.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && no_ipv6(&error) => {
            let all = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
            TcpListener::bind(all).await
        }
        done => done,
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    let code = error
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error);
    matches!(
        code,
        Some(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL)
    )
}

/// Plain HTTP over TCP.
#[derive(Debug)]
pub struct Plain(pub TcpListener);

impl Transport for Plain {
    type Raw = TcpStream;
    type Stream = TcpStream;
    const NAME: &'static str = "monitoring port";

    async fn accept(&self) -> io::Result<TcpStream> {
        Ok(self.0.accept().await?.0)
    }

    async fn open(&self, raw: TcpStream) -> io::Result<TcpStream> {
        Ok(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_ipv6_all_of_ipv4_is_listened_on() {
        for (errno, expected) in [
            (rustix::io::Errno::AFNOSUPPORT, true),
            (rustix::io::Errno::ADDRNOTAVAIL, true),
            (rustix::io::Errno::ADDRINUSE, false),
            (rustix::io::Errno::ACCESS, false),
        ] {
            assert_eq!(no_ipv6(&errno.into()), expected, "{errno}");
        }
        let listener = listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0))
            .await
            .unwrap();
        let taken = listen(listener.local_addr().unwrap()).await.unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }
}
