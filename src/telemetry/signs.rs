//! How attempts at one endpoint ended, counted by each worker for itself.
//!
//! Never takes an endpoint out: `control` reads the signs and decides.

use std::sync::Arc;

use crate::telemetry::counts::{Alarm, Counter};
use crate::traffic::ejection::News;
use crate::traffic::outcome::Outcome;

/// What workers saw of one endpoint since it appeared or came back.
#[derive(Debug)]
pub struct Signs {
    workers: Box<[WorkerCounts]>,
    /// Failures in a row, as one worker sees them, that are told at once.
    row_max: u64,
    alarm: Arc<Alarm>,
}

/// One worker's counts; on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct WorkerCounts {
    ok: Counter,
    failed: Counter,
    /// Failures since the last success.
    row: Counter,
}

/// What was read of [`Signs`] before.
#[derive(Clone, Debug, Default)]
pub struct Read(Vec<(u64, u64)>);

impl Signs {
    /// Nothing yet; rings `alarm` when a worker has seen `row_max` failures in a row.
    pub fn new(workers: usize, row_max: u32, alarm: Arc<Alarm>) -> Self {
        let workers = (0..workers).map(|_| WorkerCounts::default()).collect();
        Self { workers, row_max: row_max.into(), alarm }
    }

    /// Counts an attempt of `worker`, which must be the calling one. What says nothing of the
    /// endpoint is not counted.
    pub fn count(&self, worker: usize, outcome: Outcome) {
        let counts = &self.workers[worker];
        match outcome {
            Outcome::Neutral => {}
            Outcome::Good => {
                counts.ok.add(1);
                let row = counts.row.get();
                if row > 0 {
                    counts.row.sub(row);
                }
            }
            Outcome::Bad => {
                counts.failed.add(1);
                counts.row.add(1);
                if counts.row.get() == self.row_max {
                    self.alarm.ring();
                }
            }
        }
    }

    /// Attempts that ended well or badly, of all workers.
    pub fn ended(&self) -> u64 {
        self.workers.iter().map(|one| one.ok.get() + one.failed.get()).sum()
    }

    /// What came since `read` was last given here.
    pub fn news(&self, read: &mut Read) -> News {
        read.0.resize(self.workers.len(), (0, 0));
        let mut news = News::default();
        for (counts, before) in self.workers.iter().zip(&mut read.0) {
            let now = (counts.ok.get(), counts.failed.get());
            let failed = now.1.wrapping_sub(before.1);
            news.ok += now.0.wrapping_sub(before.0);
            news.failed += failed;
            if failed > 0 {
                news.row = news.row.max(counts.row.get());
            }
            *before = now;
        }
        news
    }
}

/// An endpoint's signs as one worker writes them.
#[derive(Clone, Debug)]
pub struct WorkerSigns {
    signs: Arc<Signs>,
    worker: usize,
}

impl WorkerSigns {
    /// `worker` must be the calling one.
    pub fn new(signs: Arc<Signs>, worker: usize) -> Self {
        Self { signs, worker }
    }

    /// Counts an attempt.
    pub fn count(&self, outcome: Outcome) {
        self.signs.count(self.worker, outcome);
    }

    /// Attempts that ended well or badly, of all workers.
    pub fn ended(&self) -> u64 {
        self.signs.ended()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_told_once_and_a_row_ends_with_a_success() {
        let signs = Signs::new(2, 5, Arc::default());
        let mut read = Read::default();
        for outcome in [Outcome::Bad, Outcome::Good, Outcome::Bad, Outcome::Neutral, Outcome::Bad] {
            signs.count(0, outcome);
        }
        signs.count(1, Outcome::Good);
        assert_eq!(signs.news(&mut read), News { ok: 2, failed: 3, row: 2 });
        assert_eq!(signs.news(&mut read), News::default());
        signs.count(1, Outcome::Bad);
        assert_eq!(signs.news(&mut read), News { ok: 0, failed: 1, row: 1 });
        assert_eq!(signs.ended(), 6);
    }
}
