//! The webhook's serving certificate: made by our authority in a Secret that all replicas share, or given in files.

use super::ca::{AuthorityError, Signed};
use super::keeper::Authority;
use super::keyring::{KeyringError, certified};
use crate::names::{FIELD_MANAGER, MANAGED_BY, MANAGED_BY_LABEL};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The Secret.
const SECRET: &str = "holdfast-webhook";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITY: &str = "ca.crt";

/// Between two looks. Files change without a word.
const PERIOD: Duration = Duration::from_secs(30);

/// No certificate file is larger, in bytes.
const LARGEST_FILE: u64 = 256 << 10;

/// A serving certificate that can't be had.
#[derive(Debug, Error)]
pub enum ServingError {
    /// A file.
    #[error("{} can't be read: {source}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The API server.
    #[error("the Secret {SECRET} can't be read or written: {0}")]
    Api(Box<kube::Error>),
    /// Every attempt to write met another's.
    #[error("the Secret {SECRET} is changed by somebody else all the time")]
    Contended,
    /// It can't be signed.
    #[error("the webhook's certificate can't be made: {0}")]
    Authority(#[from] AuthorityError),
    /// It can't be used.
    #[error("the webhook's certificate in {place} can't be used: {source}")]
    Unusable {
        /// The Secret or the folder.
        place: String,
        /// Why not.
        source: KeyringError,
    },
}

#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
enum Source {
    /// By our authority, for these names.
    Made {
        authority: Authority,
        secrets: Api<Secret>,
        names: Vec<String>,
    },
    /// By somebody else: `tls.crt`, `tls.key` and, where the configuration is to be filled, `ca.crt`.
    Files(PathBuf),
}

#[derive(Clone, Default)]
struct Present {
    signed: Option<Signed>,
    certified: Option<Arc<CertifiedKey>>,
    authorities: Option<String>,
}

/// The serving certificate. Cheap to clone; a renewed one is used for the next connection.
///
/// Verbs on the Secret in the operator's namespace: get, create, update.
#[derive(Clone)]
pub struct Serving {
    source: Arc<Source>,
    present: Arc<watch::Sender<Present>>,
}

impl Serving {
    /// Made by our authority for a Service, by the names under which the API server calls it.
    pub fn made(authority: Authority, client: Client, namespace: &str, service: &str) -> Self {
        Self::new(Source::Made {
            authority,
            secrets: Api::namespaced(client, namespace),
            names: vec![
                format!("{service}.{namespace}.svc"),
                format!("{service}.{namespace}.svc.cluster.local"),
            ],
        })
    }

    /// From a folder, such as one that cert-manager fills.
    pub fn files(folder: PathBuf) -> Self {
        Self::new(Source::Files(folder))
    }

    fn new(source: Source) -> Self {
        Self {
            source: Arc::new(source),
            present: Arc::new(watch::Sender::new(Present::default())),
        }
    }

    /// Whether there is a certificate to serve with.
    pub fn is_ready(&self) -> bool {
        self.present.borrow().certified.is_some()
    }

    /// What to trust to reach the webhook, in PEM; none where that is not known.
    pub fn authorities(&self) -> Option<String> {
        self.present.borrow().authorities.clone()
    }

    /// Looks again, and renews what is due. After an error the present certificate goes on being served.
    pub async fn refresh(&self) -> Result<(), ServingError> {
        let (signed, authorities, place) = match self.source.as_ref() {
            Source::Files(folder) => {
                let (signed, authorities) = read(folder)?;
                (signed, authorities, folder.display().to_string())
            }
            Source::Made {
                authority,
                secrets,
                names,
            } => {
                let signed = shared(authority, secrets, names).await?;
                let bundle = authority.keyring().bundle().to_owned();
                (signed, Some(bundle), format!("the Secret {SECRET}"))
            }
        };
        let known = self.present.borrow().clone();
        let certified = match known.certified {
            Some(certified) if known.signed.as_ref() == Some(&signed) => certified,
            _ => Arc::new(
                certified(&signed).map_err(|source| ServingError::Unusable { place, source })?,
            ),
        };
        let next = Present {
            signed: Some(signed),
            certified: Some(certified),
            authorities,
        };
        self.present.send_if_modified(|present| {
            let changed = present.signed != next.signed || present.authorities != next.authorities;
            *present = next;
            changed
        });
        Ok(())
    }

