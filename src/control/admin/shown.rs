//! What the dashboard needs beside rollouts: config, routes, backends, journal.
//!
//! Never tells a secret: what is shown of the config is what the dump shows.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use crate::config::{Backend, render};
use crate::control::admin::{Denied, Shared};
use crate::control::journal::TOLD_MAX;
use crate::control::{Status, dump};
use crate::names::BackendName;
use crate::rollout::record::Record;
use crate::telemetry::metrics::EndpointGauge;

/// Records of an answer that was not asked for a number.
const RECORDS: usize = 50;

/// The first value of `name` in `query`, decoded.
pub(super) fn value_of(query: Option<&str>, name: &str) -> Option<String> {
    let pairs = form_urlencoded::parse(query?.as_bytes());
    pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// `GET /api/config`.
#[derive(Serialize)]
pub(super) struct ConfigView {
    /// The version of Serin itself.
    serin: &'static str,
    generation: u64,
    hash: String,
    origin: String,
    loaded_at: String,
    /// Defects of the last reload, as `serin check -o json` prints them; null if it took.
    last_error: Option<Vec<Value>>,
}

pub(super) fn config(status: &Status) -> ConfigView {
    let errors = status.last_error.iter().map(|defect| render::json(&status.origin, defect));
    ConfigView {
        serin: env!("CARGO_PKG_VERSION"),
        generation: status.generation,
        hash: status.hash.clone(),
        origin: status.origin.clone(),
        loaded_at: status.loaded_at.clone(),
        last_error: Some(errors.collect::<Vec<_>>()).filter(|errors| !errors.is_empty()),
    }
}

pub(super) async fn show_config(State(state): Shared) -> Json<ConfigView> {
    Json(config(&state.now()))
}

/// `GET /api/backends`.
#[derive(Serialize)]
pub(super) struct BackendsView {
    /// In the config's order.
    backends: Vec<BackendView>,
}

#[derive(Serialize)]
struct BackendView {
    name: String,
    protocol: &'static str,
    balance: &'static str,
    /// `listed`, or what finds its endpoints: `dns HOST:PORT`, `service NAMESPACE/NAME:PORT`.
    source: String,
    /// Whether the last search worked; null where the config lists them.
    found: Option<bool>,
    /// Requests that may be under way, and that wait for that; null without limits.
    in_flight_max: Option<u32>,
    waiting: Option<u32>,
    endpoints: Vec<EndpointView>,
}

#[derive(Serialize)]
struct EndpointView {
    address: String,
    /// `serving`, `ejected` (it failed too often), `not ready` (its health check says so).
    state: &'static str,
}

impl From<&EndpointGauge> for EndpointView {
    fn from(gauge: &EndpointGauge) -> Self {
        let state = match (gauge.serves, gauge.is_out) {
            (true, _) => "serving",
            (false, true) => "ejected",
            (false, false) => "not ready",
        };
        Self { address: gauge.endpoint.to_string(), state }
    }
}

pub(super) fn backends(status: &Status) -> BackendsView {
    let show = |backend: &Backend| {
        let name = &backend.name;
        let is_its = |one: &BackendName| one == name;
        let limits = status.gauges.limits.iter().find(|one| is_its(&one.backend));
        let searches = &status.gauges.searches;
        let endpoints = status.gauges.endpoints.iter().filter(|one| is_its(&one.backend));
        let dns = backend.dns.as_ref().map(|dns| format!("dns {dns}"));
        let service = backend.service.as_ref().map(|service| format!("service {service}"));
        BackendView {
            name: name.to_string(),
            protocol: backend.protocol.as_str(),
            balance: backend.balance.as_str(),
            source: dns.or(service).unwrap_or_else(|| "listed".to_owned()),
            found: searches.iter().find(|(one, _)| is_its(one)).map(|(_, works)| *works),
            in_flight_max: limits.map(|one| one.in_flight_max),
            waiting: limits.map(|one| one.waiting),
            endpoints: endpoints.map(EndpointView::from).collect(),
        }
    };
    BackendsView { backends: status.config.backends.iter().map(show).collect() }
}

pub(super) async fn show_backends(State(state): Shared) -> Json<BackendsView> {
    Json(backends(&state.now()))
}

/// Routes in the shape of the config file, and with each rule its rollout and the share that
/// each of its backends has now.
fn routes(status: &Status) -> Value {
    let mut routes = dump::config(&status.config).get("routes").cloned().unwrap_or_default();
    for (shown, route) in routes.as_array_mut().into_iter().flatten().zip(&status.config.routes) {
        let rules = shown.get_mut("rules").and_then(Value::as_array_mut);
        for (shown, rule) in rules.into_iter().flatten().zip(&route.rules) {
            let place = format!("{}/{}", route.name, rule.name);
            let rollout = status.rollouts.iter().find(|one| one.rule == place);
            let sum: f64 = rule.backends.iter().map(|(_, weight)| f64::from(weight.get())).sum();
            let share = |(name, weight): &(BackendName, _)| {
                let versions = rollout.map(|one| one.versions.as_slice()).unwrap_or_default();
                let now = versions.iter().find(|one| one.name == name.as_str());
                let share = now.map_or_else(|| written_share(*weight, sum), |one| one.weight);
                json!({ "backend": name.as_str(), "share": share })
            };
            shown["shares"] = rule.backends.iter().map(share).collect();
            shown["rollout"] = json!(rollout.map(|one| &one.name));
        }
    }
    json!({ "routes": routes })
}

fn written_share(weight: crate::units::Weight, sum: f64) -> f64 {
    if sum > 0.0 { f64::from(weight.get()) / sum } else { 0.0 }
}

pub(super) async fn show_routes(State(state): Shared) -> Json<Value> {
    Json(routes(&state.now()))
}

/// `GET /api/journal`.
#[derive(Serialize)]
pub(super) struct JournalView {
    /// Oldest first.
    records: Vec<Record>,
}

/// `?rollout=NAME` of one rollout, `&limit=N` the last N.
pub(super) async fn journal(
    State(state): Shared,
    RawQuery(query): RawQuery,
) -> Result<Json<JournalView>, Denied> {
    let rollout = value_of(query.as_deref(), "rollout");
    let limit = match value_of(query.as_deref(), "limit") {
        None => RECORDS,
        Some(text) => {
            text.parse().ok().filter(|limit| (1..=TOLD_MAX).contains(limit)).ok_or_else(|| {
                let detail = format!("`limit` is a number from 1 to {TOLD_MAX}, not `{text}`");
                Denied::new(StatusCode::BAD_REQUEST, detail)
            })?
        }
    };
    let told = state.now().told.clone();
    let wanted = |one: &&Record| rollout.as_ref().is_none_or(|name| one.rollout == *name);
    let mut records: Vec<_> = told.iter().rev().filter(wanted).take(limit).cloned().collect();
    records.reverse();
    Ok(Json(JournalView { records }))
}
