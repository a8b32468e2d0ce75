//! Bytes on their way into a connection of HTTP/1.1.
//!
//! Never copies a large piece, and never holds a small one back: what is there goes out in
//! one system call.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use tokio::io::AsyncWrite;

use crate::proxy::http1::fields::encode_field;

/// Pieces of a body up to this size are copied behind what waits to be written, which
/// saves a system call; larger ones are written from where they lie.
const COPY_BYTES_MAX: usize = 16 << 10;

/// What waits to be written.
#[derive(Debug, Default)]
pub struct Outgoing {
    buffer: BytesMut,
    /// Written after `buffer`, from where it lies.
    large: Option<Bytes>,
    /// A line end follows `large`.
    ends_line: bool,
    written: u64,
}

impl Outgoing {
    /// Whether all is written.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.large.is_none()
    }

    /// Bytes written so far, of all that was ever put in.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether another piece may be put behind what waits.
    pub fn has_room(&self) -> bool {
        self.large.is_none() && self.buffer.len() < COPY_BYTES_MAX
    }

    /// For heads; call where there is room.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Puts a piece of a body behind what waits, as a chunk if it is `chunked`; call where
    /// there is room.
    pub fn put(&mut self, data: Bytes, chunked: bool) {
        if data.is_empty() {
            return;
        }
        if chunked {
            put_chunk_size(data.len(), &mut self.buffer);
        }
        if data.len() > COPY_BYTES_MAX {
            self.large = Some(data);
            self.ends_line = chunked;
        } else {
            self.buffer.extend_from_slice(&data);
            if chunked {
                self.buffer.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Puts the end of a chunked body behind what waits; call where there is room.
    pub fn put_last_chunk(&mut self, trailers: Option<&HeaderMap>) {
        self.buffer.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.into_iter().flatten() {
            encode_field(name, value, &mut self.buffer);
        }
        self.buffer.extend_from_slice(b"\r\n");
    }

    /// Lets go of the memory, if nothing waits.
    pub fn shrink(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// Writes until nothing waits.
    pub fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let large = self.large.as_deref().unwrap_or_default();
            let wrote = if large.is_empty() {
                Pin::new(&mut *stream).poll_write(cx, &self.buffer)
            } else {
                let slices = [io::IoSlice::new(&self.buffer), io::IoSlice::new(large)];
                Pin::new(&mut *stream).poll_write_vectored(cx, &slices)
            };
            match ready!(wrote)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                wrote => self.wrote(wrote),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
        let of_buffer = bytes.min(self.buffer.len());
        if of_buffer == self.buffer.len() {
            // Unlike `advance`, this keeps the room for the next head.
            self.buffer.clear();
        } else {
            self.buffer.advance(of_buffer);
        }
        if let Some(large) = &mut self.large {
            large.advance(bytes - of_buffer);
            if large.is_empty() {
                self.large = None;
                if self.ends_line {
                    self.buffer.extend_from_slice(b"\r\n");
                }
            }
        }
    }
}

fn put_chunk_size(size: usize, output: &mut BytesMut) {
    let mut line = *b"0000000000000000\r\n";
    let mut at = 16;
    let mut rest = size;
    while rest > 0 {
        at -= 1;
        line[at] = b"0123456789abcdef"[rest & 0xf];
        rest >>= 4;
    }
    output.extend_from_slice(&line[at..]);
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes `step` bytes at a time.
    struct Narrow(Vec<u8>, usize);

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let step = bytes.len().min(self.1);
            self.0.extend_from_slice(&bytes[..step]);
            Poll::Ready(Ok(step))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_is_put_in_comes_out_in_its_order_however_little_fits() {
        let large = Bytes::from(vec![b'x'; COPY_BYTES_MAX + 1]);
        for step in [1, 7, 100_000] {
            let (mut narrow, mut outgoing) = (Narrow(Vec::new(), step), Outgoing::default());
            let mut cx = Context::from_waker(Waker::noop());
            outgoing.buffer().extend_from_slice(b"head\r\n\r\n");
            outgoing.put(Bytes::from_static(b"hello world, this is it"), true);
            outgoing.put(Bytes::new(), true);
            outgoing.put(large.clone(), true);
            assert!(!outgoing.has_room());
            assert!(outgoing.poll_write(&mut narrow, &mut cx).is_ready());
            outgoing.put_last_chunk(None);
            assert!(outgoing.poll_write(&mut narrow, &mut cx).is_ready());
            let text = String::from_utf8(narrow.0).unwrap();
            let whole = format!(
                "head\r\n\r\n17\r\nhello world, this is it\r\n4001\r\n{}\r\n0\r\n\r\n",
                "x".repeat(large.len())
            );
            assert_eq!(text, whole, "in steps of {step}");
        }
    }
}
