//! The server: whether it answers, is the data directory's, and archives through holdfast-wal.

use super::Finding;
use crate::config::Settings;
use crate::exit::{ExitClass, Failure};
use holdfast_postgres::server::{Server, ServerError, Settings as ServerSettings};
use holdfast_postgres::{ControlFile, WalLevel};
use std::path::Path;

const DEFAULT_SOCKET: &str = "/holdfast/run/wal.sock";

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
        Ok(server) => judge(&server, control, &settings.socket),
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

/// What a server's settings mean for archiving. Pure.
fn judge(server: &ServerSettings, control: Option<&ControlFile>, socket: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
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
    match control {
        Some(control) if control.system_identifier != server.system_identifier => {
            findings.push(Finding::problem(
                "postgres",
                format!(
                    "the server has system identifier {}, and the data directory {}",
                    server.system_identifier, control.system_identifier
                ),
                format!(
                    "postgres: {{dataDirectory: {}}}  # or correct postgres.host and port",
                    server.data_directory
                ),
            ))
        }
        _ => findings.push(Finding::good(
            "postgres",
            format!(
                "{version} answers, a {role} on timeline {}",
                server.timeline
            ),
        )),
    }
    let command = |verb: &str| match socket == Path::new(DEFAULT_SOCKET) {
        true => format!("holdfast-wal {verb} %f %p"),
        false => format!("holdfast-wal --socket {} {verb} %f %p", socket.display()),
    };
    let quoted = |text: String| text.replace('\'', "''");
    findings.push(match server.archive_mode.as_str() {
        "off" => Finding::problem(
            "archive_mode",
            "off",
            "ALTER SYSTEM SET archive_mode = on;  -- and restart Postgres",
        ),
        on => Finding::good("archive_mode", on),
    });
    findings.push(match &server.archive_library {
        Some(library) => Finding::problem(
            "archive_library",
            format!("{library} archives instead of archive_command"),
            "ALTER SYSTEM SET archive_library = ''; SELECT pg_reload_conf();",
        ),
        None if is_ours(&server.archive_command, "archive") => {
            Finding::good("archive_command", &server.archive_command)
        }
        None => Finding::problem(
            "archive_command",
            not_ours(&server.archive_command),
            format!(
                "ALTER SYSTEM SET archive_command = '{}'; SELECT pg_reload_conf();",
                quoted(command("archive"))
            ),
        ),
    });
    findings.push(match server.wal_level {
        WalLevel::Minimal => Finding::problem(
            "wal_level",
            "minimal",
            "ALTER SYSTEM SET wal_level = replica;  -- and restart Postgres",
        ),
        WalLevel::Replica | WalLevel::Logical => {
            Finding::good("wal_level", "enough to recover from")
        }
    });
    findings.push(if is_ours(&server.restore_command, "restore") {
        Finding::good("restore_command", &server.restore_command)
    } else if server.restore_command.is_empty() && !server.in_recovery {
        Finding::good("restore_command", "not set, which a primary does not need")
    } else {
        Finding::problem(
            "restore_command",
            not_ours(&server.restore_command),
            format!(
                "ALTER SYSTEM SET restore_command = '{}'; SELECT pg_reload_conf();",
                quoted(command("restore"))
            ),
        )
    });
    findings
}

fn not_ours(command: &str) -> String {
    if command.is_empty() {
        "not set".to_owned()
    } else {
        format!("{command:?} is not holdfast-wal's")
    }
}

/// Whether a command is `[path/]holdfast-wal [--socket PATH] <verb> %f %p`, and nothing around it that could hide its
/// exit code.
fn is_ours(command: &str, verb: &str) -> bool {
    let plain = |c: char| !matches!(c, '|' | '&' | ';' | '<' | '>' | '`' | '$' | '(' | '\n');
    let mut words = command
        .split_whitespace()
        .map(|word| word.trim_matches(['"', '\'']));
    let program = words.next().is_some_and(|word| {
        Path::new(word)
            .file_name()
            .is_some_and(|name| name == "holdfast-wal")
    });
    let rest: Vec<&str> = words.collect();
    let rest = match rest.as_slice() {
        ["--socket", _, rest @ ..] => rest,
        [socket, rest @ ..] if socket.starts_with("--socket=") => rest,
        rest => rest,
    };
    program && rest == [verb, "%f", "%p"] && command.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use holdfast_postgres::{SystemIdentifier, TimelineId};

    #[test]
    fn our_commands_and_others() {
        for (command, ours) in [
            ("holdfast-wal archive %f %p", true),
            ("/holdfast/bin/holdfast-wal archive %f %p", true),
            ("/holdfast/bin/holdfast-wal archive \"%f\" \"%p\"", true),
            ("holdfast-wal --socket /tmp/w.sock archive %f %p", true),
            ("holdfast-wal --socket=/tmp/w.sock archive %f %p", true),
            ("", false),
            ("/bin/true", false),
            ("(disabled)", false),
            ("holdfast-wal restore %f %p", false),
            ("holdfast-wal archive %p %f", false),
            ("holdfast-wal archive %f %p || true", false),
            ("holdfast-wal archive %f %p; exit 0", false),
            ("holdfast-wal archive %f %p &", false),
            ("cp %p /mnt/%f # holdfast-wal archive %f %p", false),
            ("not-holdfast-wal archive %f %p", false),
        ] {
            assert_eq!(is_ours(command, "archive"), ours, "{command}");
        }
    }

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
        }
    }

    #[test]
    fn each_wrong_setting_is_a_problem_with_the_line_that_mends_it() {
        let judge = |server: &ServerSettings, socket: &str| judge(server, None, Path::new(socket));
        let all_good = judge(&good(), DEFAULT_SOCKET);
        assert!(
            all_good.iter().all(|f| f.verdict == Verdict::Good),
            "{all_good:?}"
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
