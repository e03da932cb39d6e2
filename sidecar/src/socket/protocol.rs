//! One line from the client, and the lines that answer it.

/// The longest request, in bytes, without its newline: a verb, a name, and a path of PATH_MAX.
pub const LONGEST_REQUEST: usize = 4096 + 256;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Store this WAL file.
    Archive {
        /// As PostgreSQL calls it (`%f`). Not yet checked to be a WAL file's.
        name: String,
        /// As PostgreSQL gave it (`%p`).
        path: String,
    },
    /// Send this WAL file.
    Restore {
        /// As PostgreSQL calls it (`%f`). Not yet checked to be a WAL file's.
        name: String,
    },
    /// Say how it goes.
    Status,
    /// Say which restore in place may begin.
    Order,
}

/// Why a line is no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// See [`LONGEST_REQUEST`].
    #[error("the request is longer than {LONGEST_REQUEST} bytes")]
    TooLong,
    /// Names and paths with such bytes are nothing that PostgreSQL makes.
    #[error("the request holds control characters or is not UTF-8")]
    NotText,
    /// The verb is unknown, or its words are too few or too many.
    #[error("a request is ARCHIVE <name> <path>, RESTORE <name>, STATUS or ORDER")]
    Unknown,
}

impl Request {
    /// Reads a line, without its newline. A carriage return at its end is ignored.
    pub fn parse(line: &[u8]) -> Result<Self, RequestError> {
        if line.len() > LONGEST_REQUEST {
            return Err(RequestError::TooLong);
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = std::str::from_utf8(line).map_err(|_| RequestError::NotText)?;
        if line.contains(char::is_control) {
            return Err(RequestError::NotText);
        }
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let name = |word: &str| {
            (!word.is_empty() && !word.contains(char::is_whitespace)).then(|| word.to_owned())
        };
        match verb {
            // The path is the rest of the line: it may hold blanks.
            "ARCHIVE" => rest.split_once(' ').and_then(|(word, path)| {
                let (name, path) = (name(word)?, path.to_owned());
                (!path.is_empty()).then_some(Self::Archive { name, path })
            }),
            "RESTORE" => name(rest).map(|name| Self::Restore { name }),
            "STATUS" if rest.is_empty() => Some(Self::Status),
            "ORDER" if rest.is_empty() => Some(Self::Order),
            _ => None,
        }
        .ok_or(RequestError::Unknown)
    }

    /// For `WAIT` lines and the log.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Archive { name, .. } => format!("archiving {name}"),
            Self::Restore { name } => format!("fetching {name}"),
            Self::Status | Self::Order => "looking".to_owned(),
        }
    }
}

/// `word text`, as one line whatever the text holds.
pub(crate) fn line(word: &str, text: &str) -> String {
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let text = text.trim();
    if text.is_empty() {
        format!("{word}\n")
    } else {
        format!("{word} {text}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_and_what_is_none() {
        let archive = |name: &str, path: &str| {
            Ok(Request::Archive {
                name: name.into(),
                path: path.into(),
            })
        };
        let restore = |name: &str| Ok(Request::Restore { name: name.into() });
        let unknown = Err(RequestError::Unknown);
        for (line, expected) in [
            ("ARCHIVE 0001 pg_wal/0001", archive("0001", "pg_wal/0001")),
            ("ARCHIVE 0001 /a b/0001\r", archive("0001", "/a b/0001")),
            ("RESTORE 00000002.history", restore("00000002.history")),
            ("RESTORE ../../etc/passwd", restore("../../etc/passwd")),
            ("STATUS", Ok(Request::Status)),
            ("ORDER", Ok(Request::Order)),
            ("ORDER a1", unknown.clone()),
            ("STATUS now", unknown.clone()),
            ("", unknown.clone()),
            ("ARCHIVE", unknown.clone()),
            ("ARCHIVE 0001", unknown.clone()),
            ("ARCHIVE 0001 ", unknown.clone()),
            ("ARCHIVE  pg_wal/0001", unknown.clone()),
            ("RESTORE", unknown.clone()),
            ("RESTORE ", unknown.clone()),
            ("RESTORE a b", unknown.clone()),
            ("restore a", unknown.clone()),
            ("GET / HTTP/1.1", unknown.clone()),
            ("RESTORE a\0b", Err(RequestError::NotText)),
            ("RESTORE a\tb", Err(RequestError::NotText)),
        ] {
            assert_eq!(Request::parse(line.as_bytes()), expected, "{line:?}");
        }
        assert_eq!(Request::parse(b"RESTORE \xff"), Err(RequestError::NotText));
        let long = format!("RESTORE {}", "a".repeat(LONGEST_REQUEST));
        assert_eq!(Request::parse(long.as_bytes()), Err(RequestError::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Request::Archive { name, .. } | Request::Restore { name }) = Request::parse(&bytes) {
                prop_assert!(!name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control()));
            }
        }

        #[test]
        fn what_a_client_writes_is_read_back(name in "[0-9A-F.a-z]{1,40}", path in "[^\\p{Cc}]{1,60}") {
            let line = format!("ARCHIVE {name} {path}");
            prop_assert_eq!(Request::parse(line.as_bytes()), Ok(Request::Archive { name, path }));
        }

        #[test]
        fn an_answer_is_always_one_line(text in any::<String>()) {
            let line = line("ERROR", &text);
            prop_assert!(line.ends_with('\n'));
            prop_assert_eq!(line.matches(char::is_control).count(), 1);
        }
    }
}
