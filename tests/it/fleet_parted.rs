//! What three replicas need beside one proxy, and what becomes of one that nobody hears.

use serde_json::Value;
use serin_loadtest::load::LoadHandle;
use serin_testkit::{Backend, ConfigFile, KubeApi, Passage, Program, Script, arg, eventually};

use crate::replicas::{Replica, SERIN, SHORT, TOKENS, alone, config, fleet, found, holder_of};

/// Without what a busy machine makes slow.
fn errors_alone(mut file: ConfigFile) -> ConfigFile {
    let latency = "      - latency: { p99: 200ms }\n";
    assert!(file.text().contains(latency), "{}", file.text());
    let text = file.text().replace(latency, "");
    file.write(text.as_bytes());
    file
}

#[tokio::test]
async fn three_sidecars_find_out_by_as_many_requests_as_one_proxy() {
    let api = KubeApi::start();
    let version = |name: &str| Backend::named(name).start();
    let steps = "- { weight: 20%, for: 10m }";
    // Sidecars: the stable version of each is its own.
    let stables = ["v1"; 3].map(version);
    let own_v1 = version("v1");
    // Every twentieth of all that it is asked, whoever asks.
    let bad = || Script::answers(200).every(20, Script::answers(500));
    let [v2, own_v2] = ["v2"; 2].map(|name| Backend::named(name).does(bad()).start());
    let mut replicas = Vec::new();
    for (token, v1) in TOKENS.iter().zip(&stables) {
        let file = errors_alone(config(&api, [v1, &v2], token, steps));
        replicas.push(Replica::start(file).await);
    }
    found(&api, &replicas);
    let file = errors_alone(config(&api, [&own_v1, &own_v2], "", steps));
    let single = Replica::start(alone(file)).await;
    holder_of(&replicas, 3).await;
    let mut loads: Vec<_> = replicas.iter().map(|one| one.load(30.0)).collect();
    loads.push(single.load(90.0));
    single.rolled_back().await;
    for replica in &replicas {
        let view = replica.rolled_back().await;
        assert_eq!(view["weight"], 0.0, "{view}");
    }
    loads.iter().for_each(LoadHandle::stop);
    // All that the canary got until nobody gave it any more.
    let (fleet, one) = (v2.requests(), own_v2.requests());
    println!("canary requests: {fleet} of a fleet, {one} of one proxy");
    assert!(fleet as f64 <= 1.2 * one as f64, "{fleet} of a fleet, {one} of one proxy");
}

#[tokio::test]
async fn a_holder_that_nobody_hears_any_more_sends_nobody_on_and_protects_its_users() {
    let api = KubeApi::start();
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    // Each has ends and ways of its own, for nobody knows which one will hold the lease.
    let ends = TOKENS.map(|_| (Backend::named("v1").start(), Backend::named("v2").start()));
    let ways = TOKENS.map(|_| Passage::to(api.address));
    let (mut replicas, mut doors) = (Vec::new(), Vec::new());
    for ((token, (own_v1, own_v2)), way) in TOKENS.iter().zip(&ends).zip(&ways) {
        let mut file = config(&api, [own_v1, own_v2], token, SHORT);
        let text = file.text().replace(&api.address.to_string(), &way.address.to_string());
        file.write(text.as_bytes());
        let mut replica = Replica::start(file).await;
        let door = Passage::to(replica.metrics);
        replica.metrics = door.address;
        doors.push(door);
        replicas.push(replica);
    }
    found(&api, &replicas);
    let cut_off = holder_of(&replicas, 3).await;
    for passage in [&ways[cut_off], &doors[cut_off]] {
        passage.set_cut(true);
    }
    let alone = &replicas[cut_off];
    eventually("it knows that it is alone", async || {
        (alone.gauge("serin_fleet_connected").await < 0.5).then_some(())
    })
    .await;
    let loads: Vec<_> = replicas.iter().map(|one| one.load(100.0)).collect();
    // Another one judges for all, and has heard of all but one.
    let others: Vec<_> = (0..3).filter(|index| *index != cut_off).collect();
    eventually("another one holds the lease", async || {
        for other in &others {
            if replicas[*other].holds().await {
                return Some(());
            }
        }
        None
    })
    .await;
    // Far more than each needs to go on: twenty at the canary, for two seconds at most.
    let (_, own_v2) = &ends[cut_off];
    let before = own_v2.requests();
    eventually("it has seen enough", async || (own_v2.requests() > before + 150).then_some(()))
        .await;
    let held = |view: &Value| view["hold_reason"] == "replicas missing";
    let mut holds = 0;
    for replica in &replicas {
        let view = replica.view().await;
        assert_eq!((&view["step"], &view["state"]), (&0.into(), &"progressing".into()), "{view}");
        holds += u32::from(held(&view));
    }
    assert_eq!(holds, 1, "the new holder says why");
    // Its users are protected by what it sees itself, at three times the threshold.
    own_v2.now(Script::answers(500));
    let view = replicas[cut_off].rolled_back().await;
    let reason = view["reason"].as_str().unwrap_or_default();
    assert!(view["weight"] == 0.0 && reason.contains("rollback at 600"), "{view}");
    for other in &others {
        assert_eq!(replicas[*other].view().await["state"], "progressing", "nobody could tell it");
    }
    for passage in [&ways[cut_off], &doors[cut_off]] {
        passage.set_cut(false);
    }
    for replica in &replicas {
        replica.rolled_back().await;
    }
    drop((loads, v1, v2));
}

