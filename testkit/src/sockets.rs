//! What the kernel holds of TCP connections on this machine.
//!
//! Never looks into a program: what is in no socket is in one.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

/// The state of a connection that stands.
const ESTABLISHED: &str = "01";

/// Bytes that were sent over connections and that nobody has read yet, by the address at either
/// end.
#[derive(Debug)]
pub struct Unread(HashMap<SocketAddr, u64>);

impl Unread {
    /// What there is now. While bytes move they may be counted twice, or not at all.
    pub fn now() -> Self {
        let text = std::fs::read_to_string("/proc/net/tcp").expect("a page of the kernel's");
        let mut all = HashMap::new();
        for (ends, bytes) in text.lines().skip(1).filter_map(parse_line) {
            for end in ends {
                *all.entry(end).or_default() += bytes;
            }
        }
        Self(all)
    }

    /// On the connections of `address`, on the way to it and from it.
    pub fn of(&self, address: SocketAddr) -> u64 {
        self.0.get(&address).copied().unwrap_or(0)
    }
}

/// Both ends of a socket that is connected, and what is in its two queues.
fn parse_line(line: &str) -> Option<([SocketAddr; 2], u64)> {
    let mut words = line.split_whitespace().skip(1);
    let ends = [parse_address(words.next()?)?, parse_address(words.next()?)?];
    let stands = words.next()? == ESTABLISHED;
    let (sent, came) = words.next()?.split_once(':')?;
    let queue = |text| u64::from_str_radix(text, 16).ok();
    let bytes = queue(sent)? + queue(came)?;
    stands.then_some((ends, bytes))
}

/// An address as the kernel writes it: the bytes as they lie in memory, read as a number.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let ip = u32::from_str_radix(ip, 16).ok()?.to_ne_bytes();
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((Ipv4Addr::from(ip), port).into())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_was_sent_is_unread_until_it_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut one = TcpStream::connect(address).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        one.write_all(b"hello").unwrap();
        // For a moment it may lie at both ends.
        while Unread::now().of(address) != 5 {}
        other.read_exact(&mut [0; 3]).unwrap();
        assert_eq!(Unread::now().of(one.local_addr().unwrap()), 2);
    }
}
