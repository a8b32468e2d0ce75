//! Heads of HTTP/1.1 messages: a request's written, a response's read and its framing told.
//!
//! Never touches a connection, and takes no head whose framing is in doubt.

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::{Method, StatusCode, Version};

use crate::proxy::http1::fields::{
    FIELDS_MAX, HEAD_BYTES_MAX, is_chunked, keeps_alive, one_content_length,
};
use crate::proxy::upstream::fault::Fault;
use crate::traffic::fields::{Fields, Places};
use crate::traffic::message::{RequestHead, ResponseHead};

/// How the end of a response's body is told (RFC 9112, section 6.3).
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
}

/// Room for a usual head, so that the buffer does not grow field by field.
const HEAD_BYTES_USUAL: usize = 1 << 10;

/// Writes a request's head, in origin form, behind `output`.
pub fn encode_head(head: &RequestHead, output: &mut BytesMut) {
    output.reserve(HEAD_BYTES_USUAL);
    let target = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    output.extend_from_slice(head.method.as_str().as_bytes());
    output.extend_from_slice(b" ");
    output.extend_from_slice(target.as_bytes());
    output.extend_from_slice(b" HTTP/1.1\r\n");
    head.fields.encode(output);
    output.extend_from_slice(b"\r\n");
}

/// One response head from the front of `input`; `None` when it is not whole yet.
pub fn decode_head(input: &mut BytesMut) -> Result<Option<Box<ResponseHead>>, Fault> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut parsed, input, &mut fields) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(Fault::NotHttp(error)),
    };
    if length > HEAD_BYTES_MAX {
        return Err(Fault::Malformed("a head that is too large"));
    }
    // Statuses have five classes (RFC 9110, section 15).
    let status = parsed.code.filter(|code| *code < 600);
    let status = status.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Fault::Malformed("a status that is none"))?;
    let version = match parsed.version {
        Some(1) => Version::HTTP_11,
        _ => Version::HTTP_10,
    };
    let fields = parsed.headers.iter().map(|field| (field.name.as_bytes(), field.value));
    let places = Places::of(input, fields);
    let head = input.split_to(length);
    if places.have_bare_line_feed(&head) {
        return Err(Fault::Malformed("a line that ends without CR"));
    }
    let fields = Fields::read(head, places);
    Ok(Some(Box::new(ResponseHead { status, version, fields, upgrade: None })))
}

/// How the body of a response is framed, and whether the connection may be used again
/// (RFC 9112, sections 6.3 and 9.3). Fields that would frame it twice are a fault.
pub fn response_framing(
    method: &Method,
    head: &mut ResponseHead,
) -> Result<(Framing, bool), Fault> {
    let keep_alive = keeps_alive(&head.fields, head.version);
    let length = one_content_length(&mut head.fields)?;
    let no_body = *method == Method::HEAD
        || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if no_body {
        return Ok((Framing::Ended, keep_alive));
    }
    match (is_chunked(&head.fields), length) {
        (Some(_), Some(_)) => Err(Fault::Malformed("both a length and a transfer coding")),
        (Some(true), None) if head.version == Version::HTTP_11 => {
            Ok((Framing::Chunked, keep_alive))
        }
        (Some(_), None) => Err(Fault::Malformed("a transfer coding that is not `chunked` alone")),
        (None, Some(0)) => Ok((Framing::Ended, keep_alive)),
        (None, Some(length)) => Ok((Framing::Length(length), keep_alive)),
        (None, None) => Ok((Framing::UntilClose, false)),
    }
}
