use super::*;
use crate::authority::{Authorities, Keyring, Signed};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::convert::Infallible;
use std::sync::Mutex;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Answers every request with one answer, and remembers what was asked.
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn keyring() -> Keyring {
    let now = Timestamp::now();
    Keyring::new(Authorities::generate(now).unwrap(), now).unwrap()
}

fn acceptor(keyring: &Keyring, signed: &Signed) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let certificates = |pem: &str| -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(pem.as_bytes())
            .map(Result::unwrap)
            .collect()
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(keyring.bundle()));
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(signed.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&signed.certificate), key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn server(keyring: &Keyring, archive: &Key, status: u16, body: &str) -> Server {
    let signed = keyring.sidecar(archive, None, Timestamp::now()).unwrap();
    let acceptor = acceptor(keyring, &signed);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (body, log) = (Bytes::from(body.to_owned()), asked.clone());
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, body, log) = (acceptor.clone(), body.clone(), log.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = service_fn(move |request: hyper::Request<Incoming>| {
                    let (body, log) = (body.clone(), log.clone());
                    async move {
                        let line = format!("{} {}", request.method(), request.uri());
                        let sent = request.into_body().collect().await.unwrap().to_bytes();
                        let sent = String::from_utf8_lossy(&sent).into_owned();
                        log.lock()
                            .unwrap()
                            .push(format!("{line} {sent}").trim_end().to_owned());
                        let answer = Response::builder()
                            .status(StatusCode::from_u16(status).unwrap())
                            .body(Full::new(body))
                            .unwrap();
                        Ok::<_, Infallible>(answer)
                    }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Server { port, asked, task }
}

fn client(keyring: Keyring, port: u16) -> SidecarClient {
    let keyring = watch::Sender::new(Arc::new(keyring)).subscribe();
    SidecarClient::new(keyring, Arc::new(Metrics::new())).on_port(port)
}

fn orders() -> Key {
    Key::new("shop", "orders")
}

fn sidecar() -> Sidecar {
    Sidecar {
        archive: orders(),
        address: "127.0.0.1".parse().unwrap(),
        pod_uid: "u0".into(),
    }
}

#[tokio::test]
async fn orders_name_their_pod_and_answers_are_read() {
    let keyring = keyring();
    let body = r#"{"id": "b", "type": "", "podUid": "u0", "lsn": "0/3000000", "order": "o", "done": true, "newField": 1}"#;
    let server = server(&keyring, &orders(), 200, body).await;
    let client = client(keyring, server.port);
    let id: BackupId = "b".parse().unwrap();
    let report = client.status(&sidecar()).await.unwrap();
    assert_eq!(report.pod_uid.as_deref(), Some("u0"));
    let order = BackupOrder {
        id: Some("b".into()),
        pod_uid: Some("another".into()),
        ..BackupOrder::default()
    };
    assert_eq!(client.start_backup(&sidecar(), &order).await.unwrap(), "b");
    assert_eq!(client.backup(&sidecar(), &id).await.unwrap().id, "b");
    client.cancel_backup(&sidecar(), &id).await.unwrap();
    assert_eq!(
        client.switch_wal(&sidecar()).await.unwrap().lsn,
        "0/3000000"
    );
    assert!(client.drain(&sidecar()).await.unwrap().done);
    assert_eq!(client.restore(&sidecar(), "o").await.unwrap(), "o");
    assert_eq!(
        *server.asked.lock().unwrap(),
        [
            "GET /v1/status",
            r#"POST /v1/backups {"type":"Auto","id":"b","podUid":"u0"}"#,
            "GET /v1/backups/b",
            "DELETE /v1/backups/b",
            r#"POST /v1/switch-wal {"podUid":"u0"}"#,
            r#"POST /v1/drain {"podUid":"u0"}"#,
            r#"POST /v1/restore {"order":"o","podUid":"u0"}"#,
        ]
    );
}

#[tokio::test]
async fn a_refusal_says_why_and_nonsense_is_told() {
    let keys = keyring();
    let long = format!(r#"{{"error": "{}"}}"#, "x".repeat(LONG));
    const LONG: usize = 300 << 10;
    for (status, body, words, permanent) in [
        (
            409,
            r#"{"error": "a backup\n runs"}"#,
            "refused: a backup runs (409)",
            false,
        ),
        (404, "", "refused: Not Found (404)", true),
        (
            412,
            r#"{"error": "another pod"}"#,
            "another pod (412)",
            true,
        ),
        (500, "<html>", "<html> (500)", false),
        (200, "nonsense", "can't be understood", false),
        (200, r#"{"wal": 7}"#, "can't be understood", false),
        (200, long.as_str(), "length limit exceeded", false),
    ] {
        let server = server(&keys, &orders(), status, body).await;
        let client = client(
            Keyring::new(keys.authorities().clone(), Timestamp::now()).unwrap(),
            server.port,
        );
        let error = client.status(&sidecar()).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.is_permanent(), permanent, "{error}");
    }
}

#[tokio::test]
async fn only_the_right_sidecar_of_the_right_installation_is_spoken_to() {
    let keys = keyring();
    let again = || Keyring::new(keys.authorities().clone(), Timestamp::now()).unwrap();
    let report = r#"{"podUid": "u1"}"#;
    // Another archive's, a stranger's, and that of a pod that has taken over the address.
    let other = server(&keys, &Key::new("shop", "other"), 200, report).await;
    let error = client(again(), other.port)
        .status(&sidecar())
        .await
        .unwrap_err();
    assert!(matches!(error, SidecarError::Unreachable { .. }), "{error}");
    assert!(other.asked.lock().unwrap().is_empty());

    let stranger = keyring();
    let strange = server(&stranger, &orders(), 200, report).await;
    let error = client(again(), strange.port)
        .status(&sidecar())
        .await
        .unwrap_err();
    assert!(matches!(error, SidecarError::Unreachable { .. }), "{error}");

    let successor = server(&keys, &orders(), 200, report).await;
    let error = client(again(), successor.port)
        .status(&sidecar())
        .await
        .unwrap_err();
    assert!(error.is_other_pod(), "{error}");
}

#[tokio::test]
async fn nobody_there_is_told_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let begin = std::time::Instant::now();
    // Accepts and never speaks.
    let error = client(keyring(), port)
        .status(&sidecar())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, SidecarError::Unreachable { .. }),
        "{error}"
    );
    assert!(begin.elapsed() < Duration::from_secs(10));
    drop(listener);
    let error = client(keyring(), port)
        .status(&sidecar())
        .await
        .unwrap_err();
    assert!(matches!(error, SidecarError::Unreachable { .. }), "{error}");
}
