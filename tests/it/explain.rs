//! What `serin explain` says is what the proxy does; and the commands beside it.

use serde_json::Value;
use serin_testkit::{Backend, Output, Program, Proxy, Request, Script, arg};

const SERIN: &str = env!("CARGO_BIN_EXE_serin");

/// Rules that differ in everything that a match may ask, one of them under a rollout.
const RULES: &str = "
listeners: [{ name: http, address: '127.0.0.1:8080' }]
admin: { address: '127.0.0.1:9901' }
response_headers: true
backends:
  - { name: v1, endpoints: ['127.0.0.1:9001'] }
  - { name: v2, endpoints: ['127.0.0.1:9002'] }
  - { name: beta, endpoints: ['127.0.0.1:9003'] }
routes:
  - name: models
    hostnames: [models.example.com, '*.models.example.com']
    rules:
      - name: beta
        matches:
          - { path: /v2, headers: [{ name: x-cohort, value: beta }] }
          - { path: /v2, cookies: [{ name: cohort, value: beta }] }
        backends: [{ name: beta }]
      - name: main
        matches: [{ path: /v2 }]
        backends: [{ name: v1, weight: 90 }, { name: v2, weight: 10 }]
        sticky: { header: x-user }
        mirrors: [{ backend: beta, methods: [GET], percent: 10 }]
        retry: { attempts: 2, on: [connect, 503] }
        failover: true
        timeouts: { request: 30s }
  - name: chat
    rules:
      - name: chat
        matches: [{ path: /v1/chat, model: chat }]
        backends: [{ name: v1 }]
rollouts:
  - name: v2
    rule: models/main
    stable: v1
    canary: v2
    version: '7'
    objectives: [{ errors: 1% }]
    steps: [{ weight: 30%, for: 10m }, { weight: 100% }]
";

struct World {
    proxy: Proxy,
    _backends: [Backend; 3],
}

fn world() -> World {
    world_of(RULES)
}

fn world_of(rules: &str) -> World {
    let backends = ["v1", "v2", "beta"].map(|name| Backend::named(name).start());
    let [v1, v2, beta] = &backends;
    let proxy = Proxy::with_yaml(rules).backends([v1, v2, beta]).start();
    World { proxy, _backends: backends }
}

impl World {
    async fn explain(&self, args: &[&str]) -> Output {
        let file = self.proxy.config().path().to_owned();
        Program::output(SERIN, &[&["explain", "-c", arg(&file)], args].concat()).await
    }

    async fn json(&self, args: &[&str], code: i32) -> Value {
        let output = self.explain(&[&["-o", "json"], args].concat()).await.expect(code);
        serde_json::from_str(&output.stdout).unwrap()
    }
}

#[tokio::test]
async fn the_rule_and_the_version_are_those_that_the_proxy_takes() {
    let world = world();
    for user in 0..30 {
        let (user, host) = (format!("user-{user}"), "models.example.com");
        let field = format!("x-user: {user}");
        let told = world.json(&["-H", &field, "http://models.example.com/v2/a"], 0).await;
        let request = Request::get("/v2/a").host(host).header("x-user", &user);
        let served = world.proxy.send(&request).await.expect(200);
        assert_eq!(told["rule"], "models/main");
        assert_eq!(told["outcome"]["backend"], served.header("x-serin-backend").unwrap(), "{user}");
        let split = &told["outcome"]["split"];
        assert_eq!((&split[0]["backend"], &split[0]["share"]), (&"v2".into(), &0.3.into()));
        let point = told["outcome"]["sticky"]["point"].as_f64().unwrap();
        assert_eq!(point < 0.3, told["outcome"]["backend"] == "v2", "{point}");
    }
    for (args, header, target, backend) in [
        (&["-H", "x-cohort: beta"][..], ("x-cohort", "beta"), "/v2/a", "beta"),
        (&["-H", "cookie: cohort=beta"], ("cookie", "cohort=beta"), "/a/../v2", "beta"),
    ] {
        let url = format!("https://EU.models.example.com:8443{target}");
        let told = world.json(&[args, &[&*url]].concat(), 0).await;
        let request = Request::get(target).host("eu.models.example.com").header(header.0, header.1);
        let served = world.proxy.send(&request).await.expect(200);
        assert_eq!(told["outcome"]["backend"], backend);
        assert_eq!(served.header("x-serin-backend").as_deref(), Some(backend));
    }
}

#[tokio::test]
async fn what_no_rule_gets_to_see_is_not_seen_here_either() {
    let rules = RULES.replace("name: x-cohort", "name: x-forwarded-client-cert");
    let world = world_of(&rules);
    let args = ["-H", "x-forwarded-client-cert: beta", "http://models.example.com/v2"];
    assert_eq!(world.json(&args, 0).await["rule"], "models/main");
    let request = Request::get("/v2").host("models.example.com");
    let served = world.proxy.send(&request.header("x-forwarded-client-cert", "beta")).await;
    assert_ne!(served.header("x-serin-backend").as_deref(), Some("beta"));
}

