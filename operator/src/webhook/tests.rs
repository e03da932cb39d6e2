//! The server as the API server and others meet it: over TLS, on a real socket.

use super::*;
use crate::inject::InjectSettings;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

const NAME: &str = "holdfast-webhook.holdfast-system.svc";
const SOON: Duration = Duration::from_secs(20);

fn certificate() -> (CertificateDer<'static>, Arc<ServerConfig>) {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let certificate = made.cert.der().clone();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    (certificate, Arc::new(config))
}

struct Served {
    address: SocketAddr,
    trusted: CertificateDer<'static>,
    certificates: watch::Sender<Arc<ServerConfig>>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

type Stream = TlsStream<TcpStream>;

impl Served {
    async fn start(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (trusted, config) = certificate();
        let (certificates, receiver) = watch::channel(config);
        let webhook = Webhook {
            settings: Arc::new(InjectSettings {
                image: "holdfast:1".to_owned(),
                pull_policy: Default::default(),
                memory: "256Mi".parse().unwrap(),
            }),
            metrics: Metrics::register(&mut Registry::default()),
        };
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone().cancelled_owned();
        let task = tokio::spawn(serve(listener, receiver, webhook, limits, stop));
        Self {
            address,
            trusted,
            certificates,
            shutdown,
            task,
        }
    }

    async fn connect(&self) -> std::io::Result<Stream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.trusted.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(NAME).unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }

    async fn client(&self) -> SendRequest<Body> {
        let stream = TokioIo::new(self.connect().await.unwrap());
        let (client, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// A pod is let in, with a sidecar, soon.
    async fn works(&self) {
        let mut client = timeout(SOON, self.client()).await.unwrap();
        lets_in(&mut client).await;
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(SOON, self.task).await.unwrap().unwrap();
    }
}

fn review() -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "1",
            "operation": "CREATE",
            "namespace": "shop",
            "object": {
                "metadata": {"name": "db-0", "labels": {"holdfast.dev/archive": "orders"}},
                "spec": {
                    "containers": [{"name": "db", "image": "postgres:17",
                        "volumeMounts": [{"name": "data", "mountPath": "/var/lib/postgresql/data"}]}],
                    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
                },
            },
        },
    })
}

fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path)
        .header("host", NAME)
        .header("content-type", "application/json")
        .body(body.into())
        .unwrap()
}

async fn send(client: &mut SendRequest<Body>, request: Request<Body>) -> (StatusCode, Bytes) {
    timeout(SOON, async {
        client.ready().await.unwrap();
        let response = client.send_request(request).await.unwrap();
        let status = response.status();
        (
            status,
            response.into_body().collect().await.unwrap().to_bytes(),
        )
    })
    .await
    .unwrap()
}

async fn lets_in(client: &mut SendRequest<Body>) {
    let (status, body) = send(client, post(PATH, review().to_string())).await;
    assert_eq!(status, StatusCode::OK);
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["response"]["allowed"], true);
    assert!(answer["response"]["patch"].is_string());
}

#[tokio::test]
async fn one_connection_asks_many_times() {
    let served = Served::start(Limits::default()).await;
    let mut client = served.client().await;
    for _ in 0..3 {
        lets_in(&mut client).await;
    }
    // The API server appends what it waits at most.
    let (status, _) = send(
        &mut client,
        post("/inject?timeout=10s", review().to_string()),
    )
    .await;
    assert_eq!(status, StatusCode::OK);
    served.stop().await;
}

