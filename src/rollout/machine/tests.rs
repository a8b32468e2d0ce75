use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::names::{RouteName, RuleId, RuleName, Version};
use crate::rollout::objective::Objective;
use crate::rollout::step::Step;
use crate::rollout::verdict::{Proof, Tally};
use crate::units::Ratio;

fn plan(on_shared_breach: Deadline) -> Plan {
    let plan = Plan::watching(
        "v2".into(),
        RuleId { route: RouteName::new("r"), rule: RuleName::new("main") },
        ("stable".into(), "canary".into()),
        Version::new("1"),
        vec![errors()],
    );
    Plan { on_shared_breach, ..plan }
}

fn watching() -> Plan {
    plan(Deadline::RollbackAfter(Duration::from_mins(5)))
}

fn percent(weight: u8) -> Ratio {
    Ratio::new(f64::from(weight) / 100.0).unwrap()
}

fn step(weight: u8, until: Until) -> Step {
    Step { weight: percent(weight), mirror: None, until }
}

/// 1 %, 50 %, a person, all of it with a bake.
fn stepping() -> Plan {
    let baked = Until::soaked(Duration::from_mins(10));
    let steps = vec![
        step(1, Until::soaked(Duration::from_mins(2))),
        step(50, Until::PROVEN),
        step(50, Until::Told),
        step(100, baked),
    ];
    Plan { steps, ..watching() }
}

fn running(step: usize, pause: Option<Pause>) -> State {
    State::Progressing { since: at(0), step, pause, hold: None, known: Vec::new() }
}

fn errors() -> Objective {
    Objective::errors(Ratio::new(0.01).unwrap()).unwrap()
}

fn at(seconds: u64) -> Tick {
    Tick::new(Duration::from_secs(seconds))
}

fn findings(standing: Standing, decide: impl Fn(Finding) -> Decision) -> Findings {
    let finding = Finding {
        objective: errors(),
        canary: Tally { bad: 6, total: 147 },
        stable: Tally { bad: 2, total: 1310 },
        over_limit: 411.0,
        worse_than_stable: Some(523.0),
        threshold: 200.0,
        standing,
    };
    Findings {
        decision: decide(finding),
        objectives: vec![finding],
        stable_missing: false,
        by_probes: false,
        is_led: false,
        probes: Vec::new(),
        shared_lasts: true,
    }
}

fn breached() -> Findings {
    findings(Standing::Breached, Decision::Rollback)
}

fn shared() -> Findings {
    findings(Standing::Shared, |_| Decision::Hold(HoldReason::SharedCause))
}

fn held(reason: HoldReason) -> Findings {
    findings(Standing::Kept, |_| Decision::Hold(reason))
}

fn promoted() -> Findings {
    findings(Standing::Kept, |_| Decision::Promote(Proof::Proven))
}

fn rolled_back() -> State {
    watching().advance(State::start(at(0)), at(9), Event::Judged(&breached())).0
}

#[test]
fn every_ended_state_answers_every_word() {
    use Refusal::{Aborted, Promoted, RolledBack};
    let (aborted, promoted) = (State::Aborted { since: at(5) }, State::Promoted { since: at(5) });
    for (state, refusal) in
        [(rolled_back(), RolledBack), (aborted.clone(), Aborted), (promoted, Promoted)]
    {
        let plan = stepping();
        for word in [Word::Promote, Word::PromoteFully, Word::Pause, Word::Resume, Word::Abort] {
            let said = plan.advance(state.clone(), at(9), Event::Told(word));
            let effect = Some(Effect::Refused(refusal));
            let effect = if state == aborted && word == Word::Abort { None } else { effect };
            assert_eq!(said, (state.clone(), effect), "{state}, {word:?}");
        }
        let reset = plan.advance(state.clone(), at(9), Event::Told(Word::Reset));
        assert_eq!(reset, (State::start(at(9)), Some(Effect::Restarted)));
        let judged = plan.advance(state.clone(), at(9), Event::Judged(&breached()));
        assert_eq!(judged, (state, None));
    }
}

