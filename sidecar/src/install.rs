//! `holdfast sidecar --install DIR`: puts `holdfast-wal` where Postgres' container sees it, too.

use crate::exit::Failure;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

const PROGRAM: &str = "holdfast-wal";

/// Copies `holdfast-wal`, which lies beside this program, to `bin/` in `folder`, and makes `run/` for the sockets. A
/// call of the old one that runs meanwhile goes on with it.
pub fn install(folder: &Path) -> Result<(), Failure> {
    let program = std::env::current_exe()
        .map_err(|e| Failure::failed(format!("can't tell where this program is: {e}")))?;
    install_from(&program.with_file_name(PROGRAM), folder)
}

fn install_from(source: &Path, folder: &Path) -> Result<(), Failure> {
    let target = folder.join("bin").join(PROGRAM);
    let failed = |what: &str, path: &Path, error: io::Error| {
        Failure::failed(format!("can't {what} {}: {error}", path.display()))
    };
    for made in ["bin", "run"] {
        let path = folder.join(made);
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path)
            .map_err(|e| failed("make", &path, e))?;
    }
    let mut program = File::open(source).map_err(|e| failed("read", source, e))?;
    copy(&mut program, &target).map_err(|e| failed("write", &target, e))
}

/// Under another name first, so that there is a whole program under its own, or none.
fn copy(program: &mut File, target: &Path) -> io::Result<()> {
    let temporary = target.with_file_name(format!(".{PROGRAM}.{}", std::process::id()));
    let mut written = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o700)
            .open(&temporary)?;
        io::copy(program, &mut file)?;
        // Whatever the process' umask says.
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        file.sync_all()?;
        fs::rename(&temporary, target)
    };
    let done = written();
    if done.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    done?;
    let folder = target.parent().unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_program_that_can_be_run_comes_to_lie_there() {
        let folder = tempfile::tempdir().unwrap();
        let (source, to) = (folder.path().join(PROGRAM), folder.path().join("holdfast"));
        let why = install_from(&source, &to).unwrap_err().message;
        assert!(why.contains("can't read") && why.contains(PROGRAM), "{why}");
        for content in ["one", "another"] {
            fs::write(&source, content).unwrap();
            install_from(&source, &to).unwrap();
            let target = to.join("bin").join(PROGRAM);
            assert_eq!(fs::read_to_string(&target).unwrap(), content);
            let mode = fs::metadata(&target).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o755);
        }
        assert!(to.join("run").is_dir());
        assert_eq!(fs::read_dir(to.join("bin")).unwrap().count(), 1);
        // A folder stands in its place.
        let other = folder.path().join("other");
        fs::create_dir_all(other.join("bin").join(PROGRAM).join("x")).unwrap();
        let why = install_from(&source, &other).unwrap_err().message;
        assert!(why.contains("can't write"), "{why}");
        assert_eq!(fs::read_dir(other.join("bin")).unwrap().count(), 1);
    }
}
