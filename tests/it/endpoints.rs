//! Which endpoint gets a request: those that are well, those that do not fail, the one that a
//! key belongs to.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serin_testkit::{Backend, Proxy, ProxyBuilder, Request, Script, eventually, ms};

const MODEL: &str = "model";

/// One rule, one backend with the endpoints `all`, and `more` keys of the backend.
fn proxy_before(all: &[&Backend], more: &str) -> ProxyBuilder {
    let addresses: Vec<_> = all.iter().map(|one| one.address.to_string()).collect();
    let first = format!("endpoints: [{}]", addresses[0]);
    let with = format!("endpoints: [{}]{more}", addresses.join(", "));
    Proxy::to(all[0], "").replace(&first, &with)
}

const HEALTH: &str = ", health: { path: /ready, interval: 100ms }";

async fn is_healthy(proxy: &Proxy, endpoint: &Backend) -> bool {
    let address = endpoint.address.to_string();
    let labels = [("backend", MODEL), ("endpoint", address.as_str())];
    proxy.metrics().await.value("serin_endpoint_healthy", &labels) > 0.5
}

async fn until_healthy(proxy: &Proxy, endpoint: &Backend, wanted: bool) {
    let what = format!("{} is healthy: {wanted}", endpoint.name);
    eventually(&what, async || (is_healthy(proxy, endpoint).await == wanted).then_some(())).await;
}

/// How often each answered `count` requests.
async fn answers(proxy: &Proxy, count: usize) -> HashMap<String, usize> {
    let mut client = proxy.client();
    let mut answers = HashMap::new();
    for _ in 0..count {
        *answers.entry(client.get("/").await.expect(200).text()).or_default() += 1;
    }
    answers
}

#[tokio::test]
async fn an_endpoint_that_says_it_is_unwell_gets_no_requests_until_it_is_well() {
    let a = Backend::named("a").on("/ready", Script::answers(200)).start();
    let b = Backend::named("b").on("/ready", Script::answers(503)).start();
    let proxy = proxy_before(&[&a, &b], HEALTH).start();
    // From the first request on: the start waits for the first answers.
    assert_eq!(answers(&proxy, 50).await, HashMap::from([("a".to_owned(), 50)]));
    assert!(is_healthy(&proxy, &a).await && !is_healthy(&proxy, &b).await);

    b.now_on("/ready", Script::answers(204));
    until_healthy(&proxy, &b, true).await;
    assert!(answers(&proxy, 50).await["b"] > 5);

    a.now_on("/ready", Script::hangs());
    until_healthy(&proxy, &a, false).await;
    assert_eq!(answers(&proxy, 50).await, HashMap::from([("b".to_owned(), 50)]));
}

#[tokio::test]
async fn without_a_ready_endpoint_there_is_503_and_nobody_is_blamed() {
    let model = Backend::named("a").on("/ready", Script::answers(500)).start();
    let proxy = proxy_before(&[&model], HEALTH).start();
    proxy.get("/").await.expect(503);
    let neutral = [("code", "503"), ("outcome", "neutral")];
    let metrics = proxy.metrics().await;
    assert!((metrics.value("serin_attempts_total", &neutral) - 1.0).abs() < 0.1);
    model.now_on("/ready", Script::answers(200));
    until_healthy(&proxy, &model, true).await;
    proxy.get("/").await.expect(200);
}

#[tokio::test]
async fn one_slip_is_forgiven_and_three_are_not() {
    let model = Backend::named("a").on("/ready", Script::answers(200)).start();
    let proxy = proxy_before(&[&model], HEALTH).start();
    let slips = Script::answers(200).every(2, Script::answers(500));
    model.now_on("/ready", slips);
    let before = model.requests();
    eventually("it was asked ten times", async || (model.requests() >= before + 10).then_some(()))
        .await;
    assert!(is_healthy(&proxy, &model).await);
    model.now_on("/ready", Script::garbage());
    until_healthy(&proxy, &model, false).await;
}

#[tokio::test]
async fn a_connection_can_be_all_that_is_asked_for() {
    let a = Backend::named("a").start();
    let b = Backend::named("b").start_dead();
    let health = ", health: { tcp: true, interval: 100ms, unhealthy_threshold: 1 }";
    let proxy = proxy_before(&[&a, &b], health).start();
    assert_eq!(answers(&proxy, 20).await, HashMap::from([("a".to_owned(), 20)]));
    b.revives().await;
    until_healthy(&proxy, &b, true).await;
    a.dies().await;
    until_healthy(&proxy, &a, false).await;
    assert_eq!(answers(&proxy, 20).await, HashMap::from([("b".to_owned(), 20)]));
}

