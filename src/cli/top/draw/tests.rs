use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::cli::top::model::{Act, Endpoint, Key, Seen};
use crate::rollout::view::{CanaryView, StableView};

fn rollout(name: &str, state: &str) -> RolloutView {
    let version = |role: &str, weight, errors, p99| VersionView {
        name: format!("{name}-{role}"),
        role: role.to_owned(),
        weight,
        rps: weight * 100.0,
        errors,
        p99_ms: Some(p99),
    };
    RolloutView {
        name: name.to_owned(),
        rule: "chat/main".to_owned(),
        stable: format!("{name}-stable"),
        canary: format!("{name}-canary"),
        version: "1".to_owned(),
        state: state.to_owned(),
        step: (state == "holding").then_some(0),
        steps: Vec::new(),
        weight: 0.1,
        reason: (state == "rolled_back").then(|| "errors <= 1%: canary 4.08%".to_owned()),
        since: "2026-11-21T10:00:00Z".to_owned(),
        verdict: if state == "holding" { Verdict::Hold } else { Verdict::Rollback },
        hold_reason: (state == "holding").then(|| "not enough traffic".to_owned()),
        objectives: vec![ObjectiveView {
            name: "errors <= 1%".to_owned(),
            canary: CanaryView { bad: 6, total: 147, ratio: 0.0408, low: 0.0124, high: 0.0955 },
            stable: StableView { bad: 2, total: 1310, ratio: 0.0015 },
            limit: 0.01,
            over_limit: if state == "holding" { 14.2 } else { 411.0 },
            worse_than_stable: Some(523.0),
            threshold: 200.0,
            verdict: if state == "holding" { Verdict::Hold } else { Verdict::Rollback },
        }],
        body_ms: None,
        versions: vec![version("stable", 0.9, 0.0015, 40.0), version("canary", 0.1, 0.0408, 80.0)],
        said: None,
        fleet: None,
    }
}

fn model() -> Model {
    let mut model = Model::new("127.0.0.1:9901".to_owned());
    let metrics = "# TYPE serin_endpoint_healthy gauge\n\
        serin_endpoint_healthy{backend=\"chat-stable\",endpoint=\"127.0.0.1:9001\"} 1\n\
        serin_endpoint_healthy{backend=\"chat-canary\",endpoint=\"127.0.0.1:9002\"} 0\n\
        serin_rollout_weight{rollout=\"chat\"} 0.1\n";
    let endpoints = Endpoint::all_of(metrics);
    assert_eq!(endpoints.len(), 2);
    for p99 in [20.0, 40.0, 80.0] {
        let mut rollouts = vec![rollout("chat", "holding"), rollout("vision", "rolled_back")];
        rollouts[0].versions[1].p99_ms = Some(p99);
        model.see(Ok(Seen { rollouts, endpoints: endpoints.clone() }));
    }
    model
}

fn picture(model: &Model) -> String {
    picture_of(model, 110, 20)
}

fn picture_of(model: &Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, false)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn everything_is_in_the_picture() {
    let mut model = model();
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("top", picture(&model));
        assert_eq!(model.press(Key::Down), Act::Nothing);
        assert_eq!(model.press(Key::Letter('a')), Act::Nothing);
        insta::assert_snapshot!("top-asks", picture(&model));
        assert_eq!(model.press(Key::Escape), Act::Nothing);
        model.press(Key::Letter('?'));
        insta::assert_snapshot!("top-help", picture(&model));
        model.press(Key::Escape);
        model.see(Err("no answer from 127.0.0.1:9901: refused\nis it there?".to_owned()));
        insta::assert_snapshot!("top-away", picture(&model));
        insta::assert_snapshot!("top-empty", picture(&Model::new("x:1".to_owned())));
    });
}

#[test]
fn a_narrow_terminal_shows_less_and_what_it_shows_whole() {
    let mut model = model();
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("top-narrow", picture_of(&model, 60, 18));
        model.press(Key::Letter('p'));
        insta::assert_snapshot!("top-narrow-asks", picture_of(&model, 40, 14));
    });
    // With each column that comes, the others keep their width.
    for width in 38..110 {
        let picture = picture_of(&model, width, 14);
        let head = picture.lines().nth(1).unwrap();
        let names = COLUMNS.iter().filter(|(_, _, from)| *from <= width).map(|one| one.0);
        assert!(names.into_iter().all(|name| head.contains(name)), "{width}: {head}");
        assert!(picture.contains("rolled back"), "{width}: {picture}");
    }
}

#[test]
fn a_verb_is_said_only_after_a_yes() {
    let mut model = model();
    for (key, verb) in Verb::ALL {
        assert_eq!(model.press(Key::Letter(key)), Act::Nothing);
        assert_eq!(model.press(Key::Letter('n')), Act::Nothing);
        assert_eq!(model.press(Key::Letter(key)), Act::Nothing);
        let rollout = "chat".to_owned();
        assert_eq!(model.press(Key::Letter('y')), Act::Operate { rollout, verb });
    }
    assert_eq!(model.press(Key::Letter('y')), Act::Nothing);
    model.told("chat", Verb::Abort, Err("it has ended".to_owned()));
    assert!(picture(&model).contains("chat: abort refused: it has ended"));
    assert_eq!(model.press(Key::Letter('q')), Act::Quit);
    // The list may have become shorter meanwhile.
    model.press(Key::Down);
    model.see(Ok(Seen::default()));
    assert_eq!((model.selected, model.press(Key::Letter('a'))), (0, Act::Nothing));
    assert_eq!(model.asks, None);
}

#[test]
fn pictures_of_any_size_are_drawn() {
    for (width, height) in [(1, 1), (5, 3), (20, 5), (80, 8), (200, 60)] {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let mut model = model();
        terminal.draw(|frame| draw(frame, &model, true)).unwrap();
        model.press(Key::Letter('?'));
        terminal.draw(|frame| draw(frame, &model, true)).unwrap();
    }
}
