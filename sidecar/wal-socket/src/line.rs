//! What the sidecar says.

/// In bytes, without its end.
pub const LONGEST_LINE: usize = 8192;

/// A line from the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// It is done; to RESTORE, the number of bytes that follow.
    Ok(&'a str),
    /// Proven: nobody has it.
    Absent,
    /// Why not.
    Error(&'a str),
    /// It is alive and works; the text says on what.
    Wait(&'a str),
}

impl<'a> Line<'a> {
    /// None: no Holdfast sidecar says so.
    pub fn parse(line: &'a str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "OK" => Some(Self::Ok(rest)),
            "ABSENT" if rest.is_empty() => Some(Self::Absent),
            "ERROR" => Some(Self::Error(rest)),
            "WAIT" => Some(Self::Wait(rest)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_a_sidecar_says() {
        for (line, expected) in [
            ("OK", Some(Line::Ok(""))),
            ("OK 16777216", Some(Line::Ok("16777216"))),
            ("ABSENT", Some(Line::Absent)),
            ("ABSENT really", None),
            (
                "ERROR the store is away",
                Some(Line::Error("the store is away")),
            ),
            ("WAIT storing", Some(Line::Wait("storing"))),
            ("", None),
            ("ok", None),
            ("ABSENTEE", None),
            ("HTTP/1.1 400 Bad Request\r", None),
        ] {
            assert_eq!(Line::parse(line), expected, "{line:?}");
        }
    }
}
