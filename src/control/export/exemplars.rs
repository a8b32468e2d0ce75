//! From requests that have spans to exemplars in the metrics.
//!
//! Only what is on its way to a collector: an exemplar leads to its trace.

use std::time::Duration;

use crate::control::export::Wall;
use crate::telemetry::exemplars::Exemplar;
use crate::telemetry::told::{End, ToldRequest};
use crate::traffic::outcome::Outcome;

/// Lets `told` stand for what it was counted as: the request by whoever answered it, each
/// attempt by whoever was asked.
pub fn keep(told: &ToldRequest, wall: Wall) {
    let exemplar = |span: u64, took: Duration, end: &End| Exemplar {
        trace: told.context.trace,
        span,
        took,
        at: wall.at(end.at),
        is_bad: end.outcome == Outcome::Bad,
    };
    if let Some(leg) = &told.end.leg {
        let took = told.end.at.since(told.started);
        leg.exemplars.duration(exemplar(told.span, took, &told.end));
    }
    for attempt in &told.attempts {
        let (end, span) = (&attempt.end, attempt.span);
        let Some(leg) = &end.leg else { continue };
        if let Some(head) = attempt.first_byte {
            leg.exemplars.first_byte(exemplar(span, head.since(told.started), end));
        }
        if end.outcome == Outcome::Bad {
            leg.exemplars.bad(end.code, exemplar(span, end.at.since(told.started), end));
        }
    }
}
