//! What is said on a connection before HTTP: a PROXY header, a TLS handshake.
//!
//! Never takes longer than the listener allows a head, and never waits at more than [`AT_ONCE_MAX`]
//! connections at once. Never answers a request, but tells HTTP on a port for TLS so.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::proxy::deadline::Deadline;
use crate::proxy::forward::{Peer, Spoken};
use crate::proxy::protocol::serve_connection;
use crate::proxy::socket::Socket;
use crate::proxy::worker::Visit;
use crate::snapshot::{Listener, Senders};
use crate::telemetry::listeners::{DoorCounters, Handshake, Turned};
use crate::tls::certificate::ClientCertificate;
use crate::traffic::proxy_protocol::{self, V2_BYTES_MAX};
use crate::traffic::source::is_trusted;

/// Connections of one worker that have not come to HTTP yet. When full, the oldest of them
/// is closed: a good one needs milliseconds, so the oldest are those that say nothing.
pub const AT_ONCE_MAX: usize = 1024;

/// Bytes that are read and dropped of whoever speaks HTTP to a port for TLS, so that the
/// answer is not lost.
const DROPPED_BYTES_MAX: usize = 64 << 10;

/// The answer to HTTP on a port for TLS.
const SPEAKS_TLS: &str = concat!(
    "HTTP/1.1 400 Bad Request\r\nserver: serin\r\nconnection: close\r\n",
    "content-type: application/problem+json\r\ncontent-length: 105\r\n\r\n",
    r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"this port speaks TLS: use https://"}"#,
    "\r\n",
);

/// The first byte of a TLS record with a handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// Connections of a worker that have not come to HTTP yet, the oldest first.
#[derive(Debug, Default)]
pub struct Greetings {
    next: Cell<u64>,
    open: RefCell<BTreeMap<u64, AbortHandle>>,
}

/// A place among the greetings; free when dropped.
struct Place {
    all: Rc<Greetings>,
    key: u64,
}

impl Greetings {
    /// Cuts the oldest when there is no place. Returns whether it did.
    fn make_room(&self) -> bool {
        let mut open = self.open.borrow_mut();
        if open.len() < AT_ONCE_MAX {
            return false;
        }
        let oldest = open.pop_first();
        // Its place is freed when the task is dropped, which needs the list.
        drop(open);
        if let Some((_, oldest)) = oldest {
            oldest.abort();
        }
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.open.borrow_mut().remove(&self.key);
    }
}

/// How a connection ends before it has come to HTTP.
enum End {
    Turned(Turned),
    Failed,
    /// It left, or the worker drains.
    Left,
}

/// What HTTP is spoken over.
enum Greeted {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

/// Serves a connection from its first byte.
pub fn spawn(stream: TcpStream, address: SocketAddr, listener: Arc<Listener>, visit: Visit) {
    let worker = Rc::clone(visit.worker());
    if worker.greetings.make_room() {
        listener.door.of(worker.index).turned(Turned::Crowded).add(1);
    }
    let all = Rc::clone(&worker.greetings);
    let key = all.next.replace(all.next.get() + 1);
    let place = Place { all, key };
    // It does not run before it is known by its handle: nothing here waits.
    let task = tokio::task::spawn_local(async move {
        // On the heap, and gone when HTTP begins.
        let greeted = Box::pin(greet_unless_unneeded(stream, address.ip(), &listener, &visit));
        let greeted = greeted.await;
        drop(place);
        visit.greeted();
        match greeted {
            Ok((Greeted::Plain(stream), peer)) => serve_connection(stream, visit, peer).await,
            Ok((Greeted::Tls(stream), peer)) => {
                Box::pin(serve_connection(*stream, visit, peer)).await;
            }
            Err(End::Left) => {}
            Err(End::Failed) => count(&listener, &visit).handshake(Handshake::Failed).add(1),
            Err(End::Turned(why)) => count(&listener, &visit).turned(why).add(1),
        }
    });
    worker.greetings.open.borrow_mut().insert(key, task.abort_handle());
}

fn count<'l>(listener: &'l Listener, visit: &Visit) -> &'l DoorCounters {
    listener.door.of(visit.worker().index)
}

/// The same as [`greet`], but the connection goes when another client needs its place, or when a
/// drain waits for newcomers no longer.
async fn greet_unless_unneeded(
    stream: TcpStream,
    address: IpAddr,
    listener: &Listener,
    visit: &Visit,
) -> Result<(Greeted, Peer), End> {
    let mut greeted = pin!(greet(stream, address, listener, visit));
    poll_fn(|cx| {
        if let Poll::Ready(greeted) = greeted.as_mut().poll(cx) {
            return Poll::Ready(greeted);
        }
        visit.poll_unneeded(cx).map(|()| {
            Err(if visit.is_expired() { End::Turned(Turned::Crowded) } else { End::Left })
        })
    })
    .await
}

