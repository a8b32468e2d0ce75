//! What was counted up to one moment, and what came between two of them.
//!
//! Never counts by itself: users' errors are the generator's counts, what versions did is
//! Serin's, what reached a version is its own.

use std::collections::VecDeque;
use std::time::Duration;

use crate::app::watch::Counts;
use crate::control::api::RolloutView;
use crate::units::Tick;

/// The demo's limit on latency in seconds: a bound of the histograms' buckets, so that
/// counts are exact.
pub const SLOW_SECONDS: f64 = 0.2;

/// How far back "now" reaches in what is shown.
pub const WINDOW: Duration = Duration::from_secs(5);

/// Everything up to one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When, from the demo's start.
    pub at: Tick,
    /// What users saw.
    pub users: Users,
    /// The old version.
    pub stable: VersionCounts,
    /// The new version.
    pub canary: VersionCounts,
    /// What Serin thinks of it.
    pub rollout: RolloutView,
}

/// What users saw, counted on their side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Users {
    /// Requests that got a good answer.
    pub ok: u64,
    /// Requests that failed or got an error.
    pub errors: u64,
}

impl Users {
    /// Requests that have ended.
    pub const fn total(self) -> u64 {
        self.ok + self.errors
    }
}

impl Sample {
    /// Users who waited longer than [`SLOW_SECONDS`] for an answer that has come.
    pub fn slow(&self) -> u64 {
        self.stable.slow() + self.canary.slow()
    }
}

/// What one version did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VersionCounts {
    /// Requests that reached it.
    pub requests: u64,
    /// What Serin saw of it.
    pub seen: Counts,
}

impl VersionCounts {
    /// What came since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            seen: self.seen.since(&earlier.seen),
        }
    }

    /// How many took longer than [`SLOW_SECONDS`].
    pub fn slow(&self) -> u64 {
        self.seen.slower_than(SLOW_SECONDS)
    }

    /// The share that took longer than [`SLOW_SECONDS`]; `None` when nothing ended.
    pub fn slow_ratio(&self) -> Option<f64> {
        self.seen.ratio_slower_than(SLOW_SECONDS)
    }

    /// 99 % took no longer, in seconds; `None` when nothing ended.
    pub fn p99(&self) -> Option<f64> {
        self.seen.quantile(0.99)
    }
}

/// The samples of the last [`WINDOW`], or since it was cleared.
#[derive(Debug, Default)]
pub struct Recent(VecDeque<(Tick, VersionCounts, VersionCounts)>);

impl Recent {
    /// Forgets all: what comes is to be seen without what was.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether there is a first sample only, so that nothing can be said yet.
    pub fn is_fresh(&self) -> bool {
        self.0.len() < 2
    }

    /// Takes in one more and returns what stable and the canary did lately.
    pub fn push(&mut self, sample: &Sample) -> [VersionCounts; 2] {
        self.0.push_back((sample.at, sample.stable, sample.canary));
        while self.0.get(1).is_some_and(|second| sample.at.since(second.0) >= WINDOW) {
            self.0.pop_front();
        }
        let (_, stable, canary) = &self.0[0];
        let news = [sample.stable.since(stable), sample.canary.since(canary)];
        // What only ended lately says nothing about now.
        news.map(|one| if one.requests == 0 { VersionCounts::default() } else { one })
    }
}
