//! What happens to a message's fields on the way through.
//!
//! Never looks fields up one by one to remove them: one pass over the names tells
//! which are there, for most messages have none of them.

use http::{HeaderMap, HeaderName};

use crate::traffic::fields::{Fields, Known};

/// Longer request ids are replaced: they end up in every log line.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// What [`strip_hop_by_hop`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stripped {
    /// The sender said `te: trailers`.
    pub te_trailers: bool,
}

/// Fields of this hop alone (RFC 9110, section 7.6.1).
const HOP_BY_HOP: u64 = Known::set(&[
    Known::Connection,
    Known::KeepAlive,
    Known::Te,
    Known::TransferEncoding,
    Known::Upgrade,
    Known::ProxyConnection,
    // Serin answers 100-continue itself, when it starts to read the body.
    Known::Expect,
]);

/// What could be taken for Serin's word on who a client is, and is not.
pub const FORGED: u64 = Known::set(&[Known::XForwardedClientCert, Known::LikeForwarded]);

/// Removes the fields that are meant for this hop alone: those of RFC 9110, section 7.6.1,
/// and all that `connection` nominates. Fields that frame or address the message are kept
/// even when they are nominated: without them it would be another message. Whoever says
/// `x-forwarded-client-cert` to us is not believed, so that goes too, and so does what is only
/// spelled like a field that tells where a request comes from.
pub fn strip_hop_by_hop(fields: &mut Fields) -> Stripped {
    let mut stripped = Stripped::default();
    if !fields.may_have(HOP_BY_HOP | FORGED) {
        return stripped;
    }
    stripped.te_trailers = fields
        .all(Known::Te)
        .any(|value| tokens(value).any(|token| token.eq_ignore_ascii_case(b"trailers")));
    let nominated = nominated(fields);
    if !nominated.others.is_empty() {
        let others = &nominated.others;
        fields.remove_where(|name| others.binary_search_by(|one| one.as_str().cmp(name)).is_ok());
    }
    fields.remove_all(HOP_BY_HOP | FORGED | nominated.known);
    stripped
}

/// Removes from a request's trailers what an endpoint that joins them to the head would take
/// for the proxy's word.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    const OURS: [Known; 6] = [
        Known::XForwardedClientCert,
        Known::XForwardedFor,
        Known::XForwardedProto,
        Known::XForwardedHost,
        Known::Forwarded,
        Known::XRequestId,
    ];
    let is_ours = |name: &&HeaderName| OURS.iter().any(|one| one.reads_as(name.as_str()));
    let forged: Vec<_> = trailers.keys().filter(is_ours).cloned().collect();
    for name in forged {
        trailers.remove(name);
    }
}

/// Whether a `host` or an authority names a host with or without a port, or nothing: no
/// user information, no list (RFC 9110, sections 4.2.4 and 7.2).
pub fn is_host(bytes: &[u8]) -> bool {
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
    name.iter().all(|byte| IS_OF_HOST[usize::from(*byte)]) && port_fits
}

/// Whether a byte may be in the name of a host.
const IS_OF_HOST: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 0x80 {
        let sign = matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%');
        table[byte as usize] = byte.is_ascii_alphanumeric() || sign;
        byte += 1;
    }
    table
};

/// Fields that `connection` names and that may be removed.
#[derive(Debug, Default)]
struct Nominated {
    /// Those of a known name, as bits of [`Known::bit`].
    known: u64,
    /// The names of others that are there, each once and in their order.
    others: Vec<String>,
}

/// What `connection` names: its tokens, of which there may be tens of thousands, are looked up
/// among the fields, which are few, and not the other way round.
fn nominated(fields: &Fields) -> Nominated {
    const FRAMING: u64 = Known::set(&[Known::Host, Known::ContentLength, Known::TransferEncoding]);
    let tokens = || fields.all(Known::Connection).flat_map(tokens);
    let (mut known, mut has_others) = (0, false);
    for token in tokens() {
        match known_token(token) {
            Some(one) => known |= one.bit(),
            None => has_others = true,
        }
    }
    let mut nominated = Nominated { known: known & !FRAMING, others: Vec::new() };
    if has_others {
        let may_go = |name: &&str| Known::of(name.as_bytes()).bit() & FRAMING == 0;
        let mut names: Vec<_> = fields.iter().map(|(name, _)| name).filter(may_go).collect();
        names.sort_unstable();
        names.dedup();
        let mut is_named = vec![false; names.len()];
        for token in tokens() {
            let lower = || token.iter().map(u8::to_ascii_lowercase);
            if let Ok(at) = names.binary_search_by(|name| name.bytes().cmp(lower())) {
                is_named[at] = true;
            }
        }
        let there = names.iter().zip(is_named).filter(|(_, is_named)| *is_named);
        nominated.others = there.map(|(name, _)| (*name).to_owned()).collect();
    }
    nominated
}

/// The known name that `token` is, in whatever case.
fn known_token(token: &[u8]) -> Option<Known> {
    let mut lower = [0; 32];
    let lower = lower.get_mut(..token.len())?;
    lower.copy_from_slice(token);
    lower.make_ascii_lowercase();
    Some(Known::of(lower)).filter(|known| known.is_one_name())
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Whether a client's `x-request-id` is kept.
pub fn keeps_request_id(bytes: &[u8]) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

/// A request id of 128 random bits, in the form of a UUID version 4 (RFC 9562).
pub fn request_id(high: u64, low: u64) -> [u8; 36] {
    let high = (high & !0xf000) | 0x4000;
    let low = (low & !(0b11 << 62)) | (0b10 << 62);
    let (high, low) = (hex_digits(high), hex_digits(low));
    let mut text = [b'-'; 36];
    text[..8].copy_from_slice(&high[..8]);
    text[9..13].copy_from_slice(&high[8..12]);
    text[14..18].copy_from_slice(&high[12..]);
    text[19..23].copy_from_slice(&low[..4]);
    text[24..].copy_from_slice(&low[4..]);
    text
}

/// Whether a client's `traceparent` is kept: version, trace id, parent id and flags in
/// lower-case hexadecimal digits, ids not all zero (W3C Trace Context, section 3.2).
pub fn keeps_traceparent(bytes: &[u8]) -> bool {
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
pub fn traceparent(high: u64, low: u64, parent: u64) -> [u8; 55] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    text[3..19].copy_from_slice(&hex_digits(high));
    // All zero is no id.
    text[19..35].copy_from_slice(&hex_digits(low | 1));
    text[36..52].copy_from_slice(&hex_digits(parent | 1));
    text
}

/// The hexadecimal digits of `number`, the highest first.
fn hex_digits(number: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    digits[..8].copy_from_slice(&eight_hex_digits((number >> 32) as u32));
    digits[8..].copy_from_slice(&eight_hex_digits(number as u32));
    digits
}

/// All digits at once, each in a byte of one word.
fn eight_hex_digits(number: u32) -> [u8; 8] {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let word = u64::from(number);
    let word = (word | word << 16) & 0x0000_ffff_0000_ffff;
    let word = (word | word << 8) & 0x00ff_00ff_00ff_00ff;
    let word = (word | word << 4) & (0x0f * EACH);
    // Six more than nine is the first number with a fifth bit.
    let is_letter = ((word + 6 * EACH) >> 4) & EACH;
    let letter_after = u64::from(b'a' - b'0' - 10);
    (word + u64::from(b'0') * EACH + is_letter * letter_after).to_be_bytes()
}

#[cfg(test)]
mod tests;
