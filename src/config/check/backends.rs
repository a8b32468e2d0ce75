//! Backends and their endpoints.
//!
//! Never connects to one: whether it is there is for requests to find out.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::check::ports::reaches;
use crate::config::check::{Checker, Seen};
use crate::config::defect::Code;
use crate::config::raw;
use crate::config::read::{At, Form, Given};
use crate::config::tree::{NodeId, shown};
use crate::config::{Backend, Listener};
use crate::names::BackendName;
use crate::traffic::ejection::Ejection;
use crate::traffic::health::{HealthCheck, Probe};
use crate::traffic::limit::Limits;
use crate::units::duration_text;

/// Endpoints of one backend.
const ENDPOINTS_MAX: usize = 1024;

/// More often the resolver would be busy with it.
const DNS_REFRESH_MIN: Duration = Duration::from_secs(1);

/// More often a model server would be busy with saying that it is well.
const HEALTH_INTERVAL_MIN: Duration = Duration::from_millis(100);

impl Checker<'_> {
    pub(super) fn backends(&mut self, list: &At<Vec<At<raw::Backend>>>) -> Vec<Backend> {
        self.not_empty(list, "a backend, such as `{ name: model, endpoints: [127.0.0.1:9000] }`");
        let mut seen = Seen::names();
        let mut backends = Vec::new();
        for at in list.items() {
            let Some(raw) = at.get() else { continue };
            let name = self.own_name(&raw.name, &mut seen);
            let protocol = self.value(&raw.protocol).unwrap_or_default();
            let tls = raw.tls.found().map(|(id, raw)| self.backend_tls(id, raw));
            let endpoints = self.endpoints(at.id, raw);
            let dns = self.value(&raw.dns);
            let service = self.value(&raw.service);
            let dns_refresh = self.dns_refresh(raw);
            let balance = self.value(&raw.balance).unwrap_or_default();
            let slow_start = self.value(&raw.slow_start);
            let health = raw.health.found().and_then(|(id, raw)| self.health(id, raw));
            let ejection = self.ejection(&raw.ejection);
            let limits = raw.limits.get().and_then(|raw| self.limits(raw));
            // A bad name is still a name to whoever refers to it.
            let written = raw.name.get().map(|name| name.scalar.text.clone());
            if let Some(name) = name.or(written) {
                let name = BackendName::new(name);
                backends.push(Backend {
                    name,
                    endpoints,
                    dns,
                    service,
                    dns_refresh,
                    balance,
                    protocol,
                    tls,
                    slow_start,
                    health,
                    ejection,
                    limits,
                });
            }
        }
        backends
    }

    fn endpoints(&mut self, id: NodeId, raw: &raw::Backend) -> Vec<SocketAddr> {
        let there = [
            ("endpoints", raw.endpoints.is_there()),
            ("dns", raw.dns.is_there()),
            ("service", raw.service.is_there()),
        ];
        self.exactly_one(id, &there, raw.faulty);
        self.at_most(&raw.endpoints, ENDPOINTS_MAX, "split them over several backends");
        if raw.endpoints.get().is_some_and(Vec::is_empty) {
            let message = "without endpoints, every request for this backend is answered 503";
            let help = "add one, such as `127.0.0.1:9000`";
            self.report.add(raw.endpoints.id, Code::NoEndpoints, message, help);
        }
        let mut seen =
            Seen::of(Code::DuplicateEndpoint, "keep it once: it would get twice its share");
        let mut endpoints = Vec::new();
        for at in raw.endpoints.items() {
            let Some((id, endpoint)) = self.placed(at) else { continue };
            let message = format!("`{endpoint}` stands twice in this backend");
            self.once(&mut seen, id, &endpoint.to_string(), &message);
            endpoints.push(endpoint);
        }
        endpoints
    }

    fn dns_refresh(&mut self, raw: &raw::Backend) -> Duration {
        let Some((id, refresh)) = self.placed(&raw.dns_refresh) else {
            return Backend::DNS_REFRESH;
        };
        if refresh < DNS_REFRESH_MIN {
            let message = format!("`{}` is less than 1s", duration_text(refresh));
            let help = "write how often the name is looked up, as in `5s`";
            self.report.add(id, Code::Duration, message, help);
        }
        refresh
    }

    fn health(&mut self, id: NodeId, raw: &raw::Health) -> Option<HealthCheck> {
        let there = [
            ("path", raw.path.is_there()),
            ("grpc", raw.grpc.is_there()),
            ("tcp", raw.tcp.is_there()),
        ];
        let alone = self.exactly_one(id, &there, raw.faulty);
        let http = self.value(&raw.path).map(|path| Probe::Http { path });
        let grpc = self.value(&raw.grpc).map(|service| Probe::Grpc { service });
        let tcp = match self.placed(&raw.tcp) {
            Some((id, false)) => {
                let help = "leave `health` out if endpoints are not to be asked";
                self.report.add(id, Code::Choice, "`tcp: false` asks for nothing", help);
                None
            }
            other => other.map(|_| Probe::Tcp),
        };
        let interval = self.placed(&raw.interval);
        if let Some((id, interval)) = interval
            && interval < HEALTH_INTERVAL_MIN
        {
            let message = format!("`{}` is less than 100ms", duration_text(interval));
            let help = "write how often an endpoint is asked, as in `2s`";
            self.report.add(id, Code::Duration, message, help);
        }
        let interval = interval.map_or(HealthCheck::INTERVAL, |(_, interval)| interval);
        let timeout = self.value(&raw.timeout);
        let healthy = self.value(&raw.healthy_threshold);
        let unhealthy = self.value(&raw.unhealthy_threshold);
        Some(HealthCheck {
            probe: alone.then(|| http.or(grpc).or(tcp))??,
            interval,
            timeout: timeout.unwrap_or_else(|| HealthCheck::TIMEOUT.min(interval)),
            healthy_threshold: healthy.unwrap_or(HealthCheck::HEALTHY_THRESHOLD),
            unhealthy_threshold: unhealthy.unwrap_or(HealthCheck::UNHEALTHY_THRESHOLD),
        })
    }

    fn limits(&mut self, raw: &raw::BackendLimits) -> Option<Limits> {
        let queue = self.value(&raw.queue);
        let queue_timeout = self.value(&raw.queue_timeout);
        Some(Limits {
            in_flight: self.value(&raw.in_flight)?,
            queue: queue.unwrap_or(Limits::QUEUE),
            queue_timeout: queue_timeout.unwrap_or(Limits::QUEUE_TIMEOUT),
        })
    }

    fn ejection(&mut self, at: &At<raw::EjectionForm>) -> Option<Ejection> {
        let default = Ejection::default();
        let raw = match at.found() {
            None => return Some(default),
            Some((id, Form::Short(word))) => {
                self.value(&At { id, given: Given::Is(word.clone()) });
                return None;
            }
            Some((_, Form::Long(raw))) => raw,
        };
        let consecutive = self.value(&raw.consecutive_failures);
        Some(Ejection {
            consecutive_failures: consecutive.unwrap_or(default.consecutive_failures),
            success_rate_gap: self.value(&raw.success_rate_gap).unwrap_or(default.success_rate_gap),
            requests_min: self.value(&raw.min_requests).unwrap_or(default.requests_min),
            interval: self.value(&raw.interval).unwrap_or(default.interval),
            time: self.value(&raw.time).unwrap_or(default.time),
            time_max: self.value(&raw.max_time).unwrap_or(default.time_max),
            share_max: self.value(&raw.max_share).unwrap_or(default.share_max),
        })
    }

    /// An endpoint that is one of Serin's own listeners: a request would go round for ever.
    pub(super) fn no_loops(
        &mut self,
        list: &At<Vec<At<raw::Backend>>>,
        listeners: &[(NodeId, Listener)],
    ) {
        let backends = list.items().iter().filter_map(At::get);
        for at in backends.flat_map(|raw| raw.endpoints.items()) {
            let Some(endpoint) = at.get().and_then(|text| text.scalar.text.parse().ok()) else {
                continue;
            };
            if let Some((_, own)) = listeners.iter().find(|(_, one)| reaches(endpoint, one.address))
            {
                let message = format!("`{endpoint}` is Serin's own listener `{}`", own.name);
                let help = "write the model server's address: requests would go round in circles";
                self.report.add(at.id, Code::Loop, message, help);
            }
        }
    }

    /// Warns of backends that no rule names, unless what was refused may have done so.
    pub(super) fn all_used(
        &mut self,
        backends: &At<Vec<At<raw::Backend>>>,
        routes: &At<Vec<At<raw::Route>>>,
    ) {
        if self.report.refuses() {
            return;
        }
        let mut used = HashSet::new();
        let routes = routes.items().iter().filter_map(At::get);
        for rule in routes.flat_map(|route| route.rules.items()).filter_map(At::get) {
            let served = rule.backends.items().iter().filter_map(At::get).map(|one| &one.name);
            let mirrors = rule.mirrors.items().iter().filter_map(At::get).map(|one| &one.backend);
            let names = served.chain(mirrors).filter_map(At::get);
            used.extend(names.map(|name| name.scalar.text.as_str()));
        }
        for raw in backends.items().iter().filter_map(At::get) {
            let Some((id, name)) = raw.name.found() else { continue };
            let name = &name.scalar.text;
            if !used.contains(name.as_str()) {
                let message = format!("no rule uses the backend `{}`", shown(name));
                self.report.add(id, Code::UnusedBackend, message, "use it in a rule, or remove it");
            }
        }
    }
}
