//! Backups of what differs: each is what a full one of the same moment would be, whatever happened in between.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Postgres, Random, Shutdown, World};
use tokio_postgres::NoTls;

/// What happens between two backups, one statement after the other.
const OPERATIONS: usize = 8;

/// A server with tables that come, go and change.
struct Churn {
    random: Random,
    major: u32,
    tables: BTreeSet<usize>,
    databases: BTreeSet<usize>,
    /// Of all operations.
    number: usize,
}

impl Churn {
    fn next(&mut self) -> Vec<String> {
        self.number += 1;
        let n = self.number;
        let known: Vec<usize> = self.tables.iter().copied().collect();
        let below_known = self.random.below(known.len());
        let Some(&t) = known.get(below_known).filter(|_| self.random.below(5) > 0) else {
            let t = self.random.below(12);
            self.tables.insert(t);
            let kind = ["", "UNLOGGED"][usize::from(self.random.below(8) == 0)];
            let rows = 1 + self.random.below(20_000);
            return vec![
                format!(
                    "CREATE {kind} TABLE IF NOT EXISTS t{t} (id int, v text, a int[], p point)"
                ),
                insert(t, n, rows),
            ];
        };
        let rows = 1 + self.random.below(5000);
        let part = 2 + self.random.below(300);
        match self.random.below(16) {
            0 => vec![insert(t, n, rows)],
            1 | 2 => vec![format!(
                "UPDATE t{t} SET v = md5(id::text || '{n}') WHERE id % {part} = 0"
            )],
            3 => vec![
                format!("DELETE FROM t{t} WHERE id % {part} < {part} / 2"),
                format!("VACUUM t{t}"),
            ],
            // The end is cut off.
            4 => vec![
                format!("DELETE FROM t{t} WHERE ctid > '(3,0)'"),
                format!("VACUUM t{t}"),
            ],
            5 => vec![format!("TRUNCATE t{t}"), insert(t, n, rows)],
            6 => {
                self.tables.remove(&t);
                vec![format!("DROP TABLE t{t}")]
            }
            7 => vec![format!("VACUUM (FULL) t{t}")],
            8 => vec![format!("VACUUM (FREEZE) t{t}")],
            9 => {
                let (method, column) = [
                    ("btree", "id"),
                    ("hash", "v"),
                    ("gin", "a"),
                    ("gist", "p"),
                    ("brin", "id"),
                ][self.random.below(5)];
                vec![format!("CREATE INDEX ON t{t} USING {method} ({column})")]
            }
            10 => vec![
                format!("ALTER TABLE t{t} SET UNLOGGED"),
                format!("ALTER TABLE t{t} SET LOGGED"),
            ],
            11 => {
                let place = ["pg_default", "elsewhere"][self.random.below(2)];
                vec![format!("ALTER TABLE t{t} SET TABLESPACE {place}")]
            }
            12 => vec![
                format!("SELECT lo_from_bytea(0, decode(repeat(md5('{n}'), {rows}), 'hex'))"),
                format!(
                    "SELECT lo_unlink(oid) FROM pg_largeobject_metadata WHERE oid::bigint % {part} = 1"
                ),
            ],
            // Nothing but hint bits, with or without checksums in the WAL.
            13 => vec![format!("SELECT count(*) FROM t{t} WHERE v IS NOT NULL")],
            14 => {
                let kind = ["int", "bigint"][self.random.below(2)];
                vec![format!("ALTER TABLE t{t} ALTER id TYPE {kind}")]
            }
            _ => {
                let d = self.random.below(2);
                if self.databases.remove(&d) {
                    return vec![format!("DROP DATABASE d{d}")];
                }
                self.databases.insert(d);
                let strategy = match self.major {
                    14 => "",
                    _ => ["STRATEGY file_copy", "STRATEGY wal_log"][self.random.below(2)],
                };
                vec![format!("CREATE DATABASE d{d} {strategy}")]
            }
        }
    }
}

fn insert(table: usize, seed: usize, rows: usize) -> String {
    format!(
        "INSERT INTO t{table} SELECT i, repeat(md5(i::text || '{seed}'), 1 + i % 7), ARRAY[i, i % 10], point(i, {seed}) FROM generate_series(1, {rows}) AS i"
    )
}

