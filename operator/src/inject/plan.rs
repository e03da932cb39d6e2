//! From the pod to all that it is to have.

use super::annotations::{self, MAJORS, Wishes};
use super::command_line::{self, Reach};
use super::containers::{self, Parts};
use super::data_directory::{self, Evidence};
use super::environment::Environment;
use super::image::Known;
use super::names::{
    ARCHIVE_LABEL, BOOTSTRAP_CONTAINER, CONFIGURATION_VOLUME, CONTROL_PORT, INJECTED_ANNOTATION,
    MONITORING_PORT, MOUNT_POINTS_CONTAINER, NO_TOKEN_VOLUME, SHARED_DIRECTORY, SHARED_VOLUME,
    SIDECAR_CONTAINER,
};
use super::patch::{Plan, is_shared};
use super::path::Path;
use super::pod::{Container, Pod};
use super::reference::Reference;
use super::refusal::{Quoted, Refusal};
use super::settings::InjectSettings;
use super::{configure, container, foreign, identity, label, mounts, resources};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const OUR_CONTAINERS: [&str; 3] = [
    SIDECAR_CONTAINER,
    BOOTSTRAP_CONTAINER,
    MOUNT_POINTS_CONTAINER,
];

/// What the kubelet writes on the mirror of a static pod.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// None for a pod that is none of ours.
pub(super) fn plan(
    raw: &Value,
    settings: &InjectSettings,
) -> Result<Option<(Pod, Plan, Vec<String>)>, Refusal> {
    let pod = Pod::read(raw).map_err(Refusal::Unreadable)?;
    let Some(archive) = pod.metadata.labels.get(ARCHIVE_LABEL) else {
        return Ok(None);
    };
    let annotations = &pod.metadata.annotations;
    if !annotations::inject(annotations)? {
        return Ok(None);
    }
    let archive = label::archive(archive)?;
    if annotations.contains_key(MIRROR_ANNOTATION) {
        return Err(Refusal::StaticPod);
    }
    foreign::check(&pod)?;
    let before = annotations.contains_key(INJECTED_ANNOTATION);
    check_names(&pod, before)?;
    let wishes = annotations::wishes(annotations)?;
    let index = container::choose(&pod, wishes.container.as_deref(), before)?;
    let postgres = &pod.spec.containers[index];
    check_places(postgres)?;

    let known = Known::of(&postgres.image);
    let major = major(postgres, &wishes, known.as_ref())?;
    let environment = Environment::new(&postgres.env);
    let reach = command_line::reach(postgres, known.as_ref());
    let heard = match reach {
        Reach::Yes | Reach::Unclear => command_line::settings(postgres, &environment),
        Reach::No(_) => Vec::new(),
    };
    let places = data_directory::places(&Evidence {
        annotated: wishes.data_directory.as_ref(),
        container: postgres,
        environment: &environment,
        settings: &heard,
        known: known.as_ref(),
        major,
    })?;
    let data = mounts::choose(
        postgres,
        &pod.spec.volumes,
        &places,
        &environment,
        known.as_ref(),
        major,
    )?;
    // Where annotation and tag differ, what both can start with.
    let by_tag = known.as_ref().and_then(|known| known.major);
    let oldest = [major, by_tag].into_iter().flatten().min();
    let decision = configure::decide(wishes.configure, reach, &heard, oldest, &postgres.name)?;
    let memory = wishes.memory.as_ref().unwrap_or(&settings.memory);
    let parts = Parts {
        settings,
        data_directory: places.data.to_string(),
        wal_directory: places.wal.as_ref().map(ToString::to_string),
        data: &data,
        identity: identity::decide(wishes.run_as_user, postgres, &pod, known.as_ref())?,
        se_linux_options: postgres.security_context.se_linux_options.as_ref(),
        configure: decision.configure,
        memory,
        resources: resources::of(&pod, memory),
    };
    let volumes = containers::volumes(archive);
    let (mount_points, sidecar, bootstrap) =
        (parts.mount_points(), parts.sidecar(), parts.bootstrap());
    let digest = digest(&json!([volumes, mount_points, sidecar, bootstrap]));
    let plan = Plan {
        container: index,
        arguments: decision.arguments,
        shared_mount: containers::shared_mount(),
        position: position(&pod, postgres, &data.data_volume),
        volumes,
        mount_points,
        sidecar,
        bootstrap,
        digest,
    };
    let warnings = [wishes.warnings, places.warnings, data.warnings].concat();
    Ok(Some((pod, plan, warnings)))
}

