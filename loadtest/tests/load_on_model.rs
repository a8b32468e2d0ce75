//! The generator and the model server, against each other over real sockets.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use serin_loadtest::load::{Arrivals, Load, LoadError, RequestTemplate};
use serin_loadtest::model::{LatencyShape, ModelOptions, ModelServer, StreamShape};

const MS: Duration = Duration::from_millis(1);
const STREAM_PATH: &str = "/v2/models/sentiment/generate_stream";

fn model() -> ModelServer {
    ModelServer::start(ModelOptions::new("sentiment", "v1")).unwrap()
}

fn load(model: &ModelServer, rps: f64, count: u64) -> Load {
    let request = RequestTemplate::sentiment("sentiment").unwrap();
    let mut load = Load::new(model.address(), rps, request);
    load.requests_max = count;
    load
}

#[test]
fn a_healthy_model_answers_everything() {
    let model = model();
    let stats = load(&model, 500.0, 200).start().unwrap().wait();
    assert_eq!((stats.sent, stats.ok, stats.errors, stats.in_flight), (200, 200, 0, 0));
    assert_eq!(stats.statuses, [0, 200, 0, 0, 0]);
    assert_eq!(model.requests(), 200);
}

#[test]
fn a_model_turns_bad_while_it_runs() {
    let model = model();
    model.behaviour().set_error_ratio(1.0);
    let stats = load(&model, 500.0, 50).start().unwrap().wait();
    assert_eq!((stats.ok, stats.errors, stats.statuses[4]), (0, 50, 50));
    model.behaviour().set_error_ratio(0.0);
    let stats = load(&model, 500.0, 50).start().unwrap().wait();
    assert_eq!((stats.ok, stats.errors), (50, 0));
    assert_eq!(model.behaviour().failures(), 50);
}

#[test]
fn one_slow_connection_does_not_slow_the_schedule() {
    let model = model();
    model.behaviour().set_latency(LatencyShape::fixed(50 * MS));
    let mut load = load(&model, 100.0, 20);
    load.arrivals = Arrivals::Even;
    load.connections_max = 1;
    // 10 ms apart, 50 ms each, one at a time: the last one waits for 19 others.
    let stats = load.start().unwrap().wait();
    assert_eq!(stats.ok, 20);
    assert!(stats.max >= 800 * MS, "the wait for a connection is latency: {:?}", stats.max);
    assert!(stats.p50 >= 400 * MS, "{:?}", stats.p50);
}

#[test]
fn a_stalled_model_is_a_timeout_until_it_goes_on() {
    let model = model();
    model.behaviour().set_stalled(true);
    let mut load = load(&model, 100.0, 5);
    load.timeout = 100 * MS;
    let stats = load.clone().start().unwrap().wait();
    assert_eq!((stats.timeouts, stats.errors, stats.ok), (5, 5, 0));
    model.behaviour().set_stalled(false);
    load.timeout = 5_000 * MS;
    assert_eq!(load.start().unwrap().wait().ok, 5);
}

#[test]
fn a_stopped_model_is_a_connect_error() {
    let model = model();
    let load = load(&model, 1_000.0, 5);
    model.stop();
    let stats = load.start().unwrap().wait();
    assert_eq!((stats.connect_errors, stats.errors), (5, 5));
}

#[test]
fn dropping_a_load_abandons_what_is_in_flight() {
    let model = model();
    model.behaviour().set_stalled(true);
    let handle = load(&model, 1_000.0, u64::MAX).start().unwrap();
    while model.requests() < 10 {
        std::thread::yield_now();
    }
    assert!(handle.stats().in_flight > 0);
    drop(handle);
    assert!(model.requests() >= 10);
}

#[test]
fn the_world_beyond_loopback_is_refused() {
    for target in ["192.0.2.1:80", "0.0.0.0:80", "[2001:db8::1]:80"] {
        let request = RequestTemplate::get("/").unwrap();
        let refused = Load::new(target.parse().unwrap(), 1.0, request).start().unwrap_err();
        assert!(matches!(refused, LoadError::NotLoopback(_)), "{target}: {refused}");
    }
}

#[test]
fn a_rate_that_is_no_rate_is_refused() {
    let model = model();
    for rps in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
        let refused = load(&model, rps, 1).start().unwrap_err();
        assert!(matches!(refused, LoadError::Rate(_)), "{rps}: {refused}");
    }
}

#[test]
fn the_model_speaks_cleartext_http2_with_prior_knowledge() {
    let model = model();
    let mut stream = TcpStream::connect(model.address()).unwrap();
    // Preface and an empty SETTINGS frame; the answer begins with SETTINGS.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[3], 4, "a SETTINGS frame");
}

/// Asks once, and reads the answer to its end.
fn post(model: &ModelServer, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(model.address()).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn an_inference_is_answered_with_a_score() {
    let body = r#"{"inputs":[{"name":"text","shape":[1],"datatype":"BYTES","data":["good"]}]}"#;
    let answer = post(&model(), "/v2/models/sentiment/infer", body);
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains(r#""data":[0.768"#) && answer.contains("positive"), "{answer}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a model server waits in real time")]
fn a_stream_begins_after_the_latency_and_has_its_tokens_one_by_one() {
    let shape = StreamShape { tokens: 5, token_every: 10 * MS };
    let options = ModelOptions::new("sentiment", "v1").stream(shape);
    let model = ModelServer::start(options.latency(LatencyShape::fixed(20 * MS))).unwrap();
    let ask = || post(&model, STREAM_PATH, r#"{"text_input":"very good"}"#);
    let began = Instant::now();
    let answer = ask();
    let took = began.elapsed();
    assert!(answer.contains("content-type: text/event-stream"), "{answer}");
    let tokens: Vec<&str> = answer.lines().filter(|line| line.starts_with("data: ")).collect();
    assert_eq!(tokens.len(), 5, "{answer}");
    assert!(tokens[0].contains("very") && tokens[3].contains("good"), "{answer}");
    assert!(took >= 59 * MS, "20 ms and four times 10 ms: {took:?}");
    model.behaviour().set_error_ratio(1.0);
    assert!(ask().starts_with("HTTP/1.1 500"));
}

#[test]
fn latency_grows_with_load_where_inferences_wait_for_each_other() {
    let model = model();
    model.behaviour().set_latency(LatencyShape::fixed(20 * MS).with_servers(NonZeroUsize::new(1)));
    // 10 ms apart, 20 ms each, one at a time: the last of 20 waits for 190 ms.
    let mut load = load(&model, 100.0, 20);
    load.arrivals = Arrivals::Even;
    let stats = load.start().unwrap().wait();
    assert_eq!(stats.ok, 20);
    assert!(stats.max >= 200 * MS, "{:?}", stats.max);
}
