//! The measuring of one attempt, from its start to the end of its body.
//!
//! Never decides what was good: it is told once, by `settle` or, when nobody told, in
//! `Drop`, which means the client went away.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use slab::Slab;

use crate::clock::Clock;
use crate::telemetry::counts::{Arm, ArmCounters, Evidence, Leg, LegCounters};
use crate::telemetry::gate::Pass;
use crate::telemetry::notes::Failure;
use crate::telemetry::reasons::FailureReason;
use crate::telemetry::signs::WorkerSigns;
use crate::telemetry::story::Tale;
use crate::telemetry::told::End;
use crate::traffic::outcome::Outcome;
use crate::units::Tick;

/// Code of a request whose client went away before there was an answer.
pub const CLIENT_GONE: u16 = 499;

/// A leg's counters as one worker writes them.
#[derive(Clone, Debug)]
pub struct WorkerLeg {
    leg: Arc<Leg>,
    worker: usize,
}

impl WorkerLeg {
    /// `worker` must be the calling one.
    pub fn new(leg: Arc<Leg>, worker: usize) -> Self {
        Self { leg, worker }
    }

    /// This worker's counters.
    pub fn counters(&self) -> &LegCounters {
        self.leg.of(self.worker)
    }

    /// All workers' counters.
    pub fn shared(&self) -> &Arc<Leg> {
        &self.leg
    }
}

/// One side of a rollout, as one worker counts into it.
#[derive(Debug)]
pub struct WorkerArm {
    evidence: Arc<Evidence>,
    arm: Arm,
    worker: usize,
}

impl WorkerArm {
    /// `worker` must be the calling one.
    pub fn new(evidence: Arc<Evidence>, arm: Arm, worker: usize) -> Self {
        Self { evidence, arm, worker }
    }

    /// Whether anything is told of an attempt by its `x-request-id`.
    pub fn asks_for_ids(&self) -> bool {
        self.arm == Arm::Canary || self.counters().answered.is_some()
    }

    fn counters(&self) -> &ArmCounters {
        self.evidence.of(self.worker, self.arm)
    }

    /// Counts an attempt against every objective in `slow`, as bits, that it was not counted
    /// against before.
    fn count_slow(&self, attempt: &OpenAttempt, slow: u8, code: Option<u16>, now: Tick) {
        let news = slow & !attempt.counted;
        if news == 0 {
            return;
        }
        for index in 0..self.evidence.thresholds.len() {
            if news & (1 << index) != 0 {
                self.counters().slow[index].add(1);
                // Apart from the same key's errors and its other objectives.
                let key = attempt.sticky.map(|key| key.rotate_left(index as u32 + 1));
                if !self.is_repeated(key, now) {
                    self.counters().slow_once[index].add(1);
                }
            }
        }
        self.note(attempt, news, (code, None), now);
    }

    /// Notes down a canary's attempt that failed, or was too slow for the objectives `slow`.
    fn note(
        &self,
        attempt: &OpenAttempt,
        slow: u8,
        (code, reason): (Option<u16>, Option<FailureReason>),
        now: Tick,
    ) {
        if let (Arm::Canary, Some(id)) = (self.arm, &attempt.id) {
            let taken = now.since(attempt.started);
            let trace = attempt.trace;
            let failure = || Failure { id: id.clone(), trace, code, reason, taken, slow };
            self.counters().failures.note(failure);
        }
    }

    /// Whether the sticky `key` had such an attempt before in the slot of `now`.
    fn is_repeated(&self, key: Option<u64>, now: Tick) -> bool {
        key.is_some_and(|key| self.evidence.is_repeated(key, now))
    }

    /// The objectives, as bits, over whose threshold `taken` is.
    fn slow_after(&self, taken: Duration) -> u8 {
        let over = |threshold: &Option<Duration>| threshold.is_some_and(|limit| taken > limit);
        let bits = self.evidence.thresholds.iter().enumerate();
        bits.filter(|(_, threshold)| over(threshold))
            .fold(0, |bits, (index, _)| bits | (1 << index))
    }
}

