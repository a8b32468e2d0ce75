//! What both sides of HTTP/2 share: how a stream's body is taken in and sent.
//!
//! Never takes in more than it passes on and one piece: a window is opened again only when its
//! bytes have gone on their way. Never has an end, a trailer or a reset wait for a window.

pub mod gather;

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use http::header::HeaderValue;
use http_body::Frame;

use crate::proxy::body::without_its_buffer;
use crate::proxy::http1::Malformed;
use crate::proxy::http1::chunked::may_be_trailer;
use crate::proxy::http1::fields::FIELDS_MAX;

/// A stream's body as it comes in.
#[derive(Debug)]
pub struct Incoming {
    stream: RecvStream,
    /// Bytes given out last; whoever asks for more has passed them on.
    given: usize,
    data_ended: bool,
    trailers_ended: bool,
    trailer_bytes_max: usize,
    /// Set when more is asked for, once.
    asked: Option<Rc<Cell<bool>>>,
}

impl Incoming {
    /// Of a stream whose head has come, with trailers of so many bytes at most. Where that is half
    /// of what the library keeps, what it leaves out is noticed, unless one field is as large.
    pub fn of(stream: RecvStream, trailer_bytes_max: usize) -> Self {
        let (data_ended, trailers_ended) = (false, false);
        Self { stream, given: 0, data_ended, trailers_ended, trailer_bytes_max, asked: None }
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
            check_size(&trailers, self.trailer_bytes_max).map_err(|_| Reason::PROTOCOL_ERROR)?;
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

/// A stream's body as it goes out.
#[derive(Debug)]
pub struct Outgoing {
    stream: SendStream<Bytes>,
    /// What the other side has no room for yet, and whether it is the last piece.
    held: Option<(Bytes, bool)>,
    /// That have been taken so far.
    pieces: usize,
    /// Of those that windows have cut, small ones.
    crumbs: u32,
}

/// What a window leaves room for is sent by itself, but not in many parts smaller than this: each
/// has an entry in the library's queue, which costs more than its bytes.
const CRUMB_BYTES: usize = 1 << 10;
const CRUMBS_MAX: u32 = 64;

/// How far a body got.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    /// To its end.
    All,
    /// A piece, or some of it: the other side reads.
    Some,
    /// The other side takes nothing any more.
    Gone(Reason),
}

impl Outgoing {
    /// On a stream whose head has been sent.
    pub fn on(stream: SendStream<Bytes>) -> Self {
        Self { stream, held: None, pieces: 0, crumbs: 0 }
    }

    /// Whether there is room for something to be taken: what was taken last is sent.
    pub fn wants_more(&self) -> bool {
        self.held.is_none()
    }

    /// Takes the next frame of a body, `None` at its end; `last` if nothing follows it. What is no
    /// data goes at once, behind what is on its way.
    pub fn take(&mut self, frame: Option<Frame<Bytes>>, last: bool) -> Sent {
        let sent = match frame.map(Frame::into_data) {
            None => self.stream.send_data(Bytes::new(), true),
            Some(Ok(data)) if data.is_empty() && !last => return Sent::Some,
            Some(Ok(data)) if data.is_empty() => self.stream.send_data(data, true),
            Some(Ok(data)) => {
                self.held = Some((without_its_buffer(&data, self.pieces), last));
                self.pieces += 1;
                return Sent::Some;
            }
            Some(Err(frame)) => match frame.into_trailers() {
                Ok(trailers) if !trailers.is_empty() => self.stream.send_trailers(trailers),
                // Some take an empty block of fields for none at all.
                Ok(_) | Err(_) => self.stream.send_data(Bytes::new(), true),
            },
        };
        sent.map_or_else(|error| Sent::Gone(reason(&error)), |()| Sent::All)
    }

    /// Ready when the other side takes nothing any more.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        self.stream.poll_reset(cx).map(|reset| reset.unwrap_or(Reason::INTERNAL_ERROR))
    }

    /// Sends of what was taken as much as the other side has room for; pending when it has none,
    /// or when there is nothing.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Sent> {
        if let Poll::Ready(reason) = self.poll_gone(cx) {
            return Poll::Ready(Sent::Gone(reason));
        }
        let Some((data, last)) = &mut self.held else { return Poll::Pending };
        self.stream.reserve_capacity(data.len());
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Sent::Gone(reason(&error))),
                None => return Poll::Ready(Sent::Gone(Reason::STREAM_CLOSED)),
            }
        }
        // No more than fits: the next window then tells that the other side reads.
        let mut room = self.stream.capacity().min(data.len());
        if room < CRUMB_BYTES.min(data.len()) {
            self.crumbs += 1;
            if self.crumbs > CRUMBS_MAX {
                room = data.len();
            }
        }
        let part = data.split_to(room);
        let ends = *last && data.is_empty();
        if data.is_empty() {
            self.held = None;
        }
        let sent = if ends { Sent::All } else { Sent::Some };
        Poll::Ready(match self.stream.send_data(part, ends) {
            Ok(()) => sent,
            Err(error) => Sent::Gone(reason(&error)),
        })
    }

    /// Nothing more is sent.
    pub fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }
}

fn reason(error: &h2::Error) -> Reason {
    error.reason().unwrap_or(Reason::INTERNAL_ERROR)
}

/// Of more trailers than it keeps the library leaves some out, and says nothing.
fn check_size(trailers: &HeaderMap, bytes_max: usize) -> Result<(), Malformed> {
    let bytes = trailers.iter().map(|(name, value)| name.as_str().len() + value.len());
    if trailers.len() <= FIELDS_MAX && bytes.sum::<usize>() <= bytes_max {
        return Ok(());
    }
    Err(Malformed("trailers that are too large"))
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
