//! A backend that costs next to nothing: the same bytes for every request.
//!
//! Only for measuring a proxy at saturation. Never parses more of HTTP/1.1 than
//! where a request ends, so it must not be used to test correctness.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use bytes::{Buf, BytesMut};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// Answers with the count of requests so far, as a JSON number.
pub const COUNT_PATH: &str = "/count";
/// A head longer than this ends the connection.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const BACKLOG: i32 = 4_096;

/// What a backend is started as.
#[derive(Clone, Copy, Debug)]
pub struct BackendOptions {
    /// Port on 127.0.0.1.
    pub port: u16,
    /// Size of every answer's body.
    pub body_bytes: usize,
    /// Threads, each with its own listener on the same port.
    pub threads: usize,
}

/// Answers until the process ends. Fails when the port is taken.
pub fn run(options: BackendOptions) -> io::Result<()> {
    let requests = Arc::new(AtomicU64::new(0));
    let mut threads = Vec::new();
    for _ in 0..options.threads.max(1) {
        let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, options.port)))?;
        let requests = Arc::clone(&requests);
        threads.push(thread::spawn(move || run_thread(listener, options.body_bytes, &requests)));
    }
    for thread in threads {
        thread.join().map_err(|_| io::Error::other("a backend thread panicked"))??;
    }
    Ok(())
}

/// `SO_REUSEPORT`, so that the kernel spreads connections over the threads.
fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn run_thread(
    listener: std::net::TcpListener,
    body_bytes: usize,
    requests: &Arc<AtomicU64>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let answer = Rc::<[u8]>::from(answer(&vec![b'x'; body_bytes]));
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let (answer, requests) = (Rc::clone(&answer), Arc::clone(requests));
            tokio::task::spawn_local(async move {
                // A broken connection is the proxy's business.
                let _ = serve(stream, &answer, &requests).await;
            });
        }
    })
}

async fn serve(mut stream: TcpStream, fixed: &[u8], requests: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BytesMut::with_capacity(16 * 1024);
    while stream.read_buf(&mut input).await? > 0 {
        while let Some(head_end) = find_head_end(&input) {
            let head = &input[..head_end];
            let body = content_length(head).unwrap_or(0);
            let asks_count = head.split(|byte| *byte == b' ').nth(1) == Some(COUNT_PATH.as_bytes());
            let counted = answer(requests.load(Relaxed).to_string().as_bytes());
            skip(&mut stream, &mut input, head_end + body).await?;
            if asks_count {
                stream.write_all(&counted).await?;
            } else {
                requests.fetch_add(1, Relaxed);
                stream.write_all(fixed).await?;
            }
        }
        if input.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(())
}

/// Throws away the first `count` bytes, reading those that are not there yet.
async fn skip(stream: &mut TcpStream, input: &mut BytesMut, mut count: usize) -> io::Result<()> {
    while input.len() < count {
        count -= input.len();
        input.clear();
        if stream.read_buf(input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    input.advance(count);
    Ok(())
}

fn answer(body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Where the body begins.
pub(crate) fn find_head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|start| start + 4)
}

/// The value of `content-length` in a head.
pub(crate) fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        name.eq_ignore_ascii_case(NAME).then_some(())?;
        std::str::from_utf8(value).ok()?.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_at_its_empty_line() {
        assert_eq!(find_head_end(b"GET / HTTP/1.1\r\na: b\r\n\r\nrest"), Some(24));
        assert_eq!(find_head_end(b"GET / HTTP/1.1\r\na: b\r\n"), None);
    }

    #[test]
    fn the_content_length_is_found_in_any_case() {
        for (head, expected) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n"[..], Some(12)),
            (b"HTTP/1.1 200 OK\r\na: b\r\ncontent-length:0\r\n\r\n", Some(0)),
            (b"HTTP/1.1 200 OK\r\nx-content-length: 12\r\n\r\n", None),
            (b"HTTP/1.1 200 OK\r\n\r\n", None),
        ] {
            assert_eq!(content_length(head), expected);
        }
    }
}
