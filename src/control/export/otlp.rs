//! Spans as OpenTelemetry's protocol has them: what of `opentelemetry/proto/trace/v1` and its kin
//! Serin says, by the field numbers that stand there.
//!
//! Names of attributes are those of OpenTelemetry's conventions for HTTP (stable since 1.23);
//! what they have no name for begins with `serin.`.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use prost::Message;

use crate::control::export::Wall;
use crate::control::export::lines::protocol;
use crate::telemetry::counts::Leg;
use crate::telemetry::told::{End, Told, ToldAttempt, ToldCopy, ToldRequest, Why};
use crate::traffic::outcome::Outcome;

/// `ExportTraceServiceRequest`.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

/// `InstrumentationScope`.
#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

/// A span.
#[expect(clippy::struct_field_names, reason = "the names are those of the protocol")]
#[derive(Clone, PartialEq, Message)]
pub struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
    #[prost(message, repeated, tag = "13")]
    links: Vec<Link>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(fixed64, tag = "1")]
    time_unix_nano: u64,
    #[prost(string, tag = "2")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Link {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const ERROR: i32 = 2;

/// A message with `batch`, from `service`.
pub fn message(batch: Vec<Span>, service: &str) -> Bytes {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let resource = Resource {
        attributes: vec![text("service.name", service), text("service.version", &version)],
    };
    let scope = Some(Scope { name: "serin".to_owned(), version });
    let spans = ResourceSpans {
        resource: Some(resource),
        scope_spans: vec![ScopeSpans { scope, spans: batch }],
    };
    Bytes::from(Request { resource_spans: vec![spans] }.encode_to_vec())
}

/// The spans of `told`: that of the request first, then one for each attempt.
pub fn spans(told: &Told, wall: Wall) -> Vec<Span> {
    match told {
        Told::Request(request) => {
            let attempts = request.attempts.iter().enumerate();
            let attempts = attempts.map(|(number, one)| of_attempt(request, number, one, wall));
            [of_request(request, wall)].into_iter().chain(attempts).collect()
        }
        Told::Copy(copy) => vec![of_copy(copy, wall)],
        Told::Refused(_) => Vec::new(),
    }
}

fn of_request(told: &ToldRequest, wall: Wall) -> Span {
    let end = &told.end;
    let (name, mut attributes) = of_leg(told.method.as_str(), end.leg.as_deref());
    attributes.extend([
        text("http.request.method", told.method.as_str()),
        text("url.path", &told.path),
        text("url.scheme", if told.is_encrypted { "https" } else { "http" }),
        text("client.address", &told.client.to_canonical().to_string()),
        text("network.protocol.version", &protocol(told.version)["HTTP/".len()..]),
        number("serin.attempts", told.attempts.len() as u64),
        number("http.request.body.size", end.received),
        number("http.response.body.size", end.sent),
    ]);
    attributes.extend(told.host.as_ref().map(|host| text("server.address", &lossy(host))));
    attributes.extend(told.id.as_ref().map(|id| text("serin.request_id", &lossy(id))));
    attributes.extend(told.rollout.as_ref().map(|name| text("serin.rollout", name.as_str())));
    attributes.extend(of_end(end));
    // As the conventions have it, a server's span is an error from 500 on, or without an answer
    // to its end.
    let is_error = end.code >= 500 || end.outcome == Outcome::Bad;
    Span {
        trace_id: told.context.trace.to_be_bytes().to_vec(),
        span_id: told.span.to_be_bytes().to_vec(),
        trace_state: told.tracestate.as_ref().map(lossy).unwrap_or_default(),
        parent_span_id: id_or_none(told.context.span),
        name,
        kind: SERVER,
        start_time_unix_nano: nanos(wall.at(told.started)),
        end_time_unix_nano: nanos(wall.at(end.at)),
        attributes,
        status: is_error.then(|| error(end)),
        flags: 1,
        ..Span::default()
    }
}

