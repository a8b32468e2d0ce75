//! HTTP/1.1 as bytes on a socket: exactly what is sent, exactly what comes.
//!
//! Never corrects anything: what is broken is told as [`Broken`].

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// Bytes that a head may have.
const HEAD_BYTES_MAX: usize = 1 << 20;

/// How long nothing is taken until nothing more will be.
const QUIET: Duration = Duration::from_millis(500);

/// A connection, and what has come on it and was not yet looked at.
#[derive(Debug)]
pub struct Wire {
    stream: Stream,
    came: Vec<u8>,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why there is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Closed where a message could have begun.
    Closed,
    /// Closed or reset in the middle of a message.
    Cut,
    /// Not HTTP/1.1.
    Garbage(String),
    /// There was no connection to speak of.
    Handshake(String),
}

/// The start line and the fields of a message.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// As it came, with its last empty line.
    pub raw: Vec<u8>,
    /// The first line.
    pub line: String,
    /// In their order, as written.
    pub fields: Vec<(String, String)>,
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As its framing says.
    Whole,
    /// The connection ended first.
    Cut,
}

/// A body that is being read.
#[derive(Clone, Debug)]
pub struct Body {
    framing: Framing,
    /// The trailers, once it has ended.
    pub trailers: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug)]
enum Framing {
    Ended,
    Length(u64),
    /// Bytes left of the present chunk; `None` before the first.
    Chunked(Option<u64>),
    UntilClose,
}

impl Head {
    /// The field `name`, several joined with a comma.
    pub fn field(&self, name: &str) -> Option<String> {
        let same = |(field, _): &&(String, String)| field.eq_ignore_ascii_case(name);
        let values: Vec<_> = self.fields.iter().filter(same).map(|(_, v)| v.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// The word at `index` of the first line.
    pub fn word(&self, index: usize) -> &str {
        self.line.split(' ').nth(index).unwrap_or_default()
    }

    /// The status of a response; 0 when there is none.
    pub fn status(&self) -> u16 {
        self.word(1).parse().unwrap_or(0)
    }

    fn parse(raw: Vec<u8>) -> Result<Self, Broken> {
        let text = String::from_utf8_lossy(&raw).into_owned();
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let fields = fields(lines)?;
        Ok(Self { raw, line, fields })
    }
}

fn fields<'l>(lines: impl Iterator<Item = &'l str>) -> Result<Vec<(String, String)>, Broken> {
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().to_owned()))
    };
    lines.map(|line| field(line).ok_or_else(|| Broken::Garbage(line.to_owned()))).collect()
}

impl Body {
    /// The body of a request with `head`.
    pub fn of_request(head: &Head) -> Self {
        Self::framed(head, Framing::Ended)
    }

    /// The body of a response with `head` to a request with `method`.
    pub fn of_response(head: &Head, method: &str) -> Self {
        let none = method == "HEAD" || matches!(head.status(), 100..200 | 204 | 304);
        if none {
            return Self { framing: Framing::Ended, trailers: Vec::new() };
        }
        Self::framed(head, Framing::UntilClose)
    }

    fn framed(head: &Head, otherwise: Framing) -> Self {
        let chunked = head.field("transfer-encoding").is_some_and(|value| value == "chunked");
        let length = head.field("content-length").and_then(|value| value.parse().ok());
        let framing = match (chunked, length) {
            (true, _) => Framing::Chunked(None),
            (false, Some(length)) => Framing::Length(length),
            (false, None) => otherwise,
        };
        Self { framing, trailers: Vec::new() }
    }

    /// Whether only the end of the connection can end it.
    pub fn is_until_close(&self) -> bool {
        matches!(self.framing, Framing::UntilClose)
    }
}