#[test]
fn every_running_state_answers_every_word() {
    use Word::{Abort, Pause as Stop, Promote, PromoteFully, Reset, Resume};
    let fresh = |step, pause| State::Progressing {
        since: at(9),
        step,
        pause,
        hold: None,
        known: Vec::new(),
    };
    let waits = || Some(Pause::Step);
    let stopped = || Some(Pause::Operator);
    let (plain, done) = (running(0, None), State::Promoted { since: at(9) });
    let aborted = || State::Aborted { since: at(9) };
    for (state, word, next, effect) in [
        (plain.clone(), Promote, fresh(1, None), Some(Effect::Stepped)),
        (plain.clone(), PromoteFully, done.clone(), Some(Effect::Promoted)),
        (plain.clone(), Stop, running(0, stopped()), Some(Effect::Paused)),
        (plain.clone(), Resume, plain.clone(), None),
        (plain.clone(), Abort, aborted(), Some(Effect::Aborted)),
        (plain.clone(), Reset, plain.clone(), Some(Effect::Refused(Refusal::Running))),
        (running(1, None), Promote, fresh(2, waits()), Some(Effect::Stepped)),
        (running(2, waits()), Promote, fresh(3, None), Some(Effect::Stepped)),
        (running(2, waits()), Resume, fresh(3, None), Some(Effect::Stepped)),
        (running(2, waits()), Stop, running(2, waits()), None),
        (running(2, waits()), Abort, aborted(), Some(Effect::Aborted)),
        (running(3, None), Promote, done, Some(Effect::Promoted)),
        (running(0, stopped()), Resume, plain, Some(Effect::Resumed)),
        (running(0, stopped()), Stop, running(0, stopped()), None),
        (running(0, stopped()), Promote, fresh(1, None), Some(Effect::Stepped)),
        (running(0, stopped()), Abort, aborted(), Some(Effect::Aborted)),
    ] {
        let told = format!("{state:?}, {word:?}");
        let said = stepping().advance(state, at(9), Event::Told(word));
        assert_eq!(said, (next, effect), "{told}");
    }
    let said = watching().advance(State::start(at(0)), at(9), Event::Told(Promote));
    assert_eq!(said.1, Some(Effect::Refused(Refusal::NoSteps)));
}

#[test]
fn proof_leads_from_step_to_step_and_out_of_the_last() {
    let plan = stepping();
    let judged = |state| plan.advance(state, at(9), Event::Judged(&promoted()));
    let (state, effect) = judged(plan.start(at(0)));
    assert_eq!((state.step(), effect), (Some(1), Some(Effect::Stepped)));
    let (state, effect) = judged(state);
    assert_eq!((state.as_str(), state.step(), effect), ("paused", Some(2), Some(Effect::Stepped)));
    let (state, effect) = judged(state);
    assert_eq!((state.step(), effect), (Some(2), None), "a pause is left by a person only");
    let (state, _) = plan.advance(state, at(9), Event::Told(Word::Resume));
    let (state, effect) = judged(state);
    assert_eq!((&state, effect), (&State::Promoted { since: at(9) }, Some(Effect::Promoted)));
    assert_eq!(plan.canary_share(&state), Some(Ratio::ONE));
    let at_once = Plan { steps: vec![step(50, Until::PROVEN), step(100, Until::AtOnce)], ..plan };
    let (state, effect) = at_once.advance(running(0, None), at(9), Event::Judged(&promoted()));
    assert_eq!((state.as_str(), effect), ("promoted", Some(Effect::Promoted)));
}

#[test]
fn a_paused_rollout_still_rolls_back() {
    for pause in [Pause::Step, Pause::Operator] {
        let paused = running(2, Some(pause));
        let (state, effect) = stepping().advance(paused, at(9), Event::Judged(&breached()));
        assert_eq!((state.as_str(), effect), ("rolled_back", Some(Effect::RolledBack)));
    }
}

#[test]
fn nobody_is_sent_back_to_a_stable_that_is_not_there() {
    let alone = Findings { stable_missing: true, ..breached() };
    let (state, effect) = stepping().advance(running(3, None), at(9), Event::Judged(&alone));
    assert_eq!(effect, None);
    assert_eq!(state.as_str(), "holding");
    assert_eq!(state.hold().unwrap().reason, HoldReason::NoStable);
    let (state, _) = stepping().advance(state, at(10), Event::Judged(&breached()));
    assert_eq!(state.as_str(), "rolled_back", "as soon as it is back");
}

