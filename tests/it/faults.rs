//! Everything an endpoint can do wrong, one by one: what its user gets, what the judge counts,
//! what the next user gets, and that nothing is left behind.

use std::fs::DirEntry;
use std::path::PathBuf;
use std::time::Duration;

use serin_testkit::{
    Backend, Client, ConfigFile, End, Program, Proxy, ProxyBuilder, Request, Script, Stopwatch,
    arg, eventually, ms, secs,
};

/// The binary under test.
const SERIN: &str = env!("CARGO_BIN_EXE_serin");

/// What a user sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sees {
    /// An answer to its end.
    Whole(u16),
    /// A head, and then the connection is cut.
    Cut(u16),
}

/// A fault, what its user sees, the reason that is counted, and whether it counts against the
/// endpoint.
struct Fault {
    name: &'static str,
    /// `None` refuses connections.
    script: Option<Script>,
    sees: Sees,
    reason: Option<&'static str>,
    bad: bool,
}

fn fault(
    name: &'static str,
    script: Script,
    sees: Sees,
    reason: Option<&'static str>,
    bad: bool,
) -> Fault {
    Fault { name, script: Some(script), sees, reason, bad }
}

fn faults() -> Vec<Fault> {
    use Sees::{Cut, Whole};
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let refuses = Fault {
        name: "refuses",
        script: None,
        sees: Whole(502),
        reason: Some("connect"),
        bad: true,
    };
    let longer = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nmodel, and more";
    vec![
        refuses,
        fault("closes before its head", Script::closes(), Whole(502), Some("reset"), true),
        fault("resets before its head", Script::resets(), Whole(502), Some("reset"), true),
        fault("resets after its head", Script::resets_after_head(), Cut(200), Some("reset"), true),
        fault("half a body", Script::half_a_body(), Cut(200), Some("reset"), true),
        fault("half a stream", Script::half_a_stream(), Cut(200), Some("reset"), true),
        fault("garbage", Script::garbage(), Whole(502), Some("malformed"), true),
        fault(
            "garbage in a chunk",
            Script::says(format!("{chunked}4\r\nhalf\r\nzz\r\n")),
            Cut(200),
            Some("malformed"),
            true,
        ),
        fault("more than its length", Script::says(longer), Whole(200), None, false),
        fault("hangs", Script::hangs(), Whole(504), Some("first_byte_timeout"), true),
        fault(
            "hangs in its body",
            Script::says_and_stays(format!("{chunked}4\r\nhalf\r\n")),
            Cut(200),
            Some("idle_timeout"),
            true,
        ),
        fault("one byte at a time", Script::drips_every(ms(2)), Whole(200), None, false),
        fault("slow to start", Script::answers(200).after(ms(100)), Whole(200), None, false),
        fault("answers early", Script::answers_early(413), Whole(413), None, false),
        fault("fails itself", Script::answers(500), Whole(500), None, true),
    ]
}

/// One endpoint, with limits that a test can wait for.
fn proxy_before(model: &Backend) -> ProxyBuilder {
    let timeouts = "timeouts: { connect: 5s, first_byte: 300ms, idle: 300ms }";
    Proxy::to(model, timeouts)
}

async fn see(client: &mut Client, request: &Request) -> Sees {
    match client.try_send(request).await {
        Ok(answer) if answer.end == End::Whole => Sees::Whole(answer.status),
        Ok(answer) => Sees::Cut(answer.status),
        Err(_) => Sees::Cut(0),
    }
}

fn requests() -> [Request; 3] {
    let body = "x".repeat(30_000);
    [Request::get("/"), Request::post("/", body.clone()), Request::post("/", body).chunked()]
}

