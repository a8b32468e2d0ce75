//! `loadtest instructions`: how many instructions Serin takes for a request, counted by
//! valgrind, beside a committed baseline.
//!
//! Counts what runs in user space, with the whole path and real sockets, and hardly changes
//! from run to run, so that a cost of a few per cent is seen. Never says anything about time.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::measure::{Backend, PATH, STREAM_OPTIONS};
use super::peer::{Peer, Places, Setting};
use super::process::{Cores, Generator, Process};
use super::scenario::{Measure, Scenario};
use super::{Folder, certificate, fresh, report, start_backend};
use crate::commands::drive::Protocol;
use crate::wire::drive::Driven;

/// What is counted: these scenarios, one request at a time, or the events of one stream.
const CASES: [&str; 9] =
    ["plain", "headers", "http2", "tls", "upload", "download", "streams", "mirror", "telling"];
/// The difference of two runs leaves out what starting and ending take, and a handshake.
const REQUESTS: [u64; 2] = [400, 2_400];
/// More than this above the baseline fails.
const TOLERANCE: f64 = 0.05;
/// Valgrind is slow.
const RUN_WITHIN: Duration = Duration::from_mins(2);

/// Counts instructions per request and compares them with a baseline
///
/// Needs valgrind. Fails when a case takes over 5 % more than the baseline says, or is not in
/// it; what was worth it is written down with --update and a note that says why. Of `streams`
/// an event is counted, of all others a request.
#[derive(Args)]
pub struct Instructions {
    /// The serin binary; build it with `cargo build --profile dist`
    #[arg(long, default_value = "target/dist/serin")]
    serin: PathBuf,
    /// Counts to compare with: case, instructions, why it changed
    #[arg(long, default_value = "benches/instructions.csv")]
    baseline: PathBuf,
    /// Folder of the peers' configs
    #[arg(long, default_value = "loadtest/peers")]
    configs: PathBuf,
    /// Folder of the scenarios
    #[arg(long, default_value = "loadtest/scenarios")]
    scenarios: PathBuf,
    /// Only these cases
    #[arg(long, value_delimiter = ',')]
    case: Vec<String>,
    /// Write what was counted into the baseline
    #[arg(long, requires = "note")]
    update: bool,
    /// Why it changed
    #[arg(long)]
    note: Option<String>,
}

impl Instructions {
    /// Counts, prints a table, and fails on what has grown.
    pub fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            tokio::select! {
                done = self.count_all() => done,
                _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            }
        })
    }

    async fn count_all(&self) -> anyhow::Result<()> {
        let valgrind = Command::new("valgrind").arg("--version").output();
        ensure!(valgrind.is_ok_and(|output| output.status.success()), "there is no valgrind");
        let places = Places {
            serin: self.serin.clone(),
            envoy: None,
            pingora: None,
            configs: self.configs.clone(),
        };
        let peer = Peer::find("serin", &places)?;
        let peer = peer.with_context(|| format!("{} is not there", self.serin.display()))?;
        let text = std::fs::read_to_string(&self.baseline).unwrap_or_default();
        let mut baseline = Baseline::parse(&text)?;
        let mut counted = Vec::new();
        for case in CASES {
            if self.case.is_empty() || self.case.iter().any(|one| one == case) {
                counted.push((case, self.count(case, &peer).await?));
            }
        }
        let Comparison { table, grown, missing } = baseline.compare(&counted);
        print!("{table}");
        if let (true, Some(note)) = (self.update, &self.note) {
            baseline.update(&counted, note);
            std::fs::write(&self.baseline, baseline.csv())?;
            return Ok(());
        }
        ensure!(
            missing.is_empty(),
            "{} has no line for {}. Count it once with: just instructions --case {} --update \
             --note 'first counted'",
            self.baseline.display(),
            missing.join(", "),
            missing.join(",")
        );
        ensure!(
            grown.is_empty(),
            "{} grew by more than {:.0} %. If it is worth it: --update --note 'why'",
            grown.join(", "),
            TOLERANCE * 100.0
        );
        Ok(())
    }

    async fn count(&self, case: &str, peer: &Peer) -> anyhow::Result<f64> {
        let mut scenario = Scenario::read(&self.scenarios.join(format!("{case}.toml")))?;
        (scenario.connections, scenario.streams) = (1, 1);
        let folder = Folder::create(&format!("instructions-{case}"))?;
        certificate::write(folder.path())?;
        let cores = Cores::all();
        let backend = start_backend(&scenario, &cores, folder.path()).await?;
        let mut runs = [(0, 0); 2];
        for (run, requests) in runs.iter_mut().zip(REQUESTS) {
            let own = fresh(folder.path(), &format!("serin-{requests}"))?;
            *run = count_run(&scenario, peer, &backend, requests, &own).await?;
        }
        backend.process.end().await;
        let [(few_take, few), (many_take, many)] = runs;
        let each = (many_take as f64 - few_take as f64) / (many - few) as f64;
        eprintln!("{case}: {}", report::number(each));
        Ok(each)
    }
}

