//! Connections to endpoints: one pool per worker and endpoint, and one narrow way in.
//!
//! Never dials ahead and never shares a connection between workers. What speaks HTTP to
//! the endpoint is seen by nobody outside this file.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::clock::Clock;
use crate::proxy::body::{RequestBody, Source};
use crate::proxy::deadline::Deadline;
use crate::proxy::error::{Error, Timeout};
use crate::traffic::retry::{Failed, REPLAY_BODY_BYTES_MAX, Timeouts};
use crate::units::Tick;

/// Idle connections that a worker keeps to one endpoint. When full, the one that comes
/// back is closed: reuse is from the top, so those below are hardly used.
pub const IDLE_CONNECTIONS_MAX: usize = 256;

/// An idle connection older than this is closed instead of used: most servers have
/// closed it by then.
pub const IDLE_CONNECTION_AGE_MAX: Duration = Duration::from_secs(60);

/// One address of a backend, as one worker sees it.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    clock: Clock,
    /// Last in, first out: the warmest connection is used, the others age and go.
    idle: RefCell<Vec<Idle>>,
    in_flight: Cell<u32>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Tick,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<RequestBody>,
    bytes_read: Rc<Cell<u64>>,
    reused: bool,
}

/// What goes with a request's head to an endpoint.
#[derive(Debug)]
pub struct Outbound {
    /// The body.
    pub source: Rc<Source>,
    /// Limits of the exchange.
    pub wait: Rc<Deadline>,
    /// Lengths of its phases.
    pub timeouts: Timeouts,
}

/// A connection in use. Given back it is used again; dropped it is closed, which is how
/// the endpoint learns that the client went away.
#[derive(Debug)]
pub struct Lease {
    busy: Busy,
    connection: Connection,
}

/// One request in flight at an endpoint.
#[derive(Debug)]
struct Busy(Rc<Endpoint>);

impl Busy {
    fn new(endpoint: &Rc<Endpoint>) -> Self {
        endpoint.in_flight.set(endpoint.in_flight.get() + 1);
        Self(Rc::clone(endpoint))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

impl Endpoint {
    /// Not connected yet.
    pub fn new(address: SocketAddr, clock: Clock) -> Self {
        Self { address, clock, idle: RefCell::default(), in_flight: Cell::new(0) }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests of this worker that it has not finished.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// Closes connections that have been idle for too long.
    pub fn close_idle(&self, now: Tick) {
        self.idle.borrow_mut().retain(|idle| {
            now.since(idle.since) < IDLE_CONNECTION_AGE_MAX && !idle.connection.sender.is_closed()
        });
    }

    /// Sends a request, its `head` in origin form and with a `host`, and waits for the
    /// response's head.
    ///
    /// What fails on a reused connection before a byte of the response is tried once more
    /// on a fresh one, if its body can be sent again.
    pub async fn send(
        self: &Rc<Self>,
        mut head: Parts,
        outbound: &Outbound,
    ) -> Result<(Response<Incoming>, Lease), Error> {
        let busy = Busy::new(self);
        if let Some(connection) = self.reuse().await {
            let again = head.clone();
            outbound.source.keep(REPLAY_BODY_BYTES_MAX);
            match connection.send(head, outbound).await {
                Ok((response, connection)) => return Ok((response, Lease { busy, connection })),
                Err((failed, _)) if failed.was_stale() => head = again,
                Err((_, error)) => return Err(error),
            }
        }
        let connection = self.connect(outbound).await?;
        match connection.send(head, outbound).await {
            Ok((response, connection)) => Ok((response, Lease { busy, connection })),
            Err((_, error)) => Err(error),
        }
    }

    /// The connection that was given back last and is still open.
    async fn reuse(&self) -> Option<Connection> {
        loop {
            let mut connection = self.idle.borrow_mut().pop()?.connection;
            // Ready at once, save when the end of its last message is not yet seen.
            if connection.sender.is_ready() || connection.sender.ready().await.is_ok() {
                connection.reused = true;
                return Some(connection);
            }
        }
    }

    async fn connect(&self, outbound: &Outbound) -> Result<Connection, Error> {
        let unreachable = |source| Error::Unreachable { endpoint: self.address, source };
        outbound.wait.set(Timeout::Connect, outbound.timeouts.connect);
        let stream = outbound.wait.within(TcpStream::connect(self.address)).await;
        let stream = stream.map_err(Error::Timeout)?.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let bytes_read = Rc::new(Cell::new(0));
        let io = TokioIo::new(Counted { stream, bytes_read: Rc::clone(&bytes_read) });
        let (sender, connection) =
            http1::Builder::new().writev(false).handshake(io).await.map_err(Error::Broken)?;
        // Ends when the sender is dropped; what goes wrong is told to the request.
        tokio::task::spawn_local(connection);
        Ok(Connection { sender, bytes_read, reused: false })
    }
}

impl Connection {
    async fn send(
        mut self,
        head: Parts,
        outbound: &Outbound,
    ) -> Result<(Response<Incoming>, Self), (Failed, Error)> {
        let Outbound { source, wait, timeouts } = outbound;
        let read_before = self.bytes_read.get();
        let body = RequestBody::new(
            Rc::clone(source),
            Rc::clone(wait),
            timeouts.idle,
            timeouts.first_byte,
        );
        let request = Request::from_parts(head, body);
        let error = match wait.within(self.sender.send_request(request)).await {
            Ok(Ok(response)) => return Ok((response, self)),
            Ok(Err(_)) if source.is_client_gone() => Error::ClientGone,
            Ok(Err(error)) => Error::Broken(error),
            Err(which) if source.waits_for_client() => Error::ClientStalled(which),
            Err(which) => Error::Timeout(which),
        };
        let failed = Failed {
            reused_connection: self.reused,
            closed_before_response: matches!(error, Error::Broken(_))
                && self.bytes_read.get() == read_before,
            body_replayable: source.is_replayable(),
            retries: 0,
        };
        Err((failed, error))
    }
}

impl Lease {
    /// The response has ended: the connection may serve another request.
    pub fn give_back(self) {
        let Self { busy, connection } = self;
        let endpoint = &busy.0;
        let mut idle = endpoint.idle.borrow_mut();
        if idle.len() < IDLE_CONNECTIONS_MAX && !connection.sender.is_closed() {
            idle.push(Idle { connection, since: endpoint.clock.now() });
        }
    }
}

/// A stream that counts what is read: a request may be sent again only if not one byte
/// of a response came.
#[derive(Debug)]
struct Counted {
    stream: TcpStream,
    bytes_read: Rc<Cell<u64>>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        self.bytes_read.set(self.bytes_read.get() + read as u64);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
