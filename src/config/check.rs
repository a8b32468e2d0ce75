//! From the file as written to the file as meant: every defect, not the first.
//!
//! Never opens a socket; touches files only where the caller wants that.

mod backends;
mod matches;
mod mirrors;
mod objectives;
mod ports;
mod probes;
mod rollouts;
mod routes;
mod steps;
mod telling;
mod tls;

use std::collections::HashMap;
use std::time::Duration;

use crate::config::defect::Code;
use crate::config::quantity::{Name, Quantity};
use crate::config::raw;
use crate::config::read::{As, At, listed, similar};
use crate::config::tree::{NodeId, Report, shown};
use crate::config::{Config, Fleet, Kubernetes};
use crate::rollout::plan::{Deadline, Plan};
use crate::traffic::retry::REPLAY_BODY_BYTES_MAX;

/// How long a drain waits where the file does not say.
pub(super) const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// Checks the whole file. `None` when a defect refuses it.
pub(super) fn check(file: &raw::File, touch_files: bool, report: &mut Report) -> Option<Config> {
    let mut checker = Checker { report, touch_files };
    let listeners = checker.listeners(&file.listeners);
    let admin = checker.admin(&file.admin);
    let metrics = checker.metrics(&file.metrics);
    checker.sockets_apart(&listeners, &admin, metrics);
    let backends = checker.backends(&file.backends);
    checker.no_loops(&file.backends, &listeners);
    let routes = checker.routes(&file.routes, &backends);
    checker.all_used(&file.backends, &file.routes);
    let mut rollouts = checker.rollouts(&file.rollouts, &routes, &backends);
    checker.failovers_used(&file.routes, &rollouts);
    let around = checker.around(&file.rollouts);
    let fleet = checker.fleet(&file.fleet);
    if let Some(fleet) = &fleet {
        checker.share_out(fleet, &file.rollouts, &mut rollouts);
    }
    checker.has_counts(&file.fleet, &file.metrics);
    let state = file.state.get().and_then(|state| checker.value(&state.file));
    let is_kept = file.state.is_there() || file.fleet.is_there();
    if state.is_none() && !rollouts.is_empty() && !is_kept {
        let help = "add `state: { file: ./serin-state.json }`";
        let message = "without `state`, a restart forgets what was rolled back";
        checker.report.add(file.rollouts.id, Code::NoLedger, message, help);
    }
    let kubernetes = checker.kubernetes(&file.kubernetes);
    let trusted_proxies = file.trusted_proxies.get().map(|list| checker.ranges(list));
    let workers = checker.value(&file.workers).and_then(|n| usize::try_from(n).ok());
    let drain_timeout = checker.value(&file.drain_timeout).unwrap_or(DRAIN_TIMEOUT_DEFAULT);
    let replay = checker.value(&file.replay_body_max).and_then(|bytes| usize::try_from(bytes).ok());
    let drain_delay = checker.value(&file.drain_delay).unwrap_or_default();
    let response_headers = checker.value(&file.response_headers).unwrap_or(false);
    let (access_log, tracing) =
        (checker.access_log(&file.access_log), checker.tracing(&file.tracing));
    if report.refuses() {
        return None;
    }
    Some(Config {
        listeners: listeners.into_iter().map(|(_, listener)| listener).collect(),
        admin: admin.1,
        metrics: metrics.map(|(_, address)| address),
        kubernetes,
        fleet,
        state_file: state,
        trusted_proxies,
        workers: workers.and_then(std::num::NonZero::new),
        replay_body_bytes_max: replay.unwrap_or(REPLAY_BODY_BYTES_MAX),
        drain_delay,
        drain_timeout,
        response_headers,
        access_log,
        tracing,
        backends,
        routes: routes.into_iter().map(|(_, route)| route).collect(),
        rollouts,
        around,
    })
}

/// What every check needs: a place for defects.
struct Checker<'r> {
    report: &'r mut Report,
    touch_files: bool,
}

