//! Asks endpoints whether they are well: one task each, for all workers together.
//!
//! Never decides what an answer means: it reports, and the roster counts.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::clock::Clock;
use crate::control::certificates::Certificates;
use crate::control::roster::Report;
use crate::names::BackendName;
use crate::tls::client::{Encryption, Offer};
use crate::traffic::health::{HealthCheck, Probe};
use crate::traffic::outcome::is_local;

/// Bytes of an answer that are read, up to the end of its head over HTTP.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What came of asking; the error is for people.
#[derive(Debug)]
pub struct Answer {
    /// Which asking it was.
    pub id: u64,
    /// Whether the endpoint is well.
    pub well: Result<(), String>,
}

/// Asks `address` until the handle is dropped.
pub fn start(
    id: u64,
    check: HealthCheck,
    address: SocketAddr,
    tls: TlsOfNow,
    reports: mpsc::Sender<Report>,
    clock: Clock,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        // Those that began together do not go on together.
        let mut part = 0.1..1.0;
        let mut is_told = false;
        loop {
            let began = clock.now();
            let asked =
                tokio::time::timeout(check.timeout, ask(&check.probe, address, tls.get())).await;
            let well = match asked {
                Ok(Ok(())) => Some(Ok(())),
                Ok(Err(Complaint::Endpoint(text))) => Some(Err(text)),
                Err(_) => Some(Err("no answer in time".to_owned())),
                // Nothing is known of the endpoint: it is asked again.
                Ok(Err(Complaint::Here(error))) => {
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::warn!(
                            event = "health_unknown", endpoint = %address, %error,
                            "cannot ask whether it is well"
                        );
                    }
                    None
                }
            };
            is_told &= well.is_none();
            if let Some(well) = well
                && reports.send(Report::Health(Answer { id, well })).await.is_err()
            {
                return;
            }
            let wait =
                check.interval.mul_f64(part.start + (part.end - part.start) * fastrand::f64());
            part = 0.9..1.1;
            let taken = clock.now().since(began);
            tokio::time::sleep(wait.saturating_sub(taken).max(PAUSE_MIN)).await;
        }
    }))
}

/// Between two questions, however long an answer took.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// What TLS with a backend's endpoints is made of, which may change from one question to
/// the next.
#[derive(Clone, Debug)]
pub struct TlsOfNow {
    /// Whose endpoints are asked.
    pub backend: BackendName,
    /// What is in force.
    pub certificates: watch::Receiver<Arc<Certificates>>,
}

impl TlsOfNow {
    fn get(&self) -> Option<Arc<Encryption>> {
        self.certificates.borrow().backend(&self.backend)
    }
}

/// Why there was no good answer.
enum Complaint {
    /// The endpoint gave none.
    Endpoint(String),
    /// It could not be asked, for want of something here.
    Here(io::Error),
}

impl From<String> for Complaint {
    fn from(text: String) -> Self {
        Self::Endpoint(text)
    }
}

async fn ask(
    probe: &Probe,
    address: SocketAddr,
    tls: Option<Arc<Encryption>>,
) -> Result<(), Complaint> {
    let stream = TcpStream::connect(address).await.map_err(|error| {
        let here = error.raw_os_error().is_some_and(is_local);
        if here { Complaint::Here(error) } else { Complaint::Endpoint(error.kind().to_string()) }
    })?;
    let offer = match probe {
        Probe::Tcp => return Ok(()),
        Probe::Http { .. } => Offer::Http1,
        Probe::Grpc { .. } => Offer::Http2,
    };
    match tls {
        None => Ok(ask_over(stream, probe, address).await?),
        Some(tls) => {
            let stream = tls.connect(stream, address.ip(), offer).await;
            Ok(ask_over(stream.map_err(|error| error.to_string())?, probe, address).await?)
        }
    }
}

/// A stream to an endpoint.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

async fn ask_over(stream: impl Stream, probe: &Probe, address: SocketAddr) -> Result<(), String> {
    match probe {
        Probe::Tcp => Ok(()),
        Probe::Http { path } => ask_http(stream, address, path).await,
        Probe::Grpc { service } => ask_grpc(stream, address, service).await,
    }
}

