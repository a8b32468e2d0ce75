//! Frames of HTTP/2 as a fuzzer makes them, and what they come over.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Empty SETTINGS, which come first.
pub const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// A connection that gives its bytes piece by piece and takes everything.
pub struct Wire {
    /// All that comes.
    pub input: Vec<u8>,
    /// How much of it was read.
    pub at: Rc<Cell<usize>>,
    /// How much of it may be read yet.
    pub until: Rc<Cell<usize>>,
    /// How much of it comes at once.
    pub step: usize,
    /// Whether something came the last time.
    pub waits: bool,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let at = self.at.get();
        self.waits = !self.waits;
        // Between two pieces, what is there is acted upon.
        if self.waits || at == self.until.get() {
            return Poll::Pending;
        }
        let end = self.until.get().min(at + self.step.min(buffer.remaining()));
        buffer.put_slice(&self.input[at..end]);
        self.at.set(end);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Frames made of lines: `name|value` is a field, an empty line the end of a head or of
/// trailers, `?` that of an interim head, `=bytes` a piece of a body, `!` the end of the message.
/// In a field, 0xfe is a line feed and 0xfd a carriage return.
pub fn frames_of(lines: &[u8]) -> Vec<u8> {
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    let (mut frames, mut block) = (Vec::new(), Vec::new());
    let (mut stream, mut is_open) = (1_u32, false);
    let mut put = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
        frames.extend_from_slice(&[length[1], length[2], length[3], kind, flags]);
        frames.extend_from_slice(&stream.to_be_bytes());
        frames.extend_from_slice(payload);
    };
    for line in lines.split(|byte| *byte == b'\n') {
        match line {
            [] => {
                // Behind a head these are trailers.
                let end = if is_open { END_STREAM } else { 0 };
                put(1, END_HEADERS | end, stream, &std::mem::take(&mut block));
                stream += if is_open { 2 } else { 0 };
                is_open = !is_open;
            }
            b"?" => put(1, END_HEADERS, stream, &std::mem::take(&mut block)),
            b"!" => {
                let (kind, flags) = if is_open { (0, 0) } else { (1, END_HEADERS) };
                put(kind, flags | END_STREAM, stream, &std::mem::take(&mut block));
                (stream, is_open) = (stream + 2, false);
            }
            [b'=', data @ ..] => put(0, 0, stream, data),
            field => {
                let mut parts = field.splitn(2, |byte| *byte == b'|');
                block.push(0);
                for _ in 0..2 {
                    put_text(parts.next().unwrap_or_default(), &mut block);
                }
            }
        }
    }
    if !block.is_empty() {
        put(1, END_HEADERS | END_STREAM, stream, &block);
    }
    frames
}

/// A text as HPACK has it, spelled out.
fn put_text(text: &[u8], block: &mut Vec<u8>) {
    let mut rest = text.len();
    if rest < 127 {
        block.push(rest as u8);
    } else {
        block.push(127);
        rest -= 127;
        while rest >= 128 {
            block.push((rest % 128) as u8 | 0x80);
            rest /= 128;
        }
        block.push(rest as u8);
    }
    block.extend(text.iter().map(|byte| match byte {
        0xfe => b'\n',
        0xfd => b'\r',
        byte => *byte,
    }));
}
