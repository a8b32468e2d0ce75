//! What replicas agree on: which versions are out, and how far the others have come.
//!
//! Never asks who is right: what replicas wrote down is merged, in any order and any number of
//! times, to the same latch. Within an era the most severe end stands, and the latest course;
//! only a reset begins another era.

pub mod attendance;
pub mod course;
pub mod due;
pub mod election;
pub mod pool;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rollout::fleet::course::{Course, Position};
use crate::rollout::machine::{Cause, Effect, State};
use crate::units::Tick;

/// Versions that are kept. When full, one that is not out is forgotten first, then the one that
/// changed before all others. A replica whose config still has it tells of it again.
pub const LATCHED_MAX: usize = 100;

/// How a version came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// A person took it out.
    Aborted,
    /// The judge of a replica did, for this.
    RolledBack(Cause),
}

/// What is agreed of one version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latched {
    /// Rises with each reset.
    pub era: u64,
    /// `None` after a reset.
    pub end: Option<End>,
    /// The replica that wrote it.
    pub by: String,
    /// When, RFC 3339.
    pub since: String,
    /// Rises with each change of any version.
    #[serde(default)]
    pub number: u64,
    /// How far it has come in this era; `None` is not beyond the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub course: Option<Course>,
}

/// The versions of rollouts that replicas have agreed on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Latch(BTreeMap<String, Latched>);

impl End {
    fn severity(&self) -> u8 {
        match self {
            Self::Aborted => 1,
            Self::RolledBack(_) => 2,
        }
    }

    /// That of a rollout in `state`; `None` where it is not out.
    pub fn of(state: &State) -> Option<Self> {
        match state {
            State::RolledBack { cause, .. } => Some(Self::RolledBack(cause.clone())),
            State::Aborted { .. } => Some(Self::Aborted),
            State::Progressing { .. } | State::Promoted { .. } => None,
        }
    }

    /// Whether a rollout in `state` is not out yet, or for less.
    pub fn is_worse_than(&self, state: &State) -> bool {
        self.severity() > severity(state)
    }

    /// What becomes of a rollout that another replica has ended so.
    pub fn adopted(&self, now: Tick) -> (State, Option<Effect>) {
        match self {
            Self::Aborted => (State::Aborted { since: now }, Some(Effect::Aborted)),
            Self::RolledBack(cause) => {
                let cause = cause.clone();
                (State::RolledBack { since: now, cause }, Some(Effect::RolledBack))
            }
        }
    }
}

/// How bad the end of a rollout in `state` is, as [`End::severity`] has it.
fn severity(state: &State) -> u8 {
    match state {
        State::Progressing { .. } | State::Promoted { .. } => 0,
        State::Aborted { .. } => 1,
        State::RolledBack { .. } => 2,
    }
}

impl Latched {
    fn severity(&self) -> u8 {
        self.end.as_ref().map_or(0, End::severity)
    }

    /// Which of two stands. Of two that are as severe, the earlier one, so that all replicas
    /// tell the same story.
    fn compare(&self, other: &Self) -> Ordering {
        let rank = |one: &Self| (one.era, one.severity());
        let story = |one: &Self| (one.since.clone(), one.by.clone(), format!("{:?}", one.end));
        rank(self).cmp(&rank(other)).then_with(|| story(other).cmp(&story(self)))
    }

    /// Takes in what another replica knows of the same version.
    fn join(&mut self, mut other: Self) {
        let number = self.number.max(other.number);
        self.number = number;
        if other.era < self.era {
            return;
        }
        let mine = self.course.take().filter(|_| other.era == self.era);
        let courses = [mine, other.course.take()].into_iter().flatten();
        let course = courses.max_by(Course::compare);
        if other.compare(self).is_gt() {
            *self = other;
        }
        (self.course, self.number) = (course, number);
    }
}

impl Latch {
    /// What is agreed of a version.
    pub fn find(&self, rollout: &str, version: &str) -> Option<&Latched> {
        self.0.get(&key(rollout, version))
    }

    /// A version is out, in the present era; in the era `known`, if that is a later one: what
    /// others said before it was heard of does not count.
    pub fn raise(&mut self, of: (&str, &str), known: u64, end: End, (by, since): (&str, &str)) {
        let (era, (rollout, version)) = (self.era(of).max(known), of);
        let [by, since] = [by, since].map(ToOwned::to_owned);
        let number = self.next();
        let latched = Latched { era, end: Some(end), by, since, number, course: None };
        self.take(key(rollout, version), latched);
    }

