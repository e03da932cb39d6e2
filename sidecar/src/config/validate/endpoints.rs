//! Who is spoken to, and on which addresses is listened.

use super::Problems;
use crate::config::{Control, Postgres, file};
use holdfast_postgres::server::SslMode;
use serde_saphyr::Spanned;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Stands where a problem was told, and is never used.
const NO_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

/// `data_directory` is the environment's, and wins.
pub(super) fn check_postgres(
    problems: &mut Problems,
    folder: &Path,
    postgres: Spanned<file::Postgres>,
    data_directory: Option<&Path>,
) -> Postgres {
    let place = postgres.referenced;
    let file::Postgres {
        data_directory: configured,
        host,
        port,
        user,
        database,
        password_file,
        ssl_mode,
    } = postgres.value;
    if let Some(configured) = &configured
        && configured.value.as_os_str().is_empty()
    {
        problems.at(configured, "dataDirectory is empty");
    }
    let data_directory = match (data_directory, configured) {
        (Some(directory), _) => directory.to_owned(),
        (None, Some(configured)) => folder.join(configured.value),
        (None, None) => {
            problems.at_location(place, "the field \"dataDirectory\" is missing");
            PathBuf::new()
        }
    };
    if let Some(port) = port.as_ref().filter(|port| port.value == 0) {
        problems.at(
            port,
            "port is 0; it is 5432 unless the server was told otherwise",
        );
    }
    let mut text = |value: Option<Spanned<String>>, what: &str, default: &str| match value {
        Some(value) => problems.text(value, what),
        None => default.to_owned(),
    };
    Postgres {
        data_directory,
        host: text(host, "host", "/var/run/postgresql"),
        port: port.map_or(5432, |port| port.value),
        user: text(user, "user", "postgres"),
        database: text(database, "database", "postgres"),
        password_file: password_file.map(|file| folder.join(file)),
        ssl_mode: match ssl_mode {
            Some(file::SslMode::Disable) => SslMode::Disable,
            Some(file::SslMode::Prefer) | None => SslMode::Prefer,
            Some(file::SslMode::Require) => SslMode::Require,
        },
    }
}

pub(super) fn check_control(
    problems: &mut Problems,
    folder: &Path,
    control: file::Control,
) -> Control {
    let file::Control {
        listen,
        ca_file,
        certificate_file,
        key_file,
    } = control;
    Control {
        listen: check_listen(problems, &listen).unwrap_or(NO_ADDRESS),
        ca_file: folder.join(ca_file),
        certificate_file: folder.join(certificate_file),
        key_file: folder.join(key_file),
    }
}

/// An address and a port. Names are not looked up: they may change, and what is listened on must not.
pub(super) fn check_listen(
    problems: &mut Problems,
    listen: &Spanned<String>,
) -> Option<SocketAddr> {
    let parsed = listen.value.parse().ok();
    if parsed.is_none() {
        problems.at(
            listen,
            format!(
                "{:?} is no address to listen on: write an address and a port, such as [::]:9643 or 127.0.0.1:9643",
                listen.value
            ),
        );
    }
    parsed
}
