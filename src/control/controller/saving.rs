//! What the controller puts on disk, and when.
//!
//! Never stops anything: what cannot be written now is written later.

use crate::control::controller::Controller;

impl Controller {
    pub(super) fn save_all(&mut self) {
        self.journal.flush();
        if self.journal.rotate() {
            self.begin_all();
        }
        if self.rollouts.is_empty() {
            return;
        }
        for rollout in &self.rollouts {
            self.ledger.remember(rollout.entry());
        }
        self.save();
    }

    pub(super) fn save(&mut self) {
        match self.ledger.save() {
            Ok(()) => self.unsaved = false,
            // Tried again at the next slot's end.
            Err(error) => tracing::error!(%error, "the ledger is not on disk"),
        }
    }
}
