//! The complete tables, as they stand in `docs/judge.md`.

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use serin::rollout::judge::{Pair, SlotCounts};
use serin::rollout::verdict::Tally;
use serin::traffic::warm_up::WarmUp;

use crate::others::Others;
use crate::world::{HEALTHY, Model, Traffic, counts};
use crate::{Cell, Rollout, Row, chance, errors, prepared, slow};

/// Slots of a minute, in which a world stays as it is.
const MINUTE: u32 = 240;

/// What a world does with the counts of a slot: its number since the start, and canary requests
/// before it.
type Event = fn(u32, u64, &mut SlotCounts);

/// A world in which nothing is wrong with the canary.
#[derive(Clone, Copy)]
struct World {
    name: &'static str,
    rps: f64,
    /// Canary and stable in a minute after the start.
    models: fn(u32) -> [Model; 2],
    event: Event,
}

const QUIET: Event = |_, _, _| {};

const WORLDS: [World; 10] = [
    World { name: "healthy, 10 rps", rps: 10.0, models: |_| [HEALTHY; 2], event: QUIET },
    World { name: "healthy, 100 rps", rps: 100.0, models: |_| [HEALTHY; 2], event: QUIET },
    World {
        name: "exactly at both limits",
        rps: 100.0,
        models: |_| [Model { errors: 0.01, slow: 0.01 }, HEALTHY],
        event: QUIET,
    },
    World {
        name: "six outages of both, a minute each",
        rps: 100.0,
        models: |minute| {
            let is_down = minute % 240 == 120;
            [if is_down { Model { errors: 0.3, slow: 0.3 } } else { HEALTHY }; 2]
        },
        event: QUIET,
    },
    World {
        name: "20 canary requests reset, every 20 minutes",
        rps: 100.0,
        models: |_| [HEALTHY; 2],
        event: |slot, _, counts| {
            if slot % (20 * MINUTE) == 10 * MINUTE {
                counts.canary_attempts += 20;
                counts.objectives[0].canary += Tally { bad: 20, total: 20 };
                counts.objectives[0].relative_bad.canary += 20;
            }
        },
    },
    World {
        name: "a day's tide, to 0.8 % errors and 0.95 % slow",
        rps: 100.0,
        models: |minute| {
            let tide = 1.0 + 0.9 * (f64::from(minute) * std::f64::consts::TAU / 1440.0).sin();
            [Model { errors: 0.0042 * tide, slow: 0.005 * tide }; 2]
        },
        event: QUIET,
    },
    World {
        name: "both drift from 0.1 to 0.8 % errors",
        rps: 100.0,
        models: |minute| [Model { errors: 0.001 + f64::from(minute) * 4.9e-6, slow: 0.005 }; 2],
        event: QUIET,
    },
    World {
        name: "canary cold four times, without warm-up",
        rps: 100.0,
        models: |_| [HEALTHY; 2],
        event: |slot, _, counts| cold(slot, counts),
    },
    World {
        name: "canary cold four times, with it",
        rps: 100.0,
        models: |_| [HEALTHY; 2],
        event: |slot, seen, counts| {
            cold(slot, counts);
            let age = Duration::from_millis(250) * (slot % COLD_EVERY);
            if WarmUp::default().covers(Some(age), seen) {
                counts.objectives[1].canary = Tally::default();
                counts.objectives[1].relative_bad.canary = 0;
            }
        },
    },
    World {
        name: "both slow for the minute in which stable is young, four times",
        rps: 100.0,
        models: slow_while_stable_is_young,
        event: |slot, _, counts| {
            if without_stable(slot, counts) {
                counts.objectives[1].relative_bad = Pair::default();
            }
        },
    },
];

/// A shared store is slow for the minute after stable's endpoints were replaced.
fn slow_while_stable_is_young(minute: u32) -> [Model; 2] {
    let is_young = minute.is_multiple_of(COLD_EVERY / MINUTE);
    [if is_young { Model { slow: 0.05, ..HEALTHY } } else { HEALTHY }; 2]
}

/// For that minute nobody judges how slow stable is. Whether it is that minute.
fn without_stable(slot: u32, counts: &mut SlotCounts) -> bool {
    let is_young = slot % COLD_EVERY < MINUTE;
    if is_young {
        counts.objectives[1].stable = Tally::default();
        counts.objectives[1].relative_bad.stable = 0;
    }
    is_young
}

