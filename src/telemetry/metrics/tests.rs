use super::*;
use crate::telemetry::counts::LegKey;
use crate::telemetry::story::LogDrops;
use std::time::Duration;

fn key(route: &str, rule: &str, backend: &str) -> LegKey {
    LegKey { route: route.into(), rule: rule.into(), backend: backend.into() }
}

fn counted() -> Registry {
    let registry = Registry::new(2);
    for (worker, code) in [(0, 200), (1, 200), (1, 503)] {
        let leg = registry.leg(key("sentiment", "main", "v2"));
        let counters = leg.of(worker);
        counters.requests.count(code);
        let outcome = if code == 200 { Outcome::Good } else { Outcome::Bad };
        counters.attempts(outcome).count(code);
        counters.duration.record(Duration::from_millis(40));
        counters.first_byte.record(Duration::from_millis(3));
        counters.in_flight.add(1);
    }
    registry.leg(key("sentiment", "main", "v1")).of(0).in_flight.add(7);
    let tried = registry.leg(key("sentiment", "main", "v2"));
    tried.of(0).retries.add(2);
    tried.of(0).refused(RetryRefused::Body).add(1);
    tried.of(1).failovers.add(4);
    tried.of(1).limited(Limited::QueueFull).add(6);
    tried.of(0).failures(FailureReason::FirstByteTimeout).add(8);
    registry.leg(key("", "", "")).of(0).requests.count(404);
    let shadow = registry.leg(key("sentiment", "main", "shadow"));
    shadow.of(1).mirrored(MirrorResult::Dropped).add(3);
    registry.budget(shadow.key.clone()).store(2, std::sync::atomic::Ordering::Relaxed);
    let door = registry.door(&"https".into());
    door.of(0).handshake(Handshake::Full).add(3);
    door.of(1).handshake(Handshake::Full).add(1);
    door.of(1).handshake(Handshake::Failed).add(2);
    door.of(1).turned(Turned::Timeout).add(1);
    door.of(0).accepted.add(9);
    door.of(1).closed.add(4);
    tried.of(0).received_bytes.add(2048);
    tried.of(1).sent_bytes.add(4096);
    registry.outlets().lines_written.add(7);
    registry.outlets().spans_failed.add(5);
    registry.outlets().count_log_drops(LogDrops(Box::new(|| 3)));
    registry
}

fn gauges() -> Gauges {
    let rollout = RolloutGauges {
        name: "sentiment-v2".to_owned(),
        state: "rolled_back",
        weight: 0.1,
        threshold: 200.0,
        hold: Some("shared cause".to_owned()),
        evidence: vec![
            ("errors <= 1%".to_owned(), 411.5, Some(523.0)),
            ("latency p99 <= 200ms".to_owned(), 1e-40, None),
        ],
        rolled_back: vec![("errors <= 1%".to_owned(), 1)],
        probes: vec![ProbeCounts {
            backend: "sentiment-v2".into(),
            counts: [(Outcome::Good, 2), (Outcome::Bad, 5), (Outcome::Neutral, 0)],
        }],
    };
    let endpoint = EndpointGauge {
        backend: "sentiment-v2".into(),
        endpoint: ([10, 0, 0, 7], 9000).into(),
        serves: false,
        is_out: true,
    };
    let endpoints = Arc::new(vec![endpoint]);
    let certificate = |kind, owner: &str| CertificateGauge {
        owner: (kind, owner.to_owned()),
        file: "/etc/serin/tls.crt".to_owned(),
        not_after: 1_800_000_000,
    };
    let certificates = vec![certificate("listener", "https"), certificate("backend", "v2")];
    let limit = LimitGauge { backend: "sentiment-v2".into(), in_flight_max: 32, waiting: 5 };
    let (rollouts, limits) = (vec![rollout], vec![limit]);
    let searches = vec![("sentiment-v2".into(), true)];
    Gauges {
        ejections: vec![("sentiment-v2".into(), 4)],
        reload_successful: true,
        generation: 3,
        rollouts,
        endpoints,
        certificates,
        limits,
        searches,
        reloads: vec![("taken", 2), ("refused", 1)],
        reloaded_at: 1_790_000_000,
        journal: vec![("written", 40), ("failed", 0), ("dropped", 0)],
        ledger_failures: 1,
        fleet: Some(FleetGauges { is_connected: true, is_holder: true, seen: 2, missing: 1 }),
        events: vec![("sent", 3), ("dropped", 1)],
        webhooks: vec![("delivered", 3), ("failed", 1), ("dropped", 0)],
    }
}

#[test]
fn names_labels_and_texts_are_as_promised() {
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        let build = format!("version=\"{VERSION}\",commit=\"{COMMIT}\"");
        let text = render(&counted(), &gauges(), Format::Prometheus).replace(&build, "version=\"…\",commit=\"…\"");
        let figures = |line: &str| match line.strip_prefix("process_") {
            Some(rest) => format!("process_{} …\n", rest.split(' ').next().unwrap()),
            None => format!("{line}\n"),
        };
        let text: String = text.lines().map(figures).collect();
        insta::assert_snapshot!("exposition", text);
    });
}

