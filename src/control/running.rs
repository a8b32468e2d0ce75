//! One rollout of the present config: its state, its judge, and where its evidence lies.
//!
//! Never publishes or writes a file: it says what changed, the controller acts.

mod failing;
mod heard;
mod noted;
mod pace;
mod probed;
mod slot;
mod telling;
mod view;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::config::Config;
use crate::control::api::SaidView;
use crate::control::body::Body;
use crate::control::build::{Standing, is_dealt_by_chance, leg_key, shares};
use crate::control::feedback::Feedback;
use crate::control::ledger::{Entry, Remembered};
use crate::control::roster::Roster;
use crate::control::running::failing::Failing;
use crate::control::running::heard::InFleet;
use crate::control::running::pace::Pace;
use crate::control::running::probed::Probed;
use crate::control::running::telling::Telling;
use crate::rollout::fleet::End;
use crate::rollout::fleet::course::Position;
use crate::rollout::judge::{SLOT, SlotCounts};
use crate::rollout::machine::{Effect, State, Word};
use crate::rollout::objective::Signal;
use crate::rollout::plan::Plan;
use crate::rollout::release::{Release, Replanned};
use crate::rollout::verdict::Tally;
use crate::telemetry::counts::{Alarm, Arm, ArmCounts, Evidence, Leg, Measures, MirrorResult};
use crate::telemetry::registry::Registry;
use crate::traffic::warm_up::WarmUp;
use crate::units::Tick;

/// One rollout of the present config.
#[derive(Debug)]
pub struct Running {
    /// When it got where it stands, RFC 3339.
    pub since: String,
    /// The era of the fleet's latch that it is in; `None` until that was heard.
    pub era: Option<u64>,
    in_fleet: InFleet,
    release: Release,
    /// The last one is that of the present weights; older ones until nobody counts there.
    epochs: Vec<Epoch>,
    epochs_made: u64,
    /// The first epoch of the present step.
    step_epoch: u64,
    /// The end of the last slot that was judged.
    closed: Tick,
    /// Copies that the canary answered in a mirror step, and failed to.
    leg: Arc<Leg>,
    copies_taken: Tally,
    ready: Ready,
    /// How long an endpoint is young.
    warm_up: WarmUp,
    /// The canary's share by the rule's own weights, of what goes to it or to stable.
    configured: f64,
    by_chance: bool,
    /// Whether answers of a canary that is taken out are ended.
    cuts_streams: bool,
    /// Becomes true then.
    cut: Arc<AtomicBool>,
    rolled_back: Vec<(String, u64)>,
    /// The last word of a person that was followed.
    said: Option<SaidView>,
    /// What the evidence was made of.
    failing: Failing,
    feedback: Feedback,
    body: Body,
    pace: Pace,
    telling: Telling,
    probed: Probed,
}

/// Whether either version has an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ready {
    canary: bool,
    stable: bool,
    /// One of stable's is young. The latency of that one is not judged, so what is judged is
    /// not what the weights dealt: there is nothing to compare the canary's with.
    stable_is_young: bool,
}

impl Ready {
    fn of(roster: &Roster, plan: &Plan, warm_up: WarmUp, now: Tick) -> Self {
        Self {
            canary: roster.is_ready(&plan.canary),
            stable: roster.is_ready(&plan.stable),
            stable_is_young: roster.has_young(&plan.stable, warm_up, now),
        }
    }
}

/// What a reload has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconfigured {
    /// The plan, and what has to be done about that.
    Plan(Option<Effect>),
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
    /// Of the canary and of stable, since the slot before.
    probes: [Tally; 2],
}

