//! A request, for both clients.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request};
use http_body::{Body, Frame, SizeHint};
use serin::proxy::body::Source;
use serin::proxy::incoming::{Inbound, Incoming, Unfinished};
use serin::traffic::fields::Known;
use serin::traffic::message::RequestHead;

pub struct Asked {
    pub method: Method,
    pieces: Vec<Bytes>,
    chunked: bool,
    /// Between two pieces the client takes its time.
    slow: bool,
    /// It is answered when its head is there.
    pub early: bool,
}

impl Asked {
    /// The lowest bits tell the method and the framing, the next the pieces of the body, the
    /// others in which order all is done, and how large the pieces are.
    pub fn of(byte: u8) -> Self {
        let method = match byte % 4 {
            0 => Method::GET,
            1 => Method::HEAD,
            _ => Method::POST,
        };
        let pieces = if byte % 4 < 2 { 0 } else { usize::from(byte >> 2) % 8 };
        let bytes = if byte & 0x80 == 0 { 7 } else { 1 << 10 };
        let pieces = vec![Bytes::from(vec![b'b'; bytes]); pieces];
        let (slow, early) = (byte & 0x20 != 0, byte & 0x40 != 0);
        Self { method, pieces, chunked: byte % 4 == 3, slow, early }
    }

    /// Whether its answer may come before its end.
    pub fn is_early(&self) -> bool {
        self.early && (self.chunked || !self.pieces.is_empty())
    }

    fn length(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    pub fn head(&self) -> RequestHead {
        let mut head = RequestHead::new(self.method.clone(), http::Uri::from_static("/v1?x=1"));
        head.fields.insert(Known::Host, "h");
        if self.chunked {
            head.fields.insert(Known::TransferEncoding, "chunked");
        } else if self.method == Method::POST {
            head.fields.insert_number(Known::ContentLength, self.length() as u64);
        }
        head
    }

    fn rest(&self) -> Rest {
        Rest { pieces: self.pieces.clone().into(), slow: self.slow, waited: false }
    }

    pub fn source(&self) -> Rc<Source> {
        if !self.slow {
            return Source::of_kept(self.pieces.clone());
        }
        Source::new(Incoming::Http1(Rc::new(Slow(RefCell::new(self.rest())))))
    }

    pub fn to_hyper(&self) -> Request<Pieces> {
        let head = self.head();
        let exact = (!self.chunked).then(|| self.length() as u64);
        let mut request = Request::new(Pieces { rest: self.rest(), exact });
        (*request.method_mut(), *request.uri_mut()) = (head.method, head.uri);
        *request.headers_mut() = head.fields.to_map();
        request
    }
}

/// Pieces that have not been asked for.
#[derive(Debug)]
struct Rest {
    pieces: VecDeque<Bytes>,
    slow: bool,
    waited: bool,
}

impl Rest {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        if self.slow && !self.pieces.is_empty() {
            self.waited = !self.waited;
            if self.waited {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        Poll::Ready(self.pieces.pop_front().map(Frame::data))
    }
}

/// A body for hyper.
pub struct Pieces {
    rest: Rest,
    exact: Option<u64>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.rest.poll(cx).map(|frame| frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.pieces.is_empty() && self.exact.is_some()
    }

    fn size_hint(&self) -> SizeHint {
        self.exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A body for Serin that comes from a client.
#[derive(Debug)]
struct Slow(RefCell<Rest>);

impl Inbound for Slow {
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Unfinished>>> {
        self.0.borrow_mut().poll(cx).map(|frame| frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.borrow().pieces.is_empty()
    }

    fn open_tunnel(&self) {}
}
