//! What becomes of endpoints that come and go.
//!
//! Never decides who serves: the roster does. Here it is published.

use std::sync::mpsc::SyncSender;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::control::controller::Controller;
use crate::control::fleet::Fleet;
use crate::control::roster::Report;
use crate::control::running::{Counting, Running};
use crate::units::Tick;

/// What the controller knows of reports that are to come.
#[derive(Debug)]
pub struct Reports {
    reported: mpsc::Receiver<Report>,
    /// Told once everyone has been asked.
    known: Option<SyncSender<()>>,
    /// Everyone has been asked once, or was waited for long enough.
    settled: bool,
}

/// From the start on, endpoints that do not answer are waited for so long.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

impl Reports {
    /// Arriving at `reported`.
    pub fn new(reported: mpsc::Receiver<Report>) -> Self {
        Self { reported, known: None, settled: false }
    }

    /// The next one.
    pub async fn next(&mut self) -> Option<Report> {
        self.reported.recv().await
    }

    /// The next one, if it is there.
    pub fn at_once(&mut self) -> Option<Report> {
        self.reported.try_recv().ok()
    }
}

impl Controller {
    /// Whether it is known who serves, and what the fleet has agreed on. Before that nothing is
    /// judged: that a canary has not been asked is no reason to hold it, and none to tell of.
    pub(super) fn has_settled(&mut self, now: Tick) -> bool {
        let is_known =
            || self.roster.is_known() && !self.rollouts.iter().any(Running::is_held_back);
        self.reports.settled |= is_known() || now.since_start() >= SETTLED_AFTER;
        self.reports.settled
    }

    /// `known` is told once every endpoint that is to be asked has been, and it is known what the
    /// fleet has agreed on.
    pub fn tell_when_known(&mut self, known: SyncSender<()>) {
        self.reports.known = Some(known);
    }

    /// Takes in reports, this one and those behind it: many at once are one change.
    pub(super) fn hear(&mut self, first: Report) {
        let now = self.now();
        self.roster.take_in(first, now);
        while let Some(report) = self.reports.at_once() {
            self.roster.take_in(report, now);
        }
        self.roster.ask();
        if self.rotate(now) {
            self.tell();
        }
        self.tell_if_known();
    }

    /// Tells whoever waits that everybody was heard of: endpoints, and the fleet.
    pub(super) fn tell_if_known(&mut self) {
        let fleet = self.fleet.as_ref().is_none_or(Fleet::is_known);
        let is_known = fleet && self.roster.is_known();
        if is_known && let Some(known) = self.reports.known.take() {
            // Whoever waited may have lost patience.
            let _ = known.try_send(());
        }
    }

    /// Publishes who serves, if that has changed.
    pub(super) fn rotate(&mut self, now: Tick) -> bool {
        let mut changed = self.roster.settle(now);
        let counting =
            Counting { alarm: &self.alarm, registry: &self.registry, roster: &self.roster };
        for rollout in &mut self.rollouts {
            changed |= rollout.endpoints_changed(now, counting);
        }
        if changed {
            self.publish();
        }
        changed
    }
}
