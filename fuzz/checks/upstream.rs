//! The HTTP/1.1 client towards endpoints beside hyper's: the same questions to an endpoint that
//! answers both the same bytes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Version};
use http_body::{Body, Frame, SizeHint};
use hyper_util::rt::TokioIo;
use serin::clock::Clock;
use serin::proxy::body::{RequestBody, Source};
use serin::proxy::deadline::Deadlines;
use serin::proxy::http1::chunked::{Chunks, Piece, may_be_trailer};
use serin::proxy::http1::fields::FIELDS_MAX;
use serin::proxy::incoming::{Inbound, Incoming, Unfinished};
use serin::proxy::interim::Interims;
use serin::proxy::protocol::http1::head::{EmptyLines, Framing, decode};
use serin::proxy::socket::{Socket, write_late};
use serin::proxy::upstream::http1::Connection;
use serin::proxy::upstream::transport::Transport;
use serin::traffic::fields::Known;
use serin::traffic::message::{RequestHead, Response};
use serin::traffic::retry::Timeouts;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::signal::unix::{SignalKind, signal};

/// What one answer ends with in the bytes of a case, and the next begins behind.
const BETWEEN: &[u8] = b"\0\0";

/// Requests on one connection.
const ASKED_MAX: usize = 3;

/// Writes for one answer: each is a turn of both sides.
const PIECES_MAX: usize = 48;

/// Turns in which a client learns what else came.
const TURNS: u32 = 4;

/// Turns that an endpoint waits for a client, which takes a few of them to ask again.
const QUIET_MAX: u32 = 8 * TURNS;

/// Whatever an endpoint answers, what is taken for a response is one for hyper too, and both
/// read the same in it: status, version, fields, body, trailers, what came before, and whether
/// the connection may be used again. What hyper takes and Serin does not is one of the things
/// that [`refuses`] names. Both send the same requests. Where an answer comes before its request
/// has ended, Serin may close the connection, and read what hyper does not, whom an endpoint
/// that stops reading keeps from it.
///
/// The first byte tells in how large pieces answers arrive, whether Serin writes at the end of a
/// turn, and whether the endpoint reads no more once it has given its last answer; the next three
/// what is asked. The rest is answers with two NULs between them; behind the last the connection
/// is closed.
pub fn check(data: &[u8]) {
    let Some(([step, asked @ ..], answers)) = data.split_first_chunk::<{ ASKED_MAX + 1 }>() else {
        return;
    };
    let case = Case {
        step: usize::from(*step & 0x3f) + 1,
        leaves: *step & 0x40 != 0,
        asked: asked.iter().map(|byte| Asked::of(*byte)).collect(),
        answers: split(answers),
    };
    RUNTIME.with(|runtime| {
        let (ours, sent) = runtime.block_on(async {
            let writer = (*step & 0x80 != 0).then(|| tokio::task::spawn_local(write_late()));
            let asked = case.ask_ours().await;
            if let Some(writer) = writer {
                writer.abort();
                let _ = writer.await;
            }
            asked
        });
        let (theirs, sent_by_hyper) = runtime.block_on(case.ask_hyper());
        // To an endpoint of HTTP/1.0 hyper speaks that from then on.
        let is_old = |read: &Result<Read, _>| {
            read.as_ref().is_ok_and(|read| read.version == Version::HTTP_10)
        };
        let same = theirs.iter().position(is_old).map_or(ASKED_MAX, |at| at + 1);
        for (at, (ours, theirs)) in sent.iter().zip(&sent_by_hyper).take(same).enumerate() {
            // Whoever has an answer may stop to ask.
            let cut = case.asked[at].is_early() && !(ours.whole && theirs.whole);
            let same = if cut { ours.agrees(theirs) } else { ours == theirs };
            assert!(same, "request {at}: {ours:?} and {theirs:?}");
        }
        case.compare(&ours, &theirs);
    });
}

thread_local! {
    /// Made once: most of a case would be its making.
    static RUNTIME: LocalRuntime = {
        let runtime = Builder::new_current_thread().enable_io().build_local(LocalOptions::default());
        let runtime = runtime.expect("a runtime");
        // Whoever writes to an endpoint that has left is to be told, and not ended, as in Serin.
        let pipe = runtime.block_on(async { signal(SignalKind::pipe()) });
        drop(pipe.expect("a handler"));
        runtime
    };
}

fn split(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut answers = Vec::new();
    while answers.len() + 1 < ASKED_MAX
        && let Some(at) = rest.windows(BETWEEN.len()).position(|two| two == BETWEEN)
    {
        answers.push(&rest[..at]);
        rest = &rest[at + BETWEEN.len()..];
    }
    answers.push(rest);
    answers
}

struct Case<'a> {
    step: usize,
    leaves: bool,
    asked: Vec<Asked>,
    answers: Vec<&'a [u8]>,
}

