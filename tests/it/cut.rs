//! `streams_on_rollback`: what becomes of answers under way when their version is taken out.

use http::Request as HttpRequest;
use http_body_util::BodyExt;
use serin_testkit::{
    Backend, Body, Call, End, Head, Proxy, Request, Script, Streamed, Wire, eventually, within,
};

const V2: &str = "sentiment-v2";
const PATH: &str = "/v2/models/sentiment/infer";

/// All requests go to the canary, which the test answers.
fn canary(streams: &str) -> (Backend, Backend, Proxy) {
    let v1 = Backend::named("v1").start();
    let v2 = Backend::named("v2").does(Script::by_hand()).start();
    let line = "    canary: sentiment-v2\n";
    let proxy = Proxy::with_config("canary.yaml")
        .replace(line, &format!("{line}    streams_on_rollback: {streams}\n"))
        .replace("weight: 90", "weight: 0")
        .backends([&v1, &v2])
        .start();
    (v1, v2, proxy)
}

async fn begun(proxy: &Proxy, v2: &Backend, head: &str) -> (Wire, Call, Head, Body) {
    let mut wire = proxy.client().begin(Request::get(PATH).bytes()).await;
    let mut call = v2.next_call().await;
    call.say(head).await;
    let head = within("a head", wire.head()).await.unwrap();
    let body = Body::of_response(&head, "GET");
    (wire, call, head, body)
}

async fn take_out(proxy: &Proxy) {
    proxy.rollout(V2).ask("abort").await.expect(200);
}

const EVENTS: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test]
async fn an_event_stream_that_is_cut_ends_with_an_event_that_says_so() {
    for (said, start) in [("data: 1\n\n", "event: error\n"), ("data: ha", "\nevent: error\n")] {
        let (_v1, v2, proxy) = canary("cut");
        let (mut wire, mut call, _, mut body) = begun(&proxy, &v2, EVENTS).await;
        call.chunk(said).await;
        let first = within("an event", wire.piece(&mut body)).await.unwrap().unwrap();
        assert_eq!(first, said.as_bytes());
        take_out(&proxy).await;
        let (last, end) = within("the end", wire.body(&mut body)).await;
        let last = String::from_utf8(last).unwrap();
        assert_eq!(end, End::Whole);
        assert!(last.starts_with(start), "{last:?}");
        assert!(last.contains("\"type\":\"rolled_back\"") && last.ends_with("}\n\n"), "{last:?}");
        call.closed().await;
        // Nobody is blamed for it.
        let metrics = proxy.metrics().await;
        assert!(metrics.value("serin_attempts_total", &[("outcome", "bad")]).abs() < 0.1);
        assert!(metrics.value("serin_requests_in_flight", &[]).abs() < 0.1);
    }
}

#[tokio::test]
async fn what_cannot_be_told_is_cut_and_never_ends_cleanly() {
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n4\r\n{\"a\"\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{\"a\"",
    ] {
        let (_v1, v2, proxy) = canary("cut");
        let (mut wire, mut call, _, mut body) = begun(&proxy, &v2, head).await;
        within("a piece", wire.piece(&mut body)).await.unwrap().unwrap();
        take_out(&proxy).await;
        let (_, end) = within("the end", wire.body(&mut body)).await;
        assert_eq!(end, End::Cut);
        call.closed().await;
    }
}

#[tokio::test]
async fn a_websocket_that_is_cut_gets_a_close_frame_between_two_frames() {
    let (_v1, v2, proxy) = canary("cut");
    let ask = format!(
        "GET {PATH} HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let mut wire = proxy.client().begin(ask).await;
    let mut call = v2.next_call().await;
    let grant = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
                 sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    call.say(grant).await;
    assert_eq!(within("a head", wire.head()).await.unwrap().status(), 101);
    // Half of a frame: what follows is waited for.
    call.say(b"\x81\x02h").await;
    call.say(b"i").await;
    assert_eq!(within("a frame", wire.raw(4)).await, b"\x81\x02hi");
    take_out(&proxy).await;
    let close = within("a close frame", wire.rest()).await;
    assert_eq!(close[..4], [0x88, close.len() as u8 - 2, 0x03, 0xf4], "{close:?}");
    call.closed().await;
}

#[tokio::test]
async fn a_stream_of_grpc_that_is_cut_ends_with_a_status() {
    let (_v1, v2, proxy) = canary("cut");
    let mut client = proxy.http2().await;
    let request = HttpRequest::post(format!("http://a{PATH}"));
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    let request = request.body(Streamed::of("")).unwrap();
    let asked = tokio::spawn(async move { client.send(request).await });
    let mut call = v2.next_call().await;
    call.say(
        "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n\
         7\r\n\0\0\0\0\x02hi\r\n",
    )
    .await;
    let mut answer = within("a head", asked).await.unwrap().unwrap().into_body();
    let first = within("a message", answer.frame()).await.unwrap().unwrap();
    assert_eq!(&first.into_data().unwrap()[..], b"\0\0\0\0\x02hi");
    take_out(&proxy).await;
    let rest = within("the end", answer.collect()).await.unwrap();
    assert_eq!(rest.trailers().unwrap()["grpc-status"], "14");
    call.closed().await;
}

#[tokio::test]
async fn streams_that_are_to_finish_do_and_new_requests_go_to_stable() {
    let (v1, v2, proxy) = canary("finish");
    let (mut wire, mut call, _, mut body) = begun(&proxy, &v2, EVENTS).await;
    call.chunk("data: 1\n\n").await;
    within("an event", wire.piece(&mut body)).await.unwrap().unwrap();
    take_out(&proxy).await;
    eventually("stable serves", async || {
        (proxy.get(PATH).await.expect(200).text() == "v1").then_some(())
    })
    .await;
    assert!(v1.requests() > 0);
    call.chunk("data: 2\n\n").await;
    call.end_stream().await;
    let (rest, end) = within("the end", wire.body(&mut body)).await;
    assert_eq!((&*rest, end), (&b"data: 2\n\n"[..], End::Whole));
}

#[tokio::test]
async fn stables_streams_are_never_cut() {
    let v1 = Backend::named("v1").does(Script::by_hand()).start();
    let v2 = Backend::named("v2").start();
    let line = "    canary: sentiment-v2\n";
    let proxy = Proxy::with_config("canary.yaml")
        .replace(line, &format!("{line}    streams_on_rollback: cut\n"))
        .replace("weight: 10", "weight: 0")
        .backends([&v1, &v2])
        .start();
    let (mut wire, mut call, _, mut body) = begun(&proxy, &v1, EVENTS).await;
    take_out(&proxy).await;
    call.chunk("data: 1\n\n").await;
    call.end_stream().await;
    let (rest, end) = within("the end", wire.body(&mut body)).await;
    assert_eq!((&*rest, end), (&b"data: 1\n\n"[..], End::Whole));
}

#[tokio::test]
async fn an_answer_that_is_no_stream_and_begins_after_the_end_of_its_version_is_whole() {
    let (_v1, v2, proxy) = canary("cut");
    let mut wire = proxy.client().begin(Request::get(PATH).bytes()).await;
    let mut call = v2.next_call().await;
    take_out(&proxy).await;
    call.say("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").await;
    let head = within("a head", wire.head()).await.unwrap();
    let (body, end) = within("a body", wire.body(&mut Body::of_response(&head, "GET"))).await;
    assert_eq!((body.as_slice(), end), (&b"late"[..], End::Whole));
}
