//! `postgresql.auto.conf`, and every file in its syntax (`guc-file.l`): a setting per line, `name = value` or
//! `name value`; names without case; the last one wins.

/// Takes the settings named in `strip`, and those in `add`, out of a file and puts `add` at its end. All else stays
/// byte for byte. The values are plain; they are quoted here.
#[must_use]
pub fn rewrite(existing: &str, strip: &[&str], add: &[(&str, &str)]) -> String {
    let goes = |name: &str| {
        strip
            .iter()
            .chain(add.iter().map(|(name, _)| name))
            .any(|gone| gone.eq_ignore_ascii_case(name))
    };
    let mut rewritten: String = existing
        .split_inclusive('\n')
        .filter(|line| !name_and_rest(line).is_some_and(|(name, _)| goes(name)))
        .collect();
    if !rewritten.is_empty() && !rewritten.ends_with('\n') {
        rewritten.push('\n');
    }
    for (name, value) in add {
        rewritten.push_str(name);
        rewritten.push_str(" = ");
        rewritten.push_str(&quote(value));
        rewritten.push('\n');
    }
    rewritten
}

/// A value in single quotes, as the server reads it back (`DeescapeQuotedString`).
#[must_use]
pub fn quote(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('\'');
    for c in value.chars() {
        match c {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            // A string ends with its line.
            '\n' => quoted.push_str("\\n"),
            other => quoted.push(other),
        }
    }
    quoted.push('\'');
    quoted
}

/// The value that the server takes for `name` from this file alone: the last well-formed one. Includes are not
/// followed.
#[must_use]
pub fn value(file: &str, name: &str) -> Option<String> {
    let found = lines(file).filter(|line| line.name.eq_ignore_ascii_case(name));
    found.last().map(|line| line.value)
}

/// A well-formed line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<'a> {
    /// As it is written.
    pub name: &'a str,
    /// Unquoted.
    pub value: String,
}

/// The well-formed lines, in order.
pub fn lines(file: &str) -> impl Iterator<Item = Line<'_>> {
    file.lines().filter_map(|line| {
        let (name, rest) = name_and_rest(line)?;
        let value = parse_value(rest)?;
        Some(Line { name, value })
    })
}

/// The setting that a line names, and what follows the name. None for comments, blanks and what begins otherwise.
fn name_and_rest(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start_matches(is_blank);
    let end = line
        .find(|c: char| !(is_letter(c) || c.is_ascii_digit() || c == '.' || c == '$'))
        .unwrap_or(line.len());
    let (name, rest) = line.split_at_checked(end)?;
    name.starts_with(is_letter).then_some((name, rest))
}

/// What stands after a name: perhaps an equals sign, a quoted or bare value, perhaps a comment.
fn parse_value(rest: &str) -> Option<String> {
    let rest = rest.trim_start_matches(is_blank);
    let rest = rest
        .strip_prefix('=')
        .unwrap_or(rest)
        .trim_start_matches(is_blank);
    let (value, after) = match rest.strip_prefix('\'') {
        Some(quoted) => unquote(quoted)?,
        None => {
            let bare = |c: char| is_letter(c) || c.is_ascii_digit() || "-+._:/".contains(c);
            let end = rest.find(|c| !bare(c)).unwrap_or(rest.len());
            let (value, after) = rest.split_at_checked(end)?;
            (value.to_owned(), after)
        }
    };
    let after = after.trim_start_matches(is_blank);
    let complete = after.is_empty() || after.starts_with(['#', '\n']);
    (complete && (rest.starts_with('\'') || !value.is_empty())).then_some(value)
}

