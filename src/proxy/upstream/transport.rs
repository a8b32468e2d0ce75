//! What the bytes to an endpoint go over.
//!
//! Never knows what is spoken on it: both HTTP versions take any of its kinds.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection to an endpoint, before HTTP.
///
/// An enum and not a trait object: the usual kind costs one predictable branch.
#[derive(Debug)]
pub enum Transport {
    /// Without encryption.
    Cleartext(TcpStream),
}

impl Transport {
    /// Dials `address`.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::Cleartext(stream))
    }

    /// Whether others can read along.
    pub fn is_encrypted(&self) -> bool {
        match self {
            Self::Cleartext(_) => false,
        }
    }

    /// Whether the endpoint chose HTTP/2 in the handshake; `None` where there was no choice.
    pub fn chose_http2(&self) -> Option<bool> {
        match self {
            Self::Cleartext(_) => None,
        }
    }

    /// Whether it is neither closed by the endpoint nor has bytes that nobody asked for.
    /// Asks the kernel only when it has told of news.
    pub fn is_quiet(&self) -> bool {
        match self {
            Self::Cleartext(stream) => match stream.try_read(&mut [0]) {
                Ok(_) => false,
                Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            },
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
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Cleartext(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Cleartext(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Cleartext(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Cleartext(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