#[tokio::test]
async fn a_body_s_model_chooses_too() {
    let world = world();
    let told = world.json(&["-d", r#"{"model":"chat"}"#, "/v1/chat/completions"], 0).await;
    assert_eq!((&told["rule"], &told["request"]["method"]), (&"chat/chat".into(), &"POST".into()));
    let told = world.json(&["-d", r#"{"model":"code"}"#, "/v1/chat/completions"], 1).await;
    assert_eq!((&told["rule"], &told["refused"]["status"]), (&Value::Null, &404.into()));
    let misfit = &told["rules"][2]["matches"][0][0];
    assert_eq!((&misfit["part"], &misfit["got"]), (&"model".into(), &"code".into()), "{told}");
    let told = world.json(&["-d", r#"{"model":"a","model":"b"}"#, "/v1/chat"], 1).await;
    assert_eq!(told["refused"]["status"], 400);
}

#[tokio::test]
async fn every_rule_says_why_in_words() {
    let world = world();
    let host = "host: models.example.com";
    let text = world.explain(&["-X", "PATCH", "-H", host, "-H", "x-user: ada", "/v2"]).await;
    let refused = world.explain(&["http://other.org/v2/../.."]).await;
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("explain", text.expect(0).stdout);
        insta::assert_snapshot!("explain-refused", refused.expect(1).stdout);
    });
}

/// Also where steps mirror or pause, for which a file says no weight.
#[tokio::test]
async fn what_a_proxy_tells_of_its_config_can_be_read_again() {
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let proxy = Proxy::with_config("progressive.yaml")
        .backends([&v1, &v2])
        .replace("state:\n  file: ./serin-state.json", "#")
        .start();
    let admin = proxy.admin_address().to_string();
    let url = "http://models.example.com/v1/chat/completions";
    let args = ["explain", "--admin", &admin, "--data", "{\"model\": \"chat\"}", url];
    Program::output(SERIN, &args).await.expect(0);
}

#[tokio::test]
async fn a_running_proxy_tells_how_its_rollouts_stand() {
    let world = world();
    let admin = world.proxy.admin_address().to_string();
    let url = "http://models.example.com/v2";
    let ask = async |code| {
        let args = ["explain", "--admin", &admin, "-o", "json", url];
        let told = Program::output(SERIN, &args).await.expect(code).stdout;
        serde_json::from_str::<Value>(&told).unwrap()
    };
    let told = ask(0).await;
    let state = &told["outcome"]["rollout"]["state"];
    assert!(["progressing", "holding"].contains(&state.as_str().unwrap()), "{told}");
    assert_eq!(told["outcome"]["split"][0]["share"], 0.3);
    let done = Program::output(SERIN, &["abort", "v2", "-o", "json", "--admin", &admin]).await;
    let done: Value = serde_json::from_str(&done.expect(0).stdout).unwrap();
    assert_eq!((&done["name"], &done["state"]), (&"v2".into(), &"aborted".into()));
    // Without a terminal there is no `top`, but a way out.
    let top = Program::output(SERIN, &["top", "--admin", &admin]).await.expect(1);
    assert!(top.stdout.is_empty() && top.stderr.contains("serin status"), "{}", top.stderr);
    let told = ask(0).await;
    assert_eq!(told["outcome"]["rollout"]["state"], "aborted");
    assert_eq!(told["outcome"]["split"][0]["share"], 0.0);
    assert_eq!(
        (&told["outcome"]["backend"], &told["outcome"]["failover"]),
        (&"v1".into(), &Value::Null)
    );
    // The file knows nothing of that, unless the proxy is asked as well.
    assert_eq!(world.json(&[url], 0).await["outcome"]["split"][0]["share"], 0.3);
    let both = world.json(&["--admin", &admin, url], 0).await;
    assert_eq!(both["outcome"]["split"][0]["share"], 0.0);
    let nobody = Backend::named("nobody").start_dead().address.to_string();
    Program::output(SERIN, &["explain", "--admin", &nobody, url]).await.expect(3);
    Program::output(SERIN, &["explain", "-c", "/nowhere", "ftp://x/"]).await.expect(2);
}

#[tokio::test]
async fn await_becomes_the_command_once_the_proxy_is_ready() {
    let backend = Backend::named("model").does(Script::echoes()).start();
    let proxy = Proxy::to(&backend, "").start();
    let admin = proxy.admin_address().to_string();
    let command = ["sh", "-c", "echo $0 is up; exit 7", "model"];
    let args = [&["await", "--address", &*admin, "--timeout", "30s", "--"][..], &command].concat();
    let output = Program::output(SERIN, &args).await.expect(7);
    assert_eq!(output.stdout, "model is up\n");
    Program::output(SERIN, &["await", "--admin", &admin]).await.expect(0);
    let missing = ["await", "--admin", &admin, "--", "/no/such/command"];
    let missing = Program::output(SERIN, &missing).await.expect(1);
    assert!(missing.stderr.contains("/no/such/command"), "{}", missing.stderr);
    let nobody = Backend::named("nobody").start_dead().address.to_string();
    let late = ["await", "--address", &nobody, "--timeout", "200ms", "--", "true"];
    let late = Program::output(SERIN, &late).await.expect(1);
    assert!(late.stderr.contains("was not ready within 200ms"), "{}", late.stderr);
}

#[tokio::test]
async fn shells_and_man_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = Program::output(SERIN, &["completions", shell]).await.expect(0).stdout;
        assert!(text.contains("healthcheck") && text.contains("token-file"), "{shell}");
        // The other two complete no values.
        if ["bash", "zsh", "fish"].contains(&shell) {
            assert!(text.contains("shared-outage"), "{shell} knows what `--scenario` takes");
        }
    }
    let first = Program::output(SERIN, &["man"]).await.expect(0).stdout;
    assert!(first.contains(".TH serin 1") && first.contains("serin\\-explain"), "{first}");
    let folder = tempfile::tempdir().unwrap();
    Program::output(SERIN, &["man", "--out", arg(folder.path())]).await.expect(0);
    let page = std::fs::read_to_string(folder.path().join("serin-status.1")).unwrap();
    assert!(page.contains("\\-\\-watch"), "{page}");
}
