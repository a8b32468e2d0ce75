//! What a rollout was asked to do.
//!
//! Never holds what has happened so far: that is the judge's evidence and the machine's state.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::names::{BackendName, RolloutName, RuleId, Version};
use crate::rollout::judge::SLOT;
use crate::rollout::objective::{Bound, Objective, OnBreach, Signal};
use crate::rollout::step::{Step, Until};
use crate::units::Ratio;

/// The most objectives that one rollout may have.
pub const OBJECTIVES_MAX: usize = 8;

/// `false_rollback` where the config names none: 1 % over the rollout's whole life.
pub const FALSE_ROLLBACK_DEFAULT: f64 = 0.01;

/// How long a shared breach lasts before it rolls back, where the config does not say.
pub const SHARED_BREACH_DEFAULT: Duration = Duration::from_mins(5);

/// No step is left before so many canary attempts were seen in it, where the config does not say.
pub const REQUESTS_MIN: u64 = 100;

/// How long a canary that had endpoints may be without, where the config does not say.
pub const NO_ENDPOINT_DEFAULT: Duration = Duration::from_mins(1);

/// Moving one rule from stable to canary.
///
/// Without steps it keeps the rule's weights and only watches: it can roll back, never promote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// In order; empty keeps the rule's weights.
    pub steps: Vec<Step>,
    /// No step is left before so many canary attempts (of a mirror step: copies) in it.
    pub requests_min: u64,
    /// Slots are judged when they are so long. A longer slot forgives longer bursts.
    pub burst: Duration,
    /// Whether Serin sends requests of its own to both versions. What becomes of them is judged
    /// by the limits on errors, apart from what users see: it may end the rollout, and never
    /// leads it on.
    #[serde(default)]
    pub probed: bool,
    /// It is one of so many replicas at most, and judges by what it sees itself, with its part
    /// of `false_rollback`; `None` decides alone, or for all of them ([`Plan::pooled`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// What becomes of a breach that is the canary's own.
    pub on_breach: Breach,
    /// What becomes of a breach that stable shares.
    pub on_shared_breach: Deadline,
    /// What becomes of a canary that gets no traffic.
    pub on_no_traffic: Deadline,
    /// What becomes of a canary that had endpoints and has none.
    pub on_no_endpoint: Deadline,
}

/// How long a reason to hold lasts before it is an alarm, where the config says `alert`.
pub const ALERT_DEFAULT: Duration = Duration::from_mins(1);

/// What becomes of a breach that is proven to be the canary's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Breach {
    /// The canary is taken out.
    #[default]
    Rollback,
    /// The rollout stays where it is until a person decides.
    Pause,
    /// It holds and says so. Nothing is taken out: for those who only want to be told.
    Alert,
}

/// How long a reason to hold may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deadline {
    /// Rolls back when it has lasted this long.
    RollbackAfter(Duration),
    /// Holds for as long as it lasts.
    Hold,
    /// Holds, and when it has lasted this long the state says so: `holding`.
    AlertAfter(Duration),
}

/// Whether probes are judged by `objective`, too.
pub fn is_probed(objective: &Objective) -> bool {
    let is_limit = (objective.signal(), objective.bound()) == (Signal::Errors, Bound::Limit);
    is_limit && objective.on_breach() == OnBreach::Rollback
}

impl Plan {
    /// A plan without steps and with every default: it watches `canary` on `rule`.
    pub fn watching(
        name: RolloutName,
        rule: RuleId,
        (stable, canary): (BackendName, BackendName),
        version: Version,
        objectives: Vec<Objective>,
    ) -> Self {
        Self {
            name,
            rule,
            stable,
            canary,
            version,
            objectives,
            false_rollback: Self::false_rollback_default(),
            steps: Vec::new(),
            requests_min: REQUESTS_MIN,
            burst: SLOT,
            probed: false,
            replicas: None,
            on_breach: Breach::default(),
            // The rollout is the only thing that is known to have changed.
            on_shared_breach: Deadline::RollbackAfter(SHARED_BREACH_DEFAULT),
            // A quiet night is nobody's fault.
            on_no_traffic: Deadline::Hold,
            on_no_endpoint: Deadline::RollbackAfter(NO_ENDPOINT_DEFAULT),
        }
    }

    /// Where a rollout goes on that was in `step`, from 0, of `before`, another form of this
    /// plan. `None`: where and as it is, for up to there nothing has changed.
    ///
    /// Else the first step of the highest weight that is not above the one it had, so that no
    /// pause and no proof at that weight is passed over; and none that promotes at once. If
    /// there is none, the first step.
    pub fn resume_at(&self, before: &[Step], step: usize) -> Option<usize> {
        if before.is_empty() && self.steps.is_empty() {
            return (step > 0).then_some(0);
        }
        let passed = before.get(..=step);
        if passed.is_some() && passed == self.steps.get(..=step) {
            return None;
        }
        let had = before.get(step).map_or(Ratio::ZERO, |step| step.weight);
        let fits = |one: &Step| one.weight <= had && one.until != Until::AtOnce;
        let weight = self.steps.iter().rfind(|one| fits(one)).map(|one| one.weight);
        let first = self.steps.iter().position(|one| fits(one) && Some(one.weight) == weight);
        Some(first.unwrap_or(0))
    }

    /// The same plan for one of `replicas` that judge each by itself: each may be wrong for its
    /// part only.
    #[must_use]
    pub fn shared_out(self, replicas: u32) -> Self {
        let part = self.false_rollback.get() / f64::from(replicas.max(1));
        let false_rollback = Ratio::new(part).unwrap_or(self.false_rollback);
        Self { false_rollback, replicas: Some(replicas), ..self }
    }

    /// The plan of the whole fleet, by which everybody's counts are judged.
    #[must_use]
    pub fn pooled(&self) -> Self {
        let whole = self.false_rollback.get() * f64::from(self.replicas.unwrap_or(1));
        let false_rollback = Ratio::new(whole).unwrap_or(self.false_rollback);
        Self { false_rollback, replicas: None, ..self.clone() }
    }

    /// `false_rollback` where the config names none.
    pub fn false_rollback_default() -> Ratio {
        Ratio::new(FALSE_ROLLBACK_DEFAULT).unwrap_or_default()
    }

    /// The evidence at which a breach is proven: T = K/α, with K the number of objectives
    /// that may roll back, for each of them gets an equal part of the allowed error. Those that
    /// probes are judged by as well count twice.
    pub fn threshold(&self) -> f64 {
        let blaming = self.objectives.iter().filter(|one| one.on_breach() == OnBreach::Rollback);
        let probed = self.objectives.iter().filter(|one| self.probed && is_probed(one));
        // An α of zero would ask for infinite evidence; the floor asks for a million millions.
        (blaming.count() + probed.count()).max(1) as f64 / self.false_rollback.get().max(1e-12)
    }

    /// By what probes are judged, held to the same threshold; `None` without probes.
    pub fn for_probes(&self) -> Option<Self> {
        let objectives: Vec<_> = self.objectives.iter().copied().filter(is_probed).collect();
        let share = objectives.len() as f64 / self.threshold();
        let false_rollback = Ratio::new(share)?;
        let (steps, probed) = (Vec::new(), false);
        let is_judged = self.probed && !objectives.is_empty();
        is_judged.then(|| Self { false_rollback, objectives, steps, probed, ..self.clone() })
    }
}
