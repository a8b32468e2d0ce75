//! The access log: one JSON object a line, or pairs of names and values, as docs/operating.md
//! has it.
//!
//! Never tells a query, a body, or a field that was not asked for.

use std::path::Path;
use std::time::Duration;

use http::header::REFERER;
use http::{HeaderName, HeaderValue, Version};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;

use crate::config::LineFormat;
use crate::control::export::Wall;
use crate::control::export::writer::Lines;
use crate::names::RolloutName;
use crate::telemetry::reasons::FailureReason;
use crate::telemetry::told::{ToldRefusal, ToldRequest};

/// A path, and a field's value, longer than this is cut.
const TEXT_BYTES_MAX: usize = 1024;

/// Lines that were not passed on yet.
#[derive(Debug, Default)]
pub struct Page {
    text: Vec<u8>,
    lines: u64,
}

impl Page {
    /// One more line.
    pub fn line(&mut self, told: &ToldRequest, format: LineFormat, wall: Wall) {
        self.put(&line(told, wall), format);
    }

    /// One more, of what could not be read as a request.
    pub fn refusal(&mut self, told: &ToldRefusal, format: LineFormat, wall: Wall) {
        self.put(&refusal(told, wall), format);
    }

    fn put(&mut self, line: &Line<'_>, format: LineFormat) {
        let before = self.text.len();
        let written = match format {
            LineFormat::Json => serde_json::to_writer(&mut self.text, line),
            LineFormat::Text => write_text(&mut self.text, line),
        };
        // A line is made of texts and numbers.
        if written.is_err() {
            self.text.truncate(before);
            return;
        }
        self.text.push(b'\n');
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

/// `name=value` with the names of the JSON form; what is null or empty is left out, and what
/// could be read as more than one value is quoted as in JSON.
fn write_text(out: &mut Vec<u8>, line: &Line<'_>) -> serde_json::Result<()> {
    let Value::Object(members) = serde_json::to_value(line)? else { return Ok(()) };
    let mut first = true;
    let mut pair = |prefix: &str, name: &str, value: &Value| -> serde_json::Result<()> {
        if value.is_null() || value.as_str().is_some_and(str::is_empty) {
            return Ok(());
        }
        if !std::mem::take(&mut first) {
            out.push(b' ');
        }
        out.extend_from_slice(prefix.as_bytes());
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
        match value.as_str() {
            Some(text) if text.bytes().all(is_plain) => out.extend_from_slice(text.as_bytes()),
            _ => serde_json::to_writer(&mut *out, value)?,
        }
        Ok(())
    };
    for (name, value) in &members {
        match value {
            Value::Object(fields) => {
                fields.iter().try_for_each(|(name, value)| pair("headers.", name, value))?;
            }
            _ => pair("", name, value)?,
        }
    }
    Ok(())
}

/// Whether a value needs no quotes for it.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\')
}

/// A line, in the order in which it is read.
#[derive(Serialize)]
struct Line<'t> {
    time: String,
    method: Option<&'t str>,
    host: Option<String>,
    path: Option<&'t str>,
    protocol: &'static str,
    tls: bool,
    client: String,
    status: u16,
    outcome: &'static str,
    reason: Option<&'static str>,
    route: &'t str,
    rule: &'t str,
    backend: &'t str,
    endpoint: Option<String>,
    rollout: Option<&'t str>,
    attempts: usize,
    received: u64,
    sent: u64,
    duration_ms: f64,
    first_byte_ms: Option<f64>,
    request_id: Option<String>,
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Fields::is_empty")]
    headers: Fields<'t>,
}

struct Fields<'t>(&'t [(HeaderName, HeaderValue)]);

impl Fields<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0 {
            let value = text(value);
            // As with the path: a query may hold secrets.
            let shown =
                if name == REFERER { value.split(['?', '#']).next() } else { Some(&*value) };
            map.serialize_entry(name.as_str(), &shown)?;
        }
        map.end()
    }
}

