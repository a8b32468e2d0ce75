//! The docs: every page has its place in the book, links and their anchors lead somewhere,
//! and every whole config that stands in them loads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use clap::Parser;
use serin::cli::arguments::Arguments;
use serin::config::load::{Options, Source};

use crate::in_project;

/// What is written for readers outside of `docs/`.
const OTHER_PAGES: [&str; 3] = ["README.md", "ARCHITECTURE.md", "k8s/README.md"];

/// The Markdown files under `docs/` by their paths from the project's root.
fn pages() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(in_project(folder.to_str().unwrap())).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                found.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// A page in pieces.
#[derive(Default)]
pub struct Page {
    /// (line, target) of each link.
    links: Vec<(usize, String)>,
    /// What can stand after `#`.
    anchors: BTreeSet<String>,
    /// (line, language, text) of each fenced block.
    pub blocks: Vec<(usize, String, String)>,
}

fn page(text: &str) -> Page {
    let mut page = Page::default();
    let mut block: Option<(usize, String, String)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            match block.take() {
                Some(whole) => page.blocks.push(whole),
                None => block = Some((number, language.to_owned(), String::new())),
            }
        } else if let Some((_, _, text)) = &mut block {
            text.push_str(line);
            text.push('\n');
        } else {
            let line = without_code(line);
            for (at, _) in line.match_indices("](") {
                let target = line[at + 2..].split(')').next().unwrap_or_default();
                page.links.push((number, target.to_owned()));
            }
            if line.starts_with('#') {
                let anchor = anchor(text.lines().nth(number - 1).unwrap_or_default());
                let again = (1..).map(|count| format!("{anchor}-{count}"));
                let mut names = std::iter::once(anchor.clone()).chain(again);
                let free = names.find(|name| !page.anchors.contains(name));
                page.anchors.extend(free);
            }
        }
    }
    assert!(block.is_none(), "a block without an end");
    page
}

