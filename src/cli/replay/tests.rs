use serde_json::Value;

use super::*;

const TRACES: &[u8] = include_bytes!("../../../tests/judge-golden/traces.csv");
const HEADER: &str = "trace,slot,canary_n,canary_err,canary_slow,stable_n,stable_err,stable_slow";

fn json(policy: &Policy, input: &[u8]) -> Vec<Value> {
    let traces = replay(policy, 0.1, input).unwrap();
    let mut out = Vec::new();
    print_json(&mut out, policy, &traces).unwrap();
    serde_json::from_slice(&out).unwrap()
}

#[test]
fn golden_traces_get_their_verdicts() {
    let traces = json(&Policy::default(), TRACES);
    let column = |name: &str| traces.iter().map(|one| one[name].clone()).collect::<Vec<_>>();
    let expected = [
        ("gross_low_rate", "rollback", None, Some("errors <= 1%"), 18, 4),
        ("err10", "hold", Some("suspicious"), None, 23, 49),
        ("slow5", "rollback", None, Some("latency p99"), 89, 242),
        ("rel_only", "hold", Some("soaking"), None, 160, 2093),
        ("healthy", "hold", Some("not proven"), None, 1199, 3004),
        // Stable has recovered by its last row.
        ("shared_outage", "hold", Some("not proven"), None, 479, 557),
        ("microburst", "hold", Some("not proven"), None, 239, 694),
    ];
    assert_eq!(column("trace"), expected.map(|one| one.0));
    assert_eq!(column("verdict"), expected.map(|one| one.1));
    assert_eq!(column("hold_reason"), expected.map(|one| Value::from(one.2)));
    assert_eq!(column("objective"), expected.map(|one| Value::from(one.3)));
    assert_eq!(column("slot"), expected.map(|one| one.4));
    assert_eq!(column("canary_requests"), expected.map(|one| one.5));
    let keys: Vec<_> = traces[0].as_object().unwrap().keys().map(String::as_str).collect();
    let names = "trace verdict hold_reason objective slot canary_requests objectives";
    assert_eq!(keys.join(" "), names);
    assert_eq!(traces[0]["objectives"][1]["name"], "latency p99");
}

#[test]
fn a_policy_judges_by_its_own_objectives() {
    let limit = Objective::errors(Ratio::new(0.5).unwrap()).unwrap();
    let latency = Objective::latency(Quantile::P99, Duration::from_millis(200));
    let plan = Plan { objectives: vec![limit, latency], ..Policy::default().plan };
    let traces = json(&Policy { plan, named: true }, TRACES);
    assert_eq!(traces[2]["objective"], "latency p99 <= 200ms");
    assert_eq!(traces[5]["objectives"][0]["name"], "errors <= 50%");
}

#[test]
fn a_shared_breach_that_lasts_rolls_back_as_it_would_have() {
    let row = |slot| format!("outage,{slot},10,5,0,90,45,0\n");
    let rows: String = (0..1300).map(row).collect();
    let traces = json(&Policy::default(), format!("{HEADER}\n{rows}").as_bytes());
    assert_eq!(traces[0]["verdict"], "rollback");
    assert_eq!(traces[0]["objective"], "errors <= 1%");
    assert_eq!(traces[0]["hold_reason"], Value::Null);
}

#[test]
fn text_says_what_was_decided_and_why() {
    let policy = Policy::default();
    let traces = replay(&policy, 0.1, TRACES).unwrap();
    let mut out = Vec::new();
    print_text(&mut out, &policy, &traces[..1]).unwrap();
    let expected = "\
gross_low_rate: rollback (errors <= 1%), slot 18 at 4.75 s, 4 canary requests
  errors <= 1%: canary 100.00% [34.19, 100.00] of 4, stable 0.00% of 37; over limit >= 2000, \
worse than 1.5x stable 363, rollback at 200
  latency p99: canary 0.00% [0.00, 100.00] of 0, stable 2.70% of 37; over limit 0.50, \
worse than 1.5x stable 0.24, rollback at 200
";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn every_mistake_in_a_file_has_its_line_and_a_remedy() {
    for (text, expected) in [
        ("", "line 1: the file is empty"),
        ("a,b\n", "line 1: there is no column `trace`; write the header"),
        ("H\nx,0,1,0,0,9,0\n", "line 2: `stable_slow` is missing: 7 fields only"),
        ("H\nx,0,-1,0,0,9,0,0\n", "line 2: `canary_n` is `-1`; write a whole number"),
        ("H\nx,0,1,0,0,9,0,0\nx,1,1,1,1,9,0,0\n", "line 3: more bad than all: 1 errors and 1 slow"),
        ("H\nx,3,1,0,0,9,0,0\nx,3,1,0,0,9,0,0\n", "line 3: slot 3 comes after slot 3; sort"),
        ("H\nx,4294967296,1,0,0,9,0,0\n", "line 2: `slot` is beyond any rollout's life"),
        ("H\n\u{0}\n", "line 2: `slot` is missing: 1 fields only"),
    ] {
        let text = text.replace('H', HEADER);
        let error = replay(&Policy::default(), 0.1, text.as_bytes()).err().unwrap();
        let error = format!("{error:#}");
        assert!(error.starts_with(expected), "{error}");
    }
    let binary = replay(&Policy::default(), 0.1, &b"\xff\xfe\n"[..]).err().unwrap();
    assert!(format!("{binary:#}").starts_with("line 1: "), "{binary:#}");
}

#[test]
fn spreadsheets_and_editors_may_leave_their_marks() {
    let text = format!("\u{feff}{HEADER}\r\nx,0, 1,1,0,9,0,0\r\n\r\n");
    assert_eq!(json(&Policy::default(), text.as_bytes())[0]["canary_requests"], 1);
    assert_eq!(json(&Policy::default(), HEADER.as_bytes()), Vec::<Value>::new());
}

#[test]
fn a_share_is_above_nothing_and_at_most_everything() {
    assert_eq!(share("0.1"), Ok(0.1));
    assert_eq!(share("1"), Ok(1.0));
    for text in ["0", "-0.1", "1.1", "NaN", "ten", ""] {
        assert!(share(text).is_err(), "{text}");
    }
}
