//! What is written down of a rollout, and how it is lived through again.
//!
//! Never writes or reads a file: records come and go as values. Everything that moves a
//! rollout is a record, so the same records lead to the same states, at any time later.

mod pooled;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rollout::fleet::End;
use crate::rollout::fleet::course::Position;
use crate::rollout::judge::{Earlier, Pair, SlotCounts, SlotTally};
use crate::rollout::machine::{State, Word};
use crate::rollout::plan::Plan;
use crate::rollout::record::pooled::Pools;
use crate::rollout::release::{Release, Saved};
use crate::rollout::verdict::Tally;
use crate::rollout::view::ObjectiveView;
use crate::units::{Ratio, Tick};

/// One line of a journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// Wall time for people, RFC 3339.
    pub at: String,
    /// Milliseconds since the process started; begins anew with each `begins`.
    pub tick: u64,
    /// The rollout's name.
    pub rollout: String,
    /// Its version.
    pub version: String,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened to a rollout. What only a replay needs is not in the schema: no answer has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// From here on nothing before has to be known: a start, a reset, or a new file.
    #[schemars(skip)]
    Begins {
        /// Nothing has happened: whoever knows what was before knows all of this already.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        continues: bool,
        /// What was planned.
        plan: Box<Plan>,
        /// The canary's share by the rule's own weights.
        configured: f64,
        /// Hash of the config file.
        config: String,
        /// The state's name.
        state: String,
        /// Step and evidence; `None` of a rollout that has ended.
        saved: Option<Saved>,
    },
    /// Another form of the plan was taken over.
    #[schemars(skip)]
    Replanned {
        /// What is planned now.
        plan: Box<Plan>,
        /// The canary's share by the rule's own weights.
        configured: f64,
        /// Hash of the config file.
        config: String,
    },
    /// The rule's own weights, or the endpoints, have changed.
    #[schemars(skip)]
    Shared {
        /// The canary's share by the rule's own weights.
        configured: f64,
    },
    /// Slots were judged.
    #[schemars(skip)]
    Slots {
        /// In order.
        slots: Vec<Packed>,
    },
    /// A slot was looked at before its end, and that was enough.
    #[schemars(skip)]
    Looked {
        /// As far as it went.
        slot: Packed,
    },
    /// A person said something that was followed.
    Told {
        /// What.
        word: Word,
        /// The name of the admin token; `None` where none is needed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// Another replica had taken the version out, which was followed.
    Adopted {
        /// How.
        end: End,
        /// Which one.
        by: String,
    },
    /// The fleet had come to another place of the plan, which was followed.
    Moved {
        /// Where.
        to: Position,
        /// Which replica wrote it down.
        by: String,
    },
    /// From here on this replica judges what all of them count.
    #[schemars(skip)]
    Pooling {
        /// Whoever knows what was before knows all of this already.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        continues: bool,
        /// That of the whole fleet.
        plan: Box<Plan>,
        /// The canary's share by the rule's own weights.
        configured: f64,
        /// Step and evidence.
        saved: Option<Saved>,
    },
    /// Sums of all replicas were judged. Those of one tick came at once.
    #[schemars(skip)]
    Pooled {
        /// Of some replica it was not known what it sees.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_missing: bool,
        /// In order.
        slots: Vec<Packed>,
    },
    /// By those sums the fleet is to go on; it does once that is written down.
    #[schemars(skip)]
    Proposed {
        /// Where to.
        to: Position,
    },
    /// The state is another one.
    Changed(Change),
}

/// Who has taken a version out that the sums of all replicas were judged to be bad by.
pub const BY_COUNTS: &str = "the counts of the fleet";

/// How a rollout stands after a change, with the numbers that it came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// The state's name.
    pub state: String,
    /// From 0; `None` of a rollout that has ended.
    pub step: Option<usize>,
    /// The canary's share of what goes to it or to stable.
    pub share: f64,
    /// Why it may not go on.
    pub hold_reason: Option<String>,
    /// Why it ended or stopped.
    pub reason: Option<String>,
    /// The objective that is to blame, or the hold reason that lasted too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<String>,
    /// Hash of the config file that was in force.
    #[serde(default)]
    pub config: String,
    /// In the order of the plan, as they were.
    pub objectives: Vec<ObjectiveView>,
    /// The first requests that made the evidence against the canary.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failing: Vec<FailingRequest>,
}

