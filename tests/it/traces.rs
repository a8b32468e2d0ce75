//! What a collector of OpenTelemetry gets to see, read by code that is not Serin's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serin_testkit::{Backend, Proxy, Request, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PATH: &str = "/v2/models/sentiment/infer";

/// A collector that answers every message with the same status.
struct Collector {
    port: u16,
    seen: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Collector {
    async fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let all = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let message = receive(stream, status).await;
                all.lock().unwrap().extend(message);
            }
        });
        Self { port, seen }
    }

    fn spans(&self) -> Vec<Span> {
        let seen = self.seen.lock().unwrap();
        let resources = seen.iter().flat_map(|one| &one.resource_spans);
        resources.flat_map(|one| &one.scope_spans).flat_map(|one| one.spans.clone()).collect()
    }

    /// Spans of this kind, 2 for a server's and 3 for a client's.
    fn of_kind(&self, kind: i32) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.kind == kind).collect()
    }
}

async fn receive(mut stream: TcpStream, status: u16) -> Option<ExportTraceServiceRequest> {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap();
        let length: usize = length.lines().next().unwrap().parse().unwrap();
        break (end + 4, length);
    };
    while bytes.len() < head + length {
        stream.read_buf(&mut bytes).await.ok()?;
    }
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    assert!(text.starts_with("post /v1/traces http/1.1"), "{text}");
    assert!(text.contains("content-type: application/x-protobuf"), "{text}");
    let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(answer.as_bytes()).await.ok()?;
    Some(ExportTraceServiceRequest::decode(&bytes[head..]).unwrap())
}

fn attributes(span: &Span) -> BTreeMap<&str, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    let value = |one: &opentelemetry_proto::tonic::common::v1::KeyValue| {
        text(one.value.as_ref().unwrap().value.as_ref().unwrap())
    };
    span.attributes.iter().map(|one| (one.key.as_str(), value(one))).collect()
}

fn check(span: &Span, expected: &[(&str, &str)]) {
    let found = attributes(span);
    for (key, value) in expected {
        assert_eq!(found.get(key).map(String::as_str), Some(*value), "{key} of {found:?}");
    }
}

#[tokio::test]
async fn of_two_traces_that_a_request_is_said_to_be_of_it_is_of_none() {
    let collector = Collector::start(200).await;
    let model = Backend::named("model").start();
    let tracing =
        format!("tracing: {{ otlp: 'http://127.0.0.1:{}', sample: 100% }}", collector.port);
    let proxy = Proxy::to(&model, "").with(&tracing).start();
    let parents = ["0af7651916cd43dd8448eb211c80319c", "1af7651916cd43dd8448eb211c80319c"];
    let mut request = Request::get("/");
    for parent in parents {
        request = request.header("traceparent", &format!("00-{parent}-b7ad6b7169203331-00"));
    }
    proxy.client().send(&request.header("tracestate", "vendor=1")).await.expect(200);
    eventually("both spans", async || (collector.spans().len() == 2).then_some(())).await;
    let server = &collector.of_kind(2)[0];
    assert_eq!((&*server.parent_span_id, server.trace_state.as_str()), (&[][..], ""));
    let seen = model.last();
    let sent = seen.header("traceparent");
    assert!(parents.iter().all(|parent| !sent.contains(parent)), "{sent}");
    assert_eq!(seen.header("tracestate"), "");
}

