//! Every config file that the project ships loads, and every bad one says what is wrong.
//!
//! The bad files stand under `tests/bad-configs/`, what they lead to under `tests/snapshots/`.

#[path = "config_files/docs.rs"]
mod docs;
#[path = "config_files/reference.rs"]
mod reference;
#[path = "config_files/snippets.rs"]
mod snippets;

use std::collections::BTreeSet;
use std::fs;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serin::config::defect::{Code, Defect, Defects};
use serin::config::load::{Loaded, Options, Source, load};
use serin::config::{Config, render};
use serin::rollout::plan::{Deadline, SHARED_BREACH_DEFAULT};
use serin::tls::Version;
use serin::traffic::client::ClientMatch;
use serin::traffic::draw::StickyKey;
use serin::traffic::matching::{PathMatch, ValueMatch};
use serin_testkit::{Authority, Leaf, SecretFolder};

fn in_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The YAML files of a folder and its folders, by name.
fn yaml_files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![in_project(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "yaml") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// What `serin check` finds in a file.
fn defects(path: &Path) -> (String, Vec<Defect>) {
    match Source::read(path).and_then(|source| source.load(Options::CHECK)) {
        Ok(Loaded { text, warnings, .. }) => (text, warnings),
        Err(Defects { text, list, .. }) => (text, list),
    }
}

fn codes(path: &Path) -> BTreeSet<Code> {
    defects(path).1.into_iter().map(|defect| defect.code).collect()
}

fn example(name: &str) -> Config {
    match load(&in_project("config").join(name)) {
        Ok(loaded) => loaded.config,
        Err(defects) => panic!("{defects}"),
    }
}

#[test]
fn every_example_loads() {
    let files = yaml_files("config");
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        // The certificates that they name are the reader's own.
        let options = Options { touch_files: false, ..Options::RUN };
        if let Err(defects) = Source::read(&file).unwrap().load(options) {
            panic!("{defects}");
        }
    }
}

#[test]
fn the_tls_example_is_for_everyone_and_for_one_job() {
    let text = fs::read_to_string(in_project("config/tls.yaml")).unwrap();
    let options = Options { touch_files: false, ..Options::RUN };
    let config = Source::of("tls.yaml", text).unwrap().load(options).unwrap().config;
    let tls = config.listeners[0].tls.as_ref().unwrap();
    assert_eq!(tls.certificates[0].key, Path::new("/etc/serin/tls/tls.key"));
    assert!(tls.clients.as_ref().is_some_and(|clients| !clients.required));
    assert_eq!((tls.min_version, config.trusted_proxies), (Version::Tls12, Some(Vec::new())));
    let client = config.routes[0].rules[0].matches[0].client.as_ref().unwrap();
    assert!(matches!(client, ClientMatch::Spiffe(id) if id.ends_with("/sa/batch")));
}

/// Checks a listener with this certificate and key, and returns the codes.
fn check_pair(folder: &SecretFolder, cert: &str, key: &str) -> Vec<&'static str> {
    let (cert, key) = (folder.path(cert), folder.path(key));
    let text = format!(
        "listeners:\n  - name: a\n    address: 127.0.0.1:8443\n    tls:\n\
         \x20     certificates: [{{ cert: {}, key: {} }}]\n\
         backends: [{{ name: v1, endpoints: [127.0.0.1:9001] }}]\n\
         routes: [{{ name: r, rules: [{{ name: main, backends: [{{ name: v1 }}] }}] }}]\n",
        cert.display(),
        key.display()
    );
    let found = match Source::of("tls.yaml", text).unwrap().load(Options::CHECK) {
        Ok(Loaded { warnings, .. }) => warnings,
        Err(Defects { list, .. }) => list,
    };
    found.iter().map(|defect| defect.code.as_str()).collect()
}

