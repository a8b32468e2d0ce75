//! Which replicas were heard of, of those that should be there.
//!
//! Never asks anybody: who should be there and who has answered comes in.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::rollout::fleet::pool::Source;
use crate::units::Tick;

/// After so long without an answer a replica is missing.
const ANSWER_LASTS: Duration = Duration::from_secs(3);

/// Which replicas were heard of, by their addresses.
#[derive(Clone, Debug, Default)]
pub struct Attendance {
    expected: BTreeMap<SocketAddr, Heard>,
    /// Answers are as rare as that.
    pause: Duration,
}

#[derive(Clone, Debug)]
struct Heard {
    /// Since when it is waited for.
    since: Tick,
    answered: Option<(Source, Tick)>,
    /// Nobody else says to be that one.
    is_own: bool,
}

impl Attendance {
    /// Only these should be there, and are asked once in `pause`.
    pub fn expect(&mut self, addresses: &[SocketAddr], pause: Duration, now: Tick) {
        self.pause = pause;
        self.expected.retain(|address, _| addresses.contains(address));
        for address in addresses {
            let heard = Heard { since: now, answered: None, is_own: false };
            self.expected.entry(*address).or_insert(heard);
        }
    }

    /// One has answered. Whether what it tells is that replica's: who says to be one that answers
    /// from another address may be it, with two addresses, or may lie. It is there, but does not
    /// speak for it.
    pub fn answered(&mut self, address: SocketAddr, source: Source, now: Tick) -> bool {
        let lasts = self.lasts();
        let speaks = |one: &Heard| {
            let is_it = |(of, at): &(Source, Tick)| *of == source && now.since(*at) <= lasts;
            one.is_own && one.answered.as_ref().is_some_and(is_it)
        };
        let mut others = self.expected.iter().filter(|(other, _)| **other != address);
        let is_own = !others.any(|(_, one)| speaks(one));
        let Some(heard) = self.expected.get_mut(&address) else { return false };
        heard.answered = Some((source, now));
        heard.is_own = is_own;
        is_own
    }

    /// How long an answer counts.
    pub fn lasts(&self) -> Duration {
        ANSWER_LASTS + self.pause
    }

    /// Those that are there.
    pub fn present(&self, now: Tick) -> impl Iterator<Item = &Source> {
        let lasts = self.lasts();
        let answers = self.expected.values().filter_map(|one| one.answered.as_ref());
        answers.filter(move |(_, at)| now.since(*at) <= lasts).map(|(source, _)| source)
    }

    /// How many should be there.
    pub fn expected(&self) -> usize {
        self.expected.len()
    }

    /// Addresses that do not answer, as text. One that is new is not missing yet for as long as
    /// an answer lasts; but without any at all nobody knows who is there.
    pub fn missing(&self, now: Tick) -> Vec<String> {
        let lasts = self.lasts();
        let is_missing = |one: &Heard| {
            let at = one.answered.as_ref().map_or(one.since, |(_, at)| *at);
            now.since(at) > lasts
        };
        let missing = self.expected.iter().filter(|(_, one)| is_missing(one));
        missing.map(|(address, _)| address.to_string()).collect()
    }

    /// Whether everybody was heard of at least once, `me` among them.
    pub fn is_whole(&self, me: &Source) -> bool {
        let answers: Vec<_> =
            self.expected.values().map(|one| one.answered.as_ref().map(|(one, _)| one)).collect();
        answers.iter().all(Option::is_some) && answers.contains(&Some(me))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_address_speaks_for_a_replica() {
        let at = |seconds| Tick::new(Duration::from_secs(seconds));
        let address = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let a = || Source { replica: "a".to_owned(), boot: "1".to_owned() };
        let mut list = Attendance::default();
        list.expect(&[address(1), address(2)], Duration::from_millis(250), at(0));
        assert!(list.answered(address(1), a(), at(1)));
        for seconds in 1..5 {
            assert!(!list.answered(address(2), a(), at(seconds)), "another one says to be it");
            assert!(list.answered(address(1), a(), at(seconds)));
        }
        assert!(list.missing(at(5)).is_empty(), "a pod may have two addresses");
        // The other start of a replica, and who has not answered for long.
        let other = Source { boot: "2".to_owned(), ..a() };
        assert!(list.answered(address(2), other, at(5)));
        assert!(list.answered(address(2), a(), at(8)));
        assert!(!list.answered(address(1), a(), at(8)));
        assert!(!list.answered(address(3), a(), at(20)), "nobody that is expected");
    }

    #[test]
    fn who_does_not_answer_is_missed_and_who_leaves_is_not() {
        let at = |seconds| Tick::new(Duration::from_secs(seconds));
        let address = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let source = |name: &str| Source { replica: name.to_owned(), boot: "1".to_owned() };
        let mut list = Attendance::default();
        assert!(!list.is_whole(&source("a")), "nobody is not everybody");
        list.expect(&[address(1), address(2)], Duration::from_millis(250), at(0));
        list.answered(address(1), source("a"), at(1));
        assert!(!list.is_whole(&source("a")));
        assert!(list.missing(at(2)).is_empty());
        assert_eq!(list.missing(at(4)), ["10.0.0.1:2"]);
        list.answered(address(2), source("b"), at(4));
        list.answered(address(3), source("c"), at(4));
        assert!(list.is_whole(&source("a")) && !list.is_whole(&source("c")));
        assert_eq!(list.missing(at(5)), ["10.0.0.1:1"]);
        assert_eq!(list.present(at(5)).count(), 1);
        list.expect(&[address(2)], Duration::from_millis(250), at(5));
        assert!(list.missing(at(5)).is_empty());
        assert_eq!(list.expected(), 1);
    }
}
