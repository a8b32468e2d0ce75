//! How many requests a backend may have under way, learnt from how long it takes.
//!
//! Never counts and never waits: the caller says what it saw, and holds to what it is told.

use std::time::Duration;

use crate::units::Tick;

/// How many requests of a backend may be under way, and how many may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Under way at once.
    pub in_flight: InFlight,
    /// Waiting for one of those to end.
    pub queue: u32,
    /// Longest wait.
    pub queue_timeout: Duration,
}

/// How many requests may be under way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InFlight {
    /// So many.
    Fixed(u32),
    /// As [`Gradient`] says.
    Auto,
}

impl Limits {
    /// Where the config does not say.
    pub const QUEUE: u32 = 64;
    /// Where the config does not say.
    pub const QUEUE_TIMEOUT: Duration = Duration::from_secs(2);
}

/// What was seen of a backend between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Answers whose head came.
    pub answers: u64,
    /// How long they took together, from the request sent to the head.
    pub took: Duration,
    /// The most requests that were under way at once.
    pub most: u32,
}

/// A limit that follows the latency (after Netflix' concurrency limits and Envoy's adaptive
/// concurrency): it rises as long as answers take no longer than a model without a queue
/// needs, and falls when they do.
///
/// What a model without a queue needs is the least that was seen. Under load for long that
/// is forgotten, so now and then the limit is cut for a moment and it is measured anew.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gradient {
    limit: f64,
    /// Seconds that an answer takes without a queue; 0 before the first measure.
    base: f64,
    /// Seconds that an answer took lately: a mean of means, for one alone is noise.
    recent: f64,
    /// Not enough to go by yet.
    seen: Seen,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// The base is old at this time.
    Follow { until: Tick },
    /// What was sent under the old limit still comes in.
    Settle { until: Tick },
    /// All that comes was sent under the low limit.
    Measure { until: Tick },
}

/// Where a limit begins, but for the first measure.
const LIMIT_FIRST: f64 = 8.0;

/// A limit is never higher.
const LIMIT_MAX: f64 = 1000.0;

/// Answers may take so many times what they take without a queue: a mean of few is not exact,
/// and requests are not alike.
const TOLERANCE: f64 = 2.0;

/// While the base is measured, the limit is this part of itself. Must be below half of
/// 1 / `TOLERANCE`, or the queue would be measured.
const MEASURE_SHARE: f64 = 0.25;

/// How fast a limit moves to where it is drawn.
const SMOOTHING: f64 = 0.2;

/// What one mean weighs against those before it.
const RECENT: f64 = 0.3;

/// Answers that make a mean.
const ANSWERS_MIN: u64 = 8;

/// How long a base is believed under load.
const BASE_AGE_MAX: Duration = Duration::from_secs(40);

/// Longest part of measuring.
const MEASURE_MAX: Duration = Duration::from_secs(5);

impl Gradient {
    /// Knows nothing yet.
    pub fn new(now: Tick) -> Self {
        let phase = Phase::Measure { until: now.after(MEASURE_MAX) };
        Self { limit: LIMIT_FIRST, base: 0.0, recent: 0.0, seen: Seen::default(), phase }
    }

    /// Requests that may be under way, at least 1.
    pub fn limit(&self) -> u32 {
        match self.phase {
            Phase::Follow { .. } => self.limit as u32,
            Phase::Settle { .. } | Phase::Measure { .. } => {
                ((self.limit * MEASURE_SHARE) as u32).max(1)
            }
        }
    }

    /// After a look.
    #[must_use]
    pub fn look(mut self, seen: Seen, now: Tick) -> Self {
        self.seen.answers += seen.answers;
        self.seen.took += seen.took;
        self.seen.most = self.seen.most.max(seen.most);
        if let Phase::Settle { until } = self.phase {
            if until <= now {
                let until = now.after(MEASURE_MAX);
                return Self { seen: Seen::default(), phase: Phase::Measure { until }, ..self };
            }
            return self;
        }
        let late = matches!(self.phase, Phase::Measure { until } if until <= now);
        if self.seen.answers < ANSWERS_MIN && !(late && self.seen.answers > 0) {
            return self;
        }
        let mean = self.seen.took.as_secs_f64() / self.seen.answers as f64;
        let most = std::mem::take(&mut self.seen).most;
        match self.phase {
            Phase::Measure { .. } => {
                (self.base, self.recent) = (mean, mean);
                self.phase = Phase::Follow { until: now.after(BASE_AGE_MAX) };
                self
            }
            Phase::Follow { until } => self.follow(mean, most, until, now),
            Phase::Settle { .. } => self,
        }
    }

