//! A bound that the canary must keep.
//!
//! Never looks at traffic: which attempt was bad or slow was decided where it ended.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::{Ratio, duration_text};

/// The r of an absolute objective: how much worse than stable before the canary is blamed.
pub const RATIO_DEFAULT: f64 = 1.5;
/// The r of `not-worse-than-stable`, which has no limit of its own to lean on.
pub const RATIO_RELATIVE_DEFAULT: f64 = 2.0;
/// The r of the body objective: a tenth of stable's own attempts are slow by its measure.
pub const RATIO_BODY_DEFAULT: f64 = 1.25;
/// The limit of the body objective. Stable's p90 is measured from [`BODY_REQUESTS_MIN`] requests,
/// so a canary just like it has 10 % slow ones, give or take 1 %.
pub const LIMIT_BODY_DEFAULT: f64 = 0.125;
/// The quantile of stable's latency that the body objective measures by.
pub const BODY_QUANTILE: f64 = 0.9;
/// Requests of stable before its quantile is taken.
pub const BODY_REQUESTS_MIN: u64 = 1000;

/// The evidence against stable itself from which a breach counts as shared.
pub(super) const SHARED_MIN: f64 = 20.0;
/// The evidence against the canary from which nobody should be moved onto it.
const SUSPICIOUS_MIN: f64 = 10.0;

/// A bound that the canary must keep, and what its breach leads to.
///
/// Its null hypothesis: at every time the canary's bad rate is at most `limit`, **or** at
/// every time it is at most `ratio` times stable's at that time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    signal: Signal,
    bound: Bound,
    limit: Ratio,
    ratio: f64,
    on_breach: OnBreach,
}

/// What makes an attempt bad in the eyes of an objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Signal {
    /// A bad outcome.
    Errors,
    /// Slower than `threshold`, among attempts that did not err.
    Latency {
        /// The share of attempts that must be faster.
        quantile: Quantile,
        /// Counted slow at the moment this has passed.
        threshold: Duration,
    },
    /// Slower than nine tenths of stable's attempts were when the step began, among attempts
    /// that did not err.
    Body,
    /// Called bad later, by whoever knows.
    Feedback(Label),
}

/// What feedback is called: short enough to be copied with its objective.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label {
    bytes: [u8; Label::BYTES_MAX],
    len: u8,
}

/// What the canary is held to; both kinds have a limit and a ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bound {
    /// The limit is a promise to users: `errors <= 1%`.
    Limit,
    /// Stable is the measure; the limit is only a floor under which nothing is blamed.
    NotWorseThanStable,
}

/// What a proven breach leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnBreach {
    /// The canary is taken out.
    Rollback,
    /// The rollout may not go on.
    Hold,
}

/// How an objective stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nothing speaks against the canary.
    Kept,
    /// Something does, short of proof.
    Suspicious,
    /// Over the limit, and so is stable: a common cause.
    Shared,
    /// Proven: over the limit, and worse than stable.
    Breached,
}

/// The e-values that an objective is judged by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidences {
    /// That the canary is over the limit.
    pub over_limit: f64,
    /// That the canary is worse than `ratio` times stable; `None` where there is no stable
    /// worth the name to compare with.
    pub worse_than_stable: Option<f64>,
    /// That stable itself is over the limit.
    pub stable_over_limit: f64,
}

/// A quantile of latency, p50 to p99.9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Quantile {
    per_mille: u16,
}

/// Why an objective cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectiveError {
    /// Nothing could ever breach it, or everything would.
    #[error("the limit must be above 0% and below 100%")]
    Limit,
    /// Below 1 the canary would have to be better than stable.
    #[error("the ratio must be at least 1 and at most 1000")]
    Ratio,
}

impl Objective {
    /// `errors: LIMIT`, which rolls back.
    pub fn errors(limit: Ratio) -> Result<Self, ObjectiveError> {
        Self::new(Signal::Errors, Bound::Limit, limit)
    }

    /// `latency: { QUANTILE: THRESHOLD }`, which rolls back: "p99 at most y" is "at most 1 %
    /// slower than y".
    pub fn latency(quantile: Quantile, threshold: Duration) -> Self {
        let signal = Signal::Latency { quantile, threshold };
        let limit = quantile.slow_share();
        let (bound, ratio, on_breach) = (Bound::Limit, RATIO_DEFAULT, OnBreach::Rollback);
        Self { signal, bound, limit, ratio, on_breach }
    }

    /// `not-worse-than-stable`, which holds. `limit` is the floor: half the limit of the
    /// absolute objective beside it, unless the config says otherwise.
    pub fn not_worse_than_stable(signal: Signal, limit: Ratio) -> Result<Self, ObjectiveError> {
        Self::new(signal, Bound::NotWorseThanStable, limit)
    }

