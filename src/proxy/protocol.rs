//! What a client speaks: HTTP/1.1, or HTTP/2 with prior knowledge.
//!
//! Never looks into a request, and takes any stream, so that it can be tried without a
//! socket.

pub mod http1;
pub mod http2;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::proxy::deadline::Deadline;
use crate::proxy::exchange::Exchange;
use crate::proxy::forward::{Peer, Spoken};
use crate::proxy::socket::Socket;
use crate::proxy::worker::Visit;

/// A stream with a client on its other end.
pub trait ClientStream: AsyncRead + AsyncWrite + Unpin + 'static {
    /// Makes its end one that no client takes for the end of an answer.
    fn make_abrupt(&self);

    /// Writes at once what a [`Socket`] would write later. Others have nothing of that kind.
    fn settle(&self) {}
}

impl ClientStream for Socket {
    fn make_abrupt(&self) {
        Self::make_abrupt(self);
    }

    fn settle(&self) {
        Self::settle(self);
    }
}

impl ClientStream for TlsStream<Socket> {
    fn make_abrupt(&self) {
        self.get_ref().0.make_abrupt();
    }

    fn settle(&self) {
        self.get_ref().0.settle();
    }
}

/// Serves one client until it leaves or the worker drains.
pub async fn serve_connection<S: ClientStream>(mut stream: S, visit: Visit, peer: Peer) {
    let Some((first, head_limit)) = first_bytes(&mut stream, &visit).await else { return };
    // Whatever the protocol, it says itself from here on when it is idle.
    visit.busy();
    let worker = Rc::clone(visit.worker());
    let spoken = peer.spoken;
    let exchange = Exchange::new(Rc::clone(&worker), peer);
    // What was agreed on is held to; where nothing was, the first bytes tell.
    let http2 =
        spoken.map_or_else(|| first.starts_with(http2::PREFACE), |spoken| spoken == Spoken::Http2);
    if http2 {
        let stream = Prefixed { prefix: first, stream };
        Box::pin(http2::serve(stream, &worker, &visit, exchange)).await;
    } else {
        http1::serve(stream, (first, head_limit), visit, exchange).await;
    }
}

/// What comes first, as much as it takes to tell HTTP/2 from HTTP/1.1, and until when the head
/// that it begins is waited for, where that was counted already. `None` when the
/// client left or is not waited for any longer: one that says nothing may be idle for a while,
/// one that has begun to speak is to come to an end.
async fn first_bytes<S: ClientStream>(
    stream: &mut S,
    visit: &Visit,
) -> Option<(BytesMut, Option<Deadline>)> {
    let worker = visit.worker();
    let mut first = BytesMut::new();
    let mut limit: Option<Deadline> = None;
    poll_fn(|cx| {
        loop {
            let mut scratch = worker.scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Pending if first.is_empty() => return visit.poll_idle(cx).map(|()| None),
                Poll::Pending => {
                    // One that has begun to speak is not idle any more.
                    visit.busy();
                    let limit = limit.get_or_insert_with(|| {
                        let max = visit.head_timeout();
                        worker.deadlines.open(worker.clock.now(), Some(max))
                    });
                    return limit.poll(cx).map(|_| None);
                }
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    first.extend_from_slice(buffer.filled());
                }
                Poll::Ready(_) => return Poll::Ready(None),
            }
            let enough = first.len() >= http2::PREFACE.len() || !http2::PREFACE.starts_with(&first);
            if enough {
                return Poll::Ready(Some((std::mem::take(&mut first), limit.take())));
            }
        }
    })
    .await
}

/// A stream of which something was read already.
struct Prefixed<S> {
    prefix: BytesMut,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let given = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix[..given]);
        self.prefix.advance(given);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
