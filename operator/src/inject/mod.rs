//! What a labelled pod gets: a pure function from the pod as it is asked for to the patch, or to a refusal.
//!
//! Nothing is read but the pod: what shapes it stands on it. So the webhook is never early or late, and a pod's fate
//! can be read off its YAML.

mod annotations;
mod command_line;
mod configure;
mod container;
mod containers;
mod data_directory;
mod environment;
mod facts;
mod foreign;
mod identity;
mod image;
mod label;
mod memory;
mod mounts;
pub mod names;
mod patch;
mod path;
mod plan;
mod pod;
mod quantity;
mod reference;
mod refusal;
mod resources;
mod settings;
#[cfg(test)]
mod tests;

pub use annotations::Configure;
pub use facts::{Injected, describe};
pub use memory::{BadMemory, Memory};
pub(crate) use mounts::hides;
pub use patch::Add;
pub(crate) use quantity::billionths;
pub use refusal::{Quoted, Refusal};
pub use settings::{InjectSettings, PullPolicy};

use serde_json::Value;

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It is let in with this.
    Patch(Patch),
    /// It is let in as it is: not labelled, annotated with `inject: "false"`, or it has all that we would add.
    Unchanged,
    /// It is not let in.
    Refused(Refusal),
}

/// What is added to a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// In this order.
    pub operations: Vec<Add>,
    /// For whoever made the pod, a sentence each.
    pub warnings: Vec<String>,
}

/// The uid and, where it has one of its own, the gid that a known image's server runs as.
pub fn user_of(image: &str) -> Option<(i64, Option<i64>)> {
    image::Known::of(image)?.user
}

/// Refuses a pod that another operator or Patroni runs.
pub fn check_owner(pod: &Value) -> Result<(), Refusal> {
    foreign::check(&pod::Pod::read(pod).map_err(Refusal::Unreadable)?)
}

/// Decides about a pod as the API server sends it. The patch applies to it; applied, the next call answers
/// [`Outcome::Unchanged`].
pub fn inject(pod: &Value, settings: &InjectSettings) -> Outcome {
    match plan::plan(pod, settings) {
        Ok(Some((read, plan, warnings))) => {
            let operations = patch::missing(&read, &plan);
            if operations.is_empty() {
                Outcome::Unchanged
            } else {
                Outcome::Patch(Patch {
                    operations,
                    warnings,
                })
            }
        }
        Ok(None) => Outcome::Unchanged,
        Err(refusal) => Outcome::Refused(refusal),
    }
}
