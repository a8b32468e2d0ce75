//! The log on stderr: what is told of what happens, and that nobody waits for it.

use std::net::SocketAddr;

use serde_json::Value;
use serin_testkit::{
    Backend, Client, Http2, Metrics, Program, Proxy, Request, Script, Streamed, arg, eventually,
};

const SERIN: &str = env!("CARGO_BIN_EXE_serin");

/// A line of the log in JSON that is the event `name`, with `part` in it.
async fn event(program: &Program, name: &str, part: &str) -> Value {
    let wanted = format!("\"event\":\"{name}\"");
    let line = eventually(&format!("event {name} with {part}"), async || {
        let said = program.said();
        let line = said.lines().find(|line| line.contains(&wanted) && line.contains(part));
        line.map(ToOwned::to_owned)
    })
    .await;
    serde_json::from_str(&line).unwrap()
}

async fn address(program: &Program, name: &str) -> SocketAddr {
    event(program, name, "").await["address"].as_str().unwrap().parse().unwrap()
}

async fn post(admin: SocketAddr, path: &str) -> u16 {
    let request = Request::post(path, "").header("content-type", "application/json");
    Client::of(admin).send(&request.host("localhost")).await.status
}

async fn metrics(admin: SocketAddr) -> Metrics {
    let answer = Client::of(admin).send(&Request::get("/metrics").host("localhost")).await;
    Metrics(answer.expect(200).text())
}

#[tokio::test]
async fn a_stderr_that_nobody_reads_stops_no_worker_no_verdict_and_no_end() {
    let model = Backend::named("model").start();
    let file = Proxy::to(&model, "").config_file();
    let mut file = file;
    // Libraries of the request path say much at this level.
    let more = ["run", "-c", arg(file.path()), "--log", "trace", "--log-format", "json"];
    let program = Program::start(SERIN, &more);
    let (proxy, admin) = (address(&program, "listening").await, address(&program, "admin").await);
    program.read_no_more();
    eventually("lines were left out", async || {
        let mut http2 = Http2::connect(proxy).await;
        for _ in 0..50 {
            let request = http::Request::get(format!("http://{proxy}/"));
            let answer = http2.exchange(request.body(Streamed::of("")).unwrap()).await;
            assert_eq!(answer.status(), 200);
        }
        let dropped = metrics(admin).await.value("serin_log_lines_dropped_total", &[]);
        (dropped > 0.5).then_some(())
    })
    .await;
    // Every worker, and the control plane.
    for _ in 0..20 {
        Client::of(proxy).get("/").await.expect(200);
    }
    file.write(format!("# Anew\n{}", file.text()).as_bytes());
    assert_eq!(post(admin, "/reload").await, 200);
    assert!((metrics(admin).await.value("serin_config_generation", &[]) - 2.0).abs() < 0.1);
    program.signal("TERM");
    program.ended().await.expect(0);
}

#[tokio::test]
async fn who_is_unwell_from_the_first_is_told_of() {
    let model = Backend::named("model").answers(503).start();
    let endpoints = format!("endpoints: [{}]", model.address);
    let health = format!("{endpoints}, health: {{ path: /ready, interval: 1h }}");
    let file = Proxy::to(&model, "").replace(&endpoints, &health).config_file();
    let program = Program::start(SERIN, &["run", "-c", arg(file.path()), "--log-format", "json"]);
    let unwell = event(&program, "endpoint_unwell", "").await;
    assert!(unwell["why"].as_str().unwrap().contains("503"), "{unwell}");
}

#[tokio::test]
async fn what_changes_is_an_event_with_its_fields_and_the_last_one_is_written() {
    let v1 = Backend::named("v1").on("/ready", Script::answers(200)).start();
    let v2 = Backend::named("v2").start();
    let endpoints = format!("endpoints: [{}]", v1.address);
    let health = format!("{endpoints}\n    health: {{ path: /ready, interval: 100ms }}");
    let builder = Proxy::with_config("canary.yaml").backends([&v1, &v2]);
    let mut file = builder.replace(&endpoints, &health).config_file();
    let program = Program::start(SERIN, &["run", "-c", arg(file.path()), "--log-format", "json"]);
    let admin = address(&program, "admin").await;

    let serves = event(&program, "endpoint_serving", "\"backend\":\"sentiment-v1\"").await;
    assert_eq!(serves["endpoint"], v1.address.to_string());
    v1.now_on("/ready", Script::answers(500));
    let unwell = event(&program, "endpoint_unwell", "").await;
    assert_eq!((&unwell["level"], &unwell["backend"]), (&"WARN".into(), &"sentiment-v1".into()));
    assert!(unwell["why"].as_str().unwrap().contains("500"), "{unwell}");

    assert_eq!(post(admin, "/api/rollouts/sentiment-v2/pause").await, 200);
    let told = event(&program, "rollout_told", "pause").await;
    assert_eq!((&told["rollout"], &told["word"]), (&"sentiment-v2".into(), &"pause".into()));
    let paused = event(&program, "rollout_changed", "\"state\":\"paused\"").await;
    assert_eq!(
        (&paused["canary"], &paused["stable"]),
        (&"sentiment-v2".into(), &"sentiment-v1".into())
    );
    assert_eq!(post(admin, "/api/rollouts/sentiment-v2/abort").await, 200);
    let aborted = event(&program, "rollout_changed", "\"state\":\"aborted\"").await;
    assert_eq!(aborted["weight"], 0.0, "{aborted}");
    assert!(aborted["reason"].is_string() && aborted["version"].is_string(), "{aborted}");

    let good = file.text();
    file.write(good.replace("routes:", "rutes:").as_bytes());
    let refused = event(&program, "config_refused", "rutes").await;
    assert_eq!((&refused["level"], &refused["key"]), (&"ERROR".into(), &"rutes".into()));
    assert!(refused["code"].as_str().unwrap().starts_with("SRN"), "{refused}");
    assert!(refused["line"].is_u64() && refused["help"].is_string(), "{refused}");
    file.write(good.as_bytes());
    event(&program, "config_whole", "").await;
    file.write(format!("# Anew\n{good}").as_bytes());
    assert_eq!(event(&program, "config_reloaded", "").await["generation"], 2);

    program.signal("TERM");
    let said = program.ended().await.expect(0).stdout;
    let events = said.lines().map(|line| {
        let line: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        line["event"].as_str().unwrap_or_else(|| panic!("no event: {line}")).to_owned()
    });
    let events: Vec<_> = events.collect();
    assert_eq!(events.last().map(String::as_str), Some("drained"), "{events:?}");
    // What the reload warns of may come in between: another thread says it.
    assert!(events.iter().any(|event| event == "draining"), "{events:?}");
}
