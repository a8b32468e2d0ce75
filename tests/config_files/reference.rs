//! Pages that are made of the code: each is compared with what it should be now, and written
//! anew when `UPDATE_DOCS=1` is set.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::fs;

use serde_json::{Value, json};
use serin::config::defect::Code;
use serin::telemetry::counts::RetryRefused;
use serin::telemetry::listeners::{Handshake, Turned};
use serin::telemetry::reasons::{FailureReason, Limited};
use serin::traffic::outcome::Outcome;

use crate::in_project;

/// Fails if the page is not `text`, or makes it so.
fn fresh(path: &str, text: &str) {
    let file = in_project(path);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, text).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    let mut lines = (1..).zip(found.lines().zip(text.lines()));
    let other = lines.find(|(_, (is, should))| is != should);
    assert!(
        found == text,
        "{path} is out of date: UPDATE_DOCS=1 cargo nextest run --test config_files reference\n{other:?}"
    );
}

/// What may stand in a cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[test]
fn codes() {
    let mut page = "# Codes of defects\n\n<!-- Made of src/config/defect.rs by a test. -->\n\n\
        A code names a class of defects and never changes its meaning. `serin check` prints it with the line, \
        a message and\nwhat to do; this page says the last in general. How codes are grouped is in\n\
        [configuration.md](../configuration.md#codes).\n\n\
        | code | | what | what to do |\n|---|---|---|---|\n"
        .to_owned();
    for code in Code::ALL {
        let (name, severity) = (code.as_str(), code.severity().as_str());
        let (title, remedy) = (cell(code.title()), cell(code.remedy()));
        writeln!(page, "| `{name}` | {severity} | {title} | {remedy} |").unwrap();
    }
    fresh("docs/reference/codes.md", &page);
}

/// One family of the exposition.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    /// Label names in their order, each with the values that it has in the sample.
    labels: Vec<(String, Vec<String>)>,
}

/// The families of an exposition, in its order.
fn families(text: &str) -> Vec<(String, Family)> {
    let mut found: Vec<(String, Family)> = Vec::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            found.push((name.to_owned(), Family { help: help.to_owned(), ..Family::default() }));
        } else if let Some((_, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
        {
            kind.clone_into(&mut found.last_mut().unwrap().1.kind);
        } else if let Some((_, rest)) = line.split_once('{')
            && let Some((labels, _)) = rest.rsplit_once('}')
            && let Some((_, family)) = found.last_mut()
        {
            for pair in labels.trim_end_matches('"').split("\",") {
                let (label, value) = pair.split_once("=\"").unwrap();
                let at = family.labels.iter().position(|(name, _)| name == label);
                let at = at.unwrap_or_else(|| {
                    family.labels.push((label.to_owned(), Vec::new()));
                    family.labels.len() - 1
                });
                if !family.labels[at].1.iter().any(|seen| seen == value) {
                    family.labels[at].1.push(value.to_owned());
                }
            }
        }
    }
    found
}

/// Every value of a label that has a fixed set of them.
fn values(family: &str, label: &str, seen: &[String]) -> Vec<String> {
    let all: Vec<&str> = match (family, label) {
        ("serin_failures_total", "reason") => {
            FailureReason::ALL.map(FailureReason::as_str).to_vec()
        }
        ("serin_retries_refused_total", "reason") => {
            RetryRefused::ALL.map(RetryRefused::as_str).to_vec()
        }
        ("serin_requests_limited_total", "reason") => Limited::ALL.map(Limited::as_str).to_vec(),
        ("serin_connections_refused_total", "reason") => Turned::ALL.map(Turned::as_str).to_vec(),
        ("serin_tls_handshakes_total", "result") => Handshake::ALL.map(Handshake::as_str).to_vec(),
        (_, "outcome") => {
            [Outcome::Good, Outcome::Bad, Outcome::Neutral].map(Outcome::as_str).to_vec()
        }
        (_, "result" | "state" | "kind") => seen.iter().map(String::as_str).collect(),
        _ => Vec::new(),
    };
    all.into_iter().map(str::to_owned).collect()
}

