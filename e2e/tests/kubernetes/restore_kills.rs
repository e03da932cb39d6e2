//! Restores in place whose actors are killed at every step: each completes, and no database starts on a mixture.

use crate::fixtures::Database;
use crate::hand::{Hand, Processes};
use crate::restore_outages::{never_started, ordered, status};
use crate::restores::{PATIENCE, goes_on, has_rows, history, restore};
use crate::store::{Pace, Store};
use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Space, eventually};

const POD: &str = "orders-0";
const BOOTSTRAP: Processes = Processes::OfPod("holdfast bootstrap");

/// A step of a restore, each of which something holds open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The sidecar archives what is not stored yet.
    Draining,
    /// The old pod is on its way out.
    Going,
    /// The new pod waits to be told to go on.
    Holding,
    /// The data directory is unfinished.
    Writing,
    /// The data directory is whole, and Postgres replays WAL.
    Replaying,
}

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Actor {
    Operator,
    Bootstrap,
    Sidecar,
    Postgres,
    Kubelet,
    /// All of the pod, with its sandbox: what is left of it when its node starts anew.
    Machine,
}

use Actor::{Bootstrap, Kubelet, Machine, Operator, Postgres, Sidecar};
use Step::{Draining, Going, Holding, Replaying, Writing};

const STEPS: [Step; 5] = [Draining, Going, Holding, Writing, Replaying];
const ACTORS: [Actor; 6] = [Operator, Bootstrap, Sidecar, Postgres, Kubelet, Machine];

/// Who is killed at which step.
type Kills = Vec<(Step, Actor)>;

impl Actor {
    fn acts(self, step: Step) -> bool {
        match self {
            Bootstrap => matches!(step, Holding | Writing),
            Postgres => !Bootstrap.acts(step),
            // While a pod holds, no operator acts: that is how it is held.
            Operator => step != Holding,
            Sidecar | Kubelet | Machine => true,
        }
    }

    /// At every step at which it acts.
    fn kills(self) -> impl Iterator<Item = (Step, Self)> {
        let steps = STEPS.into_iter().filter(move |step| self.acts(*step));
        steps.map(move |step| (step, self))
    }

    fn processes(self) -> Option<Processes> {
        Some(match self {
            Operator => return None,
            Bootstrap => BOOTSTRAP,
            Sidecar => Processes::OfPod("holdfast sidecar"),
            Postgres => Processes::OfPod("^postgres"),
            Kubelet => Processes::Kubelet,
            Machine => Processes::OfPod("."),
        })
    }
}

/// What all restores here are of: a database of some size, a backup of it, and as much WAL after that.
struct Scene<'a> {
    space: &'a Space,
    store: Store<'a>,
    hand: Hand<'a>,
    target: String,
    bulk: String,
}

const BULK: &str = "SELECT count(*), sum(hashtext(line)::bigint) FROM bulk";

impl<'a> Scene<'a> {
    async fn set(space: &'a Space) -> Result<Self> {
        let database = Database {
            pre_stop: Some("until [ -e /tmp/leave ]; do sleep 0.1; done"),
            ..Database::new("orders", 17)
        };
        let store = Store::shop(space, &database).await?;
        let hand = Hand::on_every_node(space).await?;
        let lines = "SELECT md5(g::text) AS line FROM generate_series(1, 1000000) g";
        space
            .sql(POD, &format!("CREATE TABLE bulk AS {lines}"))
            .await?;
        history(space).await?;
        space.sql(POD, &format!("INSERT INTO bulk {lines}")).await?;
        let lsn = "SELECT pg_current_wal_insert_lsn()";
        let target = format!("{{lsn: {}, timeline: \"1\"}}", space.sql(POD, lsn).await?);
        let bulk = space.sql(POD, BULK).await?;
        Ok(Self {
            space,
            store,
            hand,
            target,
            bulk,
        })
    }

    async fn uid(&self) -> Result<String> {
        let pod = self.space.get(&format!("pod/{POD}")).await?;
        let uid = pod["metadata"]["uid"].as_str();
        Ok(uid.context("the pod's UID")?.to_owned())
    }

