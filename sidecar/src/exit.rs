//! How a command ends: the exit code that scripts rely on, and the line that people read.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// The meaning of an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitClass {
    /// What was asked for is done.
    Done,
    /// It failed; what was begun may be there in part. `verify`: damage; `check`: problems.
    Failed,
    /// It could not be told.
    Unknown,
    /// It was refused and nothing was changed.
    Refused,
    /// The command line can't be understood.
    Usage,
}

impl ExitClass {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Unknown => 2,
            Self::Refused => 3,
            Self::Usage => 64,
        }
    }

    /// As a failed condition's reason, so that whoever asked a sidecar ends as the work itself did.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Refused => "Refused",
            Self::Done | Self::Failed | Self::Usage => "Failed",
        }
    }

    /// The other way.
    pub fn from_reason(reason: &str) -> Self {
        match reason {
            "Unknown" => Self::Unknown,
            "Refused" => Self::Refused,
            _ => Self::Failed,
        }
    }
}

impl From<ExitClass> for ExitCode {
    fn from(class: ExitClass) -> Self {
        Self::from(class.code())
    }
}

/// Why a command did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Decides the exit code.
    pub class: ExitClass,
    /// Names the thing, the reason, and what to do; usually one line.
    pub message: String,
}

impl Failure {
    /// See [`ExitClass::Failed`].
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::new(ExitClass::Failed, message)
    }

    /// See [`ExitClass::Unknown`].
    pub fn unknown(message: impl fmt::Display) -> Self {
        Self::new(ExitClass::Unknown, message)
    }

    /// See [`ExitClass::Refused`].
    pub fn refused(message: impl fmt::Display) -> Self {
        Self::new(ExitClass::Refused, message)
    }

    /// See [`ExitClass::Usage`].
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(ExitClass::Usage, message)
    }

    fn new(class: ExitClass, message: impl fmt::Display) -> Self {
        Self {
            class,
            message: message.to_string(),
        }
    }

    /// With the error's sources that its own message does not already hold.
    pub fn from_error(class: ExitClass, error: &(dyn Error + 'static)) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            let text = inner.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            source = inner.source();
        }
        Self { class, message }
    }

    /// What goes to stderr: each line begins with the program's name.
    pub fn lines(&self) -> String {
        let lines = self.message.lines().map(|line| {
            let line: String = line
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            format!("holdfast: {}\n", line.trim_end())
        });
        lines.collect()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn sources_are_told_once() {
        let inner = Layer("refused", None);
        let outer = Layer("can't connect", Some(Box::new(inner)));
        let failure = Failure::from_error(ExitClass::Unknown, &outer);
        assert_eq!(failure.message, "can't connect: refused");
        let told = Layer(
            "can't connect: refused",
            Some(Box::new(Layer("refused", None))),
        );
        let failure = Failure::from_error(ExitClass::Unknown, &told);
        assert_eq!(failure.message, "can't connect: refused");
    }

    #[test]
    fn every_line_names_the_program() {
        let lines = Failure::failed("one\ntwo\u{1b}[2J\n").lines();
        assert_eq!(lines, "holdfast: one\nholdfast: two [2J\n");
    }

    #[test]
    fn codes_are_those_that_scripts_know() {
        let all = [
            ExitClass::Done,
            ExitClass::Failed,
            ExitClass::Unknown,
            ExitClass::Refused,
            ExitClass::Usage,
        ];
        assert_eq!(all.map(ExitClass::code), [0, 1, 2, 3, 64]);
    }
}
