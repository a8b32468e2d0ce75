//! `GET /api/events`: what changes, and a sample each second, as server-sent events.
//!
//! Never waits for a reader: whoever is slow loses events, and is told how many. Never asks the
//! controller: it looks at what that shows anyway.

mod history;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use http_body::Frame;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::control::Status;
use crate::control::admin::feed::history::Histories;
use crate::control::admin::shown::{self, value_of};
use crate::control::admin::{Denied, Readiness, Shared};
use crate::rollout::record::Record;

/// Readers at once. When full, a further one gets 503.
pub const SUBSCRIBERS_MAX: usize = 16;

/// Events that wait for one reader. When full, the newest are left out, and a `lost` event says
/// how many as soon as there is room.
pub const QUEUE_MAX: usize = 64;

/// Between two samples.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// A reader without samples hears nothing else for so many of them: then a comment.
const BEAT_SAMPLES: u32 = 10;

/// Whether a stream has been read from since it was last asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Pulse(Arc<AtomicBool>);

impl Pulse {
    /// Whether there was one; there is none from here on.
    pub fn take(&self) -> bool {
        self.0.swap(false, Relaxed)
    }
}

/// Who reads events, and what was of late.
#[derive(Debug)]
pub struct Feed {
    clock: Clock,
    status: watch::Receiver<Arc<Status>>,
    readiness: Arc<Readiness>,
    places: Arc<Semaphore>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Of the last event.
    number: u64,
    subscribers: Vec<Subscriber>,
    histories: Histories,
}

#[derive(Debug)]
struct Subscriber {
    queue: mpsc::Sender<Bytes>,
    /// Events that it did not get, and was not told about.
    lost: u64,
    samples: bool,
    /// Samples since it was last sent anything.
    quiet: u32,
}

impl Subscriber {
    /// One more sample that was not for it: now and then a comment, so that whoever is in between
    /// does not take the stream for dead, and it is noticed when nobody reads.
    fn beat(&mut self) {
        self.quiet += 1;
        if self.quiet >= BEAT_SAMPLES {
            self.deliver(&Bytes::from_static(b": still here\n\n"));
        }
    }

    /// Never waits. `false` once it reads no more.
    fn deliver(&mut self, frame: &Bytes) -> bool {
        self.quiet = 0;
        if self.lost > 0 {
            let text = format!("event: lost\ndata: {{\"events\":{}}}\n\n", self.lost);
            if self.queue.try_send(text.into()).is_ok() {
                self.lost = 0;
            }
        }
        if self.queue.try_send(frame.clone()).is_err() {
            self.lost += 1;
        }
        !self.queue.is_closed()
    }
}

/// What was told before, to see what is new.
struct Before {
    config: (u64, usize),
    status: Arc<Status>,
    last: Option<Record>,
}

impl Before {
    fn of(status: Arc<Status>) -> Self {
        let config = (status.generation, status.last_error.len());
        Self { config, last: status.told.back().cloned(), status }
    }
}

