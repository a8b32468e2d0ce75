//! Which changes of a rollout that nobody acts on are worth being told, and when.
//!
//! Never tells: the controller does.

use std::time::Duration;

use crate::rollout::machine::State;
use crate::rollout::verdict::HoldReason;
use crate::units::Tick;

/// Between two changes that are told, but for a proven breach: evidence about a bound crosses it
/// again and again. What is over by then is not told at all.
const PAUSE: Duration = Duration::from_secs(5);

/// What was told of a rollout.
#[derive(Clone, Debug)]
pub struct Telling {
    told: (&'static str, Option<HoldReason>),
    /// When, if nobody acted on it.
    at: Option<Tick>,
}

/// A change that is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// Whether it is more than another reason for the same state.
    pub is_loud: bool,
}

impl Telling {
    /// `state` was told.
    pub fn of(state: &State) -> Self {
        Self { told: state.alarm(), at: None }
    }

    /// What is to be told `now` of `state`; then it is told. A state is loud, and so is a reason
    /// that is a proven breach.
    pub fn news(&mut self, state: &State, now: Tick) -> Option<News> {
        let (name, reason) = state.alarm();
        if (name, reason) == self.told {
            return None;
        }
        let is_breach = |reason: Option<HoldReason>| reason.is_some_and(HoldReason::is_breach);
        let was_breach = is_breach(self.told.1);
        let breaks_out = is_breach(reason) && !was_breach;
        if !breaks_out && self.at.is_some_and(|at| now.since(at) < PAUSE) {
            return None;
        }
        let is_loud = name != self.told.0 || (is_breach(reason) && reason != self.told.1);
        *self = Self { told: (name, reason), at: Some(now) };
        Some(News { is_loud })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::machine::Hold;
    use crate::rollout::objective::Objective;
    use crate::units::Ratio;

    fn held(reason: HoldReason) -> State {
        let (since, before) = (Tick::ZERO, Duration::ZERO);
        let hold = Hold { reason, since, before, is_first: false, is_overdue: false };
        State::Progressing { since, step: 0, pause: None, hold: Some(hold), known: Vec::new() }
    }

    #[test]
    fn a_breach_is_told_at_once_and_what_comes_and_goes_is_not_told_again_and_again() {
        let at = |millis: u64| Tick::new(Duration::from_millis(100_000 + millis));
        let breach = HoldReason::Objective(Objective::errors(Ratio::new(0.01).unwrap()).unwrap());
        let mut telling = Telling::of(&held(HoldReason::Soaking));
        for (millis, reason, told) in [
            (250, HoldReason::NotProven, None),
            (6000, HoldReason::Suspicious, Some(true)),
            // The same state, and yet the news of the day.
            (6250, breach, Some(true)),
            (6500, HoldReason::Suspicious, None),
            (6750, breach, None),
            (7000, HoldReason::NotProven, None),
            (11_000, HoldReason::NotProven, None),
            (11_250, HoldReason::NotProven, Some(true)),
            (20_000, HoldReason::Suspicious, Some(true)),
            (30_000, HoldReason::RoutingMismatch, Some(false)),
        ] {
            let news = telling.news(&held(reason), at(millis));
            assert_eq!(news.map(|news| news.is_loud), told, "{millis}: {reason}");
        }
    }
}
