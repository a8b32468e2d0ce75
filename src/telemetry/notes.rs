//! What a worker notes down of single attempts, for the control plane to read: the first that
//! failed, and the ids of those that were answered.
//!
//! Never waits for its reader and never grows: one thread writes, one reads, and what finds no
//! room is left out by a rule that has a name.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use xxhash_rust::xxh3::xxh3_64;

use crate::telemetry::reasons::FailureReason;

/// Failed attempts of one worker that wait to be read. When full, later ones are left out:
/// the first are those that explain.
pub const FAILURES_MAX: usize = 16;

/// Ids of answered attempts of one worker that wait to be read. When full, the oldest are
/// lost, and what is said about them later is not counted. Thirty thousand requests a second.
pub const ANSWERED_MAX: usize = 8192;

/// A failed or slow attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its `x-request-id`.
    pub id: HeaderValue,
    /// The id of its trace, where there are traces.
    pub trace: Option<u128>,
    /// `None` while there is no answer yet.
    pub code: Option<u16>,
    /// Why there is no answer, or none to its end.
    pub reason: Option<FailureReason>,
    /// What it took until it counted.
    pub taken: Duration,
    /// The objectives that it was too slow for, as bits; none of an attempt that failed.
    pub slow: u8,
}

/// The failed attempts of one worker and one side that were not read yet.
#[derive(Debug, Default)]
pub struct Failures {
    places: [ArcSwapOption<Failure>; FAILURES_MAX],
    written: AtomicU64,
    read: AtomicU64,
}

impl Failures {
    /// Notes one down, unless there is no room; from the writing thread only.
    pub fn note(&self, failure: impl FnOnce() -> Failure) {
        let written = self.written.load(Ordering::Relaxed);
        if written - self.read.load(Ordering::Acquire) < FAILURES_MAX as u64 {
            self.places[written as usize % FAILURES_MAX].store(Some(Arc::new(failure())));
            self.written.store(written + 1, Ordering::Release);
        }
    }

    /// Takes what was noted down, oldest first; from the reading thread only.
    pub fn take(&self) -> Vec<Arc<Failure>> {
        let (read, written) =
            (self.read.load(Ordering::Relaxed), self.written.load(Ordering::Acquire));
        let taken = (read..written)
            .filter_map(|index| self.places[index as usize % FAILURES_MAX].swap(None))
            .collect();
        self.read.store(written, Ordering::Release);
        taken
    }
}

/// Ids of the attempts of one worker and one side that answered a client.
#[derive(Debug)]
pub struct Answered {
    ids: Box<[AtomicU64]>,
    written: AtomicU64,
    read: AtomicU64,
}

impl Default for Answered {
    fn default() -> Self {
        Self {
            ids: (0..ANSWERED_MAX).map(|_| AtomicU64::new(0)).collect(),
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
        }
    }
}

/// What stands for a request's id: a hash of it, for an id may be long.
pub fn id_hash(id: &[u8]) -> u64 {
    xxh3_64(id)
}

impl Answered {
    /// Notes one down; from the writing thread only.
    pub fn note(&self, id: &HeaderValue) {
        let written = self.written.load(Ordering::Relaxed);
        let place = &self.ids[written as usize % ANSWERED_MAX];
        place.store(id_hash(id.as_bytes()), Ordering::Relaxed);
        self.written.store(written + 1, Ordering::Release);
    }

    /// Takes what was noted down, oldest first; from the reading thread only.
    pub fn take(&self) -> Vec<u64> {
        let written = self.written.load(Ordering::Acquire);
        let oldest = written.saturating_sub(ANSWERED_MAX as u64);
        let read = self.read.load(Ordering::Relaxed).max(oldest);
        let mut taken: Vec<_> = (read..written)
            .map(|index| self.ids[index as usize % ANSWERED_MAX].load(Ordering::Relaxed))
            .collect();
        // The writer may have come round meanwhile; the place it is at is in doubt as well.
        fence(Ordering::Acquire);
        let now = self.written.load(Ordering::Relaxed);
        let lost = (now + 1).saturating_sub(ANSWERED_MAX as u64).saturating_sub(read);
        taken.drain(..taken.len().min(lost as usize));
        self.read.store(written, Ordering::Relaxed);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: u16) -> Failure {
        let id = HeaderValue::from_static("one");
        Failure { id, trace: None, code: Some(code), reason: None, taken: Duration::ZERO, slow: 0 }
    }

    #[test]
    fn the_first_failures_are_kept_until_they_are_read() {
        let failures = Failures::default();
        for code in 0..40 {
            failures.note(|| failure(code));
        }
        let taken: Vec<_> = failures.take().iter().map(|one| one.code.unwrap()).collect();
        assert_eq!(taken, (0..16).collect::<Vec<_>>());
        assert!(failures.take().is_empty());
        failures.note(|| failure(99));
        assert_eq!(failures.take()[0].code, Some(99));
    }

    #[test]
    fn ids_are_read_once_and_the_oldest_are_lost() {
        let answered = Answered::default();
        let id = |number: usize| HeaderValue::from_str(&number.to_string()).unwrap();
        let hash = |number: usize| id_hash(id(number).as_bytes());
        (0..3).for_each(|number| answered.note(&id(number)));
        assert_eq!(answered.take(), [hash(0), hash(1), hash(2)]);
        assert!(answered.take().is_empty());
        let more = ANSWERED_MAX + 10;
        (0..more).for_each(|number| answered.note(&id(number)));
        let taken = answered.take();
        // The place that would be written next is in doubt.
        assert_eq!(taken.len(), ANSWERED_MAX - 1);
        assert_eq!((taken[0], *taken.last().unwrap()), (hash(11), hash(more - 1)));
    }

    #[test]
    fn a_reader_beside_the_writer_sees_whole_ids_in_order() {
        let answered = Answered::default();
        let seen = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for number in 0..100_000_u32 {
                    answered.note(&HeaderValue::from(number));
                }
            });
            let mut seen = Vec::new();
            while !writer.is_finished() {
                seen.extend(answered.take());
            }
            seen.extend(answered.take());
            seen
        });
        let known: std::collections::HashMap<_, _> =
            (0..100_000_u32).map(|n| (id_hash(n.to_string().as_bytes()), n)).collect();
        let numbers: Vec<_> = seen.iter().map(|hash| known[hash]).collect();
        assert!(numbers.is_sorted() && !numbers.is_empty());
    }
}
