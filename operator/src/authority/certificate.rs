//! What a certificate says of itself, and whether it is time for another. Pure.

use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What decisions need of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// It is not valid before this.
    pub not_before: Timestamp,
    /// Nor after this.
    pub not_after: Timestamp,
    /// Its DNS names.
    pub names: Vec<String>,
    /// The distinguished name of who signed it, in DER.
    pub issuer: Vec<u8>,
    /// Its own distinguished name, in DER.
    pub subject: Vec<u8>,
    /// Its public key, as the certificate writes it (SubjectPublicKeyInfo).
    pub public_key: Vec<u8>,
}

/// A text that holds no certificate.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadCertificate {
    /// No PEM section of that kind.
    #[error("it holds no certificate in PEM")]
    NoPem,
    /// Not X.509.
    #[error("it holds something that is no certificate: {0}")]
    NotX509(String),
}

/// Every certificate of a PEM text, in its order; at least one.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadCertificate> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| BadCertificate::NoPem)?;
    if found.is_empty() {
        return Err(BadCertificate::NoPem);
    }
    Ok(found)
}

impl CertificateFacts {
    /// Of the first certificate of a PEM text: the leaf of a chain.
    pub fn of_pem(pem: &[u8]) -> Result<Self, BadCertificate> {
        match certificates(pem)?.first() {
            Some(leaf) => Self::of_der(leaf),
            None => Err(BadCertificate::NoPem),
        }
    }

    /// Of one certificate.
    pub fn of_der(der: &[u8]) -> Result<Self, BadCertificate> {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|error| BadCertificate::NotX509(error.to_string()))?;
        let time = |seconds: i64| {
            Timestamp::from_second(seconds)
                .map_err(|error| BadCertificate::NotX509(error.to_string()))
        };
        let names = match certificate.subject_alternative_name() {
            Ok(Some(extension)) => extension
                .value
                .general_names
                .iter()
                .filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some((*name).to_owned()),
                    _ => None,
                })
                .collect(),
            Ok(None) => Vec::new(),
            Err(error) => return Err(BadCertificate::NotX509(error.to_string())),
        };
        Ok(Self {
            not_before: time(certificate.validity().not_before.timestamp())?,
            not_after: time(certificate.validity().not_after.timestamp())?,
            names,
            issuer: certificate.issuer().as_raw().to_vec(),
            subject: certificate.subject().as_raw().to_vec(),
            public_key: certificate.public_key().raw.to_vec(),
        })
    }

    /// When it is replaced: two thirds of its life, so that a third is left for whoever can't get the new one.
    pub fn renewal(&self) -> Timestamp {
        let life = self.not_after.duration_since(self.not_before);
        let two_thirds = SignedDuration::from_secs(life.as_secs() / 3 * 2);
        self.not_before
            .checked_add(two_thirds)
            .unwrap_or(self.not_before)
    }

    /// Whether it can be used at that moment.
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

/// Why a certificate has to be made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// There is none, or nothing that can be read.
    Missing,
    /// Two thirds of its life are over, or it is not valid yet by our clock.
    Age,
    /// It is made out to somebody else.
    Names,
    /// Its authority is not trusted any more.
    Authority,
    /// It belongs to another key.
    Key,
}

/// Whether a certificate has to be made anew: `names` in this order, signed by an authority with one of the subjects
/// `authorities`, for the key with that public part.
pub fn renewal(
    certificate: Option<&CertificateFacts>,
    key: Option<&[u8]>,
    names: &[String],
    authorities: &[&[u8]],
    now: Timestamp,
) -> Option<Renewal> {
    let Some(facts) = certificate else {
        return Some(Renewal::Missing);
    };
    if key != Some(facts.public_key.as_slice()) {
        Some(Renewal::Key)
    } else if facts.names != names {
        Some(Renewal::Names)
    } else if !authorities.contains(&facts.issuer.as_slice()) {
        Some(Renewal::Authority)
    } else if now >= facts.renewal() || now < facts.not_before {
        Some(Renewal::Age)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn facts() -> CertificateFacts {
        CertificateFacts {
            not_before: at("2026-01-01T00:00:00Z"),
            not_after: at("2026-04-01T00:00:00Z"),
            names: vec!["a".into()],
            issuer: b"authority".to_vec(),
            subject: b"subject".to_vec(),
            public_key: b"key".to_vec(),
        }
    }

    #[test]
    fn a_certificate_is_renewed_when_two_thirds_of_its_life_are_over() {
        assert_eq!(facts().renewal(), at("2026-03-02T00:00:00Z"));
        let names = ["a".to_owned()];
        for (now, due) in [
            ("2025-12-31T23:59:59Z", Some(Renewal::Age)),
            ("2026-01-01T00:00:00Z", None),
            ("2026-03-01T23:59:59Z", None),
            ("2026-03-02T00:00:00Z", Some(Renewal::Age)),
            ("2026-04-02T00:00:00Z", Some(Renewal::Age)),
        ] {
            assert_eq!(
                renewal(
                    Some(&facts()),
                    Some(b"key"),
                    &names,
                    &[b"authority"],
                    at(now)
                ),
                due,
                "{now}"
            );
        }
    }

    #[test]
    fn a_certificate_is_renewed_when_it_is_not_what_is_wanted() {
        let now = at("2026-02-01T00:00:00Z");
        let names = ["a".to_owned()];
        let other = ["b".to_owned()];
        let facts = facts();
        let (good, key): (&[&[u8]], &[u8]) = (&[b"next", b"authority"], b"key");
        for (certificate, key, names, authorities, due) in [
            (None, Some(key), &names, good, Some(Renewal::Missing)),
            (Some(&facts), None, &names, good, Some(Renewal::Key)),
            (
                Some(&facts),
                Some(b"yek".as_slice()),
                &names,
                good,
                Some(Renewal::Key),
            ),
            (Some(&facts), Some(key), &other, good, Some(Renewal::Names)),
            (
                Some(&facts),
                Some(key),
                &names,
                &[b"next"],
                Some(Renewal::Authority),
            ),
            (
                Some(&facts),
                Some(key),
                &names,
                &[],
                Some(Renewal::Authority),
            ),
            (Some(&facts), Some(key), &names, good, None),
        ] {
            assert_eq!(renewal(certificate, key, names, authorities, now), due);
        }
    }

    #[test]
    fn what_is_no_certificate_is_told() {
        assert_eq!(CertificateFacts::of_pem(b""), Err(BadCertificate::NoPem));
        assert_eq!(CertificateFacts::of_pem(b"x"), Err(BadCertificate::NoPem));
        let wrong = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(
            CertificateFacts::of_pem(wrong),
            Err(BadCertificate::NotX509(_))
        ));
    }
}
