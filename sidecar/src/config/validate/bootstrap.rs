//! What a data directory is restored from before Postgres starts on it.

use super::{Problems, check_archive};
use crate::config::{Recovery, RestoreOrder, file};
use holdfast_postgres::Lsn;
use holdfast_repository::reach::text::{
    may_be_exclusive, parse_name, parse_time, parse_timeline, parse_xid,
};
use holdfast_repository::reach::{Request, Target, TimelineChoice};
use serde_saphyr::Spanned;

/// `named`: whether the settings have a repository of that name.
pub(super) fn check_recovery(
    problems: &mut Problems,
    recovery: Spanned<file::Recovery>,
    named: impl Fn(&str) -> bool,
) -> Option<Recovery> {
    let file::Recovery {
        repository,
        archive,
        target,
        action,
    } = recovery.value;
    if !named(&repository.value) {
        problems.at(
            &repository,
            format!(
                "the settings have no repository named {:?}: add it to sources",
                repository.value
            ),
        );
    }
    if let Err(why) = check_archive(&archive.value) {
        problems.at(&archive, format!("the archive {:?} {why}", archive.value));
    }
    Some(Recovery {
        repository: repository.value,
        archive: archive.value,
        request: check_target(problems, target)?,
        action,
    })
}

/// `named`: whether the settings archive to a repository of that name.
pub(super) fn check_order(
    problems: &mut Problems,
    order: Spanned<file::RestoreOrder>,
    named: impl Fn(&str) -> bool,
) -> Option<RestoreOrder> {
    let file::RestoreOrder {
        id,
        pod,
        wiped,
        system_identifier,
        repository,
        target,
        action,
        force,
    } = order.value;
    if !named(&repository.value) {
        problems.at(
            &repository,
            format!(
                "the settings archive to no repository named {:?}",
                repository.value
            ),
        );
    }
    let system = system_identifier.value.parse();
    if system.is_err() {
        problems.at(
            &system_identifier,
            format!(
                "{:?} is no system identifier: write it in decimal digits",
                system_identifier.value
            ),
        );
    }
    Some(RestoreOrder {
        id,
        pod,
        wiped,
        system_identifier: system.ok()?,
        repository: repository.value,
        request: check_target(problems, target)?,
        action,
        force,
    })
}

fn check_target(problems: &mut Problems, target: Spanned<file::Target>) -> Option<Request> {
    let place = target.referenced;
    let file::Target {
        time,
        lsn,
        xid,
        name,
        immediate,
        latest,
        exclusive,
        timeline,
        backup,
    } = target.value;
    let mut targets: Vec<Target> = Vec::new();
    let mut given = 0;
    let mut take = |text: Option<Spanned<String>>, parse: fn(&str) -> Result<Target, String>| {
        let Some(text) = text else { return };
        given += 1;
        match parse(&text.value) {
            Ok(target) => targets.push(target),
            Err(why) => problems.at(&text, why),
        }
    };
    take(time, |text| parse_time(text).map(Target::Time));
    take(lsn, |text| {
        let lsn: Result<Lsn, _> = text.parse();
        lsn.map(Target::Lsn).map_err(|e| e.to_string())
    });
    take(xid, |text| parse_xid(text).map(Target::Xid));
    take(name, |text| parse_name(text).map(Target::Name));
    given += usize::from(immediate.is_some()) + usize::from(latest.is_some());
    targets.extend(immediate.map(|_| Target::Immediate));
    targets.extend(latest.map(|_| Target::Latest));
    if given != 1 {
        problems.at_location(
            place,
            format!(
                "{given} targets: write one of time, lsn, xid, name, immediate: {{}} and latest: {{}}"
            ),
        );
    }
    let timeline = match timeline {
        None => TimelineChoice::Latest,
        Some(text) => match parse_timeline(&text.value) {
            Ok(choice) => choice,
            Err(why) => {
                problems.at(&text, why);
                TimelineChoice::Latest
            }
        },
    };
    let target = targets.pop()?;
    if exclusive && !may_be_exclusive(&target) {
        problems.at_location(
            place,
            "exclusive means something only with time, lsn or xid",
        );
    }
    Some(Request {
        target,
        exclusive,
        timeline,
        backup,
    })
}
