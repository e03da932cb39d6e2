use super::client::{self, ControlError};
use super::*;
use crate::exit::Failure;
use crate::progress::Counters;
use crate::socket::{RestoreAnswer, WalService, bind};
use crate::status::{Condition, ConditionStatus, is_true};
use holdfast_protocol::control::{BackupKind, BackupOrder};
use holdfast_repository::backup::BackupId;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, oneshot};

struct NoWal;

impl WalService for NoWal {
    async fn archive(&self, _: &str, _: &str) -> Result<String, String> {
        Err("no".into())
    }

    async fn restore(&self, _: &str) -> RestoreAnswer {
        RestoreAnswer::Absent
    }

    async fn status(&self) -> serde_json::Value {
        serde_json::json!({"archived": 7})
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
    stop: oneshot::Sender<()>,
    server: tokio::task::JoinHandle<()>,
}

async fn sidecar() -> Sidecar {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let leave = Arc::new(Semaphore::new(0));
    let backups = Arc::new(Backups::new(Taker {
        leave: leave.clone(),
    }));
    let (stop, stopped) = oneshot::channel();
    let bound = bind(&socket, 0o600).await.unwrap();
    let server = tokio::spawn(serve(
        bound,
        backups.clone(),
        Arc::new(NoWal),
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
        stop,
        server,
    }
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
    assert_eq!(client::status(socket).await.unwrap()["archived"], 7);
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
    assert!(is_true(&status.unwrap().conditions, "Complete"));
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
async fn orders_that_make_no_sense_are_refused() {
    let sidecar = sidecar().await;
    let incremental = BackupOrder {
        r#type: BackupKind::Incremental,
        id: None,
    };
    for order in [order("../etc"), order(""), incremental] {
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
            "405",
        ),
        (post("{}}"), "400"),
        (post("{\"type\": \"Sometimes\"}"), "422"),
        (post("{\"typ\": \"Full\"}"), "422"),
        (post(&format!("{{\"id\": \"{long}\"}}")), "413"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
    ] {
        let mut stream = UnixStream::connect(&sidecar.socket).await.unwrap();
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {code}")),
            "{:.80} gave {answer}",
            request
        );
    }
}

fn post(body: &str) -> String {
    let length = body.len();
    format!(
        "POST /v1/backups HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
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
