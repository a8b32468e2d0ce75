use proptest::prelude::*;

use super::*;
use crate::names::{RouteName, RuleId, RuleName, Version};
use crate::rollout::judge::{Earlier, SLOT};
use crate::rollout::machine::{Effect, Pause};
use crate::rollout::objective::{Objective, Quantile};
use crate::rollout::plan::Breach;
use crate::rollout::release::Replanned;
use crate::rollout::step::{Copies, Step, Until};
use crate::units::Ratio;

fn ratio(value: f64) -> Ratio {
    Ratio::new(value).unwrap()
}

fn plan() -> Plan {
    let step = |weight, until| Step { weight: ratio(weight), mirror: None, until };
    let minute = Until::soaked(Duration::from_mins(1));
    let copies = Copies { share: ratio(0.1), methods: vec![http::Method::POST] };
    let shadowed = Step { mirror: Some(copies), ..step(0.05, minute) };
    let plan = Plan::watching(
        "v2".into(),
        RuleId { route: RouteName::new("r"), rule: RuleName::new("main") },
        ("stable".into(), "canary".into()),
        Version::new("1"),
        vec![
            Objective::errors(ratio(0.01)).unwrap(),
            Objective::latency(Quantile::P99, Duration::from_millis(200)),
        ],
    );
    let steps = vec![step(0.05, minute), shadowed, step(0.5, Until::PROVEN)];
    Plan { steps, probed: true, ..plan }
}

/// Writes down what it does.
struct Recorder {
    release: Release,
    now: Tick,
    records: Vec<Record>,
    /// The first record of the present file.
    file: usize,
}

impl Recorder {
    fn start() -> Self {
        let release = Release::new(plan(), 0.1, Tick::ZERO);
        let mut recorder = Self { release, now: Tick::ZERO, records: Vec::new(), file: 0 };
        recorder.begin(false);
        recorder
    }

    fn write(&mut self, what: What) {
        self.records.push(Record {
            at: "2026-11-21T10:00:00Z".to_owned(),
            tick: self.now.since_start().as_millis() as u64,
            rollout: "v2".to_owned(),
            version: "1".to_owned(),
            what,
        });
    }

    fn begin(&mut self, continues: bool) {
        self.write(What::Begins {
            continues,
            plan: Box::new(self.release.plan().clone()),
            configured: 0.1,
            config: "hash".to_owned(),
            state: self.release.state().to_string(),
            saved: self.release.save(self.now),
        });
    }

    fn change(&mut self) {
        self.write(What::Changed(Change::of(&self.release)));
    }

    fn counts(bad: u64) -> SlotCounts {
        let (canary, stable) = (Tally { bad, total: 5 }, Tally { bad: 0, total: 90 });
        let tally = SlotTally { canary, stable, relative_bad: Pair { canary: bad, stable: 0 } };
        let earlier = Tally { bad: 0, total: bad / 3 };
        SlotCounts {
            canary_attempts: 5,
            stable_attempts: 90,
            objectives: vec![tally; 2],
            dealt: Pair { canary: 5, stable: 90 },
            copies: Tally { bad, total: 5 },
            probes: [Tally { bad: bad / 2, total: 2 }, Tally { bad: 0, total: 2 }],
            earlier: Earlier { attempts: bad / 3, objectives: vec![earlier; 2] },
            ..SlotCounts::default()
        }
    }

    fn slot(&mut self, bad: u64) {
        self.now = self.now.after(SLOT);
        let counts = Self::counts(bad);
        let before = self.release.state().alarm();
        let effect = self.release.close_slot(self.now, &counts);
        self.write(What::Slots { slots: vec![Packed::new(self.now, &counts)] });
        if effect.is_some() || before != self.release.state().alarm() {
            self.change();
        }
    }

