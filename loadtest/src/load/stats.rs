//! What a load has seen, in total and second by second.
//!
//! Never asks the time: it is told when each thing happened.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use http::StatusCode;

use super::connections::Failure;

/// The last seconds that are kept; older ones are only in the totals.
pub const SECONDS_MAX: usize = 3_600;
/// 1 µs to 60 s, three digits: 0.1 % is below what a scheduler adds.
const LATENCY_MICROS_MAX: u64 = 60_000_000;

/// The load so far, warm-up left out. Latency is from the intended start to the last
/// byte of the answer, over everything that was sent and ended, failures included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadStats {
    /// Since the end of the warm-up.
    pub elapsed: Duration,
    /// Requests whose intended start has passed.
    pub sent: u64,
    /// Answered completely with a status below 400.
    pub ok: u64,
    /// Everything else that ended: what a user would call an error.
    pub errors: u64,
    /// Complete answers by class of status: `statuses[1]` is 2xx.
    pub statuses: [u64; 5],
    /// No connection could be had.
    pub connect_errors: u64,
    /// The connection broke before the answer was complete.
    pub broken: u64,
    /// No complete answer in time.
    pub timeouts: u64,
    /// Not sent, because too many were in flight. Counted as errors.
    pub unsent: u64,
    /// Started and not ended yet, those of the warm-up included.
    pub in_flight: u64,
    /// Half of the requests took no longer.
    pub p50: Duration,
    /// 90 % took no longer.
    pub p90: Duration,
    /// 99 % took no longer.
    pub p99: Duration,
    /// 99.9 % took no longer.
    pub p999: Duration,
    /// The slowest.
    pub max: Duration,
    /// 99 % of the requests left the generator no later than this after their
    /// intended start: when it is large, the generator is too slow, not the target.
    pub lag_p99: Duration,
}

/// One whole second of a load, by when requests ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SecondStats {
    /// Counted from 0 at the end of the warm-up.
    pub second: u64,
    /// Requests that started in it.
    pub sent: u64,
    /// Requests that ended well in it.
    pub ok: u64,
    /// Requests that ended otherwise in it.
    pub errors: u64,
    /// Median latency of those that ended in it; zero when none did.
    pub p50: Duration,
    /// 99th percentile of those that ended in it; zero when none did.
    pub p99: Duration,
}

/// How a request ended.
pub(super) enum Ending {
    Answered(StatusCode),
    Failed(Failure),
    Unsent,
}

/// Takes the samples.
#[derive(Debug)]
pub(super) struct Recorder {
    origin: Instant,
    totals: LoadStats,
    latency: Histogram<u64>,
    lag: Histogram<u64>,
    current: SecondStats,
    current_latency: Histogram<u64>,
    seconds: VecDeque<SecondStats>,
}

impl Recorder {
    /// `origin` is the end of the warm-up: what was meant to start before it is not
    /// counted.
    pub(super) fn new(origin: Instant) -> Self {
        Self {
            origin,
            totals: LoadStats::default(),
            latency: histogram(),
            lag: histogram(),
            current: SecondStats::default(),
            current_latency: histogram(),
            seconds: VecDeque::new(),
        }
    }

    pub(super) fn start(&mut self, intended: Instant, now: Instant) {
        self.roll(now);
        self.totals.in_flight += 1;
        if intended >= self.origin {
            self.totals.sent += 1;
            self.current.sent += 1;
            self.lag.saturating_record(micros(now.saturating_duration_since(intended)));
        }
    }

    pub(super) fn end(&mut self, intended: Instant, now: Instant, ending: &Ending) {
        self.roll(now);
        self.totals.in_flight -= 1;
        if intended < self.origin {
            return;
        }
        let good = match ending {
            Ending::Answered(status) => {
                let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
                self.totals.statuses[class] += 1;
                class < 3
            }
            Ending::Failed(failure) => {
                *match failure {
                    Failure::Connect => &mut self.totals.connect_errors,
                    Failure::Broken => &mut self.totals.broken,
                    Failure::Timeout => &mut self.totals.timeouts,
                } += 1;
                false
            }
            Ending::Unsent => {
                self.totals.unsent += 1;
                false
            }
        };
        self.totals.ok += u64::from(good);
        self.totals.errors += u64::from(!good);
        self.current.ok += u64::from(good);
        self.current.errors += u64::from(!good);
        if !matches!(ending, Ending::Unsent) {
            let taken = micros(now.saturating_duration_since(intended));
            self.latency.saturating_record(taken);
            self.current_latency.saturating_record(taken);
        }
    }

    pub(super) fn totals(&mut self, now: Instant) -> LoadStats {
        self.roll(now);
        let at = |quantile| duration(self.latency.value_at_quantile(quantile));
        LoadStats {
            elapsed: now.saturating_duration_since(self.origin),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: duration(self.latency.max()),
            lag_p99: duration(self.lag.value_at_quantile(0.99)),
            ..self.totals.clone()
        }
    }

