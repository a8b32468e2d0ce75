//! The evidence of one running rollout: slot counts in, findings out.
//!
//! Never decides what counts as bad, and never which attempts are evidence: only those that
//! both versions could have got may be in the counts.

mod counts;
mod saved;

use std::time::Duration;

use crate::rollout::evidence::{Evidence, dripped};
use crate::rollout::interval::Interval;
pub use crate::rollout::judge::counts::{Earlier, Pair, SlotCounts, SlotTally};
pub use crate::rollout::judge::saved::SavedJudge;
use crate::rollout::objective::{Bound, Evidences, Objective, SHARED_MIN, Signal, Standing};
use crate::rollout::plan::Plan;
use crate::rollout::step::{SOAK_MIN, Until};
use crate::rollout::verdict::{Decision, Finding, Findings, HoldReason, Proof, Tally, Verdict};
use crate::units::Tick;

/// Counts are summed for so long before they are judged.
pub const SLOT: Duration = Duration::from_millis(250);

/// A limit is kept when the upper end of the interval is within so many times of it. At 1 no
/// canary that is just good enough could ever be told from one that is not.
const PROVEN_MARGIN: f64 = 1.5;

/// The evidence from which the canary's share is not what it should be.
const MISMATCH_MIN: f64 = 1000.0;

/// After so long without a canary attempt its past says nothing about now.
pub const IDLE_MAX: Duration = Duration::from_mins(1);

/// Above this share of the canary stable is no control group any more.
const CONTROL_SHARE_MIN: f64 = 0.5;

/// The evidence of one running rollout, from its start to its end.
///
/// All objectives of a plan are judged at the same moments and their findings are one.
#[derive(Clone, Debug, PartialEq)]
pub struct Judge {
    objectives: Vec<Judged>,
    threshold: f64,
    share: f64,
    /// That the canary gets more, and less, than its share.
    mismatch: [Evidence; 2],
    step: Watch,
    /// Judged so far, without the times in which no process ran: the judge's own clock, by
    /// which it remembers moments, for ticks begin anew with each process.
    age: Duration,
    /// The end of the last slot taken in.
    closed: Tick,
    /// The age at which the canary was last seen.
    canary_seen: Duration,
    /// Nobody looked for a while before this age, so that what was seen of it is not all.
    blind: Option<Duration>,
    /// It is that of one replica of several.
    is_replica: bool,
    /// Slots in a row in which neither version gave a good answer, though they were asked.
    silent: u32,
}

/// After so many silent slots a replica cannot tell a bad version from a broken way out.
pub(super) const SILENT_MIN: u32 = 2;

/// What was seen of the present step.
#[derive(Clone, Debug, PartialEq)]
struct Watch {
    /// `None` without steps: there is nothing to go on to.
    until: Option<Until>,
    /// Whether it is the copies that count.
    copies: bool,
    requests_min: u64,
    /// Without pauses, and without times in which no process ran.
    age: Duration,
    is_paused: bool,
    /// Canary attempts, or copies.
    attempts: u64,
    /// That copies fail more often than an objective allows, and which.
    failing_copies: Option<(Objective, Evidence)>,
}

/// One objective with its evidence.
#[derive(Clone, Debug, PartialEq)]
struct Judged {
    objective: Objective,
    /// The canary's counts of the present step.
    step: Tally,
    canary: Tally,
    stable: Tally,
    over_limit: Evidence,
    worse_than_stable: Evidence,
    stable_over_limit: Evidence,
    /// The judge's age when either version was last bad; `None` is never.
    bad_seen: [Option<Duration>; 2],
}

impl Judge {
    /// Starts without evidence, in the plan's first step. `canary_share` is the chance with
    /// which a request that goes to either version goes to the canary, 0 to 1.
    pub fn new(plan: &Plan, canary_share: f64, start: Tick) -> Self {
        let threshold = plan.threshold();
        let judged = |objective: &Objective| Judged::new(*objective, canary_share, threshold);
        Self {
            objectives: plan.objectives.iter().map(judged).collect(),
            threshold,
            share: canary_share,
            mismatch: mismatch(canary_share),
            step: Watch::new(plan, 0),
            age: Duration::ZERO,
            closed: start,
            canary_seen: Duration::ZERO,
            blind: None,
            is_replica: plan.replicas.is_some(),
            silent: 0,
        }
    }

