//! What a server's configuration needs from outside of its data directory: a backup has none of it, and where it is
//! missing the server does not start.

use crate::auto_conf::{self, Line};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// So many are named; a configuration that needs more is told by these.
const MOST: usize = 100;
/// So much of a configuration file is read, in bytes.
const LARGEST: u64 = 1 << 20;
/// So many files are read, each time that one is included.
const MOST_FILES: usize = 1000;
/// As deep as the server follows (`CONF_FILE_MAX_DEPTH`).
const DEEPEST: usize = 10;

/// The names of libraries, which are no paths.
pub const LIBRARIES: &str = "shared_preload_libraries";

/// Something outside of the data directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outside {
    /// The configuration file that names it, relative to the data directory, such as `postgresql.auto.conf`.
    pub file: String,
    /// How: `include`, `include_dir`, or a setting, such as `hba_file`.
    pub setting: String,
    /// An absolute path; of [`LIBRARIES`], one library as it is written.
    pub value: String,
}

impl Outside {
    /// Whether a server that is only to recover, with an access file of its own and without TLS, needs it too.
    #[must_use]
    pub fn is_for_recovery(&self) -> bool {
        matches!(self.setting.as_str(), "include" | "include_dir" | LIBRARIES)
    }
}

/// Reads `postgresql.conf`, what it includes of the directory, and `postgresql.auto.conf`. What can't be read is left out,
/// and so are libraries without a path where the configuration says by itself in which directories they lie.
#[must_use]
pub fn outside(data_directory: &Path) -> Vec<Outside> {
    let mut look = Look {
        root: data_directory,
        files: 0,
        included: Vec::new(),
        settings: BTreeMap::new(),
    };
    for file in ["postgresql.conf", "postgresql.auto.conf"] {
        look.read(&data_directory.join(file), 0);
    }
    let Look {
        included: mut found,
        mut settings,
        ..
    } = look;
    let mut take = |name: &str| settings.remove(name);
    let is_on = |(_, value): (String, String)| {
        matches!(value.to_lowercase().as_str(), "on" | "true" | "yes" | "1")
    };
    let own_path = take("dynamic_library_path").is_some();
    for library in take(LIBRARIES)
        .iter()
        .flat_map(|(file, value)| list(value).into_iter().map(move |name| (file, name)))
    {
        let (file, name) = library;
        if !own_path || name.contains('/') {
            found.push(Outside {
                file: file.clone(),
                setting: LIBRARIES.to_owned(),
                value: name,
            });
        }
    }
    let mut files = vec!["hba_file"];
    if take("ssl").is_some_and(is_on) {
        files.extend(["ssl_cert_file", "ssl_key_file", "ssl_ca_file"]);
    }
    for setting in files {
        if let Some((file, value)) = take(setting)
            && !value.is_empty()
            && let path = plain(&data_directory.join(value))
            && !path.starts_with(data_directory)
        {
            found.push(Outside {
                file,
                setting: setting.to_owned(),
                value: path.to_string_lossy().into_owned(),
            });
        }
    }
    found.sort();
    found.dedup();
    found.truncate(MOST);
    found
}

struct Look<'a> {
    root: &'a Path,
    files: usize,
    included: Vec<Outside>,
    /// By name: where it was said last, and what.
    settings: BTreeMap<String, (String, String)>,
}

impl Look<'_> {
    fn read(&mut self, path: &Path, depth: usize) {
        self.files += 1;
        if depth > DEEPEST || self.files > MOST_FILES || self.included.len() > MOST {
            return;
        }
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(LARGEST).read_to_end(&mut bytes));
        if read.is_err() {
            return;
        }
        let file = path.strip_prefix(self.root).unwrap_or(path);
        let file = file.to_string_lossy().into_owned();
        let text = String::from_utf8_lossy(&bytes);
        for Line { name, value } in auto_conf::lines(&text) {
            let name = name.to_lowercase();
            let (true, Some(folder)) = (name.starts_with("include"), path.parent()) else {
                self.settings.insert(name, (file.clone(), value));
                continue;
            };
            // Relative to the file that says it.
            let target = plain(&folder.join(&value));
            if !target.starts_with(self.root) {
                // What it sets is not known, and beats what was set before.
                self.settings.clear();
            }
            match target.starts_with(self.root) {
                false if name == "include_if_exists" => {}
                false => self.included.push(Outside {
                    file: file.clone(),
                    setting: name,
                    value: target.to_string_lossy().into_owned(),
                }),
                true if name == "include_dir" => {
                    for path in configuration_files(&target) {
                        self.read(&path, depth + 1);
                    }
                }
                true => self.read(&target, depth + 1),
            }
        }
    }
}

/// In the order in which the server reads them.
fn configuration_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.ends_with(".conf") && !name.starts_with('.')
        })
        .collect();
    files.sort();
    files
}

