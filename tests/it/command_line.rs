//! The binary as users run it: exit codes, what it writes where, signals.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use serin_testkit::{
    Backend, Body, Client, End, Output, Program, Proxy, Request, Script, arg, eventually, within,
};

const SERIN: &str = env!("CARGO_BIN_EXE_serin");
const PATH: &str = "/v2/models/sentiment/infer";
const ROLLOUT: &str = "sentiment-v2";

async fn serin(args: &[&str]) -> Output {
    Program::output(SERIN, args).await
}

/// A file of this project.
fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn versions() -> (Backend, Backend) {
    (Backend::named("v1").start(), Backend::named("v2").start())
}

/// Files that are none of Serin's.
fn bad_files(folder: &Path) -> Vec<PathBuf> {
    let good = std::fs::read_to_string(here("config/canary.yaml")).unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let garbage: Vec<u8> = (0..=255u8).rev().cycle().take(10_000).collect();
    let files = vec![
        file("unknown-key.yaml", good.replace("objectives:", "objektives:").as_bytes()),
        file("bad-unit.yaml", good.replace("200ms", "200 parsecs").as_bytes()),
        file("dangling.yaml", good.replace("canary: sentiment-v2", "canary: v9").as_bytes()),
        file("garbage.bin", &garbage),
        file("empty.yaml", b""),
        file("binary-zero.yaml", &[0; 4096]),
        folder.join("no-such-file.yaml"),
        folder.to_owned(),
    ];
    let large = std::fs::File::create(folder.join("50MB.yaml")).unwrap();
    large.set_len(50 << 20).unwrap();
    [files, vec![folder.join("50MB.yaml")]].concat()
}

#[tokio::test]
async fn check_accepts_every_example() {
    for name in ["canary.yaml", "ab-test.yaml", "shadow.yaml"] {
        let output = serin(&["check", arg(&here("config").join(name))]).await.expect(0);
        assert!(output.stdout.contains("ok"), "{}", output.stdout);
    }
}

#[tokio::test]
async fn a_bad_file_fails_check_and_starts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for file in bad_files(folder.path()) {
        let checked = serin(&["check", arg(&file)]).await.expect(1);
        assert!(checked.stdout.contains("error[SRN"), "{}", checked.stdout);
        assert!(checked.stdout.contains("help: "), "{}", checked.stdout);
        assert!(checked.stdout.len() < 20_000, "{} bytes", checked.stdout.len());

        let json = serin(&["check", "-o", "json", arg(&file)]).await.expect(1).stdout;
        let defects: Value = serde_json::from_str(&json).unwrap();
        assert!(defects[0]["line"].is_u64() && defects[0]["help"].is_string(), "{json}");

        let run = serin(&["run", "-c", arg(&file)]).await.expect(1);
        assert!(run.stderr.contains("SRN") && run.stdout.is_empty(), "{}", run.stderr);
    }
}

#[tokio::test]
async fn check_tells_all_defects_at_once_with_their_places() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("serin.yaml");
    let good = std::fs::read_to_string(here("config/canary.yaml")).unwrap();
    let text = good.replace("weight: 90", "wait: 90").replace("p99: 200ms", "p99: 200");
    std::fs::write(&file, text).unwrap();
    let github = serin(&["check", "-o", "github", arg(&file)]).await.expect(1).stdout;
    let errors: Vec<_> = github.lines().filter(|line| line.starts_with("::error ")).collect();
    assert_eq!(errors.len(), 2, "{github}");
    assert!(errors[0].contains(",line=24,col=13,title=SRN"), "{github}");
    assert!(errors[1].contains(",line=35,col=25,title=SRN"), "{github}");
    let input = std::fs::read(&file).unwrap();
    let stdin = Program::output_with(SERIN, &["check", "-"], &input).await.expect(1);
    assert!(stdin.stdout.contains("error[SRN"), "{}", stdin.stdout);
}

#[tokio::test]
async fn run_tells_why_it_cannot_start() {
    let (v1, v2) = versions();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for place in ["127.0.0.1:8080", "127.0.0.1:9901"] {
        let file = Proxy::with_config("canary.yaml").backends([&v1, &v2]);
        let file = file.replace(place, &address).config_file();
        let run = serin(&["run", "-c", arg(file.path())]).await.expect(1);
        assert!(run.stderr.contains(&address), "{}", run.stderr);
    }
    // A state file that it does not understand may remember a rollback.
    let file = Proxy::with_config("canary.yaml").backends([&v1, &v2]).remembering().config_file();
    std::fs::write(file.folder().join("state.json"), "{").unwrap();
    let run = serin(&["run", "-c", arg(file.path())]).await.expect(1);
    assert!(run.stderr.contains("state.json"), "{}", run.stderr);
}