/// A new pod every six hours.
const COLD_EVERY: u32 = 6 * 60 * MINUTE;

/// For 20 seconds half of what a cold canary answers is slow.
fn cold(slot: u32, counts: &mut SlotCounts) {
    if slot % COLD_EVERY < 80 {
        let latency = &mut counts.objectives[1];
        let more = latency.canary.good() / 2;
        latency.canary.bad += more;
        latency.relative_bad.canary += more;
    }
}

impl World {
    /// One rollout of `hours`: whether it was rolled back by ours, and by the others.
    fn live(&self, hours: u32, seed: u64) -> [bool; 5] {
        let mut chance = fastrand::Rng::with_seed(seed);
        let (mut ours, mut others) = (Rollout::start(), Others::default());
        let (mut models, mut attempts) = ((self.models)(0), 0);
        let mut traffic = Traffic::new(self.rps, models);
        for slot in 0..hours * 60 * MINUTE {
            if slot % MINUTE == 0 && models != (self.models)(slot / MINUTE) {
                models = (self.models)(slot / MINUTE);
                traffic = Traffic::new(self.rps, models);
            }
            if slot % COLD_EVERY == 0 {
                attempts = 0;
            }
            let mut counts = traffic.slot(&mut chance);
            (self.event)(slot, attempts, &mut counts);
            attempts += counts.canary_attempts;
            others.close(&counts);
            if !ours.state.has_ended() {
                ours.close(&counts);
            }
        }
        let [a, b, c, d] = others.rolled_back;
        [ours.state.has_ended(), a, b, c, d]
    }
}

