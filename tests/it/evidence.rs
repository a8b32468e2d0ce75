//! What counts against a canary, what does not, and how people are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde_json::{Value, json};
use serin_loadtest::load::{Load, LoadHandle, RequestTemplate};
use serin_testkit::{Answer, Backend, Client, Proxy, Request, Script, eventually, ms, seed};

const ROLLOUT: &str = "sentiment-v2";
const PATH: &str = "/v2/models/sentiment/infer";

fn versions() -> (Backend, Backend) {
    (Backend::named("v1").start(), Backend::named("v2").start())
}

fn load(proxy: &Proxy, rps: f64) -> LoadHandle {
    let request = RequestTemplate::sentiment("sentiment").unwrap();
    Load { seed: seed(), ..Load::new(proxy.address(), rps, request) }.start().unwrap()
}

async fn post(proxy: &Proxy, path: &str, body: &Value) -> Answer {
    let request = Request::post(path, body.to_string()).host("localhost");
    let request = request.header("content-type", "application/json");
    Client::of(proxy.admin_address()).send(&request).await
}

async fn changes(proxy: &Proxy) -> Vec<Value> {
    let path = format!("/api/rollouts/{ROLLOUT}/changes");
    let told = proxy.admin(&path).await.expect(200).json();
    told["changes"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_rollback_names_the_first_requests_that_failed() {
    let (v1, v2) = versions();
    v2.now(Script::answers(503));
    let proxy = Proxy::with_config("canary.yaml").backends([&v1, &v2]).start();
    let load = load(&proxy, 400.0);
    proxy.rollout(ROLLOUT).expect_rolled_back("errors <= 1%").await;
    load.stop();
    let changes = changes(&proxy).await;
    let change = changes.iter().find(|one| one["state"] == "rolled_back").unwrap();
    let failing = change["failing"].as_array().unwrap();
    assert!((1..=5).contains(&failing.len()), "{change}");
    let ids: Vec<_> = v2.seen().iter().map(|seen| seen.header("x-request-id")).collect();
    for one in failing {
        assert_eq!((&one["status"], &one["objective"]), (&503.into(), &"errors <= 1%".into()));
        assert!(ids.contains(&one["id"].as_str().unwrap().to_owned()), "{one}");
        assert!(one["latency_ms"].as_f64().unwrap() > 0.0);
    }
}

#[tokio::test]
async fn an_endpoint_that_has_just_appeared_is_not_judged_by_its_latency() {
    let (v1, v2) = versions();
    let cold = Backend::named("cold").does(Script::answers(200).after(ms(300))).start();
    let mut proxy =
        Proxy::with_config("canary.yaml").backends([&v1, &v2]).with("    version: \"1\"").start();
    let load = load(&proxy, 200.0);
    let total = async |proxy: &Proxy, index: usize| {
        let view = proxy.rollout(ROLLOUT).view().await;
        assert_eq!(view["state"], "progressing", "{view}");
        view["objectives"][index]["canary"]["total"].as_u64().unwrap_or_default()
    };
    eventually("the canary is judged", async || (total(&proxy, 1).await > 20).then_some(())).await;
    proxy.rewrite(&v2.address.to_string(), &cold.address.to_string());
    proxy.reload().await.expect(200);
    let before = (cold.requests(), total(&proxy, 1).await);
    eventually("it is slow", async || (total(&proxy, 0).await > before.1 + 60).then_some(())).await;
    // What was under way at the old one may still have counted.
    assert!(total(&proxy, 1).await < before.1 + 20, "{before:?}");
    cold.now(Script::answers(500));
    proxy.rollout(ROLLOUT).expect_rolled_back("errors <= 1%").await;
    load.stop();
}

#[tokio::test]
async fn a_body_that_is_slower_than_stables_holds() {
    let v1 = Backend::named("v1").does(Script::answers(200).after(ms(2))).start();
    let v2 = Backend::named("v2").does(Script::answers(200).after(ms(60))).start();
    let proxy = Proxy::with_config("canary.yaml")
        .backends([&v1, &v2])
        .replace("- latency: { p99: 200ms }", "- latency: body-not-worse-than-stable")
        .start();
    let load = load(&proxy, 600.0);
    let view = proxy.rollout(ROLLOUT).expect_held("latency body not worse than stable").await;
    load.stop();
    assert_eq!((&view["state"], &view["weight"]), (&"holding".into(), &0.1.into()));
    assert!(v1.requests() >= 1000, "it takes a thousand of stable to measure by");
    let body = &view["objectives"][1];
    assert!(body["canary"]["ratio"].as_f64().unwrap() > 0.9, "{body}");
    assert!(body["stable"]["ratio"].as_f64().unwrap() < 0.5, "{body}");
    let limit = view["body_ms"].as_f64().unwrap();
    assert!((2.0..60.0).contains(&limit), "stable's p90, not the canary's: {limit}");
}

/// Sends one request and says which version answered.
async fn ask(client: &mut Client, id: &str) -> String {
    let request = Request::post(PATH, "{}").header("x-request-id", id);
    let answer = client.send(&request).await.expect(200);
    answer.header("x-serin-backend").unwrap()
}

#[tokio::test]
async fn what_is_said_later_is_evidence_of_its_own() {
    let (v1, v2) = versions();
    let proxy = Proxy::with_config("canary.yaml")
        .backends([&v1, &v2])
        .replace("weight: 90", "weight: 1")
        .replace("weight: 10", "weight: 1")
        .replace("- latency: { p99: 200ms }", "- feedback: { name: accepted, min: 90% }")
        .replace("admin:", "response_headers: true\nadmin:")
        .start();
    let mut client = proxy.client();
    let say = async |id: &str, good: bool| {
        let said = json!({ "request_id": id, "objective": "accepted", "good": good });
        post(&proxy, "/api/feedback", &said).await
    };
    say("nobody", true).await.expect(404);
    let other = json!({ "request_id": "1", "objective": "liked", "good": true });
    let answer = post(&proxy, "/api/feedback", &other).await.expect(404);
    assert!(answer.text().contains("there is: accepted"), "{}", answer.text());
    post(&proxy, "/api/feedback", &json!({ "request_id": 7 })).await.expect(400);
    // People like what stable says, and not what the canary says.
    for number in 0..50_000 {
        let id = format!("request-{number}");
        let is_canary = ask(&mut client, &id).await == "sentiment-v2";
        let answer = say(&id, !is_canary).await.expect(200).json();
        assert_eq!(answer["counted"], 1);
        if number == 0 {
            assert_eq!(say(&id, !is_canary).await.expect(200).json()["repeated"], 1);
        }
        if proxy.rollout(ROLLOUT).state().await == "rolled_back" {
            break;
        }
    }
    let view = proxy.rollout(ROLLOUT).expect_rolled_back("accepted >= 90%").await;
    let (canary, stable) = (&view["objectives"][1]["canary"], &view["objectives"][1]["stable"]);
    assert_eq!((&canary["bad"], &stable["bad"]), (&canary["total"], &0.into()), "{view}");
    // What stable answers now is no evidence, and many may be said at once.
    ask(&mut client, "late").await;
    let late = json!({ "request_id": "late", "objective": "accepted", "good": false });
    let many = post(&proxy, "/api/feedback", &json!([late, late])).await.expect(200).json();
    assert_eq!(many["counted"].as_u64().unwrap() + many["repeated"].as_u64().unwrap(), 2);
}

#[tokio::test]
async fn it_is_told_who_said_what() {
    let (v1, v2) = versions();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("secret-of-{name}\n")).unwrap();
        path.display().to_string()
    };
    let tokens = format!(
        "admin:\n  token_file: {}\n  tokens: [{{ name: ci, file: {} }}]",
        file("root"),
        file("ci")
    );
    let mut proxy = Proxy::with_config("canary.yaml")
        .backends([&v1, &v2])
        .replace("admin:", &tokens)
        .remembering()
        .start();
    let path = format!("/api/rollouts/{ROLLOUT}");
    let call = async |proxy: &Proxy, request: Request, token: &str| {
        let request = request.host("localhost").header("content-type", "application/json");
        let request = request.header("authorization", &format!("Bearer {token}"));
        Client::of(proxy.admin_address()).send(&request).await
    };
    let verb = |verb: &str| Request::post(&format!("{path}/{verb}"), "");
    call(&proxy, verb("abort"), "secret-of-nobody").await.expect(401);
    call(&proxy, verb("pause"), "secret-of-root").await.expect(200);
    let view = call(&proxy, verb("abort"), "secret-of-ci").await.expect(200).json();
    assert_eq!((&view["reason"], &view["said"]["by"]), (&"aborted by ci".into(), &"ci".into()));
    proxy.restart();
    let view = call(&proxy, Request::get(&path), "secret-of-ci").await.expect(200).json();
    assert_eq!((&view["said"]["word"], &view["said"]["by"]), (&"abort".into(), &"ci".into()));
    let told = Request::get(&format!("{path}/changes"));
    let told = call(&proxy, told, "secret-of-root").await.expect(200).json();
    let words = told["changes"].as_array().unwrap().iter().filter(|one| one["kind"] == "told");
    let words: Vec<_> = words.map(|one| (one["word"].clone(), one["by"].clone())).collect();
    assert_eq!(words, [(json!("pause"), json!("admin")), (json!("abort"), json!("ci"))]);
}

