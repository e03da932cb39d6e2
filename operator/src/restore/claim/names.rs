//! How what a Restore makes is called, and whose it is.

use crate::names::{MANAGED_BY, MANAGED_BY_LABEL};
use holdfast_crds::Restore;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// On a claim: the name of the Restore that made it.
pub const RESTORE_ANNOTATION: &str = "holdfast.dev/restore";
/// On a claim: the UID of the Restore that made it.
pub const RESTORE_UID_ANNOTATION: &str = "holdfast.dev/restore-uid";

/// A Job's name is the value of a label of its pods.
const LONGEST: usize = 63;

/// The name of a Restore's Job and Secret: of one with a long name, a part of it and a digest.
pub fn name_of(restore: &str) -> String {
    let name = format!("holdfast-restore-{restore}");
    if name.len() <= LONGEST {
        return name;
    }
    let digest = hex::encode(&Sha256::digest(restore)[..5]);
    let room = name.floor_char_boundary(LONGEST - 1 - digest.len());
    let part = name.get(..room).unwrap_or_default();
    format!("{}-{digest}", part.trim_end_matches(['-', '.']))
}

/// Of what goes with its Restore.
pub fn metadata(restore: &Restore) -> Value {
    json!({
        "name": name_of(&restore.name_any()),
        "namespace": restore.namespace(),
        "labels": {(MANAGED_BY_LABEL): MANAGED_BY},
        // It blocks nothing: that would take a right to restores/finalizers.
        "ownerReferences": [{
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": "Restore",
            "name": restore.name_any(),
            "uid": restore.uid(),
            "controller": true,
        }],
    })
}

/// Whether an object is one that goes with this Restore.
pub fn is_of(metadata: &ObjectMeta, restore: &Restore) -> bool {
    let owners = metadata.owner_references.iter().flatten();
    let uid = restore.uid();
    owners
        .into_iter()
        .any(|owner| Some(&owner.uid) == uid.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_and_is_one_restores_alone() {
        assert_eq!(name_of("back"), "holdfast-restore-back");
        let long = |last: &str| name_of(&format!("{}.{last}", "a".repeat(36)));
        assert_eq!(long("b").len(), 55);
        let (one, other) = (long(&"b".repeat(200)), long(&"c".repeat(200)));
        assert!(
            one.len() <= 63 && other.len() <= 63 && one != other,
            "{one}"
        );
    }
}
