//! Another database in the place of the one that is archived: nothing is taken for granted, and with consent it goes on.

use crate::fixtures::{Database, ask_store, backed_up, event, shop, told};
use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Space, eventually};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

async fn system_identifier(space: &Space, pod: &str) -> Result<String> {
    space
        .sql(pod, "SELECT system_identifier FROM pg_control_system()")
        .await
}

/// Whether an object is one that comes and goes with whoever reads or writes.
pub fn is_sign_of_life(key: &str) -> bool {
    key.contains("/markers/") || key.contains("/alive/")
}

/// All of it but what readers write, and the archive's own upkeep, which comes when it comes.
pub fn kept(stored: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut kept = stored;
    let upkeep = |key: &str| key.contains("/tombstones/") || key.contains("/owner/");
    kept.retain(|key, _| !is_sign_of_life(key) && !upkeep(key));
    kept
}

/// All that is stored below the namespace's name, with what changes when an object does: its tag and its time. `pod` is a
/// name for who asks.
pub async fn stored(space: &Space, pod: &str) -> Result<BTreeMap<String, String>> {
    stored_below(space, pod, &space.namespace).await
}

/// The same below another folder.
pub async fn stored_below(
    space: &Space,
    pod: &str,
    folder: &str,
) -> Result<BTreeMap<String, String>> {
    let path = format!("holdfast?list-type=2&max-keys=1000&prefix={folder}/");
    ask_store(space, pod, &path, &[]).await?;
    let said = space.kubectl(&["logs", pod]).await?.success()?;
    ensure!(said.contains("<IsTruncated>false"), "not all: {said}");
    let text = |object: &str, tag: &str| -> Result<String> {
        let rest = object.split_once(&format!("<{tag}>"));
        let value = rest.and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")));
        let (value, _) = value.with_context(|| format!("no {tag}: {object}"))?;
        Ok(value.to_owned())
    };
    said.split("<Contents>")
        .skip(1)
        .map(|object| {
            let state = format!(
                "{} {}",
                text(object, "ETag")?,
                text(object, "LastModified")?
            );
            Ok((text(object, "Key")?, state))
        })
        .collect()
}

/// What is stored of one incarnation. What expiry announces is no change yet.
fn of(objects: &BTreeMap<String, String>, system: &str) -> BTreeMap<String, String> {
    let below = format!("/{system}/");
    let objects = objects
        .iter()
        .filter(|(key, _)| key.contains(&below) && !key.contains("/tombstones/"));
    objects
        .map(|(key, state)| (key.clone(), state.clone()))
        .collect()
}

/// The command that a condition's message says.
fn command(message: &str) -> Result<&str> {
    let from = message.find("kubectl patch").context("no command")?;
    let (command, _) = message[from..].split_once(';').context("no end")?;
    Ok(command)
}

#[tokio::test]
async fn a_new_database_is_archived_once_it_is_accepted() -> Result<()> {
    Space::scenario("incarnation", async |space| {
        // A new major by dump and restore: the volume is new, the label is the same.
        let old = Database::new("orders", 16);
        let before = Before::begin(space, &old).await?;
        for words in [
            &["delete", "statefulset", "orders"][..],
            &["wait", "pod/orders-0", "--for=delete", "--timeout=120s"],
            &["delete", "pvc", "data-orders-0"],
        ] {
            space.kubectl(words).await?.success()?;
        }
        let new = Database::new("orders", 17);
        new.begin(space).await?;
        before.followed_by(space, &new).await
    })
    .await
}

