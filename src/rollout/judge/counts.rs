//! What a slot brought: the counts that a judge takes in.
//!
//! Never weighed here.

use std::iter::repeat;

use serde::{Deserialize, Serialize};

use crate::rollout::verdict::Tally;

/// What one slot brought. The order within it does not matter; counts of replicas add up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotCounts {
    /// Attempts at the canary, whatever became of them.
    pub canary_attempts: u64,
    /// Attempts at stable.
    pub stable_attempts: u64,
    /// In the order of the plan; missing ones are zeros.
    pub objectives: Vec<SlotTally>,
    /// Requests that were dealt by chance under the present weight. Zero where a key decides:
    /// one user with a thousand requests is no proof of a wrong share.
    #[serde(default, skip_serializing_if = "Pair::is_zero")]
    pub dealt: Pair,
    /// Copies that the canary answered, and failed to.
    #[serde(default, skip_serializing_if = "Tally::is_zero")]
    pub copies: Tally,
    /// Of the canary's, what was assigned in an earlier step.
    #[serde(default, skip_serializing_if = "Earlier::is_zero")]
    pub earlier: Earlier,
    /// What became of Serin's own requests, of which every pair went to both: the canary's and
    /// stable's.
    #[serde(default, skip_serializing_if = "no_probes")]
    pub probes: [Tally; 2],
    /// Of the canary's, what came to replicas that fail more often than the others, where there
    /// is no stable to tell by whose trouble that is: no evidence, and yet not proven. In the
    /// order of the plan; missing ones are zeros.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apart: Vec<Tally>,
    /// Whoever judges for the fleet hears what this replica counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_led: bool,
    /// The canary has nothing that could answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub canary_missing: bool,
    /// Stable has nothing that could answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stable_missing: bool,
}

/// Attempts of the canary that were assigned in an earlier step and ended, or were told about,
/// in this one. They are evidence like all others, but of this step they prove nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    /// Attempts.
    pub attempts: u64,
    /// In the order of the plan; missing ones are zeros.
    pub objectives: Vec<Tally>,
}

fn no_probes(probes: &[Tally; 2]) -> bool {
    probes.iter().all(Tally::is_zero)
}

impl SlotCounts {
    /// Whether anybody gave a good answer, by the errors among the objectives; `None` where
    /// nobody was asked, or errors are not counted.
    pub(in crate::rollout) fn has_good(&self, errors: Option<usize>) -> Option<bool> {
        let SlotTally { canary, stable, .. } = self.objectives.get(errors?)?;
        (canary.total + stable.total > 0).then(|| canary.good() + stable.good() > 0)
    }

    /// Whether no part is more than the whole that it is of.
    pub(in crate::rollout) fn can_be(&self) -> bool {
        let earlier = self.earlier.objectives.iter().copied();
        let mut pairs = self.objectives.iter().zip(earlier.chain(repeat(Tally::default())));
        self.earlier.attempts <= self.canary_attempts
            && pairs.all(|(SlotTally { canary, stable, .. }, earlier)| {
                let is_part = earlier.bad <= canary.bad && earlier.total <= canary.total;
                is_part && [*canary, *stable, earlier].iter().all(|one| one.bad <= one.total)
            })
    }
}

impl Earlier {
    fn is_zero(&self) -> bool {
        self.attempts == 0 && self.objectives.iter().all(Tally::is_zero)
    }
}

/// What one slot brought for one objective.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotTally {
    /// The canary's.
    pub canary: Tally,
    /// Stable's.
    pub stable: Tally,
    /// The bad ones that may be compared: those of the present weight, and of a sticky key at
    /// most one in a slot.
    pub relative_bad: Pair,
}

/// A count of each version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The canary's.
    pub canary: u64,
    /// Stable's.
    pub stable: u64,
}

impl Pair {
    fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}