impl Checker<'_> {
    fn fleet(&mut self, at: &At<raw::Fleet>) -> Option<Fleet> {
        let raw = at.get()?;
        let namespace = self.value(&raw.namespace);
        let replicas_max = self.value(&raw.max_replicas).unwrap_or(Fleet::REPLICAS_MAX);
        let replicas = self.value(&raw.replicas);
        Some(Fleet { name: self.value(&raw.name)?, namespace, replicas_max, replicas })
    }

    /// Replicas are asked for their counts at the metrics port.
    fn has_counts(&mut self, at: &At<raw::Fleet>, metrics: &At<raw::Metrics>) {
        let replicas = at.get().map(|raw| &raw.replicas);
        if let Some(replicas) = replicas.filter(|one| one.is_there() && !metrics.is_there()) {
            let message = "without `metrics` no replica can be asked for its counts";
            let help = "add `metrics: { address: 0.0.0.0:9902 }`";
            self.report.add(replicas.id, Code::MissingKey, message, help);
        }
    }

    /// What a fleet makes of rollouts. Each replica judges by what it sees, so each may be wrong
    /// for its part only; and one whose own way out is broken sees every version fail, which
    /// must not take a version out for all.
    fn share_out(&mut self, fleet: &Fleet, list: &At<Vec<At<raw::Rollout>>>, plans: &mut [Plan]) {
        for raw in list.items().iter().filter_map(At::get) {
            if raw.steps.is_there() && fleet.replicas.is_none() {
                let message = "steps in a fleet that does not pool its counts";
                let help =
                    "add `replicas: NAMESPACE/SERVICE:PORT` to `fleet`, or leave out `steps`";
                self.report.add(raw.steps.id, Code::NotSupported, message, help);
            }
            let name = raw.name.get().map(|name| name.scalar.text.as_ref());
            let plan = plans.iter_mut().find(|plan| Some(plan.name.as_str()) == name);
            let Some(plan) = plan else { continue };
            *plan = plan.clone().shared_out(fleet.replicas_max);
            if !raw.on_shared_breach.is_there() {
                plan.on_shared_breach = Deadline::Hold;
            }
            if !raw.on_no_endpoint.is_there() {
                plan.on_no_endpoint = Deadline::Hold;
            }
        }
    }

    fn kubernetes(&mut self, at: &At<raw::Kubernetes>) -> Kubernetes {
        let Some(raw) = at.get() else { return Kubernetes::default() };
        Kubernetes {
            server: self.value(&raw.server),
            token_file: self.value(&raw.token_file),
            ca: self.value(&raw.ca),
            zone: self.value(&raw.zone),
            events: self.value(&raw.events),
        }
    }

    /// What was written, as meant; `None` when it is absent or was reported.
    fn value<Q: Quantity>(&mut self, at: &At<As<Q>>) -> Option<Q::Value> {
        let (id, written) = at.found()?;
        match Q::parse(&written.scalar) {
            Ok(value) => Some(value),
            Err(fault) => {
                self.report.add(id, fault.code, fault.message, fault.help);
                None
            }
        }
    }

    /// A value that must be there, with its node; that it is missing was reported.
    fn placed<Q: Quantity>(&mut self, at: &At<As<Q>>) -> Option<(NodeId, Q::Value)> {
        self.value(at).map(|value| (at.id, value))
    }

    /// A list that may not be empty.
    fn not_empty<T>(&mut self, list: &At<Vec<T>>, what: &str) {
        if list.get().is_some_and(Vec::is_empty) {
            let help = format!("add {what}");
            self.report.add(list.id, Code::Empty, "this list may not be empty", help);
        }
    }

    /// A list of at most `max`.
    fn at_most<T>(&mut self, list: &At<Vec<T>>, max: usize, help: &str) {
        let count = list.get().map_or(0, Vec::len);
        if count > max {
            let message = format!("{count} are too many: at most {max} may stand here");
            self.report.add(list.id, Code::TooMany, message, help);
        }
    }

    /// Exactly one of some keys of a map. Returns whether that holds.
    fn exactly_one(&mut self, id: NodeId, keys: &[(&str, bool)], faulty: bool) -> bool {
        let there: Vec<_> = keys.iter().filter(|(_, there)| *there).map(|(key, _)| *key).collect();
        let all: Vec<_> = keys.iter().map(|(key, _)| *key).collect();
        let wanted = listed(&all).replace(" and ", " or ");
        match there.as_slice() {
            [_] => return true,
            [] if faulty => {}
            [] => {
                let message = format!("one of {wanted} is missing here");
                self.report.add(id, Code::MissingKey, message, format!("add {wanted}"));
            }
            several => {
                let message = format!("{} exclude each other", listed(several));
                let help = format!("keep one of them; exactly one of {wanted} is wanted");
                self.report.add(id, Code::Exclusive, message, help);
            }
        }
        false
    }

    /// The name that a map gives itself.
    fn own_name(&mut self, at: &At<As<Name>>, seen: &mut Seen) -> Option<String> {
        let (id, name) = self.placed(at)?;
        self.once(seen, id, &name, &format!("the name `{name}` is taken"));
        Some(name)
    }

    /// Reports `key` when it was seen before.
    fn once(&mut self, seen: &mut Seen, id: NodeId, key: &str, message: &str) {
        if let Some(first) = seen.first.get(key) {
            let line = self.report.place(*first).line;
            let help = format!("{}; the first is in line {line}", seen.help);
            self.report.add(id, seen.code, message, help);
        } else {
            seen.first.insert(key.to_owned(), id);
        }
    }

    /// Reports a name that none of `names` is.
    fn dangling<'n>(
        &mut self,
        id: NodeId,
        name: &str,
        what: &str,
        names: impl Iterator<Item = &'n str>,
    ) {
        let mut names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        names.dedup();
        let help = match (similar(name, names.iter().copied()), names.as_slice()) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, []) => format!("add a {what} with this name"),
            (None, few @ ([_] | [_, _] | [_, _, _])) => {
                format!("write {}", listed(few).replace(" and ", " or "))
            }
            (None, _) => format!("add a {what} with this name, or use one that is there"),
        };
        let message = format!("no {what} has the name `{}`", shown(name));
        self.report.add(id, Code::Dangling, message, help);
    }
}

/// What was seen already, and where first.
struct Seen {
    code: Code,
    help: &'static str,
    first: HashMap<String, NodeId>,
}

impl Seen {
    fn names() -> Self {
        Self::of(Code::DuplicateName, "choose another name")
    }

    fn of(code: Code, help: &'static str) -> Self {
        Self { code, help, first: HashMap::new() }
    }
}
