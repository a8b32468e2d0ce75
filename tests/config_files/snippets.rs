//! What stands in fenced blocks of the docs, as far as a program can tell: data parses, scripts are
//! what a shell reads, and the steps for CI systems are run.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use granit_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};
use serin::config::defect::Code;
use serin::config::load::{Options, Source};

use super::docs;
use crate::in_project;

/// The documents of `text` as JSON has them; every scalar is a text, but for what is nothing.
fn yaml(text: &str) -> Result<Vec<Value>, String> {
    let mut documents = Vec::new();
    let mut open: Vec<(Value, Option<String>)> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| error.to_string())?;
        let value = match event {
            Event::MappingStart(..) => {
                open.push((Value::Object(Map::new()), None));
                continue;
            }
            Event::SequenceStart(..) => {
                open.push((Value::Array(Vec::new()), None));
                continue;
            }
            Event::Scalar(text, ScalarStyle::Plain, ..) if text == "~" => Value::Null,
            Event::Scalar(text, ..) => Value::String(text.into_owned()),
            Event::Alias(..) => Value::Null,
            Event::SequenceEnd | Event::MappingEnd => open.pop().ok_or("an end without a start")?.0,
            _ => continue,
        };
        match open.last_mut() {
            None => documents.push(value),
            Some((Value::Array(items), _)) => items.push(value),
            Some((Value::Object(map), key)) => match key.take() {
                None => {
                    let name = value.as_str().ok_or("a key that is no text")?;
                    *key = Some(name.to_owned());
                }
                Some(name) => {
                    if map.insert(name.clone(), value).is_some() {
                        return Err(format!("{name} twice before line {}", span.start.line()));
                    }
                }
            },
            Some(_) => return Err("neither a list nor a map".to_owned()),
        }
    }
    Ok(documents)
}

/// The blocks of `language` in all pages, with their places.
fn blocks(language: &str) -> Vec<(String, String)> {
    let pages = docs::read();
    let blocks = pages.into_iter().flat_map(|(path, page)| {
        page.blocks.into_iter().map(move |(line, of, text)| (format!("{path}:{line}"), of, text))
    });
    let fits = |of: &str| of == language || language == "sh" && of == "console";
    blocks.filter(|(_, of, _)| fits(of)).map(|(place, _, text)| (place, text)).collect()
}

