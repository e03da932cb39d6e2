use super::*;
use crate::restore::recovery::Action;
use holdfast_postgres::TimelineId;
use holdfast_repository::reach::{Target, TimelineChoice};

const ISSUE: &str = r#"
archive: shop/orders
socket: /holdfast/run/wal.sock
postgres: {dataDirectory: /var/lib/postgresql/data, host: /var/run/postgresql, port: 5432, user: postgres}
repositories:
- name: main
  s3: {bucket: acme-pg, prefix: prod, region: eu-central-1, endpoint: "http://127.0.0.1:9000"}
  credentials: {accessKeyIdFile: id, secretAccessKeyFile: /secret}
  encryption: {currentKey: k1, keyFiles: {k1: keys/k1}}
- name: second
  filesystem: {path: /backup}
  mode: BestEffort
wal: {compression: {algorithm: zstd, level: 1}, streaming: {intervalSeconds: 5}}
backup: {compression: {algorithm: lz4}, parallelism: 2}
limits: {memory: 256Mi}
acceptSystemIdentifier: "7000000000000000001"
"#;

const SHORT: &str = "archive: a/b\npostgres: {dataDirectory: /d}\nrepositories: [{name: r, filesystem: {path: /b}}]\n";

fn read(text: &str) -> Result<Settings, ConfigError> {
    read_with(text, &Overrides::default())
}

fn read_with(text: &str, overrides: &Overrides) -> Result<Settings, ConfigError> {
    parse(Path::new("/etc/holdfast/settings.yaml"), text, overrides)
}

/// What the file with `from` replaced is told.
fn told(from: &str, to: &str) -> String {
    assert!(ISSUE.contains(from), "{from}");
    read(&ISSUE.replace(from, to)).unwrap_err().to_string()
}

#[test]
fn the_documented_file_is_read() {
    let settings = read(ISSUE).unwrap();
    assert_eq!(settings.archive, "shop/orders");
    assert_eq!(
        settings.control_socket(),
        Path::new("/holdfast/run/control.sock")
    );
    assert_eq!(settings.wal_compression, Compression::Zstd(1));
    assert_eq!(settings.backup_compression, Compression::Lz4);
    let every = |seconds| Streaming {
        interval: Duration::from_secs(seconds),
        synchronous: false,
    };
    assert_eq!(settings.streaming, Some(every(5)));
    assert_eq!((settings.parallelism, settings.memory), (2, 256 << 20));
    assert_eq!(
        settings.accept_system_identifier,
        Some(SystemIdentifier(7_000_000_000_000_000_001))
    );
    let [main, second] = settings.repositories.as_slice() else {
        panic!()
    };
    assert_eq!((main.mode, second.mode), (Mode::Required, Mode::BestEffort));
    let Place::S3(s3) = &main.place else { panic!() };
    assert!(s3.verify_tls);
    let credentials = s3.credentials.as_ref().unwrap();
    assert_eq!(credentials.access_key_id, Path::new("/etc/holdfast/id"));
    assert_eq!(credentials.secret_access_key, Path::new("/secret"));
    assert_eq!(
        main.encryption.as_ref().unwrap().key_files["k1"],
        Path::new("/etc/holdfast/keys/k1")
    );
}

#[test]
fn all_else_has_a_default() {
    let settings = read(SHORT).unwrap();
    assert_eq!(settings.socket, Path::new("/holdfast/run/wal.sock"));
    assert_eq!(settings.postgres.port, 5432);
    assert_eq!(settings.postgres.database, "postgres");
    assert_eq!(settings.wal_compression, Compression::Zstd(1));
    let streaming = settings.streaming.unwrap();
    assert_eq!(
        (streaming.interval, streaming.synchronous),
        (Duration::from_secs(1), false)
    );
    assert_eq!(settings.backup_compression, Compression::Zstd(3));
    assert_eq!(settings.first_repository().unwrap().name, "r");
}

