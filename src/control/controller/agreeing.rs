//! What replicas of a fleet tell each other: a version is out, gets another chance, or has come
//! to another step.
//!
//! Never asks before it takes a canary out: it tells the others, and follows what they tell.

use crate::control::NotDone;
use crate::control::controller::{Controller, rfc3339};
use crate::control::fleet::{Fleet, Inbox, State as Outside, Told};
use crate::rollout::fleet::course::Position;
use crate::rollout::fleet::{End, Latch};
use crate::rollout::machine::{Effect, State, Word};
use crate::rollout::record::What;
use crate::units::Tick;

impl Controller {
    /// Joins the fleet, if the config has one. Within a runtime.
    pub(super) fn join(&mut self) -> Option<Inbox> {
        let settings = self.config.fleet.as_ref()?;
        let source = self.published.source();
        let (fleet, inbox) = Fleet::join(settings, &self.config.kubernetes, source, self.clock);
        self.fleet = Some(fleet);
        self.agree_anew();
        Some(inbox)
    }

    /// Takes in what comes from the fleet.
    pub(super) fn hear_fleet(&mut self, told: Told) {
        match told {
            Told::State(outside) => self.agree(&outside),
            Told::Pulled(pulled) => self.pulled(pulled),
        }
    }

    /// Compares every rollout with what is agreed: of those that a config brings, others may
    /// have decided already, and what this replica remembers, the others may not.
    pub(super) fn agree_anew(&mut self) {
        let Some(outside) = self.fleet.as_ref().map(Fleet::state) else { return };
        for index in 0..self.rollouts.len() {
            self.tell_fleet(index);
        }
        self.agree(&outside);
    }

    /// Tells the fleet that a version is out, if it is.
    pub(super) fn tell_fleet(&self, index: usize) {
        let Some(fleet) = &self.fleet else { return };
        let rollout = &self.rollouts[index];
        let end = match rollout.state() {
            State::RolledBack { cause, .. } => End::RolledBack(cause.clone()),
            State::Aborted { .. } => End::Aborted,
            State::Progressing { .. } | State::Promoted { .. } => return,
        };
        let of = (rollout.plan().name.as_str(), rollout.plan().version.as_str());
        // What was adopted from there is no news there.
        if fleet.known().has(of, &end) {
            return;
        }
        fleet.change(|latch| latch.raise(of, end, (&fleet.source.replica, &rollout.since)));
    }

    /// Tells the fleet to where a version has come, if that is news.
    pub(super) fn tell_fleet_of_course(&self, index: usize, effect: Effect) {
        let Some(fleet) = &self.fleet else { return };
        let moves = match effect {
            Effect::Stepped
            | Effect::Promoted
            | Effect::Paused
            | Effect::Resumed
            | Effect::Restarted => true,
            Effect::RolledBack | Effect::Aborted | Effect::Refused(_) => false,
        };
        let rollout = &self.rollouts[index];
        let (plan, known) = (rollout.plan(), fleet.known());
        let of = (plan.name.as_str(), plan.version.as_str());
        let Some(at) = Position::of(plan, rollout.state()).filter(|_| moves) else { return };
        let course = known.find(of.0, of.1).and_then(|one| one.course.as_ref());
        if at != course.map_or_else(|| Position::start(plan), |course| course.at.clone()) {
            fleet.change(|latch| latch.advance(of, at, (&fleet.source.replica, &rollout.since)));
        }
    }

    /// Tells the fleet that a version gets another chance.
    pub(super) fn tell_fleet_of_reset(&self, index: usize) {
        let Some(fleet) = &self.fleet else { return };
        let plan = self.rollouts[index].plan();
        let of = (plan.name.as_str(), plan.version.as_str());
        fleet.change(|latch| latch.reset(of, (&fleet.source.replica, &rfc3339(self.clock))));
    }

