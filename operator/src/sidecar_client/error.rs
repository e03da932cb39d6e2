//! What can go wrong between the operator and a sidecar, as far as callers decide by it.

use thiserror::Error;

/// A request that brought no answer, or not the one that was hoped for.
#[derive(Debug, Error)]
pub enum SidecarError {
    /// No connection, no handshake, or no answer in time. Whether an order was taken is unknown; giving it again is
    /// safe, for orders carry their id.
    #[error("the sidecar at {address} can't be reached: {reason}")]
    Unreachable {
        /// Address and port.
        address: String,
        /// One line.
        reason: String,
    },
    /// The sidecar answers that it won't, and why.
    #[error("the sidecar refused: {message} ({code})")]
    Refused {
        /// The HTTP status: 404 not known, 409 not now, 412 for another pod, 422 never.
        code: u16,
        /// One sentence.
        message: String,
    },
    /// An answer that is none of ours.
    #[error("the sidecar at {address} answered what can't be understood: {reason}")]
    Protocol {
        /// Address and port.
        address: String,
        /// One line.
        reason: String,
    },
}

impl SidecarError {
    /// Whether the same request can't succeed later.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Unreachable { .. } => false,
            Self::Refused { code, .. } => !matches!(code, 409 | 429 | 500..),
            // A newer or older program, which an update mends.
            Self::Protocol { .. } => false,
        }
    }

    /// Whether the sidecar knows nothing of what was asked for.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }

    /// Whether it was another pod's sidecar that answered.
    pub fn is_other_pod(&self) -> bool {
        matches!(self, Self::Refused { code: 412, .. })
    }

    /// One word, for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Refused { .. } => "refused",
            Self::Protocol { .. } => "protocol",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_change_is_not_permanent() {
        for (code, permanent) in [
            (404, true),
            (409, false),
            (412, true),
            (422, true),
            (429, false),
            (500, false),
            (503, false),
        ] {
            let refused = SidecarError::Refused {
                code,
                message: String::new(),
            };
            assert_eq!(refused.is_permanent(), permanent, "{code}");
        }
    }
}
