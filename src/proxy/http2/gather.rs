//! Frames of many streams, written at once.
//!
//! The library hands over a frame at a time, and asks for a flush after each that is not small.
//! Never holds anything back for longer than the connection's task runs: that sends what was
//! gathered as the last thing it does.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gathered at most; what does not fit behind it is written together with it, from where it
/// lies.
const GATHERED_BYTES_MAX: usize = 16 << 10;

thread_local! {
    /// Room for one connection's frames. Most gather and send before another gathers, so that
    /// hardly any has room of its own.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A connection as the library sees it.
#[derive(Debug)]
pub struct Gathering<S>(Rc<RefCell<Gathered<S>>>);

/// The same, as its task does.
#[derive(Debug)]
pub struct Sending<S>(Rc<RefCell<Gathered<S>>>);

#[derive(Debug)]
struct Gathered<S> {
    stream: S,
    bytes: Vec<u8>,
    /// Of `bytes`.
    sent: usize,
    /// The stream may keep some of what it took: TLS does, when its socket takes nothing.
    is_unflushed: bool,
    /// Why nothing can be sent: the library is told when it writes next.
    failed: Option<io::Error>,
}

/// The two ends of `stream`.
pub fn gather<S>(stream: S) -> (Gathering<S>, Sending<S>) {
    let gathered =
        Gathered { stream, bytes: Vec::new(), sent: 0, is_unflushed: false, failed: None };
    let shared = Rc::new(RefCell::new(gathered));
    (Gathering(Rc::clone(&shared)), Sending(shared))
}

impl<S: AsyncWrite + Unpin> Sending<S> {
    /// Sends what was gathered; call when the connection has been polled. A failure is told to
    /// the library, which is polled again for it.
    pub fn send(&self, cx: &mut Context<'_>) {
        let mut gathered = self.0.borrow_mut();
        if let Poll::Ready(Err(error)) = gathered.poll_send(cx) {
            gathered.failed = Some(error);
            gathered.lend_on();
            gathered.is_unflushed = false;
            cx.waker().wake_by_ref();
        }
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            let wrote = Pin::new(&mut self.stream).poll_write(cx, &self.bytes[self.sent..]);
            self.sent += some(ready!(wrote)?)?;
            self.is_unflushed = true;
        }
        self.lend_on();
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if self.is_unflushed {
            ready!(flushed)?;
            self.is_unflushed = false;
        }
        // Else what counts as written may not be with the kernel yet; a failure shows elsewhere.
        Poll::Ready(Ok(()))
    }

    /// Nothing waits: others may gather in the room for it.
    fn lend_on(&mut self) {
        self.sent = 0;
        if self.bytes.capacity() > 0 {
            self.bytes.clear();
            SPARE.set(std::mem::take(&mut self.bytes));
        }
    }

    /// Takes all of `slices`, if they are not large.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let length = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if self.bytes.len() + length > GATHERED_BYTES_MAX {
            if length > GATHERED_BYTES_MAX / 2 {
                return self.poll_write_through(cx, slices);
            }
            ready!(self.poll_send(cx))?;
        }
        if self.bytes.capacity() == 0 {
            self.bytes = SPARE.take();
            self.bytes.reserve_exact(GATHERED_BYTES_MAX);
        }
        for slice in slices {
            self.bytes.extend_from_slice(slice);
        }
        Poll::Ready(Ok(length))
    }

    /// Writes what was gathered and as much of `slices` as goes with it.
    fn poll_write_through(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let gathered = &self.bytes[self.sent..];
            let mut all = [IoSlice::new(gathered), IoSlice::new(&[]), IoSlice::new(&[])];
            // The library has two: frames gathered by itself, and a large piece.
            for (place, slice) in all[1..].iter_mut().zip(slices) {
                *place = IoSlice::new(slice);
            }
            let waiting = gathered.len();
            let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, &all);
            let wrote = some(ready!(wrote)?)?;
            self.is_unflushed = true;
            self.sent += wrote.min(waiting);
            if wrote > waiting {
                self.lend_on();
                return Poll::Ready(Ok(wrote - waiting));
            }
        }
    }
}

