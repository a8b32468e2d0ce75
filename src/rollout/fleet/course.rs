//! How far a version has come, as the fleet has agreed.
//!
//! Never decides that it goes on: the holder of the lease does, on everybody's counts, or a
//! person.

use std::cmp::{Ordering, Reverse};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::rollout::machine::{Effect, Pause, State};
use crate::rollout::plan::Plan;
use crate::rollout::step::{Step, Until};
use crate::units::{Ratio, Tick};

/// Where a version stands in its plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// From 0; 0 without steps.
    pub step: usize,
    /// The canary's share in that step; another form of the plan finds its own step by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Ratio>,
    /// What stopped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// Every step was left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub promoted: bool,
}

/// A position that was written down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// Rises with each change, within an era.
    pub turn: u64,
    /// Where it stands.
    pub at: Position,
    /// The replica that wrote it.
    pub by: String,
    /// When, RFC 3339.
    pub since: String,
}

impl Position {
    /// That of a rollout that runs or is promoted; `None` of one that is out.
    pub fn of(plan: &Plan, state: &State) -> Option<Self> {
        match state {
            State::Progressing { step, pause, .. } => Some(Self {
                step: *step,
                share: plan.steps.get(*step).map(|step| step.weight),
                pause: pause.clone(),
                promoted: false,
            }),
            State::Promoted { .. } => {
                let step = plan.steps.len().saturating_sub(1);
                Some(Self { step, share: None, pause: None, promoted: true })
            }
            State::RolledBack { .. } | State::Aborted { .. } => None,
        }
    }

    /// Where everybody begins.
    pub fn start(plan: &Plan) -> Self {
        Self::of(plan, &plan.start(Tick::ZERO)).unwrap_or_default()
    }

    /// The step of `steps` that is meant. Of another form of the plan it is one that gives the
    /// canary no more, and none that promotes at once.
    fn step_of(&self, steps: &[Step]) -> usize {
        let Some(share) = self.share else { return self.step.min(steps.len().saturating_sub(1)) };
        if steps.get(self.step).is_some_and(|step| step.weight == share) {
            return self.step;
        }
        let fits = |one: &&Step| one.weight <= share && one.until != Until::AtOnce;
        let weight = steps.iter().rfind(fits).map(|one| one.weight);
        steps.iter().position(|one| fits(&one) && Some(one.weight) == weight).unwrap_or(0)
    }

    /// What becomes of a running rollout that the fleet has brought here.
    pub(in crate::rollout) fn adopted(
        &self,
        plan: &Plan,
        state: State,
        now: Tick,
    ) -> (State, Option<Effect>) {
        let State::Progressing { since, step, pause, hold, known } = state else {
            return (state, None);
        };
        if self.promoted {
            return (State::Promoted { since: now }, Some(Effect::Promoted));
        }
        let to = self.step_of(&plan.steps);
        let next = self.pause.clone();
        // Whoever let it go on knew of the breach that had stopped it.
        let known = match &pause {
            Some(pause) if next.as_ref() != Some(pause) => pause.let_go(known),
            _ => known,
        };
        if to != step {
            let state = State::Progressing { since: now, step: to, pause: next, hold: None, known };
            return (state, Some(Effect::Stepped));
        }
        let effect = match (&pause, &next) {
            (before, after) if before == after => None,
            (_, Some(_)) => Some(Effect::Paused),
            (_, None) => Some(Effect::Resumed),
        };
        (State::Progressing { since, step, pause: next, hold, known }, effect)
    }

    /// Of two that were written at once, the more careful one stands.
    fn caution(&self) -> impl Ord {
        let pause = match self.pause {
            None => 0,
            Some(Pause::Step) => 1,
            Some(Pause::Operator) => 2,
            Some(Pause::Breach(_)) => 3,
        };
        (!self.promoted, Reverse(self.step), pause)
    }
}

impl fmt::Display for Position {
    /// `step 2`, `step 2, paused`, `promoted`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.promoted {
            return f.write_str("promoted");
        }
        write!(f, "step {}", self.step + 1)?;
        if self.pause.is_some() { f.write_str(", paused") } else { Ok(()) }
    }
}

impl Course {
    /// Which of two stands: the later turn.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        let story = |one: &Self| (one.since.clone(), one.by.clone(), format!("{:?}", one.at));
        self.turn
            .cmp(&other.turn)
            .then_with(|| self.at.caution().cmp(&other.at.caution()))
            .then_with(|| story(other).cmp(&story(self)))
    }
}
