//! Clients that use HTTP/2 to have Serin work or keep things for nothing. Each is cut or held
//! back, with a good client beside it that notices nothing and little memory taken.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serin_testkit::{
    Backend, Client, FrameListener, Frames, Proxy, Script, Stopwatch, TlsClient, Unread,
    eventually, fields, flag, frame, kind, ms, request_fields, setting,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::tls;

pub const ENHANCE_YOUR_CALM: u32 = 11;
const COMPRESSION_ERROR: u32 = 9;
const PROTOCOL_ERROR: u32 = 1;
const CANCEL: u32 = 8;
const FLOW_CONTROL_ERROR: u32 = 3;

const INITIAL_WINDOW_SIZE: u16 = 4;

const WHOLE: u8 = flag::END_HEADERS | flag::END_STREAM;

/// Frames after which an attacker gives up, and the test with it.
const FRAMES_MAX: u32 = 100_000;

/// Memory that an attack may cost this process, which is Serin, attacker and good client.
pub const MEMORY_MAX: u64 = 32 << 20;

/// What may be kept of an answer's body that nobody takes.
const KEPT_MAX: u64 = 128 << 10;

/// How long an attack by number may last, from its first frame to the end of its connection. It
/// takes milliseconds; the rest is for a machine that others use too.
pub const CUT_WITHIN: Duration = Duration::from_secs(1);

/// How a connection is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Cleartext,
    Tls,
}

/// A proxy, a good client that asks without end, and the memory at the start.
pub struct World {
    pub proxy: Proxy,
    pub model: Backend,
    /// Whom clients trust, if they speak TLS.
    tls: Option<TlsClient>,
    begun: Stopwatch,
    stop: Arc<AtomicBool>,
    good: tokio::task::JoinHandle<u32>,
    memory: Memory,
}

impl World {
    pub async fn new(script: Script) -> Self {
        Self::by(Way::Cleartext, script).await
    }

    /// Attacker and good client come by `way`.
    pub async fn by(way: Way, script: Script) -> Self {
        let model = Backend::named("model").on("/attack", script).start();
        match way {
            Way::Cleartext => {
                let proxy = Proxy::to(&model, "").start();
                Self::of(model, proxy, None).await
            }
            Way::Tls => {
                let secrets = tls::World { model, ..tls::World::new() };
                let proxy = secrets.proxy("").start();
                let client = secrets.client();
                Self::of(secrets.model, proxy, Some(client)).await
            }
        }
    }

    /// The attacker's requests go to `endpoint`.
    pub async fn before(endpoint: SocketAddr) -> Self {
        let model = Backend::named("model").start();
        let text = format!(
            "listeners: [{{ name: http, address: 127.0.0.1:8080 }}]\n\
             admin: {{ address: 127.0.0.1:9901 }}\n\
             backends:\n  - {{ name: model, endpoints: [\"{}\"] }}\n  \
             - {{ name: endless, endpoints: [\"{endpoint}\"] }}\n\
             routes:\n  - name: r\n    rules:\n      \
             - {{ name: good, backends: [{{ name: model }}] }}\n      \
             - {{ name: bad, matches: [{{ path: /attack }}], backends: [{{ name: endless }}] }}\n",
            model.address
        );
        let proxy = Proxy::with_yaml(&text).start();
        Self::of(model, proxy, None).await
    }

    pub async fn of(model: Backend, proxy: Proxy, tls: Option<TlsClient>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut client = match &tls {
            None => Client::of(proxy.address()),
            Some(tls) => Client::of_tls(proxy.address(), tls, tls::NAME),
        };
        client.get("/good").await.expect(200);
        let memory = Memory::now();
        let good = tokio::spawn(async move {
            let mut answered = 0;
            while !stopped.load(SeqCst) {
                client.get("/good").await.expect(200);
                answered += 1;
                // The model server keeps what it is asked, in the memory that is measured.
                tokio::time::sleep(ms(2)).await;
            }
            answered
        });
        Self { proxy, model, tls, begun: Stopwatch::start(), stop, good, memory }
    }

    pub async fn attacker(&self) -> Frames {
        let address = self.proxy.address();
        let mut attacker = match &self.tls {
            None => Frames::connect(address).await,
            Some(tls) => Frames::connect_tls(address, tls, tls::NAME).await,
        };
        attacker.until(kind::SETTINGS).await;
        attacker
    }

