use super::*;

use axum::body::Body;
use axum::http::HeaderMap;
use hyper::service::Service;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::clock::Clock;
use crate::config::defect::{Code, Defect, Place};
use crate::config::load::{Options, Source};
use crate::control::feedback::Heard;
use crate::control::fleet::own_source;
use crate::rollout::verdict::Verdict;
use crate::telemetry::metrics::Gauges;

fn view(state: &str) -> RolloutView {
    RolloutView {
        name: "sentiment-v2".to_owned(),
        rule: "sentiment/main".to_owned(),
        stable: "sentiment-v1".to_owned(),
        canary: "sentiment-v2".to_owned(),
        version: "1".to_owned(),
        state: state.to_owned(),
        step: None,
        steps: Vec::new(),
        weight: 0.1,
        reason: None,
        since: "2026-11-21T10:00:00Z".to_owned(),
        verdict: Verdict::Hold,
        hold_reason: None,
        objectives: Vec::new(),
        body_ms: None,
        versions: Vec::new(),
        fleet: None,
        said: None,
    }
}

fn defect() -> Defect {
    Defect {
        code: Code::UnknownKey,
        place: Place { line: 3, column: 7, len: 4 },
        path: "routes".to_owned(),
        message: "unknown key `rotues`".to_owned(),
        help: "did you mean `routes`?".to_owned(),
    }
}

/// What the controller says; it is gone for `None`.
#[derive(Clone)]
struct Answers {
    verb: Option<Result<RolloutView, NotDone>>,
    reload: ReloadResult,
}

impl Default for Answers {
    fn default() -> Self {
        Self { verb: Some(Ok(view("aborted"))), reload: ReloadResult::Reloaded }
    }
}

/// An admin port in memory.
struct Port {
    state: AdminState,
    _status: watch::Sender<Arc<Status>>,
}

impl Port {
    fn new(answers: Answers) -> Self {
        let file = include_str!("../../../config/canary.yaml");
        let loaded = Source::of("canary.yaml", file).unwrap().load(Options::RUN).unwrap();
        let (tell, status) = watch::channel(Arc::new(Status {
            config: Arc::new(loaded.config),
            origin: "canary.yaml".to_owned(),
            hash: loaded.hash,
            generation: 1,
            loaded_at: "2026-11-21T10:00:00Z".to_owned(),
            last_error: vec![defect()],
            rollouts: vec![view("progressing")],
            told: Arc::default(),
            gauges: Gauges::default(),
        }));
        let (commands, mut asked) = mpsc::channel(4);
        tokio::spawn(async move {
            while let Some(command) = asked.recv().await {
                match command {
                    Command::Reload(reply) => reply.send(answers.reload.clone()).unwrap(),
                    Command::LookAgain => {}
                    Command::Operate { reply, .. } => match answers.verb.clone() {
                        Some(answer) => reply.send(answer).unwrap(),
                        None => break,
                    },
                    Command::Hear { said, reply } => {
                        reply.send(vec![Heard::Counted; said.len()]).unwrap();
                    }
                }
            }
        });
        let readiness = Arc::default();
        let feed = Feed::new(status.clone(), Arc::clone(&readiness), Clock::start());
        let state = AdminState {
            commands,
            status,
            feed,
            registry: Arc::new(Registry::new(1)),
            tokens: Vec::new(),
            published: Arc::new(Published::new(own_source())),
            readiness,
            quit: CancellationToken::new(),
        };
        Self { state, _status: tell }
    }

    /// Status and body. `request` is a method and a path, then `name: value` lines, then
    /// perhaps an empty line and a body.
    async fn ask(&self, request: &str) -> (u16, String) {
        let (status, _, body) = answer(admin_router(self.state.clone()), request).await;
        (status, body)
    }
}

async fn answer(router: Router, request: &str) -> (u16, HeaderMap, String) {
    let (head, body) = request.split_once("\n\n").unwrap_or((request, ""));
    let mut lines = head.lines();
    let (method, path) = lines.next().unwrap().split_once(' ').unwrap();
    let mut built = Request::builder().method(method).uri(path);
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        built = built.header(name, value);
    }
    let request = built.body(Body::from(body.to_owned())).unwrap();
    let response = TowerToHyperService::new(router).call(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    (parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).unwrap())
}

