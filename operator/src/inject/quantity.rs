//! Amounts as Kubernetes writes them, to compare them with each other.

use serde_json::Value;

/// What no amount in a pod reaches, in billionths: beyond it sums could overflow.
const MOST: i128 = 1 << 120;

/// An amount in billionths (cores, bytes); none for what is no amount.
/// <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>
pub(crate) fn billionths(value: &Value) -> Option<i128> {
    match value {
        Value::String(text) => parse(text),
        // The API server writes them as text; a number means the same.
        Value::Number(number) => parse(&number.to_string()),
        _ => None,
    }
}

fn parse(text: &str) -> Option<i128> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || number.len() > 30 || fraction.contains('.') {
        return None;
    }
    // Billionths, and what is finer counts as none.
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let amount = format!("{whole}{digits}").parse::<i128>().ok()?;
    let (times, divided_by) = factor(suffix)?;
    let amount = amount.checked_mul(times)? / divided_by;
    (amount < MOST).then_some(amount)
}

fn factor(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| (1i128 << (10 * power), 1);
    let decimal = |exponent: i32| {
        let power = 10i128.pow(exponent.unsigned_abs());
        if exponent < 0 { (1, power) } else { (power, 1) }
    };
    Some(match suffix {
        "" => (1, 1),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            (-18..=18).contains(&exponent).then(|| decimal(exponent))?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn amounts_are_compared_by_what_they_are() {
        for (one, other) in [
            (json!("1"), json!("1000m")),
            (json!(1), json!("1")),
            (json!(0.5), json!("500m")),
            (json!(".5"), json!("500m")),
            (json!("1Gi"), json!("1024Mi")),
            (json!("1G"), json!("1e9")),
            (json!("1.5Ki"), json!("1536")),
            (json!("+1"), json!("1")),
            (json!("1E"), json!("1000P")),
            (json!("100u"), json!("100000n")),
        ] {
            assert!(billionths(&one).is_some(), "{one}");
            assert_eq!(billionths(&one), billionths(&other), "{one} {other}");
        }
        assert_ne!(billionths(&json!("1G")), billionths(&json!("1Gi")));
        assert_eq!(billionths(&json!("0")), Some(0));
    }

    #[test]
    fn what_is_no_amount_is_none() {
        for bad in [
            json!(null),
            json!(true),
            json!([]),
            json!(""),
            json!("."),
            json!("-1"),
            json!("1.2.3"),
            json!("1GB"),
            json!("Gi"),
            json!("1 Gi"),
            json!("1e99"),
            json!("1e"),
            json!("9".repeat(400)),
            json!("999999999999999999999999999999E"),
            json!("NaN"),
            json!("١"),
        ] {
            assert_eq!(billionths(&bad), None, "{bad}");
        }
    }
}
