use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const GOOD: &str = "\
listeners:
  - { name: http, address: 127.0.0.1:8080 }
backends:
  - { name: v1, endpoints: [127.0.0.1:9001] }
routes:
  - { name: r, rules: [{ name: main, backends: [{ name: v1 }] }] }
";

fn check(bytes: impl Into<Vec<u8>>) -> Result<Loaded, Defects> {
    Source::of("test.yaml", bytes)?.load(Options::CHECK)
}

fn joined(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(line).collect()
}

/// Codes with their lines and columns.
fn places(bytes: impl Into<Vec<u8>>) -> Vec<(Code, usize, usize)> {
    let list = match check(bytes) {
        Ok(loaded) => loaded.warnings,
        Err(defects) => defects.list,
    };
    list.iter().map(|one| (one.code, one.place.line, one.place.column)).collect()
}

#[test]
fn byte_order_marks_and_foreign_line_ends_change_nothing() {
    for text in [
        GOOD.to_owned(),
        format!("\u{feff}{GOOD}"),
        GOOD.replace('\n', "\r\n"),
        format!("---\n{GOOD}...\n"),
        format!("%YAML 1.2\n---\n{GOOD}"),
    ] {
        assert!(check(text.clone()).is_ok(), "{text:?}");
    }
    let bad = GOOD.replace("name: main", "nam: main").replace('\n', "\r\n");
    let expected = vec![(Code::UnknownKey, 6, 26)];
    assert_eq!(places(format!("\u{feff}{bad}")), expected);
}

#[test]
fn the_hash_is_of_the_bytes() {
    let hash = |text: &str| check(text).unwrap().hash;
    assert_eq!(hash(GOOD), hash(GOOD));
    assert_ne!(hash(GOOD), hash(&format!("{GOOD}\n")));
    assert_eq!(hash(GOOD).len(), 32);
}

#[test]
fn what_is_not_text_has_the_place_of_its_first_strange_byte() {
    for (bytes, place) in [
        (&b"a: b\nc: \xFF"[..], (Code::NotText, 2, 4)),
        (b"a: \xC3\xA4\xFF", (Code::NotText, 1, 5)),
        (b"a: b\r\nc: \x00", (Code::NotText, 2, 4)),
        (b"\xFF\xFEl\x00", (Code::NotText, 1, 1)),
        (b"\x7FELF", (Code::NotText, 1, 1)),
    ] {
        assert_eq!(places(bytes), [place]);
    }
}

#[test]
fn a_megabyte_is_enough_and_one_byte_more_is_too_much() {
    let padded = |len: usize| format!("{GOOD}#{}", "x".repeat(len - GOOD.len() - 1));
    assert!(check(padded(FILE_BYTES_MAX)).is_ok());
    assert_eq!(places(padded(FILE_BYTES_MAX + 1)), [(Code::TooLarge, 1, 1)]);
}

#[test]
fn aliases_are_read_within_a_budget() {
    let shared = GOOD.replace("endpoints: [127.0.0.1:9001]", "endpoints: &e [127.0.0.1:9001]")
        + "drain_timeout: 5s\n";
    let two = shared.replace("routes:", "  - { name: v2, endpoints: *e }\nroutes:");
    let two = two.replace("[{ name: v1 }]", "[{ name: v1 }, { name: v2 }]");
    assert_eq!(check(two).unwrap().config.backends[1].endpoints.len(), 1);
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (last, next) in ('a'..'i').zip('b'..='i') {
        let items = vec![format!("*{last}"); 10].join(", ");
        bomb.extend([format!("{next}: &{next} [{items}]\n")]);
    }
    assert!(places(bomb).iter().any(|(code, ..)| *code == Code::Alias));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "no clock is told here: the test takes the time")]