/// What all databases say that is in their tables; what a crash empties left out.
async fn content(postgres: &Postgres) -> Result<BTreeMap<String, String>> {
    let mut content = BTreeMap::new();
    let databases =
        "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE datallowconn";
    for database in postgres.value(databases).await?.split(' ') {
        let (client, connection) = postgres.config().dbname(database).connect(NoTls).await?;
        let connection = tokio::spawn(connection);
        let tables = "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 't', 'S') AND relpersistence = 'p' AND relnamespace = 'public'::regnamespace
            UNION ALL SELECT 'pg_largeobject' UNION ALL SELECT 'pg_class' UNION ALL SELECT 'pg_attribute'";
        for row in client.query(tables, &[]).await? {
            let table: String = row.get(0);
            let sum = format!(
                "SELECT md5(coalesce(string_agg(x::text, ',' ORDER BY x::text), '')) FROM {table} AS x"
            );
            let sum: String = client.query_one(&sum, &[]).await?.get(0);
            content.insert(format!("{database}.{table}"), sum);
        }
        drop(client);
        connection.await??;
    }
    Ok(content)
}

/// Files of relations below a folder, by path.
fn relations(root: &Path, below: &str, found: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    for entry in std::fs::read_dir(root.join(below))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{below}/{name}");
        let passing = ["pg_internal.init", "pgsql_tmp", "pg_control", "t"];
        if passing.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        if entry.path().is_dir() {
            relations(root, &path, found)?;
        } else {
            found.insert(path, std::fs::read(entry.path())?);
        }
    }
    Ok(())
}

/// Page by page: nothing was written since the backup began.
fn same_files(live: &Path, restored: &Path) -> Result<()> {
    let both = [live, restored].map(|root| {
        let mut found = BTreeMap::new();
        for below in ["base", "global", "pg_xact", "pg_multixact"] {
            relations(root, below, &mut found)?;
        }
        Ok::<_, anyhow::Error>(found)
    });
    let [live, restored] = both;
    let (mut live, restored) = (live?, restored?);
    // Of unlogged relations only the init fork is kept.
    let unlogged: Vec<String> = live
        .keys()
        .filter_map(|path| Some(path.strip_suffix("_init")?.to_owned()))
        .collect();
    live.retain(|path, _| {
        let stem = path.split(['_', '.']).next().unwrap_or(path);
        path.ends_with("_init") || !unlogged.iter().any(|one| one == stem)
    });
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<BTreeSet<_>>();
    let (here, there) = (names(&live), names(&restored));
    let differing: Vec<_> = here.symmetric_difference(&there).collect();
    ensure!(differing.is_empty(), "only in one of them: {differing:?}");
    for (path, bytes) in &live {
        let other = &restored[path];
        ensure!(
            bytes.len() == other.len(),
            "{path}: {} and {} bytes",
            bytes.len(),
            other.len()
        );
        let pages = bytes.chunks(8192).zip(other.chunks(8192)).enumerate();
        let differing: Vec<usize> = pages.filter(|(_, (a, b))| a != b).map(|(n, _)| n).collect();
        ensure!(differing.is_empty(), "{path}: pages {differing:?} differ");
    }
    Ok(())
}

