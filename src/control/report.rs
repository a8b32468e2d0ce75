//! Log lines about rollouts.
//!
//! Never decides what is worth a line: the controller does.

use crate::control::api::RolloutView;
use crate::names::{RolloutName, Version};
use crate::rollout::machine::{Effect, Word};

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
        event = "rollout_changed",
        rollout = %view.name, version = %view.version, state = %view.state, rule = %view.rule,
        stable = %view.stable, canary = %view.canary, step = view.step, weight = view.weight,
        reason, "rollout changed"
    );
}

/// What holds a rollout is something else than before, or nothing.
pub fn held(view: &RolloutView) {
    tracing::info!(
        event = "rollout_held",
        rollout = %view.name, version = %view.version, state = %view.state, rule = %view.rule,
        step = view.step, weight = view.weight, hold_reason = view.hold_reason.as_deref(),
        "what holds the rollout has changed"
    );
}

/// A word about the rollout of this name and version is followed; `by` is the name of the admin
/// token, or another replica.
pub fn told((name, version): (&RolloutName, &Version), word: Word, by: Option<&str>) {
    tracing::info!(
        event = "rollout_told", rollout = %name, %version, word = word.as_str(), by,
        "a word is followed"
    );
}
