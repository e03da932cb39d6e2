//! Uploads on their way before they may arrive: all of an object but its last byte is sent, and that byte when it may exist.
//!
//! A store makes an object of a request's whole body, and nothing of less. So of objects that must come to exist one after
//! the other, each can be sent while the one before is still being stored: only the answers take turns.

use super::open::{CONNECT_TIMEOUT, READ_TIMEOUT, USER_AGENT};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http_body_util::BodyExt;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService, ReqwestConnector,
};
use object_store::{ClientOptions, Extensions, HeaderValue};
use reqwest::header::CONTENT_LENGTH;
use reqwest::redirect::Policy;
use std::io;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// MinIO holds back who reads the object's key as long as it is being sent, and S3 gives up a connection on which nothing comes
/// for some twenty seconds.
const LONGEST: Duration = Duration::from_secs(3);

/// Makes an upload wait for its last byte.
pub fn withhold() -> (Release, Withheld) {
    let (send, receive) = watch::channel(false);
    (Release(send), Withheld(receive))
}

/// Lets the last byte go. Dropped before, it never goes.
#[derive(Debug)]
pub struct Release(watch::Sender<bool>);

impl Release {
    /// From now on the object may exist.
    pub fn go(&self) {
        self.0.send_replace(true);
    }
}

/// An upload's last byte.
#[derive(Debug, Clone)]
pub struct Withheld(watch::Receiver<bool>);

impl Withheld {
    /// Returns once it may go; false: it never will.
    pub async fn released(&self) -> bool {
        self.0.clone().wait_for(|go| *go).await.is_ok()
    }

    pub(super) fn extensions(&self) -> Extensions {
        let mut extensions = Extensions::new();
        extensions.insert(self.clone());
        extensions
    }

    /// The last byte of a body, in its time.
    async fn last(self, last: Bytes) -> io::Result<Bytes> {
        match timeout(LONGEST, self.released()).await {
            Ok(true) => Ok(last),
            _ => Err(io::Error::other("its turn has not come")),
        }
    }
}

/// Sends requests as `object_store` does by itself, but for those that carry a [`Withheld`].
#[derive(Debug, Clone)]
pub(super) struct Connector {
    /// PEM certificates that are trusted besides the system's.
    pub(super) ca: Option<Vec<u8>>,
    /// False accepts any certificate.
    pub(super) verify_tls: bool,
}

impl Connector {
    /// Set up as `object_store` sets up its own, which it does not give away.
    fn client(&self) -> reqwest::Result<reqwest::Client> {
        let trusted = self
            .ca
            .as_deref()
            .map(reqwest::Certificate::from_pem_bundle);
        reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .redirect(Policy::none())
            .http1_only()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .tls_certs_merge(trusted.transpose()?.unwrap_or_default())
            .danger_accept_invalid_certs(!self.verify_tls)
            .build()
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let plain = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Service {
            plain,
            settings: self.clone(),
            client: OnceLock::new(),
        }))
    }
}

#[derive(Debug)]
struct Service {
    plain: HttpClient,
    settings: Connector,
    /// Made when it is needed first: most stores that are opened upload nothing so.
    client: OnceLock<reqwest::Client>,
}

#[async_trait::async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let Some(withheld) = request.extensions().get::<Withheld>().cloned() else {
            return self.plain.execute(request).await;
        };
        // Whatever is wrong, it is sent again in its turn, by the other client, which knows what passes. So none of it is tried
        // again here, as `object_store` would what is overloaded.
        let failed = |e: reqwest::Error| HttpError::new(HttpErrorKind::Unknown, e.without_url());
        let client = match self.client.get() {
            Some(client) => client,
            None => {
                let client = self.settings.client().map_err(failed)?;
                self.client.get_or_init(|| client)
            }
        };
        let (mut parts, body) = request.into_parts();
        let length = HeaderValue::from(body.content_length());
        parts.headers.insert(CONTENT_LENGTH, length);
        let mut pieces: Vec<Bytes> = body.into_data_stream().try_collect().await?;
        pieces.retain(|piece| !piece.is_empty());
        let last = pieces
            .last_mut()
            .map(|piece| piece.split_off(piece.len().saturating_sub(1)));
        let last = stream::iter(last).then(move |last| withheld.clone().last(last));
        let body = stream::iter(pieces.into_iter().map(Ok)).chain(last);
        let request = client
            .request(parts.method, parts.uri.to_string())
            .headers(parts.headers)
            .body(reqwest::Body::wrap_stream(body));
        let answer = http::Response::from(request.send().await.map_err(failed)?);
        let status = answer.status();
        if !status.is_success() && !matches!(status.as_u16(), 409 | 412) {
            let refused = io::Error::other(format!("the store answered {status}"));
            return Err(HttpError::new(HttpErrorKind::Unknown, refused));
        }
        Ok(answer.map(|body| HttpResponseBody::new(body.map_err(failed))))
    }
}
