//! The cheapest endpoint there can be: the same bytes for every request, on several ports.
//!
//! Only for measuring a proxy. Never parses more of HTTP/1.1 than where a request ends.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::time::Duration;

use mio::event::Source;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::answers::{Malformed, Messages, path};
use super::clock::{self, Timer};
use super::{EVENTS, SCRATCH_BYTES, events, listen, poll, would_block};

/// Answers with the count of requests to this port so far.
pub const COUNT_PATH: &str = "/count";
/// A path that ends so is answered with events that never end.
pub const STREAM_PATH: &str = "/stream";

/// Connections come after the ports and the timer.
const TIMER: Token = Token(0);
const FIRST_PORT: usize = 1;
const FIRST_CONNECTION: usize = 64;
/// Events that wait for a slow client. When full, it misses some.
const EVENTS_UNSENT_MAX: usize = 64;

/// What a backend is started as.
#[derive(Clone, Debug)]
pub struct Options {
    /// Ports on 127.0.0.1; at most 63.
    pub ports: Vec<u16>,
    /// On every loopback address, not only on that one.
    pub all_addresses: bool,
    /// Size of every answer's body.
    pub body_bytes: usize,
    /// Between two events of a stream.
    pub event_every: Duration,
}

/// Answers until the process ends. Fails when a port is taken.
pub fn run(options: &Options) -> io::Result<()> {
    let mut poller = Poll::new()?;
    let timer = Timer::new(poller.registry(), TIMER)?;
    let mut ports = Vec::new();
    for (at, port) in options.ports.iter().take(FIRST_CONNECTION - FIRST_PORT).enumerate() {
        let mut listener = listen(*port, options.all_addresses)?;
        listener.register(poller.registry(), Token(FIRST_PORT + at), Interest::READABLE)?;
        ports.push(Port { listener, requests: 0 });
    }
    let mut backend = Backend {
        ports,
        connections: Slab::new(),
        fixed: answer(&vec![b'x'; options.body_bytes]).into(),
        streams: BinaryHeap::new(),
        streams_begun: 0,
        event_every: options.event_every.as_nanos() as u64,
        scratch: vec![0; SCRATCH_BYTES],
    };
    let mut events = Events::with_capacity(EVENTS);
    loop {
        if let Some(due) = backend.send_events() {
            timer.wake_at(due)?;
        }
        poll(&mut poller, &mut events)?;
        for event in &events {
            match event.token() {
                TIMER => {}
                Token(port) if port < FIRST_CONNECTION => {
                    backend.accept(port - FIRST_PORT, poller.registry());
                }
                Token(at) => {
                    backend.serve(at - FIRST_CONNECTION, event.is_readable());
                }
            }
        }
    }
}

struct Port {
    listener: TcpListener,
    requests: u64,
}

struct Connection {
    stream: TcpStream,
    port: usize,
    requests: Messages,
    asked: Asked,
    unsent: VecDeque<(Rc<[u8]>, usize)>,
}

struct Backend {
    ports: Vec<Port>,
    connections: Slab<Connection>,
    fixed: Rc<[u8]>,
    /// When which connection gets its next event.
    streams: BinaryHeap<Reverse<(u64, usize)>>,
    streams_begun: u64,
    event_every: u64,
    scratch: Vec<u8>,
}

impl Backend {
    fn accept(&mut self, port: usize, registry: &mio::Registry) {
        while let Ok((mut stream, from)) = self.ports[port].listener.accept() {
            // The interface has been chosen so; this holds even if the kernel sees it otherwise.
            if !from.ip().is_loopback() {
                continue;
            }
            let entry = self.connections.vacant_entry();
            let token = Token(FIRST_CONNECTION + entry.key());
            let interest = Interest::READABLE | Interest::WRITABLE;
            // One that broke already, or for which there is no file, is the proxy's business.
            if stream.set_nodelay(true).is_ok()
                && stream.register(registry, token, interest).is_ok()
            {
                let (requests, unsent) = (Messages::default(), VecDeque::new());
                let asked = Asked::default();
                entry.insert(Connection { stream, port, requests, asked, unsent });
            }
        }
    }

