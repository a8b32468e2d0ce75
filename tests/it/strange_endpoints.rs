//! Endpoints that do what is legal but rare, or what they must not: one answer never
//! becomes another request's.

use serin_testkit::{
    Backend, Body, Broken, Client, End, Frames, Proxy, Request, Script, Stopwatch, Unread,
    eventually, kind, ms, secs, seed, within,
};

const CANCEL: u32 = 8;

fn proxy_before(script: Script) -> (Backend, Proxy) {
    let model = Backend::named("model").does(script).start();
    let proxy = Proxy::to(&model, "").start();
    (model, proxy)
}

#[tokio::test]
async fn what_comes_after_an_answer_is_nobodys_answer() {
    for (what, bytes) in [
        (
            "an answer that nobody asked for",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood\
             HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        ),
        (
            "more bytes than it said",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood, or so it seems",
        ),
        (
            "bytes after the last chunk",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\nevil",
        ),
    ] {
        let (model, proxy) = proxy_before(Script::says_and_stays(bytes));
        let mut client = proxy.client();
        for n in 1..=5 {
            assert_eq!(client.get("/").await.expect(200).text(), "good", "{what}");
            // Such a connection is not used again.
            assert_eq!(model.connections(), n, "{what}");
        }
    }
}

#[tokio::test]
async fn a_body_where_there_must_be_none_is_nobodys_answer() {
    let bytes = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let (model, proxy) = proxy_before(Script::says_and_stays(bytes));
    model.now_on("/204", Script::says_and_stays("HTTP/1.1 204 No Content\r\n\r\nevil"));
    let unchanged = "HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\nevil";
    model.now_on("/304", Script::says_and_stays(unchanged));
    model.now_on("/good", Script::answers(200).body("good"));
    let mut client = proxy.client();
    for request in [Request::new("HEAD", "/"), Request::get("/204"), Request::get("/304")] {
        let answer = client.send(&request).await;
        assert_eq!(answer.text(), "");
        assert_eq!(client.get("/good").await.expect(200).text(), "good");
    }
}

#[tokio::test]
async fn interim_answers_come_before_the_answer() {
    for interim in ["100 Continue", "103 Early Hints\r\nlink: </a>; rel=preload", "102 Processing"]
    {
        let bytes =
            format!("HTTP/1.1 {interim}\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfinal");
        let (_model, proxy) = proxy_before(Script::says_and_stays(bytes));
        let mut wire = proxy.client().begin(Request::get("/").bytes()).await;
        let mut head = within("a head", wire.head()).await.unwrap();
        while head.status() < 200 {
            head = within("a head", wire.head()).await.unwrap();
        }
        let (body, end) = within("a body", wire.body(&mut Body::of_response(&head, "GET"))).await;
        assert_eq!((body.as_slice(), end), (&b"final"[..], End::Whole), "{interim}");
    }
}

/// No window holds them back, so there is a bound for a client that reads nothing.
#[tokio::test]
async fn interim_answers_beyond_their_bound_are_dropped() {
    let hint = format!("HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n", "a".repeat(5000));
    let answer = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nfinal";
    let bytes = format!("{}{answer}", hint.repeat(8));
    let (_model, proxy) = proxy_before(Script::says_and_stays(bytes));
    // Of each request anew.
    let mut wire = proxy.client().begin("").await;
    for _ in 0..2 {
        wire.send(Request::get("/").bytes()).await.unwrap();
        let mut hints = 0;
        let head = loop {
            let head = within("a head", wire.head()).await.unwrap();
            if head.status() >= 200 {
                break head;
            }
            hints += 1;
        };
        assert_eq!((head.status(), hints), (200, 3));
        let (body, _) = within("a body", wire.body(&mut Body::of_response(&head, "GET"))).await;
        assert_eq!(body, b"final");
    }
}

#[tokio::test]
async fn framing_that_can_be_read_in_two_ways_is_a_502() {
    for bytes in [
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\ngood",
        "HTTP/1.1 200 OK\r\ncontent-length: -4\r\n\r\ngood",
        "HTTP/1.1 200 OK\r\ncontent-length: 4, 5\r\n\r\ngood",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\ngood",
        "HTTP/1.1 200 OK\r\nx : y\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\nx: a\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n",
        "\r\n\r\n\r\n\r\n",
    ] {
        let (model, proxy) = proxy_before(Script::says(bytes));
        let mut client = proxy.client();
        for _ in 0..2 {
            let answer = client.try_send(&Request::get("/")).await;
            let status = answer.map_or(0, |answer| answer.status);
            assert_eq!(status, 502, "{bytes:?}");
        }
        assert_eq!(model.requests(), 2);
    }
}