    /// Says how long the attack has lasted, for who asks by `--no-capture`.
    pub fn tell(&self, what: &str) {
        println!("flood: {what} after {:?}", self.begun.elapsed());
    }

    /// How often the endpoint was asked for what attackers ask for.
    pub fn attacks(&self) -> usize {
        self.model.seen().iter().filter(|one| one.target() == "/attack").count()
    }

    /// The good client was answered all along, and little memory was taken.
    pub async fn expect_well(self) {
        let grown = self.memory.grown();
        let lasted = self.begun.elapsed();
        self.stop.store(true, SeqCst);
        let answered = self.good.await.expect("the good client is served");
        assert!(answered > 0);
        println!("flood: {answered} good answers in {lasted:?}, {} KiB more", grown >> 10);
        assert!(grown < MEMORY_MAX, "{} KiB more", grown >> 10);
    }
}

/// An answer without an end: where it goes, and how much of it was sent.
type Sent = (SocketAddr, AtomicU64);

/// A server whose answers never end. Ends when dropped.
pub struct Endless {
    pub address: SocketAddr,
    answers: Arc<Mutex<Vec<Arc<Sent>>>>,
    _stop: DropGuard,
}

impl Endless {
    /// On a thread of its own: it would leave the test none of its time.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let answers = Arc::<Mutex<Vec<_>>>::default();
        let (all, stop) = (Arc::clone(&answers), CancellationToken::new());
        let stopped = stop.clone();
        std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(stopped.run_until_cancelled(Self::accept(listener, all)));
        });
        Self { address, answers, _stop: stop.drop_guard() }
    }

    async fn accept(listener: std::net::TcpListener, all: Arc<Mutex<Vec<Arc<Sent>>>>) {
        let listener = TcpListener::from_std(listener).unwrap();
        let mut connections = JoinSet::new();
        while let Ok((stream, peer)) = listener.accept().await {
            let sent = Arc::new((peer, AtomicU64::new(0)));
            all.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&sent));
            connections.spawn(async move { Self::answer(stream, &sent.1).await });
        }
    }

    async fn answer(mut stream: TcpStream, sent: &AtomicU64) {
        static PIECE: [u8; 64 << 10] = [b'x'; 64 << 10];
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await;
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n";
        let _ = stream.write_all(head).await;
        while let Ok(count) = stream.write(&PIECE).await {
            sent.fetch_add(count as u64, SeqCst);
        }
    }

    /// How much of each answer's body was taken from the socket, once hardly anything moves: what
    /// is held back by a socket that nobody reads still trickles for many seconds.
    async fn taken(&self) -> Vec<u64> {
        let (mut before, mut still) = (0, 0);
        eventually("hardly anything moves", async || {
            let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            let sent = answers.iter().map(|one| (one.0, one.1.load(SeqCst)));
            let unread = Unread::now();
            let taken: Vec<_> = sent.map(|(to, sent)| sent.saturating_sub(unread.of(to))).collect();
            let all: u64 = taken.iter().sum();
            if all.abs_diff(before) > KEPT_MAX {
                (before, still) = (all, 0);
            }
            still += 1;
            (still == STILL_LOOKS).then_some(taken)
        })
        .await
    }
}

/// How often what has moved has to look little.
const STILL_LOOKS: u32 = 20;

/// What this process had when something began.
pub struct Memory(u64);

impl Memory {
    /// Forgets what it had at most until then.
    pub fn now() -> Self {
        if is_alone() {
            // 5 is the most that was resident (`man 5 proc_pid_clear_refs`).
            std::fs::write("/proc/self/clear_refs", "5").expect("the kernel forgets");
        }
        Self(resident("VmRSS:"))
    }

    /// How much more there was at most; how much more there is where other tests share the
    /// process, as by `cargo test`: what they take and give back meanwhile is not known.
    pub fn grown(&self) -> u64 {
        let most = resident(if is_alone() { "VmHWM:" } else { "VmRSS:" });
        most.saturating_sub(self.0)
    }
}

/// Whether no other test is in this process.
fn is_alone() -> bool {
    std::env::var("NEXTEST_EXECUTION_MODE").is_ok_and(|mode| mode == "process-per-test")
}

fn resident(what: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("a page of the kernel's");
    let line = text.lines().find_map(|line| line.strip_prefix(what));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.expect("a number of KiB") << 10
}