/// A request.
struct Asked {
    method: Method,
    pieces: Vec<Bytes>,
    chunked: bool,
    /// Between two pieces the client takes its time.
    slow: bool,
    /// It is answered when its head is there.
    early: bool,
}

impl Asked {
    /// The lowest bits tell the method and the framing, the next the pieces of the body, the
    /// others in which order all is done, and how large the pieces are.
    fn of(byte: u8) -> Self {
        let method = match byte % 4 {
            0 => Method::GET,
            1 => Method::HEAD,
            _ => Method::POST,
        };
        let pieces = if byte % 4 < 2 { 0 } else { usize::from(byte >> 2) % 8 };
        let bytes = if byte & 0x80 == 0 { 7 } else { 1 << 10 };
        let pieces = vec![Bytes::from(vec![b'b'; bytes]); pieces];
        let (slow, early) = (byte & 0x20 != 0, byte & 0x40 != 0);
        Self { method, pieces, chunked: byte % 4 == 3, slow, early }
    }

    /// Whether its answer may come before its end.
    fn is_early(&self) -> bool {
        self.early && (self.chunked || !self.pieces.is_empty())
    }

    fn length(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    fn head(&self) -> RequestHead {
        let mut head = RequestHead::new(self.method.clone(), http::Uri::from_static("/v1?x=1"));
        head.fields.insert(Known::Host, "h");
        if self.chunked {
            head.fields.insert(Known::TransferEncoding, "chunked");
        } else if self.method == Method::POST {
            head.fields.insert_number(Known::ContentLength, self.length() as u64);
        }
        head
    }

    fn rest(&self) -> Rest {
        Rest { pieces: self.pieces.clone().into(), slow: self.slow, waited: false }
    }

    fn source(&self) -> Rc<Source> {
        if !self.slow {
            return Source::of_kept(self.pieces.clone());
        }
        Source::new(Incoming::Http1(Rc::new(Slow(RefCell::new(self.rest())))))
    }

    fn to_hyper(&self) -> Request<Pieces> {
        let head = self.head();
        let exact = (!self.chunked).then(|| self.length() as u64);
        let mut request = Request::new(Pieces { rest: self.rest(), exact });
        (*request.method_mut(), *request.uri_mut()) = (head.method, head.uri);
        *request.headers_mut() = head.fields.to_map();
        request
    }
}

/// Pieces that have not been asked for.
#[derive(Debug)]
struct Rest {
    pieces: VecDeque<Bytes>,
    slow: bool,
    waited: bool,
}

impl Rest {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        if self.slow && !self.pieces.is_empty() {
            self.waited = !self.waited;
            if self.waited {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        Poll::Ready(self.pieces.pop_front().map(Frame::data))
    }
}

/// A body for hyper.
struct Pieces {
    rest: Rest,
    exact: Option<u64>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.rest.poll(cx).map(|frame| frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.pieces.is_empty() && self.exact.is_some()
    }

