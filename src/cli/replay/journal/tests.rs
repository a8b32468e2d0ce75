use super::*;
use crate::names::{RouteName, RuleId, RuleName, Version};
use crate::rollout::judge::{Pair, SLOT, SlotTally};
use crate::rollout::objective::Quantile;
use crate::rollout::record::Change;
use crate::rollout::release::Release;
use crate::rollout::verdict::Tally;
use crate::units::Ratio;

fn plan(limit: f64) -> Plan {
    Plan::watching(
        "v2".into(),
        RuleId { route: RouteName::new("r"), rule: RuleName::new("main") },
        ("stable".into(), "canary".into()),
        Version::new("1"),
        vec![Objective::errors(Ratio::new(limit).unwrap()).unwrap()],
    )
}

/// A journal of a canary that fails 6 % of its requests beside a good stable.
fn journal() -> tempfile::NamedTempFile {
    let mut release = Release::new(plan(0.01), 0.1, Tick::ZERO);
    let mut lines = String::new();
    let mut write = |tick: u32, what| {
        let record = Record {
            at: format!("2026-11-21T10:{:02}:{:02}Z", tick / 240, tick / 4 % 60),
            tick: u64::from(tick) * 250,
            rollout: "v2".to_owned(),
            version: "1".to_owned(),
            what,
        };
        lines += &serde_json::to_string(&record).unwrap();
        lines.push('\n');
    };
    let (saved, begins) = (release.save(Tick::ZERO), Box::new(plan(0.01)));
    let config = String::new();
    let state = "progressing".to_owned();
    write(
        0,
        What::Begins { continues: false, plan: begins, configured: 0.1, config, state, saved },
    );
    for tick in 1..400 {
        let bad = u64::from(tick % 4 == 0);
        let canary = Tally { bad, total: 4 };
        let tally = SlotTally {
            canary,
            stable: Tally { bad: 0, total: 36 },
            relative_bad: Pair { canary: bad, stable: 0 },
        };
        let counts = SlotCounts {
            canary_attempts: 4,
            stable_attempts: 36,
            objectives: vec![tally],
            ..SlotCounts::default()
        };
        let now = Tick::new(SLOT * tick);
        let effect = release.close_slot(now, &counts);
        write(tick, What::Slots { slots: vec![Packed::new(now, &counts)] });
        if effect.is_some() {
            write(tick, What::Changed(Change::of(&release)));
        }
    }
    assert_eq!(release.state().as_str(), "rolled_back");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), lines).unwrap();
    file
}

#[test]
fn a_recorded_verdict_is_recomputed_to_the_same() {
    let file = journal();
    let outcome = recompute(file.path()).unwrap();
    assert!(outcome.is_same, "{}", outcome.text);
    assert!(outcome.text.contains("1 the same, 0 different, 0 without"), "{}", outcome.text);
    assert!(outcome.text.contains("rolled back: errors <= 1%: canary"), "{}", outcome.text);
    assert_eq!(outcome.json[0]["result"], "same");
}

#[test]
fn another_policy_is_told_with_its_moment_and_its_numbers() {
    let file = journal();
    for (policy, is_same, text) in [
        (plan(0.01), true, "this policy: rolled back at 2026-11-21T10:"),
        (plan(0.005), true, "this policy: rolled back at 2026-11-21T10:"),
        (plan(0.2), false, "this policy: not rolled back"),
    ] {
        let outcome = reconsider(file.path(), &policy).unwrap();
        assert_eq!(outcome.is_same, is_same, "{}", outcome.text);
        assert!(outcome.text.contains(text), "{}", outcome.text);
    }
    let slow = Objective::latency(Quantile::P99, Duration::from_millis(50));
    let policy = Plan { objectives: vec![slow], ..plan(0.01) };
    let outcome = reconsider(file.path(), &policy).unwrap();
    assert!(outcome.text.contains("no counts: latency p99 <= 50ms"), "{}", outcome.text);
}

#[test]
fn what_is_no_journal_is_said_to_be_none() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "hello\n{}\n").unwrap();
    assert!(recompute(file.path()).is_err());
    assert!(recompute(Path::new("/nowhere/at/all")).is_err());
}