impl Wire {
    /// Connects to `address`.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await;
        Self::over(stream.unwrap_or_else(|error| panic!("cannot connect to {address}: {error}")))
    }

    /// Speaks over `stream`.
    pub fn over(stream: TcpStream) -> Self {
        // A connection that is gone is found out by the first read.
        let _ = stream.set_nodelay(true);
        Self { stream: Stream::Plain(stream), came: Vec::new() }
    }

    /// Speaks over a TLS connection.
    pub fn over_tls(stream: impl Into<TlsStream<TcpStream>>) -> Self {
        Self { stream: Stream::Tls(Box::new(stream.into())), came: Vec::new() }
    }

    /// Sends `bytes` as they are.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Broken> {
        let bytes = bytes.as_ref();
        let sent = match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(bytes).await,
            Stream::Tls(stream) => match stream.write_all(bytes).await {
                Ok(()) => stream.flush().await,
                failed => failed,
            },
        };
        sent.map_err(|_| Broken::Cut)
    }

    /// Sends bytes without end until none is taken for a while, or `max` are. How many were.
    pub async fn fill(&mut self, max: usize) -> usize {
        static PIECE: [u8; 64 << 10] = [b'x'; 64 << 10];
        let mut sent = 0;
        while sent < max {
            let taking = async {
                match &mut self.stream {
                    Stream::Plain(stream) => stream.write(&PIECE).await,
                    Stream::Tls(stream) => stream.write(&PIECE).await,
                }
            };
            let Ok(taken) = tokio::time::timeout(QUIET, taking).await else { break };
            sent += taken.expect("the other side listens");
        }
        sent
    }

    /// Says that nothing more will be sent.
    pub async fn close_writing(&mut self) {
        let _ = match &mut self.stream {
            Stream::Plain(stream) => stream.shutdown().await,
            Stream::Tls(stream) => stream.shutdown().await,
        };
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        let socket = match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
        };
        let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
    }

    /// Reads what comes; `false` at the end of the connection, however that came.
    async fn more(&mut self) -> bool {
        let mut part = vec![0; 64 << 10];
        let read = match &mut self.stream {
            Stream::Plain(stream) => stream.read(&mut part).await,
            Stream::Tls(stream) => stream.read(&mut part).await,
        };
        match read {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.came.extend_from_slice(&part[..count]);
                true
            }
        }
    }

    /// The next `count` bytes, or fewer at the end of the connection.
    pub async fn raw(&mut self, count: usize) -> Vec<u8> {
        while self.came.len() < count && self.more().await {}
        self.came.drain(..count.min(self.came.len())).collect()
    }

    /// Waits for the end of the connection, and returns what came until then.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.came)
    }

    /// Waits until the other side is gone; what it still says is kept.
    pub async fn left(&mut self) {
        while self.more().await {}
    }

    /// The head of the next message.
    pub async fn head(&mut self) -> Result<Head, Broken> {
        loop {
            if let Some(end) = find(&self.came, b"\r\n\r\n") {
                let raw = self.came.drain(..end + 4).collect();
                return Head::parse(raw);
            }
            if self.came.len() > HEAD_BYTES_MAX {
                return Err(Broken::Garbage("a head without an end".to_owned()));
            }
            if !self.more().await {
                return Err(if self.came.is_empty() { Broken::Closed } else { Broken::Cut });
            }
        }
    }

    /// The next piece of `body`, as soon as there is one; `None` at its end.
    pub async fn piece(&mut self, body: &mut Body) -> Result<Option<Vec<u8>>, Broken> {
        loop {
            match body.framing {
                Framing::Ended | Framing::Length(0) => return Ok(None),
                Framing::Chunked(left @ (None | Some(0))) => {
                    let size = self.chunk_size(left.is_some()).await?;
                    body.framing = Framing::Chunked(Some(size));
                    if size == 0 {
                        body.framing = Framing::Ended;
                        body.trailers = self.trailers().await?;
                    }
                }
                Framing::UntilClose if self.came.is_empty() => {
                    if !self.more().await {
                        body.framing = Framing::Ended;
                    }
                }
                Framing::UntilClose => return Ok(Some(std::mem::take(&mut self.came))),
                Framing::Length(left) | Framing::Chunked(Some(left)) => {
                    if self.came.is_empty() && !self.more().await {
                        return Err(Broken::Cut);
                    }
                    let count = (self.came.len() as u64).min(left);
                    let data = self.came.drain(..count as usize).collect();
                    body.framing = match body.framing {
                        Framing::Chunked(_) => Framing::Chunked(Some(left - count)),
                        _ => Framing::Length(left - count),
                    };
                    return Ok(Some(data));
                }
            }
        }
    }

    /// All that is left of `body`, as far as it comes.
    pub async fn body(&mut self, body: &mut Body) -> (Vec<u8>, End) {
        let mut all = Vec::new();
        loop {
            match self.piece(body).await {
                Ok(Some(piece)) => all.extend(piece),
                Ok(None) => return (all, End::Whole),
                Err(_) => return (all, End::Cut),
            }
        }
    }

    async fn line(&mut self) -> Result<String, Broken> {
        loop {
            if let Some(end) = find(&self.came, b"\r\n") {
                let line: Vec<u8> = self.came.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.more().await {
                return Err(Broken::Cut);
            }
        }
    }

    async fn chunk_size(&mut self, after_another: bool) -> Result<u64, Broken> {
        if after_another {
            let end = self.line().await?;
            if !end.is_empty() {
                return Err(Broken::Garbage(end));
            }
        }
        let line = self.line().await?;
        let size = line.split(';').next().unwrap_or_default().trim();
        u64::from_str_radix(size, 16).map_err(|_| Broken::Garbage(line.clone()))
    }

    async fn trailers(&mut self) -> Result<Vec<(String, String)>, Broken> {
        let mut lines = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return fields(lines.iter().map(String::as_str));
            }
            lines.push(line);
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn said(bytes: &[u8]) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Wire::connect(listener.local_addr().unwrap()).await;
        let (mut other, _) = listener.accept().await.unwrap();
        other.write_all(bytes).await.unwrap();
        wire
    }

    #[tokio::test]
    async fn a_chunked_body_is_read_with_its_trailers() {
        let mut wire = said(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
              3;x=y\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nX-Sum: 7\r\n\r\n",
        )
        .await;
        let head = wire.head().await.unwrap();
        let mut body = Body::of_response(&head, "GET");
        let (data, end) = wire.body(&mut body).await;
        assert_eq!((data.as_slice(), end), (&b"abc0123456789abcdef"[..], End::Whole));
        assert_eq!(body.trailers, [("X-Sum".to_owned(), "7".to_owned())]);
    }

    #[tokio::test]
    async fn a_body_that_ends_early_is_cut() {
        for head in ["content-length: 9", "transfer-encoding: chunked"] {
            let text = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n3\r\nabc\r\n");
            let mut wire = said(text.as_bytes()).await;
            let head = wire.head().await.unwrap();
            let (_, end) = wire.body(&mut Body::of_response(&head, "GET")).await;
            assert_eq!(end, End::Cut);
        }
    }
}
