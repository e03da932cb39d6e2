//! The resources themselves, on a real API server: their rules, how they explain themselves, how they are listed and
//! waited for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::fixtures::{Database, backup, schedule, shop, told};
use crate::restores::restore;
use anyhow::{Context, Result, ensure};
use futures::{StreamExt, stream};
use holdfast_crds::rules::{Case, cases};
use holdfast_e2e::Space;
use kube::api::{
    Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

const KINDS: [&str; 5] = [
    "repositories",
    "archives",
    "backups",
    "scheduledbackups",
    "restores",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// One client for hundreds of requests, of which kubectl would be hundreds of programs.
async fn client(space: &Space) -> Result<kube::Client> {
    let words = ["config", "view", "--raw", "--flatten"];
    let text = space.kubectl(&words).await?.success()?;
    let known = Kubeconfig::from_yaml(&text)?;
    let config = kube::Config::from_custom_kubeconfig(known, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// What the API server said to the last step of a case; none: it let it in.
async fn answer(
    client: &kube::Client,
    space: &Space,
    number: usize,
    case: &Case,
) -> Result<Option<String>> {
    let kind = case.create["kind"].as_str().context("a kind")?;
    let kind = GroupVersionKind::gvk(holdfast_crds::GROUP, holdfast_crds::VERSION, kind);
    let resource = ApiResource::from_gvk(&kind);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &space.namespace, &resource);
    let mut create = case.create.clone();
    let refused = |answer: kube::Result<DynamicObject>| match answer {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) => Ok(Some(status.message.clone())),
        Err(error) => Err(error),
    };
    let Some(update) = &case.update else {
        let dry = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        return Ok(refused(
            api.create(&dry, &serde_json::from_value(create)?).await,
        )?);
    };
    // What is changed has to be there; cases go on side by side.
    let name = format!("case-{number}");
    create["metadata"]["name"] = Value::String(name.clone());
    api.create(&PostParams::default(), &serde_json::from_value(create)?)
        .await
        .context("what is to be changed was not let in")?;
    let dry = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    Ok(refused(
        api.patch(&name, &dry, &Patch::Merge(update)).await,
    )?)
}

#[tokio::test]
async fn the_api_server_knows_every_rule() -> Result<()> {
    Space::scenario("rules", async |space| {
        let client = client(space).await?;
        let cases = cases()?;
        ensure!(cases.len() > 100, "{} cases", cases.len());
        let answers: Vec<_> = stream::iter(cases.iter().enumerate())
            .map(async |(number, case)| {
                let answer = answer(&client, space, number, case).await;
                answer.with_context(|| case.name.clone())
            })
            .buffered(8)
            .collect()
            .await;
        let mut wrong = Vec::new();
        for (case, answer) in cases.iter().zip(answers) {
            match (&case.refused, answer?) {
                (None, None) => {}
                (Some(words), Some(said)) if said.contains(words) => {}
                (_, said) => wrong.push(format!(
                    "{}: {:?} expected, the answer is {said:?}",
                    case.name, case.refused
                )),
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn definitions_apply_either_way_and_explain_themselves() -> Result<()> {
    Space::scenario("crds", async |space| {
        for how in ["--server-side=false", "--server-side"] {
            let apply = format!("kubectl apply {how} --dry-run=server -f crds/");
            let said = space.shell(&apply, &root()).await?.success()?;
            for kind in KINDS {
                let name =
                    format!("customresourcedefinition.apiextensions.k8s.io/{kind}.holdfast.dev");
                ensure!(said.contains(&name), "{how}: {said}");
            }
        }
        for (field, words) in [
            (
                "repository",
                "A place in an object store that holds archives.",
            ),
            ("archive", "All that is kept of one database over its life"),
            ("backup", "One base backup of an Archive's database."),
            (
                "scheduledbackup",
                "Makes a Backup of an Archive at each of its times.",
            ),
            ("restore", "Brings a database back to a moment."),
            (
                "repository.spec.credentials.maintenanceSecretRef",
                "may also delete",
            ),
            (
                "archive.spec.repositories.mode",
                "Required: WAL counts as archived",
            ),
            ("archive.spec.retention.recoveryWindow", "such as"),
            ("archive.status.recoveryWindow.earliestTime", "earliest"),
            ("backup.spec.deletionPolicy", "Default: Retain."),
            ("backup.status.progress.percent", "0 to 100"),
            (
                "scheduledbackup.spec.schedule",
                "Five fields as in a CronJob",
            ),
            (
                "scheduledbackup.spec.backupTemplate.spec.keep",
                "Default: Retention.",
            ),
            ("restore.spec.source", "Whose database."),
            ("restore.spec.target", "To which moment."),
            ("restore.spec.suspend", "nothing is restored until"),
            ("restore.spec.destination.statefulSet", "In place:"),
            (
                "restore.spec.destination.statefulSet.otherReplicas",
                "Default: Refuse.",
            ),
            (
                "restore.spec.destination.persistentVolumeClaim.template.size",
                "such as 100Gi",
            ),
            ("restore.status.plan.target", "such as"),
            ("restore.status.recoveredTo", "Known once Postgres has run."),
        ] {
            let said = space.kubectl(&["explain", field]).await?.success()?;
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            ensure!(
                said.contains(words) && !said.contains("<empty>"),
                "{field}: {said}"
            );
        }
        Ok(())
    })
    .await
}

/// A table as kubectl prints it: of each line, the values by their columns' names.
async fn table(space: &Space, kind: &str) -> Result<Vec<BTreeMap<String, String>>> {
    let said = space.kubectl(&["get", kind]).await?.success()?;
    let mut lines = said.lines();
    let header = lines.next().with_context(|| format!("no {kind}"))?;
    let names: Vec<&str> = header.split_whitespace().collect();
    let mut begins: Vec<usize> = Vec::new();
    for name in &names {
        let from = begins.last().map_or(0, |last| last + 1);
        let at = header.get(from..).and_then(|rest| rest.find(name));
        begins.push(from + at.context("a column")?);
    }
    let rows = lines.map(|line| {
        let cells = names.iter().enumerate().map(|(n, name)| {
            let end = begins
                .get(n + 1)
                .copied()
                .unwrap_or(line.len())
                .min(line.len());
            let cell = line.get(begins[n].min(end)..end).unwrap_or_default();
            ((*name).to_owned(), cell.trim().to_owned())
        });
        cells.collect()
    });
    Ok(rows.collect())
}

#[tokio::test]
async fn every_kind_is_waited_for_and_listed() -> Result<()> {
    Space::scenario("waits", async |space| {
        let database = Database::new("orders", 17);
        shop(space, &database).await?;
        database.archive_rows(space, 0).await?;
        space.apply(&backup("first", "orders", "")).await?;
        space.apply(&schedule("nightly", "orders", "")).await?;
        let suspended = restore("back", "orders", "{latest: {}}", "") + "  suspend: true\n";
        space.apply(&suspended).await?;
        for (object, conditions) in [
            ("backup/first", &["Started", "Complete"][..]),
            ("repository/s3", &["Ready", "ConditionalWrites"]),
            ("scheduledbackup/nightly", &["Ready"]),
            ("restore/back", &["Checked"]),
            (
                "archive/orders",
                &[
                    "Ready",
                    "Archiving",
                    "Recoverable",
                    "Injected",
                    "ConfigurationApplied",
                    "IdentityAccepted",
                    "Owner",
                ],
            ),
        ] {
            for condition in conditions {
                space
                    .wait_for(object, &format!("condition={condition}"), 180)
                    .await?;
            }
        }
        listed(space).await?;

        // What the sidecar can't see can't be backed up.
        let make = [
            "exec",
            "orders-0",
            "-c",
            "postgres",
            "--",
            "install",
            "-d",
            "-o",
            "999",
            "/tmp/hidden",
        ];
        space.kubectl(&make).await?.success()?;
        space
            .sql(
                "orders-0",
                "CREATE TABLESPACE hidden LOCATION '/tmp/hidden'",
            )
            .await?;
        space.apply(&backup("second", "orders", "")).await?;
        space
            .wait_for("backup/second", "condition=Failed", 180)
            .await?;
        told(
            space,
            "backup/second",
            "Failed",
            "True",
            &["/tmp/hidden", "volume"],
        )
        .await?;
        // It is mended by what the sentence says, and the next one is complete.
        space.sql("orders-0", "DROP TABLESPACE hidden").await?;
        space.apply(&backup("third", "orders", "")).await?;
        space
            .wait_for("backup/third", "condition=Complete", 180)
            .await
    })
    .await
}

/// What kubectl shows of one of each.
async fn listed(space: &Space) -> Result<()> {
    let all = space
        .kubectl(&["get", "holdfast", "-o", "name"])
        .await?
        .success()?;
    for object in [
        "repository.holdfast.dev/s3",
        "archive.holdfast.dev/orders",
        "backup.holdfast.dev/first",
        "scheduledbackup.holdfast.dev/nightly",
        "restore.holdfast.dev/back",
    ] {
        ensure!(all.lines().any(|line| line == object), "{object}: {all}");
    }
    for (kind, short, name, values) in [
        (
            "repositories",
            "hfr",
            "s3",
            &[
                ("BUCKET", "holdfast"),
                ("ACCESS", "ReadWrite"),
                ("READY", "True"),
            ][..],
        ),
        (
            "archives",
            "hfa",
            "orders",
            &[
                ("POSTGRES", "17."),
                ("ARCHIVING", "True"),
                ("RECOVERABLE", "True"),
                ("WINDOW-START", "20"),
                ("LATEST", "20"),
                ("LAST-BACKUP", ""),
                ("READY", "True"),
            ],
        ),
        (
            "backups",
            "hfb",
            "first",
            &[
                ("ARCHIVE", "orders"),
                ("TYPE", "Full"),
                ("COMPLETE", "True"),
                ("COMPLETED", ""),
            ],
        ),
        (
            "scheduledbackups",
            "hfs",
            "nightly",
            &[
                ("ARCHIVE", "orders"),
                ("SCHEDULE", "0 2 * * *"),
                ("TIME-ZONE", "Europe/Berlin"),
                ("SUSPEND", "false"),
                ("NEXT", "20"),
                ("READY", "True"),
            ],
        ),
        (
            "restores",
            "hfrs",
            "back",
            &[
                ("ARCHIVE", "orders"),
                ("CHECKED", "True"),
                ("COMPLETE", "False"),
                ("AGE", ""),
            ],
        ),
    ] {
        let rows = table(space, kind).await?;
        let row = rows.iter().find(|row| row["NAME"] == name);
        let row = row.with_context(|| format!("no {name}: {rows:?}"))?;
        for (column, begins) in values {
            let value = row.get(*column).map_or("", String::as_str);
            let readable = value.len() <= 25 && !value.contains('<') && !value.is_empty();
            ensure!(
                readable && value.starts_with(begins),
                "{kind} {column}: {row:?}"
            );
        }
        ensure!(table(space, short).await?.len() == rows.len(), "{short}");
    }
    Ok(())
}
