//! What this replica counted of late, for the holder of the fleet's lease to fetch.
//!
//! Never adds anything up: each slot is told as it was, and as often as it is asked for.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::rollout::fleet::End;
use crate::rollout::fleet::pool::{Counts, Report, SLOTS_MAX, Slot, Source};

/// What this replica counted of late. Shared between the controller, which writes, and the
/// ports, which read; both are on the control thread.
#[derive(Debug)]
pub struct Published(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    source: Source,
    slot: u64,
    rollouts: Vec<Told>,
    /// The slot in which somebody asked last.
    asked: Option<u64>,
}

#[derive(Debug)]
struct Told {
    head: Head,
    slots: VecDeque<Slot>,
}

/// Of what slots are.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The rollout's name.
    pub rollout: String,
    /// Its version.
    pub version: String,
    /// How often it was given another chance.
    pub era: u64,
    /// A hash of its plan.
    pub plan: String,
    /// How far it has come in the fleet's course.
    pub turn: u64,
    /// How it came out, if it is.
    pub end: Option<End>,
}

impl Published {
    /// Nothing yet, of this start of the replica.
    pub fn new(source: Source) -> Self {
        Self(Mutex::new(Kept { source, slot: 0, rollouts: Vec::new(), asked: None }))
    }

    /// Who this is.
    pub fn source(&self) -> Source {
        self.with(|kept| kept.source.clone())
    }

    fn with<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether anybody has asked within the last `slots`.
    pub fn is_asked(&self, slots: u64) -> bool {
        self.with(|kept| kept.asked.is_some_and(|asked| kept.slot - asked <= slots))
    }

    /// Another slot has ended; its number. Of rollouts that are not `kept` nothing is told.
    pub fn next_slot(&self, kept: impl Fn(&Head) -> bool) -> u64 {
        self.with(|all| {
            all.slot += 1;
            all.rollouts.retain(|one| kept(&one.head));
            all.slot
        })
    }

    /// How a rollout stands, and what it counted in a slot, if one of its own has ended.
    pub fn tell(&self, head: Head, slot: Option<Slot>) {
        self.with(|kept| {
            let same = |one: &Told| {
                (&one.head.rollout, &one.head.version) == (&head.rollout, &head.version)
            };
            let index = kept.rollouts.iter().position(same).unwrap_or(kept.rollouts.len());
            if index == kept.rollouts.len() {
                kept.rollouts.push(Told { head: head.clone(), slots: VecDeque::new() });
            }
            let told = &mut kept.rollouts[index];
            // Of another era or plan nothing is to be taken for this one's.
            if (told.head.era, &told.head.plan) != (head.era, &head.plan) {
                told.slots.clear();
            }
            told.head = head;
            told.slots.extend(slot);
            while told.slots.len() > SLOTS_MAX {
                told.slots.pop_front();
            }
        });
    }

    /// All of it; to who knows `boot` up to the slot `after`, what came since.
    pub fn report(&self, boot: &str, after: u64) -> Report {
        self.with(|kept| {
            kept.asked = Some(kept.slot);
            let after = if boot == kept.source.boot { after } else { 0 };
            let rollouts = kept.rollouts.iter().map(|Told { head, slots }| Counts {
                rollout: head.rollout.clone(),
                version: head.version.clone(),
                era: head.era,
                plan: head.plan.clone(),
                turn: head.turn,
                end: head.end.clone(),
                slots: slots.iter().filter(|one| one.slot > after).cloned().collect(),
            });
            Report { source: kept.source.clone(), slot: kept.slot, rollouts: rollouts.collect() }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::judge::SlotCounts;
    use crate::rollout::record::Packed;
    use crate::units::Tick;

    fn head(era: u64) -> Head {
        let [rollout, version, plan] = ["chat", "2", "p"].map(ToOwned::to_owned);
        Head { rollout, version, era, plan, turn: 0, end: None }
    }

    #[test]
    fn it_keeps_the_last_slots_and_tells_what_was_not_fetched() {
        let source = Source { replica: "a".to_owned(), boot: "1".to_owned() };
        let published = Published::new(source);
        let tell = |era| {
            let slot = published.next_slot(|_| true);
            let counts = Packed::new(Tick::ZERO, &SlotCounts::default());
            published.tell(head(era), Some(Slot { slot, turn: 0, share: 0.1, counts }));
        };
        let slots = |boot: &str, after| -> Vec<u64> {
            let report = published.report(boot, after);
            report.rollouts.iter().flat_map(|one| one.slots.iter().map(|one| one.slot)).collect()
        };
        (0..SLOTS_MAX + 10).for_each(|_| tell(0));
        assert_eq!((slots("", 0).len(), slots("", 0)[0]), (SLOTS_MAX, 11));
        assert_eq!(slots("1", 248), [249, 250]);
        assert!(published.is_asked(0));
        assert_eq!(slots("2", 248).len(), SLOTS_MAX, "it was another start");
        tell(1);
        assert!(published.is_asked(1) && !published.is_asked(0));
        assert_eq!(slots("", 0), [251]);
        published.next_slot(|_| false);
        assert!(published.report("", 0).rollouts.is_empty());
    }
}
