use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::names::{RouteName, RuleId, RuleName, Version};
use crate::rollout::judge::{Earlier, Pair, SLOT, SlotTally};
use crate::rollout::objective::Objective;
use crate::rollout::plan::Breach;
use crate::rollout::record::Change;
use crate::rollout::step::{Step, Until};
use crate::rollout::verdict::{HoldReason, Tally};
use crate::units::Ratio;

fn ratio(value: f64) -> Ratio {
    Ratio::new(value).unwrap()
}

fn step(weight: f64, until: Until) -> Step {
    Step { weight: ratio(weight), mirror: None, until }
}

/// 5 % until proven, 25 % for two minutes, everything with a bake of five.
fn plan() -> Plan {
    let plan = Plan::watching(
        "v2".into(),
        RuleId { route: RouteName::new("r"), rule: RuleName::new("main") },
        ("stable".into(), "canary".into()),
        Version::new("1"),
        vec![Objective::errors(ratio(0.01)).unwrap()],
    );
    let minutes = |count| Until::soaked(Duration::from_mins(count));
    let steps = vec![step(0.05, Until::PROVEN), step(0.25, minutes(2)), step(1.0, minutes(5))];
    Plan { steps, ..plan }
}

/// A slot at 400 requests a second, dealt as the rollout says, with `bad` of ten failing.
fn slot(release: &Release, bad: u64) -> SlotCounts {
    let canary = (100.0 * release.share()).round() as u64;
    let counts = |total: u64, bad: u64| Tally { bad: total * bad / 10, total };
    let (canary, stable) = (counts(canary, bad), counts(100 - canary, 0));
    let relative_bad = Pair { canary: canary.bad, stable: stable.bad };
    SlotCounts {
        canary_attempts: canary.total,
        stable_attempts: stable.total,
        objectives: vec![SlotTally { canary, stable, relative_bad }],
        dealt: Pair { canary: canary.total, stable: stable.total },
        ..SlotCounts::default()
    }
}

/// Closes slots until something happens, `limit` at most: what, and after how long.
fn run(release: &mut Release, now: &mut Tick, bad: u64, limit: Duration) -> Option<Effect> {
    let end = now.after(limit);
    while *now < end {
        *now = now.after(SLOT);
        let counts = slot(release, bad);
        if let Some(effect) = release.close_slot(*now, &counts) {
            return Some(effect);
        }
    }
    None
}

#[test]
fn of_slots_that_come_at_once_every_one_is_judged_and_the_worst_stands() {
    let (mut release, mut now) = (Release::new(plan(), 0.0, Tick::ZERO), Tick::ZERO);
    let good = [slot(&release, 0)];
    let mut wish = None;
    while wish.is_none() {
        now = now.after(SLOT);
        assert!(now.since_start() < Duration::from_hours(1));
        wish = release.close_fleet_slots(now, &good, false);
    }
    assert_eq!(wish.and_then(|state| state.step()), Some(1));
    let mut all = vec![slot(&release, 10); 200];
    all.extend(good.clone());
    for _ in 0..2 {
        // The first allows to go on, or the last one does.
        all.reverse();
        let wish = release.clone().close_fleet_slots(now, &all, false);
        assert_eq!(wish.map(|state| state.as_str()), Some("rolled_back"));
    }
    assert_eq!(release.close_fleet_slots(now, &[], false), None);
}

#[test]
fn a_good_canary_is_promoted_through_every_step() {
    let (mut release, mut now) = (Release::new(plan(), 0.0, Tick::ZERO), Tick::ZERO);
    let day = Duration::from_hours(24);
    for (share, effect, seconds) in [
        (0.05, Effect::Stepped, 60..=61),
        (0.25, Effect::Stepped, 120..=120),
        (1.0, Effect::Promoted, 300..=300),
    ] {
        let began = now;
        assert!((release.share() - share).abs() < 1e-12);
        assert_eq!(run(&mut release, &mut now, 0, day), Some(effect));
        assert!(seconds.contains(&now.since(began).as_secs()), "{share}: {:?}", now.since(began));
    }
    assert_eq!(release.state().as_str(), "promoted");
    assert!((release.share() - 1.0).abs() < 1e-12);
    assert_eq!(run(&mut release, &mut now, 10, Duration::from_mins(1)), None);
}

