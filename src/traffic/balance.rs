//! Chooses one endpoint of a backend.
//!
//! Never counts requests: the caller says how many are in flight where.

use std::cmp::Ordering;
use std::time::Duration;

use crate::units::{Ratio, Tick};

/// How the endpoints of a backend share its requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Of two drawn ones, that with the smaller [`Cost`].
    #[default]
    PeakEwma,
    /// Of two drawn ones, that with fewer requests in flight.
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// Always the same one for a key.
    Hash,
}

impl Balance {
    /// In the order in which docs name them.
    pub const ALL: [Self; 4] = [Self::PeakEwma, Self::LeastRequest, Self::RoundRobin, Self::Hash];

    /// In the config.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LeastRequest => "least_request",
            Self::PeakEwma => "peak_ewma",
            Self::RoundRobin => "round_robin",
            Self::Hash => "hash",
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

/// In which a peak loses all but 37 % of its weight against newer answers.
const DECAY: Duration = Duration::from_secs(10);

/// In which an endpoint that nobody asks loses all but 37 % of what it seems to take. Longer: each
/// try costs a user the time that it takes.
const FADE: Duration = Duration::from_secs(30);

/// What one answer leaves of a peak at most: with a hundred answers a second, a stall of a tenth of
/// a second must not cost an endpoint its share for many seconds.
const KEPT_MAX: f64 = 0.9;

/// Below this, in seconds, latencies are taken for the same: it is noise.
const FLOOR: f64 = 0.005;

/// Latencies that differ by no more than this factor are taken for the same, or the one that
/// was a little faster would get everything that is never busy.
const ALIKE: f64 = 1.5;

/// A failed attempt counts as this many times what its endpoint took before, or a fast failure
/// would draw all the requests.
const FAILED: f64 = 2.0;

/// Failures alone do not make an endpoint look slower than this, in seconds.
const FAILED_MAX: f64 = 1.0;

impl Latency {
    /// After an attempt that ended `now` and took `taken`.
    #[must_use]
    pub fn observe(self, taken: Duration, failed: bool, now: Tick) -> Self {
        let old = self.left(now, DECAY).min(KEPT_MAX);
        let mut taken = taken.as_secs_f64();
        if failed {
            let before = (self.seconds * old).max(FLOOR);
            taken = taken.max((before * FAILED).min(FAILED_MAX));
        }
        // A peak is believed at once.
        let seconds =
            if taken > self.seconds { taken } else { self.seconds * old + taken * (1.0 - old) };
        Self { seconds, at: now }
    }

    /// What of it is left `now`.
    fn left(self, now: Tick, span: Duration) -> f64 {
        (-now.since(self.at).as_secs_f64() / span.as_secs_f64()).exp()
    }

    /// In seconds; `None` before the first measure. What it was fades when nobody asks: a slow
    /// one gets another chance.
    fn now(self, now: Tick) -> Option<f64> {
        (self.seconds > 0.0).then(|| (self.seconds * self.left(now, FADE)).max(FLOOR))
    }
}

/// What an endpoint would make of one more request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// In seconds; `None` before the first measure.
    latency: Option<f64>,
    /// Requests under way there.
    in_flight: u32,
}

impl Cost {
    /// Of a request `now`, beside `in_flight` others.
    pub fn new(latency: Latency, in_flight: u32, now: Tick) -> Self {
        Self { latency: latency.now(now), in_flight }
    }

    fn product(self) -> f64 {
        self.latency.unwrap_or(FAILED_MAX) * (f64::from(self.in_flight) + 1.0)
    }
}

impl PartialOrd for Cost {
    /// One that was never measured is tried at once, but not with a second request before the
    /// first is answered. Where latencies are alike, requests in flight decide. Tells the
    /// better of two, and orders no more than two.
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let in_flight = self.in_flight.cmp(&other.in_flight);
        match (self.latency, other.latency) {
            (None, None) => Some(in_flight),
            (None, Some(_)) if self.in_flight == 0 => Some(Ordering::Less),
            (Some(_), None) if other.in_flight == 0 => Some(Ordering::Greater),
            (Some(own), Some(others)) if own <= others * ALIKE && others <= own * ALIKE => {
                Some(in_flight)
            }
            _ => self.product().partial_cmp(&other.product()),
        }
    }
}

/// The one whose turn it is: the `turn`-th of `count`; `None` when there is none.
pub fn in_turn(count: usize, turn: usize) -> Option<usize> {
    turn.checked_rem(count)
}

/// Power of two choices (Mitzenmacher 1996): of two different endpoints, drawn by the two
/// halves of `draw`, the one with less load, and then the other; the first drawn on a tie.
/// Twice the same where there is but one.
///
/// `count` endpoints, `load` tells that of each; `None` when there is none.
pub fn choose<L: PartialOrd>(
    count: usize,
    draw: u64,
    load: impl Fn(usize) -> L,
) -> Option<(usize, usize)> {
    if count < 2 {
        return count.checked_sub(1).map(|only| (only, only));
    }
    let scale = |half: u64, range: usize| ((half * range as u64) >> 32) as usize;
    let first = scale(draw >> 32, count);
    // One of the others: skips the first.
    let second = (first + 1 + scale(draw & 0xffff_ffff, count - 1)) % count;
    Some(if load(second) < load(first) { (second, first) } else { (first, second) })
}

/// Rendezvous hashing (Thaler and Ravishankar 1998): of `count` endpoints the one with the
/// greatest score for `key`; `None` when there is none.
///
/// `seed` tells an endpoint's own number, which no other one has, and `weight` its share of the
/// keys, above 0 and 1 as a rule. When one comes or goes, or its weight changes, no key moves
/// between two others.
pub fn rendezvous(
    count: usize,
    key: u64,
    seed: impl Fn(usize) -> u64,
    weight: impl Fn(usize) -> f64,
) -> Option<usize> {
    let score = |index| {
        // Above 0 and below 1: the top 53 bits, and a half of the last.
        let unit = ((mix(key ^ seed(index)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        // Weighted as in Schindelhauer and Schomaker 2005.
        -weight(index) / unit.ln()
    };
    (0..count)
        .map(|index| (index, score(index)))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|one| one.0)
}

/// A number that says nothing of another one with a bit more or less (as `SplitMix64` ends).
pub const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The least share of what is its due that an endpoint gets in a slow start: with nothing it
/// would never warm up.
const SLOW_START_MIN: f64 = 0.1;

/// What an endpoint that appeared or came back at `since` may get of what is its due `now`: it
/// rises with the time until `window` is over. `None` was there before Serin.
pub fn ramp(since: Option<Tick>, now: Tick, window: Option<Duration>) -> f64 {
    let (Some(since), Some(window)) = (since, window) else { return 1.0 };
    (now.since(since).as_secs_f64() / window.as_secs_f64()).clamp(SLOW_START_MIN, 1.0)
}

/// Whether `draw` lets an endpoint with the share `ramp` have a request; independent of what
/// else the same draw decides.
pub fn ramp_takes(ramp: f64, draw: u64) -> bool {
    ramp >= 1.0 || Ratio::new(ramp).is_some_and(|share| share.takes(mix(draw ^ RAMP_DRAW)))
}

/// Sets the draw for a slow start apart from that for the choice.
const RAMP_DRAW: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests;
