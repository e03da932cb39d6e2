//! Every kind of target, on every timeline, from backups that were taken under load: not one row too many or too few.
//!
//! One history for each major: a primary with a tablespace, under pgbench and the ledger's writers, is backed up; a standby
//! is promoted while the primary lives on, so that timelines 1 and 2 part in the middle of a segment; the promoted one is
//! backed up under load again. Every restore is then judged by the ledger.

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use holdfast_e2e::ledger::Event;
use holdfast_e2e::restored::{RECOVERY_SETTINGS, ensure_no_recovery_settings};
use holdfast_e2e::{Holdfast, Ledger, Minio, Postgres, Shutdown, Target, World};
use holdfast_postgres::Lsn;
use serde_json::Value;

/// What Postgres does at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Promote,
    Pause,
    Shutdown,
}

/// Which of the history's backups and timelines a case restores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Road {
    /// From the first backup along the timeline that the primary went on with.
    Stayed,
    /// From the first backup through the promotion.
    Through,
    /// From the promoted server's own backup.
    After,
}

#[derive(Clone, Debug)]
struct Case {
    road: Road,
    target: Target,
    exclusive: bool,
    action: Action,
    /// pg_amcheck after it, which takes longer than the restore.
    amcheck: bool,
}

struct History {
    world: World,
    major: u32,
    holdfast: Holdfast,
    ledger: Ledger,
    tablespace: u32,
    before: Value,
    after: Value,
}

fn text<'a>(status: &'a Value, field: &str) -> Result<&'a str> {
    status
        .get(field)
        .and_then(Value::as_str)
        .with_context(|| format!("{field} in {status}"))
}

impl History {
    async fn write(world: &World, major: u32, minio: Option<&Minio>) -> Result<Self> {
        let primary = world
            .postgres("primary", major)
            .segment_mib(1)
            .create()
            .await?;
        let settings = world.holdfast("shop/orders", &primary);
        let holdfast = match minio {
            Some(minio) => settings
                .s3(&minio.bucket("backups")?)
                .encrypted()?
                .build()?,
            None => settings.filesystem("backups")?.build()?,
        };
        let sidecar = holdfast.sidecar().await?;
        primary.archive_with(&holdfast).await?;
        let (tablespace, _) = primary.tablespace("space").await?;
        let mut ledger = Ledger::create_in(&primary, "space").await?;
        primary.pgbench(&["-i", "-s", "2", "-q"]).await?;

        let load = ledger.start(&primary, 2).await?;
        let bench = primary.pgbench_load(&["-n", "-c", "2", "-R", "100", "-T", "3600"])?;
        let before = holdfast.backup().await?;
        primary.restore_point("on both").await?;
        let mut standby = primary.standby("standby").await?;
        drop(bench);
        load.stop().await?;
        ledger.write(&primary, 20).await?;
        standby.wait_replayed(&primary.lsn().await?).await?;

        let second = holdfast.also_for(&standby).build()?;
        let second_sidecar = second.sidecar().await?;
        standby.archive_with(&second).await?;
        standby.promote().await?;
        // The old primary has not heard of it.
        ledger.write(&primary, 30).await?;
        primary.restore_point("left behind").await?;
        ledger.write(&primary, 30).await?;
        primary.archive_all().await?;
        ledger.read_wal(&primary).await?;

        let load = ledger.start(&standby, 2).await?;
        let bench = standby.pgbench_load(&["-n", "-c", "2", "-R", "100", "-T", "3600"])?;
        standby.restore_point("promoted").await?;
        let after = second.backup().await?;
        standby.restore_point("late").await?;
        drop(bench);
        load.stop().await?;
        ledger.write(&standby, 60).await?;
        standby.archive_all().await?;
        ledger.read_wal(&standby).await?;
        for mut server in [primary, standby] {
            server.stop(Shutdown::Fast).await?;
        }
        sidecar.stop().await?;
        second_sidecar.stop().await?;

        let history = Self {
            world: world.clone(),
            major,
            holdfast,
            ledger,
            tablespace,
            before,
            after,
        };
        history.ensure_described().await?;
        Ok(history)
    }

