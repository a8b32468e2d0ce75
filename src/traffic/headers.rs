//! What happens to a message's fields on the way through.
//!
//! Never looks fields up one by one to remove them: one pass over the names tells
//! which are there, for most messages have none of them.

use http::HeaderMap;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};

/// Where the request came from, as told to the endpoint.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `http` or `https`, as the client spoke.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The host that the client asked for.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Who the client is, by its verified certificate.
pub const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// What RFC 7239 has in the place of the `x-forwarded-*` fields. Serin passes it on.
pub const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
/// Names a request over all its hops.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C trace context, level 1.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Longer request ids are replaced: they end up in every log line.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// What [`strip_hop_by_hop`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stripped {
    /// The sender said `te: trailers`.
    pub te_trailers: bool,
}

/// Removes the fields that are meant for this hop alone: those of RFC 9110, section 7.6.1,
/// and all that `connection` nominates. Fields that frame or address the message are kept
/// even when they are nominated: without them it would be another message. Whoever says
/// [`X_FORWARDED_CLIENT_CERT`] to us is not believed, so that goes too, and so does what is only
/// spelled like a field that tells where a request comes from.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) -> Stripped {
    let mut stripped = Stripped::default();
    let mut there = [false; HOP_BY_HOP.len()];
    let mut any = false;
    let mut forged = Vec::new();
    for name in headers.keys() {
        if let Some(index) = hop_by_hop(name.as_str()) {
            there[index] = true;
            any = true;
        } else if is_forged(name) {
            forged.push(name.clone());
        }
    }
    for name in forged {
        headers.remove(name);
    }
    if !any {
        return stripped;
    }
    stripped.te_trailers = headers
        .get_all(TE)
        .iter()
        .any(|value| tokens(value).any(|token| token.eq_ignore_ascii_case(b"trailers")));
    for name in nominated(headers) {
        headers.remove(name);
    }
    for (name, _) in HOP_BY_HOP.iter().zip(there).filter(|(_, there)| *there) {
        headers.remove(name);
    }
    stripped
}

/// Removes from a request's trailers what an endpoint that joins them to the head would take
/// for the proxy's word.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    let ours = [
        X_FORWARDED_CLIENT_CERT,
        X_FORWARDED_FOR,
        X_FORWARDED_PROTO,
        X_FORWARDED_HOST,
        FORWARDED,
        X_REQUEST_ID,
    ];
    let is_ours = |name: &&HeaderName| ours.iter().any(|one| reads_as(name, one));
    let forged: Vec<_> = trailers.keys().filter(is_ours).cloned().collect();
    for name in forged {
        trailers.remove(name);
    }
}

/// Whether a field could be taken for Serin's word, and is not: told apart by its length, for
/// all fields of all messages are asked.
fn is_forged(name: &HeaderName) -> bool {
    let other = match name.as_str().len() {
        15 => &X_FORWARDED_FOR,
        16 => &X_FORWARDED_HOST,
        17 => &X_FORWARDED_PROTO,
        23 => return reads_as(name, &X_FORWARDED_CLIENT_CERT),
        _ => return false,
    };
    name != other && reads_as(name, other)
}

/// Whether an endpoint may take `name` for `other`: to CGI and its heirs `_` is `-`.
fn reads_as(name: &HeaderName, other: &HeaderName) -> bool {
    let (name, other) = (name.as_str().as_bytes(), other.as_str().as_bytes());
    name.len() == other.len()
        && name.iter().zip(other).all(|(a, b)| a == b || (*a == b'_' && *b == b'-'))
}

/// Where `name` stands in [`HOP_BY_HOP`]: its length tells most names apart from all of them.
fn hop_by_hop(name: &str) -> Option<usize> {
    Some(match name {
        "connection" => 0,
        "keep-alive" => 1,
        "te" => 2,
        "transfer-encoding" => 3,
        "upgrade" => 4,
        "proxy-connection" => 5,
        "expect" => 6,
        _ => return None,
    })
}

static HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    KEEP_ALIVE,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    PROXY_CONNECTION,
    // Serin answers 100-continue itself, when it starts to read the body.
    EXPECT,
];