/// Attempts of one worker that may yet become slow: an attempt counts as slow when its
/// threshold passes, not when its answer arrives.
#[derive(Debug, Default)]
pub struct OpenAttempts {
    open: RefCell<Slab<OpenAttempt>>,
}

#[derive(Debug)]
struct OpenAttempt {
    arm: Rc<WorkerArm>,
    started: Tick,
    counted: u8,
    /// The draw of its sticky key.
    sticky: Option<u64>,
    id: Option<HeaderValue>,
    /// The id of its trace, where there are traces.
    trace: Option<u128>,
    /// Its latency says nothing.
    is_young: bool,
    /// It stands in Serin's own line: that is nobody's latency.
    waits: bool,
}

/// An attempt that is evidence.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// When it began, if it is not the one that the split dealt out.
    pub again: Option<Tick>,
    /// The draw of its sticky key.
    pub sticky: Option<u64>,
    /// Its `x-request-id`, where [`WorkerArm::asks_for_ids`].
    pub id: Option<HeaderValue>,
}

impl OpenAttempts {
    /// Counts what has become slow by `now`.
    pub fn sweep(&self, now: Tick) {
        let mut open = self.open.borrow_mut();
        for (_, attempt) in open.iter_mut().filter(|(_, one)| !one.is_young && !one.waits) {
            let slow = attempt.arm.slow_after(now.since(attempt.started));
            attempt.arm.count_slow(attempt, slow, None, now);
            attempt.counted |= slow;
        }
    }

    fn open(&self, attempt: OpenAttempt) -> usize {
        self.open.borrow_mut().insert(attempt)
    }

    fn close(&self, key: usize) -> OpenAttempt {
        self.open.borrow_mut().remove(key)
    }
}

/// How a rollout sees an attempt.
#[derive(Debug)]
struct Witness {
    open: Rc<OpenAttempts>,
    key: usize,
}

/// An attempt that is being measured.
#[derive(Debug)]
pub struct Sample {
    leg: Rc<WorkerLeg>,
    witness: Option<Witness>,
    /// Of the endpoint it went to.
    signs: Option<Rc<WorkerSigns>>,
    /// Its place among the backend's requests under way.
    pass: Option<Pass>,
    clock: Clock,
    started: Tick,
    code: Cell<u16>,
    failure: Cell<Option<FailureReason>>,
    outcome: Outcome,
    /// Whether the client got what it answered.
    answers: bool,
    /// What is told of it; `None` is nothing.
    tale: Option<Box<Tale>>,
    /// Bytes of the response's body.
    sent: Cell<u64>,
}

impl Sample {
    /// Starts measuring an attempt for the request that came at `started`. It is a
    /// cancelled one until it is settled.
    pub fn open(leg: Rc<WorkerLeg>, clock: Clock, started: Tick) -> Self {
        leg.counters().in_flight.add(1);
        let (code, failure) = (Cell::new(CLIENT_GONE), Cell::default());
        let outcome = Outcome::Neutral;
        Self {
            leg,
            witness: None,
            signs: None,
            pass: None,
            clock,
            started,
            code,
            failure,
            outcome,
            answers: true,
            tale: None,
            sent: Cell::new(0),
        }
    }

    /// Lets it be told of; after [`judged`](Self::judged).
    pub fn is_told_in(&mut self, tale: Tale) {
        if let Some(Witness { open, key }) = &self.witness {
            open.open.borrow_mut()[*key].trace = tale.trace();
        }
        // On the heap: most are told nothing of.
        self.tale = Some(Box::new(tale));
    }

    /// So many more bytes of the response's body came.
    pub fn passes(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
    }

    /// Bytes of the request's body; of the attempt that answers, once.
    pub fn set_received(&self, bytes: usize) {
        self.leg.counters().received_bytes.add(bytes as u64);
        if let Some(tale) = &self.tale {
            tale.received(bytes as u64);
        }
    }

