//! Which replicas fail more often than the others, where stable is no measure.
//!
//! Above half of the traffic there is nothing beside the canary that would tell a replica's own
//! trouble from a bad version. So what the replicas that do worst have counted blames nobody:
//! a version is bad where others find it bad as well. It still counts against going on.

use std::time::Duration;

use crate::rollout::fleet::pool::Taken;
use crate::rollout::judge::SlotCounts;
use crate::rollout::verdict::Tally;
use crate::units::Tick;

/// Of so many replicas that ask the canary one may stand apart, and at least one of two.
const EACH: usize = 10;

/// Who has asked the canary within this time is one of them.
const ASKED_LASTS: Duration = Duration::from_secs(10);

/// So many bad attempts beyond what is allowed are more than chance brings: nobody goes on.
const EXCESS_MIN: f64 = 5.0;

/// More is not counted, so that what is over is forgotten with some thousand good answers.
const EXCESS_MAX: f64 = 50.0;

/// How much more often a replica's canary is bad than is allowed: sums that never get below zero,
/// in the order of the plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Excess {
    sums: Vec<f64>,
    canary_asked: Option<Tick>,
    /// When it was left out with more than chance brings.
    apart: Option<Tick>,
}

impl Excess {
    fn take_in(&mut self, slots: &[SlotCounts], limits: &[f64], now: Tick) {
        self.sums.resize(limits.len(), 0.0);
        for counts in slots {
            if counts.canary_attempts > 0 {
                self.canary_asked = Some(now);
            }
            for ((sum, limit), tally) in self.sums.iter_mut().zip(limits).zip(&counts.objectives) {
                let Tally { bad, total } = tally.canary;
                *sum = (*sum + bad as f64 - limit * total as f64).clamp(0.0, EXCESS_MAX);
            }
        }
    }

    fn of(&self, objective: usize) -> f64 {
        self.sums.get(objective).copied().unwrap_or_default()
    }

    fn asks(&self, now: Tick) -> bool {
        self.canary_asked.is_some_and(|asked| now.since(asked) <= ASKED_LASTS)
    }

    /// Whether it does worse than others of late, and by more than chance.
    pub(super) fn stands_apart(&self, now: Tick) -> bool {
        self.apart.is_some_and(|apart| now.since(apart) <= ASKED_LASTS)
    }
}

/// Marks, of what has arrived from each replica, what blames nobody. Where `is_alone` is false
/// stable stands beside the canary, and nothing is marked.
pub(super) fn mark(
    arrived: &mut [(&mut Taken, Vec<SlotCounts>)],
    limits: &[f64],
    is_alone: bool,
    now: Tick,
) {
    if !is_alone {
        for (taken, _) in arrived {
            taken.excess = Excess::default();
        }
        return;
    }
    for (taken, slots) in arrived.iter_mut() {
        taken.excess.take_in(slots, limits, now);
    }
    let asking = arrived.iter().filter(|(taken, _)| taken.excess.asks(now)).count();
    let most = (asking / EACH).max(1).min(asking.saturating_sub(1));
    for objective in 0..limits.len() {
        let of = |(taken, _): &(&mut Taken, Vec<SlotCounts>)| taken.excess.of(objective);
        let is_over = |index: &usize| of(&arrived[*index]) > 0.0;
        let mut worst: Vec<_> = (0..arrived.len()).filter(is_over).collect();
        // Of two alike the first one, so that it is the same one each time.
        worst.sort_by(|one, other| of(&arrived[*other]).total_cmp(&of(&arrived[*one])));
        for index in worst.into_iter().take(most) {
            let (taken, slots) = &mut arrived[index];
            for counts in slots.iter_mut() {
                let canary = counts.objectives.get(objective).map(|one| one.canary);
                counts.apart.resize(limits.len(), Tally::default());
                counts.apart[objective] = canary.unwrap_or_default();
            }
            let canary = slots.iter().filter_map(|one| one.objectives.get(objective));
            let is_bad = canary.map(|one| one.canary.bad).any(|bad| bad > 0);
            if is_bad && taken.excess.of(objective) >= EXCESS_MIN {
                taken.excess.apart = Some(now);
            }
        }
    }
}