#[tokio::test]
async fn a_canary_without_a_ready_endpoint_gives_its_share_to_stable() {
    let v1 = Backend::named("v1").start();
    let v2 = Backend::named("v2").on("/ready", Script::answers(200)).start();
    let v2_line = "    endpoints: [127.0.0.1:9002]\n";
    let health = "    health: { path: /ready, interval: 100ms }\n";
    let proxy = Proxy::with_config("canary.yaml")
        .replace(v2_line, &format!("{v2_line}{health}"))
        .replace("weight: 90", "weight: 1")
        .replace("weight: 10", "weight: 1")
        .backends([&v1, &v2])
        .start();
    let path = "/v2/models/sentiment/infer";
    let rollout = proxy.rollout("sentiment-v2");
    assert!((rollout.view().await["weight"].as_f64().unwrap() - 0.5).abs() < 1e-9);

    v2.now_on("/ready", Script::answers(503));
    let held = rollout.expect_held("canary has no ready endpoint").await;
    assert_eq!((&held["state"], &held["weight"]), (&"holding".into(), &0.0.into()));
    let mut client = proxy.client();
    for _ in 0..50 {
        assert_eq!(client.get(path).await.expect(200).text(), "v1");
    }

    v2.now_on("/ready", Script::answers(200));
    eventually("the canary serves again", async || {
        (client.get(path).await.expect(200).text() == "v2").then_some(())
    })
    .await;
    assert!((rollout.view().await["weight"].as_f64().unwrap() - 0.5).abs() < 1e-9);
}

#[tokio::test]
async fn a_new_endpoint_gets_nothing_before_it_is_well() {
    let a = Backend::named("a").on("/ready", Script::answers(200)).start();
    let b = Backend::named("b").on("/ready", Script::hangs()).start();
    let mut proxy = proxy_before(&[&a], HEALTH).start();
    proxy.rewrite(&a.address.to_string(), &format!("{}, {}", a.address, b.address));
    proxy.reload().await.expect(200);
    assert_eq!(answers(&proxy, 30).await, HashMap::from([("a".to_owned(), 30)]));
    b.now_on("/ready", Script::answers(200));
    until_healthy(&proxy, &b, true).await;
    assert!(answers(&proxy, 50).await["b"] > 5);
}

#[tokio::test]
async fn a_slow_start_gives_a_new_endpoint_little() {
    let a = Backend::named("a").start();
    let b = Backend::named("b").start();
    for balance in ["peak_ewma", "least_request", "round_robin"] {
        let more = format!(", balance: {balance}, slow_start: 1h");
        let mut proxy = proxy_before(&[&a], &more).start();
        proxy.rewrite(&a.address.to_string(), &format!("{}, {}", a.address, b.address));
        proxy.reload().await.expect(200);
        // A tenth of a half of 600 is 30, standard deviation 5.3; EWMA likes what it does not
        // know.
        let new = answers(&proxy, 600).await["b"];
        assert!((5..95).contains(&new), "{balance}: {new}");
    }
}

#[tokio::test]
async fn an_endpoint_that_always_fails_is_taken_out_and_comes_back() {
    let good = Backend::named("good").start();
    let bad = Backend::named("bad").answers(500).start();
    let dead = Backend::named("dead").start_dead();
    for faulty in [&bad, &dead] {
        let more = ", balance: round_robin, ejection: { time: 1s }";
        let proxy = proxy_before(&[&good, faulty], more).start();
        let mut client = proxy.client();
        let mut failures = 0;
        eventually("it is out", async || {
            failures += u32::from(client.get("/").await.status != 200);
            (!is_healthy(&proxy, faulty).await).then_some(())
        })
        .await;
        assert!(failures >= 5, "{failures}");
        assert_eq!(answers(&proxy, 20).await, HashMap::from([("good".to_owned(), 20)]));
        let address = faulty.address.to_string();
        let labels = [("endpoint", address.as_str())];
        let ejected = proxy.metrics().await.value("serin_endpoint_ejected", &labels);
        assert!((ejected - 1.0).abs() < 0.1);
        let ejections = proxy.metrics().await.value("serin_ejections_total", &[]);
        assert!(ejections > 0.9, "{ejections}");
        until_healthy(&proxy, faulty, true).await;
    }
}

#[tokio::test]
async fn the_last_endpoint_is_never_taken_out_and_none_where_that_is_off() {
    let bad = Backend::named("bad").answers(500).start();
    let proxy = proxy_before(&[&bad], "").start();
    let mut client = proxy.client();
    for _ in 0..30 {
        client.get("/").await.expect(500);
    }
    assert!(is_healthy(&proxy, &bad).await);

    let good = Backend::named("good").start();
    let more = ", balance: round_robin, ejection: off";
    let proxy = proxy_before(&[&good, &bad], more).start();
    let mut client = proxy.client();
    let mut failures = 0;
    for _ in 0..60 {
        failures += u32::from(client.get("/").await.status == 500);
    }
    assert_eq!(failures, 30);
}

