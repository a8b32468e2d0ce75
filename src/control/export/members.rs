//! Names and values of one line of the access log, as JSON or as text.
//!
//! Never leaves out a member in JSON, and never keeps an empty one in text. Made for speed: a
//! line is written for each request, on a core that has requests to serve.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::HeaderValue;

use crate::config::{LineFormat, LineMember};

/// A text longer than this is cut.
const TEXT_BYTES_MAX: usize = 1024;

/// A line that is being written.
#[derive(Debug)]
pub struct Members<'o> {
    out: &'o mut Vec<u8>,
    format: LineFormat,
    /// Those that are written; empty is all.
    wanted: &'o [LineMember],
    /// Put before each name.
    prefix: &'static str,
    is_first: bool,
}

impl<'o> Members<'o> {
    /// Begins a line at the end of `out`, of the members in `wanted`; of all if there are none.
    pub fn begin(out: &'o mut Vec<u8>, format: LineFormat, wanted: &'o [LineMember]) -> Self {
        if format == LineFormat::Json {
            out.push(b'{');
        }
        Self { out, format, wanted, prefix: "", is_first: true }
    }

    /// Ends it.
    pub fn end(self) {
        if self.format == LineFormat::Json {
            self.out.push(b'}');
        }
        // A line of text of which nothing is known is none.
        if self.format == LineFormat::Json || !self.is_first {
            self.out.push(b'\n');
        }
    }

    /// A text; in text nothing where it is empty.
    pub fn text(&mut self, name: &str, value: &str) {
        if self.format == LineFormat::Text && value.is_empty() || !self.name(name) {
            return;
        }
        let value = cut(value);
        let is_plain = match self.format {
            LineFormat::Json => value.bytes().all(|byte| !matches!(byte, ..0x20 | b'"' | b'\\')),
            LineFormat::Text => value.bytes().all(is_plain),
        };
        match (self.format, is_plain) {
            (LineFormat::Text, true) => self.out.extend_from_slice(value.as_bytes()),
            (LineFormat::Json, true) => {
                self.out.push(b'"');
                self.out.extend_from_slice(value.as_bytes());
                self.out.push(b'"');
            }
            // Writing a text to memory cannot fail.
            (_, false) => serde_json::to_writer(&mut *self.out, value).unwrap_or_default(),
        }
    }

    /// A text that may not be there.
    pub fn text_if_any(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.text(name, value),
            None => self.null(name),
        }
    }

    /// What a field says; what is not UTF-8 is shown as such.
    pub fn field(&mut self, name: &str, value: &HeaderValue) {
        match std::str::from_utf8(value.as_bytes()) {
            Ok(value) => self.text(name, value),
            Err(_) => self.text(name, &String::from_utf8_lossy(value.as_bytes())),
        }
    }

    /// What a field says that may not be there.
    pub fn field_if_any(&mut self, name: &str, value: Option<&HeaderValue>) {
        match value {
            Some(value) => self.field(name, value),
            None => self.null(name),
        }
    }

    /// A text of letters, digits, `-`, `:` and `.`, which needs no look.
    fn plain(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.name(name) {
            return;
        }
        let is_json = self.format == LineFormat::Json;
        if is_json {
            self.out.push(b'"');
        }
        write(self.out);
        if is_json {
            self.out.push(b'"');
        }
    }

    /// `second`, as RFC 3339 has it without a zone, and the milliseconds behind it; UTC.
    pub fn time(&mut self, name: &str, second: &str, millis: u32) {
        self.plain(name, |out| {
            out.extend_from_slice(second.as_bytes());
            out.push(b'.');
            put_digits(out, millis.into(), 3);
            out.push(b'Z');
        });
    }

    /// An address.
    pub fn ip(&mut self, name: &str, ip: IpAddr) {
        self.plain(name, |out| put_ip(out, ip));
    }

    /// An address with its port, if there is one.
    pub fn address(&mut self, name: &str, address: Option<SocketAddr>) {
        let Some(address) = address else { return self.null(name) };
        self.plain(name, |out| match address {
            SocketAddr::V4(four) => {
                put_ip(out, (*four.ip()).into());
                out.push(b':');
                put_digits(out, four.port().into(), 1);
            }
            SocketAddr::V6(six) => {
                // Writing to memory cannot fail.
                let _ = write!(out, "{six}");
            }
        });
    }

    /// 32 hexadecimal digits; null for zero, which is no id.
    pub fn id(&mut self, name: &str, id: u128) {
        if id == 0 {
            return self.null(name);
        }
        self.plain(name, |out| {
            out.extend((0..32).rev().map(|digit| HEX[(id >> (digit * 4)) as usize & 0xf]));
        });
    }

    /// A whole number.
    pub fn number(&mut self, name: &str, value: u64) {
        if self.name(name) {
            put_digits(self.out, value, 1);
        }
    }

    /// Milliseconds, to the microsecond; null where nothing was measured.
    pub fn millis(&mut self, name: &str, span: Option<Duration>) {
        let Some(span) = span else { return self.null(name) };
        if !self.name(name) {
            return;
        }
        let micros = span.as_micros() as u64;
        put_digits(self.out, micros / 1000, 1);
        self.out.push(b'.');
        put_digits(self.out, micros % 1000, 3);
    }

    /// Yes or no.
    pub fn flag(&mut self, name: &str, value: bool) {
        if self.name(name) {
            self.out.extend_from_slice(if value { b"true" } else { b"false" });
        }
    }

    /// Members of their own, below `name`: an object in JSON. Whoever has any wants them all.
    pub fn below(&mut self, name: &str, prefix: &'static str, write: impl FnOnce(&mut Self)) {
        let wanted = std::mem::take(&mut self.wanted);
        if self.format == LineFormat::Json {
            self.name(name);
            self.out.push(b'{');
            self.is_first = true;
            write(self);
            self.out.push(b'}');
        } else {
            self.prefix = prefix;
            write(self);
            self.prefix = "";
        }
        self.wanted = wanted;
    }

    fn null(&mut self, name: &str) {
        if self.format == LineFormat::Json && self.name(name) {
            self.out.extend_from_slice(b"null");
        }
    }

    /// Begins a member; false if it is not wanted. Names are those of this code, or of fields:
    /// nothing in them needs quotes.
    fn name(&mut self, name: &str) -> bool {
        let mut wanted = self.wanted.iter();
        if !self.wanted.is_empty() && !wanted.any(|one| one.as_str() == name) {
            return false;
        }
        let is_first = std::mem::take(&mut self.is_first);
        match self.format {
            LineFormat::Json => {
                self.out.extend_from_slice(if is_first { b"\"" } else { b",\"" });
                self.out.extend_from_slice(name.as_bytes());
                self.out.extend_from_slice(b"\":");
            }
            LineFormat::Text => {
                if !is_first {
                    self.out.push(b' ');
                }
                self.out.extend_from_slice(self.prefix.as_bytes());
                self.out.extend_from_slice(name.as_bytes());
                self.out.push(b'=');
            }
        }
        true
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Whether a value in text needs no quotes for it.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\')
}

