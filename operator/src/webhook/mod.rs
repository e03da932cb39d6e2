//! The admission webhook: HTTPS around [`crate::inject`].
