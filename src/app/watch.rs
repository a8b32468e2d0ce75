//! What a proxy of this process does, for whoever runs it: its rollouts and its counts.
//!
//! Never changes anything, and is never waited for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::control::Status;
use crate::control::api::RolloutView;
use crate::telemetry::counts::BUCKETS;
use crate::telemetry::registry::Registry;
use crate::telemetry::story::Outlets;
use crate::traffic::outcome::Outcome;

/// A look into a running proxy.
#[derive(Clone, Debug)]
pub struct Watch {
    status: watch::Receiver<Arc<Status>>,
    registry: Arc<Registry>,
}

/// What one backend did, in all rules together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Attempts that ended well.
    pub good: u64,
    /// Attempts that ended badly.
    pub bad: u64,
    /// Requests by how long they took, in [`BUCKETS`] and one more.
    took: [u64; BUCKETS.len() + 1],
}

impl Watch {
    pub(super) const fn new(status: watch::Receiver<Arc<Status>>, registry: Arc<Registry>) -> Self {
        Self { status, registry }
    }

    /// Where workers tell of single requests.
    pub(super) fn outlets(&self) -> &Outlets {
        self.registry.outlets()
    }

    /// Of the config in force.
    pub(super) fn drain_delay(&self) -> Duration {
        self.status.borrow().config.drain_delay
    }

    /// Of the config in force.
    pub(super) fn drain_timeout(&self) -> Duration {
        self.status.borrow().config.drain_timeout
    }

    /// Waits until the control plane has looked at the counts again: at least every slot.
    /// For ever, once it has ended.
    pub async fn changed(&mut self) {
        if self.status.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Every rollout as of the last change, in the config's order.
    pub fn rollouts(&mut self) -> Vec<RolloutView> {
        self.status.borrow_and_update().rollouts.clone()
    }

    /// What `backend` did so far.
    pub fn counts(&self, backend: &str) -> Counts {
        let mut counts = Counts::default();
        let legs = self.registry.legs();
        let legs = legs.iter().filter(|leg| leg.key.backend.as_str() == backend);
        for worker in legs.flat_map(|leg| leg.workers()) {
            let sum = |outcome| worker.attempts(outcome).iter().map(|(_, n)| n).sum::<u64>();
            counts.good += sum(Outcome::Good);
            counts.bad += sum(Outcome::Bad);
            for (total, count) in counts.took.iter_mut().zip(worker.duration.read().0) {
                *total += count;
            }
        }
        counts
    }
}

impl Counts {
    /// What came since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            good: self.good.saturating_sub(earlier.good),
            bad: self.bad.saturating_sub(earlier.bad),
            took: std::array::from_fn(|at| self.took[at].saturating_sub(earlier.took[at])),
        }
    }

    /// bad / (good + bad); `None` when nothing ended.
    pub fn error_ratio(&self) -> Option<f64> {
        let ended = self.good + self.bad;
        (ended > 0).then(|| self.bad as f64 / ended as f64)
    }

    /// Requests that took longer than `seconds`; exact for a bound of [`BUCKETS`].
    pub fn slower_than(&self, seconds: f64) -> u64 {
        let first = BUCKETS.partition_point(|bound| *bound <= seconds);
        self.took[first..].iter().sum()
    }

    /// The share of them; `None` when nothing ended.
    pub fn ratio_slower_than(&self, seconds: f64) -> Option<f64> {
        let ended: u64 = self.took.iter().sum();
        (ended > 0).then(|| self.slower_than(seconds) as f64 / ended as f64)
    }

    /// The share `quantile`, 0 to 1, took no longer, in seconds: interpolated within its
    /// bucket, as Prometheus' `histogram_quantile` does. `None` when nothing ended.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let rank = quantile * self.took.iter().sum::<u64>() as f64;
        let mut below = 0.0;
        for (at, count) in self.took.iter().enumerate() {
            let count = *count as f64;
            if count > 0.0 && below + count >= rank {
                let low = at.checked_sub(1).map_or(0.0, |before| BUCKETS[before]);
                let high = BUCKETS.get(at).copied().unwrap_or(low);
                return Some(low + (high - low) * (rank - below) / count);
            }
            below += count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn took(counts: &[(f64, u64)]) -> Counts {
        let mut all = Counts::default();
        for (seconds, count) in counts {
            all.took[BUCKETS.partition_point(|bound| bound < seconds)] += count;
        }
        all
    }

    #[test]
    fn slower_is_what_took_longer_than_the_bound() {
        let counts = took(&[(0.02, 90), (0.2, 5), (0.201, 3), (0.46, 1), (900.0, 1)]);
        assert_eq!(counts.slower_than(0.2), 5);
        assert_eq!(counts.ratio_slower_than(0.2), Some(0.05));
        assert_eq!(Counts::default().ratio_slower_than(0.2), None);
    }

    #[test]
    fn a_quantile_is_interpolated_within_its_bucket() {
        for (counts, expected) in [
            (&[(0.04, 100)][..], Some(0.025 + 0.025 * 0.99)),
            (&[(0.04, 50), (0.46, 50)], Some(0.2 + 0.3 * 0.98)),
            (&[(0.04, 99), (0.46, 1)], Some(0.05)),
            (&[(900.0, 1)], Some(600.0)),
            (&[], None),
        ] {
            let found = took(counts).quantile(0.99);
            let near = found.zip(expected).is_none_or(|(a, b)| (a - b).abs() < 1e-9);
            assert!(near && found.is_some() == expected.is_some(), "{found:?} {expected:?}");
        }
    }
}
