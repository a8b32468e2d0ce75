//! One rollout as a whole: its plan, its evidence and its state, moved by slots and words.
//!
//! Never asks where counts come from or what becomes of an effect: the proxy, a replay and a
//! simulation all drive the same one, and so come to the same end.

use serde::{Deserialize, Serialize};

use crate::rollout::fleet::End;
use crate::rollout::fleet::course::Position;
use crate::rollout::judge::{Judge, Pair, SavedJudge, SlotCounts, SlotTally};
use crate::rollout::machine::{Effect, Event, Pause, SavedHold, State, Word};
use crate::rollout::objective::Objective;
use crate::rollout::plan::Plan;
use crate::rollout::step::Step;
use crate::rollout::verdict::{Decision, Findings, HoldReason, Verdict};
use crate::units::{Ratio, Tick};

/// One rollout as a whole.
#[derive(Clone, Debug)]
pub struct Release {
    plan: Plan,
    state: State,
    judge: Judge,
    /// Of what became of probes, where there are some.
    probes: Option<Judge>,
    findings: Option<Findings>,
    /// The canary's share by the rule's own weights.
    configured: f64,
    /// Of what is known, what the counts of the fleet have spoken against since.
    doubted: Vec<String>,
}

/// A running rollout, to be written down so that a restart can go on with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// Those of the plan: a number alone says nothing about the steps of another one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// From 0.
    #[serde(default)]
    pub step: usize,
    /// What stopped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// Why it may not go on, and for how long that has been so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Box<SavedHold>>,
    /// Objectives whose breach a person knows of, and let it go on all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<String>,
    /// What the evidence is held to; of older files only the objectives' names are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_to: Option<HeldTo>,
    /// That of probes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<Box<SavedJudge>>,
    /// The evidence.
    #[serde(flatten)]
    pub judge: Box<SavedJudge>,
}

/// What evidence is held to. Of anything else it says nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldTo {
    objectives: Vec<Objective>,
    false_rollback: Ratio,
    #[serde(default)]
    probed: bool,
}

impl HeldTo {
    fn of(plan: &Plan) -> Self {
        let (objectives, false_rollback) = (plan.objectives.clone(), plan.false_rollback);
        Self { objectives, false_rollback, probed: plan.probed }
    }
}

/// What another form of its plan did to a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replanned {
    /// Nothing: it is the same form.
    Same,
    /// It stays where it is.
    InPlace,
    /// It goes on in another step, or begins its step anew.
    Moved,
    /// It starts without evidence.
    Afresh,
}

/// A look at an open slot has changed how a rollout stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked {
    /// What is to be done about it.
    pub effect: Option<Effect>,
}

impl Release {
    /// Starts afresh. `configured` is the canary's share by the rule's own weights, of what
    /// goes to it or to stable; it counts where the plan has no steps.
    pub fn new(plan: Plan, configured: f64, now: Tick) -> Self {
        let state = plan.start(now);
        let share = share(&plan, &state, configured);
        let judge = Judge::new(&plan, share, now);
        let probes = probe_judge(&plan, now);
        Self { plan, state, judge, probes, findings: None, configured, doubted: Vec::new() }
    }

    /// Goes on with what was saved. If that was another form of the plan, as [`Self::replan`]
    /// would have it, and `false`.
    pub fn restore(plan: Plan, configured: f64, now: Tick, saved: &Saved) -> (Self, bool) {
        let Saved { steps, step, pause, hold, known, held_to, probes, judge } = saved;
        let moved = plan.resume_at(steps, *step);
        let state = match moved {
            None => State::Progressing {
                since: now,
                step: *step,
                pause: pause.clone(),
                hold: hold.as_ref().map(|hold| hold.restore(now)),
                known: known.clone(),
            },
            // The evidence goes on, and so does what is known of it.
            Some(to) => plan.come_to(to, now, pause.clone()).knowing(known.clone()),
        };
        let place = (moved.unwrap_or(*step), share(&plan, &state, configured));
        let judge = Judge::restore(&plan, place, now, judge)
            .filter(|_| steps.is_empty() == plan.steps.is_empty())
            .filter(|_| held_to.as_ref().is_none_or(|one| *one == HeldTo::of(&plan)));
        let Some(judge) = judge else {
            return (Self::afresh(plan, configured, now, pause.clone()), false);
        };
        let probes = probes
            .as_ref()
            .and_then(|saved| Judge::restore(&plan.for_probes()?, (0, PROBE_SHARE), now, saved));
        let probes = probes.or_else(|| probe_judge(&plan, now));
        let mut release =
            Self { plan, state, judge, probes, findings: None, configured, doubted: Vec::new() };
        if moved.is_some() {
            release.enter(now);
        }
        release.judge.set_paused(release.state.pause().is_some());
        (release, moved.is_none())
    }

    /// Without evidence, but what a person or a breach has stopped stays stopped.
    fn afresh(plan: Plan, configured: f64, now: Tick, pause: Option<Pause>) -> Self {
        let state = plan.come_to(0, now, pause);
        let share = share(&plan, &state, configured);
        let mut judge = Judge::new(&plan, share, now);
        judge.set_paused(state.pause().is_some());
        let probes = probe_judge(&plan, now);
        Self { plan, state, judge, probes, findings: None, configured, doubted: Vec::new() }
    }

