//! A request's body as it comes from a client, whatever the client speaks.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::proxy::http2;

/// A request's body as it comes from a client.
#[derive(Debug)]
pub enum Incoming {
    /// Over HTTP/1.1.
    Http1(hyper::body::Incoming),
    /// Over HTTP/2.
    Http2(http2::Incoming),
}

/// The client went away, or what it sent is no body.
#[derive(Debug)]
pub struct Broken;

impl Body for Incoming {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|polled| polled.map(|one| one.map_err(|_| Broken))),
            Self::Http2(body) => {
                body.poll_frame(cx).map(|polled| polled.map(|one| one.map_err(|_| Broken)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(_) => SizeHint::default(),
        }
    }
}
