//! Counters with one writer each, and what they add up to.
//!
//! Never an atomic read-modify-write: only its own worker writes a counter, so a plain
//! load and store is enough, and a reader sees some recent value.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Notify;

use crate::names::{BackendName, RouteName, RuleName};
use crate::rollout::judge::SLOT;
use crate::rollout::plan::OBJECTIVES_MAX;
use crate::telemetry::exemplars::Exemplars;
use crate::telemetry::latencies::{Latencies, LatencyCounts};
use crate::telemetry::notes::{Answered, Failure, Failures};
use crate::telemetry::reasons::{FailureReason, Limited};
use crate::traffic::outcome::Outcome;
use crate::units::Tick;

/// A counter that one thread writes and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `more`; from the writing thread only.
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    /// Takes `less` away; from the writing thread only. For gauges.
    pub fn sub(&self, less: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(less), Relaxed);
    }

    /// Some recent value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counters by status code; a class's hundred appear when it is first counted.
#[derive(Debug, Default)]
pub struct Codes {
    classes: [OnceLock<Box<[Counter; 100]>>; 5],
}

impl Codes {
    /// Counts `code`, 100 to 599; anything else is counted as 599.
    pub fn count(&self, code: u16) {
        let code = if (100..600).contains(&code) { code } else { 599 };
        let class = &self.classes[usize::from(code / 100) - 1];
        let counters = class.get_or_init(|| Box::new(std::array::from_fn(|_| Counter::default())));
        counters[usize::from(code % 100)].add(1);
    }

    /// Codes that were counted, rising, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u64)> {
        self.classes.iter().zip(1u16..).flat_map(|(class, hundred)| {
            let counters = class.get().into_iter().flat_map(|counters| counters.iter());
            counters
                .zip(hundred * 100..)
                .map(|(counter, code)| (code, counter.get()))
                .filter(|(_, count)| *count > 0)
        })
    }
}

/// Upper bounds of the buckets in seconds, 1 ms to 10 min: models answer in that range.
pub const BUCKETS: [f64; 18] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0,
    300.0, 600.0,
];

/// The index of the bucket that counts `span`.
pub fn bucket(span: Duration) -> usize {
    let seconds = span.as_secs_f64();
    BUCKETS.partition_point(|bound| *bound < seconds)
}

/// A histogram over [`BUCKETS`] and one more for what is longer.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BUCKETS.len() + 1],
    sum_nanos: Counter,
}

impl Histogram {
    /// Counts `span`.
    pub fn record(&self, span: Duration) {
        self.buckets[bucket(span)].add(1);
        self.sum_nanos.add(span.as_nanos() as u64);
    }

    /// Counts per bucket, not cumulative, and the sum in seconds.
    pub fn read(&self) -> ([u64; BUCKETS.len() + 1], f64) {
        let counts = std::array::from_fn(|index| self.buckets[index].get());
        (counts, self.sum_nanos.get() as f64 / 1e9)
    }
}

/// What the labels of a request's metrics are. Bounded by the config.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegKey {
    /// Empty when no rule fitted.
    pub route: RouteName,
    /// Empty when no rule fitted.
    pub rule: RuleName,
    /// Empty when no rule fitted.
    pub backend: BackendName,
}

/// One backend as one rule uses it, with counters for each worker.
#[derive(Debug)]
pub struct Leg {
    /// Its labels.
    pub key: LegKey,
    /// Traces that stand for what it counts.
    pub exemplars: Exemplars,
    workers: Box<[LegCounters]>,
}

/// One worker's counters of a leg; on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct LegCounters {
    /// What clients asked and this leg answered, by status.
    pub requests: Codes,
    /// Attempts, by outcome and status.
    attempts: [Codes; 3],
    /// From the request's head to the end of the response's body.
    pub duration: Histogram,
    /// From the request's head to the response's.
    pub first_byte: Histogram,
    /// Bytes of the bodies of requests that this leg answered.
    pub received_bytes: Counter,
    /// Bytes of the bodies of its answers.
    pub sent_bytes: Counter,
    /// Requests whose response has not ended.
    pub in_flight: Counter,
    /// Copies to this backend, by result; used by legs of mirrors only.
    mirrored: [Counter; MirrorResult::ALL.len()],
    /// Copies whose answer is no failure and says nothing of the shadow; `ok` in metrics.
    pub neutral_copies: Counter,
    /// Further attempts at this backend after a failed one.
    pub retries: Counter,
    /// Failed attempts at this backend that were not tried again, by reason.
    refused: [Counter; RetryRefused::ALL.len()],
    /// Failed attempts at this backend after which stable was asked.
    pub failovers: Counter,
    /// Requests that got no place at this backend, by reason.
    limited: [Counter; Limited::ALL.len()],
    /// Attempts without an answer to its end, by reason.
    failures: [Counter; FailureReason::ALL.len()],
}

