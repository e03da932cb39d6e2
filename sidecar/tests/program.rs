//! The program as scripts see it: exit codes, lines on stderr, sockets.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(place.path("store")).unwrap();
        fs::create_dir(place.path("data")).unwrap();
        place.settings("wal.sock");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn settings(&self, socket: &str) {
        let text = format!(
            "archive: shop/orders\nsocket: {socket}\npostgres: {{dataDirectory: data, host: nowhere, port: 1}}\n\
             repositories:\n- name: main\n  filesystem: {{path: store}}\n"
        );
        fs::write(self.path("settings.yaml"), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("HOLDFAST_CONFIG", self.path("settings.yaml"))
            .env_remove("HOLDFAST_LOG")
            .env_remove("RUST_LOG");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn sidecar(&self) -> Sidecar {
        let child = self
            .command(&["sidecar"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut sidecar = Sidecar(child);
        while UnixStream::connect(self.path("control.sock")).is_err() {
            assert_eq!(sidecar.0.try_wait().unwrap(), None, "the sidecar ended");
            std::thread::sleep(Duration::from_millis(20));
        }
        sidecar
    }
}

/// Killed when it is dropped, so that a failed test leaves nothing running.
struct Sidecar(Child);

impl Sidecar {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn ended(&mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn ask(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn mistakes_have_one_line_and_their_code() {
    let place = Place::new();
    for (arguments, expected, part) in [
        ([].as_slice(), 64, "give a command"),
        (&["restore"], 64, "--to"),
        (
            &[
                "restore",
                "--to",
                "d",
                "--target",
                "latest",
                "--target-xid",
                "7",
            ],
            64,
            "--target-xid",
        ),
        (&["--config", "nowhere.yaml", "info"], 3, "nowhere.yaml"),
        (&["wal-restore", "--help"], 200, ""),
        (&["wal-restore", "x"], 200, "<PATH>"),
        (
            &[
                "--config",
                "nowhere.yaml",
                "wal-restore",
                "000000010000000000000001",
                "x",
            ],
            200,
            "nowhere.yaml",
        ),
        (&["wal-restore", "../x", "y"], 200, "../x"),
    ] {
        let output = place.run(arguments);
        assert_eq!(
            code(&output),
            expected,
            "{arguments:?}: {}",
            errors(&output)
        );
        assert!(
            errors(&output).contains(part),
            "{arguments:?}: {}",
            errors(&output)
        );
        assert!(errors(&output).lines().count() <= 1, "{}", errors(&output));
    }
    let output = place
        .command(&["info"])
        .env_remove("HOLDFAST_CONFIG")
        .output()
        .unwrap();
    assert_eq!(code(&output), 64);
    for arguments in [["--help"], ["--version"]] {
        let output = place.run(&arguments);
        assert_eq!((code(&output), errors(&output)), (0, String::new()));
    }
}

#[test]
fn the_sidecar_serves_until_it_is_told_to_end() {
    let place = Place::new();
    let (wal, control) = (place.path("wal.sock"), place.path("control.sock"));
    for signal in [Signal::TERM, Signal::INT] {
        let mut sidecar = place.sidecar();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&wal), mode(&control)), (0o660, 0o600));
        let status = ask(&wal, "STATUS\n");
        assert!(
            status.starts_with("OK {") && status.contains("\"archive\":\"shop/orders\""),
            "{status}"
        );
        let refused = ask(&wal, "ARCHIVE ../../etc/passwd pg_wal/x\n");
        assert!(refused.starts_with("ERROR "), "{refused}");
        assert_eq!(refused.lines().count(), 1);

        let second = place.run(&["sidecar"]);
        assert_eq!(code(&second), 3);
        assert!(
            errors(&second).contains("is already served"),
            "{}",
            errors(&second)
        );

        sidecar.signal(signal);
        assert_eq!(sidecar.ended(), Some(0));
        assert!(!wal.exists() && !control.exists());
    }
}

#[test]
fn a_killed_sidecars_sockets_are_taken_over() {
    let place = Place::new();
    let mut killed = place.sidecar();
    killed.signal(Signal::KILL);
    killed.ended();
    assert!(place.path("wal.sock").exists());
    let mut sidecar = place.sidecar();
    assert!(ask(&place.path("wal.sock"), "STATUS\n").starts_with("OK"));
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.ended(), Some(0));
}

#[test]
fn sockets_that_cannot_be_are_refused() {
    let place = Place::new();
    for (socket, part) in [
        ("x".repeat(110), "bytes"),
        ("settings.yaml".to_owned(), "is not a socket"),
    ] {
        place.settings(&socket);
        let output = place.run(&["sidecar"]);
        assert_eq!(code(&output), 3);
        assert!(errors(&output).contains(part), "{}", errors(&output));
    }
    place.settings("nowhere/wal.sock");
    assert_eq!(code(&place.run(&["sidecar"])), 1);
}

#[test]
fn check_names_what_is_wrong_and_what_mends_it() {
    let place = Place::new();
    let output = place.run(&["check"]);
    assert_eq!(code(&output), 1);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "ok       settings",
        "PROBLEM  data directory",
        "PROBLEM  postgres",
        "PROBLEM  sidecar",
        "mend it with: holdfast --config",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    fs::write(place.path("settings.yaml"), "archiv: a/b\n").unwrap();
    let output = place.run(&["check"]);
    assert_eq!(code(&output), 1);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("settings.yaml:1:1: unknown field \"archiv\"; did you mean \"archive\"?"),
        "{text}"
    );
}

#[test]
fn a_backup_without_a_database_changes_nothing() {
    let place = Place::new();
    let output = place.run(&["backup"]);
    assert_eq!(code(&output), 3, "{}", errors(&output));
    let mut sidecar = place.sidecar();
    let asked = place.run(&["backup", "--json"]);
    assert_eq!(code(&asked), 3, "{}", errors(&asked));
    assert!(errors(&asked).contains("pg_control"), "{}", errors(&asked));
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.ended(), Some(0));
}
