//! What a look at the evidence comes to, with its numbers.
//!
//! Never acts: the machine draws the consequence, and others write logs and metrics of it.

use std::fmt;
use std::ops::AddAssign;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rollout::interval::Interval;
use crate::rollout::objective::{Bound, Objective, OnBreach, Standing};

/// The worst of many is `max()`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// May go on. Only a rollout with steps has anywhere to go.
    Promote,
    /// May not go on now.
    Hold,
    /// The canary is to be taken out.
    Rollback,
}

impl Verdict {
    /// `promote`, `hold` or `rollback`: literal API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Hold => "hold",
            Self::Rollback => "rollback",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a rollout may not go on. The texts are literal API.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldReason {
    /// The canary breaches a limit and stable does too.
    SharedCause,
    /// Evidence against the canary, short of proof.
    Suspicious,
    /// A breach is proven of an objective that only holds.
    Objective(Objective),
    /// The canary has nothing that could answer; its share goes to stable.
    NoEndpoint,
    /// The canary has to go, and stable has nothing that could answer in its place.
    NoStable,
    /// A person, or a breach that is to pause, stopped it.
    Paused,
    /// Too few canary attempts to say anything, or none lately.
    NotEnoughTraffic,
    /// Too young to say anything.
    Soaking,
    /// Nobody was looking for a while: the process was stopped, or had no time to run.
    Unknown,
    /// The canary does not get the share that it should.
    RoutingMismatch,
    /// Of some replicas of the fleet it is not known what they see.
    ReplicasMissing,
    /// This replica alone would go on; the holder of the fleet's lease decides.
    Fleet,
    /// Nothing is wrong as far as can be seen.
    NotProven,
    /// The same, for longer than the step may take.
    Overdue,
}

impl HoldReason {
    /// Whether something is wrong, beyond there being too little to go by: `holding`.
    pub const fn is_alarm(self) -> bool {
        match self {
            Self::SharedCause
            | Self::Suspicious
            | Self::Objective(_)
            | Self::NoEndpoint
            | Self::NoStable
            | Self::Unknown
            | Self::RoutingMismatch
            | Self::Overdue => true,
            Self::Paused
            | Self::NotEnoughTraffic
            | Self::Soaking
            | Self::ReplicasMissing
            | Self::Fleet
            | Self::NotProven => false,
        }
    }

    /// Whether something is proven against the canary, and not only suspected.
    pub const fn is_breach(self) -> bool {
        match self {
            Self::SharedCause | Self::Objective(_) | Self::NoStable => true,
            Self::Suspicious
            | Self::NoEndpoint
            | Self::Unknown
            | Self::RoutingMismatch
            | Self::Overdue
            | Self::Paused
            | Self::NotEnoughTraffic
            | Self::Soaking
            | Self::ReplicasMissing
            | Self::Fleet
            | Self::NotProven => false,
        }
    }
}

impl fmt::Display for HoldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SharedCause => f.write_str("shared cause"),
            Self::Suspicious => f.write_str("suspicious"),
            Self::Objective(objective) => objective.fmt(f),
            Self::NoEndpoint => f.write_str("canary has no ready endpoint"),
            Self::NoStable => f.write_str("stable has no ready endpoint"),
            Self::Paused => f.write_str("paused"),
            Self::NotEnoughTraffic => f.write_str("not enough traffic"),
            Self::Soaking => f.write_str("soaking"),
            Self::Unknown => f.write_str("unknown"),
            Self::RoutingMismatch => f.write_str("routing mismatch"),
            Self::ReplicasMissing => f.write_str("replicas missing"),
            Self::Fleet => f.write_str("the fleet decides"),
            Self::NotProven | Self::Overdue => f.write_str("not proven"),
        }
    }
}

/// Why a rollout may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Of every limit, the upper end of what the step's counts leave possible is within half
    /// as much again.
    Proven,
    /// The step has lasted as long as it should, and nothing was breached.
    Soaked,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proven => "proven",
            Self::Soaked => "soaked, no breach",
        })
    }
}

/// How many attempts were judged, and how many of them were bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// At most `total`.
    pub bad: u64,
    /// Attempts that could have been bad.
    pub total: u64,
}

impl Tally {
    /// Attempts that were not bad.
    pub const fn good(self) -> u64 {
        self.total.saturating_sub(self.bad)
    }

