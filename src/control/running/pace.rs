//! How much each version does of late, for people to look at.
//!
//! Never judged: these are rates of a few seconds, not evidence.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::control::api::VersionView;
use crate::telemetry::counts::{BUCKETS, Leg};
use crate::traffic::outcome::Outcome;
use crate::units::Tick;

/// Between two readings.
const READ_EVERY: Duration = Duration::from_secs(1);

/// Readings that are kept: rates are those of the last ten seconds.
const READINGS_MAX: usize = 11;

/// The counts of both versions, read every second.
#[derive(Debug)]
pub struct Pace {
    /// Stable's and the canary's.
    legs: [Arc<Leg>; 2],
    readings: VecDeque<(Tick, [Reading; 2])>,
}

/// What one version has done since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reading {
    requests: u64,
    bad: u64,
    attempts: u64,
    buckets: [u64; BUCKETS.len() + 1],
}

impl Pace {
    /// Of stable and of the canary.
    pub fn new(legs: [Arc<Leg>; 2]) -> Self {
        Self { legs, readings: VecDeque::new() }
    }

    /// Reads the counts, if the last time is long enough ago.
    pub fn read(&mut self, now: Tick) {
        if self.readings.back().is_some_and(|(last, _)| now.since(*last) < READ_EVERY) {
            return;
        }
        self.readings.push_back((now, [read(&self.legs[0]), read(&self.legs[1])]));
        if self.readings.len() > READINGS_MAX {
            self.readings.pop_front();
        }
    }

    /// Stable and the canary of late. `weights` are their shares of the rule's requests.
    pub fn shown(&self, names: [&str; 2], weights: [f64; 2]) -> Vec<VersionView> {
        let ends = self.readings.front().zip(self.readings.back());
        let show = |arm: usize| {
            let (seconds, done) = match ends {
                Some(((then, before), (now, after))) => {
                    (now.since(*then).as_secs_f64(), after[arm].since(&before[arm]))
                }
                None => (0.0, Reading::default()),
            };
            let ratio = |part: u64, of: u64| if of > 0 { part as f64 / of as f64 } else { 0.0 };
            VersionView {
                name: names[arm].to_owned(),
                role: ["stable", "canary"][arm].to_owned(),
                weight: weights[arm],
                rps: if seconds > 0.0 { done.requests as f64 / seconds } else { 0.0 },
                errors: ratio(done.bad, done.attempts),
                p99_ms: done.quantile(0.99).map(|seconds| seconds * 1e3),
            }
        };
        vec![show(0), show(1)]
    }
}

impl Reading {
    fn since(&self, before: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            bad: self.bad.saturating_sub(before.bad),
            attempts: self.attempts.saturating_sub(before.attempts),
            buckets: std::array::from_fn(|at| self.buckets[at].saturating_sub(before.buckets[at])),
        }
    }

    /// In seconds, as even within a bucket as Prometheus takes it to be. `None` without requests,
    /// or where it is beyond all bounds.
    fn quantile(&self, level: f64) -> Option<f64> {
        let wanted = level * self.buckets.iter().sum::<u64>() as f64;
        let mut below = 0.0;
        for (index, (count, upper)) in self.buckets.iter().zip(BUCKETS).enumerate() {
            let count = *count as f64;
            if count > 0.0 && below + count >= wanted {
                let lower = if index == 0 { 0.0 } else { BUCKETS[index - 1] };
                return Some(lower + (upper - lower) * (wanted - below) / count);
            }
            below += count;
        }
        None
    }
}

fn read(leg: &Leg) -> Reading {
    let mut reading = Reading::default();
    for worker in leg.workers() {
        let sum = |outcome| worker.attempts(outcome).iter().map(|(_, count)| count).sum::<u64>();
        reading.requests += worker.requests.iter().map(|(_, count)| count).sum::<u64>();
        reading.bad += sum(Outcome::Bad);
        reading.attempts += sum(Outcome::Bad) + sum(Outcome::Good);
        for (all, count) in reading.buckets.iter_mut().zip(worker.duration.read().0) {
            *all += count;
        }
    }
    reading
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::counts::LegKey;

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let key = LegKey { route: "r".into(), rule: "m".into(), backend: "b".into() };
        let leg = || Arc::new(Leg::new(key.clone(), 2));
        let legs = [leg(), leg()];
        let mut pace = Pace::new(legs.clone());
        let at = |seconds| Tick::new(Duration::from_secs(seconds));
        let view = |pace: &Pace| pace.shown(["v1", "v2"], [0.9, 0.1]).remove(1);
        assert!(view(&pace).rps.abs() < 1e-9 && view(&pace).p99_ms.is_none());
        for second in 0..=30 {
            pace.read(at(second));
            for worker in 0..2 {
                let counters = legs[1].of(worker);
                counters.requests.count(200);
                counters
                    .attempts(if worker == 0 { Outcome::Bad } else { Outcome::Good })
                    .count(200);
                counters.duration.record(Duration::from_millis(150));
            }
        }
        pace.read(at(30));
        let found = view(&pace);
        assert!((found.rps - 2.0).abs() < 1e-9 && (found.errors - 0.5).abs() < 1e-9, "{found:?}");
        assert!((100.0..=200.0).contains(&found.p99_ms.unwrap()), "{found:?}");
        assert_eq!(pace.readings.len(), READINGS_MAX);
    }
}
