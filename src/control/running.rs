//! One rollout of the present config: its state, its judge, and where its evidence lies.
//!
//! Never publishes or writes a file: it says what changed, the controller acts.

use std::sync::Arc;

use crate::config::Config;
use crate::control::api::RolloutView;
use crate::control::build::{Standing, has_endpoint, shares};
use crate::control::ledger::{Entry, Remembered};
use crate::rollout::judge::{Judge, Pair, SlotCounts, SlotTally};
use crate::rollout::machine::{Effect, Event, State};
use crate::rollout::objective::Signal;
use crate::rollout::plan::Plan;
use crate::rollout::verdict::{Decision, Findings, Tally, Verdict};
use crate::telemetry::counts::{Alarm, Arm, ArmCounts, Evidence};
use crate::telemetry::metrics::RolloutGauges;
use crate::units::Tick;

/// Why a canary without endpoints gets no traffic: literal API.
pub const NO_ENDPOINT: &str = "canary has no ready endpoint";

/// One rollout of the present config.
#[derive(Debug)]
pub struct Running {
    /// As configured.
    pub plan: Plan,
    /// Where it stands.
    pub state: State,
    /// When it got there, RFC 3339.
    pub since: String,
    judge: Judge,
    /// The last one is that of the present weights; older ones until nobody counts there.
    epochs: Vec<Epoch>,
    findings: Option<Findings>,
    /// Whether the canary's backend has an endpoint.
    canary_ready: bool,
    /// The canary's share of the rule and of the pair, when it is in.
    shares: (f64, f64),
    rolled_back: Vec<(String, u64)>,
}

/// Attempts assigned under the same weights.
#[derive(Debug)]
struct Epoch {
    evidence: Arc<Evidence>,
    /// Counts that the judge has taken in, of stable and of the canary.
    taken: [ArmCounts; 2],
}

impl Epoch {
    /// What came since it was last taken, and the counts to take it up to.
    fn news(&self) -> ([ArmCounts; 2], [ArmCounts; 2]) {
        let now = [self.evidence.sum(Arm::Stable), self.evidence.sum(Arm::Canary)];
        let news = std::array::from_fn(|arm| now[arm].since(&self.taken[arm]));
        (news, now)
    }
}

impl Running {
    /// As the ledger remembers it, or from the start.
    pub fn new(
        plan: &Plan,
        config: &Config,
        remembered: Option<&Entry>,
        now: (Tick, &str),
        (alarm, workers): (&Arc<Alarm>, usize),
    ) -> Self {
        let (tick, wall) = now;
        let shares = shares(config, plan, true);
        let mut judge = Judge::new(plan, shares.1, tick);
        let mut state = State::start(tick);
        let mut since = wall.to_owned();
        if let Some(entry) = remembered {
            since.clone_from(&entry.since);
            match &entry.state {
                Remembered::RolledBack(cause) => {
                    state = State::RolledBack { since: tick, cause: cause.clone() };
                }
                Remembered::Aborted => state = State::Aborted { since: tick },
                Remembered::Progressing(saved) => {
                    match Judge::restore(plan, shares.1, tick, saved) {
                        Some(restored) => judge = restored,
                        // Other objectives: the old evidence says nothing about them.
                        None => wall.clone_into(&mut since),
                    }
                }
            }
        }
        let mut running = Self {
            plan: plan.clone(),
            state,
            since,
            judge,
            epochs: Vec::new(),
            findings: None,
            canary_ready: has_endpoint(config, &plan.canary),
            shares,
            rolled_back: Vec::new(),
        };
        running.new_epoch(alarm, workers);
        running
    }

