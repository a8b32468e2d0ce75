//! Heads of requests in HTTP/1.1, read strictly (RFC 9112, sections 2 to 6).
//!
//! Never corrects what a client sent: where two readers could see two messages, or one
//! could see another target, there is no request at all.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, StatusCode, Uri, Version};

use crate::proxy::error::Error;
use crate::proxy::forward::check_expectations;
use crate::proxy::http1::fields::{
    FIELDS_MAX, HEAD_BYTES_MAX, check_names, content_length, is_chunked, keeps_alive, words,
};
use crate::traffic::fields::{Fields, Known, Places};
use crate::traffic::headers::is_host;
use crate::traffic::message::{RequestHead, Upgrade};

/// Bytes of a request's target.
pub const TARGET_BYTES_MAX: usize = 16 << 10;

/// Bytes of a method: the longest registered one has 17.
pub const METHOD_BYTES_MAX: usize = 32;

/// Empty lines that are read over before a request: some clients send one too many after
/// a body (RFC 9112, section 2.2).
const EMPTY_LINES_MAX: usize = 4;

/// A request's head, and what it says of its message and its connection.
#[derive(Debug)]
pub struct Head {
    /// Its target in origin, absolute or asterisk form, as it came.
    pub request: Box<RequestHead>,
    /// How its body ends.
    pub framing: Framing,
    /// The client lets the connection be used again.
    pub keep_alive: bool,
    /// The client waits for a word before it sends its body.
    pub expects_continue: bool,
    /// The client reads trailers.
    pub takes_trailers: bool,
}

/// How the end of a request's body is told (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Ended,
    /// So many bytes, at least one.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// What of a head was parsed.
struct Parsed {
    bytes: usize,
    method: Method,
    target: (usize, usize),
    version: Version,
    places: Places,
}

/// Empty lines that were read over while a head is waited for, however they arrive.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmptyLines(usize);

impl EmptyLines {
    fn skip(&mut self, input: &mut BytesMut) -> Result<(), Error> {
        while input.starts_with(b"\r\n") {
            if self.0 == EMPTY_LINES_MAX {
                return Err(Error::BadRequest("there are only empty lines"));
            }
            self.0 += 1;
            input.advance(2);
        }
        Ok(())
    }
}

/// One head from the front of `input`; `None` when it is not whole yet. `empty` are the lines
/// that were read over before it: none again behind a head.
pub fn decode(input: &mut BytesMut, empty: &mut EmptyLines) -> Result<Option<Head>, Error> {
    empty.skip(input)?;
    let Some(Parsed { bytes, method, target, version, places }) = parse(input)? else {
        return check_size(input).map(|()| None);
    };
    check_size(&input[..bytes])?;
    *empty = EmptyLines::default();
    let head = input.split_to(bytes);
    if places.have_bare_line_feed(&head) {
        return Err(Error::BadRequest("a line of the head ends without CR"));
    }
    let mut fields = Fields::read(head, places);
    check_host(&mut fields, version)?;
    let (path, authority) = read_target(fields.came().slice(target.0..target.1), &method)?;
    if let Some(authority) = authority {
        // It outranks the field (RFC 9112, section 3.2.2).
        fields.insert(Known::Host, authority.as_str());
    }
    let framing = read_framing(&mut fields, version)?;
    let keep_alive = keeps_alive(&fields, version);
    let expects_continue = expects_continue(&fields, version, framing)?;
    let takes_trailers = version == Version::HTTP_11 && takes_trailers(&fields);
    let upgrade = wants_upgrade(&fields, version, framing);
    let request = RequestHead { method, uri: Uri::from(path), version, fields, upgrade };
    let request = Box::new(request);
    Ok(Some(Head { request, framing, keep_alive, expects_continue, takes_trailers }))
}

/// Whether a head, or as much of it as is there, is within the limits.
pub fn check_size(head: &[u8]) -> Result<(), Error> {
    // As much as the request line may have, with a method and a version.
    const LINE_BYTES_MAX: usize = TARGET_BYTES_MAX + METHOD_BYTES_MAX + 16;
    let line = memchr::memchr(b'\n', &head[..head.len().min(LINE_BYTES_MAX)]);
    if line.is_none() && head.len() >= LINE_BYTES_MAX {
        return Err(Error::Refused(StatusCode::URI_TOO_LONG, "the target is too long"));
    }
    if head.len() >= HEAD_BYTES_MAX {
        return Err(too_large());
    }
    Ok(())
}

