//! The evidence of one running rollout: slot counts in, findings out.
//!
//! Never decides what counts as bad, and never which attempts are evidence: only those that
//! both versions could have got may be in the counts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rollout::evidence::{Evidence, Wealth, dripped};
use crate::rollout::objective::{Evidences, Objective, Standing};
use crate::rollout::plan::Plan;
use crate::rollout::verdict::{Decision, Finding, Findings, HoldReason, Tally, Verdict};
use crate::units::Tick;

/// Counts are summed for so long before they are judged.
pub const SLOT: Duration = Duration::from_millis(250);

/// No rollout goes on before so many canary attempts were seen.
pub const REQUESTS_MIN: u64 = 100;

/// No rollout goes on before it is so old.
pub const SOAK_MIN: Duration = Duration::from_mins(1);

/// After so long without a canary attempt its past says nothing about now.
pub const IDLE_MAX: Duration = Duration::from_mins(1);

/// Above this share of the canary stable is no control group any more.
const CONTROL_SHARE_MIN: f64 = 0.5;

/// What one slot brought. The order within it does not matter; counts of replicas add up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotCounts {
    /// Attempts at the canary, whatever became of them.
    pub canary_attempts: u64,
    /// Attempts at stable.
    pub stable_attempts: u64,
    /// In the order of the plan; missing ones are zeros.
    pub objectives: Vec<SlotTally>,
}

/// What one slot brought for one objective.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotTally {
    /// The canary's.
    pub canary: Tally,
    /// Stable's.
    pub stable: Tally,
    /// The bad ones that may be compared: those of the present weight, and of a sticky key at
    /// most one in a slot.
    pub relative_bad: Pair,
}

/// A count of each version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// The canary's.
    pub canary: u64,
    /// Stable's.
    pub stable: u64,
}

/// The evidence of one running rollout, from its start to its end.
///
/// All objectives of a plan are judged at the same moments and their findings are one.
#[derive(Clone, Debug, PartialEq)]
pub struct Judge {
    objectives: Vec<Judged>,
    threshold: f64,
    share: f64,
    canary_attempts: u64,
    /// Judged so far, without the times in which no process ran.
    age: Duration,
    /// The end of the last slot taken in.
    closed: Tick,
    canary_seen: Tick,
}

/// One objective with its evidence.
#[derive(Clone, Debug, PartialEq)]
struct Judged {
    objective: Objective,
    canary: Tally,
    stable: Tally,
    over_limit: Evidence,
    worse_than_stable: Evidence,
    stable_over_limit: Evidence,
}

/// A judge's evidence, to be written down so that a restart can go on with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedJudge {
    age_seconds: f64,
    canary_attempts: u64,
    objectives: Vec<SavedObjective>,
}

/// One objective of a [`SavedJudge`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SavedObjective {
    name: String,
    canary: Tally,
    stable: Tally,
    over_limit: Wealth,
    worse_than_stable: Wealth,
    stable_over_limit: Wealth,
}

impl Judge {
    /// Starts without evidence. `canary_share` is the chance with which a request goes to
    /// the canary, 0 to 1: the share of its weight in the rule.
    pub fn new(plan: &Plan, canary_share: f64, start: Tick) -> Self {
        let threshold = plan.threshold();
        let judged = |objective: &Objective| Judged::new(*objective, canary_share, threshold);
        Self {
            objectives: plan.objectives.iter().map(judged).collect(),
            threshold,
            share: canary_share,
            canary_attempts: 0,
            age: Duration::ZERO,
            closed: start,
            canary_seen: start,
        }
    }

    /// Takes in the slot that ends `now` and says how things stand.
    ///
    /// Slots without counts may be left out: the next one makes up for the time.
    pub fn close_slot(&mut self, now: Tick, counts: &SlotCounts) -> Findings {
        let age = self.age.saturating_add(now.since(self.closed));
        let drip = dripped(age) - dripped(self.age);
        self.age = age;
        self.closed = self.closed.max(now);
        if counts.canary_attempts > 0 {
            self.canary_attempts = self.canary_attempts.saturating_add(counts.canary_attempts);
            self.canary_seen = now;
        }
        for (index, judged) in self.objectives.iter_mut().enumerate() {
            let tally = counts.objectives.get(index).copied().unwrap_or_default();
            judged.take_in(drip, &tally);
        }
        self.findings(now)
    }

    /// What [`Self::close_slot`] would say of a slot that is still open. Changes nothing, so
    /// that one may look after every bad attempt.
    pub fn look(&self, now: Tick, counts: &SlotCounts) -> Findings {
        self.clone().close_slot(now, counts)
    }

    /// The canary's weight has changed. Close the open slot first, and leave attempts that
    /// were assigned before out of `relative_bad`.
    pub fn set_share(&mut self, canary_share: f64) {
        self.share = canary_share;
        for judged in &mut self.objectives {
            judged.worse_than_stable.set_null(relative_null(judged.objective, canary_share));
        }
    }

