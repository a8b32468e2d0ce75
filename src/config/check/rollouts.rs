//! Rollouts: whose traffic is judged, by what, and what follows.
//!
//! Never judges: it makes the plan that the judge is held to.

use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use crate::config::check::{Checker, Seen};
use crate::config::defect::Code;
use crate::config::quantity::{Name, RuleRef, Span};
use crate::config::raw;
use crate::config::read::{As, At, Form, Given};
use crate::config::tree::NodeId;
use crate::config::{Around, Backend, Route, Rule};
use crate::names::{BackendName, RolloutName, RuleId, Version};
use crate::rollout::judge::SLOT;
use crate::rollout::plan::{Deadline, Plan};
use crate::traffic::warm_up::{WARM_UP_MAX, WarmUp};
use crate::units::{Weight, duration_text};

/// The longest slot: what happens within it is judged no earlier.
const BURST_MAX: Duration = Duration::from_secs(10);

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
        let steps = self.steps(&raw.steps, rule.as_ref().map(|(_, rule)| *rule), &objectives);
        let requests_min = self.value(&raw.min_requests);
        let burst = self.burst(&raw.burst);
        self.probe_has_limit(&raw.probe, &objectives);
        let on_breach = self.value(&raw.on_breach);
        let on_shared_breach = self.deadline(&raw.on_shared_breach);
        let on_no_traffic = self.deadline(&raw.on_no_traffic);
        let on_no_endpoint = self.deadline(&raw.on_no_endpoint);
        let canary = canary?;
        let version = version.unwrap_or_else(|| {
            Version::new(version_of(backends.iter().find(|one| one.name == canary)))
        });
        let plan = Plan::watching(
            RolloutName::new(name?),
            rule?.0,
            (stable?, canary),
            version,
            objectives,
        );
        Some(Plan {
            false_rollback: false_rollback.unwrap_or(plan.false_rollback),
            steps,
            requests_min: requests_min.map_or(plan.requests_min, u64::from),
            burst: burst.unwrap_or(plan.burst),
            probed: raw.probe.get().is_some(),
            on_breach: on_breach.unwrap_or(plan.on_breach),
            on_shared_breach: on_shared_breach.unwrap_or(plan.on_shared_breach),
            on_no_traffic: on_no_traffic.unwrap_or(plan.on_no_traffic),
            on_no_endpoint: on_no_endpoint.unwrap_or(plan.on_no_endpoint),
            ..plan
        })
    }

    /// What goes with each rollout and is not judged.
    pub(super) fn around(&mut self, list: &At<Vec<At<raw::Rollout>>>) -> Vec<Around> {
        let mut all = Vec::new();
        for raw in list.items().iter().filter_map(At::get) {
            let hooks = raw.notify.items().iter().filter_map(At::get);
            let webhooks: Vec<_> = hooks.filter_map(|hook| self.value(&hook.webhook)).collect();
            let warm_up = self.warm_up(&raw.warm_up);
            let cut_streams = self.value(&raw.streams_on_rollback).unwrap_or(false);
            let probe = self.probe(&raw.probe).map(Arc::new);
            // A name that cannot be read was reported.
            if let Some(name) = raw.name.get() {
                let rollout = RolloutName::new(&name.scalar.text);
                all.push(Around { rollout, webhooks, warm_up, cut_streams, probe });
            }
        }
        all
    }

    fn warm_up(&mut self, at: &At<raw::WarmUp>) -> WarmUp {
        let default = WarmUp::default();
        let Some(raw) = at.get() else { return default };
        let time = self.placed(&raw.time);
        if let Some((id, time)) = time
            && time > WARM_UP_MAX
        {
            let message = format!("`{}` is longer than 2m", duration_text(time));
            let help = "write at most `2m`: after that an endpoint is as warm as it gets";
            self.report.add(id, Code::Duration, message, help);
        }
        WarmUp {
            time: time.map_or(default.time, |(_, time)| time),
            requests: self.value(&raw.requests).unwrap_or(default.requests),
        }
    }

    fn burst(&mut self, at: &At<As<Span>>) -> Option<Duration> {
        let (id, burst) = self.placed(at)?;
        if (SLOT..=BURST_MAX).contains(&burst) {
            return Some(burst);
        }
        let message = format!("`{}` is not within 250ms to 10s", duration_text(burst));
        let help = "write how long a burst may be that is one event, as in `1s`";
        self.report.add(id, Code::Duration, message, help);
        None
    }

    fn deadline(&mut self, at: &At<raw::DeadlineForm>) -> Option<Deadline> {
        match at.found()? {
            (id, Form::Short(word)) => self.value(&At { id, given: Given::Is(word.clone()) }),
            (id, Form::Long(raw)) => {
                let there = [
                    ("rollback_after", raw.rollback_after.is_there()),
                    ("alert_after", raw.alert_after.is_there()),
                ];
                let alone = self.exactly_one(id, &there, raw.faulty);
                let rollback = self.value(&raw.rollback_after).map(Deadline::RollbackAfter);
                let alert = self.value(&raw.alert_after).map(Deadline::AlertAfter);
                rollback.or(alert).filter(|_| alone)
            }
        }
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

    /// Warns of failover where there is no canary, unless what was refused may be its rollout.
    pub(super) fn failovers_used(&mut self, routes: &At<Vec<At<raw::Route>>>, rollouts: &[Plan]) {
        if self.report.refuses() {
            return;
        }
        for route in routes.items().iter().filter_map(At::get) {
            for rule in route.rules.items().iter().filter_map(At::get) {
                let name_of = |at: &At<As<Name>>| at.get().map(|name| name.scalar.text.clone());
                let names = name_of(&route.name).zip(name_of(&rule.name));
                let has_rollout = names.is_some_and(|(route, rule)| {
                    let is_it = |plan: &Plan| {
                        plan.rule.route.as_str() == route && plan.rule.rule.as_str() == rule
                    };
                    rollouts.iter().any(is_it)
                });
                if self.value(&rule.failover) == Some(true) && !has_rollout {
                    let message = "no rollout is on this rule: nothing fails over";
                    let help = "leave it out, or name the rule in a rollout; `retry` is for others";
                    self.report.add(rule.failover.id, Code::IdleFailover, message, help);
                }
            }
        }
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
        let pair = [stable, canary].map(|name| name.and_then(weight_of));
        if raw.steps.is_there() {
            // The weight is the steps', of what the two have together.
            if pair == [Some(Weight::ZERO); 2] {
                let message = "stable and canary have no weight that steps could share";
                let help = "give stable the weight that both are to have";
                self.report.add(raw.stable.id, Code::IdleCanary, message, help);
            }
        } else if pair[1] == Some(Weight::ZERO) && !raw.faulty {
            let message = "the canary's weight is 0: there will be nothing to judge";
            let help = "give it a weight in the rule; a rollout without steps keeps the weights";
            self.report.add(raw.canary.id, Code::IdleCanary, message, help);
        }
    }
}

/// The version of a canary that the file gives none: other endpoints make another one.
fn version_of(canary: Option<&Backend>) -> String {
    let mut endpoints: Vec<_> =
        canary.into_iter().flat_map(|one| one.endpoints.iter().map(ToString::to_string)).collect();
    endpoints.extend(canary.and_then(|one| one.dns.as_ref()).map(ToString::to_string));
    endpoints.extend(canary.and_then(|one| one.service.as_ref()).map(ToString::to_string));
    endpoints.sort();
    format!("endpoints-{:016x}", xxh3_64(endpoints.join("\n").as_bytes()))
}