    /// Lets the attempt count as evidence.
    #[must_use]
    pub fn judged(mut self, arm: &Rc<WorkerArm>, open: &Rc<OpenAttempts>, judged: Judged) -> Self {
        let Judged { again, sticky, id } = judged;
        if again.is_none() {
            arm.counters().begun.add(1);
        }
        let (arm, started) = (Rc::clone(arm), again.unwrap_or(self.started));
        let attempt = OpenAttempt {
            arm,
            started,
            counted: 0,
            sticky,
            id,
            trace: None,
            is_young: false,
            waits: true,
        };
        self.witness = Some(Witness { open: Rc::clone(open), key: open.open(attempt) });
        self
    }

    /// The endpoint is young: how long it takes is no evidence.
    pub fn at_young_endpoint(&self) {
        if let Some(Witness { open, key }) = &self.witness {
            open.open.borrow_mut()[*key].is_young = true;
        }
    }

    /// The attempt goes on, and holds `pass` until it is over. Where there was a line, how long
    /// it takes counts from `now`.
    pub fn admitted(&mut self, pass: Option<Pass>, now: Tick) {
        if let Some(Witness { open, key }) = &self.witness {
            let attempt = &mut open.open.borrow_mut()[*key];
            attempt.waits = false;
            if pass.is_some() {
                attempt.started = now;
            }
        }
        self.pass = pass;
    }

    /// The attempt is made at `endpoint`, whose signs these are.
    pub fn went_to(&mut self, signs: &Rc<WorkerSigns>, endpoint: SocketAddr) {
        self.signs = Some(Rc::clone(signs));
        if let Some(tale) = &self.tale {
            tale.went_to(endpoint);
        }
    }

    /// The response's head was there at `now`.
    pub fn first_byte(&self, code: u16, now: Tick) {
        self.code.set(code);
        self.leg.counters().first_byte.record(now.since(self.started));
        if let Some(pass) = &self.pass {
            pass.answered(self.leg.worker, now);
        }
        if let Some(tale) = &self.tale {
            tale.first_byte(now);
        }
    }

    /// How long the attempt takes says nothing: it lasts as long as its client likes.
    pub fn is_not_timed(&self) {
        if let Some(witness) = &self.witness {
            witness.open.open.borrow_mut()[witness.key].counted = u8::MAX;
        }
    }

    /// The code under which the attempt is counted, when no response told it.
    pub fn set_code(&self, code: u16) {
        self.code.set(code);
    }

    /// Why there is no answer, or none to its end.
    pub fn set_failure(&self, reason: FailureReason) {
        self.failure.set(Some(reason));
    }

