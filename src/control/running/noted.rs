//! What workers have noted down of single attempts, taken over by the rollout: latencies of
//! stable, ids of answers, requests that failed.
//!
//! Never judges.

use std::time::Duration;

use crate::control::feedback::{Heard, Said};
use crate::control::running::Running;
use crate::control::running::telling::{News, Telling};
use crate::rollout::objective::Signal;
use crate::rollout::record::FailingRequest;
use crate::telemetry::counts::Arm;
use crate::telemetry::latencies::LatencyCounts;
use crate::units::Tick;

impl Running {
    pub(super) fn has_body(&self) -> bool {
        self.plan().objectives.iter().any(|one| one.signal() == Signal::Body)
    }

    /// Stable's latencies that were not measured by yet.
    fn latencies(&self) -> LatencyCounts {
        let mut sum = LatencyCounts::default();
        let news = self.epochs.iter().filter(|epoch| !epoch.measured);
        news.for_each(|epoch| sum.add(&epoch.evidence.latencies()));
        sum
    }

    /// A step has begun: what stable did in the one before is what the body objective measures
    /// by. Before [`Self::new_epoch`].
    pub fn freeze_body(&mut self) {
        if self.has_body() {
            let live = self.latencies();
            self.freeze(&live);
        }
    }

    fn freeze(&mut self, live: &LatencyCounts) {
        self.body.freeze(live);
        self.epochs.iter_mut().for_each(|epoch| epoch.measured = true);
    }

    /// Whether enough of stable was seen to measure by, for the first time in this step; then it
    /// is frozen, and a new epoch has to begin. The threshold.
    pub fn has_measured_body(&mut self) -> Option<Duration> {
        if !self.has_body() || self.state().has_ended() || self.body.threshold().is_some() {
            return None;
        }
        let live = self.latencies();
        if self.body.is_ripe(&live) {
            self.freeze(&live);
        }
        self.body.threshold()
    }

    /// What is said about an answer, later.
    pub fn hear(&mut self, said: &Said, now: Tick) -> Heard {
        self.remember_answers(now);
        let epochs = (self.step_epoch, self.epochs_made);
        self.feedback.hear(said, &self.release.plan().objectives, epochs)
    }

    /// Takes the ids of answers that workers have noted down.
    pub(super) fn remember_answers(&mut self, now: Tick) {
        for epoch in &self.epochs {
            for arm in [Arm::Stable, Arm::Canary] {
                self.feedback.remember(epoch.evidence.take_answered(arm), arm, epoch.number, now);
            }
        }
    }

    /// What is to be told of how it stands, beside what has an effect.
    pub fn news(&mut self, now: Tick) -> Option<News> {
        self.telling.news(self.release.state(), now)
    }

    /// How it stands is told with an effect.
    pub fn is_told(&mut self) {
        self.telling = Telling::of(self.release.state());
    }

    /// The first requests that made the evidence there is.
    pub fn failing(&self) -> Vec<FailingRequest> {
        self.failing.shown(&self.plan().objectives)
    }

    pub(super) fn note_failures(&mut self) {
        for failure in self.epochs.iter().flat_map(|epoch| epoch.evidence.take_failures()) {
            self.failing.note(&failure, &self.release.plan().objectives, self.release.findings());
        }
    }
}
