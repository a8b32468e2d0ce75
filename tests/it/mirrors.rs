//! What a shadow gets, and that no user ever feels it.

use serin_testkit::{
    Backend, Metrics, Proxy, ProxyBuilder, Request, Script, Stopwatch, eventually, secs,
};

const PATH: &str = "/v2/models/fraud/infer";

/// `config/shadow.yaml` with every request copied.
fn mirrored(v7: &Backend, v8: &Backend) -> ProxyBuilder {
    let proxy = Proxy::with_config("shadow.yaml").backends([v7, v8]);
    proxy.replace("percent: 25%", "percent: 100%")
}

fn count(metrics: &Metrics, result: &str) -> u64 {
    let labels = [("backend", "fraud-v8"), ("result", result)];
    metrics.value("serin_mirror_requests_total", &labels).round() as u64
}

/// Waits until so many copies ended in `result`.
async fn counted(proxy: &Proxy, result: &str, wanted: u64) {
    eventually(&format!("{wanted} copies are {result}"), async || {
        let metrics = proxy.metrics().await;
        (count(&metrics, result) == wanted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_copy_is_the_request_with_other_fields() {
    let (v7, v8) = (Backend::named("v7").start(), Backend::named("v8").answers(418).start());
    let proxy = mirrored(&v7, &v8).start();
    let body: Vec<u8> = (0..300_000u32).map(|n| (n % 253) as u8).collect();
    let post = Request::post(&format!("{PATH}?x=1"), body.clone())
        .header("authorization", "Bearer secret")
        .header("x-shadow", "mine")
        .header("x-stays", "1");
    let mut client = proxy.client();
    assert_eq!(client.send(&post).await.expect(200).text(), "v7");
    assert_eq!(client.send(&post.clone().chunked()).await.expect(200).text(), "v7");
    assert_eq!(client.get(PATH).await.expect(200).text(), "v7");
    for copy in v8.saw(3).await.iter().filter(|copy| copy.head.word(0) == "POST") {
        assert_eq!(copy.target(), format!("{PATH}?x=1"));
        assert!(copy.body == body, "{} bytes", copy.body.len());
        assert_eq!(copy.head.field("authorization"), None);
        assert_eq!(copy.header("x-shadow"), "true");
        assert_eq!(
            (copy.header("x-stays"), copy.header("host")),
            ("1".into(), "models.example.com".into())
        );
    }
    // The request itself is as it was.
    let seen = v7.seen();
    assert_eq!(seen[0].header("authorization"), "Bearer secret");
    assert_eq!(seen[0].header("x-shadow"), "mine");
    let ids: Vec<_> = v8.seen().iter().map(|copy| copy.header("x-request-id")).collect();
    assert!(seen.iter().all(|one| ids.contains(&one.header("x-request-id"))));
    // 418 is not the shadow's failure.
    counted(&proxy, "ok", 3).await;
}

#[tokio::test]
async fn only_what_the_config_names_is_copied() {
    let (v7, v8) = (Backend::named("v7").start(), Backend::named("v8").start());
    let proxy = mirrored(&v7, &v8).start();
    let mut client = proxy.client();
    for method in ["PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"] {
        client.send(&Request::new(method, PATH)).await.expect(200);
    }
    client.get(PATH).await.expect(200);
    counted(&proxy, "ok", 1).await;
    assert_eq!(v8.last().head.word(0), "GET");
    assert_eq!(v8.requests(), 1);
}

#[tokio::test]
async fn a_quarter_is_a_quarter() {
    const COUNT: u64 = 2_000;
    let (v7, v8) = (Backend::named("v7").start(), Backend::named("v8").start());
    let proxy = Proxy::with_config("shadow.yaml").backends([&v7, &v8]);
    // None is to be dropped.
    let proxy = proxy.replace("max_in_flight: 64", "max_in_flight: 100000").start();
    let mut client = proxy.client();
    for _ in 0..COUNT {
        client.post(PATH, "{}").await.expect(200);
    }
    let copies = eventually("every copy has ended", async || {
        let metrics = proxy.metrics().await;
        let busy = metrics.value("serin_requests_in_flight", &[("backend", "fraud-v8")]);
        (busy < 0.5).then(|| count(&metrics, "ok"))
    })
    .await;
    assert_eq!(v8.requests(), copies);
    let sigma = (COUNT as f64 * 0.25 * 0.75).sqrt();
    let mean = COUNT as f64 * 0.25;
    assert!((copies as f64 - mean).abs() <= 4.0 * sigma, "{copies}, not {mean} ± {sigma:.1}");
}

#[tokio::test]
async fn a_large_body_is_not_copied_but_arrives() {
    let (v7, v8) = (Backend::named("v7").start(), Backend::named("v8").start());
    let proxy = mirrored(&v7, &v8).replace("max_body: 1MiB", "max_body: 1000B").start();
    let mut client = proxy.client();
    for (n, request) in [
        Request::post(PATH, vec![b'x'; 1001]),
        Request::post(PATH, vec![b'x'; 1001]).chunked(),
        Request::post(PATH, vec![b'x'; 3 << 20]).chunked(),
    ]
    .iter()
    .enumerate()
    {
        client.send(request).await.expect(200);
        counted(&proxy, "too_large", n as u64 + 1).await;
    }
    assert_eq!(v7.last().body.len(), 3 << 20);
    client.post(PATH, vec![b'x'; 1000]).await.expect(200);
    counted(&proxy, "ok", 1).await;
    assert_eq!((v8.requests(), v8.last().body.len()), (1, 1000));
}

#[tokio::test]
async fn what_is_refused_is_not_copied() {
    let (v7, v8) = (Backend::named("v7").start(), Backend::named("v8").start());
    let limits = "limits: { max_body: 10B }\n        mirrors:";
    let proxy = mirrored(&v7, &v8).replace("mirrors:", limits).start();
    let mut client = proxy.client();
    client.post(PATH, vec![b'x'; 11]).await.expect(413);
    client.post(PATH, vec![b'x'; 10]).await.expect(200);
    counted(&proxy, "ok", 1).await;
    assert_eq!((v8.requests(), v8.last().body.len()), (1, 10));
}

#[tokio::test]
async fn a_copy_beyond_the_budget_is_dropped() {
    let (v7, v8) = (Backend::named("v7").start(), Backend::named("v8").start());
    v8.now(Script::by_hand());
    let proxy = mirrored(&v7, &v8).replace("max_in_flight: 64", "max_in_flight: 3").start();
    let mut client = proxy.client();
    let mut calls = Vec::new();
    for _ in 0..3 {
        client.post(PATH, "{}").await.expect(200);
        calls.push(v8.next_call().await);
    }
    for _ in 0..20 {
        client.post(PATH, "{}").await.expect(200);
    }
    counted(&proxy, "dropped", 20).await;
    assert_eq!(v8.requests(), 3);
    // A place that is free again is taken again.
    v8.now(Script::answers(200));
    calls.pop().unwrap().say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    counted(&proxy, "ok", 1).await;
    client.post(PATH, "{}").await.expect(200);
    counted(&proxy, "ok", 2).await;
}

#[tokio::test]
async fn a_bad_shadow_changes_nothing_for_a_user() {
    for (what, script) in [
        ("dead", None),
        ("hung", Some(Script::hangs())),
        ("slow", Some(Script::drips())),
        ("resetting", Some(Script::resets())),
        ("talking nonsense", Some(Script::garbage())),
        ("failing", Some(Script::answers(500))),
        ("breaking off", Some(Script::half_a_body())),
    ] {
        let v7 = Backend::named("v7").start();
        let shadow = Backend::named("v8");
        let v8 = match script {
            None => shadow.start_dead(),
            Some(script) => shadow.does(script).start(),
        };
        let proxy = mirrored(&v7, &v8).start();
        let watch = Stopwatch::start();
        let mut client = proxy.client();
        for n in 0..300 {
            let body = format!("{{\"n\": {n}}}");
            assert_eq!(client.post(PATH, body.clone()).await.expect(200).text(), "v7", "{what}");
            assert_eq!(v7.last().body, body.as_bytes(), "{what}");
        }
        assert_eq!((v7.requests(), v7.connections()), (300, 1), "{what}");
        // One wait for a byte of the shadow in each would be five minutes.
        assert!(watch.elapsed() < secs(60), "{what}: {:?}", watch.elapsed());
        let metrics = proxy.metrics().await;
        let good = metrics.value("serin_requests_total", &[("code", "200")]);
        assert!((good - 300.0).abs() < 0.1, "{what}");
        match what {
            "hung" | "slow" => counted(&proxy, "dropped", 300 - 64).await,
            _ => {
                eventually("each copy is accounted for", async || {
                    let metrics = proxy.metrics().await;
                    let errors = count(&metrics, "error");
                    (errors > 0 && errors + count(&metrics, "dropped") == 300).then_some(())
                })
                .await;
            }
        }
    }
}

#[tokio::test]
async fn a_shadow_that_does_not_read_does_not_hold_up_a_large_request() {
    let v7 = Backend::named("v7").start();
    let v8 = Backend::named("v8").does(Script::by_hand()).start();
    let proxy = mirrored(&v7, &v8).replace("max_body: 1MiB", "max_body: 64MiB").start();
    let mut client = proxy.client();
    let body = vec![b'x'; 20 << 20];
    for _ in 0..3 {
        client.post(PATH, body.clone()).await.expect(200);
        assert!(v7.last().body.len() == body.len());
    }
    assert_eq!(v8.requests(), 3);
}

#[tokio::test]
async fn a_shadow_goes_on_when_the_model_fails() {
    let v7 = Backend::named("v7").does(Script::closes()).start();
    let v8 = Backend::named("v8").start();
    let proxy = mirrored(&v7, &v8).start();
    proxy.client().post(PATH, "body").await.expect(502);
    counted(&proxy, "ok", 1).await;
    assert_eq!(v8.last().body, b"body");
}

#[tokio::test]
async fn a_copy_counts_by_whose_fault_it_is() {
    let status = |code: &str| Script::answers(200).header("grpc-status", code);
    let events =
        |text: &str| Script::answers(200).header("content-type", "text/event-stream").body(text);
    for (script, result) in [
        (status("0"), "ok"),
        // Not found is the client's fault, unavailable is the model's.
        (status("5"), "ok"),
        (status("14"), "error"),
        (Script::chunks(["x"]).trailer("grpc-status", "14"), "error"),
        (Script::answers(404), "ok"),
        (Script::answers(503), "error"),
        (events("data: {\"token\": 1}\n\n"), "ok"),
        // Under status 200.
        (events("data: 1\n\nevent: error\ndata: 2\n\n"), "error"),
    ] {
        let (v7, v8) = (Backend::named("v7").start(), Backend::named("v8").does(script).start());
        let proxy = mirrored(&v7, &v8).start();
        proxy.client().post(PATH, "body").await.expect(200);
        counted(&proxy, result, 1).await;
    }
}

#[tokio::test]
async fn a_copy_that_serin_cannot_send_is_not_held_against_the_shadow() {
    let (v7, v8) = (Backend::named("v7").start(), Backend::named("v8").start());
    // Linux has no way there for a connection: ENETUNREACH.
    let nowhere = "255.255.255.255:9";
    let proxy = mirrored(&v7, &v8).replace(&v8.address.to_string(), nowhere).start();
    proxy.client().post(PATH, "body").await.expect(200);
    counted(&proxy, "dropped", 1).await;
    assert_eq!(count(&proxy.metrics().await, "error"), 0);
}

#[tokio::test]
async fn half_a_request_is_not_copied() {
    let (v7, v8) = (Backend::named("v7").start(), Backend::named("v8").start());
    let proxy = mirrored(&v7, &v8).start();
    let head = format!("POST {PATH} HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf");
    let client = proxy.client().begin(head).await;
    eventually("it is under way", async || (v7.requests() == 1).then_some(())).await;
    drop(client);
    counted(&proxy, "dropped", 1).await;
    assert_eq!(v8.requests(), 0);
}

#[tokio::test]
async fn a_copy_outlives_the_client_that_was_answered() {
    let v7 = Backend::named("v7").start();
    let v8 = Backend::named("v8").does(Script::by_hand()).start();
    let proxy = mirrored(&v7, &v8).start();
    proxy.client().post(PATH, "body").await.expect(200);
    let mut call = v8.next_call().await;
    assert_eq!(call.piece().await.as_deref(), Some("body"));
    call.say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    counted(&proxy, "ok", 1).await;
}
