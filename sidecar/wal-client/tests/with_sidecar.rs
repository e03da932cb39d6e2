//! The real client against the real server, and against servers that are hung, dead or lying.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use bytes::Bytes;
use futures::StreamExt;
use holdfast::socket::{Limits, RestoreAnswer, WalService, bind, serve};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;

const SEGMENT: &str = "000000010000000000000001";

/// Says what each name asks for.
struct Echo;

fn content() -> Vec<u8> {
    (0..3_000_000u32).flat_map(u32::to_le_bytes).collect()
}

impl WalService for Echo {
    async fn archive(&self, name: &str, path: &str) -> Result<String, String> {
        match name {
            "fails" => Err("the store is away,\nreally".to_owned()),
            "slow" => {
                tokio::time::sleep(Duration::from_secs(3)).await;
                Ok("at last".to_owned())
            }
            "hangs" => std::future::pending().await,
            _ => Ok(format!("{name} from {path}")),
        }
    }

    async fn restore(&self, name: &str) -> RestoreAnswer {
        let content = Bytes::from(content());
        let length = content.len() as u64;
        let pieces: Vec<std::io::Result<Bytes>> = content
            .chunks(70_000)
            .map(|c| Ok(content.slice_ref(c)))
            .collect();
        let body = futures::stream::iter(pieces);
        let damaged = || futures::stream::iter([Err(std::io::Error::other("wrong digest"))]);
        match name {
            "absent" => RestoreAnswer::Absent,
            "fails" => RestoreAnswer::Trouble("the store is away".to_owned()),
            "hangs" => std::future::pending().await,
            "empty" => RestoreAnswer::Found {
                length: 0,
                body: futures::stream::empty().boxed(),
            },
            "short" => RestoreAnswer::Found {
                length: length + 1,
                body: body.boxed(),
            },
            "long" => RestoreAnswer::Found {
                length: length - 1,
                body: body.boxed(),
            },
            "damaged" => RestoreAnswer::Found {
                length,
                body: body.chain(damaged()).boxed(),
            },
            "huge" => RestoreAnswer::Found {
                length: u64::MAX,
                body: body.boxed(),
            },
            _ => RestoreAnswer::Found {
                length,
                body: body.boxed(),
            },
        }
    }

    async fn status(&self) -> serde_json::Value {
        serde_json::json!({"archived": 7})
    }

    fn let_go(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

/// A data directory and the place of a socket.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("data/pg_wal")).unwrap();
        Self { folder }
    }

