//! One request to the sidecar: a line there, lines back, and for RESTORE the bytes.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// `sun_path` holds 108 bytes, the last of them zero.
const LONGEST_SOCKET_PATH: usize = 107;
const LONGEST_LINE: usize = 8192;
const BUFFER: usize = 256 * 1024;

/// Why there is no answer, or not the wished one.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The socket can't be reached.
    Unreachable(PathBuf, io::Error),
    /// The connection broke before the answer was whole.
    Broken(String),
    /// Nothing was heard in time.
    Silent { waited: Duration, last_word: String },
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
            Self::Unreachable(_, e) => {
                matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
            }
            Self::Broken(_) => true,
            Self::Silent { .. } | Self::Refused(_) | Self::Protocol(_) | Self::File(..) => false,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(socket, e) => write!(
                f,
                "the sidecar's socket {} can't be reached ({e}); is `holdfast sidecar` running?",
                socket.display()
            ),
            Self::Broken(how) => write!(f, "the sidecar went away: {how}"),
            Self::Silent { waited, last_word } => {
                let seconds = waited.as_secs();
                write!(f, "the sidecar gave no answer within {seconds} seconds")?;
                if last_word.is_empty() {
                    Ok(())
                } else {
                    write!(f, "; it last said: {last_word}")
                }
            }
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

/// A line from the sidecar.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Answer(Answer),
    /// It is alive and works; the text says on what.
    Wait(String),
}

fn parse_line(line: &str) -> Option<Line> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "OK" => Some(Line::Answer(Answer::Ok(rest.to_owned()))),
        "ABSENT" if rest.is_empty() => Some(Line::Answer(Answer::Absent)),
        "ERROR" => Some(Line::Answer(Answer::Error(rest.to_owned()))),
        "WAIT" => Some(Line::Wait(rest.to_owned())),
        _ => None,
    }
}

/// A connection with everything that was received and not yet used.
pub(crate) struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    silence: Duration,
    last_word: String,
}

impl Connection {
    /// Connects within the silence limit: connecting to a hung sidecar with a full queue blocks without end.
    pub(crate) fn open(
        socket: &Path,
        silence: Duration,
        deadline: Instant,
    ) -> Result<Self, Trouble> {
        if socket.as_os_str().as_bytes().len() > LONGEST_SOCKET_PATH {
            let why = io::Error::other(format!(
                "its path is longer than the {LONGEST_SOCKET_PATH} bytes that a socket's can have"
            ));
            return Err(Trouble::Unreachable(socket.to_owned(), why));
        }
        let patience = silence.min(deadline.saturating_duration_since(Instant::now()));
        let (sender, receiver) = mpsc::channel();
        let path = socket.to_owned();
        // When it is given up on, the thread ends with the process.
        std::thread::spawn(move || sender.send(UnixStream::connect(path)));
        match receiver.recv_timeout(patience) {
            Ok(Ok(stream)) => Ok(Self {
                stream,
                buffer: vec![0; BUFFER],
                start: 0,
                end: 0,
                silence,
                last_word: String::new(),
            }),
            Ok(Err(e)) => Err(Trouble::Unreachable(socket.to_owned(), e)),
            Err(_) => Err(Trouble::Silent {
                waited: patience,
                last_word: String::new(),
            }),
        }
    }

    pub(crate) fn send(&mut self, line: &str) -> Result<(), Trouble> {
        let sent = self
            .stream
            .set_write_timeout(Some(self.silence))
            .and_then(|()| self.stream.write_all(line.as_bytes()));
        // A sidecar that refuses a connection may answer and close before it reads: its answer is what counts.
        match sent {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
            Err(e) if is_timeout(&e) => Err(Trouble::Silent {
                waited: self.silence,
                last_word: String::new(),
            }),
            Err(e) => Err(Trouble::Broken(e.to_string())),
            Ok(()) => Ok(()),
        }
    }

