//! As much of a cleartext HTTP/2 client as it takes to ask the same thing over and over.
//!
//! Never decodes a header block: a `:status` of 200 is its first byte. Never limits what is
//! sent to it: its windows are as large as they can be.

use super::answers::Malformed;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
const WINDOW_MAX: u32 = (1 << 31) - 1;
const WINDOW_AT_FIRST: u32 = 65_535;
/// So much of the connection's window is used before it is given back.
const GIVE_BACK: u32 = 1 << 28;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

/// The header block of a GET: indexed where the static table has it, the rest literal and
/// without Huffman, so that every server reads the same bytes.
pub fn get_block(authority: &str, path: &str, headers: &[(String, String)]) -> Vec<u8> {
    // :method GET and :scheme http are entries 2 and 6; :authority is 1 and :path is 4.
    let mut block = vec![0x82, 0x86, 0x01];
    text(&mut block, authority);
    block.push(0x04);
    text(&mut block, path);
    for (name, value) in headers {
        block.push(0x00);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

/// A string of HPACK. Longer ones than 126 bytes take a second byte of length.
fn text(block: &mut Vec<u8>, text: &str) {
    let length = text.len();
    if length < 127 {
        block.push(length as u8);
    } else {
        block.push(127);
        let mut rest = length - 127;
        while rest >= 128 {
            block.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        block.push(rest as u8);
    }
    block.extend_from_slice(text.as_bytes());
}

/// The client's side of one connection.
#[derive(Debug)]
pub struct Client {
    block: Vec<u8>,
    next_stream: u32,
    kept: Vec<u8>,
    window_used: u32,
}

impl Client {
    /// Writes the preface into `out`.
    pub fn new(block: Vec<u8>, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(PREFACE);
        // No dynamic table, no push, the largest windows.
        let settings = [(1, 0), (2, 0), (4, WINDOW_MAX)];
        frame(out, SETTINGS, 0, 0, settings.len() * 6);
        for (name, value) in settings {
            out.extend_from_slice(&u16::to_be_bytes(name));
            out.extend_from_slice(&u32::to_be_bytes(value));
        }
        give_window(out, WINDOW_MAX - WINDOW_AT_FIRST);
        Self { block, next_stream: 1, kept: Vec::new(), window_used: 0 }
    }

    /// Asks once more. `None` when the connection's streams are used up.
    pub fn ask(&mut self, out: &mut Vec<u8>) -> Option<u32> {
        let stream = self.next_stream;
        self.next_stream = stream.checked_add(2).filter(|next| *next <= WINDOW_MAX)?;
        frame(out, HEADERS, END_STREAM | END_HEADERS, stream, self.block.len());
        out.extend_from_slice(&self.block);
        Some(stream)
    }

    /// Takes what came, in pieces of any size; what has to be said to it goes into `out`.
    /// Calls `head` with each stream and whether it says 200, and `end` when it has ended, with
    /// whether that was its own end.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
        mut head: impl FnMut(u32, bool),
        mut end: impl FnMut(u32, bool),
    ) -> Result<(), Malformed> {
        let joined = !self.kept.is_empty();
        if joined {
            self.kept.extend_from_slice(bytes);
        }
        let taken = std::mem::take(&mut self.kept);
        let mut left = if joined { &taken[..] } else { bytes };
        while left.len() >= FRAME_HEAD {
            let length = u32::from_be_bytes([0, left[0], left[1], left[2]]) as usize;
            let Some(payload) = left.get(FRAME_HEAD..FRAME_HEAD + length) else { break };
            let (kind, flags) = (left[3], left[4]);
            let stream = u32::from_be_bytes([left[5], left[6], left[7], left[8]]) & WINDOW_MAX;
            match kind {
                DATA => self.count(length as u32, out),
                HEADERS => head(stream, says_200(payload, flags)),
                SETTINGS if flags & ACK == 0 => frame(out, SETTINGS, ACK, 0, 0),
                PING if flags & ACK == 0 => {
                    frame(out, PING, ACK, 0, length);
                    out.extend_from_slice(payload);
                }
                RST_STREAM => end(stream, false),
                GOAWAY => return Err(Malformed),
                _ => {}
            }
            if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                end(stream, true);
            }
            left = &left[FRAME_HEAD + length..];
        }
        self.kept = left.to_vec();
        Ok(())
    }

    fn count(&mut self, bytes: u32, out: &mut Vec<u8>) {
        self.window_used += bytes;
        if self.window_used >= GIVE_BACK {
            give_window(out, self.window_used);
            self.window_used = 0;
        }
    }
}

fn says_200(payload: &[u8], flags: u8) -> bool {
    let skip = usize::from(flags & PADDED != 0) + if flags & PRIORITY != 0 { 5 } else { 0 };
    let block = payload.get(skip..).unwrap_or_default();
    // A change of the dynamic table's size may stand before it; 8 is `:status: 200`.
    block.iter().find(|byte| **byte & 0xe0 != 0x20) == Some(&0x88)
}

fn give_window(out: &mut Vec<u8>, bytes: u32) {
    frame(out, WINDOW_UPDATE, 0, 0, 4);
    out.extend_from_slice(&bytes.to_be_bytes());
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, length: usize) {
    out.extend_from_slice(&(length as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        Client::new(get_block("a", "/", &[]), &mut Vec::new())
    }

    /// Two answers: 200 with a body of two frames, 503 without one. SETTINGS before.
    fn answers() -> Vec<u8> {
        let mut bytes = Vec::new();
        frame(&mut bytes, SETTINGS, 0, 0, 0);
        frame(&mut bytes, HEADERS, END_HEADERS, 1, 2);
        bytes.extend_from_slice(&[0x20, 0x88]);
        frame(&mut bytes, DATA, 0, 1, 3);
        bytes.extend_from_slice(b"abc");
        frame(&mut bytes, HEADERS, END_HEADERS | END_STREAM, 3, 5);
        bytes.extend_from_slice(b"\x08\x03503");
        frame(&mut bytes, DATA, END_STREAM, 1, 0);
        bytes
    }

    #[test]
    fn answers_end_with_their_stream_in_whatever_pieces_they_come() {
        let mut bytes = answers();
        for size in 1..=bytes.len() {
            let (mut client, mut out) = (client(), Vec::new());
            let (mut heads, mut ends) = (Vec::new(), Vec::new());
            for piece in bytes.chunks(size) {
                let head = |stream, good| heads.push((stream, good));
                let end = |stream, whole| ends.push((stream, whole));
                client.feed(piece, &mut out, head, end).unwrap();
            }
            assert_eq!(heads, [(1, true), (3, false)], "in pieces of {size}");
            assert_eq!(ends, [(3, true), (1, true)]);
            assert_eq!(out, [0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0]);
        }
        bytes.clear();
        frame(&mut bytes, RST_STREAM, 0, 5, 0);
        let mut ends = Vec::new();
        let end = |stream, whole| ends.push((stream, whole));
        client().feed(&bytes, &mut Vec::new(), |_, _| (), end).unwrap();
        assert_eq!(ends, [(5, false)]);
    }

    #[test]
    fn the_window_is_given_back_before_it_is_used_up() {
        let (mut client, mut out) = (client(), Vec::new());
        client.count(GIVE_BACK - 1, &mut out);
        assert!(out.is_empty());
        client.count(2, &mut out);
        assert_eq!(out[9..], (GIVE_BACK + 1).to_be_bytes());
    }

    #[test]
    fn long_values_have_a_length_of_several_bytes() {
        for (length, expected) in [
            (5, &[5][..]),
            (126, &[126]),
            (127, &[127, 0]),
            (300, &[127, 0b1010_1101, 1]), // RFC 7541, 5.1: 300 - 127 = 45 + 1 * 128.
        ] {
            let mut block = Vec::new();
            text(&mut block, &"x".repeat(length));
            assert_eq!(&block[..expected.len()], expected, "{length}");
            assert_eq!(block.len(), expected.len() + length);
        }
    }
}
