//! Metrics in Prometheus' text format. Names and labels here are API.

mod rollouts;
mod shell;
pub mod text;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::names::BackendName;
use crate::telemetry::counts::{
    BUCKETS, Codes, Counter, Histogram, Leg, LegCounters, MirrorResult, RetryRefused,
};
use crate::telemetry::exemplars::{Exemplar, Kept, OfBuckets};
use crate::telemetry::listeners::{Handshake, Turned};
use crate::telemetry::metrics::text::{COUNTER, Format, GAUGE, HISTOGRAM, Label, Number, Text};
use crate::telemetry::reasons::{FailureReason, Limited};
use crate::telemetry::registry::Registry;
use crate::traffic::outcome::Outcome;

/// What the control plane knows at the moment of a scrape.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Whether the last reload took.
    pub reload_successful: bool,
    /// Of the config in force.
    pub generation: u64,
    /// Each rollout.
    pub rollouts: Vec<RolloutGauges>,
    /// Each endpoint of each backend.
    pub endpoints: Arc<Vec<EndpointGauge>>,
    /// Each backend, and how often one of its endpoints failed too often.
    pub ejections: Vec<(BackendName, u64)>,
    /// Each certificate that is shown to somebody.
    pub certificates: Vec<CertificateGauge>,
    /// Each backend that has limits.
    pub limits: Vec<LimitGauge>,
    /// Each backend that is found by name, and whether that works.
    pub searches: Vec<(BackendName, bool)>,
    /// Reloads since the start, by result.
    pub reloads: Vec<(&'static str, u64)>,
    /// When the config in force was read, in seconds since the Unix epoch.
    pub reloaded_at: u64,
    /// Lines of the journal since the start, by result.
    pub journal: Vec<(&'static str, u64)>,
    /// Ledgers that could not be written since the start.
    pub ledger_failures: u64,
    /// Messages to webhooks since the start, by result.
    pub webhooks: Vec<(&'static str, u64)>,
    /// This replica's place in its fleet; `None` outside of one.
    pub fleet: Option<FleetGauges>,
    /// Events of Kubernetes since the start, by result; empty where none are told.
    pub events: Vec<(&'static str, u64)>,
}

/// What is told of a replica's place in its fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FleetGauges {
    /// Whether the API can be reached.
    pub is_connected: bool,
    /// Whether it holds the lease.
    pub is_holder: bool,
    /// Replicas that answered it of late, and that did not; 0 where it does not ask.
    pub seen: usize,
    /// See `seen`.
    pub missing: usize,
}

/// What is told of a backend with limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitGauge {
    /// Whose they are.
    pub backend: BackendName,
    /// Requests that may be under way.
    pub in_flight_max: u32,
    /// Requests that wait.
    pub waiting: u32,
}

/// What is told of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointGauge {
    /// Whose it is.
    pub backend: BackendName,
    /// Where it is.
    pub endpoint: SocketAddr,
    /// Whether it gets requests.
    pub serves: bool,
    /// Whether it failed too often, and is out for a while.
    pub is_out: bool,
}

/// What is told of a certificate in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateGauge {
    /// Who shows it: `listener` or `backend`, and its name.
    pub owner: (&'static str, String),
    /// Its file.
    pub file: String,
    /// Last second of its validity, since the Unix epoch.
    pub not_after: i64,
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
    /// The e-value from which evidence is proof.
    pub threshold: f64,
    /// Why it does not go on now.
    pub hold: Option<String>,
    /// (objective, over limit, worse than stable).
    pub evidence: Vec<(String, f64, Option<f64>)>,
    /// Rollbacks of this process, by objective.
    pub rolled_back: Vec<(String, u64)>,
    /// What became of probes, at both versions; empty where none are sent.
    pub probes: Vec<ProbeCounts>,
}

/// What became of probes at one version.
#[derive(Clone, Debug)]
pub struct ProbeCounts {
    /// Which.
    pub backend: BackendName,
    /// How many ended so.
    pub counts: [(Outcome, u64); 3],
}

