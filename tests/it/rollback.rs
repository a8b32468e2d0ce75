//! A bad version is taken out by itself, and stays out.
//!
//! How fast is a matter of chance, so it is the median of a few trials that is held to a
//! bound.

use std::collections::HashSet;
use std::time::Duration;

use serin_loadtest::load::{Load, LoadHandle, RequestTemplate};
use serin_testkit::{
    Backend, Proxy, ProxyBuilder, Request, Script, Stopwatch, eventually, ms, secs, seed,
};
use tokio::task::LocalSet;

const PATH: &str = "/v2/models/sentiment/infer";
const ROLLOUT: &str = "sentiment-v2";
const ERRORS: &str = "errors <= 1%";
const LATENCY: &str = "latency p99 <= 200ms";

/// Requests of which a tenth is missed by chance once in 10^13.
const ENOUGH: u32 = 300;

/// Trials run side by side.
const TRIALS: usize = 5;

fn versions() -> (Backend, Backend) {
    (Backend::named("v1").start(), Backend::named("v2").start())
}

/// `config/canary.yaml` as it stands.
fn canary(v1: &Backend, v2: &Backend) -> ProxyBuilder {
    Proxy::with_config("canary.yaml").backends([v1, v2])
}

/// Open loop: what is slow is not asked less often.
fn load(proxy: &Proxy, rps: f64, seed: u64) -> LoadHandle {
    let request = RequestTemplate::sentiment("sentiment").unwrap();
    Load { seed, ..Load::new(proxy.address(), rps, request) }.start().unwrap()
}

/// Sends `count` requests and returns who answered.
async fn ask(proxy: &Proxy, count: u32) -> HashSet<String> {
    let mut client = proxy.client();
    let mut served = HashSet::new();
    for _ in 0..count {
        served.insert(client.post(PATH, "{}").await.expect(200).text());
    }
    served
}

/// Waits until everything that was sent to the canary has been answered.
async fn quiet(proxy: &Proxy) {
    eventually("the canary has answered everything", async || {
        let metrics = proxy.metrics().await;
        let busy = metrics.value("serin_requests_in_flight", &[("backend", ROLLOUT)]);
        (busy < 0.5).then_some(())
    })
    .await;
}

/// Makes the canary bad under way, and returns how long it took until it was out, and how
/// many requests it got meanwhile.
async fn trial(bad: Script, objective: &str, seed: u64) -> (Duration, u64) {
    let (v1, v2) = versions();
    let proxy = canary(&v1, &v2).start();
    let load = load(&proxy, 100.0, seed);
    eventually("the canary takes part", async || (v2.requests() >= 5).then_some(())).await;
    let (watch, before) = (Stopwatch::start(), v2.requests());
    v2.now(bad);
    let view = proxy.rollout(ROLLOUT).expect_rolled_back(objective).await;
    let took = (watch.elapsed(), v2.requests() - before);
    assert_eq!(view["verdict"], "rollback");

    // Out means out.
    quiet(&proxy).await;
    let at_the_end = (v1.requests(), v2.requests());
    let more = async || (v1.requests() > at_the_end.0 + 100).then_some(());
    eventually("stable has taken over", more).await;
    assert_eq!(v2.requests(), at_the_end.1, "not one more");
    load.stop();
    let labels = [("rollout", ROLLOUT), ("objective", objective)];
    let count = proxy.metrics().await.value("serin_rollouts_rolled_back_total", &labels);
    assert!((count - 1.0).abs() < 0.1);
    took
}

/// Medians of a few trials.
async fn trials(bad: Script, objective: &'static str) -> (Duration, u64) {
    let seed = seed();
    let local = LocalSet::new();
    let trials: Vec<_> = (0..TRIALS as u64)
        .map(|n| local.spawn_local(trial(bad.clone(), objective, seed.wrapping_add(n))))
        .collect();
    local.await;
    let (mut times, mut requests) = (Vec::new(), Vec::new());
    for trial in trials {
        let (took, count) = trial.await.unwrap();
        times.push(took);
        requests.push(count);
    }
    times.sort();
    requests.sort_unstable();
    println!("{objective}: {times:?}, {requests:?} requests of the canary");
    (times[TRIALS / 2], requests[TRIALS / 2])
}

