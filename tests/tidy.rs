//! The rules of the house that no compiler knows: who may import whom, what a pure module
//! may not say, what a file must look like, what no file may mention.
//!
//! Never fixes anything. Each rule is a function of a path and a text, tried in
//! `tidy/planted.rs` on planted faults; function length, missing docs and banned calls are clippy's.

#[path = "tidy/events.rs"]
mod events;
#[path = "tidy/planted.rs"]
mod planted;

use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom from this crate: a module, or one path within it. A module that is
/// missing here fails the test. ARCHITECTURE.md says why.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("names", &[]),
    ("units", &[]),
    ("clock", &["units"]),
    ("traffic", &["names", "units"]),
    ("rollout", &["names", "units"]),
    ("telemetry", &["names", "units", "clock", "traffic", "rollout"]),
    ("tls", &["traffic"]),
    ("snapshot", &["names", "units", "traffic", "telemetry", "tls"]),
    ("config", &["names", "units", "clock", "traffic", "rollout", "tls"]),
    ("proxy", &["names", "units", "clock", "snapshot", "traffic", "telemetry", "tls"]),
    (
        "control",
        &[
            "names",
            "units",
            "clock",
            "config",
            "snapshot",
            "traffic",
            "rollout",
            "telemetry",
            "tls",
        ],
    ),
    (
        "app",
        &[
            "names",
            "units",
            "clock",
            "config",
            "snapshot",
            "traffic",
            "rollout",
            "telemetry",
            "tls",
            "proxy",
            "control",
        ],
    ),
    // What the admin port serves, a proxy of its own, and the judge for `replay`.
    (
        "cli",
        &[
            "names",
            "units",
            "clock",
            "config",
            "rollout",
            "app",
            "control::api",
            "control::Command",
        ],
    ),
    ("main", &["cli", "config", "tls"]),
];

/// Modules that decide, and do nothing.
const PURE: &[&str] = &["traffic", "rollout", "names", "units"];

/// Words that would let the world into a decision; not even in a comment.
const IMPURE_WORDS: &[&str] = &[
    "tokio",
    "hyper",
    "Instant",
    "SystemTime",
    "rand::",
    "tracing::",
    ".await",
    "std::fs",
    "std::env",
    "std::thread",
    "println!",
];

/// Lines of a file, tests aside.
const LINES_MAX: usize = 500;

/// Characters of a line of code.
const LINE_CHARS_MAX: usize = 100;

/// What says where somebody worked, or where they got their packages. Split, so that this
/// file does not mention them.
const OF_A_MACHINE: &[&str] = &[
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("/wo", "rk/"),
    concat!("../sha", "red"),
    concat!("index", "-url"),
    concat!("INDEX", "_URL"),
    concat!("replace", "-with"),
];

/// The only place that Cargo.lock may name.
const REGISTRY: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";

/// One thing that is not as it should be.
type Fault = String;

fn fault(path: &str, line: usize, what: impl std::fmt::Display) -> Fault {
    format!("{path}:{line}: {what}")
}

/// The module of a file under `src/`, and whether `super` is the crate itself there.
fn module_of(path: &str) -> Option<(&str, bool)> {
    let rest = path.strip_prefix("src/")?;
    match rest.split_once('/') {
        Some((module, file)) => Some((module, file == "mod.rs")),
        None => Some((rest.strip_suffix(".rs")?, true)),
    }
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// The text before `#[cfg(test)]`; nothing of a file that is all tests.
fn without_tests<'t>(path: &str, text: &'t str) -> &'t str {
    if is_test_file(path) {
        return "";
    }
    text.find("\n#[cfg(test)]").map_or(text, |at| &text[..=at])
}

/// `text` with comments and the insides of literals blanked; lines stay where they are.
fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let literal = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if let Some(hashes) = raw_string(rest, &out) {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = hashes + 2;
            rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len())
        } else if first == '"' {
            end_of_quoted(rest, '"')
        } else if first == '\'' && is_char_literal(rest) {
            end_of_quoted(rest, '\'')
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        let (taken, left) = rest.split_at(literal);
        out.extend(taken.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = left;
    }
    out
}

/// The number of `#` of a raw string that begins here.
fn raw_string(rest: &str, before: &str) -> Option<usize> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let opened = rest.strip_prefix('r')?;
    let hashes = opened.len() - opened.trim_start_matches('#').len();
    // `br"…"` too; the `b` is out already.
    let alone = !before.trim_end_matches('b').ends_with(word);
    (alone && opened[hashes..].starts_with('"')).then_some(hashes)
}

fn is_char_literal(rest: &str) -> bool {
    let mut chars = rest.chars().skip(1);
    matches!((chars.next(), chars.next()), (Some('\\'), _) | (Some(_), Some('\'')))
}

