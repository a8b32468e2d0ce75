//! Steps: how a rollout goes from stable to canary.
//!
//! Never fills in what is a decision: a step that could mean two things is a defect.

use std::time::Duration;

use http::Method;

use crate::config::Rule;
use crate::config::check::Checker;
use crate::config::defect::Code;
use crate::config::raw;
use crate::config::read::{At, Form, Given};
use crate::config::tree::NodeId;
use crate::rollout::objective::{Bound, Objective};
use crate::rollout::step::{Copies, SOAK_MIN, Step, Until};
use crate::units::Ratio;

/// More steps than a person would follow.
const STEPS_MAX: usize = 50;

/// Where a step stands.
#[derive(Clone, Copy)]
struct Place<'r> {
    id: NodeId,
    is_first: bool,
    is_last: bool,
    /// The canary's share in the step before.
    before: Ratio,
    rule: Option<&'r Rule>,
}

impl Checker<'_> {
    pub(super) fn steps(
        &mut self,
        list: &At<Vec<At<raw::Step>>>,
        rule: Option<&Rule>,
        objectives: &[Objective],
    ) -> Vec<Step> {
        self.not_empty(list, "a step, such as `{ weight: 5% }`, or leave the key out");
        self.at_most(list, STEPS_MAX, "each step costs at least a minute");
        let mut steps = Vec::new();
        let mut before = Ratio::ZERO;
        let count = list.items().len();
        for (index, at) in list.items().iter().enumerate() {
            let Some(raw) = at.get() else { continue };
            let place = Place {
                id: at.id,
                is_first: index == 0,
                is_last: index + 1 == count,
                before,
                rule,
            };
            let Some(step) = self.step(raw, place) else { continue };
            before = step.weight;
            if matches!(step.until, Until::Proven { .. }) && !self.provable(objectives) {
                let message = "nothing could be proven here: no objective has a limit";
                let help = "add a limit, such as `errors: 1%`, or write `for: 10m`";
                self.report.add(at.id, Code::Step, message, help);
            }
            steps.push(step);
        }
        steps
    }

    fn provable(&self, objectives: &[Objective]) -> bool {
        // What was refused may have been the limit.
        self.report.refuses() || objectives.iter().any(|one| one.bound() == Bound::Limit)
    }

    fn step(&mut self, raw: &raw::Step, place: Place<'_>) -> Option<Step> {
        let there = [
            ("mirror", raw.mirror.is_there()),
            ("weight", raw.weight.is_there()),
            ("pause", raw.pause.is_there()),
        ];
        let alone = self.exactly_one(place.id, &there, raw.faulty);
        let share = self.value(&raw.mirror);
        let methods: Vec<_> = raw.methods.items().iter().filter_map(|m| self.value(m)).collect();
        self.not_empty(&raw.methods, "a method, or leave the key out");
        let weight = self.weight(raw, place);
        let pause = self.placed(&raw.pause);
        let until = self.until(raw, place, weight);
        if !alone {
            return None;
        }
        if !raw.mirror.is_there() && raw.methods.is_there() {
            self.not_here(raw.methods.id, "methods", "it says what a `mirror` step copies");
        }
        let held = place.before;
        if let Some(share) = share {
            let methods = if raw.methods.is_there() { methods } else { methods_of(place.rule) };
            let mirror = Some(Copies { share, methods });
            return Some(Step { weight: held, mirror, until: until? });
        }
        match pause {
            Some((_, true)) => Some(Step { weight: held, mirror: None, until: Until::Told }),
            Some((id, false)) => {
                self.not_here(id, "pause: false", "leave the whole step out");
                None
            }
            None => Some(Step { weight: weight?, mirror: None, until: until? }),
        }
    }

    fn weight(&mut self, raw: &raw::Step, place: Place<'_>) -> Option<Ratio> {
        let (id, weight) = self.placed(&raw.weight)?;
        if weight == Ratio::ZERO || weight < place.before {
            let message = format!("a weight of {weight} after {}", place.before);
            let help = "write at least that of the step before, and more than 0%";
            self.report.add(id, Code::Step, message, help);
            return None;
        }
        Some(weight)
    }

    /// When the step is over.
    fn until(&mut self, raw: &raw::Step, place: Place<'_>, weight: Option<Ratio>) -> Option<Until> {
        let bounds = self.bounds(&raw.r#for);
        let proven = self.placed(&raw.until).map(|(id, ())| id);
        let bake = self.placed(&raw.bake);
        if raw.pause.is_there() {
            for (key, is_there, id) in [
                ("for", raw.r#for.is_there(), raw.r#for.id),
                ("until", raw.until.is_there(), raw.until.id),
                ("bake", raw.bake.is_there(), raw.bake.id),
            ] {
                if is_there {
                    self.not_here(id, key, "a pause ends when a person says so");
                }
            }
            return None;
        }
        if let Some((id, bake)) = bake {
            let whole = weight.is_none_or(|weight| weight == Ratio::ONE);
            if !place.is_last || !whole || raw.mirror.is_there() {
                self.not_here(id, "bake", "it belongs to a last step of `weight: 100%`");
            } else if raw.r#for.is_there() || proven.is_some() {
                self.not_here(id, "bake", "keep either it or `for` and `until`");
            }
            return Some(Until::soaked(bake));
        }
        if raw.mirror.is_there() {
            if let Some(id) = proven {
                self.not_here(id, "until", "copies prove nothing yet; write `for: 10m`");
            } else if !raw.r#for.is_there() {
                let message = "how long is the mirror to last?";
                self.report.add(place.id, Code::Step, message, "add `for: 10m`");
            }
        }
        match (bounds, proven) {
            // `for: 2m` beside `until: proven` is no deadline.
            (Some((at_least, Some(at_most))), Some(_)) if at_least == at_most => {
                Some(Until::Proven { at_least, at_most: None })
            }
            (Some((at_least, at_most)), Some(_)) => Some(Until::Proven { at_least, at_most }),
            (Some((at_least, Some(at_most))), None) => Some(Until::Soaked { at_least, at_most }),
            (Some((at_least, None)), None) => Some(Until::Proven { at_least, at_most: None }),
            // The canary has everything and nobody wants to watch it any longer.
            (None, None) if place.is_last && !place.is_first && weight == Some(Ratio::ONE) => {
                Some(Until::AtOnce)
            }
            (None, _) => Some(Until::PROVEN),
        }
    }

    /// `for`, as bounds.
    fn bounds(&mut self, at: &At<raw::ForForm>) -> Option<(Duration, Option<Duration>)> {
        match at.found()? {
            (id, Form::Short(span)) => {
                let span = self.value(&At { id, given: Given::Is(span.clone()) })?;
                Some((span, Some(span)))
            }
            (id, Form::Long(raw)) => {
                let at_most = self.value(&raw.at_most);
                let default = at_most.map_or(SOAK_MIN, |most| most.min(SOAK_MIN));
                let at_least = self.value(&raw.at_least).unwrap_or(default);
                if at_most.is_some_and(|most| most < at_least) {
                    let message = "`at_most` is shorter than `at_least`";
                    self.report.add(id, Code::Step, message, "write the longer one as `at_most`");
                }
                Some((at_least, at_most))
            }
        }
    }

    fn not_here(&mut self, id: NodeId, key: &str, why: &str) {
        let message = format!("`{key}` makes no sense in this step");
        self.report.add(id, Code::Step, message, why);
    }
}

/// What a rule asks for by name may be copied; of others only what is safe (RFC 9110, 9.2.1).
fn methods_of(rule: Option<&Rule>) -> Vec<Method> {
    let matches = rule.map_or(&[][..], |rule| &rule.matches);
    let named: Option<Vec<_>> = matches.iter().map(|one| one.method.clone()).collect();
    match named {
        Some(named) if !named.is_empty() => named,
        _ => vec![Method::GET, Method::HEAD],
    }
}
