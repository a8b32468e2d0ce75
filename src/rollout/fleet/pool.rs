//! What all replicas counted of one version, as one stream of slots.
//!
//! Never counts a slot twice, whatever arrives in whatever order and however often: a slot is
//! known by its replica, the replica's start, and its number. Late ones join the open slot.

mod apart;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rollout::fleet::End;
use crate::rollout::fleet::pool::apart::Excess;
use crate::rollout::judge::{Pair, SILENT_MIN, SlotCounts, SlotTally};
use crate::rollout::objective::Signal;
use crate::rollout::plan::Plan;
use crate::rollout::record::Packed;
use crate::rollout::verdict::Tally;
use crate::units::Tick;

/// Slots that a replica keeps for whoever asks: a minute and longer. When full, the oldest is
/// forgotten, and if nobody has asked by then, it is not judged by the fleet.
pub const SLOTS_MAX: usize = 240;

/// Starts of replicas that are remembered. When full, the one that was heard of least lately is
/// forgotten.
const SOURCES_MAX: usize = 4_000;

/// Above this share of the canary there is no stable beside it to tell a broken way out by.
const CONTROL_SHARE_MIN: f64 = 0.5;

/// A replica keeps [`SLOTS_MAX`] slots of up to ten seconds, so by then all of them are others.
const GONE_AFTER: Duration = Duration::from_mins(41);

/// Good answers elsewhere are good for so long.
const GOOD_LASTS: Duration = Duration::from_secs(2);

/// No slot has more of anything: what says so is not counted.
const COUNT_MAX: u64 = 1 << 32;

/// One start of one replica.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Source {
    /// What the replica is called.
    pub replica: String,
    /// Tells its starts apart.
    pub boot: String,
}

/// What one replica tells of itself: `/fleet/counts`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Who.
    #[serde(flatten)]
    pub source: Source,
    /// The last slot that it closed.
    pub slot: u64,
    /// Those that run or are out.
    pub rollouts: Vec<Counts>,
}

/// What a replica counted of one version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// The rollout's name.
    pub rollout: String,
    /// Its version.
    pub version: String,
    /// How often it was given another chance.
    pub era: u64,
    /// A hash of its plan: of another one the counts say nothing.
    pub plan: String,
    /// How far the replica has come in the fleet's course.
    pub turn: u64,
    /// How it has taken the version out, if it has: it may not be able to tell otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    /// The last ones, oldest first.
    pub slots: Vec<Slot>,
}

/// One slot of one replica. Absolute: to hear of it again changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    /// Rises by one or more with each.
    pub slot: u64,
    /// The turn of the fleet's course in which it ended.
    pub turn: u64,
    /// The canary's share, by which its bad requests may be compared with stable's.
    pub share: f64,
    /// As in the journal.
    pub counts: Packed,
}

impl Report {
    /// Without what no replica counts: slots that have not ended, shares and numbers beyond all
    /// measure.
    #[must_use]
    pub fn sound(mut self) -> Self {
        let is_sound = |slot: &Slot| {
            let is_share = (0.0..=1.0).contains(&slot.share);
            slot.slot <= self.slot && is_share && slot.counts.counts().all(|one| one <= COUNT_MAX)
        };
        for counts in &mut self.rollouts {
            counts.slots.retain(is_sound);
        }
        self
    }
}

/// What is known of one start of one replica.
#[derive(Clone, Debug)]
struct Taken {
    /// All up to here are taken, or too late.
    floor: u64,
    /// Taken beyond it.
    above: BTreeSet<u64>,
    /// Not closed yet.
    waiting: BTreeMap<u64, (u64, f64, SlotCounts)>,
    heard: Tick,
    /// How far it has come, and whether it has the same plan.
    turn: u64,
    fits: bool,
    is_out: bool,
    good_seen: Option<Tick>,
    /// Slots in a row without a good answer while others got some; the first is set aside.
    silent: u32,
    aside: Option<SlotCounts>,
    /// How much more often it fails than is allowed.
    excess: Excess,
}

/// What all replicas counted of one version in one era.
#[derive(Clone, Debug)]
pub struct Pool {
    era: u64,
    plan: String,
    measured: Measured,
    sources: BTreeMap<Source, Taken>,
    /// Of replicas that were not heard of before, only what is yet to come counts: the rest may
    /// have been judged by the holder before.
    from_now: bool,
}

/// What a plan's objectives are to a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The share of attempts that each allows to be bad.
    limits: Vec<f64>,
    /// Where errors are among them.
    errors: Option<usize>,
}

impl Measured {
    /// Those of `plan`.
    pub fn of(plan: &Plan) -> Self {
        let limits = plan.objectives.iter().map(|one| one.limit().get()).collect();
        let errors = plan.objectives.iter().position(|one| one.signal() == Signal::Errors);
        Self { limits, errors }
    }
}

/// Up to where each replica's slots were judged, for the next holder.
pub type Positions = Vec<(Source, u64)>;

