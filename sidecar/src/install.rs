//! `holdfast sidecar --install DIR`: puts `holdfast-wal` and the archive module where Postgres' container sees them, too.

use crate::exit::Failure;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// What is copied, and from where beside the folder of this program.
const FILES: [(&str, &str); 2] = [
    ("bin/holdfast-wal", "bin/holdfast-wal"),
    (
        "lib/holdfast/holdfast_archive.so",
        "lib/holdfast_archive.so",
    ),
];

/// Copies `holdfast-wal` and `holdfast_archive.so`, which lie beside this program, to `bin/` and `lib/` in `folder`, and
/// makes `run/` for the sockets. A server that has the old ones in use meanwhile goes on with them.
pub fn install(folder: &Path) -> Result<(), Failure> {
    let program = std::env::current_exe()
        .map_err(|e| Failure::failed(format!("can't tell where this program is: {e}")))?;
    let beside = program.parent().and_then(Path::parent);
    install_from(beside.unwrap_or(Path::new("/")), folder)
}

fn install_from(prefix: &Path, folder: &Path) -> Result<(), Failure> {
    let failed = |what: &str, path: &Path, error: io::Error| {
        Failure::failed(format!("can't {what} {}: {error}", path.display()))
    };
    for made in ["bin", "lib", "run"] {
        let path = folder.join(made);
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path)
            .map_err(|e| failed("make", &path, e))?;
    }
    for (source, target) in FILES {
        let (source, target) = (prefix.join(source), folder.join(target));
        let mut file = File::open(&source).map_err(|e| failed("read", &source, e))?;
        copy(&mut file, &target).map_err(|e| failed("write", &target, e))?;
    }
    Ok(())
}

/// Under another name first, so that there is a whole file under its own, or none.
fn copy(source: &mut File, target: &Path) -> io::Result<()> {
    let temporary = target.with_extension(format!("{}.new", std::process::id()));
    let mut written = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o700)
            .open(&temporary)?;
        io::copy(source, &mut file)?;
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
    fn whole_files_that_can_be_run_and_loaded_come_to_lie_there() {
        let folder = tempfile::tempdir().unwrap();
        let (prefix, to) = (folder.path().join("usr"), folder.path().join("holdfast"));
        let why = install_from(&prefix, &to).unwrap_err().message;
        assert!(
            why.contains("can't read") && why.contains("holdfast-wal"),
            "{why}"
        );
        for content in ["one", "another"] {
            for (source, _) in FILES {
                let source = prefix.join(source);
                fs::create_dir_all(source.parent().unwrap()).unwrap();
                fs::write(source, content).unwrap();
            }
            install_from(&prefix, &to).unwrap();
            for (_, target) in FILES {
                let target = to.join(target);
                assert_eq!(fs::read_to_string(&target).unwrap(), content);
                let mode = fs::metadata(&target).unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o755);
                let folder = target.parent().unwrap();
                assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
            }
        }
        assert!(to.join("run").is_dir());
        // A folder stands in its place.
        let other = folder.path().join("other");
        fs::create_dir_all(other.join("bin/holdfast-wal/x")).unwrap();
        let why = install_from(&prefix, &other).unwrap_err().message;
        assert!(why.contains("can't write"), "{why}");
        assert_eq!(fs::read_dir(other.join("bin")).unwrap().count(), 1);
    }
}
