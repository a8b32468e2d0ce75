//! How many requests each version gets, and which users stay with which.

use std::collections::BTreeSet;

use serin_testkit::{Backend, Proxy, ProxyBuilder, Request, Script, eventually, ms};

const PATH: &str = "/v2/models/sentiment/infer";

/// `config/canary.yaml` with its users kept on one version by `x-user-id`.
fn sticky(v1: &Backend, v2: &Backend) -> ProxyBuilder {
    let rule = "          - name: sentiment-v2\n            weight: 10\n";
    let sticky = format!("{rule}        sticky: {{ header: x-user-id }}\n");
    Proxy::with_config("canary.yaml").backends([v1, v2]).replace(rule, &sticky)
}

fn versions() -> (Backend, Backend) {
    (Backend::named("v1").start(), Backend::named("v2").start())
}

/// The users, of `count`, whom `proxy` sends to the canary.
async fn canary_users(proxy: &Proxy, count: u32) -> BTreeSet<u32> {
    let mut client = proxy.client();
    let mut found = BTreeSet::new();
    for user in 0..count {
        let request = Request::post(PATH, "{}").header("x-user-id", &format!("user-{user}"));
        if client.send(&request).await.expect(200).text() == "v2" {
            found.insert(user);
        }
    }
    found
}

#[tokio::test]
async fn the_canary_gets_its_tenth() {
    const COUNT: u32 = 4_000;
    let (v1, v2) = versions();
    let proxy = Proxy::with_config("canary.yaml").backends([&v1, &v2]).start();
    // Several clients, so that every worker takes part.
    let clients = (0..8).map(|_| {
        let mut client = proxy.client();
        tokio::spawn(async move {
            for _ in 0..COUNT / 8 {
                client.post(PATH, "{}").await.expect(200);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let (stable, canary) = (v1.requests() as f64, v2.requests() as f64);
    assert!((stable + canary - f64::from(COUNT)).abs() < 0.1);
    // Four standard deviations: passed by chance all but once in 16,000 runs.
    let sigma = (f64::from(COUNT) * 0.1 * 0.9).sqrt();
    let mean = f64::from(COUNT) * 0.1;
    assert!((canary - mean).abs() <= 4.0 * sigma, "{canary} of {COUNT}, not {mean} ± {sigma:.1}");
    let metrics = proxy.metrics().await;
    let counted = metrics.value("serin_requests_total", &[("backend", "sentiment-v2")]);
    assert!((counted - canary).abs() < 0.1, "{counted} counted, {canary} sent");
}

#[tokio::test]
async fn three_proxies_agree_on_every_user() {
    let (v1, v2) = versions();
    let proxies = [(); 3].map(|()| sticky(&v1, &v2).start());
    let first = canary_users(&proxies[0], 500).await;
    // The hash is fixed but for the backends' ports, which make the version.
    assert!((10..=110).contains(&first.len()), "{} of 500 users on the canary", first.len());
    for proxy in &proxies[1..] {
        assert_eq!(canary_users(proxy, 500).await, first);
    }
}

#[tokio::test]
async fn a_rising_weight_only_adds_users_and_zero_takes_them_all_back() {
    let (v1, v2) = versions();
    let mut proxy = sticky(&v1, &v2).start();
    let mut before = canary_users(&proxy, 300).await;
    let mut weights = (90, 10);
    for next in [(75, 25), (50, 50), (1, 99), (0, 100)] {
        let weight = |(stable, canary): (u32, u32)| {
            format!(
                "weight: {stable}\n          - name: sentiment-v2\n            weight: {canary}"
            )
        };
        proxy.rewrite(&weight(weights), &weight(next));
        proxy.reload().await.expect(200);
        weights = next;
        let now = canary_users(&proxy, 300).await;
        assert!(now.is_superset(&before), "at {next:?} some left: {:?}", &before - &now);
        before = now;
    }
    assert_eq!(before.len(), 300);
    proxy.ask("/api/rollouts/sentiment-v2/abort").await.expect(200);
    assert!(canary_users(&proxy, 300).await.is_empty());
}

#[tokio::test]
async fn requests_without_a_key_are_drawn_anew() {
    let (v1, v2) = versions();
    let proxy = sticky(&v1, &v2).start();
    let mut client = proxy.client();
    for _ in 0..300 {
        client.post(PATH, "{}").await.expect(200);
    }
    // All on one side: once in 10^13.
    assert!(v1.requests() > 0 && v2.requests() > 0);
}

#[tokio::test]
async fn endpoints_of_a_backend_share_its_requests_and_busy_ones_get_less() {
    let (one, two) = versions();
    let slow = Backend::named("slow").does(Script::hangs()).start();
    let proxy = Proxy::to(&one, "").replace(
        &one.address.to_string(),
        &format!("{}, {}, {}", one.address, two.address, slow.address),
    );
    // One worker: each counts its own requests in flight.
    let proxy = proxy.with("workers: 1").start();
    let total = || one.requests() + two.requests() + slow.requests();
    let mut hanging = Vec::new();
    while slow.requests() == 0 {
        let count = total();
        hanging.push(proxy.client().begin(Request::get("/").bytes()).await);
        eventually("it is there", async || (total() > count).then_some(())).await;
    }
    let before = slow.requests();
    let mut client = proxy.client();
    let count = one.requests() + two.requests();
    for _ in 0..200 {
        client.get("/").await.expect(200);
    }
    assert_eq!(one.requests() + two.requests(), count + 200);
    assert!(one.requests() > 20 && two.requests() > 20);
    assert_eq!(slow.requests(), before, "of two choices the idle one is taken");
}

#[tokio::test]
async fn an_answer_says_what_served_it_where_the_config_wants_that() {
    let (v1, v2) = versions();
    let proxy = Proxy::with_config("canary.yaml").backends([&v1, &v2]);
    let quiet = proxy.clone().start();
    let answer = quiet.client().post(PATH, "{}").await.expect(200);
    assert_eq!((answer.header("x-serin-backend"), answer.header("x-serin-rollout")), (None, None));
    let telling = proxy.with("response_headers: true").start();
    let mut client = telling.client();
    for _ in 0..100 {
        let answer = client.post(PATH, "{}").await.expect(200);
        let backend = format!("sentiment-{}", answer.text());
        assert_eq!(answer.header("x-serin-backend"), Some(backend));
        assert_eq!(answer.header("x-serin-rollout").as_deref(), Some("sentiment-v2"));
    }
}

#[tokio::test]
async fn each_way_of_balancing_does_what_it_is_named_for() {
    for (balance, slow_share) in [("round_robin", 0.4..0.6), ("peak_ewma", 0.0..0.25)] {
        let fast = Backend::named("fast").start();
        let slow = Backend::named("slow").after(ms(20)).start();
        let both = format!("[{}, {}], balance: {balance}", fast.address, slow.address);
        let proxy = Proxy::to(&fast, "").replace(&format!("[{}]", fast.address), &both);
        let proxy = proxy.with("workers: 1").start();
        let mut client = proxy.client();
        for _ in 0..100 {
            client.get("/").await.expect(200);
        }
        let share = slow.requests() as f64 / 100.0;
        assert!(slow_share.contains(&share), "{balance}: {share}");
    }
}
