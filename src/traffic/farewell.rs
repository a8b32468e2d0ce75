//! How a stream that is cut on purpose is ended so that its reader knows: the last event, the
//! status of gRPC, the close frame of a WebSocket.
//!
//! Never ends a stream as if it were whole, and never in the middle of an event or a frame.

use http::{HeaderMap, HeaderValue};

use crate::traffic::fields::{Fields, Known};
use crate::traffic::outcome::is_grpc;

/// What a stream is to whoever reads it, and where in it one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Server-sent events; its last bytes, up to four.
    Events(Vec<u8>),
    /// Messages of gRPC, ended by a status in the trailers.
    Grpc,
    /// Frames of a WebSocket.
    WebSocket(Frames),
    /// Anything else: only the end of the connection can tell.
    Other,
}

/// What is sent last.
#[derive(Clone, Debug, PartialEq)]
pub enum Farewell {
    /// More of the body, which ends then.
    Data(Vec<u8>),
    /// The end of the body, with these trailers.
    Trailers(HeaderMap),
    /// Nothing: the connection is cut.
    Cut,
}

/// Why it ends, for whoever reads it.
const WHY: &str = "the model version that was answering has been taken out; please ask again";

impl Stream {
    /// Of a response, by the protocol that it switches to, if it does. One whose length was
    /// told takes no more than that.
    pub fn of(upgrade: Option<&HeaderValue>, fields: &Fields, length_is_told: bool) -> Self {
        let is = |value: Option<&[u8]>, wanted: &str| {
            let found = value.unwrap_or_default().trim_ascii_start();
            found.get(..wanted.len()).is_some_and(|one| one.eq_ignore_ascii_case(wanted.as_bytes()))
        };
        if let Some(upgrade) = upgrade {
            let known = is(Some(upgrade.as_bytes()), "websocket");
            return if known { Self::WebSocket(Frames::default()) } else { Self::Other };
        }
        match fields.get(Known::ContentType) {
            _ if length_is_told => Self::Other,
            kind if is(kind, "text/event-stream") => Self::Events(Vec::new()),
            _ if is_grpc(fields) => Self::Grpc,
            _ => Self::Other,
        }
    }

    /// Takes note of `bytes` that went to the reader.
    pub fn pass(&mut self, bytes: &[u8]) {
        match self {
            Self::Events(last) => {
                last.extend_from_slice(&bytes[bytes.len().saturating_sub(4)..]);
                let keep = last.len().saturating_sub(4);
                last.drain(..keep);
            }
            Self::WebSocket(frames) => frames.pass(bytes),
            Self::Grpc | Self::Other => {}
        }
    }

    /// Whether nothing is half sent.
    pub fn is_between(&self) -> bool {
        match self {
            Self::Events(last) => {
                last.is_empty()
                    || [&b"\n\n"[..], b"\r\r", b"\n\r\n"].iter().any(|end| last.ends_with(end))
            }
            Self::WebSocket(frames) => frames.is_between(),
            Self::Grpc | Self::Other => true,
        }
    }

    /// What is sent last, here.
    pub fn farewell(&self) -> Farewell {
        match self {
            Self::Events(_) => {
                // In the middle of an event, that becomes one of errors too: half of an event
                // is none.
                let start = if self.is_between() { "" } else { "\n" };
                Farewell::Data(
                    format!(
                        "{start}event: error\ndata: {{\"error\":{{\"message\":\"{WHY}\",\
                     \"type\":\"rolled_back\",\"code\":503}}}}\n\n"
                    )
                    .into_bytes(),
                )
            }
            Self::Grpc => {
                let mut trailers = HeaderMap::new();
                // UNAVAILABLE: clients may ask again.
                trailers.insert("grpc-status", HeaderValue::from_static("14"));
                trailers.insert("grpc-message", HeaderValue::from_static(WHY));
                Farewell::Trailers(trailers)
            }
            Self::WebSocket(frames) if frames.is_between() => Farewell::Data(close_frame()),
            Self::WebSocket(_) | Self::Other => Farewell::Cut,
        }
    }
}

/// 1012, "Service Restart" (IANA's registry of close codes): come again.
const CLOSE_CODE: u16 = 1012;

/// A final frame that closes, not masked, for a server sent it (RFC 6455, section 5).
fn close_frame() -> Vec<u8> {
    let mut frame = vec![0x88, (2 + WHY.len()) as u8];
    frame.extend(CLOSE_CODE.to_be_bytes());
    frame.extend(WHY.as_bytes());
    frame
}

