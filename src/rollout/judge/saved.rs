//! A judge's evidence on its way over a restart.
//!
//! Never says when to write it down.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rollout::evidence::Wealth;
use crate::rollout::judge::{Judge, Judged, Watch};
use crate::rollout::plan::Plan;
use crate::rollout::verdict::Tally;
use crate::units::Tick;

/// A judge's evidence, to be written down so that a restart can go on with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedJudge {
    age_seconds: f64,
    #[serde(default)]
    step_seconds: f64,
    #[serde(default)]
    step_attempts: u64,
    objectives: Vec<SavedObjective>,
}

/// One objective of a [`SavedJudge`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SavedObjective {
    name: String,
    canary: Tally,
    stable: Tally,
    #[serde(default)]
    step: Tally,
    over_limit: Wealth,
    worse_than_stable: Wealth,
    stable_over_limit: Wealth,
}

impl Judge {
    /// What to write down for [`Self::restore`].
    pub fn save(&self) -> SavedJudge {
        SavedJudge {
            age_seconds: self.age.as_secs_f64(),
            step_seconds: self.step.age.as_secs_f64(),
            step_attempts: self.step.attempts,
            objectives: self.objectives.iter().map(Judged::save).collect(),
        }
    }

    /// Goes on with what was saved in `step`. `None` if it is not from a judge of this plan;
    /// then only starting afresh is left.
    pub fn restore(
        plan: &Plan,
        (step, canary_share): (usize, f64),
        now: Tick,
        saved: &SavedJudge,
    ) -> Option<Self> {
        let mut judge = Self::new(plan, canary_share, now);
        judge.step = Watch::new(plan, step);
        judge.step.age = Duration::try_from_secs_f64(saved.step_seconds).ok()?;
        judge.step.attempts = saved.step_attempts;
        judge.age = Duration::try_from_secs_f64(saved.age_seconds).ok()?;
        let same = judge.objectives.len() == saved.objectives.len();
        let mut pairs = judge.objectives.iter_mut().zip(&saved.objectives);
        (same && pairs.all(|(judged, saved)| judged.restore(saved))).then_some(judge)
    }
}

impl Judged {
    fn save(&self) -> SavedObjective {
        SavedObjective {
            name: self.objective.name(),
            canary: self.canary,
            stable: self.stable,
            step: self.step,
            over_limit: self.over_limit.save(),
            worse_than_stable: self.worse_than_stable.save(),
            stable_over_limit: self.stable_over_limit.save(),
        }
    }

    fn restore(&mut self, saved: &SavedObjective) -> bool {
        (self.canary, self.stable, self.step) = (saved.canary, saved.stable, saved.step);
        saved.name == self.objective.name()
            && self.over_limit.restore(&saved.over_limit)
            && self.worse_than_stable.restore(&saved.worse_than_stable)
            && self.stable_over_limit.restore(&saved.stable_over_limit)
    }
}
