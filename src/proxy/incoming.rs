//! A request's body as it comes from its client, whatever the client speaks.
//!
//! Never reads ahead: a piece is asked for when there is somebody to take it.

use std::fmt::Debug;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;

use crate::proxy::http2;

/// Why a request's body did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfinished {
    /// The client went away.
    #[error("the client went away")]
    Gone,
    /// What came is no body.
    #[error("the body of the request has {0}")]
    Malformed(&'static str),
}

/// The reading end of a connection of HTTP/1.1.
pub trait Inbound: Debug {
    /// The next piece.
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Unfinished>>>;

    /// Whether nothing more comes.
    fn is_end_stream(&self) -> bool;

    /// From here on the connection speaks another protocol: all that comes is the body.
    fn open_tunnel(&self);
}

/// A request's body as it comes from its client.
#[derive(Debug)]
pub enum Incoming {
    /// There is none.
    Empty,
    /// In HTTP/1.1.
    Http1(Rc<dyn Inbound>),
    /// In HTTP/2.
    Http2(http2::Incoming),
}

impl Incoming {
    /// The next piece.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Unfinished>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Http1(inbound) => inbound.poll_frame(cx),
            Self::Http2(body) => body.poll_frame(cx).map_err(|_| Unfinished::Gone),
        }
    }

    /// From here on all that comes is the body.
    pub fn open_tunnel(&self) {
        if let Self::Http1(inbound) = self {
            inbound.open_tunnel();
        }
    }

    /// Whether nothing more comes.
    pub fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(inbound) => inbound.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }
}