/// The value of a quoted string, given what follows its first quote, and what follows its last.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = quoted.chars();
    loop {
        match rest.next()? {
            '\'' if rest.as_str().starts_with('\'') => {
                rest.next();
                value.push('\'');
            }
            '\'' => return Some((value, rest.as_str())),
            '\\' => match rest.next()? {
                'b' => value.push('\u{8}'),
                'f' => value.push('\u{c}'),
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                digit @ '0'..='7' => {
                    let mut code = digit.to_digit(8)?;
                    for _ in 0..2 {
                        let Some(next) = rest.as_str().chars().next().and_then(|c| c.to_digit(8))
                        else {
                            break;
                        };
                        code = code * 8 + next;
                        rest.next();
                    }
                    // A byte; beyond ASCII it would be part of some encoding.
                    value.push(char::from(code as u8));
                }
                '\n' => return None,
                other => value.push(other),
            },
            '\n' => return None,
            other => value.push(other),
        }
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r')
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "# Do not edit this file manually!\n\
        # It will be overwritten by the ALTER SYSTEM command.\n\
        work_mem = '64MB'\n\
        Recovery_Target_Time = '2026-11-21 10:00:00+00'\n\
        \trestore_command 'cp /a/%f \"%p\"' # old\n\
        primary_conninfo='user=repl password=it''s'\n\
        shop.mode = on\n\
        work_mem=128MB";

    #[test]
    fn settings_go_and_come_and_all_else_stays() {
        let rewritten = rewrite(
            FILE,
            &["recovery_target_time", "PRIMARY_CONNINFO", "absent"],
            &[
                (
                    "restore_command",
                    "/holdfast/bin/holdfast-wal restore %f \"%p\"",
                ),
                ("recovery_target_name", "it's"),
            ],
        );
        assert_eq!(
            rewritten,
            "# Do not edit this file manually!\n\
             # It will be overwritten by the ALTER SYSTEM command.\n\
             work_mem = '64MB'\n\
             shop.mode = on\n\
             work_mem=128MB\n\
             restore_command = '/holdfast/bin/holdfast-wal restore %f \"%p\"'\n\
             recovery_target_name = 'it''s'\n"
        );
    }

    #[test]
    fn what_is_not_named_stays_as_it_is() {
        for file in [
            "",
            "\n",
            "#x\r\n\r\na=1\r\n",
            "= broken\nrecovery",
            "recovery_target_timeline_x=1\n",
        ] {
            assert_eq!(rewrite(file, &["recovery_target_timeline"], &[]), {
                let newline = if file.is_empty() || file.ends_with('\n') {
                    ""
                } else {
                    "\n"
                };
                format!("{file}{newline}")
            });
        }
        assert_eq!(
            rewrite("recovery_target_xid", &["recovery_target_xid"], &[]),
            ""
        );
    }

    #[test]
    fn values_as_the_server_reads_them() {
        for (name, expected) in [
            ("work_mem", Some("128MB")),
            ("RECOVERY_TARGET_TIME", Some("2026-11-21 10:00:00+00")),
            ("restore_command", Some("cp /a/%f \"%p\"")),
            ("primary_conninfo", Some("user=repl password=it's")),
            ("shop.mode", Some("on")),
            ("shop", None),
        ] {
            assert_eq!(value(FILE, name).as_deref(), expected, "{name}");
        }
        for (line, expected) in [
            ("a = 'x\\ty\\101\\\\'", Some("x\tyA\\")),
            ("a=-1.5", Some("-1.5")),
            ("a ''", Some("")),
            ("a = 'open", None),
            ("a =", None),
            ("a = 'x' y", None),
            ("a = x#y", Some("x")),
            ("9a = 1", None),
        ] {
            assert_eq!(value(line, "a").as_deref(), expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn a_value_comes_back_from_its_quotes(plain in "[^\\x00]*") {
            let file = rewrite("x = 1", &[], &[("a.b", plain.as_str())]);
            prop_assert_eq!(value(&file, "A.B"), Some(plain));
        }

        #[test]
        fn any_text_is_read(file in "\\PC*", name in "[a-z.]{1,9}") {
            let _ = value(&file, &name);
            let _ = rewrite(&file, &[&name], &[]);
        }

        #[test]
        fn text_like_settings_is_read(file in "([a-z]{1,3} ?=? ?['\\\\a-z0-7\n#]{0,9}\n?){0,5}") {
            let _ = value(&file, "a");
            prop_assert_eq!(value(&rewrite(&file, &["a"], &[]), "a"), None);
        }
    }
}
