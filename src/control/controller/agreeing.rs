//! What replicas of a fleet tell each other: a version is out, or gets another chance.
//!
//! Never asks before it takes a canary out: it tells the others, and follows what they tell.

use tokio::sync::watch;

use crate::control::controller::{Controller, rfc3339};
use crate::control::fleet::Fleet;
use crate::rollout::fleet::{End, Latch};
use crate::rollout::machine::{State, Word};
use crate::rollout::record::What;

impl Controller {
    /// Joins the fleet, if the config has one. Within a runtime.
    pub(super) fn join(&mut self) -> Option<watch::Receiver<Latch>> {
        let settings = self.config.fleet.as_ref()?;
        let fleet = Fleet::join(settings, &self.config.kubernetes);
        let heard = fleet.heard();
        self.fleet = Some(fleet);
        self.agree_anew();
        Some(heard)
    }

    /// Compares every rollout with what is agreed: of those that a config brings, others may
    /// have decided already, and what this replica remembers, the others may not.
    pub(super) fn agree_anew(&mut self) {
        let Some(known) = self.fleet.as_ref().map(Fleet::known) else { return };
        for index in 0..self.rollouts.len() {
            self.tell_fleet(index);
        }
        self.agree(&known);
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
        fleet.change(|latch| latch.raise(of, end, (&fleet.replica, &rollout.since)));
    }

    /// Tells the fleet that a version gets another chance.
    pub(super) fn tell_fleet_of_reset(&self, index: usize) {
        let Some(fleet) = &self.fleet else { return };
        let plan = self.rollouts[index].plan();
        let of = (plan.name.as_str(), plan.version.as_str());
        fleet.change(|latch| latch.reset(of, (&fleet.replica, &rfc3339(self.clock))));
    }

    /// Follows what the fleet has agreed on, in the rollouts of the present config.
    pub(super) fn agree(&mut self, heard: &Latch) {
        let Some(fleet) = &self.fleet else { return };
        let before = fleet.known();
        fleet.change(|latch| {
            latch.merge(heard);
        });
        let known = fleet.known();
        let now = self.now();
        for index in 0..self.rollouts.len() {
            let plan = self.rollouts[index].plan();
            let (name, version) = (plan.name.to_string(), plan.version.to_string());
            let Some(latched) = known.find(&name, &version) else { continue };
            let is_later = before.find(&name, &version).is_some_and(|one| one.era < latched.era);
            let by = format!("replica {}", latched.by);
            if is_later && self.rollouts[index].is_out() {
                tracing::warn!(
                    event = "latch_reset", rollout = %name, %version, %by,
                    "the fleet gives the version another chance"
                );
                self.ledger.forget(&name.as_str().into(), &version.as_str().into());
                let effect = self.rollouts[index].told(now, Word::Reset);
                self.was_told(index, now, Word::Reset, Some(by.clone()));
                self.act(index, now, effect, None);
            }
            let Some(end) = &latched.end else { continue };
            if self.rollouts[index].state().has_ended() {
                continue;
            }
            tracing::warn!(
                event = "latch_adopted", rollout = %name, %version, %by,
                "another replica has taken the version out"
            );
            let effect = self.rollouts[index].adopt(now, end);
            let record = self.record(index, now, What::Adopted { end: end.clone(), by });
            self.journal.write_later(record);
            self.act(index, now, effect, None);
        }
        self.tell();
    }
}
