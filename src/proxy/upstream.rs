//! Connections to endpoints: one pool per worker and endpoint, and one narrow way in.
//!
//! Never dials ahead and never shares a connection between workers. What speaks HTTP to
//! the endpoint is seen by nobody outside this folder, but by the checks in `fuzz/`.

pub mod fault;
pub mod head;
pub mod http1;
pub mod http2;
pub mod transport;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::clock::Clock;
use crate::proxy::body::{RequestBody, Source};
use crate::proxy::deadline::Deadline;
use crate::proxy::error::{Error, Timeout};
use crate::proxy::interim::Interims;
use crate::proxy::upstream::fault::Fault;
use crate::proxy::upstream::http1::Connection;
use crate::proxy::upstream::http2::pool::{Dial, Lease, Pool, Turn};
use crate::proxy::upstream::transport::Transport;
use crate::tls::client::{Encryption, Offer};
use crate::traffic::balance::{Cost, Latency};
use crate::traffic::message::{RequestHead, Response};
use crate::traffic::protocol::Protocol;
use crate::traffic::retry::{Excuse, Failed, Timeouts};
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
    protocol: Protocol,
    tls: Option<Arc<Encryption>>,
    /// That it cannot be spoken with over TLS was told of, and has not changed since.
    tls_fault_told: Cell<bool>,
    /// What was spoken last, where the endpoint chooses.
    http2: Cell<bool>,
    /// Connections that many requests share.
    pool: Rc<Pool>,
    /// Last in, first out: the warmest connection is used, the others age and go.
    idle: RefCell<Vec<Idle>>,
    in_flight: Cell<u32>,
    latency: Cell<Latency>,
    /// When it last answered: near enough for the age of what it gives back.
    answered: Cell<Tick>,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
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
    open: Option<(Wire, Busy)>,
    /// When its head was there.
    answered: Tick,
}

/// A response's body, by what is spoken.
#[derive(Debug)]
enum Wire {
    Http1(http1::Body),
    Http2(Box<http2::Body>),
}

/// How a request goes to the endpoint.
#[derive(Debug)]
enum Way {
    /// On a connection of its own, whose first it is.
    Fresh(Box<Connection>),
    /// On a connection that has served others.
    Reused(Box<Connection>),
    /// Beside others.
    Shared(Lease),
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
    pub fn new(
        address: SocketAddr,
        protocol: Protocol,
        tls: Option<Arc<Encryption>>,
        clock: Clock,
    ) -> Self {
        Self {
            address,
            clock,
            protocol,
            tls,
            tls_fault_told: Cell::new(false),
            http2: Cell::new(protocol.is_http2(None)),
            pool: Pool::new(clock),
            idle: RefCell::default(),
            in_flight: Cell::new(0),
            latency: Cell::default(),
            answered: Cell::new(clock.now()),
        }
    }

    /// What one more request would cost, by its latency and its requests in flight.
    pub fn cost(&self, now: Tick) -> Cost {
        Cost::new(self.latency.get(), self.in_flight.get(), now)
    }

    fn observe<T>(&self, began: Tick, answered: &Result<Response<T>, Error>, now: Tick) {
        self.answered.set(now);
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
        self.idle.borrow_mut().retain_mut(|idle| {
            now.since(idle.since) < IDLE_CONNECTION_AGE_MAX && idle.connection.is_open()
        });
        self.pool.close_idle(now, IDLE_CONNECTION_AGE_MAX);
    }

    /// Sends a request, its `head` in origin form and with a `host`, and waits for the
    /// response's head. It is now `began`.
    ///
    /// What fails on a reused connection before a byte of the response is tried once more
    /// on a fresh one, if its body can be sent again; so is what the endpoint told that it
    /// did not look at.
    pub async fn send(
        self: &Rc<Self>,
        head: &RequestHead,
        outbound: &Outbound,
        began: Tick,
    ) -> Result<Response<AnswerBody>, Error> {
        let mut answered = self.send_unmeasured(head, outbound, began).await;
        let now = self.clock.now();
        self.observe(began, &answered, now);
        if let Ok(response) = &mut answered {
            response.body.answered = now;
        }
        answered
    }

