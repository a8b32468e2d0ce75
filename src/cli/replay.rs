//! `serin replay`: runs the judge again, over counts that were written down.
//!
//! Never talks to a running proxy: the same counts give the same verdicts, here and there.

pub mod journal;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;

use crate::cli::replay::journal::{ReplayedChange, ReplayedVersion};
use crate::names::{RouteName, RuleId, RuleName, Version};
use crate::rollout::judge::{IDLE_MAX, Judge, Pair, SLOT, SlotCounts, SlotTally};
use crate::rollout::machine::{Event, State};
use crate::rollout::objective::{Objective, Quantile, Signal};
use crate::rollout::plan::Plan;
use crate::rollout::verdict::{Finding, Findings, Tally, Verdict};
use crate::rollout::view::ObjectiveView;
use crate::units::{Ratio, Tick};

/// The columns of a counts file, in any order.
const COLUMNS: [&str; 8] = [
    "trace",
    "slot",
    "canary_n",
    "canary_err",
    "canary_slow",
    "stable_n",
    "stable_err",
    "stable_slow",
];

/// Recomputes recorded verdicts, or shows what another policy would have decided.
#[derive(Args, Clone, Debug)]
#[command(
    group(clap::ArgGroup::new("input").required(true).args(["journal", "counts"])),
    after_help = "Exit codes: 0 the same; 1 different, or nothing to read.\n\nExamples:\n  \
    serin replay serin.journal\n  \
    serin replay serin.journal -c stricter.yaml\n  \
    serin replay --counts slots.csv -o json"
)]
pub struct ReplayArgs {
    /// A journal that a proxy wrote
    pub journal: Option<PathBuf>,
    /// A csv file of counts, one row for each trace and slot of 250 ms
    #[arg(
        long,
        value_name = "FILE",
        env = "SERIN_COUNTS",
        long_help = "A csv file of counts, one row for each trace and slot of 250 ms. Columns: \
            trace, slot, canary_n, canary_err, canary_slow, stable_n, stable_err, stable_slow. \
            Slow ones are counted among those that did not err; slots without a row are empty"
    )]
    pub counts: Option<PathBuf>,
    /// A config file whose first rollout's objectives are judged instead of the default ones
    #[arg(short = 'c', long = "config", value_name = "POLICY", env = "SERIN_CONFIG")]
    pub policy: Option<PathBuf>,
    /// The canary's share of the traffic, above 0 and at most 1
    #[arg(long, default_value = "0.1", value_parser = share, env = "SERIN_WEIGHT")]
    pub weight: f64,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text, env = "SERIN_OUTPUT")]
    pub output: Output,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Sentences.
    Text,
    /// An array, one object per trace.
    Json,
}

/// Runs the command. `plan` is the policy's; `None` judges `errors: 1%` and 1 % slow with
/// T = 200.
pub fn run(args: &ReplayArgs, plan: Option<Plan>) -> Result<ExitCode> {
    if let Some(path) = &args.journal {
        let outcome = match &plan {
            Some(policy) => journal::reconsider(path, policy)?,
            None => journal::recompute(path)?,
        };
        let text = match args.output {
            Output::Text => outcome.text,
            Output::Json => format!("{:#}\n", outcome.json),
        };
        print(text.as_bytes())?;
        return Ok(ExitCode::from(u8::from(!outcome.is_same)));
    }
    let path = args.counts.as_ref().context("give a journal, or --counts FILE.csv")?;
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let policy = plan.map_or_else(Policy::default, |plan| Policy { plan, named: true });
    let ends = replay(&policy, args.weight, BufReader::new(file))
        .with_context(|| format!("cannot replay {}", path.display()))?;
    let mut out = Vec::new();
    match args.output {
        Output::Text => print_text(&mut out, &policy, &ends)?,
        Output::Json => print_json(&mut out, &policy, &ends)?,
    }
    print(&out)?;
    Ok(ExitCode::SUCCESS)
}