/// Our names are ours only on a pod that was here before; and a sidecar that is none would archive nothing.
fn check_names(pod: &Pod, before: bool) -> Result<(), Refusal> {
    let taken = |kind, name| Err(Refusal::NameTaken { kind, name });
    for name in OUR_CONTAINERS {
        let named = |container: &&Container| container.name == name;
        let mut init = pod.spec.init_containers.iter().filter(named);
        let ours = |container: &Container| {
            let always = container.restart_policy.as_deref() == Some("Always");
            before && always == (name == SIDECAR_CONTAINER)
        };
        let wrong = init.next().is_some_and(|c| !ours(c)) || init.next().is_some();
        if wrong || pod.spec.containers.iter().any(|c| c.name == name) {
            return taken("container", name);
        }
    }
    for name in [SHARED_VOLUME, CONFIGURATION_VOLUME, NO_TOKEN_VOLUME] {
        if !before && pod.spec.volumes.iter().any(|volume| volume.name == name) {
            return taken("volume", name);
        }
    }
    let init = pod.spec.init_containers.iter();
    let others = init.filter(|container| !OUR_CONTAINERS.contains(&container.name.as_str()));
    for container in pod.spec.containers.iter().chain(others) {
        for port in [CONTROL_PORT, MONITORING_PORT] {
            if container
                .ports
                .iter()
                .any(|p| p.container_port == i64::from(port))
            {
                return Err(Refusal::PortTaken {
                    container: Quoted::new(&container.name),
                    port,
                });
            }
        }
    }
    Ok(())
}

/// In Postgres' container, /holdfast and what lies in it is ours.
fn check_places(postgres: &Container) -> Result<(), Refusal> {
    let ours = Path::parse(SHARED_DIRECTORY);
    let taken = postgres.volume_mounts.iter().find(|mount| {
        let path = mounts::path_of(mount);
        let inside = ours
            .as_ref()
            .zip(path)
            .is_some_and(|(ours, path)| ours.holds(&path));
        inside && !is_shared(mount)
    });
    taken.map_or(Ok(()), |mount| {
        Err(Refusal::PathTaken {
            container: Quoted::new(&postgres.name),
            path: Quoted::new(&mount.mount_path),
        })
    })
}

fn major(
    postgres: &Container,
    wishes: &Wishes,
    known: Option<&Known>,
) -> Result<Option<u32>, Refusal> {
    let by_tag = known.and_then(|known| known.major);
    match (wishes.major, by_tag) {
        (None, Some(major)) if !MAJORS.contains(&major) => Err(Refusal::Version {
            image: Quoted::new(&postgres.image),
            major,
        }),
        (annotated, by_tag) => Ok(annotated.or(by_tag)),
    }
}

/// Before the first init container with Postgres' image and a data mount, since that one may clone or restore; else
/// last.
fn position(pod: &Pod, postgres: &Container, data_volume: &str) -> usize {
    let repository = |container: &Container| Reference::parse(&container.image).repository;
    let image = repository(postgres);
    let clones = |container: &Container| {
        let mounts = &container.volume_mounts;
        !OUR_CONTAINERS.contains(&container.name.as_str())
            && repository(container) == image
            && mounts.iter().any(|mount| mount.name == data_volume)
    };
    let init = &pod.spec.init_containers;
    init.iter().position(clones).unwrap_or(init.len())
}

/// Half a SHA-256 is enough to tell versions apart.
fn digest(added: &Value) -> String {
    hex::encode(&Sha256::digest(added.to_string())[..16])
}
