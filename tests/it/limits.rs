//! No more than a backend can do, and no more than it may be sent: who waits, who is refused,
//! and that nobody is blamed for it.

use serin::clock::Clock;
use serin_testkit::{
    Answer, Backend, Proxy, ProxyBuilder, Request, Script, Streamed, eventually, ms, within,
};

/// One rule, one backend, and `limits` of that.
fn proxy_before(model: &Backend, limits: &str) -> ProxyBuilder {
    let endpoints = format!("endpoints: [{}]", model.address);
    Proxy::to(model, "").replace(&endpoints, &format!("{endpoints}, limits: {{ {limits} }}"))
}

async fn value(proxy: &Proxy, name: &str, labels: &[(&str, &str)]) -> u64 {
    proxy.metrics().await.value(name, labels).round() as u64
}

async fn until_waiting(proxy: &Proxy, count: u64) {
    eventually(&format!("{count} wait"), async || {
        (value(proxy, "serin_requests_waiting", &[]).await == count).then_some(())
    })
    .await;
}

/// Sends a GET and goes on.
fn ask(proxy: &Proxy) -> tokio::task::JoinHandle<Answer> {
    let mut client = proxy.client();
    tokio::spawn(async move { client.get("/").await })
}

async fn answer(call: &mut serin_testkit::Call) {
    let close = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    call.say(close).await;
}

#[tokio::test]
async fn those_over_the_limit_wait_in_order_and_those_over_the_queue_are_refused() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = proxy_before(&model, "in_flight: 1, queue: 1, queue_timeout: 1m").start();
    let first = ask(&proxy);
    let mut call = model.next_call().await;
    let second = ask(&proxy);
    until_waiting(&proxy, 1).await;

    let third = proxy.get("/").await.expect(503);
    assert_eq!(third.header("retry-after").as_deref(), Some("1"));
    assert!(third.text().contains("limits.queue"), "{}", third.text());
    let neutral = [("code", "503"), ("outcome", "neutral")];
    assert_eq!(value(&proxy, "serin_attempts_total", &neutral).await, 1);
    let full = [("reason", "queue_full")];
    assert_eq!(value(&proxy, "serin_requests_limited_total", &full).await, 1);
    assert_eq!(
        (model.requests(), value(&proxy, "serin_requests_in_flight_max", &[]).await),
        (1, 1)
    );

    answer(&mut call).await;
    within("the first", first).await.unwrap().expect(200);
    answer(&mut model.next_call().await).await;
    within("the second", second).await.unwrap().expect(200);
    until_waiting(&proxy, 0).await;
    // The place is free again.
    let fourth = ask(&proxy);
    answer(&mut model.next_call().await).await;
    within("the fourth", fourth).await.unwrap().expect(200);
}

#[tokio::test]
async fn a_stream_holds_its_place_to_its_end_and_who_waits_too_long_is_refused() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = proxy_before(&model, "in_flight: 1, queue_timeout: 200ms").start();
    let mut wire = proxy.client().begin(Request::get("/").bytes()).await;
    let mut call = model.next_call().await;
    call.begin_stream().await;
    call.chunk("data: 1\n\n").await;
    within("a head", wire.head()).await.unwrap();
    let refused = proxy.get("/").await.expect(503);
    assert!(refused.text().contains("queue_timeout"), "{}", refused.text());
    let late = [("reason", "queue_timeout")];
    assert_eq!(value(&proxy, "serin_requests_limited_total", &late).await, 1);
    // A client that leaves gives its place back.
    drop(wire);
    call.closed().await;
    model.now(Script::answers(200));
    proxy.get("/").await.expect(200);
}

#[tokio::test]
async fn whoever_leaves_the_line_makes_room_in_it() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = proxy_before(&model, "in_flight: 1, queue: 1, queue_timeout: 1m").start();
    let first = ask(&proxy);
    let mut call = model.next_call().await;
    let gone = proxy.client().begin(Request::get("/").bytes()).await;
    until_waiting(&proxy, 1).await;
    drop(gone);
    until_waiting(&proxy, 0).await;
    let second = ask(&proxy);
    until_waiting(&proxy, 1).await;
    answer(&mut call).await;
    within("the first", first).await.unwrap().expect(200);
    answer(&mut model.next_call().await).await;
    within("the second", second).await.unwrap().expect(200);
    assert_eq!(model.requests(), 2);
}

