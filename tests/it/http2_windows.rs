//! What waits for a window, and what does not: ends, trailers, resets and time limits.

use std::time::Duration;

use bytes::Bytes;
use http::Request as HttpRequest;
use http_body_util::BodyExt;
use serin_testkit::{
    Backend, Body, End, FrameListener, Frames, Proxy, Request, Script, Streamed, eventually,
    fields, flag, kind, request_fields, setting, within,
};

use crate::http2_endpoints::{answer, before, request};

const INITIAL_WINDOW_SIZE: u16 = 4;
const CANCEL: u32 = 8;

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

/// A client whose streams have windows of so many bytes.
async fn narrow(proxy: &Proxy, window: u32) -> Frames {
    let mut client = Frames::connect(proxy.address()).await;
    client.send(kind::SETTINGS, 0, 0, &setting(INITIAL_WINDOW_SIZE, window)).await;
    client
}

#[tokio::test]
async fn the_end_of_an_answer_waits_for_no_window() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = Proxy::to(&model, "").start();
    let (end, trailers) = ("0\r\n\r\n", "0\r\nx-t: 1\r\n\r\n");
    for (window, data, rest, last) in [
        (5, "5\r\nhello\r\n", end, kind::DATA),
        (5, "5\r\nhello\r\n", trailers, kind::HEADERS),
        (0, "", end, kind::DATA),
        (0, "", trailers, kind::HEADERS),
    ] {
        let mut client = narrow(&proxy, window).await;
        let asked = [request_fields("GET", "/"), fields([("te", "trailers")])].concat();
        client.send(kind::HEADERS, flag::END_STREAM | flag::END_HEADERS, 1, &asked).await;
        let mut call = model.next_call().await;
        call.say(format!("{CHUNKED}{data}")).await;
        client.until(kind::HEADERS).await;
        call.say(rest).await;
        let frame = loop {
            let frame = client.next().await.expect("the end of the stream");
            if frame.kind == kind::RST_STREAM || frame.ends_stream() {
                break frame;
            }
        };
        assert_eq!(frame.kind, last, "window {window}, then {rest:?}");
    }
}

#[tokio::test]
async fn the_end_of_a_request_waits_for_no_window() {
    for (window, text) in [(5, "hello"), (0, "")] {
        let endpoint = FrameListener::bind().await;
        let proxy = before(endpoint.address, "");
        let mut client = Frames::connect(proxy.address()).await;
        client.send(kind::HEADERS, flag::END_HEADERS, 1, &request_fields("POST", "/")).await;
        let mut connection = endpoint.accept(&setting(INITIAL_WINDOW_SIZE, window)).await;
        let stream = request(&mut connection).await;
        if !text.is_empty() {
            client.send(kind::DATA, 0, 1, text.as_bytes()).await;
            assert_eq!(connection.until(kind::DATA).await.payload, text.as_bytes());
        }
        client.send(kind::DATA, flag::END_STREAM, 1, b"").await;
        let last = connection.until(kind::DATA).await;
        assert!(last.ends_stream() && last.payload.is_empty(), "{last:?}");
        answer(&mut connection, stream, "got it").await;
        client.until(kind::DATA).await;
    }
}

/// How much of an answer is with the client is told by the windows that it opens.
#[tokio::test]
async fn who_takes_a_little_at_a_time_is_not_idle() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = Proxy::to(&model, "timeouts: { idle: 3s }").start();
    let mut client = narrow(&proxy, 0).await;
    client.get(1, "/").await;
    let mut call = model.next_call().await;
    let piece = "x".repeat(10_000);
    call.say(CHUNKED).await;
    for _ in 0..2 {
        call.chunk(&piece).await;
    }
    client.until(kind::HEADERS).await;
    // What paces the client, for longer than the limit; nobody waits for it to have happened.
    let mut pace = tokio::time::interval(Duration::from_millis(250));
    for _ in 0..16 {
        pace.tick().await;
        client.send(kind::WINDOW_UPDATE, 0, 1, &10u32.to_be_bytes()).await;
        assert_eq!(client.next().await.expect("a frame").payload.len(), 10);
    }
}

