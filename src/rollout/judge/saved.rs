//! A judge's evidence on its way over a restart, or over the end of a journal's file.
//!
//! Never says when to write it down.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rollout::evidence::Wealth;
use crate::rollout::judge::{Judge, Judged, Watch};
use crate::rollout::plan::Plan;
use crate::rollout::verdict::Tally;
use crate::units::Tick;

/// A judge's evidence, to be written down so that a restart can go on with it. Moments are ages
/// of the judge, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedJudge {
    age_seconds: f64,
    #[serde(default)]
    step_seconds: f64,
    #[serde(default)]
    step_attempts: u64,
    /// How long the open slot has been open.
    #[serde(default)]
    open_ms: u64,
    #[serde(default)]
    canary_seen_ms: Option<u64>,
    #[serde(default)]
    blind_ms: Option<u64>,
    #[serde(default)]
    mismatch: Option<[Wealth; 2]>,
    #[serde(default)]
    failing_copies: Option<Wealth>,
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
    #[serde(default)]
    bad_seen_ms: [Option<u64>; 2],
}

impl Judge {
    /// What to write down `now` for [`Self::restore`].
    pub fn save(&self, now: Tick) -> SavedJudge {
        let copies = self.step.failing_copies.as_ref();
        SavedJudge {
            age_seconds: self.age.as_secs_f64(),
            step_seconds: self.step.age.as_secs_f64(),
            step_attempts: self.step.attempts,
            open_ms: millis(now.since(self.closed)),
            canary_seen_ms: Some(millis(self.canary_seen)),
            blind_ms: self.blind.map(millis),
            mismatch: Some([self.mismatch[0].save(), self.mismatch[1].save()]),
            failing_copies: copies.map(|(_, evidence)| evidence.save()),
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
        // In another process the open slot is gone with its counts.
        let open = Duration::from_millis(saved.open_ms);
        judge.closed = Tick::new(now.since_start().saturating_sub(open));
        judge.canary_seen = saved.canary_seen_ms.map_or(judge.age, Duration::from_millis);
        judge.blind = saved.blind_ms.map(Duration::from_millis);
        if let Some(mismatch) = &saved.mismatch {
            let mut pairs = judge.mismatch.iter_mut().zip(mismatch);
            pairs.all(|(evidence, saved)| evidence.restore(saved)).then_some(())?;
        }
        if let (Some((_, evidence)), Some(saved)) =
            (&mut judge.step.failing_copies, &saved.failing_copies)
        {
            evidence.restore(saved).then_some(())?;
        }
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
            bad_seen_ms: self.bad_seen.map(|seen| seen.map(millis)),
        }
    }

    fn restore(&mut self, saved: &SavedObjective) -> bool {
        (self.canary, self.stable, self.step) = (saved.canary, saved.stable, saved.step);
        self.bad_seen = saved.bad_seen_ms.map(|seen| seen.map(Duration::from_millis));
        saved.name == self.objective.name()
            && self.over_limit.restore(&saved.over_limit)
            && self.worse_than_stable.restore(&saved.worse_than_stable)
            && self.stable_over_limit.restore(&saved.stable_over_limit)
    }
}

/// Moments are told in whole milliseconds.
fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