const JSON: &str = "\ncontent-type: application/json";

#[tokio::test]
async fn every_path_answers_its_own_method_only() {
    let port = Port::new(Answers::default());
    port.state.readiness.set_listening();
    for (request, status) in [
        ("GET /livez", 200),
        ("GET /readyz", 200),
        ("HEAD /readyz", 200),
        ("GET /", 200),
        ("GET /metrics", 200),
        ("GET /config_dump", 200),
        ("GET /api/rollouts", 200),
        ("GET /api/rollouts/sentiment-v2", 200),
        ("GET /page/page.js", 200),
        ("GET /page/style.css", 200),
        ("HEAD /api/events", 200),
        ("GET /api/config", 200),
        ("GET /api/routes", 200),
        ("GET /api/backends", 200),
        ("GET /api/journal?rollout=sentiment-v2&limit=200", 200),
        ("GET /api/journal?limit=201", 400),
        ("GET /api/journal?limit=0", 400),
        ("GET /api/journal?limit=many", 400),
        ("GET /api/history?rollout=sentiment-v2", 404),
        ("GET /page/other.js", 404),
        ("POST /api/events", 405),
        ("GET /api/rollouts/other", 404),
        ("GET /api/rollouts/%ff", 404),
        ("GET /api/rollouts/", 404),
        ("GET /nothing", 404),
        ("POST /nothing", 404),
        ("GET /reload", 405),
        ("GET /api/rollouts/sentiment-v2/abort", 405),
        ("DELETE /api/rollouts/sentiment-v2", 405),
        ("POST /metrics", 405),
    ] {
        let (_, headers, body) = answer(admin_router(port.state.clone()), request).await;
        let (found, _) = port.ask(request).await;
        assert_eq!(found, status, "{request}: {body}");
        assert_eq!(headers["server"], "serin");
        assert_eq!(headers["cache-control"], "no-store");
        assert!(headers["content-security-policy"].to_str().unwrap().contains("'none'"));
        if status != 200 {
            assert_eq!(headers["content-type"], "application/problem+json", "{request}");
            let problem: Problem = serde_json::from_str(&body).unwrap();
            assert_eq!((problem.status, &*problem.kind), (status, "about:blank"));
        }
    }
}

