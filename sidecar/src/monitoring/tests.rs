use super::*;
use crate::archive::Archiver;
use crate::config::Live;
use crate::control::Backups;
use crate::environment::Pod;
use crate::exit::Failure;
use crate::http::{Limits, Plain, listen, serve};
use crate::orders::Orders;
use crate::progress::Counters;
use crate::status::{BackupSize, BackupStatus};
use crate::wal_bench::{Bench, IN_PRODUCTION};
use holdfast_protocol::control::{BackupKind, BackupOrder};
use holdfast_repository::backup::BackupId;
use holdfast_repository::wal::sample::Fill;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct Taker;

impl TakeBackup for Taker {
    async fn take(
        &self,
        id: BackupId,
        _: BackupKind,
        _: Arc<Counters>,
    ) -> Result<BackupStatus, Failure> {
        if id.as_str() == "fails" {
            return Err(Failure::failed("as asked"));
        }
        Ok(BackupStatus {
            id: id.to_string(),
            start_time: "2026-11-20T10:00:00Z".parse().ok(),
            completion_time: "2026-11-20T10:01:30Z".parse().ok(),
            size: Some(BackupSize {
                database: 1000,
                stored: 300,
                changed: 1000,
            }),
            ..BackupStatus::default()
        })
    }
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_pages_tell_how_it_is() {
    let bench = Bench::new();
    bench.control(1, IN_PRODUCTION);
    let live: Live = bench.settings().into();
    let archiver = Arc::new(Archiver::new(live.clone()));
    let (name, path) = bench.segment(1, 3, Fill::Whole);
    archiver.archive(&name, &path).await.unwrap();
    assert!(archiver.archive("nonsense", &path).await.is_err());
    let backups = Arc::new(Backups::new(Taker, None));
    for id in ["fails", "one"] {
        let order = BackupOrder {
            id: Some(id.into()),
            ..BackupOrder::default()
        };
        crate::control::BackupService::start(&*backups, order)
            .await
            .unwrap();
        while backups.figures().running.is_some() {
            tokio::task::yield_now().await;
        }
    }
    let orders = Arc::new(Orders::new(live.clone(), archiver.clone()));
    let reporter = Arc::new(Reporter::new(
        live,
        Pod::default(),
        archiver.clone(),
        backups,
        orders,
    ));
    let pages = router(
        reporter,
        Metrics::new(archiver.seconds()),
        Heartbeat::default(),
    );
    let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(
        Plain(listener),
        pages,
        Limits::default(),
        std::future::pending(),
    ));

    let page = get(address, "/metrics").await;
    assert!(page.contains("content-type: application/openmetrics-text; version=1.0.0"));
    for line in [
        "holdfast_build_info{version=\"",
        "holdfast_wal_archived_total 1",
        "holdfast_wal_archive_failures_total 1",
        "holdfast_wal_archive_seconds_count 1",
        "holdfast_wal_archive_seconds_bucket{le=\"0.05\"}",
        "holdfast_last_archived_timestamp_seconds 1",
        "holdfast_backup_running 0",
        "holdfast_backup_failures_total 1",
        "holdfast_backup_duration_seconds 90",
        "holdfast_backup_last_success_timestamp_seconds 1795168890",
        "holdfast_backup_size_bytes{of=\"database\"} 1000",
        "holdfast_backup_size_bytes{of=\"stored\"} 300",
        "holdfast_store_requests_total{operation=\"write\"}",
        "holdfast_store_request_errors_total{operation=\"read\"}",
        "holdfast_postgres_up 0",
        "# TYPE holdfast_wal_lag_bytes gauge",
    ] {
        // The server is down: how far it is ahead is not known.
        let expected = line != "# TYPE holdfast_wal_lag_bytes gauge";
        assert_eq!(page.contains(line), expected, "{line}\n{page}");
    }
    assert!(page.trim_end().ends_with("# EOF"), "{page}");

    assert!(get(address, "/startz").await.starts_with("HTTP/1.1 200"));
    assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
    let ready = get(address, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    for part in [
        "\"ready\":false",
        "Postgres can't be asked",
        "lastArchivedTime",
        "nonsense",
    ] {
        assert!(ready.contains(part), "{part}: {ready}");
    }
    assert!(get(address, "/v1/status").await.starts_with("HTTP/1.1 404"));
}
