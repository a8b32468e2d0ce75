//! The summary of a folder of figures: a table for each scenario, and a plot.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;

use super::figures::Figures;
use super::goals::Goals;
use super::plot;

/// What is to be reached, by the scenario's name.
pub(super) type AllGoals = BTreeMap<String, Goals>;

/// Writes `NAME.csv` and `NAME.svg` of one scenario.
pub(super) fn write(figures: &Figures, title: &str, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(format!("{}.csv", figures.name)), figures.csv())?;
    let plot = plot::svg(figures, title);
    std::fs::write(folder.join(format!("{}.svg", figures.name)), plot)?;
    Ok(())
}

/// Writes `summary.md` of all scenarios of which there is a CSV in the folder.
pub(super) fn summarize(folder: &Path, goals: &AllGoals) -> anyhow::Result<String> {
    let mut files: Vec<_> = std::fs::read_dir(folder)?
        .filter_map(|file| file.ok().map(|file| file.path()))
        .filter(|file| file.extension().is_some_and(|extension| extension == "csv"))
        .collect();
    files.sort();
    let mut text = format!("Measured on {}.\n", machine());
    for file in files {
        let csv = std::fs::read_to_string(&file)?;
        let figures = Figures::parse(&csv).with_context(|| file.display().to_string())?;
        let none = Goals::default();
        text.push_str(&table(&figures, goals.get(&figures.name).unwrap_or(&none)));
    }
    std::fs::write(folder.join("summary.md"), &text)?;
    Ok(text)
}

/// A Markdown table of medians, with least and most of the first figure, and its ratios beside
/// the goals. Below it what else is to be reached.
pub(super) fn table(figures: &Figures, goals: &Goals) -> String {
    let shown = figures.shown();
    let with_ratios = figures.peers().iter().any(|peer| figures.ratio(peer).is_some());
    let mut text = format!("\n## {}: {}\n\n| proxy |", figures.name, goals.title);
    // Writing to a string cannot fail.
    for what in &shown {
        let _ = write!(text, " {what} |");
    }
    let columns = if with_ratios { " ratio |\n" } else { "\n" };
    text.push_str(columns);
    text.push_str("|---|");
    text.push_str(&"---|".repeat(shown.len() + usize::from(with_ratios)));
    text.push('\n');
    for peer in figures.peers() {
        if shown.iter().all(|what| figures.spread(peer, what).is_none()) {
            continue;
        }
        let _ = write!(text, "| {peer} |");
        for (at, what) in shown.iter().enumerate() {
            let cell = figures.spread(peer, what).map(|spread| {
                let median = number(spread.median);
                match at {
                    0 => format!("{median} ({} to {})", number(spread.least), number(spread.most)),
                    _ => median,
                }
            });
            let _ = write!(text, " {} |", cell.unwrap_or_default());
        }
        if with_ratios {
            let _ = write!(text, " {} |", ratio(figures, peer, goals));
        }
        text.push('\n');
    }
    text.push('\n');
    text.push_str(&goals.list(figures));
    for note in &figures.notes {
        let _ = writeln!(text, "- {note}");
    }
    text
}

fn ratio(figures: &Figures, peer: &str, goals: &Goals) -> String {
    let Some((what, ratio)) = figures.ratio(peer) else { return String::new() };
    format!("{what} = {ratio:.2}{}", goals.ratio(peer, ratio))
}

/// With as many digits as the figure is worth.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1_000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
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

    fn figures() -> Figures {
        Figures::parse(include_str!("sample.csv")).unwrap()
    }

    #[test]
    fn the_table_has_medians_ratios_and_goals() {
        let ratios = [("haproxy".to_owned(), 0.88), ("serin+mirror".to_owned(), 1.7)].into();
        let bound = "figures = ['requests per second']\nat_least = 90000";
        let bounds = vec![toml::from_str(bound).unwrap()];
        let goals = Goals { title: "A title".to_owned(), ratios, bounds };
        let table = table(&figures(), &goals);
        for line in [
            "## plain: A title",
            "| proxy | CPU µs per request | requests per second | ratio |",
            "| serin | 12.00 (11.00 to 99.00) | 83333 |  |",
            "| haproxy | 10.00 (8.00 to 20.00) |  | serin / haproxy = 1.20; goal 0.88 MISSED |",
            "| serin+mirror | 18.00 (18.00 to 18.00) |  | serin+mirror / serin = 1.50; \
             goal 1.70 reached |",
            "- requests per second, serin = 83333; goal at least 90000 MISSED",
            "- 64 connections",
        ] {
            assert!(table.lines().any(|found| found == line), "{line}\n{table}");
        }
        assert!(!table.contains("raw"), "{table}");
    }

    #[test]
    fn a_folder_is_summed_up_from_its_files() {
        let folder = std::env::temp_dir().join(format!("loadtest-report-{}", std::process::id()));
        write(&figures(), "A title", &folder).unwrap();
        let titled = Goals { title: "A title".to_owned(), ..Goals::default() };
        let goals = [("plain".to_owned(), titled)].into();
        let summary = summarize(&folder, &goals).unwrap();
        assert!(summary.contains("## plain: A title"), "{summary}");
        assert_eq!(std::fs::read_to_string(folder.join("summary.md")).unwrap(), summary);
        assert!(folder.join("plain.svg").is_file());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
