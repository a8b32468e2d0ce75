//! HTTP/2 frame by frame, as either side, for what no library would send.
//!
//! Never minds the rules: what a test says goes out as it is, and nothing is answered of
//! itself.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::time::within;
use crate::tls::TlsClient;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames.
pub mod kind {
    #![expect(missing_docs, reason = "named as in RFC 9113")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames; `ACK` is that of SETTINGS and PING.
pub mod flag {
    #![expect(missing_docs, reason = "named as in RFC 9113")]
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// See [`kind`].
    pub kind: u8,
    /// See [`flag`].
    pub flags: u8,
    /// 0 is the connection.
    pub stream: u32,
    /// What is in it.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The number in the first bytes of the payload of a reset or a window update, behind
    /// the last stream of a GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == kind::GOAWAY { 4 } else { 0 };
        let bytes = self.payload.get(at..at + 4).expect("a payload with a code");
        u32::from_be_bytes(bytes.try_into().expect("four bytes"))
    }

    /// The status at the beginning of a response's head, the first on its connection.
    pub fn status(&self) -> u16 {
        const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
        let digits = match self.payload[..] {
            [index @ 0x88..=0x8e, ..] => return INDEXED[usize::from(index - 0x88)],
            // A literal, or in the Huffman code.
            [0x08 | 0x18 | 0x48, 3, a, b, c, ..] => [a, b, c].to_vec(),
            [0x08 | 0x18 | 0x48, 0x82 | 0x83, a, b, c, ..] => huffman_digits([a, b, c]),
            [0x08 | 0x18 | 0x48, 0x82, a, b] => huffman_digits([a, b, 0]),
            _ => panic!("no status in {:?}", self.payload),
        };
        let text = String::from_utf8(digits).expect("digits");
        text.parse().unwrap_or_else(|_| panic!("no status in {:?}", self.payload))
    }

    /// Whether it ends its stream's side.
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.flags & flag::END_STREAM != 0
    }
}

/// Three digits in HPACK's Huffman code (RFC 7541, appendix B): five bits up to 2, six beyond.
fn huffman_digits([a, b, c]: [u8; 3]) -> Vec<u8> {
    let mut bits = u32::from_be_bytes([a, b, c, 0]);
    let mut digits = Vec::new();
    for _ in 0..3 {
        let (digit, length) = match bits >> 26 {
            code @ 0..6 => (code >> 1, 5),
            code => (code.saturating_sub(22), 6),
        };
        digits.push(b'0' + u8::try_from(digit).expect("a digit"));
        bits <<= length;
    }
    digits
}

/// Fields as HPACK literals that leave nothing in a table.
pub fn fields<'f>(fields: impl IntoIterator<Item = (&'f str, &'f str)>) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let length = u8::try_from(text.len().min(127)).expect("a byte");
            block.push(length);
            if text.len() >= 127 {
                let mut rest = text.len() - 127;
                while rest >= 128 {
                    block.push(u8::try_from(rest % 128).expect("seven bits") | 0x80);
                    rest /= 128;
                }
                block.push(u8::try_from(rest).expect("seven bits"));
            }
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// The fields of a GET or whatever `method` says, of `path`.
pub fn request_fields(method: &str, path: &str) -> Vec<u8> {
    let authority = "models.example.com";
    fields([(":method", method), (":scheme", "http"), (":path", path), (":authority", authority)])
}

/// One setting.
pub fn setting(name: u16, value: u32) -> Vec<u8> {
    [&name.to_be_bytes()[..], &value.to_be_bytes()[..]].concat()
}

/// A frame as it goes over the wire.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a length").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// What frames go over: TCP, or TLS over it.
trait Stream: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin> Stream for S {}

/// One side of an HTTP/2 connection.
#[derive(Debug)]
pub struct Frames {
    stream: Box<dyn Stream>,
}

