//! A place among the requests that a backend may have under way.
//!
//! Never holds a place without a request: it is free again when the attempt is over,
//! however that ends.

use crate::clock::Clock;
use crate::proxy::deadline::Deadline;
use crate::proxy::error::{Error, Timeout};
use crate::snapshot::Backend;
use crate::telemetry::counts::LegCounters;
use crate::telemetry::gate::{Full, Pass};
use crate::telemetry::reasons::Limited;

/// Waits for a place at `backend`, in line and for as long as it says. `None` is no limit.
pub async fn enter(
    backend: &Backend,
    wait: &Deadline,
    counters: &LegCounters,
    clock: Clock,
) -> Result<Option<Pass>, Error> {
    let Some(limit) = &backend.limit else { return Ok(None) };
    if let Some(pass) = limit.gate.try_enter() {
        return Ok(Some(pass.begin(clock.now())));
    }
    wait.set(Timeout::Queue, limit.queue_timeout);
    let lined_up = clock.now();
    let limited = match wait.within(limit.gate.enter()).await {
        Ok(Ok(pass)) => {
            let now = clock.now();
            return Ok(Some(pass.begin(now).after(now.since(lined_up))));
        }
        Ok(Err(Full)) => Limited::QueueFull,
        Err(Timeout::Queue) => Limited::QueueTimeout,
        // The time of the whole request: its client is told so, and the endpoint had no part in it.
        Err(which) => return Err(Error::RanOutInLine(which)),
    };
    counters.limited(limited).add(1);
    Err(Error::Busy { backend: backend.name.clone(), limited })
}
