//! The process dies, or its disk does: what was said is never taken back.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use serin_loadtest::load::{Load, RequestTemplate};
use serin_testkit::{
    Backend, Client, ConfigFile, Program, Proxy, Request, Script, Stopwatch, arg, eventually, ms,
    secs, seed,
};

const SERIN: &str = env!("CARGO_BIN_EXE_serin");
const ROLLOUT: &str = "sentiment-v2";
const PATH: &str = "/v2/models/sentiment/infer";

/// Lives of the process, each ended by SIGKILL.
const LIVES: u32 = 10;

struct Life {
    program: Program,
    proxy: SocketAddr,
    admin: SocketAddr,
}

impl Life {
    async fn start(file: &ConfigFile) -> Self {
        let program = Program::start(SERIN, &["run", "-c", arg(file.path())]);
        let proxy = program.address("listening").await;
        let admin = program.address("admin").await;
        Self { program, proxy, admin }
    }

    async fn view(&self) -> Value {
        let request = Request::get(&format!("/api/rollouts/{ROLLOUT}")).host("localhost");
        Client::of(self.admin).send(&request).await.expect(200).json()
    }

    async fn verb(&self, verb: &str) -> u16 {
        let request = Request::post(&format!("/api/rollouts/{ROLLOUT}/{verb}"), "");
        let request = request.host("localhost").header("content-type", "application/json");
        Client::of(self.admin).send(&request).await.status
    }

    async fn kill(self) {
        self.program.signal("KILL");
        self.program.ended().await;
    }
}

/// What a user was told must be so after any crash, and what was not told may be.
#[tokio::test]
async fn a_rollback_that_was_told_outlives_a_kill_at_any_moment() {
    let mut chance = fastrand::Rng::with_seed(seed());
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let steps = "    version: life-0\n    steps:\n      - { weight: 20%, until: proven }\n\
                 \x20     - { weight: 40%, until: proven }\n      - { weight: 60%, until: proven }";
    let mut file = Proxy::with_config("canary.yaml")
        .backends([&v1, &v2])
        .with(steps)
        .remembering()
        .config_file();
    for life in 0..LIVES {
        let text =
            file.text().replace(&format!("life-{}", life.max(1) - 1), &format!("life-{life}"));
        file.write(text.as_bytes());
        v2.now(Script::answers(200));
        let serin = Life::start(&file).await;
        assert_eq!(serin.view().await["state"], "progressing", "a new version starts afresh");
        // Some lives end while people give orders, some while the judge does.
        let orders = chance.bool();
        let mut told = serin.view().await;
        if orders {
            for _ in 0..chance.u32(1..6) {
                let word = chance.choice(["promote", "pause", "resume", "abort"]).unwrap();
                let done = serin.verb(word).await;
                assert!(done == 200 || done == 409, "{word}: {done}");
            }
            told = serin.view().await;
        } else {
            v2.now(Script::answers(500));
            let request = RequestTemplate::sentiment("sentiment").unwrap();
            let load = Load { seed: chance.u64(..), ..Load::new(serin.proxy, 400.0, request) };
            let load = load.start().unwrap();
            let (watch, end) = (Stopwatch::start(), ms(chance.u64(300..1500)));
            while watch.elapsed() < end {
                told = serin.view().await;
                // Now and then at once, while the rest is still being written.
                if told["state"] == "rolled_back" && chance.bool() {
                    break;
                }
            }
            load.stop();
        }
        serin.kill().await;
        v2.now(Script::answers(200));
        let serin = Life::start(&file).await;
        let (before, after) = (told, serin.view().await);
        println!("life {life}, orders: {orders}: {} {}", before["state"], after["state"]);
        match before["state"].as_str().unwrap() {
            ended @ ("rolled_back" | "aborted" | "promoted") => {
                assert_eq!(after["state"], ended);
                assert_eq!(after["reason"], before["reason"]);
            }
            // The last evidence may be lost, never a step that was told.
            _ if after["state"] == "progressing" || after["state"] == "paused" => {
                assert_eq!(after["step"], before["step"], "{before} {after}");
            }
            _ => {}
        }
        if after["state"] == "rolled_back" || after["state"] == "aborted" {
            let served = v2.requests();
            let mut client = Client::of(serin.proxy);
            for _ in 0..50 {
                client.post(PATH, "{}").await.expect(200);
            }
            assert_eq!(v2.requests(), served, "a version that was taken out serves nobody");
        }
        serin.kill().await;
    }
    // All of it can be read, and comes to the same again.
    let journal = file.folder().join("state.journal");
    let output = Program::output(SERIN, &["replay", arg(&journal)]).await;
    output.expect(0);
}

#[tokio::test]
async fn a_rollout_that_is_taken_out_of_the_file_and_brought_back_is_still_rolled_back() {
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let mut proxy = Proxy::with_config("canary.yaml").backends([&v1, &v2]).remembering().start();
    let whole = proxy.config().text();
    let rollouts = whole.find("\nrollouts:").unwrap();
    let state = whole.find("\nstate:").unwrap();
    let without = format!("{}{}", &whole[..rollouts], &whole[state..]);
    proxy.rollout(ROLLOUT).ask("abort").await.expect(200);
    proxy.write(&without);
    proxy.reload().await.expect(200);
    proxy.admin(&format!("/api/rollouts/{ROLLOUT}")).await.expect(404);
    for restarts in 0..2 {
        if restarts > 0 {
            proxy.restart();
        }
        proxy.write(&whole);
        proxy.reload().await.expect(200);
        assert_eq!(proxy.rollout(ROLLOUT).state().await, "aborted");
        proxy.write(&without);
        proxy.reload().await.expect(200);
    }
}

/// A pipe that nobody reads stands for a disk that hangs: opening it waits. Whether it was made:
/// something may just now be written there.
fn hang(path: &Path) -> bool {
    Command::new("mkfifo").arg(path).status().is_ok_and(|status| status.success())
}

#[tokio::test]
async fn a_disk_that_hangs_keeps_no_bad_version_in_and_delays_no_verdict() {
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let proxy = Proxy::with_config("canary.yaml").backends([&v1, &v2]).remembering().start();
    let beside = proxy.config().folder().join("state.json.new");
    eventually("the disk hangs", async || hang(&beside).then_some(())).await;
    v2.now(Script::answers(500));
    let request = RequestTemplate::sentiment("sentiment").unwrap();
    let load = Load { seed: seed(), ..Load::new(proxy.address(), 400.0, request) };
    let load = load.start().unwrap();
    let watch = Stopwatch::start();
    eventually("the canary has no weight", async || {
        (proxy.rollout(ROLLOUT).view().await["weight"] == 0.0).then_some(())
    })
    .await;
    assert!(watch.elapsed() < secs(2), "{:?}", watch.elapsed());
    // What is not on disk is not told at once, but it is told.
    proxy.rollout(ROLLOUT).expect_rolled_back("errors <= 1%").await;
    load.stop();
    // An order that needs the disk is refused, and the judge goes on meanwhile.
    proxy.rollout(ROLLOUT).ask("reset").await.expect(500);
    assert_eq!(proxy.rollout(ROLLOUT).state().await, "rolled_back");
    // The disk is back.
    let file = proxy.config().folder().join("state.json");
    let pipe = tokio::task::spawn_blocking(move || {
        let reader = std::fs::File::open(&beside).unwrap();
        std::fs::remove_file(&beside).unwrap();
        std::io::copy(&mut &reader, &mut std::io::sink()).unwrap();
    });
    eventually("it is written down", async || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        text.contains("rolled_back").then_some(())
    })
    .await;
    pipe.await.unwrap();
}
