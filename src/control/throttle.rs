//! How many requests of one backend may be under way: as the config says, or as its latency
//! says.
//!
//! Never on the way of a request: it sets a number, the gate holds to it.

use std::sync::Arc;

use crate::telemetry::gate::Gate;
use crate::traffic::limit::{Gradient, InFlight, Limits};
use crate::units::Tick;

/// The limit of one backend.
#[derive(Debug)]
pub struct Throttle {
    gate: Arc<Gate>,
    queue: u32,
    /// `None` where the config gives a number.
    gradient: Option<Gradient>,
    read: (u64, u64),
}

impl Throttle {
    /// Nothing is under way.
    pub fn new(limits: Limits, workers: usize, now: Tick) -> Self {
        let gate = Arc::new(Gate::new(1, limits.queue, workers));
        Self { gate, queue: limits.queue, gradient: None, read: (0, 0) }.with(limits, now)
    }

    /// With other limits from here on; what is under way stays.
    #[must_use]
    pub fn with(mut self, limits: Limits, now: Tick) -> Self {
        self.queue = limits.queue;
        self.gradient = match limits.in_flight {
            InFlight::Fixed(_) => None,
            InFlight::Auto => Some(self.gradient.unwrap_or_else(|| Gradient::new(now))),
        };
        let number = match limits.in_flight {
            InFlight::Fixed(number) => number,
            InFlight::Auto => self.gradient.map_or(1, |gradient| gradient.limit()),
        };
        self.gate.set(number, self.queue);
        self
    }

    /// What holds to it.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Goes by what was seen since the last look.
    pub fn look(&mut self, now: Tick) {
        let seen = self.gate.look(&mut self.read);
        if let Some(gradient) = &mut self.gradient {
            *gradient = gradient.look(seen, now);
            self.gate.set(gradient.limit(), self.queue);
        }
    }
}
