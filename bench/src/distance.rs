//! A store that is further away: a proxy on loopback that passes everything on unchanged, later, and as fast as it comes.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

/// Read at once.
const PIECE: usize = 256 << 10;
/// On their way, each way, of a connection: a gigabyte at most, which no loopback fills in any latency that is measured.
const PIECES: usize = 4096;

/// The proxy, until it is dropped.
#[derive(Debug)]
pub struct Distance {
    endpoint: String,
    listens: JoinHandle<()>,
}

impl Distance {
    /// In front of an endpoint such as `https://127.0.0.1:9000`. A request and its answer take `round_trip` longer, and so
    /// does to connect.
    pub async fn before(endpoint: &str, round_trip: Duration) -> Result<Self> {
        let (scheme, address) = endpoint.split_once("://").context("a scheme")?;
        let (scheme, address) = (scheme.to_owned(), address.to_owned());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let listens = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // What becomes of a connection is its two ends' to notice.
                tokio::spawn(carry(client, address.clone(), round_trip));
            }
        });
        Ok(Self {
            endpoint: format!("{scheme}://127.0.0.1:{port}"),
            listens,
        })
    }

    /// Its own address.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

impl Drop for Distance {
    fn drop(&mut self) {
        self.listens.abort();
    }
}

async fn carry(client: TcpStream, address: String, round_trip: Duration) -> Result<()> {
    let store = TcpStream::connect(address).await?;
    client.set_nodelay(true)?;
    store.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_store, to_store) = store.into_split();
    let there = async {
        // The kernel has accepted the connection at once: what it would have taken is waited for here.
        sleep(round_trip).await;
        pass(from_client, to_store, round_trip / 2).await
    };
    tokio::try_join!(there, pass(from_store, to_client, round_trip / 2)).map(drop)
}

/// Until the end, which is passed on as well.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    delay: Duration,
) -> Result<()> {
    let (send, mut receive) = mpsc::channel::<(Instant, Bytes)>(PIECES);
    let reads = async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            if from.read_buf(&mut buffer).await? == 0 {
                return anyhow::Ok(());
            }
            let due = Instant::now() + delay;
            send.send((due, buffer.split().freeze())).await?;
        }
    };
    let writes = async {
        while let Some((due, bytes)) = receive.recv().await {
            sleep_until(due).await;
            to.write_all(&bytes).await?;
        }
        to.shutdown().await?;
        anyhow::Ok(())
    };
    tokio::try_join!(reads, writes).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_passes_unchanged() -> Result<()> {
        let store = TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("http://{}", store.local_addr()?);
        let distance = Distance::before(&endpoint, Duration::from_millis(20)).await?;
        let echo = tokio::spawn(async move {
            let (mut stream, _) = store.accept().await?;
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await?;
            stream.write_all(&all).await
        });
        let address = distance.endpoint().strip_prefix("http://").unwrap();
        let mut client = TcpStream::connect(address).await?;
        let sent: Vec<u8> = (0..5_000_000u32).map(|n| (n / 7) as u8).collect();
        client.write_all(&sent).await?;
        client.shutdown().await?;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await?;
        assert!(answer == sent, "{} bytes of {}", answer.len(), sent.len());
        echo.await??;
        Ok(())
    }
}
