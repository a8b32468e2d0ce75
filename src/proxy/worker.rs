//! One data-plane thread: its view of the snapshot, its time limits, its connections.
//!
//! Never talks to another worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use foldhash::HashMap;
use slab::Slab;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::proxy::cut::Cuts;
use crate::proxy::deadline::Deadlines;
use crate::proxy::greeting::Greetings;
use crate::proxy::probe;
use crate::proxy::room::Place;
use crate::proxy::upstream::Endpoint;
use crate::proxy::view::{EndpointKey, View};
use crate::snapshot::Reader;
use crate::telemetry::listeners::Door;
use crate::telemetry::sample::OpenAttempts;
use crate::traffic::retry::Timeouts;
use crate::units::Tick;

/// Client connections that one worker holds. When full, it stops accepting until one
/// ends; the kernel's queue holds those that come meanwhile.
const CONNECTIONS_MAX: usize = 8192;

/// How often idle connections, to endpoints and of clients, are looked at.
const SWEEP: Duration = Duration::from_secs(5);

/// A client that asks nothing for so long is closed at the next sweep. Longer than common
/// load balancers keep a connection that they think is idle (60 s), so that they close first.
const CLIENT_IDLE_SWEEPS_MAX: u32 = 15;

/// How often a place for another client is looked for while there is none.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(50);

/// The first bytes of a request are read into this; longer bodies have buffers of their own.
const SCRATCH_BYTES: usize = 16 << 10;

/// Connections that keep the memory that serving takes, some KiB, between two requests. When full,
/// others let go of it after each, which costs them a few percent.
pub const KEEPERS_MAX: usize = 1024;

/// What every connection of one thread shares.
#[derive(Debug)]
pub struct Worker {
    /// 0 for the first.
    pub index: usize,
    /// The process's clock.
    pub clock: Clock,
    /// Time limits.
    pub deadlines: Rc<Deadlines>,
    /// Answers that may be cut.
    pub cuts: Rc<Cuts>,
    /// Attempts that may become slow.
    pub open_attempts: Rc<OpenAttempts>,
    /// Connections that have not come to HTTP yet.
    pub greetings: Rc<Greetings>,
    reader: RefCell<Reader>,
    view: RefCell<Rc<View>>,
    endpoints: RefCell<HashMap<EndpointKey, Rc<Endpoint>>>,
    draining: Cell<Draining>,
    connections: RefCell<Slab<Seat>>,
    connection_ended: Notify,
    /// Clients that are let in: fewer than [`CONNECTIONS_MAX`] where the machine had no more.
    places: Cell<usize>,
    /// Where connections without a buffer of their own are read into.
    pub scratch: RefCell<Box<[u8]>>,
    /// Connections that keep the memory that serving takes.
    keepers: Cell<usize>,
    /// The date, and the second since the start at which it was made.
    date: RefCell<(u64, [u8; 29])>,
}

/// A client that was served less long ago is not sent away for another one: its next request may
/// be on its way, and would be lost.
const CLIENT_IDLE_MIN: Duration = Duration::from_secs(1);

/// How long the first request of a client is waited for that came in a drain.
const NEWCOMER_WAIT: Duration = Duration::from_secs(1);

/// Which clients are to go, as far as nothing is asked of their connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Draining {
    Not,
    /// Those that have asked something before: what newcomers ask may be on its way.
    Known,
    All,
}

/// What is known of a client's connection.
#[derive(Debug, Default)]
struct Seat {
    waker: Option<Waker>,
    /// It has asked something.
    known: bool,
    /// When it came, of one that came in a drain.
    late: Option<Tick>,
    /// Where it was accepted.
    listener: usize,
    /// `None` while it is busy.
    idle: Option<Idle>,
    /// It is to go.
    expired: bool,
}

/// Nothing is asked of a client's connection.
#[derive(Clone, Copy, Debug)]
struct Idle {
    since: Tick,
    sweeps: u32,
    /// It ends by a time limit of its own.
    has_own_limit: bool,
}

/// Of clients that are idle since then, the one to send away `now` for another: the one that has
/// been so for longest.
fn idlest<K>(idle: impl Iterator<Item = (K, Tick)>, now: Tick) -> Option<K> {
    let all = idle.filter(|(_, since)| now.since(*since) >= CLIENT_IDLE_MIN);
    all.min_by_key(|(_, since)| *since).map(|(key, _)| key)
}

impl Worker {
    /// With its first view.
    pub fn new(index: usize, clock: Clock, mut reader: Reader) -> Rc<Self> {
        let mut endpoints = HashMap::default();
        let view = View::new(reader.load(), index, &mut endpoints, clock);
        Rc::new(Self {
            index,
            clock,
            deadlines: Rc::new(Deadlines::new(clock)),
            cuts: Rc::default(),
            open_attempts: Rc::default(),
            greetings: Rc::default(),
            reader: RefCell::new(reader),
            view: RefCell::new(Rc::new(view)),
            endpoints: RefCell::new(endpoints),
            draining: Cell::new(Draining::Not),
            connections: RefCell::default(),
            connection_ended: Notify::new(),
            places: Cell::new(CONNECTIONS_MAX),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
            keepers: Cell::new(0),
            date: RefCell::new((u64::MAX, [0; 29])),
        })
    }

