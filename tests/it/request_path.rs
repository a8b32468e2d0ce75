//! What arrives at the endpoint and what at the client, when nothing goes wrong.

use http::{Method, Request as HttpRequest, Version};
use http_body_util::BodyExt;
use serin_testkit::{
    Backend, Body, Broken, Client, End, Proxy, Request, Script, Streamed, Wire, eventually, within,
};

fn model() -> Backend {
    Backend::named("model").start()
}

/// A proxy that sends everything to `model`.
fn before(model: &Backend) -> Proxy {
    Proxy::to(model, "").start()
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let model = model();
    let proxy = before(&model);
    let mut client = proxy.client();
    for n in 0..20 {
        let request = Request::post("/predict", format!("{n}"));
        assert_eq!(client.send(&request).await.expect(200).text(), "model");
    }
    assert_eq!((model.requests(), model.connections()), (20, 1));
    // The client's was kept as well: only a closed one is opened anew, by a new worker
    // perhaps, with a connection of its own.
    let bodies: Vec<_> = model.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies, (0..20).map(|n| format!("{n}").into_bytes()).collect::<Vec<_>>());
}

#[tokio::test]
async fn both_bodies_go_on_piece_by_piece_as_they_come() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = before(&model);
    let head = "POST /chat HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n";
    let mut client = proxy.client().begin(head).await;
    let mut call = model.next_call().await;
    // Each piece is there before the next is sent.
    assert_eq!(call.piece().await.as_deref(), Some("one"));
    client.send("3\r\ntwo\r\n").await.unwrap();
    assert_eq!(call.piece().await.as_deref(), Some("two"));
    // The answer begins while the question goes on.
    call.begin_stream().await;
    let head = within("the head", client.head()).await.unwrap();
    assert_eq!(head.status(), 200);
    let mut body = Body::of_response(&head, "POST");
    for text in ["data: a\n\n", "data: b\n\n"] {
        call.chunk(text).await;
        let piece = within("a piece", client.piece(&mut body)).await.unwrap();
        assert_eq!(piece.as_deref(), Some(text.as_bytes()));
    }
    client.send("5\r\nthree\r\n0\r\n\r\n").await.unwrap();
    assert_eq!(call.piece().await.as_deref(), Some("three"));
    assert_eq!(call.piece().await, None);
    call.end_stream().await;
    assert_eq!(within("the end", client.piece(&mut body)).await, Ok(None));
}

#[tokio::test]
async fn fields_for_one_hop_stay_on_it() {
    let model = Backend::named("model")
        .does(
            Script::answers(200)
                .header("Connection", "keep-alive, X-Hop")
                .header("X-Hop", "1")
                .header("Keep-Alive", "timeout=5")
                .header("Proxy-Connection", "keep-alive")
                .header("X-Stays", "1")
                .header("Set-Cookie", "a=1")
                .header("Set-Cookie", "b=2"),
        )
        .start();
    let proxy = before(&model);
    let request = Request::get("/")
        .header("Connection", "close, x-hop, x-other")
        .header("X-Hop", "1")
        .header("X-Other", "1")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Connection", "keep-alive")
        .header("TE", "trailers, deflate")
        .header("Upgrade", "h2c")
        .header("X-Stays", "1")
        .header("Authorization", "Bearer t");
    let answer = proxy.send(&request).await.expect(200);
    let seen = model.last();
    for name in ["x-hop", "x-other", "keep-alive", "proxy-connection", "upgrade"] {
        assert_eq!(seen.head.field(name), None, "{name} at the endpoint");
    }
    assert_eq!(seen.header("te"), "trailers");
    assert!(!seen.header("connection").contains("close"), "the client's wish, not ours");
    assert_eq!(
        (seen.header("x-stays"), seen.header("authorization")),
        ("1".into(), "Bearer t".into())
    );
    for name in ["x-hop", "keep-alive", "proxy-connection"] {
        assert_eq!(answer.header(name), None, "{name} at the client");
    }
    assert_eq!(answer.header("x-stays").as_deref(), Some("1"));
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    let cookies = answer.head.fields.iter().filter(|(name, _)| name == "set-cookie");
    assert_eq!(cookies.map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["a=1", "b=2"]);
}

