//! The operator with many Archives on a real API server: its memory, what it writes while nothing changes, and how soon
//! a Backup begins.
//!
//! What is stored is real: one database's archive, with its backups, copied for each Archive; the operator makes the
//! Backup objects from it by itself. Pods are objects that nobody runs, and one server of this program answers for the
//! sidecars of all of them.

mod cluster;
mod population;
mod process;
mod report;
mod sidecars;
mod starts;
mod stored;
mod writes;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use holdfast_e2e::{Minio, World};
use jiff::Timestamp;

use crate::number;
use cluster::Cluster;
use process::{Operator, Sampler};
use report::Report;
use sidecars::Sidecars;
use writes::Writes;

/// So many in a namespace.
const ARCHIVES_EACH: u32 = 10;
/// Nothing was written for so long: it is quiet.
const QUIET: Duration = Duration::from_secs(30);
/// For everything to be as it should be.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// What is measured, and how much of it.
struct Plan {
    archives: u32,
    /// Of each Archive.
    sidecars: u32,
    /// Of each Archive.
    backups: u32,
    /// Backups that are applied and timed.
    starts: u32,
    /// While nothing changes.
    window: Duration,
    out: PathBuf,
    program: PathBuf,
}

impl Plan {
    fn of_environment() -> Result<Self> {
        let file = |name: &str| {
            let path = std::env::var_os(name).map(PathBuf::from);
            path.with_context(|| format!("{name} names no file: start this with bench/run"))
        };
        let plan = Self {
            archives: number("BENCH_ARCHIVES", 1000)?,
            sidecars: number("BENCH_SIDECARS", 3)?,
            backups: number("BENCH_BACKUPS", 10)?,
            starts: number("BENCH_STARTS", 50)?,
            window: Duration::from_secs(number("BENCH_WINDOW", 660)?.into()),
            out: file("BENCH_OPERATOR_OUT")?,
            program: file("HOLDFAST_OPERATOR_BIN")?,
        };
        ensure!(
            plan.archives >= 1 && plan.sidecars >= 1 && plan.backups >= 1 && plan.starts >= 1,
            "there has to be one Archive, one sidecar, one backup and one start at least"
        );
        Ok(plan)
    }

    /// Namespace and name of each.
    fn names(&self) -> Vec<(String, String)> {
        let one = |n| {
            let (namespace, name) = (n / ARCHIVES_EACH, n % ARCHIVES_EACH);
            (format!("shop-{namespace:03}"), format!("orders-{name}"))
        };
        (0..self.archives).map(one).collect()
    }
}

/// Measures.
pub async fn run() -> Result<()> {
    let plan = Plan::of_environment()?;
    // One for all that speaks TLS in this process; nobody can have been faster.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    World::scenario("bench-operator", async |world| bench(world, &plan).await).await
}

fn say(what: &str) {
    eprintln!("bench: {what}");
}

async fn bench(world: &World, plan: &Plan) -> Result<()> {
    let names = plan.names();
    let mut report = Report::new(plan);
    say("a cluster");
    let cluster = Cluster::up(world).await?;
    say("a database, its backups and its WAL");
    let minio = Minio::start(world).await?;
    let bucket = minio.bucket("holdfast")?;
    let template = stored::Template::create(world, &bucket, plan.backups).await?;
    say(&format!(
        "the same {} objects for each of {} Archives",
        template.objects(),
        names.len()
    ));
    template.copy(&bucket, &names).await?;
    say("objects in the cluster");
    let pods = population::create(&cluster, &bucket, &names, plan.sidecars).await?;
    let sidecars = Sidecars::serve(cluster.client(), pods, &template).await?;

    say("the operator, for the first time");
    let begun = Instant::now();
    let operator = Operator::start(world, &cluster, &plan.program, 1).await?;
    let sampler = Sampler::begin(operator.pid()?);
    settle(&operator, plan).await?;
    report.seconds("settled", "a first start", begun.elapsed());
    population::check(&cluster, plan.archives, plan.archives * plan.backups).await?;
    report.memory("first start", &sampler.take());
    quiet(&operator).await?;

    say(&format!("nothing changes for {} s", plan.window.as_secs()));
    sampler.take();
    let window = Window::begin(&cluster, &operator).await?;
    tokio::time::sleep(plan.window).await;
    window.end(&cluster, &operator, &mut report).await?;
    report.memory("nothing changes", &sampler.take());
    // After each part, so that an interrupted run has told something.
    report.write(&plan.out)?;

    say(&format!("{} Backups, one after another", plan.starts));
    let starts = starts::measure(&cluster, &names, plan.starts).await?;
    report.starts(&starts);
    report.memory("backups", &sampler.take());
    quiet(&operator).await?;
    // Nothing of them is stored: the operator would say so of each.
    starts::remove(&cluster).await?;
    report.peak("all of the first run", operator.look()?.peak);
    operator.stop().await?;
    report.write(&plan.out)?;
    quiet_without(&cluster, &mut report).await?;

    say("the operator again, with everything there");
    let begun = Instant::now();
    let before = Writes::now(cluster.client()).await?;
    let operator = Operator::start(world, &cluster, &plan.program, 2).await?;
    let sampler = Sampler::begin(operator.pid()?);
    settle(&operator, plan).await?;
    seen_all(&operator, plan.archives).await?;
    report.seconds("settled", "a restart", begun.elapsed());
    let after = Writes::now(cluster.client()).await?;
    report.writes("restart", begun.elapsed(), &after.since(&before));
    report.memory("restart", &sampler.take());
    quiet(&operator).await?;
    tokio::time::sleep(QUIET).await;
    report.memory("after a restart", &sampler.take());
    report.peak("all of the second run", operator.look()?.peak);
    operator.stop().await?;

    report.requests(sidecars.asked());
    drop(sidecars);
    report.write(&plan.out)?;
    report.print();
    println!("\n{}", plan.out.display());
    cluster.down().await
}

