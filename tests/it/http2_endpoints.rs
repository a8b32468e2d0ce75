//! HTTP/2 to endpoints: many requests on one connection, none of them lost, and each held
//! back and cancelled for itself.

use std::net::SocketAddr;

use http::{HeaderMap, Method, Request as HttpRequest};
use http_body_util::BodyExt;
use serin_testkit::{
    Frame, FrameListener, Frames, Http2Backend, Proxy, Request, Streamed, fields, flag, kind,
    setting, within,
};

const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;

const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;

/// A proxy in front of one endpoint that speaks HTTP/2.
fn before(endpoint: SocketAddr, more: &str) -> Proxy {
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

fn get(path: &str) -> HttpRequest<Streamed> {
    HttpRequest::get(format!("http://models.example.com{path}")).body(Streamed::of("")).unwrap()
}

/// Answers a request on `stream` with 200 and `body`.
async fn answer(endpoint: &mut Frames, stream: u32, body: &str) {
    endpoint.send(kind::HEADERS, flag::END_HEADERS, stream, &[0x88]).await;
    endpoint.send(kind::DATA, flag::END_STREAM, stream, body.as_bytes()).await;
}

/// The next request's stream.
async fn request(endpoint: &mut Frames) -> u32 {
    endpoint.until(kind::HEADERS).await.stream
}

async fn goaway(endpoint: &mut Frames, last: u32) {
    let payload = [last.to_be_bytes(), NO_ERROR.to_be_bytes()].concat();
    endpoint.send(kind::GOAWAY, 0, 0, &payload).await;
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

    let mut raw = Frames::connect(proxy.address()).await;
    let head =
        fields([(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")]);
    raw.send(kind::HEADERS, flag::END_HEADERS, 1, &head).await;
    raw.send(kind::DATA, 0, 1, b"abc").await;
    let end = flag::END_HEADERS | flag::END_STREAM;
    raw.send(kind::HEADERS, end, 1, &fields([("x-sum", "7")])).await;
    raw.until(kind::HEADERS).await;
    let data = raw.until(kind::DATA).await;
    assert_eq!(data.payload, b"abc");
    let trailers = raw.until(kind::HEADERS).await;
    assert!(trailers.ends_stream());
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

#[tokio::test]
async fn what_a_goaway_leaves_out_is_sent_again_and_what_it_does_not_goes_on() {
    let endpoint = FrameListener::bind().await;
    let proxy = before(endpoint.address, "");
    let address = proxy.address();
    let post = |text: &'static str| {
        tokio::spawn(async move {
            serin_testkit::Client::of(address).send(&Request::post("/", text)).await
        })
    };
    let kept = post("kept");
    let mut old = endpoint.accept(&[]).await;
    let kept_stream = request(&mut old).await;
    let moved = post("moved");
    let moved_stream = request(&mut old).await;
    assert!(moved_stream > kept_stream);
    while old.until(kind::DATA).await.stream != moved_stream {}
    goaway(&mut old, kept_stream).await;
    let mut new = endpoint.accept(&[]).await;
    let stream = request(&mut new).await;
    assert_eq!(new.until(kind::DATA).await.payload, b"moved");
    answer(&mut new, stream, "from the new one").await;
    assert_eq!(moved.await.unwrap().expect(200).text(), "from the new one");
    // The old connection takes no more requests, but ends what it has.
    let later = post("later");
    let stream = request(&mut new).await;
    answer(&mut new, stream, "later").await;
    assert_eq!(later.await.unwrap().expect(200).text(), "later");
    answer(&mut old, kept_stream, "from the old one").await;
    assert_eq!(kept.await.unwrap().expect(200).text(), "from the old one");
}

/// In two steps, as RFC 9113, section 6.8, has it: what comes between them is answered too.
#[tokio::test]
async fn an_endpoint_that_leaves_in_two_steps_loses_no_request() {
    let endpoint = FrameListener::bind().await;
    let proxy = before(endpoint.address, "");
    let client = proxy.http2().await;
    let asking = |path: &'static str| {
        let mut client = client.clone();
        tokio::spawn(async move { client.exchange(get(path)).await })
    };
    let first = asking("/first");
    let mut old = endpoint.accept(&[]).await;
    let first_stream = request(&mut old).await;
    let second = asking("/second");
    let second_stream = request(&mut old).await;
    goaway(&mut old, (1 << 31) - 1).await;
    // From here on requests go elsewhere.
    let third = asking("/third");
    let mut new = endpoint.accept(&[]).await;
    let stream = request(&mut new).await;
    answer(&mut new, stream, "third").await;
    // The second was never looked at, and goes elsewhere too; then the connection is closed.
    answer(&mut old, first_stream, "first").await;
    goaway(&mut old, first_stream).await;
    drop(old);
    let stream = request(&mut new).await;
    answer(&mut new, stream, "second").await;
    assert!(second_stream > first_stream);
    for (asked, text) in [(first, "first"), (second, "second"), (third, "third")] {
        let answer = within("an answer", asked).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.body().as_str()), (200, text));
    }
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_and_a_reset_one_is_not() {
    let endpoint = FrameListener::bind().await;
    let proxy = before(endpoint.address, "");
    let mut client = proxy.http2().await;
    let mut other = client.clone();
    let asking = tokio::spawn(async move { other.exchange(get("/")).await });
    let mut connection = endpoint.accept(&[]).await;
    for _ in 0..2 {
        let stream = request(&mut connection).await;
        connection.send(kind::RST_STREAM, 0, stream, &REFUSED_STREAM.to_be_bytes()).await;
    }
    let stream = request(&mut connection).await;
    answer(&mut connection, stream, "in the end").await;
    assert_eq!(asking.await.unwrap().body(), "in the end");

    let asking = tokio::spawn(async move { client.exchange(get("/")).await });
    let stream = request(&mut connection).await;
    connection.send(kind::RST_STREAM, 0, stream, &INTERNAL_ERROR.to_be_bytes()).await;
    assert_eq!(asking.await.unwrap().status(), 502);
}

#[tokio::test]
async fn a_cancel_is_passed_on_before_and_after_the_head_and_in_both_directions() {
    let endpoint = FrameListener::bind().await;
    let proxy = before(endpoint.address, "");
    let mut client = Frames::connect(proxy.address()).await;
    client.get(1, "/").await;
    let mut connection = endpoint.accept(&[]).await;
    let stream = request(&mut connection).await;
    client.send(kind::RST_STREAM, 0, 1, &CANCEL.to_be_bytes()).await;
    let reset = connection.until(kind::RST_STREAM).await;
    assert_eq!((reset.stream, reset.code()), (stream, CANCEL));

    client.get(3, "/").await;
    let stream = request(&mut connection).await;
    connection.send(kind::HEADERS, flag::END_HEADERS, stream, &[0x88]).await;
    connection.send(kind::DATA, 0, stream, b"begun").await;
    while client.until(kind::DATA).await.stream != 3 {}
    client.send(kind::RST_STREAM, 0, 3, &CANCEL.to_be_bytes()).await;
    let reset = connection.until(kind::RST_STREAM).await;
    assert_eq!((reset.stream, reset.code()), (stream, CANCEL));

    // And from the endpoint, with a code that fits.
    for (stream, code, told) in
        [(5, CANCEL, CANCEL), (7, 1, INTERNAL_ERROR), (9, REFUSED_STREAM, INTERNAL_ERROR)]
    {
        client.get(stream, "/").await;
        let theirs = request(&mut connection).await;
        connection.send(kind::HEADERS, flag::END_HEADERS, theirs, &[0x88]).await;
        connection.send(kind::DATA, 0, theirs, b"begun").await;
        while client.until(kind::DATA).await.stream != stream {}
        connection.send(kind::RST_STREAM, 0, theirs, &code.to_be_bytes()).await;
        let reset = client.until(kind::RST_STREAM).await;
        assert_eq!((reset.stream, reset.code()), (stream, told));
    }
    // The connections live on.
    client.get(11, "/").await;
    let stream = request(&mut connection).await;
    answer(&mut connection, stream, "alive").await;
    assert_eq!(client.body(11).await, b"alive");
}

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

#[tokio::test]
async fn an_answer_that_breaks_is_never_a_whole_one() {
    let endpoint = FrameListener::bind().await;
    let proxy = before(endpoint.address, "");
    let client = proxy.http2().await;
    let only = |stream, fields: &[(&str, &str)]| {
        let head = serin_testkit::fields(fields.iter().copied());
        vec![data(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &head)]
    };
    let cases: [&dyn Fn(u32) -> Vec<Frame>; 9] = [
        // A body where there can be none.
        &|stream| {
            let head = data(kind::HEADERS, flag::END_HEADERS, stream, &[0x89]);
            vec![head, data(kind::DATA, flag::END_STREAM, stream, b"HTTP/1.1 200 OK")]
        },
        // A status of no class.
        &|stream| only(stream, &[(":status", "600")]),
        // What HTTP/2 cannot switch to, at the end and before it.
        &|stream| only(stream, &[(":status", "101"), ("x", "y")]),
        &|stream| {
            let switch = fields([(":status", "101")]);
            let switch = data(kind::HEADERS, flag::END_HEADERS, stream, &switch);
            [vec![switch], only(stream, &[(":status", "200")])].concat()
        },
        // A field before the end that HTTP/1.1 would cut.
        &|stream| {
            let hint = fields([(":status", "103"), ("x", " y")]);
            let hint = data(kind::HEADERS, flag::END_HEADERS, stream, &hint);
            [vec![hint], only(stream, &[(":status", "200")])].concat()
        },
        // Less than was announced.
        &|stream| {
            let head = [&[0x88][..], &fields([("content-length", "9")])].concat();
            vec![
                data(kind::HEADERS, flag::END_HEADERS, stream, &head),
                data(kind::DATA, flag::END_STREAM, stream, b"short"),
            ]
        },
        // Fields of HTTP/1.1.
        &|stream| {
            let head = [&[0x88][..], &fields([("transfer-encoding", "chunked")])].concat();
            vec![data(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &head)]
        },
        // A value that HTTP/1.1 would cut.
        &|stream| {
            let head = [&[0x88][..], &fields([("x-a", " b")])].concat();
            vec![data(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &head)]
        },
        // A status that is no number ends the connection, so it comes last.
        &|stream| only(stream, &[(":status", "099")]),
    ];
    let mut connection = None;
    for frames in cases {
        let mut other = client.clone();
        let asking = tokio::spawn(async move {
            let answer = other.send(get("/")).await?;
            let status = answer.status();
            answer.into_body().collect().await.map(|body| (status, body.to_bytes()))
        });
        if connection.is_none() {
            connection = Some(endpoint.accept(&[]).await);
        }
        let connection = connection.as_mut().unwrap();
        let stream = request(connection).await;
        for Frame { kind, flags, stream, payload } in frames(stream) {
            connection.send(kind, flags, stream, &payload).await;
        }
        let got = within("an end", asking).await.unwrap();
        assert!(got.as_ref().is_ok_and(|(status, _)| *status == 502) || got.is_err(), "{got:?}");
    }
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

fn data(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Frame {
    Frame { kind, flags, stream, payload: payload.to_vec() }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_nobodys_failure() {
    let endpoint = FrameListener::bind().await;
    let proxy = before(endpoint.address, "");
    let client = proxy.http2().await;
    for _ in 0..3 {
        let mut other = client.clone();
        let asking = tokio::spawn(async move { other.exchange(get("/")).await });
        let mut connection = endpoint.accept(&[]).await;
        let stream = request(&mut connection).await;
        answer(&mut connection, stream, "ok").await;
        assert_eq!(asking.await.unwrap().body(), "ok");
        drop(connection);
    }
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

/// Tokens are small frames, and small frames are counted by the library.
#[tokio::test]
async fn clients_that_read_no_tokens_do_not_cost_others_the_connection() {
    const SLOW: usize = 10;
    const TOKEN: [u8; 30] = [b't'; 30];
    let listener = FrameListener::bind().await;
    let proxy = before(listener.address, "");
    let mut endpoint = None;
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let mut client = Frames::connect(proxy.address()).await;
        client.send(kind::SETTINGS, 0, 0, &setting(INITIAL_WINDOW_SIZE, 0)).await;
        client.get(1, "/tokens").await;
        if endpoint.is_none() {
            endpoint = Some(listener.accept(&[]).await);
        }
        let endpoint = endpoint.as_mut().unwrap();
        let stream = request(endpoint).await;
        endpoint.send(kind::HEADERS, flag::END_HEADERS, stream, &[0x88]).await;
        for _ in 0..2000 {
            endpoint.send(kind::DATA, 0, stream, &TOKEN).await;
        }
        client.until(kind::HEADERS).await;
        slow.push((client, stream));
    }
    let mut endpoint = endpoint.unwrap();
    let mut client = proxy.http2().await;
    let asked = tokio::spawn(async move { client.exchange(get("/")).await });
    let stream = request(&mut endpoint).await;
    answer(&mut endpoint, stream, "quick").await;
    let quick = within("an answer", asked).await.unwrap();
    assert_eq!((quick.status().as_u16(), quick.body().as_str()), (200, "quick"));
    // Nothing of theirs is lost.
    for (client, stream) in &mut slow {
        endpoint.send(kind::DATA, flag::END_STREAM, *stream, b"").await;
        client.send(kind::WINDOW_UPDATE, 0, 1, &(1u32 << 20).to_be_bytes()).await;
        assert_eq!(client.body(1).await.len(), 2000 * TOKEN.len());
    }
}

/// An endpoint that listens to a client that speaks is not idle, though it says nothing.
#[tokio::test]
async fn what_a_client_says_behind_an_early_answer_keeps_the_stream_going() {
    let listener = FrameListener::bind().await;
    let proxy = before(listener.address, "        timeouts: { idle: 600ms }\n");
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
    // Three times as long as it may be idle.
    for _ in 0..18 {
        pieces.send("audio".into()).await.unwrap();
        assert_eq!(endpoint.until(kind::DATA).await.payload, b"audio");
        tokio::time::sleep(serin_testkit::ms(100)).await;
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
async fn an_answer_that_is_left_open_does_not_hold_up_the_next_one() {
    let listener = FrameListener::bind().await;
    let proxy = before(listener.address, "");
    let mut client = proxy.client();
    let asked = tokio::spawn(async move {
        let first = client.get("/").await.expect(200).text();
        (first, client.get("/").await.expect(200).text())
    });
    let mut endpoint = listener.accept(&[]).await;
    let stream = request(&mut endpoint).await;
    let head = [&[0x88][..], &fields([("content-length", "5")])].concat();
    endpoint.send(kind::HEADERS, flag::END_HEADERS, stream, &head).await;
    // All of it, and not its end.
    endpoint.send(kind::DATA, 0, stream, b"first").await;
    let stream = request(&mut endpoint).await;
    answer(&mut endpoint, stream, "second").await;
    let answers = within("both answers", asked).await.unwrap();
    assert_eq!(answers, ("first".to_owned(), "second".to_owned()));
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
