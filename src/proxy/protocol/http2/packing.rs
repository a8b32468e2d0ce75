//! Whether a block of fields that could not be read was packed wrongly, or had a field that
//! may not be.
//!
//! Never on the usual way: asked once, of the block that ends a connection.

/// Whether a name or a value that is spelled out has a byte that it may not have. The library
/// ends the connection for both faults with one code, but RFC 9113 names two (sections 4.3 and
/// 8.1.1).
pub fn has_bad_field(block: &[u8]) -> bool {
    let mut rest = block;
    while let [first, ..] = *rest {
        let prefix = match first {
            0x80.. => 7,
            0x40..0x80 => 6,
            0x20..0x40 => 5,
            _ => 4,
        };
        let Some(index) = take_number(&mut rest, prefix) else { return false };
        if prefix == 7 || prefix == 5 {
            continue;
        }
        let name = if index == 0 { take_text(&mut rest) } else { Some(None) };
        let value = take_text(&mut rest);
        let (Some(name), Some(value)) = (name, value) else { return false };
        let bad_name = name.is_some_and(|name| !is_name(name));
        let bad_value = value.is_some_and(|value| value.iter().any(|byte| !is_of_value(*byte)));
        if bad_name || bad_value {
            return true;
        }
    }
    false
}

/// A number (RFC 7541, section 5.1).
fn take_number(rest: &mut &[u8], prefix: u32) -> Option<usize> {
    let (first, mut more) = rest.split_first()?;
    let limit = (1 << prefix) - 1;
    let mut number = usize::from(*first) & limit;
    if number == limit {
        for shift in (0..28).step_by(7) {
            let (byte, behind) = more.split_first()?;
            more = behind;
            number += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                *rest = more;
                return Some(number);
            }
        }
        return None;
    }
    *rest = more;
    Some(number)
}

/// A text (RFC 7541, section 5.2); `Some(None)` is one in Huffman's code, which is not read.
#[expect(clippy::option_option, reason = "no text, one that cannot be read, one that can")]
fn take_text<'b>(rest: &mut &'b [u8]) -> Option<Option<&'b [u8]>> {
    let coded = rest.first()? & 0x80 != 0;
    let length = take_number(rest, 7)?;
    let (text, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some((!coded).then_some(text))
}

/// A token without capitals, or a pseudo-field that there is.
fn is_name(name: &[u8]) -> bool {
    let is_of_token =
        |byte: &u8| byte.is_ascii_digit() || byte.is_ascii_lowercase() || SIGNS.contains(byte);
    PSEUDO_FIELDS.contains(&name) || name.iter().all(is_of_token)
}

const SIGNS: &[u8] = b"!#$%&'*+-.^_`|~";

const PSEUDO_FIELDS: [&[u8]; 6] =
    [b":authority", b":method", b":path", b":protocol", b":scheme", b":status"];

fn is_of_value(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_field_is_told_from_bad_packing() {
        let literal = |name: &[u8], value: &[u8]| {
            let length = |text: &[u8]| u8::try_from(text.len()).unwrap();
            [&[0x40, length(name)][..], name, &[length(value)], value].concat()
        };
        for (block, bad) in [
            (literal(b"x-a", b"b"), false),
            (literal(b"X-a", b"b"), true),
            (literal(b"x a", b"b"), true),
            (literal(b":path", b"/"), false),
            (literal(b":test", b"b"), true),
            (literal(b"x", b"a\0b"), true),
            (literal(b"x", b"a\r\nb"), true),
            ([&[0x82, 0x20][..], &literal(b"X", b"y")].concat(), true),
            // A name of the table with a value of its own; a text in Huffman's code.
            (vec![0x44, 2, b'/', b'\n'], true),
            (vec![0x00, 0x81, 0xf3, 0x81, 0x07], false),
            // What cannot be followed is bad packing.
            (vec![0x00, 0x7f], false),
            (vec![0xff, 0xff, 0xff], false),
            (vec![0x00, 5, b'X'], false),
        ] {
            assert_eq!(has_bad_field(&block), bad, "{block:x?}");
        }
    }

    #[test]
    fn no_bytes_make_it_fail() {
        fastrand::seed(7);
        for _ in 0..20_000 {
            let block: Vec<u8> = (0..fastrand::usize(0..40)).map(|_| fastrand::u8(..)).collect();
            has_bad_field(&block);
        }
    }
}