#[test]
fn a_canary_that_turns_bad_goes_back_from_every_step() {
    for steps in 0..3 {
        let (mut release, mut now) = (Release::new(plan(), 0.0, Tick::ZERO), Tick::ZERO);
        for _ in 0..steps {
            run(&mut release, &mut now, 0, Duration::from_hours(1));
        }
        assert_eq!(run(&mut release, &mut now, 0, Duration::from_secs(30)), None);
        let began = now;
        let effect = run(&mut release, &mut now, 10, Duration::from_secs(10));
        assert_eq!(effect, Some(Effect::RolledBack), "step {steps}");
        assert!(now.since(began) < Duration::from_secs(2), "{:?}", now.since(began));
        assert!(release.share().abs() < 1e-12);
    }
}

#[test]
fn a_plan_taken_over_keeps_what_it_can() {
    let far = || {
        let (mut release, mut now) = (Release::new(plan(), 0.0, Tick::ZERO), Tick::ZERO);
        run(&mut release, &mut now, 0, Duration::from_hours(1));
        run(&mut release, &mut now, 0, Duration::from_secs(30));
        (release, now)
    };
    let finer = [0.05, 0.1, 0.2, 0.5].map(|weight| step(weight, Until::PROVEN)).to_vec();
    let other = vec![Objective::errors(ratio(0.02)).unwrap()];
    for (next, step, keeps) in [
        (plan(), 1, true),
        (Plan { steps: finer, ..plan() }, 2, true),
        (Plan { requests_min: 7, ..plan() }, 1, true),
        (Plan { objectives: other, ..plan() }, 0, false),
        (Plan { steps: Vec::new(), ..plan() }, 0, false),
    ] {
        let (mut release, now) = far();
        let changed = release.replan(&next, 0.5, now);
        assert_eq!(changed != Replanned::Same, next != plan());
        assert_eq!(release.state().step(), Some(step));
        assert_eq!(release.plan(), &next);
        let counts = SlotCounts::default();
        release.close_slot(now.after(SLOT), &counts);
        let total = release.findings().unwrap().objectives[0].canary.total;
        assert_eq!(total > 0, keeps, "{total}");
    }
}

#[test]
fn what_ended_stays_ended_under_another_form_of_its_plan() {
    let (mut release, mut now) = (Release::new(plan(), 0.0, Tick::ZERO), Tick::ZERO);
    run(&mut release, &mut now, 10, Duration::from_mins(1));
    assert_eq!(release.state().as_str(), "rolled_back");
    release.replan(&Plan { steps: Vec::new(), ..plan() }, 0.5, now);
    assert_eq!(release.state().as_str(), "rolled_back");
}

/// Where `release` stands after `edit`: by a reload, and by a restart.
fn edited(release: &Release, next: &Plan, now: Tick) -> [Release; 2] {
    let mut reloaded = release.clone();
    reloaded.replan(next, 0.0, now);
    let text = serde_json::to_string(&release.save(now).unwrap()).unwrap();
    let saved = serde_json::from_str(&text).unwrap();
    [reloaded, Release::restore(next.clone(), 0.0, now, &saved).0]
}

fn steps(of: &[(f64, Until)]) -> Plan {
    Plan { steps: of.iter().map(|(weight, until)| step(*weight, *until)).collect(), ..plan() }
}

#[test]
fn edited_steps_give_no_share_and_open_no_gate() {
    let (proven, told, bake) = (Until::PROVEN, Until::Told, Until::soaked(Duration::from_mins(30)));
    let shorter = Until::soaked(Duration::from_mins(20));
    let at_25 = [(0.01, proven), (0.05, proven), (0.25, proven), (0.5, proven)];
    let gated = [(0.1, proven), (0.1, told), (0.1, proven), (1.0, bake)];
    let baked = [(0.1, proven), (1.0, bake)];
    let step_pause = Some(Pause::Step);
    for (before, at, after, to, share, pause) in [
        // Fewer and higher steps, then the same number of higher ones.
        (&at_25[..], 2, &[(0.1, proven), (0.5, proven), (1.0, Until::AtOnce)][..], 0, 0.1, None),
        (&at_25, 2, &[(0.1, proven), (0.5, proven), (0.75, proven), (0.9, proven)], 0, 0.1, None),
        // At a gate: behind it, before it, and the gate itself.
        (&gated, 1, &[gated[0], gated[1], gated[2], (1.0, shorter)], 1, 0.1, step_pause.clone()),
        (&gated, 1, &[(0.1, bake), gated[1], gated[2], gated[3]], 0, 0.1, None),
        (&gated, 1, &[gated[0], gated[2], gated[3]], 0, 0.1, None),
        // No bake any more: what was not baked is not promoted.
        (&baked, 1, &[(0.1, proven), (1.0, Until::AtOnce)], 0, 0.1, None),
        (&baked, 1, &[(1.0, Until::AtOnce)], 0, 1.0, step_pause),
    ] {
        let mut release = Release::new(steps(before), 0.0, Tick::ZERO);
        for _ in 0..at {
            release.told(Tick::ZERO, Word::Promote);
        }
        let now = Tick::ZERO.after(SLOT);
        for release in edited(&release, &steps(after), now) {
            assert_eq!(release.state().step(), Some(to), "{before:?} {after:?}");
            assert!((release.share() - share).abs() < 1e-12, "{before:?} {after:?}");
            assert_eq!(release.state().pause(), pause.as_ref(), "{before:?} {after:?}");
        }
    }
}

