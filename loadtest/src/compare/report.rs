//! What was measured, as CSV and as a table with ratios.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use serin_loadtest::saturate::Saturated;

use super::peer::Peer;

/// The peer that the others are divided by.
const YARDSTICK: &str = "haproxy";

/// One measurement of one peer. Without CPU time it is the generator alone.
pub(super) struct Run {
    pub(super) round: u32,
    pub(super) peer: String,
    pub(super) seen: Saturated,
    pub(super) cpu: Option<Duration>,
}

impl Run {
    fn cpu_micros_per_request(&self) -> Option<f64> {
        Some(self.cpu?.as_secs_f64() * 1e6 / self.seen.requests.max(1) as f64)
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.cpu_micros_per_request().unwrap_or_default();
        let Self { round, peer, .. } = self;
        write!(f, "round {round}  {peer:<8} {micros:>6.2} µs  {:>7.0} rps", self.seen.rps())
    }
}

/// All measurements of one comparison.
pub(super) struct Report {
    conditions: String,
    peers: Vec<(String, String)>,
    runs: Vec<Run>,
}

impl Report {
    pub(super) fn new(conditions: String) -> Self {
        Self { conditions, peers: Vec::new(), runs: Vec::new() }
    }

    pub(super) fn add_peer(&mut self, peer: &Peer) {
        self.peers.push((peer.name.clone(), peer.version.clone()));
    }

    pub(super) fn add(&mut self, run: Run) {
        self.runs.push(run);
    }

    /// Writes `compare.csv` and `summary.md`.
    pub(super) fn write(&self, folder: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("compare.csv"), self.csv())?;
        std::fs::write(folder.join("summary.md"), self.summary())
    }

    fn csv(&self) -> String {
        let mut csv = "round,peer,requests,seconds,rps,cpu_ns,cpu_us_per_request\n".to_owned();
        for run in &self.runs {
            let Run { round, peer, seen, cpu } = run;
            let nanos = cpu.map_or(String::new(), |cpu| cpu.as_nanos().to_string());
            let micros = run.cpu_micros_per_request();
            let micros = micros.map_or(String::new(), |micros| format!("{micros:.3}"));
            let (requests, seconds, rps) = (seen.requests, seen.seconds, seen.rps());
            // Writing to a string cannot fail.
            let _ =
                writeln!(csv, "{round},{peer},{requests},{seconds:.4},{rps:.0},{nanos},{micros}");
        }
        csv
    }

    /// A Markdown table of medians, and under which conditions they were taken.
    pub(super) fn summary(&self) -> String {
        let yardstick = self.median(YARDSTICK, Run::cpu_micros_per_request);
        let mut text = format!(
            "CPU time per request, 90/10 split with a header rule: {}.\n\n\
             | proxy | CPU µs per request, median (least to most) | of {YARDSTICK} | \
             requests per second, median |\n|---|---|---|---|\n",
            self.conditions
        );
        for (name, _) in &self.peers {
            let micros = self.sorted(name, Run::cpu_micros_per_request);
            let Some(middle) = median(&micros) else { continue };
            let ratio = yardstick.map_or("-".into(), |one| format!("{:.2}", middle / one));
            let rps = self.median(name, |run| Some(run.seen.rps())).unwrap_or_default();
            let (least, most) = (micros[0], micros[micros.len() - 1]);
            let _ = writeln!(
                text,
                "| {name} | {middle:.2} ({least:.2} to {most:.2}) | {ratio} | {rps:.0} |"
            );
        }
        if let Some(rps) = self.median("direct", |run| Some(run.seen.rps())) {
            let _ = writeln!(text, "| none: generator to backend | | | {rps:.0} |");
        }
        text.push('\n');
        for (name, version) in &self.peers {
            let _ = writeln!(text, "- {name}: {version}");
        }
        let _ = writeln!(text, "- machine: {}", machine());
        text
    }

    fn median(&self, peer: &str, figure: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
        median(&self.sorted(peer, figure))
    }

    fn sorted(&self, peer: &str, figure: impl Fn(&Run) -> Option<f64>) -> Vec<f64> {
        let runs = self.runs.iter().filter(|run| run.peer == peer);
        let mut figures: Vec<f64> = runs.filter_map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures
    }
}

/// Of sorted figures; the mean of the middle two when their number is even.
fn median(sorted: &[f64]) -> Option<f64> {
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

fn machine() -> String {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let models = cpus.lines().filter(|line| line.starts_with("model name"));
    let model = models.clone().next().and_then(|line| line.split(": ").nth(1));
    let kernel = read("/proc/sys/kernel/osrelease");
    let count = models.count();
    format!("{count} cores, {}, Linux {}", model.unwrap_or("unknown"), kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new("64 connections".into());
        report.peers = vec![("serin".into(), "0.1".into()), ("haproxy".into(), "2.6".into())];
        for (round, peer, micros) in [
            (1, "serin", 11),
            (1, "haproxy", 10),
            (2, "serin", 12),
            (2, "haproxy", 20),
            (3, "serin", 99),
            (3, "haproxy", 8),
        ] {
            let seen = Saturated { requests: 1_000, seconds: 0.1, ..Saturated::default() };
            let cpu = Some(Duration::from_micros(micros * 1_000));
            report.add(Run { round, peer: peer.into(), seen, cpu });
        }
        report
    }

    #[test]
    fn the_summary_has_medians_and_ratios() {
        let summary = report().summary();
        assert!(summary.contains("| serin | 12.00 (11.00 to 99.00) | 1.20 | 10000 |"), "{summary}");
        assert!(summary.contains("| haproxy | 10.00 (8.00 to 20.00) | 1.00 | 10000 |"));
    }

    #[test]
    fn the_csv_has_every_run() {
        let csv = report().csv();
        assert_eq!(csv.lines().count(), 7);
        assert!(csv.contains("1,serin,1000,0.1000,10000,11000000,11.000"), "{csv}");
    }

    #[test]
    fn the_median_of_an_even_number_is_the_middle_of_two() {
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), Some(3.0));
        assert_eq!(median(&[5.0]), Some(5.0));
        assert_eq!(median(&[]), None);
    }
}
