//! What a client's HTTP/2 connection costs, told from the heads of its frames.
//!
//! Never looks into a frame, and refuses nothing itself: it counts, and whoever serves the
//! connection asks.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::Clock;
use crate::proxy::protocol::http2::frames::{
    ACK, CONTINUATION, DATA, END_STREAM, Frame, Frames, GOAWAY, HEAD_BYTES, HEADERS, PING, SETTINGS,
};
use crate::proxy::protocol::http2::packing::has_bad_field;
use crate::units::Tick;

/// Frames that ask for nothing but work (PING, SETTINGS, resets, priorities, empty pieces) that
/// a connection may have sent beyond what it earned. One more, and it is cut.
const CREDIT_MAX: u32 = 500;

/// Such frames that are free in a second.
const CREDIT_PER_SECOND: u32 = 100;

/// What an answer that was sent whole earns: a client that now and then resets, pings and
/// tells priorities while it is served will not run out.
const CREDIT_PER_ANSWER: u32 = 4;

/// Bytes written to a client that earn it one frame: it opens windows as it reads.
const BYTES_PER_CREDIT: usize = 8;

/// How long a client may take nothing of what is written to its connection.
const BLOCKED_MAX: Duration = Duration::from_mins(1);

/// The last byte of the code for fields that cannot be unpacked (RFC 9113, section 4.3).
const COMPRESSION_ERROR: u8 = 9;

/// What is known of a connection.
#[derive(Debug)]
pub struct Watch {
    clock: Clock,
    credit: Cell<u32>,
    credited: Cell<Tick>,
    /// Bytes that are to be written because the client asked for nothing else: they earn nothing.
    echoes: Cell<usize>,
    /// Why the connection has to end.
    verdict: Cell<Option<Reason>>,
    /// When the head that is not whole yet began.
    head_since: Cell<Option<Tick>>,
    /// When the client stopped to take what is written.
    blocked_since: Cell<Option<Tick>>,
    heard: Cell<bool>,
    requests: Cell<u32>,
    /// The task of the connection, which is to learn that nothing is asked any more.
    task: RefCell<Option<Waker>>,
}