impl Leg {
    /// With zero counts for `workers` workers.
    pub fn new(key: LegKey, workers: usize) -> Self {
        let workers = (0..workers).map(|_| LegCounters::default()).collect();
        Self { key, exemplars: Exemplars::default(), workers }
    }

    /// The counters that `worker` alone may write.
    pub fn of(&self, worker: usize) -> &LegCounters {
        &self.workers[worker]
    }

    /// Every worker's counters, to read.
    pub fn workers(&self) -> impl Iterator<Item = &LegCounters> {
        self.workers.iter()
    }
}

impl LegCounters {
    /// Attempts that ended with `outcome`, by status.
    pub fn attempts(&self, outcome: Outcome) -> &Codes {
        &self.attempts[match outcome {
            Outcome::Good => 0,
            Outcome::Bad => 1,
            Outcome::Neutral => 2,
        }]
    }

    /// Copies that ended with `result`.
    pub fn mirrored(&self, result: MirrorResult) -> &Counter {
        &self.mirrored[result as usize]
    }

    /// Attempts without an answer to its end, for `reason`.
    pub fn failures(&self, reason: FailureReason) -> &Counter {
        &self.failures[reason as usize]
    }

    /// Requests that got no place for `reason`.
    pub fn limited(&self, reason: Limited) -> &Counter {
        &self.limited[reason as usize]
    }

    /// Failed attempts that were to be tried again, and were not for `reason`.
    pub fn refused(&self, reason: RetryRefused) -> &Counter {
        &self.refused[reason as usize]
    }
}

/// Why an attempt was not tried again although the rule says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryRefused {
    /// Too many others were being tried again.
    Budget,
    /// The request's body was too large to be kept.
    Body,
}

impl RetryRefused {
    /// In the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Budget, Self::Body];

    /// As in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Body => "body",
        }
    }
}

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorResult {
    /// The shadow answered, and by what it says it did not fail.
    Ok,
    /// It failed, was too slow, or answered with a 5xx or a status of gRPC that is its fault.
    Error,
    /// It did not come to the shadow: too many copies were under way, or this machine could not
    /// send it.
    Dropped,
    /// The body was larger than the mirror takes.
    TooLarge,
}

impl MirrorResult {
    /// In the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Error, Self::Dropped, Self::TooLarge];

    /// As in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Dropped => "dropped",
            Self::TooLarge => "too_large",
        }
    }
}

/// Retries of one rule, over all workers. Asked after failures only.
#[derive(Debug, Default)]
pub struct RetryBudget {
    live: AtomicU32,
    /// The second since the process's start, times 2^32, plus retries started in it.
    second: AtomicU64,
}

/// One retry under way; over when dropped.
#[derive(Debug)]
pub struct RetryPermit(std::sync::Arc<RetryBudget>);

impl RetryBudget {
    /// One more retry, if `affords` says so of (live ones, those started in this second).
    pub fn take(
        self: &std::sync::Arc<Self>,
        now: Tick,
        affords: impl Fn(u32, u32) -> bool,
    ) -> Option<RetryPermit> {
        let second = now.since_start().as_secs() << 32;
        let started = |word: u64| if word >> 32 == second >> 32 { word as u32 } else { 0 };
        let count = |word| {
            let started = started(word);
            let more = u64::from(started.saturating_add(1));
            affords(self.live.load(Relaxed), started).then_some(second | more)
        };
        self.second.fetch_update(Relaxed, Relaxed, count).ok()?;
        self.live.fetch_add(1, Relaxed);
        Some(RetryPermit(std::sync::Arc::clone(self)))
    }
}

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Relaxed);
    }
}

/// Which side of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// The one that is trusted.
    Stable,
    /// The one that is judged.
    Canary,
}

/// What is measured of a rollout's attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measures {
    /// Of each objective, the latency over which an attempt is slow; `None` counts nothing.
    pub thresholds: Vec<Option<Duration>>,
    /// Whether ids of answered attempts are noted down.
    pub ids: bool,
    /// Whether stable's latencies are.
    pub latencies: bool,
    /// Within which a sticky key counts once: the length of a slot.
    pub slot: Duration,
}

impl Default for Measures {
    fn default() -> Self {
        Self { thresholds: Vec::new(), ids: false, latencies: false, slot: SLOT }
    }
}

/// What a rollout is judged on, as long as its weights stay the same.
///
/// A change of weight makes a new one, so an attempt remembers the weight under which it
/// was assigned by what it counts into.
#[derive(Debug)]
pub struct Evidence {
    /// Of each objective, the latency over which an attempt is slow; `None` for errors.
    pub thresholds: Box<[Option<Duration>]>,
    /// Rung when the canary failed an attempt.
    pub alarm: std::sync::Arc<Alarm>,
    slot: Duration,
    workers: Box<[[ArmCounters; 2]]>,
    /// Sticky keys that lately had a bad attempt, one word each; see [`Self::is_repeated`].
    offended: Box<[AtomicU64]>,
}

