//! The first requests that made the evidence there is, for people to look up in their logs.
//!
//! Never keeps anything of a request but its id, its status and how long it took.

use std::array;

use crate::rollout::objective::{Objective, Signal};
use crate::rollout::plan::OBJECTIVES_MAX;
use crate::rollout::record::FailingRequest;
use crate::rollout::verdict::Findings;
use crate::telemetry::notes::Failure;

/// Requests that are kept of each objective. When full, later ones are left out.
const REQUESTS_MAX: usize = 5;

/// The first requests that made the evidence there is, beside the plan's objectives.
#[derive(Debug)]
pub struct Failing([Made; OBJECTIVES_MAX]);

/// What one objective's evidence was made of.
#[derive(Debug)]
struct Made {
    /// The evidence before the first of the requests.
    before: f64,
    requests: Vec<Failure>,
}

impl Default for Failing {
    fn default() -> Self {
        Self(array::from_fn(|_| Made { before: 0.0, requests: Vec::new() }))
    }
}

impl Failing {
    /// One more. `findings` are those before it.
    pub fn note(
        &mut self,
        failure: &Failure,
        objectives: &[Objective],
        findings: Option<&Findings>,
    ) {
        for (index, (objective, made)) in objectives.iter().zip(&mut self.0).enumerate() {
            let counts = match objective.signal() {
                Signal::Errors => failure.slow == 0,
                Signal::Latency { .. } | Signal::Body => failure.slow & (1 << index) != 0,
                Signal::Feedback(_) => false,
            };
            if !counts {
                continue;
            }
            if made.requests.is_empty() {
                let found = findings.and_then(|findings| findings.objectives.get(index));
                made.before = found.map_or(0.5, |found| found.over_limit);
            }
            if made.requests.len() < REQUESTS_MAX {
                made.requests.push(failure.clone());
            }
        }
    }

    /// Forgets what the evidence has forgotten: it is back where it was before the first.
    pub fn forget(&mut self, findings: Option<&Findings>) {
        let found = findings.map_or(&[][..], |findings| &findings.objectives);
        for (made, found) in self.0.iter_mut().zip(found) {
            if found.over_limit <= made.before {
                made.requests.clear();
            }
        }
    }

    /// As people read them, in the order of the plan.
    pub fn shown(&self, objectives: &[Objective]) -> Vec<FailingRequest> {
        let shown = |(objective, made): (&Objective, &Made)| {
            let name = objective.name();
            let show = |one: &Failure| FailingRequest {
                objective: name.clone(),
                id: String::from_utf8_lossy(one.id.as_bytes()).into_owned(),
                trace_id: one.trace.map(|trace| format!("{trace:032x}")),
                status: one.code,
                reason: one.reason.map(|reason| reason.as_str().to_owned()),
                latency_ms: one.taken.as_micros() as f64 / 1e3,
            };
            made.requests.iter().map(show).collect::<Vec<_>>()
        };
        objectives.iter().zip(&self.0).flat_map(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rollout::objective::{Quantile, Standing};
    use crate::rollout::verdict::{Decision, Finding, HoldReason, Tally};
    use crate::units::Ratio;

    fn objectives() -> [Objective; 2] {
        let errors = Objective::errors(Ratio::new(0.01).unwrap()).unwrap();
        [errors, Objective::latency(Quantile::P99, Duration::from_millis(200))]
    }

    fn findings(over_limit: [f64; 2]) -> Findings {
        let finding = |(objective, over_limit)| Finding {
            objective,
            canary: Tally::default(),
            stable: Tally::default(),
            over_limit,
            worse_than_stable: None,
            threshold: 200.0,
            standing: Standing::Kept,
        };
        Findings {
            decision: Decision::Hold(HoldReason::NotProven),
            objectives: objectives().into_iter().zip(over_limit).map(finding).collect(),
            stable_missing: false,
            by_probes: false,
            is_led: false,
            probes: Vec::new(),
            shared_lasts: false,
        }
    }

    fn failure(id: &'static str, slow: u8) -> Failure {
        let id = http::HeaderValue::from_static(id);
        Failure {
            id,
            trace: None,
            code: Some(503),
            reason: None,
            taken: Duration::from_micros(1234),
            slow,
        }
    }

    #[test]
    fn the_first_of_each_objective_are_kept_until_the_evidence_is_back_where_it_was() {
        let mut failing = Failing::default();
        let ids = |failing: &Failing| {
            let shown = failing.shown(&objectives());
            let of = |name: &str| {
                let ids = shown.iter().filter(|one| one.objective.starts_with(name));
                ids.map(|one| one.id.clone()).collect::<Vec<_>>().join(" ")
            };
            [of("errors"), of("latency")]
        };
        for id in ["a", "b", "c", "d", "e", "f"] {
            failing.note(&failure(id, 0), &objectives(), Some(&findings([0.1, 0.2])));
        }
        failing.note(&failure("s", 0b10), &objectives(), Some(&findings([3.0, 0.2])));
        failing.forget(Some(&findings([3.0, 0.3])));
        assert_eq!(ids(&failing), ["a b c d e", "s"]);
        failing.forget(Some(&findings([0.11, 0.2])));
        assert_eq!(ids(&failing), ["a b c d e", ""]);
        let first = &failing.shown(&objectives())[0];
        assert_eq!((first.status, first.latency_ms), (Some(503), 1.234));
        failing.forget(Some(&findings([0.1, 0.2])));
        assert_eq!(ids(&failing), ["", ""]);
    }
}
