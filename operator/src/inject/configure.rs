//! Who sets archive_mode, archive_library or archive_command, and restore_command, and what is appended to the command line for it.

use super::annotations::Configure;
use super::command_line::{Reach, Setting, last};
use super::names::{ARCHIVE_COMMAND, ARCHIVE_LIBRARY, RESTORE_COMMAND};
use super::refusal::{Quoted, Refusal};

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) configure: Configure,
    /// To append to the container's `args`.
    pub(super) arguments: Vec<String>,
}

/// Decides: as annotated; else `Arguments` where they reach Postgres, else `AlterSystem`.
///
/// The command line beats ALTER SYSTEM and postgresql.conf. So another archive or restore command on it is refused in
/// both cases: replacing it in silence would end another backup or cut a standby off, keeping it would archive nothing.
pub(super) fn decide(
    annotated: Option<Configure>,
    reach: Reach,
    settings: &[Setting],
    major: Option<u32>,
    container: &str,
) -> Result<Decision, Refusal> {
    let configure = match (annotated, reach) {
        (Some(Configure::Arguments), Reach::No(why)) => {
            return Err(Refusal::ArgumentsDoNotReach {
                container: Quoted::new(container),
                why,
            });
        }
        (Some(annotated), _) => annotated,
        (None, Reach::Yes) => Configure::Arguments,
        (None, Reach::Unclear | Reach::No(_)) => Configure::AlterSystem,
    };
    // Where Postgres never hears the words, they set nothing.
    let heard = !matches!(reach, Reach::No(_));
    if configure != Configure::None && heard {
        check(settings, container)?;
    }
    let arguments = match configure {
        Configure::Arguments => missing(settings, major),
        Configure::AlterSystem | Configure::None => Vec::new(),
    };
    Ok(Decision {
        configure,
        arguments,
    })
}

