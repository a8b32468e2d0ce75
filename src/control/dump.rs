//! The config in force as JSON, in the shape of the file, with defaults filled in.
//!
//! Never tells a secret: of a token file the path, of a header that may hold a credential
//! only that it is there.

mod telling;

use std::path::PathBuf;

use http::{HeaderName, HeaderValue};
use rustls::pki_types::ServerName;
use serde_json::{Map, Value, json};

use crate::config::{Backend, Config, Fleet, Kubernetes, Listener, Route, Rule, render};
use crate::control::Status;
use crate::control::dump::telling::{access_log, tracing};
use crate::names::BackendName;
use crate::rollout::objective::{Bound, Objective, OnBreach, Signal};
use crate::rollout::plan::{Breach, Deadline, Plan};
use crate::rollout::step::{Step, Until};
use crate::tls::{EndpointTls, ServerTls};
use crate::traffic::client::ClientMatch;
use crate::traffic::draw::StickyKey;
use crate::traffic::ejection::Ejection;
use crate::traffic::health::{HealthCheck, Probe};
use crate::traffic::limit::{InFlight, Limits};
use crate::traffic::matching::{Match, PathMatch, ValueMatch};
use crate::traffic::mirror::Mirror;
use crate::traffic::retry::{Condition, Retry, Timeouts};
use crate::traffic::source::Cidr;
use crate::traffic::warm_up::WarmUp;
use crate::units::{Ratio, Weight, duration_text};

/// What stands for a secret.
const REDACTED: &str = "[redacted]";

/// Parts of names of headers, cookies and parameters whose values may be credentials.
const SECRET_WORDS: [&str; 8] =
    ["auth", "cookie", "key", "pass", "secret", "session", "signature", "token"];

/// `GET /config_dump`: the config in force, whence and since when, and the defects of the
/// last reload if that failed, as `serin check -o json` prints them.
pub fn config_dump(status: &Status) -> Value {
    let errors = &status.last_error;
    let errors = errors.iter().map(|defect| render::json(&status.origin, defect));
    let last_error = Some(errors.collect::<Vec<_>>()).filter(|errors| !errors.is_empty());
    json!({
        "generation": status.generation,
        "hash": status.hash,
        "origin": status.origin,
        "loaded_at": status.loaded_at,
        "last_error": last_error,
        "config": config(&status.config),
    })
}

/// A map without the keys that have nothing to say.
fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    };
    let said = entries.into_iter().filter(|(_, value)| !is_empty(value));
    Value::Object(said.map(|(key, value)| (key.to_owned(), value)).collect())
}