/// A stream that takes nothing and does not say why is at its end.
fn some(wrote: usize) -> io::Result<usize> {
    if wrote == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(wrote) }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_take(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_take(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Says that it is done, which is what gathers: see `Sending::send`.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.borrow_mut().failed.take().map_or(Ok(()), Err))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.0.borrow_mut();
        ready!(gathered.poll_send(cx))?;
        Pin::new(&mut gathered.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// Takes so many bytes at each call, and nothing when there are no more numbers.
    #[derive(Debug, Default)]
    struct Taker {
        takes: Vec<usize>,
        calls: Vec<usize>,
        got: Vec<u8>,
        broken: bool,
        /// It keeps what it took until it is flushed, and cannot be for so many times.
        stuck: usize,
        flushed: usize,
    }

    impl AsyncWrite for Taker {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            if self.broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let Some(most) = self.takes.pop() else { return Poll::Pending };
            let all = slices.iter().flat_map(|slice| slice.iter().copied());
            let taken = all.take(most).collect::<Vec<_>>();
            self.calls.push(taken.len());
            self.got.extend(&taken);
            Poll::Ready(Ok(taken.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if let Some(left) = self.stuck.checked_sub(1) {
                self.stuck = left;
                return Poll::Pending;
            }
            self.flushed = self.got.len();
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn taker(takes: Vec<usize>) -> (Gathering<Taker>, Sending<Taker>) {
        gather(Taker { takes, ..Taker::default() })
    }

    fn write(to: &mut Gathering<Taker>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(to).poll_write(&mut cx, bytes)
    }

    fn flush(to: &mut Gathering<Taker>) -> Poll<io::Result<()>> {
        Pin::new(to).poll_flush(&mut Context::from_waker(Waker::noop()))
    }

    fn send(from: &Sending<Taker>) {
        from.send(&mut Context::from_waker(Waker::noop()));
    }

    fn calls(of: &Sending<Taker>) -> Vec<usize> {
        of.0.borrow().stream.calls.clone()
    }

    #[test]
    fn small_frames_go_in_one_call_and_a_large_one_with_what_waits() {
        let (mut stream, sending) = taker(vec![usize::MAX; 2]);
        for _ in 0..8 {
            assert!(matches!(write(&mut stream, &[1; 1100]), Poll::Ready(Ok(1100))));
            assert!(matches!(flush(&mut stream), Poll::Ready(Ok(()))));
        }
        assert_eq!(calls(&sending), [0; 0]);
        send(&sending);
        assert_eq!(calls(&sending), [8 * 1100]);
        let large = [2; GATHERED_BYTES_MAX];
        assert!(matches!(write(&mut stream, &[1; 9]), Poll::Ready(Ok(9))));
        assert!(matches!(write(&mut stream, &large), Poll::Ready(Ok(GATHERED_BYTES_MAX))));
        assert_eq!(calls(&sending), [8 * 1100, 9 + GATHERED_BYTES_MAX]);
    }

    #[test]
    fn a_stream_that_takes_nothing_is_not_gathered_for_without_end() {
        let (mut stream, sending) = taker(Vec::new());
        let mut taken = 0;
        while let Poll::Ready(Ok(wrote)) = write(&mut stream, &[0; 1000]) {
            taken += wrote;
        }
        assert!(taken <= GATHERED_BYTES_MAX, "{taken}");
        assert!(write(&mut stream, &[0; GATHERED_BYTES_MAX]).is_pending());
        sending.0.borrow_mut().stream.takes.push(usize::MAX);
        send(&sending);
        assert_eq!(calls(&sending), [taken]);
    }

    #[test]
    fn what_the_stream_keeps_is_flushed_until_it_is_gone() {
        for length in [10, GATHERED_BYTES_MAX + 1] {
            let (mut stream, sending) = taker(vec![usize::MAX]);
            assert!(matches!(write(&mut stream, &vec![0; length]), Poll::Ready(Ok(_))));
            sending.0.borrow_mut().stream.stuck = 2;
            for flushed in [0, 0, length] {
                send(&sending);
                assert_eq!(sending.0.borrow().stream.flushed, flushed);
            }
            assert_eq!(sending.0.borrow().bytes.capacity(), 0, "the room is lent on");
        }
    }

    #[test]
    fn a_failure_is_told_when_the_connection_is_polled_again_and_once() {
        let (mut stream, sending) = taker(Vec::new());
        assert!(matches!(write(&mut stream, &[0; 10]), Poll::Ready(Ok(10))));
        sending.0.borrow_mut().stream.broken = true;
        send(&sending);
        assert!(matches!(flush(&mut stream), Poll::Ready(Err(_))));
        // There is nothing left that would fail again.
        send(&sending);
        assert!(matches!(flush(&mut stream), Poll::Ready(Ok(()))));
        assert!(matches!(write(&mut stream, &[0; 10]), Poll::Ready(Ok(10))));
    }

    proptest! {
        #[test]
        fn bytes_arrive_as_they_were_written(
            frames in proptest::collection::vec((0_u8.., 1_usize..40_000), 1..20),
            takes in proptest::collection::vec(1_usize..50_000, 0..40),
        ) {
            let (mut stream, sending) = taker(takes);
            let mut expected = Vec::new();
            for (byte, length) in frames {
                let frame = vec![byte; length];
                let mut rest = &frame[..];
                while !rest.is_empty() {
                    match write(&mut stream, rest) {
                        Poll::Ready(wrote) => rest = &rest[wrote.unwrap()..],
                        Poll::Pending => sending.0.borrow_mut().stream.takes.push(7_000),
                    }
                }
                expected.extend(frame);
                send(&sending);
            }
            sending.0.borrow_mut().stream.takes.extend([usize::MAX; 2]);
            send(&sending);
            prop_assert!(sending.0.borrow().stream.got == expected);
        }
    }

    #[test]
    fn whether_the_peer_takes_what_was_written_is_asked_at_each_turn() {
        let (mut gathering, sending) = taker(vec![100]);
        assert!(write(&mut gathering, b"frame").is_ready());
        let mut cx = Context::from_waker(Waker::noop());
        sending.send(&mut cx);
        assert_eq!(sending.0.borrow().stream.flushed, 5);
        sending.0.borrow_mut().stream.stuck = 1;
        sending.send(&mut cx);
        assert_eq!(sending.0.borrow().stream.stuck, 0);
    }
}
