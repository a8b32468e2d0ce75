//! Another config comes into force without a request noticing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use serde_json::Value;
use serin_testkit::{
    Backend, Body, Call, End, Frames, Proxy, ProxyBuilder, Request, Script, Streamed, Wire,
    eventually, kind, within,
};

fn versions() -> (Backend, Backend) {
    (Backend::named("v1").start(), Backend::named("v2").start())
}

fn canary(v1: &Backend, v2: &Backend) -> ProxyBuilder {
    Proxy::with_config("canary.yaml").backends([v1, v2])
}

const PATH: &str = "/v2/models/sentiment/infer";

/// Another config: with this weight for stable.
fn weighted(text: &str, weight: u64) -> String {
    let (before, rest) = text.split_once("            weight: ").unwrap();
    let (_, after) = rest.split_once('\n').unwrap();
    format!("{before}            weight: {weight}\n{after}")
}

/// A stream that a test holds at both ends.
struct Stream {
    call: Call,
    client: Wire,
    body: Body,
}

impl Stream {
    async fn open(proxy: &Proxy, model: &Backend) -> Self {
        let mut client = proxy.client().begin(Request::get("/stream").bytes()).await;
        let mut call = model.next_call().await;
        call.begin_stream().await;
        let head = within("a head", client.head()).await.unwrap();
        let body = Body::of_response(&head, "GET");
        let mut stream = Self { call, client, body };
        stream.flows("data: first\n\n").await;
        stream
    }

    async fn flows(&mut self, text: &str) {
        self.call.chunk(text).await;
        let piece = within("a piece", self.client.piece(&mut self.body)).await;
        assert_eq!(piece, Ok(Some(text.as_bytes().to_vec())));
    }

    async fn ends(mut self) {
        self.call.end_stream().await;
        let (rest, end) = within("the end", self.client.body(&mut self.body)).await;
        assert_eq!((rest.as_slice(), end), (&b""[..], End::Whole));
    }
}

#[tokio::test]
async fn two_hundred_reloads_fail_no_request_and_cut_no_stream() {
    let (v1, v2) = versions();
    let model = Backend::named("streams").does(Script::by_hand()).start();
    let route = "  - name: streams\n    rules:\n      - name: all\n\
        \x20       matches: [{ path: /stream }]\n        backends: [{ name: streams }]\nrollouts:";
    let backend = format!("  - {{ name: streams, endpoints: [{}] }}\nroutes:", model.address);
    let mut proxy =
        canary(&v1, &v2).replace("rollouts:", route).replace("routes:", &backend).start();

    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(Stream::open(&proxy, &model).await);
    }
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients = (0..4).map(|_| {
        let (mut client, stop, served) = (proxy.client(), Arc::clone(&stop), Arc::clone(&served));
        tokio::spawn(async move {
            while !stop.load(SeqCst) {
                client.post(PATH, "{}").await.expect(200);
                served.fetch_add(1, SeqCst);
            }
        })
    });
    let clients: Vec<_> = clients.collect();

    let text = proxy.config().text();
    for n in 0..200 {
        let before = served.load(SeqCst);
        proxy.write(weighted(&text, 50 + n % 50));
        // Told, or seen by itself just before.
        proxy.reload().await.expect(200);
        let more =
            async || (served.load(SeqCst) > before || clients[0].is_finished()).then_some(());
        eventually("requests go on", more).await;
        if n % 20 == 0 {
            for stream in &mut streams {
                stream.flows(&format!("data: {n}\n\n")).await;
            }
        }
    }
    stop.store(true, SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    for stream in streams {
        stream.ends().await;
    }
    assert!(served.load(SeqCst) >= 200);
    let metrics = proxy.metrics().await;
    let all = metrics.value("serin_requests_total", &[]);
    let good = metrics.value("serin_requests_total", &[("code", "200")]);
    assert!((all - good).abs() < 0.1, "{good} of {all}");
    assert!((metrics.value("serin_config_generation", &[]) - 201.0).abs() < 0.1);
}

