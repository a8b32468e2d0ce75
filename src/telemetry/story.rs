//! What is told of single requests: their spans, and their line in the access log.
//!
//! Never waits and never grows: each worker has a queue of its own, and what finds no room
//! there is counted and left out. Where nothing is asked for, nothing is written down.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use http::{HeaderName, HeaderValue, Method, Version};

use crate::clock::Clock;
use crate::names::RolloutName;
use crate::telemetry::counts::{Counter, Leg};
use crate::telemetry::told::{End, Told, ToldAttempt, ToldCopy, ToldRefusal, ToldRequest, Why};
use crate::traffic::fields::{Fields, Known};
use crate::traffic::message::RequestHead;
use crate::traffic::outcome::Outcome;
use crate::traffic::trace::{TraceContext, is_sampled};
use crate::units::{Ratio, Tick};

/// Requests of one worker that wait to be written. When full, later ones are left out, and
/// counted. The writer looks every 25 ms: eighty thousand requests a second.
pub const QUEUE_MAX: usize = 2048;

/// Attempts of one request that are told; no rule makes more.
const ATTEMPTS_USUAL: usize = 2;

/// What of single requests is asked for.
#[derive(Debug)]
pub struct Telling {
    /// Spans; `None` is none.
    pub traces: Option<Traces>,
    /// Lines of the access log; `None` is none.
    pub lines: Option<Lines>,
    /// Where they go.
    pub outlets: Arc<Outlets>,
}

/// Which requests have spans.
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    /// Of the traces that begin here.
    pub share: Ratio,
    /// Bad ones a second and worker that are told although their trace is not sampled.
    pub bad_per_second: u32,
}

/// Which requests have a line.
#[derive(Clone, Debug, PartialEq)]
pub struct Lines {
    /// Of those that did not end badly.
    pub share: Ratio,
    /// Fields of the request that are told.
    pub headers: Vec<HeaderName>,
}

/// The ways out of all workers, and what became of what was told.
#[derive(Debug)]
pub struct Outlets {
    workers: Box<[Outlet]>,
    /// Written by the one who writes lines.
    pub lines_written: Counter,
    /// Lines that could not be written.
    pub lines_failed: Counter,
    /// Written by the one who sends spans.
    pub spans_sent: Counter,
    /// Spans that the collector did not take.
    pub spans_failed: Counter,
    /// Lines that were too many to wait for the disk.
    pub lines_late: Counter,
    /// Spans that were too many to wait for the collector.
    pub spans_late: Counter,
    /// Whoever writes the log counts here what it had to leave out.
    log_lines_dropped: std::sync::OnceLock<LogDrops>,
}

/// Lines that a log had to leave out so far.
pub struct LogDrops(pub Box<dyn Fn() -> u64 + Send + Sync>);

impl std::fmt::Debug for LogDrops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogDrops({})", (self.0)())
    }
}

/// One worker's way out; on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Outlet {
    queue: SyncSender<Told>,
    lines_dropped: Counter,
    spans_dropped: Counter,
    /// The second in which bad ones were told last, and how many.
    bad_second: Counter,
    bad_told: Counter,
}

impl Outlets {
    /// For `workers` workers, with the ends to be read.
    pub fn new(workers: usize) -> (Arc<Self>, Vec<Receiver<Told>>) {
        let (queues, ends): (Vec<_>, Vec<_>) =
            (0..workers).map(|_| sync_channel(QUEUE_MAX)).unzip();
        let outlet = |queue| Outlet {
            queue,
            lines_dropped: Counter::default(),
            spans_dropped: Counter::default(),
            bad_second: Counter::default(),
            bad_told: Counter::default(),
        };
        let outlets = Self {
            workers: queues.into_iter().map(outlet).collect(),
            lines_written: Counter::default(),
            lines_failed: Counter::default(),
            spans_sent: Counter::default(),
            spans_failed: Counter::default(),
            lines_late: Counter::default(),
            spans_late: Counter::default(),
            log_lines_dropped: std::sync::OnceLock::new(),
        };
        (Arc::new(outlets), ends)
    }

