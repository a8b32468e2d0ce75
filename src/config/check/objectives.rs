//! Objectives: what the canary is held to.
//!
//! Never weighs them: how many may roll back decides the threshold, in the plan.

use std::time::Duration;

use crate::config::check::{Checker, Seen};
use crate::config::defect::Code;
use crate::config::quantity::{Limit, Relative};
use crate::config::raw;
use crate::config::read::{At, Form, Given};
use crate::config::tree::NodeId;
use crate::rollout::objective::{Bound, LIMIT_BODY_DEFAULT, Label, Objective, Quantile, Signal};
use crate::rollout::plan::OBJECTIVES_MAX;
use crate::units::Ratio;

/// An objective before its limit is known.
enum Wanted {
    Errors(Limit),
    Latency(Quantile, Duration),
    LikeStable(Relative),
    Feedback(Label, Ratio),
}

impl Checker<'_> {
    pub(super) fn objectives(&mut self, list: &At<Vec<At<raw::Objective>>>) -> Vec<Objective> {
        self.not_empty(list, "an objective, such as `errors: 1%`");
        self.at_most(list, OBJECTIVES_MAX, "keep those that a user would notice");
        // Relative ones lean on the limits beside them, wherever those stand.
        let wanted: Vec<_> = list
            .items()
            .iter()
            .filter_map(|at| Some((at.id, at.get()?, self.wanted(at.id, at.get()?)?)))
            .collect();
        let limits: Vec<_> = wanted.iter().filter_map(|(_, _, one)| one.with_limit()).collect();
        let mut seen = Seen::of(Code::DuplicateName, "keep one of them");
        let mut objectives = Vec::new();
        for (id, raw, wanted) in wanted {
            let Some(objective) = self.objective(id, raw, &wanted, &limits) else { continue };
            let name = objective.name();
            // A message says which feedback it is by the label alone.
            let key = match objective.signal() {
                Signal::Feedback(label) => label.to_string(),
                Signal::Errors | Signal::Latency { .. } | Signal::Body => name.clone(),
            };
            self.once(&mut seen, id, &key, &format!("the objective `{name}` stands twice"));
            objectives.push(objective);
        }
        objectives
    }

    fn wanted(&mut self, id: NodeId, raw: &raw::Objective) -> Option<Wanted> {
        let there = [
            ("errors", raw.errors.is_there()),
            ("latency", raw.latency.is_there()),
            ("feedback", raw.feedback.is_there()),
        ];
        let alone = self.exactly_one(id, &there, raw.faulty);
        let errors = self.value(&raw.errors).map(Wanted::Errors);
        let latency = self.latency(&raw.latency);
        let feedback = raw.feedback.get().and_then(|raw| self.feedback(raw));
        errors.or(latency).or(feedback).filter(|_| alone)
    }

    fn feedback(&mut self, raw: &raw::Feedback) -> Option<Wanted> {
        let (name, min) = (self.value(&raw.name), self.value(&raw.min));
        // A name of the config is never too long for a label.
        Some(Wanted::Feedback(Label::new(&name?)?, min?))
    }

    fn objective(
        &mut self,
        id: NodeId,
        raw: &raw::Objective,
        wanted: &Wanted,
        limits: &[Objective],
    ) -> Option<Objective> {
        let limit = self.placed(&raw.limit);
        let ratio = self.value(&raw.ratio);
        let on_breach = self.value(&raw.on_breach);
        let made = if matches!(wanted, Wanted::LikeStable(Relative::Body)) {
            let default = || Ratio::new(LIMIT_BODY_DEFAULT).unwrap_or_default();
            Objective::body(limit.map_or_else(default, |(_, limit)| limit))
        } else if wanted.is_relative() {
            let (signal, floor) = self.beside(id, wanted, limits, limit.map(|(_, limit)| limit))?;
            Objective::not_worse_than_stable(signal, floor)
        } else {
            if let Some((id, _)) = limit {
                let message = "`limit` goes with `not-worse-than-stable`";
                let help = "leave it out: the limit stands in `errors` or `latency` itself";
                self.report.add(id, Code::Exclusive, message, help);
            }
            Ok(wanted.with_limit()?)
        };
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

    /// What a relative objective counts, and the rate below which it blames nobody: half of the
    /// limit that stands beside it, unless it has one of its own.
    fn beside(
        &mut self,
        id: NodeId,
        wanted: &Wanted,
        limits: &[Objective],
        own: Option<Ratio>,
    ) -> Option<(Signal, Ratio)> {
        let of_errors = matches!(wanted, Wanted::Errors(_));
        let mut same = limits.iter().filter(|one| match one.signal() {
            Signal::Errors => of_errors,
            Signal::Latency { .. } => !of_errors,
            Signal::Body | Signal::Feedback(_) => false,
        });
        let beside = same.find(|one| one.bound() == Bound::Limit);
        let half = beside.and_then(|one| Ratio::new(one.limit().get() / 2.0));
        let signal = if of_errors { Some(Signal::Errors) } else { beside.map(Objective::signal) };
        let (message, help) = match (signal, own.or(half)) {
            (Some(signal), Some(floor)) => return Some((signal, floor)),
            (Some(_), None) => (
                "below which rate of errors is nobody to blame?",
                "add a limit: `{ errors: not-worse-than-stable, limit: 0.5% }`",
            ),
            (None, _) => (
                "from when on is an answer slow?",
                "add an objective with a quantile beside it: `- latency: { p99: 200ms }`",
            ),
        };
        self.report.add(id, Code::Objective, message, help);
        None
    }

    fn latency(&mut self, at: &At<raw::LatencyForm>) -> Option<Wanted> {
        let (id, form) = at.found()?;
        let pairs = match form {
            Form::Long(pairs) => &pairs.entries,
            Form::Short(word) => {
                let word = At { id, given: Given::Is(word.clone()) };
                return self.value(&word).map(Wanted::LikeStable);
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
        Some(Wanted::Latency(quantile, threshold))
    }
}

impl Wanted {
    fn is_relative(&self) -> bool {
        matches!(self, Self::Errors(Limit::Stable) | Self::LikeStable(_))
    }

    /// `None` where stable is the measure.
    fn with_limit(&self) -> Option<Objective> {
        match self {
            Self::Errors(Limit::Rate(limit)) => Objective::errors(*limit).ok(),
            Self::Latency(quantile, threshold) => Some(Objective::latency(*quantile, *threshold)),
            Self::Feedback(name, min) => Objective::feedback(*name, *min).ok(),
            Self::Errors(Limit::Stable) | Self::LikeStable(_) => None,
        }
    }
}