fn end_of_quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// What `code` names of the crate called `root`: line and path, and `None` for a list that
/// holds another list.
fn named<'c>(code: &'c str, root: &str) -> Vec<(usize, Option<String>)> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let line_of = |at: usize| code[..at].matches('\n').count() + 1;
    let mut found = Vec::new();
    for (at, _) in code.match_indices(&format!("{root}::")) {
        if code[..at].ends_with(|c| word(c) || c == ':') {
            continue;
        }
        let rest: &'c str = &code[at + root.len() + 2..];
        let path = &rest[..rest.find(|c| !word(c) && c != ':').unwrap_or(rest.len())];
        let Some(list) = rest[path.len()..].strip_prefix('{') else {
            found.push((line_of(at), Some(path.to_owned())));
            continue;
        };
        let list = &list[..list.find('}').unwrap_or(list.len())];
        if path.is_empty() || list.contains('{') {
            found.push((line_of(at), None));
            continue;
        }
        for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let item = item.split(' ').next().unwrap_or_default();
            let item = if item == "self" { "" } else { item };
            found.push((line_of(at), Some(format!("{path}{item}"))));
        }
    }
    found
}

/// Imports follow [`MAY_IMPORT`], one readable line each.
fn check_imports(path: &str, text: &str) -> Vec<Fault> {
    let Some((module, at_root)) = module_of(path) else { return Vec::new() };
    if module == "lib" {
        return Vec::new();
    }
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
        return vec![fault(path, 1, format!("{module} is not in the table of imports"))];
    };
    let code = code_only(without_tests(path, text));
    let mut faults = Vec::new();
    for (line, import) in named(&code, if module == "main" { "serin" } else { "crate" }) {
        let Some(import) = import else {
            faults.push(fault(path, line, "nested use: one module a line"));
            continue;
        };
        let within = |scope: &str| {
            let rest = import.strip_prefix(scope);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        if !within(module) && !allowed.iter().any(|scope| within(scope)) {
            let import = import.trim_end_matches(':');
            faults.push(fault(path, line, format!("{module} must not import {import}")));
        }
    }
    for (index, line) in code.lines().enumerate() {
        if line.contains("super::super") || (at_root && line.contains("super::")) {
            faults.push(fault(path, index + 1, "say crate::, not super::"));
        }
    }
    faults
}

/// Pure modules say none of [`IMPURE_WORDS`].
fn check_purity(path: &str, text: &str) -> Vec<Fault> {
    if !module_of(path).is_some_and(|(module, _)| PURE.contains(&module)) {
        return Vec::new();
    }
    let lines = without_tests(path, text).lines().enumerate();
    let mut faults = Vec::new();
    for (index, line) in lines {
        let words = IMPURE_WORDS.iter().filter(|word| line.contains(**word));
        faults.extend(words.map(|word| fault(path, index + 1, format!("pure module says {word}"))));
    }
    faults
}

/// A file says what it is for, is not too long, and has its tests at the end.
fn check_shape(path: &str, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !is_test_file(path) && !text.starts_with("//! ") {
        faults.push(fault(path, 1, "no module doc: what is it for, and what does it never do?"));
    }
    let code = without_tests(path, text);
    let lines = code.lines().count();
    if lines > LINES_MAX {
        faults.push(fault(path, lines, format!("{lines} lines, {LINES_MAX} are enough")));
    }
    let tests = &text[code.len()..];
    let ends = |end: &str| tests.trim_start_matches("#[cfg(test)]\n").starts_with(end);
    if !is_test_file(path) && !tests.is_empty() {
        let last = tests.trim_end().lines().last().unwrap_or_default();
        let bare = code_only(tests);
        let items = bare.lines().skip(2).filter(|line| line.starts_with(char::is_alphabetic));
        let mod_tests = (ends("mod tests {") && last == "}") || ends("mod tests;");
        if !mod_tests || items.count() > 0 {
            faults.push(fault(path, lines + 1, "#[cfg(test)] is for `mod tests`, at the end"));
        }
    }
    // A literal may be as long as what it says.
    let bare = code_only(code);
    for (index, (line, bare)) in code.lines().zip(bare.lines()).enumerate() {
        let comment = line.trim_start().starts_with("//");
        let counted = if comment { line } else { bare.trim_end_matches([';', ',', ')', ' ']) };
        if counted.chars().count() > LINE_CHARS_MAX {
            faults.push(fault(path, index + 1, format!("over {LINE_CHARS_MAX} characters")));
        }
    }
    faults
}

/// The crate's root is a map and nothing else.
fn check_map(path: &str, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let module = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';'));
        match module {
            Some(name) if !MAY_IMPORT.iter().any(|(module, _)| *module == name) => {
                let what = format!("{name} is not in the table of imports");
                faults.push(fault(path, index + 1, what));
            }
            Some(_) => {}
            None if line.is_empty() || line.starts_with("//!") => {}
            None => faults.push(fault(path, index + 1, "more than a map")),
        }
    }
    faults
}

