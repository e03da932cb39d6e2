//! Carrying out what was ordered: deletes pods, lets them go on, and tells how far it is.

use super::phase::{Phase, was_started};
use super::step::{Act, Observed, Seen, Step, is_idle, step};
use super::{Look, POLL, Restores, members_of};
use crate::archive::{Member, Said, present};
use crate::controller::{Outcome, ReconcileError};
use crate::names::rendered_secret;
use crate::text;
use holdfast_protocol::status::{RestorePod, RestoreStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Preconditions};
use kube::{Resource, ResourceExt};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// A pod that comes back with older settings is deleted this often at most.
const AGAIN: Duration = Duration::from_secs(10);

impl Restores {
    pub(super) async fn follow(
        &self,
        look: &mut Look<'_>,
        set: &str,
    ) -> Result<Outcome, ReconcileError> {
        self.sync_finalizer(look, Phase::Ordered).await?;
        let mut members = members_of(&self.context, &look.archive, set);
        self.ask(&mut members).await;
        let status = look.status();
        let pods = self.seen(look, &status, &members);
        let secret = look.archive.beside(rendered_secret(&look.archive.name));
        let secret = self.context.watched.rendered.get(&secret);
        let secret = secret.as_deref().map(present);
        let order = secret.as_ref().and_then(|secret| secret.order());
        let backup = self.running_backup(&look.archive);
        let next = step(
            &status,
            &Observed {
                pods: &pods,
                rendered: secret.map(|secret| (secret.generation, order.as_deref())),
                backup: backup.as_deref(),
                action: look.restore.spec.action,
            },
        );
        self.take(look, status, next, &members).await
    }

    async fn take(
        &self,
        look: &mut Look<'_>,
        status: RestoreStatus,
        next: Step,
        members: &[Member],
    ) -> Result<Outcome, ReconcileError> {
        let Step {
            act,
            state,
            progress,
            reached,
            is_spent,
        } = next;
        if matches!(act, Act::Go(_)) && !was_started(&status) && !self.are_gone(look).await? {
            // What is watched is a moment old.
            return Ok(Outcome::Again(POLL));
        }
        let status = RestoreStatus {
            progress,
            recovered_to: reached.or(status.recovered_to),
            ..status
        };
        // That it has started is written down before any pod is told.
        self.write(look, status, &state).await?;
        match act {
            Act::Nothing => {}
            Act::Delete(pods) => self.delete(look, &pods).await?,
            Act::DeleteAgain(pods) => {
                let lately = self.pace(look.key).deleted;
                if lately.is_none_or(|at| at.elapsed() >= AGAIN) {
                    self.set_pace(look.key, |pace| pace.deleted = Some(Instant::now()));
                    self.delete(look, &pods).await?;
                }
            }
            Act::Go(uids) => self.let_go_on(look, &uids, members).await,
        }
        self.set_pace(look.key, |pace| pace.is_spent = is_spent);
        Ok(match Phase::of(look.known.as_ref()).has_ended() {
            // Once more, for what is done when it has ended.
            true => Outcome::Again(Duration::ZERO),
            false => Outcome::Again(POLL),
        })
    }

    /// The pods with what their sidecars say, and how long each has had nothing to do.
    fn seen(&self, look: &Look<'_>, status: &RestoreStatus, members: &[Member]) -> Vec<Seen> {
        let id = status.order_id.as_deref().unwrap_or_default();
        let known = self.pace(look.key).idle;
        let mut idle = HashMap::new();
        let pods = members
            .iter()
            .map(|member| {
                let said = match &member.said {
                    Said::Report(report) => Ok(report.as_ref().clone()),
                    Said::Silent(why) => Err(why.clone()),
                    Said::Nothing => Err("its sidecar does not listen".to_owned()),
                };
                let since = said
                    .as_ref()
                    .is_ok_and(|report| is_idle(report, id))
                    .then(|| {
                        let since = known.get(&member.uid).copied();
                        *idle
                            .entry(member.uid.clone())
                            .or_insert(since.unwrap_or_else(Instant::now))
                    });
                Seen {
                    name: member.name.clone(),
                    uid: member.uid.clone(),
                    leaving: member.leaving,
                    said,
                    idle: since.map_or(Duration::ZERO, |since| since.elapsed()),
                }
            })
            .collect();
        self.set_pace(look.key, |pace| pace.idle = idle);
        pods
    }

    /// By what stands in the cluster now, whether no pod of before is left.
    ///
    /// Verbs on pods: get.
    async fn are_gone(&self, look: &Look<'_>) -> Result<bool, ReconcileError> {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &look.key.namespace);
        for pod in look.status().pods {
            let standing = api
                .get_metadata_opt(&pod.name)
                .await
                .map_err(ReconcileError::api("can't read a pod"))?;
            if pod.uid.is_some() && standing.and_then(|standing| standing.uid()) == pod.uid {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Deletes exactly these pods. One that is gone, or is another by now, is none of them.
    ///
    /// Verbs on pods: delete.
    async fn delete(&self, look: &Look<'_>, pods: &[RestorePod]) -> Result<(), ReconcileError> {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &look.key.namespace);
        let names = text::some(pods.iter().map(|pod| pod.name.as_str()));
        let note = format!("deletes {names}, to come back restored");
        let about = look.restore.object_ref(&());
        self.context
            .events
            .note(&about, "DeletingPods", "Restore", &note)
            .await;
        for RestorePod { name, uid } in pods {
            let exactly = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: uid.clone(),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            match api.delete(name, &exactly).await {
                Ok(_) => {
                    tracing::info!(restore = %look.key, pod = name, "deleted, to come back restored")
                }
                Err(kube::Error::Api(refused)) if matches!(refused.code, 404 | 409) => {}
                Err(error) => return Err(ReconcileError::api("can't delete a pod")(error)),
            }
        }
        Ok(())
    }

    /// Tells pods to go on. One that was not told is told again at the next look: it still holds.
    async fn let_go_on(&self, look: &Look<'_>, uids: &[String], members: &[Member]) {
        let Some(order) = look.status().order_id else {
            return;
        };
        let told = members.iter().filter(|member| uids.contains(&member.uid));
        for member in told {
            let Some(sidecar) = member.sidecar() else {
                continue;
            };
            match self.context.sidecars.restore(&sidecar, &order).await {
                Ok(_) => tracing::info!(restore = %look.key, pod = member.name, "told to go on"),
                Err(error) => {
                    let why = text::line(&error.to_string());
                    tracing::warn!(restore = %look.key, pod = member.name, "can't be told to go on: {why}");
                }
            }
        }
    }
}
