//! Connections to endpoints: one pool per worker and endpoint, and one narrow way in.
//!
//! Never dials ahead and never shares a connection between workers. What speaks HTTP to
//! the endpoint is seen by nobody outside this folder.

pub mod fault;
mod head;
mod http1;
mod transport;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body::{Body, Frame, SizeHint};

use crate::clock::Clock;
use crate::proxy::body::{RequestBody, Source};
use crate::proxy::deadline::Deadline;
use crate::proxy::error::{Error, Timeout};
use crate::proxy::interim::Interims;
use crate::proxy::upstream::fault::Fault;
use crate::proxy::upstream::http1::Connection;
use crate::proxy::upstream::transport::Transport;
use crate::traffic::balance::{Cost, Latency};
use crate::traffic::retry::{Failed, REPLAY_BODY_BYTES_MAX, Timeouts};
use crate::units::Tick;

/// Idle connections that a worker keeps to one endpoint. When full, the one that comes
/// back is closed: reuse is from the top, so those below are hardly used.
pub const IDLE_CONNECTIONS_MAX: usize = 256;

/// A connection that has been idle for longer is closed at the next sweep: most servers
/// have closed it by then.
pub const IDLE_CONNECTION_AGE_MAX: Duration = Duration::from_mins(1);

/// One address of a backend, as one worker sees it.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    clock: Clock,
    /// Last in, first out: the warmest connection is used, the others age and go.
    idle: RefCell<Vec<Idle>>,
    in_flight: Cell<u32>,
    latency: Cell<Latency>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Tick,
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
    /// Where interim responses go; `None` drops them.
    pub interims: Option<Rc<Interims>>,
}

/// What an endpoint answers. Read to its end, its connection is used again; dropped
/// before, it is closed, which is how the endpoint learns that the client went away.
#[derive(Debug)]
pub struct AnswerBody {
    /// `None` once it has ended.
    open: Option<(http1::Body, Busy)>,
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
        let (in_flight, latency) = (Cell::new(0), Cell::default());
        Self { address, clock, idle: RefCell::default(), in_flight, latency }
    }

    /// What one more request would cost, by its latency and its requests in flight.
    pub fn cost(&self, now: Tick) -> Cost {
        Cost::new(self.latency.get(), self.in_flight.get(), now)
    }

    fn observe<T>(&self, began: Tick, answered: &Result<Response<T>, Error>) {
        let now = self.clock.now();
        let failed = match answered {
            Ok(response) => response.status().is_server_error(),
            // Nothing is known of an endpoint whose client went away.
            Err(error) if error.failure().is_none() => return,
            Err(_) => true,
        };
        self.latency.set(self.latency.get().observe(now.since(began), failed, now));
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
            now.since(idle.since) < IDLE_CONNECTION_AGE_MAX && idle.connection.is_open()
        });
    }

    /// Sends a request, its `head` in origin form and with a `host`, and waits for the
    /// response's head.
    ///
    /// What fails on a reused connection before a byte of the response is tried once more
    /// on a fresh one, if its body can be sent again.
    pub async fn send(
        self: &Rc<Self>,
        head: &Parts,
        outbound: &Outbound,
    ) -> Result<Response<AnswerBody>, Error> {
        let began = self.clock.now();
        let answered = self.send_unmeasured(head, outbound).await;
        self.observe(began, &answered);
        answered
    }

    async fn send_unmeasured(
        self: &Rc<Self>,
        head: &Parts,
        outbound: &Outbound,
    ) -> Result<Response<AnswerBody>, Error> {
        let busy = Busy::new(self);
        if let Some(connection) = self.reuse() {
            outbound.source.keep(REPLAY_BODY_BYTES_MAX);
            match outbound.attempt(connection, head).await {
                Ok(response) => return Ok(AnswerBody::of(response, busy)),
                Err((failed, _)) if failed.was_stale() => {}
                Err((_, error)) => return Err(error),
            }
        }
        let connection = self.connect(outbound).await?;
        match outbound.attempt(connection, head).await {
            Ok(response) => Ok(AnswerBody::of(response, busy)),
            Err((_, error)) => Err(error),
        }
    }

    /// The connection that came back last and is still open.
    fn reuse(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let connection = idle.pop()?.connection;
            if connection.is_open() {
                return Some(connection);
            }
        }
    }

    async fn connect(&self, outbound: &Outbound) -> Result<Connection, Error> {
        outbound.wait.set(Timeout::Connect, outbound.timeouts.connect);
        let connected = outbound.wait.within(Transport::connect(self.address)).await;
        let unreachable = |source| Error::Unreachable { endpoint: self.address, source };
        let transport = connected.map_err(Error::Timeout)?.map_err(unreachable)?;
        Ok(Connection::over(transport))
    }

    fn take_back(&self, connection: Connection) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push(Idle { connection, since: self.clock.now() });
        }
    }
}

impl Outbound {
    async fn attempt(
        &self,
        connection: Connection,
        head: &Parts,
    ) -> Result<Response<http1::Body>, (Failed, Error)> {
        let Self { source, wait, timeouts, interims } = self;
        let body = RequestBody::new(
            Rc::clone(source),
            Rc::clone(wait),
            timeouts.idle,
            timeouts.first_byte,
        );
        let (reused_connection, closed_before_response, error) = match wait
            .within(connection.send(head, body, interims.as_deref()))
            .await
        {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(http1::Failed { fault, reused, silent })) => {
                let closed = matches!(fault, Fault::Io(_) | Fault::ClosedBeforeHead);
                let error = match fault {
                    Fault::ClientGone => source.client_error(),
                    fault => fault.into(),
                };
                (reused, closed && silent, error)
            }
            Err(which) if source.waits_for_client() => (false, false, Error::ClientStalled(which)),
            Err(which) => (false, false, Error::Timeout(which)),
        };
        let failed = Failed {
            reused_connection,
            closed_before_response,
            body_replayable: source.is_replayable(),
            retries: 0,
        };
        Err((failed, error))
    }
}

impl AnswerBody {
    fn of(response: Response<http1::Body>, busy: Busy) -> Response<Self> {
        response.map(|body| {
            let mut body = Self { open: Some((body, busy)) };
            body.give_back_if_ended();
            body
        })
    }

    /// Drops it. What has come already is read, so that the connection of a short answer
    /// can be used again.
    pub fn discard(mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(Ok(_))) = Pin::new(&mut self).poll_frame(&mut cx) {}
    }

    /// Sends on what is left of the request.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if let Some((body, _)) = &mut self.open {
            body.poll_upload(cx);
        }
    }

    fn give_back_if_ended(&mut self) {
        if let Some((body, busy)) = self.open.take_if(|(body, _)| body.is_end_stream())
            && let Some(connection) = body.into_reusable()
        {
            busy.0.take_back(connection);
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some((body, _)) = &mut self.open else { return Poll::Ready(None) };
        let polled = body.poll_frame(cx);
        if polled.is_ready() {
            self.give_back_if_ended();
        }
        polled.map_err(Error::from)
    }

    fn is_end_stream(&self) -> bool {
        self.open.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.open.as_ref().map_or_else(|| SizeHint::with_exact(0), |(body, _)| body.size_hint())
    }
}