/// A request that counted against the canary. Nothing of what it asked or got.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FailingRequest {
    /// The objective that it counted against.
    pub objective: String,
    /// Its `x-request-id`.
    pub id: String,
    /// The id of its trace, 32 hexadecimal digits, where there are traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// `None` if there was no answer yet.
    pub status: Option<u16>,
    /// Why there was no answer, or none to its end, as in `serin_failures_total`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Until it counted, in milliseconds.
    pub latency_ms: f64,
}

impl Change {
    /// How `release` stands.
    pub fn of(release: &Release) -> Self {
        let state = release.state();
        let cause = state.cause();
        let found = release.findings().map(Into::into).unwrap_or_default();
        Self {
            state: state.as_str().to_owned(),
            step: state.step(),
            share: release.share(),
            hold_reason: state.hold().map(|hold| hold.reason.to_string()),
            reason: cause.map(|cause| cause.text.clone()),
            objective: cause.map(|cause| cause.objective.clone()),
            config: String::new(),
            objectives: cause.map_or(found, |cause| cause.objectives.clone()),
            failing: Vec::new(),
        }
    }

    /// Whether `other` came to the same, whatever the last digits of its numbers are.
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.state, self.step, &self.hold_reason, &self.reason)
            == (&other.state, other.step, &other.hold_reason, &other.reason)
    }
}

impl fmt::Display for Change {
    /// `rolled back, canary at 0%: errors <= 1%: canary 4.08% …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.state.replace('_', " "))?;
        if let Some(step) = self.step {
            write!(f, ", step {}", step + 1)?;
        }
        write!(f, ", canary at {}", Ratio::new(self.share).unwrap_or_default())?;
        match self.reason.as_ref().or(self.hold_reason.as_ref()) {
            Some(why) => write!(f, ": {why}"),
            None => Ok(()),
        }
    }
}

/// A slot's counts in few bytes: the tick of its end in milliseconds, then the counts, without
/// the zeros at the end. After those of the objectives come those of probes, of earlier steps, and
/// of replicas that stand apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Packed(Vec<u64>);

/// Numbers before those of the objectives, and of each objective.
const HEAD: usize = 8;
const EACH: usize = 6;

impl Packed {
    /// The slot that ended `now`.
    pub fn new(now: Tick, counts: &SlotCounts) -> Self {
        let SlotCounts { dealt, copies, earlier, .. } = counts;
        let flags = [counts.canary_missing, counts.stable_missing, counts.is_led];
        let flags = (0..).zip(flags).map(|(bit, flag)| u64::from(flag) << bit).sum();
        let mut numbers = vec![
            now.since_start().as_millis() as u64,
            counts.canary_attempts,
            counts.stable_attempts,
            dealt.canary,
            dealt.stable,
            copies.bad,
            copies.total,
            flags,
        ];
        for SlotTally { canary, stable, relative_bad: bad } in &counts.objectives {
            let (of_canary, of_stable) = ([canary.bad, canary.total], [stable.bad, stable.total]);
            numbers.extend(of_canary.into_iter().chain(of_stable));
            numbers.extend([bad.canary, bad.stable]);
        }
        numbers.push(earlier.attempts);
        numbers.extend(counts.probes.iter().flat_map(|one| [one.bad, one.total]));
        let parts = [&earlier.objectives, &counts.apart];
        for index in
            parts.iter().flat_map(|part| (0..counts.objectives.len()).map(|at| part.get(at)))
        {
            let one = index.copied().unwrap_or_default();
            numbers.extend([one.bad, one.total]);
        }
        let len = numbers.iter().rposition(|number| *number > 0).map_or(0, |last| last + 1);
        numbers.truncate(len);
        Self(numbers)
    }

    /// All numbers but the tick.
    pub fn counts(&self) -> impl Iterator<Item = u64> {
        self.0.iter().skip(1).copied()
    }

    /// Its end, and what it brought to `objectives` objectives.
    pub fn open(&self, objectives: usize) -> (Tick, SlotCounts) {
        let number = |index: usize| self.0.get(index).copied().unwrap_or_default();
        let tally = |index| Tally { bad: number(index), total: number(index + 1) };
        let pair = |index| Pair { canary: number(index), stable: number(index + 1) };
        let objective = |index: usize| {
            let start = HEAD + EACH * index;
            let (canary, stable) = (tally(start), tally(start + 2));
            SlotTally { canary, stable, relative_bad: pair(start + 4) }
        };
        let after = HEAD + EACH * objectives;
        let of_earlier = (0..objectives).map(|index| tally(after + 5 + 2 * index));
        let mut earlier = Earlier { attempts: number(after), objectives: of_earlier.collect() };
        let of_apart = (objectives..2 * objectives).map(|index| tally(after + 5 + 2 * index));
        let mut apart: Vec<_> = of_apart.collect();
        for part in [&mut earlier.objectives, &mut apart] {
            if part.iter().all(|one| *one == Tally::default()) {
                part.clear();
            }
        }
        let counts = SlotCounts {
            earlier,
            apart,
            probes: [tally(after + 1), tally(after + 3)],
            canary_attempts: number(1),
            stable_attempts: number(2),
            objectives: (0..objectives).map(objective).collect(),
            dealt: pair(3),
            copies: tally(5),
            canary_missing: number(7) & 1 == 1,
            stable_missing: number(7) & 2 == 2,
            is_led: number(7) & 4 == 4,
        };
        (Tick::new(Duration::from_millis(number(0))), counts)
    }
}

