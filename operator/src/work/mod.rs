//! Controllers: which objects have to be looked at, and a bounded number of looks at a time.

mod controller;
mod queue;
mod waker;

pub(crate) use controller::jitter;
pub use controller::{Controller, ReconcileError, run};
pub use queue::{Outcome, WorkQueue};
pub use waker::Waker;
