//! The rules of HTTP/2 (RFC 9113) and HPACK (RFC 7541), each broken by a raw frame: what is
//! wrong ends the stream or the connection with the code that the clause names, and what is
//! only unknown does not.

mod case;

use serin_testkit::{fields, flag, frame, kind};

use case::*;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const COMPRESSION_ERROR: u32 = 9;

const ENABLE_PUSH: u16 = 2;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn frames_are_as_they_have_to_be() {
    let ping = |flags, stream, bytes: &[u8]| frame(kind::PING, flags, stream, bytes);
    check(vec![
        ("4.1 an unknown kind", vec![frame(0x16, 0, 0, b"12345678")], Alive),
        ("4.1 undefined flags", vec![ping(0x16, 0, b"12345678")], Alive),
        ("4.1 the reserved bit", vec![ping(0, 0x8000_0000, b"12345678")], Alive),
        ("4.2 DATA of 16384", vec![headers(OPEN, 1, &post()), data(1, 1, &[0; 16384])], Answer),
        (
            "4.2 DATA of 16385",
            vec![headers(OPEN, 1, &post()), data(1, 1, &[0; 16385])],
            Reset(&[FRAME_SIZE_ERROR]),
        ),
        ("4.2 HEADERS of 16385", vec![headers(WHOLE, 1, &[0; 16385])], Cut(&[FRAME_SIZE_ERROR])),
        (
            "4.3 PRIORITY within a block",
            vec![headers(1, 1, &get()), frame(kind::PRIORITY, 0, 1, &[0; 5])],
            Cut(&[PROTOCOL_ERROR]),
        ),
        (
            "4.3 HEADERS within a block",
            vec![headers(1, 1, &get()), headers(WHOLE, 3, &get())],
            Cut(&[PROTOCOL_ERROR]),
        ),
        (
            "5.5 an unknown kind within a block",
            vec![headers(1, 1, &get()), frame(0x16, 0, 1, b"1")],
            Cut(&[PROTOCOL_ERROR]),
        ),
        ("6.1 DATA on 0", vec![data(1, 0, b"x")], Cut(&[PROTOCOL_ERROR])),
        (
            "6.1 DATA, all padding and more",
            vec![headers(OPEN, 1, &post()), data(flag::PADDED | 1, 1, &[9, b'x'])],
            Cut(&[PROTOCOL_ERROR]),
        ),
        (
            "6.1 DATA with padding",
            vec![headers(OPEN, 1, &post()), data(flag::PADDED | 1, 1, &[1, b'x', 0])],
            Answer,
        ),
        ("6.2 HEADERS on 0", vec![headers(WHOLE, 0, &get())], Cut(&[PROTOCOL_ERROR])),
        (
            "6.2 HEADERS, all padding and more",
            vec![headers(WHOLE | flag::PADDED, 1, &[9, 0x88])],
            Cut(&[PROTOCOL_ERROR]),
        ),
        (
            "6.2 HEADERS with padding",
            vec![headers(WHOLE | flag::PADDED, 1, &[&[1][..], &get(), &[0]].concat())],
            Answer,
        ),
        (
            "6.2 HEADERS with priority",
            vec![headers(WHOLE | flag::PRIORITY, 1, &[&[0, 0, 0, 0, 9][..], &get()].concat())],
            Answer,
        ),
        ("6.3 PRIORITY on 0", vec![frame(kind::PRIORITY, 0, 0, &[0; 5])], Cut(&[PROTOCOL_ERROR])),
        (
            "6.3 PRIORITY of 4",
            vec![headers(OPEN, 1, &post()), frame(kind::PRIORITY, 0, 1, &[0; 4])],
            Reset(&[FRAME_SIZE_ERROR]),
        ),
        (
            "6.3 PRIORITY of an idle stream",
            vec![frame(kind::PRIORITY, 0, 9, &[0, 0, 0, 0, 1]), headers(WHOLE, 1, &get())],
            Answer,
        ),
        ("6.4 RST_STREAM on 0", vec![reset(0)], Cut(&[PROTOCOL_ERROR])),
        ("6.4 RST_STREAM of an idle stream", vec![reset(1)], Cut(&[PROTOCOL_ERROR])),
        (
            "6.4 RST_STREAM of 3",
            vec![headers(OPEN, 1, &post()), frame(kind::RST_STREAM, 0, 1, &[0; 3])],
            Cut(&[FRAME_SIZE_ERROR]),
        ),
        ("6.7 PING", vec![ping(0, 0, b"12345678")], Alive),
        ("6.7 PING, acknowledged by nobody", vec![ping(flag::ACK, 0, b"12345678")], Alive),
        ("6.7 PING on 1", vec![ping(0, 1, b"12345678")], Cut(&[PROTOCOL_ERROR])),
        ("6.7 PING of 6", vec![ping(0, 0, b"123456")], Cut(&[FRAME_SIZE_ERROR])),
        ("6.8 GOAWAY on 1", vec![frame(kind::GOAWAY, 0, 1, &[0; 8])], Cut(&[PROTOCOL_ERROR])),
        (
            "7 RST_STREAM with an unknown code",
            vec![headers(OPEN, 1, &post()), frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 0xff])],
            Alive,
        ),
        (
            "8.4 PUSH_PROMISE",
            vec![
                headers(OPEN, 1, &post()),
                frame(kind::PUSH_PROMISE, OPEN, 1, &[&[0, 0, 0, 2][..], &get()].concat()),
            ],
            Cut(&[PROTOCOL_ERROR]),
        ),
    ])
    .await;
}