impl Frames {
    /// Connects, with the preface and empty settings.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut frames = Self::connect_silently(address).await;
        frames.send_raw(PREFACE).await;
        frames.send(kind::SETTINGS, 0, 0, &[]).await;
        frames
    }

    /// Connects as `tls`, to where `name` is expected and `h2` agreed on, with the preface
    /// and empty settings.
    pub async fn connect_tls(address: SocketAddr, tls: &TlsClient, name: &str) -> Self {
        let tls = tls.clone().offering(&["h2"]);
        let stream = within("a handshake", tls.connect(address, name)).await;
        let stream = stream.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut frames = Self { stream: Box::new(stream) };
        frames.send_raw(PREFACE).await;
        frames.send(kind::SETTINGS, 0, 0, &[]).await;
        frames
    }

    /// Connects and says nothing.
    pub async fn connect_silently(address: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await;
        let stream = stream.expect("a connection");
        stream.set_nodelay(true).expect("an option");
        Self { stream: Box::new(stream) }
    }

    /// Sends one frame. Whether the other side still takes it.
    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.send_raw(&frame(kind, flags, stream, payload)).await
    }

    /// Sends bytes as they are. Whether the other side still takes them.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> bool {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        within("the other side reads", sent).await.is_ok()
    }

    /// Sends a whole request without a body on `stream`.
    pub async fn get(&mut self, stream: u32, path: &str) {
        let flags = flag::END_STREAM | flag::END_HEADERS;
        self.send(kind::HEADERS, flags, stream, &request_fields("GET", path)).await;
    }

    /// The next frame, whatever it is; `None` at the end of the connection.
    pub async fn any(&mut self) -> Option<Frame> {
        within("a frame", self.read()).await
    }

    /// The next frame that is not about the connection's upkeep: no settings, windows, pings.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = self.any().await?;
            if !matches!(frame.kind, kind::SETTINGS | kind::WINDOW_UPDATE | kind::PING) {
                return Some(frame);
            }
        }
    }

    /// Reads frames up to one of `kind`.
    pub async fn until(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.any().await;
            let frame = frame.unwrap_or_else(|| panic!("the end before a frame of kind {kind}"));
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Reads to the end of the connection; the code of the GOAWAY on the way, if one came.
    pub async fn end(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.any().await {
            if frame.kind == kind::GOAWAY {
                code = Some(frame.code());
            }
        }
        code
    }

    /// The body of `stream` to its end, windows opened as it comes.
    pub async fn body(&mut self, stream: u32) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let frame = self.next().await.expect("the end of a body");
            if frame.stream != stream {
                continue;
            }
            assert_ne!(frame.kind, kind::RST_STREAM, "reset with {:?}", frame.payload);
            if frame.kind == kind::DATA {
                body.extend_from_slice(&frame.payload);
                let taken = u32::try_from(frame.payload.len()).expect("a length").to_be_bytes();
                if !frame.payload.is_empty() {
                    self.send(kind::WINDOW_UPDATE, 0, 0, &taken).await;
                    self.send(kind::WINDOW_UPDATE, 0, stream, &taken).await;
                }
            }
            if frame.ends_stream() {
                return body;
            }
        }
    }

    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        Some(Frame { kind, flags, stream, payload })
    }
}

/// Where a test takes the connections of HTTP/2 clients, to answer them by hand.
#[derive(Debug)]
pub struct FrameListener {
    listener: TcpListener,
    /// Where it is.
    pub address: SocketAddr,
}

impl FrameListener {
    /// On a free port.
    pub async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        Self { listener, address }
    }

    /// The next connection, its preface read and `settings` sent.
    pub async fn accept(&self, settings: &[u8]) -> Frames {
        let (stream, _) = within("a connection", self.listener.accept()).await.expect("one");
        stream.set_nodelay(true).expect("an option");
        let mut frames = Frames { stream: Box::new(stream) };
        let mut preface = [0; PREFACE.len()];
        let read = within("the preface", frames.stream.read_exact(&mut preface)).await;
        assert!(read.is_ok() && preface == PREFACE, "not HTTP/2: {preface:?}");
        frames.send(kind::SETTINGS, 0, 0, settings).await;
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_as_rfc_7541_has_it_in_its_examples() {
        for (payload, status) in [
            (&[0x88][..], 200),
            (&[0x8c, 0x0f], 400),
            (&[0x48, 0x03, b'3', b'0', b'7'], 307),
            (&[0x48, 0x82, 0x64, 0x02], 302),
            (&[0x48, 0x83, 0x64, 0x0e, 0xff, 0xc1], 307),
        ] {
            let payload = payload.to_vec();
            let frame = Frame { kind: kind::HEADERS, flags: flag::END_HEADERS, stream: 1, payload };
            assert_eq!(frame.status(), status);
        }
    }
}