    /// `latency: body-not-worse-than-stable`, which holds.
    pub fn body(limit: Ratio) -> Result<Self, ObjectiveError> {
        Self::new(Signal::Body, Bound::NotWorseThanStable, limit)?.with_ratio(RATIO_BODY_DEFAULT)
    }

    /// `feedback: { name: NAME, min: SHARE }`, which rolls back: at most `1 - min` bad ones.
    pub fn feedback(name: Label, min: Ratio) -> Result<Self, ObjectiveError> {
        let limit = Ratio::new(1.0 - min.get()).ok_or(ObjectiveError::Limit)?;
        Self::new(Signal::Feedback(name), Bound::Limit, limit)
    }

    /// With defaults for ratio and breach.
    fn new(signal: Signal, bound: Bound, limit: Ratio) -> Result<Self, ObjectiveError> {
        if limit <= Ratio::ZERO || limit >= Ratio::ONE {
            return Err(ObjectiveError::Limit);
        }
        let (ratio, on_breach) = match bound {
            Bound::Limit => (RATIO_DEFAULT, OnBreach::Rollback),
            Bound::NotWorseThanStable => (RATIO_RELATIVE_DEFAULT, OnBreach::Hold),
        };
        Ok(Self { signal, bound, limit, ratio, on_breach })
    }

    /// The long form's `ratio`, 1 to 1000.
    pub fn with_ratio(self, ratio: f64) -> Result<Self, ObjectiveError> {
        if (1.0..=1000.0).contains(&ratio) {
            Ok(Self { ratio, ..self })
        } else {
            Err(ObjectiveError::Ratio)
        }
    }

    /// The long form's `on_breach`.
    #[must_use]
    pub fn with_on_breach(self, on_breach: OnBreach) -> Self {
        Self { on_breach, ..self }
    }

    /// What is counted.
    pub fn signal(&self) -> Signal {
        self.signal
    }

    /// What the canary is held to.
    pub fn bound(&self) -> Bound {
        self.bound
    }

    /// x, above 0 and below 1.
    pub fn limit(&self) -> Ratio {
        self.limit
    }

    /// r, at least 1.
    pub fn ratio(&self) -> f64 {
        self.ratio
    }

    /// What a proven breach leads to.
    pub fn on_breach(&self) -> OnBreach {
        self.on_breach
    }

    /// Weighs the evidence. `threshold` is the plan's T.
    ///
    /// Only blame needs both sides: over the limit but no worse than a stable that keeps it
    /// is neither proven nor shared. An objective that only holds is kept or breached.
    pub fn judge(&self, evidences: Evidences, threshold: f64) -> Standing {
        let Evidences { over_limit, worse_than_stable, stable_over_limit } = evidences;
        let blame = worse_than_stable.map_or(over_limit, |worse| worse.min(over_limit));
        let may_blame = self.on_breach == OnBreach::Rollback;
        if blame >= threshold {
            Standing::Breached
        } else if may_blame && over_limit >= threshold && stable_over_limit >= SHARED_MIN {
            Standing::Shared
        } else if may_blame && blame >= SUSPICIOUS_MIN {
            Standing::Suspicious
        } else {
            Standing::Kept
        }
    }

    /// `errors <= 1%`, `latency p99 <= 200ms`, `errors not worse than stable`.
    pub fn name(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.bound, self.signal) {
            (Bound::Limit, Signal::Errors) => write!(f, "errors <= {}", self.limit),
            (Bound::Limit, Signal::Latency { quantile, threshold }) => {
                write!(f, "latency {quantile} <= {}", duration_text(threshold))
            }
            (Bound::NotWorseThanStable, Signal::Errors) => {
                f.write_str("errors not worse than stable")
            }
            (Bound::NotWorseThanStable, Signal::Latency { .. }) => {
                f.write_str("latency not worse than stable")
            }
            (_, Signal::Body) => f.write_str("latency body not worse than stable"),
            (_, Signal::Feedback(name)) => {
                let min = Ratio::new(1.0 - self.limit.get()).unwrap_or_default();
                write!(f, "{name} >= {min}")
            }
        }
    }
}

impl Label {
    /// The longest name.
    pub const BYTES_MAX: usize = 63;

    /// `None` of a text that is empty or too long.
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; Self::BYTES_MAX];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        let len = u8::try_from(text.len()).ok().filter(|len| *len > 0)?;
        Some(Self { bytes, len })
    }

    /// As written in the config file.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl TryFrom<String> for Label {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text).ok_or("a name of feedback has 1 to 63 bytes")
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.as_str().to_owned()
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl Quantile {
    /// p50, the median.
    pub const P50: Self = Self { per_mille: 500 };
    /// p99.
    pub const P99: Self = Self { per_mille: 990 };
    /// p99.9: beyond it, an answer would take tens of thousands of canary requests.
    pub const P999: Self = Self { per_mille: 999 };

    /// The share of attempts that may be slower: 1 - q, exactly rounded.
    pub fn slow_share(self) -> Ratio {
        Ratio::new(f64::from(1000 - self.per_mille) / 1000.0).unwrap_or_default()
    }
}

