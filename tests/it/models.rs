//! Rules that go by the model a body names, and versions that know it by another name.

use serde_json::{Value, json};
use serin_testkit::{
    Answer, Backend, Proxy, ProxyBuilder, Request, Script, Seen, Streamed, eventually, within,
};

/// One rule for `chat`, one for names that begin with `embed`, one for whatever is left; the
/// canary knows `chat` as `chat-v2`.
const RULES: &str = "
listeners: [{ name: http, address: '127.0.0.1:8080' }]
admin: { address: '127.0.0.1:9901' }
replay_body_max: 4KiB
response_headers: true
backends:
  - { name: chat-v1, endpoints: ['127.0.0.1:9001'] }
  - { name: chat-v2, endpoints: ['127.0.0.1:9002'] }
  - { name: embed, endpoints: ['127.0.0.1:9003'] }
routes:
  - name: v1
    rules:
      - name: chat
        matches: [{ path: /v1, method: POST, model: chat }]
        backends:
          - { name: chat-v1, weight: 1 }
          - { name: chat-v2, weight: 0, model: chat-v2 }
        failover: true
      - name: embed
        matches: [{ path: /v1, model: { regex: '^embed-' } }]
        backends: [{ name: embed }]
      - name: none
        matches: [{ path: /v1, model: { present: false } }]
        backends: [{ name: embed }]
rollouts:
  - name: chat-v2
    rule: v1/chat
    stable: chat-v1
    canary: chat-v2
    objectives: [{ errors: 1% }]
";

struct Servers {
    stable: Backend,
    canary: Backend,
    embed: Backend,
}

fn servers() -> Servers {
    Servers {
        stable: Backend::named("v1").does(Script::echoes()).start(),
        canary: Backend::named("v2").does(Script::echoes()).start(),
        embed: Backend::named("embed").does(Script::echoes()).start(),
    }
}

impl Servers {
    fn behind(&self) -> ProxyBuilder {
        Proxy::with_yaml(RULES).backends([&self.stable, &self.canary, &self.embed])
    }

    /// With all of `chat` at the canary.
    fn at_canary(&self) -> ProxyBuilder {
        self.behind()
            .replace("{ name: chat-v1, weight: 1 }", "{ name: chat-v1, weight: 0 }")
            .replace("weight: 0, model: chat-v2", "weight: 1, model: chat-v2")
    }
}

fn post(body: impl Into<Vec<u8>>) -> Request {
    Request::post("/v1/chat/completions", body).header("content-type", "application/json")
}

fn backend_of(answer: &Answer) -> String {
    answer.header("x-serin-backend").unwrap_or_else(|| answer.status.to_string())
}

