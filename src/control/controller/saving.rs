//! What the controller puts on disk, and what it says once that is done: weights first, then the
//! ledger, then words.
//!
//! Never waits for the disk: what cannot be written now is written later, and what cannot be
//! written soon is told all the same.

use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::control::api::{RolloutView, SaidView};
use crate::control::controller::{Controller, rfc3339};
use crate::control::disk::{Disk, Done};
use crate::control::journal::Rotated;
use crate::control::ledger::Entry;
use crate::control::{NotDone, report};
use crate::names::{RolloutName, Version};
use crate::rollout::machine::{Effect, Word};
use crate::rollout::record::{Record, What};
use crate::units::Tick;

/// A change is told after so long, whether the ledger is on disk or not.
const DISK_TIME_MAX: Duration = Duration::from_secs(2);

/// How long the end of the process waits for the disk.
const END_TIME_MAX: Duration = Duration::from_secs(5);

/// Whom an operator's word is answered to.
pub(super) type Reply = oneshot::Sender<Result<RolloutView, NotDone>>;

/// How the ledger gets on disk.
#[derive(Debug, Default)]
pub(super) struct Saving {
    /// `None` is memory only.
    disk: Option<Disk>,
    /// Numbers of the last one that was asked for, and of the last that was tried.
    asked: u64,
    tried: u64,
    /// There is something that the last one asked for does not have.
    dirty: bool,
    waiting: Vec<Waiting>,
    failures: u64,
    /// The last one that was tried could not be written.
    is_failing: bool,
}

/// What is done once the ledger is on disk.
#[derive(Debug)]
struct Waiting {
    number: u64,
    since: Tick,
    rollout: RolloutName,
    then: Then,
}

#[derive(Debug)]
enum Then {
    /// The change is told.
    Tell { record: Box<Record>, effect: Effect, reply: Option<Reply> },
    /// What is out of the ledger starts afresh.
    Reset { version: Version, by: Option<String>, entry: Option<Box<Entry>>, reply: Reply },
}

impl Saving {
    /// To `disk`.
    pub fn new(disk: Option<Disk>) -> Self {
        Self { disk, ..Self::default() }
    }

    /// Tells how far the ledger is on disk.
    pub fn done(&self) -> Option<watch::Receiver<Done>> {
        self.disk.as_ref().map(Disk::done)
    }

    /// Whether a change of `rollout` is yet to be told.
    pub fn holds_back(&self, rollout: &str) -> bool {
        let tells = |one: &Waiting| matches!(one.then, Then::Tell { .. });
        self.waiting.iter().any(|one| one.rollout.as_str() == rollout && tells(one))
    }

    /// Ledgers that could not be written since the start.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    fn is_on_disk(&self) -> bool {
        self.disk.is_none() || (self.tried >= self.asked && !self.dirty)
    }
}

impl Controller {
    pub(super) fn save_all(&mut self) {
        self.journal.flush();
        if let Some(rotated) = self.journal.rotate() {
            self.begin_all(rotated == Rotated::Whole);
        }
        if self.rollouts.is_empty() {
            return;
        }
        self.remember_all();
        self.save();
    }

    /// Into the ledger, but for what is about to be forgotten.
    pub(super) fn remember_all(&mut self) {
        let forgotten = |name: &RolloutName| {
            let resets = |one: &Waiting| matches!(one.then, Then::Reset { .. });
            self.saving.waiting.iter().any(|one| one.rollout == *name && resets(one))
        };
        let entries = self.rollouts.iter().filter(|one| !forgotten(&one.plan().name));
        let now = self.now();
        let entries: Vec<_> = entries.map(|one| one.entry(now)).collect();
        for entry in entries {
            self.ledger.remember(entry);
        }
    }

    /// Has the ledger written as it is now, before all that the disk is asked for after this;
    /// the number under which that will be tried.
    pub(super) fn save(&mut self) -> u64 {
        let saving = &mut self.saving;
        let Some(disk) = &saving.disk else { return saving.tried };
        saving.asked += 1;
        saving.dirty = !disk.ask_for_ledger(saving.asked, self.ledger.content());
        if saving.dirty {
            // What it would tell is not in the ledger before.
            self.journal.leave_out();
        }
        saving.asked
    }

    /// What is left to write, and what has waited for too long.
    pub(super) fn go_on_saving(&mut self, now: Tick) {
        if self.saving.dirty {
            self.save();
        }
        let late = |one: &Waiting| now.since(one.since) >= DISK_TIME_MAX;
        if self.saving.waiting.iter().any(late) {
            tracing::error!(
                event = "ledger_late",
                "the disk does not answer: the ledger is not on it yet"
            );
            self.finish(late, Some("the disk does not answer"));
        }
    }

    /// The disk has done something.
    pub(super) fn disk_did(&mut self, done: &Done) {
        self.saving.tried = done.number;
        if let Some(error) = &done.error {
            // Tried again at the next slot's end, and told of once until it works.
            if !std::mem::replace(&mut self.saving.is_failing, true) {
                tracing::error!(event = "ledger_failed", %error, "the ledger is not on disk");
            }
            self.saving.dirty = true;
            self.saving.failures += 1;
        } else if std::mem::take(&mut self.saving.is_failing) {
            tracing::info!(event = "ledger_written", "the ledger is on disk again");
        }
        self.finish(|one| one.number <= done.number, done.error.as_deref());
        if done.error.is_none() && self.saving.dirty {
            self.save();
        }
        self.tell();
    }