#[test]
fn metrics() {
    // Reviewed, and compared with what is served, by the test of telemetry that it belongs to.
    let sample = in_project("src/telemetry/metrics/snapshots/exposition.snap");
    let families = families(&fs::read_to_string(sample).unwrap());
    assert!(families.len() > 40, "{}", families.len());
    let mut page = "# Metrics\n\n<!-- Made of the exposition by a test. -->\n\n\
        At `/metrics`, on the admin port and on the metrics port, in Prometheus' text format, or as OpenMetrics \
        with exemplars\nfor who asks for that ([traces](../operating.md#traces)). Names and labels are API.\nHow many series there are is bounded by the config: labels are names that stand in it, or words \
        of a fixed set. A series\nthat has counted nothing may be absent. What to watch is in \
        [operating.md](../operating.md#what-to-watch).\n\n\
        | name | type | labels | what |\n|---|---|---|---|\n"
        .to_owned();
    for (name, family) in &families {
        let mut labels = Vec::new();
        for (label, seen) in family.labels.iter().filter(|(label, _)| label != "le") {
            let values = values(name, label, seen);
            let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
            let values =
                if values.is_empty() { String::new() } else { format!(": {}", values.join(" ")) };
            labels.push(format!("`{label}`{values}"));
        }
        let (kind, labels, help) = (&family.kind, labels.join("; "), cell(&family.help));
        writeln!(page, "| `{name}` | {kind} | {labels} | {help} |").unwrap();
    }
    let bounds =
        families.iter().flat_map(|(_, family)| &family.labels).find(|(label, _)| label == "le");
    let bounds = bounds.unwrap().1.join(", ");
    writeln!(page, "\nBuckets of histograms end at these seconds: {bounds}.").unwrap();
    fresh("docs/reference/metrics.md", &page);
}