async fn ask_http(stream: impl Stream, address: SocketAddr, path: &str) -> Result<(), String> {
    let not_http = |error: hyper::Error| format!("no answer: {error}");
    // Interim answers are part of it: hyper reads them without end.
    let (read, write) = tokio::io::split(stream);
    let stream = tokio::io::join(read.take(ANSWER_BYTES_MAX as u64), write);
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(not_http)?;
    let request = Request::get(path)
        .header("host", address.to_string())
        .header("user-agent", USER_AGENT)
        .header("connection", "close")
        .body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let driven = AbortOnDropHandle::new(tokio::spawn(connection));
    let response = sender.send_request(request).await.map_err(not_http)?;
    drop(driven);
    let status = response.status();
    if status.is_success() || status.is_redirection() {
        Ok(())
    } else {
        Err(format!("status {status}"))
    }
}

const USER_AGENT: &str = concat!("serin/", env!("CARGO_PKG_VERSION"), " (health check)");

async fn ask_grpc(stream: impl Stream, address: SocketAddr, service: &str) -> Result<(), String> {
    let not_grpc = |error: hyper::Error| format!("no answer: {error}");
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(not_grpc)?;
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", USER_AGENT)
        .body(Full::new(question(service)));
    let request = request.map_err(|error| error.to_string())?;
    let _driven = AbortOnDropHandle::new(tokio::spawn(connection));
    let response = sender.send_request(request).await.map_err(not_grpc)?;
    read_grpc(response).await
}

async fn read_grpc(response: http::Response<Incoming>) -> Result<(), String> {
    if response.status() != StatusCode::OK {
        return Err(format!("status {}", response.status()));
    }
    check_status(response.headers())?;
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| error.to_string())?;
    check_status(body.trailers().unwrap_or(&HeaderMap::new()))?;
    match serving_status(&body.to_bytes()) {
        Some(SERVING) => Ok(()),
        Some(status) => Err(format!("health status {status}")),
        None => Err("an answer that is not of the health protocol".to_owned()),
    }
}

fn check_status(fields: &HeaderMap) -> Result<(), String> {
    match fields.get("grpc-status").map(|status| status.to_str().unwrap_or("?")) {
        None | Some("0") => Ok(()),
        Some(status) => Err(format!("grpc-status {status}")),
    }
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus`.
const SERVING: u64 = 1;

/// A `HealthCheckRequest` in a message of gRPC: its only field, number 1, is the service.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | 2);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put(message);
    framed.freeze()
}

fn put_varint(to: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        to.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    to.put_u8(number as u8);
}

/// The status in a framed `HealthCheckResponse`: its field number 1, 0 where it is not there.
fn serving_status(framed: &[u8]) -> Option<u64> {
    let (head, message) = framed.split_at_checked(5)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    if head[0] != 0 || message.len() as u64 != u64::from(length) {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, status] if *status < 0x80 => Some(u64::from(*status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn the_health_protocol_is_spoken_as_its_messages_are_defined() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(&question(&"x".repeat(200))[4..8], [203, 0x0a, 0xc8, 0x01]);
        for (framed, status) in [
            (&[0, 0, 0, 0, 2, 8, 1][..], Some(1)),
            (&[0, 0, 0, 0, 2, 8, 2], Some(2)),
            (&[0, 0, 0, 0, 0], Some(0)),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0, 0, 0, 3, 8, 1], None),
            (b"junk", None),
        ] {
            assert_eq!(serving_status(framed), status, "{framed:?}");
        }
    }

    #[tokio::test]
    async fn interim_answers_do_not_go_on_without_end() {
        for (interims, is_well) in [(3, true), (10_000, false)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let before = "HTTP/1.1 100 Continue\r\n\r\n".repeat(interims);
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let answer = before + "HTTP/1.1 204 No Content\r\n\r\n";
                // Whoever asked may have left.
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            });
            let asked = ask(&Probe::Http { path: "/".into() }, address, None).await;
            assert_eq!(asked.is_ok(), is_well, "{interims}");
        }
    }
}