#[tokio::test]
async fn a_limit_of_the_whole_passes_however_much_there_is_to_say() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = Proxy::to(&model, "timeouts: { request: 700ms }").start();
    for reads in [false, true] {
        let mut wire = proxy.client().begin(Request::get("/").bytes()).await;
        let mut call = model.next_call().await;
        call.begin_stream().await;
        let saying = tokio::spawn(async move {
            let piece = "x".repeat(64 << 10);
            let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
            // Up to the end of the connection, whether it can be written or not.
            loop {
                call.say_or_end(&chunk).await?;
            }
            #[expect(unreachable_code, reason = "it tells the type")]
            Some(())
        });
        if reads {
            let head = within("a head", wire.head()).await.unwrap();
            let mut body = Body::of_response(&head, "GET");
            assert_eq!(within("the end", wire.body(&mut body)).await.1, End::Cut);
        }
        within("the endpoint is let go", saying).await.unwrap();
    }
    // Whether the endpoint has said all or not.
    for ended in [false, true] {
        let mut client = narrow(&proxy, 0).await;
        client.get(1, "/").await;
        let mut call = model.next_call().await;
        call.begin_stream().await;
        call.chunk("more than there is room for").await;
        if ended {
            call.end_stream().await;
        }
        let reset = client.until(kind::RST_STREAM).await;
        assert_eq!(reset.code(), CANCEL);
    }
}

/// Each window that is sent for by itself costs an entry in a queue.
#[tokio::test]
async fn a_client_that_opens_its_window_byte_by_byte_gets_all_of_it() {
    let text = "x".repeat(5_000);
    let model = Backend::named("model").does(Script::answers(200).body(text.clone())).start();
    let proxy = Proxy::to(&model, "").start();
    let mut client = narrow(&proxy, 0).await;
    client.get(1, "/").await;
    client.until(kind::HEADERS).await;
    let mut body = Vec::new();
    while body.len() < text.len() {
        client.send(kind::WINDOW_UPDATE, 0, 1, &10u32.to_be_bytes()).await;
        let frame = client.next().await.expect("a frame");
        assert_eq!((frame.kind, frame.payload.len()), (kind::DATA, 10));
        body.extend_from_slice(&frame.payload);
    }
    assert!(body == text.as_bytes());
}

#[tokio::test]
async fn trailers_of_which_none_is_left_are_an_end() {
    let endpoint = FrameListener::bind().await;
    let proxy = before(endpoint.address, "");
    let mut client = Frames::connect(proxy.address()).await;
    client.get(1, "/").await;
    let mut connection = endpoint.accept(&[]).await;
    let stream = request(&mut connection).await;
    connection.send(kind::HEADERS, flag::END_HEADERS, stream, &[0x88]).await;
    connection.send(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &[]).await;
    let last = client.until(kind::DATA).await;
    assert!(last.ends_stream() && last.payload.is_empty(), "{last:?}");
}

/// The client may have more to say: that it has not is nobody's fault.
#[tokio::test]
async fn a_deadline_of_grpc_is_told_in_trailers_while_the_client_speaks() {
    let endpoint = FrameListener::bind().await;
    let proxy = before(endpoint.address, "");
    let mut client = proxy.http2().await;
    let (says, body) = Streamed::new();
    says.send(Bytes::from_static(b"\0\0\0\0\x01x")).await.unwrap();
    let call = HttpRequest::post("http://models.example.com/s/Talk")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "1S");
    let asking = tokio::spawn(async move { client.send(call.body(body).unwrap()).await });
    let mut connection = endpoint.accept(&[]).await;
    let stream = request(&mut connection).await;
    let head = [&[0x88][..], &fields([("content-type", "application/grpc")])].concat();
    connection.send(kind::HEADERS, flag::END_HEADERS, stream, &head).await;
    connection.send(kind::DATA, 0, stream, b"\0\0\0\0\x01y").await;
    let body = asking.await.unwrap().unwrap().into_body();
    let body = within("the end", body.collect()).await.unwrap();
    let status = body.trailers().map(|fields| fields["grpc-status"].clone());
    assert_eq!(status, Some("4".parse().unwrap()));
    assert_eq!(connection.until(kind::RST_STREAM).await.code(), CANCEL);
    drop(says);
    eventually("it is counted, and not against the endpoint", async || {
        let labels = [("backend", "model"), ("outcome", "neutral")];
        (proxy.metrics().await.value("serin_attempts_total", &labels) > 0.5).then_some(())
    })
    .await;
}

