//! Spans on their way to a collector of OpenTelemetry.
//!
//! Over HTTP or gRPC, as the config says. Never keeps more than [`WAITING_MAX`] spans, and never
//! more than one message under way: a collector that is away costs a counter.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http::uri::PathAndQuery;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::clock::Clock;
use crate::config::{OtlpProtocol, Tracing};
use crate::control::export::Wall;
use crate::control::export::grpc;
use crate::control::export::otlp::{self, Span};
use crate::control::notify;
use crate::telemetry::story::Outlets;
use crate::telemetry::told::Told;
use crate::units::Tick;

/// Spans that wait. When full, later ones are left out, and counted.
pub const WAITING_MAX: usize = 8192;

/// Spans of one message.
const BATCH_MAX: usize = 512;

/// A message is sent when it is full, or this long after the last one.
const EVERY: Duration = Duration::from_secs(1);

/// From the connection to the answer's head.
const TRY_TIME_MAX: Duration = Duration::from_secs(5);

/// Tries of one message, and the pause after the first; doubled after each.
const TRIES_MAX: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// Where OTLP over HTTP has its traces.
const PATH: &str = "/v1/traces";

/// Sends spans, one message after the other.
#[derive(Debug)]
pub struct Collector {
    outlets: Arc<Outlets>,
    to: Option<Target>,
    waiting: Vec<Span>,
    under_way: Option<JoinHandle<Sent>>,
    sent_at: Tick,
    /// Of the last message, so that an outage is told once.
    failed: bool,
}

/// Whom messages are for.
#[derive(Clone, Debug)]
struct Target {
    uri: Uri,
    protocol: OtlpProtocol,
    /// Who sends them.
    service: String,
}

/// Why a collector did not take a message.
#[derive(Debug)]
pub struct Refusal {
    /// In words.
    pub error: String,
    /// Whether it may take it later.
    pub is_for_now: bool,
}

/// What became of a message.
#[derive(Debug)]
struct Sent {
    spans: u64,
    error: Option<String>,
}

impl Collector {
    /// Counts into `outlets`.
    pub fn new(outlets: Arc<Outlets>) -> Self {
        Self {
            outlets,
            to: None,
            waiting: Vec::new(),
            under_way: None,
            sent_at: Tick::default(),
            failed: false,
        }
    }

    /// Where messages go from here on.
    pub fn aim_at(&mut self, tracing: Option<&Tracing>) {
        self.to = tracing.map(|tracing| Target {
            uri: tracing.otlp.clone(),
            protocol: tracing.protocol,
            service: tracing.service.clone(),
        });
        if self.to.is_none() {
            self.outlets.spans_late.add(self.waiting.len() as u64);
            self.waiting.clear();
        }
    }

    /// Spans of `told` have to be sent.
    pub fn take(&mut self, told: &Told, wall: Wall) {
        let spans = otlp::spans(told, wall);
        if self.waiting.len() + spans.len() > WAITING_MAX {
            self.outlets.spans_late.add(spans.len() as u64);
            return;
        }
        self.waiting.extend(spans);
    }

    /// Sends the next message, if there is one and it is time. Never waits.
    pub fn go_on(&mut self, now: Tick, hurry: bool) {
        if self.under_way.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        if let Some(task) = self.under_way.take() {
            self.reap(task);
        }
        let due = self.waiting.len() >= BATCH_MAX || now.since(self.sent_at) >= EVERY || hurry;
        let Some(to) = self.to.clone().filter(|_| due && !self.waiting.is_empty()) else { return };
        self.sent_at = now;
        let batch: Vec<_> = self.waiting.drain(..self.waiting.len().min(BATCH_MAX)).collect();
        let spans = batch.len() as u64;
        let message = otlp::message(batch, &to.service);
        let tries = if hurry { 1 } else { TRIES_MAX };
        self.under_way = Some(tokio::spawn(async move {
            Sent { spans, error: deliver(&to, message, tries).await.err() }
        }));
    }

    /// Sends all that waits, each message once.
    pub async fn finish(&mut self, clock: Clock) {
        loop {
            if let Some(task) = &mut self.under_way {
                let sent = task.await;
                self.under_way = None;
                self.count(sent.ok());
            }
            self.go_on(clock.now(), true);
            if self.under_way.is_none() {
                return;
            }
        }
    }

    fn reap(&mut self, task: JoinHandle<Sent>) {
        // It is finished: nothing is waited for.
        let mut task = std::pin::pin!(task);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        if let std::task::Poll::Ready(sent) = task.as_mut().poll(&mut cx) {
            self.count(sent.ok());
        }
    }

    fn count(&mut self, sent: Option<Sent>) {
        let Some(Sent { spans, error }) = sent else { return };
        match error {
            None => {
                self.outlets.spans_sent.add(spans);
                if self.failed {
                    tracing::info!(
                        event = "collector_back",
                        "the collector of traces takes spans again"
                    );
                }
                self.failed = false;
            }
            Some(error) => {
                self.outlets.spans_failed.add(spans);
                if !self.failed {
                    tracing::warn!(event = "collector_away", %error, "the collector of traces takes no spans; they are \
                        counted in serin_trace_spans_total until it does");
                }
                self.failed = true;
            }
        }
    }
}

/// Until it is taken, or to no end.
async fn deliver(to: &Target, message: Bytes, tries: u32) -> Result<(), String> {
    let mut pause = PAUSE;
    let mut error = String::new();
    for tried in 1..=tries {
        match timeout(TRY_TIME_MAX, send(to, message.clone())).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(refusal)) => {
                error = refusal.error;
                if !refusal.is_for_now {
                    break;
                }
            }
            Err(_) => "no answer in time".clone_into(&mut error),
        }
        if tried < tries {
            sleep(pause).await;
            pause *= 2;
        }
    }
    Err(error)
}

/// Once, by whatever `to` speaks.
async fn send(to: &Target, message: Bytes) -> Result<(), Refusal> {
    if to.protocol == OtlpProtocol::Grpc {
        return grpc::send(&to.uri, message, None).await;
    }
    match notify::send(&with_path(&to.uri), "application/x-protobuf", message, None).await {
        Ok(status) if status.is_success() => Ok(()),
        Ok(status) => {
            // What OTLP says may be sent again.
            let is_for_now = matches!(status.as_u16(), 429 | 502..=504);
            Err(Refusal { error: format!("it answers {status}"), is_for_now })
        }
        Err(error) => Err(Refusal { error: error.to_string(), is_for_now: true }),
    }
}

/// Where a collector at `base` has its traces.
fn with_path(base: &Uri) -> Uri {
    let path = base.path().trim_end_matches('/');
    let path = if path.ends_with(PATH) { path.to_owned() } else { format!("{path}{PATH}") };
    let mut parts = base.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(path).ok();
    Uri::from_parts(parts).unwrap_or_else(|_| base.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_have_a_path_of_their_own() {
        for (base, full) in [
            ("http://h:4318", "http://h:4318/v1/traces"),
            ("http://h:4318/", "http://h:4318/v1/traces"),
            ("https://h/otlp/", "https://h/otlp/v1/traces"),
            ("http://h/v1/traces", "http://h/v1/traces"),
        ] {
            assert_eq!(with_path(&base.parse().unwrap()).to_string(), full);
        }
    }
}
