//! The limit: a relay of bytes. One connection to the target for each that is accepted, one
//! read and one write per piece in each direction, and nothing else.
//!
//! Never looks at a byte. What a proxy costs more than this is what its work costs.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::{EVENTS, SCRATCH_BYTES, listen, poll, would_block};

const ACCEPT: Token = Token(usize::MAX);

/// Two connections whose bytes are each other's.
struct Pair {
    ends: [End; 2],
}

struct End {
    stream: TcpStream,
    /// What could not be written to it yet; while there is some, the other is not read.
    unsent: Vec<u8>,
    closed: bool,
}

/// Relays until the process ends. Fails when the port is taken.
pub fn run(port: u16, target: SocketAddr) -> io::Result<()> {
    let mut poller = Poll::new()?;
    let mut events = Events::with_capacity(EVENTS);
    let mut listener = listen(port, false)?;
    listener.register(poller.registry(), ACCEPT, Interest::READABLE)?;
    let mut pairs = Slab::<Pair>::new();
    let mut scratch = vec![0; SCRATCH_BYTES];
    loop {
        poll(&mut poller, &mut events)?;
        for event in &events {
            if event.token() == ACCEPT {
                while let Ok((stream, _)) = listener.accept() {
                    // A target that cannot be reached is seen at the first write.
                    let pair = Pair::new(stream, target)?;
                    let entry = pairs.vacant_entry();
                    let first = entry.key() * 2;
                    entry.insert(pair).register(poller.registry(), first)?;
                }
                continue;
            }
            let (key, side) = (event.token().0 / 2, event.token().0 % 2);
            let Some(pair) = pairs.get_mut(key) else { continue };
            let mut done = Ok(());
            if event.is_writable() {
                done = pair.resume(side, &mut scratch);
            }
            if event.is_readable() && done.is_ok() {
                done = pair.copy_from(side, &mut scratch);
            }
            if done.is_err() || pair.ends.iter().all(|end| end.closed) {
                pairs.remove(key);
            }
        }
    }
}

impl Pair {
    fn new(client: TcpStream, target: SocketAddr) -> io::Result<Self> {
        let ends = [client, TcpStream::connect(target)?];
        for end in &ends {
            end.set_nodelay(true)?;
        }
        let ends = ends.map(|stream| End { stream, unsent: Vec::new(), closed: false });
        Ok(Self { ends })
    }

    fn register(&mut self, registry: &mio::Registry, first: usize) -> io::Result<()> {
        for (side, end) in self.ends.iter_mut().enumerate() {
            let interest = Interest::READABLE | Interest::WRITABLE;
            end.stream.register(registry, Token(first + side), interest)?;
        }
        Ok(())
    }

    /// What waited for this end to take more goes on.
    fn resume(&mut self, side: usize, scratch: &mut [u8]) -> io::Result<()> {
        let end = &mut self.ends[side];
        if end.unsent.is_empty() {
            return Ok(());
        }
        let unsent = std::mem::take(&mut end.unsent);
        end.send(&unsent)?;
        if end.unsent.is_empty() { self.copy_from(1 - side, scratch) } else { Ok(()) }
    }

    /// Reads until there is no more, or until the other end takes no more.
    fn copy_from(&mut self, side: usize, scratch: &mut [u8]) -> io::Result<()> {
        let [first, second] = &mut self.ends;
        let (from, to) = if side == 0 { (first, second) } else { (second, first) };
        while to.unsent.is_empty() && !from.closed {
            match from.stream.read(scratch) {
                Ok(0) => {
                    from.closed = true;
                    // The other end may be gone already.
                    let _ = to.stream.shutdown(Shutdown::Write);
                }
                Ok(count) => {
                    to.send(&scratch[..count])?;
                    // Edge-triggered: less than was asked for is all there was.
                    if count < scratch.len() {
                        break;
                    }
                }
                Err(error) if would_block(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl End {
    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                // A socket that is still connecting says so too.
                Err(error)
                    if would_block(&error) || error.kind() == io::ErrorKind::NotConnected =>
                {
                    self.unsent.extend_from_slice(bytes);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
