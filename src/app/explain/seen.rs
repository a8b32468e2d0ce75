//! An explanation as scripts read it. Names and units here are API.
//!
//! Never computes anything.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::traffic::matching::misfit::Misfit;

/// What would become of a request. Shares, points and ratios are fractions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// What rules look at.
    pub request: RequestSeen,
    /// `file`, where rollouts stand at their beginning, or `proxy`, where they stand as they do.
    pub weights_of: String,
    /// `route/rule`; null if there is none.
    pub rule: Option<String>,
    /// Why it would be answered by Serin itself; null if it would not.
    pub refused: Option<Refusal>,
    /// What the rule does; null without one.
    pub outcome: Option<RuleSeen>,
    /// Every rule: the chosen one, then others that fit in the order in which they would be
    /// taken, then the rest in the file's order.
    pub rules: Vec<Candidate>,
}

/// What rules look at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RequestSeen {
    /// As sent.
    pub method: String,
    /// Without its port; null if there is none.
    pub host: Option<String>,
    /// With dot segments resolved.
    pub path: String,
    /// Without the question mark.
    pub query: Option<String>,
    /// What its JSON body names.
    pub model: Option<String>,
}

/// An answer of Serin's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// Why.
    pub detail: String,
}

/// A rule that might be taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Candidate {
    /// `route/rule`.
    pub rule: String,
    /// `chosen`, `fits` (but another goes before it) or `misfit`.
    pub result: String,
    /// Why the chosen one goes before it, or why it is chosen; null for misfits.
    pub why: Option<String>,
    /// Which of its matches fits, from 0; null if none does, or it has none.
    pub by: Option<usize>,
    /// Of each of its matches, in order, what does not fit; one, without matches.
    pub matches: Vec<Vec<Misfit>>,
}

/// What a rule does with a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RuleSeen {
    /// In the order in which they own the points from 0 to 1.
    pub split: Vec<ShareSeen>,
    /// What keeps a user on one version; null if nothing does.
    pub sticky: Option<StickySeen>,
    /// The backend that would answer; null if chance decides.
    pub backend: Option<String>,
    /// The rollout that watches the rule.
    pub rollout: Option<RolloutSeen>,
    /// Shadows.
    pub mirrors: Vec<MirrorSeen>,
    /// How long each phase may take, as `5s`; `request` is null without a limit.
    pub timeouts: TimeoutsSeen,
    /// What is tried again at the same backend.
    pub retry: Option<RetrySeen>,
    /// Who answers what the canary fails: null if nobody does.
    pub failover: Option<String>,
}

/// A backend's part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShareSeen {
    /// Its name.
    pub backend: String,
    /// `canary`, `stable`, or null outside of a rollout.
    pub role: Option<String>,
    /// Its share of the rule's requests.
    pub share: f64,
    /// The first point that is its own.
    pub from: f64,
    /// The first point that is no longer.
    pub to: f64,
    /// The name that the model is sent under; null is the one that was asked for.
    pub model: Option<String>,
}

/// Where a sticky key falls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StickySeen {
    /// `header`, `cookie` or `query`.
    pub by: String,
    /// Its name.
    pub name: String,
    /// What the request brings; null is no key, and chance decides.
    pub key: Option<String>,
    /// Where the key falls.
    pub point: Option<f64>,
}

/// A rollout as far as a request is concerned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutSeen {
    /// Its name.
    pub name: String,
    /// As in `/api/rollouts`.
    pub state: String,
    /// From 0; null without steps, or at the end.
    pub step: Option<u32>,
    /// Why it holds or ended.
    pub reason: Option<String>,
}

/// Whether a copy would be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MirrorSeen {
    /// Who would get it.
    pub backend: String,
    /// The share of requests that is copied.
    pub percent: f64,
    /// `yes`, `by chance` or `no`.
    pub copied: String,
    /// Why not; null otherwise.
    pub why: Option<String>,
}

/// Time limits in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TimeoutsSeen {
    /// Until a connection stands.
    pub connect: String,
    /// Until the answer begins.
    pub first_byte: String,
    /// Between two pieces of a body.
    pub idle: String,
    /// The whole; a gRPC client's own deadline, if that is shorter.
    pub request: Option<String>,
}

/// What would be tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RetrySeen {
    /// Further attempts after the first.
    pub attempts: u32,
    /// Failures, as the config names them.
    pub on: Vec<String>,
    /// The share of live requests that may be retries.
    pub budget: f64,
    /// Whether this request would be: its method may be sent twice.
    pub applies: bool,
}