#[test]
fn data_in_the_docs_parses() {
    let mut faults = Vec::new();
    let yamls = blocks("yaml");
    assert!(yamls.len() > 20, "only {} blocks of YAML are found", yamls.len());
    for (place, text) in yamls {
        match yaml(&text) {
            Err(error) => faults.push(format!("{place}: {error}")),
            // A line for an editor.
            Ok(documents) if documents.is_empty() && !text.starts_with('#') => {
                faults.push(format!("{place}: nothing"));
            }
            Ok(_) => {}
        }
    }
    let jsons = blocks("json");
    assert!(jsons.len() > 3, "only {} blocks of JSON are found", jsons.len());
    for (place, text) in jsons {
        // One value, or one a line.
        let whole = serde_json::from_str::<Value>(&text).map(|_| ());
        let each =
            || text.lines().try_for_each(|one| serde_json::from_str::<Value>(one).map(|_| ()));
        if let Err(error) = whole
            && each().is_err()
        {
            faults.push(format!("{place}: {error}"));
        }
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// What is wrong with a part of a config in itself: what it leaves out, and what it names that
/// stands elsewhere, is left to the reader.
fn wrong_in_a_part(place: &str, text: String) -> Vec<String> {
    let options = Options { touch_files: false, ..Options::CHECK };
    let Err(defects) = Source::of(place, text).and_then(|source| source.load(options)) else {
        return Vec::new();
    };
    let of_itself = |code: Code| {
        let class = code.as_str().get(..5).unwrap_or_default();
        code != Code::MissingKey && ["SRN00", "SRN01", "SRN02"].contains(&class)
    };
    let found = defects.list.iter().filter(|defect| of_itself(defect.code));
    found.map(|defect| format!("{place}: {}: {}", defect.code.as_str(), defect.message)).collect()
}

#[test]
fn parts_of_configs_have_keys_and_values_that_are_taken() {
    let schema = serin::config::schema();
    let keys = schema["properties"].as_object().unwrap();
    let (mut count, mut faults) = (0, Vec::new());
    for (place, text) in blocks("yaml") {
        let documents = yaml(&text).unwrap_or_default();
        let [Value::Object(map)] = &documents[..] else { continue };
        // A list of metrics is one of Kubernetes, for an autoscaler.
        let is_ours = map.get("metrics").is_none_or(Value::is_object);
        if is_ours && map.keys().all(|key| keys.contains_key(key)) {
            count += 1;
            faults.extend(wrong_in_a_part(&place, text));
        }
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
    assert!(count > 12, "only {count} parts of configs are found in the docs");
    let wrong = |text: &str| wrong_in_a_part("x", text.to_owned()).len();
    assert_eq!(wrong("tracing: { otlp: 'http://h:4318' }\n"), 0);
    assert_eq!(wrong("tracing: { otpl: 'http://h:4318' }\n"), 1);
    assert_eq!(wrong("tracing: { otlp: 'http://h:4318', sample: often }\n"), 1);
}

fn shell(script: &str, arguments: &[&str], folder: &Path) -> Output {
    let serin = Path::new(env!("CARGO_BIN_EXE_serin")).parent().unwrap();
    let path = format!("{}:{}", serin.display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("bash");
    shell.args(arguments).arg("-c").arg(script).current_dir(folder).env("PATH", path);
    shell.stdin(Stdio::null()).output().expect("bash")
}

#[test]
fn scripts_in_the_docs_are_what_a_shell_reads() {
    let (mut count, mut faults) = (0, Vec::new());
    for (place, text) in blocks("sh") {
        count += 1;
        let read = shell(&text, &["-n"], Path::new("/"));
        if !read.status.success() {
            faults.push(format!("{place}: {}", String::from_utf8_lossy(&read.stderr)));
        }
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
    assert!(count > 30, "only {count} scripts are found in the docs");
}

/// The step of each CI system as its file has it, under its heading in the how-to.
fn ci_steps() -> Vec<(&'static str, String)> {
    let text = fs::read_to_string(in_project("docs/how-to/gitops.md")).unwrap();
    let block = |heading: &str| {
        let section = text.split(&format!("\n## {heading}\n")).nth(1).expect(heading);
        let section = section.split("\n## ").next().unwrap();
        let block = section.split("```").nth(1).expect("a block");
        block.split_once('\n').unwrap().1.to_owned()
    };
    let file = |heading: &str| yaml(&block(heading)).unwrap().remove(0);
    let words = |value: &Value, path: &str| {
        let found = value.pointer(path).and_then(Value::as_str);
        found.unwrap_or_else(|| panic!("no {path} in {value}")).to_owned()
    };
    let github = file("GitHub Actions");
    assert_eq!(words(&github, "/on"), "pull_request");
    assert!(words(&github, "/jobs/serin/steps/0/uses").starts_with("actions/checkout@"));
    for system in [&github["jobs"]["serin"], &file("Azure Pipelines")] {
        assert!(words(system, "/container").contains("serin-ci"));
    }
    let jenkins = block("Jenkins");
    let (open, close) = (jenkins.matches('{').count(), jenkins.matches('}').count());
    assert_eq!(open, close, "braces of the Jenkinsfile");
    let step = jenkins.split("sh '").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
    vec![
        ("GitHub Actions", words(&github, "/jobs/serin/steps/1/run")),
        ("GitLab", words(&file("GitLab"), "/serin-check/script/0")),
        ("Jenkins", step.to_owned()),
        ("Azure Pipelines", words(&file("Azure Pipelines"), "/steps/0/script")),
    ]
}

#[test]
fn the_steps_for_ci_pass_a_good_config_and_stop_a_bad_one() {
    let folder = tempfile::tempdir().unwrap();
    // Warned of only: a rollout that a restart forgets.
    let warned = fs::read_to_string(in_project("config/canary.yaml")).unwrap();
    let good = format!("{warned}\nstate: {{ file: serin.json }}\n");
    let bad = good.replacen("weight:", "weihgt:", 1);
    for (system, step) in ci_steps() {
        for (text, code) in [(&good, 0), (&bad, 1), (&warned, 1)] {
            fs::write(folder.path().join("serin.yaml"), text).unwrap();
            let ran = shell(&step, &["-e"], folder.path());
            let said = String::from_utf8_lossy(&ran.stdout).into_owned()
                + &String::from_utf8_lossy(&ran.stderr);
            assert_eq!(ran.status.code(), Some(code), "{system}: {step}\n{said}");
            if system == "GitHub Actions" && code == 1 {
                assert!(said.contains("file=serin.yaml,line="), "{said}");
            }
        }
    }
}

/// Lines of scripts that check what lies in this project, and change nothing.
fn checks_of_this_project() -> Vec<(String, String)> {
    let lines = blocks("sh").into_iter().flat_map(|(place, text)| {
        text.lines().map(|line| (place.clone(), line.trim().to_owned())).collect::<Vec<_>>()
    });
    let is_here = |word: &str| word.contains('/') && in_project(word).exists();
    lines
        .filter(|(_, line)| line.contains("serin check") && line.split(' ').any(is_here))
        .filter(|(_, line)| line.starts_with("serin ") || line.starts_with("kubectl kustomize "))
        .collect()
}

#[test]
fn checks_of_what_lies_here_pass_as_the_docs_have_them() {
    let all = checks_of_this_project();
    assert!(all.iter().any(|(_, line)| line.contains("k8s/example")), "{all:?}");
    let has_kubectl = shell("command -v kubectl", &[], Path::new("/")).status.success();
    for (place, line) in all {
        if line.starts_with("kubectl") && !has_kubectl {
            eprintln!("SKIPPED {place}: there is no kubectl. `{line}` was NOT run.");
            continue;
        }
        let ran = shell(&format!("set -o pipefail; {line}"), &["-e"], &in_project("."));
        let said = String::from_utf8_lossy(&ran.stderr) + String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success(), "{place}: {line}\n{said}");
    }
}

#[test]
fn a_block_that_is_no_yaml_is_found() {
    assert!(yaml("a: [1\n").is_err());
    assert!(yaml("a: 1\na: 2\n").unwrap_err().contains("a twice"));
    let documents = yaml("a: { b: [x, 'y'] }\nc:\n---\nd\n").unwrap();
    assert_eq!(documents[0], serde_json::json!({ "a": { "b": ["x", "y"] }, "c": null }));
    assert_eq!(documents[1], "d");
}
