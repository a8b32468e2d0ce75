//! A model server that does what a script says, on a thread of its own.
//!
//! Never answers of itself: whatever goes over its wires is in the script. What it was
//! sent is kept, the first [`SEEN_MAX`] requests of it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::{Mutex as AsyncMutex, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::answers::{answer, chunked};
use crate::call::Call;
use crate::script::{Act, Script};
use crate::time::{eventually, within};
use crate::wire::{Body, End, Head, Wire};

/// Requests that are kept.
pub const SEEN_MAX: usize = 10_000;

/// Calls that wait for the test.
const CALLS_MAX: usize = 1024;

/// A running scripted model server. Ends when dropped.
#[derive(Debug)]
pub struct Backend {
    /// As it was named; the body of its answers.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    calls: AsyncMutex<mpsc::Receiver<Call>>,
    orders: mpsc::Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

/// A scripted model server that is not started yet.
#[derive(Debug)]
pub struct BackendBuilder {
    name: String,
    script: Script,
    paths: Vec<(String, Script)>,
    slots: usize,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its head.
    pub head: Head,
    /// Its body, without the framing.
    pub body: Vec<u8>,
    /// How the body ended.
    pub end: End,
    /// After a chunked body.
    pub trailers: Vec<(String, String)>,
    /// The connection it came on, from 1.
    pub connection: u64,
}

impl Seen {
    /// The target.
    pub fn target(&self) -> &str {
        self.head.word(1)
    }

    /// A field, empty when it is not there.
    pub fn header(&self, name: &str) -> String {
        self.head.field(name).unwrap_or_default()
    }
}

#[derive(Debug)]
struct Shared {
    name: String,
    script: Mutex<Scripts>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicU64,
    open: AtomicU64,
    requests: AtomicU64,
    gone: AtomicU64,
    calls: mpsc::Sender<Call>,
    /// Requests that are served at once; others wait.
    slots: Semaphore,
    under_way: AtomicU64,
    most_under_way: AtomicU64,
}

#[derive(Debug)]
struct Scripts {
    script: Script,
    paths: Vec<(String, Script)>,
    count: u64,
}

enum Order {
    Refuse,
    Accept,
}

impl Backend {
    /// A server that answers 200 with its name.
    pub fn named(name: &str) -> BackendBuilder {
        let script = Script::answers(200);
        let slots = Semaphore::MAX_PERMITS;
        BackendBuilder { name: name.to_owned(), script, paths: Vec::new(), slots }
    }

    /// From the next request on.
    pub fn now(&self, script: Script) {
        self.shared.scripts().script = script;
    }

    /// From the next request on whose target starts with `path`.
    pub fn now_on(&self, path: &str, script: Script) {
        self.shared.scripts().paths.insert(0, (path.to_owned(), script));
    }

    /// Dies: connections are closed, new ones refused.
    pub async fn dies(&self) {
        self.order(Order::Refuse).await;
        eventually("the server has let go", async || (self.open() == 0).then_some(())).await;
    }

    /// Comes back at the same address.
    pub async fn revives(&self) {
        self.order(Order::Accept).await;
    }

    async fn order(&self, order: Order) {
        assert!(self.orders.send(order).await.is_ok(), "{} has ended", self.name);
    }

    /// Requests whose head has come.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(SeqCst)
    }

