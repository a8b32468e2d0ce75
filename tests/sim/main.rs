//! Thousands of rollouts in simulated time: how fast the judge finds a bad canary, and how
//! rarely it blames a good one.
//!
//! Seeds are fixed, printed, and taken from `SERIN_SIM_SEED` when it is set. The complete tables
//! of `docs/judge.md`: `just sim`.

mod fleet;
mod others;
mod tables;
mod world;

use std::time::Duration;

use serin::names::{RouteName, RuleId, RuleName, Version};
use serin::rollout::judge::{Judge, SLOT, SlotCounts};
use serin::rollout::machine::{Event, State};
use serin::rollout::objective::{Objective, Quantile};
use serin::rollout::plan::Plan;
use serin::rollout::verdict::HoldReason;
use serin::units::{Ratio, Tick};

use crate::world::{HEALTHY, Model, SHARE, Traffic, counts};

/// Runs of a cell of the detection table that the published numbers come from.
const PUBLISHED_RUNS: f64 = 300.0;

/// Runs of a cell here.
const RUNS: usize = 500;

/// `errors: 1%` and a p99 limit, both rolling back: T = 200.
fn default_set() -> Plan {
    let limit = Ratio::new(0.01).unwrap();
    Plan::watching(
        "v2".into(),
        RuleId { route: RouteName::new("r"), rule: RuleName::new("main") },
        ("stable".into(), "canary".into()),
        Version::new("1"),
        vec![
            Objective::errors(limit).unwrap(),
            Objective::latency(Quantile::P99, Duration::from_millis(200)),
        ],
    )
}