const fn too_large() -> Error {
    Error::Refused(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is too large")
}

fn parse(input: &mut BytesMut) -> Result<Option<Parsed>, Error> {
    match try_parse(input) {
        // A later version of HTTP/1 is read as the latest that is known (RFC 9110, section
        // 2.5).
        Err(httparse::Error::Version) if name_known_version(input) => try_parse(input),
        parsed => parsed,
    }
    .map_err(|error| match error {
        httparse::Error::TooManyHeaders => too_large(),
        httparse::Error::HeaderName => Error::BadRequest("a field name is not well-formed"),
        httparse::Error::HeaderValue => Error::BadRequest("a field value is not well-formed"),
        httparse::Error::NewLine => Error::BadRequest("a line does not end as it should"),
        httparse::Error::Status | httparse::Error::Token => {
            Error::BadRequest("the request line is not well-formed")
        }
        httparse::Error::Version => Error::BadRequest("the version is not HTTP/1.0 or HTTP/1.1"),
    })
    .and_then(|parsed| match parsed {
        Some(parsed) if parsed.method.as_str().len() > METHOD_BYTES_MAX => {
            Err(Error::Refused(StatusCode::NOT_IMPLEMENTED, "there is no such method"))
        }
        parsed => Ok(parsed),
    })
}

fn try_parse(input: &[u8]) -> Result<Option<Parsed>, httparse::Error> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let config = httparse::ParserConfig::default();
    let httparse::Status::Complete(bytes) =
        config.parse_request_with_uninit_headers(&mut parsed, input, &mut fields)?
    else {
        return Ok(None);
    };
    let method = parsed.method.unwrap_or_default().as_bytes();
    let path = parsed.path.unwrap_or_default();
    let fields = parsed.headers.iter().map(|field| (field.name.as_bytes(), field.value));
    let start = path.as_ptr() as usize - input.as_ptr() as usize;
    Ok(Some(Parsed {
        bytes,
        method: Method::from_bytes(method).map_err(|_| httparse::Error::Token)?,
        target: (start, start + path.len()),
        version: if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 },
        places: Places::of(input, fields),
    }))
}

