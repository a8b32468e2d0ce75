//! What is said later about answers: which attempt a request's id belongs to, and what was said
//! since the last slot.
//!
//! Never on the way of a request: workers note down ids, and this takes them when a slot ends.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::rollout::judge::{Pair, SlotTally};
use crate::rollout::objective::{Objective, Signal};
use crate::rollout::plan::OBJECTIVES_MAX;
use crate::rollout::verdict::Tally;
use crate::telemetry::counts::Arm;
use crate::units::Tick;

/// Answered attempts that are remembered of a rollout. When full, the oldest is forgotten, and
/// what is said about it later is not counted.
pub const ANSWERS_MAX: usize = 200_000;

/// A judgement about an older answer is not counted: its version may be another one by now.
pub const ANSWER_AGE_MAX: Duration = Duration::from_hours(24);

/// Answered attempts of one rollout, and what was said about them.
#[derive(Debug, Default)]
pub struct Feedback {
    known: HashMap<u64, Answer>,
    order: VecDeque<(u64, Tick)>,
    /// Since the last slot, beside the plan's objectives.
    said: [SlotTally; OBJECTIVES_MAX],
    /// Of it, what was said about the canary's answers in an earlier step.
    earlier: [Tally; OBJECTIVES_MAX],
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    arm: Arm,
    /// When it was remembered last.
    at: Tick,
    /// Under which weights it was dealt.
    epoch: u64,
    /// The objectives it was judged by, as bits.
    judged: u8,
}

/// One thing that is said later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// A hash of the request's id.
    pub id: u64,
    /// The name of the feedback.
    pub name: String,
    /// What it is said to have been.
    pub good: bool,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It is evidence.
    Counted,
    /// It was said before.
    Repeated,
    /// No answer is known under that id.
    Unknown,
    /// The rollout has no feedback of that name.
    NoObjective,
}

impl Feedback {
    /// Whether `objectives` ask for any.
    pub fn is_wanted(objectives: &[Objective]) -> bool {
        objectives.iter().any(|one| matches!(one.signal(), Signal::Feedback(_)))
    }

    /// Remembers attempts that answered a client.
    pub fn remember(&mut self, ids: Vec<u64>, arm: Arm, epoch: u64, now: Tick) {
        for id in ids {
            // A client that calls all of its requests alike means the last one.
            self.known.insert(id, Answer { arm, at: now, epoch, judged: 0 });
            self.order.push_back((id, now));
        }
        let is_old = |at: Tick| now.since(at) > ANSWER_AGE_MAX;
        while self.order.len() > ANSWERS_MAX || self.order.front().is_some_and(|one| is_old(one.1))
        {
            // One that came again since is younger than its first place in the line.
            if let Some((id, at)) = self.order.pop_front()
                && self.known.get(&id).is_some_and(|answer| answer.at == at)
            {
                self.known.remove(&id);
            }
        }
    }

    /// Counts what is said, once for each answer and objective. Only answers of the present
    /// `epoch` are compared between versions, and only those since `step_epoch` prove anything
    /// of the present step.
    pub fn hear(
        &mut self,
        said: &Said,
        objectives: &[Objective],
        (step_epoch, epoch): (u64, u64),
    ) -> Heard {
        let is_meant = |one: &Objective| match one.signal() {
            Signal::Feedback(name) => name.as_str() == said.name,
            Signal::Errors | Signal::Latency { .. } | Signal::Body => false,
        };
        let Some(index) = objectives.iter().position(is_meant) else { return Heard::NoObjective };
        let Some(answer) = self.known.get_mut(&said.id) else { return Heard::Unknown };
        if answer.judged & (1 << index) != 0 {
            return Heard::Repeated;
        }
        answer.judged |= 1 << index;
        let (bad, slot) = (u64::from(!said.good), &mut self.said[index]);
        let Pair { canary, stable } = &mut slot.relative_bad;
        let (tally, relative) = match answer.arm {
            Arm::Canary => (&mut slot.canary, canary),
            Arm::Stable => (&mut slot.stable, stable),
        };
        let one = Tally { bad, total: 1 };
        *tally += one;
        if answer.arm == Arm::Canary && answer.epoch < step_epoch {
            self.earlier[index] += one;
        }
        if answer.epoch == epoch {
            *relative += bad;
        }
        Heard::Counted
    }

