//! Speaks to a sidecar: mutual TLS, by name.
//!
//! A pod's address may be another pod's tomorrow, so a sidecar is known by the name in its certificate, which our
//! authority signs for its archive alone; and an order names the pod that it is for.

mod error;
mod http;

pub use error::SidecarError;

use crate::authority::Keyring;
use crate::metrics::Metrics;
use crate::names::{CONTROL_PORT, Key};
use crate::text;
use holdfast_protocol::control::{
    BackupAccepted, BackupOrder, Drain, DrainOrder, GoAccepted, GoOrder, InstanceReport, Lacking,
    LackingQuestion, Outside, SwitchWalOrder, UNLESS_SECONDS, WalSwitched, sidecar_name,
};
use holdfast_protocol::status::BackupStatus;
use holdfast_repository::backup::BackupId;
use http::{Request, WHOLE};
use hyper::Method;
use serde::de::DeserializeOwned;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Where a sidecar is, and who it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    /// The archive whose sidecar it must prove to be.
    pub archive: Key,
    /// The pod's.
    pub address: IpAddr,
    /// The pod that orders are for.
    pub pod_uid: String,
}

/// Asks and orders. Cheap to clone.
#[derive(Clone)]
pub struct SidecarClient {
    keyring: watch::Receiver<Arc<Keyring>>,
    metrics: Arc<Metrics>,
    port: u16,
}

impl SidecarClient {
    /// With the certificates of whatever keyring is held when it asks.
    pub fn new(keyring: watch::Receiver<Arc<Keyring>>, metrics: Arc<Metrics>) -> Self {
        Self {
            keyring,
            metrics,
            port: CONTROL_PORT,
        }
    }

    #[cfg(test)]
    fn on_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// What it knows of itself and its server. The answer is checked to be the named pod's.
    pub async fn status(&self, sidecar: &Sidecar) -> Result<InstanceReport, SidecarError> {
        self.report(sidecar, "/v1/status", WHOLE).await
    }

    /// The same, once its [`InstanceReport::mark`] is another one, or after [`UNLESS_SECONDS`].
    pub async fn news(
        &self,
        sidecar: &Sidecar,
        mark: &str,
    ) -> Result<InstanceReport, SidecarError> {
        // Whatever a sidecar calls its mark: it stands in an address.
        let mark: String = mark.chars().filter(char::is_ascii_alphanumeric).collect();
        // Then the report is made.
        let within = Duration::from_secs(UNLESS_SECONDS) + WHOLE;
        self.report(sidecar, &format!("/v1/status?unless={mark}"), within)
            .await
    }

    async fn report(
        &self,
        sidecar: &Sidecar,
        path: &str,
        within: Duration,
    ) -> Result<InstanceReport, SidecarError> {
        let answer = self.send_within(within, sidecar, "status", Method::GET, path, None);
        let report: InstanceReport = self.parse(sidecar, &answer.await?)?;
        match &report.pod_uid {
            Some(uid) if *uid != sidecar.pod_uid => Err(SidecarError::Refused {
                code: 412,
                message: "it is another pod's sidecar".to_owned(),
            }),
            _ => Ok(report),
        }
    }

    /// Orders a backup, and returns its id. Ordering again with the same id does nothing more. The order is made out to
    /// the sidecar's pod.
    pub async fn start_backup(
        &self,
        sidecar: &Sidecar,
        order: &BackupOrder,
    ) -> Result<String, SidecarError> {
        let order = BackupOrder {
            pod_uid: Some(sidecar.pod_uid.clone()),
            ..order.clone()
        };
        let accepted: BackupAccepted = self
            .ask(
                sidecar,
                "start_backup",
                Method::POST,
                "/v1/backups",
                json(&order),
            )
            .await?;
        Ok(accepted.id)
    }

    /// How a backup is doing.
    pub async fn backup(
        &self,
        sidecar: &Sidecar,
        id: &BackupId,
    ) -> Result<BackupStatus, SidecarError> {
        let path = format!("/v1/backups/{id}");
        self.ask(sidecar, "backup", Method::GET, &path, None).await
    }

