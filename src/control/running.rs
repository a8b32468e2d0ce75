//! One rollout of the present config: its state, its judge, and where its evidence lies.
//!
//! Never publishes or writes a file: it says what changed, the controller acts.

use std::sync::Arc;

use crate::config::Config;
use crate::control::api::{RolloutView, StepView};
use crate::control::build::{Standing, is_dealt_by_chance, leg_key, shares};
use crate::control::ledger::{Entry, Remembered};
use crate::control::roster::Roster;
use crate::rollout::judge::{Pair, SLOT, SlotCounts, SlotTally};
use crate::rollout::machine::{Effect, Pause, State, Word};
use crate::rollout::objective::Signal;
use crate::rollout::plan::Plan;
use crate::rollout::release::Release;
use crate::rollout::step::Copies;
use crate::rollout::verdict::{HoldReason, Tally, Verdict};
use crate::telemetry::counts::{Alarm, Arm, ArmCounts, Evidence, Leg, Measures, MirrorResult};
use crate::telemetry::metrics::RolloutGauges;
use crate::telemetry::registry::Registry;
use crate::units::{Ratio, Tick};

/// One rollout of the present config.
#[derive(Debug)]
pub struct Running {
    /// When it got where it stands, RFC 3339.
    pub since: String,
    release: Release,
    /// The last one is that of the present weights; older ones until nobody counts there.
    epochs: Vec<Epoch>,
    /// The end of the last slot that was judged.
    closed: Tick,
    /// Copies that the canary answered in a mirror step, and failed to.
    leg: Arc<Leg>,
    copies_taken: Tally,
    ready: Ready,
    /// The canary's share by the rule's own weights, of what goes to it or to stable.
    configured: f64,
    by_chance: bool,
    rolled_back: Vec<(String, u64)>,
}

/// Whether either version has an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ready {
    canary: bool,
    stable: bool,
}

impl Ready {
    fn of(roster: &Roster, plan: &Plan) -> Self {
        Self { canary: roster.is_ready(&plan.canary), stable: roster.is_ready(&plan.stable) }
    }
}

/// What a reload has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconfigured {
    /// The plan.
    Plan,
    /// Weights or endpoints only.
    Share,
}

/// Where attempts are counted.
#[derive(Clone, Copy, Debug)]
pub struct Counting<'a> {
    /// Rung when a canary failed an attempt.
    pub alarm: &'a Arc<Alarm>,
    /// The counters of the data plane.
    pub registry: &'a Registry,
    /// Who may get requests.
    pub roster: &'a Roster,
}

