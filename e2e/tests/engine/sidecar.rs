//! What the sidecar is for an operator: its API over TLS, new settings without a restart, archiving set up in SQL, and
//! the last of the WAL after the server has gone.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use holdfast_e2e::{Bucket, Daemon, Holdfast, Minio, Postgres, Shutdown, World, eventually, parts};
use rustix::process::Signal;
use serde_json::{Value, json};

/// What the sidecars of the archive `shop/orders` are called.
const SIDECAR: &str = "orders.shop.sidecar.holdfast.dev";
const OPERATOR: &str = "operator.holdfast.dev";

/// The programs and the module, as they lie in the image.
fn image(world: &World) -> Result<PathBuf> {
    let folder = world.make_dir("image")?;
    for name in ["bin", "lib/holdfast"] {
        std::fs::create_dir_all(folder.join(name))?;
    }
    for (name, program) in [
        ("bin/holdfast", parts::holdfast()?),
        ("bin/holdfast-wal", parts::holdfast_wal()?),
        ("lib/holdfast/holdfast_archive.so", parts::archive_module()?),
    ] {
        let copy = folder.join(name);
        // Not by ourselves: a scenario beside us that starts a program then would take the open file along, and what is open
        // for writing can't be run ("Text file busy").
        if !copy.exists() {
            let copied = std::process::Command::new("cp")
                .arg(&program)
                .arg(&copy)
                .status()?;
            ensure!(copied.success(), "copying {}", program.display());
        }
    }
    Ok(folder.join("bin/holdfast"))
}

/// `holdfast sidecar --install` as a pod runs it, with these variables.
async fn sidecar(world: &World, holdfast: &Holdfast, variables: &[(&str, &str)]) -> Result<Daemon> {
    let mut command = world.command(image(world)?);
    command
        .args(["sidecar", "--install"])
        .arg(world.path("run"));
    command.env("HOLDFAST_CONFIG", holdfast.config());
    command.envs(variables.iter().copied());
    let instance = holdfast.config().file_stem().context("a file")?;
    let log = format!("log/{}-sidecar.log", instance.to_string_lossy());
    let mut daemon = Daemon::spawn("the sidecar", command, &world.path(&log))?;
    eventually("the sidecar serves", async || {
        if !daemon.is_running()? {
            bail!("it has ended\n{}", daemon.tail());
        }
        tokio::net::UnixStream::connect(holdfast.socket()).await?;
        Ok(())
    })
    .await?;
    Ok(daemon)
}

/// An answer's code and JSON; null where it is none.
type Answer = (u16, Value);

async fn curl(world: &World, arguments: &[&str]) -> Result<Answer> {
    let mut command = world.command("curl");
    command
        .args(["--silent", "--show-error", "--max-time", "20"])
        .args(["--write-out", "\n%{http_code}"])
        .args(["--header", "content-type: application/json"])
        .args(arguments);
    let output = world.run(command).await?.success()?;
    let (body, code) = output.stdout.rsplit_once('\n').context("a code")?;
    Ok((
        code.parse()?,
        serde_json::from_str(body).unwrap_or_default(),
    ))
}

/// Over the Unix socket.
async fn here(
    world: &World,
    holdfast: &Holdfast,
    method: &str,
    path: &str,
    body: &str,
) -> Result<Answer> {
    let socket = holdfast.socket().with_file_name("control.sock");
    let url = format!("http://sidecar{path}");
    let mut arguments = vec!["--unix-socket", socket.to_str().context("a path")?];
    arguments.extend(["--request", method, &url]);
    if !body.is_empty() {
        arguments.extend(["--data", body]);
    }
    curl(world, &arguments).await
}

/// The report, over the Unix socket.
pub async fn report(world: &World, holdfast: &Holdfast) -> Result<Value> {
    let (code, report) = here(world, holdfast, "GET", "/v1/status", "").await?;
    ensure!(code == 200, "{code}: {report}");
    Ok(report)
}

/// An authority, and certificates that it has signed, in a folder of the world.
struct Authority {
    world: World,
    folder: PathBuf,
}