/// The whole exposition in `format`: every worker's counters added up, and `gauges`.
pub fn render(registry: &Registry, gauges: &Gauges, format: Format) -> String {
    let (legs, mirrors) = (registry.legs(), registry.mirrors());
    let mut text = Text::new(format);
    requests(&mut text, &legs);
    shell::bytes(&mut text, &legs);
    failures(&mut text, &legs);
    tries(&mut text, &legs);
    histograms(&mut text, &legs);
    in_flight(&mut text, &legs, &mirrors);
    copies(&mut text, &mirrors);
    endpoints(&mut text, &gauges.endpoints);
    ejections(&mut text, &gauges.ejections);
    searches(&mut text, &gauges.searches);
    limits(&mut text, &gauges.limits, &legs);
    rollouts::write(&mut text, &gauges.rollouts);
    if let Some(fleet) = &gauges.fleet {
        rollouts::fleet(&mut text, *fleet);
    }
    tls(&mut text, registry, &gauges.certificates);
    shell::connections(&mut text, registry);
    shell::told(&mut text, registry);
    shell::keeping(&mut text, gauges);
    process(&mut text, gauges);
    shell::process(&mut text);
    text.end()
}

type Legs = [Arc<Leg>];

const OUTCOMES: [Outcome; 3] = [Outcome::Good, Outcome::Bad, Outcome::Neutral];

fn requests(text: &mut Text, legs: &Legs) {
    text.family("serin_requests_total", COUNTER, "Requests that clients sent, by status answered.");
    for leg in legs {
        for (code, count) in codes(leg, |worker| &worker.requests) {
            let labels = [("code", &code as &dyn Display)];
            text.sample("serin_requests_total", &of_leg(leg, &labels), count);
        }
    }
    let help = "Attempts at endpoints, failovers and retries included, by status and outcome.";
    text.family("serin_attempts_total", COUNTER, help);
    for leg in legs {
        let bad = text.has_exemplars().then(|| leg.exemplars.read()?.bad).flatten();
        for outcome in OUTCOMES {
            for (code, count) in codes(leg, |worker| worker.attempts(outcome)) {
                let labels = [("code", &code as &dyn Display), ("outcome", &outcome.as_str())];
                let one = bad.as_ref().filter(|(of, _)| outcome == Outcome::Bad && *of == code);
                let one = one.map(|(_, one)| (one, 1.0));
                text.sample_with("serin_attempts_total", &of_leg(leg, &labels), count, one);
            }
        }
    }
}

/// What was tried again; nothing of a leg where nothing was.
fn tries(text: &mut Text, legs: &Legs) {
    let sum = |leg: &Leg, of: fn(&LegCounters) -> &Counter| -> u64 {
        leg.workers().map(|worker| of(worker).get()).sum()
    };
    let mut family = |name: &str, help: &str, of: fn(&LegCounters) -> &Counter| {
        text.family(name, COUNTER, help);
        for (leg, count) in legs.iter().map(|leg| (leg, sum(leg, of))) {
            if count > 0 {
                text.sample(name, &of_leg(leg, &[]), count);
            }
        }
    };
    let help = "Further attempts at a backend after a failed one.";
    family("serin_retries_total", help, |worker| &worker.retries);
    let help = "Attempts that the canary failed and stable was asked for instead.";
    family("serin_failovers_total", help, |worker| &worker.failovers);
    let name = "serin_retries_refused_total";
    text.family(name, COUNTER, "Failed attempts that could not be tried again, by reason.");
    for leg in legs {
        for reason in RetryRefused::ALL {
            let count: u64 = leg.workers().map(|worker| worker.refused(reason).get()).sum();
            if count > 0 {
                text.sample(name, &of_leg(leg, &[("reason", &reason.as_str())]), count);
            }
        }
    }
}

/// Why attempts had no answer, or none to its end.
fn failures(text: &mut Text, legs: &Legs) {
    let name = "serin_failures_total";
    text.family(name, COUNTER, "Attempts without an answer, or none to its end, by reason.");
    for leg in legs {
        for reason in FailureReason::ALL {
            let count: u64 = leg.workers().map(|worker| worker.failures(reason).get()).sum();
            if count > 0 {
                text.sample(name, &of_leg(leg, &[("reason", &reason.as_str())]), count);
            }
        }
    }
}

fn histograms(text: &mut Text, legs: &Legs) {
    let name = "serin_request_duration_seconds";
    text.family(name, HISTOGRAM, "From the request's head to the end of the response's body.");
    for leg in legs {
        histogram(text, name, leg, |worker| &worker.duration, |kept| &kept.duration);
    }
    let name = "serin_first_byte_seconds";
    text.family(name, HISTOGRAM, "From the request's head to the response's.");
    for leg in legs {
        histogram(text, name, leg, |worker| &worker.first_byte, |kept| &kept.first_byte);
    }
}

