//! What a slot has brought, of what workers counted and people said.
//!
//! Never counts: it says what counts for which side, and what may be compared.

use crate::control::running::{Epoch, Reading, Running};
use crate::rollout::judge::{Earlier, Pair, SlotCounts, SlotTally};
use crate::rollout::objective::Signal;
use crate::rollout::verdict::Tally;
use crate::telemetry::counts::ArmCounts;

impl Running {
    /// What has come since the last slot, of all epochs. Of older ones nothing is compared:
    /// their attempts were assigned with another chance.
    pub(super) fn slot_counts(&self, reading: &Reading) -> SlotCounts {
        let mut counts = SlotCounts {
            objectives: vec![SlotTally::default(); self.plan().objectives.len()],
            canary_missing: !self.has_canary(),
            stable_missing: !self.ready.stable,
            copies: Tally {
                bad: reading.copies.bad.saturating_sub(self.copies_taken.bad),
                total: reading.copies.total.saturating_sub(self.copies_taken.total),
            },
            probes: reading.probes,
            is_led: self.in_fleet.is_led,
            ..SlotCounts::default()
        };
        for (index, ([stable, canary], _)) in reading.epochs.iter().enumerate() {
            let is_present = index + 1 == self.epochs.len();
            let Epoch { number, compares_latency, .. } = self.epochs[index];
            let is_earlier = number < self.step_epoch;
            counts.canary_attempts += canary.good + canary.bad;
            if is_earlier {
                counts.earlier.attempts += canary.good + canary.bad;
            }
            counts.stable_attempts += stable.good + stable.bad;
            if is_present && self.by_chance {
                counts.dealt = Pair { canary: canary.begun, stable: stable.begun };
            }
            for (index, objective) in self.plan().objectives.iter().enumerate() {
                let tally = &mut counts.objectives[index];
                let (of_canary, of_stable, bad) = match objective.signal() {
                    Signal::Errors => (
                        errors(canary),
                        errors(stable),
                        Pair { canary: canary.bad_once, stable: stable.bad_once },
                    ),
                    Signal::Latency { .. } | Signal::Body => {
                        let slow = |arm: &ArmCounts| arm.slow_once[index];
                        let bad = Pair { canary: slow(canary), stable: slow(stable) };
                        let bad = if compares_latency { bad } else { Pair::default() };
                        (slowness(canary, index), slowness(stable, index), bad)
                    }
                    Signal::Feedback(_) => continue,
                };
                tally.canary += of_canary;
                tally.stable += of_stable;
                if is_earlier {
                    add_earlier(&mut counts.earlier, index, of_canary);
                }
                if is_present {
                    tally.relative_bad.canary += bad.canary;
                    tally.relative_bad.stable += bad.stable;
                }
            }
        }
        for (index, tally) in counts.objectives.iter_mut().enumerate() {
            let said = self.feedback.said(index);
            tally.canary += said.canary;
            tally.stable += said.stable;
            tally.relative_bad.canary += said.relative_bad.canary;
            tally.relative_bad.stable += said.relative_bad.stable;
            add_earlier(&mut counts.earlier, index, self.feedback.said_of_earlier(index));
        }
        counts
    }
}

fn add_earlier(earlier: &mut Earlier, objective: usize, tally: Tally) {
    if tally != Tally::default() {
        earlier.objectives.resize(earlier.objectives.len().max(objective + 1), Tally::default());
        earlier.objectives[objective] += tally;
    }
}

fn errors(counts: &ArmCounts) -> Tally {
    Tally { bad: counts.bad, total: counts.good + counts.bad }
}

fn slowness(counts: &ArmCounts, objective: usize) -> Tally {
    let slow = counts.slow[objective];
    Tally { bad: slow, total: slow + counts.fast[objective] }
}