impl Watch {
    /// Nothing has come yet.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            credit: Cell::new(CREDIT_MAX),
            credited: Cell::new(clock.now()),
            echoes: Cell::new(0),
            verdict: Cell::new(None),
            head_since: Cell::new(None),
            blocked_since: Cell::new(None),
            heard: Cell::new(false),
            requests: Cell::new(0),
            task: RefCell::default(),
        }
    }

    /// Why the connection has to end, if it has to: the client asked for more work than it
    /// earned, or sent a frame that may not be.
    pub fn verdict(&self) -> Option<Reason> {
        self.verdict.get()
    }

    /// Whether anything came since the last time that this was asked.
    pub fn take_heard(&self) -> bool {
        self.heard.take()
    }

    /// Requests under way.
    pub fn requests(&self) -> u32 {
        self.requests.get()
    }

    /// Has the task of `cx` woken when the last request has ended.
    pub fn wake_when_idle(&self, cx: &Context<'_>) {
        match &mut *self.task.borrow_mut() {
            Some(task) => task.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    /// A request begins.
    pub fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    /// A request has ended, `whole` or not.
    pub fn end(&self, whole: bool) {
        self.requests.set(self.requests.get() - 1);
        if whole {
            self.earn(CREDIT_PER_ANSWER);
        }
        if self.requests.get() == 0
            && let Some(task) = &*self.task.borrow()
        {
            task.wake_by_ref();
        }
    }

    /// Whether the client has taken nothing for too long, when it is `now`.
    pub fn is_blocked(&self, now: Tick) -> bool {
        self.blocked_since.get().is_some_and(|since| now.since(since) > BLOCKED_MAX)
    }

    /// When a head, or any frame but DATA, began that is not whole yet.
    pub fn head_since(&self) -> Option<Tick> {
        self.head_since.get()
    }

    fn earn(&self, credit: u32) {
        self.credit.set(self.credit.get().saturating_add(credit).min(CREDIT_MAX));
    }

    fn spend(&self, cost: u32) {
        if let Some(left) = self.credit.get().checked_sub(cost) {
            self.credit.set(left);
            return;
        }
        let now = self.clock.now();
        let passed = now.since(self.credited.replace(now)).as_millis() as u64;
        let free = passed.saturating_mul(u64::from(CREDIT_PER_SECOND)) / 1000;
        self.earn(u32::try_from(free).unwrap_or(CREDIT_MAX));
        match self.credit.get().checked_sub(cost) {
            Some(left) => self.credit.set(left),
            None => self.verdict.set(Some(Reason::ENHANCE_YOUR_CALM)),
        }
    }

    fn pay_for(&self, frame: Frame) {
        match frame.kind {
            // Of other pieces, windows and the codec take care.
            DATA if frame.length > 0 || frame.flags & END_STREAM != 0 => {}
            // Requests are counted as such.
            HEADERS => {}
            CONTINUATION if frame.length > 0 => {}
            _ => self.spend(1),
        }
        if matches!(frame.kind, PING | SETTINGS) && frame.flags & ACK == 0 {
            let echo = HEAD_BYTES + if frame.kind == PING { 8 } else { 0 };
            self.echoes.set(self.echoes.get() + echo);
        }
    }

    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        match polled {
            Poll::Ready(Ok(bytes)) => {
                self.blocked_since.set(None);
                let echoes = self.echoes.get().min(*bytes);
                self.echoes.set(self.echoes.get() - echoes);
                let earned = (bytes - echoes) / BYTES_PER_CREDIT;
                self.earn(u32::try_from(earned).unwrap_or(CREDIT_MAX));
            }
            Poll::Pending if self.blocked_since.get().is_none() => {
                self.blocked_since.set(Some(self.clock.now()));
            }
            Poll::Pending | Poll::Ready(Err(_)) => {}
        }
    }

    fn head_is_whole(&self, whole: bool) {
        if whole {
            self.head_since.set(None);
        } else if self.head_since.get().is_none() {
            self.head_since.set(Some(self.clock.now()));
        }
    }
}

/// A client's connection, watched.
#[derive(Debug)]
pub struct Watched<S> {
    stream: S,
    frames: Frames,
    watch: Rc<Watch>,
}

