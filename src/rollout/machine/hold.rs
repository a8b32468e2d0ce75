//! Why a rollout may not go on, and since when.
//!
//! Never decides what becomes of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rollout::verdict::HoldReason;
use crate::units::Tick;

/// Why a rollout may not go on, and for how long that has been so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hold {
    /// As last found.
    pub reason: HoldReason,
    /// The first look of this process that found it, without a break.
    pub since: Tick,
    /// How long it had lasted before: a restart is no break.
    pub before: Duration,
    /// Whether it has been so since the rollout's first look.
    pub is_first: bool,
    /// Whether it has lasted for longer than the plan takes in silence.
    pub is_overdue: bool,
}

/// A hold on its way over a restart, or over the end of a journal's file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedHold {
    reason: HoldReason,
    lasted_ms: u64,
    is_first: bool,
    is_overdue: bool,
}

impl Hold {
    /// How long it has lasted without a break.
    pub const fn lasted(&self, now: Tick) -> Duration {
        self.before.saturating_add(now.since(self.since))
    }

    /// What to write down of it `now`.
    pub fn save(&self, now: Tick) -> SavedHold {
        let lasted_ms = u64::try_from(self.lasted(now).as_millis()).unwrap_or(u64::MAX);
        let Self { reason, is_first, is_overdue, .. } = *self;
        SavedHold { reason, lasted_ms, is_first, is_overdue }
    }
}

impl SavedHold {
    /// As if there had been no time between.
    pub const fn restore(&self, now: Tick) -> Hold {
        let Self { reason, lasted_ms, is_first, is_overdue } = *self;
        let before = Duration::from_millis(lasted_ms);
        Hold { reason, since: now, before, is_first, is_overdue }
    }
}
