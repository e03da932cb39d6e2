//! The part of a pod that decisions are made from. What is written goes to the raw JSON, which this never replaces.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;

/// A pod, as far as we look at it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Pod {
    #[serde(default, deserialize_with = "nullable")]
    pub(super) metadata: Metadata,
    pub(super) spec: Spec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    #[serde(default, deserialize_with = "nullable")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) owner_references: Vec<Owner>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Owner {
    #[serde(default)]
    pub(super) api_version: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    #[serde(default, deserialize_with = "nullable")]
    pub(super) containers: Vec<Container>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) init_containers: Vec<Container>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) volumes: Vec<Volume>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) security_context: SecurityContext,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) resources: Resources,
    pub(super) termination_grace_period_seconds: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container {
    pub(super) name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) image: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) command: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) args: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) env: Vec<Variable>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) env_from: Vec<Value>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) volume_mounts: Vec<Mount>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) ports: Vec<Port>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) resources: Resources,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) security_context: SecurityContext,
    pub(super) restart_policy: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: Option<String>,
    pub(super) value_from: Option<BTreeMap<String, Value>>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mount {
    pub(super) name: String,
    pub(super) mount_path: String,
    pub(super) sub_path: Option<String>,
    pub(super) sub_path_expr: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) read_only: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Port {
    pub(super) container_port: i64,
}

/// A volume: its name, and beside it one member that says what it is.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Volume {
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) source: BTreeMap<String, Value>,
}

/// What is asked of both a pod's and a container's.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SecurityContext {
    pub(super) run_as_user: Option<i64>,
    pub(super) run_as_group: Option<i64>,
    pub(super) se_linux_options: Option<Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Resources {
    #[serde(default, deserialize_with = "nullable")]
    pub(super) requests: BTreeMap<String, Value>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) limits: BTreeMap<String, Value>,
}

/// A `null` is what is left out.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Pod {
    /// Reads it. The text says what is wrong.
    pub(super) fn read(raw: &Value) -> Result<Self, String> {
        // serde takes a list for a struct; a patch would not.
        let object = |pointer: &str| match raw.pointer(pointer) {
            Some(Value::Object(_)) | None => Ok(()),
            Some(_) => Err(format!("{pointer} is not an object")),
        };
        for pointer in ["", "/metadata", "/spec", "/metadata/annotations"] {
            if raw.pointer(pointer).is_none_or(|value| !value.is_null()) {
                object(pointer)?;
            }
        }
        for list in ["/spec/containers", "/spec/initContainers"] {
            let length = raw.pointer(list).and_then(Value::as_array).map(Vec::len);
            for index in 0..length.unwrap_or(0) {
                object(&format!("{list}/{index}"))?;
            }
        }
        Self::deserialize(raw).map_err(|error| error.to_string().chars().take(300).collect())
    }
}