    /// The attempt ended with `outcome`.
    pub fn settle(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// The attempt ended with `outcome`, and another one answers the client.
    pub fn settle_unanswered(mut self, outcome: Outcome) {
        self.answers = false;
        self.outcome = outcome;
    }

    /// How it ended, to be told.
    pub fn end(&self, at: Tick) -> End {
        End {
            leg: Some(Arc::clone(&self.leg.leg)),
            at,
            code: self.code.get(),
            outcome: self.outcome,
            failure: self.failure.get(),
            received: 0,
            sent: self.sent.get(),
        }
    }

    /// Whether the limit of the whole request passed mostly while it waited in Serin's own line:
    /// that is no fault of the endpoint, which got what was left.
    fn ran_out_in_line(&self, taken: Duration) -> bool {
        let waited = self.pass.as_ref().map_or(Duration::ZERO, Pass::waited);
        self.failure.get() == Some(FailureReason::RequestTimeout) && waited * 2 > taken
    }

    fn testify(&self, witness: &Witness, now: Tick) {
        let attempt = witness.open.close(witness.key);
        let taken = now.since(attempt.started);
        let arm = &attempt.arm;
        let counters = arm.counters();
        if self.outcome == Outcome::Neutral {
            return;
        }
        if self.outcome == Outcome::Bad {
            counters.bad.add(1);
            if !arm.is_repeated(attempt.sticky, now) {
                counters.bad_once.add(1);
            }
            arm.note(&attempt, 0, (Some(self.code.get()), self.failure.get()), now);
            if arm.arm == Arm::Canary {
                arm.evidence.alarm.ring();
            }
            // A fast failure must not improve latency.
            return;
        }
        counters.good.add(1);
        if let (Some(answered), Some(id), true) = (&counters.answered, &attempt.id, self.answers) {
            answered.note(id);
        }
        if attempt.is_young {
            return;
        }
        if let Some(latencies) = &counters.latencies {
            latencies.record(taken);
        }
        let slow = arm.slow_after(taken);
        arm.count_slow(&attempt, slow, Some(self.code.get()), now);
        let judged_by_latency = arm.evidence.thresholds.iter().enumerate();
        for (index, _) in judged_by_latency.filter(|(_, threshold)| threshold.is_some()) {
            if (slow | attempt.counted) & (1 << index) == 0 {
                counters.fast[index].add(1);
            }
        }
    }
}

impl Drop for Sample {
    /// Counts the attempt. One that nobody settled was cancelled: its future was dropped.
    fn drop(&mut self) {
        let now = self.clock.now();
        let taken = now.since(self.started);
        if self.outcome == Outcome::Bad && self.ran_out_in_line(taken) {
            self.outcome = Outcome::Neutral;
        }
        let counters = self.leg.counters();
        counters.in_flight.sub(1);
        counters.attempts(self.outcome).count(self.code.get());
        if self.answers {
            counters.requests.count(self.code.get());
            counters.duration.record(taken);
            counters.sent_bytes.add(self.sent.get());
        }
        if let Some(reason) = self.failure.get() {
            counters.failures(reason).add(1);
        }
        if let Some(signs) = &self.signs {
            signs.count(self.outcome);
        }
        if let Some(witness) = self.witness.take() {
            self.testify(&witness, now);
        }
        if let Some(tale) = self.tale.take() {
            let end = self.end(now);
            tale.end(end, self.answers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::counts::{ArmCounts, LegKey, Measures};

    struct World {
        leg: Rc<WorkerLeg>,
        evidence: Arc<Evidence>,
        arm: Rc<WorkerArm>,
        open: Rc<OpenAttempts>,
        clock: Clock,
    }

    fn world() -> World {
        let key = LegKey { route: "r".into(), rule: "m".into(), backend: "b".into() };
        let thresholds = vec![None, Some(Duration::from_millis(200))];
        let measures = Measures { thresholds, ids: true, latencies: true, ..Measures::default() };
        let evidence = Arc::new(Evidence::new(measures, Arc::default(), 1));
        World {
            leg: Rc::new(WorkerLeg::new(Arc::new(Leg::new(key, 1)), 0)),
            arm: Rc::new(WorkerArm::new(Arc::clone(&evidence), Arm::Canary, 0)),
            evidence,
            open: Rc::default(),
            clock: Clock::start(),
        }
    }

    impl World {
        fn attempt(&self, sticky: Option<u64>) -> Sample {
            let mut sample = self.attempt_in_line(sticky);
            sample.admitted(None, self.clock.now());
            sample
        }

        fn attempt_in_line(&self, sticky: Option<u64>) -> Sample {
            let sample = Sample::open(Rc::clone(&self.leg), self.clock, self.clock.now());
            let id = Some(HeaderValue::from_static("one"));
            sample.judged(&self.arm, &self.open, Judged { sticky, id, again: None })
        }

        fn counts(&self) -> ArmCounts {
            self.evidence.sum(Arm::Canary)
        }
    }

    #[test]
    fn a_dropped_attempt_is_a_cancelled_one_and_no_evidence() {
        let world = world();
        drop(world.attempt(None));
        assert_eq!(world.counts(), ArmCounts { begun: 1, ..ArmCounts::default() });
        let counters = world.leg.counters();
        assert_eq!(counters.requests.iter().collect::<Vec<_>>(), [(CLIENT_GONE, 1)]);
        assert_eq!(counters.in_flight.get(), 0);
    }

    #[test]
    fn a_good_attempt_counts_for_errors_and_latency() {
        let world = world();
        world.attempt(None).settle(Outcome::Good);
        let counts = world.counts();
        assert_eq!((counts.good, counts.fast[1], counts.slow[1], counts.fast[0]), (1, 1, 0, 0));
    }

    #[test]
    fn an_open_attempt_becomes_slow_when_its_threshold_passes_and_only_once() {
        let world = world();
        let sample = world.attempt(None);
        let later = |millis| world.clock.now().after(Duration::from_millis(millis));
        world.open.sweep(later(100));
        assert_eq!(world.counts().slow[1], 0);
        world.open.sweep(later(300));
        world.open.sweep(later(400));
        assert_eq!(world.counts().slow[1], 1);
        sample.settle(Outcome::Good);
        let counts = world.counts();
        assert_eq!((counts.good, counts.slow[1], counts.fast[1]), (1, 1, 0));
    }

    #[test]
    fn an_attempt_that_waits_in_our_own_line_is_not_slow() {
        let world = world();
        let sample = world.attempt_in_line(None);
        world.open.sweep(world.clock.now().after(Duration::from_secs(10)));
        sample.settle(Outcome::Neutral);
        assert_eq!(world.counts(), ArmCounts { begun: 1, ..ArmCounts::default() });
    }

    #[test]
    fn the_latency_of_a_young_endpoint_is_no_evidence_but_its_errors_are() {
        let world = world();
        let sample = world.attempt(None);
        sample.at_young_endpoint();
        world.open.sweep(world.clock.now().after(Duration::from_secs(1)));
        sample.settle(Outcome::Good);
        let counts = world.counts();
        assert_eq!((counts.good, counts.slow[1], counts.fast[1]), (1, 0, 0));
        let sample = world.attempt(None);
        sample.at_young_endpoint();
        sample.settle(Outcome::Bad);
        assert_eq!(world.counts().bad, 1);
    }

    #[test]
    fn failed_and_slow_attempts_are_noted_with_their_ids() {
        let world = world();
        let sample = world.attempt(None);
        world.open.sweep(world.clock.now().after(Duration::from_secs(1)));
        sample.set_code(503);
        sample.settle(Outcome::Bad);
        world.attempt(None).settle(Outcome::Good);
        let noted: Vec<_> = world.evidence.take_failures();
        let noted: Vec<_> = noted.iter().map(|one| (one.code, one.slow)).collect();
        assert_eq!(noted, [(None, 0b10), (Some(503), 0)]);
        let good = crate::telemetry::notes::id_hash(b"one");
        assert_eq!(world.evidence.take_answered(Arm::Canary), [good]);
    }

    #[test]
    fn why_an_attempt_failed_is_noted_down() {
        let world = world();
        let sample = world.attempt(None);
        sample.set_code(502);
        sample.set_failure(FailureReason::Reset);
        sample.settle(Outcome::Bad);
        let noted = world.evidence.take_failures();
        assert_eq!((noted[0].code, noted[0].reason), (Some(502), Some(FailureReason::Reset)));
    }

    #[test]
    fn a_fast_failure_does_not_improve_latency() {
        let world = world();
        world.attempt(None).settle(Outcome::Bad);
        let counts = world.counts();
        assert_eq!((counts.bad, counts.bad_once, counts.fast[1]), (1, 1, 0));
    }

    #[test]
    fn an_attempt_that_another_one_answers_for_is_evidence_and_no_request() {
        let world = world();
        let sample = world.attempt(None);
        sample.set_code(503);
        sample.settle_unanswered(Outcome::Bad);
        assert_eq!(world.counts().bad, 1);
        let counters = world.leg.counters();
        assert_eq!(counters.requests.iter().count(), 0);
        assert_eq!(counters.attempts(Outcome::Bad).iter().collect::<Vec<_>>(), [(503, 1)]);
        assert_eq!(counters.duration.read().0.iter().sum::<u64>(), 0);
    }

    #[test]
    fn a_sticky_user_who_fails_again_and_again_counts_once() {
        let world = world();
        for _ in 0..3 {
            world.attempt(Some(42)).settle(Outcome::Bad);
        }
        let counts = world.counts();
        assert_eq!(counts.bad, 3);
        // The slot may end while the test runs.
        assert!((1..=2).contains(&counts.bad_once), "{}", counts.bad_once);
    }
}