/// Instructions of a whole run of Serin with so many requests, and how many those were: two
/// events that come at once may be one more.
async fn count_run(
    scenario: &Scenario,
    peer: &Peer,
    backend: &Backend,
    requests: u64,
    folder: &Path,
) -> anyhow::Result<(u64, u64)> {
    // All that it can be asked to do beside.
    let more = scenario.more().last();
    let setting = Setting::find(scenario, backend, more.as_slice())?;
    let counts = folder.join("callgrind.out");
    let mut arguments =
        vec!["--tool=callgrind".to_owned(), format!("--callgrind-out-file={}", counts.display())];
    arguments.push(peer.program.display().to_string());
    arguments.extend(peer.prepare(&setting, folder)?);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let valgrind = Path::new("valgrind");
    let cores = Cores::all();
    let process = Process::start(&cores, valgrind, &arguments, folder.join("serin.log"))?;
    let at = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    process.wait_until_it_answers(at(setting.listen), PATH, RUN_WITHIN).await?;

    let tls = scenario.protocol == Protocol::Tls;
    let mut drive = scenario.drive(at(if tls { setting.tls } else { setting.listen }), RUN_WITHIN);
    drive.extend(["--requests".to_owned(), requests.to_string()]);
    if scenario.measure == Measure::Streams {
        drive.extend(STREAM_OPTIONS.map(str::to_owned));
    }
    let output = Generator::start(&cores, &drive).await?.run().await?;
    let seen: Driven = serde_json::from_str(&output)?;
    let whole = (requests..requests + requests / 100).contains(&seen.requests);
    ensure!(whole && (seen.errors, seen.broken) == (0, 0), "failed requests: {seen:?}");

    quit(setting.admin).await?;
    process.wait(RUN_WITHIN).await?;
    Ok((total(&std::fs::read_to_string(counts)?)?, seen.requests))
}

/// Asks Serin to drain and end.
async fn quit(admin: u16) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", admin)).await?;
    let head = "POST /quitquitquit HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\
                content-type: application/json\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "quitquitquit: {answer}");
    Ok(())
}

/// All instructions of a file that callgrind wrote.
fn total(text: &str) -> anyhow::Result<u64> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("totals: "));
    let count = line.and_then(|line| line.split_whitespace().next());
    Ok(count.context("callgrind wrote no totals")?.parse()?)
}

/// What was counted, beside the baseline.
struct Comparison {
    /// Markdown.
    table: String,
    /// Cases that take too much more.
    grown: Vec<String>,
    /// Cases that the baseline does not have.
    missing: Vec<String>,
}

/// What cases took, and why.
#[derive(Debug, Default, PartialEq)]
struct Baseline(BTreeMap<String, (f64, String)>);

impl Baseline {
    fn parse(csv: &str) -> anyhow::Result<Self> {
        let mut cases = BTreeMap::new();
        for line in csv.lines().skip(1) {
            let mut columns = line.splitn(3, ',');
            let (Some(case), Some(count)) = (columns.next(), columns.next()) else {
                bail!("not a case and a count: {line}");
            };
            let count = count.parse().with_context(|| line.to_owned())?;
            let note = columns.next().unwrap_or_default().to_owned();
            cases.insert(case.to_owned(), (count, note));
        }
        Ok(Self(cases))
    }

    fn csv(&self) -> String {
        let mut csv = "case,instructions per request,why it changed\n".to_owned();
        for (case, (count, note)) in &self.0 {
            // Writing to a string cannot fail.
            let _ = writeln!(csv, "{case},{count:.0},{note}");
        }
        csv
    }

    fn compare(&self, counted: &[(&str, f64)]) -> Comparison {
        let mut table =
            "| case | instructions per request | baseline | change |\n|---|---|---|---|\n"
                .to_owned();
        let (mut grown, mut missing) = (Vec::new(), Vec::new());
        for (case, count) in counted {
            let Some((before, _)) = self.0.get(*case) else {
                let _ = writeln!(table, "| {case} | {count:.0} | none | |");
                missing.push((*case).to_owned());
                continue;
            };
            let change = count / before - 1.0;
            let _ =
                writeln!(table, "| {case} | {count:.0} | {before:.0} | {:+.1} % |", change * 1e2);
            if change > TOLERANCE {
                grown.push((*case).to_owned());
            }
        }
        Comparison { table, grown, missing }
    }

    fn update(&mut self, counted: &[(&str, f64)], note: &str) {
        let note = note.replace(['\n', '\r'], " ");
        for (case, count) in counted {
            self.0.insert((*case).to_owned(), (count.round(), note.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSV: &str = "case,instructions per request,why it changed\nplain,20000,first, counted\n";

    #[test]
    fn what_grew_beyond_the_tolerance_or_is_missing_is_told() {
        let baseline = Baseline::parse(CSV).unwrap();
        for (count, grown) in [(15_000.0, 0), (20_999.0, 0), (21_001.0, 1)] {
            let Comparison { table, grown: found, missing } =
                baseline.compare(&[("plain", count), ("new", 1.0)]);
            assert_eq!(found.len(), grown, "{table}");
            assert_eq!(missing, ["new"], "{table}");
            assert!(table.contains("| new | 1 | none | |"), "{table}");
        }
        assert!(baseline.compare(&[("plain", 1.0)]).missing.is_empty());
    }

    #[test]
    fn an_update_needs_only_what_was_counted() {
        let mut baseline = Baseline::parse(CSV).unwrap();
        baseline.update(&[("upload", 1234.5)], "a larger\nbuffer");
        let csv = baseline.csv();
        assert_eq!(csv, format!("{CSV}upload,1235,a larger buffer\n"));
        assert_eq!(Baseline::parse(&csv).unwrap(), baseline);
        assert!(Baseline::parse("case\nplain").is_err());
    }

    #[test]
    fn the_total_is_that_of_the_whole_run() {
        let text = "summary: 5\nfn=(1)\n1 2\ntotals: 12345\n";
        assert_eq!(total(text).unwrap(), 12_345);
        assert!(total("").is_err());
    }
}
