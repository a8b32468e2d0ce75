//! What a client's HTTP/2 connection costs, told from the heads of its frames.
//!
//! Never looks into a frame, and refuses nothing itself: it counts, and whoever serves the
//! connection asks.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::Clock;
use crate::proxy::protocol::http2::PREFACE;
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

/// How long a head, or any frame but DATA, may take from its first byte to its last.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);

/// How long a client may take nothing of what is written to its connection.
const BLOCKED_MAX: Duration = Duration::from_mins(1);

const FRAME_HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PUSH_PROMISE: u8 = 5;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What is known of a connection.
#[derive(Debug)]
pub struct Watch {
    clock: Clock,
    credit: Cell<u32>,
    credited: Cell<Tick>,
    flooded: Cell<bool>,
    /// When the head that is not whole yet began.
    head_since: Cell<Option<Tick>>,
    /// When the client stopped to take what is written.
    blocked_since: Cell<Option<Tick>>,
    heard: Cell<bool>,
    requests: Cell<u32>,
}

/// What a look at the clock tells of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It goes on.
    Fine,
    /// It takes too long over a head.
    SlowHead,
    /// It takes nothing.
    Blocked,
}

impl Watch {
    /// Nothing has come yet.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            credit: Cell::new(CREDIT_MAX),
            credited: Cell::new(clock.now()),
            flooded: Cell::new(false),
            head_since: Cell::new(None),
            blocked_since: Cell::new(None),
            heard: Cell::new(false),
            requests: Cell::new(0),
        }
    }

    /// Whether the client asked for more work than it earned.
    pub fn is_flooded(&self) -> bool {
        self.flooded.get()
    }

    /// Whether anything came since the last time that this was asked.
    pub fn take_heard(&self) -> bool {
        self.heard.take()
    }

    /// Requests under way.
    pub fn requests(&self) -> u32 {
        self.requests.get()
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
    }

    /// What the clock says.
    pub fn look(&self) -> Look {
        let now = self.clock.now();
        let over = |since: Option<Tick>, max| since.is_some_and(|since| now.since(since) > max);
        if over(self.blocked_since.get(), BLOCKED_MAX) {
            Look::Blocked
        } else if over(self.head_since.get(), HEAD_TIME_MAX) {
            Look::SlowHead
        } else {
            Look::Fine
        }
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
            None => self.flooded.set(true),
        }
    }

    fn frame(&self, kind: u8, flags: u8, length: usize) {
        match kind {
            // Of other pieces, windows and the codec take care.
            DATA if length > 0 || flags & END_STREAM != 0 => {}
            // Requests are counted as such.
            HEADERS => {}
            CONTINUATION if length > 0 => {}
            _ => self.spend(1),
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

/// Finds the heads of frames in what comes, in pieces of any size.
#[derive(Debug)]
struct Frames {
    /// Bytes that belong to no head: the preface, or a payload.
    skip: usize,
    head: [u8; FRAME_HEAD_BYTES],
    have: usize,
    kind: u8,
    /// Fields are not whole before a frame that says so.
    in_fields: bool,
}

impl Frames {
    fn new() -> Self {
        let head = [0; FRAME_HEAD_BYTES];
        Self { skip: PREFACE.len(), head, have: 0, kind: DATA, in_fields: false }
    }

    fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(u8, u8, usize)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (FRAME_HEAD_BYTES - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == FRAME_HEAD_BYTES {
                self.have = 0;
                let [a, b, c, kind, flags, ..] = self.head;
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.kind = kind;
                if matches!(kind, HEADERS | CONTINUATION | PUSH_PROMISE) {
                    self.in_fields = flags & END_HEADERS == 0;
                }
                found(kind, flags, self.skip);
            }
        }
    }

    /// Whether nothing is expected to follow at once.
    fn is_whole(&self) -> bool {
        self.have == 0 && !self.in_fields && (self.skip == 0 || self.kind == DATA)
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
        Self { stream, frames: Frames::new(), watch }
    }

    fn wrote(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &polled {
            Poll::Ready(Ok(bytes)) => {
                self.watch.blocked_since.set(None);
                self.watch.earn(u32::try_from(bytes / BYTES_PER_CREDIT).unwrap_or(CREDIT_MAX));
            }
            Poll::Pending if self.watch.blocked_since.get().is_none() => {
                self.watch.blocked_since.set(Some(self.watch.clock.now()));
            }
            Poll::Pending | Poll::Ready(Err(_)) => {}
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, frames, watch } = self.get_mut();
        if watch.flooded.get() {
            // Whoever polls the connection asks next, and cuts it.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buffer))?;
        frames.feed(&buffer.filled()[before..], |kind, flags, length| {
            watch.frame(kind, flags, length);
        });
        watch.heard.set(true);
        watch.head_is_whole(frames.is_whole());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn frames_are_found_in_pieces_of_any_size() {
        let sent = [
            PREFACE.to_vec(),
            frame(4, 0, &[]),
            frame(HEADERS, 0, b"abc"),
            frame(CONTINUATION, END_HEADERS, b"de"),
            frame(DATA, END_STREAM, &[0; 300]),
        ]
        .concat();
        for step in 1..20 {
            let mut frames = Frames::new();
            let mut found = Vec::new();
            for piece in sent.chunks(step) {
                frames.feed(piece, |kind, _, length| found.push((kind, length)));
            }
            let all = [(4, 0), (HEADERS, 3), (CONTINUATION, 2), (DATA, 300)];
            assert_eq!(found, all, "in steps of {step}");
            assert!(frames.is_whole());
        }
    }

    #[test]
    fn a_head_is_whole_with_its_last_byte() {
        let sent = [frame(HEADERS, 0, b"abc"), frame(CONTINUATION, END_HEADERS, b"de")].concat();
        let mut frames = Frames::new();
        frames.feed(PREFACE, |_, _, _| {});
        for byte in &sent[..sent.len() - 1] {
            frames.feed(&[*byte], |_, _, _| {});
            assert!(!frames.is_whole());
        }
        frames.feed(&sent[sent.len() - 1..], |_, _, _| {});
        assert!(frames.is_whole());
    }

    #[test]
    fn who_asks_for_nothing_but_work_runs_out_of_credit() {
        let watch = Watch::new(Clock::start());
        for _ in 0..CREDIT_MAX {
            watch.frame(6, 0, 8);
        }
        assert!(!watch.is_flooded());
        watch.begin();
        watch.end(true);
        watch.frame(6, 0, 8);
        assert!(!watch.is_flooded());
        for _ in 0..CREDIT_MAX {
            watch.frame(6, 0, 8);
        }
        assert!(watch.is_flooded());
    }

    #[test]
    fn requests_and_bodies_cost_no_credit() {
        let watch = Watch::new(Clock::start());
        for _ in 0..10 * CREDIT_MAX {
            watch.frame(HEADERS, END_HEADERS, 30);
            watch.frame(DATA, 0, 1);
            watch.frame(DATA, END_STREAM, 0);
        }
        assert!(!watch.is_flooded());
    }
}