/// What a value is, in words. `at` has the section of each map.
fn kind(value: &Value, at: &BTreeMap<String, String>) -> String {
    if let Some(map) = value["$ref"].as_str() {
        let path = &at[map.rsplit('/').next().unwrap()];
        return format!("map [`{path}`](#{})", super::docs::anchor(path));
    }
    if let Some(choices) = value["enum"].as_array() {
        let choices: Vec<_> = choices.iter().map(|choice| format!("`{}`", plain(choice))).collect();
        return choices.join(", ");
    }
    if let Some(kinds) = value["anyOf"].as_array().or_else(|| value["oneOf"].as_array()) {
        return kinds.iter().map(|value| kind(value, at)).collect::<Vec<_>>().join(" or ");
    }
    let range = match (&value["minimum"], &value["maximum"]) {
        (Value::Null, _) => String::new(),
        (min, Value::Null) => format!(", from {min}"),
        (min, max) => format!(", {min} to {max}"),
    };
    match value["type"].as_str().unwrap_or_default() {
        "array" => format!("list of {}", kind(&value["items"], at)),
        "boolean" => "flag".to_owned(),
        "object" => "map".to_owned(),
        "integer" | "number" => format!("number{range}"),
        _ if value["const"] != Value::Null => format!("`{}`", plain(&value["const"])),
        _ => match &value["examples"][0] {
            Value::Null => "text".to_owned(),
            example => format!("text, such as `{}`", plain(example)),
        },
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The maps that a value may be, or be a list of, with what is added to its path.
fn maps<'a>(value: &'a Value, path: &str, found: &mut Vec<(&'a str, String)>) {
    if let Some(map) = value["$ref"].as_str() {
        found.push((map.rsplit('/').next().unwrap(), path.to_owned()));
    }
    for key in ["anyOf", "oneOf"] {
        for one in value[key].as_array().into_iter().flatten() {
            maps(one, path, found);
        }
    }
    if value["type"] == "array" {
        maps(&value["items"], &format!("{path}[]"), found);
    }
}

#[test]
fn config_keys() {
    let schema = serin::config::schema();
    let mut at = BTreeMap::new();
    let mut sections = Vec::new();
    let mut open = VecDeque::from([(String::new(), &schema)]);
    while let Some((path, map)) = open.pop_front() {
        let mut inner = Vec::new();
        for (key, value) in map["properties"].as_object().unwrap() {
            let whole = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            maps(value, &whole, &mut inner);
        }
        for (name, path) in inner {
            if !at.contains_key(name) {
                at.insert(name.to_owned(), path.clone());
                open.push_back((path, &schema["$defs"][name]));
            }
        }
        sections.push((path, map));
    }
    assert_eq!(at.len(), schema["$defs"].as_object().unwrap().len(), "a map that nothing has");
    let mut page = "# Keys of the config file\n\n<!-- Made of the JSON Schema by a test. -->\n\n\
        Every key, as `serin schema` has it. A map that stands in several places is told once. Units, and what \
        goes together,\nare in [configuration.md](../configuration.md); a file with every key in it is\n\
        [config/reference.yaml](../../config/reference.yaml).\n"
        .to_owned();
    sections.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (path, map) in sections {
        let heading = if path.is_empty() { "Top level" } else { &path };
        let what = map["description"].as_str().unwrap_or_default();
        writeln!(page, "\n## {heading}\n\n{what}\n").unwrap();
        page.push_str("| key | value | default | what |\n|---|---|---|---|\n");
        let required: Vec<_> = map["required"].as_array().into_iter().flatten().collect();
        for (key, value) in map["properties"].as_object().unwrap() {
            let default = match &value["default"] {
                _ if required.iter().any(|name| *name == key) => "required".to_owned(),
                Value::Null => String::new(),
                default => format!("`{}`", plain(default)),
            };
            let (kind, what) =
                (kind(value, &at), value["description"].as_str().unwrap_or_default());
            writeln!(page, "| `{key}` | {} | {default} | {} |", cell(&kind), cell(what)).unwrap();
        }
    }
    fresh("docs/reference/config.md", &page);
}

/// The shape of an answer's value, in words. `within` is where maps are told of.
fn shape(value: &Value) -> String {
    if let Some(map) = value["$ref"].as_str() {
        let name = map.rsplit('/').next().unwrap();
        return format!("[{name}](#{})", super::docs::anchor(name));
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(all) = value[key].as_array() {
            return all.iter().map(shape).collect::<Vec<_>>().join(" or ");
        }
    }
    if let Some(all) = value["enum"].as_array() {
        return all.iter().map(|one| format!("`{}`", plain(one))).collect::<Vec<_>>().join(", ");
    }
    if !value["const"].is_null() {
        return format!("`{}`", plain(&value["const"]));
    }
    let kinds = match &value["type"] {
        Value::Array(kinds) => kinds.clone(),
        kind => vec![kind.clone()],
    };
    let words = kinds.iter().map(|kind| match kind.as_str().unwrap_or_default() {
        "array" => format!("list of {}", shape(&value["items"])),
        "string" => "text".to_owned(),
        "integer" => "whole number".to_owned(),
        "boolean" => "flag".to_owned(),
        "object" => "map".to_owned(),
        other => other.to_owned(),
    });
    words.collect::<Vec<_>>().join(" or ")
}

/// The properties of `map`, and of what it may be, as a table.
fn properties(page: &mut String, map: &Value) {
    let table = |page: &mut String, map: &Value| {
        let Some(all) = map["properties"].as_object() else { return };
        let required: Vec<_> = map["required"].as_array().into_iter().flatten().collect();
        page.push_str("| property | value | what |\n|---|---|---|\n");
        for (name, value) in all {
            let may = if required.iter().any(|one| *one == name) { "" } else { "; may be absent" };
            let what = cell(value["description"].as_str().unwrap_or_default());
            let what = what.replace("`None`", "null");
            writeln!(page, "| `{name}` | {}{may} | {what} |", cell(&shape(value))).unwrap();
        }
        page.push('\n');
    };
    table(page, map);
    for one in map["oneOf"].as_array().into_iter().flatten() {
        let what = one["description"].as_str().unwrap_or_default();
        match (&one["const"], one["properties"]["kind"]["const"].as_str()) {
            (Value::String(word), _) => writeln!(page, "- `{word}`: {what}").unwrap(),
            (_, Some(kind)) => writeln!(page, "`kind` = `{kind}`: {what}\n").unwrap(),
            _ => writeln!(page, "- {}: {what}", cell(&shape(one))).unwrap(),
        }
        table(page, one);
        if let Some(name) = one["$ref"].as_str() {
            writeln!(page, "All of {} beside it.\n", shape(&json!({ "$ref": name }))).unwrap();
        }
    }
}

#[test]
fn answers() {
    use clap::ValueEnum;
    use serin::cli::schema::{Of, schema};
    let mut page = "# What `-o json` prints\n\n<!-- Made of the JSON Schemas by a test. -->\n\n\
        The same as the admin port answers. `serin schema --of WHAT` prints the JSON Schema; a test holds what \
        commands print against it. Within a\nmajor version properties may come, and none goes. Ratios and shares \
        are fractions, 0 to 1; times are RFC 3339.\n\n\
        | `--of` | printed by | is |\n|---|---|---|\n"
        .to_owned();
    let mut maps = BTreeMap::new();
    for of in Of::value_variants().iter().filter(|of| **of != Of::Config) {
        let mut whole = schema(*of);
        let value = of.to_possible_value().unwrap();
        if let Some(Value::Object(defs)) = whole.as_object_mut().unwrap().remove("$defs") {
            maps.extend(defs);
        }
        let mut is = shape(&whole);
        if whole["properties"].is_object() {
            let mut names = ["Status", "Rollout", "Why", "Explain"].into_iter();
            let name = names.find(|name| name.to_lowercase() == value.get_name());
            let name = name.expect("a heading for it");
            maps.insert(name.to_owned(), whole);
            is = format!("[{name}](#{})", name.to_lowercase());
        }
        let help = value.get_help().map(ToString::to_string).unwrap_or_default();
        writeln!(page, "| `{}` | {} | {} |", value.get_name(), cell(&help), cell(&is)).unwrap();
    }
    for (name, map) in &maps {
        let what = map["description"].as_str().unwrap_or_default();
        writeln!(page, "\n## {name}\n\n{what}\n").unwrap();
        properties(&mut page, map);
        page.truncate(page.trim_end().len());
        page.push('\n');
    }
    fresh("docs/reference/json.md", &page);
}
