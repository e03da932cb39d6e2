//! What the operator holds in memory: the authorities, its own certificates, and how it speaks to sidecars.

use super::authorities::Authorities;
use super::ca::{AuthorityError, Signed, Usage};
use super::certificate::{self, BadCertificate};
use crate::names::Key;
use holdfast_protocol::control::{OPERATOR_NAME, sidecar_name};
use jiff::Timestamp;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use std::sync::Arc;
use thiserror::Error;

/// Certificates that TLS can't use.
#[derive(Debug, Error)]
pub enum KeyringError {
    /// An authority, or what it signed.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A certificate that can't be read.
    #[error(transparent)]
    Certificate(#[from] BadCertificate),
    /// A key that is no PEM.
    #[error("the key can't be read: {0}")]
    Key(#[from] rustls::pki_types::pem::Error),
    /// What TLS says.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// The authorities, and what follows from them. Never changed, but replaced as a whole.
#[derive(Debug)]
pub struct Keyring {
    authorities: Authorities,
    bundle: String,
    own: Vec<Signed>,
    client: Arc<ClientConfig>,
}

impl Keyring {
    /// Makes the operator's certificates, one by each authority.
    pub fn new(authorities: Authorities, now: Timestamp) -> Result<Self, KeyringError> {
        let names = own_names();
        let own: Vec<Signed> = authorities
            .all()
            .map(|ca| ca.sign(&names, Usage::Client, now))
            .collect::<Result<_, _>>()?;
        let identities = authorities
            .all()
            .zip(&own)
            .map(|(ca, signed)| Ok((ca.facts().subject.clone(), Arc::new(certified(signed)?))))
            .collect::<Result<_, KeyringError>>()?;
        let mut roots = RootCertStore::empty();
        for ca in authorities.all() {
            for root in certificate::certificates(ca.certificate().as_bytes())? {
                roots.add(root)?;
            }
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(ByAuthority { identities }));
        // All instances of an archive have one name, and each its own tickets: most would be for another.
        client.resumption = Resumption::disabled();
        Ok(Self {
            bundle: authorities.bundle(),
            authorities,
            own,
            client: Arc::new(client),
        })
    }

    /// The authorities.
    pub fn authorities(&self) -> &Authorities {
        &self.authorities
    }

    /// The certificates of all authorities that are trusted, in PEM.
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// How to speak to sidecars.
    pub fn client(&self) -> &Arc<ClientConfig> {
        &self.client
    }

    /// Whether one of the operator's own certificates has to be made anew.
    pub fn is_due(&self, now: Timestamp) -> bool {
        let names = own_names();
        self.authorities
            .all()
            .zip(&self.own)
            .any(|(ca, signed)| signed.renewal(&names, [ca.as_ref()], now).is_some())
    }

    /// The certificate of the sidecars of an archive: `present` if it is good for a while, else a new one.
    pub fn sidecar(
        &self,
        archive: &Key,
        present: Option<Signed>,
        now: Timestamp,
    ) -> Result<Signed, AuthorityError> {
        let names = [sidecar_name(&archive.namespace, &archive.name)];
        self.server(&names, present, now)
    }

    /// A server's certificate: `present` if it is good for a while, else a new one. One by the former authority is good
    /// until its time is over: not everybody may trust the present one yet.
    pub fn server(
        &self,
        names: &[String],
        present: Option<Signed>,
        now: Timestamp,
    ) -> Result<Signed, AuthorityError> {
        let trusted = || self.authorities.all().map(Arc::as_ref);
        match present.filter(|signed| signed.renewal(names, trusted(), now).is_none()) {
            Some(good) => Ok(good),
            None => self.authorities.current.sign(names, Usage::Server, now),
        }
    }
}

/// As TLS wants it. Refuses a key that is not the certificate's.
pub fn certified(signed: &Signed) -> Result<CertifiedKey, KeyringError> {
    let chain = certificate::certificates(signed.certificate.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(signed.key.as_bytes())?;
    Ok(CertifiedKey::from_der(
        chain,
        key,
        &aws_lc_rs::default_provider(),
    )?)
}

fn own_names() -> [String; 1] {
    [OPERATOR_NAME.to_owned()]
}

/// Shows each sidecar the certificate of an authority that it trusts, as it says itself: one that has not loaded the
/// present authority yet gets the one of the former.
#[derive(Debug)]
struct ByAuthority {
    /// The authority's name and the certificate, the present one first.
    identities: Vec<(Vec<u8>, Arc<CertifiedKey>)>,
}

impl ResolvesClientCert for ByAuthority {
    fn resolve(&self, trusted: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.identities
            .iter()
            .find(|(authority, _)| trusted.contains(&authority.as_slice()))
            // It will say why it refuses.
            .or(self.identities.first())
            .map(|(_, identity)| identity.clone())
    }

    fn has_certs(&self) -> bool {
        !self.identities.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::authorities::Change;
    use super::super::ca::Ca;
    use super::super::certificate::CertificateFacts;
    use super::*;
    use rustls::ServerConfig;
    use rustls::pki_types::ServerName;
    use rustls::server::WebPkiClientVerifier;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    /// A sidecar that trusts these authorities and has this certificate.
    fn sidecar(trusted: &[&Arc<Ca>], signed: &Signed) -> TlsAcceptor {
        let mut roots = RootCertStore::empty();
        for ca in trusted {
            let pem = ca.certificate().as_bytes();
            for root in certificate::certificates(pem).unwrap() {
                roots.add(root).unwrap();
            }
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                certificate::certificates(signed.certificate.as_bytes()).unwrap(),
                PrivateKeyDer::from_pem_slice(signed.key.as_bytes()).unwrap(),
            )
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    async fn meet(keyring: &Keyring, name: &str, sidecar: TlsAcceptor) -> Result<(), String> {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let (client, server) = tokio::join!(
            TlsConnector::from(keyring.client().clone()).connect(name, ours),
            sidecar.accept(theirs),
        );
        client.map_err(|e| e.to_string())?;
        server.map_err(|e| e.to_string())?;
        Ok(())
    }

    const NAME: &str = "orders.shop.sidecar.holdfast.dev";

    #[tokio::test]
    async fn each_side_knows_the_other_by_name_also_while_an_authority_is_replaced() {
        let now = Timestamp::now();
        let archive = Key::new("shop", "orders");
        let before = Keyring::new(Authorities::generate(now).unwrap(), now).unwrap();
        let rotated = before.authorities().changed(Change::Rotate, now).unwrap();
        let after = Keyring::new(rotated, now).unwrap();
        let old = &before.authorities().current;
        let new = &after.authorities().current;
        let by_old = before.sidecar(&archive, None, now).unwrap();
        let sign = |present, at| after.sidecar(&archive, present, at).unwrap();
        assert!(sign(Some(by_old.clone()), now) == by_old);
        let months_later = now + jiff::SignedDuration::from_hours(61 * 24);
        let renewed = sign(Some(by_old.clone()), months_later);
        let facts = CertificateFacts::of_pem(renewed.certificate.as_bytes()).unwrap();
        assert_eq!(facts.issuer, new.facts().subject);
        let by_new = sign(None, now);

        for (keyring, trusted, signed) in [
            (&before, vec![old], &by_old),
            (&after, vec![old], &by_old),
            (&after, vec![new, old], &by_old),
            (&after, vec![new, old], &by_new),
            (&after, vec![new], &by_new),
        ] {
            meet(keyring, NAME, sidecar(&trusted, signed))
                .await
                .unwrap();
        }
        // Another archive's sidecar, another installation's, and one that trusts another installation.
        let other = "orders.stolen.sidecar.holdfast.dev";
        assert!(
            meet(&before, other, sidecar(&[old], &by_old))
                .await
                .is_err()
        );
        let stranger = Keyring::new(Authorities::generate(now).unwrap(), now).unwrap();
        let strange = stranger.sidecar(&archive, None, now).unwrap();
        assert!(
            meet(&before, NAME, sidecar(&[old], &strange))
                .await
                .is_err()
        );
        let distrusts = sidecar(&[&stranger.authorities().current], &by_old);
        assert!(meet(&before, NAME, distrusts).await.is_err());
    }

    #[test]
    fn the_operators_own_certificate_is_renewed_in_time() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let keyring = Keyring::new(Authorities::generate(now).unwrap(), now).unwrap();
        let days = |days: i64| now + jiff::SignedDuration::from_hours(24 * days);
        for (at, due) in [
            (now, false),
            (days(59), false),
            (days(61), true),
            (days(100), true),
        ] {
            assert_eq!(keyring.is_due(at), due, "{at}");
        }
    }
}
