//! One request on one connection: hundreds of idle ones would cost more memory than a handshake costs time.

use super::error::SidecarError;
use crate::text;
use bytes::Bytes;
use holdfast_protocol::control::ErrorBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// For the connection and the handshake.
const CONNECT: Duration = Duration::from_secs(3);

/// For all of it, as a rule. A WAL switch waits for the server.
pub(super) const WHOLE: Duration = Duration::from_secs(15);

/// A report may hold history files.
const LARGEST_ANSWER: usize = 256 << 10;

/// No head of ours comes near it.
const LARGEST_HEAD: usize = 16 << 10;

pub(super) struct Request<'a> {
    pub tls: Arc<ClientConfig>,
    pub address: SocketAddr,
    /// Who it must be.
    pub name: String,
    pub method: Method,
    pub path: &'a str,
    /// JSON, or nothing.
    pub body: Vec<u8>,
    /// For all of it.
    pub within: Duration,
}

impl Request<'_> {
    /// The body of the answer, if it says success.
    pub async fn send(self) -> Result<Vec<u8>, SidecarError> {
        let (address, within) = (self.address, self.within);
        match tokio::time::timeout(within, self.exchange()).await {
            Ok(answer) => answer,
            Err(_) => Err(unreachable(
                address,
                format!("no answer within {} s", within.as_secs()),
            )),
        }
    }

    async fn exchange(self) -> Result<Vec<u8>, SidecarError> {
        let Self {
            tls,
            address,
            name,
            method,
            path,
            body,
            within: _,
        } = self;
        let protocol = |reason: String| SidecarError::Protocol {
            address: address.to_string(),
            reason,
        };
        let server = ServerName::try_from(name.clone()).map_err(|e| protocol(text::cause(&e)))?;
        let connected = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            TlsConnector::from(tls).connect(server, stream).await
        };
        let stream = match tokio::time::timeout(CONNECT, connected).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(address, text::cause(&error))),
            Err(_) => {
                return Err(unreachable(
                    address,
                    format!("no connection within {} s", CONNECT.as_secs()),
                ));
            }
        };
        let lost = |error: hyper::Error| unreachable(address, text::cause(&error));
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(LARGEST_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(lost)?;
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", name)
            .header("connection", "close")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| protocol(text::cause(&e)))?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(lost)?;
            read(address, answer).await
        };
        // Both on this task, so that nothing goes on when nobody waits.
        let mut connection = std::pin::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            ended = &mut connection => match ended {
                // What has been read from it is still there.
                Ok(()) => exchange.await,
                Err(error) => Err(lost(error)),
            },
        }
    }
}

async fn read(address: SocketAddr, answer: Response<Incoming>) -> Result<Vec<u8>, SidecarError> {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LARGEST_ANSWER)
        .collect()
        .await
        .map_err(|error| SidecarError::Protocol {
            address: address.to_string(),
            reason: text::cause(error.as_ref()),
        })?
        .to_bytes();
    if status.is_success() {
        return Ok(body.into());
    }
    Err(refused(status, &body))
}

fn refused(status: StatusCode, body: &[u8]) -> SidecarError {
    let message = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(body) => text::line(&body.error),
        Err(_) => text::line(&String::from_utf8_lossy(body)),
    };
    SidecarError::Refused {
        code: status.as_u16(),
        message: if message.is_empty() {
            status.canonical_reason().unwrap_or("no reason").to_owned()
        } else {
            message
        },
    }
}

fn unreachable(address: SocketAddr, reason: String) -> SidecarError {
    SidecarError::Unreachable {
        address: address.to_string(),
        reason,
    }
}
