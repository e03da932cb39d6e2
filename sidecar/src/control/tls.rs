//! Who may speak to the control API over the network: the operator alone, which has a certificate that our authority
//! signed for its name. TLS 1.3, certificates on both sides.

use crate::config::{Control, SecretError, read_secret};
use crate::http::Transport;
use holdfast_protocol::control::OPERATOR_NAME;
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Certificates that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file.
    #[error(transparent)]
    File(#[from] SecretError),
    /// A file without what it is for.
    #[error("{what} {} holds no {wanted} in PEM", file.display())]
    Nothing {
        /// What the settings call it.
        what: &'static str,
        /// As configured.
        file: PathBuf,
        /// What belongs there.
        wanted: &'static str,
    },
    /// What TLS makes of them.
    #[error("{what} {} can't be used: {why}", file.display())]
    Unusable {
        /// What the settings call it.
        what: &'static str,
        /// As configured.
        file: PathBuf,
        /// In rustls' words.
        why: String,
    },
}

/// The certificates that new connections are met with. They are replaced while others go on.
#[derive(Debug, Default)]
pub struct Identity {
    config: RwLock<Option<Arc<ServerConfig>>>,
}

impl Identity {
    /// Reads the files and takes them for connections to come. After an error, those of before stay.
    pub fn load(&self, control: &Control) -> Result<(), CertificateError> {
        let config = Arc::new(server_config(control)?);
        let mut current = self.config.write().unwrap_or_else(PoisonError::into_inner);
        *current = Some(config);
        Ok(())
    }

    fn current(&self) -> Option<Arc<ServerConfig>> {
        let current = self.config.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }
}

fn server_config(control: &Control) -> Result<ServerConfig, CertificateError> {
    let Control {
        listen: _,
        ca_file,
        certificate_file,
        key_file,
    } = control;
    let unusable = |what, file: &Path, why: String| CertificateError::Unusable {
        what,
        file: file.to_owned(),
        why,
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates("caFile", ca_file)? {
        roots
            .add(certificate)
            .map_err(|e| unusable("caFile", ca_file, e.to_string()))?;
    }
    let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|e| unusable("caFile", ca_file, e.to_string()))?;
    let name = ServerName::try_from(OPERATOR_NAME)
        .map_err(|e| unusable("caFile", ca_file, e.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&read_secret("keyFile", key_file)?).map_err(|_| {
        CertificateError::Nothing {
            what: "keyFile",
            file: key_file.clone(),
            wanted: "private key",
        }
    })?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| unusable("keyFile", key_file, e.to_string()))?
        .with_client_cert_verifier(Arc::new(OnlyTheOperator { chain, name }))
        .with_single_cert(certificates("certificateFile", certificate_file)?, key)
        .map_err(|e| {
            let why = match e {
                rustls::Error::InconsistentKeys(_) => {
                    format!("it does not belong to {}", certificate_file.display())
                }
                other => other.to_string(),
            };
            unusable("keyFile", key_file, why)
        })?;
    // A resumed session would spare the client its certificate, also one that has expired since or whose authority is
    // trusted no more.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(
    what: &'static str,
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let pem = read_secret(what, file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(CertificateError::Nothing {
            what,
            file: file.to_owned(),
            wanted: "certificate",
        }),
    }
}

/// A certificate of our authority is not enough: it signs others, too.
#[derive(Debug)]
struct OnlyTheOperator {
    chain: Arc<dyn ClientCertVerifier>,
    name: ServerName<'static>,
}

impl ClientCertVerifier for OnlyTheOperator {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, &self.name)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.chain
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Connections over TLS.
#[derive(Debug)]
pub struct Tls {
    listener: TcpListener,
    identity: Arc<Identity>,
}

impl Tls {
    /// Without certificates every connection is refused, until there are some.
    pub fn new(listener: TcpListener, identity: Arc<Identity>) -> Self {
        Self { listener, identity }
    }
}

impl Transport for Tls {
    type Raw = TcpStream;
    type Stream = TlsStream<TcpStream>;
    const NAME: &'static str = "control port";

    async fn accept(&self) -> io::Result<TcpStream> {
        Ok(self.listener.accept().await?.0)
    }

    async fn open(&self, raw: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = self
            .identity
            .current()
            .ok_or_else(|| io::Error::other("there are no certificates yet"))?;
        TlsAcceptor::from(config).accept(raw).await
    }
}
