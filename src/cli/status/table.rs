//! Rollouts as text: a tree for people, a line for logs.
//!
//! Never prints.

use std::fmt::Write;

use crate::control::api::{RolloutView, VersionView};
use crate::rollout::verdict::Verdict;
use crate::rollout::view::ObjectiveView;
use crate::units::Ratio;

/// What the columns mean.
const LEGEND: &str = "\
canary, stable: share of bad attempts, of how many. Evidence against the canary: over the
limit, and worse than stable. When both reach the proof, the canary is taken out.
";

/// Each rule with its rollout, and what was found for each objective.
pub fn render(rollouts: &[RolloutView], colours: bool) -> String {
    if rollouts.is_empty() {
        return "no rollouts: the config has no `rollouts`\n".to_owned();
    }
    let mut out = String::new();
    for rollout in rollouts {
        // Writing to a string does not fail, here and below.
        let _ = tree(&mut out, rollout, colours);
        out.push('\n');
    }
    if rollouts.iter().any(|rollout| !rollout.objectives.is_empty()) {
        out.push_str(LEGEND);
    }
    out
}

fn tree(out: &mut String, rollout: &RolloutView, colours: bool) -> std::fmt::Result {
    let RolloutView { name, rule, stable, canary, version, since, .. } = rollout;
    let state = painted(&rollout.state.replace('_', " "), tone(rollout), colours);
    writeln!(out, "{rule}\n└─ {name}  {state} since {since}")?;
    writeln!(out, "   stable   {stable}")?;
    let share = percent(rollout.weight);
    writeln!(out, "   canary   {canary}, version {version}, gets {share} of requests")?;
    steps(out, rollout)?;
    if let Some(said) = &rollout.said {
        let by = said.by.as_deref().unwrap_or("an operator");
        writeln!(out, "   told     {} by {by} at {}", said.word.as_str(), said.at)?;
    }
    match (&rollout.reason, &rollout.hold_reason) {
        (Some(reason), _) => writeln!(out, "   reason   {reason}")?,
        (None, Some(hold)) => writeln!(out, "   verdict  {}: {hold}", rollout.verdict)?,
        (None, None) => writeln!(out, "   verdict  {}", rollout.verdict)?,
    }
    if let Some(body) = body(rollout) {
        writeln!(out, "   body     {body}")?;
    }
    versions(out, &rollout.versions)?;
    if rollout.objectives.is_empty() {
        return Ok(());
    }
    out.push('\n');
    let head = ["OBJECTIVE", "CANARY", "STABLE", "OVER LIMIT", "VS STABLE", "PROOF", "VERDICT"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(rollout.objectives.iter().map(cells));
    for (index, line) in aligned(&rows).enumerate() {
        let breached = index > 0 && rollout.objectives[index - 1].verdict == Verdict::Rollback;
        let tone = if breached { Tone::Bad } else { Tone::Plain };
        writeln!(out, "{}", painted(&line, tone, colours))?;
    }
    Ok(())
}

/// What both versions do of late.
fn versions(out: &mut String, versions: &[VersionView]) -> std::fmt::Result {
    if versions.is_empty() {
        return Ok(());
    }
    out.push('\n');
    let mut rows = vec![["VERSION", "WEIGHT", "RPS", "ERRORS", "P99"].map(str::to_owned)];
    for (index, one) in versions.iter().enumerate() {
        let branch = if index + 1 == versions.len() { "└─" } else { "├─" };
        rows.push([
            format!("{branch} {} ({})", one.name, one.role),
            percent(one.weight),
            format!("{:.1}", one.rps),
            format!("{:.2}%", one.errors * 100.0),
            milliseconds(one.p99_ms),
        ]);
    }
    for line in aligned(&rows) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// What a body objective measures by.
pub fn body(rollout: &RolloutView) -> Option<String> {
    let limit = milliseconds(Some(rollout.body_ms?));
    Some(format!("slow is what takes longer than {limit}, stable's p90 when the step began"))
}

/// Two digits are more than the buckets tell.
fn milliseconds(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms < 10.0 => format!("{ms:.1}ms"),
        Some(ms) => format!("{ms:.0}ms"),
    }
}

/// Rows as lines, each column as wide as its widest cell.
fn aligned<const N: usize>(rows: &[[String; N]]) -> impl Iterator<Item = String> {
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    });
    rows.iter().map(move |row| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "   {cell:width$}");
        }
        line.trim_end().to_owned()
    })
}