    /// Connections that were accepted.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(SeqCst)
    }

    /// Connections that are open.
    pub fn open(&self) -> u64 {
        self.shared.open.load(SeqCst)
    }

    /// Requests that are there now.
    pub fn under_way(&self) -> u64 {
        self.shared.under_way.load(SeqCst)
    }

    /// The most requests that were there at once.
    pub fn most_under_way(&self) -> u64 {
        self.shared.most_under_way.load(SeqCst)
    }

    /// Requests whose sender went away before the answer was out.
    pub fn gone(&self) -> u64 {
        self.shared.gone.load(SeqCst)
    }

    /// The requests that have come whole.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen().clone()
    }

    /// The last request that came whole.
    pub fn last(&self) -> Seen {
        self.shared.seen().last().cloned().unwrap_or_else(|| panic!("{} saw none", self.name))
    }

    /// Waits until `count` requests have come whole, and returns them all.
    pub async fn saw(&self, count: usize) -> Vec<Seen> {
        let what = format!("{} has seen {count} requests", self.name);
        eventually(&what, async || {
            let count_now = self.shared.seen().len();
            (count_now >= count).then(|| self.seen())
        })
        .await
    }

    /// The next request that is to be answered by hand.
    pub async fn next_call(&self) -> Call {
        let mut calls = self.calls.lock().await;
        let call = within(&format!("{} is called", self.name), calls.recv()).await;
        call.expect("the server runs")
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // The thread ends when nobody can order anything more.
        let (orders, _) = mpsc::channel(1);
        self.orders = orders;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl BackendBuilder {
    /// Does what `script` says.
    pub fn does(mut self, script: Script) -> Self {
        self.script = script;
        self
    }

    /// Answers with `status`.
    pub fn answers(self, status: u16) -> Self {
        self.does(Script::answers(status))
    }

    /// Waits before it answers.
    pub fn after(mut self, wait: Duration) -> Self {
        self.script.after = wait;
        self
    }

    /// Serves so many requests at once; others wait for their turn.
    pub fn at_once(mut self, slots: usize) -> Self {
        self.slots = slots;
        self
    }

    /// For targets that start with `path`, does what `script` says instead.
    pub fn on(mut self, path: &str, script: Script) -> Self {
        self.paths.push((path.to_owned(), script));
        self
    }

    /// Starts it on a free port.
    pub fn start(self) -> Backend {
        self.start_with(true)
    }

    /// Takes a port on which it refuses connections.
    pub fn start_dead(self) -> Backend {
        self.start_with(false)
    }

    fn start_with(self, alive: bool) -> Backend {
        let (calls_in, calls) = mpsc::channel(CALLS_MAX);
        let (orders, ordered) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            name: self.name.clone(),
            script: Mutex::new(Scripts { script: self.script, paths: self.paths, count: 0 }),
            seen: Mutex::default(),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            gone: AtomicU64::new(0),
            calls: calls_in,
            slots: Semaphore::new(self.slots),
            under_way: AtomicU64::new(0),
            most_under_way: AtomicU64::new(0),
        });
        let socket = bind(([127, 0, 0, 1], 0).into());
        if alive {
            listen(&socket);
        }
        let address = socket.local_addr().ok().and_then(|address| address.as_socket());
        let address = address.expect("a bound socket has an address");
        let own = Arc::clone(&shared);
        let thread = thread::Builder::new().name(format!("backend-{}", self.name));
        let thread = thread.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(live(own, socket, address, alive, ordered));
        });
        Backend {
            name: self.name,
            address,
            shared,
            calls: AsyncMutex::new(calls),
            orders,
            thread: Some(thread.expect("a thread")),
        }
    }
}

/// Takes an address. Nobody else gets it, and connections are refused until it listens.
fn bind(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("an option");
    socket.set_nonblocking(true).expect("an option");
    socket.bind(&address.into()).unwrap_or_else(|error| panic!("cannot bind {address}: {error}"));
    socket
}

/// From here on connections wait to be accepted.
fn listen(socket: &Socket) {
    socket.listen(1024).expect("a socket that listens");
}

async fn live(
    shared: Arc<Shared>,
    socket: Socket,
    address: SocketAddr,
    alive: bool,
    mut orders: mpsc::Receiver<Order>,
) {
    let mut held = Some(socket);
    let mut alive = alive;
    loop {
        let order = if alive {
            let socket = held.take().unwrap_or_else(|| bind(address));
            listen(&socket);
            let listener = TcpListener::from_std(socket.into()).expect("a listener");
            tokio::select! {
                order = orders.recv() => order,
                () = accept(&shared, &listener) => unreachable!("it accepts for ever"),
            }
        } else {
            held.get_or_insert_with(|| bind(address));
            orders.recv().await
        };
        match order {
            None => return,
            Some(order) => alive = matches!(order, Order::Accept),
        }
    }
}

async fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let number = shared.connections.fetch_add(1, SeqCst) + 1;
                let open = Open::new(Arc::clone(shared));
                connections.spawn(async move { open.0.serve(Wire::over(stream), number).await });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Counts a connection while it is open.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        shared.open.fetch_add(1, SeqCst);
        Self(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
    }
}

