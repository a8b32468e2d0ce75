//! An endpoint that answers a case's requests, and tells what it got.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use bytes::BytesMut;
use serin::proxy::http1::chunked::{Chunks, Piece};
use serin::proxy::protocol::http1::head::{EmptyLines, Framing, decode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{ASKED_MAX, Case, Field, sorted};

/// Writes for one answer: each is a turn of both sides.
const PIECES_MAX: usize = 48;

/// Turns in which a client learns what else came.
const TURNS: u32 = 4;

/// Turns that an endpoint waits for a client, which takes a few of them to ask again.
const QUIET_MAX: u32 = 8 * TURNS;

/// A request as the endpoint read it.
#[derive(Debug, PartialEq)]
pub struct Sent {
    line: String,
    fields: Vec<Field>,
    framing: Framing,
    body: BytesMut,
    /// It has come to its end.
    pub whole: bool,
}

impl Sent {
    /// Whether one of them is the beginning of the other.
    pub fn agrees(&self, other: &Self) -> bool {
        let head = |sent: &Self| (sent.line.clone(), sent.fields.clone(), sent.framing);
        let bodies = (&self.body, &other.body);
        head(self) == head(other)
            && (bodies.0.starts_with(bodies.1) || bodies.1.starts_with(bodies.0))
    }
}

/// What an endpoint has done.
#[derive(Default)]
pub struct Log {
    pub sent: RefCell<Vec<Sent>>,
    /// Answers that it has written whole.
    written: Cell<usize>,
}

impl Log {
    /// Until `answers` are written, and until who reads them has seen all of it.
    pub async fn written(&self, answers: usize) {
        while self.written.get() < answers {
            tokio::task::yield_now().await;
        }
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
    }
}

/// Both sides of a connection.
pub fn connected() -> (TcpStream, TcpStream) {
    let (one, other) = UnixStream::pair().expect("two sockets");
    let of_runtime = |stream: UnixStream| {
        stream.set_nonblocking(true).expect("a socket that does not block");
        // A stream of bytes like any other.
        let stream = std::net::TcpStream::from(OwnedFd::from(stream));
        TcpStream::from_std(stream).expect("a socket of the runtime")
    };
    (of_runtime(one), of_runtime(other))
}

/// Reads on. `false` is that the other side has left, or waits for this one: an answer may end
/// with its connection.
async fn has_more(stream: &mut TcpStream, input: &mut BytesMut) -> bool {
    for _ in 0..QUIET_MAX {
        tokio::select! {
            biased;
            read = stream.read_buf(input) => return read.unwrap_or(0) > 0,
            () = tokio::task::yield_now() => {}
        }
    }
    false
}

/// Reads a request's head.
async fn read_head(stream: &mut TcpStream, input: &mut BytesMut) -> Option<Sent> {
    let head = loop {
        if let Some(head) = decode(input, &mut EmptyLines::default()).expect("a request") {
            break head;
        }
        if !has_more(stream, input).await {
            return None;
        }
    };
    let request = &head.request;
    Some(Sent {
        line: format!("{} {} {:?}", request.method, request.uri, request.version),
        fields: sorted(request.fields.iter()),
        framing: head.framing,
        body: BytesMut::new(),
        whole: head.framing == Framing::Ended,
    })
}

/// Reads the rest of the request `at` into `log`; `false` when it does not come.
async fn read_body(log: &Log, at: usize, stream: &mut TcpStream, input: &mut BytesMut) -> bool {
    let framing = log.sent.borrow()[at].framing;
    let mut chunks = Chunks::default();
    loop {
        if let Some(sent) = log.sent.borrow_mut().get_mut(at) {
            match framing {
                Framing::Ended => sent.whole = true,
                Framing::Length(length) => {
                    let left = length as usize - sent.body.len();
                    let piece = input.split_to(left.min(input.len()));
                    sent.body.extend_from_slice(&piece);
                    sent.whole = piece.len() == left;
                }
                Framing::Chunked => {
                    while let Some(piece) = chunks.decode(input).expect("chunks") {
                        match piece {
                            Piece::Data(piece) => sent.body.extend_from_slice(&piece),
                            Piece::End(trailers) => {
                                assert_eq!(trailers, None);
                                sent.whole = true;
                                break;
                            }
                        }
                    }
                }
            }
            if sent.whole {
                assert!(input.is_empty(), "{input:?} behind {sent:?}");
                return true;
            }
        }
        if !has_more(stream, input).await {
            return false;
        }
    }
}

impl Case<'_> {
    /// Answers until there is no answer left, or the client has left, and closes the connection.
    pub async fn serve(&self, stream: TcpStream, log: &Log) {
        self.answer(stream, log).await;
        // Nobody waits for what does not come.
        log.written.set(ASKED_MAX);
        pending::<()>().await;
    }

    async fn answer(&self, mut stream: TcpStream, log: &Log) {
        let mut input = BytesMut::new();
        for (at, (answer, asked)) in self.answers.iter().zip(&self.asked).enumerate() {
            let Some(sent) = read_head(&mut stream, &mut input).await else { return };
            log.sent.borrow_mut().push(sent);
            let answered = if asked.early {
                self.write(&mut stream, answer).await
                    && (self.leaves && !self.goes_on(at)
                        || read_body(log, at, &mut stream, &mut input).await)
            } else {
                read_body(log, at, &mut stream, &mut input).await
                    && self.write(&mut stream, answer).await
            };
            if !answered {
                return;
            }
            log.written.set(log.written.get() + 1);
        }
    }

    /// `false` when the client has left.
    async fn write(&self, stream: &mut TcpStream, answer: &[u8]) -> bool {
        for piece in answer.chunks(self.step.max(answer.len().div_ceil(PIECES_MAX))) {
            if stream.write_all(piece).await.is_err() {
                return false;
            }
            tokio::task::yield_now().await;
        }
        true
    }
}
