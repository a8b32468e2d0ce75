//! `config/blue-green.yaml`: a private look at the new version, everybody at once, and back.

use serde_json::Value;
use serin_testkit::{Backend, Proxy, ProxyBuilder, Request, Script, eventually};

const ROLLOUT: &str = "green";

fn colours() -> (Backend, Backend) {
    (Backend::named("blue").start(), Backend::named("green").start())
}

fn before(blue: &Backend, green: &Backend) -> ProxyBuilder {
    let shipped = Proxy::with_config("blue-green.yaml").backends([blue, green]);
    // A file of the test's own, where one is wanted.
    shipped.replace("state:\n  file: ./serin-state.json", "#")
}

fn preview() -> Request {
    Request::get("/").header("x-preview", "green")
}

/// Asks as everybody does until the rollout is in `state`.
async fn asked_until(proxy: &Proxy, state: &str) -> Value {
    let mut client = proxy.client();
    eventually(&format!("it is {state}"), async || {
        client.get("/").await;
        let view = proxy.rollout(ROLLOUT).view().await;
        (view["state"] == state).then_some(view)
    })
    .await
}

#[tokio::test]
async fn who_sends_the_header_sees_green_alone_and_that_is_no_evidence() {
    let (blue, green) = colours();
    let gate = "steps:\n      - pause: true";
    let proxy = before(&blue, &green).replace("steps:", gate).start();
    assert_eq!(proxy.get("/").await.expect(200).text(), "blue");
    assert_eq!(proxy.send(&preview()).await.expect(200).text(), "green");
    green.now(Script::answers(500));
    let mut client = proxy.client();
    for _ in 0..100 {
        client.send(&preview()).await.expect(500);
        assert_eq!(client.get("/").await.expect(200).text(), "blue");
    }
    let view = proxy.rollout(ROLLOUT).view().await;
    assert_eq!((&view["state"], &view["weight"]), (&"paused".into(), &0.0.into()));
    assert_eq!(view["objectives"][0]["canary"]["total"], 0, "{view}");
    // Mended, and everybody at once.
    green.now(Script::answers(200).body("green"));
    proxy.rollout(ROLLOUT).ask("promote").await.expect(200);
    for _ in 0..20 {
        assert_eq!(proxy.get("/").await.expect(200).text(), "green");
    }
}

#[tokio::test]
async fn a_green_that_turns_bad_in_its_bake_gives_everybody_back_to_blue() {
    let (blue, green) = colours();
    let mut proxy = before(&blue, &green).remembering().start();
    for _ in 0..20 {
        assert_eq!(proxy.get("/").await.expect(200).text(), "green");
    }
    green.now(Script::answers(500));
    let view = asked_until(&proxy, "rolled_back").await;
    assert!(view["reason"].as_str().unwrap().starts_with("errors <= 1%: canary"), "{view}");
    let failed = green.requests();
    // Over a restart, too.
    for _ in 0..2 {
        for _ in 0..20 {
            assert_eq!(proxy.get("/").await.expect(200).text(), "blue");
        }
        proxy.restart();
    }
    assert_eq!(green.requests(), failed);
    // What is wrong with it can still be looked at.
    proxy.send(&preview()).await.expect(500);
}
