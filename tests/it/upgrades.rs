//! Other protocols than HTTP behind an upgrade, and interim responses.

use serin_testkit::{Backend, Body, Proxy, Request, Script, eventually, within};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const GRANT: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn by_hand() -> (Backend, Proxy) {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = Proxy::to(&model, "").start();
    (model, proxy)
}

#[tokio::test]
async fn what_comes_behind_a_granted_upgrade_passes_both_ways_as_it_is() {
    let (model, proxy) = by_hand();
    // What the client says too early waits for the endpoint's word.
    let mut client = proxy.client().begin(format!("{ASK}early")).await;
    let mut call = model.next_call().await;
    assert_eq!(call.head.field("upgrade").as_deref(), Some("websocket"));
    assert_eq!(call.head.field("connection").as_deref(), Some("upgrade"));
    call.say(format!("{GRANT}hello")).await;
    let head = within("the head", client.head()).await.unwrap();
    assert_eq!(head.status(), 101);
    assert_eq!(head.field("upgrade").as_deref(), Some("WebSocket"));
    assert_eq!(head.field("connection").as_deref(), Some("upgrade"));
    assert!(head.field("sec-websocket-accept").is_some());
    assert!(head.field("content-length").is_none() && head.field("transfer-encoding").is_none());
    assert_eq!(within("early", call.raw(5)).await, b"early");
    client.send("\r\nGET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(within("what looks like HTTP", call.raw(20)).await, b"\r\nGET / HTTP/1.1\r\n\r\n");
    call.say("\0\x01\x02").await;
    // The client ends its side, the endpoint goes on.
    client.close_writing().await;
    within("the end", call.closed()).await;
    call.say("last words").await;
    drop(call);
    assert_eq!(within("the rest", client.rest()).await, b"hello\0\x01\x02last words");
}

#[tokio::test]
async fn a_tunnel_ends_with_either_side_and_is_a_good_attempt_that_is_not_timed() {
    let (model, proxy) = by_hand();
    let mut client = proxy.client().begin(ASK).await;
    let mut call = model.next_call().await;
    call.say(GRANT).await;
    within("the head", client.head()).await.unwrap();
    drop(call);
    assert_eq!(within("the end", client.rest()).await, b"");
    eventually("it is counted", async || {
        let labels = [("outcome", "good"), ("code", "101")];
        (proxy.metrics().await.value("serin_attempts_total", &labels) > 0.5).then_some(())
    })
    .await;

    let mut client = proxy.client().begin(ASK).await;
    let mut call = model.next_call().await;
    call.say(GRANT).await;
    within("the head", client.head()).await.unwrap();
    drop(client);
    within("the endpoint feels it", call.closed()).await;
}

/// That is another limit's to say.
#[tokio::test]
async fn a_tunnel_outlives_the_limit_of_a_request() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = Proxy::to(&model, "timeouts: { request: 500ms }").start();
    let mut client = proxy.client().begin(ASK).await;
    let mut call = model.next_call().await;
    call.say(GRANT).await;
    within("the head", client.head()).await.unwrap();
    // Asked later, it has run out of time.
    let mut other = proxy.client().begin(Request::get("/").bytes()).await;
    let _never = model.next_call().await;
    assert_eq!(within("a head", other.head()).await.unwrap().status(), 504);
    client.send("still").await.unwrap();
    assert_eq!(within("what the client says", call.raw(5)).await, b"still");
    call.say("there").await;
    assert_eq!(within("what the endpoint says", client.raw(5)).await, b"there");
}

#[tokio::test]
async fn an_endpoint_that_refuses_an_upgrade_answers_and_the_connection_goes_on() {
    let model = Backend::named("model").answers(426).start();
    let proxy = Proxy::to(&model, "").start();
    // Behind the refusal it is HTTP again.
    let next = "GET /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let mut client = proxy.client().begin(format!("{ASK}{next}")).await;
    let text = String::from_utf8(within("both", client.rest()).await).unwrap();
    assert_eq!(text.matches("HTTP/1.1 426").count(), 2, "{text}");
    let targets: Vec<_> = model.seen().iter().map(|seen| seen.target().to_owned()).collect();
    assert_eq!(targets, ["/chat", "/next"]);
}

#[tokio::test]
async fn nothing_is_switched_to_that_was_not_asked_for() {
    let other = GRANT.replace("WebSocket", "h2c");
    let twice = GRANT.replace("Upgrade: WebSocket", "Upgrade: WebSocket\r\nUpgrade: x");
    let none = "HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned();
    for bytes in [other, twice, none] {
        let model = Backend::named("model").does(Script::says_and_stays(&*bytes)).start();
        let proxy = Proxy::to(&model, "").start();
        let mut client = proxy.client().begin(ASK).await;
        let head = within("the head", client.head()).await.unwrap();
        assert_eq!(head.status(), 502, "{bytes:?}");
    }
}

#[tokio::test]
async fn interim_responses_reach_those_who_know_them() {
    let early =
        "HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\nconnection: x\r\nx: 1\r\n\r\n";
    let bytes = format!(
        "HTTP/1.1 100 Continue\r\n\r\n{early}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    );
    let model = Backend::named("model").does(Script::says_and_stays(bytes)).start();
    let proxy = Proxy::to(&model, "").start();
    let mut client = proxy.client().begin(Request::get("/").bytes()).await;
    let head = within("a head", client.head()).await.unwrap();
    // The 100 was nobody's: Serin says it itself where it is waited for.
    assert_eq!((head.status(), head.field("link").as_deref()), (103, Some("</a>; rel=preload")));
    assert_eq!((head.field("x"), head.field("connection")), (None, None));
    let head = within("a head", client.head()).await.unwrap();
    let (body, _) = client.body(&mut Body::of_response(&head, "GET")).await;
    assert_eq!((head.status(), body.as_slice()), (200, &b"ok"[..]));

    let mut client = proxy.client().begin("GET / HTTP/1.0\r\n\r\n").await;
    let head = within("a head", client.head()).await.unwrap();
    assert_eq!(head.status(), 200, "HTTP/1.0 has no interim responses");
}

#[tokio::test]
async fn an_early_hint_does_not_wait_for_the_answer() {
    let (model, proxy) = by_hand();
    let mut client = proxy.client().begin(Request::get("/").bytes()).await;
    let mut call = model.next_call().await;
    call.say("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await;
    assert_eq!(within("the hint", client.head()).await.unwrap().status(), 103);
    call.say("HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n").await;
    let head = within("the answer", client.head()).await.unwrap();
    assert_eq!((head.status(), head.field("content-length")), (204, None));
}

#[tokio::test]
async fn a_tunnel_that_breaks_does_not_end_like_one_that_was_closed() {
    let (model, proxy) = by_hand();
    let mut stream = std::net::TcpStream::connect(proxy.address()).unwrap();
    std::io::Write::write_all(&mut stream, ASK.as_bytes()).unwrap();
    let mut call = model.next_call().await;
    call.say(GRANT).await;
    let read = tokio::task::spawn_blocking(move || {
        let mut came = Vec::new();
        let mut piece = [0; 1000];
        let head = std::io::Read::read(&mut stream, &mut piece).unwrap();
        assert!(piece[..head].starts_with(b"HTTP/1.1 101 "));
        std::io::Read::read_to_end(&mut stream, &mut came)
    });
    // Behind the head, which is read first.
    eventually("the client has its answer", async || {
        (proxy.metrics().await.value("serin_requests_in_flight", &[]) > 0.5).then_some(())
    })
    .await;
    call.reset();
    let read = within("the end", read).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}