#[tokio::test]
async fn a_verb_answers_with_the_new_state_or_the_reason() {
    let refused = NotDone::Refused("it has rolled back already".to_owned());
    let failed = NotDone::Failed("the disk is full".to_owned());
    for (verb, answer, status, text) in [
        ("abort", Some(Ok(view("aborted"))), 200, r#""state":"aborted""#),
        ("reset", Some(Ok(view("progressing"))), 200, r#""state":"progressing""#),
        ("abort", Some(Err(refused)), 409, "it has rolled back already"),
        ("abort", Some(Err(failed)), 500, "the disk is full"),
        ("abort", Some(Err(NotDone::Unknown)), 404, "no rollout"),
        ("abort", None, 503, "shutting down"),
        ("promote", Some(Ok(view("progressing"))), 200, r#""state":"progressing""#),
        ("promote?full=true", Some(Ok(view("promoted"))), 200, r#""state":"promoted""#),
        ("pause", Some(Ok(view("paused"))), 200, r#""state":"paused""#),
        ("resume", Some(Ok(view("progressing"))), 200, r#""state":"progressing""#),
        ("destroy", None, 404, "nothing at this path"),
    ] {
        let port = Port::new(Answers { verb: answer, ..Answers::default() });
        let path = format!("POST /api/rollouts/sentiment-v2/{verb}{JSON}");
        let (found, body) = port.ask(&path).await;
        assert_eq!(found, status, "{verb}: {body}");
        assert!(body.contains(text), "{verb}: {body}");
    }
    let port = Port::new(Answers::default());
    for verb in ["abort", "promote"] {
        let (status, body) = port.ask(&format!("POST /api/rollouts/other/{verb}{JSON}")).await;
        assert_eq!(status, 404);
        assert!(body.contains("there is: sentiment-v2"), "{body}");
    }
}

#[tokio::test]
async fn a_reload_says_what_came_of_it() {
    for (result, status, text) in [
        (ReloadResult::Reloaded, 200, r#"{"result":"reloaded"}"#),
        (ReloadResult::Unchanged, 200, r#"{"result":"unchanged"}"#),
        (
            ReloadResult::Refused(vec![defect()]),
            422,
            r#""defects":[{"file":"canary.yaml","line":3,"column":7,"code":"SRN0101""#,
        ),
    ] {
        let port = Port::new(Answers { reload: result, ..Answers::default() });
        let (found, body) = port.ask(&format!("POST /reload{JSON}\n\n{{}}")).await;
        assert_eq!(found, status);
        assert!(body.contains(text), "{body}");
    }
}

#[tokio::test]
async fn quitting_fails_readiness_and_tells_whoever_waits() {
    let port = Port::new(Answers::default());
    assert!(port.ask("GET /readyz").await.1.contains("starting"));
    port.state.readiness.set_listening();
    assert_eq!(port.ask("GET /readyz").await.0, 200);
    assert_eq!(port.ask(&format!("POST /quitquitquit{JSON}")).await.0, 200);
    assert!(port.state.quit.is_cancelled());
    let (status, body) = port.ask("GET /readyz").await;
    assert_eq!((status, body.contains("draining")), (503, true));
    assert_eq!(port.ask("GET /livez").await.0, 200);
}

#[tokio::test]
async fn a_page_of_another_origin_changes_nothing() {
    let port = Port::new(Answers::default());
    let large = "x".repeat(BODY_BYTES_MAX + 1);
    for (rest, status) in [
        ("", 415),
        ("\ncontent-type: text/plain", 415),
        ("\ncontent-type: application/x-www-form-urlencoded", 415),
        ("\ncontent-type: application/jsonp", 415),
        (JSON, 200),
        ("\ncontent-type: Application/JSON; charset=utf-8", 200),
        (&format!("{JSON}\n\nnot json"), 400),
        (&format!("{JSON}\n\n{large}"), 413),
    ] {
        let (found, body) = port.ask(&format!("POST /reload{rest}")).await;
        assert_eq!(found, status, "{body}");
    }
}

#[tokio::test]
async fn a_name_that_points_at_loopback_is_not_answered() {
    let port = Port::new(Answers::default());
    for (request, status) in [
        ("GET /config_dump\nhost: localhost", 200),
        ("GET /config_dump\nhost: LOCALHOST:9901", 200),
        ("GET /config_dump\nhost: 127.0.0.1:1234", 200),
        ("GET /config_dump\nhost: [::1]:9901", 200),
        ("GET /config_dump\nhost: evil.example", 403),
        ("GET /config_dump\nhost: evil.example:9901", 403),
        ("GET /config_dump\nhost: 127.0.0.1.evil.example", 403),
        ("GET /config_dump\nhost: user@evil.example", 403),
        ("GET /config_dump\nhost: 10.0.0.7:9901", 403),
        ("GET /config_dump\nhost: ", 403),
        ("GET /config_dump\nhost: localhost\nhost: evil.example", 403),
        ("GET http://evil.example/config_dump\nhost: localhost", 403),
        // A probe learns nothing that matters.
        ("GET /livez\nhost: 10.0.0.7:9901", 200),
    ] {
        assert_eq!(port.ask(request).await.0, status, "{request}");
    }
}

#[tokio::test]
async fn with_a_token_every_call_but_the_probes_must_bring_it() {
    let mut port = Port::new(Answers::default());
    port.state.tokens = vec![Token { name: "admin".to_owned(), secret: "s3cret".to_owned() }];
    for (request, status) in [
        ("GET /livez", 200),
        ("GET /readyz", 503),
        ("GET /metrics", 401),
        ("GET /nothing", 401),
        ("GET /api/events", 401),
        ("GET /api/journal", 401),
        ("GET /page/other.js", 401),
        // They hold nothing secret: the page asks for the token.
        ("GET /", 200),
        ("GET /page/page.js", 200),
        ("GET /api/events?samples=false\nauthorization: Bearer wrong", 401),
        ("GET /metrics\nauthorization: Bearer s3cret", 200),
        ("GET /metrics\nauthorization: bearer s3cret\nhost: serin.example", 200),
        ("GET /metrics\nauthorization: Bearer s3crets", 401),
        ("GET /metrics\nauthorization: Bearer s3cre", 401),
        ("GET /metrics\nauthorization: Bearer S3cret", 401),
        ("GET /metrics\nauthorization: Basic s3cret", 401),
        ("GET /metrics\nauthorization: s3cret", 401),
        ("GET /metrics\nauthorization: Bearer ", 401),
    ] {
        let (_, headers, _) = answer(admin_router(port.state.clone()), request).await;
        assert_eq!(port.ask(request).await.0, status, "{request}");
        assert_eq!(headers.contains_key("www-authenticate"), status == 401);
    }
}

#[tokio::test]
async fn the_metrics_port_is_read_only_and_open() {
    let mut port = Port::new(Answers::default());
    port.state.tokens = vec![Token { name: "admin".to_owned(), secret: "s3cret".to_owned() }];
    port.state.readiness.set_listening();
    for (request, status) in [
        ("GET /metrics\nhost: 10.0.0.7:9902", 200),
        ("GET /livez", 200),
        ("GET /readyz", 200),
        ("GET /", 404),
        ("GET /config_dump", 404),
        ("GET /api/rollouts", 404),
        ("POST /reload\ncontent-type: application/json", 404),
        ("POST /quitquitquit\ncontent-type: application/json", 404),
        ("POST /metrics\ncontent-type: application/json", 405),
    ] {
        let (found, _, _) = answer(metrics_router(port.state.clone()), request).await;
        assert_eq!(found, status, "{request}");
    }
}

#[tokio::test]
async fn the_dump_tells_what_is_in_force_and_why_the_last_reload_failed() {
    let port = Port::new(Answers::default());
    let (_, body) = port.ask("GET /config_dump").await;
    let dump: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&dump["generation"], &dump["origin"]), (&json!(1), &json!("canary.yaml")));
    assert_eq!(dump["last_error"][0]["line"], 3);
    assert_eq!(dump["config"]["rollouts"][0]["name"], "sentiment-v2");
    assert!(dump["hash"].as_str().is_some_and(|hash| !hash.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_ends_its_head_loses_its_place() {
    let port = Port::new(Answers::default());
    let (mut client, stream) = tokio::io::duplex(1024);
    let served = serve_connection(stream, admin_router(port.state.clone()), port.state.quit);
    let served = tokio::spawn(served);
    client.write_all(b"GET /livez HT").await.unwrap();
    timeout(HEAD_TIME_MAX * 2, served).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_loses_its_place() {
    let port = Port::new(Answers::default());
    // Room for no answer.
    let (mut client, stream) = tokio::io::duplex(8);
    let served = serve_connection(stream, admin_router(port.state.clone()), port.state.quit);
    let served = tokio::spawn(served);
    client.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    timeout(CONNECTION_TIME_MAX * 2, served).await.unwrap().unwrap();
}

/// Reads events for longer than a connection may take else.
#[tokio::test(start_paused = true)]
async fn who_reads_events_keeps_the_place_and_who_does_not_loses_it() {
    for reads in [true, false] {
        let port = Port::new(Answers::default());
        let (mut client, stream) = tokio::io::duplex(512);
        let running = Arc::clone(&port.state.feed).run(port.state.quit.clone());
        tokio::spawn(running);
        let served =
            serve_connection(stream, admin_router(port.state.clone()), port.state.quit.clone());
        let mut served = tokio::spawn(served);
        client.write_all(b"GET /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let reading = async {
            let mut piece = [0; 512];
            while reads && client.read(&mut piece).await.unwrap() > 0 {}
            std::future::pending::<()>().await;
        };
        let outlives = tokio::select! {
            ended = &mut served => ended.is_err(),
            () = reading => unreachable!("it does not end"),
            () = sleep(CONNECTION_TIME_MAX * 4) => true,
        };
        assert_eq!(outlives, reads);
    }
}

#[tokio::test]
async fn a_port_serves_until_it_is_told_to_stop() {
    let port = Port::new(Answers::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let served = tokio::spawn(serve(listener, admin_router(port.state.clone()), stop.clone()));
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    idle.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    stop.cancel();
    timeout(Duration::from_secs(5), served).await.unwrap().unwrap();
}
