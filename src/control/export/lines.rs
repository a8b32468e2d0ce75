//! The access log: one JSON object a line, as docs/operating.md has it.
//!
//! Never tells a query, a body, or a field that was not asked for.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Version};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::control::export::Wall;
use crate::names::RolloutName;
use crate::telemetry::reasons::FailureReason;
use crate::telemetry::story::Outlets;
use crate::telemetry::told::ToldRequest;
use crate::units::Tick;

/// How often a file is looked at, whether it was put aside.
const LOOK: Duration = Duration::from_secs(1);

/// Room that is kept between two looks.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// A path, and a field's value, longer than this is cut.
const TEXT_BYTES_MAX: usize = 1024;

/// Where lines go, and those that were not written yet.
#[derive(Debug, Default)]
pub struct LogFile {
    text: Vec<u8>,
    lines: u64,
    open: Option<Open>,
    /// Of the last write, so that a full disk is told once.
    failed: bool,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    looked: Tick,
}

impl LogFile {
    /// One more line.
    pub fn line(&mut self, told: &ToldRequest, wall: Wall) {
        let before = self.text.len();
        // A line is made of texts and numbers.
        if serde_json::to_writer(&mut self.text, &line(told, wall)).is_err() {
            self.text.truncate(before);
            return;
        }
        self.text.push(b'\n');
        self.lines += 1;
    }

    /// Writes what there is to `path`, or to stdout.
    pub fn write(&mut self, path: Option<&Path>, now: Tick, outlets: &Outlets) {
        if self.lines == 0 {
            return;
        }
        let text = std::mem::take(&mut self.text);
        let written = match path {
            None => io::stdout().lock().write_all(&text),
            Some(path) => self.file(path, now).and_then(|mut file| file.write_all(&text)),
        };
        match written {
            Ok(()) => outlets.lines_written.add(self.lines),
            Err(error) => {
                outlets.lines_failed.add(self.lines);
                if !self.failed {
                    let path = path.unwrap_or_else(|| Path::new("stdout")).display();
                    tracing::error!(%path, %error, "the access log is not written");
                }
                // Perhaps it can be opened again.
                self.open = None;
                self.failed = true;
            }
        }
        if self.open.is_some() || path.is_none() {
            self.failed = false;
        }
        // The room stays, up to what a busy look needs.
        (self.text, self.lines) = (text, 0);
        self.text.clear();
        self.text.shrink_to(KEPT_BYTES_MAX);
    }

    /// The file at `path`, opened anew when it was put aside.
    fn file(&mut self, path: &Path, now: Tick) -> io::Result<&File> {
        let is_same = self.open.as_mut().is_some_and(|open| {
            if open.path != path {
                return false;
            }
            if now.since(open.looked) < LOOK {
                return true;
            }
            open.looked = now;
            let there = std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
            let ours = open.file.metadata().map(|found| (found.dev(), found.ino()));
            there.ok().zip(ours.ok()).is_some_and(|(there, ours)| there == ours)
        });
        if !is_same {
            self.open = None;
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            self.open = Some(Open { path: path.to_owned(), file, looked: now });
        }
        self.open.as_ref().map(|open| &open.file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// A line, in the order in which it is read.
#[derive(Serialize)]
struct Line<'t> {
    time: String,
    method: &'t str,
    host: Option<String>,
    path: &'t str,
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
            map.serialize_entry(name.as_str(), &text(value))?;
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
        method: told.method.as_str(),
        host: told.host.as_ref().map(text),
        path: cut(&told.path),
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