#[tokio::test]
async fn a_reload_can_raise_a_limit_for_those_who_wait() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let mut proxy = proxy_before(&model, "in_flight: 1, queue_timeout: 1m").start();
    let asked = [ask(&proxy), ask(&proxy)];
    let mut first = model.next_call().await;
    until_waiting(&proxy, 1).await;
    proxy.rewrite("in_flight: 1", "in_flight: 2");
    proxy.reload().await.expect(200);
    let mut second = model.next_call().await;
    answer(&mut second).await;
    answer(&mut first).await;
    for one in asked {
        within("an answer", one).await.unwrap().expect(200);
    }
}

#[tokio::test]
async fn a_canary_at_its_limit_is_not_blamed_for_it() {
    let v1 = Backend::named("v1").start();
    let v2 = Backend::named("v2").does(Script::by_hand()).start();
    let endpoints = "    endpoints: [127.0.0.1:9002]\n";
    let limits = "    limits: { in_flight: 1, queue: 0 }\n";
    let proxy = Proxy::with_config("canary.yaml")
        .replace(endpoints, &format!("{endpoints}{limits}"))
        .replace("weight: 90", "weight: 0")
        .backends([&v1, &v2])
        .start();
    let path = "/v2/models/sentiment/infer";
    let mut client = proxy.client();
    let held = tokio::spawn(async move { client.get(path).await });
    let mut call = v2.next_call().await;
    for _ in 0..30 {
        proxy.get(path).await.expect(503);
    }
    answer(&mut call).await;
    within("the first", held).await.unwrap().expect(200);
    let view = proxy.rollout("sentiment-v2").view().await;
    assert_ne!(view["state"], "rolled_back");
    assert_eq!(view["objectives"][0]["canary"]["bad"].as_u64().unwrap_or(0), 0);
}

/// The limit that 40 clients lead to who ask again and again, once it is as wanted and the
/// model has seen so many `requests`.
async fn limit_of(model: &Backend, requests: u64, is_wanted: impl Fn(u64) -> bool) -> u64 {
    let proxy = proxy_before(model, "in_flight: auto, queue: 1000, queue_timeout: 1m").start();
    let clients: Vec<_> = (0..40)
        .map(|_| {
            let mut client = proxy.client();
            tokio::spawn(async move {
                loop {
                    client.get("/").await.expect(200);
                }
            })
        })
        .collect();
    let limit = eventually("the limit is found", async || {
        let limit = value(&proxy, "serin_requests_in_flight_max", &[]).await;
        (model.requests() >= requests && is_wanted(limit)).then_some(limit)
    })
    .await;
    for client in clients {
        client.abort();
        assert!(client.await.unwrap_err().is_cancelled(), "a client got another answer");
    }
    limit
}

#[tokio::test]
async fn a_limit_of_its_own_finds_out_what_a_model_can_do() {
    // One at a time, 10 ms each: 40 at once take 400 ms.
    let narrow = Backend::named("narrow").at_once(1).after(ms(10)).start();
    // All at once, 100 ms each.
    let wide = Backend::named("wide").after(ms(100)).start();
    let (few, many) = tokio::join!(
        limit_of(&narrow, 500, |limit| limit <= 8),
        limit_of(&wide, 500, |limit| limit >= 20)
    );
    assert!(few >= 1 && many > few);
    // Without a limit it would be 40.
    assert!(narrow.most_under_way() <= 20, "{}", narrow.most_under_way());
}

#[tokio::test]
async fn a_body_larger_than_the_rule_takes_is_refused_before_and_while_it_comes() {
    let model = Backend::named("model").does(Script::echoes()).start();
    let proxy = Proxy::to(&model, "limits: { max_body: 10kB }").start();
    let mut client = proxy.client();
    let send = |bytes: usize, chunked: bool| {
        let request = Request::post("/", "x".repeat(bytes));
        if chunked { request.chunked() } else { request }
    };
    for chunked in [false, true] {
        client.send(&send(10_000, chunked)).await.expect(200);
        let answer = proxy.send(&send(10_001, chunked)).await;
        assert_eq!(answer.status, 413, "{}", answer.text());
        assert!(answer.text().contains("max_body"), "{}", answer.text());
    }
    assert!(model.seen().iter().filter(|seen| seen.body.len() > 10_000).count() == 0);
    let neutral = [("code", "413"), ("outcome", "neutral")];
    assert_eq!(value(&proxy, "serin_attempts_total", &neutral).await, 2);
}

