//! Trying the backups of one lineage, newest first, until Postgres would stop at the target.

use super::choose::Choice;
use super::rule::{self, Rule, Side};
use super::scan::{Passed, Scan, StopRecord, Tail};
use super::{Indexes, Plan, Refusal, Stop, StopKind, Target, Window};
use crate::catalogue::{Catalogue, Chain};
use crate::facts::BackupFacts;
use holdfast_postgres::{Lineage, Lsn, PgTimestamp, SegmentName, Span};

/// One lineage and the backups to try along it, newest first.
pub(super) struct Planner<'a, I> {
    pub(super) catalogue: &'a Catalogue,
    pub(super) source: &'a I,
    pub(super) target: &'a Target,
    pub(super) exclusive: bool,
    pub(super) choice: &'a Choice<'a>,
}

/// What the next older backup need not look for again.
struct Known {
    /// Where the backup starts that was tried.
    start: Lsn,
    /// The first stop from there on, if there is one.
    stop: Option<StopRecord>,
    /// As far as was looked for it.
    until: Lsn,
    passed: Passed,
}

impl<I: Indexes> Planner<'_, I> {
    /// Along this lineage alone.
    pub(super) async fn plan(&self) -> Result<Plan, Refusal> {
        let rule = Rule::of(self.target, self.exclusive);
        let mut known: Option<Known> = None;
        let (mut too_early, mut gap) = (
            matches!(self.target, Target::Time(_) | Target::Lsn(_)),
            None,
        );
        for &backup in &self.choice.backups {
            let chain = self.chain(backup);
            let scan = Scan {
                source: self.source,
                chain: &chain,
                size: self.catalogue.segment_size,
            };
            let Some(rule) = &rule else {
                return self.without_rule(backup, &chain, &scan).await;
            };
            if self.lies_before(backup) {
                continue;
            }
            let (stop, passed) = self.first_stop(&scan, backup, rule, known.as_ref()).await?;
            match stop {
                Some(stop) if stop.reached() >= backup.stop => {
                    self.check_passable(backup, &passed).await?;
                    return Ok(self.stopping_at(backup, &chain, &stop, passed));
                }
                // Before the backup is consistent: Postgres would give up there. An older one may be consistent.
                Some(stop) => {
                    too_early = true;
                    known = Some(Known {
                        start: backup.start,
                        until: stop.end,
                        stop: Some(stop),
                        passed,
                    });
                }
                None => {
                    if self.is_covered(backup, &scan, &passed).await? {
                        return self.to_the_end(backup, &chain, &scan, passed).await;
                    }
                    let hole = chain.gap.then_some(chain.missing);
                    if matches!(self.target, Target::Time(_) | Target::Lsn(_)) {
                        let (target, reachable) = (self.target.clone(), self.window().await);
                        return Err(match hole {
                            Some(missing) => Refusal::Gap {
                                target,
                                missing,
                                reachable,
                            },
                            None => Refusal::TooLate { target, reachable },
                        });
                    }
                    gap = gap.or(hole);
                    known = Some(Known {
                        start: backup.start,
                        until: chain.end,
                        stop: None,
                        passed,
                    });
                }
            }
        }
        let reachable = self.window().await;
        Err(match gap {
            _ if too_early => Refusal::TooEarly {
                target: self.target.clone(),
                reachable,
            },
            Some(missing) => Refusal::Gap {
                target: self.target.clone(),
                missing,
                reachable,
            },
            None => Refusal::NotFound {
                target: self.target.clone(),
                timeline: self.choice.lineage.newest(),
                reachable,
            },
        })
    }

    /// `CheckRequiredParameterValues`: WAL that was written with `wal_level = minimal` is not replayed.
    async fn check_passable(&self, backup: &BackupFacts, passed: &Passed) -> Result<(), Refusal> {
        match passed.minimal {
            None => Ok(()),
            Some(lsn) => Err(Refusal::MinimalWal {
                target: self.target.clone(),
                backup: backup.id.clone(),
                lsn,
                reachable: self.window().await,
            }),
        }
    }

    fn chain(&self, backup: &BackupFacts) -> Chain {
        self.catalogue.chain(
            &self.choice.lineage,
            backup.start.segment(self.catalogue.segment_size),
        )
    }

    async fn window(&self) -> Option<Window> {
        Window::along(self.catalogue, self.source, &self.choice.lineage)
            .await
            .ok()
            .flatten()
    }

    /// Whether the target lies before what the backup already holds, so that it need not be tried.
    fn lies_before(&self, backup: &BackupFacts) -> bool {
        match self.target {
            // Commits from before its start are in it, and no record on the way tells of them.
            Target::Time(time) => *time < backup.stop_time,
            Target::Lsn(lsn) => *lsn <= backup.start,
            _ => false,
        }
    }

    /// The first record at which Postgres would stop, from the backup's start on.
    async fn first_stop(
        &self,
        scan: &Scan<'_, I>,
        backup: &BackupFacts,
        rule: &Rule,
        known: Option<&Known>,
    ) -> Result<(Option<StopRecord>, Passed), Refusal> {
        let size = self.catalogue.segment_size;
        // What was found from a later start on is the same from here, where the WAL reaches to it.
        let known =
            known.filter(|known| known.until <= scan.chain.end && backup.start <= known.start);
        let until = known.map(|known| known.start.segment(size).next());
        let (stop, mut passed) = scan.first_stop(backup.start, until, Some(rule)).await?;
        match known {
            Some(known) if stop.is_none() => {
                passed.add(&known.passed);
                Ok((known.stop.clone(), passed))
            }
            _ => Ok((stop, passed)),
        }
    }

    /// Whether the target, at which no record stops, lies within what is archived all the same.
    async fn is_covered(
        &self,
        backup: &BackupFacts,
        scan: &Scan<'_, I>,
        passed: &Passed,
    ) -> Result<bool, Refusal> {
        Ok(match self.target {
            Target::Time(time) => {
                *time <= backup.stop_time
                    || passed
                        .latest_time
                        .is_some_and(|latest| *time <= latest.to_jiff())
            }
            Target::Lsn(lsn) => *lsn <= scan.next_position(scan.end().await?),
            _ => false,
        })
    }

    /// Targets at which no record stops.
    async fn without_rule(
        &self,
        backup: &BackupFacts,
        chain: &Chain,
        scan: &Scan<'_, I>,
    ) -> Result<Plan, Refusal> {
        if *self.target == Target::Immediate {
            let passed = scan.passed_until(backup.start, backup.stop).await?;
            self.check_passable(backup, &passed).await?;
            let stop = Stop {
                kind: StopKind::Consistent,
                lsn: backup.stop,
                time: passed.last_commit.map(PgTimestamp::to_jiff),
                words: format!(
                    "at {}, where backup {} is consistent",
                    backup.stop, backup.id
                ),
            };
            let settings = vec![("recovery_target", "immediate".into())];
            let (way, chain) = self.shortest_way(backup, chain, backup.stop);
            return Ok(self.finished(backup, way, &chain, stop, backup.stop, &passed, settings));
        }
        if chain.gap {
            return Err(Refusal::Gap {
                target: self.target.clone(),
                missing: chain.missing,
                reachable: self.window().await,
            });
        }
        let (_, passed) = scan.first_stop(backup.start, None, None).await?;
        self.to_the_end(backup, chain, scan, passed).await
    }

    fn stopping_at(
        &self,
        backup: &BackupFacts,
        chain: &Chain,
        stop: &StopRecord,
        passed: Passed,
    ) -> Plan {
        let kind = match stop.side {
            Side::Before => StopKind::Before,
            Side::After => StopKind::After,
        };
        let words = format!(
            "{} {}",
            if stop.side == Side::Before {
                "before"
            } else {
                "after"
            },
            stop.what
        );
        let end = Stop {
            kind,
            lsn: stop.reached(),
            time: passed.last_commit.map(PgTimestamp::to_jiff),
            words,
        };
        let (way, chain) = self.shortest_way(backup, chain, stop.end);
        self.finished(backup, way, &chain, end, stop.end, &passed, self.settings())
    }

    async fn to_the_end(
        &self,
        backup: &BackupFacts,
        chain: &Chain,
        scan: &Scan<'_, I>,
        passed: Passed,
    ) -> Result<Plan, Refusal> {
        self.check_passable(backup, &passed).await?;
        let Tail { end, last_record } = scan.tail().await?;
        if end < backup.stop {
            return Err(Refusal::Incomplete {
                id: backup.id.clone(),
                missing: chain.missing,
            });
        }
        let time = passed.last_commit.map(PgTimestamp::to_jiff);
        let words = format!("at {end}, the end of the archived WAL");
        let stop = Stop {
            kind: StopKind::EndOfWal,
            lsn: end,
            time,
            words,
        };
        let settings = vec![
            ("recovery_target_lsn", last_record.to_string()),
            ("recovery_target_inclusive", "on".into()),
        ];
        let way = self.choice.lineage.clone();
        Ok(self.finished(backup, way, chain, stop, end, &passed, settings))
    }

    /// `recovery_target*` for what was asked.
    fn settings(&self) -> Vec<(&'static str, String)> {
        let inclusive = (
            "recovery_target_inclusive",
            if self.exclusive { "off" } else { "on" }.to_owned(),
        );
        match self.target {
            Target::Latest => vec![],
            Target::Immediate => vec![("recovery_target", "immediate".into())],
            Target::Time(time) => vec![
                ("recovery_target_time", rule::setting(*time, self.exclusive)),
                inclusive,
            ],
            Target::Lsn(lsn) => vec![("recovery_target_lsn", lsn.to_string()), inclusive],
            Target::Xid(xid) => vec![("recovery_target_xid", xid.to_string()), inclusive],
            Target::Name(name) => vec![("recovery_target_name", name.clone())],
        }
    }

    /// The line of the timeline that wrote what lies before `needed`, where that is an older one than was asked for, and
    /// leads to the very same records. Following the newer one to before its beginning, Postgres would note a history
    /// whose switch points go backwards.
    fn shortest_way(&self, backup: &BackupFacts, chain: &Chain, needed: Lsn) -> (Lineage, Chain) {
        let asked = &self.choice.lineage;
        let first = backup.start.segment(self.catalogue.segment_size);
        let shorter = || {
            let passed = asked.spans();
            let last = passed
                .iter()
                .position(|span| span.end.is_some_and(|end| needed <= end))?;
            let shorter = self.catalogue.lineage(passed.get(last)?.timeline)?;
            let begins = |spans: &[Span]| -> Vec<_> {
                spans
                    .iter()
                    .map(|span| (span.timeline, span.begin))
                    .collect()
            };
            let same = begins(shorter.spans()) == begins(passed.get(..=last)?);
            let chain = self.catalogue.chain(&shorter, first);
            (same && self.catalogue.is_on(backup, &shorter) && needed <= chain.end)
                .then_some((shorter, chain))
        };
        shorter().unwrap_or_else(|| (asked.clone(), chain.clone()))
    }

    /// `needed`: WAL is read up to here.
    #[expect(clippy::too_many_arguments, reason = "what a plan consists of")]
    fn finished(
        &self,
        backup: &BackupFacts,
        lineage: Lineage,
        chain: &Chain,
        stop: Stop,
        needed: Lsn,
        passed: &Passed,
        settings: Vec<(&'static str, String)>,
    ) -> Plan {
        let size = self.catalogue.segment_size;
        let first = backup.start.segment(size);
        let last = needed.segment_before(size).max(first);
        let newest = lineage.newest();
        let file = |segment| {
            chain
                .file(segment)
                .unwrap_or(SegmentName::new(newest, segment, size))
        };
        Plan {
            backup: backup.clone(),
            lineage,
            timeline: newest,
            stop,
            first_segment: file(first),
            last_segment: file(last),
            wal_segments: last.0 - first.0 + 1,
            end: chain.end,
            end_timeline: chain.last_file().map_or(newest, |file| file.timeline),
            recovery_settings: settings
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            minimum_settings: passed.at_least(backup.settings),
        }
    }
}