/// What is left of a line when `code` is taken out.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// The anchor of a heading, as forges and mdBook make it.
pub fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = |c: char| c.is_alphanumeric() || "-_ ".contains(c);
    text.chars().filter(|c| kept(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// `docs/a.md` and `../b.md` make `b.md`.
fn beside(path: &str, link: &str) -> String {
    let mut whole = PathBuf::new();
    for part in Path::new(path).parent().unwrap().join(link).components() {
        match part {
            Component::ParentDir => assert!(whole.pop(), "{link} leaves the project"),
            part => whole.push(part),
        }
    }
    whole.to_str().unwrap().to_owned()
}

/// Every link between `pages` that leads nowhere. `exists` is asked for what is no page.
fn dead_links(pages: &BTreeMap<String, Page>, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, page) in pages {
        for (line, link) in page.links.iter().filter(|(_, link)| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let file = if file.is_empty() { path.clone() } else { beside(path, file) };
            if !pages.contains_key(&file) && !exists(&file) {
                faults.push(format!("{path}:{line}: {file} is not there"));
            } else if let Some(page) = pages.get(&file)
                && !anchor.is_empty()
                && !page.anchors.contains(anchor)
            {
                faults.push(format!("{path}:{line}: {file} has no heading #{anchor}"));
            }
        }
    }
    faults
}

/// The config that stands in a block as a whole, or between `<<'EOF'` and `EOF`.
fn whole_config(language: &str, block: String) -> Option<String> {
    let text = match language {
        "yaml" => block,
        "sh" => {
            let (_, rest) = block.split_once("<<'EOF'\n")?;
            format!("{}\n", rest.split_once("\nEOF\n")?.0)
        }
        _ => return None,
    };
    text.contains("listeners:").then_some(text)
}

pub fn read() -> BTreeMap<String, Page> {
    let others = OTHER_PAGES.iter().map(|path| (*path).to_owned());
    let read = |path: String| {
        let text = fs::read_to_string(in_project(&path)).unwrap();
        (path, page(&text))
    };
    pages().into_iter().chain(others).map(read).collect()
}

#[test]
fn every_page_stands_in_the_book() {
    let summary = page(&fs::read_to_string(in_project("docs/SUMMARY.md")).unwrap());
    let listed: BTreeSet<_> =
        summary.links.iter().map(|(_, link)| format!("docs/{link}")).collect();
    assert_eq!(listed.len(), summary.links.len(), "a page stands in docs/SUMMARY.md twice");
    let pages: BTreeSet<_> =
        pages().into_iter().filter(|path| !path.ends_with("SUMMARY.md")).collect();
    assert!(pages.len() > 20, "{pages:?}");
    let missing: Vec<_> = pages.difference(&listed).collect();
    assert!(missing.is_empty(), "add to docs/SUMMARY.md: {missing:?}");
    let gone: Vec<_> = listed.difference(&pages).collect();
    assert!(gone.is_empty(), "take out of docs/SUMMARY.md: {gone:?}");
}

#[test]
fn links_and_their_anchors_lead_somewhere() {
    let faults = dead_links(&read(), |path| in_project(path).exists());
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn every_whole_config_in_the_docs_loads() {
    let mut count = 0;
    for (path, page) in read() {
        for (line, language, text) in page.blocks {
            let Some(text) = whole_config(&language, text) else {
                continue;
            };
            count += 1;
            let options = Options { touch_files: false, ..Options::CHECK };
            let source = Source::of(&format!("{path}:{line}"), text).unwrap();
            if let Err(defects) = source.load(options) {
                panic!("{path}:{line}: {defects}");
            }
        }
    }
    assert!(count >= 8, "only {count} whole configs are found in the docs");
}

/// The words of every call of `serin` in a line of a script or of a pipeline.
fn calls(line: &str) -> Vec<Vec<String>> {
    let pieces = line.split(['|', '&', ';', '\'', '(', ')']).map(str::trim);
    let bare = |piece: &str| {
        let mut piece = piece.to_owned();
        for word in ["- ", "run: ", "script: ", "until ", "$ "] {
            piece = piece.strip_prefix(word).unwrap_or(&piece).to_owned();
        }
        piece
    };
    let calls = pieces.map(bare).filter(|piece| piece.starts_with("serin "));
    calls
        .map(|call| {
            let words = call.split_whitespace();
            // What follows is for the shell.
            let ours = words.take_while(|word| !word.contains(['>', '<', '#', '`', '\\']));
            ours.map(|word| word.trim_matches('"').to_owned()).collect()
        })
        .collect()
}

#[test]
fn every_command_in_the_docs_is_understood() {
    let (mut count, mut faults) = (0, Vec::new());
    for (path, page) in read() {
        for (first, language, text) in page.blocks {
            if !["sh", "yaml", "groovy"].contains(&language.as_str()) {
                continue;
            }
            for (line, call) in (first + 1..).zip(text.lines().map(calls)) {
                for words in call {
                    count += 1;
                    if let Err(error) = Arguments::try_parse_from(&words)
                        && error.use_stderr()
                    {
                        faults.push(format!("{path}:{line}: {words:?}\n{error}"));
                    }
                }
            }
        }
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
    assert!(count > 30, "only {count} commands are found in the docs");
}

#[test]
fn commands_are_found_where_they_stand() {
    for (line, found) in [
        ("serin check a.yaml && serin run -c a.yaml", "serin check a.yaml; serin run -c a.yaml"),
        ("until serin healthcheck 2> /dev/null; do sleep 1; done", "serin healthcheck"),
        ("kubectl kustomize . | serin check --no-files -", "serin check --no-files -"),
        ("      - run: serin check -o github a.yaml", "serin check -o github a.yaml"),
        ("    steps { sh 'serin check a.yaml' }", "serin check a.yaml"),
        ("docker build -t serin .", ""),
        ("cargo build --bin serin", ""),
    ] {
        let calls: Vec<_> = calls(line).iter().map(|words| words.join(" ")).collect();
        assert_eq!(calls.join("; "), found, "{line}");
    }
}

#[test]
fn a_dead_link_and_a_wrong_anchor_are_found() {
    let text = "# A `b`: c\n\n## Same\n## Same\n[x](#a-b-c) [y](#same-1) [z](#gone) `[q](q.md)`\n\
                ```\n[in](code.md)\n```\n[up](../top.md) [on](https://example.com/#x)\n";
    let pages = BTreeMap::from([("docs/a.md".to_owned(), page(text))]);
    assert_eq!(
        dead_links(&pages, |_| false),
        ["docs/a.md:5: docs/a.md has no heading #gone", "docs/a.md:9: top.md is not there"]
    );
    assert_eq!(dead_links(&pages, |path| path == "top.md").len(), 1);
}
