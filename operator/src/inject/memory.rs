//! The sidecar's memory.

use holdfast_protocol::memory::{self, LEAST_MEMORY};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

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
        let bytes = memory::bytes(text).filter(|bytes| *bytes >= LEAST_MEMORY);
        Ok(Self {
            text: text.to_owned(),
            bytes: bytes.ok_or(BadMemory)?,
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
        ] {
            let memory = text.parse::<Memory>();
            assert_eq!(memory.as_ref().ok().map(Memory::bytes), bytes, "{text:?}");
            if let Ok(memory) = memory {
                assert_eq!(memory.to_string(), text);
            }
        }
    }
}
