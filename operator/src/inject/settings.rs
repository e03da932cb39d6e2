//! What the operator says about the containers that it adds.

use super::memory::Memory;
use std::fmt;
use std::str::FromStr;

/// The same for all pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InjectSettings {
    /// Ours, with tag or digest.
    pub image: String,
    /// Of that image.
    pub pull_policy: PullPolicy,
    /// The sidecar's, where the pod does not say.
    pub memory: Memory,
}

/// When a kubelet pulls an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Each time.
    Always,
    /// When the node has none.
    #[default]
    IfNotPresent,
    /// The node has it.
    Never,
}

impl fmt::Display for PullPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        })
    }
}

impl FromStr for PullPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Always, Self::IfNotPresent, Self::Never]
            .into_iter()
            .find(|policy| policy.to_string() == text)
            .ok_or_else(|| {
                format!("{text:?} is no pull policy: write Always, IfNotPresent or Never")
            })
    }
}