fn with_places_for_two(model: &Backend) -> Proxy {
    let listener = "address: 127.0.0.1:8080";
    let limited = format!("{listener}, limits: {{ connections: 2 }}");
    Proxy::to(model, "").replace(listener, &limited).start()
}

#[tokio::test]
async fn a_listener_serves_so_many_clients_and_others_wait_for_their_turn() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = with_places_for_two(&model);
    let (one, two) = (ask(&proxy), ask(&proxy));
    let mut calls = [model.next_call().await, model.next_call().await];
    let third = ask(&proxy);
    // The kernel took it in; nobody reads what it asks while both places are busy.
    for _ in 0..20 {
        proxy.metrics().await;
    }
    assert_eq!(model.requests(), 2);
    assert!(!third.is_finished());
    for call in &mut calls {
        answer(call).await;
    }
    within("the first", one).await.unwrap().expect(200);
    within("the second", two).await.unwrap().expect(200);
    answer(&mut model.next_call().await).await;
    within("the third", third).await.unwrap().expect(200);
}

#[tokio::test]
async fn a_client_that_asks_nothing_gives_its_place_to_one_that_does() {
    let model = Backend::named("model").start();
    let proxy = with_places_for_two(&model);
    let mut kept = Vec::new();
    for _ in 0..6 {
        let mut client = proxy.client();
        client.get("/").await.expect(200);
        // It stays connected, on whichever worker it was dealt to.
        kept.push(client);
    }
    assert_eq!(model.requests(), 6);
}

#[tokio::test]
async fn http2_clients_without_a_request_give_their_places_to_others_and_busy_ones_do_not() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = with_places_for_two(&model);
    let url = format!("http://{}/", proxy.address());
    let (mut idle, mut busy) = (proxy.http2().await, proxy.http2().await);
    let (answered, ()) = tokio::join!(idle.exchange(get_of(&url)), async {
        answer(&mut model.next_call().await).await;
    });
    assert_eq!(answered.status(), 200);
    let request = get_of(&url);
    let asking = tokio::spawn(async move { busy.exchange(request).await.status() });
    let mut call = model.next_call().await;
    // Both places are taken, by one that asks nothing and one that waits.
    let third = ask(&proxy);
    answer(&mut model.next_call().await).await;
    within("the third", third).await.unwrap().expect(200);
    assert!(idle.send(get_of(&url)).await.is_err(), "it was told to go");
    answer(&mut call).await;
    assert_eq!(within("the busy one", asking).await.unwrap(), 200);
}

#[tokio::test]
async fn two_idle_http2_clients_leave_room_for_many_others() {
    let model = Backend::named("model").start();
    let proxy = with_places_for_two(&model);
    let url = format!("http://{}/", proxy.address());
    let mut kept = Vec::new();
    for _ in 0..4 {
        let mut client = proxy.http2().await;
        assert_eq!(client.exchange(get_of(&url)).await.status(), 200);
        // It stays connected, until it is told to go.
        kept.push(client);
    }
    assert_eq!(model.requests(), 4);
}

fn get_of(url: &str) -> http::Request<Streamed> {
    http::Request::get(url).body(Streamed::of("")).unwrap()
}

#[tokio::test]
async fn a_time_limit_that_passed_in_line_is_not_held_against_the_endpoint() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = Proxy::to(&model, "timeouts: { request: 2s }")
        .replace(
            &format!("endpoints: [{}]", model.address),
            &format!(
                "endpoints: [{}], limits: {{ in_flight: 1, queue_timeout: 1m }}",
                model.address
            ),
        )
        .start();
    let first = ask(&proxy);
    let mut call = model.next_call().await;
    let second = ask(&proxy);
    until_waiting(&proxy, 1).await;
    let clock = Clock::start();
    eventually("most of its time is over", async || {
        (clock.now().since_start() > ms(1200)).then_some(())
    })
    .await;
    answer(&mut call).await;
    within("the first", first).await.unwrap().expect(200);
    let _hangs = model.next_call().await;
    let late = within("the second", second).await.unwrap().expect(504);
    assert!(late.text().contains("timeouts.request"), "{}", late.text());
    // Without a line all of the time was the endpoint's.
    let third = ask(&proxy);
    let _hangs_too = model.next_call().await;
    within("the third", third).await.unwrap().expect(504);
    for outcome in ["bad", "neutral"] {
        let labels = [("code", "504"), ("outcome", outcome)];
        assert_eq!(value(&proxy, "serin_attempts_total", &labels).await, 1, "{outcome}");
    }
}

