//! Accepts clients: one socket per listener and worker, one thread per worker.
//!
//! Never shares an accept queue: the kernel deals connections to the workers.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::proxy::forward::Peer;
use crate::proxy::greeting;
use crate::proxy::protocol::serve_connection;
use crate::proxy::room::Room;
use crate::proxy::socket;
use crate::proxy::worker::Worker;
use crate::snapshot::Reader;
use crate::traffic::outcome::is_local;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// How often it is looked, in a drain, whose first request is waited for no longer.
const NEWCOMER_LOOK: Duration = Duration::from_millis(100);

/// Pause after an accept that failed for want of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The sockets of one address, one for each worker.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<StdListener>,
    room: Arc<Room>,
}

/// What a data plane is told.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Stop accepting, finish what is under way.
    pub drain: CancellationToken,
    /// Wait no longer for the first request of clients that have asked nothing yet.
    pub newcomers: CancellationToken,
    /// Stop at once.
    pub now: CancellationToken,
}

impl Listener {
    /// Binds `address` once for each of `workers`; port 0 takes a free one. Fails when
    /// another process listens there. No more than `clients_max` are served at once.
    pub fn bind(address: SocketAddr, workers: usize, clients_max: Option<u32>) -> io::Result<Self> {
        // Without SO_REUSEPORT first: with it, a second Serin would silently share the port.
        let probe = bound(address, false)?;
        let address = probe.local_addr()?;
        drop(probe);
        let sockets = (0..workers).map(|_| bound(address, true));
        Ok(Self { sockets: sockets.collect::<io::Result<_>>()?, room: Room::new(clients_max) })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        match self.sockets.first() {
            Some(socket) => socket.local_addr(),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

fn bound(address: SocketAddr, shared: bool) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Starts a thread for each of `readers` that serves `listeners` until told to stop.
pub fn start(
    listeners: Vec<Listener>,
    readers: Vec<Reader>,
    clock: Clock,
    stop: &Stop,
) -> io::Result<Vec<JoinHandle<()>>> {
    let mut sockets: Vec<Vec<Entrance>> = readers.iter().map(|_| Vec::new()).collect();
    for listener in listeners {
        for (worker, socket) in sockets.iter_mut().zip(listener.sockets) {
            worker.push((socket, Arc::clone(&listener.room)));
        }
    }
    let threads = sockets.into_iter().zip(readers).enumerate().map(|(index, (sockets, reader))| {
        let stop = stop.clone();
        let runtime = Builder::new_current_thread();
        thread::Builder::new().name(format!("serin-worker-{index}")).spawn(move || {
            run_worker(runtime, &Worker::new(index, clock, reader), sockets, &stop);
        })
    });
    threads.collect()
}

/// One worker's socket of a listener, and the listener's places.
type Entrance = (StdListener, Arc<Room>);

fn run_worker(mut runtime: Builder, worker: &Rc<Worker>, sockets: Vec<Entrance>, stop: &Stop) {
    let runtime = match runtime.enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(
                event = "worker_failed", worker = worker.index, %error, "cannot start a worker"
            );
            stop.drain.cancel();
            return;
        }
    };
    runtime.block_on(async {
        tokio::task::spawn_local(socket::write_late());
        let accepting: Vec<_> = sockets
            .into_iter()
            .enumerate()
            .map(|(index, socket)| {
                let drain = stop.drain.clone();
                tokio::task::spawn_local(accept(socket, index, Rc::clone(worker), drain))
            })
            .collect();
        let drained = async {
            stop.drain.cancelled().await;
            worker.drain();
            let accepting = async {
                for task in accepting {
                    // One that panicked has told so.
                    let _ = task.await;
                }
                worker.is_left().await;
            };
            let newcomers = async {
                stop.newcomers.cancelled().await;
                loop {
                    worker.drain_newcomers();
                    tokio::time::sleep(NEWCOMER_LOOK).await;
                }
            };
            tokio::select! {
                () = accepting => {}
                () = newcomers => {}
            }
        };
        tokio::select! {
            () = drained => {}
            () = stop.now.cancelled() => {}
            () = worker.run() => {}
        }
    });
}

/// Accepts at the snapshot's listener `index`, until it drains.
async fn accept(
    (socket, room): Entrance,
    index: usize,
    worker: Rc<Worker>,
    drain: CancellationToken,
) {
    let enter = || room.enter(|| worker.close_idlest_client(Some(index)));
    let begin = |(stream, address): (TcpStream, SocketAddr), place| {
        // A client that is gone already is found out by the first read.
        let _ = stream.set_nodelay(true);
        let view = worker.view();
        let listener = &view.snapshot.listeners[index];
        let visit = worker.enter(index).holding(place).through(&listener.door);
        if listener.is_plain() {
            let peer = Peer::cleartext(address.ip());
            tokio::task::spawn_local(serve_connection(socket::Socket::new(stream), visit, peer));
        } else {
            greeting::spawn(stream, address, Arc::clone(listener), visit);
        }
    };
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(
                event = "worker_failed", worker = worker.index, %error, "cannot accept"
            );
            return;
        }
    };
    // Not again while it lasts.
    let mut is_told = false;
    let mut last = None;
    loop {
        tokio::select! {
            () = worker.has_place() => {}
            () = drain.cancelled() => break,
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.cancelled() => break,
            () = room.wanted() => {
                worker.close_idlest_client(Some(index));
                continue;
            }
        };
        match accepted {
            Ok(client) => tokio::select! {
                place = enter() => begin(client, place),
                () = drain.cancelled() => {
                    last = Some(client);
                    break;
                }
            },
            // A client that left while it waited.
            Err(error) if !error.raw_os_error().is_some_and(is_local) => {}
            Err(error) => {
                if !is_told {
                    tracing::warn!(
                        event = "accept_failed", worker = worker.index, %error,
                        "cannot accept a connection"
                    );
                }
                is_told = true;
                worker.ran_out();
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        }
        is_told = false;
    }
    // Those that the kernel let in have sent something as a rule; with the socket they would be
    // reset. Whoever comes later is refused at once, and may go elsewhere.
    for client in last.into_iter().chain(waiting(listener)) {
        worker.has_place().await;
        begin(client, enter().await);
    }
}

/// The connections that wait to be accepted at `listener`, which is closed.
fn waiting(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let mut waiting = Vec::new();
    let Ok(socket) = listener.into_std() else { return waiting };
    // Of those that failed while they waited, each is an error.
    for _ in 0..2 * BACKLOG {
        match socket.accept() {
            Ok((stream, address)) => {
                let stream =
                    stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                waiting.extend(stream.ok().map(|stream| (stream, address)));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => {}
        }
    }
    waiting
}
