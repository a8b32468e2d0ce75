//! An answer that comes token by token, as server-sent events.
//!
//! Never decides when the first token comes: it is there when the answer begins.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::time::{Interval, MissedTickBehavior};

/// How answers of the stream path come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamShape {
    /// Tokens of an answer, one event each.
    pub tokens: u32,
    /// From one to the next.
    pub token_every: Duration,
}

impl Default for StreamShape {
    /// A short answer, at the pace of a large model: 64 tokens, 20 ms each.
    fn default() -> Self {
        Self { tokens: 64, token_every: Duration::from_millis(20) }
    }
}

impl StreamShape {
    /// From the first token to the last.
    pub(super) fn span(self) -> Duration {
        self.token_every.saturating_mul(self.tokens.saturating_sub(1))
    }
}

/// The body of one answer.
#[derive(Debug)]
pub(super) struct Tokens {
    /// One event after the other, from the first on again when they are used up.
    events: Vec<Bytes>,
    sent: u32,
    most: u32,
    /// `None`: all at once.
    pace: Option<Interval>,
}

impl Tokens {
    /// There has to be an event.
    pub(super) fn new(events: Vec<Bytes>, shape: StreamShape) -> Self {
        let pace = (!shape.token_every.is_zero()).then(|| {
            let mut pace = tokio::time::interval(shape.token_every);
            // A client that was slow to read gets no burst: a model makes no token faster.
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pace
        });
        Self { events, sent: 0, most: shape.tokens, pace }
    }
}

impl Body for Tokens {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        if let Some(pace) = &mut self.pace {
            ready!(pace.poll_tick(cx)); // The first is due at once.
        }
        let event = self.events[self.sent as usize % self.events.len()].clone();
        self.sent += 1;
        Poll::Ready(Some(Ok(Frame::data(event))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent == self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_span_is_between_the_first_token_and_the_last() {
        for (tokens, millis) in [(0, 0), (1, 0), (2, 20), (64, 1_260)] {
            let shape = StreamShape { tokens, token_every: 20 * MS };
            assert_eq!(shape.span(), millis * MS, "{tokens}");
        }
    }
}
