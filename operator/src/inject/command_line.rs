//! What a container starts, and whether words appended to its `args` reach Postgres.

use super::environment::Environment;
use super::image::Known;
use super::pod::Container;

/// Whether words appended to `args` reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// As far as the pod and the known images tell.
    Yes,
    /// The image decides, and it is not known.
    Unclear,
    /// Something else hears them; the text says what, to go after "on container x,".
    No(&'static str),
}

/// A server setting on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// In lower case, with `_`.
    pub(super) name: String,
    pub(super) value: String,
}

/// Programs that start the one that follows.
const WRAPPERS: [&str; 11] = [
    "tini",
    "dumb-init",
    "catatonit",
    "gosu",
    "su-exec",
    "setpriv",
    "env",
    "nice",
    "ionice",
    "numactl",
    "taskset",
];

const SHELLS: [&str; 6] = ["sh", "bash", "ash", "dash", "zsh", "busybox"];

const A_SHELL: &str = "whose command is a shell";
const A_PROGRAM: &str = "whose arguments start another program";
const UNFINISHED: &str = "whose last argument is an option without its value";
const THE_IMAGE: &str = "whose image starts Postgres by a script that takes no settings";

/// Whether words appended to the container's `args` reach the server.
pub(super) fn reach(container: &Container, known: Option<&Known>) -> Reach {
    let words: Vec<&str> = container
        .command
        .iter()
        .chain(&container.args)
        .map(String::as_str)
        .collect();
    if words.last().is_some_and(|word| awaits_value(word)) {
        return Reach::No(UNFINISHED);
    }
    if !container.command.is_empty() {
        return started(&words, Reach::Unclear);
    }
    match known {
        Some(known) if !known.arguments_reach_postgres() => Reach::No(THE_IMAGE),
        Some(_) => entrypoint(&words),
        // Leading options may mean anything to an image that is not known.
        None => started(&words, Reach::Unclear),
    }
}

/// An option of `postgres` that would take the next word for its value.
fn awaits_value(word: &str) -> bool {
    let mut letters = word.chars();
    letters.next() == Some('-')
        && letters
            .next()
            .is_some_and(|c| "BCcDdfhkNprStvW".contains(c))
        && letters.next().is_none()
}

/// By the official image's entrypoint: options and `postgres` go to the server, all else is started as it is.
fn entrypoint(words: &[&str]) -> Reach {
    match words.first() {
        None => Reach::Yes,
        Some(word) if word.starts_with('-') || base(word) == "postgres" => Reach::Yes,
        Some(word) if SHELLS.contains(&base(word)) => Reach::No(A_SHELL),
        Some(_) => started(words, Reach::No(A_PROGRAM)),
    }
}

/// By the program that the words start.
fn started(words: &[&str], otherwise: Reach) -> Reach {
    let Some(first) = words.first().copied().map(base) else {
        return otherwise;
    };
    if SHELLS.contains(&first) {
        return Reach::No(A_SHELL);
    }
    let wrapped = WRAPPERS.contains(&first);
    for (index, word) in words.iter().enumerate() {
        match base(word) {
            "postgres" => return Reach::Yes,
            "docker-entrypoint.sh" => return entrypoint(&words[index + 1..]),
            program if wrapped && SHELLS.contains(&program) => return Reach::No(A_SHELL),
            _ if !wrapped => return otherwise,
            _ => {}
        }
    }
    otherwise
}

fn base(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// The server settings among the words, in their order; the last of a name counts. Words that are no literals are
/// taken as they are written.
pub(super) fn settings(container: &Container, environment: &Environment<'_>) -> Vec<Setting> {
    let mut words = container
        .command
        .iter()
        .chain(&container.args)
        .map(|word| environment.expand(word).unwrap_or_else(|| word.to_owned()));
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let assignment = if word == "-c" {
            words.next()
        } else if word == "-D" {
            words.next().map(|path| format!("data_directory={path}"))
        } else if let Some(long) = word.strip_prefix("--") {
            Some(long.to_owned())
        } else if let Some(rest) = word.strip_prefix("-c") {
            Some(rest.to_owned())
        } else {
            let rest = word.strip_prefix("-D");
            rest.map(|path| format!("data_directory={path}"))
        };
        if let Some((name, value)) = assignment.as_deref().and_then(|a| a.split_once('=')) {
            settings.push(Setting {
                name: name.to_ascii_lowercase().replace('-', "_"),
                value: value.to_owned(),
            });
        }
    }
    settings
}

