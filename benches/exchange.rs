//! What a whole exchange costs: read, route, split, ask the endpoint, answer, count; and what is
//! left of it where no rule fits, so that no endpoint is asked.
//!
//! The client is at the other end of a pipe in memory. The endpoint is behind a socket, for there
//! is no other way to one: on loopback, on the same thread, with the least that it can do. So
//! the kernel's way there and back, and the endpoint's own time, are in the first figure.
//! `just instructions` counts without them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

use serin::clock::Clock;
use serin::names::RuleId;
use serin::proxy::forward::Peer;
use serin::proxy::protocol::{ClientStream, serve_connection};
use serin::proxy::worker::Worker;
use serin::snapshot::{Backend, Endpoint, Publisher, Rule, Snapshot, Target};
use serin::telemetry::counts::{Alarm, Leg, LegKey};
use serin::telemetry::signs::Signs;
use serin::traffic::balance::Balance;
use serin::traffic::draw::Salt;
use serin::traffic::matching::{Match, PathMatch};
use serin::traffic::protocol::Protocol;
use serin::traffic::retry::Timeouts;
use serin::traffic::route::{Entry, Table};
use serin::traffic::split::Split;
use serin::units::Weight;

/// Room for a request or an answer.
const PIPE_BYTES: usize = 16 << 10;
/// The body of an endpoint's answer.
const BODY_BYTES: usize = 1_024;
/// Asked for where a rule fits, and where none does.
const MODEL: &str = "/v2/models/sentiment";
const GONE: &str = "/v2/models/gone";

/// The client's end, as the proxy sees it.
struct Pipe(DuplexStream);

impl ClientStream for Pipe {
    fn make_abrupt(&self) {}
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Nothing but a 404 for everyone.
fn without_rules() -> Snapshot {
    let key = LegKey { route: "-".into(), rule: "-".into(), backend: "-".into() };
    Snapshot {
        generation: 1,
        table: Table::new(Vec::new()),
        rules: Vec::new(),
        backends: Vec::new(),
        listeners: Vec::new(),
        trusted_proxies: None,
        unrouted: Arc::new(Leg::new(key, 1)),
        response_headers: false,
        replay_body_bytes_max: 0,
        telling: None,
    }
}

/// One rule: nine in ten to one backend and the tenth to another, both with the one endpoint.
fn with_endpoint(address: SocketAddr) -> Snapshot {
    let path = PathMatch::prefix(MODEL).unwrap();
    let matches = [Match { path: Some(path), ..Match::default() }];
    let target = |(backend, name): (usize, &str)| {
        let key = LegKey { route: "models".into(), rule: "sentiment".into(), backend: name.into() };
        let leg = Arc::new(Leg::new(key, 1));
        Target { backend, leg, arm: None, cut: None, model: None }
    };
    let backend = |name: &str| {
        let signs = Arc::new(Signs::new(1, u32::MAX, Arc::new(Alarm::default())));
        Backend {
            name: name.into(),
            endpoints: vec![Endpoint { address, since: None, signs }],
            balance: Balance::default(),
            protocol: Protocol::Http1,
            tls: None,
            slow_start: None,
            limit: None,
        }
    };
    let names = ["canary", "stable"];
    let weight = |weight| Weight::new(weight).unwrap();
    let id = RuleId { route: "models".into(), rule: "sentiment".into() };
    let rule = Rule {
        salt: Salt::of_rule(&id.to_string()),
        id,
        split: Split::new([(0, weight(10)), (1, weight(90))]).unwrap(),
        targets: names.into_iter().enumerate().map(target).collect(),
        renames: false,
        sticky: None,
        mirrors: Vec::new(),
        timeouts: Timeouts::default(),
        body_bytes_max: None,
        retry: None,
        failover: None,
        rollout: None,
    };
    Snapshot {
        table: Table::new([Entry { hostnames: &[], matches: &matches, rule: 0 }]),
        rules: vec![rule],
        backends: names.map(backend).into(),
        ..without_rules()
    }
}

/// Answers every request without a body with the same bytes, for as long as the runtime runs.
fn start_endpoint(runtime: &LocalRuntime) -> SocketAddr {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY_BYTES}\r\n\r\n");
    let answer: Arc<[u8]> = [head.as_bytes(), &[b'x'; BODY_BYTES]].concat().into();
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = Arc::clone(&answer);
                stream.set_nodelay(true).unwrap();
                tokio::task::spawn_local(async move {
                    let mut request = Vec::new();
                    while stream.read_buf(&mut request).await.is_ok_and(|count| count > 0) {
                        if request.ends_with(b"\r\n\r\n") {
                            request.clear();
                            stream.write_all(&answer).await.unwrap();
                        }
                    }
                });
            }
        });
        address
    })
}

/// A client that is connected to a worker.
fn connect(runtime: &LocalRuntime, snapshot: Snapshot) -> DuplexStream {
    let publisher = Publisher::new(snapshot);
    let (near, far) = duplex(PIPE_BYTES);
    runtime.block_on(async {
        let worker = Worker::new(0, Clock::start(), publisher.reader());
        let peer = Peer::cleartext([127, 0, 0, 1].into());
        tokio::task::spawn_local(serve_connection(Pipe(far), worker.enter(0), peer));
    });
    near
}

/// Asks and reads the answer, which has the same length every time.
async fn exchange(client: &mut DuplexStream, request: &[u8], answer: &mut [u8]) {
    client.write_all(request).await.unwrap();
    client.read_exact(answer).await.unwrap();
}

/// Asks once, and returns an answer up to the end that it has to have.
async fn ask_once(client: &mut DuplexStream, request: &[u8], end: &[u8]) -> Vec<u8> {
    client.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(end) {
        assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0, "closed within an answer");
    }
    answer
}

/// The same request again and again, with few headers and with more. Its answer has to begin
/// and to end so.
fn measure(
    c: &mut Criterion,
    name: &str,
    path: &str,
    mut connect: impl FnMut(&LocalRuntime) -> DuplexStream,
    (begin, end): (&[u8], &[u8]),
) {
    let runtime =
        Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    let plain = format!("GET {path}/infer HTTP/1.1\r\nhost: models.example.com\r\n");
    let more = "x-header: a value of a usual length\r\n".repeat(15);
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    for (what, request) in
        [("one header", format!("{plain}\r\n")), ("16 headers", format!("{plain}{more}\r\n"))]
    {
        let mut client = connect(&runtime);
        let request = request.as_bytes();
        let mut answer = runtime.block_on(ask_once(&mut client, request, end));
        assert!(answer.starts_with(begin), "not the answer that is measured");
        group.bench_function(what, |b| {
            b.iter(|| runtime.block_on(exchange(&mut client, request, &mut answer)));
        });
        assert!(answer.starts_with(begin) && answer.ends_with(end));
    }
    group.finish();
}

fn whole_exchange(c: &mut Criterion) {
    let connect = |runtime: &LocalRuntime| {
        let endpoint = start_endpoint(runtime);
        connect(runtime, with_endpoint(endpoint))
    };
    measure(c, "exchange", MODEL, connect, (b"HTTP/1.1 200 ", &[b'x'; BODY_BYTES]));
}

fn answer_404(c: &mut Criterion) {
    let connect = |runtime: &LocalRuntime| connect(runtime, without_rules());
    measure(c, "answer 404 without an endpoint", GONE, connect, (b"HTTP/1.1 404 ", b"}"));
}

criterion_group!(benches, whole_exchange, answer_404);
criterion_main!(benches);