fn of_attempt(told: &ToldRequest, index: usize, attempt: &ToldAttempt, wall: Wall) -> Span {
    let end = &attempt.end;
    let (name, mut attributes) = of_leg(told.method.as_str(), end.leg.as_deref());
    attributes.extend([
        text("http.request.method", told.method.as_str()),
        text("url.path", &told.path),
        text("serin.why", attempt.why.as_str()),
    ]);
    if attempt.why != Why::First {
        attributes.push(number("http.request.resend_count", index as u64));
    }
    attributes.extend(attempt.endpoint.iter().flat_map(of_endpoint));
    attributes.extend(told.rollout.as_ref().map(|name| text("serin.rollout", name.as_str())));
    attributes.extend(of_end(end));
    let first_byte = attempt
        .first_byte
        .map(|at| Event { time_unix_nano: nanos(wall.at(at)), name: "first byte".to_owned() });
    Span {
        trace_id: told.context.trace.to_be_bytes().to_vec(),
        span_id: attempt.span.to_be_bytes().to_vec(),
        trace_state: told.tracestate.as_ref().map(lossy).unwrap_or_default(),
        parent_span_id: told.span.to_be_bytes().to_vec(),
        name,
        kind: CLIENT,
        start_time_unix_nano: nanos(wall.at(attempt.started)),
        end_time_unix_nano: nanos(wall.at(end.at)),
        attributes,
        events: first_byte.into_iter().collect(),
        status: (end.outcome == Outcome::Bad || end.code >= 400).then(|| error(end)),
        flags: 1,
        ..Span::default()
    }
}

fn of_copy(copy: &ToldCopy, wall: Wall) -> Span {
    let (name, mut attributes) = of_leg(copy.method.as_str(), Some(&copy.leg));
    attributes.extend([
        text("http.request.method", copy.method.as_str()),
        text("serin.why", "mirror"),
        text("serin.mirror.result", copy.result),
    ]);
    attributes.extend(of_endpoint(&copy.endpoint));
    attributes.extend(copy.code.map(|code| number("http.response.status_code", u64::from(code))));
    Span {
        trace_id: copy.context.trace.to_be_bytes().to_vec(),
        span_id: copy.context.span.to_be_bytes().to_vec(),
        name,
        kind: CLIENT,
        start_time_unix_nano: nanos(wall.at(copy.started)),
        end_time_unix_nano: nanos(wall.at(copy.ended)),
        attributes,
        links: vec![Link {
            trace_id: copy.of.trace.to_be_bytes().to_vec(),
            span_id: copy.of.span.to_be_bytes().to_vec(),
        }],
        status: (copy.result == "error").then(|| Status { message: String::new(), code: ERROR }),
        flags: 1,
        ..Span::default()
    }
}

/// A span's name, and where in the config it belongs.
fn of_leg(method: &str, leg: Option<&Leg>) -> (String, Vec<KeyValue>) {
    let Some(leg) = leg.filter(|leg| !leg.key.route.as_str().is_empty()) else {
        return (method.to_owned(), Vec::new());
    };
    let key = &leg.key;
    let attributes = vec![
        text("serin.route", key.route.as_str()),
        text("serin.rule", key.rule.as_str()),
        text("serin.backend", key.backend.as_str()),
    ];
    (format!("{method} {}/{}", key.route, key.rule), attributes)
}

fn of_endpoint(endpoint: &SocketAddr) -> [KeyValue; 2] {
    [
        text("server.address", &endpoint.ip().to_string()),
        number("server.port", u64::from(endpoint.port())),
    ]
}

fn of_end(end: &End) -> Vec<KeyValue> {
    let mut attributes = vec![
        number("http.response.status_code", u64::from(end.code)),
        text("serin.outcome", end.outcome.as_str()),
    ];
    if let Some(reason) = end.failure {
        attributes.push(text("error.type", reason.as_str()));
    } else if end.code >= 500 {
        attributes.push(text("error.type", &end.code.to_string()));
    }
    attributes
}

fn error(end: &End) -> Status {
    let message = end.failure.map(|reason| reason.as_str().to_owned()).unwrap_or_default();
    Status { message, code: ERROR }
}

fn id_or_none(id: u64) -> Vec<u8> {
    if id == 0 { Vec::new() } else { id.to_be_bytes().to_vec() }
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::Text(value.to_owned())) });
    KeyValue { key: key.to_owned(), value }
}

fn number(key: &str, value: u64) -> KeyValue {
    let number = i64::try_from(value).unwrap_or(i64::MAX);
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(Value::Number(number)) }) }
}

fn lossy(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn nanos(since_epoch: Duration) -> u64 {
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}
