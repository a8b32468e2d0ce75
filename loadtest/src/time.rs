//! The one place of this crate that asks the time.
//!
//! Never used to decide anything about a request's fate: it only measures.

use std::time::Instant;

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "a load generator has to measure real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
