//! The server: whether it answers, is the data directory's, and archives through holdfast-wal.

use super::Finding;
use crate::config::{Settings, Streaming};
use crate::exit::{ExitClass, Failure};
use crate::stream::APPLICATION_NAME;
use crate::wal_command::{self, WalCommand};
use holdfast_postgres::server::{Server, ServerError, Settings as ServerSettings};
use holdfast_postgres::{ControlFile, WalLevel};

pub(super) async fn look(settings: &Settings, control: Option<&ControlFile>) -> Vec<Finding> {
    let options = match settings.postgres.connect_options("holdfast check") {
        Ok(options) => options,
        Err(error) => return vec![Finding::told("postgres", error.to_string())],
    };
    let asked = match Server::connect(&options).await {
        Ok(server) => server.settings().await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(server) => {
            let mut findings = judge(&server, control, &WalCommand::of(&settings.socket));
            findings.extend(commits(&server, settings.streaming));
            findings
        }
        Err(error) => vec![unanswered(&error)],
    }
}

fn unanswered(error: &ServerError) -> Finding {
    let message = Failure::from_error(ExitClass::Unknown, error).message;
    match error {
        ServerError::Connect { .. } => Finding::problem(
            "postgres",
            message,
            "pg_ctl start  # or correct postgres.host, port, user and passwordFile",
        ),
        ServerError::Unsupported { .. } => Finding::told("postgres", message),
        ServerError::Query { .. } | ServerError::Answer { .. } => {
            Finding::unknown("postgres", message)
        }
    }
}

/// What a server's settings mean. Pure.
fn judge(
    server: &ServerSettings,
    control: Option<&ControlFile>,
    command: &WalCommand,
) -> Vec<Finding> {
    let role = if server.in_recovery {
        "standby"
    } else {
        "primary"
    };
    let version = format!(
        "{}.{}",
        server.server_version_num / 10_000,
        server.server_version_num % 10_000
    );
    let mut findings = vec![match control {
        Some(control) if control.system_identifier != server.system_identifier => Finding::problem(
            "postgres",
            format!(
                "the server has system identifier {}, and the data directory {}",
                server.system_identifier, control.system_identifier
            ),
            format!(
                "postgres: {{dataDirectory: {}}}  # or correct postgres.host and port",
                server.data_directory
            ),
        ),
        _ => Finding::good(
            "postgres",
            format!(
                "{version} answers, a {role} on timeline {}",
                server.timeline
            ),
        ),
    }];
    findings.extend(archiving(server, command));
    findings.push(if wal_command::restores(&server.restore_command) {
        Finding::good("restore_command", &server.restore_command)
    } else if server.restore_command.is_empty() && !server.in_recovery {
        Finding::good("restore_command", "not set, which a primary does not need")
    } else {
        Finding::problem(
            "restore_command",
            not_ours(&server.restore_command),
            reloaded("restore_command", &command.restore()),
        )
    });
    findings
}

/// Whether the server has both an archive_library and an archive_command, and is one that then archives nothing (16 and
/// later; on 15 the library archives). Pure.
pub(crate) fn refuses_both(server: &ServerSettings) -> bool {
    server.server_version_num >= 160_000
        && server.archive_library.is_some()
        && !server.archive_command.is_empty()
}

