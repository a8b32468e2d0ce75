//! Bars of medians, with a line from least to most, as SVG.

use std::fmt::Write as _;

use super::figures::Figures;
use super::report::number;

const WIDTH: f64 = 720.0;
const LABELS: f64 = 120.0;
const NUMBERS: f64 = 90.0;
const BAR: f64 = 18.0;
const GAP: f64 = 6.0;
const PANEL_HEAD: f64 = 34.0;
const HEAD: f64 = 34.0;

const SERIN: &str = "#e2a700";
const LIMIT: &str = "#b8bcc4";
const OTHERS: &str = "#5b7fb5";

/// One panel for each figure that is shown.
pub(super) fn svg(figures: &Figures, title: &str) -> String {
    let mut body = String::new();
    let mut top = HEAD;
    for what in figures.shown() {
        top = panel(&mut body, figures, what, top);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{top}\" \
         viewBox=\"0 0 {WIDTH} {top}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{}</text>\n{body}</svg>\n",
        escaped(title)
    )
}

/// Draws below `top` and returns where it ends.
fn panel(body: &mut String, figures: &Figures, what: &str, top: f64) -> f64 {
    let rows: Vec<_> = figures
        .peers()
        .into_iter()
        .filter_map(|peer| Some((peer, figures.spread(peer, what)?)))
        .collect();
    let most = rows.iter().map(|(_, spread)| spread.most).fold(f64::MIN_POSITIVE, f64::max);
    // An added latency can be below zero, by noise: no bar then.
    let length = |value: f64| (value.max(0.0) / most) * (WIDTH - LABELS - NUMBERS);
    // Writing to a string cannot fail.
    let _ = writeln!(
        body,
        "<text x=\"10\" y=\"{:.1}\" fill=\"#444444\">{}</text>",
        top + 20.0,
        escaped(what)
    );
    let mut y = top + PANEL_HEAD;
    for (peer, spread) in rows {
        let colour = match peer {
            "relay" | "direct" => LIMIT,
            peer if peer.starts_with("serin") => SERIN,
            _ => OTHERS,
        };
        let (middle, baseline) = (y + BAR / 2.0, y + BAR - 5.0);
        let (bar, least, most) =
            (length(spread.median), LABELS + length(spread.least), LABELS + length(spread.most));
        let _ = writeln!(
            body,
            "<text x=\"{:.1}\" y=\"{baseline:.1}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LABELS}\" y=\"{y:.1}\" width=\"{bar:.1}\" height=\"{BAR}\" \
             fill=\"{colour}\"/>\n\
             <line x1=\"{least:.1}\" x2=\"{most:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" \
             stroke=\"#222222\"/>\n\
             <text x=\"{:.1}\" y=\"{baseline:.1}\">{}</text>",
            LABELS - 8.0,
            escaped(peer),
            most.max(LABELS + bar) + 8.0,
            number(spread.median)
        );
        y += BAR + GAP;
    }
    y + GAP
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures::parse(include_str!("sample.csv")).unwrap()
    }

    #[test]
    fn every_shown_figure_of_every_peer_has_a_bar() {
        let svg = svg(&figures(), "a < b & c");
        // The ground, three bars of the first figure, one of the second.
        assert_eq!(svg.matches("<rect").count(), 1 + 3 + 1);
        assert!(svg.contains("a &lt; b &amp; c") && !svg.contains("raw"), "{svg}");
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn the_longest_bar_or_line_ends_before_the_numbers() {
        let mut figures = Figures::default();
        figures.add(1, "serin", "x", 2.0);
        figures.add(1, "nginx", "x", -1.0);
        let svg = svg(&figures, "t");
        let widest = WIDTH - LABELS - NUMBERS;
        assert!(svg.contains(&format!("width=\"{widest:.1}\"")), "{svg}");
        assert!(svg.contains("width=\"0.0\""), "{svg}");
    }
}