#[tokio::test]
async fn a_canary_that_fails_is_out_within_two_seconds_and_twenty_requests() {
    let (took, requests) = trials(Script::answers(500), ERRORS).await;
    assert!(took <= secs(2), "{took:?}");
    assert!(requests <= 20, "{requests} requests");
}

#[tokio::test]
async fn a_canary_that_breaks_connections_is_out_as_well() {
    let (took, requests) = trials(Script::resets(), ERRORS).await;
    assert!(took <= secs(2), "{took:?}");
    assert!(requests <= 20, "{requests} requests");
}

#[tokio::test]
async fn a_canary_that_gets_slow_is_out_within_sixty_requests() {
    let slow = Script::answers(200).every(5, Script::answers(200).after(ms(300)));
    let (took, requests) = trials(slow, LATENCY).await;
    // Sixty requests of a tenth of 100 a second are six seconds.
    assert!(took <= secs(15), "{took:?}");
    assert!(requests <= 60, "{requests} requests");
}

#[tokio::test]
async fn a_canary_that_hangs_is_out_before_a_single_answer() {
    let (_, requests) = trials(Script::hangs(), LATENCY).await;
    // Slow is what is open when its time is over; the first is so after 200 ms.
    assert!(requests <= 60, "{requests} requests");
}

#[tokio::test]
async fn a_dead_canary_is_out() {
    let v1 = Backend::named("v1").start();
    let v2 = Backend::named("v2").start_dead();
    let proxy = canary(&v1, &v2).start();
    let load = load(&proxy, 200.0, seed());
    proxy.rollout(ROLLOUT).expect_rolled_back(ERRORS).await;
    let before = load.stats().errors;
    ask(&proxy, 200).await;
    assert!(before < 100, "{before} users saw an error");
}

#[tokio::test]
async fn a_shared_outage_holds_and_blames_nobody() {
    let (v1, v2) = versions();
    let proxy = canary(&v1, &v2).start();
    let rollout = proxy.rollout(ROLLOUT);
    let load = load(&proxy, 400.0, seed());
    eventually("the canary takes part", async || (v2.requests() >= 20).then_some(())).await;
    v1.now(Script::answers(503));
    v2.now(Script::answers(503));
    let view = rollout.expect_held("shared cause").await;
    assert_eq!((view["state"].as_str(), view["verdict"].as_str()), (Some("holding"), Some("hold")));
    // Long after proof of errors alone would have been there.
    let before = v2.requests();
    eventually("the outage lasts", async || (v2.requests() > before + 150).then_some(())).await;
    let view = rollout.view().await;
    assert_eq!((&view["state"], &view["hold_reason"]), (&"holding".into(), &"shared cause".into()));
    assert!(view["objectives"][0]["over_limit"].as_f64().unwrap() >= 200.0);
    assert!((view["weight"].as_f64().unwrap() - 0.1).abs() < 1e-9);
    let metrics = proxy.metrics().await;
    assert!(metrics.value("serin_rollouts_rolled_back_total", &[]) < 0.5);
    let labels = [("rollout", ROLLOUT), ("state", "holding")];
    assert!(metrics.value("serin_rollout_state", &labels) > 0.5);
    // Once stable is well again and the canary is not, that is the canary's.
    v1.now(Script::answers(200));
    rollout.expect_rolled_back(ERRORS).await;
    load.stop();
}

