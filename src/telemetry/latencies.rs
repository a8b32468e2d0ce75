//! Latencies of one side, fine enough for a quantile.
//!
//! Never rendered as a metric: those have buckets of their own that users choose alerts by.

use std::time::Duration;

use crate::telemetry::counts::Counter;

/// Buckets per doubling: a bound is at most 3 % above what it holds.
const FINE: u32 = 32;

/// From 1 µs; the last bucket holds what takes longer than a minute.
const BUCKETS: usize = 26 * FINE as usize + 1;

/// How many attempts took how long; one thread writes, others read.
#[derive(Debug)]
pub struct Latencies(Box<[Counter]>);

/// [`Latencies`] of all workers, added up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencyCounts(Box<[u64]>);

impl Default for Latencies {
    fn default() -> Self {
        Self((0..BUCKETS).map(|_| Counter::default()).collect())
    }
}

impl Default for LatencyCounts {
    fn default() -> Self {
        Self(vec![0; BUCKETS].into())
    }
}

impl Latencies {
    /// Counts an attempt that took `taken`.
    pub fn record(&self, taken: Duration) {
        self.0[bucket(taken)].add(1);
    }

    /// Adds the counts to `sum`.
    pub fn add_to(&self, sum: &mut LatencyCounts) {
        for (sum, counter) in sum.0.iter_mut().zip(&self.0) {
            *sum += counter.get();
        }
    }
}

impl LatencyCounts {
    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(&other.0) {
            *sum += more;
        }
    }

    /// How many attempts.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// What at least `level` (0 to 1) of the attempts took at most, up to 3 % too long; `None`
    /// without attempts, or when it is beyond what is measured.
    pub fn quantile(&self, level: f64) -> Option<Duration> {
        let wanted = (level * self.total() as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        let index = self.0.iter().position(|count| {
            below += count;
            below >= wanted
        })?;
        (index + 1 < BUCKETS).then(|| upper_bound(index))
    }
}

fn bucket(taken: Duration) -> usize {
    let micros = taken.as_secs_f64() * 1e6;
    let index = (micros.max(1.0).log2() * f64::from(FINE)).floor() as usize;
    index.min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> Duration {
    Duration::from_secs_f64(((bucket + 1) as f64 / f64::from(FINE)).exp2() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_at_most_three_percent_too_long() {
        let latencies = Latencies::default();
        for millis in 1..=1000 {
            latencies.record(Duration::from_millis(millis));
        }
        let mut counts = LatencyCounts::default();
        latencies.add_to(&mut counts);
        assert_eq!(counts.total(), 1000);
        for (level, millis) in [(0.5, 500.0), (0.9, 900.0), (0.999, 999.0), (1.0, 1000.0)] {
            let found = counts.quantile(level).unwrap().as_secs_f64() * 1e3;
            assert!((millis..=millis * 1.03).contains(&found), "{level}: {found}");
        }
    }

    #[test]
    fn what_is_beyond_all_bounds_has_no_quantile() {
        let latencies = Latencies::default();
        assert_eq!(LatencyCounts::default().quantile(0.9), None);
        latencies.record(Duration::from_hours(1));
        let mut counts = LatencyCounts::default();
        latencies.add_to(&mut counts);
        assert_eq!((counts.total(), counts.quantile(0.9)), (1, None));
        assert_eq!(bucket(Duration::ZERO), 0);
    }
}