#[tokio::test]
async fn a_request_is_one_span_of_the_server_and_one_for_its_attempt() {
    let collector = Collector::start(200).await;
    let model = Backend::named("model").start();
    let tracing =
        format!("tracing: {{ otlp: 'http://127.0.0.1:{}', sample: 100% }}", collector.port);
    let proxy = Proxy::to(&model, "").with(&tracing).start();
    let body = "x".repeat(2000);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = Request::post("/a?secret=1", body.as_str())
        .header("traceparent", parent)
        .header("tracestate", "vendor=1");
    proxy.client().send(&request).await.expect(200);
    eventually("both spans", async || (collector.spans().len() == 2).then_some(())).await;
    let (server, client) = (&collector.of_kind(2)[0], &collector.of_kind(3)[0]);
    let port = model.address.port().to_string();
    check(
        server,
        &[
            ("http.request.method", "POST"),
            ("url.path", "/a"),
            ("url.scheme", "http"),
            ("client.address", "127.0.0.1"),
            ("network.protocol.version", "1.1"),
            ("http.response.status_code", "200"),
            ("http.request.body.size", "2000"),
            ("serin.route", "all"),
            ("serin.rule", "main"),
            ("serin.backend", "model"),
            ("serin.outcome", "good"),
            ("serin.attempts", "1"),
        ],
    );
    check(
        client,
        &[
            ("server.address", "127.0.0.1"),
            ("server.port", &port),
            ("serin.why", "first"),
            ("serin.outcome", "good"),
        ],
    );
    let hex = |bytes: &[u8]| {
        let number = bytes.iter().fold(0, |number, byte| (number << 8) | u128::from(*byte));
        format!("{number:0width$x}", width = 2 * bytes.len())
    };
    assert_eq!(hex(&server.trace_id), &parent[3..35]);
    assert_eq!(hex(&server.parent_span_id), &parent[36..52]);
    assert_eq!(server.trace_state, "vendor=1");
    assert_eq!((&client.trace_id, &client.parent_span_id), (&server.trace_id, &server.span_id));
    assert!(server.start_time_unix_nano <= client.start_time_unix_nano);
    assert!(client.end_time_unix_nano <= server.end_time_unix_nano);
    assert!(server.status.is_none() && client.status.is_none());
    // The endpoint is told of the client's span, in the same trace.
    let seen = model.last();
    let sent = format!("00-{}-{}-01", &parent[3..35], hex(&client.span_id));
    assert_eq!(seen.header("traceparent"), sent);
    assert_eq!(seen.header("tracestate"), "vendor=1");
    let text = format!("{:?}", collector.spans());
    assert!(!text.contains("secret"), "{text}");
    eventually("both are counted", async || {
        let metrics = proxy.metrics().await;
        let sent = metrics.value("serin_trace_spans_total", &[("result", "sent")]);
        (sent.round() as u64 == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_failover_is_two_spans_of_clients_though_nothing_is_sampled() {
    let collector = Collector::start(200).await;
    let v1 = Backend::named("v1").start();
    let v2 = Backend::named("v2").answers(500).start();
    let rule = "          - name: sentiment-v2\n            weight: 10\n";
    let with = format!("{rule}        failover: true\n");
    let tracing = format!("tracing: {{ otlp: 'http://127.0.0.1:{}', sample: 0% }}", collector.port);
    let proxy = Proxy::with_config("canary.yaml").backends([&v1, &v2]).replace(rule, &with);
    let proxy = proxy.replace("weight: 90", "weight: 1").replace("weight: 10", "weight: 1000");
    let proxy = proxy.with(&tracing).start();
    let mut client = proxy.client();
    while v2.requests() == 0 {
        client.get(PATH).await.expect(200);
    }
    eventually("three spans", async || (collector.spans().len() == 3).then_some(())).await;
    let server = &collector.of_kind(2)[0];
    check(
        server,
        &[
            ("serin.attempts", "2"),
            ("http.response.status_code", "200"),
            ("serin.backend", "sentiment-v1"),
            ("serin.rollout", "sentiment-v2"),
        ],
    );
    let clients = collector.of_kind(3);
    check(
        &clients[0],
        &[
            ("serin.why", "first"),
            ("serin.backend", "sentiment-v2"),
            ("serin.outcome", "bad"),
            ("error.type", "500"),
        ],
    );
    check(
        &clients[1],
        &[
            ("serin.why", "failover"),
            ("serin.backend", "sentiment-v1"),
            ("serin.outcome", "good"),
            ("http.request.resend_count", "1"),
        ],
    );
    assert_eq!(clients[0].status.as_ref().unwrap().code, 2);
    assert!(clients.iter().all(|span| span.parent_span_id == server.span_id));
}

#[tokio::test]
async fn a_copy_is_a_span_that_is_linked_to_the_request() {
    let collector = Collector::start(200).await;
    let model = Backend::named("model").start();
    let shadow = Backend::named("shadow").start();
    let tracing =
        format!("tracing: {{ otlp: 'http://127.0.0.1:{}', sample: 100% }}", collector.port);
    let proxy = Proxy::to(&model, "mirrors: [{ backend: shadow }]")
        .replace(
            "backends:\n",
            &format!("backends:\n  - {{ name: shadow, endpoints: [{}] }}\n", shadow.address),
        )
        .with(&tracing)
        .start();
    proxy.client().get("/").await.expect(200);
    eventually("three spans", async || (collector.spans().len() == 3).then_some(())).await;
    let server = &collector.of_kind(2)[0];
    let clients = collector.of_kind(3);
    let copy = clients.iter().find(|span| attributes(span)["serin.why"] == "mirror").unwrap();
    check(copy, &[("serin.backend", "shadow"), ("serin.mirror.result", "ok")]);
    assert_ne!(copy.trace_id, server.trace_id);
    assert_eq!(copy.links[0].trace_id, server.trace_id);
    assert_eq!(copy.links[0].span_id, server.span_id);
}

#[tokio::test]
async fn a_collector_that_is_away_costs_a_counter() {
    let model = Backend::named("model").start();
    let nobody = Backend::named("nobody").start_dead();
    let tracing = format!("tracing: {{ otlp: 'http://{}', sample: 100% }}", nobody.address);
    let proxy = Proxy::to(&model, "").with(&tracing).start();
    let mut client = proxy.client();
    for _ in 0..20 {
        client.get("/").await.expect(200);
    }
    eventually("all spans are given up", async || {
        let metrics = proxy.metrics().await;
        let failed = metrics.value("serin_trace_spans_total", &[("result", "failed")]);
        (failed >= 40.0).then_some(())
    })
    .await;
    client.get("/").await.expect(200);
}
