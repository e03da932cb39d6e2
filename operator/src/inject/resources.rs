//! What the added containers ask for, so that the pod keeps its quality of service class.
//! <https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/>

use super::memory::Memory;
use super::names::{BOOTSTRAP_CONTAINER, MOUNT_POINTS_CONTAINER, SIDECAR_CONTAINER};
use super::pod::{Container, Pod, Resources};
use super::quantity::billionths;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A Guaranteed pod must say how much CPU it gets at most: half a core compresses some 100 MB/s.
const GUARANTEED_CPU: &str = "500m";
/// Asked for where nothing is promised: what archiving a quiet database takes.
const REQUESTED_CPU: &str = "50m";
const REQUESTED_MEMORY: &str = "64Mi";
/// Where every container has a limit, a quota may demand one of ours.
const LIMITED_CPU: &str = "1";

/// A pod's class, or that it does not come from its containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Guaranteed,
    Burstable,
    BestEffort,
    /// The pod as a whole has resources: its containers share them.
    OfThePod,
}

/// The `resources` of each added container.
pub(super) fn of(pod: &Pod, memory: &Memory) -> Value {
    let memory = memory.to_string();
    match class(pod) {
        Class::Guaranteed => {
            let both = json!({"cpu": GUARANTEED_CPU, "memory": memory});
            json!({"requests": both, "limits": both})
        }
        Class::Burstable => {
            let mut limits = json!({"memory": memory});
            let limited = |c: &Container| c.resources.limits.contains_key("cpu");
            if others(pod).all(limited) {
                limits["cpu"] = json!(LIMITED_CPU);
            }
            json!({
                "requests": {"cpu": REQUESTED_CPU, "memory": REQUESTED_MEMORY},
                "limits": limits,
            })
        }
        // Told by a variable alone.
        Class::BestEffort | Class::OfThePod => json!({}),
    }
}

fn others(pod: &Pod) -> impl Iterator<Item = &Container> {
    let ours = [
        SIDECAR_CONTAINER,
        BOOTSTRAP_CONTAINER,
        MOUNT_POINTS_CONTAINER,
    ];
    let init = pod.spec.init_containers.iter();
    let init = init.filter(move |container| !ours.contains(&container.name.as_str()));
    pod.spec.containers.iter().chain(init)
}

fn class(pod: &Pod) -> Class {
    let Resources { requests, limits } = &pod.spec.resources;
    if !requests.is_empty() || !limits.is_empty() {
        return Class::OfThePod;
    }
    let amount = |of: &BTreeMap<String, Value>, name: &str| {
        of.get(name)
            .and_then(billionths)
            .filter(|amount| *amount > 0)
    };
    let mut any = false;
    let mut all = true;
    for container in others(pod) {
        let Resources { requests, limits } = &container.resources;
        for name in ["cpu", "memory"] {
            let limit = amount(limits, name);
            // The API server takes a limit for the request that is left out.
            let request = amount(requests, name).or(limit);
            any |= limit.is_some() || request.is_some();
            all &= limit.is_some() && request == limit;
        }
    }
    match (any, all) {
        (false, _) => Class::BestEffort,
        (true, true) => Class::Guaranteed,
        (true, false) => Class::Burstable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: Value, more: Value) -> Pod {
        let resources = |value: &Value| json!({"name": "c", "resources": value});
        let list = |value: &Value| -> Vec<Value> {
            value.as_array().unwrap().iter().map(resources).collect()
        };
        let mut spec = json!({"containers": list(&containers)});
        spec.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        Pod::read(&json!({"spec": spec})).unwrap()
    }

    #[test]
    fn classes_are_those_of_kubernetes() {
        let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        let same = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}});
        let less = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Mi"}});
        let none = json!({});
        for (containers, expected) in [
            (json!([full]), Class::Guaranteed),
            (json!([same, full]), Class::Guaranteed),
            (json!([same, none]), Class::Burstable),
            (json!([less]), Class::Burstable),
            (json!([{"limits": {"memory": "1Gi"}}]), Class::Burstable),
            (json!([{"requests": {"cpu": "1"}}]), Class::Burstable),
            (json!([none]), Class::BestEffort),
            (json!([none, none]), Class::BestEffort),
            (
                json!([{"limits": {"nvidia.com/gpu": "1"}}]),
                Class::BestEffort,
            ),
            (json!([{"requests": {"cpu": "0"}}]), Class::BestEffort),
        ] {
            assert_eq!(
                class(&pod(containers.clone(), json!({}))),
                expected,
                "{containers}"
            );
        }
        let init = json!({"initContainers": [{"name": "init"}]});
        assert_eq!(class(&pod(json!([full]), init)), Class::Burstable);
        let ours =
            json!({"initContainers": [{"name": "holdfast"}, {"name": "holdfast-bootstrap"}]});
        assert_eq!(class(&pod(json!([full]), ours)), Class::Guaranteed);
        let whole = json!({"resources": {"limits": {"cpu": "2"}}});
        assert_eq!(class(&pod(json!([full]), whole)), Class::OfThePod);
    }

    #[test]
    fn the_class_is_kept() {
        let memory: Memory = "128Mi".parse().unwrap();
        for (containers, class_before) in [
            (
                json!([{"limits": {"cpu": "1", "memory": "1Gi"}}]),
                Class::Guaranteed,
            ),
            (json!([{"limits": {"cpu": "1"}}]), Class::Burstable),
            (json!([{"requests": {"memory": "1Gi"}}]), Class::Burstable),
            (json!([{}]), Class::BestEffort),
        ] {
            let added = of(&pod(containers.clone(), json!({})), &memory);
            let mut after = containers.as_array().unwrap().clone();
            after.push(added.clone());
            assert_eq!(
                class(&pod(Value::Array(after), json!({}))),
                class_before,
                "{added}"
            );
        }
    }

    #[test]
    fn limits_are_set_where_all_have_them() {
        let memory: Memory = "128Mi".parse().unwrap();
        let limit = |containers| of(&pod(containers, json!({})), &memory)["limits"]["cpu"].clone();
        assert_eq!(limit(json!([{"limits": {"cpu": "1"}}])), json!("1"));
        assert_eq!(limit(json!([{"limits": {"cpu": "1"}}, {}])), Value::Null);
        let added = of(
            &pod(json!([{"requests": {"cpu": "1"}}]), json!({})),
            &memory,
        );
        assert_eq!(added["limits"], json!({"memory": "128Mi"}));
    }
}
