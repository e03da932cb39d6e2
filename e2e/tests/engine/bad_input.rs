//! What people get wrong: one clear line, a stable exit code, and nothing is changed.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::holdfast::Builder;
use holdfast_e2e::{Holdfast, Ledger, Minio, Output, Postgres, Sidecar, Snapshot, World};
use jiff::ToSpan;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A server with a backup and WAL past it in a folder, encrypted.
struct Kept {
    world: World,
    postgres: Postgres,
    holdfast: Holdfast,
    _sidecar: Sidecar,
    ledger: Ledger,
    tablespace: u32,
}

impl Kept {
    async fn make(world: &World) -> Result<Self> {
        let postgres = world
            .postgres("primary", 17)
            .segment_mib(1)
            .create()
            .await?;
        let holdfast = world
            .holdfast("shop/orders", &postgres)
            .filesystem("backups")?
            .encrypted()?
            // Nothing is to change here but by what is refused.
            .line("wal: {streaming: {intervalSeconds: 0}}")
            .build()?;
        let sidecar = holdfast.sidecar().await?;
        postgres.archive_with(&holdfast).await?;
        let (tablespace, _) = postgres.tablespace("space").await?;
        let mut ledger = Ledger::create_in(&postgres, "space").await?;
        ledger.write(&postgres, 10).await?;
        holdfast.backup().await?;
        ledger.write(&postgres, 20).await?;
        postgres.restore_point("known").await?;
        postgres.archive_all().await?;
        ledger.read_wal(&postgres).await?;
        Ok(Self {
            world: world.clone(),
            postgres,
            holdfast,
            _sidecar: sidecar,
            ledger,
            tablespace,
        })
    }

    /// Other settings for the same server, with a socket of their own.
    fn settings(&self, instance: &str) -> Builder {
        self.holdfast.settings().instance(instance)
    }

    /// Runs a command that must be refused like this, and looks whether anything has changed.
    async fn refused(
        &self,
        holdfast: &Holdfast,
        words: &[&str],
        code: i32,
        says: &[&str],
    ) -> Result<()> {
        let unchanged = [
            Snapshot::of(&self.world.path("backups"))?,
            Snapshot::of(&self.world.path("places"))?,
            Snapshot::of(&self.postgres.dir().join("base"))?,
        ];
        let output = holdfast.run(words).await?;
        ensure_refused(&output, code, says).with_context(|| format!("holdfast {words:?}"))?;
        for snapshot in &unchanged {
            snapshot
                .ensure_unchanged()
                .with_context(|| format!("holdfast {words:?}"))?;
        }
        Ok(())
    }

    /// `restore` to a new place that must be refused.
    async fn restore_refused(&self, words: &[&str], code: i32, says: &[&str]) -> Result<()> {
        let to = self.world.path("places/new");
        let mut all = self.restore_words(&to);
        all.extend(words.iter().map(|word| (*word).to_owned()));
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        self.refused(&self.holdfast, &all, code, says).await
    }

    fn restore_words(&self, to: &Path) -> Vec<String> {
        let space = self.world.path("places/space");
        vec![
            "restore".to_owned(),
            "--to".to_owned(),
            to.display().to_string(),
            "--tablespace".to_owned(),
            format!("{}={}", self.tablespace, space.display()),
        ]
    }
}

fn ensure_refused(output: &Output, code: i32, says: &[&str]) -> Result<()> {
    ensure!(
        output.code == code,
        "exit {} and not {code}: {}{}",
        output.code,
        output.stdout,
        output.stderr
    );
    ensure!(
        output.stderr.lines().count() == 1 && output.stderr.starts_with("holdfast: "),
        "not one line that begins with the program's name: {}",
        output.stderr
    );
    for part in says {
        ensure!(
            output.stderr.contains(part),
            "it does not say {part:?}: {}",
            output.stderr
        );
    }
    Ok(())
}