impl Authority {
    async fn new(world: &World, name: &str) -> Result<Self> {
        let authority = Self {
            world: world.clone(),
            folder: world.make_dir(name)?,
        };
        authority
            .openssl(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=authority \
                 -keyout ca.key -out ca.crt",
            )
            .await?;
        authority.sign("tls", SIDECAR, "serverAuth").await?;
        authority.sign("operator", OPERATOR, "clientAuth").await?;
        Ok(authority)
    }

    /// `FILE.crt` and `FILE.key`.
    async fn sign(&self, file: &str, name: &str, usage: &str) -> Result<()> {
        std::fs::write(
            self.folder.join("extensions"),
            format!("subjectAltName = DNS:{name}\nextendedKeyUsage = {usage}\n"),
        )?;
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {file}.key -out {file}.csr"
        ))
        .await?;
        self.openssl(&format!(
            "x509 -req -in {file}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile extensions -out {file}.crt"
        ))
        .await
    }

    async fn openssl(&self, arguments: &str) -> Result<()> {
        let mut command = self.world.command("openssl");
        command
            .current_dir(&self.folder)
            .args(arguments.split_whitespace());
        self.world.run(command).await?.success().map(drop)
    }

    /// Puts what the sidecar reads beside its settings, one file after the other.
    fn install(&self) -> Result<()> {
        for file in ["ca.crt", "tls.crt", "tls.key"] {
            let content = std::fs::read(self.folder.join(file))?;
            self.world.write(&format!("home/{file}"), content)?;
        }
        Ok(())
    }
}

/// A client with one of an authority's certificates.
struct Client<'a> {
    authority: &'a Authority,
    certificate: Option<&'a str>,
    port: u16,
}

impl Client<'_> {
    async fn ask(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        let folder = &self.authority.folder;
        let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
        let mut arguments = vec![
            "--cacert".to_owned(),
            file("ca.crt"),
            "--resolve".to_owned(),
            format!("{SIDECAR}:{}:127.0.0.1", self.port),
            "--request".to_owned(),
            method.to_owned(),
            format!("https://{SIDECAR}:{}{path}", self.port),
        ];
        if let Some(certificate) = self.certificate {
            arguments.extend(["--cert".to_owned(), file(&format!("{certificate}.crt"))]);
            arguments.extend(["--key".to_owned(), file(&format!("{certificate}.key"))]);
        }
        if !body.is_empty() {
            arguments.extend(["--data".to_owned(), body.to_owned()]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        curl(&self.authority.world, &arguments).await
    }

    async fn status(&self) -> Result<Value> {
        let (code, report) = self.ask("GET", "/v1/status", "").await?;
        ensure!(code == 200, "{code}: {report}");
        Ok(report)
    }
}

fn operator(authority: &Authority, port: u16) -> Client<'_> {
    Client {
        authority,
        certificate: Some("operator"),
        port,
    }
}

/// Free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

async fn bucket(world: &World) -> Result<(Minio, Bucket)> {
    let minio = Minio::start(world).await?;
    let bucket = minio.bucket("acme-pg")?;
    Ok((minio, bucket))
}

fn condition<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    let mut conditions = status["conditions"].as_array()?.iter();
    conditions.find(|condition| condition["type"] == name)
}