    /// Looks into a slot before its end.
    fn look(&mut self, bad: u64) {
        let now = self.now.after(SLOT / 2);
        let counts = Self::counts(bad);
        if self.release.look(now, &counts).is_some() {
            self.now = now;
            self.write(What::Looked { slot: Packed::new(now, &counts) });
            self.change();
        }
    }

    /// The journal's file is full, and another one begins in the middle of a slot.
    fn rotate(&mut self) {
        self.now = self.now.after(SLOT / 2);
        self.file = self.records.len();
        self.begin(true);
    }

    /// Nobody looks for so long: the machine sleeps, or its clock is set.
    fn jump(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
        self.slot(0);
    }

    /// The process ends and begins again, with what it had written down and `plan`.
    fn restart(&mut self, plan: Plan) {
        let saved = self.release.save(self.now);
        self.now = Tick::ZERO;
        self.release = match saved {
            Some(saved) => {
                let text = serde_json::to_string(&saved).unwrap();
                let saved = serde_json::from_str(&text).unwrap();
                Release::restore(plan, 0.1, self.now, &saved).0
            }
            None => Release::new(plan, 0.1, self.now).ended(self.release.state().clone()),
        };
        self.begin(false);
    }

    /// Another file is read.
    fn reload(&mut self, next: &Plan) {
        if self.release.replan(next, 0.1, self.now) != Replanned::Same {
            self.release.set_configured(0.1);
            let (plan, config) = (Box::new(next.clone()), "other".to_owned());
            self.write(What::Replanned { plan, configured: 0.1, config });
        }
    }

    /// The fleet is in another place: of this form of the plan, or of another one.
    fn moved(&mut self, step: usize, is_paused: bool) {
        let steps = &self.release.plan().steps;
        let to = Position {
            step: step % steps.len(),
            share: Some(steps[step % steps.len()].weight).filter(|_| step.is_multiple_of(2)),
            pause: is_paused.then_some(Pause::Operator),
            known: ["errors <= 1%".to_owned()].into_iter().filter(|_| step == 5).collect(),
            promoted: step == 6,
        };
        let known = self.release.state().known().to_vec();
        let effect = self.release.moved(self.now, &to);
        if effect.is_some() || known != self.release.state().known() {
            self.write(What::Moved { to, by: "replica a".to_owned() });
        }
        if effect.is_some() {
            self.change();
        }
    }

    fn told(&mut self, word: Word) {
        let effect = self.release.told(self.now, word);
        if matches!(effect, None | Some(Effect::Refused(_))) {
            return;
        }
        self.write(What::Told { word, by: None });
        if effect == Some(Effect::Restarted) {
            self.begin(false);
        }
        self.change();
    }
}

fn lines(records: &[Record]) -> String {
    records.iter().map(|record| serde_json::to_string(record).unwrap() + "\n").collect()
}

#[test]
fn a_slot_is_packed_without_loss() {
    let tally = |bad, total| Tally { bad, total };
    let objective = SlotTally {
        canary: tally(1, 5),
        stable: tally(2, 90),
        relative_bad: Pair { canary: 1, stable: 2 },
    };
    let full = SlotCounts {
        earlier: Earlier { attempts: 2, objectives: vec![tally(0, 0), tally(1, 2)] },
        probes: [tally(1, 3), tally(0, 3)],
        canary_attempts: 5,
        stable_attempts: 90,
        objectives: vec![SlotTally::default(), objective],
        dealt: Pair { canary: 6, stable: 91 },
        copies: tally(3, 4),
        apart: vec![tally(0, 1), tally(0, 0)],
        is_led: true,
        canary_missing: true,
        stable_missing: true,
    };
    let now = Tick::new(Duration::from_millis(1250));
    let empty = SlotCounts { objectives: vec![SlotTally::default(); 2], ..SlotCounts::default() };
    for (counts, text) in [
        (&full, "[1250,5,90,6,91,3,4,7,0,0,0,0,0,0,1,5,2,90,1,2,2,1,3,0,3,0,0,1,2,0,1]"),
        (&empty, "[1250]"),
    ] {
        let packed = Packed::new(now, counts);
        assert_eq!(serde_json::to_string(&packed).unwrap(), text);
        assert_eq!(packed.open(2), (now, counts.clone()));
    }
}

