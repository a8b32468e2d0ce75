//! Quantities with types and limits.
//!
//! Never asks for the time: a [`Tick`] can only be told.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Time since the process started. It has no `now`: pure code cannot ask, only be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(Duration);

impl Tick {
    /// The process's start.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// The tick `since_start` after the process's start.
    pub const fn new(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// Time since the process started.
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// Time from `earlier` to here, zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The tick `span` later, at most the end of time.
    #[must_use]
    pub const fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

/// A share or a probability, 0 to 1. Finite by construction.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Ratio(f64);

impl TryFrom<f64> for Ratio {
    type Error = &'static str;

    fn try_from(value: f64) -> Result<Self, Self::Error> {
        Self::new(value).ok_or("a ratio is a number from 0 to 1")
    }
}

impl From<Ratio> for f64 {
    fn from(ratio: Ratio) -> Self {
        ratio.0
    }
}

impl Ratio {
    /// None of it.
    pub const ZERO: Self = Self(0.0);
    /// All of it.
    pub const ONE: Self = Self(1.0);

    /// One in a hundred.
    pub const PERCENT: Self = Self(0.01);

    /// `None` outside 0 to 1 and for NaN.
    pub fn new(value: f64) -> Option<Self> {
        (0.0..=1.0).contains(&value).then_some(Self(value))
    }

    /// 0 to 1.
    pub const fn get(self) -> f64 {
        self.0
    }

    /// Whether `draw`, any number, falls into this share of all numbers.
    pub fn takes(self, draw: u64) -> bool {
        // The cast saturates: 1.0 becomes u64::MAX, which only the last draw would miss.
        self.0 >= 1.0 || draw < (self.0 * 2f64.powi(64)) as u64
    }
}

impl fmt::Display for Ratio {
    /// As a percentage: `1%`, `0.25%`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.0 * 100.0;
        // Nine digits hide what binary fractions add: 0.0025 * 100 is not 0.25.
        let rounded = (percent * 1e9).round() / 1e9;
        write!(f, "{rounded}%")
    }
}

/// A weight in a split; the share is weight / sum of weights. 0 gets nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u32);

impl Weight {
    /// Gets no traffic.
    pub const ZERO: Self = Self(0);
    /// The default where the config names none.
    pub const ONE: Self = Self(1);
    /// As in Gateway API's `BackendRef.weight`.
    pub const MAX: u32 = 1_000_000;

    /// `None` over [`Self::MAX`].
    pub const fn new(value: u32) -> Option<Self> {
        if value <= Self::MAX { Some(Self(value)) } else { None }
    }

    /// 0 to [`Self::MAX`], or the sum of two.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The weight of both together; no more than `u32` holds.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// A length of time as a person writes it: `200ms`, `1.5s`, `5m`, `2h`.
pub fn duration_text(span: Duration) -> String {
    let nanos = span.as_nanos();
    for (size, unit) in [(3_600_000_000_000, "h"), (60_000_000_000, "m"), (1_000_000_000, "s")] {
        if nanos >= size && nanos.is_multiple_of(size) {
            return format!("{}{unit}", nanos / size);
        }
    }
    if nanos >= 1_000_000_000 {
        return format!("{}s", span.as_secs_f64());
    }
    if nanos >= 1_000_000 || nanos == 0 {
        return format!("{}ms", nanos as f64 / 1e6);
    }
    format!("{}us", nanos as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_takes_its_part_of_all_draws() {
        assert!(!Ratio::ZERO.takes(0));
        assert!(Ratio::ONE.takes(u64::MAX));
        let quarter = Ratio::new(0.25).unwrap();
        assert!(quarter.takes((1 << 62) - 1));
        assert!(!quarter.takes(1 << 62));
    }

    #[test]
    fn ratios_print_as_people_write_them() {
        for (value, text) in [(0.01, "1%"), (0.0025, "0.25%"), (1.0, "100%"), (0.0, "0%")] {
            assert_eq!(Ratio::new(value).unwrap().to_string(), text);
        }
        assert_eq!(Ratio::new(1.01), None);
        assert_eq!(Ratio::new(f64::NAN), None);
    }

    #[test]
    fn durations_print_as_people_write_them() {
        for (span, text) in [
            (Duration::from_millis(200), "200ms"),
            (Duration::from_millis(1500), "1.5s"),
            (Duration::from_secs(90), "90s"),
            (Duration::from_mins(5), "5m"),
            (Duration::from_micros(250), "250us"),
            (Duration::ZERO, "0ms"),
        ] {
            assert_eq!(duration_text(span), text);
        }
    }
}
