//! `POST /api/feedback`: what is known of an answer only later.
//!
//! Never keeps a request's id: a hash of it is compared.

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::control::Command;
use crate::control::admin::{Deliberate, Denied, Shared, ask};
use crate::control::feedback::{Heard, Said};
use crate::rollout::objective::Signal;
use crate::telemetry::notes::id_hash;

/// One judgement, or a list of them: as many as fit into a body.
#[derive(Deserialize)]
#[serde(untagged)]
enum Message {
    One(Judgement),
    Many(Vec<Judgement>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Judgement {
    /// The `x-request-id` of the request.
    request_id: String,
    /// The name of the feedback in the config.
    objective: String,
    good: bool,
}

/// What became of them.
#[derive(Debug, Default, Serialize)]
pub(super) struct Sums {
    counted: u64,
    /// Said before.
    repeated: u64,
    /// Of no answer that is known.
    unknown: u64,
}

const HOW: &str = "send {\"request_id\": \"…\", \"objective\": \"NAME\", \"good\": true}, or a \
                   list of such";

/// Counts what is said. A single judgement that cannot be counted is an error; of a list it is
/// a number.
pub(super) async fn hear(
    State(state): Shared,
    Deliberate(body): Deliberate,
) -> Result<axum::Json<Sums>, Denied> {
    let message: Message =
        serde_json::from_slice(&body).map_err(|_| Denied::new(StatusCode::BAD_REQUEST, HOW))?;
    let (all, alone) = match message {
        Message::One(one) => (vec![one], true),
        Message::Many(many) => (many, false),
    };
    let status = state.now();
    let objectives = status.config.rollouts.iter().flat_map(|plan| &plan.objectives);
    let names: Vec<_> = objectives
        .filter_map(|one| match one.signal() {
            Signal::Feedback(name) => Some(name.as_str().to_owned()),
            Signal::Errors | Signal::Latency { .. } | Signal::Body => None,
        })
        .collect();
    if let Some(other) = all.iter().find(|one| !names.contains(&one.objective)) {
        let known = match &*names {
            [] => "the config has no feedback".to_owned(),
            names => format!("there is: {}", names.join(", ")),
        };
        let detail = format!("there is no feedback `{}`; {known}", other.objective);
        return Err(Denied::new(StatusCode::NOT_FOUND, detail));
    }
    let said = all.into_iter().map(|one| Said {
        id: id_hash(one.request_id.as_bytes()),
        name: one.objective,
        good: one.good,
    });
    let said = said.collect();
    let heard = ask(&state, |reply| Command::Hear { said, reply }).await?;
    let mut sums = Sums::default();
    for one in &heard {
        match one {
            Heard::Counted => sums.counted += 1,
            Heard::Repeated => sums.repeated += 1,
            Heard::Unknown | Heard::NoObjective => sums.unknown += 1,
        }
    }
    if alone && sums.unknown > 0 {
        let detail = "no answer is known under this id: only those of requests that the split \
                      dealt out, for a day, and of the last 200000";
        return Err(Denied::new(StatusCode::NOT_FOUND, detail));
    }
    Ok(axum::Json(sums))
}