/// What a server's settings mean for its WAL: archiving is on only where none of this is a problem. Pure.
pub(crate) fn archiving(server: &ServerSettings, command: &WalCommand) -> Vec<Finding> {
    let waits = |name: &str| server.pending_restart.iter().any(|waits| waits == name);
    let restart = "restart Postgres";
    let mut findings = vec![match server.archive_mode.as_str() {
        "off" if waits("archive_mode") => {
            Finding::problem("archive_mode", "off until Postgres is restarted", restart)
        }
        "off" => Finding::problem(
            "archive_mode",
            "off",
            "ALTER SYSTEM SET archive_mode = on;  -- and restart Postgres",
        ),
        on => Finding::good("archive_mode", on),
    }];
    findings.push(match &server.archive_library {
        // From 16 on the archiver ends at once, each time, and tells only its log.
        Some(library) if wal_command::is_module(library) && refuses_both(server) => {
            Finding::problem(
                "archive_library",
                format!("{library} archives nothing: archive_command is set, too"),
                reloaded("archive_command", ""),
            )
        }
        Some(library) if wal_command::is_module(library) => {
            Finding::good("archive_library", library)
        }
        Some(library) => Finding::problem(
            "archive_library",
            format!("{library} archives instead of archive_command"),
            "ALTER SYSTEM SET archive_library = ''; SELECT pg_reload_conf();",
        ),
        None if wal_command::archives(&server.archive_command) => {
            Finding::good("archive_command", &server.archive_command)
        }
        None => {
            let (setting, value) = match server.archive_command.as_str() {
                "" => command.archiving(server.server_version_num),
                // Another tool's: 16 and later archive nothing with a module beside it.
                _ => ("archive_command", command.archive()),
            };
            Finding::problem(
                "archive_command",
                not_ours(&server.archive_command),
                reloaded(setting, &value),
            )
        }
    });
    findings.push(match server.wal_level {
        WalLevel::Minimal if waits("wal_level") => {
            Finding::problem("wal_level", "minimal until Postgres is restarted", restart)
        }
        WalLevel::Minimal => Finding::problem(
            "wal_level",
            "minimal",
            "ALTER SYSTEM SET wal_level = replica;  -- and restart Postgres",
        ),
        WalLevel::Replica | WalLevel::Logical => {
            Finding::good("wal_level", "enough to recover from")
        }
    });
    findings
}

/// Whether commits wait for us as they are to. Pure.
fn commits(server: &ServerSettings, streaming: Option<Streaming>) -> Option<Finding> {
    let names = &server.synchronous_standby_names;
    let waits = names_standby(names, APPLICATION_NAME);
    let setting = "synchronous_standby_names";
    match (streaming.is_some_and(|mode| mode.synchronous), waits) {
        (true, true) => Some(Finding::good(setting, names)),
        (true, false) => Some(Finding::problem(
            setting,
            format!(
                "{names:?} does not name {APPLICATION_NAME}: no commit waits until it is stored"
            ),
            reloaded(setting, APPLICATION_NAME),
        )),
        // Others may stand in for us there.
        (false, true) if !names.contains('*') => Some(Finding::problem(
            setting,
            format!(
                "{names:?} names {APPLICATION_NAME}, which tells what is stored only with wal.streaming.synchronous: commits wait for ever"
            ),
            "wal: {streaming: {synchronous: true}}  # or take it out of synchronous_standby_names",
        )),
        (false, _) => None,
    }
}

/// Whether a list such as `FIRST 1 (a, "b")` names that standby: names are compared without regard to case (`pg_strcasecmp`
/// in `SyncRepGetStandbyPriority`).
fn names_standby(list: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    list.split(|c| !is_part(c))
        .any(|word| word.eq_ignore_ascii_case(name))
        || list.contains('*')
}

fn reloaded(setting: &str, value: &str) -> String {
    let quoted = value.replace('\'', "''");
    format!("ALTER SYSTEM SET {setting} = '{quoted}'; SELECT pg_reload_conf();")
}

