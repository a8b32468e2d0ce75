//! What was measured: one figure a line, as it stands in the raw CSV.
//!
//! Never rounds before the end, and never leaves a round out.

use std::fmt::Write as _;

use anyhow::Context;

/// Figures whose name begins so are kept, and not shown.
pub(super) const RAW: &str = "raw ";

/// One figure of one peer in one round.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) round: u32,
    /// The peer, with `+mirror` or another word where it does more.
    pub(super) peer: String,
    /// What it is, with its unit.
    pub(super) what: String,
    pub(super) value: f64,
}

/// All figures of one scenario, and what has to be known to read them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures {
    pub(super) name: String,
    pub(super) notes: Vec<String>,
    pub(super) list: Vec<Figure>,
}

/// Least, median and most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) least: f64,
    pub(super) median: f64,
    pub(super) most: f64,
}

impl Figures {
    pub(super) fn add(&mut self, round: u32, peer: &str, what: &str, value: f64) {
        debug_assert!(!what.contains(','), "it is a column of a CSV");
        let (peer, what) = (peer.to_owned(), what.to_owned());
        self.list.push(Figure { round, peer, what, value });
    }

    /// Peers in the order in which they were measured.
    pub(super) fn peers(&self) -> Vec<&str> {
        in_order(self.list.iter().map(|figure| figure.peer.as_str()))
    }

    /// What is shown, the first being what counts.
    pub(super) fn shown(&self) -> Vec<&str> {
        let all = self.list.iter().map(|figure| figure.what.as_str());
        in_order(all.filter(|what| !what.starts_with(RAW)))
    }

    /// Over all rounds.
    pub(super) fn spread(&self, peer: &str, what: &str) -> Option<Spread> {
        let of = self.list.iter().filter(|figure| figure.peer == peer && figure.what == what);
        let mut values: Vec<f64> = of.map(|figure| figure.value).collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        Some(Spread { least, median: median(&values)?, most })
    }

    /// Of the first figure: that of Serin over that of `peer`; of a peer that does more, its own
    /// over that of the same peer without. Text and ratio.
    pub(super) fn ratio(&self, peer: &str) -> Option<(String, f64)> {
        let (over, under) = match peer.split_once('+') {
            Some((plain, _)) => (peer, plain),
            None => ("serin", peer),
        };
        let what = *self.shown().first()?;
        let ratio = self.spread(over, what)?.median / self.spread(under, what)?.median;
        (over != under && ratio.is_finite()).then(|| (format!("{over} / {under}"), ratio))
    }

    pub(super) fn csv(&self) -> String {
        let mut csv = String::new();
        // Writing to a string cannot fail.
        for note in &self.notes {
            let _ = writeln!(csv, "# {note}");
        }
        csv.push_str("scenario,round,peer,what,value\n");
        for Figure { round, peer, what, value } in &self.list {
            let _ = writeln!(csv, "{},{round},{peer},{what},{value}", self.name);
        }
        csv
    }

    pub(super) fn parse(csv: &str) -> anyhow::Result<Self> {
        let mut figures = Self::default();
        let mut lines = csv.lines();
        for line in &mut lines {
            match line.strip_prefix("# ") {
                Some(note) => figures.notes.push(note.to_owned()),
                None => break, // The names of the columns.
            }
        }
        for line in lines {
            let columns: Vec<&str> = line.split(',').collect();
            let [name, round, peer, what, value] = columns[..] else {
                anyhow::bail!("not five columns: {line}");
            };
            name.clone_into(&mut figures.name);
            let round = round.parse().with_context(|| line.to_owned())?;
            figures.add(round, peer, what, value.parse().with_context(|| line.to_owned())?);
        }
        Ok(figures)
    }
}

fn in_order<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for one in all {
        if !seen.contains(&one) {
            seen.push(one);
        }
    }
    seen
}

/// Of sorted figures; the mean of the middle two when their number is even.
fn median(sorted: &[f64]) -> Option<f64> {
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get(sorted.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures::parse(include_str!("sample.csv")).unwrap()
    }

    #[test]
    fn the_csv_can_be_read_again() {
        let figures = figures();
        let csv = figures.csv();
        assert_eq!(csv, include_str!("sample.csv"));
        assert_eq!(figures.list.len(), 15);
        assert_eq!(Figures::parse(&csv).unwrap(), figures);
        assert!(Figures::parse("a\nb,1,c").is_err());
    }

    #[test]
    fn medians_and_ratios_are_those_of_all_rounds() {
        let figures = figures();
        assert_eq!(figures.peers(), ["serin", "haproxy", "serin+mirror"]);
        assert_eq!(figures.shown(), ["CPU µs per request", "requests per second"]);
        let spread = figures.spread("haproxy", "CPU µs per request").unwrap();
        assert_eq!(spread, Spread { least: 8.0, median: 10.0, most: 20.0 });
        assert_eq!(figures.ratio("haproxy"), Some(("serin / haproxy".into(), 1.2)));
        assert_eq!(figures.ratio("serin+mirror"), Some(("serin+mirror / serin".into(), 1.5)));
        assert_eq!(figures.ratio("serin"), None);
    }

    #[test]
    fn the_median_of_an_even_number_is_the_middle_of_two() {
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), Some(3.0));
        assert_eq!(median(&[5.0]), Some(5.0));
        assert_eq!(median(&[]), None);
    }
}
