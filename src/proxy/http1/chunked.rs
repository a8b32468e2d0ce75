//! The chunked transfer coding (RFC 9112, section 7.1), read strictly.
//!
//! Never holds a piece back to fill a buffer: what is there of a chunk goes on.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::proxy::http1::Malformed;
use crate::proxy::http1::fields::{FIELDS_MAX, HEAD_BYTES_MAX, has_bare_line_feed};

/// Bytes of a chunk's first line, its extensions included.
const LINE_BYTES_MAX: usize = 4 << 10;

/// Bytes of all extensions of a body: they carry nothing that anybody reads.
const EXTENSION_BYTES_MAX: usize = 16 << 10;

/// Where in a chunked body one is.
#[derive(Debug, Default)]
pub struct Chunks {
    state: State,
    extension_bytes: usize,
    /// Bytes in which there is no end of trailers.
    looked_at: usize,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Size,
    Data(u64),
    /// The line end behind a chunk's data.
    DataEnd,
    Trailers,
    Ended,
}

/// What was decoded.
#[derive(Debug, PartialEq)]
pub enum Piece {
    /// Some of a chunk, or all of it.
    Data(Bytes),
    /// The end, with trailers if there were any.
    End(Option<HeaderMap>),
}

impl Chunks {
    /// The next piece from the front of `input`; `None` when it takes more input.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Piece>, Malformed> {
        loop {
            match self.state {
                State::Size => {
                    let Some((size, extension)) = decode_size(input)? else { return Ok(None) };
                    self.extension_bytes += extension;
                    if self.extension_bytes > EXTENSION_BYTES_MAX {
                        return Err(Malformed("chunk extensions without end"));
                    }
                    self.state = if size == 0 { State::Trailers } else { State::Data(size) };
                }
                State::Data(_) if input.is_empty() => return Ok(None),
                State::Data(left) => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    let left = left - take as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Some(Piece::Data(input.split_to(take).freeze())));
                }
                State::DataEnd => {
                    let seen = input.len().min(2);
                    if input[..seen] != b"\r\n"[..seen] {
                        return Err(Malformed("bytes behind a chunk's data"));
                    }
                    if seen < 2 {
                        return Ok(None);
                    }
                    input.advance(2);
                    self.state = State::Size;
                }
                State::Trailers => {
                    // What trickles in is looked at line by line, not byte by byte.
                    if memchr::memchr(b'\n', &input[self.looked_at..]).is_none()
                        && input.len() < HEAD_BYTES_MAX
                    {
                        self.looked_at = input.len();
                        return Ok(None);
                    }
                    self.looked_at = input.len();
                    let Some(trailers) = decode_trailers(input)? else { return Ok(None) };
                    self.state = State::Ended;
                    return Ok(Some(Piece::End((!trailers.is_empty()).then_some(trailers))));
                }
                State::Ended => return Ok(Some(Piece::End(None))),
            }
        }
    }
}

/// `HEX [BWS ; extensions] CRLF`: the size, and the bytes of the extensions. They are read
/// over, for they are for this hop.
fn decode_size(input: &mut BytesMut) -> Result<Option<(u64, usize)>, Malformed> {
    const MALFORMED: Malformed = Malformed("a chunk size that is none");
    let seen = &input[..input.len().min(LINE_BYTES_MAX)];
    let digits = seen.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let next = seen.get(digits).copied();
    if digits > 16 || next.is_some_and(|byte| digits == 0 || !b"\r; \t".contains(&byte)) {
        return Err(MALFORMED);
    }
    let Some(line_feed) = memchr::memchr(b'\n', seen) else {
        return if seen.len() < LINE_BYTES_MAX { Ok(None) } else { Err(MALFORMED) };
    };
    let line = input[..line_feed].strip_suffix(b"\r").ok_or(MALFORMED)?;
    let extension = &line[digits..];
    let begins = extension.trim_ascii_start().first();
    let clean = extension.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control());
    if !clean || (!extension.is_empty() && begins != Some(&b';')) {
        return Err(MALFORMED);
    }
    let text = std::str::from_utf8(&line[..digits]).map_err(|_| MALFORMED)?;
    let size = u64::from_str_radix(text, 16).map_err(|_| MALFORMED)?;
    let extension = extension.len();
    input.advance(line_feed + 1);
    Ok(Some((size, extension)))
}

/// Fields that frame, address or direct a message, or that tell who asks: behind a body they
/// come too late, and are left out (RFC 9110, section 6.5.1).
static NO_TRAILERS: [HeaderName; 22] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::EXPECT,
    header::HOST,
    HeaderName::from_static("keep-alive"),
    header::MAX_FORWARDS,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    header::RANGE,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    // What CGI and its heirs take for fields that frame.
    HeaderName::from_static("content_length"),
    HeaderName::from_static("transfer_encoding"),
];

