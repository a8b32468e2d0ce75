//! The heads of a client's frames, and what may not be.
//!
//! Never looks into fields or bodies. The library that does finds most of this too, but ends
//! the connection with another code than the clause of RFC 9113 names.

use std::collections::VecDeque;

use foldhash::HashSet;
use h2::Reason;

use crate::proxy::protocol::http2::PREFACE;

/// A kind of frames (RFC 9113, section 6.1).
pub const DATA: u8 = 0;
/// A kind of frames (section 6.2).
pub const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
/// What the client can take.
pub const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
/// Asks for an echo.
pub const PING: u8 = 6;
/// A kind of frames (section 6.8).
pub const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// A kind of frames (section 6.10).
pub const CONTINUATION: u8 = 9;
/// A flag of DATA and HEADERS: nothing follows on the stream.
pub const END_STREAM: u8 = 1;
/// A flag of HEADERS and CONTINUATION: the fields are whole.
pub const END_HEADERS: u8 = 4;
/// Of SETTINGS and PING: an echo.
pub const ACK: u8 = 1;

const PADDED: u8 = 8;
const RANKED: u8 = 0x20;

/// What each frame begins with (RFC 9113, section 4.1).
pub const HEAD_BYTES: usize = 9;
const SETTING_BYTES: usize = 6;

/// Of a block of fields, what is kept in case it cannot be read.
const FIELD_BYTES_MAX: usize = 8 << 10;

/// Enough of a field to tell whether its name begins with a colon.
const NAME_BYTES: usize = 3;

/// What is looked at together, at most: a head, or padding, priority and a name.
const LOOK_BYTES_MAX: usize = 9;

const ENABLE_PUSH: u16 = 2;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;

/// Streams of which it is known that the client may send more. Beyond, the oldest are
/// forgotten, and the library alone judges their frames.
const OPEN_MAX: usize = 1000;

/// Streams of which it is known that the client has ended them.
const ENDED_MAX: usize = 64;

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// One of the constants above, or an unknown one.
    pub kind: u8,
    /// By kind.
    pub flags: u8,
    /// 0 is the connection.
    pub stream: u32,
    /// Of what follows.
    pub length: usize,
}

/// A frame that may not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What it ends the connection with.
    pub reason: Reason,
    /// Bytes before it that are well.
    pub good: usize,
}

/// Finds the heads of frames in what comes, in pieces of any size.
#[derive(Debug)]
pub struct Frames {
    state: State,
    /// What is looked at together, as far as it has come.
    bytes: [u8; LOOK_BYTES_MAX],
    have: usize,
    frame: Frame,
    /// Fields are not whole before a frame that says so.
    in_fields: bool,
    /// The last block of fields, with what is before it in its frame.
    fields: Vec<u8>,
    /// Some of the last bytes were fields.
    fields_came: bool,
    streams: Streams,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes are none of our business; then a head.
    Skip(usize),
    /// A head.
    Head,
    /// The first bytes of a payload, and so many behind them.
    Look { bytes: usize, behind: usize },
}

/// What the client did with its streams.
#[derive(Debug, Default)]
struct Streams {
    /// The last one that it opened.
    last: u32,
    /// Those that it may send more on.
    open: HashSet<u32>,
    /// Of those up to here, nothing is known.
    forgotten: u32,
    ended: VecDeque<u32>,
}

impl Frames {
    /// From the preface on.
    pub fn from_preface() -> Self {
        Self {
            state: State::Skip(PREFACE.len()),
            bytes: [0; LOOK_BYTES_MAX],
            have: 0,
            frame: Frame { kind: DATA, flags: 0, stream: 0, length: 0 },
            in_fields: false,
            fields: Vec::new(),
            fields_came: false,
            streams: Streams::default(),
        }
    }

