//! What commands print for scripts is as `serin schema` says, to the last property; and what they
//! say when they cannot.

use std::path::{Path, PathBuf};

use serde_json::Value;
use serin_testkit::{Backend, Program, Proxy, Request, arg, eventually};

const SERIN: &str = env!("CARGO_BIN_EXE_serin");
const PATH: &str = "/v2/models/sentiment/infer";

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What a command with these arguments prints, which ends with `code`.
async fn json(args: &[&str], code: i32) -> Value {
    let output = Program::output(SERIN, args).await.expect(code);
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

/// Where `value` is not as `schema` has it. Stricter than JSON Schema: a property that no
/// schema names is a fault.
fn faults(value: &Value, schema: &Value, root: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let target = root.pointer(&name[1..]).unwrap_or_else(|| panic!("no {name}"));
        return faults(value, &with_siblings(target, schema), root, at, found);
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(schemas) = schema[key].as_array() {
            let merged = |one: &Value| with_siblings(one, schema);
            let fits = |one: &Value| {
                let mut wrong = Vec::new();
                faults(value, &merged(one), root, at, &mut wrong);
                wrong
            };
            let all: Vec<_> = schemas.iter().map(fits).collect();
            if !all.iter().any(Vec::is_empty) {
                found.push(format!("{at}: none of {key}: {all:?}"));
            }
            return;
        }
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is = |wanted: &Value| wanted == kind || wanted == "number" && kind == "integer";
    let fits = match &schema["type"] {
        Value::Null => true,
        Value::Array(kinds) => kinds.iter().any(is),
        wanted => is(wanted),
    };
    let in_enum = schema["enum"].as_array().is_none_or(|all| all.contains(value));
    let in_const = schema["const"].is_null() || schema["const"] == *value;
    if !fits || !in_enum || !in_const {
        found.push(format!("{at}: {value} is not {schema}"));
        return;
    }
    if let (Value::Array(items), Value::Object(_)) = (value, &schema["items"]) {
        for (index, item) in items.iter().enumerate() {
            faults(item, &schema["items"], root, &format!("{at}/{index}"), found);
        }
    }
    let Value::Object(map) = value else { return };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !map.contains_key(name) {
            found.push(format!("{at}: no {name}"));
        }
    }
    for (name, value) in map {
        match schema["properties"].get(name) {
            Some(schema) => faults(value, schema, root, &format!("{at}/{name}"), found),
            None => found.push(format!("{at}: {name} is told nowhere")),
        }
    }
}

/// One of several schemas, or one that is named, with what stands beside them.
fn with_siblings(one: &Value, schema: &Value) -> Value {
    let mut merged = one.clone();
    for part in ["properties", "required"] {
        match (&mut merged[part], &schema[part]) {
            (Value::Object(own), Value::Object(more)) => {
                own.extend(more.iter().map(|(name, value)| (name.clone(), value.clone())));
            }
            (Value::Array(own), Value::Array(more)) => own.extend(more.iter().cloned()),
            (own @ Value::Null, more) if !more.is_null() => *own = more.clone(),
            _ => {}
        }
    }
    if let Value::Object(map) = &mut merged {
        map.retain(|_, value| !value.is_null());
    }
    merged
}

async fn check(of: &str, value: &Value) {
    let schema = json(&["schema", "--of", of], 0).await;
    let mut found = Vec::new();
    faults(value, &schema, &schema, "", &mut found);
    assert!(found.is_empty(), "{of}:\n{}\n{value:#}", found.join("\n"));
}

/// A proxy whose canary was taken out, with a journal.
async fn rolled_back() -> (Proxy, [Backend; 2]) {
    let backends = [Backend::named("v1").start(), Backend::named("v2").answers(500).start()];
    let collector = Backend::named("collector").start();
    let tracing = format!("tracing: {{ otlp: 'http://{}' }}", collector.address);
    let [v1, v2] = &backends;
    let proxy = Proxy::with_config("canary.yaml").backends([v1, v2]).remembering();
    let proxy = proxy.with(&tracing).start();
    let mut client = proxy.client();
    eventually("the rollback", async || {
        for _ in 0..20 {
            client.send(&Request::get(PATH)).await;
        }
        let all: Value =
            serde_json::from_str(&proxy.admin("/api/rollouts").await.expect(200).text()).unwrap();
        (all["rollouts"][0]["state"] == "rolled_back").then_some(())
    })
    .await;
    (proxy, backends)
}

