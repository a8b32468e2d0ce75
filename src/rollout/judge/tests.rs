use std::collections::BTreeMap;

use super::*;
use crate::names::{RouteName, RuleId, RuleName, Version};
use crate::rollout::objective::{OnBreach, Quantile, Signal};
use crate::rollout::step::{Copies, Step};
use crate::units::Ratio;

const TRACES: &str = include_str!("../../../tests/judge-golden/traces.csv");
const EXPECTED: &str = include_str!("../../../tests/judge-golden/expected.csv");
const EXPECTED_DEFAULT: &str = include_str!("../../../tests/judge-golden/expected-default.csv");

/// Ports of the same formulas agree to this, relative.
const AGREES: f64 = 1e-4;

fn ratio(value: f64) -> Ratio {
    Ratio::new(value).unwrap()
}

fn plan(objectives: Vec<Objective>) -> Plan {
    Plan::watching(
        "v2".into(),
        RuleId { route: RouteName::new("r"), rule: RuleName::new("main") },
        ("stable".into(), "canary".into()),
        Version::new("1"),
        objectives,
    )
}

fn latency() -> Objective {
    Objective::latency(Quantile::P99, Duration::from_millis(200))
}

/// `errors: 1%` and a p99 limit: K = 2, T = 200.
fn default_set() -> Plan {
    plan(vec![Objective::errors(ratio(0.01)).unwrap(), latency()])
}

/// With both relative ones, all rolling back: K = 4, T = 400.
fn set_of_four() -> Plan {
    let relative = |signal| {
        Objective::not_worse_than_stable(signal, ratio(0.0025))
            .unwrap()
            .with_on_breach(OnBreach::Rollback)
    };
    let (errors, slow) = (relative(Signal::Errors), relative(latency().signal()));
    plan(vec![Objective::errors(ratio(0.01)).unwrap(), errors, latency(), slow])
}

/// The rows of a file with a header, by column; quotes hide commas.
fn rows(text: &str) -> Vec<BTreeMap<String, String>> {
    let fields = |line: &str| {
        let mut quoted = false;
        let outside = line.split(|c| {
            quoted ^= c == '"';
            c == ',' && !quoted
        });
        outside.map(|field| field.trim_matches('"').to_owned()).collect::<Vec<_>>()
    };
    let mut lines = text.lines().map(fields);
    let header = lines.next().unwrap();
    lines.map(|row| header.iter().cloned().zip(row).collect()).collect()
}

/// The slots of one trace: number and counts, for the objectives of `plan`.
fn slots(plan: &Plan, trace: &str) -> Vec<(u32, SlotCounts)> {
    let number = |row: &BTreeMap<String, String>, column: &str| row[column].parse::<u64>().unwrap();
    let tally = |row: &BTreeMap<String, String>, version: &str, signal| {
        let of = |what| number(row, &format!("{version}_{what}"));
        match signal {
            Signal::Errors => Tally { bad: of("err"), total: of("n") },
            Signal::Latency { .. } => Tally { bad: of("slow"), total: of("n") - of("err") },
            Signal::Body | Signal::Feedback(_) => unreachable!("the traces have none"),
        }
    };
    let counts = |row: &BTreeMap<String, String>| SlotCounts {
        canary_attempts: number(row, "canary_n"),
        stable_attempts: number(row, "stable_n"),
        objectives: plan
            .objectives
            .iter()
            .map(|one| {
                let (canary, stable) =
                    (tally(row, "canary", one.signal()), tally(row, "stable", one.signal()));
                let relative_bad = Pair { canary: canary.bad, stable: stable.bad };
                SlotTally { canary, stable, relative_bad }
            })
            .collect(),
        ..SlotCounts::default()
    };
    let mine = rows(TRACES).into_iter().filter(|row| row["trace"] == trace);
    mine.map(|row| (number(&row, "slot") as u32, counts(&row))).collect()
}

