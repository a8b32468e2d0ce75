//! gRPC as a proxy sees it: deadlines, statuses, trailers, streams over a reload.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue, Method, Request as HttpRequest};
use http_body_util::BodyExt;
use serin_testkit::{
    FrameListener, Frames, Http2Backend, Proxy, ProxyBuilder, Streamed, eventually, fields, flag,
    kind, within,
};

const CANCEL: u32 = 8;

fn before(endpoint: SocketAddr) -> ProxyBuilder {
    Proxy::with_yaml(&format!(
        "listeners: [{{ name: http, address: 127.0.0.1:8080 }}]\n\
         admin: {{ address: 127.0.0.1:9901 }}\n\
         workers: 1\n\
         backends: [{{ name: model, protocol: http2, endpoints: [\"{endpoint}\"] }}]\n\
         routes:\n  - name: r\n    rules:\n      - name: main\n        \
         backends: [{{ name: model }}]\n"
    ))
}

fn call(path: &str, fields: &[(&str, &str)]) -> HttpRequest<Streamed> {
    let mut request = HttpRequest::builder()
        .method(Method::POST)
        .uri(format!("http://models.example.com{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(Streamed::of("\0\0\0\0\x01x")).unwrap()
}

/// A head of gRPC, as an endpoint sends it.
fn head() -> Vec<u8> {
    [&[0x88][..], &fields([("content-type", "application/grpc")])].concat()
}

async fn answer(endpoint: &mut Frames, stream: u32, trailers: &[(&str, &str)]) {
    endpoint.send(kind::HEADERS, flag::END_HEADERS, stream, &head()).await;
    endpoint.send(kind::DATA, 0, stream, b"\0\0\0\0\x01y").await;
    let end = flag::END_HEADERS | flag::END_STREAM;
    endpoint.send(kind::HEADERS, end, stream, &fields(trailers.iter().copied())).await;
}

async fn attempts(proxy: &Proxy, outcome: &str) -> u64 {
    let metrics = proxy.metrics().await;
    let counts = ["200", "499", "504"]
        .map(|code| {
            let labels = [("backend", "model"), ("code", code), ("outcome", outcome)];
            metrics.value("serin_attempts_total", &labels)
        })
        .iter()
        .sum::<f64>();
    counts.round() as u64
}

#[tokio::test]
async fn the_clients_deadline_ends_a_call_with_status_4_and_cancels_it_at_the_endpoint() {
    let endpoint = FrameListener::bind().await;
    let proxy = before(endpoint.address).start();
    let mut client = proxy.http2().await;
    let mut other = client.clone();
    let asking =
        tokio::spawn(async move { other.send(call("/s/Hang", &[("grpc-timeout", "1S")])).await });
    let mut connection = endpoint.accept(&[]).await;
    let stream = connection.until(kind::HEADERS).await.stream;
    let reset = connection.until(kind::RST_STREAM).await;
    assert_eq!((reset.stream, reset.code()), (stream, CANCEL));
    let response = asking.await.unwrap().unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["grpc-status"]),
        (200, &HeaderValue::from_static("4"))
    );
    assert_eq!(attempts(&proxy, "bad").await, 1);

    // In the middle of a stream it comes in the trailers. The stream has begun long before.
    let asking =
        tokio::spawn(async move { client.send(call("/s/Slow", &[("grpc-timeout", "3S")])).await });
    let stream = connection.until(kind::HEADERS).await.stream;
    connection.send(kind::HEADERS, flag::END_HEADERS, stream, &head()).await;
    connection.send(kind::DATA, 0, stream, b"\0\0\0\0\x01y").await;
    let body = asking.await.unwrap().unwrap().into_body();
    let body = within("the end", body.collect()).await.unwrap();
    assert_eq!(
        body.trailers().map(|fields| fields["grpc-status"].clone()),
        Some("4".parse().unwrap())
    );
    assert_eq!(body.to_bytes(), "\0\0\0\0\x01y");
    let reset = connection.until(kind::RST_STREAM).await;
    assert_eq!((reset.stream, reset.code()), (stream, CANCEL));
}

#[tokio::test]
async fn what_is_no_grpc_has_no_grpc_timeout() {
    let model = Http2Backend::start(HeaderMap::new()).await;
    let proxy = before(model.address).start();
    let mut client = proxy.http2().await;
    let request = HttpRequest::get("http://h/").header("grpc-timeout", "1n");
    let answer = client.exchange(request.body(Streamed::of("")).unwrap()).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(model.seen()[0].headers["grpc-timeout"], "1n");
}

