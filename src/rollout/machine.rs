//! What a rollout does about a verdict or a person's word: old state, time, event to new
//! state, effect.
//!
//! Never does it itself: the effect says what is to be done. A version that is out stays out
//! until somebody resets it or brings another; no verdict brings it back.

mod hold;

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rollout::fleet::End;
use crate::rollout::fleet::course::Position;
pub use crate::rollout::machine::hold::{Hold, SavedHold};
use crate::rollout::objective::Standing;
use crate::rollout::plan::{Breach, Deadline, Plan};
use crate::rollout::step::Until;
use crate::rollout::verdict::{Decision, Finding, Findings, HoldReason};
use crate::rollout::view::ObjectiveView;
use crate::units::{Ratio, Tick, duration_text};

/// Where a rollout stands.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// The canary is judged, at the weight of a step or, without steps, at the rule's.
    Progressing {
        /// When the step began.
        since: Tick,
        /// Which one, from 0; 0 without steps.
        step: usize,
        /// What stopped it.
        pause: Option<Pause>,
        /// What was found at the last look; `None` before the first.
        hold: Option<Hold>,
        /// Names of objectives whose breach has paused it and a person let it go on all the
        /// same: they do not pause it again while the breach goes on.
        known: Vec<String>,
    },
    /// The rule serves the canary alone.
    Promoted {
        /// The end.
        since: Tick,
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

/// What stopped a rollout, until a person lets it go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pause {
    /// The plan: this step waits for a person.
    Step,
    /// A person.
    Operator,
    /// A proven breach, in a plan that pauses for one.
    Breach(Cause),
}

/// Why a rollout was rolled back, with the numbers it was decided on, kept as they were.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cause {
    /// Name of the breached objective, or the hold reason that lasted too long.
    pub objective: String,
    /// The decision as a sentence.
    pub text: String,
    /// Every objective at that moment, in the order of the plan, then what probes have proven.
    pub objectives: Vec<ObjectiveView>,
}

impl Pause {
    /// What is known where a person, or the fleet, has ended this pause.
    pub(in crate::rollout) fn let_go(&self, mut known: Vec<String>) -> Vec<String> {
        if let Self::Breach(cause) = self
            && !known.contains(&cause.objective)
        {
            known.push(cause.objective.clone());
        }
        known
    }
}

/// What happens to a rollout.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The judge has looked.
    Judged(&'a Findings),
    /// A person said something.
    Told(Word),
    /// Another replica has taken the version out.
    Adopted(&'a End),
    /// The fleet has brought the version there.
    Moved(&'a Position),
}

/// What a person may say to a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// On to the next step, without evidence.
    Promote,
    /// On to the end, without evidence.
    PromoteFully,
    /// Stay where it is. It is still judged.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Take the canary out.
    Abort,
    /// Give the version another chance.
    Reset,
}

impl Word {
    /// As on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::PromoteFully => "promote --full",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
            Self::Reset => "reset",
        }
    }
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
    /// Another step began: publish, remember, report.
    Stepped,
    /// The canary has all the traffic: publish, remember, report.
    Promoted,
    /// It stays where it is: remember, report.
    Paused,
    /// It goes on in the same step: remember, report.
    Resumed,
    /// Nothing changes; the person who asked is told why.
    Refused(Refusal),
}

/// Why a person's word was not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Anything but reset after a rollback.
    #[error("the rollout has rolled back already: its canary gets no traffic")]
    RolledBack,
    /// Promote, pause or resume after an abort.
    #[error("the rollout was aborted: its canary gets no traffic")]
    Aborted,
    /// Anything but reset after the promotion.
    #[error("the rollout is promoted already: its canary has all the traffic")]
    Promoted,
    /// Reset of a rollout that runs.
    #[error("the rollout has not ended: only an ended one can be reset, abort it first")]
    Running,
    /// Promote of a rollout that only watches.
    #[error(
        "the rollout has no steps: it keeps the rule's weights and only watches; `promote --full` \
         gives the canary all the traffic"
    )]
    NoSteps,
}

impl State {
    /// The names of all states, as [`Self::as_str`] gives them: literal API.
    pub const NAMES: [&str; 6] =
        ["progressing", "holding", "paused", "promoted", "rolled_back", "aborted"];