    /// Takes over another config's view of the same rollout: what happened stays, but new
    /// objectives are judged afresh.
    pub fn reconfigure(
        &mut self,
        plan: &Plan,
        config: &Config,
        now: (Tick, &str),
        (alarm, workers): (&Arc<Alarm>, usize),
    ) {
        let (before, was_ready) = (self.shares, self.canary_ready);
        self.shares = shares(config, plan, true);
        self.canary_ready = has_endpoint(config, &plan.canary);
        if self.plan != *plan {
            self.plan = plan.clone();
            self.judge = Judge::new(plan, self.shares.1, now.0);
            self.findings = None;
            if !self.state.has_ended() {
                self.state = State::start(now.0);
                now.1.clone_into(&mut self.since);
            }
            self.epochs.clear();
            self.new_epoch(alarm, workers);
        } else if before != self.shares || was_ready != self.canary_ready {
            self.judge.set_share(self.shares.1);
            self.new_epoch(alarm, workers);
        }
    }

    /// Starts afresh, without any evidence.
    pub fn restart(&mut self, now: (Tick, &str), (alarm, workers): (&Arc<Alarm>, usize)) {
        self.judge = Judge::new(&self.plan, self.shares.1, now.0);
        self.findings = None;
        now.1.clone_into(&mut self.since);
        self.epochs.clear();
        self.new_epoch(alarm, workers);
    }

    fn new_epoch(&mut self, alarm: &Arc<Alarm>, workers: usize) {
        let thresholds = self.plan.objectives.iter().map(|objective| match objective.signal() {
            Signal::Errors => None,
            Signal::Latency { threshold, .. } => Some(threshold),
        });
        let evidence = Evidence::new(thresholds.collect(), Arc::clone(alarm), workers);
        self.epochs.push(Epoch { evidence: Arc::new(evidence), taken: Default::default() });
    }

