//! A client's bytes over HTTP/2: what they make of an HTTP/1.1 endpoint's connection.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use serin::clock::Clock;
use serin::proxy::forward::{self, Peer};
use serin::proxy::http1::chunked::may_be_trailer;
use serin::proxy::http1::outgoing::Outgoing;
use serin::proxy::http2::Incoming;
use serin::proxy::protocol::http1::head::{EmptyLines, Framing, decode};
use serin::proxy::protocol::http2::frames::Frames;
use serin::proxy::protocol::http2::watch::{Watch, Watched};
use serin::proxy::protocol::http2::{PREFACE, builder, head};
use serin::proxy::upstream::head::encode_head;
use serin::traffic::fields::Known;
use serin::traffic::headers::strip_trailers;
use serin::traffic::message::RequestHead;

use super::frames::{SETTINGS, Wire, frames_of};

/// Rounds without news before nothing more is waited for.
const QUIET_MAX: u32 = 3;

/// Whatever a client sends, each request goes on as one message of HTTP/1.1 that says the same,
/// with a body of the length that it tells, or not at all.
///
/// The first byte tells in how large pieces the others arrive. The second tells whether they are
/// frames, or lines that frames are made of, of which [`frames_of`] knows.
pub fn check(data: &[u8]) {
    let [step, form, rest @ ..] = data else { return };
    let step = usize::from(*step) + 1;
    let mut input = [PREFACE, &SETTINGS[..]].concat();
    if form % 2 == 0 {
        input.extend_from_slice(rest);
    } else {
        input.extend_from_slice(&frames_of(rest));
    }
    heads_are_found_alike(&input, step);
    serve(input, step);
}

/// The heads of frames are the same however they arrive.
fn heads_are_found_alike(input: &[u8], step: usize) {
    let read = |step: usize| {
        let (mut frames, mut found) = (Frames::from_preface(), Vec::new());
        let mut pieces = input.chunks(step);
        let wrong = pieces.find_map(|piece| frames.feed(piece, |frame| found.push(frame)).err());
        (found, wrong.map(|wrong| wrong.reason))
    };
    assert_eq!(read(input.len()), read(step), "in steps of {step}");
}

/// Serves the connection as a worker does, without an endpoint.
fn serve(input: Vec<u8>, step: usize) {
    let cx = &mut Context::from_waker(Waker::noop());
    let (at, length) = (Rc::new(Cell::new(0)), input.len());
    let until = Rc::new(Cell::new(length));
    let wire = Wire { input, at: Rc::clone(&at), until, step, waits: true };
    let watch = Rc::new(Watch::new(Clock::start()));
    let mut handshake = Box::pin(builder().handshake(Watched::new(wire, Rc::clone(&watch))));
    let mut connection = loop {
        match handshake.as_mut().poll(cx) {
            Poll::Ready(Ok(connection)) => break connection,
            Poll::Ready(Err(_)) => return,
            Poll::Pending => assert!(at.get() < length, "the preface is not taken"),
        }
    };
    let (mut bodies, mut quiet, mut is_cut) = (Vec::new(), 0, false);
    while quiet < QUIET_MAX {
        let before = at.get();
        match connection.poll_accept(cx) {
            Poll::Ready(Some(Ok((request, respond)))) => {
                bodies.extend(begin(request, respond));
                quiet = 0;
            }
            Poll::Ready(Some(Err(_)) | None) => break,
            Poll::Pending => match watch.verdict() {
                Some(reason) if !is_cut => {
                    is_cut = true;
                    connection.abrupt_shutdown(reason);
                }
                Some(_) => quiet += 1,
                None if at.get() == before && before == length => quiet += 1,
                None => {}
            },
        }
        bodies.retain_mut(|body: &mut Body| body.goes_on(cx));
    }
}

/// A body on its way to an endpoint.
struct Body {
    incoming: Incoming,
    framing: Framing,
    bytes: u64,
    sent: Outgoing,
    /// Of this side; dropped, it resets the stream.
    _respond: SendResponse<Bytes>,
}

/// What is made of a request, checked.
fn begin(request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>) -> Option<Body> {
    let (parts, stream) = request.into_parts();
    let head = head::read(&parts).and_then(|mut head| {
        forward::read_target(&mut head)?;
        Ok(head)
    });
    let Ok(mut head) = head else {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        let _ = respond.send_response(response, true);
        return None;
    };
    let incoming = Incoming::of(stream, 64 << 10);
    let has_body = !incoming.is_end_stream();
    let framing = check_head(&mut head, has_body);
    Some(Body { incoming, framing, bytes: 0, sent: Outgoing::default(), _respond: respond })
}

/// The head as an endpoint gets it is one message, and says the same.
fn check_head(head: &mut RequestHead, has_body: bool) -> Framing {
    let peer = Peer::cleartext(IpAddr::from([127, 0, 0, 1]));
    forward::drop_claims(&mut head.fields, true);
    forward::to_endpoint(head, &peer, has_body);
    let mut output = BytesMut::new();
    encode_head(head, &mut output);
    let mut again = output.clone();
    let sent = decode(&mut again, &mut EmptyLines::default());
    // HTTP/2 allows more fields than are read here.
    let Ok(sent) = sent else {
        assert!(head.fields.len() > 120, "{output:?} is no request: {}", sent.unwrap_err());
        return Framing::Ended;
    };
    let sent = sent.unwrap_or_else(|| panic!("{output:?} is not whole"));
    assert!(again.is_empty(), "something is left of {output:?}");
    let target = |head: &RequestHead| head.uri.path_and_query().map(ToString::to_string);
    let again = &sent.request;
    assert_eq!((&again.method, target(again)), (&head.method, target(head)));
    assert!(again.fields.sole(Known::Host).is_some());
    assert_eq!(again.fields, head.fields, "{output:?}");
    assert_ne!(again.method, Method::CONNECT);
    assert!(sent.framing == Framing::Ended || has_body, "no body follows {output:?}");
    sent.framing
}

impl Body {
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
                        self.sent = Outgoing::default();
                        self.sent.put(data, self.framing == Framing::Chunked);
                        continue;
                    }
                    Err(frame) => self.check_end(frame.into_trailers().ok()),
                },
            }
            return false;
        }
    }

    /// A body that ended has the length that was told; trailers are fields, and none that
    /// would be something else.
    fn check_end(&mut self, trailers: Option<HeaderMap>) {
        match self.framing {
            Framing::Chunked => {}
            Framing::Length(length) => assert_eq!(self.bytes, length),
            // A length of 0 was told, or the head alone was looked at.
            Framing::Ended => assert_eq!(self.bytes, 0),
        }
        let Some(mut trailers) = trailers else { return };
        assert!(trailers.keys().all(may_be_trailer), "{trailers:?}");
        strip_trailers(&mut trailers);
        let text = |value: &HeaderValue| value.as_bytes().iter().any(|b| b"\r\n\0".contains(b));
        assert!(!trailers.values().any(text), "{trailers:?}");
    }
}