    /// What `info` says of it.
    async fn ensure_described(&self) -> Result<()> {
        let info = self.holdfast.info().await?;
        let backups: Vec<&str> = info["backups"]
            .as_array()
            .context("backups")?
            .iter()
            .filter_map(|backup| backup["id"].as_str())
            .collect();
        ensure!(
            backups == [text(&self.before, "id")?, text(&self.after, "id")?],
            "{info:#}"
        );
        let timelines = info["timelines"].as_array().context("timelines")?;
        ensure!(timelines.len() == 2, "{info:#}");
        ensure!(
            timelines
                .iter()
                .all(|timeline| timeline["gaps"].as_array().is_some_and(Vec::is_empty)),
            "{info:#}"
        );
        ensure!(
            timelines[1]["id"] == 2 && timelines[1]["parent"] == 1,
            "{info:#}"
        );
        let first: Lsn = text(&info["recoveryWindow"], "earliestLsn")?.parse()?;
        let last: Lsn = text(&info["recoveryWindow"], "latestLsn")?.parse()?;
        let consistent: Lsn = text(&self.before, "stopLsn")?.parse()?;
        let events = self.ledger.events(2)?;
        let newest = events.last().context("events")?;
        ensure!(
            first >= consistent && first < last && last > newest.lsn,
            "{newest:?}, {info:#}"
        );
        Ok(())
    }

    fn backup(&self, road: Road) -> &Value {
        match road {
            Road::Stayed | Road::Through => &self.before,
            Road::After => &self.after,
        }
    }

    fn timeline(road: Road) -> u32 {
        match road {
            Road::Stayed => 1,
            Road::Through | Road::After => 2,
        }
    }

    /// A commit of the ledger on that road, after its backup: `part` of `of` along the way.
    fn commit(&self, road: Road, part: usize, of: usize) -> Result<Event> {
        let consistent: Lsn = text(self.backup(road), "stopLsn")?.parse()?;
        let mut commits = self.ledger.commits(Self::timeline(road))?;
        commits.retain(|commit| commit.lsn >= consistent);
        ensure!(
            commits.len() >= of,
            "only {} commits on {road:?} after {consistent}",
            commits.len()
        );
        let at = (commits.len() - 1) * part / of;
        commits.get(at).cloned().context("a commit")
    }

    fn immediate(&self, road: Road) -> Result<Target> {
        Ok(Target::Immediate {
            stop: text(self.backup(road), "stopLsn")?.parse()?,
        })
    }

    /// Restores, recovers, and judges every row.
    async fn judge(&self, number: usize, case: &Case) -> Result<()> {
        let Case {
            road,
            target,
            exclusive,
            action,
            amcheck,
        } = case;
        let timeline = Self::timeline(*road);
        let mut arguments = target.arguments(*exclusive);
        let action_name = format!("{action:?}").to_lowercase();
        arguments.extend(["--action".to_owned(), action_name]);
        arguments.extend(["--timeline".to_owned(), timeline.to_string()]);
        let id = text(self.backup(*road), "id")?.to_owned();
        arguments.extend(["--backup".to_owned(), id]);
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let name = format!("r{number}");
        let mut restored = self
            .world
            .restored(
                &name,
                self.major,
                &self.holdfast,
                &[self.tablespace],
                &words,
            )
            .await?;
        let expected = self.ledger.expected(timeline, target, *exclusive)?;
        ensure!(
            !expected.is_empty(),
            "a case that expects no row proves nothing"
        );
        let postgres = &mut restored.postgres;
        match action {
            Action::Promote => postgres.start().await?,
            Action::Pause => {
                postgres.start().await?;
                postgres.wait_paused().await?;
                Ledger::compare(postgres, &expected).await?;
                postgres.execute("SELECT pg_wal_replay_resume()").await?;
            }
            Action::Shutdown => {
                postgres.launch()?;
                postgres.wait_exit().await?;
                ensure!(
                    postgres.log().contains("shutdown at recovery target"),
                    "{}",
                    postgres.tail()
                );
                ensure!(
                    postgres.dir().join("recovery.signal").exists(),
                    "recovery is not over, but recovery.signal is gone"
                );
                // Started again as it is it would stop there again; so it is told otherwise.
                postgres.option("recovery_target_action", "promote");
                postgres.start().await?;
            }
        }
        postgres.wait_promoted().await?;
        Ledger::compare(postgres, &expected).await?;
        ensure!(
            postgres.timeline().await? == 3,
            "promoted to timeline {}",
            postgres.timeline().await?
        );
        ensure_no_recovery_settings(postgres.dir())?;
        postgres
            .execute("INSERT INTO ledger VALUES (-1, ''); CREATE TABLE written AS SELECT 1 AS one")
            .await?;
        if *amcheck {
            postgres.amcheck().await?;
        }
        postgres.stop(Shutdown::Fast).await?;
        // A promoted directory starts by itself, as any other, and knows nothing of a target.
        postgres.start().await?;
        for setting in &RECOVERY_SETTINGS[..5] {
            let value = postgres.value(&format!("SHOW {setting}")).await?;
            ensure!(value.is_empty(), "{setting} is {value:?}");
        }
        ensure!(postgres.value("SELECT one FROM written").await? == "1");
        postgres.stop(Shutdown::Fast).await?;
        std::fs::remove_dir_all(self.world.path(&name))?;
        Ok(())
    }