#[tokio::test]
async fn a_client_that_leaves_is_felt_by_the_endpoint_that_thinks() {
    let model = Backend::named("model").does(Script::hangs()).start();
    let proxy = before(&model);
    let client = proxy.client().begin(Request::post("/", "question").bytes()).await;
    model.saw(1).await;
    drop(client);
    eventually("the endpoint feels it", async || (model.gone() == 1).then_some(())).await;
    // It was nobody's fault.
    let labels = [("outcome", "neutral"), ("code", "499")];
    eventually("it is counted", async || {
        let metrics = proxy.metrics().await;
        (metrics.value("serin_attempts_total", &labels) > 0.5).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_is_felt_by_the_endpoint_that_streams() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = before(&model);
    let mut client = proxy.client().begin(Request::get("/").bytes()).await;
    let mut call = model.next_call().await;
    call.begin_stream().await;
    call.chunk("data: 1\n\n").await;
    let head = within("the head", client.head()).await.unwrap();
    within("a piece", client.piece(&mut Body::of_response(&head, "GET"))).await.unwrap();
    drop(client);
    call.closed().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_felt_by_the_endpoint_that_reads() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = before(&model);
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf";
    let client = proxy.client().begin(head).await;
    let mut call = model.next_call().await;
    assert_eq!(call.piece().await.as_deref(), Some("half"));
    drop(client);
    // Half a body must never look like a whole one.
    assert_eq!(call.broken_body().await, Some(Broken::Cut));
}

#[tokio::test]
async fn a_cancelled_http2_stream_is_felt_by_the_endpoint_and_by_no_other_stream() {
    let model = Backend::named("model").on("/hang", Script::hangs()).start();
    let proxy = before(&model);
    let mut client = proxy.http2().await;
    let mut other = client.clone();
    let hanging = tokio::spawn(async move { other.send(http2_request("/hang")).await });
    eventually("it hangs", async || (model.requests() == 1).then_some(())).await;
    hanging.abort();
    eventually("the endpoint feels it", async || (model.gone() == 1).then_some(())).await;
    assert_eq!(client.exchange(http2_request("/other")).await.body(), "model");
}

fn http2_request(path: &str) -> HttpRequest<Streamed> {
    http2_with(Method::GET, path, "")
}

fn http2_with(method: Method, path: &str, body: &str) -> HttpRequest<Streamed> {
    let uri = format!("http://models.example.com{path}");
    let request = HttpRequest::builder().method(method).uri(uri);
    request.body(Streamed::of(body.to_owned())).unwrap()
}

#[tokio::test]
async fn who_asked_and_by_what_name_is_kept_or_made() {
    let model = model();
    let proxy = before(&model);
    proxy.get("/").await.expect(200);
    let made = model.last();
    assert_eq!(made.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!(made.header("x-forwarded-proto"), "http");
    assert_eq!(made.header("x-forwarded-host"), "models.example.com");
    assert_eq!(made.header("host"), "models.example.com");
    assert_eq!(made.header("x-request-id").len(), 36);
    assert_eq!(made.header("traceparent").len(), 55);

    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = Request::get("/")
        .header("x-request-id", "mine-1")
        .header("traceparent", parent)
        .header("tracestate", "vendor=1")
        .header("x-forwarded-for", "192.0.2.1, 192.0.2.2")
        .header("x-forwarded-proto", "https");
    proxy.send(&request).await.expect(200);
    let kept = model.last();
    assert_eq!(kept.header("x-request-id"), "mine-1");
    assert_eq!(kept.header("traceparent"), parent);
    assert_eq!(kept.header("tracestate"), "vendor=1");
    assert_eq!(kept.header("x-forwarded-for"), "192.0.2.1, 192.0.2.2, 127.0.0.1");
    assert_eq!(kept.header("x-forwarded-proto"), "https, http");

    // What cannot be a name is replaced, not passed on.
    let request =
        Request::get("/").header("x-request-id", &"x".repeat(500)).header("traceparent", "00-zero");
    proxy.send(&request).await.expect(200);
    assert_eq!(model.last().header("x-request-id").len(), 36);
    assert_eq!(model.last().header("traceparent").len(), 55);
    assert_ne!(model.last().header("x-request-id"), made.header("x-request-id"));
}

#[tokio::test]
async fn answers_without_a_body_have_none_and_the_connection_goes_on() {
    let model = Backend::named("model")
        .on("/no-content", Script::answers(204))
        .on("/not-modified", Script::answers(304).header("etag", "\"1\""))
        .on("/empty", Script::answers(200).body(""))
        .start();
    let proxy = before(&model);
    let mut client = proxy.client();
    for (method, target, status, length) in [
        ("HEAD", "/", 200, Some("5")),
        ("GET", "/no-content", 204, None),
        ("GET", "/not-modified", 304, None),
        ("GET", "/empty", 200, Some("0")),
        ("HEAD", "/empty", 200, Some("0")),
        ("DELETE", "/no-content", 204, None),
        ("OPTIONS", "/", 200, Some("5")),
    ] {
        let answer = client.send(&Request::new(method, target)).await.expect(status);
        assert_eq!(answer.header("content-length").as_deref(), length, "{method} {target}");
        let wanted = if (method, length) == ("OPTIONS", Some("5")) { "model" } else { "" };
        assert_eq!(answer.text(), wanted, "{method} {target}");
    }
    assert_eq!(model.connections(), 1);
}

#[tokio::test]
async fn bodies_arrive_as_they_were_sent() {
    let model = model();
    let proxy = before(&model);
    let mut client = proxy.client();
    let large: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
    for (what, request, body) in [
        ("a GET with a body", Request::get("/").body("q"), b"q".as_slice()),
        ("a DELETE with a body", Request::new("DELETE", "/").body("q"), b"q"),
        ("an empty POST", Request::post("/", ""), b""),
        ("a chunked POST", Request::post("/", "0123").chunked(), b"0123"),
        ("a chunked GET", Request::get("/").body("0123").chunked(), b"0123"),
        ("a large POST", Request::post("/", large.clone()), &large),
        ("a large chunked PUT", Request::new("PUT", "/").body(large.clone()).chunked(), &large),
    ] {
        client.send(&request).await.expect(200);
        let seen = model.last();
        assert!(seen.body == body, "{what}: {} bytes of {}", seen.body.len(), body.len());
        assert_eq!(seen.end, End::Whole, "{what}");
        let framing = (seen.head.field("content-length"), seen.head.field("transfer-encoding"));
        assert!(framing.0.is_none() || framing.1.is_none(), "{what}: two framings");
    }
}

#[tokio::test]
async fn large_answers_arrive_as_they_were_sent() {
    let large: Vec<u8> = (0..5_000_000u32).map(|n| (n % 249) as u8).collect();
    let model = Backend::named("model").does(Script::answers(200).body(large.clone())).start();
    let proxy = before(&model);
    let mut client = proxy.client();
    for _ in 0..3 {
        assert!(client.get("/").await.expect(200).body == large);
    }
}

#[tokio::test]
async fn trailers_come_through() {
    let script = Script::chunks(["a", "b"]).header("trailer", "x-sum").trailer("x-sum", "7");
    let model = Backend::named("model").does(script).start();
    let proxy = before(&model);
    let request = Request::get("/").header("te", "trailers").header("connection", "te");
    let answer = proxy.send(&request).await.expect(200);
    assert_eq!(answer.text(), "ab");
    let mut client = proxy.http2().await;
    let answer = client.send(http2_request("/")).await.unwrap();
    let whole = within("a body", answer.into_body().collect()).await.unwrap();
    assert_eq!(whole.trailers().map(|fields| fields["x-sum"].clone()), Some("7".parse().unwrap()));
}

#[tokio::test]
async fn an_answer_that_the_end_of_the_connection_ends_is_whole() {
    let model = Backend::named("model").does(Script::says("HTTP/1.1 200 OK\r\n\r\nall of it"));
    let model = model.start();
    let proxy = before(&model);
    assert_eq!(proxy.get("/").await.expect(200).text(), "all of it");
    let old = Backend::named("old").does(Script::says("HTTP/1.0 200 OK\r\n\r\nold")).start();
    let proxy = before(&old);
    assert_eq!(proxy.get("/").await.expect(200).text(), "old");
}

#[tokio::test]
async fn http2_clients_are_served_many_streams_at_once() {
    let model = Backend::named("model").on("/slow", Script::by_hand()).start();
    let proxy = before(&model);
    let mut client = proxy.http2().await;
    let mut other = client.clone();
    let slow = tokio::spawn(async move { other.exchange(http2_request("/slow")).await });
    let mut call = model.next_call().await;
    for n in 0..50 {
        let body = format!("body {n}");
        let answer = client.exchange(http2_with(Method::POST, "/fast?x=1", &body)).await;
        assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));
        assert_eq!(answer.body(), "model");
        let seen = model.last();
        assert_eq!((seen.head.word(0), seen.target()), ("POST", "/fast?x=1"));
        assert_eq!(seen.header("host"), "models.example.com");
        assert_eq!(seen.body, body.as_bytes());
    }
    call.say("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow").await;
    assert_eq!(slow.await.unwrap().body(), "slow");
}

#[tokio::test]
async fn http2_streams_go_on_piece_by_piece_both_ways() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = before(&model);
    let mut client = proxy.http2().await;
    let (pieces, body) = Streamed::new();
    let request = HttpRequest::post("http://a/chat").body(body).unwrap();
    let answer = tokio::spawn(async move { client.send(request).await });
    pieces.send("one".into()).await.unwrap();
    let mut call = model.next_call().await;
    assert_eq!(call.piece().await.as_deref(), Some("one"));
    call.begin_stream().await;
    let mut answer = answer.await.unwrap().unwrap().into_body();
    for text in ["two", "three"] {
        pieces.send(text.into()).await.unwrap();
        assert_eq!(call.piece().await.as_deref(), Some(text));
        call.chunk(text).await;
        let frame = within("a piece", answer.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), text);
    }
    drop(pieces);
    assert_eq!(call.piece().await, None);
    call.end_stream().await;
    // Perhaps an empty frame with the mark of the end.
    let end = within("the end", answer.frame()).await.transpose().unwrap();
    let data = end.and_then(|frame| frame.into_data().ok()).unwrap_or_default();
    assert!(data.is_empty(), "{data:?}");
}

