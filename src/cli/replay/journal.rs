//! `serin replay JOURNAL`: lives through a journal again.
//!
//! Never guesses what was not counted: an objective of another policy whose latency the
//! journal has no counts for is left out, and that is said.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::rollout::fleet::End;
use crate::rollout::judge::{Earlier, Judge, SlotCounts};
use crate::rollout::objective::{Objective, Signal};
use crate::rollout::plan::Plan;
use crate::rollout::record::{BY_COUNTS, Change, Compared, Packed, Record, Replay, What, parse};
use crate::rollout::verdict::Decision;
use crate::units::Tick;

/// What a replay came to.
pub struct Outcome {
    /// Lines for people.
    pub text: String,
    /// The same for scripts.
    pub json: Value,
    /// Whether everything came to the same.
    pub is_same: bool,
}

/// A recorded change, and whether it comes out again.
#[derive(Serialize, JsonSchema)]
pub struct ReplayedChange<'a> {
    /// When, RFC 3339.
    at: &'a str,
    /// The rollout's name.
    rollout: &'a str,
    /// Its version.
    version: &'a str,
    /// As it stands in the journal.
    recorded: Option<Recorded<'a>>,
    /// `same`, `different`, or `unknown` without what came before.
    result: &'static str,
}

/// What stands in the journal.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Recorded<'a> {
    /// The rollout stood otherwise.
    Change(&'a Change),
    /// The counts of a fleet led to this.
    ByCounts(ByCounts<'a>),
}

/// What the counts of a fleet led to.
#[derive(Serialize, JsonSchema)]
pub struct ByCounts<'a> {
    /// `rolled_back`, or `proposed`: the fleet is to go on.
    state: &'static str,
    /// Where it is to go on, from 0; null if it was rolled back.
    step: Option<usize>,
    /// Why it was rolled back; null if it goes on.
    reason: Option<&'a str>,
}

/// A version, as it was and as another policy would have had it.
#[derive(Serialize, JsonSchema)]
pub struct ReplayedVersion<'a> {
    /// The rollout's name.
    rollout: &'a str,
    /// Its version.
    version: &'a str,
    /// As it was; null if it was not rolled back.
    recorded: Option<Rollback<'a>>,
    /// By the policy; null if it would not have been rolled back.
    policy: Option<Rollback<'a>>,
    /// Objectives of the policy that the journal has no counts of.
    left_out: &'a [String],
}

/// A rollback.
#[derive(Serialize, JsonSchema)]
pub struct Rollback<'a> {
    /// When, RFC 3339.
    at: &'a str,
    /// As a sentence with its numbers.
    reason: &'a str,
}

impl<'a> Rollback<'a> {
    fn of((at, reason): &'a (String, String)) -> Self {
        Self { at, reason }
    }
}

/// The records of `path`, after those of the file that was put aside before it.
fn records(path: &Path) -> Result<(Vec<Record>, usize)> {
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut aside = path.as_os_str().to_owned();
    aside.push(".1");
    let mut all = fs::read(&aside).unwrap_or_default();
    all.extend(read(path)?);
    let (records, broken) = parse(&all);
    ensure!(!records.is_empty(), "{}: no record of a journal in it", path.display());
    Ok((records, broken))
}

