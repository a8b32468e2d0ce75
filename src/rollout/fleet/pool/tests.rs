use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::names::{RouteName, RuleId, RuleName, Version};
use crate::rollout::fleet::course::Position;
use crate::rollout::judge::{Earlier, Judge, SLOT};
use crate::rollout::objective::Objective;
use crate::rollout::plan::{Breach, Plan};
use crate::rollout::release::Release;
use crate::rollout::verdict::Verdict;
use crate::units::Ratio;

const SHARE: f64 = 0.1;

fn at(millis: u64) -> Tick {
    Tick::new(Duration::from_millis(millis))
}

fn source(replica: &str, boot: &str) -> Source {
    Source { replica: replica.to_owned(), boot: boot.to_owned() }
}

/// One objective, of errors: bad and all of the canary, and of stable.
fn slot_counts([canary_bad, canary, stable_bad, stable]: [u64; 4]) -> SlotCounts {
    let tally = SlotTally {
        canary: Tally { bad: canary_bad, total: canary },
        stable: Tally { bad: stable_bad, total: stable },
        relative_bad: Pair { canary: canary_bad, stable: stable_bad },
    };
    SlotCounts {
        canary_attempts: canary,
        stable_attempts: stable,
        objectives: vec![tally],
        dealt: Pair { canary, stable },
        ..SlotCounts::default()
    }
}

fn slot(number: u64, turn: u64, share: f64, counts: [u64; 4]) -> Slot {
    let counts = Packed::new(at(number * 250), &slot_counts(counts));
    Slot { slot: number, turn, share, counts }
}

/// Now, and how long an answer counts.
const NOW: (Tick, Duration) = (Tick::ZERO, Duration::from_secs(3));

fn report(turn: u64, slots: &[Slot]) -> Counts {
    let [rollout, version, plan] = ["chat", "2", "p"].map(ToOwned::to_owned);
    Counts { rollout, version, era: 0, plan, turn, end: None, slots: slots.to_vec() }
}

fn measured() -> Measured {
    Measured::of(&plan())
}

fn pool() -> Pool {
    Pool::new((0, "p".to_owned()), measured(), Some(Positions::new()), at(0))
}

/// Canary and stable, bad and all, of what a pool has closed.
fn sum(slots: &[SlotCounts]) -> [u64; 4] {
    slots.iter().flat_map(|slot| &slot.objectives).fold([0; 4], |sum, one| {
        let more = [one.canary.bad, one.canary.total, one.stable.bad, one.stable.total];
        std::array::from_fn(|index| sum[index] + more[index])
    })
}

#[test]
fn a_slot_counts_once_however_often_it_is_told() {
    let mut pool = pool();
    let slots = [slot(1, 0, SHARE, [1, 10, 0, 90]), slot(2, 0, SHARE, [2, 10, 0, 90])];
    for _ in 0..3 {
        pool.take(&source("a", "1"), &report(0, &slots), at(0));
        pool.take(&source("b", "1"), &report(0, &slots[1..]), at(0));
    }
    let closed = pool.close(0, SHARE, at(0));
    // The last slots of both are one.
    assert_eq!(closed.len(), 2);
    assert_eq!(sum(&closed[..1]), [1, 10, 0, 90]);
    assert_eq!(sum(&closed[1..]), [4, 20, 0, 180]);
    pool.take(&source("a", "1"), &report(0, &slots), at(0));
    assert_eq!(sum(&pool.close(0, SHARE, at(0))), [0; 4]);
    // A slot that was overtaken joins the open one.
    pool.take(&source("b", "1"), &report(0, &slots), at(0));
    assert_eq!(sum(&pool.close(0, SHARE, at(0))), [1, 10, 0, 90]);
    // Another start counts from its own beginning.
    pool.take(&source("a", "2"), &report(0, &slots[..1]), at(0));
    assert_eq!(sum(&pool.close(0, SHARE, at(0))), [1, 10, 0, 90]);
}

