//! The admin API's JSON. Names and units here are API.
//!
//! Never computed from: these are answers, made in `controller` and read by `cli`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rollout::machine::Word;
use crate::rollout::record::Record;
use crate::rollout::step::Step;
use crate::rollout::verdict::Verdict;
use crate::rollout::view::ObjectiveView;

/// `GET /api/rollouts`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutsView {
    /// In the config's order.
    pub rollouts: Vec<RolloutView>,
}

/// `GET /api/rollouts/{name}`, and the answer to a verb.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutView {
    /// Its name.
    pub name: String,
    /// `route/rule`.
    pub rule: String,
    /// The trusted backend.
    pub stable: String,
    /// The judged backend.
    pub canary: String,
    /// Tells this attempt from the next.
    pub version: String,
    /// `progressing`, `paused`, `holding`, `promoted`, `rolled_back` or `aborted`.
    pub state: String,
    /// From 0; null without steps.
    pub step: Option<u32>,
    /// As planned; empty without steps.
    #[serde(default)]
    pub steps: Vec<StepView>,
    /// The canary's share of the rule's requests, 0 to 1.
    pub weight: f64,
    /// Why it ended, as a sentence with its numbers; null while it runs.
    pub reason: Option<String>,
    /// When it came into this state, RFC 3339.
    pub since: String,
    /// The judge's last word, or the one that ended it.
    pub verdict: Verdict,
    /// Why it may not go on; null when nothing holds it.
    pub hold_reason: Option<String>,
    /// In the config's order. Of an ended rollout, as they were when it was decided.
    pub objectives: Vec<ObjectiveView>,
    /// Of a body objective: what takes longer than so many milliseconds is slow, stable's p90 as
    /// it was when the step began. Not there without such an objective, or before it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_ms: Option<f64>,
    /// Stable and the canary, over the last ten seconds.
    #[serde(default)]
    pub versions: Vec<VersionView>,
    /// The last word of a person that was followed; null if there was none.
    #[serde(default)]
    pub said: Option<SaidView>,
    /// How it stands in the fleet; not there outside of one, or where counts are not pooled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetView>,
}

/// How a rollout stands in the fleet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FleetView {
    /// Whether this replica can reach the Kubernetes API.
    pub connected: bool,
    /// The replica that holds the lease, as far as is known; null if there is none.
    pub holder: Option<String>,
    /// What the holder finds, on the counts of all replicas; null at any other one.
    pub pooled: Option<PooledView>,
}

/// What the holder of the lease finds, on the counts of all replicas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PooledView {
    /// Replicas that should be there, itself among them.
    pub replicas: u64,
    /// Addresses of those that do not answer.
    pub missing: Vec<String>,
    /// The judge's last word.
    pub verdict: Verdict,
    /// Why the fleet may not go on; null when nothing holds it.
    pub hold_reason: Option<String>,
    /// In the config's order.
    pub objectives: Vec<ObjectiveView>,
}

/// What a version does of late.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VersionView {
    /// The backend's name.
    pub name: String,
    /// `stable` or `canary`.
    pub role: String,
    /// Its share of the rule's requests, 0 to 1.
    pub weight: f64,
    /// Requests that it answered in a second.
    pub rps: f64,
    /// The share of its attempts that were bad, 0 to 1.
    pub errors: f64,
    /// Of whole requests, as exact as the metrics' buckets; null without any.
    pub p99_ms: Option<f64>,
}

/// A person's word, and whose it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SaidView {
    /// `promote`, `promote_fully`, `pause`, `resume`, `abort` or `reset`.
    pub word: Word,
    /// The name of the admin token; null where none is needed.
    pub by: Option<String>,
    /// When, RFC 3339.
    pub at: String,
}

/// `GET /api/rollouts/{name}/changes`: what became of a rollout and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChangesView {
    /// How it stands now.
    pub rollout: RolloutView,
    /// The last ones, oldest first, of every version.
    pub changes: Vec<Record>,
}

/// One step of a rollout's plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepView {
    /// The canary's share of what goes to it or to stable, 0 to 1.
    pub weight: f64,
    /// The share of requests that is copied to it; null without copies.
    pub mirror: Option<f64>,
    /// `for 2m`, `until proven`, `until told`, `at once`.
    pub until: String,
}

impl From<&Step> for StepView {
    fn from(step: &Step) -> Self {
        Self {
            weight: step.weight.get(),
            mirror: step.mirror.as_ref().map(|copies| copies.share.get()),
            until: step.until.to_string(),
        }
    }
}

/// An error of the admin port: problem details (RFC 9457).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Always `about:blank`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong and what to do.
    pub detail: String,
}