/// The whole records of a journal, and how many lines are none: a crash cuts the last one.
pub fn parse(journal: &[u8]) -> (Vec<Record>, usize) {
    let lines = journal.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let (mut records, mut broken) = (Vec::new(), 0);
    for line in lines {
        match serde_json::from_slice(line) {
            Ok(record) => records.push(record),
            Err(_) => broken += 1,
        }
    }
    (records, broken)
}

/// Rollouts that live through their records again.
#[derive(Debug, Default)]
pub struct Replay {
    releases: BTreeMap<(String, String), Release>,
    pools: Pools,
}

/// What a recorded change is by the present judge.
#[derive(Clone, Debug, PartialEq)]
pub enum Compared {
    /// It comes to the same.
    Same,
    /// It comes to this instead.
    Different(Box<Change>),
    /// The records before it are gone.
    Unknown,
}

impl Replay {
    /// Lives through one record; of a change, what it is now.
    pub fn take(&mut self, record: &Record) -> Option<Compared> {
        let key = (record.rollout.clone(), record.version.clone());
        let now = Tick::new(Duration::from_millis(record.tick));
        if let What::Begins { continues: true, .. } = &record.what
            && self.releases.contains_key(&key)
        {
            return None;
        }
        if let What::Begins { plan, configured, saved, .. } = &record.what {
            self.pools.forget(&key);
            self.begin(key, plan, *configured, now, saved.as_ref());
            return None;
        }
        let Some(release) = self.releases.get_mut(&key) else {
            return matches!(record.what, What::Changed(_)).then_some(Compared::Unknown);
        };
        if let Some(compared) = self.pools.take(&key, release, record) {
            if let What::Adopted { end, .. } = &record.what {
                release.adopt(now, end);
            }
            return Some(compared);
        }
        match &record.what {
            What::Begins { .. }
            | What::Pooling { .. }
            | What::Pooled { .. }
            | What::Proposed { .. } => {}
            What::Replanned { plan, configured, .. } => {
                release.replan(plan, *configured, now);
                release.set_configured(*configured);
            }
            What::Shared { configured } => release.set_configured(*configured),
            What::Slots { slots } => {
                for slot in slots {
                    let (end, counts) = slot.open(release.plan().objectives.len());
                    release.close_slot(end, &counts);
                }
            }
            What::Looked { slot } => {
                let (end, counts) = slot.open(release.plan().objectives.len());
                release.look(end, &counts);
            }
            What::Adopted { end, .. } => drop(release.adopt(now, end)),
            What::Moved { to, .. } => drop(release.moved(now, to)),
            What::Told { word, .. } => drop(release.told(now, *word)),
            What::Changed(recorded) => {
                let found = Change::of(release);
                return Some(if found.is_like(recorded) {
                    Compared::Same
                } else {
                    Compared::Different(Box::new(found))
                });
            }
        }
        None
    }

    /// The rollout at a version, as far as its records went.
    pub fn release(&self, rollout: &str, version: &str) -> Option<&Release> {
        self.releases.get(&(rollout.to_owned(), version.to_owned()))
    }

    fn begin(
        &mut self,
        key: (String, String),
        plan: &Plan,
        configured: f64,
        now: Tick,
        saved: Option<&Saved>,
    ) {
        let release = match saved {
            Some(saved) => Some(Release::restore(plan.clone(), configured, now, saved).0),
            // It has ended, and what comes next, if anything, is another beginning. One that
            // was lived through up to here knows better how it ended.
            None if self.releases.get(&key).is_some_and(|one| one.state().has_ended()) => None,
            None => {
                let state = State::Aborted { since: now };
                Some(Release::new(plan.clone(), configured, now).ended(state))
            }
        };
        if let Some(release) = release {
            self.releases.insert(key, release);
        }
    }
}

#[cfg(test)]
mod tests;