#[test]
fn the_next_holder_counts_neither_twice_nor_what_another_may_have_counted() {
    let slots = [slot(1, 0, SHARE, [1, 10, 0, 90]), slot(2, 0, SHARE, [2, 10, 0, 90])];
    let mut first = pool();
    first.take(&source("a", "1"), &report(0, &slots[..1]), at(0));
    first.close(0, SHARE, at(0));
    let of = |positions| Pool::new((0, "p".to_owned()), measured(), positions, at(0));
    let mut next = of(first.positions(1, at(0)));
    let mut blind = of(first.positions(0, at(0)));
    let minutes = |count: u64| at(count * 60_000);
    assert_eq!(first.positions(1, minutes(41)).unwrap().len(), 1);
    assert!(first.positions(0, minutes(42)).unwrap().is_empty(), "it is gone");
    for pool in [&mut next, &mut blind] {
        pool.take(&source("a", "1"), &report(0, &slots), at(0));
    }
    assert_eq!(sum(&next.close(0, SHARE, at(0))), [2, 10, 0, 90]);
    assert_eq!(sum(&blind.close(0, SHARE, at(0))), [0; 4]);
    blind.take(&source("a", "1"), &report(0, &[slot(3, 0, SHARE, [0, 5, 0, 5])]), at(0));
    assert_eq!(sum(&blind.close(0, SHARE, at(0))), [0, 5, 0, 5]);
}

#[test]
fn what_was_assigned_in_an_earlier_turn_proves_nothing_of_this_step() {
    let mut pool = pool();
    pool.take(&source("a", "1"), &report(1, &[slot(1, 1, 0.2, [1, 10, 2, 90])]), at(0));
    pool.take(&source("b", "1"), &report(0, &[slot(7, 0, SHARE, [1, 10, 2, 90])]), at(0));
    // Not known here yet.
    pool.take(&source("c", "1"), &report(2, &[slot(3, 2, 0.3, [1, 10, 2, 90])]), at(0));
    let closed = pool.close(1, 0.2, at(0));
    assert_eq!(sum(&closed), [2, 20, 4, 180]);
    assert_eq!(closed[0].objectives[0].relative_bad, Pair { canary: 1, stable: 2 });
    assert_eq!(closed[0].dealt, Pair { canary: 10, stable: 90 });
    let objectives = vec![Tally { bad: 1, total: 10 }];
    assert_eq!(closed[0].earlier, Earlier { attempts: 10, objectives });
    assert!(
        pool.is_beside(&source("b", "1"), 1, NOW) && !pool.is_beside(&source("a", "1"), 1, NOW)
    );
    assert_eq!(sum(&pool.close(2, 0.3, at(0))), [1, 10, 2, 90]);
}

#[test]
fn who_has_taken_it_out_or_says_nothing_any_more_is_beside() {
    let (mut pool, who, lasts) = (pool(), source("a", "1"), NOW.1);
    pool.take(&who, &report(0, &[]), at(0));
    assert!(!pool.is_beside(&who, 0, (at(3000), lasts)));
    assert!(pool.is_beside(&who, 0, (at(3001), lasts)), "it answers, but of other versions");
    pool.take(&who, &report(0, &[]), at(4000));
    assert!(!pool.is_beside(&who, 0, (at(4000), lasts)));
    let out = Counts { end: Some(End::Aborted), ..report(0, &[]) };
    pool.take(&who, &out, at(4000));
    assert!(pool.is_beside(&who, 0, (at(4000), lasts)));
}

#[test]
fn what_no_replica_counts_is_not_taken() {
    let good = || slot(3, 0, SHARE, [0, 10, 0, 90]);
    let slots = [
        good(),
        Slot { slot: 4, ..good() },
        Slot { slot: u64::MAX, ..good() },
        Slot { slot: 1, share: f64::NAN, ..good() },
        Slot { slot: 1, share: 1.5, ..good() },
        slot(2, 0, SHARE, [0, u64::MAX, 0, 0]),
    ];
    let rollouts = vec![report(0, &slots)];
    let told = Report { source: source("a", "1"), slot: 3, rollouts }.sound();
    assert_eq!(told.rollouts, [report(0, &[good()])]);
}