#[tokio::test]
async fn what_is_printed_for_scripts_is_as_its_schema_says() {
    let (proxy, _backends) = rolled_back().await;
    let admin = proxy.admin_address().to_string();
    let ask =
        async |args: &[&str]| json(&[args, &["-o", "json", "--admin", &admin]].concat(), 0).await;
    check("status", &ask(&["status"]).await).await;
    let rollout = ask(&["status", "sentiment-v2"]).await;
    assert_eq!(rollout["state"], "rolled_back");
    check("rollout", &rollout).await;
    let why = ask(&["why", "sentiment-v2"]).await;
    let failing = why["changes"].as_array().unwrap().iter().find(|one| !one["failing"].is_null());
    assert!(failing.unwrap()["failing"][0]["trace_id"].is_string(), "{why:#}");
    check("why", &why).await;
    check("explain", &ask(&["explain", PATH]).await).await;
    check("rollout", &ask(&["reset", "sentiment-v2"]).await).await;
    let why = ask(&["why", "sentiment-v2"]).await;
    assert!(why["changes"].as_array().unwrap().iter().any(|one| one["kind"] == "told"), "{why:#}");
    check("why", &why).await;
    let refused = json(&["explain", "-o", "json", "--admin", &admin, "/nowhere"], 1).await;
    check("explain", &refused).await;

    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.yaml");
    std::fs::write(&bad, "listeners: [{ nam: x }]\nrollouts: 3\n").unwrap();
    let defects = json(&["check", "-o", "json", arg(&bad)], 1).await;
    assert!(defects.as_array().unwrap().len() > 2, "{defects}");
    check("check", &defects).await;
    let traces = here("tests/judge-golden/traces.csv");
    check("replay", &json(&["replay", "-o", "json", "--counts", arg(&traces)], 0).await).await;
}

#[tokio::test]
async fn a_replay_of_a_journal_is_as_its_schema_says() {
    let (mut proxy, _backends) = rolled_back().await;
    let folder = proxy.config().folder().to_owned();
    let policy = proxy.config().path().to_owned();
    proxy.stop();
    let journals = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut journals = journals.filter(|path| path.to_string_lossy().contains("journal"));
    let journal = journals.next().expect("a journal");
    let again = json(&["replay", "-o", "json", arg(&journal)], 0).await;
    assert!(again.as_array().unwrap().iter().any(|one| one["recorded"]["state"] == "rolled_back"));
    check("replay", &again).await;
    let other = json(&["replay", "-o", "json", arg(&journal), "-c", arg(&policy)], 0).await;
    assert!(other[0]["recorded"]["reason"].is_string(), "{other:#}");
    check("replay", &other).await;
}

#[tokio::test]
async fn what_is_not_as_a_schema_says_is_found() {
    let schema = json(&["schema", "--of", "check"], 0).await;
    let wrong = |text: &str| {
        let mut found = Vec::new();
        faults(&serde_json::from_str(text).unwrap(), &schema, &schema, "", &mut found);
        found.len()
    };
    let whole = r#"{"file":"a","line":1,"column":1,"code":"x","severity":"error","message":"m","help":"h"}"#;
    assert_eq!(wrong(&format!("[{whole}]")), 0);
    assert_eq!(wrong(whole), 1, "a list is wanted");
    assert_eq!(wrong(&format!("[{}]", whole.replace("\"line\":1", "\"line\":\"1\""))), 1);
    assert_eq!(wrong(&format!("[{}]", whole.replace("help", "hlep"))), 2);
}

