//! A pod as it is watched. Thousands are kept, and a whole one takes some ten KiB: so of each only the member that it
//! makes, and what names it.

use super::member::Member;
use super::reports::Said;
use crate::names::Key;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;

/// A pod.
#[derive(Debug, Clone)]
pub struct WatchedPod {
    metadata: ObjectMeta,
    member: Option<Member>,
}

impl WatchedPod {
    /// Whose label it carries.
    pub fn archive(&self) -> Option<&Key> {
        self.member.as_ref().map(|member| &member.archive)
    }

    /// The member that it makes; none for one without label or UID.
    pub fn member(&self, said: impl Fn(&str) -> Said) -> Option<Member> {
        let member = self.member.clone()?;
        Some(Member {
            said: said(&member.uid),
            ..member
        })
    }
}

impl From<Pod> for WatchedPod {
    fn from(pod: Pod) -> Self {
        let member = Member::of(&pod, |_| Said::Nothing);
        let all = pod.metadata;
        let metadata = ObjectMeta {
            name: all.name,
            namespace: all.namespace,
            uid: all.uid,
            resource_version: all.resource_version,
            ..ObjectMeta::default()
        };
        Self { metadata, member }
    }
}

impl<'de> Deserialize<'de> for WatchedPod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Pod::deserialize(deserializer).map(Self::from)
    }
}

impl Resource for WatchedPod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        Pod::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        Pod::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        Pod::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        Pod::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::super::member::tests::pod;
    use super::*;
    use kube::ResourceExt;
    use serde_json::json;

    #[test]
    fn a_pod_makes_the_same_member_and_keeps_what_names_it() {
        let whole = pod(json!({
            "metadata": {"resourceVersion": "7", "annotations": {"big": "x"}, "labels": {"app": "x"}},
        }));
        let watched: WatchedPod =
            serde_json::from_value(serde_json::to_value(&whole).unwrap()).unwrap();
        let said = |_: &str| Said::Silent("gone".into());
        assert_eq!(watched.member(said), Member::of(&whole, said));
        assert_eq!(Key::of(&watched), Some(Key::new("shop", "orders-0")));
        assert_eq!(watched.archive(), Some(&Key::new("shop", "orders")));
        assert!(watched.labels().is_empty() && watched.annotations().is_empty());
        assert_eq!(watched.resource_version().as_deref(), Some("7"));
        let (about, expected) = (watched.object_ref(&()), whole.object_ref(&()));
        assert_eq!(about, expected);
    }
}