    async fn judge_all(&self, cases: &[Case]) -> Result<()> {
        futures::stream::iter(cases.iter().enumerate())
            .map(async |(number, case)| {
                self.judge(number, case)
                    .await
                    .with_context(|| format!("case {number}: {case:?}"))
            })
            .buffer_unordered(2)
            .try_collect()
            .await
    }
}

fn case(road: Road, target: Target, exclusive: bool, action: Action) -> Case {
    Case {
        road,
        target,
        exclusive,
        action,
        amcheck: false,
    }
}

#[tokio::test]
async fn on_17_every_target_on_every_road_gives_exactly_its_rows() -> Result<()> {
    World::scenario("targets-17", async |world| {
        let minio = Minio::start(world).await?;
        let history = History::write(world, 17, Some(&minio)).await?;
        let actions = [Action::Promote, Action::Pause, Action::Shutdown];
        let mut cases = Vec::new();
        for (place, road) in [Road::Stayed, Road::Through, Road::After]
            .into_iter()
            .enumerate()
        {
            for exclusive in [false, true] {
                let time = history.commit(road, 1, 4)?;
                let lsn = history.commit(road, 2, 4)?;
                let xid = history.commit(road, 3, 4)?;
                for (kind, target) in [
                    Target::Time(time.time),
                    Target::Lsn(lsn.lsn),
                    Target::Xid(xid.xid),
                ]
                .into_iter()
                .enumerate()
                {
                    let action = actions[(kind + place + usize::from(exclusive)) % 3];
                    cases.push(case(road, target, exclusive, action));
                }
            }
            let name = match road {
                Road::Stayed => "left behind",
                Road::Through => "on both",
                Road::After => "late",
            };
            cases.push(case(road, Target::Name(name.into()), false, actions[place]));
            cases.push(case(
                road,
                history.immediate(road)?,
                false,
                actions[(place + 1) % 3],
            ));
            // Without a target there is nothing to pause at.
            let mut latest = case(road, Target::Latest, false, Action::Promote);
            latest.amcheck = true;
            cases.push(latest);
        }
        // The first commit after a backup, and the last of a timeline.
        for road in [Road::Through, Road::After] {
            let first = history.commit(road, 0, 4)?;
            cases.push(case(road, Target::Xid(first.xid), false, Action::Promote));
            let last = history.commit(road, 4, 4)?;
            cases.push(case(road, Target::Time(last.time), false, Action::Promote));
            cases.push(case(road, Target::Lsn(last.lsn), true, Action::Pause));
        }
        let promoted = Target::Name("promoted".into());
        cases.push(case(Road::Through, promoted, false, Action::Promote));
        history.judge_all(&cases).await
    })
    .await
}

/// One case of each kind.
async fn a_case_of_each_kind(major: u32) -> Result<()> {
    World::scenario(&format!("targets-{major}"), async |world| {
        let history = History::write(world, major, None).await?;
        let time = history.commit(Road::Through, 3, 4)?;
        let lsn = history.commit(Road::After, 2, 4)?;
        let xid = history.commit(Road::Stayed, 3, 4)?;
        let mut cases = vec![
            case(Road::Through, Target::Time(time.time), false, Action::Pause),
            case(
                Road::Through,
                Target::Time(time.time),
                true,
                Action::Promote,
            ),
            case(Road::After, Target::Lsn(lsn.lsn), false, Action::Promote),
            case(Road::After, Target::Lsn(lsn.lsn), true, Action::Shutdown),
            case(Road::Stayed, Target::Xid(xid.xid), false, Action::Promote),
            case(Road::Stayed, Target::Xid(xid.xid), true, Action::Promote),
            case(
                Road::Through,
                Target::Name("late".into()),
                false,
                Action::Promote,
            ),
            case(
                Road::After,
                history.immediate(Road::After)?,
                false,
                Action::Promote,
            ),
            case(Road::Through, Target::Latest, false, Action::Promote),
        ];
        cases[8].amcheck = true;
        history.judge_all(&cases).await
    })
    .await
}

#[tokio::test]
async fn on_14_a_case_of_each_kind_gives_exactly_its_rows() -> Result<()> {
    a_case_of_each_kind(14).await
}

#[tokio::test]
async fn on_15_a_case_of_each_kind_gives_exactly_its_rows() -> Result<()> {
    a_case_of_each_kind(15).await
}