/// One histogram of `leg`; nothing before it has counted.
fn histogram(
    text: &mut Text,
    name: &str,
    leg: &Leg,
    of: impl Fn(&LegCounters) -> &Histogram,
    exemplars: impl Fn(&Kept) -> &OfBuckets,
) {
    let mut counts = [0; BUCKETS.len() + 1];
    let mut sum = 0.0;
    for worker in leg.workers() {
        let (more, seconds) = of(worker).read();
        counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
        sum += seconds;
    }
    if counts.iter().all(|count| *count == 0) {
        return;
    }
    let bucket = format!("{name}_bucket");
    let mut total = 0;
    let kept = text.has_exemplars().then(|| leg.exemplars.read()).flatten();
    let bounds = BUCKETS.into_iter().chain([f64::INFINITY]);
    for (index, (count, bound)) in counts.iter().zip(bounds).enumerate() {
        total += count;
        let one = kept.as_ref().and_then(|kept| exemplars(kept)[index].as_ref());
        let one = one.map(|one: &Exemplar| (one, one.took.as_secs_f64()));
        let le = text.bound(bound);
        text.sample_with(&bucket, &of_leg(leg, &[("le", &le)]), total, one);
    }
    text.sample(&format!("{name}_sum"), &of_leg(leg, &[]), Number(sum));
    text.sample(&format!("{name}_count"), &of_leg(leg, &[]), total);
}

fn in_flight(text: &mut Text, legs: &Legs, mirrors: &[(Arc<Leg>, u32)]) {
    let mut by_backend = BTreeMap::<&str, u64>::new();
    for leg in legs.iter().filter(|leg| !leg.key.backend.as_str().is_empty()) {
        let open: u64 = leg.workers().map(|worker| worker.in_flight.get()).sum();
        *by_backend.entry(leg.key.backend.as_str()).or_default() += open;
    }
    for (leg, copies) in mirrors {
        *by_backend.entry(leg.key.backend.as_str()).or_default() += u64::from(*copies);
    }
    let help = "Requests, or copies of them, whose response has not ended.";
    text.family("serin_requests_in_flight", GAUGE, help);
    for (backend, count) in by_backend {
        text.sample("serin_requests_in_flight", &[("backend", &backend)], count);
    }
}

