//! The commands by which Postgres speaks to this sidecar.

use holdfast_wal_socket::DEFAULT_SOCKET;
use std::path::{Path, PathBuf};

/// What stands for another tool than ours.
const PROGRAM: &str = "holdfast-wal";
const MODULE: &str = "holdfast_archive";

/// `holdfast-wal`, as Postgres is told to run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalCommand {
    program: String,
    socket: PathBuf,
}

impl WalCommand {
    /// For a sidecar that serves `socket`: as it was installed beside the socket's folder, else as `PATH` finds it.
    pub fn of(socket: &Path) -> Self {
        let installed = Self::installed(socket).filter(|program| program.exists());
        Self {
            program: installed.map_or(PROGRAM.to_owned(), |program| program.display().to_string()),
            socket: socket.to_owned(),
        }
    }

    /// Where `holdfast sidecar --install` puts the program: `bin/`, beside the socket's folder. There Postgres'
    /// container sees it, too.
    pub fn installed(socket: &Path) -> Option<PathBuf> {
        let folder = socket.parent()?.parent()?;
        Some(folder.join("bin").join(PROGRAM))
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
