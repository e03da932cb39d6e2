//! `holdfast info` prints only moments that work, tells holes from ends, and needs nothing but the store.

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Holdfast, Shutdown, World};
use holdfast_postgres::Lsn;
use serde_json::Value;

fn text<'a>(status: &'a Value, field: &str) -> Result<&'a str> {
    status
        .get(field)
        .and_then(Value::as_str)
        .with_context(|| format!("{field} in {status:#}"))
}

fn condition<'a>(status: &'a Value, kind: &str) -> Result<&'a Value> {
    let conditions = status["conditions"].as_array().context("conditions")?;
    conditions
        .iter()
        .find(|condition| condition["type"] == kind)
        .with_context(|| format!("{kind} in {status:#}"))
}

/// Plans only; the exit code, and what was said.
async fn planned(holdfast: &Holdfast, world: &World, target: [&str; 2]) -> Result<(i32, String)> {
    let to = world.path("planned");
    let to = to.to_str().context("a path")?;
    let output = holdfast
        .run(&["restore", "--to", to, "--dry-run", target[0], target[1]])
        .await?;
    ensure!(
        !world.path("planned").exists(),
        "a plan wrote {to}: {}",
        output.stderr
    );
    Ok((output.code, output.stdout + &output.stderr))
}

async fn works(holdfast: &Holdfast, world: &World, target: [&str; 2]) -> Result<()> {
    let (code, said) = planned(holdfast, world, target).await?;
    ensure!(code == 0, "{target:?} exits {code}: {said}");
    Ok(())
}

async fn is_refused(
    holdfast: &Holdfast,
    world: &World,
    target: [&str; 2],
    parts: &[&str],
) -> Result<()> {
    let (code, said) = planned(holdfast, world, target).await?;
    ensure!(
        code == 3 && parts.iter().all(|part| said.contains(part)),
        "{target:?} exits {code}, and {parts:?} are wanted: {said}"
    );
    Ok(())
}

#[tokio::test]
async fn only_moments_that_work_are_printed() -> Result<()> {
    World::scenario("info", async |world| {
        let (mut primary, holdfast, sidecar) = world.archiving(17).await?;
        primary.execute("CREATE TABLE t AS SELECT 1 AS a").await?;
        primary.archive_all().await?;

        let info = holdfast.info().await?;
        ensure!(info.get("recoveryWindow").is_none(), "{info:#}");
        ensure!(
            condition(&info, "Recoverable")?["status"] == "False",
            "{info:#}"
        );
        is_refused(
            &holdfast,
            world,
            ["--target", "latest"],
            &["no complete backup"],
        )
        .await?;

        // Nothing but the backup: its end is all there is, and it works.
        let backup = holdfast.backup().await?;
        for _ in 0..2 {
            let info = holdfast.info().await?;
            let window = &info["recoveryWindow"];
            for end in ["earliest", "latest"] {
                let (time, lsn) = (format!("{end}Time"), format!("{end}Lsn"));
                works(&holdfast, world, ["--target-time", text(window, &time)?]).await?;
                works(&holdfast, world, ["--target-lsn", text(window, &lsn)?]).await?;
            }
            ensure!(
                text(window, "earliestLsn")? == text(&backup, "stopLsn")?,
                "{info:#}"
            );
            primary.pgbench(&["-i", "-s", "1", "-q"]).await?;
            primary.archive_all().await?;
        }
        let info = holdfast.info().await?;
        ensure!(
            text(&info, "postgresVersion")?.starts_with("17.")
                && text(&info, "lastBackup")? == text(&backup, "id")?
                && info["lag"]["bytes"].is_u64()
                && info["timelines"][0]["gaps"] == serde_json::json!([]),
            "{info:#}"
        );
        let window = &info["recoveryWindow"];
        let (first, last) = (text(window, "earliestLsn")?, text(window, "latestLsn")?);
        let before = Lsn(first.parse::<Lsn>()?.0 - 4096).to_string();
        let after = Lsn(last.parse::<Lsn>()?.0 + 4096).to_string();
        for (target, parts) in [
            (["--target-lsn", before.as_str()], [first, last]),
            (["--target-lsn", after.as_str()], [first, last]),
            (["--target-time", "2020-01-01T00:00:00Z"], [first, last]),
            (["--target-time", "2999-01-01T00:00:00Z"], [first, last]),
            (["--target-xid", "4000000000"], ["4000000000", last]),
            (["--target-name", "never"], ["never", last]),
        ] {
            is_refused(&holdfast, world, target, &parts).await?;
        }

        // The store alone is enough.
        primary.stop(Shutdown::Fast).await?;
        sidecar.stop().await?;
        let alone = holdfast.info().await?;
        ensure!(
            alone.get("lag").is_none() && alone["postgresVersion"] == "17",
            "{alone:#}"
        );
        let table = holdfast.run(&["info"]).await?.success()?.stdout;
        for part in ["Lag", "unknown", "Recoverable", first, text(&backup, "id")?] {
            ensure!(table.contains(part), "{part} is missing:\n{table}");
        }

        // A hole is not the end: what lies before it works, up to its last record.
        let consistent = text(&backup, "stopLsn")?.parse::<Lsn>()?.0 >> 20;
        let missing = format!("{:08X}", consistent + 3);
        let objects = holdfast.objects()?;
        let key = objects.key(&format!("/00000001{:08X}{missing}", 0)).await?;
        objects.take(&key).await?;
        let info = holdfast.info().await?;
        let gaps = info["timelines"][0]["gaps"].as_array().context("gaps")?;
        ensure!(
            gaps.len() == 1
                && gaps[0]["from"] == Lsn((consistent + 3) << 20).to_string()
                && gaps[0]["to"] == Lsn((consistent + 4) << 20).to_string()
                && condition(&info, "Recoverable")?["status"] == "False",
            "{info:#}"
        );
        is_refused(&holdfast, world, ["--target", "latest"], &[&missing]).await?;
        is_refused(&holdfast, world, ["--target-lsn", last], &[&missing]).await?;
        let edge = text(&info["recoveryWindow"], "latestLsn")?;
        let mut restored = world
            .restored("edge", 17, &holdfast, &[], &["--target-lsn", edge])
            .await?;
        restored.postgres.start().await?;
        restored.postgres.wait_promoted().await?;
        ensure!(restored.postgres.value("SELECT count(*) FROM t").await? == "1");
        restored.postgres.stop(Shutdown::Fast).await?;
        Ok(())
    })
    .await
}