/// The plan with what is behind, what is now and what is to come.
fn steps(out: &mut String, rollout: &RolloutView) -> std::fmt::Result {
    let is_promoted = rollout.state == "promoted";
    for (index, step) in rollout.steps.iter().enumerate() {
        let now = rollout.step.map_or(0, |step| step as usize);
        let mark = match (is_promoted, rollout.step.is_some()) {
            (true, _) => '✔',
            (false, true) if index < now => '✔',
            (false, true) if index == now => '●',
            (false, _) => '○',
        };
        let head = if index == 0 { "steps" } else { "" };
        let what = match step.mirror {
            Some(share) => format!("mirror {}", percent(share)),
            None => format!("weight {}", percent(step.weight)),
        };
        writeln!(out, "   {head:8} {mark} {what} {}", step.until)?;
    }
    Ok(())
}

fn cells(objective: &ObjectiveView) -> [String; 7] {
    let ObjectiveView { canary, stable, threshold, .. } = objective;
    [
        objective.name.clone(),
        tally(canary.ratio, canary.total),
        tally(stable.ratio, stable.total),
        evidence(Some(objective.over_limit), *threshold),
        evidence(objective.worse_than_stable, *threshold),
        format!("{threshold:.0}"),
        objective.verdict.to_string(),
    ]
}

/// One line that changes when anything does.
pub fn numbers(rollout: &RolloutView) -> String {
    let mut line = state(rollout);
    for objective in &rollout.objectives {
        let [name, canary, stable, over, worse, proof, _] = cells(objective);
        let _ = write!(
            line,
            "; {name}: canary {canary}, stable {stable}, evidence {over} and {worse}, \
             proof at {proof}"
        );
    }
    line
}

/// One line that changes when the state or its reason does.
pub fn state(rollout: &RolloutView) -> String {
    let (state, share) = (rollout.state.replace('_', " "), percent(rollout.weight));
    let mut line = format!("{}: {state}, canary gets {share}", rollout.name);
    if let Some(why) = rollout.reason.as_ref().or(rollout.hold_reason.as_ref()) {
        let _ = write!(line, " ({why})");
    }
    line
}

/// `4.08% of 147`.
fn tally(ratio: f64, total: u64) -> String {
    if total == 0 { "none yet".to_owned() } else { format!("{:.2}% of {total}", ratio * 100.0) }
}

fn percent(share: f64) -> String {
    // Two decimals, without the zeros.
    Ratio::new((share * 1e4).round() / 1e4).unwrap_or_default().to_string()
}

/// As in the judge's own sentence: whole from 10, and beyond ten times the proof no news.
fn evidence(value: Option<f64>, threshold: f64) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value > 10.0 * threshold => format!(">= {:.0}", 10.0 * threshold),
        Some(value) if value >= 10.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.2}"),
    }
}

/// How a person should take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
}

fn tone(rollout: &RolloutView) -> Tone {
    match rollout.state.as_str() {
        "rolled_back" | "aborted" => Tone::Bad,
        "holding" | "paused" => Tone::Warning,
        "progressing" | "promoted" => Tone::Good,
        _ => Tone::Plain,
    }
}

