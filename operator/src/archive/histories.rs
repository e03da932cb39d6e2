//! The timeline history files that every instance is given: the floor for a new timeline. Pure.
//!
//! What an instance reports is written by whoever has that pod: only files that Postgres could have written count, the
//! first of a name stays, and there is an end to their number and size.

use super::member::Member;
use holdfast_postgres::{SystemIdentifier, TimelineHistory, TimelineId};
use std::collections::BTreeMap;

/// More promotions than any archive has seen.
const MOST: usize = 512;

/// Of all together, in bytes: a Secret holds a mebibyte.
const LARGEST: usize = 256 << 10;

/// The files by name, such as `00000002.history`.
pub type Histories = BTreeMap<String, Vec<u8>>;

/// What stands, and what members of the same database cluster report besides.
pub fn collect(standing: Histories, members: &[Member], system: SystemIdentifier) -> Histories {
    let mut all = standing;
    let mut size: usize = all.values().map(Vec::len).sum();
    let reported = members
        .iter()
        .filter(|member| member.system() == Some(system))
        .filter_map(Member::report)
        .flat_map(|report| &report.wal.histories);
    for file in reported {
        let content = file.content.as_bytes();
        let fits = all.len() < MOST && size + content.len() <= LARGEST;
        if fits && !all.contains_key(&file.name) && is_history(&file.name, content) {
            size += content.len();
            all.insert(file.name.clone(), content.to_vec());
        }
    }
    all
}

/// Whether an entry of a Secret is such a file, by its name.
pub fn is_name(name: &str) -> bool {
    timeline(name).is_some()
}

fn timeline(name: &str) -> Option<TimelineId> {
    let digits = name.strip_suffix(".history")?;
    let good = digits.len() == 8
        && digits
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    // Timeline 1 has no history.
    let number = good.then(|| u32::from_str_radix(digits, 16).ok()).flatten();
    number.filter(|number| *number > 1).map(TimelineId)
}

fn is_history(name: &str, content: &[u8]) -> bool {
    timeline(name).is_some_and(|timeline| {
        TimelineHistory::parse(timeline, content).is_ok_and(|history| history.parent().is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::super::member::tests::reporting;
    use super::*;
    use serde_json::{Value, json};

    fn reports(n: u32, system: &str, files: Value) -> Member {
        reporting(
            n,
            json!({"postgres": {"systemIdentifier": system}, "wal": {"histories": files}}),
        )
    }

    #[test]
    fn only_files_of_the_same_cluster_that_postgres_could_have_written_count() {
        let two = "1\t0/3000000\tno recovery target specified\n";
        let members = [
            reports(
                0,
                "7",
                json!([
                    {"name": "00000002.history", "content": two},
                    {"name": "00000001.history", "content": two},
                    {"name": "00000003.history", "content": "nonsense"},
                    {"name": "00000004.history", "content": ""},
                    {"name": "../../etc/passwd", "content": two},
                    {"name": "config.yaml", "content": two},
                    {"name": "0000000a.history", "content": two},
                ]),
            ),
            reports(
                1,
                "7",
                json!([
                    {"name": "00000002.history", "content": "1\t0/9000000\tanother\n"},
                    {"name": "00000005.history", "content": two},
                ]),
            ),
            reports(
                2,
                "8",
                json!([{"name": "00000006.history", "content": two}]),
            ),
        ];
        let all = collect(Histories::new(), &members, SystemIdentifier(7));
        let names: Vec<_> = all.keys().map(String::as_str).collect();
        assert_eq!(names, ["00000002.history", "00000005.history"]);
        assert_eq!(all["00000002.history"], two.as_bytes());
        // What stands is never replaced.
        let standing = Histories::from([("00000005.history".to_owned(), b"kept".to_vec())]);
        let all = collect(standing, &members, SystemIdentifier(7));
        assert_eq!(all["00000005.history"], b"kept");
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn there_is_an_end_to_them() {
        let line = format!("1\t0/3000000\t{}\n", "x".repeat(10_000));
        let files: Vec<Value> = (2..200)
            .map(|n| json!({"name": format!("{n:08X}.history"), "content": line}))
            .collect();
        let all = collect(
            Histories::new(),
            &[reports(0, "7", files.into())],
            SystemIdentifier(7),
        );
        assert_eq!(all.len(), LARGEST / line.len());
    }
}
