//! The `backup_manifest` that `pg_verifybackup` reads (`backup_manifest.c`, `parse_manifest.c`).

use std::fmt::Write as _;
use std::io::{self, Write};

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::lsn::Lsn;
use crate::timeline::{SystemIdentifier, TimelineId};

/// Writes a manifest as the files of a backup become known. The manifest itself and pg_wal are not listed in it.
#[derive(Debug)]
pub struct Writer<W: Write> {
    to: W,
    digest: Sha256,
    has_files: bool,
}

/// WAL that must be replayed to make a backup consistent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalRange {
    /// Its timeline.
    pub timeline: TimelineId,
    /// From here.
    pub start: Lsn,
    /// To here (exclusive).
    pub end: Lsn,
}

/// The version of the manifest that pg_verifybackup of a major wants: 2 names the system, from 17 on.
#[must_use]
pub fn version_of(major: u32) -> u32 {
    if major >= 17 { 2 } else { 1 }
}

impl<W: Write> Writer<W> {
    /// Begins a manifest: version 1 without the system identifier, or version 2 with it (see [`version_of`]).
    pub fn new(
        to: W,
        version: u32,
        system_identifier: Option<SystemIdentifier>,
    ) -> io::Result<Self> {
        let system_identifier = match (version, system_identifier) {
            (1, _) => None,
            (2, Some(identifier)) => Some(identifier),
            _ => {
                let message = format!(
                    "there is no backup manifest of version {version} without a system identifier"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
        };
        let mut writer = Self {
            to,
            digest: Sha256::new(),
            has_files: false,
        };
        writer.put(&format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": {version},\n"
        ))?;
        if let Some(identifier) = system_identifier {
            writer.put(&format!("\"System-Identifier\": {identifier},\n"))?;
        }
        writer.put("\"Files\": [")?;
        Ok(writer)
    }

    /// Adds a file: its path relative to the data directory (tablespaces through `pg_tblspc/<oid>`), size in bytes,
    /// time of change, and CRC-32C, without which only its size is verified.
    pub fn file(
        &mut self,
        path: impl AsRef<[u8]>,
        size: u64,
        modified: Timestamp,
        crc32c: Option<u32>,
    ) -> io::Result<()> {
        let mut line = String::from(if self.has_files { ",\n{ " } else { "\n{ " });
        self.has_files = true;
        match std::str::from_utf8(path.as_ref()) {
            Ok(path) => {
                line.push_str("\"Path\": ");
                push_json(&mut line, path);
            }
            Err(_) => push(
                &mut line,
                format_args!("\"Encoded-Path\": \"{}\"", hex::encode(path.as_ref())),
            ),
        }
        let modified = modified.strftime("%Y-%m-%d %H:%M:%S");
        push(
            &mut line,
            format_args!(", \"Size\": {size}, \"Last-Modified\": \"{modified} GMT\""),
        );
        if let Some(crc) = crc32c {
            // Postgres prints the bytes of the integer as they lie in memory.
            let crc = hex::encode(crc.to_le_bytes());
            push(
                &mut line,
                format_args!(", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{crc}\""),
            );
        }
        line.push_str(" }");
        self.put(&line)
    }

    /// Ends a manifest whose WAL is all on one timeline.
    pub fn finish(self, timeline: TimelineId, start: Lsn, end: Lsn) -> io::Result<W> {
        self.finish_ranges(&[WalRange {
            timeline,
            start,
            end,
        }])
    }

    /// Ends a manifest; a backup that saw a promotion has a range for each timeline, newest first. The writer is
    /// flushed.
    pub fn finish_ranges(mut self, ranges: &[WalRange]) -> io::Result<W> {
        let mut text = String::from("\n],\n\"WAL-Ranges\": [\n");
        for (
            index,
            WalRange {
                timeline,
                start,
                end,
            },
        ) in ranges.iter().enumerate()
        {
            let comma = if index == 0 { "" } else { ",\n" };
            push(
                &mut text,
                format_args!(
                    "{comma}{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \"End-LSN\": \"{end}\" }}"
                ),
            );
        }
        text.push_str("\n],\n");
        self.put(&text)?;
        // Over all lines but this last one.
        let digest = hex::encode(self.digest.finalize());
        self.to
            .write_all(format!("\"Manifest-Checksum\": \"{digest}\"}}\n").as_bytes())?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn put(&mut self, text: &str) -> io::Result<()> {
        self.digest.update(text.as_bytes());
        self.to.write_all(text.as_bytes())
    }
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(arguments);
}

/// A JSON string, as `escape_json` writes it.
fn push_json(text: &mut String, value: &str) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            control if control < ' ' => push(text, format_args!("\\u{:04x}", u32::from(control))),
            other => text.push(other),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment() -> Timestamp {
        "2026-11-21T09:08:07.9Z".parse().expect("a timestamp")
    }

    #[test]
    fn the_text_that_pg_basebackup_writes() {
        let mut writer = Writer::new(
            Vec::new(),
            2,
            Some(SystemIdentifier(7_568_172_923_453_462_918)),
        )
        .expect("begin");
        writer
            .file("backup_label", 227, moment(), Some(0x0102_A3B4))
            .expect("file");
        writer
            .file("odd \"name\"\\\n\u{1}ä", 0, moment(), None)
            .expect("file");
        writer
            .file(b"base/\xff", 1, moment(), Some(0))
            .expect("file");
        let written = writer
            .finish_ranges(&[
                WalRange {
                    timeline: TimelineId(2),
                    start: Lsn(0x300_0000),
                    end: Lsn(0x300_0100),
                },
                WalRange {
                    timeline: TimelineId(1),
                    start: Lsn(0x200_0028),
                    end: Lsn(0x300_0000),
                },
            ])
            .expect("finish");
        let text = String::from_utf8(written).expect("UTF-8");
        let (body, checksum) = text.split_at(text.find("\"Manifest-Checksum\"").expect("checksum"));
        assert_eq!(
            body,
            "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\
             \"System-Identifier\": 7568172923453462918,\n\
             \"Files\": [\n\
             { \"Path\": \"backup_label\", \"Size\": 227, \"Last-Modified\": \"2026-11-21 09:08:07 GMT\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"b4a30201\" },\n\
             { \"Path\": \"odd \\\"name\\\"\\\\\\n\\u0001ä\", \"Size\": 0, \"Last-Modified\": \"2026-11-21 09:08:07 GMT\" },\n\
             { \"Encoded-Path\": \"626173652fff\", \"Size\": 1, \"Last-Modified\": \"2026-11-21 09:08:07 GMT\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"00000000\" }\n\
             ],\n\
             \"WAL-Ranges\": [\n\
             { \"Timeline\": 2, \"Start-LSN\": \"0/3000000\", \"End-LSN\": \"0/3000100\" },\n\
             { \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/3000000\" }\n\
             ],\n"
        );
        assert_eq!(
            checksum,
            format!(
                "\"Manifest-Checksum\": \"{}\"}}\n",
                hex::encode(Sha256::digest(body))
            )
        );
    }

    #[test]
    fn version_1_names_no_system() {
        let writer =
            Writer::new(Vec::new(), version_of(16), Some(SystemIdentifier(1))).expect("begin");
        let text = writer
            .finish(TimelineId(1), Lsn(1), Lsn(2))
            .expect("finish");
        assert!(
            text.starts_with(b"{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n],\n")
        );
        assert!(Writer::new(Vec::new(), version_of(17), None).is_err());
        assert!(Writer::new(Vec::new(), 3, Some(SystemIdentifier(1))).is_err());
    }
}
