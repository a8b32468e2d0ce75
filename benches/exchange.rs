//! What a whole request costs without a socket: read, route, answer, count. No rule fits it, so
//! that no endpoint is needed; `just instructions` counts what the way to one takes.
//!
//! Never measures the kernel: the client is at the other end of a pipe in memory.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

use serin::clock::Clock;
use serin::proxy::forward::Peer;
use serin::proxy::protocol::{ClientStream, serve_connection};
use serin::proxy::worker::Worker;
use serin::snapshot::{Publisher, Snapshot};
use serin::telemetry::counts::{Leg, LegKey};
use serin::traffic::route::Table;

/// Room for a request or an answer.
const PIPE_BYTES: usize = 16 << 10;

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

/// A client that is connected to a worker without rules.
fn connect(runtime: &LocalRuntime) -> DuplexStream {
    let key = LegKey { route: "-".into(), rule: "-".into(), backend: "-".into() };
    let publisher = Publisher::new(Snapshot {
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
    });
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

fn answer_404(c: &mut Criterion) {
    let runtime =
        Builder::new_current_thread().enable_time().build_local(LocalOptions::default()).unwrap();
    let plain = "GET /v2/models/gone/infer HTTP/1.1\r\nhost: models.example.com\r\n";
    let more = "x-header: a value of a usual length\r\n".repeat(15);
    let mut group = c.benchmark_group("answer 404");
    group.throughput(Throughput::Elements(1));
    for (what, request) in
        [("one header", format!("{plain}\r\n")), ("16 headers", format!("{plain}{more}\r\n"))]
    {
        let mut client = connect(&runtime);
        let mut first = vec![0; PIPE_BYTES];
        let length = runtime.block_on(async {
            client.write_all(request.as_bytes()).await.unwrap();
            // Head and body come at once: the pipe has room for both.
            client.read(&mut first).await.unwrap()
        });
        assert!(first.starts_with(b"HTTP/1.1 404 "), "not the answer that is measured");
        let mut answer = vec![0; length];
        group.bench_function(what, |b| {
            b.iter(|| {
                runtime.block_on(exchange(&mut client, request.as_bytes(), &mut answer));
            });
        });
        assert!(answer.starts_with(b"HTTP/1.1 404 ") && answer.ends_with(b"}"));
    }
    group.finish();
}

criterion_group!(benches, answer_404);
criterion_main!(benches);
