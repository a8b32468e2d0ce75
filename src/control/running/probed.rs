//! What became of a rollout's probes.
//!
//! Never sends one: a worker does, and counts.

use std::sync::Arc;

use crate::control::build::leg_key;
use crate::rollout::plan::Plan;
use crate::rollout::verdict::Tally;
use crate::telemetry::counts::Leg;
use crate::telemetry::metrics::ProbeCounts;
use crate::traffic::outcome::Outcome;

/// What became of a rollout's probes.
#[derive(Debug)]
pub struct Probed {
    /// Of stable and of the canary.
    legs: [Arc<Leg>; 2],
    /// Of the canary and of stable, what was judged.
    taken: [Tally; 2],
}

impl Probed {
    /// None were sent.
    pub fn of(plan: &Plan) -> Self {
        // Apart from those of users, and nowhere among them.
        let leg = |name| Arc::new(Leg::new(leg_key(&plan.rule, name), 1));
        Self { legs: [leg(&plan.stable), leg(&plan.canary)], taken: Default::default() }
    }

    /// Where a worker counts.
    pub fn legs(&self) -> [Arc<Leg>; 2] {
        self.legs.clone()
    }

    /// What came since it was last taken, of the canary and of stable.
    pub fn news(&self) -> [Tally; 2] {
        [1, 0].map(|arm: usize| {
            let bad = count(&self.legs[arm], Outcome::Bad);
            let all = Tally { bad, total: bad + count(&self.legs[arm], Outcome::Good) };
            all.without(self.taken[1 - arm])
        })
    }

    /// `news` were judged.
    pub fn take(&mut self, news: [Tally; 2]) {
        for (taken, news) in self.taken.iter_mut().zip(news) {
            *taken += news;
        }
    }

    /// For the metrics; nothing where none are sent.
    pub fn counts(&self, plan: &Plan) -> Vec<ProbeCounts> {
        let legs = self.legs.iter().filter(|_| plan.probed);
        let each = |leg: &Arc<Leg>| {
            let outcomes = [Outcome::Good, Outcome::Bad, Outcome::Neutral];
            let counts = outcomes.map(|outcome| (outcome, count(leg, outcome)));
            ProbeCounts { backend: leg.key.backend.clone(), counts }
        };
        legs.map(each).collect()
    }
}

fn count(leg: &Leg, outcome: Outcome) -> u64 {
    leg.workers().flat_map(|worker| worker.attempts(outcome).iter()).map(|(_, count)| count).sum()
}
