//! Everything fails at random, under load, again and again: what was acknowledged is there after a restore.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Bucket, FAULTS, Fault, Holdfast, Ledger, Minio, Network, Postgres, Random, Sidecar, World,
    eventually,
};
use tokio::time::{Instant, sleep};

use crate::synchronous::{acknowledged, has_what_was_acknowledged, rows, waiting_for};

/// In one life of a database, until its volume is lost.
const FAULTS_A_LIFE: usize = 20;

/// What can happen.
#[derive(Clone, Copy, Debug)]
enum Event {
    Network(Fault),
    SidecarKilled,
    SidecarHangs,
    PostgresKilled,
    StoreKilled,
    StandbysSidecarKilled,
    SegmentClosed,
}

fn event(random: &mut Random) -> Event {
    let others = [
        Event::SidecarKilled,
        Event::SidecarHangs,
        Event::PostgresKilled,
        Event::StoreKilled,
        Event::StandbysSidecarKilled,
        Event::SegmentClosed,
    ];
    let number = random.below(FAULTS.len() + others.len());
    match (
        FAULTS.get(number),
        others.get(number.wrapping_sub(FAULTS.len())),
    ) {
        (Some(fault), _) => Event::Network(*fault),
        (None, Some(other)) => *other,
        (None, None) => Event::SegmentClosed,
    }
}

fn pause(random: &mut Random) -> Duration {
    Duration::from_millis(50 + random.below(2000) as u64)
}

/// Everything that can fail, and who watches it.
struct Life<'a> {
    minio: Minio,
    network: Network,
    primary: Postgres,
    holdfast: Holdfast,
    /// None while it is down.
    sidecar: Option<Sidecar>,
    standby: Standby,
    ledger: &'a Ledger,
}

/// A standby that has its WAL from the archive alone: whatever is answered wrongly ends it, promotes it or leads it astray.
struct Standby {
    postgres: Postgres,
    holdfast: Holdfast,
    /// None while it is down.
    sidecar: Option<Sidecar>,
}

impl Standby {
    async fn of(primary: &Postgres, holdfast: &Holdfast) -> Result<Self> {
        let mut postgres = primary.standby_unstarted("standby").await?;
        let holdfast = holdfast.also_for(&postgres).build()?;
        let sidecar = holdfast.sidecar().await?;
        postgres.option("primary_conninfo", "");
        postgres.option("synchronous_standby_names", "");
        postgres.option("restore_command", &holdfast.restore_command()?);
        postgres.start().await?;
        Ok(Self {
            postgres,
            holdfast,
            sidecar: Some(sidecar),
        })
    }

    async fn sidecar_killed(&mut self, pause: Duration) -> Result<()> {
        let sidecar = self.sidecar.take().context("it runs")?;
        sidecar.kill9().await?;
        sleep(pause).await;
        self.sidecar = Some(self.holdfast.sidecar().await?);
        Ok(())
    }

    async fn is_one_still(&mut self) -> Result<()> {
        ensure!(
            self.postgres.is_running()?
                && self.postgres.value("SELECT pg_is_in_recovery()").await? == "t",
            "the standby has ended its recovery\n{}",
            self.postgres.tail()
        );
        Ok(())
    }
}

impl Life<'_> {
    async fn suffer(&mut self, event: Event, pause: Duration) -> Result<()> {
        match event {
            Event::Network(fault) => {
                self.network.set(fault);
                sleep(pause).await;
                self.network.set(Fault::None);
            }
            Event::SidecarKilled => {
                let sidecar = self.sidecar.take().context("it runs")?;
                sidecar.kill9().await?;
                sleep(pause).await;
                self.sidecar = Some(self.holdfast.sidecar().await?);
            }
            Event::SidecarHangs => {
                let sidecar = self.sidecar.as_mut().context("it runs")?;
                sidecar.daemon.pause()?;
                sleep(pause).await;
                sidecar.daemon.resume()?;
            }
            Event::PostgresKilled => {
                self.primary.kill9().await?;
                self.primary.start().await?;
            }
            Event::StoreKilled => {
                self.minio.daemon()?.kill9().await?;
                sleep(pause).await;
                self.minio.restart().await?;
            }
            Event::StandbysSidecarKilled => self.standby.sidecar_killed(pause).await?,
            Event::SegmentClosed => {
                self.primary.execute("SELECT pg_switch_wal()").await?;
            }
        }
        self.standby.is_one_still().await
    }

    /// The standby comes to have all that was acknowledged by now.
    async fn standby_follows(&mut self) -> Result<()> {
        let known = acknowledged(self.ledger);
        let end = self.primary.value("SELECT pg_switch_wal()").await?;
        self.standby.postgres.wait_replayed(&end).await?;
        let found = rows(&self.standby.postgres).await?;
        let lost = known.difference(&found).count();
        ensure!(
            lost == 0,
            "the standby lacks {lost} of {} rows",
            known.len()
        );
        self.standby.is_one_still().await
    }

    /// Commits are acknowledged again.
    async fn goes_on(&self) -> Result<()> {
        let before = acknowledged(self.ledger).len();
        eventually("commits are acknowledged again", async || {
            let now = acknowledged(self.ledger).len();
            ensure!(now > before + 5, "{now} rows, {before} before");
            Ok(())
        })
        .await
    }
}

