//! Chooses one endpoint of a backend.
//!
//! Never counts requests: the caller says how many are in flight where.

use std::time::Duration;

use crate::units::Tick;

/// How the endpoints of a backend share its requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Of two drawn ones, that with fewer requests in flight.
    #[default]
    LeastRequest,
    /// Of two drawn ones, that with the smaller [`Latency::cost`].
    PeakEwma,
    /// In turn.
    RoundRobin,
}

impl Balance {
    /// In the config.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LeastRequest => "least_request",
            Self::PeakEwma => "peak_ewma",
            Self::RoundRobin => "round_robin",
        }
    }
}

/// How long an endpoint took lately: a peak counts at once and is forgotten slowly
/// (Finagle's peak EWMA).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// 0 before the first measure.
    seconds: f64,
    at: Tick,
}

/// In which a peak loses all but 37 % of its weight.
const DECAY: Duration = Duration::from_secs(10);

/// What a failed attempt counts as, or a fast failure would draw all the requests.
pub const FAILED: Duration = Duration::from_secs(1);

impl Latency {
    /// After an attempt that ended `now` and took `taken`.
    #[must_use]
    pub fn observe(self, taken: Duration, now: Tick) -> Self {
        let taken = taken.as_secs_f64();
        let old = (-now.since(self.at).as_secs_f64() / DECAY.as_secs_f64()).exp();
        // A peak is believed at once.
        let seconds =
            if taken > self.seconds { taken } else { self.seconds * old + taken * (1.0 - old) };
        Self { seconds, at: now }
    }

    /// Of one more request beside `in_flight` others. An endpoint that was never measured is
    /// tried at once, but not with a second request before the first is answered.
    pub fn cost(self, in_flight: u32, now: Tick) -> f64 {
        if self.seconds == 0.0 {
            return if in_flight == 0 { 0.0 } else { f64::from(in_flight) * FAILED.as_secs_f64() };
        }
        // What it was fades when nobody asks: a slow one gets another chance.
        let old = (-now.since(self.at).as_secs_f64() / DECAY.as_secs_f64()).exp();
        self.seconds * old * (f64::from(in_flight) + 1.0)
    }
}

/// The one whose turn it is: the `turn`-th of `count`; `None` when there is none.
pub fn in_turn(count: usize, turn: usize) -> Option<usize> {
    turn.checked_rem(count)
}

/// Power of two choices (Mitzenmacher 1996): of two different endpoints, drawn by the two
/// halves of `draw`, the one with less load; the first on a tie.
///
/// `count` endpoints, `load` tells that of each; `None` when there is none.
pub fn choose<L: PartialOrd>(count: usize, draw: u64, load: impl Fn(usize) -> L) -> Option<usize> {
    if count < 2 {
        return count.checked_sub(1);
    }
    let scale = |half: u64, range: usize| ((half * range as u64) >> 32) as usize;
    let first = scale(draw >> 32, count);
    // One of the others: skips the first.
    let second = (first + 1 + scale(draw & 0xffff_ffff, count - 1)) % count;
    Some(if load(second) < load(first) { second } else { first })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_and_one_need_no_draw() {
        assert_eq!(choose(0, 42, |_| 0), None);
        assert_eq!(choose(1, 42, |_| 9), Some(0));
    }

    #[test]
    fn the_idle_one_of_two_is_always_chosen() {
        let mut draws = fastrand::Rng::with_seed(1);
        for _ in 0..1000 {
            assert_eq!(choose(2, draws.u64(..), |index| [5, 1][index]), Some(1));
        }
    }

    #[test]
    fn equals_get_equal_shares() {
        let mut draws = fastrand::Rng::with_seed(2);
        let mut counts = [0u32; 5];
        for _ in 0..50_000 {
            counts[choose(5, draws.u64(..), |_| 0).unwrap()] += 1;
        }
        // Mean 10,000, standard deviation 89.
        assert!(counts.iter().all(|count| (9_600..10_400).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_busy_one_is_spared_but_the_ends_of_the_draws_are_safe() {
        for draw in [0, u64::MAX, u64::MAX << 32, u64::MAX >> 32] {
            assert!(choose(3, draw, |_| 0).unwrap() < 3);
        }
        let mut draws = fastrand::Rng::with_seed(3);
        assert!((0..1000).all(|_| choose(3, draws.u64(..), |i| [0, 0, 9][i]) != Some(2)));
    }

    #[test]
    fn a_slow_one_costs_more_at_once_and_less_when_time_has_passed() {
        let at = |seconds| Tick::new(Duration::from_secs(seconds));
        let fast = Latency::default().observe(Duration::from_millis(10), at(1));
        let slow = fast.observe(Duration::from_millis(100), at(1));
        assert!((slow.cost(0, at(1)) - 0.1).abs() < 1e-9);
        assert!(slow.cost(0, at(1)) > fast.cost(8, at(1)));
        assert!(slow.cost(0, at(1)) < fast.cost(10, at(1)));
        // One fast answer does not make up for it, a while does.
        let after = slow.observe(Duration::from_millis(10), at(1));
        assert!((after.cost(0, at(1)) - 0.1).abs() < 1e-9);
        let after = slow.observe(Duration::from_millis(10), at(61));
        assert!(after.cost(0, at(61)) < 0.011);
        assert!(slow.cost(0, at(61)) < 0.001);
    }

    #[test]
    fn a_new_one_is_tried_once_before_it_is_measured() {
        let new = Latency::default();
        let known = new.observe(Duration::from_millis(50), Tick::ZERO);
        assert!(new.cost(0, Tick::ZERO) < known.cost(0, Tick::ZERO));
        assert!(new.cost(1, Tick::ZERO) > known.cost(1, Tick::ZERO));
    }

    #[test]
    fn turns_go_round() {
        assert_eq!(in_turn(0, 7), None);
        assert_eq!(
            (0..5).map(|turn| in_turn(3, turn).unwrap()).collect::<Vec<_>>(),
            [0, 1, 2, 0, 1]
        );
    }
}