/// What people run in a pod on the volume of a database that is shut down.
const UPGRADE: &str = "set -ex; cd /var/lib/postgresql/data; chmod 700 pgdata
initdb -D new -U postgres --auth=trust --no-data-checksums
pg_upgrade -U postgres -b /usr/lib/postgresql/17/bin -B /usr/lib/postgresql/18/bin -d pgdata -D new --socketdir /tmp ||
  { cat new/pg_upgrade_output.d/*/log/pg_upgrade_server.log; exit 1; }
cp pgdata/pg_hba.conf new/pg_hba.conf
mv pgdata old; mv new pgdata";

#[tokio::test]
async fn an_upgraded_database_is_archived_once_it_is_accepted() -> Result<()> {
    Space::scenario("upgraded", async |space| {
        let before = Before::begin(space, &Database::new("orders", 17)).await?;
        space
            .kubectl(&["scale", "statefulset/orders", "--replicas=0"])
            .await?
            .success()?;
        space
            .kubectl(&["wait", "pod/orders-0", "--for=delete", "--timeout=120s"])
            .await?
            .success()?;
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "upgrade"}, "spec": {
            "restartPolicy": "Never",
            "securityContext": {"fsGroup": 999},
            "containers": [{
                "name": "upgrade", "image": "pg-upgrade:dev", "imagePullPolicy": "IfNotPresent", "workingDir": "/tmp",
                "command": ["bash", "-c", UPGRADE],
                "volumeMounts": [{"name": "data", "mountPath": "/var/lib/postgresql/data"}],
            }],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-orders-0"}}],
        }});
        space.apply(&pod.to_string()).await?;
        let upgraded = space.wait_for("pod/upgrade", "jsonpath={.status.phase}=Succeeded", 60);
        if let Err(error) = upgraded.await {
            let said = space.kubectl(&["logs", "upgrade"]).await?;
            return Err(error.context(said.out));
        }
        let new = Database::new("orders", 18);
        new.begin(space).await?;
        let rows = space.sql("orders-0", "SELECT count(*) FROM rows").await?;
        ensure!(rows == "1000", "{rows}");
        before.followed_by(space, &new).await
    })
    .await
}

/// A database that is archived and backed up, and gives way to another.
struct Before {
    system: String,
    stored: BTreeMap<String, String>,
}

impl Before {
    async fn begin(space: &Space, database: &Database) -> Result<Self> {
        shop(space, database).await?;
        database.archive_rows(space, 0).await?;
        backed_up(space, "before", "orders", "").await?;
        Ok(Self {
            system: system_identifier(space, "orders-0").await?,
            stored: stored(space, "list-before").await?,
        })
    }

    /// Its successor is held until it is accepted; then it goes on in an incarnation of its own.
    async fn followed_by(&self, space: &Space, new: &Database) -> Result<()> {
        let first = &self.system;
        let second = system_identifier(space, "orders-0").await?;
        ensure!(*first != second, "it is the same database");

        // It is held, and told with the line that accepts it.
        let accept = format!("\"acceptSystemIdentifier\":\"{second}\"");
        let says = [first.as_str(), second.as_str(), "orders-0", accept.as_str()];
        told(space, "archive/orders", "IdentityAccepted", "False", &says).await?;
        event(
            space,
            "archive/orders",
            &["Warning", "OtherDatabase", &accept],
        )
        .await?;
        space
            .sql(
                "orders-0",
                "CREATE TABLE mark AS SELECT 1; SELECT pg_switch_wal()",
            )
            .await?;
        eventually("Postgres is refused", async || {
            let failed = space
                .sql(
                    "orders-0",
                    "SELECT failed_count > 2 AND archived_count = 0 FROM pg_stat_archiver",
                )
                .await?;
            ensure!(failed == "t", "{failed}");
            Ok(())
        })
        .await?;
        let (ready, _, why) = space.condition("archive/orders", "Ready").await?;
        ensure!(ready == "False" && why.contains(&second), "{ready}: {why}");
        let held = stored(space, "list-held").await?;
        ensure!(of(&held, &second).is_empty(), "{held:#?}");
        for (key, state) in &of(&self.stored, first) {
            ensure!(held.get(key) == Some(state), "{key} has changed: {held:#?}");
        }

        // Accepted by the line that was told: WAL that waited goes, and backups do.
        let (_, _, message) = space
            .condition("archive/orders", "IdentityAccepted")
            .await?;
        space
            .shell(command(&message)?, Path::new("/"))
            .await?
            .success()?;
        space
            .wait_for("archive/orders", "condition=IdentityAccepted", 120)
            .await?;
        let segment = new.archive_rows(space, 0).await?;
        let segment = format!("wal/{}/{}/{segment}", &segment[..8], &segment[8..16]);
        let after = backed_up(space, "after", "orders", "").await?;
        ensure!(after["status"]["timeline"] == 1, "{:#}", after["status"]);
        let all = stored(space, "list-all").await?;
        ensure!(of(&all, first) == of(&held, first), "{held:#?}\n{all:#?}");
        for part in ["identity.json", segment.as_str(), "backups/"] {
            let part = format!("/{second}/{part}");
            ensure!(
                all.keys().any(|key| key.contains(&part)),
                "no {part}: {all:#?}"
            );
        }
        let (_, major) = new.image.rsplit_once(':').context("no version")?;
        eventually("the archive tells the new one", async || {
            let archive = space.get("archive/orders").await?;
            let status = &archive["status"];
            ensure!(
                status["systemIdentifier"] == second.as_str()
                    && status["postgresVersion"]
                        .as_str()
                        .is_some_and(|version| version.starts_with(major))
                    && status["lastBackup"]["name"] == "after"
                    && status["recoveryWindow"]["earliestLsn"] == after["status"]["stopLsn"],
                "{status:#}"
            );
            Ok(())
        })
        .await?;
        space
            .wait_for("archive/orders", "condition=Ready", 120)
            .await?;
        // What was backed up before can still be restored.
        space
            .wait_for("backup/before", "condition=Complete", 5)
            .await
    }
}
