//! Who gets in over the network, and who does not.

use super::*;
use crate::config::Control;
use crate::control::tls::{Identity, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const SIDECAR: &str = "orders.shop.sidecar.holdfast.dev";
const OPERATOR: &str = "operator.holdfast.dev";

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Issuer {
    let mut parameters = CertificateParams::new([]).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for `name` and its key, in PEM.
fn signed(
    authority: &Issuer,
    name: &str,
    usage: ExtendedKeyUsagePurpose,
    last_year: i32,
) -> (String, String) {
    let mut parameters = CertificateParams::new([name.to_owned()]).unwrap();
    parameters.extended_key_usages = vec![usage];
    parameters.not_before = date_time_ymd(2000, 1, 1);
    parameters.not_after = date_time_ymd(last_year, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.signed_by(&key, authority).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn client_of(authority: &Issuer, name: &str) -> (String, String) {
    signed(authority, name, ExtendedKeyUsagePurpose::ClientAuth, 4000)
}

struct Served {
    folder: tempfile::TempDir,
    address: SocketAddr,
    identity: Arc<Identity>,
    control: Control,
    authority: Issuer,
    leave: Arc<Semaphore>,
}

impl Served {
    async fn begin(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let control = Control {
            listen: address,
            ca_file: folder.path().join("ca.crt"),
            certificate_file: folder.path().join("tls.crt"),
            key_file: folder.path().join("tls.key"),
        };
        let identity = Arc::new(Identity::default());
        let leave = Arc::new(Semaphore::new(0));
        let taker = Taker {
            leave: leave.clone(),
        };
        let backups = Arc::new(Backups::new(taker, None));
        tokio::spawn(serve(
            Tls::new(listener, identity.clone()),
            router(backups, Arc::new(Primary::default()), Caller::Remote),
            limits,
            std::future::pending(),
        ));
        let served = Self {
            folder,
            address,
            identity,
            control,
            authority: authority(),
            leave,
        };
        served.write(&served.authority, SIDECAR);
        served
    }

    async fn new() -> Self {
        let served = Self::begin(Limits::default()).await;
        served.identity.load(&served.control).unwrap();
        served
    }

    /// Puts certificates of an authority into the folder.
    fn write(&self, authority: &Issuer, name: &str) {
        let (certificate, key) = signed(authority, name, ExtendedKeyUsagePurpose::ServerAuth, 4000);
        fs::write(&self.control.ca_file, authority.pem()).unwrap();
        fs::write(&self.control.certificate_file, certificate).unwrap();
        fs::write(&self.control.key_file, key).unwrap();
    }

    fn client(&self) -> (String, String) {
        client_of(&self.authority, OPERATOR)
    }

    async fn connect(
        &self,
        authority: &Issuer,
        client: Option<(String, String)>,
    ) -> Result<TlsStream<TcpStream>, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from(SIDECAR).unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(|e| e.to_string())
    }

    /// Asks over TLS, as whoever holds that certificate, whom it takes for a sidecar of that authority.
    async fn ask(
        &self,
        authority: &Issuer,
        client: Option<(String, String)>,
        request: &str,
    ) -> Result<String, String> {
        let mut stream = self.connect(authority, client).await?;
        stream
            .write_all(request.as_bytes())
            .await
            .map_err(|e| e.to_string())?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer).await {
            Err(error) if answer.is_empty() => Err(error.to_string()),
            _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
        }
    }

    async fn status(&self, client: Option<(String, String)>) -> Result<String, String> {
        self.ask(&self.authority, client, STATUS).await
    }
}

const STATUS: &str = "GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn only_the_operator_gets_in() {
    let served = Served::new().await;
    let answer = served.status(Some(served.client())).await.unwrap();
    assert!(answer.contains("\"archive\":\"shop/orders\""), "{answer}");
    let ours = &served.authority;
    let usage = ExtendedKeyUsagePurpose::ClientAuth;
    for (who, client, told) in [
        ("nobody", None, "CertificateRequired"),
        ("another's", Some(client_of(&authority(), OPERATOR)), ""),
        (
            "another name",
            Some(client_of(ours, "someone.holdfast.dev")),
            "",
        ),
        (
            "a name below it",
            Some(client_of(ours, "x.operator.holdfast.dev")),
            "",
        ),
        ("a sidecar", Some(client_of(ours, SIDECAR)), ""),
        (
            "a sidecar's own certificate",
            Some(signed(
                ours,
                OPERATOR,
                ExtendedKeyUsagePurpose::ServerAuth,
                4000,
            )),
            "",
        ),
        (
            "expired",
            Some(signed(ours, OPERATOR, usage, 2020)),
            "Expired",
        ),
    ] {
        let refused = served.status(client).await;
        let why = refused.expect_err(who);
        assert!(why.contains("alert") && why.contains(told), "{who}: {why}");
    }
    assert!(served.status(Some(served.client())).await.is_ok());
}

#[tokio::test]
async fn an_order_over_the_network_names_its_pod() {
    let served = Served::new().await;
    for (body, code) in [
        ("{}", "412"),
        ("{\"podUid\": \"uid-2\"}", "412"),
        ("{\"podUid\": \"uid-1\"}", "200"),
    ] {
        let request = post("switch-wal", body);
        let answer = served
            .ask(&served.authority, Some(served.client()), &request)
            .await
            .unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{answer}");
    }
}

#[tokio::test]
async fn what_is_no_tls_is_no_trouble() {
    let served = Served::new().await;
    for garbage in [STATUS.as_bytes(), b"\x16\x03\x01\xff\xff", b"", &[0; 9000]] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.contains("HTTP/1.1"), "{text}");
    }
    assert!(served.status(Some(served.client())).await.is_ok());
}

