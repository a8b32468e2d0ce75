use super::*;

/// Reads `text`, given in pieces of `step` bytes: method, target, host, framing, whether the
/// connection is kept; or the status of the refusal.
fn read(text: &str, step: usize) -> Result<(String, Framing, bool), u16> {
    let (mut input, mut empty) = (BytesMut::new(), EmptyLines::default());
    for piece in text.as_bytes().chunks(step) {
        input.extend_from_slice(piece);
        match decode(&mut input, &mut empty) {
            Ok(Some(head)) => {
                let host = head.request.fields.text(Known::Host);
                let line = format!("{} {} {host:?}", head.request.method, head.request.uri);
                return Ok((line, head.framing, head.keep_alive));
            }
            Ok(None) => {}
            Err(error) => return Err(error.status().unwrap().as_u16()),
        }
    }
    Err(0)
}

fn check(text: &str, expected: Result<(&str, Framing, bool), u16>) {
    let expected = expected.map(|(line, framing, keep)| (line.to_owned(), framing, keep));
    for step in [1, 2, 3, 7, text.len()] {
        assert_eq!(read(text, step), expected, "{text:?} in steps of {step}");
    }
}

#[test]
fn a_request_is_read_the_same_however_it_arrives() {
    let ended = Framing::Ended;
    for (text, line, framing, keep) in [
        ("GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n", "GET /a?b Some(\"h\")", ended, true),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", "GET / Some(\"h\")", ended, true),
        ("GET / HTTP/1.7\r\nHost: h\r\n\r\n", "GET / Some(\"h\")", ended, true),
        ("GET / HTTP/1.0\r\n\r\n", "GET / Some(\"\")", ended, false),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET / Some(\"\")", ended, true),
        (
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n",
            "GET / Some(\"h\")",
            ended,
            false,
        ),
        ("GET http://o:1/a HTTP/1.1\r\nHost: h\r\n\r\n", "GET /a Some(\"o:1\")", ended, true),
        ("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "OPTIONS * Some(\"h\")", ended, true),
        ("OPTIONS http://o HTTP/1.1\r\nHost: h\r\n\r\n", "OPTIONS * Some(\"o\")", ended, true),
        ("OPTIONS http://o/ HTTP/1.1\r\nHost: h\r\n\r\n", "OPTIONS / Some(\"o\")", ended, true),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 007\r\n\r\n",
            "POST / Some(\"h\")",
            Framing::Length(7),
            true,
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
            "POST / Some(\"h\")",
            ended,
            true,
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n",
            "POST / Some(\"h\")",
            Framing::Chunked,
            true,
        ),
    ] {
        check(text, Ok((line, framing, keep)));
    }
}

#[test]
fn heads_in_doubt_are_refused_however_they_arrive() {
    for (text, status) in [
        ("GET / HTTP/1.1\nHost: h\n\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
        ("GET /#f HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", 501),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", 400),
        ("POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer_Encoding: chunked\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nExpect: miracles\r\n\r\n", 417),
    ] {
        check(text, Err(status));
    }
}

#[test]
fn what_is_too_large_is_named() {
    let head = |target: usize, field: usize| {
        let (target, field) = ("a".repeat(target), "b".repeat(field));
        format!("GET /{target} HTTP/1.1\r\nHost: h\r\nx: {field}\r\n\r\n")
    };
    let status = |text: &str| read(text, text.len()).map_or_else(|status| status, |_| 200);
    assert_eq!(status(&head(8_000, 40_000)), 200);
    assert_eq!(status(&head(TARGET_BYTES_MAX, 0)), 414);
    assert_eq!(status(&head(1 << 20, 0)), 414);
    assert_eq!(status(&head(1, HEAD_BYTES_MAX)), 431);
    let fields = "x: 1\r\n".repeat(FIELDS_MAX + 1);
    assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n")), 431);
    let method = "M".repeat(METHOD_BYTES_MAX + 1);
    assert_eq!(status(&format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n")), 501);
}

#[test]
fn other_protocols_are_asked_for_in_one_way() {
    let upgrade = |fields: &str| {
        let text = format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let head = decode(&mut BytesMut::from(text.as_str()), &mut EmptyLines::default());
        let head = head.unwrap().unwrap();
        head.request.upgrade.is_some()
    };
    assert!(upgrade("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"));
    assert!(!upgrade("Upgrade: websocket\r\n"));
    assert!(!upgrade("Connection: upgrade\r\n"));
    assert!(!upgrade("Connection: upgrade\r\nUpgrade: h2c\r\n"));
    assert!(!upgrade("Connection: upgrade\r\nUpgrade: websocket, H2C\r\n"));
    assert!(!upgrade("Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n"));
    assert!(!upgrade("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n"));
}
