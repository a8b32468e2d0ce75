//! Field lines of HTTP/1.1, read and written (RFC 9112, section 5).
//!
//! Never corrects a field: one that is not well-formed makes its message malformed.

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::proxy::http1::Malformed;

/// Bytes of a head, and of trailers.
pub const HEAD_BYTES_MAX: usize = 64 << 10;

/// Fields of a head, and of trailers.
pub const FIELDS_MAX: usize = 128;

/// Fields that are added to a head on its way through: with room for them, it does not grow.
const FIELDS_ADDED: usize = 6;

/// Where a field lies in its head: places, not slices, for the head is taken out of its
/// buffer before its fields are taken out of it.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    name: (u32, u32),
    value: (u32, u32),
}

/// The places of what was parsed at the front of `input`.
pub fn places(input: &[u8], fields: &[httparse::Header<'_>]) -> Vec<Place> {
    let start = input.as_ptr() as usize;
    let span = |bytes: &[u8]| {
        let from = (bytes.as_ptr() as usize - start) as u32;
        (from, from + bytes.len() as u32)
    };
    let place = |field: &httparse::Header<'_>| Place {
        name: span(field.name.as_bytes()),
        value: span(field.value),
    };
    fields.iter().map(place).collect()
}

/// How often the fields are there that frame, address or direct a message: most messages
/// have none but one of them, and need not be asked for the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// `host`
    pub hosts: u8,
    /// `content-length`
    pub lengths: u8,
    /// `transfer-encoding`
    pub codings: u8,
    /// `connection`
    pub connections: u8,
    /// `upgrade`
    pub upgrades: u8,
    /// `expect`
    pub expectations: u8,
    /// `te`
    pub tes: u8,
}

impl Noted {
    fn note(&mut self, name: &HeaderName) {
        let count = match name.as_str() {
            "host" => &mut self.hosts,
            "content-length" => &mut self.lengths,
            "transfer-encoding" => &mut self.codings,
            "connection" => &mut self.connections,
            "upgrade" => &mut self.upgrades,
            "expect" => &mut self.expectations,
            "te" => &mut self.tes,
            _ => return,
        };
        *count = count.saturating_add(1);
    }
}

/// The fields at `places` of `head`, in their order.
pub fn read_into(
    headers: &mut HeaderMap,
    head: &Bytes,
    places: &[Place],
) -> Result<Noted, Malformed> {
    let mut noted = Noted::default();
    headers.reserve(places.len() + FIELDS_ADDED);
    for Place { name, value } in places {
        let range = |(from, to): (u32, u32)| from as usize..to as usize;
        let name = HeaderName::from_bytes(&head[range(*name)])
            .map_err(|_| Malformed("a field name that is none"))?;
        noted.note(&name);
        let value = HeaderValue::from_maybe_shared(head.slice(range(*value)))
            .map_err(|_| Malformed("a field value that is none"))?;
        headers.append(name, value);
    }
    Ok(noted)
}

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

/// The length that a head tells: digits alone; several must be equal.
pub fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut found = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let digits = value.as_bytes();
        let all_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let length = value.to_str().ok().filter(|_| all_digits).and_then(|text| text.parse().ok());
        let length: u64 = length.ok_or(Malformed("a length that is none"))?;
        if found.is_some_and(|other| other != length) {
            return Err(Malformed("two lengths"));
        }
        found = Some(length);
    }
    Ok(found)
}

/// A name that an endpoint behind CGI or WSGI takes for a field that frames or addresses
/// the message is not passed on.
pub fn check_names(headers: &HeaderMap) -> Result<(), Malformed> {
    const TAKEN: [&str; 2] = ["content_length", "transfer_encoding"];
    let mut names = headers.keys().map(HeaderName::as_str);
    let is_as_long = |name: &str| TAKEN.iter().any(|taken| taken.len() == name.len());
    let mixed = |name: &str| {
        is_as_long(name) && name.contains('_') && TAKEN.contains(&name.replace('-', "_").as_str())
    };
    if names.any(mixed) {
        return Err(Malformed("a field is named almost like one that frames the body"));
    }
    Ok(())
}

/// Whether the body is `chunked`, and by nothing else: `None` where no coding is named.
pub fn is_chunked(headers: &HeaderMap) -> Option<bool> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next()?.as_bytes();
    Some(codings.next().is_none() && coding.eq_ignore_ascii_case(b"chunked"))
}