impl<S> Watched<S> {
    /// From the preface on.
    pub fn new(stream: S, watch: Rc<Watch>) -> Self {
        Self { stream, frames: Frames::from_preface(), watch }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, frames, watch } = self.get_mut();
        if watch.verdict.get().is_some() {
            // Whoever polls the connection asks next, and cuts it.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buffer))?;
        let fed = frames.feed(&buffer.filled()[before..], |frame| watch.pay_for(frame));
        watch.heard.set(true);
        watch.head_is_whole(frames.is_whole());
        if let Err(wrong) = fed {
            // The library does not get to see it: it would tell another reason.
            watch.verdict.set(Some(wrong.reason));
            buffer.set_filled(before + wrong.good);
            if wrong.good == 0 {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Whether what is written ends with a GOAWAY that says no more than that the protocol was
/// broken.
fn is_protocol_error(bytes: &[u8]) -> bool {
    const HEAD: [u8; 9] = [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0];
    const PROTOCOL_ERROR: [u8; 4] = [0, 0, 0, 1];
    let goaway = bytes.len().checked_sub(HEAD.len() + 8).map(|at| &bytes[at..]);
    goaway.is_some_and(|frame| frame.starts_with(&HEAD) && frame.ends_with(&PROTOCOL_ERROR))
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, frames, watch } = self.get_mut();
        let polled = if watch.verdict.get().is_none()
            && is_protocol_error(bytes)
            && frames.fields().is_some_and(|fields| !has_bad_field(fields))
        {
            // Where fields may be, the library finds nothing else wrong with a connection.
            let mut bytes = bytes.to_vec();
            if let Some(code) = bytes.last_mut() {
                *code = COMPRESSION_ERROR;
            }
            Pin::new(stream).poll_write(cx, &bytes)
        } else {
            Pin::new(stream).poll_write(cx, bytes)
        };
        watch.wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, watch, .. } = self.get_mut();
        let polled = Pin::new(stream).poll_write_vectored(cx, slices);
        watch.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Asked for when all is written: TLS may keep some of it.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, watch, .. } = self.get_mut();
        let polled = Pin::new(stream).poll_flush(cx).map_ok(|()| 0);
        watch.wrote(&polled);
        polled.map_ok(|_| ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, watch, .. } = self.get_mut();
        let polled = Pin::new(stream).poll_shutdown(cx).map_ok(|()| 0);
        watch.wrote(&polled);
        polled.map_ok(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::protocol::http2::frames::END_HEADERS;

    const PING_ASKED: Frame = Frame { kind: PING, flags: 0, stream: 0, length: 8 };

    #[test]
    fn who_asks_for_nothing_but_work_runs_out_of_credit() {
        let watch = Watch::new(Clock::start());
        for _ in 0..CREDIT_MAX {
            watch.pay_for(PING_ASKED);
        }
        assert_eq!(watch.verdict(), None);
        watch.begin();
        watch.end(true);
        watch.pay_for(PING_ASKED);
        assert_eq!(watch.verdict(), None);
        for _ in 0..CREDIT_MAX {
            watch.pay_for(PING_ASKED);
        }
        assert_eq!(watch.verdict(), Some(Reason::ENHANCE_YOUR_CALM));
    }

    #[test]
    fn who_waits_for_each_echo_of_its_pings_earns_nothing_by_them() {
        let watch = Watch::new(Clock::start());
        let settings = Frame { kind: SETTINGS, flags: 0, stream: 0, length: 6 };
        let mut asked = 0;
        while watch.verdict().is_none() && asked < 2 * CREDIT_MAX {
            let (frame, echo) = if asked % 2 == 0 { (PING_ASKED, 17) } else { (settings, 9) };
            watch.pay_for(frame);
            watch.wrote(&Poll::Ready(Ok(echo)));
            asked += 1;
        }
        // Some are free in the time that this takes.
        assert!(asked < 2 * CREDIT_MAX, "never cut");
        watch.wrote(&Poll::Ready(Ok(800)));
        assert_eq!(watch.credit.get(), 100);
    }

    #[test]
    fn a_head_that_does_not_end_and_a_client_that_takes_nothing_run_out_of_time() {
        let watch = Watch::new(Clock::start());
        let later = || watch.clock.now().after(2 * BLOCKED_MAX);
        assert_eq!(watch.head_since(), None);
        watch.head_is_whole(false);
        let since = watch.head_since();
        assert!(since.is_some());
        // A piece more does not begin it anew.
        watch.head_is_whole(false);
        assert_eq!(watch.head_since(), since);
        watch.head_is_whole(true);
        assert_eq!(watch.head_since(), None);
        assert!(!watch.is_blocked(later()));
        watch.wrote(&Poll::Pending);
        assert!(watch.is_blocked(later()) && !watch.is_blocked(watch.clock.now()));
        watch.wrote(&Poll::Ready(Ok(1)));
        assert!(!watch.is_blocked(later()));
    }

    #[test]
    fn requests_and_bodies_cost_no_credit() {
        let watch = Watch::new(Clock::start());
        for _ in 0..10 * CREDIT_MAX {
            watch.pay_for(Frame { kind: HEADERS, flags: END_HEADERS, stream: 1, length: 30 });
            watch.pay_for(Frame { kind: DATA, flags: 0, stream: 1, length: 1 });
            watch.pay_for(Frame { kind: DATA, flags: END_STREAM, stream: 1, length: 0 });
        }
        assert_eq!(watch.verdict(), None);
    }
}