impl Taken {
    fn new(floor: u64, heard: Tick) -> Self {
        Self {
            floor,
            above: BTreeSet::new(),
            waiting: BTreeMap::new(),
            heard,
            turn: 0,
            fits: true,
            is_out: false,
            good_seen: None,
            silent: 0,
            aside: None,
            excess: Excess::default(),
        }
    }

    fn is_known(&self, slot: u64) -> bool {
        slot <= self.floor || self.above.contains(&slot) || self.waiting.contains_key(&slot)
    }

    /// `slot` is judged.
    fn close(&mut self, slot: u64) {
        self.above.insert(slot);
        while self.above.len() > SLOTS_MAX {
            self.floor = self.above.pop_first().unwrap_or(self.floor);
        }
    }

    fn last(&self) -> u64 {
        self.above.last().copied().unwrap_or(self.floor)
    }
}

impl Pool {
    /// Of a version under the plan with that hash, and what is measured by it. With `positions`,
    /// goes on from there; with `None`, from now.
    pub fn new(
        (era, plan): (u64, String),
        measured: Measured,
        positions: Option<Positions>,
        now: Tick,
    ) -> Self {
        let from_now = positions.is_none();
        let taken = |(source, slot): (Source, u64)| (source, Taken::new(slot, now));
        let sources = positions.into_iter().flatten().map(taken).collect();
        Self { era, plan, measured, sources, from_now }
    }

    /// In which era it counts.
    pub fn era(&self) -> u64 {
        self.era
    }

    /// The hash of the plan by which it is measured.
    pub fn plan(&self) -> &str {
        &self.plan
    }

    /// Another form of the plan, by which the objectives are the same.
    pub fn set_plan(&mut self, plan: String) {
        self.plan = plan;
    }

    /// Takes in what a replica told, if it is of this version and era. Whatever was known is not
    /// counted again.
    pub fn take(&mut self, source: &Source, counts: &Counts, now: Tick) {
        if counts.era != self.era {
            return;
        }
        let objectives = self.measured.limits.len();
        let (plan, from_now) = (&self.plan, self.from_now);
        let taken = self.sources.entry(source.clone()).or_insert_with(|| {
            let last = counts.slots.last().map_or(0, |slot| slot.slot);
            Taken::new(if from_now { last } else { 0 }, now)
        });
        taken.heard = now;
        taken.turn = taken.turn.max(counts.turn);
        taken.fits = counts.plan == *plan;
        taken.is_out = counts.end.is_some();
        if taken.fits {
            for Slot { slot, turn, share, counts } in &counts.slots {
                if !taken.is_known(*slot)
                    && taken.waiting.len() < SLOTS_MAX
                    && let Some(counts) = told(counts, objectives)
                {
                    taken.waiting.insert(*slot, (*turn, *share, counts));
                }
            }
        }
        while self.sources.len() > SOURCES_MAX {
            let of = |(source, taken): (&Source, &Taken)| (taken.heard, source.clone());
            if let Some((_, first)) = self.sources.iter().map(of).min() {
                self.sources.remove(&first);
            }
        }
    }

    /// What has arrived since the last time, as slots of all replicas together: the last of each
    /// replica make the last one, those before it the one before. `turn` and `share` are what
    /// the fleet has come to; what was assigned otherwise is not compared with stable.
    pub fn close(&mut self, turn: u64, share: f64, now: Tick) -> Vec<SlotCounts> {
        let mut arrived: Vec<(&mut Taken, Vec<SlotCounts>)> = Vec::new();
        let goods = self.sources.iter().map(|(source, taken)| (source.clone(), taken.good_seen));
        let goods: Vec<_> = goods.collect();
        for (source, taken) in &mut self.sources {
            let is_recent = |seen: Tick| now.since(seen) <= GOOD_LASTS;
            let elsewhere =
                goods.iter().any(|(other, seen)| other != source && seen.is_some_and(is_recent));
            let mut ready = Vec::new();
            // What a replica counted in a turn that is not known here yet waits for it.
            while let Some(entry) = taken.waiting.first_entry()
                && entry.get().0 <= turn
            {
                let (slot, (of_turn, of_share, counts)) = entry.remove_entry();
                taken.close(slot);
                let counts = fit(counts, of_turn == turn, (of_share - share).abs() < 1e-9);
                let alone = share > CONTROL_SHARE_MIN && elsewhere;
                ready.extend(taken.heed(counts, self.measured.errors, alone, now));
            }
            arrived.push((taken, ready));
        }
        apart::mark(&mut arrived, &self.measured.limits, share > CONTROL_SHARE_MIN, now);
        let mut slots: Vec<Option<SlotCounts>> = Vec::new();
        for (_, ready) in arrived {
            while slots.len() < ready.len() {
                slots.insert(0, None);
            }
            let first = slots.len() - ready.len();
            for (sum, counts) in slots[first..].iter_mut().zip(ready) {
                match sum {
                    Some(sum) => add(sum, &counts),
                    None => *sum = Some(counts),
                }
            }
        }
        if slots.is_empty() {
            // Nothing is counted, but time goes on.
            slots.push(None);
        }
        slots.into_iter().map(Option::unwrap_or_default).collect()
    }