    /// As a rollout that has ended.
    #[must_use]
    pub fn ended(mut self, state: State) -> Self {
        self.state = state;
        self
    }

    /// What to write down of it `now`, while it runs.
    pub fn save(&self, now: Tick) -> Option<Saved> {
        Some(Saved {
            steps: self.plan.steps.clone(),
            step: self.state.step()?,
            pause: self.state.pause().cloned(),
            hold: self.state.hold().map(|hold| Box::new(hold.save(now))),
            known: self.state.known().to_vec(),
            held_to: Some(HeldTo::of(&self.plan)),
            probes: self.probes.as_ref().map(|judge| Box::new(judge.save(now))),
            judge: Box::new(self.judge.save(now)),
        })
    }

    /// What was planned.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where it stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The canary's share by the rule's own weights.
    pub fn configured(&self) -> f64 {
        self.configured
    }

    /// What the last look came to.
    pub fn findings(&self) -> Option<&Findings> {
        self.findings.as_ref()
    }

    /// The canary's share of what goes to it or to stable.
    pub fn share(&self) -> f64 {
        share(&self.plan, &self.state, self.configured)
    }

    /// Judges the slot that ends `now`.
    pub fn close_slot(&mut self, now: Tick, counts: &SlotCounts) -> Option<Effect> {
        if self.state.has_ended() {
            return None;
        }
        let findings = self.find(now, counts);
        self.judged(now, findings)
    }

    /// Judges a slot of the whole fleet. What it leads to is for the fleet to agree on: it is
    /// returned and not done, and comes back by [`Self::adopt`] or [`Self::moved`]. Nothing goes
    /// on while `is_missing`: of some replica it is not known what it sees.
    pub fn close_fleet_slot(
        &mut self,
        now: Tick,
        counts: &SlotCounts,
        is_missing: bool,
    ) -> Option<State> {
        if self.state.has_ended() {
            return None;
        }
        let mut findings = self.find(now, counts);
        let is_calm = match findings.decision {
            Decision::Promote(_) => true,
            Decision::Hold(reason) => !reason.is_alarm() && reason != HoldReason::Paused,
            Decision::Rollback(_) => false,
        };
        if is_missing && is_calm {
            findings.decision = Decision::Hold(HoldReason::ReplicasMissing);
        }
        findings.is_led = self.is_yet_to_see(&findings);
        let (state, effect) = self.plan.advance(self.state.clone(), now, Event::Judged(&findings));
        self.findings = Some(findings);
        if effect.is_some() {
            return Some(state);
        }
        self.state = state;
        None
    }

    /// Whether a breach is known that the counts of the fleet do not show yet: a replica finds one
    /// before they are fetched. That is not over, but to come.
    fn is_yet_to_see(&mut self, findings: &Findings) -> bool {
        let known = self.state.known();
        self.doubted = known
            .iter()
            .filter(|name| self.doubted.contains(name) || findings.still_doubts(name))
            .cloned()
            .collect();
        self.doubted.len() < known.len()
    }

    /// Judges slots of the whole fleet that came at once, every one of them: to go on the last
    /// one has to allow, and what is worse in any of them stands.
    pub fn close_fleet_slots(
        &mut self,
        now: Tick,
        slots: &[SlotCounts],
        is_missing: bool,
    ) -> Option<State> {
        let wishes = slots.iter().map(|counts| self.close_fleet_slot(now, counts, is_missing));
        wishes.reduce(graver)?
    }

    /// Brings what is judged of the whole fleet to where one of its replicas stands. A breach that
    /// people let it go on with is taken over where that place `is_new`: what the fleet knows of
    /// it forgets by its own counts.
    pub fn bring_up_to(&mut self, running: &Self, is_new: bool, now: Tick) -> Replanned {
        let replanned = self.replan(&running.plan.pooled(), running.configured, now);
        if (self.configured - running.configured).abs() > 1e-9 {
            self.set_configured(running.configured);
        }
        if let Some(mut at) = Position::of(&running.plan, &running.state) {
            if !is_new {
                at.known.clear();
            }
            self.moved(now, &at);
        }
        replanned
    }

    fn find(&mut self, now: Tick, counts: &SlotCounts) -> Findings {
        let mut findings = self.judge.close_slot(now, counts);
        if let Some(probes) = &mut self.probes {
            let found = probes.close_slot(now, &of_probes(probes, counts));
            // They may take the canary out, and never send it on.
            if let (Decision::Rollback(_), Decision::Hold(_) | Decision::Promote(_)) =
                (found.decision, findings.decision)
            {
                (findings.decision, findings.by_probes) = (found.decision, true);
            }
            findings.probes = found.objectives;
        }
        findings
    }