    /// Takes the next bytes, and tells of every head among them.
    pub fn feed(&mut self, bytes: &[u8], mut found: impl FnMut(Frame)) -> Result<(), Wrong> {
        let mut at = 0;
        self.fields_came = false;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let whole = match self.state {
                State::Skip(skip) => {
                    let skipped = skip.min(rest.len());
                    self.keep(&rest[..skipped]);
                    at += skipped;
                    self.state = skip_or_head(skip - skipped);
                    continue;
                }
                State::Head => HEAD_BYTES,
                State::Look { bytes, .. } => bytes,
            };
            let taken = (whole - self.have).min(rest.len());
            self.bytes[self.have..self.have + taken].copy_from_slice(&rest[..taken]);
            self.have += taken;
            if self.have == whole {
                // Without its last byte nothing of it is acted upon.
                let wrong = |reason| Wrong { reason, good: at + taken - 1 };
                if let State::Look { behind, .. } = self.state {
                    self.look().map_err(wrong)?;
                    let looked_at = self.bytes;
                    self.keep(&looked_at[..self.have]);
                    self.state = skip_or_head(behind);
                    if self.frame.kind == SETTINGS && behind > 0 {
                        self.state = look_at(SETTING_BYTES, behind);
                    }
                } else {
                    self.state = self.read_head().map_err(wrong)?;
                    found(self.frame);
                }
                self.have = 0;
            }
            at += taken;
        }
        Ok(())
    }

    /// Whether nothing is expected to follow at once.
    pub fn is_whole(&self) -> bool {
        let between = self.state == State::Head && self.have == 0;
        !self.in_fields && (between || self.frame.kind == DATA && self.state != State::Head)
    }

    /// The last block of fields, if some of it was among the last bytes.
    pub fn fields(&self) -> Option<&[u8]> {
        self.fields_came.then_some(&self.fields[..])
    }

    /// Keeps bytes of a block of fields.
    fn keep(&mut self, bytes: &[u8]) {
        if matches!(self.frame.kind, HEADERS | CONTINUATION) {
            self.fields_came = true;
            let room = FIELD_BYTES_MAX.saturating_sub(self.fields.len());
            self.fields.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    /// Reads a head. What comes then.
    fn read_head(&mut self) -> Result<State, Reason> {
        let mut head = [0; HEAD_BYTES];
        head.copy_from_slice(&self.bytes[..HEAD_BYTES]);
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        let frame = Frame { kind, flags, stream, length };
        if self.in_fields && (kind != CONTINUATION || stream != self.frame.stream) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let trailers = kind == HEADERS && self.streams.open.contains(&stream);
        if !self.in_fields {
            if !is_placed(frame) {
                return Err(Reason::PROTOCOL_ERROR);
            }
            self.streams.take(frame)?;
        }
        if !fits(frame) {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        if matches!(kind, HEADERS | CONTINUATION) {
            self.in_fields = flags & END_HEADERS == 0;
        }
        if kind == HEADERS {
            self.fields.clear();
        }
        self.frame = frame;
        Ok(match kind {
            SETTINGS if length > 0 => look_at(SETTING_BYTES, length),
            HEADERS if trailers => look_at(before_fields(frame) + NAME_BYTES, length),
            DATA | HEADERS if flags & PADDED != 0 => look_at(1, length),
            WINDOW_UPDATE => look_at(4, length),
            _ => skip_or_head(length),
        })
    }

    /// Looks at the first bytes of a payload.
    fn look(&self) -> Result<(), Reason> {
        let bytes = &self.bytes[..self.have];
        let Frame { kind, flags, length, .. } = self.frame;
        if kind == SETTINGS {
            return check_setting(bytes);
        }
        if kind == WINDOW_UPDATE {
            // The first bit is reserved.
            let nothing = matches!(bytes, [0 | 0x80, 0, 0, 0]);
            return if nothing { Err(Reason::PROTOCOL_ERROR) } else { Ok(()) };
        }
        let padding =
            if flags & PADDED == 0 { 0 } else { bytes.first().map_or(0, |b| *b as usize) };
        if before_fields(self.frame) + padding > length {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let fields = bytes.get(before_fields(self.frame)..).unwrap_or_default();
        if kind == HEADERS && begins_with_pseudo_field(fields) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        Ok(())
    }
}

fn skip_or_head(bytes: usize) -> State {
    if bytes == 0 { State::Head } else { State::Skip(bytes) }
}

fn look_at(bytes: usize, of: usize) -> State {
    let bytes = bytes.min(of);
    if bytes == 0 { State::Head } else { State::Look { bytes, behind: of - bytes } }
}

/// Bytes of a payload before its fields or its data.
fn before_fields(frame: Frame) -> usize {
    let padded = usize::from(frame.flags & PADDED != 0);
    let ranked = usize::from(frame.kind == HEADERS && frame.flags & RANKED != 0);
    padded + 5 * ranked
}

/// Whether a block of trailers begins with a pseudo-field, as far as its first bytes tell: a
/// name of the static table, or one that is spelled out. (RFC 7541, section 6 and appendices A
/// and B; a name that was sent before is not looked up.)
fn begins_with_pseudo_field(fields: &[u8]) -> bool {
    // Of the static table, the first 14 names are those of pseudo-fields.
    match fields {
        [first @ 0x81..=0xff, ..] => first & 0x7f <= 14,
        [0x41..=0x7f, ..] => fields[0] & 0x3f <= 14,
        [0x01..=0x0f | 0x11..=0x1f, ..] => fields[0] & 0x0f <= 14,
        [0x00 | 0x10 | 0x40, 0x80..=0xff, name, ..] => name >> 1 == 0b101_1100,
        [0x00 | 0x10 | 0x40, _, name, ..] => *name == b':',
        _ => false,
    }
}

/// What a setting may not be (RFC 9113, section 6.5.2).
fn check_setting(setting: &[u8]) -> Result<(), Reason> {
    let [a, b, value @ ..] = setting else { return Ok(()) };
    let value = value.iter().fold(0, |value, byte| value << 8 | u32::from(*byte));
    match u16::from_be_bytes([*a, *b]) {
        ENABLE_PUSH if value > 1 => Err(Reason::PROTOCOL_ERROR),
        INITIAL_WINDOW_SIZE if value >> 31 != 0 => Err(Reason::FLOW_CONTROL_ERROR),
        MAX_FRAME_SIZE if !(1 << 14..1 << 24).contains(&value) => Err(Reason::PROTOCOL_ERROR),
        _ => Ok(()),
    }
}

/// Whether a frame is on a stream, or on the connection, as its kind has it.
fn is_placed(frame: Frame) -> bool {
    match frame.kind {
        DATA | HEADERS | PRIORITY | RST_STREAM | CONTINUATION => frame.stream != 0,
        SETTINGS | PING | GOAWAY => frame.stream == 0,
        PUSH_PROMISE => false,
        _ => true,
    }
}

/// Whether a frame has a length that its kind has.
fn fits(frame: Frame) -> bool {
    match frame.kind {
        PRIORITY => frame.length == 5,
        RST_STREAM | WINDOW_UPDATE => frame.length == 4,
        PING => frame.length == 8,
        SETTINGS if frame.flags & ACK != 0 => frame.length == 0,
        SETTINGS => frame.length.is_multiple_of(SETTING_BYTES),
        GOAWAY => frame.length >= 8,
        _ => true,
    }
}

impl Streams {
    /// Follows a frame that is not within a block of fields.
    fn take(&mut self, Frame { kind, flags, stream, .. }: Frame) -> Result<(), Reason> {
        let ends = flags & END_STREAM != 0;
        match kind {
            HEADERS if stream > self.last && stream % 2 == 1 => {
                self.last = stream;
                self.begin(stream, ends);
            }
            HEADERS | DATA if self.open.contains(&stream) && !ends => {}
            HEADERS | DATA if self.open.remove(&stream) => self.end(stream),
            HEADERS if self.ended.contains(&stream) => return Err(Reason::STREAM_CLOSED),
            HEADERS if stream > self.forgotten => return Err(Reason::PROTOCOL_ERROR),
            // Of a stream that is yet to be opened, or never will be.
            DATA | RST_STREAM if self.is_idle(stream) => return Err(Reason::PROTOCOL_ERROR),
            WINDOW_UPDATE if stream != 0 && self.is_idle(stream) => {
                return Err(Reason::PROTOCOL_ERROR);
            }
            DATA if stream > self.forgotten => return Err(Reason::STREAM_CLOSED),
            RST_STREAM if self.open.remove(&stream) => self.end(stream),
            CONTINUATION => return Err(Reason::PROTOCOL_ERROR),
            _ => {}
        }
        Ok(())
    }

    fn is_idle(&self, stream: u32) -> bool {
        stream > self.last || stream.is_multiple_of(2)
    }

    fn begin(&mut self, stream: u32, ends: bool) {
        if ends {
            self.end(stream);
            return;
        }
        self.open.insert(stream);
        if self.open.len() > OPEN_MAX
            && let Some(oldest) = self.open.iter().min().copied()
        {
            self.open.remove(&oldest);
            self.forgotten = oldest;
        }
    }

    fn end(&mut self, stream: u32) {
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(stream);
    }
}

#[cfg(test)]
mod tests;
