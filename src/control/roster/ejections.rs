//! How often endpoints were taken out for their failures.
//!
//! Never decides it: it compares what was with what is.

use std::collections::BTreeMap;

use crate::names::BackendName;
use crate::telemetry::metrics::EndpointGauge;

/// Since the start, by backend. An ejection may be shorter than the time between two scrapes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ejections(BTreeMap<BackendName, u64>);

impl Ejections {
    /// From `before` to `now`. A backend without endpoints is forgotten.
    pub fn note(&mut self, before: &[EndpointGauge], now: &[EndpointGauge]) {
        let mut known = std::mem::take(&mut self.0);
        for one in now {
            let was_out = before.iter().any(|old| {
                old.is_out && old.endpoint == one.endpoint && old.backend == one.backend
            });
            let count = self.0.entry(one.backend.clone());
            let count = count.or_insert_with(|| known.remove(&one.backend).unwrap_or_default());
            *count += u64::from(one.is_out && !was_out);
        }
    }

    /// For the metrics.
    pub fn counts(&self) -> Vec<(BackendName, u64)> {
        self.0.iter().map(|(backend, count)| (backend.clone(), *count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_counts_each_time_that_it_goes_out() {
        let gauge = |backend: &str, port: u16, is_out: bool| EndpointGauge {
            backend: backend.into(),
            endpoint: ([10, 0, 0, 1], port).into(),
            serves: !is_out,
            is_out,
        };
        let mut ejections = Ejections::default();
        let mut before = Vec::new();
        for (v1, other, v2) in [
            (false, false, false),
            (true, false, false),
            (true, false, true),
            (true, true, true),
            (false, true, true),
            (true, true, true),
        ] {
            let now = vec![gauge("v1", 1, v1), gauge("v1", 2, other), gauge("v2", 1, v2)];
            ejections.note(&before, &now);
            before = now;
        }
        let counts = |pairs: &[(&str, u64)]| -> Vec<(BackendName, u64)> {
            pairs.iter().map(|(name, count)| ((*name).into(), *count)).collect()
        };
        assert_eq!(ejections.counts(), counts(&[("v1", 3), ("v2", 1)]));
        ejections.note(&before, &[gauge("v2", 1, true)]);
        assert_eq!(ejections.counts(), counts(&[("v2", 1)]));
    }
}
