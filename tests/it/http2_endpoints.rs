//! HTTP/2 to endpoints: many requests on one connection, none of them lost, and each held
//! back and cancelled for itself.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Method, Request as HttpRequest};
use http_body_util::BodyExt;
use serin_testkit::{
    FrameListener, Frames, Http2Backend, Proxy, Request, Stopwatch, Streamed, fields, flag, kind,
    ms, secs, setting, within,
};
use tokio::net::TcpStream;

const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// A proxy in front of one endpoint that speaks HTTP/2.
pub fn before(endpoint: SocketAddr, more: &str) -> Proxy {
    let text = format!(
        "listeners: [{{ name: http, address: 127.0.0.1:8080 }}]\n\
         admin: {{ address: 127.0.0.1:9901 }}\n\
         workers: 1\n\
         backends: [{{ name: model, protocol: http2, endpoints: [\"{endpoint}\"] }}]\n\
         routes:\n  - name: r\n    rules:\n      - name: main\n        \
         backends: [{{ name: model }}]\n{more}"
    );
    Proxy::with_yaml(&text).start()
}

pub fn get(path: &str) -> HttpRequest<Streamed> {
    HttpRequest::get(format!("http://models.example.com{path}")).body(Streamed::of("")).unwrap()
}

/// Answers a request on `stream` with 200 and `body`.
pub async fn answer(endpoint: &mut Frames, stream: u32, body: &str) {
    endpoint.send(kind::HEADERS, flag::END_HEADERS, stream, &[0x88]).await;
    endpoint.send(kind::DATA, flag::END_STREAM, stream, body.as_bytes()).await;
}

/// The next request's stream.
pub async fn request(endpoint: &mut Frames) -> u32 {
    endpoint.until(kind::HEADERS).await.stream
}

#[tokio::test]
async fn a_request_arrives_as_http2_has_it_and_its_answer_as_http1_has_it() {
    let head = HeaderMap::from_iter([("x-model".parse().unwrap(), "m".parse().unwrap())]);
    let model = Http2Backend::start(head).await;
    let proxy = before(model.address, "");
    let request = Request::post("/v2/infer?x=1", "hello").header("te", "trailers");
    let answer = proxy.send(&request.header("connection", "te, x-hop").header("x-hop", "1")).await;
    let answer = answer.expect(200);
    assert_eq!((answer.text().as_str(), answer.header("x-model").as_deref()), ("hello", Some("m")));
    let seen = model.seen().pop().unwrap();
    assert_eq!((seen.method, seen.uri.path()), (Method::POST, "/v2/infer"));
    assert_eq!(seen.uri.to_string(), "http://models.example.com/v2/infer?x=1");
    assert_eq!(seen.headers["te"], "trailers");
    assert_eq!(seen.headers["content-length"], "5");
    assert_eq!(seen.headers["x-forwarded-host"], "models.example.com");
    for gone in ["host", "connection", "transfer-encoding", "x-hop"] {
        assert!(!seen.headers.contains_key(gone), "{gone}");
    }
    // Of unknown length.
    let chunked = Request::post("/", "0123456789".repeat(500)).chunked();
    assert_eq!(proxy.send(&chunked).await.expect(200).body.len(), 5000);
}

#[tokio::test]
async fn many_requests_share_one_connection_and_trailers_go_both_ways() {
    let model = Http2Backend::start(HeaderMap::new()).await;
    let proxy = before(model.address, "");
    let client = proxy.http2().await;
    let mut asking = Vec::new();
    for n in 0..50 {
        let mut client = client.clone();
        asking.push(tokio::spawn(async move {
            let (pieces, body) = Streamed::new();
            let request = HttpRequest::post("http://a/").body(body).unwrap();
            let answer = client.send(request).await.unwrap();
            pieces.send(format!("{n}").into()).await.unwrap();
            drop(pieces);
            answer.into_body().collect().await.unwrap().to_bytes()
        }));
    }
    for (n, asking) in asking.into_iter().enumerate() {
        assert_eq!(within("an echo", asking).await.unwrap(), format!("{n}"));
    }
    assert_eq!(model.connections(), 1);

    let stream = TcpStream::connect(proxy.address()).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = HttpRequest::post("http://a/").body(()).unwrap();
    let (answer, mut sending) = sender.send_request(request, false).unwrap();
    sending.send_data(Bytes::from_static(b"abc"), false).unwrap();
    let sum = HeaderMap::from_iter([("x-sum".parse().unwrap(), "7".parse().unwrap())]);
    sending.send_trailers(sum.clone()).unwrap();
    let mut body = within("the head", answer).await.unwrap().into_body();
    assert_eq!(within("a piece", body.data()).await.unwrap().unwrap(), "abc");
    // The model has them from the request, and the client from the model.
    assert_eq!(within("trailers", body.trailers()).await.unwrap(), Some(sum));
}