/// Does `jobs` numbered jobs on all cores, and gives what they came to in order.
fn on_all_cores<T: Send>(jobs: usize, job: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= jobs {
                        break;
                    }
                    let result = job(number);
                    done.lock().unwrap().push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

/// How many of `runs` rollouts of `hours` are rolled back by each, ours first.
fn blamed(world: &World, runs: usize, hours: u32, seed: u64) -> [usize; 5] {
    let lives = on_all_cores(runs, |run| world.live(hours, seed.wrapping_add(run as u64)));
    std::array::from_fn(|who| lives.iter().filter(|life| life[who]).count())
}

#[test]
fn windows_and_repeated_tests_blame_the_innocent_and_the_judge_does_not() {
    let seed = chance("beside others").u64(..);
    let [ours, flagger, _, window, _] = blamed(&WORLDS[1], 4, 2, seed);
    assert_eq!((ours, window), (0, 4), "Flagger's loop {flagger}");
}

/// With the grace, and with four cold starts of which each would be proof.
#[test]
fn a_cold_canary_is_not_blamed_while_it_is_young() {
    let seed = chance("cold start").u64(..);
    let [without, ..] = blamed(&WORLDS[7], 5, 1, seed);
    let [with, ..] = blamed(&WORLDS[8], 5, 1, seed);
    assert_eq!((without, with), (5, 0));
}

/// What is left of stable while one of its endpoints is young is nothing to compare with.
#[test]
fn a_canary_is_not_blamed_for_what_nobody_sees_of_a_young_stable() {
    let seed = chance("young stable").u64(..);
    let compared = World {
        event: |slot, _, counts| {
            without_stable(slot, counts);
        },
        ..WORLDS[9]
    };
    let [compared, ..] = blamed(&compared, 5, 1, seed);
    let [left_out, ..] = blamed(&WORLDS[9], 5, 1, seed);
    assert_eq!((compared, left_out), (5, 0));
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// `just sim`: minutes, so it is asked for by name.
#[test]
#[ignore = "minutes; run it with `just sim`"]
fn the_complete_table_of_false_rollbacks() {
    let (runs, hours) = (number("SERIN_SIM_RUNS", 200), number("SERIN_SIM_HOURS", 24));
    let hours = u32::try_from(hours).unwrap();
    let seed = chance("complete table").u64(..);
    println!("rolled back without fault, of {runs} rollouts of {hours} h, 10 % canary");
    let [a, b, c, d] = Others::NAMES;
    println!("| world | Serin | {a} | {b} | {c} | {d} |\n|---|---|---|---|---|---|");
    let mut table = Vec::new();
    for world in &WORLDS {
        let counts = blamed(world, runs, hours, seed);
        let share = |n: &usize| format!("{:.0} %", *n as f64 * 100.0 / runs as f64);
        let cells: Vec<_> = counts[1..].iter().map(share).collect();
        println!("| {} | {} of {runs} | {} |", world.name, counts[0], cells.join(" | "));
        table.push((world.name, counts[0]));
    }
    // At most 1 % of lives; three standard deviations of that above.
    let most = 0.01 * runs as f64 + 3.0 * (0.01 * runs as f64).sqrt();
    // A cold start without the grace is what the grace is for.
    let innocent = |name: &str| !name.contains("without warm-up");
    for (name, ours) in table.into_iter().filter(|(name, _)| innocent(name)) {
        assert!(ours as f64 <= most, "{name}: {ours}");
    }
}

/// What the canary turns to, and the published median and p95 of each column; 0 is not
/// published.
type Regression = (&'static str, Model, [(u64, u64); 4]);

/// The published table: each regression at 10, 100 and 1000 rps, and at 100 rps after 30 healthy
/// minutes.
const REGRESSIONS: [Regression; 7] = [
    ("100 % errors", errors(1.0), [(4, 6), (8, 13), (74, 89), (17, 22)]),
    ("20 % errors", errors(0.2), [(19, 44), (26, 56), (77, 99), (0, 0)]),
    ("10 % errors", errors(0.1), [(47, 133), (62, 136), (108, 181), (126, 213)]),
    ("5 % errors", errors(0.05), [(160, 396), (198, 427), (243, 473), (0, 0)]),
    ("2 % errors", errors(0.02), [(1779, 4214), (1886, 4301), (1972, 4594), (0, 0)]),
    ("20 % slow", slow(0.2), [(23, 59), (32, 60), (78, 106), (0, 0)]),
    ("5 % slow", slow(0.05), [(206, 412), (225, 495), (262, 464), (373, 631)]),
];

/// The columns of the table.
const COLUMNS: [(&str, f64, u64); 4] = [
    ("10 rps", 10.0, 0),
    ("100 rps", 100.0, 0),
    ("1000 rps", 1000.0, 0),
    ("100 rps, after 30 healthy minutes", 100.0, 30),
];

/// `just sim`: every row at every rate.
#[test]
#[ignore = "minutes; run it with `just sim`"]
fn the_complete_table_of_detection() {
    let runs = number("SERIN_SIM_CELL_RUNS", 1000);
    let seed = chance("detection").u64(..);
    println!("canary requests until the rollback, median / p95 (median time), {runs} runs a cell");
    println!("| the canary turns to | {} |", COLUMNS.map(|(name, ..)| name).join(" | "));
    println!("|---|---|---|---|---|");
    let columns = on_all_cores(COLUMNS.len(), |column| {
        let (_, rps, healthy) = COLUMNS[column];
        let mut chance = fastrand::Rng::with_seed(seed.wrapping_add(column as u64));
        let prepared = prepared(&mut chance, rps, Duration::from_mins(healthy), runs);
        let cells = REGRESSIONS.map(|(_, model, _)| Cell::of(&prepared, &mut chance, rps, model));
        Vec::from(cells)
    });
    let mut slower = Vec::new();
    for (row, (name, model, published)) in REGRESSIONS.iter().enumerate() {
        let mut line = format!("| {name} |");
        for (column, cells) in columns.iter().enumerate() {
            let cell: &Cell = &cells[row];
            let _ = write!(line, " {} / {} ({} s) |", cell.median(), cell.p95(), cell.seconds);
            let row: Row = (name, *model, published[column].0, published[column].1);
            if !cell.is_as_fast_as(row.2, row.3) {
                slower.push(format!(
                    "{name}, {}: published {:?}",
                    COLUMNS[column].0, published[column]
                ));
            }
        }
        println!("{line}");
    }
    assert!(slower.is_empty(), "slower than published: {slower:#?}");
}

/// A slot of nothing but resets is one event: what the world above does, as a table.
#[test]
fn a_reset_is_counted_as_the_world_says() {
    let mut slot = counts([5, 0, 0], [45, 0, 0]);
    (WORLDS[4].event)(10 * MINUTE, 0, &mut slot);
    assert_eq!((slot.canary_attempts, slot.objectives[0].canary.bad), (25, 20));
}
