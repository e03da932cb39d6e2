//! What to do where a server refuses replication. Pure.

use crate::config::Settings;
use holdfast_postgres::replication::ReplicationError;

/// What was wrong, and the line that mends it where one does.
pub(super) fn told(error: &ReplicationError, settings: &Settings) -> String {
    let ReplicationError::Refused { reason, .. } = error else {
        return error.to_string();
    };
    let user = &settings.postgres.user;
    let mend = match reason.code.as_deref() {
        Some("28000") if reason.message.contains("pg_hba.conf") => format!(
            "add this line to pg_hba.conf, and reload: {}",
            entry(
                &reason.message,
                user,
                settings.postgres.password_file.is_some()
            )
        ),
        // The role's attribute.
        Some("42501") => format!("run: ALTER ROLE {} REPLICATION", quoted(user)),
        Some("53300") => {
            "raise max_wal_senders, or max_connections, by one, and restart Postgres".to_owned()
        }
        _ => return error.to_string(),
    };
    format!("{error}; {mend}")
}

/// The entry that pg_hba.conf lacks, by the server's message, such as `no pg_hba.conf entry for replication connection from
/// host "10.0.0.7", user "holdfast", no encryption`.
fn entry(message: &str, user: &str, password: bool) -> String {
    let method = if password { "scram-sha-256" } else { "trust" };
    let user = quoted(user);
    let host = message
        .split_once("from host \"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .map(|(host, _)| host)
        .unwrap_or("[local]");
    match host {
        "[local]" => format!("local replication {user} {method}"),
        host if host.contains(':') => format!("host replication {user} {host}/128 {method}"),
        host => format!("host replication {user} {host}/32 {method}"),
    }
}

/// As SQL and pg_hba.conf take any name.
fn quoted(user: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c == '_';
    match user.starts_with(is_plain) && user.chars().all(|c| is_plain(c) || c.is_ascii_digit()) {
        true => user.to_owned(),
        false => format!("\"{}\"", user.replace('"', "\"\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal_bench::Bench;
    use holdfast_postgres::server::Reason;

    #[test]
    fn the_line_that_mends_it_is_told() {
        let settings = Bench::new().settings();
        let no_entry = |host: &str| {
            format!(
                "no pg_hba.conf entry for replication connection from host \"{host}\", user \"postgres\", no encryption"
            )
        };
        for (code, message, mends) in [
            (
                "28000",
                no_entry("[local]"),
                "reload: local replication postgres trust",
            ),
            (
                "28000",
                no_entry("10.0.0.7"),
                "reload: host replication postgres 10.0.0.7/32 trust",
            ),
            (
                "28000",
                no_entry("fd00::7"),
                "reload: host replication postgres fd00::7/128 trust",
            ),
            (
                "42501",
                "permission denied to start WAL sender".to_owned(),
                "run: ALTER ROLE postgres REPLICATION",
            ),
            (
                "53300",
                "number of requested standby connections exceeds max_wal_senders".to_owned(),
                "raise max_wal_senders",
            ),
            (
                "28P01",
                "password authentication failed".to_owned(),
                "password authentication failed",
            ),
        ] {
            let reason = Reason {
                message,
                code: Some(code.to_owned()),
                ..Reason::default()
            };
            let error = ReplicationError::Refused {
                address: "a".to_owned(),
                reason: Box::new(reason),
            };
            let told = told(&error, &settings);
            assert!(told.contains(mends), "{told}");
        }
        assert_eq!(
            entry(&no_entry("[local]"), "Back\"up", true),
            "local replication \"Back\"\"up\" scram-sha-256"
        );
    }
}