#[tokio::test]
async fn the_endpoints_limit_of_streams_is_kept_and_more_go_over_another_connection() {
    let endpoint = FrameListener::bind().await;
    let proxy = before(endpoint.address, "");
    let client = proxy.http2().await;
    let asking = |path: &'static str, mut client: serin_testkit::Http2| {
        tokio::spawn(async move { client.exchange(get(path)).await })
    };
    let asked: Vec<_> = (0..5).map(|_| asking("/", client.clone())).collect();
    let two = setting(MAX_CONCURRENT_STREAMS, 2);
    let mut connections = Vec::new();
    for share in [2, 2, 1] {
        let mut connection = endpoint.accept(&two).await;
        let mut streams = Vec::new();
        for _ in 0..share {
            streams.push(request(&mut connection).await);
        }
        connections.push((connection, streams));
    }
    for (connection, streams) in &mut connections {
        for stream in streams {
            answer(connection, *stream, "ok").await;
        }
    }
    for asked in asked {
        assert_eq!(within("an answer", asked).await.unwrap().body(), "ok");
    }
    // There is room again where there was none.
    let again = asking("/again", client.clone());
    let (first, _) = &mut connections[0];
    let stream = request(first).await;
    answer(first, stream, "again").await;
    assert_eq!(again.await.unwrap().body(), "again");
}

/// In two steps, as RFC 9113, section 6.8, has it: what comes between them is answered too.
#[tokio::test]
async fn a_client_that_reads_nothing_holds_back_the_endpoint_and_no_other_client() {
    let endpoint = FrameListener::bind().await;
    let proxy = before(endpoint.address, "");
    // No window for anything of an answer's body.
    let mut slow = Frames::connect_silently(proxy.address()).await;
    slow.send_raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    slow.send(kind::SETTINGS, 0, 0, &setting(INITIAL_WINDOW_SIZE, 0)).await;
    slow.get(1, "/large").await;
    let mut connection = endpoint.accept(&[]).await;
    let stream = request(&mut connection).await;
    connection.send(kind::HEADERS, flag::END_HEADERS, stream, &[0x88]).await;
    // What the endpoint may send is what Serin may have to keep.
    let mut window = 65_535_usize;
    while window > 0 {
        let piece = window.min(16_384);
        connection.send(kind::DATA, 0, stream, &vec![b'x'; piece]).await;
        window -= piece;
    }
    // Another client's answer comes over the same connection meanwhile.
    let other = tokio::spawn({
        let mut client = proxy.http2().await;
        async move { client.exchange(get("/other")).await }
    });
    let mut widened = 0;
    let others = loop {
        let frame = connection.any().await.unwrap();
        match frame.kind {
            kind::HEADERS => break frame.stream,
            kind::WINDOW_UPDATE if frame.stream == stream => widened += frame.code(),
            _ => {}
        }
    };
    answer(&mut connection, others, "quick").await;
    assert_eq!(other.await.unwrap().body(), "quick");
    assert_eq!(widened, 0, "the endpoint was told to send more than the client takes");
    // As the client reads, the endpoint may go on.
    let all = 65_535_u32.to_be_bytes();
    slow.send(kind::WINDOW_UPDATE, 0, 1, &all).await;
    let widened = connection.until(kind::WINDOW_UPDATE).await;
    assert!(widened.code() > 0);
}

/// Clients that speak HTTP/1.1 would take a 101 for something that they never asked for.
#[tokio::test]
async fn no_client_is_told_that_another_protocol_begins() {
    let endpoint = FrameListener::bind().await;
    let proxy = before(endpoint.address, "");
    let mut client = proxy.client().begin(Request::get("/").bytes()).await;
    let mut connection = endpoint.accept(&[]).await;
    let stream = request(&mut connection).await;
    connection.send(kind::HEADERS, flag::END_HEADERS, stream, &fields([(":status", "101")])).await;
    answer(&mut connection, stream, "the answer").await;
    let said = within("an answer", client.head()).await.unwrap();
    assert_eq!(said.status(), 502, "{said:?}");
}

#[tokio::test]
async fn a_length_that_is_told_twice_goes_on_once() {
    let endpoint = FrameListener::bind().await;
    let proxy = before(endpoint.address, "");
    let mut client = proxy.client().begin(Request::get("/").bytes()).await;
    let mut connection = endpoint.accept(&[]).await;
    let stream = request(&mut connection).await;
    let lengths = fields([("content-length", "5"), ("content-length", "005")]);
    let head = [&[0x88][..], &lengths].concat();
    connection.send(kind::HEADERS, flag::END_HEADERS, stream, &head).await;
    connection.send(kind::DATA, flag::END_STREAM, stream, b"hello").await;
    let said = within("an answer", client.head()).await.unwrap();
    assert_eq!(said.field("content-length").as_deref(), Some("5"), "{said:?}");
}

#[tokio::test]
async fn an_endpoint_that_speaks_http1_alone_is_a_502() {
    let model = serin_testkit::Backend::named("model").start();
    let proxy = before(model.address, "");
    proxy.get("/").await.expect(502);
    let metrics = proxy.metrics().await;
    let labels = [("backend", "model"), ("code", "502"), ("outcome", "bad")];
    assert!(metrics.value("serin_attempts_total", &labels) > 0.0, "{metrics:?}");
}