    /// Another step of the plan begins. The evidence goes on, the step's counts begin anew.
    pub fn enter(&mut self, plan: &Plan, step: usize, canary_share: f64, now: Tick) {
        self.step = Watch::new(plan, step);
        self.canary_seen = self.age.saturating_add(now.since(self.closed));
        for judged in &mut self.objectives {
            judged.step = Tally::default();
        }
        self.set_share(canary_share);
    }

    /// Stops and starts the step's clock. The evidence goes on.
    pub fn set_paused(&mut self, is_paused: bool) {
        self.step.is_paused = is_paused;
    }

    /// Takes in the slot that ends `now` and says how things stand.
    ///
    /// Slots without counts may be left out: the next one makes up for the time.
    pub fn close_slot(&mut self, now: Tick, counts: &SlotCounts) -> Findings {
        let age = self.age.saturating_add(now.since(self.closed));
        let drip = dripped(age) - dripped(self.age);
        let span = age.saturating_sub(self.age);
        if span > IDLE_MAX {
            self.blind = Some(age);
        }
        // What nobody watched was not soaked.
        let watched = if span > IDLE_MAX { Duration::ZERO } else { span };
        let seen = self.step.take_in(drip, watched, counts);
        self.age = age;
        self.closed = self.closed.max(now);
        if seen > 0 {
            self.canary_seen = age;
        }
        self.silent = match counts.has_good(self.errors()) {
            None => self.silent,
            Some(true) => 0,
            Some(false) => self.silent.saturating_add(1),
        };
        let Pair { canary, stable } = counts.dealt;
        self.mismatch[0].bet(drip, canary, stable);
        self.mismatch[1].bet(drip, stable, canary);
        for (index, judged) in self.objectives.iter_mut().enumerate() {
            let tally = counts.objectives.get(index).copied().unwrap_or_default();
            let earlier = counts.earlier.objectives.get(index).copied().unwrap_or_default();
            let apart = counts.apart.get(index).copied().unwrap_or_default();
            judged.take_in(age, drip, &tally, earlier, apart);
        }
        self.findings(counts)
    }

    /// What [`Self::close_slot`] would say of a slot that is still open. Changes nothing, so
    /// that one may look after every bad attempt.
    pub fn look(&self, now: Tick, counts: &SlotCounts) -> Findings {
        self.clone().close_slot(now, counts)
    }

    /// Another bound on how few attempts are too few.
    pub fn set_requests_min(&mut self, requests_min: u64) {
        self.step.requests_min = requests_min;
    }

    /// The canary's weight has changed. Close the open slot first, and leave attempts that
    /// were assigned before out of `relative_bad`.
    pub fn set_share(&mut self, canary_share: f64) {
        let loses_control = self.share <= CONTROL_SHARE_MIN && canary_share > CONTROL_SHARE_MIN;
        self.share = canary_share;
        self.mismatch = mismatch(canary_share);
        for judged in &mut self.objectives {
            if loses_control {
                // What stable had a part in must not blame the canary where stable is gone.
                judged.over_limit.lower_to(judged.worse_than_stable.value());
            }
            judged.worse_than_stable.set_null(relative_null(judged.objective, canary_share));
        }
    }

    /// The chance with which a request goes to the canary.
    pub fn share(&self) -> f64 {
        self.share
    }

    /// Where errors are, among the objectives.
    fn errors(&self) -> Option<usize> {
        self.objectives.iter().position(|one| one.objective.signal() == Signal::Errors)
    }

    /// How many objectives it judges.
    pub fn objectives(&self) -> usize {
        self.objectives.len()
    }

