//! What must hold for any bytes: the fuzz targets, which an ordinary test runs over the corpora
//! too.
#![allow(dead_code, reason = "each target has one of them")]

#[path = "checks/frames.rs"]
mod frames;
#[path = "checks/header_rules.rs"]
pub mod header_rules;
#[path = "checks/http2.rs"]
pub mod http2;
#[path = "checks/http2_answer.rs"]
pub mod http2_answer;
#[path = "checks/model.rs"]
pub mod model;
#[path = "checks/proxy_protocol.rs"]
pub mod proxy_protocol;
#[path = "checks/upstream.rs"]
pub mod upstream;

use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use serin::proxy::forward::{self, Peer};
use serin::proxy::http1::chunked::{Chunks, Piece};
use serin::proxy::http1::fields::FIELDS_MAX;
use serin::proxy::http1::outgoing::Outgoing;
use serin::proxy::protocol::http1::head::{EmptyLines, Framing, decode};
use serin::proxy::upstream::head::{decode_head, encode_head, response_framing};
use serin::traffic::fields::Known;

/// The first byte tells in how large pieces the others arrive.
fn pieces(data: &[u8]) -> Option<(usize, &[u8])> {
    let (step, rest) = data.split_first()?;
    Some((usize::from(*step) + 1, rest))
}

/// A request's head is the same however it arrives, and what is made of it for an endpoint is
/// one message that says the same: there is no second one in it, and no other end.
pub fn request_head(data: &[u8]) {
    let Some((step, data)) = pieces(data) else { return };
    let at_once = decode(&mut BytesMut::from(data), &mut EmptyLines::default());
    let (mut input, mut empty) = (BytesMut::new(), EmptyLines::default());
    let mut slowly = Ok(None);
    for piece in data.chunks(step) {
        input.extend_from_slice(piece);
        slowly = decode(&mut input, &mut empty);
        if !matches!(slowly, Ok(None)) {
            break;
        }
    }
    let Ok(Some(head)) = at_once else {
        assert!(!matches!(slowly, Ok(Some(_))), "only in pieces it is a request");
        return;
    };
    let same = slowly.expect("it is a request in pieces too").expect("and a whole one");
    assert_eq!(
        (&head.request.method, &head.request.uri),
        (&same.request.method, &same.request.uri)
    );
    assert_eq!((&head.request.fields, head.framing), (&same.request.fields, same.framing));
    let mut request = head.request;
    if forward::read_target(&mut request).is_err() {
        return;
    }
    let peer = Peer::cleartext(IpAddr::from([127, 0, 0, 1]));
    forward::drop_claims(&mut request.fields, true);
    forward::to_endpoint(&mut request, &peer, head.framing != Framing::Ended);
    let mut output = BytesMut::new();
    encode_head(&request, &mut output);
    let mut again = output.clone();
    let sent = decode(&mut again, &mut EmptyLines::default());
    if request.fields.len() > FIELDS_MAX {
        // With what was added it is more than is read here.
        return;
    }
    let sent = sent.unwrap_or_else(|error| panic!("{output:?} is no request: {error}"));
    let sent = sent.unwrap_or_else(|| panic!("{output:?} is not whole"));
    assert!(again.is_empty(), "something is left of {output:?}");
    assert_eq!((&sent.request.method, &sent.request.uri), (&request.method, &request.uri));
    assert_eq!(sent.framing, head.framing, "{output:?}");
    assert_eq!(sent.request.fields.all(Known::Host).count(), 1);
}

/// A response's head is refused, or framed in one way whatever was asked.
pub fn response_head(data: &[u8]) {
    let mut input = BytesMut::from(data);
    let Ok(Some(response)) = decode_head(&mut input) else { return };
    assert!(data.windows(4).any(|end| end == b"\r\n\r\n"), "it had no end");
    for method in [http::Method::GET, http::Method::HEAD] {
        let mut head = response.clone();
        if response_framing(&method, &mut head).is_ok() {
            assert!(head.fields.all(Known::ContentLength).count() <= 1);
        }
    }
}

/// A chunked body is the same however it arrives, and what is made of it for the other side
/// reads the same again, with nothing behind it.
pub fn chunked(data: &[u8]) {
    let Some((step, data)) = pieces(data) else { return };
    let whole = read(data, data.len().max(1));
    let slowly = read(data, step);
    let Ok(Some((body, trailers))) = whole else {
        // What is in doubt may be found so at the end of its line.
        assert!(!matches!(slowly, Ok(Some(_))), "only in steps of {step} it is a body");
        assert!(slowly.is_ok() || whole.is_err(), "only in steps of {step} it is in doubt");
        return;
    };
    assert_eq!(slowly, Ok(Some((body.clone(), trailers.clone()))), "in steps of {step}");
    let mut outgoing = Outgoing::default();
    for piece in body.chunks(step) {
        outgoing.put(Bytes::copy_from_slice(piece), true);
    }
    outgoing.put_last_chunk(trailers.as_ref());
    let sent = outgoing.buffer().clone();
    assert_eq!(read(&sent, step), Ok(Some((body, trailers))));
}

type Body = (Vec<u8>, Option<HeaderMap>);

/// `None` is not whole.
fn read(data: &[u8], step: usize) -> Result<Option<Body>, ()> {
    let (mut chunks, mut input, mut body) = (Chunks::default(), BytesMut::new(), Vec::new());
    for piece in data.chunks(step) {
        input.extend_from_slice(piece);
        while let Some(piece) = chunks.decode(&mut input).map_err(drop)? {
            match piece {
                Piece::Data(data) => body.extend_from_slice(&data),
                Piece::End(trailers) => return Ok(Some((body, trailers))),
            }
        }
    }
    Ok(None)
}
