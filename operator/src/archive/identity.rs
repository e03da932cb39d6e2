//! Whose database the pods of an archive have: one that the archive may take, and no two. Pure.

use super::member::Member;
use super::stored::Known;
use crate::conditions::Finding;
use crate::text;
use holdfast_postgres::SystemIdentifier;
use std::collections::BTreeMap;

/// The condition.
pub const IDENTITY_ACCEPTED: &str = "IdentityAccepted";

/// The database clusters that are at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The one whose pods may archive; none while it is not known.
    pub accepted: Option<SystemIdentifier>,
    /// Whether that one is in the repository already.
    stored: Option<SystemIdentifier>,
    /// Names of the pods of each.
    pods: BTreeMap<u64, Vec<String>>,
}

impl Identity {
    /// From what is stored, what the pods say, and the consent that was given.
    pub fn of(stored: &Known, members: &[Member], consent: &str) -> Self {
        let stored = stored
            .last()
            .and_then(|stored| stored.newest.as_ref())
            .map(|newest| newest.system);
        let mut pods: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for member in members.iter().filter(|member| member.counts()) {
            if let Some(system) = member.system() {
                pods.entry(system.0).or_default().push(member.name.clone());
            }
        }
        let consent: Option<SystemIdentifier> = consent.parse().ok();
        // Consent counts once the database that it was given for is there.
        let consented = consent.filter(|consent| pods.contains_key(&consent.0));
        let only = match pods.keys().collect::<Vec<_>>().as_slice() {
            [only] => Some(SystemIdentifier(**only)),
            _ => None,
        };
        Self {
            accepted: consented.or(stored).or(only),
            stored,
            pods,
        }
    }

    /// The condition. `archive` is its name.
    pub fn finding(&self, archive: &str) -> Finding {
        let Self {
            accepted,
            stored,
            pods,
        } = self;
        let strangers: Vec<(u64, &Vec<String>)> = pods
            .iter()
            .filter(|(system, _)| accepted.is_none_or(|accepted| accepted.0 != **system))
            .map(|(system, pods)| (*system, pods))
            .collect();
        match (accepted, strangers.as_slice()) {
            (None, []) => Finding::unknown(
                IDENTITY_ACCEPTED,
                "NotKnown",
                "no sidecar has told the system identifier of its data directory yet",
            ),
            (Some(accepted), []) => Finding::good(
                IDENTITY_ACCEPTED,
                "Accepted",
                format!("the archive is that of the database cluster {accepted}"),
            ),
            (None, several) => {
                let clusters: Vec<String> = several.iter().map(|one| shown(*one)).collect();
                Finding::bad(
                    IDENTITY_ACCEPTED,
                    "TwoDatabases",
                    format!(
                        "pods of different database clusters carry the label of this archive: {}; the first to archive keeps it; give the other an Archive and a label of its own",
                        clusters.join(", ")
                    ),
                )
            }
            (Some(accepted), [stranger, ..]) => {
                let (system, names) = (stranger.0, text::some(names(stranger.1)));
                let holders = pods.get(&accepted.0);
                match holders {
                    Some(holders) => Finding::bad(
                        IDENTITY_ACCEPTED,
                        "TwoDatabases",
                        format!(
                            "{names} has the database cluster {system}, and the archive is that of {accepted} ({}): nothing of {system} is archived; give {names} an Archive and a label of its own instead of {archive}",
                            text::some(self::names(holders))
                        ),
                    ),
                    None => Finding::bad(
                        IDENTITY_ACCEPTED,
                        "OtherDatabase",
                        format!(
                            "{names} has the database cluster {system}, and what is stored is of {}: nothing of {system} is archived; if it is the same database after pg_upgrade or initdb, say so: kubectl patch archive {archive} --type merge -p '{{\"spec\":{{\"acceptSystemIdentifier\":\"{system}\"}}}}'; else give it an Archive of its own",
                            stored.unwrap_or(*accepted)
                        ),
                    ),
                }
            }
        }
    }
}

fn names(names: &[String]) -> impl Iterator<Item = &str> {
    names.iter().map(String::as_str)
}

fn shown((system, pods): (u64, &Vec<String>)) -> String {
    format!("{system} ({})", text::some(names(pods)))
}

#[cfg(test)]
mod tests {
    use super::super::member::tests::reporting;
    use super::super::plan::tests::stored;
    use super::*;
    use serde_json::json;

    fn members(systems: &[&str]) -> Vec<Member> {
        let report = |system: &&str| json!({"postgres": {"systemIdentifier": system}});
        let members = systems.iter().enumerate();
        members
            .map(|(n, system)| reporting(n as u32, report(system)))
            .collect()
    }

    #[test]
    fn one_database_is_accepted_and_another_only_by_consent() {
        for (in_store, systems, consent, reason, accepted, words) in [
            (None, &[][..], "", "NotKnown", None, "no sidecar"),
            (None, &["x"], "", "NotKnown", None, "no sidecar"),
            (None, &["7"], "", "Accepted", Some(7), "cluster 7"),
            (Some(7), &[], "", "Accepted", Some(7), "cluster 7"),
            (Some(7), &["7", "7"], "", "Accepted", Some(7), "cluster 7"),
            (
                None,
                &["7", "8"],
                "",
                "TwoDatabases",
                None,
                "7 (orders-0), 8 (orders-1)",
            ),
            (
                Some(7),
                &["7", "8"],
                "",
                "TwoDatabases",
                Some(7),
                "orders-1 has the database cluster 8",
            ),
            (
                Some(7),
                &["8"],
                "",
                "OtherDatabase",
                Some(7),
                r#"{"spec":{"acceptSystemIdentifier":"8"}}"#,
            ),
            (Some(7), &["8"], "8", "Accepted", Some(8), "cluster 8"),
            (Some(7), &["8"], "9", "OtherDatabase", Some(7), "orders-0"),
            // Given before its database is there.
            (Some(7), &["7"], "8", "Accepted", Some(7), "cluster 7"),
            // A standby of the old one that is still there.
            (
                Some(7),
                &["8", "7"],
                "8",
                "TwoDatabases",
                Some(8),
                "orders-1 has the database cluster 7",
            ),
        ] {
            let known = in_store.map_or(Known::NotYet, |system| stored(Some(system)));
            let identity = Identity::of(&known, &members(systems), consent);
            assert_eq!(
                identity.accepted.map(|id| id.0),
                accepted,
                "{systems:?} {consent}"
            );
            let finding = identity.finding("orders");
            assert_eq!(
                finding.reason, reason,
                "{systems:?} {consent}: {}",
                finding.message
            );
            assert!(finding.message.contains(words), "{}", finding.message);
        }
    }
}