    /// The attempts that are not those of `part`.
    #[must_use]
    pub const fn without(self, part: Self) -> Self {
        Self {
            bad: self.bad.saturating_sub(part.bad),
            total: self.total.saturating_sub(part.total),
        }
    }

    pub(super) fn is_zero(&self) -> bool {
        self.total == 0
    }

    /// bad / total, 0 where nothing was counted.
    pub fn ratio(self) -> f64 {
        if self.total == 0 { 0.0 } else { self.bad as f64 / self.total as f64 }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        self.bad = self.bad.saturating_add(more.bad);
        self.total = self.total.saturating_add(more.total);
    }
}

/// How one objective stands and the numbers behind it, so that an operator can be told why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finding {
    /// What was judged.
    pub objective: Objective,
    /// Of the canary, since the evidence began.
    pub canary: Tally,
    /// Of stable, over the same time.
    pub stable: Tally,
    /// E-value: the canary is over the limit.
    pub over_limit: f64,
    /// E-value: the canary is worse than `ratio` times stable; `None` with no stable worth
    /// the name beside it.
    pub worse_than_stable: Option<f64>,
    /// The evidence that is proof, on both sides.
    pub threshold: f64,
    /// What the numbers come to.
    pub standing: Standing,
}

impl Finding {
    /// What this objective alone would lead to.
    pub fn verdict(&self) -> Verdict {
        match (self.standing, self.objective.on_breach()) {
            (Standing::Breached, OnBreach::Rollback) => Verdict::Rollback,
            _ => Verdict::Hold,
        }
    }

    /// Bounds of the canary's bad rate, 95 %, valid at every moment at once.
    pub fn interval(&self) -> Interval {
        Interval::of(self.canary.bad, self.canary.total)
    }

    /// The sentence without the objective's name.
    pub fn numbers(&self) -> Numbers<'_> {
        Numbers(self)
    }
}

impl fmt::Display for Finding {
    /// `errors <= 1%: canary 4.08% [0.70, 12.04] of 147, stable 0.15% of 1310; over limit 411,
    /// worse than 1.5x stable 523, rollback at 200`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.objective, self.numbers())
    }
}

/// A finding's sentence without the objective's name.
#[derive(Clone, Copy, Debug)]
pub struct Numbers<'a>(&'a Finding);

impl fmt::Display for Numbers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |ratio: f64| ratio * 100.0;
        let Finding { objective, canary, stable, threshold, .. } = self.0;
        let Interval { low, high } = self.0.interval();
        write!(f, "canary {:.2}% ", percent(canary.ratio()))?;
        write!(f, "[{:.2}, {:.2}] of {}", percent(low.get()), percent(high.get()), canary.total)?;
        write!(f, ", stable {:.2}% of {}; ", percent(stable.ratio()), stable.total)?;
        match objective.bound() {
            Bound::Limit => f.write_str("over limit ")?,
            Bound::NotWorseThanStable => write!(f, "over floor of {} ", objective.limit())?,
        }
        write_evidence(f, self.0.over_limit, *threshold)?;
        if let Some(worse) = self.0.worse_than_stable {
            write!(f, ", worse than {}x stable ", objective.ratio())?;
            write_evidence(f, worse, *threshold)?;
        }
        let consequence = match objective.on_breach() {
            OnBreach::Rollback => "rollback",
            OnBreach::Hold => "hold",
        };
        write!(f, ", {consequence} at {threshold:.0}")
    }
}

/// Whole from 10 upwards, two digits below; beyond ten times the threshold more is no news.
fn write_evidence(f: &mut fmt::Formatter<'_>, value: f64, threshold: f64) -> fmt::Result {
    let most = 10.0 * threshold;
    match value {
        value if value > most => write!(f, ">= {most:.0}"),
        value if value >= 10.0 => write!(f, "{value:.0}"),
        value => write!(f, "{value:.2}"),
    }
}

/// What all objectives together come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// The next step may begin, for this.
    Promote(Proof),
    /// The rollout may not go on now.
    Hold(HoldReason),
    /// The canary is to be taken out, for this.
    Rollback(Finding),
}

impl Decision {
    /// Without its reason.
    pub const fn verdict(&self) -> Verdict {
        match self {
            Self::Promote(_) => Verdict::Promote,
            Self::Hold(_) => Verdict::Hold,
            Self::Rollback(_) => Verdict::Rollback,
        }
    }