#[test]
fn certificates_are_looked_at_as_they_are_used() {
    let (authority, mut folder) = (Authority::named("servers"), SecretFolder::plain());
    let leaf = Leaf::server(&["models.example.com"]);
    for (name, leaf) in [
        ("good", leaf.clone()),
        ("other", leaf.clone()),
        ("old", leaf.clone().expired()),
        ("young", leaf.days(2, 9)),
    ] {
        authority.issue(&leaf).put(&mut folder, name);
    }
    let good = fs::read_to_string(folder.path("good.crt")).unwrap();
    let damaged = good.replace("END", "FIN");
    let of_nothing = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    folder.put(&[("damaged.crt", &damaged), ("nothing.crt", of_nothing)]);
    for (cert, key, codes) in [
        ("good.crt", "good.key", &[][..]),
        ("good.crt", "other.key", &["SRN0322"]),
        ("old.crt", "old.key", &["SRN0410"]),
        ("young.crt", "young.key", &["SRN0410"]),
        ("damaged.crt", "good.key", &["SRN0320"]),
        ("nothing.crt", "good.key", &["SRN0320"]),
        ("none.crt", "good.key", &["SRN0320"]),
        ("good.key", "good.key", &["SRN0320"]),
        ("good.crt", "none.key", &["SRN0321"]),
        // Its mode is as the test's own folder has it: for nobody else.
        ("good.crt", "good.crt", &["SRN0321"]),
    ] {
        assert_eq!(check_pair(&folder, cert, key), codes, "{cert} {key}");
    }
    fs::set_permissions(folder.path("good.key"), Permissions::from_mode(0o644)).unwrap();
    assert_eq!(check_pair(&folder, "good.crt", "good.key"), ["SRN0411"]);
}

#[test]
fn every_config_map_of_a_manifest_loads() {
    for file in yaml_files("k8s") {
        let text = fs::read_to_string(&file).unwrap();
        if text.contains("kind: ConfigMap") && text.contains("listeners:") {
            let options = Options { touch_files: false, ..Options::CHECK };
            if let Err(defects) = Source::read(&file).unwrap().load(options) {
                panic!("{defects}");
            }
        }
    }
}

#[test]
fn the_canary_example_gives_a_tenth_to_the_judged_version() {
    let config = example("canary.yaml");
    let rule = &config.routes[0].rules[0];
    let shares: Vec<_> = rule.backends.iter().map(|(n, w)| (n.as_str(), w.get())).collect();
    assert_eq!(shares, [("sentiment-v1", 90), ("sentiment-v2", 10)]);
    assert_eq!(rule.sticky, None);
    let path = rule.matches[0].path.as_ref();
    assert!(matches!(path, Some(PathMatch::Prefix(path)) if path == "/v2/models/sentiment"));
    let plan = &config.rollouts[0];
    assert_eq!(plan.rule.to_string(), "sentiment/main");
    assert_eq!((plan.stable.as_str(), plan.canary.as_str()), ("sentiment-v1", "sentiment-v2"));
    let names: Vec<_> = plan.objectives.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["errors <= 1%", "latency p99 <= 200ms"]);
    assert!((plan.threshold() - 200.0).abs() < 1e-9);
    assert_eq!(config.listeners[0].address.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:9901");
    assert_eq!((config.metrics, config.state_file), (None, None));
    assert_eq!(config.drain_timeout, Duration::from_secs(30));
}

#[test]
fn the_ab_example_keeps_its_users_by_a_header() {
    let config = example("ab-test.yaml");
    let route = &config.routes[0];
    let hosts: Vec<_> = route.hostnames.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["ranker.example.com", "*.ranker.example.com"]);
    let names: Vec<_> = route.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["beta-testers", "mobile", "everyone"]);
    let mobile = &route.rules[1];
    assert!(mobile.backends.iter().all(|(_, weight)| weight.get() == 1));
    assert_eq!(mobile.sticky, Some(StickyKey::Header("x-user-id".parse().unwrap())));
    assert!(matches!(mobile.matches[0].query[0], (_, ValueMatch::Present(false))));
    assert!(matches!(&mobile.matches[0].headers[0].1, ValueMatch::Regex(_)));
    assert!(config.rollouts.is_empty());
}

