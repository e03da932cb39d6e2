//! The commands, and the module, by which Postgres speaks to this sidecar.

use holdfast_wal_socket::DEFAULT_SOCKET;
use std::path::{Path, PathBuf};

/// What stands for another tool than ours.
const PROGRAM: &str = "holdfast-wal";
const MODULE: &str = "holdfast_archive";

/// `holdfast-wal`, as Postgres is told to run it, and the module, as it is told to load it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalCommand {
    program: String,
    module: Option<String>,
    socket: PathBuf,
}

impl WalCommand {
    /// For a sidecar that serves `socket`: as it was installed beside the socket's folder, else as `PATH` finds it.
    pub fn of(socket: &Path) -> Self {
        let installed = Self::installed(socket).filter(|program| program.exists());
        let module = folder(socket).map(|folder| folder.join("lib").join(MODULE));
        // Another socket would have to be told to the server in a setting that it only knows once the module is loaded.
        let loads = |module: &PathBuf| {
            socket == Path::new(DEFAULT_SOCKET) && module.with_extension("so").exists()
        };
        Self {
            program: installed.map_or(PROGRAM.to_owned(), |program| program.display().to_string()),
            module: module
                .filter(loads)
                .map(|module| module.display().to_string()),
            socket: socket.to_owned(),
        }
    }

    /// Where `holdfast sidecar --install` puts the program: `bin/`, beside the socket's folder. There Postgres'
    /// container sees it, too.
    pub fn installed(socket: &Path) -> Option<PathBuf> {
        Some(folder(socket)?.join("bin").join(PROGRAM))
    }

    /// What to set on a server of this version (`server_version_num`) so that it archives: the module's setting from 15 on where
    /// it was installed, else the command's.
    pub fn archiving(&self, version: u32) -> (&'static str, String) {
        match &self.module {
            Some(module) if version >= 150_000 => ("archive_library", module.clone()),
            _ => ("archive_command", self.archive()),
        }
    }

    /// The value of `archive_command`.
    pub fn archive(&self) -> String {
        self.line("archive")
    }

    /// The value of `restore_command`.
    pub fn restore(&self) -> String {
        self.line("restore")
    }

    fn line(&self, verb: &str) -> String {
        let program = &self.program;
        if self.socket == Path::new(DEFAULT_SOCKET) {
            format!("{program} {verb} %f %p")
        } else {
            format!("{program} --socket {} {verb} %f %p", self.socket.display())
        }
    }
}

/// What `holdfast sidecar --install` was given, by its socket.
fn folder(socket: &Path) -> Option<&Path> {
    socket.parent()?.parent()
}

/// Whether an `archive_command` is ours.
pub fn archives(command: &str) -> bool {
    is_ours(command, "archive")
}

/// Whether an `archive_library` is ours, which asks a sidecar's socket as the command does.
pub fn is_module(library: &str) -> bool {
    let name = Path::new(library.strip_suffix(".so").unwrap_or(library)).file_name();
    name.is_some_and(|name| name == MODULE)
}

/// Whether a `restore_command` is ours.
pub fn restores(command: &str) -> bool {
    is_ours(command, "restore")
}

/// Whether a command is `[path/]holdfast-wal [--socket PATH] <verb> %f %p`, and nothing around it that could hide its
/// exit code.
fn is_ours(command: &str, verb: &str) -> bool {
    let plain = |c: char| !matches!(c, '|' | '&' | ';' | '<' | '>' | '`' | '$' | '(' | '\n');
    let mut words = command
        .split_whitespace()
        .map(|word| word.trim_matches(['"', '\'']));
    let program = words.next().is_some_and(|word| {
        Path::new(word)
            .file_name()
            .is_some_and(|name| name == PROGRAM)
    });
    let rest: Vec<&str> = words.collect();
    let rest = match rest.as_slice() {
        ["--socket", _, rest @ ..] => rest,
        [socket, rest @ ..] if socket.starts_with("--socket=") => rest,
        rest => rest,
    };
    program && rest == [verb, "%f", "%p"] && command.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_commands_and_others() {
        for (command, ours) in [
            ("holdfast-wal archive %f %p", true),
            ("/holdfast/bin/holdfast-wal archive %f %p", true),
            ("/holdfast/bin/holdfast-wal archive \"%f\" \"%p\"", true),
            ("holdfast-wal --socket /tmp/w.sock archive %f %p", true),
            ("holdfast-wal --socket=/tmp/w.sock archive %f %p", true),
            ("", false),
            ("/bin/true", false),
            ("(disabled)", false),
            ("holdfast-wal restore %f %p", false),
            ("holdfast-wal archive %p %f", false),
            ("holdfast-wal archive %f %p || true", false),
            ("holdfast-wal archive %f %p; exit 0", false),
            ("holdfast-wal archive %f %p &", false),
            ("cp %p /mnt/%f # holdfast-wal archive %f %p", false),
            ("not-holdfast-wal archive %f %p", false),
        ] {
            assert_eq!(archives(command), ours, "{command}");
        }
    }

    #[test]
    fn our_module_and_others() {
        for (library, ours) in [
            ("holdfast_archive", true),
            ("/holdfast/lib/holdfast_archive.so", true),
            ("$libdir/holdfast_archive", true),
            ("basic_archive", false),
            ("/holdfast_archive/basic_archive", false),
            ("", false),
        ] {
            assert_eq!(is_module(library), ours, "{library}");
        }
    }

    #[test]
    fn the_module_is_set_where_it_was_installed_and_the_server_knows_modules() {
        let without = WalCommand::of(Path::new(DEFAULT_SOCKET));
        let with = WalCommand {
            module: Some("/holdfast/lib/holdfast_archive".to_owned()),
            ..without.clone()
        };
        for (command, version, expected) in [
            (&without, 170_002, "archive_command"),
            (&with, 140_023, "archive_command"),
            (&with, 150_000, "archive_library"),
            (&with, 180_001, "archive_library"),
        ] {
            let (setting, value) = command.archiving(version);
            assert_eq!(setting, expected, "{version}");
            assert!(archives(&value) || is_module(&value), "{value}");
        }
    }

    #[test]
    fn what_is_installed_is_run() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("run/wal.sock");
        let root = folder.path().display();
        let expected = format!("holdfast-wal --socket {root}/run/wal.sock archive %f %p");
        assert_eq!(WalCommand::of(&socket).archive(), expected);
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        std::fs::write(folder.path().join("bin/holdfast-wal"), "").unwrap();
        let installed = WalCommand::of(&socket);
        assert_eq!(installed.archive(), format!("{root}/bin/{expected}"));
        assert!(archives(&installed.archive()) && restores(&installed.restore()));
        assert_eq!(
            WalCommand::of(Path::new(DEFAULT_SOCKET)).restore(),
            "holdfast-wal restore %f %p"
        );
    }
}