#[test]
fn parts_that_are_more_than_the_whole_and_words_that_are_the_holders_are_not_taken() {
    let honest = || slot_counts([2, 10, 0, 90]);
    let earlier =
        |attempts, bad, total| Earlier { attempts, objectives: vec![Tally { bad, total }] };
    let of = |counts: &SlotCounts| {
        let counts = Packed::new(at(250), counts);
        let mut pool = pool();
        let slots = [Slot { slot: 1, turn: 0, share: 1.0, counts }];
        pool.take(&source("a", "1"), &report(0, &slots), at(0));
        pool.close(0, 1.0, at(0))
    };
    for earlier in [earlier(10, 2, 10), earlier(0, 0, 0)] {
        assert_eq!(sum(&of(&SlotCounts { earlier, ..honest() })), [2, 10, 0, 90]);
    }
    for earlier in [earlier(11, 0, 0), earlier(0, 3, 10), earlier(0, 0, 11), earlier(0, 2, 1)] {
        let told = SlotCounts { earlier, ..honest() };
        assert_eq!(sum(&of(&told)), [0; 4], "{told:?}");
    }
    for counts in [[11, 10, 0, 90], [2, 10, 91, 90]] {
        assert_eq!(sum(&of(&slot_counts(counts))), [0; 4], "{counts:?}");
    }
    let apart = vec![Tally { bad: COUNT_MAX, total: COUNT_MAX }];
    let closed = of(&SlotCounts { apart, is_led: true, ..honest() });
    assert_eq!(closed, of(&honest()), "{closed:?}");
}

#[test]
fn a_sum_of_replicas_that_are_led_forgets_a_breach_that_is_over_and_none_that_it_has_yet_to_see() {
    let plan = Plan { on_breach: Breach::Pause, ..plan() };
    let known = Position { known: vec![plan.objectives[0].name()], ..Position::start(&plan) };
    // Found by the sum, and by a replica before the sum had any of it.
    for is_found_before in [true, false] {
        let (mut pool, mut release) = (pool(), Release::new(plan.clone(), 0.5, at(0)));
        let mut number = 0;
        // Each of them is led, for each is asked for its counts.
        let mut pauses = |release: &mut Release, bad: u64, slots: u64| {
            (0..slots).any(|_| {
                number += 1;
                let now = at(number * 250);
                let counts = SlotCounts { is_led: true, ..slot_counts([bad, 10, 0, 10]) };
                let counts = Packed::new(now, &counts);
                for name in ["a", "b"] {
                    let slot = Slot { slot: number, turn: 0, share: 0.5, counts: counts.clone() };
                    pool.take(&source(name, "1"), &report(0, &[slot]), now);
                }
                release.close_fleet_slots(now, &pool.close(0, 0.5, now), false).is_some()
            })
        };
        assert!(!is_found_before || pauses(&mut release, 5, 40));
        release.moved(at(0), &known);
        assert!(is_found_before || !pauses(&mut release, 0, 4));
        assert!(!pauses(&mut release, 5, 40), "a person let it go on");
        assert!(!pauses(&mut release, 0, 4_000));
        assert_eq!(release.state().known(), [""; 0], "it is over");
        assert!(pauses(&mut release, 5, 400), "another one");
    }
}

#[test]
fn counts_of_another_era_or_plan_are_not_taken() {
    let mut pool = pool();
    let slots = [slot(1, 0, SHARE, [1, 10, 0, 90])];
    let other = Counts { era: 1, ..report(0, &slots) };
    pool.take(&source("a", "1"), &other, at(0));
    let other = Counts { plan: "q".to_owned(), ..report(0, &slots) };
    pool.take(&source("b", "1"), &other, at(0));
    assert_eq!(sum(&pool.close(0, SHARE, at(0))), [0; 4]);
    assert!(pool.is_beside(&source("a", "1"), 0, NOW) && pool.is_beside(&source("b", "1"), 0, NOW));
}

