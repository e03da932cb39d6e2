//! One file, from the archiver's call to the sidecar's answer.

use crate::postgres::{self, FATAL, WARNING};
use crate::text::Line as Text;
use core::ffi::CStr;
use core::fmt::Write;
use core::mem::MaybeUninit;
use holdfast_wal_socket as wal;
use holdfast_wal_socket::{Connection, Failed, LONGEST_LINE, Line, Patience};

/// The longest name and the longest path that PostgreSQL makes (MAXPGPATH), with what stands around them.
const LONGEST_REQUEST: usize = 4096;
/// What a line of the log takes from the sidecar.
const LONGEST_MESSAGE: usize = 1024;

/// The sidecar's words.
type Words = Text<LONGEST_MESSAGE>;

/// Why a file is not archived; the sidecar's last words belong to it.
enum Trouble {
    Connection(Failed),
    Refused,
    NoAnswer,
    RequestTooLong,
}

impl From<Failed> for Trouble {
    fn from(failed: Failed) -> Self {
        Self::Connection(failed)
    }
}

/// Whether `holdfast.socket` can be a socket's path. Whether anybody listens there is each file's to tell: a sidecar that
/// starts later is no mistake.
pub fn is_configured() -> bool {
    let socket = postgres::socket().to_bytes();
    let why = match socket {
        [] => {
            c"holdfast.socket is empty: set it to the path of the Holdfast sidecar's socket, such as /holdfast/run/wal.sock."
        }
        long if long.len() > wal::LONGEST_SOCKET_PATH => {
            c"holdfast.socket is longer than the 107 bytes that a socket's path can have: have the Holdfast sidecar listen at a shorter one."
        }
        [b'/', ..] => return true,
        _ => c"holdfast.socket is no path from the root on: write one, such as /holdfast/run/wal.sock.",
    };
    postgres::check_detail(why);
    false
}

/// True: the file is durable in every required repository. Else the log says why, and PostgreSQL asks again. It returns
/// within seconds of a SIGTERM, and ends the archiver where the server is shutting down and nothing comes of it: the file
/// is archived once the server runs again, or without it.
pub fn archive(file: &CStr, path: &CStr) -> bool {
    let mut patience = Patience::default();
    let mut words = Words::new();
    let stop = || patience.is_over() || postgres::is_to_end();
    let Err(trouble) = ask(file, path, stop, &mut words) else {
        return true;
    };
    let stopping = wal::is_under_way();
    let mut message = Text::<{ LONGEST_MESSAGE + 256 }>::new();
    let name = file.to_str().unwrap_or_default();
    let words = core::str::from_utf8(words.as_bytes()).unwrap_or_default();
    let _ = write!(message, "{name} is not archived: ");
    let _ = match trouble {
        Trouble::Connection(Failed::Stopped) if stopping => message.write_str(wal::NOT_IN_TIME),
        Trouble::Connection(failed) if words.is_empty() => write!(message, "{failed}"),
        Trouble::Connection(failed) => write!(message, "{failed}; it last said: {words}"),
        Trouble::Refused => message.write_str(words),
        Trouble::NoAnswer => write!(
            message,
            "the socket answered what no Holdfast sidecar does: {words}"
        ),
        Trouble::RequestTooLong => message.write_str("its path is too long to be asked for"),
    };
    let level = match stopping {
        // It would ask again, and hold the shutdown up.
        true => FATAL,
        false => WARNING,
    };
    postgres::report(level, message.as_c_str());
    false
}

fn ask(
    file: &CStr,
    path: &CStr,
    stop: impl FnMut() -> bool,
    words: &mut Words,
) -> Result<(), Trouble> {
    let mut request = Text::<LONGEST_REQUEST>::new();
    let mut directory = [const { MaybeUninit::uninit() }; LONGEST_REQUEST];
    let directory = wal::working_directory(&mut directory).unwrap_or_default();
    // A sidecar that serves another directory sees that the file is not its own, where it would take its own of that name.
    let slash = if directory.is_empty() { "" } else { "/" };
    let parts: [&[u8]; 7] = [
        b"ARCHIVE ",
        file.to_bytes(),
        b" ",
        directory.as_bytes(),
        slash.as_bytes(),
        path.to_bytes(),
        b"\n",
    ];
    for part in parts {
        request.push(part);
    }
    if request.is_cut() {
        return Err(Trouble::RequestTooLong);
    }
    let deadline = wal::now() + wal::OVERALL;
    let buffer = [0; LONGEST_LINE + 1024];
    let socket = postgres::socket().to_bytes();
    let mut connection = Connection::open(socket, buffer, wal::SILENCE, deadline, stop)?;
    connection.send(request.as_bytes(), deadline)?;
    loop {
        let line = connection.line(deadline)?;
        *words = Words::new();
        let (said, trouble) = match Line::parse(line) {
            Some(Line::Ok(_)) => return Ok(()),
            Some(Line::Wait(why)) => (why, None),
            Some(Line::Error(why)) => (why, Some(Trouble::Refused)),
            Some(Line::Absent) | None => (line, Some(Trouble::NoAnswer)),
        };
        let _ = words.write_str(said);
        if let Some(trouble) = trouble {
            return Err(trouble);
        }
    }
}
