//! The demo in words: what is running, how it stands, what just happened, how it ended.
//!
//! Never writes them anywhere and never colours them, headings aside: `screen` does.

use std::fmt::Write;
use std::time::Duration;

use crate::cli::demo::sample::{Sample, VersionCounts};
use crate::cli::demo::scenario::{Expected, Scenario};
use crate::cli::demo::story::{Check, News, Story};
use crate::control::api::RolloutView;
use crate::rollout::verdict::Verdict;
use crate::rollout::view::ObjectiveView;
use crate::units::{Ratio, Tick};

/// Cells of a bar in the block.
const BLOCK_BAR: usize = 12;
/// Cells of a bar in a line.
const LINE_BAR: usize = 8;

/// What `--hold` and `--help` suggest to send.
const TRY_BODY: &str = concat!(
    r#"{"inputs":[{"name":"text","shape":[1],"datatype":"BYTES","#,
    r#""data":["What a wonderful day"]}]}"#
);

/// What the introduction tells.
#[derive(Debug)]
pub struct Setting<'a> {
    /// The story.
    pub scenario: Scenario,
    /// Requests per second.
    pub rps: f64,
    /// Where users send their requests.
    pub proxy: &'a str,
    /// The admin port.
    pub admin: &'a str,
    /// Of stable and of the canary.
    pub models: [&'a str; 2],
    /// The config file.
    pub config: &'a str,
    /// When the plot begins.
    pub turn: Duration,
    /// When the demo ends at the latest.
    pub end: Duration,
}

