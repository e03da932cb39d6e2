//! What is wrong in a settings file, and where.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// From 1; 0 where it concerns the whole file.
    pub line: u64,
    /// From 1, in characters.
    pub column: u64,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// Settings that can't be used.
#[derive(Debug)]
pub enum ConfigError {
    /// The file can't be read.
    Read {
        /// As given.
        file: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file can be read and not used.
    Invalid {
        /// As given.
        file: PathBuf,
        /// All of them, by line.
        problems: Vec<Problem>,
    },
}

impl fmt::Display for ConfigError {
    /// A line for each problem, as compilers write them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { file, source } => {
                write!(
                    f,
                    "the settings file {} can't be read: {source}",
                    file.display()
                )
            }
            Self::Invalid { file, problems } => {
                for (i, problem) in problems.iter().enumerate() {
                    let Problem {
                        line,
                        column,
                        message,
                    } = problem;
                    let newline = if i == 0 { "" } else { "\n" };
                    let file = file.display();
                    match line {
                        0 => write!(f, "{newline}{file}: {message}")?,
                        _ => write!(f, "{newline}{file}:{line}:{column}: {message}")?,
                    }
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// `; did you mean "x"?`, or what there is to choose from.
pub(crate) fn suggestion(word: &str, known: &[&str]) -> String {
    let plain = |s: &str| s.replace(['_', '-'], "").to_lowercase();
    let nearest = known
        .iter()
        .map(|name| (distance(&plain(word), &plain(name)), name))
        .min();
    match nearest {
        // A third of the letters may be wrong, and at least one.
        Some((distance, name)) if distance <= (word.chars().count() / 3).max(1) => {
            format!("did you mean \"{name}\"?")
        }
        _ if known.is_empty() => "nothing belongs here".to_owned(),
        _ => format!("it can be {}", list(known)),
    }
}

fn list(known: &[&str]) -> String {
    match known {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [all @ .., last] => format!("{} or {last}", all.join(", ")),
    }
}

/// Letters to insert, delete, replace or swap with a neighbour to get from one word to the other. Words are cut after
/// 64 letters.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    let mut a_previous = None;
    for (i, &x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        let mut b_previous = None;
        for (j, &y) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let mut best = (at(&above, j) + usize::from(x != y))
                .min(at(&above, j + 1) + 1)
                .min(at(&row, j) + 1);
            if j > 0 && a_previous == Some(y) && b_previous == Some(x) {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
            b_previous = Some(y);
        }
        before = std::mem::replace(&mut above, row);
        a_previous = Some(x);
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("bucket", "bucket", 0),
            ("buckt", "bucket", 1),
            ("bukcet", "bucket", 1),
            ("prefix", "suffix", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn suggestions_are_near_or_complete() {
        let known = ["dataDirectory", "host", "port", "user"];
        for (word, expected) in [
            ("data_directory", "did you mean \"dataDirectory\"?"),
            ("datadir", "it can be dataDirectory, host, port or user"),
            ("prot", "did you mean \"port\"?"),
            ("users", "did you mean \"user\"?"),
            ("x", "it can be dataDirectory, host, port or user"),
        ] {
            assert_eq!(suggestion(word, &known), expected);
        }
        assert_eq!(suggestion("x", &["path"]), "it can be path");
    }
}