    /// Looks at a slot that is still open: gross failure need not wait for its end. Whether
    /// anything came of it, which is a proven breach and what the plan does about that. If
    /// not, it is as if nobody had looked.
    pub fn look(&mut self, now: Tick, counts: &SlotCounts) -> Option<Looked> {
        if self.state.has_ended() {
            return None;
        }
        let mut findings = self.judge.look(now, counts);
        if findings.decision.verdict() != Verdict::Rollback {
            return None;
        }
        // Those are judged when slots close.
        findings.probes = self.findings.as_ref().map(|one| one.probes.clone()).unwrap_or_default();
        let (state, effect) = self.plan.advance(self.state.clone(), now, Event::Judged(&findings));
        if effect.is_none() && state.alarm() == self.state.alarm() {
            return None;
        }
        Some(Looked { effect: self.judged(now, findings) })
    }

    fn judged(&mut self, now: Tick, findings: Findings) -> Option<Effect> {
        let effect = self.advance(now, Event::Judged(&findings));
        self.findings = Some(findings);
        effect
    }

    /// Follows a person's word, or says why not.
    pub fn told(&mut self, now: Tick, word: Word) -> Option<Effect> {
        self.advance(now, Event::Told(word))
    }

    /// Follows what another replica has found.
    pub fn adopt(&mut self, now: Tick, end: &End) -> Option<Effect> {
        self.advance(now, Event::Adopted(end))
    }

    /// Follows the fleet to where it has come.
    pub fn moved(&mut self, now: Tick, to: &Position) -> Option<Effect> {
        self.advance(now, Event::Moved(to))
    }

    fn advance(&mut self, now: Tick, event: Event<'_>) -> Option<Effect> {
        let state = std::mem::replace(&mut self.state, State::start(now));
        let (state, effect) = self.plan.advance(state, now, event);
        self.state = state;
        match effect {
            Some(Effect::Restarted) => {
                self.judge = Judge::new(&self.plan, self.share(), now);
                self.probes = probe_judge(&self.plan, now);
                self.findings = None;
            }
            Some(Effect::Stepped) => self.enter(now),
            _ => {}
        }
        self.judge.set_paused(self.state.pause().is_some());
        effect
    }

    fn enter(&mut self, now: Tick) {
        if let Some(step) = self.state.step() {
            self.judge.enter(&self.plan, step, self.share(), now);
        }
    }

    /// The rule's own weights have changed, or the canary came or went: what was assigned
    /// before may not be compared with what comes.
    pub fn set_configured(&mut self, configured: f64) {
        self.configured = configured;
        self.judge.set_share(self.share());
    }

    /// Takes another form of the same rollout over. With the same objectives the evidence
    /// stays, at a step that gives the canary no more than it has; with other ones it starts
    /// afresh. No pause ends by it, and nothing is promoted.
    pub fn replan(&mut self, plan: &Plan, configured: f64, now: Tick) -> Replanned {
        if self.plan == *plan {
            return Replanned::Same;
        }
        let before = std::mem::replace(&mut self.plan, plan.clone());
        let same = before.objectives == plan.objectives
            && before.false_rollback == plan.false_rollback
            && before.probed == plan.probed
            && before.steps.is_empty() == plan.steps.is_empty();
        let Some(step) = self.state.step() else { return Replanned::InPlace };
        let pause = self.state.pause().cloned();
        if !same {
            *self = Self::afresh(plan.clone(), configured, now, pause);
            return Replanned::Afresh;
        }
        let moved = plan.resume_at(&before.steps, step);
        if let Some(to) = moved {
            let known = self.state.known().to_vec();
            self.state = plan.come_to(to, now, pause).knowing(known);
            self.enter(now);
            self.judge.set_paused(self.state.pause().is_some());
        }
        self.judge.set_requests_min(plan.requests_min);
        if moved.is_some() { Replanned::Moved } else { Replanned::InPlace }
    }
}

/// Of what two slots of one moment lead a fleet to, the later one, or what is worse.
pub(in crate::rollout) fn graver(one: Option<State>, next: Option<State>) -> Option<State> {
    let gravity = |wish: &Option<State>| match wish {
        Some(State::RolledBack { .. } | State::Aborted { .. }) => 2,
        Some(state) if state.cause().is_some() => 1,
        Some(State::Progressing { .. } | State::Promoted { .. }) | None => 0,
    };
    if gravity(&next) < gravity(&one) { one } else { next }
}

/// Every probe goes to both versions.
const PROBE_SHARE: f64 = 0.5;

fn probe_judge(plan: &Plan, now: Tick) -> Option<Judge> {
    Some(Judge::new(&plan.for_probes()?, PROBE_SHARE, now))
}

fn of_probes(judge: &Judge, counts: &SlotCounts) -> SlotCounts {
    let [canary, stable] = counts.probes;
    let relative_bad = Pair { canary: canary.bad, stable: stable.bad };
    SlotCounts {
        canary_attempts: canary.total,
        stable_attempts: stable.total,
        objectives: vec![SlotTally { canary, stable, relative_bad }; judge.objectives()],
        ..SlotCounts::default()
    }
}

fn share(plan: &Plan, state: &State, configured: f64) -> f64 {
    plan.canary_share(state).map_or(configured, Ratio::get)
}

#[cfg(test)]
mod tests;