/// Those who never say who they are are let go in time, and take no place from those who do.
#[tokio::test]
async fn idle_connections_end() {
    let limits = Limits {
        opening: 2,
        handshake: Duration::from_millis(200),
        ..Limits::default()
    };
    let served = Served::begin(limits).await;
    served.identity.load(&served.control).unwrap();
    let mut idle = Vec::new();
    for _ in 0..6 {
        idle.push(TcpStream::connect(served.address).await.unwrap());
    }
    assert!(served.status(Some(served.client())).await.is_ok());
    for mut stream in idle {
        let mut nothing = [0];
        assert_eq!(stream.read(&mut nothing).await.unwrap_or(0), 0);
    }
}

#[tokio::test]
async fn new_certificates_are_met_while_others_are_served() {
    let served = Served::begin(Limits::default()).await;
    // Nobody gets in before there are any.
    assert!(served.status(Some(served.client())).await.is_err());
    served.identity.load(&served.control).unwrap();
    let old = served.client();
    assert!(served.status(Some(old.clone())).await.is_ok());

    // A request that is under way goes on: its head is sent before, its body after.
    let request = post("switch-wal", "{\"podUid\": \"uid-1\"}");
    let next = authority();
    let under_way = async {
        let (head, body) = request.split_at(request.find("{").unwrap());
        let answer = served.slowly(&old, head, body, async {
            served.write(&next, SIDECAR);
            served.identity.load(&served.control).unwrap();
        });
        answer.await
    };
    let answer = under_way.await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    // Old clients are refused, new ones are not; and what answers has the new certificate.
    assert!(served.status(Some(old.clone())).await.is_err());
    let new = client_of(&next, OPERATOR);
    let answer = served.ask(&next, Some(new.clone()), STATUS).await;
    assert!(answer.is_ok(), "{answer:?}");

    // Broken ones change nothing and are told.
    let (other_certificate, other_key) =
        signed(&next, SIDECAR, ExtendedKeyUsagePurpose::ServerAuth, 4000);
    let good = |file: &std::path::Path| fs::read(file).unwrap();
    let files = [
        &served.control.ca_file,
        &served.control.certificate_file,
        &served.control.key_file,
    ];
    for (file, content, told) in [
        (0, "", "caFile"),
        (0, "no PEM", "holds no certificate"),
        (1, "no PEM", "holds no certificate"),
        (1, &*other_certificate, "does not belong to"),
        (2, &*other_key, "does not belong to"),
        (2, "no PEM", "holds no private key"),
        (2, &*other_certificate, "holds no private key"),
    ] {
        let before = good(files[file]);
        fs::write(files[file], content).unwrap();
        let why = served.identity.load(&served.control).unwrap_err();
        assert!(why.to_string().contains(told), "{why}");
        fs::write(files[file], before).unwrap();
    }
    let missing = Control {
        key_file: served.folder.path().join("nowhere"),
        ..served.control.clone()
    };
    assert!(served.identity.load(&missing).is_err());
    assert!(served.ask(&next, Some(new), STATUS).await.is_ok());
    served.leave.close();
}

impl Served {
    /// Sends the head, does something, and sends the body.
    async fn slowly(
        &self,
        client: &(String, String),
        head: &str,
        body: &str,
        between: impl Future<Output = ()>,
    ) -> String {
        let mut stream = self
            .connect(&self.authority, Some(client.clone()))
            .await
            .unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        between.await;
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }
}
