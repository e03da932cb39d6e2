//! The connection, which never blocks without end: not in connecting, not in sending, not in waiting.

use crate::line::LONGEST_LINE;
use crate::{LONGEST_SOCKET_PATH, LOOK};
use core::fmt;
use core::str;
use core::time::Duration;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with,
};
use rustix::time::{ClockId, clock_gettime};

/// Between two tries to get into a queue that is full.
const PAUSE: Duration = Duration::from_millis(50);

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// No socket can have such a path.
    PathTooLong,
    /// The socket can't be reached.
    Unreachable(Errno),
    /// The connection broke.
    Broken(Errno),
    /// It was closed before the answer was whole.
    Closed,
    /// Nothing was heard for so long.
    Silent(Duration),
    /// Whoever asked has other things to do.
    Stopped,
    /// Bytes that are no text.
    NotText,
    /// A line without end.
    EndlessLine,
}

impl Failed {
    /// True where a sidecar that is restarting explains it, so that asking again may help within seconds.
    pub fn is_restart(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(Errno::NOENT | Errno::CONNREFUSED) | Self::Broken(_) | Self::Closed
        )
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PathTooLong => write!(
                f,
                "the socket's path is longer than the {LONGEST_SOCKET_PATH} bytes that it can have"
            ),
            Self::Unreachable(e) => write!(
                f,
                "the sidecar's socket can't be reached ({}); is `holdfast sidecar` running?",
                Named(*e)
            ),
            Self::Broken(e) => write!(f, "the sidecar went away: {}", Named(*e)),
            Self::Closed => f.write_str(
                "the sidecar went away: it closed the connection before its answer was whole",
            ),
            Self::Silent(waited) => {
                let seconds = waited.as_secs();
                write!(f, "the sidecar gave no answer within {seconds} seconds")
            }
            Self::Stopped => f.write_str("the sidecar is not waited for any longer"),
            Self::NotText => f.write_str(
                "the socket answered what no Holdfast sidecar does: bytes that are no text",
            ),
            Self::EndlessLine => {
                f.write_str("the socket answered what no Holdfast sidecar does: a line without end")
            }
        }
    }
}

/// In the words of strerror, as far as a socket of this machine needs them.
struct Named(Errno);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.0 {
            Errno::NOENT => "No such file or directory",
            Errno::CONNREFUSED => "Connection refused",
            Errno::ACCESS => "Permission denied",
            Errno::CONNRESET => "Connection reset by peer",
            Errno::NOTSOCK => "Socket operation on non-socket",
            other => return write!(f, "os error {}", other.raw_os_error()),
        };
        write!(f, "{words}, os error {}", self.0.raw_os_error())
    }
}

/// Of the clock that deadlines are of: it never goes back.
pub fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}

/// A connection with everything that was received and not yet used. `B` holds more than [`LONGEST_LINE`] bytes.
/// `S` is asked twice a second, and after each signal, whether to give up.
#[derive(Debug)]
pub struct Connection<B, S> {
    socket: OwnedFd,
    buffer: B,
    start: usize,
    end: usize,
    silence: Duration,
    stop: S,
    /// When that was asked last.
    asked: Duration,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>, S: FnMut() -> bool> Connection<B, S> {
    /// Connects within the silence limit, and before the deadline.
    ///
    /// # Errors
    /// [`Failed::PathTooLong`], [`Failed::Unreachable`], [`Failed::Silent`], [`Failed::Stopped`].
    pub fn open(
        path: &[u8],
        buffer: B,
        silence: Duration,
        deadline: Duration,
        mut stop: S,
    ) -> Result<Self, Failed> {
        if path.len() > LONGEST_SOCKET_PATH {
            return Err(Failed::PathTooLong);
        }
        let address = SocketAddrUnix::new(path).map_err(Failed::Unreachable)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(Failed::Unreachable)?;
        let begun = now();
        let patience = silence.min(deadline.saturating_sub(begun));
        loop {
            match connect(&socket, &address) {
                Ok(()) => break,
                // The queue of a sidecar that hangs is full.
                Err(Errno::AGAIN | Errno::INTR) if now() < begun + patience => {
                    if stop() {
                        return Err(Failed::Stopped);
                    }
                    let _ = poll(&mut [], Some(&timespec(PAUSE)));
                }
                Err(Errno::AGAIN | Errno::INTR) => return Err(Failed::Silent(patience)),
                Err(error) => return Err(Failed::Unreachable(error)),
            }
        }
        Ok(Self {
            socket,
            buffer,
            start: 0,
            end: 0,
            silence,
            stop,
            asked: begun,
        })
    }

    /// Sends it all.
    ///
    /// # Errors
    /// [`Failed::Broken`], [`Failed::Silent`], [`Failed::Stopped`].
    pub fn send(&mut self, mut bytes: &[u8], deadline: Duration) -> Result<(), Failed> {
        while !bytes.is_empty() {
            match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.ready(PollFlags::OUT, deadline)?,
                // A sidecar that refuses a connection may answer and close before it reads: its answer is what counts.
                Err(Errno::PIPE) => return Ok(()),
                Err(error) => return Err(Failed::Broken(error)),
            }
        }
        Ok(())
    }

