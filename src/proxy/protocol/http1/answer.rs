//! Heads of responses in HTTP/1.1, and how their bodies are framed (RFC 9112, section 6).
//!
//! Never frames a message twice: what an endpoint said of its own framing is gone by now.

use bytes::BytesMut;
use http::{Method, StatusCode, Version};

use crate::proxy::http1::fields::content_length;
use crate::traffic::fields::Known;
use crate::traffic::message::{ResponseHead, Upgrade};

/// What a request wants of the shape of its response.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "four wishes that do not hang together")]
pub struct Wants {
    /// The client understands chunks, interim responses, and other protocols.
    pub http11: bool,
    /// It was a HEAD.
    pub head_only: bool,
    /// The connection may be used again.
    pub keep_alive: bool,
    /// Trailers are read.
    pub trailers: bool,
}

impl Wants {
    /// Those of a request that could not be read.
    pub const NOTHING: Self =
        Self { http11: true, head_only: false, keep_alive: false, trailers: false };

    /// Those of a request with `method` and `version`.
    pub fn of(method: &Method, version: Version, keep_alive: bool, trailers: bool) -> Self {
        let http11 = version == Version::HTTP_11;
        Self { http11, head_only: *method == Method::HEAD, keep_alive, trailers }
    }
}

/// How the end of a response's body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Ended,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// Until the connection is closed.
    UntilClose,
    /// There is none: from here on it is another protocol.
    Tunnel,
}

/// Room for a usual head, so that the buffer does not grow field by field.
const HEAD_BYTES_USUAL: usize = 512;

/// How a response with `head` is framed; `ended` when its body is known to be empty.
pub fn framing(head: &ResponseHead, wants: Wants, ended: bool) -> Framing {
    match head.status {
        StatusCode::SWITCHING_PROTOCOLS => return Framing::Tunnel,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => return Framing::Ended,
        _ if wants.head_only => return Framing::Ended,
        _ => {}
    }
    match content_length(&head.fields) {
        Ok(Some(length)) => Framing::Length(length),
        Ok(None) | Err(_) if ended => Framing::Length(0),
        Ok(None) | Err(_) if wants.http11 => Framing::Chunked,
        Ok(None) | Err(_) => Framing::UntilClose,
    }
}

/// Writes a response's head behind `output`; `date` is for one that has none (RFC 9110,
/// section 6.6.1).
pub fn encode(
    head: &mut ResponseHead,
    framing: Framing,
    (wants, keep_alive): (Wants, bool),
    date: &[u8],
    output: &mut BytesMut,
) {
    output.reserve(HEAD_BYTES_USUAL);
    encode_status_line(head.status, output);
    if head.status == StatusCode::NO_CONTENT || framing == Framing::Tunnel {
        head.fields.remove(Known::ContentLength);
    }
    head.fields.encode(output);
    if !head.fields.contains(Known::Date) {
        output.extend_from_slice(b"date: ");
        output.extend_from_slice(date);
        output.extend_from_slice(b"\r\n");
    }
    match framing {
        Framing::Chunked => output.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::Length(0) if !head.fields.contains(Known::ContentLength) => {
            output.extend_from_slice(b"content-length: 0\r\n");
        }
        Framing::Tunnel => {
            if let Some(Upgrade(protocol)) = &head.upgrade {
                output.extend_from_slice(b"upgrade: ");
                output.extend_from_slice(protocol.as_bytes());
                output.extend_from_slice(b"\r\n");
            }
            output.extend_from_slice(b"connection: upgrade\r\n");
        }
        Framing::Ended | Framing::Length(_) | Framing::UntilClose => {}
    }
    if framing != Framing::Tunnel && !keep_alive {
        output.extend_from_slice(b"connection: close\r\n");
    } else if keep_alive && !wants.http11 {
        output.extend_from_slice(b"connection: keep-alive\r\n");
    }
    output.extend_from_slice(b"\r\n");
}

/// Writes an interim response behind `output`.
pub fn encode_interim(head: &ResponseHead, output: &mut BytesMut) {
    encode_status_line(head.status, output);
    head.fields.encode(output);
    output.extend_from_slice(b"\r\n");
}

fn encode_status_line(status: StatusCode, output: &mut BytesMut) {
    output.extend_from_slice(b"HTTP/1.1 ");
    output.extend_from_slice(status.as_str().as_bytes());
    output.extend_from_slice(b" ");
    output.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    output.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, fields: &[(&str, &str)], wants: Wants, ended: bool) -> (Framing, String) {
        let mut head = ResponseHead::new(StatusCode::from_u16(status).unwrap());
        for (name, value) in fields {
            let name: http::HeaderName = name.parse().unwrap();
            head.fields.append(&name, value);
        }
        let framing = framing(&head, wants, ended);
        let mut output = BytesMut::new();
        encode(&mut head, framing, (wants, wants.keep_alive), b"now", &mut output);
        (framing, String::from_utf8(output.to_vec()).unwrap())
    }

    #[test]
    fn each_client_is_told_the_end_in_a_way_that_it_knows() {
        let wants = |method: &str, http11| {
            let version = if http11 { Version::HTTP_11 } else { Version::HTTP_10 };
            Wants::of(&method.parse().unwrap(), version, true, false)
        };
        let length: &[_] = &[("content-length", "5")];
        for (status, fields, method, http11, ended, framing, fragment) in [
            (200, length, "GET", true, false, Framing::Length(5), "content-length: 5\r\n"),
            (200, length, "HEAD", true, true, Framing::Ended, "content-length: 5\r\n"),
            (200, &[], "GET", true, false, Framing::Chunked, "transfer-encoding: chunked\r\n"),
            (200, &[], "GET", false, false, Framing::UntilClose, "date: now\r\n"),
            (200, &[], "GET", true, true, Framing::Length(0), "content-length: 0\r\n"),
            (304, length, "GET", true, true, Framing::Ended, "content-length: 5\r\n"),
            (200, length, "GET", false, false, Framing::Length(5), "connection: keep-alive\r\n"),
        ] {
            let (got, text) = head(status, fields, wants(method, http11), ended);
            assert_eq!(got, framing, "{text}");
            assert!(text.contains(fragment), "{text}");
        }
        let (_, text) = head(204, length, wants("GET", true), true);
        assert!(!text.contains("content-length"), "{text}");
        let (_, text) = head(200, &[("date", "then")], wants("GET", true), true);
        assert!(text.contains("date: then") && !text.contains("now"), "{text}");
    }
}