    /// Looks again every half minute, until `stop`.
    pub async fn keep(self, stop: CancellationToken) {
        loop {
            if let Err(error) = self.refresh().await {
                tracing::error!("{error}");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    /// Returns when certificate or authorities have changed since the last call on this receiver.
    pub fn changes(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut receiver = self.present.subscribe();
        async move {
            // The sender lives in `self`, of which whoever waits holds a clone.
            let _ = receiver.changed().await;
        }
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving")
            .field("ready", &self.is_ready())
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.present.borrow().certified.clone()
    }
}

/// What stands in the Secret; renewed where it is due, by whichever replica sees it first.
async fn shared(
    authority: &Authority,
    secrets: &Api<Secret>,
    names: &[String],
) -> Result<Signed, ServingError> {
    let failed = |error| ServingError::Api(Box::new(error));
    let parameters = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    for _ in 0..4 {
        let found = secrets.get_opt(SECRET).await.map_err(failed)?;
        let present = found.as_ref().and_then(signed_of);
        let keyring = authority.keyring();
        let signed = keyring.server(names, present.clone(), Timestamp::now())?;
        if present.as_ref() == Some(&signed) {
            return Ok(signed);
        }
        let written = match &found {
            None => secrets.create(&parameters, &secret_of(&signed, None)).await,
            Some(found) => {
                let secret = secret_of(&signed, found.resource_version());
                secrets.replace(SECRET, &parameters, &secret).await
            }
        };
        match written {
            Ok(_) => {
                tracing::info!("made a new certificate for the webhook");
                return Ok(signed);
            }
            // Another replica was faster: look again.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(ServingError::Contended)
}

fn signed_of(secret: &Secret) -> Option<Signed> {
    let text = |key: &str| {
        let bytes = &secret.data.as_ref()?.get(key)?.0;
        String::from_utf8(bytes.clone()).ok()
    };
    Some(Signed {
        certificate: text(CERTIFICATE)?,
        key: text(KEY)?,
    })
}

fn secret_of(signed: &Signed, resource_version: Option<String>) -> Secret {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.to_owned()),
            resource_version,
            labels: Some(BTreeMap::from([(
                MANAGED_BY_LABEL.to_owned(),
                MANAGED_BY.to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(BTreeMap::from([
            (CERTIFICATE.to_owned(), bytes(&signed.certificate)),
            (KEY.to_owned(), bytes(&signed.key)),
        ])),
        ..Secret::default()
    }
}

fn read(folder: &Path) -> Result<(Signed, Option<String>), ServingError> {
    let text = |name: &str| {
        let file = folder.join(name);
        bounded(&file).map_err(|source| ServingError::File { file, source })
    };
    let signed = Signed {
        certificate: text(CERTIFICATE)?,
        key: text(KEY)?,
    };
    let authorities = match text(AUTHORITY) {
        Ok(authorities) => Some(authorities).filter(|text| !text.trim().is_empty()),
        // Whoever gives the files may also fill the configuration.
        Err(ServingError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            None
        }
        Err(error) => return Err(error),
    };
    Ok((signed, authorities))
}

fn bounded(file: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let mut open = std::fs::File::open(file)?.take(LARGEST_FILE + 1);
    open.read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(std::io::Error::other(format!(
            "it has more than {LARGEST_FILE} bytes"
        )));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::authorities::Authorities;
    use super::super::keyring::Keyring;
    use super::*;

    fn write(folder: &Path, signed: &Signed, authorities: Option<&str>) {
        std::fs::write(folder.join(CERTIFICATE), &signed.certificate).unwrap();
        std::fs::write(folder.join(KEY), &signed.key).unwrap();
        if let Some(authorities) = authorities {
            std::fs::write(folder.join(AUTHORITY), authorities).unwrap();
        }
    }

    #[tokio::test]
    async fn files_are_taken_up_when_they_change_and_bad_ones_never() {
        let now = Timestamp::now();
        let keyring = Keyring::new(Authorities::generate(now).unwrap(), now).unwrap();
        let sign = || keyring.server(&["a.b.svc".into()], None, now).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let serving = Serving::files(folder.path().to_owned());
        let error = serving.refresh().await.unwrap_err().to_string();
        assert!(error.contains("tls.crt"), "{error}");
        assert!(!serving.is_ready());

        let (one, two) = (sign(), sign());
        write(folder.path(), &one, None);
        serving.refresh().await.unwrap();
        assert!(serving.is_ready());
        assert_eq!(serving.authorities(), None);
        let first = serving.present.borrow().certified.clone().unwrap();

        // The certificate of one and the key of the other: as between two writes.
        let mixed = Signed {
            key: two.key.clone(),
            ..one.clone()
        };
        write(folder.path(), &mixed, None);
        assert!(matches!(
            serving.refresh().await,
            Err(ServingError::Unusable { .. })
        ));
        let still = serving.present.borrow().certified.clone().unwrap();
        assert!(Arc::ptr_eq(&still, &first));

        write(folder.path(), &two, Some(keyring.bundle()));
        serving.refresh().await.unwrap();
        assert_eq!(serving.authorities().as_deref(), Some(keyring.bundle()));
        let next = serving.present.borrow().certified.clone().unwrap();
        assert!(next.cert != first.cert);
        serving.refresh().await.unwrap();
        let same = serving.present.borrow().certified.clone().unwrap();
        assert!(Arc::ptr_eq(&same, &next));
    }
}
