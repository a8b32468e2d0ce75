//! Finds the error events of a stream of server-sent events (WHATWG HTML, section 9.2).
//!
//! Never keeps more of a line than tells what it is, and changes nothing.

use crate::traffic::fields::{Fields, Known};

/// The longest beginning of a line that is looked at.
const LINE_BYTES_MAX: usize = 24;

/// Where in a stream one is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Events {
    /// The beginning of the present line.
    line: [u8; LINE_BYTES_MAX],
    /// Bytes of the present line, as far as they are looked at.
    length: usize,
}

impl Events {
    /// For a response with `fields`; `None` when it is no stream of events, or one that cannot
    /// be read.
    pub fn of(fields: &Fields) -> Option<Self> {
        let kind = fields.get(Known::ContentType)?;
        let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let readable = !fields.contains(Known::ContentEncoding);
        (kind.eq_ignore_ascii_case(b"text/event-stream") && readable).then(Self::default)
    }

    /// Whether a line that tells of an error ends in `bytes`, the next ones of the stream.
    pub fn take(&mut self, bytes: &[u8]) -> bool {
        let mut found = false;
        let mut rest = bytes;
        while let Some(end) = memchr::memchr2(b'\n', b'\r', rest) {
            self.push(&rest[..end]);
            found |= self.tells_error();
            self.length = 0;
            rest = &rest[end + 1..];
        }
        self.push(rest);
        found
    }

    fn push(&mut self, bytes: &[u8]) {
        // One more than fits tells that the line goes on.
        let room = LINE_BYTES_MAX.saturating_sub(self.length);
        let taken = bytes.len().min(room);
        self.line[self.length..self.length + taken].copy_from_slice(&bytes[..taken]);
        self.length += taken;
    }

    /// `event: error` is an event of this name; `data: {"error": …` is how servers after
    /// `OpenAI`'s API tell of an error under status 200.
    fn tells_error(&self) -> bool {
        let line = &self.line[..self.length];
        let value = |field: &[u8]| {
            let value = line.strip_prefix(field)?.strip_prefix(b":")?;
            Some(value.strip_prefix(b" ").unwrap_or(value))
        };
        value(b"event") == Some(b"error")
            || value(b"data").is_some_and(|data| {
                let inner = data.strip_prefix(b"{").unwrap_or_default();
                inner.trim_ascii_start().starts_with(b"\"error\"")
            })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(text: &str, step: usize) -> bool {
        let mut events = Events::default();
        text.as_bytes().chunks(step).fold(false, |told, piece| told | events.take(piece))
    }

    #[test]
    fn error_events_are_found_however_they_arrive() {
        for (text, error) in [
            ("data: hello\n\nevent: error\ndata: x\n\n", true),
            ("event:error\r\n\r\n", true),
            ("event: error\r", true),
            ("data: {\"error\": {\"message\": \"out of memory\"}}\n\n", true),
            ("data:{ \"error\":1}\n\n", true),
            ("event: errors\n\n", false),
            ("event:  error\n\n", false),
            ("xevent: error\n\n", false),
            (": event: error\n\n", false),
            ("data: event: error\n\n", false),
            ("data: {\"delta\": \"error\"}\n\n", false),
            ("data: [DONE]\n\n", false),
            ("event: error", false),
        ] {
            for step in 1..=text.len() {
                assert_eq!(told(text, step), error, "{text:?} in steps of {step}");
            }
        }
    }

    proptest! {
        #[test]
        fn how_a_stream_is_cut_makes_no_difference(text in "[a-z: \\n\\r{\"]{0,200}", step in 1usize..40) {
            let text = format!("{text}\nevent: error\n{text}");
            prop_assert_eq!(told(&text, step), told(&text, text.len()));
        }
    }

    #[test]
    fn only_a_stream_that_can_be_read_is_looked_at() {
        let kind = |kind: &str| Fields::of(&[("content-type", kind)]);
        assert!(Events::of(&kind("text/event-stream")).is_some());
        assert!(Events::of(&kind("Text/Event-Stream; charset=utf-8")).is_some());
        assert!(Events::of(&kind("text/event-streams")).is_none());
        let mut fields = kind("text/event-stream");
        fields.insert(Known::ContentEncoding, "gzip");
        assert!(Events::of(&fields).is_none());
    }
}
