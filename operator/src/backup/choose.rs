//! Which server is backed up. Pure.

use crate::archive::Member;
use crate::text;
use holdfast_crds::BackupSource;
use holdfast_protocol::control::{InstanceReport, Role};
use std::collections::BTreeSet;

/// Why none can be backed up now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoServer {
    /// One word.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

impl NoServer {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// Whether a Backup with that reason waits for a server, as opposed to its turn.
pub fn is_for_a_server(reason: &str) -> bool {
    matches!(
        reason,
        "NoPod"
            | "NoPrimary"
            | "NoStandby"
            | "ServerUnreachable"
            | "ArchivingOff"
            | "ArchivingFails"
            | "ArchivingNotTried"
            | "ConfigurationNotApplied"
            | "ServerBusy"
            | "SeveralPrimaries"
    )
}

/// What a server has to be, to be backed up.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a> {
    /// The settings that it has to have loaded.
    pub generation: i64,
    /// Ids of backups that have ended, whatever a server said of them seconds ago.
    pub ended: &'a BTreeSet<String>,
}

/// The server to back up: one that has the settings of that generation, can be asked, and whose WAL gets archived.
pub fn choose<'a>(
    members: &'a [Member],
    wanted: BackupSource,
    needs: Needs<'_>,
) -> Result<&'a Member, NoServer> {
    let servers: Vec<&Member> = members
        .iter()
        .filter(|member| member.counts() && !member.leaving)
        .collect();
    if servers.is_empty() {
        return Err(NoServer::new(
            "NoPod",
            "no pod carries this Archive's label: add holdfast.dev/archive to the pod template of the database",
        ));
    }
    let primary = primary(&servers, needs);
    match wanted {
        BackupSource::Primary => primary,
        BackupSource::Standby => standby(&servers, needs, primary.as_ref().ok().copied()),
        BackupSource::PreferStandby => {
            standby(&servers, needs, primary.as_ref().ok().copied()).or(primary)
        }
    }
}

/// Who can close the segment that a standby's backup ends in.
pub fn primary_of<'a>(members: &'a [Member], system: Option<&str>) -> Option<&'a Member> {
    members.iter().find(|member| {
        member.counts()
            && member.role() == Some(Role::Primary)
            && member.report().is_some_and(|report| {
                system.is_none() || report.postgres.system_identifier.as_deref() == system
            })
    })
}

fn primary<'a>(servers: &[&'a Member], needs: Needs<'_>) -> Result<&'a Member, NoServer> {
    let primaries: Vec<&Member> = servers
        .iter()
        .copied()
        .filter(|server| server.role() == Some(Role::Primary))
        .collect();
    match primaries.as_slice() {
        [] => Err(no_primary(servers)),
        [only] => able(only, needs).map(|()| *only),
        several => {
            let names = text::some(several.iter().map(|server| server.name.as_str()));
            Err(NoServer::new(
                "SeveralPrimaries",
                format!(
                    "{names} all take writes: one database has one primary; give each its own Archive, or stop all but one"
                ),
            ))
        }
    }
}

fn no_primary(servers: &[&Member]) -> NoServer {
    let silent = servers.iter().find(|server| server.report().is_none());
    match silent {
        Some(server) if server.sidecar().is_none() => NoServer::new(
            "ServerUnreachable",
            format!(
                "no primary is seen, and the sidecar of {} does not listen yet",
                server.name
            ),
        ),
        Some(server) => NoServer::new(
            "ServerUnreachable",
            format!("no primary is seen, and {} does not answer", server.name),
        ),
        None => NoServer::new("NoPrimary", "no server takes writes at the moment"),
    }
}

fn standby<'a>(
    servers: &[&'a Member],
    needs: Needs<'_>,
    primary: Option<&Member>,
) -> Result<&'a Member, NoServer> {
    let mut standbys: Vec<&Member> = servers
        .iter()
        .copied()
        .filter(|server| server.role() == Some(Role::Standby))
        .collect();
    standbys.sort_by(|a, b| a.name.cmp(&b.name));
    let Some(primary) = primary.and_then(Member::report) else {
        return Err(NoServer::new(
            "NoPrimary",
            "a standby's backup needs a primary whose WAL gets archived, and none is seen",
        ));
    };
    let mut why = None;
    for standby in standbys {
        match able(standby, needs).and_then(|()| follows(standby, primary)) {
            Ok(()) => return Ok(standby),
            Err(error) => why = why.or(Some(error)),
        }
    }
    Err(why.unwrap_or_else(|| NoServer::new("NoStandby", "no standby is seen")))
}

