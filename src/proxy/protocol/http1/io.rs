//! A client's connection of HTTP/1.1 as its two readers see it: the task that serves it,
//! and the body of the request that is served.
//!
//! Never holds a buffer while nothing is under way: what comes first is read into the
//! worker's, so that an idle client costs a socket and little else.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use http_body::Frame;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::proxy::http1::chunked::{Chunks, Piece};
use crate::proxy::http1::outgoing::Outgoing;
use crate::proxy::http1::warm::{self, WARM_BYTES_MIN};
use crate::proxy::incoming::{Inbound, Unfinished};
use crate::proxy::protocol::http1::head::Framing;
use crate::proxy::worker::Worker;

/// Reads of a body start small and grow while they fill.
const READ_BYTES_MIN: usize = 8 << 10;
const READ_BYTES_MAX: usize = 256 << 10;

/// What a client may send ahead, while its request is served: the next ones.
const AHEAD_BYTES_MAX: usize = 16 << 10;

/// Rest of a body that is read over, if it is there already, so that the connection can be
/// used again.
const DISCARD_BYTES_MAX: u64 = 256 << 10;

/// A client's connection.
pub struct Io<S> {
    worker: Rc<Worker>,
    stream: RefCell<S>,
    input: RefCell<BytesMut>,
    /// `input` is one that goes from one connection to the next.
    is_lent: Cell<bool>,
    read_bytes: Cell<usize>,
    output: RefCell<Outgoing>,
    body: RefCell<Body>,
    /// The client waits for a word before it sends its body.
    continue_owed: Cell<bool>,
    /// The final response has begun: it is too late for that word.
    answered: Cell<bool>,
    /// Nothing more comes from the client.
    ended: Cell<bool>,
}

/// Where in a request's body one is.
#[derive(Debug)]
enum Body {
    Ended,
    Length(u64),
    Chunked(Chunks),
    /// Another protocol; it passes once it is `open`.
    Tunnel {
        open: bool,
    },
    /// What came was no body, or not all of it: where it ends cannot be told.
    Broken,
}

