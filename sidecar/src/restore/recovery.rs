//! The settings with which a restored directory recovers, and how they go away again.
//!
//! They stand in postgresql.auto.conf, which overrides postgresql.conf, so that what a user left there can't collide.
//! The file as it shall be afterwards stands beside it, and `recovery_end_command` puts it in place when recovery ends.

use holdfast_postgres::auto_conf;
use holdfast_repository::facts::RecoverySettings;
use serde::Deserialize;

/// What postgresql.auto.conf becomes when recovery ends.
pub const AFTERWARDS: &str = "holdfast.auto.conf";

/// What Postgres does at the target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Action {
    /// Opens for writing on a new timeline.
    #[default]
    Promote,
    /// Waits, readable, for `pg_wal_replay_resume()`.
    Pause,
    /// Shuts down. recovery.signal stays, so each later start shuts down there again until the target is changed.
    Shutdown,
}

/// How to recover.
#[derive(Debug, Clone)]
pub struct Recovery {
    /// `recovery_target_*` that say where to stop; empty for the end of the WAL.
    pub target: Vec<(String, String)>,
    /// `recovery_target_timeline`
    pub timeline: u32,
    /// At the target.
    pub action: Action,
    /// `restore_command`
    pub restore_command: String,
    /// What replay demands at least.
    pub minimum: RecoverySettings,
}

impl Action {
    /// As Postgres and the command line write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Pause => "pause",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Each is set, to nothing where it is not used: several targets at once keep Postgres from starting.
const TARGETS: [&str; 5] = [
    "recovery_target",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_lsn",
    "recovery_target_name",
];
/// What a restored directory must not take over from its source.
const STRIPPED: [&str; 14] = [
    "recovery_target",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_inclusive",
    "recovery_target_timeline",
    "recovery_target_action",
    "restore_command",
    "recovery_end_command",
    "archive_cleanup_command",
    "recovery_min_apply_delay",
    "primary_conninfo",
    "primary_slot_name",
];

/// postgresql.auto.conf for the time after recovery.
pub fn afterwards(existing: &str) -> String {
    auto_conf::rewrite(existing, &STRIPPED, &[])
}

/// postgresql.auto.conf for the recovery.
pub fn during(existing: &str, recovery: &Recovery) -> String {
    let Recovery {
        target,
        timeline,
        action,
        restore_command,
        minimum,
    } = recovery;
    let RecoverySettings {
        max_connections,
        max_worker_processes,
        max_wal_senders,
        max_prepared_transactions,
        max_locks_per_transaction,
    } = minimum;
    let timeline = timeline.to_string();
    let end_command = format!("mv -f {AFTERWARDS} postgresql.auto.conf");
    let mut add: Vec<(&str, &str)> = vec![
        ("restore_command", restore_command),
        ("recovery_end_command", &end_command),
        ("recovery_target_timeline", &timeline),
        ("recovery_target_action", action.as_str()),
        // What postgresql.conf has for a standby: a delay would hold recovery up, a cleanup would prune what others need.
        ("recovery_min_apply_delay", "0"),
        ("archive_cleanup_command", ""),
    ];
    // Without it there is no pausing: Postgres would shut down instead.
    if *action == Action::Pause {
        add.push(("hot_standby", "on"));
    }
    // The empty ones first: after another target has a value, Postgres refuses even an empty one.
    let unused = TARGETS
        .iter()
        .filter(|name| !target.iter().any(|(n, _)| n == *name));
    add.extend(unused.map(|name| (*name, "")));
    add.extend(
        target
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    );
    let minimum: Vec<(&str, String)> = [
        ("max_connections", max_connections),
        ("max_worker_processes", max_worker_processes),
        ("max_wal_senders", max_wal_senders),
        ("max_prepared_transactions", max_prepared_transactions),
        ("max_locks_per_transaction", max_locks_per_transaction),
    ]
    .into_iter()
    .map(|(name, value)| (name, value.to_string()))
    .collect();
    add.extend(minimum.iter().map(|(name, value)| (*name, value.as_str())));
    let strip: Vec<&str> = STRIPPED
        .iter()
        .copied()
        .chain((*action == Action::Pause).then_some("hot_standby"))
        .chain(minimum.iter().map(|(name, _)| *name))
        .collect();
    auto_conf::rewrite(existing, &strip, &add)
}

/// A word for `sh -c` inside a `restore_command`, where `%` is Postgres' own.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| {
        c.is_ascii_alphanumeric()
            || matches!(c, '/' | '.' | '_' | '-' | '+' | '=' | ':' | ',' | '@')
    };
    let escaped = word.replace('%', "%%");
    if !escaped.is_empty() && escaped.chars().all(plain) {
        escaped
    } else {
        format!("'{}'", escaped.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn recovery() -> Recovery {
        Recovery {
            target: vec![
                ("recovery_target_lsn".into(), "0/3000000".into()),
                ("recovery_target_inclusive".into(), "off".into()),
            ],
            timeline: 2,
            action: Action::Pause,
            restore_command: "holdfast-wal restore %f %p".into(),
            minimum: RecoverySettings {
                max_connections: 100,
                max_worker_processes: 8,
                max_wal_senders: 10,
                max_prepared_transactions: 0,
                max_locks_per_transaction: 64,
            },
        }
    }

    #[test]
    fn leftovers_of_the_source_are_replaced_and_the_rest_is_kept() {
        let existing = "# Do not edit\nwork_mem = '8MB'\nrecovery_target_time = '2020-01-01'\nPrimary_ConnInfo = 'host=a'\nmax_connections = '20'\n";
        let during = during(existing, &recovery());
        for (name, want) in [
            ("work_mem", Some("8MB")),
            ("recovery_target_time", Some("")),
            ("recovery_target_lsn", Some("0/3000000")),
            ("recovery_target_inclusive", Some("off")),
            ("recovery_target_timeline", Some("2")),
            ("recovery_target_action", Some("pause")),
            ("restore_command", Some("holdfast-wal restore %f %p")),
            ("primary_conninfo", None),
            ("max_connections", Some("100")),
        ] {
            assert_eq!(auto_conf::value(&during, name).as_deref(), want, "{name}");
        }
        let afterwards = afterwards(existing);
        assert_eq!(
            auto_conf::value(&afterwards, "max_connections").as_deref(),
            Some("20")
        );
        assert_eq!(auto_conf::value(&afterwards, "recovery_target_time"), None);
        assert_eq!(
            auto_conf::value(&afterwards, "work_mem").as_deref(),
            Some("8MB")
        );
    }

    #[test]
    fn words_survive_the_shell_and_postgres() {
        for (word, want) in [
            ("/usr/bin/holdfast", "/usr/bin/holdfast"),
            ("/a b", "'/a b'"),
            ("100%", "'100%%'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(word), want);
        }
    }
}
