use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> Tick {
    Tick::new(Duration::from_secs(seconds))
}

/// Looks again and again; of each look the second and what came since of each endpoint.
struct World {
    rules: Ejection,
    records: Vec<Record>,
    well: Vec<bool>,
}

impl World {
    fn of(count: usize) -> Self {
        let records = vec![Record::new(Tick::ZERO); count];
        Self { rules: Ejection::default(), records, well: vec![true; count] }
    }

    /// Of each endpoint (ok, failed) since the last look; who is out then.
    fn look(&mut self, second: u64, news: &[(u64, u64)]) -> Vec<usize> {
        let candidates = self.records.iter().zip(news).zip(&self.well);
        let candidates: Vec<_> = candidates
            .map(|((record, (ok, failed)), is_well)| Candidate {
                record: *record,
                news: News { ok: *ok, failed: *failed, row: 0 },
                is_well: *is_well,
            })
            .collect();
        self.records = look(&self.rules, at(second), &candidates);
        self.out()
    }

    fn out(&self) -> Vec<usize> {
        let all = self.records.iter().enumerate();
        all.filter(|(_, record)| record.is_out()).map(|(index, _)| index).collect()
    }
}

const NONE: [usize; 0] = [];

#[test]
fn five_failures_in_a_row_take_it_out_and_a_success_between_them_does_not() {
    let mut world = World::of(3);
    assert_eq!(world.look(1, &[(9, 0), (9, 0), (0, 3)]), NONE);
    assert_eq!(world.look(2, &[(9, 0), (9, 0), (1, 3)]), NONE);
    assert_eq!(world.look(3, &[(9, 0), (9, 0), (0, 4)]), NONE);
    assert_eq!(world.look(4, &[(9, 0), (9, 0), (0, 1)]), [2]);
}

#[test]
fn a_row_that_one_worker_saw_counts_although_another_one_had_luck() {
    let rules = Ejection::default();
    let record = Record::new(Tick::ZERO);
    let news = News { ok: 1, failed: 5, row: 5 };
    let bad = Candidate { record, news, is_well: true };
    let good = Candidate { record, news: News::default(), is_well: true };
    let records = look(&rules, at(1), &[bad, good]);
    assert!(records[0].is_out() && !records[1].is_out());
    // The same row again, without anything new, is not held against it twice.
    let old = Candidate { record, news: News { row: 9, ..News::default() }, is_well: true };
    assert!(!look(&rules, at(1), &[old, good])[0].is_out());
}

#[test]
fn each_time_it_is_out_for_twice_as_long_and_good_times_make_up_for_it() {
    let mut world = World::of(2);
    let mut now = 0;
    for seconds in [10, 20, 40, 80, 160, 300, 300] {
        assert_eq!(world.look(now, &[(0, 0), (0, 5)]), [1]);
        assert_eq!(world.look(now + seconds - 1, &[(0, 0); 2]), [1], "{seconds}");
        now += seconds;
        assert_eq!(world.look(now, &[(0, 0); 2]), NONE, "{seconds}");
    }
    for _ in 0..10 {
        now += 10;
        world.look(now, &[(10, 0); 2]);
    }
    assert_eq!(world.look(now, &[(0, 0), (0, 5)]), [1]);
    assert_eq!(world.look(now + 10, &[(0, 0); 2]), NONE);
}

#[test]
fn half_of_them_at_most_are_out_and_never_the_last() {
    let mut world = World::of(4);
    assert_eq!(world.look(1, &[(0, 9); 4]).len(), 2);
    assert_eq!(World::of(1).look(1, &[(0, 9)]), NONE);
    assert_eq!(World::of(2).look(1, &[(0, 9); 2]).len(), 1);
    // Of three, health checks took one and another one is out: the last one stays.
    let mut world = World::of(3);
    world.rules.share_max = Ratio::ONE;
    world.well = vec![true, true, false];
    assert_eq!(world.look(1, &[(0, 9), (0, 9), (0, 0)]).len(), 1);
}

#[test]
fn one_that_does_worse_than_the_others_is_out_at_the_end_of_an_interval() {
    // Every third fails, never five in a row.
    let mut world = World::of(2);
    let mut second = 0;
    for _ in 0..9 {
        second += 1;
        assert_eq!(world.look(second, &[(20, 0), (14, 6)]), NONE);
    }
    assert_eq!(world.look(second + 1, &[(20, 0), (14, 6)]), [1]);
}

#[test]
fn what_fails_everywhere_or_seldom_or_is_hardly_asked_is_no_outlier() {
    for news in [[(14, 6), (14, 6)], [(20, 0), (17, 3)], [(20, 0), (2, 1)], [(2, 0), (14, 6)]] {
        let mut world = World::of(2);
        for second in 1..=30 {
            assert_eq!(world.look(second, &news), NONE, "{news:?}");
        }
    }
}

#[test]
fn in_panic_those_that_are_out_serve_again_but_not_those_that_are_unwell() {
    let rules = Ejection::default();
    for (endpoints, serving) in [
        // Well and not out.
        (&[(true, false), (true, true)][..], &[true, false][..]),
        (&[(true, false), (true, true), (false, false)], &[true, true, false]),
        (
            &[(true, false), (true, true), (true, false), (false, false)],
            &[true, false, true, false],
        ),
        (&[(false, true), (false, false)], &[false, false]),
        (&[], &[]),
    ] {
        assert_eq!(in_rotation(&rules, endpoints), serving, "{endpoints:?}");
    }
}

proptest! {
    #[test]
    fn whatever_happens_one_that_is_well_serves(
        looks in prop::collection::vec(
            prop::collection::vec((0u64..20, 0u64..20, any::<bool>()), 4), 1..40),
        share in 0.0f64..=1.0,
    ) {
        let mut world = World::of(4);
        world.rules.share_max = Ratio::new(share).unwrap();
        for (second, news) in looks.iter().enumerate() {
            world.well = news.iter().map(|one| one.2).collect();
            let news: Vec<_> = news.iter().map(|one| (one.0, one.1)).collect();
            world.look(second as u64, &news);
            let pairs: Vec<_> =
                world.well.iter().copied().zip(world.records.iter().map(Record::is_out)).collect();
            let serving = in_rotation(&world.rules, &pairs);
            for ((is_well, _), serves) in pairs.iter().zip(&serving) {
                prop_assert!(*is_well || !serves);
            }
            prop_assert_eq!(pairs.iter().any(|one| one.0), serving.iter().any(|one| *one));
            let out = world.out().len();
            prop_assert!(out as f64 <= 4.0 * share);
        }
    }
}
