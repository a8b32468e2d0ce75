//! What is measured: one file each under `scenarios/`.
//!
//! Never guesses: a key that is not known is an error.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::goals::{Bound, Goals};
use crate::commands::drive::Protocol;

/// From this size on, a peer is told that bodies are large.
const LARGE_BYTES: usize = 32 << 10;

/// What a proxy may be asked to do beside: a copy of every request to a shadow; spans of one
/// request in a hundred; a line for each request in a file; spans and lines; to have many
/// endpoints; many other rules; many other rollouts; those rules and rollouts together. Each is
/// a word that a config's `#if` may ask for.
pub(super) const MORE: [&str; 8] =
    ["mirror", "tracing", "access_log", "telling", ENDPOINTS, "rules", "rollouts", "grown"];
/// Many endpoints, which needs a backend that has as many addresses.
const ENDPOINTS: &str = "endpoints";

/// One scenario, as its file says it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Scenario {
    /// The file's name without `.toml`.
    #[serde(skip)]
    pub(super) name: String,
    pub(super) title: String,
    pub(super) measure: Measure,
    /// What the generator speaks to the proxy; to endpoints it is HTTP/1.1.
    pub(super) protocol: Protocol,
    pub(super) connections: usize,
    /// Requests at a time on each connection.
    pub(super) streams: usize,
    /// Request headers beyond `host`.
    pub(super) more_headers: usize,
    pub(super) body_bytes: usize,
    pub(super) answer_bytes: usize,
    /// Of `measure = "streams"`.
    pub(super) event_every_ms: u64,
    /// Of `measure = "rate"`: requests a second.
    pub(super) rates: Vec<u32>,
    /// Of `measure = "idle"`: connections, ascending.
    pub(super) idle: Vec<usize>,
    /// Of `measure = "idle"`: an open token stream on each, instead of nothing.
    pub(super) streaming: bool,
    /// Of `measure = "workers"`.
    pub(super) workers: Vec<u32>,
    /// Each peer also with more to do, of [`MORE`]: one after the other, beside without.
    pub(super) with: Vec<String>,
    /// Only these peers can do it.
    pub(super) peers: Option<Vec<String>>,
    /// The first figure, as a ratio, is to be at most this. See `Figures::ratio`.
    goals: BTreeMap<String, f64>,
    /// What else is to be reached.
    bounds: Vec<Bound>,
}

/// What is asked of a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Measure {
    /// Throughput and CPU time per request, as fast as answers come.
    #[default]
    Saturation,
    /// Latency beyond that of the backend alone, at fixed rates.
    Rate,
    /// Delay and CPU time of each event of streams.
    Streams,
    /// Memory while connections do nothing, or hold a stream open.
    Idle,
    /// CPU time per request, and how evenly threads share the work.
    Workers,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            name: String::new(),
            title: String::new(),
            measure: Measure::default(),
            protocol: Protocol::default(),
            connections: 64,
            streams: 1,
            more_headers: 0,
            body_bytes: 0,
            answer_bytes: 1024,
            event_every_ms: 10,
            rates: Vec::new(),
            idle: Vec::new(),
            streaming: false,
            workers: Vec::new(),
            with: Vec::new(),
            peers: None,
            goals: BTreeMap::new(),
            bounds: Vec::new(),
        }
    }
}

