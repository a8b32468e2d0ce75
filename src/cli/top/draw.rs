//! The picture of `serin top`.
//!
//! Never changes what it shows, and looks at nothing else.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Sparkline, Table, TableState, Wrap};

use crate::cli::top::model::{Model, Verb};
use crate::control::api::{RolloutView, VersionView};
use crate::rollout::verdict::Verdict;
use crate::rollout::view::ObjectiveView;

/// Characters of an evidence bar.
const BAR: usize = 20;

/// Rows for a question, or for what went wrong.
const FOOT_ROWS_MAX: usize = 3;

/// Columns of the list: head, width, and from which width of the terminal on it is there. What
/// tells of danger stays to the last.
const COLUMNS: [(&str, u16, u16); 9] = [
    ("ROLLOUT", 24, 0),
    ("STATE", 12, 0),
    ("SHARE", 7, 54),
    ("RPS", 8, 84),
    ("ERRORS", 8, 62),
    ("STABLE", 8, 101),
    ("P99", 9, 75),
    ("STABLE", 9, 101),
    ("EVIDENCE", 8, 38),
];

/// Draws all of it.
pub fn draw(frame: &mut Frame, model: &Model, colours: bool) {
    let paint = Paint { colours };
    let rows = (model.seen.rollouts.len() as u16).saturating_add(1).min(12);
    let footer = Paragraph::new(footer(model, paint, frame.area().width)).wrap(Wrap { trim: true });
    let foot_rows = footer.line_count(frame.area().width).clamp(1, FOOT_ROWS_MAX) as u16;
    let [title, list, more, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(rows),
        Constraint::Min(0),
        Constraint::Length(foot_rows),
    ])
    .areas(frame.area());
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let head = format!("serin top  {}", model.address);
    frame.render_widget(Line::styled(head, bold), title);
    rollouts(frame, list, model, paint);
    match model.chosen() {
        Some(one) => detail(frame, more, (model, one), paint),
        None => frame.render_widget("no rollouts: the config has no `rollouts`", more),
    }
    frame.render_widget(footer, foot);
    if model.helps {
        help(frame);
    }
}

/// Styles, or none where `NO_COLOR` says so.
#[derive(Clone, Copy, Debug)]
struct Paint {
    colours: bool,
}

impl Paint {
    fn of(self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    fn state(self, one: &RolloutView) -> Style {
        match (one.state.as_str(), one.verdict) {
            ("rolled_back" | "aborted", _) | (_, Verdict::Rollback) => self.of(Color::Red),
            ("promoted", _) => self.of(Color::Green),
            ("paused" | "holding", _) => self.of(Color::Yellow),
            _ => Style::new(),
        }
    }
}

fn rollouts(frame: &mut Frame, area: Rect, model: &Model, paint: Paint) {
    let is_there = |place: usize| COLUMNS[place].2 <= area.width;
    let shown = || (0..COLUMNS.len()).filter(|place| is_there(*place));
    let head = Row::new(shown().map(|place| COLUMNS[place].0));
    let head = head.style(Style::new().add_modifier(Modifier::BOLD));
    let rows = model.seen.rollouts.iter().map(|one| {
        let role = |role: &str| one.versions.iter().find(|version| version.role == role);
        let (canary, stable) = (role("canary"), role("stable"));
        let cells = [
            Cell::from(one.name.clone()),
            Cell::from(one.state.replace('_', " ")).style(paint.state(one)),
            Cell::from(format!("{:.1}%", one.weight * 100.0)),
            Cell::from(canary.map_or_else(|| "-".to_owned(), |one| format!("{:.1}", one.rps))),
            Cell::from(errors(canary)),
            Cell::from(errors(stable)),
            Cell::from(p99(canary)),
            Cell::from(p99(stable)),
            Cell::from(format!("{:.0}%", strongest(one) * 100.0)),
        ];
        let cells = cells.into_iter().enumerate().filter(|(place, _)| is_there(*place));
        Row::new(cells.map(|(_, cell)| cell))
    });
    let widths = shown().map(|place| match (place, COLUMNS[place].1) {
        // The name is cut first.
        (0, width) => Constraint::Max(width),
        (_, width) => Constraint::Length(width),
    });
    let chosen = Style::new().add_modifier(Modifier::REVERSED);
    let table = Table::new(rows, widths).header(head).row_highlight_style(chosen);
    let mut state = TableState::new().with_selected(Some(model.selected));
    frame.render_stateful_widget(table, area, &mut state);
}

fn errors(one: Option<&VersionView>) -> String {
    one.map_or_else(|| "-".to_owned(), |one| format!("{:.2}%", one.errors * 100.0))
}

fn p99(one: Option<&VersionView>) -> String {
    let ms = one.and_then(|one| one.p99_ms);
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0}ms"))
}

/// How far the evidence against a canary has come, 0 to 1: as its logarithm goes, for it is
/// multiplied with every request. Both kinds are asked for, so the weaker one counts.
fn progress(one: &ObjectiveView) -> f64 {
    let evidence = one.worse_than_stable.unwrap_or(f64::INFINITY).min(one.over_limit);
    let progress = evidence.max(1.0).ln() / one.threshold.max(1.0 + f64::EPSILON).ln();
    progress.clamp(0.0, 1.0)
}

fn strongest(one: &RolloutView) -> f64 {
    one.objectives.iter().map(progress).fold(0.0, f64::max)
}