    /// How things stand.
    fn findings(&self, counts: &SlotCounts) -> Findings {
        let control = if self.share > CONTROL_SHARE_MIN && self.is_replica {
            Control::Elsewhere { is_broken: self.silent >= SILENT_MIN, is_led: counts.is_led }
        } else if self.share > CONTROL_SHARE_MIN {
            Control::None
        } else if self.is_mismatched() {
            Control::Doubtful
        } else {
            Control::Good
        };
        let finding = |judged: &Judged| judged.finding(control, self.threshold);
        let objectives: Vec<_> = self.objectives.iter().map(finding).collect();
        let mut judged = self.objectives.iter().zip(&objectives);
        let is_shared = |found: &Finding| found.standing == Standing::Shared;
        let lasts = judged.any(|(one, found)| is_shared(found) && one.both_fail(self.age));
        Findings {
            shared_lasts: lasts,
            decision: self.decide(&objectives, counts.canary_missing),
            objectives,
            stable_missing: counts.stable_missing,
            by_probes: false,
            is_led: counts.is_led,
            probes: Vec::new(),
        }
    }

    fn is_mismatched(&self) -> bool {
        let [more, less] = &self.mismatch;
        f64::midpoint(more.value(), less.value()) >= MISMATCH_MIN
    }

    /// The first line that fits, from the worst down.
    fn decide(&self, findings: &[Finding], canary_missing: bool) -> Decision {
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
        } else if let Some(objective) = self.step.breached_by_copies(self.threshold) {
            HoldReason::Objective(objective)
        } else if canary_missing {
            HoldReason::NoEndpoint
        } else if self.step.is_paused {
            HoldReason::Paused
        } else if self.blind.is_some_and(|blind| self.age.saturating_sub(blind) < IDLE_MAX) {
            HoldReason::Unknown
        } else if self.step.attempts < self.step.requests_min
            || self.age.saturating_sub(self.canary_seen) > IDLE_MAX
        {
            HoldReason::NotEnoughTraffic
        } else if self.step.age < self.step.until.map_or(SOAK_MIN, Until::at_least) {
            HoldReason::Soaking
        } else if self.is_mismatched() {
            HoldReason::RoutingMismatch
        } else {
            return self.go_on();
        };
        Decision::Hold(reason)
    }

    /// Nothing holds the rollout: does anything send it on?
    fn go_on(&self) -> Decision {
        let age = self.step.age;
        match self.step.until {
            None | Some(Until::Told | Until::AtOnce) => Decision::Hold(HoldReason::NotProven),
            Some(_) if !self.step.copies && self.is_proven() => Decision::Promote(Proof::Proven),
            Some(Until::Soaked { at_most, .. }) if age >= at_most => {
                Decision::Promote(Proof::Soaked)
            }
            Some(Until::Proven { at_most: Some(most), .. }) if age >= most => {
                Decision::Hold(HoldReason::Overdue)
            }
            Some(_) => Decision::Hold(HoldReason::NotProven),
        }
    }

    /// By the counts of this step alone, so that proof at 1 % is not proof at 50 %.
    fn is_proven(&self) -> bool {
        let mut limits = self.objectives.iter().filter(|one| one.objective.bound() == Bound::Limit);
        let within = |one: &Judged| {
            let high = Interval::of(one.step.bad, one.step.total).high.get();
            let limit = one.objective.limit().get();
            // Beyond one half, half as much again would be no bound.
            high <= (PROVEN_MARGIN * limit).min(f64::midpoint(1.0, limit))
        };
        // Nothing to keep is nothing proven.
        limits.clone().next().is_some() && limits.all(within)
    }
}

/// What stable is worth as a measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Control {
    Good,
    /// Requests are not dealt as they should be.
    Doubtful,
    /// The canary has most of the traffic.
    None,
    /// The same at one replica of several: what it sees may be its own trouble, and what it can
    /// tell that by is how stable does, or whether anybody answers it at all. Whoever is led
    /// leaves it to the one that hears the others as well.
    Elsewhere {
        is_broken: bool,
        is_led: bool,
    },
}

impl Watch {
    fn new(plan: &Plan, step: usize) -> Self {
        let until = plan.steps.get(step).map(|step| step.until);
        let copies = plan.steps.get(step).is_some_and(|step| step.mirror.is_some());
        let errors = plan
            .objectives
            .iter()
            .find(|one| one.signal() == Signal::Errors && one.bound() == Bound::Limit && copies);
        let against =
            |errors: &Objective| (*errors, Evidence::new(errors.limit().get(), plan.threshold()));
        Self {
            until,
            copies,
            requests_min: plan.requests_min,
            age: Duration::ZERO,
            is_paused: until == Some(Until::Told),
            attempts: 0,
            failing_copies: errors.map(against),
        }
    }

