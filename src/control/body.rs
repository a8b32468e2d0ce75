//! Stable's p90, by which the body objective calls an answer slow: measured while a step goes on,
//! frozen for the next one.
//!
//! Never judges: it finds the threshold, workers count against it.

use std::time::Duration;

use crate::rollout::objective::{BODY_QUANTILE, BODY_REQUESTS_MIN};
use crate::telemetry::latencies::LatencyCounts;

/// Stable's latencies of late, and the quantile in force.
#[derive(Debug, Default)]
pub struct Body {
    /// Of epochs that are gone.
    gone: LatencyCounts,
    frozen: Option<Duration>,
}

impl Body {
    /// The threshold in force; `None` until enough requests of stable were seen.
    pub fn threshold(&self) -> Option<Duration> {
        self.frozen
    }

    /// Keeps the counts of an epoch that is gone.
    pub fn keep(&mut self, gone: &LatencyCounts) {
        self.gone.add(gone);
    }

    /// Whether there is no threshold and there could be one, with the `live` counts.
    pub fn is_ripe(&self, live: &LatencyCounts) -> bool {
        self.frozen.is_none() && self.gone.total() + live.total() >= BODY_REQUESTS_MIN
    }

    /// Freezes the quantile of what was counted, if that is enough, and starts to count anew. With
    /// too little it goes on counting, without a threshold: the one before is of another time.
    pub fn freeze(&mut self, live: &LatencyCounts) {
        self.gone.add(live);
        self.frozen = None;
        if self.gone.total() >= BODY_REQUESTS_MIN {
            self.frozen = self.gone.quantile(BODY_QUANTILE);
            self.gone = LatencyCounts::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::latencies::Latencies;

    fn counts(attempts: u64, millis: u64) -> LatencyCounts {
        let latencies = Latencies::default();
        for _ in 0..attempts {
            latencies.record(Duration::from_millis(millis));
        }
        let mut counts = LatencyCounts::default();
        latencies.add_to(&mut counts);
        counts
    }

    #[test]
    fn the_quantile_is_frozen_from_a_thousand_requests() {
        let mut body = Body::default();
        body.freeze(&counts(900, 10));
        assert_eq!(body.threshold(), None);
        assert!(!body.is_ripe(&counts(99, 50)) && body.is_ripe(&counts(100, 50)));
        body.keep(&counts(100, 50));
        body.freeze(&LatencyCounts::default());
        let ten = body.threshold().unwrap().as_secs_f64();
        assert!((0.010..0.0104).contains(&ten), "{ten}");
        // Nothing was counted since: the next step has to measure again.
        assert!(!body.is_ripe(&counts(2000, 10)), "there is one in force");
        body.freeze(&LatencyCounts::default());
        assert_eq!(body.threshold(), None);
    }
}