/// Nothing of a machine, and no packages from anywhere else.
fn check_mentions(path: &str, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words = OF_A_MACHINE.iter().filter(|word| line.contains(**word));
        faults.extend(words.map(|word| fault(path, index + 1, format!("mentions {word}"))));
        if path.ends_with("Cargo.lock") && line.starts_with("source = ") && line != REGISTRY {
            faults.push(fault(path, index + 1, "a package from elsewhere than crates.io"));
        }
    }
    faults
}

/// A relative link leads somewhere. `exists` is asked about paths from the root.
fn check_links(path: &str, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    for (index, line) in text.lines().enumerate() {
        for (at, _) in line.match_indices("](") {
            let link = line[at + 2..].split(')').next().unwrap_or_default();
            let file = link.split('#').next().unwrap_or_default();
            let elsewhere = file.contains("://") || file.is_empty();
            if !elsewhere && !exists(&folder.join(file)) {
                faults.push(fault(path, index + 1, format!("{file} is not there")));
            }
        }
    }
    faults
}

/// Every recipe that a runner calls is in the justfile.
fn check_recipes(path: &str, text: &str, justfile: &str) -> Vec<Fault> {
    let defined = |name: &str| {
        justfile.lines().any(|line| {
            let head = line.split_once(':').map(|(head, _)| head).unwrap_or_default();
            head.split(' ').next() == Some(name)
        })
    };
    let mut faults = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim().trim_start_matches("- ").trim_start_matches("run: ");
        let Some(name) = line.strip_prefix("just ").and_then(|rest| rest.split(' ').next()) else {
            continue;
        };
        if !name.starts_with('-') && !defined(name) {
            faults.push(fault(path, index + 1, format!("the justfile has no recipe {name}")));
        }
    }
    faults
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file of the project, by its path from the root.
fn files() -> Vec<(String, String)> {
    const NOT_OURS: &[&str] = &["target", ".git", ".venv", "__pycache__", "corpus"];
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            let path = folder.join(&name);
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && !NOT_OURS.iter().any(|not| name == *not) {
                folders.push(path);
            } else if kind.is_file()
                && name != ".git" // A worktree's is a file.
                && let Ok(text) = fs::read_to_string(entry.path())
            {
                found.push((path.to_str().unwrap().to_owned(), text));
            }
        }
    }
    found.sort();
    found
}

/// Applies `rule` to every file that `of` takes, and there must be some.
fn hold(of: impl Fn(&str) -> bool, rule: impl Fn(&str, &str) -> Vec<Fault>) {
    let files: Vec<_> = files().into_iter().filter(|(path, _)| of(path)).collect();
    assert!(!files.is_empty(), "the rule holds for nothing");
    let faults: Vec<_> = files.iter().flat_map(|(path, text)| rule(path, text)).collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

fn is_source(path: &str) -> bool {
    has_extension(path, "rs") && (path.starts_with("src/") || path.contains("/src/"))
}

#[test]
fn modules_import_only_what_the_table_allows() {
    hold(|path| path.starts_with("src/") && is_source(path), check_imports);
}

#[test]
fn pure_modules_let_nothing_of_the_world_in() {
    hold(is_source, check_purity);
}

#[test]
fn files_have_a_doc_and_a_bound_and_tests_at_the_end() {
    hold(is_source, check_shape);
}

#[test]
fn the_root_is_a_map() {
    hold(|path| path == "src/lib.rs", check_map);
}

#[test]
fn no_file_mentions_a_machine() {
    hold(|_| true, check_mentions);
}

#[test]
fn links_lead_somewhere() {
    hold(
        |path| has_extension(path, "md"),
        |path, text| check_links(path, text, |link| root().join(link).exists()),
    );
}

#[test]
fn every_line_of_the_log_is_an_event_of_the_table() {
    let (mut logged, mut faults) = (events::Events::new(), Vec::new());
    for (path, text) in files().into_iter().filter(|(path, _)| is_source(path)) {
        if path.starts_with("src/")
            && let Err(line) = events::logged(without_tests(&path, &text), &mut logged)
        {
            faults.push(fault(&path, line, "a line of the log without `event = \"…\"`"));
        }
    }
    let table = fs::read_to_string(root().join("docs/logs.md")).unwrap();
    faults.extend(events::differences(&logged, &events::documented(&table)));
    assert!(faults.is_empty(), "keep docs/logs.md and the code together:\n{}", faults.join("\n"));
}

#[test]
fn runners_call_recipes_that_exist() {
    let justfile = fs::read_to_string(root().join("justfile")).unwrap();
    let runs = |path: &str| path == ".ci/run" || path.starts_with(".github/workflows/");
    hold(runs, |path, text| check_recipes(path, text, &justfile));
}