/// Where in the frames of a WebSocket's server one is (RFC 6455, section 5.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// Of a frame, as far as it has come.
    head: Vec<u8>,
    /// Of its payload.
    left: u64,
}

impl Frames {
    fn is_between(&self) -> bool {
        self.head.is_empty() && self.left == 0
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let payload = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.left -= payload as u64;
            bytes = &bytes[payload..];
            let Some((first, rest)) = bytes.split_first() else { return };
            self.head.push(*first);
            bytes = rest;
            if let Some(length) = length_of(&self.head) {
                self.left = length;
                self.head.clear();
            }
        }
    }
}

/// The length of the payload, when the head of the frame is whole; with the mask, if a server
/// sends one all the same.
fn length_of(head: &[u8]) -> Option<u64> {
    let second = *head.get(1)?;
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let length = match second & 0x7f {
        126 => u64::from(u16::from_be_bytes(head.get(2..4)?.try_into().ok()?)),
        127 => u64::from_be_bytes(head.get(2..10)?.try_into().ok()?),
        short => u64::from(short),
    };
    Some(length.saturating_add(mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(upgrade: Option<&str>, fields: &[(&'static str, &str)], told: bool) -> Stream {
        let upgrade = upgrade.map(|text| HeaderValue::from_str(text).unwrap());
        Stream::of(upgrade.as_ref(), &Fields::of(fields), told)
    }

    #[test]
    fn streams_are_told_by_their_heads() {
        let events = ("content-type", "text/event-stream; charset=utf-8");
        assert_eq!(stream(None, &[events], false), Stream::Events(Vec::new()));
        assert_eq!(stream(None, &[events], true), Stream::Other);
        assert_eq!(
            stream(None, &[("content-type", "application/grpc+proto")], false),
            Stream::Grpc
        );
        assert_eq!(stream(None, &[("content-type", "application/json")], false), Stream::Other);
        let websocket = stream(Some("WebSocket"), &[], false);
        assert_eq!(websocket, Stream::WebSocket(Frames::default()));
        assert_eq!(stream(Some("other"), &[], false), Stream::Other);
    }

    #[test]
    fn an_event_ends_with_an_empty_line_however_it_comes() {
        for (pieces, between) in [
            (&[""][..], true),
            (&["data: 1\n\n"], true),
            (&["data: 1\r\n\r\n"], true),
            (&["data: 1\r\r"], true),
            (&["data: 1\n", "\n"], true),
            (&["d", "ata: 1\n\n", "data: 2"], false),
            (&["data: 1\n"], false),
            (&["data: 1\r\n"], false),
        ] {
            let mut events = Stream::Events(Vec::new());
            for piece in pieces {
                events.pass(piece.as_bytes());
            }
            assert_eq!(events.is_between(), between, "{pieces:?}");
            let Farewell::Data(last) = events.farewell() else { panic!("{pieces:?}") };
            let last = String::from_utf8(last).unwrap();
            assert_eq!(last.starts_with("event: error\ndata: {"), between, "{last}");
            assert!(last.ends_with("}\n\n"), "{last}");
        }
    }

    #[test]
    fn frames_are_counted_to_their_ends() {
        let long = [&[0x82, 127][..], &70_000u64.to_be_bytes(), &vec![7; 70_000]].concat();
        let middle = [&[0x82, 126][..], &300u16.to_be_bytes(), &[7; 300]].concat();
        let bytes = [&[0x81, 2, b'h', b'i'][..], &middle, &[0x89, 0], &long].concat();
        for step in [1, 2, 7, 1000, bytes.len()] {
            let mut frames = Frames::default();
            let mut ends = Vec::new();
            for (index, part) in bytes.chunks(step).enumerate() {
                frames.pass(part);
                if frames.is_between() {
                    ends.push(((index + 1) * step).min(bytes.len()));
                }
            }
            assert_eq!(ends.last(), Some(&bytes.len()), "{step}");
            if step == 1 {
                assert_eq!(ends, [4, 4 + 304, 4 + 304 + 2, bytes.len()]);
            }
        }
        let mut half = Stream::WebSocket(Frames::default());
        half.pass(&[0x81, 2, b'h']);
        assert_eq!(half.farewell(), Farewell::Cut);
        half.pass(b"i");
        let Farewell::Data(close) = half.farewell() else { panic!("no close frame") };
        assert_eq!(close[..4], [0x88, close.len() as u8 - 2, 0x03, 0xf4]);
        assert!(close.len() <= 127);
    }
}