fn copies(text: &mut Text, mirrors: &[(Arc<Leg>, u32)]) {
    let mut by_backend = BTreeMap::<&str, [u64; MirrorResult::ALL.len()]>::new();
    for (leg, _) in mirrors {
        let sums = by_backend.entry(leg.key.backend.as_str()).or_default();
        for (sum, result) in sums.iter_mut().zip(MirrorResult::ALL) {
            *sum += leg.workers().map(|worker| worker.mirrored(result).get()).sum::<u64>();
        }
    }
    let help = "Copies of requests for a shadow, by what became of them.";
    text.family("serin_mirror_requests_total", COUNTER, help);
    for (backend, sums) in by_backend {
        for (sum, result) in sums.into_iter().zip(MirrorResult::ALL) {
            let labels: [Label<'_>; 2] = [("backend", &backend), ("result", &result.as_str())];
            text.sample("serin_mirror_requests_total", &labels, sum);
        }
    }
}

fn endpoints(text: &mut Text, endpoints: &[EndpointGauge]) {
    let mut family = |name: &str, help: &str, of: fn(&EndpointGauge) -> bool| {
        text.family(name, GAUGE, help);
        for one in endpoints {
            let labels: [Label<'_>; 2] = [("backend", &one.backend), ("endpoint", &one.endpoint)];
            text.sample(name, &labels, u8::from(of(one)));
        }
    };
    family("serin_endpoint_healthy", "Whether the endpoint gets requests.", |one| one.serves);
    let help = "Whether the endpoint failed too often, and gets no requests for a while.";
    family("serin_endpoint_ejected", help, |one| one.is_out);
}

fn ejections(text: &mut Text, ejections: &[(BackendName, u64)]) {
    let name = "serin_ejections_total";
    text.family(name, COUNTER, "Endpoints that failed too often and were taken out, by backend.");
    for (backend, count) in ejections {
        text.sample(name, &[("backend", backend)], count);
    }
}

fn searches(text: &mut Text, searches: &[(BackendName, bool)]) {
    let name = "serin_discovery_successful";
    text.family(name, GAUGE, "Whether the last search for a backend's endpoints found any.");
    for (backend, successful) in searches {
        text.sample(name, &[("backend", backend)], u8::from(*successful));
    }
}

fn limits(text: &mut Text, limits: &[LimitGauge], legs: &Legs) {
    let mut family = |name: &str, help: &str, of: fn(&LimitGauge) -> u32| {
        text.family(name, GAUGE, help);
        for one in limits {
            text.sample(name, &[("backend", &one.backend)], of(one));
        }
    };
    let help = "Requests that a backend with limits may have under way.";
    family("serin_requests_in_flight_max", help, |one| one.in_flight_max);
    let help = "Requests that wait for a place at a backend with limits.";
    family("serin_requests_waiting", help, |one| one.waiting);
    let name = "serin_requests_limited_total";
    text.family(name, COUNTER, "Requests that got no place at a backend with limits, by reason.");
    for leg in legs {
        for reason in Limited::ALL {
            let count: u64 = leg.workers().map(|worker| worker.limited(reason).get()).sum();
            if count > 0 {
                text.sample(name, &of_leg(leg, &[("reason", &reason.as_str())]), count);
            }
        }
    }
}

/// Certificates in force, and what became of connections before their first request; nothing
/// of a listener where nothing was.
fn tls(text: &mut Text, registry: &Registry, certificates: &[CertificateGauge]) {
    let name = "serin_tls_certificate_expiry_timestamp_seconds";
    text.family(name, GAUGE, "Last second of a certificate's validity, since the Unix epoch.");
    for CertificateGauge { owner: (kind, owner), file, not_after } in certificates {
        text.sample(name, &[(kind, owner), ("certificate", file)], not_after);
    }
    let doors = registry.doors();
    let name = "serin_tls_handshakes_total";
    text.family(name, COUNTER, "TLS handshakes with clients, by how they ended.");
    for door in &doors {
        for how in Handshake::ALL {
            let labels: [Label<'_>; 2] = [("listener", &door.name), ("result", &how.as_str())];
            text.sample_if_any(name, &labels, door.handshakes(how));
        }
    }
    let name = "serin_connections_refused_total";
    text.family(name, COUNTER, "Connections that were closed before their first request.");
    for door in &doors {
        for why in Turned::ALL {
            let labels: [Label<'_>; 2] = [("listener", &door.name), ("reason", &why.as_str())];
            text.sample_if_any(name, &labels, door.turned(why));
        }
    }
}

fn process(text: &mut Text, gauges: &Gauges) {
    let name = "serin_config_last_reload_successful";
    text.family(
        name,
        GAUGE,
        "Whether the config file, with its TLS files, is in force as read last.",
    );
    text.sample(name, &[], u8::from(gauges.reload_successful));
    let name = "serin_config_generation";
    text.family(name, GAUGE, "Rises by one with every config that comes into force.");
    text.sample(name, &[], gauges.generation);
    text.family("serin_build_info", GAUGE, "What runs here; always 1.");
    let labels: [Label<'_>; 2] = [("version", &VERSION), ("commit", &COMMIT)];
    text.sample("serin_build_info", &labels, 1);
}

/// The codes that any worker counted, rising.
fn codes<'l>(leg: &'l Leg, of: impl Fn(&'l LegCounters) -> &'l Codes) -> BTreeMap<u16, u64> {
    let mut sums = BTreeMap::new();
    for (code, count) in leg.workers().flat_map(|worker| of(worker).iter()) {
        *sums.entry(code).or_default() += count;
    }
    sums
}

/// The labels of `leg`, and `more`.
fn of_leg<'a>(leg: &'a Leg, more: &[Label<'a>]) -> Vec<Label<'a>> {
    let key = &leg.key;
    let mut labels: Vec<Label<'a>> =
        vec![("route", &key.route), ("rule", &key.rule), ("backend", &key.backend)];
    labels.extend(more);
    labels
}

/// Of this build.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Of this build, where whoever built it said so.
const COMMIT: &str = match option_env!("SERIN_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

#[cfg(test)]
mod tests;