    async fn send_unmeasured(
        self: &Rc<Self>,
        head: &RequestHead,
        outbound: &Outbound,
        began: Tick,
    ) -> Result<Response<AnswerBody>, Error> {
        let busy = Busy::new(self);
        let mut retries = 0;
        loop {
            let way = self.way(outbound, retries > 0).await?;
            if !matches!(way, Way::Fresh(_)) {
                outbound.source.keep_to_replay();
            }
            // Pinned where it is made, here and below: awaited as it is, it is moved twice.
            let sent = pin!(outbound.attempt(way, head, (retries, began), self.address));
            match sent.await {
                Ok(response) => return Ok(AnswerBody::of(response, busy)),
                Err((failed, _)) if failed.was_none() => retries += 1,
                Err((_, error)) => return Err(error),
            }
        }
    }

    /// How the next request goes, `again` after it failed on a connection that was there.
    async fn way(&self, outbound: &Outbound, again: bool) -> Result<Way, Error> {
        if !self.http2.get() {
            let reused = (!again).then(|| self.reuse()).flatten();
            return match reused {
                Some(connection) => Ok(Way::Reused(connection)),
                // On the heap, here and below: most requests do not dial, and each would have room
                // for a handshake of HTTP/2.
                None => Box::pin(self.dial(outbound, None)).await,
            };
        }
        outbound.wait.set(Timeout::Connect, outbound.timeouts.connect);
        match outbound.wait.within(self.pool.turn()).await.map_err(Error::Timeout)? {
            Turn::Place(lease) => Ok(Way::Shared(lease)),
            Turn::Dial(dial) => Box::pin(self.dial(outbound, Some(dial))).await,
        }
    }

    /// The connection that came back last and is still open.
    fn reuse(&self) -> Option<Box<Connection>> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let mut connection = idle.pop()?.connection;
            if connection.is_open() {
                return Some(connection);
            }
        }
    }

    async fn dial(&self, outbound: &Outbound, dial: Option<Dial>) -> Result<Way, Error> {
        outbound.wait.set(Timeout::Connect, outbound.timeouts.connect);
        let way = async {
            let transport = self.connect().await?;
            self.http2.set(self.protocol.is_http2(transport.chose_http2()));
            if self.http2.get() {
                Ok(Way::Shared(self.pool.adopt(transport, dial).await?))
            } else {
                Ok(Way::Fresh(Box::new(Connection::over(transport))))
            }
        };
        let unreachable = |source| Error::Unreachable { endpoint: self.address, source };
        outbound.wait.within(way).await.map_err(Error::Timeout)?.map_err(unreachable)
    }

    async fn connect(&self) -> io::Result<Transport> {
        let stream = Transport::dial(self.address).await?;
        let Some(tls) = &self.tls else { return Ok(Transport::Cleartext(stream)) };
        let offer = match self.protocol {
            Protocol::Http1 => Offer::Http1,
            Protocol::Http2 => Offer::Http2,
            Protocol::Auto => Offer::Both,
        };
        // On the heap: most requests do not dial.
        let connected = Box::pin(tls.connect(stream, self.address.ip(), offer)).await;
        match &connected {
            Ok(_) => self.tls_fault_told.set(false),
            Err(error) if !self.tls_fault_told.replace(true) => {
                tracing::warn!(
                    event = "endpoint_tls_failed", endpoint = %self.address, %error,
                    "no TLS with an endpoint"
                );
            }
            Err(_) => {}
        }
        connected.map(|stream| Transport::Encrypted(Box::new(stream)))
    }

    fn take_back(&self, connection: Box<Connection>) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push(Idle { connection, since: self.answered.get() });
        }
    }
}