fn not_ours(command: &str) -> String {
    if command.is_empty() {
        "not set".to_owned()
    } else {
        format!("{command:?} is not holdfast-wal's")
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use holdfast_postgres::{SystemIdentifier, TimelineId};
    use std::path::Path;
    use std::time::Duration;

    fn good() -> ServerSettings {
        ServerSettings {
            server_version_num: 170_002,
            data_directory: "/d".into(),
            archive_mode: "on".into(),
            archive_command: "holdfast-wal archive %f %p".into(),
            archive_library: None,
            wal_level: WalLevel::Replica,
            restore_command: String::new(),
            in_recovery: false,
            timeline: TimelineId(1),
            system_identifier: SystemIdentifier(7),
            data_checksums: true,
            full_page_writes: true,
            synchronous_standby_names: String::new(),
            pending_restart: Vec::new(),
        }
    }

    #[test]
    fn commits_wait_for_us_where_we_tell_what_is_stored_and_nowhere_else() {
        let mode = |synchronous| Streaming {
            interval: Duration::from_secs(1),
            synchronous,
        };
        for (names, streaming, expected) in [
            ("", None, None),
            ("*", None, None),
            ("*", Some(mode(true)), Some(Verdict::Good)),
            ("other", Some(mode(false)), None),
            ("holdfast", Some(mode(true)), Some(Verdict::Good)),
            (
                "FIRST 1 (s1, \"Holdfast\")",
                Some(mode(true)),
                Some(Verdict::Good),
            ),
            ("", Some(mode(true)), Some(Verdict::Problem)),
            (
                "ANY 1 (holdfast_2, s1)",
                Some(mode(true)),
                Some(Verdict::Problem),
            ),
            ("holdfast", Some(mode(false)), Some(Verdict::Problem)),
            ("ANY 1 (holdfast, s1)", None, Some(Verdict::Problem)),
        ] {
            let server = ServerSettings {
                synchronous_standby_names: names.into(),
                ..good()
            };
            let found = commits(&server, streaming).map(|finding| finding.verdict);
            assert_eq!(found, expected, "{names} {streaming:?}");
        }
    }

    #[test]
    fn each_wrong_setting_is_a_problem_with_the_line_that_mends_it() {
        let judge = |server: &ServerSettings, socket: &str| {
            judge(server, None, &WalCommand::of(Path::new(socket)))
        };
        let all_good = judge(&good(), "/holdfast/run/wal.sock");
        assert!(
            all_good.iter().all(|f| f.verdict == Verdict::Good),
            "{all_good:?}"
        );
        let by_module = ServerSettings {
            archive_library: Some("/holdfast/lib/holdfast_archive.so".into()),
            archive_command: String::new(),
            ..good()
        };
        let by_module = judge(&by_module, "/holdfast/run/wal.sock");
        assert!(
            by_module.iter().all(|f| f.verdict == Verdict::Good),
            "{by_module:?}"
        );
        for (server, line) in [
            (
                ServerSettings {
                    archive_mode: "off".into(),
                    ..good()
                },
                "archive_mode = on",
            ),
            (
                ServerSettings {
                    archive_mode: "off".into(),
                    pending_restart: vec!["archive_mode".into()],
                    ..good()
                },
                "restart Postgres",
            ),
            (
                ServerSettings {
                    archive_command: "/bin/true".into(),
                    ..good()
                },
                "archive_command = 'holdfast-wal --socket /s archive %f %p'",
            ),
            (
                ServerSettings {
                    archive_library: Some("basic_archive".into()),
                    ..good()
                },
                "archive_library = ''",
            ),
            (
                ServerSettings {
                    archive_library: Some("holdfast_archive".into()),
                    ..good()
                },
                "archive_command = ''",
            ),
            (
                ServerSettings {
                    wal_level: WalLevel::Minimal,
                    ..good()
                },
                "wal_level = replica",
            ),
            (
                ServerSettings {
                    in_recovery: true,
                    ..good()
                },
                "restore_command = 'holdfast-wal --socket /s restore %f %p'",
            ),
            (
                ServerSettings {
                    restore_command: "cp /x/%f %p".into(),
                    ..good()
                },
                "restore_command",
            ),
        ] {
            let problems: Vec<_> = judge(&server, "/s")
                .into_iter()
                .filter(|f| f.verdict == Verdict::Problem)
                .collect();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(
                problems[0].mend.as_ref().unwrap().contains(line),
                "{problems:?}"
            );
        }
    }
}
