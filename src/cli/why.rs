//! `serin why`: what became of a rollout, and on which numbers.
//!
//! Never computes a number of its own: it tells what was written down when it happened.

use std::fmt::Write;
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};

use crate::cli::client::{self, AdminArgs};
use crate::cli::status::table::body;
use crate::control::api::ChangesView;
use crate::rollout::record::{FailingRequest, Record, What};
use crate::rollout::verdict::Verdict;
use crate::rollout::view::ObjectiveView;

/// What `serin why` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Exit codes: 0; 1 no such rollout; 3 no proxy answers.\n\n\
    Example:\n  serin why sentiment-v2")]
pub struct WhyArgs {
    /// The rollout whose decisions are to be explained
    #[arg(value_name = "ROLLOUT", value_parser = NonEmptyStringValueParser::new())]
    pub rollout: String,
    /// How to print
    #[arg(short, long, value_enum, default_value_t, env = "SERIN_OUTPUT")]
    pub output: Output,
    /// Which proxy.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Sentences.
    #[value(alias = "table")]
    #[default]
    Text,
    /// What the admin port says.
    Json,
}

/// Tells why.
pub fn run(args: &WhyArgs) -> anyhow::Result<ExitCode> {
    client::with(&args.admin, |client| {
        let path = format!("{}/changes", client::rollout_path(&args.rollout));
        let answer = client.get(&path)?;
        let told: ChangesView = serde_json::from_slice(&answer).map_err(|_| client.stranger())?;
        let text = match args.output {
            Output::Text => text(&told),
            Output::Json => {
                let json: serde_json::Value =
                    serde_json::from_slice(&answer).map_err(|_| client.stranger())?;
                format!("{json:#}\n")
            }
        };
        client::print(&text)?;
        Ok(ExitCode::SUCCESS)
    })
}

fn text(told: &ChangesView) -> String {
    let view = &told.rollout;
    let (name, version, since) = (&view.name, &view.version, &view.since);
    let state = view.state.replace('_', " ");
    let mut text = format!(
        "{name}, version {version}: {} from {} to {}\n",
        view.rule, view.stable, view.canary
    );
    let hold = view.hold_reason.as_ref().filter(|_| view.reason.is_none());
    let why = view.reason.as_ref().or(hold).map(|why| format!(": {why}")).unwrap_or_default();
    let _ = writeln!(text, "{state} since {since}{why}");
    for objective in &view.objectives {
        let _ = writeln!(text, "  {}", numbers(objective));
    }
    if let Some(body) = body(view) {
        let _ = writeln!(text, "  body: {body}");
    }
    if !told.changes.is_empty() {
        text.push_str("\nWhat happened:\n");
    }
    for record in &told.changes {
        let other = if record.version == *version {
            String::new()
        } else {
            format!(" (version {})", record.version)
        };
        let _ = writeln!(text, "  {}{other}  {}", record.at, sentence(record));
        let What::Changed(change) = &record.what else { continue };
        if change.reason.is_some() {
            for objective in &change.objectives {
                let _ = writeln!(text, "    {}", numbers(objective));
            }
        }
        failing(&mut text, &change.failing);
    }
    text
}

/// The first requests that counted against the canary, to be looked up in other logs.
fn failing(text: &mut String, requests: &[FailingRequest]) {
    let mut named = "";
    for request in requests {
        if request.objective != named {
            let _ = writeln!(text, "    the first against {}:", request.objective);
            named = &request.objective;
        }
        let status = request.status.map_or("no answer yet".to_owned(), |code| code.to_string());
        let reason = request.reason.as_ref().map_or(String::new(), |why| format!(" ({why})"));
        let (id, taken) = (&request.id, request.latency_ms);
        let trace = request.trace_id.as_ref().map_or(String::new(), |id| format!(", trace {id}"));
        let _ = writeln!(text, "      {id}  {status}{reason} after {taken} ms{trace}");
    }
}

/// What a record says, without its time.
fn sentence(record: &Record) -> String {
    match &record.what {
        What::Told { word, by } => {
            let by = by.as_deref().unwrap_or("an operator");
            format!("{by} said {}", word.as_str())
        }
        What::Adopted { by, .. } => format!("taken out by {by}"),
        What::Moved { to, by } => format!("followed {by}: {to}"),
        What::Changed(change) => change.to_string(),
        What::Proposed { to } => format!("proposed to the fleet, by the counts of all: {to}"),
        What::Begins { .. }
        | What::Pooling { .. }
        | What::Pooled { .. }
        | What::Replanned { .. }
        | What::Shared { .. }
        | What::Slots { .. }
        | What::Looked { .. } => String::new(),
    }
}

/// An objective with everything that its verdict came from.
fn numbers(one: &ObjectiveView) -> String {
    let percent = |ratio: f64| ratio * 100.0;
    let (canary, stable) = (&one.canary, &one.stable);
    let worse = one.worse_than_stable.map(|worse| format!(", worse than stable {worse:.2}"));
    let breached = if one.verdict == Verdict::Rollback { ": breached" } else { "" };
    format!(
        "{}: canary {:.2}% [{:.2}, {:.2}] of {}, stable {:.2}% of {}; over limit {:.2}{} of {:.0}{breached}",
        one.name,
        percent(canary.ratio),
        percent(canary.low),
        percent(canary.high),
        canary.total,
        percent(stable.ratio),
        stable.total,
        one.over_limit,
        worse.unwrap_or_default(),
        one.threshold,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::machine::Word;
    use crate::rollout::record::Change;

    #[test]
    fn the_first_against_it_can_be_found_elsewhere() {
        let request = FailingRequest {
            objective: "errors <= 1%".to_owned(),
            id: "one".to_owned(),
            trace_id: Some("0af7651916cd43dd8448eb211c80319c".to_owned()),
            status: Some(502),
            reason: Some("reset".to_owned()),
            latency_ms: 1.5,
        };
        let other = FailingRequest { trace_id: None, status: None, ..request.clone() };
        let mut text = String::new();
        failing(&mut text, &[request, other]);
        assert_eq!(
            text,
            "    the first against errors <= 1%:\n      \
             one  502 (reset) after 1.5 ms, trace 0af7651916cd43dd8448eb211c80319c\n      \
             one  no answer yet (reset) after 1.5 ms\n"
        );
    }

    #[test]
    fn a_change_is_a_sentence() {
        let change = Change {
            state: "rolled_back".to_owned(),
            step: None,
            share: 0.0,
            hold_reason: None,
            reason: Some("errors <= 1%: canary 4%".to_owned()),
            objective: Some("errors <= 1%".to_owned()),
            config: "hash".to_owned(),
            objectives: Vec::new(),
            failing: Vec::new(),
        };
        for (change, text) in [
            (change.clone(), "rolled back, canary at 0%: errors <= 1%: canary 4%"),
            (
                Change {
                    state: "holding".into(),
                    step: Some(1),
                    share: 0.05,
                    reason: None,
                    hold_reason: Some("suspicious".into()),
                    ..change.clone()
                },
                "holding, step 2, canary at 5%: suspicious",
            ),
        ] {
            assert_eq!(change.to_string(), text);
        }
        let record = Record {
            at: String::new(),
            tick: 0,
            rollout: String::new(),
            version: String::new(),
            what: What::Told { word: Word::PromoteFully, by: None },
        };
        assert_eq!(sentence(&record), "an operator said promote --full");
        let named = What::Told { word: Word::Abort, by: Some("ci".to_owned()) };
        assert_eq!(sentence(&Record { what: named, ..record }), "ci said abort");
    }
}
