//! Encrypted sessions, as libpq's `sslmode` has them where no certificate is verified.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode as Wanted};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Error, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Whether a session over TCP is encrypted. None of them verifies the server's certificate: they keep out who only
/// listens. A Unix socket is never encrypted, whatever is asked for, as with libpq.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Where the server can.
    #[default]
    Prefer,
    /// Or not at all.
    Require,
}

/// What Postgres calls "invalid authorization": for instance no entry of pg_hba.conf for encrypted sessions.
pub(crate) const NOT_SO: &str = "28000";

/// Opens a session and drives it. With [`SslMode::Prefer`] what can't be encrypted is tried again as it is.
pub(super) async fn open(
    mut config: Config,
    mode: SslMode,
) -> Result<(Client, JoinHandle<()>), Error> {
    let local = config
        .get_hosts()
        .iter()
        .all(|host| matches!(host, Host::Unix(_)));
    let connector = match mode {
        SslMode::Prefer | SslMode::Require if !local => connector(),
        _ => None,
    };
    config.ssl_mode(match mode {
        SslMode::Require if !local => Wanted::Require,
        SslMode::Prefer if !local => Wanted::Prefer,
        _ => Wanted::Disable,
    });
    let Some(connector) = connector else {
        return drive(&config, NoTls).await;
    };
    match drive(&config, connector).await {
        Err(error) if mode == SslMode::Prefer && may_go_without(&error) => {
            config.ssl_mode(Wanted::Disable);
            drive(&config, NoTls).await
        }
        done => done,
    }
}

/// Whether encryption is what went wrong.
fn may_go_without(error: &Error) -> bool {
    match error.as_db_error() {
        Some(db) => db.code().code() == NOT_SO,
        None => error
            .to_string()
            .starts_with("error performing TLS handshake"),
    }
}

async fn drive<T>(config: &Config, tls: T) -> Result<(Client, JoinHandle<()>), Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect(tls).await?;
    let driver = tokio::spawn(async move {
        // Whoever asks next is told that the session has ended; here it is only worth a line.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "session ended");
        }
    });
    Ok((client, driver))
}

/// None: this build of the cryptography knows no version of TLS. An encrypted session is then refused by the caller.
pub(crate) fn connector() -> Option<MakeRustlsConnect> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Some(MakeRustlsConnect::new(config))
}

/// Takes any certificate, also one that is no X.509 of version 3, as old self-signed ones are. So it need not prove
/// that the server has its key either: whoever could pretend to be the server could bring a key of his own.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