fn list<'i, T: 'i>(
    items: impl IntoIterator<Item = &'i T>,
    show: impl FnMut(&'i T) -> Value,
) -> Value {
    items.into_iter().map(show).collect()
}

/// `config` as a file that means the same, secrets aside.
pub fn config(config: &Config) -> Value {
    let admin = &config.admin;
    let mut all = map([
        ("listeners", list(&config.listeners, listener)),
        (
            "admin",
            map([
                ("address", json!(admin.address)),
                ("token_file", json!(admin.token_file)),
                ("tokens", admin.tokens.iter().map(token).collect()),
            ]),
        ),
        ("metrics", map([("address", json!(config.metrics))])),
        ("state", map([("file", json!(config.state_file))])),
        ("kubernetes", kubernetes(&config.kubernetes)),
        ("fleet", config.fleet.as_ref().map_or(Value::Null, fleet)),
        ("workers", json!(config.workers)),
        ("replay_body_max", config.replay_body_bytes_max.into()),
        ("drain_delay", duration_text(config.drain_delay).into()),
        ("drain_timeout", duration_text(config.drain_timeout).into()),
        ("response_headers", config.response_headers.into()),
        ("tracing", config.tracing.as_ref().map_or(Value::Null, tracing)),
        ("backends", list(&config.backends, backend)),
        ("routes", list(&config.routes, route)),
        ("rollouts", config.rollouts.iter().map(|plan| rollout(config, plan)).collect()),
    ]);
    if let Some(log) = &config.access_log {
        // With nothing in it, too: there is one.
        all["access_log"] = access_log(log);
    }
    if let Some(ranges) = &config.trusted_proxies {
        // None of them says something too: nobody is trusted.
        all["trusted_proxies"] = list(ranges, range);
    }
    all
}

fn token((name, file): &(String, PathBuf)) -> Value {
    json!({ "name": name, "file": file })
}

fn listener(listener: &Listener) -> Value {
    let proxy_protocol = listener.proxy_protocol.as_ref().map(|one| match &one.from {
        Some(from) => json!({ "from": list(from, range) }),
        None => true.into(),
    });
    map([
        ("name", listener.name.as_str().into()),
        ("address", json!(listener.address)),
        ("proxy_protocol", proxy_protocol.unwrap_or_default()),
        ("head_timeout", duration_text(listener.head_timeout).into()),
        ("tls", listener.tls.as_ref().map_or(Value::Null, server_tls)),
        ("limits", map([("connections", json!(listener.connections_max))])),
    ])
}

/// Paths, never what is in the files.
fn server_tls(tls: &ServerTls) -> Value {
    let ServerTls { certificates, clients, min_version } = tls;
    let auth = clients.as_ref().map(|one| if one.required { "required" } else { "optional" });
    map([
        ("certificates", list(certificates, |one| json!({ "cert": one.cert, "key": one.key }))),
        ("client_ca", json!(clients.as_ref().map(|one| &one.ca))),
        ("client_crl", json!(clients.as_ref().and_then(|one| one.crl.as_ref()))),
        ("client_auth", json!(auth)),
        ("min_version", min_version.as_str().into()),
    ])
}

fn endpoint_tls(tls: &EndpointTls) -> Value {
    let EndpointTls { ca, server_name, certificate } = tls;
    map([
        ("ca", json!(ca)),
        ("server_name", json!(server_name.as_ref().map(ServerName::to_str))),
        ("cert", json!(certificate.as_ref().map(|one| &one.cert))),
        ("key", json!(certificate.as_ref().map(|one| &one.key))),
    ])
}

fn fleet(fleet: &Fleet) -> Value {
    map([
        ("name", fleet.name.as_str().into()),
        ("namespace", json!(fleet.namespace)),
        ("max_replicas", fleet.replicas_max.into()),
        ("replicas", json!(fleet.replicas.as_ref().map(ToString::to_string))),
    ])
}

fn kubernetes(settings: &Kubernetes) -> Value {
    map([
        ("server", json!(settings.server.as_ref().map(ToString::to_string))),
        ("token_file", json!(settings.token_file)),
        ("ca", json!(settings.ca)),
        ("zone", json!(settings.zone)),
        ("events", json!(settings.events)),
    ])
}

fn range(range: &Cidr) -> Value {
    range.to_string().into()
}

fn backend(backend: &Backend) -> Value {
    let refresh = duration_text(backend.dns_refresh);
    let mut all = map([
        ("name", backend.name.as_str().into()),
        ("endpoints", if backend.is_found() { Value::Null } else { json!(backend.endpoints) }),
        ("dns", json!(backend.dns.as_ref().map(ToString::to_string))),
        ("service", json!(backend.service.as_ref().map(ToString::to_string))),
        ("dns_refresh", backend.dns.as_ref().map_or(Value::Null, |_| refresh.into())),
        ("balance", backend.balance.as_str().into()),
        ("protocol", backend.protocol.as_str().into()),
        ("slow_start", backend.slow_start.map_or(Value::Null, |span| duration_text(span).into())),
        ("health", backend.health.as_ref().map_or(Value::Null, health)),
        ("ejection", backend.ejection.as_ref().map_or_else(|| "off".into(), ejection)),
        ("limits", backend.limits.map_or(Value::Null, limits)),
    ]);
    if let Some(tls) = &backend.tls {
        // An empty map is TLS as well.
        all["tls"] = endpoint_tls(tls);
    }
    all
}

fn health(check: &HealthCheck) -> Value {
    let (path, grpc, tcp) = match &check.probe {
        Probe::Http { path } => (Some(path), None, None),
        Probe::Grpc { service } => (None, Some(service), None),
        Probe::Tcp => (None, None, Some(true)),
    };
    map([
        ("path", json!(path)),
        ("grpc", json!(grpc)),
        ("tcp", json!(tcp)),
        ("interval", duration_text(check.interval).into()),
        ("timeout", duration_text(check.timeout).into()),
        ("healthy_threshold", check.healthy_threshold.into()),
        ("unhealthy_threshold", check.unhealthy_threshold.into()),
    ])
}

fn limits(limits: Limits) -> Value {
    let in_flight = match limits.in_flight {
        InFlight::Fixed(number) => json!(number),
        InFlight::Auto => json!("auto"),
    };
    let queue_timeout = duration_text(limits.queue_timeout);
    json!({ "in_flight": in_flight, "queue": limits.queue, "queue_timeout": queue_timeout })
}

fn ejection(rules: &Ejection) -> Value {
    json!({
        "consecutive_failures": rules.consecutive_failures,
        "success_rate_gap": rules.success_rate_gap.to_string(),
        "min_requests": rules.requests_min,
        "interval": duration_text(rules.interval),
        "time": duration_text(rules.time),
        "max_time": duration_text(rules.time_max),
        "max_share": rules.share_max.to_string(),
    })
}

fn route(route: &Route) -> Value {
    map([
        ("name", route.name.as_str().into()),
        ("hostnames", list(&route.hostnames, |host| host.to_string().into())),
        ("rules", list(&route.rules, rule)),
    ])
}

fn rule(rule: &Rule) -> Value {
    map([
        ("name", rule.name.as_str().into()),
        ("matches", list(&rule.matches, one_match)),
        ("backends", list(&rule.backends, |one| share(rule, one))),
        ("sticky", rule.sticky.as_ref().map_or(Value::Null, sticky)),
        ("mirrors", list(&rule.mirrors, mirror)),
        ("timeouts", timeouts(&rule.timeouts)),
        ("limits", map([("max_body", json!(rule.body_bytes_max))])),
        ("retry", rule.retry.as_ref().map_or(Value::Null, retry)),
        ("failover", if rule.failover { true.into() } else { Value::Null }),
    ])
}

fn share(rule: &Rule, (name, weight): &(BackendName, Weight)) -> Value {
    let model = rule.models.iter().find(|(backend, _)| backend == name);
    map([
        ("name", name.as_str().into()),
        ("weight", weight.get().into()),
        ("model", model.map_or(Value::Null, |(_, model)| model.as_ref().into())),
    ])
}

fn one_match(one: &Match) -> Value {
    let path = one.path.as_ref().map(|path| match path {
        PathMatch::Prefix(prefix) if prefix.is_empty() => json!({ "prefix": "/" }),
        PathMatch::Prefix(prefix) => json!({ "prefix": prefix }),
        PathMatch::Exact(path) => json!({ "exact": path }),
        PathMatch::Regex(regex) => json!({ "regex": regex.as_str() }),
    });
    let headers = one.headers.iter().map(|(name, value)| condition(name.as_str(), value));
    map([
        ("path", path.unwrap_or_default()),
        ("method", json!(one.method.as_ref().map(http::Method::as_str))),
        ("headers", headers.collect()),
        ("cookies", one.cookies.iter().map(|(name, value)| condition(name, value)).collect()),
        ("query", one.query.iter().map(|(name, value)| condition(name, value)).collect()),
        ("client", one.client.as_ref().map_or(Value::Null, client)),
        ("model", one.model.as_ref().map_or(Value::Null, model)),
    ])
}

fn model(value: &ValueMatch) -> Value {
    match value {
        ValueMatch::Exact(name) => name.as_str().into(),
        ValueMatch::Regex(regex) => json!({ "regex": regex.as_str() }),
        ValueMatch::Present(present) => json!({ "present": present }),
    }
}

fn client(one: &ClientMatch) -> Value {
    match one {
        ClientMatch::Spiffe(id) => json!({ "spiffe": id }),
        ClientMatch::Subject(subject) => json!({ "subject": subject }),
        ClientMatch::Regex(regex) => json!({ "regex": regex.as_str() }),
        ClientMatch::Present(present) => json!({ "present": present }),
    }
}

fn condition(name: &str, value: &ValueMatch) -> Value {
    match value {
        ValueMatch::Exact(_) if is_secret(name) => json!({ "name": name, "value": REDACTED }),
        ValueMatch::Exact(value) => json!({ "name": name, "value": value }),
        ValueMatch::Regex(_) if is_secret(name) => json!({ "name": name, "regex": REDACTED }),
        ValueMatch::Regex(regex) => json!({ "name": name, "regex": regex.as_str() }),
        ValueMatch::Present(present) => json!({ "name": name, "present": present }),
    }
}

fn sticky(key: &StickyKey) -> Value {
    match key {
        StickyKey::Header(name) => json!({ "header": name.as_str() }),
        StickyKey::Cookie(name) => json!({ "cookie": name }),
        StickyKey::Query(name) => json!({ "query": name }),
    }
}

fn mirror(mirror: &Mirror) -> Value {
    let set = mirror.set.iter().map(|(name, value)| (name.to_string(), header_value(name, value)));
    let headers = map([
        ("remove", list(&mirror.remove, |name| name.as_str().into())),
        ("set", Value::Object(set.collect::<Map<_, _>>())),
    ]);
    map([
        ("backend", mirror.backend.as_str().into()),
        ("percent", mirror.share.to_string().into()),
        ("methods", list(&mirror.methods, |method| method.as_str().into())),
        ("max_body", size_text(mirror.body_bytes_max).into()),
        ("max_in_flight", mirror.in_flight_max.into()),
        ("headers", headers),
        ("model", mirror.model.as_deref().map_or(Value::Null, Into::into)),
    ])
}

fn header_value(name: &HeaderName, value: &HeaderValue) -> Value {
    let secret = value.is_sensitive() || is_secret(name.as_str());
    let shown = if secret { REDACTED.into() } else { String::from_utf8_lossy(value.as_bytes()) };
    shown.into()
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

fn timeouts(timeouts: &Timeouts) -> Value {
    map([
        ("connect", duration_text(timeouts.connect).into()),
        ("first_byte", duration_text(timeouts.first_byte).into()),
        ("idle", duration_text(timeouts.idle).into()),
        ("request", json!(timeouts.request.map(duration_text))),
        ("tunnel", duration_text(timeouts.tunnel).into()),
        ("upload_rate", format!("{}B", timeouts.upload_rate).into()),
    ])
}

fn retry(retry: &Retry) -> Value {
    map([
        ("attempts", retry.attempts.into()),
        ("budget", retry.budget.to_string().into()),
        ("on", retry.on.iter().map(|one| condition_word(*one)).collect()),
        ("methods", list(&retry.methods, |method| method.as_str().into())),
    ])
}

fn condition_word(condition: Condition) -> Value {
    match condition {
        Condition::Connect => "connect".into(),
        Condition::Reset => "reset".into(),
        Condition::FirstByte => "first_byte".into(),
        Condition::ServerError => "5xx".into(),
        Condition::Status(status) => status.as_str().into(),
    }
}

fn rollout(config: &Config, plan: &Plan) -> Value {
    let warm_up = config.around(&plan.name).map_or(Value::Null, |around| {
        let WarmUp { time, requests } = around.warm_up;
        json!({ "time": duration_text(time), "requests": requests })
    });
    let probe = config.around(&plan.name).and_then(|around| around.probe.as_deref());
    // Fields and a body may hold what is nobody's business.
    let probe = probe.map_or(Value::Null, |probe| {
        let request = json!({ "method": probe.method.as_str(), "path": probe.target.as_str() });
        json!({ "every": duration_text(probe.every), "request": request })
    });
    map([
        ("name", plan.name.as_str().into()),
        ("rule", plan.rule.to_string().into()),
        ("stable", plan.stable.as_str().into()),
        ("canary", plan.canary.as_str().into()),
        ("version", plan.version.as_str().into()),
        ("false_rollback", plan.false_rollback.to_string().into()),
        ("objectives", list(&plan.objectives, objective)),
        ("steps", list(&plan.steps, step)),
        ("min_requests", plan.requests_min.into()),
        ("burst", duration_text(plan.burst).into()),
        ("on_breach", on_breach(plan.on_breach)),
        ("on_shared_breach", deadline(plan.on_shared_breach)),
        ("on_no_traffic", deadline(plan.on_no_traffic)),
        ("on_no_endpoint", deadline(plan.on_no_endpoint)),
        ("warm_up", warm_up),
        ("probe", probe),
    ])
}

fn on_breach(on_breach: Breach) -> Value {
    match on_breach {
        Breach::Rollback => "rollback".into(),
        Breach::Pause => "pause".into(),
        Breach::Alert => "alert".into(),
    }
}

fn deadline(deadline: Deadline) -> Value {
    match deadline {
        Deadline::Hold => "hold".into(),
        Deadline::AlertAfter(span) => json!({ "alert_after": duration_text(span) }),
        Deadline::RollbackAfter(span) => json!({ "rollback_after": duration_text(span) }),
    }
}

/// With the weight that it has, also where the file leaves it out, but where it may not be told.
fn step(step: &Step) -> Value {
    let mut keys = serde_json::Map::new();
    let mut put = |key: &str, value: Value| keys.insert(key.to_owned(), value);
    if let Some(copies) = &step.mirror {
        put("mirror", copies.share.to_string().into());
        put("methods", list(&copies.methods, |method| method.as_str().into()));
    }
    if step.mirror.is_none() && step.until != Until::Told {
        put("weight", step.weight.to_string().into());
    }
    let bounds = |at_least, at_most: Option<_>| match at_most {
        Some(at_most) => {
            json!({ "at_least": duration_text(at_least), "at_most": duration_text(at_most) })
        }
        None => json!({ "at_least": duration_text(at_least) }),
    };
    match step.until {
        Until::AtOnce => {}
        Until::Told => drop(put("pause", true.into())),
        Until::Soaked { at_least, at_most } => drop(put("for", bounds(at_least, Some(at_most)))),
        Until::Proven { at_least, at_most } => {
            put("until", "proven".into());
            put("for", bounds(at_least, at_most));
        }
    }
    Value::Object(keys)
}

/// In the long form.
fn objective(objective: &Objective) -> Value {
    let relative = objective.bound() == Bound::NotWorseThanStable;
    let (key, what) = match objective.signal() {
        Signal::Errors if relative => ("errors", "not-worse-than-stable".into()),
        Signal::Errors => ("errors", objective.limit().to_string().into()),
        Signal::Latency { .. } if relative => ("latency", "not-worse-than-stable".into()),
        Signal::Body => ("latency", "body-not-worse-than-stable".into()),
        Signal::Feedback(name) => {
            let min = Ratio::new(1.0 - objective.limit().get()).unwrap_or_default();
            ("feedback", json!({ "name": name.as_str(), "min": min.to_string() }))
        }
        Signal::Latency { quantile, threshold } => {
            ("latency", json!({ quantile.to_string(): duration_text(threshold) }))
        }
    };
    let limit = relative.then(|| objective.limit().to_string());
    let on_breach = match objective.on_breach() {
        OnBreach::Rollback => "rollback",
        OnBreach::Hold => "hold",
    };
    map([
        (key, what),
        ("limit", json!(limit)),
        ("ratio", objective.ratio().into()),
        ("on_breach", on_breach.into()),
    ])
}

/// A number of bytes as a person writes it: `1MiB`, `64KiB`, `1500B`.
fn size_text(bytes: u64) -> String {
    for (size, unit) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= size && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests;
