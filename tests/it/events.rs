//! What the admin port tells as it happens, and what was.

use serde_json::Value;
use serin_testkit::{Backend, Body, Client, End, Proxy, Request, Wire, eventually, within};

const ROLLOUT: &str = "sentiment-v2";

/// As `docs/admin-api.md` says.
const SUBSCRIBERS_MAX: usize = 16;

/// A stream of events that is read.
struct Events {
    wire: Wire,
    body: Body,
    text: String,
}

impl Events {
    async fn open(proxy: &Proxy, query: &str) -> Self {
        let request = Request::get(&format!("/api/events{query}")).host("localhost");
        let mut wire = Client::of(proxy.admin_address()).begin(request.bytes()).await;
        let head = within("a head", wire.head()).await.unwrap();
        assert_eq!(head.status(), 200, "{}", head.line);
        assert_eq!(head.field("content-type").as_deref(), Some("text/event-stream"));
        let body = Body::of_response(&head, "GET");
        Self { wire, body, text: String::new() }
    }

    /// Kind and data of the next event; `None` at a whole end.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let event: String = self.text.drain(..end + 2).collect();
                let line = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                let Some(kind) = line("event: ") else { continue };
                let data = serde_json::from_str(line("data: ").unwrap()).unwrap();
                return Some((kind.to_owned(), data));
            }
            let piece = within("an event", self.wire.piece(&mut self.body)).await.unwrap()?;
            self.text += std::str::from_utf8(&piece).unwrap();
        }
    }

    /// The next event of this kind for which `wanted` holds.
    async fn until(&mut self, kind: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        within(&format!("the event {kind}"), async {
            loop {
                let (found, data) = self.next().await.expect("a stream that goes on");
                if found == kind && wanted(&data) {
                    return data;
                }
            }
        })
        .await
    }
}

fn versions() -> (Backend, Backend) {
    (Backend::named("v1").start(), Backend::named("v2").start())
}

#[tokio::test]
async fn a_reader_hears_how_it_is_and_then_what_happens() {
    let (v1, v2) = versions();
    let mut proxy = Proxy::with_config("canary.yaml").backends([&v1, &v2]).start();
    // Before it has judged for the first time there are no numbers yet.
    proxy.rollout(ROLLOUT).expect_held("not enough traffic").await;
    let mut events = Events::open(&proxy, "").await;
    let mut first = Vec::new();
    for _ in 0..4 {
        first.push(events.next().await.unwrap());
    }
    let kinds: Vec<_> = first.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["hello", "config", "backends", "sample"]);
    assert_eq!(first[1].1["generation"], 1);
    let endpoint = &first[2].1["backends"][1]["endpoints"][0];
    assert_eq!(endpoint["address"], v2.address.to_string());
    assert_eq!(endpoint["state"], "serving");
    assert_eq!(first[3].1["rollouts"][0], proxy.rollout(ROLLOUT).view().await);

    proxy.rollout(ROLLOUT).ask("abort").await.expect(200);
    let told = events.until("change", |data| data["kind"] == "told").await;
    assert_eq!((&told["rollout"], &told["word"]), (&ROLLOUT.into(), &"abort".into()));
    let change = events.until("change", |data| data["kind"] == "changed").await;
    assert_eq!((&change["state"], &change["share"]), (&"aborted".into(), &0.0.into()));
    let sample = events.until("sample", |data| data["rollouts"][0]["state"] == "aborted").await;
    assert_eq!(sample["rollouts"][0]["weight"], 0.0);

    proxy.rewrite("weight: 90", "weihgt: 90");
    assert_eq!(proxy.reload().await.status, 422);
    let config = events.until("config", |data| !data["last_error"].is_null()).await;
    assert_eq!(config["generation"], 1);
    assert!(config["last_error"][0]["message"].as_str().unwrap().contains("weihgt"), "{config}");
    proxy.rewrite("weihgt: 90", "weight: 80");
    proxy.reload().await.expect(200);
    let config = events.until("config", |data| data["last_error"].is_null()).await;
    assert_eq!(config["generation"], 2);
}