#[tokio::test]
async fn settings_and_windows_keep_their_limits() {
    let acknowledged = frame(kind::SETTINGS, flag::ACK, 0, &[]);
    check(vec![
        (
            "6.5 SETTINGS ACK with a payload",
            vec![frame(kind::SETTINGS, flag::ACK, 0, &[0; 6])],
            Cut(&[FRAME_SIZE_ERROR]),
        ),
        ("6.5 SETTINGS on 1", vec![frame(kind::SETTINGS, 0, 1, &[])], Cut(&[PROTOCOL_ERROR])),
        ("6.5 SETTINGS of 3", vec![frame(kind::SETTINGS, 0, 0, &[0; 3])], Cut(&[FRAME_SIZE_ERROR])),
        ("6.5.2 ENABLE_PUSH 2", vec![settings(ENABLE_PUSH, 2)], Cut(&[PROTOCOL_ERROR])),
        (
            "6.5.2 INITIAL_WINDOW_SIZE too large",
            vec![settings(INITIAL_WINDOW_SIZE, 1 << 31)],
            Cut(&[FLOW_CONTROL_ERROR]),
        ),
        (
            "6.5.2 MAX_FRAME_SIZE too small",
            vec![settings(MAX_FRAME_SIZE, 16383)],
            Cut(&[PROTOCOL_ERROR]),
        ),
        (
            "6.5.2 MAX_FRAME_SIZE too large",
            vec![settings(MAX_FRAME_SIZE, 1 << 24)],
            Cut(&[PROTOCOL_ERROR]),
        ),
        ("6.5.2 an unknown setting", vec![settings(0xff, 1)], Alive),
        ("6.5.3 SETTINGS ACK in return", vec![acknowledged], Alive),
        ("6.9 WINDOW_UPDATE of 0 on 0", vec![window(0, 0)], Cut(&[PROTOCOL_ERROR])),
        (
            "6.9 WINDOW_UPDATE of 0 on 1",
            vec![headers(OPEN, 1, &post()), window(1, 0)],
            Reset(&[PROTOCOL_ERROR]),
        ),
        (
            "6.9 WINDOW_UPDATE of 3",
            vec![frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3])],
            Cut(&[FRAME_SIZE_ERROR]),
        ),
        (
            "6.9.1 a window beyond 2^31 on 0",
            vec![window(0, 0x7fff_ffff), window(0, 0x7fff_ffff)],
            Cut(&[FLOW_CONTROL_ERROR]),
        ),
        (
            "6.9.1 a window beyond 2^31 on 1",
            vec![headers(OPEN, 1, &post()), window(1, 0x7fff_ffff), window(1, 0x7fff_ffff)],
            Reset(&[FLOW_CONTROL_ERROR]),
        ),
        (
            "6.9.2 a window beyond 2^31 by a setting",
            vec![
                headers(OPEN, 1, &post()),
                window(1, 0x7fff_0000),
                settings(INITIAL_WINDOW_SIZE, 0x7fff_ffff),
            ],
            Cut(&[FLOW_CONTROL_ERROR]),
        ),
    ])
    .await;
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn streams_go_through_their_states() {
    let request = || headers(WHOLE, 1, &get());
    let upload = || headers(OPEN, 1, &post());
    let again = || headers(WHOLE, 1, &get());
    check(vec![
        ("5.1 idle: DATA", vec![data(1, 1, b"x")], Cut(&[PROTOCOL_ERROR])),
        ("5.1 idle: WINDOW_UPDATE", vec![window(1, 100)], Cut(&[PROTOCOL_ERROR])),
        ("5.1 idle: CONTINUATION", vec![continuation(OPEN, 1, &get())], Cut(&[PROTOCOL_ERROR])),
        ("5.1 half closed: DATA", vec![request(), data(1, 1, b"x")], Reset(&[STREAM_CLOSED])),
        ("5.1 half closed: HEADERS", vec![request(), again()], Reset(&[STREAM_CLOSED])),
        (
            "5.1 half closed: CONTINUATION",
            vec![request(), continuation(OPEN, 1, &get())],
            Cut(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        ("5.1 reset: DATA", vec![upload(), reset(1), data(1, 1, b"x")], Reset(&[STREAM_CLOSED])),
        (
            "5.1 reset: HEADERS",
            vec![upload(), reset(1), again()],
            Reset(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        (
            "5.1 reset: CONTINUATION",
            vec![upload(), reset(1), continuation(OPEN, 1, &get())],
            Cut(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        ("5.1.1 an even stream", vec![headers(WHOLE, 2, &get())], Cut(&[PROTOCOL_ERROR])),
        (
            "5.1.1 a stream from before",
            vec![headers(WHOLE, 5, &get()), headers(WHOLE, 3, &get())],
            Reset(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        (
            "5.1.2 streams beyond the limit",
            (0..101).map(|n| headers(OPEN, 2 * n + 1, &post())).collect(),
            Reset(&[REFUSED_STREAM, PROTOCOL_ERROR]),
        ),
        (
            "6.10 CONTINUATION in pieces",
            vec![
                headers(1, 1, &get()[..9]),
                continuation(0, 1, &get()[9..20]),
                continuation(OPEN, 1, &get()[20..]),
            ],
            Answer,
        ),
        (
            "6.10 CONTINUATION on 0",
            vec![headers(1, 1, &get()), continuation(OPEN, 0, &[])],
            Cut(&[PROTOCOL_ERROR]),
        ),
        (
            "6.10 CONTINUATION behind a whole block",
            vec![upload(), continuation(OPEN, 1, &get())],
            Cut(&[PROTOCOL_ERROR]),
        ),
        (
            "6.10 CONTINUATION behind a whole one",
            vec![headers(0, 1, &post()), continuation(OPEN, 1, &[]), continuation(OPEN, 1, &get())],
            Cut(&[PROTOCOL_ERROR]),
        ),
        (
            "6.10 CONTINUATION behind DATA",
            vec![upload(), data(0, 1, b"x"), continuation(OPEN, 1, &get())],
            Cut(&[PROTOCOL_ERROR]),
        ),
        (
            "6.10 DATA within a block",
            vec![headers(0, 1, &post()), data(1, 1, b"x")],
            Cut(&[PROTOCOL_ERROR]),
        ),
        (
            "8.1 trailers that end nothing",
            vec![upload(), data(0, 1, b"x"), headers(OPEN, 1, &fields([("x", "y")]))],
            Reset(&[PROTOCOL_ERROR]),
        ),
        (
            "8.1 trailers",
            vec![upload(), data(0, 1, b"x"), headers(WHOLE, 1, &fields([("x", "y")]))],
            Answer,
        ),
    ])
    .await;
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn heads_that_http1_would_read_otherwise_are_refused() {
    let (m, s, p, a) =
        ((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "h"));
    let upload = |length: &str| {
        let length = fields([("content-length", length)]);
        headers(OPEN, 1, &[post(), length].concat())
    };
    let malformed = Reset(&[PROTOCOL_ERROR]);
    // In one piece: of two, the first may be answered before the second is there.
    let more = vec![upload("1"), [data(0, 1, b"x"), data(1, 1, b"y")].concat()];
    let seen = check(vec![("8.1.1 more than was said", more, malformed)]).await;
    assert!(seen.iter().all(|one| b"x".starts_with(&one.body)), "{seen:?}");
    check_heads(vec![
        ("8.2.1 a name in capitals", vec![with(&[("X-A", "b")])], malformed),
        ("8.2.1 a name with a colon", vec![with(&[("x:a", "b")])], malformed),
        ("8.2.1 a name with a space", vec![with(&[("x a", "b")])], malformed),
        (
            "8.2.1 an empty name",
            vec![with(&[("", "b")])],
            Reset(&[PROTOCOL_ERROR, COMPRESSION_ERROR]),
        ),
        ("8.2.1 a value with NUL", vec![with(&[("x", "a\0b")])], malformed),
        ("8.2.1 a value with CR", vec![with(&[("x", "a\rb: c")])], malformed),
        ("8.2.1 a value with LF", vec![with(&[("x", "a\nb: c")])], malformed),
        ("8.2.1 a value behind a space", vec![with(&[("x", " b")])], Refused),
        ("8.2.1 a value before a tab", vec![with(&[("x", "b\t")])], Refused),
        ("8.2.2 connection", vec![with(&[("connection", "keep-alive")])], malformed),
        ("8.2.2 keep-alive", vec![with(&[("keep-alive", "1")])], malformed),
        ("8.2.2 proxy-connection", vec![with(&[("proxy-connection", "close")])], malformed),
        ("8.2.2 transfer-encoding", vec![with(&[("transfer-encoding", "chunked")])], malformed),
        ("8.2.2 upgrade", vec![with(&[("upgrade", "h2c")])], malformed),
        ("8.2.2 te: gzip", vec![with(&[("te", "trailers, gzip")])], malformed),
        ("8.2.2 te: trailers", vec![with(&[("te", "trailers")])], Answer),
        ("8.3 an unknown pseudo-field", vec![with(&[(":test", "x")])], malformed),
        ("8.3 a response's pseudo-field", vec![with(&[(":status", "200")])], malformed),
        ("8.3 a pseudo-field behind others", vec![only(&[m, s, a, ("x", "y"), p])], malformed),
        (
            "8.3 a pseudo-field in trailers",
            vec![headers(OPEN, 1, &post()), headers(WHOLE, 1, &fields([m]))],
            malformed,
        ),
        ("8.3.1 no method", vec![only(&[s, p, a])], malformed),
        ("8.3.1 no scheme", vec![only(&[m, p, a])], malformed),
        ("8.3.1 no path", vec![only(&[m, s, a])], malformed),
        ("8.3.1 an empty path", vec![only(&[m, s, (":path", ""), a])], malformed),
        ("8.3.1 two methods", vec![only(&[m, m, s, p, a])], malformed),
        ("8.3.1 two schemes", vec![only(&[m, s, s, p, a])], malformed),
        ("8.3.1 two paths", vec![only(&[m, s, p, p, a])], malformed),
        ("8.3.1 two authorities", vec![only(&[m, s, p, a, a])], malformed),
        (
            "8.3.1 a method that is none",
            vec![only(&[(":method", "G ET"), s, p, a])],
            Reset(&[PROTOCOL_ERROR, COMPRESSION_ERROR]),
        ),
        ("8.3.1 a path without a slash", vec![only(&[m, s, (":path", "x"), a])], Refused),
        ("8.3.1 a path that is not ASCII", vec![only(&[m, s, (":path", "/\u{fc}"), a])], Refused),
        ("RFC 9110 5.6.2 a name with a quote", vec![with(&[("x\"y", "b")])], Refused),
        ("RFC 9110 8.6 content_length", vec![with(&[("content_length", "5")])], Refused),
        ("8.3.1 a path with a space", vec![only(&[m, s, (":path", "/a HTTP/1.1"), a])], Refused),
        ("8.3.1 a path with a line", vec![only(&[m, s, (":path", "/\r\nx: y"), a])], Refused),
        ("8.3.1 an asterisk without OPTIONS", vec![only(&[m, s, (":path", "*"), a])], Refused),
        ("8.3.1 another scheme", vec![only(&[m, (":scheme", "ftp"), p, a])], Refused),
        ("8.3.1 no host at all", vec![only(&[m, s, p])], Refused),
        ("8.3.1 a host for an authority", vec![only(&[m, s, p, ("host", "h")])], Answer),
        ("8.3.1 two hosts, the same", vec![with(&[("host", "models.example.com")])], Answer),
        ("8.3.1 two hosts, not the same", vec![with(&[("host", "other")])], Refused),
        ("8.3.1 user information", vec![only(&[m, s, p, (":authority", "u:p@h")])], Refused),
        ("8.3.1 an authority with a path", vec![only(&[m, s, p, (":authority", "h/x")])], Refused),
        ("8.1.1 less than was said", vec![upload("2"), data(1, 1, b"x")], malformed),
        (
            "8.1.1 as much as was said",
            vec![upload("2"), data(0, 1, b"x"), data(1, 1, b"y")],
            Answer,
        ),
        (
            "8.1.1 nothing, though said",
            vec![headers(WHOLE, 1, &[post(), fields([("content-length", "1")])].concat())],
            malformed,
        ),
        (
            "RFC 9110 8.6 two lengths",
            vec![headers(
                OPEN,
                1,
                &[post(), fields([("content-length", "1"), ("content-length", "2")])].concat(),
            )],
            Refused,
        ),
        ("RFC 9110 8.6 a length that is none", vec![upload("+1")], Refused),
        ("8.5 CONNECT", vec![only(&[(":method", "CONNECT"), (":authority", "h:1")])], NotServed),
        (
            "8.5 CONNECT with a path",
            vec![only(&[(":method", "CONNECT"), s, p, (":authority", "h:1")])],
            malformed,
        ),
    ])
    .await;
}

#[tokio::test]
async fn hpack_is_read_as_it_has_to_be() {
    let bad = Cut(&[COMPRESSION_ERROR]);
    let update = [&[0x20][..], &get()].concat();
    let huge = [&[0x3f, 0xe2, 0x1f][..], &get()].concat();
    check(vec![
        ("4.3 a block that is none", vec![headers(WHOLE, 1, &[0xff, 0xff, 0xff])], bad),
        ("RFC 7541 2.3.3 an index beyond the tables", vec![packed(&[0xc6])], bad),
        ("RFC 7541 6.1 index 0", vec![packed(&[0x80])], bad),
        ("RFC 7541 4.2 a new size behind fields", vec![packed(&[0x20])], bad),
        ("RFC 7541 4.2 a new size before fields", vec![headers(WHOLE, 1, &update)], Answer),
        ("RFC 7541 6.3 a size beyond the limit", vec![headers(WHOLE, 1, &huge)], bad),
        (
            "RFC 7541 5.2 padding of eight bits",
            vec![packed(&[0x00, 0x81, 0xf3, 0x82, 0x07, 0xff])],
            bad,
        ),
        ("RFC 7541 5.2 padding of zeros", vec![packed(&[0x00, 0x01, b'x', 0x81, 0x00])], bad),
        (
            "RFC 7541 5.2 an end within",
            vec![packed(&[0x00, 0x01, b'x', 0x84, 0xff, 0xff, 0xff, 0xff])],
            bad,
        ),
        ("RFC 7541 5.1 a length beyond the block", vec![packed(&[0x00, 0x7f])], bad),
    ])
    .await;
}
