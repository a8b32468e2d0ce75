use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};

use super::*;
use crate::clock::Clock;
use crate::proxy::body::Source;
use crate::proxy::deadline::Deadlines;
use crate::traffic::retry::Timeouts;

/// What a client made of a response: status, body, trailers, and whether the connection
/// may be used again.
type Read = Result<(u16, Vec<u8>, String, bool), String>;

/// Asks an endpoint that answers `response`, sent in pieces of `step` bytes, and then
/// closes the connection or waits.
fn ask(method: &str, response: &[u8], step: usize, close: bool) -> Read {
    on_local_runtime(async {
        let address = endpoint(response.to_vec(), step, close).await;
        let transport = Transport::Cleartext(Transport::dial(address).await.unwrap());
        let connection = Box::new(Connection::over(transport));
        let mut head = RequestHead::new(method.parse().unwrap(), http::Uri::default());
        head.fields.insert(Known::Host, "h");
        let deadlines = Rc::new(Deadlines::new(Clock::start()));
        let wait = Rc::new(deadlines.open(deadlines.now(), None));
        let body = RequestBody::new(Source::of_kept(Vec::new()), wait, Timeouts::default());
        let response =
            connection.send(&head, body, None).await.map_err(|one| one.fault.to_string())?;
        let Response { head, mut body } = response;
        let (mut data, mut trailers) = (Vec::new(), String::new());
        while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
            match frame.map_err(|fault| fault.to_string())?.into_data() {
                Ok(piece) => data.extend_from_slice(&piece),
                Err(frame) => trailers = format!("{:?}", frame.into_trailers().unwrap()),
            }
        }
        Ok((head.status.as_u16(), data, trailers, body.into_reusable().is_some()))
    })
}

/// The same through hyper's client.
fn ask_hyper(method: &str, response: &[u8], close: bool) -> Read {
    on_local_runtime(async {
        let address = endpoint(response.to_vec(), usize::MAX, close).await;
        let stream = hyper_util::rt::TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::task::spawn_local(connection);
        let request = Request::builder().method(method).uri("/").header("host", "h");
        let request = request.body(http_body_util::Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?;
        Ok((parts.status.as_u16(), body.to_bytes().to_vec(), String::new(), false))
    })
}

fn on_local_runtime<F: Future>(future: F) -> F::Output {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    runtime.unwrap().block_on(async {
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, future).await.expect("it ends")
    })
}

async fn endpoint(response: Vec<u8>, step: usize, close: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                return;
            }
        }
        for piece in response.chunks(step) {
            if stream.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        if !close {
            // Until the client leaves.
            let _ = stream.read_buf(&mut request).await;
        }
    });
    address
}

fn read(status: u16, body: &str, reusable: bool) -> (u16, Vec<u8>, String, bool) {
    (status, body.as_bytes().to_vec(), String::new(), reusable)
}

#[test]
fn each_framing_ends_where_it_should() {
    for (method, response, close, expected) in [
        (
            "GET",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            false,
            read(200, "hello", true),
        ),
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false, read(200, "", true)),
        (
            "GET",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            false,
            read(200, "hello", true),
        ),
        ("GET", "HTTP/1.1 200 OK\r\n\r\nhello", true, read(200, "hello", false)),
        ("GET", "HTTP/1.0 200 OK\r\n\r\nhello", true, read(200, "hello", false)),
        (
            "GET",
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
            false,
            read(200, "ok", true),
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nconnection: x, close\r\ncontent-length: 2\r\n\r\nok",
            false,
            read(200, "ok", false),
        ),
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", false, read(200, "", true)),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", false, read(204, "", true)),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n",
            false,
            read(304, "", true),
        ),
        (
            "GET",
            "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            false,
            read(200, "ok", true),
        ),
        // Equal lengths are one; what follows a response is not the next one's.
        (
            "GET",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok",
            false,
            read(200, "ok", true),
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1",
            false,
            read(200, "ok", false),
        ),
    ] {
        for step in [1, 7, response.len()] {
            let asked = ask(method, response.as_bytes(), step, close);
            // Byte by byte, what follows may come after the connection was given back.
            let late = response.ends_with("okHTTP/1.1") && step < response.len();
            if !late {
                assert_eq!(asked, Ok(expected.clone()), "{method} {response:?} in {step}");
            }
        }
    }
}