/// Recomputes every recorded change.
pub fn recompute(path: &Path) -> Result<Outcome> {
    let (records, broken) = records(path)?;
    let mut replay = Replay::default();
    let (mut text, mut rows) = (String::new(), Vec::new());
    let (mut same, mut different, mut unknown) = (0, 0, 0);
    for record in &records {
        let Some(compared) = replay.take(record) else { continue };
        let (state, why) = match &record.what {
            What::Changed(change) => {
                let why = change.reason.as_ref().or(change.hold_reason.as_ref());
                (change.state.replace('_', " "), why.cloned())
            }
            What::Adopted { end: End::RolledBack(cause), by } => {
                (format!("rolled back by {by}"), Some(cause.text.clone()))
            }
            What::Proposed { to } => (format!("proposed by {BY_COUNTS}"), Some(to.to_string())),
            _ => continue,
        };
        let found = match &compared {
            Compared::Same => {
                same += 1;
                "same"
            }
            Compared::Unknown => {
                unknown += 1;
                "unknown"
            }
            Compared::Different(_) => {
                different += 1;
                "different"
            }
        };
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        let _ = writeln!(text, "{found:9} {} {} {state}{why}", record.at, record.rollout);
        if let Compared::Different(now) = &compared {
            let why = now.reason.as_ref().or(now.hold_reason.as_ref()).cloned();
            let _ = writeln!(text, "          now: {} {}", now.state, why.unwrap_or_default());
        }
        rows.push(json!(ReplayedChange {
            at: &record.at,
            rollout: &record.rollout,
            version: &record.version,
            recorded: recorded(&record.what),
            result: found,
        }));
    }
    let _ = writeln!(
        text,
        "{same} the same, {different} different, {unknown} without what came before"
    );
    if broken > 0 {
        let _ = writeln!(text, "{broken} lines could not be read: a crash cuts the last one");
    }
    Ok(Outcome { text, json: Value::Array(rows), is_same: different == 0 })
}

/// What is shown of a record, if it is one that is compared.
fn recorded(what: &What) -> Option<Recorded<'_>> {
    Some(match what {
        What::Changed(change) => Recorded::Change(change),
        What::Adopted { end: End::RolledBack(cause), .. } => {
            let reason = Some(cause.text.as_str());
            Recorded::ByCounts(ByCounts { state: "rolled_back", step: None, reason })
        }
        What::Proposed { to } => {
            let step = Some(to.step);
            Recorded::ByCounts(ByCounts { state: "proposed", step, reason: None })
        }
        _ => return None,
    })
}

/// What another policy would have decided on the same traffic.
pub fn reconsider(path: &Path, policy: &Plan) -> Result<Outcome> {
    let (records, _) = records(path)?;
    let mut replay = Replay::default();
    let mut others: BTreeMap<(String, String), Other> = BTreeMap::new();
    for record in &records {
        let key = (record.rollout.clone(), record.version.clone());
        replay.take(record);
        let Some(release) = replay.release(&key.0, &key.1) else { continue };
        let now = Tick::new(Duration::from_millis(record.tick));
        let other = others
            .entry(key)
            .or_insert_with(|| Other::new(policy, release.plan(), release.share(), now));
        match &record.what {
            What::Begins { continues: true, .. } => {}
            What::Begins { .. } => other.go_on(release.share(), now),
            What::Slots { slots } => slots.iter().for_each(|slot| other.close(slot, &record.at)),
            What::Looked { slot } => other.look(slot, &record.at),
            What::Changed(change) if change.state == "rolled_back" => {
                other.recorded.get_or_insert((record.at.clone(), change.reason.clone()));
            }
            What::Changed(_)
            | What::Replanned { .. }
            | What::Shared { .. }
            | What::Adopted { .. }
            | What::Moved { .. }
            | What::Pooling { .. }
            | What::Pooled { .. }
            | What::Proposed { .. }
            | What::Told { .. } => {}
        }
        other.judge.set_share(release.share());
    }
    let (mut text, mut rows, mut is_same) = (String::new(), Vec::new(), true);
    for ((rollout, version), other) in &others {
        is_same &= other.recorded.is_some() == other.found.is_some();
        let _ = writeln!(text, "{rollout}, version {version}:");
        let line = |end: &Option<(String, String)>| match end {
            Some((at, why)) => format!("rolled back at {at}: {why}"),
            None => "not rolled back".to_owned(),
        };
        let recorded = other.recorded.as_ref();
        let recorded = recorded.map(|(at, why)| (at.clone(), why.clone().unwrap_or_default()));
        let _ = writeln!(text, "  as it was: {}", line(&recorded));
        let _ = writeln!(text, "  this policy: {}", line(&other.found));
        for name in &other.uncounted {
            let _ = writeln!(text, "  left out, for the journal has no counts: {name}");
        }
        rows.push(json!(ReplayedVersion {
            rollout,
            version,
            recorded: recorded.as_ref().map(Rollback::of),
            policy: other.found.as_ref().map(Rollback::of),
            left_out: &other.uncounted,
        }));
    }
    Ok(Outcome { text, json: Value::Array(rows), is_same })
}

