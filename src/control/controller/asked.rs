//! What people and their programs ask of the controller.
//!
//! Never decides whether a word makes sense: the state machine does.

use crate::control::api::{RolloutView, SaidView};
use crate::control::controller::{Controller, rfc3339};
use crate::control::feedback::{Heard, Said};
use crate::control::{Command, NotDone};
use crate::names::RolloutName;
use crate::rollout::machine::{Effect, Word};
use crate::rollout::record::What;

impl Controller {
    /// Does what is asked.
    pub(super) fn obey(&mut self, command: Command) {
        // Whoever asked may have gone away; what was asked is done all the same.
        match command {
            Command::Reload(reply) => {
                let _ = reply.send(self.reload());
            }
            Command::Operate { rollout, word, by, reply } => {
                let _ = reply.send(self.operate(&rollout, word, by));
            }
            Command::Hear { said, reply } => {
                let _ = reply.send(said.iter().map(|one| self.hear_said(one)).collect());
            }
        }
    }

    /// An id belongs to one rollout: the first that knows it. With none, the best excuse.
    fn hear_said(&mut self, said: &Said) -> Heard {
        let now = self.now();
        let mut excuse = Heard::NoObjective;
        for rollout in &mut self.rollouts {
            match rollout.hear(said, now) {
                Heard::NoObjective => {}
                Heard::Unknown => excuse = Heard::Unknown,
                heard @ (Heard::Counted | Heard::Repeated) => return heard,
            }
        }
        excuse
    }

    fn operate(
        &mut self,
        name: &RolloutName,
        word: Word,
        by: Option<String>,
    ) -> Result<RolloutView, NotDone> {
        let found = self.rollouts.iter().position(|rollout| rollout.plan().name == *name);
        let index = found.ok_or(NotDone::Unknown)?;
        if word == Word::Reset && self.rollouts[index].state().has_ended() {
            // Out of the ledger first: what is reset must not come back with a restart.
            let plan = self.rollouts[index].plan();
            let remembered = self.ledger.find(&plan.name, &plan.version).cloned();
            self.ledger.forget(&plan.name, &plan.version);
            if let Err(error) = self.ledger.save() {
                if let Some(entry) = remembered {
                    self.ledger.remember(entry);
                }
                return Err(NotDone::Failed(error.to_string()));
            }
        }
        let now = self.now();
        let effect = self.rollouts[index].told(now, word);
        if let Some(Effect::Refused(refusal)) = effect {
            return Err(NotDone::Refused(refusal.to_string()));
        }
        if effect.is_some() {
            let at = rfc3339(self.clock);
            self.rollouts[index].was_told(SaidView { word, by: by.clone(), at });
            self.write(index, now, What::Told { word, by });
        }
        self.act(index, now, effect);
        self.tell();
        Ok(self.rollouts[index].view(&self.config))
    }
}