    /// Where to ask for lines that the log had to leave out.
    pub fn count_log_drops(&self, drops: LogDrops) {
        // The log of a process is one.
        let _ = self.log_lines_dropped.set(drops);
    }

    /// Lines that the log had to leave out; `None` where there is no log with a queue.
    pub fn log_lines_dropped(&self) -> Option<u64> {
        self.log_lines_dropped.get().map(|drops| (drops.0)())
    }

    /// Lines that found no room.
    pub fn lines_dropped(&self) -> u64 {
        let queues: u64 = self.workers.iter().map(|one| one.lines_dropped.get()).sum();
        queues + self.lines_late.get()
    }

    /// Spans that found no room.
    pub fn spans_dropped(&self) -> u64 {
        let queues: u64 = self.workers.iter().map(|one| one.spans_dropped.get()).sum();
        queues + self.spans_late.get()
    }

    /// From the thread of `worker` only.
    fn tell(&self, worker: usize, told: Told) {
        let outlet = &self.workers[worker];
        let (lines, spans) = match &told {
            Told::Request(one) => {
                let spans = if one.is_traced { one.attempts.len() as u64 + 1 } else { 0 };
                (u64::from(one.is_logged), spans)
            }
            Told::Copy(_) => (0, 1),
            Told::Refused(_) => (1, 0),
        };
        if outlet.queue.try_send(told).is_err() {
            outlet.lines_dropped.add(lines);
            outlet.spans_dropped.add(spans);
        }
    }
}

impl Outlet {
    /// Whether one more bad request may be told in the second of `now`.
    fn takes_bad(&self, now: Tick, max: u32) -> bool {
        let second = now.since_start().as_secs() + 1;
        let before = self.bad_second.get();
        if before != second {
            self.bad_second.add(second.wrapping_sub(before));
            self.bad_told.sub(self.bad_told.get());
        }
        let takes = self.bad_told.get() < u64::from(max);
        self.bad_told.add(u64::from(takes));
        takes
    }
}

/// A request that is being told of. Told when the last who holds it lets go.
#[derive(Debug)]
pub struct Story {
    telling: Arc<Telling>,
    worker: usize,
    clock: Clock,
    told: RefCell<Option<Box<ToldRequest>>>,
}

/// Who sent a request.
#[derive(Clone, Copy, Debug)]
pub struct From {
    /// Its address.
    pub client: IpAddr,
    /// Whether over TLS.
    pub is_encrypted: bool,
    /// Whether its word on sampling counts.
    pub is_trusted: bool,
}

impl Story {
    /// Of a request with `head`, as it came at `started`; `worker` must be the calling one.
    pub fn begin(
        telling: &Arc<Telling>,
        (worker, clock): (usize, Clock),
        head: &RequestHead,
        from: From,
        started: Tick,
    ) -> Rc<Self> {
        let context = match (&telling.traces, head.fields.sole(Known::Traceparent)) {
            (None, _) => TraceContext::default(),
            (Some(traces), field) => {
                let parent = field.and_then(TraceContext::parse);
                let trace = parent.map_or_else(|| fastrand::u128(..).max(1), |one| one.trace);
                let told = parent.filter(|_| from.is_trusted).map(|one| one.sampled);
                // Nor does the trace of somebody else: it may have been chosen to be told.
                let own = parent.is_none_or(|_| from.is_trusted);
                let drawn = || if own { trace } else { fastrand::u128(..) };
                let sampled = told.unwrap_or_else(|| is_sampled(drawn(), traces.share));
                TraceContext { trace, span: parent.map_or(0, |one| one.span), sampled }
            }
        };
        let lines = telling.lines.as_ref();
        let told = ToldRequest {
            is_traced: context.sampled,
            is_logged: lines.is_some_and(|lines| fastrand::f64() < lines.share.get()),
            context,
            span: new_span(),
            // Of a trace that begins here nobody has told anything.
            tracestate: (context.span != 0).then(|| head.fields.value(Known::Tracestate)).flatten(),
            method: head.method.clone(),
            path: head.uri.path().to_owned(),
            host: head.fields.value(Known::Host),
            version: head.version,
            is_encrypted: from.is_encrypted,
            client: from.client,
            id: None,
            fields: lines.map(|lines| chosen(&head.fields, &lines.headers)).unwrap_or_default(),
            rollout: None,
            started,
            end: End {
                leg: None,
                at: started,
                code: crate::telemetry::sample::CLIENT_GONE,
                outcome: Outcome::Neutral,
                failure: None,
                received: 0,
                sent: 0,
            },
            attempts: Vec::new(),
        };
        let (telling, told) = (Arc::clone(telling), RefCell::new(Some(Box::new(told))));
        Rc::new(Self { telling, worker, clock, told })
    }