    /// The whole seconds from this one on, as far as they are kept.
    pub(super) fn seconds_from(&mut self, first: u64, now: Instant) -> Vec<SecondStats> {
        self.roll(now);
        self.seconds.iter().filter(|one| one.second >= first).copied().collect()
    }

    /// Closes the seconds that have passed.
    fn roll(&mut self, now: Instant) {
        let second = now.saturating_duration_since(self.origin).as_secs();
        while self.current.second < second {
            let at = |quantile| duration(self.current_latency.value_at_quantile(quantile));
            let closed = SecondStats { p50: at(0.5), p99: at(0.99), ..self.current };
            if self.seconds.len() == SECONDS_MAX {
                self.seconds.pop_front();
            }
            self.seconds.push_back(closed);
            // After a sleep through an age, only seconds that will be kept.
            let next = (closed.second + 1).max(second.saturating_sub(SECONDS_MAX as u64));
            self.current = SecondStats { second: next, ..SecondStats::default() };
            self.current_latency.reset();
        }
    }
}

fn histogram() -> Histogram<u64> {
    // Constant bounds that hdrhistogram accepts.
    Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3).expect("bounds are in order")
}

fn micros(taken: Duration) -> u64 {
    u64::try_from(taken.as_micros()).unwrap_or(u64::MAX)
}

fn duration(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const GOOD: Ending = Ending::Answered(StatusCode::OK);

    fn recorder() -> (Recorder, Instant) {
        let origin = crate::time::now();
        (Recorder::new(origin), origin)
    }

    fn near(left: Duration, right: Duration) -> bool {
        left.abs_diff(right) <= right / 500
    }

    #[test]
    fn what_ends_is_good_or_an_error() {
        for (ending, ok, errors) in [
            (GOOD, 1, 0),
            (Ending::Answered(StatusCode::FOUND), 1, 0),
            (Ending::Answered(StatusCode::NOT_FOUND), 0, 1),
            (Ending::Answered(StatusCode::BAD_GATEWAY), 0, 1),
            (Ending::Failed(Failure::Connect), 0, 1),
            (Ending::Failed(Failure::Broken), 0, 1),
            (Ending::Failed(Failure::Timeout), 0, 1),
            (Ending::Unsent, 0, 1),
        ] {
            let (mut recorder, origin) = recorder();
            recorder.start(origin, origin);
            recorder.end(origin, origin + MS, &ending);
            let stats = recorder.totals(origin + MS);
            assert_eq!((stats.sent, stats.ok, stats.errors, stats.in_flight), (1, ok, errors, 0));
        }
    }

    #[test]
    fn latency_is_measured_from_the_intended_start() {
        let (mut recorder, origin) = recorder();
        recorder.start(origin + MS, origin + 5 * MS);
        recorder.end(origin + MS, origin + 101 * MS, &GOOD);
        let stats = recorder.totals(origin + 200 * MS);
        assert!(near(stats.p50, 100 * MS), "{:?}", stats.p50);
        assert!(near(stats.lag_p99, 4 * MS), "{:?}", stats.lag_p99);
    }

    #[test]
    fn the_warm_up_is_only_seen_in_flight() {
        let (_, start) = recorder();
        let mut recorder = Recorder::new(start + 1_000 * MS);
        recorder.start(start, start);
        assert_eq!(recorder.totals(start).in_flight, 1);
        recorder.end(start, start + 2_500 * MS, &Ending::Failed(Failure::Timeout));
        let stats = recorder.totals(start + 3_000 * MS);
        assert_eq!((stats.sent, stats.errors, stats.in_flight), (0, 0, 0));
        assert_eq!(stats.elapsed, 2_000 * MS);
    }

    #[test]
    fn seconds_close_when_they_have_passed() {
        let (mut recorder, origin) = recorder();
        for n in 0..25 {
            let at = origin + n * 100 * MS;
            recorder.start(at, at);
            recorder.end(at, at + 10 * MS, &GOOD);
        }
        let seconds = recorder.seconds_from(0, origin + 2_500 * MS);
        let counts: Vec<_> = seconds.iter().map(|one| (one.second, one.sent, one.ok)).collect();
        assert_eq!(counts, [(0, 10, 10), (1, 10, 10)]);
        assert!(near(seconds[1].p99, 10 * MS));
        assert_eq!(recorder.seconds_from(1, origin + 2_500 * MS).len(), 1);
    }

    #[test]
    fn no_more_seconds_are_kept_than_promised() {
        let (mut recorder, origin) = recorder();
        let late = origin + Duration::from_hours(1_000);
        let seconds = recorder.seconds_from(0, late);
        assert_eq!(seconds.len(), SECONDS_MAX);
        assert_eq!(seconds.last().unwrap().second, 3_600_000 - 1);
    }
}