/// Whether a standby has the primary's data, as far as that can be told from outside.
fn follows(standby: &Member, primary: &InstanceReport) -> Result<(), NoServer> {
    let Some(report) = standby.report() else {
        return Err(NoServer::new(
            "ServerUnreachable",
            format!("{} does not answer", standby.name),
        ));
    };
    let (own, of_primary) = (&report.postgres, &primary.postgres);
    if own.system_identifier.is_none() || own.system_identifier != of_primary.system_identifier {
        return Err(NoServer::new(
            "NoStandby",
            format!("{} is a standby of another database cluster", standby.name),
        ));
    }
    if own.timeline.is_none() || own.timeline != of_primary.timeline {
        return Err(NoServer::new(
            "NoStandby",
            format!(
                "{} has not reached the primary's timeline yet",
                standby.name
            ),
        ));
    }
    Ok(())
}

/// Whether a server can be backed up now.
fn able(server: &Member, needs: Needs<'_>) -> Result<(), NoServer> {
    let name = &server.name;
    let (Some(report), Some(_)) = (server.report(), server.sidecar()) else {
        return Err(NoServer::new(
            "ServerUnreachable",
            format!("{name} does not answer"),
        ));
    };
    if let Some(why) = &report.postgres.unreachable {
        let why = text::line(why);
        return Err(NoServer::new(
            "ServerUnreachable",
            format!("the server in {name} can't be asked: {why}"),
        ));
    }
    if report
        .configuration_generation
        .is_none_or(|loaded| loaded < needs.generation)
    {
        let why = report.configuration_error.as_deref().map(text::line);
        return Err(NoServer::new(
            "ConfigurationNotApplied",
            format!(
                "{name} has not loaded the present settings yet{}",
                why.map(|why| format!(": {why}")).unwrap_or_default()
            ),
        ));
    }
    if let Some(why) = report.postgres.archiving_off.as_deref()
        && report.postgres.role == Some(Role::Primary)
    {
        let why = text::line(why);
        return Err(NoServer::new(
            "ArchivingOff",
            format!("the WAL of {name} is not archived: {why}"),
        ));
    }
    let wal = &report.wal;
    if let Some(failure) = &wal.last_failure
        && wal
            .last_archived
            .as_ref()
            .is_none_or(|last| last.time < failure.time)
    {
        let (file, why) = (text::line(&failure.name), text::line(&failure.reason));
        return Err(NoServer::new(
            "ArchivingFails",
            format!("{name} can't archive {file}: {why}"),
        ));
    }
    if let Some(waiting) = server.untried() {
        return Err(NoServer::new(
            "ArchivingNotTried",
            format!(
                "the sidecar of {name} has started, and has not tried yet to store what waits: {waiting} files"
            ),
        ));
    }
    if let Some(running) = &report.running_backup
        && !needs.ended.contains(running)
    {
        let running = text::line(running);
        return Err(NoServer::new(
            "ServerBusy",
            format!("backup {running} runs in {name}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Said;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn member(n: u32, said: Said) -> Member {
        let pod = json!({
            "metadata": {"namespace": "shop", "name": format!("orders-{n}"), "uid": format!("u{n}"),
                "labels": {"holdfast.dev/archive": "orders"}},
            "spec": {"containers": [{"name": "postgres"}], "initContainers": [{"name": "holdfast"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "initContainerStatuses": [
                {"name": "holdfast", "started": true, "image": "i", "imageID": "i", "ready": true, "restartCount": 0}]},
        });
        Member::of(&serde_json::from_value(pod).unwrap(), |_| said.clone()).unwrap()
    }

    /// A member whose sidecar says this.
    fn reporting(n: u32, report: Value) -> Member {
        let report: InstanceReport = serde_json::from_value(report).unwrap();
        member(n, Said::Report(Arc::new(report)))
    }

    fn needs(ended: &BTreeSet<String>) -> Needs<'_> {
        Needs {
            generation: 3,
            ended,
        }
    }

    fn report(role: &str, changes: Value) -> Value {
        let mut report = json!({"configurationGeneration": 3,
            "postgres": {"role": role, "systemIdentifier": "7", "timeline": 2}});
        json_patch::merge(&mut report, &changes);
        report
    }

    #[test]
    fn the_server_is_one_that_can_be_backed_up() {
        use BackupSource::{PreferStandby, Primary, Standby};
        let server = |n, role, changes| reporting(n, report(role, changes));
        let primary = || server(0, "Primary", json!({}));
        let standby = |n| server(n, "Standby", json!({}));
        let fine = json!({});
        let off = json!({"postgres": {"archivingOff": "archive_mode is off"}});
        let fails = json!({"wal": {"lastFailure": {"name": "x", "reason": "away", "time": "2026-11-20T10:00:00Z"}}});
        let mut mended = fails.clone();
        mended["wal"]["lastArchived"] = json!({"name": "x", "time": "2026-11-20T10:00:05Z"});
        let waits = json!({"wal": {"readyCount": 2}});
        let old = json!({"configurationGeneration": 2});
        let never = json!({"configurationGeneration": null});
        let busy = json!({"runningBackup": "b"});
        let down = json!({"postgres": {"unreachable": "it starts"}});
        let stranger = json!({"postgres": {"systemIdentifier": "8"}});
        let behind = json!({"postgres": {"timeline": 1}});
        let silent = || member(9, Said::Silent("gone".into()));
        for (wanted, members, expected) in [
            (Primary, vec![], Err("NoPod")),
            (Primary, vec![primary(), standby(1)], Ok("orders-0")),
            (
                PreferStandby,
                vec![primary(), standby(2), standby(1)],
                Ok("orders-1"),
            ),
            (Standby, vec![primary(), standby(1)], Ok("orders-1")),
            (PreferStandby, vec![primary()], Ok("orders-0")),
            (Standby, vec![primary()], Err("NoStandby")),
            (Primary, vec![standby(1)], Err("NoPrimary")),
            (Standby, vec![standby(1)], Err("NoPrimary")),
            (PreferStandby, vec![standby(1)], Err("NoPrimary")),
            (Primary, vec![silent()], Err("ServerUnreachable")),
            (Primary, vec![primary(), silent()], Ok("orders-0")),
            (
                Primary,
                vec![primary(), server(1, "Primary", json!({}))],
                Err("SeveralPrimaries"),
            ),
            (
                Primary,
                vec![server(0, "Primary", off.clone())],
                Err("ArchivingOff"),
            ),
            (
                PreferStandby,
                vec![server(0, "Primary", off.clone()), standby(1)],
                Err("ArchivingOff"),
            ),
            // A standby archives only what it streams, and need not.
            (
                PreferStandby,
                vec![primary(), server(1, "Standby", off)],
                Ok("orders-1"),
            ),
            (
                Primary,
                vec![server(0, "Primary", fails.clone())],
                Err("ArchivingFails"),
            ),
            (Primary, vec![server(0, "Primary", mended)], Ok("orders-0")),
            (
                Primary,
                vec![server(0, "Primary", waits.clone())],
                Err("ArchivingNotTried"),
            ),
            // What waits in a standby is nobody's to archive.
            (
                PreferStandby,
                vec![primary(), server(1, "Standby", waits)],
                Ok("orders-1"),
            ),
            (
                PreferStandby,
                vec![primary(), server(1, "Standby", fails)],
                Ok("orders-0"),
            ),
            (
                Primary,
                vec![server(0, "Primary", old.clone())],
                Err("ConfigurationNotApplied"),
            ),
            (
                Primary,
                vec![server(0, "Primary", never)],
                Err("ConfigurationNotApplied"),
            ),
            (
                PreferStandby,
                vec![primary(), server(1, "Standby", old)],
                Ok("orders-0"),
            ),
            (
                Primary,
                vec![server(0, "Primary", busy.clone())],
                Err("ServerBusy"),
            ),
            (
                Standby,
                vec![primary(), server(1, "Standby", busy)],
                Err("ServerBusy"),
            ),
            (
                Primary,
                vec![server(0, "Primary", down.clone())],
                Err("ServerUnreachable"),
            ),
            (
                PreferStandby,
                vec![primary(), server(1, "Standby", down)],
                Ok("orders-0"),
            ),
            (
                PreferStandby,
                vec![primary(), server(1, "Standby", stranger)],
                Ok("orders-0"),
            ),
            (
                PreferStandby,
                vec![primary(), server(1, "Standby", behind.clone()), standby(2)],
                Ok("orders-2"),
            ),
            (
                Standby,
                vec![primary(), server(1, "Standby", behind)],
                Err("NoStandby"),
            ),
            (
                Primary,
                vec![Member {
                    leaving: true,
                    ..server(0, "Primary", fine)
                }],
                Err("NoPod"),
            ),
            (
                Primary,
                vec![Member {
                    listens: false,
                    ..primary()
                }],
                Err("ServerUnreachable"),
            ),
        ] {
            let chosen = choose(&members, wanted, needs(&BTreeSet::new()));
            let chosen = chosen.map(|m| m.name.as_str()).map_err(|no| no.reason);
            assert_eq!(chosen, expected, "{wanted:?} {members:?}");
            if let Err(reason) = chosen {
                assert!(is_for_a_server(reason));
            }
        }
    }

    #[test]
    fn what_a_server_said_of_a_backup_that_has_ended_is_old() {
        let members = [reporting(
            0,
            report("Primary", json!({"runningBackup": "b"})),
        )];
        let chosen = |ended: &BTreeSet<String>| {
            choose(&members, BackupSource::Primary, needs(ended)).is_ok()
        };
        assert!(!chosen(&BTreeSet::from(["a".to_owned()])));
        assert!(chosen(&BTreeSet::from(["b".to_owned()])));
    }

    #[test]
    fn what_strangers_say_is_one_line() {
        let bad = json!({"postgres": {"unreachable": format!("a\n{}", "x".repeat(9000))}});
        let members = [reporting(0, report("Primary", bad))];
        let ended = BTreeSet::new();
        let chosen = choose(&members, BackupSource::Primary, needs(&ended));
        let message = chosen.unwrap_err().message;
        assert!(message.len() < 500 && !message.contains('\n'), "{message}");
    }
}
