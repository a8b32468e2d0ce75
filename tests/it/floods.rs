//! Clients that keep Serin busy over HTTP/1.1, or before any HTTP: each is cut or held back,
//! with a good client beside it that notices nothing and little memory taken.

use std::time::Duration;

use serin::traffic::retry::Timeouts;
use serin_testkit::{
    Authority, Backend, Client, Frames, Leaf, Proxy, Request, Script, Stopwatch, Streamed,
    eventually, kind, ms, within,
};
use tokio::task::JoinSet;

use crate::http2_floods::{ENHANCE_YOUR_CALM, Endless, MEMORY_MAX, Memory, World, is_in_time};
use crate::tls;

const HEAD: &str = "GET /attack HTTP/1.1\r\nHost: h\r\n";

/// Sends `begin` on `count` connections, then `piece` on each again and again, until each is
/// answered; with what status, and after how long the last. Waits until all are cut.
async fn all_are_answered(
    world: &World,
    count: usize,
    begin: &str,
    piece: &'static [u8],
) -> (Vec<u16>, Duration) {
    let mut attackers = JoinSet::new();
    for _ in 0..count {
        let mut attacker = world.proxy.client().begin(begin).await;
        attackers.spawn(async move {
            let watch = Stopwatch::start();
            loop {
                attacker.send(piece).await.expect("it is still read");
                // As slowly as makes a body of a byte at a time.
                if let Ok(head) = tokio::time::timeout(ms(100), attacker.head()).await {
                    let answered = (head.expect("an answer").status(), watch.elapsed());
                    attacker.left().await;
                    return answered;
                }
            }
        });
    }
    let (told, after): (_, Vec<_>) =
        within("all are cut", attackers.join_all()).await.into_iter().unzip();
    let last = after.into_iter().max().unwrap_or_default();
    println!("flood: all {count} are answered after {last:?} at most");
    world.tell(&format!("all {count} are cut"));
    (told, last)
}

/// How much later than its limit says an attack may end here: the machine is others' too.
const LATE_MAX: Duration = Duration::from_secs(2);

#[tokio::test]
async fn heads_that_never_come_to_an_end_are_cut() {
    let model = Backend::named("model").start();
    let proxy = Proxy::to(&model, "").replace("8080 }]", "8080, head_timeout: 2s }]").start();
    let world = World::of(model, proxy, None).await;
    let (told, after) = all_are_answered(&world, 100, HEAD, b"x").await;
    assert!(told.iter().all(|status| *status == 408), "{told:?}");
    assert!((ms(2000)..ms(2000) + LATE_MAX).contains(&after), "{after:?}");
    assert_eq!(world.attacks(), 0);
    world.expect_well().await;
}

/// What may yet become the first words of HTTP/2 is a head too.
#[tokio::test]
async fn who_stops_in_the_middle_of_the_first_words_is_cut() {
    let model = Backend::named("model").start();
    let proxy = Proxy::to(&model, "").replace("8080 }]", "8080, head_timeout: 2s }]").start();
    for begin in ["P", "PRI * HTTP/2.0\r\n\r\nS"] {
        let watch = Stopwatch::start();
        let mut client = proxy.client().begin(begin).await;
        within("it is cut", client.left()).await;
        let after = watch.elapsed();
        assert!((ms(2000)..ms(2000) + LATE_MAX).contains(&after), "{begin:?}: {after:?}");
    }
}

#[tokio::test]
async fn a_head_over_http2_that_does_not_end_is_cut_as_soon() {
    let model = Backend::named("model").start();
    let proxy = Proxy::to(&model, "").replace("8080 }]", "8080, head_timeout: 2s }]").start();
    let mut client = Frames::connect(proxy.address()).await;
    client.get(1, "/").await;
    client.until(kind::DATA).await;
    let watch = Stopwatch::start();
    // The head of a frame says that there is more of it than comes.
    client.send_raw(&[0, 1, 0, kind::HEADERS, 0, 0, 0, 0, 3, 0x82]).await;
    assert_eq!(client.end().await, Some(ENHANCE_YOUR_CALM));
    let after = watch.elapsed();
    assert!((ms(2000)..ms(2000) + LATE_MAX).contains(&after), "{after:?}");
}

/// By the default: 240 bytes a second, behind the first five seconds.
fn is_soon_behind_the_grace(after: Duration) -> bool {
    (Timeouts::UPLOAD_GRACE..Timeouts::UPLOAD_GRACE + LATE_MAX).contains(&after)
}

#[tokio::test]
async fn bodies_that_come_a_byte_at_a_time_are_cut_by_what_is_asked_of_them_unasked() {
    let world = World::new(Script::echoes()).await;
    let length = "POST /attack HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n";
    let (told, after) = all_are_answered(&world, 50, length, b"x").await;
    assert!(told.iter().all(|status| *status == 408), "{told:?}");
    assert!(is_soon_behind_the_grace(after), "{after:?}");
    world.expect_well().await;
}

#[tokio::test]
async fn bodies_that_come_a_byte_at_a_time_over_http2_are_answered_408_too() {
    let world = World::new(Script::echoes()).await;
    let client = world.proxy.http2().await;
    let mut attackers = JoinSet::new();
    for _ in 0..50 {
        let mut client = client.clone();
        attackers.spawn(async move {
            let (pieces, body) = Streamed::new();
            let request = http::Request::post("http://h/attack").body(body).unwrap();
            let begun = Stopwatch::start();
            let mut answer = std::pin::pin!(client.send(request));
            loop {
                tokio::select! {
                    answer = &mut answer => {
                        return (answer.unwrap().status(), begun.elapsed());
                    }
                    () = tokio::time::sleep(ms(100)) => {
                        let _ = pieces.send("x".into()).await;
                    }
                }
            }
        });
    }
    let (told, after): (Vec<_>, Vec<_>) =
        within("all are answered", attackers.join_all()).await.into_iter().unzip();
    assert!(told.iter().all(|status| *status == 408), "{told:?}");
    let last = after.into_iter().max().unwrap_or_default();
    println!("flood: all 50 over HTTP/2 are answered after {last:?} at most");
    assert!(is_soon_behind_the_grace(last), "{last:?}");
    world.expect_well().await;
}