/// Attempts assigned under the same weights.
#[derive(Debug)]
struct Epoch {
    /// Rises by one with each.
    number: u64,
    evidence: Arc<Evidence>,
    /// Counts that the judge has taken in, of stable and of the canary.
    taken: [ArmCounts; 2],
    /// Stable's latencies were taken as well.
    measured: bool,
    /// Whether slowness is compared between versions.
    compares_latency: bool,
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
        let warm_up = warm_up_of(config, plan);
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
        let telling = Telling::of(release.state());
        let mut running = Self {
            since: if is_old { since.to_owned() } else { wall.to_owned() },
            era: remembered.and_then(|entry| entry.era),
            in_fleet: InFleet::new(config.fleet.is_some() && !heard::knows(remembered)),
            release,
            epochs: Vec::new(),
            epochs_made: 0,
            step_epoch: 0,
            closed: tick,
            leg: counting.registry.leg(leg_key(&plan.rule, &plan.canary)),
            copies_taken: Tally::default(),
            ready: Ready::of(counting.roster, plan, warm_up, tick),
            warm_up,
            configured,
            by_chance: is_dealt_by_chance(config, plan),
            cuts_streams: cuts_streams(config, plan),
            cut: Arc::default(),
            // From zero, or a rate would miss the first.
            rolled_back: plan.objectives.iter().map(|one| (one.name(), 0)).collect(),
            said: remembered.and_then(|entry| entry.said.clone()),
            failing: Failing::default(),
            feedback: Feedback::default(),
            body: Body::default(),
            pace: pace_of(plan, counting),
            telling,
            probed: Probed::of(plan),
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
        self.warm_up = warm_up_of(config, plan);
        self.ready = Ready::of(counting.roster, plan, self.warm_up, tick);
        self.by_chance = is_dealt_by_chance(config, plan);
        self.cuts_streams = cuts_streams(config, plan);
        self.leg = counting.registry.leg(leg_key(&plan.rule, &plan.canary));
        self.pace = pace_of(plan, counting);
        let replanned = self.release.replan(plan, self.configured, tick);
        let changed = match replanned {
            Replanned::Same if before == (self.configured, self.ready) => return None,
            Replanned::Same => Reconfigured::Share,
            Replanned::InPlace => Reconfigured::Plan(None),
            Replanned::Moved => Reconfigured::Plan(Some(Effect::Stepped)),
            Replanned::Afresh => Reconfigured::Plan(Some(Effect::Restarted)),
        };
        if replanned == Replanned::Afresh {
            // Both are kept by the place of an objective in the plan.
            self.forget_epochs();
            wall.clone_into(&mut self.since);
        } else if replanned != Replanned::Same && self.state().has_ended() {
            // Its objectives may be others now, and nothing is judged.
            self.epochs.clear();
        }
        self.release.set_configured(self.configured);
        self.new_epoch(counting);
        if !matches!(replanned, Replanned::Same | Replanned::InPlace) {
            self.step_epoch = self.epochs_made;
        }
        Some(changed)
    }

    /// Endpoints may have come, gone, or grown up. Whether what either version gets, or what is
    /// compared of it, is another now.
    pub fn endpoints_changed(&mut self, now: Tick, counting: Counting<'_>) -> bool {
        let ready = Ready::of(counting.roster, self.plan(), self.warm_up, now);
        let changed = ready != self.ready;
        if changed {
            self.ready = ready;
            self.new_epoch(counting);
        }
        changed
    }

    /// A step has begun: from here on attempts count for it.
    pub fn new_step(&mut self, counting: Counting<'_>) {
        self.new_epoch(counting);
        self.step_epoch = self.epochs_made;
    }

    /// From here on attempts are assigned with another chance, or count afresh.
    pub fn new_epoch(&mut self, counting: Counting<'_>) {
        let body = self.body.threshold();
        let thresholds = self.plan().objectives.iter().map(|objective| match objective.signal() {
            Signal::Errors | Signal::Feedback(_) => None,
            Signal::Latency { threshold, .. } => Some(threshold),
            Signal::Body => body,
        });
        let measures = Measures {
            thresholds: thresholds.collect(),
            ids: Feedback::is_wanted(&self.plan().objectives),
            latencies: self.has_body(),
            slot: self.plan().burst,
        };
        let (alarm, workers) = (Arc::clone(counting.alarm), counting.registry.workers());
        let evidence = Arc::new(Evidence::new(measures, alarm, workers));
        self.copies_taken = self.copies();
        self.epochs_made += 1;
        let number = self.epochs_made;
        self.epochs.push(Epoch {
            number,
            evidence,
            taken: Default::default(),
            measured: false,
            compares_latency: !self.ready.stable_is_young,
        });
    }

    /// Forgets attempts under way: they count for nothing that starts afresh.
    pub fn forget_epochs(&mut self) {
        self.epochs.clear();
        self.body = Body::default();
        self.failing = Failing::default();
        self.feedback = Feedback::default();
    }

