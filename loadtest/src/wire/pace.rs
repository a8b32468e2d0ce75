//! When requests of an open loop are meant to start, as times of the machine's clock.
//!
//! Never asks the time: the caller tells it.

use std::time::Duration;

use serin_loadtest::load::{Arrivals, Schedule};

/// Starts that come whatever the answers do.
pub struct Pace {
    began: u64,
    schedule: Schedule,
    next: Option<Duration>,
    until: Duration,
}

impl Pace {
    /// Independent users, `rps` of them a second, from `began` for `duration`.
    pub fn new(began: u64, rps: f64, duration: Duration, seed: u64) -> Self {
        let mut schedule = Schedule::new(Arrivals::Poisson, rps, seed);
        Self { began, next: schedule.next(), schedule, until: duration }
    }

    /// When the next one is meant to start. `None` when there are no more.
    pub fn next_at(&self) -> Option<u64> {
        let offset = self.next.filter(|offset| *offset < self.until)?;
        Some(self.began + offset.as_nanos() as u64)
    }

    /// The next one, if its time has come.
    pub fn take(&mut self, now: u64) -> Option<u64> {
        let at = self.next_at().filter(|at| *at <= now)?;
        self.next = self.schedule.next();
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_taken_when_their_time_has_come_and_end_in_time() {
        let mut pace = Pace::new(1_000, 100.0, Duration::from_secs(10), 1);
        let first = pace.next_at().unwrap();
        assert_eq!(pace.take(first - 1), None);
        assert_eq!(pace.take(first), Some(first));
        let mut count = 1;
        while let Some(at) = pace.take(u64::MAX) {
            assert!(at < 1_000 + 10_000_000_000);
            count += 1;
        }
        // 1000 are expected; four standard deviations are 126.
        assert!((874..=1_126).contains(&count), "{count}");
        assert_eq!(pace.next_at(), None);
    }
}
