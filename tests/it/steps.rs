//! A good version gets there by itself, step by step, and a bad one goes back from any of them.

use serin_loadtest::load::{Load, LoadHandle, RequestTemplate};
use serin_testkit::{Backend, Proxy, ProxyBuilder, Script, Stopwatch, eventually, secs, seed};

const ROLLOUT: &str = "sentiment-v2";

fn versions() -> (Backend, Backend) {
    (Backend::named("v1").start(), Backend::named("v2").start())
}

/// `config/canary.yaml` with these steps.
fn stepping(v1: &Backend, v2: &Backend, steps: &str) -> ProxyBuilder {
    let lines: Vec<_> = steps.lines().map(|line| format!("      {}", line.trim())).collect();
    let steps = format!("\n    min_requests: 20\n    steps:\n{}", lines.join("\n"));
    Proxy::with_config("canary.yaml").backends([v1, v2]).with(&steps)
}

/// A mirror, two weights, a bake: all of it in seconds.
const SHORT: &str = "- { mirror: 50%, methods: [POST], for: 1s }
    - { weight: 20%, for: { at_least: 0s, at_most: 1s } }
    - { weight: 60%, until: proven, for: { at_least: 0s } }
    - { weight: 100%, bake: 1s }";

fn load(proxy: &Proxy, rps: f64) -> LoadHandle {
    let request = RequestTemplate::sentiment("sentiment").unwrap();
    Load { seed: seed(), ..Load::new(proxy.address(), rps, request) }.start().unwrap()
}

