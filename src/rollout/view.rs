//! Findings as users read them in JSON. Names and units here are API.
//!
//! Never computes a number of its own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rollout::verdict::{Finding, Findings, Tally, Verdict};

/// One objective of `/api/rollouts` and of `replay`. Ratios are fractions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectiveView {
    /// `errors <= 1%`.
    pub name: String,
    /// What the canary did.
    pub canary: CanaryView,
    /// What stable did meanwhile.
    pub stable: StableView,
    /// x.
    pub limit: f64,
    /// E-value: the canary is over the limit.
    pub over_limit: f64,
    /// E-value: the canary is worse than stable; null where there is none to compare with.
    pub worse_than_stable: Option<f64>,
    /// The evidence that is proof.
    pub threshold: f64,
    /// What this objective alone would lead to.
    pub verdict: Verdict,
}

/// The canary's counts with the bounds of its rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CanaryView {
    /// Bad attempts.
    pub bad: u64,
    /// Attempts that could have been bad.
    pub total: u64,
    /// bad / total, 0 where nothing was counted.
    pub ratio: f64,
    /// The lowest rate that fits.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

/// Stable's counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StableView {
    /// Bad attempts.
    pub bad: u64,
    /// Attempts that could have been bad.
    pub total: u64,
    /// bad / total, 0 where nothing was counted.
    pub ratio: f64,
}

impl From<&Finding> for ObjectiveView {
    fn from(finding: &Finding) -> Self {
        let Tally { bad, total } = finding.canary;
        let interval = finding.interval();
        let (low, high) = (interval.low.get(), interval.high.get());
        Self {
            name: finding.objective.name(),
            canary: CanaryView { bad, total, ratio: finding.canary.ratio(), low, high },
            stable: StableView {
                bad: finding.stable.bad,
                total: finding.stable.total,
                ratio: finding.stable.ratio(),
            },
            limit: finding.objective.limit().get(),
            over_limit: finding.over_limit,
            worse_than_stable: finding.worse_than_stable,
            threshold: finding.threshold,
            verdict: finding.verdict(),
        }
    }
}

impl From<&Findings> for Vec<ObjectiveView> {
    /// In the order of the plan.
    fn from(findings: &Findings) -> Self {
        findings.objectives.iter().map(ObjectiveView::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::objective::{Objective, Standing};
    use crate::units::Ratio;

    #[test]
    fn the_json_has_the_names_that_users_hold_on_to() {
        let finding = Finding {
            objective: Objective::errors(Ratio::new(0.01).unwrap()).unwrap(),
            canary: Tally { bad: 1, total: 4 },
            stable: Tally { bad: 0, total: 8 },
            over_limit: 411.0,
            worse_than_stable: Some(523.5),
            threshold: 200.0,
            standing: Standing::Breached,
        };
        let text = serde_json::to_string(&ObjectiveView::from(&finding)).unwrap();
        let (before, after) = text.split_once(r#""low":"#).unwrap();
        let (_, after) = after.split_once("},").unwrap();
        assert_eq!(before, r#"{"name":"errors <= 1%","canary":{"bad":1,"total":4,"ratio":0.25,"#);
        assert_eq!(
            after,
            r#""stable":{"bad":0,"total":8,"ratio":0.0},"limit":0.01,"over_limit":411.0,"#
                .to_owned()
                + r#""worse_than_stable":523.5,"threshold":200.0,"verdict":"rollback"}"#
        );
    }
}