#[test]
fn the_shadow_example_copies_a_quarter_without_the_users_token() {
    let config = example("shadow.yaml");
    let mirror = &config.routes[0].rules[0].mirrors[0];
    assert_eq!(mirror.backend.as_str(), "fraud-v8");
    assert_eq!(mirror.share.to_string(), "25%");
    assert_eq!(mirror.methods, [http::Method::GET, http::Method::POST]);
    assert_eq!((mirror.body_bytes_max, mirror.in_flight_max), (1 << 20, 64));
    assert_eq!(mirror.remove, [http::header::AUTHORIZATION]);
    assert_eq!(mirror.set[0].0, "x-shadow");
}

#[test]
fn the_reference_names_each_default_as_it_is() {
    let config = example("reference.yaml");
    let text = fs::read_to_string(in_project("config/reference.yaml")).unwrap();
    // Every line that calls its value the default can go, and nothing changes.
    let told = |line: &&str| line.contains("# default") && !line.contains("# default:");
    let defaults = text.lines().filter(told).filter(|line| !line.trim().starts_with('#'));
    assert!(defaults.clone().count() > 12);
    let rest = defaults.fold(text.clone(), |text, line| text.replacen(&format!("{line}\n"), "", 1));
    // These maps have nothing else in them.
    let rest = rest.replace("\nadmin:  ", "\n#").replace("    on_shared_breach:  ", "#");
    let rest = rest.replace("    ejection:  ", "#");
    let bare = Source::of("reference.yaml", rest).unwrap().load(Options::RUN);
    let bare = bare.unwrap_or_else(|defects| panic!("{defects}")).config;
    assert_eq!(format!("{bare:?}"), format!("{config:?}"));
    let shared = Deadline::RollbackAfter(SHARED_BREACH_DEFAULT);
    assert_eq!(config.rollouts[0].on_shared_breach, shared);
    assert_eq!(config.routes[0].rules[0].matches.len(), 4);
}

#[test]
fn a_bad_file_says_everything_that_is_wrong_with_it() {
    for file in yaml_files("tests/bad-configs") {
        let name = file.file_name().unwrap().to_str().unwrap();
        let (text, found) = defects(&file);
        assert!(!found.is_empty(), "{name} has no defect");
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, render::text(name, &text, &found, false));
        });
    }
}

#[test]
fn what_does_not_work_yet_is_told_apart_from_what_is_unknown() {
    for file in yaml_files("tests/bad-configs") {
        let name = file.file_name().unwrap().to_str().unwrap();
        if name.starts_with("not-yet-") {
            let errors = defects(&file).1.into_iter().filter(Defect::is_error);
            let codes: BTreeSet<_> = errors.map(|defect| defect.code).collect();
            assert_eq!(codes, BTreeSet::from([Code::NotSupported]), "{name}");
        }
    }
}

#[test]
fn every_code_has_a_bad_file() {
    let files = yaml_files("tests/bad-configs");
    let mut seen: BTreeSet<_> = files.iter().flat_map(|file| codes(file)).collect();
    // Two are made where they are needed, one by a running Serin.
    seen.extend([Code::Unreadable, Code::TooLarge, Code::NeedsRestart]);
    // Certificates are made where they are needed.
    seen.extend([Code::KeyMismatch, Code::NotValidNow, Code::OpenKey, Code::NotTaken]);
    // A cluster is what it is: tests/it/kubernetes.rs.
    seen.extend([Code::NoService, Code::NoneReady, Code::NoLatch, Code::ClusterUnknown]);
    seen.insert(Code::TooManyReplicas);
    for code in Code::ALL {
        assert!(seen.contains(code), "no bad file leads to {}", code.as_str());
    }
}

