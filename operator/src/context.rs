//! What every controller has at hand.

use crate::archive::{Reports, StoredArchives, WatchedPod, wanted_repositories};
use crate::authority::Authority;
use crate::backup::Phase;
use crate::cli::RunArgs;
use crate::controller::Waker;
use crate::events::Events;
use crate::inject::InjectSettings;
use crate::metrics::Metrics;
use crate::names::{
    ARCHIVE_LABEL, GENERATION_ANNOTATION, Key, MANAGED_BY, MANAGED_BY_LABEL, SYSTEM_ANNOTATION,
};
use crate::objects::{Objects, Watches};
use crate::restore::archive_of;
use crate::secrets::UserSecrets;
use crate::sidecar_client::SidecarClient;
use crate::status::StatusWriter;
use holdfast_crds::{Archive, Backup, Repository, Restore, ScheduledBackup};
use holdfast_protocol::status::{BackupStatus, RestoreStatus};
use holdfast_repository::owner::InstallationId;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::Api;
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Objects in one page of a list: a page is in memory whole, as text and as objects, before the first is made small.
const PAGE: u32 = 100;

/// What the operator was told on its command line.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its own namespace.
    pub namespace: String,
    /// Its own pod.
    pub pod_name: String,
    /// Of the sidecars.
    pub inject: InjectSettings,
    /// Empty: all.
    pub watch_namespaces: Vec<String>,
    /// For so long what expires is announced before.
    pub expiry_grace: Duration,
    /// Archives are looked through for what expires this often.
    pub upkeep_period: Duration,
}

impl From<&RunArgs> for Settings {
    fn from(args: &RunArgs) -> Self {
        let namespaces = args.watch_namespaces.iter().map(|name| name.trim());
        Self {
            namespace: args.namespace.clone(),
            pod_name: args.pod_name.clone(),
            inject: InjectSettings {
                image: args.image.clone(),
                pull_policy: args.image_pull_policy,
                memory: args.sidecar_memory.clone(),
            },
            watch_namespaces: namespaces
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
            expiry_grace: Duration::from_secs(args.expiry_grace_seconds),
            upkeep_period: Duration::from_secs(args.upkeep_seconds),
        }
    }
}

/// Wakes controllers, from anywhere.
#[derive(Debug, Clone, Default)]
pub struct Wakers {
    /// Of Repositories.
    pub repositories: Waker,
    /// Of Archives.
    pub archives: Waker,
    /// Of Backups.
    pub backups: Waker,
    /// Of ScheduledBackups.
    pub schedules: Waker,
    /// Of Restores.
    pub restores: Waker,
    /// Of the upkeep of what Archives have stored.
    pub upkeep: Waker,
    /// Of rendered Secrets that may have no Archive any more, by the Archive's key.
    pub orphans: Waker,
}

/// What is watched.
#[derive(Debug, Clone)]
pub struct WatchedObjects {
    /// All Repositories.
    pub repositories: Objects<Repository>,
    /// All Archives.
    pub archives: Objects<Archive>,
    /// All Backups.
    pub backups: Objects<Backup>,
    /// All ScheduledBackups.
    pub schedules: Objects<ScheduledBackup>,
    /// All Restores.
    pub restores: Objects<Restore>,
    /// The pods with our label.
    pub pods: Objects<WatchedPod>,
    /// The Secrets that we rendered.
    pub rendered: Objects<Secret>,
}

/// What every controller has at hand. Made on the replica that leads; handed around by `Arc`.
pub struct Context {
    /// To the API server.
    pub client: Client,
    /// From the command line.
    pub settings: Settings,
    /// Names this installation in repositories: who may expire.
    pub installation: InstallationId,
    /// For people.
    pub events: Events,
    /// Certificates.
    pub authority: Authority,
    /// Asks and orders.
    pub sidecars: SidecarClient,
    /// Secrets of users, by name.
    pub secrets: UserSecrets,
    /// For Prometheus.
    pub metrics: Arc<Metrics>,
    /// What is watched.
    pub watched: WatchedObjects,
    /// Wakes controllers.
    pub wakers: Wakers,
    /// Of Backups, whose status two controllers write.
    pub backup_status: StatusWriter<BackupStatus>,
    /// Of Restores, whose status two controllers read.
    pub restore_status: StatusWriter<RestoreStatus>,
    /// What the sidecars said last.
    pub reports: Reports,
    /// What the archives hold, as far as it was read.
    pub stored: StoredArchives,
    /// Ends everything.
    pub stop: CancellationToken,
    /// Holds what runs beside the controllers.
    pub tasks: TaskTracker,
}

