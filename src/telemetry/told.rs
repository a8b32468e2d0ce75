//! What is told of one request, its attempts and its copies, once they have ended.
//!
//! Never holds a query, a body, or a field that nobody asked for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, Version};

use crate::names::RolloutName;
use crate::telemetry::counts::Leg;
use crate::telemetry::reasons::FailureReason;
use crate::traffic::outcome::Outcome;
use crate::traffic::trace::TraceContext;
use crate::units::Tick;

/// Something to tell.
#[derive(Debug)]
pub enum Told {
    /// A request.
    Request(Box<ToldRequest>),
    /// A copy of one.
    Copy(Box<ToldCopy>),
    /// What could not be read as one.
    Refused(Box<ToldRefusal>),
}

/// A request that has ended.
#[derive(Debug)]
pub struct ToldRequest {
    /// Whether it has spans.
    pub is_traced: bool,
    /// Whether it has a line.
    pub is_logged: bool,
    /// Its trace; `span` is that of whoever sent it.
    pub context: TraceContext,
    /// Of its own span.
    pub span: u64,
    /// As it came.
    pub tracestate: Option<HeaderValue>,
    /// Its method.
    pub method: Method,
    /// Without the query, which may hold secrets.
    pub path: String,
    /// As the client named it.
    pub host: Option<HeaderValue>,
    /// As the client spoke.
    pub version: Version,
    /// Whether over TLS.
    pub is_encrypted: bool,
    /// Who sent it.
    pub client: IpAddr,
    /// Its `x-request-id`.
    pub id: Option<HeaderValue>,
    /// Fields that are asked for, as `Lines` has them.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// The rollout of its rule.
    pub rollout: Option<RolloutName>,
    /// When its head came.
    pub started: Tick,
    /// How it ended.
    pub end: End,
    /// At endpoints, in order.
    pub attempts: Vec<ToldAttempt>,
}

/// What came instead of a request. Nothing of it is told: nobody knows what it is.
#[derive(Debug)]
pub struct ToldRefusal {
    /// Who sent it.
    pub client: IpAddr,
    /// Whether over TLS.
    pub is_encrypted: bool,
    /// As the connection is spoken.
    pub version: Version,
    /// What Serin answered, when, and why.
    pub end: End,
}

/// How a request, or an attempt, ended.
#[derive(Clone, Debug)]
pub struct End {
    /// Who was asked; `None` if nobody was.
    pub leg: Option<Arc<Leg>>,
    /// When.
    pub at: Tick,
    /// As in `serin_requests_total`.
    pub code: u16,
    /// What it says of the version.
    pub outcome: Outcome,
    /// Why there is no answer, or none to its end.
    pub failure: Option<FailureReason>,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
}

/// An attempt at an endpoint.
#[derive(Debug)]
pub struct ToldAttempt {
    /// Of its span.
    pub span: u64,
    /// Why it was made.
    pub why: Why,
    /// Where; `None` if there was none.
    pub endpoint: Option<SocketAddr>,
    /// When it began.
    pub started: Tick,
    /// When the response's head came.
    pub first_byte: Option<Tick>,
    /// How it ended.
    pub end: End,
}

/// A copy that has ended.
#[derive(Debug)]
pub struct ToldCopy {
    /// A trace of its own.
    pub context: TraceContext,
    /// The span of the request that was copied.
    pub of: TraceContext,
    /// Its method.
    pub method: Method,
    /// Whom it was for.
    pub leg: Arc<Leg>,
    /// Where.
    pub endpoint: SocketAddr,
    /// When it was sent.
    pub started: Tick,
    /// When it was over.
    pub ended: Tick,
    /// As in `serin_mirror_requests_total`.
    pub result: &'static str,
    /// Of its answer.
    pub code: Option<u16>,
}

/// Why an attempt was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is the first.
    First,
    /// The one before failed, at the same backend.
    Retry,
    /// The canary failed.
    Failover,
}

impl Why {
    /// As in spans.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Retry => "retry",
            Self::Failover => "failover",
        }
    }
}
