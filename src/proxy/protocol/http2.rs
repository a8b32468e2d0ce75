//! HTTP/2 with a client: one task per connection, one per request.
//!
//! Never buffers an answer that its client does not take, and lets no frame be free: a
//! connection that only asks for work is cut (`watch`).

pub mod frames;
pub mod head;
mod packing;
mod stream;
pub mod watch;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection};
use h2::{Ping, PingPong, Reason};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};

use crate::proxy::deadline::Deadline;
use crate::proxy::exchange::Exchange;
use crate::proxy::http2::gather::{Gathering, Sending, gather};
use crate::proxy::protocol::http2::stream::Counted;
use crate::proxy::protocol::http2::watch::{Watch, Watched};
use crate::proxy::worker::{Visit, Worker};
use crate::units::Tick;

/// How every HTTP/2 connection begins (RFC 9113, section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests at once on one connection; the client waits with more.
const STREAMS_MAX: u32 = 100;

/// Bytes of a request's body that a client may send before they are passed on.
const STREAM_WINDOW: u32 = 128 << 10;

/// The same for all requests of a connection: uploads that stand still leave room for many
/// others, and a connection cannot make Serin keep more than this.
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Bytes of a head, counted as HTTP/2 does: 32 more for each field. A larger one is
/// answered 431.
const HEAD_BYTES_MAX: u32 = 64 << 10;

/// Requests that were reset before Serin looked at them: beyond, the connection is cut.
const RESETS_UNSEEN_MAX: usize = 50;

/// Streams that Serin reset and of which frames may still be on their way.
const RESETS_REMEMBERED_MAX: usize = 200;

/// What one stream may have waiting for the connection.
const SEND_BYTES_MAX: usize = 64 << 10;

/// What small frames of uploads may cost that wait for slow endpoints, as the library counts: 256
/// bytes for each, less its own. A client of gRPC may stream small messages to several of them.
const SMALL_FRAMES_BUDGET: usize = 8 << 20;

/// How often a connection's time limits are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Looks without a word from a client that waits for an answer: from the first number on it
/// is asked whether it is there, at the second it is taken for gone.
const SILENT_LOOKS_PING: u32 = 6;
const SILENT_LOOKS_MAX: u32 = 12;

/// Looks without a word from a client that waits for nothing; then its connection ends.
const IDLE_LOOKS_MAX: u32 = 60;

/// Looks at a connection without a request that was told to end, and is not over: whoever does
/// not hear it is gone.
const DRAINED_LOOKS_MAX: u32 = 2;

/// How long a client that is cut has to take the reason.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves a connection to its end. How it ends is no news: what went wrong with a request
/// was counted there.
pub async fn serve<S>(stream: S, worker: &Rc<Worker>, visit: &Visit, exchange: Exchange)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let watch = Rc::new(Watch::new(worker.clock));
    let (stream, output) = gather(Watched::new(stream, Rc::clone(&watch)));
    let mut handshake = pin!(builder().handshake(stream));
    let greeted = poll_fn(|cx| {
        let polled = handshake.as_mut().poll(cx);
        output.send(cx);
        polled
    });
    let Ok(mut connection) = greeted.await else { return };
    let pings = connection.ping_pong();
    let mut serving = Serving {
        connection,
        output,
        watch,
        head_limit: None,
        exchange,
        worker: Rc::clone(worker),
        pings,
        silent: 0,
        drained: 0,
        drains: false,
        cut: false,
    };
    let mut look = pin!(sleep(LOOK));
    poll_fn(|cx| {
        visit.wake_on_drain(cx);
        serving.watch.wake_when_idle(cx);
        let polled = serving.poll(cx, visit, look.as_mut());
        serving.output.send(cx);
        polled
    })
    .await;
}

/// What a connection is begun with: the limits of this module.
pub fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD_BYTES_MAX)
        .max_pending_accept_reset_streams(RESETS_UNSEEN_MAX)
        .max_concurrent_reset_streams(RESETS_REMEMBERED_MAX)
        .max_send_buffer_size(SEND_BYTES_MAX)
        .data_frame_budget(SMALL_FRAMES_BUDGET)
        .enable_connect_protocol();
    builder
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    GoOn,
    End,
}