    /// The chance with which a request goes to the canary.
    pub fn share(&self) -> f64 {
        self.share
    }

    /// What to write down for [`Self::restore`].
    pub fn save(&self) -> SavedJudge {
        SavedJudge {
            age_seconds: self.age.as_secs_f64(),
            canary_attempts: self.canary_attempts,
            objectives: self.objectives.iter().map(Judged::save).collect(),
        }
    }

    /// Goes on with what was saved. `None` if it is not from a judge of this plan; then only
    /// starting afresh is left.
    pub fn restore(plan: &Plan, canary_share: f64, now: Tick, saved: &SavedJudge) -> Option<Self> {
        let mut judge = Self::new(plan, canary_share, now);
        judge.age = Duration::try_from_secs_f64(saved.age_seconds).ok()?;
        judge.canary_attempts = saved.canary_attempts;
        let same = judge.objectives.len() == saved.objectives.len();
        let mut pairs = judge.objectives.iter_mut().zip(&saved.objectives);
        (same && pairs.all(|(judged, saved)| judged.restore(saved))).then_some(judge)
    }

    /// How things stand, `now`.
    fn findings(&self, now: Tick) -> Findings {
        let control = self.share <= CONTROL_SHARE_MIN;
        let finding = |judged: &Judged| judged.finding(control, self.threshold);
        let objectives: Vec<_> = self.objectives.iter().map(finding).collect();
        Findings { decision: self.decide(now, &objectives), objectives }
    }

    /// The first line that fits, from the worst down.
    fn decide(&self, now: Tick, findings: &[Finding]) -> Decision {
        let first = |standing| findings.iter().find(|one: &&Finding| one.standing == standing);
        if let Some(blamed) = findings.iter().find(|one| one.verdict() == Verdict::Rollback) {
            return Decision::Rollback(*blamed);
        }
        let reason = if first(Standing::Shared).is_some() {
            HoldReason::SharedCause
        } else if first(Standing::Suspicious).is_some() {
            HoldReason::Suspicious
        } else if let Some(breached) = first(Standing::Breached) {
            HoldReason::Objective(breached.objective)
        } else if self.canary_attempts < REQUESTS_MIN || now.since(self.canary_seen) > IDLE_MAX {
            HoldReason::NotEnoughTraffic
        } else if self.age < SOAK_MIN {
            HoldReason::Soaking
        } else {
            HoldReason::NotProven
        };
        Decision::Hold(reason)
    }
}

impl Judged {
    fn new(objective: Objective, share: f64, threshold: f64) -> Self {
        let limit = objective.limit().get();
        Self {
            objective,
            canary: Tally::default(),
            stable: Tally::default(),
            over_limit: Evidence::new(limit, threshold),
            worse_than_stable: Evidence::new(relative_null(objective, share), threshold),
            stable_over_limit: Evidence::new(limit, threshold),
        }
    }

    fn take_in(&mut self, drip: f64, slot: &SlotTally) {
        self.canary += slot.canary;
        self.stable += slot.stable;
        self.over_limit.bet(drip, slot.canary.bad, slot.canary.good());
        self.stable_over_limit.bet(drip, slot.stable.bad, slot.stable.good());
        self.worse_than_stable.bet(drip, slot.relative_bad.canary, slot.relative_bad.stable);
    }

    fn finding(&self, control: bool, threshold: f64) -> Finding {
        let evidences = Evidences {
            over_limit: self.over_limit.value(),
            worse_than_stable: control.then(|| self.worse_than_stable.value()),
            stable_over_limit: self.stable_over_limit.value(),
        };
        Finding {
            objective: self.objective,
            canary: self.canary,
            stable: self.stable,
            over_limit: evidences.over_limit,
            worse_than_stable: evidences.worse_than_stable,
            threshold,
            standing: self.objective.judge(evidences, threshold),
        }
    }

    fn save(&self) -> SavedObjective {
        SavedObjective {
            name: self.objective.name(),
            canary: self.canary,
            stable: self.stable,
            over_limit: self.over_limit.save(),
            worse_than_stable: self.worse_than_stable.save(),
            stable_over_limit: self.stable_over_limit.save(),
        }
    }

    fn restore(&mut self, saved: &SavedObjective) -> bool {
        (self.canary, self.stable) = (saved.canary, saved.stable);
        saved.name == self.objective.name()
            && self.over_limit.restore(&saved.over_limit)
            && self.worse_than_stable.restore(&saved.worse_than_stable)
            && self.stable_over_limit.restore(&saved.stable_over_limit)
    }
}

/// The chance that a bad request was the canary's while it is exactly r times as bad as
/// stable: π·r / (π·r + 1 - π). Whatever stable's own rate is, it cancels.
fn relative_null(objective: Objective, share: f64) -> f64 {
    // A version without traffic has no bad requests; its odds only must not be 0 or infinite.
    let share = share.clamp(1e-6, 1.0 - 1e-6);
    let canary = share * objective.ratio();
    canary / (canary + 1.0 - share)
}

#[cfg(test)]
mod tests;