    /// The view of the snapshot published last. Call once per request and keep the answer.
    pub fn view(&self) -> Rc<View> {
        let mut reader = self.reader.borrow_mut();
        let snapshot = reader.load();
        let mut view = self.view.borrow_mut();
        if !Arc::ptr_eq(snapshot, &view.snapshot) {
            let mut endpoints = self.endpoints.borrow_mut();
            *view = Rc::new(View::new(snapshot, self.index, &mut endpoints, self.clock));
        }
        Rc::clone(&view)
    }

    /// Keeps time limits and idle connections, until dropped.
    pub async fn run(&self) {
        let sweep = async {
            loop {
                tokio::time::sleep(SWEEP).await;
                // A worker without requests lets go of an old snapshot too.
                self.view();
                let now = self.clock.now();
                for endpoint in self.endpoints.borrow().values() {
                    endpoint.close_idle(now);
                }
                self.close_idle_clients();
                // Step by step: the machine may have more by now.
                let places = self.places.get();
                self.places.set((places + places / 8 + 16).min(CONNECTIONS_MAX));
            }
        };
        let probes = async {
            // One worker is enough for them all.
            if self.index == 0 {
                probe::run(self).await;
            }
        };
        tokio::join!(self.deadlines.run(&self.open_attempts), self.cuts.run(), sweep, probes);
    }

    /// Asks every connection to end after the request that it serves, or that it is about to
    /// bring when it has brought none yet.
    pub fn drain(&self) {
        self.drain_those(Draining::Known);
    }

    /// The same, and waits for no first request any longer, but for those who came in the drain
    /// and not a second ago. Call again until they have.
    pub fn drain_newcomers(&self) {
        self.drain_those(Draining::All);
    }

    fn drain_those(&self, draining: Draining) {
        self.draining.set(draining);
        for (_, seat) in self.connections.borrow_mut().iter_mut() {
            if let Some(waker) = seat.waker.take() {
                waker.wake();
            }
        }
    }

    fn close_idle_clients(&self) {
        for (_, seat) in self.connections.borrow_mut().iter_mut() {
            if let Some(idle) = &mut seat.idle {
                idle.sweeps += 1;
                if idle.sweeps > CLIENT_IDLE_SWEEPS_MAX && !idle.has_own_limit {
                    seat.expire();
                } else if idle.sweeps == 1 {
                    // To let go of its buffers.
                    seat.wake();
                }
            }
        }
    }

    /// Makes room for a client at `listener`, or at any: one that has been idle for longest, and
    /// for a second at least, goes. `false` when there is none.
    pub fn close_idlest_client(&self, listener: Option<usize>) -> bool {
        let mut seats = self.connections.borrow_mut();
        let here = |seat: &Seat| listener.is_none_or(|listener| seat.listener == listener);
        let all = seats.iter().filter(|(_, seat)| !seat.expired && here(seat));
        let idle = all.filter_map(|(key, seat)| Some((key, seat.idle?.since)));
        let Some(key) = idlest(idle, self.clock.now()) else { return false };
        seats[key].expire();
        true
    }

    /// Calls `use_it` with the present date as HTTP writes it (RFC 9110, section 5.6.7).
    pub fn with_date<T>(&self, use_it: impl FnOnce(&[u8]) -> T) -> T {
        let mut date = self.date.borrow_mut();
        // As coarse as limits are looked at, and free.
        let second = self.deadlines.coarse_now().since_start().as_secs();
        if date.0 != second {
            let text = httpdate::fmt_http_date(std::time::UNIX_EPOCH + self.clock.wall());
            // The format has one length.
            if let Ok(text) = text.as_bytes().try_into() {
                *date = (second, text);
            }
        }
        use_it(&date.1)
    }

    /// Counts a connection among those that keep the memory that serving takes, until dropped.
    pub fn keeper(self: &Rc<Self>) -> impl Drop + use<> {
        self.keepers.set(self.keepers.get() + 1);
        Keeper(Rc::clone(self))
    }

    /// How many of those there are.
    pub fn keepers(&self) -> usize {
        self.keepers.get()
    }

    /// Whether connections are to end.
    pub fn is_draining(&self) -> bool {
        self.draining.get() != Draining::Not
    }

    /// Counts a client's connection at `listener` until the answer is dropped.
    pub fn enter(self: &Rc<Self>, listener: usize) -> Visit {
        let late = self.is_draining().then(|| self.clock.now());
        let seat = Seat { late, listener, ..Seat::default() };
        Visit {
            key: self.connections.borrow_mut().insert(seat),
            worker: Rc::clone(self),
            place: None,
            door: None,
        }
    }

    /// Waits until no client is connected, and sends nobody away.
    pub async fn is_left(&self) {
        while !self.connections.borrow().is_empty() {
            self.connection_ended.notified().await;
        }
    }

