//! Which of the containers is Postgres'.

use super::image::Known;
use super::names::SHARED_VOLUME;
use super::pod::{Container, Pod};
use super::refusal::{Quoted, Refusal};

const NAMES: [&str; 2] = ["postgres", "postgresql"];

/// Its index: the annotated one; on a pod that has been here before, the one that was chosen then; the one named
/// postgres or postgresql; the one with a known image; the only one.
pub(super) fn choose(pod: &Pod, annotated: Option<&str>, before: bool) -> Result<usize, Refusal> {
    let containers = &pod.spec.containers;
    let one = |is: &dyn Fn(&Container) -> bool| {
        let mut found = (0..containers.len()).filter(|&index| is(&containers[index]));
        match (found.next(), found.next()) {
            (Some(index), None) => Some(index),
            _ => None,
        }
    };
    let present = || Quoted::list(containers.iter().map(|c| c.name.as_str()));
    if let Some(named) = annotated {
        return one(&|c| c.name == named).ok_or_else(|| Refusal::NoSuchContainer {
            named: Quoted::new(named),
            present: present(),
        });
    }
    let ours = |c: &Container| c.volume_mounts.iter().any(|m| m.name == SHARED_VOLUME);
    before
        .then(|| one(&ours))
        .flatten()
        .or_else(|| one(&|c| NAMES.contains(&c.name.as_str())))
        .or_else(|| one(&|c| Known::of(&c.image).is_some()))
        .or_else(|| one(&|_| true))
        .ok_or_else(|| Refusal::WhichContainer { present: present() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::names::CONTAINER_ANNOTATION;
    use serde_json::json;

    fn chosen(containers: &[(&str, &str)], annotated: Option<&str>) -> Result<usize, String> {
        let containers: Vec<_> = containers
            .iter()
            .map(|(name, image)| json!({"name": name, "image": image}))
            .collect();
        let pod = Pod::read(&json!({"spec": {"containers": containers}})).unwrap();
        choose(&pod, annotated, false).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn the_container_is_found() {
        for (containers, annotated, expected) in [
            (vec![("a", "x"), ("b", "x")], Some("b"), 1),
            (vec![("a", "x"), ("postgres", "y")], Some("a"), 0),
            (vec![("a", "postgres:17"), ("postgres", "y")], None, 1),
            (vec![("a", "postgres:17"), ("postgresql", "y")], None, 1),
            (vec![("exporter", "x"), ("db", "postgres:17")], None, 1),
            (vec![("db", "acme/db:1")], None, 0),
        ] {
            assert_eq!(
                chosen(&containers, annotated),
                Ok(expected),
                "{containers:?}"
            );
        }
    }

    #[test]
    fn what_is_not_clear_is_refused_with_the_line_to_add() {
        for (containers, annotated) in [
            (vec![("a", "x"), ("b", "x")], None),
            (vec![("a", "postgres:17"), ("b", "postgres:16")], None),
            (vec![("postgres", "x"), ("postgresql", "x")], None),
            (vec![], None),
            (vec![("postgres", "postgres")], Some("db")),
            (vec![("a", "x"), ("a", "x")], Some("a")),
        ] {
            let sentence = chosen(&containers, annotated).unwrap_err();
            assert!(sentence.contains(CONTAINER_ANNOTATION), "{sentence}");
            for (name, _) in containers {
                assert!(sentence.contains(name), "{sentence}");
            }
        }
    }

    #[test]
    fn a_container_that_came_later_changes_nothing() {
        let pod = Pod::read(&json!({"spec": {"containers": [
            {"name": "mesh", "image": "m"},
            {"name": "db", "image": "acme/db", "volumeMounts": [{"name": "holdfast", "mountPath": "/holdfast"}]},
        ]}}))
        .unwrap();
        assert_eq!(choose(&pod, None, true), Ok(1));
        assert!(choose(&pod, None, false).is_err());
    }
}