/// One worker's counters of one side.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ArmCounters {
    /// Attempts that began, whatever became of them.
    pub begun: Counter,
    /// Good outcomes.
    pub good: Counter,
    /// Bad outcomes.
    pub bad: Counter,
    /// Bad outcomes, at most one per sticky key and slot.
    pub bad_once: Counter,
    /// Of each objective, attempts in time among those that did not err.
    pub fast: [Counter; OBJECTIVES_MAX],
    /// Of each objective, attempts over its threshold.
    pub slow: [Counter; OBJECTIVES_MAX],
    /// The same, at most one per sticky key and slot.
    pub slow_once: [Counter; OBJECTIVES_MAX],
    /// The first attempts that failed or were slow; of the canary only.
    pub failures: Failures,
    /// Ids of answered attempts, where somebody may ask for them.
    pub answered: Option<Answered>,
    /// Latencies of good attempts, where somebody may ask for them; of stable only.
    pub latencies: Option<Latencies>,
}

/// [`ArmCounters`] of all workers, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArmCounts {
    /// Attempts that began.
    pub begun: u64,
    /// Good outcomes.
    pub good: u64,
    /// Bad outcomes.
    pub bad: u64,
    /// Bad outcomes, at most one per sticky key and slot.
    pub bad_once: u64,
    /// Of each objective, attempts in time.
    pub fast: [u64; OBJECTIVES_MAX],
    /// Of each objective, slow attempts.
    pub slow: [u64; OBJECTIVES_MAX],
    /// Of each objective, slow attempts, at most one per sticky key and slot.
    pub slow_once: [u64; OBJECTIVES_MAX],
}

impl ArmCounts {
    /// What came since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let each = |now: &[u64; OBJECTIVES_MAX], then: &[u64; OBJECTIVES_MAX]| {
            std::array::from_fn(|index| now[index].wrapping_sub(then[index]))
        };
        Self {
            begun: self.begun.wrapping_sub(earlier.begun),
            good: self.good.wrapping_sub(earlier.good),
            bad: self.bad.wrapping_sub(earlier.bad),
            bad_once: self.bad_once.wrapping_sub(earlier.bad_once),
            fast: each(&self.fast, &earlier.fast),
            slow: each(&self.slow, &earlier.slow),
            slow_once: each(&self.slow_once, &earlier.slow_once),
        }
    }
}

/// Words of [`Evidence::offended`]: two keys that share one may be counted twice, no more.
const OFFENDED_WORDS: usize = 1024;