    /// The machine has no more files or memory for another client: from now on there are fewer,
    /// so that some is left to serve those that are there, and of them those that ask nothing
    /// have to go.
    pub fn ran_out(&self) {
        let clients = self.connections.borrow().len();
        self.places.set((clients - clients / 8).max(1));
    }

    /// Waits until there is a place for one more client. Of those that are there, one that asks
    /// nothing has to go.
    pub async fn has_place(&self) {
        while self.connections.borrow().len() >= self.places.get() {
            self.close_idlest_client(None);
            // None may be idle now, and one be a moment later.
            let _ = tokio::time::timeout(LOOK_FOR_ROOM, self.connection_ended.notified()).await;
        }
    }
}

/// A client's connection.
#[derive(Debug)]
pub struct Visit {
    worker: Rc<Worker>,
    key: usize,
    /// At its listener; free again when the client leaves.
    place: Option<Place>,
    /// Where it came in.
    door: Option<Arc<Door>>,
}

impl Visit {
    /// Counts it at the listener that `door` is of.
    #[must_use]
    pub fn through(mut self, door: &Arc<Door>) -> Self {
        door.of(self.worker.index).accepted.add(1);
        self.door = Some(Arc::clone(door));
        self
    }

    /// Keeps `place` as long as the client stays.
    #[must_use]
    pub fn holding(mut self, place: Option<Place>) -> Self {
        self.place = place;
        self
    }

    /// How long a request's head may take.
    pub fn head_timeout(&self) -> Duration {
        let listener = self.worker.connections.borrow()[self.key].listener;
        let view = self.worker.view();
        view.snapshot.listeners.get(listener).map_or(Timeouts::HEAD, |one| one.head_timeout)
    }

    /// Where it is.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// Has the task of `cx` woken when the worker drains.
    pub fn wake_on_drain(&self, cx: &Context<'_>) {
        let seat = &mut self.worker.connections.borrow_mut()[self.key];
        match &mut seat.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    /// It has come to HTTP: from here on it is idle, or not, for what it asks.
    pub fn greeted(&self) {
        self.worker.connections.borrow_mut()[self.key].idle = None;
    }

    /// Whether it is to go because another client needs its place.
    pub fn is_expired(&self) -> bool {
        self.worker.connections.borrow()[self.key].expired
    }

    /// Nothing is asked of the connection: ready when it is not to be waited for any longer.
    pub fn poll_idle(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll_idle_for(cx, false)
    }

    /// The same for a connection that ends by a time limit of its own: it is not to be waited for
    /// when another client needs its place.
    pub fn poll_unneeded(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll_idle_for(cx, true)
    }

    fn poll_idle_for(&self, cx: &Context<'_>, has_own_limit: bool) -> Poll<()> {
        self.wake_on_drain(cx);
        let seat = &mut self.worker.connections.borrow_mut()[self.key];
        // Coarse, and free: it is told in seconds. But the coarse time stands still while nobody is
        // served, and one that has just come must not seem to have been here for long.
        let (worker, known) = (&self.worker, seat.known);
        let since = || if known { worker.deadlines.coarse_now() } else { worker.clock.now() };
        seat.idle.get_or_insert_with(|| Idle { since: since(), sweeps: 0, has_own_limit });
        let goes = match self.worker.draining.get() {
            Draining::Not => seat.expired,
            Draining::Known => seat.expired || seat.known,
            Draining::All => {
                let waited = |since| self.worker.clock.now().since(since) >= NEWCOMER_WAIT;
                seat.known || seat.late.is_none_or(waited)
            }
        };
        if goes { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether nothing has been asked of it for a while.
    pub fn is_resting(&self) -> bool {
        self.worker.connections.borrow()[self.key].idle.is_some_and(|idle| idle.sweeps > 0)
    }

    /// Something is asked of it.
    pub fn busy(&self) {
        let seat = &mut self.worker.connections.borrow_mut()[self.key];
        (seat.idle, seat.expired, seat.known) = (None, false, true);
    }
}

impl Seat {
    fn expire(&mut self) {
        self.expired = true;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

struct Keeper(Rc<Worker>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.keepers.set(self.0.keepers.get() - 1);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(self.key);
        if let Some(door) = &self.door {
            door.of(self.worker.index).closed.add(1);
        }
        // To accepting and to draining alike.
        self.worker.connection_ended.notify_waiters();
        self.worker.connection_ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_is_idle_for_longest_goes_and_none_between_two_requests() {
        let at = |ms| Tick::new(Duration::from_millis(ms));
        let goes = |since: &[u64], now| {
            idlest(since.iter().enumerate().map(|(key, since)| (key, at(*since))), at(now))
        };
        for (since, now, gone) in [
            (&[][..], 5000, None),
            (&[4001, 4999], 5000, None),
            (&[4001, 4000, 5000], 5000, Some(1)),
            (&[3000, 100, 2000], 5000, Some(1)),
        ] {
            assert_eq!(goes(since, now), gone, "{since:?}");
        }
    }
}