#[tokio::test]
async fn a_fault_on_a_reused_connection_is_not_taken_for_a_stale_one() {
    // The endpoint has read the request and answered, however badly.
    for bytes in ["HTTP/1.1 200 OK\nx: y\n\n", "nonsense\r\n\r\n", "HTTP/1.1 20", "\r\n"] {
        let model = Backend::named("model").does(Script::breaks_when_reused(bytes)).start();
        let proxy = Proxy::to(&model, "").start();
        let mut client = proxy.client();
        client.post("/", "one").await.expect(200);
        client.post("/", "two").await.expect(502);
        assert_eq!(model.requests(), 2, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_head_may_be_long_but_not_endless() {
    let field = |n: usize| format!("x-{n}: {}\r\n", "v".repeat(400));
    let many: String = (0..100).map(field).collect();
    let bytes = format!("HTTP/1.1 200 OK\r\n{many}content-length: 4\r\n\r\ngood");
    let (_model, proxy) = proxy_before(Script::says_and_stays(bytes));
    let answer = proxy.get("/").await.expect(200);
    assert_eq!(answer.header("x-99").map(|value| value.len()), Some(400));

    let endless: String = (0..100_000).map(field).collect();
    let bytes = format!("HTTP/1.1 200 OK\r\n{endless}");
    let (_model, proxy) = proxy_before(Script::says(bytes));
    proxy.get("/").await.expect(502);
}

#[tokio::test]
async fn values_are_passed_on_byte_for_byte() {
    let bytes = b"HTTP/1.1 200 OK\r\nX-Name: caf\xe9 \x80\r\ncontent-length: 0\r\n\r\n";
    let (model, proxy) = proxy_before(Script::says_and_stays(bytes));
    let request = b"GET /?q=%C3%A9 HTTP/1.1\r\nhost: a\r\nX-Name: caf\xe9\r\nx-empty:\r\n\r\n";
    let mut wire = proxy.client().begin(request).await;
    let head = within("a head", wire.head()).await.unwrap();
    let has = |raw: &[u8], part: &[u8]| raw.windows(part.len()).any(|window| window == part);
    assert!(has(&head.raw, b"x-name: caf\xe9 \x80\r\n"));
    assert!(has(&model.last().head.raw, b"x-name: caf\xe9\r\n"));
    assert_eq!(model.last().head.field("x-empty").as_deref(), Some(""));
    assert_eq!(model.last().target(), "/?q=%C3%A9");
}

#[tokio::test]
async fn endpoints_that_close_after_each_answer_serve_all_the_same() {
    for bytes in [
        // Without a word, as many servers do.
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        let (_model, proxy) = proxy_before(Script::says(bytes));
        let mut client = proxy.client();
        for n in 0..100 {
            let request = Request::post("/", format!("{n}"));
            assert_eq!(client.send(&request).await.expect(200).text(), "ok", "{bytes:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_question_does_not_mix_with_the_next() {
    let model = Backend::named("model").on("/early", Script::by_hand()).start();
    let proxy = Proxy::to(&model, "").start();
    let head = "POST /early HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n";
    let mut wire = proxy.client().begin(head).await;
    let mut call = model.next_call().await;
    assert_eq!(call.piece().await.as_deref(), Some("one"));
    call.say("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await;
    let head = within("a head", wire.head()).await.unwrap();
    let (body, _) = within("a body", wire.body(&mut Body::of_response(&head, "POST"))).await;
    assert_eq!(body, b"early");
    // The rest of the question belongs to nobody; the connection is given up.
    let next = "3\r\ntwo\r\n0\r\n\r\nGET /next HTTP/1.1\r\nhost: a\r\n\r\n";
    let _ = wire.send(next).await;
    match within("the next head", wire.head()).await {
        Ok(head) => {
            let mut body = Body::of_response(&head, "GET");
            assert_eq!(within("a body", wire.body(&mut body)).await.0, b"model");
        }
        Err(broken) => assert!(broken == Broken::Closed || broken == Broken::Cut),
    }
    for seen in model.seen() {
        assert_eq!((seen.head.word(0), seen.target()), ("GET", "/next"));
    }
    assert_eq!(proxy.get("/other").await.expect(200).text(), "model");
}

/// What Serin may keep of a body that nobody takes: what was written and the kernel did not take,
/// and one read.
const READ_BYTES_MAX: u64 = (16 + 128) << 10;

/// Of a request, which is read in larger pieces.
const UPLOAD_BYTES_MAX: u64 = (16 + 256) << 10;

/// Bytes after which a sender gives up: more than the sockets on the way take.
const SENT_MAX: usize = 256 << 20;

/// How many of `sent` bytes of a body are in none of the sockets between client and `model`.
async fn kept(proxy: &Proxy, model: &Backend, sent: usize) -> u64 {
    let mut last = None;
    // While bytes move they are counted twice, or not at all.
    let unread = eventually("nothing moves", async || {
        let unread = Unread::now();
        let unread = unread.of(proxy.address()) + unread.of(model.address);
        (last.replace(unread) == Some(unread)).then_some(unread)
    })
    .await;
    println!("{sent} bytes are sent, {unread} of them are in sockets");
    (sent as u64).saturating_sub(unread)
}

const LARGE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n";

#[tokio::test]
async fn a_slow_reader_holds_up_the_endpoint_and_fills_no_memory() {
    let (model, proxy) = proxy_before(Script::by_hand());
    let mut wire = proxy.client().begin(Request::get("/").bytes()).await;
    let mut call = model.next_call().await;
    call.say(LARGE).await;
    let sent = call.fill(SENT_MAX).await;
    let kept = kept(&proxy, &model, sent).await;
    assert!(kept <= READ_BYTES_MAX, "{kept} bytes of {sent} are kept, and nobody has read one");
    // Reading sets it free.
    let head = within("a head", wire.head()).await.unwrap();
    let mut body = Body::of_response(&head, "GET");
    let mut read = 0;
    while read < sent {
        let piece = within("a piece", wire.piece(&mut body)).await.unwrap().unwrap();
        read += piece.len();
    }
}

#[tokio::test]
async fn a_slow_reader_over_http2_holds_up_its_own_stream_alone() {
    let model = Backend::named("model").on("/stream", Script::by_hand()).start();
    let proxy = Proxy::to(&model, "").start();
    let mut client = Frames::connect(proxy.address()).await;
    // The connection has room for others when the stream has none.
    client.send(kind::WINDOW_UPDATE, 0, 0, &(1u32 << 20).to_be_bytes()).await;
    client.get(1, "/stream").await;
    let mut call = model.next_call().await;
    call.say(LARGE).await;
    let sent = call.fill(SENT_MAX).await;
    let kept = kept(&proxy, &model, sent).await;
    assert!(kept <= READ_BYTES_MAX, "{kept} bytes of {sent} are kept, and nobody has read one");
    client.get(3, "/").await;
    assert_eq!(client.body(3).await, b"model");
    client.send(kind::RST_STREAM, 0, 1, &CANCEL.to_be_bytes()).await;
    call.closed().await;
}

#[tokio::test]
async fn a_slow_endpoint_holds_up_the_sender() {
    let (model, proxy) = proxy_before(Script::by_hand());
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000000\r\n\r\n";
    let mut wire = proxy.client().begin(head).await;
    let mut call = model.next_call().await;
    let sent = wire.fill(SENT_MAX).await;
    let kept = kept(&proxy, &model, sent).await;
    assert!(kept <= UPLOAD_BYTES_MAX, "{kept} bytes of {sent} are kept, and nobody has read one");
    assert!(call.at_least(sent).await.len() >= sent);
}

/// Clients that ask and leave at random, an endpoint that closes, breaks and hangs at
/// random: whoever gets an answer gets the own one.
#[tokio::test]
async fn everyone_gets_the_own_answer_in_a_storm() {
    let model = Backend::named("model")
        .does(Script::echoes())
        .on("/half", Script::half_a_body())
        .on("/close", Script::closes())
        .on("/reset", Script::resets())
        .on("/stale", Script::closes_when_reused())
        .on("/hang", Script::hangs())
        .on("/slow", Script::answers(200).after(ms(20)))
        .start();
    let proxy = Proxy::to(&model, "timeouts: { first_byte: 2s }").start();
    let seed = seed();
    let clients = (0..16).map(|n| {
        let address = proxy.address();
        tokio::spawn(async move { storm(address, fastrand::Rng::with_seed(seed + n)).await })
    });
    let mut good = 0;
    for client in clients.collect::<Vec<_>>() {
        good += client.await.unwrap();
    }
    assert!(good > 500, "{good}");
    // Nothing is left behind.
    eventually("everything has ended", async || {
        let metrics = proxy.metrics().await;
        (metrics.value("serin_requests_in_flight", &[]) < 0.5).then_some(())
    })
    .await;
    assert_eq!(proxy.get("/calm").await.expect(200).header("x-target").as_deref(), Some("/calm"));
}

/// Asks a hundred times; returns how many answers there were.
async fn storm(address: std::net::SocketAddr, mut chance: fastrand::Rng) -> u32 {
    let mut client = Client::of(address);
    let mut good = 0;
    for _ in 0..100 {
        let id = format!("/echo/{:016x}", chance.u64(..));
        match chance.u8(0..10) {
            0 => {
                let trouble = ["/half", "/close", "/reset", "/stale", "/slow"];
                let target = trouble[chance.usize(..trouble.len())];
                let _ = client.try_send(&Request::post(target, "x")).await;
            }
            1 => {
                // Leaves while the endpoint thinks, or in the middle of the question.
                let whole = Request::post("/hang", vec![b'x'; 5000]).bytes();
                let part = chance.usize(1..=whole.len());
                drop(client.begin(&whole[..part]).await);
            }
            _ => {
                let body = id.repeat(chance.usize(1..500));
                let mut request = Request::post(&id, body.clone());
                if chance.bool() {
                    request = request.chunked();
                }
                let answer = client.send(&request).await;
                let answer = answer.expect(200);
                assert_eq!(answer.header("x-target"), Some(id));
                assert!(answer.body == body.as_bytes());
                good += 1;
            }
        }
    }
    good
}

#[tokio::test]
async fn an_endpoint_that_drips_is_waited_for_and_streams_through() {
    let (_model, proxy) = proxy_before(Script::drips());
    let watch = Stopwatch::start();
    let wire = proxy.client().begin(Request::get("/").bytes()).await;
    // Others are served meanwhile.
    assert_eq!(proxy.get("http://a/..").await.status, 400);
    assert!(watch.elapsed() < secs(20));
    drop(wire);
}
