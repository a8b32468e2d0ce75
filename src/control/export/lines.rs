//! The access log: one JSON object a line, or pairs of names and values, as docs/operating.md
//! has it.
//!
//! Never tells a query, a body, or a field that was not asked for.

use std::path::Path;
use std::time::Duration;

use http::header::REFERER;
use http::{HeaderName, HeaderValue, Version};

use crate::config::AccessLog;
use crate::control::export::Wall;
use crate::control::export::members::Members;
use crate::control::export::writer::Lines;
use crate::names::RolloutName;
use crate::telemetry::reasons::FailureReason;
use crate::telemetry::told::{ToldRefusal, ToldRequest};

/// Lines that were not passed on yet.
#[derive(Debug, Default)]
pub struct Page {
    text: Vec<u8>,
    lines: u64,
    second: Second,
}

/// A second, and how it is written: most lines have that of the line before.
#[derive(Debug, Default)]
struct Second {
    since_epoch: u64,
    text: String,
}

impl Page {
    /// One more line.
    pub fn line(&mut self, told: &ToldRequest, log: &AccessLog, wall: Wall) {
        let at = self.second.of(wall.at(told.started));
        let mut line = Members::begin(&mut self.text, log.format, &log.members);
        line.time("time", &self.second.text, at);
        tell(&mut line, told);
        line.end();
        self.lines += 1;
    }

    /// One more, of what could not be read as a request: nothing is known of it but who sent it,
    /// and what is wrong with it.
    pub fn refusal(&mut self, told: &ToldRefusal, log: &AccessLog, wall: Wall) {
        let at = self.second.of(wall.at(told.end.at));
        let mut line = Members::begin(&mut self.text, log.format, &log.members);
        line.time("time", &self.second.text, at);
        tell_refusal(&mut line, told);
        line.end();
        self.lines += 1;
    }

    /// What there is, for `path` or stdout; `None` if there is nothing.
    pub fn take(&mut self, path: Option<&Path>) -> Option<Lines> {
        if self.lines == 0 {
            return None;
        }
        // The next one will be about as long.
        let room = Vec::with_capacity(self.text.len());
        let text = std::mem::replace(&mut self.text, room);
        let count = std::mem::take(&mut self.lines);
        Some(Lines { path: path.map(ToOwned::to_owned), text, count })
    }
}

impl Second {
    /// Makes it that of `since_epoch`; the milliseconds within it.
    fn of(&mut self, since_epoch: Duration) -> u32 {
        let second = since_epoch.as_secs();
        if self.since_epoch != second || self.text.is_empty() {
            let stamp = i64::try_from(second).map(jiff::Timestamp::from_second);
            let stamp = stamp.ok().and_then(Result::ok).unwrap_or_default();
            let text = stamp.to_string();
            *self = Self { since_epoch: second, text: text.trim_end_matches('Z').to_owned() };
        }
        since_epoch.subsec_millis()
    }
}

/// The members of a line, in the order in which they are read.
fn tell(line: &mut Members<'_>, told: &ToldRequest) {
    let end = &told.end;
    let (route, rule, backend) = end.leg.as_ref().map_or(("", "", ""), |leg| {
        (leg.key.route.as_str(), leg.key.rule.as_str(), leg.key.backend.as_str())
    });
    let last = told.attempts.last();
    let first_byte = last.and_then(|one| one.first_byte);
    line.text("method", told.method.as_str());
    line.field_if_any("host", told.host.as_ref());
    line.text("path", &told.path);
    line.text("protocol", protocol(told.version));
    line.flag("tls", told.is_encrypted);
    line.ip("client", told.client.to_canonical());
    line.number("status", end.code.into());
    line.text("outcome", end.outcome.as_str());
    line.text_if_any("reason", end.failure.map(FailureReason::as_str));
    line.text("route", route);
    line.text("rule", rule);
    line.text("backend", backend);
    line.address("endpoint", last.and_then(|one| one.endpoint));
    line.text_if_any("rollout", told.rollout.as_ref().map(RolloutName::as_str));
    line.number("attempts", told.attempts.len() as u64);
    line.number("received", end.received);
    line.number("sent", end.sent);
    line.millis("duration_ms", Some(end.at.since(told.started)));
    line.millis("first_byte_ms", first_byte.map(|at| at.since(told.started)));
    line.field_if_any("request_id", told.id.as_ref());
    line.id("trace_id", told.context.trace);
    if !told.fields.is_empty() {
        line.below("headers", "headers.", |line| tell_fields(line, &told.fields));
    }
}

