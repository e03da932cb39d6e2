//! The authorities that are trusted at one time: the present one, and for a while the one before it. Pure.

use super::ca::{AuthorityError, Ca};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use std::collections::BTreeMap;
use std::sync::Arc;
use thiserror::Error;

/// How long two are trusted: what is signed by the old one lives 90 days, and pods may be down for long.
const OVERLAP: SignedDuration = SignedDuration::from_hours(365 * 24);

const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
const FORMER_CERTIFICATE: &str = "former.crt";
const FORMER_KEY: &str = "former.key";

/// The present authority and, while both are trusted, the former.
#[derive(Debug, Clone)]
pub struct Authorities {
    /// Signs.
    pub current: Arc<Ca>,
    /// Is still trusted, and signs only for those who have not heard of the present one.
    pub former: Option<Arc<Ca>>,
}

/// What has to happen to the authorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Keep,
    /// The present one ends within a year: another takes its place, and it becomes the former.
    Rotate,
    /// The former has ended.
    Forget,
}

/// A Secret with authorities that can't be used.
#[derive(Debug, Error)]
pub enum BadAuthorities {
    /// An entry is missing or not text.
    #[error("the entry {0} is missing or not text")]
    Entry(&'static str),
    /// An authority.
    #[error("{entry}: {source}")]
    Ca {
        /// Where it stands.
        entry: &'static str,
        /// What is wrong.
        source: AuthorityError,
    },
}

impl Authorities {
    /// One that was made just now.
    pub fn generate(now: Timestamp) -> Result<Self, AuthorityError> {
        Ok(Self {
            current: Arc::new(Ca::generate(now)?),
            former: None,
        })
    }

    /// As [`Authorities::to_secret`] wrote them.
    pub fn of_secret(data: &BTreeMap<String, ByteString>) -> Result<Self, BadAuthorities> {
        let text = |entry: &'static str| {
            let bytes = &data.get(entry)?.0;
            String::from_utf8(bytes.clone()).ok()
        };
        let ca = |certificate: &'static str, key: &'static str| {
            let pem = text(certificate).ok_or(BadAuthorities::Entry(certificate))?;
            let secret = text(key).ok_or(BadAuthorities::Entry(key))?;
            Ca::from_pem(pem, secret)
                .map(Arc::new)
                .map_err(|source| BadAuthorities::Ca {
                    entry: certificate,
                    source,
                })
        };
        Ok(Self {
            current: ca(CERTIFICATE, KEY)?,
            former: match data.contains_key(FORMER_CERTIFICATE) {
                true => Some(ca(FORMER_CERTIFICATE, FORMER_KEY)?),
                false => None,
            },
        })
    }

    /// What the Secret holds.
    pub fn to_secret(&self) -> BTreeMap<String, ByteString> {
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        let mut data = BTreeMap::from([
            (CERTIFICATE.to_owned(), bytes(self.current.certificate())),
            (KEY.to_owned(), bytes(self.current.key())),
        ]);
        if let Some(former) = &self.former {
            data.insert(FORMER_CERTIFICATE.to_owned(), bytes(former.certificate()));
            data.insert(FORMER_KEY.to_owned(), bytes(former.key()));
        }
        data
    }

    /// All that are trusted, the present one first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Ca>> {
        std::iter::once(&self.current).chain(&self.former)
    }

    /// Their certificates, in PEM.
    pub fn bundle(&self) -> String {
        self.all().map(|ca| ca.certificate()).collect()
    }

    /// Whether both hold the same authorities.
    pub fn are(&self, others: &Self) -> bool {
        self.bundle() == others.bundle()
    }

    /// What has to happen to them.
    pub fn change(&self, now: Timestamp) -> Change {
        let ended = |ca: &Arc<Ca>| ca.facts().not_after < now;
        if now >= self.current.facts().not_after - OVERLAP {
            Change::Rotate
        } else if self.former.as_ref().is_some_and(ended) {
            Change::Forget
        } else {
            Change::Keep
        }
    }

    /// After that change.
    pub fn changed(&self, change: Change, now: Timestamp) -> Result<Self, AuthorityError> {
        Ok(match change {
            Change::Keep => self.clone(),
            Change::Forget => Self {
                current: self.current.clone(),
                former: None,
            },
            Change::Rotate => Self {
                current: Arc::new(Ca::generate(now)?),
                former: Some(self.current.clone()),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_new_authority_is_made_a_year_before_the_old_one_ends() {
        let begin = at("2026-11-21T12:00:00Z");
        let first = Authorities::generate(begin).unwrap();
        let end = first.current.facts().not_after;
        for (now, change) in [
            (begin, Change::Keep),
            (
                begin + SignedDuration::from_hours(8 * 365 * 24),
                Change::Keep,
            ),
            (end - OVERLAP - SignedDuration::from_secs(1), Change::Keep),
            (end - OVERLAP, Change::Rotate),
            (end + OVERLAP, Change::Rotate),
        ] {
            assert_eq!(first.change(now), change, "{now}");
        }
        let day = end - OVERLAP;
        let second = first.changed(Change::Rotate, day).unwrap();
        assert!(second.bundle().contains(first.current.certificate()));
        assert_eq!(second.bundle().matches("BEGIN CERTIFICATE").count(), 2);
        assert_eq!(second.change(day), Change::Keep);
        assert_eq!(second.change(end), Change::Keep);
        let after = end + SignedDuration::from_secs(1);
        assert_eq!(second.change(after), Change::Forget);
        let third = second.changed(Change::Forget, after).unwrap();
        assert_eq!(third.bundle(), second.current.certificate());
        assert_eq!(third.change(after), Change::Keep);
    }

    #[test]
    fn they_are_read_back_from_their_secret() {
        let now = at("2026-11-21T12:00:00Z");
        let one = Authorities::generate(now).unwrap();
        let two = one.changed(Change::Rotate, now).unwrap();
        for authorities in [&one, &two] {
            let again = Authorities::of_secret(&authorities.to_secret()).unwrap();
            assert!(again.are(authorities));
        }
        assert!(!one.are(&two));
        let mut lacking = two.to_secret();
        lacking.remove(FORMER_KEY);
        let error = Authorities::of_secret(&lacking).unwrap_err().to_string();
        assert!(error.contains("former.key"), "{error}");
        let mut mixed = one.to_secret();
        mixed.insert(KEY.into(), two.to_secret()[KEY].clone());
        assert!(matches!(
            Authorities::of_secret(&mixed),
            Err(BadAuthorities::Ca { .. })
        ));
        assert!(Authorities::of_secret(&BTreeMap::new()).is_err());
    }
}
