//! One request over HTTP/2: its answer sent as fast as the client takes it.
//!
//! Never asks for more of an answer than the client has room for and one piece, and goes on
//! sending the request while the client reads nothing.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Method, StatusCode};
use http_body::Body;

use crate::proxy::deadline::Deadline;
use crate::proxy::error::Error;
use crate::proxy::exchange::Exchange;
use crate::proxy::http2::{self, Outgoing, Sent};
use crate::proxy::incoming::Incoming;
use crate::proxy::interim::Interims;
use crate::proxy::protocol::http2::head;
use crate::proxy::protocol::http2::watch::Watch;
use crate::proxy::reply;
use crate::proxy::response::ResponseBody;
use crate::traffic::fields::{Fields, Known};
use crate::traffic::message::{Request, Response, ResponseHead};
use crate::traffic::outcome::is_grpc;

/// Bytes of a request's trailers, names and values.
const TRAILER_BYTES_MAX: usize = 64 << 10;

/// Counts a request as long as it lasts.
pub struct Counted {
    watch: Rc<Watch>,
    whole: bool,
}

impl Counted {
    /// From here on.
    pub fn begin(watch: &Rc<Watch>) -> Self {
        watch.begin();
        Self { watch: Rc::clone(watch), whole: false }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.watch.end(self.whole);
    }
}

/// Serves one request. Dropped or reset by the client, everything it holds is dropped, which
/// is how the endpoint learns of it.
pub async fn serve(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    exchange: Exchange,
    mut counted: Counted,
) {
    let worker = Rc::clone(exchange.worker());
    let Some(answered) = answer(request, &mut respond, exchange).await else { return };
    let response = match answered {
        Ok(response) => response,
        Err(error) => {
            respond.send_reset(reason(&error));
            return;
        }
    };
    let Response { mut head, mut body } = response;
    worker.with_date(|date| to_client(&mut head, date));
    let ended = body.is_end_stream();
    let Ok(stream) = respond.send_response(head.to_http2(), ended) else {
        respond.send_reset(Reason::INTERNAL_ERROR);
        return;
    };
    if !ended {
        body.read_small_pieces();
        let (mut stalled, mut outgoing) = (None, Outgoing::on(stream));
        let sent = poll_fn(|cx| {
            let open = || worker.deadlines.open(worker.clock.now(), None);
            poll_body(&mut outgoing, &mut body, &mut stalled, open, cx)
        });
        if let Err(reason) = sent.await {
            outgoing.reset(reason);
            return;
        }
    }
    counted.whole = true;
}

/// Makes the head of a response one of HTTP/2. `date` is for one that has none (RFC 9110,
/// section 6.6.1).
fn to_client(head: &mut ResponseHead, date: &[u8]) {
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        // What HTTP/1.1 switches to, extended CONNECT succeeds with (RFC 8441, section 5).
        head.status = StatusCode::OK;
        head.fields.remove(Known::SecWebSocketAccept);
    }
    if !head.fields.contains(Known::Date) {
        head.fields.insert(Known::Date, date);
    }
}

/// Waits for the answer to a request; `None` when the client does not want it any more.
async fn answer(
    request: http::Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
    exchange: Exchange,
) -> Option<Result<Response<ResponseBody>, Error>> {
    let (parts, stream) = request.into_parts();
    let head = match head::read(&parts) {
        Ok(head) => head,
        Err(error) => {
            let grpc = is_grpc(&Fields::from(&parts.headers));
            return Some(exchange.refuse(&error, parts.version, grpc).ok_or(error));
        }
    };
    let (websocket, grpc) = (head.upgrade.is_some(), is_grpc(&head.fields));
    let asked = head.fields.contains(Known::Expect).then(|| Rc::new(Cell::new(false)));
    let incoming = http2::Incoming::of(stream, TRAILER_BYTES_MAX).tells_when_asked(asked.clone());
    let request = Request { head, body: Incoming::Http2(incoming) };
    let interims = Rc::new(Interims::default());
    let mut answering = pin!(exchange.clone().with_interims(&interims).answer(request));
    let answered = poll_fn(|cx| {
        let polled = answering.as_mut().poll(cx);
        if asked.as_ref().is_some_and(|asked| asked.take()) {
            let interim = ResponseHead::new(StatusCode::CONTINUE);
            // A client that is gone is found out below.
            let _ = respond.send_informational(interim.to_http2());
        }
        for interim in interims.take() {
            let _ = respond.send_informational(interim.to_http2());
        }
        match polled {
            Poll::Ready(answered) => Poll::Ready(Some(answered)),
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        }
    });
    let answered = answered.await?;
    let ignored = |response: &Response<ResponseBody>| response.status().is_success();
    if websocket && answered.as_ref().is_ok_and(ignored) {
        // To the client it would mean that the endpoint had agreed.
        let what = "the endpoint does not speak WebSocket here";
        let error = Error::Refused(StatusCode::BAD_GATEWAY, what);
        return Some(reply::of(&error, &Method::GET, grpc).ok_or(error));
    }
    Some(answered)
}

/// Sends a body to its end. `stalled` is a time limit while the client has no room.
fn poll_body(
    outgoing: &mut Outgoing,
    body: &mut ResponseBody,
    stalled: &mut Option<Deadline>,
    open: impl Fn() -> Deadline,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Reason>> {
    loop {
        if outgoing.wants_more()
            && let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx)
        {
            let taken = match frame.transpose() {
                Ok(frame) => outgoing.take(frame, body.is_end_stream()),
                Err(error) => return Poll::Ready(Err(reason(&error))),
            };
            match taken {
                Sent::All => return Poll::Ready(Ok(())),
                Sent::Some => {}
                Sent::Gone(reason) => return Poll::Ready(Err(reason)),
            }
            if outgoing.wants_more() {
                continue;
            }
        }
        match outgoing.poll_send(cx) {
            Poll::Ready(Sent::All) => return Poll::Ready(Ok(())),
            Poll::Ready(Sent::Some) => *stalled = None,
            Poll::Ready(Sent::Gone(reason)) => return Poll::Ready(Err(reason)),
            Poll::Pending if outgoing.wants_more() => return Poll::Pending,
            Poll::Pending => {
                body.poll_upload(cx);
                let limit = stalled.get_or_insert_with(&open);
                let idle = limit.poll_idle(cx, body.idle()).map(drop);
                let late = if idle.is_ready() { idle } else { body.poll_late(cx) };
                return late.map(|()| Err(Reason::CANCEL));
            }
        }
    }
}

/// The code that tells a client why its stream is cut.
fn reason(error: &Error) -> Reason {
    use crate::proxy::upstream::fault::Fault;
    match error {
        Error::Broken(Fault::Reset(Reason::CANCEL)) | Error::ClientGone => Reason::CANCEL,
        Error::Broken(Fault::Reset(Reason::ENHANCE_YOUR_CALM)) => Reason::ENHANCE_YOUR_CALM,
        // Not `REFUSED_STREAM`: the answer has begun, so the request was processed.
        _ => Reason::INTERNAL_ERROR,
    }
}