#[tokio::test]
async fn a_healthy_canary_and_its_users_own_mistakes_roll_nothing_back() {
    let (v1, v2) = versions();
    v2.now(Script::answers(200).every(2, Script::answers(422)));
    let proxy = canary(&v1, &v2).start();
    let load = load(&proxy, 1000.0, seed());
    eventually("many have asked", async || (v2.requests() >= 300).then_some(())).await;
    load.stop();
    let view = proxy.rollout(ROLLOUT).view().await;
    assert_eq!(view["state"], "progressing");
    let errors = &view["objectives"][0];
    assert_eq!(errors["name"], ERRORS);
    assert_eq!(errors["canary"]["bad"], 0);
    // Mistakes of users are no evidence at all.
    let judged = errors["canary"]["total"].as_u64().unwrap();
    assert!(judged <= v2.requests() * 3 / 4, "{judged} of {}", v2.requests());
}

/// A proxy that has rolled back, its load ended.
async fn rolled_back(v1: &Backend, v2: &Backend, builder: ProxyBuilder) -> Proxy {
    let proxy = builder.start();
    v2.now(Script::answers(500));
    let load = load(&proxy, 300.0, seed());
    proxy.rollout(ROLLOUT).expect_rolled_back(ERRORS).await;
    load.stop();
    let _ = load.wait();
    // From here on it would answer well, and would be seen.
    v2.now(Script::answers(200));
    quiet(&proxy).await;
    assert_eq!(ask(&proxy, 100).await, HashSet::from(["v1".to_owned()]), "{}", v1.name);
    proxy
}

#[tokio::test]
async fn what_was_rolled_back_stays_out_whatever_happens_to_the_config() {
    let (v1, v2) = versions();
    let mut proxy = rolled_back(&v1, &v2, canary(&v1, &v2).remembering()).await;
    let decided = proxy.rollout(ROLLOUT).view().await;
    let stable = HashSet::from(["v1".to_owned()]);

    // A reload with the same content in other words.
    proxy.rewrite("# A weighted canary", "# Once more: a weighted canary");
    proxy.reload().await.expect(200);
    assert_eq!(ask(&proxy, ENOUGH).await, stable);
    assert_eq!(proxy.rollout(ROLLOUT).view().await, decided);

    // Told to reload although nothing changed.
    assert_eq!(proxy.reload().await.expect(200).json()["result"], "unchanged");
    assert_eq!(ask(&proxy, ENOUGH).await, stable);

    // Other weights, other objectives: still the same version.
    proxy.rewrite("weight: 10", "weight: 50");
    proxy.rewrite("errors: 1%", "errors: 50%");
    proxy.reload().await.expect(200);
    assert_eq!(ask(&proxy, ENOUGH).await, stable);
    assert_eq!(proxy.rollout(ROLLOUT).state().await, "rolled_back");
    proxy.rewrite("errors: 50%", "errors: 1%");

    // The process starts anew, with the user's file as it always was.
    proxy.restart();
    assert_eq!(proxy.rollout(ROLLOUT).state().await, "rolled_back");
    assert_eq!(ask(&proxy, ENOUGH).await, stable);
    let again = proxy.rollout(ROLLOUT).view().await;
    for key in ["state", "reason", "since", "verdict", "objectives", "weight"] {
        assert_eq!(again[key], decided[key], "{key}");
    }

    // Only a new version gets a new chance.
    let before = v2.requests();
    proxy.rewrite("canary: sentiment-v2", "canary: sentiment-v2\n    version: fixed");
    proxy.reload().await.expect(200);
    let view = proxy.rollout(ROLLOUT).view().await;
    assert_eq!((&view["state"], &view["version"]), (&"progressing".into(), &"fixed".into()));
    assert_eq!(ask(&proxy, ENOUGH).await.len(), 2);
    assert!(v2.requests() > before);
    // And the old one, put back, is still out.
    proxy.rewrite("\n    version: fixed", "");
    proxy.reload().await.expect(200);
    assert_eq!(ask(&proxy, ENOUGH).await, stable);
    assert_eq!(proxy.rollout(ROLLOUT).state().await, "rolled_back");
}

#[tokio::test]
async fn without_a_state_file_a_reload_keeps_it_out_all_the_same() {
    let (v1, v2) = versions();
    let mut proxy = rolled_back(&v1, &v2, canary(&v1, &v2)).await;
    for n in 0..5 {
        proxy.rewrite("\nlisteners:", &format!("\n# {n}\nlisteners:"));
        proxy.reload().await.expect(200);
        assert_eq!(ask(&proxy, 100).await.len(), 1);
    }
    assert_eq!(proxy.rollout(ROLLOUT).state().await, "rolled_back");
}

