//! A queue before so many servers: what makes latency grow with load.
//!
//! Never asks the time and never waits: it is told when an inference arrives, and says how
//! long that one waits.

use std::time::Duration;

/// Inferences that wait for a server. When full, the next is refused: by then, who asks has
/// better things to do than to wait.
pub(super) const WAITING_MAX: usize = 1_024;

/// What is worked on and what waits. Arrivals are served in their order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// When each inference that has not ended will end, ascending.
    ends: Vec<Duration>,
}

impl Queue {
    /// Takes in an inference that arrives at `now`, not before the one before, and keeps one of
    /// `servers` busy for `service`. Returns how long it waits for that; `None` when the queue
    /// is full.
    ///
    /// One that is given up by who asked keeps its server: a model that is at it does not hear
    /// of that.
    pub(super) fn enter(
        &mut self,
        now: Duration,
        servers: usize,
        service: Duration,
    ) -> Option<Duration> {
        let ended = self.ends.partition_point(|end| *end <= now);
        self.ends.drain(..ended);
        if self.ends.len() >= servers + WAITING_MAX {
            return None;
        }
        // It begins when all before it but `servers - 1` have ended.
        let begins = self.ends.len().checked_sub(servers).map_or(now, |at| self.ends[at]);
        let end = begins + service;
        self.ends.insert(self.ends.partition_point(|other| *other <= end), end);
        Some(begins.saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// `arrivals` are the milliseconds at which inferences of 10 ms arrive; `expected` is how
    /// many each of them waits.
    #[track_caller]
    fn check(servers: usize, arrivals: &[u32], expected: &[u32]) {
        let mut queue = Queue::default();
        let waits = arrivals.iter().map(|at| queue.enter(*at * MS, servers, 10 * MS).unwrap());
        let expected: Vec<Duration> = expected.iter().map(|wait| *wait * MS).collect();
        assert_eq!(waits.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn who_comes_while_all_servers_are_busy_waits_for_the_first_that_is_free() {
        check(1, &[0, 0, 5, 40], &[0, 10, 15, 0]);
        check(2, &[0, 0, 5, 5, 40], &[0, 0, 5, 5, 0]);
        check(3, &[0, 1, 2, 3, 4, 5, 6], &[0, 0, 0, 7, 7, 7, 14]);
        check(1, &[0, 10, 20], &[0, 0, 0]);
    }

    #[test]
    fn a_long_service_does_not_hold_up_the_other_servers() {
        let mut queue = Queue::default();
        assert_eq!(queue.enter(Duration::ZERO, 2, 100 * MS), Some(Duration::ZERO));
        for at in [0, 10, 20, 30] {
            assert_eq!(queue.enter(at * MS, 2, 10 * MS), Some(Duration::ZERO), "at {at} ms");
        }
    }

    #[test]
    fn fewer_servers_take_over_what_more_had_begun() {
        let mut queue = Queue::default();
        for _ in 0..4 {
            assert_eq!(queue.enter(Duration::ZERO, 4, 10 * MS), Some(Duration::ZERO));
        }
        assert_eq!(queue.enter(5 * MS, 1, 10 * MS), Some(5 * MS));
        assert_eq!(queue.enter(5 * MS, 1, 10 * MS), Some(15 * MS));
    }

    #[test]
    fn a_full_queue_refuses_until_one_has_ended() {
        let mut queue = Queue::default();
        for _ in 0..2 + WAITING_MAX {
            assert!(queue.enter(Duration::ZERO, 2, 10 * MS).is_some());
        }
        assert_eq!(queue.enter(9 * MS, 2, 10 * MS), None);
        assert!(queue.enter(10 * MS, 2, 10 * MS).is_some());
    }

    /// The mean wait before one server with a fixed service time `s` at a load of `r` is
    /// `s * r / (2 * (1 - r))` (Pollaczek 1930, Khinchine 1932).
    #[test]
    fn the_mean_wait_grows_with_load_as_the_formula_says() {
        for load in [0.3, 0.6, 0.9] {
            let (mut queue, mut rng) = (Queue::default(), fastrand::Rng::with_seed(1));
            let (mut now, mut waited, count) = (0.0, 0.0, 400_000);
            for _ in 0..count {
                now -= (1.0 - rng.f64()).ln() / load * 0.01;
                let wait = queue.enter(Duration::from_secs_f64(now), 1, 10 * MS).unwrap();
                waited += wait.as_secs_f64();
            }
            let (mean, expected) = (waited / f64::from(count), 0.01 * load / (2.0 * (1.0 - load)));
            assert!((mean / expected - 1.0).abs() < 0.05, "{load}: {mean} s, not {expected} s");
        }
    }
}