#[tokio::test]
async fn one_replica_that_fails_in_part_takes_no_version_out_for_all() {
    let api = KubeApi::start();
    let version = |name: &str| Backend::named(name).start();
    let [v1, v2, own_v2] = ["v1", "v2", "v2"].map(version);
    // Nothing beside the canary tells by whose fault it fails.
    let steps = "- { weight: 90%, for: 10m }";
    let mut replicas = Vec::new();
    for (token, v2) in TOKENS.iter().zip([&v2, &v2, &own_v2]) {
        let file = errors_alone(config(&api, [&v1, v2], token, steps));
        replicas.push(Replica::start(file).await);
    }
    found(&api, &replicas);
    let holder = holder_of(&replicas, 3).await;
    let loads: Vec<_> = replicas.iter().map(|one| one.load(60.0)).collect();
    own_v2.now(Script::answers(200).every(3, Script::answers(500)));
    let held = |view: &Value| view["fleet"]["pooled"]["hold_reason"] == "replicas missing";
    replicas[holder].expect("nobody goes on while one fails by itself", held).await;
    // Far more than would prove it, if it were the version's.
    let before = own_v2.requests();
    eventually("it has failed often", async || (own_v2.requests() > before + 300).then_some(()))
        .await;
    for replica in &replicas {
        let view = replica.view().await;
        assert_eq!((&view["step"], &view["reason"]), (&0.into(), &Value::Null), "{view}");
    }
    // A second one that finds the same is enough.
    v2.now(Script::answers(200).every(3, Script::answers(500)));
    for replica in &replicas {
        let view = replica.rolled_back().await;
        assert_eq!(view["weight"], 0.0, "{view}");
    }
    drop(loads);
}

#[tokio::test]
async fn a_replica_without_rights_to_the_lease_says_so_and_judges_for_nobody() {
    let api = KubeApi::start();
    api.forbid("/leases");
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let replicas = [Replica::start(config(&api, [&v1, &v2], TOKENS[0], SHORT)).await];
    found(&api, &replicas);
    let program = replicas[0].program.as_ref().unwrap();
    program.says("may not read or write the fleet's Lease").await;
    let is_alone = |view: &Value| view["fleet"]["connected"] == true;
    let view = replicas[0].expect("it has the latch", is_alone).await;
    assert_eq!(view["fleet"]["holder"], Value::Null, "{view}");
    assert!(!replicas[0].holds().await);
}