    /// Why it holds, `None` if it does not.
    pub const fn hold_reason(&self) -> Option<HoldReason> {
        match self {
            Self::Hold(reason) => Some(*reason),
            Self::Promote(_) | Self::Rollback(_) => None,
        }
    }
}

/// A decision and every objective's numbers at that moment.
#[expect(clippy::struct_excessive_bools, reason = "four facts that say nothing of each other")]
#[derive(Clone, Debug, PartialEq)]
pub struct Findings {
    /// What all objectives together come to.
    pub decision: Decision,
    /// In the order of the plan.
    pub objectives: Vec<Finding>,
    /// Stable has nothing that could answer in the canary's place.
    pub stable_missing: bool,
    /// It is probes that the decision comes from.
    pub by_probes: bool,
    /// What probes have found, of each objective that they are judged by.
    pub probes: Vec<Finding>,
    /// A breach that both versions share goes on: each was bad within the last minute.
    pub shared_lasts: bool,
    /// It is one replica's, and whoever judges for all hears it: what is known is for that one
    /// to forget.
    pub is_led: bool,
}

impl Findings {
    /// The first objective that stands so.
    pub fn first(&self, standing: Standing) -> Option<&Finding> {
        self.objectives.iter().find(|one| one.standing == standing)
    }

    /// The first breach to roll back for of an objective that is none of `known`, and whether
    /// it is probes that have found it.
    pub fn breach_beyond(&self, known: &[String]) -> Option<(&Finding, bool)> {
        let of_users = self.objectives.iter().map(|one| (one, false));
        let all = of_users.chain(self.probes.iter().map(|one| (one, true)));
        let mut breaches = all.filter(|(one, _)| one.verdict() == Verdict::Rollback);
        breaches.find(|(one, _)| !known.contains(&one.objective.name()))
    }

    /// Whether anything still speaks against the canary by the objective called `name`.
    pub fn still_doubts(&self, name: &str) -> bool {
        let mut all = self.objectives.iter().chain(&self.probes);
        all.any(|one| one.standing != Standing::Kept && one.objective.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Ratio;

    fn finding(over_limit: f64, worse_than_stable: Option<f64>) -> Finding {
        Finding {
            objective: Objective::errors(Ratio::new(0.01).unwrap()).unwrap(),
            canary: Tally { bad: 6, total: 147 },
            stable: Tally { bad: 2, total: 1310 },
            over_limit,
            worse_than_stable,
            threshold: 200.0,
            standing: Standing::Breached,
        }
    }

    #[test]
    fn a_verdict_prints_as_one_sentence_with_all_its_numbers() {
        let start = "errors <= 1%: canary 4.08% [0.70, 12.04] of 147, stable 0.15% of 1310; ";
        for (finding, end) in [
            (
                finding(411.2, Some(522.8)),
                "over limit 411, worse than 1.5x stable 523, rollback at 200",
            ),
            (finding(2001.0, None), "over limit >= 2000, rollback at 200"),
            (
                finding(0.0123, Some(9.994)),
                "over limit 0.01, worse than 1.5x stable 9.99, rollback at 200",
            ),
        ] {
            assert_eq!(finding.to_string(), format!("{start}{end}"));
        }
    }

    #[test]
    fn the_worst_verdict_is_the_greatest() {
        assert!(Verdict::Promote < Verdict::Hold && Verdict::Hold < Verdict::Rollback);
    }

    #[test]
    fn hold_reasons_are_literal() {
        let errors = finding(0.0, None).objective;
        for (reason, text) in [
            (HoldReason::SharedCause, "shared cause"),
            (HoldReason::Suspicious, "suspicious"),
            (HoldReason::Objective(errors), "errors <= 1%"),
            (HoldReason::NotEnoughTraffic, "not enough traffic"),
            (HoldReason::Soaking, "soaking"),
            (HoldReason::NotProven, "not proven"),
            (HoldReason::Overdue, "not proven"),
            (HoldReason::Paused, "paused"),
            (HoldReason::RoutingMismatch, "routing mismatch"),
            (HoldReason::Unknown, "unknown"),
            (HoldReason::NoEndpoint, "canary has no ready endpoint"),
            (HoldReason::NoStable, "stable has no ready endpoint"),
        ] {
            assert_eq!(reason.to_string(), text);
        }
    }
}