#[test]
fn every_kind_of_record_survives_being_written() {
    let mut recorder = Recorder::start();
    for _ in 0..250 {
        recorder.slot(0);
    }
    recorder.told(Word::Pause);
    recorder.write(What::Shared { configured: 0.2 });
    let (plan, config) = (Box::new(plan()), "other".to_owned());
    recorder.write(What::Replanned { plan, configured: 0.2, config });
    (0..9).for_each(|_| recorder.slot(5));
    assert_eq!(recorder.release.state().as_str(), "rolled_back");
    let (parsed, broken) = parse(lines(&recorder.records).as_bytes());
    assert_eq!(broken, 0);
    assert_eq!(parsed.len(), recorder.records.len());
    for (parsed, record) in parsed.iter().zip(&recorder.records) {
        assert_eq!(parsed.tick, record.tick);
        let kind = |record: &Record| std::mem::discriminant(&record.what);
        assert_eq!(kind(parsed), kind(record));
        if let (What::Begins { plan, .. }, What::Begins { plan: was, .. }) =
            (&parsed.what, &record.what)
        {
            assert_eq!(plan, was);
        }
    }
}

#[test]
fn a_journal_that_was_cut_anywhere_is_readable_up_to_there() {
    let mut recorder = Recorder::start();
    (0..3).for_each(|_| recorder.slot(1));
    recorder.told(Word::Abort);
    let text = lines(&recorder.records);
    for cut in 0..=text.len() {
        let (records, broken) = parse(&text.as_bytes()[..cut]);
        let whole = text[..cut].matches('\n').count();
        // A line is whole as soon as its last brace is there.
        assert!((whole..=whole + 1).contains(&records.len()), "{cut}");
        assert!(broken <= 1 && records.len() + broken <= whole + 1, "{cut}");
    }
}

#[test]
fn a_change_by_another_judge_is_told_apart() {
    let mut recorder = Recorder::start();
    (0..9).for_each(|_| recorder.slot(5));
    let mut replay = Replay::default();
    let mut compare = |records: &[Record]| -> Vec<_> {
        records.iter().filter_map(|record| replay.take(record)).collect()
    };
    let same = compare(&recorder.records);
    assert!(!same.is_empty() && same.iter().all(|one| *one == Compared::Same), "{same:?}");
    let mut forged = recorder.records.clone();
    for record in &mut forged {
        if let What::Changed(change) = &mut record.what {
            change.reason = Some("errors <= 2%".to_owned());
        }
    }
    assert!(compare(&forged).iter().all(|one| matches!(one, Compared::Different(_))));
    let mut replay = Replay::default();
    let orphans = recorder.records[1..].iter().filter_map(|record| replay.take(record));
    assert!(orphans.into_iter().all(|one| one == Compared::Unknown));
}

/// What may happen to a rollout.
#[derive(Clone, Copy, Debug)]
enum Happens {
    Slots(u64, u16),
    Looks(u64),
    Jump(u64),
    Told(Word),
    Moved(usize, bool),
    Restart,
    /// With another form of the plan in the file.
    RestartEdited(usize),
    Reload(usize),
    Rotate,
}

fn anything() -> impl Strategy<Value = Vec<Happens>> {
    use Word::{Abort, Pause, Promote, PromoteFully, Reset, Resume};
    let words = vec![Promote, Promote, PromoteFully, Pause, Resume, Abort, Reset];
    prop::collection::vec(
        prop_oneof![
            3 => (0..4_u64, 1..20_u16).prop_map(|(bad, slots)| Happens::Slots(bad, slots)),
            4 => (1..400_u16).prop_map(|slots| Happens::Slots(0, slots)),
            4 => prop::sample::select(words).prop_map(Happens::Told),
            2 => (0..7_usize, any::<bool>()).prop_map(|(to, is)| Happens::Moved(to, is)),
            // A shorter one is a slot that ends late.
            1 => (60..10_000_u64).prop_map(Happens::Jump),
            1 => (3..6_u64).prop_map(Happens::Looks),
            2 => Just(Happens::Restart),
            2 => (0..7_usize).prop_map(Happens::RestartEdited),
            2 => (0..7_usize).prop_map(Happens::Reload),
            2 => Just(Happens::Rotate),
        ],
        1..30,
    )
}