#[tokio::test]
async fn who_wants_changes_only_gets_no_samples() {
    let (v1, v2) = versions();
    let proxy = Proxy::with_config("canary.yaml").backends([&v1, &v2]).start();
    let mut changes = Events::open(&proxy, "?samples=false").await;
    let mut all = Events::open(&proxy, "").await;
    changes.until("sample", |_| true).await;
    all.until("sample", |_| true).await;
    for _ in 0..2 {
        all.until("sample", |_| true).await;
    }
    proxy.rollout(ROLLOUT).ask("pause").await.expect(200);
    assert_eq!(changes.next().await.unwrap().0, "change");
}

#[tokio::test]
async fn readers_have_places_and_give_them_back() {
    let (v1, v2) = versions();
    let proxy = Proxy::with_config("canary.yaml").backends([&v1, &v2]).start();
    let mut readers = Vec::new();
    for _ in 0..SUBSCRIBERS_MAX {
        readers.push(Events::open(&proxy, "").await);
    }
    let refused = proxy.admin("/api/events").await.expect(503);
    assert_eq!(refused.header("content-type").as_deref(), Some("application/problem+json"));
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("16 readers"), "{detail}");
    // All else is answered as before.
    proxy.admin("/api/rollouts").await.expect(200);
    readers.pop();
    let head = b"HEAD /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n";
    eventually("a place is free", async || {
        let mut wire = Client::of(proxy.admin_address()).begin(head).await;
        (wire.head().await.unwrap().status() == 200).then_some(())
    })
    .await;
    for reader in &mut readers {
        reader.until("sample", |_| true).await;
    }
}

#[tokio::test]
async fn a_drain_ends_the_stream_with_a_word() {
    let (v1, v2) = versions();
    let builder = Proxy::with_config("canary.yaml").backends([&v1, &v2]);
    let mut proxy = builder.with("drain_delay: 1h").start();
    let mut events = Events::open(&proxy, "").await;
    proxy.ask("/quitquitquit").await.expect(200);
    let bye = events.until("bye", |_| true).await;
    assert_eq!(bye["reason"], "draining");
    assert_eq!(events.next().await, None, "a whole end");
    assert_eq!(proxy.admin("/api/events").await.expect(503).end, End::Whole);
    proxy.stop();
}

#[tokio::test]
async fn the_journal_tells_the_last_decisions_and_the_history_the_last_minutes() {
    let (v1, v2) = versions();
    let proxy = Proxy::with_config("canary.yaml").backends([&v1, &v2]).start();
    let rollout = proxy.rollout(ROLLOUT);
    for verb in ["pause", "resume", "abort", "reset"] {
        rollout.ask(verb).await.expect(200);
    }
    let journal = async |query: &str| {
        let answer = proxy.admin(&format!("/api/journal{query}")).await.expect(200).json();
        answer["records"].as_array().unwrap().clone()
    };
    let all = journal("?limit=200").await;
    let words = all.iter().filter_map(|one| one["word"].as_str());
    assert_eq!(words.collect::<Vec<_>>(), ["pause", "resume", "abort", "reset"]);
    assert!(all.iter().any(|one| one["state"] == "aborted"), "{all:?}");
    assert_eq!(journal("?limit=3").await, all[all.len() - 3..]);
    assert_eq!(journal(&format!("?rollout={ROLLOUT}")).await, all);
    assert_eq!(journal("?rollout=other").await, Vec::<Value>::new());

    let history = eventually("a few points", async || {
        let history = proxy.admin(&format!("/api/history?rollout={ROLLOUT}")).await;
        let history = (history.status == 200).then(|| history.json())?;
        (history["points"].as_array().unwrap().len() >= 2).then_some(history)
    })
    .await;
    assert_eq!(history["objectives"][0], "errors <= 1%");
    let points = history["points"].as_array().unwrap();
    assert!(points[0]["at"].as_u64() < points[1]["at"].as_u64());
    assert_eq!(points[1]["objectives"].as_array().unwrap().len(), 2);

    let routes = proxy.admin("/api/routes").await.expect(200).json();
    let rule = &routes["routes"][0]["rules"][0];
    assert_eq!(rule["rollout"], ROLLOUT);
    assert_eq!(rule["shares"][1]["backend"], "sentiment-v2");
    assert!((rule["shares"][1]["share"].as_f64().unwrap() - 0.1).abs() < 1e-9, "{rule}");
}