    /// Tells a change once the ledger, as it was under `number`, is on disk.
    pub(super) fn tell_when_saved(
        &mut self,
        (rollout, number, now): (RolloutName, u64, Tick),
        (record, effect): (Record, Effect),
        reply: Option<Reply>,
    ) {
        let then = Then::Tell { record: Box::new(record), effect, reply };
        self.saving.waiting.push(Waiting { number, since: now, rollout, then });
        self.finish_what_is_saved();
    }

    /// Has a reset done once the ledger has forgotten the rollout: what is reset must not come
    /// back with a restart.
    pub(super) fn reset_when_saved(&mut self, index: usize, by: Option<String>, reply: Reply) {
        let plan = self.rollouts[index].plan();
        let (rollout, version) = (plan.name.clone(), plan.version.clone());
        let entry = self.ledger.find(&rollout, &version).cloned().map(Box::new);
        self.ledger.forget(&rollout, &version);
        let number = self.save();
        let then = Then::Reset { version, by, entry, reply };
        self.saving.waiting.push(Waiting { number, since: self.now(), rollout, then });
        self.finish_what_is_saved();
    }

    fn finish_what_is_saved(&mut self) {
        let tried = self.saving.tried;
        self.finish(|one| one.number <= tried, None);
    }

    fn finish(&mut self, which: impl Fn(&Waiting) -> bool, error: Option<&str>) {
        let waiting = std::mem::take(&mut self.saving.waiting);
        let (ready, waiting) = waiting.into_iter().partition(which);
        self.saving.waiting = waiting;
        for Waiting { rollout, then, .. } in ready {
            match then {
                Then::Tell { record, effect, reply } => {
                    self.say(&rollout, *record, effect, reply);
                }
                Then::Reset { version, by, entry, reply } => match error {
                    None => self.reset((&rollout, &version), by, reply),
                    Some(error) => {
                        // It stays as it was, here and there.
                        if let Some(entry) = entry {
                            self.ledger.remember(*entry);
                        }
                        self.saving.dirty = true;
                        let _ = reply.send(Err(NotDone::Failed(error.to_owned())));
                    }
                },
            }
        }
    }

    /// Says what has changed, to everybody who wants to know.
    fn say(&mut self, name: &RolloutName, record: Record, effect: Effect, reply: Option<Reply>) {
        // Else another replica of the fleet tells.
        if self.events.is_own(name.as_str()) {
            if let Some(around) = self.config.around(name) {
                self.notifier.tell(&around.webhooks, &record);
            }
            self.events.tell(&record);
        }
        self.journal.keep(record);
        let found = self.rollouts.iter().find(|one| one.plan().name == *name);
        let view = found.map(|rollout| rollout.view(&self.config)).ok_or(NotDone::Unknown);
        if let Ok(view) = &view {
            report::change(view, effect);
        }
        self.tell();
        if let Some(reply) = reply {
            // Whoever asked may have gone away.
            let _ = reply.send(view);
        }
    }

    fn reset(
        &mut self,
        (name, version): (&RolloutName, &Version),
        by: Option<String>,
        reply: Reply,
    ) {
        let found = self.rollouts.iter().position(|one| {
            let plan = one.plan();
            (&plan.name, &plan.version) == (name, version) && one.state().has_ended()
        });
        let Some(index) = found else {
            // Somebody else was faster, or it is gone from the config.
            let found = self.rollouts.iter().find(|one| one.plan().name == *name);
            let view = found.map(|rollout| rollout.view(&self.config));
            let _ = reply.send(view.ok_or(NotDone::Unknown));
            return;
        };
        let now = self.now();
        let effect = self.rollouts[index].told(now, Word::Reset);
        self.tell_fleet_of_reset(index);
        self.was_told(index, now, Word::Reset, by);
        self.act(index, now, effect, Some(reply));
    }

    /// Writes down who said what was followed.
    pub(super) fn was_told(&mut self, index: usize, now: Tick, word: Word, by: Option<String>) {
        let at = rfc3339(self.clock);
        self.rollouts[index].was_told(SaidView { word, by: by.clone(), at });
        let plan = self.rollouts[index].plan();
        report::told((&plan.name, &plan.version), word, by.as_deref());
        let record = self.record(index, now, What::Told { word, by });
        self.journal.write_later(record.clone());
        self.journal.keep(record);
    }

    /// Puts everything on disk, as far as that is possible, at the end of the process.
    pub(super) async fn save_at_the_end(mut self, mut done: Option<watch::Receiver<Done>>) {
        self.save_all();
        let Some(done) = &mut done else { return };
        let saved = async {
            while !self.saving.is_on_disk() && done.changed().await.is_ok() {
                let now = done.borrow_and_update().clone();
                self.disk_did(&now);
                if now.error.is_some() {
                    break;
                }
            }
            // The thread ends when nobody can ask it for more.
            drop(self);
            while done.changed().await.is_ok() {}
        };
        if tokio::time::timeout(END_TIME_MAX, saved).await.is_err() {
            tracing::error!(
                event = "ledger_late",
                "the disk does not answer: the last evidence is not on it"
            );
        }
    }
}

/// The next that the disk has done; never, where there is none.
pub(super) async fn next(done: &mut Option<watch::Receiver<Done>>) -> Done {
    if let Some(done) = done
        && done.changed().await.is_ok()
    {
        return done.borrow_and_update().clone();
    }
    std::future::pending().await
}