/// Fields in as many frames as it takes.
async fn send_fields(frames: &mut Frames, stream: u32, block: &[u8]) {
    let mut pieces = block.chunks(16_000).peekable();
    let mut first = Some(flag::END_STREAM);
    while let Some(piece) = pieces.next() {
        let end = if pieces.peek().is_none() { flag::END_HEADERS } else { 0 };
        let (kind, flags) =
            first.take().map_or((kind::CONTINUATION, end), |ends| (kind::HEADERS, ends | end));
        frames.send(kind, flags, stream, piece).await;
    }
}

#[tokio::test]
async fn trailers_that_are_too_large_are_no_end() {
    let long = "v".repeat(1000);
    let many: Vec<_> = (0..130).map(|index| (format!("x-{index}"), long.clone())).collect();
    let large =
        vec![("x-a".to_owned(), "v".repeat(40_000)), ("x-b".to_owned(), "v".repeat(40_000))];
    for trailers in [many, large] {
        let all = trailers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let block = fields(all.chain([("grpc-status", "13")]));
        let endpoint = FrameListener::bind().await;
        let proxy = before(endpoint.address, "");
        // To clients of either version.
        let asked = Request::get("/").header("te", "trailers").bytes();
        let mut wire = proxy.client().begin(asked).await;
        let mut connection = endpoint.accept(&[]).await;
        let stream = request(&mut connection).await;
        connection.send(kind::HEADERS, flag::END_HEADERS, stream, &[0x88]).await;
        send_fields(&mut connection, stream, &block).await;
        let head = within("a head", wire.head()).await.unwrap();
        let mut body = Body::of_response(&head, "GET");
        assert_eq!(within("the end", wire.body(&mut body)).await.1, End::Cut);
        let mut client = Frames::connect(proxy.address()).await;
        client.get(1, "/").await;
        let stream = request(&mut connection).await;
        connection.send(kind::HEADERS, flag::END_HEADERS, stream, &[0x88]).await;
        send_fields(&mut connection, stream, &block).await;
        client.until(kind::RST_STREAM).await;
    }
}

#[tokio::test]
async fn trailers_of_a_request_that_are_too_large_are_no_end() {
    let long = "v".repeat(1000);
    let names: Vec<_> = (0..130).map(|index| format!("x-{index}")).collect();
    let block = fields(names.iter().map(|name| (name.as_str(), long.as_str())));
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = Proxy::to(&model, "").start();
    let mut client = Frames::connect(proxy.address()).await;
    client.send(kind::HEADERS, flag::END_HEADERS, 1, &request_fields("POST", "/")).await;
    client.send(kind::DATA, 0, 1, b"abc").await;
    let mut call = model.next_call().await;
    send_fields(&mut client, 1, &block).await;
    assert!(call.broken_body().await.is_some());
}

#[tokio::test]
async fn a_host_that_http2_has_not_is_no_other_host() {
    let endpoint = FrameListener::bind().await;
    let proxy = before(endpoint.address, "");
    let asking = tokio::spawn(async move {
        let answer = proxy.send(&Request::get("/").host("a%41.test")).await;
        (answer.status, proxy)
    });
    let connection = endpoint.accept(&[]).await;
    assert_eq!(asking.await.unwrap().0, 400);
    drop(connection);
}