    fn standby() -> Self {
        let place = Self::new();
        fs::write(place.data().join("standby.signal"), "").unwrap();
        place
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("wal.sock")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn target(&self) -> PathBuf {
        self.data().join("pg_wal/RECOVERYXLOG")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-wal"));
        command
            .args(arguments)
            .current_dir(self.data())
            .env("HOLDFAST_SOCKET", self.socket())
            .env("HOLDFAST_WAL_SILENCE_SECONDS", "2")
            .env("HOLDFAST_WAL_RETRY_SECONDS", "1");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn archive(&self, name: &str) -> Output {
        self.run(&["archive", name, &format!("pg_wal/{name}")])
    }

    fn restore(&self, name: &str) -> Output {
        self.run(&["restore", name, "pg_wal/RECOVERYXLOG"])
    }

    fn assert_nothing_left(&self) {
        let left: Vec<_> = fs::read_dir(self.data().join("pg_wal"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// The only line on stderr.
fn line(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text:?}");
    text.trim_end().to_owned()
}

/// Runs `test` while the server serves; the server's heartbeat as given.
async fn served<R: Send + 'static>(
    place: Place,
    heartbeat: Duration,
    test: impl FnOnce(&Place) -> R + Send + 'static,
) -> R {
    let socket = bind(&place.socket(), 0o660).await.unwrap();
    let limits = Limits {
        heartbeat,
        drain: Duration::from_secs(1),
        ..Limits::default()
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(socket, Arc::new(Echo), limits, async {
        let _ = stopped.await;
    }));
    let (place, result) = tokio::task::spawn_blocking(move || {
        let result = test(&place);
        (place, result)
    })
    .await
    .unwrap();
    stop.send(()).unwrap();
    server.await.unwrap();
    assert!(
        !place.socket().exists(),
        "the server left its socket's file"
    );
    result
}

const BEAT: Duration = Duration::from_millis(300);
const NO_BEAT: Duration = Duration::from_secs(3600);

/// A server that says these bytes to whoever connects, then closes or keeps still.
fn says(place: &Place, bytes: &'static [u8], keeps_still: bool) {
    let listener = UnixListener::bind(place.socket()).unwrap();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream: UnixStream = stream.unwrap();
            let mut request = [0; 256];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(bytes);
            if keeps_still {
                open.push(stream);
            }
        }
    });
}

#[tokio::test]
async fn archive_ends_as_the_sidecar_says() {
    served(Place::new(), BEAT, |place| {
        assert_eq!(code(&place.archive(SEGMENT)), 0);
        let failed = place.archive("fails");
        assert_eq!(code(&failed), 1);
        assert_eq!(
            line(&failed),
            "holdfast-wal: fails is not archived: the store is away, really"
        );
    })
    .await;
}

#[tokio::test]
async fn signs_of_life_keep_a_slow_answer_alive() {
    served(Place::new(), BEAT, |place| {
        assert_eq!(code(&place.archive("slow")), 0)
    })
    .await;
}

#[tokio::test]
async fn a_hung_sidecar_ends_in_a_retry_and_never_in_absent() {
    served(Place::new(), NO_BEAT, |place| {
        let archive = place.archive("hangs");
        assert_eq!(code(&archive), 1);
        assert!(
            line(&archive).contains("no answer within"),
            "{}",
            line(&archive)
        );
        assert_eq!(code(&place.restore("hangs")), 200);
        place.assert_nothing_left();
    })
    .await;
}

#[tokio::test]
async fn restore_leaves_the_whole_file_or_none() {
    served(Place::new(), BEAT, |place| {
        assert_eq!(code(&place.restore(SEGMENT)), 0);
        assert!(fs::read(place.target()).unwrap() == content());
        fs::write(place.target(), "old").unwrap();
        assert_eq!(
            code(&place.run(&["restore", SEGMENT, place.target().to_str().unwrap()])),
            0
        );
        assert!(fs::read(place.target()).unwrap() == content());
        assert_eq!(code(&place.restore("empty")), 0);
        assert!(fs::read(place.target()).unwrap().is_empty());
        fs::remove_file(place.target()).unwrap();

        let absent = place.restore("absent");
        assert_eq!((code(&absent), absent.stderr.len()), (1, 0));
        for name in ["fails", "short", "long", "damaged", "huge"] {
            let output = place.restore(name);
            assert_eq!(code(&output), 200, "{name}: {}", line(&output));
            place.assert_nothing_left();
        }
        let nowhere = place.run(&["restore", SEGMENT, "pg_waal/RECOVERYXLOG"]);
        assert_eq!(code(&nowhere), 200);
        assert!(line(&nowhere).contains("pg_waal"), "{}", line(&nowhere));
    })
    .await;
}

#[tokio::test]
async fn on_a_standby_all_trouble_is_one() {
    served(Place::standby(), NO_BEAT, |place| {
        assert_eq!(code(&place.restore(SEGMENT)), 0);
        fs::remove_file(place.target()).unwrap();
        for name in ["absent", "fails", "short", "damaged", "hangs"] {
            assert_eq!(code(&place.restore(name)), 1, "{name}");
            place.assert_nothing_left();
        }
    })
    .await;
}

#[tokio::test]
async fn heartbeats_do_not_make_a_standby_wait() {
    served(Place::standby(), BEAT, |place| {
        assert_eq!(code(&place.restore("hangs")), 1)
    })
    .await;
}

#[test]
fn a_standby_is_known_by_an_absolute_path_too() {
    let place = Place::standby();
    let absolute = place.target();
    let mut command = place.command(&["restore", SEGMENT, absolute.to_str().unwrap()]);
    assert_eq!(command.current_dir("/").status().unwrap().code(), Some(1));
    let other = Place::new();
    let mut command = place.command(&["restore", SEGMENT, other.target().to_str().unwrap()]);
    assert_eq!(command.current_dir("/").status().unwrap().code(), Some(200));
}

#[test]
fn a_sidecar_that_is_down_is_a_retry() {
    for stale in [false, true] {
        let place = Place::new();
        if stale {
            drop(UnixListener::bind(place.socket()).unwrap());
        }
        let archive = place.archive(SEGMENT);
        assert_eq!(code(&archive), 1);
        assert!(line(&archive).contains(place.socket().to_str().unwrap()));
        assert_eq!(code(&place.restore(SEGMENT)), 200);
        let long = "/x".repeat(100);
        assert_eq!(
            code(&place.run(&["--socket", &long, "archive", SEGMENT, "pg_wal/x"])),
            1
        );
        assert_eq!(
            code(&place.run(&["--socket", &long, "restore", SEGMENT, "pg_wal/x"])),
            200
        );
        place.assert_nothing_left();
    }
}

#[tokio::test]
async fn recovery_waits_for_a_sidecar_that_restarts() {
    let place = Place::new();
    let child = place
        .command(&["restore", SEGMENT, "pg_wal/RECOVERYXLOG"])
        .env("HOLDFAST_WAL_RETRY_SECONDS", "60")
        .spawn()
        .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let target = place.target();
    let output = served(place, BEAT, move |_| {
        child
            .wait_with_output()
            .map(|o| (o, fs::read(target).unwrap()))
    })
    .await
    .unwrap();
    assert_eq!(code(&output.0), 0);
    assert!(output.1 == content());
}

#[test]
fn servers_that_lie_are_trouble() {
    for (bytes, keeps_still) in [
        (b"".as_slice(), false),
        (b"", true),
        (b"WAIT for ever\n", true),
        (b"OK", false),
        (b"OK\n", false),
        (b"OK x\n", false),
        (b"OK -1\n", false),
        (b"OK 10\n12345", false),
        (b"OK 10\n12345", true),
        (b"OK 10\n1234567890", true),
        (b"OK 10\n123456789012", false),
        (b"OK 99999999999999999999\n", false),
        (b"OK 18446744073709551615\n", false),
        (b"ABSENT\0\n", false),
        (b"ABSENT", false),
        (b"absent\n", false),
        (b"\xff\xfe\n", false),
        (b"HTTP/1.1 200 OK\r\n", false),
        ([b'x'; 100_000].as_slice(), true),
    ] {
        let place = Place::new();
        says(&place, bytes, keeps_still);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(30)]);
        let output = place.restore(SEGMENT);
        assert_eq!(code(&output), 200, "{shown:?}");
        line(&output);
        place.assert_nothing_left();
    }
    for bytes in [
        b"".as_slice(),
        b"ABSENT\n",
        b"OK",
        b"ERROR\n",
        b"nonsense\n",
    ] {
        let place = Place::new();
        says(&place, bytes, false);
        assert_eq!(
            code(&place.archive(SEGMENT)),
            1,
            "{}",
            String::from_utf8_lossy(bytes)
        );
    }
}

