//! What both sides of HTTP/2 share: how a stream's body is taken in and sent.
//!
//! Never takes in more than it passes on: a window is opened again only when its bytes have
//! gone on their way.

pub mod gather;

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use http::header::HeaderValue;
use http_body::Frame;

use crate::proxy::http1::Malformed;
use crate::proxy::http1::chunked::may_be_trailer;

/// A stream's body as it comes in.
#[derive(Debug)]
pub struct Incoming {
    stream: RecvStream,
    /// Bytes given out last; whoever asks for more has passed them on.
    given: usize,
    data_ended: bool,
    trailers_ended: bool,
    /// Set when more is asked for, once.
    asked: Option<Rc<Cell<bool>>>,
}

impl Incoming {
    /// Of a stream whose head has come.
    pub fn of(stream: RecvStream) -> Self {
        Self { stream, given: 0, data_ended: false, trailers_ended: false, asked: None }
    }

    /// Sets `asked` when the first piece is asked for.
    #[must_use]
    pub fn tells_when_asked(self, asked: Option<Rc<Cell<bool>>>) -> Self {
        Self { asked, ..self }
    }

    /// Whether nothing more comes.
    pub fn is_end_stream(&self) -> bool {
        self.trailers_ended || self.stream.is_end_stream()
    }

    /// The next piece.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(asked) = self.asked.take() {
            asked.set(true);
        }
        let given = std::mem::take(&mut self.given);
        if given > 0 {
            // Fails on a stream that is gone, which the next line tells better.
            let _ = self.stream.flow_control().release_capacity(given);
        }
        while !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                // Padding alone, or nothing at all.
                Some(Ok(data)) if data.is_empty() && !self.stream.is_end_stream() => {}
                Some(Ok(data)) => {
                    self.given = data.len();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        if self.trailers_ended {
            return Poll::Ready(None);
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        self.trailers_ended = true;
        Poll::Ready(trailers.transpose().map(|trailers| {
            let trailers = trailers?;
            check_fields(&trailers).map_err(|_| Reason::PROTOCOL_ERROR)?;
            Ok(Frame::trailers(without_framing(trailers)))
        }))
    }
}

/// Trailers without what would be something else in HTTP/1.1.
fn without_framing(mut trailers: HeaderMap) -> HeaderMap {
    let bad: Vec<_> = trailers.keys().filter(|name| !may_be_trailer(name)).cloned().collect();
    for name in bad {
        trailers.remove(name);
    }
    trailers
}

/// What became of waiting for a stream to take more.
#[derive(Debug, PartialEq, Eq)]
pub enum Room {
    /// It takes a piece.
    Some,
    /// It takes nothing any more.
    Gone(Reason),
}

/// Waits until the other side takes more of a stream, or does not want it any more.
pub fn poll_room(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Room> {
    if let Poll::Ready(reset) = stream.poll_reset(cx) {
        return Poll::Ready(Room::Gone(reset.unwrap_or(Reason::INTERNAL_ERROR)));
    }
    // One byte will do: a piece goes in whole and is cut to the window by the connection.
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        match ready!(stream.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                return Poll::Ready(Room::Gone(error.reason().unwrap_or(Reason::INTERNAL_ERROR)));
            }
            None => return Poll::Ready(Room::Gone(Reason::STREAM_CLOSED)),
        }
    }
    Poll::Ready(Room::Some)
}

/// What of a field may not be and the library lets through: a value that begins or ends with a
/// space, which HTTP/1.1 would cut off (RFC 9113, section 8.2.1), and a name with a quote in it,
/// which is none (RFC 9110, section 5.6.2).
pub fn check_fields(headers: &HeaderMap) -> Result<(), Malformed> {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let outer = |value: &HeaderValue| {
        let bytes = value.as_bytes();
        is_space(bytes.first()) || is_space(bytes.last())
    };
    if headers.values().any(outer) {
        return Err(Malformed("a field value has spaces around it"));
    }
    if headers.keys().any(|name| name.as_str().contains('"')) {
        return Err(Malformed("a field name is not well-formed"));
    }
    Ok(())
}