/// Whether an attack ends in time, which it tells the time of: not at once where others use the
/// machine, but once in a few times.
pub async fn is_in_time(what: &str, mut attack: impl AsyncFnMut() -> Duration) {
    let mut lasted = attack().await;
    for _ in 0..2 {
        if lasted >= CUT_WITHIN {
            lasted = attack().await;
        }
    }
    assert!(lasted < CUT_WITHIN, "{what}: cut after {lasted:?}, three times");
}

/// Sends `make(0)`, `make(1)` and so on until the connection is cut, with one of `codes`, both
/// in cleartext and over TLS. How many requests of one attack the endpoint was asked at most.
async fn is_cut(codes: &[u32], begin: &[Vec<u8>], make: impl Fn(u32) -> Vec<u8>) -> usize {
    let mut heard = 0;
    for way in [Way::Cleartext, Way::Tls] {
        is_in_time(&format!("{way:?}"), async || {
            let (lasted, attacks) = attack(way, codes, begin, &make).await;
            heard = heard.max(attacks);
            lasted
        })
        .await;
    }
    heard
}

/// How long it took, and how many requests the endpoint was asked.
async fn attack(
    way: Way,
    codes: &[u32],
    begin: &[Vec<u8>],
    make: &impl Fn(u32) -> Vec<u8>,
) -> (Duration, usize) {
    let world = World::by(way, Script::hangs()).await;
    let mut attacker = world.attacker().await;
    let watch = Stopwatch::start();
    for bytes in begin {
        attacker.send_raw(bytes).await;
    }
    let mut sent = 0;
    while sent < FRAMES_MAX && attacker.send_raw(&make(sent)).await {
        sent += 1;
    }
    assert!(sent < FRAMES_MAX, "{way:?}: it was never cut");
    let code = attacker.end().await;
    let lasted = watch.elapsed();
    let heard = world.attacks();
    println!("flood: {way:?}, cut at {sent} frames after {lasted:?}, {heard} heard");
    // A client that goes on sending may not get to read why.
    assert!(code.is_none_or(|code| codes.contains(&code)), "{code:?} after {sent} frames");
    world.expect_well().await;
    (lasted, heard)
}

/// CVE-2019-9512.
#[tokio::test]
async fn a_flood_of_pings_is_cut() {
    is_cut(&[ENHANCE_YOUR_CALM], &[], |_| frame(kind::PING, 0, 0, b"12345678")).await;
}

/// CVE-2019-9515.
#[tokio::test]
async fn a_flood_of_settings_is_cut() {
    let setting = setting(INITIAL_WINDOW_SIZE, 65_535);
    is_cut(&[ENHANCE_YOUR_CALM], &[], |_| frame(kind::SETTINGS, 0, 0, &setting)).await;
}

/// CVE-2023-44487, RUSTSEC-2023-0034, RUSTSEC-2024-0003.
#[tokio::test]
async fn a_flood_of_resets_is_cut_and_the_endpoint_hears_little_of_it() {
    let heard = is_cut(&[ENHANCE_YOUR_CALM], &[], |n| {
        let stream = 2 * n + 1;
        let request = frame(kind::HEADERS, WHOLE, stream, &request_fields("GET", "/attack"));
        let reset = frame(kind::RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
        [request, reset].concat()
    })
    .await;
    assert!(heard < 100, "the endpoint was asked {heard} times");
}

/// RUSTSEC-2024-0003: it is Serin that resets.
#[tokio::test]
async fn a_flood_of_requests_that_are_wrong_is_cut() {
    is_cut(&[ENHANCE_YOUR_CALM], &[], |n| {
        let bad = [request_fields("GET", "/attack"), fields([("connection", "1")])].concat();
        frame(kind::HEADERS, WHOLE, 2 * n + 1, &bad)
    })
    .await;
}

/// RUSTSEC-2026-0258, CVE-2019-9518.
#[tokio::test]
async fn a_flood_of_empty_pieces_is_cut() {
    let head = frame(kind::HEADERS, flag::END_HEADERS, 1, &request_fields("POST", "/attack"));
    is_cut(&[ENHANCE_YOUR_CALM], &[head], |_| frame(kind::DATA, 0, 1, &[])).await;
}

#[tokio::test]
async fn a_flood_of_pieces_that_are_all_padding_is_cut() {
    let head = frame(kind::HEADERS, flag::END_HEADERS, 1, &request_fields("POST", "/attack"));
    is_cut(&[ENHANCE_YOUR_CALM], &[head], |_| frame(kind::DATA, flag::PADDED, 1, &[0])).await;
}

#[tokio::test]
async fn a_flood_of_priorities_windows_and_unknown_frames_is_cut() {
    let priority = |n| frame(kind::PRIORITY, 0, 2 * n + 1, &[0, 0, 0, 0, 1]);
    is_cut(&[ENHANCE_YOUR_CALM], &[], priority).await;
    is_cut(&[ENHANCE_YOUR_CALM], &[], |_| frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])).await;
    is_cut(&[ENHANCE_YOUR_CALM], &[], |_| frame(0x42, 0, 0, b"what?")).await;
}

