//! Fleets of 3 to 1,000 replicas in simulated time, each with a clock of its own: how soon the
//! holder of the lease finds what one proxy with all of the traffic would have found, and what
//! that costs.

use std::fmt::Write;
use std::time::Duration;

use serin::control::fleet::pulls::pause;
use serin::rollout::fleet::election::RENEW_EVERY;
use serin::rollout::fleet::pool::{Counts, Measured, Pool, Positions, Report, Slot, Source};
use serin::rollout::judge::{Judge, SlotCounts};
use serin::rollout::record::Packed;
use serin::rollout::verdict::Verdict;
use serin::units::Tick;

use crate::world::{HEALTHY, Model, SHARE, Traffic};
use crate::{chance, default_set, errors, quantile};

/// From a replica's answer to the holder.
const WAY: u64 = 5;

/// As long as a slot is.
const SLOT_MS: u64 = 250;

/// How a breach was found, by whom.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Found {
    /// Canary attempts that were judged by then.
    judged: u64,
    /// Milliseconds after it began.
    at: u64,
}

/// One replica: when its slots end, when it is asked, and what it sees.
struct Replica {
    source: Source,
    phase: u64,
    asked: u64,
    closed: u64,
    slots: Vec<Slot>,
}

struct Outcome {
    one_proxy: Found,
    pooled: Found,
    /// Bytes of all answers, and how many there were, until it was found.
    bytes: usize,
    answers: u64,
}

fn at(millis: u64) -> Tick {
    Tick::new(Duration::from_millis(millis))
}

impl Replica {
    fn new(number: usize, chance: &mut fastrand::Rng, pause: u64) -> Self {
        let replica = format!("serin-7d9c5b6f4-{number:05}");
        Self {
            source: Source { replica, boot: format!("{:016x}", chance.u64(..)) },
            phase: chance.u64(0..SLOT_MS),
            asked: chance.u64(0..pause),
            closed: 0,
            slots: Vec::new(),
        }
    }

    /// Its next slot ends.
    fn close(&mut self, counts: &SlotCounts) {
        self.closed += 1;
        let now = at(self.phase + self.closed * SLOT_MS);
        let counts_of = Packed::new(now, counts);
        self.slots.push(Slot { slot: self.closed, turn: 0, share: SHARE, counts: counts_of });
    }

    /// What it answers, to who knows all up to the last answer.
    fn answer(&mut self) -> Report {
        let [rollout, version] = ["sentiment-v2", "2"].map(ToOwned::to_owned);
        let plan = "0123456789abcdef".to_owned();
        let slots = std::mem::take(&mut self.slots);
        let counts = Counts { rollout, version, era: 0, plan, turn: 0, end: None, slots };
        Report { source: self.source.clone(), slot: self.closed, rollouts: vec![counts] }
    }
}

/// A breach from the first slot on, in a fleet of `count` with `rps` in all.
fn find(chance: &mut fastrand::Rng, count: usize, rps: f64, model: Model) -> Outcome {
    let traffic = Traffic::new(rps / count as f64, [model, HEALTHY]);
    let every = u64::try_from(pause(count).as_millis()).unwrap();
    let mut replicas: Vec<_> =
        (0..count).map(|number| Replica::new(number, chance, every)).collect();
    let plan = default_set();
    let (mut one, mut holder) = (Judge::new(&plan, SHARE, at(0)), Judge::new(&plan, SHARE, at(0)));
    let measured = Measured::of(&plan);
    let mut pool =
        Pool::new((0, "0123456789abcdef".to_owned()), measured, Some(Positions::new()), at(0));
    let (mut one_proxy, mut pooled) = (None, None);
    let (mut seen_by_one, mut seen_by_pool) = (0, 0);
    let (mut bytes, mut answers) = (0, 0);
    let mut now = 0;
    while one_proxy.is_none() || pooled.is_none() {
        now += SLOT_MS;
        assert!(now < 3_600_000, "a breach was never found");
        // One proxy's slots are those of the holder's clock.
        let mut all = SlotCounts::default();
        for replica in &mut replicas {
            // The one slot of its own that ended since.
            let counts = traffic.slot(chance);
            add(&mut all, &counts);
            replica.close(&counts);
        }
        seen_by_one += all.canary_attempts;
        if one_proxy.is_none() && is_out(&mut one, now, &all) {
            one_proxy = Some(Found { judged: seen_by_one, at: now });
        }
        if pooled.is_some() {
            continue;
        }
        for replica in &mut replicas {
            while replica.asked + WAY <= now {
                // What has ended by then, and not what ends in the same slot but later.
                let ended = replica.phase + replica.closed * SLOT_MS <= replica.asked;
                let late = (!ended).then(|| replica.slots.pop()).flatten();
                let report = replica.answer();
                replica.slots.extend(late);
                bytes += serde_json::to_string(&report).unwrap().len();
                answers += 1;
                pool.take(&report.source, &report.rollouts[0], at(now));
                replica.asked += every * chance.u64(90..110) / 100;
            }
        }
        for counts in pool.close(0, SHARE, at(now)) {
            seen_by_pool += counts.canary_attempts;
            if pooled.is_none() && is_out(&mut holder, now, &counts) {
                pooled = Some(Found { judged: seen_by_pool, at: now });
            }
        }
    }
    let (one_proxy, pooled) = (one_proxy.unwrap(), pooled.unwrap());
    Outcome { one_proxy, pooled, bytes, answers }
}

