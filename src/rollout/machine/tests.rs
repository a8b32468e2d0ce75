use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::names::{RouteName, RuleId, RuleName, Version};
use crate::rollout::objective::Objective;
use crate::rollout::verdict::Tally;
use crate::units::Ratio;

fn plan(on_shared_breach: SharedBreach) -> Plan {
    Plan {
        name: "v2".into(),
        rule: RuleId { route: RouteName::new("r"), rule: RuleName::new("main") },
        stable: "stable".into(),
        canary: "canary".into(),
        version: Version::new("1"),
        false_rollback: Plan::false_rollback_default(),
        objectives: vec![errors()],
        on_shared_breach,
    }
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
    Findings { decision: decide(finding), objectives: vec![finding] }
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

fn rolled_back() -> State {
    let plan = plan(SharedBreach::default());
    plan.advance(State::start(at(0)), at(9), Event::Judged(&breached())).0
}

#[test]
fn every_state_answers_every_event() {
    let findings = breached();
    let judged = Event::Judged(&findings);
    let (running, aborted) = (State::start(at(0)), State::Aborted { since: at(5) });
    let refused = |refusal| Some(Effect::Refused(refusal));
    for (state, event, next, effect) in [
        (running.clone(), judged, rolled_back(), Some(Effect::RolledBack)),
        (running.clone(), Event::Abort, State::Aborted { since: at(9) }, Some(Effect::Aborted)),
        (running.clone(), Event::Reset, running.clone(), refused(Refusal::Running)),
        (rolled_back(), judged, rolled_back(), None),
        (rolled_back(), Event::Abort, rolled_back(), refused(Refusal::RolledBack)),
        (rolled_back(), Event::Reset, State::start(at(9)), Some(Effect::Restarted)),
        (aborted.clone(), judged, aborted.clone(), None),
        (aborted.clone(), Event::Abort, aborted.clone(), None),
        (aborted.clone(), Event::Reset, State::start(at(9)), Some(Effect::Restarted)),
    ] {
        let told = format!("{state}, {event:?}");
        let advanced = plan(SharedBreach::default()).advance(state, at(9), event);
        assert_eq!(advanced, (next, effect), "{told}");
    }
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
        let (state, _) = plan(SharedBreach::Hold).advance(State::start(at(0)), at(1), judged);
        assert_eq!(state.as_str(), name, "{reason}");
        assert_eq!(state.hold(), Some(Hold { reason, since: at(1) }));
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
    let default = plan(SharedBreach::default());
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
    let hold = plan(SharedBreach::Hold);
    assert_eq!(looks(&hold, &[(10, shared()), (1_000_000, shared())]).as_str(), "holding");
}

/// What may happen, in any order.
#[derive(Clone, Copy, Debug)]
enum Happens {
    Breached,
    Shared,
    Held,
    Abort,
    Reset,
}

fn anything() -> impl Strategy<Value = Vec<(u64, Happens)>> {
    use Happens::{Abort, Breached, Held, Reset, Shared};
    let one = prop::sample::select(vec![Breached, Shared, Shared, Held, Held, Abort, Reset]);
    prop::collection::vec((0..200_u64, one), 0..40)
}

proptest! {
    #[test]
    fn whatever_happens_the_canary_gets_no_more_than_it_should(
        events in anything(),
        configured in 0..=Weight::MAX,
    ) {
        let plan = plan(SharedBreach::default());
        let configured = Weight::new(configured).unwrap();
        let (mut state, mut now) = (State::start(Tick::ZERO), Tick::ZERO);
        for (seconds, happens) in events {
            now = now.after(Duration::from_secs(seconds));
            let findings = match happens {
                Happens::Breached => breached(),
                Happens::Shared => shared(),
                _ => held(HoldReason::NotProven),
            };
            let event = match happens {
                Happens::Abort => Event::Abort,
                Happens::Reset => Event::Reset,
                _ => Event::Judged(&findings),
            };
            let before = state.clone();
            let (next, effect) = plan.advance(state, now, event);
            state = next;
            let weight = state.canary_weight(configured);
            prop_assert!(weight <= configured, "weight above plan");
            prop_assert!(State::NAMES.contains(&state.as_str()));
            match happens {
                Happens::Breached | Happens::Abort => prop_assert_eq!(weight, Weight::ZERO),
                Happens::Shared | Happens::Held | Happens::Reset => {}
            }
            if before.has_ended() && !matches!(happens, Happens::Reset) {
                prop_assert_eq!(&state, &before, "an ended state absorbs");
                prop_assert!(matches!(effect, None | Some(Effect::Refused(_))));
            }
            let turned = before.has_ended() != state.has_ended();
            let acts = !matches!(effect, None | Some(Effect::Refused(_)));
            prop_assert_eq!(turned, acts, "every change of weight has its effect");
        }
    }
}