impl Outbound {
    async fn attempt(
        &self,
        way: Way,
        head: &RequestHead,
        (retries, began): (u32, Tick),
        endpoint: SocketAddr,
    ) -> Result<Response<Wire>, (Failed, Error)> {
        let Self { source, wait, .. } = self;
        let mut excuse = None;
        let error = match wait.within(pin!(self.pass((way, endpoint), head, &mut excuse))).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(Fault::ClientGone)) => source.client_error(),
            Ok(Err(fault)) => fault.into(),
            Err(which) if source.waits_for_client() => Error::ClientStalled(which),
            Err(which) => Error::Timeout(which),
        };
        let body_replayable = source.is_replayable();
        let after = wait.now().since(began);
        Err((Failed { excuse, after, body_replayable, retries }, error))
    }

    /// Sends it on `way`, whatever the time. What may excuse a failure is left in `excuse`.
    async fn pass(
        &self,
        (way, endpoint): (Way, SocketAddr),
        head: &RequestHead,
        excuse: &mut Option<Excuse>,
    ) -> Result<Response<Wire>, Fault> {
        let (source, wait) = (Rc::clone(&self.source), Rc::clone(&self.wait));
        let body = RequestBody::new(source, wait, self.timeouts);
        let interims = self.interims.as_deref();
        match way {
            Way::Fresh(connection) | Way::Reused(connection) => {
                let sent = connection.send(head, body, interims).await;
                sent.map(|response| response.map(Wire::Http1)).map_err(|one| {
                    let closed = matches!(one.fault, Fault::Io(_) | Fault::ClosedBeforeHead);
                    let idle = one.reused && closed && one.silent;
                    *excuse = idle.then_some(Excuse::ClosedWhileIdle);
                    one.fault
                })
            }
            Way::Shared(lease) => {
                // On the heap: it is large, and most endpoints speak HTTP/1.1.
                let sent = Box::pin(http2::send(lease, head, body, (endpoint, interims))).await;
                sent.map(|response| response.map(|body| Wire::Http2(Box::new(body)))).map_err(
                    |one| {
                        *excuse = one.excuse;
                        one.fault
                    },
                )
            }
        }
    }
}

impl Wire {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match self {
            Self::Http1(body) => body.poll_frame(cx),
            Self::Http2(body) => body.poll_frame(cx),
        }
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Http1(body) => body.poll_upload(cx),
            Self::Http2(body) => body.poll_upload(cx),
        }
    }

    /// Whether the request is still on its way.
    fn is_uploading(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_uploading(),
            Self::Http2(body) => body.is_uploading(),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }

    /// A connection that is nobody's now.
    fn into_reusable(self) -> Option<Box<Connection>> {
        match self {
            Self::Http1(body) => body.into_reusable(),
            Self::Http2(_) => None,
        }
    }
}

impl AnswerBody {
    fn of(response: Response<Wire>, busy: Busy) -> Response<Self> {
        response.map(|body| {
            let mut body = Self { open: Some((body, busy)), answered: Tick::default() };
            body.give_back_if_ended();
            body
        })
    }

    /// Drops it. What has come already is read, so that the connection of a short answer
    /// can be used again.
    pub fn discard(mut self) {
        if self.is_uploading() {
            // Its connection cannot be used again, and what it would take in is the next
            // attempt's.
            return;
        }
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(Ok(_))) = Pin::new(&mut self).poll_frame(&mut cx) {}
    }

    /// Whether the request is still on its way.
    pub fn is_uploading(&self) -> bool {
        self.open.as_ref().is_some_and(|(body, _)| body.is_uploading())
    }

    /// When its head was there.
    pub fn answered(&self) -> Tick {
        self.answered
    }

    /// Nothing more is wanted of it.
    pub fn cut(&mut self) {
        self.open = None;
    }

    /// From here on no piece is large: many such bodies wait for one client.
    pub fn read_small_pieces(&mut self) {
        if let Some((Wire::Http1(body), _)) = &mut self.open {
            body.read_small_pieces();
        }
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