fn print(out: &[u8]) -> io::Result<()> {
    match io::stdout().write_all(out) {
        // Whoever reads has seen enough, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// What to judge by.
struct Policy {
    plan: Plan,
    /// Whether the plan says from when on an attempt was slow. A file of counts does not.
    named: bool,
}

impl Default for Policy {
    fn default() -> Self {
        let errors = Objective::errors(Ratio::new(0.01).unwrap_or_default());
        let latency = Objective::latency(Quantile::P99, Duration::ZERO);
        let plan = Plan::watching(
            "replay".into(),
            RuleId { route: RouteName::new("replay"), rule: RuleName::new("main") },
            ("stable".into(), "canary".into()),
            Version::new(""),
            errors.into_iter().chain([latency]).collect(),
        );
        Self { plan, named: false }
    }
}

impl Policy {
    fn name(&self, objective: &Objective) -> String {
        match objective.signal() {
            Signal::Latency { quantile, .. } if !self.named => format!("latency {quantile}"),
            Signal::Latency { .. } | Signal::Errors | Signal::Body | Signal::Feedback(_) => {
                objective.name()
            }
        }
    }
}

/// One trace, judged to its end.
struct Trace {
    name: String,
    judge: Judge,
    state: State,
    /// The last one taken in.
    slot: Option<u32>,
    canary_requests: u64,
    findings: Findings,
    /// The end of the last slot.
    closed: Tick,
}

/// One row of the file.
struct Row {
    trace: String,
    slot: u32,
    canary: Counts,
    stable: Counts,
}

/// One version's counts in one slot.
#[derive(Clone, Copy)]
struct Counts {
    attempts: u64,
    errors: u64,
    slow: u64,
}

impl Counts {
    fn tally(self, signal: Signal) -> Tally {
        match signal {
            Signal::Errors => Tally { bad: self.errors, total: self.attempts },
            // A fast 503 must not improve p99.
            Signal::Latency { .. } => Tally { bad: self.slow, total: self.attempts - self.errors },
            // The file has no counts of these.
            Signal::Body | Signal::Feedback(_) => Tally::default(),
        }
    }
}

/// Judges every trace of a counts file, in the order in which they appear.
fn replay(policy: &Policy, share: f64, input: impl BufRead) -> Result<Vec<Trace>> {
    let mut lines = input.lines().zip(1..).map(|(line, number)| {
        let line =
            line.map_err(|error| anyhow!("line {number}: {error}; save it as UTF-8 text"))?;
        anyhow::Ok((number, line))
    });
    let (_, header) = lines.next().transpose()?.context("line 1: the file is empty")?;
    let places = places(&header).context("line 1")?;
    let (mut traces, mut places_of) = (Vec::new(), BTreeMap::new());
    for line in lines {
        let (number, line) = line?;
        if line.trim().is_empty() {
            continue;
        }
        let row = row(&places, &line).with_context(|| format!("line {number}"))?;
        let index = *places_of.entry(row.trace.clone()).or_insert(traces.len());
        if index == traces.len() {
            traces.push(Trace::new(policy, share, &row.trace));
        }
        let trace = &mut traces[index];
        trace.take_in(policy, &row).with_context(|| format!("line {number}"))?;
    }
    Ok(traces)
}

impl Trace {
    fn new(policy: &Policy, share: f64, name: &str) -> Self {
        let mut judge = Judge::new(&policy.plan, share, Tick::ZERO);
        let findings = judge.close_slot(Tick::ZERO, &SlotCounts::default());
        let state = State::start(Tick::ZERO);
        let (closed, canary_requests) = (Tick::ZERO, 0);
        Self { name: name.to_owned(), judge, state, slot: None, canary_requests, findings, closed }
    }

    /// Judges one more slot, unless the trace has ended.
    fn take_in(&mut self, policy: &Policy, row: &Row) -> Result<()> {
        if self.state.has_ended() {
            return Ok(());
        }
        if let Some(last) = self.slot.filter(|last| *last >= row.slot) {
            let slot = row.slot;
            bail!(
                "slot {slot} comes after slot {last}; sort the slots of each trace, one row each"
            );
        }
        self.slot = Some(row.slot);
        self.canary_requests = self.canary_requests.saturating_add(row.canary.attempts);
        let tally = |objective: &Objective| {
            let signal = objective.signal();
            let (canary, stable) = (row.canary.tally(signal), row.stable.tally(signal));
            let relative_bad = Pair { canary: canary.bad, stable: stable.bad };
            SlotTally { canary, stable, relative_bad }
        };
        let counts = SlotCounts {
            canary_attempts: row.canary.attempts,
            stable_attempts: row.stable.attempts,
            objectives: policy.plan.objectives.iter().map(tally).collect(),
            ..SlotCounts::default()
        };
        let end = Tick::new(SLOT * row.slot).after(SLOT);
        // Slots without a row are empty ones: somebody looked.
        while end.since(self.closed) > IDLE_MAX {
            self.closed = self.closed.after(IDLE_MAX);
            self.judge.close_slot(self.closed, &SlotCounts::default());
        }
        self.closed = end;
        self.findings = self.judge.close_slot(end, &counts);
        let event = Event::Judged(&self.findings);
        let state = std::mem::replace(&mut self.state, State::start(Tick::ZERO));
        (self.state, _) = policy.plan.advance(state, end, event);
        Ok(())
    }

    /// What the rollout came to: a breach that was shared for too long is a rollback too.
    fn verdict(&self) -> Verdict {
        match &self.state {
            State::RolledBack { .. } => Verdict::Rollback,
            _ => self.findings.decision.verdict(),
        }
    }

    /// The objective that rolled it back.
    fn objective(&self, policy: &Policy) -> Option<String> {
        let State::RolledBack { cause, .. } = &self.state else { return None };
        let mut objectives = policy.plan.objectives.iter();
        let blamed = objectives.find(|one| one.name() == cause.objective)?;
        Some(policy.name(blamed))
    }

    fn hold_reason(&self) -> Option<String> {
        self.state.hold().map(|hold| hold.reason.to_string())
    }
}

/// Where each of [`COLUMNS`] stands in a row.
fn places(header: &str) -> Result<[usize; COLUMNS.len()]> {
    let names: Vec<_> = header.trim_start_matches('\u{feff}').split(',').map(str::trim).collect();
    let mut places = [0; COLUMNS.len()];
    for (place, column) in places.iter_mut().zip(COLUMNS) {
        let found = names.iter().position(|name| *name == column);
        *place = found.with_context(|| {
            format!("there is no column `{column}`; write the header {}", COLUMNS.join(","))
        })?;
    }
    Ok(places)
}

fn row(places: &[usize; COLUMNS.len()], line: &str) -> Result<Row> {
    let fields: Vec<_> = line.split(',').map(str::trim).collect();
    let field = |column: usize| {
        let missing = || format!("`{}` is missing: {} fields only", COLUMNS[column], fields.len());
        fields.get(places[column]).copied().with_context(missing)
    };
    let number = |column: usize| {
        let text = field(column)?;
        let hint = || format!("`{}` is `{text}`; write a whole number", COLUMNS[column]);
        text.parse::<u64>().with_context(hint)
    };
    let counts = |first: usize| -> Result<Counts> {
        let (attempts, errors) = (number(first)?, number(first + 1)?);
        let slow = number(first + 2)?;
        let bad = errors.checked_add(slow);
        ensure!(
            bad.is_some_and(|bad| bad <= attempts),
            "more bad than all: {errors} errors and {slow} slow of {attempts}; \
             count slow ones among those that did not err",
        );
        Ok(Counts { attempts, errors, slow })
    };
    let slot = u32::try_from(number(1)?).context("`slot` is beyond any rollout's life")?;
    Ok(Row { trace: field(0)?.to_owned(), slot, canary: counts(2)?, stable: counts(5)? })
}

/// Reads `--weight`.
fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "the share is a number above 0 and at most 1, like 0.1".to_owned())
}