    /// A version gets another chance: nothing that was said before counts, up to the era `known`
    /// at least.
    pub fn reset(&mut self, of: (&str, &str), known: u64, (by, since): (&str, &str)) {
        let (era, (rollout, version)) = (self.era(of).max(known).saturating_add(1), of);
        let [by, since] = [by, since].map(ToOwned::to_owned);
        let number = self.next();
        let latched = Latched { era, end: None, by, since, number, course: None };
        self.take(key(rollout, version), latched);
    }

    /// A version has come to another place of its plan, in the present era.
    pub fn advance(
        &mut self,
        (rollout, version): (&str, &str),
        at: Position,
        (by, since): (&str, &str),
    ) {
        let of = (rollout, version);
        let (era, turn) = (self.era(of), self.turn(of).saturating_add(1));
        let [by, since] = [by, since].map(ToOwned::to_owned);
        let course = Course { turn, at, by: by.clone(), since: since.clone() };
        let number = self.next();
        let latched = Latched { era, end: None, by, since, number, course: Some(course) };
        self.take(key(rollout, version), latched);
    }

    /// Whether a version is out already, for as severe an end, in the era `known` or later.
    pub fn has(&self, (rollout, version): (&str, &str), known: u64, end: &End) -> bool {
        let found = self.find(rollout, version).filter(|one| one.era >= known);
        found.is_some_and(|found| found.severity() >= end.severity())
    }

    /// How often a version was given another chance.
    pub fn era(&self, (rollout, version): (&str, &str)) -> u64 {
        self.find(rollout, version).map_or(0, |one| one.era)
    }

    /// How often it has come to another place since then.
    pub fn turn(&self, (rollout, version): (&str, &str)) -> u64 {
        let found = self.find(rollout, version);
        found.and_then(|one| one.course.as_ref()).map_or(0, |course| course.turn)
    }

    /// Takes in what another one has. Whether anything is new.
    pub fn merge(&mut self, other: &Self) -> bool {
        let before = self.clone();
        for (key, latched) in &other.0 {
            self.take(key.clone(), latched.clone());
        }
        *self != before
    }

    /// Of the next change. Counted, for the clocks of two machines say nothing of each other.
    fn next(&self) -> u64 {
        self.0.values().map(|one| one.number).max().map_or(1, |last| last.saturating_add(1))
    }

    fn take(&mut self, key: String, latched: Latched) {
        match self.0.get_mut(&key) {
            Some(one) => one.join(latched),
            None => drop(self.0.insert(key, latched)),
        }
        while self.0.len() > LATCHED_MAX {
            let of = |(key, one): (&String, &Latched)| (one.end.is_some(), one.number, key.clone());
            if let Some((_, _, first)) = self.0.iter().map(of).min() {
                self.0.remove(&first);
            }
        }
    }
}

impl FromIterator<(String, Latched)> for Latch {
    fn from_iter<I: IntoIterator<Item = (String, Latched)>>(entries: I) -> Self {
        let mut latch = Self::default();
        for (key, latched) in entries {
            latch.take(key, latched);
        }
        latch
    }
}