/// Generation, whether the last reload took, and the defects of the last one.
async fn state(proxy: &Proxy) -> (u64, bool, Value) {
    let dump = proxy.admin("/config_dump").await.expect(200).json();
    let metrics = proxy.metrics().await;
    let successful = metrics.value("serin_config_last_reload_successful", &[]) > 0.5;
    (dump["generation"].as_u64().unwrap(), successful, dump["last_error"].clone())
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_says_why() {
    let (v1, v2) = versions();
    let mut proxy = canary(&v1, &v2).start();
    let good = proxy.config().text();
    assert_eq!(state(&proxy).await.0, 1);
    let large = "#".repeat(2 << 20);
    for (what, text) in [
        ("an unknown key", good.replace("weight: 10", "wieght: 10").into_bytes()),
        (
            "a name that leads nowhere",
            good.replace("stable: sentiment-v1", "stable: v0").into_bytes(),
        ),
        (
            "all weights zero",
            good.replace("weight: 10", "weight: 0").replace("weight: 90", "weight: 0").into_bytes(),
        ),
        ("not YAML", b"listeners: [".to_vec()),
        ("nothing", Vec::new()),
        ("garbage", (0..=255u8).cycle().take(4096).collect()),
        ("too much", large.into_bytes()),
    ] {
        proxy.write(&text);
        let answer = proxy.reload().await.expect(422);
        assert_eq!(answer.header("content-type").as_deref(), Some("application/problem+json"));
        let defects = answer.json()["defects"].as_array().unwrap().clone();
        assert!(!defects.is_empty(), "{what}");
        for defect in &defects {
            assert!(defect["code"].as_str().unwrap().starts_with("SRN"), "{what}");
            assert!(!defect["message"].as_str().unwrap().is_empty(), "{what}");
        }
        let (generation, successful, last_error) = state(&proxy).await;
        assert_eq!((generation, successful), (1, false), "{what}");
        assert!(
            last_error.to_string().contains(defects[0]["code"].as_str().unwrap()),
            "{last_error}"
        );
        proxy.client().post(PATH, "{}").await.expect(200);
    }
    proxy.write(&good);
    assert_eq!(proxy.reload().await.expect(200).json()["result"], "unchanged");
    let (generation, successful, last_error) = state(&proxy).await;
    assert_eq!((generation, successful), (1, true));
    assert!(last_error.is_null() || last_error.as_array().is_some_and(Vec::is_empty));
}

#[tokio::test]
async fn a_file_that_is_gone_changes_nothing() {
    let (v1, v2) = versions();
    let mut proxy = canary(&v1, &v2).start();
    let text = proxy.config().text();
    std::fs::remove_file(proxy.config().path()).unwrap();
    proxy.reload().await.expect(422);
    proxy.client().post(PATH, "{}").await.expect(200);
    proxy.write(text);
    proxy.reload().await.expect(200);
    assert!(state(&proxy).await.1);
}

#[tokio::test]
async fn a_new_file_is_noticed_without_being_told() {
    let (v1, v2) = versions();
    let v3 = Backend::named("v3").start();
    let mut proxy = canary(&v1, &v2).start();
    proxy.rewrite(&v1.address.to_string(), &v3.address.to_string());
    proxy.rewrite("weight: 10", "weight: 0");
    // That warns: a canary without weight.
    eventually("the new version serves", async || {
        (proxy.client().post(PATH, "{}").await.expect(200).text() == "v3").then_some(())
    })
    .await;
    // And a bad one as well.
    proxy.rewrite("listeners:", "listners:");
    eventually("the defect is told", async || (!state(&proxy).await.1).then_some(())).await;
    assert_eq!(proxy.client().post(PATH, "{}").await.expect(200).text(), "v3");
}

#[tokio::test]
async fn a_mounted_config_map_is_swapped() {
    let (v1, v2) = versions();
    let mut proxy = canary(&v1, &v2).mounted().start();
    for n in 2..6 {
        proxy.write(weighted(&proxy.config().text(), 90 + n));
        eventually("the swap is noticed", async || (state(&proxy).await.0 == n).then_some(()))
            .await;
    }
    // The same content in another folder is nothing new.
    proxy.write(proxy.config().text());
    assert_eq!(proxy.reload().await.expect(200).json()["result"], "unchanged");
    assert_eq!(state(&proxy).await.0, 5);
}

#[tokio::test]
async fn a_swap_that_stops_half_way_changes_nothing_until_it_goes_on() {
    let (v1, v2) = versions();
    let proxy = canary(&v1, &v2).mounted().start();
    let text = weighted(&proxy.config().text(), 91);
    let folder = proxy.config().folder().to_owned();
    let at = |name: &str| folder.join(name);
    let serves = async || proxy.client().post(PATH, "{}").await.expect(200);
    // The new folder is there, and the link to it, but not under its name yet.
    std::fs::create_dir(at("..new")).unwrap();
    std::fs::write(at("..new/serin.yaml"), &text).unwrap();
    std::os::unix::fs::symlink("..new", at("..data_tmp")).unwrap();
    assert_eq!(proxy.reload().await.expect(200).json()["result"], "unchanged");
    // The old folder goes first: every name leads nowhere.
    let old = std::fs::read_link(at("..data")).unwrap();
    std::fs::rename(folder.join(&old), at("..gone")).unwrap();
    proxy.reload().await.expect(422);
    assert_eq!((state(&proxy).await.0, state(&proxy).await.1), (1, false));
    serves().await;
    std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    // Without being told.
    eventually("the swap is noticed", async || (state(&proxy).await.0 == 2).then_some(())).await;
    assert!(state(&proxy).await.1);
    serves().await;
}

#[tokio::test]
async fn what_needs_a_restart_says_so() {
    let (v1, v2) = versions();
    let mut proxy = canary(&v1, &v2).with("workers: 2").start();
    let good = proxy.config().text();
    for (key, text) in [
        ("workers", good.replace("workers: 2", "workers: 3")),
        ("listeners", good.replace("- name: http", "- name: web")),
        (
            "admin",
            good.replacen("admin:\n  address: 127.0.0.1:0", "admin:\n  address: 127.0.0.2:0", 1),
        ),
        ("metrics", format!("{good}metrics: {{ address: 127.0.0.1:0 }}\n")),
        (
            "state",
            format!("{good}state: {{ file: {}/s.json }}\n", proxy.config().folder().display()),
        ),
    ] {
        assert_ne!(text, good, "{key}");
        proxy.write(&text);
        let defects = proxy.reload().await.expect(422).json()["defects"].clone();
        assert!(defects[0]["message"].as_str().unwrap().contains(key), "{defects}");
        assert!(defects[0]["help"].as_str().unwrap().contains("restart"), "{defects}");
        assert_eq!(state(&proxy).await.0, 1);
    }
    proxy.client().post(PATH, "{}").await.expect(200);
}

#[tokio::test]
async fn a_request_under_way_keeps_the_endpoint_that_the_config_has_no_more() {
    let old = Backend::named("old").on("/stream", Script::by_hand()).start();
    let new = Backend::named("new").start();
    let mut proxy = Proxy::to(&old, "").start();
    let mut stream = Stream::open(&proxy, &old).await;
    proxy.rewrite(&old.address.to_string(), &new.address.to_string());
    proxy.reload().await.expect(200);
    assert_eq!(proxy.get("/").await.expect(200).text(), "new");
    stream.flows("data: still there\n\n").await;
    stream.ends().await;
}

#[tokio::test]
async fn a_drain_ends_what_is_under_way_and_takes_nothing_new() {
    let model = Backend::named("model").on("/stream", Script::by_hand()).start();
    let mut proxy = Proxy::to(&model, "").start();
    let mut idle = proxy.client();
    idle.get("/").await.expect(200);
    let mut stream = Stream::open(&proxy, &model).await;
    let (admin, address) = (proxy.admin_address(), proxy.address());
    let drained = proxy.drain();
    let ready = Request::get("/readyz").host("localhost");
    eventually("it says that it drains", async || {
        let answer = serin_testkit::Client::of(admin).send(&ready).await;
        (answer.status == 503).then_some(())
    })
    .await;
    eventually("nobody listens", async || {
        tokio::net::TcpStream::connect(address).await.is_err().then_some(())
    })
    .await;
    stream.flows("data: to the end\n\n").await;
    stream.ends().await;
    let drained = tokio::task::spawn_blocking(move || drained.join().unwrap()).await.unwrap();
    assert_eq!(drained, serin::app::Drained::Whole);
}

/// Some that no worker has accepted yet, some that have not said anything.
#[tokio::test]
async fn a_drain_answers_those_whom_the_kernel_has_let_in() {
    let model = Backend::named("model").start();
    let listener = "address: 127.0.0.1:8080";
    let proxy = Proxy::to(&model, "")
        .replace("routes:", "workers: 1\nroutes:")
        .replace(listener, &format!("{listener}, limits: {{ connections: 1 }}"));
    let mut proxy = proxy.start();
    // Its one place is taken, by a client that has just been served.
    let mut known = Wire::connect(proxy.address()).await;
    known.send(Request::get("/").bytes()).await.unwrap();
    within("an answer", known.head()).await.unwrap();
    let mut waiting = Vec::new();
    for _ in 0..5 {
        waiting.push(proxy.client().begin(Request::get("/").bytes()).await);
    }
    let mut silent = Wire::connect(proxy.address()).await;
    let drained = proxy.drain();
    for wire in &mut waiting {
        let head = within("an answer", wire.head()).await.unwrap();
        assert_eq!((head.status(), head.field("connection").as_deref()), (200, Some("close")));
    }
    within("the end", silent.left()).await;
    let drained = tokio::task::spawn_blocking(move || drained.join().unwrap()).await.unwrap();
    assert_eq!(drained, serin::app::Drained::Whole);
    assert_eq!(model.requests(), 6);
}

/// Who comes later is refused at once, and may go elsewhere; who was there waits.
#[tokio::test]
async fn a_drain_lets_nobody_more_in_while_others_wait_for_a_place() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let model = Backend::named("model").does(Script::by_hand()).start();
    let listener = "address: 127.0.0.1:8080";
    let proxy = Proxy::to(&model, "")
        .replace("routes:", "workers: 1\nroutes:")
        .replace(listener, &format!("{listener}, limits: {{ connections: 1 }}"));
    let mut proxy = proxy.start();
    let mut held = proxy.client().begin(Request::get("/").bytes()).await;
    let mut call = model.next_call().await;
    let mut waiting = proxy.client().begin(Request::get("/").bytes()).await;
    let address = proxy.address();
    let drained = proxy.drain();
    eventually("nobody listens", async || {
        tokio::net::TcpStream::connect(address).await.is_err().then_some(())
    })
    .await;
    call.say(ANSWER).await;
    assert_eq!(within("an answer", held.head()).await.unwrap().status(), 200);
    let mut call = model.next_call().await;
    call.say(ANSWER).await;
    assert_eq!(within("an answer", waiting.head()).await.unwrap().status(), 200);
    let drained = tokio::task::spawn_blocking(move || drained.join().unwrap()).await.unwrap();
    assert_eq!(drained, serin::app::Drained::Whole);
}

