//! Traces that stand for what metrics count: of each bucket of a latency, and of what failed, the
//! last request that has a trace.
//!
//! Never touched by a worker: the thread that sends spans writes it, a scrape reads it. So many
//! places for each leg and no more; a later request takes an earlier one's.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::telemetry::counts::{BUCKETS, bucket};

/// How long a bad request keeps its place when good ones come: some scrapes.
const BAD_STAYS: Duration = Duration::from_mins(1);

/// A request, by its trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    /// Its trace.
    pub trace: u128,
    /// Of its span, or its attempt's.
    pub span: u64,
    /// How long it took.
    pub took: Duration,
    /// When it ended, since the Unix epoch.
    pub at: Duration,
    /// Whether it was bad.
    pub is_bad: bool,
}

/// Of one histogram: one for each of [`BUCKETS`], and one for what is longer.
pub type OfBuckets = [Option<Exemplar>; BUCKETS.len() + 1];

/// Exemplars of one leg.
#[derive(Debug, Default)]
pub struct Exemplars(Mutex<Option<Box<Kept>>>);

/// What is kept of a leg, once there is something.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Of `serin_request_duration_seconds`.
    pub duration: OfBuckets,
    /// Of `serin_first_byte_seconds`.
    pub first_byte: OfBuckets,
    /// Of the last bad attempt, with its code.
    pub bad: Option<(u16, Exemplar)>,
}

impl Exemplars {
    /// A request that this leg answered.
    pub fn duration(&self, one: Exemplar) {
        place(&mut self.kept().get_or_insert_default().duration, one);
    }

    /// An attempt whose head of a response came after `one.took`.
    pub fn first_byte(&self, one: Exemplar) {
        place(&mut self.kept().get_or_insert_default().first_byte, one);
    }

    /// An attempt that ended badly, counted under `code`.
    pub fn bad(&self, code: u16, one: Exemplar) {
        self.kept().get_or_insert_default().bad = Some((code, one));
    }

    /// What is kept now; `None` if no request of this leg had a trace.
    pub fn read(&self) -> Option<Box<Kept>> {
        self.kept().clone()
    }

    fn kept(&self) -> MutexGuard<'_, Option<Box<Kept>>> {
        // Each place is whole even if a thread panicked beside it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts `one` where it belongs, unless a bad one stands there that is not old yet.
fn place(buckets: &mut OfBuckets, one: Exemplar) {
    let place = &mut buckets[bucket(one.took)];
    let stays = |before: &Exemplar| {
        before.is_bad && !one.is_bad && one.at < before.at.saturating_add(BAD_STAYS)
    };
    if !place.as_ref().is_some_and(stays) {
        *place = Some(one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(trace: u128, millis: u64, at: u64, is_bad: bool) -> Exemplar {
        let (took, at) = (Duration::from_millis(millis), Duration::from_secs(at));
        Exemplar { trace, span: 7, took, at, is_bad }
    }

    #[test]
    fn the_last_one_stands_for_its_bucket_and_a_bad_one_stays_a_minute() {
        let exemplars = Exemplars::default();
        assert!(exemplars.read().is_none());
        let trace = |index: usize| exemplars.read().unwrap().duration[index].unwrap().trace;
        exemplars.duration(one(1, 1, 100, false));
        exemplars.duration(one(2, 1, 101, false));
        assert_eq!(trace(0), 2);
        exemplars.duration(one(3, 1, 102, true));
        exemplars.duration(one(4, 1, 161, false));
        assert_eq!(trace(0), 3);
        exemplars.duration(one(5, 1, 161, true));
        assert_eq!(trace(0), 5);
        exemplars.duration(one(6, 1, 221, false));
        assert_eq!(trace(0), 6);
        exemplars.duration(one(7, 601_000, 222, false));
        assert_eq!(trace(BUCKETS.len()), 7);
        let kept = exemplars.read().unwrap();
        assert_eq!(kept.duration.iter().flatten().count(), 2);
        assert!(kept.bad.is_none() && kept.first_byte.iter().all(Option::is_none));
    }
}
