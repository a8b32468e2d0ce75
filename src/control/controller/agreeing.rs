//! What replicas of a fleet tell each other: a version is out, gets another chance, or has come
//! to another step.
//!
//! Never asks before it takes a canary out: it tells the others, and follows what they tell.

use crate::control::NotDone;
use crate::control::controller::{Controller, rfc3339};
use crate::control::fleet::{Fleet, Inbox, State as Outside, Told};
use crate::control::running::{Counting, Running};
use crate::rollout::fleet::course::Position;
use crate::rollout::fleet::due::Due;
use crate::rollout::fleet::pool::Counts;
use crate::rollout::fleet::{End, Latch, Latched};
use crate::rollout::machine::{Effect, Word};
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
        if let Some(outside) = self.fleet.as_ref().map(Fleet::state) {
            self.agree(&outside);
        }
    }

    /// Tells the fleet that a version is out, if it is.
    pub(super) fn tell_fleet(&self, index: usize) {
        let Some(fleet) = &self.fleet else { return };
        let rollout = &self.rollouts[index];
        let Some(end) = End::of(rollout.state()) else { return };
        let of = (rollout.plan().name.as_str(), rollout.plan().version.as_str());
        // What was adopted from there is no news there.
        let known = rollout.era.unwrap_or_default();
        if fleet.known().has(of, known, &end) {
            return;
        }
        fleet.change(|latch| latch.raise(of, known, end, (&fleet.source.replica, &rollout.since)));
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
    pub(super) fn tell_fleet_of_reset(&mut self, index: usize) {
        let Some(fleet) = &self.fleet else { return };
        let rollout = &mut self.rollouts[index];
        let of = (rollout.plan().name.as_str(), rollout.plan().version.as_str());
        let known = rollout.era.unwrap_or_default();
        let told = (fleet.source.replica.as_str(), rfc3339(self.clock));
        fleet.change(|latch| latch.reset(of, known, (told.0, &told.1)));
        // Where nothing was heard yet, the fleet may be in a later one.
        let era = fleet.known().era(of);
        rollout.era = rollout.era.map(|_| era);
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
        fleet.change(|latch| {
            latch.merge(&outside.latch);
        });
        let known = fleet.known();
        let now = self.now();
        let mut is_other_era = false;
        for index in 0..self.rollouts.len() {
            let before = self.rollouts[index].era;
            self.agree_on(index, now, &known, outside);
            is_other_era |= before != self.rollouts[index].era;
        }
        if is_other_era {
            self.remember_all();
            self.save();
        }
        self.tell();
        self.tell_if_known();
    }

    fn agree_on(&mut self, index: usize, now: Tick, known: &Latch, outside: &Outside) {
        let plan = self.rollouts[index].plan();
        let (name, version) = (plan.name.to_string(), plan.version.to_string());
        if !outside.is_known && outside.latch.find(&name, &version).is_none() {
            // What is known here is what this replica has said itself.
            return;
        }
        let latched = known.find(&name, &version).cloned().unwrap_or_default();
        let rollout = &mut self.rollouts[index];
        let due = latched.due(rollout.state(), rollout.era);
        rollout.era = Some(latched.era_after(due, rollout.era));
        let by = format!("replica {}", latched.by);
        match due {
            Due::Follow => {}
            Due::Raise => self.tell_fleet(index),
            Due::Reset => {
                tracing::warn!(
                    event = "latch_reset", rollout = %name, %version, %by,
                    "the fleet gives the version another chance"
                );
                self.ledger.forget(&name.as_str().into(), &version.as_str().into());
                let effect = self.rollouts[index].told(now, Word::Reset);
                self.was_told(index, now, Word::Reset, Some(by));
                self.events.is_followed(&name);
                self.act_alone(index, now, effect, None);
            }
            Due::TakeOut(end) => {
                tracing::warn!(
                    event = "latch_adopted", rollout = %name, %version, %by,
                    "another replica has taken the version out"
                );
                self.events.is_followed(&name);
                self.take_out(index, now, end, by);
            }
        }
        if latched.end.is_some() {
            return;
        }
        self.follow_course(index, now, &latched, outside.is_known);
        let counting =
            Counting { alarm: &self.alarm, registry: &self.registry, roster: &self.roster };
        if self.rollouts[index].is_heard(counting) {
            self.publish();
        }
    }

    /// Goes where the fleet has come; to the start, where nobody has gone on.
    fn follow_course(&mut self, index: usize, now: Tick, latched: &Latched, is_known: bool) {
        let start = Position::start(self.rollouts[index].plan());
        let is_pooled = self.fleet.as_ref().is_some_and(|fleet| fleet.is_pooled);
        if let Some(course) = &latched.course {
            let mut to = course.at.clone();
            if !self.rollouts[index].follows((latched.era, course.turn)) {
                to.known.clear();
            }
            self.follow(index, now, &to, &format!("replica {}", course.by));
        } else if is_known && is_pooled {
            // Nobody has gone on: neither has this one, whatever it remembers.
            self.follow(index, now, &start, "the fleet");
        }
    }

    /// A replica has told whoever asks that a version is out, for it may not have been able to
    /// write that down.
    pub(super) fn hear_of_end(&mut self, counts: &Counts, replica: &str, now: Tick) {
        let (Some(fleet), Some(end)) = (&self.fleet, &counts.end) else { return };
        let of = (counts.rollout.as_str(), counts.version.as_str());
        let is_it = |one: &Running| (one.plan().name.as_str(), one.plan().version.as_str()) == of;
        let Some(index) = self.rollouts.iter().position(is_it) else { return };
        let is_news = end.is_worse_than(self.rollouts[index].state());
        // Of another era it says nothing.
        if is_news && fleet.known().era(of) == counts.era {
            let by = format!("replica {replica}");
            tracing::warn!(
                event = "latch_adopted", rollout = of.0, version = of.1, %by,
                "another replica has taken the version out"
            );
            self.events.is_followed(of.0);
            self.take_out(index, now, end, by);
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
        let known = rollout.state().known().to_vec();
        let effect = rollout.moved(now, to);
        if effect.is_none() && known == rollout.state().known() {
            return;
        }
        let name = rollout.plan().name.to_string();
        // What the holder has proposed comes back to it.
        let own = self.fleet.as_ref().map(|fleet| format!("replica {}", fleet.source.replica));
        if effect.is_some() && (self.pooling.is_none() || own.as_deref() != Some(by)) {
            self.events.is_followed(&name);
        }
        let what = What::Moved { to: to.clone(), by: by.to_owned() };
        let record = self.record(index, now, what);
        self.journal.write_later(record);
        // Of another form of the plan it may have come elsewhere here: that is no news to others.
        self.act_alone(index, now, effect, None);
    }
}
