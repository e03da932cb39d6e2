//! In place to every kind of target, under concurrent writers, judged by the ledger: not one row too many or too few.

use crate::fixtures::{Database, backed_up, shop, told};
use crate::restores::{goes_on, restore, restored};
use anyhow::{Context, Result, ensure};
use holdfast_e2e::ledger::{Event, What};
use holdfast_e2e::{Ledger, Space, Target};
use holdfast_postgres::Lsn;
use serde_json::Value;

/// A database whose writers were at work before, during and after the backup `base`; the restore point `half` lies after
/// it.
struct History<'a> {
    space: &'a Space,
    ledger: Ledger,
    base: Value,
}

impl<'a> History<'a> {
    async fn write(space: &'a Space, major: u32) -> Result<Self> {
        let mut database = Database::new("orders", major);
        // The ledger reads times of commits, and WAL that is archived long since.
        for setting in ["track_commit_timestamp=on", "wal_keep_size=512MB"] {
            database.arguments.extend(["-c".into(), setting.into()]);
        }
        shop(space, &database).await?;
        let server = space.postgres("orders-0").await?;
        let mut ledger = Ledger::create(&server).await?;
        let load = ledger.start(&server, 3).await?;
        let base = backed_up(space, "base", "orders", "").await?;
        ledger.write(&server, 30).await?;
        space
            .sql("orders-0", "SELECT pg_create_restore_point('half')")
            .await?;
        ledger.write(&server, 30).await?;
        load.stop().await?;
        ledger.read_wal(&server).await?;
        Ok(Self {
            space,
            ledger,
            base: base["status"].clone(),
        })
    }

    fn of_base(&self, field: &str) -> Result<&str> {
        self.base[field].as_str().context(field.to_owned())
    }

    /// A commit on timeline 1 after the backup: `part` of four along the way.
    fn commit(&self, part: usize) -> Result<Event> {
        let consistent: Lsn = self.of_base("stopLsn")?.parse()?;
        let mut commits = self.ledger.commits(1)?;
        commits.retain(|commit| commit.lsn >= consistent);
        ensure!(commits.len() >= 60, "only {} commits", commits.len());
        commits
            .get(commits.len() * part / 4)
            .cloned()
            .context("a commit")
    }

    /// Restores along this timeline, finds exactly what must be there, and writes on upon the new timeline.
    async fn reaches(
        &mut self,
        name: &str,
        along: u32,
        target: &Target,
        exclusive: bool,
        new: u32,
    ) -> Result<()> {
        let mut words = match target {
            Target::Latest => "latest: {}".to_owned(),
            Target::Immediate { .. } => {
                format!("immediate: {{}}, backup: {}", self.of_base("id")?)
            }
            Target::Time(time) => format!("time: \"{time}\""),
            Target::Lsn(lsn) => format!("lsn: {lsn}"),
            Target::Xid(xid) => format!("xid: {xid}"),
            Target::Name(name) => format!("name: {name}"),
        };
        if exclusive {
            words += ", exclusive: true";
        }
        let words = format!("{{{words}, timeline: \"{along}\"}}");
        let done = restored(self.space, name, &words, "").await?;
        let server = self.space.postgres("orders-0").await?;
        // A commit that nobody could be asked about any more is in the WAL that was recovered.
        self.ledger.read_wal(&server).await?;
        let expected = self.ledger.expected(along, target, exclusive)?;
        ensure!(
            !expected.is_empty(),
            "no row is expected: it proves nothing"
        );
        Ledger::compare(&server, &expected)
            .await
            .with_context(|| format!("{name}: along timeline {along} to {target:?}"))?;
        let status = &done["status"];
        let reached = &status["recoveredTo"];
        ensure!(reached["timeline"] == new, "{status:#}");
        ensure!(status["plan"]["target"].is_string(), "{status:#}");
        // At an LSN Postgres stops before it notes that record's own time (`recoveryStopsAfter` in xlogrecovery.c).
        let noted = |event: &&Event| match target {
            Target::Lsn(lsn) => event.lsn < *lsn,
            _ => true,
        };
        let events = self.ledger.events(along)?;
        let last = events
            .iter()
            .take(target.replayed(&events, exclusive))
            .filter(noted)
            .rfind(|event| !matches!(event.what, What::RestorePoint(_)));
        let last = last.context("a commit")?.time.to_string();
        ensure!(reached["time"] == last, "{last} is not in {status:#}");
        self.write_on().await
    }

