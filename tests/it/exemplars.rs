//! From a number in the metrics to the trace of a request that stands for it.

use serin_testkit::{Answer, Backend, Client, Proxy, Request, eventually};

const PATH: &str = "/v2/models/sentiment/infer";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

async fn scrape(proxy: &Proxy, accept: &str) -> Answer {
    let request = Request::get("/metrics").host("localhost").header("accept", accept);
    Client::of(proxy.admin_address()).send(&request).await.expect(200)
}

/// Lines with an exemplar of `trace`, each up to its labels' end.
fn of_trace(text: &str, trace: &str) -> Vec<String> {
    let mark = format!(" # {{trace_id=\"{trace}\",span_id=\"");
    let lines = text.lines().filter(|line| line.contains(&mark));
    lines.map(|line| line.split("} ").next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_failing_version_leads_to_the_trace_of_a_request_that_it_failed() {
    let v1 = Backend::named("v1").start();
    let v2 = Backend::named("v2").answers(500).start();
    let collector = Backend::named("collector").start();
    let rule = "          - name: sentiment-v2\n            weight: 10\n";
    let tracing = format!("tracing: {{ otlp: 'http://{}', sample: 0% }}", collector.address);
    let proxy = Proxy::with_config("canary.yaml")
        .backends([&v1, &v2])
        .replace(rule, &format!("{rule}        failover: true\n"))
        .replace("weight: 90", "weight: 1")
        .replace("weight: 10", "weight: 1000")
        .with(&tracing)
        .start();
    let mut client = proxy.client();
    let mut number = 0;
    let id = |number: u32| format!("0af7651916cd43dd8448eb21{number:08x}");
    while v2.requests() == 0 {
        number += 1;
        let parent = format!("00-{}-b7ad6b7169203331-00", id(number));
        let request = Request::post(PATH, "x").header("traceparent", &parent);
        client.send(&request).await.expect(200);
    }
    let found = eventually("exemplars", async || {
        let answer = scrape(&proxy, "application/openmetrics-text;version=1.0.0").await;
        assert_eq!(answer.header("content-type").as_deref(), Some(OPENMETRICS));
        assert!(answer.text().ends_with("# EOF\n"));
        let found = of_trace(&answer.text(), &id(number));
        (!found.is_empty()).then_some(found)
    })
    .await;
    let has = |parts: &[&str]| {
        assert!(found.iter().any(|line| parts.iter().all(|part| line.contains(part))), "{found:?}");
    };
    // What the canary failed, and what stable answered for it.
    has(&["serin_attempts_total", "sentiment-v2", "code=\"500\",outcome=\"bad\""]);
    has(&["serin_first_byte_seconds_bucket", "sentiment-v1"]);
    has(&["serin_request_duration_seconds_bucket", "sentiment-v1"]);
    assert_eq!(found.len(), 3, "{found:?}");
    // Who does not ask for it gets what it always got.
    let plain = scrape(&proxy, "text/plain").await;
    assert_eq!(
        plain.header("content-type").as_deref(),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    assert!(!plain.text().contains("trace_id") && !plain.text().contains("# EOF"));
}

#[tokio::test]
async fn a_request_without_spans_stands_for_nothing() {
    let model = Backend::named("model").start();
    let collector = Backend::named("collector").start();
    let tracing = format!("tracing: {{ otlp: 'http://{}', sample: 0% }}", collector.address);
    let proxy = Proxy::to(&model, "").with(&tracing).start();
    let sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let unsampled = "00-0af7651916cd43dd8448eb211c80319d-b7ad6b7169203331-00";
    for parent in [unsampled, sampled] {
        let request = Request::get("/").header("traceparent", parent);
        proxy.client().send(&request).await.expect(200);
    }
    let text = eventually("the sampled one", async || {
        let text = scrape(&proxy, "application/openmetrics-text").await.text();
        (of_trace(&text, &sampled[3..35]).len() == 2).then_some(text)
    })
    .await;
    assert_eq!(of_trace(&text, &unsampled[3..35]), [""; 0]);
}
