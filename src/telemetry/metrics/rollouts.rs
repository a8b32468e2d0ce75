//! Metrics of rollouts.

use crate::rollout::machine::State;
use crate::telemetry::metrics::{
    COUNTER, FleetGauges, GAUGE, Label, Number, ProbeCounts, RolloutGauges, Text,
};

/// Where each of them stands, why, and what it decided.
pub(super) fn write(text: &mut Text, rollouts: &[RolloutGauges]) {
    let help = "The canary's share of its rule's requests, 0 to 1.";
    text.family("serin_rollout_weight", GAUGE, help);
    for one in rollouts {
        text.sample("serin_rollout_weight", &[("rollout", &one.name)], Number(one.weight));
    }
    text.family("serin_rollout_state", GAUGE, "1 for the state that the rollout is in, else 0.");
    for one in rollouts {
        for state in State::NAMES {
            let labels: [Label<'_>; 2] = [("rollout", &one.name), ("state", &state)];
            text.sample("serin_rollout_state", &labels, u8::from(state == one.state));
        }
    }
    let help = "E-values against the canary; proof is where both reach the rollout's threshold.";
    text.family("serin_rollout_evidence", GAUGE, help);
    for one in rollouts {
        for (objective, over, worse) in &one.evidence {
            for (kind, value) in [("over_limit", Some(*over)), ("worse_than_stable", *worse)] {
                let Some(value) = value else { continue };
                let labels: [Label<'_>; 3] =
                    [("rollout", &one.name), ("objective", objective), ("kind", &kind)];
                text.sample("serin_rollout_evidence", &labels, Number(value));
            }
        }
    }
    let name = "serin_probe_requests_total";
    text.family(name, COUNTER, "Probes, which are requests of Serin's own, by their outcome.");
    for one in rollouts {
        for ProbeCounts { backend, counts } in &one.probes {
            for (outcome, count) in counts {
                let labels: [Label<'_>; 3] =
                    [("rollout", &one.name), ("backend", backend), ("outcome", &outcome.as_str())];
                text.sample(name, &labels, count);
            }
        }
    }
    let help = "The e-value from which evidence is proof.";
    text.family("serin_rollout_evidence_threshold", GAUGE, help);
    for one in rollouts {
        let labels: [Label<'_>; 1] = [("rollout", &one.name)];
        text.sample("serin_rollout_evidence_threshold", &labels, Number(one.threshold));
    }
    let help = "1 for the reason that keeps the rollout where it is; none where nothing does.";
    text.family("serin_rollout_hold", GAUGE, help);
    for one in rollouts {
        let Some(reason) = &one.hold else { continue };
        let labels: [Label<'_>; 2] = [("rollout", &one.name), ("reason", reason)];
        text.sample("serin_rollout_hold", &labels, 1);
    }
    let help = "Rollbacks since the process started, by the breached objective.";
    text.family("serin_rollouts_rolled_back_total", COUNTER, help);
    for one in rollouts {
        for (objective, count) in &one.rolled_back {
            let labels: [Label<'_>; 2] = [("rollout", &one.name), ("objective", objective)];
            text.sample("serin_rollouts_rolled_back_total", &labels, count);
        }
    }
}

/// This replica's place in its fleet.
pub(super) fn fleet(text: &mut Text, fleet: FleetGauges) {
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    for (name, help, value) in [
        (
            "serin_fleet_connected",
            "1 if the Kubernetes API can be reached; else this replica is alone, and goes nowhere.",
            u64::from(fleet.is_connected),
        ),
        (
            "serin_fleet_lease_held",
            "1 at the replica that judges the counts of all.",
            u64::from(fleet.is_holder),
        ),
        (
            "serin_fleet_replicas_seen",
            "Replicas that told the holder of the lease their counts of late; 0 elsewhere.",
            count(fleet.seen),
        ),
        (
            "serin_fleet_replicas_missing",
            "Replicas that did not; 0 elsewhere. Nothing is promoted meanwhile.",
            count(fleet.missing),
        ),
    ] {
        text.family(name, GAUGE, help);
        text.sample(name, &[] as &[Label<'_>], value);
    }
}