fn line(told: &ToldRequest, wall: Wall) -> Line<'_> {
    let end = &told.end;
    let (route, rule, backend) = end.leg.as_ref().map_or(("", "", ""), |leg| {
        (leg.key.route.as_str(), leg.key.rule.as_str(), leg.key.backend.as_str())
    });
    let last = told.attempts.last();
    Line {
        time: time(wall.at(told.started)),
        method: Some(told.method.as_str()),
        host: told.host.as_ref().map(text),
        path: Some(cut(&told.path)),
        protocol: protocol(told.version),
        tls: told.is_encrypted,
        client: told.client.to_canonical().to_string(),
        status: end.code,
        outcome: end.outcome.as_str(),
        reason: end.failure.map(FailureReason::as_str),
        route,
        rule,
        backend,
        endpoint: last.and_then(|one| one.endpoint).map(|endpoint| endpoint.to_string()),
        rollout: told.rollout.as_ref().map(RolloutName::as_str),
        attempts: told.attempts.len(),
        received: end.received,
        sent: end.sent,
        duration_ms: millis(end.at.since(told.started)),
        first_byte_ms: last
            .and_then(|one| one.first_byte)
            .map(|first_byte| millis(first_byte.since(told.started))),
        request_id: told.id.as_ref().map(text),
        trace_id: (told.context.trace != 0).then(|| format!("{:032x}", told.context.trace)),
        headers: Fields(&told.fields),
    }
}

/// Nothing is known of it but who sent it, and what is wrong with it.
fn refusal(told: &ToldRefusal, wall: Wall) -> Line<'_> {
    let end = &told.end;
    Line {
        time: time(wall.at(end.at)),
        method: None,
        host: None,
        path: None,
        protocol: protocol(told.version),
        tls: told.is_encrypted,
        client: told.client.to_canonical().to_string(),
        status: end.code,
        outcome: end.outcome.as_str(),
        reason: end.failure.map(FailureReason::as_str),
        route: "",
        rule: "",
        backend: "",
        endpoint: None,
        rollout: None,
        attempts: 0,
        received: 0,
        sent: 0,
        duration_ms: 0.0,
        first_byte_ms: None,
        request_id: None,
        trace_id: None,
        headers: Fields(&[]),
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

/// RFC 3339 with milliseconds.
fn time(since_epoch: Duration) -> String {
    let millis = i64::try_from(since_epoch.as_millis()).unwrap_or_default();
    format!("{:.3}", jiff::Timestamp::from_millisecond(millis).unwrap_or_default())
}

fn millis(span: Duration) -> f64 {
    span.as_micros() as f64 / 1e3
}

fn text(value: &HeaderValue) -> String {
    cut(&String::from_utf8_lossy(value.as_bytes())).to_owned()
}

/// At most so much of it.
fn cut(text: &str) -> &str {
    let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::told::End;
    use crate::traffic::outcome::Outcome;
    use crate::units::Tick;

    #[test]
    fn a_value_that_could_be_read_as_two_is_quoted_and_what_is_empty_is_left_out() {
        let headers =
            [("user-agent", "a \"b\" c=d"), ("referer", "https://x/y?key=hush"), ("x-tenant", "")];
        let headers = headers
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let end = End {
            leg: None,
            at: Tick::default(),
            code: 400,
            outcome: Outcome::Neutral,
            failure: Some(FailureReason::Refused),
            received: 0,
            sent: 0,
        };
        let told = ToldRefusal {
            client: [127, 0, 0, 1].into(),
            is_encrypted: false,
            version: Version::HTTP_11,
            end,
        };
        let wall = Wall { start: Duration::ZERO };
        let line = Line { headers: Fields(&headers), ..refusal(&told, wall) };
        let mut text = Vec::new();
        write_text(&mut text, &line).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "time=1970-01-01T00:00:00.000Z protocol=HTTP/1.1 tls=false client=127.0.0.1 status=400 \
             outcome=neutral reason=refused attempts=0 received=0 sent=0 duration_ms=0.0 \
             headers.user-agent=\"a \\\"b\\\" c=d\" headers.referer=https://x/y"
        );
    }
}