impl<S> fmt::Debug for Io<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Io").field("body", &self.body).finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Io<S> {
    /// `input` was read already.
    pub fn new(worker: Rc<Worker>, stream: S, input: BytesMut) -> Self {
        Self {
            worker,
            stream: RefCell::new(stream),
            input: RefCell::new(input),
            is_lent: Cell::new(false),
            read_bytes: Cell::new(READ_BYTES_MIN),
            output: RefCell::default(),
            body: RefCell::new(Body::Ended),
            continue_owed: Cell::new(false),
            answered: Cell::new(false),
            ended: Cell::new(false),
        }
    }

    /// What has come and was not looked at.
    pub fn input(&self) -> &RefCell<BytesMut> {
        &self.input
    }

    /// What waits to be written.
    pub fn output(&self) -> &RefCell<Outgoing> {
        &self.output
    }

    /// Lets go of all memory that an idle connection does not need.
    pub fn shrink(&self) {
        self.output.borrow_mut().shrink();
        let mut input = self.input.borrow_mut();
        if input.is_empty() {
            *input = BytesMut::new();
        }
    }

    /// A request's body begins.
    pub fn begin_body(&self, framing: Framing, tunnel: bool, expects_continue: bool) {
        *self.body.borrow_mut() = match framing {
            Framing::Ended if tunnel => Body::Tunnel { open: false },
            Framing::Ended => Body::Ended,
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked => Body::Chunked(Chunks::default()),
        };
        self.continue_owed.set(expects_continue);
        self.answered.set(false);
    }

    /// The final response begins.
    pub fn begin_answer(&self) {
        self.answered.set(true);
    }

    /// Whether another request may follow the one that was served: its body has ended, or
    /// the rest of it is there already and is read over.
    pub fn finish_body(&self, cx: &mut Context<'_>) -> bool {
        // A client that waits for 100 may send its body yet, or never.
        if self.ended.get() || self.continue_owed.get() {
            return matches!(*self.body.borrow(), Body::Ended) && !self.ended.get();
        }
        let mut left = DISCARD_BYTES_MAX;
        loop {
            match *self.body.borrow() {
                Body::Ended | Body::Tunnel { open: false } => return true,
                Body::Tunnel { open: true } | Body::Broken => return false,
                Body::Length(_) | Body::Chunked(_) => {}
            }
            match self.poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                    let Some(rest) = left.checked_sub(bytes) else { return false };
                    left = rest;
                }
                Poll::Ready(None) => {}
                Poll::Ready(Some(Err(_))) | Poll::Pending => return false,
            }
        }
    }

    /// Reads some of what comes into `input`; 0 is the end.
    pub fn poll_read(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut scratch = self.worker.scratch.borrow_mut();
        let mut buffer = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut buffer))?;
        let came = buffer.filled();
        if came.is_empty() {
            self.ended.set(true);
        } else {
            self.input.borrow_mut().extend_from_slice(came);
        }
        Poll::Ready(Ok(came.len()))
    }

    /// Ready when the client is gone while its request is served. What it sends ahead is
    /// kept, up to a bound: the rest of a body that nobody asks for yet, or the next request.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(*self.body.borrow(), Body::Tunnel { open: true } | Body::Broken) {
            return Poll::Pending;
        }
        while self.input.borrow().len() < AHEAD_BYTES_MAX {
            match ready!(self.poll_read(cx)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// Writes what waits.
    pub fn poll_write(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut output = self.output.borrow_mut();
        if output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        output.poll_write(&mut *self.stream.borrow_mut(), cx)
    }

    /// Hands what was written to the peer, where a stream keeps it back (TLS).
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_flush(cx)
    }

    /// Says that nothing more is written.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(cx)
    }

    /// The stream itself, once nothing is under way.
    pub fn stream(&self) -> &RefCell<S> {
        &self.stream
    }

    /// Reads more of a body of which at most `wanted` bytes are missing; 0 is the end.
    fn poll_read_body(&self, cx: &mut Context<'_>, wanted: u64) -> Poll<io::Result<usize>> {
        let most = self.read_bytes.get();
        let room = usize::try_from(wanted).unwrap_or(usize::MAX).min(most);
        let mut input = self.input.borrow_mut();
        if room >= WARM_BYTES_MIN && input.is_empty() {
            self.give_back(&mut input);
            *input = warm::take(room);
            self.is_lent.set(true);
        }
        input.reserve(room);
        let mut stream = self.stream.borrow_mut();
        let read = poll_read_buf(Pin::new(&mut *stream), cx, &mut (&mut *input).limit(room));
        if !matches!(read, Poll::Ready(Ok(1..))) {
            // While nothing comes, others can have the room.
            self.give_back(&mut input);
        }
        let read = ready!(read)?;
        if read == room {
            self.read_bytes.set((most * 2).min(READ_BYTES_MAX));
        } else if read < most / 4 {
            self.read_bytes.set((most / 2).max(READ_BYTES_MIN));
        }
        if read == 0 {
            self.ended.set(true);
        }
        Poll::Ready(Ok(read))
    }

    /// Lets other connections have the buffer, if nothing is left in it.
    fn give_back(&self, input: &mut BytesMut) {
        if input.is_empty() && self.is_lent.replace(false) {
            warm::give(std::mem::take(input));
        }
    }

    /// What of the body is in `input`.
    fn decode(&self) -> Option<Result<Frame<Bytes>, Unfinished>> {
        let mut input = self.input.borrow_mut();
        let frame = self.decode_from(&mut input);
        self.give_back(&mut input);
        frame
    }

    fn decode_from(&self, input: &mut BytesMut) -> Option<Result<Frame<Bytes>, Unfinished>> {
        let mut body = self.body.borrow_mut();
        match &mut *body {
            Body::Length(left) if !input.is_empty() => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= take as u64;
                if *left == 0 {
                    *body = Body::Ended;
                }
                Some(Ok(Frame::data(input.split_to(take).freeze())))
            }
            Body::Chunked(chunks) => match chunks.decode(input) {
                Ok(Some(Piece::Data(data))) => Some(Ok(Frame::data(data))),
                Ok(Some(Piece::End(trailers))) => {
                    *body = Body::Ended;
                    trailers.map(|trailers| Ok(Frame::trailers(trailers)))
                }
                Ok(None) => None,
                Err(malformed) => {
                    *body = Body::Broken;
                    Some(Err(Unfinished::Malformed(malformed.0)))
                }
            },
            Body::Tunnel { open: true } if !input.is_empty() => {
                Some(Ok(Frame::data(input.split().freeze())))
            }
            Body::Ended | Body::Length(_) | Body::Tunnel { .. } | Body::Broken => None,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Inbound for Io<S> {
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Unfinished>>> {
        if !self.answered.get() && self.continue_owed.replace(false) {
            self.output.borrow_mut().buffer().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            // Written here if it can be, else before the response.
            let _ = self.poll_write(cx);
        }
        loop {
            if let Some(frame) = self.decode() {
                return Poll::Ready(Some(frame));
            }
            let wanted = match *self.body.borrow() {
                Body::Ended => return Poll::Ready(None),
                Body::Broken => return Poll::Ready(Some(Err(Unfinished::Gone))),
                Body::Length(left) => left,
                Body::Tunnel { open: false } => return Poll::Pending,
                Body::Chunked(_) | Body::Tunnel { open: true } => u64::MAX,
            };
            match ready!(self.poll_read_body(cx, wanted)) {
                Ok(1..) => {}
                Ok(0) if matches!(*self.body.borrow(), Body::Tunnel { .. }) => {
                    *self.body.borrow_mut() = Body::Broken;
                    return Poll::Ready(None);
                }
                Ok(0) | Err(_) => {
                    *self.body.borrow_mut() = Body::Broken;
                    return Poll::Ready(Some(Err(Unfinished::Gone)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(*self.body.borrow(), Body::Ended)
    }

    fn open_tunnel(&self) {
        if let Body::Tunnel { open } = &mut *self.body.borrow_mut() {
            *open = true;
        }
    }
}