#[tokio::test]
async fn a_drain_lets_http2_streams_end() {
    let model = Backend::named("model").on("/stream", Script::by_hand()).start();
    let mut proxy = Proxy::to(&model, "").start();
    let mut client = proxy.http2().await;
    let mut idle = proxy.http2().await;
    let request = |target| http::Request::get(target).body(Streamed::of("")).unwrap();
    let asked = tokio::spawn(async move { client.exchange(request("http://a/stream")).await });
    let mut call = model.next_call().await;
    call.begin_stream().await;
    call.chunk("before").await;
    let drained = proxy.drain();
    // The idle one is told to go elsewhere.
    eventually("it goes", async || idle.send(request("http://a/")).await.is_err().then_some(()))
        .await;
    call.chunk(", after").await;
    call.end_stream().await;
    assert_eq!(asked.await.unwrap().body(), "before, after");
    let drained = tokio::task::spawn_blocking(move || drained.join().unwrap()).await.unwrap();
    assert_eq!(drained, serin::app::Drained::Whole);
}

/// A request that was on its way when the client was told that the connection ends.
#[tokio::test]
async fn a_request_that_crosses_a_goaway_is_answered() {
    let model = Backend::named("model").on("/stream", Script::by_hand()).start();
    let mut proxy = Proxy::to(&model, "").start();
    let mut client = Frames::connect(proxy.address()).await;
    client.get(1, "/stream").await;
    let mut call = model.next_call().await;
    call.begin_stream().await;
    client.until(kind::HEADERS).await;
    let drained = proxy.drain();
    let told = client.until(kind::GOAWAY).await;
    assert_eq!(told.payload[..4], [0x7f, 0xff, 0xff, 0xff], "{told:?}");
    client.get(3, "/crosses").await;
    let head = client.until(kind::HEADERS).await;
    assert_eq!((head.stream, head.payload[0]), (3, 0x88), "{head:?}");
    call.end_stream().await;
    while !client.until(kind::DATA).await.ends_stream() {}
    drop(client);
    let drained = tokio::task::spawn_blocking(move || drained.join().unwrap()).await.unwrap();
    assert_eq!(drained, serin::app::Drained::Whole);
}

#[tokio::test]
async fn a_drain_that_takes_too_long_cuts() {
    let model = Backend::named("model").does(Script::hangs()).start();
    let mut proxy = Proxy::to(&model, "").with("drain_timeout: 200ms").start();
    let mut wire = proxy.client().begin(Request::get("/").bytes()).await;
    model.saw(1).await;
    let drained = proxy.drain();
    let drained = tokio::task::spawn_blocking(move || drained.join().unwrap()).await.unwrap();
    assert_eq!(drained, serin::app::Drained::Cut);
    assert_eq!(within("the end", wire.rest()).await, b"");
}
