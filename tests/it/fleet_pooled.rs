//! Three `serin` processes that judge as one: on the counts of all, by whoever holds the lease.

use serde_json::Value;
use serin_loadtest::load::LoadHandle;
use serin_testkit::{Backend, KubeApi, Script, eventually, ms};

use crate::replicas::{LATCH, LEASE, Replica, SHORT, TOKENS, config, fleet, found, holder};

#[tokio::test]
async fn a_fleet_goes_on_as_one_and_comes_back_as_one() {
    let api = KubeApi::start();
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let mut replicas = fleet(&api, &v1, &v2, SHORT).await;
    let loads: Vec<_> = replicas.iter().map(|one| one.load(100.0)).collect();
    for replica in &replicas {
        replica.at_step(2).await;
    }
    let first = holder(&replicas).await;
    let mut holders = 0;
    for replica in &replicas {
        holders += u32::from(replica.holds().await);
    }
    assert_eq!(holders, 1);
    let seen = replicas[first].view().await["fleet"]["pooled"].clone();
    assert_eq!((&seen["replicas"], &seen["missing"]), (&3.into(), &serde_json::json!([])));
    v2.now(Script::answers(500));
    for replica in &replicas {
        let view = replica.rolled_back().await;
        let reason = view["reason"].as_str().unwrap_or_default();
        assert!(view["weight"] == 0.0 && reason.starts_with("errors <= 1%: "), "{view}");
    }
    loads.iter().for_each(LoadHandle::stop);
    // Nobody has a state file.
    for replica in &mut replicas {
        replica.kill().await;
    }
    v2.now(Script::answers(200));
    let before = v2.requests();
    let mut again = Vec::new();
    for replica in replicas {
        again.push(Replica::start(replica.file).await);
    }
    for replica in &again {
        assert_eq!(replica.rolled_back().await["weight"], 0.0);
        for _ in 0..50 {
            replica.request().await.expect(200);
        }
    }
    assert_eq!(v2.requests(), before, "what was out before stays out");
}

#[tokio::test]
async fn when_the_holder_is_killed_another_one_goes_on() {
    let api = KubeApi::start();
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let mut replicas = fleet(&api, &v1, &v2, SHORT).await;
    let loads: Vec<_> = replicas.iter().map(|one| one.load(60.0)).collect();
    let first = holder(&replicas).await;
    replicas[first].at_step(1).await;
    replicas[first].kill().await;
    found(&api, &replicas);
    let next = holder(&replicas).await;
    assert_ne!(next, first);
    for replica in replicas.iter().filter(|one| one.program.is_some()) {
        replica.at_step(2).await;
    }
    let lease = api.object(LEASE).unwrap();
    assert!(lease["metadata"]["annotations"]["serin-evidence"].is_string(), "{lease}");
    drop(loads);
}

#[tokio::test]
async fn a_holder_that_ends_as_it_should_hands_over_at_once() {
    let api = KubeApi::start();
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let mut replicas = fleet(&api, &v1, &v2, "- { weight: 20%, for: 10m }").await;
    let first = holder(&replicas).await;
    let before = api.object(LEASE).unwrap()["spec"]["holderIdentity"].clone();
    let program = replicas[first].program.take().unwrap();
    program.signal("TERM");
    program.ended().await.expect(0);
    let lease = api.object(LEASE).unwrap();
    assert_ne!(lease["spec"]["holderIdentity"], before);
    assert_ne!(holder(&replicas).await, first);
}

