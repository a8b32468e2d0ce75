//! A TCP connection whose short writes are made when the worker's tasks have read all that came.
//!
//! A write wakes whoever waits for it, and to wake another processor is the dearest part of it.
//! Made one after the other, most of them find it awake (`docs/decisions/0021`). Never holds
//! anything back for longer than those tasks take that could run when it was written, but for
//! what the kernel does not take.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// What waits of one connection. More is written at once: it costs what its bytes cost.
const LATE_BYTES_MAX: usize = 16 << 10;

/// What waits in one worker, in connections and in bytes. When full, all of it is written at once.
const WRITES_MAX: usize = 64;
const WAITING_BYTES_MAX: usize = 64 << 10;

/// A TCP connection.
///
/// What is written counts as written once it waits here. What becomes of it shows in what is read,
/// and at the next write or flush.
pub struct Socket(Rc<Shared>);

/// From now on, and until dropped, makes the short writes of this thread's sockets at the end of
/// each turn. Is to be a task of its own: woken by the first of them, it runs behind all that
/// can run by then.
pub async fn write_late() {
    let _end = End;
    poll_fn(|cx| {
        TURN.with_borrow_mut(|turn| {
            turn.write();
            turn.writer = Some(cx.waker().clone());
        });
        Poll::<()>::Pending
    })
    .await;
}

impl Socket {
    /// Over `stream`.
    pub fn new(stream: TcpStream) -> Self {
        Self(Rc::new(Shared {
            stream: RefCell::new(stream),
            waiting: Cell::new(0),
            is_full: Cell::new(false),
            rest: RefCell::default(),
            fault: Cell::new(None),
        }))
    }

    /// Makes its end a reset.
    pub fn make_abrupt(&self) {
        // A socket that cannot be told so is closed already.
        let _ = self.0.stream.borrow().set_zero_linger();
    }

    /// Writes at once what waits. What the kernel does not take of it, a flush waits for.
    pub fn settle(&self) {
        self.0.settle();
    }

    /// Whether the kernel has taken all that was written.
    pub fn is_settled(&self) -> bool {
        let shared = &self.0;
        let nothing = shared.waiting.get() == 0 && shared.rest.borrow().is_empty();
        nothing && shared.fault.get().is_none()
    }

    /// Whether there is nothing to read, not even an end. Asks the kernel only when it has told
    /// of news.
    pub fn is_silent(&self) -> bool {
        let read = self.0.stream.borrow().try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

struct Shared {
    stream: RefCell<TcpStream>,
    /// Bytes that wait for the end of the turn.
    waiting: Cell<usize>,
    /// The kernel had no room at the last write: others are made at once, so that whoever writes
    /// is held up.
    is_full: Cell<bool>,
    /// What the kernel did not take of those that waited.
    rest: RefCell<BytesMut>,
    /// Why nothing more can be written.
    fault: Cell<Option<io::ErrorKind>>,
}

/// What waits in a worker until all tasks have run that can.
struct Turn {
    /// Who writes at its end; `None` where nobody does.
    writer: Option<Waker>,
    /// One behind the other, so that they need no buffers of their own.
    bytes: Vec<u8>,
    writes: Vec<Write>,
}

struct Write {
    socket: Rc<Shared>,
    bytes: Range<usize>,
    /// Of the task that wrote, for when it has to go on.
    waker: Waker,
}

thread_local! {
    static TURN: RefCell<Turn> = const {
        RefCell::new(Turn { writer: None, bytes: Vec::new(), writes: Vec::new() })
    };
}

/// From here on nothing waits.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        TURN.with_borrow_mut(|turn| {
            turn.write();
            turn.writer = None;
        });
    }
}

