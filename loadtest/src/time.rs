//! The one place of this crate that asks the time.
//!
//! Never used to draw a request's fate: it measures, and says when an inference comes to a queue.

use std::time::Instant;

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "a load generator has to measure real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