#[test]
fn every_key_stands_in_the_reference_and_in_the_docs() {
    let docs = fs::read_to_string(in_project("docs/configuration.md")).unwrap();
    let reference = fs::read_to_string(in_project("config/reference.yaml")).unwrap();
    let schema = serin::config::schema();
    let maps = schema["$defs"].as_object().unwrap().values().chain([&schema]);
    let mut count = 0;
    for key in maps.flat_map(|map| map["properties"].as_object().unwrap().keys()) {
        assert!(docs.contains(&format!("`{key}`")), "docs/configuration.md lacks `{key}`");
        let there =
            reference.contains(&format!("{key}:")) || reference.contains(&format!("or {key}"));
        assert!(there, "config/reference.yaml lacks `{key}`");
        count += 1;
    }
    assert!(count > 60, "{count}");
}

#[test]
fn a_file_of_fifty_megabytes_is_refused_without_being_read() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(50 << 20).unwrap();
    let defects = load(file.path()).unwrap_err();
    let codes: Vec<_> = defects.list.iter().map(|defect| defect.code).collect();
    assert_eq!(codes, [Code::TooLarge]);
    assert!(defects.list[0].message.contains("1MiB"));
}

#[test]
fn a_file_that_is_not_there_or_is_a_folder_is_a_defect() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().to_owned(), folder.path().join("none.yaml")] {
        let defects = load(&path).unwrap_err();
        assert_eq!(defects.list.len(), 1);
        assert_eq!(defects.list[0].code, Code::Unreadable);
        assert_eq!(defects.hash, None);
    }
}

#[test]
fn garbage_is_a_defect_with_a_place() {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for round in 0..200 {
        let bytes: Vec<u8> = (0..round * 20)
            .map(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                (random >> 32) as u8
            })
            .collect();
        let defects = Source::of("garbage", bytes).unwrap().load(Options::CHECK).unwrap_err();
        let first = &defects.list[0];
        assert!(first.place.line >= 1 && first.place.column >= 1);
        assert!(!first.help.is_empty());
    }
}

/// Runs `serin check`.
fn check(args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_serin"))
        .arg("check")
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn the_exit_code_tells_good_from_bad() {
    for (args, code) in [
        (&["config/ab-test.yaml"][..], 0),
        (&["config/canary.yaml"], 0),
        (&["config/canary.yaml", "--fail-on", "warn"], 1),
        (&["config/canary.yaml", "tests/bad-configs/names.yaml"], 1),
        (&["tests/bad-configs/token-file.yaml"], 1),
        (&["tests/bad-configs/token-file.yaml", "--no-files"], 0),
        (&["no-such-file.yaml"], 1),
        (&["config"], 1),
        (&[], 2),
    ] {
        let output = check(args, "");
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
    }
    let canary = fs::read_to_string(in_project("config/canary.yaml")).unwrap();
    assert_eq!(check(&["-"], &canary).status.code(), Some(0));
    assert_eq!(check(&["-"], "").status.code(), Some(1));
}

#[test]
fn scripts_get_an_array_and_github_gets_commands() {
    let output = check(&["-o", "json", "tests/bad-configs/weights.yaml"], "");
    let array: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        array,
        serde_json::json!([{
            "file": "tests/bad-configs/weights.yaml",
            "line": 10,
            "column": 9,
            "code": "SRN0304",
            "severity": "error",
            "message": "all weights are 0: no backend would get a request",
            "help": "give one of them a weight above 0",
        }])
    );
    let output = check(&["-o", "json", "config/ab-test.yaml"], "");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "[]\n");
    let output = check(&["-o", "github", "tests/bad-configs/weights.yaml"], "");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "::error file=tests/bad-configs/weights.yaml,line=10,col=9,title=SRN0304::all weights \
         are 0: no backend would get a request (give one of them a weight above 0)\n"
    );
}