#[test]
fn a_hung_server_with_a_full_queue_does_not_hang_the_client() {
    let place = Place::new();
    let listener = UnixListener::bind(place.socket()).unwrap();
    let waiting = fill_queue(&place.socket());
    assert_eq!(code(&place.archive(SEGMENT)), 1);
    assert_eq!(code(&place.restore(SEGMENT)), 200);
    drop((waiting, listener));
}

/// Connects without being accepted until no more fit: a connection that does not come back within a second is the
/// first to wait. Its thread ends with the process.
fn fill_queue(socket: &Path) -> Vec<UnixStream> {
    let mut waiting = Vec::new();
    loop {
        let (sender, receiver) = std::sync::mpsc::channel();
        let socket = socket.to_owned();
        std::thread::spawn(move || sender.send(UnixStream::connect(socket)));
        match receiver.recv_timeout(Duration::from_secs(1)) {
            Ok(stream) => waiting.push(stream.unwrap()),
            Err(_) => return waiting,
        }
    }
}

#[test]
fn mistakes_have_their_codes() {
    let place = Place::new();
    for (arguments, expected) in [
        (["--help"].as_slice(), 0),
        (&["--version"], 0),
        (&[], 64),
        (&["archive", SEGMENT], 64),
        (&["archive", "a b", "c"], 64),
        (&["restore", SEGMENT], 200),
        (&["restore", "a\nb", "c"], 200),
        (&["restore", "--help"], 200),
    ] {
        assert_eq!(code(&place.run(arguments)), expected, "{arguments:?}");
    }
}

#[tokio::test]
async fn anybody_with_nc_can_speak_it() {
    served(Place::new(), BEAT, |place| {
        for (request, expected) in [
            ("STATUS\n", "OK {\"archived\":7}\n"),
            ("STATUS\r\n", "OK {\"archived\":7}\n"),
            (
                "ARCHIVE a pg_wal/with blank\n",
                "OK a from pg_wal/with blank\n",
            ),
            ("RESTORE absent\n", "ABSENT\n"),
            ("RESTORE fails\n", "ERROR the store is away\n"),
            (
                "hello\n",
                "ERROR a request is ARCHIVE <name> <path>, RESTORE <name>, STATUS or ORDER\n",
            ),
        ] {
            let mut stream = UnixStream::connect(place.socket()).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, expected, "{request:?}");
        }
        let mut stream = UnixStream::connect(place.socket()).unwrap();
        let _ = stream.write_all(&[b'x'; 10_000]);
        let mut answer = [0; 9];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ERROR the");
    })
    .await;
}

#[test]
fn the_history_that_postgres_asks_for_at_the_end_of_recovery_needs_no_sidecar() {
    let place = Place::new();
    assert_eq!(code(&place.restore("00000001.history")), 1);
    assert_eq!(code(&place.restore("00000002.history")), 200);
    let own = place.data().join("pg_wal/00000002.history");
    fs::write(&own, "1\t0/3000000\tx\n").unwrap();
    assert_eq!(code(&place.restore("00000002.history")), 1);
    fs::write(place.data().join("recovery.signal"), "").unwrap();
    assert_eq!(code(&place.restore("00000002.history")), 200);
    fs::remove_file(own).unwrap();
    place.assert_nothing_left();
}
