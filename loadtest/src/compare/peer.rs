//! The proxies that are compared: where they are, and how they are told what to do.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// All that there are.
pub(super) const PEERS: [&str; 6] = ["serin", "haproxy", "nginx", "envoy", "pingora", "relay"];

/// Where programs are that no path leads to.
pub(super) struct Places {
    pub(super) serin: PathBuf,
    pub(super) envoy: Option<PathBuf>,
    pub(super) pingora: Option<PathBuf>,
    /// Folder of the peers' configs.
    pub(super) configs: PathBuf,
}

/// A proxy that is installed.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) program: PathBuf,
    pub(super) version: String,
    config: PathBuf,
}

/// What a config is filled in with.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) listen: u16,
    pub(super) tls: u16,
    pub(super) http2: u16,
    pub(super) admin: u16,
    pub(super) stable: u16,
    pub(super) canary: u16,
    pub(super) shadow: u16,
    pub(super) workers: u32,
    /// What `#if` may ask for.
    pub(super) conditions: Vec<&'static str>,
}

impl Peer {
    /// `None` when it is not installed. Fails for a name that is no peer.
    pub(super) fn find(name: &str, places: &Places) -> anyhow::Result<Option<Self>> {
        let Some(name) = PEERS.into_iter().find(|peer| *peer == name) else {
            bail!("{name} is not a peer: use {}", PEERS.join(", "));
        };
        let (program, config, version) = match name {
            "serin" => (Some(places.serin.clone()), "serin.yaml", "--version"),
            "haproxy" => (find_program(name), "haproxy.cfg", "-v"),
            "nginx" => (find_program(name), "nginx.conf", "-v"),
            "envoy" => {
                (places.envoy.clone().or_else(|| find_program(name)), "envoy.yaml", "--version")
            }
            // No search: this is the peer in `peers/pingora`, not any program of that name.
            "pingora" => (places.pingora.clone(), "", "--version"),
            _ => (Some(std::env::current_exe()?), "", "--version"),
        };
        let Some(program) = program.filter(|program| program.is_file()) else { return Ok(None) };
        let version = first_line(&program, version).context(name.to_owned())?;
        let config = places.configs.join(config);
        Ok(Some(Self { name, program, version, config }))
    }

    /// Writes the peer's config into `folder`, if it reads one, and returns its arguments.
    pub(super) fn prepare(&self, setting: &Setting, folder: &Path) -> anyhow::Result<Vec<String>> {
        let at = |port| format!("127.0.0.1:{port}");
        match self.name {
            "relay" => {
                let (port, target) = (setting.listen.to_string(), at(setting.stable));
                return Ok(["relay", "--port", &port, "--target", &target]
                    .map(str::to_owned)
                    .to_vec());
            }
            "pingora" => {
                let mut arguments =
                    [setting.listen, setting.stable, setting.canary].map(at).to_vec();
                // A look at the first bytes of each connection, so only where it is needed.
                if setting.conditions.contains(&"http2") {
                    arguments.push("--h2c".to_owned());
                }
                return Ok(arguments);
            }
            _ => {}
        }
        let template = std::fs::read_to_string(&self.config)
            .with_context(|| self.config.display().to_string())?;
        let name = self.config.file_name().unwrap_or_default();
        let file = folder.join(name);
        std::fs::write(&file, fill_in(&template, setting, folder)?)?;
        let file = file.to_string_lossy().into_owned();
        let folder = folder.to_string_lossy().into_owned();
        let workers = setting.workers.to_string();
        let arguments = match self.name {
            "haproxy" => vec!["-db", "-f", &file],
            "nginx" => vec!["-p", &folder, "-c", &file],
            "envoy" => {
                vec!["--disable-hot-restart", "-l", "error", "--concurrency", &workers, "-c", &file]
            }
            _ => vec!["run", "-c", &file],
        };
        Ok(arguments.into_iter().map(str::to_owned).collect())
    }
}

/// Leaves out what stands between `#if WORD…` and `#end` where none of the words holds, and puts
/// ports and folder in.
fn fill_in(template: &str, setting: &Setting, folder: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let mut wanted = None;
    for line in template.lines() {
        if let Some(words) = line.strip_prefix("#if ") {
            let holds = words.split_whitespace().any(|word| setting.conditions.contains(&word));
            if wanted.replace(holds).is_some() {
                bail!("#if within #if");
            }
        } else if line.trim_end() == "#end" {
            wanted.take().context("#end without #if")?;
        } else if wanted != Some(false) {
            text.extend([line, "\n"]);
        }
    }
    if wanted.is_some() {
        bail!("#if without #end");
    }
    for (name, value) in [
        ("@PORT@", setting.listen.to_string()),
        ("@TLS_PORT@", setting.tls.to_string()),
        ("@HTTP2_PORT@", setting.http2.to_string()),
        ("@ADMIN_PORT@", setting.admin.to_string()),
        ("@STABLE_ENDPOINTS@", stable_endpoints(setting)),
        ("@STABLE_PORT@", setting.stable.to_string()),
        ("@CANARY_PORT@", setting.canary.to_string()),
        ("@SHADOW_PORT@", setting.shadow.to_string()),
        ("@WORKERS@", setting.workers.to_string()),
        ("@OTHER_RULES@", each(OTHER_RULES, OTHER_RULE)),
        ("@OTHER_SPLITS@", each(OTHER_ROLLOUTS, OTHER_SPLIT)),
        ("@OTHER_ROLLOUTS@", each(OTHER_ROLLOUTS, OTHER_ROLLOUT)),
        ("@DIR@", folder.to_string_lossy().into_owned()),
    ] {
        text = text.replace(name, &value);
    }
    Ok(text)
}

