//! A listening Unix socket: its file's life and its mode.

use holdfast_wal_socket::LONGEST_SOCKET_PATH;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixSocket, UnixStream};

const BACKLOG: u32 = 128;

/// Why a socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The kernel's limit.
    #[error(
        "the socket's path {} has {} bytes; a Unix socket's can have {LONGEST_SOCKET_PATH}: set a shorter `socket`",
        path.display(),
        path.as_os_str().len()
    )]
    TooLong {
        /// As configured.
        path: PathBuf,
    },
    /// Two sidecars of one database would be one too many.
    #[error("{} is already served by another holdfast: stop that one, or set another `socket`", path.display())]
    Served {
        /// As configured.
        path: PathBuf,
    },
    /// Whatever it is, it is not ours to remove.
    #[error("{} exists and is not a socket: remove it, or set another `socket`", path.display())]
    NotASocket {
        /// As configured.
        path: PathBuf,
    },
    /// For instance a missing folder.
    #[error("can't listen on {}: {source}", path.display())]
    Io {
        /// As configured.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A listening socket. Its file goes when it is dropped, unless another has taken the name meanwhile.
#[derive(Debug)]
pub struct BoundSocket {
    pub(crate) listener: UnixListener,
    _file: SocketFile,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl BoundSocket {
    /// Splits into the listener and a guard that removes the file when it is dropped.
    pub(crate) fn into_parts(self) -> (UnixListener, impl Send + Sync + 'static) {
        (self.listener, self._file)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.inode);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens at `path` with this mode. The file that a dead process has left is replaced; a served one is refused.
pub async fn bind(path: &Path, mode: u32) -> Result<BoundSocket, SocketError> {
    if path.as_os_str().as_bytes().len() > LONGEST_SOCKET_PATH {
        return Err(SocketError::TooLong {
            path: path.to_owned(),
        });
    }
    let failed = |source: io::Error| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    // Of two that start at once, the second must find the first one listening, not its file half made.
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let lock = File::open(folder).map_err(failed)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) if is_served(path).await => {
            return Err(SocketError::Served {
                path: path.to_owned(),
            });
        }
        Ok(_) => fs::remove_file(path).map_err(failed)?,
    }
    let socket = UnixSocket::new_stream().map_err(failed)?;
    socket.bind(path).map_err(failed)?;
    // Nobody can connect before `listen`, so nobody connects with the wrong mode.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    let metadata = fs::symlink_metadata(path).map_err(failed)?;
    let file = SocketFile {
        path: path.to_owned(),
        inode: (metadata.dev(), metadata.ino()),
    };
    let listener = socket.listen(BACKLOG).map_err(failed)?;
    Ok(BoundSocket {
        listener,
        _file: file,
    })
}

/// Whether somebody listens at `path`. One whose queue is full does.
pub async fn is_served(path: &Path) -> bool {
    match UnixStream::connect(path).await {
        Ok(_) => true,
        Err(e) => e.kind() == io::ErrorKind::WouldBlock,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_served_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wal.sock");
        let first = bind(&path, 0o660).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        assert!(matches!(
            bind(&path, 0o660).await,
            Err(SocketError::Served { .. })
        ));
        drop(first);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let second = bind(&path, 0o600).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        drop(second);
    }

    #[tokio::test]
    async fn another_ones_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wal.sock");
        let socket = bind(&path, 0o660).await.unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "new").unwrap();
        drop(socket);
        assert!(path.exists());
        let refused = bind(&path, 0o660).await;
        assert!(matches!(refused, Err(SocketError::NotASocket { .. })));
    }

    #[tokio::test]
    async fn what_cannot_be_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("x".repeat(107));
        assert!(matches!(
            bind(&long, 0o660).await,
            Err(SocketError::TooLong { .. })
        ));
        let nowhere = folder.path().join("no/wal.sock");
        let error = bind(&nowhere, 0o660).await.unwrap_err();
        assert!(error.to_string().contains("no/wal.sock"), "{error}");
    }
}
