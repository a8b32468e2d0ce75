//! Where HTTP/1.1 messages end.
//!
//! Never understands more than a content-length: a chunked answer is an error here.

use memchr::memmem;

/// A head longer than this is no head.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// What came is not HTTP/1.1 with a content-length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// A stream of messages, fed in pieces of any size.
#[derive(Debug, Default)]
pub struct Messages {
    head: Vec<u8>,
    body_left: Option<u64>,
}

impl Messages {
    /// Calls `head` with each head when it is complete, and `end` when its body is.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        needs_length: bool,
        mut head: impl FnMut(&[u8]),
        mut end: impl FnMut(),
    ) -> Result<(), Malformed> {
        loop {
            if let Some(left) = &mut self.body_left {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                bytes = &bytes[taken..];
                if *left > 0 {
                    return Ok(());
                }
                self.body_left = None;
                end();
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let joined;
            let text = match find_head_end(bytes).filter(|_| self.head.is_empty()) {
                // The common case: a head in one piece, not copied.
                Some(ends) => {
                    let (text, rest) = bytes.split_at(ends);
                    bytes = rest;
                    text
                }
                None => match self.join_head(&mut bytes)? {
                    Some(whole) => {
                        joined = whole;
                        &joined
                    }
                    None => return Ok(()),
                },
            };
            let length = content_length(text);
            if length.is_none() && needs_length {
                return Err(Malformed);
            }
            head(text);
            self.body_left = Some(length.unwrap_or(0));
        }
    }

    /// Puts a head together of pieces. `None`: more is needed.
    fn join_head(&mut self, bytes: &mut &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        let Some(ends) = find_head_end(&self.head) else {
            *bytes = &[];
            return if self.head.len() > HEAD_BYTES_MAX { Err(Malformed) } else { Ok(None) };
        };
        *bytes = &bytes[ends - before..];
        let mut whole = std::mem::take(&mut self.head);
        whole.truncate(ends);
        Ok(Some(whole))
    }
}

/// Whether the head of an answer says 2xx.
pub fn is_success(head: &[u8]) -> bool {
    head.get(9) == Some(&b'2')
}

/// The path of a request's head.
pub fn path(head: &[u8]) -> &[u8] {
    head.split(|byte| *byte == b' ').nth(1).unwrap_or_default()
}

/// Where the body begins.
fn find_head_end(bytes: &[u8]) -> Option<usize> {
    memmem::find(bytes, b"\r\n\r\n").map(|start| start + 4)
}

fn content_length(head: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"content-length:";
    memchr::memchr_iter(b'\n', head).find_map(|at| {
        let (name, value) = head[at + 1..].split_at_checked(NAME.len())?;
        name.eq_ignore_ascii_case(NAME).then_some(())?;
        let value = &value[..memchr::memchr(b'\r', value)?];
        std::str::from_utf8(value).ok()?.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc\
                         HTTP/1.1 503 No\r\na: b\r\ncontent-length:0\r\n\r\n";

    /// Whether each answer was good, and that each ended.
    fn read(pieces: &[&[u8]]) -> Result<Vec<bool>, Malformed> {
        let (mut good, mut ended) = (Vec::new(), 0);
        let mut answers = Messages::default();
        for piece in pieces {
            answers.feed(piece, true, |head| good.push(is_success(head)), || ended += 1)?;
        }
        good.truncate(ended);
        Ok(good)
    }

    #[test]
    fn answers_end_where_their_length_says_in_whatever_pieces_they_come() {
        assert_eq!(read(&[TWO]), Ok(vec![true, false]));
        for at in 0..TWO.len() {
            assert_eq!(read(&[&TWO[..at], &TWO[at..]]), Ok(vec![true, false]), "cut at {at}");
        }
        let bytes: Vec<&[u8]> = TWO.chunks(1).collect();
        assert_eq!(read(&bytes), Ok(vec![true, false]));
        assert_eq!(read(&[&TWO[..40]]), Ok(vec![]));
    }

    #[test]
    fn what_has_no_length_is_refused() {
        assert_eq!(read(&[b"HTTP/1.1 200 OK\r\nx-content-length: 1\r\n\r\n"]), Err(Malformed));
        assert_eq!(read(&[&vec![b'x'; HEAD_BYTES_MAX + 1]]), Err(Malformed));
    }

    #[test]
    fn a_request_may_have_no_body_and_has_a_path() {
        let mut paths = Vec::new();
        let mut requests = Messages::default();
        let two = b"GET /a HTTP/1.1\r\n\r\nPOST /b HTTP/1.1\r\ncontent-length: 2\r\n\r\nxy";
        requests.feed(two, false, |head| paths.push(path(head).to_vec()), || ()).unwrap();
        assert_eq!(paths, [b"/a", b"/b"]);
    }
}
