//! One step of a plan: how much the canary gets, and when it may get more.
//!
//! Never counts: how long a step has lasted and what was seen in it is the judge's to know.

use std::time::Duration;

use http::Method;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::units::{Ratio, duration_text};

/// `for.at_least` where the config names none: younger is too young to say anything.
pub const SOAK_MIN: Duration = Duration::from_mins(1);

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The canary's share of what goes to it or to stable.
    pub weight: Ratio,
    /// Copies for the canary on top, of requests that others answer.
    pub mirror: Option<Copies>,
    /// When the next step may begin.
    pub until: Until,
}

/// What a mirror step copies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Copies {
    /// The share of the rule's requests that is copied.
    pub share: Ratio,
    /// Only these are copied: a copy of another method may have side effects.
    #[serde(serialize_with = "write_methods", deserialize_with = "read_methods")]
    pub methods: Vec<Method>,
}

/// When the next step may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Until {
    /// As soon as it begins: the step is the plan's end.
    AtOnce,
    /// A person says so.
    Told,
    /// Nothing was breached for a while; after `at_least`, proof is enough.
    Soaked {
        /// Not before.
        at_least: Duration,
        /// Then, at the latest, unless something holds it.
        at_most: Duration,
    },
    /// It is proven that the canary keeps its limits. No clock replaces the proof.
    Proven {
        /// Not before.
        at_least: Duration,
        /// From here on it holds as overdue, and is promoted only if it is proven after all.
        at_most: Option<Duration>,
    },
}

impl Until {
    /// `until: proven` without bounds of its own.
    pub const PROVEN: Self = Self::Proven { at_least: SOAK_MIN, at_most: None };

    /// `for: SPAN` and `bake: SPAN`.
    pub const fn soaked(span: Duration) -> Self {
        Self::Soaked { at_least: span, at_most: span }
    }

    /// The step is not left before this, whatever was proven.
    pub const fn at_least(self) -> Duration {
        match self {
            Self::AtOnce | Self::Told => Duration::ZERO,
            Self::Soaked { at_least, .. } | Self::Proven { at_least, .. } => at_least,
        }
    }
}

impl std::fmt::Display for Until {
    /// `for 2m`, `until proven`, `until told`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtOnce => f.write_str("at once"),
            Self::Told => f.write_str("until told"),
            Self::Soaked { at_most, .. } => write!(f, "for {}", duration_text(*at_most)),
            Self::Proven { .. } => f.write_str("until proven"),
        }
    }
}

fn write_methods<S: Serializer>(methods: &[Method], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(methods.iter().map(Method::as_str))
}

fn read_methods<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Method>, D::Error> {
    let names = Vec::<String>::deserialize(from)?;
    names.iter().map(|name| name.parse().map_err(D::Error::custom)).collect()
}