impl Turn {
    /// Lets `slices` wait, of `len` bytes.
    fn put(&mut self, socket: &Rc<Shared>, slices: &[IoSlice<'_>], len: usize, waker: &Waker) {
        let begin = self.bytes.len();
        for slice in slices {
            self.bytes.extend_from_slice(slice);
        }
        let end = begin + len;
        match self.writes.last_mut() {
            Some(last) if Rc::ptr_eq(&last.socket, socket) && last.waker.will_wake(waker) => {
                last.bytes.end = end;
            }
            last => {
                if let (None, Some(writer)) = (last, &self.writer) {
                    writer.wake_by_ref();
                }
                let (socket, waker) = (Rc::clone(socket), waker.clone());
                self.writes.push(Write { socket, bytes: begin..end, waker });
            }
        }
        socket.waiting.set(socket.waiting.get() + len);
        if self.writes.len() >= WRITES_MAX || end >= WAITING_BYTES_MAX {
            self.write();
        }
    }

    /// Makes all writes that wait.
    fn write(&mut self) {
        for Write { socket, bytes, waker } in self.writes.drain(..) {
            socket.waiting.set(0);
            if !socket.write(&self.bytes[bytes]) {
                waker.wake();
            }
        }
        self.bytes.clear();
    }
}

impl Shared {
    /// `false` when some of it is left.
    fn write(&self, bytes: &[u8]) -> bool {
        let mut rest = self.rest.borrow_mut();
        let wrote = if rest.is_empty() { send(&self.stream.borrow(), bytes) } else { Ok(0) };
        match wrote.map_err(|error| error.kind()) {
            Ok(wrote) if wrote == bytes.len() => return true,
            Ok(wrote) => rest.extend_from_slice(&bytes[wrote..]),
            Err(io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                rest.extend_from_slice(bytes);
            }
            Err(fault) => self.fault.set(Some(fault)),
        }
        self.is_full.set(true);
        false
    }