fn painted(text: &str, tone: Tone, colours: bool) -> String {
    let code = match tone {
        _ if !colours => return text.to_owned(),
        Tone::Plain => return text.to_owned(),
        Tone::Good => 32,
        Tone::Warning => 33,
        Tone::Bad => 31,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::SaidView;
    use crate::rollout::machine::Word;
    use crate::rollout::view::{CanaryView, StableView};

    fn objective(name: &str, verdict: Verdict, over_limit: f64) -> ObjectiveView {
        ObjectiveView {
            name: name.to_owned(),
            canary: CanaryView { bad: 6, total: 147, ratio: 6.0 / 147.0, low: 0.01, high: 0.1 },
            stable: StableView { bad: 2, total: 1310, ratio: 2.0 / 1310.0 },
            limit: 0.01,
            over_limit,
            worse_than_stable: (verdict == Verdict::Rollback).then_some(1e9),
            threshold: 200.0,
            verdict,
        }
    }

    fn version(role: &str, weight: f64, p99_ms: Option<f64>) -> VersionView {
        let (name, role) = (format!("sentiment-{role}"), role.to_owned());
        VersionView { name, role, weight, rps: 100.0 * weight, errors: 0.00125 * weight, p99_ms }
    }

    fn rolled_back() -> RolloutView {
        RolloutView {
            name: "sentiment-v2".to_owned(),
            rule: "sentiment/main".to_owned(),
            stable: "sentiment-v1".to_owned(),
            canary: "sentiment-v2".to_owned(),
            version: "2026-11-20.1".to_owned(),
            state: "rolled_back".to_owned(),
            step: None,
            steps: Vec::new(),
            weight: 0.0,
            reason: Some("errors <= 1%: canary 4.08% of 147".to_owned()),
            since: "2026-11-21T10:00:00Z".to_owned(),
            verdict: Verdict::Rollback,
            hold_reason: None,
            objectives: vec![
                objective("errors <= 1%", Verdict::Rollback, 411.3),
                objective("latency p99 <= 200ms", Verdict::Hold, 0.021),
            ],
            body_ms: None,
            versions: vec![version("stable", 1.0, Some(12.25)), version("canary", 0.0, None)],
            fleet: None,
            said: Some(SaidView {
                word: Word::Promote,
                by: Some("ci".to_owned()),
                at: "2026-11-21T09:59:00Z".to_owned(),
            }),
        }
    }

    fn young() -> RolloutView {
        RolloutView {
            name: "chat-v2".to_owned(),
            rule: "chat/completions".to_owned(),
            state: "progressing".to_owned(),
            weight: 0.1 + 0.2,
            reason: None,
            verdict: Verdict::Hold,
            hold_reason: Some("not enough traffic".to_owned()),
            objectives: Vec::new(),
            said: None,
            body_ms: Some(43.21),
            versions: Vec::new(),
            ..rolled_back()
        }
    }

    #[test]
    fn a_table_explains_itself() {
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!("status", render(&[rolled_back(), young()], false));
        });
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let painted = render(&[rolled_back(), young()], true);
        assert!(painted.contains("\x1b[31mrolled back\x1b[0m"), "{painted}");
        let plain = ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"]
            .iter()
            .fold(painted, |text, code| text.replace(code, ""));
        assert_eq!(plain, render(&[rolled_back(), young()], false));
    }

    #[test]
    fn a_line_says_state_and_reason() {
        assert_eq!(state(&young()), "chat-v2: progressing, canary gets 30% (not enough traffic)");
        assert_eq!(
            numbers(&rolled_back()),
            "sentiment-v2: rolled back, canary gets 0% (errors <= 1%: canary 4.08% of 147); \
             errors <= 1%: canary 4.08% of 147, stable 0.15% of 1310, \
             evidence 411 and >= 2000, proof at 200; \
             latency p99 <= 200ms: canary 4.08% of 147, stable 0.15% of 1310, \
             evidence 0.02 and -, proof at 200"
        );
    }

    #[test]
    fn steps_show_what_is_behind_now_and_to_come() {
        let step = |weight, mirror, until: &str| crate::control::api::StepView {
            weight,
            mirror,
            until: until.to_owned(),
        };
        let steps = vec![
            step(0.0, Some(0.1), "for 2m"),
            step(0.05, None, "until proven"),
            step(1.0, None, "for 10m"),
        ];
        for (state, now, marks) in
            [("progressing", Some(1), "✔●○"), ("promoted", None, "✔✔✔"), ("aborted", None, "○○○")]
        {
            let (state, steps) = (state.to_owned(), steps.clone());
            let view = RolloutView { state, steps, step: now, ..rolled_back() };
            let mut out = String::new();
            super::steps(&mut out, &view).unwrap();
            let found: String = out.chars().filter(|c| "✔●○".contains(*c)).collect();
            assert_eq!(found, marks, "{out}");
            assert!(out.starts_with("   steps    "), "{out}");
            assert!(out.contains("mirror 10% for 2m\n") && out.contains("weight 5% until proven"));
        }
    }

    #[test]
    fn without_rollouts_it_says_so() {
        assert_eq!(render(&[], false), "no rollouts: the config has no `rollouts`\n");
    }
}
