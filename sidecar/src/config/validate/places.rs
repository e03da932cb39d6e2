//! Where repositories are, and with which credentials.

use super::Problems;
use crate::config::{Azure, AzureCredentialFile, CredentialFiles, Gcs, S3, file};
use serde_saphyr::Spanned;
use std::path::Path;

type Credentials = Option<Spanned<file::Credentials>>;

pub(super) fn check_s3(
    problems: &mut Problems,
    folder: &Path,
    s3: file::S3,
    credentials: Credentials,
) -> S3 {
    let file::S3 {
        bucket,
        prefix,
        region,
        endpoint,
        ca_file,
        verify_tls,
    } = s3;
    let credentials = credentials.and_then(|credentials| match &credentials.value {
        file::Credentials {
            access_key_id_file: Some(id),
            secret_access_key_file: Some(secret),
            session_token_file,
            account_key_file: None,
            sas_token_file: None,
            service_account_file: None,
        } => Some(CredentialFiles {
            access_key_id: folder.join(id),
            secret_access_key: folder.join(secret),
            session_token: session_token_file.as_ref().map(|file| folder.join(file)),
        }),
        _ => {
            problems.at(&credentials, "the credentials of s3 are accessKeyIdFile, secretAccessKeyFile and, for temporary ones, sessionTokenFile");
            None
        }
    });
    S3 {
        bucket: check_bucket(problems, bucket),
        prefix: check_prefix(problems, prefix),
        region: region.filter(|r| !r.is_empty()),
        endpoint: check_endpoint(problems, endpoint),
        ca_file: ca_file.map(|file| folder.join(file)),
        verify_tls: verify_tls.unwrap_or(true),
        credentials,
    }
}

pub(super) fn check_azure(
    problems: &mut Problems,
    folder: &Path,
    azure: file::Azure,
    credentials: Credentials,
) -> Azure {
    let file::Azure {
        account,
        container,
        prefix,
        endpoint,
        ca_file,
        verify_tls,
    } = azure;
    let has = |text: &str, lengths: std::ops::RangeInclusive<usize>, besides: &[u8]| {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || besides.contains(&b);
        lengths.contains(&text.len()) && text.bytes().all(fits)
    };
    // It becomes a part of the address.
    if !has(&account.value, 3..=24, b"") {
        problems.at(
            &account,
            "a storage account's name has 3 to 24 lower-case letters and digits",
        );
    }
    if !has(&container.value, 3..=63, b"-") {
        problems.at(
            &container,
            "a container's name has 3 to 63 lower-case letters, digits and '-'; what follows it belongs into prefix",
        );
    }
    let credentials = credentials.and_then(|credentials| match &credentials.value {
        file::Credentials {
            access_key_id_file: None,
            secret_access_key_file: None,
            session_token_file: None,
            account_key_file: Some(key),
            sas_token_file: None,
            service_account_file: None,
        } => Some(AzureCredentialFile::AccountKey(folder.join(key))),
        file::Credentials {
            access_key_id_file: None,
            secret_access_key_file: None,
            session_token_file: None,
            account_key_file: None,
            sas_token_file: Some(token),
            service_account_file: None,
        } => Some(AzureCredentialFile::SasToken(folder.join(token))),
        _ => {
            problems.at(
                &credentials,
                "the credentials of azure are one of accountKeyFile and sasTokenFile",
            );
            None
        }
    });
    Azure {
        account: account.value,
        container: container.value,
        prefix: check_prefix(problems, prefix),
        endpoint: check_endpoint(problems, endpoint),
        ca_file: ca_file.map(|file| folder.join(file)),
        verify_tls: verify_tls.unwrap_or(true),
        credentials,
    }
}

pub(super) fn check_gcs(
    problems: &mut Problems,
    folder: &Path,
    gcs: file::Gcs,
    credentials: Credentials,
) -> Gcs {
    let file::Gcs {
        bucket,
        prefix,
        endpoint,
        ca_file,
        verify_tls,
    } = gcs;
    let service_account = credentials.and_then(|credentials| match &credentials.value {
        file::Credentials {
            access_key_id_file: None,
            secret_access_key_file: None,
            session_token_file: None,
            account_key_file: None,
            sas_token_file: None,
            service_account_file: Some(key),
        } => Some(folder.join(key)),
        _ => {
            problems.at(
                &credentials,
                "the credentials of gcs are serviceAccountFile",
            );
            None
        }
    });
    Gcs {
        bucket: check_bucket(problems, bucket),
        prefix: check_prefix(problems, prefix),
        endpoint: check_endpoint(problems, endpoint),
        ca_file: ca_file.map(|file| folder.join(file)),
        verify_tls: verify_tls.unwrap_or(true),
        service_account,
    }
}

fn check_bucket(problems: &mut Problems, bucket: Spanned<String>) -> String {
    if bucket.value.contains('/') {
        problems.at(
            &bucket,
            "a bucket's name has no '/': what follows it belongs into prefix",
        );
    }
    problems.text(bucket, "bucket")
}

fn check_prefix(problems: &mut Problems, prefix: Option<Spanned<String>>) -> String {
    let Some(prefix) = prefix else {
        return String::new();
    };
    if prefix
        .value
        .split('/')
        .any(|part| matches!(part, "." | ".."))
    {
        problems.at(&prefix, "a prefix can't have '.' or '..' as a part");
    }
    prefix.value.trim_matches('/').to_owned()
}

fn check_endpoint(problems: &mut Problems, endpoint: Option<Spanned<String>>) -> Option<String> {
    let endpoint = endpoint?;
    if !endpoint.value.starts_with("http://") && !endpoint.value.starts_with("https://") {
        problems.at(
            &endpoint,
            "an endpoint begins with https:// (or http://, which sends everything in the clear)",
        );
    }
    Some(endpoint.value)
}