    /// Whether a replica's counts do not tell what it sees `now`: it was not heard of for longer
    /// than `lasts`, has another plan, has taken the version out, has not followed the fleet to
    /// `turn`, gets no good answer from anybody while others do, or fails more often than all
    /// others where nothing tells whose trouble that is.
    pub fn is_beside(&self, source: &Source, turn: u64, (now, lasts): (Tick, Duration)) -> bool {
        self.sources.get(source).is_none_or(|taken| {
            let is_old = now.since(taken.heard) > lasts;
            let is_out = taken.is_out || !taken.fits || taken.turn < turn;
            is_old || is_out || taken.silent >= SILENT_MIN || taken.excess.stands_apart(now)
        })
    }

    /// For [`Self::new`] of the next holder, of at most `most` starts of replicas; `None` of more.
    /// One that was not heard of for long keeps no slot that was judged, if it is there at all.
    pub fn positions(&self, most: usize, now: Tick) -> Option<Positions> {
        let of = |(source, taken): (&Source, &Taken)| {
            (now.since(taken.heard) <= GONE_AFTER).then(|| (source.clone(), taken.last()))
        };
        let positions: Positions = self.sources.iter().filter_map(of).collect();
        (positions.len() <= most).then_some(positions)
    }
}

impl Taken {
    /// A slot of a replica that gets no good answer from either version, while `others` do and
    /// stable is no measure, is set aside; from the second in a row on it is its own trouble.
    fn heed(
        &mut self,
        counts: SlotCounts,
        errors: Option<usize>,
        others: bool,
        now: Tick,
    ) -> Vec<SlotCounts> {
        match counts.has_good(errors) {
            None => return vec![counts],
            Some(true) => {
                self.good_seen = Some(now);
                self.silent = 0;
            }
            Some(false) if others => {
                self.silent = self.silent.saturating_add(1);
                self.aside = (self.silent < SILENT_MIN).then_some(counts);
                return Vec::new();
            }
            Some(false) => self.silent = 0,
        }
        self.aside.take().into_iter().chain([counts]).collect()
    }
}

/// What a replica says that it counted; `None` of what cannot be. Who stands apart is the
/// holder's own word, and that a replica is led says nothing of the sum: nobody leads that.
fn told(packed: &Packed, objectives: usize) -> Option<SlotCounts> {
    let (_, mut counts) = packed.open(objectives);
    counts.apart.clear();
    counts.is_led = false;
    counts.can_be().then_some(counts)
}

/// What of a replica's slot counts for what. What was assigned in an earlier turn is evidence
/// like all other, but of this step it proves nothing, and with stable it is not compared.
fn fit(mut counts: SlotCounts, same_turn: bool, same_share: bool) -> SlotCounts {
    if !(same_turn && same_share) || counts.canary_missing || counts.stable_missing {
        counts.dealt = Pair::default();
        for tally in &mut counts.objectives {
            tally.relative_bad = Pair::default();
        }
    }
    if !same_turn {
        counts.copies = Tally::default();
        counts.earlier.attempts = counts.canary_attempts;
        counts.earlier.objectives = counts.objectives.iter().map(|one| one.canary).collect();
    }
    counts
}

/// Adds a slot of one replica to that of all.
fn add(sum: &mut SlotCounts, one: &SlotCounts) {
    // All by name, so that none is forgotten.
    let SlotCounts {
        canary_attempts,
        stable_attempts,
        objectives,
        dealt,
        copies,
        earlier,
        probes,
        apart,
        is_led: _,
        canary_missing,
        stable_missing,
    } = one;
    // A version is missing where it is missing everywhere.
    sum.canary_missing &= canary_missing;
    sum.stable_missing &= stable_missing;
    sum.canary_attempts += canary_attempts;
    sum.stable_attempts += stable_attempts;
    add_pair(&mut sum.dealt, dealt);
    sum.copies += *copies;
    add_each(&mut sum.probes, probes, |sum, one| *sum += *one);
    sum.objectives.resize(sum.objectives.len().max(objectives.len()), SlotTally::default());
    add_each(&mut sum.objectives, objectives, |sum, one| {
        sum.canary += one.canary;
        sum.stable += one.stable;
        add_pair(&mut sum.relative_bad, &one.relative_bad);
    });
    sum.earlier.attempts += earlier.attempts;
    for (sum, one) in [(&mut sum.earlier.objectives, &earlier.objectives), (&mut sum.apart, apart)]
    {
        sum.resize(sum.len().max(one.len()), Tally::default());
        add_each(sum, one, |sum, one| *sum += *one);
    }
}

fn add_pair(sum: &mut Pair, one: &Pair) {
    sum.canary += one.canary;
    sum.stable += one.stable;
}

fn add_each<T>(sums: &mut [T], more: &[T], add: impl Fn(&mut T, &T)) {
    sums.iter_mut().zip(more).for_each(|(sum, one)| add(sum, one));
}

#[cfg(test)]
mod tests;
