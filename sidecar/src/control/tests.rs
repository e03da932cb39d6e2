mod network;

use super::client::{self, ControlError};
use super::*;
use crate::exit::Failure;
use crate::http::{Limits, serve};
use crate::progress::Counters;
use crate::socket::bind;
use crate::status::{Condition, ConditionStatus, is_true};
use holdfast_protocol::control::{BackupKind, BackupOrder};
use holdfast_repository::backup::BackupId;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

/// A server that is a primary of a pod, and its mark.
#[derive(Default)]
struct Primary(Mutex<String>);

impl Instance for Primary {
    fn pod_uid(&self) -> Option<&str> {
        Some("uid-1")
    }

    async fn report(&self) -> InstanceReport {
        InstanceReport {
            archive: "shop/orders".into(),
            ..InstanceReport::default()
        }
    }

    fn mark(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    async fn switch_wal(&self) -> Result<Lsn, OrderError> {
        Ok(Lsn(0x100_0028))
    }

    async fn lacking(&self, outside: Vec<Outside>) -> Result<Vec<Outside>, OrderError> {
        match outside.iter().find(|one| one.value == "unknown") {
            Some(_) => Err(OrderError::Busy("Postgres does not answer".to_owned())),
            None => Ok(outside),
        }
    }

    async fn drain(&self) -> Drain {
        Drain {
            done: true,
            ..Drain::default()
        }
    }

    fn go(&self, order: &str) -> Result<(), OrderError> {
        match order {
            "a1" => Ok(()),
            other => Err(OrderError::Busy(other.to_owned())),
        }
    }
}

/// A backup that waits for leave; the id says how it ends.
struct Taker {
    leave: Arc<Semaphore>,
}

impl TakeBackup for Taker {
    async fn take(
        &self,
        id: BackupId,
        _: BackupKind,
        counters: Arc<Counters>,
    ) -> Result<BackupStatus, Failure> {
        counters.set_total(10);
        counters.add_bytes(5);
        if id.as_str() == "waits" {
            counters.wait_for(Some("waiting for WAL segment 1".to_owned()));
        }
        let _ = self.leave.acquire().await;
        match id.as_str() {
            "fails" => Err(Failure::failed("the disk is gone")),
            "panics" => panic!("as asked"),
            _ => Ok(BackupStatus {
                id: id.to_string(),
                conditions: vec![Condition::new(
                    "Complete",
                    ConditionStatus::True,
                    "Complete",
                    "",
                )],
                ..BackupStatus::default()
            }),
        }
    }
}

struct Sidecar {
    _folder: tempfile::TempDir,
    socket: PathBuf,
    leave: Arc<Semaphore>,
    backups: Arc<Backups<Taker>>,
    primary: Arc<Primary>,
    stop: oneshot::Sender<()>,
    server: tokio::task::JoinHandle<()>,
}

async fn sidecar() -> Sidecar {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let leave = Arc::new(Semaphore::new(0));
    let taker = Taker {
        leave: leave.clone(),
    };
    let backups = Arc::new(Backups::new(taker, Some("orders-0".into())));
    let (stop, stopped) = oneshot::channel();
    let bound = bind(&socket, 0o600).await.unwrap();
    let primary = Arc::new(Primary::default());
    let server = tokio::spawn(serve(
        Unix::new(bound),
        router(backups.clone(), primary.clone(), Caller::Local),
        Limits::default(),
        async {
            let _ = stopped.await;
        },
    ));
    Sidecar {
        _folder: folder,
        socket,
        leave,
        backups,
        primary,
        stop,
        server,
    }
}

#[tokio::test]
async fn who_asks_for_news_is_answered_when_there_is_some() {
    let sidecar = sidecar().await;
    "a1".clone_into(&mut sidecar.primary.0.lock().unwrap());
    let ask = async |known: &str| {
        let mut stream = UnixStream::connect(&sidecar.socket).await.unwrap();
        let request =
            format!("GET /v1/status{known} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    };
    let long = Duration::from_secs(60);
    for at_once in ["", "?unless=a0", "?unless=", "?other=a1"] {
        timeout(long, ask(at_once)).await.expect(at_once);
    }
    let asked = ask("?unless=a1");
    tokio::pin!(asked);
    assert!(
        timeout(Duration::from_millis(600), asked.as_mut())
            .await
            .is_err()
    );
    "a2".clone_into(&mut sidecar.primary.0.lock().unwrap());
    timeout(long, asked).await.unwrap();
}

fn order(id: &str) -> BackupOrder {
    BackupOrder {
        r#type: BackupKind::Full,
        id: Some(id.to_owned()),
        pod_uid: None,
    }
}

#[tokio::test]
async fn a_backup_is_ordered_once_and_followed_to_its_end() {
    let sidecar = sidecar().await;
    let socket = &sidecar.socket;
    assert!(client::is_served(socket).await);
    let report = client::status(socket).await.unwrap();
    assert_eq!(report.archive, "shop/orders");
    assert_eq!(
        client::start_backup(socket, &order("one")).await.unwrap(),
        "one"
    );
    assert_eq!(
        client::start_backup(socket, &order("one")).await.unwrap(),
        "one"
    );
    let busy = client::start_backup(socket, &BackupOrder::default())
        .await
        .unwrap_err();
    assert!(
        matches!(&busy, ControlError::Refused(why) if why.contains("backup one runs")),
        "{busy}"
    );
    let counters = Counters::default();
    let ((), status) = tokio::join!(
        async {
            while counters.figures().bytes_done == 0 {
                tokio::task::yield_now().await;
            }
            sidecar.leave.add_permits(100);
        },
        client::follow(socket, "one", &counters)
    );
    let status = status.unwrap();
    assert!(is_true(&status.conditions, "Complete"));
    assert_eq!(status.pod.as_deref(), Some("orders-0"));
    assert_eq!(counters.figures().bytes_total, 10);

    for (id, why) in [
        ("fails", "the disk is gone"),
        ("panics", "before the backup was complete"),
    ] {
        client::start_backup(socket, &order(id)).await.unwrap();
        let status = client::follow(socket, id, &counters).await.unwrap();
        assert!(is_true(&status.conditions, "Failed"), "{status:?}");
        assert!(
            status.conditions.iter().any(|c| c.message.contains(why)),
            "{status:?}"
        );
    }
    let figures = sidecar.backups.figures();
    assert_eq!((figures.failures, figures.running), (2, None));
    assert!(figures.completed.is_some());
    let made = client::start_backup(socket, &BackupOrder::default())
        .await
        .unwrap();
    client::follow(socket, &made, &counters).await.unwrap();
    let forgotten = client::follow(socket, "other", &counters)
        .await
        .unwrap_err();
    assert!(matches!(forgotten, ControlError::Forgotten(_)));
    let _ = sidecar.stop.send(());
    sidecar.server.await.unwrap();
    assert!(!socket.exists() && !client::is_served(socket).await);
}

#[tokio::test]
async fn stopping_ends_what_runs() {
    let sidecar = sidecar().await;
    client::start_backup(&sidecar.socket, &order("one"))
        .await
        .unwrap();
    sidecar.backups.stop().await;
    let status = client::follow(&sidecar.socket, "one", &Counters::default())
        .await
        .unwrap();
    assert!(is_true(&status.conditions, "Failed"));
}

#[tokio::test]
async fn a_cancelled_backup_has_failed_and_makes_room() {
    let sidecar = sidecar().await;
    let socket = &sidecar.socket;
    assert!(!sidecar.backups.cancel("one").await);
    client::start_backup(socket, &order("one")).await.unwrap();
    assert_eq!(sidecar.backups.figures().running.as_deref(), Some("one"));
    let delete =
        "DELETE /v1/backups/one HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned();
    for _ in 0..2 {
        let answer = raw(socket, &delete).await;
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
        let status = client::follow(socket, "one", &Counters::default())
            .await
            .unwrap();
        let failed = status.conditions.iter().find(|c| c.r#type == "Failed");
        assert_eq!(failed.unwrap().reason, "Cancelled");
    }
    let figures = sidecar.backups.figures();
    assert_eq!((figures.running, figures.failures), (None, 0));
    client::start_backup(socket, &order("two")).await.unwrap();
    // The order stays carried out: it does nothing more.
    assert_eq!(
        client::start_backup(socket, &order("one")).await.unwrap(),
        "one"
    );
    assert_eq!(sidecar.backups.figures().running.as_deref(), Some("two"));
}

#[tokio::test]
async fn orders_are_for_one_pod() {
    let sidecar = sidecar().await;
    for (path, body, code) in [
        ("backups", "{\"podUid\": \"uid-2\"}", "412"),
        ("switch-wal", "{\"podUid\": \"uid-2\"}", "412"),
        ("switch-wal", "{\"podUid\": \"uid-1\"}", "200"),
        ("switch-wal", "{}", "200"),
        ("switch-wal", "{\"pod\": \"uid-1\"}", "422"),
        ("drain", "{\"podUid\": \"uid-2\"}", "412"),
        ("drain", "{\"podUid\": \"uid-1\"}", "200"),
        (
            "restore",
            "{\"order\": \"a1\", \"podUid\": \"uid-2\"}",
            "412",
        ),
        (
            "restore",
            "{\"order\": \"a1\", \"podUid\": \"uid-1\"}",
            "202",
        ),
        (
            "restore",
            "{\"order\": \"a2\", \"podUid\": \"uid-1\"}",
            "409",
        ),
        ("restore", "{\"podUid\": \"uid-1\"}", "422"),
        ("backups", "{\"podUid\": \"uid-1\"}", "202"),
    ] {
        let answer = raw(&sidecar.socket, &post(path, body)).await;
        let expected = format!("HTTP/1.1 {code}");
        assert!(answer.starts_with(&expected), "{path} {body}: {answer}");
        if code == "200" {
            let said = match path {
                "drain" => "{\"done\":true,\"archived\":0}",
                _ => "{\"lsn\":\"0/1000028\"}",
            };
            assert!(answer.ends_with(said), "{answer}");
        }
    }
    let other = BackupOrder {
        pod_uid: Some("uid-2".into()),
        ..order("x")
    };
    let refused = client::start_backup(&sidecar.socket, &other).await;
    assert!(matches!(refused, Err(ControlError::Refused(why)) if why.contains("uid-2")));
}

/// What is answered to bytes as they are.
async fn raw(socket: &std::path::Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn orders_that_make_no_sense_are_refused() {
    let sidecar = sidecar().await;
    for order in [order("../etc"), order("")] {
        let refused = client::start_backup(&sidecar.socket, &order)
            .await
            .unwrap_err();
        assert!(matches!(refused, ControlError::Refused(_)), "{refused}");
    }
    let long = "x".repeat(100_000);
    for (request, code) in [
        (
            "GET /v2/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
            "404",
        ),
        (
            "DELETE /v1/backups/a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
            "404",
        ),
        (
            "PUT /v1/backups/a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
            "405",
        ),
        (post("backups", "{}}"), "400"),
        (post("backups", "{\"type\": \"Sometimes\"}"), "422"),
        (post("backups", "{\"typ\": \"Full\"}"), "422"),
        (post("backups", &format!("{{\"id\": \"{long}\"}}")), "413"),
        (format!("GET /v1/{long} HTTP/1.1\r\nhost: x\r\n\r\n"), "431"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = raw(&sidecar.socket, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {code}")),
            "{:.80} gave {answer}",
            request
        );
    }
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /v1/{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

#[test]
fn nobody_there_is_not_known() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let error = runtime
        .block_on(client::start_backup(
            std::path::Path::new("/nowhere.sock"),
            &BackupOrder::default(),
        ))
        .unwrap_err();
    assert_eq!(Failure::from(error).class, crate::exit::ExitClass::Unknown);
}