#[test]
fn what_an_edit_begins_anew_is_to_be_proven_anew() {
    let (mut release, mut now) = (Release::new(plan(), 0.0, Tick::ZERO), Tick::ZERO);
    assert_eq!(run(&mut release, &mut now, 0, Duration::from_secs(58)), None);
    let next = steps(&[(0.04, Until::PROVEN), (0.5, Until::PROVEN)]);
    for mut release in edited(&release, &next, now) {
        let mut now = now;
        assert_eq!(run(&mut release, &mut now, 0, Duration::from_secs(50)), None);
        let effect = run(&mut release, &mut now, 0, Duration::from_mins(5));
        assert_eq!(effect, Some(Effect::Stepped));
    }
}

#[test]
fn no_edit_ends_a_pause() {
    let mut release = Release::new(plan(), 0.0, Tick::ZERO);
    release.told(Tick::ZERO, Word::Pause);
    let other = vec![Objective::errors(ratio(0.02)).unwrap()];
    for next in [
        steps(&[(0.04, Until::PROVEN), (0.5, Until::PROVEN)]),
        Plan { objectives: other, ..plan() },
        Plan { false_rollback: ratio(0.05), ..plan() },
    ] {
        let [mut reloaded, restored] = edited(&release, &next, Tick::ZERO);
        for release in [&reloaded, &restored] {
            assert_eq!(release.state().pause(), Some(&Pause::Operator), "{next:?}");
        }
        let mut now = Tick::ZERO;
        assert_eq!(run(&mut reloaded, &mut now, 0, Duration::from_mins(10)), None);
    }
}

/// What may happen to a rollout, beside time.
#[derive(Clone, Copy, Debug)]
enum Happens {
    Slots(u64, u16),
    Told(Word),
    Restart,
    Reload,
}