/// One reading of all counters. What is judged and what is taken as judged must be the
/// same numbers: workers go on counting between two readings.
struct Reading {
    /// Of each epoch, what is new and what it adds up to.
    epochs: Vec<([ArmCounts; 2], [ArmCounts; 2])>,
    copies: Tally,
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
        (tick, wall): (Tick, &str),
        counting: Counting<'_>,
    ) -> Self {
        let configured = shares(config, plan, None).1;
        let start = || Release::new(plan.clone(), configured, tick);
        let since = remembered.map_or(wall, |entry| &entry.since);
        let (release, is_old) = match remembered.map(|entry| &entry.state) {
            None => (start(), false),
            Some(Remembered::RolledBack(cause)) => {
                let cause = cause.clone();
                (start().ended(State::RolledBack { since: tick, cause }), true)
            }
            Some(Remembered::Aborted) => (start().ended(State::Aborted { since: tick }), true),
            Some(Remembered::Promoted) => (start().ended(State::Promoted { since: tick }), true),
            // Of other objectives the old evidence says nothing.
            Some(Remembered::Progressing(saved)) => {
                Release::restore(plan.clone(), configured, tick, saved)
            }
        };
        let mut running = Self {
            since: if is_old { since.to_owned() } else { wall.to_owned() },
            release,
            epochs: Vec::new(),
            closed: tick,
            leg: counting.registry.leg(leg_key(&plan.rule, &plan.canary)),
            copies_taken: Tally::default(),
            ready: Ready::of(counting.roster, plan),
            configured,
            by_chance: is_dealt_by_chance(config, plan),
            // From zero, or a rate would miss the first.
            rolled_back: plan.objectives.iter().map(|one| (one.name(), 0)).collect(),
        };
        running.new_epoch(counting);
        running
    }

    /// What was planned.
    pub fn plan(&self) -> &Plan {
        self.release.plan()
    }

    /// Where it stands.
    pub fn state(&self) -> &State {
        self.release.state()
    }

    /// Whether its canary was taken out for good.
    pub fn is_out(&self) -> bool {
        matches!(self.state(), State::RolledBack { .. } | State::Aborted { .. })
    }

    /// The rollout without what surrounds it.
    pub fn release(&self) -> &Release {
        &self.release
    }

    /// Takes over another config's view of the same rollout: what happened stays, but new
    /// objectives are judged afresh. What has changed, if anything.
    pub fn reconfigure(
        &mut self,
        plan: &Plan,
        config: &Config,
        (tick, wall): (Tick, &str),
        counting: Counting<'_>,
    ) -> Option<Reconfigured> {
        let before = (self.configured, self.ready);
        self.configured = shares(config, plan, None).1;
        self.ready = Ready::of(counting.roster, plan);
        self.by_chance = is_dealt_by_chance(config, plan);
        self.leg = counting.registry.leg(leg_key(&plan.rule, &plan.canary));
        let step = self.state().step();
        let replanned = self.release.replan(plan, self.configured, tick);
        if replanned {
            if self.state().step() != step {
                wall.clone_into(&mut self.since);
            }
            self.epochs.clear();
        } else if before == (self.configured, self.ready) {
            return None;
        }
        self.release.set_configured(self.configured);
        self.new_epoch(counting);
        Some(if replanned { Reconfigured::Plan } else { Reconfigured::Share })
    }

    /// Endpoints have come or gone. What either version gets may be another share now.
    pub fn endpoints_changed(&mut self, counting: Counting<'_>) {
        let ready = Ready::of(counting.roster, self.plan());
        if ready != self.ready {
            self.ready = ready;
            self.new_epoch(counting);
        }
    }

    /// From here on attempts are assigned with another chance, or count afresh.
    pub fn new_epoch(&mut self, counting: Counting<'_>) {
        let thresholds = self.plan().objectives.iter().map(|objective| match objective.signal() {
            Signal::Errors => None,
            Signal::Latency { threshold, .. } => Some(threshold),
        });
        let (alarm, workers) = (Arc::clone(counting.alarm), counting.registry.workers());
        let thresholds = thresholds.collect();
        let measures = Measures { thresholds, ..Measures::default() };
        let evidence = Evidence::new(measures, alarm, workers);
        self.copies_taken = self.copies();
        self.epochs.push(Epoch { evidence: Arc::new(evidence), taken: Default::default() });
    }

    /// Forgets attempts under way: they count for nothing that starts afresh.
    pub fn forget_epochs(&mut self) {
        self.epochs.clear();
    }

    /// What a snapshot needs of it.
    pub fn standing(&self) -> Option<Standing<'_>> {
        let evidence = Arc::clone(&self.epochs.last()?.evidence);
        Some(Standing {
            plan: self.plan(),
            share: self.share(),
            copies: self.copied(),
            ended: self.state().has_ended(),
            evidence,
        })
    }

    /// `None` is by the rule's own weights.
    fn share(&self) -> Option<Ratio> {
        if self.ready.canary || self.state().has_ended() {
            self.plan().canary_share(self.state())
        } else {
            Some(Ratio::ZERO)
        }
    }

    fn copied(&self) -> Option<&Copies> {
        let step = self.plan().steps.get(self.state().step()?)?;
        step.mirror.as_ref().filter(|_| self.ready.canary)
    }

    fn copies(&self) -> Tally {
        let count = |result| self.leg.workers().map(|one| one.mirrored(result).get()).sum::<u64>();
        let (good, bad) = (count(MirrorResult::Ok), count(MirrorResult::Error));
        Tally { bad, total: good + bad }
    }

    fn read(&self) -> Reading {
        let epochs = self.epochs.iter().map(Epoch::news).collect();
        Reading { epochs, copies: self.copies() }
    }

    /// Judges the slot that ends `now`, unless the plan's slots are longer. What it leads to is
    /// for the caller to do.
    pub fn close_slot(&mut self, now: Tick) -> Option<(SlotCounts, Option<Effect>)> {
        // A timer is never early, but the slot before may have been late.
        let due = self.closed.after(self.plan().burst.saturating_sub(SLOT / 2));
        if self.plan().burst > SLOT && now < due {
            return None;
        }
        self.closed = now;
        // Before it is read: whoever may still count there holds it.
        let is_held = |epoch: &Epoch| Arc::strong_count(&epoch.evidence) > 1;
        let held: Vec<_> = self.epochs.iter().map(is_held).collect();
        let reading = self.read();
        let counts = self.slot_counts(&reading);
        self.copies_taken = reading.copies;
        for (epoch, (_, taken)) in self.epochs.iter_mut().zip(reading.epochs) {
            epoch.taken = taken;
        }
        let present = self.epochs.len().saturating_sub(1);
        let mut index = 0;
        self.epochs.retain(|_| {
            index += 1;
            index > present || held[index - 1]
        });
        if self.state().has_ended() {
            return None;
        }
        let effect = self.release.close_slot(now, &counts);
        self.count(effect);
        Some((counts, effect))
    }

    /// Looks at the slot that is still open: gross failure need not wait for its end.
    pub fn look(&mut self, now: Tick) -> Option<(SlotCounts, Option<Effect>)> {
        if self.state().has_ended() {
            return None;
        }
        let counts = self.slot_counts(&self.read());
        let effect = self.release.look(now, &counts);
        self.count(effect);
        effect.map(|effect| (counts, Some(effect)))
    }

    /// Follows a person's word.
    pub fn told(&mut self, now: Tick, word: Word) -> Option<Effect> {
        self.release.told(now, word)
    }

    fn count(&mut self, effect: Option<Effect>) {
        let (Some(Effect::RolledBack), State::RolledBack { cause, .. }) =
            (effect, self.release.state())
        else {
            return;
        };
        let known = self.rolled_back.iter_mut().find(|(name, _)| *name == cause.objective);
        match known {
            Some((_, count)) => *count += 1,
            None => self.rolled_back.push((cause.objective.clone(), 1)),
        }
    }

    /// What has come since the last slot, of all epochs. Of older ones nothing is compared:
    /// their attempts were assigned with another chance.
    fn slot_counts(&self, reading: &Reading) -> SlotCounts {
        let mut counts = SlotCounts {
            objectives: vec![SlotTally::default(); self.plan().objectives.len()],
            canary_missing: !self.ready.canary,
            stable_missing: !self.ready.stable,
            copies: Tally {
                bad: reading.copies.bad.saturating_sub(self.copies_taken.bad),
                total: reading.copies.total.saturating_sub(self.copies_taken.total),
            },
            ..SlotCounts::default()
        };
        for (index, ([stable, canary], _)) in reading.epochs.iter().enumerate() {
            let is_present = index + 1 == self.epochs.len();
            counts.canary_attempts += canary.good + canary.bad;
            counts.stable_attempts += stable.good + stable.bad;
            if is_present && self.by_chance {
                counts.dealt = Pair { canary: canary.begun, stable: stable.begun };
            }
            for (index, objective) in self.plan().objectives.iter().enumerate() {
                let tally = &mut counts.objectives[index];
                let (of_canary, of_stable, bad) = match objective.signal() {
                    Signal::Errors => (
                        errors(canary),
                        errors(stable),
                        Pair { canary: canary.bad_once, stable: stable.bad_once },
                    ),
                    Signal::Latency { .. } => (
                        slowness(canary, index),
                        slowness(stable, index),
                        Pair { canary: canary.slow_once[index], stable: stable.slow_once[index] },
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
        let state = match (self.release.save(), self.state()) {
            (Some(saved), _) => Remembered::Progressing(saved),
            (None, State::RolledBack { cause, .. }) => Remembered::RolledBack(cause.clone()),
            (None, State::Promoted { .. }) => Remembered::Promoted,
            (None, State::Aborted { .. } | State::Progressing { .. }) => Remembered::Aborted,
        };
        Entry {
            rollout: self.plan().name.to_string(),
            version: self.plan().version.to_string(),
            since: self.since.clone(),
            state,
        }
    }

    /// As the admin API shows it.
    pub fn view(&self, config: &Config) -> RolloutView {
        let plan = self.plan();
        let last = self.release.findings();
        let judged = || last.map(Into::into).unwrap_or_default();
        let (verdict, reason, objectives) = match self.state() {
            State::Progressing { pause, .. } => {
                let reason = match pause {
                    Some(Pause::Breach(cause)) => Some(cause.text.clone()),
                    Some(Pause::Step | Pause::Operator) | None => None,
                };
                (last.map_or(Verdict::Hold, |one| one.decision.verdict()), reason, judged())
            }
            State::Promoted { .. } => {
                (Verdict::Promote, Some("every step was left".to_owned()), judged())
            }
            State::RolledBack { cause, .. } => {
                (Verdict::Rollback, Some(cause.text.clone()), cause.objectives.clone())
            }
            State::Aborted { .. } => {
                (Verdict::Rollback, Some("aborted by an operator".to_owned()), judged())
            }
        };
        RolloutView {
            name: plan.name.to_string(),
            rule: plan.rule.to_string(),
            stable: plan.stable.to_string(),
            canary: plan.canary.to_string(),
            version: plan.version.to_string(),
            state: self.state_name().to_owned(),
            step: self.step(),
            steps: plan.steps.iter().map(StepView::from).collect(),
            weight: shares(config, plan, self.share()).0,
            reason,
            since: self.since.clone(),
            verdict,
            hold_reason: self.hold_reason(),
            objectives,
        }
    }

    /// From 0; `None` without steps, and when there are none any more.
    fn step(&self) -> Option<u32> {
        let step = self.state().step().filter(|_| !self.plan().steps.is_empty())?;
        u32::try_from(step).ok()
    }

    fn hold_reason(&self) -> Option<String> {
        match self.state() {
            // Said at once: the hold is that of the last look, which may be before the pause.
            State::Progressing { pause: Some(_), hold: Some(hold), .. }
                if !hold.reason.is_alarm() && hold.reason != HoldReason::NoEndpoint =>
            {
                Some(HoldReason::Paused.to_string())
            }
            State::Progressing { hold: Some(hold), .. } => Some(hold.reason.to_string()),
            State::Progressing { .. } if !self.ready.canary => {
                Some(HoldReason::NoEndpoint.to_string())
            }
            State::Progressing { pause: Some(_), .. } => Some(HoldReason::Paused.to_string()),
            _ => None,
        }
    }

    /// `holding` as well when it is the canary's endpoints that are missing.
    pub fn state_name(&self) -> &'static str {
        match self.state() {
            State::Progressing { pause: None, .. } if !self.ready.canary => "holding",
            state => state.as_str(),
        }
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
