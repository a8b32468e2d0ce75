//! What a decision costs: finding a rule, splitting, judging a slot, recording an attempt.
//!
//! Never measures a socket: `just load-compare` does, against other proxies.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use serin::clock::Clock;
use serin::rollout::judge::{Judge, Pair, SLOT, SlotCounts, SlotTally};
use serin::rollout::objective::{Objective, Quantile};
use serin::rollout::plan::Plan;
use serin::rollout::verdict::Tally;
use serin::telemetry::counts::{Arm, Evidence, Leg, LegKey, Measures};
use serin::telemetry::sample::{Judged, OpenAttempts, Sample, WorkerArm, WorkerLeg};
use serin::traffic::draw::Salt;
use serin::traffic::fields::Fields;
use serin::traffic::matching::{HostPattern, Match, ModelView, PathMatch, RequestView, ValueMatch};
use serin::traffic::outcome::Outcome;
use serin::traffic::route::{Entry, Table};
use serin::traffic::split::Split;
use serin::units::{Ratio, Tick, Weight};

/// Of the two rules of a model, one wants this field.
const COHORT: HeaderName = HeaderName::from_static("x-cohort");

/// `rules` rules for models of two hosts: each model has one for testers and one for all.
fn table(rules: usize) -> Table {
    let hosts = [vec![HostPattern::parse("models.example.com").unwrap()], Vec::new()];
    let matches: Vec<_> = (0..rules)
        .map(|rule| {
            let path = PathMatch::prefix(&format!("/v2/models/m{}", rule / 2)).unwrap();
            let beta = (COHORT, ValueMatch::Exact("beta".to_owned()));
            let headers = if rule % 2 == 0 { vec![beta] } else { Vec::new() };
            vec![Match { path: Some(path), headers, ..Match::default() }]
        })
        .collect();
    Table::new(matches.iter().enumerate().map(|(rule, matches)| Entry {
        hostnames: &hosts[(rule / 2) % 2],
        matches,
        rule,
    }))
}

fn find_a_rule(c: &mut Criterion) {
    let mut group = c.benchmark_group("find a rule");
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "models.example.com"),
        ("user-agent", "curl/8.5.0"),
        ("accept", "*/*"),
        ("content-type", "application/json"),
        ("content-length", "128"),
        ("x-cohort", "beta"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let fields = Fields::from(&headers);
    for rules in [10, 1_000, 10_000] {
        let table = table(rules);
        let found = format!("/v2/models/m{}/infer", rules / 4);
        for (what, path) in [("one that is there", &*found), ("none", "/v2/models/gone/infer")] {
            let request = RequestView {
                method: &Method::POST,
                host: Some("models.example.com"),
                path,
                query: None,
                fields: &fields,
                client: None,
                model: ModelView::Unread,
            };
            assert_eq!(table.find(&request).is_some(), what != "none");
            group.bench_function(BenchmarkId::new(what, rules), |b| {
                b.iter(|| table.find(black_box(&request)));
            });
        }
    }
    group.finish();
}

fn split(c: &mut Criterion) {
    let weight = |weight| Weight::new(weight).unwrap();
    let split = Split::new([(0usize, weight(10)), (1, weight(90))]).unwrap();
    let mut draw = 0u64;
    c.bench_function("split 10/90", |b| {
        b.iter(|| {
            draw = draw.wrapping_add(0x9e37_79b9_7f4a_7c15);
            *split.pick(black_box(draw))
        });
    });
    let salt = Salt::of_rollout("sentiment-v2", "1");
    c.bench_function("split 10/90 by a sticky key", |b| {
        b.iter(|| *split.pick(salt.draw(black_box(b"user-4711"))));
    });
}

fn plan() -> Plan {
    let ratio = |ratio| Ratio::new(ratio).unwrap();
    Plan::watching(
        "sentiment-v2".into(),
        serin::names::RuleId { route: "sentiment".into(), rule: "main".into() },
        ("sentiment-v1".into(), "sentiment-v2".into()),
        "1".into(),
        vec![
            Objective::errors(ratio(0.01)).unwrap(),
            Objective::latency(Quantile::P99, Duration::from_millis(200)),
        ],
    )
}

fn judge_a_slot(c: &mut Criterion) {
    let tally = |bad, total| Tally { bad, total };
    let objective = |bad| SlotTally {
        canary: tally(bad, 25),
        stable: tally(bad, 225),
        relative_bad: Pair { canary: bad, stable: bad },
    };
    // A thousand requests a second, a tenth of them to the canary.
    let counts = SlotCounts {
        canary_attempts: 25,
        stable_attempts: 225,
        objectives: vec![objective(0), objective(1)],
        ..SlotCounts::default()
    };
    let mut judge = Judge::new(&plan(), 0.1, Tick::ZERO);
    let mut now = Tick::ZERO;
    c.bench_function("judge a slot of two objectives", |b| {
        b.iter(|| {
            now = now.after(SLOT);
            judge.close_slot(now, black_box(&counts))
        });
    });
}

fn record_an_attempt(c: &mut Criterion) {
    let key = LegKey { route: "r".into(), rule: "m".into(), backend: "b".into() };
    let leg = Rc::new(WorkerLeg::new(Arc::new(Leg::new(key, 1)), 0));
    let thresholds = vec![None, Some(Duration::from_millis(200))];
    let evidence =
        Arc::new(Evidence::new(Measures { thresholds, ..Measures::default() }, Arc::default(), 1));
    let arm = Rc::new(WorkerArm::new(evidence, Arm::Canary, 0));
    let open: Rc<OpenAttempts> = Rc::default();
    let clock = Clock::start();
    let id = http::HeaderValue::from_static("0123456789abcdef");
    let record = |outcome| {
        let sample = Sample::open(Rc::clone(&leg), clock, clock.now());
        let sample =
            sample.judged(&arm, &open, Judged { id: Some(id.clone()), ..Judged::default() });
        sample.first_byte(200, clock.now());
        sample.settle(black_box(outcome));
    };
    c.bench_function("record a good attempt", |b| b.iter(|| record(Outcome::Good)));
    c.bench_function("record a bad attempt", |b| b.iter(|| record(Outcome::Bad)));
}

criterion_group!(benches, find_a_rule, split, judge_a_slot, record_an_attempt);
criterion_main!(benches);