/// At most so much of it.
fn cut(text: &str) -> &str {
    if text.len() <= TEXT_BYTES_MAX {
        return text;
    }
    let end = (0..=TEXT_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// `value` in at least `least` digits.
fn put_digits(out: &mut Vec<u8>, mut value: u64, least: usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while value > 0 || digits.len() - at < least {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&digits[at..]);
}

fn put_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(four) => {
            for (index, octet) in four.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                put_digits(out, octet.into(), 1);
            }
        }
        IpAddr::V6(six) => {
            // Writing to memory cannot fail.
            let _ = write!(out, "{six}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(write: impl FnOnce(&mut Members<'_>)) -> serde_json::Value {
        let mut out = Vec::new();
        let mut members = Members::begin(&mut out, LineFormat::Json, &[]);
        write(&mut members);
        members.end();
        serde_json::from_slice(&out).unwrap()
    }

    fn text(write: impl FnOnce(&mut Members<'_>)) -> String {
        let mut out = Vec::new();
        let mut members = Members::begin(&mut out, LineFormat::Text, &[]);
        write(&mut members);
        members.end();
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn whatever_a_text_is_json_gives_it_back(value in any::<String>(), number in any::<u64>()) {
            let line = json(|members| {
                members.text("a", &value);
                members.number("b", number);
            });
            prop_assert_eq!(line["a"].as_str(), Some(cut(&value)));
            prop_assert_eq!(line["b"].as_u64(), Some(number));
            // One line, one pair for each member: nobody can break out of a value.
            let line = text(|members| {
                members.text("a", &value);
                members.number("b", number);
            });
            prop_assert_eq!(line.matches('\n').count(), 1);
            let end = format!("b={number}\n");
            prop_assert!(line.ends_with(&end), "{}", line);
        }

        #[test]
        fn addresses_ids_and_times_are_as_the_library_writes_them(
            four in any::<[u8; 4]>(), six in any::<[u16; 8]>(), port in any::<u16>(),
            id in 1..u128::MAX, micros in 0u64..10_000_000_000,
        ) {
            let (four, six) = (IpAddr::from(four), IpAddr::from(six));
            for ip in [four, six] {
                let line = json(|members| {
                    members.ip("ip", ip);
                    members.address("at", Some((ip, port).into()));
                    members.id("id", id);
                    members.millis("ms", Some(Duration::from_micros(micros)));
                });
                prop_assert_eq!(line["ip"].as_str(), Some(&*ip.to_string()));
                let at = SocketAddr::from((ip, port)).to_string();
                prop_assert_eq!(line["at"].as_str(), Some(&*at));
                prop_assert_eq!(line["id"].as_str(), Some(&*format!("{id:032x}")));
                prop_assert_eq!(line["ms"].as_f64(), Some(micros as f64 / 1e3));
            }
        }
    }

    #[test]
    fn what_is_not_there_is_null_in_json_and_nothing_in_text() {
        let write = |members: &mut Members<'_>| {
            members.time("time", "2026-11-21T10:00:00", 7);
            members.text_if_any("a", None);
            members.text("b", "");
            members.id("c", 0);
            members.below("headers", "headers.", |members| {
                members.text("x", "a b");
                members.flag("y", true);
            });
        };
        let line = text(write);
        assert_eq!(line, "time=2026-11-21T10:00:00.007Z headers.x=\"a b\" headers.y=true\n");
        let line = json(write);
        assert_eq!(line["time"], "2026-11-21T10:00:00.007Z");
        assert!(line["a"].is_null() && line["c"].is_null() && line["b"] == "", "{line}");
        assert_eq!(line["headers"], serde_json::json!({ "x": "a b", "y": true }));
    }
}
