//! Makes a snapshot of a config and of where its rollouts stand.
//!
//! Never decides a weight of its own: an ended rollout's canary has none, every other
//! backend has what the config says.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::{self, Config};
use crate::names::{BackendName, RuleId};
use crate::rollout::plan::Plan;
use crate::snapshot::{Backend, Rollout, Rule, Shadow, Snapshot, Target};
use crate::telemetry::counts::{Arm, Evidence, LegKey};
use crate::telemetry::registry::Registry;
use crate::traffic::draw::Salt;
use crate::traffic::route::{Entry, Table};
use crate::traffic::split::Split;
use crate::units::Weight;

/// A rollout as a snapshot needs it.
#[derive(Clone, Debug)]
pub struct Standing<'a> {
    /// What was planned.
    pub plan: &'a Plan,
    /// Whether the canary gets its weight.
    pub canary_in: bool,
    /// Where attempts under these weights count.
    pub evidence: Arc<Evidence>,
}

/// The weights of a rule, the canary first so that it owns the low end of the draws; what
/// a canary without traffic would get goes to stable.
pub fn weights(
    rule: &config::Rule,
    plan: Option<&Plan>,
    canary_in: bool,
) -> Vec<(BackendName, Weight)> {
    let Some(plan) = plan else {
        return rule.backends.clone();
    };
    let weight_of = |name: &BackendName| {
        let found = rule.backends.iter().find(|(backend, _)| backend == name);
        found.map_or(Weight::ZERO, |(_, weight)| *weight)
    };
    let (canary, stable) = (weight_of(&plan.canary), weight_of(&plan.stable));
    let (canary, stable) =
        if canary_in { (canary, stable) } else { (Weight::ZERO, stable.plus(canary)) };
    let rest =
        rule.backends.iter().filter(|(name, _)| *name != plan.canary && *name != plan.stable);
    [(plan.canary.clone(), canary), (plan.stable.clone(), stable)]
        .into_iter()
        .chain(rest.cloned())
        .collect()
}

/// The canary's share of its rule's requests, and of those that go to it or to stable.
pub fn shares(config: &Config, plan: &Plan, canary_in: bool) -> (f64, f64) {
    let Some(rule) = find_rule(config, &plan.rule) else { return (0.0, 0.0) };
    let weights = weights(rule, Some(plan), canary_in);
    let sum = |some: &[(BackendName, Weight)]| -> f64 {
        some.iter().map(|(_, weight)| f64::from(weight.get())).sum()
    };
    let canary = sum(&weights[..1]);
    let share = |of: f64| if of > 0.0 { canary / of } else { 0.0 };
    (share(sum(&weights)), share(sum(&weights[..2])))
}

/// Whether the backend `name` has an endpoint.
pub fn has_endpoint(config: &Config, name: &BackendName) -> bool {
    config.backends.iter().any(|backend| backend.name == *name && !backend.endpoints.is_empty())
}

fn find_rule<'c>(config: &'c Config, id: &RuleId) -> Option<&'c config::Rule> {
    let route = config.routes.iter().find(|route| route.name == id.route)?;
    route.rules.iter().find(|rule| rule.name == id.rule)
}

/// The snapshot of `config`, with `rollouts` as they stand.
pub fn snapshot(
    config: &Config,
    generation: u64,
    registry: &Registry,
    rollouts: &[Standing<'_>],
) -> Snapshot {
    let mut builder = Builder { config, registry, used: BTreeSet::new() };
    let mut rules = Vec::new();
    for route in &config.routes {
        for rule in &route.rules {
            let id = RuleId { route: route.name.clone(), rule: rule.name.clone() };
            let rollout = rollouts.iter().find(|standing| standing.plan.rule == id);
            rules.extend(builder.rule(id, rule, rollout));
        }
    }
    let entries = config.routes.iter().flat_map(|route| {
        route.rules.iter().map(|rule| (route.hostnames.as_slice(), rule.matches.as_slice()))
    });
    let table = Table::new(entries.enumerate().map(|(rule, (hostnames, matches))| Entry {
        hostnames,
        matches,
        rule,
    }));
    let unrouted =
        builder.leg(&RuleId { route: "".into(), rule: "".into() }, &BackendName::from(""));
    registry.retain(&builder.used);
    Snapshot {
        generation,
        table,
        rules,
        backends: config
            .backends
            .iter()
            .map(|b| Backend { name: b.name.clone(), endpoints: b.endpoints.clone() })
            .collect(),
        unrouted,
        response_headers: config.response_headers,
    }
}

struct Builder<'a> {
    config: &'a Config,
    registry: &'a Registry,
    used: BTreeSet<LegKey>,
}

impl Builder<'_> {
    /// `None` only for what a checked config cannot hold: a rule without any weight.
    fn rule(
        &mut self,
        id: RuleId,
        rule: &config::Rule,
        rollout: Option<&Standing<'_>>,
    ) -> Option<Rule> {
        let plan = rollout.map(|standing| standing.plan);
        let canary_in = rollout.is_some_and(|standing| standing.canary_in);
        let weights = weights(rule, plan, canary_in);
        let split = Split::new(weights.iter().enumerate().map(|(index, (_, w))| (index, *w)))?;
        // Evidence is only what both versions could have got.
        let comparable = plan.is_some_and(|plan| {
            has_endpoint(self.config, &plan.stable) && has_endpoint(self.config, &plan.canary)
        });
        let targets = weights.iter().map(|(name, _)| Target {
            backend: self.backend(name),
            leg: self.leg(&id, name),
            arm: plan.filter(|_| comparable).and_then(|plan| {
                let stable = (*name == plan.stable).then_some(Arm::Stable);
                stable.or((*name == plan.canary).then_some(Arm::Canary))
            }),
        });
        let targets = targets.collect();
        let mirrors = rule.mirrors.iter().map(|mirror| Shadow {
            mirror: mirror.clone(),
            backend: self.backend(&mirror.backend),
            leg: self.leg(&id, &mirror.backend),
            in_flight: self.registry.budget(leg_key(&id, &mirror.backend)),
        });
        let mirrors = mirrors.collect();
        Some(Rule {
            split,
            targets,
            sticky: rule.sticky.clone(),
            salt: match plan {
                Some(plan) => Salt::of_rollout(plan.name.as_str(), plan.version.as_str()),
                None => Salt::of_rule(&id.to_string()),
            },
            mirrors,
            timeouts: rule.timeouts,
            rollout: rollout.map(|standing| Rollout {
                name: standing.plan.name.clone(),
                evidence: Arc::clone(&standing.evidence),
            }),
            id,
        })
    }

    fn backend(&self, name: &BackendName) -> usize {
        let found = self.config.backends.iter().position(|backend| backend.name == *name);
        found.expect("a checked config has no dangling names")
    }

    fn leg(&mut self, rule: &RuleId, backend: &BackendName) -> Arc<crate::telemetry::counts::Leg> {
        let key = leg_key(rule, backend);
        self.used.insert(key.clone());
        self.registry.leg(key)
    }
}

fn leg_key(rule: &RuleId, backend: &BackendName) -> LegKey {
    LegKey { route: rule.route.clone(), rule: rule.rule.clone(), backend: backend.clone() }
}
