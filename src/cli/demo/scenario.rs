//! What happens in a demo, and what a proxy should make of it.
//!
//! Never makes it happen: `world` pulls the levers.

use std::ffi::OsStr;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValue, TypedValueParser};
use serin_loadtest::model::LatencyShape;

/// Which story is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scenario {
    /// The canary starts to fail.
    #[default]
    Errors,
    /// The canary becomes slow.
    Latency,
    /// Both versions start to fail at once.
    SharedOutage,
    /// Nothing goes wrong.
    Good,
}

/// How a scenario should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The canary is taken out, for the objective whose name starts so.
    Rollback(&'static str),
    /// The canary stays, and no blame is put on it.
    SharedCause,
    /// The canary stays.
    Nothing,
}

/// How a model version behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Manner {
    /// The share of answers that are a 500.
    pub error_ratio: f64,
    /// How long answers take.
    pub latency: LatencyShape,
}

/// One answer in four is worth no discussion, and slow enough to see the evidence rise.
const BAD_RATIO: f64 = 0.25;
/// More than twice what the demo's objective allows.
const SLOW_BY: Duration = Duration::from_millis(450);
/// What every real system has, and an objective of 1 % forgives.
const EVERYDAY_ERRORS: f64 = 0.002;
/// Puts p99 at about 45 ms.
const HEALTHY: LatencyShape = LatencyShape::lognormal(Duration::from_millis(14), 0.5);

impl Scenario {
    /// The names that work.
    pub const NAMES: &str = "errors, latency, shared-outage, good";

    /// How it should end.
    pub const fn expected(self) -> Expected {
        match self {
            Self::Errors => Expected::Rollback("errors"),
            Self::Latency => Expected::Rollback("latency"),
            Self::SharedOutage => Expected::SharedCause,
            Self::Good => Expected::Nothing,
        }
    }

    /// As both versions start.
    pub const fn healthy(self) -> Manner {
        let error_ratio = match self {
            Self::Good => EVERYDAY_ERRORS,
            Self::Errors | Self::Latency | Self::SharedOutage => 0.0,
        };
        Manner { error_ratio, latency: HEALTHY }
    }

    /// As stable goes on after the turn.
    pub const fn stable_then(self) -> Manner {
        match self {
            Self::SharedOutage => Manner { error_ratio: BAD_RATIO, latency: HEALTHY },
            Self::Errors | Self::Latency | Self::Good => self.healthy(),
        }
    }

    /// As the canary goes on after the turn.
    pub const fn canary_then(self) -> Manner {
        match self {
            Self::Errors | Self::SharedOutage => {
                Manner { error_ratio: BAD_RATIO, latency: HEALTHY }
            }
            Self::Latency => {
                Manner { error_ratio: 0.0, latency: HEALTHY.with_slow(BAD_RATIO, SLOW_BY) }
            }
            Self::Good => self.healthy(),
        }
    }

    /// Whether anything turns bad.
    pub const fn turns(self) -> bool {
        !matches!(self, Self::Good)
    }

    /// What the story is about, in a line.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Errors => "a new model version starts to fail, and is taken out",
            Self::Latency => "a new model version becomes slow, and is taken out",
            Self::SharedOutage => "both versions fail at once, so the new one is not to blame",
            Self::Good => "a new model version is as good as the old one, and is left alone",
        }
    }

    /// What will go wrong; starts small, without full stop.
    pub const fn plot(self) -> &'static str {
        match self {
            Self::Errors => "one in four of v2's answers becomes an error (HTTP 500)",
            Self::Latency => "one in four of v2's answers takes 450 ms longer",
            Self::SharedOutage => {
                "v1 and v2 both fail one request in four, as when a database they share breaks"
            }
            Self::Good => "nothing: both versions fail one request in 500, as real ones do",
        }
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "errors" => Ok(Self::Errors),
            "latency" => Ok(Self::Latency),
            "shared-outage" => Ok(Self::SharedOutage),
            "good" => Ok(Self::Good),
            "stream-stall" => Err(format!(
                "this scenario is not there yet: it comes with the judging of streams; \
                 choose one of {}",
                Self::NAMES
            )),
            _ => Err(format!("there is no such scenario: choose one of {}", Self::NAMES)),
        }
    }
}

/// Reads a scenario, and lets shells know the names.
#[derive(Clone, Copy, Debug)]
pub struct Names;

impl TypedValueParser for Names {
    type Value = Scenario;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Scenario, clap::Error> {
        TypedValueParser::parse_ref(&Scenario::from_str, command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Scenario::NAMES.split(", ").map(PossibleValue::new)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_scenario() {
        for name in Scenario::NAMES.split(", ") {
            assert!(name.parse::<Scenario>().is_ok(), "{name}");
        }
        assert_eq!(Scenario::default(), "errors".parse().unwrap());
    }

    #[test]
    fn what_is_not_there_yet_says_so() {
        let error = "stream-stall".parse::<Scenario>().unwrap_err();
        assert!(error.contains("not there yet") && error.contains(Scenario::NAMES), "{error}");
        assert!("outage".parse::<Scenario>().unwrap_err().contains("no such scenario"));
    }
}
