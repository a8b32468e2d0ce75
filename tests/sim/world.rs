//! What a simulated model does, slot by slot.

use serin::rollout::judge::{Pair, SLOT, SlotCounts, SlotTally};
use serin::rollout::verdict::Tally;

/// The canary's share of the traffic.
pub const SHARE: f64 = 0.1;

/// Bad and slow shares of one version.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Model {
    pub errors: f64,
    pub slow: f64,
}

/// 0.1 % errors and 0.5 % slow: well within 1 % and p99.
pub const HEALTHY: Model = Model { errors: 0.001, slow: 0.005 };

/// Nine parts in ten million millions are beyond it.
const TAIL: f64 = 1e-12;

/// Draws Poisson counts of one mean, from a table.
struct Poisson(Vec<f64>);

impl Poisson {
    /// `mean` below 700, or the first term underflows.
    fn new(mean: f64) -> Self {
        let (mut term, mut below) = ((-mean).exp(), 0.0);
        let mut table = Vec::new();
        for count in 1.. {
            below += term;
            table.push(below);
            term *= mean / f64::from(count);
            if f64::from(count) > mean && term < TAIL {
                break;
            }
        }
        Self(table)
    }

    fn draw(&self, chance: &mut fastrand::Rng) -> u64 {
        let draw = chance.f64();
        // Rare things mostly do not happen.
        if draw < self.0[0] {
            return 0;
        }
        self.0.partition_point(|below| *below <= draw) as u64
    }
}

/// Attempts of one version in one slot, by kind. A Poisson stream dealt into kinds is one
/// independent Poisson stream for each kind.
struct Version {
    errors: Poisson,
    slow: Poisson,
    good: Poisson,
}

impl Version {
    fn new(mean: f64, model: Model) -> Self {
        let fine = mean * (1.0 - model.errors);
        Self {
            errors: Poisson::new(mean * model.errors),
            slow: Poisson::new(fine * model.slow),
            good: Poisson::new(fine * (1.0 - model.slow)),
        }
    }

    /// All, erred, slow among the others.
    fn slot(&self, chance: &mut fastrand::Rng) -> [u64; 3] {
        let (errors, slow) = (self.errors.draw(chance), self.slow.draw(chance));
        [errors + slow + self.good.draw(chance), errors, slow]
    }
}

/// Traffic at one rate, to two versions as they are now.
pub struct Traffic {
    canary: Version,
    stable: Version,
}

impl Traffic {
    /// `rps` requests a second, to the canary and to stable.
    pub fn new(rps: f64, [canary, stable]: [Model; 2]) -> Self {
        let mean = rps * SLOT.as_secs_f64();
        Self {
            canary: Version::new(mean * SHARE, canary),
            stable: Version::new(mean * (1.0 - SHARE), stable),
        }
    }

    /// What the next slot brings.
    pub fn slot(&self, chance: &mut fastrand::Rng) -> SlotCounts {
        counts(self.canary.slot(chance), self.stable.slot(chance))
    }
}

/// A slot of these attempts: all, erred, slow among the others.
pub fn counts(canary: [u64; 3], stable: [u64; 3]) -> SlotCounts {
    let tally = |bad: fn([u64; 3]) -> Tally| {
        let (canary, stable) = (bad(canary), bad(stable));
        let relative_bad = Pair { canary: canary.bad, stable: stable.bad };
        SlotTally { canary, stable, relative_bad }
    };
    let errors = tally(|[all, errors, _]| Tally { bad: errors, total: all });
    let slow = tally(|[all, errors, slow]| Tally { bad: slow, total: all - errors });
    SlotCounts {
        canary_attempts: canary[0],
        stable_attempts: stable[0],
        objectives: vec![errors, slow],
        ..SlotCounts::default()
    }
}
