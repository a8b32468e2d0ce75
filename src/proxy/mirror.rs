//! Sends copies of requests to shadows: fire and forget, under a budget.
//!
//! Never delays, buffers beyond its bound, or fails the request that is copied. What a
//! shadow answers is read and dropped.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;

use crate::proxy::body::Source;
use crate::proxy::deadline::Deadlines;
use crate::proxy::error::{Error, Timeout};
use crate::proxy::upstream::{AnswerBody, Endpoint, Outbound};
use crate::telemetry::counts::MirrorResult;
use crate::telemetry::gate::{Gate, Pass};
use crate::telemetry::sample::WorkerLeg;
use crate::telemetry::story::CopyTale;
use crate::traffic::events::Events;
use crate::traffic::message::RequestHead;
use crate::traffic::mirror::Mirror;
use crate::traffic::outcome::{Outcome, grpc_status, trailing_grpc_status};
use crate::traffic::retry::Timeouts;

/// A copy that has not ended by then is given up: it holds a place of the budget.
pub const COPY_TIME_MAX: Duration = Duration::from_mins(1);

/// More of a shadow's answer is not read: it would be read on the users' thread.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A place in a mirror's budget; free again when dropped.
#[derive(Debug)]
pub struct Place(Arc<AtomicU32>);

impl Place {
    /// `None` when `max` copies are under way.
    pub fn take(in_flight: &Arc<AtomicU32>, max: u32) -> Option<Self> {
        let taken = in_flight.fetch_update(Relaxed, Relaxed, |n| (n < max).then_some(n + 1));
        taken.ok().map(|_| Self(Arc::clone(in_flight)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A copy that waits for the end of the body it copies.
#[derive(Debug)]
pub struct Copy {
    order: Option<Order>,
    body_bytes_max: u64,
    leg: Rc<WorkerLeg>,
}

/// What it takes to send a copy.
#[derive(Debug)]
struct Order {
    head: RequestHead,
    endpoint: Rc<Endpoint>,
    deadlines: Rc<Deadlines>,
    timeouts: Timeouts,
    place: Place,
    gate: Option<Arc<Gate>>,
    tale: Option<CopyTale>,
}

impl Copy {
    /// A copy of a request with `head`, to be sent to `endpoint`. It has a place in the mirror's
    /// budget; the `gate` of the backend, where that has limits, it goes through when it is sent.
    pub fn new(
        mirror: &Mirror,
        mut head: RequestHead,
        endpoint: Rc<Endpoint>,
        (deadlines, timeouts): (&Rc<Deadlines>, Timeouts),
        (leg, place, gate): (Rc<WorkerLeg>, Place, Option<Arc<Gate>>),
        tale: Option<CopyTale>,
    ) -> Self {
        mirror.dress(&mut head.fields);
        let deadlines = Rc::clone(deadlines);
        let order = Some(Order { head, endpoint, deadlines, timeouts, place, gate, tale });
        Self { order, body_bytes_max: mirror.body_bytes_max, leg }
    }

    /// Bytes of the request's body that have to be kept for it.
    pub fn body_bytes_max(&self) -> usize {
        usize::try_from(self.body_bytes_max).unwrap_or(usize::MAX)
    }

    /// Whether a body of `bytes` so far can still be copied; if not, that is counted.
    pub fn still_fits(&mut self, bytes: usize) -> bool {
        let fits = bytes as u64 <= self.body_bytes_max;
        if !fits {
            self.order = None;
            self.leg.counters().mirrored(MirrorResult::TooLarge).add(1);
        }
        fits
    }

    /// Sends it, in a task of its own, if the backend has a place for it: it does not wait in line
    /// with users.
    pub fn start(mut self, body: Vec<Bytes>) {
        let Some(order) = &self.order else { return };
        let pass = order.gate.as_ref().map(Gate::try_enter);
        if pass.as_ref().is_some_and(Option::is_none) {
            // Counted when it is dropped.
            return;
        }
        if let Some(order) = self.order.take() {
            let sent = order.carry_out(body, pass.flatten(), Rc::clone(&self.leg));
            tokio::task::spawn_local(sent);
        }
    }
}

impl Drop for Copy {
    /// The request it copies never ended, so there was nothing to copy; or there was no place.
    fn drop(&mut self) {
        if self.order.is_some() {
            self.leg.counters().mirrored(MirrorResult::Dropped).add(1);
        }
    }
}

impl Order {
    async fn carry_out(self, body: Vec<Bytes>, pass: Option<Pass>, leg: Rc<WorkerLeg>) {
        let Self { head, endpoint, deadlines, timeouts, place, mut tale, .. } = self;
        if let Some(tale) = &mut tale {
            tale.begin();
        }
        let total = timeouts.request.map_or(COPY_TIME_MAX, |request| request.min(COPY_TIME_MAX));
        let now = deadlines.now();
        let wait = Rc::new(deadlines.open(now, Some(total)));
        let source = Source::of_kept(body);
        let outbound = Outbound { source, wait: Rc::clone(&wait), timeouts, interims: None };
        let (mut code, mut told, mut told_error) = (None, None, false);
        let ended = match endpoint.send(&head, &outbound, now).await {
            Ok(response) => {
                code = Some(response.status());
                told = grpc_status(&response.head.fields);
                let events = Events::of(&response.head.fields);
                wait.set(Timeout::Request, total);
                let read = wait.within(read_out(response.body, events, &mut told_error)).await;
                read.unwrap_or_else(|late| Err(Error::Timeout(late)))
            }
            Err(error) => Err(error),
        };
        drop((place, pass));
        let outcome = match (&ended, code) {
            // As it is for users' attempts.
            (Ok(_), _) if told_error => Outcome::Bad,
            (Ok(trailer), Some(code)) => Outcome::of(code, trailer.or(told)),
            (Ok(_), None) => Outcome::Neutral,
            (Err(error), _) => error.outcome(),
        };
        let result = result(outcome, ended.is_ok());
        if (outcome, result) == (Outcome::Neutral, MirrorResult::Ok) {
            // Before it counts as answered, or it would be good for a moment.
            leg.counters().neutral_copies.add(1);
        }
        leg.counters().mirrored(result).add(1);
        if let Some(tale) = tale {
            tale.end(result.as_str(), code.map(|code| code.as_u16()));
        }
    }
}

/// As in metrics: what the shadow answered is `ok` if it is not its fault, and what this machine
/// could not send, or not read, has not come to it.
const fn result(outcome: Outcome, is_answered: bool) -> MirrorResult {
    match outcome {
        Outcome::Good => MirrorResult::Ok,
        Outcome::Bad => MirrorResult::Error,
        Outcome::Neutral if is_answered => MirrorResult::Ok,
        Outcome::Neutral => MirrorResult::Dropped,
    }
}

/// The status of gRPC at its end, where there is one; whether one of its `events` told of an error
/// is left in `told_error`.
async fn read_out(
    body: AnswerBody,
    mut events: Option<Events>,
    told_error: &mut bool,
) -> Result<Option<u32>, Error> {
    let mut body = pin!(body);
    let (mut bytes, mut told) = (0, None);
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if let Some((events, data)) = events.as_mut().zip(frame.data_ref()) {
            *told_error |= events.take(data);
        }
        told = frame.trailers_ref().and_then(trailing_grpc_status).or(told);
        if bytes > ANSWER_BYTES_MAX {
            break;
        }
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_number_of_places() {
        let in_flight = Arc::default();
        let one = Place::take(&in_flight, 2).unwrap();
        let _two = Place::take(&in_flight, 2).unwrap();
        assert!(Place::take(&in_flight, 2).is_none());
        drop(one);
        assert!(Place::take(&in_flight, 2).is_some());
    }
}
