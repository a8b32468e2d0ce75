use super::*;

#[test]
fn none_and_one_need_no_draw() {
    assert_eq!(choose(0, 42, |_| 0), None);
    assert_eq!(choose(1, 42, |_| 9), Some((0, 0)));
}

#[test]
fn the_idle_one_of_two_is_always_chosen() {
    let mut draws = fastrand::Rng::with_seed(1);
    for _ in 0..1000 {
        assert_eq!(choose(2, draws.u64(..), |index| [5, 1][index]), Some((1, 0)));
    }
}

#[test]
fn equals_get_equal_shares() {
    let mut draws = fastrand::Rng::with_seed(2);
    let mut counts = [0u32; 5];
    for _ in 0..50_000 {
        counts[choose(5, draws.u64(..), |_| 0).unwrap().0] += 1;
    }
    // Mean 10,000, standard deviation 89.
    assert!(counts.iter().all(|count| (9_600..10_400).contains(count)), "{counts:?}");
}

#[test]
fn a_busy_one_is_spared_but_the_ends_of_the_draws_are_safe() {
    for draw in [0, u64::MAX, u64::MAX << 32, u64::MAX >> 32] {
        let (one, other) = choose(3, draw, |_| 0).unwrap();
        assert!(one < 3 && other < 3 && one != other);
    }
    let mut draws = fastrand::Rng::with_seed(3);
    assert!((0..1000).all(|_| choose(3, draws.u64(..), |i| [0, 0, 9][i]).unwrap().0 != 2));
}

fn at(seconds: u64) -> Tick {
    Tick::new(Duration::from_secs(seconds))
}

/// After one answer at second 1.
fn took(millis: u64) -> Latency {
    Latency::default().observe(Duration::from_millis(millis), false, at(1))
}

fn cost(latency: Latency, in_flight: u32, second: u64) -> Cost {
    Cost::new(latency, in_flight, at(second))
}

#[test]
fn a_slow_one_is_spared_at_once_and_tried_again_later() {
    let (fast, slow) = (took(20), took(200));
    assert!(cost(slow, 0, 1) > cost(fast, 8, 1));
    assert!(cost(slow, 0, 1) < cost(fast, 10, 1));
    // One fast answer does not make up for it, a while does.
    let after = slow.observe(Duration::from_millis(20), false, at(1));
    assert!(cost(after, 0, 1) > cost(fast, 8, 1));
    let after = slow.observe(Duration::from_millis(20), false, at(121));
    let known = fast.observe(Duration::from_millis(20), false, at(121));
    assert!(cost(after, 0, 121) <= cost(known, 0, 121));
    // Nobody has asked for two minutes: tried again.
    assert!(cost(slow, 0, 121) < cost(known, 0, 121));
    assert!(cost(slow, 0, 11) > cost(known, 5, 121));
}

#[test]
fn a_stall_is_forgotten_with_answers_not_with_time_alone() {
    let usual = took(10);
    let mut stalled = usual.observe(Duration::from_millis(100), false, at(1));
    assert!(cost(stalled, 0, 1) > cost(usual, 8, 1));
    for _ in 0..20 {
        stalled = stalled.observe(Duration::from_millis(10), false, at(1));
    }
    assert!(cost(stalled, 0, 1) < cost(took(100), 0, 1));
    assert!(cost(stalled, 0, 1) < cost(usual, 2, 1));
}

#[test]
fn where_latencies_are_alike_or_tiny_requests_in_flight_decide() {
    for (one, other) in [(took(100), took(140)), (took(1), took(5)), (took(3), took(1))] {
        assert_eq!(cost(one, 0, 1).partial_cmp(&cost(other, 0, 1)), Some(Ordering::Equal));
        assert!(cost(one, 1, 1) > cost(other, 0, 1) && cost(one, 3, 1) < cost(other, 4, 1));
    }
}

#[test]
fn a_failure_makes_it_dearer_but_one_is_soon_forgotten() {
    let (good, mut bad) = (took(20), took(20));
    bad = bad.observe(Duration::ZERO, true, at(1));
    assert!(cost(bad, 0, 1) > cost(good, 0, 1));
    assert!(cost(bad, 0, 1) < cost(good, 2, 1));
    let later = good.observe(Duration::from_millis(20), false, at(21));
    assert_eq!(cost(bad, 0, 21).partial_cmp(&cost(later, 0, 21)), Some(Ordering::Equal));
    for _ in 0..20 {
        bad = bad.observe(Duration::ZERO, true, at(1));
    }
    assert!(cost(bad, 0, 1) > cost(good, 48, 1));
    assert!(cost(bad, 0, 1) < cost(good, 52, 1));
}

#[test]
fn a_new_one_is_tried_once_before_it_is_measured() {
    let (new, known) = (Latency::default(), took(50));
    assert!(cost(new, 0, 1) < cost(known, 0, 1));
    assert!(cost(new, 1, 1) > cost(known, 1, 1));
    assert!(cost(new, 1, 1) > cost(new, 0, 1));
}

#[test]
fn turns_go_round() {
    assert_eq!(in_turn(0, 7), None);
    assert_eq!((0..5).map(|turn| in_turn(3, turn).unwrap()).collect::<Vec<_>>(), [0, 1, 2, 0, 1]);
}

#[test]
fn the_keys_of_one_that_is_gone_are_shared_by_the_others_and_no_other_key_moves() {
    let seeds = [11, 22, 33, 44, 55];
    let all = |key| rendezvous(5, key, |index| seeds[index], |_| 1.0).unwrap();
    let without_last = |key| rendezvous(4, key, |index| seeds[index], |_| 1.0).unwrap();
    let mut counts = [0u32; 5];
    for key in 0..50_000 {
        let index = all(key);
        counts[index] += 1;
        assert!(index == 4 || without_last(key) == index);
    }
    assert!(counts.iter().all(|count| (9_600..10_400).contains(count)), "{counts:?}");
    assert_eq!(rendezvous(0, 7, |_| 0, |_| 1.0), None);
}

#[test]
fn in_a_slow_start_keys_only_move_to_the_new_one() {
    let at = |weight: f64, key| {
        rendezvous(3, key, |seed| seed as u64, |i| [1.0, 1.0, weight][i]).unwrap()
    };
    let mut moved = 0u32;
    for key in 0..30_000 {
        let (early, late) = (at(0.1, key), at(1.0, key));
        assert!(early == late || late == 2);
        moved += u32::from(early == 2);
    }
    // A tenth against two whole ones: 1429, standard deviation 37.
    assert!((1_270..1_590).contains(&moved), "{moved}");
}

#[test]
fn a_slow_start_rises_from_a_tenth_to_the_whole() {
    let (at, window) = (|s| Tick::new(Duration::from_secs(s)), Some(Duration::from_secs(30)));
    let shares: Vec<_> = [10, 25, 40, 90].map(|now| ramp(Some(at(10)), at(now), window)).to_vec();
    assert_eq!(shares, [0.1, 0.5, 1.0, 1.0]);
    assert_eq!((ramp(None, at(1), window), ramp(Some(at(1)), at(1), None)), (1.0, 1.0));
    let mut draws = fastrand::Rng::with_seed(4);
    let taken = (0..10_000).filter(|_| ramp_takes(0.1, draws.u64(..))).count();
    assert!((880..1_120).contains(&taken), "{taken}");
}