fn detail(frame: &mut Frame, area: Rect, (model, one): (&Model, &RolloutView), paint: Paint) {
    let block = Block::bordered().title(format!(" {} ", one.name));
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let mut lines = vec![Line::from(format!(
        "{} from {} to {}, version {}",
        one.rule, one.stable, one.canary, one.version
    ))];
    let why = one.reason.as_ref().or(one.hold_reason.as_ref());
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    let step = one
        .step
        .map_or_else(String::new, |step| format!(", step {} of {}", step + 1, one.steps.len()));
    let state = format!("{}{step} since {}{why}", one.state.replace('_', " "), one.since);
    lines.push(Line::styled(state, paint.state(one)));
    lines.push(Line::default());
    for objective in &one.objectives {
        let [counts, proof] = evidence(objective, paint);
        if counts.width() + proof.width() <= usize::from(inside.width) {
            lines.push(counts.into_iter().chain(proof).collect());
        } else {
            lines.push(counts);
            lines.push([Span::raw("  ")].into_iter().chain(proof).collect());
        }
    }
    lines.push(Line::default());
    for name in [&one.stable, &one.canary] {
        lines.push(endpoints(name, model, paint));
    }
    let text = Paragraph::new(lines).wrap(Wrap { trim: false });
    let height = text.line_count(inside.width).min(usize::from(inside.height)) as u16;
    let [top, spark] =
        Layout::vertical([Constraint::Length(height), Constraint::Min(0)]).areas(inside);
    frame.render_widget(text, top);
    let Some(history) = model.p99.get(&one.name).filter(|_| spark.height >= 2) else { return };
    let spark = Rect { height: spark.height.min(5), ..spark };
    // The newest at the right end, as far as there is room.
    let shown: Vec<_> =
        history.iter().rev().take(usize::from(spark.width)).rev().copied().collect();
    let most = shown.iter().copied().max().unwrap_or(0) as f64 / 1000.0;
    let title = format!("canary p99, a second each, highest {most:.0}ms");
    let line = Sparkline::default().block(Block::new().title(title)).data(shown);
    frame.render_widget(line.style(paint.of(Color::Cyan)), spark);
}

/// `errors <= 1%   canary 4.08% [1.24, 9.55]  stable 0.15%  ` and
/// `[####......] over limit 411, vs stable 523, proof 200`, for one row or for two.
fn evidence<'a>(one: &ObjectiveView, paint: Paint) -> [Line<'a>; 2] {
    let done = (progress(one) * BAR as f64).round() as usize;
    let bar = format!("[{}{}]", "#".repeat(done), ".".repeat(BAR - done));
    let colour = match one.verdict {
        Verdict::Rollback => Color::Red,
        Verdict::Hold => Color::Yellow,
        Verdict::Promote => Color::Green,
    };
    let (canary, stable) = (&one.canary, &one.stable);
    let worse = one.worse_than_stable.map_or_else(|| "-".to_owned(), short);
    let counts = Line::raw(format!(
        "{:24} canary {:.2}% [{:.2}, {:.2}]  stable {:.2}%  ",
        one.name,
        canary.ratio * 100.0,
        canary.low * 100.0,
        canary.high * 100.0,
        stable.ratio * 100.0
    ));
    let proof = Line::from(vec![
        Span::styled(bar, paint.of(colour)),
        Span::raw(format!(
            " over limit {}, vs stable {worse}, proof {:.0}",
            short(one.over_limit),
            one.threshold
        )),
    ]);
    [counts, proof]
}

fn short(value: f64) -> String {
    if value >= 10_000.0 {
        ">= 10000".to_owned()
    } else if value >= 10.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

fn endpoints<'a>(backend: &str, model: &Model, paint: Paint) -> Line<'a> {
    let mut spans = vec![Span::raw(format!("{backend:24}"))];
    let own = model.seen.endpoints.iter().filter(|one| one.backend == backend);
    for one in own {
        let (mark, colour) = if one.healthy { ("up", Color::Green) } else { ("OUT", Color::Red) };
        spans.push(Span::raw(format!(" {} ", one.address)));
        spans.push(Span::styled(mark, paint.of(colour)));
    }
    if spans.len() == 1 {
        spans.push(Span::styled(" no endpoint", paint.of(Color::Red)));
    }
    Line::from(spans)
}

fn footer<'a>(model: &Model, paint: Paint, width: u16) -> Line<'a> {
    if let Some((rollout, verb)) = &model.asks {
        let text =
            format!("{} {rollout}? It {}. y: yes, any other key: no", verb.as_str(), verb.means());
        return Line::styled(text, paint.of(Color::Yellow).add_modifier(Modifier::BOLD));
    }
    if let Some(fault) = &model.fault {
        let first = fault.lines().next().unwrap_or_default();
        return Line::styled(format!("{first}; this is what was last seen"), paint.of(Color::Red));
    }
    match &model.note {
        Some(note) => Line::raw(note.clone()),
        None if width < 80 => Line::raw("? help  q quit"),
        None => Line::raw(
            "up/down select  p promote  s pause  r resume  a abort  x reset  ? help  q quit",
        ),
    }
}

fn help(frame: &mut Frame) {
    let mut lines = vec![Line::raw("up, down, k, j   select a rollout")];
    for (key, verb) in Verb::ALL {
        lines.push(Line::raw(format!("{key}   {:8} it {}", verb.as_str(), verb.means())));
    }
    lines.push(Line::raw("q, esc, ctrl-c   quit"));
    lines.push(Line::default());
    lines
        .push(Line::raw("EVIDENCE is how far it has come towards the proof that takes the canary"));
    lines.push(Line::raw(
        "out, on a scale of logarithms. SHARE, RPS, the first ERRORS and the first",
    ));
    lines.push(Line::raw("P99 are the canary's, over the last ten seconds. Any key closes this."));
    let whole = frame.area();
    let (width, height) = (whole.width.min(78), whole.height.min(lines.len() as u16 + 2));
    let area = Rect { x: (whole.width - width) / 2, y: (whole.height - height) / 2, width, height };
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" Help ")), area);
}

#[cfg(test)]
mod tests;