impl Shared {
    fn scripts(&self) -> MutexGuard<'_, Scripts> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The script for a request of `target`.
    fn script_for(&self, target: &str) -> Script {
        let mut scripts = self.scripts();
        scripts.count += 1;
        let count = scripts.count;
        let of_path = scripts.paths.iter().find(|(path, _)| target.starts_with(path));
        let script = of_path.map_or(&scripts.script, |(_, script)| script);
        match &script.every {
            Some((n, other)) if count.is_multiple_of(*n) => (**other).clone(),
            _ => script.clone(),
        }
    }

    async fn serve(&self, mut wire: Wire, connection: u64) {
        let mut served = 0;
        while let Ok(head) = wire.head().await {
            served += 1;
            self.requests.fetch_add(1, SeqCst);
            let script = self.script_for(head.word(1));
            if matches!(script.act, Act::ByHand) {
                let _ = self.calls.send(Call::new(head, wire)).await;
                return;
            }
            let mut body = Body::of_request(&head);
            let mut came = Vec::new();
            if !matches!(script.act, Act::Early(_)) {
                let (data, end) = wire.body(&mut body).await;
                came.clone_from(&data);
                let trailers = body.trailers;
                let seen = Seen { head: head.clone(), body: data, end, trailers, connection };
                let mut all = self.seen();
                if all.len() < SEEN_MAX {
                    all.push(seen);
                }
                drop(all);
                if end == End::Cut {
                    self.gone.fetch_add(1, SeqCst);
                    return;
                }
            }
            if matches!(script.act, Act::Echo) {
                let target = ("x-target".to_owned(), head.word(1).to_owned());
                if !self.say(&mut wire, answer(200, &[target], &came, head.word(0))).await {
                    return;
                }
                continue;
            }
            let under_way = self.under_way.fetch_add(1, SeqCst) + 1;
            self.most_under_way.fetch_max(under_way, SeqCst);
            let slot = self.slots.acquire().await;
            let stays = self.perform(&mut wire, &script, &head, served).await;
            drop(slot);
            self.under_way.fetch_sub(1, SeqCst);
            if !stays {
                if matches!(script.act, Act::RawThenReset(_)) {
                    wire.reset();
                }
                return;
            }
        }
    }

    /// Whether the connection stays open.
    async fn perform(&self, wire: &mut Wire, script: &Script, head: &Head, served: u64) -> bool {
        if !script.after.is_zero() && !self.pause(wire, script.after).await {
            return false;
        }
        let method = head.word(0);
        match &script.act {
            Act::Answer(status, body) => {
                let body = body.as_deref().unwrap_or(self.name.as_bytes());
                self.say(wire, answer(*status, &script.fields, body, method)).await
            }
            Act::Chunks(chunks, trailers) => {
                self.say(wire, chunked(&script.fields, chunks, trailers)).await
            }
            Act::Raw(bytes) | Act::RawThenReset(bytes) => {
                self.say(wire, bytes).await;
                false
            }
            Act::RawThenStay(bytes) => self.say(wire, bytes).await,
            Act::Early(status) => {
                self.say(wire, answer(*status, &script.fields, self.name.as_bytes(), method)).await;
                wire.close_writing().await;
                false
            }
            Act::Stale(bytes) if served > 1 => {
                self.say(wire, bytes).await;
                false
            }
            Act::Stale(_) => {
                self.say(wire, answer(200, &script.fields, self.name.as_bytes(), method)).await
            }
            Act::Hang => {
                wire.rest().await;
                self.gone.fetch_add(1, SeqCst);
                false
            }
            Act::Drip(interval) => {
                for byte in answer(200, &script.fields, self.name.as_bytes(), method) {
                    if !self.pause(wire, *interval).await || !self.say(wire, [byte]).await {
                        return false;
                    }
                }
                true
            }
            Act::ByHand | Act::Echo => unreachable!("done by the caller"),
        }
    }

    /// Whether the other side is still there.
    async fn say(&self, wire: &mut Wire, bytes: impl AsRef<[u8]>) -> bool {
        let said = wire.send(bytes).await.is_ok();
        if !said {
            self.gone.fetch_add(1, SeqCst);
        }
        said
    }

    /// Whether the other side is still there after `wait`.
    async fn pause(&self, wire: &mut Wire, wait: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(wait) => true,
            () = wire.left() => {
                self.gone.fetch_add(1, SeqCst);
                false
            }
        }
    }
}
