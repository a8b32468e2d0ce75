use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;

use http::HeaderValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, LocalOptions};

use super::*;
use crate::clock::Clock;
use crate::proxy::forward::Peer;
use crate::proxy::protocol::serve_connection;
use crate::proxy::socket::{Socket, write_late};
use crate::proxy::worker::{KEEPERS_MAX, Worker};
use crate::snapshot::{Publisher, Snapshot};
use crate::telemetry::counts::{Leg, LegKey};
use crate::traffic::route::Table;
use crate::units::Tick;

impl ClientStream for DuplexStream {
    fn make_abrupt(&self) {}
}

/// Of a proxy without rules.
fn worker() -> (Publisher, Rc<Worker>) {
    let key = LegKey { route: "-".into(), rule: "-".into(), backend: "-".into() };
    let publisher = Publisher::new(Snapshot {
        generation: 1,
        table: Table::new(Vec::new()),
        rules: Vec::new(),
        backends: Vec::new(),
        listeners: Vec::new(),
        trusted_proxies: None,
        unrouted: Arc::new(Leg::new(key, 1)),
        response_headers: false,
        replay_body_bytes_max: 0,
        telling: None,
    });
    let worker = Worker::new(0, Clock::start(), publisher.reader());
    (publisher, worker)
}

/// Lets `client` talk to a proxy without rules, which answers 404, in virtual time.
fn talk<F: Future>(client: impl FnOnce(DuplexStream, Rc<Worker>) -> F) -> F::Output {
    talk_over(|stream| stream, client)
}

/// The same, over what `wrap` makes of the proxy's end.
fn talk_over<S: ClientStream, F: Future>(
    wrap: impl FnOnce(DuplexStream) -> S,
    client: impl FnOnce(DuplexStream, Rc<Worker>) -> F,
) -> F::Output {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build_local(LocalOptions::default());
    runtime.unwrap().block_on(async {
        let (_publisher, worker) = worker();
        // Less than an answer.
        let (near, far) = duplex(64);
        let peer = Peer::cleartext([127, 0, 0, 1].into());
        tokio::task::spawn_local(serve_connection(wrap(far), worker.enter(0), peer));
        tokio::select! {
            () = worker.run() => unreachable!("it runs until dropped"),
            output = client(near, Rc::clone(&worker)) => output,
        }
    })
}

async fn rest(stream: &mut DuplexStream) -> String {
    let mut bytes = Vec::new();
    // A cut is an end too.
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8(bytes).unwrap()
}

fn secs(from: Tick, to: Tick) -> u64 {
    to.since(from).as_secs()
}

#[test]
fn a_head_that_trickles_in_is_answered_408_in_time() {
    talk(async |mut stream, worker| {
        let began = worker.clock.now();
        let (mut read, mut write) = tokio::io::split(&mut stream);
        let trickle = async {
            write.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n").await.unwrap();
            loop {
                tokio::time::sleep(Duration::from_millis(900)).await;
                if write.write_all(b"x: y\r\n").await.is_err() {
                    pending::<()>().await;
                }
            }
        };
        let mut text = String::new();
        tokio::select! {
            () = trickle => unreachable!("it trickles for ever"),
            read = read.read_to_string(&mut text) => drop(read.unwrap()),
        }
        assert!(text.starts_with("HTTP/1.1 408 ") && text.contains("connection: close"), "{text}");
        assert!((10..=12).contains(&secs(began, worker.clock.now())), "{:?}", worker.clock.now());
    });
}