/// The value of a setting on the command line.
pub(super) fn last<'a>(settings: &'a [Setting], name: &str) -> Option<&'a str> {
    let of_name = settings.iter().rev().find(|setting| setting.name == name);
    of_name.map(|setting| setting.value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn container(image: &str, command: Value, args: Value) -> Container {
        let raw = json!({"name": "db", "image": image, "command": command, "args": args});
        serde_json::from_value(raw).unwrap()
    }

    #[test]
    fn whether_arguments_reach_postgres() {
        use Reach::{No, Unclear, Yes};
        for (image, command, args, expected) in [
            ("postgres:17", json!(null), json!(null), Yes),
            ("postgres:17", json!([]), json!([]), Yes),
            ("postgres:17", json!([]), json!(["-c", "a=b"]), Yes),
            ("postgres:17", json!([]), json!(["-c"]), No(UNFINISHED)),
            (
                "acme/db",
                json!(["postgres"]),
                json!(["-D"]),
                No(UNFINISHED),
            ),
            (
                "postgres:17",
                json!([]),
                json!(["postgres", "-c", "a=b"]),
                Yes,
            ),
            (
                "postgres:17",
                json!([]),
                json!(["bash", "-c", "postgres"]),
                No(A_SHELL),
            ),
            (
                "postgres:17",
                json!([]),
                json!(["sleep", "1"]),
                No(A_PROGRAM),
            ),
            (
                "postgres:17",
                json!(["sh", "-c"]),
                json!(["postgres"]),
                No(A_SHELL),
            ),
            ("postgres:17", json!(["/bin/bash"]), json!([]), No(A_SHELL)),
            (
                "postgres:17",
                json!(["docker-entrypoint.sh"]),
                json!([]),
                Yes,
            ),
            (
                "postgres:17",
                json!(["docker-entrypoint.sh", "postgres"]),
                json!([]),
                Yes,
            ),
            (
                "postgres:17",
                json!(["/usr/local/bin/docker-entrypoint.sh"]),
                json!(["-c", "x=y"]),
                Yes,
            ),
            (
                "postgres:17",
                json!(["docker-entrypoint.sh"]),
                json!(["bash"]),
                No(A_SHELL),
            ),
            (
                "postgres:17",
                json!(["/usr/lib/postgresql/17/bin/postgres"]),
                json!([]),
                Yes,
            ),
            (
                "postgres:17",
                json!(["tini", "--", "docker-entrypoint.sh", "postgres"]),
                json!([]),
                Yes,
            ),
            (
                "postgres:17",
                json!(["gosu", "postgres", "postgres"]),
                json!([]),
                Yes,
            ),
            (
                "postgres:17",
                json!(["tini", "--", "sh", "-c", "postgres"]),
                json!([]),
                No(A_SHELL),
            ),
            (
                "postgres:17",
                json!(["/my/start"]),
                json!(["postgres"]),
                Unclear,
            ),
            ("bitnami/postgresql:17", json!([]), json!([]), No(THE_IMAGE)),
            ("acme/db", json!([]), json!([]), Unclear),
            ("acme/db", json!([]), json!(["-c", "a=b"]), Unclear),
            ("acme/db", json!([]), json!(["postgres"]), Yes),
            ("acme/db", json!([]), json!(["sh", "-c", "x"]), No(A_SHELL)),
            ("acme/db", json!(["postgres"]), json!([]), Yes),
        ] {
            let container = container(image, command, args);
            let known = Known::of(image);
            assert_eq!(reach(&container, known.as_ref()), expected, "{container:?}");
        }
    }

    #[test]
    fn settings_are_read_in_all_their_forms() {
        let container = container(
            "postgres",
            json!(["postgres", "-D", "/data/$(SUB)"]),
            json!([
                "-c",
                "archive_mode=on",
                "-cArchive_Command=a=b",
                "--restore-command=x",
                "-p",
                "5432",
                "--single",
                "-c"
            ]),
        );
        let env =
            serde_json::from_value::<Vec<_>>(json!([{"name": "SUB", "value": "pg"}])).unwrap();
        let settings = settings(&container, &Environment::new(&env));
        for (name, value) in [
            ("data_directory", Some("/data/pg")),
            ("archive_mode", Some("on")),
            ("archive_command", Some("a=b")),
            ("restore_command", Some("x")),
            ("port", None),
        ] {
            assert_eq!(last(&settings, name), value, "{name}");
        }
        assert_eq!(settings.len(), 4);
    }
}
