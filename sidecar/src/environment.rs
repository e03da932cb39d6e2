//! What the environment tells a sidecar of the place where it runs.

use crate::config;
use std::ffi::OsString;
use std::time::Duration;

/// The pod that this program runs in. Without Kubernetes there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// HOLDFAST_POD_NAME
    pub name: Option<String>,
    /// HOLDFAST_POD_UID: orders for another are refused.
    pub uid: Option<String>,
}

/// Who sets the server's archive_command and its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Configure {
    /// Somebody else: the server's command line, or a person.
    #[default]
    Leave,
    /// This program, by ALTER SYSTEM.
    AlterSystem,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// Where.
    pub pod: Pod,
    /// HOLDFAST_CONFIGURE
    pub configure: Configure,
    /// HOLDFAST_GRACE_SECONDS: how long WAL that a stopped server has left behind is archived, after SIGTERM.
    pub grace: Option<Duration>,
}

/// How long, outside Kubernetes.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

impl Environment {
    /// This process'.
    ///
    /// # Errors
    /// A sentence that names the variable.
    pub fn of_process() -> Result<Self, String> {
        Self::from(|name| std::env::var_os(name))
    }

    /// An empty variable counts as none.
    fn from(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, String> {
        let set = |name: &str| {
            let value = variable(name).filter(|value| !value.is_empty())?;
            Some(value.to_string_lossy().into_owned())
        };
        let configure = match set("HOLDFAST_CONFIGURE").as_deref() {
            None | Some("Arguments" | "None") => Configure::Leave,
            Some("AlterSystem") => Configure::AlterSystem,
            Some(other) => {
                let known = ["Arguments", "AlterSystem", "None"];
                return Err(format!(
                    "HOLDFAST_CONFIGURE is {other:?}; {}",
                    config::suggestion(other, &known)
                ));
            }
        };
        let pod = Pod {
            name: set("HOLDFAST_POD_NAME"),
            uid: set("HOLDFAST_POD_UID"),
        };
        let grace = match set("HOLDFAST_GRACE_SECONDS") {
            Some(seconds) => match seconds.parse() {
                Ok(seconds) => Some(Duration::from_secs(seconds)),
                Err(_) => {
                    return Err(format!(
                        "HOLDFAST_GRACE_SECONDS is {seconds:?}, and must be a number of seconds, such as 120"
                    ));
                }
            },
            // In a pod kubelet ends it, when the pod's own grace period is over.
            None if pod.uid.is_some() => None,
            None => Some(DEFAULT_GRACE),
        };
        Ok(Self {
            pod,
            configure,
            grace,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Environment, String> {
        Environment::from(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).into())
        })
    }

    #[test]
    fn what_is_set_is_taken() {
        let none = of(&[]).unwrap();
        assert_eq!(none.grace, Some(DEFAULT_GRACE));
        assert_eq!((none.pod, none.configure), Default::default());
        let pod = of(&[
            ("HOLDFAST_POD_NAME", "orders-0"),
            ("HOLDFAST_POD_UID", "u"),
            ("HOLDFAST_CONFIGURE", "AlterSystem"),
        ])
        .unwrap();
        assert_eq!(pod.pod.uid.as_deref(), Some("u"));
        assert_eq!((pod.grace, pod.configure), (None, Configure::AlterSystem));
        for (value, expected) in [("", None), ("0", Some(0)), ("120", Some(120))] {
            let found = of(&[("HOLDFAST_POD_UID", "u"), ("HOLDFAST_GRACE_SECONDS", value)]);
            assert_eq!(found.unwrap().grace, expected.map(Duration::from_secs));
        }
        for leave in ["", "None", "Arguments"] {
            let found = of(&[("HOLDFAST_CONFIGURE", leave)]).unwrap();
            assert_eq!(found.configure, Configure::Leave);
        }
    }

    #[test]
    fn what_cannot_be_understood_is_told() {
        for (name, value, expected) in [
            (
                "HOLDFAST_CONFIGURE",
                "AlterSytem",
                "did you mean \"AlterSystem\"?",
            ),
            ("HOLDFAST_GRACE_SECONDS", "2m", "a number of seconds"),
            ("HOLDFAST_GRACE_SECONDS", "-1", "a number of seconds"),
        ] {
            let why = of(&[(name, value)]).unwrap_err();
            assert!(why.contains(name) && why.contains(expected), "{why}");
        }
    }
}