#[tokio::test]
async fn http2_bodies_of_megabytes_arrive() {
    let large = "0123456789".repeat(300_000);
    let model = Backend::named("model").does(Script::answers(200).body(large.as_bytes())).start();
    let proxy = before(&model);
    let mut client = proxy.http2().await;
    let answer = client.exchange(http2_with(Method::POST, "/", &large)).await;
    assert!(*answer.body() == large);
    assert!(model.last().body == large.as_bytes());
}

#[tokio::test]
async fn targets_are_resolved_before_they_are_forwarded() {
    let model = model();
    let proxy = before(&model);
    let mut client = proxy.client();
    for (sent, forwarded) in [
        ("/a/b?c=d", "/a/b?c=d"),
        ("/a/./b/../c", "/a/c"),
        ("/a/%2e%2E/b?x=../y", "/b?x=../y"),
        ("/a%2Fb/..", "/"),
        ("//a//b", "//a//b"),
        ("/a%20b", "/a%20b"),
        ("http://other.example.com/x?y", "/x?y"),
        ("http://other.example.com", "/"),
    ] {
        client.get(sent).await.expect(200);
        assert_eq!(model.last().target(), forwarded, "{sent}");
    }
    // In absolute form the target's host counts.
    assert_eq!(model.last().header("host"), "other.example.com");
    let count = model.requests();
    for sent in ["/..", "/a/../../etc/passwd", "/%2e%2e/x"] {
        let answer = proxy.get(sent).await.expect(400);
        assert_eq!(answer.header("content-type").as_deref(), Some("application/problem+json"));
    }
    assert_eq!(model.requests(), count);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let model = Backend::named("model").on("/a", Script::answers(200).body("a")).start();
    let proxy = before(&model);
    let both = [Request::get("/a").bytes(), Request::get("/b").bytes()].concat();
    let mut wire = proxy.client().begin(both).await;
    assert_eq!(answer(&mut wire).await, "a");
    assert_eq!(answer(&mut wire).await, "model");
}

