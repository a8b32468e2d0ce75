//! What a client speaks: HTTP/1.1, or HTTP/2 with prior knowledge.
//!
//! Never looks into a request, and takes any stream, so that it can be tried without a
//! socket.

pub mod http2;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use http::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::proxy::exchange::Exchange;
use crate::proxy::forward::Peer;
use crate::proxy::incoming::Incoming;
use crate::proxy::worker::{Visit, Worker};

/// Serves one client until it leaves or the worker drains.
pub async fn serve_connection<S>(stream: S, visit: Visit, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let worker = Rc::clone(visit.worker());
    let Ok((stream, http2)) = tell_http2(stream, &worker, &visit).await else {
        return;
    };
    let exchange = Exchange::new(Rc::clone(&worker), peer);
    if http2 {
        http2::serve(stream, &worker, &visit, exchange).await;
        return;
    }
    let service = service_fn(move |request: Request<_>| {
        exchange.clone().answer(request.map(Incoming::Http1))
    });
    let mut builder = http1::Builder::new();
    // Never `pipeline_flush`: with it, hyper takes in all of an answer that its client
    // does not read.
    builder.writev(false);
    // How a connection ends is no news: what went wrong with a request was counted there.
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    until_drained(&worker, &visit, |cx, drain| {
        if drain {
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx).map(drop)
    })
    .await;
}

/// Polls a connection; once the worker drains, the first poll is told so.
async fn until_drained(
    worker: &Worker,
    visit: &Visit,
    mut poll: impl FnMut(&mut Context<'_>, bool) -> Poll<()>,
) {
    let mut told = false;
    poll_fn(|cx| {
        visit.wake_on_drain(cx);
        let drain = worker.is_draining() && !std::mem::replace(&mut told, worker.is_draining());
        poll(cx, drain)
    })
    .await;
}

/// Reads as much as it takes to tell HTTP/2 from HTTP/1.1. `Err` when the client left, or
/// when the worker drains before it said a word.
async fn tell_http2<S: AsyncRead + Unpin>(
    mut stream: S,
    worker: &Worker,
    visit: &Visit,
) -> io::Result<(Prefixed<S>, bool)> {
    let mut prefix = Vec::with_capacity(http2::PREFACE.len());
    loop {
        let mut byte = [0; http2::PREFACE.len()];
        let room = http2::PREFACE.len() - prefix.len();
        let read = {
            let mut read = pin!(stream.read(&mut byte[..room]));
            poll_fn(|cx| {
                visit.wake_on_drain(cx);
                if worker.is_draining() && prefix.is_empty() {
                    return Poll::Ready(Ok(0));
                }
                read.as_mut().poll(cx)
            })
            .await?
        };
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        prefix.extend_from_slice(&byte[..read]);
        let http2 = http2::PREFACE.starts_with(&prefix);
        if !http2 || prefix.len() == http2::PREFACE.len() {
            return Ok((Prefixed { prefix, given: 0, stream }, http2));
        }
    }
}

/// A stream of which something was read already.
struct Prefixed<S> {
    prefix: Vec<u8>,
    given: usize,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.given == self.prefix.len() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let rest = &self.prefix[self.given..];
        let given = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..given]);
        self.given += given;
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

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