/// Judges a trace until it is rolled back or over: last slot, canary attempts, findings.
fn judged(plan: &Plan, trace: &str) -> (u32, u64, Findings) {
    let mut judge = Judge::new(plan, 0.1, Tick::ZERO);
    let mut attempts = 0;
    let mut last = None;
    for (slot, counts) in slots(plan, trace) {
        attempts += counts.canary_attempts;
        let findings = judge.close_slot(Tick::new(SLOT * (slot + 1)), &counts);
        let ended = findings.decision.verdict() == Verdict::Rollback;
        last = Some((slot, attempts, findings));
        if ended {
            break;
        }
    }
    last.unwrap()
}

fn agree(what: &str, found: f64, expected: &str) {
    let expected: f64 = expected.parse().unwrap();
    assert!((found - expected).abs() <= AGREES * expected.abs(), "{what}: {found}, not {expected}");
}

#[test]
fn golden_default_set() {
    let plan = default_set();
    for row in rows(EXPECTED_DEFAULT) {
        let trace = &row["trace"];
        let (slot, attempts, Findings { decision, objectives, .. }) = judged(&plan, trace);
        assert_eq!(decision.verdict().as_str(), row["verdict"], "{trace}");
        assert_eq!(attempts.to_string(), row["canary_requests"], "{trace}");
        if let Decision::Rollback(blamed) = decision {
            assert!(blamed.objective.name().starts_with(&row["objective"]), "{trace}");
            assert_eq!(slot.to_string(), row["slot"], "{trace}");
        }
        for (finding, name) in objectives.iter().zip(["errors", "latency"]) {
            agree(trace, finding.over_limit, &row[&format!("over_limit_{name}")]);
            let worse = finding.worse_than_stable.unwrap();
            agree(trace, worse, &row[&format!("worse_than_stable_{name}")]);
        }
        let interval = objectives[0].interval();
        agree(trace, interval.low.get(), &row["errors_low"]);
        agree(trace, interval.high.get(), &row["errors_high"]);
    }
}

#[test]
fn golden_set_of_four_that_all_roll_back() {
    let plan = set_of_four();
    for row in rows(EXPECTED) {
        let trace = &row["trace"];
        let (slot, attempts, Findings { decision, objectives, .. }) = judged(&plan, trace);
        let rolled_back = decision.verdict() == Verdict::Rollback;
        assert_eq!(rolled_back, row["ref_verdict"] == "rollback", "{trace}");
        assert_eq!(attempts.to_string(), row["ref_canary_requests_since_onset"], "{trace}");
        if rolled_back {
            assert_eq!(slot.to_string(), row["ref_slot"], "{trace}");
            let range = ["allowed_min_requests", "allowed_max_requests"];
            let [least, most] = range.map(|column| row[column].parse::<u64>().unwrap());
            assert!((least..=most).contains(&attempts), "{trace}: {attempts}");
        }
        if row["expected_verdict"] == "none_hold" {
            assert_eq!(decision, Decision::Hold(HoldReason::SharedCause), "{trace}");
        }
        let ends = ["err", "err_r", "slow", "slow_r"];
        for (finding, end) in objectives.iter().zip(ends) {
            agree(trace, finding.over_limit, &row[&format!("e_abs_{end}")]);
            let worse = finding.worse_than_stable.unwrap();
            agree(trace, worse, &row[&format!("e_rel_{end}")]);
        }
        let interval = objectives[0].interval();
        agree(trace, interval.low.get(), &row["cs_err_lo"]);
        agree(trace, interval.high.get(), &row["cs_err_hi"]);
    }
}

/// A slot of `errors` only.
fn errors(canary: (u64, u64), stable: (u64, u64)) -> SlotCounts {
    let [canary, stable] = [canary, stable].map(|(bad, total)| Tally { bad, total });
    let relative_bad = Pair { canary: canary.bad, stable: stable.bad };
    SlotCounts {
        canary_attempts: canary.total,
        stable_attempts: stable.total,
        objectives: vec![SlotTally { canary, stable, relative_bad }],
        ..SlotCounts::default()
    }
}

