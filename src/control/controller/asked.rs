//! What people and their programs ask of the controller.
//!
//! Never decides whether a word makes sense: the state machine does.

use crate::control::controller::Controller;
use crate::control::controller::saving::Reply;
use crate::control::feedback::{Heard, Said};
use crate::control::{Command, NotDone};
use crate::names::RolloutName;
use crate::rollout::machine::{Effect, Word};

impl Controller {
    /// Does what is asked.
    pub(super) fn obey(&mut self, command: Command) {
        // Whoever asked may have gone away; what was asked is done all the same.
        match command {
            Command::Reload(reply) => {
                let _ = reply.send(self.reload());
            }
            Command::LookAgain => self.look_again(),
            Command::Operate { rollout, word, by, reply } => {
                self.operate(&rollout, word, by, reply);
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

    fn operate(&mut self, name: &RolloutName, word: Word, by: Option<String>, reply: Reply) {
        let found = self.rollouts.iter().position(|rollout| rollout.plan().name == *name);
        let Some(index) = found else {
            let _ = reply.send(Err(NotDone::Unknown));
            return;
        };
        if word == Word::Reset && self.rollouts[index].state().has_ended() {
            self.reset_when_saved(index, by, reply);
            return;
        }
        if let Some(why) = self.refused_by_fleet(word) {
            let _ = reply.send(Err(why));
            return;
        }
        let now = self.now();
        match self.rollouts[index].told(now, word) {
            Some(Effect::Refused(refusal)) => {
                let _ = reply.send(Err(NotDone::Refused(refusal.to_string())));
            }
            None => {
                let _ = reply.send(Ok(self.rollouts[index].view(&self.config)));
            }
            effect => {
                self.was_told(index, now, word, by);
                self.act(index, now, effect, Some(reply));
                self.tell();
            }
        }
    }
}