    fn follow(mut self, mean: f64, most: u32, until: Tick, now: Tick) -> Self {
        self.recent += (mean - self.recent) * RECENT;
        if self.recent < self.base {
            self.base = self.recent;
            self.phase = Phase::Follow { until: now.after(BASE_AGE_MAX) };
        }
        let recent = self.recent.max(f64::MIN_POSITIVE);
        let gradient = (TOLERANCE * self.base / recent).clamp(0.5, 1.0);
        let drawn = gradient * self.limit + self.limit.sqrt();
        let next = self.limit + (drawn - self.limit) * SMOOTHING;
        // A limit that nobody feels does not rise.
        let is_felt = f64::from(most) >= self.limit / 2.0;
        if next < self.limit || is_felt {
            self.limit = next.clamp(1.0, LIMIT_MAX);
        }
        if until <= now && is_felt {
            let settle = Duration::from_secs_f64(mean.min(MEASURE_MAX.as_secs_f64()));
            self.phase = Phase::Settle { until: now.after(settle) };
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model that serves `slots` requests at once, `base` seconds each, and lets the others
    /// wait: with n under way an answer takes base * max(1, n / slots). Under way are as many
    /// as may be and are `wanted`. The limit after each of `seconds` seconds.
    fn run(slots: f64, base: f64, seconds: u32, wanted: impl Fn(u32) -> f64) -> Vec<u32> {
        let mut gradient = Gradient::new(Tick::ZERO);
        let mut limits = Vec::new();
        for slot in 0..seconds * 4 {
            let under_way = f64::from(gradient.limit()).min(wanted(slot / 4)).max(0.0);
            let takes = base * (under_way / slots).max(1.0);
            let answers = (under_way / takes * 0.25).round() as u64;
            let took = Duration::from_secs_f64(takes * answers as f64);
            let seen = Seen { answers, took, most: under_way as u32 };
            let now = Tick::new(Duration::from_millis(250) * (slot + 1));
            gradient = gradient.look(seen, now);
            if slot % 4 == 3 {
                limits.push(gradient.limit());
            }
        }
        limits
    }

    #[test]
    fn under_load_the_limit_is_a_few_times_what_the_model_serves_at_once() {
        for (slots, base) in [(4.0, 0.05), (1.0, 0.1), (32.0, 0.02), (8.0, 1.0)] {
            let limits = run(slots, base, 600, |_| 10_000.0);
            // While it measures, it is lower.
            let (low, high) =
                (limits[60..].iter().min().unwrap(), limits[60..].iter().max().unwrap());
            assert!(f64::from(*high) < slots * 3.0 + 4.0, "{slots} {base}: up to {high}");
            assert!(f64::from(*low) >= (slots * 0.4).floor(), "{slots} {base}: down to {low}");
            let enough = limits[60..].iter().filter(|limit| f64::from(**limit) >= slots).count();
            assert!(enough as f64 > 0.85 * (limits.len() - 60) as f64, "{slots} {base}: {enough}");
        }
    }

    #[test]
    fn a_model_that_becomes_slower_for_good_is_not_strangled() {
        // After two minutes, another model: half as fast.
        let mut gradient = Gradient::new(Tick::ZERO);
        let mut limit = 0;
        for slot in 0..2400u32 {
            let base = if slot < 480 { 0.05 } else { 0.15 };
            let under_way = f64::from(gradient.limit());
            let takes = base * (under_way / 8.0).max(1.0);
            let answers = (under_way / takes * 0.25).round() as u64;
            let took = Duration::from_secs_f64(takes * answers as f64);
            let seen = Seen { answers, took, most: under_way as u32 };
            gradient = gradient.look(seen, Tick::new(Duration::from_millis(250) * (slot + 1)));
            limit = limit.max(if slot > 900 { gradient.limit() } else { 0 });
        }
        assert!((8..30).contains(&limit), "{limit}");
    }

    #[test]
    fn a_limit_that_nobody_feels_stays() {
        let limits = run(64.0, 0.05, 120, |_| 3.0);
        assert!(limits[10..].iter().all(|limit| *limit == LIMIT_FIRST as u32), "{limits:?}");
    }
}