/// Closes `slots` slots of the same counts, from where the judge stands.
fn feed(judge: &mut Judge, slots: u32, counts: &SlotCounts) -> Decision {
    let mut decision = None;
    for _ in 0..slots {
        decision = Some(judge.close_slot(judge.closed.after(SLOT), counts).decision);
    }
    decision.unwrap()
}

fn only(objective: Objective) -> Plan {
    plan(vec![objective])
}

fn errors_limit() -> Objective {
    Objective::errors(ratio(0.01)).unwrap()
}

#[test]
fn every_hold_has_its_reason() {
    let quiet = SlotCounts::default();
    let healthy = errors((0, 5), (0, 45));
    let hold = Decision::Hold;
    let mut judge = Judge::new(&only(errors_limit()), 0.1, Tick::ZERO);
    assert_eq!(feed(&mut judge, 1, &healthy), hold(HoldReason::NotEnoughTraffic));
    assert_eq!(feed(&mut judge, 20, &healthy), hold(HoldReason::Soaking));
    assert_eq!(feed(&mut judge, 240, &healthy), hold(HoldReason::NotProven));
    assert_eq!(feed(&mut judge, 240, &quiet), hold(HoldReason::NotProven));
    assert_eq!(feed(&mut judge, 1, &quiet), hold(HoldReason::NotEnoughTraffic));
    assert_eq!(feed(&mut judge, 40, &errors((2, 5), (18, 45))), hold(HoldReason::SharedCause));
}

#[test]
fn some_evidence_is_suspicious_before_it_is_proof() {
    let mut judge = Judge::new(&only(errors_limit()), 0.1, Tick::ZERO);
    let one_bad = errors((1, 1), (0, 9));
    let decisions: Vec<_> = (0..6).map(|_| feed(&mut judge, 1, &one_bad)).collect();
    let suspicious = Decision::Hold(HoldReason::Suspicious);
    let at = decisions.iter().position(|one| *one == suspicious).unwrap();
    let out = decisions.iter().position(|one| one.verdict() == Verdict::Rollback).unwrap();
    assert!(at < out, "{decisions:?}");
}

#[test]
fn an_objective_that_holds_never_rolls_back_and_gives_its_name() {
    let objective = errors_limit().with_on_breach(OnBreach::Hold);
    let mut judge = Judge::new(&only(objective), 0.1, Tick::ZERO);
    let decision = feed(&mut judge, 40, &errors((5, 5), (0, 45)));
    assert_eq!(decision, Decision::Hold(HoldReason::Objective(objective)));
}

#[test]
fn one_slot_is_never_proof_whatever_it_brings() {
    let mut judge = Judge::new(&default_set(), 0.1, Tick::ZERO);
    assert_eq!(feed(&mut judge, 1, &errors((9_000, 9_000), (0, 81_000))).verdict(), Verdict::Hold);
}

#[test]
fn above_half_of_the_traffic_the_limit_alone_decides() {
    // Both versions are as bad: a common cause, while there is a stable worth the name.
    for (share, verdict) in [(0.5, Verdict::Hold), (0.51, Verdict::Rollback)] {
        let mut judge = Judge::new(&only(errors_limit()), share, Tick::ZERO);
        let decision = feed(&mut judge, 40, &errors((3, 10), (3, 10)));
        assert_eq!(decision.verdict(), verdict, "{share}");
    }
    let mut judge = Judge::new(&only(errors_limit()), 0.6, Tick::ZERO);
    let findings = judge.close_slot(Tick::new(SLOT), &SlotCounts::default());
    assert_eq!(findings.objectives[0].worse_than_stable, None);
}