#[tokio::test]
async fn a_hash_keeps_a_key_at_its_endpoint_whoever_comes_and_goes() {
    let all: Vec<_> = ["a", "b", "c"].map(|name| Backend::named(name).start()).into();
    let three: Vec<_> = all.iter().collect();
    let sticky = "        backends: [{ name: model }]\n";
    let with = format!("{sticky}        sticky: {{ header: x-user-id }}\n");
    let mut proxy = proxy_before(&three, ", balance: hash").replace(sticky, &with).start();
    let places = async |proxy: &Proxy| {
        let mut client = proxy.client();
        let mut places = Vec::new();
        for user in 0..90 {
            let request = Request::get("/").header("x-user-id", &format!("user-{user}"));
            places.push(client.send(&request).await.expect(200).text());
        }
        places
    };
    let first = places(&proxy).await;
    assert_eq!(places(&proxy).await, first);
    for name in ["a", "b", "c"] {
        // A third of 90, standard deviation 4.5.
        let count = first.iter().filter(|place| *place == name).count();
        assert!((10..55).contains(&count), "{name}: {count}");
    }
    proxy.rewrite(&format!(", {}", all[2].address), "");
    proxy.reload().await.expect(200);
    for (before, after) in first.iter().zip(places(&proxy).await) {
        assert!(before == "c" || *before == after, "{before} {after}");
    }
    // Without a key, by the client's address.
    assert_eq!(answers(&proxy, 20).await.len(), 1);
}

#[tokio::test]
async fn a_reload_keeps_what_is_known_of_endpoints() {
    let a = Backend::named("a").on("/ready", Script::answers(200)).start();
    let b = Backend::named("b").on("/ready", Script::answers(503)).start();
    let proxy = proxy_before(&[&a, &b], HEALTH).with("response_headers: false");
    let mut proxy = proxy.start();
    proxy.rewrite("response_headers: false", "response_headers: true");
    proxy.reload().await.expect(200);
    assert_eq!(answers(&proxy, 20).await, HashMap::from([("a".to_owned(), 20)]));
    // Asked in another way, it goes on until that way tells.
    b.now_on("/well", Script::answers(200).after(ms(50)));
    a.now_on("/well", Script::answers(200).after(ms(50)));
    proxy.rewrite("path: /ready", "path: /well");
    proxy.reload().await.expect(200);
    assert_eq!(answers(&proxy, 1).await.len(), 1);
    until_healthy(&proxy, &b, true).await;
}

/// A server of the gRPC health protocol: serves with the status that `status` holds.
fn grpc_server(status: Arc<AtomicU8>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            let status = Arc::clone(&status);
            let service = service_fn(move |request: http::Request<Incoming>| {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let message = vec![0, 0, 0, 0, 2, 8, status.load(SeqCst)];
                async move {
                    let asked = request.into_body().collect().await.unwrap().to_bytes();
                    assert_eq!(&asked[..], b"\0\0\0\0\x06\x0a\x04chat");
                    let trailers = http::HeaderMap::from_iter([(
                        http::HeaderName::from_static("grpc-status"),
                        http::HeaderValue::from_static("0"),
                    )]);
                    let body = Full::new(Bytes::from(message))
                        .with_trailers(async move { Some(Ok(trailers)) });
                    let response =
                        http::Response::builder().header("content-type", "application/grpc");
                    Ok::<_, Infallible>(response.body(body).unwrap())
                }
            });
            let builder = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

#[tokio::test]
async fn the_health_protocol_of_grpc_is_understood() {
    let status = Arc::new(AtomicU8::new(1));
    let address = grpc_server(Arc::clone(&status));
    let model = Backend::named("a").start();
    let health = ", health: { grpc: chat, interval: 100ms, unhealthy_threshold: 1 }";
    let proxy = proxy_before(&[&model], health)
        .replace(&model.address.to_string(), &address.to_string())
        .start();
    let labels = [("backend", MODEL)];
    for (serving, healthy) in [(1, 1.0), (2, 0.0), (1, 1.0), (3, 0.0)] {
        status.store(serving, SeqCst);
        eventually(&format!("status {serving} is seen"), async || {
            let found = proxy.metrics().await.value("serin_endpoint_healthy", &labels);
            ((found - healthy).abs() < 0.1).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn endpoints_are_found_by_name() {
    let model = Backend::named("a").start();
    let endpoints = format!("endpoints: [{}]", model.address);
    let dns = format!("dns: \"localhost:{}\"", model.address.port());
    let proxy = Proxy::to(&model, "").replace(&endpoints, &dns).start();
    // From the first request on: the start waits for the first answer.
    proxy.get("/").await.expect(200);
    let metrics = proxy.metrics().await;
    assert!((metrics.value("serin_discovery_successful", &[("backend", MODEL)]) - 1.0).abs() < 0.1);
    // Both families of one machine are one endpoint.
    assert!((metrics.value("serin_endpoint_healthy", &[("backend", MODEL)]) - 1.0).abs() < 0.1);

    let nowhere = Proxy::to(&model, "").replace(&endpoints, "dns: \"nowhere.invalid:80\"").start();
    nowhere.get("/").await.expect(503);
}
