//! The sidecar's answers to this program, and why there is none, in words.

use holdfast_wal_socket::{Connection as Socket, Failed, LONGEST_LINE, Line};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const BUFFER: usize = 256 * 1024;
const _: () = assert!(BUFFER > LONGEST_LINE);

/// Why there is no answer, or not the wished one.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The connection; the sidecar's last word on what it waits for may be empty.
    Connection {
        socket: PathBuf,
        failed: Failed,
        last_word: String,
    },
    /// It ended before the file was whole.
    Short(String),
    /// Answered `ERROR`.
    Refused(String),
    /// Not an answer of a Holdfast sidecar.
    Protocol(String),
    /// The file could not be written here.
    File(PathBuf, io::Error),
}

impl Trouble {
    /// True where a sidecar that is restarting explains it, so that asking again may help within seconds.
    pub(crate) fn is_restart(&self) -> bool {
        match self {
            Self::Connection { failed, .. } => failed.is_restart(),
            Self::Short(_) => true,
            Self::Refused(_) | Self::Protocol(_) | Self::File(..) => false,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection {
                socket,
                failed,
                last_word,
            } => {
                write!(f, "{}: {failed}", socket.display())?;
                if matches!(failed, Failed::Silent(_)) && !last_word.is_empty() {
                    write!(f, "; it last said: {last_word}")?;
                }
                Ok(())
            }
            Self::Short(how) => write!(f, "the sidecar went away: {how}"),
            Self::Refused(why) => f.write_str(why),
            Self::Protocol(what) => {
                write!(
                    f,
                    "the socket answered what no Holdfast sidecar does: {what}"
                )
            }
            Self::File(path, e) => write!(f, "{}: {e}", path.display()),
        }
    }
}

/// What the sidecar said in the end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Ok(String),
    Absent,
    Error(String),
}

/// A connection. Deadlines are of the clock of [`holdfast_wal_socket::now`].
pub(crate) struct Connection {
    path: PathBuf,
    socket: Socket<Vec<u8>, fn() -> bool>,
    last_word: String,
}

impl Connection {
    /// Connects within the silence limit.
    pub(crate) fn open(
        path: &Path,
        silence: Duration,
        deadline: Duration,
    ) -> Result<Self, Trouble> {
        let buffer = vec![0; BUFFER];
        let never: fn() -> bool = || false;
        let bytes = path.as_os_str().as_bytes();
        match Socket::open(bytes, buffer, silence, deadline, never) {
            Ok(socket) => Ok(Self {
                path: path.to_owned(),
                socket,
                last_word: String::new(),
            }),
            Err(failed) => Err(Trouble::Connection {
                socket: path.to_owned(),
                failed,
                last_word: String::new(),
            }),
        }
    }

    pub(crate) fn send(&mut self, line: &str, deadline: Duration) -> Result<(), Trouble> {
        let sent = self.socket.send(line.as_bytes(), deadline);
        sent.map_err(|failed| self.trouble(failed))
    }

    /// Waits for the answer through any number of signs of life.
    pub(crate) fn answer(&mut self, deadline: Duration) -> Result<Answer, Trouble> {
        loop {
            let line = match self.socket.line(deadline) {
                Ok(line) => line,
                Err(failed) => return Err(self.trouble(failed)),
            };
            match Line::parse(line) {
                Some(Line::Ok(rest)) => return Ok(Answer::Ok(rest.to_owned())),
                Some(Line::Absent) => return Ok(Answer::Absent),
                Some(Line::Error(why)) => return Ok(Answer::Error(why.to_owned())),
                Some(Line::Wait(why)) => why.clone_into(&mut self.last_word),
                None => return Err(Trouble::Protocol(format!("{line:?}"))),
            }
        }
    }

    /// The next bytes of a body, at most `most`; empty at the end of the connection.
    pub(crate) fn bytes(&mut self, most: usize, deadline: Duration) -> Result<&[u8], Trouble> {
        let Self {
            path,
            socket,
            last_word,
        } = self;
        let bytes = socket.bytes(most, deadline);
        bytes.map_err(|failed| Trouble::Connection {
            socket: path.clone(),
            failed,
            last_word: last_word.clone(),
        })
    }

    fn trouble(&self, failed: Failed) -> Trouble {
        Trouble::Connection {
            socket: self.path.clone(),
            failed,
            last_word: self.last_word.clone(),
        }
    }
}
