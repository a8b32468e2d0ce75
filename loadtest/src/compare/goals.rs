//! What is to be reached, and whether it was.
//!
//! Never guesses: what was not measured is said not to be, and is not reached.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::ensure;
use serde::Deserialize;

use super::figures::{Figures, Spread};
use super::report::number;

/// A scenario's title, and what is to be reached in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Goals {
    pub(super) title: String,
    /// The ratio of the first figure is to be at most this. See `Figures::ratio`.
    pub(super) ratios: BTreeMap<String, f64>,
    pub(super) bounds: Vec<Bound>,
}

/// Where some figures of one row are to stay: at most or at least at a number, or at most at
/// the same figure of others.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bound {
    /// By their whole names.
    pub(super) figures: Vec<String>,
    #[serde(default = "serin")]
    pub(super) of: String,
    /// Not the figure itself, but over that of this row.
    #[serde(default)]
    pub(super) over: Option<String>,
    #[serde(default)]
    pub(super) at_most: Option<f64>,
    #[serde(default)]
    pub(super) at_least: Option<f64>,
    /// At most what each of these has in the same run, within its noise: a median that is no
    /// more than the most of the other's rounds is no worse. One that is not there is left out.
    #[serde(default)]
    pub(super) beside: Vec<String>,
}

fn serin() -> String {
    "serin".to_owned()
}

impl Bound {
    /// Refuses what says nothing, or two things.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.figures.is_empty(), "bounds: figures is missing");
        let beside = !self.beside.is_empty();
        let kinds = [self.at_most.is_some(), self.at_least.is_some(), beside];
        let kinds = kinds.into_iter().filter(|kind| *kind).count();
        ensure!(kinds == 1, "bounds: one of at_most, at_least and beside");
        ensure!(!(beside && self.over.is_some()), "bounds: over has no meaning with beside");
        Ok(())
    }

    /// A line of Markdown for each figure, and for each of the others.
    fn lines(&self, figures: &Figures) -> Vec<String> {
        self.figures.iter().flat_map(|what| self.of_figure(figures, what)).collect()
    }

    fn of_figure(&self, figures: &Figures, what: &str) -> Vec<String> {
        let name = match &self.over {
            Some(over) => format!("{what}, {} / {over}", self.of),
            None => format!("{what}, {}", self.of),
        };
        let of = figures.spread(&self.of, what);
        let over = self.over.as_ref().map(|over| figures.spread(over, what));
        let (Some(of), None | Some(Some(_))) = (of, over) else {
            return vec![format!("{name}: NOT MEASURED")];
        };
        let value = of.median / over.flatten().map_or(1.0, |over| over.median);
        let limits = [
            self.at_most.map(|limit| ("at most", limit, value <= limit)),
            self.at_least.map(|limit| ("at least", limit, value >= limit)),
        ];
        let mut lines = Vec::new();
        for (how, limit, reached) in limits.into_iter().flatten() {
            let reached = if reached { "reached" } else { "MISSED" };
            lines.push(format!(
                "{name} = {}; goal {how} {} {reached}",
                number(value),
                number(limit)
            ));
        }
        for other in &self.beside {
            let Some(theirs) = figures.spread(other, what) else { continue };
            let their = number(theirs.median);
            let reached = beside(of, theirs);
            lines.push(format!("{name} = {}; goal {other}'s {their} {reached}", number(value)));
        }
        lines
    }
}

fn beside(of: Spread, theirs: Spread) -> &'static str {
    if of.median <= theirs.median {
        "reached"
    } else if of.median <= theirs.most {
        "reached within noise"
    } else {
        "MISSED"
    }
}

impl Goals {
    /// Beside the ratio over `peer`, if there is one for it.
    pub(super) fn ratio(&self, peer: &str, ratio: f64) -> String {
        let Some(goal) = self.ratios.get(peer) else { return String::new() };
        let reached = if ratio <= *goal { "reached" } else { "MISSED" };
        format!("; goal {goal:.2} {reached}")
    }

    /// All bounds as a Markdown list, with an empty line after it.
    pub(super) fn list(&self, figures: &Figures) -> String {
        let mut text = String::new();
        for line in self.bounds.iter().flat_map(|bound| bound.lines(figures)) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "- {line}");
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures::parse(include_str!("sample.csv")).unwrap()
    }

    fn bound(text: &str) -> Bound {
        toml::from_str(text).unwrap()
    }

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        assert_eq!(bound(text).lines(&figures()), expected, "{text}");
    }

    #[test]
    fn a_figure_is_held_to_a_number() {
        let cpu = "figures = ['CPU µs per request']";
        check(
            &format!("{cpu}\nat_most = 12"),
            &["CPU µs per request, serin = 12.00; goal at most 12.00 reached"],
        );
        check(
            &format!("{cpu}\nat_most = 11.9"),
            &["CPU µs per request, serin = 12.00; goal at most 11.90 MISSED"],
        );
        check(
            &format!("{cpu}\nat_least = 12.1\nof = 'haproxy'"),
            &["CPU µs per request, haproxy = 10.00; goal at least 12.10 MISSED"],
        );
    }

    #[test]
    fn a_ratio_of_two_rows_is_held_to_a_number() {
        let over = "figures = ['CPU µs per request']\nof = 'serin+mirror'\nover = 'serin'";
        let name = "CPU µs per request, serin+mirror / serin = 1.50; goal at least";
        check(&format!("{over}\nat_least = 1.5"), &[&format!("{name} 1.50 reached")]);
        check(&format!("{over}\nat_least = 1.8"), &[&format!("{name} 1.80 MISSED")]);
    }

    #[test]
    fn beside_others_a_median_within_their_rounds_is_no_worse() {
        // HAProxy's rounds are 8, 10 and 20, Serin's median is 12; Envoy was not there.
        let beside = "figures = ['CPU µs per request']\nbeside = ['haproxy', 'envoy']";
        check(
            beside,
            &["CPU µs per request, serin = 12.00; goal haproxy's 10.00 reached within noise"],
        );
        let spread = |least, median, most| Spread { least, median, most };
        let theirs = spread(8.0, 10.0, 11.0);
        for (median, expected) in
            [(-1.0, "reached"), (10.0, "reached"), (11.0, "reached within noise"), (11.1, "MISSED")]
        {
            assert_eq!(super::beside(spread(-2.0, median, 99.0), theirs), expected, "{median}");
        }
    }

    #[test]
    fn what_was_not_measured_is_not_reached() {
        check(
            "figures = ['a', 'b']\nat_most = 1",
            &["a, serin: NOT MEASURED", "b, serin: NOT MEASURED"],
        );
        check(
            "figures = ['requests per second']\nover = 'haproxy'\nat_least = 1",
            &["requests per second, serin / haproxy: NOT MEASURED"],
        );
    }

    #[test]
    fn a_bound_says_one_thing() {
        for (text, good) in [
            ("figures = ['a']\nat_most = 1", true),
            ("figures = ['a']\nbeside = ['nginx']", true),
            ("figures = ['a']", false),
            ("figures = []\nat_most = 1", false),
            ("figures = ['a']\nat_most = 1\nat_least = 1", false),
            ("figures = ['a']\nover = 'b'\nbeside = ['nginx']", false),
        ] {
            assert_eq!(bound(text).check().is_ok(), good, "{text}");
        }
    }
}