fn tell_refusal(line: &mut Members<'_>, told: &ToldRefusal) {
    let end = &told.end;
    for name in ["method", "host", "path"] {
        line.text_if_any(name, None);
    }
    line.text("protocol", protocol(told.version));
    line.flag("tls", told.is_encrypted);
    line.ip("client", told.client.to_canonical());
    line.number("status", end.code.into());
    line.text("outcome", end.outcome.as_str());
    line.text_if_any("reason", end.failure.map(FailureReason::as_str));
    for name in ["route", "rule", "backend"] {
        line.text(name, "");
    }
    for name in ["endpoint", "rollout"] {
        line.text_if_any(name, None);
    }
    for name in ["attempts", "received", "sent"] {
        line.number(name, 0);
    }
    line.millis("duration_ms", Some(Duration::ZERO));
    for name in ["first_byte_ms", "request_id", "trace_id"] {
        line.text_if_any(name, None);
    }
}

fn tell_fields(line: &mut Members<'_>, fields: &[(HeaderName, HeaderValue)]) {
    for (name, value) in fields {
        // As with the path: a query may hold secrets.
        match (name == REFERER).then(|| value.to_str().unwrap_or_default()) {
            Some(value) => line.text(name.as_str(), value.split(['?', '#']).next().unwrap_or("")),
            None => line.field(name.as_str(), value),
        }
    }
}

/// As in OpenTelemetry's `network.protocol.version`, with its name.
pub(super) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LineFormat, LineMember};
    use crate::telemetry::told::End;
    use crate::traffic::outcome::Outcome;
    use crate::units::{Ratio, Tick};

    #[test]
    fn a_second_is_written_once_and_well() {
        let mut second = Second::default();
        for (millis, text, rest) in [
            (0, "1970-01-01T00:00:00", 0),
            (1, "1970-01-01T00:00:00", 1),
            (1_795_609_999_999, "2026-11-25T12:33:19", 999),
            (1_795_610_000_000, "2026-11-25T12:33:20", 0),
        ] {
            assert_eq!((second.of(Duration::from_millis(millis)), &*second.text), (rest, text));
        }
    }

    #[test]
    fn a_refusal_has_the_members_of_a_request_and_a_referer_no_query() {
        let end = End {
            leg: None,
            at: Tick::default(),
            code: 400,
            outcome: Outcome::Neutral,
            failure: Some(FailureReason::Refused),
            received: 0,
            sent: 0,
        };
        let (client, version) = ([127, 0, 0, 1].into(), Version::HTTP_11);
        let told = ToldRefusal { client, is_encrypted: false, version, end };
        let wall = Wall { start: Duration::ZERO };
        let mut page = Page::default();
        let mut log = AccessLog {
            file: None,
            format: LineFormat::Text,
            share: Ratio::ONE,
            headers: Vec::new(),
            members: Vec::new(),
        };
        let mut written = |log: &AccessLog| {
            page.refusal(&told, log, wall);
            String::from_utf8(page.take(None).unwrap().text).unwrap()
        };
        assert_eq!(
            written(&log),
            "time=1970-01-01T00:00:00.000Z protocol=HTTP/1.1 tls=false client=127.0.0.1 status=400 \
             outcome=neutral reason=refused attempts=0 received=0 sent=0 duration_ms=0.000\n"
        );
        log.format = LineFormat::Json;
        let line: serde_json::Value = serde_json::from_str(&written(&log)).unwrap();
        assert_eq!(line.as_object().unwrap().len(), LineMember::ALL.len(), "{line}");
        // Each by itself, whatever its kind.
        for member in LineMember::ALL {
            log.members = vec![member];
            let one: serde_json::Value = serde_json::from_str(&written(&log)).unwrap();
            let name = member.as_str();
            assert_eq!(one, serde_json::json!({ name: line[name] }));
        }
        let mut out = Vec::new();
        let mut members = Members::begin(&mut out, LineFormat::Text, &[]);
        let value = HeaderValue::from_static("https://x/y?key=hush");
        tell_fields(&mut members, &[(REFERER, value)]);
        members.end();
        assert_eq!(out, b"referer=https://x/y\n");
    }
}