/// A context that can't be made.
#[derive(Debug, Error)]
pub enum ContextError {
    /// The installation has no name.
    #[error(
        "the namespace kube-system can't be read, whose UID names this installation in repositories: grant `get` on it: {0}"
    )]
    Installation(Box<kube::Error>),
    /// A name that can't be used.
    #[error("this installation can't be named: {0}")]
    Name(#[from] holdfast_repository::owner::BadInstallationId),
}

/// What a context is made of.
pub struct Parts {
    /// To the API server.
    pub client: Client,
    /// From the command line.
    pub settings: Settings,
    /// Certificates.
    pub authority: Authority,
    /// For Prometheus.
    pub metrics: Arc<Metrics>,
    /// Ends everything.
    pub stop: CancellationToken,
}

impl Context {
    /// Begins all watches, and returns once everything that is there was seen.
    ///
    /// Verbs: get on the namespace kube-system; list and watch on our kinds, on Pods and on Secrets.
    pub async fn begin(parts: Parts) -> Result<Arc<Self>, ContextError> {
        let Parts {
            client,
            settings,
            authority,
            metrics,
            stop,
        } = parts;
        let installation = installation(&client, &settings.namespace).await?;
        let events = Events::new(client.clone(), settings.pod_name.clone());
        let wakers = Wakers::default();
        let tasks = TaskTracker::new();
        let watches = Watches {
            client: client.clone(),
            namespaces: &settings.watch_namespaces,
            events: events.clone(),
            metrics: metrics.clone(),
            tasks: &tasks,
            stop: stop.clone(),
        };
        let watched = watch(&watches, &wakers);
        let context = Arc::new(Self {
            sidecars: SidecarClient::new(authority.subscribe(), metrics.clone()),
            secrets: UserSecrets::new(client.clone()),
            backup_status: StatusWriter::new(client.clone(), metrics.clone(), events.clone()),
            restore_status: StatusWriter::new(client.clone(), metrics.clone(), events.clone()),
            reports: Reports::default(),
            stored: StoredArchives::default(),
            client,
            settings,
            installation,
            events,
            authority,
            metrics,
            watched,
            wakers,
            stop,
            tasks,
        });
        let WatchedObjects {
            repositories,
            archives,
            backups,
            schedules,
            restores,
            pods,
            rendered,
        } = &context.watched;
        tokio::join!(
            repositories.ready(),
            archives.ready(),
            backups.ready(),
            schedules.ready(),
            restores.ready(),
            pods.ready(),
            rendered.ready(),
        );
        Ok(context)
    }

    /// For a controller that writes status.
    pub fn status_writer<S: Clone + PartialEq + Serialize>(&self) -> StatusWriter<S> {
        StatusWriter::new(
            self.client.clone(),
            self.metrics.clone(),
            self.events.clone(),
        )
    }

    /// The Archives of a namespace that keep something in a Repository.
    pub fn archives_in(&self, repository: &Key) -> Vec<Arc<Archive>> {
        archives_in(&self.watched.archives, repository)
    }
}

fn archives_in(archives: &Objects<Archive>, repository: &Key) -> Vec<Arc<Archive>> {
    archives.filter(&repository.namespace, |archive| {
        let mut names = wanted_repositories(&archive.spec);
        names.any(|name| name == repository.name)
    })
}

