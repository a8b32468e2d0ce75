//! A closed-loop generator: so many connections, each sending as fast as it gets
//! answers.
//!
//! Only for throughput and CPU per request. Never reports latency: a closed loop
//! slows down with its target and would flatter it.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

use crate::backend::{content_length, find_head_end};
use crate::time;

/// A closed loop on one loopback address.
#[derive(Clone, Debug)]
pub struct Saturate {
    /// Where to; anything but loopback is refused.
    pub target: SocketAddr,
    /// Keep-alive connections.
    pub connections: usize,
    /// How long. Answers to what was sent before the end are waited for.
    pub duration: Duration,
    /// No connection sends more than this.
    pub requests_max_each: u64,
    /// The whole request, head and body, as it stands on the wire.
    pub request: Vec<u8>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Saturated {
    /// Complete answers.
    pub requests: u64,
    /// Those of them that were not 2xx.
    pub errors: u64,
    /// Connections that broke. They are not opened again.
    pub broken: u64,
    /// From the first request to the last answer.
    pub seconds: f64,
}

impl Saturated {
    /// Complete answers per second.
    pub fn rps(&self) -> f64 {
        self.requests as f64 / self.seconds.max(1e-9)
    }
}

impl Saturate {
    /// A GET without more headers than it needs, over 64 connections.
    pub fn get(target: SocketAddr, path: &str, headers: &[(String, String)]) -> Self {
        let headers: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let headers = headers.concat();
        let head = format!("GET {path} HTTP/1.1\r\nhost: {target}\r\n{headers}\r\n");
        Self {
            target,
            connections: 64,
            duration: Duration::from_secs(5),
            requests_max_each: u64::MAX,
            request: head.into_bytes(),
        }
    }

    /// Blocks until it is over. Fails when the target is not loopback or does not
    /// accept all the connections.
    pub fn run(self) -> io::Result<Saturated> {
        if !self.target.ip().is_loopback() {
            let refused = format!("{} is not a loopback address", self.target);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, refused));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        LocalSet::new().block_on(&runtime, self.run_all())
    }

    async fn run_all(self) -> io::Result<Saturated> {
        let mut streams = Vec::new();
        for _ in 0..self.connections {
            let stream = TcpStream::connect(self.target).await?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        let started = time::now();
        let until = started + self.duration;
        let request = Rc::<[u8]>::from(self.request);
        let mut loops = JoinSet::new();
        for stream in streams {
            let request = Rc::clone(&request);
            let max = self.requests_max_each;
            loops.spawn_local(async move { send_on(stream, &request, until, max).await });
        }
        let mut all = Saturated::default();
        while let Some(Ok(one)) = loops.join_next().await {
            all.requests += one.requests;
            all.errors += one.errors;
            all.broken += one.broken;
        }
        all.seconds = (time::now() - started).as_secs_f64();
        Ok(all)
    }
}

async fn send_on(mut stream: TcpStream, request: &[u8], until: Instant, max: u64) -> Saturated {
    let mut seen = Saturated::default();
    let mut input = BytesMut::with_capacity(16 * 1024);
    while seen.requests < max && time::now() < until {
        let Ok(good) = exchange(&mut stream, request, &mut input).await else {
            seen.broken = 1;
            break;
        };
        seen.requests += 1;
        seen.errors += u64::from(!good);
    }
    seen
}

/// Whether the answer was 2xx. Only answers with a `content-length` are understood.
async fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    input: &mut BytesMut,
) -> io::Result<bool> {
    stream.write_all(request).await?;
    let mut left: Option<usize> = None;
    let mut good = false;
    loop {
        if stream.read_buf(input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if left.is_none()
            && let Some(head_end) = find_head_end(input)
        {
            let head = &input[..head_end];
            good = head.get(9) == Some(&b'2');
            let length = content_length(head).ok_or(io::ErrorKind::InvalidData)?;
            left = Some(length);
            input.advance(head_end);
        }
        if let Some(length) = left
            && input.len() >= length
        {
            input.advance(length);
            return Ok(good);
        }
    }
}