    fn size_hint(&self) -> SizeHint {
        self.exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A body for Serin that comes from a client.
#[derive(Debug)]
struct Slow(RefCell<Rest>);

impl Inbound for Slow {
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Unfinished>>> {
        self.0.borrow_mut().poll(cx).map(|frame| frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.borrow().pieces.is_empty()
    }

    fn open_tunnel(&self) {}
}

/// A request as the endpoint read it.
#[derive(Debug, PartialEq)]
struct Sent {
    line: String,
    fields: Vec<Field>,
    framing: Framing,
    body: BytesMut,
    /// It has come to its end.
    whole: bool,
}

impl Sent {
    /// Whether one of them is the beginning of the other.
    fn agrees(&self, other: &Self) -> bool {
        let head = |sent: &Self| (sent.line.clone(), sent.fields.clone(), sent.framing);
        let bodies = (&self.body, &other.body);
        head(self) == head(other)
            && (bodies.0.starts_with(bodies.1) || bodies.1.starts_with(bodies.0))
    }
}

/// A response as a client read it.
#[derive(Clone, Debug, PartialEq)]
struct Read {
    status: u16,
    version: Version,
    /// But for its length, which may be told in several ways.
    fields: Vec<Field>,
    length: Option<u64>,
    body: Vec<u8>,
    trailers: Vec<Field>,
    /// Statuses of what came before it.
    interims: Vec<u16>,
    reusable: bool,
}

/// The name in small letters.
type Field = (String, Vec<u8>);

/// Until the connection could not be used again.
type Answered = Vec<Result<Read, String>>;

fn sorted<'f>(fields: impl Iterator<Item = (&'f str, &'f [u8])>) -> Vec<Field> {
    let mut fields: Vec<_> =
        fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec())).collect();
    // Several values of one name stay in their order.
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    fields
}

fn fields_of(map: &HeaderMap) -> Vec<Field> {
    sorted(map.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}

/// The fields without their length, and that: of several that are equal there is one.
fn part_length(mut fields: Vec<Field>) -> (Vec<Field>, Option<u64>) {
    let length = fields.iter().find(|(name, _)| name == "content-length");
    let length = length.and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok());
    fields.retain(|(name, _)| name != "content-length");
    (fields, length)
}

/// What an endpoint has done.
#[derive(Default)]
struct Log {
    sent: RefCell<Vec<Sent>>,
    /// Answers that it has written whole.
    written: Cell<usize>,
}

impl Log {
    /// Until `answers` are written, and until who reads them has seen all of it.
    async fn written(&self, answers: usize) {
        while self.written.get() < answers {
            tokio::task::yield_now().await;
        }
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
    }
}

/// Both sides of a connection.
fn connected() -> (TcpStream, TcpStream) {
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

/// Asks as a worker does. The connection, if it may be used again.
async fn ask_ours(
    connection: Box<Connection>,
    asked: &Asked,
) -> Result<(Read, Option<Box<Connection>>), String> {
    let deadlines = Rc::new(Deadlines::new(Clock::start()));
    let wait = Rc::new(deadlines.open(deadlines.now(), None));
    let body = RequestBody::new(asked.source(), wait, Timeouts::default());
    let interims = Interims::default();
    let response = connection.send(&asked.head(), body, Some(&interims)).await;
    let Response { head, mut body } = response.map_err(|failed| failed.fault.to_string())?;
    let (fields, length) = part_length(sorted(head.fields.iter()));
    let (mut data, mut trailers) = (Vec::new(), Vec::new());
    while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
        match frame.map_err(|fault| fault.to_string())?.into_data() {
            Ok(piece) => data.extend_from_slice(&piece),
            Err(frame) => trailers = frame.trailers_ref().map(fields_of).unwrap_or_default(),
        }
    }
    let connection = body.into_reusable();
    let read = Read {
        status: head.status.as_u16(),
        version: head.version,
        fields,
        length,
        body: data,
        trailers,
        interims: interims.take().iter().map(|head| head.status.as_u16()).collect(),
        reusable: connection.is_some(),
    };
    Ok((read, connection))
}

async fn ask_hyper(
    sender: &mut hyper::client::conn::http1::SendRequest<Pieces>,
    asked: &Asked,
) -> Result<Read, hyper::Error> {
    let mut request = asked.to_hyper();
    let interims = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&interims);
    hyper::ext::on_informational(&mut request, move |interim| {
        // Serin says it itself, and passes none on.
        if interim.status() != http::StatusCode::CONTINUE {
            seen.lock().expect("nobody panics here").push(interim.status().as_u16());
        }
    });
    let (head, mut body) = sender.send_request(request).await?.into_parts();
    let (fields, length) = part_length(fields_of(&head.headers));
    let (mut data, mut trailers) = (Vec::new(), Vec::new());
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame?.into_data() {
            Ok(piece) => data.extend_from_slice(&piece),
            Err(frame) => trailers = frame.trailers_ref().map(fields_of).unwrap_or_default(),
        }
    }
    let interims = std::mem::take(&mut *interims.lock().expect("nobody panics here"));
    let (status, version) = (head.status.as_u16(), head.version);
    let body = data;
    Ok(Read { status, version, fields, length, body, trailers, interims, reusable: true })
}