    /// Returns how many attempts of this step, or copies, came.
    fn take_in(&mut self, drip: f64, span: Duration, counts: &SlotCounts) -> u64 {
        if !self.is_paused {
            self.age = self.age.saturating_add(span);
        }
        if let Some((_, evidence)) = &mut self.failing_copies {
            evidence.bet(drip, counts.copies.bad, counts.copies.good());
        }
        let present = counts.canary_attempts.saturating_sub(counts.earlier.attempts);
        let seen = if self.copies { counts.copies.total } else { present };
        self.attempts = self.attempts.saturating_add(seen);
        seen
    }

    /// Nobody is hurt by a failing shadow, but nobody should be moved to it either.
    fn breached_by_copies(&self, threshold: f64) -> Option<Objective> {
        let (objective, evidence) = self.failing_copies.as_ref()?;
        (evidence.value() >= threshold).then_some(*objective)
    }
}

impl Judged {
    fn new(objective: Objective, share: f64, threshold: f64) -> Self {
        let limit = objective.limit().get();
        Self {
            objective,
            step: Tally::default(),
            canary: Tally::default(),
            stable: Tally::default(),
            over_limit: Evidence::new(limit, threshold),
            worse_than_stable: Evidence::new(relative_null(objective, share), threshold),
            stable_over_limit: Evidence::new(limit, threshold),
            bad_seen: [None; 2],
        }
    }

    /// Whether both versions were bad of late: evidence outlasts what it is evidence of.
    fn both_fail(&self, age: Duration) -> bool {
        let is_of_late = |seen: Duration| age.saturating_sub(seen) <= IDLE_MAX;
        self.bad_seen.iter().all(|seen| seen.is_some_and(is_of_late))
    }

    fn take_in(
        &mut self,
        age: Duration,
        drip: f64,
        slot: &SlotTally,
        earlier: Tally,
        apart: Tally,
    ) {
        for (seen, tally) in self.bad_seen.iter_mut().zip([slot.stable, slot.canary]) {
            if tally.bad > 0 {
                *seen = Some(age);
            }
        }
        self.step += slot.canary.without(earlier);
        self.canary += slot.canary;
        self.stable += slot.stable;
        let blaming = slot.canary.without(apart);
        self.over_limit.bet(drip, blaming.bad, blaming.good());
        self.stable_over_limit.bet(drip, slot.stable.bad, slot.stable.good());
        self.worse_than_stable.bet(drip, slot.relative_bad.canary, slot.relative_bad.stable);
    }

    fn finding(&self, control: Control, threshold: f64) -> Finding {
        let stable_over_limit = match control {
            Control::Elsewhere { is_broken: true, .. } => {
                self.stable_over_limit.value().max(SHARED_MIN)
            }
            _ => self.stable_over_limit.value(),
        };
        let worse_than_stable = match control {
            Control::Good => Some(self.worse_than_stable.value()),
            // The comparison says nothing, but a stable that fails by itself still does.
            Control::Doubtful | Control::Elsewhere { .. } if stable_over_limit >= SHARED_MIN => {
                Some(0.0)
            }
            Control::Doubtful | Control::None | Control::Elsewhere { .. } => None,
        };
        let over_limit = self.over_limit.value();
        let evidences = Evidences { over_limit, worse_than_stable, stable_over_limit };
        let is_led = matches!(control, Control::Elsewhere { is_led: true, .. });
        let standing = match self.objective.judge(evidences, threshold) {
            Standing::Breached if is_led => Standing::Suspicious,
            standing => standing,
        };
        Finding {
            objective: self.objective,
            canary: self.canary,
            stable: self.stable,
            over_limit: evidences.over_limit,
            worse_than_stable: worse_than_stable.filter(|_| control == Control::Good),
            threshold,
            standing,
        }
    }
}

/// That the canary gets more, and less, than `share` of what is dealt by chance.
fn mismatch(share: f64) -> [Evidence; 2] {
    [share, 1.0 - share].map(|null| Evidence::new(null.clamp(1e-6, 1.0 - 1e-6), MISMATCH_MIN))
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