/// What was started and where, what is at stake, and what to try meanwhile.
pub fn introduction(setting: &Setting<'_>) -> String {
    let Setting { scenario, rps, proxy, admin, models: [stable, canary], config, turn, end } =
        setting;
    let (turn, end) = (turn.as_secs_f64(), end.as_secs_f64());
    let plot = scenario.plot();
    let plot = if scenario.turns() {
        format!("What goes wrong, after {turn:.0} s: {plot}.")
    } else {
        format!("What goes wrong: {plot}.")
    };
    format!(
        "
  users         {rps} requests a second, all of them to Serin
  Serin         http://{proxy}  sends 90% to v1 and 10% to v2, and judges every answer
  v1 (stable)   http://{stable}  the model version that everybody trusts
  v2 (canary)   http://{canary}  the new one
  admin page    http://{admin}
  config file   {config}  (edit it, and Serin reads it again)

v2 must keep two rules: errors <= 1%, and latency p99 <= 200ms (at most 1% of the answers take
longer). With every answer Serin gathers evidence on two questions: does v2 break a rule, and
does it do worse than v1 at the same time? Evidence of 1 says nothing, 200 is proof. When both
are proven, v2 is out, at once and by itself.

{plot}
The demo ends by itself after {end:.0} s at the latest; Ctrl-C ends it now.

Try it yourself in another terminal (the answer's header x-serin-backend says who served you):
  {}
  curl http://{admin}/api/rollouts
",
        curl(proxy)
    )
}

fn curl(proxy: &str) -> String {
    format!("curl -i http://{proxy}/v2/models/sentiment/infer -d '{TRY_BODY}'")
}

/// What can be done while the demo is held.
pub fn suggestions(proxy: &str, admin: &str) -> String {
    format!(
        "
Everything goes on (--hold) until you press Ctrl-C. Some things to try:
  {}
  curl http://{admin}/api/rollouts/sentiment-v2
  serin status --admin {admin}
  serin reset sentiment-v2 --admin {admin}   (gives a version that was taken out another chance)
",
        curl(proxy)
    )
}

/// The columns of [`line()`].
pub fn line_heading() -> String {
    format!(
        "{:>7}  {:>13} | {:^28} | {:^21} | evidence against v2 (200 on both is proof)\n\
         {:>7}  {:>13} | {:>6} {:>6} {:>6} {:>7} | {:>6} {:>6} {:>7} | {:<15}  worse than v1",
        "",
        "users who",
        "v2 (canary), last 5 s",
        "v1 (stable), last 5 s",
        "time",
        "saw an error",
        "share",
        "errors",
        ">200ms",
        "p99",
        "errors",
        ">200ms",
        "p99",
        "breaks rule",
    )
}

/// How it stands, in a line.
pub fn line(sample: &Sample, recent: &[VersionCounts; 2]) -> String {
    let [stable, canary] = recent;
    let users = format!("{} of {}", sample.users.errors, sample.users.total());
    let evidence = worst(&sample.rollout).map_or_else(String::new, |one| {
        let cell = |value| gauge(value, one, LINE_BAR);
        let worse = one.worse_than_stable.map_or_else(String::new, cell);
        format!("{} {worse} {:<7}", cell(one.over_limit), one.name.split(' ').next().unwrap_or(""))
    });
    format!(
        "{:>7}  {users:>13} | {:>6} {:>6} {:>6} {:>7} | {:>6} {:>6} {:>7} | {evidence} {}",
        time(sample.at),
        percent(share(canary, stable)),
        percent(canary.seen.error_ratio()),
        percent(canary.slow_ratio()),
        millis(canary.p99()),
        percent(stable.seen.error_ratio()),
        percent(stable.slow_ratio()),
        millis(stable.p99()),
        state(&sample.rollout),
    )
}

/// How it stands, as a block of lines.
pub fn block(sample: &Sample, recent: &[VersionCounts; 2]) -> String {
    let [stable, canary] = recent;
    let mut text = format!(
        "\n{:>7}   {}\n\n  last 5 s {:>12} {:>10} {:>9} {:>10} {:>9}\n",
        time(sample.at),
        harm(sample),
        "share",
        "requests",
        "errors",
        ">200ms",
        "p99",
    );
    for (name, one, other) in [("v1 (stable)", stable, canary), ("v2 (canary)", canary, stable)] {
        let _ = writeln!(
            text,
            "  {name} {:>9} {:>10} {:>9} {:>10} {:>9}",
            percent(share(one, other)),
            one.requests,
            percent(one.seen.error_ratio()),
            percent(one.slow_ratio()),
            millis(one.p99()),
        );
    }
    let _ = write!(
        text,
        "\n  {:<22} {:<21} {:<21} (200 on both is proof)\n",
        "evidence against v2", "breaks the rule", "does worse than v1",
    );
    for one in &sample.rollout.objectives {
        let cell = |value| gauge(value, one, BLOCK_BAR);
        let worse = one.worse_than_stable.map_or_else(String::new, cell);
        let _ = writeln!(text, "  {:<22} {} {worse}", one.name, cell(one.over_limit));
    }
    let _ = write!(text, "\n  Serin: {}", standing(&sample.rollout));
    text
}

/// What just happened: a heading and what there is to say about it.
pub fn news(news: News, story: &Story, sample: &Sample) -> (String, String) {
    let at = time(sample.at);
    match news {
        News::Suspicious => (
            format!("{at}  SUSPICIOUS: there is evidence against v2, not yet proof"),
            String::new(),
        ),
        News::SharedCause => (format!("{at}  HOLD: shared cause"), shared_cause(sample)),
        News::RolledBack => {
            (format!("{at}  ROLLBACK: v2 is taken out"), rolled_back(story, sample))
        }
        News::Aborted => (
            format!("{at}  ABORTED: an operator took v2 out"),
            "         v2 gets nothing from now on.".to_owned(),
        ),
        News::Reset => (
            format!("{at}  RESET: v2 gets another chance"),
            format!(
                "         It has {} of the traffic again, and no evidence against it.",
                Ratio::new(sample.rollout.weight).unwrap_or_default()
            ),
        ),
    }
}

/// What there is to say about the plot's begin.
pub const UNTOLD: &str = "         Nobody tells Serin: it can only judge by the answers.";

/// The heading of the plot's begin.
pub fn turn(story: &Story, at: Tick) -> String {
    let who = match story.scenario.expected() {
        Expected::SharedCause => "V1 AND V2 TURN BAD",
        Expected::Rollback(_) | Expected::Nothing => "V2 TURNS BAD",
    };
    format!("{}  {who}: from now on, {}", time(at), story.scenario.plot())
}

fn rolled_back(story: &Story, sample: &Sample) -> String {
    let mut text = String::new();
    if let Some(one) = sample.rollout.objectives.iter().find(|o| o.verdict == Verdict::Rollback) {
        let _ = writeln!(text, "         {}.", in_words(one));
    }
    let _ = writeln!(
        text,
        "         In Serin's words: {}",
        sample.rollout.reason.as_deref().unwrap_or("no reason")
    );
    // A second rollback, after a reset, did not begin with the turn.
    let first = story.rollback.as_ref().is_some_and(|rollback| rollback.at == sample.at);
    if let Some((span, requests)) = story.reaction().filter(|_| first) {
        let _ = writeln!(
            text,
            "         It took {:.2} s from v2's turning bad, and {requests} requests to v2.",
            span.as_secs_f64()
        );
    }
    let _ = write!(text, "         {}. From now on v2 gets nothing, v1 serves all.", harm(sample));
    text
}

fn shared_cause(sample: &Sample) -> String {
    let worst = worst(&sample.rollout);
    let found = worst.map_or_else(String::new, |one| {
        format!(
            "v2 breaks `{}` ({} of its answers are bad), but so does v1 ({}).",
            one.name,
            percent(Some(one.canary.ratio)),
            percent(Some(one.stable.ratio))
        )
    });
    format!(
        "         {found}
         When both are bad, the new version is not the cause, and taking it out would help
         nobody. So v2 stays at {}, but may go no further, until the cause is found.",
        Ratio::new(sample.rollout.weight).unwrap_or_default()
    )
}

fn in_words(one: &ObjectiveView) -> String {
    let what = if one.name.starts_with("latency") { "took too long" } else { "were errors" };
    format!(
        "{} of v2's answers {what}, where {} is allowed and v1 has {}",
        percent(Some(one.canary.ratio)),
        Ratio::new(one.limit).unwrap_or_default(),
        percent(Some(one.stable.ratio))
    )
}

/// The sums, what was checked, and the verdict; without the verdict's tone.
pub fn summary(story: &Story, last: &Sample, seed: u64) -> String {
    let mut text = format!("\nSummary, after {} with seed {seed}\n", time(last.at).trim_start());
    let _ = writeln!(
        text,
        "  users         {} requests: {} saw an error ({}), {} waited over 200ms ({})",
        last.users.total(),
        last.users.errors,
        percent(ratio(last.users.errors, last.users.total())),
        last.slow(),
        percent(ratio(last.slow(), last.users.total())),
    );
    for (name, one) in [("v1 (stable)", &last.stable), ("v2 (canary)", &last.canary)] {
        let _ = writeln!(
            text,
            "  {name}   {} requests, {} errors ({}), {} took over 200ms ({})",
            one.requests,
            one.seen.bad,
            percent(one.seen.error_ratio()),
            one.slow(),
            percent(one.slow_ratio()),
        );
    }
    if let Some((span, requests)) = story.reaction() {
        let _ = writeln!(
            text,
            "  out after     {:.2} s and {requests} requests to v2; left in at 10%, it would go on \
             hurting 1 user in 40,\n                and with everybody on it, 1 in 4",
            span.as_secs_f64()
        );
    }
    text
}

/// A check of the summary: its mark, and what was found.
pub fn check(check: &Check) -> (&'static str, &str) {
    (if check.holds { "ok  " } else { "FAIL" }, &check.text)
}

/// What users had to bear.
fn harm(sample: &Sample) -> String {
    format!(
        "{} of {} users saw an error, {} waited over 200ms",
        sample.users.errors,
        sample.users.total(),
        sample.slow()
    )
}

/// The state and its reason, in the words of the API.
fn state(rollout: &RolloutView) -> String {
    let state = rollout.state.replace('_', " ");
    match &rollout.hold_reason {
        None => state,
        Some(reason) => format!("{state}, {reason}"),
    }
}

/// The state, and what it means.
fn standing(rollout: &RolloutView) -> String {
    let meaning = match (rollout.state.as_str(), rollout.hold_reason.as_deref()) {
        ("rolled_back" | "aborted", _) => "v2 gets nothing, v1 serves all",
        (_, Some("not enough traffic")) => "few answers of v2 yet",
        (_, Some("soaking")) => "v2 is young, nothing speaks against it",
        (_, Some("not proven")) => "nothing speaks against v2",
        (_, Some("suspicious")) => "evidence against v2, not yet proof",
        (_, Some("shared cause")) => "v1 is as bad, v2 is not to blame",
        (_, Some(_) | None) => return state(rollout),
    };
    format!("{} ({meaning})", state(rollout))
}

/// The objective that the canary breaks most clearly.
fn worst(rollout: &RolloutView) -> Option<&ObjectiveView> {
    // Of equals the first.
    rollout.objectives.iter().rev().max_by(|a, b| a.over_limit.total_cmp(&b.over_limit))
}

/// Evidence as a bar and a number.
fn gauge(value: f64, one: &ObjectiveView, cells: usize) -> String {
    format!("[{}] {:<6}", bar(value, one.threshold, cells), evidence(value, one))
}

/// Evidence on a logarithmic scale: empty at 1, which says nothing, and full at the proof.
fn bar(value: f64, threshold: f64, cells: usize) -> String {
    let part = (value.max(1.0).ln() / threshold.max(1.1).ln()).min(1.0);
    let full = (part * cells as f64) as usize;
    format!("{}{}", "#".repeat(full), ".".repeat(cells - full))
}

/// As the judge's sentence prints it, shorter: more than ten times the proof is no news.
fn evidence(value: f64, one: &ObjectiveView) -> String {
    let most = 10.0 * one.threshold;
    match value {
        value if value >= most => format!(">={most:.0}"),
        value if value >= 10.0 => format!("{value:.0}"),
        value => format!("{value:.1}"),
    }
}

fn share(one: &VersionCounts, other: &VersionCounts) -> Option<f64> {
    ratio(one.requests, one.requests + other.requests)
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn percent(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{:.1}%", ratio * 100.0))
}

/// Interpolated, hence the tilde.
fn millis(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |seconds| format!("~{:.0}ms", seconds * 1e3))
}

fn time(at: Tick) -> String {
    format!("{:>5.1} s", at.since_start().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_empty_at_no_evidence_and_full_at_proof() {
        for (value, full) in [(0.0, 0), (1.0, 0), (14.2, 6), (199.0, 11), (200.0, 12), (9e9, 12)] {
            assert_eq!(bar(value, 200.0, 12).matches('#').count(), full, "{value}");
            assert_eq!(bar(value, 200.0, 12).len(), 12);
        }
    }
}
