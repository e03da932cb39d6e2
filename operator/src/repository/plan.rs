//! From what was found to conditions, and when to look again. Pure.

use super::probe::{Probe, Trouble};
use super::resolve::Lack;
use crate::conditions::Finding;
use holdfast_crds::AccessMode;
use std::time::Duration;

/// The conditions' types.
pub const READY: &str = "Ready";
/// Whether the store keeps what is there.
pub const CONDITIONAL_WRITES: &str = "ConditionalWrites";

/// Between two looks at a store that is good.
const GOOD: Duration = Duration::from_secs(10 * 60);
/// After the first look that was not good; doubles.
const FIRST: Duration = Duration::from_secs(10);
/// At most, while it is not good.
const LAST: Duration = Duration::from_secs(5 * 60);

/// What is known of a Repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Secrets are missing or wrong: nothing could be tried.
    Lacking(Vec<Lack>),
    /// Only the pods have credentials.
    NoCredentials,
    /// It was tried.
    Probed(Probe, AccessMode),
}

impl Look {
    /// Whether there is nothing to mend.
    pub fn is_good(&self) -> bool {
        match self {
            Self::Lacking(_) => false,
            Self::NoCredentials => true,
            Self::Probed(probe, _) => {
                probe.access.is_ok()
                    && probe.keeps_objects != Some(false)
                    && !matches!(probe.maintenance, Some(Err(_)))
            }
        }
    }

    /// How long to wait, after so many looks in a row that were not good.
    pub fn pause(&self, failures: u32) -> Duration {
        if self.is_good() {
            GOOD
        } else {
            let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
            doubled.min(LAST)
        }
    }

    /// The conditions.
    pub fn findings(&self) -> Vec<Finding> {
        match self {
            Self::Lacking(lacks) => {
                let reason = lacks.first().map_or("Invalid", Lack::reason);
                let message = lines(lacks);
                vec![
                    Finding::bad(READY, reason, message),
                    untried("it could not be tried: see Ready"),
                ]
            }
            Self::NoCredentials => {
                let message = "no credentials are given: the pods use what their environment says, and the operator, which never uses an identity of its own for a namespace's Repository, can't look; give credentials.secretRef to have backups listed and expired";
                vec![
                    Finding::unknown(READY, "NoCredentials", message),
                    untried("it could not be tried: see Ready"),
                ]
            }
            Self::Probed(probe, mode) => vec![ready(probe, *mode), conditional(probe, *mode)],
        }
    }
}

fn ready(probe: &Probe, mode: AccessMode) -> Finding {
    let Probe {
        access,
        keeps_objects,
        maintenance,
    } = probe;
    match (access, keeps_objects, maintenance) {
        (Err(Trouble { reason, message }), _, _) => Finding::bad(READY, reason, message),
        (_, Some(false), _) => Finding::bad(
            READY,
            "ConditionalWritesUnsupported",
            "the store overwrites what it was asked only to create: see ConditionalWrites",
        ),
        (_, _, Some(Err(Trouble { reason, message }))) => Finding::bad(READY, reason, message),
        _ => Finding::good(
            READY,
            "Reachable",
            match mode {
                AccessMode::ReadWrite => "the bucket can be listed, read and written",
                AccessMode::ReadOnly => "the bucket can be listed; nothing is written there",
            },
        ),
    }
}

fn conditional(probe: &Probe, mode: AccessMode) -> Finding {
    match (probe.keeps_objects, mode) {
        (Some(true), _) => Finding::good(
            CONDITIONAL_WRITES,
            "Supported",
            "the store refuses to overwrite what is there",
        ),
        (Some(false), _) => Finding::bad(
            CONDITIONAL_WRITES,
            "Unsupported",
            "the store overwrote an object that it was asked only to create (If-None-Match: *): use a store that honours it, as AWS S3 and MinIO do",
        ),
        (None, AccessMode::ReadOnly) => untried("accessMode is ReadOnly: nothing is written there"),
        (None, AccessMode::ReadWrite) => untried("it could not be tried: see Ready"),
    }
}

fn untried(message: &str) -> Finding {
    Finding::unknown(CONDITIONAL_WRITES, "NotTried", message)
}

/// Each on its own, so that one look mends all.
pub fn lines<T: ToString>(all: &[T]) -> String {
    let lines: Vec<String> = all.iter().map(T::to_string).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_protocol::status::ConditionStatus;

    fn probed(access: Result<(), &'static str>, keeps: Option<bool>, cleans: Option<bool>) -> Look {
        let trouble = |reason: &'static str| Trouble {
            reason,
            message: "why".into(),
        };
        Look::Probed(
            Probe {
                access: access.map_err(trouble),
                keeps_objects: keeps,
                maintenance: cleans.map(|ok| ok.then_some(()).ok_or(trouble("MaintenanceDenied"))),
            },
            AccessMode::ReadWrite,
        )
    }

    #[test]
    fn conditions_say_what_was_found() {
        use ConditionStatus::{False, True, Unknown};
        let lack = Lack::Secret {
            name: "s".into(),
            what: "w",
        };
        let read_only = Look::Probed(
            Probe {
                access: Ok(()),
                keeps_objects: None,
                maintenance: None,
            },
            AccessMode::ReadOnly,
        );
        for (look, ready, reason, writes) in [
            (Look::Lacking(vec![lack]), False, "SecretNotFound", Unknown),
            (Look::NoCredentials, Unknown, "NoCredentials", Unknown),
            (
                probed(Err("BucketNotFound"), None, None),
                False,
                "BucketNotFound",
                Unknown,
            ),
            (
                probed(Ok(()), Some(false), Some(true)),
                False,
                "ConditionalWritesUnsupported",
                False,
            ),
            (
                probed(Ok(()), Some(true), Some(false)),
                False,
                "MaintenanceDenied",
                True,
            ),
            (
                probed(Ok(()), Some(true), Some(true)),
                True,
                "Reachable",
                True,
            ),
            (probed(Ok(()), Some(true), None), True, "Reachable", True),
            (read_only, True, "Reachable", Unknown),
        ] {
            let findings = look.findings();
            let [first, second] = findings.as_slice() else {
                panic!("{findings:?}");
            };
            assert_eq!((first.kind, second.kind), (READY, CONDITIONAL_WRITES));
            assert_eq!(
                (first.status, first.reason.as_ref(), second.status),
                (ready, reason, writes),
                "{look:?}"
            );
        }
    }

    #[test]
    fn what_is_bad_is_looked_at_soon_and_then_less_often() {
        let bad = probed(Err("Unreachable"), None, None);
        let seconds: Vec<u64> = [1, 2, 3, 5, 6, 100]
            .map(|failures| bad.pause(failures).as_secs())
            .to_vec();
        assert_eq!(seconds, [10, 20, 40, 160, 300, 300]);
        assert_eq!(probed(Ok(()), Some(true), None).pause(7), GOOD);
    }
}