#[tokio::test]
async fn a_wrong_command_line_exits_with_two() {
    for args in [
        &["run"][..],
        &["frobnicate"],
        &["check"],
        &["status", "--no-such-flag"],
        &["abort"],
        &["demo", "--scenario", "no-such-scenario"],
        &["replay"],
        &[],
    ] {
        let output = serin(args).await.expect(2);
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
    for args in [&["--help"][..], &["--version"], &["schema"], &["status", "--help"]] {
        let output = serin(args).await.expect(0);
        assert!(output.stderr.is_empty() && !output.stdout.is_empty(), "{args:?}");
    }
}

#[tokio::test]
async fn an_admin_port_that_nobody_serves_exits_with_three() {
    let nobody = Backend::named("nobody").start_dead().address.to_string();
    let soon = &["healthcheck", "--timeout", "500ms"][..];
    for args in [&["status"][..], &["abort", "x"], &["reset", "x"], soon] {
        let output = serin(&[args, &["--admin", &nobody]].concat()).await;
        let code = if args == soon { 1 } else { 3 };
        assert!(output.expect(code).stderr.contains(&nobody), "{args:?}");
    }
}

/// The binary, running.
struct Running {
    program: Program,
    proxy: SocketAddr,
    admin: String,
    file: serin_testkit::ConfigFile,
}

impl Running {
    async fn start(file: serin_testkit::ConfigFile) -> Self {
        let program = Program::start(SERIN, &["run", "-c", arg(file.path())]);
        let proxy = program.address("listening").await;
        let admin = program.address("admin").await.to_string();
        Self { program, proxy, admin, file }
    }

    fn client(&self) -> Client {
        Client::of(self.proxy)
    }

    /// A command for it, with its exit code.
    async fn told(&self, args: &[&str], code: i32) -> Output {
        serin(&[args, &["--admin", &self.admin]].concat()).await.expect(code)
    }

    async fn status(&self) -> Value {
        let output = self.told(&["status", ROLLOUT, "-o", "json"], 0).await;
        let status: Value = serde_json::from_str(&output.stdout).unwrap();
        let one = if status["rollouts"].is_array() { &status["rollouts"][0] } else { &status };
        one.clone()
    }

    /// Sends until the canary is out.
    async fn until_rolled_back(&self) {
        let mut client = self.client();
        eventually("the canary is rolled back", async || {
            for _ in 0..100 {
                client.post(PATH, "{}").await;
            }
            (self.status().await["state"] == "rolled_back").then_some(())
        })
        .await;
    }

    async fn canary_serves(&self) -> bool {
        let mut client = self.client();
        let mut found = false;
        for _ in 0..300 {
            found |= client.post(PATH, "{}").await.expect(200).text() == "v2";
        }
        found
    }
}

#[tokio::test]
async fn sigterm_ends_what_is_under_way_and_exits_with_zero() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let running = Running::start(Proxy::to(&model, "").config_file()).await;
    let mut wire = running.client().begin(Request::get("/").bytes()).await;
    let mut call = model.next_call().await;
    call.begin_stream().await;
    call.chunk("before").await;
    running.program.signal("TERM");
    running.program.says("draining").await;
    call.chunk(", after").await;
    call.end_stream().await;
    let head = within("a head", wire.head()).await.unwrap();
    let (data, end) = within("a body", wire.body(&mut Body::of_response(&head, "GET"))).await;
    assert_eq!((&*data, end), (&b"before, after"[..], End::Whole));
    running.program.ended().await.expect(0);
}

#[tokio::test]
async fn a_second_signal_and_quitquitquit_end_it_too() {
    let model = Backend::named("model").does(Script::hangs()).start();
    let running = Running::start(Proxy::to(&model, "").config_file()).await;
    let _wire = running.client().begin(Request::get("/").bytes()).await;
    model.saw(1).await;
    running.program.signal("TERM");
    running.program.says("draining").await;
    running.program.signal("TERM");
    running.program.ended().await.expect(0);

    let running = Running::start(Proxy::to(&model, "").config_file()).await;
    let quit = Request::post("/quitquitquit", "").header("content-type", "application/json");
    let admin: SocketAddr = running.admin.parse().unwrap();
    Client::of(admin).send(&quit.host("localhost")).await.expect(200);
    running.program.ended().await.expect(0);
}

