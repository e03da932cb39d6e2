//! The operator's own certificate authority: what it signs, for whom, and when it is renewed.
//!
//! It signs the operator's certificate (client, in memory alone), those of the sidecars of each archive (server, in the
//! Secret that their pods mount), and the webhook's, where nobody else makes one. The authority itself stands in the
//! Secret `holdfast-authority` of the operator's namespace. Whoever comes first creates it; the others read it back.

mod authorities;
mod bundle;
mod ca;
mod certificate;
mod keeper;
mod keyring;
mod serving;

pub use authorities::{Authorities, BadAuthorities, Change};
pub use bundle::keep_filled;
pub use ca::{AuthorityError, Ca, Signed, Usage};
pub use certificate::{BadCertificate, CertificateFacts, Renewal};
pub use keeper::{Authority, KeeperError};
pub use keyring::{Keyring, KeyringError};
pub use serving::{Serving, ServingError};
