//! Routes and rules: names, weights, sticky keys, timeouts.
//!
//! Never sorts them: precedence is for the route table.

use std::sync::Arc;

use crate::config::check::matches::key;
use crate::config::check::{Checker, Seen};
use crate::config::defect::Code;
use crate::config::quantity::Text;
use crate::config::raw;
use crate::config::read::{As, At};
use crate::config::tree::NodeId;
use crate::config::{Backend, Route, Rule};
use crate::names::{BackendName, RouteName, RuleName};
use crate::traffic::draw::StickyKey;
use crate::traffic::matching::Match;
use crate::traffic::retry::{Retry, Timeouts};
use crate::units::Weight;

impl Checker<'_> {
    /// Routes as far as they can be read, each with its node.
    pub(super) fn routes(
        &mut self,
        list: &At<Vec<At<raw::Route>>>,
        backends: &[Backend],
    ) -> Vec<(NodeId, Route)> {
        self.not_empty(list, "a route with a rule");
        let mut seen = Seen::names();
        let mut reach = Vec::new();
        let mut routes = Vec::new();
        for at in list.items() {
            let Some(raw) = at.get() else { continue };
            let name = self.own_name(&raw.name, &mut seen);
            let hostnames: Vec<_> =
                raw.hostnames.items().iter().filter_map(|host| self.value(host)).collect();
            self.not_empty(&raw.hostnames, "a hostname, or leave the key out for every hostname");
            let rules = self.rules(&raw.rules, backends);
            let name = RouteName::new(name.unwrap_or_default());
            for (id, rule) in &rules {
                let hosts = hostnames.iter().map(ToString::to_string).collect();
                reach.push((
                    *id,
                    format!("{name}/{}", rule.name),
                    reach_keys(hosts, &rule.matches),
                ));
            }
            let rules = rules.into_iter().map(|(_, rule)| rule).collect();
            routes.push((at.id, Route { name, hostnames, rules }));
        }
        // What was refused may have been what told two rules apart.
        if !self.report.refuses() {
            self.reachable(&reach);
        }
        routes
    }

    fn rules(
        &mut self,
        list: &At<Vec<At<raw::Rule>>>,
        backends: &[Backend],
    ) -> Vec<(NodeId, Rule)> {
        self.not_empty(list, "a rule");
        let mut seen = Seen::names();
        let mut rules = Vec::new();
        for at in list.items() {
            let Some(raw) = at.get() else { continue };
            let name = self.own_name(&raw.name, &mut seen);
            let rule = Rule {
                name: RuleName::new(name.unwrap_or_default()),
                matches: self.matches(&raw.matches),
                backends: self.split(&raw.backends, backends),
                models: self.models(&raw.backends),
                sticky: raw.sticky.found().and_then(|(id, raw)| self.sticky(id, raw)),
                mirrors: self.mirrors(raw, backends),
                timeouts: raw.timeouts.get().map_or_else(Timeouts::default, |t| self.timeouts(t)),
                body_bytes_max: raw.limits.get().and_then(|one| self.value(&one.max_body)),
                retry: raw.retry.get().map(|retry| self.retry(retry)),
                failover: self.value(&raw.failover).unwrap_or(false),
            };
            self.not_empty(&raw.matches, "a match, or leave the key out for every request");
            rules.push((at.id, rule));
        }
        rules
    }

    /// The weighted backends of a rule.
    fn split(
        &mut self,
        list: &At<Vec<At<raw::RuleBackend>>>,
        backends: &[Backend],
    ) -> Vec<(BackendName, Weight)> {
        self.not_empty(list, "a backend, such as `{ name: model }`");
        let mut seen = Seen::of(Code::DuplicateName, "add the weights up in one entry");
        let mut split = Vec::new();
        for raw in list.items().iter().filter_map(At::get) {
            let written = self.value(&raw.weight);
            // A weight that was refused is not zero as well.
            let weight = written.and_then(Weight::new).unwrap_or(Weight::ONE);
            let Some(name) = self.backend_name(&raw.name, backends) else { continue };
            let message = format!("the backend `{name}` stands twice in one rule");
            self.once(&mut seen, raw.name.id, name.as_str(), &message);
            split.push((name, weight));
        }
        let whole = split.len() == list.items().len();
        if whole && !split.is_empty() && split.iter().all(|(_, weight)| *weight == Weight::ZERO) {
            let message = "all weights are 0: no backend would get a request";
            let help = "give one of them a weight above 0";
            self.report.add(list.id, Code::ZeroWeights, message, help);
        }
        split
    }

    /// The names by which backends know their models.
    fn models(&mut self, list: &At<Vec<At<raw::RuleBackend>>>) -> Vec<(BackendName, Arc<str>)> {
        let named = list.items().iter().filter_map(At::get).filter_map(|raw| {
            let model = self.value(&raw.model)?;
            Some((raw.name.get()?.scalar.text.as_str().into(), Arc::from(model)))
        });
        named.collect()
    }

    /// The name of a backend that is there.
    pub(super) fn backend_name(
        &mut self,
        at: &At<As<Text>>,
        backends: &[Backend],
    ) -> Option<BackendName> {
        let (id, name) = self.placed(at)?;
        if let Some(backend) = backends.iter().find(|one| one.name.as_str() == name) {
            return Some(backend.name.clone());
        }
        self.dangling(id, &name, "backend", backends.iter().map(|one| one.name.as_str()));
        None
    }

    fn sticky(&mut self, id: NodeId, raw: &raw::Sticky) -> Option<StickyKey> {
        let there = [
            ("header", raw.header.is_there()),
            ("cookie", raw.cookie.is_there()),
            ("query", raw.query.is_there()),
        ];
        let header = self.value(&raw.header).map(StickyKey::Header);
        let cookie = self.value(&raw.cookie).map(StickyKey::Cookie);
        let query = self.value(&raw.query).map(StickyKey::Query);
        self.exactly_one(id, &there, raw.faulty).then(|| header.or(cookie).or(query))?
    }

    fn retry(&mut self, raw: &raw::Retry) -> Retry {
        let attempts = self.value(&raw.attempts).unwrap_or(Retry::ATTEMPTS);
        let budget = self.value(&raw.budget).unwrap_or_else(Retry::default_budget);
        let on: Vec<_> = raw.on.items().iter().filter_map(|one| self.value(one)).collect();
        self.not_empty(&raw.on, "what is tried again, or leave the key out");
        let methods: Vec<_> =
            raw.methods.items().iter().filter_map(|one| self.value(one)).collect();
        self.not_empty(&raw.methods, "a method, or leave the key out");
        Retry {
            attempts,
            budget,
            on: if raw.on.is_there() { on } else { Retry::default_conditions() },
            methods: if raw.methods.is_there() { methods } else { Retry::default_methods() },
        }
    }

    fn timeouts(&mut self, raw: &raw::Timeouts) -> Timeouts {
        let default = Timeouts::default();
        Timeouts {
            connect: self.value(&raw.connect).unwrap_or(default.connect),
            first_byte: self.value(&raw.first_byte).unwrap_or(default.first_byte),
            idle: self.value(&raw.idle).unwrap_or(default.idle),
            request: self.value(&raw.request).or(default.request),
            tunnel: self.value(&raw.tunnel).unwrap_or(default.tunnel),
            upload_rate: self.value(&raw.upload_rate).unwrap_or(default.upload_rate),
        }
    }
}

/// One key for each hostname and match of a rule.
fn reach_keys(mut hosts: Vec<String>, matches: &[Match]) -> Vec<String> {
    if hosts.is_empty() {
        hosts.push(String::new());
    }
    let everything = [Match::default()];
    let matches = if matches.is_empty() { &everything[..] } else { matches };
    let keys: Vec<_> = matches.iter().map(key).collect();
    hosts.iter().flat_map(|host| keys.iter().map(move |key| format!("{host} {key}"))).collect()
}