impl Evidence {
    /// With zero counts for `workers` workers; at most [`OBJECTIVES_MAX`] thresholds.
    pub fn new(measures: Measures, alarm: std::sync::Arc<Alarm>, workers: usize) -> Self {
        let counters = |arm| ArmCounters {
            answered: measures.ids.then(Answered::default),
            latencies: (measures.latencies && arm == Arm::Stable).then(Latencies::default),
            ..ArmCounters::default()
        };
        Self {
            alarm,
            slot: measures.slot.max(Duration::from_millis(1)),
            workers: (0..workers).map(|_| [Arm::Stable, Arm::Canary].map(counters)).collect(),
            thresholds: measures.thresholds.into_iter().take(OBJECTIVES_MAX).collect(),
            offended: (0..OFFENDED_WORDS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The counters that `worker` alone may write.
    pub fn of(&self, worker: usize, arm: Arm) -> &ArmCounters {
        &self.workers[worker][arm as usize]
    }

    /// All workers' counts of `arm`, since this evidence was made.
    pub fn sum(&self, arm: Arm) -> ArmCounts {
        let mut sum = ArmCounts::default();
        for worker in &self.workers {
            let counters = &worker[arm as usize];
            sum.begun += counters.begun.get();
            sum.good += counters.good.get();
            sum.bad += counters.bad.get();
            sum.bad_once += counters.bad_once.get();
            for index in 0..OBJECTIVES_MAX {
                sum.fast[index] += counters.fast[index].get();
                sum.slow[index] += counters.slow[index].get();
                sum.slow_once[index] += counters.slow_once[index].get();
            }
        }
        sum
    }

    /// Failed attempts of the canary that were not taken yet; for one reader.
    pub fn take_failures(&self) -> Vec<std::sync::Arc<Failure>> {
        let canary = |worker: &[ArmCounters; 2]| worker[Arm::Canary as usize].failures.take();
        self.workers.iter().flat_map(canary).collect()
    }

    /// Ids of answered attempts of `arm` that were not taken yet; for one reader.
    pub fn take_answered(&self, arm: Arm) -> Vec<u64> {
        let answered = self.workers.iter().filter_map(|one| one[arm as usize].answered.as_ref());
        answered.flat_map(Answered::take).collect()
    }

    /// Latencies of stable's good attempts, since this evidence was made.
    pub fn latencies(&self) -> LatencyCounts {
        let mut sum = LatencyCounts::default();
        let stable = self.workers.iter().map(|worker| &worker[Arm::Stable as usize]);
        stable.filter_map(|one| one.latencies.as_ref()).for_each(|one| one.add_to(&mut sum));
        sum
    }

    /// Whether a bad attempt under the sticky `key` was already told in the slot of `now`.
    ///
    /// A user whose every click fails would count as many independent failures. Written on
    /// bad attempts only, so workers may share it.
    pub fn is_repeated(&self, key: u64, now: Tick) -> bool {
        let slot = (now.since_start().as_millis() / self.slot.as_millis()) as u64;
        let mark = key.rotate_left(17) ^ slot.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        self.offended[key as usize % OFFENDED_WORDS].swap(mark, Relaxed) == mark
    }
}

/// Wakes the judge before the slot's end; rung by workers, at most once until heard.
#[derive(Debug, Default)]
pub struct Alarm {
    rung: AtomicBool,
    heard: Notify,
}

impl Alarm {
    /// Asks for a look at the open slot. Never waits.
    pub fn ring(&self) {
        if !self.rung.swap(true, Relaxed) {
            self.heard.notify_one();
        }
    }

    /// Waits for the next ring. For one listener.
    pub async fn heard(&self) {
        self.heard.notified().await;
        self.rung.store(false, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_as_counted_and_nonsense_is_bounded() {
        let codes = Codes::default();
        for code in [200, 503, 200, 999, 7] {
            codes.count(code);
        }
        assert_eq!(codes.iter().collect::<Vec<_>>(), [(200, 2), (503, 1), (599, 2)]);
    }

    #[test]
    fn a_bucket_takes_its_upper_bound_as_prometheus_means_it() {
        let histogram = Histogram::default();
        for millis in [1, 2, 200, 700_000] {
            histogram.record(Duration::from_millis(millis));
        }
        let (counts, sum) = histogram.read();
        assert_eq!((counts[0], counts[1], counts[7], counts[18]), (1, 1, 1, 1));
        assert!((sum - 700.203).abs() < 1e-9);
    }

    #[test]
    fn a_retry_is_live_until_it_is_dropped_and_counted_in_its_second() {
        let budget = std::sync::Arc::new(RetryBudget::default());
        let at = |millis| Tick::new(Duration::from_millis(millis));
        let one = budget.take(at(10), |live, started| (live, started) == (0, 0)).unwrap();
        let two = budget.take(at(900), |live, started| (live, started) == (1, 1)).unwrap();
        assert!(budget.take(at(900), |_, started| started < 2).is_none());
        drop(one);
        let three = budget.take(at(1000), |live, started| (live, started) == (1, 0));
        assert!(three.is_some());
        drop((two, three));
        assert!(budget.take(at(1001), |live, started| (live, started) == (0, 1)).is_some());
    }

    #[test]
    fn a_sticky_key_counts_once_a_slot() {
        let evidence = Evidence::new(Measures::default(), std::sync::Arc::default(), 1);
        let at = |millis| Tick::new(Duration::from_millis(millis));
        assert!(!evidence.is_repeated(5, at(250)));
        assert!(evidence.is_repeated(5, at(499)));
        assert!(!evidence.is_repeated(6, at(499)));
        assert!(!evidence.is_repeated(5, at(500)));
        assert!(!evidence.is_repeated(0, at(0)));
        // A longer slot forgives longer bursts.
        let measures = Measures { slot: Duration::from_secs(1), ..Measures::default() };
        let evidence = Evidence::new(measures, std::sync::Arc::default(), 1);
        assert!(!evidence.is_repeated(5, at(1000)));
        assert!(evidence.is_repeated(5, at(1999)));
        assert!(!evidence.is_repeated(5, at(2000)));
    }

    #[test]
    fn workers_add_up() {
        let evidence = Evidence::new(Measures::default(), std::sync::Arc::default(), 2);
        evidence.of(0, Arm::Canary).bad.add(2);
        evidence.of(1, Arm::Canary).bad.add(3);
        evidence.of(1, Arm::Stable).fast[1].add(7);
        let before = evidence.sum(Arm::Canary);
        assert_eq!((before.bad, evidence.sum(Arm::Stable).fast[1]), (5, 7));
        evidence.of(0, Arm::Canary).bad.add(1);
        assert_eq!(evidence.sum(Arm::Canary).since(&before).bad, 1);
    }
}
