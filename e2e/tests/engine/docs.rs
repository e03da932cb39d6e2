//! README and `docs/` tell the truth: their blocks marked `sh` are run, page by page, in a prepared world; their links
//! lead somewhere; their flags are the program's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use holdfast_e2e::{Bucket, Holdfast, Minio, Postgres, World, parts};

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(page: &str) -> Result<String> {
    std::fs::read_to_string(root().join(page)).with_context(|| page.to_owned())
}

/// All pages for people.
fn pages() -> Result<Vec<String>> {
    let mut pages = vec![];
    for folder in ["", "docs/", "bench/"] {
        for entry in std::fs::read_dir(root().join(folder))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".md") {
                pages.push(format!("{folder}{name}"));
            }
        }
    }
    Ok(pages)
}

/// A fenced block: its language, its text, and the line where it begins.
#[derive(Debug, PartialEq)]
struct Block {
    language: String,
    text: String,
    line: usize,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (line, text) in page.lines().enumerate() {
        match (text.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => found.push(block),
            (Some(language), None) => {
                open = Some(Block {
                    language: language.to_owned(),
                    text: String::new(),
                    line: line + 2,
                });
            }
            (None, Some(mut block)) => {
                block.text += text;
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    found
}

/// What pages write, and what it is in a world.
type Names = Vec<(String, String)>;

fn named(text: &str, names: &Names) -> String {
    names.iter().fold(text.to_owned(), |text, (page, world)| {
        text.replace(page, world)
    })
}

/// One script of a page: its `sh` blocks, and the files that its `yaml` blocks name in their first line.
fn script(page: &str, names: &Names) -> (String, Vec<(String, String)>) {
    let mut script = String::new();
    let mut files = Vec::new();
    for Block {
        language,
        text,
        line,
    } in blocks(page)
    {
        let text = named(&text, names);
        match language.as_str() {
            "sh" => {
                script += &format!(": line {line}\n{text}");
                if text.trim_end().ends_with("sidecar &") {
                    // A person takes longer to go on than it takes to begin.
                    script += "until holdfast_is_up; do sleep 0.1; done\n";
                }
            }
            "yaml" => {
                if let Some(path) = text
                    .lines()
                    .next()
                    .and_then(|first| first.strip_prefix("# /"))
                {
                    files.push((format!("/{path}"), text.clone()));
                }
            }
            _ => {}
        }
    }
    (script, files)
}

#[test]
fn blocks_are_found_with_their_places() {
    let page = "a\n```sh\none\ntwo\n```\nb\n```yaml\n# /etc/holdfast/x\ny: 1\n```\n";
    let names = vec![("/etc/holdfast".to_owned(), "/w".to_owned())];
    let (text, files) = script(page, &names);
    assert_eq!(text, ": line 3\none\ntwo\n");
    assert_eq!(files, [("/w/x".to_owned(), "# /w/x\ny: 1\n".to_owned())]);
}

/// A server, a bucket, and the names under which pages speak of them.
struct Prepared {
    postgres: Postgres,
    _minio: Minio,
    bucket: Bucket,
    names: Names,
    socket: PathBuf,
}

async fn prepare(world: &World) -> Result<Prepared> {
    let postgres = world.postgres("main", 17).create().await?;
    let minio = Minio::start(world).await?;
    let bucket = minio.bucket("acme-pg")?;
    let socket = world.path("run/main/wal.sock");
    world.make_dir("run/main")?;
    let shown = |path: &Path| path.display().to_string();
    let names = vec![
        ("/etc/holdfast/".into(), shown(&world.path("home")) + "/"),
        ("/run/holdfast/wal.sock".into(), shown(&socket)),
        ("/var/lib/postgresql/17/main".into(), shown(postgres.dir())),
        (
            "/var/lib/postgresql/17/restored".into(),
            shown(&world.path("restored")),
        ),
        ("/var/run/postgresql".into(), shown(&postgres.host())),
        (
            "https://s3.eu-central-1.amazonaws.com".into(),
            bucket.endpoint.clone(),
        ),
        (
            "/usr/local/bin/holdfast-wal".into(),
            shown(&world.reachable(&parts::holdfast_wal()?)?),
        ),
    ];
    Ok(Prepared {
        postgres,
        _minio: minio,
        bucket,
        names,
        socket,
    })
}

/// Runs a page's script to its end; the sidecar that it starts goes on.
async fn run(world: &World, prepared: &Prepared, page: &str) -> Result<()> {
    let (script, files) = script(&read(page)?, &prepared.names);
    for (path, text) in files {
        let relative = Path::new(&path)
            .strip_prefix(world.dir())
            .context("a page's file is in the world")?
            .to_owned();
        world.write(&relative.to_string_lossy(), text)?;
    }
    let file = world.write(
        "home/page.sh",
        format!(
            "holdfast_is_up() {{ [ -S {} ]; }}\nset -x\n{script}",
            prepared.socket.display()
        ),
    )?;
    let log = world.path("log/page.log");
    let mut command = world.command("bash");
    // The log is a file, for what stays in the background would keep a pipe open.
    command
        .args(["-c", r#"exec bash -euo pipefail "$0" >"$1" 2>&1"#])
        .arg(&file)
        .arg(&log);
    command
        .env("PGHOST", prepared.postgres.host())
        .env("PGPORT", prepared.postgres.port().to_string());
    command
        .env("PGUSER", "postgres")
        .env("PGDATABASE", "postgres");
    command.env("PATH", programs(world)?);
    let output = world.run(command).await?;
    if output.code != 0 {
        bail!(
            "{page}: exit {}\n{}",
            output.code,
            std::fs::read_to_string(&log).unwrap_or_default()
        );
    }
    Ok(())
}

/// `PATH` with the programs under test, psql, and the system's.
fn programs(world: &World) -> Result<String> {
    let folder = world.make_dir("home/bin")?;
    for (name, program) in [
        ("holdfast", world.reachable(&parts::holdfast()?)?),
        ("holdfast-wal", world.reachable(&parts::holdfast_wal()?)?),
    ] {
        let link = folder.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(program, link)?;
        }
    }
    let psql = world.client_program("psql", 17)?;
    let clients = psql.parent().context("a program has a folder")?;
    Ok(format!(
        "{}:{}:/usr/local/bin:/usr/bin:/bin",
        folder.display(),
        clients.display()
    ))
}

/// From nothing to a restored database.
#[tokio::test]
async fn the_readme_s_commands_do_what_it_says() -> Result<()> {
    World::scenario("readme", async |world| {
        let prepared = prepare(world).await?;
        world.write("home/access-key", holdfast_e2e::minio::ACCESS_KEY)?;
        world.write("home/secret-key", holdfast_e2e::minio::SECRET_KEY)?;
        prepared
            .postgres
            .execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
            .await?;
        run(world, &prepared, "README.md").await?;
        let mut restored = world.postgres_on("restored", 17, &world.path("restored"))?;
        restored.option("archive_mode", "off");
        restored.start().await?;
        restored.wait_promoted().await?;
        let rows = restored.value("SELECT count(*) FROM t").await?;
        ensure!(rows == "1000", "{rows} rows came back");
        Ok(())
    })
    .await
}

/// A page that speaks of an archive in use, with a backup and things to restore to.
async fn page(page: &str) -> Result<()> {
    let name = page
        .trim_start_matches("docs/")
        .trim_end_matches(".md")
        .to_owned();
    World::scenario(&format!("docs-{name}"), async |world| {
        let mut prepared = prepare(world).await?;
        let holdfast = world
            .holdfast("shop/orders", &prepared.postgres)
            .s3(&prepared.bucket)
            .encrypted()?
            .build()?;
        std::fs::rename(holdfast.config(), world.path("home/orders.yaml"))?;
        world.write(
            "home/main.yaml",
            std::fs::read(world.path("home/orders.yaml"))?,
        )?;
        ensure!(
            holdfast.socket() == prepared.socket,
            "{}",
            holdfast.socket().display()
        );
        let _sidecar = holdfast.sidecar().await?;
        let postgres = &prepared.postgres;
        postgres.archive_with(&holdfast).await?;
        postgres.execute("CREATE TABLE t (i int)").await?;
        holdfast.backup().await?;
        postgres.execute("INSERT INTO t VALUES (1)").await?;
        let xid = postgres
            .value("INSERT INTO t VALUES (2) RETURNING pg_current_xact_id()")
            .await?;
        let moment = postgres
            .value("SELECT to_char(now(), 'YYYY-MM-DD\"T\"HH24:MI:SS.USOF') || ':00'")
            .await?;
        let lsn = postgres.value("SELECT pg_current_wal_flush_lsn()").await?;
        postgres.restore_point("before_migration").await?;
        postgres.execute("INSERT INTO t VALUES (3)").await?;
        postgres.archive_all().await?;
        prepared.names.extend([
            ("2026-11-20T10:00:00Z".into(), moment),
            ("16/B374D848".into(), lsn),
            ("--target-xid 741".into(), format!("--target-xid {xid}")),
        ]);
        run(world, &prepared, page).await?;
        if page == "docs/commands.md" {
            examples_have_the_fields_of_answers(world, &holdfast).await?;
        }
        Ok(())
    })
    .await
}

/// The page's blocks of JSON, in order: backup, restore, info, verify.
async fn examples_have_the_fields_of_answers(world: &World, holdfast: &Holdfast) -> Result<()> {
    let page = blocks(&read("docs/commands.md")?);
    let mut examples = page.iter().filter(|block| block.language == "json");
    let to = world.path("json").to_string_lossy().into_owned();
    for arguments in [
        &["backup"][..],
        &[
            "restore",
            "--to",
            &to,
            "--target-name",
            "before_migration",
            "--dry-run",
        ],
        &["info"],
        &["verify"],
    ] {
        let answer = holdfast.json(arguments).await?;
        let example = examples.next().context("an example for each command")?;
        let example: serde_json::Value = serde_json::from_str(&example.text)
            .with_context(|| format!("line {}", example.line))?;
        let fields = |value: &serde_json::Value| -> Vec<String> {
            value
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| name.clone())
                .collect()
        };
        ensure!(
            fields(&answer) == fields(&example),
            "{}: the example has {:?}, the answer {:?}",
            arguments[0],
            fields(&example),
            fields(&answer)
        );
    }
    ensure!(examples.next().is_none(), "more examples than commands");
    Ok(())
}

#[tokio::test]
async fn commands() -> Result<()> {
    page("docs/commands.md").await
}

#[tokio::test]
async fn configuration() -> Result<()> {
    page("docs/configuration.md").await
}

#[tokio::test]
async fn archiving() -> Result<()> {
    page("docs/archiving.md").await
}

#[tokio::test]
async fn restore() -> Result<()> {
    page("docs/restore.md").await
}

#[test]
fn no_page_with_commands_is_forgotten() -> Result<()> {
    let run = [
        "README.md",
        "docs/commands.md",
        "docs/configuration.md",
        "docs/archiving.md",
        "docs/restore.md",
    ];
    for page in pages()? {
        let has = blocks(&read(&page)?)
            .iter()
            .any(|block| block.language == "sh");
        ensure!(
            has == run.contains(&page.as_str()),
            "{page} has blocks marked sh: {has}; is it run by a test here?"
        );
    }
    Ok(())
}

#[test]
fn links_lead_somewhere() -> Result<()> {
    for page in pages()? {
        let text = read(&page)?;
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let from = root().join(&page);
            let target = if file.is_empty() {
                from
            } else {
                from.with_file_name(file)
            };
            ensure!(
                target.exists(),
                "{page} links to {link}, which is not there"
            );
            if !anchor.is_empty() {
                let found = std::fs::read_to_string(&target)?.lines().any(|line| {
                    let heading = line.trim_start_matches('#');
                    let plain = |c: char| c.is_alphanumeric() || c == ' ' || c == '-' || c == '_';
                    heading.len() < line.len()
                        && heading
                            .trim()
                            .to_lowercase()
                            .replace(|c| !plain(c), "")
                            .replace(' ', "-")
                            == anchor
                });
                ensure!(
                    found,
                    "{page} links to {link}, and there is no such heading"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn every_flag_is_told() -> Result<()> {
    let told = read("docs/commands.md")?;
    for command in ["sidecar", "check", "backup", "restore", "info", "verify"] {
        let output = std::process::Command::new(parts::holdfast()?)
            .args([command, "--help"])
            .output()?;
        let help = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success() && help.contains("--config"),
            "{command} --help: {help}"
        );
        for word in help.split(|c: char| c.is_whitespace() || c == ',') {
            if word.starts_with("--") && word != "--help" {
                let page = if word.starts_with("--target") {
                    read("docs/restore.md")?
                } else {
                    told.clone()
                };
                ensure!(
                    page.contains(word),
                    "{command} {word} is not in the documentation"
                );
            }
        }
    }
    Ok(())
}
