//! How far a version has come, as the fleet has agreed.
//!
//! Never decides that it goes on: the holder of the lease does, on everybody's counts, or a
//! person.

use std::cmp::{Ordering, Reverse};
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rollout::machine::{Effect, Pause, State};
use crate::rollout::plan::Plan;
use crate::rollout::step::{Step, Until};
use crate::units::{Ratio, Tick};

/// Where a version stands in its plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Position {
    /// From 0; 0 without steps.
    pub step: usize,
    /// The canary's share in that step; another form of the plan finds its own step by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<f64>")]
    pub share: Option<Ratio>,
    /// What stopped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// Objectives whose breach the fleet knows of, and goes on all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<String>,
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
            State::Progressing { step, pause, known, .. } => Some(Self {
                step: *step,
                share: plan.steps.get(*step).map(|step| step.weight),
                pause: pause.clone(),
                known: known.clone(),
                promoted: false,
            }),
            State::Promoted { .. } => {
                let step = plan.steps.len().saturating_sub(1);
                Some(Self { step, promoted: true, ..Self::default() })
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
        let mut known = match &pause {
            Some(pause) if next.as_ref() != Some(pause) => pause.let_go(known),
            _ => known,
        };
        // Who was not there when the breach stopped the others must not stop them again.
        let news = self.known.iter().filter(|name| !known.contains(name));
        let news: Vec<_> = news.take(plan.objectives.len()).cloned().collect();
        known.extend(news);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{RouteName, RuleId, RuleName};
    use crate::rollout::machine::{Cause, Event};
    use crate::rollout::objective::Objective;

    const ERRORS: &str = "errors <= 1%";

    fn plan() -> Plan {
        let rule = RuleId { route: RouteName::new("r"), rule: RuleName::new("main") };
        let arms = ("stable".into(), "canary".into());
        let limit = Ratio::new(0.01).unwrap();
        let objectives = vec![Objective::errors(limit).unwrap()];
        let until = Until::soaked(std::time::Duration::from_mins(1));
        let step = |weight| Step { weight: Ratio::new(weight).unwrap(), mirror: None, until };
        let steps = vec![step(0.1), step(0.5)];
        Plan { steps, ..Plan::watching("chat".into(), rule, arms, "2".into(), objectives) }
    }

    #[test]
    fn what_the_fleet_let_go_on_with_is_known_to_who_was_not_there() {
        let (plan, now) = (plan(), Tick::ZERO);
        let moved = |state: State, to: &Position| plan.advance(state, now, Event::Moved(to));
        let (objective, text) = (ERRORS.to_owned(), String::new());
        let breach = Pause::Breach(Cause { objective, text, objectives: Vec::new() });
        let at = |step: usize, pause| {
            let share = Some(plan.steps[step].weight);
            Position { step, share, pause, ..Position::default() }
        };
        // One that was stopped, and a person let it go on.
        let (stopped, effect) = moved(plan.start(now), &at(0, Some(breach)));
        assert_eq!(effect, Some(Effect::Paused));
        let word = Event::Told(crate::rollout::machine::Word::Resume);
        let (goes_on, _) = plan.advance(stopped, now, word);
        let to = Position::of(&plan, &goes_on).unwrap();
        assert_eq!(to, Position { known: vec![ERRORS.to_owned()], ..at(0, None) });
        // One that heard of neither.
        let (late, effect) = moved(plan.start(now), &to);
        assert_eq!((effect, late.known()), (None, &*to.known));
        let (late, _) = moved(late, &Position { step: 1, share: None, ..to.clone() });
        assert_eq!((late.step(), late.known()), (Some(1), &*to.known));
        // What others say knows no bound; a plan does.
        let known = ["a", "b", "c"].map(ToOwned::to_owned).to_vec();
        let (state, _) = moved(plan.start(now), &Position { known, ..at(0, None) });
        assert_eq!(state.known(), ["a"]);
        // An older Serin writes none.
        let old: Position = serde_json::from_str("{\"step\":1}").unwrap();
        assert!(old.known.is_empty());
        assert!(!serde_json::to_string(&at(1, None)).unwrap().contains("known"));
    }
}
