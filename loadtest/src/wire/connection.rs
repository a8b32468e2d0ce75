//! One connection of the generator: asks, and tells when an answer has ended.
//!
//! Never decides when to ask.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::answers::{Malformed, Messages, is_success};
use super::events::Stamps;
use super::http2::{self, Client};
use super::transport::Transport;
use super::would_block;

/// What is asked, as it stands on the wire.
#[derive(Clone, Debug)]
pub enum Request {
    /// Head and body of HTTP/1.1.
    Http1(Rc<[u8]>),
    /// The same, answered by a stream of events.
    Events(Rc<[u8]>),
    /// A header block of HTTP/2.
    Http2(Rc<[u8]>),
}

/// What came of something that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A complete answer to what was meant to start at `start`; whether it was good.
    Answer {
        /// As given to [`Connection::ask`].
        start: u64,
        /// 2xx, and ended as it should.
        good: bool,
    },
    /// An event of a stream that was sent at this time.
    Event(u64),
}

enum Codec {
    Http1 { request: Rc<[u8]>, at: usize, answers: Messages, good: bool },
    Events { request: Rc<[u8]>, at: usize, stamps: Stamps },
    Http2 { client: Client, out: Vec<u8>, open: Vec<(u32, u64, bool)> },
}

/// One connection, several requests at a time where the protocol has that.
pub struct Connection {
    transport: Transport,
    codec: Codec,
    start: u64,
}

impl Connection {
    /// Connects and waits until that is done.
    pub fn open(
        target: SocketAddr,
        request: &Request,
        tls: Option<&Arc<rustls::ClientConfig>>,
    ) -> io::Result<Self> {
        let transport = Transport::open(target, tls)?;
        let codec = match request {
            Request::Http1(request) => Codec::Http1 {
                at: request.len(),
                request: Rc::clone(request),
                answers: Messages::default(),
                good: false,
            },
            Request::Events(request) => Codec::Events {
                at: request.len(),
                request: Rc::clone(request),
                stamps: Stamps::default(),
            },
            Request::Http2(block) => {
                let mut out = Vec::new();
                let client = Client::new(block.to_vec(), &mut out);
                Codec::Http2 { client, out, open: Vec::new() }
            }
        };
        Ok(Self { transport, codec, start: 0 })
    }

    /// What epoll watches.
    pub fn socket(&mut self) -> &mut mio::net::TcpStream {
        self.transport.socket()
    }

    /// Asks once more. `start` is when this was meant to be.
    pub fn ask(&mut self, start: u64) -> io::Result<()> {
        match &mut self.codec {
            Codec::Http1 { at, .. } | Codec::Events { at, .. } => {
                *at = 0;
                self.start = start;
            }
            Codec::Http2 { client, out, open } => {
                let stream = client.ask(out).ok_or(io::ErrorKind::QuotaExceeded)?;
                open.push((stream, start, false));
            }
        }
        Ok(())
    }

    /// Writes what is to be written, as far as the socket takes it.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.codec {
            Codec::Http1 { request, at, .. } | Codec::Events { request, at, .. } => {
                *at += write_some(&mut self.transport, &request[*at..])?;
            }
            Codec::Http2 { out, .. } => {
                let count = write_some(&mut self.transport, out)?;
                out.drain(..count);
            }
        }
        Ok(())
    }

    /// Reads all there is and tells what it was.
    pub fn read(&mut self, scratch: &mut [u8], mut seen: impl FnMut(Seen)) -> io::Result<()> {
        loop {
            let count = match self.transport.read(scratch) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if would_block(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            let fed = self.codec.feed(&scratch[..count], self.start, &mut seen);
            fed.map_err(|Malformed| io::ErrorKind::InvalidData)?;
            if count < scratch.len() && self.transport.short_is_all() {
                return Ok(());
            }
        }
    }
}

impl Codec {
    fn feed(
        &mut self,
        bytes: &[u8],
        start: u64,
        seen: &mut impl FnMut(Seen),
    ) -> Result<(), Malformed> {
        match self {
            Self::Http1 { answers, good, .. } => {
                let good = std::cell::Cell::from_mut(good);
                let end = || seen(Seen::Answer { start, good: good.get() });
                answers.feed(bytes, true, |head| good.set(is_success(head)), end)
            }
            Self::Events { stamps, .. } => {
                stamps.feed(bytes, |sent| seen(Seen::Event(sent)));
                Ok(())
            }
            Self::Http2 { client, out, open } => {
                let open = std::cell::RefCell::new(open);
                let head = |stream, good| {
                    let mut open = open.borrow_mut();
                    if let Some(one) = open.iter_mut().find(|one| one.0 == stream) {
                        one.2 = good;
                    }
                };
                let end = |stream, whole| {
                    let mut open = open.borrow_mut();
                    if let Some(at) = open.iter().position(|one| one.0 == stream) {
                        let (_, start, good) = open.swap_remove(at);
                        seen(Seen::Answer { start, good: good && whole });
                    }
                };
                client.feed(bytes, out, head, end)
            }
        }
    }
}

fn write_some(transport: &mut Transport, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match transport.write(&bytes[written..]) {
            Ok(count) => written += count,
            Err(error) if would_block(&error) => break,
            Err(error) => return Err(error),
        }
    }
    if written > 0 {
        match transport.flush() {
            Err(error) if !would_block(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(written)
}

/// A request of HTTP/1.1: a POST when there is a body.
pub fn http1(target: SocketAddr, path: &str, headers: &[(String, String)], body: usize) -> Vec<u8> {
    let method = if body > 0 { "POST" } else { "GET" };
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {target}\r\n");
    for (name, value) in headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    if body > 0 {
        // Writing to a string cannot fail.
        let _ = write!(text, "content-length: {body}\r\n");
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len() + body, b'x');
    bytes
}

/// The header block of the same request of HTTP/2, without a body.
pub fn http2(target: SocketAddr, path: &str, headers: &[(String, String)]) -> Vec<u8> {
    http2::get_block(&target.to_string(), path, headers)
}