/// Another policy's judge over the same slots, at the weights that were.
struct Other {
    plan: Plan,
    judge: Judge,
    /// For each of its objectives, the recorded one that counts the same.
    counted: Vec<usize>,
    recorded_objectives: usize,
    uncounted: Vec<String>,
    recorded: Option<(String, Option<String>)>,
    found: Option<(String, String)>,
}

impl Other {
    fn new(policy: &Plan, recorded: &Plan, share: f64, now: Tick) -> Self {
        let counts_same = |one: &Objective, other: &Objective| match (one.signal(), other.signal())
        {
            (Signal::Errors, Signal::Errors) | (Signal::Body, Signal::Body) => true,
            (Signal::Latency { threshold, .. }, Signal::Latency { threshold: other, .. }) => {
                threshold == other
            }
            (Signal::Feedback(name), Signal::Feedback(other)) => name == other,
            _ => false,
        };
        let (mut objectives, mut counted, mut uncounted) = (Vec::new(), Vec::new(), Vec::new());
        for one in &policy.objectives {
            match recorded.objectives.iter().position(|other| counts_same(one, other)) {
                Some(index) => {
                    objectives.push(*one);
                    counted.push(index);
                }
                None => uncounted.push(one.name()),
            }
        }
        let plan = Plan { objectives, steps: Vec::new(), ..policy.clone() };
        let judge = Judge::new(&plan, share, now);
        let recorded_objectives = recorded.objectives.len();
        let (recorded, found) = (None, None);
        Self { plan, judge, counted, recorded_objectives, uncounted, recorded, found }
    }

    /// After a restart ticks begin anew; the evidence does not.
    fn go_on(&mut self, share: f64, now: Tick) {
        let saved = self.judge.save(now);
        if let Some(judge) = Judge::restore(&self.plan, (0, share), now, &saved) {
            self.judge = judge;
        }
    }

    fn close(&mut self, slot: &Packed, at: &str) {
        if self.found.is_none() {
            let (end, counts) = self.open(slot);
            let found = self.judge.close_slot(end, &counts).decision;
            self.found(found, at);
        }
    }

    /// The slot goes on after this and is closed later.
    fn look(&mut self, slot: &Packed, at: &str) {
        if self.found.is_none() {
            let (end, counts) = self.open(slot);
            let found = self.judge.look(end, &counts).decision;
            self.found(found, at);
        }
    }

    fn found(&mut self, decision: Decision, at: &str) {
        if let Decision::Rollback(blamed) = decision {
            self.found = Some((at.to_owned(), blamed.to_string()));
        }
    }

    fn open(&self, slot: &Packed) -> (Tick, SlotCounts) {
        let (end, counts) = slot.open(self.recorded_objectives);
        let of = |index: &usize| counts.objectives.get(*index).copied().unwrap_or_default();
        let objectives = self.counted.iter().map(of).collect();
        let of_earlier =
            |index: &usize| counts.earlier.objectives.get(*index).copied().unwrap_or_default();
        let earlier = self.counted.iter().map(of_earlier).collect();
        let earlier = Earlier { objectives: earlier, attempts: counts.earlier.attempts };
        (end, SlotCounts { objectives, earlier, ..counts })
    }
}

#[cfg(test)]
mod tests;
