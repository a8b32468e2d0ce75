//! What a replica is to do about what its fleet has agreed of a version.
//!
//! Never gives a canary its traffic back for an end that nobody has reset since.

use crate::rollout::fleet::{End, Latched, severity};
use crate::rollout::machine::State;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Due<'a> {
    /// Nothing but to go where the version has come, if it runs.
    Follow,
    /// The version is out here, and the others do not know.
    Raise,
    /// The version is out among the others, for this.
    TakeOut(&'a End),
    /// It has ended here, and was given another chance since.
    Reset,
}

impl Latched {
    /// The era of a rollout that does what is `due`; it was in `era` before. Where it raises the
    /// latch in a later one, it stays there.
    pub fn era_after(&self, due: Due<'_>, era: Option<u64>) -> u64 {
        let own = era.filter(|_| due == Due::Raise).unwrap_or_default();
        self.era.max(own)
    }

    /// What is due where the rollout is in `state`, to which it came in `era`; `None` where the
    /// latch was not heard of by then.
    pub fn due(&self, state: &State, era: Option<u64>) -> Due<'_> {
        // An end of which nobody knows the era was never heard of, so it was not what was reset.
        let is_over = era.is_some_and(|era| era < self.era);
        let is_ahead = era.is_some_and(|era| era > self.era) && severity(state) > 0;
        match &self.end {
            Some(end) if end.is_worse_than(state) => Due::TakeOut(end),
            // It ended after a reset of which the latch does not know.
            Some(_) if is_ahead => Due::Raise,
            Some(end) if end.severity() < severity(state) && !is_over => Due::Raise,
            Some(_) => Due::Follow,
            None if severity(state) > 0 && is_over => Due::Reset,
            None if severity(state) > 0 => Due::Raise,
            None => {
                // Of a promotion the opposite is the careful one.
                let is_over = era.unwrap_or_default() < self.era;
                let is_ahead = self.course.as_ref().is_none_or(|course| !course.at.promoted);
                let is_promoted = matches!(state, State::Promoted { .. });
                if is_promoted && is_over && is_ahead { Due::Reset } else { Due::Follow }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::names::{RouteName, RuleId, RuleName};
    use crate::rollout::fleet::Latch;
    use crate::rollout::fleet::course::Position;
    use crate::rollout::machine::{Cause, Event, Word};
    use crate::rollout::plan::Plan;
    use crate::units::Tick;

    const NOW: Tick = Tick::ZERO;
    const V: (&str, &str) = ("chat", "2");

    fn rolled_back() -> End {
        let (objective, text) = ("errors".to_owned(), String::new());
        End::RolledBack(Cause { objective, text, objectives: Vec::new() })
    }

    fn latched(era: u64, end: Option<End>) -> Latched {
        Latched { era, end, ..Latched::default() }
    }

    fn promoted() -> State {
        State::Promoted { since: NOW }
    }

    #[test]
    fn an_end_takes_out_what_is_promoted_and_is_made_worse_but_never_milder() {
        let (aborted, worse) = (State::Aborted { since: NOW }, rolled_back());
        let (out, _) = worse.adopted(NOW);
        for era in [None, Some(0), Some(1)] {
            for state in [State::start(NOW), promoted()] {
                let found = latched(1, Some(End::Aborted));
                assert_eq!(found.due(&state, era), Due::TakeOut(&End::Aborted));
            }
            assert_eq!(latched(1, Some(worse.clone())).due(&aborted, era), Due::TakeOut(&worse));
            assert_eq!(latched(1, Some(worse.clone())).due(&out, era), Due::Follow);
        }
        assert_eq!(latched(1, Some(End::Aborted)).due(&out, Some(1)), Due::Raise);
        assert_eq!(latched(1, Some(End::Aborted)).due(&out, Some(0)), Due::Follow);
    }

    #[test]
    fn only_what_ended_in_an_earlier_era_is_reset() {
        let (out, _) = rolled_back().adopted(NOW);
        assert_eq!(latched(1, None).due(&out, Some(0)), Due::Reset);
        assert_eq!(latched(1, None).due(&out, Some(1)), Due::Raise);
        assert_eq!(latched(1, None).due(&out, None), Due::Raise, "found while nobody was heard");
        assert_eq!(latched(0, None).due(&out, Some(3)), Due::Raise, "the latch was lost");
        let found = latched(1, Some(rolled_back()));
        assert_eq!(found.due(&out, Some(2)), Due::Raise, "a reset that the latch has not heard of");
        assert_eq!(found.era_after(Due::Raise, Some(2)), 2);
        assert_eq!(latched(1, None).due(&promoted(), Some(0)), Due::Reset);
        assert_eq!(latched(1, None).due(&promoted(), None), Due::Reset);
        assert_eq!(latched(1, None).due(&promoted(), Some(1)), Due::Follow);
        assert_eq!(latched(1, None).due(&State::start(NOW), Some(0)), Due::Follow);
    }

    /// A replica, and what survives its restart.
    #[derive(Clone)]
    struct Replica {
        state: State,
        era: Option<u64>,
        own: Latch,
    }

    #[derive(Clone, Copy, Debug)]
    enum Happens {
        Proves,
        Aborts,
        Promotes,
        Resets,
        Hears,
        Restarts,
        /// Without a state file.
        IsReplaced,
    }

    fn plan() -> Plan {
        let rule = RuleId { route: RouteName::new("r"), rule: RuleName::new("main") };
        let arms = ("stable".into(), "canary".into());
        Plan::watching("chat".into(), rule, arms, "2".into(), Vec::new())
    }

    impl Replica {
        fn new() -> Self {
            Self { state: plan().start(NOW), era: None, own: Latch::default() }
        }

        fn told(&mut self, event: Event<'_>) {
            self.state = plan().advance(self.state.clone(), NOW, event).0;
        }

        fn raise(&mut self) {
            if let Some(end) = End::of(&self.state) {
                self.own.raise(V, self.era.unwrap_or_default(), end, ("a", "1"));
            }
        }

        /// As the controller does it, with the object that all see.
        fn hears(&mut self, object: &mut Latch) {
            self.own.merge(object);
            let found = self.own.find(V.0, V.1).cloned().unwrap_or_default();
            let due = found.due(&self.state, self.era);
            self.era = Some(found.era_after(due, self.era));
            match due {
                Due::Follow => {}
                Due::Raise => self.raise(),
                Due::TakeOut(end) => self.told(Event::Adopted(end)),
                Due::Reset => self.told(Event::Told(Word::Reset)),
            }
            if let Some(course) = found.course.filter(|_| found.end.is_none()) {
                self.told(Event::Moved(&course.at));
            }
            object.merge(&self.own);
        }

        fn does(&mut self, happens: Happens, object: &mut Latch) {
            match happens {
                Happens::Proves if self.state.step().is_some() => {
                    self.told(Event::Adopted(&rolled_back()));
                    self.raise();
                }
                Happens::Aborts if self.state.step().is_some() => {
                    self.told(Event::Told(Word::Abort));
                    self.raise();
                }
                Happens::Promotes if self.state.step().is_some() => {
                    self.told(Event::Told(Word::PromoteFully));
                    let at = Position::of(&plan(), &self.state).unwrap();
                    self.own.advance(V, at, ("a", "1"));
                }
                Happens::Resets if self.state.has_ended() => {
                    self.told(Event::Told(Word::Reset));
                    self.own.reset(V, self.era.unwrap_or_default(), ("a", "1"));
                    self.era = self.era.map(|_| self.own.era(V));
                }
                Happens::Hears => self.hears(object),
                Happens::Restarts => self.own = Latch::default(),
                Happens::IsReplaced => *self = Self::new(),
                _ => {}
            }
        }

        fn is_out(&self) -> bool {
            severity(&self.state) > 0
        }
    }

    fn happenings() -> impl Strategy<Value = Vec<(usize, Happens)>> {
        use Happens::{Aborts, Hears, IsReplaced, Promotes, Proves, Resets, Restarts};
        let all = vec![Proves, Aborts, Promotes, Resets, Hears, Hears, Hears, Restarts, IsReplaced];
        prop::collection::vec((0..3_usize, prop::sample::select(all)), 0..40)
    }

    proptest! {
        /// Whoever hears or restarts when: at the end all agree, and what was taken out after
        /// the last reset is out everywhere.
        #[test]
        fn what_is_out_is_out_everywhere(events in happenings(), last in 0..3_usize) {
            let mut object = Latch::default();
            let mut all = [(); 3].map(|()| Replica::new());
            for (index, happens) in events {
                let was_out = all[index].is_out();
                let era = all[index].era;
                all[index].does(happens, &mut object);
                if was_out && !all[index].is_out() && matches!(happens, Happens::Hears) {
                    prop_assert!(era.is_some_and(|own| own < object.era(V)), "nobody reset it");
                }
            }
            // A reset that it has not heard of counts against what it proves.
            let newest = all.iter().map(|one| one.own.era(V)).chain([object.era(V)]).max();
            let proves = all[last].state.step().is_some()
                && newest <= Some(all[last].era.unwrap_or(object.era(V)));
            all[last].does(Happens::Proves, &mut object);
            for _ in 0..3 {
                for index in [last, 0, 1, 2] {
                    all[index].hears(&mut object);
                }
            }
            let is_out = object.find(V.0, V.1).is_some_and(|one| one.end.is_some());
            for one in &all {
                prop_assert_eq!(one.is_out(), is_out, "{:?}", one.state);
            }
            prop_assert!(is_out || !proves, "it was proven");
        }
    }
}
