//! How long three replicas take, measured. Not run by itself: `just fleet-figures`.

use std::time::Duration;

use serin_loadtest::load::LoadHandle;
use serin_testkit::{Backend, KubeApi, Script, Stopwatch, eventually};

use crate::replicas::{Replica, SHORT, TOKENS, alone, config, fleet, found, holder_of};

/// Requests a second, of all together.
const RPS: f64 = 300.0;

const RUNS: usize = 11;

fn median(mut all: Vec<Duration>) -> String {
    all.sort();
    let [least, most] = [all[0], all[all.len() - 1]].map(|one| one.as_secs_f64());
    format!("{:.2} s ({least:.2} to {most:.2})", all[all.len() / 2].as_secs_f64())
}

/// From the moment at which the canary begins to fail to that at which nobody gives it any.
async fn until_out(replicas: &[Replica], v2: &Backend, bad: Script) -> Duration {
    let watch = Stopwatch::start();
    v2.now(bad);
    for replica in replicas {
        replica.expect("it is out", |view| view["weight"] == 0.0).await;
    }
    watch.elapsed()
}

/// Running, with a canary that was well for a while.
async fn again(replicas: &[Replica], v2: &Backend) {
    v2.now(Script::answers(200));
    if replicas[0].view().await["weight"] == 0.0 {
        assert_eq!(replicas[0].ask("reset").await.status, 200);
    }
    for replica in replicas {
        replica.expect("it runs", |view| view["weight"] != 0.0).await;
    }
    let before = v2.requests();
    eventually("all are asked", async || (v2.requests() > before + 150).then_some(())).await;
}

/// Of several runs of the same processes, under load.
async fn measured(replicas: &[Replica], v2: &Backend, bad: &Script) -> String {
    let each = RPS / replicas.len() as f64;
    let loads: Vec<_> = replicas.iter().map(|one| one.load(each)).collect();
    let mut all = Vec::new();
    for _ in 0..RUNS {
        again(replicas, v2).await;
        all.push(until_out(replicas, v2, bad.clone()).await);
    }
    loads.iter().for_each(LoadHandle::stop);
    median(all)
}

#[tokio::test]
#[ignore = "it measures"]
async fn from_bad_to_out() {
    let steps = "- { weight: 20%, for: 10m }";
    let answers = || Script::answers(200);
    for (what, bad) in [
        ("100 %", Script::answers(500)),
        ("20 %", answers().every(5, Script::answers(500))),
        ("5 %", answers().every(20, Script::answers(500))),
    ] {
        let api = KubeApi::start();
        let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
        let replicas = fleet(&api, &v1, &v2, steps).await;
        holder_of(&replicas, 3).await;
        println!("{what} errors, three replicas: {}", measured(&replicas, &v2, &bad).await);
        drop(replicas);
        let file = alone(config(&api, [&v1, &v2], TOKENS[0], steps));
        let single = [Replica::start(file).await];
        println!("{what} errors, one proxy: {}", measured(&single, &v2, &bad).await);
    }
}

#[tokio::test]
#[ignore = "it measures"]
async fn from_the_death_of_the_holder_to_the_next_step() {
    let (mut held, mut stepped) = (Vec::new(), Vec::new());
    for _ in 0..RUNS / 2 {
        let api = KubeApi::start();
        let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
        let mut replicas = fleet(&api, &v1, &v2, SHORT).await;
        let first = holder_of(&replicas, 3).await;
        let loads: Vec<_> = replicas.iter().map(|one| one.load(RPS / 3.0)).collect();
        replicas[first].at_step(1).await;
        let watch = Stopwatch::start();
        replicas[first].kill().await;
        found(&api, &replicas);
        holder_of(&replicas, 2).await;
        held.push(watch.elapsed());
        for replica in replicas.iter().filter(|one| one.program.is_some()) {
            replica.at_step(2).await;
        }
        stepped.push(watch.elapsed());
        drop(loads);
    }
    println!("another one holds the lease: {}", median(held));
    println!("all are in the next step: {}", median(stepped));
}

#[tokio::test]
#[ignore = "it measures"]
async fn from_the_silence_of_the_api_to_who_knows_of_it() {
    let (mut holders, mut others) = (Vec::new(), Vec::new());
    for _ in 0..RUNS / 2 {
        let api = KubeApi::start();
        let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
        let replicas = fleet(&api, &v1, &v2, SHORT).await;
        let holder = holder_of(&replicas, 3).await;
        let watch = Stopwatch::start();
        // Connections stay, as behind a network that drops everything.
        api.set_silent(true);
        let mut knowing = [None; 3];
        eventually("all know", async || {
            for (knows, replica) in knowing.iter_mut().zip(&replicas) {
                let is_cut_off = replica.gauge("serin_fleet_connected").await < 0.5;
                *knows = knows.or_else(|| is_cut_off.then(|| watch.elapsed()));
            }
            knowing.iter().all(Option::is_some).then_some(())
        })
        .await;
        for (index, knows) in knowing.into_iter().enumerate() {
            if index == holder { &mut holders } else { &mut others }.extend(knows);
        }
    }
    println!("the holder knows: {}", median(holders));
    println!("the others know: {}", median(others));
}
