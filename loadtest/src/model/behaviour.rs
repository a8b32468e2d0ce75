//! How well a model server behaves, changeable while it runs.
//!
//! Never looks at a request: the n-th inference of a seed meets the same fate
//! whatever it asks, so a run can be repeated. Only how long it waits for others depends on
//! when they come.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch;

use super::queue::Queue;

/// No inference takes longer than this, whatever its shape draws. What it waits for others
/// comes on top.
pub const DELAY_MAX: Duration = Duration::from_mins(1);

/// How long inferences take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatencyShape {
    median: Duration,
    sigma: f64,
    slow_ratio: f64,
    slow_by: Duration,
    servers: Option<NonZeroUsize>,
}

impl LatencyShape {
    /// Every inference takes the same time.
    pub const fn fixed(delay: Duration) -> Self {
        Self::lognormal(delay, 0.0)
    }

    /// Lognormal: half of the inferences take less than `median`; `sigma` is the
    /// standard deviation of the logarithm (0.5 puts p99 at 3.2 medians).
    pub const fn lognormal(median: Duration, sigma: f64) -> Self {
        Self { median, sigma, slow_ratio: 0.0, slow_by: Duration::ZERO, servers: None }
    }

    /// Makes a share of the inferences, 0 to 1, slower by `slow_by`.
    #[must_use]
    pub const fn with_slow(mut self, slow_ratio: f64, slow_by: Duration) -> Self {
        self.slow_ratio = slow_ratio;
        self.slow_by = slow_by;
        self
    }

    /// Works on so many inferences at once, each for as long as the shape says; others wait in
    /// their order, so that latency grows with load. With a fixed shape and independent
    /// arrivals this is M/D/c. `None` is any number at once, whose latency knows no load.
    #[must_use]
    pub const fn with_servers(mut self, servers: Option<NonZeroUsize>) -> Self {
        self.servers = servers;
        self
    }

    /// The delay for two draws: `normal` of the standard normal distribution,
    /// `uniform` in [0, 1).
    fn delay(&self, normal: f64, uniform: f64) -> Duration {
        let seconds = self.median.as_secs_f64() * (self.sigma * normal).exp();
        let slow = if uniform < self.slow_ratio { self.slow_by.as_secs_f64() } else { 0.0 };
        Duration::try_from_secs_f64(seconds + slow).unwrap_or(DELAY_MAX).min(DELAY_MAX)
    }
}

/// What one inference will meet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fate {
    /// Answered with a 500 instead of a score.
    pub(super) fails: bool,
    /// Takes this long before it answers, failing or not.
    pub(super) delay: Duration,
}

/// The levers of a running model server, and what it counted. Shared by reference
/// with any thread.
#[derive(Debug)]
pub struct Behaviour {
    levers: Mutex<Levers>,
    stalled: watch::Sender<bool>,
    requests: AtomicU64,
    failures: AtomicU64,
}

#[derive(Debug)]
struct Levers {
    rng: Rng,
    error_ratio: f64,
    latency: LatencyShape,
    queue: Queue,
}