#[tokio::test]
async fn targets_that_cannot_be_reached() -> Result<()> {
    World::scenario("targets", async |world| {
        world.make_dir("places")?;
        let kept = Kept::make(world).await?;
        let events = kept.ledger.events(1)?;
        let last = events
            .iter()
            .map(|event| event.time.to_jiff())
            .max()
            .context("events")?;
        let after = (last + 1.hour()).to_string();
        let before = (last - 24.hours()).to_string();
        for (words, says) in [
            (vec!["--target-time", &before], &["before", "between"][..]),
            (vec!["--target-time", &after], &["after", "between"][..]),
            (vec!["--target-lsn", "0/1000"], &["0/1000"][..]),
            (vec!["--target-lsn", "FF/0"], &["FF/0"][..]),
            (vec!["--target-xid", "4000000000"], &["4000000000"][..]),
            (vec!["--target-name", "unknown"], &["unknown"][..]),
            (vec!["--timeline", "7"], &["7"][..]),
            (
                vec!["--backup", "20200101T000000Z-aaaaaa"],
                &["20200101T000000Z-aaaaaa"][..],
            ),
        ] {
            // Nor with words that only look.
            kept.restore_refused(&words, 3, says).await?;
            let mut look = words.clone();
            look.push("--dry-run");
            kept.restore_refused(&look, 3, says).await?;
        }
        for (words, says) in [
            (
                vec!["--target-time", &before, "--target-lsn", "0/1"],
                &["--target-time", "--target-lsn"][..],
            ),
            (
                vec!["--target", "latest", "--target-name", "known"],
                &["--target-name"][..],
            ),
            (
                vec!["--backup", "../../archive.json"],
                &["../../archive.json"][..],
            ),
            (vec!["--target-time", "yesterday"], &["yesterday"][..]),
            (
                vec!["--target-time", "2026-11-20T10:00:00"],
                &["time zone"][..],
            ),
            (vec!["--target-lsn", "here"], &["here"][..]),
            (vec!["--target-xid", "2"], &["2"][..]),
            (vec!["--target-name", ""], &["name"][..]),
            (vec!["--exclusive"], &["--exclusive"][..]),
            (
                vec!["--target-name", "known", "--exclusive"],
                &["--exclusive"][..],
            ),
            (vec!["--timeline", "zero"], &["zero"][..]),
            (vec!["--action", "explode"], &["explode", "promote"][..]),
            (vec!["--tablespace", "1"], &["OID=DIR"][..]),
            (vec!["--unknown"], &["--unknown"][..]),
        ] {
            kept.restore_refused(&words, 64, says).await?;
        }
        // A dry run of what can be done makes nothing either.
        let before = Snapshot::of(&world.path("places"))?;
        let mut words = kept.restore_words(&world.path("places/new"));
        words.extend(["--dry-run", "--target-name", "known"].map(str::to_owned));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        kept.holdfast.run(&words).await?.success()?;
        before.ensure_unchanged()
    })
    .await
}

