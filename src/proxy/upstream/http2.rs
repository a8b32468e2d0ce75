//! HTTP/2 to an endpoint: many requests on one connection, each in the task of its request.
//!
//! Never reads more of an answer than the client takes, but for one window per stream; and
//! never says that a request failed which the endpoint has not looked at.

pub mod pool;
mod websocket;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Request, StatusCode};
use http_body::{Body as _, Frame, SizeHint};

use crate::proxy::body::RequestBody;
use crate::proxy::http1::fields::{FIELDS_MAX, one_content_length};
use crate::proxy::http2::{Incoming, Outgoing, Sent, check_fields};
use crate::proxy::interim::Interims;
use crate::proxy::upstream::fault::Fault;
use crate::proxy::upstream::http2::pool::Lease;
use crate::proxy::upstream::http2::websocket::Asked;
use crate::traffic::fields::Known;
use crate::traffic::message::{RequestHead, Response, ResponseHead};
use crate::traffic::retry::Excuse;

/// Interim responses (1xx) that are passed on; those beyond are not.
const INTERIM_MAX: u32 = 16;

/// Bytes of an answer's trailers, names and values.
const TRAILER_BYTES_MAX: usize = 64 << 10;

/// A request that failed before its response's head.
#[derive(Debug)]
pub struct Failed {
    /// What went wrong.
    pub fault: Fault,
    /// Why that may be nobody's fault.
    pub excuse: Option<Excuse>,
}

/// A response's body, with what is left of the request.
#[derive(Debug)]
pub struct Body {
    incoming: Incoming,
    upload: Option<Upload>,
    /// The request broke off.
    client_gone: bool,
    /// Bytes to come, where the head told.
    length: Option<u64>,
    /// The status is one whose answers have no body.
    has_none: bool,
    /// The place on the connection, free again when dropped.
    _lease: Lease,
}

/// A request's body on its way out.
#[derive(Debug)]
struct Upload {
    outgoing: Outgoing,
    body: RequestBody,
}

impl Upload {
    /// Sends until everything is sent, or the endpoint wants no more.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            if self.outgoing.poll_gone(cx).is_ready() {
                // Why is told by the response, or by its absence.
                return Poll::Ready(Ok(()));
            }
            if self.outgoing.wants_more()
                && let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx)
            {
                let Ok(frame) = frame.transpose() else {
                    self.outgoing.reset(Reason::CANCEL);
                    return Poll::Ready(Err(Fault::ClientGone));
                };
                let last = self.body.is_end_stream();
                if self.outgoing.take(frame, last) != Sent::Some {
                    return Poll::Ready(Ok(()));
                }
                if self.outgoing.wants_more() {
                    continue;
                }
            }
            match ready!(self.outgoing.poll_send(cx)) {
                Sent::Some => self.body.moves(),
                Sent::All | Sent::Gone(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// Sends a request, its `head` in origin form, to `endpoint`, and waits for the response's
/// head.
pub async fn send(
    mut lease: Lease,
    head: &RequestHead,
    body: RequestBody,
    (endpoint, interims): (SocketAddr, Option<&Interims>),
) -> Result<Response<Body>, Failed> {
    let failed = |fault| Failed { fault, excuse: None };
    let (was_idle, heard_before) = (lease.was_idle(), lease.heard());
    let told = |lease: &Lease, error: &h2::Error| {
        let closed = was_idle && error.is_io() && lease.heard() == heard_before;
        let excuse = match error {
            error if was_refused(error) => Some(Excuse::Refused),
            _ => closed.then_some(Excuse::ClosedWhileIdle),
        };
        Failed { fault: fault(error), excuse }
    };
    let mut request = request(head, endpoint, lease.is_encrypted()).map_err(failed)?;
    let websocket = Asked::of(head);
    if let Some(asked) = &websocket {
        asked.put(&mut request, &mut lease).await.map_err(failed)?;
    }
    let ended = body.is_end_stream() && websocket.is_none();
    let (mut response, stream) = match lease.sender().send_request(request, ended) {
        Ok(streams) => streams,
        Err(error) => {
            // No request left, so nothing was looked at.
            lease.retire();
            return Err(Failed { excuse: Some(Excuse::NotSent), ..told(&lease, &error) });
        }
    };
    let mut upload = (!ended).then(|| Upload { outgoing: Outgoing::on(stream), body });
    // What the client says waits until the endpoint has agreed.
    let mut tunnel = if websocket.is_some() { upload.take() } else { None };
    let mut passed = 0;
    let answered = poll_fn(|cx| {
        if let Some(sending) = &mut upload
            && let Poll::Ready(sent) = sending.poll(cx)
        {
            upload = None;
            if let Err(fault) = sent {
                return Poll::Ready(Err(failed(fault)));
            }
        }
        if let Some(interims) = interims {
            while passed < INTERIM_MAX
                && let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx)
            {
                passed += 1;
                match read_head(&interim.into_parts().0) {
                    Ok(interim) => interims.push(interim),
                    Err(fault) => return Poll::Ready(Err(failed(fault))),
                }
            }
        }
        Pin::new(&mut response).poll(cx).map_err(|error| told(&lease, &error))
    });
    let response = answered.await.inspect_err(|failed| {
        if matches!(failed.fault, Fault::GoAway(_)) {
            lease.retire();
        }
    })?;
    let (parts, stream) = response.into_parts();
    let mut head = Box::new(read_head(&parts).map_err(failed)?);
    if let Some(mut opening) = tunnel.take() {
        if websocket.is_some_and(|asked| asked.read(&mut head)) {
            opening.body.open_tunnel();
            upload = Some(opening);
        } else {
            // Fails where the endpoint wants nothing any more.
            let _ = opening.outgoing.take(None, true);
        }
    }
    let length = head.fields.number(Known::ContentLength);
    let incoming = Incoming::of(stream, TRAILER_BYTES_MAX);
    let has_none = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let body = Body { incoming, upload, client_gone: false, length, has_none, _lease: lease };
    Ok(Response { head, body })
}

/// The head of an answer, interim or not, made one like HTTP/1.1's: what the library has not
/// looked at is looked at here.
pub fn read_head(parts: &http::response::Parts) -> Result<ResponseHead, Fault> {
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Fault::Malformed("status 101, which HTTP/2 has not"));
    }
    // Statuses have five classes (RFC 9110, section 15).
    if parts.status.as_u16() >= 600 {
        return Err(Fault::Malformed("a status that is none"));
    }
    // As many as in HTTP/1.1, in which they may go on.
    if parts.headers.len() > FIELDS_MAX {
        return Err(Fault::Malformed("a head that is too large"));
    }
    check_fields(&parts.headers)?;
    let mut head = ResponseHead::from(parts);
    one_content_length(&mut head.fields)?;
    Ok(head)
}

