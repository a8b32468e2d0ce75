//! What a failed attempt leads to while the user waits: stable for the canary, or the same
//! backend once more.

use serin_testkit::{Backend, Proxy, ProxyBuilder, Request, Script, ms, secs};

const PATH: &str = "/v2/models/sentiment/infer";
const V2: &str = "sentiment-v2";

/// `config/canary.yaml` with `failover: true` and `more` in its rule.
fn canary(v1: &Backend, v2: &Backend, more: &str) -> ProxyBuilder {
    let rule = "          - name: sentiment-v2\n            weight: 10\n";
    let with = format!("{rule}        failover: true\n{more}");
    Proxy::with_config("canary.yaml").backends([v1, v2]).replace(rule, &with)
}

async fn count(proxy: &Proxy, name: &str, labels: &[(&str, &str)]) -> u64 {
    proxy.metrics().await.value(name, labels).round() as u64
}

#[tokio::test]
async fn ten_thousand_users_of_a_dead_wrong_canary_see_no_error_and_it_is_out_in_time() {
    const USERS: u64 = 10_000;
    const CLIENTS: u64 = 8;
    let v1 = Backend::named("v1").start();
    let v2 = Backend::named("v2").answers(500).start();
    let proxy = canary(&v1, &v2, "").start();
    let clients = (0..CLIENTS).map(|_| {
        let mut client = proxy.client();
        // A judge needs time: 2,000 users a second for five seconds.
        let mut pace = tokio::time::interval(ms(4));
        tokio::spawn(async move {
            for user in 0..USERS / CLIENTS {
                pace.tick().await;
                let body = format!("{{\"user\":{user}}}");
                assert_eq!(client.post(PATH, body).await.expect(200).text(), "v1");
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    proxy.rollout(V2).expect_rolled_back("errors <= 1%").await;
    let failed = v2.requests();
    assert!((5..USERS / 20).contains(&failed), "{failed} requests went to the canary");
    assert_eq!(v1.requests(), USERS);
    // Users see one thing, the judge another.
    let backend = |name| [("backend", name)];
    assert_eq!(count(&proxy, "serin_requests_total", &backend(V2)).await, 0);
    assert_eq!(count(&proxy, "serin_requests_total", &[("code", "200")]).await, USERS);
    let bad = [("backend", V2), ("outcome", "bad"), ("code", "500")];
    assert_eq!(count(&proxy, "serin_attempts_total", &bad).await, failed);
    assert_eq!(count(&proxy, "serin_failovers_total", &backend(V2)).await, failed);
    assert_eq!(count(&proxy, "serin_requests_in_flight", &[]).await, 0);
}

#[tokio::test]
async fn stable_answers_whatever_way_the_canary_fails() {
    let grpc = Script::answers(200).header("content-type", "application/grpc");
    for (what, script) in [
        ("closes", Some(Script::closes())),
        ("resets", Some(Script::resets())),
        ("garbage", Some(Script::garbage())),
        ("503", Some(Script::answers(503))),
        ("503 before the body", Some(Script::answers_early(503))),
        ("hangs", Some(Script::hangs())),
        ("a failure of gRPC", Some(grpc.header("grpc-status", "14"))),
        ("refuses", None),
    ] {
        let v1 = Backend::named("v1").start();
        let v2 = match script {
            Some(script) => Backend::named("v2").does(script).start(),
            None => Backend::named("v2").start_dead(),
        };
        // It binds stable too, so it is short only where the test has to wait for it.
        let brief = "        timeouts: { first_byte: 1s }\n";
        let proxy = canary(&v1, &v2, if what == "hangs" { brief } else { "" });
        let proxy = proxy.replace("weight: 90", "weight: 1").replace("weight: 10", "weight: 1");
        let proxy = proxy.start();
        let mut client = proxy.client();
        let body = "x".repeat(100_000);
        for index in 0..10 {
            let request = Request::post(PATH, body.as_str());
            let request = if index % 2 == 0 { request.chunked() } else { request };
            assert_eq!(client.send(&request).await.expect(200).text(), "v1", "{what}");
        }
        assert!(v1.seen().iter().all(|seen| seen.body == body.as_bytes()), "{what}");
        let failovers = count(&proxy, "serin_failovers_total", &[("backend", V2)]).await;
        let bad = [("backend", V2), ("outcome", "bad")];
        assert_eq!(count(&proxy, "serin_attempts_total", &bad).await, failovers, "{what}");
        // None in ten is one test in a thousand; the next ones will do.
        let view = proxy.rollout(V2).view().await;
        let stable = &view["objectives"][0]["stable"]["total"];
        assert!(
            stable.as_u64().unwrap_or(0) <= 10 - failovers,
            "{what}: failovers are no evidence"
        );
    }
}

#[tokio::test]
async fn a_body_too_large_to_be_kept_is_sent_once_and_that_is_counted() {
    let v1 = Backend::named("v1").start();
    let v2 = Backend::named("v2").answers(500).start();
    let proxy = canary(&v1, &v2, "").replace("weight: 90", "weight: 0").start();
    let mut client = proxy.client();
    let fits = client.post(PATH, "x".repeat(1 << 20)).await;
    assert_eq!(fits.expect(200).text(), "v1");
    let large = client.post(PATH, "x".repeat((1 << 20) + 1)).await;
    assert_eq!(large.expect(500).text(), "v2");
    let refused = [("backend", V2), ("reason", "body")];
    assert_eq!(count(&proxy, "serin_retries_refused_total", &refused).await, 1);
    assert_eq!(count(&proxy, "serin_requests_total", &[("backend", V2)]).await, 1);
}

#[tokio::test]
async fn what_stable_fails_is_not_sent_to_the_canary() {
    let v1 = Backend::named("v1").answers(503).start();
    let v2 = Backend::named("v2").start();
    let proxy = canary(&v1, &v2, "").replace("weight: 10", "weight: 0").start();
    proxy.client().post(PATH, "{}").await.expect(503);
    assert_eq!((v1.requests(), v2.requests()), (1, 0));
    assert_eq!(count(&proxy, "serin_failovers_total", &[]).await, 0);
}

#[tokio::test]
async fn another_endpoint_is_tried_for_what_the_rule_names() {
    let good = Backend::named("good").start();
    let bad = Backend::named("bad").answers(503).start();
    let dead = Backend::named("dead").start_dead();
    for (faulty, code) in [(&bad, "503"), (&dead, "502")] {
        let retry = "retry: { attempts: 1, budget: 100%, on: [connect, \"503\"] }";
        // The faulty one is not to be avoided.
        let only = format!("endpoints: [{}]", good.address);
        let both = format!(
            "endpoints: [{}, {}], balance: round_robin, ejection: off",
            good.address, faulty.address
        );
        let proxy = Proxy::to(&good, retry).replace(&only, &both).start();
        let mut client = proxy.client();
        for _ in 0..50 {
            assert_eq!(client.get("/").await.expect(200).text(), "good");
        }
        let retries = count(&proxy, "serin_retries_total", &[]).await;
        assert!(retries > 5, "{retries}");
        let failed = [("outcome", "bad"), ("code", code)];
        assert_eq!(count(&proxy, "serin_attempts_total", &failed).await, retries);
        assert_eq!(count(&proxy, "serin_requests_total", &[("code", "200")]).await, 50);
        // Not idempotent and not named: sent once.
        let mut failures = 0;
        for _ in 0..50 {
            failures += u32::from(client.post("/", "x").await.status != 200);
        }
        assert!(failures > 5, "{failures}");
        assert_eq!(count(&proxy, "serin_retries_total", &[]).await, retries);
    }
}

#[tokio::test]
async fn retries_come_to_an_endpoint_that_was_not_tried() {
    let good = Backend::named("good").start();
    let dead: [_; 4] = std::array::from_fn(|_| Backend::named("dead").start_dead());
    let retry = "retry: { attempts: 4, budget: 100% }";
    let only = format!("endpoints: [{}]", good.address);
    for balance in ["peak_ewma", "least_request", "round_robin", "hash"] {
        let all = dead.iter().chain([&good]).map(|one| one.address.to_string());
        let all = all.collect::<Vec<_>>().join(", ");
        let all = format!("endpoints: [{all}], balance: {balance}, ejection: off");
        let proxy = Proxy::to(&good, retry).replace(&only, &all).start();
        let mut client = proxy.client();
        for n in 0..50 {
            let request = Request::get(&format!("/{n}"));
            assert_eq!(client.send(&request).await.expect(200).text(), "good", "{balance}");
        }
    }
}

#[tokio::test]
async fn a_canary_tries_again_where_stable_has_no_endpoint() {
    let v1 = Backend::named("v1").start();
    let (good, bad) = (Backend::named("v2").start(), Backend::named("v2").answers(503).start());
    let both = format!(
        "endpoints: [{}, {}]\n    balance: round_robin\n    ejection: off",
        good.address, bad.address
    );
    let retry = "        retry: { attempts: 1, budget: 100%, on: [5xx], methods: [POST] }\n";
    let proxy = canary(&v1, &good, retry)
        .replace(&format!("endpoints: [{}]", v1.address), "endpoints: []")
        .replace(&format!("endpoints: [{}]", good.address), &both)
        .replace("weight: 90", "weight: 0")
        .start();
    let mut client = proxy.client();
    for _ in 0..20 {
        assert_eq!(client.post(PATH, "{}").await.expect(200).text(), "v2");
    }
    assert!(bad.requests() > 3, "{}", bad.requests());
    assert_eq!(count(&proxy, "serin_failovers_total", &[]).await, 0);
}

#[tokio::test]
async fn retries_end_with_their_number_and_with_their_budget() {
    let model = Backend::named("model").answers(503).start();
    let retry = "retry: { attempts: 3, budget: 100%, on: [5xx], methods: [POST] }";
    let proxy = Proxy::to(&model, retry).start();
    proxy.client().post("/", "x").await.expect(503);
    assert_eq!(model.requests(), 4);

    let model = Backend::named("model").answers(503).start();
    let proxy = Proxy::to(&model, "retry: { budget: 0%, on: [5xx] }").start();
    let mut client = proxy.client();
    for _ in 0..50 {
        client.get("/").await.expect(503);
    }
    let retries = count(&proxy, "serin_retries_total", &[]).await;
    let refused = count(&proxy, "serin_retries_refused_total", &[("reason", "budget")]).await;
    // Three in each of the seconds that it took.
    assert!(retries >= 3 && refused > 0, "{retries} retries, {refused} refused");
    assert_eq!((retries + refused, model.requests()), (50, 50 + retries));
}

#[tokio::test]
async fn another_attempt_has_its_own_time_for_the_first_byte_but_not_its_own_whole() {
    let model = Backend::named("model").does(Script::answers(200)).start();
    let slow = Script::answers(200).after(secs(20));
    model.now(slow);
    // Attempts begin at 0, 1 and 2 s; the second may do so 1.5 s late.
    let more = "timeouts: { first_byte: 1s, request: 2500ms }\n\
                retry: { attempts: 10, budget: 100%, on: [first_byte] }";
    let proxy = Proxy::to(&model, more).start();
    proxy.client().get("/").await.expect(504);
    assert!((2..=3).contains(&model.requests()), "{}", model.requests());
}

#[tokio::test]
async fn how_much_of_a_body_is_kept_can_be_said() {
    let v1 = Backend::named("v1").start();
    let v2 = Backend::named("v2").answers(500).start();
    let proxy = canary(&v1, &v2, "").replace("weight: 90", "weight: 0");
    let proxy = proxy.with("replay_body_max: 10KiB").start();
    let mut client = proxy.client();
    let send = |bytes: usize| Request::post(PATH, "x".repeat(bytes)).chunked();
    assert_eq!(client.send(&send(10 << 10)).await.expect(200).text(), "v1");
    assert_eq!(client.send(&send((10 << 10) + 1)).await.expect(500).text(), "v2");
}

/// An endpoint may answer while the request is still being sent to it, also a second time.
#[tokio::test]
async fn an_early_answer_takes_nothing_from_a_body_that_is_sent_again() {
    let v1 = Backend::named("v1").does(Script::by_hand()).start();
    let v2 = Backend::named("v2").answers(500).start();
    let kept = "admin:\n";
    let proxy = canary(&v1, &v2, "")
        .replace("weight: 90", "weight: 0")
        .replace(kept, "replay_body_max: 16MiB\nadmin:\n")
        .start();
    // More than the sockets between them take.
    let body: Vec<u8> = (0..15_000_000u32).map(|n| b'a' + (n % 23) as u8).collect();
    let asked = tokio::spawn({
        let (mut client, post) = (proxy.client(), Request::post(PATH, body.clone()));
        async move { client.send(&post).await }
    });
    let mut call = v1.next_call().await;
    call.begin_stream().await;
    call.chunk("so far").await;
    assert!(call.at_least(body.len()).await.as_bytes() == body, "not the whole body came");
    call.end_stream().await;
    assert_eq!(asked.await.unwrap().expect(200).text(), "so far");
}
