//! The sidecar's memory.

use std::fmt;
use std::str::FromStr;
use thiserror::Error;

const LEAST: u64 = 64 << 20;

/// An amount of memory that the sidecar can work with: 64 MiB at least, written as Kubernetes and the sidecar read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    text: String,
    bytes: u64,
}

/// Text that is no such amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("write 64Mi at least, in whole numbers, as 256Mi or 1Gi")]
pub struct BadMemory;

impl Memory {
    /// In bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl FromStr for Memory {
    type Err = BadMemory;

    fn from_str(text: &str) -> Result<Self, BadMemory> {
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor: u64 = match unit {
            "" => 1,
            "k" => 1_000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            _ => return Err(BadMemory),
        };
        let bytes = number.parse::<u64>().ok();
        let bytes = bytes.and_then(|n| n.checked_mul(factor)).ok_or(BadMemory)?;
        // Kubernetes knows no amount above this one.
        if bytes < LEAST || i64::try_from(bytes).is_err() {
            return Err(BadMemory);
        }
        Ok(Self {
            text: text.to_owned(),
            bytes,
        })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_memory() {
        for (text, bytes) in [
            ("64Mi", Some(64 << 20)),
            ("1Gi", Some(1 << 30)),
            ("256M", Some(256_000_000)),
            ("67108864", Some(64 << 20)),
            ("63Mi", None),
            ("0", None),
            ("", None),
            ("-1Gi", None),
            ("1.5Gi", None),
            ("1GB", None),
            ("1 Gi", None),
            ("lots", None),
            ("9999999999Gi", None),
            ("99999999999999999999", None),
        ] {
            let memory = text.parse::<Memory>();
            assert_eq!(memory.as_ref().ok().map(Memory::bytes), bytes, "{text:?}");
            if let Ok(memory) = memory {
                assert_eq!(memory.to_string(), text);
            }
        }
    }
}
