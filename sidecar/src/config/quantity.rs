//! Amounts of bytes as Kubernetes writes them.

/// Reads `256Mi`, `1Gi`, `500M` or plain bytes.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn amounts() {
        for (text, expected) in [
            ("256Mi", Some(256 << 20)),
            ("1Gi", Some(1 << 30)),
            ("500M", Some(500_000_000)),
            ("1k", Some(1000)),
            ("67108864", Some(64 << 20)),
            ("0", Some(0)),
            ("", None),
            ("Mi", None),
            ("-1", None),
            ("1.5Gi", None),
            ("1 Gi", None),
            ("1GB", None),
            ("1gi", None),
            ("99999999999Ti", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }
}