#[tokio::test]
async fn the_status_at_the_end_is_the_outcome_and_none_at_all_is_a_bad_one() {
    let endpoint = FrameListener::bind().await;
    let proxy = before(endpoint.address).start();
    let client = proxy.http2().await;
    let mut connection = None;
    let (mut bad, mut good, mut neutral) = (0, 0, 0);
    for status in [
        Some("0"),
        Some("2"),
        Some("3"),
        Some("4"),
        Some("5"),
        Some("13"),
        Some("14"),
        Some("15"),
        Some("16"),
        None,
    ] {
        let mut other = client.clone();
        let asking = tokio::spawn(async move {
            let body = other.send(call("/s/M", &[])).await.unwrap().into_body();
            body.collect().await.unwrap().trailers().cloned()
        });
        if connection.is_none() {
            connection = Some(endpoint.accept(&[]).await);
        }
        let connection = connection.as_mut().unwrap();
        let stream = connection.until(kind::HEADERS).await.stream;
        let trailers: Vec<_> = status.iter().map(|status| ("grpc-status", *status)).collect();
        if trailers.is_empty() {
            connection.send(kind::HEADERS, flag::END_HEADERS, stream, &head()).await;
            connection.send(kind::DATA, flag::END_STREAM, stream, b"\0\0\0\0\x01y").await;
        } else {
            answer(connection, stream, &trailers).await;
        }
        let told = within("the end", asking).await.unwrap();
        let told = told.map(|fields| fields["grpc-status"].to_str().unwrap().to_owned());
        assert_eq!(told.as_deref(), status);
        *match status {
            Some("0") => &mut good,
            Some("3" | "5" | "16") => &mut neutral,
            _ => &mut bad,
        } += 1;
        eventually("it is counted", async || {
            let now = [
                attempts(&proxy, "bad").await,
                attempts(&proxy, "good").await,
                attempts(&proxy, "neutral").await,
            ];
            (now == [bad, good, neutral]).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn errors_in_the_head_alone_and_trailers_of_64_kilobytes_arrive() {
    let endpoint = FrameListener::bind().await;
    let proxy = before(endpoint.address).start();
    let client = proxy.http2().await;
    let mut other = client.clone();
    let asking = tokio::spawn(async move { other.send(call("/s/M", &[])).await });
    let mut connection = endpoint.accept(&[]).await;
    let stream = connection.until(kind::HEADERS).await.stream;
    let only = [head(), fields([("grpc-status", "5"), ("grpc-message", "no%20such")])].concat();
    connection.send(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &only).await;
    let answer = asking.await.unwrap().unwrap();
    assert_eq!(answer.headers()["grpc-status"], "5");
    assert_eq!(answer.headers()["grpc-message"], "no%20such");

    let mut other = client.clone();
    let asking = tokio::spawn(async move {
        other
            .send(call("/s/M", &[]))
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap()
            .trailers()
            .cloned()
    });
    let stream = connection.until(kind::HEADERS).await.stream;
    connection.send(kind::HEADERS, flag::END_HEADERS, stream, &head()).await;
    let names: Vec<_> = (0..60).map(|n| format!("x-t{n}")).collect();
    let value = "v".repeat(1024);
    let all =
        names.iter().map(|name| (name.as_str(), value.as_str())).chain([("grpc-status", "0")]);
    let block = fields(all);
    let mut pieces = block.chunks(16_000).peekable();
    let first = pieces.next().unwrap();
    connection.send(kind::HEADERS, flag::END_STREAM, stream, first).await;
    while let Some(piece) = pieces.next() {
        let flags = if pieces.peek().is_none() { flag::END_HEADERS } else { 0 };
        connection.send(kind::CONTINUATION, flags, stream, piece).await;
    }
    let trailers = within("the trailers", asking).await.unwrap().unwrap();
    assert_eq!(trailers.len(), 61);
    assert!(trailers.values().filter(|found| **found == *value).count() == 60);
}

#[tokio::test]
async fn serin_tells_grpc_clients_of_its_own_errors_in_their_words() {
    let model = Http2Backend::start(HeaderMap::new()).await;
    let more = "        matches: [{ path: { exact: /s.V1/Known } }, { path: /other.Service }]\n";
    let proxy = before(model.address).with(more.trim_end()).start();
    let mut client = proxy.http2().await;
    // By method, and by service.
    for path in ["/s.V1/Known", "/other.Service/Any"] {
        let answer = client.send(call(path, &[])).await.unwrap();
        assert!(!answer.headers().contains_key("grpc-status"), "{path}");
    }
    let answer = client.send(call("/s.V1/Unknown", &[])).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["grpc-status"]),
        (200, &HeaderValue::from_static("12"))
    );
    assert_eq!(answer.headers()["content-type"], "application/grpc");
    drop(model);
    let answer = client.send(call("/s.V1/Known", &[])).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["grpc-status"]),
        (200, &HeaderValue::from_static("14"))
    );
}