/// RUSTSEC-2024-0332.
#[tokio::test]
async fn a_head_without_end_is_cut() {
    let begin = frame(kind::HEADERS, flag::END_STREAM, 1, &request_fields("GET", "/attack"));
    let more = fields([("x-more", "abcdefgh".repeat(1000).as_str())]);
    let codes = [ENHANCE_YOUR_CALM, COMPRESSION_ERROR, PROTOCOL_ERROR];
    is_cut(&codes, std::slice::from_ref(&begin), |_| frame(kind::CONTINUATION, 0, 1, &more)).await;
    is_cut(&codes, &[begin], |_| frame(kind::CONTINUATION, 0, 1, &[])).await;
}

#[tokio::test]
async fn fields_that_unpack_to_megabytes_reach_no_endpoint() {
    let world = World::new(Script::answers(200)).await;
    // 4000 bytes into the table, then as often as a frame has bytes.
    let mut block = request_fields("GET", "/attack");
    block.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    block.extend_from_slice(&[b'a'; 4000]);
    block.resize(16_000, 0xbe);
    for _ in 0..20 {
        is_in_time("a head", async || {
            let begun = Stopwatch::start();
            let mut attacker = world.attacker().await;
            attacker.send(kind::HEADERS, WHOLE, 1, &block).await;
            // Refused, or cut.
            if let Some(told) = attacker.next().await {
                assert!(told.kind != kind::HEADERS || told.status() == 431, "{told:?}");
            }
            begun.elapsed()
        })
        .await;
    }
    assert_eq!(world.attacks(), 0);
    world.expect_well().await;
}