/// Without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// A list of file names (`SplitDirectoriesString`): by commas, each perhaps in double quotes.
fn list(value: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut quoted = false;
    let mut rest = value.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => {
                rest.next();
                names.last_mut().into_iter().for_each(|name| name.push('"'));
            }
            '"' => quoted = !quoted,
            ',' if !quoted => names.push(String::new()),
            other => names
                .last_mut()
                .into_iter()
                .for_each(|name| name.push(other)),
        }
    }
    let names = names.into_iter().map(|name| name.trim().to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

/// Where the server looks for a library (`expand_dynamic_library_name`), given `dynamic_library_path` and the directory
/// that `$libdir` stands for.
#[must_use]
pub fn candidates(library: &str, search_path: &str, libdir: &str) -> Vec<String> {
    let expand = |path: &str| match path.strip_prefix("$libdir") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{libdir}{rest}"),
        _ => path.to_owned(),
    };
    let bare: Vec<String> = if library.contains('/') {
        vec![expand(library)]
    } else {
        let folders = search_path.split(':').filter(|folder| !folder.is_empty());
        folders
            .map(|folder| format!("{}/{library}", expand(folder)))
            .collect()
    };
    bare.iter()
        .flat_map(|path| [path.clone(), format!("{path}.so")])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files, by name and text; and what is found, by file, setting and value.
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [(&'a str, &'a str, &'a str)]);

    fn found(files: &[(&str, &str)]) -> Vec<(String, String, String)> {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("data");
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        outside(&root)
            .into_iter()
            .map(|one| (one.file, one.setting, one.value))
            .collect()
    }

    fn all(expected: &[(&str, &str, &str)]) -> Vec<(String, String, String)> {
        expected
            .iter()
            .map(|(a, b, c)| ((*a).into(), (*b).into(), (*c).into()))
            .collect()
    }

    #[test]
    fn what_lies_elsewhere_is_named_with_where_it_is_said() {
        let (conf, auto) = ("postgresql.conf", "postgresql.auto.conf");
        let cases: &[Case<'_>] = &[
            (&[], &[]),
            (
                &[(
                    conf,
                    "#shared_preload_libraries = 'x'\nhba_file = 'pg_hba.conf'\n",
                )],
                &[],
            ),
            (
                &[
                    (conf, "shared_preload_libraries = 'a'\n"),
                    (
                        auto,
                        "shared_preload_libraries = 'b, \"c, d\"\"\" ,,$libdir/e'\n",
                    ),
                ],
                &[
                    (auto, LIBRARIES, "$libdir/e"),
                    (auto, LIBRARIES, "b"),
                    (auto, LIBRARIES, "c, d\""),
                ],
            ),
            (
                &[
                    (conf, "Shared_Preload_Libraries = a\n"),
                    (auto, "shared_preload_libraries = ''\n"),
                ],
                &[],
            ),
            (
                &[(
                    conf,
                    "dynamic_library_path = '/x'\nshared_preload_libraries = 'a,/b/c'\n",
                )],
                &[(conf, LIBRARIES, "/b/c")],
            ),
            (
                &[
                    (
                        conf,
                        "include '/etc/pg/a.conf'\ninclude_if_exists = '/etc/b.conf'\ninclude_dir '../other'\ninclude_dir 'conf.d'\n",
                    ),
                    ("conf.d/1.conf", "include '../2.conf'\n"),
                    ("conf.d/.hidden.conf", "include '/never'\n"),
                    ("conf.d/no", "include '/never'\n"),
                    ("2.conf", "hba_file = '/etc/pg/hba.conf'\n"),
                ],
                &[
                    ("2.conf", "hba_file", "/etc/pg/hba.conf"),
                    (conf, "include", "/etc/pg/a.conf"),
                ],
            ),
            (
                &[(
                    conf,
                    "shared_preload_libraries = 'a'\ninclude_if_exists '/etc/b.conf'\nhba_file = '/etc/hba'\n",
                )],
                &[(conf, "hba_file", "/etc/hba")],
            ),
            // Only what is in use.
            (&[(conf, "ssl_cert_file = '/tls/a'\n")], &[]),
            (
                &[(
                    conf,
                    "ssl = on\nssl_cert_file = '/tls/a'\nssl_key_file = 'server.key'\n",
                )],
                &[(conf, "ssl_cert_file", "/tls/a")],
            ),
            // A circle ends.
            (
                &[(
                    conf,
                    "include 'postgresql.conf'\ninclude 'postgresql.conf'\ninclude 'postgresql.conf'\n",
                )],
                &[],
            ),
        ];
        for (files, expected) in cases {
            let mut told = found(files);
            // Beside the data directory, wherever that is.
            told.retain(|(_, setting, _)| setting != "include_dir");
            assert_eq!(told, all(expected), "{files:?}");
        }
        let other = found(&[("postgresql.conf", "include_dir '../other'\n")]);
        assert!(other[0].2.ends_with("/other"), "{other:?}");
        let many: String = (0..500).map(|n| format!("include '/etc/{n}'\n")).collect();
        assert_eq!(found(&[("postgresql.conf", &many)]).len(), MOST);
    }

    #[test]
    fn a_library_is_looked_for_where_the_server_does() {
        for (library, search_path, expected) in [
            ("a", "$libdir", &["/lib/a", "/lib/a.so"][..]),
            (
                "a.so",
                "/x:$libdir/more",
                &[
                    "/x/a.so",
                    "/x/a.so.so",
                    "/lib/more/a.so",
                    "/lib/more/a.so.so",
                ],
            ),
            ("$libdir/a", "/x", &["/lib/a", "/lib/a.so"]),
            ("/y/a", "/x", &["/y/a", "/y/a.so"]),
            ("$libdirs/a", "/x", &["$libdirs/a", "$libdirs/a.so"]),
        ] {
            assert_eq!(candidates(library, search_path, "/lib"), expected);
        }
    }
}