/// Who hears of what.
fn watch(watches: &Watches<'_>, wakers: &Wakers) -> WatchedObjects {
    let config = || watcher::Config::default().page_size(PAGE);
    let backups = watches.begin(config(), |_| {}, {
        let wakers = wakers.clone();
        move |backup: &Backup| {
            if let Some(key) = Key::of(backup) {
                wakers.backups.wake(key);
            }
        }
    });
    let schedules = watches.begin(config(), |_| {}, {
        let wakers = wakers.clone();
        move |schedule: &ScheduledBackup| {
            if let Some(key) = Key::of(schedule) {
                wakers.schedules.wake(key);
            }
        }
    });
    let restores = watches.begin(config(), |_| {}, {
        let wakers = wakers.clone();
        move |restore: &Restore| {
            if let Some(key) = Key::of(restore) {
                // Its order stands in the settings of the Archive's pods.
                if let Some(archive) = archive_of(restore) {
                    wakers.archives.wake(archive);
                }
                wakers.restores.wake(key);
            }
        }
    });
    let archives = watches.begin(config(), |_| {}, {
        let (wakers, backups, schedules) = (wakers.clone(), backups.clone(), schedules.clone());
        move |archive: &Archive| {
            if let Some(key) = Key::of(archive) {
                wake_waiting(&key, &backups, &schedules, &wakers);
                wakers.orphans.wake(key.clone());
                wakers.upkeep.wake(key.clone());
                wakers.archives.wake(key);
            }
        }
    });
    let repositories = watches.begin(config(), |_| {}, {
        let (wakers, archives) = (wakers.clone(), archives.clone());
        move |repository: &Repository| {
            let Some(key) = Key::of(repository) else {
                return;
            };
            for archive in archives_in(&archives, &key) {
                if let Some(key) = Key::of(archive.as_ref()) {
                    wakers.archives.wake(key);
                }
            }
            wakers.repositories.wake(key);
        }
    });
    let pods = watches.begin(config().labels(ARCHIVE_LABEL), |_| {}, {
        let wakers = wakers.clone();
        move |pod: &WatchedPod| {
            if let Some(key) = pod.archive() {
                wakers.orphans.wake(key.clone());
                wakers.archives.wake(key.clone());
            }
        }
    });
    let ours = format!("{MANAGED_BY_LABEL}={MANAGED_BY},{ARCHIVE_LABEL}");
    let rendered = watches.begin(config().labels(&ours), slim_secret, {
        let wakers = wakers.clone();
        move |secret: &Secret| {
            let archive = secret.labels().get(ARCHIVE_LABEL);
            if let (Some(namespace), Some(archive)) = (secret.namespace(), archive) {
                let key = Key::new(namespace, archive.clone());
                wakers.orphans.wake(key.clone());
                wakers.archives.wake(key);
            }
        }
    });
    WatchedObjects {
        repositories,
        archives,
        backups,
        schedules,
        restores,
        pods,
        rendered,
    }
}

/// Whatever waits for an Archive hears of it.
fn wake_waiting(
    archive: &Key,
    backups: &Objects<Backup>,
    schedules: &Objects<ScheduledBackup>,
    wakers: &Wakers,
) {
    let waiting = backups.filter(&archive.namespace, |backup| {
        backup.spec.archive_ref.name == archive.name
            && Phase::of(backup.status.as_ref()) == Phase::Waiting
    });
    for key in waiting.iter().filter_map(|backup| Key::of(backup.as_ref())) {
        wakers.backups.wake(key);
    }
    let scheduled = schedules.filter(&archive.namespace, |schedule| {
        schedule.spec.archive_ref.name == archive.name
    });
    for key in scheduled
        .iter()
        .filter_map(|schedule| Key::of(schedule.as_ref()))
    {
        wakers.schedules.wake(key);
    }
}

fn slim_secret(secret: &mut Secret) {
    secret
        .annotations_mut()
        .retain(|name, _| name == GENERATION_ANNOTATION || name == SYSTEM_ANNOTATION);
}

/// Two clusters have different UIDs of kube-system, also where one is a copy made from a backup of the other's objects;
/// and one cluster may hold two installations, in two namespaces.
async fn installation(client: &Client, namespace: &str) -> Result<InstallationId, ContextError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let system = namespaces
        .get("kube-system")
        .await
        .map_err(|error| ContextError::Installation(Box::new(error)))?;
    Ok(installation_name(&system.uid().unwrap_or_default(), namespace).parse()?)
}

/// Begins with the namespace, for people; what follows tells clusters apart.
fn installation_name(system: &str, namespace: &str) -> String {
    let digest = Sha256::digest(format!("{system}/{namespace}"));
    let digest = hex::encode(digest.get(..8).unwrap_or_default());
    let shown: String = namespace.chars().take(40).collect();
    format!("{shown}.{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installation_is_named_by_its_cluster_and_namespace() {
        let one = installation_name("uid-1", "holdfast-system");
        assert!(one.starts_with("holdfast-system."), "{one}");
        assert!(one.parse::<InstallationId>().is_ok());
        assert_ne!(one, installation_name("uid-2", "holdfast-system"));
        assert_ne!(one, installation_name("uid-1", "other"));
        let long = installation_name("uid-1", &"x".repeat(63));
        assert!(long.parse::<InstallationId>().is_ok(), "{long}");
    }
}
