//! A response's body on its way, which carries the measuring of its attempt to the end.
//!
//! Never waits to fill a buffer: every piece goes on as it comes.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame};

use crate::proxy::body::Source;
use crate::proxy::deadline::Deadline;
use crate::proxy::error::{Error, Timeout};
use crate::proxy::reply;
use crate::proxy::upstream::AnswerBody;
use crate::telemetry::counts::RetryPermit;
use crate::telemetry::sample::Sample;
use crate::traffic::events::Events;
use crate::traffic::message::Response;
use crate::traffic::outcome::{Outcome, grpc_status, is_grpc, trailing_grpc_status};
use crate::traffic::retry::Timeouts;

/// What the endpoint sends, with the measuring of its attempt.
#[derive(Debug)]
pub struct Relayed {
    answer: AnswerBody,
    /// `None` once settled.
    attempt: Option<Attempt>,
    /// Its client may need longer than the endpoint.
    wait: Rc<Deadline>,
}

/// An attempt whose response has begun.
#[derive(Debug)]
pub struct Attempt {
    /// Settled when the body ends.
    pub sample: Sample,
    /// Of the request, which may still be on its way.
    pub source: Rc<Source>,
    /// Set while the endpoint is waited for.
    pub wait: Rc<Deadline>,
    /// Longest wait between two pieces.
    pub idle: Duration,
    /// Of the response.
    pub status: StatusCode,
    /// From the head or the trailers.
    pub grpc_status: Option<u32>,
    /// The response must say `grpc-status` before it ends.
    pub grpc: bool,
    /// Held by a retry until it ends.
    pub permit: Option<RetryPermit>,
    /// Of a stream of server-sent events.
    pub events: Option<Box<Events>>,
    /// One of them told of an error.
    pub told_error: bool,
}

impl Attempt {
    fn end(self) {
        let mut outcome = Outcome::of(self.status, self.grpc_status);
        if self.told_error || (self.grpc && self.grpc_status.is_none()) {
            // What it has to say of itself is worse than its status, or it ended before its end.
            outcome = Outcome::Bad;
        }
        self.sample.set_received(self.source.bytes());
        self.sample.settle(outcome);
    }
}

impl Relayed {
    /// Lets `attempt` ride on the body of `response`.
    pub fn ride(
        response: Response<AnswerBody>,
        (sample, permit): (Sample, Option<RetryPermit>),
        (source, wait): (Rc<Source>, Rc<Deadline>),
        timeouts: Timeouts,
    ) -> Response<Box<Self>> {
        wait.clear();
        sample.first_byte(response.status().as_u16(), response.body.answered());
        let tunnel = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if tunnel {
            sample.is_not_timed();
            // How long another protocol goes on is nobody's promise.
            wait.end_whole();
        }
        let idle = if tunnel { timeouts.tunnel } else { timeouts.idle };
        let attempt = Attempt {
            sample,
            source,
            wait,
            idle,
            status: response.status(),
            grpc_status: grpc_status(&response.head.fields),
            grpc: is_grpc(&response.head.fields),
            permit,
            events: Events::of(&response.head.fields).map(Box::new),
            told_error: false,
        };
        let wait = Rc::clone(&attempt.wait);
        response.map(|answer| {
            let mut body = Box::new(Self { answer, attempt: Some(attempt), wait });
            if body.answer.is_end_stream() {
                body.end();
            }
            body
        })
    }

    /// The attempt ends as it stands.
    pub fn end(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            attempt.end();
        }
    }

    /// The body broke: the client's connection is cut, never ended cleanly.
    fn fail(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(attempt) = self.attempt.take() {
            attempt.sample.set_failure(error.reason());
            attempt.sample.set_received(attempt.source.bytes());
            attempt.sample.settle(error.outcome());
        }
        Poll::Ready(Some(Err(error)))
    }

    /// The limit `which` has passed, and the client is told so where it can be.
    fn out_of_time(&mut self, which: Timeout) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(attempt) = &self.attempt else { return Poll::Pending };
        let error = if attempt.source.waits_for_client() {
            Error::ClientStalled(which)
        } else {
            Error::Timeout(which)
        };
        if attempt.grpc && which == Timeout::Deadline {
            self.end_in_time(&error)
        } else {
            self.fail(error)
        }
    }

    /// The client of a gRPC stream does not wait any longer: it is told so in trailers.
    fn end_in_time(&mut self, error: &Error) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(attempt) = self.attempt.take() {
            attempt.sample.set_failure(error.reason());
            attempt.sample.set_received(attempt.source.bytes());
            attempt.sample.settle(error.outcome());
        }
        self.answer.cut();
        Poll::Ready(Some(Ok(Frame::trailers(reply::grpc_trailers(error)))))
    }

    /// From here on no piece is large: many such bodies wait for one client.
    pub fn read_small_pieces(&mut self) {
        self.answer.read_small_pieces();
    }

    /// Sends on what is left of the request, while nobody asks for the response.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) {
        self.answer.poll_upload(cx);
    }

    /// Ready when the whole exchange has taken too long, while nobody asks for the response: that
    /// is then the client's fault.
    pub fn poll_late(&mut self, cx: &Context<'_>) -> Poll<()> {
        let which = ready!(self.wait.poll_whole(cx));
        self.fail(Error::ClientStalled(which)).map(drop)
    }

    /// Whether the request is still on its way.
    pub fn is_uploading(&self) -> bool {
        self.answer.is_uploading()
    }

    /// Longest wait between two pieces.
    pub fn idle(&self) -> Duration {
        self.attempt.as_ref().map_or_else(|| Timeouts::default().idle, |attempt| attempt.idle)
    }

    /// Whether nothing more comes.
    pub fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }

    /// The next piece.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        // However much the endpoint has to say.
        if let Some(which) = self.attempt.as_ref().and_then(|one| one.wait.whole_passed()) {
            return self.out_of_time(which);
        }
        match Pin::new(&mut self.answer).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(attempt) = &mut self.attempt {
                    attempt.wait.clear();
                    attempt.sample.passes(frame.data_ref().map_or(0, Bytes::len));
                    if let Some((events, data)) = attempt.events.as_mut().zip(frame.data_ref()) {
                        attempt.told_error |= events.take(data);
                    }
                    if let Some(trailers) = frame.trailers_ref() {
                        attempt.grpc_status =
                            trailing_grpc_status(trailers).or(attempt.grpc_status);
                    }
                }
                if self.answer.is_end_stream() {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => self.fail(error),
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let Some(attempt) = &self.attempt else { return Poll::Pending };
                let which = ready!(attempt.wait.poll_idle(cx, attempt.idle));
                self.out_of_time(which)
            }
        }
    }
}