#[tokio::test]
async fn ids_of_many_workers_are_known_while_they_answer() {
    let (v1, v2) = versions();
    let proxy = Proxy::with_config("canary.yaml")
        .backends([&v1, &v2])
        .replace("- latency: { p99: 200ms }", "- feedback: { name: accepted, min: 90% }")
        .replace("listeners:", "workers: 3\nlisteners:")
        .start();
    let counted = Arc::new(AtomicU64::new(0));
    let clients = (0..8).map(|client| {
        let (counted, proxy) = (Arc::clone(&counted), &proxy);
        async move {
            let mut sender = proxy.client();
            for number in 0..40 {
                let id = format!("{client}-{number}");
                let request = Request::post(PATH, "{}").header("x-request-id", &id);
                sender.send(&request).await.expect(200);
                let said = json!({ "request_id": id, "objective": "accepted", "good": true });
                let answer = post(proxy, "/api/feedback", &said).await.expect(200).json();
                counted.fetch_add(answer["counted"].as_u64().unwrap(), Relaxed);
            }
        }
    });
    futures(clients.collect()).await;
    assert_eq!(counted.load(Relaxed), 320);
}

/// Waits for all of them, side by side.
async fn futures(all: Vec<impl Future<Output = ()>>) {
    let mut all: Vec<_> = all.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        all.retain_mut(|one| one.as_mut().poll(cx).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
