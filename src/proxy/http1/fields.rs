//! Field lines of HTTP/1.1, read and written (RFC 9112, section 5).
//!
//! Never corrects a field: one that is not well-formed makes its message malformed.

use bytes::BytesMut;
use http::{HeaderName, HeaderValue, Version};

use crate::proxy::http1::Malformed;
use crate::traffic::fields::{Fields, Known, digits};

/// Bytes of a head, and of trailers.
pub const HEAD_BYTES_MAX: usize = 64 << 10;

/// Fields of a head, and of trailers.
pub const FIELDS_MAX: usize = 128;

/// Writes one field line behind `output`.
pub fn encode_field(name: &HeaderName, value: &HeaderValue, output: &mut BytesMut) {
    output.reserve(name.as_str().len() + value.len() + 4);
    output.extend_from_slice(name.as_str().as_bytes());
    output.extend_from_slice(b": ");
    output.extend_from_slice(value.as_bytes());
    output.extend_from_slice(b"\r\n");
}

/// Whether a line ends without a carriage return: what one parser takes for the end of a
/// field another takes for a part of it.
pub fn has_bare_line_feed(head: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', head).any(|at| at == 0 || head[at - 1] != b'\r')
}

const NO_LENGTH: Malformed = Malformed("a length that is none");

/// The length that a head tells: digits alone; several must be equal.
pub fn content_length(fields: &Fields) -> Result<Option<u64>, Malformed> {
    let mut found = None;
    for text in fields.all(Known::ContentLength) {
        let length = digits(text).ok_or(NO_LENGTH)?;
        if found.is_some_and(|other| other != length) {
            return Err(Malformed("two lengths"));
        }
        found = Some(length);
    }
    Ok(found)
}

/// The length that a head tells, which it tells once and without zeros in front from here on:
/// of several that are equal, one goes on.
pub fn one_content_length(fields: &mut Fields) -> Result<Option<u64>, Malformed> {
    let has_zeros = |text: &[u8]| text.len() > 1 && text.starts_with(b"0");
    let mut all = fields.all(Known::ContentLength);
    // The usual ones first: this is asked of every message.
    let Some(first) = all.next() else { return Ok(None) };
    if all.next().is_none() && !has_zeros(first) {
        return digits(first).map(Some).ok_or(NO_LENGTH);
    }
    let length = content_length(fields)?;
    if let Some(length) = length {
        fields.insert_number(Known::ContentLength, length);
    }
    Ok(length)
}

/// A name that an endpoint behind CGI or WSGI takes for a field that frames or addresses
/// the message is not passed on.
pub fn check_names(fields: &Fields) -> Result<(), Malformed> {
    if fields.may_have(Known::LikeFraming.bit()) {
        return Err(Malformed("a field is named almost like one that frames the body"));
    }
    Ok(())
}

/// Whether the body is `chunked`, and by nothing else: `None` where no coding is named.
pub fn is_chunked(fields: &Fields) -> Option<bool> {
    let mut codings = fields.all(Known::TransferEncoding);
    let coding = codings.next()?;
    Some(codings.next().is_none() && coding.eq_ignore_ascii_case(b"chunked"))
}

/// The comma-separated words of the field `name`.
pub fn words(fields: &Fields, name: Known) -> impl Iterator<Item = &[u8]> {
    let values = fields.all(name);
    values.flat_map(|value| value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii))
}

/// Whether the sender of a message lets its connection be used again (RFC 9112, section 9.3).
pub fn keeps_alive(fields: &Fields, version: Version) -> bool {
    let says =
        |word: &[u8]| words(fields, Known::Connection).any(|one| one.eq_ignore_ascii_case(word));
    // What is no text may have been meant to say something else.
    let is_text = |value: &[u8]| value.iter().all(|b| *b == b'\t' || (b' '..=b'~').contains(b));
    let asks_to_keep = || says(b"keep-alive") && fields.all(Known::Connection).all(is_text);
    !says(b"close") && (version == Version::HTTP_11 || asks_to_keep())
}
