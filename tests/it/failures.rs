//! What a client gets when the endpoint, the way to it or the request fails.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use http::Request as HttpRequest;
use http_body_util::BodyExt;
use serin_testkit::{
    Answer, Backend, Body, End, Proxy, Request, Script, Streamed, eventually, ms, within,
};
use socket2::{Domain, Socket, Type};

/// Far longer than a test takes.
const LONG: Duration = Duration::from_hours(1);

/// Checks an answer of Serin's own, and returns its sentence.
fn problem(answer: &Answer, status: u16) -> String {
    let answer = answer.clone().expect(status);
    assert_eq!(answer.header("server").as_deref(), Some("serin"));
    assert_eq!(answer.header("content-type").as_deref(), Some("application/problem+json"));
    let body = answer.json();
    assert_eq!(body["status"], status);
    assert!(answer.body.len() < 1000);
    body["detail"].as_str().unwrap().to_owned()
}

/// Timeouts that a test waits for, the others being `LONG`.
fn timeouts(changed: &str) -> String {
    let all = ["connect", "first_byte", "idle", "request"];
    let unchanged = all.iter().filter(|name| !changed.contains(&format!("{name}:")));
    let unchanged: Vec<_> = unchanged.map(|name| format!("{name}: {}s", LONG.as_secs())).collect();
    format!("timeouts: {{ {changed}, {} }}", unchanged.join(", "))
}

