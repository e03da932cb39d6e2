//! Whose WAL it is, where one database has had several primaries: one after the other, and at once.

use crate::streaming::all_is_stored;
use crate::wal::restored_has_all;
use anyhow::{Result, ensure};
use holdfast_e2e::{Holdfast, Ledger, Postgres, Shutdown, Sidecar, World};

/// Archives into the same place, by a sidecar of its own.
async fn member(server: &Postgres, of: &Holdfast) -> Result<(Holdfast, Sidecar)> {
    let holdfast = of.also_for(server).build()?;
    let sidecar = holdfast.sidecar().await?;
    server.archive_with(&holdfast).await?;
    Ok((holdfast, sidecar))
}

/// Rows in some segments, the last of which is not full.
async fn write(ledger: &mut Ledger, on: &Postgres) -> Result<()> {
    for _ in 0..2 {
        ledger.write(on, 10).await?;
        on.execute("SELECT pg_switch_wal()").await?;
    }
    ledger.write(on, 10).await?;
    ledger.read_wal(on).await
}

/// Has a server that was a primary follow another, from where both had the same.
async fn rewind(world: &World, server: &mut Postgres, to: &Postgres) -> Result<()> {
    server.stop(Shutdown::Fast).await?;
    let source = format!(
        "host={} port={} user=postgres dbname=postgres",
        to.host().display(),
        to.port()
    );
    let mut command = world.command(world.client_program("pg_rewind", server.major())?);
    command
        .arg("--target-pgdata")
        .arg(server.dir())
        .args(["--source-server", &source]);
    world.run(command).await?.success()?;
    std::fs::write(server.dir().join("standby.signal"), "")?;
    server.option("primary_conninfo", &source);
    server.start().await?;
    server.wait_replayed(&to.lsn().await?).await
}

#[tokio::test]
async fn two_primaries_at_once_and_the_old_one_rewound_leave_three_whole_branches() -> Result<()> {
    World::scenario("split", async |world| {
        let (mut first, holdfast, sidecar) = world.archiving(17).await?;
        let mut ledger = Ledger::create(&first).await?;
        holdfast.backup().await?;
        let mut second = first.standby("second").await?;
        let (second_holdfast, second_sidecar) = member(&second, &holdfast).await?;
        write(&mut ledger, &first).await?;
        second.wait_replayed(&first.lsn().await?).await?;

        second.promote().await?;
        for _ in 0..2 {
            write(&mut ledger, &first).await?;
            write(&mut ledger, &second).await?;
        }
        all_is_stored(world, &first, &holdfast).await?;
        all_is_stored(world, &second, &second_holdfast).await?;

        // The branch that it leaves is gone from its volume, and stays in the archive.
        rewind(world, &mut first, &second).await?;
        first.archive_with(&holdfast).await?;
        write(&mut ledger, &second).await?;
        first.wait_replayed(&second.lsn().await?).await?;
        all_is_stored(world, &second, &second_holdfast).await?;
        second.kill9().await?;
        first.promote().await?;
        ensure!(first.timeline().await? == 3, "{}", first.tail());
        write(&mut ledger, &first).await?;
        all_is_stored(world, &first, &holdfast).await?;
        holdfast.backup().await?;
        write(&mut ledger, &first).await?;
        all_is_stored(world, &first, &holdfast).await?;
        holdfast.verify().await?.success()?;
        for timeline in [3, 2, 1] {
            restored_has_all(world, 17, &holdfast, &ledger, timeline).await?;
        }
        second_sidecar.kill9().await?;
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn every_branch_of_a_cascade_of_promotions_can_be_restored() -> Result<()> {
    World::scenario("cascade", async |world| {
        let (mut primary, mut holdfast, mut sidecar) = world.archiving(17).await?;
        let mut ledger = Ledger::create(&primary).await?;
        holdfast.backup().await?;
        for timeline in 2..=5 {
            let mut next = primary.standby(&format!("primary-{timeline}")).await?;
            let (next_holdfast, next_sidecar) = member(&next, &holdfast).await?;
            write(&mut ledger, &primary).await?;
            next.wait_replayed(&primary.lsn().await?).await?;
            next.promote().await?;
            ensure!(next.timeline().await? == timeline, "{}", next.tail());
            // Both go on for a while, and the old one dies with a segment that is not full.
            write(&mut ledger, &next).await?;
            write(&mut ledger, &primary).await?;
            all_is_stored(world, &primary, &holdfast).await?;
            primary.kill9().await?;
            sidecar.kill9().await?;
            (primary, holdfast, sidecar) = (next, next_holdfast, next_sidecar);
            if timeline == 4 {
                holdfast.backup().await?;
            }
        }
        all_is_stored(world, &primary, &holdfast).await?;
        holdfast.verify().await?.success()?;
        for timeline in 1..=5 {
            restored_has_all(world, 17, &holdfast, &ledger, timeline).await?;
        }
        sidecar.stop().await
    })
    .await
}
