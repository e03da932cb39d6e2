//! One certificate authority: its certificate, its key, and what it signs.

use super::certificate::{self, BadCertificate, CertificateFacts};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use std::fmt;
use std::time::Duration;
use thiserror::Error;

/// An authority's life: long, because every pod has to hear of the next one.
const LIFE: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);

/// The life of what an authority signs.
const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(90 * 24);

/// Clocks of nodes differ.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// rcgen wants the moments of another crate, which it can make only of whole days.
macro_rules! moment {
    ($at:expr) => {
        rcgen::date_time_ymd(1970, 1, 1)
            + Duration::from_secs(u64::try_from($at.as_second()).unwrap_or(0))
    };
}

/// An authority that can't be made or used.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// Its certificate can't be read.
    #[error("its certificate can't be used: {0}")]
    Certificate(#[from] BadCertificate),
    /// Key or signature.
    #[error("its key can't be used: {0}")]
    Key(#[from] rcgen::Error),
    /// Certificate and key don't belong together.
    #[error("its certificate and its key don't belong together")]
    Mismatch,
    /// No random numbers.
    #[error("this machine gives no random numbers")]
    Random,
}

/// Who uses a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Answers.
    Server,
    /// Asks.
    Client,
}

/// A certificate and its key, both in PEM. `Debug` does not show the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Signed {
    /// The certificate alone: the authority's own is in every bundle.
    pub certificate: String,
    /// PKCS #8.
    pub key: String,
}

/// A certificate authority. `Debug` does not show the key.
pub struct Ca {
    certificate: String,
    key: String,
    facts: CertificateFacts,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// A new one. Its name holds the moment and a random word: names tell authorities apart, also to those who choose
    /// a certificate by the names that the other side trusts.
    pub fn generate(now: Timestamp) -> Result<Self, AuthorityError> {
        let mut random = [0; 6];
        getrandom::fill(&mut random).map_err(|_| AuthorityError::Random)?;
        let mut name = DistinguishedName::new();
        let date = now.strftime("%Y-%m-%d");
        name.push(
            DnType::CommonName,
            format!("Holdfast authority {date} {}", hex::encode(random)),
        );
        let mut params = CertificateParams::default();
        params.distinguished_name = name;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = moment!(now - SKEW);
        params.not_after = moment!(now + LIFE);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        let text = key.serialize_pem();
        Self::from_pem(certificate, text)
    }

    /// One that was kept. Refuses a key that is not the certificate's.
    pub fn from_pem(certificate: String, key: String) -> Result<Self, AuthorityError> {
        let facts = CertificateFacts::of_pem(certificate.as_bytes())?;
        let pair = KeyPair::from_pem(&key)?;
        if pair.subject_public_key_info() != facts.public_key {
            return Err(AuthorityError::Mismatch);
        }
        let issuer = Issuer::from_ca_cert_pem(&certificate, pair)?;
        Ok(Self {
            certificate,
            key,
            facts,
            issuer,
        })
    }

    /// Its certificate, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its key, in PEM.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What its certificate says.
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// Signs a certificate with a new key (ECDSA, P-256), for 90 days or as long as the authority itself lasts.
    pub fn sign(
        &self,
        names: &[String],
        usage: Usage,
        now: Timestamp,
    ) -> Result<Signed, AuthorityError> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        params.use_authority_key_identifier_extension = true;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        let until = (now + LEAF_LIFE).min(self.facts.not_after);
        params.not_before = moment!(now - SKEW);
        params.not_after = moment!(until);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Signed {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

impl Signed {
    /// Whether it has to be made anew, for these names and by one of these authorities.
    pub fn renewal<'a>(
        &self,
        names: &[String],
        authorities: impl IntoIterator<Item = &'a Ca>,
        now: Timestamp,
    ) -> Option<certificate::Renewal> {
        let facts = CertificateFacts::of_pem(self.certificate.as_bytes()).ok();
        let key = KeyPair::from_pem(&self.key).ok();
        let subjects: Vec<&[u8]> = authorities
            .into_iter()
            .map(|ca| ca.facts.subject.as_slice())
            .collect();
        certificate::renewal(
            facts.as_ref(),
            key.map(|key| key.subject_public_key_info()).as_deref(),
            names,
            &subjects,
            now,
        )
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn what_it_signs_says_what_was_asked_for() {
        let now = at("2026-11-21T12:00:00Z");
        let ca = Ca::generate(now).unwrap();
        assert_eq!(ca.facts().not_after, now + LIFE);
        let names = ["orders.shop.sidecar.holdfast.dev".to_owned()];
        let signed = ca.sign(&names, Usage::Server, now).unwrap();
        let facts = CertificateFacts::of_pem(signed.certificate.as_bytes()).unwrap();
        assert_eq!(facts.names, names);
        assert_eq!(facts.issuer, ca.facts().subject);
        assert_eq!(facts.not_before, at("2026-11-21T11:55:00Z"));
        assert_eq!(facts.not_after, now + LEAF_LIFE);
        assert_eq!(signed.renewal(&names, [&ca], now), None);
        let late = now + SignedDuration::from_hours(61 * 24);
        assert_eq!(
            signed.renewal(&names, [&ca], late),
            Some(certificate::Renewal::Age)
        );
        let other = Ca::generate(now).unwrap();
        assert_ne!(other.facts().subject, ca.facts().subject);
        assert_eq!(
            signed.renewal(&names, [&other], now),
            Some(certificate::Renewal::Authority)
        );
        let mixed = Signed {
            key: other.key().to_owned(),
            ..signed
        };
        assert_eq!(
            mixed.renewal(&names, [&ca], now),
            Some(certificate::Renewal::Key)
        );
    }

    #[test]
    fn nothing_outlives_its_authority() {
        let now = at("2026-11-21T12:00:00Z");
        let ca = Ca::generate(now).unwrap();
        let late = ca.facts().not_after - SignedDuration::from_hours(24);
        let signed = ca.sign(&["a".into()], Usage::Client, late).unwrap();
        let facts = CertificateFacts::of_pem(signed.certificate.as_bytes()).unwrap();
        assert_eq!(facts.not_after, ca.facts().not_after);
    }

    #[test]
    fn an_authority_is_read_back_and_a_mixed_one_refused() {
        let now = at("2026-11-21T12:00:00Z");
        let (one, two) = (Ca::generate(now).unwrap(), Ca::generate(now).unwrap());
        let again = Ca::from_pem(one.certificate().to_owned(), one.key().to_owned()).unwrap();
        assert_eq!(again.facts(), one.facts());
        assert!(!format!("{again:?}").contains("PRIVATE"));
        assert!(matches!(
            Ca::from_pem(one.certificate().to_owned(), two.key().to_owned()),
            Err(AuthorityError::Mismatch)
        ));
        for (certificate, key) in [("", one.key()), (one.certificate(), ""), ("x", "y")] {
            assert!(Ca::from_pem(certificate.to_owned(), key.to_owned()).is_err());
        }
    }
}
