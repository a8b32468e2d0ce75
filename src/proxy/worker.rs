//! One data-plane thread: its view of the snapshot, its time limits, its connections.
//!
//! Never talks to another worker.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use foldhash::HashMap;
use slab::Slab;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::proxy::deadline::Deadlines;
use crate::proxy::upstream::Endpoint;
use crate::proxy::view::View;
use crate::snapshot::Reader;
use crate::telemetry::sample::OpenAttempts;

/// Client connections that one worker holds. When full, it stops accepting until one
/// ends; the kernel's queue holds those that come meanwhile.
pub const CONNECTIONS_MAX: usize = 8192;

/// How often idle connections to endpoints are looked at.
const SWEEP: Duration = Duration::from_secs(5);

/// What every connection of one thread shares.
#[derive(Debug)]
pub struct Worker {
    /// 0 for the first.
    pub index: usize,
    /// The process's clock.
    pub clock: Clock,
    /// Time limits.
    pub deadlines: Rc<Deadlines>,
    /// Attempts that may become slow.
    pub open_attempts: Rc<OpenAttempts>,
    reader: RefCell<Reader>,
    view: RefCell<Rc<View>>,
    endpoints: RefCell<HashMap<SocketAddr, Rc<Endpoint>>>,
    draining: Cell<bool>,
    connections: RefCell<Slab<Option<Waker>>>,
    connection_ended: Notify,
}

impl Worker {
    /// With its first view.
    pub fn new(index: usize, clock: Clock, mut reader: Reader) -> Rc<Self> {
        let mut endpoints = HashMap::default();
        let view = View::new(reader.load(), index, &mut endpoints, (clock, None));
        Rc::new(Self {
            index,
            clock,
            deadlines: Rc::new(Deadlines::new(clock)),
            open_attempts: Rc::default(),
            reader: RefCell::new(reader),
            view: RefCell::new(Rc::new(view)),
            endpoints: RefCell::new(endpoints),
            draining: Cell::new(false),
            connections: RefCell::default(),
            connection_ended: Notify::new(),
        })
    }

    /// The view of the snapshot published last. Call once per request and keep the answer.
    pub fn view(&self) -> Rc<View> {
        let mut reader = self.reader.borrow_mut();
        let snapshot = reader.load();
        let mut view = self.view.borrow_mut();
        if !Arc::ptr_eq(snapshot, &view.snapshot) {
            let mut endpoints = self.endpoints.borrow_mut();
            let now = (self.clock, Some(self.clock.now()));
            *view = Rc::new(View::new(snapshot, self.index, &mut endpoints, now));
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
            }
        };
        tokio::join!(self.deadlines.run(&self.open_attempts), sweep);
    }

    /// Asks every connection to end after the request that it serves.
    pub fn drain(&self) {
        self.draining.set(true);
        for (_, waker) in self.connections.borrow_mut().iter_mut() {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }

    /// Whether connections are to end.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Counts a client's connection until the answer is dropped.
    pub fn enter(self: &Rc<Self>) -> Visit {
        Visit { key: self.connections.borrow_mut().insert(None), worker: Rc::clone(self) }
    }

    /// Waits until fewer than `count` clients are connected.
    pub async fn fewer_connections_than(&self, count: usize) {
        while self.connections.borrow().len() >= count {
            self.connection_ended.notified().await;
        }
    }
}

/// A client's connection.
#[derive(Debug)]
pub struct Visit {
    worker: Rc<Worker>,
    key: usize,
}

impl Visit {
    /// Where it is.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// Has the task of `cx` woken when the worker drains.
    pub fn wake_on_drain(&self, cx: &Context<'_>) {
        let slot = &mut self.worker.connections.borrow_mut()[self.key];
        match slot {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(self.key);
        // To accepting and to draining alike.
        self.worker.connection_ended.notify_waiters();
        self.worker.connection_ended.notify_one();
    }
}