/// All of one replica's attempts fail, whichever version they go to; the others' do not.
fn with_a_broken_way_out(share: f64, slots: u64) -> (Vec<SlotCounts>, Pool) {
    let (canary, stable) = ((20.0 * share) as u64, (20.0 * (1.0 - share)) as u64);
    let mut pool = pool();
    let mut closed = Vec::new();
    for number in 1..=slots {
        for (name, bad) in [("a", false), ("b", false), ("c", number > 2)] {
            let (canary_bad, stable_bad) = if bad { (canary, stable) } else { (0, 0) };
            let counts = [canary_bad, canary, stable_bad, stable];
            pool.take(&source(name, "1"), &report(0, &[slot(number, 0, share, counts)]), at(0));
        }
        closed.extend(pool.close(0, share, at(number * 250)));
    }
    (closed, pool)
}

fn plan() -> Plan {
    Plan::watching(
        "v2".into(),
        RuleId { route: RouteName::new("r"), rule: RuleName::new("main") },
        ("stable".into(), "canary".into()),
        Version::new("1"),
        vec![Objective::errors(Ratio::new(0.01).unwrap()).unwrap()],
    )
}

fn judged(plan: &Plan, share: f64, slots: &[SlotCounts]) -> Verdict {
    let mut judge = Judge::new(plan, share, at(0));
    let verdicts = (1..).zip(slots).map(|(n, counts)| judge.close_slot(at(n * 250), counts));
    verdicts.map(|findings| findings.decision.verdict()).max().unwrap()
}

#[test]
fn a_replica_that_nobody_answers_takes_no_version_out_for_all() {
    for share in [0.1, 0.5, 0.6, 1.0] {
        let (closed, pool) = with_a_broken_way_out(share, 200);
        assert_eq!(judged(&plan(), share, &closed), Verdict::Hold, "{share}");
        // Nor does it by itself: only what it saw.
        let own = plan().shared_out(3);
        let alone = (1..=200).map(|n| {
            let (canary, stable) = ((20.0 * share) as u64, (20.0 * (1.0 - share)) as u64);
            if n > 2 { [canary, canary, stable, stable] } else { [0, canary, 0, stable] }
        });
        let alone: Vec<_> = alone.map(slot_counts).collect();
        assert_eq!(judged(&own, share, &alone), Verdict::Hold, "{share}, alone");
        assert_eq!(pool.is_beside(&source("c", "1"), 0, NOW), share > 0.5);
        assert!(!pool.is_beside(&source("a", "1"), 0, NOW));
    }
}

#[test]
fn a_version_that_fails_everywhere_is_out_at_any_share() {
    for share in [0.1, 0.5, 0.6, 1.0] {
        let (canary, stable) = ((20.0 * share) as u64, (20.0 * (1.0 - share)) as u64);
        let mut pool = pool();
        let mut closed = Vec::new();
        for number in 1..=20 {
            for name in ["a", "b", "c"] {
                let counts = [canary, canary, 0, stable];
                let slots = [slot(number, 0, share, counts)];
                pool.take(&source(name, "1"), &report(0, &slots), at(0));
            }
            closed.extend(pool.close(0, share, at(number * 250)));
        }
        assert_eq!(judged(&plan(), share, &closed), Verdict::Rollback, "{share}");
    }
}

/// What a fleet comes to when its replicas' canary is bad so often, of ten: the verdict, the
/// slot of it, and the pool.
fn found(share: f64, bad_of_ten: &[u64], slots: u64) -> (Verdict, u64, Pool) {
    let (mut pool, plan) = (pool(), plan());
    let mut judge = Judge::new(&plan, share, at(0));
    for number in 1..=slots {
        let now = at(number * 250);
        for (index, bad) in bad_of_ten.iter().enumerate() {
            let canary = (20.0 * share) as u64;
            let counts = [canary * bad / 10, canary, 0, 20 - canary];
            let told = report(0, &[slot(number, 0, share, counts)]);
            pool.take(&source(&index.to_string(), "1"), &told, now);
        }
        for counts in pool.close(0, share, now) {
            let verdict = judge.close_slot(now, &counts).decision.verdict();
            if verdict == Verdict::Rollback {
                return (verdict, number, pool);
            }
        }
    }
    (Verdict::Hold, slots, pool)
}

