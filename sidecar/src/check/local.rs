//! The data directory: readable by this user, and a cluster of a known major.

use super::Finding;
use crate::data_directory::{self, DataDirectoryError};
use holdfast_postgres::ControlFile;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const SUBJECT: &str = "data directory";

pub(super) fn look(directory: &Path) -> (Option<ControlFile>, Vec<Finding>) {
    let place = directory.display();
    let uid = rustix::process::geteuid().as_raw();
    let owner = match fs::metadata(directory) {
        Err(e) => {
            let message = format!("{place} can't be looked at: {e}");
            return (
                None,
                vec![Finding::problem(
                    SUBJECT,
                    message,
                    "postgres: {dataDirectory: …}  # what SHOW data_directory prints",
                )],
            );
        }
        Ok(metadata) => metadata.uid(),
    };
    match data_directory::control_file(directory) {
        Ok(control) => {
            let message = format!(
                "{place} is a cluster of Postgres {} with system identifier {}",
                control.major, control.system_identifier
            );
            let mut findings = vec![Finding::good(SUBJECT, message)];
            findings.extend(user(uid, owner));
            (Some(control), findings)
        }
        Err(error) => {
            let finding = Finding::problem(SUBJECT, error.to_string(), mend(&error, owner));
            (None, vec![finding])
        }
    }
}

fn mend(error: &DataDirectoryError, owner: u32) -> String {
    match error {
        DataDirectoryError::Denied { .. } => {
            format!("setpriv --reuid {owner} --clear-groups holdfast …  # the user that owns it")
        }
        _ => "postgres: {dataDirectory: …}  # what SHOW data_directory prints".to_owned(),
    }
}

/// Files that Postgres makes later are its user's alone, so another user that can read today's may fail tomorrow.
fn user(uid: u32, owner: u32) -> Option<Finding> {
    if uid == owner || uid == 0 {
        return None;
    }
    let message = format!(
        "this is user {uid}, and the data directory belongs to user {owner}, whose files are its own"
    );
    Some(Finding::problem(
        "user",
        message,
        format!("setpriv --reuid {owner} --clear-groups holdfast …"),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn what_is_no_cluster_is_a_problem() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("nowhere")] {
            let (control, findings) = look(&path);
            assert!(control.is_none());
            assert!(
                findings
                    .iter()
                    .any(|f| f.verdict == Verdict::Problem && f.mend.is_some())
            );
        }
    }

    #[test]
    fn each_error_has_its_remedy() {
        let file = std::path::PathBuf::from("/data/global/pg_control");
        let denied = DataDirectoryError::Denied {
            file: file.clone(),
            source: std::io::ErrorKind::PermissionDenied.into(),
        };
        assert!(mend(&denied, 999).starts_with("setpriv --reuid 999 "));
        let missing = DataDirectoryError::Missing {
            directory: "/data".into(),
            file,
        };
        assert!(mend(&missing, 999).contains("dataDirectory"));
    }

    #[test]
    fn another_user_is_a_problem() {
        assert_eq!(user(999, 999), None);
        assert_eq!(user(0, 999), None);
        assert!(user(1000, 999).unwrap().mend.unwrap().contains("999"));
    }
}