#[test]
fn empty_lines_before_a_head_are_read_over_however_they_arrive_but_not_without_end() {
    for (lines, status) in [(4, "404"), (5, "400")] {
        talk(async |mut stream, worker| {
            let began = worker.clock.now();
            for _ in 0..lines {
                // Each is there alone for a while.
                if stream.write_all(b"\r\n").await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let request = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(request).await;
            let text = rest(&mut stream).await;
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{lines}: {text}");
            assert!(secs(began, worker.clock.now()) <= 7, "{lines}");
        });
    }
}

#[test]
fn empty_lines_are_counted_anew_behind_each_head() {
    talk(async |mut stream, _| {
        let one = b"\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n";
        let (mut read, mut write) = tokio::io::split(&mut stream);
        let ask = async {
            for _ in 0..3 {
                write.write_all(one).await.unwrap();
                // Behind an answer, a line at a time.
                tokio::time::sleep(Duration::from_secs(20)).await;
            }
            write.shutdown().await.unwrap();
        };
        let mut text = String::new();
        let ((), read) = tokio::join!(ask, read.read_to_string(&mut text));
        read.unwrap();
        assert_eq!(text.matches("HTTP/1.1 404 ").count(), 3, "{text}");
    });
}

#[test]
fn a_client_that_asks_nothing_is_closed_without_a_word() {
    let idle = 75..=85;
    for (first, after) in [
        (&b""[..], idle.clone()),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", idle),
        // The first words of HTTP/2 are a head too.
        (b"PRI * HT", 10..=11),
    ] {
        talk(async |mut stream, worker| {
            let began = worker.clock.now();
            stream.write_all(first).await.unwrap();
            let text = rest(&mut stream).await;
            let answers = usize::from(first.starts_with(b"GET"));
            assert_eq!(text.matches("HTTP/1.1 404").count(), answers, "{text}");
            assert!(after.contains(&secs(began, worker.clock.now())), "{:?}", worker.clock.now());
        });
    }
}

#[test]
fn a_client_that_reads_nothing_is_cut() {
    talk(async |mut stream, worker| {
        let began = worker.clock.now();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        // Something is written, more than the stream holds, and nobody reads it.
        tokio::time::sleep(Duration::from_secs(70)).await;
        let text = rest(&mut stream).await;
        assert_eq!(text.len(), 64, "{text}");
        assert_eq!(secs(began, worker.clock.now()), 70);
    });
}

#[test]
fn a_client_that_is_told_to_go_may_finish_its_sentence_but_not_speak_for_ever() {
    talk(async |mut stream, worker| {
        let began = worker.clock.now();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{answer:?}");
        }
        assert!(answer.starts_with(b"HTTP/1.1 400 "));
        while stream.write_all(&[b'x'; 64]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!((1..=2).contains(&secs(began, worker.clock.now())), "{:?}", worker.clock.now());
    });
}

#[test]
fn the_date_is_one_that_http_knows() {
    talk(async |mut stream, _| {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
        let text = rest(&mut stream).await;
        let date = text.lines().find_map(|line| line.strip_prefix("date: ")).unwrap();
        assert!(httpdate::parse_http_date(date).is_ok() && HeaderValue::from_str(date).is_ok());
    });
}

#[test]
fn where_there_is_no_place_left_one_that_asks_nothing_goes() {
    talk(async |mut stream, worker| {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        let began = worker.clock.now();
        // There is no more than one place.
        worker.ran_out();
        let (text, ()) = tokio::join!(rest(&mut stream), worker.has_place());
        assert!(text.starts_with("HTTP/1.1 404 "), "{text}");
        // One that is between two requests may have the next one under way.
        assert_eq!(secs(began, worker.clock.now()), 1);
    });
}

#[test]
fn a_client_that_reads_slowly_gets_all_of_its_answer() {
    talk(async |mut stream, worker| {
        let began = worker.clock.now();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
        let (mut text, mut byte) = (Vec::new(), [0]);
        while stream.read(&mut byte).await.is_ok_and(|read| read == 1) {
            text.push(byte[0]);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("HTTP/1.1 404 ") && text.ends_with('}'), "{text}");
        assert!(secs(began, worker.clock.now()) > 120);
    });
}

/// Takes everything and hands on nothing, as TLS does when its socket is full.
struct Swallows(DuplexStream);

impl tokio::io::AsyncRead for Swallows {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for Swallows {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl ClientStream for Swallows {
    fn make_abrupt(&self) {}
}

#[test]
fn a_client_whose_answer_is_stuck_below_us_is_cut_as_well() {
    talk_over(Swallows, async |mut stream, worker| {
        let began = worker.clock.now();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        assert_eq!(rest(&mut stream).await, "");
        assert!((60..=62).contains(&secs(began, worker.clock.now())), "{:?}", worker.clock.now());
    });
}

#[test]
fn with_many_others_a_connection_keeps_no_memory_between_two_requests() {
    talk(async |mut stream, worker| {
        let mut others = Vec::new();
        for (held, kept) in [(0, 1), (KEEPERS_MAX - 1, 1), (KEEPERS_MAX, 0)] {
            others.resize_with(held, || worker.keeper());
            stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
            let mut text = String::new();
            while !text.ends_with('}') {
                text.push(char::from(stream.read_u8().await.unwrap()));
            }
            tokio::task::yield_now().await;
            assert_eq!(worker.keepers() - held, kept, "beside {held}");
        }
    });
}

/// Both ends of a connection of which the kernel keeps little.
async fn narrow() -> (Socket, TcpStream) {
    let socket = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.set_recv_buffer_size(4 << 10)?;
        socket.set_nonblocking(true)?;
        Ok::<_, std::io::Error>(std::net::TcpStream::from(socket))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpSocket::from_std_stream(socket().unwrap());
    let near = near.connect(listener.local_addr().unwrap()).await.unwrap();
    let far = listener.accept().await.unwrap().0;
    socket2::SockRef::from(&far).set_send_buffer_size(1).unwrap();
    (Socket::new(far), near)
}

/// Of `text`, how many answers there are, all of them whole.
fn whole_answers(text: &str) -> usize {
    let mut rest = text;
    let mut answers = 0;
    while let Some((head, behind)) = rest.split_once("\r\n\r\n") {
        assert!(head.starts_with("HTTP/1.1 404 "), "{head:?}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        rest = behind.get(length.parse().unwrap()..).expect("a whole answer");
        answers += 1;
    }
    assert_eq!(rest, "", "behind {answers} answers");
    answers
}

#[test]
fn answers_that_the_kernel_has_not_taken_are_whole_when_the_worker_drains() {
    reads_late(&async |worker, _| worker.drain());
}

#[test]
fn answers_that_the_kernel_has_not_taken_are_whole_when_the_client_says_no_more() {
    reads_late(&async |_, near| near.shutdown().await.unwrap());
}

/// Clients that have asked much `end` it, and read then.
fn reads_late(end: &impl AsyncFn(&Worker, &mut TcpStream)) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    runtime.unwrap().block_on(async {
        tokio::task::spawn_local(write_late());
        let mut seen = std::collections::BTreeSet::new();
        // Somewhere between them the kernel has no room for the last one.
        for asked in 1..=200 {
            let (_publisher, worker) = worker();
            let (far, mut near) = narrow().await;
            let peer = Peer::cleartext([127, 0, 0, 1].into());
            let served = tokio::task::spawn_local(serve_connection(far, worker.enter(0), peer));
            let limits = Rc::clone(&worker);
            let limits = tokio::task::spawn_local(async move { limits.run().await });
            for _ in 0..asked {
                near.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
            }
            if asked % 2 == 0 {
                // Until all that can be served is.
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
            }
            end(&worker, &mut near).await;
            let mut text = String::new();
            near.read_to_string(&mut text).await.unwrap();
            seen.insert(asked - whole_answers(&text));
            drop(near);
            served.await.unwrap();
            limits.abort();
        }
        assert!(seen.contains(&0), "{seen:?}");
    });
}
