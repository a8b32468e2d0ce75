//! Replicas that decide as one: what one takes out is out everywhere, whatever becomes of the
//! API meanwhile.

use serde_json::Value;
use serin_testkit::{Backend, KubeApi, Proxy, ProxyBuilder, Seen, eventually, secs};

const PATH: &str = "/v2/models/sentiment/infer";
const ROLLOUT: &str = "sentiment-v2";
const LATCH: &str = "/api/v1/namespaces/models/configmaps/serin-gateway";

fn replica(api: &KubeApi, v1: &Backend, v2: &Backend) -> ProxyBuilder {
    Proxy::with_config("canary.yaml")
        .backends([v1, v2])
        .with(&api.config())
        .with("fleet: { name: gateway, namespace: models, max_replicas: 3 }")
}

fn versions() -> (Backend, Backend) {
    (Backend::named("v1").start(), Backend::named("v2").answers(500).start())
}

/// Sends requests to one replica until it has taken the canary out by itself.
async fn break_through(proxy: &Proxy) {
    let mut client = proxy.client();
    eventually("it rolls back", async || {
        for _ in 0..50 {
            client.post(PATH, "{}").await;
        }
        (proxy.rollout(ROLLOUT).state().await == "rolled_back").then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_one_replica_takes_out_is_out_everywhere_and_stays_out_when_all_restart() {
    let api = KubeApi::start();
    let (v1, v2) = versions();
    let mut replicas = [(); 3].map(|()| replica(&api, &v1, &v2).start());
    break_through(&replicas[0]).await;
    let reason = replicas[0].rollout(ROLLOUT).view().await["reason"].clone();
    for other in &replicas[1..] {
        let view = other.rollout(ROLLOUT).expect_rolled_back("errors <= 1%").await;
        assert_eq!(view["reason"], reason, "all tell the same story");
    }
    // Nobody has a state file: what they know is in the cluster.
    replicas.iter_mut().for_each(Proxy::stop);
    replicas.iter_mut().for_each(Proxy::restart);
    for proxy in &replicas {
        proxy.rollout(ROLLOUT).expect_rolled_back("errors <= 1%").await;
    }
    assert!(api.object(LATCH).is_some());
}

#[tokio::test]
async fn a_reset_gives_the_version_another_chance_everywhere() {
    let api = KubeApi::start();
    let (v1, v2) = versions();
    let replicas = [(); 2].map(|()| replica(&api, &v1, &v2).start());
    assert_eq!(replicas[1].rollout(ROLLOUT).ask("abort").await.status, 200);
    replicas[0].rollout(ROLLOUT).expect("aborted").await;
    assert_eq!(replicas[0].rollout(ROLLOUT).ask("reset").await.status, 200);
    for proxy in &replicas {
        proxy.rollout(ROLLOUT).expect("progressing").await;
    }
    break_through(&replicas[1]).await;
    replicas[0].rollout(ROLLOUT).expect_rolled_back("errors <= 1%").await;
}

#[tokio::test]
async fn a_replica_that_is_cut_off_protects_and_tells_when_it_is_back() {
    let api = KubeApi::start();
    let (v1, v2) = versions();
    let replicas = [(); 2].map(|()| replica(&api, &v1, &v2).start());
    eventually("both watch", async || (api.asked("WATCH") >= 2).then_some(())).await;
    api.set_away(true);
    break_through(&replicas[0]).await;
    assert_eq!(replicas[1].rollout(ROLLOUT).state().await, "progressing");
    api.set_away(false);
    replicas[1].rollout(ROLLOUT).expect_rolled_back("errors <= 1%").await;
}

#[tokio::test]
async fn replicas_that_write_at_once_lose_nothing() {
    let api = KubeApi::start();
    // So slow that all read before one has written.
    api.set_delay(secs(1) / 20);
    let (v1, v2) = versions();
    let builder = |name: &str| {
        replica(&api, &v1, &v2)
            .replace("  - name: sentiment-v2\n    rule", &format!("  - name: {name}\n    rule"))
    };
    let names = ["a", "b", "c"];
    let replicas = names.map(|name| builder(name).start());
    let aborts = names.iter().zip(&replicas).map(|(name, proxy)| async move {
        assert_eq!(proxy.rollout(name).ask("abort").await.status, 200);
    });
    let mut aborts = aborts.collect::<Vec<_>>();
    let (c, b, a) = (aborts.pop().unwrap(), aborts.pop().unwrap(), aborts.pop().unwrap());
    tokio::join!(a, b, c);
    eventually("all three are in the latch", async || {
        let object = api.object(LATCH)?;
        let text = object["data"]["latch.json"].as_str()?.to_owned();
        names.iter().all(|name| text.contains(&format!("\"{name}@"))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_version_that_a_reload_brings_is_out_if_the_fleet_says_so() {
    let api = KubeApi::start();
    let (v1, v2) = versions();
    let of = |version: &str| format!("canary: sentiment-v2\n    version: \"{version}\"");
    let start = |version: &str| {
        replica(&api, &v1, &v2).replace("canary: sentiment-v2", &of(version)).start()
    };
    let (one, mut other) = (start("2"), start("3"));
    assert_eq!(one.rollout(ROLLOUT).ask("abort").await.status, 200);
    eventually("it is in the latch", async || api.object(LATCH)).await;
    let heard = async || (api.asked("WATCH") >= 2).then_some(());
    eventually("both watch", heard).await;
    assert_eq!(other.rollout(ROLLOUT).state().await, "progressing");
    other.rewrite("version: \"3\"", "version: \"2\"");
    assert_eq!(other.reload().await.status, 200);
    other.rollout(ROLLOUT).expect("aborted").await;
}

fn text_of(object: &Value) -> String {
    object["data"]["latch.json"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_promoted_version_is_taken_out_and_reset_at_all_replicas() {
    let api = KubeApi::start();
    let (v1, v2) = versions();
    let replicas = [(); 2].map(|()| replica(&api, &v1, &v2).start());
    let all = async |state: &str| {
        for proxy in &replicas {
            proxy.rollout(ROLLOUT).expect(state).await;
        }
    };
    let promote = async || {
        eventually("it is connected", async || {
            let answer = replicas[0].rollout(ROLLOUT).ask("promote?full=true").await;
            (answer.status == 200).then_some(())
        })
        .await;
        all("promoted").await;
    };
    promote().await;
    // A replica that was cut off has proven something, and tells now.
    let mut object = api.object(LATCH).unwrap();
    let text = text_of(&object).replace("\"end\":null", "\"end\":\"aborted\"");
    assert!(text.contains("\"promoted\":true") && text.contains("aborted"), "{text}");
    object["data"]["latch.json"] = text.into();
    api.put(LATCH, object);
    all("aborted").await;
    for (index, proxy) in replicas.iter().enumerate() {
        assert_eq!(proxy.rollout(ROLLOUT).view().await["weight"], 0.0);
        assert_eq!(replicas[1].rollout(ROLLOUT).ask("reset").await.status, 200);
        all("progressing").await;
        promote().await;
        assert_eq!(replicas[index].rollout(ROLLOUT).ask("reset").await.status, 200);
        all("progressing").await;
        assert_eq!(proxy.rollout(ROLLOUT).ask("abort").await.status, 200);
        all("aborted").await;
    }
}

#[tokio::test]
async fn what_a_replica_finds_before_it_has_heard_of_a_reset_stays_out() {
    let api = KubeApi::start();
    let (v1, v2) = versions();
    let first = replica(&api, &v1, &v2).start();
    assert_eq!(first.rollout(ROLLOUT).ask("abort").await.status, 200);
    assert_eq!(first.rollout(ROLLOUT).ask("reset").await.status, 200);
    let era = async || text_of(&api.object(LATCH)?).contains("\"era\":1").then_some(());
    eventually("the reset is in the latch", era).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.json");
    let state = format!("state: {{ file: {} }}", file.display());
    let mut other = replica(&api, &v1, &v2).with(&state).start();
    let remembers = async || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        text.contains("\"era\": 1").then_some(())
    };
    eventually("it remembers the era", remembers).await;
    api.set_away(true);
    other.restart();
    break_through(&other).await;
    api.set_away(false);
    first.rollout(ROLLOUT).expect_rolled_back("errors <= 1%").await;
    other.rollout(ROLLOUT).expect_rolled_back("errors <= 1%").await;
}

#[tokio::test]
async fn a_latch_that_is_lost_is_written_again_by_who_knows() {
    let api = KubeApi::start();
    let (v1, v2) = versions();
    let one = replica(&api, &v1, &v2).start();
    assert_eq!(one.rollout(ROLLOUT).ask("abort").await.status, 200);
    let is_there = async || {
        let object = api.object(LATCH)?;
        text_of(&object).contains("\"end\":\"aborted\"").then_some(object)
    };
    let object = eventually("it is in the latch", is_there).await;
    api.delete(LATCH);
    eventually("it is in a new one", is_there).await;
    for text in ["{}", "{\"sentim"] {
        let mut object = object.clone();
        object["data"]["latch.json"] = text.into();
        api.put(LATCH, object);
        eventually("it is in the latch again", is_there).await;
    }
    let other = replica(&api, &v1, &v2).start();
    other.rollout(ROLLOUT).expect("aborted").await;
}

#[tokio::test]
async fn a_canary_gets_nothing_until_it_is_known_whether_it_is_out() {
    let api = KubeApi::start();
    let (v1, v2) = versions();
    api.set_away(true);
    let proxy = replica(&api, &v1, &v2).start();
    let mut client = proxy.client();
    for _ in 0..100 {
        client.post(PATH, "{}").await.expect(200);
    }
    let view = proxy.rollout(ROLLOUT).view().await;
    assert_eq!((v2.requests(), &view["weight"]), (0, &0.0.into()), "{view}");
    api.set_away(false);
    break_through(&proxy).await;
}

const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/models/events";

#[tokio::test]
async fn changes_and_a_bad_config_are_events_and_who_only_follows_tells_nothing() {
    let api = KubeApi::start();
    let (v1, v2) = versions();
    let hook = Backend::named("hook").start();
    let notify = format!("sentiment-v2\n    notify: [{{ webhook: \"http://{}\" }}]", hook.address);
    let start = || {
        let to = format!("canary: {notify}");
        replica(&api, &v1, &v2).replace("canary: sentiment-v2", &to).start()
    };
    let (mut proxy, other) = (start(), start());
    let of = async |reason: &str| {
        eventually("there is one such event", async || {
            let mut events = api.objects(EVENTS);
            events.retain(|one| one["reason"] == reason);
            (events.len() == 1).then(|| events.remove(0))
        })
        .await
    };
    break_through(&proxy).await;
    let event = of("RolledBack").await;
    let about = (&event["regarding"]["kind"], &event["regarding"]["name"], &event["type"]);
    assert_eq!(about, (&"ConfigMap".into(), &"serin-gateway".into(), &"Warning".into()));
    assert!(event["note"].as_str().unwrap().contains("errors <= 1%"), "{event}");
    other.rollout(ROLLOUT).expect("rolled_back").await;
    let is_it = |one: &Seen| String::from_utf8_lossy(&one.body).contains("\"rolled_back\"");
    let told = || hook.seen().iter().filter(|one| is_it(one)).count();
    eventually("the webhook is told", async || (told() > 0).then_some(())).await;
    proxy.rewrite("rollouts:", "rollout:");
    for _ in 0..2 {
        assert_eq!(proxy.reload().await.status, 422);
    }
    let event = of("ConfigRefused").await;
    assert_eq!(event["regarding"]["kind"], "Pod");
    assert!(event["note"].as_str().unwrap().starts_with("SRN0101 at line "), "{event}");
    // The replica that followed has had the time to tell it as well.
    of("RolledBack").await;
    assert_eq!(told(), 1);
}