fn nothing_that_fits_into_a_file_takes_long() {
    let lists = "[".repeat(100_000);
    let blocks = joined(1000, |depth| format!("{}a:\n", " ".repeat(depth)));
    let keys = joined(90_000, |n| format!("k{n}: {n}\n"));
    let names = joined(25_000, |n| format!("  - {{ name: b{n} }}\n"));
    let names = format!("{}backends:\n{names}", GOOD.replace("backends:\n", "x:\n"));
    let one_line = format!("a: {}", "x".repeat(1_000_000));
    let long_path = format!("? {}\n: {}", "k".repeat(1000), "[a, b, {c: d}]".repeat(60_000));
    let tail = "&a [".repeat(60) + &"*a,".repeat(1000);
    for text in [lists, blocks, keys, names, one_line, long_path, tail] {
        let start = Instant::now();
        let (head, len) = (text[..20.min(text.len())].to_owned(), text.len());
        assert!(check(text).is_err(), "{head}");
        assert!(start.elapsed() < Duration::from_secs(10), "{head}… of {len} bytes");
    }
}

#[test]
fn a_config_map_is_read_with_the_places_of_the_manifest() {
    let head = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: serin }\ndata:\n";
    let indented = |text: &str, by: &str| -> String {
        text.lines().flat_map(|line| [by, line, "\n"]).collect()
    };
    let bad = GOOD.replace("name: main", "nam: main");
    let block = format!("{head}  any.yaml: |\n{}", indented(&bad, "    "));
    assert_eq!(places(block), [(Code::UnknownKey, 11, 30)]);
    let kept = format!("{head}  serin.yaml: |+ # kept\n{}\n\n  b: c\n", indented(&bad, "      "));
    assert_eq!(places(kept), [(Code::UnknownKey, 11, 32)]);
    let quoted = format!("{head}  any.yaml: {}\n", serde_json::json!(bad));
    assert_eq!(places(quoted), [(Code::UnknownKey, 5, 13)]);
    let good = format!("{head}  any.yaml: |\n{}", indented(GOOD, "    "));
    assert_eq!(places(format!("kind: X\napiVersion: v1\n---\n{good}")), []);
    let run = Source::of("cm.yaml", good).unwrap().load(Options::RUN).unwrap_err();
    assert_eq!(run.list[0].code, Code::Manifest);
}

#[test]
fn other_endpoints_make_another_version() {
    let version = |endpoints: &str, version: &str| {
        let text = GOOD
            .replace("routes:", &format!("  - {{ name: v2, endpoints: [{endpoints}] }}\nroutes:"))
            .replace("[{ name: v1 }]", "[{ name: v1 }, { name: v2 }]")
            + "rollouts:\n  - { name: a, rule: r/main, stable: v1, canary: v2, "
            + version
            + "objectives: [{ errors: 1% }] }\n";
        check(text).unwrap().config.rollouts[0].version.to_string()
    };
    let (one, other) = ("127.0.0.1:1, 127.0.0.1:2", "127.0.0.1:2, 127.0.0.1:1");
    assert_eq!(version(one, ""), version(other, ""));
    assert_ne!(version(one, ""), version("127.0.0.1:1", ""));
    // It stands in ledgers: it may never change.
    assert_eq!(version("127.0.0.1:1", ""), "endpoints-84dc02302f71fe34");
    assert_eq!(version(one, "version: 1.10, "), "1.10");
}

proptest! {
    #[test]
    fn a_file_with_a_slip_of_the_pen_never_panics(
        at in 0usize..2000, len in 0usize..20, junk in "[\\PC\n]{0,8}",
    ) {
        let text = include_str!("../../../config/reference.yaml");
        let chars: Vec<char> = text.chars().collect();
        let at = at * chars.len() / 2000;
        let rest = chars[(at + len).min(chars.len())..].iter();
        let head = chars[..at].iter().copied();
        let text: String = head.chain(junk.chars()).chain(rest.copied()).collect();
        if let Err(defects) = check(text) {
            prop_assert!(defects.list.iter().any(Defect::is_error));
            for defect in &defects.list {
                prop_assert!(defect.place.line >= 1 && defect.place.column >= 1);
                prop_assert!(!defect.message.contains('\n'));
            }
            crate::config::render::text("x", &defects.text, &defects.list, false);
        }
    }
}