/// Whether a field may come behind a body.
pub fn may_be_trailer(name: &HeaderName) -> bool {
    !NO_TRAILERS.contains(name)
}

fn decode_trailers(input: &mut BytesMut) -> Result<Option<HeaderMap>, Malformed> {
    const MALFORMED: Malformed = Malformed("trailers that are none");
    // The usual end needs no parser.
    if input.starts_with(b"\r\n") {
        input.advance(2);
        return Ok(Some(HeaderMap::new()));
    }
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    match httparse::parse_headers(input, &mut fields) {
        Ok(httparse::Status::Partial) if input.len() < HEAD_BYTES_MAX => Ok(None),
        Ok(httparse::Status::Complete((length, fields))) if length <= HEAD_BYTES_MAX => {
            if has_bare_line_feed(&input[..length]) {
                return Err(MALFORMED);
            }
            let mut trailers = HeaderMap::new();
            for field in fields {
                let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| MALFORMED)?;
                let value = HeaderValue::from_bytes(field.value).map_err(|_| MALFORMED)?;
                if may_be_trailer(&name) {
                    trailers.append(name, value);
                }
            }
            input.advance(length);
            Ok(Some(trailers))
        }
        Ok(_) | Err(_) => Err(MALFORMED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes `text`, given in pieces of `step` bytes: data, and trailers as `name=value`.
    fn decode(text: &str, step: usize) -> Result<(String, String), ()> {
        let (mut chunks, mut input) = (Chunks::default(), BytesMut::new());
        let (mut data, mut trailers) = (Vec::new(), String::new());
        for piece in text.as_bytes().chunks(step) {
            input.extend_from_slice(piece);
            while let Some(piece) = chunks.decode(&mut input).map_err(drop)? {
                match piece {
                    Piece::Data(bytes) => data.extend_from_slice(&bytes),
                    Piece::End(map) => {
                        for (name, value) in map.iter().flatten() {
                            trailers.extend([name.as_str(), "=", value.to_str().unwrap()]);
                        }
                        return Ok((String::from_utf8(data).unwrap(), trailers));
                    }
                }
            }
        }
        Err(())
    }

    #[test]
    fn chunks_come_out_whole_however_they_arrive() {
        for (text, data, trailers) in [
            ("5\r\nhello\r\n0\r\n\r\n", "hello", ""),
            ("5;x=\"y\"\r\nhello\r\n6 ;z\r\n world\r\n0\r\n\r\n", "hello world", ""),
            ("0005\r\nhello\r\n000\r\n\r\n", "hello", ""),
            ("A\r\n0123456789\r\n0\r\nx-sum: 1\r\n\r\n", "0123456789", "x-sum=1"),
            (
                "1\r\nx\r\n0\r\nContent_Length: 5\r\nHost: b\r\nKeep-Alive: 1\r\nx: 1\r\n\r\n",
                "x",
                "x=1",
            ),
        ] {
            for step in 1..=text.len() {
                let expected = Ok((data.to_owned(), trailers.to_owned()));
                assert_eq!(decode(text, step), expected, "{text:?} in {step}");
            }
        }
    }

    #[test]
    fn what_is_in_doubt_is_refused() {
        for text in [
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhellox\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "\r\nhello",
            "x\r\n",
            "-5\r\nhello\r\n",
            "0x5\r\nhello\r\n",
            " 5\r\nhello\r\n",
            "5 5\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "5\u{b}\r\nhello\r\n",
            "5;\u{0}\r\nhello\r\n",
            "5;a\rb\r\nhello\r\n",
            "5\r\r\nhello\r\n",
            "10000000000000000\r\n",
            "0\r\nbad name: 1\r\n\r\n",
            "0\r\nx: 1\n\r\n",
        ] {
            for step in [1, 2, text.len()] {
                assert_eq!(decode(text, step), Err(()), "{text:?} in {step}");
            }
        }
    }

    #[test]
    fn extensions_are_not_read_for_ever() {
        let chunk = format!("1;{}\r\nx\r\n", "e".repeat(1000));
        assert!(decode(&format!("{}0\r\n\r\n", chunk.repeat(16)), 1 << 20).is_ok());
        assert!(decode(&format!("{}0\r\n\r\n", chunk.repeat(17)), 1 << 20).is_err());
    }

    #[test]
    fn a_line_without_end_is_not_kept_for_ever() {
        let mut input = BytesMut::from(&*vec![b'1'; LINE_BYTES_MAX]);
        assert!(Chunks::default().decode(&mut input).is_err());
    }
}