#[tokio::test]
async fn an_endpoint_that_fails_before_its_head_is_a_502() {
    for (what, script) in [
        ("closes", Script::closes()),
        ("resets", Script::resets()),
        ("garbage", Script::garbage()),
        ("half a head", Script::says("HTTP/1.1 200 OK\r\ncontent-le")),
        (
            "two lengths",
            Script::says("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        ),
        ("a strange version", Script::says("HTTP/9.9 200 OK\r\n\r\n")),
    ] {
        let model = Backend::named("model").does(script).start();
        let proxy = Proxy::to(&model, "").start();
        let mut client = proxy.client();
        problem(&client.get("/").await, 502);
        problem(&client.post("/", "x").await, 502);
        // On a fresh connection nothing is tried twice.
        assert_eq!(model.requests(), 2, "{what}");
        let metrics = proxy.metrics().await;
        let labels = [("backend", "model"), ("code", "502"), ("outcome", "bad")];
        assert!((metrics.value("serin_attempts_total", &labels) - 2.0).abs() < 0.1, "{what}");
    }
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_a_502_until_it_is_there() {
    let model = Backend::named("model").start_dead();
    let proxy = Proxy::to(&model, "").start();
    let mut client = proxy.client();
    let detail = problem(&client.get("/").await, 502);
    assert!(detail.contains("cannot connect to") && detail.contains("refused"), "{detail}");
    model.revives().await;
    // It takes a moment until it listens.
    eventually("it is there", async || (client.get("/").await.status == 200).then_some(())).await;
    model.dies().await;
    eventually("it is gone", async || (client.get("/").await.status == 502).then_some(())).await;
}

#[tokio::test]
async fn a_request_that_no_rule_fits_is_a_404() {
    let model = Backend::named("model").start();
    let proxy = Proxy::with_config("canary.yaml").backends([&model, &model]);
    let proxy = proxy.replace("127.0.0.1:9901", "127.0.0.1:0").start();
    problem(&proxy.get("/v2/models/other").await, 404);
    problem(&proxy.get("/v2/models/sentiments").await, 404);
    proxy.get("/v2/models/sentiment").await.expect(200);
    proxy.get("/v2/models/sentiment/infer").await.expect(200);
}

#[tokio::test]
async fn a_backend_without_endpoints_is_a_503() {
    let model = Backend::named("model").start();
    let proxy = Proxy::to(&model, "").replace(&model.address.to_string(), "").start();
    let detail = problem(&proxy.get("/").await, 503);
    assert!(detail.contains("model") && detail.contains("all/main"), "{detail}");
}

#[tokio::test]
async fn a_method_that_is_not_for_proxies_is_refused() {
    let model = Backend::named("model").start();
    let proxy = Proxy::to(&model, "").start();
    let mut wire = proxy.client().begin("CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n").await;
    assert_eq!(within("a head", wire.head()).await.unwrap().status(), 501);
    assert_eq!(model.requests(), 0);
}

#[tokio::test]
async fn grpc_clients_are_told_in_their_own_words() {
    let model = Backend::named("model").start_dead();
    let proxy = Proxy::to(&model, "matches: [{ path: /served }]").start();
    let mut client = proxy.http2().await;
    for (path, status) in [("/other", "12"), ("/served", "14")] {
        let request = HttpRequest::post(format!("http://a{path}"));
        let request = request.header("content-type", "application/grpc").header("te", "trailers");
        let answer = client.exchange(request.body(Streamed::of("")).unwrap()).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.headers()["grpc-status"], status, "{path}");
        assert_eq!(answer.headers()["content-type"], "application/grpc");
        assert_eq!(answer.headers()["server"], "serin");
        assert!(answer.headers().contains_key("grpc-message"));
        assert_eq!(answer.body(), "");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_ends_cleanly() {
    for (what, script) in [
        ("reset", Script::resets_after_head()),
        ("half a body", Script::half_a_body()),
        ("half a stream", Script::half_a_stream()),
        (
            "a broken chunk",
            Script::says(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
            ),
        ),
    ] {
        let model = Backend::named("model").does(script).start();
        let proxy = Proxy::to(&model, "").start();
        // What breaks at once may be cut before its head is on the way.
        if let Ok(answer) = proxy.client().try_send(&Request::get("/")).await {
            assert_eq!((answer.status, answer.end), (200, End::Cut), "{what}");
        }

        let mut client = proxy.http2().await;
        let request = HttpRequest::get("http://a/").body(Streamed::of("")).unwrap();
        if let Ok(answer) = client.send(request).await {
            let whole = within("the end", answer.into_body().collect()).await;
            assert!(whole.is_err(), "{what}: the stream must be reset");
        }

        let metrics = proxy.metrics().await;
        let labels = [("code", "200"), ("outcome", "bad")];
        assert!((metrics.value("serin_attempts_total", &labels) - 2.0).abs() < 0.1, "{what}");
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_idled_costs_nobody_a_request() {
    let model = Backend::named("model").does(Script::closes_when_reused()).start();
    let proxy = Proxy::to(&model, "").start();
    let mut client = proxy.client();
    for (n, request) in [
        Request::get("/"),
        Request::get("/again"),
        Request::post("/", "a body"),
        Request::post("/", "a body in pieces".repeat(300)).chunked(),
        Request::new("DELETE", "/"),
    ]
    .iter()
    .enumerate()
    {
        client.send(request).await.expect(200);
        let seen = model.seen();
        // The first was new to its connection, each other one was sent twice.
        assert_eq!(seen.len(), 1 + 2 * n);
        if let [.., first, second] = &seen[..] {
            let twice = (first.target(), &first.body) == (second.target(), &second.body);
            assert!(twice && first.connection != second.connection);
        }
    }
    // Users were asked once each.
    let metrics = proxy.metrics().await;
    assert!((metrics.value("serin_requests_total", &[("code", "200")]) - 5.0).abs() < 0.1);
}

#[tokio::test]
async fn what_an_endpoint_began_to_answer_is_not_sent_again() {
    let model = Backend::named("model").does(Script::breaks_when_reused("HTTP/1.1 2")).start();
    let proxy = Proxy::to(&model, "").start();
    let mut client = proxy.client();
    client.get("/").await.expect(200);
    problem(&client.get("/").await, 502);
    assert_eq!(model.requests(), 2);
}

#[tokio::test]
async fn a_body_that_was_not_kept_is_not_sent_again() {
    let model = Backend::named("model").does(Script::closes_when_reused()).start();
    let proxy = Proxy::to(&model, "").start();
    let mut client = proxy.client();
    client.get("/").await.expect(200);
    problem(&client.post("/", vec![b'x'; 2 << 20]).await, 502);
    assert_eq!(model.requests(), 2);
    // Just what fits is.
    client.get("/").await.expect(200);
    client.post("/", vec![b'x'; 1 << 20]).await.expect(200);
    assert_eq!(model.last().body.len(), 1 << 20);
}

#[tokio::test]
async fn an_endpoint_that_does_not_accept_is_a_504() {
    let (_full, address) = full();
    let model = Backend::named("model").start_dead();
    let proxy = Proxy::to(&model, &timeouts("connect: 200ms"))
        .replace(&model.address.to_string(), &address.to_string())
        .start();
    let detail = problem(&proxy.get("/").await, 504);
    assert!(detail.contains("timeouts.connect"), "{detail}");
}

/// A socket that listens with a full queue: the kernel drops what would connect.
fn full() -> (Vec<Socket>, SocketAddr) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut sockets = vec![listener];
    // One that is not taken at once is in nobody's queue.
    while let Ok(stream) = TcpStream::connect_timeout(&address, ms(200)) {
        sockets.push(stream.into());
    }
    (sockets, address)
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_a_504_and_is_let_go() {
    for limit in ["first_byte: 200ms", "request: 200ms"] {
        let model = Backend::named("model").does(Script::hangs()).start();
        let proxy = Proxy::to(&model, &timeouts(limit)).start();
        let mut client = proxy.client();
        for request in [Request::get("/"), Request::post("/", "body")] {
            let detail = problem(&client.send(&request).await, 504);
            let name = limit.split(':').next().unwrap();
            assert!(detail.contains(&format!("timeouts.{name}")), "{detail}");
        }
        eventually("both are let go", async || (model.gone() == 2).then_some(())).await;
    }
}

#[tokio::test]
async fn a_stream_that_stalls_is_cut() {
    // The first piece has come long before.
    for limit in ["idle: 1s", "request: 3s"] {
        let model = Backend::named("model").does(Script::by_hand()).start();
        let proxy = Proxy::to(&model, &timeouts(limit)).start();
        let mut wire = proxy.client().begin(Request::get("/").bytes()).await;
        let mut call = model.next_call().await;
        call.begin_stream().await;
        call.chunk("data: 1\n\n").await;
        let head = within("a head", wire.head()).await.unwrap();
        let (data, end) = within("the end", wire.body(&mut Body::of_response(&head, "GET"))).await;
        assert_eq!((&*data, end), (&b"data: 1\n\n"[..], End::Cut), "{limit}");
        call.closed().await;
    }
}

#[tokio::test]
async fn a_client_that_stalls_is_told_so_and_nobody_is_blamed() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = Proxy::to(&model, &timeouts("idle: 200ms")).start();
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf";
    let mut wire = proxy.client().begin(head).await;
    let mut call = model.next_call().await;
    assert_eq!(within("a head", wire.head()).await.unwrap().status(), 408);
    assert!(call.broken_body().await.is_some());
    let labels = [("code", "408"), ("outcome", "neutral")];
    let metrics = proxy.metrics().await;
    assert!((metrics.value("serin_attempts_total", &labels) - 1.0).abs() < 0.1);
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_still_sends() {
    let model = Backend::named("model").does(Script::answers_early(413)).start();
    let proxy = Proxy::to(&model, "").start();
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nhalf";
    let mut wire = proxy.client().begin(head).await;
    assert_eq!(within("a head", wire.head()).await.unwrap().status(), 413);
}

#[tokio::test]
async fn requests_that_could_be_read_in_two_ways_are_refused() {
    let model = Backend::named("model").start();
    let proxy = Proxy::to(&model, "").start();
    for fields in [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: +5\r\n",
        "content-length: 5, 6\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: gzip\r\n",
        "bad name: x\r\n",
        "folded: x\r\n y\r\n",
        "x: a\0b\r\n",
    ] {
        let request = format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n0\r\n\r\n");
        let mut wire = proxy.client().begin(request).await;
        let head = within("a head", wire.head()).await;
        let status = head.map_or(400, |head| head.status());
        assert_eq!(status, 400, "{fields:?}");
        within("the end", wire.rest()).await;
    }
    assert_eq!(model.requests(), 0);
}

#[tokio::test]
async fn an_error_event_in_a_stream_is_bad_whatever_its_status() {
    let model = Backend::named("model")
        .on("/error", stream_of(["data: a\n\neve", "nt: error\ndata: oom\n\n"]))
        .on("/openai", stream_of(["data: {\"error\": ", "{\"code\": 500}}\n\n"]))
        .on("/good", stream_of(["data: error\n\n", "data: [DONE]\n\n"]))
        .start();
    let proxy = Proxy::to(&model, "").start();
    for (path, bad) in [("/good", 0.0), ("/error", 1.0), ("/openai", 2.0)] {
        proxy.get(path).await.expect(200);
        eventually("it is counted", async || {
            let metrics = proxy.metrics().await;
            let value = |outcome| metrics.value("serin_attempts_total", &[("outcome", outcome)]);
            (value("bad") + value("good") > bad + 0.5)
                .then(|| assert!((value("bad") - bad).abs() < 0.5))
        })
        .await;
    }
}

fn stream_of(pieces: [&str; 2]) -> Script {
    Script::chunks(pieces).header("content-type", "text/event-stream")
}
