//! One pass of expiry.

use super::announce::{self, Announcements};
use super::carry_out::Deleter;
use super::observe::observe;
use super::{ExpiryError, marker, tombstone};
use crate::archive::Archive;
use crate::backup::{Aborted, BackupId, abort};
use crate::owner::InstallationId;
use crate::retention::{self, Doomed, Fate, Incarnation, Observed, Plan, Policy, Request, Wishes};
use jiff::Timestamp;
use std::time::Duration;

/// Whose pass, and by which rules.
#[derive(Debug, Clone)]
pub struct Pass<'a> {
    /// Who deletes. Must own the archive.
    pub installation: &'a InstallationId,
    /// Of the program, for tombstones.
    pub version: &'a str,
    /// How far back, and how many.
    pub policy: Policy,
    /// What else is wanted.
    pub wishes: Wishes,
    /// For so long what goes is announced before.
    pub grace: Duration,
}

/// What a pass found and did.
#[derive(Debug, Clone)]
pub struct Progress {
    /// What there was when it began.
    pub observed: Observed,
    /// What was decided, with the reason for each.
    pub plan: Plan,
    /// Backups that are announced to go, or went.
    pub announced: Vec<String>,
    /// Backups that were given up as interrupted.
    pub given_up: Vec<String>,
    /// Backups whose manifest is gone now.
    pub deleted: Vec<String>,
    /// How many objects were deleted.
    pub objects: u64,
}

/// Decides, announces, and deletes what was announced for long enough. Safe to drop anywhere, and to repeat.
///
/// # Errors
/// Where the archive is not ours, something can't be told, or the store is in trouble. Then some of what was announced
/// may be gone, and the next pass goes on.
pub async fn pass(archive: &Archive, settings: &Pass<'_>) -> Result<Progress, ExpiryError> {
    let deleter = Deleter::new(archive, settings.installation);
    deleter.confirm().await?;
    let observed = observe(archive).await?;
    let plan = retention::plan(&observed, &settings.policy, &settings.wishes)?;
    let mut done = Done::default();
    for incarnation in &observed.incarnations {
        let now = observed.now;
        of_incarnation(
            archive,
            settings,
            &deleter,
            now,
            incarnation,
            &plan,
            &mut done,
        )
        .await?;
    }
    let Done {
        announced,
        given_up,
        deleted,
    } = done;
    Ok(Progress {
        observed,
        plan,
        announced,
        given_up,
        deleted,
        objects: deleter.deleted(),
    })
}

#[derive(Debug, Default)]
struct Done {
    announced: Vec<String>,
    given_up: Vec<String>,
    deleted: Vec<String>,
}

async fn of_incarnation(
    archive: &Archive,
    settings: &Pass<'_>,
    deleter: &Deleter<'_>,
    now: Timestamp,
    incarnation: &Incarnation,
    plan: &Plan,
    done: &mut Done,
) -> Result<(), ExpiryError> {
    let system = incarnation.catalogue.system;
    let Some(plan) = plan.incarnation(system) else {
        return Ok(());
    };
    let given_up = plan.backups.iter().filter(|b| b.fate == Fate::GiveUp);
    for id in given_up.filter_map(|backup| backup.id.parse::<BackupId>().ok()) {
        deleter.confirm().await?;
        let aborted = Aborted {
            time: Timestamp::now(),
            installation: settings.installation.to_string(),
        };
        if abort(archive, system, &id, &aborted).await? {
            done.given_up.push(id.to_string());
        }
    }
    let doomed = plan.doomed();
    done.announced.extend(doomed.backups.keys().cloned());
    let tombstones = tombstone::list(archive, system).await?;
    let Announcements {
        write,
        ask,
        withdraw,
        ripe,
    } = announce::decide(
        &tombstones,
        &doomed,
        &there(incarnation),
        now,
        settings.grace,
    );
    for named in [write, ask].iter().filter(|named| !named.is_empty()) {
        deleter.confirm().await?;
        let Pass {
            installation,
            version,
            ..
        } = settings;
        tombstone::write(archive, system, installation, version, named).await?;
    }
    for number in withdraw {
        deleter
            .delete(&crate::layout::tombstone(system, number))
            .await?;
    }
    deleter
        .carry_out(plan, incarnation.catalogue.segment_size, &ripe)
        .await?;
    done.deleted.extend(ripe.backups.into_keys());
    deleter.confirm().await?;
    marker::sweep(archive, system, now, &incarnation.readers).await?;
    Ok(())
}

/// All that there is, in the words of a tombstone.
fn there(incarnation: &Incarnation) -> Doomed {
    let timelines = &incarnation.catalogue.timelines;
    Doomed {
        backups: incarnation
            .stored
            .keys()
            .map(|id| (id.clone(), Request::default()))
            .collect(),
        wal: timelines
            .iter()
            .map(|timeline| (timeline.id, timeline.runs.clone()))
            .collect(),
        parts: timelines
            .iter()
            .map(|timeline| (timeline.id, timeline.with_parts.clone()))
            .collect(),
    }
}