/// A chain of so many backups of what differs, after a full one; each restored and compared.
pub(crate) async fn chain(major: u32, seed: u64, backups: usize, checksums: bool) -> Result<()> {
    World::scenario("chain", async |world| {
        println!("a chain of {backups} on {major} from seed {seed}");
        let primary = world
            .postgres("primary", major)
            .segment_mib(1)
            .checksums(checksums)
            .set("autovacuum", "off")
            .set("bgwriter_lru_maxpages", "0")
            .set("checkpoint_timeout", "1h")
            .set("max_wal_size", "4GB")
            .create()
            .await?;
        let holdfast = world
            .holdfast("shop/orders", &primary)
            .filesystem("backups")?
            .encrypted()?
            .build()?;
        let sidecar = holdfast.sidecar().await?;
        primary.archive_with(&holdfast).await?;
        let (tablespace, _) = primary.tablespace("elsewhere").await?;
        let mut churn = Churn {
            random: Random::of(seed),
            major,
            tables: BTreeSet::new(),
            databases: BTreeSet::new(),
            number: 0,
        };
        let first = holdfast.backup().await?;
        ensure!(first["type"] == "Full", "{first:#}");
        let mut kept: Vec<(String, BTreeMap<String, String>)> = Vec::new();
        for number in 0..backups {
            let mut done = Vec::new();
            for _ in 0..OPERATIONS {
                for statement in churn.next() {
                    primary
                        .execute(&statement)
                        .await
                        .with_context(|| format!("seed {seed}, backup {number}"))?;
                    done.push(statement);
                }
            }
            let backup = holdfast.incremental().await?;
            let id = backup["id"].as_str().context("id")?.to_owned();
            let what = || format!("seed {seed}, backup {number}, {id}, after {done:#?}");
            ensure!(
                backup["type"] == "Incremental" && backup["pageErrors"] == 0,
                "{backup:#}"
            );
            let arguments = ["--backup", &id, "--target", "immediate"];
            let restored = world
                .restored(&id, major, &holdfast, &[tablespace], &arguments)
                .await
                .with_context(what)?;
            same_files(primary.dir(), restored.postgres.dir()).with_context(what)?;
            kept.push((id, content(&primary).await?));
            drop(restored);
        }
        holdfast.verify().await?.success()?;
        // The rows of the last, and of another.
        let other = churn.random.below(kept.len());
        for place in BTreeSet::from([other, kept.len() - 1]) {
            let (id, rows) = &kept[place];
            let dir = world.path(&format!("{id}/data"));
            let mut restored = world.copy_on(id, major, &dir)?;
            restored.start().await?;
            restored.wait_promoted().await?;
            let found = content(&restored).await?;
            ensure!(
                found == *rows,
                "seed {seed}, {id}: {found:#?} and not {rows:#?}"
            );
            restored.amcheck().await?;
            restored.stop(Shutdown::Fast).await?;
        }
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn a_chain_of_changes_on_17() -> Result<()> {
    chain(17, 1, 8, true).await
}

#[tokio::test]
async fn a_chain_of_changes_without_checksums() -> Result<()> {
    chain(17, 2, 4, false).await
}

#[tokio::test]
async fn a_chain_of_changes_on_14() -> Result<()> {
    chain(14, 3, 3, true).await
}

#[tokio::test]
async fn a_chain_of_changes_on_18() -> Result<()> {
    chain(18, 4, 3, true).await
}

/// `make soak SEED=…`
#[tokio::test]
#[ignore = "takes minutes: make soak"]
async fn long_chains_of_changes() -> Result<()> {
    let seed = crate::soak::number("SEED", 1)?;
    for (major, seed) in [17, 14, 15, 16, 18].into_iter().zip(seed..) {
        chain(major, seed, 30, true).await?;
    }
    Ok(())
}

/// What one backup adds is what has changed, and who comes after a promotion goes on.
#[tokio::test]
async fn a_backup_stores_what_changed() -> Result<()> {
    World::scenario("changed", async |world| {
        let (mut primary, holdfast, sidecar) = world.archiving(17).await?;
        primary.pgbench(&["-i", "-s", "6", "-q"]).await?;
        let size = |backup: &serde_json::Value, what: &str| {
            backup["size"][what]
                .as_u64()
                .context("a size")
                .map(|bytes| bytes >> 10)
        };
        let full = holdfast.incremental().await?;
        ensure!(full["type"] == "Full", "there was none before: {full:#}");
        let all = size(&full, "stored")?;
        let nothing = holdfast.incremental().await?;
        ensure!(nothing["type"] == "Incremental", "{nothing:#}");
        let (stored, changed) = (size(&nothing, "stored")?, size(&nothing, "changed")?);
        ensure!(
            stored < all / 20 && changed < 1500,
            "{stored} KiB of {all}, {changed} changed"
        );
        primary.pgbench(&["-n", "-t", "300"]).await?;
        let some = holdfast.json(&["backup"]).await?;
        let (stored, changed) = (size(&some, "stored")?, size(&some, "changed")?);
        ensure!(
            stored < all / 3 && changed < 8192,
            "{stored} KiB of {all}, {changed} changed"
        );

        // By whoever is promoted, and of the timeline after it.
        let mut standby = primary.standby("standby").await?;
        let second = holdfast.also_for(&standby).build()?;
        let other = second.sidecar().await?;
        standby.archive_with(&second).await?;
        primary.stop(Shutdown::Fast).await?;
        sidecar.stop().await?;
        standby.promote().await?;
        standby.pgbench(&["-n", "-t", "50"]).await?;
        let later = second.json(&["backup"]).await?;
        ensure!(
            later["type"] == "Incremental" && later["timeline"] == 2,
            "{later:#}"
        );
        let stored = size(&later, "stored")?;
        ensure!(stored < all / 2, "{stored} KiB of {all}");
        let whole = second.json(&["backup", "--type", "full"]).await?;
        ensure!(
            whole["type"] == "Full" && size(&whole, "stored")? > all / 2,
            "{whole:#}"
        );
        other.stop().await
    })
    .await
}