#[test]
fn whoever_reads_may_have_seen_enough() {
    let bad = here("tests/bad-configs/quantities.yaml");
    let golden = here("tests/judge-golden/traces.csv");
    let canary = here("config/canary.yaml");
    let pages = tempfile::tempdir().unwrap();
    for args in [
        &["schema"][..],
        &["schema", "--of", "why"],
        &["completions", "zsh"],
        &["man"],
        &["man", "--out", arg(pages.path())],
        &["explain", "-c", arg(&canary), "/v2/models/sentiment/infer"],
        &["check", "-o", "json", arg(&bad)],
        &["check", arg(&bad)],
        &["replay", "--counts", arg(&golden)],
        &["replay", "-o", "json", "--counts", arg(&golden)],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = std::process::Command::new(SERIN).args(args).stdout(writer).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.is_empty(), "{args:?}: {said}");
        assert_eq!(output.status.code(), Some(0), "{args:?}");
    }
    assert!(pages.path().join("serin.1").is_file(), "what is written to files is written whole");
}

#[tokio::test]
async fn a_client_with_a_certificate_is_explained_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("serin.yaml");
    let config = "
listeners: [{ name: http, address: '127.0.0.1:8080' }]
backends: [{ name: batch, endpoints: ['127.0.0.1:9001'] }, { name: all, endpoints: ['127.0.0.1:9002'] }]
routes:
  - name: r
    rules:
      - { name: batch, matches: [{ path: /, client: { spiffe: 'spiffe://example.org/batch' } }], backends: [{ name: batch }] }
      - { name: ada, matches: [{ path: /, client: { subject: 'CN=ada' } }], backends: [{ name: batch }] }
      - { name: all, backends: [{ name: all }] }
";
    std::fs::write(&file, config).unwrap();
    for (client, rule) in [
        (None, "r/all"),
        (Some("spiffe://example.org/batch"), "r/batch"),
        (Some("CN=ada"), "r/ada"),
        (Some("CN=bob"), "r/all"),
    ] {
        let more = client.map(|client| ["--client", client]);
        let args = ["explain", "-c", arg(&file), "-o", "json", "/x"];
        let told =
            json(&[&args[..], more.as_ref().map_or(&[], |more| &more[..])].concat(), 0).await;
        assert_eq!(told["rule"], rule, "{client:?}");
    }
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let (proxy, backends) = rolled_back().await;
    let admin = proxy.admin_address().to_string();
    let other = backends[0].address.to_string();
    let folder = tempfile::tempdir().unwrap();
    let typo = folder.path().join("typo.yaml");
    let good = std::fs::read_to_string(here("config/canary.yaml")).unwrap();
    std::fs::write(&typo, good.replacen("objectives:", "objektives:", 1)).unwrap();
    let token = folder.path().join("no-token");
    let mut told = String::new();
    for args in [
        &["status", "--admin", "127.0.0.1:1"][..],
        &["status", "--admin", "localhost:nine"],
        &["status", "--admin", &other],
        &["status", "no-such", "--admin", &admin],
        &["why", "no-such", "--admin", &admin],
        &["promote", "sentiment-v2", "--admin", &admin],
        &["pause", "", "--admin", &admin],
        &["status", "-c", "no-such.yaml"],
        &["status", "--token-file", arg(&token), "--admin", &admin],
        &["run", "-c", "no-such.yaml"],
        &["run", "-c", arg(&typo)],
        &["check", "no-such.yaml"],
        &["explain", "-c", "no-such.yaml", "/x"],
        &["explain", "-H", "no colon", "/x"],
        &["explain", "ftp://x"],
        &["replay", "no-such.journal"],
        &["replay"],
        &["healthcheck", "--admin", "127.0.0.1:1"],
        &["schema", "--of", "nothing"],
        &["stauts"],
        &["status", "--wacth"],
    ] {
        let output = Program::output(SERIN, args).await;
        let text = format!(
            "$ serin {}\n{}{}exit {}\n\n",
            args.join(" "),
            output.stdout,
            output.stderr,
            output.code.expect("an exit code")
        );
        let text = text.replace(&admin, "ADMIN").replace(&other, "OTHER");
        let text = text.replace(folder.path().to_str().unwrap(), "FOLDER");
        assert_ne!(output.code, Some(0), "{text}");
        told.push_str(&text);
    }
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("errors", told);
    });
}
