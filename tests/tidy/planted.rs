//! Every rule is seen to find the fault that it is for, and to leave the rest alone.

use super::*;

#[test]
fn an_import_that_the_table_does_not_allow_is_found() {
    let pure = "src/traffic/split.rs";
    for (path, text, expected) in [
        (pure, "use crate::config::Config;\n", "1: traffic must not import config::Config"),
        (pure, "\nfn f(_: crate::proxy::Error) {}\n", "2: traffic must not import proxy::Error"),
        (pure, "use crate::{\n    config::Config,\n};\n", "1: nested use: one module a line"),
        (pure, "use crate::names::{a::{B}, C};\n", "1: nested use: one module a line"),
        (pure, "use super::super::config;\n", "1: say crate::, not super::"),
        ("src/snapshot.rs", "use super::proxy;\n", "1: say crate::, not super::"),
        ("src/proxy/mod.rs", "use super::control;\n", "1: say crate::, not super::"),
        (
            "src/proxy/worker.rs",
            "use crate::rollout::plan::Plan;\n",
            "1: proxy must not import rollout::plan::Plan",
        ),
        (
            "src/cli/status.rs",
            "use crate::control::{api, ledger};\n",
            "1: cli must not import control::ledger",
        ),
        (
            "src/cli/status.rs",
            "use crate::control::api_of_others;\n",
            "1: cli must not import control::api_of_others",
        ),
        ("src/main.rs", "use serin::proxy;\n", "1: main must not import proxy"),
        ("src/novelty/mod.rs", "", "1: novelty is not in the table of imports"),
        ("src/novelty.rs", "", "1: novelty is not in the table of imports"),
    ] {
        assert_eq!(check_imports(path, text), [format!("{path}:{expected}")], "{text}");
    }
}

#[test]
fn an_import_that_the_table_allows_is_none() {
    for (path, text) in [
        ("src/traffic/split.rs", "use crate::units::{Ratio, Weight};\nuse crate::names::*;\n"),
        ("src/traffic/split.rs", "use crate::traffic::draw::Salt;\nuse super::draw;\n"),
        ("src/traffic/split.rs", "// crate::config\nlet text = \"crate::config\";\n"),
        ("src/traffic/split.rs", "let text = r#\"a \" crate::config\"#; let c = '\"';\n"),
        ("src/traffic/split.rs", "fn f() {}\n\n#[cfg(test)]\nmod tests;\nuse crate::cli::X;\n"),
        ("src/traffic/split/tests.rs", "use crate::config::Config;\n"),
        ("src/cli/status.rs", "use crate::control::api::{self, RolloutView};\n"),
        ("src/control/build.rs", "use crate::config::{self, Config};\n"),
        ("src/proxy/error.rs", "#[error(\"{source}\")]\nuse crate::names::RuleId;\n"),
        ("src/lib.rs", "pub mod app;\n"),
        ("tests/it/main.rs", "use crate::anything;\n"),
    ] {
        assert_eq!(check_imports(path, text), [""; 0], "{text}");
    }
}

#[test]
fn the_world_in_a_pure_module_is_found() {
    for word in IMPURE_WORDS {
        let text = format!("//! Pure.\n// {word}\n");
        for path in ["src/traffic/split.rs", "src/rollout/judge.rs", "src/units.rs"] {
            let expected = format!("{path}:2: pure module says {word}");
            assert!(check_purity(path, &text).contains(&expected), "{path} {word}");
        }
        assert_eq!(check_purity("src/proxy/worker.rs", &text), [""; 0]);
        let tested = format!("//! Pure.\n\n#[cfg(test)]\nmod tests {{\n    {word}\n}}\n");
        assert_eq!(check_purity("src/traffic/split.rs", &tested), [""; 0]);
        assert_eq!(check_purity("src/traffic/route/tests.rs", &text), [""; 0]);
    }
}

#[test]
fn a_file_out_of_shape_is_found() {
    let doc = "//! Does it.\n";
    let long = format!("{doc}{}", "fn f() {}\n".repeat(LINES_MAX));
    let long_line = format!("{doc}// {}\n", "ü".repeat(LINE_CHARS_MAX - 2));
    let early = format!("{doc}#[cfg(test)]\nmod tests;\n\nfn f() {{}}\n");
    let helper = format!("{doc}\n#[cfg(test)]\nfn helper() {{}}\n");
    for (text, expected) in [
        ("fn f() {}\n", "src/clock.rs:1: no module doc"),
        (&*long, "src/clock.rs:501: 501 lines"),
        (&*long_line, "src/clock.rs:2: over 100"),
        (&*early, "src/clock.rs:2: #[cfg(test)]"),
        (&*helper, "src/clock.rs:3: #[cfg(test)]"),
    ] {
        let faults = check_shape("src/clock.rs", text);
        assert!(faults.len() == 1 && faults[0].starts_with(expected), "{expected}: {faults:?}");
    }
    let tests = "    // It\n".repeat(LINES_MAX) + "    const FILE: &str = \"\nkey: value\n\";\n";
    let whole = format!("{doc}\nfn f() {{}}\n\n#[cfg(test)]\nmod tests {{\n{tests}}}\n");
    assert_eq!(check_shape("src/clock.rs", &whole), [""; 0]);
    assert_eq!(check_shape("src/clock/tests.rs", "use super::*;\n"), [""; 0]);
    let literal = format!("{doc}const TEXT: &str = \"{}\";\n", "long ".repeat(30));
    assert_eq!(check_shape("src/clock.rs", &literal), [""; 0]);
}

#[test]
fn code_in_the_map_is_found() {
    let text = "//! Map.\n\npub mod app;\nmod hidden;\npub mod novelty;\n";
    assert_eq!(
        check_map("src/lib.rs", text),
        ["src/lib.rs:4: more than a map", "src/lib.rs:5: novelty is not in the table of imports"]
    );
}

#[test]
fn a_machine_and_a_foreign_package_are_found() {
    for word in OF_A_MACHINE {
        let text = format!("fine\nsee {word}x\n");
        assert_eq!(check_mentions("docs/a.md", &text), [format!("docs/a.md:2: mentions {word}")]);
    }
    let lock = format!("{REGISTRY}\nsource = \"git+https://example.com/x\"\n");
    assert_eq!(
        check_mentions("Cargo.lock", &lock),
        ["Cargo.lock:2: a package from elsewhere than crates.io"]
    );
}

#[test]
fn a_dead_link_is_found() {
    let text = "[a](judge.md#numbers) [b](gone.md)\n[c](https://example.com/x) [d](#here)\n";
    let exists = |path: &Path| path == Path::new("docs/judge.md");
    assert_eq!(check_links("docs/a.md", text, exists), ["docs/a.md:1: gone.md is not there"]);
}

#[test]
fn a_recipe_that_is_missing_is_found() {
    let justfile = "# Tests.\ntest *args:\n    cargo test\nfmt:\n";
    let text = "just test\n  - run: just fmt\njust tset --all\n# just a comment\n";
    assert_eq!(
        check_recipes("ci.yml", text, justfile),
        ["ci.yml:3: the justfile has no recipe tset"]
    );
}