#[tokio::test]
async fn an_answer_whose_end_is_a_frame_of_its_own_is_a_good_one() {
    let listener = FrameListener::bind().await;
    let proxy = before(listener.address, "");
    let mut client = proxy.client();
    let asked = tokio::spawn(async move {
        client.get("/").await.expect(200);
        client.get("/").await.expect(204);
    });
    let mut endpoint = listener.accept(&[]).await;
    let stream = request(&mut endpoint).await;
    // :status 200, content-length: 2 without indexing.
    let head = [&[0x88, 0x0f, 0x0d, 0x01][..], b"2"].concat();
    endpoint.send(kind::HEADERS, flag::END_HEADERS, stream, &head).await;
    endpoint.send(kind::DATA, 0, stream, b"ok").await;
    endpoint.send(kind::DATA, flag::END_STREAM, stream, b"").await;
    let stream = request(&mut endpoint).await;
    endpoint.send(kind::HEADERS, flag::END_HEADERS, stream, &[0x89]).await;
    endpoint.send(kind::DATA, flag::END_STREAM, stream, b"").await;
    within("both answers", asked).await.unwrap();
    let good = [("outcome", "good")];
    serin_testkit::eventually("both are counted", async || {
        (proxy.metrics().await.value("serin_attempts_total", &good) > 1.5).then_some(())
    })
    .await;
}

/// An endpoint that listens to a client that speaks is not idle, though it says nothing.
#[tokio::test]
async fn what_a_client_says_behind_an_early_answer_keeps_the_stream_going() {
    let listener = FrameListener::bind().await;
    let proxy = before(listener.address, "        timeouts: { idle: 2s }\n");
    let mut client = proxy.http2().await;
    let (pieces, body) = Streamed::new();
    let asked = HttpRequest::post("http://models.example.com/").body(body).unwrap();
    let asked = tokio::spawn(async move {
        let answer = client.send(asked).await.unwrap();
        answer.into_body().collect().await.map(http_body_util::Collected::to_bytes)
    });
    let mut endpoint = listener.accept(&[]).await;
    let stream = request(&mut endpoint).await;
    endpoint.send(kind::HEADERS, flag::END_HEADERS, stream, &[0x88]).await;
    // More than twice as long as it may be idle, with room for a machine that others use.
    let begun = Stopwatch::start();
    while begun.elapsed() < secs(5) {
        pieces.send("audio".into()).await.unwrap();
        assert_eq!(endpoint.until(kind::DATA).await.payload, b"audio");
        tokio::time::sleep(ms(20)).await;
    }
    drop(pieces);
    endpoint.send(kind::DATA, flag::END_STREAM, stream, b"words").await;
    assert_eq!(within("the answer", asked).await.unwrap().unwrap(), "words");
}

#[tokio::test]
async fn what_has_no_body_has_no_length_either() {
    let listener = FrameListener::bind().await;
    let proxy = before(listener.address, "");
    let mut client = proxy.http2().await;
    let asked = tokio::spawn(async move { client.exchange(get("/")).await });
    let mut endpoint = listener.accept(&[]).await;
    let stream = request(&mut endpoint).await;
    let head = [&[0x89][..], &fields([("content-length", "5")])].concat();
    endpoint.send(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &head).await;
    let answer = within("an answer", asked).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().get("content-length")), (204, None));
}

#[tokio::test]
async fn nobody_is_told_to_go_on_in_the_middle_of_an_answer() {
    let listener = FrameListener::bind().await;
    let proxy = before(listener.address, "");
    let head = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let mut first = proxy.client();
    let first = tokio::spawn(async move { first.get("/").await.expect(200) });
    // It takes nothing of a body before it has answered.
    let mut endpoint = listener.accept(&setting(INITIAL_WINDOW_SIZE, 0)).await;
    let stream = request(&mut endpoint).await;
    answer(&mut endpoint, stream, "").await;
    within("the first answer", first).await.unwrap();
    let mut client = proxy.client().begin(head).await;
    let stream = request(&mut endpoint).await;
    // As soon as the body is asked for, and not again.
    assert_eq!(within("the word", client.head()).await.unwrap().status(), 100);
    endpoint.send(kind::HEADERS, flag::END_HEADERS, stream, &[0x88]).await;
    endpoint.send(kind::DATA, 0, stream, b"one").await;
    let head = within("the answer", client.head()).await.unwrap();
    assert_eq!(head.status(), 200);
    let mut body = serin_testkit::Body::of_response(&head, "POST");
    assert_eq!(within("a piece", client.piece(&mut body)).await, Ok(Some(b"one".to_vec())));
    endpoint.send(kind::WINDOW_UPDATE, 0, stream, &100u32.to_be_bytes()).await;
    endpoint.send(kind::DATA, flag::END_STREAM, stream, b"two").await;
    assert_eq!(within("a piece", client.piece(&mut body)).await, Ok(Some(b"two".to_vec())));
    assert_eq!(within("the end", client.piece(&mut body)).await, Ok(None));
}
