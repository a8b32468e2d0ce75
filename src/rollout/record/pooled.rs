//! What the holder of a fleet's lease judged of the counts of all replicas, lived through again.
//!
//! Never moves the rollout itself: what the sums led to is compared with what was done by them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::rollout::fleet::End;
use crate::rollout::fleet::course::Position;
use crate::rollout::machine::State;
use crate::rollout::record::{BY_COUNTS, Change, Compared, Record, What};
use crate::rollout::release::{Release, graver};
use crate::units::Tick;

/// By name and version.
#[derive(Debug, Default)]
pub(super) struct Pools(BTreeMap<(String, String), Lived>);

/// What is judged of one version by the counts of all.
#[derive(Debug)]
struct Lived {
    release: Release,
    /// The rollout has come somewhere since the last slot.
    is_new: bool,
    /// What the slots of the last tick led to.
    wish: (Tick, Option<State>),
}

impl Pools {
    /// Another process, or another plan: what was before says nothing.
    pub(super) fn forget(&mut self, key: &(String, String)) {
        self.0.remove(key);
    }

    /// Lives through one record of a rollout that stands as `running` does; of what was done by
    /// the counts, what it is now.
    pub(super) fn take(
        &mut self,
        key: &(String, String),
        running: &Release,
        record: &Record,
    ) -> Option<Compared> {
        let now = Tick::new(Duration::from_millis(record.tick));
        match &record.what {
            What::Pooling { continues: true, .. } if self.0.contains_key(key) => {}
            What::Pooling { plan, configured, saved, .. } => {
                let new = || Release::new((**plan).clone(), *configured, now);
                let release = saved.as_ref().map_or_else(new, |saved| {
                    Release::restore((**plan).clone(), *configured, now, saved).0
                });
                self.0.insert(key.clone(), Lived { release, is_new: true, wish: (now, None) });
            }
            What::Pooled { is_missing, slots } => {
                let lived = self.0.get_mut(key)?;
                for slot in slots {
                    lived.close(running, slot.open(running.plan().objectives.len()), *is_missing);
                }
            }
            What::Moved { .. } | What::Told { .. } | What::Looked { .. } => {
                if let Some(lived) = self.0.get_mut(key) {
                    lived.is_new = true;
                }
            }
            What::Proposed { to } => {
                let Some(lived) = self.0.get(key) else { return Some(Compared::Unknown) };
                let wish = lived.wish.1.as_ref();
                let found = wish.and_then(|wish| Position::of(lived.release.plan(), wish));
                return Some(lived.compared(found.as_ref() == Some(to)));
            }
            What::Adopted { end: End::RolledBack(cause), by } if by == BY_COUNTS => {
                let Some(lived) = self.0.get(key) else { return Some(Compared::Unknown) };
                let found = lived.wish.1.as_ref().and_then(State::cause);
                let is_same = found.is_some_and(|found| {
                    (&found.objective, &found.text) == (&cause.objective, &cause.text)
                });
                return Some(lived.compared(is_same));
            }
            _ => {}
        }
        None
    }
}

impl Lived {
    fn close(
        &mut self,
        running: &Release,
        (now, counts): (Tick, crate::rollout::judge::SlotCounts),
        is_missing: bool,
    ) {
        let (at, _) = self.wish;
        if at != now {
            self.release.bring_up_to(running, std::mem::take(&mut self.is_new), now);
        }
        let wish = self.release.close_fleet_slot(now, &counts, is_missing);
        let before = std::mem::replace(&mut self.wish, (now, None)).1;
        self.wish.1 = if at == now { graver(before, wish) } else { wish };
    }

    fn compared(&self, is_same: bool) -> Compared {
        if is_same {
            return Compared::Same;
        }
        let release = self.release.clone();
        let release = match &self.wish.1 {
            Some(wish) => release.ended(wish.clone()),
            None => release,
        };
        Compared::Different(Box::new(Change::of(&release)))
    }
}
