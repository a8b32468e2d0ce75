//! What this replica counted of late, for the holder of the fleet's lease to fetch.
//!
//! Never adds anything up: each slot is told as it was, and as often as it is asked for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::rollout::fleet::End;
use crate::rollout::fleet::pool::{Counts, Report, SLOTS_MAX, Slot, Source};

/// Who judges changes seldom. Of more that say to, whoever asked least lately is forgotten.
const ASKED_MAX: usize = 8;

/// What this replica counted of late. Shared between the controller, which writes, and the
/// ports, which read; both are on the control thread.
#[derive(Debug)]
pub struct Published(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    source: Source,
    slot: u64,
    rollouts: Vec<Told>,
    /// What those that judge have asked of late, by their starts.
    asked: BTreeMap<String, Asked>,
    /// Hashes of the plans that it is led by, and the slot in which the holder asked for it last.
    led: BTreeMap<String, u64>,
}

/// A question of somebody that says to judge.
#[derive(Debug)]
struct Asked {
    /// The slot in which it was asked last.
    slot: u64,
    /// Hashes of the plans that it judges by, with commas between them.
    plans: String,
}

#[derive(Debug)]
struct Told {
    head: Head,
    slots: VecDeque<Slot>,
}

/// Who asks, and what for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Question<'q> {
    /// The start of this replica that is known, up to the slot `after`.
    pub boot: &'q str,
    /// See `boot`.
    pub after: u64,
    /// The start of the replica that asks.
    pub by: &'q str,
    /// Hashes of the plans that it judges by, with commas between them.
    pub plans: &'q str,
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

impl Head {
    fn is(&self, (rollout, version): (&str, &str)) -> bool {
        (self.rollout.as_str(), self.version.as_str()) == (rollout, version)
    }
}

impl Published {
    /// Nothing yet, of this start of the replica.
    pub fn new(source: Source) -> Self {
        let (asked, led) = (BTreeMap::new(), BTreeMap::new());
        Self(Mutex::new(Kept { source, slot: 0, rollouts: Vec::new(), asked, led }))
    }

    /// Who this is.
    pub fn source(&self) -> Source {
        self.with(|kept| kept.source.clone())
    }

    fn with<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the holder of the lease has asked within the last `slots`, to judge by the plan
    /// with that hash. `holder` is its start, as far as is known; empty is none for now.
    pub fn is_led(&self, (holder, plan): (&str, &str), slots: u64) -> bool {
        self.with(|kept| {
            if let Some(asked) = kept.asked.get(holder)
                && asked.plans.split(',').any(|one| one == plan)
            {
                kept.led.insert(plan.to_owned(), asked.slot);
            }
            kept.led.retain(|_, asked| kept.slot - *asked <= slots);
            kept.led.contains_key(plan)
        })
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
            let same = |one: &Told| one.head.is((&head.rollout, &head.version));
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

    /// All of it; to who knows a part, what came since. Who says to judge is remembered: whether
    /// it is the holder may be heard of later.
    pub fn report(&self, question: Question<'_>) -> Report {
        let Question { boot, after, by, plans } = question;
        self.with(|kept| {
            if !by.is_empty() && !plans.is_empty() {
                let asked = Asked { slot: kept.slot, plans: plans.to_owned() };
                kept.asked.insert(by.to_owned(), asked);
            }
            while kept.asked.len() > ASKED_MAX {
                let oldest = kept.asked.iter().min_by_key(|(_, asked)| asked.slot);
                let oldest = oldest.map(|(by, _)| by.clone()).unwrap_or_default();
                kept.asked.remove(&oldest);
            }
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
            let report = published.report(Question { boot, after, ..Question::default() });
            report.rollouts.iter().flat_map(|one| one.slots.iter().map(|one| one.slot)).collect()
        };
        (0..SLOTS_MAX + 10).for_each(|_| tell(0));
        assert_eq!((slots("", 0).len(), slots("", 0)[0]), (SLOTS_MAX, 11));
        assert_eq!(slots("1", 248), [249, 250]);
        assert_eq!(slots("2", 248).len(), SLOTS_MAX, "it was another start");
        tell(1);
        assert_eq!(slots("", 0), [251]);
        published.next_slot(|_| false);
        assert!(published.report(Question::default()).rollouts.is_empty());
    }

    #[test]
    fn only_whoever_judges_for_all_leads_and_only_by_the_same_plan() {
        let source = Source { replica: "a".to_owned(), boot: "1".to_owned() };
        let published = Published::new(source);
        let ask = |by: &str, plans: &str| {
            published.report(Question { by, plans, ..Question::default() });
        };
        let is_led = |holder, plan| published.is_led((holder, plan), 80);
        for (by, plans) in [("", ""), ("", "p"), ("7", ""), ("8", "p"), ("7", "q,pp")] {
            ask(by, plans);
            assert!(!is_led("7", "p") && !is_led("", "p"), "{by:?} {plans:?}");
        }
        ask("7", "q,p");
        assert!(!is_led("9", "p"), "it judges for nobody");
        assert!(is_led("7", "p") && is_led("7", "q") && !is_led("7", "r"));
        // Others that say to judge change nothing.
        for number in 0..20 {
            published.next_slot(|_| true);
            ask("7", "p");
            let other = number.to_string();
            ask(&other, "p");
            assert!(is_led("7", "p"), "{number}");
        }
        for _ in 0..80 {
            assert!(is_led("", "p"), "another one will hold the lease");
            published.next_slot(|_| true);
        }
        published.next_slot(|_| true);
        assert!(!is_led("7", "p") && !is_led("", "p"), "nobody has asked for long");
    }
}
