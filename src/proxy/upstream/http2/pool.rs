//! The HTTP/2 connections of one endpoint, as one worker has them.
//!
//! Never dials two at once, and opens another one only when those that there are serve as
//! many requests as they may.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::proxy::http2::gather::{Gathering, Sending, gather};
use crate::proxy::upstream::transport::Transport;
use crate::units::Tick;

/// Requests at once on one connection, if the endpoint allows as many.
pub const STREAMS_MAX: usize = 100;

/// Connections of one worker to one endpoint. When all are full, a request waits for a place,
/// as long as it may wait for a connection.
pub const CONNECTIONS_MAX: usize = 32;

/// Bytes of an answer that an endpoint may send before its client takes them.
const STREAM_WINDOW: u32 = 64 << 10;

/// Room for a window of every stream: a client that reads nothing must not hold up those
/// whose answers come over the same connection.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS_MAX as u32;

/// Bytes of a head or of trailers, counted as HTTP/2 does: 32 more for each field.
const HEAD_BYTES_MAX: u32 = 128 << 10;

/// Streams that Serin reset and of which frames may still be on their way.
const RESETS_REMEMBERED_MAX: usize = 1000;

/// What one stream may have waiting for the connection.
const SEND_BYTES_MAX: usize = 256 << 10;

/// How often a connection with requests under way is looked at. After two looks without a
/// word from the endpoint it is asked whether it is there; after four it is taken for dead.
const LOOK: Duration = Duration::from_secs(10);
const SILENT_LOOKS_PING: u32 = 2;
const SILENT_LOOKS_MAX: u32 = 4;

/// The connections of one endpoint.
#[derive(Debug)]
pub struct Pool {
    clock: Clock,
    connections: RefCell<Vec<Rc<Connection>>>,
    dials: Cell<bool>,
    /// A place may have become free, or a connection been made.
    changed: Notify,
}

/// A connection that is used by many.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Bytes>,
    encrypted: bool,
    state: Rc<State>,
}

/// What a connection's driver tells.
#[derive(Debug)]
struct State {
    /// Requests under way.
    streams: Cell<usize>,
    /// Requests that the endpoint allows at once.
    streams_max: Cell<usize>,
    /// It takes no more requests.
    retired: Cell<bool>,
    /// Times that something came.
    heard: Cell<u64>,
    /// It has served a request.
    used: Cell<bool>,
    /// Something came for the first time, or nothing will.
    told: Notify,
    idle_since: Cell<Tick>,
}

/// A place on a connection, for one request. Free again when dropped.
#[derive(Debug)]
pub struct Lease {
    connection: Rc<Connection>,
    sender: SendRequest<Bytes>,
    pool: Rc<Pool>,
    was_idle: bool,
}

/// Whose turn it is.
#[derive(Debug)]
pub enum Turn {
    /// There is a place.
    Place(Lease),
    /// The caller is to dial; nobody else does.
    Dial(Dial),
}

/// The right to dial, until dropped.
#[derive(Debug)]
pub struct Dial(Rc<Pool>);

impl Drop for Dial {
    fn drop(&mut self) {
        self.0.dials.set(false);
        self.0.changed.notify_waiters();
    }
}

impl Pool {
    /// None yet.
    pub fn new(clock: Clock) -> Rc<Self> {
        Rc::new(Self {
            clock,
            connections: RefCell::default(),
            dials: Cell::new(false),
            changed: Notify::new(),
        })
    }

    /// Waits for a place, or for the right to dial.
    pub async fn turn(self: &Rc<Self>) -> Turn {
        loop {
            let changed = self.changed.notified();
            if let Some(lease) = self.place() {
                return Turn::Place(lease);
            }
            if !self.dials.get() && self.connections.borrow().len() < CONNECTIONS_MAX {
                self.dials.set(true);
                return Turn::Dial(Dial(Rc::clone(self)));
            }
            changed.await;
        }
    }

    /// A place on the first connection that has one: those behind it run empty and are
    /// closed.
    fn place(self: &Rc<Self>) -> Option<Lease> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| !connection.state.retired.get());
        let connection = connections.iter().find(|connection| connection.state.has_place())?;
        Some(Lease::on(connection, self))
    }

    /// Speaks HTTP/2 over `transport`. Its first place is the caller's.
    pub async fn adopt(
        self: &Rc<Self>,
        transport: Transport,
        dial: Option<Dial>,
    ) -> io::Result<Lease> {
        let state = Rc::new(State {
            streams: Cell::new(0),
            // One, until the endpoint has told how many.
            streams_max: Cell::new(1),
            retired: Cell::new(false),
            heard: Cell::new(0),
            used: Cell::new(false),
            told: Notify::new(),
            idle_since: Cell::new(self.clock.now()),
        });
        let encrypted = transport.is_encrypted();
        let heard = Heard { stream: transport, state: Rc::clone(&state) };
        let (stream, output) = gather(heard);
        let (sender, connection) = builder().handshake(stream).await.map_err(into_io)?;
        let connection = (connection, output);
        let driver = drive(connection, Rc::clone(&state), Rc::downgrade(self), dial);
        tokio::task::spawn_local(driver);
        let connection = Rc::new(Connection { sender, encrypted, state });
        let lease = Lease::on(&connection, self);
        self.connections.borrow_mut().push(connection);
        Ok(lease)
    }

    /// Looks anew at what there is.
    fn place_free(&self) {
        self.connections.borrow_mut().retain(|connection| !connection.state.retired.get());
        self.changed.notify_waiters();
    }

    /// Closes connections that have served nothing for longer than `age`.
    pub fn close_idle(&self, now: Tick, age: Duration) {
        self.connections.borrow_mut().retain(|connection| {
            let state = &connection.state;
            let idle = state.streams.get() == 0 && now.since(state.idle_since.get()) >= age;
            !idle && !state.retired.get()
        });
    }
}

