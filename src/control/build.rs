//! Makes a snapshot of a config and of where its rollouts stand.
//!
//! Never decides a weight of its own: a rollout says what share its canary has, every other
//! backend has what the config says.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::config::{self, Config};
use crate::control::certificates::Certificates;
use crate::control::roster::Roster;
use crate::control::running::Counting;
use crate::names::{BackendName, RuleId};
use crate::rollout::plan::Plan;
use crate::rollout::step::Copies;
use crate::snapshot::{
    Backend, Failover, Limit, Listener, Probing, Rollout, Rule, Senders, Shadow, Snapshot, Target,
};
use crate::telemetry::counts::{Arm, Evidence, Leg, LegKey};
use crate::telemetry::registry::Registry;
use crate::telemetry::story::{Lines, Telling, Traces};
use crate::traffic::draw::Salt;
use crate::traffic::mirror::Mirror;
use crate::traffic::route::{Entry, Table};
use crate::traffic::split::Split;
use crate::units::{Ratio, Weight};

/// A rollout as a snapshot needs it.
#[derive(Clone, Debug)]
pub struct Standing<'a> {
    /// What was planned.
    pub plan: &'a Plan,
    /// The canary's share of what goes to it or to stable; `None` is by the rule's weights.
    pub share: Option<Ratio>,
    /// Copies for the canary, in a mirror step.
    pub copies: Option<&'a Copies>,
    /// Whether it has ended: there is no canary any more, even if it gets traffic.
    pub ended: bool,
    /// Becomes true when the canary's answers are to be ended; `None` is never.
    pub cut: Option<Arc<AtomicBool>>,
    /// Where what becomes of probes counts, at stable and at the canary.
    pub probed: [Arc<Leg>; 2],
    /// Where attempts under these weights count.
    pub evidence: Arc<Evidence>,
}

/// The weights of a rule, the canary first so that it owns the low end of the draws. `share`
/// is the canary's of what goes to it or to stable; together they keep what they have beside
/// the rule's other backends. `None` keeps the rule's weights.
pub fn weights(
    rule: &config::Rule,
    plan: Option<&Plan>,
    share: Option<Ratio>,
) -> Vec<(BackendName, Weight)> {
    let Some(plan) = plan else {
        return rule.backends.clone();
    };
    let weight_of = |name: &BackendName| {
        let found = rule.backends.iter().find(|(backend, _)| backend == name);
        found.map_or(0, |(_, weight)| weight.get())
    };
    let (mut canary, mut stable) = (weight_of(&plan.canary), weight_of(&plan.stable));
    let others =
        || rule.backends.iter().filter(|(name, _)| *name != plan.canary && *name != plan.stable);
    let mut scale = 1;
    if let Some(share) = share {
        let pair = canary.saturating_add(stable);
        let most = others().map(|(_, weight)| weight.get()).fold(pair, u32::max).max(1);
        // As fine as weights can be: 0.1 % of 1:1 would otherwise be nothing.
        scale = (Weight::MAX / most).max(1);
        let pair = pair.saturating_mul(scale).min(Weight::MAX);
        canary = (f64::from(pair) * share.get()).round() as u32;
        stable = pair.saturating_sub(canary);
    }
    let weight = |value: u32| Weight::new(value).unwrap_or_default();
    let others = others().map(|(name, one)| (name.clone(), weight(one.get() * scale)));
    [(plan.canary.clone(), weight(canary)), (plan.stable.clone(), weight(stable))]
        .into_iter()
        .chain(others)
        .collect()
}

/// The canary's share of its rule's requests, and of those that go to it or to stable.
pub fn shares(config: &Config, plan: &Plan, share: Option<Ratio>) -> (f64, f64) {
    let Some(rule) = find_rule(config, &plan.rule) else { return (0.0, 0.0) };
    let weights = weights(rule, Some(plan), share);
    let sum = |some: &[(BackendName, Weight)]| -> f64 {
        some.iter().map(|(_, weight)| f64::from(weight.get())).sum()
    };
    let canary = sum(&weights[..1]);
    let share = |of: f64| if of > 0.0 { canary / of } else { 0.0 };
    (share(sum(&weights)), share(sum(&weights[..2])))
}

/// Whether every request of the rule is dealt by chance: no key decides.
pub fn is_dealt_by_chance(config: &Config, plan: &Plan) -> bool {
    find_rule(config, &plan.rule).is_some_and(|rule| rule.sticky.is_none())
}

fn find_rule<'c>(config: &'c Config, id: &RuleId) -> Option<&'c config::Rule> {
    let route = config.routes.iter().find(|route| route.name == id.route)?;
    route.rules.iter().find(|rule| rule.name == id.rule)
}

