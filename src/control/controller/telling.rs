//! What the controller shows.
//!
//! Never before it is so: a change that is not in the ledger yet is not shown, but its weight is.

use std::sync::Arc;

use crate::control::Status;
use crate::control::controller::Controller;
use crate::telemetry::metrics::Gauges;

impl Controller {
    /// Shows how things stand.
    pub(super) fn tell(&mut self) {
        let before = Arc::clone(&self.status.borrow());
        let (mut views, mut gauges) = (Vec::new(), Vec::new());
        for rollout in &self.rollouts {
            let mut view = rollout.view(&self.config);
            self.show_fleet(rollout, &mut view);
            let mut gauge = rollout.gauges(&view);
            if self.saving.holds_back(&view.name) {
                let weight = view.weight;
                if let Some(old) = before.rollouts.iter().find(|old| old.name == view.name) {
                    view.clone_from(old);
                }
                if let Some(old) = before.gauges.rollouts.iter().find(|old| old.name == view.name) {
                    gauge.clone_from(old);
                }
                (view.weight, gauge.weight) = (weight, weight);
            }
            views.push(view);
            gauges.push(gauge);
        }
        let status = Status {
            config: Arc::clone(&self.config),
            origin: self.path.display().to_string(),
            hash: self.hash.clone(),
            generation: self.generation,
            loaded_at: self.loaded_at.clone(),
            last_error: self.last_error.clone(),
            rollouts: views,
            told: self.journal.told(),
            gauges: Gauges {
                reload_successful: self.last_error.is_empty(),
                generation: self.generation,
                rollouts: gauges,
                endpoints: self.roster.gauges(),
                ejections: self.roster.ejections(),
                certificates: self.certificates.borrow().gauges(),
                limits: self.roster.limits(),
                searches: self.roster.searches(),
                reloads: vec![("taken", self.reloads[0]), ("refused", self.reloads[1])],
                reloaded_at: self.loaded_wall,
                journal: self.journal.results(),
                ledger_failures: self.saving.failures(),
                webhooks: self.notifier.results(),
                fleet: self.fleet_gauges(),
                events: self.events.results(),
            },
        };
        self.status.send_replace(Arc::new(status));
    }
}
