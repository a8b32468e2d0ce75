//! HTTP/1.1 to an endpoint, spoken in the task of the request: no channel, no second task.
//!
//! Never forwards what is not one well-formed message: a response whose framing is in doubt
//! is a fault of the endpoint, and its connection is not used again.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use crate::proxy::body::RequestBody;
use crate::proxy::http1::chunked::{Chunks, Piece};
use crate::proxy::http1::fields::{HEAD_BYTES_MAX, content_length};
use crate::proxy::http1::outgoing::Outgoing;
use crate::proxy::http1::warm::{self, WARM_BYTES_MIN};
use crate::proxy::interim::Interims;
use crate::proxy::upstream::fault::Fault;
use crate::proxy::upstream::head::{self, decode_head, encode_head, response_framing};
use crate::proxy::upstream::transport::Transport;
use crate::traffic::fields::{Fields, Known};
use crate::traffic::message::{RequestHead, Response, ResponseHead, Upgrade};

/// Interim responses (1xx) before the final one.
const INTERIM_MAX: u32 = 16;

/// Empty lines before an answer: some endpoints send one too many after the last.
const EMPTY_LINES_MAX: u32 = 4;

/// Reads start small and grow while they fill: most answers are short, but copying a
/// megabyte in small steps costs more than the megabyte. As much is kept of each answer that its
/// client does not take.
const READ_BYTES_MIN: usize = 8 << 10;
const READ_BYTES_MAX: usize = 128 << 10;

/// The same where many answers may wait for one client.
const SMALL_READ_BYTES_MAX: usize = 64 << 10;

/// A connection to an endpoint.
#[derive(Debug)]
pub struct Connection {
    stream: Transport,
    input: BytesMut,
    /// Bytes of `input` in which there is no end of a head.
    looked_at: usize,
    /// Before the heads of the present answer.
    empty_lines: u32,
    /// `input` is one that goes from one connection to the next.
    is_lent: bool,
    read_bytes: usize,
    /// Whether reads stay small.
    small_reads: bool,
    output: Outgoing,
    /// Has served a request before.
    reused: bool,
}

/// A request that failed before its response's head.
#[derive(Debug)]
pub struct Failed {
    /// What went wrong.
    pub fault: Fault,
    /// Whether the connection had served a request before.
    pub reused: bool,
    /// Whether not one byte of a response came.
    pub silent: bool,
}

/// A response's body, with its connection and with what is left of the request.
#[derive(Debug)]
pub struct Body {
    connection: Box<Connection>,
    framing: Framing,
    /// Rarely there, and large.
    upload: Option<Box<Upload>>,
    /// The endpoint lets the connection be used again, and so do we.
    keep_alive: bool,
    /// The request broke off.
    client_gone: bool,
}

/// Where in a response's body one is.
#[derive(Debug)]
enum Framing {
    Ended,
    Length(u64),
    Chunked(Chunks),
    UntilClose,
}

impl From<head::Framing> for Framing {
    fn from(framing: head::Framing) -> Self {
        match framing {
            head::Framing::Ended => Self::Ended,
            head::Framing::Length(length) => Self::Length(length),
            head::Framing::Chunked => Self::Chunked(Chunks::default()),
            head::Framing::UntilClose => Self::UntilClose,
        }
    }
}