    /// What came from `from` over `version` could not be read as a request; `worker` must be
    /// the calling one.
    pub fn refused(telling: &Telling, worker: usize, from: From, version: Version, end: End) {
        let From { client, is_encrypted, .. } = from;
        if telling.lines.as_ref().is_some_and(|lines| fastrand::f64() < lines.share.get()) {
            let told = ToldRefusal { client, is_encrypted, version, end };
            telling.outlets.tell(worker, Told::Refused(Box::new(told)));
        }
    }

    /// It has a rule; `fields` are those for endpoints.
    pub fn routed(&self, fields: &Fields, rollout: Option<&RolloutName>) {
        let mut told = self.told.borrow_mut();
        let Some(told) = told.as_mut() else { return };
        told.id = fields.value(Known::XRequestId);
        told.rollout = rollout.cloned();
        if self.telling.traces.is_none() {
            // Somebody else's trace may be worth to be looked up.
            told.context =
                fields.sole(Known::Traceparent).and_then(TraceContext::parse).unwrap_or_default();
        }
    }

    /// One more attempt, which `fields` tell the endpoint of.
    pub fn attempt(self: &Rc<Self>, fields: &mut Fields, why: Why) -> Tale {
        let span = new_span();
        if let Some(context) = self.context_of(span) {
            fields.insert(Known::Traceparent, context.field());
        }
        let (endpoint, first_byte) = (Cell::new(None), Cell::new(None));
        let (story, started) = (Rc::clone(self), self.clock.now());
        Tale { story, span, why, endpoint, started, first_byte, received: Cell::new(0) }
    }

    /// A copy, which `fields` tell the shadow of; `None` if nothing is told of it.
    pub fn copy(
        &self,
        (fields, method): (&mut Fields, &Method),
        leg: Arc<Leg>,
        endpoint: SocketAddr,
    ) -> Option<CopyTale> {
        let of = self.context_of(0)?;
        let of = TraceContext { span: self.told.borrow().as_ref()?.span, ..of };
        let trace = fastrand::u128(..).max(1);
        let context = TraceContext { trace, span: new_span(), sampled: of.sampled };
        fields.insert(Known::Traceparent, context.field());
        // It goes with the client's trace, which this one is not (Trace Context, section 4.3).
        fields.remove(Known::Tracestate);
        let started = self.clock.now();
        let told = ToldCopy {
            context,
            of,
            method: method.clone(),
            leg,
            endpoint,
            started,
            ended: started,
            result: "",
            code: None,
        };
        let (telling, worker, clock) = (Arc::clone(&self.telling), self.worker, self.clock);
        of.sampled.then(|| CopyTale { telling, worker, clock, told: Box::new(told) })
    }

    /// The id of its trace; `None` without traces.
    pub fn trace(&self) -> Option<u128> {
        self.context_of(0).map(|context| context.trace)
    }