#[test]
fn a_breach_may_pause_or_only_be_told() {
    let plan = Plan { on_breach: Breach::Pause, ..stepping() };
    let (state, effect) = plan.advance(running(1, None), at(9), Event::Judged(&breached()));
    assert_eq!((state.as_str(), effect), ("paused", Some(Effect::Paused)));
    assert_eq!(plan.canary_share(&state), Some(percent(50)));
    let Some(Pause::Breach(cause)) = state.pause() else { panic!("{state:?}") };
    assert_eq!(cause.objective, "errors <= 1%");
    let (state, effect) = plan.advance(state, at(10), Event::Judged(&breached()));
    assert_eq!((state.as_str(), effect), ("paused", None), "told once");
    let plan = Plan { on_breach: Breach::Alert, ..stepping() };
    let (state, effect) = plan.advance(running(1, None), at(9), Event::Judged(&breached()));
    assert_eq!((state.as_str(), effect), ("holding", None));
    assert_eq!(state.hold().unwrap().reason, HoldReason::Objective(errors()));
}

#[test]
fn a_person_who_lets_a_breach_go_on_is_not_asked_again_while_it_does() {
    let plan = Plan { on_breach: Breach::Pause, ..stepping() };
    let judged =
        |state: &State, found: &Findings| plan.advance(state.clone(), at(9), Event::Judged(found));
    for (word, step) in [(Word::Resume, 1), (Word::Promote, 2)] {
        let (paused, _) = judged(&running(1, None), &breached());
        let (told, _) = plan.advance(paused, at(9), Event::Told(word));
        assert_eq!(told.known(), ["errors <= 1%"]);
        let (state, effect) = judged(&told, &breached());
        assert_eq!((state.step(), effect), (Some(step), None), "{word:?}");
        assert!(!matches!(state.pause(), Some(Pause::Breach(_))), "{word:?}");
        assert_eq!(state.hold().unwrap().reason, HoldReason::Objective(errors()));
        // Short of proof for a moment is not over.
        let doubted = findings(Standing::Suspicious, |_| Decision::Hold(HoldReason::Suspicious));
        let (state, _) = judged(&state, &doubted);
        assert_eq!(judged(&state, &breached()).1, None, "{word:?}");
        // A breach that is over and comes again is another one.
        let (state, _) = judged(&state, &held(HoldReason::NotProven));
        assert_eq!(judged(&state, &breached()).1, Some(Effect::Paused), "{word:?}");
    }
}

#[test]
fn who_is_led_leaves_it_to_the_fleet_to_forget_a_breach() {
    let plan = Plan { on_breach: Breach::Pause, ..stepping() };
    for is_led in [false, true] {
        let known = running(1, None).knowing(vec![errors().name()]);
        let found = Findings { is_led, ..held(HoldReason::NotProven) };
        let (state, _) = plan.advance(known, at(9), Event::Judged(&found));
        assert_eq!(!state.known().is_empty(), is_led);
    }
}

#[test]
fn another_breach_than_the_one_that_is_known_pauses_anew() {
    let plan = Plan { on_breach: Breach::Pause, ..stepping() };
    let slow = Objective::latency("p99".parse().unwrap(), Duration::from_millis(200));
    let known = running(1, None).knowing(vec![errors().name()]);
    let first = breached();
    let second = Finding { objective: slow, ..first.objectives[0] };
    for (of_users, of_probes) in [(vec![second], Vec::new()), (Vec::new(), vec![second])] {
        let by_probes = !of_probes.is_empty();
        let objectives = [first.objectives.clone(), of_users].concat();
        let both = Findings { objectives, probes: of_probes, ..first.clone() };
        let (state, effect) = plan.advance(known.clone(), at(9), Event::Judged(&both));
        assert_eq!(effect, Some(Effect::Paused));
        let cause = state.cause().unwrap();
        assert_eq!(cause.objective, slow.name());
        assert_eq!(cause.text.starts_with("probes: "), by_probes, "{}", cause.text);
        let (state, _) = plan.advance(state, at(9), Event::Told(Word::Resume));
        assert_eq!(state.known(), [errors().name(), slow.name()]);
        assert_eq!(plan.advance(state, at(9), Event::Judged(&both)).1, None);
    }
}