fn print_text(out: &mut impl Write, policy: &Policy, traces: &[Trace]) -> io::Result<()> {
    for trace in traces {
        let (name, verdict, slot) = (&trace.name, trace.verdict(), trace.slot.unwrap_or(0));
        let seconds = (SLOT * slot + SLOT).as_secs_f64();
        let why = trace.objective(policy).or_else(|| trace.hold_reason()).unwrap_or_default();
        let requests = trace.canary_requests;
        write!(out, "{name}: {verdict} ({why}), slot {slot} at {seconds} s, ")?;
        writeln!(out, "{requests} canary requests")?;
        for finding in &trace.findings.objectives {
            writeln!(out, "  {}: {}", policy.name(&finding.objective), finding.numbers())?;
        }
    }
    Ok(())
}

/// What `-o json` prints.
#[derive(JsonSchema)]
#[serde(untagged)]
pub enum ReplayView<'a> {
    /// With `--counts`.
    Counts(Vec<TraceView<'a>>),
    /// Of a journal.
    Journal(Vec<ReplayedChange<'a>>),
    /// Of a journal, with `-c`.
    Policy(Vec<ReplayedVersion<'a>>),
}

/// One trace of `--counts`.
#[derive(Serialize, JsonSchema)]
pub struct TraceView<'a> {
    /// Its name.
    trace: &'a str,
    /// What it came to.
    verdict: Verdict,
    /// Why it may not go on; null when nothing holds it.
    hold_reason: Option<String>,
    /// The one that is to blame; null without a rollback.
    objective: Option<String>,
    /// In which it ended, or the last one.
    slot: u32,
    /// Until then.
    canary_requests: u64,
    /// As they were then.
    objectives: Vec<ObjectiveView>,
}

impl<'a> TraceView<'a> {
    fn new(policy: &Policy, trace: &'a Trace) -> Self {
        let view = |finding: &Finding| {
            let view = ObjectiveView::from(finding);
            ObjectiveView { name: policy.name(&finding.objective), ..view }
        };
        Self {
            trace: &trace.name,
            verdict: trace.verdict(),
            hold_reason: trace.hold_reason(),
            objective: trace.objective(policy),
            slot: trace.slot.unwrap_or(0),
            canary_requests: trace.canary_requests,
            objectives: trace.findings.objectives.iter().map(view).collect(),
        }
    }
}

fn print_json(out: &mut impl Write, policy: &Policy, traces: &[Trace]) -> io::Result<()> {
    let views: Vec<_> = traces.iter().map(|trace| TraceView::new(policy, trace)).collect();
    serde_json::to_writer_pretty(&mut *out, &views)?;
    writeln!(out)?;
    Ok(())
}

#[cfg(test)]
mod tests;