    /// What a snapshot needs of it.
    pub fn standing(&self) -> Option<Standing<'_>> {
        let evidence = Arc::clone(&self.epochs.last()?.evidence);
        Some(Standing {
            plan: self.plan(),
            share: self.share(),
            copies: self.copied(),
            ended: self.state().has_ended(),
            probed: self.probed.legs(),
            cut: self.cuts_streams.then(|| Arc::clone(&self.cut)),
            evidence,
        })
    }

    fn copies(&self) -> Tally {
        let count = |result| self.leg.workers().map(|one| one.mirrored(result).get()).sum::<u64>();
        let (answered, bad) = (count(MirrorResult::Ok), count(MirrorResult::Error));
        let neutral = self.leg.workers().map(|one| one.neutral_copies.get()).sum::<u64>();
        let good = answered.saturating_sub(neutral);
        Tally { bad, total: good + bad }
    }

    fn read(&self) -> Reading {
        let epochs = self.epochs.iter().map(Epoch::news).collect();
        Reading { epochs, copies: self.copies(), probes: self.probed.news() }
    }

    /// Judges the slot that ends `now`, unless the plan's slots are longer. What it leads to is
    /// for the caller to do.
    pub fn close_slot(&mut self, now: Tick) -> Option<(SlotCounts, Option<Effect>)> {
        self.pace.read(now);
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
        self.probed.take(reading.probes);
        for (epoch, (_, taken)) in self.epochs.iter_mut().zip(reading.epochs) {
            epoch.taken = taken;
        }
        let present = self.epochs.len().saturating_sub(1);
        self.remember_answers(now);
        self.feedback.clear();
        self.note_failures();
        let mut index = 0;
        let has_body = self.has_body();
        let body = &mut self.body;
        self.epochs.retain(|epoch| {
            index += 1;
            let stays = index > present || held[index - 1];
            if !stays && has_body && !epoch.measured {
                body.keep(&epoch.evidence.latencies());
            }
            stays
        });
        if self.state().has_ended() {
            return None;
        }
        let effect = self.release.close_slot(now, &counts);
        self.failing.forget(self.release.findings());
        self.count(effect);
        Some((counts, effect))
    }

    /// Looks at the slot that is still open: gross failure need not wait for its end.
    pub fn look(&mut self, now: Tick) -> Option<(SlotCounts, Option<Effect>)> {
        if self.state().has_ended() {
            return None;
        }
        let counts = self.slot_counts(&self.read());
        let looked = self.release.look(now, &counts)?;
        self.note_failures();
        self.count(looked.effect);
        Some((counts, looked.effect))
    }

    /// The canary is out: its answers are ended, if the config says so.
    pub fn cut_streams(&mut self) {
        self.cut.store(true, Relaxed);
        // Those of another chance are not.
        self.cut = Arc::default();
    }

    /// Follows a person's word.
    pub fn told(&mut self, now: Tick, word: Word) -> Option<Effect> {
        self.release.told(now, word)
    }

    /// Follows what another replica has found.
    pub fn adopt(&mut self, now: Tick, end: &End) -> Option<Effect> {
        let effect = self.release.adopt(now, end);
        self.count(effect);
        effect
    }

    /// Follows the fleet to where it has come.
    pub fn moved(&mut self, now: Tick, to: &Position) -> Option<Effect> {
        self.release.moved(now, to)
    }

    /// Who said what was followed, and when.
    pub fn was_told(&mut self, said: SaidView) {
        self.said = Some(said);
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

    /// What the ledger is to remember `now`.
    pub fn entry(&self, now: Tick) -> Entry {
        let state = match (self.release.save(now), self.state()) {
            (Some(saved), _) => Remembered::Progressing(saved),
            (None, State::RolledBack { cause, .. }) => Remembered::RolledBack(cause.clone()),
            (None, State::Promoted { .. }) => Remembered::Promoted,
            (None, State::Aborted { .. } | State::Progressing { .. }) => Remembered::Aborted,
        };
        Entry {
            rollout: self.plan().name.to_string(),
            version: self.plan().version.to_string(),
            since: self.since.clone(),
            said: self.said.clone(),
            era: self.era,
            state,
        }
    }
}

fn cuts_streams(config: &Config, plan: &Plan) -> bool {
    config.around(&plan.name).is_some_and(|around| around.cut_streams)
}

fn warm_up_of(config: &Config, plan: &Plan) -> WarmUp {
    config.around(&plan.name).map(|around| around.warm_up).unwrap_or_default()
}

fn pace_of(plan: &Plan, counting: Counting<'_>) -> Pace {
    let leg = |name| counting.registry.leg(leg_key(&plan.rule, name));
    Pace::new([leg(&plan.stable), leg(&plan.canary)])
}