#[tokio::test]
async fn an_operator_asks_orders_and_cancels_over_tls() -> Result<()> {
    World::scenario("operator", async |world| {
        let primary = world.postgres("primary", 17).segment_mib(1).create().await?;
        let (_minio, bucket) = bucket(world).await?;
        let (control, monitoring) = (free_port()?, free_port()?);
        let holdfast = world
            .holdfast("shop/orders", &primary)
            .s3(&bucket)
            .line(&format!(
                "control: {{listen: \"127.0.0.1:{control}\", caFile: ca.crt, certificateFile: tls.crt, keyFile: tls.key}}"
            ))
            .line(&format!("monitoring: {{listen: \"127.0.0.1:{monitoring}\"}}"))
            .line("generation: 3")
            // So little that nothing is stored before Postgres asks: a backup is to wait below.
            .line("limits: {memory: 64Mi}")
            .build()?;
        let authority = Authority::new(world, "authority").await?;
        authority.sign("other", "other.holdfast.dev", "clientAuth").await?;
        authority.install()?;
        let pod = [("HOLDFAST_POD_UID", "uid-1"), ("HOLDFAST_POD_NAME", "orders-0")];
        let mut daemon = sidecar(world, &holdfast, &pod).await?;
        let client = operator(&authority, control);

        let report = client.status().await?;
        ensure!(report["archive"] == "shop/orders", "{report:#}");
        ensure!(report["podUid"] == "uid-1" && report["configurationGeneration"] == 3, "{report:#}");
        ensure!(report["postgres"]["role"] == "Primary" && report["postgres"]["major"] == 17, "{report:#}");
        let off = report["postgres"]["archivingOff"].as_str().context("it is off")?;
        let command = format!("{} --socket {}", world.path("run/bin/holdfast-wal").display(), holdfast.socket().display());
        ensure!(
            off.contains(&format!("ALTER SYSTEM SET archive_command = '{command} archive %f %p'")),
            "{off}"
        );
        primary
            .configure(&[("archive_command", &format!("{command} archive %f %p"))])
            .await?;
        primary.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i").await?;
        let (code, switched) = client.ask("POST", "/v1/switch-wal", r#"{"podUid": "uid-1"}"#).await?;
        ensure!(code == 200 && switched["lsn"].is_string(), "{code} {switched}");
        let report = eventually("all is archived", async || {
            let report = client.status().await?;
            ensure!(report["postgres"]["archivingOff"].is_null(), "{report:#}");
            ensure!(report["wal"]["readyCount"] == 0, "{report:#}");
            ensure!(report["wal"]["archivedThrough"]["time"].is_string(), "{report:#}");
            ensure!(report["wal"]["lag"]["bytes"].as_u64().is_some_and(|n| n < 1 << 20), "{report:#}");
            Ok(report)
        })
        .await?;
        ensure!(report["wal"]["archivedCount"].as_u64() > Some(0), "{report:#}");

        // Who else asks is refused, and an order that is another pod's.
        let stranger = Authority::new(world, "stranger").await?;
        let trusting = world.make_dir("trusting")?;
        for (name, from) in [("ca.crt", &authority), ("operator.crt", &stranger), ("operator.key", &stranger)] {
            std::fs::copy(from.folder.join(name), trusting.join(name))?;
        }
        world.own_tree(&trusting)?;
        let trusting = Authority { world: world.clone(), folder: trusting };
        for (who, refused) in [
            ("nobody", Client { certificate: None, ..operator(&authority, control) }),
            ("another name", Client { certificate: Some("other"), ..operator(&authority, control) }),
            ("another authority", operator(&trusting, control)),
        ] {
            ensure!(refused.status().await.is_err(), "{who} got in");
        }
        let plain = format!("http://127.0.0.1:{control}/v1/status");
        ensure!(curl(world, &[&plain]).await.is_err(), "without TLS");
        for (path, body) in [
            ("/v1/switch-wal", r#"{"podUid": "uid-2"}"#),
            ("/v1/switch-wal", "{}"),
            ("/v1/backups", r#"{"type": "Full", "podUid": "uid-2"}"#),
        ] {
            let (code, answer) = client.ask("POST", path, body).await?;
            ensure!(code == 412 && answer["error"].is_string(), "{code} {answer}");
        }

        // A backup to its end.
        let order = json!({"type": "Full", "id": "b1", "podUid": "uid-1"}).to_string();
        for _ in 0..2 {
            let (code, answer) = client.ask("POST", "/v1/backups", &order).await?;
            ensure!(code == 202 && answer["id"] == "b1", "{code} {answer}");
        }
        let status = eventually("the backup is complete", async || {
            let (_, status) = client.ask("GET", "/v1/backups/b1", "").await?;
            let complete = condition(&status, "Complete").context("not yet")?;
            ensure!(complete["status"] == "True", "{status:#}");
            Ok(status)
        })
        .await?;
        ensure!(status["pod"] == "orders-0", "{status:#}");
        // One that waits for its WAL, cancelled.
        primary.configure(&[("archive_command", "false")]).await?;
        let order = json!({"type": "Full", "id": "b2", "podUid": "uid-1"}).to_string();
        let (code, answer) = client.ask("POST", "/v1/backups", &order).await?;
        ensure!(code == 202, "{code} {answer}");
        eventually("the backup waits", async || {
            let (_, status) = client.ask("GET", "/v1/backups/b2", "").await?;
            let complete = condition(&status, "Complete").context("not yet")?;
            ensure!(complete["reason"] == "WaitingForWal", "{status:#}");
            Ok(())
        })
        .await?;
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast backup'";
        ensure!(primary.value(sessions).await? == "1");
        ensure!(client.status().await?["runningBackup"] == "b2");
        let (code, answer) = client.ask("DELETE", "/v1/backups/b2", "").await?;
        ensure!(code == 202, "{code} {answer}");
        eventually("the backup has ended", async || {
            let (_, status) = client.ask("GET", "/v1/backups/b2", "").await?;
            let failed = condition(&status, "Failed").context("not yet")?;
            ensure!(failed["reason"] == "Cancelled", "{status:#}");
            ensure!(primary.value(sessions).await? == "0");
            Ok(())
        })
        .await?;
        let (code, _) = client.ask("DELETE", "/v1/backups/b3", "").await?;
        ensure!(code == 404, "{code}");
        primary
            .configure(&[("archive_command", &format!("{command} archive %f %p"))])
            .await?;

        monitored(world, monitoring).await?;
        renewed(world, &holdfast, &authority, control).await?;
        reloaded(world, &holdfast, &primary).await?;
        let status = daemon.stop(Signal::TERM).await?;
        ensure!(status.success(), "{status}\n{}", daemon.tail());
        Ok(())
    })
    .await
}

/// The pages of the monitoring port.
async fn monitored(world: &World, port: u16) -> Result<()> {
    let page = |path: &str| format!("http://127.0.0.1:{port}{path}");
    for path in ["/startz", "/livez"] {
        let (code, _) = curl(world, &[&page(path)]).await?;
        ensure!(code == 200, "{path}: {code}");
    }
    eventually("archiving is well again", async || {
        let (code, ready) = curl(world, &[&page("/readyz")]).await?;
        ensure!(code == 200 && ready["ready"] == true, "{code} {ready:#}");
        Ok(())
    })
    .await?;
    let mut command = world.command("curl");
    command.args(["--silent", &page("/metrics")]);
    let metrics = world.run(command).await?.success()?.stdout;
    for line in [
        "holdfast_postgres_up 1",
        "holdfast_postgres_primary 1",
        "holdfast_postgres_archiving 1",
        "holdfast_wal_lag_bytes ",
        "holdfast_backup_failures_total 0",
        "holdfast_backup_size_bytes{of=\"stored\"} ",
        "holdfast_configuration_generation 3",
    ] {
        ensure!(metrics.contains(line), "{line}\n{metrics}");
    }
    Ok(())
}

/// New certificates without a restart, and broken ones.
async fn renewed(world: &World, holdfast: &Holdfast, old: &Authority, port: u16) -> Result<()> {
    let new = Authority::new(world, "renewed").await?;
    new.install()?;
    let client = operator(&new, port);
    eventually("the new certificates are in use", async || {
        client.status().await
    })
    .await?;
    ensure!(
        operator(old, port).status().await.is_err(),
        "the old one still gets in"
    );
    world.write("home/tls.key", "no key")?;
    eventually("the broken key is told", async || {
        let report = client.status().await?;
        let error = report["configurationError"].as_str().context("not yet")?;
        ensure!(error.contains("tls.key holds no private key"), "{error}");
        Ok(())
    })
    .await?;
    new.install()?;
    eventually("all is well again", async || {
        let report = report(world, holdfast).await?;
        ensure!(report["configurationError"].is_null(), "{report:#}");
        Ok(())
    })
    .await
}

/// New settings and credentials without a restart, and broken ones.
async fn reloaded(world: &World, holdfast: &Holdfast, primary: &Postgres) -> Result<()> {
    let text = std::fs::read_to_string(holdfast.config())?;
    let name = "home/primary.yaml";
    ensure!(world.path(name) == holdfast.config());
    world.write(name, text.replace("generation: 3", "generation: 4"))?;
    eventually("the new settings are in use", async || {
        let report = report(world, holdfast).await?;
        ensure!(report["configurationGeneration"] == 4, "{report:#}");
        Ok(())
    })
    .await?;
    world.write(name, text.replace("generation: 3", "generation: 5\nusr: x"))?;
    eventually("the bad ones are told", async || {
        let report = report(world, holdfast).await?;
        let error = report["configurationError"].as_str().context("not yet")?;
        ensure!(error.contains("unknown field \"usr\""), "{error}");
        ensure!(report["configurationGeneration"] == 4, "{report:#}");
        Ok(())
    })
    .await?;
    world.write(name, text.replace("generation: 3", "generation: 6"))?;

    // The store's password is changed here, and then there.
    let secret = std::fs::read(world.path("home/secret-key"))?;
    world.write("home/secret-key", "another")?;
    eventually("what is archived is refused", async || {
        primary
            .execute("INSERT INTO t VALUES (1); SELECT pg_switch_wal()")
            .await?;
        let report = report(world, holdfast).await?;
        let reason = report["wal"]["lastFailure"]["reason"]
            .as_str()
            .context("not yet")?;
        ensure!(reason.contains("check the credentials"), "{reason}");
        Ok(())
    })
    .await?;
    world.write("home/secret-key", secret)?;
    eventually("it is archived", async || {
        let report = report(world, holdfast).await?;
        ensure!(report["configurationGeneration"] == 6, "{report:#}");
        ensure!(report["wal"]["lastFailure"].is_null(), "{report:#}");
        ensure!(report["wal"]["readyCount"] == 0, "{report:#}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn archiving_is_set_up_in_sql_where_nobody_has() -> Result<()> {
    World::scenario("alter", async |world| {
        let mut primary = world
            .postgres("primary", 17)
            .segment_mib(1)
            .set("archive_mode", "off")
            .create()
            .await?;
        let holdfast = world
            .holdfast("shop/orders", &primary)
            .filesystem("backups")?
            .build()?;
        let variables = [("HOLDFAST_CONFIGURE", "AlterSystem")];
        let mut daemon = sidecar(world, &holdfast, &variables).await?;
        eventually("all but the restart is done", async || {
            let report = report(world, &holdfast).await?;
            let off = report["postgres"]["archivingOff"].as_str().context("it is off")?;
            ensure!(off == "archive_mode: off until Postgres is restarted, mend it with: restart Postgres", "{off}");
            ensure!(report["postgres"]["pendingRestart"] == json!(["archive_mode"]), "{report:#}");
            Ok(())
        })
        .await?;
        primary.restart().await?;
        let ledger = holdfast_e2e::Ledger::create(&primary).await?;
        ledger.write(&primary, 20).await?;
        eventually("it archives", async || {
            primary.execute("SELECT pg_switch_wal()").await?;
            let report = report(world, &holdfast).await?;
            ensure!(report["postgres"]["archivingOff"].is_null(), "{report:#}");
            ensure!(report["wal"]["archivedCount"].as_u64() > Some(1), "{report:#}");
            Ok(())
        })
        .await?;
        let restore = primary.value("SHOW restore_command").await?;
        ensure!(restore.ends_with("restore %f %p"), "{restore}");

        // A standby's server tells as much, and can't switch.
        let standby = primary.standby("standby").await?;
        let second = holdfast.also_for(&standby).build()?;
        let mut second_daemon = sidecar(world, &second, &variables).await?;
        let told = report(world, &second).await?;
        ensure!(told["postgres"]["role"] == "Standby", "{told:#}");
        ensure!(told["wal"]["lag"].is_null(), "{told:#}");
        let (code, answer) = here(world, &second, "POST", "/v1/switch-wal", "{}").await?;
        ensure!(code == 422, "{code} {answer}");
        second_daemon.stop(Signal::TERM).await?;

        // What somebody sets is left alone.
        daemon.stop(Signal::TERM).await?;
        let theirs = "test -e %p";
        primary
            .execute(&format!("ALTER SYSTEM SET archive_command = '{theirs}'"))
            .await?;
        primary.reload().await?;
        let mut daemon = sidecar(world, &holdfast, &variables).await?;
        eventually("it is told", async || {
            let report = report(world, &holdfast).await?;
            let off = report["postgres"]["archivingOff"].as_str().context("it is off")?;
            ensure!(off.contains("which somebody else has set: it is not overwritten"), "{off}");
            Ok(())
        })
        .await?;
        ensure!(primary.value("SHOW archive_command").await? == theirs);
        daemon.stop(Signal::TERM).await?;
        Ok(())
    })
    .await
}

/// Segments that wait, and that are in the repository.
async fn waiting(primary: &Postgres) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(primary.dir().join("pg_wal/archive_status"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".ready").map(str::to_owned));
    }
    Ok(names)
}

async fn stored(holdfast: &Holdfast, names: &[String]) -> Result<usize> {
    let keys = holdfast.objects()?.keys("/wal/").await?;
    let there = |name: &&String| keys.iter().any(|key| key.ends_with(&format!("/{name}")));
    Ok(names.iter().filter(there).count())
}

#[tokio::test]
async fn what_a_stopped_server_has_left_behind_is_archived() -> Result<()> {
    World::scenario("drain", async |world| {
        for (name, shutdown) in [("fast", Some(Shutdown::Fast)), ("killed", None)] {
            let mut primary = world.postgres(name, 17).segment_mib(1).create().await?;
            let (mut minio, bucket) = bucket(world).await?;
            let holdfast = world
                .holdfast(&format!("shop/{name}"), &primary)
                .s3(&bucket)
                .build()?;
            let mut daemon =
                sidecar(world, &holdfast, &[("HOLDFAST_GRACE_SECONDS", "100")]).await?;
            primary.archive_with(&holdfast).await?;
            let mut ledger = holdfast_e2e::Ledger::create(&primary).await?;
            holdfast.backup().await?;
            primary.archive_all().await?;
            minio.daemon()?.pause()?;
            for _ in 0..20 {
                ledger.write(&primary, 2).await?;
                primary.execute("SELECT pg_switch_wal()").await?;
            }
            ledger.read_wal(&primary).await?;
            match shutdown {
                Some(how) => primary.stop(how).await?,
                None => primary.kill9().await?,
            }
            let left = waiting(&primary).await?;
            ensure!(left.len() >= 20, "{left:?}");
            minio.daemon()?.resume()?;
            let status = daemon.stop(Signal::TERM).await?;
            ensure!(status.success(), "{status}\n{}", daemon.tail());
            let there = stored(&holdfast, &left).await?;
            ensure!(
                there == left.len(),
                "{there} of {}\n{}",
                left.len(),
                daemon.tail()
            );

            // The server archives the same again when it starts, and goes on.
            let mut daemon = sidecar(world, &holdfast, &[]).await?;
            primary.start().await?;
            ledger.write(&primary, 5).await?;
            primary.archive_all().await?;
            ledger.read_wal(&primary).await?;
            let info = holdfast.info().await?;
            ensure!(info["timelines"][0]["gaps"] == json!([]), "{info:#}");
            let mut restored = world
                .restored(&format!("{name}-restored"), 17, &holdfast, &[], &[])
                .await?;
            restored.postgres.start().await?;
            restored.postgres.wait_promoted().await?;
            let all = ledger.expected(1, &holdfast_e2e::Target::Latest, false)?;
            holdfast_e2e::Ledger::compare(&restored.postgres, &all).await?;
            // Beside a server that lives nothing is left behind.
            daemon.stop(Signal::TERM).await?;
            ensure!(
                daemon.log().matches("Postgres has stopped").count() == 1,
                "{}",
                daemon.tail()
            );
            minio.stop().await?;
        }
        Ok(())
    })
    .await
}

/// `holdfast check` against a server whose pg_hba.conf has this line for TCP.
async fn check(
    world: &World,
    primary: &Postgres,
    config: &Path,
    line: &str,
) -> Result<(bool, String)> {
    let hba = format!("local all all trust\n{line} all all 127.0.0.0/8 trust\n");
    std::fs::write(primary.dir().join("pg_hba.conf"), hba)?;
    primary.reload().await?;
    let mut command = world.command(image(world)?);
    command.arg("--config").arg(config).arg("check");
    let output = world.run(command).await?;
    let answers = output
        .stdout
        .lines()
        .any(|l| l.starts_with("ok       postgres:"));
    Ok((answers, output.stdout))
}

#[tokio::test]
async fn sessions_are_encrypted_as_asked_for() -> Result<()> {
    World::scenario("ssl", async |world| {
        // An address of its own: every world's server has the same port.
        let number: u32 = world
            .dir()
            .to_string_lossy()
            .rsplit('-')
            .next()
            .context("a number")?
            .parse()?;
        let address = format!("127.{}.{}.1", number >> 8 & 255, number & 255);
        let certificate = world.path("home/server.crt");
        let key = world.path("home/server.key");
        let mut openssl = world.command("openssl");
        openssl
            .args(
                "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=postgres -keyout".split(' '),
            )
            .arg(&key)
            .arg("-out")
            .arg(&certificate);
        world.run(openssl).await?.success()?;
        for major in [14, 18] {
            let name = format!("primary{major}");
            let mut primary = world
                .postgres(&name, major)
                .set("listen_addresses", &address)
                .set("ssl", "on")
                .set("ssl_cert_file", &certificate.to_string_lossy())
                .set("ssl_key_file", &key.to_string_lossy())
                .create()
                .await?;
            let holdfast = world
                .holdfast("shop/orders", &primary)
                .filesystem(&format!("backups{major}"))?
                .build()?;
            let text = std::fs::read_to_string(holdfast.config())?;
            let host = format!("host: \"{}\"", primary.host().display());
            for (line, mode, expected) in [
                ("hostssl", "disable", false),
                ("hostssl", "prefer", true),
                ("hostssl", "require", true),
                ("hostnossl", "disable", true),
                ("hostnossl", "prefer", true),
                ("hostnossl", "require", false),
            ] {
                let tcp = format!("host: \"{address}\", sslMode: {mode}");
                let config = world.write("home/tcp.yaml", text.replace(&host, &tcp))?;
                let (answers, told) = check(world, &primary, &config, line).await?;
                ensure!(answers == expected, "{line} {mode}:\n{told}");
            }
            // A server without TLS: prefer does without.
            primary.configure(&[("ssl", "off")]).await?;
            for (mode, expected) in [("prefer", true), ("require", false)] {
                let tcp = format!("host: \"{address}\", sslMode: {mode}");
                let config = world.write("home/tcp.yaml", text.replace(&host, &tcp))?;
                let (answers, told) = check(world, &primary, &config, "host").await?;
                ensure!(answers == expected, "without TLS, {mode}:\n{told}");
            }
            // Over the Unix socket nothing is encrypted, whatever is asked for.
            let local = format!("{host}, sslMode: require");
            let config = world.write("home/local.yaml", text.replace(&host, &local))?;
            let (answers, told) = check(world, &primary, &config, "host").await?;
            ensure!(answers, "{told}");
            primary.stop(Shutdown::Fast).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn bootstrap_keeps_no_database_from_starting_and_makes_none_it_was_not_to() -> Result<()> {
    World::scenario("bootstrap", async |world| {
        let primary = world.postgres("primary", 17).create().await?;
        let system = primary.value("SELECT system_identifier FROM pg_control_system()").await?;
        let empty = world.make_dir("empty")?;
        // Settings that can't be read are the sidecar's to tell; but they may say that an empty directory is restored.
        let run = async |directory: &Path| {
            let mut command = world.command(image(world)?);
            command.arg("bootstrap").env("HOLDFAST_DATA_DIRECTORY", directory).env("HOLDFAST_CONFIG", "/nowhere");
            world.run(command).await
        };
        let found = run(primary.dir()).await?.success()?;
        let expected = format!(
            "holdfast: {} is a data directory of Postgres 17 with system identifier {system}, in production, on timeline 1\n",
            primary.dir().display()
        );
        ensure!(found.stdout == expected, "{}", found.stdout);
        for directory in [&empty, &world.path("nowhere")] {
            let refused = run(directory).await?.expect_code(3)?;
            ensure!(refused.stderr.contains("/nowhere"), "{}", refused.stderr);
        }
        ensure!(std::fs::read_dir(&empty)?.next().is_none());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn wal_that_piles_up_is_told_with_the_time_until_its_disk_is_full() -> Result<()> {
    World::scenario("piles-up", async |world| {
        let disk = world.small_disk("disk", 400).await?;
        let mut primary = world
            .postgres("primary", 17)
            .segment_mib(1)
            .create()
            .await?;
        primary.stop(Shutdown::Fast).await?;
        let pg_wal = primary.dir().join("pg_wal");
        let mut copy = world.command("cp");
        copy.arg("-a").arg(&pg_wal).arg(&disk);
        world.run(copy).await?.success()?;
        std::fs::remove_dir_all(&pg_wal)?;
        std::os::unix::fs::symlink(disk.join("pg_wal"), &pg_wal)?;
        primary.start().await?;
        let port = free_port()?;
        let holdfast = world
            .holdfast("shop/orders", &primary)
            .filesystem("backups")?
            .line(&format!("monitoring: {{listen: \"127.0.0.1:{port}\"}}"))
            .build()?;
        let sidecar = holdfast.sidecar().await?;
        primary.archive_with(&holdfast).await?;
        primary.archive_all().await?;
        let page = |path: &str| format!("http://127.0.0.1:{port}{path}");
        let metrics = async || {
            let mut command = world.command("curl");
            command.args(["--silent", &page("/metrics")]);
            Ok::<_, anyhow::Error>(world.run(command).await?.success()?.stdout)
        };
        let page_now = metrics().await?;
        ensure!(
            page_now.contains("\nholdfast_wal_volume_available_bytes ")
                && !page_now.contains("\nholdfast_wal_volume_full_seconds "),
            "{page_now}"
        );
        let (store, away) = (world.path("backups"), world.path("away"));
        std::fs::rename(&store, &away)?;
        std::fs::write(&store, "in the way")?;
        eventually("it is told", async || {
            // A segment.
            primary
                .execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000))")
                .await?;
            let (code, ready) = curl(world, &[&page("/readyz")]).await?;
            ensure!(
                code == 503 && ready.to_string().contains("pg_wal is full within"),
                "{code} {ready:#}"
            );
            Ok(())
        })
        .await?;
        let page_now = metrics().await?;
        ensure!(
            page_now.contains("\nholdfast_wal_volume_full_seconds "),
            "{page_now}"
        );
        std::fs::remove_file(&store)?;
        std::fs::rename(&away, &store)?;
        primary.archive_all().await?;
        eventually("all is well again", async || {
            let (code, ready) = curl(world, &[&page("/readyz")]).await?;
            ensure!(code == 200, "{code} {ready:#}");
            Ok(())
        })
        .await?;
        ensure!(
            !metrics()
                .await?
                .contains("\nholdfast_wal_volume_full_seconds ")
        );
        sidecar.stop().await
    })
    .await
}
