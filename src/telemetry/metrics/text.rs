//! How metrics are written: Prometheus' text format, and OpenMetrics for who asks for that.
//!
//! The same families, names and values in both. OpenMetrics has exemplars too, names a family of
//! counters without `_total`, and says where the text ends.

use std::fmt::{Display, Write};

use crate::telemetry::exemplars::Exemplar;

/// How the text is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    #[default]
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What fits the values of `accept` best. OpenMetrics only by its name, in a version that is
    /// spoken, and liked at least as well as plain text.
    pub fn accepted<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut open, mut plain) = (0.0f32, 0.0f32);
        for range in accept.into_iter().flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
            let kind = parts.next().unwrap_or_default();
            let (mut liked, mut spoken) = (1.0, true);
            for part in parts {
                match part.split_once('=') {
                    Some(("q", text)) => liked = text.trim().parse().unwrap_or(0.0),
                    Some(("version", text)) => {
                        spoken = ["1.0.0", "0.0.1"].contains(&text.trim().trim_matches('"'));
                    }
                    _ => {}
                }
            }
            match kind.as_str() {
                "application/openmetrics-text" if spoken => open = open.max(liked),
                "text/plain" => plain = plain.max(liked),
                _ => {}
            }
        }
        if open > 0.0 && open >= plain { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// As `content-type` has it.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

pub(super) const COUNTER: &str = "counter";
pub(super) const GAUGE: &str = "gauge";
pub(super) const HISTOGRAM: &str = "histogram";

/// The exposition as far as it is written.
#[derive(Default)]
pub(super) struct Text {
    format: Format,
    written: String,
}

/// A label and its value.
pub(super) type Label<'a> = (&'static str, &'a dyn Display);

impl Text {
    /// Nothing yet.
    pub(super) fn new(format: Format) -> Self {
        Self { format, written: String::new() }
    }

    /// All of it.
    pub(super) fn end(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.written.push_str("# EOF\n");
        }
        self.written
    }

    /// Whether the format has them.
    pub(super) fn has_exemplars(&self) -> bool {
        self.format == Format::OpenMetrics
    }

    /// The upper bound of a bucket, as the format has it.
    pub(super) fn bound(&self, bound: f64) -> String {
        if self.format == Format::OpenMetrics && bound.fract() == 0.0 {
            // Both formats' other programs write it so: `1` here, `1.0` there.
            return format!("{bound:.1}");
        }
        Number(bound).to_string()
    }

    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        let name = match self.format {
            Format::OpenMetrics if kind == COUNTER => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        // Writing to a string does not fail, here and below.
        let _ = writeln!(self.written, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(super) fn sample_if_any(&mut self, name: &str, labels: &[Label<'_>], value: u64) {
        if value > 0 {
            self.sample(name, labels, value);
        }
    }

    pub(super) fn sample(&mut self, name: &str, labels: &[Label<'_>], value: impl Display) {
        self.sample_with(name, labels, value, None);
    }

    /// A sample, and a request that stands for it with a value of its own.
    pub(super) fn sample_with(
        &mut self,
        name: &str,
        labels: &[Label<'_>],
        value: impl Display,
        exemplar: Option<(&Exemplar, f64)>,
    ) {
        self.written.push_str(name);
        let mut before = '{';
        for (label, text) in labels {
            let _ = write!(self.written, "{before}{label}=\"");
            let _ = write!(Escaped(&mut self.written), "{text}");
            self.written.push('"');
            before = ',';
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = write!(self.written, "{end} {value}");
        if let Some((one, value)) = exemplar.filter(|_| self.has_exemplars()) {
            let (trace, span, at) = (one.trace, one.span, one.at.as_secs_f64());
            let _ = write!(
                self.written,
                " # {{trace_id=\"{trace:032x}\",span_id=\"{span:016x}\"}} {} {at:.3}",
                Number(value)
            );
        }
        self.written.push('\n');
    }
}

/// Writes a label's value.
struct Escaped<'t>(&'t mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for c in text.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

/// A value as Prometheus writes it.
pub(super) struct Number(pub(super) f64);

impl Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            // Evidence in a canary's favour has hundreds of zeros.
            value if value != 0.0 && value.abs() < 1e-4 => write!(f, "{value:e}"),
            value => write!(f, "{value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_who_asks_for_it() {
        let prometheus2 = "application/openmetrics-text;version=1.0.0,\
            application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,*/*;q=0.1";
        for (accept, format) in [
            (vec![], Format::Prometheus),
            (vec!["*/*"], Format::Prometheus),
            (vec!["text/html, application/xhtml+xml"], Format::Prometheus),
            (vec!["text/plain"], Format::Prometheus),
            (vec!["application/openmetrics-text"], Format::OpenMetrics),
            (vec!["Application/OpenMetrics-Text; Version=\"1.0.0\""], Format::OpenMetrics),
            (vec!["application/openmetrics-text; version=2.0.0"], Format::Prometheus),
            (vec!["application/openmetrics-text;q=0"], Format::Prometheus),
            (vec!["application/openmetrics-text;q=0.3, text/plain;q=0.4"], Format::Prometheus),
            (vec!["text/plain;q=0.4", "application/openmetrics-text;q=0.6"], Format::OpenMetrics),
            (vec!["application/openmetrics-text;q=much"], Format::Prometheus),
            (vec![prometheus2], Format::OpenMetrics),
            (vec![prometheus3], Format::OpenMetrics),
        ] {
            assert_eq!(Format::accepted(accept.iter().copied()), format, "{accept:?}");
        }
    }
}
