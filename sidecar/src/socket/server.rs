//! Accepts connections and answers them, within bounds.

use super::bind::BoundSocket;
use super::protocol::{LONGEST_REQUEST, Request, line};
use super::service::{RestoreAnswer, WalService};
use bytes::Bytes;
use futures::StreamExt;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, timeout};

/// The server's bounds.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Served at once; more wait in the kernel's queue.
    pub connections: usize,
    /// For a client to say what it wants.
    pub request: Duration,
    /// Between two `WAIT` lines.
    pub heartbeat: Duration,
    /// For a client to take what is sent to it.
    pub write: Duration,
    /// For the requests under way, once the server is to end.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            // Below the client's patience of 20 s, so that idle connections can't make a real one wait too long.
            request: Duration::from_secs(10),
            heartbeat: Duration::from_secs(5),
            write: Duration::from_secs(30),
            drain: Duration::from_secs(60),
        }
    }
}

/// Serves until `shutdown` is ready, then removes the socket's file, finishes the requests under way as far as
/// `limits.drain` allows, and returns how many were cut off.
pub async fn serve<S: WalService>(
    socket: BoundSocket,
    service: Arc<S>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> usize {
    let (listener, file) = socket.into_parts();
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            (slot, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let (service, limits) = (service.clone(), limits.clone());
                    connections.spawn(async move {
                        let _slot = slot;
                        if let Err(error) = answer(stream, &*service, &limits).await {
                            tracing::debug!(%error, "a client of the WAL socket went away");
                        }
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: going round at once would only burn the processor.
                    tracing::warn!(%error, "the WAL socket can't accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    // The file goes first: a client that comes now waits for the next sidecar.
    drop(file);
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(limits.drain, drained).await;
    let cut_off = connections.len();
    connections.shutdown().await;
    cut_off
}

async fn answer<S: WalService>(
    mut stream: UnixStream,
    service: &S,
    limits: &Limits,
) -> io::Result<()> {
    let request = match timeout(limits.request, read_line(&mut stream)).await {
        Ok(Ok(Some(line))) => Request::parse(&line),
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    let request = match request {
        Ok(request) => request,
        Err(error) => return finish(&mut stream, &line("ERROR", &error.to_string()), limits).await,
    };
    match &request {
        Request::Archive { name, path } => {
            let work = service.archive(name, path);
            let reply = match with_heartbeat(&mut stream, &request, work, limits).await? {
                Ok(text) => line("OK", &text),
                Err(why) => {
                    tracing::warn!(name, why, "not archived");
                    line("ERROR", &why)
                }
            };
            finish(&mut stream, &reply, limits).await
        }
        Request::Restore { name } => {
            let work = service.restore(name);
            match with_heartbeat(&mut stream, &request, work, limits).await? {
                RestoreAnswer::Found { length, body } => {
                    let sent = send_body(&mut stream, length, body, limits).await;
                    if let Err(error) = &sent {
                        tracing::warn!(name, %error, "not sent whole");
                    }
                    sent
                }
                RestoreAnswer::Absent => finish(&mut stream, "ABSENT\n", limits).await,
                RestoreAnswer::Trouble(why) => {
                    tracing::warn!(name, why, "not restored");
                    finish(&mut stream, &line("ERROR", &why), limits).await
                }
            }
        }
        Request::Status => {
            let work = service.status();
            let status = with_heartbeat(&mut stream, &request, work, limits).await?;
            finish(&mut stream, &line("OK", &status.to_string()), limits).await
        }
        Request::Order => {
            let order = service.let_go().to_string();
            finish(&mut stream, &line("OK", &order), limits).await
        }
    }
}

/// The first line, without its newline; none if the client left before it said one. What follows is not read.
async fn read_line(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut received = Vec::new();
    loop {
        let mut piece = [0; 512];
        let n = stream.read(&mut piece).await?;
        let piece = piece.get(..n).unwrap_or_default();
        if let Some(end) = piece.iter().position(|b| *b == b'\n') {
            received.extend(piece.iter().take(end));
            return Ok(Some(received));
        }
        received.extend_from_slice(piece);
        // Longer than any request: whatever comes now, the parser refuses it.
        if received.len() > LONGEST_REQUEST {
            return Ok(Some(received));
        }
        if n == 0 {
            return Ok((!received.is_empty()).then_some(received));
        }
    }
}

/// Waits for `work` and tells the client, now and then, that it is under way. A client that has gone ends it.
async fn with_heartbeat<T>(
    stream: &mut UnixStream,
    request: &Request,
    work: impl Future<Output = T>,
    limits: &Limits,
) -> io::Result<T> {
    let mut work = pin!(work);
    let mut beat = interval_at(Instant::now() + limits.heartbeat, limits.heartbeat);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            _ = beat.tick() => {
                write(stream, line("WAIT", &request.describe()).as_bytes(), limits).await?;
            }
        }
    }
}

/// Sends the length and the bytes. The last piece waits until the stream has ended without an error, so that a client
/// never holds `length` bytes of a file that turned out to be damaged.
async fn send_body(
    stream: &mut UnixStream,
    length: u64,
    mut body: futures::stream::BoxStream<'static, io::Result<Bytes>>,
    limits: &Limits,
) -> io::Result<()> {
    write(stream, format!("OK {length}\n").as_bytes(), limits).await?;
    let mut sent = 0u64;
    let mut held: Option<Bytes> = None;
    while let Some(piece) = body.next().await {
        let piece = piece?;
        if piece.is_empty() {
            continue;
        }
        if let Some(previous) = held.replace(piece) {
            sent += previous.len() as u64;
            // Something follows, so this can't be the file's end.
            if sent >= length {
                return Err(io::Error::other(format!("more than {length} bytes")));
            }
            write(stream, &previous, limits).await?;
        }
    }
    let last = held.unwrap_or_default();
    sent += last.len() as u64;
    if sent != length {
        return Err(io::Error::other(format!("{sent} of {length} bytes")));
    }
    write(stream, &last, limits).await?;
    timeout(limits.write, stream.shutdown()).await?
}

async fn finish(stream: &mut UnixStream, reply: &str, limits: &Limits) -> io::Result<()> {
    write(stream, reply.as_bytes(), limits).await?;
    timeout(limits.write, stream.shutdown()).await?
}

async fn write(stream: &mut UnixStream, bytes: &[u8], limits: &Limits) -> io::Result<()> {
    timeout(limits.write, stream.write_all(bytes)).await?
}
