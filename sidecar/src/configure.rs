//! `HOLDFAST_CONFIGURE=AlterSystem`: sets up archiving on a primary, in SQL.
//!
//! What somebody else has set is never overwritten, and what only a restart can change stays visible in the report.

use crate::check::database::refuses_both;
use crate::config::Live;
use crate::control::TakeBackup;
use crate::report::{Reporter, on_the_server};
use crate::wal_command::{self, WalCommand};
use holdfast_postgres::WalLevel;
use holdfast_postgres::server::{Server, ServerError, Settings as ServerSettings};
use std::sync::Arc;
use std::time::Duration;

/// How often is looked whether there is something to set. A standby may be promoted at any time.
const EVERY: Duration = Duration::from_secs(10);
/// While the server does not answer: it starts, and whoever waits for archiving waits for us.
const SOON: Duration = Duration::from_secs(1);

/// What to set.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Plan {
    /// Nothing: all is well, or it is a standby.
    Nothing,
    /// These, in this order.
    Set(Vec<(&'static str, String)>),
    /// Something of somebody else's stands there, or the server would not start any more.
    Refuse(String),
}

/// Sets up archiving as soon as the server answers and is a primary, and looks again for ever.
pub async fn run<T: TakeBackup>(settings: Live, reporter: Arc<Reporter<T>>) {
    let mut told = None;
    let mut done = None;
    loop {
        let found = reporter.found().await;
        let mut pause = SOON;
        if let Ok(answer) = &found.server {
            pause = EVERY;
            let now = settings.get();
            let plan = plan(&answer.settings, &WalCommand::of(&now.socket));
            let why = match &plan {
                Plan::Nothing => None,
                Plan::Refuse(why) => Some(why.clone()),
                Plan::Set(changes) if done.as_ref() == Some(changes) => Some(
                    "ALTER SYSTEM has not changed it: is it set on the server's command line?"
                        .to_owned(),
                ),
                Plan::Set(changes) => {
                    match on_the_server(&now, async |server| set(server, changes).await).await {
                        Ok(()) => {
                            let names: Vec<_> = changes.iter().map(|(name, _)| *name).collect();
                            tracing::info!(?names, "set by ALTER SYSTEM");
                            done = Some(changes.clone());
                            reporter.forget().await;
                            None
                        }
                        Err(no_answer) => Some(no_answer.why),
                    }
                }
            };
            if let Some(why) = &why
                && told.as_ref() != Some(why)
            {
                tracing::warn!(why, "archiving is not set up");
                told = Some(why.clone());
            }
            reporter.set_not_configured(why);
        }
        tokio::time::sleep(pause).await;
    }
}

async fn set(server: &Server, changes: &[(&'static str, String)]) -> Result<(), ServerError> {
    for (name, value) in changes {
        server.alter_system(name, value).await?;
    }
    server.reload().await
}

/// What a server's settings call for. Pure.
fn plan(server: &ServerSettings, command: &WalCommand) -> Plan {
    if server.in_recovery {
        return Plan::Nothing;
    }
    let others = |name: &str, value: &str| {
        Plan::Refuse(format!(
            "{name} is {value:?}, which somebody else has set: it is not overwritten"
        ))
    };
    let module = server.archive_library.as_deref();
    if let Some(library) = module.filter(|library| !wal_command::is_module(library)) {
        return others("archive_library", library);
    }
    let archive = &server.archive_command;
    let counts = module.is_none() || refuses_both(server);
    if counts && !archive.is_empty() && !wal_command::archives(archive) {
        return others("archive_command", archive);
    }
    let mut changes = Vec::new();
    let waits = |name: &str| server.pending_restart.iter().any(|waits| waits == name);
    if server.archive_mode == "off" && !waits("archive_mode") {
        if server.wal_level == WalLevel::Minimal {
            return Plan::Refuse(
                "wal_level is minimal, with which a server that archives does not start: set it to replica first"
                    .to_owned(),
            );
        }
        changes.push(("archive_mode", "on".to_owned()));
    }
    if refuses_both(server) {
        changes.push(("archive_command", String::new()));
    }
    if archive.is_empty() && module.is_none() {
        changes.push(command.archiving(server.server_version_num));
    }
    if server.restore_command.is_empty() {
        changes.push(("restore_command", command.restore()));
    }
    if changes.is_empty() {
        Plan::Nothing
    } else {
        Plan::Set(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_postgres::{SystemIdentifier, TimelineId};
    use std::path::Path;

    const ARCHIVE: &str = "holdfast-wal archive %f %p";
    const RESTORE: &str = "holdfast-wal restore %f %p";

    fn server(mode: &str, archive: &str, restore: &str) -> ServerSettings {
        ServerSettings {
            server_version_num: 170_002,
            data_directory: "/d".into(),
            archive_mode: mode.into(),
            archive_command: archive.into(),
            archive_library: None,
            wal_level: WalLevel::Replica,
            restore_command: restore.into(),
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
    fn only_what_nobody_has_set_is_set() {
        let command = WalCommand::of(Path::new("/holdfast/run/wal.sock"));
        let set = |names: &[&'static str]| {
            let value = |name: &str| match name {
                "archive_command" => ARCHIVE,
                "restore_command" => RESTORE,
                _ => "on",
            };
            let changes = names.iter().map(|name| (*name, value(name).to_owned()));
            Some(changes.collect::<Vec<_>>())
        };
        let with = |mut server: ServerSettings, change: fn(&mut ServerSettings)| {
            change(&mut server);
            server
        };
        for (server, expected) in [
            (
                server("off", "", ""),
                set(&["archive_mode", "archive_command", "restore_command"]),
            ),
            (server("on", ARCHIVE, RESTORE), set(&[])),
            (server("always", ARCHIVE, RESTORE), set(&[])),
            (server("on", "", RESTORE), set(&["archive_command"])),
            (server("on", ARCHIVE, ""), set(&["restore_command"])),
            (server("on", ARCHIVE, "cp /x/%f %p"), set(&[])),
            (
                with(server("off", ARCHIVE, RESTORE), |s| {
                    s.pending_restart = vec!["archive_mode".into()];
                }),
                set(&[]),
            ),
            (
                with(server("off", "", ""), |s| s.in_recovery = true),
                set(&[]),
            ),
            (server("on", "cp %p /x/%f", RESTORE), None),
            (server("off", "cp %p /x/%f", ""), None),
            (server("on", "/bin/true", ""), None),
            (
                with(server("on", "", ""), |s| {
                    s.archive_library = Some("basic_archive".into());
                }),
                None,
            ),
            (
                with(server("on", "", RESTORE), |s| {
                    s.archive_library = Some("/holdfast/lib/holdfast_archive.so".into());
                }),
                set(&[]),
            ),
            (
                with(server("on", ARCHIVE, RESTORE), |s| {
                    s.archive_library = Some("/holdfast/lib/holdfast_archive.so".into());
                }),
                Some(vec![("archive_command", String::new())]),
            ),
            (
                with(server("off", "", ""), |s| s.wal_level = WalLevel::Minimal),
                None,
            ),
        ] {
            let found = match plan(&server, &command) {
                Plan::Nothing => Some(Vec::new()),
                Plan::Set(changes) => Some(changes),
                Plan::Refuse(why) => {
                    assert!(!why.is_empty());
                    None
                }
            };
            assert_eq!(found, expected, "{server:?}");
        }
    }
}
