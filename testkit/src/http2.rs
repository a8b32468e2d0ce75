//! A client that speaks cleartext HTTP/2 with prior knowledge.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::time::within;

/// A body that the test sends piece by piece; it ends when the sender is dropped.
#[derive(Debug)]
pub struct Streamed(mpsc::Receiver<Bytes>);

impl Streamed {
    /// A body, and where its pieces go in.
    pub fn new() -> (mpsc::Sender<Bytes>, Self) {
        let (sender, pieces) = mpsc::channel(1);
        (sender, Self(pieces))
    }

    /// A body that is there already.
    pub fn of(text: impl Into<Bytes>) -> Self {
        let (sender, streamed) = Self::new();
        let text = text.into();
        if !text.is_empty() {
            // There is room for one.
            let _ = sender.try_send(text);
        }
        streamed
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// One HTTP/2 connection.
#[derive(Clone, Debug)]
pub struct Http2(SendRequest<Streamed>);

impl Http2 {
    /// Connects to `address`.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.expect("a connection")).await
    }

    /// Speaks over `stream`.
    pub async fn over<S>(stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        // Trailers may be large.
        builder.max_header_list_size(1 << 20);
        let handshake = builder.handshake(TokioIo::new(stream));
        let (sender, connection) = within("an HTTP/2 handshake", handshake).await.expect("HTTP/2");
        tokio::spawn(connection);
        Self(sender)
    }

    /// Sends `request`, its target in absolute form, and waits for the head of the answer.
    pub async fn send(
        &mut self,
        request: Request<Streamed>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        within("an answer over HTTP/2", self.0.send_request(request)).await
    }

    /// Sends `request` and reads the whole answer, as text.
    pub async fn exchange(&mut self, request: Request<Streamed>) -> Response<String> {
        let (head, body) = self.send(request).await.expect("an answer").into_parts();
        let body = within("a body over HTTP/2", body.collect()).await.expect("a body").to_bytes();
        Response::from_parts(head, String::from_utf8_lossy(&body).into_owned())
    }
}