#[tokio::test]
async fn a_stream_goes_on_over_a_reload() {
    let model = Http2Backend::start(HeaderMap::new()).await;
    let other = Http2Backend::start(HeaderMap::new()).await;
    let mut proxy = before(model.address).start();
    let mut client = proxy.http2().await;
    let (pieces, body) = Streamed::new();
    let request = HttpRequest::post("http://h/s/Chat").header("content-type", "application/grpc");
    let answer = client.send(request.body(body).unwrap()).await.unwrap();
    let mut answer = answer.into_body();
    for n in 0..3 {
        pieces.send(format!("piece {n}").into()).await.unwrap();
        let frame = within("an echo", answer.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), format!("piece {n}"));
        if n == 0 {
            proxy.rewrite(&model.address.to_string(), &other.address.to_string());
            proxy.reload().await.expect(200);
            client.send(call("/s/New", &[])).await.unwrap();
            assert_eq!((model.seen().len(), other.seen().len()), (1, 1));
        }
    }
}

/// Sends fields as one block in as many frames as it takes.
async fn send_block(wire: &mut Frames, flags: u8, stream: u32, block: &[u8]) {
    let mut pieces = block.chunks(16_000).peekable();
    let mut kind = kind::HEADERS;
    let mut flags = flags;
    while let Some(piece) = pieces.next() {
        let end = if pieces.peek().is_none() { flag::END_HEADERS } else { 0 };
        wire.send(kind, flags | end, stream, piece).await;
        (kind, flags) = (kind::CONTINUATION, 0);
    }
}

/// Bytes of the next block of fields on a stream, as they are packed; and whether it ends it.
async fn block(wire: &mut Frames) -> (usize, bool) {
    let head = wire.until(kind::HEADERS).await;
    let (mut bytes, mut flags) = (head.payload.len(), head.flags);
    while flags & flag::END_HEADERS == 0 {
        let more = wire.until(kind::CONTINUATION).await;
        (bytes, flags) = (bytes + more.payload.len(), more.flags);
    }
    (bytes, head.ends_stream())
}

#[tokio::test]
async fn trailers_of_64_kilobytes_go_both_ways_over_a_reload() {
    let endpoint = FrameListener::bind().await;
    let mut proxy = before(endpoint.address).start();
    let mut client = Frames::connect(proxy.address()).await;
    let begin = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/s/M"),
        (":authority", "h"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    client.send(kind::HEADERS, flag::END_HEADERS, 1, &fields(begin)).await;
    client.send(kind::DATA, 0, 1, b"\0\0\0\0\x01x").await;
    let mut connection = endpoint.accept(&[]).await;
    let stream = connection.until(kind::HEADERS).await.stream;
    connection.until(kind::DATA).await;
    proxy.rewrite("name: main", "name: other");
    proxy.reload().await.expect(200);

    let names: Vec<_> = (0..60).map(|n| format!("x-t{n}")).collect();
    // A byte that Huffman's code does not shorten.
    let value = "~".repeat(1024);
    let trailers = fields(names.iter().map(|name| (name.as_str(), value.as_str())));
    send_block(&mut client, flag::END_STREAM, 1, &trailers).await;
    let (bytes, ends) = block(&mut connection).await;
    assert!(ends && bytes >= 60 * 1024, "{bytes}");

    connection.send(kind::HEADERS, flag::END_HEADERS, stream, &head()).await;
    connection.send(kind::DATA, 0, stream, b"\0\0\0\0\x01y").await;
    let status = fields([("grpc-status", "0")]);
    send_block(&mut connection, flag::END_STREAM, stream, &[trailers, status].concat()).await;
    client.until(kind::HEADERS).await;
    assert_eq!(client.until(kind::DATA).await.payload, b"\0\0\0\0\x01y");
    let (bytes, ends) = block(&mut client).await;
    assert!(ends && bytes >= 60 * 1024, "{bytes}");
}

/// The health of a model is its own to tell, also while it streams.
#[tokio::test]
async fn the_health_service_is_passed_through() {
    let model = Http2Backend::start(HeaderMap::new()).await;
    let proxy = before(model.address).start();
    let mut client = proxy.http2().await;
    let answer = client.exchange(call("/grpc.health.v1.Health/Check", &[])).await;
    assert_eq!((answer.status().as_u16(), answer.body().as_str()), (200, "\0\0\0\0\x01x"));
    assert!(!answer.headers().contains_key("server"), "it is Serin's own answer");

    let (pieces, body) = Streamed::new();
    let request = HttpRequest::post("http://h/grpc.health.v1.Health/Watch");
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    let mut watch = client.send(request.body(body).unwrap()).await.unwrap().into_body();
    for change in ["serving", "not serving"] {
        pieces.send(change.into()).await.unwrap();
        let frame = within("a change", watch.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), change);
    }
    let paths: Vec<_> = model.seen().iter().map(|head| head.uri.path().to_owned()).collect();
    assert_eq!(paths, ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"]);
    // The names of its services tell Serin nothing: `te` goes on, and what it needs.
    assert!(model.seen().iter().all(|head| head.headers["te"] == "trailers"));
}