    /// Writes what earlier turns have left.
    fn poll_rest(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(fault) = self.fault.get() {
            return Poll::Ready(Err(fault.into()));
        }
        let mut rest = self.rest.borrow_mut();
        while !rest.is_empty() {
            let wrote = ready!(Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, &rest))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            rest.advance(wrote);
            if rest.is_empty() {
                *rest = BytesMut::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes all that waits, in front of what cannot wait.
    fn settle(&self) {
        if self.waiting.get() > 0 {
            TURN.with_borrow_mut(Turn::write);
        }
    }
}

/// Writes `bytes`, or some of them, without what libc adds for threads that may be cancelled.
fn send(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let send = || Ok(rustix::net::send(stream, bytes, SendFlags::NOSIGNAL)?);
    stream.try_io(Interest::WRITABLE, send)
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Socket").field(&self.0.stream).finish()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.settle();
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever waits for an answer writes no more. A fault is not told here: what came before
        // it is to be read, and the kernel tells of its end.
        if !self.0.rest.borrow().is_empty() {
            let _ = self.0.poll_rest(cx);
        }
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let shared = &self.0;
        ready!(shared.poll_rest(cx))?;
        let len: usize = slices.iter().map(|slice| slice.len()).sum();
        if !shared.is_full.get() && shared.waiting.get() + len <= LATE_BYTES_MAX {
            let waits = TURN.with_borrow_mut(|turn| {
                let waits = turn.writer.is_some();
                if waits {
                    turn.put(shared, slices, len, cx.waker());
                }
                waits
            });
            if waits {
                return Poll::Ready(Ok(len));
            }
        }
        shared.settle();
        ready!(shared.poll_rest(cx))?;
        let stream = &mut *shared.stream.borrow_mut();
        let wrote = match slices {
            [bytes] => Pin::new(stream).poll_write(cx, bytes),
            several => Pin::new(stream).poll_write_vectored(cx, several),
        };
        shared.is_full.set(!matches!(wrote, Poll::Ready(Ok(wrote)) if wrote == len));
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_rest(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.settle();
        ready!(self.0.poll_rest(cx))?;
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write as _};
    use std::net::{self, TcpListener};

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::{spawn_local, yield_now};

    use super::*;

    /// Runs `talk` as a task of a worker.
    fn run<F: Future<Output = ()> + 'static>(late: bool, talk: F) {
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        runtime.unwrap().block_on(async {
            let writer = late.then(|| spawn_local(write_late()));
            yield_now().await;
            spawn_local(talk).await.unwrap();
            drop(writer);
        });
    }

    /// A socket, and its other end, which does not wait.
    async fn pair() -> (Socket, net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let far = listener.accept().unwrap().0;
        far.set_nonblocking(true).unwrap();
        (Socket::new(near), far)
    }

    /// What has come by now.
    fn come(far: &mut net::TcpStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        let end = far.read_to_end(&mut bytes);
        assert!(end.is_ok() || end.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
        bytes
    }

    async fn all_of(far: &mut net::TcpStream, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            bytes.extend(come(far));
            yield_now().await;
        }
        bytes
    }

    fn poll_write(socket: &mut Socket, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(socket).poll_write(&mut Context::from_waker(Waker::noop()), bytes)
    }

    fn put(socket: &mut Socket, bytes: &[u8]) {
        let wrote = poll_write(socket, bytes);
        assert!(matches!(wrote, Poll::Ready(Ok(wrote)) if wrote == bytes.len()), "{wrote:?}");
    }

    /// Writes until the kernel takes no more, and a little waits in the socket; all of it.
    async fn fill(socket: &mut Socket) -> Vec<u8> {
        let mut all = Vec::new();
        let mut next = 0_u8;
        while socket.is_settled() {
            let bytes = [next; 5000];
            put(socket, &bytes);
            all.extend(bytes);
            next = next.wrapping_add(1);
            yield_now().await;
        }
        all
    }

    #[test]
    fn short_writes_are_made_when_all_tasks_have_run_that_can() {
        run(true, async {
            let (mut one, mut far_one) = pair().await;
            let (mut two, mut far_two) = pair().await;
            let other = spawn_local(async move {
                // It could run before they are made, so it does.
                assert_eq!(come(&mut far_one), b"");
                yield_now().await;
                assert_eq!(all_of(&mut far_one, 13).await, b"head and body");
            });
            put(&mut one, b"head ");
            put(&mut one, b"and body");
            put(&mut two, b"2");
            assert_eq!(come(&mut far_two), b"");
            other.await.unwrap();
            assert_eq!(all_of(&mut far_two, 1).await, b"2");
        });
    }

    #[test]
    fn without_somebody_who_writes_late_it_is_written_at_once() {
        run(false, async {
            let (mut socket, mut far) = pair().await;
            put(&mut socket, b"now");
            assert_eq!(come(&mut far), b"now");
        });
    }

    #[test]
    fn whoever_writes_late_leaves_nothing_behind() {
        run(true, async {
            let (mut socket, mut far) = pair().await;
            put(&mut socket, b"now");
            drop(End);
            assert_eq!(come(&mut far), b"now");
        });
    }

    #[test]
    fn what_waits_is_written_at_once_before_a_long_write_an_end_and_when_there_is_too_much() {
        run(true, async {
            let (mut socket, mut far) = pair().await;
            put(&mut socket, b"a");
            let long = vec![b'b'; LATE_BYTES_MAX + 1];
            put(&mut socket, &long);
            let came = come(&mut far);
            assert!(came[0] == b'a' && came[1..] == long);
            put(&mut socket, &[b'c'; LATE_BYTES_MAX]);
            assert_eq!(come(&mut far), b"");
            put(&mut socket, b"d");
            assert_eq!(come(&mut far)[LATE_BYTES_MAX..], *b"d");
            put(&mut socket, b"e");
            socket.settle();
            assert_eq!(come(&mut far), b"e");
            put(&mut socket, b"f");
            socket.shutdown().await.unwrap();
            assert_eq!(come(&mut far), b"f");
            let mut many = Vec::new();
            for _ in 0..WRITES_MAX {
                many.push(pair().await);
            }
            for (socket, far) in &mut many {
                assert_eq!(come(far), b"");
                put(socket, b"g");
            }
            assert!(many.iter_mut().all(|(_, far)| come(far) == b"g"));
            for (socket, _) in &mut many[..WAITING_BYTES_MAX / LATE_BYTES_MAX - 1] {
                put(socket, &[b'h'; LATE_BYTES_MAX]);
            }
            assert_eq!(come(&mut many[0].1), b"");
            put(&mut many[9].0, &[b'h'; LATE_BYTES_MAX]);
            assert_eq!(come(&mut many[0].1), [b'h'; LATE_BYTES_MAX]);
            let (mut socket, mut far) = pair().await;
            put(&mut socket, b"h");
            drop(socket);
            assert_eq!(come(&mut far), b"h");
        });
    }

    #[test]
    fn what_the_kernel_does_not_take_is_written_when_it_does() {
        run(true, async {
            let (mut socket, mut far) = pair().await;
            let mut all = fill(&mut socket).await;
            let flushed = Pin::new(&mut socket).poll_flush(&mut Context::from_waker(Waker::noop()));
            assert!(flushed.is_pending());
            assert!(poll_write(&mut socket, b"more").is_pending(), "it has a bound");
            let reader = spawn_local(async move { all_of(&mut far, all.len() + 4).await });
            socket.flush().await.unwrap();
            assert!(socket.is_settled());
            put(&mut socket, b"more");
            all = reader.await.unwrap();
            assert_eq!(all.split_off(all.len() - 4), b"more");
            assert!(all.chunks(5000).enumerate().all(|(at, bytes)| *bytes == [at as u8; 5000]));
        });
    }

    #[test]
    fn whoever_only_reads_sends_on_what_is_left_and_learns_of_a_fault() {
        run(true, async {
            let (mut socket, mut far) = pair().await;
            let all = fill(&mut socket).await.len();
            let reader = spawn_local(async move {
                assert_eq!(all_of(&mut far, all).await.len(), all);
                far.write_all(b"thanks").unwrap();
                // With something unread: the next write meets a reset.
                far
            });
            let mut word = [0; 6];
            socket.read_exact(&mut word).await.unwrap();
            assert_eq!(&word, b"thanks");
            put(&mut socket, b"unread");
            yield_now().await;
            drop(reader.await.unwrap());
            while socket.is_settled() {
                put(&mut socket, b"x");
                yield_now().await;
            }
            assert!(matches!(poll_write(&mut socket, b"x"), Poll::Ready(Err(_))));
            assert!(socket.flush().await.is_err());
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_byte_comes_once_and_in_its_order(
            steps in prop::collection::vec((0..3_usize, 0..40_000_usize, any::<bool>()), 1..40),
        ) {
            run(true, async move {
                let mut ends = [pair().await, pair().await, pair().await];
                let mut told: [Vec<u8>; 3] = Default::default();
                let mut came: [Vec<u8>; 3] = Default::default();
                for (step, (to, len, turn)) in steps.into_iter().enumerate() {
                    let bytes = vec![step as u8; len];
                    let mut rest = &bytes[..];
                    while !rest.is_empty() {
                        match poll_write(&mut ends[to].0, rest) {
                            Poll::Ready(wrote) => rest = &rest[wrote.unwrap()..],
                            Poll::Pending => {
                                came[to].extend(come(&mut ends[to].1));
                                yield_now().await;
                            }
                        }
                    }
                    told[to].extend(bytes);
                    if turn {
                        yield_now().await;
                    }
                }
                for (((socket, mut far), told), mut came) in ends.into_iter().zip(told).zip(came) {
                    let reader = spawn_local(async move {
                        let rest = told.len() - came.len();
                        came.extend(all_of(&mut far, rest).await);
                        assert!(came == told && come(&mut far).is_empty());
                    });
                    let mut socket = socket;
                    socket.shutdown().await.unwrap();
                    reader.await.unwrap();
                }
            });
        }
    }
}
