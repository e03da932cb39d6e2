//! What strangers say gets into conditions, events and logs: one clean line of bounded length.

/// In characters.
const LONGEST: usize = 300;

/// One line, without control characters, 300 characters at most.
pub fn line(text: &str) -> String {
    let clean: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let mut line = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((cut, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(cut);
        line.push('…');
    }
    line
}

/// The last cause of an error, as one line: the ones above it mostly repeat it.
pub fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    line(&innermost.to_string())
}

/// Names, the first few of them.
pub fn some<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 5;
    let names: Vec<&str> = names.into_iter().collect();
    let (shown, rest) = names.split_at(names.len().min(SHOWN));
    match rest.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_words_are_one_short_line() {
        assert_eq!(line("a\r\n\u{1b}[31mb\tc "), "a [31mb c");
        assert_eq!(line(&"ä".repeat(1000)).chars().count(), 301);
    }

    #[test]
    fn of_many_names_a_few_are_shown() {
        assert_eq!(some(["a", "b"]), "a, b");
        assert_eq!(
            some(["a", "b", "c", "d", "e", "f", "g"]),
            "a, b, c, d, e and 2 more"
        );
    }
}