#[test]
fn no_sample_stands_outside_its_family_or_twice() {
    let text = render(&counted(), &gauges(), Format::Prometheus);
    let mut family = String::new();
    let mut seen = std::collections::BTreeSet::new();
    for line in text.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(rest) => family = rest.split(' ').next().unwrap().to_owned(),
            None if line.starts_with('#') => {}
            None => {
                assert!(line.starts_with(&family), "{line} under {family}");
                assert!(seen.insert(line.rsplit_once(' ').unwrap().0), "{line} twice");
            }
        }
    }
}

#[test]
fn label_values_cannot_break_out() {
    let mut text = Text::default();
    text.sample("x", &[("a", &"q\"b\\n\nl"), ("b", &"ü")], 1);
    assert_eq!(text.end(), "x{a=\"q\\\"b\\\\n\\nl\",b=\"ü\"} 1\n");
}

#[test]
fn numbers_are_written_as_prometheus_reads_them() {
    for (value, text) in [
        (0.0, "0"),
        (0.1, "0.1"),
        (1.0, "1"),
        (2000.0, "2000"),
        (1.5e-7, "1.5e-7"),
        (f64::INFINITY, "+Inf"),
        (f64::NAN, "NaN"),
    ] {
        assert_eq!(Number(value).to_string(), text);
    }
}

/// A line as OpenMetrics has it: name and labels, value, and what stands for it.
fn sample(line: &str) -> (&str, &str, Option<&str>) {
    let (sample, exemplar) = match line.split_once(" # ") {
        Some((sample, exemplar)) => (sample, Some(exemplar)),
        None => (line, None),
    };
    let (name, value) = sample.rsplit_once(' ').unwrap();
    (name, value, exemplar)
}

#[test]
fn openmetrics_says_the_same_and_where_it_ends() {
    let registry = counted();
    let plain = render(&registry, &gauges(), Format::Prometheus);
    let open = render(&registry, &gauges(), Format::OpenMetrics);
    assert!(open.ends_with("\n# EOF\n") && !plain.contains("# EOF"));
    let lines = |text: &str| -> Vec<String> {
        let figures = |line: &&str| !line.starts_with('#') && !line.starts_with("process_");
        text.lines().filter(figures).map(str::to_owned).collect()
    };
    let as_plain = |line: &String| line.replace(".0\"}", "\"}");
    assert_eq!(lines(&open).iter().map(as_plain).collect::<Vec<_>>(), lines(&plain));
    assert!(open.contains("backend=\"v2\",le=\"1.0\"} 3") && open.contains("le=\"0.0025\"}"));
    let mut family = (String::new(), String::new());
    for line in open.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(!name.ends_with("_total"), "{line}");
            family = (name.to_owned(), kind.to_owned());
        } else if !line.starts_with('#') {
            let name = sample(line).0.split('{').next().unwrap();
            let suffix = name.strip_prefix(&family.0).unwrap();
            let suffixes: &[&str] = match family.1.as_str() {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(suffixes.contains(&suffix), "{line} under {family:?}");
        }
    }
}

#[test]
fn an_exemplar_stands_at_its_bucket_and_at_what_failed() {
    let registry = counted();
    let leg = registry.leg(key("sentiment", "main", "v2"));
    let one = |trace: u128, millis| Exemplar {
        trace,
        span: 0xab,
        took: Duration::from_millis(millis),
        at: Duration::from_millis(1_790_000_000_250),
        is_bad: true,
    };
    leg.exemplars.duration(one(1, 40));
    leg.exemplars.first_byte(one(2, 3));
    leg.exemplars.bad(503, one(3, 41));
    assert!(!render(&registry, &gauges(), Format::Prometheus).contains("trace_id"));
    let text = render(&registry, &gauges(), Format::OpenMetrics);
    let found: Vec<_> = text.lines().map(sample).filter(|(.., one)| one.is_some()).collect();
    let id = |number| format!("{{trace_id=\"{number:032x}\",span_id=\"00000000000000ab\"}}");
    let labels = "{route=\"sentiment\",rule=\"main\",backend=\"v2\"";
    let expected = [
        (
            format!("serin_attempts_total{labels},code=\"503\",outcome=\"bad\"}}"),
            format!("{} 1 1790000000.250", id(3)),
        ),
        (
            format!("serin_request_duration_seconds_bucket{labels},le=\"0.05\"}}"),
            format!("{} 0.04 1790000000.250", id(1)),
        ),
        (
            format!("serin_first_byte_seconds_bucket{labels},le=\"0.005\"}}"),
            format!("{} 0.003 1790000000.250", id(2)),
        ),
    ];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((name, _, exemplar), (wanted, one)) in found.iter().zip(&expected) {
        assert_eq!((*name, *exemplar), (wanted.as_str(), Some(one.as_str())));
    }
}
