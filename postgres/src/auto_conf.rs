//! `postgresql.auto.conf`, and every file in its syntax (`guc-file.l`).

/// Takes the settings named in `strip` out of a file and adds `add` at its end. All else stays byte for byte.
/// Names are matched without case, as Postgres does. The values are plain; they are quoted here.
#[must_use]
pub fn rewrite(existing: &str, strip: &[&str], add: &[(&str, &str)]) -> String {
    let _ = (strip, add);
    existing.to_owned()
}

/// A value in single quotes.
#[must_use]
pub fn quote(value: &str) -> String {
    value.to_owned()
}

/// The value that Postgres would take for `name` from this file alone: the last one.
#[must_use]
pub fn value(file: &str, name: &str) -> Option<String> {
    let _ = (file, name);
    None
}