#[test]
fn what_is_odd_and_clear_is_read() {
    let close = "HTTP/1.0 200 OK\r\nconnection: keep-alive, close\r\ncontent-length: 2\r\n\r\nok";
    assert_eq!(ask("GET", close.as_bytes(), 7, false), Ok(read(200, "ok", false)));
    let late = "\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    for step in [1, 2, 3, late.len()] {
        assert_eq!(ask("GET", late.as_bytes(), step, false), Ok(read(200, "ok", true)), "{step}");
    }
}

#[test]
fn trailers_are_read() {
    let response =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\ngrpc-status: 0\r\n\r\n";
    let (_, _, trailers, reusable) = ask("GET", response.as_bytes(), 3, false).unwrap();
    assert_eq!((trailers.as_str(), reusable), ("{\"grpc-status\": \"0\"}", true));
}

#[test]
fn what_is_not_one_response_is_a_fault() {
    for response in [
        "",
        "HTTP/1.1 200",
        "\r\n\r\n\r\n\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "garbage garbage\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 099 Low\r\n\r\n",
        "HTTP/1.1 1000 High\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
        "HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nx: 1\r\n folded\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let read = ask("GET", response.as_bytes(), usize::MAX, true);
        assert!(read.is_err(), "{response:?}: {read:?}");
    }
}

#[test]
fn a_head_without_end_is_refused() {
    let mut response = b"HTTP/1.1 200 OK\r\n".to_vec();
    while response.len() < 2 * HEAD_BYTES_MAX {
        response.extend_from_slice(b"x-long: ");
        response.resize(response.len() + 1000, b'a');
        response.extend_from_slice(b"\r\n");
    }
    let read = ask("GET", &response, usize::MAX, false);
    assert_eq!(read, Err("the response has a head that is too large".to_owned()));
}

/// Good responses, then the same with a few bytes changed: whatever is accepted here, the
/// other client accepts too and reads the same in it.
#[test]
fn what_is_accepted_reads_as_it_does_elsewhere() {
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(11);
    println!("SEED={seed}");
    let mut draws = fastrand::Rng::with_seed(seed);
    let good: [&[u8]; 6] = [
        b"HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\ncontent-type: text/plain\r\n\r\nuntil the end",
        b"HTTP/1.0 500 Oh\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nno",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n",
    ];
    let alphabet = b"\r\n :;,0159aAzZ\t\x00\xff-/.";
    let (mut accepted, mut refused) = (0, 0);
    for case in 0..1500 {
        let mut response = good[case % good.len()].to_vec();
        for _ in 0..draws.usize(0..4) {
            let at = draws.usize(0..response.len());
            let byte = alphabet[draws.usize(0..alphabet.len())];
            match draws.u8(0..3) {
                0 => response[at] = byte,
                1 => response.insert(at, byte),
                _ => drop(response.remove(at)),
            }
        }
        match ask("GET", &response, draws.usize(1..40), true) {
            Ok((status, body, _, _)) => {
                accepted += 1;
                let other = ask_hyper("GET", &response, true);
                let text = String::from_utf8_lossy(&response);
                let (other_status, other_body, _, _) =
                    other.unwrap_or_else(|error| panic!("accepted {text:?}, other: {error}"));
                assert_eq!((status, &body), (other_status, &other_body), "{text:?}");
            }
            Err(_) => refused += 1,
        }
    }
    println!("accepted {accepted}, refused {refused}");
    assert!(accepted > 300 && refused > 300, "accepted {accepted}, refused {refused}");
}