/// How many endpoints the stable backend has in all where there are to be many `endpoints`: each
/// an address of loopback of its own, with the one port of the backend behind all of them.
const ENDPOINTS: u32 = 1_000;

/// A list in YAML.
fn stable_endpoints(setting: &Setting) -> String {
    let count = if setting.conditions.contains(&"endpoints") { ENDPOINTS } else { 1 };
    let first = u32::from(Ipv4Addr::LOCALHOST);
    let address = |n| format!("{}:{}", Ipv4Addr::from(first + n), setting.stable);
    (0..count).map(address).collect::<Vec<_>>().join(", ")
}

/// How much a config is `grown` by: `rules` that no request of the load matches, and `rollouts`
/// of such rules, with what Serin's config has for each. As much as fits into a file of 1 MiB.
const OTHER_RULES: usize = 10_000;
const OTHER_ROLLOUTS: usize = 100;
const OTHER_RULE: &str = "      - { name: r@N@, matches: [{ path: /v2/models/r@N@ }], backends: [{ name: sentiment-v1 }] }\n";
const OTHER_SPLIT: &str = "      - name: s@N@\n        matches: [{ path: /v2/models/s@N@ }]\n        \
    backends: [{ name: sentiment-v1, weight: 90 }, { name: sentiment-v2, weight: 10 }]\n";
const OTHER_ROLLOUT: &str = "  - { name: o@N@, rule: others/s@N@, stable: sentiment-v1, \
    canary: sentiment-v2, objectives: [{ errors: 1% }, { latency: { p99: 200ms } }] }\n";

fn each(count: usize, text: &str) -> String {
    (0..count).map(|n| text.replace("@N@", &n.to_string())).collect()
}

/// Debian keeps servers in `sbin`, which is not on every user's path.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The first line that says something.
fn first_line(program: &Path, flag: &str) -> anyhow::Result<String> {
    let output = Command::new(program).arg(flag).output()?;
    // nginx tells its version on stderr.
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    // Envoy begins with its own path.
    let line = line.rsplit_once("  version: ").map_or(line, |(_, version)| version);
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::scenario::MORE;

    fn setting(conditions: &[&'static str]) -> Setting {
        Setting {
            listen: 1,
            tls: 5,
            http2: 6,
            admin: 2,
            stable: 3,
            canary: 4,
            shadow: 7,
            workers: 1,
            conditions: conditions.to_vec(),
        }
    }

    #[test]
    fn configs_are_filled_in_completely() {
        let kinds = ["tls", "http2", "streams", "upload", "download"];
        let all = setting(&[&kinds[..], &MORE[..]].concat());
        for name in ["serin.yaml", "haproxy.cfg", "nginx.conf", "envoy.yaml"] {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name);
            let template = std::fs::read_to_string(file).unwrap();
            for setting in [&setting(&[]), &all] {
                let filled = fill_in(&template, setting, Path::new("/folder")).unwrap();
                let mut settings =
                    filled.lines().filter(|line| !line.trim_start().starts_with('#'));
                let left = settings.find(|line| line.replace("\"@type\"", "").contains('@'));
                assert_eq!(left, None, "{name}");
                assert!(!filled.contains("\n#if") && !filled.contains("\n#end"), "{filled}");
            }
        }
    }

    #[test]
    fn a_peer_without_a_config_is_told_by_its_arguments() {
        let arguments = |name, conditions| {
            let (program, config) = (PathBuf::new(), PathBuf::new());
            let peer = Peer { name, program, version: String::new(), config };
            peer.prepare(&setting(conditions), Path::new("/folder")).unwrap().join(" ")
        };
        let pingora = "127.0.0.1:1 127.0.0.1:3 127.0.0.1:4";
        assert_eq!(arguments("pingora", &[]), pingora);
        assert_eq!(arguments("pingora", &["http2"]), format!("{pingora} --h2c"));
        assert_eq!(arguments("relay", &[]), "relay --port 1 --target 127.0.0.1:3");
    }

    #[test]
    fn many_endpoints_are_as_many_addresses_of_loopback() {
        assert_eq!(stable_endpoints(&setting(&[])), "127.0.0.1:3");
        let many = stable_endpoints(&setting(&["endpoints"]));
        let all: std::collections::BTreeSet<std::net::SocketAddr> =
            many.split(", ").map(|one| one.parse().unwrap()).collect();
        assert_eq!(all.len(), 1_000);
        assert!(all.iter().all(|one| one.ip().is_loopback() && one.port() == 3), "{all:?}");
    }

    #[test]
    fn what_is_not_wanted_is_left_out() {
        let template = "a\n#if tls\nb @TLS_PORT@\n#end\n#if mirror\nc\n#end\nd";
        let fill_in = |text: &str, words| fill_in(text, &setting(words), Path::new("/"));
        assert_eq!(fill_in(template, &["tls"]).unwrap(), "a\nb 5\nd\n");
        assert_eq!(fill_in(template, &[]).unwrap(), "a\nd\n");
        let any = "#if rules grown\na\n#end\n#if rollouts grown\nb\n#end";
        assert_eq!(fill_in(any, &["rules"]).unwrap(), "a\n");
        assert_eq!(fill_in(any, &["grown"]).unwrap(), "a\nb\n");
        for broken in ["#if tls", "#end", "#if tls\n#if mirror\n#end"] {
            assert!(fill_in(broken, &[]).is_err(), "{broken}");
        }
    }
}
