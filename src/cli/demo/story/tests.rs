use super::*;
use crate::cli::demo::sample::{Users, VersionCounts};
use crate::control::api::RolloutView;
use crate::rollout::verdict::Verdict;

/// A second, a state with its hold or end reason, and requests that reached the canary.
type Moment = (f64, &'static str, &'static str, u64);

const ERRORS: &str = "errors <= 1%: canary 25.00% [9.00, 48.00] of 28, stable 0.00% of 250";

fn sample((second, state, reason, canary): Moment) -> Sample {
    let ended = state == "rolled_back";
    let text = (!reason.is_empty()).then(|| reason.to_owned());
    Sample {
        at: Tick::new(Duration::from_secs_f64(second)),
        users: Users { ok: 10 * canary, errors: 0 },
        stable: VersionCounts { requests: (100.0 * second) as u64, ..Default::default() },
        canary: VersionCounts { requests: canary, ..Default::default() },
        rollout: RolloutView {
            name: "sentiment-v2".to_owned(),
            rule: "sentiment/main".to_owned(),
            stable: "sentiment-v1".to_owned(),
            canary: "sentiment-v2".to_owned(),
            version: String::new(),
            state: state.to_owned(),
            step: None,
            steps: Vec::new(),
            weight: if ended { 0.0 } else { 0.1 },
            reason: text.clone().filter(|_| ended),
            since: String::new(),
            verdict: Verdict::Hold,
            hold_reason: text.filter(|_| !ended),
            objectives: Vec::new(),
            body_ms: None,
            versions: Vec::new(),
            said: None,
            fleet: None,
        },
    }
}

/// Tells the story with the turn at second 5; returns it with its news.
fn told(scenario: &str, moments: &[Moment]) -> (Story, Vec<News>) {
    let mut story = Story::new(scenario.parse().unwrap());
    let mut news = Vec::new();
    for moment in moments {
        let sample = sample(*moment);
        news.extend(story.take(&sample));
        if moment.0.to_bits() == 5.0_f64.to_bits() && story.scenario.turns() {
            story.turn_bad(sample);
        }
    }
    (story, news)
}

#[track_caller]
fn check(scenario: &str, moments: &[Moment], well: bool, says: &str) {
    let (story, _) = told(scenario, moments);
    let checks = story.checks(&sample(*moments.last().unwrap()));
    assert_eq!(checks.iter().all(|one| one.holds), well, "{checks:?}");
    assert!(checks.iter().any(|one| one.text.contains(says)), "{checks:?}");
}

const SOAKING: Moment = (4.0, "progressing", "soaking", 40);
const TURN: Moment = (5.0, "progressing", "soaking", 50);
const OUT: Moment = (7.0, "rolled_back", ERRORS, 70);

#[test]
fn a_canary_that_is_taken_out_after_its_turn_is_as_it_should_be() {
    let moments = [SOAKING, TURN, OUT, (7.3, OUT.1, OUT.2, 72), (12.0, OUT.1, OUT.2, 72)];
    check("errors", &moments, true, "v2 was taken out after it turned bad, for `errors <= 1%`");
    check("errors", &moments, true, "since then v1 got 470 requests and v2 0");
    let (story, news) = told("errors", &moments);
    assert_eq!(news, [News::RolledBack]);
    assert_eq!(story.reaction(), Some((Duration::from_secs(2), 20)));
    let end = Tick::new(Duration::from_secs(12));
    assert_eq!(story.end(Duration::from_secs(5)), Some(end));
}

#[test]
fn a_canary_that_is_taken_out_for_another_reason_or_too_early_is_not() {
    check("latency", &[SOAKING, TURN, OUT], false, "not for its latency");
    let early = [SOAKING, (4.5, OUT.1, OUT.2, 44), (5.5, OUT.1, OUT.2, 44)];
    check("errors", &early, false, "before it turned bad");
}

#[test]
fn a_canary_that_still_gets_requests_after_its_rollback_is_not() {
    let moments = [SOAKING, TURN, OUT, (7.3, OUT.1, OUT.2, 72), (12.0, OUT.1, OUT.2, 73)];
    check("errors", &moments, false, "and v2 1");
    let back = [SOAKING, TURN, OUT, (7.3, OUT.1, OUT.2, 72), (9.0, "progressing", "", 72)];
    check("errors", &back, false, "did not stay rolled back");
    assert_eq!(told("errors", &back).1, [News::RolledBack, News::Reset]);
}

#[test]
fn a_canary_that_is_never_taken_out_says_what_was_missing() {
    check("errors", &[SOAKING, TURN, (20.0, "holding", "suspicious", 60)], false, "higher --rps");
    check("errors", &[SOAKING, TURN, (20.0, "progressing", "", 900)], false, "and 850 requests");
    check("errors", &[SOAKING], false, "no time to turn bad");
    check("errors", &[SOAKING, TURN, (6.0, "aborted", "", 60)], false, "by an operator");
}

#[test]
fn a_shared_outage_is_held_for_its_cause() {
    let held: Moment = (7.0, "holding", "shared cause", 70);
    let suspicious: Moment = (6.0, "holding", "suspicious", 60);
    check("shared-outage", &[SOAKING, TURN, suspicious, held], true, "v1 breaks the same rule");
    check("shared-outage", &[SOAKING, TURN, held, OUT], false, "though it did no worse");
    check("shared-outage", &[SOAKING, TURN], false, "its hold reason is: soaking");
    let (_, news) = told("shared-outage", &[SOAKING, TURN, suspicious, suspicious, held, held]);
    assert_eq!(news, [News::Suspicious, News::SharedCause]);
}

#[test]
fn a_good_canary_is_left_in() {
    check("good", &[SOAKING, TURN, (20.0, "progressing", "soaking", 200)], true, "left in");
    check("good", &[SOAKING, TURN, OUT], false, "though it did no worse");
    check("good", &[(20.0, "progressing", "soaking", 0)], false, "v2 got no request at all");
}
