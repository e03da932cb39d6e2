//! Controllers: which objects have to be looked at, and a bounded number of looks at a time.

mod queue;
mod running;
mod waker;

pub use queue::{Outcome, WorkQueue};
pub(crate) use running::jitter;
pub use running::{Controller, ReconcileError, run};
pub use waker::Waker;