fn check(settings: &[Setting], container: &str) -> Result<(), Refusal> {
    let ours: [(&'static str, &[&str]); 4] = [
        ("archive_mode", &["on", "always", "true", "yes", "1"]),
        ("archive_command", &[ARCHIVE_COMMAND, ""]),
        ("archive_library", &[ARCHIVE_LIBRARY, ""]),
        ("restore_command", &[RESTORE_COMMAND, ""]),
    ];
    for (setting, good) in ours {
        let value = last(settings, setting).filter(|value| !good.contains(value));
        if let Some(value) = value {
            return Err(Refusal::OtherSetting {
                container: Quoted::new(container),
                setting,
                value: Quoted::new(value),
            });
        }
    }
    Ok(())
}

/// What the command line does not say yet. `always` stays: it archives on a standby what `on` does on a primary.
///
/// A major that is not known may be 14, which does not start with an archive_library. Whoever wrote our archive_command keeps
/// it; 16 and later archive nothing where both are set.
fn missing(settings: &[Setting], major: Option<u32>) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut set = |name: &str, value: &str| {
        arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
    };
    if last(settings, "archive_mode").is_none() {
        set("archive_mode", "on");
    }
    let loaded = last(settings, "archive_library") == Some(ARCHIVE_LIBRARY);
    let called = last(settings, "archive_command") == Some(ARCHIVE_COMMAND);
    let by_module = loaded || (!called && major.is_some_and(|major| major >= 15));
    let wanted = [
        ("archive_library", by_module.then_some(ARCHIVE_LIBRARY)),
        (
            "archive_command",
            Some(if by_module { "" } else { ARCHIVE_COMMAND }),
        ),
        ("restore_command", Some(RESTORE_COMMAND)),
    ];
    for (name, value) in wanted {
        if let Some(value) = value
            && last(settings, name) != Some(value)
        {
            set(name, value);
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO: Reach = Reach::No("whose command is a shell");

    fn of(settings: &[(&str, &str)]) -> Vec<Setting> {
        let setting = |(name, value): &(&str, &str)| Setting {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
        };
        settings.iter().map(setting).collect()
    }

    #[test]
    fn who_configures() {
        use Configure::{AlterSystem, Arguments, None as Nobody};
        for (annotated, reach, expected, count) in [
            (None, Reach::Yes, Arguments, 6),
            (None, Reach::Unclear, AlterSystem, 0),
            (None, NO, AlterSystem, 0),
            (Some(Arguments), Reach::Yes, Arguments, 6),
            (Some(Arguments), Reach::Unclear, Arguments, 6),
            (Some(AlterSystem), Reach::Yes, AlterSystem, 0),
            (Some(Nobody), Reach::Yes, Nobody, 0),
            (Some(Nobody), NO, Nobody, 0),
        ] {
            let decision = decide(annotated, reach, &[], None, "db").unwrap();
            assert_eq!(decision.configure, expected);
            assert_eq!(decision.arguments.len(), count);
        }
        let sentence = decide(Some(Arguments), NO, &[], None, "db")
            .unwrap_err()
            .to_string();
        assert!(sentence.contains("AlterSystem, or None"), "{sentence}");
    }

    #[test]
    fn what_is_appended() {
        const MODE: &str = "archive_mode=on";
        const COMMAND: &str = "archive_command=/holdfast/bin/holdfast-wal archive %f %p";
        const LIBRARY: &str = "archive_library=/holdfast/lib/holdfast_archive";
        const NO_COMMAND: &str = "archive_command=";
        const RESTORE: &str = "restore_command=/holdfast/bin/holdfast-wal restore %f %p";
        let command = ("archive_command", ARCHIVE_COMMAND);
        let library = ("archive_library", ARCHIVE_LIBRARY);
        let old: &[&str] = &[MODE, COMMAND, RESTORE];
        let new: &[&str] = &[MODE, LIBRARY, NO_COMMAND, RESTORE];
        for (major, settings, expected) in [
            (None, &[("shared_buffers", "1GB")][..], old),
            (Some(14), &[], old),
            (Some(15), &[], new),
            (
                Some(18),
                &[("archive_command", "")],
                &[MODE, LIBRARY, RESTORE],
            ),
            (Some(17), &[("archive_mode", "always")], &new[1..]),
            (Some(17), &[("archive_library", "")], new),
            // What the user has written of ours stays.
            (Some(17), &[command], &[MODE, RESTORE]),
            (Some(17), &[command, library], &[MODE, NO_COMMAND, RESTORE]),
            (None, &[library], &[MODE, NO_COMMAND, RESTORE]),
            // What we have added stays as it is.
            (
                Some(17),
                &[
                    ("archive_mode", "on"),
                    library,
                    ("archive_command", ""),
                    ("restore_command", RESTORE_COMMAND),
                ],
                &[],
            ),
            (
                None,
                &[
                    ("archive_mode", "on"),
                    command,
                    ("restore_command", RESTORE_COMMAND),
                ],
                &[],
            ),
        ] {
            let decision = decide(None, Reach::Yes, &of(settings), major, "db").unwrap();
            let words = expected.iter().flat_map(|setting| ["-c", setting]);
            let words: Vec<&str> = words.collect();
            assert_eq!(decision.arguments, words, "{major:?} {settings:?}");
        }
    }

    #[test]
    fn another_backups_settings_are_not_replaced_in_silence() {
        for (setting, value) in [
            ("archive_mode", "off"),
            ("archive_command", "pgbackrest archive-push %p"),
            ("archive_command", "/bin/true"),
            ("archive_library", "basic_archive"),
            ("restore_command", "wal-g wal-fetch %f %p"),
        ] {
            let settings = of(&[(setting, value)]);
            for annotated in [
                None,
                Some(Configure::Arguments),
                Some(Configure::AlterSystem),
            ] {
                let refusal = decide(annotated, Reach::Yes, &settings, Some(17), "db").unwrap_err();
                let sentence = refusal.to_string();
                assert!(
                    sentence.contains(setting) && sentence.contains(value),
                    "{sentence}"
                );
                assert!(
                    sentence.contains("holdfast.dev/configure: None"),
                    "{sentence}"
                );
            }
            assert!(decide(Some(Configure::None), Reach::Yes, &settings, None, "db").is_ok());
            assert!(decide(None, NO, &settings, None, "db").is_ok());
        }
    }

    #[test]
    fn the_last_setting_counts() {
        let settings = of(&[
            ("archive_command", "x"),
            ("archive_command", ARCHIVE_COMMAND),
        ]);
        assert!(decide(None, Reach::Yes, &settings, None, "db").is_ok());
    }
}
