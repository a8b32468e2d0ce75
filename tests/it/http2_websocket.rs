//! WebSocket over HTTP/2 (RFC 8441): to the endpoint it is an upgrade of HTTP/1.1.

use serin_testkit::{Backend, Frames, Proxy, Script, fields, flag, kind, within};

const ENABLE_CONNECT_PROTOCOL: u16 = 8;

const GRANT: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n";

fn connect(protocol: &str) -> Vec<u8> {
    fields([
        (":method", "CONNECT"),
        (":protocol", protocol),
        (":scheme", "http"),
        (":path", "/chat?x=1"),
        (":authority", "models.example.com"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat"),
    ])
}

/// A client that asks for `protocol` on stream 1.
async fn ask(proxy: &Proxy, protocol: &str) -> Frames {
    let mut client = Frames::connect(proxy.address()).await;
    let settings = client.until(kind::SETTINGS).await;
    let on = [&ENABLE_CONNECT_PROTOCOL.to_be_bytes()[..], &1u32.to_be_bytes()].concat();
    assert!(settings.payload.chunks(6).any(|setting| setting == on), "{settings:?}");
    client.send(kind::HEADERS, flag::END_HEADERS, 1, &connect(protocol)).await;
    client
}

#[tokio::test]
async fn bytes_pass_both_ways_once_the_endpoint_has_agreed() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = Proxy::to(&model, "").start();
    let mut client = ask(&proxy, "websocket").await;
    client.send(kind::DATA, 0, 1, b"early").await;
    let mut call = model.next_call().await;
    assert_eq!(call.head.line, "GET /chat?x=1 HTTP/1.1");
    for (name, value) in [
        ("upgrade", "websocket"),
        ("connection", "upgrade"),
        ("host", "models.example.com"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat"),
    ] {
        assert_eq!(call.head.field(name).as_deref(), Some(value), "{name}");
    }
    let key = call.head.field("sec-websocket-key").unwrap();
    assert!(key.len() == 24 && key.ends_with("=="), "{key}");
    assert!(call.head.field("transfer-encoding").is_none());
    call.say(format!("{GRANT}hello")).await;
    let head = client.next().await.unwrap();
    // 0x88 is status 200.
    assert_eq!((head.kind, head.payload[0], head.ends_stream()), (kind::HEADERS, 0x88, false));
    assert_eq!(client.next().await.unwrap().payload, b"hello");
    assert_eq!(within("early", call.raw(5)).await, b"early");
    client.send(kind::DATA, 0, 1, b"\0\x01\x02").await;
    assert_eq!(within("bytes", call.raw(3)).await, b"\0\x01\x02");
    call.say("bye").await;
    assert_eq!(client.next().await.unwrap().payload, b"bye");
    // The client ends its side, then the endpoint the other one.
    client.send(kind::DATA, flag::END_STREAM, 1, b"").await;
    within("the end", call.closed()).await;
    drop(call);
    assert!(client.next().await.unwrap().ends_stream());
}

#[tokio::test]
async fn a_reset_is_felt_on_the_other_side() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = Proxy::to(&model, "").start();
    let mut client = ask(&proxy, "websocket").await;
    let mut call = model.next_call().await;
    call.say(GRANT).await;
    client.until(kind::HEADERS).await;
    client.send(kind::RST_STREAM, 0, 1, &8u32.to_be_bytes()).await;
    within("the endpoint feels it", call.closed()).await;
}

#[tokio::test]
async fn who_does_not_agree_is_not_taken_to_have_agreed() {
    // An answer that would mean success, and one that does not.
    for (status, told) in [(200, 502), (403, 403)] {
        let model = Backend::named("model").answers(status).start();
        let proxy = Proxy::to(&model, "").start();
        let mut client = ask(&proxy, "websocket").await;
        let head = client.until(kind::HEADERS).await;
        assert_ne!(head.payload[0], 0x88, "{told}");
    }
    let model = Backend::named("model").start();
    let proxy = Proxy::to(&model, "").start();
    let mut client = ask(&proxy, "connect-udp").await;
    assert_ne!(client.until(kind::HEADERS).await.payload[0], 0x88);
    assert_eq!(model.requests(), 0);
}
