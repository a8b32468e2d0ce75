//! An endpoint's bytes over HTTP/2: what they make of an HTTP/1.1 client's connection.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use h2::client::{Connection, ResponseFuture, SendRequest};
use http::{HeaderMap, Method, Request, Version};
use serin::proxy::http1::chunked::{Chunks, Piece, may_be_trailer};
use serin::proxy::http1::outgoing::Outgoing;
use serin::proxy::http2::Incoming;
use serin::proxy::interim::Interims;
use serin::proxy::protocol::http1::answer::{self, Framing, Wants};
use serin::proxy::upstream::head::{self, decode_head, response_framing};
use serin::proxy::upstream::http2::{pool, read_head};
use serin::traffic::fields::Known;
use serin::traffic::headers::strip_hop_by_hop;
use serin::traffic::message::ResponseHead;

use super::frames::{SETTINGS, Wire, frames_of};

/// Rounds without news before nothing more is waited for.
const QUIET_MAX: u32 = 3;

/// What is asked, each on a stream of its own: the method, and whether by HTTP/1.1.
const ASKED: [(Method, bool); 4] =
    [(Method::GET, true), (Method::HEAD, true), (Method::GET, false), (Method::POST, true)];

/// Whatever an endpoint sends, each answer is one message of HTTP/1.1 that says the same, with
/// a body of the length that it tells, or none at all.
///
/// The first byte tells in how large pieces the others arrive. The second tells whether they are
/// frames, or lines that frames are made of, of which [`frames_of`] knows.
pub fn check(data: &[u8]) {
    let [step, form, rest @ ..] = data else { return };
    let step = usize::from(*step) + 1;
    let mut input = SETTINGS.to_vec();
    if form % 2 == 0 {
        input.extend_from_slice(rest);
    } else {
        input.extend_from_slice(&frames_of(rest));
    }
    ask(input, step);
}

/// Asks as a worker does, and takes the answers.
fn ask(input: Vec<u8>, step: usize) {
    let cx = &mut Context::from_waker(Waker::noop());
    let (at, length) = (Rc::new(Cell::new(0)), input.len());
    // An answer before its question would be none.
    let until = Rc::new(Cell::new(SETTINGS.len()));
    let wire = Wire { input, at: Rc::clone(&at), until: Rc::clone(&until), step, waits: true };
    let mut handshake = Box::pin(pool::builder().handshake(wire));
    let Poll::Ready(Ok((sender, mut connection))) = handshake.as_mut().poll(cx) else {
        panic!("a handshake waits for nothing");
    };
    while at.get() < SETTINGS.len() {
        assert!(Pin::new(&mut connection).poll(cx).is_pending(), "no settings were taken");
    }
    let mut asking = begin(sender, &mut connection, cx);
    until.set(length);
    let mut quiet = 0;
    while quiet < QUIET_MAX {
        let before = at.get();
        let ended = Pin::new(&mut connection).poll(cx).is_ready();
        asking.retain_mut(|one| one.goes_on(cx));
        quiet = if at.get() == before && before == length { quiet + 1 } else { 0 };
        if ended {
            break;
        }
    }
}

fn begin(
    mut sender: SendRequest<Bytes>,
    connection: &mut Connection<Wire>,
    cx: &mut Context<'_>,
) -> Vec<Asking> {
    let mut asking = Vec::new();
    for (method, http11) in ASKED {
        assert!(sender.poll_ready(cx).is_ready(), "there is no place for a question");
        let mut request = Request::new(());
        *request.method_mut() = method.clone();
        *request.uri_mut() = http::Uri::from_static("http://h/");
        let (response, _) = sender.send_request(request, true).expect("a question");
        asking.push(Asking::Head { response, method, http11 });
        assert!(Pin::new(&mut *connection).poll(cx).is_pending(), "it ended of itself");
    }
    asking
}

/// A question and its answer, as far as it has come.
enum Asking {
    Head { response: ResponseFuture, method: Method, http11: bool },
    Body(Box<Answer>),
}

impl Asking {
    /// Takes in what has come. Whether more may.
    fn goes_on(&mut self, cx: &mut Context<'_>) -> bool {
        let Self::Head { response, method, http11 } = self else {
            let Self::Body(answer) = self else { return false };
            return answer.goes_on(cx);
        };
        while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
            match read_head(&interim.into_parts().0) {
                Ok(head) => check_interim(head),
                Err(_) => return false,
            }
        }
        let Poll::Ready(answered) = Pin::new(response).poll(cx) else { return true };
        let Ok(answered) = answered else { return false };
        let (parts, stream) = answered.into_parts();
        let Ok(head) = read_head(&parts) else { return false };
        let incoming = Incoming::of(stream, 64 << 10);
        let framing = check_head(head, method, *http11, incoming.is_end_stream());
        let answer = Answer { incoming, framing, bytes: 0, sent: BytesMut::new() };
        *self = Self::Body(Box::new(answer));
        self.goes_on(cx)
    }
}

