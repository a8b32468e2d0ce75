//! The access log: what stands in it, and what never does.

use serde_json::Value;
use serin_testkit::{
    Backend, Client, Http2, Program, Proxy, ProxyBuilder, Request, Streamed, arg, eventually,
};

fn lines(path: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // A line that is being written has no end yet.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn logging(proxy: ProxyBuilder, file: &std::path::Path, more: &str) -> ProxyBuilder {
    proxy.with(&format!("access_log:\n  file: {}\n{more}", file.display()))
}

#[tokio::test]
async fn a_request_is_a_line_with_what_was_asked_for_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let model = Backend::named("model").start();
    let proxy = logging(Proxy::to(&model, ""), &file, "  headers: [x-tenant]").start();
    let mut client = proxy.client();
    let request = Request::post("/a/b?key=hush", "hello")
        .header("x-tenant", "t-1")
        .header("authorization", "Bearer hush")
        .header("x-request-id", "id-1");
    client.send(&request).await.expect(200);
    eventually("a line", async || (lines(&file).len() == 1).then_some(())).await;
    let line = &lines(&file)[0];
    for (key, value) in [
        ("method", "POST"),
        ("path", "/a/b"),
        ("protocol", "HTTP/1.1"),
        ("client", "127.0.0.1"),
        ("outcome", "good"),
        ("route", "all"),
        ("rule", "main"),
        ("backend", "model"),
        ("request_id", "id-1"),
    ] {
        assert_eq!(line[key], value, "{key} of {line}");
    }
    assert_eq!(line["endpoint"], model.address.to_string());
    assert_eq!((&line["status"], &line["attempts"]), (&200.into(), &1.into()));
    assert_eq!((&line["received"], &line["sent"]), (&5.into(), &5.into()));
    assert_eq!(line["headers"], serde_json::json!({ "x-tenant": "t-1" }));
    assert!(line["duration_ms"].as_f64() >= line["first_byte_ms"].as_f64());
    assert_eq!(line["trace_id"].as_str().unwrap().len(), 32);
    assert!(!line.to_string().contains("hush"), "{line}");
}

#[tokio::test]
async fn what_ends_badly_has_a_line_whatever_the_share_and_no_rule_is_told_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let model = Backend::named("model").answers(503).start();
    let proxy = logging(Proxy::to(&model, "matches: [{ path: /a }]"), &file, "  sample: 0%");
    let mut proxy = proxy.start();
    let mut client = proxy.client();
    client.get("/b").await.expect(404);
    client.get("/a").await.expect(503);
    eventually("a line", async || (lines(&file).len() == 1).then_some(())).await;
    assert_eq!(
        (&lines(&file)[0]["path"], &lines(&file)[0]["outcome"]),
        (&"/a".into(), &"bad".into())
    );
    proxy.rewrite("sample: 0%", "sample: 100%");
    proxy.reload().await;
    client.get("/b").await.expect(404);
    eventually("another", async || (lines(&file).len() == 2).then_some(())).await;
    let line = &lines(&file)[1];
    assert_eq!((&line["status"], &line["reason"]), (&404.into(), &"no_route".into()));
    assert_eq!(line["attempts"], 0);
}