    fn context_of(&self, span: u64) -> Option<TraceContext> {
        self.telling.traces.as_ref()?;
        let told = self.told.borrow();
        Some(TraceContext { span, ..told.as_ref()?.context })
    }

    /// It ended without an attempt.
    pub fn end(&self, end: End) {
        if let Some(told) = self.told.borrow_mut().as_mut() {
            told.end = end;
        }
    }
}

impl Drop for Story {
    /// Nobody holds it any more: whatever there is to tell is known.
    fn drop(&mut self) {
        let Some(mut told) = self.told.take() else { return };
        let is_bad = told.end.outcome == Outcome::Bad
            || told.end.code >= 500
            || told.attempts.iter().any(|one| one.end.outcome == Outcome::Bad);
        told.is_logged = self.telling.lines.is_some() && (is_bad || told.is_logged);
        if let Some(traces) = self.telling.traces.as_ref().filter(|_| is_bad && !told.is_traced) {
            let outlet = &self.telling.outlets.workers[self.worker];
            told.is_traced = outlet.takes_bad(self.clock.now(), traces.bad_per_second);
        }
        if told.is_logged || told.is_traced {
            self.telling.outlets.tell(self.worker, Told::Request(told));
        }
    }
}

/// An attempt that is being told of.
#[derive(Debug)]
pub struct Tale {
    story: Rc<Story>,
    span: u64,
    why: Why,
    endpoint: Cell<Option<SocketAddr>>,
    started: Tick,
    first_byte: Cell<Option<Tick>>,
    received: Cell<u64>,
}

impl Tale {
    /// It is made at `endpoint`.
    pub fn went_to(&self, endpoint: SocketAddr) {
        self.endpoint.set(Some(endpoint));
    }

    /// The response's head is there.
    pub fn first_byte(&self, now: Tick) {
        self.first_byte.set(Some(now));
    }

    /// So many bytes of the request's body came.
    pub fn received(&self, bytes: u64) {
        self.received.set(bytes);
    }

    /// The id of its trace; `None` without traces.
    pub fn trace(&self) -> Option<u128> {
        self.story.trace()
    }

    /// It ended; `answers` if that is what the client gets.
    pub fn end(self, end: End, answers: bool) {
        let mut told = self.story.told.borrow_mut();
        let Some(told) = told.as_mut() else { return };
        if told.attempts.is_empty() {
            told.attempts.reserve(ATTEMPTS_USUAL);
        }
        let end = End { received: self.received.get(), ..end };
        if answers {
            told.end = end.clone();
        }
        told.attempts.push(ToldAttempt {
            span: self.span,
            why: self.why,
            endpoint: self.endpoint.get(),
            started: self.started,
            first_byte: self.first_byte.get(),
            end,
        });
    }
}

/// A copy that is being told of.
#[derive(Debug)]
pub struct CopyTale {
    telling: Arc<Telling>,
    worker: usize,
    clock: Clock,
    told: Box<ToldCopy>,
}

impl CopyTale {
    /// It is sent now: it waited for the end of the body that it copies.
    pub fn begin(&mut self) {
        self.told.started = self.clock.now();
    }

    /// It is over.
    pub fn end(mut self, result: &'static str, code: Option<u16>) {
        (self.told.ended, self.told.result, self.told.code) = (self.clock.now(), result, code);
        self.telling.outlets.tell(self.worker, Told::Copy(self.told));
    }
}

fn new_span() -> u64 {
    fastrand::u64(1..)
}

/// The first value of each of `names` that is there.
fn chosen(fields: &Fields, names: &[HeaderName]) -> Vec<(HeaderName, HeaderValue)> {
    let there = |name: &HeaderName| Some((name.clone(), fields.value(name)?));
    names.iter().filter_map(there).collect()
}

#[cfg(test)]
mod tests;