    fn serve(&mut self, at: usize, readable: bool) {
        if !self.connections.contains(at) {
            return;
        }
        let mut done = self.connections[at].flush();
        if readable && done.is_ok() {
            done = self.read(at);
        }
        if done.is_err() {
            self.streams.retain(|Reverse((_, stream))| *stream != at);
            self.connections.remove(at);
        }
    }

    fn read(&mut self, at: usize) -> io::Result<()> {
        loop {
            let connection = &mut self.connections[at];
            let count = match connection.stream.read(&mut self.scratch) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if would_block(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            let mut ended = Vec::new();
            let asked = Cell::from_mut(&mut connection.asked);
            let head = |head: &[u8]| asked.set(Asked::of(path(head)));
            let end = || ended.push(asked.get());
            let fed = connection.requests.feed(&self.scratch[..count], false, head, end);
            fed.map_err(|Malformed| io::ErrorKind::InvalidData)?;
            for asked in ended {
                let answer = self.answer(at, asked);
                self.connections[at].send(&answer)?;
            }
            // Edge-triggered: less than was asked for is all there was.
            if count < self.scratch.len() {
                return Ok(());
            }
        }
    }

    fn answer(&mut self, at: usize, asked: Asked) -> Rc<[u8]> {
        let port = &mut self.ports[self.connections[at].port];
        if asked == Asked::Count {
            return answer(port.requests.to_string().as_bytes()).into();
        }
        port.requests += 1;
        if asked == Asked::Fixed {
            return Rc::clone(&self.fixed);
        }
        // Spread over the interval, so that events do not come in herds.
        self.streams_begun += 1;
        let phase = self.streams_begun.wrapping_mul(0x9e37_79b9) % self.event_every.max(1);
        self.streams.push(Reverse((clock::now() + phase, at)));
        STREAM_HEAD.as_bytes().into()
    }

    /// Sends the events that are due, and says when the next one is.
    fn send_events(&mut self) -> Option<u64> {
        loop {
            let Reverse((due, at)) = *self.streams.peek()?;
            let now = clock::now();
            if due > now {
                return Some(due);
            }
            self.streams.pop();
            let Some(connection) = self.connections.get_mut(at) else { continue };
            // A client that is slow misses events instead of filling memory.
            let full = connection.unsent.len() > EVENTS_UNSENT_MAX;
            if full || connection.send(&events::chunk(now).into_bytes().into()).is_ok() {
                self.streams.push(Reverse((due + self.event_every, at)));
            }
        }
    }
}

impl Connection {
    fn send(&mut self, bytes: &Rc<[u8]>) -> io::Result<()> {
        self.unsent.push_back((Rc::clone(bytes), 0));
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        while let Some((bytes, sent)) = self.unsent.front_mut() {
            match self.stream.write(&bytes[*sent..]) {
                Ok(count) => *sent += count,
                Err(error) if would_block(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
            if *sent == bytes.len() {
                self.unsent.pop_front();
            }
        }
        Ok(())
    }
}

/// What a request asks for, by its path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Asked {
    #[default]
    Fixed,
    Count,
    Stream,
}

impl Asked {
    fn of(path: &[u8]) -> Self {
        if path == COUNT_PATH.as_bytes() {
            Self::Count
        } else if path.ends_with(STREAM_PATH.as_bytes()) {
            Self::Stream
        } else {
            Self::Fixed
        }
    }
}

const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                           cache-control: no-store\r\ntransfer-encoding: chunked\r\n\r\n";

fn answer(body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n\
         content-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_says_what_is_asked() {
        for (path, expected) in [
            ("/count", Asked::Count),
            ("/v2/models/sentiment/stream", Asked::Stream),
            ("/v2/models/sentiment", Asked::Fixed),
        ] {
            assert_eq!(Asked::of(path.as_bytes()), expected, "{path}");
        }
    }
}
