//! What replicas agree on: which versions are out.
//!
//! Never asks who is right: what replicas wrote down is merged, in any order and any number of
//! times, to the same latch. Within an era the most severe end stands; only a reset begins
//! another era.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::rollout::machine::{Cause, Effect, State};
use crate::units::Tick;

/// Versions that are kept. When full, the one that was latched first is forgotten.
pub const LATCHED_MAX: usize = 100;

/// How a version came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// A person took it out.
    Aborted,
    /// The judge of a replica did, for this.
    RolledBack(Cause),
}

/// What is agreed of one version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latched {
    /// Rises with each reset.
    pub era: u64,
    /// `None` after a reset.
    pub end: Option<End>,
    /// The replica that wrote it.
    pub by: String,
    /// When, RFC 3339.
    pub since: String,
}

/// The versions of rollouts that replicas have agreed on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Latch(BTreeMap<String, Latched>);

impl End {
    /// What becomes of a running rollout that another replica has ended so.
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

impl Latched {
    fn severity(&self) -> u8 {
        match self.end {
            None => 0,
            Some(End::Aborted) => 1,
            Some(End::RolledBack(_)) => 2,
        }
    }

    /// Which of two stands. Of two that are as severe, the earlier one, so that all replicas
    /// tell the same story.
    fn compare(&self, other: &Self) -> Ordering {
        let rank = |one: &Self| (one.era, one.severity());
        let story = |one: &Self| (one.since.clone(), one.by.clone(), format!("{:?}", one.end));
        rank(self).cmp(&rank(other)).then_with(|| story(other).cmp(&story(self)))
    }
}

impl Latch {
    /// What is agreed of a version.
    pub fn find(&self, rollout: &str, version: &str) -> Option<&Latched> {
        self.0.get(&key(rollout, version))
    }

    /// A version is out, in the present era.
    pub fn raise(&mut self, (rollout, version): (&str, &str), end: End, (by, since): (&str, &str)) {
        let era = self.find(rollout, version).map_or(0, |one| one.era);
        let [by, since] = [by, since].map(ToOwned::to_owned);
        self.take(key(rollout, version), Latched { era, end: Some(end), by, since });
    }

    /// A version gets another chance: nothing that was said before counts.
    pub fn reset(&mut self, (rollout, version): (&str, &str), (by, since): (&str, &str)) {
        let era = self.find(rollout, version).map_or(0, |one| one.era) + 1;
        let [by, since] = [by, since].map(ToOwned::to_owned);
        self.take(key(rollout, version), Latched { era, end: None, by, since });
    }

    /// Takes in what another one has. Whether anything is new.
    pub fn merge(&mut self, other: &Self) -> bool {
        let before = self.clone();
        for (key, latched) in &other.0 {
            self.take(key.clone(), latched.clone());
        }
        *self != before
    }

    fn take(&mut self, key: String, latched: Latched) {
        let stands = self.0.get(&key).is_none_or(|one| latched.compare(one).is_gt());
        if stands {
            self.0.insert(key, latched);
        }
        while self.0.len() > LATCHED_MAX {
            let of = |(key, one): (&String, &Latched)| (one.since.clone(), key.clone());
            if let Some((_, first)) = self.0.iter().map(of).min() {
                self.0.remove(&first);
            }
        }
    }
}

fn key(rollout: &str, version: &str) -> String {
    format!("{rollout}@{version}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rolled_back(objective: &str) -> End {
        let (objective, text) = (objective.to_owned(), String::new());
        End::RolledBack(Cause { objective, text, objectives: Vec::new() })
    }

    const V: (&str, &str) = ("chat", "2");

    #[test]
    fn the_most_severe_stands_and_only_a_reset_takes_it_back() {
        let mut latch = Latch::default();
        let end = |latch: &Latch| latch.find("chat", "2").and_then(|one| one.end.clone());
        latch.raise(V, End::Aborted, ("a", "1"));
        assert_eq!(end(&latch), Some(End::Aborted));
        latch.raise(V, rolled_back("errors"), ("b", "2"));
        latch.raise(V, End::Aborted, ("c", "3"));
        assert_eq!(end(&latch), Some(rolled_back("errors")));
        let old = latch.clone();
        latch.reset(V, ("a", "4"));
        assert_eq!(end(&latch), None);
        // A replica that has not heard of the reset changes nothing.
        assert!(!latch.merge(&old));
        latch.raise(V, End::Aborted, ("b", "5"));
        assert_eq!(end(&latch), Some(End::Aborted));
    }

    #[test]
    fn of_two_alike_the_earlier_one_tells_the_story() {
        let mut one = Latch::default();
        let mut other = Latch::default();
        one.raise(V, rolled_back("errors"), ("a", "2"));
        other.raise(V, rolled_back("latency"), ("b", "1"));
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
            let since = format!("{version:04}");
            latch.raise(("chat", &version.to_string()), End::Aborted, ("a", &since));
        }
        assert_eq!(latch.0.len(), LATCHED_MAX);
        assert!(latch.find("chat", "4").is_none() && latch.find("chat", "5").is_some());
    }

    fn latches() -> impl Strategy<Value = Latch> {
        let end = prop_oneof![
            Just(None),
            Just(Some(End::Aborted)),
            Just(Some(rolled_back("errors"))),
            Just(Some(rolled_back("latency"))),
        ];
        let one = (0..3_u64, end, 0..3_u8, 0..3_u8).prop_map(|(era, end, by, since)| Latched {
            era,
            end,
            by: by.to_string(),
            since: since.to_string(),
        });
        proptest::collection::btree_map("[ab]@1", one, 0..3).prop_map(Latch)
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