async fn greet(
    mut stream: TcpStream,
    address: IpAddr,
    listener: &Listener,
    visit: &Visit,
) -> Result<(Greeted, Peer), End> {
    let worker = visit.worker();
    let deadline = worker.deadlines.open(worker.clock.now(), Some(listener.head_timeout));
    let late = |_| End::Turned(Turned::Timeout);
    let mut source = address;
    if let Some(senders) = &listener.proxy_protocol {
        if matches!(senders, Senders::Of(ranges) if !is_trusted(Some(ranges), address)) {
            return Err(End::Turned(Turned::ProxyProtocol));
        }
        first_byte(&stream, &deadline).await?;
        let header = deadline.within(read_header(&mut stream)).await.map_err(late)?;
        source = header.map_err(|_| End::Turned(Turned::ProxyProtocol))?.unwrap_or(address);
    }
    let Some(config) = &listener.tls else {
        return Ok((Greeted::Plain(Socket::new(stream)), Peer::cleartext(source)));
    };
    if first_byte(&stream, &deadline).await? != TLS_HANDSHAKE {
        // Whoever is too slow to read it misses it.
        let _ = deadline.within(tell_it_is_tls(&mut stream)).await;
        return Err(End::Turned(Turned::NotTls));
    }
    let stream = shake_hands(stream, config, &deadline).await?;
    let peer = peer_of(&stream, source, visit).ok_or(End::Failed)?;
    let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
    let how = if resumed { Handshake::Resumed } else { Handshake::Full };
    count(listener, visit).handshake(how).add(1);
    Ok((Greeted::Tls(Box::new(stream)), peer))
}

async fn shake_hands(
    stream: TcpStream,
    config: &Arc<ServerConfig>,
    deadline: &Deadline,
) -> Result<TlsStream<Socket>, End> {
    let shaking = TlsAcceptor::from(Arc::clone(config)).accept(Socket::new(stream));
    match deadline.within(pin!(shaking)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            tracing::debug!(event = "handshake_failed", %error, "a TLS handshake failed");
            Err(End::Failed)
        }
        Err(_) => Err(End::Turned(Turned::Timeout)),
    }
}

/// Who is at the other end; `None` for a certificate that cannot be read, or that has
/// expired since its session began: nobody may be taken for nobody.
fn peer_of(stream: &TlsStream<Socket>, source: IpAddr, visit: &Visit) -> Option<Peer> {
    let session = stream.get_ref().1;
    let client = match session.peer_certificates().and_then(<[_]>::first) {
        None => None,
        Some(der) => {
            let now = i64::try_from(visit.worker().clock.wall().as_secs()).unwrap_or(i64::MAX);
            let client = ClientCertificate::of(der).filter(|one| now <= one.not_after)?;
            Some(Box::new(client))
        }
    };
    let spoken = session.alpn_protocol().map(|protocol| match protocol {
        b"h2" => Spoken::Http2,
        _ => Spoken::Http1,
    });
    Some(Peer::encrypted(source, client, spoken))
}

/// The first byte of a connection, which stays to be read.
async fn first_byte(stream: &TcpStream, deadline: &Deadline) -> Result<u8, End> {
    let mut byte = [0];
    let peeked = poll_fn(|cx| stream.poll_peek(cx, &mut ReadBuf::new(&mut byte)));
    match deadline.within(peeked).await {
        Ok(Ok(1..)) => Ok(byte[0]),
        Ok(Ok(0) | Err(_)) => Err(End::Left),
        Err(_) => Err(End::Turned(Turned::Timeout)),
    }
}

/// Reads a PROXY header and not a byte more. Who is behind; `None` is whoever connected.
async fn read_header(stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let mut bytes = vec![0; V2_BYTES_MAX];
    let mut have = 0;
    loop {
        let more = stream.peek(&mut bytes[have..]).await?;
        if more == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let malformed = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let header = proxy_protocol::parse(&bytes[..have + more]).map_err(malformed)?;
        let end = header.map_or(have + more, |header| header.len);
        // All of it has been seen already.
        stream.read_exact(&mut bytes[have..end]).await?;
        have = end;
        if let Some(header) = header {
            return Ok(header.source);
        }
    }
}

async fn tell_it_is_tls(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(SPEAKS_TLS.as_bytes()).await?;
    stream.shutdown().await?;
    // To close with something unread would reset the connection, and lose the answer.
    let mut dropped = pin!(stream.take(DROPPED_BYTES_MAX as u64));
    tokio::io::copy(&mut dropped, &mut tokio::io::sink()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_http_on_a_port_for_tls_is_one_whole_message() {
        let (head, body) = SPEAKS_TLS.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["status"], 400);
    }
}
