//! A canary that no user reaches is looked after by probes.

use serin_testkit::{Backend, Proxy, ProxyBuilder, Script, eventually};

const ROLLOUT: &str = "sentiment-v2";

/// `config/canary.yaml` with a probe each second, and a step that wants users.
fn probing(v1: &Backend, v2: &Backend) -> ProxyBuilder {
    let more = "\n    min_requests: 20\n    false_rollback: 50%
    probe:
      every: 1s
      request: { method: POST, path: /v2/models/sentiment/infer, body: ping, headers: { x-probe: a } }
    steps:
      - { weight: 10%, until: proven, for: { at_least: 0s } }
      - { weight: 100%, bake: 10m }";
    Proxy::with_config("canary.yaml").backends([v1, v2]).with(more)
}

async fn sent(proxy: &Proxy, backend: &str, outcome: &str) -> u64 {
    let metrics = proxy.admin("/metrics").await.expect(200).text();
    let labels = format!("{{rollout=\"{ROLLOUT}\",backend=\"{backend}\",outcome=\"{outcome}\"}} ");
    let line = metrics.lines().find_map(|line| {
        line.strip_prefix("serin_probe_requests_total")?.strip_prefix(labels.as_str())
    });
    line.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn a_broken_canary_without_users_is_taken_out_and_probed_no_more() {
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    v2.now(Script::answers(500));
    let proxy = probing(&v1, &v2).start();
    let view = proxy.rollout(ROLLOUT).expect_rolled_back("probes: errors <= 1%").await;
    assert_eq!(view["weight"], 0.0);
    assert!(sent(&proxy, "sentiment-v2", "bad").await >= 3);
    assert_eq!(sent(&proxy, "sentiment-v1", "bad").await, 0);
    // They were nobody's requests.
    let metrics = proxy.admin("/metrics").await.expect(200).text();
    let is_counted = |line: &&str| {
        line.starts_with("serin_requests_total{") || line.starts_with("serin_attempts_total{")
    };
    assert_eq!(metrics.lines().find(is_counted), None);
    let probe = v2.last();
    assert_eq!(
        (probe.target(), probe.body.as_slice()),
        ("/v2/models/sentiment/infer", &b"ping"[..])
    );
    // What was on its way arrives in a second; then none comes while others are sent.
    let (still1, still2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let other = probing(&still1, &still2).start();
    still2.saw(2).await;
    let before = (v1.requests(), v2.requests());
    still2.saw(5).await;
    assert_eq!((v1.requests(), v2.requests()), before, "they end with the rollout");
    drop(other);
}

#[tokio::test]
async fn a_healthy_canary_without_users_is_not_led_on() {
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let proxy = probing(&v1, &v2).start();
    eventually("probes were answered", async || {
        let good = sent(&proxy, "sentiment-v2", "good").await;
        (good >= 5 && sent(&proxy, "sentiment-v1", "good").await >= 5).then_some(())
    })
    .await;
    let view = proxy.rollout(ROLLOUT).view().await;
    assert_eq!((&view["step"], &view["state"]), (&0.into(), &"progressing".into()), "{view}");
    assert_eq!(view["hold_reason"], "not enough traffic");
    assert_eq!(view["objectives"][0]["canary"]["total"], 0, "users' evidence is theirs");
}

#[tokio::test]
async fn what_both_versions_fail_is_not_the_canarys_fault() {
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    v1.now(Script::answers(500));
    v2.now(Script::answers(500));
    let proxy = probing(&v1, &v2).start();
    eventually("probes have failed", async || {
        (sent(&proxy, "sentiment-v2", "bad").await >= 8).then_some(())
    })
    .await;
    assert_eq!(proxy.rollout(ROLLOUT).view().await["state"], "progressing");
}