    /// The next line, without its end.
    ///
    /// # Errors
    /// Any but [`Failed::PathTooLong`] and [`Failed::Unreachable`].
    pub fn line(&mut self, deadline: Duration) -> Result<&str, Failed> {
        let mut seen = 0;
        let length = loop {
            let received = self.received();
            let fresh = received.get(seen..).unwrap_or_default();
            if let Some(at) = fresh.iter().position(|byte| *byte == b'\n') {
                break seen + at;
            }
            seen = received.len();
            if seen > LONGEST_LINE {
                return Err(Failed::EndlessLine);
            }
            self.buffer.as_mut().copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, seen);
            if self.fill(deadline)? == 0 {
                return Err(Failed::Closed);
            }
        };
        let from = self.start;
        self.start += length + 1;
        let line = self.buffer.as_ref().get(from..from + length);
        str::from_utf8(line.unwrap_or_default()).map_err(|_| Failed::NotText)
    }

    /// The next bytes of a body, at most `most`; empty at the end of the connection.
    ///
    /// # Errors
    /// As of [`Connection::line`].
    pub fn bytes(&mut self, most: usize, deadline: Duration) -> Result<&[u8], Failed> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.fill(deadline)?;
        }
        let from = self.start;
        self.start = self.end.min(from.saturating_add(most));
        let bytes = self.buffer.as_ref().get(from..self.start);
        Ok(bytes.unwrap_or_default())
    }

    fn received(&self) -> &[u8] {
        let all = self.buffer.as_ref();
        all.get(self.start..self.end).unwrap_or_default()
    }

    /// Adds what comes next to what was received. 0: the end.
    fn fill(&mut self, deadline: Duration) -> Result<usize, Failed> {
        loop {
            self.ready(PollFlags::IN, deadline)?;
            let free = self.buffer.as_mut().get_mut(self.end..).unwrap_or_default();
            match recv(&self.socket, free, RecvFlags::empty()) {
                Ok((_, received)) => {
                    self.end += received;
                    return Ok(received);
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(Failed::Broken(error)),
            }
        }
    }

    /// Waits until it can be read, or written.
    fn ready(&mut self, what: PollFlags, deadline: Duration) -> Result<(), Failed> {
        let begun = now();
        let patience = self.silence.min(deadline.saturating_sub(begun));
        loop {
            let time = now();
            if time >= self.asked + LOOK {
                self.asked = time;
                if (self.stop)() {
                    return Err(Failed::Stopped);
                }
            }
            let left = (begun + patience).saturating_sub(time);
            if left.is_zero() {
                return Err(Failed::Silent(patience));
            }
            let mut polled = [PollFd::new(&self.socket, what)];
            match poll(&mut polled, Some(&timespec(left.min(LOOK)))) {
                Ok(0) => {}
                Err(Errno::INTR) => self.asked = Duration::ZERO,
                Ok(_) => return Ok(()),
                Err(error) => return Err(Failed::Broken(error)),
            }
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::string::{String, ToString};
    use std::vec;
    use std::vec::Vec;

    const LONG: Duration = Duration::from_secs(60);

    struct Socket(PathBuf);

    impl Socket {
        fn path(&self) -> &[u8] {
            self.0.as_os_str().as_encoded_bytes()
        }
    }

    impl Drop for Socket {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn bind(name: &str) -> (Socket, UnixListener) {
        let name = std::format!("holdfast-wal-socket-{}-{name}", std::process::id());
        let socket = Socket(std::env::temp_dir().join(name));
        let listener = UnixListener::bind(&socket.0).unwrap();
        (socket, listener)
    }

    type Opened = Connection<Vec<u8>, fn() -> bool>;

    fn opened(socket: &Socket, silence: Duration) -> Result<Opened, Failed> {
        let never: fn() -> bool = || false;
        let buffer = vec![0; LONGEST_LINE * 2];
        Connection::open(socket.path(), buffer, silence, now() + LONG, never)
    }

    #[test]
    fn lines_and_bytes_come_in_any_pieces() {
        let (socket, listener) = bind("pieces");
        let answers = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 8];
            stream.read_exact(&mut request).unwrap();
            for piece in ["WA", "IT a\nWAIT b\nO", "K 7\n123", "4567", "rest"] {
                stream.write_all(piece.as_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
            String::from_utf8(request.to_vec()).unwrap()
        });
        let mut connection = opened(&socket, LONG).unwrap();
        let deadline = now() + LONG;
        connection.send(b"REQUEST\n", deadline).unwrap();
        for expected in ["WAIT a", "WAIT b", "OK 7"] {
            assert_eq!(connection.line(deadline), Ok(expected));
        }
        let mut body: Vec<u8> = Vec::new();
        while body.len() < 7 {
            let left = 7 - body.len();
            body.extend(connection.bytes(left, deadline).unwrap());
        }
        assert_eq!(body, b"1234567");
        assert_eq!(answers.join().unwrap(), "REQUEST\n");
        assert_eq!(connection.line(deadline), Err(Failed::Closed));
    }

    #[test]
    fn what_is_no_answer_is_told() {
        let endless = vec![b'x'; LONGEST_LINE * 4];
        for (name, answer, expected) in [
            ("endless", endless, Failed::EndlessLine),
            ("bytes", vec![0xff, b'\n'], Failed::NotText),
            ("closed", Vec::new(), Failed::Closed),
        ] {
            let (socket, listener) = bind(name);
            let answers = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.write_all(&answer);
            });
            let mut connection = opened(&socket, LONG).unwrap();
            assert_eq!(connection.line(now() + LONG), Err(expected));
            drop(connection);
            answers.join().unwrap();
        }
    }

    #[test]
    fn nothing_waits_without_end() {
        let (socket, listener) = bind("hangs");
        let short = Duration::from_millis(30);
        let mut connection = opened(&socket, short).unwrap();
        assert_eq!(connection.line(now() + LONG), Err(Failed::Silent(short)));
        let mut asked = 0;
        let buffer = vec![0; LONGEST_LINE * 2];
        let stop = || {
            asked += 1;
            asked == 2
        };
        let mut stopped =
            Connection::open(socket.path(), buffer, LONG, now() + LONG, stop).unwrap();
        assert_eq!(stopped.line(now() + LONG), Err(Failed::Stopped));
        // Until its queue is full.
        let mut held = Vec::new();
        let full = loop {
            match opened(&socket, short) {
                Ok(connection) => held.push(connection),
                Err(failed) => break failed,
            }
            assert!(held.len() < 10_000);
        };
        assert_eq!(full, Failed::Silent(short));
        drop(listener);
        let refused = opened(&socket, LONG).unwrap_err();
        assert_eq!(refused, Failed::Unreachable(Errno::CONNREFUSED));
        assert!(refused.is_restart() && refused.to_string().contains("holdfast sidecar"));
        let long = Socket(PathBuf::from("x".repeat(LONGEST_SOCKET_PATH + 1)));
        let failed = opened(&long, LONG).unwrap_err();
        assert_eq!(failed, Failed::PathTooLong);
        assert!(!failed.is_restart() && failed.to_string().contains("107 bytes"));
    }
}
