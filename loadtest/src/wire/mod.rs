//! The leanest ends that a proxy can be measured between: a generator, a backend, and a
//! relay that only copies. One thread and one epoll each.
//!
//! Never parses more of a protocol than where a message ends, so nothing here may be used
//! to test correctness. What costs little here leaves more of a core to the proxy.

pub mod answers;
pub mod backend;
pub mod clock;
pub mod connection;
pub mod drive;
pub mod events;
pub mod http2;
pub mod pace;
pub mod relay;
pub mod transport;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use mio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted; 5,000 idle ones come at once.
const BACKLOG: i32 = 8_192;
/// Events taken from the kernel at once.
const EVENTS: usize = 1_024;
/// What one read may bring. Shared by all connections of a thread.
const SCRATCH_BYTES: usize = 256 << 10;

/// A listener on 127.0.0.1, or on all addresses of the interface `lo`: never on one that others
/// can reach.
fn listen(port: u16, all_addresses: bool) -> io::Result<TcpListener> {
    let ip = if all_addresses { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
    let address = SocketAddr::from((ip, port));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if all_addresses {
        socket.bind_device(Some(b"lo"))?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Whether a socket only is not ready.
fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// `poll` that a signal does not end.
fn poll(poll: &mut mio::Poll, events: &mut mio::Events) -> io::Result<()> {
    match poll.poll(events, None) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            events.clear();
            Ok(())
        }
        done => done,
    }
}