/// Every rule as it is found by, numbered over all routes in the file's order.
pub fn entries(config: &Config) -> impl Iterator<Item = Entry<'_>> {
    let rules = config.routes.iter().flat_map(|route| {
        route.rules.iter().map(|rule| (route.hostnames.as_slice(), rule.matches.as_slice()))
    });
    rules.enumerate().map(|(rule, (hostnames, matches))| Entry { hostnames, matches, rule })
}

/// The split of `weights`, over indices into them; `None` where all are zero.
pub fn split(weights: &[(BackendName, Weight)]) -> Option<Split<usize>> {
    Split::new(weights.iter().enumerate().map(|(index, (_, weight))| (index, *weight)))
}

/// What makes the sticky hash of a rule its own.
pub fn salt(rule: &RuleId, plan: Option<&Plan>) -> Salt {
    match plan {
        Some(plan) => Salt::of_rollout(plan.name.as_str(), plan.version.as_str()),
        None => Salt::of_rule(&rule.to_string()),
    }
}

/// The snapshot of `config`, with `rollouts` as they stand and the endpoints that serve.
pub fn snapshot(
    config: &Config,
    generation: u64,
    Counting { registry, roster, .. }: Counting<'_>,
    certificates: &Certificates,
    rollouts: &[Standing<'_>],
) -> Snapshot {
    let mut builder = Builder { config, registry, roster, used: BTreeSet::new() };
    let mut rules = Vec::new();
    for route in &config.routes {
        for rule in &route.rules {
            let id = RuleId { route: route.name.clone(), rule: rule.name.clone() };
            let rollout = rollouts.iter().find(|standing| standing.plan.rule == id);
            rules.extend(builder.rule(id, rule, rollout));
        }
    }
    let table = Table::new(entries(config));
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
            .map(|b| Backend {
                name: b.name.clone(),
                endpoints: roster.serving(&b.name),
                balance: b.balance,
                slow_start: b.slow_start,
                protocol: b.protocol,
                limit: roster
                    .gate(&b.name)
                    .zip(b.limits)
                    .map(|(gate, limits)| Limit { gate, queue_timeout: limits.queue_timeout }),
                tls: certificates.backend(&b.name),
            })
            .collect(),
        listeners: listeners(config, registry, certificates),
        trusted_proxies: config.trusted_proxies.clone(),
        unrouted,
        response_headers: config.response_headers,
        replay_body_bytes_max: config.replay_body_bytes_max,
        telling: telling(config, registry),
    }
}

/// What is told of single requests.
fn telling(config: &Config, registry: &Registry) -> Option<Arc<Telling>> {
    let Config { access_log, tracing, .. } = config;
    if access_log.is_none() && tracing.is_none() {
        return None;
    }
    Some(Arc::new(Telling {
        traces: tracing
            .as_ref()
            .map(|one| Traces { share: one.share, bad_per_second: one.bad_per_second }),
        lines: access_log
            .as_ref()
            .map(|one| Lines { share: one.share, headers: one.headers.clone() }),
        outlets: Arc::clone(registry.outlets()),
    }))
}

fn listeners(
    config: &Config,
    registry: &Registry,
    certificates: &Certificates,
) -> Vec<Arc<Listener>> {
    let listeners = config.listeners.iter().map(|listener| {
        let senders = listener.proxy_protocol.as_ref().map(|one| match &one.from {
            Some(ranges) => Senders::Of(ranges.clone()),
            None => Senders::Everyone,
        });
        Arc::new(Listener {
            name: listener.name.clone(),
            proxy_protocol: senders,
            head_timeout: listener.head_timeout,
            tls: certificates.server(&listener.name),
            door: registry.door(&listener.name),
        })
    });
    listeners.collect()
}

