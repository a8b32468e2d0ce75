//! `serin status`: how the rollouts of a running proxy stand.
//!
//! Never computes a number of its own: it shows what the admin port says.

pub(super) mod table;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use ratatui::crossterm::terminal;
use serde_json::Value;

use crate::cli::client::{self, AdminArgs, Client, ClientError};
use crate::control::api::{RolloutView, RolloutsView};

/// The exit code of `--wait` for a rollout that was rolled back or aborted.
pub const ROLLED_BACK: u8 = 4;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks in a row that may find nobody, once somebody was there: a restart takes a while.
const MISSES_MAX: u32 = 30;

/// What `serin status` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Exit codes: 0; with --wait, 4 if a rollout was rolled back or aborted; \
    1 no such rollout; 3 no proxy answers.\n\nExamples:\n  serin status\n  \
    serin status sentiment-v2 --watch\n  serin status sentiment-v2 --wait && echo promoted")]
pub struct StatusArgs {
    /// Only this rollout
    #[arg(value_name = "ROLLOUT", value_parser = NonEmptyStringValueParser::new())]
    pub rollout: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t, env = "SERIN_OUTPUT")]
    pub output: Output,
    /// Look again every second: redrawn on a terminal, else a line for each change
    #[arg(short, long, env = "SERIN_WATCH")]
    pub watch: bool,
    /// Wait until it ended: promoted, rolled back or aborted
    #[arg(long, env = "SERIN_WAIT")]
    pub wait: bool,
    /// Which proxy.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// How to print rollouts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    // Other commands call it so, and SERIN_OUTPUT is one for all.
    #[value(alias = "text")]
    #[default]
    Table,
    /// For scripts: what the admin port says; with --watch, one line for each change.
    Json,
}

/// Shows the rollouts, once or until they ended.
pub fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    client::with(&args.admin, |client| {
        if args.watch || args.wait {
            return follow(client, args);
        }
        Seen::fetch(client, args)?.print(args.output)?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Looks again and again.
fn follow(client: &Client, args: &StatusArgs) -> Result<ExitCode, ClientError> {
    let mut follower = Follower { args, told: BTreeMap::new(), last: None };
    let (mut found, mut misses) = (false, 0);
    loop {
        match Seen::fetch(client, args) {
            Ok(seen) => {
                (found, misses) = (true, 0);
                let ended = seen.rollouts.iter().all(has_ended);
                follower.show(&seen, args.wait && ended)?;
                if args.wait && ended {
                    let undone = seen.rollouts.iter().any(|one| one.state != "promoted");
                    return Ok(ExitCode::from(if undone { ROLLED_BACK } else { 0 }));
                }
            }
            Err(ClientError::Unreachable { address, .. }) if found && misses < MISSES_MAX => {
                if misses == 0 {
                    eprintln!("serin: no answer from {address}; trying again");
                }
                misses += 1;
            }
            Err(error) => return Err(error),
        }
        sleep(LOOK_EVERY);
    }
}

/// The table from the top of a screen of so many rows, and nothing else on it. Each line is wiped
/// behind itself, and the rest at the end: no flicker. What is too wide is cut, not wrapped.
fn screen(table: &str, rows: usize) -> String {
    let lines: Vec<_> = table.lines().collect();
    // The cursor takes the last row.
    let room = rows.saturating_sub(1).max(1);
    let shown = if lines.len() <= room { lines.len() } else { room - 1 };
    let mut text = "\x1b[?7l\x1b[H".to_owned();
    for line in &lines[..shown] {
        text += line;
        text += "\x1b[0m\x1b[K\n";
    }
    if shown < lines.len() {
        let _ = writeln!(text, "({} more lines; the window is too low)\x1b[K", lines.len() - shown);
    }
    text + "\x1b[J\x1b[?7h"
}

fn has_ended(rollout: &RolloutView) -> bool {
    matches!(rollout.state.as_str(), "promoted" | "rolled_back" | "aborted")
}

/// What has been shown already.
struct Follower<'a> {
    args: &'a StatusArgs,
    /// Lines by rollout.
    told: BTreeMap<String, String>,
    last: Option<Value>,
}

impl Follower<'_> {
    fn show(&mut self, seen: &Seen, is_last: bool) -> Result<(), ClientError> {
        match (self.args.watch, self.args.output) {
            (true, Output::Json) => {
                if self.last.as_ref() != Some(&seen.json) {
                    client::print(&format!("{}\n", seen.json))?;
                    self.last = Some(seen.json.clone());
                }
                Ok(())
            }
            (true, Output::Table) if stdout().is_terminal() => {
                let table = table::render(&seen.rollouts, client::colours());
                let rows = terminal::size().map_or(usize::MAX, |(_, rows)| usize::from(rows));
                client::print(&screen(&table, rows))
            }
            (true, Output::Table) => client::print(&self.news(seen, table::numbers)),
            // Whoever waits wants the end as data; how it goes is a message.
            (false, output) => {
                eprint!("{}", self.news(seen, table::state));
                if is_last { seen.print(output) } else { Ok(()) }
            }
        }
    }

    /// The lines that have changed.
    fn news(&mut self, seen: &Seen, line: fn(&RolloutView) -> String) -> String {
        let mut news = String::new();
        for rollout in &seen.rollouts {
            let line = line(rollout);
            if self.told.get(&rollout.name) != Some(&line) {
                news.push_str(&line);
                news.push('\n');
                self.told.insert(rollout.name.clone(), line);
            }
        }
        news
    }
}

/// What the admin port said.
struct Seen {
    rollouts: Vec<RolloutView>,
    json: Value,
}

impl Seen {
    fn fetch(client: &Client, args: &StatusArgs) -> Result<Self, ClientError> {
        let path = args.rollout.as_deref().map(client::rollout_path);
        let body = client.get(path.as_deref().unwrap_or("/api/rollouts"))?;
        let parsed = if path.is_some() {
            serde_json::from_slice(&body).map(|one| vec![one])
        } else {
            serde_json::from_slice::<RolloutsView>(&body).map(|all| all.rollouts)
        };
        // Kept as it came as well: a newer proxy may say more than is known here.
        match (parsed, serde_json::from_slice(&body)) {
            (Ok(rollouts), Ok(json)) => Ok(Self { rollouts, json }),
            _ => Err(client.stranger()),
        }
    }

    fn print(&self, output: Output) -> Result<(), ClientError> {
        match output {
            Output::Json => client::print(&format!("{:#}\n", self.json)),
            Output::Table => client::print(&table::render(&self.rollouts, client::colours())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_too_long_for_the_screen_says_so() {
        let rows = |text: &str| text.matches('\n').count();
        let whole = screen("a\nb\nc\n", 4);
        assert_eq!((rows(&whole), whole.contains("more lines")), (3, false));
        let cut = screen("a\nb\nc\nd\n", 4);
        assert!(rows(&cut) == 3 && cut.contains('b') && !cut.contains("\nd"), "{cut:?}");
        assert!(cut.contains("(2 more lines; the window is too low)"), "{cut:?}");
        for low in 0..3 {
            assert_eq!(rows(&screen("a\nb\nc\n", low)), 1, "{low}");
        }
    }
}