#[tokio::test]
async fn what_is_no_question_is_turned_away_and_the_connection_goes_on() {
    let served = Served::start(Limits::default()).await;
    let mut client = served.client().await;
    let get = Request::get(PATH)
        .header("host", NAME)
        .body(Body::empty())
        .unwrap();
    let nested = "[".repeat(100_000);
    for (request, expected) in [
        (get, StatusCode::METHOD_NOT_ALLOWED),
        (post("/", "{}"), StatusCode::NOT_FOUND),
        (post(PATH, ""), StatusCode::BAD_REQUEST),
        (post(PATH, "{"), StatusCode::BAD_REQUEST),
        (post(PATH, nested), StatusCode::BAD_REQUEST),
        (post(PATH, vec![0xff; 1000]), StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(send(&mut client, request).await.0, expected);
        lets_in(&mut client).await;
    }
    served.stop().await;
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let limits = Limits {
        body: 100_000,
        ..Limits::default()
    };
    let served = Served::start(limits).await;
    for head in ["content-length: 1000000000", "transfer-encoding: chunked"] {
        let mut stream = served.connect().await.unwrap();
        let request = format!("POST {PATH} HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let chunk = format!("{:x}\r\n{}\r\n", 10_000, "x".repeat(10_000));
        let answered = timeout(SOON, async {
            // Until it does not take more.
            for _ in 0..100_000 {
                if stream.write_all(chunk.as_bytes()).await.is_err() {
                    break;
                }
            }
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
        });
        answered.await.unwrap();
        served.works().await;
    }
    let mut client = served.client().await;
    let (status, _) = send(&mut client, post(PATH, "x".repeat(100_001))).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    served.stop().await;
}

#[tokio::test]
async fn many_bodies_at_once_wait_for_each_other() {
    let limits = Limits {
        body: 50_000,
        bodies: 60_000,
        ..Limits::default()
    };
    let served = Served::start(limits).await;
    let mut asked = Vec::new();
    for _ in 0..20 {
        let mut client = served.client().await;
        let mut review = review();
        review["request"]["object"]["metadata"]["annotations"] = json!({"x": "y".repeat(30_000)});
        asked.push(tokio::spawn(async move {
            send(&mut client, post(PATH, review.to_string())).await.0
        }));
    }
    for answered in asked {
        assert_eq!(answered.await.unwrap(), StatusCode::OK);
    }
    served.stop().await;
}

#[tokio::test]
async fn garbage_and_silence_keep_nobody_out() {
    let limits = Limits {
        connections: 4,
        ..Limits::default()
    };
    let served = Served::start(limits).await;
    let mut silent = Vec::new();
    for round in 0..20 {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        if round % 2 == 0 {
            stream
                .write_all(b"GET / HTTP/1.1\r\n\r\n\0\xff")
                .await
                .unwrap();
        }
        silent.push(stream);
        // Half a request, over TLS.
        if let Ok(mut stream) = served.connect().await {
            let _ = stream
                .write_all(b"POST /inject HTTP/1.1\r\nhost: x\r\n")
                .await;
        }
    }
    let began = Instant::now();
    served.works().await;
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "it waited for a time limit"
    );
    served.stop().await;
}

#[tokio::test]
async fn who_dawdles_is_cut_off() {
    let limits = Limits {
        handshake: Duration::from_millis(200),
        head: Duration::from_millis(200),
        request: Duration::from_millis(200),
        ..Limits::default()
    };
    let served = Served::start(limits).await;
    let mut no_handshake = TcpStream::connect(served.address).await.unwrap();
    let mut no_request = served.connect().await.unwrap();
    let mut half_head = served.connect().await.unwrap();
    half_head
        .write_all(b"POST /inject HTTP/1.1\r\nhost")
        .await
        .unwrap();
    let mut half_body = served.connect().await.unwrap();
    let head = b"POST /inject HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{";
    half_body.write_all(head).await.unwrap();
    let mut told = Vec::new();
    timeout(SOON, async {
        let _ = no_handshake.read_to_end(&mut Vec::new()).await;
        let _ = no_request.read_to_end(&mut Vec::new()).await;
        let _ = half_head.read_to_end(&mut Vec::new()).await;
        let _ = half_body.read_to_end(&mut told).await;
    })
    .await
    .unwrap();
    assert!(
        told.starts_with(b"HTTP/1.1 408"),
        "{}",
        String::from_utf8_lossy(&told)
    );
    served.works().await;
    served.stop().await;
}

#[tokio::test]
async fn a_new_certificate_is_used_from_the_next_connection_on() {
    let mut served = Served::start(Limits::default()).await;
    let mut before = served.client().await;
    lets_in(&mut before).await;
    let (trusted, config) = certificate();
    served.certificates.send(config).unwrap();
    assert!(served.connect().await.is_err(), "the old one is still used");
    served.trusted = trusted;
    served.works().await;
    // What was open goes on.
    lets_in(&mut before).await;
    served.stop().await;
}

#[tokio::test]
async fn what_was_asked_before_the_end_is_answered() {
    let served = Served::start(Limits::default()).await;
    let idle = served.client().await;
    let mut stream = served.connect().await.unwrap();
    let body = review().to_string();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body.as_bytes()[..10]).await.unwrap();
    sleep(Duration::from_millis(200)).await;
    served.shutdown.cancel();
    sleep(Duration::from_millis(200)).await;
    assert!(idle.is_closed());
    assert!(TcpStream::connect(served.address).await.is_err());
    stream.write_all(&body.as_bytes()[10..]).await.unwrap();
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    timeout(SOON, served.task).await.unwrap().unwrap();
}