/// Forms of one rollout that a file may have.
fn forms() -> [Plan; 7] {
    let same = |until| Step { weight: ratio(0.05), mirror: None, until };
    let high = |weight, until| Step { weight: ratio(weight), mirror: None, until };
    let minute = Until::soaked(Duration::from_mins(1));
    let gated = [same(Until::PROVEN), same(Until::Told), same(minute), high(0.5, minute)];
    let higher = [high(0.1, Until::PROVEN), high(0.75, minute), high(1.0, Until::AtOnce)];
    let finer = |weight| Step { weight: ratio(weight), mirror: None, until: Until::PROVEN };
    let other = Objective::errors(ratio(0.02)).unwrap();
    [
        plan(),
        Plan { requests_min: 7, ..plan() },
        Plan { steps: [0.05, 0.1, 0.2, 0.5].map(finer).to_vec(), ..plan() },
        Plan { objectives: vec![other, plan().objectives[1]], ..plan() },
        Plan { steps: gated.to_vec(), ..plan() },
        Plan { steps: higher.to_vec(), false_rollback: ratio(0.02), ..plan() },
        Plan { on_breach: Breach::Alert, probed: false, ..plan() },
    ]
}

impl Recorder {
    fn happens(&mut self, event: Happens) {
        match event {
            Happens::Slots(bad, slots) => (0..slots).for_each(|_| self.slot(bad)),
            Happens::Jump(seconds) => self.jump(seconds),
            Happens::Told(word) => self.told(word),
            Happens::Moved(step, is_paused) => self.moved(step, is_paused),
            Happens::Looks(bad) => self.look(bad),
            Happens::Restart => self.restart(self.release.plan().clone()),
            Happens::RestartEdited(form) => self.restart(forms()[form].clone()),
            Happens::Rotate => self.rotate(),
            Happens::Reload(form) => self.reload(&forms()[form]),
        }
    }