impl fmt::Display for Quantile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.per_mille / 10, self.per_mille % 10) {
            (percent, 0) => write!(f, "p{percent}"),
            (percent, tenth) => write!(f, "p{percent}.{tenth}"),
        }
    }
}

/// Not `p50` to `p99.9`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a quantile is written p50 to p99.9, with at most one decimal")]
pub struct QuantileError;

impl FromStr for Quantile {
    type Err = QuantileError;

    /// Reads `p99` or `p99.9`.
    fn from_str(text: &str) -> Result<Self, QuantileError> {
        let digits = text.strip_prefix('p').ok_or(QuantileError)?;
        let (percent, tenth) = digits.split_once('.').unwrap_or((digits, "0"));
        let plain = |part: &str, len| part.len() == len && part.bytes().all(|b| b.is_ascii_digit());
        if !plain(percent, 2) || !plain(tenth, 1) {
            return Err(QuantileError);
        }
        let number = |part: &str| part.parse::<u16>().map_err(|_| QuantileError);
        let quantile = Self { per_mille: number(percent)? * 10 + number(tenth)? };
        (Self::P50..=Self::P999).contains(&quantile).then_some(quantile).ok_or(QuantileError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(value: f64) -> Ratio {
        Ratio::new(value).unwrap()
    }

    fn relative(signal: Signal) -> String {
        Objective::not_worse_than_stable(signal, ratio(0.005)).unwrap().name()
    }

    #[test]
    fn names_read_as_users_write_them() {
        let slow = |quantile: &str, ms| {
            Objective::latency(quantile.parse().unwrap(), Duration::from_millis(ms)).name()
        };
        assert_eq!(Objective::errors(ratio(0.01)).unwrap().name(), "errors <= 1%");
        assert_eq!(Objective::errors(ratio(0.0025)).unwrap().name(), "errors <= 0.25%");
        assert_eq!(slow("p99", 200), "latency p99 <= 200ms");
        assert_eq!(slow("p99.9", 4000), "latency p99.9 <= 4s");
        assert_eq!(relative(Signal::Errors), "errors not worse than stable");
        let threshold = Duration::from_millis(200);
        let signal = Signal::Latency { quantile: Quantile::P99, threshold };
        assert_eq!(relative(signal), "latency not worse than stable");
        let body = Objective::body(ratio(0.125)).unwrap();
        assert_eq!(body.name(), "latency body not worse than stable");
        let accepted = Objective::feedback(Label::new("accepted").unwrap(), ratio(0.9)).unwrap();
        assert_eq!(accepted.name(), "accepted >= 90%");
    }

    #[test]
    fn a_quantile_is_the_share_that_may_be_slower() {
        for (text, share) in
            [("p50", 0.5), ("p90", 0.1), ("p95", 0.05), ("p99", 0.01), ("p99.9", 0.001)]
        {
            let quantile: Quantile = text.parse().unwrap();
            assert_eq!(quantile.slow_share(), ratio(share));
            assert_eq!(quantile.to_string(), text);
        }
        for text in ["99", "p49.9", "p100", "p99.95", "p9", "p99.", "p", "p+9", "p99ms", "P99"] {
            assert_eq!(text.parse::<Quantile>(), Err(QuantileError), "{text}");
        }
    }

    #[test]
    fn an_objective_that_nothing_could_keep_or_breach_is_refused() {
        assert_eq!(Objective::errors(Ratio::ZERO), Err(ObjectiveError::Limit));
        assert_eq!(Objective::errors(Ratio::ONE), Err(ObjectiveError::Limit));
        let errors = Objective::errors(ratio(0.01)).unwrap();
        for bad in [0.9, f64::NAN, f64::INFINITY] {
            assert_eq!(errors.with_ratio(bad), Err(ObjectiveError::Ratio));
        }
    }

    #[test]
    fn a_label_is_a_short_text() {
        for text in ["", &"x".repeat(64)] {
            assert_eq!(Label::new(text), None);
        }
        let label = Label::new("thumbs-up").unwrap();
        let json = serde_json::to_string(&label).unwrap();
        assert_eq!(json, r#""thumbs-up""#);
        assert_eq!(serde_json::from_str::<Label>(&json).unwrap(), label);
    }

    #[test]
    fn absolute_objectives_roll_back_and_relative_ones_hold() {
        let errors = Objective::errors(ratio(0.01)).unwrap();
        assert_eq!((errors.ratio(), errors.on_breach()), (1.5, OnBreach::Rollback));
        let relative = Objective::not_worse_than_stable(Signal::Errors, ratio(0.005)).unwrap();
        assert_eq!((relative.ratio(), relative.on_breach()), (2.0, OnBreach::Hold));
        let body = Objective::body(ratio(0.125)).unwrap();
        assert_eq!((body.ratio(), body.on_breach()), (1.25, OnBreach::Hold));
    }
}
