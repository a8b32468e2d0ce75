//! The end of a Serin, and what its own machine lacks.

use serin_testkit::{
    Backend, Client, ConfigFile, Program, Proxy, Request, Script, Wire, arg, eventually, within,
};

const SERIN: &str = env!("CARGO_BIN_EXE_serin");

#[tokio::test]
async fn a_drain_fails_readiness_first_and_goes_on_accepting_until_that_is_known() {
    let model = Backend::named("model").start();
    let file = Proxy::to(&model, "").with("drain_delay: 1s").config_file();
    let program = Program::start(SERIN, &["run", "-c", arg(file.path())]);
    let address = program.address("listening").await;
    let mut admin = Client::of(program.address("admin").await);
    let ready = Request::get("/readyz").host("localhost");
    admin.send(&ready).await.expect(200);
    let mut old = Client::of(address);
    old.get("/").await.expect(200);
    program.signal("TERM");
    eventually("it is not ready", async || (admin.send(&ready).await.status == 503).then_some(()))
        .await;
    // A second long, old and new connections are served.
    old.get("/").await.expect(200);
    Client::of(address).get("/").await.expect(200);
    program.ended().await.expect(0);
}

#[tokio::test]
async fn in_a_drain_a_connection_is_told_to_close_and_a_second_signal_ends_it_all() {
    let model = Backend::named("model").does(Script::by_hand()).start();
    let file = Proxy::to(&model, "").with("drain_timeout: 1h").config_file();
    let program = Program::start(SERIN, &["run", "-c", arg(file.path())]);
    let address = program.address("listening").await;
    let begin = async || Client::of(address).begin(Request::get("/").bytes()).await;
    let mut answered = begin().await;
    let mut call = model.next_call().await;
    let mut hanging = begin().await;
    let _never = model.next_call().await;
    program.signal("TERM");
    program.says("draining").await;
    // Every worker has heard of it once nobody is let in any more.
    eventually("no worker accepts", async || {
        std::net::TcpStream::connect(address).is_err().then_some(())
    })
    .await;
    call.say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let head = within("a head", answered.head()).await.unwrap();
    assert_eq!(head.field("connection").as_deref(), Some("close"));
    program.signal("TERM");
    program.ended().await.expect(0);
    assert!(within("the end", hanging.rest()).await.is_empty());
}

/// A Serin of one worker that may open 64 files.
fn with_few_files(model: &Backend) -> (ConfigFile, Program) {
    let file = Proxy::to(model, "").replace("routes:", "workers: 1\nroutes:").config_file();
    let script = "ulimit -n 64; exec \"$0\" run -c \"$1\"";
    let program = Program::start("/bin/sh", &["-c", script, SERIN, arg(file.path())]);
    (file, program)
}

/// Long before they would be taken for idle.
#[tokio::test]
async fn those_who_say_nothing_do_not_keep_all_files() {
    let model = Backend::named("model").start();
    let (_file, program) = with_few_files(&model);
    let address = program.address("listening").await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(Wire::connect(address).await);
    }
    program.says("cannot accept").await;
    let mut client = Client::of(address);
    client.get("/").await.expect(200);
}

#[tokio::test]
async fn a_machine_out_of_files_is_not_the_models_fault() {
    let model = Backend::named("model").start();
    let (_file, program) = with_few_files(&model);
    let address = program.address("listening").await;
    let admin = program.address("admin").await;
    // Connected before, without a connection to the model yet.
    let mut first = Wire::connect(address).await;
    first.send("GET /").await.unwrap();
    let mut others = Vec::new();
    for _ in 0..100 {
        let mut wire = Wire::connect(address).await;
        wire.send("GET /").await.unwrap();
        others.push(wire);
    }
    program.says("cannot accept").await;
    first.send(" HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert_eq!(within("a head", first.head()).await.unwrap().status(), 502);
    drop(others);
    let mut client = Client::of(address);
    eventually("it serves again", async || {
        let answer = client.try_send(&Request::get("/")).await;
        answer.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
    let scrape = Client::of(admin).send(&Request::get("/metrics").host("localhost")).await.text();
    let metrics = serin_testkit::Metrics(scrape);
    assert!(metrics.value("serin_failures_total", &[("reason", "local")]) > 0.5);
    assert!(metrics.value("serin_attempts_total", &[("outcome", "bad")]).abs() < 0.1);
}