#[test]
fn a_wrong_name_is_told_with_its_place_and_the_right_one() {
    for (from, to, expected) in [
        (
            "user: postgres",
            "usr: postgres",
            "/etc/holdfast/settings.yaml:4:92: unknown field \"usr\"; did you mean \"user\"?",
        ),
        (
            "bucket:",
            "buckte:",
            "/etc/holdfast/settings.yaml:7:8: unknown field \"buckte\"; did you mean \"bucket\"?",
        ),
        (
            "wal: {",
            "wall: {",
            "/etc/holdfast/settings.yaml:13:1: unknown field \"wall\"; did you mean \"wal\"?",
        ),
        (
            "algorithm: lz4",
            "algorithm: lz5",
            "unknown value \"lz5\"; did you mean \"lz4\"?",
        ),
        (
            "mode: BestEffort",
            "mode: besteffort",
            "unknown value \"besteffort\"; did you mean \"BestEffort\"?",
        ),
        (
            "path: /backup",
            "directory: /backup",
            "unknown field \"directory\"; it can be path",
        ),
    ] {
        let message = told(from, to);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_secret_in_the_wrong_place_is_not_printed() {
    let message = told("user: postgres", "password: hunter2");
    assert!(
        message.contains("\"password\"") && !message.contains("hunter2"),
        "{message}"
    );
}

#[test]
fn wrong_values_are_told_with_their_place() {
    for (from, to, expected) in [
        (
            "archive: shop/orders",
            "archive: orders",
            ":2:10: the archive \"orders\" is not of the form namespace/name",
        ),
        (
            "archive: shop/orders",
            "archive: shop/../orders",
            "must be namespace/name",
        ),
        (
            "archive: shop/orders",
            "archive: Shop/orders",
            "must be namespace/name",
        ),
        (
            "archive: shop/orders",
            "archive: /orders",
            "must be namespace/name",
        ),
        ("archive: shop/orders", "socket: /s", "settings.yaml:"),
        ("port: 5432", "port: 0", "port is 0"),
        ("port: 5432", "port: many", "settings.yaml:4:"),
        ("port: 5432", "port: 70000", "settings.yaml:4:"),
        (
            "level: 1",
            "level: 20",
            ":13:45: zstd's level is 1 (fast) to 19 (small), not 20",
        ),
        (
            "{algorithm: lz4}",
            "{algorithm: lz4, level: 3}",
            "only zstd has a level",
        ),
        (
            "parallelism: 2",
            "parallelism: 0",
            "parallelism is 1 to 64, not 0",
        ),
        (
            "parallelism: 2",
            "parallelism: 65",
            "parallelism is 1 to 64, not 65",
        ),
        (
            "intervalSeconds: 5",
            "intervalSeconds: 61",
            "intervalSeconds is 61: give it in seconds, 60 at most",
        ),
        (
            "intervalSeconds: 5",
            "intervalSeconds: -1",
            "settings.yaml:13:",
        ),
        ("memory: 256Mi", "memory: 63Mi", "at least 64Mi"),
        ("memory: 256Mi", "memory: lots", "is no amount of memory"),
        (
            "name: second",
            "name: main",
            "a second repository named \"main\"",
        ),
        (
            "currentKey: k1",
            "currentKey: k2",
            "currentKey \"k2\" is not one of keyFiles",
        ),
        (
            "\"http://127.0.0.1:9000\"",
            "127.0.0.1:9000",
            "an endpoint begins with https://",
        ),
        (
            "  filesystem: {path: /backup}\n",
            "",
            "the repository \"second\" has none of s3, azure, gcs and filesystem",
        ),
        (
            "mode: BestEffort",
            "s3: {bucket: b}",
            "the repository \"second\" has s3 and filesystem: write one",
        ),
        (
            "{accessKeyIdFile: id, secretAccessKeyFile: /secret}",
            "{accessKeyIdFile: id}",
            ":8:16: the credentials of s3 are accessKeyIdFile, secretAccessKeyFile",
        ),
        (
            "accessKeyIdFile: id,",
            "accessKeyIdFile: id, accountKeyFile: k,",
            ":8:16: the credentials of s3 are",
        ),
        (
            "filesystem: {path: /backup}",
            "filesystem: {path: /backup}\n  credentials: {serviceAccountFile: k}",
            "a filesystem repository has no credentials",
        ),
        ("\"7000000000000000001\"", "mine", "is no system identifier"),
        ("archive: shop/orders", "archive: [", "settings.yaml:"),
        (
            "  mode: BestEffort",
            "  mode: BestEffort\n  mode: Required",
            "settings.yaml:",
        ),
    ] {
        let message = told(from, to);
        assert!(message.contains(expected), "{to}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    for (text, expected) in [
        ("", "empty"),
        ("- a\n", "settings.yaml"),
        ("a: b: c\n", "settings.yaml"),
    ] {
        let message = read(text).unwrap_err().to_string();
        assert!(message.contains(expected), "{text:?}: {message}");
    }
}

#[test]
fn azure_and_gcs_are_read() {
    let second = |text: &str| ISSUE.replace("filesystem: {path: /backup}", text);
    let place = |text: &str| read(&second(text)).unwrap().repositories[1].place.clone();
    let Place::Azure(azure) = place(
        "azure: {account: acme1, container: pg-1, prefix: /a/b/, endpoint: \"http://h/acme1\", caFile: ca, verifyTls: false}\n  credentials: {accountKeyFile: key}",
    ) else {
        panic!()
    };
    assert_eq!(
        azure,
        Azure {
            account: "acme1".into(),
            container: "pg-1".into(),
            prefix: "a/b".into(),
            endpoint: Some("http://h/acme1".into()),
            ca_file: Some("/etc/holdfast/ca".into()),
            verify_tls: false,
            credentials: Some(AzureCredentialFile::AccountKey("/etc/holdfast/key".into())),
        }
    );
    let Place::Azure(azure) =
        place("azure: {account: acme, container: pg1}\n  credentials: {sasTokenFile: token}")
    else {
        panic!()
    };
    assert!(azure.verify_tls && azure.endpoint.is_none());
    let token = AzureCredentialFile::SasToken("/etc/holdfast/token".into());
    assert_eq!(azure.credentials, Some(token));
    let Place::Gcs(gcs) =
        place("gcs: {bucket: b, prefix: p}\n  credentials: {serviceAccountFile: /key.json}")
    else {
        panic!()
    };
    assert_eq!(
        (gcs.prefix.as_str(), gcs.service_account.as_deref()),
        ("p", Some(Path::new("/key.json")))
    );
    for environment in ["azure: {account: acme, container: pg1}", "gcs: {bucket: b}"] {
        assert!(place(environment).files().is_empty());
    }
    for (text, expected) in [
        (
            "azure: {container: pg1}",
            "the field \"account\" is missing",
        ),
        (
            "azure: {account: acme}",
            "the field \"container\" is missing",
        ),
        (
            "azure: {account: acme.blob, container: pg1}",
            ":11:20: a storage account's name has 3 to 24",
        ),
        (
            "azure: {account: acme, container: pg1/prod}",
            "what follows it belongs into prefix",
        ),
        (
            "azure: {account: acme, container: pg1, prefix: a/../b}",
            "as a part",
        ),
        (
            "azure: {account: acme, container: pg1, bucket: b}",
            "unknown field \"bucket\"",
        ),
        (
            "azure: {account: acme, container: pg1}\n  credentials: {accountKeyFile: k, sasTokenFile: t}",
            ":12:16: the credentials of azure are one of",
        ),
        (
            "azure: {account: acme, container: pg1}\n  credentials: {}",
            "the credentials of azure are one of",
        ),
        (
            "azure: {account: acme, container: pg1}\n  credentials: {accessKeyIdFile: k, secretAccessKeyFile: s}",
            "the credentials of azure are one of",
        ),
        (
            "gcs: {bucket: b}\n  credentials: {accountKeyFile: k}",
            "the credentials of gcs are serviceAccountFile",
        ),
        ("gcs: {bucket: b/p}", "a bucket's name has no '/'"),
        ("gcs: {bucket: b, endpoint: host}", "begins with https://"),
        ("gcs: {bucket: b, region: r}", "unknown field \"region\""),
        (
            "gcs: {bucket: b}\n  azure: {account: acme, container: pg1}",
            "the repository \"second\" has azure and gcs: write one",
        ),
    ] {
        let message = read(&second(text)).unwrap_err().to_string();
        assert!(message.contains(expected), "{text}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn all_problems_are_told_at_once_by_line() {
    let text = ISSUE
        .replace("level: 1", "level: 99")
        .replace("archive: shop/orders", "archive: x")
        .replace("memory: 256Mi", "memory: 1");
    let message = read(&text).unwrap_err().to_string();
    let lines: Vec<_> = message
        .lines()
        .map(|l| l.split(':').nth(1).unwrap())
        .collect();
    assert_eq!(lines, ["2", "13", "15"], "{message}");
}

#[test]
fn only_best_effort_is_not_enough() {
    let text = SHORT.replace("path: /b}", "path: /b}, mode: BestEffort");
    assert!(
        read(&text)
            .unwrap_err()
            .to_string()
            .contains("mode Required")
    );
    let text = SHORT.replace("[{name: r, filesystem: {path: /b}}]", "[]");
    assert!(
        read(&text)
            .unwrap_err()
            .to_string()
            .contains("at least one")
    );
}

#[test]
fn a_missing_file_is_told() {
    let error = load(Path::new("/nowhere/settings.yaml")).unwrap_err();
    assert!(
        error.to_string().contains("/nowhere/settings.yaml"),
        "{error}"
    );
}

#[test]
fn a_recovery_has_one_target_and_a_repository_that_is_there() {
    let told = |recovery: &str| {
        let text = format!("{SHORT}bootstrap: {{recovery: {recovery}}}\n");
        let recovery = read(&text).map(|settings| settings.recovery.unwrap().request.target);
        recovery.map_err(|problems| problems.to_string())
    };
    let to = |target: &str| {
        told(&format!(
            "{{repository: r, archive: a/b, target: {target}}}"
        ))
    };
    for (target, expected) in [
        ("{latest: {}}", Target::Latest),
        ("{immediate: {}}", Target::Immediate),
        ("{lsn: 0/1F}", Target::Lsn(holdfast_postgres::Lsn(0x1f))),
        ("{name: before}", Target::Name("before".into())),
        (
            "{time: '2026-11-20T10:00:00+01:00', exclusive: true}",
            Target::Time("2026-11-20T09:00:00Z".parse().unwrap()),
        ),
    ] {
        assert_eq!(to(target), Ok(expected), "{target}");
    }
    for (recovery, expected) in [
        (
            "{repository: x, archive: a/b, target: {latest: {}}}",
            "no repository named \"x\"",
        ),
        (
            "{repository: r, archive: b, target: {latest: {}}}",
            "namespace/name",
        ),
        ("{repository: r, archive: a/b, target: {}}", "0 targets"),
        (
            "{repository: r, archive: a/b, target: {latest: {}}, action: Stop}",
            "Shutdown",
        ),
        (
            "{repository: r, archive: a/b, target: {latest: {}, name: x}}",
            "2 targets",
        ),
        (
            "{repository: r, archive: a/b, target: {time: '2026-11-20T10:00:00'}}",
            "no time zone",
        ),
        (
            "{repository: r, archive: a/b, target: {xid: '1'}}",
            "from 3",
        ),
        (
            "{repository: r, archive: a/b, target: {name: x, exclusive: true}}",
            "exclusive means",
        ),
        (
            "{repository: r, archive: a/b, target: {latest: {}, timeline: newest}}",
            "latest or current",
        ),
    ] {
        let problems = told(recovery).unwrap_err();
        assert!(problems.contains(expected), "{recovery}: {problems}");
    }
}

/// All that the operator may write is read, and means what it says.
#[test]
fn what_the_protocol_writes_is_read() {
    use holdfast_protocol::settings as written;
    let text = |s: &str| Some(s.to_owned());
    let compression = |algorithm: &str, level| written::Compression {
        algorithm: algorithm.into(),
        level,
    };
    let source = written::Repository {
        name: "prod".into(),
        place: written::Place::S3(written::S3 {
            bucket: "prod".into(),
            prefix: None,
            region: None,
            endpoint: None,
            ca_file: None,
        }),
        credentials: None,
        encryption: None,
        mode: "Required".into(),
    };
    let full = written::SettingsFile {
        archive: "shop/orders".into(),
        generation: Some(7),
        postgres: written::Postgres {
            data_directory: text("/data"),
            host: text("127.0.0.1"),
            port: Some(5433),
            user: text("backup"),
            password_file: text("postgres-password"),
            ssl_mode: text("require"),
        },
        repositories: vec![written::Repository {
            name: "s3".into(),
            place: written::Place::S3(written::S3 {
                bucket: "acme".into(),
                prefix: text("prod"),
                region: text("eu-central-1"),
                endpoint: text("http://minio:9000"),
                ca_file: text("s3.ca.crt"),
            }),
            credentials: Some(written::Credentials::AccessKey {
                access_key_id_file: "s3.access-key-id".into(),
                secret_access_key_file: "s3.secret-access-key".into(),
                session_token_file: text("s3.session-token"),
            }),
            encryption: Some(written::Encryption {
                current_key: "k1".into(),
                key_files: BTreeMap::from([("k1".into(), "s3.key.k1".into())]),
            }),
            mode: "Required".into(),
        }],
        sources: vec![source],
        wal: Some(written::Wal {
            compression: compression("zstd", Some(2)),
            streaming: written::Streaming {
                interval_seconds: 7,
                synchronous: true,
            },
        }),
        backup: Some(written::Backup {
            compression: compression("none", None),
            parallelism: Some(8),
        }),
        control: Some(written::Control {
            listen: "[::]:9643".into(),
            ca_file: "ca.crt".into(),
            certificate_file: "tls.crt".into(),
            key_file: "tls.key".into(),
        }),
        monitoring: Some(written::Monitoring {
            listen: "0.0.0.0:9644".into(),
        }),
        history_directory: text("."),
        accept_system_identifier: text("7000000000000000001"),
        bootstrap: Some(written::Bootstrap {
            recovery: Some(written::Recovery {
                repository: "prod".into(),
                archive: "shop/old".into(),
                target: written::RecoveryTarget {
                    xid: text("741"),
                    exclusive: true,
                    timeline: text("2"),
                    backup: text("b"),
                    ..written::RecoveryTarget::default()
                },
                action: text("Shutdown"),
            }),
            order: Some(written::RestoreOrder {
                id: "5f0c".into(),
                pod: "orders-0".into(),
                wiped: vec!["orders-1".into()],
                system_identifier: "7000000000000000001".into(),
                repository: "s3".into(),
                target: written::RecoveryTarget {
                    latest: Some(written::Nothing {}),
                    ..written::RecoveryTarget::default()
                },
                action: "Pause".into(),
                force: true,
            }),
        }),
    };
    for file in [
        serde_saphyr::to_string(&full).unwrap(),
        serde_json::to_string_pretty(&full).unwrap(),
    ] {
        let settings = read(&file).unwrap_or_else(|problems| panic!("{problems}\n{file}"));
        let folder = Path::new("/etc/holdfast");
        assert_eq!(settings.generation, Some(7));
        let recovery = settings.recovery.as_ref().unwrap();
        assert_eq!(settings.sources.len(), 1);
        assert_eq!(
            settings.repository(&recovery.repository),
            settings.sources.first()
        );
        assert_eq!(
            (recovery.archive.as_str(), recovery.action),
            ("shop/old", Action::Shutdown)
        );
        let order = settings.order.as_ref().unwrap();
        assert_eq!(
            (order.id.as_str(), order.pod.as_str()),
            ("5f0c", "orders-0")
        );
        assert_eq!(order.wiped, ["orders-1"]);
        assert_eq!(order.request.target, Target::Latest);
        assert!(order.force && order.action == Action::Pause);
        let request = Request {
            target: Target::Xid(741),
            exclusive: true,
            timeline: TimelineChoice::Number(TimelineId(2)),
            backup: text("b"),
        };
        assert_eq!(recovery.request, request);
        assert_eq!(settings.history_directory, Some(folder.join(".")));
        let postgres = &settings.postgres;
        assert_eq!(postgres.data_directory, Path::new("/data"));
        assert_eq!(
            (&*postgres.host, postgres.port, &*postgres.user),
            ("127.0.0.1", 5433, "backup")
        );
        assert_eq!(
            postgres.password_file,
            Some(folder.join("postgres-password"))
        );
        assert_eq!(postgres.ssl_mode, SslMode::Require);
        let control = settings.control.as_ref().unwrap();
        assert_eq!(control.listen, "[::]:9643".parse().unwrap());
        assert_eq!(control.key_file, folder.join("tls.key"));
        assert_eq!(settings.monitoring, "0.0.0.0:9644".parse().ok());
        assert_eq!(settings.wal_compression, Compression::Zstd(2));
        let streaming = settings.streaming.unwrap();
        assert_eq!(
            (streaming.interval, streaming.synchronous),
            (Duration::from_secs(7), true)
        );
        assert_eq!(settings.backup_compression, Compression::None);
        assert_eq!(settings.parallelism, 8);
        assert_eq!(
            settings.accept_system_identifier,
            Some(SystemIdentifier(7_000_000_000_000_000_001))
        );
        // Everything is relative to the folder.
        assert!(
            settings.files().iter().all(|file| file.starts_with(folder)),
            "{:?}",
            settings.files()
        );
        assert_eq!(settings.files().len(), 10);
    }
    let least = written::SettingsFile {
        generation: None,
        postgres: written::Postgres::default(),
        wal: None,
        backup: None,
        control: None,
        monitoring: None,
        history_directory: None,
        accept_system_identifier: None,
        ..full
    };
    let file = serde_saphyr::to_string(&least).unwrap();
    let overrides = Overrides {
        data_directory: Some("/var/lib/postgresql/data".into()),
        memory: None,
    };
    let settings = read_with(&file, &overrides).unwrap_or_else(|e| panic!("{e}\n{file}"));
    assert_eq!(
        settings.postgres.data_directory,
        Path::new("/var/lib/postgresql/data")
    );
    assert_eq!(settings.postgres.ssl_mode, SslMode::Prefer);
    let azure = written::Place::Azure(written::Azure {
        account: "acme".into(),
        container: "acme-pg".into(),
        prefix: text("prod"),
        endpoint: text("https://h"),
        ca_file: text("r.ca.crt"),
    });
    let gcs = written::Place::Gcs(written::Gcs {
        bucket: "acme-pg".into(),
        prefix: text("prod"),
        endpoint: text("https://h"),
        ca_file: text("r.ca.crt"),
    });
    for (place, credentials) in [
        (
            azure.clone(),
            written::Credentials::AccountKey {
                account_key_file: "r.account-key".into(),
            },
        ),
        (
            azure,
            written::Credentials::SasToken {
                sas_token_file: "r.sas-token".into(),
            },
        ),
        (
            gcs,
            written::Credentials::ServiceAccount {
                service_account_file: "r.service-account.json".into(),
            },
        ),
    ] {
        let mut other = least.clone();
        other.repositories[0].place = place;
        other.repositories[0].credentials = Some(credentials);
        let file = serde_saphyr::to_string(&other).unwrap();
        let settings = read_with(&file, &overrides).unwrap_or_else(|e| panic!("{e}\n{file}"));
        assert_eq!(settings.repositories[0].place.files().len(), 2, "{file}");
    }
    let message = read(&file).unwrap_err().to_string();
    assert!(
        message.contains("the field \"dataDirectory\" is missing"),
        "{message}"
    );
}

#[test]
fn the_environment_wins() {
    let overrides = Overrides {
        data_directory: Some("/pod".into()),
        memory: Some("128Mi".into()),
    };
    let settings = read_with(ISSUE, &overrides).unwrap();
    assert_eq!(settings.postgres.data_directory, Path::new("/pod"));
    assert_eq!(settings.memory, 128 << 20);
    for (memory, expected) in [
        ("1Mi", "HOLDFAST_MEMORY: memory is 1Mi"),
        ("x", "HOLDFAST_MEMORY: \"x\" is no amount"),
    ] {
        let overrides = Overrides {
            memory: Some(memory.into()),
            ..Overrides::default()
        };
        let message = read_with(SHORT, &overrides).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn addresses_and_files_of_the_servers_are_checked() {
    let control =
        "control: {listen: \"[::]:9643\", caFile: ca, certificateFile: crt, keyFile: key}\n";
    assert!(read(&format!("{SHORT}{control}")).is_ok());
    for (from, to, expected) in [
        (
            "[::]:9643",
            ":9643",
            "4:19: \":9643\" is no address to listen on: write an address and a port",
        ),
        ("[::]:9643", "localhost:9643", "is no address to listen on"),
        ("[::]:9643", "0.0.0.0", "is no address to listen on"),
        (
            "caFile",
            "caFil",
            "unknown field \"caFil\"; did you mean \"caFile\"?",
        ),
        (
            "keyFile: key",
            "keyFil: key",
            "unknown field \"keyFil\"; did you mean \"keyFile\"?",
        ),
        (", keyFile: key", "", "the field \"keyFile\" is missing"),
    ] {
        let text = format!("{SHORT}{}", control.replace(from, to));
        let message = read(&text).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    for (line, expected) in [
        (
            "monitoring: {listen: \"9644\"}\n",
            "is no address to listen on",
        ),
        ("monitoring: {port: 1}\n", "unknown field \"port\""),
        ("generation: new\n", "settings.yaml:4:"),
    ] {
        let message = read(&format!("{SHORT}{line}")).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    let message = told("port: 5432", "sslMode: verify-full");
    assert!(
        message.contains("unknown value \"verify-full\"; it can be disable, prefer or require"),
        "{message}"
    );
}