/// A request on its way out.
#[derive(Debug)]
struct Upload {
    body: RequestBody,
    framing: UploadFraming,
    /// The endpoint took nothing last: it gets what waits before there is more, or a client
    /// that goes on sending would hide that it stands still.
    stuck: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UploadFraming {
    Ended,
    Length(u64),
    Chunked,
    /// Another protocol, until the client ends its side.
    Tunnel,
    /// The client has ended its side: the endpoint is told.
    TunnelEnded,
}

impl Connection {
    /// Over a transport that stands.
    pub fn over(stream: Transport) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            looked_at: 0,
            empty_lines: 0,
            is_lent: false,
            read_bytes: READ_BYTES_MIN,
            small_reads: false,
            output: Outgoing::default(),
            reused: false,
        }
    }

    /// Whether an idle connection may still be used: neither closed by the endpoint nor
    /// with bytes that nobody asked for.
    pub fn is_open(&mut self) -> bool {
        self.stream.is_quiet()
    }

    /// Sends a request and waits for the response's head. `head` is in origin form, with
    /// the fields that frame `body`. Interim responses go to `interims`.
    pub async fn send(
        mut self: Box<Self>,
        head: &RequestHead,
        body: RequestBody,
        interims: Option<&Interims>,
    ) -> Result<Response<Body>, Failed> {
        let reused = std::mem::replace(&mut self.reused, true);
        (self.small_reads, self.empty_lines) = (false, 0);
        let failed = |fault, silent| Failed { fault, reused, silent };
        encode_head(head, self.output.buffer());
        let framing = upload_framing(&head.fields).map_err(|fault| failed(fault, true))?;
        let asked = head.upgrade.as_ref();
        let mut upload = Upload { body, framing, stuck: false };
        let mut uploading = true;
        let mut write_error = None;
        let mut interim = 0;
        let answered = poll_fn(|cx| {
            loop {
                if uploading && let Poll::Ready(sent) = upload.poll(&mut self, cx) {
                    uploading = false;
                    match sent {
                        Err(Fault::ClientGone) => return Poll::Ready(Err(Fault::ClientGone)),
                        // The endpoint may have answered before it stopped reading.
                        sent => write_error = sent.err(),
                    }
                }
                let head = match ready!(self.poll_head(cx)) {
                    Ok(head) => head,
                    Err(fault) => return Poll::Ready(Err(fault.beside(write_error.take()))),
                };
                let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
                if !head.status.is_informational() || (switches && grants(&head, asked)) {
                    return Poll::Ready(Ok(head));
                }
                interim += 1;
                if switches || interim > INTERIM_MAX {
                    return Poll::Ready(Err(Fault::Malformed("an interim response too many")));
                }
                if let Some(interims) = interims {
                    interims.push(*head);
                }
            }
        })
        .await;
        let silent = self.input.is_empty() && interim == 0 && self.empty_lines == 0;
        let mut answer = answered.map_err(|fault| failed(fault, silent))?;
        if answer.status == StatusCode::SWITCHING_PROTOCOLS {
            answer.upgrade = answer.fields.value(Known::Upgrade).map(Upgrade);
            return Ok(Response { head: answer, body: self.into_tunnel(upload) });
        }
        let (framing, keep_alive) =
            response_framing(&head.method, &mut answer).map_err(|fault| failed(fault, false))?;
        let keep_alive = keep_alive && write_error.is_none();
        let framing = Framing::from(framing);
        let upload = uploading.then(|| Box::new(upload));
        let body = Body { connection: self, framing, upload, keep_alive, client_gone: false };
        Ok(Response { head: answer, body })
    }

    /// From here on, what the client sends and what the endpoint sends passes as it is.
    fn into_tunnel(self: Box<Self>, mut upload: Upload) -> Body {
        upload.framing = UploadFraming::Tunnel;
        upload.body.open_tunnel();
        let (framing, upload) = (Framing::UntilClose, Some(Box::new(upload)));
        Body { connection: self, framing, upload, keep_alive: false, client_gone: false }
    }

    /// The next head, when it is whole.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Box<ResponseHead>, Fault>> {
        loop {
            while self.looked_at == 0 && self.input.starts_with(b"\r\n") {
                self.input.advance(2);
                self.empty_lines += 1;
                if self.empty_lines > EMPTY_LINES_MAX {
                    return Poll::Ready(Err(Fault::Malformed("empty lines without end")));
                }
            }
            // What trickles in is looked at line by line, not byte by byte.
            let rest = &self.input[self.looked_at..];
            let begins = self.looked_at == 0 && rest.len() > 1;
            if begins || memchr::memchr(b'\n', rest).is_some() {
                self.looked_at = 0;
                if let Some(head) = decode_head(&mut self.input)? {
                    return Poll::Ready(Ok(head));
                }
            }
            if self.input.len() > 1 {
                self.looked_at = self.input.len();
            }
            if self.input.len() >= HEAD_BYTES_MAX {
                return Poll::Ready(Err(Fault::Malformed("a head that is too large")));
            }
            if ready!(self.poll_read(cx))? == 0 {
                return Poll::Ready(Err(Fault::ClosedBeforeHead));
            }
        }
    }

    /// Reads more into `input`; 0 is the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Fault>> {
        // A buffer may have more room than was asked for; what is read may be kept for long.
        let room = self.read_bytes;
        if room >= WARM_BYTES_MIN && self.input.is_empty() {
            self.give_back();
            self.input = warm::take(room);
            self.is_lent = true;
        }
        self.input.reserve(room);
        let mut input = (&mut self.input).limit(room);
        let read = poll_read_buf(Pin::new(&mut self.stream), cx, &mut input);
        if !matches!(read, Poll::Ready(Ok(1..))) {
            // While nothing comes, others can have the room.
            self.give_back();
        }
        let read = ready!(read).map_err(Fault::Io)?;
        if read == room {
            let max = if self.small_reads { SMALL_READ_BYTES_MAX } else { READ_BYTES_MAX };
            self.read_bytes = (self.read_bytes * 2).min(max);
        } else if read < self.read_bytes / 4 {
            self.read_bytes = (self.read_bytes / 2).max(READ_BYTES_MIN);
        }
        Poll::Ready(Ok(read))
    }

    /// Lets other connections have the buffer, if nothing is left in it.
    fn give_back(&mut self) {
        if self.is_lent && self.input.is_empty() {
            self.is_lent = false;
            warm::give(std::mem::take(&mut self.input));
        }
    }
}