#[test]
fn an_outage_of_both_blames_nobody_when_the_canary_gets_most_of_the_traffic() {
    let mut judge = Judge::new(&only(errors_limit()), 0.1, Tick::ZERO);
    let shared = Decision::Hold(HoldReason::SharedCause);
    assert_eq!(feed(&mut judge, 20, &errors((5, 5), (45, 45))), shared);
    judge.set_share(0.7);
    let decision = feed(&mut judge, 1, &errors((0, 35), (0, 15)));
    assert!(matches!(decision, Decision::Hold(_)), "{decision:?}");
    // But what it does there, it does by itself.
    let decision = feed(&mut judge, 20, &errors((35, 35), (0, 15)));
    assert!(matches!(decision, Decision::Rollback(_)), "{decision:?}");
}

#[test]
fn a_look_says_what_closing_would_and_changes_nothing() {
    let mut judge = Judge::new(&only(errors_limit()), 0.1, Tick::ZERO);
    feed(&mut judge, 3, &errors((1, 2), (0, 9)));
    let before = judge.clone();
    let now = judge.closed.after(SLOT / 2);
    let seen = judge.look(now, &errors((2, 2), (0, 4)));
    assert_eq!(judge, before);
    assert_eq!(seen, judge.close_slot(now, &errors((2, 2), (0, 4))));
}

#[test]
fn left_out_slots_drip_all_the_same() {
    let counts = errors((1, 3), (0, 20));
    let mut every = Judge::new(&only(errors_limit()), 0.1, Tick::ZERO);
    let mut sparse = every.clone();
    feed(&mut every, 4_000, &SlotCounts::default());
    let end = Tick::new(SLOT * 4_001);
    let (a, b) = (every.close_slot(end, &counts), sparse.close_slot(end, &counts));
    let (a, b) = (a.objectives[0], b.objectives[0]);
    assert!((a.over_limit - b.over_limit).abs() < 1e-9, "{} {}", a.over_limit, b.over_limit);
}

#[test]
fn a_new_weight_keeps_the_evidence() {
    let mut judge = Judge::new(&only(errors_limit()), 0.1, Tick::ZERO);
    feed(&mut judge, 3, &errors((1, 2), (0, 9)));
    let before = judge.look(judge.closed, &SlotCounts::default());
    judge.set_share(0.25);
    let after = judge.look(judge.closed, &SlotCounts::default());
    let worse = |findings: &Findings| findings.objectives[0].worse_than_stable.unwrap();
    assert!((worse(&before) - worse(&after)).abs() < 1e-9);
    // One bad request of the canary says less when it gets more of the traffic.
    let bad = errors((1, 1), (0, 1));
    let mut old = judge.clone();
    old.set_share(0.1);
    let now = judge.closed.after(SLOT);
    assert!(worse(&judge.look(now, &bad)) < worse(&old.look(now, &bad)));
}

#[test]
fn what_was_saved_goes_on_as_if_nothing_had_happened() {
    let plan = default_set();
    let counts = errors((1, 3), (0, 20));
    let mut judge = Judge::new(&plan, 0.1, Tick::ZERO);
    feed(&mut judge, 300, &counts);
    let text = serde_json::to_string(&judge.save(judge.closed)).unwrap();
    let saved: SavedJudge = serde_json::from_str(&text).unwrap();
    let restarted = Tick::new(Duration::from_secs(5));
    let mut restored = Judge::restore(&plan, (0, 0.1), restarted, &saved).unwrap();
    let went_on = restored.close_slot(restarted.after(SLOT), &counts);
    let would_have = judge.close_slot(judge.closed.after(SLOT), &counts);
    assert_eq!(went_on.decision.verdict(), would_have.decision.verdict());
    let (a, b) = (went_on.objectives[0], would_have.objectives[0]);
    assert_eq!((a.canary, a.stable), (b.canary, b.stable));
    assert!((a.over_limit / b.over_limit - 1.0).abs() < 1e-9);
    assert_eq!(Judge::restore(&only(errors_limit()), (0, 0.1), restarted, &saved), None);
}

fn stepping(until: Until) -> Plan {
    let step = |weight, mirror: Option<Copies>| Step { weight: ratio(weight), mirror, until };
    let copies = Copies { share: ratio(0.1), methods: vec![http::Method::GET] };
    Plan {
        steps: vec![step(0.1, None), step(0.5, None), step(0.5, Some(copies))],
        ..only(errors_limit())
    }
}

