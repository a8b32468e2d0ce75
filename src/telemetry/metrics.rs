//! Metrics in Prometheus' text format. Names and labels here are API.

use std::fmt::Write;

use crate::telemetry::registry::Registry;

/// What the control plane knows at the moment of a scrape.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Whether the last reload took.
    pub reload_successful: bool,
    /// Of the config in force.
    pub generation: u64,
    /// Each rollout.
    pub rollouts: Vec<RolloutGauges>,
}

/// What is told of one rollout.
#[derive(Clone, Debug, Default)]
pub struct RolloutGauges {
    /// Its name.
    pub name: String,
    /// Of `State::NAMES`.
    pub state: &'static str,
    /// The canary's share of the rule's requests, 0 to 1.
    pub weight: f64,
    /// (objective, over limit, worse than stable).
    pub evidence: Vec<(String, f64, Option<f64>)>,
    /// Rollbacks of this process, by objective.
    pub rolled_back: Vec<(String, u64)>,
}

/// The whole exposition.
pub fn render(registry: &Registry, gauges: &Gauges) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "# {} {}", registry.workers(), gauges.generation);
    out
}