#[test]
fn a_replica_that_is_partly_broken_takes_no_version_out_for_all() {
    for share in [0.6, 1.0] {
        for bad in [1, 2, 5, 9, 10] {
            let (verdict, _, pool) = found(share, &[0, bad, 0], 400);
            assert_eq!(verdict, Verdict::Hold, "{share} {bad}");
            let now = (at(400 * 250), NOW.1);
            assert!(pool.is_beside(&source("1", "1"), 0, now), "{share} {bad}: nobody goes on");
            assert!(!pool.is_beside(&source("0", "1"), 0, now));
            // One of every ten.
            let mut many = [0; 20];
            (many[3], many[7]) = (bad, bad);
            assert_eq!(found(share, &many, 400).0, Verdict::Hold, "{share} {bad}");
        }
    }
    // Two of three are the version.
    assert_eq!(found(1.0, &[0, 5, 5], 400).0, Verdict::Rollback);
    // With stable beside it a canary that fails at one replica alone is bad: users get errors.
    assert_eq!(found(0.5, &[0, 5, 0], 400).0, Verdict::Rollback);
}

#[test]
fn a_version_that_is_bad_everywhere_is_out_with_one_replica_left_out() {
    for replicas in [1, 2, 3, 10, 30] {
        for bad in [1, 2, 5, 10] {
            let (verdict, slot, _) = found(1.0, &vec![bad; replicas], 400);
            assert_eq!(verdict, Verdict::Rollback, "{replicas} {bad}");
            let (_, of_one, _) = found(1.0, &[bad], 400);
            // As if there were only one, at the worst.
            assert!(slot <= of_one, "{replicas} {bad}: {slot}, {of_one}");
        }
    }
}

#[test]
fn what_stands_apart_is_forgotten_when_it_is_over() {
    let (mut pool, who) = (pool(), source("b", "1"));
    let mut tell = |number: u64, bad: u64| {
        for (name, bad) in [("a", 0), ("b", bad)] {
            let told = report(0, &[slot(number, 0, 1.0, [bad, 200, 0, 0])]);
            pool.take(&source(name, "1"), &told, at(number * 250));
        }
        let closed = pool.close(0, 1.0, at(number * 250));
        let apart = closed[0].apart.first().copied().unwrap_or_default();
        (apart, pool.is_beside(&who, 0, (at(number * 250), NOW.1)))
    };
    assert_eq!(tell(1, 100), (Tally { bad: 100, total: 200 }, true));
    // Fifty bad ones too many are as many as are remembered: gone with 5,000 good ones.
    for number in 2..=26 {
        assert_eq!(
            tell(number, 0),
            (Tally { bad: 0, total: if number < 26 { 200 } else { 0 } }, true)
        );
    }
    // Ten seconds after the last bad one it is one of all again.
    assert_eq!(tell(41, 0), (Tally::default(), true));
    assert_eq!(tell(42, 0), (Tally::default(), false));
}

#[test]
fn who_is_led_leaves_it_to_the_fleet_above_half_and_judges_alone_when_it_is_not() {
    let own = plan().shared_out(3);
    let judged = |share: f64, is_led: bool| {
        let canary = (20.0 * share) as u64;
        let counts = slot_counts([canary / 2, canary, 0, 20 - canary]);
        judged(&own, share, &vec![SlotCounts { is_led, ..counts }; 200])
    };
    assert_eq!([0.1, 0.5].map(|share| judged(share, true)), [Verdict::Rollback; 2]);
    assert_eq!([0.6, 1.0].map(|share| judged(share, true)), [Verdict::Hold; 2]);
    assert_eq!([0.6, 1.0].map(|share| judged(share, false)), [Verdict::Rollback; 2]);
}