#[tokio::test]
async fn what_a_fleet_decided_can_be_lived_through_again_on_the_sums_it_had() {
    let api = KubeApi::start();
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let mut replicas = Vec::new();
    for token in TOKENS {
        let mut file = errors_alone(config(&api, [&v1, &v2], token, SHORT));
        let state = format!("state: {{ file: {} }}\n", file.folder().join("state.json").display());
        file.write((file.text() + &state).as_bytes());
        replicas.push(Replica::start(file).await);
    }
    found(&api, &replicas);
    let holder = holder_of(&replicas, 3).await;
    let loads: Vec<_> = replicas.iter().map(|one| one.load(50.0)).collect();
    replicas[holder].at_step(2).await;
    // Too little for any of them to find out alone before all have together.
    v2.now(Script::answers(200).every(8, Script::answers(500)));
    for replica in &replicas {
        replica.rolled_back().await;
    }
    loads.iter().for_each(LoadHandle::stop);
    for (index, replica) in replicas.iter_mut().enumerate() {
        let program = replica.program.take().unwrap();
        program.signal("TERM");
        program.ended().await.expect(0);
        let journal = replica.file.folder().join("state.journal");
        let output = Program::output(SERIN, &["replay", arg(&journal)]).await.expect(0).stdout;
        let count = |what: &str| output.lines().filter(|line| line.contains(what)).count();
        let steps = count("proposed by the counts of the fleet: step ");
        assert_eq!(steps >= 2, index == holder, "{output}");
        let by_counts = "rolled back by the counts of the fleet: errors <= 1%: canary";
        assert_eq!(count(by_counts), usize::from(index == holder), "{output}");
        assert_eq!(count("different ") + count("unknown "), 0, "{output}");
    }
}

#[tokio::test]
async fn a_replica_that_begins_anew_is_one_of_all_again() {
    let api = KubeApi::start();
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let mut replicas = fleet(&api, &v1, &v2, SHORT).await;
    let holder = holder_of(&replicas, 3).await;
    let other = (holder + 1) % 3;
    replicas[other].kill().await;
    let mut loads = vec![replicas[holder].load(100.0), replicas[3 - holder - other].load(100.0)];
    // The service still names it, so nobody knows what it sees.
    let held = |view: &Value| view["hold_reason"] == "replicas missing";
    replicas[holder].expect("it is missed", held).await;
    let before = v2.requests();
    eventually("enough for a step was seen", async || (v2.requests() > before + 100).then_some(()))
        .await;
    assert_eq!(replicas[holder].view().await["step"], 0);
    let dead = replicas.remove(other);
    replicas.insert(other, Replica::start(dead.file).await);
    found(&api, &replicas);
    loads.push(replicas[other].load(100.0));
    for replica in &replicas {
        replica.at_step(2).await;
    }
    drop(loads);
}

#[tokio::test]
async fn what_a_person_let_go_on_is_not_stopped_by_who_comes_later() {
    let api = KubeApi::start();
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let start = async |token: &str| {
        let mut file = errors_alone(config(&api, [&v1, &v2], token, "- { weight: 20%, for: 10m }"));
        let pauses = "    min_requests: 20\n    on_breach: pause\n";
        let text = file.text().replace("    min_requests: 20\n", pauses);
        file.write(text.as_bytes());
        Replica::start(file).await
    };
    let mut replicas = vec![start(TOKENS[0]).await, start(TOKENS[1]).await];
    found(&api, &replicas);
    holder_of(&replicas, 2).await;
    v2.now(Script::answers(500));
    let mut loads: Vec<_> = replicas.iter().map(|one| one.load(60.0)).collect();
    for replica in &replicas {
        replica.expect("paused", |view| view["state"] == "paused").await;
    }
    assert_eq!(replicas[0].ask("resume").await.status, 200);
    for replica in &replicas {
        replica.expect("going on", |view| view["state"] == "holding").await;
    }
    // One that was not there finds the same, by itself.
    let late = start(TOKENS[2]).await;
    replicas.push(late);
    found(&api, &replicas);
    holder_of(&replicas, 3).await;
    let late = &replicas[2];
    loads.push(late.load(200.0));
    late.expect("it has proven it", |view| view["hold_reason"] == "errors <= 1%").await;
    let before = v2.requests();
    eventually("it goes on", async || (v2.requests() > before + 200).then_some(())).await;
    for replica in &replicas {
        assert_eq!(replica.view().await["state"], "holding");
    }
    drop(loads);
}
