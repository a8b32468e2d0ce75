//! HTTP/1.1 with a client, spoken in the task of its connection.
//!
//! Never answers two requests at once, and never serves a request whose end could be seen
//! elsewhere than where it is: such a connection is answered once and closed.

pub mod answer;
pub mod head;
mod io;
mod reply;

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::{StatusCode, Version};
use http_body::Body as _;

use crate::proxy::deadline::Deadline;
use crate::proxy::error::Error;
use crate::proxy::exchange::Exchange;
use crate::proxy::incoming::{Inbound, Incoming};
use crate::proxy::interim::Interims;
use crate::proxy::protocol::ClientStream;
use crate::proxy::protocol::http1::answer::{Framing, Wants};
use crate::proxy::protocol::http1::head::{EmptyLines, Head};
use crate::proxy::protocol::http1::io::Io;
use crate::proxy::protocol::http1::reply::Reply;
use crate::proxy::response::ResponseBody;
use crate::proxy::worker::{KEEPERS_MAX, Visit};
use crate::traffic::message::{Request, Response};

/// A client that reads nothing of its answer for so long is cut.
const WRITE_STALL_MAX: Duration = Duration::from_mins(1);

/// How long the next request waits for the end of an answer whose client has all of it.
const ENDING_MAX: Duration = Duration::from_secs(1);

/// What a client that is told to go may still send before it is cut, and for how long: its
/// answer would be lost with a reset.
const LINGER_BYTES_MAX: usize = 1 << 20;
const LINGER_TIME_MAX: Duration = Duration::from_secs(1);

/// A client's connection.
struct Connection<S> {
    io: Rc<Io<S>>,
    visit: Visit,
    exchange: Exchange,
    interims: Rc<Interims>,
    /// Since the last head.
    empty_lines: Cell<EmptyLines>,
    /// Of a head that had begun before this did.
    head_limit: Cell<Option<Deadline>>,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Another request.
    Request,
    /// Nothing; the client has got all of its answer.
    Close,
    /// Nothing: the client left, or is not waited for any longer.
    Leave,
    /// Nothing; the client must not take what it got for an answer.
    Cut,
}

/// How long a request is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    /// As long as the client may be idle.
    Idle,
    /// Until the connection rests.
    Busy,
}

/// Why there is no request.
enum NoRequest {
    /// The client is gone, or is not waited for any longer.
    Gone,
    /// It does not take its last answer.
    Stalled,
    /// Nothing has been asked for a while.
    Resting,
    /// What came is none.
    Refused(Error),
}

/// Serves a connection to its end; `input` was read already, and its head has until `head_limit`.
pub async fn serve<S: ClientStream>(
    stream: S,
    (input, head_limit): (BytesMut, Option<Deadline>),
    visit: Visit,
    exchange: Exchange,
) {
    let io = Rc::new(Io::new(Rc::clone(visit.worker()), stream, input));
    let interims = Rc::<Interims>::default();
    let exchange = exchange.with_interims(&interims);
    let (empty_lines, head_limit) = (Cell::default(), Cell::new(head_limit));
    let connection = Connection { io, visit, exchange, interims, empty_lines, head_limit };
    loop {
        // What serving takes is on the heap, and gone while nothing is asked for: an idle client
        // is to cost little.
        let next = match connection.next_head(Patience::Idle).await {
            Ok(head) => Box::pin(connection.serve_many(head)).await,
            Err(NoRequest::Refused(error)) => Box::pin(connection.refuse(&error)).await,
            Err(NoRequest::Gone) => Next::Leave,
            Err(NoRequest::Stalled | NoRequest::Resting) => return,
        };
        match next {
            Next::Request => {}
            Next::Leave => return connection.hand_over().await,
            Next::Close => return Box::pin(connection.linger()).await,
            Next::Cut => return,
        }
    }
}

impl<S: ClientStream> Connection<S> {
    /// Serves `head` and what follows it, until the connection rests or ends.
    async fn serve_many(&self, mut head: Head) -> Next {
        let _keeper = self.visit.worker().keeper();
        loop {
            match self.serve_one(head).await {
                Next::Request => {}
                next => return next,
            }
            head = match self.next_head(Patience::Busy).await {
                Ok(head) => head,
                Err(NoRequest::Resting) => return Next::Request,
                Err(NoRequest::Refused(error)) => return self.refuse(&error).await,
                Err(NoRequest::Gone) => return Next::Leave,
                Err(NoRequest::Stalled) => return Next::Cut,
            };
        }
    }

