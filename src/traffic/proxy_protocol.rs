//! The PROXY protocol's header, versions 1 and 2: who is behind a proxy that passes on
//! bytes and not requests.
//!
//! Never takes what is in doubt, and never looks at a byte after the header. Written after
//! HAProxy's `proxy-protocol.txt`, sections 2.1 and 2.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of a header of version 1, with its line end.
pub const V1_BYTES_MAX: usize = 107;

/// Bytes of a header of version 2. The addresses are 52 of them at the most; the rest is
/// for what the proxy adds, of which nothing is used.
pub const V2_BYTES_MAX: usize = 4096;

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Up to and with the length of what follows.
const V2_FIXED: usize = 16;

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who is behind the proxy; `None` when it speaks for itself, or does not know.
    pub source: Option<IpAddr>,
    /// Bytes that the header takes.
    pub len: usize,
}

/// Not a header, or not one for a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

/// Reads the header at the start of `bytes`. `None`: all of `bytes` belongs to a header that
/// may still become one.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let begins = |start: &[u8]| {
        let len = bytes.len().min(start.len());
        bytes[..len] == start[..len]
    };
    if begins(V2_START) {
        return v2(bytes);
    }
    if begins(V1_START) {
        return v1(bytes);
    }
    Err(Malformed("there is no PROXY header"))
}

fn v1(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let line = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = line.iter().position(|b| *b == b'\n') else {
        let visible = |b: &u8| b.is_ascii_graphic() || *b == b' ';
        let text = line.strip_suffix(b"\r").unwrap_or(line);
        let may_end = line.len() < V1_BYTES_MAX && text.iter().all(visible);
        return if may_end { Ok(None) } else { Err(Malformed("the PROXY line has no end")) };
    };
    let text = line[..end].strip_suffix(b"\r").and_then(|text| std::str::from_utf8(text).ok());
    let text = text.filter(|text| text.bytes().all(|b| b.is_ascii_graphic() || b == b' '));
    let text = text.ok_or(Malformed("the PROXY line is not one of text"))?;
    let words: Vec<_> = text.split(' ').skip(1).collect();
    let source = match words.as_slice() {
        // What follows is to be ignored.
        ["UNKNOWN", ..] => None,
        ["TCP4", source, target, from, to] => {
            address::<Ipv4Addr>(source, target, from, to)?.map(IpAddr::V4)
        }
        ["TCP6", source, target, from, to] => {
            address::<Ipv6Addr>(source, target, from, to)?.map(IpAddr::V6)
        }
        _ => return Err(Malformed("the PROXY line is not one of TCP")),
    };
    Ok(Some(Header { source, len: end + 1 }))
}

fn address<T: std::str::FromStr>(
    source: &str,
    target: &str,
    from: &str,
    to: &str,
) -> Result<Option<T>, Malformed> {
    let port = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        digits && (text == "0" || !text.starts_with('0')) && text.parse::<u16>().is_ok()
    };
    match (source.parse(), target.parse::<T>()) {
        (Ok(source), Ok(_)) if port(from) && port(to) => Ok(Some(source)),
        _ => Err(Malformed("the PROXY line has no proper addresses")),
    }
}

fn v2(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some(fixed) = bytes.first_chunk::<V2_FIXED>() else { return Ok(None) };
    let [.., command, family, high, low] = *fixed;
    let len = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
    if len > V2_BYTES_MAX {
        return Err(Malformed("the PROXY header is too large"));
    }
    // Told before the rest has come, so that nobody waits for what will be refused.
    let speaks_for_itself = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed("the PROXY header is of an unknown version or command")),
    };
    let addresses = match family {
        0x11 => 12,
        0x21 => 36,
        // Sockets of the proxy's own machine.
        0x31 => 216,
        // Whoever speaks for itself may leave out what it is.
        0x00 => 0,
        _ if speaks_for_itself => 0,
        _ => return Err(Malformed("the PROXY header is not one of TCP")),
    };
    if !speaks_for_itself && len - V2_FIXED < addresses {
        return Err(Malformed("the PROXY header is too short for its addresses"));
    }
    let Some(block) = bytes.get(V2_FIXED..len) else { return Ok(None) };
    if speaks_for_itself {
        return Ok(Some(Header { source: None, len }));
    }
    // Of an unknown kind, all of the block is to be skipped.
    if family != 0x00 && !are_extras(&block[addresses..]) {
        return Err(Malformed("the PROXY header does not end where it says"));
    }
    let source = match (family, block) {
        (0x11, block) => block.first_chunk::<4>().map(|octets| IpAddr::V4((*octets).into())),
        (0x21, block) => block.first_chunk::<16>().map(|octets| IpAddr::V6((*octets).into())),
        _ => None,
    };
    Ok(Some(Header { source, len }))
}

/// Whether `rest` is a row of type, length and value.
fn are_extras(mut rest: &[u8]) -> bool {
    while let [_, high, low, value @ ..] = rest {
        match value.get(usize::from(u16::from_be_bytes([*high, *low]))..) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests;