fn key(rollout: &str, version: &str) -> String {
    format!("{rollout}@{version}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rollout::machine::Pause;

    fn rolled_back(objective: &str) -> End {
        let (objective, text) = (objective.to_owned(), String::new());
        End::RolledBack(Cause { objective, text, objectives: Vec::new() })
    }

    const V: (&str, &str) = ("chat", "2");

    #[test]
    fn the_most_severe_stands_and_only_a_reset_takes_it_back() {
        let mut latch = Latch::default();
        let end = |latch: &Latch| latch.find("chat", "2").and_then(|one| one.end.clone());
        latch.raise(V, 0, End::Aborted, ("a", "1"));
        assert_eq!(end(&latch), Some(End::Aborted));
        latch.raise(V, 0, rolled_back("errors"), ("b", "2"));
        latch.raise(V, 0, End::Aborted, ("c", "3"));
        assert_eq!(end(&latch), Some(rolled_back("errors")));
        let old = latch.clone();
        latch.reset(V, 0, ("a", "4"));
        assert_eq!(end(&latch), None);
        // A replica that has not heard of the reset changes nothing.
        assert!(!latch.merge(&old));
        latch.raise(V, 0, End::Aborted, ("b", "5"));
        assert_eq!(end(&latch), Some(End::Aborted));
    }

    #[test]
    fn of_two_alike_the_earlier_one_tells_the_story() {
        let mut one = Latch::default();
        let mut other = Latch::default();
        one.raise(V, 0, rolled_back("errors"), ("a", "2"));
        other.raise(V, 0, rolled_back("latency"), ("b", "1"));
        let (mut left, mut right) = (one.clone(), other.clone());
        left.merge(&other);
        right.merge(&one);
        assert_eq!(left, right);
        assert_eq!(left.find("chat", "2").map(|one| one.by.as_str()), Some("b"));
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let mut latch = Latch::default();
        for version in 0..LATCHED_MAX + 5 {
            // Whatever the clocks say.
            let since = format!("{:04}", LATCHED_MAX + 5 - version);
            latch.raise(("chat", &version.to_string()), 0, End::Aborted, ("a", &since));
        }
        assert_eq!(latch.0.len(), LATCHED_MAX);
        assert!(latch.find("chat", "4").is_none() && latch.find("chat", "5").is_some());
        // What is not out goes first, whatever was heard of it.
        for version in 0..LATCHED_MAX {
            latch.advance(("new", &version.to_string()), Position::default(), ("a", "9"));
        }
        assert!(latch.find("chat", "5").is_some() && latch.find("chat", "6").is_some());
        latch.raise(("new", "out"), 0, End::Aborted, ("a", "0"));
        assert!(latch.find("new", "out").is_some() && latch.find("chat", "5").is_none());
    }

    fn latches() -> impl Strategy<Value = Latch> {
        let end = prop_oneof![
            Just(None),
            Just(Some(End::Aborted)),
            Just(Some(rolled_back("errors"))),
            Just(Some(rolled_back("latency"))),
        ];
        let pause = prop_oneof![Just(None), Just(Some(Pause::Operator)), Just(Some(Pause::Step))];
        let at = (0..3_usize, pause, any::<bool>()).prop_map(|(step, pause, promoted)| Position {
            step,
            pause,
            promoted,
            ..Position::default()
        });
        let course = (0..3_u64, at, 0..3_u8, 0..3_u8).prop_map(|(turn, at, by, since)| Course {
            turn,
            at,
            by: by.to_string(),
            since: since.to_string(),
        });
        let course = proptest::option::of(course);
        let one = (0..3_u64, end, 0..3_u8, 0..3_u8, 0..9_u64, course);
        let one = one.prop_map(|(era, end, by, since, number, course)| {
            let [by, since] = [by, since].map(|one| one.to_string());
            Latched { era, end, by, since, number, course }
        });
        proptest::collection::btree_map("[ab]@1", one, 0..3).prop_map(Latch)
    }

    #[test]
    fn the_latest_course_stands_and_of_two_at_once_the_more_careful_one() {
        let at = |step, pause| Position { step, pause, ..Position::default() };
        let mut one = Latch::default();
        one.advance(V, at(1, None), ("a", "1"));
        let mut other = one.clone();
        one.advance(V, at(2, None), ("a", "2"));
        other.advance(V, at(1, Some(Pause::Operator)), ("b", "3"));
        let course = |latch: &Latch| latch.find("chat", "2").unwrap().course.clone().unwrap();
        for (mut left, right) in [(one.clone(), &other), (other.clone(), &one)] {
            left.merge(right);
            assert_eq!((course(&left).turn, course(&left).at), (2, at(1, Some(Pause::Operator))));
            // An end does not forget it, a reset does.
            left.raise(V, 0, End::Aborted, ("c", "4"));
            assert_eq!(course(&left).turn, 2);
            left.reset(V, 0, ("c", "5"));
            assert_eq!((left.era(V), left.turn(V)), (1, 0));
            left.merge(right);
            assert_eq!(left.turn(V), 0);
        }
    }

    fn merged(all: &[&Latch]) -> Latch {
        let mut sum = Latch::default();
        for one in all {
            sum.merge(one);
        }
        sum
    }

    proptest! {
        #[test]
        fn replicas_agree_whatever_they_hear_first(
            a in latches(), b in latches(), c in latches()
        ) {
            let all = merged(&[&a, &b, &c]);
            prop_assert_eq!(&merged(&[&c, &a, &b]), &all);
            prop_assert_eq!(&merged(&[&merged(&[&b, &c]), &a]), &all);
            prop_assert_eq!(&merged(&[&all, &a, &b, &c, &all]), &all);
        }
    }
}