#[tokio::test]
async fn other_endpoints_are_another_version() {
    let (v1, v2) = versions();
    let v3 = Backend::named("v3").start();
    let mut proxy = rolled_back(&v1, &v2, canary(&v1, &v2).remembering()).await;
    let before = v2.requests();
    proxy.rewrite(&v2.address.to_string(), &v3.address.to_string());
    proxy.reload().await.expect(200);
    assert_eq!(proxy.rollout(ROLLOUT).state().await, "progressing");
    assert_eq!(ask(&proxy, 300).await, HashSet::from(["v1".to_owned(), "v3".to_owned()]));
    assert_eq!(v2.requests(), before);
}

#[tokio::test]
async fn a_reset_gives_another_chance_and_takes_it_again() {
    let (v1, v2) = versions();
    let mut proxy = rolled_back(&v1, &v2, canary(&v1, &v2).remembering()).await;
    let view = proxy.rollout(ROLLOUT).ask("reset").await.expect(200).json();
    assert_eq!((&view["state"], &view["reason"]), (&"progressing".into(), &().into()));
    assert_eq!(view["weight"], 0.1);
    assert_eq!(ask(&proxy, 300).await.len(), 2);
    // It is remembered as well.
    proxy.restart();
    assert_eq!(proxy.rollout(ROLLOUT).state().await, "progressing");
    assert_eq!(ask(&proxy, 300).await.len(), 2);
    v2.now(Script::answers(500));
    let load = load(&proxy, 300.0, seed());
    proxy.rollout(ROLLOUT).expect_rolled_back(ERRORS).await;
    load.stop();
}

#[tokio::test]
async fn a_rollout_goes_on_after_a_restart_with_the_evidence_it_had() {
    let (v1, v2) = versions();
    let mut proxy = canary(&v1, &v2).remembering().start();
    ask(&proxy, 1000).await;
    let total = |view: &serde_json::Value| view["objectives"][0]["stable"]["total"].clone();
    let before = eventually("all is judged", async || {
        let view = proxy.rollout(ROLLOUT).view().await;
        let sum = ["canary", "stable"].map(|arm| view["objectives"][0][arm]["total"].as_u64());
        (sum.iter().flatten().sum::<u64>() == 1000).then_some(view)
    })
    .await;
    proxy.restart();
    let after = eventually("it is judged again", async || {
        let view = proxy.rollout(ROLLOUT).view().await;
        view["objectives"][0].is_object().then_some(view)
    })
    .await;
    assert_eq!(total(&after), total(&before));
    assert_eq!(after["since"], before["since"]);
}