#[tokio::test]
async fn on_16_a_case_of_each_kind_gives_exactly_its_rows() -> Result<()> {
    a_case_of_each_kind(16).await
}

#[tokio::test]
async fn on_18_a_case_of_each_kind_gives_exactly_its_rows() -> Result<()> {
    a_case_of_each_kind(18).await
}

/// What is asked for by a moment alone: the newest backup that reaches it is found, on the lineage that has it.
#[tokio::test]
async fn the_right_backup_is_chosen_for_a_target() -> Result<()> {
    World::scenario("chosen", async |world| {
        let history = History::write(world, 17, None).await?;
        let chosen = async |words: &[&str]| -> Result<(String, u64)> {
            let to = world.path("nowhere/data");
            world.make_dir("nowhere")?;
            let folder = format!(
                "{}={}",
                history.tablespace,
                world.path("nowhere/t").display()
            );
            let mut all = vec!["--dry-run", "--tablespace", &folder];
            all.extend_from_slice(words);
            let status = history.holdfast.restore(&to, &all).await?;
            ensure!(!to.exists(), "a dry run made {}", to.display());
            let plan = &status["plan"];
            Ok((
                text(plan, "backup")?.to_owned(),
                plan["timeline"].as_u64().context("timeline")?,
            ))
        };
        let (before, after) = (text(&history.before, "id")?, text(&history.after, "id")?);
        let early = history.commit(Road::Through, 0, 4)?.lsn.to_string();
        let late = history.commit(Road::After, 2, 4)?;
        let late_time = late.time.to_string();
        for (words, backup, timeline) in [
            (vec![], after, 2),
            (vec!["--target-time", &late_time], after, 2),
            // Before the fork the older timeline wrote the same records, and leaves a history that goes forward.
            (vec!["--target-lsn", &early], before, 1),
            (vec!["--target-name", "late"], after, 2),
            (vec!["--target-name", "on both"], before, 1),
            (vec!["--target", "immediate"], after, 2),
            (vec!["--timeline", "1"], before, 1),
            (
                vec!["--timeline", "1", "--target-name", "left behind"],
                before,
                1,
            ),
            (vec!["--timeline", "current", "--backup", before], before, 1),
            (vec!["--backup", before], before, 2),
        ] {
            let found = chosen(&words).await.with_context(|| format!("{words:?}"))?;
            ensure!(
                found == (backup.to_owned(), timeline),
                "{words:?} chose {found:?}, not {backup} on {timeline}"
            );
        }
        Ok(())
    })
    .await
}

/// A server that was restored in place goes on with its archive, on a new timeline.
#[tokio::test]
async fn a_server_restored_in_place_goes_on_with_its_archive() -> Result<()> {
    World::scenario("in-place", async |world| {
        let mut postgres: Postgres = world
            .postgres("primary", 17)
            .segment_mib(1)
            .create()
            .await?;
        let holdfast = world
            .holdfast("shop/orders", &postgres)
            .filesystem("backups")?
            .build()?;
        let sidecar = holdfast.sidecar().await?;
        postgres.archive_with(&holdfast).await?;
        let mut ledger = Ledger::create(&postgres).await?;
        holdfast.backup().await?;
        ledger.write(&postgres, 40).await?;
        postgres.restore_point("good").await?;
        ledger.write(&postgres, 40).await?;
        postgres.archive_all().await?;
        ledger.read_wal(&postgres).await?;
        postgres.stop(Shutdown::Fast).await?;

        let good = Target::Name("good".into());
        let mut words = good.arguments(false);
        words.push("--overwrite".to_owned());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        holdfast.restore(postgres.dir(), &words).await?;
        world.verify_backup(postgres.dir(), 17).await?;
        postgres.start().await?;
        postgres.wait_promoted().await?;
        let expected = ledger.expected(1, &good, false)?;
        Ledger::compare(&postgres, &expected).await?;
        ensure!(postgres.timeline().await? == 2);
        ensure_no_recovery_settings(postgres.dir())?;

        ledger.write(&postgres, 40).await?;
        postgres.archive_all().await?;
        ledger.read_wal(&postgres).await?;
        let mut restored = world.restored("again", 17, &holdfast, &[], &[]).await?;
        restored.postgres.start().await?;
        restored.postgres.wait_promoted().await?;
        let all = ledger.expected(2, &Target::Latest, false)?;
        Ledger::compare(&restored.postgres, &all).await?;
        ensure!(restored.postgres.timeline().await? == 3);
        sidecar.stop().await
    })
    .await
}
