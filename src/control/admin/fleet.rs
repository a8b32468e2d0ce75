//! What this replica counted, for the one that judges for all.
//!
//! Never changes anything: whoever asks again gets the same again.

use axum::Json;
use axum::extract::{RawQuery, State};

use crate::control::admin::Shared;
use crate::rollout::fleet::pool::Report;

/// `GET /fleet/counts?boot=B&after=N`: slots that came after the one with that number, if `boot`
/// is this start of the replica; else all that are kept, at most 240 of a rollout.
pub(super) async fn counts(State(state): Shared, RawQuery(query): RawQuery) -> Json<Report> {
    let query = query.unwrap_or_default();
    let value = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next().unwrap_or_default()
    };
    Json(state.published.report(value("boot"), value("after").parse().unwrap_or(0)))
}
