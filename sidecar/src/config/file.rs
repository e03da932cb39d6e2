//! The file's shape: every field that it can have, nothing checked but types.

use super::problem::{Problem, suggestion};
use crate::restore::recovery::Action;
use serde::Deserialize;
use serde_saphyr::{Error, Spanned};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    pub archive: Spanned<String>,
    pub generation: Option<i64>,
    pub socket: Option<Spanned<PathBuf>>,
    pub postgres: Spanned<Postgres>,
    pub repositories: Spanned<Vec<Spanned<Repository>>>,
    #[serde(default)]
    pub sources: Vec<Spanned<Repository>>,
    #[serde(default)]
    pub wal: Wal,
    #[serde(default)]
    pub backup: Backup,
    #[serde(default)]
    pub limits: Limits,
    pub control: Option<Control>,
    pub monitoring: Option<Monitoring>,
    pub history_directory: Option<PathBuf>,
    pub accept_system_identifier: Option<Spanned<String>>,
    pub bootstrap: Option<Bootstrap>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Bootstrap {
    pub recovery: Option<Spanned<Recovery>>,
    pub order: Option<Spanned<RestoreOrder>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RestoreOrder {
    pub id: String,
    pub pod: String,
    pub wiped: Vec<String>,
    pub system_identifier: Spanned<String>,
    pub repository: Spanned<String>,
    pub target: Spanned<Target>,
    pub action: Action,
    #[serde(default)]
    pub force: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Recovery {
    pub repository: Spanned<String>,
    pub archive: Spanned<String>,
    pub target: Spanned<Target>,
    #[serde(default)]
    pub action: Action,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Target {
    pub time: Option<Spanned<String>>,
    pub lsn: Option<Spanned<String>>,
    pub xid: Option<Spanned<String>>,
    pub name: Option<Spanned<String>>,
    pub immediate: Option<Nothing>,
    pub latest: Option<Nothing>,
    #[serde(default)]
    pub exclusive: bool,
    pub timeline: Option<Spanned<String>>,
    pub backup: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Postgres {
    pub data_directory: Option<Spanned<PathBuf>>,
    pub host: Option<Spanned<String>>,
    pub port: Option<Spanned<u16>>,
    pub user: Option<Spanned<String>>,
    pub database: Option<Spanned<String>>,
    pub password_file: Option<PathBuf>,
    pub ssl_mode: Option<SslMode>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum SslMode {
    Disable,
    Prefer,
    Require,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Control {
    pub listen: Spanned<String>,
    pub ca_file: PathBuf,
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Monitoring {
    pub listen: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Repository {
    pub name: Spanned<String>,
    pub s3: Option<Spanned<S3>>,
    pub azure: Option<Spanned<Azure>>,
    pub gcs: Option<Spanned<Gcs>>,
    pub filesystem: Option<Spanned<Filesystem>>,
    pub credentials: Option<Spanned<Credentials>>,
    pub encryption: Option<Encryption>,
    #[serde(default)]
    pub mode: Mode,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct S3 {
    pub bucket: Spanned<String>,
    #[serde(default)]
    pub prefix: Option<Spanned<String>>,
    pub region: Option<String>,
    pub endpoint: Option<Spanned<String>>,
    pub ca_file: Option<PathBuf>,
    pub verify_tls: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Azure {
    pub account: Spanned<String>,
    pub container: Spanned<String>,
    pub prefix: Option<Spanned<String>>,
    pub endpoint: Option<Spanned<String>>,
    pub ca_file: Option<PathBuf>,
    pub verify_tls: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Gcs {
    pub bucket: Spanned<String>,
    pub prefix: Option<Spanned<String>>,
    pub endpoint: Option<Spanned<String>>,
    pub ca_file: Option<PathBuf>,
    pub verify_tls: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Filesystem {
    pub path: Spanned<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Credentials {
    pub access_key_id_file: Option<PathBuf>,
    pub secret_access_key_file: Option<PathBuf>,
    pub session_token_file: Option<PathBuf>,
    pub account_key_file: Option<PathBuf>,
    pub sas_token_file: Option<PathBuf>,
    pub service_account_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Encryption {
    pub current_key: Spanned<String>,
    pub key_files: BTreeMap<String, Spanned<PathBuf>>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) enum Mode {
    #[default]
    Required,
    BestEffort,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Wal {
    pub compression: Option<Compression>,
    #[serde(default)]
    pub streaming: Streaming,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Streaming {
    pub interval_seconds: Option<Spanned<u64>>,
    pub synchronous: Option<Spanned<bool>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Backup {
    pub compression: Option<Compression>,
    pub parallelism: Option<Spanned<u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Compression {
    pub algorithm: Algorithm,
    pub level: Option<Spanned<i32>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Algorithm {
    Zstd,
    Lz4,
    None,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Limits {
    pub memory: Option<Spanned<String>>,
}

/// Reads the text. The parser stops at the first problem.
pub(super) fn parse(text: &str) -> Result<File, Problem> {
    // No snippet: a message must not show what somebody has put into the file by mistake, such as a password.
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let (line, column) = error
            .location()
            .map_or((0, 0), |at| (at.line(), at.column()));
        Problem {
            line,
            column,
            message: describe(error.without_snippet()),
        }
    })
}

fn describe(error: &Error) -> String {
    match error {
        Error::SerdeUnknownField {
            field, expected, ..
        } => format!("unknown field \"{field}\"; {}", suggestion(field, expected)),
        Error::SerdeUnknownVariant {
            variant, expected, ..
        } => format!(
            "unknown value \"{variant}\"; {}",
            suggestion(variant, expected)
        ),
        Error::SerdeMissingField { field, .. } => format!("the field \"{field}\" is missing"),
        Error::SerdeInvalidType {
            unexpected,
            expected,
            ..
        } => format!("this is {unexpected}, and {expected} belongs here"),
        Error::Eof { .. } => "the file is empty".to_owned(),
        other => without_place(&other.to_string()),
    }
}

/// The parser's own words, on one line and without the place, which is said already.
fn without_place(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.rfind(" at line ") {
        Some(at) => line.get(..at).unwrap_or(&line).to_owned(),
        None => line,
    }
}