impl Case<'_> {
    /// Answers until there is no answer left, or the client has left, and closes the connection.
    async fn serve(&self, stream: TcpStream, log: &Log) {
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

    /// Whether there is a request behind this one.
    fn goes_on(&self, at: usize) -> bool {
        at + 1 < self.answers.len()
    }

    async fn ask_ours(&self) -> (Answered, Vec<Sent>) {
        let (stream, other) = connected();
        let log = Log::default();
        let asking = async {
            let mut answered = Vec::new();
            let mut connection =
                Box::new(Connection::over(Transport::Cleartext(Socket::new(stream))));
            for (at, asked) in self.asked[..self.answers.len()].iter().enumerate() {
                match ask_ours(connection, asked).await {
                    Ok((mut read, Some(mut open))) if self.goes_on(at) => {
                        log.written(at + 1).await;
                        read.reusable = open.is_open();
                        let reusable = read.reusable;
                        answered.push(Ok(read));
                        if !reusable {
                            break;
                        }
                        connection = open;
                    }
                    Ok((mut read, _)) => {
                        read.reusable = false;
                        answered.push(Ok(read));
                        break;
                    }
                    Err(fault) => {
                        answered.push(Err(fault));
                        break;
                    }
                }
            }
            // Until the endpoint has read what was sent.
            log.written(answered.len()).await;
            answered
        };
        let answered = tokio::select! {
            answered = asking => answered,
            () = self.serve(other, &log) => unreachable!(),
        };
        (answered, log.sent.into_inner())
    }

    async fn ask_hyper(&self) -> (Answered, Vec<Sent>) {
        let (stream, other) = connected();
        let log = Log::default();
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder.max_headers(FIELDS_MAX);
        let (mut sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.expect("there is no handshake");
        let asking = async {
            let mut answered = Vec::new();
            for (at, asked) in self.asked[..self.answers.len()].iter().enumerate() {
                let read = ask_hyper(&mut sender, asked).await;
                let Ok(mut read) = read else {
                    answered.push(read.map_err(|error| error.to_string()));
                    break;
                };
                read.reusable = self.goes_on(at) && {
                    log.written(at + 1).await;
                    sender.is_ready()
                };
                let reusable = read.reusable;
                answered.push(Ok(read));
                if !reusable {
                    break;
                }
            }
            log.written(answered.len()).await;
            answered
        };
        let answered = tokio::select! {
            answered = asking => answered,
            () = self.serve(other, &log) => unreachable!(),
            () = async { let _ = connection.await; pending().await } => unreachable!(),
        };
        (answered, log.sent.into_inner())
    }

    fn compare(&self, ours: &Answered, theirs: &Answered) {
        for (at, answer) in self.answers.iter().enumerate() {
            let asked = &self.asked[at];
            let (text, method) = (answer.escape_ascii(), &asked.method);
            match (ours.get(at), theirs.get(at)) {
                (None, _) | (Some(Err(_)), Some(Err(_)) | None) => return,
                (Some(Err(fault)), Some(Ok(read))) => {
                    let refused = refuses(fault, answer, method, read);
                    assert!(refused, "{method} {text}: {fault}, but hyper: {read:?}");
                    return;
                }
                (Some(Ok(read)), Some(Ok(same))) => {
                    let mut same = same.clone();
                    same.trailers.retain(|(name, _)| may_be_trailer(&name.parse().unwrap()));
                    same.reusable &= read.reusable || !(may_close(&same) || asked.is_early());
                    assert_eq!(*read, same, "{method} {text}");
                }
                // Hyper reads nothing once it cannot write.
                (Some(Ok(_)), Some(Err(error))) if asked.is_early() && !is_about_bytes(error) => {
                    return;
                }
                (Some(Ok(read)), theirs) => {
                    panic!("{method} {text}: {read:?}, but hyper: {theirs:?}");
                }
            }
        }
    }
}

/// Whether hyper's `error` is about what it read, and not about the connection.
fn is_about_bytes(error: &str) -> bool {
    ["invalid", "message head"].iter().any(|begin| error.starts_with(begin))
}

/// Whether Serin may have read that a connection is to be closed where hyper did not, who reads
/// no `connection` that is not ASCII.
fn may_close(read: &Read) -> bool {
    read.fields.iter().any(|(name, value)| name == "connection" && !value.is_ascii())
}

/// Whether what hyper took is one of the things that Serin refuses on purpose.
fn refuses(fault: &str, answer: &[u8], method: &Method, read: &Read) -> bool {
    let names = |field: &str| read.fields.iter().any(|(name, _)| name == field);
    let mut lines = answer.split_inclusive(|byte| *byte == b'\n');
    match fault.trim_start_matches("the response has ") {
        "a line that ends without CR" | "trailers that are none" => {
            lines.any(|line| line.ends_with(b"\n") && !line.ends_with(b"\r\n"))
        }
        "a status that is none" => read.status >= 600,
        "empty lines without end" => lines.filter(|line| *line == b"\r\n").count() > 4,
        "both a length and a transfer coding" | "a transfer coding that is not `chunked` alone" => {
            names("transfer-encoding")
        }
        "a length that is none" | "two lengths" => {
            // Hyper looks for a length where it would frame the body alone, and takes lists.
            let is_list = lines.any(|line| {
                let name = line.get(..15).unwrap_or_default();
                name.eq_ignore_ascii_case(b"content-length:") && line.contains(&b',')
            });
            is_list
                || *method == Method::HEAD
                || matches!(read.status, 204 | 304)
                || names("transfer-encoding")
        }
        // Those that are not passed on count too.
        "an interim response too many" => {
            read.status == 101 || lines.filter(|line| line.starts_with(b"HTTP/1.")).count() > 16
        }
        // Extensions that are none, and zeros in front without end.
        "a chunk size that is none" => lines.any(|line| {
            let line = line.strip_suffix(b"\r\n").unwrap_or(line);
            let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            let rest = &line[digits..];
            digits > 16 || (digits > 0 && rest.iter().any(|byte| !byte.is_ascii_graphic()))
        }),
        _ => false,
    }
}