    /// What must be so whatever happened: the canary never has more than its plan says, nor
    /// anything once it was taken out.
    fn check(&self, before: (&State, f64), event: Happens) -> Result<(), TestCaseError> {
        let (state, share) = (self.release.state(), self.release.share());
        let planned = match state {
            State::Progressing { step, .. } => self.release.plan().steps[*step].weight.get(),
            State::Promoted { .. } => 1.0,
            State::RolledBack { .. } | State::Aborted { .. } => 0.0,
        };
        prop_assert!((share - planned).abs() < 1e-12, "{share} instead of {planned}");
        let (was, had) = before;
        if was.has_ended() && !matches!(event, Happens::Told(Word::Reset)) {
            prop_assert_eq!(state.as_str(), was.as_str(), "an ended state absorbs");
        }
        if matches!(event, Happens::Told(Word::Abort)) && was.as_str() != "promoted" {
            prop_assert!(share.abs() < 1e-12, "abort always works");
        }
        if matches!(event, Happens::Restart) {
            prop_assert_eq!(state.step(), was.step());
        }
        // Sleep proves nothing, and another file gives the canary no more than it had, unless
        // it has no step with as little.
        let least = self.release.plan().steps[0].weight.get();
        if !matches!(event, Happens::Slots(..) | Happens::Told(_) | Happens::Moved(..)) {
            prop_assert!(share <= had.max(least) + 1e-12, "{share} after {had}");
            prop_assert!(was.has_ended() || state.as_str() != "promoted", "by no evidence");
        }
        let is_out = |state: &State| matches!(state.as_str(), "rolled_back" | "aborted");
        if is_out(was) && !matches!(event, Happens::Told(Word::Reset)) {
            prop_assert!(share.abs() < 1e-12, "a version that is out gets a request");
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_happens_the_plan_is_kept_and_its_records_lead_to_the_same_state(
        events in anything(),
    ) {
        let mut recorder = Recorder::start();
        for event in events {
            let before = (recorder.release.state().clone(), recorder.release.share());
            recorder.happens(event);
            recorder.check((&before.0, before.1), event)?;
        }
        // All of it, and what is left when the file before is gone.
        for records in [&recorder.records[..], &recorder.records[recorder.file..]] {
            let (records, _) = parse(lines(records).as_bytes());
            let mut replay = Replay::default();
            for record in &records {
                let compared = replay.take(record);
                prop_assert!(matches!(compared, None | Some(Compared::Same)), "{compared:?}");
            }
            let again = replay.release("v2", "1").unwrap();
            let (again, was) = (Change::of(again), Change::of(&recorder.release));
            // Of what had ended before its file only the end is known, not how.
            prop_assert!(again.is_like(&was) || recorder.release.state().has_ended());
            prop_assert!((again.share - was.share).abs() < 1e-12 || was.state == "promoted");
        }
    }
}

#[test]
fn what_the_sums_of_a_fleet_led_to_is_compared_with_what_they_lead_to() {
    let at = |slot: u64| Tick::new(SLOT * u32::try_from(slot).unwrap());
    let own = plan().shared_out(3);
    let mut pooled = Release::new(own.pooled(), 0.1, at(0));
    let saved = pooled.save(at(0));
    let mut records = Vec::new();
    let mut write = |tick: Tick, what| {
        records.push(Record {
            at: String::new(),
            tick: tick.since_start().as_millis() as u64,
            rollout: "v2".to_owned(),
            version: "1".to_owned(),
            what,
        });
    };
    let (config, state) = (String::new(), "progressing".to_owned());
    let (plan, continues, configured) = (Box::new(own), false, 0.1);
    write(at(0), What::Begins { continues, plan, configured, config, state, saved: None });
    let plan = Box::new(pooled.plan().clone());
    write(at(0), What::Pooling { continues, plan, configured, saved });
    let (mut end, mut slot) = (None, 0);
    while end.is_none() {
        slot += 1;
        let counts = Recorder::counts(u64::from(slot > 9) * 4);
        end = pooled.close_fleet_slots(at(slot), std::slice::from_ref(&counts), false);
        let slots = vec![Packed::new(at(slot), &counts)];
        write(at(slot), What::Pooled { is_missing: false, slots });
    }
    let cause = end.as_ref().and_then(State::cause).cloned().unwrap();
    let adopted =
        |by: &str| What::Adopted { end: End::RolledBack(cause.clone()), by: by.to_owned() };
    write(at(slot), adopted(BY_COUNTS));
    let compared = |records: &[Record]| {
        let mut replay = Replay::default();
        let found: Vec<_> = records.iter().filter_map(|record| replay.take(record)).collect();
        let is_out = replay.release("v2", "1").is_some_and(|one| one.state().has_ended());
        (found, is_out)
    };
    assert_eq!(compared(&records), (vec![Compared::Same], true));
    // Of what another replica found it has no sums, and without the last slot these say less.
    let mut others = records.clone();
    others.last_mut().unwrap().what = adopted("replica a");
    assert_eq!(compared(&others), (vec![], true));
    others = records.clone();
    others.remove(records.len() - 2);
    let (found, is_out) = compared(&others);
    assert!(matches!(&*found, [Compared::Different(_)]) && is_out, "{found:?}");
    others = records.clone();
    others.remove(1);
    assert_eq!(compared(&others), (vec![Compared::Unknown], true));
}
