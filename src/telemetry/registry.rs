//! Which counters exist: one set per label set of the present config.
//!
//! Never on the request path: a request finds its counters in its snapshot.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use crate::names::{ListenerName, RuleId};
use crate::telemetry::counts::{Leg, LegKey, RetryBudget};
use crate::telemetry::listeners::Door;
use crate::telemetry::story::Outlets;
use crate::telemetry::told::Told;

/// All counters that are rendered.
#[derive(Debug)]
pub struct Registry {
    workers: usize,
    known: Mutex<Known>,
    outlets: Arc<Outlets>,
    /// Until somebody reads them.
    told: Mutex<Vec<Receiver<Told>>>,
}

#[derive(Debug, Default)]
struct Known {
    legs: BTreeMap<LegKey, Arc<Leg>>,
    /// Copies under way, by the leg of the mirror.
    budgets: BTreeMap<LegKey, Arc<AtomicU32>>,
    /// Retries under way, by the rule that they are of.
    retries: BTreeMap<RuleId, Arc<RetryBudget>>,
    /// As many as the config has listeners, which no reload changes.
    doors: BTreeMap<ListenerName, Arc<Door>>,
}

impl Registry {
    /// For `workers` workers.
    pub fn new(workers: usize) -> Self {
        let (outlets, told) = Outlets::new(workers);
        Self { workers, known: Mutex::default(), outlets, told: Mutex::new(told) }
    }

    /// Where workers tell of single requests.
    pub fn outlets(&self) -> &Arc<Outlets> {
        &self.outlets
    }

    /// What workers tell, one end for each; for one reader, nothing for a second.
    pub fn take_told(&self) -> Vec<Receiver<Told>> {
        std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many workers count.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The counters for `key`, which go on from where they were.
    pub fn leg(&self, key: LegKey) -> Arc<Leg> {
        let mut known = self.lock();
        match known.legs.entry(key) {
            Entry::Occupied(leg) => Arc::clone(leg.get()),
            Entry::Vacant(room) => {
                let leg = Arc::new(Leg::new(room.key().clone(), self.workers));
                Arc::clone(room.insert(leg))
            }
        }
    }

    /// The number of copies under way for the mirror that counts into `key`.
    pub fn budget(&self, key: LegKey) -> Arc<AtomicU32> {
        Arc::clone(self.lock().budgets.entry(key).or_default())
    }

    /// What the rule `rule` has spent of its budget of retries. It goes on from where it was: a
    /// snapshot that is published in the middle of an outage must not allow a second lot.
    pub fn retries(&self, rule: &RuleId) -> Arc<RetryBudget> {
        Arc::clone(self.lock().retries.entry(rule.clone()).or_default())
    }

    /// The counters of the listener `name`.
    pub fn door(&self, name: &ListenerName) -> Arc<Door> {
        let mut known = self.lock();
        let door = known.doors.entry(name.clone());
        Arc::clone(door.or_insert_with(|| Arc::new(Door::new(name.clone(), self.workers))))
    }

    /// The counters of all listeners, by name.
    pub fn doors(&self) -> Vec<Arc<Door>> {
        self.lock().doors.values().cloned().collect()
    }

    /// Forgets what the config has no more, so that label sets stay bounded by it.
    pub fn retain(&self, used: &BTreeSet<LegKey>) {
        let mut known = self.lock();
        known.legs.retain(|key, _| used.contains(key));
        known.budgets.retain(|key, _| used.contains(key));
        let is_of = |rule: &RuleId, leg: &LegKey| leg.route == rule.route && leg.rule == rule.rule;
        known.retries.retain(|rule, _| used.iter().any(|leg| is_of(rule, leg)));
    }

    /// All counters, sorted by labels.
    pub fn legs(&self) -> Vec<Arc<Leg>> {
        self.lock().legs.values().cloned().collect()
    }

    /// The counters of mirrors, sorted by labels, each with its copies under way.
    pub fn mirrors(&self) -> Vec<(Arc<Leg>, u32)> {
        let known = self.lock();
        let mirrors = known.budgets.iter().filter_map(|(key, under_way)| {
            let leg = known.legs.get(key)?;
            Some((Arc::clone(leg), under_way.load(Relaxed)))
        });
        mirrors.collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        // Maps are whole even if a thread panicked beside them.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
