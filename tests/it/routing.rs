//! Which version a request goes to, over sockets: `config/ab-test.yaml` as it stands.

use std::collections::HashMap;

use serin_testkit::{Backend, Proxy, Request};

async fn served_by(proxy: &Proxy, request: &Request) -> String {
    let answer = proxy.send(request).await;
    if answer.status == 200 { answer.text() } else { answer.status.to_string() }
}

fn rankers() -> (Backend, Backend) {
    (Backend::named("a").start(), Backend::named("b").start())
}

#[tokio::test]
async fn the_most_specific_match_wins() {
    let (a, b) = rankers();
    let proxy = Proxy::with_config("ab-test.yaml").backends([&a, &b]).start();
    let rank = || Request::get("/rank").host("ranker.example.com");
    for (what, request, wanted) in [
        ("everyone", rank(), "a"),
        ("a beta tester by header", rank().header("x-cohort", "beta"), "b"),
        ("a name's case does not matter", rank().header("X-Cohort", "beta"), "b"),
        ("a value's does", rank().header("x-cohort", "Beta"), "a"),
        ("a beta tester by cookie", rank().header("cookie", "s=1; cohort=beta; x=2"), "b"),
        ("another cookie", rank().header("cookie", "s=1; cohort=alpha"), "a"),
        ("a wildcard host", rank().host("eu.ranker.example.com").header("x-cohort", "beta"), "b"),
        ("a host with a port", rank().host("RANKER.example.com:8080"), "a"),
        ("another host", rank().host("example.com"), "404"),
        ("a longer host", rank().host("ranker.example.com.evil.com"), "404"),
        (
            "a segment below",
            Request::get("/rank/x").host("ranker.example.com").header("x-cohort", "beta"),
            "b",
        ),
        (
            "not a segment",
            Request::get("/ranking").host("ranker.example.com").header("x-cohort", "beta"),
            "a",
        ),
        (
            "resolved first",
            Request::get("/x/../rank").host("ranker.example.com").header("x-cohort", "beta"),
            "b",
        ),
    ] {
        assert_eq!(served_by(&proxy, &request).await, wanted, "{what}");
    }
}

/// What is dropped before an endpoint sees it is no reason for a rule either.
#[tokio::test]
async fn nobody_gets_to_a_rule_by_a_claim_that_does_not_count() {
    let (a, b) = rankers();
    let claims = ["x-forwarded-client-cert", "x-forwarded-for", "forwarded"];
    let rules = claims.map(|name| {
        format!(
            "      - name: by-{name}\n        matches: [{{ headers: [{{ name: {name}, regex: \".\" }}] \
             }}]\n        backends: [{{ name: b }}]\n"
        )
    });
    let config = |trusted: &str| {
        let text = format!(
            "listeners: [{{ name: http, address: 127.0.0.1:8080 }}]\n\
             admin: {{ address: 127.0.0.1:9901 }}\ntrusted_proxies: {trusted}\n\
             backends:\n  - {{ name: a, endpoints: [\"{}\"] }}\n  \
             - {{ name: b, endpoints: [\"{}\"] }}\n\
             routes:\n  - name: r\n    rules:\n{}      - name: all\n        \
             backends: [{{ name: a }}]\n",
            a.address,
            b.address,
            rules.concat()
        );
        Proxy::with_yaml(&text).start()
    };
    for (trusted, counts) in [("[]", [false; 3]), ("[127.0.0.0/8]", [false, true, true])] {
        let proxy = config(trusted);
        for (name, counts) in claims.into_iter().zip(counts) {
            let request = Request::get("/").header(name, "for=9.9.9.9");
            let wanted = if counts { "b" } else { "a" };
            assert_eq!(served_by(&proxy, &request).await, wanted, "{name}, trusting {trusted}");
        }
    }
}

#[tokio::test]
async fn mobile_users_are_split_evenly_and_stay_where_they_are() {
    let (a, b) = rankers();
    let proxy = Proxy::with_config("ab-test.yaml").backends([&a, &b]).start();
    let post = |query: &str, agent: &str, user: &str| {
        Request::post(&format!("/rank{query}"), "{}")
            .host("ranker.example.com")
            .header("user-agent", agent)
            .header("x-user-id", user)
    };
    let mut served = HashMap::new();
    for round in 0..3 {
        for user in 0..100 {
            let user = format!("user-{user}");
            let by = served_by(&proxy, &post("", "Mozilla/5.0 (iPhone; x)", &user)).await;
            let before = served.entry(user.clone()).or_insert_with(|| by.clone());
            assert_eq!(*before, by, "{user} in round {round}");
        }
    }
    // 100 of a half: mean 50, standard deviation 5. The hash is fixed, so this is too.
    let on_b = served.values().filter(|by| *by == "b").count();
    assert!((30..=70).contains(&on_b), "{on_b} of 100 users on b");
    // One of those on b is an everyone if anything does not fit.
    let (user, _) = served.iter().find(|(_, by)| *by == "b").unwrap();
    for (what, request) in [
        ("with debug", post("?debug=1", "android", user)),
        ("with an empty debug", post("?x=1&debug", "android", user)),
        ("at a desk", post("", "curl/8", user)),
        (
            "with another method",
            Request::get("/rank")
                .host("ranker.example.com")
                .header("user-agent", "Android")
                .header("x-user-id", user),
        ),
    ] {
        assert_eq!(served_by(&proxy, &request).await, "a", "{what}");
    }
    assert_eq!(served_by(&proxy, &post("?debugger=1", "ANDROID 15", user)).await, "b");
}