/// A connection that is served.
struct Serving<S> {
    connection: Connection<Gathering<Watched<S>>, Bytes>,
    /// Where its frames go when it has been polled.
    output: Sending<Watched<S>>,
    watch: Rc<Watch>,
    /// Since when, and until when, a head is waited for that has begun.
    head_limit: Option<(Tick, Deadline)>,
    exchange: Exchange,
    worker: Rc<Worker>,
    pings: Option<PingPong>,
    /// Looks at the clock since something came.
    silent: u32,
    /// Looks at it since it was told to end, without a request.
    drained: u32,
    /// The client was told that the connection is about to end.
    drains: bool,
    /// The client was told that it has ended.
    cut: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Serving<S> {
    /// Ready when the connection has ended.
    fn poll(&mut self, cx: &mut Context<'_>, visit: &Visit, mut look: Pin<&mut Sleep>) -> Poll<()> {
        if self.worker.is_draining() {
            self.drain();
        }
        while look.as_mut().poll(cx).is_ready() {
            if self.cut {
                return Poll::Ready(());
            }
            if self.look(cx) == Verdict::End {
                return Poll::Ready(());
            }
            look.set(sleep(LOOK));
        }
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    let exchange = self.exchange.clone();
                    // Not when its task first runs: until then it would seem idle.
                    let counted = Counted::begin(&self.watch);
                    // On the heap at once: a task is moved several times before it runs, and
                    // this one is large.
                    let served = stream::serve(request, respond, exchange, counted);
                    tokio::task::spawn_local(Box::pin(served));
                }
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                Poll::Pending => match self.watch.verdict().or_else(|| self.slow_head(cx, visit)) {
                    Some(reason) if !self.cut => {
                        self.cut(reason);
                        look.set(sleep(FAREWELL));
                    }
                    // What is told to end has something to say.
                    None if self.is_unneeded(cx, visit) => self.drain(),
                    Some(_) | None => break,
                },
            }
        }
        // Polled once more for its waker: it may have been set anew.
        if look.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Whether nothing is asked of it, and another client needs its place.
    fn is_unneeded(&self, cx: &Context<'_>, visit: &Visit) -> bool {
        if self.watch.requests() > 0 {
            visit.busy();
            return false;
        }
        visit.poll_unneeded(cx).is_ready() && !self.drains
    }

    /// Why the connection has to end, if a head takes too long from its first byte to its last.
    fn slow_head(&mut self, cx: &Context<'_>, visit: &Visit) -> Option<Reason> {
        let since = self.watch.head_since();
        if self.head_limit.as_ref().map(|(since, _)| *since) != since {
            let max = visit.head_timeout();
            self.head_limit =
                since.map(|since| (since, self.worker.deadlines.open(since, Some(max))));
        }
        let (_, limit) = self.head_limit.as_ref()?;
        limit.poll(cx).is_ready().then_some(Reason::ENHANCE_YOUR_CALM)
    }

    /// Takes no new requests; ends when those under way have.
    fn drain(&mut self) {
        if !std::mem::replace(&mut self.drains, true) {
            self.connection.graceful_shutdown();
        }
    }

    /// What the clock says of the connection.
    fn look(&mut self, cx: &mut Context<'_>) -> Verdict {
        if self.watch.is_blocked(self.worker.clock.now()) {
            return Verdict::End;
        }
        self.silent = if self.watch.take_heard() { 0 } else { self.silent + 1 };
        if self.watch.requests() == 0 {
            if self.drains {
                self.drained += 1;
                if self.drained > DRAINED_LOOKS_MAX {
                    return Verdict::End;
                }
            } else if self.silent > IDLE_LOOKS_MAX {
                self.drain();
            }
        } else if self.silent >= SILENT_LOOKS_MAX {
            return Verdict::End;
        } else if self.silent >= SILENT_LOOKS_PING {
            self.ping(cx);
        }
        Verdict::GoOn
    }

    /// Asks the client whether it is still there.
    fn ping(&mut self, cx: &mut Context<'_>) {
        if let Some(pings) = &mut self.pings {
            // The answer to an earlier one is in the way.
            let _ = pings.poll_pong(cx);
            // Under way already: that one will do.
            let _ = pings.send_ping(Ping::opaque());
        }
    }

    fn cut(&mut self, reason: Reason) {
        self.cut = true;
        self.connection.abrupt_shutdown(reason);
    }
}
