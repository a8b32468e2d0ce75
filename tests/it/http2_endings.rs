//! How requests to an HTTP/2 endpoint end before their time: it leaves, resets, breaks or says
//! nothing more, or a client does.

use http_body_util::BodyExt;
use serin_testkit::{
    Frame, FrameListener, Frames, Request, Stopwatch, fields, flag, kind, secs, setting, within,
};

use crate::http2_endpoints::{answer, before, get, request};

const INITIAL_WINDOW_SIZE: u16 = 4;

const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;

async fn goaway(endpoint: &mut Frames, last: u32) {
    let payload = [last.to_be_bytes(), NO_ERROR.to_be_bytes()].concat();
    endpoint.send(kind::GOAWAY, 0, 0, &payload).await;
}

fn data(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Frame {
    Frame { kind, flags, stream, payload: payload.to_vec() }
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
    let told = Stopwatch::start();
    endpoint.send(kind::DATA, 0, stream, b"first").await;
    let stream = request(&mut endpoint).await;
    // Without the rule it would be as long as it may be idle: a minute.
    assert!(told.elapsed() < secs(10), "{:?}", told.elapsed());
    answer(&mut endpoint, stream, "second").await;
    let answers = within("both answers", asked).await.unwrap();
    assert_eq!(answers, ("first".to_owned(), "second".to_owned()));
}