fn anything() -> impl Strategy<Value = Vec<Happens>> {
    let words = [Word::Promote, Word::Pause, Word::Resume, Word::Abort, Word::Reset];
    prop::collection::vec(
        prop_oneof![
            8 => (0..2_u64, 1..600_u16).prop_map(|(bad, slots)| Happens::Slots(bad * 10, slots)),
            6 => (1..600_u16).prop_map(|slots| Happens::Slots(0, slots)),
            4 => prop::sample::select(words.to_vec()).prop_map(Happens::Told),
            2 => Just(Happens::Restart),
            1 => Just(Happens::Reload),
        ],
        1..30,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Restarts and reloads in between change nothing that a person could see.
    #[test]
    fn a_rollout_that_was_interrupted_comes_to_the_same_end(
        events in anything(),
        pauses: bool,
    ) {
        let on_breach = if pauses { Breach::Pause } else { Breach::Rollback };
        let plan = || Plan { on_breach, ..plan() };
        let (mut whole, mut cut) =
            (Release::new(plan(), 0.0, Tick::ZERO), Release::new(plan(), 0.0, Tick::ZERO));
        let mut now = Tick::ZERO;
        for event in events {
            match event {
                Happens::Slots(bad, slots) => {
                    for _ in 0..slots {
                        now = now.after(SLOT);
                        let counts = slot(&whole, bad);
                        whole.close_slot(now, &counts);
                        cut.close_slot(now, &counts);
                    }
                }
                Happens::Told(word) => {
                    prop_assert_eq!(whole.told(now, word), cut.told(now, word));
                }
                Happens::Restart => {
                    if let Some(saved) = cut.save(now) {
                        let text = serde_json::to_string(&saved).unwrap();
                        let saved = serde_json::from_str(&text).unwrap();
                        let (restored, is_same) = Release::restore(plan(), 0.0, now, &saved);
                        prop_assert!(is_same);
                        cut = restored;
                    }
                }
                Happens::Reload => {
                    cut.replan(&Plan { requests_min: 101, ..plan() }, 0.0, now);
                    cut.replan(&plan(), 0.0, now);
                }
            }
            prop_assert_eq!(whole.state().as_str(), cut.state().as_str());
            prop_assert_eq!(whole.state().step(), cut.state().step());
            prop_assert_eq!(whole.state().known(), cut.state().known());
            prop_assert!((whole.share() - cut.share()).abs() < 1e-12);
        }
    }
}

/// The rollout in another process, which has just begun.
fn restarted(release: &Release, now: Tick) -> Release {
    let text = serde_json::to_string(&release.save(now).unwrap()).unwrap();
    let saved = serde_json::from_str(&text).unwrap();
    let (restored, is_same) = Release::restore(release.plan().clone(), 0.0, Tick::ZERO, &saved);
    assert!(is_same);
    restored
}

#[test]
fn a_breach_that_a_person_lets_go_on_stays_known() {
    let minute = Duration::from_mins(1);
    let pausing = Plan { on_breach: Breach::Pause, ..plan() };
    let (mut release, mut now) = (Release::new(pausing, 0.0, Tick::ZERO), Tick::ZERO);
    assert_eq!(run(&mut release, &mut now, 10, minute), Some(Effect::Paused));
    assert_eq!(release.told(now, Word::Resume), Some(Effect::Resumed));
    assert_eq!(run(&mut release, &mut now, 10, minute), None, "holding, and not paused again");
    assert_eq!(release.state().as_str(), "holding");
    assert_eq!(Change::of(&release).hold_reason.as_deref(), Some("errors <= 1%"));
    let mut again = restarted(&release, now);
    assert_eq!(run(&mut again, &mut Tick::ZERO.clone(), 10, minute), None, "nor after a restart");
    // The evidence is that of the step before.
    assert_eq!(release.told(now, Word::Promote), Some(Effect::Stepped));
    assert_eq!(run(&mut release, &mut now, 10, minute), None, "nor in the next step");
    assert_eq!(release.state().step(), Some(1));
}

#[test]
fn a_restart_sets_no_clock_back() {
    let minute = Duration::from_mins(1);
    let gone = SlotCounts { canary_missing: true, ..SlotCounts::default() };
    // A canary that was there and is gone, half of the time before the restart.
    let (mut release, mut now) = (Release::new(plan(), 0.0, Tick::ZERO), Tick::ZERO);
    assert_eq!(run(&mut release, &mut now, 0, Duration::from_secs(10)), None);
    for _ in 0..120 {
        now = now.after(SLOT);
        assert_eq!(release.close_slot(now, &gone), None);
    }
    let mut release = restarted(&release, now);
    let mut now = Tick::ZERO;
    let ends = (0..240).find(|_| {
        now = now.after(SLOT);
        release.close_slot(now, &gone) == Some(Effect::RolledBack)
    });
    assert!(ends.is_some() && now.since_start() < minute, "{now:?}");
    // One that got too much of the traffic is not proven by the first slot after it.
    let (mut release, mut now) = (Release::new(plan(), 0.0, Tick::ZERO), Tick::ZERO);
    let dealt = |release: &Release| {
        let counts = slot(release, 0);
        SlotCounts { dealt: Pair { canary: 30, stable: 70 }, ..counts }
    };
    for _ in 0..480 {
        now = now.after(SLOT);
        let counts = dealt(&release);
        assert_eq!(release.close_slot(now, &counts), None);
    }
    assert_eq!(release.state().hold().unwrap().reason, HoldReason::RoutingMismatch);
    let mut release = restarted(&release, now);
    let counts = dealt(&release);
    assert_eq!(release.close_slot(Tick::ZERO.after(SLOT), &counts), None);
    assert_eq!(release.state().hold().unwrap().reason, HoldReason::RoutingMismatch);
}

#[test]
fn a_restart_with_another_false_rollback_starts_afresh() {
    let (mut release, mut now) = (Release::new(plan(), 0.0, Tick::ZERO), Tick::ZERO);
    assert_eq!(run(&mut release, &mut now, 0, Duration::from_secs(10)), None);
    let saved = release.save(now).unwrap();
    let ratio = Objective::errors(ratio(0.01)).unwrap().with_ratio(3.0).unwrap();
    for next in [
        Plan { false_rollback: Ratio::new(0.05).unwrap(), ..plan() },
        // The same name, and yet another promise.
        Plan { objectives: vec![ratio], ..plan() },
    ] {
        let (mut restored, is_same) = Release::restore(next, 0.0, Tick::ZERO, &saved);
        assert!(!is_same);
        restored.close_slot(Tick::ZERO.after(SLOT), &SlotCounts::default());
        assert_eq!(restored.findings().unwrap().objectives[0].canary.total, 0);
    }
}

#[test]
fn what_was_assigned_in_an_earlier_step_proves_nothing_of_this_one() {
    let (mut release, mut now) = (Release::new(plan(), 0.0, Tick::ZERO), Tick::ZERO);
    for _ in 0..4 * 600 {
        now = now.after(SLOT);
        let counts = slot(&release, 0);
        let late = Earlier {
            attempts: counts.canary_attempts,
            objectives: vec![counts.objectives[0].canary],
        };
        let counts = SlotCounts { earlier: late, ..counts };
        assert_eq!(release.close_slot(now, &counts), None);
    }
    assert_eq!(release.state().hold().unwrap().reason, HoldReason::NotEnoughTraffic);
    // It is evidence all the same.
    let total = release.findings().unwrap().objectives[0].canary.total;
    assert_eq!(total, 4 * 600 * 5);
}

#[test]
fn a_look_that_finds_what_is_known_changes_nothing() {
    let alert = Plan { on_breach: Breach::Alert, ..plan() };
    let (mut release, mut now) = (Release::new(alert, 0.0, Tick::ZERO), Tick::ZERO);
    // Two bad slots are no proof, the look into the third is.
    assert_eq!(run(&mut release, &mut now, 10, 2 * SLOT), None);
    let counts = slot(&release, 10);
    let looked = release.look(now.after(SLOT / 2), &counts);
    assert_eq!(looked, Some(Looked { effect: None }));
    let (name, reason) = release.state().alarm();
    assert_eq!((name, reason.unwrap().is_breach()), ("holding", true));
    let before = release.clone();
    assert_eq!(release.look(now.after(SLOT / 2), &counts), None);
    assert_eq!((release.state(), release.findings()), (before.state(), before.findings()));
}

/// A slot without users, and with `count` probes of both versions.
fn probes(count: u64, canary_bad: u64, stable_bad: u64) -> SlotCounts {
    let tally = |bad| Tally { bad, total: count };
    SlotCounts { probes: [tally(canary_bad), tally(stable_bad)], ..SlotCounts::default() }
}

#[test]
fn probes_take_a_bad_canary_out_and_lead_no_good_one_on() {
    let probed = Plan { probed: true, ..plan() };
    // The limit counts twice: for users and for probes.
    assert!((probed.threshold() - 200.0).abs() < 1e-9 && (plan().threshold() - 100.0).abs() < 1e-9);
    let after = |canary_bad, stable_bad, restart_at: u32| {
        let mut release = Release::new(probed.clone(), 0.0, Tick::ZERO);
        let mut now = Tick::ZERO;
        for slot in 1..=1200_u32 {
            now = now.after(SLOT);
            if slot == restart_at {
                let text = serde_json::to_string(&release.save(now).unwrap()).unwrap();
                let saved = serde_json::from_str(&text).unwrap();
                release = Release::restore(probed.clone(), 0.0, Tick::ZERO, &saved).0;
                now = Tick::ZERO.after(SLOT);
            }
            // One each second.
            let counts =
                if slot % 4 == 0 { probes(1, canary_bad, stable_bad) } else { probes(0, 0, 0) };
            if let Some(effect) = release.close_slot(now, &counts) {
                return (Some((effect, slot / 4)), release);
            }
        }
        (None, release)
    };
    let (ended, release) = after(1, 0, 0);
    let (effect, seconds) = ended.unwrap();
    assert_eq!(effect, Effect::RolledBack);
    assert!((10..=25).contains(&seconds), "{seconds}");
    let cause = release.state().cause().unwrap();
    assert!(cause.text.starts_with("probes: errors <= 1%: canary 100"), "{}", cause.text);
    let last = cause.objectives.last().unwrap();
    assert_eq!((last.name.as_str(), last.canary.bad), ("probes: errors <= 1%", u64::from(seconds)));
    assert_eq!(after(1, 0, 30).0, Some((Effect::RolledBack, seconds)), "over a restart");
    for (canary, stable) in [(0, 0), (1, 1), (0, 1)] {
        let (ended, release) = after(canary, stable, 0);
        assert_eq!((ended, release.state().step()), (None, Some(0)), "{canary} {stable}");
        assert_eq!(release.state().hold().unwrap().reason, HoldReason::NotEnoughTraffic);
    }
}