/// Printed, so that a failure can be run again.
fn chance(test: &str) -> fastrand::Rng {
    let given = std::env::var("SERIN_SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or(20_261_121);
    println!("{test}: SERIN_SIM_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// A rollout in simulated time.
#[derive(Clone)]
struct Rollout {
    plan: Plan,
    judge: Judge,
    state: State,
    slots: u32,
}

impl Rollout {
    fn start() -> Self {
        let plan = default_set();
        let judge = Judge::new(&plan, SHARE, Tick::ZERO);
        Self { plan, judge, state: State::start(Tick::ZERO), slots: 0 }
    }

    fn close(&mut self, counts: &SlotCounts) {
        self.slots += 1;
        let now = Tick::new(SLOT * self.slots);
        let findings = self.judge.close_slot(now, counts);
        let state = std::mem::replace(&mut self.state, State::start(now));
        (self.state, _) = self.plan.advance(state, now, Event::Judged(&findings));
    }

    fn hours(&self) -> f64 {
        (SLOT * self.slots).as_secs_f64() / 3600.0
    }

    /// Runs for a while beside a healthy stable; the judge may end it.
    fn run(&mut self, chance: &mut fastrand::Rng, rps: f64, canary: Model, span: Duration) {
        self.run_both(chance, rps, [canary, HEALTHY], span);
    }

    fn run_both(
        &mut self,
        chance: &mut fastrand::Rng,
        rps: f64,
        [canary, stable]: [Model; 2],
        span: Duration,
    ) {
        let traffic = Traffic::new(rps, [canary, stable]);
        for _ in 0..slots_of(span) {
            if self.state.has_ended() {
                return;
            }
            self.close(&traffic.slot(chance));
        }
    }

    /// Goes on until it is rolled back: canary attempts and slots that it took.
    fn find(mut self, chance: &mut fastrand::Rng, rps: f64, canary: Model) -> (u64, u32) {
        let (start, mut seen) = (self.slots, 0);
        let traffic = Traffic::new(rps, [canary, HEALTHY]);
        while !self.state.has_ended() {
            let counts = traffic.slot(chance);
            seen += counts.canary_attempts;
            self.close(&counts);
            assert!(self.hours() < 48.0, "a breach was never found");
        }
        (seen, self.slots - start)
    }
}

fn slots_of(span: Duration) -> u32 {
    (span.as_millis() / SLOT.as_millis()) as u32
}

/// The value below which a `level` of the sorted values lies.
fn quantile<T: Copy>(sorted: &[T], level: f64) -> T {
    let place = (level * sorted.len() as f64).ceil() as usize;
    sorted[place.clamp(1, sorted.len()) - 1]
}

/// What turns bad, and the published median and p95 in canary attempts; 0 is not published.
type Row = (&'static str, Model, u64, u64);

const fn errors(share: f64) -> Model {
    Model { errors: share, ..HEALTHY }
}

const fn slow(share: f64) -> Model {
    Model { slow: share, ..HEALTHY }
}

/// How long it took to find one regression, many times over.
struct Cell {
    /// Canary attempts, sorted.
    seen: Vec<u64>,
    /// The median.
    seconds: f64,
}

impl Cell {
    /// From where the `prepared` rollouts are.
    fn of(prepared: &[Rollout], chance: &mut fastrand::Rng, rps: f64, model: Model) -> Self {
        let find = |one: &Rollout| one.clone().find(chance, rps, model);
        let (mut seen, mut slots): (Vec<_>, Vec<_>) = prepared.iter().map(find).unzip();
        seen.sort_unstable();
        slots.sort_unstable();
        Self { seen, seconds: f64::from(quantile(&slots, 0.5)) * SLOT.as_secs_f64() }
    }

    fn median(&self) -> u64 {
        quantile(&self.seen, 0.5)
    }

    fn p95(&self) -> u64 {
        quantile(&self.seen, 0.95)
    }

    /// Compares with the published numbers. Both are estimates. Whatever the distribution, the
    /// share of our runs below the other side's q-quantile has a standard deviation of about
    /// sqrt(q(1-q)·(1/300 + 1/runs)). The published number must not lie below our quantile 3.3 of
    /// them lower, which chance misses once in a thousand: slower than published is a failure,
    /// faster is not.
    fn is_as_fast_as(&self, median: u64, p95: u64) -> bool {
        let runs = 1.0 / (1.0 / PUBLISHED_RUNS + 1.0 / self.seen.len() as f64);
        [(median, 0.5), (p95, 0.95)].into_iter().filter(|(published, _)| *published > 0).all(
            |(published, level)| {
                let spread = 3.3 * (level * (1.0_f64 - level) / runs).sqrt();
                published >= quantile(&self.seen, level - spread)
            },
        )
    }
}

/// Rollouts that were healthy for a while.
fn prepared(chance: &mut fastrand::Rng, rps: f64, healthy: Duration, runs: usize) -> Vec<Rollout> {
    let prepare = |_| {
        let mut rollout = Rollout::start();
        rollout.run(chance, rps, HEALTHY, healthy);
        rollout
    };
    (0..runs).map(prepare).collect()
}

/// Finds each regression [`RUNS`] times and compares with the published numbers.
fn check(test: &str, rps: f64, healthy: Duration, rows: &[Row]) {
    let mut chance = chance(test);
    let prepared = prepared(&mut chance, rps, healthy, RUNS);
    for &(what, model, median, p95) in rows {
        let cell = Cell::of(&prepared, &mut chance, rps, model);
        let (our_median, our_p95) = (cell.median(), cell.p95());
        println!("{what:>12} at {rps:>4} rps: {our_median} / {our_p95} ({} s)", cell.seconds);
        assert!(cell.is_as_fast_as(median, p95), "{what}: published {median} / {p95}");
    }
}

#[test]
fn a_bad_canary_is_found_as_fast_as_published_at_100_rps() {
    check(
        "100 rps",
        100.0,
        Duration::ZERO,
        &[
            ("100% errors", errors(1.0), 8, 13),
            ("20% errors", errors(0.2), 26, 56),
            ("10% errors", errors(0.1), 62, 136),
            ("5% errors", errors(0.05), 198, 427),
            ("2% errors", errors(0.02), 1886, 4301),
            ("20% slow", slow(0.2), 32, 60),
            ("5% slow", slow(0.05), 225, 495),
        ],
    );
}

#[test]
fn a_bad_canary_is_found_as_fast_as_published_at_10_rps() {
    check(
        "10 rps",
        10.0,
        Duration::ZERO,
        &[
            ("100% errors", errors(1.0), 4, 6),
            ("20% errors", errors(0.2), 19, 44),
            ("10% errors", errors(0.1), 47, 133),
            ("5% errors", errors(0.05), 160, 396),
            ("2% errors", errors(0.02), 1779, 4214),
            ("20% slow", slow(0.2), 23, 59),
            ("5% slow", slow(0.05), 206, 412),
        ],
    );
}

#[test]
fn a_bad_canary_is_found_as_fast_as_published_at_1000_rps() {
    check(
        "1000 rps",
        1000.0,
        Duration::ZERO,
        &[
            ("100% errors", errors(1.0), 74, 89),
            ("20% errors", errors(0.2), 77, 99),
            ("10% errors", errors(0.1), 108, 181),
            ("5% errors", errors(0.05), 243, 473),
            ("2% errors", errors(0.02), 1972, 4594),
            ("20% slow", slow(0.2), 78, 106),
            ("5% slow", slow(0.05), 262, 464),
        ],
    );
}

#[test]
fn a_canary_that_turns_bad_late_is_found_almost_as_fast() {
    check(
        "100 rps, after 30 healthy minutes",
        100.0,
        Duration::from_mins(30),
        &[
            ("100% errors", errors(1.0), 17, 22),
            ("10% errors", errors(0.1), 126, 213),
            ("5% slow", slow(0.05), 373, 631),
        ],
    );
}

/// Runs worlds without fault of the canary's and counts how many it was rolled back in.
fn blamed(test: &str, runs: usize, mut world: impl FnMut(&mut fastrand::Rng) -> Rollout) -> usize {
    let mut chance = chance(test);
    let worlds: Vec<_> = (0..runs).map(|_| world(&mut chance)).collect();
    let hours: f64 = worlds.iter().map(Rollout::hours).sum();
    let blamed = worlds.iter().filter(|one| one.state.has_ended()).count();
    println!("{test}: {blamed} of {runs} rolled back in {hours:.0} hours");
    blamed
}

/// Healthy days at one rate of requests.
fn healthy(test: &str, rps: f64, days: usize) -> usize {
    blamed(test, days, |chance| {
        let mut rollout = Rollout::start();
        rollout.run(chance, rps, HEALTHY, Duration::from_hours(24));
        rollout
    })
}

#[test]
fn a_healthy_canary_is_never_blamed_at_100_rps() {
    assert_eq!(healthy("healthy at 100 rps", 100.0, 20), 0);
}

#[test]
fn a_healthy_canary_is_never_blamed_at_other_rates() {
    assert_eq!(healthy("healthy at 1 rps", 1.0, 10), 0);
    assert_eq!(healthy("healthy at 10 rps", 10.0, 10), 0);
    assert_eq!(healthy("healthy at 1000 rps", 1000.0, 3), 0);
}

/// The hardest null there is: exactly on both limits, beside a stable that is far better.
/// At most 1 % may be blamed; more than 3 of 100 at that rate is one chance in fifty.
#[test]
fn a_canary_on_its_limits_is_blamed_no_more_than_allowed() {
    let on_limit = Model { errors: 0.01, slow: 0.01 };
    let blamed = blamed("on both limits", 100, |chance| {
        let mut rollout = Rollout::start();
        rollout.run(chance, 100.0, on_limit, Duration::from_hours(1));
        rollout
    });
    assert!(blamed <= 3, "{blamed}");
}

#[test]
fn pod_resets_are_not_blamed() {
    let blamed = blamed("a pod reset every 20 minutes", 10, |chance| {
        let mut rollout = Rollout::start();
        for _ in 0..9 {
            rollout.run(chance, 100.0, HEALTHY, Duration::from_mins(20));
            if !rollout.state.has_ended() {
                rollout.close(&counts([20, 20, 0], [22, 0, 0]));
            }
        }
        rollout
    });
    assert_eq!(blamed, 0);
}

#[test]
fn outages_of_both_versions_are_not_blamed() {
    let down = Model { errors: 0.3, slow: 0.3 };
    let blamed = blamed("six outages of a minute", 20, |chance| {
        let mut rollout = Rollout::start();
        for _ in 0..6 {
            rollout.run(chance, 100.0, HEALTHY, Duration::from_mins(20));
            rollout.run_both(chance, 100.0, [down, down], Duration::from_mins(1));
        }
        rollout.run(chance, 100.0, HEALTHY, Duration::from_mins(20));
        rollout
    });
    assert_eq!(blamed, 0);
}

/// At low rates the evidence of an outage lasts for many minutes after its end.
#[test]
fn an_outage_of_both_that_is_over_is_not_blamed_later() {
    for rps in [1.0, 2.0, 5.0, 20.0] {
        let blamed = blamed(&format!("a minute without both at {rps} rps"), 20, |chance| {
            let mut rollout = Rollout::start();
            rollout.run(chance, rps, HEALTHY, Duration::from_mins(5));
            let down = [errors(1.0), errors(1.0)];
            rollout.run_both(chance, rps, down, Duration::from_mins(1));
            rollout.run(chance, rps, HEALTHY, Duration::from_mins(30));
            rollout
        });
        assert_eq!(blamed, 0, "{rps} rps");
    }
}

/// Both versions fail and go on failing: held with its reason, and only rolled back when it
/// has lasted, the rollout being the only thing that changed.
#[test]
fn a_shared_outage_rolls_back_only_after_it_has_lasted() {
    let mut chance = chance("shared outage");
    for (rps, share) in [(20.0, 1.0), (100.0, 0.05), (100.0, 0.3), (100.0, 1.0), (1000.0, 0.3)] {
        let mut rollout = Rollout::start();
        rollout.run(&mut chance, rps, HEALTHY, Duration::from_mins(2));
        let onset = rollout.slots;
        let down = [errors(share), errors(share)];
        rollout.run_both(&mut chance, rps, down, Duration::from_mins(4));
        let hold = rollout.state.hold().map(|hold| hold.reason);
        assert_eq!(hold, Some(HoldReason::SharedCause), "{share} at {rps} rps");
        rollout.run_both(&mut chance, rps, down, Duration::from_mins(26));
        let lasted = SLOT * (rollout.slots - onset);
        println!("{share} errors of both at {rps} rps: {} after {lasted:?}", rollout.state);
        assert!(matches!(rollout.state, State::RolledBack { .. }));
        assert!(lasted > Duration::from_mins(5), "{lasted:?}");
    }
}