impl Upload {
    /// Writes until everything is written.
    fn poll(&mut self, to: &mut Connection, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            // What is there of the body goes with the head, in one system call.
            let more = if to.output.has_room() && !self.stuck {
                self.poll_body(&mut to.output, cx)?
            } else {
                Poll::Ready(())
            };
            let before = to.output.written();
            let wrote = to.output.poll_write(&mut to.stream, cx);
            self.stuck = wrote.is_pending();
            if self.stuck && to.output.written() != before {
                self.body.moves();
            }
            ready!(wrote).map_err(Fault::Io)?;
            ready!(Pin::new(&mut to.stream).poll_flush(cx)).map_err(Fault::Io)?;
            if self.framing == UploadFraming::TunnelEnded {
                ready!(Pin::new(&mut to.stream).poll_shutdown(cx)).map_err(Fault::Io)?;
                self.framing = UploadFraming::Ended;
            }
            if self.framing == UploadFraming::Ended {
                return Poll::Ready(Ok(()));
            }
            ready!(more);
        }
    }

    /// Takes the next piece of the body, framed, behind `output`.
    fn poll_body(
        &mut self,
        output: &mut Outgoing,
        cx: &mut Context<'_>,
    ) -> Result<Poll<()>, Fault> {
        if matches!(self.framing, UploadFraming::Ended | UploadFraming::TunnelEnded) {
            return Ok(Poll::Ready(()));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            return Ok(Poll::Pending);
        };
        match frame.transpose().map_err(|_| Fault::ClientGone)? {
            None => self.end(output, None)?,
            Some(frame) => match frame.into_data() {
                Ok(data) => self.take(data, output)?,
                Err(frame) => self.end(output, frame.trailers_ref())?,
            },
        }
        Ok(Poll::Ready(()))
    }

    fn take(&mut self, data: Bytes, output: &mut Outgoing) -> Result<(), Fault> {
        if let UploadFraming::Length(left) = &mut self.framing {
            *left = left.checked_sub(data.len() as u64).ok_or(Fault::ClientGone)?;
        }
        output.put(data, self.framing == UploadFraming::Chunked);
        if self.framing == UploadFraming::Length(0) {
            self.framing = UploadFraming::Ended;
            self.body.finish();
        }
        Ok(())
    }

    fn end(&mut self, output: &mut Outgoing, trailers: Option<&HeaderMap>) -> Result<(), Fault> {
        match self.framing {
            // Shorter than was said: what was sent is no message.
            UploadFraming::Length(_) => return Err(Fault::ClientGone),
            UploadFraming::Chunked => output.put_last_chunk(trailers),
            UploadFraming::Tunnel => {
                self.framing = UploadFraming::TunnelEnded;
                return Ok(());
            }
            UploadFraming::Ended | UploadFraming::TunnelEnded => {}
        }
        self.framing = UploadFraming::Ended;
        Ok(())
    }
}

impl Body {
    /// The connection, if it may serve another request: the body has ended, the request
    /// too, and nothing came after it.
    pub fn into_reusable(self) -> Option<Box<Connection>> {
        let reusable = matches!(self.framing, Framing::Ended)
            && self.upload.is_none()
            && self.keep_alive
            && self.connection.input.is_empty();
        reusable.then_some(self.connection)
    }