#[test]
fn other_reasons_have_deadlines_of_their_own() {
    let minute = Deadline::RollbackAfter(Duration::from_mins(1));
    let plan = Plan { on_no_traffic: minute, on_no_endpoint: minute, ..watching() };
    let fine = || held(HoldReason::NotProven);
    for (reason, text) in [
        (HoldReason::NotEnoughTraffic, "not enough traffic for 1m"),
        (HoldReason::NoEndpoint, "canary has no ready endpoint for 1m"),
    ] {
        let seen = [(1, fine()), (5, held(reason)), (64, held(reason))];
        assert!(!looks(&plan, &seen).has_ended());
        let broken = [(1, fine()), (5, held(reason)), (50, fine()), (51, held(reason))];
        let again = [(110, held(reason))];
        assert!(!looks(&plan, &[&broken[..], &again].concat()).has_ended(), "anew when it is back");
        let State::RolledBack { cause, .. } =
            looks(&plan, &[(1, fine()), (5, held(reason)), (65, held(reason))])
        else {
            panic!("not rolled back");
        };
        assert_eq!((cause.text.as_str(), cause.objective), (text, reason.to_string()));
    }
    // A canary whose pods are yet to start is waited for.
    let yet = [(1, held(HoldReason::NoEndpoint)), (600, held(HoldReason::NoEndpoint))];
    assert_eq!(looks(&plan, &yet).as_str(), "holding");
}

#[test]
fn a_rollback_keeps_the_numbers_it_was_decided_on() {
    let State::RolledBack { since, cause } = rolled_back() else { panic!("not rolled back") };
    assert_eq!(since, at(9));
    assert_eq!(cause.objective, "errors <= 1%");
    assert_eq!(cause.text, breached().objectives[0].to_string());
    assert_eq!(cause.objectives, Vec::<ObjectiveView>::from(&breached()));
    let text = serde_json::to_string(&cause).unwrap();
    assert_eq!(serde_json::from_str::<Cause>(&text).unwrap(), cause);
}

#[test]
fn holding_has_something_against_the_canary() {
    for (reason, name) in [
        (HoldReason::SharedCause, "holding"),
        (HoldReason::Suspicious, "holding"),
        (HoldReason::Objective(errors()), "holding"),
        (HoldReason::NotEnoughTraffic, "progressing"),
        (HoldReason::Soaking, "progressing"),
        (HoldReason::NotProven, "progressing"),
    ] {
        let findings = held(reason);
        let judged = Event::Judged(&findings);
        let (state, _) = plan(Deadline::Hold).advance(State::start(at(0)), at(1), judged);
        assert_eq!(state.as_str(), name, "{reason}");
        assert_eq!(
            state.hold(),
            Some(Hold {
                reason,
                since: at(1),
                before: Duration::ZERO,
                is_first: true,
                is_overdue: false
            })
        );
        assert_eq!(state.since(), at(0));
    }
}

/// Advances through looks at the given seconds and gives the last state.
fn looks(plan: &Plan, looks: &[(u64, Findings)]) -> State {
    let start = State::start(at(0));
    looks.iter().fold(start, |state, (seconds, findings)| {
        plan.advance(state, at(*seconds), Event::Judged(findings)).0
    })
}

#[test]
fn a_shared_breach_rolls_back_only_when_it_lasts() {
    let default = watching();
    let almost = [(10, shared()), (100, shared()), (309, shared())];
    assert_eq!(looks(&default, &almost).as_str(), "holding");
    let State::RolledBack { cause, .. } = looks(&default, &[(10, shared()), (310, shared())])
    else {
        panic!("not rolled back");
    };
    assert!(cause.text.starts_with("shared cause for 5m: errors <= 1%: canary"), "{}", cause.text);
    let broken =
        [(10, shared()), (200, held(HoldReason::NotProven)), (201, shared()), (400, shared())];
    assert_eq!(looks(&default, &broken).as_str(), "holding");
    let hold = plan(Deadline::Hold);
    assert_eq!(looks(&hold, &[(10, shared()), (1_000_000, shared())]).as_str(), "holding");
}