/// Writes the latest known version over `HTTP/1.2` to `HTTP/1.9`; whether there was one.
fn name_known_version(input: &mut [u8]) -> bool {
    let end = memchr::memchr(b'\r', input).unwrap_or(input.len());
    match input[..end].last_chunk::<9>() {
        Some([b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9']) => {
            input[end - 1] = b'1';
            true
        }
        _ => false,
    }
}

/// One host; none or an empty one where HTTP/1.0 has none (RFC 9112, section 3.2).
fn check_host(fields: &mut Fields, version: Version) -> Result<(), Error> {
    let mut hosts = fields.all(Known::Host);
    let host = hosts.next();
    match (host, hosts.next()) {
        (None, _) if version >= Version::HTTP_11 => {
            Err(Error::BadRequest("the request names no host"))
        }
        (None, _) => {
            // An HTTP/1.1 endpoint must be told one, if only that there is none.
            fields.insert(Known::Host, "");
            Ok(())
        }
        (Some(host), None) if is_host(host) => Ok(()),
        (Some(_), None) => Err(Error::BadRequest("the host is not well-formed")),
        (Some(_), Some(_)) => Err(Error::BadRequest("the request names more than one host")),
    }
}

/// The target as a path or `*`, and the host if the target names one, in one of the forms
/// that its method allows (RFC 9112, section 3.2).
fn read_target(target: Bytes, method: &Method) -> Result<(PathAndQuery, Option<Authority>), Error> {
    const MALFORMED: Error = Error::BadRequest("the target is not well-formed");
    if target.len() > TARGET_BYTES_MAX {
        return Err(Error::Refused(StatusCode::URI_TOO_LONG, "the target is too long"));
    }
    if *method == Method::CONNECT {
        return Err(Error::Connect);
    }
    // A fragment is no part of a target, and what is not ASCII has to be encoded.
    if target.iter().any(|byte| !(0x21..=0x7e).contains(byte) || *byte == b'#') {
        return Err(MALFORMED);
    }
    if target.starts_with(b"/") {
        let path = PathAndQuery::from_maybe_shared(target).map_err(|_| MALFORMED)?;
        return Ok((path, None));
    }
    let asterisk = PathAndQuery::from_static("*");
    if *target == *b"*" {
        return match *method {
            Method::OPTIONS => Ok((asterisk, None)),
            _ => Err(Error::BadRequest("only OPTIONS has the target `*`")),
        };
    }
    let behind_scheme = memchr::memmem::find(&target, b"://").map_or(0, |at| at + 3);
    let bare = memchr::memchr2(b'/', b'?', &target[behind_scheme..]).is_none();
    let uri = Uri::from_maybe_shared(target).map_err(|_| MALFORMED)?;
    let known = uri.scheme().is_some_and(|s| *s == Scheme::HTTP || *s == Scheme::HTTPS);
    let parts = uri.into_parts();
    match parts.authority {
        Some(authority) if known && is_host(authority.as_str().as_bytes()) => {
            let slash = PathAndQuery::from_static("/");
            let path = parts.path_and_query.unwrap_or(slash);
            // The server as a whole is asked (RFC 9112, section 3.2.4).
            let path = if bare && *method == Method::OPTIONS { asterisk } else { path };
            Ok((path, Some(authority)))
        }
        _ => Err(Error::BadRequest("the target is neither a path nor a URL of HTTP")),
    }
}

/// How the body is framed; makes the fields say it in one way.
fn read_framing(fields: &mut Fields, version: Version) -> Result<Framing, Error> {
    const FRAMING: u64 = Known::set(&[Known::ContentLength, Known::TransferEncoding]);
    check_names(fields).map_err(|malformed| Error::BadRequest(malformed.0))?;
    if !fields.may_have(FRAMING) {
        return Ok(Framing::Ended);
    }
    let length = content_length(fields).map_err(|malformed| Error::BadRequest(malformed.0))?;
    if fields.all(Known::ContentLength).nth(1).is_some() {
        return Err(Error::BadRequest("the length is told twice"));
    }
    match (is_chunked(fields), length) {
        (None, None) => Ok(Framing::Ended),
        (None, Some(length)) => {
            if fields.get(Known::ContentLength).is_some_and(|text| text.starts_with(b"0")) {
                // `007` goes on as `7`.
                fields.insert_number(Known::ContentLength, length);
            }
            Ok(if length == 0 { Framing::Ended } else { Framing::Length(length) })
        }
        (Some(_), Some(_)) => Err(Error::BadRequest("both a length and a transfer coding")),
        (Some(_), None) if version < Version::HTTP_11 => {
            Err(Error::BadRequest("HTTP/1.0 has no transfer coding"))
        }
        (Some(true), None) => {
            fields.insert(Known::TransferEncoding, "chunked");
            Ok(Framing::Chunked)
        }
        (Some(false), None) => Err(unknown_coding(fields)),
    }
}

/// 501 for a coding that ends in `chunked`, as another server may know it; 400 where the
/// end of the body cannot be told (RFC 9112, sections 6.1 and 6.3).
fn unknown_coding(fields: &Fields) -> Error {
    const KNOWN: [&str; 5] = ["gzip", "x-gzip", "deflate", "compress", "x-compress"];
    let known = |coding: &str| KNOWN.iter().any(|known| coding.eq_ignore_ascii_case(known));
    let mut codings = fields.all(Known::TransferEncoding);
    let text = codings.next().and_then(|value| std::str::from_utf8(value).ok());
    let text = text.unwrap_or_default();
    let mut list = text.split(',').map(|coding| coding.trim_matches([' ', '\t'])).rev();
    let chunked_last = list.next().is_some_and(|last| last.eq_ignore_ascii_case("chunked"));
    if codings.next().is_none() && chunked_last && list.all(known) {
        return Error::Refused(
            StatusCode::NOT_IMPLEMENTED,
            "no transfer coding but `chunked` is known here",
        );
    }
    Error::BadRequest("the transfer coding is not `chunked` alone")
}

fn takes_trailers(fields: &Fields) -> bool {
    words(fields, Known::Te).any(|word| word.eq_ignore_ascii_case(b"trailers"))
}

/// Whether to say 100 (RFC 9110, section 10.1.1).
fn expects_continue(fields: &Fields, version: Version, framing: Framing) -> Result<bool, Error> {
    if version < Version::HTTP_11 || !fields.contains(Known::Expect) {
        return Ok(false);
    }
    check_expectations(fields)?;
    Ok(framing != Framing::Ended)
}

/// The protocols that a request asks for instead of HTTP. HTTP/2 is none of them: behind it,
/// requests would pass that nobody looked at. Nor is anything asked for with a body, which
/// would leave open where the other protocol begins.
fn wants_upgrade(fields: &Fields, version: Version, framing: Framing) -> Option<Upgrade> {
    let mut upgrades = fields.all(Known::Upgrade);
    if upgrades.next().is_none() || upgrades.next().is_some() {
        return None;
    }
    let nominated =
        words(fields, Known::Connection).any(|one| one.eq_ignore_ascii_case(b"upgrade"));
    let http = words(fields, Known::Upgrade).any(|protocol| {
        let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
        name.is_empty()
            || name.eq_ignore_ascii_case(b"h2c")
            || name.eq_ignore_ascii_case(b"http")
            || name.eq_ignore_ascii_case(b"tls")
            || name.eq_ignore_ascii_case(b"h2")
    });
    let asked = version == Version::HTTP_11 && nominated && !http;
    (asked && framing == Framing::Ended)
        .then(|| fields.value(Known::Upgrade).map(Upgrade))
        .flatten()
}

#[cfg(test)]
mod tests;