async fn at_step(proxy: &Proxy, step: u64) {
    let what = format!("it is in step {step}");
    eventually(&what, async || {
        let view = proxy.rollout(ROLLOUT).view().await;
        let ended = view["step"].is_null();
        assert!(!ended, "{view}");
        (view["step"] == step).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_good_canary_is_promoted_through_every_step_and_nobody_notices() {
    let (v1, v2) = versions();
    let mut proxy = stepping(&v1, &v2, SHORT).remembering().start();
    assert_eq!(proxy.rollout(ROLLOUT).view().await["weight"], 0.0);
    let load = load(&proxy, 400.0);
    let view = proxy.rollout(ROLLOUT).expect("promoted").await;
    assert_eq!((&view["weight"], &view["verdict"]), (&1.0.into(), &"promote".into()));
    let before = v1.requests();
    eventually("it serves alone", async || (v2.requests() > 2000).then_some(())).await;
    let stats = load.stats();
    load.stop();
    assert_eq!(stats.errors, 0, "{stats:?}");
    assert!(v1.requests() <= before + 50, "what was under way");
    // It stays so.
    proxy.restart();
    let view = proxy.rollout(ROLLOUT).view().await;
    assert_eq!((&view["state"], &view["weight"]), (&"promoted".into(), &1.0.into()));
    proxy.rollout(ROLLOUT).ask("promote").await.expect(409);
}

#[tokio::test]
async fn a_canary_that_turns_bad_in_its_bake_goes_back_within_two_seconds() {
    let (v1, v2) = versions();
    let steps = "- { weight: 100%, bake: 10m }";
    let proxy = stepping(&v1, &v2, steps).start();
    let load = load(&proxy, 200.0);
    eventually("it bakes", async || (v2.requests() > 200).then_some(())).await;
    assert_eq!(v1.requests(), 0);
    let watch = Stopwatch::start();
    v2.now(Script::answers(500));
    let view = proxy.rollout(ROLLOUT).expect_rolled_back("errors <= 1%").await;
    assert!(watch.elapsed() < secs(2), "{:?}", watch.elapsed());
    assert_eq!(view["objectives"][0]["worse_than_stable"], serde_json::Value::Null);
    eventually("stable serves again", async || (v1.requests() > 50).then_some(())).await;
    load.stop();
}

#[tokio::test]
async fn people_lead_it_through_its_steps() {
    let (v1, v2) = versions();
    let steps = "- { weight: 10%, until: proven }
        - { pause: true }
        - { weight: 50%, until: proven }";
    let mut proxy = stepping(&v1, &v2, steps).remembering().start();
    let rollout =
        async |proxy: &Proxy, verb: &str| proxy.rollout(ROLLOUT).ask(verb).await.expect(200).json();
    assert_eq!(rollout(&proxy, "pause").await["state"], "paused");
    assert_eq!(rollout(&proxy, "pause").await["hold_reason"], "paused");
    assert_eq!(rollout(&proxy, "resume").await["state"], "progressing");
    let view = rollout(&proxy, "promote").await;
    assert_eq!((&view["state"], &view["step"]), (&"paused".into(), &1.into()));
    proxy.restart();
    let view = proxy.rollout(ROLLOUT).view().await;
    assert_eq!((&view["state"], &view["step"]), (&"paused".into(), &1.into()));
    assert_eq!(view["weight"], 0.1);
    let view = rollout(&proxy, "resume").await;
    assert_eq!((&view["step"], &view["weight"]), (&2.into(), &0.5.into()));
    assert_eq!(rollout(&proxy, "promote").await["state"], "promoted");
    let view = rollout(&proxy, "reset").await;
    assert_eq!((&view["state"], &view["step"]), (&"progressing".into(), &0.into()));
    assert_eq!(rollout(&proxy, "promote?full=true").await["weight"], 1.0);
    // All of it was written down, over the restart.
    let told = proxy.admin(&format!("/api/rollouts/{ROLLOUT}/changes")).await.expect(200).json();
    let kinds = told["changes"].as_array().unwrap().iter().map(|one| {
        let said = if one["kind"] == "told" { &one["word"] } else { &one["state"] };
        said.as_str().unwrap().to_owned()
    });
    let kinds = kinds.collect::<Vec<_>>().join(" ");
    assert!(kinds.starts_with("pause paused resume progressing promote paused resume"), "{kinds}");
    assert!(kinds.ends_with("reset progressing promote_fully promoted"), "{kinds}");
}

#[tokio::test]
async fn a_step_goes_on_after_a_restart_where_it_was() {
    let (v1, v2) = versions();
    let steps = "- { weight: 10%, for: { at_least: 0s, at_most: 1s } }
        - { weight: 30%, for: 10m }";
    let mut proxy = stepping(&v1, &v2, steps).remembering().start();
    let load = load(&proxy, 400.0);
    at_step(&proxy, 1).await;
    load.stop();
    for _ in 0..3 {
        proxy.restart();
        let view = proxy.rollout(ROLLOUT).view().await;
        assert_eq!((&view["step"], &view["weight"]), (&1.into(), &0.3.into()));
    }
}

#[tokio::test]
async fn a_reload_of_the_steps_keeps_what_was_earned() {
    let (v1, v2) = versions();
    let steps = "- { weight: 10%, until: proven }
        - { weight: 30%, until: proven }";
    let mut proxy = stepping(&v1, &v2, steps).start();
    proxy.rollout(ROLLOUT).ask("promote").await.expect(200);
    proxy.rewrite("- { weight: 10%, until: proven }", "- { weight: 20%, for: 1h }");
    proxy.reload().await.expect(200);
    let view = proxy.rollout(ROLLOUT).view().await;
    assert_eq!((&view["step"], &view["weight"]), (&1.into(), &0.3.into()));
    // With less at each step it never gets more than it had.
    proxy.rewrite("weight: 30%", "weight: 40%");
    proxy.reload().await.expect(200);
    let view = proxy.rollout(ROLLOUT).view().await;
    assert_eq!((&view["step"], &view["weight"]), (&0.into(), &0.2.into()));
}

#[tokio::test]
async fn a_reload_in_place_or_to_another_step_drops_no_attempt_under_way() {
    for (what, with) in [
        ("min_requests: 20", "min_requests: 21"),
        ("weight: 100%, bake: 10m", "weight: 100%, bake: 20m"),
    ] {
        let (v1, v2) = versions();
        v2.now(Script::by_hand());
        let mut proxy = stepping(&v1, &v2, "- { weight: 100%, bake: 10m }").start();
        let mut client = proxy.client();
        let asking =
            tokio::spawn(async move { client.post("/v2/models/sentiment/infer", "x").await });
        let mut call = v2.next_call().await;
        proxy.rewrite(what, with);
        proxy.reload().await.expect(200);
        call.say("HTTP/1.1 500 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
        asking.await.unwrap().expect(500);
        eventually(&format!("it counts after {with}"), async || {
            let view = proxy.rollout(ROLLOUT).view().await;
            (view["objectives"][0]["canary"]["bad"] == 1).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_failing_shadow_holds_its_step_and_hurts_nobody() {
    let (v1, v2) = versions();
    v2.now(Script::answers(500));
    let steps = "- { mirror: 100%, methods: [POST], for: 1s }
        - { weight: 10%, for: 10m }";
    let proxy = stepping(&v1, &v2, steps).start();
    let load = load(&proxy, 200.0);
    proxy.rollout(ROLLOUT).expect_held("errors <= 1%").await;
    // For longer than the step lasts.
    let before = v2.requests();
    eventually("many more were copied", async || (v2.requests() > before + 400).then_some(()))
        .await;
    let view = proxy.rollout(ROLLOUT).view().await;
    assert_eq!((&view["step"], &view["state"]), (&0.into(), &"holding".into()));
    let stats = load.stats();
    load.stop();
    assert_eq!(stats.errors, 0, "{stats:?}");
}

#[tokio::test]
async fn copies_that_say_nothing_of_the_canary_lead_it_nowhere() {
    let (v1, v2) = versions();
    v2.now(Script::answers(404));
    let steps = "- { mirror: 100%, methods: [POST], for: 1s }
        - { weight: 10%, for: 10m }";
    let proxy = stepping(&v1, &v2, steps).start();
    let load = load(&proxy, 200.0);
    // More than enough, for longer than the step lasts.
    eventually("many were copied", async || {
        let labels = [("backend", "sentiment-v2"), ("result", "ok")];
        let copies = proxy.metrics().await.value("serin_mirror_requests_total", &labels);
        (copies >= 500.0).then_some(())
    })
    .await;
    load.stop();
    let view = proxy.rollout(ROLLOUT).view().await;
    assert_eq!((&view["step"], &view["hold_reason"]), (&0.into(), &"not enough traffic".into()));
}

#[tokio::test]
async fn a_webhook_is_told_of_each_change_once() {
    let (v1, v2) = versions();
    let hook = Backend::named("hook").start();
    let notify = format!("    notify: [{{ webhook: \"http://{}/serin\" }}]", hook.address);
    let steps = "- { weight: 10%, until: proven }";
    let proxy = stepping(&v1, &v2, steps).with(&notify).start();
    for verb in ["pause", "pause", "resume", "abort", "abort"] {
        proxy.rollout(ROLLOUT).ask(verb).await.expect(200);
    }
    let seen = hook.saw(3).await;
    assert!(seen.iter().all(|one| one.target() == "/serin"));
    assert_eq!(hook.requests(), 3);
}

#[tokio::test]
async fn a_breach_that_is_only_to_be_told_of_is_told_of() {
    let (v1, v2) = versions();
    let hook = Backend::named("hook").start();
    let notify = format!(
        "    on_breach: alert\n    notify: [{{ webhook: \"http://{}/serin\" }}]",
        hook.address
    );
    let steps = "- { weight: 50%, until: proven }";
    let proxy = stepping(&v1, &v2, steps).with(&notify).start();
    v2.now(Script::answers(500));
    let load = load(&proxy, 200.0);
    proxy.rollout(ROLLOUT).expect_held("errors <= 1%").await;
    let breach =
        |one: &serde_json::Value| one["kind"] == "changed" && one["hold_reason"] == "errors <= 1%";
    let path = format!("/api/rollouts/{ROLLOUT}/changes");
    let change = eventually("the journal has it", async || {
        let told = proxy.admin(&path).await.expect(200).json();
        told["changes"].as_array().unwrap().iter().find(|one| breach(one)).cloned()
    })
    .await;
    load.stop();
    assert_eq!((&change["state"], &change["step"]), (&"holding".into(), &0.into()));
    assert!(!change["config"].as_str().unwrap().is_empty(), "{change}");
    assert_eq!(change["objectives"][0]["threshold"], 200.0, "{change}");
    let told = eventually("the webhook has it", async || {
        let seen = hook.saw(1).await;
        let body = |one: &serin_testkit::Seen| String::from_utf8_lossy(&one.body).into_owned();
        seen.iter().map(body).find(|body| body.contains(r#""hold_reason":"errors <= 1%""#))
    })
    .await;
    assert!(told.contains(r#""state":"holding""#), "{told}");
}

#[tokio::test]
async fn a_reload_that_moves_a_rollout_is_told_of() {
    let (v1, v2) = versions();
    let hook = Backend::named("hook").start();
    let notify = format!("    notify: [{{ webhook: \"http://{}/serin\" }}]", hook.address);
    let steps = "- { weight: 10%, until: proven }
        - { weight: 30%, until: proven }";
    let mut proxy = stepping(&v1, &v2, steps).with(&notify).start();
    proxy.rollout(ROLLOUT).ask("promote").await.expect(200);
    hook.saw(1).await;
    proxy.rewrite("weight: 30%", "weight: 40%");
    proxy.reload().await.expect(200);
    let seen = hook.saw(2).await;
    let body = String::from_utf8_lossy(&seen[1].body).into_owned();
    assert!(body.contains(r#""step":0"#) && body.contains(r#""weight":0.1"#), "{body}");
    let told = proxy.admin(&format!("/api/rollouts/{ROLLOUT}/changes")).await.expect(200).json();
    let last = told["changes"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["kind"], &last["step"]), (&"changed".into(), &0.into()), "{last}");
    let hash = proxy.admin("/config_dump").await.expect(200).json()["hash"].clone();
    assert_eq!(last["config"], hash);
}

#[tokio::test]
async fn two_who_reset_at_once_are_both_answered() {
    let (v1, v2) = versions();
    let proxy = stepping(&v1, &v2, "- { weight: 10%, until: proven }").remembering().start();
    proxy.rollout(ROLLOUT).ask("abort").await.expect(200);
    let rollout = proxy.rollout(ROLLOUT);
    let (one, other) = tokio::join!(rollout.ask("reset"), rollout.ask("reset"));
    for answer in [one, other] {
        // Whoever comes after all is told that it runs.
        assert!(matches!(answer.status, 200 | 409), "{answer:?}");
    }
    assert_eq!(proxy.rollout(ROLLOUT).view().await["state"], "progressing");
}