/// CVE-2025-8671: the client has Serin reset what it has asked for, and asks for more.
#[tokio::test]
async fn a_flood_of_requests_that_are_made_to_be_reset_is_cut() {
    // Beyond what a window may be; and more of a body than was told.
    is_cut(&[ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR], &[], |n| {
        let stream = 2 * n + 1;
        let head = request_fields("POST", "/attack");
        let request = frame(kind::HEADERS, flag::END_HEADERS, stream, &head);
        let window = frame(kind::WINDOW_UPDATE, 0, stream, &0x7fff_ffffu32.to_be_bytes());
        [request, window].concat()
    })
    .await;
    is_cut(&[ENHANCE_YOUR_CALM], &[], |n| {
        let stream = 2 * n + 1;
        let length = fields([("content-length", "1")]);
        let head = [request_fields("POST", "/attack"), length].concat();
        let request = frame(kind::HEADERS, flag::END_HEADERS, stream, &head);
        [request, frame(kind::DATA, flag::END_STREAM, stream, b"two")].concat()
    })
    .await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_answered_431_and_the_connection_goes_on() {
    let model = Backend::named("model").start();
    let proxy = Proxy::to(&model, "").start();
    let mut client = proxy.http2().await;
    for (bytes, status) in [(60 << 10, 200), (70 << 10, 431), (1 << 10, 200)] {
        let mut request = http::Request::get("http://h/");
        for n in 0..bytes / 1000 {
            request = request.header(format!("x-{n}"), "v".repeat(960));
        }
        let request = request.body(serin_testkit::Streamed::of("")).unwrap();
        assert_eq!(client.exchange(request).await.status(), status, "{bytes}");
    }
}

#[tokio::test]
async fn who_opens_no_window_has_nothing_kept_for_it() {
    let endless = Endless::start();
    let world = World::before(endless.address).await;
    let mut attacker = Frames::connect(world.proxy.address()).await;
    attacker.send(kind::SETTINGS, 0, 0, &setting(INITIAL_WINDOW_SIZE, 0)).await;
    for n in 0..100 {
        attacker.get(2 * n + 1, "/attack").await;
    }
    for _ in 0..100 {
        attacker.until(kind::HEADERS).await;
    }
    // A byte at a time asks for no more than a piece.
    for n in 0..100 {
        attacker.send(kind::WINDOW_UPDATE, 0, 2 * n + 1, &1u32.to_be_bytes()).await;
    }
    for _ in 0..100 {
        assert_eq!(attacker.until(kind::DATA).await.payload.len(), 1);
    }
    let taken = endless.taken().await;
    println!("flood: {:?} bytes are taken of an answer at most", taken.iter().max());
    assert!(taken.len() == 100 && taken.iter().all(|one| *one <= KEPT_MAX), "{taken:?}");
    world.expect_well().await;
}

#[tokio::test]
async fn who_reads_nothing_at_all_has_little_kept_for_it() {
    let endless = Endless::start();
    let world = World::before(endless.address).await;
    let mut attackers = Vec::new();
    for _ in 0..3 {
        let mut attacker = Frames::connect(world.proxy.address()).await;
        let all = 0x7fff_0000u32.to_be_bytes();
        attacker.send(kind::SETTINGS, 0, 0, &setting(INITIAL_WINDOW_SIZE, 0x7fff_ffff)).await;
        attacker.send(kind::WINDOW_UPDATE, 0, 0, &all).await;
        for n in 0..50 {
            attacker.get(2 * n + 1, "/attack").await;
        }
        attackers.push(attacker);
    }
    let labels = [("backend", "endless")];
    eventually("all have asked", async || {
        let metrics = world.proxy.metrics().await;
        (metrics.value("serin_requests_in_flight", &labels) > 149.5).then_some(())
    })
    .await;
    // Some more turns, in which it could go wrong.
    for _ in 0..50 {
        world.proxy.get("/good").await.expect(200);
    }
    // What lies in the attackers' sockets is not kept. Good clients have nothing there for long.
    let taken: u64 = endless.taken().await.iter().sum();
    let kept = taken.saturating_sub(Unread::now().of(world.proxy.address()));
    println!("flood: {kept} bytes are kept of {taken} that were taken");
    assert!(kept <= 150 * KEPT_MAX, "{kept} bytes of 150 answers");
    world.expect_well().await;
}

#[tokio::test]
async fn uploads_that_the_endpoint_does_not_take_are_held_back() {
    let endpoint = FrameListener::bind().await;
    let text = format!(
        "listeners: [{{ name: http, address: 127.0.0.1:8080 }}]\n\
         admin: {{ address: 127.0.0.1:9901 }}\n\
         backends: [{{ name: model, protocol: http2, endpoints: [\"{}\"] }}]\n\
         routes: [{{ name: r, rules: [{{ name: main, backends: [{{ name: model }}] }}] }}]\n",
        endpoint.address
    );
    let proxy = Proxy::with_yaml(&text).start();
    let mut client = Frames::connect(proxy.address()).await;
    client.until(kind::SETTINGS).await;
    client.send(kind::SETTINGS, flag::ACK, 0, &[]).await;
    client.send(kind::HEADERS, flag::END_HEADERS, 1, &request_fields("POST", "/")).await;
    let mut connection = endpoint.accept(&setting(INITIAL_WINDOW_SIZE, 1000)).await;
    connection.until(kind::HEADERS).await;
    // As much as the window allows: more would be an error of the client's.
    let mut window = 128 << 10;
    while window > 0 {
        let piece = window.min(16_384);
        client.send(kind::DATA, 0, 1, &vec![b'x'; piece]).await;
        window -= piece;
    }
    let mut taken = 0;
    while taken < 1000 {
        taken += connection.until(kind::DATA).await.payload.len();
    }
    assert_eq!(taken, 1000);
    client.send(kind::PING, 0, 0, b"how long").await;
    let mut widened = 0;
    loop {
        let frame = client.any().await.expect("the connection lives");
        match frame.kind {
            kind::PING => break,
            kind::WINDOW_UPDATE if frame.stream == 1 => widened += frame.code(),
            _ => {}
        }
    }
    assert!(widened <= 64 << 10, "{widened} more were asked for");
}
