//! Restores in place: a database back at a moment, by applying a resource.

use crate::fixtures::{Database, archived, backed_up, event, shop, told};
use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Space, eventually};
use serde_json::Value;

/// How long a restore may take on a busy machine, in seconds.
pub const PATIENCE: u32 = 300;

/// In place, of the StatefulSet that is called as its Archive.
pub fn restore(name: &str, database: &str, target: &str, more: &str) -> String {
    format!(
        "apiVersion: holdfast.dev/v1alpha1
kind: Restore
metadata: {{name: {name}}}
spec:
  source: {{archiveRef: {{name: {database}}}}}
  target: {target}
  destination: {{statefulSet: {{name: {database}{more}}}}}
"
    )
}

/// Applies it and waits until it is complete.
pub async fn restored(space: &Space, name: &str, target: &str, more: &str) -> Result<Value> {
    space.apply(&restore(name, "orders", target, more)).await?;
    let object = format!("restore/{name}");
    space
        .wait_for(&object, "condition=Complete", PATIENCE)
        .await?;
    space.get(&object).await
}

/// Every transaction that is there, by its number.
pub async fn rows(space: &Space) -> Result<String> {
    space
        .sql(
            "orders-0",
            "SELECT string_agg(n::text, ',' ORDER BY n) FROM ledger",
        )
        .await
}

pub fn up_to(n: u32) -> String {
    let numbers: Vec<String> = (1..=n).map(|n| n.to_string()).collect();
    numbers.join(",")
}

/// The transactions up to this one are there, and no others.
pub async fn has_rows(space: &Space, last: u32) -> Result<()> {
    let there = rows(space).await?;
    ensure!(there == up_to(last), "{there}");
    Ok(())
}

/// What identifies the moments of a database's history.
pub struct Moments {
    /// After 3.
    time: String,
    /// After 5.
    pub lsn: String,
}

