//! What the bytes to an endpoint go over.
//!
//! Never knows what is spoken on it: both HTTP versions take any of its kinds.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::proxy::socket::Socket;

/// A connection to an endpoint, before HTTP.
///
/// An enum and not a trait object: the usual kind costs one predictable branch.
#[derive(Debug)]
pub enum Transport {
    /// Without encryption.
    Cleartext(Socket),
    /// TLS.
    Encrypted(Box<TlsStream<Socket>>),
}

impl Transport {
    /// Dials `address`.
    pub async fn dial(address: SocketAddr) -> io::Result<Socket> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Socket::new(stream))
    }

    /// Whether others can read along.
    pub fn is_encrypted(&self) -> bool {
        match self {
            Self::Cleartext(_) => false,
            Self::Encrypted(_) => true,
        }
    }

    /// Whether the endpoint chose HTTP/2 in the handshake; `None` where there was no choice.
    pub fn chose_http2(&self) -> Option<bool> {
        match self {
            Self::Cleartext(_) => None,
            Self::Encrypted(stream) => Some(stream.get_ref().1.alpn_protocol() == Some(b"h2")),
        }
    }

    /// Whether it is neither closed by the endpoint nor has bytes that nobody asked for.
    /// Asks the kernel only when it has told of news.
    pub fn is_quiet(&mut self) -> bool {
        match self {
            // The endpoint has not taken all of the last request.
            Self::Cleartext(socket) if !socket.is_settled() => false,
            Self::Encrypted(stream) if !stream.get_ref().0.is_settled() => false,
            // What comes may be for TLS alone, such as a ticket for the next session.
            Self::Encrypted(stream) => {
                let mut byte = [0];
                let mut cx = Context::from_waker(Waker::noop());
                Pin::new(stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
            }
            Self::Cleartext(socket) => socket.is_silent(),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Cleartext(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Encrypted(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Cleartext(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Encrypted(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Cleartext(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Encrypted(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Cleartext(stream) => stream.is_write_vectored(),
            Self::Encrypted(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Cleartext(stream) => Pin::new(stream).poll_flush(cx),
            Self::Encrypted(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Cleartext(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Encrypted(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