async fn answer(wire: &mut Wire) -> String {
    let head = within("a head", wire.head()).await.unwrap();
    let (body, _) = within("a body", wire.body(&mut Body::of_response(&head, "GET"))).await;
    String::from_utf8(body).unwrap()
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_is_told_to_go_on() {
    let model = model();
    let proxy = before(&model);
    let head = "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    let mut wire = proxy.client().begin(head).await;
    let interim = within("an interim head", wire.head()).await.unwrap();
    assert_eq!(interim.status(), 100);
    wire.send("body").await.unwrap();
    assert_eq!(answer(&mut wire).await, "model");
    assert_eq!((model.last().body, model.last().head.field("expect")), (b"body".to_vec(), None));
}

#[tokio::test]
async fn http_1_0_clients_are_served() {
    let model = model();
    let proxy = before(&model);
    let mut wire = proxy.client().begin("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(answer(&mut wire).await, "model");
    assert!(within("the end", wire.rest()).await.is_empty());
    let mut wire = proxy.client().begin("GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(within("a head", wire.head()).await.unwrap().status(), 400);
}

#[tokio::test]
async fn two_listeners_serve_the_same_routes() {
    let model = model();
    let proxy = Proxy::to(&model, "")
        .replace(
            "[{ name: http, address: 127.0.0.1:8080 }]",
            "[{ name: a, address: 127.0.0.1:0 }, { name: b, address: '[::1]:0' }]",
        )
        .start();
    for address in proxy.addresses() {
        Client::of(address).get("/").await.expect(200);
    }
    assert_eq!(model.last().header("x-forwarded-for"), "::1");
}
