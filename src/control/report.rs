//! Log lines about rollouts.
//!
//! Never decides what is worth a line: the controller does.

use crate::control::api::RolloutView;
use crate::rollout::machine::Effect;

/// A rollout has changed: what it is now, and why.
pub fn change(view: &RolloutView, effect: Effect) {
    let reason = match effect {
        Effect::Restarted => "starts without evidence: reset, or other objectives".to_owned(),
        Effect::Stepped => {
            let step = view.step.map_or(0, |step| step + 1);
            format!("step {step} of {} begins", view.steps.len())
        }
        Effect::Resumed => "resumed by an operator".to_owned(),
        _ => view.reason.clone().unwrap_or_default(),
    };
    tracing::warn!(
        rollout = %view.name, version = %view.version, state = %view.state, rule = %view.rule,
        stable = %view.stable, canary = %view.canary, weight = view.weight, reason,
        "rollout changed"
    );
}