/// One life: so many faults, then everything is killed and the volume is gone; it is restored while the network is bad.
async fn life(major: u32, seed: u64, faults: usize) -> Result<()> {
    World::scenario(&format!("soak-{major}"), async |world| {
        let mut random = Random::of(seed);
        let minio = Minio::start(world).await?;
        let bucket = minio.bucket("backups")?;
        let network = Network::before(&minio.endpoint()).await?;
        let through = Bucket {
            endpoint: network.endpoint().to_owned(),
            ..bucket
        };
        let (primary, holdfast, sidecar, ledger) =
            waiting_for(world, major, |settings| settings.s3(&through).encrypted()).await?;
        let standby = Standby::of(&primary, &holdfast).await?;
        let mut life = Life {
            minio,
            network,
            primary,
            holdfast,
            sidecar: Some(sidecar),
            standby,
            ledger: &ledger,
        };
        let mut events = Vec::new();
        for _ in 0..faults {
            let load = ledger.start(&life.primary, 3).await?;
            let (event, pause) = (event(&mut random), pause(&mut random));
            events.push(event);
            let done = async {
                life.suffer(event, pause).await?;
                if matches!(event, Event::PostgresKilled) {
                    return Ok(());
                }
                life.goes_on().await
            };
            done.await
                .with_context(|| format!("seed {seed}, {events:?}"))?;
            load.stop().await?;
        }
        let load = ledger.start(&life.primary, 3).await?;
        life.goes_on().await?;
        let followed = life.standby_follows().await;
        followed.with_context(|| format!("seed {seed}, {events:?}"))?;
        let sidecar = life.sidecar.take().context("it runs")?;
        sidecar.kill9().await?;
        life.primary.kill9().await?;
        std::fs::remove_dir_all(life.primary.dir())?;
        load.stop().await?;
        let bad = async {
            let bad = [
                Fault::Reset,
                Fault::Slow,
                Fault::HalfAnswers,
                Fault::Blackhole,
            ];
            for fault in bad.into_iter().cycle().take(12) {
                life.network.set(fault);
                sleep(pause(&mut random) / 4).await;
                life.network.set(Fault::None);
                sleep(Duration::from_millis(300)).await;
            }
            std::future::pending::<Infallible>().await
        };
        // What can't be read fails, and is repeated. What is taken for the end of the WAL would be one.
        let restored = async {
            let restored = eventually("it is restored", async || {
                world
                    .restored("restored", major, &life.holdfast, &[], &[])
                    .await
            });
            has_what_was_acknowledged(restored.await?.postgres, &ledger).await
        };
        tokio::select! {
            restored = restored => restored.with_context(|| format!("seed {seed}, {events:?}")),
            never = bad => match never {},
        }
    })
    .await
}

#[tokio::test]
async fn a_short_one() -> Result<()> {
    life(17, 1, 12).await
}

/// A variable of the environment.
pub(crate) fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().with_context(|| format!("{name} is {text:?}")),
        _ => Ok(default),
    }
}

/// `make soak MINUTES=… SEED=…`
#[tokio::test]
#[ignore = "takes as long as it is told to: make soak"]
async fn as_long_as_is_asked_for() -> Result<()> {
    let minutes = number("MINUTES", 15)?;
    let mut seed = number("SEED", 1)?;
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    let mut faults = 0;
    let mut majors = [17, 14, 18, 15, 16].into_iter().cycle();
    // At least 200, however short it was to be.
    while faults < 200 || Instant::now() < until {
        let major = majors.next().context("there is always one")?;
        life(major, seed, FAULTS_A_LIFE).await?;
        faults += FAULTS_A_LIFE;
        seed += 1;
        println!("soak: {faults} faults, next seed {seed}");
    }
    Ok(())
}