#[tokio::test]
async fn a_body_goes_where_its_model_is() {
    let servers = servers();
    let proxy = servers.behind().start();
    let mut client = proxy.client();
    let text = |text: &str| Request::post("/v1/x", text).header("content-type", "text/plain");
    for (request, wanted) in [
        (post(r#"{"model":"chat","stream":true}"#), "chat-v1"),
        (post(r#" {"messages":[{"model":"embed-1"}], "model" : "ch\u0061t"}"#), "chat-v1"),
        (post(r#"{"model":"embed-small"}"#), "embed"),
        (post(r#"{"model":"embed-small"}"#).chunked(), "embed"),
        (post(r#"{"model":"other"}"#), "404"),
        (post(r#"{"model":7}"#), "embed"),
        (post(r#"{"messages":[]}"#), "embed"),
        (post("{ no json"), "embed"),
        (text(r#"{"model":"chat"}"#), "embed"),
        (post(r#"{"model":"chat"}"#).header("content-encoding", "gzip"), "embed"),
        (Request::get("/v1/models"), "embed"),
        (Request::get("/v2/models"), "404"),
        (post(r#"{"model":"chat","model":"embed-1"}"#), "400"),
    ] {
        let answer = client.send(&request).await;
        assert_eq!(backend_of(&answer), wanted, "{request:?}");
        if answer.status == 200 {
            // Whatever was read, is sent as it was.
            let sent = String::from_utf8_lossy(&request.bytes()).into_owned();
            assert!(sent.contains(&answer.text()), "{sent}");
            assert_eq!(answer.body.is_empty(), sent.starts_with("GET"), "{sent}");
        }
    }
    let twice = client.send(&post(r#"{"model":"chat","model":"chat"}"#)).await.expect(400);
    assert!(twice.text().contains("names its `model` more than once"), "{}", twice.text());
    assert_eq!(servers.canary.requests(), 0);
}

#[tokio::test]
async fn a_version_is_asked_by_the_name_that_it_knows() {
    let servers = servers();
    let proxy = servers.at_canary().start();
    let mut client = proxy.client();
    let body = r#"{ "messages": [{"model": "chat"}], "model" : "chat" , "n": 1.50 }"#;
    let renamed = r#"{ "messages": [{"model": "chat"}], "model" : "chat-v2" , "n": 1.50 }"#;
    for request in [post(body), post(body).chunked(), post(body).header("content-digest", "x")] {
        let answer = client.send(&request).await.expect(200);
        assert_eq!(answer.text(), renamed);
        let seen = servers.canary.last();
        assert_eq!(seen.header("content-length"), renamed.len().to_string());
        assert_eq!(seen.header("transfer-encoding"), "");
        assert_eq!(seen.header("content-digest"), "");
    }
    // Over HTTP/2 as well, in pieces.
    let (pieces, streamed) = Streamed::new();
    let request =
        http::Request::post("http://models/v1/x").header("content-type", "application/json");
    let mut http2 = proxy.http2().await;
    let say = async {
        for piece in body.as_bytes().chunks(7) {
            pieces.send(piece.to_vec().into()).await.unwrap();
        }
        drop(pieces);
    };
    let (answer, ()) = tokio::join!(http2.exchange(request.body(streamed).unwrap()), say);
    assert_eq!(answer.body(), renamed);
}

#[tokio::test]
async fn stable_gets_the_body_as_it_was_when_it_stands_in() {
    let servers = servers();
    let proxy = servers.at_canary().start();
    servers.canary.now(Script::answers(500));
    let body = r#"{"model":"chat"}"#;
    let answer = proxy.client().send(&post(body)).await.expect(200);
    assert_eq!((backend_of(&answer).as_str(), answer.text().as_str()), ("chat-v1", body));
    assert_eq!(servers.canary.last().body, br#"{"model":"chat-v2"}"#);
}

#[tokio::test]
async fn copies_of_a_mirror_step_have_the_canarys_name_and_shadows_have_theirs() {
    let servers = servers();
    let mirror = "failover: true\n        mirrors: [{ backend: embed, methods: [POST], model: e }]";
    let steps = "canary: chat-v2\n    steps: [{ mirror: 100%, for: 1h }, { weight: 100% }]";
    let proxy = servers
        .behind()
        .replace("failover: true", mirror)
        .replace("canary: chat-v2", steps)
        .start();
    let body = r#"{"model":"chat"}"#;
    let answer = proxy.client().send(&post(body)).await.expect(200);
    assert_eq!(answer.text(), body);
    assert_eq!(servers.canary.saw(1).await[0].body, br#"{"model":"chat-v2"}"#);
    let copy = &servers.embed.saw(1).await[0];
    assert_eq!(
        (copy.body.as_slice(), copy.header("content-length").as_str()),
        (&br#"{"model":"e"}"#[..], "13")
    );
}

#[tokio::test]
async fn probes_ask_each_version_by_its_own_name() {
    let servers = servers();
    let probe = "canary: chat-v2\n    probe: { every: 1s, request: { method: POST, path: /v1/chat, \
                 headers: { content-type: application/json }, body: '{\"model\":\"chat\"}' } }";
    let _proxy = servers.behind().replace("canary: chat-v2", probe).start();
    assert_eq!(servers.stable.saw(1).await[0].body, br#"{"model":"chat"}"#);
    let seen = &servers.canary.saw(1).await[0];
    assert_eq!(seen.body, br#"{"model":"chat-v2"}"#);
    assert_eq!(seen.header("content-length"), "19");
}

#[tokio::test]
async fn what_is_too_large_to_be_read_is_refused_and_the_rest_is_as_before() {
    let servers = servers();
    let proxy = servers.behind().start();
    let mut client = proxy.client();
    let of = |bytes: usize| json!({ "model": "chat", "text": "x".repeat(bytes) }).to_string();
    for request in [post(of(9_000)), post(of(9_000)).chunked()] {
        let answer = client.send(&request).await.expect(413);
        assert!(answer.text().contains("replay_body_max"), "{}", answer.text());
        client = proxy.client();
    }
    client.send(&post(of(4_000))).await.expect(200);
    // Where nothing is asked of the body, nothing is read of it.
    let plain = Request::post("/v1/x", of(9_000)).header("content-type", "text/x");
    assert_eq!(backend_of(&client.send(&plain).await.expect(200)), "embed");
    // The rule's own limit holds too.
    let proxy = servers.behind().replace("failover: true", "limits: { max_body: 64B }").start();
    let answer = proxy.client().send(&post(of(100)).chunked()).await.expect(413);
    assert!(answer.text().contains("limits.max_body"), "{}", answer.text());
}

#[tokio::test]
async fn a_client_that_leaves_or_says_too_little_reaches_nobody() {
    let servers = servers();
    let proxy = servers.behind().start();
    let head = "POST /v1/chat HTTP/1.1\r\nhost: m\r\ncontent-type: application/json\r\n";
    let wire = proxy.client().begin(format!("{head}content-length: 99\r\n\r\n{{\"model\"")).await;
    drop(wire);
    eventually("the request is counted", async || {
        let metrics = proxy.metrics().await;
        (metrics.value("serin_requests_total", &[("code", "499")]) >= 1.0).then_some(())
    })
    .await;
    assert_eq!(servers.stable.requests() + servers.embed.requests(), 0);
}

#[tokio::test]
async fn a_request_that_expects_to_be_told_so_is_told_when_its_body_is_wanted() {
    let servers = servers();
    let proxy = servers.behind().start();
    let body = r#"{"model":"chat"}"#;
    let head = format!(
        "POST /v1/chat HTTP/1.1\r\nhost: m\r\ncontent-type: application/json\r\n\
         expect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut wire = proxy.client().begin(head).await;
    assert_eq!(wire.head().await.expect("an interim response").word(1), "100");
    wire.send(body).await.expect("the proxy listens");
    assert_eq!(wire.head().await.expect("a response").word(1), "200");
}

/// Trailers are dropped with the chunks; the body is not.
#[tokio::test]
async fn a_body_with_trailers_is_read_for_its_model_too() {
    let servers = servers();
    let proxy = servers.behind().start();
    let body = r#"{"model":"chat","n":1}"#;
    let request = format!(
        "POST /v1 HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\nx-checksum: 1\r\n\r\n",
        body.len()
    );
    let mut client = proxy.client().begin(request).await;
    let head = within("a head", client.head()).await.unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(servers.stable.last().body, body.as_bytes());
}

/// `config/progressive.yaml` as it stands, in its first step.
#[tokio::test]
async fn the_rollout_of_a_chat_model_begins_with_copies_under_its_own_name() {
    let echo = |name| Backend::named(name).does(Script::echoes()).start();
    let (one, other, canary) = (echo("v1"), echo("v1 too"), echo("v2"));
    let proxy = Proxy::with_config("progressive.yaml")
        .backends([&one, &canary])
        .replace("127.0.0.1:9011", &other.address.to_string())
        .replace("state:\n  file: ./serin-state.json", "#")
        .start();
    let ask = |model: &str, user: usize| {
        Request::post("/v1/chat/completions", json!({ "model": model }).to_string())
            .header("content-type", "application/json")
            .header("x-user-id", &user.to_string())
    };
    let mut client = proxy.client();
    for user in 0..200 {
        let answer = client.send(&ask("chat", user)).await.expect(200);
        assert_eq!(answer.text(), r#"{"model":"chat"}"#);
    }
    client.send(&ask("other", 0)).await.expect(404);
    // A tenth is copied. Its health is asked too, and now and then it is probed.
    let is_renamed = |seen: &&Seen| seen.body == br#"{"model":"chat-v2"}"#;
    eventually("a copy comes", async || canary.seen().iter().find(is_renamed).map(|_| ())).await;
    let others = canary.seen().into_iter().filter(|seen| seen.head.word(0) == "POST");
    for seen in others.filter(|seen| !seen.header("user-agent").contains("probe")) {
        assert_eq!(seen.body, br#"{"model":"chat-v2"}"#);
    }
    let rollout = proxy.rollout("chat-v2").view().await;
    assert_eq!((&rollout["step"], &rollout["weight"]), (&json!(0), &json!(0.0)));
}

#[tokio::test]
async fn the_dump_tells_what_is_asked_and_what_is_renamed() {
    let servers = servers();
    let proxy = servers.behind().start();
    let dump: Value = proxy.admin("/config_dump").await.json();
    let rules = &dump["config"]["routes"][0]["rules"];
    assert_eq!(rules[0]["matches"][0]["model"], "chat");
    assert_eq!(rules[0]["backends"][1]["model"], "chat-v2");
    assert_eq!(rules[1]["matches"][0]["model"], json!({ "regex": "^embed-" }));
}

/// What is known when a request begins may be old when its body is there.
#[tokio::test]
async fn a_body_that_comes_slowly_goes_where_the_weights_are_by_then() {
    let servers = servers();
    let proxy = servers.at_canary().start();
    let body = r#"{"model":"chat"}"#;
    let (first, rest) = body.split_at(5);
    let head = "POST /v1/chat HTTP/1.1\r\nhost: m\r\ncontent-type: application/json\r\n";
    let begin = format!("{head}content-length: {}\r\n\r\n{first}", body.len());
    let mut wire = proxy.client().begin(begin).await;
    // One that came later is through, so the slow one has been looked at.
    let answer = proxy.client().send(&post(body)).await.expect(200);
    assert_eq!(backend_of(&answer), "chat-v2");
    proxy.rollout("chat-v2").ask("abort").await.expect(200);
    wire.send(rest).await.expect("the proxy listens");
    let head = wire.head().await.expect("a response");
    assert_eq!(head.field("x-serin-backend").as_deref(), Some("chat-v1"));
    assert_eq!(servers.canary.requests(), 1);
}

/// More pieces than memory would be given to if each were kept for itself.
#[tokio::test]
async fn a_body_in_the_smallest_of_pieces_is_read_too() {
    let servers = servers();
    let proxy = servers.behind().start();
    let body = json!({ "text": "x".repeat(2_000), "model": "chat" }).to_string();
    let head = "POST /v1/chat HTTP/1.1\r\nhost: m\r\ncontent-type: application/json\r\n\
                transfer-encoding: chunked\r\n\r\n";
    let chunks: Vec<_> = body.chars().map(|c| format!("1\r\n{c}\r\n")).collect();
    let chunks = chunks.concat();
    let mut wire = proxy.client().begin(format!("{head}{chunks}0\r\n\r\n")).await;
    assert_eq!(wire.head().await.expect("a response").word(1), "200");
    assert_eq!(servers.stable.last().body, body.as_bytes());
}