impl Behaviour {
    pub(super) fn new(seed: u64, error_ratio: f64, latency: LatencyShape) -> Self {
        let (rng, queue) = (Rng::with_seed(seed), Queue::default());
        let levers = Levers { rng, error_ratio, latency, queue };
        Self {
            levers: Mutex::new(levers),
            stalled: watch::Sender::new(false),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// The share of inferences answered with a 500, 0 to 1.
    pub fn set_error_ratio(&self, ratio: f64) {
        self.with_levers(|levers| levers.error_ratio = ratio);
    }

    /// How long inferences take from now on.
    pub fn set_latency(&self, latency: LatencyShape) {
        self.with_levers(|levers| levers.latency = latency);
    }

    /// While stalled, inferences are accepted and not answered. Those that wait are
    /// answered when the stall ends.
    pub fn set_stalled(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    /// Inferences asked for so far, failed ones included.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Inferences answered with a 500 because the error ratio said so.
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// Counts an inference and draws what it will meet.
    pub(super) fn next_fate(&self) -> Fate {
        self.requests.fetch_add(1, Relaxed);
        let fate = self.with_levers(Levers::draw);
        if fate.fails {
            self.failures.fetch_add(1, Relaxed);
        }
        fate
    }

    /// How long an inference that arrives at `now`, counted from any one moment, and takes
    /// `service` waits for those before it. `None` when too many wait already.
    pub(super) fn enter(&self, now: Duration, service: Duration) -> Option<Duration> {
        self.with_levers(|levers| match levers.latency.servers {
            Some(servers) => levers.queue.enter(now, servers.get(), service),
            None => Some(Duration::ZERO),
        })
    }

    /// Waits until the server is not stalled.
    pub(super) async fn unstalled(&self) {
        // Fails only when the sender is gone, and `self` owns it.
        let _ = self.stalled.subscribe().wait_for(|stalled| !stalled).await;
    }

    fn with_levers<T>(&self, change: impl FnOnce(&mut Levers) -> T) -> T {
        change(&mut self.levers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Levers {
    /// Always draws the same number of times, so that moving one lever does not
    /// deal every later inference a new hand.
    fn draw(&mut self) -> Fate {
        let (fail, slow) = (self.rng.f64(), self.rng.f64());
        let normal = standard_normal(&mut self.rng);
        Fate { fails: fail < self.error_ratio, delay: self.latency.delay(normal, slow) }
    }
}

/// Box and Muller, 1958. One of the pair is enough.
fn standard_normal(rng: &mut Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.f64()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn fates(behaviour: &Behaviour, count: usize) -> Vec<Fate> {
        (0..count).map(|_| behaviour.next_fate()).collect()
    }

    #[test]
    fn equal_seeds_meet_equal_fates() {
        let shape = LatencyShape::lognormal(20 * MS, 0.5).with_slow(0.1, 300 * MS);
        let [a, b] = [7, 7].map(|seed| fates(&Behaviour::new(seed, 0.2, shape), 500));
        assert_eq!(a, b);
    }

    #[test]
    fn a_higher_error_ratio_only_adds_errors() {
        let shape = LatencyShape::fixed(MS);
        let [few, many] = [0.05, 0.3].map(|ratio| fates(&Behaviour::new(1, ratio, shape), 1_000));
        let failed = |fates: &[Fate]| fates.iter().filter(|fate| fate.fails).count();
        assert!(few.iter().zip(&many).all(|(few, many)| !few.fails || many.fails));
        assert!(failed(&few) < failed(&many));
    }

    #[test]
    fn shares_are_what_was_asked_within_four_sigma() {
        let shape = LatencyShape::fixed(MS).with_slow(0.05, 100 * MS);
        let fates = fates(&Behaviour::new(3, 0.1, shape), 10_000);
        let failed = fates.iter().filter(|fate| fate.fails).count() as f64;
        let slow = fates.iter().filter(|fate| fate.delay == 101 * MS).count() as f64;
        assert!((failed - 1_000.0).abs() < 4.0 * 30.0, "{failed} of 10000 failed");
        assert!((slow - 500.0).abs() < 4.0 * 21.8, "{slow} of 10000 were slow");
    }

    #[test]
    fn half_of_a_lognormal_shape_is_below_its_median() {
        let shape = LatencyShape::lognormal(20 * MS, 0.5);
        let fates = fates(&Behaviour::new(5, 0.0, shape), 10_000);
        let below = fates.iter().filter(|fate| fate.delay < 20 * MS).count() as f64;
        assert!((below - 5_000.0).abs() < 4.0 * 50.0, "{below} of 10000 were below");
    }

    #[test]
    fn only_a_shape_with_servers_has_inferences_wait() {
        let behaviour = Behaviour::new(1, 0.0, LatencyShape::fixed(10 * MS));
        let enter_three = || [0, 0, 0].map(|_| behaviour.enter(MS, 10 * MS).unwrap());
        assert_eq!(enter_three(), [Duration::ZERO; 3]);
        behaviour.set_latency(LatencyShape::fixed(10 * MS).with_servers(NonZeroUsize::new(2)));
        assert_eq!(enter_three(), [Duration::ZERO, Duration::ZERO, 10 * MS]);
        behaviour.set_latency(LatencyShape::fixed(10 * MS));
        assert_eq!(enter_three(), [Duration::ZERO; 3]);
    }

    #[test]
    fn absurd_shapes_are_capped() {
        for shape in [LatencyShape::lognormal(MS, 1e6), LatencyShape::fixed(Duration::MAX)] {
            let fates = fates(&Behaviour::new(1, 0.0, shape), 100);
            assert!(fates.iter().all(|fate| fate.delay <= DELAY_MAX));
        }
    }

    #[test]
    fn requests_and_failures_are_counted() {
        let behaviour = Behaviour::new(1, 1.0, LatencyShape::fixed(MS));
        fates(&behaviour, 3);
        behaviour.set_error_ratio(0.0);
        fates(&behaviour, 2);
        assert_eq!((behaviour.requests(), behaviour.failures()), (5, 3));
    }
}
