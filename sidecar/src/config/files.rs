//! The files that settings name: which they are, whether they can be used, and whether they have changed.

use super::secrets::read_bounded;
use super::{LARGEST_FILE, SecretError, Settings};
use std::collections::BTreeSet;
use std::path::PathBuf;

impl Settings {
    /// The settings file, and every file that it names. Known history files are none of them: they are read when they
    /// are asked for.
    pub fn files(&self) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::from([self.file.clone()]);
        files.extend(self.postgres.password_file.clone());
        for repository in self.repositories_and_sources() {
            files.extend(repository.place.files().into_iter().map(PathBuf::from));
            if let Some(encryption) = &repository.encryption {
                files.extend(encryption.key_files.values().cloned());
            }
        }
        if let Some(control) = &self.control {
            files.extend([
                control.ca_file.clone(),
                control.certificate_file.clone(),
                control.key_file.clone(),
            ]);
        }
        files
    }

    /// Reads all that archiving and backups need, and throws it away again. The control API's certificates are not
    /// among them: they are judged where they are used.
    pub fn check_secrets(&self) -> Result<(), SecretError> {
        for repository in &self.repositories {
            repository.store_settings()?;
            repository.master_keys()?;
        }
        self.postgres.connect_options("holdfast")?;
        Ok(())
    }
}

/// What a set of files held at one moment, as a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Reads the files. One that can't be read counts with the reason.
    pub fn of(files: &BTreeSet<PathBuf>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for file in files {
            let found = match read_bounded(file, LARGEST_FILE) {
                Ok(content) => blake3::hash(&content),
                Err(error) => blake3::hash(format!("unreadable: {:?}", error.kind()).as_bytes()),
            };
            hasher.update(blake3::hash(file.as_os_str().as_encoded_bytes()).as_bytes());
            hasher.update(found.as_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, parse};

    #[test]
    fn every_file_that_is_named_is_watched() {
        let folder = tempfile::tempdir().unwrap();
        let text = "archive: a/b\npostgres: {dataDirectory: /d, passwordFile: p1}\nrepositories:\n\
                    - name: r\n  s3: {bucket: b, caFile: p2}\n  credentials: {accessKeyIdFile: p3, secretAccessKeyFile: p4, sessionTokenFile: p5}\n\
                    \u{20} encryption: {currentKey: k, keyFiles: {k: p6}}\n\
                    control: {listen: \"[::]:1\", caFile: p7, certificateFile: p8, keyFile: p9}\n";
        let settings = parse(&folder.path().join("p0"), text, &Overrides::default()).unwrap();
        let files = settings.files();
        let expected: BTreeSet<_> = (0..10)
            .map(|n| folder.path().join(format!("p{n}")))
            .collect();
        assert_eq!(files, expected);
        let mut seen = vec![Fingerprint::of(&files)];
        for file in &files {
            for content in ["", "x", "y"] {
                std::fs::write(file, content).unwrap();
                let now = Fingerprint::of(&files);
                assert!(!seen.contains(&now), "{}", file.display());
                assert_eq!(now, Fingerprint::of(&files));
                seen.push(now);
            }
        }
    }

    #[test]
    fn secrets_that_cannot_be_used_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let text = "archive: a/b\npostgres: {dataDirectory: /d, passwordFile: password}\n\
                    repositories: [{name: r, filesystem: {path: /b}, encryption: {currentKey: k, keyFiles: {k: key}}}]\n";
        let settings = parse(&folder.path().join("f"), text, &Overrides::default()).unwrap();
        let write = |name: &str, content: &str| std::fs::write(folder.path().join(name), content);
        write("password", "secret").unwrap();
        let told = settings.check_secrets().unwrap_err().to_string();
        assert!(told.contains("key file"), "{told}");
        write("key", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n").unwrap();
        assert!(settings.check_secrets().is_ok());
        write("password", "").unwrap();
        let told = settings.check_secrets().unwrap_err().to_string();
        assert!(told.contains("passwordFile"), "{told}");
    }
}