/// Until all Archives are Ready and all that is stored has its Backup, as the operator itself counts.
async fn settle(operator: &Operator, plan: &Plan) -> Result<()> {
    let wanted = f64::from(plan.archives);
    let backups = f64::from(plan.archives * plan.backups);
    let deadline = Instant::now() + PATIENCE;
    let mut told = Instant::now();
    loop {
        let figures = operator.figures().await?;
        let ready = figures.of(r#"objects{kind="Archive",condition="Ready",status="True"}"#);
        let complete = figures.of(r#"objects{kind="Backup",condition="Complete",status="True"}"#);
        if ready >= wanted && complete >= backups {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "after {} s only {ready} of {wanted} Archives are Ready, and {complete} of {backups} Backups Complete",
                PATIENCE.as_secs()
            );
        }
        if told.elapsed() > Duration::from_secs(20) {
            told = Instant::now();
            say(&format!(
                "  {ready} Archives are Ready, {complete} Backups Complete"
            ));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Until the upkeep of each Archive was done once.
async fn seen_all(operator: &Operator, archives: u32) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let figures = operator.figures().await?;
        let looks = figures.of(r#"reconciliations_total{kind="Catalogue",result="success"}"#);
        if looks >= f64::from(archives) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "after {} s only {looks} Archives were looked through",
            PATIENCE.as_secs()
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Until the operator has written nothing for a while, as it counts itself.
async fn quiet(operator: &Operator) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut last = (operator.figures().await?.written(), Instant::now());
    while last.1.elapsed() < QUIET {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let written = operator.figures().await?.written();
        if written != last.0 {
            last = (written, Instant::now());
        }
        ensure!(
            Instant::now() < deadline,
            "the operator goes on writing for {} s although nothing changes: {}",
            PATIENCE.as_secs(),
            operator.figures().await?.lines("writes_total")
        );
    }
    Ok(())
}

/// What everybody else in the cluster writes, for comparison.
async fn quiet_without(cluster: &Cluster, report: &mut Report) -> Result<()> {
    say("the cluster without the operator");
    let (begun, before) = (Instant::now(), Writes::now(cluster.client()).await?);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let after = Writes::now(cluster.client()).await?;
    report.writes("without operator", begun.elapsed(), &after.since(&before));
    Ok(())
}

/// A stretch of time in which nothing changes.
struct Window {
    begun: Instant,
    since: Timestamp,
    writes: Writes,
    own: f64,
    processor_seconds: f64,
    lease: writes::LeaseWatch,
}

impl Window {
    async fn begin(cluster: &Cluster, operator: &Operator) -> Result<Self> {
        Ok(Self {
            lease: writes::LeaseWatch::begin(cluster.client()).await?,
            writes: Writes::now(cluster.client()).await?,
            own: operator.figures().await?.written(),
            processor_seconds: operator.look()?.processor_seconds(),
            begun: Instant::now(),
            since: Timestamp::now(),
        })
    }

    async fn end(self, cluster: &Cluster, operator: &Operator, report: &mut Report) -> Result<()> {
        let took = self.begun.elapsed();
        let after = Writes::now(cluster.client()).await?;
        report.writes("nothing changes", took, &after.since(&self.writes));
        report.count(
            "writes of the operator's Lease",
            "nothing changes",
            self.lease.end() as f64,
        );
        report.count(
            "other writes, by the operator's own count",
            "nothing changes",
            operator.figures().await?.written() - self.own,
        );
        for (reason, count) in writes::told(cluster.client(), self.since).await? {
            let what = format!("objects with the event {reason}");
            report.count(&what, "nothing changes", count as f64);
        }
        let used = operator.look()?.processor_seconds() - self.processor_seconds;
        report.count(
            "processors in use",
            "nothing changes",
            used / took.as_secs_f64(),
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_spread_over_namespaces() {
        let plan = Plan {
            archives: 12,
            sidecars: 3,
            backups: 10,
            starts: 1,
            window: Duration::ZERO,
            out: PathBuf::new(),
            program: PathBuf::new(),
        };
        let names = plan.names();
        assert_eq!(names.len(), 12);
        assert_eq!(names[9], ("shop-000".to_owned(), "orders-9".to_owned()));
        assert_eq!(names[11], ("shop-001".to_owned(), "orders-1".to_owned()));
    }
}