impl Scenario {
    /// Reads and checks a file.
    pub(super) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let mut scenario: Self =
            toml::from_str(&text).with_context(|| file.display().to_string())?;
        scenario.name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        scenario.check().with_context(|| file.display().to_string())?;
        Ok(scenario)
    }

    /// The names of the scenarios of a folder, sorted.
    pub(super) fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
        let mut names = Vec::new();
        for file in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let file = file?.path();
            if file.extension().is_some_and(|extension| extension == "toml") {
                names.extend(file.file_stem().map(|name| name.to_string_lossy().into_owned()));
            }
        }
        names.sort();
        Ok(names)
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.title.is_empty(), "title is missing");
        ensure!((1..=4_096).contains(&self.connections), "connections: 1 to 4096");
        ensure!(self.idle.is_sorted() && self.idle.iter().all(|n| *n <= 8_000), "idle: to 8000");
        ensure!(self.rates.iter().all(|rps| (1..=100_000).contains(rps)), "rates: 1 to 100000");
        let wanted = match self.measure {
            Measure::Rate => !self.rates.is_empty(),
            Measure::Idle => !self.idle.is_empty(),
            Measure::Workers => !self.workers.is_empty(),
            Measure::Streams => self.event_every_ms > 0,
            Measure::Saturation => true,
        };
        ensure!(wanted, "{:?} needs its list", self.measure);
        ensure!(!self.streaming || self.measure == Measure::Idle, "streaming: only with idle");
        let unknown = self.with.iter().find(|word| !MORE.contains(&word.as_str()));
        ensure!(unknown.is_none(), "with: {}", MORE.join(", "));
        self.bounds.iter().try_for_each(Bound::check)
    }

    /// What is to be reached.
    pub(super) fn goals(&self) -> Goals {
        let (title, ratios) = (self.title.clone(), self.goals.clone());
        Goals { title, ratios, bounds: self.bounds.clone() }
    }

    /// Whether the generator can go to the backend without a proxy in between.
    pub(super) fn goes_direct(&self) -> bool {
        self.protocol == Protocol::Http1 && self.with.is_empty()
    }

    /// What is done beside the plain work, one word each.
    pub(super) fn more(&self) -> impl Iterator<Item = &'static str> {
        MORE.into_iter().filter(|word| self.with.iter().any(|one| one == word))
    }

    /// Whether a backend has many addresses.
    pub(super) fn has_many_endpoints(&self) -> bool {
        self.more().any(|word| word == ENDPOINTS)
    }

    /// Whether `peer` can take part.
    pub(super) fn takes(&self, peer: &str) -> bool {
        let named = self.peers.as_ref().is_none_or(|peers| peers.iter().any(|one| one == peer));
        named && (peer != "relay" || self.goes_direct())
    }

    /// The words that a config's `#if` may ask for.
    pub(super) fn conditions(&self) -> Vec<&'static str> {
        [
            ("tls", self.protocol == Protocol::Tls),
            ("http2", self.protocol == Protocol::Http2),
            ("streams", self.measure == Measure::Streams || self.streaming),
            ("upload", self.body_bytes >= LARGE_BYTES),
            ("download", self.answer_bytes >= LARGE_BYTES),
        ]
        .into_iter()
        .filter_map(|(word, holds)| holds.then_some(word))
        .collect()
    }

    /// The arguments with which `loadtest` asks `target` as this scenario wants it.
    pub(super) fn drive(&self, target: SocketAddr, duration: Duration) -> Vec<String> {
        let mut all = vec!["drive".to_owned(), "--json".to_owned(), "--hold".to_owned()];
        for (name, value) in [
            ("--target", target.to_string()),
            ("--duration", format!("{}ms", duration.as_millis())),
            ("--protocol", self.protocol.name().to_owned()),
            ("--connections", self.connections.to_string()),
            ("--streams", self.streams.to_string()),
        ] {
            all.extend([name.to_owned(), value]);
        }
        if self.body_bytes > 0 {
            all.extend(["--body-bytes".to_owned(), self.body_bytes.to_string()]);
        }
        for header in HEADERS.into_iter().take(self.more_headers) {
            all.extend(["-H".to_owned(), header.to_owned()]);
        }
        all
    }
}

/// As a browser or a client library sends them.
const HEADERS: [&str; 15] = [
    "user-agent: python-httpx/0.28.1",
    "accept: application/json",
    "accept-encoding: gzip, deflate, br, zstd",
    "accept-language: en-GB,en;q=0.9,de;q=0.8",
    "authorization: Bearer abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "cache-control: no-cache",
    "content-type: application/json",
    "cookie: session=0123456789abcdef0123456789abcdef; theme=dark",
    "origin: https://app.example.com",
    "referer: https://app.example.com/chat/7f3e",
    "x-api-key: 0123456789abcdef0123456789abcdef",
    "x-client-version: 4.18.2",
    "x-tenant: example",
    "x-user-id: 0b7e4a52-5f0e-4b7c-9d0a-3a8f6f1f7a11",
    "x-stainless-retry-count: 0",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
    }

    #[test]
    fn every_scenario_of_the_project_is_one() {
        let names = Scenario::names(&folder()).unwrap();
        assert!(names.len() >= 10, "{names:?}");
        for name in names {
            let scenario = Scenario::read(&folder().join(format!("{name}.toml"))).unwrap();
            assert_eq!(scenario.name, name);
        }
    }

    #[test]
    fn what_is_not_known_or_missing_is_an_error() {
        let check = |text: &str| toml::from_str::<Scenario>(text).is_ok_and(|s| s.check().is_ok());
        assert!(check("title = 'a'"));
        for text in [
            "",
            "title = 'a'\nconections = 1",
            "title = 'a'\nconnections = 0",
            "title = 'a'\nmeasure = 'rate'",
            "title = 'a'\nwith = ['miror']",
            "title = 'a'\nmeasure = 'idle'\nidle = [0, 20000]",
            "title = 'a'\nmeasure = 'idle'\nidle = [64, 0]",
            "title = 'a'\nstreaming = true",
            "title = 'a'\n[[bounds]]\nfigures = ['a']",
        ] {
            assert!(!check(text), "{text}");
        }
    }

    #[test]
    fn who_cannot_do_the_work_is_left_out() {
        let read = |name: &str| Scenario::read(&folder().join(name)).unwrap();
        assert!(read("plain.toml").takes("relay") && read("plain.toml").takes("haproxy"));
        assert!(!read("tls.toml").takes("relay") && !read("tls.toml").takes("pingora"));
        assert!(read("plain.toml").takes("pingora") && read("http2.toml").takes("pingora"));
        assert!(!read("mirror.toml").takes("relay") && !read("mirror.toml").takes("haproxy"));
        assert!(read("grown.toml").has_many_endpoints());
        assert!(!read("plain.toml").has_many_endpoints());
        assert!(read("telling.toml").more().eq(["tracing", "access_log", "telling"]));
    }
}