    /// Whether the request is still on its way.
    pub fn is_uploading(&self) -> bool {
        self.upload.is_some()
    }

    /// Whether nothing more comes.
    pub fn is_end_stream(&self) -> bool {
        matches!(self.framing, Framing::Ended)
    }

    /// Bytes to come, where the head told.
    pub fn size_hint(&self) -> SizeHint {
        match self.framing {
            Framing::Ended => SizeHint::with_exact(0),
            Framing::Length(left) => SizeHint::with_exact(left),
            Framing::Chunked(_) | Framing::UntilClose => SizeHint::default(),
        }
    }

    /// From here on no piece is large: many such bodies wait for one client.
    pub fn read_small_pieces(&mut self) {
        self.connection.small_reads = true;
        self.connection.read_bytes = self.connection.read_bytes.min(SMALL_READ_BYTES_MAX);
    }

    /// Sends on what is left of the request. To be called while nothing is read.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) {
        self.upload(cx);
        // What the kernel did not take at once. An error shows when it is read on.
        let _ = Pin::new(&mut self.connection.stream).poll_flush(cx);
    }

    fn upload(&mut self, cx: &mut Context<'_>) {
        if let Some(upload) = &mut self.upload
            && let Poll::Ready(sent) = upload.poll(&mut self.connection, cx)
        {
            self.upload = None;
            self.keep_alive &= sent.is_ok();
            self.client_gone = matches!(sent, Err(Fault::ClientGone));
        }
    }

    /// The next piece.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        // A response may begin before the request has ended.
        self.upload(cx);
        if std::mem::take(&mut self.client_gone) {
            self.framing = Framing::Ended;
            return Poll::Ready(Some(Err(Fault::ClientGone)));
        }
        let polled = ready!(self.poll_piece(cx));
        self.connection.give_back();
        if !matches!(polled, Some(Ok(_))) {
            self.framing = Framing::Ended;
        }
        if matches!(polled, Some(Err(_))) {
            self.keep_alive = false;
        }
        Poll::Ready(polled)
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        loop {
            let input = &mut self.connection.input;
            match &mut self.framing {
                Framing::Ended => return Poll::Ready(None),
                Framing::Length(left) if !input.is_empty() => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    let data = input.split_to(take).freeze();
                    *left -= take as u64;
                    if *left == 0 {
                        self.framing = Framing::Ended;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Framing::UntilClose if !input.is_empty() => {
                    return Poll::Ready(Some(Ok(Frame::data(input.split().freeze()))));
                }
                Framing::Chunked(chunks) => match chunks.decode(input)? {
                    Some(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    Some(Piece::End(trailers)) => {
                        self.framing = Framing::Ended;
                        let trailers = trailers.map(|map| Ok(Frame::trailers(map)));
                        return Poll::Ready(trailers);
                    }
                    None => {}
                },
                Framing::Length(_) | Framing::UntilClose => {}
            }
            if ready!(self.connection.poll_read(cx))? == 0 {
                return Poll::Ready(match self.framing {
                    Framing::UntilClose => None,
                    _ => Some(Err(Fault::ClosedInBody)),
                });
            }
        }
    }
}

/// Whether a 101 grants what was `asked` for, and one of it (RFC 9110, section 7.8).
fn grants(head: &ResponseHead, asked: Option<&Upgrade>) -> bool {
    let mut granted = head.fields.all(Known::Upgrade);
    let (Some(asked), Some(protocol), None) = (asked, granted.next(), granted.next()) else {
        return false;
    };
    let mut protocols = asked.0.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    protocols.any(|one| one.eq_ignore_ascii_case(protocol))
}

fn upload_framing(fields: &Fields) -> Result<UploadFraming, Fault> {
    if fields.contains(Known::TransferEncoding) {
        return Ok(UploadFraming::Chunked);
    }
    match content_length(fields) {
        // Our own head: what frames it was checked where it came in.
        Err(_) => Err(Fault::ClientGone),
        Ok(None | Some(0)) => Ok(UploadFraming::Ended),
        Ok(Some(length)) => Ok(UploadFraming::Length(length)),
    }
}

#[cfg(test)]
mod tests;
