//! The sidecar's memory: the operator writes it into pods and the sidecar reads it from its settings, so both take the
//! same for an amount.

/// The sidecar can work with so much, in bytes.
pub const LEAST_MEMORY: u64 = 64 << 20;

/// Reads an amount of bytes as Kubernetes writes them in whole numbers: `256Mi`, `1Gi`, `500M` or plain bytes.
pub fn bytes(text: &str) -> Option<u64> {
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
    let bytes = number.parse::<u64>().ok()?.checked_mul(factor)?;
    // Kubernetes knows no amount above this one.
    i64::try_from(bytes).is_ok().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn amounts() {
        for (text, expected) in [
            ("64Mi", Some(64 << 20)),
            ("256Mi", Some(256 << 20)),
            ("1Gi", Some(1 << 30)),
            ("2Ti", Some(2 << 40)),
            ("1T", Some(1_000_000_000_000)),
            ("500M", Some(500_000_000)),
            ("1k", Some(1000)),
            ("3Ki", Some(3072)),
            ("67108864", Some(64 << 20)),
            ("0", Some(0)),
            ("9223372036854775807", Some(i64::MAX as u64)),
            ("9223372036854775808", None),
            ("8388607Ti", Some(8_388_607 << 40)),
            ("8388608Ti", None),
            ("", None),
            ("Mi", None),
            ("-1", None),
            ("-1Gi", None),
            ("+1Gi", None),
            ("1.5Gi", None),
            ("1 Gi", None),
            (" 1Gi", None),
            ("1GB", None),
            ("1gi", None),
            ("1Pi", None),
            ("1m", None),
            ("1e9", None),
            ("lots", None),
            ("١Gi", None),
            ("9999999999Gi", None),
            ("99999999999Ti", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(bytes(text), expected, "{text:?}");
        }
    }
}