/// What small frames may cost that wait for slow clients, as the library counts: 256 bytes for
/// each, less its own. As much as all streams can bring in tokens of 32 bytes: it is the windows
/// that hold back an endpoint, and a few clients that read nothing must not cost the others their
/// connection.
const SMALL_FRAMES_BUDGET: usize = STREAMS_MAX * (STREAM_WINDOW as usize / 32) * (256 - 32);

/// What is agreed to with an endpoint.
pub fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(1)
        .max_header_list_size(HEAD_BYTES_MAX)
        .max_concurrent_reset_streams(RESETS_REMEMBERED_MAX)
        // Clients that change their minds are no fault of this connection.
        .max_local_error_reset_streams(None)
        .data_frame_budget(SMALL_FRAMES_BUDGET)
        .max_send_buffer_size(SEND_BYTES_MAX);
    builder
}

fn into_io(error: h2::Error) -> io::Error {
    error.into_io().unwrap_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Keeps a connection going until it ends, and asks a silent endpoint whether it is there.
async fn drive(
    (mut connection, output): (h2::client::Connection<Gathering<Heard>, Bytes>, Sending<Heard>),
    state: Rc<State>,
    pool: Weak<Pool>,
    mut dial: Option<Dial>,
) {
    let mut pings = connection.ping_pong();
    let mut look = pin!(sleep(LOOK));
    let (mut heard, mut silent) = (0, 0);
    poll_fn(|cx| {
        while look.as_mut().poll(cx).is_ready() {
            look.set(sleep(LOOK));
            // Nobody waits for what has said nothing by now.
            dial = None;
            if heard != state.heard.get() {
                (heard, silent) = (state.heard.get(), 0);
            } else if state.streams.get() > 0 {
                // Looks between two requests say nothing, and do not make it well.
                silent += 1;
            }
            if silent >= SILENT_LOOKS_MAX {
                return Poll::Ready(());
            }
            if silent >= SILENT_LOOKS_PING {
                ping(pings.as_mut(), cx);
            }
        }
        let polled = Pin::new(&mut connection).poll(cx);
        output.send(cx);
        let allowed = connection.max_concurrent_send_streams();
        if state.streams_max.replace(allowed) != allowed
            && let Some(pool) = pool.upgrade()
        {
            pool.changed.notify_waiters();
        }
        if state.heard.get() > 0 {
            // Whether another connection is wanted is known from here on.
            dial = None;
            state.told.notify_waiters();
        }
        polled.map(drop)
    })
    .await;
    drop(dial);
    // Whoever still waits for an answer on it learns of its end by its being dropped.
    state.retired.set(true);
    state.told.notify_waiters();
    if let Some(pool) = pool.upgrade() {
        pool.place_free();
    }
}

fn ping(pings: Option<&mut PingPong>, cx: &mut Context<'_>) {
    if let Some(pings) = pings {
        // The answer to an earlier one is in the way; one under way will do.
        let _ = pings.poll_pong(cx);
        let _ = pings.send_ping(Ping::opaque());
    }
}

impl State {
    fn has_place(&self) -> bool {
        !self.retired.get() && self.streams.get() < self.streams_max.get().min(STREAMS_MAX)
    }
}

impl Lease {
    fn on(connection: &Rc<Connection>, pool: &Rc<Pool>) -> Self {
        let state = &connection.state;
        let was_idle = state.streams.get() == 0 && state.used.replace(true);
        state.streams.set(state.streams.get() + 1);
        let sender = connection.sender.clone();
        Self { connection: Rc::clone(connection), sender, pool: Rc::clone(pool), was_idle }
    }

    /// Sends on the connection.
    pub fn sender(&mut self) -> &mut SendRequest<Bytes> {
        &mut self.sender
    }

    /// Whether the connection had served requests before, and none when this one came.
    pub fn was_idle(&self) -> bool {
        self.was_idle
    }

    /// Times that something came over the connection.
    pub fn heard(&self) -> u64 {
        self.connection.state.heard.get()
    }

    /// Waits until the endpoint has said something, which begins with what it takes, or until it
    /// will not.
    pub async fn has_heard(&self) {
        let state = &self.connection.state;
        loop {
            let told = state.told.notified();
            if state.heard.get() > 0 || state.retired.get() {
                return;
            }
            told.await;
        }
    }

    /// Whether the connection is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.connection.encrypted
    }

    /// The connection takes no more requests.
    pub fn retire(&self) {
        self.connection.state.retired.set(true);
        self.pool.place_free();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let state = &self.connection.state;
        state.streams.set(state.streams.get() - 1);
        if state.streams.get() == 0 {
            state.idle_since.set(self.pool.clock.now());
        }
        self.pool.changed.notify_one();
    }
}

/// A transport that tells when something came.
#[derive(Debug)]
struct Heard {
    stream: Transport,
    state: Rc<State>,
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.state.heard.set(self.state.heard.get() + 1);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Heard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
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