impl Feed {
    /// Of what `status` shows. Samples come once it runs.
    pub fn new(
        status: watch::Receiver<Arc<Status>>,
        readiness: Arc<Readiness>,
        clock: Clock,
    ) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(SUBSCRIBERS_MAX));
        Arc::new(Self { clock, status, readiness, places, inner: Mutex::default() })
    }

    /// Tells readers what happens, until the drain begins or `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut status = self.status.clone();
        let mut before = Before::of(Arc::clone(&status.borrow_and_update()));
        let mut samples = tokio::time::interval(SAMPLE_EVERY);
        samples.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.readiness.is_draining() {
            tokio::select! {
                changed = status.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let now = Arc::clone(&status.borrow_and_update());
                    self.tell_changes(&before, &now);
                    before = Before::of(now);
                }
                _ = samples.tick() => self.sample(&before.status),
                () = stop.cancelled() => break,
            }
        }
        self.end();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Lists are whole even if a thread panicked beside them.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_changes(&self, before: &Before, now: &Status) {
        let mut inner = self.lock();
        if before.config != (now.generation, now.last_error.len())
            || before.status.last_error != now.last_error
        {
            inner.tell("config", &shown::config(now));
            inner.tell("backends", &shown::backends(now));
        } else if before.status.gauges.endpoints != now.gauges.endpoints {
            inner.tell("backends", &shown::backends(now));
        }
        if Arc::ptr_eq(&before.status.told, &now.told) {
            return;
        }
        let known = before.last.as_ref();
        let known = known.and_then(|last| now.told.iter().rposition(|one| one == last));
        for record in now.told.iter().skip(known.map_or(0, |index| index + 1)) {
            inner.tell("change", record);
        }
    }

    fn sample(&self, status: &Status) {
        let at = self.wall_ms();
        let mut inner = self.lock();
        inner.histories.sample(at, &status.rollouts);
        inner.subscribers.retain(|one| !one.queue.is_closed());
        if inner.subscribers.iter().any(|one| one.samples) {
            let frame = inner.frame("sample", &json!({ "at": at, "rollouts": status.rollouts }));
            for one in inner.subscribers.iter_mut().filter(|one| one.samples) {
                one.deliver(&frame);
            }
        }
        for one in inner.subscribers.iter_mut().filter(|one| !one.samples) {
            one.beat();
        }
    }

    fn wall_ms(&self) -> u64 {
        u64::try_from(self.clock.wall().as_millis()).unwrap_or(u64::MAX)
    }

    /// Their streams end when nobody can send any more.
    fn end(&self) {
        let mut inner = self.lock();
        inner.tell("bye", &json!({ "reason": "draining" }));
        inner.subscribers.clear();
        // Whoever asks from here on is refused.
        self.places.close();
    }

    fn subscribe(&self, samples: bool, pulse: Pulse) -> Result<Events, Denied> {
        let denied = |detail: &str| Denied::new(StatusCode::SERVICE_UNAVAILABLE, detail);
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|error| match error {
            tokio::sync::TryAcquireError::Closed => denied("draining: no more events"),
            tokio::sync::TryAcquireError::NoPermits => denied(&format!(
                "full: {SUBSCRIBERS_MAX} readers of events are there already; close one, or ask \
                 /api/rollouts now and then"
            )),
        })?;
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        let mut one = Subscriber { queue, lost: 0, samples, quiet: 0 };
        let now = Arc::clone(&self.status.borrow());
        let mut inner = self.lock();
        if self.places.is_closed() {
            return Err(denied("draining: no more events"));
        }
        let hello = json!({
            "serin": env!("CARGO_PKG_VERSION"),
            "sample_seconds": SAMPLE_EVERY.as_secs(),
        });
        one.deliver(&Bytes::from_static(b"retry: 1000\n\n"));
        one.deliver(&inner.frame("hello", &hello));
        one.deliver(&inner.frame("config", &shown::config(&now)));
        one.deliver(&inner.frame("backends", &shown::backends(&now)));
        let sample = json!({ "at": self.wall_ms(), "rollouts": now.rollouts });
        one.deliver(&inner.frame("sample", &sample));
        inner.subscribers.push(one);
        Ok(Events { queued, pulse, _place: place })
    }
}

impl Inner {
    fn frame(&mut self, kind: &str, data: &impl Serialize) -> Bytes {
        self.number += 1;
        // JSON has no line break of its own.
        let data = serde_json::to_string(data).unwrap_or_default();
        format!("id: {}\nevent: {kind}\ndata: {data}\n\n", self.number).into()
    }

    fn tell(&mut self, kind: &str, data: &impl Serialize) {
        if self.subscribers.is_empty() {
            return;
        }
        let frame = self.frame(kind, data);
        self.subscribers.retain_mut(|one| one.deliver(&frame));
    }
}

/// A stream of events, and its place among the readers.
struct Events {
    queued: mpsc::Receiver<Bytes>,
    pulse: Pulse,
    _place: OwnedSemaphorePermit,
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = ready!(self.queued.poll_recv(context));
        self.pulse.0.store(true, Relaxed);
        Poll::Ready(frame.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// `GET /api/events`; with `?samples=false` changes only.
pub(super) async fn events(
    State(state): Shared,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Denied> {
    let samples = value_of(query.as_deref(), "samples").is_none_or(|value| value != "false");
    let pulse = request.extensions().get::<Pulse>().cloned().unwrap_or_default();
    let events = state.feed.subscribe(samples, pulse)?;
    Ok(([(CONTENT_TYPE, "text/event-stream")], Body::new(events)).into_response())
}

/// `GET /api/history?rollout=NAME`: a point each second, of the last ten minutes at most.
pub(super) async fn history(
    State(state): Shared,
    RawQuery(query): RawQuery,
) -> Result<Response, Denied> {
    let name = value_of(query.as_deref(), "rollout").unwrap_or_default();
    let inner = state.feed.lock();
    let found = inner.histories.of(&name).map(|found| axum::Json(found).into_response());
    found.ok_or_else(|| {
        let detail = format!("there is no history of a rollout `{name}`: `?rollout=NAME`");
        Denied::new(StatusCode::NOT_FOUND, detail)
    })
}

#[cfg(test)]
mod tests;