fn is_out(judge: &mut Judge, now: u64, counts: &SlotCounts) -> bool {
    judge.close_slot(at(now), counts).decision.verdict() == Verdict::Rollback
}

fn add(sum: &mut SlotCounts, one: &SlotCounts) {
    sum.canary_attempts += one.canary_attempts;
    sum.stable_attempts += one.stable_attempts;
    sum.objectives.resize_with(one.objectives.len(), Default::default);
    for (sum, one) in sum.objectives.iter_mut().zip(&one.objectives) {
        sum.canary += one.canary;
        sum.stable += one.stable;
        sum.relative_bad.canary += one.relative_bad.canary;
        sum.relative_bad.stable += one.relative_bad.stable;
    }
}

/// The median of what `of` says.
fn median<T: Copy + Ord>(outcomes: &[Outcome], of: impl Fn(&Outcome) -> T) -> T {
    let mut all: Vec<_> = outcomes.iter().map(of).collect();
    all.sort_unstable();
    quantile(&all, 0.5)
}

#[test]
fn a_fleet_finds_what_one_proxy_finds_on_as_many_requests_and_a_second_later_at_most() {
    let mut chance = chance("fleet");
    for (count, share) in [3, 10].into_iter().flat_map(|n| [(n, 1.0), (n, 0.2), (n, 0.05)]) {
        let find = |_| find(&mut chance, count, 100.0, errors(share));
        let outcomes: Vec<_> = (0..100).map(find).collect();
        let one = median(&outcomes, |one| one.one_proxy.judged);
        let pooled = median(&outcomes, |one| one.pooled.judged);
        let mut later: Vec<_> =
            outcomes.iter().map(|one| one.pooled.at.saturating_sub(one.one_proxy.at)).collect();
        later.sort_unstable();
        let later = quantile(&later, 0.5);
        println!(
            "{count} replicas, {share} errors: {one} by one, {pooled} pooled, {later} ms later"
        );
        assert!(pooled as f64 <= 1.2 * one as f64, "{pooled} and not {one}");
        assert!(later <= 1000, "{later} ms later");
    }
}

#[test]
#[ignore = "the table of docs/kubernetes.md: just sim table_of_fleets"]
fn table_of_fleets() {
    let mut chance = chance("fleets");
    let mut text = String::from(
        "| replicas | rps | errors | one proxy | pooled | later | API writes/s | \
         events/s | answers/s | KiB/s |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (count, rps) in [(10, 1000.0), (100, 1000.0), (1000, 1000.0), (1000, 10_000.0)] {
        for share in [1.0, 0.2, 0.05] {
            let runs = if count < 1000 { 100 } else { 20 };
            let find = |_| find(&mut chance, count, rps, errors(share));
            let outcomes: Vec<_> = (0..runs).map(find).collect();
            let seconds = |millis: u64| millis as f64 / 1e3;
            let one = median(&outcomes, |one| one.one_proxy.at);
            let pooled = median(&outcomes, |one| one.pooled.at);
            let judged = [
                median(&outcomes, |one| one.one_proxy.judged),
                median(&outcomes, |one| one.pooled.judged),
            ];
            let bytes: usize = outcomes.iter().map(|one| one.bytes).sum();
            let answers: u64 = outcomes.iter().map(|one| one.answers).sum();
            let answer = bytes as f64 / answers as f64;
            let per_second = count as f64 / pause(count).as_secs_f64();
            let writes = 1.0 / RENEW_EVERY.as_secs_f64();
            let _ = writeln!(
                text,
                "| {count} | {rps} | {:.0} % | {} in {:.2} s | {} in {:.2} s | {:.2} s | \
                 {writes} | {:.0} | {per_second:.0} | {:.0} |",
                share * 100.0,
                judged[0],
                seconds(one),
                judged[1],
                seconds(pooled),
                seconds(pooled.saturating_sub(one)),
                count as f64 * writes,
                per_second * answer / 1024.0,
            );
        }
    }
    println!("{text}");
}
