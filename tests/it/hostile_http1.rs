//! What clients and endpoints must not get through: each case with the clause that says so.
//!
//! Every case is sent with another request behind it on the same connection. What is refused
//! takes that one with it; what passes leaves it a request of its own.

use std::fmt::Write;

use serin_testkit::{Backend, Client, End, Proxy, Request, Script, Seen, within};

/// Sent behind every case.
const AFTER: &str = "GET /after HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

/// An endpoint that echoes, and a proxy before it.
fn world() -> (Backend, Proxy) {
    let model = Backend::named("model").does(Script::echoes()).start();
    let proxy = Proxy::to(&model, "").start();
    (model, proxy)
}

/// The statuses of all answers in `bytes`.
fn statuses(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.match_indices("HTTP/1.1 ").map(|(at, _)| &text[at + 9..]);
    lines.filter_map(|line| line.get(..3)?.parse().ok()).collect()
}

/// Sends each case and wants one answer with the status and nothing at the endpoint.
async fn refused(cases: &[(&str, &str, u16)]) {
    let (model, proxy) = world();
    let mut faults = String::new();
    for (clause, case, status) in cases {
        let before = model.requests();
        let mut wire = proxy.client().begin(format!("{case}{AFTER}")).await;
        let came = within(clause, wire.rest()).await;
        let got = statuses(&came);
        let passed = model.requests() - before;
        if got != [*status] || passed != 0 {
            let _ =
                writeln!(faults, "{clause}: {case:?} got {got:?}, not {status}; {passed} passed");
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

/// Sends each case and wants it at the endpoint as `line` with `fields` and `body`, byte for byte
/// beside what Serin adds, and the next request behind it on the same connection.
async fn passed(cases: &[(&str, &str, &str, &str, &str)]) {
    let (model, proxy) = world();
    let mut faults = String::new();
    for (clause, case, line, fields, body) in cases {
        let before = model.seen().len();
        let mut wire = proxy.client().begin(format!("{case}{AFTER}")).await;
        let came = within(clause, wire.rest()).await;
        let got = statuses(&came);
        let seen: Vec<_> = model.seen().drain(before..).collect();
        let expected = [(*line, *fields, *body), ("GET /after HTTP/1.1", "host: h\r\n", "")];
        let as_expected = seen.len() == 2
            && seen[0].connection == seen[1].connection
            && seen.iter().zip(expected).all(|(seen, expected)| is_exactly(seen, expected));
        if got.iter().filter(|status| **status >= 200).ne(&[200, 200]) || !as_expected {
            let heads = seen.iter().map(|seen| String::from_utf8_lossy(&seen.head.raw));
            let saw: Vec<_> = heads.zip(&seen).map(|(head, one)| (head, one.body.len())).collect();
            let _ = writeln!(faults, "{clause}: {case:?} got {got:?}, endpoint saw {saw:?}");
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

/// Whether it came as `line` with `fields`, what Serin adds, and `body`, and with nothing else.
fn is_exactly(seen: &Seen, (line, fields, body): (&str, &str, &str)) -> bool {
    let host = match seen.header("host").as_str() {
        "" => String::new(),
        host => format!("x-forwarded-host: {host}\r\n"),
    };
    let (id, trace) = (seen.header("x-request-id"), seen.header("traceparent"));
    let is_hex = |text: &str| text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    let head = format!(
        "{line}\r\n{fields}x-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\n{host}\
         x-request-id: {id}\r\ntraceparent: {trace}\r\n\r\n"
    );
    seen.head.raw == head.as_bytes()
        && (id.len(), trace.len()) == (36, 55)
        && is_hex(&id)
        && is_hex(&trace)
        && seen.body == body.as_bytes()
        && seen.trailers.is_empty()
        && seen.end == End::Whole
}

#[tokio::test]
async fn request_lines_in_doubt_are_refused() {
    refused(&[
        ("9112 3: bare LF", "GET / HTTP/1.1\nHost: h\n\n", 400),
        ("9112 3: bare LF in the line alone", "GET / HTTP/1.1\nHost: h\r\n\r\n", 400),
        ("9112 3: bare CR", "GET / HTTP/1.1\rHost: h\r\n\r\n", 400),
        ("9112 3: two spaces", "GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("9112 3: two spaces before the version", "GET /  HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("9112 3: a tab", "GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("9112 3: space in front", " GET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("9112 3: space behind", "GET / HTTP/1.1 \r\nHost: h\r\n\r\n", 400),
        ("9112 3: no version", "GET /\r\nHost: h\r\n\r\n", 400),
        ("9112 3: no target", "GET HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("9112 3: no method", "/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("9112 3: words behind", "GET / HTTP/1.1 x\r\nHost: h\r\n\r\n", 400),
        ("9112 3.1: a method with a colon", "G:T / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("9112 3.1: a method with NUL", "G\0T / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("9112 2.3: version 2.0", "GET / HTTP/2.0\r\nHost: h\r\n\r\n", 400),
        ("9112 2.3: version 0.9", "GET / HTTP/0.9\r\nHost: h\r\n\r\n", 400),
        ("9112 2.3: version 1.10", "GET / HTTP/1.10\r\nHost: h\r\n\r\n", 400),
        ("9112 2.3: version 1", "GET / HTTP/1\r\nHost: h\r\n\r\n", 400),
        ("9112 2.3: version 01.1", "GET / HTTP/01.1\r\nHost: h\r\n\r\n", 400),
        ("9112 2.3: lower case", "GET / http/1.1\r\nHost: h\r\n\r\n", 400),
        ("9112 2.3: another protocol", "GET / HTCPCP/1.0\r\nHost: h\r\n\r\n", 400),
        ("9112 3.2: a fragment", "GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("9112 3.2: no slash", "GET a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("9112 3.2: not ASCII", "GET /ü HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("9112 3.2: NUL", "GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("9112 3.2: DEL", "GET /\x7f HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("9112 3.2.4: asterisk of GET", "GET * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("9112 3.2.3: authority of GET", "GET h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("9112 3.2.3: CONNECT", "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", 501),
        ("9112 3.2.2: another scheme", "GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("9112 3.2.2: no host", "GET http:///a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("9110 4.2.4: userinfo", "GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (
            "9110 4.2.4: userinfo with a host in it",
            "GET http://h\\@i/ HTTP/1.1\r\nHost: h\r\n\r\n",
            400,
        ),
        (
            "3986 5.2.4: above the root",
            "GET /../a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
            400,
        ),
        (
            "3986 5.2.4: above the root, encoded",
            "GET /a/%2e%2E/..%2f/../../.. HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
            400,
        ),
    ])
    .await;
}

#[tokio::test]
async fn hosts_in_doubt_are_refused() {
    refused(&[
        ("9112 3.2: none", "GET / HTTP/1.1\r\n\r\n", 400),
        ("9112 3.2: two", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("9112 3.2: two alike", "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", 400),
        ("9112 3.2: two and a URL", "GET http://c/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("9112 3.2: a URL and none", "GET http://c/ HTTP/1.1\r\n\r\n", 400),
        ("9112 3.2: two in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("9110 7.2: a list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
        ("9110 7.2: userinfo", "GET / HTTP/1.1\r\nHost: u:p@a\r\n\r\n", 400),
        ("9110 7.2: a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("9110 7.2: a scheme", "GET / HTTP/1.1\r\nHost: http://a\r\n\r\n", 400),
        ("9110 7.2: a space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("9110 7.2: a port that is none", "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
        ("9110 7.2: two ports", "GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", 400),
        ("9110 7.2: half an address", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
        ("9112 5.1: a space before the colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    ])
    .await;
}

#[tokio::test]
async fn fields_in_doubt_are_refused() {
    refused(&[
        ("9112 5.1: space before the colon", "GET / HTTP/1.1\r\nHost: h\r\nx : y\r\n\r\n", 400),
        ("9112 5.1: tab before the colon", "GET / HTTP/1.1\r\nHost: h\r\nx\t: y\r\n\r\n", 400),
        ("9112 2.2: space before the first field", "GET / HTTP/1.1\r\n Host: h\r\n\r\n", 400),
        ("9112 5.2: folded", "GET / HTTP/1.1\r\nHost: h\r\nx: a\r\n b\r\n\r\n", 400),
        ("9112 5.2: folded by a tab", "GET / HTTP/1.1\r\nHost: h\r\nx: a\r\n\tb\r\n\r\n", 400),
        (
            "9112 5.2: folded into a length",
            "POST / HTTP/1.1\r\nHost: h\r\nx: a\r\n Content-Length: 5\r\n\r\nhello",
            400,
        ),
        ("9110 5.1: no name", "GET / HTTP/1.1\r\nHost: h\r\n: y\r\n\r\n", 400),
        ("9110 5.1: no colon", "GET / HTTP/1.1\r\nHost: h\r\nxy\r\n\r\n", 400),
        ("9110 5.1: a name in quotes", "GET / HTTP/1.1\r\nHost: h\r\n\"x\": y\r\n\r\n", 400),
        ("9110 5.1: a name with NUL", "GET / HTTP/1.1\r\nHost: h\r\nx\0: y\r\n\r\n", 400),
        ("9110 5.1: a name with a slash", "GET / HTTP/1.1\r\nHost: h\r\nx/y: y\r\n\r\n", 400),
        ("9110 5.1: a name that is not ASCII", "GET / HTTP/1.1\r\nHost: h\r\nü: y\r\n\r\n", 400),
        ("9110 5.5: NUL", "GET / HTTP/1.1\r\nHost: h\r\nx: a\0b\r\n\r\n", 400),
        ("9110 5.5: bare CR", "GET / HTTP/1.1\r\nHost: h\r\nx: a\rb\r\n\r\n", 400),
        ("9110 5.5: bare LF", "GET / HTTP/1.1\r\nHost: h\r\nx: a\ny: b\r\n\r\n", 400),
        ("9110 5.5: CR CR LF", "GET / HTTP/1.1\r\nHost: h\r\nx: a\r\r\n\r\n", 400),
        ("9110 5.5: DEL", "GET / HTTP/1.1\r\nHost: h\r\nx: a\x7f\r\n\r\n", 400),
        ("9110 5.5: BEL", "GET / HTTP/1.1\r\nHost: h\r\nx: a\x07\r\n\r\n", 400),
        ("9112 2.2: the end by LF alone", "GET / HTTP/1.1\r\nHost: h\r\n\n", 400),
        ("9112 2.2: LF CR", "GET / HTTP/1.1\r\nHost: h\n\r\n\r\n", 400),
        ("9110 10.1.1: another expectation", "GET / HTTP/1.1\r\nHost: h\r\nExpect: x\r\n\r\n", 417),
        (
            "9110 10.1.1: another expectation behind a known one",
            "GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nExpect: x\r\n\r\n",
            417,
        ),
        (
            "9110 7.6.2: TRACE goes no further",
            "TRACE / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\nConnection: close\r\n\r\n",
            501,
        ),
        (
            "9110 7.6.2: nor does OPTIONS",
            "OPTIONS / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\nConnection: close\r\n\r\n",
            501,
        ),
    ])
    .await;
}

/// A POST with `fields` and `body`.
fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n{body}")
}

#[tokio::test]
async fn lengths_in_doubt_are_refused() {
    let values = [
        ("empty", "Content-Length:\r\n"),
        ("a sign", "Content-Length: +5\r\n"),
        ("negative", "Content-Length: -5\r\n"),
        ("hexadecimal", "Content-Length: 0x5\r\n"),
        ("a fraction", "Content-Length: 5.0\r\n"),
        ("letters", "Content-Length: 5a\r\n"),
        ("a space", "Content-Length: 5 5\r\n"),
        ("a list", "Content-Length: 5, 5\r\n"),
        ("a list of two", "Content-Length: 5, 6\r\n"),
        ("too long for 64 bits", "Content-Length: 18446744073709551621\r\n"),
        ("other digits", "Content-Length: \u{0665}\r\n"),
        ("in quotes", "Content-Length: \"5\"\r\n"),
        ("twice", "Content-Length: 5\r\nContent-Length: 5\r\n"),
        ("two of them", "Content-Length: 5\r\nContent-Length: 6\r\n"),
        ("0 and another", "Content-Length: 0\r\ncontent-length: 5\r\n"),
        ("an underscore", "Content_Length: 5\r\n"),
        ("a vertical tab", "Content-Length: \x0b5\r\n"),
        ("with chunks", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        ("behind chunks", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        ("0 with chunks", "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"),
    ];
    let cases: Vec<_> = values
        .iter()
        .map(|(name, fields)| (format!("9112 6.3: {name}"), post(fields, "hello")))
        .collect();
    let cases: Vec<_> = cases.iter().map(|(name, case)| (&**name, &**case, 400)).collect();
    refused(&cases).await;
}

#[tokio::test]
async fn transfer_codings_in_doubt_are_refused() {
    let values = [
        ("unknown", "Transfer-Encoding: xchunked\r\n", 400),
        ("a space in it", "Transfer-Encoding: chunked x\r\n", 400),
        ("a parameter", "Transfer-Encoding: chunked;q=1\r\n", 400),
        ("in quotes", "Transfer-Encoding: \"chunked\"\r\n", 400),
        ("empty", "Transfer-Encoding:\r\n", 400),
        ("identity", "Transfer-Encoding: identity\r\n", 400),
        ("chunked twice", "Transfer-Encoding: chunked, chunked\r\n", 400),
        ("chunked and identity", "Transfer-Encoding: chunked, identity\r\n", 400),
        ("identity and chunked", "Transfer-Encoding: identity, chunked\r\n", 400),
        ("chunked not last", "Transfer-Encoding: chunked, gzip\r\n", 400),
        ("gzip and chunked", "Transfer-Encoding: gzip, chunked\r\n", 501),
        ("gzip alone", "Transfer-Encoding: gzip\r\n", 400),
        ("two fields", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
        ("two of them", "Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n", 400),
        ("an empty one in front", "Transfer-Encoding: , chunked\r\n", 400),
        ("an empty one behind", "Transfer-Encoding: chunked,\r\n", 400),
        ("a vertical tab", "Transfer-Encoding: \x0bchunked\r\n", 400),
        ("a form feed", "Transfer-Encoding: chunked\x0c\r\n", 400),
        ("a space before the colon", "Transfer-Encoding : chunked\r\n", 400),
        ("an underscore", "Transfer_Encoding: chunked\r\n", 400),
        ("behind a bare CR", "x: y\rTransfer-Encoding: chunked\r\n", 400),
        ("behind a bare LF", "x: y\nTransfer-Encoding: chunked\r\n", 400),
        ("folded", "Transfer-Encoding:\r\n chunked\r\n", 400),
        ("a name that begins with a space", " Transfer-Encoding: chunked\r\n", 400),
    ];
    let cases: Vec<_> = values
        .iter()
        .map(|(name, fields, status)| {
            (format!("9112 6.1: {name}"), post(fields, "0\r\n\r\n"), *status)
        })
        .collect();
    let mut cases: Vec<_> =
        cases.iter().map(|(name, c, status)| (&**name, &**c, *status)).collect();
    cases.push((
        "9112 6.1: chunks in HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ));
    refused(&cases).await;
}

#[tokio::test]
async fn chunks_in_doubt_are_refused() {
    let (model, proxy) = world();
    let mut faults = String::new();
    for (name, body) in [
        ("no digits", "\r\nhello\r\n0\r\n\r\n"),
        ("no hexadecimal", "x\r\nhello\r\n0\r\n\r\n"),
        ("a sign", "+5\r\nhello\r\n0\r\n\r\n"),
        ("negative", "-1\r\nhello\r\n0\r\n\r\n"),
        ("0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("a space in front", " 5\r\nhello\r\n0\r\n\r\n"),
        ("a space behind", "5 \r\nhello\r\n0\r\n\r\n"),
        ("more than 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("a bare LF behind the size", "5\nhello\r\n0\r\n\r\n"),
        ("a bare CR behind the size", "5\rhello\r\n0\r\n\r\n"),
        ("a bare LF behind the data", "5\r\nhello\n0\r\n\r\n"),
        ("junk behind the data", "5\r\nhelloX\r\n0\r\n\r\n"),
        ("no line end behind the data", "5\r\nhello0\r\n\r\n"),
        ("a longer chunk than said", "4\r\nhello\r\n0\r\n\r\n"),
        ("a bare LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("a bare CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("NUL in an extension", "5;a\0\r\nhello\r\n0\r\n\r\n"),
        ("a size that is two", "5 5\r\nhello\r\n0\r\n\r\n"),
        ("a comma", "5,\r\nhello\r\n0\r\n\r\n"),
        ("a bare LF at the end", "5\r\nhello\r\n0\n\n"),
        ("a bare LF behind a trailer", "5\r\nhello\r\n0\r\nx: y\n\r\n"),
        ("a trailer with a space in its name", "5\r\nhello\r\n0\r\nx y: z\r\n\r\n"),
        ("a folded trailer", "5\r\nhello\r\n0\r\nx: y\r\n z\r\n\r\n"),
        ("a trailer without a name", "5\r\nhello\r\n0\r\n: z\r\n\r\n"),
    ] {
        let sent = post("Transfer-Encoding: chunked\r\n", body);
        let before = model.seen().len();
        let mut wire = proxy.client().begin(format!("{sent}{AFTER}")).await;
        let came = within(name, wire.rest()).await;
        // The endpoint may have seen a head, but no whole message, and nothing behind it.
        let whole = model.seen().drain(before..).filter(|seen| seen.end == End::Whole).count();
        if statuses(&came) != [400] || whole != 0 {
            let got = statuses(&came);
            let _ = writeln!(faults, "9112 7.1: {name}: {body:?} got {got:?}, {whole} passed");
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

#[tokio::test]
async fn what_is_unusual_and_clear_passes_as_one_message() {
    passed(&[
        ("9112 2.2: an empty line before", "\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n", "GET /a HTTP/1.1", "host: h\r\n", ""),
        ("9110 9.1: another method", "BREW /a HTTP/1.1\r\nHost: h\r\n\r\n", "BREW /a HTTP/1.1", "host: h\r\n", ""),
        ("9110 2.5: a later minor version", "GET /a HTTP/1.9\r\nHost: h\r\n\r\n", "GET /a HTTP/1.1", "host: h\r\n", ""),
        ("9112 3.2.2: a URL outranks the host", "GET http://b/a HTTP/1.1\r\nHost: h\r\n\r\n", "GET /a HTTP/1.1", "host: b\r\n", ""),
        ("9112 3.2.4: asterisk", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "OPTIONS * HTTP/1.1", "host: h\r\n", ""),
        ("9112 3.2.4: a URL without a path", "OPTIONS http://h HTTP/1.1\r\nHost: h\r\n\r\n", "OPTIONS * HTTP/1.1", "host: h\r\n", ""),
        ("9110 7.2: an empty host", "GET /a HTTP/1.1\r\nHost:\r\n\r\n", "GET /a HTTP/1.1", "host: \r\n", ""),
        ("9110 5.5: no space behind the colon", "GET /a HTTP/1.1\r\nHost:h\r\n\r\n", "GET /a HTTP/1.1", "host: h\r\n", ""),
        ("9110 5.5: an empty value", "GET /a HTTP/1.1\r\nHost: h\r\nx:\r\n\r\n", "GET /a HTTP/1.1", "host: h\r\nx: \r\n", ""),
        ("9110 5.5: a value that is not ASCII", "GET /a HTTP/1.1\r\nHost: h\r\nx: ü\r\n\r\n", "GET /a HTTP/1.1", "host: h\r\nx: ü\r\n", ""),
        ("3986 5.2.4: dots", "GET /b/../a/. HTTP/1.1\r\nHost: h\r\n\r\n", "GET /a/ HTTP/1.1", "host: h\r\n", ""),
        ("9110 6.4: a GET with a body", "GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", "GET /a HTTP/1.1", "host: h\r\ncontent-length: 5\r\n", "hello"),
        ("9110 8.6: zeros in front", "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 005\r\n\r\nhello", "POST /a HTTP/1.1", "host: h\r\ncontent-length: 5\r\n", "hello"),
        ("9110 8.6: spaces around", "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length:   5  \r\n\r\nhello", "POST /a HTTP/1.1", "host: h\r\ncontent-length: 5\r\n", "hello"),
        ("9112 7: case does not matter", "POST /a HTTP/1.1\r\nHost: h\r\ntransfer-ENCODING: ChunKed\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "POST /a HTTP/1.1", "host: h\r\ntransfer-encoding: chunked\r\n", "hello"),
        ("9112 7.1: zeros and capitals", "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n000A\r\n0123456789\r\n00\r\n\r\n", "POST /a HTTP/1.1", "host: h\r\ntransfer-encoding: chunked\r\n", "0123456789"),
        ("9112 7.1.1: extensions", "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b;c\" ; d\r\nhello\r\n0;e\r\n\r\n", "POST /a HTTP/1.1", "host: h\r\ntransfer-encoding: chunked\r\n", "hello"),
        ("9112 7.1.2: a trailer that looks as if it framed", "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nContent_Length: 9\r\n\r\n", "POST /a HTTP/1.1", "host: h\r\ntransfer-encoding: chunked\r\n", "hello"),
        ("9112 7.1.2: a trailer that frames", "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n", "POST /a HTTP/1.1", "host: h\r\ntransfer-encoding: chunked\r\n", "hello"),
        ("9112 9.3: a nominated length stays", "POST /a HTTP/1.1\r\nHost: h\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\nhello", "POST /a HTTP/1.1", "host: h\r\ncontent-length: 5\r\n", "hello"),
        ("9110 7.8: h2c is not asked for", "GET /a HTTP/1.1\r\nHost: h\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", "GET /a HTTP/1.1", "host: h\r\n", ""),
        ("9110 10.1.1: a word before the body", "POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", "POST /a HTTP/1.1", "host: h\r\ncontent-length: 5\r\n", "hello"),
    ])
    .await;
}

#[tokio::test]
async fn clients_of_http_1_0_are_served_and_nothing_is_chunked_for_them() {
    let model = Backend::named("model").does(Script::chunks(["one", "two"])).start();
    let proxy = Proxy::to(&model, "").start();
    let mut wire = proxy.client().begin("GET /old HTTP/1.0\r\n\r\n").await;
    let text = String::from_utf8(within("the answer", wire.rest()).await).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("\r\n\r\nonetwo"), "{text}");
    assert!(!text.to_lowercase().contains("transfer-encoding"), "{text}");
    // The endpoint is told of a host all the same.
    assert_eq!(model.last().head.field("host").as_deref(), Some(""));
}

#[tokio::test]
async fn an_answer_of_unknown_length_that_breaks_is_no_answer_for_http_1_0() {
    let model = Backend::named("model").does(Script::half_a_stream()).start();
    let proxy = Proxy::to(&model, "").start();
    // The end of the connection is the end of the answer: only a reset tells that it is not.
    let mut stream = std::net::TcpStream::connect(proxy.address()).unwrap();
    let read = tokio::task::spawn_blocking(move || {
        std::io::Write::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n").unwrap();
        std::io::Read::read_to_end(&mut stream, &mut Vec::new())
    });
    let read = within("the end", read).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn endpoints_that_answer_in_doubt_are_not_believed() {
    let ok = |fields: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}");
    let cases = [
        ("9112 4: a status of two digits", "HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n".into()),
        ("9112 4: a status of four digits", "HTTP/1.1 1000 x\r\ncontent-length: 0\r\n\r\n".into()),
        ("9110 15: status 099", "HTTP/1.1 099 x\r\ncontent-length: 0\r\n\r\n".into()),
        ("9110 15: status 600", "HTTP/1.1 600 x\r\ncontent-length: 0\r\n\r\n".into()),
        ("9112 4: no status", "HTTP/1.1 OK\r\ncontent-length: 0\r\n\r\n".into()),
        ("9112 4: another version", "HTTP/3.0 200 OK\r\ncontent-length: 0\r\n\r\n".into()),
        ("9112 4: another protocol", "ICY 200 OK\r\n\r\n".into()),
        ("9112 2.2: bare LF", "HTTP/1.1 200 OK\ncontent-length: 0\n\n".into()),
        ("9112 5.1: a space before the colon", ok("content-length : 0\r\n", "")),
        ("9112 5.2: folded", ok("x: a\r\n b\r\ncontent-length: 0\r\n", "")),
        ("9110 5.5: NUL", ok("x: a\0\r\ncontent-length: 0\r\n", "")),
        ("9110 5.5: bare CR", ok("x: a\rb\r\ncontent-length: 0\r\n", "")),
        ("9110 5.1: no name", ok(": a\r\ncontent-length: 0\r\n", "")),
        ("9112 6.3: two lengths", ok("content-length: 1\r\ncontent-length: 2\r\n", "ab")),
        ("9112 6.3: a list of lengths", ok("content-length: 1, 2\r\n", "ab")),
        ("9112 6.3: a sign", ok("content-length: +2\r\n", "ab")),
        (
            "9112 6.3: both framings",
            ok("content-length: 2\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
        ),
        ("9112 6.1: gzip, chunked", ok("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n")),
        ("9112 6.1: identity", ok("transfer-encoding: identity\r\n", "ab")),
        (
            "9112 6.1: chunked twice",
            ok("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
        ),
        (
            "9112 6.1: chunks in HTTP/1.0",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        ),
        (
            "9110 15.2.2: nobody asked for 101",
            "HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n".into(),
        ),
    ];
    let mut faults = String::new();
    for (clause, bytes) in cases {
        let model = Backend::named("model").does(Script::says_and_stays(&*bytes)).start();
        let proxy = Proxy::to(&model, "").start();
        let mut client = proxy.client();
        let answer = within(clause, client.try_send(&Request::get("/"))).await;
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        if status != 502 {
            let _ = writeln!(faults, "{clause}: {bytes:?} is answered {status}");
        }
        // Its connection is not used again.
        model.now(Script::answers(200));
        within(clause, client.get("/next")).await.expect(200);
        assert_eq!(model.connections(), 2, "{clause}");
    }
    assert!(faults.is_empty(), "{faults}");
}

#[tokio::test]
async fn endpoints_whose_chunks_are_in_doubt_are_cut_where_the_doubt_begins() {
    for body in [
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nx y: z\r\n\r\n",
        "5\r\nhello\r\n-1\r\n\r\n",
        "5\r\nhello\r\nFFFFFFFFFFFFFFFFF\r\n",
    ] {
        let bytes = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}");
        let model = Backend::named("model").does(Script::says_and_stays(bytes)).start();
        let proxy = Proxy::to(&model, "").start();
        let mut wire = proxy.client().begin(Request::get("/").bytes()).await;
        let text = String::from_utf8(within("the end", wire.rest()).await).unwrap();
        assert!(!text.ends_with("0\r\n\r\n"), "{body:?} ended cleanly: {text:?}");
    }
}

#[tokio::test]
async fn fields_that_connection_nominates_stay_behind_in_both_directions() {
    let said = "HTTP/1.1 200 OK\r\nconnection: x-secret, close\r\nx-secret: 1\r\nx-kept: 1\r\n\
                content-length: 2\r\n\r\nok";
    let model = Backend::named("model").does(Script::says(said)).start();
    let proxy = Proxy::to(&model, "").start();
    let request = Request::get("/")
        .header("Connection", "x-mine, keep-alive, host, content-length")
        .header("X-Mine", "1")
        .header("X-Kept", "1");
    let answer = Client::of(proxy.address()).send(&request).await.expect(200);
    assert_eq!((answer.header("x-secret"), answer.header("x-kept").as_deref()), (None, Some("1")));
    let head = model.last().head;
    assert_eq!((head.field("x-mine"), head.field("x-kept").as_deref()), (None, Some("1")));
    assert!(head.field("host").is_some());
}

#[tokio::test]
async fn a_body_that_trickles_in_is_cut_off_and_blames_nobody() {
    let model = Backend::named("model").start();
    let proxy = Proxy::to(&model, "timeouts: { upload_rate: 1kB }").start();
    // Streams of gRPC may be silent, but there are none over HTTP/1.1, whatever a client says.
    for kind in ["text/plain", "application/grpc"] {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\nContent-Length: 1000000\r\n\r\n"
        );
        let mut slow = proxy.client().begin(head).await;
        let mut head = Box::pin(slow.head());
        let head = loop {
            tokio::select! {
                head = &mut head => break head,
                // Somebody else is served all the while.
                () = tokio::time::sleep(serin_testkit::ms(100)) => {
                    proxy.client().post("/", "quick").await.expect(200);
                }
            }
        };
        let head = head.unwrap();
        // To a client of gRPC an error is a status of its own.
        let said = head.field("grpc-status").unwrap_or_else(|| head.status().to_string());
        assert_eq!(said, if kind == "text/plain" { "408" } else { "4" }, "{kind}: {head:?}");
    }
    let counted = [("outcome", "neutral"), ("code", "408")];
    assert!(proxy.metrics().await.value("serin_attempts_total", &counted) > 1.5);
}

#[tokio::test]
async fn clients_that_only_stay_and_those_that_read_nothing_disturb_nobody() {
    let model = Backend::named("model").start();
    let proxy = Proxy::to(&model, "").start();
    let mut idle = Vec::new();
    for _ in 0..500 {
        idle.push(proxy.client().begin("").await);
    }
    // A pipeline that nobody reads the answers of holds up itself alone.
    let flood = proxy.client().begin(Request::get("/").bytes().repeat(1000)).await;
    for _ in 0..20 {
        proxy.client().get("/").await.expect(200);
    }
    drop((idle, flood));
}

#[tokio::test]
async fn a_head_that_does_not_end_is_refused_before_it_is_kept() {
    let (_model, proxy) = world();
    for head in ["GET / HTTP/1.1\r\nHost: h\r\nx: ", "GET /"] {
        // More than the kernel holds, so that Serin must have read past its own limit.
        let mut wire = proxy.client().begin(head).await;
        let endless = vec![b'a'; 1 << 20];
        let mut sent = 0;
        while sent < 64 && wire.send(&endless).await.is_ok() {
            sent += 1;
        }
        assert!(sent < 64, "{head:?}: all of it was taken");
    }
    for (head, status) in [("GET / HTTP/1.1\r\nHost: h\r\nx: ", 431), ("GET /", 414)] {
        let mut wire = proxy.client().begin(format!("{head}{}", "a".repeat(70_000))).await;
        let came = within("the answer", wire.rest()).await;
        assert_eq!(statuses(&came), [status], "{head:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_reads_nothing_is_not_excused_by_a_client_that_goes_on() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = Proxy::to(&model, "timeouts: { idle: 300ms, first_byte: 300ms }").start();
    let head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut wire = proxy.client().begin(head).await;
    let call = model.next_call().await;
    let chunks = format!("64\r\n{}\r\n", "x".repeat(100)).repeat(1000);
    let answered = async {
        // Until nobody takes any more of it.
        while wire.send(&chunks).await.is_ok() {}
    };
    within("Serin gives up", answered).await;
    drop(call);
    let bad = [("outcome", "bad"), ("code", "504")];
    assert!(proxy.metrics().await.value("serin_attempts_total", &bad) > 0.5);
}
