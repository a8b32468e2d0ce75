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
        let text = render(&counted(), &gauges()).replace(&build, "version=\"…\",commit=\"…\"");
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
    let text = render(&counted(), &gauges());
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
    assert_eq!(text.0, "x{a=\"q\\\"b\\\\n\\nl\",b=\"ü\"} 1\n");
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