/// Eight transactions, each of which writes its number: two before the backup `base`.
pub async fn history(space: &Space) -> Result<Moments> {
    let write = async |n: u32| {
        let statement = format!("INSERT INTO ledger VALUES ({n})");
        space.sql("orders-0", &statement).await
    };
    space
        .sql("orders-0", "CREATE TABLE ledger (n int PRIMARY KEY)")
        .await?;
    for n in 1..=2 {
        write(n).await?;
    }
    backed_up(space, "base", "orders", "").await?;
    write(3).await?;
    let time = space
        .sql(
            "orders-0",
            "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        )
        .await?;
    write(4).await?;
    write(5).await?;
    let lsn = space
        .sql("orders-0", "SELECT pg_current_wal_insert_lsn()")
        .await?;
    for n in 6..=8 {
        write(n).await?;
    }
    Ok(Moments { time, lsn })
}

/// Restores to this and finds these.
async fn reaches(space: &Space, name: &str, target: &str, last: u32, timeline: u32) -> Result<()> {
    let restore = restored(space, name, target, "").await?;
    let status = &restore["status"];
    has_rows(space, last).await.context(name.to_owned())?;
    let reached = &status["recoveredTo"];
    ensure!(reached["timeline"] == timeline, "{name}: {status:#}");
    ensure!(
        reached["lsn"].is_string() && status["plan"]["target"].is_string(),
        "{name}: {status:#}"
    );
    Ok(())
}

/// What a database is after it: it takes writes, archives them on its new timeline, and can be backed up.
pub async fn goes_on(space: &Space, backup: &str, timeline: u32) -> Result<()> {
    // Something to archive, also where a drain has just closed a segment.
    let write = "CREATE TABLE IF NOT EXISTS more (n int); INSERT INTO more VALUES (1)";
    space.sql("orders-0", write).await?;
    let segment = space
        .sql("orders-0", "SELECT pg_walfile_name(pg_switch_wal())")
        .await?;
    ensure!(segment.starts_with(&format!("{timeline:08X}")), "{segment}");
    archived(space, "orders-0", &segment).await?;
    let backup = backed_up(space, backup, "orders", "").await?;
    ensure!(
        backup["status"]["timeline"] == timeline,
        "{:#}",
        backup["status"]
    );
    space
        .wait_for("archive/orders", "condition=Ready", 120)
        .await
}

#[tokio::test]
async fn a_plan_alone_touches_nothing() -> Result<()> {
    Space::scenario("planned", async |space| {
        shop(space, &Database::new("orders", 17)).await?;
        let Moments { time, .. } = history(space).await?;
        let pod = space.get("pod/orders-0").await?["metadata"]["uid"].clone();
        let target = format!("{{time: \"{time}\"}}");
        let yaml = restore("plan", "orders", &target, "") + "  suspend: true\n";
        space.apply(&yaml).await?;
        space
            .wait_for("restore/plan", "condition=Checked", 120)
            .await?;
        let status = space.get("restore/plan").await?["status"].clone();
        for field in [
            "backup",
            "startLsn",
            "endLsn",
            "endTime",
            "bytes",
            "walSegments",
        ] {
            ensure!(!status["plan"][field].is_null(), "{field}: {status:#}");
        }
        told(space, "restore/plan", "Started", "False", &["suspend"]).await?;
        ensure!(space.get("pod/orders-0").await?["metadata"]["uid"] == pod);
        has_rows(space, 8).await?;
        // Let go, it is carried out.
        let go = [
            "patch",
            "restore",
            "plan",
            "--type=merge",
            "-p",
            "{\"spec\":{\"suspend\":false}}",
        ];
        space.kubectl(&go).await?.success()?;
        space
            .wait_for("restore/plan", "condition=Complete", PATIENCE)
            .await?;
        has_rows(space, 3).await?;
        event(space, "restore/plan", &["Normal", "Recovered"]).await
    })
    .await
}

#[tokio::test]
async fn what_cant_be_done_is_refused_before_anything_is_touched() -> Result<()> {
    Space::scenario("restore-refused", async |space| {
        shop(space, &Database::new("orders", 17)).await?;
        let moments = history(space).await?;
        space.apply(&crate::fixtures::archive("other")).await?;
        const ARCHIVE: &str = "archiveRef: {name: orders}";
        let own = &space.namespace;
        let base = space.get("backup/base").await?;
        let begun = base["status"]["startLsn"].as_str().context("an LSN")?;
        let two = restore("two", "orders", "{latest: {}, immediate: {}}", "");
        let refused = space.try_apply(&two).await?.refused()?;
        ensure!(refused.contains("a target is exactly one of"), "{refused}");
        let pod = space.get("pod/orders-0").await?["metadata"]["uid"].clone();
        for (n, (yaml, says)) in [
            (
                restore("NAME", "orders", "{time: \"2020-01-01T00:00:00Z\"}", ""),
                "2020-01-01",
            ),
            (
                restore("NAME", "orders", "{time: \"2090-01-01T00:00:00Z\"}", ""),
                "2090-01-01",
            ),
            (restore("NAME", "orders", "{lsn: F/0}", ""), "F/0"),
            (
                restore("NAME", "orders", "{latest: {}, timeline: \"7\"}", ""),
                "timeline 7",
            ),
            (restore("NAME", "orders", "{name: never}", ""), "never"),
            (
                restore("NAME", "orders", "{latest: {}, backup: nosuch}", ""),
                "nosuch",
            ),
            (
                restore("NAME", "orders", "{latest: {}}", "")
                    .replace("statefulSet: {name: orders", "statefulSet: {name: nobody"),
                "nobody",
            ),
            (
                restore("NAME", "orders", "{latest: {}}", "")
                    .replace("archiveRef: {name: orders", "archiveRef: {name: other"),
                "other",
            ),
            (
                restore("NAME", "orders", "{latest: {}}", ", primaryOrdinal: 4"),
                "4",
            ),
            // The backup is not consistent there yet.
            (
                restore("NAME", "orders", &format!("{{lsn: {begun}}}"), ""),
                "before the end of the earliest backup",
            ),
            (
                restore("NAME", "orders", "{latest: {}}", "").replace(
                    ARCHIVE,
                    &format!("repositoryRef: {{name: s3}}, namespace: {own}, archive: other"),
                ),
                "belong to the Archive orders, and the source is",
            ),
            (
                restore("NAME", "orders", "{latest: {}}", "").replace(
                    ARCHIVE,
                    &format!("repositoryRef: {{name: old}}, namespace: {own}, archive: orders"),
                ),
                "the Repository old, which that Archive does not name",
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("refused-{n}");
            space.apply(&yaml.replace("NAME", &name)).await?;
            let object = format!("restore/{name}");
            told(space, &object, "Failed", "True", &[says]).await?;
            told(space, &object, "Checked", "False", &[says]).await?;
            event(space, &object, &["Warning", says]).await?;
        }
        ensure!(space.get("pod/orders-0").await?["metadata"]["uid"] == pod);
        has_rows(space, 8).await?;
        // Of two the first one goes on.
        let target = format!("{{lsn: {}}}", moments.lsn);
        let first = restore("first", "orders", &target, "");
        let second = restore("second", "orders", "{immediate: {}}", "");
        space.apply(&format!("{first}---\n{second}")).await?;
        told(space, "restore/second", "Failed", "True", &["first"]).await?;
        space
            .wait_for("restore/first", "condition=Complete", PATIENCE)
            .await?;
        has_rows(space, 5).await
    })
    .await
}

#[tokio::test]
async fn a_backup_whose_configuration_needs_what_is_not_there_is_not_restored() -> Result<()> {
    Space::scenario("restore-lacking", async |space| {
        shop(space, &Database::new("orders", 17)).await?;
        history(space).await?;
        // It would not survive its next start, and nor would what is restored from this backup.
        space
            .sql(
                "orders-0",
                "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements', 'nosuch'",
            )
            .await?;
        backed_up(space, "unfit", "orders", "").await?;
        let pod = space.get("pod/orders-0").await?["metadata"]["uid"].clone();
        let lacking = restore("lacking", "orders", "{latest: {}}", "");
        space.apply(&lacking).await?;
        let says = [
            "nosuch (shared_preload_libraries in postgresql.auto.conf)",
            "target.backup",
        ];
        told(space, "restore/lacking", "Failed", "True", &says).await?;
        let (_, _, message) = space.condition("restore/lacking", "Failed").await?;
        ensure!(!message.contains("pg_stat_statements"), "{message}");
        ensure!(space.get("pod/orders-0").await?["metadata"]["uid"] == pod);
        has_rows(space, 8).await?;

        let copy = lacking.replace("name: lacking", "name: copy").replace(
            "statefulSet: {name: orders}",
            "persistentVolumeClaim: {name: copy, template: {size: 1Gi}}",
        );
        space.apply(&copy).await?;
        let says = ["preloads the library nosuch", "spec.postgres.image"];
        told(space, "restore/copy", "Failed", "True", &says).await?;

        let base = space.get("backup/base").await?;
        let id = base["status"]["id"].as_str().context("an id")?;
        let earlier = format!("{{latest: {{}}, backup: {id}}}");
        reaches(space, "earlier", &earlier, 8, 2).await
    })
    .await
}

#[tokio::test]
async fn two_members_go_back_and_the_standby_is_cloned_again() -> Result<()> {
    Space::scenario("wiped", async |space| {
        let mut database = Database::new("orders", 17);
        database.replicas = 2;
        shop(space, &database).await?;
        let Moments { lsn, .. } = history(space).await?;
        let target = format!("{{lsn: {lsn}}}");
        space
            .apply(&restore("refused", "orders", &target, ""))
            .await?;
        told(space, "restore/refused", "Failed", "True", &["Wipe"]).await?;
        let more = ", primaryOrdinal: 0, otherReplicas: Wipe";
        restored(space, "wipe", &target, more).await?;
        database.rolled_out(space).await?;
        has_rows(space, 5).await?;
        goes_on(space, "second", 2).await?;
        space
            .sql("orders-0", "INSERT INTO ledger VALUES (60)")
            .await?;
        eventually("the standby streams", async || {
            let standby = space
                .sql(
                    "orders-1",
                    "SELECT count(*), pg_is_in_recovery() FROM ledger",
                )
                .await?;
            ensure!(standby == "6|t", "{standby}");
            let streams = space
                .sql(
                    "orders-0",
                    "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name <> 'holdfast'",
                )
                .await?;
            ensure!(streams == "1", "{streams}");
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn one_that_is_deleted_before_it_began_leaves_the_database_as_it_was() -> Result<()> {
    Space::scenario("withdrawn", async |space| {
        shop(space, &Database::new("orders", 17)).await?;
        history(space).await?;
        let suspended = restore("gone", "orders", "{immediate: {}}", "") + "  suspend: true\n";
        space.apply(&suspended).await?;
        space
            .wait_for("restore/gone", "condition=Checked", 120)
            .await?;
        space
            .kubectl(&["delete", "restore", "gone"])
            .await?
            .success()?;
        has_rows(space, 8).await?;
        goes_on(space, "second", 1).await
    })
    .await
}

#[tokio::test]
async fn one_that_crash_loops_goes_back_and_its_last_commits_can_be_reached_later() -> Result<()> {
    Space::scenario("crashed", async |space| {
        shop(space, &Database::new("orders", 17)).await?;
        let Moments { lsn, .. } = history(space).await?;
        // A setting that keeps Postgres from starting, a commit that nobody has archived, and a crash.
        space
            .sql(
                "orders-0",
                "ALTER SYSTEM SET shared_preload_libraries = 'nosuch'",
            )
            .await?;
        space
            .sql("orders-0", "INSERT INTO ledger VALUES (9)")
            .await?;
        let crash = [
            "exec",
            "orders-0",
            "-c",
            "postgres",
            "--",
            "bash",
            "-c",
            "kill -QUIT 1",
        ];
        space.kubectl(&crash).await?;
        eventually("Postgres crashes again and again", async || {
            let pod = space.get("pod/orders-0").await?;
            let postgres = &pod["status"]["containerStatuses"][0];
            ensure!(postgres["restartCount"].as_u64() >= Some(2), "{postgres}");
            Ok(())
        })
        .await?;
        reaches(space, "back", &format!("{{lsn: {lsn}}}"), 5, 2).await?;
        goes_on(space, "second", 2).await?;
        reaches(space, "future", "{latest: {}, timeline: \"1\"}", 9, 3).await?;
        goes_on(space, "third", 3).await
    })
    .await
}