    /// Some commits more, to be found by who comes back to this timeline.
    async fn write_on(&mut self) -> Result<()> {
        let server = self.space.postgres("orders-0").await?;
        self.ledger.write(&server, 5).await?;
        self.ledger.read_wal(&server).await
    }
}

async fn some_targets(major: u32) -> Result<()> {
    Space::scenario(&format!("restores{major}"), async |space| {
        let mut history = History::write(space, major).await?;
        // What nobody had archived yet is drained first.
        history
            .reaches("latest", 1, &Target::Latest, false, 2)
            .await?;
        goes_on(space, "second", 2).await?;
        let time = Target::Time(history.commit(1)?.time);
        history.reaches("time", 1, &time, false, 3).await?;
        let lsn = Target::Lsn(history.commit(2)?.lsn);
        history.reaches("lsn", 1, &lsn, false, 4).await?;
        goes_on(space, "third", 4).await
    })
    .await
}

#[tokio::test]
async fn postgres_14_goes_back() -> Result<()> {
    some_targets(14).await
}

#[tokio::test]
async fn postgres_15_goes_back() -> Result<()> {
    some_targets(15).await
}

#[tokio::test]
async fn postgres_16_goes_back() -> Result<()> {
    some_targets(16).await
}

#[tokio::test]
async fn postgres_18_goes_back() -> Result<()> {
    some_targets(18).await
}

#[tokio::test]
async fn postgres_17_goes_back_to_every_kind_of_target() -> Result<()> {
    Space::scenario("restores", async |space| {
        let mut history = History::write(space, 17).await?;
        // With writers at work until Postgres is told to shut down: what they had acknowledged is there.
        let server = space.postgres("orders-0").await?;
        let load = history.ledger.start(&server, 3).await?;
        history
            .reaches("latest", 1, &Target::Latest, false, 2)
            .await?;
        load.stop().await?;
        goes_on(space, "second", 2).await?;
        history.write_on().await?;

        let stop = history.of_base("stopLsn")?.parse()?;
        let time = Target::Time(history.commit(1)?.time);
        let xid = Target::Xid(history.commit(2)?.xid);
        let lsn = Target::Lsn(history.commit(3)?.lsn);
        for (new, (name, target, exclusive)) in (3..).zip([
            ("time", time, false),
            ("xid", xid.clone(), false),
            ("xid-exclusive", xid, true),
            ("lsn", lsn, false),
            ("name", Target::Name("half".to_owned()), false),
            ("immediate", Target::Immediate { stop }, false),
        ]) {
            history.reaches(name, 1, &target, exclusive, new).await?;
        }
        // The branch that was left for the first of them is still there, with what was drained before it was left.
        history
            .reaches("left", 2, &Target::Latest, false, 9)
            .await?;
        goes_on(space, "last", 9).await?;
        // The same object again does nothing.
        space
            .kubectl(&["delete", "restore", "left"])
            .await?
            .success()?;
        let rows = "SELECT count(*) FROM ledger";
        let before = space.sql("orders-0", rows).await?;
        let again = restore("left", "orders", "{latest: {}, timeline: \"2\"}", "");
        space.apply(&again).await?;
        told(space, "restore/left", "Failed", "True", &["another name"]).await?;
        ensure!(space.sql("orders-0", rows).await? == before);
        Ok(())
    })
    .await
}