    /// Why a person's word cannot be followed here: who is cut off does not know what the others
    /// have decided, and sends nobody on.
    pub(super) fn refused_by_fleet(&self, word: Word) -> Option<NotDone> {
        let leads_on = match word {
            Word::Promote | Word::PromoteFully | Word::Resume => true,
            Word::Pause | Word::Abort | Word::Reset => false,
        };
        let is_alone = self.fleet.as_ref().is_some_and(|fleet| !fleet.is_connected());
        let why = "this replica is cut off from the Kubernetes API, so nothing goes on by its \
                   word; ask another one, or `pause` or `abort` here";
        (leads_on && is_alone).then(|| NotDone::Refused(why.to_owned()))
    }

    /// Follows what the fleet has agreed on, in the rollouts of the present config.
    fn agree(&mut self, outside: &Outside) {
        let Some(fleet) = &self.fleet else { return };
        let before = fleet.known();
        fleet.change(|latch| {
            latch.merge(&outside.latch);
        });
        let known = fleet.known();
        let now = self.now();
        for index in 0..self.rollouts.len() {
            self.agree_on(index, now, (&before, &known), outside.is_known);
        }
        self.tell();
        self.tell_if_known();
    }

    fn agree_on(
        &mut self,
        index: usize,
        now: Tick,
        (before, known): (&Latch, &Latch),
        is_known: bool,
    ) {
        let plan = self.rollouts[index].plan();
        let (name, version) = (plan.name.to_string(), plan.version.to_string());
        let start = Position::start(plan);
        let is_pooled = self.fleet.as_ref().is_some_and(|fleet| fleet.is_pooled);
        let Some(latched) = known.find(&name, &version) else {
            // Nobody has gone on: neither has this one, whatever it remembers.
            if is_known && is_pooled {
                self.follow(index, now, &start, "the fleet");
            }
            return;
        };
        let era_before = before.era((&name, &version));
        let by = format!("replica {}", latched.by);
        if era_before < latched.era && self.rollouts[index].is_out() {
            tracing::warn!(
                event = "latch_reset", rollout = %name, %version, %by,
                "the fleet gives the version another chance"
            );
            self.ledger.forget(&name.as_str().into(), &version.as_str().into());
            let effect = self.rollouts[index].told(now, Word::Reset);
            self.was_told(index, now, Word::Reset, Some(by.clone()));
            self.events.is_followed(&name);
            self.act(index, now, effect, None);
        }
        if let Some(end) = &latched.end {
            if !self.rollouts[index].state().has_ended() {
                tracing::warn!(
                    event = "latch_adopted", rollout = %name, %version, %by,
                    "another replica has taken the version out"
                );
                self.events.is_followed(&name);
                self.take_out(index, now, end, by);
            }
        } else if let Some(course) = &latched.course {
            self.follow(index, now, &course.at, &format!("replica {}", course.by));
        } else if is_known && is_pooled {
            self.follow(index, now, &start, "the fleet");
        }
    }

    /// Takes a version out that somebody else has judged.
    pub(super) fn take_out(&mut self, index: usize, now: Tick, end: &End, by: String) {
        let effect = self.rollouts[index].adopt(now, end);
        let record = self.record(index, now, What::Adopted { end: end.clone(), by });
        self.journal.write_later(record);
        self.act(index, now, effect, None);
    }

    /// Goes where the fleet has come, if it is not there.
    fn follow(&mut self, index: usize, now: Tick, to: &Position, by: &str) {
        let rollout = &mut self.rollouts[index];
        if rollout.state().has_ended() {
            return;
        }
        let Some(effect) = rollout.moved(now, to) else { return };
        let name = rollout.plan().name.to_string();
        // What the holder has proposed comes back to it.
        let own = self.fleet.as_ref().map(|fleet| format!("replica {}", fleet.source.replica));
        if self.pooling.is_none() || own.as_deref() != Some(by) {
            self.events.is_followed(&name);
        }
        let what = What::Moved { to: to.clone(), by: by.to_owned() };
        let record = self.record(index, now, what);
        self.journal.write_later(record);
        self.act(index, now, Some(effect), None);
    }
}
