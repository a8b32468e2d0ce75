//! When an endpoint is young: it has just started, and its latency says little.
//!
//! Never excuses an error: those count from the first request on.

use std::time::Duration;

/// However few requests it gets, an endpoint is grown up after this.
pub const WARM_UP_MAX: Duration = Duration::from_mins(2);

/// How long an endpoint that appeared or came back is young.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmUp {
    /// At least so long, at most [`WARM_UP_MAX`].
    pub time: Duration,
    /// And until so many requests were sent to it, unless that takes too long.
    pub requests: u32,
}

impl Default for WarmUp {
    fn default() -> Self {
        Self { time: Duration::from_secs(30), requests: 20 }
    }
}

impl WarmUp {
    /// Whether an endpoint is young that is `age` old and got `requests` before. `None` is one
    /// that was there when Serin started, which is never young.
    pub fn covers(&self, age: Option<Duration>, requests: u64) -> bool {
        age.is_some_and(|age| {
            age < self.time || (age < WARM_UP_MAX && requests < u64::from(self.requests))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_young_for_a_time_and_a_number_of_requests() {
        let warm_up = WarmUp::default();
        for (age, requests, is_young) in [
            (None, 0, false),
            (Some(0), 0, true),
            (Some(29), 1000, true),
            (Some(30), 1000, false),
            (Some(30), 19, true),
            (Some(119), 19, true),
            (Some(120), 0, false),
        ] {
            let age = age.map(Duration::from_secs);
            assert_eq!(warm_up.covers(age, requests), is_young, "{age:?}, {requests}");
        }
        let never = WarmUp { time: Duration::ZERO, requests: 0 };
        assert!(!never.covers(Some(Duration::ZERO), 0));
    }
}