/// Whether a `host` or an authority names a host with or without a port, or nothing: no
/// user information, no list (RFC 9110, sections 4.2.4 and 7.2).
pub fn is_host(bytes: &[u8]) -> bool {
    let name_byte = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%')
    };
    let (name, port) = if let Some(rest) = bytes.strip_prefix(b"[") {
        let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
        let address_byte = |b: &u8| b.is_ascii_hexdigit() || matches!(b, b':' | b'.');
        if end == 0 || !rest[..end].iter().all(address_byte) {
            return false;
        }
        (&b""[..], &rest[end + 1..])
    } else {
        let end = bytes.iter().position(|byte| *byte == b':').unwrap_or(bytes.len());
        bytes.split_at(end)
    };
    let port_fits = match port.strip_prefix(b":") {
        // Of a name or of an address: `:80` alone is no host.
        Some(port) => port.len() <= 5 && port.iter().all(u8::is_ascii_digit) && bytes[0] != b':',
        None => port.is_empty(),
    };
    name.iter().all(name_byte) && port_fits
}

/// The fields that `connection` names and that may be removed.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    const FRAMING: [HeaderName; 3] = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING];
    let values = headers.get_all(CONNECTION).iter();
    let names = values.flat_map(tokens).filter_map(|token| HeaderName::from_bytes(token).ok());
    names.filter(|name| !FRAMING.contains(name)).collect()
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Appends `value` to the list in the field `name`.
pub fn append_to_list(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue) {
    if !headers.contains_key(&name) {
        headers.insert(name, value.clone());
        return;
    }
    let mut list = Vec::new();
    for line in headers.get_all(&name) {
        list.extend_from_slice(line.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(value.as_bytes());
    // Joined field values are a field value.
    if let Ok(joined) = HeaderValue::from_bytes(&list) {
        headers.insert(name, joined);
    }
}

/// Whether a client's `x-request-id` is kept.
pub fn keeps_request_id(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

/// A request id of 128 random bits, in the form of a UUID version 4 (RFC 9562).
pub fn request_id(high: u64, low: u64) -> HeaderValue {
    let high = (high & !0xf000) | 0x4000;
    let low = (low & !(0b11 << 62)) | (0b10 << 62);
    let (high, low) = (hex_digits(high), hex_digits(low));
    let mut text = [b'-'; 36];
    text[..8].copy_from_slice(&high[..8]);
    text[9..13].copy_from_slice(&high[8..12]);
    text[14..18].copy_from_slice(&high[12..]);
    text[19..23].copy_from_slice(&low[..4]);
    text[24..].copy_from_slice(&low[4..]);
    header_value(&text)
}

/// Whether a client's `traceparent` is kept: version, trace id, parent id and flags in
/// lower-case hexadecimal digits, ids not all zero (W3C Trace Context, section 3.2).
pub fn keeps_traceparent(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    let hex = |range: std::ops::Range<usize>| {
        bytes[range].iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |range: std::ops::Range<usize>| bytes[range].iter().all(|b| *b == b'0');
    bytes.len() >= 55
        && [2, 35, 52].iter().all(|dash| bytes[*dash] == b'-')
        && hex(0..2) && hex(3..35) && hex(36..52) && hex(53..55)
        && !zero(3..35) && !zero(36..52)
        && &bytes[..2] != b"ff"
        // Version 00 ends here; a later one may go on after a dash.
        && (bytes.len() == 55 || (&bytes[..2] != b"00" && bytes[55] == b'-'))
}

/// A `traceparent` of 128 + 64 random bits, not sampled.
pub fn traceparent(high: u64, low: u64, parent: u64) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    text[3..19].copy_from_slice(&hex_digits(high));
    // All zero is no id.
    text[19..35].copy_from_slice(&hex_digits(low | 1));
    text[36..52].copy_from_slice(&hex_digits(parent | 1));
    header_value(&text)
}

/// The hexadecimal digits of `number`, the highest first.
fn hex_digits(number: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; 16];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0xf)];
    }
    digits
}

fn header_value(ascii: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(ascii).expect("digits and dashes are a field value")
}

#[cfg(test)]
mod tests;