#[tokio::test]
async fn an_operator_takes_a_version_out_and_gives_it_back() {
    let (v1, v2) = versions();
    let mut proxy = canary(&v1, &v2).remembering().start();
    assert_eq!(ask(&proxy, 300).await.len(), 2);
    proxy.rollout(ROLLOUT).ask("reset").await.expect(409);
    let view = proxy.rollout(ROLLOUT).ask("abort").await.expect(200).json();
    assert_eq!((&view["state"], &view["weight"]), (&"aborted".into(), &0.0.into()));
    let before = v2.requests();
    assert_eq!(ask(&proxy, 300).await.len(), 1);
    // Once more changes nothing.
    assert_eq!(proxy.rollout(ROLLOUT).ask("abort").await.expect(200).json(), view);
    proxy.restart();
    assert_eq!(proxy.rollout(ROLLOUT).state().await, "aborted");
    assert_eq!(ask(&proxy, 300).await.len(), 1);
    assert_eq!(v2.requests(), before);
    proxy.rollout(ROLLOUT).ask("reset").await.expect(200);
    assert_eq!(ask(&proxy, 300).await.len(), 2);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_a_reason() {
    let (v1, v2) = versions();
    let proxy = rolled_back(&v1, &v2, canary(&v1, &v2)).await;
    for verb in ["abort", "promote", "pause", "resume"] {
        let answer = proxy.rollout(ROLLOUT).ask(verb).await.expect(409);
        assert_eq!(answer.header("content-type").as_deref(), Some("application/problem+json"));
        assert!(answer.json()["detail"].as_str().unwrap().len() > 20, "{verb}");
    }
    proxy.rollout("sentiment-v3").ask("abort").await.expect(404);
    proxy.admin("/api/rollouts/sentiment-v3").await.expect(404);
    proxy.rollout(ROLLOUT).ask("destroy").await.expect(404);
    // What a page of another origin can send.
    let path = format!("/api/rollouts/{ROLLOUT}/reset");
    let mut admin = serin_testkit::Client::of(proxy.admin_address());
    admin.send(&Request::post(&path, "").host("localhost")).await.expect(415);
    admin.send(&Request::get(&path).host("localhost")).await.expect(405);
    let json = Request::post(&path, "{}").header("content-type", "application/json");
    admin.send(&json.clone().host("rebound.example.com")).await.expect(403);
    assert_eq!(proxy.rollout(ROLLOUT).state().await, "rolled_back");
    admin.send(&json.host("127.0.0.1:1")).await.expect(200);
    assert_eq!(proxy.rollout(ROLLOUT).state().await, "progressing");
}

#[tokio::test]
async fn a_disk_that_is_gone_keeps_no_bad_version_in() {
    let (v1, v2) = versions();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let file = state.join("state.json");
    let lines = format!("state: {{ file: {} }}", file.display());
    let builder = canary(&v1, &v2).with(&lines);
    let proxy = builder.start();
    // In one step: it may be written to just now.
    std::fs::rename(&state, folder.path().join("gone")).unwrap();
    v2.now(Script::answers(500));
    let load = load(&proxy, 300.0, seed());
    proxy.rollout(ROLLOUT).expect_rolled_back(ERRORS).await;
    load.stop();
    quiet(&proxy).await;
    assert_eq!(ask(&proxy, ENOUGH).await, HashSet::from(["v1".to_owned()]));
    // What cannot be remembered is not done.
    proxy.rollout(ROLLOUT).ask("reset").await.expect(500);
    assert_eq!(proxy.rollout(ROLLOUT).state().await, "rolled_back");
    assert_eq!(ask(&proxy, ENOUGH).await, HashSet::from(["v1".to_owned()]));
    // Once it is back, so is the memory.
    std::fs::create_dir(&state).unwrap();
    eventually("it is written down", async || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        text.contains("rolled_back").then_some(())
    })
    .await;
}

#[tokio::test]
async fn users_kept_on_a_canary_are_freed_by_its_rollback() {
    let (v1, v2) = versions();
    let rule = "            weight: 10\n";
    let sticky = format!("{rule}        sticky: {{ cookie: user }}\n");
    let proxy = canary(&v1, &v2).replace(rule, &sticky).start();
    let users: Vec<_> = (0..300).map(|user| format!("user={user}")).collect();
    let mut client = proxy.client();
    let mut kept = Vec::new();
    for user in &users {
        let request = Request::post(PATH, "{}").header("cookie", user);
        if client.send(&request).await.expect(200).text() == "v2" {
            kept.push(request);
        }
    }
    assert!(!kept.is_empty());
    v2.now(Script::answers(500));
    // Each user counts once a slot, so it takes a few of them.
    let rollout = proxy.rollout(ROLLOUT);
    let watch = Stopwatch::start();
    while rollout.state().await != "rolled_back" {
        assert!(watch.elapsed() < secs(30), "{}", rollout.view().await);
        for request in kept.iter().cycle().take(20) {
            client.send(request).await;
        }
        for user in users.iter().take(100) {
            client.send(&Request::post(PATH, "{}").header("cookie", user)).await;
        }
    }
    for request in &kept {
        assert_eq!(client.send(request).await.expect(200).text(), "v1");
    }
}