proptest! {
    /// Whatever one replica of several sees, and however little the others: where nothing tells
    /// by whose fault it is, it takes nothing out that the others find good.
    #[test]
    fn no_single_replica_is_the_fleet(
        traffic in proptest::collection::vec((0..40_u64, 0..40_u64, 1..30_u64), 1..200),
        share in prop_oneof![Just(0.6), Just(1.0)],
    ) {
        let (mut pool, plan) = (pool(), plan());
        let mut judge = Judge::new(&plan, share, at(0));
        for (number, (bad, good, others)) in (1..).zip(traffic) {
            let now = at(number * 250);
            for (name, counts) in [("a", [0, others, 0, 0]), ("b", [bad, bad + good, 0, 0]), ("c", [0, 1, 0, 0])] {
                pool.take(&source(name, "1"), &report(0, &[slot(number, 0, share, counts)]), now);
            }
            for counts in pool.close(0, share, now) {
                prop_assert_ne!(judge.close_slot(now, &counts).decision.verdict(), Verdict::Rollback);
            }
        }
    }

    /// Whatever is fetched in whatever order and however often, the sums are the same.
    #[test]
    fn the_order_of_fetching_does_not_matter(
        slots in proptest::collection::vec((0..3_usize, 1..40_u64, 0..5_u64, 0..50_u64), 1..60),
        order in proptest::collection::vec((0..60_usize, any::<bool>()), 0..200),
    ) {
        // Of each replica every number once.
        let mut all = BTreeMap::new();
        for (replica, number, bad, good) in slots {
            all.insert((replica, number), [bad, bad + good, 0, 10]);
        }
        let all: Vec<_> = all.into_iter().collect();
        let names = ["a", "b", "c"];
        let tell = |pool: &mut Pool, index: usize| {
            let ((replica, number), counts) = &all[index % all.len()];
            let slots = [slot(*number, 0, SHARE, *counts)];
            pool.take(&source(names[*replica], "1"), &report(0, &slots), at(0));
        };
        let (mut one, mut other) = (pool(), pool());
        let mut mixed = [0; 4];
        for (index, closes) in order {
            tell(&mut other, index);
            if closes {
                let more = sum(&other.close(0, SHARE, at(0)));
                mixed = std::array::from_fn(|index| mixed[index] + more[index]);
            }
        }
        for index in 0..all.len() {
            tell(&mut one, index);
            tell(&mut other, all.len() - 1 - index);
        }
        let more = sum(&other.close(0, SHARE, at(0)));
        let mixed: [u64; 4] = std::array::from_fn(|index| mixed[index] + more[index]);
        prop_assert_eq!(sum(&one.close(0, SHARE, at(0))), mixed);
    }

    /// What replicas counted slot by slot leads to the very findings of one proxy that had all
    /// of the traffic.
    #[test]
    fn many_replicas_are_judged_as_one_proxy(
        traffic in proptest::collection::vec(
            proptest::collection::vec((0..3_u64, 0..20_u64, 0..3_u64, 0..100_u64), 3), 1..60),
    ) {
        let plan = plan();
        let mut single = Judge::new(&plan, SHARE, at(0));
        let mut merged = Judge::new(&plan, SHARE, at(0));
        let mut pool = pool();
        for (number, replicas) in (1..).zip(&traffic) {
            let now = Tick::new(SLOT * u32::try_from(number).unwrap());
            let mut all = [0; 4];
            for (name, (bad, good, stable_bad, stable_good)) in ["a", "b", "c"].iter().zip(replicas) {
                let counts = [*bad, bad + good, *stable_bad, stable_bad + stable_good];
                all = std::array::from_fn(|index| all[index] + counts[index]);
                let slots = [slot(number, 0, SHARE, counts)];
                pool.take(&source(name, "1"), &report(0, &slots), now);
            }
            let closed = pool.close(0, SHARE, now);
            prop_assert_eq!(closed.len(), 1);
            let found = merged.close_slot(now, &closed[0]);
            prop_assert_eq!(found, single.close_slot(now, &slot_counts(all)));
        }
    }
}
