//! The way to a store, which can be made bad: a proxy on loopback between a program and MinIO.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Nothing goes through, either way, until it is over.
    Blackhole,
    /// Every connection is reset.
    Reset,
    /// A few kilobytes at a time.
    Slow,
    /// An answer breaks off after its first bytes.
    HalfAnswers,
    /// The store carries the request out, and the answer says that it failed.
    FailsAfterwards,
}

/// All that can be wrong.
pub const FAULTS: [Fault; 5] = [
    Fault::Blackhole,
    Fault::Reset,
    Fault::Slow,
    Fault::HalfAnswers,
    Fault::FailsAfterwards,
];

const FAILED: &[u8] =
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
/// Of an answer that breaks off.
const HALF: usize = 60;
const SLOW: (usize, Duration) = (4096, Duration::from_millis(20));

/// The proxy, until it is dropped.
#[derive(Debug)]
pub struct Network {
    endpoint: String,
    fault: watch::Sender<Fault>,
    listens: JoinHandle<()>,
}

impl Network {
    /// In front of an endpoint such as `http://127.0.0.1:9000`.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn before(endpoint: &str) -> Result<Self> {
        let address = endpoint.strip_prefix("http://");
        let address = address.context("an endpoint without TLS")?.to_owned();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let fault = watch::Sender::new(Fault::None);
        let faults = fault.subscribe();
        let port = listener.local_addr()?.port();
        let listens = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // What becomes of a connection is its two ends' to notice.
                tokio::spawn(carry(client, address.clone(), faults.clone()));
            }
        });
        Ok(Self {
            endpoint: format!("http://127.0.0.1:{port}"),
            fault,
            listens,
        })
    }

    /// Its own address.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// From now on, also for connections that are open.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.listens.abort();
    }
}

async fn carry(mut client: TcpStream, address: String, faults: watch::Receiver<Fault>) {
    let Ok(mut store) = TcpStream::connect(address).await else {
        return reset(&client);
    };
    {
        let (from_client, to_client) = client.split();
        let (from_store, to_store) = store.split();
        tokio::select! {
            () = requests(from_client, to_store, faults.clone()) => {}
            () = answers(from_store, to_client, faults) => {}
        }
    }
    reset(&client);
}

/// So that the peer sees a reset when it is dropped, and no orderly end.
fn reset(client: &TcpStream) {
    let _ = client.set_zero_linger();
}

/// Waits until something goes through, and says what is wrong then.
async fn through(faults: &mut watch::Receiver<Fault>) -> Fault {
    match faults.wait_for(|fault| *fault != Fault::Blackhole).await {
        Ok(fault) => *fault,
        // The proxy is gone.
        Err(_) => Fault::Reset,
    }
}

async fn requests(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut faults: watch::Receiver<Fault>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let fault = *faults.borrow();
        let most = if fault == Fault::Slow {
            SLOW.0
        } else {
            buffer.len()
        };
        let read = from.read(buffer.get_mut(..most).unwrap_or_default()).await;
        let Ok(count @ 1..) = read else { return };
        match through(&mut faults).await {
            Fault::Reset => return,
            Fault::Slow => sleep(SLOW.1).await,
            _ => {}
        }
        let bytes = buffer.get(..count).unwrap_or_default();
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

async fn answers(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut faults: watch::Receiver<Fault>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        match through(&mut faults).await {
            Fault::Reset => return,
            Fault::HalfAnswers => {
                let half = bytes.get(..HALF.min(count)).unwrap_or_default();
                let _ = to.write_all(half).await;
                return;
            }
            // By now the store has done it.
            Fault::FailsAfterwards => {
                let _ = to.write_all(FAILED).await;
                return;
            }
            Fault::Slow => {
                for piece in bytes.chunks(SLOW.0) {
                    if to.write_all(piece).await.is_err() {
                        return;
                    }
                    sleep(SLOW.1).await;
                }
            }
            Fault::None | Fault::Blackhole => {
                if to.write_all(bytes).await.is_err() {
                    return;
                }
            }
        }
    }
}