#[test]
fn a_quiet_canary_may_be_an_alarm_when_it_has_lasted() {
    let plan = Plan { on_no_traffic: Deadline::AlertAfter(Duration::from_mins(1)), ..watching() };
    let quiet = || held(HoldReason::NotEnoughTraffic);
    let seen = [(5, quiet()), (64, quiet())];
    assert_eq!(looks(&plan, &seen).as_str(), "progressing");
    assert_eq!(looks(&plan, &[&seen[..], &[(65, quiet())]].concat()).as_str(), "holding");
    let back = [(5, quiet()), (65, quiet()), (66, held(HoldReason::Soaking)), (67, quiet())];
    assert_eq!(looks(&plan, &back).as_str(), "progressing", "anew when it was away");
    assert!(!looks(&plan, &[(5, quiet()), (900_000, quiet())]).has_ended());
}

/// What may happen, in any order.
#[derive(Clone, Copy, Debug)]
enum Happens {
    Breached,
    Shared,
    Held,
    Proven,
    Told(Word),
}

fn anything() -> impl Strategy<Value = Vec<(u64, Happens)>> {
    use Happens::{Breached, Held, Proven, Shared, Told};
    let words = [Word::Promote, Word::Pause, Word::Resume, Word::Abort, Word::Reset];
    let mut all = vec![Breached, Shared, Shared, Held, Held, Proven, Proven, Proven, Proven];
    all.push(Told(Word::PromoteFully));
    all.extend(words.map(Told));
    prop::collection::vec((0..200_u64, prop::sample::select(all)), 0..40)
}

proptest! {
    #[test]
    fn whatever_happens_the_canary_gets_no_more_than_it_should(
        events in anything(),
        has_steps: bool,
        pauses: bool,
    ) {
        let on_breach = if pauses { Breach::Pause } else { Breach::Rollback };
        let plan = Plan { on_breach, ..if has_steps { stepping() } else { watching() } };
        // A person has seen the breach, and let it go on.
        let mut is_known = false;
        let (mut state, mut now) = (plan.start(Tick::ZERO), Tick::ZERO);
        for (seconds, happens) in events {
            now = now.after(Duration::from_secs(seconds));
            let findings = match happens {
                Happens::Breached => breached(),
                Happens::Shared => shared(),
                Happens::Proven if has_steps => promoted(),
                _ => held(HoldReason::NotProven),
            };
            let event = match happens {
                Happens::Told(word) => Event::Told(word),
                _ => Event::Judged(&findings),
            };
            let before = state.clone();
            let (next, effect) = plan.advance(state, now, event);
            state = next;
            prop_assert!(State::NAMES.contains(&state.as_str()));
            let (had, has) = (plan.canary_share(&before), plan.canary_share(&state));
            if let Some(step) = state.step().filter(|_| has_steps) {
                prop_assert_eq!(has, Some(plan.steps[step].weight), "weight off plan");
                let steps = before.step().map(|before| step.saturating_sub(before));
                prop_assert!(steps.is_none_or(|steps| steps <= 1), "a step was left out");
            }
            let stopped = matches!(before.pause(), Some(Pause::Breach(_)));
            match happens {
                Happens::Breached if !before.has_ended() && pauses => {
                    let asks = effect == Some(Effect::Paused);
                    prop_assert_eq!(asks, !stopped && !is_known, "asked once, and only once");
                    prop_assert_eq!(had, has);
                }
                Happens::Breached if !before.has_ended() => {
                    prop_assert_eq!(has, Some(Ratio::ZERO));
                }
                Happens::Told(Word::Abort) if !matches!(before, State::Promoted { .. }) => {
                    prop_assert_eq!(has, Some(Ratio::ZERO), "abort always works");
                }
                _ => {}
            }
            match happens {
                Happens::Told(Word::Resume) if stopped => is_known = true,
                Happens::Told(Word::Promote) if stopped && has_steps => is_known = true,
                Happens::Held | Happens::Proven => is_known = false,
                Happens::Told(Word::Reset) if before.has_ended() => is_known = false,
                _ => {}
            }
            if before.has_ended() && !matches!(happens, Happens::Told(Word::Reset)) {
                prop_assert_eq!(&state, &before, "an ended state absorbs");
                prop_assert!(matches!(effect, None | Some(Effect::Refused(_))));
            }
            if had != has {
                let acts = !matches!(
                    effect,
                    None | Some(Effect::Refused(_) | Effect::Paused | Effect::Resumed)
                );
                prop_assert!(acts, "every change of weight has its effect");
            }
        }
    }
}