const fn minutes(count: u64) -> Duration {
    Duration::from_mins(count)
}

#[test]
fn a_step_is_left_when_its_time_has_come_and_nothing_was_breached() {
    let healthy = errors((0, 1), (0, 9));
    for (until, soaking, then) in [
        (Until::soaked(minutes(1)), 240, Decision::Promote(Proof::Soaked)),
        (Until::PROVEN, 240, Decision::Hold(HoldReason::NotProven)),
        (Until::Told, 1, Decision::Hold(HoldReason::Paused)),
    ] {
        let mut judge = Judge::new(&stepping(until), 0.1, Tick::ZERO);
        if until != Until::Told {
            let before = feed(&mut judge, soaking - 1, &healthy);
            assert_eq!(before, Decision::Hold(HoldReason::Soaking), "{until}");
        }
        assert_eq!(feed(&mut judge, 1, &healthy), then, "{until}");
    }
}

#[test]
fn a_step_that_waits_for_proof_is_never_left_by_the_clock() {
    let until = Until::Proven { at_least: minutes(1), at_most: Some(minutes(30)) };
    // One in ninety: too many to be proven within 1.5 %, too few to be a breach.
    let mut judge = Judge::new(&stepping(until), 0.1, Tick::ZERO);
    let some_bad = |slot: u32| {
        errors((u64::from(slot.is_multiple_of(90)), 1), (u64::from(slot.is_multiple_of(10)), 9))
    };
    let decisions: Vec<_> = (1..=7201).map(|slot| feed(&mut judge, 1, &some_bad(slot))).collect();
    assert!(decisions.iter().all(|one| one.verdict() == Verdict::Hold));
    assert_eq!(decisions[7198], Decision::Hold(HoldReason::NotProven));
    assert_eq!(decisions[7200], Decision::Hold(HoldReason::Overdue));
    assert_eq!(feed(&mut judge, 900, &errors((0, 5), (0, 45))), Decision::Promote(Proof::Proven));
}

#[test]
fn what_was_proven_at_one_weight_is_proven_anew_at_the_next() {
    let plan = stepping(Until::PROVEN);
    let healthy = errors((0, 5), (0, 45));
    let mut judge = Judge::new(&plan, 0.1, Tick::ZERO);
    assert_eq!(feed(&mut judge, 239, &healthy), Decision::Hold(HoldReason::Soaking));
    assert_eq!(feed(&mut judge, 1, &healthy), Decision::Promote(Proof::Proven));
    judge.enter(&plan, 1, 0.5, judge.closed);
    assert_eq!(feed(&mut judge, 1, &healthy), Decision::Hold(HoldReason::NotEnoughTraffic));
    assert_eq!(feed(&mut judge, 100, &healthy), Decision::Hold(HoldReason::Soaking));
    assert_eq!(feed(&mut judge, 139, &healthy), Decision::Promote(Proof::Proven));
}

#[test]
fn a_healthy_canary_is_proven_after_as_many_requests_as_published() {
    // Limit 1 %, margin one half: the published median at 0.1 % errors is 450.
    let plan = stepping(Until::Proven { at_least: Duration::ZERO, at_most: None });
    let mut judge = Judge::new(&plan, 0.1, Tick::ZERO);
    let mut requests = 0;
    while judge.look(judge.closed, &SlotCounts::default()).decision.verdict() == Verdict::Hold {
        requests += 1;
        feed(&mut judge, 1, &errors((0, 1), (0, 9)));
    }
    assert!((280..=450).contains(&requests), "{requests}");
}

