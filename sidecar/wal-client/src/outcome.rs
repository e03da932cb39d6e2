//! What PostgreSQL reads from the exit code.

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Archived durably, or restored and verified.
    Done,
    /// PostgreSQL keeps the segment and tries again (pgarch.c: any code up to 125 is a retry).
    ArchiveTrouble,
    /// The server is shutting down, and its archiver is to end: it would ask three times more, and hold the shutdown up. A
    /// code above 125 makes it (`shell_archive_file`); the files are archived without it, or when it runs again.
    ArchiverEnds,
    /// Proven absent. Ends archive recovery; makes a standby look elsewhere.
    Absent,
    /// A standby is to look elsewhere and ask again. A code above 125 would bring it down
    /// (RestoreArchivedFile raises FATAL).
    StandbyTrouble,
    /// Archive recovery is to stop, never to go on as if the WAL had ended. Above 125, and none of 126 and 127 (the
    /// shell's own) nor 143 (SIGTERM, which PostgreSQL takes for its own shutdown).
    RecoveryTrouble,
    /// A person's mistake in an `archive` call, or no call at all.
    Usage,
}

impl Outcome {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::ArchiveTrouble | Self::Absent | Self::StandbyTrouble => 1,
            Self::RecoveryTrouble | Self::ArchiverEnds => 200,
            Self::Usage => 64,
        }
    }
}

/// A message on one line, without control characters, so that nothing that a socket says can forge a log line.
pub(crate) fn one_line(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(1000)
        .collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_mean_to_postgres_what_they_should() {
        for (outcome, code) in [
            (Outcome::Done, 0),
            (Outcome::ArchiveTrouble, 1),
            (Outcome::ArchiverEnds, 200),
            (Outcome::Absent, 1),
            (Outcome::StandbyTrouble, 1),
            (Outcome::RecoveryTrouble, 200),
            (Outcome::Usage, 64),
        ] {
            assert_eq!(outcome.code(), code, "{outcome:?}");
        }
    }

    #[test]
    fn a_message_is_one_line() {
        assert_eq!(one_line("a\nb\u{1b}[31m\r"), "a b [31m");
        assert_eq!(one_line(&"x".repeat(5000)).len(), 1000);
    }
}
