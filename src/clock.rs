//! The one place that asks the time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::units::Tick;

/// Tells ticks since its own start. Cheap to copy; every copy tells the same time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose tick zero is now. One per process: ticks of two clocks do not compare.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the time")]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Time since the start, monotonic.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the time")]
    pub fn now(&self) -> Tick {
        Tick::new(Instant::now().duration_since(self.start))
    }

    /// What a timer of this process takes for `tick`.
    pub fn instant(&self, tick: Tick) -> Instant {
        self.start + tick.since_start()
    }

    /// Wall time as time since the Unix epoch, for people and files; never for decisions.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the time")]
    pub fn wall(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}
