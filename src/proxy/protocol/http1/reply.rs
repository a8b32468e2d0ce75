//! An answer on its way to a client of HTTP/1.1.
//!
//! Never writes more than its head says, and never ends cleanly what is not whole.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::Body as _;

use crate::proxy::incoming::Inbound;
use crate::proxy::protocol::ClientStream;
use crate::proxy::protocol::http1::answer::{Framing, Wants};
use crate::proxy::protocol::http1::io::Io;
use crate::proxy::response::ResponseBody;

/// A response whose head waits to be written, and its body behind it.
#[expect(clippy::struct_excessive_bools, reason = "where a response is, in several respects")]
pub struct Reply<'c, S> {
    io: &'c Io<S>,
    /// What is left of its body.
    pub body: ResponseBody,
    framing: Framing,
    trailers: bool,
    /// The connection stays.
    keep_alive: bool,
    /// The client has got all that its framing tells, or will when it is written.
    pub done: bool,
    /// The body has ended.
    over: bool,
    /// What was written is not with the client yet.
    flushes: bool,
    /// The client has left, and has all that its framing tells, or will when it is written.
    pub left: bool,
}

impl<'c, S: ClientStream> Reply<'c, S> {
    /// Of `body` behind a head that is in `io` already; with trailers if the client takes them.
    pub fn new(
        io: &'c Io<S>,
        body: ResponseBody,
        framing: Framing,
        (wants, keep_alive): (Wants, bool),
    ) -> Self {
        let done = framing == Framing::Ended;
        let (over, flushes, left) = (false, false, false);
        let trailers = wants.trailers;
        Self { io, body, framing, trailers, keep_alive, done, over, flushes, left }
    }

    /// Writes until all is written; `false` when the client is gone, or must not believe
    /// that it has got all.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut broken = false;
        loop {
            let mut waits = false;
            while !self.over && !broken && !waits && self.io.output().borrow().has_room() {
                match Pin::new(&mut self.body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => broken = !self.put(frame),
                    Poll::Ready(Some(Err(_))) => broken = true,
                    Poll::Ready(None) => broken = !self.end(None),
                    Poll::Pending => waits = true,
                }
            }
            match self.io.poll_write(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(false),
                Poll::Pending => {
                    // A client may not read before it has sent all.
                    self.body.poll_upload(cx);
                    return Poll::Pending;
                }
            }
            if broken && !self.done {
                return Poll::Ready(false);
            }
            if broken || self.over || waits {
                let mut flushed = self.io.poll_flush(cx);
                if !waits && flushed.is_ready() && !(self.keep_alive && self.io.is_end_stream()) {
                    // Nobody would wait later for what the client does not take now.
                    self.io.stream().borrow().settle();
                    flushed = self.io.poll_flush(cx);
                }
                self.flushes = flushed.is_pending();
                match flushed {
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Ready(Ok(())) if !waits => return Poll::Ready(true),
                    Poll::Pending if !waits => return Poll::Pending,
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
                ready!(self.io.poll_gone(cx));
                self.left = self.done;
                return Poll::Ready(false);
            }
        }
    }

    /// Whether it is the client that does not take more.
    pub fn is_blocked(&self) -> bool {
        self.flushes || !self.io.output().borrow().is_empty()
    }

    /// `false` for a body that is longer than its head says.
    fn put(&mut self, frame: http_body::Frame<bytes::Bytes>) -> bool {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.end(frame.trailers_ref()),
        };
        if self.done {
            // An endpoint's HTTP/2 may end a body with a frame of its own.
            return data.is_empty();
        }
        if let Framing::Length(left) = &mut self.framing {
            let Some(rest) = left.checked_sub(data.len() as u64) else { return false };
            *left = rest;
        }
        self.io.output().borrow_mut().put(data, self.framing == Framing::Chunked);
        self.done = self.framing == Framing::Length(0);
        true
    }

    /// `false` for a body that is shorter than its head says.
    fn end(&mut self, trailers: Option<&http::HeaderMap>) -> bool {
        self.over = true;
        if self.done {
            return true;
        }
        self.done = true;
        match self.framing {
            Framing::Chunked => {
                let trailers = trailers.filter(|_| self.trailers);
                self.io.output().borrow_mut().put_last_chunk(trailers);
                true
            }
            Framing::Length(left) => {
                self.done = left == 0;
                self.done
            }
            Framing::Ended | Framing::UntilClose | Framing::Tunnel => true,
        }
    }
}