    /// Waits for the answer through any number of signs of life.
    pub(crate) fn answer(&mut self, deadline: Instant) -> Result<Answer, Trouble> {
        loop {
            let line = self.line(deadline)?;
            match parse_line(&line) {
                Some(Line::Answer(answer)) => return Ok(answer),
                Some(Line::Wait(why)) => self.last_word = why,
                None => return Err(Trouble::Protocol(format!("{line:?}"))),
            }
        }
    }

    fn line(&mut self, deadline: Instant) -> Result<String, Trouble> {
        let mut line = Vec::new();
        loop {
            let received = &self.buffer[self.start..self.end];
            if let Some(at) = received.iter().position(|b| *b == b'\n') {
                line.extend_from_slice(&received[..at]);
                self.start += at + 1;
                return String::from_utf8(line)
                    .map_err(|_| Trouble::Protocol("bytes that are no text".to_owned()));
            }
            line.extend_from_slice(received);
            if line.len() > LONGEST_LINE {
                return Err(Trouble::Protocol("a line without end".to_owned()));
            }
            if self.fill(deadline)? == 0 {
                return Err(Trouble::Broken(
                    "it closed the connection before it answered".into(),
                ));
            }
        }
    }

    /// The next bytes of a body, at most `most`; empty at the end of the connection.
    pub(crate) fn bytes(&mut self, most: usize, deadline: Instant) -> Result<&[u8], Trouble> {
        if self.start == self.end {
            self.fill(deadline)?;
        }
        let from = self.start;
        self.start = self.end.min(from.saturating_add(most));
        Ok(&self.buffer[from..self.start])
    }

    /// Replaces the used up buffer. Returns how many bytes came; 0 is the end.
    fn fill(&mut self, deadline: Instant) -> Result<usize, Trouble> {
        let patience = self
            .silence
            .min(deadline.saturating_duration_since(Instant::now()));
        let silent = |last_word: &str| Trouble::Silent {
            waited: patience,
            last_word: last_word.to_owned(),
        };
        // Zero would mean "for ever".
        if patience.is_zero() {
            return Err(silent(&self.last_word));
        }
        let begun = Instant::now();
        self.stream
            .set_read_timeout(Some(patience))
            .map_err(|e| Trouble::Broken(e.to_string()))?;
        loop {
            match self.stream.read(&mut self.buffer) {
                Ok(n) => {
                    (self.start, self.end) = (0, n);
                    return Ok(n);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted && begun.elapsed() < patience => {}
                Err(e) if e.kind() == ErrorKind::Interrupted || is_timeout(&e) => {
                    return Err(silent(&self.last_word));
                }
                Err(e) => return Err(Trouble::Broken(e.to_string())),
            }
        }
    }
}

fn is_timeout(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_a_sidecar_says() {
        let answer = |a| Some(Line::Answer(a));
        for (line, expected) in [
            ("OK", answer(Answer::Ok(String::new()))),
            ("OK 16777216", answer(Answer::Ok("16777216".into()))),
            ("ABSENT", answer(Answer::Absent)),
            ("ABSENT really", None),
            (
                "ERROR the store is away",
                answer(Answer::Error("the store is away".into())),
            ),
            ("WAIT storing", Some(Line::Wait("storing".into()))),
            ("", None),
            ("ok", None),
            ("ABSENTEE", None),
            ("HTTP/1.1 400 Bad Request\r", None),
        ] {
            assert_eq!(parse_line(line), expected, "{line:?}");
        }
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_told() {
        let path = PathBuf::from(format!("/{}", "x".repeat(107)));
        let deadline = Instant::now() + Duration::from_secs(60);
        let trouble = Connection::open(&path, Duration::from_secs(1), deadline)
            .err()
            .unwrap();
        assert!(trouble.to_string().contains("107 bytes"), "{trouble}");
        assert!(!trouble.is_restart());
    }
}
