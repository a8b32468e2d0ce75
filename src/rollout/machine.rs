//! What a rollout does about a verdict or a person's word: old state, time, event to new
//! state, effect.
//!
//! Never does it itself: the effect says what is to be done. An ended rollout stays ended
//! until somebody resets it or brings a new version; no verdict brings it back.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::rollout::objective::Standing;
use crate::rollout::plan::{Plan, SharedBreach};
use crate::rollout::verdict::{Decision, Finding, Findings, HoldReason};
use crate::rollout::view::ObjectiveView;
use crate::units::{Tick, Weight, duration_text};

/// Where a rollout stands.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// The rule has its weights and the canary is judged.
    Progressing {
        /// The start.
        since: Tick,
        /// What was found at the last look; `None` before the first.
        hold: Option<Hold>,
    },
    /// The canary was taken out by the judge.
    RolledBack {
        /// The end.
        since: Tick,
        /// What for.
        cause: Cause,
    },
    /// The canary was taken out by a person.
    Aborted {
        /// The end.
        since: Tick,
    },
}

/// Why a rollout may not go on, and for how long that has been so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hold {
    /// As last found.
    pub reason: HoldReason,
    /// The first look that found it, without a break.
    pub since: Tick,
}

/// Why a rollout was rolled back, with the numbers it was decided on, kept as they were.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cause {
    /// Name of the breached objective.
    pub objective: String,
    /// The decision as a sentence.
    pub text: String,
    /// Every objective at that moment, in the order of the plan.
    pub objectives: Vec<ObjectiveView>,
}

/// What happens to a rollout.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The judge has looked.
    Judged(&'a Findings),
    /// A person takes the canary out.
    Abort,
    /// A person gives the version another chance.
    Reset,
}

/// What is to be done about it, in this order: weights first, then the ledger, then words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The canary has lost its traffic, by a verdict: publish, remember, report.
    RolledBack,
    /// The canary has lost its traffic, by a person: publish, remember, report.
    Aborted,
    /// It starts afresh: forget the evidence and the ledger's entry, publish, report.
    Restarted,
    /// Nothing changes; the person who asked is told why.
    Refused(Refusal),
}

/// Why a person's word was not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Abort after a rollback.
    #[error("the rollout has rolled back already: its canary gets no traffic")]
    RolledBack,
    /// Reset of a rollout that runs.
    #[error("the rollout has not ended: only an ended one can be reset, abort it first")]
    Running,
}

impl State {
    /// The names of all states, as [`Self::as_str`] gives them: literal API.
    pub const NAMES: [&str; 6] =
        ["progressing", "holding", "paused", "promoted", "rolled_back", "aborted"];

    /// A rollout that starts `now`, without any evidence.
    pub const fn start(now: Tick) -> Self {
        Self::Progressing { since: now, hold: None }
    }

    /// Its name in the API. `holding` is `progressing` with something against the canary:
    /// to be young or quiet is the ordinary way of a rollout that only watches.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Progressing { hold: Some(Hold { reason, .. }), .. } if reason.is_alarm() => {
                "holding"
            }
            Self::Progressing { .. } => "progressing",
            Self::RolledBack { .. } => "rolled_back",
            Self::Aborted { .. } => "aborted",
        }
    }

    /// When it got there.
    pub const fn since(&self) -> Tick {
        match self {
            Self::Progressing { since, .. }
            | Self::RolledBack { since, .. }
            | Self::Aborted { since } => *since,
        }
    }

    /// Why it may not go on, if it runs and was looked at.
    pub const fn hold(&self) -> Option<Hold> {
        match self {
            Self::Progressing { hold, .. } => *hold,
            Self::RolledBack { .. } | Self::Aborted { .. } => None,
        }
    }

    /// Whether it has ended: nothing is judged any more.
    pub const fn has_ended(&self) -> bool {
        match self {
            Self::Progressing { .. } => false,
            Self::RolledBack { .. } | Self::Aborted { .. } => true,
        }
    }

    /// The canary's weight in this state, never above `configured`.
    pub const fn canary_weight(&self, configured: Weight) -> Weight {
        if self.has_ended() { Weight::ZERO } else { configured }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Plan {
    /// The next state, and what is to be done about it.
    pub fn advance(&self, state: State, now: Tick, event: Event<'_>) -> (State, Option<Effect>) {
        match (state, event) {
            (State::Progressing { since, hold }, Event::Judged(findings)) => {
                self.judged(since, hold, now, findings)
            }
            (State::Progressing { .. }, Event::Abort) => {
                (State::Aborted { since: now }, Some(Effect::Aborted))
            }
            (state @ State::Progressing { .. }, Event::Reset) => {
                (state, Some(Effect::Refused(Refusal::Running)))
            }
            (ended, Event::Judged(_)) => (ended, None),
            (state @ State::RolledBack { .. }, Event::Abort) => {
                (state, Some(Effect::Refused(Refusal::RolledBack)))
            }
            (state @ State::Aborted { .. }, Event::Abort) => (state, None),
            (State::RolledBack { .. } | State::Aborted { .. }, Event::Reset) => {
                (State::start(now), Some(Effect::Restarted))
            }
        }
    }

    /// A look at a running rollout. Without steps there is nothing to promote to.
    fn judged(
        &self,
        since: Tick,
        hold: Option<Hold>,
        now: Tick,
        findings: &Findings,
    ) -> (State, Option<Effect>) {
        let reason = match findings.decision {
            Decision::Rollback(blamed) => return roll_back(now, &blamed, findings, ""),
            Decision::Hold(reason) => reason,
        };
        let lasts = hold.filter(|hold| hold.reason == reason);
        let hold = lasts.unwrap_or(Hold { reason, since: now });
        // The rollout is the only thing that is known to have changed: a breach that stable
        // shares is not left alone for ever.
        if let SharedBreach::RollbackAfter(most) = self.on_shared_breach
            && let Some(shared) = findings.first(Standing::Shared)
            && reason == HoldReason::SharedCause
            && now.since(hold.since) >= most
        {
            let how = format!("shared cause for {}: ", duration_text(most));
            return roll_back(now, shared, findings, &how);
        }
        (State::Progressing { since, hold: Some(hold) }, None)
    }
}

/// The latch: the state in which the canary's weight is 0.
fn roll_back(
    now: Tick,
    blamed: &Finding,
    findings: &Findings,
    how: &str,
) -> (State, Option<Effect>) {
    let cause = Cause {
        objective: blamed.objective.name(),
        text: format!("{how}{blamed}"),
        objectives: findings.into(),
    };
    (State::RolledBack { since: now, cause }, Some(Effect::RolledBack))
}

#[cfg(test)]
mod tests;