    /// What a snapshot needs of it.
    pub fn standing(&self) -> Option<Standing<'_>> {
        let evidence = Arc::clone(&self.epochs.last()?.evidence);
        Some(Standing { plan: &self.plan, canary_in: self.canary_in(), evidence })
    }

    fn canary_in(&self) -> bool {
        !self.state.has_ended() && self.canary_ready
    }

    /// Judges the slot that ends `now`. What it leads to is for the caller to do.
    pub fn close_slot(&mut self, now: Tick) -> Option<Effect> {
        if self.state.has_ended() {
            return None;
        }
        let counts = self.slot_counts();
        for epoch in &mut self.epochs {
            epoch.taken = epoch.news().1;
        }
        let present = self.epochs.len().saturating_sub(1);
        let mut index = 0;
        self.epochs.retain(|epoch| {
            index += 1;
            index > present || Arc::strong_count(&epoch.evidence) > 1
        });
        let findings = self.judge.close_slot(now, &counts);
        self.judged(now, findings)
    }

    /// Looks at the slot that is still open: gross failure need not wait for its end.
    pub fn look(&mut self, now: Tick) -> Option<Effect> {
        if self.state.has_ended() {
            return None;
        }
        let findings = self.judge.look(now, &self.slot_counts());
        match findings.decision {
            Decision::Rollback(_) => self.judged(now, findings),
            Decision::Hold(_) => None,
        }
    }

    fn judged(&mut self, now: Tick, findings: Findings) -> Option<Effect> {
        let effect = self.advance(now, Event::Judged(&findings));
        self.findings = Some(findings);
        effect
    }

    /// Lets the machine have an event.
    pub fn advance(&mut self, now: Tick, event: Event<'_>) -> Option<Effect> {
        let state = std::mem::replace(&mut self.state, State::start(now));
        let (state, effect) = self.plan.advance(state, now, event);
        self.state = state;
        if let (Some(Effect::RolledBack), State::RolledBack { cause, .. }) = (effect, &self.state) {
            let known = self.rolled_back.iter_mut().find(|(name, _)| *name == cause.objective);
            match known {
                Some((_, count)) => *count += 1,
                None => self.rolled_back.push((cause.objective.clone(), 1)),
            }
        }
        effect
    }

    /// What has come since the last slot, of all epochs. Of older ones nothing is compared:
    /// their attempts were assigned with another chance.
    fn slot_counts(&self) -> SlotCounts {
        let mut counts = SlotCounts {
            objectives: vec![SlotTally::default(); self.plan.objectives.len()],
            ..SlotCounts::default()
        };
        for (index, epoch) in self.epochs.iter().enumerate() {
            let ([stable, canary], _) = epoch.news();
            let is_present = index + 1 == self.epochs.len();
            counts.canary_attempts += canary.good + canary.bad;
            counts.stable_attempts += stable.good + stable.bad;
            for (index, objective) in self.plan.objectives.iter().enumerate() {
                let tally = &mut counts.objectives[index];
                let (of_canary, of_stable, bad) = match objective.signal() {
                    Signal::Errors => (
                        errors(&canary),
                        errors(&stable),
                        Pair { canary: canary.bad_once, stable: stable.bad_once },
                    ),
                    Signal::Latency { .. } => (
                        slowness(&canary, index),
                        slowness(&stable, index),
                        Pair { canary: canary.slow[index], stable: stable.slow[index] },
                    ),
                };
                tally.canary += of_canary;
                tally.stable += of_stable;
                if is_present {
                    tally.relative_bad.canary += bad.canary;
                    tally.relative_bad.stable += bad.stable;
                }
            }
        }
        counts
    }

    /// What the ledger is to remember.
    pub fn entry(&self) -> Entry {
        Entry {
            rollout: self.plan.name.to_string(),
            version: self.plan.version.to_string(),
            since: self.since.clone(),
            state: match &self.state {
                State::Progressing { .. } => Remembered::Progressing(self.judge.save()),
                State::RolledBack { cause, .. } => Remembered::RolledBack(cause.clone()),
                State::Aborted { .. } => Remembered::Aborted,
            },
        }
    }

    /// As the admin API shows it.
    pub fn view(&self) -> RolloutView {
        let last = self.findings.as_ref();
        let judged = || last.map(Into::into).unwrap_or_default();
        let (verdict, reason, objectives) = match &self.state {
            State::Progressing { .. } => {
                (last.map_or(Verdict::Hold, |one| one.decision.verdict()), None, judged())
            }
            State::RolledBack { cause, .. } => {
                (Verdict::Rollback, Some(cause.text.clone()), cause.objectives.clone())
            }
            State::Aborted { .. } => {
                (Verdict::Rollback, Some("aborted by an operator".to_owned()), judged())
            }
        };
        let hold_reason = match &self.state {
            State::Progressing { .. } if !self.canary_ready => Some(NO_ENDPOINT.to_owned()),
            state => state.hold().map(|hold| hold.reason.to_string()),
        };
        RolloutView {
            name: self.plan.name.to_string(),
            rule: self.plan.rule.to_string(),
            stable: self.plan.stable.to_string(),
            canary: self.plan.canary.to_string(),
            version: self.plan.version.to_string(),
            state: self.state_name().to_owned(),
            step: None,
            weight: self.weight(),
            reason,
            since: self.since.clone(),
            verdict,
            hold_reason,
            objectives,
        }
    }

    /// `holding` as well when it is the canary's endpoints that are missing.
    pub fn state_name(&self) -> &'static str {
        match &self.state {
            State::Progressing { .. } if !self.canary_ready => "holding",
            state => state.as_str(),
        }
    }

    /// The canary's share of the rule's requests, 0 to 1.
    fn weight(&self) -> f64 {
        if self.canary_in() { self.shares.0 } else { 0.0 }
    }

    /// For the metrics; the same numbers as in `view`.
    pub fn gauges(&self, view: &RolloutView) -> RolloutGauges {
        let evidence = view.objectives.iter();
        RolloutGauges {
            name: view.name.clone(),
            state: self.state_name(),
            weight: view.weight,
            evidence: evidence
                .map(|one| (one.name.clone(), one.over_limit, one.worse_than_stable))
                .collect(),
            rolled_back: self.rolled_back.clone(),
        }
    }
}

fn errors(counts: &ArmCounts) -> Tally {
    Tally { bad: counts.bad, total: counts.good + counts.bad }
}

fn slowness(counts: &ArmCounts, objective: usize) -> Tally {
    let slow = counts.slow[objective];
    Tally { bad: slow, total: slow + counts.fast[objective] }
}
