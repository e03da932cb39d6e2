//! The files of `crds/`.

use crate::schema::rewrite;
use crate::{Archive, Backup, Repository, Restore, ScheduledBackup};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// Every resource's definition, as it is installed.
pub fn all() -> Vec<CustomResourceDefinition> {
    [
        Repository::crd(),
        Archive::crd(),
        Backup::crd(),
        ScheduledBackup::crd(),
        Restore::crd(),
    ]
    .map(rewrite)
    .into()
}

/// File names and contents, one definition each.
///
/// # Errors
/// None is known: a definition is plain values.
pub fn files() -> Result<Vec<(String, String)>, serde_saphyr::ser::Error> {
    all()
        .into_iter()
        .map(|crd| {
            let name = format!("{}.yaml", crd.spec.names.plural);
            let yaml = serde_saphyr::to_string(&crd)?;
            let text = format!("# Written by `cargo run -p holdfast-crds -- crds` from the types in crds/src.\n{yaml}");
            Ok((name, text))
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn committed_files_are_current() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut names = BTreeSet::new();
        for (name, text) in files().unwrap() {
            let committed = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
            assert!(
                committed == text,
                "crds/{name} is not what the types say: run `cargo run -p holdfast-crds -- crds`"
            );
            let chart = folder.join("../charts/holdfast/files/crds").join(&name);
            assert!(
                std::fs::read_to_string(chart).unwrap_or_default() == text,
                "the chart's {name} is not what the types say: run `cargo run -p holdfast-crds -- charts/holdfast/files/crds`"
            );
            names.insert(name);
        }
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            // kubectl apply -f crds/ reads these.
            let applied = [".yaml", ".yml", ".json"]
                .iter()
                .any(|end| name.ends_with(end));
            assert!(
                !applied || names.contains(&name),
                "crds/{name} belongs to no type: remove it"
            );
        }
    }

    /// What is in a file is read as what was written.
    #[test]
    fn files_hold_the_definitions() {
        for (crd, (name, text)) in all().into_iter().zip(files().unwrap()) {
            let read: CustomResourceDefinition = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(read, crd, "{name}");
        }
    }

    /// `kubectl apply` keeps the last applied definition in an annotation, and annotations have 256 KiB in all.
    #[test]
    fn client_side_apply_has_room() {
        for crd in all() {
            let size = serde_json::to_string(&crd).unwrap().len();
            assert!(size < 200 << 10, "{}: {size} bytes", crd.spec.names.plural);
        }
    }
}