#[tokio::test]
async fn a_replica_that_is_cut_off_protects_and_goes_nowhere() {
    let api = KubeApi::start();
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let (own_v1, own_v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let long = "- { weight: 20%, for: 10m }\n    - { weight: 40%, for: 10m }";
    let mut replicas = fleet(&api, &v1, &v2, long).await;
    // Whoever holds the lease is not the one that is cut off, which has ends of its own.
    let first = holder(&replicas).await;
    let other = (first + 1) % 3;
    replicas[other].kill().await;
    let file = config(&api, [&own_v1, &own_v2], TOKENS[other], long);
    replicas[other] = Replica::start(file).await;
    found(&api, &replicas);
    let connected = async |index: usize, wanted: bool| {
        eventually("the replica knows whether it is connected", async || {
            let is = replicas[index].gauge("serin_fleet_connected").await > 0.5;
            (is == wanted).then_some(())
        })
        .await;
    };
    connected(other, true).await;
    api.ban(TOKENS[other]);
    connected(other, false).await;
    connected(first, true).await;
    for word in ["promote", "resume", "promote?full=true"] {
        let refused = replicas[other].ask(word).await.expect(409).text();
        assert!(refused.contains("cut off"), "{refused}");
    }
    assert_eq!(replicas[first].ask("promote").await.status, 200);
    replicas[3 - first - other].at_step(1).await;
    assert_eq!(replicas[other].view().await["step"], 0);
    // Nothing goes on while it is not known what one of them sees.
    let what = "it is held for the replica that does not follow";
    replicas[first].expect(what, |view| view["hold_reason"] == "replicas missing").await;
    own_v2.now(Script::answers(500));
    let _load = replicas[other].load(200.0);
    replicas[other].rolled_back().await;
    // It cannot write that down, but tells the holder, who asks what it counts.
    for replica in &replicas {
        replica.rolled_back().await;
    }
}

#[tokio::test]
async fn a_broken_way_out_of_one_replica_takes_no_version_out_for_all() {
    let api = KubeApi::start();
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let (own_v1, own_v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let long = "- { weight: 30%, for: 10m }\n    - { weight: 70%, for: 10m }";
    let mut replicas = Vec::new();
    for (token, ends) in TOKENS.iter().zip([[&v1, &v2], [&v1, &v2], [&own_v1, &own_v2]]) {
        replicas.push(Replica::start(config(&api, ends, token, long)).await);
    }
    found(&api, &replicas);
    let holder = holder(&replicas).await;
    let loads: Vec<_> = replicas.iter().map(|one| one.load(150.0)).collect();
    for step in 0..2 {
        own_v1.now(Script::resets());
        own_v2.now(Script::resets());
        let before = own_v2.requests();
        // Far more than would prove it, if it were the version's.
        eventually("it has failed often", async || {
            (own_v2.requests() > before + 300).then_some(())
        })
        .await;
        for replica in &replicas {
            let view = replica.view().await;
            assert_eq!((&view["step"], &view["reason"]), (&step.into(), &Value::Null), "{view}");
        }
        own_v1.now(Script::answers(200));
        own_v2.now(Script::answers(200));
        if step == 0 {
            assert_eq!(replicas[holder].ask("promote").await.status, 200);
            for replica in &replicas {
                replica.at_step(1).await;
            }
        }
    }
    // But a version that fails everywhere is out.
    v2.now(Script::answers(500));
    own_v2.now(Script::answers(500));
    for replica in &replicas {
        replica.rolled_back().await;
    }
    drop(loads);
}

#[tokio::test]
async fn an_api_that_forgets_cuts_and_is_slow_stops_no_fleet() {
    let api = KubeApi::start();
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let replicas = fleet(&api, &v1, &v2, SHORT).await;
    let loads: Vec<_> = replicas.iter().map(|one| one.load(60.0)).collect();
    holder(&replicas).await;
    api.set_delay(ms(30));
    let disturb = async |step: u64| {
        eventually("all are there", async || {
            for change in [KubeApi::bookmark, KubeApi::compact, KubeApi::cut_watches] {
                change(&api);
            }
            let mut there = 0;
            for replica in &replicas {
                there += u32::from(replica.view().await["step"] == step);
                tokio::task::yield_now().await;
            }
            (there == 3).then_some(())
        })
        .await;
    };
    for step in [1, 2] {
        replicas[0].at_step(step).await;
        disturb(step).await;
    }
    v2.now(Script::answers(500));
    for replica in &replicas {
        replica.rolled_back().await;
    }
    drop(loads);
}

#[tokio::test]
async fn words_at_any_replica_are_those_of_all() {
    let api = KubeApi::start();
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let long =
        "- { weight: 20%, for: 10m }\n    - { pause: true }\n    - { weight: 40%, for: 10m }";
    let replicas = fleet(&api, &v1, &v2, long).await;
    let all = async |what: &str, is: &dyn Fn(&Value) -> bool| {
        for replica in &replicas {
            replica.expect(what, is).await;
        }
    };
    holder(&replicas).await;
    assert_eq!(replicas[0].ask("pause").await.status, 200);
    all("paused", &|view| view["state"] == "paused").await;
    assert_eq!(replicas[1].ask("resume").await.status, 200);
    all("going on", &|view| view["state"] != "paused").await;
    assert_eq!(replicas[2].ask("promote").await.status, 200);
    all("the gate", &|view| view["step"] == 1 && view["state"] == "paused").await;
    assert_eq!(replicas[0].ask("resume").await.status, 200);
    all("behind the gate", &|view| view["step"] == 2).await;
    assert_eq!(replicas[1].ask("abort").await.status, 200);
    all("aborted", &|view| view["state"] == "aborted").await;
    assert_eq!(replicas[2].ask("reset").await.status, 200);
    all("at the start", &|view| view["step"] == 0 && view["state"] != "aborted").await;
    assert_eq!(replicas[0].ask("promote?full=true").await.status, 200);
    all("promoted", &|view| view["state"] == "promoted" && view["weight"] == 1.0).await;
    let latch = api.object(LATCH).unwrap()["data"]["latch.json"].as_str().unwrap().to_owned();
    assert!(latch.contains("\"promoted\":true"), "{latch}");
    assert!(replicas.iter().all(|one| one.id() > 0));
}

#[tokio::test]
async fn a_fleet_that_could_not_write_has_a_holder_again_once_it_can() {
    let api = KubeApi::start();
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let file = config(&api, [&v1, &v2], TOKENS[0], SHORT);
    let replicas = [Replica::start(file).await];
    found(&api, &replicas);
    holder(&replicas).await;
    // Watches stay, so nothing is heard that would say when it is over.
    api.drop_writes(true);
    eventually("a renewal fails", async || (api.asked("DROPPED") > 0).then_some(())).await;
    api.drop_writes(false);
    let written = |api: &KubeApi| api.object(LEASE).unwrap()["metadata"]["resourceVersion"].clone();
    let before = written(&api);
    eventually("it is renewed", async || (written(&api) != before).then_some(())).await;
    holder(&replicas).await;
}

#[tokio::test]
async fn replicas_of_other_zones_are_asked_as_well() {
    let api = KubeApi::start();
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let mut replicas = Vec::new();
    for token in &TOKENS[..2] {
        let mut file = config(&api, [&v1, &v2], token, SHORT);
        let text = file.text().replace("kubernetes: {", "kubernetes: { zone: a,");
        file.write(text.as_bytes());
        replicas.push(Replica::start(file).await);
    }
    let hinted = |mut slice: Value, zone: &str| {
        slice["endpoints"][0]["hints"] = serde_json::json!({ "forZones": [{ "name": zone }] });
        slice
    };
    found(&api, &replicas);
    let folder = "/apis/discovery.k8s.io/v1/namespaces/models/endpointslices";
    for (slice, zone) in api.objects(folder).into_iter().zip(["a", "b"]) {
        let path = format!("{folder}/{}", slice["metadata"]["name"].as_str().unwrap());
        api.put(&path, hinted(slice, zone));
    }
    let holder = holder(&replicas).await;
    replicas[holder]
        .expect("both are asked", |view| view["fleet"]["pooled"]["replicas"] == 2)
        .await;
    let loads: Vec<_> = replicas.iter().map(|one| one.load(60.0)).collect();
    for replica in &replicas {
        replica.at_step(1).await;
    }
    assert_eq!(replicas[holder].view().await["fleet"]["pooled"]["replicas"], 2);
    drop(loads);
}

#[tokio::test]
async fn who_follows_with_steps_of_its_own_sends_nobody_elsewhere() {
    let api = KubeApi::start();
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let mut replicas = Vec::new();
    for (token, [first, second]) in TOKENS.iter().zip([[20, 45], [10, 40]]) {
        let steps =
            format!("- {{ weight: {first}%, for: 1h }}\n- {{ weight: {second}%, for: 1h }}");
        replicas.push(Replica::start(config(&api, [&v1, &v2], token, &steps)).await);
    }
    found(&api, &replicas);
    eventually("one goes on", async || {
        (replicas[0].ask("promote").await.status == 200).then_some(())
    })
    .await;
    let view = replicas[1].expect("it follows", |view| view["step"] == 1).await;
    assert_eq!(view["weight"], 0.4);
    // What it tells comes after all that it could have told before.
    assert_eq!(replicas[1].ask("abort").await.status, 200);
    replicas[0].expect("aborted", |view| view["state"] == "aborted").await;
    let latch = api.object(LATCH).unwrap()["data"]["latch.json"].as_str().unwrap().to_owned();
    assert!(latch.contains("\"turn\":1,") && latch.contains("\"share\":0.45"), "{latch}");
}

#[tokio::test]
async fn who_hears_nothing_any_more_knows_that_it_is_cut_off() {
    let api = KubeApi::start();
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let replicas = [Replica::start(config(&api, [&v1, &v2], TOKENS[0], SHORT)).await];
    found(&api, &replicas);
    holder(&replicas).await;
    let connected = async |wanted: bool| {
        eventually("the replica knows whether it is connected", async || {
            let is = replicas[0].gauge("serin_fleet_connected").await > 0.5;
            (is == wanted).then_some(())
        })
        .await;
    };
    connected(true).await;
    // Connections stay, as behind a network that drops everything.
    api.set_silent(true);
    connected(false).await;
    api.set_silent(false);
    connected(true).await;
    holder(&replicas).await;
}

#[tokio::test]
async fn a_fleet_of_more_replicas_than_it_says_is_told_of_each_time_that_it_comes_to_that() {
    let api = KubeApi::start();
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let mut replicas = Vec::new();
    for token in &TOKENS[..2] {
        let mut file = config(&api, [&v1, &v2], token, SHORT);
        let text = file.text().replace("max_replicas: 3", "max_replicas: 1");
        file.write(text.as_bytes());
        replicas.push(Replica::start(file).await);
    }
    let told = |replica: &Replica| {
        let said = replica.program.as_ref().unwrap().said();
        let lines = said.lines().filter(|line| line.contains("fleet_too_large"));
        lines.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let hears = async |replica: &Replica, count: usize| {
        replica
            .expect("it hears so many", |view| view["fleet"]["pooled"]["replicas"] == count)
            .await
    };
    // One is as many as it says.
    let first = holder(&replicas).await;
    let alone = || found(&api, std::slice::from_ref(&replicas[first]));
    alone();
    hears(&replicas[first], 1).await;
    assert_eq!(told(&replicas[first]), [""; 0]);
    for times in [1, 2] {
        found(&api, &replicas);
        hears(&replicas[first], 2).await;
        let lines = eventually("it is told", async || {
            let lines = told(&replicas[first]);
            (lines.len() >= times).then_some(lines)
        })
        .await;
        let has = |part: &str| lines.iter().all(|line| line.contains(part));
        assert!(lines.len() == times && has("WARN") && has("count=2"), "{lines:#?}");
        assert!(has("max_replicas=1"), "{lines:#?}");
        alone();
        hears(&replicas[first], 1).await;
    }
    assert_eq!(told(&replicas[1 - first]), [""; 0], "the holder tells, and nobody else");
}