#[tokio::test]
async fn what_was_rolled_back_stays_out_through_signals_and_restarts() {
    let (v1, v2) = versions();
    let file = Proxy::with_config("canary.yaml").backends([&v1, &v2]).remembering().config_file();
    let mut running = Running::start(file).await;
    assert!(running.canary_serves().await);
    assert_eq!(running.status().await["state"], "progressing");
    v2.now(Script::answers(500));
    running.until_rolled_back().await;
    v2.now(Script::answers(200));
    let text = running.told(&["status"], 0).await.stdout;
    assert!(text.contains(ROLLOUT) && text.contains("rolled"), "{text}");

    // Another file of the same meaning.
    let text = running.file.text();
    running.file.write(format!("# Anew\n{text}").as_bytes());
    running.program.signal("HUP");
    running.program.says("config reloaded").await;
    assert!(!running.canary_serves().await);

    // A bad one is told, and changes nothing.
    running.file.write(b"listeners: none");
    running.program.signal("HUP");
    running.program.says("the old config stays").await;
    assert!(!running.canary_serves().await);
    running.file.write(text.as_bytes());

    // A kill is no goodbye: what was decided is on disk.
    running.program.signal("KILL");
    let Running { program, file, .. } = running;
    assert_eq!(program.ended().await.code, None);
    let running = Running::start(file).await;
    assert_eq!(running.status().await["state"], "rolled_back");
    assert!(!running.canary_serves().await);

    running.told(&["status", ROLLOUT, "--wait"], 4).await;
    running.told(&["abort", ROLLOUT], 1).await;
    running.told(&["reset", ROLLOUT], 0).await;
    assert!(running.canary_serves().await);
    let refused = running.told(&["reset", ROLLOUT], 1).await;
    assert!(refused.stderr.contains("refused") && refused.stdout.is_empty(), "{refused:?}");
    running.told(&["abort", ROLLOUT], 0).await;
    assert!(!running.canary_serves().await);
    running.told(&["abort", ROLLOUT], 0).await;
    running.told(&["status", "no-such-rollout"], 1).await;
    running.told(&["abort", "no-such-rollout"], 1).await;
    running.told(&["healthcheck"], 0).await;
    // Its own config says where it is, but for the free port.
    running.program.signal("INT");
    running.program.ended().await.expect(0);
}

#[tokio::test]
async fn replay_gives_the_golden_verdicts() {
    let traces = here("tests/judge-golden/traces.csv");
    let replay = ["replay", "--counts", arg(&traces), "-o", "json"];
    let output = serin(&replay).await.expect(0).stdout;
    let verdicts: Value = serde_json::from_str(&output).unwrap();
    let expected =
        std::fs::read_to_string(here("tests/judge-golden/expected-default.csv")).unwrap();
    let mut lines = expected.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let mut count = 0;
    for line in lines {
        let verdicts = verdicts.as_array().unwrap();
        let found = verdicts.iter().find(|found| found["trace"] == line[0]).unwrap();
        for name in ["verdict", "objective", "slot", "canary_requests"] {
            let column = header.iter().position(|found| *found == name).unwrap();
            let shown = match &found[name] {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                // Of a trace that is not rolled back it is the last row's.
                Value::Number(_) if line[column].is_empty() => continue,
                other => other.to_string(),
            };
            // A counts file knows no threshold: `latency` is `latency p99` there.
            let same = if name == "objective" && !line[column].is_empty() {
                shown.starts_with(line[column])
            } else {
                shown == line[column]
            };
            assert!(same, "{name} of {} is {shown}", line[0]);
        }
        count += 1;
    }
    assert_eq!(verdicts.as_array().unwrap().len(), count);
    serin(&["replay", "--counts", arg(&here("no-such-file.csv"))]).await.expect(1);
}

#[tokio::test]
async fn the_demo_shows_a_rollback_and_exits_with_zero() {
    let demo = serin(&["demo", "--duration", "15s", "--seed", "7"]).await.expect(0);
    for words in ["ROLLBACK", "errors <= 1%", "canary"] {
        assert!(demo.stdout.contains(words), "{}", demo.stdout);
    }
}

#[tokio::test]
async fn the_demo_of_a_good_canary_keeps_it() {
    let demo = ["demo", "--scenario", "good", "--duration", "8s"];
    let demo = serin(&demo).await.expect(0);
    assert!(!demo.stdout.contains("ROLLBACK"), "{}", demo.stdout);
}

/// `curl` is what the README's tour uses.
#[tokio::test]
async fn curl_speaks_to_it_in_both_versions_of_http() {
    if Program::find("curl").is_none() {
        eprintln!("SKIPPED: there is no curl");
        return;
    }
    let model = Backend::named("model").does(Script::chunks(["one", "two"])).start();
    let proxy = Proxy::to(&model, "").start();
    let url = format!("http://{}/x/../y?q=1", proxy.address());
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let args = ["-sS", "--max-time", "20", "--path-as-is", "-i", version, "-d", "body", &url];
        let output = Program::output("curl", &args).await.expect(0);
        assert!(output.stdout.contains("200") && output.stdout.ends_with("onetwo"), "{output:?}");
        assert_eq!((model.last().target(), &*model.last().body), ("/y?q=1", &b"body"[..]));
    }
    model.now(Script::half_a_stream());
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let output = Program::output("curl", &["-sS", "--max-time", "20", version, &url]).await;
        assert_ne!(output.code, Some(0), "{version}: an answer that broke off is no success");
    }
}
