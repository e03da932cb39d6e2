//! The claim: whether it may be written, and how it is made. Pure.

use super::super::phase::Phase;
use super::super::report::State;
use super::names::{RESTORE_ANNOTATION, RESTORE_UID_ANNOTATION};
use crate::inject::billionths;
use crate::names::{MANAGED_BY, MANAGED_BY_LABEL};
use crate::text;
use holdfast_crds::{ClaimTemplate, Restore};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use serde_json::{Value, json};

/// Another Restore into the same claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rival {
    /// Its name.
    pub name: String,
    /// How far it is.
    pub phase: Phase,
    /// Whether it goes first.
    pub is_older: bool,
}

/// Whether the claim may be written. `users`: the pods that use it, ours left out.
pub fn check(
    restore: &Restore,
    (name, template): (&str, Option<&ClaimTemplate>),
    standing: Option<&PersistentVolumeClaim>,
    users: &[String],
    rivals: &[Rival],
) -> Result<(), State> {
    let mut others = rivals.iter();
    if let Some(rival) = others.find(|rival| rival.is_older && !rival.phase.has_ended()) {
        return Err(State::refused(
            "AnotherRestore",
            format!(
                "the Restore {} into the claim {name} has not ended: give another claim, or delete that one and make this one again",
                rival.name
            ),
        ));
    }
    let Some(claim) = standing else {
        return match template {
            Some(_) => Ok(()),
            None => Err(State::bad(
                "ClaimNotFound",
                format!(
                    "the claim {name} does not exist in this namespace: make it, or write a template for it into another Restore"
                ),
            )),
        };
    };
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(State::bad(
            "ClaimGoing",
            format!("the claim {name} is being deleted: it goes once no pod uses it"),
        ));
    }
    let annotation = |name: &str| claim.annotations().get(name);
    let is_ours = annotation(RESTORE_UID_ANNOTATION) == restore.uid().as_ref();
    if template.is_some() && !is_ours {
        return Err(match annotation(RESTORE_ANNOTATION) {
            Some(other) => State::refused(
                "ClaimExists",
                format!(
                    "the claim {name} was made by the Restore {other}: give another name, or delete the claim and make this Restore again"
                ),
            ),
            None => State::refused(
                "ClaimExists",
                format!(
                    "the claim {name} is there already, and is never changed to what the template says: give another name, or leave the template out if the claim is empty and large enough"
                ),
            ),
        });
    }
    if !users.is_empty() {
        let users = text::some(users.iter().map(String::as_str));
        return Err(State::refused(
            "ClaimInUse",
            format!(
                "the claim {name} is used by the pod {users}: give another, or end that and make this Restore again"
            ),
        ));
    }
    Ok(())
}

/// The pods that use a claim and have not ended, whose Job's name (empty without one) is wanted.
pub fn users(pods: &[Pod], claim: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let uses = |pod: &&Pod| {
        let spec = pod.spec.as_ref();
        let mut volumes = spec
            .and_then(|spec| spec.volumes.as_ref())
            .into_iter()
            .flatten();
        volumes.any(|volume| {
            let source = volume.persistent_volume_claim.as_ref();
            source.is_some_and(|source| source.claim_name == claim)
        })
    };
    let has_ended = |pod: &&Pod| {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    let is_wanted = |pod: &&Pod| {
        let mut owners = pod.owner_references().iter();
        let job = owners.find(|owner| owner.kind == "Job");
        wanted(job.map_or("", |job| &job.name))
    };
    let pods = pods.iter().filter(uses);
    pods.filter(|pod| !has_ended(pod) && is_wanted(pod))
        .map(ResourceExt::name_any)
        .collect()
}

/// Whether so many bytes fit.
pub fn check_room(
    (name, template): (&str, Option<&ClaimTemplate>),
    standing: Option<&PersistentVolumeClaim>,
    needed: u64,
) -> Result<(), State> {
    let capacity = standing.and_then(|claim| {
        let capacity = claim.status.as_ref()?.capacity.as_ref()?;
        Some(capacity.get("storage")?.0.as_str())
    });
    let size = capacity.or(template.map(|template| template.size.as_str()));
    // A claim that no pod has used yet may have no capacity.
    let Some(size) = size else { return Ok(()) };
    let bytes = billionths(&json!(size)).map(|amount| amount / 1_000_000_000);
    match bytes {
        Some(bytes) if bytes < i128::from(needed) => Err(State::refused(
            "NoSpace",
            format!(
                "the claim {name} has {size}, and what is restored into it, with the first WAL of its recovery where that lies there, takes {}Mi: give a larger one",
                needed.div_ceil(1 << 20)
            ),
        )),
        _ => Ok(()),
    }
}

/// The claim as it is made. It belongs to nobody: what was restored stays.
pub fn claim(restore: &Restore, name: &str, template: &ClaimTemplate) -> Value {
    let ClaimTemplate {
        size,
        storage_class_name,
        access_modes,
    } = template;
    let modes: Vec<&str> = access_modes.iter().map(|mode| mode.name()).collect();
    let mut claim = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": name,
            "namespace": restore.namespace(),
            "labels": {(MANAGED_BY_LABEL): MANAGED_BY},
            "annotations": {
                (RESTORE_ANNOTATION): restore.name_any(),
                (RESTORE_UID_ANNOTATION): restore.uid(),
            },
        },
        "spec": {
            "accessModes": modes,
            "resources": {"requests": {"storage": size}},
        },
    });
    if let Some(class) = storage_class_name {
        claim["spec"]["storageClassName"] = json!(class);
    }
    claim
}

#[cfg(test)]
pub(super) mod tests;
