//! What this replica counted, for the one that judges for all.
//!
//! Never changes what was counted: whoever asks again gets the same again.

use axum::Json;
use axum::extract::{RawQuery, State};

use crate::control::admin::Shared;
use crate::control::fleet::counts::Question;
use crate::rollout::fleet::pool::Report;

/// `GET /fleet/counts?boot=B&after=N`: slots that came after the one with that number, if `boot`
/// is this start of the replica; else all that are kept, at most 240 of a rollout. With
/// `&by=B&plans=P,Q` the holder of the lease says that it judges by those plans, so that this
/// replica leaves it to the fleet what its rollouts of such a plan are to blame for.
pub(super) async fn counts(State(state): Shared, RawQuery(query): RawQuery) -> Json<Report> {
    let query = query.unwrap_or_default();
    let value = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next().unwrap_or_default()
    };
    let after = value("after").parse().unwrap_or(0);
    let [boot, by, plans] = ["boot", "by", "plans"].map(value);
    Json(state.published.report(Question { boot, after, by, plans }))
}
