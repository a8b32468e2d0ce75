//! Defects as people, scripts and GitHub read them.
//!
//! Never prints itself: the command line decides where to, and whether in colour.

use std::fmt::Write;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::config::defect::{Defect, Place, Severity};

/// Characters of a source line that a snippet shows: a file may be one line of a megabyte.
const WINDOW: usize = 120;

/// `FILE:LINE:COL: error[SRN0101]: message`, the source line, `help: …`.
pub fn text(origin: &str, source: &str, defects: &[Defect], color: bool) -> String {
    let mut out = String::new();
    for defect in defects {
        let Place { line, column, .. } = defect.place;
        let (start, end) = match (color, defect.severity()) {
            (false, _) => ("", ""),
            (true, Severity::Error) => ("\u{1b}[1;31m", "\u{1b}[0m"),
            (true, Severity::Warning) => ("\u{1b}[1;33m", "\u{1b}[0m"),
        };
        let (severity, code) = (defect.severity().as_str(), defect.code.as_str());
        let message = &defect.message;
        _ = writeln!(out, "{origin}:{line}:{column}: {start}{severity}[{code}]{end}: {message}");
        if let Some(snippet) = snippet(source, defect, color) {
            _ = writeln!(out, "{snippet}");
        }
        _ = writeln!(out, "help: {}\n", defect.help);
    }
    out
}

fn snippet(source: &str, defect: &Defect, color: bool) -> Option<String> {
    let line = source.lines().nth(defect.place.line - 1)?;
    let (shown, span) = window(line, defect.place);
    if shown.trim().is_empty() {
        return None;
    }
    let level = match defect.severity() {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let annotation = AnnotationKind::Primary.span(span).label(&*defect.path);
    let snippet = Snippet::source(shown).line_start(defect.place.line).annotation(annotation);
    let group = Group::with_level(level).element(snippet);
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    Some(renderer.term_width(WINDOW + 40).render(&[group]))
}

/// The part of a line around a place, and the place's bytes in it.
fn window(line: &str, place: Place) -> (String, Range<usize>) {
    let chars: Vec<char> = line.chars().collect();
    let at = (place.column - 1).min(chars.len());
    let from = if chars.len() <= WINDOW { 0 } else { at.saturating_sub(WINDOW / 2) };
    let to = (from + WINDOW).min(chars.len());
    let end = (at + place.len).clamp(at, to);
    let text = |range: Range<usize>| chars[range].iter().collect::<String>();
    let head = if from > 0 { "…" } else { "" };
    let tail = if to < chars.len() { "…" } else { "" };
    let shown = format!("{head}{}{tail}", text(from..to));
    let start = head.len() + text(from..at).len();
    let end = start + text(at..end).len();
    (shown, start..end.max(start))
}

/// One object of the JSON output.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DefectView<'d> {
    /// As it was named.
    pub file: &'d str,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// `SRN0101`; see the page of codes.
    pub code: &'d str,
    /// `error` or `warning`.
    pub severity: &'d str,
    /// What is wrong.
    pub message: &'d str,
    /// What to do about it.
    pub help: &'d str,
}

/// `defect` as an object of the JSON output.
pub fn json(origin: &str, defect: &Defect) -> Value {
    json!(DefectView {
        file: origin,
        line: defect.place.line,
        column: defect.place.column,
        code: defect.code.as_str(),
        severity: defect.severity().as_str(),
        message: &defect.message,
        help: &defect.help,
    })
}

/// A workflow command that GitHub shows beside the line.
pub fn github(origin: &str, defect: &Defect) -> String {
    let Place { line, column, .. } = defect.place;
    let (severity, code) = (defect.severity().as_str(), defect.code.as_str());
    let file = github_property(origin);
    let message = github_text(&format!("{} ({})", defect.message, defect.help));
    format!("::{severity} file={file},line={line},col={column},title={code}::{message}")
}

fn github_text(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn github_property(text: &str) -> String {
    github_text(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::defect::Code;

    fn defect(line: usize, column: usize, len: usize) -> Defect {
        Defect {
            code: Code::UnknownKey,
            place: Place { line, column, len },
            path: "a[0]".to_owned(),
            message: "50% is,\nodd".to_owned(),
            help: "fix it".to_owned(),
        }
    }

    #[test]
    fn a_long_line_is_cut_around_its_defect() {
        let line = format!("{}HERE{}", "ä".repeat(500_000), "ö".repeat(500_000));
        let out = text("x", &line, &[defect(1, 500_001, 4)], false);
        assert!(out.contains("HERE") && out.contains("^^^^ a[0]"), "{out}");
        assert!(out.len() < 1000, "{}", out.len());
    }

    #[test]
    fn a_place_beyond_the_text_is_no_panic() {
        for place in [defect(1, 9, 0), defect(1, 2, 99), defect(9, 1, 1), defect(2, 1, 0)] {
            assert!(text("x", "abc\n\n", &[place], true).contains("SRN0101"));
        }
    }

    #[test]
    fn github_gets_one_line() {
        assert_eq!(
            github("a,b:c%", &defect(1, 2, 3)),
            "::error file=a%2Cb%3Ac%25,line=1,col=2,title=SRN0101::50%25 is,%0Aodd (fix it)"
        );
    }
}
