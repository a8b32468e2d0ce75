//! The binary that measures, over real sockets, so short that no number means anything.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};

use serin_loadtest::model::{ModelOptions, ModelServer};

const LOADTEST: &str = env!("CARGO_BIN_EXE_loadtest");

/// Kills its process when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a command of `loadtest` that listens on `port`, and waits until it does.
fn start(arguments: &[&str], port: u16) -> Running {
    let child = Command::new(LOADTEST).args(arguments).spawn().unwrap();
    let running = Running(child);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::yield_now();
    }
    running
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn backend() -> (Running, u16) {
    let port = free_port();
    (start(&["backend", "--port", &port.to_string(), "--event-every", "2ms"], port), port)
}

/// What `loadtest drive` says, as JSON.
fn drive(port: u16, more: &[&str]) -> serde_json::Value {
    let target = format!("127.0.0.1:{port}");
    let output = Command::new(LOADTEST)
        .args(["drive", "--json", "--target", &target, "--connections", "4"])
        .args(more)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn check_all_good(seen: &serde_json::Value, requests: u64) {
    assert_eq!(seen["requests"], requests, "{seen}");
    assert_eq!((&seen["errors"], &seen["broken"]), (&0.into(), &0.into()), "{seen}");
}

#[test]
fn a_relay_passes_on_what_is_asked_and_answered() {
    let (_backend, target) = backend();
    let port = free_port();
    let target = format!("127.0.0.1:{target}");
    let _relay = start(&["relay", "--port", &port.to_string(), "--target", &target], port);
    check_all_good(&drive(port, &["--requests", "100"]), 100);
    // More than a socket takes at once, so that the relay has to wait.
    check_all_good(&drive(port, &["--requests", "8", "--body-bytes", "20000000"]), 8);
}

#[test]
fn an_open_loop_keeps_its_rate_and_measures_latency() {
    let (_backend, port) = backend();
    let seen = drive(port, &["--rps", "1000", "--duration", "300ms", "--warm-up", "50ms"]);
    let requests = seen["requests"].as_f64().unwrap();
    // The seed is fixed: what it deals is within four standard deviations of 300.
    assert!((requests - 300.0).abs() < 70.0, "{seen}");
    let at = |name: &str| seen[name].as_f64().unwrap();
    assert!(at("p50") > 0.0 && at("p50") <= at("p99") && at("p99") <= at("p999"), "{seen}");
}

#[test]
fn events_are_seen_with_their_age() {
    let (_backend, port) = backend();
    let stream = ["--events", "--path", "/stream", "--duration", "200ms", "--warm-up", "20ms"];
    let seen = drive(port, &stream);
    // Four streams, an event every 2 ms: 400, less on a machine that is busy.
    assert!(seen["requests"].as_u64().unwrap() > 10, "{seen}");
    assert!(seen["p50"].as_f64().unwrap() > 0.0, "{seen}");
}

#[test]
fn events_can_be_counted() {
    let (_backend, port) = backend();
    let seen = drive(port, &["--events", "--path", "/stream", "--requests", "20"]);
    // Those of the other three streams may come at the same time as the last.
    assert!((20..24).contains(&seen["requests"].as_u64().unwrap()), "{seen}");
}

#[test]
fn a_backend_is_as_many_endpoints_as_loopback_has_addresses_and_no_more() {
    let port = free_port();
    let arguments = ["backend", "--port", &port.to_string(), "--all-addresses"];
    let _backend = start(&arguments, port);
    let ask = |ip: IpAddr| {
        let mut stream = TcpStream::connect((ip, port)).ok()?;
        stream.write_all(b"GET /count HTTP/1.1\r\n\r\n").ok()?;
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).ok()?;
        Some(begin)
    };
    assert_eq!(ask([127, 0, 3, 231].into()), Some(*b"HTTP/1.1 200"));
    // The address that others know this machine by, if it has one. Nothing is sent.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    if socket.connect("192.0.2.1:9").is_ok() {
        let ip = socket.local_addr().unwrap().ip();
        assert!(ip.is_loopback() || ask(ip).is_none(), "{ip} is answered");
    }
}

#[test]
fn http2_is_spoken_with_a_server_that_is_not_ours() {
    let model = ModelServer::start(ModelOptions::new("sentiment", "v1")).unwrap();
    let port = model.address().port();
    let http2 = ["--protocol", "http2", "--streams", "8", "--requests", "200"];
    let ready = [&http2[..], &["--path", "/v2/health/ready", "-H", "x-a: b"]].concat();
    check_all_good(&drive(port, &ready), 200);
    let gone = [&http2[..], &["--path", "/nothing/here"]].concat();
    let seen = drive(port, &gone);
    assert_eq!((&seen["requests"], &seen["errors"]), (&200.into(), &200.into()), "{seen}");
}

#[test]
fn the_generator_waits_for_the_word() {
    let (_backend, port) = backend();
    let target = format!("127.0.0.1:{port}");
    let mut child = Command::new(LOADTEST)
        .args(["drive", "--json", "--hold", "--requests", "10", "--target", &target])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let seen = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    check_all_good(&seen, 10);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_comparison_leaves_figures_a_plot_and_a_summary() {
    let out = std::env::temp_dir().join(format!("loadtest-measure-{}", std::process::id()));
    let folder = env!("CARGO_MANIFEST_DIR");
    let output = Command::new(LOADTEST)
        .env_remove("LOADTEST_PINGORA")
        .args(["compare", "--peers", "relay,pingora", "--scenario", "plain", "--rounds", "1"])
        .args(["--duration", "50ms", "--warm-up", "10ms", "--load-cores", "0"])
        .args(["--scenarios", &format!("{folder}/scenarios")])
        .args(["--configs", &format!("{folder}/peers"), "--out"])
        .arg(&out)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("SKIPPED pingora: NOT INSTALLED"), "{said}");
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let csv = read("plain.csv");
    assert!(csv.contains("plain,1,relay,CPU µs per request,"), "{csv}");
    assert!(csv.contains("plain,1,direct,requests per second,"), "{csv}");
    assert!(read("plain.svg").contains("relay") && read("summary.md").contains("| relay |"));
    std::fs::remove_dir_all(out).unwrap();
}