#[tokio::test]
async fn each_fault_is_told_counted_and_left_behind() {
    for Fault { name, script, sees, reason, bad } in faults() {
        let model = match script {
            Some(script) => Backend::named("model").does(script).start(),
            None => Backend::named("model").start_dead(),
        };
        let proxy = proxy_before(&model).start();
        let mut client = proxy.client();
        for request in requests() {
            assert_eq!(see(&mut client, &request).await, sees, "{name}: {request:?}");
        }
        // What the judge counts: each attempt once.
        let metrics = proxy.metrics().await;
        let outcome =
            |outcome| metrics.value("serin_attempts_total", &[("outcome", outcome)]).round() as u64;
        assert_eq!(
            (outcome("bad"), outcome("bad") + outcome("good") + outcome("neutral")),
            (if bad { 3 } else { 0 }, 3),
            "{name}"
        );
        let failures =
            |reason| metrics.value("serin_failures_total", &[("reason", reason)]).round() as u64;
        match reason {
            Some(reason) => assert_eq!(failures(reason), 3, "{name}: {}", metrics.0),
            None => assert!(!metrics.0.contains("serin_failures_total{"), "{name}"),
        }

        // The next user gets an answer, and it is the own one.
        model.revives().await;
        model.now(Script::echoes());
        eventually("it is there", async || (client.get("/own").await.status == 200).then_some(()))
            .await;
        for n in 0..5 {
            let answer = client.post(&format!("/own/{n}"), format!("own {n}")).await.expect(200);
            assert_eq!(answer.text(), format!("own {n}"), "{name}");
            assert_eq!(answer.header("x-target"), Some(format!("/own/{n}")), "{name}");
        }

        // Nothing is under way, and of connections the one that was just used is left.
        let metrics = proxy.metrics().await;
        assert!(metrics.value("serin_requests_in_flight", &[]).abs() < 0.1, "{name}");
        eventually(&format!("{name}: connections are let go"), async || {
            (model.open() <= 1).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn an_endpoint_that_flaps_costs_its_users_no_more_than_its_bad_moments() {
    let model = Backend::named("model").start();
    let proxy = proxy_before(&model).start();
    let mut client = proxy.client();
    for _ in 0..5 {
        model.dies().await;
        eventually("it is gone", async || (client.get("/").await.status == 502).then_some(()))
            .await;
        model.revives().await;
        eventually("it is back", async || (client.get("/").await.status == 200).then_some(()))
            .await;
        for _ in 0..20 {
            client.get("/").await.expect(200);
        }
    }
}

/// What a process holds.
struct Holds {
    files: usize,
    threads: usize,
    resident_kib: usize,
}

impl Holds {
    fn of(pid: u32) -> Self {
        let folder = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
        let all = |name: &str| std::fs::read_dir(folder(name)).into_iter().flatten().flatten();
        // Those that give memory back come and go.
        let own = |task: &DirEntry| {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            !name.starts_with("jemalloc")
        };
        let status = std::fs::read_to_string(folder("status")).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|rest| rest.trim().split(' ').next()?.parse().ok());
        Self {
            files: all("fd").count(),
            threads: all("task").filter(own).count(),
            resident_kib: resident.unwrap_or_default(),
        }
    }
}

/// Serin as a process of its own.
async fn started(file: &ConfigFile) -> (Program, Client) {
    let program = Program::start(SERIN, &["run", "-c", arg(file.path())]);
    let address = program.address("listening").await;
    (program, Client::of(address))
}

#[tokio::test]
async fn after_thousands_of_faults_a_process_holds_what_it_held_before() {
    let model = Backend::named("model").start();
    let timeouts = "timeouts: { first_byte: 30ms, idle: 30ms }";
    let file = Proxy::to(&model, timeouts).config_file();
    let (program, mut client) = started(&file).await;
    let mut storm = async |times: usize| {
        for Fault { script, .. } in faults() {
            let Some(script) = script else { continue };
            model.now(script);
            for n in 0..times {
                see(&mut client, &requests()[n % 3]).await;
            }
        }
        model.now(Script::answers(200));
        client.get("/").await.expect(200);
    };
    storm(6).await;
    eventually("connections are let go", async || (model.open() <= 1).then_some(())).await;
    let before = Holds::of(program.id());
    storm(60).await;
    eventually("connections are let go", async || (model.open() <= 1).then_some(())).await;
    eventually("files are closed", async || {
        (Holds::of(program.id()).files <= before.files).then_some(())
    })
    .await;
    let after = Holds::of(program.id());
    assert_eq!(after.threads, before.threads);
    let grown = after.resident_kib.saturating_sub(before.resident_kib);
    assert!(grown < 8 << 10, "{grown} KiB more");
}

/// Elsewhere the C library keeps what it was given.
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
#[tokio::test]
async fn what_many_clients_took_goes_back_when_they_leave() {
    // jemalloc takes ten seconds for it, more where others use the machine.
    const GIVEN_BACK_WITHIN: Duration = Duration::from_mins(1);
    let model = Backend::named("model").does(Script::hangs()).start();
    // So much of each body is kept in case it has to be sent again.
    let file = Proxy::to(&model, "retry: { methods: [POST] }").config_file();
    let (program, client) = started(&file).await;
    let resident = || Holds::of(program.id()).resident_kib;
    let before = resident();
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n";
    let mut clients = Vec::new();
    for _ in 0..600 {
        clients.push(client.begin([head.as_bytes(), &vec![b'x'; 60_000]].concat()).await);
    }
    eventually("they take much", async || (resident() > before + (20 << 10)).then_some(())).await;
    drop(clients);
    let watch = Stopwatch::start();
    while resident() > before + (10 << 10) {
        assert!(watch.elapsed() < GIVEN_BACK_WITHIN, "{} of {before} KiB before", resident());
        tokio::time::sleep(ms(100)).await;
    }
}

/// They have the budget of the mirror until then, and that of what is sent again from then on.
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
#[tokio::test]
async fn what_was_kept_for_a_copy_is_not_kept_once_the_copy_is_sent() {
    const BODY: usize = 900_000;
    const CLIENTS: usize = 120;
    let model = Backend::named("v7").does(Script::answers(200).after(secs(600))).start();
    let shadow = Backend::named("v8").start();
    let file = Proxy::with_config("shadow.yaml")
        .backends([&model, &shadow])
        .replace("percent: 25%", "percent: 100%")
        .replace("max_in_flight: 64", "max_in_flight: 200")
        .replace("listeners:", "workers: 1\nlisteners:")
        .config_file();
    let (program, client) = started(&file).await;
    let resident = || Holds::of(program.id()).resident_kib;
    let before = resident();
    let head = format!(
        "POST /v2/models/fraud/infer HTTP/1.1\r\nhost: a\r\ncontent-length: {BODY}\r\n\r\n"
    );
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(client.begin([head.as_bytes(), &vec![b'x'; BODY]].concat()).await);
    }
    eventually("all are copied", async || (shadow.requests() == CLIENTS as u64).then_some(()))
        .await;
    let most = before + (40 << 10);
    eventually("they are let go", async || (resident() < most).then_some(())).await;
}