    /// Kills who is to be killed at this step. But for a pod that goes, all are back afterwards.
    async fn kill(&self, step: Step, kills: &Kills) -> Result<()> {
        for (_, actor) in kills.iter().filter(|(at, _)| *at == step) {
            match actor.processes() {
                None => {
                    let cluster = self.space.cluster();
                    cluster.kill_operator().await?;
                    cluster.scale_operator(2).await?;
                    // The next one need not wait until the Lease has run out.
                    cluster.let_operator_act().await?;
                }
                Some(processes) => {
                    self.hand.kill(POD, processes).await?;
                    if step != Going || *actor == Kubelet {
                        self.hand.run(POD, processes).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Restores from this timeline, and finds what was there at the target, whoever was killed on the way.
    async fn restored(&self, timeline: u32, kills: &Kills) -> Result<()> {
        let Self { space, store, .. } = self;
        let name = format!("back-{timeline}");
        let object = format!("restore/{name}");
        let yaml = restore(&name, "orders", &self.target, "");
        let row = "INSERT INTO ledger VALUES (100)";
        space.sql(POD, row).await?;
        let old = self.uid().await?;

        store.answers(Pace::Still).await?;
        space.apply(&yaml).await?;
        eventually("it drains", async || {
            let (_, reason, message) = space.condition(&object, "Checked").await?;
            ensure!(reason == "Draining", "{reason}: {message}");
            Ok(())
        })
        .await?;
        self.kill(Draining, kills).await?;

        store.answers(Pace::Quick).await?;
        ordered(space, &name).await?;
        eventually("its pod goes", async || {
            let pod = space.get(&format!("pod/{POD}")).await?;
            let going = &pod["metadata"]["deletionTimestamp"];
            ensure!(going.is_string() && self.uid().await? == old, "{pod:#}");
            Ok(())
        })
        .await?;
        let holds = kills.iter().any(|(step, _)| *step == Holding);
        if holds {
            space.cluster().hold_operator().await?;
        }
        // Nobody has drained this.
        space.sql(POD, "INSERT INTO ledger VALUES (101)").await?;
        self.kill(Going, kills).await?;

        store.answers(Pace::Slow).await?;
        // Postgres may be gone by now.
        let leave = ["exec", POD, "-c", "postgres", "--", "touch", "/tmp/leave"];
        space.kubectl(&leave).await?;
        eventually("there is another pod", async || {
            ensure!(self.uid().await? != old, "it is the old one");
            Ok(())
        })
        .await?;
        if holds {
            self.says("the operator has seen that").await?;
            self.kill(Holding, kills).await?;
            let (started, reason, _) = space.condition(&object, "Started").await?;
            ensure!(started == "False", "it was told to go on: {reason}");
            space.cluster().let_operator_act().await?;
        }

        eventually("the data directory is unfinished", async || {
            let marker = "/var/lib/postgresql/data/pgdata/holdfast.unfinished";
            ensure!(self.hand.has_file(POD, marker).await?, "there is no mark");
            Ok(())
        })
        .await?;
        store.answers(Pace::Still).await?;
        let back = async {
            self.kill(Writing, kills).await?;
            self.hand.run(POD, BOOTSTRAP).await
        };
        let back = back.await;
        never_started(space).await?;
        back?;

        store.answers(Pace::Slow).await?;
        let whole = "condition=Restored";
        space.wait_for(&object, whole, PATIENCE).await?;
        store.answers(Pace::Still).await?;
        let recovered = status(space, &name).await?["recoveredTo"].clone();
        ensure!(recovered.is_null(), "it has recovered: {recovered}");
        self.kill(Replaying, kills).await?;

        store.answers(Pace::Quick).await?;
        let complete = "condition=Complete";
        space.wait_for(&object, complete, PATIENCE).await?;
        has_rows(space, 8).await?;
        let bulk = space.sql(POD, BULK).await?;
        ensure!(bulk == self.bulk, "{bulk} and not {}", self.bulk);
        Ok(())
    }

    /// Waits until the container before Postgres says this.
    async fn says(&self, words: &str) -> Result<()> {
        eventually(&format!("{POD} says {words:?}"), async || {
            let logs = ["logs", POD, "-c", "holdfast-bootstrap"];
            let said = self.space.kubectl(&logs).await?.success()?;
            ensure!(said.contains(words), "{said}");
            Ok(())
        })
        .await
    }
}

/// One after the other, on one database.
async fn all_complete(name: &str, restores: impl IntoIterator<Item = Kills>) -> Result<()> {
    Space::alone(name, async |space| {
        let scene = Scene::set(space).await?;
        let mut timeline = 1;
        for kills in restores {
            let restored = scene.restored(timeline, &kills).await;
            space.cluster().let_operator_act().await?;
            restored.with_context(|| format!("killed: {kills:?}"))?;
            timeline += 1;
        }
        // Each begins by archiving what was written after the one before.
        goes_on(space, "after", timeline).await
    })
    .await
}

#[tokio::test]
async fn whoever_is_killed_at_every_step_it_completes() -> Result<()> {
    let restores = [
        vec![Operator],
        // Never at the same step.
        vec![Postgres, Bootstrap],
        vec![Sidecar],
        vec![Kubelet],
        vec![Machine],
    ];
    let restores = restores.map(|actors| actors.into_iter().flat_map(Actor::kills).collect());
    all_complete("restore-kills", restores).await
}

/// Each by itself: what one kill leaves is not what the next one finds. A quarter of an hour: make soak.
#[tokio::test]
#[ignore = "takes a quarter of an hour: make soak"]
async fn whoever_is_killed_at_one_step_it_completes() -> Result<()> {
    let kills = ACTORS.into_iter().flat_map(Actor::kills);
    all_complete("restore-kill", kills.map(|kill| vec![kill])).await
}