/// What comes before an answer is a head of its own class and nothing else.
fn check_interim(head: ResponseHead) {
    let interims = Interims::default();
    let status = head.status;
    interims.push(head);
    for interim in interims.take() {
        let mut output = BytesMut::new();
        answer::encode_interim(&interim, &mut output);
        let Some(again) = decode(&mut output) else { continue };
        assert_eq!(again.status, status);
        assert!(status.is_informational() && status != 101, "{status} before an answer");
        assert!(!again.fields.contains(Known::ContentLength));
        assert!(!again.fields.contains(Known::TransferEncoding));
    }
}

/// One head, which is all that there is; `None` where it has more fields than are read here.
fn decode(output: &mut BytesMut) -> Option<ResponseHead> {
    let text = output.clone();
    match decode_head(output) {
        Ok(Some(again)) => {
            assert!(output.is_empty(), "something is left of {text:?}");
            Some(*again)
        }
        Ok(None) => panic!("{text:?} is not whole"),
        Err(fault) => {
            let lines = text[..].split(|byte| *byte == b'\n').count();
            assert!(lines > 120 || text.len() > 60_000, "{text:?} is no answer: {fault}");
            None
        }
    }
}

/// The head as a client gets it is one message, and says the same.
fn check_head(mut head: ResponseHead, method: &Method, http11: bool, ended: bool) -> Framing {
    head.version = Version::HTTP_11;
    strip_hop_by_hop(&mut head.fields);
    let version = if http11 { Version::HTTP_11 } else { Version::HTTP_10 };
    let wants = Wants::of(method, version, false, true);
    let framing = answer::framing(&head, wants, ended);
    let mut output = BytesMut::new();
    answer::encode(&mut head, framing, (wants, false), b"now", &mut output);
    let Some(mut again) = decode(&mut output) else { return framing };
    assert_eq!(again.status, head.status);
    assert!(again.fields.all(Known::ContentLength).count() <= 1, "{again:?}");
    let kept = again.fields.iter().take(head.fields.len());
    assert!(kept.eq(head.fields.iter()), "{again:?} of {head:?}");
    let (read, keeps) = response_framing(method, &mut again).expect("a framing");
    assert!(!keeps);
    let same = match framing {
        Framing::Ended | Framing::Length(0) => read == head::Framing::Ended,
        Framing::Length(length) => read == head::Framing::Length(length),
        Framing::Chunked => read == head::Framing::Chunked,
        Framing::UntilClose => read == head::Framing::UntilClose,
        Framing::Tunnel => false,
    };
    assert!(same, "{framing:?} is read as {read:?}");
    framing
}

/// A body on its way to a client.
struct Answer {
    incoming: Incoming,
    framing: Framing,
    bytes: u64,
    sent: BytesMut,
}

impl Answer {
    /// Takes in what has come. Whether more may.
    fn goes_on(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            match self.incoming.poll_frame(cx) {
                Poll::Pending => return true,
                // Broken off: nobody takes it for whole.
                Poll::Ready(Some(Err(_))) => return false,
                Poll::Ready(None) => self.check_end(None),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        self.bytes += data.len() as u64;
                        if self.framing == Framing::Chunked {
                            let mut outgoing = Outgoing::default();
                            outgoing.put(data, true);
                            self.sent.extend_from_slice(outgoing.buffer());
                        }
                        continue;
                    }
                    Err(frame) => self.check_end(frame.into_trailers().ok()),
                },
            }
            return false;
        }
    }

    /// A body that ended has the length that was told, and what ends it is one end.
    fn check_end(&mut self, trailers: Option<HeaderMap>) {
        match self.framing {
            Framing::Length(length) => assert_eq!(self.bytes, length),
            // To HEAD, 204 and 304 nothing of a body is written.
            Framing::Ended | Framing::UntilClose | Framing::Tunnel => {}
            Framing::Chunked => {
                let mut outgoing = Outgoing::default();
                outgoing.put_last_chunk(trailers.as_ref());
                self.sent.extend_from_slice(outgoing.buffer());
                check_chunks(self.sent.split(), self.bytes, trailers.unwrap_or_default());
            }
        }
    }
}

/// What was sent in chunks is read again as so many bytes with these trailers, and nothing else.
fn check_chunks(mut sent: BytesMut, bytes: u64, trailers: HeaderMap) {
    assert!(trailers.keys().all(may_be_trailer), "{trailers:?}");
    let (mut chunks, mut read) = (Chunks::default(), 0);
    loop {
        match chunks.decode(&mut sent) {
            Ok(Some(Piece::Data(data))) => read += data.len() as u64,
            Ok(Some(Piece::End(again))) => {
                assert_eq!((read, again.unwrap_or_default()), (bytes, trailers));
                assert!(sent.is_empty(), "something is left: {sent:?}");
                return;
            }
            // More trailers than are read here.
            Err(_) if trailers.len() > 120 => return,
            other => panic!("{other:?}"),
        }
    }
}