#[test]
fn a_pause_stops_the_clock_and_not_the_evidence() {
    let healthy = errors((0, 1), (0, 9));
    let mut judge = Judge::new(&stepping(Until::soaked(minutes(2))), 0.1, Tick::ZERO);
    feed(&mut judge, 400, &healthy);
    judge.set_paused(true);
    assert_eq!(feed(&mut judge, 4000, &healthy), Decision::Hold(HoldReason::Paused));
    judge.set_paused(false);
    assert_eq!(feed(&mut judge, 79, &healthy), Decision::Hold(HoldReason::Soaking));
    assert_eq!(feed(&mut judge, 1, &healthy), Decision::Promote(Proof::Proven));
    judge.set_paused(true);
    assert_eq!(feed(&mut judge, 40, &errors((5, 5), (0, 45))).verdict(), Verdict::Rollback);
}

#[test]
fn a_mirror_step_counts_copies_and_is_held_when_they_fail() {
    let plan = stepping(Until::soaked(minutes(2)));
    let mut judge = Judge::new(&plan, 0.5, Tick::ZERO);
    judge.enter(&plan, 2, 0.5, Tick::ZERO);
    let no_copies = errors((0, 5), (0, 5));
    let copies = |bad| SlotCounts { copies: Tally { bad, total: 2 }, ..no_copies.clone() };
    assert_eq!(feed(&mut judge, 480, &no_copies), Decision::Hold(HoldReason::NotEnoughTraffic));
    assert_eq!(feed(&mut judge, 480, &copies(0)), Decision::Promote(Proof::Soaked));
    let held = Decision::Hold(HoldReason::Objective(errors_limit()));
    assert_eq!(feed(&mut judge, 40, &copies(2)), held);
}

#[test]
fn a_canary_that_gets_another_share_than_it_should_is_not_compared() {
    let dealt = |canary, stable| {
        let counts = errors((0, canary), (0, stable));
        SlotCounts { dealt: Pair { canary, stable }, ..counts }
    };
    let plan = stepping(Until::soaked(minutes(2)));
    for (counts, decision) in [
        (dealt(10, 90), Decision::Promote(Proof::Proven)),
        (dealt(20, 80), Decision::Hold(HoldReason::RoutingMismatch)),
        (dealt(1, 99), Decision::Hold(HoldReason::RoutingMismatch)),
    ] {
        let mut judge = Judge::new(&plan, 0.1, Tick::ZERO);
        assert_eq!(feed(&mut judge, 480, &counts), decision);
        let findings = judge.look(judge.closed, &counts);
        let is_off = findings.objectives[0].worse_than_stable.is_none();
        assert_eq!(is_off, decision.verdict() == Verdict::Hold);
        // Both fail: still a shared cause, comparison or not.
        let both = SlotCounts { dealt: counts.dealt, ..errors((5, 10), (45, 90)) };
        assert_eq!(feed(&mut judge, 40, &both), Decision::Hold(HoldReason::SharedCause));
    }
}

#[test]
fn what_nobody_watched_is_unknown_and_not_soaked() {
    let plan = stepping(Until::soaked(minutes(2)));
    let healthy = errors((0, 10), (0, 90));
    let mut judge = Judge::new(&plan, 0.1, Tick::ZERO);
    feed(&mut judge, 40, &healthy);
    // The machine slept for an hour.
    let after = judge.closed.after(minutes(60));
    let woken = judge.close_slot(after, &healthy).decision;
    assert_eq!(woken, Decision::Hold(HoldReason::Unknown));
    assert_eq!(feed(&mut judge, 239, &healthy), Decision::Hold(HoldReason::Unknown));
    assert_eq!(feed(&mut judge, 1, &healthy), Decision::Hold(HoldReason::Soaking));
    assert_eq!(feed(&mut judge, 200, &healthy).verdict(), Verdict::Promote);
}

#[test]
fn a_canary_without_endpoints_is_told_before_all_that_follows_from_it() {
    let gone = SlotCounts { canary_missing: true, ..SlotCounts::default() };
    let mut judge = Judge::new(&only(errors_limit()), 0.1, Tick::ZERO);
    assert_eq!(feed(&mut judge, 1, &gone), Decision::Hold(HoldReason::NoEndpoint));
}
