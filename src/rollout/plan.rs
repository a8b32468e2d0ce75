//! What a rollout was asked to do.
//!
//! Never holds what has happened so far: that is the judge's evidence and the machine's state.

use std::time::Duration;

use crate::names::{BackendName, RolloutName, RuleId, Version};
use crate::rollout::objective::{Objective, OnBreach};
use crate::units::Ratio;

/// The most objectives that one rollout may have.
pub const OBJECTIVES_MAX: usize = 8;

/// `false_rollback` where the config names none: 1 % over the rollout's whole life.
pub const FALSE_ROLLBACK_DEFAULT: f64 = 0.01;

/// How long a shared breach lasts before it rolls back, where the config does not say.
pub const SHARED_BREACH_DEFAULT: Duration = Duration::from_mins(5);

/// Moving one rule from stable to canary.
///
/// Without steps it keeps the rule's weights and only watches: it can roll back, never promote.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What people call it, and with `version` the key under which its end is remembered.
    pub name: RolloutName,
    /// The rule whose traffic is split.
    pub rule: RuleId,
    /// The backend that is trusted.
    pub stable: BackendName,
    /// The backend that is judged.
    pub canary: BackendName,
    /// Tells this attempt from the next one with the same name.
    pub version: Version,
    /// The chance of rolling back a canary that keeps every objective, over the whole life
    /// of the rollout; above 0 and below 1.
    pub false_rollback: Ratio,
    /// One to [`OBJECTIVES_MAX`].
    pub objectives: Vec<Objective>,
    /// What becomes of a breach that stable shares.
    pub on_shared_breach: SharedBreach,
}

/// What becomes of a breach that stable shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedBreach {
    /// Rolls back when it has lasted this long: the rollout is the only thing that changed.
    RollbackAfter(Duration),
    /// Holds for as long as it lasts.
    Hold,
}

impl Default for SharedBreach {
    fn default() -> Self {
        Self::RollbackAfter(SHARED_BREACH_DEFAULT)
    }
}

impl Plan {
    /// `false_rollback` where the config names none.
    pub fn false_rollback_default() -> Ratio {
        Ratio::new(FALSE_ROLLBACK_DEFAULT).unwrap_or_default()
    }

    /// The evidence at which a breach is proven: T = K/α, with K the number of objectives
    /// that may roll back, for each of them gets an equal part of the allowed error.
    pub fn threshold(&self) -> f64 {
        let blaming = self.objectives.iter().filter(|one| one.on_breach() == OnBreach::Rollback);
        // An α of zero would ask for infinite evidence; the floor asks for a million millions.
        blaming.count().max(1) as f64 / self.false_rollback.get().max(1e-12)
    }
}