/// The head of a request as HTTP/2 has it: the host in the target, nothing that frames.
fn request(
    head: &RequestHead,
    endpoint: SocketAddr,
    encrypted: bool,
) -> Result<Request<()>, Fault> {
    const OF_HTTP1: [Known; 4] =
        [Known::Host, Known::Connection, Known::TransferEncoding, Known::Upgrade];
    let mut headers = head.fields.to_map();
    for known in OF_HTTP1 {
        headers.remove(known.as_str());
    }
    // An HTTP/1.0 client need not name one. Of another that is none here, no other takes the place.
    let host = head.fields.get(Known::Host).filter(|host| !host.is_empty());
    let address = || Authority::try_from(endpoint.to_string());
    let authority = host.map_or_else(address, Authority::try_from);
    let authority = authority.map_err(|_| Fault::Unsendable)?;
    let mut target = http::uri::Parts::default();
    target.scheme = Some(if encrypted { Scheme::HTTPS } else { Scheme::HTTP });
    target.authority = Some(authority);
    let path = head.uri.path_and_query().cloned();
    target.path_and_query = path.or_else(|| Some(PathAndQuery::from_static("/")));
    let target = Uri::from_parts(target);
    let mut request = Request::new(());
    *request.uri_mut() = target.map_err(|_| Fault::Unsendable)?;
    *request.method_mut() = head.method.clone();
    *request.headers_mut() = headers;
    Ok(request)
}

impl Body {
    /// Whether the request is still on its way.
    pub fn is_uploading(&self) -> bool {
        self.upload.is_some()
    }

    /// Whether nothing more comes.
    pub fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    /// Bytes to come, where the head told.
    pub fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// Sends on what is left of the request.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if let Some(upload) = &mut self.upload
            && let Poll::Ready(sent) = upload.poll(cx)
        {
            self.upload = None;
            self.client_gone = sent.is_err();
        }
    }

    /// The next piece.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.poll_upload(cx);
        if self.client_gone {
            return Poll::Ready(Some(Err(Fault::ClientGone)));
        }
        let frame = ready!(self.incoming.poll_frame(cx).map_err(|error| fault(&error)));
        let brings = |frame: &Frame<Bytes>| frame.data_ref().is_some_and(|data| !data.is_empty());
        if self.has_none && matches!(&frame, Some(Ok(frame)) if brings(frame)) {
            // An HTTP/2 client would get it as it is.
            return Poll::Ready(Some(Err(Fault::Malformed("a body where there can be none"))));
        }
        Poll::Ready(frame)
    }
}

/// Whether the endpoint told that it did not look at the request (RFC 9113, section 8.7).
fn was_refused(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

fn fault(error: &h2::Error) -> Fault {
    match (error.get_io(), error.reason()) {
        (Some(io), _) => Fault::Io(io::Error::from(io.kind())),
        (None, Some(reason)) if error.is_reset() && error.is_remote() => Fault::Reset(reason),
        (None, Some(reason)) if error.is_remote() => Fault::GoAway(reason),
        (None, Some(reason)) => Fault::NotHttp2(reason),
        (None, None) => Fault::Unsendable,
    }
}