    /// Ends a backup that runs. It has ended when [`SidecarClient::backup`] says so.
    pub async fn cancel_backup(
        &self,
        sidecar: &Sidecar,
        id: &BackupId,
    ) -> Result<(), SidecarError> {
        let path = format!("/v1/backups/{id}");
        self.send(sidecar, "cancel_backup", Method::DELETE, &path, None)
            .await
            .map(|_| ())
    }

    /// Has the server close the segment that it writes, so that it is archived. Its end.
    pub async fn switch_wal(&self, sidecar: &Sidecar) -> Result<WalSwitched, SidecarError> {
        let order = SwitchWalOrder {
            pod_uid: Some(sidecar.pod_uid.clone()),
        };
        self.ask(
            sidecar,
            "switch_wal",
            Method::POST,
            "/v1/switch-wal",
            json(&order),
        )
        .await
    }

    /// Which of these its server would not find if its configuration named them.
    pub async fn lacking(
        &self,
        sidecar: &Sidecar,
        outside: Vec<Outside>,
    ) -> Result<Vec<Outside>, SidecarError> {
        let question = LackingQuestion {
            outside,
            pod_uid: Some(sidecar.pod_uid.clone()),
        };
        let answer: Lacking = self
            .ask(
                sidecar,
                "lacking",
                Method::POST,
                "/v1/lacking",
                json(&question),
            )
            .await?;
        Ok(answer.lacking)
    }

    /// Has whatever the data directory has and the archive lacks archived, and tells how far that is: it is asked again
    /// until it is done.
    pub async fn drain(&self, sidecar: &Sidecar) -> Result<Drain, SidecarError> {
        let order = DrainOrder {
            pod_uid: Some(sidecar.pod_uid.clone()),
        };
        self.ask(sidecar, "drain", Method::POST, "/v1/drain", json(&order))
            .await
    }

    /// Lets the restore in place go on that the pod holds for, and returns its order. Saying so again does nothing more.
    pub async fn restore(&self, sidecar: &Sidecar, order: &str) -> Result<String, SidecarError> {
        let order = GoOrder {
            order: order.to_owned(),
            pod_uid: Some(sidecar.pod_uid.clone()),
        };
        let accepted: GoAccepted = self
            .ask(
                sidecar,
                "restore",
                Method::POST,
                "/v1/restore",
                json(&order),
            )
            .await?;
        Ok(accepted.order)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        sidecar: &Sidecar,
        request: &'static str,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T, SidecarError> {
        let answer = self.send(sidecar, request, method, path, body).await?;
        self.parse(sidecar, &answer)
    }

    fn parse<T: DeserializeOwned>(
        &self,
        sidecar: &Sidecar,
        answer: &[u8],
    ) -> Result<T, SidecarError> {
        serde_json::from_slice(answer).map_err(|error| SidecarError::Protocol {
            address: self.address(sidecar).to_string(),
            reason: text::cause(&error),
        })
    }

    async fn send(
        &self,
        sidecar: &Sidecar,
        request: &'static str,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, SidecarError> {
        self.send_within(WHOLE, sidecar, request, method, path, body)
            .await
    }

    async fn send_within(
        &self,
        within: Duration,
        sidecar: &Sidecar,
        request: &'static str,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, SidecarError> {
        let Sidecar { archive, .. } = sidecar;
        let sent = Request {
            tls: self.keyring.borrow().client().clone(),
            address: self.address(sidecar),
            name: sidecar_name(&archive.namespace, &archive.name),
            method,
            path,
            body: body.unwrap_or_default(),
            within,
        };
        let answer = sent.send().await;
        let result = answer
            .as_ref()
            .map_or_else(|error| error.kind(), |_| "answered");
        self.metrics.sidecar_request(request, result);
        answer
    }

    fn address(&self, sidecar: &Sidecar) -> SocketAddr {
        SocketAddr::new(sidecar.address, self.port)
    }
}

/// Our own plain structs always serialise.
fn json(value: &impl serde::Serialize) -> Option<Vec<u8>> {
    serde_json::to_vec(value).ok()
}

#[cfg(test)]
mod tests;
