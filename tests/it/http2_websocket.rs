//! WebSocket over HTTP/2 (RFC 8441): to the endpoint it is an upgrade of HTTP/1.1, or extended
//! CONNECT where that speaks HTTP/2.

use std::net::SocketAddr;

use bytes::Bytes;
use serin_testkit::{Backend, Frames, Proxy, Script, fields, flag, kind, within};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

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
    assert_eq!((head.kind, head.status(), head.ends_stream()), (kind::HEADERS, 200, false));
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
        assert_eq!(client.until(kind::HEADERS).await.status(), told);
    }
    let model = Backend::named("model").start();
    let proxy = Proxy::to(&model, "").start();
    let mut client = ask(&proxy, "connect-udp").await;
    assert_eq!(client.until(kind::HEADERS).await.status(), 501);
    assert_eq!(model.requests(), 0);
}

/// A proxy before an endpoint that speaks HTTP/2 alone.
fn before(endpoint: SocketAddr) -> Proxy {
    Proxy::with_yaml(&format!(
        "listeners: [{{ name: http, address: 127.0.0.1:8080 }}]\n\
         admin: {{ address: 127.0.0.1:9901 }}\n\
         backends: [{{ name: model, protocol: http2, endpoints: [\"{endpoint}\"] }}]\n\
         routes: [{{ name: r, rules: [{{ name: main, backends: [{{ name: model }}] }}] }}]\n"
    ))
    .start()
}

/// An endpoint that takes extended CONNECT if `takes`, answers it with `status`, and echoes what
/// then comes, to its end. What it was asked.
async fn echoing(takes: bool, status: u16) -> (SocketAddr, mpsc::Receiver<http::request::Parts>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, asked) = mpsc::channel(10);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                if takes {
                    builder.enable_connect_protocol();
                }
                let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let (head, mut body) = request.into_parts();
                    told.send(head).await.unwrap();
                    let response = http::Response::builder().status(status);
                    let response = response.header("sec-websocket-protocol", "chat");
                    let agrees = status == 200;
                    let mut sending =
                        respond.send_response(response.body(()).unwrap(), !agrees).unwrap();
                    tokio::spawn(async move {
                        while let Some(Ok(piece)) = body.data().await {
                            body.flow_control().release_capacity(piece.len()).unwrap();
                            sending.send_data(piece, false).unwrap();
                        }
                        if agrees {
                            sending.send_data(Bytes::from_static(b"bye"), true).unwrap();
                        }
                    });
                }
            });
        }
    });
    (address, asked)
}

const UPGRADE: &str = "GET /chat?x=1 HTTP/1.1\r\nHost: models.example.com\r\n\
     Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test]
async fn an_endpoint_of_http2_is_asked_by_extended_connect() {
    let (endpoint, mut asked) = echoing(true, 200).await;
    let proxy = before(endpoint);
    // Twice: over a connection that is new, and over one that is there.
    for _ in 0..2 {
        let mut client = proxy.client().begin(format!("{UPGRADE}early")).await;
        let head = within("the head", client.head()).await.unwrap();
        assert_eq!((head.status(), head.field("upgrade").as_deref()), (101, Some("websocket")));
        assert_eq!(head.field("connection").as_deref(), Some("upgrade"));
        assert_eq!(
            head.field("sec-websocket-accept").as_deref(),
            Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        );
        assert_eq!(head.field("sec-websocket-protocol").as_deref(), Some("chat"));
        assert!(head.field("content-length").is_none());
        assert_eq!(within("early", client.raw(5)).await, b"early");
        client.send("\0\x01\x02").await.unwrap();
        assert_eq!(within("bytes", client.raw(3)).await, b"\0\x01\x02");
        // The client ends its side, then the endpoint the other one.
        client.close_writing().await;
        assert_eq!(within("the rest", client.rest()).await, b"bye");
        let head = asked.recv().await.unwrap();
        let protocol = head.extensions.get::<h2::ext::Protocol>().map(h2::ext::Protocol::as_str);
        assert_eq!((head.method.as_str(), protocol), ("CONNECT", Some("websocket")));
        assert_eq!(head.uri, "http://models.example.com/chat?x=1");
        assert_eq!(head.headers["sec-websocket-version"], "13");
        for name in ["upgrade", "connection", "sec-websocket-key", "transfer-encoding"] {
            assert!(!head.headers.contains_key(name), "{name}");
        }
    }
}

#[tokio::test]
async fn bytes_pass_between_two_sides_of_http2() {
    let (endpoint, mut asked) = echoing(true, 200).await;
    let proxy = before(endpoint);
    let mut client = ask(&proxy, "websocket").await;
    client.send(kind::DATA, 0, 1, b"early").await;
    let head = client.until(kind::HEADERS).await;
    assert_eq!((head.status(), head.ends_stream()), (200, false));
    assert_eq!(client.until(kind::DATA).await.payload, b"early");
    client.send(kind::DATA, flag::END_STREAM, 1, b"all").await;
    let mut rest = Vec::new();
    loop {
        let piece = client.until(kind::DATA).await;
        rest.extend_from_slice(&piece.payload);
        if piece.ends_stream() {
            break;
        }
    }
    assert_eq!(rest, b"allbye");
    assert_eq!(asked.recv().await.unwrap().method, "CONNECT");
}

#[tokio::test]
async fn an_endpoint_of_http2_that_takes_no_websocket_is_not_asked() {
    let (endpoint, mut asked) = echoing(false, 200).await;
    let proxy = before(endpoint);
    let mut client = proxy.client().begin(UPGRADE).await;
    let head = within("the head", client.head()).await.unwrap();
    assert_eq!(head.status(), 501);
    let _ = proxy.get("/after").await.expect(200);
    // That one alone came.
    assert_eq!(asked.recv().await.unwrap().uri.path(), "/after");
}

#[tokio::test]
async fn what_an_endpoint_of_http2_answers_instead_is_passed_on() {
    let (endpoint, _asked) = echoing(true, 403).await;
    let proxy = before(endpoint);
    let next = "GET /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let mut client = proxy.client().begin(format!("{UPGRADE}{next}")).await;
    let text = String::from_utf8(within("both", client.rest()).await).unwrap();
    assert_eq!(text.matches("HTTP/1.1 403").count(), 2, "{text}");
}