    /// What was said about objective `index` since the last slot.
    pub fn said(&self, index: usize) -> SlotTally {
        self.said.get(index).copied().unwrap_or_default()
    }

    /// Of it, what was said about the canary's answers in an earlier step.
    pub fn said_of_earlier(&self, index: usize) -> Tally {
        self.earlier.get(index).copied().unwrap_or_default()
    }

    /// Another slot begins.
    pub fn clear(&mut self) {
        (self.said, self.earlier) = Default::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::objective::Label;
    use crate::units::Ratio;

    fn objectives() -> Vec<Objective> {
        let accepted = Label::new("accepted").unwrap();
        vec![
            Objective::errors(Ratio::new(0.01).unwrap()).unwrap(),
            Objective::feedback(accepted, Ratio::new(0.9).unwrap()).unwrap(),
        ]
    }

    fn said(id: u64, good: bool) -> Said {
        Said { id, name: "accepted".to_owned(), good }
    }

    #[test]
    fn what_is_said_later_counts_once_and_for_the_version_that_answered() {
        let mut feedback = Feedback::default();
        feedback.remember(vec![1, 2], Arm::Canary, 0, Tick::ZERO);
        feedback.remember(vec![3, 4], Arm::Stable, 1, Tick::ZERO);
        let mut hear = |said| feedback.hear(&said, &objectives(), (1, 1));
        for (said, heard) in [
            (said(1, false), Heard::Counted),
            (said(1, true), Heard::Repeated),
            (said(2, true), Heard::Counted),
            (said(3, false), Heard::Counted),
            (said(9, false), Heard::Unknown),
            (Said { name: "errors".into(), ..said(4, true) }, Heard::NoObjective),
        ] {
            assert_eq!(hear(said.clone()), heard, "{said:?}");
        }
        let slot = SlotTally {
            canary: Tally { bad: 1, total: 2 },
            stable: Tally { bad: 1, total: 1 },
            // The canary's was dealt under older weights.
            relative_bad: Pair { canary: 0, stable: 1 },
        };
        assert_eq!((feedback.said(1), feedback.said(0)), (slot, SlotTally::default()));
        // Of an earlier step, so that it proves nothing of this one.
        assert_eq!(feedback.said_of_earlier(1), Tally { bad: 1, total: 2 });
        feedback.clear();
        assert_eq!(feedback.said(1), SlotTally::default());
        assert_eq!(feedback.said_of_earlier(1), Tally::default());
    }

    #[test]
    fn an_id_that_comes_again_is_remembered_as_long_as_its_last_answer() {
        let mut feedback = Feedback::default();
        let at = |hours| Tick::ZERO.after(Duration::from_hours(hours));
        feedback.remember(vec![1], Arm::Stable, 0, at(0));
        feedback.remember(vec![1], Arm::Canary, 0, at(20));
        feedback.remember(vec![], Arm::Canary, 0, at(25));
        assert_eq!(feedback.hear(&said(1, true), &objectives(), (0, 0)), Heard::Counted);
        assert_eq!(feedback.said(1).canary.total, 1);
    }

    #[test]
    fn only_so_many_answers_are_remembered_and_only_for_so_long() {
        let mut feedback = Feedback::default();
        let ids = (0..ANSWERS_MAX as u64 + 5).collect();
        feedback.remember(ids, Arm::Canary, 0, Tick::ZERO);
        assert_eq!(feedback.known.len(), ANSWERS_MAX);
        assert_eq!(feedback.hear(&said(4, true), &objectives(), (0, 0)), Heard::Unknown);
        assert_eq!(feedback.hear(&said(5, true), &objectives(), (0, 0)), Heard::Counted);
        let late = Tick::ZERO.after(ANSWER_AGE_MAX).after(Duration::from_secs(1));
        feedback.remember(vec![], Arm::Canary, 0, late);
        assert!(feedback.known.is_empty() && feedback.order.is_empty());
    }
}
