//! Rollouts: whose traffic is judged, by what, and what follows.
//!
//! Never judges: it makes the plan that the judge is held to.

use xxhash_rust::xxh3::xxh3_64;

use crate::config::check::{Checker, Seen};
use crate::config::defect::Code;
use crate::config::quantity::RuleRef;
use crate::config::raw;
use crate::config::read::{As, At, Form, Given};
use crate::config::tree::NodeId;
use crate::config::{Backend, Route, Rule};
use crate::names::{BackendName, RolloutName, RuleId, Version};
use crate::rollout::objective::Objective;
use crate::rollout::plan::{OBJECTIVES_MAX, Plan, SharedBreach};
use crate::units::Weight;

impl Checker<'_> {
    pub(super) fn rollouts(
        &mut self,
        list: &At<Vec<At<raw::Rollout>>>,
        routes: &[(NodeId, Route)],
        backends: &[Backend],
    ) -> Vec<Plan> {
        let mut names = Seen::names();
        let mut rules = Seen::of(Code::SecondRollout, "a rule can have one: join them, or end one");
        let mut plans = Vec::new();
        for at in list.items() {
            let Some(raw) = at.get() else { continue };
            plans.extend(self.rollout(raw, routes, backends, &mut names, &mut rules));
        }
        plans
    }

    fn rollout(
        &mut self,
        raw: &raw::Rollout,
        routes: &[(NodeId, Route)],
        backends: &[Backend],
        names: &mut Seen,
        rules: &mut Seen,
    ) -> Option<Plan> {
        let name = self.own_name(&raw.name, names);
        let rule = self.rule(&raw.rule, routes);
        if let Some((id, _)) = &rule {
            let message = format!("the rule `{id}` has a rollout already");
            self.once(rules, raw.rule.id, &id.to_string(), &message);
        }
        let stable = self.backend_name(&raw.stable, backends);
        let canary = self.backend_name(&raw.canary, backends);
        self.versions_of_rule(raw, rule.as_ref(), stable.as_ref(), canary.as_ref());
        let version = self.value(&raw.version).map(Version::new);
        let false_rollback = self.value(&raw.false_rollback);
        let objectives = self.objectives(&raw.objectives);
        self.value(&raw.on_breach);
        let on_shared_breach = self.shared_breach(&raw.on_shared_breach);
        let canary = canary?;
        let version = version.unwrap_or_else(|| {
            Version::new(version_of(backends.iter().find(|one| one.name == canary)))
        });
        Some(Plan {
            name: RolloutName::new(name?),
            rule: rule?.0,
            stable: stable?,
            canary,
            version,
            false_rollback: false_rollback.unwrap_or_else(Plan::false_rollback_default),
            objectives,
            on_shared_breach,
        })
    }

    /// The rule that a rollout names.
    fn rule<'r>(
        &mut self,
        at: &At<As<RuleRef>>,
        routes: &'r [(NodeId, Route)],
    ) -> Option<(RuleId, &'r Rule)> {
        let (id, wanted) = self.placed(at)?;
        let rules = || {
            routes.iter().flat_map(|(_, route)| {
                route.rules.iter().map(|rule| {
                    (RuleId { route: route.name.clone(), rule: rule.name.clone() }, rule)
                })
            })
        };
        let found = rules().find(|(name, _)| *name == wanted);
        if found.is_none() {
            // A rule without a name of its own was reported; it cannot be meant.
            let known = |id: &RuleId| !id.route.as_str().is_empty() && !id.rule.as_str().is_empty();
            let names: Vec<_> =
                rules().filter(|(id, _)| known(id)).map(|(id, _)| id.to_string()).collect();
            self.dangling(id, &wanted.to_string(), "rule", names.iter().map(String::as_str));
        }
        found
    }

    /// Stable and canary are two backends of the rule, and the canary gets some traffic.
    fn versions_of_rule(
        &mut self,
        raw: &raw::Rollout,
        rule: Option<&(RuleId, &Rule)>,
        stable: Option<&BackendName>,
        canary: Option<&BackendName>,
    ) {
        if stable.is_some() && stable == canary {
            let message = "stable and canary are the same backend";
            let help = "name the backend that is to be judged";
            self.report.add(raw.canary.id, Code::SameVersion, message, help);
        }
        let Some((id, rule)) = rule else { return };
        let weight_of = |name: &BackendName| {
            rule.backends.iter().find(|(one, _)| one == name).map(|(_, weight)| *weight)
        };
        for (at, name) in [(raw.stable.id, stable), (raw.canary.id, canary)] {
            let Some(name) = name.filter(|name| weight_of(name).is_none()) else { continue };
            let message = format!("`{name}` is not a backend of the rule `{id}`");
            let help = format!("add it to the rule's backends: `- name: {name}`");
            self.report.add(at, Code::NotInRule, message, help);
        }
        // With steps, which come later, the weight is theirs.
        if canary.and_then(weight_of) == Some(Weight::ZERO) && !raw.faulty {
            let message = "the canary's weight is 0: there will be nothing to judge";
            let help = "give it a weight in the rule; a rollout without steps keeps the weights";
            self.report.add(raw.canary.id, Code::IdleCanary, message, help);
        }
    }

    fn objectives(&mut self, list: &At<Vec<At<raw::Objective>>>) -> Vec<Objective> {
        self.not_empty(list, "an objective, such as `errors: 1%`");
        self.at_most(list, OBJECTIVES_MAX, "keep those that a user would notice");
        let mut seen = Seen::of(Code::DuplicateName, "keep one of them");
        let mut objectives = Vec::new();
        for at in list.items() {
            let Some(objective) = at.get().and_then(|raw| self.objective(at.id, raw)) else {
                continue;
            };
            let name = objective.name();
            self.once(&mut seen, at.id, &name, &format!("the objective `{name}` stands twice"));
            objectives.push(objective);
        }
        objectives
    }

    fn objective(&mut self, id: NodeId, raw: &raw::Objective) -> Option<Objective> {
        let there = [("errors", raw.errors.is_there()), ("latency", raw.latency.is_there())];
        let alone = self.exactly_one(id, &there, raw.faulty);
        let errors = self.value(&raw.errors).map(Objective::errors);
        let latency = self.latency(&raw.latency).map(Ok);
        let ratio = self.value(&raw.ratio);
        let on_breach = self.value(&raw.on_breach);
        let made = errors.or(latency).filter(|_| alone)?;
        let with_ratio = |one: Objective| ratio.map_or(Ok(one), |ratio| one.with_ratio(ratio));
        match made.and_then(with_ratio) {
            Ok(one) => Some(on_breach.map_or(one, |on_breach| one.with_on_breach(on_breach))),
            Err(error) => {
                let help = "write a limit such as `1%` and a ratio such as `1.5`";
                self.report.add(id, Code::Objective, error.to_string(), help);
                None
            }
        }
    }

    fn latency(&mut self, at: &At<raw::LatencyForm>) -> Option<Objective> {
        let (id, form) = at.found()?;
        let pairs = match form {
            Form::Long(pairs) => &pairs.entries,
            Form::Short(word) => {
                self.value(&At { id, given: Given::Is(word.clone()) });
                return None;
            }
        };
        if pairs.len() != 1 {
            let message = format!("one quantile is wanted here, not {}", pairs.len());
            let help = "write an objective for each: `- latency: { p99: 200ms }`";
            self.report.add(id, Code::Objective, message, help);
        }
        let mut found = None;
        for (quantile, threshold) in pairs {
            let (quantile, threshold) = (self.value(quantile), self.value(threshold));
            found = quantile.zip(threshold);
        }
        let (quantile, threshold) = found.filter(|_| pairs.len() == 1)?;
        Some(Objective::latency(quantile, threshold))
    }

    fn shared_breach(&mut self, at: &At<raw::SharedForm>) -> SharedBreach {
        match at.found() {
            None => SharedBreach::default(),
            Some((id, Form::Short(word))) => {
                self.value(&At { id, given: Given::Is(word.clone()) });
                SharedBreach::Hold
            }
            Some((_, Form::Long(raw))) => self
                .value(&raw.rollback_after)
                .map_or_else(SharedBreach::default, SharedBreach::RollbackAfter),
        }
    }
}

/// The version of a canary that the file gives none: other endpoints make another one.
fn version_of(canary: Option<&Backend>) -> String {
    let mut endpoints: Vec<_> =
        canary.into_iter().flat_map(|one| one.endpoints.iter().map(ToString::to_string)).collect();
    endpoints.sort();
    format!("endpoints-{:016x}", xxh3_64(endpoints.join("\n").as_bytes()))
}
