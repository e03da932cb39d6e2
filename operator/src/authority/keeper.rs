//! The authorities as they stand in the cluster: created once, rotated by the leader, read back by everybody.

use super::authorities::{Authorities, BadAuthorities, Change};
use super::ca::AuthorityError;
use super::keyring::{Keyring, KeyringError};
use crate::names::{FIELD_MANAGER, MANAGED_BY, MANAGED_BY_LABEL};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The Secret.
const SECRET: &str = "holdfast-authority";

/// Between two looks at it.
const PERIOD: Duration = Duration::from_secs(60);

/// Authorities that can't be kept.
#[derive(Debug, Error)]
pub enum KeeperError {
    /// The Secret is not what we wrote.
    #[error(
        "the Secret {namespace}/{SECRET} can't be used: {source}; restore it from a copy, or delete it to have a new authority made: every pod then gets new certificates within minutes"
    )]
    Bad {
        /// The operator's.
        namespace: String,
        /// What is wrong.
        source: BadAuthorities,
    },
    /// The API server.
    #[error("the Secret {namespace}/{SECRET} can't be read or written: {source}")]
    Api {
        /// The operator's.
        namespace: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// Every attempt to write met another's.
    #[error("the Secret {namespace}/{SECRET} is changed by somebody else all the time")]
    Contended {
        /// The operator's.
        namespace: String,
    },
    /// Keys and signatures.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// What follows from the authorities.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
}

/// A handle on the authorities. Cheap to clone.
///
/// Verbs on the Secret in the operator's namespace: get, create, update.
#[derive(Clone)]
pub struct Authority {
    secrets: Api<Secret>,
    namespace: String,
    keyring: Arc<watch::Sender<Arc<Keyring>>>,
}

impl Authority {
    /// Reads the authorities, or creates them where there are none.
    pub async fn open(client: Client, namespace: &str) -> Result<Self, KeeperError> {
        let secrets = Api::namespaced(client, namespace);
        let authorities = stand(&secrets, namespace, None, false).await?;
        let keyring = Keyring::new(authorities, Timestamp::now())?;
        Ok(Self {
            secrets,
            namespace: namespace.to_owned(),
            keyring: Arc::new(watch::Sender::new(Arc::new(keyring))),
        })
    }

    /// What is held at the moment.
    pub fn keyring(&self) -> Arc<Keyring> {
        self.keyring.borrow().clone()
    }

    /// Tells when it is replaced.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Keyring>> {
        self.keyring.subscribe()
    }

    /// Looks again every minute, until `stop`. `leads` says whether this process may rotate.
    pub async fn keep(self, leads: watch::Receiver<bool>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
            let leads = *leads.borrow();
            if let Err(error) = self.refresh(leads).await {
                tracing::error!("{error}");
            }
        }
    }

    /// Looks again. After an error everything is as it was.
    pub async fn refresh(&self, leads: bool) -> Result<(), KeeperError> {
        let present = self.keyring();
        let authorities = stand(
            &self.secrets,
            &self.namespace,
            Some(present.authorities()),
            leads,
        )
        .await?;
        let now = Timestamp::now();
        if !authorities.are(present.authorities()) || present.is_due(now) {
            let keyring = Keyring::new(authorities, now)?;
            self.keyring.send_replace(Arc::new(keyring));
        }
        Ok(())
    }
}

/// What stands in the Secret, after what had to be done to it. A Secret that is gone is made again from `present`.
async fn stand(
    secrets: &Api<Secret>,
    namespace: &str,
    present: Option<&Authorities>,
    leads: bool,
) -> Result<Authorities, KeeperError> {
    let failed = |source: kube::Error| KeeperError::Api {
        namespace: namespace.to_owned(),
        source: Box::new(source),
    };
    let parameters = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let now = Timestamp::now();
    // Another replica may be a moment ahead, once each time.
    for _ in 0..4 {
        let Some(secret) = secrets.get_opt(SECRET).await.map_err(failed)? else {
            let authorities = match present {
                Some(present) => present.clone(),
                None => Authorities::generate(now)?,
            };
            let secret = secret_of(&authorities, None);
            match secrets.create(&parameters, &secret).await {
                Ok(_) => {
                    tracing::info!("made the Secret {namespace}/{SECRET}");
                    return Ok(authorities);
                }
                Err(kube::Error::Api(status)) if status.code == 409 => continue,
                Err(error) => return Err(failed(error)),
            }
        };
        let data = secret.data.clone().unwrap_or_default();
        let authorities = Authorities::of_secret(&data).map_err(|source| KeeperError::Bad {
            namespace: namespace.to_owned(),
            source,
        })?;
        let change = authorities.change(now);
        if change == Change::Keep || !leads {
            return Ok(authorities);
        }
        let changed = authorities.changed(change, now)?;
        let secret = secret_of(&changed, secret.resource_version());
        match secrets.replace(SECRET, &parameters, &secret).await {
            Ok(_) => {
                tracing::info!(?change, "changed the authorities");
                return Ok(changed);
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(KeeperError::Contended {
        namespace: namespace.to_owned(),
    })
}

fn secret_of(authorities: &Authorities, resource_version: Option<String>) -> Secret {
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
        data: Some(authorities.to_secret()),
        ..Secret::default()
    }
}
