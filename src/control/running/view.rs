//! A rollout as the admin API and the metrics show it.
//!
//! Never changes anything.

use crate::config::Config;
use crate::control::api::{RolloutView, StepView};
use crate::control::build::shares;
use crate::control::running::Running;
use crate::rollout::machine::{Pause, State};
use crate::rollout::verdict::{HoldReason, Verdict};
use crate::telemetry::metrics::RolloutGauges;
use crate::units::Ratio;

impl Running {
    /// As the admin API shows it.
    pub fn view(&self, config: &Config) -> RolloutView {
        let plan = self.plan();
        let last = self.release.findings();
        let judged = || last.map(Into::into).unwrap_or_default();
        let (verdict, reason, objectives) = match self.state() {
            State::Progressing { pause, .. } => {
                let reason = match pause {
                    Some(Pause::Breach(cause)) => Some(cause.text.clone()),
                    Some(Pause::Step | Pause::Operator) | None => None,
                };
                (last.map_or(Verdict::Hold, |one| one.decision.verdict()), reason, judged())
            }
            State::Promoted { .. } => {
                (Verdict::Promote, Some("every step was left".to_owned()), judged())
            }
            State::RolledBack { cause, .. } => {
                (Verdict::Rollback, Some(cause.text.clone()), cause.objectives.clone())
            }
            State::Aborted { .. } => {
                let by = self.said.as_ref().and_then(|said| said.by.as_deref());
                let reason = format!("aborted by {}", by.unwrap_or("an operator"));
                (Verdict::Rollback, Some(reason), judged())
            }
        };
        let shares = shares(config, plan, self.share());
        // What is left of the two goes to stable.
        let pair = if shares.1 > 0.0 { shares.0 / shares.1 } else { self.pair(config) };
        let weights = [pair - shares.0, shares.0];
        RolloutView {
            name: plan.name.to_string(),
            rule: plan.rule.to_string(),
            stable: plan.stable.to_string(),
            canary: plan.canary.to_string(),
            version: plan.version.to_string(),
            state: self.state_name().to_owned(),
            step: self.step(),
            steps: plan.steps.iter().map(StepView::from).collect(),
            weight: shares.0,
            reason,
            since: self.since.clone(),
            verdict,
            hold_reason: self.hold_reason(),
            objectives,
            body_ms: self.body.threshold().map(|span| span.as_secs_f64() * 1e3),
            versions: self.pace.shown([plan.stable.as_str(), plan.canary.as_str()], weights),
            said: self.said.clone(),
            fleet: None,
        }
    }

    /// The share of the rule's requests that goes to the two, where the canary has none of it.
    fn pair(&self, config: &Config) -> f64 {
        shares(config, self.plan(), Some(Ratio::ONE)).0
    }

    /// From 0; `None` without steps, and when there are none any more.
    fn step(&self) -> Option<u32> {
        let step = self.state().step().filter(|_| !self.plan().steps.is_empty())?;
        u32::try_from(step).ok()
    }

    fn hold_reason(&self) -> Option<String> {
        match self.state() {
            // Said at once: the hold is that of the last look, which may be before the pause.
            State::Progressing { pause: Some(_), hold: Some(hold), .. }
                if !hold.reason.is_alarm() && hold.reason != HoldReason::NoEndpoint =>
            {
                Some(HoldReason::Paused.to_string())
            }
            State::Progressing { hold: Some(hold), .. } => Some(hold.reason.to_string()),
            State::Progressing { .. } if !self.ready.canary => {
                Some(HoldReason::NoEndpoint.to_string())
            }
            State::Progressing { pause: Some(_), .. } => Some(HoldReason::Paused.to_string()),
            _ => None,
        }
    }

    /// `holding` as well when it is the canary's endpoints that are missing.
    pub fn state_name(&self) -> &'static str {
        match self.state() {
            State::Progressing { pause: None, .. } if !self.ready.canary => "holding",
            state => state.as_str(),
        }
    }

    /// For the metrics; the same numbers as in `view`.
    pub fn gauges(&self, view: &RolloutView) -> RolloutGauges {
        let evidence = view.objectives.iter();
        RolloutGauges {
            name: view.name.clone(),
            state: self.state_name(),
            weight: view.weight,
            threshold: self.plan().threshold(),
            hold: view.hold_reason.clone(),
            evidence: evidence
                .map(|one| (one.name.clone(), one.over_limit, one.worse_than_stable))
                .collect(),
            rolled_back: self.rolled_back.clone(),
            probes: self.probed.counts(self.plan()),
        }
    }
}