#[tokio::test]
async fn who_leaves_the_line_with_a_body_in_hand_leaves_it_at_once() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = proxy_before(&model, "in_flight: 1, queue: 2, queue_timeout: 1m").start();
    let first = ask(&proxy);
    let mut call = model.next_call().await;
    let second = proxy.client().begin(Request::post("/", "a body that nobody reads").bytes()).await;
    until_waiting(&proxy, 1).await;
    drop(second);
    until_waiting(&proxy, 0).await;
    answer(&mut call).await;
    within("the first", first).await.unwrap().expect(200);
    assert_eq!(model.requests(), 1);
}

#[tokio::test]
async fn a_time_limit_that_passes_in_line_is_told_as_what_it_is() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let proxy = proxy_before(&model, "in_flight: 1, queue_timeout: 1m").start();
    let _first = ask(&proxy);
    let _hangs = model.next_call().await;
    let call = Request::post("/s/m", "")
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "300m");
    let late = proxy.send(&call).await.expect(200);
    // DEADLINE_EXCEEDED; UNAVAILABLE would be asked for again.
    assert_eq!(late.header("grpc-status").as_deref(), Some("4"));
    let message = late.header("grpc-message").unwrap_or_default();
    assert!(message.contains("in line"), "{message}");
    assert_eq!((late.header("retry-after"), model.requests()), (None, 1));
    let labels = [("code", "504"), ("outcome", "neutral")];
    assert_eq!(value(&proxy, "serin_attempts_total", &labels).await, 1);
}

/// Who stands in line when a version is taken out never reaches it.
#[tokio::test]
async fn the_line_of_a_canary_that_is_taken_out_goes_to_stable() {
    let v1 = Backend::named("v1").start();
    let v2 = Backend::named("v2").does(Script::by_hand()).start();
    let endpoints = "    endpoints: [127.0.0.1:9002]\n";
    let limits = "    limits: { in_flight: 1, queue: 5, queue_timeout: 1m }\n";
    let proxy = Proxy::with_config("canary.yaml")
        .replace(endpoints, &format!("{endpoints}{limits}"))
        .replace("weight: 90", "weight: 0")
        .backends([&v1, &v2])
        .start();
    let path = "/v2/models/sentiment/infer";
    let post = || {
        let (mut client, post) = (proxy.client(), Request::post(path, "a question"));
        tokio::spawn(async move { client.send(&post).await })
    };
    let held = post();
    let mut call = v2.next_call().await;
    let waiting = [post(), post()];
    until_waiting(&proxy, 2).await;
    proxy.rollout("sentiment-v2").ask("abort").await.expect(200);
    eventually("its weight is 0", async || {
        (value(&proxy, "serin_rollout_weight", &[]).await == 0).then_some(())
    })
    .await;
    answer(&mut call).await;
    within("the one it had", held).await.unwrap().expect(200);
    for one in waiting {
        assert_eq!(within("one in line", one).await.unwrap().expect(200).text(), "v1");
    }
    assert_eq!((v2.requests(), v1.requests()), (1, 2));
    assert_eq!(v1.last().body, b"a question");
}

/// An endpoint that is gone by the time a place is free is not asked.
#[tokio::test]
async fn the_line_goes_to_the_endpoints_of_now() {
    let (old, new) = (Backend::named("old").does(Script::by_hand()), Backend::named("new"));
    let (old, new) = (old.start(), new.start());
    let mut proxy = proxy_before(&old, "in_flight: 1, queue: 5, queue_timeout: 1m").start();
    let held = ask(&proxy);
    let mut call = old.next_call().await;
    let waiting = ask(&proxy);
    until_waiting(&proxy, 1).await;
    proxy.rewrite(&old.address.to_string(), &new.address.to_string());
    proxy.reload().await.expect(200);
    answer(&mut call).await;
    within("the one it had", held).await.unwrap().expect(200);
    assert_eq!(within("the one in line", waiting).await.unwrap().expect(200).text(), "new");
    assert_eq!(old.requests(), 1);
}