#[tokio::test]
async fn chunks_of_a_byte_are_cut_where_they_are_nothing_but_extensions() {
    let world = World::new(Script::echoes()).await;
    let chunked = "POST /attack HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("1;{}\r\nx\r\n", "e".repeat(1000));
    for _ in 0..20 {
        is_in_time("a body", async || {
            let mut attacker = world.proxy.client().begin(chunked).await;
            let (mut sent, begun) = (0, Stopwatch::start());
            while sent < 10_000 && attacker.send(&chunk).await.is_ok() {
                sent += 1;
            }
            assert!(sent < 10_000, "all of it was taken");
            begun.elapsed()
        })
        .await;
    }
    world.tell("20 are cut");
    world.expect_well().await;
}

#[tokio::test]
async fn fields_without_number_are_refused() {
    let world = World::new(Script::answers(200)).await;
    let many = format!("{HEAD}{}\r\n", "x: y\r\n".repeat(10_000));
    is_in_time("100 heads", async || {
        let mut attackers = JoinSet::new();
        for _ in 0..100 {
            let mut attacker = world.proxy.client().begin("").await;
            let many = many.clone();
            attackers.spawn(async move {
                // Cut before all of it is said.
                let _ = attacker.send(many).await;
                attacker.left().await;
            });
        }
        let begun = Stopwatch::start();
        within("all are cut", attackers.join_all()).await;
        println!("flood: 100 are cut after {:?}", begun.elapsed());
        begun.elapsed()
    })
    .await;
    assert_eq!(world.attacks(), 0);
    world.expect_well().await;
}

#[tokio::test]
async fn questions_whose_answers_nobody_reads_are_not_taken_without_end() {
    let endless = Endless::start();
    let world = World::before(endless.address).await;
    let mut attackers = Vec::new();
    // Of each, the answer has no end, and further questions stand behind the first.
    for _ in 0..100 {
        let many = Request::get("/attack").bytes().repeat(100);
        attackers.push(world.proxy.client().begin(many).await);
    }
    eventually("all have asked", async || {
        let metrics = world.proxy.metrics().await;
        let asked = metrics.value("serin_requests_in_flight", &[("backend", "endless")]);
        (asked > 99.5).then_some(())
    })
    .await;
    // Some more turns, in which it could go wrong.
    for _ in 0..50 {
        world.proxy.get("/good").await.expect(200);
    }
    world.expect_well().await;
    drop(attackers);
}

#[tokio::test]
async fn connections_that_come_and_go_or_only_stay_cost_little() {
    let world = World::new(Script::answers(200)).await;
    let mut staying = Vec::new();
    for n in 0..1000 {
        let begin = ["", "GET", "\0\x01\x02\r\n\r\n"][n % 3];
        let wire = world.proxy.client().begin(begin).await;
        if n % 2 == 0 {
            staying.push(wire);
        }
    }
    for _ in 0..50 {
        world.proxy.get("/good").await.expect(200);
    }
    world.expect_well().await;
    drop(staying);
}

#[tokio::test]
async fn handshakes_that_are_begun_and_left_hold_up_nobody() {
    let mut secrets = tls::World::new();
    let (clients, client_ca) = secrets.clients();
    let brief = ("  - name: https\n", "  - name: https\n    head_timeout: 2s\n");
    let proxy = secrets.proxy(&client_ca).replace(brief.0, brief.1).start();
    let good = secrets.client_with(&clients.issue(&Leaf::client("good")));
    let stranger = Authority::named("strangers").issue(&Leaf::client("wrong"));
    let wrong = secrets.client_with(&stranger);
    assert_eq!(tls::get(&proxy, &good).await.unwrap().status, 200);
    let memory = Memory::now();
    let mut attackers = JoinSet::new();
    for n in 0..200 {
        // A record that is begun, or a whole handshake with a certificate of nobody's.
        let mut open = proxy.client().begin(b"\x16\x03\x01\x02\x00\x01\x00").await;
        let mut other = Client::of_tls(proxy.address(), &wrong, "models.example.com");
        attackers.spawn(async move {
            let begun = Stopwatch::start();
            if n % 2 == 0 {
                open.left().await;
            } else {
                drop(open);
                assert!(other.try_send(&Request::get("/")).await.is_err());
            }
            begun.elapsed()
        });
    }
    let mut cut = std::pin::pin!(within("all are cut", attackers.join_all()));
    let mut answered = 0;
    let after = loop {
        tokio::select! {
            after = &mut cut => break after.into_iter().max().unwrap_or_default(),
            answer = tls::get(&proxy, &good) => assert_eq!(answer.unwrap().status, 200),
        }
        answered += 1;
    };
    let grown = memory.grown();
    println!("flood: all 200 are cut after {after:?}, {} KiB more", grown >> 10);
    assert!(after < ms(2000) + LATE_MAX, "cut after {after:?}");
    assert!(answered > 0 && grown < MEMORY_MAX, "{answered} good answers, {} KiB", grown >> 10);
}
