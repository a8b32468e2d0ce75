//! What a canary may get: what its plan says, once there is one, and once it is known what the
//! fleet has agreed on.
//!
//! Never gives traffic to a version that may have been taken out by others.

use crate::control::ledger::{Entry, Remembered};
use crate::control::running::{Counting, Running};
use crate::rollout::step::Copies;
use crate::units::Ratio;

/// What a rollout has heard of its fleet.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFleet {
    /// What the fleet has agreed on is not known: the canary gets nothing until it is.
    is_held_back: bool,
    /// Whoever judges for the fleet hears what is counted here.
    pub(super) is_led: bool,
    /// The era and turn of the fleet's course that was followed last.
    followed: Option<(u64, u64)>,
}

impl InFleet {
    pub(super) fn new(is_held_back: bool) -> Self {
        Self { is_held_back, is_led: false, followed: None }
    }
}

/// Whether the ledger alone says how a version stands: it has heard of the fleet, or it has ended.
pub(super) fn knows(remembered: Option<&Entry>) -> bool {
    let runs = |entry: &Entry| matches!(entry.state, Remembered::Progressing(_));
    remembered.is_some_and(|entry| entry.era.is_some() || !runs(entry))
}

impl Running {
    /// Whether the canary gets nothing because the fleet was not heard of.
    pub fn is_held_back(&self) -> bool {
        self.in_fleet.is_held_back
    }

    /// Whether whoever judges for the fleet hears what is counted here. Whether it begins to: what
    /// the fleet knows of is then to be taken over again, for it may have been forgotten here.
    pub fn set_led(&mut self, is_led: bool) -> bool {
        let begins = is_led && !self.in_fleet.is_led;
        self.in_fleet.is_led = is_led;
        if begins {
            self.in_fleet.followed = None;
        }
        begins
    }

    /// The fleet's course is followed to there. Whether it was not before: what the fleet knew of
    /// then is taken over once, for a breach that is over and comes again is another one.
    pub fn follows(&mut self, era_and_turn: (u64, u64)) -> bool {
        self.in_fleet.followed.replace(era_and_turn) != Some(era_and_turn)
    }

    /// Whether the canary may get something.
    pub(super) fn has_canary(&self) -> bool {
        self.ready.canary && !self.in_fleet.is_held_back
    }

    /// `None` is by the rule's own weights.
    pub(super) fn share(&self) -> Option<Ratio> {
        if self.has_canary() || self.state().has_ended() {
            self.plan().canary_share(self.state())
        } else {
            Some(Ratio::ZERO)
        }
    }

    pub(super) fn copied(&self) -> Option<&Copies> {
        let step = self.plan().steps.get(self.state().step()?)?;
        step.mirror.as_ref().filter(|_| self.has_canary())
    }

    /// What the fleet has agreed on is known. Whether the canary was held back until now.
    pub fn is_heard(&mut self, counting: Counting<'_>) -> bool {
        let was_held_back = std::mem::take(&mut self.in_fleet.is_held_back);
        if was_held_back {
            self.new_step(counting);
        }
        was_held_back
    }
}