struct Builder<'a> {
    config: &'a Config,
    registry: &'a Registry,
    roster: &'a Roster,
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
        let share = rollout.and_then(|standing| standing.share);
        let weights = weights(rule, plan, share);
        let split = split(&weights)?;
        // Evidence is only what both versions could have got.
        let comparable = plan.is_some_and(|plan| {
            // With all the traffic on the canary there is nothing to compare, only limits.
            self.roster.is_ready(&plan.canary)
                && (share == Some(Ratio::ONE) || self.roster.is_ready(&plan.stable))
        });
        let model = |name: &BackendName| {
            let mut models = rule.models.iter();
            models.find(|(backend, _)| backend == name).map(|(_, model)| Arc::clone(model))
        };
        let targets = weights.iter().map(|(name, _)| Target {
            model: model(name),
            backend: self.backend(name),
            leg: self.leg(&id, name),
            cut: rollout
                .filter(|standing| *name == standing.plan.canary && !standing.ended)
                .and_then(|standing| standing.cut.clone()),
            arm: plan.filter(|_| comparable).and_then(|plan| {
                let stable = (*name == plan.stable).then_some(Arm::Stable);
                stable.or((*name == plan.canary).then_some(Arm::Canary))
            }),
        });
        let targets: Vec<_> = targets.collect();
        let copies = rollout.and_then(|standing| Some((standing.plan, standing.copies?)));
        let copies = copies.map(|(plan, copies)| Mirror {
            model: model(&plan.canary),
            ..copies_for(&plan.canary, copies)
        });
        let mirrors = rule.mirrors.iter().cloned().chain(copies).map(|mirror| Shadow {
            backend: self.backend(&mirror.backend),
            leg: self.leg(&id, &mirror.backend),
            in_flight: self.registry.budget(leg_key(&id, &mirror.backend)),
            mirror,
        });
        let mirrors: Vec<_> = mirrors.collect();
        Some(Rule {
            split,
            renames: targets.iter().any(|one| one.model.is_some())
                || mirrors.iter().any(|one| one.mirror.model.is_some()),
            targets,
            sticky: rule.sticky.clone(),
            salt: salt(&id, plan),
            mirrors,
            timeouts: rule.timeouts,
            body_bytes_max: rule.body_bytes_max,
            retry: rule.retry.clone().map(|retry| (retry, self.registry.retries(&id))),
            // The canary comes first, stable second.
            failover: rollout
                .filter(|standing| rule.failover && !standing.ended)
                .map(|_| Failover { canary: Rollout::CANARY, stable: Rollout::STABLE }),
            rollout: rollout.map(|standing| Rollout {
                name: standing.plan.name.clone(),
                evidence: Arc::clone(&standing.evidence),
                probing: self.probing(standing),
                warm_up: self
                    .config
                    .around(&standing.plan.name)
                    .map(|around| around.warm_up)
                    .unwrap_or_default(),
            }),
            id,
        })
    }

    fn probing(&self, standing: &Standing<'_>) -> Option<Probing> {
        let probe = self.config.around(&standing.plan.name)?.probe.clone()?;
        (!standing.ended).then(|| Probing { probe, legs: standing.probed.clone() })
    }

    fn backend(&self, name: &BackendName) -> usize {
        let found = self.config.backends.iter().position(|backend| backend.name == *name);
        found.expect("a checked config has no dangling names")
    }

    fn leg(&mut self, rule: &RuleId, backend: &BackendName) -> Arc<Leg> {
        let key = leg_key(rule, backend);
        self.used.insert(key.clone());
        self.registry.leg(key)
    }
}

/// The mirror of a mirror step.
pub fn copies_for(canary: &BackendName, copies: &Copies) -> Mirror {
    Mirror {
        backend: canary.clone(),
        share: copies.share,
        methods: copies.methods.clone(),
        body_bytes_max: Mirror::BODY_BYTES_MAX,
        in_flight_max: Mirror::IN_FLIGHT_MAX,
        remove: Vec::new(),
        set: Vec::new(),
        model: None,
    }
}

/// The labels of the counters of `backend` in `rule`.
pub fn leg_key(rule: &RuleId, backend: &BackendName) -> LegKey {
    LegKey { route: rule.route.clone(), rule: rule.rule.clone(), backend: backend.clone() }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::clock::Clock;
    use crate::config::load::{Options, Source};

    #[tokio::test]
    async fn a_publish_gives_no_rule_a_new_budget_of_retries() {
        let text = "\
            listeners: [{ name: http, address: 127.0.0.1:8080 }]\n\
            backends: [{ name: model, endpoints: [127.0.0.1:9001] }]\n\
            routes: [{ name: r, rules: [\n\
              { name: one, backends: [{ name: model }], retry: { on: [connect] } },\n\
              { name: two, backends: [{ name: model }], retry: { on: [connect] } }] }]\n";
        let config = Source::of("test.yaml", text).unwrap().load(Options::RUN).unwrap().config;
        let (registry, alarm) = (Registry::new(1), Arc::default());
        let certificates = watch::channel(Arc::<Certificates>::default()).1;
        let (roster, _reports) = Roster::new(&config, 1, &alarm, Clock::start(), certificates);
        let budgets = |config: &Config| {
            let counting = Counting { alarm: &alarm, registry: &registry, roster: &roster };
            let rules = snapshot(config, 1, counting, &Certificates::default(), &[]).rules;
            rules.into_iter().filter_map(|rule| Some(rule.retry?.1)).collect::<Vec<_>>()
        };
        let (first, second) = (budgets(&config), budgets(&config));
        assert!(Arc::ptr_eq(&first[0], &second[0]) && Arc::ptr_eq(&first[1], &second[1]));
        assert!(!Arc::ptr_eq(&first[0], &first[1]), "each rule has its own");
        // What the config has no more is forgotten.
        let mut fewer = config.clone();
        fewer.routes[0].rules.truncate(1);
        assert_eq!(budgets(&fewer).len(), 1);
        assert!(!Arc::ptr_eq(&first[1], &budgets(&config)[1]));
    }
}