    /// A rollout that starts `now` in its first step, without any evidence.
    pub const fn start(now: Tick) -> Self {
        Self::Progressing { since: now, step: 0, pause: None, hold: None, known: Vec::new() }
    }

    /// Its name in the API. `holding` is `progressing` with something against the canary:
    /// to be young or quiet is the ordinary way of a rollout.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Progressing { pause: Some(_), .. } => "paused",
            Self::Progressing { hold: Some(Hold { reason, is_overdue, .. }), .. }
                if reason.is_alarm() || *is_overdue =>
            {
                "holding"
            }
            Self::Progressing { .. } => "progressing",
            Self::Promoted { .. } => "promoted",
            Self::RolledBack { .. } => "rolled_back",
            Self::Aborted { .. } => "aborted",
        }
    }

    /// What is worth being written down when it changes: its name, and what is wrong.
    pub fn alarm(&self) -> (&'static str, Option<HoldReason>) {
        let reason = self.hold().map(|hold| hold.reason).filter(|reason| reason.is_alarm());
        (self.as_str(), reason)
    }

    /// When it got there.
    pub const fn since(&self) -> Tick {
        match self {
            Self::Progressing { since, .. }
            | Self::Promoted { since }
            | Self::RolledBack { since, .. }
            | Self::Aborted { since } => *since,
        }
    }

    /// Why it may not go on, if it runs and was looked at.
    pub const fn hold(&self) -> Option<Hold> {
        match self {
            Self::Progressing { hold, .. } => *hold,
            Self::Promoted { .. } | Self::RolledBack { .. } | Self::Aborted { .. } => None,
        }
    }

    /// What stopped it, if it runs.
    pub const fn pause(&self) -> Option<&Pause> {
        match self {
            Self::Progressing { pause, .. } => pause.as_ref(),
            Self::Promoted { .. } | Self::RolledBack { .. } | Self::Aborted { .. } => None,
        }
    }

    /// The step it is in, if it runs.
    pub const fn step(&self) -> Option<usize> {
        match self {
            Self::Progressing { step, .. } => Some(*step),
            Self::Promoted { .. } | Self::RolledBack { .. } | Self::Aborted { .. } => None,
        }
    }

    /// Objectives whose breach a person knows of, and let it go on all the same.
    pub fn known(&self) -> &[String] {
        match self {
            Self::Progressing { known, .. } => known,
            Self::Promoted { .. } | Self::RolledBack { .. } | Self::Aborted { .. } => &[],
        }
    }

    /// As it is, but for [`Self::known`].
    #[must_use]
    pub fn knowing(mut self, names: Vec<String>) -> Self {
        if let Self::Progressing { known, .. } = &mut self {
            *known = names;
        }
        self
    }

    /// The breach, or the reason that lasted too long, that ended or stopped it.
    pub const fn cause(&self) -> Option<&Cause> {
        match self {
            Self::RolledBack { cause, .. }
            | Self::Progressing { pause: Some(Pause::Breach(cause)), .. } => Some(cause),
            Self::Progressing { .. } | Self::Promoted { .. } | Self::Aborted { .. } => None,
        }
    }

    /// Whether it has ended: nothing is judged any more.
    pub const fn has_ended(&self) -> bool {
        self.step().is_none()
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Plan {
    /// The canary's share of what goes to it or to stable, in `state`. `None` is what the
    /// rule's own weights say.
    pub fn canary_share(&self, state: &State) -> Option<Ratio> {
        match state {
            State::Progressing { step, .. } => self.steps.get(*step).map(|step| step.weight),
            State::Promoted { .. } => Some(Ratio::ONE),
            State::RolledBack { .. } | State::Aborted { .. } => Some(Ratio::ZERO),
        }
    }

    /// The first state.
    pub fn start(&self, now: Tick) -> State {
        self.enter(0, now).0
    }

    /// The state at the start of `step`: of a plan without steps, the only one.
    pub fn enter(&self, step: usize, now: Tick) -> (State, Option<Effect>) {
        let until = self.steps.get(step).map(|step| step.until);
        let ended = until.is_none() && step > 0;
        if ended || until == Some(Until::AtOnce) {
            return (State::Promoted { since: now }, Some(Effect::Promoted));
        }
        let pause = (until == Some(Until::Told)).then_some(Pause::Step);
        let known = Vec::new();
        (State::Progressing { since: now, step, pause, hold: None, known }, Some(Effect::Stepped))
    }

    /// The state at the start of `step`, where an edit of the plan has brought a rollout that
    /// had `pause`. An edit is no evidence and no word: it neither promotes nor resumes.
    pub fn come_to(&self, step: usize, now: Tick, pause: Option<Pause>) -> State {
        let until = self.steps.get(step).map(|step| step.until);
        let gate = matches!(until, Some(Until::AtOnce | Until::Told)).then_some(Pause::Step);
        let pause = match pause {
            // Its cause is not to be forgotten.
            Some(Pause::Breach(_)) => pause,
            Some(Pause::Operator) => gate.or(pause),
            Some(Pause::Step) | None => gate,
        };
        State::Progressing { since: now, step, pause, hold: None, known: Vec::new() }
    }

    /// The next state, and what is to be done about it.
    pub fn advance(&self, state: State, now: Tick, event: Event<'_>) -> (State, Option<Effect>) {
        let refused = |state, why| (state, Some(Effect::Refused(why)));
        match (state, event) {
            (running @ State::Progressing { .. }, Event::Judged(findings)) => {
                self.judged(running, now, findings)
            }
            (running @ State::Progressing { .. }, Event::Told(word)) => {
                self.told(running, now, word)
            }
            (state, Event::Adopted(end)) if end.is_worse_than(&state) => end.adopted(now),
            (running @ State::Progressing { .. }, Event::Moved(to)) => {
                to.adopted(self, running, now)
            }
            (ended, Event::Judged(_) | Event::Adopted(_) | Event::Moved(_)) => (ended, None),
            (_, Event::Told(Word::Reset)) => (self.start(now), Some(Effect::Restarted)),
            (state @ State::Aborted { .. }, Event::Told(Word::Abort)) => (state, None),
            (state @ State::RolledBack { .. }, Event::Told(_)) => {
                refused(state, Refusal::RolledBack)
            }
            (state @ State::Aborted { .. }, Event::Told(_)) => refused(state, Refusal::Aborted),
            (state @ State::Promoted { .. }, Event::Told(_)) => refused(state, Refusal::Promoted),
        }
    }

    /// A person's word to a running rollout.
    fn told(&self, state: State, now: Tick, word: Word) -> (State, Option<Effect>) {
        let State::Progressing { since, step, pause, hold, known } = state else {
            return (state, None);
        };
        let seen = match (word, &pause) {
            (Word::Promote | Word::Resume, Some(pause)) => pause.let_go(known.clone()),
            _ => known.clone(),
        };
        let next = |(state, effect): (State, _)| (state.knowing(seen.clone()), effect);
        let running = |pause| {
            let known = seen.clone();
            State::Progressing { since, step, pause, hold, known }
        };
        match (word, pause) {
            (Word::Abort, _) => (State::Aborted { since: now }, Some(Effect::Aborted)),
            (Word::Reset, pause) => (running(pause), Some(Effect::Refused(Refusal::Running))),
            (Word::PromoteFully, _) => (State::Promoted { since: now }, Some(Effect::Promoted)),
            (Word::Promote, pause) if self.steps.is_empty() => {
                (running(pause), Some(Effect::Refused(Refusal::NoSteps)))
            }
            (Word::Promote, _) | (Word::Resume, Some(Pause::Step)) => {
                next(self.enter(step + 1, now))
            }
            (Word::Pause, None) => (running(Some(Pause::Operator)), Some(Effect::Paused)),
            (Word::Pause, Some(pause)) => (running(Some(pause)), None),
            (Word::Resume, Some(_)) => (running(None), Some(Effect::Resumed)),
            (Word::Resume, None) => (running(None), None),
        }
    }

    /// A look at a running rollout.
    fn judged(&self, state: State, now: Tick, findings: &Findings) -> (State, Option<Effect>) {
        let State::Progressing { since, step, pause, hold: before, mut known } = state else {
            return (state, None);
        };
        // A breach that is over, and comes again, is another one.
        known.retain(|name| findings.is_led || findings.still_doubts(name));
        let reason = match findings.decision {
            // One of many does not know what the others see.
            Decision::Promote(_) if self.replicas.is_some() => HoldReason::Fleet,
            Decision::Promote(_) if pause.is_none() => return self.enter(step + 1, now),
            Decision::Promote(_) => HoldReason::Paused,
            Decision::Hold(reason) => reason,
            // Where there is nothing to go back to, a failing canary is the better half.
            Decision::Rollback(_) if findings.stable_missing => HoldReason::NoStable,
            Decision::Rollback(blamed) => match (self.on_breach, &pause) {
                (Breach::Rollback, _) => {
                    let cause = cause(&blamed, findings, "", findings.by_probes);
                    return roll_back(now, cause);
                }
                (Breach::Pause, None | Some(Pause::Step | Pause::Operator))
                    if let Some((blamed, by_probes)) = findings.breach_beyond(&known) =>
                {
                    let cause = cause(blamed, findings, "", by_probes);
                    let (pause, hold) = (Some(Pause::Breach(cause)), before);
                    let paused = State::Progressing { since, step, pause, hold, known };
                    return (paused, Some(Effect::Paused));
                }
                (Breach::Pause | Breach::Alert, _) => HoldReason::Objective(blamed.objective),
            },
        };
        let lasts = before.filter(|before| before.reason == reason);
        let is_first = before.is_none() && step == 0;
        let hold = lasts.unwrap_or(Hold {
            reason,
            since: now,
            before: Duration::ZERO,
            is_first,
            is_overdue: false,
        });
        if let Some(ended) = self.overdue(hold, now, findings) {
            return ended;
        }
        let is_overdue = match self.deadline(hold) {
            Deadline::AlertAfter(most) => hold.lasted(now) >= most,
            Deadline::RollbackAfter(_) | Deadline::Hold => false,
        };
        let hold = Hold { is_overdue, ..hold };
        (State::Progressing { since, step, pause, hold: Some(hold), known }, None)
    }

    /// How long it may be held so.
    fn deadline(&self, hold: Hold) -> Deadline {
        match hold.reason {
            HoldReason::SharedCause => self.on_shared_breach,
            // A quiet replica is no quiet fleet.
            HoldReason::NotEnoughTraffic if self.replicas.is_some() => Deadline::Hold,
            HoldReason::NotEnoughTraffic => self.on_no_traffic,
            // A canary that is yet to come is waited for.
            HoldReason::NoEndpoint if !hold.is_first => self.on_no_endpoint,
            _ => Deadline::Hold,
        }
    }

    /// The end of a rollout that was held for longer than its plan allows.
    fn overdue(
        &self,
        hold: Hold,
        now: Tick,
        findings: &Findings,
    ) -> Option<(State, Option<Effect>)> {
        let Deadline::RollbackAfter(most) = self.deadline(hold) else { return None };
        if findings.stable_missing || hold.lasted(now) < most {
            return None;
        }
        // An outage that is over is no reason, however long its evidence lasts.
        if hold.reason == HoldReason::SharedCause && !findings.shared_lasts {
            return None;
        }
        let reason = hold.reason;
        if let Some(shared) = findings.first(Standing::Shared) {
            let how = format!("{reason} for {}: ", duration_text(most));
            return Some(roll_back(now, cause(shared, findings, &how, findings.by_probes)));
        }
        let cause = Cause {
            objective: reason.to_string(),
            text: format!("{reason} for {}", duration_text(most)),
            objectives: findings.into(),
        };
        Some((State::RolledBack { since: now, cause }, Some(Effect::RolledBack)))
    }
}

/// The latch: the state in which the canary's weight is 0.
fn roll_back(now: Tick, cause: Cause) -> (State, Option<Effect>) {
    (State::RolledBack { since: now, cause }, Some(Effect::RolledBack))
}

fn cause(blamed: &Finding, findings: &Findings, how: &str, by_probes: bool) -> Cause {
    let whose = if by_probes { "probes: " } else { "" };
    let mut objectives: Vec<ObjectiveView> = findings.into();
    if by_probes {
        // After those of users, by which it was not decided.
        let view = ObjectiveView::from(blamed);
        objectives.push(ObjectiveView { name: format!("{whose}{}", view.name), ..view });
    }
    Cause { objective: blamed.objective.name(), text: format!("{how}{whose}{blamed}"), objectives }
}

#[cfg(test)]
mod tests;