    /// Waits for a request's head.
    async fn next_head(&self, patience: Patience) -> Result<Head, NoRequest> {
        let worker = self.visit.worker();
        let mut limit = self.head_limit.take();
        // For the end of the last answer.
        let mut stall = None::<Deadline>;
        let mut looked_at = 0;
        poll_fn(|cx| {
            loop {
                // A head that trickles in is looked at line by line, not byte by byte.
                let mut input = self.io.input().borrow_mut();
                if looked_at == 0 || memchr::memchr(b'\n', &input[looked_at..]).is_some() {
                    let mut empty = self.empty_lines.get();
                    let decoded = head::decode(&mut input, &mut empty);
                    self.empty_lines.set(empty);
                    match decoded {
                        Ok(Some(head)) => {
                            self.visit.busy();
                            return Poll::Ready(Ok(head));
                        }
                        Ok(None) => {}
                        Err(error) => return Poll::Ready(Err(NoRequest::Refused(error))),
                    }
                }
                looked_at = input.len();
                if let Err(error) = head::check_size(&input) {
                    return Poll::Ready(Err(NoRequest::Refused(error)));
                }
                drop(input);
                match self.io.poll_read(cx) {
                    // One that has begun a head is not idle any more.
                    Poll::Ready(Ok(1..)) => self.visit.busy(),
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(NoRequest::Gone)),
                    Poll::Pending if looked_at == 0 => {
                        // What came was an empty line, in pieces: no head has begun.
                        limit = None;
                        let mut goes = Poll::Pending;
                        let mut flushed = self.io.poll_flush(cx);
                        if flushed.is_ready() {
                            goes = self.visit.poll_idle(cx);
                        }
                        if goes.is_ready() {
                            self.io.stream().borrow().settle();
                            flushed = self.io.poll_flush(cx);
                        }
                        if flushed.is_pending() {
                            // It has not taken its last answer: it is not idle yet.
                            self.visit.busy();
                            let stalled = self.poll_stall(&mut stall, cx);
                            return stalled.map(|()| Err(NoRequest::Stalled));
                        }
                        stall = None;
                        let busy = patience == Patience::Busy;
                        if self.visit.is_resting() || (busy && worker.keepers() > KEEPERS_MAX) {
                            self.io.shrink();
                            if goes.is_pending() && busy {
                                return Poll::Ready(Err(NoRequest::Resting));
                            }
                        }
                        return goes.map(|()| Err(NoRequest::Gone));
                    }
                    Poll::Pending => {
                        let limit = limit.get_or_insert_with(|| {
                            let max = self.visit.head_timeout();
                            worker.deadlines.open(worker.clock.now(), Some(max))
                        });
                        ready!(limit.poll(cx));
                        let late = "the head did not come in time";
                        let late = Error::Refused(StatusCode::REQUEST_TIMEOUT, late);
                        return Poll::Ready(Err(NoRequest::Refused(late)));
                    }
                }
            }
        })
        .await
    }

    async fn serve_one(&self, head: Head) -> Next {
        let Head { request, framing, keep_alive, expects_continue, takes_trailers } = head;
        let wants = Wants::of(&request.method, request.version, keep_alive, takes_trailers);
        let tunnel = request.upgrade.is_some();
        self.io.begin_body(framing, tunnel, expects_continue);
        let incoming = if framing == head::Framing::Ended && !tunnel {
            Incoming::Empty
        } else {
            let inbound: Rc<dyn Inbound> = Rc::<Io<S>>::clone(&self.io);
            Incoming::Http1(inbound)
        };
        match self.answer(Request { head: request, body: incoming }, wants).await {
            Some(response) => self.reply(response, wants).await,
            None => Next::Leave,
        }
    }

    /// Waits for the answer, passing on what comes before it; `None` when the client left or
    /// is to be cut.
    async fn answer(
        &self,
        request: Request<Incoming>,
        wants: Wants,
    ) -> Option<Response<ResponseBody>> {
        self.interims.begin();
        let mut answer = pin!(self.exchange.clone().answer(request));
        poll_fn(|cx| {
            let answered = answer.as_mut().poll(cx);
            for interim in self.interims.take() {
                if wants.http11 {
                    answer::encode_interim(&interim, self.io.output().borrow_mut().buffer());
                }
            }
            if let Poll::Ready(answered) = answered {
                return Poll::Ready(answered.ok());
            }
            match self.io.poll_write(cx) {
                Poll::Ready(Ok(())) => {
                    // What is not through yet wakes us; an error shows at the next write.
                    let _ = self.io.poll_flush(cx);
                }
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Pending => {}
            }
            self.io.poll_gone(cx).map(|()| None)
        })
        .await
    }

    /// Answers what is no request.
    async fn refuse(&self, error: &Error) -> Next {
        match self.exchange.refuse(error, Version::HTTP_11, false) {
            Some(response) => match self.reply(response, Wants::NOTHING).await {
                Next::Request | Next::Close => Next::Close,
                Next::Leave | Next::Cut => Next::Cut,
            },
            None => Next::Cut,
        }
    }

    async fn reply(&self, response: Response<ResponseBody>, wants: Wants) -> Next {
        let worker = self.visit.worker();
        let Response { mut head, body } = response;
        let ended = body.is_end_stream();
        let framing = answer::framing(&head, wants, ended);
        let unread = matches!(body, ResponseBody::Own(_)) && !self.io.is_end_stream();
        let lasting = !matches!(framing, Framing::UntilClose | Framing::Tunnel);
        let keep_alive = wants.keep_alive && !worker.is_draining() && lasting && !unread;
        self.io.begin_answer();
        worker.with_date(|date| {
            let mut output = self.io.output().borrow_mut();
            answer::encode(&mut head, framing, (wants, keep_alive), date, output.buffer());
        });
        let mut reply = Reply::new(&*self.io, body, framing, (wants, keep_alive));
        let (mut stall, mut ending) = (None::<Deadline>, None::<Deadline>);
        let mut written = 0;
        let whole = poll_fn(|cx| match reply.poll(cx) {
            Poll::Ready(whole) => Poll::Ready(whole),
            Poll::Pending if reply.is_blocked() => {
                let now = self.io.output().borrow().written();
                if std::mem::replace(&mut written, now) != now {
                    // It takes its time, but it reads.
                    stall = None;
                }
                let stalled = self.poll_stall(&mut stall, cx);
                let late = if stalled.is_ready() { stalled } else { reply.body.poll_late(cx) };
                late.map(|()| false)
            }
            Poll::Pending if reply.done && !reply.body.is_uploading() => {
                // The client has all of it; for the end of what an endpoint leaves open, the next
                // request does not wait long.
                let limit = ending.get_or_insert_with(|| {
                    worker.deadlines.open(worker.clock.now(), Some(ENDING_MAX))
                });
                limit.poll(cx).map(|_| {
                    reply.body.end();
                    true
                })
            }
            Poll::Pending => {
                stall = None;
                Poll::Pending
            }
        })
        .await;
        match (whole, framing) {
            (true, _) if keep_alive => {
                poll_fn(|cx| {
                    Poll::Ready(if self.io.finish_body(cx) { Next::Request } else { Next::Close })
                })
                .await
            }
            (true, _) => Next::Close,
            (false, Framing::UntilClose | Framing::Tunnel) => {
                self.io.stream().borrow().make_abrupt();
                Next::Cut
            }
            (false, _) if reply.left => Next::Leave,
            (false, _) => Next::Cut,
        }
    }

    /// Waits until the kernel has all of the last answer.
    async fn hand_over(&self) {
        self.io.stream().borrow().settle();
        let mut stall = None::<Deadline>;
        poll_fn(|cx| match self.io.poll_flush(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => self.poll_stall(&mut stall, cx),
        })
        .await;
    }

    /// Ready when a client has taken nothing for too long, from the first call on.
    fn poll_stall(&self, stall: &mut Option<Deadline>, cx: &mut Context<'_>) -> Poll<()> {
        let worker = self.visit.worker();
        let open = || worker.deadlines.open(worker.clock.now(), Some(WRITE_STALL_MAX));
        stall.get_or_insert_with(open).poll(cx).map(drop)
    }

    /// Closes our direction, and reads over what the client still sends.
    async fn linger(&self) {
        let worker = self.visit.worker();
        let limit = worker.deadlines.open(worker.clock.now(), Some(LINGER_TIME_MAX));
        let mut read = 0;
        let mut shut = false;
        poll_fn(|cx| {
            if !shut {
                shut = self.io.poll_shutdown(cx).is_ready();
            }
            while read < LINGER_BYTES_MAX {
                self.io.input().borrow_mut().clear();
                match self.io.poll_read(cx) {
                    Poll::Ready(Ok(bytes @ 1..)) => read += bytes,
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return limit.poll(cx).map(drop),
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}

#[cfg(test)]
mod tests;