#[tokio::test]
async fn places_that_cannot_be_restored_to() -> Result<()> {
    World::scenario("places", async |world| {
        let places = world.make_dir("places")?;
        let kept = Kept::make(world).await?;
        world.make_dir("places/letters")?;
        world.write("places/letters/letter", "dear")?;
        world.write("places/file", "a file")?;
        world.make_dir("places/closed")?;
        std::fs::set_permissions(
            world.path("places/closed"),
            std::fs::Permissions::from_mode(0o500),
        )?;
        world.make_dir("places/database")?;
        world.write("places/database/PG_VERSION", "17\n")?;
        world.make_dir("places/space-in-use")?;
        world.write("places/space-in-use/letter", "dear")?;
        let overwrite = ["--overwrite"];
        for (place, words, says) in [
            ("letters", &[][..], "not empty"),
            ("letters", &overwrite[..], "not a database"),
            ("database", &[][..], "--overwrite"),
            ("file", &overwrite[..], "not a directory"),
            ("no/where", &[][..], "does not exist"),
            ("closed/data", &[][..], "can't write"),
        ] {
            let to = places.join(place);
            let mut all = kept.restore_words(&to);
            all.extend(words.iter().map(|word| (*word).to_owned()));
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            let parent = place.trim_end_matches("/data");
            kept.refused(&kept.holdfast, &all, 3, &[says, parent])
                .await?;
        }
        // Where a server runs.
        let all = kept.restore_words(kept.postgres.dir());
        let mut all: Vec<&str> = all.iter().map(String::as_str).collect();
        all.push("--overwrite");
        kept.refused(&kept.holdfast, &all, 3, &["running", "stop it"])
            .await?;
        ensure!(kept.postgres.value("SELECT 1").await? == "1");
        // Tablespaces: the source's own folder, one in use, one that is none of the backup's.
        let to = places.join("new").display().to_string();
        let oid = kept.tablespace;
        let in_use = format!("{oid}={}", world.path("places/space-in-use").display());
        let none = format!("999={}", world.path("places/space").display());
        let fits = format!("{oid}={}", world.path("places/space").display());
        for (words, says) in [
            (vec!["restore", "--to", &to], &*oid.to_string()),
            (
                vec!["restore", "--to", &to, "--tablespace", &in_use],
                "space-in-use",
            ),
            (
                vec![
                    "restore",
                    "--to",
                    &to,
                    "--tablespace",
                    &fits,
                    "--tablespace",
                    &none,
                ],
                "999",
            ),
        ] {
            kept.refused(&kept.holdfast, &words, 3, &[says]).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn keys_that_are_wrong_or_lost() -> Result<()> {
    World::scenario("keys", async |world| {
        world.make_dir("places")?;
        let kept = Kept::make(world).await?;
        let to = world.path("places/new").display().to_string();
        let everything = [
            vec!["backup"],
            vec!["info"],
            vec!["verify"],
            vec!["restore", "--to", &to],
        ];
        // Another key of the same name, one of another name, none, and none where one was.
        let wrong = world.write(
            "home/wrong",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        )?;
        let yaml = kept.settings("wrong").yaml()?;
        let key = world.path("home/key-k1").display().to_string();
        let with = |name: &str, from: &str, to: &str| -> Result<Holdfast> {
            let holdfast = kept.settings(name).build()?;
            world.write(
                &format!("home/{name}.yaml"),
                yaml.replace("/run/wrong/", &format!("/run/{name}/"))
                    .replace(from, to),
            )?;
            Ok(holdfast)
        };
        let same_name = with("same", &key, &wrong.display().to_string())?;
        let other_name = kept.settings("other").without_keys().key("k2")?.build()?;
        let none = kept.settings("none").without_keys().build()?;
        for words in &everything {
            kept.refused(&same_name, words, 3, &["k1"]).await?;
            kept.refused(&other_name, words, 3, &["k1", "k2"]).await?;
            kept.refused(&none, words, 3, &["encrypted", "keyFiles"])
                .await?;
        }
        let output = none.wal(&["archive", "x", "pg_wal/x"]).await?;
        ensure!(output.code == 1, "{}", output.stderr);
        for (name, content, says) in [
            ("short", "c2hvcnQ=\n", "32"),
            ("letters", "not base64!\n", "base64"),
            ("empty", "", "empty"),
        ] {
            let file = world.write(&format!("home/key-{name}"), content)?;
            let broken = with(name, &key, &file.display().to_string())?;
            kept.refused(&broken, &["info"], 3, &[says, &format!("key-{name}")])
                .await?;
        }
        let gone = with("gone", &key, &world.path("home/gone").display().to_string())?;
        kept.refused(&gone, &["info"], 3, &["home/gone"]).await?;
        // A key where nothing is encrypted.
        let plain = kept
            .settings("plain")
            .archive("shop/plain")
            .without_keys()
            .build()?;
        let sidecar = plain.sidecar().await?;
        kept.postgres.archive_with(&plain).await?;
        plain.backup().await?;
        sidecar.stop().await?;
        let keyed = kept.settings("keyed").archive("shop/plain").build()?;
        kept.refused(&keyed, &["info"], 3, &["not encrypted"]).await
    })
    .await
}

#[tokio::test]
async fn settings_that_are_wrong() -> Result<()> {
    World::scenario("settings", async |world| {
        world.make_dir("places")?;
        let kept = Kept::make(world).await?;
        let yaml = kept.holdfast.settings().yaml()?;
        for (number, (from, to, says)) in [
            (
                "archive: shop/orders",
                "archive: orders",
                &["1:", "namespace/name"][..],
            ),
            ("archive: shop/orders", "archive: ../orders", &["1:"][..]),
            ("socket:", "sokcet:", &["2:", "sokcet", "socket"][..]),
            (
                "dataDirectory",
                "datadirectory",
                &["3:", "dataDirectory"][..],
            ),
            ("filesystem:", "filesytem:", &["filesystem"][..]),
            ("port: 54", "port: x54", &["3:"][..]),
            ("currentKey: k1", "currentKey: k9", &["k9"][..]),
            (
                "archive: shop/orders",
                "archive: shop/orders\narchive: shop/orders",
                &["archive"][..],
            ),
            (
                "archive: shop/orders",
                "archive: shop/orders\nlimits: {memory: much}",
                &["2:", "much"][..],
            ),
            (
                "archive: shop/orders",
                "archive: shop/orders\nwal: {compression: {algorithm: gzip}}",
                &["gzip", "zstd"][..],
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("wrong-{number}");
            ensure!(yaml.contains(from), "{from} is not in {yaml}");
            let holdfast = kept.settings(&name).build()?;
            world.write(&format!("home/{name}.yaml"), yaml.replacen(from, to, 1))?;
            kept.refused(&holdfast, &["backup"], 3, says).await?;
            kept.refused(&holdfast, &["sidecar"], 3, says).await?;
        }
        let holdfast = kept.settings("no-file").build()?;
        std::fs::remove_file(holdfast.config())?;
        kept.refused(&holdfast, &["info"], 3, &["no-file.yaml"])
            .await?;
        for words in [
            &[][..],
            &["bakup"],
            &["backup", "--type", "sometimes"],
            &["restore"],
            &["info", "--jsn"],
        ] {
            kept.refused(&kept.holdfast, words, 64, &[]).await?;
        }
        kept.refused(
            &kept.holdfast,
            &["verify", "--backup", "20200101T000000Z-aaaaaa"],
            3,
            &["20200101T000000Z-aaaaaa"],
        )
        .await
    })
    .await
}

#[tokio::test]
async fn data_directories_that_are_none() -> Result<()> {
    World::scenario("directories", async |world| {
        world.make_dir("places")?;
        let kept = Kept::make(world).await?;
        let named = |name: &str, path: &Path| kept.settings(name).data_directory(path).build();
        let missing = named("missing", &world.path("places/missing"))?;
        kept.refused(&missing, &["backup"], 3, &["places/missing"])
            .await?;

        let closed = world.make_dir("places/closed")?;
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000))?;
        let closed = named("closed", &closed)?;
        kept.refused(&closed, &["backup"], 3, &["places/closed"])
            .await?;

        let empty = named("empty", &world.make_dir("places/empty")?)?;
        kept.refused(&empty, &["backup"], 3, &["places/empty"])
            .await?;

        // pg_control of Postgres 12 says so in its second number.
        world.make_dir("places/old/global")?;
        let mut control = std::fs::read(kept.postgres.dir().join("global/pg_control"))?;
        control
            .get_mut(8..12)
            .context("a pg_control")?
            .copy_from_slice(&1201_u32.to_le_bytes());
        world.write("places/old/global/pg_control", &control)?;
        world.write("places/old/PG_VERSION", "12\n")?;
        let old = named("old", &world.path("places/old"))?;
        kept.refused(&old, &["backup"], 3, &["pg_control", "14"])
            .await?;

        // Another server's directory, and a server that does not answer.
        let mut other = world.postgres("other", 16).create().await?;
        let mixed = named("mixed", other.dir())?;
        kept.refused(&mixed, &["backup"], 3, &["system identifier"])
            .await?;
        let theirs = kept.holdfast.also_for(&other).build()?;
        other.archive_with(&theirs).await?;
        kept.refused(&theirs, &["backup"], 3, &["acceptSystemIdentifier"])
            .await?;
        other.stop(holdfast_e2e::Shutdown::Fast).await?;
        let output = theirs.run(&["backup"]).await?;
        ensure_refused(&output, 1, &["connect"])?;

        // What a sidecar is asked to archive from there.
        // Such a call is patient, so one stands for all.
        {
            let holdfast = &missing;
            let sidecar = holdfast.sidecar().await?;
            let mut command =
                world.command(std::fs::canonicalize(holdfast_e2e::parts::holdfast_wal()?)?);
            command.arg("--socket").arg(holdfast.socket()).args([
                "archive",
                "000000010000000000000001",
                "pg_wal/000000010000000000000001",
            ]);
            let output = world.run(command).await?;
            ensure!(
                output.code == 1 && output.stderr.lines().count() == 1,
                "{}: {}",
                output.code,
                output.stderr
            );
            sidecar.stop().await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn sockets_that_cannot_be_served() -> Result<()> {
    World::scenario("sockets", async |world| {
        world.make_dir("places")?;
        let kept = Kept::make(world).await?;
        kept.refused(&kept.holdfast, &["sidecar"], 3, &["already served"])
            .await?;
        let long = kept.settings(&"x".repeat(100)).build()?;
        kept.refused(&long, &["sidecar"], 3, &["107", "socket"])
            .await?;
        let output = long.wal(&["archive", "x", "pg_wal/x"]).await?;
        ensure!(
            output.code == 1 && output.stderr.contains("107"),
            "{}",
            output.stderr
        );
        let taken = kept.settings("taken").build()?;
        world.write("run/taken/wal.sock", "a letter")?;
        kept.refused(&taken, &["sidecar"], 3, &["not a socket"])
            .await?;
        // What a killed one left is no obstacle.
        let again = kept.settings("again").build()?;
        again.sidecar().await?.kill9().await?;
        ensure!(again.socket().exists());
        again.sidecar().await?.stop().await?;
        ensure!(!again.socket().exists());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn repositories_that_are_not_there_or_not_ours() -> Result<()> {
    World::scenario("repositories", async |world| {
        world.make_dir("places")?;
        let kept = Kept::make(world).await?;
        let nowhere = kept.settings("nowhere").archive("shop/nothing").build()?;
        for words in [
            &["info"][..],
            &["verify"],
            &["restore", "--to", "places/new"],
        ] {
            kept.refused(&nowhere, words, 3, &["shop/nothing", "no archive"])
                .await?;
        }
        let gone = kept.settings("gone").filesystem("gone")?.build()?;
        std::fs::remove_dir(world.path("gone"))?;
        for words in [
            &["info"][..],
            &["backup"],
            &["restore", "--to", "places/new"],
        ] {
            let output = gone.run(words).await?;
            ensure!(
                (output.code == 2 || output.code == 3)
                    && output.stderr.contains("gone")
                    && output.stderr.lines().count() == 1,
                "{words:?} ended with {}: {}",
                output.code,
                output.stderr
            );
            ensure!(!world.path("gone").exists());
        }
        // A newer format: every object that carries one.
        let objects = kept.holdfast.objects()?;
        for key in [
            "archive.json".to_owned(),
            objects.key("/identity.json").await?,
        ] {
            let content = objects.get(&key).await?;
            let text = String::from_utf8(content.clone())?;
            let newer = text.replace("\"oldestReader\": 1", "\"oldestReader\": 99");
            ensure!(newer != text, "{text}");
            objects.put(&key, newer.as_bytes()).await?;
            for words in [
                &["info"][..],
                &["backup"],
                &["verify"],
                &["restore", "--to", "places/new"],
            ] {
                kept.refused(&kept.holdfast, words, 3, &["newer holdfast", &key])
                    .await?;
            }
            objects.put(&key, &content).await?;
        }
        kept.holdfast.run(&["info"]).await?.success()?;
        Ok(())
    })
    .await
}

/// Answers every request as S3 does where the clocks are too far apart. MinIO can't be told another time than the machine's.
async fn skewed() -> Result<(u16, tokio::task::JoinHandle<()>)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let task = tokio::spawn(async move {
        let body = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and the current time is too large.</Message></Error>";
        let answer = format!(
            "HTTP/1.1 403 Forbidden\r\ncontent-type: application/xml\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 64 << 10];
            // What a client has sent so far is enough to answer it.
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Ok((port, task))
}

#[tokio::test]
async fn buckets_that_do_not_let_us() -> Result<()> {
    World::scenario("buckets", async |world| {
        world.make_dir("places")?;
        let kept = Kept::make(world).await?;
        let mut minio = Minio::start(world).await?;
        let bucket = minio.bucket("right")?;
        let to = world.path("places/new").display().to_string();
        let everything = [
            vec!["backup"],
            vec!["info"],
            vec!["verify"],
            vec!["restore", "--to", &to],
        ];
        let in_s3 = |name: &str| kept.settings(name).s3(&bucket).without_keys();
        let right = in_s3("right").build()?;
        let sidecar = right.sidecar().await?;
        kept.postgres.archive_with(&right).await?;
        right.backup().await?;
        sidecar.stop().await?;

        kept.ledger.write(&kept.postgres, 5).await?;
        let segment = kept
            .postgres
            .value("SELECT pg_walfile_name(pg_switch_wal())")
            .await?;
        let yaml = in_s3("wrong").yaml()?;
        let wrong_secret = world.write("home/wrong-secret", "not the secret")?;
        let (port, skewed) = skewed().await?;
        for (name, from, to, code, says) in [
            (
                "bucket",
                "bucket: right".to_owned(),
                "bucket: wrong".to_owned(),
                3,
                "wrong",
            ),
            (
                "secret",
                world.path("home/secret-key").display().to_string(),
                wrong_secret.display().to_string(),
                3,
                "credentials",
            ),
            (
                "skewed",
                bucket.endpoint.clone(),
                format!("http://127.0.0.1:{port}"),
                3,
                "clock",
            ),
        ] {
            let holdfast = in_s3(name).build()?;
            let text = yaml.replace("/run/wrong/", &format!("/run/{name}/"));
            ensure!(text.contains(&from));
            world.write(&format!("home/{name}.yaml"), text.replace(&from, &to))?;
            for words in &everything {
                let output = holdfast.run(words).await?;
                ensure_refused(&output, code, &[says])
                    .with_context(|| format!("{name}: {words:?}"))?;
            }
            if name != "secret" {
                // One is enough: an archive call is patient.
                continue;
            }
            let sidecar = holdfast.sidecar().await?;
            let output = holdfast
                .wal(&["archive", &segment, &format!("pg_wal/{segment}")])
                .await?
                .expect_code(1)?;
            ensure!(
                output.stderr.lines().count() == 1 && output.stderr.contains(says),
                "{name}: {}",
                output.stderr
            );
            sidecar.stop().await?;
        }
        skewed.abort();
        minio.stop().await?;
        for words in &everything {
            let output = right.run(words).await?;
            ensure_refused(&output, 2, &["s3://right"])
                .with_context(|| format!("down: {words:?}"))?;
        }
        ensure!(!world.path("places/new").exists());
        Ok(())
    })
    .await
}
