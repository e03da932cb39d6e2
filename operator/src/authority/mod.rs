//! The operator's own certificate authority: what it signs, for whom, and when it is renewed.