#[tokio::test]
async fn what_is_no_request_has_a_line_too_and_tells_nothing_of_what_came() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let model = Backend::named("model").start();
    let proxy = logging(Proxy::to(&model, ""), &file, "").start();
    let mut wire = proxy.client().begin("GET /hush HTTP/1.1\r\nhost: a\r\nx:\0hush\r\n\r\n").await;
    assert_eq!(wire.head().await.unwrap().status(), 400);
    // Two workers may write in either order.
    eventually("a line", async || (lines(&file).len() == 1).then_some(())).await;
    let mut http2 = Http2::connect(proxy.address()).await;
    let request = http::Request::get("http://a/b").header("host", "other");
    let answer = http2.exchange(request.body(Streamed::of("")).unwrap()).await;
    assert_eq!(answer.status(), 400);
    eventually("two lines", async || (lines(&file).len() == 2).then_some(())).await;
    for (line, protocol) in lines(&file).iter().zip(["HTTP/1.1", "HTTP/2"]) {
        assert_eq!((&line["status"], &line["protocol"]), (&400.into(), &protocol.into()), "{line}");
        assert_eq!((&line["outcome"], &line["reason"]), (&"neutral".into(), &"refused".into()));
        assert_eq!((&line["client"], &line["attempts"]), (&"127.0.0.1".into(), &0.into()));
        assert!(line["method"].is_null() && line["path"].is_null(), "{line}");
        assert!(!line.to_string().contains("hush"), "{line}");
    }
    let written =
        proxy.metrics().await.value("serin_access_log_lines_total", &[("result", "written")]);
    assert!((written - 2.0).abs() < 0.1, "{written}");
}

#[tokio::test]
async fn a_line_of_text_has_the_same_names() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let model = Backend::named("model").start();
    let more = "  format: text\n  headers: [user-agent]";
    let proxy = logging(Proxy::to(&model, ""), &file, more).start();
    let request = Request::get("/a?key=hush").header("user-agent", "curl \"8\"");
    proxy.client().send(&request).await.expect(200);
    let line = eventually("a line", async || {
        let text = std::fs::read_to_string(&file).ok()?;
        text.strip_suffix('\n').map(ToOwned::to_owned)
    })
    .await;
    for pair in [
        "method=GET",
        "path=/a",
        "status=200",
        "backend=model",
        "headers.user-agent=\"curl \\\"8\\\"\"",
    ] {
        assert!(line.contains(&format!(" {pair}")), "{pair} in {line}");
    }
    assert!(line.starts_with("time=20") && !line.contains("hush") && !line.contains("null"));
}

#[tokio::test]
async fn a_line_has_the_members_that_are_asked_for_and_headers_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let model = Backend::named("model").start();
    let more = "  fields: [status, method, trace_id]\n  headers: [x-tenant]";
    let proxy = logging(Proxy::to(&model, ""), &file, more).start();
    let request = Request::get("/a").header("x-tenant", "t-1");
    proxy.client().send(&request).await.expect(200);
    eventually("a line", async || (lines(&file).len() == 1).then_some(())).await;
    let line = &lines(&file)[0];
    let trace = &line["trace_id"];
    let headers = serde_json::json!({ "x-tenant": "t-1" });
    let whole = serde_json::json!({
        "method": "GET", "status": 200, "trace_id": trace, "headers": headers,
    });
    assert_eq!(line, &whole);
}

#[tokio::test]
async fn a_stdout_that_nobody_reads_stops_neither_requests_nor_the_end() {
    let model = Backend::named("model").start();
    let file = Proxy::to(&model, "").with("access_log: {}").config_file();
    let program = Program::start(env!("CARGO_BIN_EXE_serin"), &["run", "-c", arg(file.path())]);
    let address = program.address("listening").await;
    program.read_no_more();
    let mut client = Client::of(address);
    // A line is longer than a hundred bytes, and a pipe takes 64 KiB.
    for _ in 0..2000 {
        client.get("/").await.expect(200);
    }
    program.signal("TERM");
    program.ended().await.expect(0);
}

#[tokio::test]
async fn a_file_that_was_put_aside_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (file, aside) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let model = Backend::named("model").start();
    let proxy = logging(Proxy::to(&model, ""), &file, "").start();
    let mut client = proxy.client();
    client.get("/").await.expect(200);
    eventually("a line", async || (lines(&file).len() == 1).then_some(())).await;
    std::fs::rename(&file, &aside).unwrap();
    let mut sent = 1;
    eventually("another file", async || {
        client.get("/").await.expect(200);
        sent += 1;
        (!lines(&file).is_empty()).then_some(())
    })
    .await;
    eventually("all lines", async || {
        (lines(&file).len() + lines(&aside).len() == sent).then_some(())
    })
    .await;
}
