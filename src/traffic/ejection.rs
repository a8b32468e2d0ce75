//! Which endpoints get no requests for a while, by how their last attempts ended.
//!
//! Never takes the last endpoint: that is for health checks and discovery. Never counts: the
//! caller says what came since the last look.

use std::time::Duration;

use crate::units::{Ratio, Tick};

/// When an endpoint is taken out by what it did, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ejection {
    /// Failures in a row that take it out.
    pub consecutive_failures: u32,
    /// How far its share of successes must be below that of the others together.
    pub success_rate_gap: Ratio,
    /// Below so many attempts in an interval, its own and the others', nothing is compared.
    pub requests_min: u32,
    /// Over which successes are compared.
    pub interval: Duration,
    /// How long it is out for the first time; twice as long each time after.
    pub time: Duration,
    /// It is never out for longer.
    pub time_max: Duration,
    /// No more than this share of a backend's endpoints is out at once, and never the last.
    pub share_max: Ratio,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            success_rate_gap: Ratio::new(0.2).unwrap_or(Ratio::ONE),
            requests_min: 50,
            interval: Duration::from_secs(10),
            time: Duration::from_secs(10),
            time_max: Duration::from_mins(5),
            share_max: Ratio::new(0.5).unwrap_or(Ratio::ZERO),
        }
    }
}

/// Attempts at one endpoint that ended since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Those that did not fail.
    pub ok: u64,
    /// Those that failed.
    pub failed: u64,
    /// The longest row of failures without a success, as one worker saw it, that is not over.
    pub row: u64,
}

/// What is remembered of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Out until then.
    out_until: Option<Tick>,
    /// How often it was out, less the intervals that it was in since.
    times: u32,
    /// Failures since the last success anywhere.
    row: u64,
    /// Of the interval under way.
    ok: u64,
    failed: u64,
    since: Tick,
}

/// One endpoint at a look.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// As the last look left it.
    pub record: Record,
    /// What came since.
    pub news: News,
    /// Whether discovery and health checks let it have requests.
    pub is_well: bool,
}

impl Record {
    /// A record that begins `now`.
    pub fn new(now: Tick) -> Self {
        Self { since: now, ..Self::default() }
    }

    /// Whether it is out.
    pub fn is_out(&self) -> bool {
        self.out_until.is_some()
    }

    fn take_in(&mut self, news: News) {
        self.ok += news.ok;
        self.failed += news.failed;
        self.row = if news.ok > 0 { 0 } else { self.row + news.failed };
        self.row = self.row.max(if news.failed > 0 { news.row } else { 0 });
    }

    fn return_if_due(&mut self, now: Tick) {
        if self.out_until.is_some_and(|until| until <= now) {
            *self = Self { times: self.times, ..Self::new(now) };
        }
    }

    fn put_out(&mut self, rules: &Ejection, now: Tick) {
        let time = rules.time.saturating_mul(1 << self.times.min(20)).min(rules.time_max);
        *self = Self {
            out_until: Some(now.after(time)),
            times: self.times.saturating_add(1),
            ..Self::new(now)
        };
    }

    fn begin_interval(&mut self, now: Tick) {
        (self.ok, self.failed, self.since) = (0, 0, now);
        if !self.is_out() {
            self.times = self.times.saturating_sub(1);
        }
    }
}

/// A look at all endpoints of a backend: their records, and who is out, from here on.
pub fn look(rules: &Ejection, now: Tick, candidates: &[Candidate]) -> Vec<Record> {
    let mut records: Vec<_> = candidates.iter().map(|one| one.record).collect();
    for (record, candidate) in records.iter_mut().zip(candidates) {
        record.return_if_due(now);
        record.take_in(candidate.news);
    }
    let all: (u64, u64) =
        records.iter().fold((0, 0), |sum, one| (sum.0 + one.ok, sum.1 + one.failed));
    let out_max = (records.len() as f64 * rules.share_max.get()).floor() as usize;
    let mut out = records.iter().filter(|one| one.is_out()).count();
    let is_in = |record: &Record, candidate: &Candidate| candidate.is_well && !record.is_out();
    let mut serving = records.iter().zip(candidates).filter(|(r, c)| is_in(r, c)).count();
    for (record, candidate) in records.iter_mut().zip(candidates) {
        let ended = now.since(record.since) >= rules.interval;
        let is_bad = record.row >= u64::from(rules.consecutive_failures)
            || (ended && is_outlier(rules, (record.ok, record.failed), all));
        if is_bad && is_in(record, candidate) && serving > 1 && out < out_max {
            record.put_out(rules, now);
            out += 1;
            serving -= 1;
        } else if ended {
            record.begin_interval(now);
        }
    }
    records
}

/// Whether an endpoint with `own` successes and failures does worse than the others of `all`.
fn is_outlier(rules: &Ejection, own: (u64, u64), all: (u64, u64)) -> bool {
    let others = (all.0.saturating_sub(own.0), all.1.saturating_sub(own.1));
    let enough = |(ok, failed): (u64, u64)| ok + failed >= u64::from(rules.requests_min.max(1));
    let rate = |(ok, failed): (u64, u64)| ok as f64 / (ok + failed) as f64;
    enough(own) && enough(others) && rate(own) < rate(others) - rules.success_rate_gap.get()
}

/// Who gets requests: of each endpoint, whether it is well and whether it is out.
///
/// Panic: when fewer than `1 - share_max` of the endpoints would be left, or none, those that
/// are out serve with the others. So few cannot carry the load, and what fails everywhere is not an
/// endpoint's own fault. Those that are not well never serve.
pub fn in_rotation(rules: &Ejection, endpoints: &[(bool, bool)]) -> Vec<bool> {
    let left = endpoints.iter().filter(|(is_well, is_out)| *is_well && !is_out).count();
    let wanted = endpoints.len() as f64 * (1.0 - rules.share_max.get());
    let panic = left == 0 || (left as f64) < wanted;
    endpoints.iter().map(|(is_well, is_out)| *is_well && (panic || !is_out)).collect()
}

#[cfg(test)]
mod tests;
