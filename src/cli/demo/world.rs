//! The demo's world: two model servers, Serin before them, and users before Serin.
//!
//! Never leaves this machine, and never leaves anything behind: dropping it stops all of
//! it and removes its folder.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serin_loadtest::load::{Load, LoadHandle, RequestTemplate};
use serin_loadtest::model::{ModelOptions, ModelServer};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::app::watch::Watch;
use crate::cli::demo::sample::{Sample, Users, VersionCounts};
use crate::cli::demo::scenario::{Manner, Scenario};
use crate::units::Tick;

/// The model that is asked.
pub const MODEL: &str = "sentiment";
/// The rollout, and the backend of the new version.
pub const CANARY: &str = "sentiment-v2";
/// The backend of the old version.
pub const STABLE: &str = "sentiment-v1";

/// All that runs.
#[derive(Debug)]
pub struct World {
    scenario: Scenario,
    stable: ModelServer,
    canary: ModelServer,
    /// Given up when the world ends.
    app: Option<App>,
    watch: Watch,
    users: Option<LoadHandle>,
    folder: Folder,
    /// Where users send their requests.
    pub proxy: SocketAddr,
    /// The admin port.
    pub admin: SocketAddr,
    /// Asked for at the admin port: everything is to end.
    pub quit: CancellationToken,
}

impl World {
    /// Starts everything on free ports; users come with [`World::open`].
    pub fn start(scenario: Scenario, seed: u64) -> anyhow::Result<Self> {
        let stable = start_model("v1", scenario.healthy(), seed)?;
        let canary = start_model("v2", scenario.healthy(), seed.wrapping_add(1))?;
        let folder = Folder::create().context("cannot make a folder for the demo's files")?;
        let file = folder.config();
        let text = config(&folder.0, stable.address(), canary.address());
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        let app = App::start(&file).context("cannot start Serin")?;
        let (_, proxy) = app.listeners.first().context("the demo's config has a listener")?;
        let (proxy, admin) = (*proxy, app.admin);
        let quit = app.quit.clone();
        let watch = app.watch();
        Ok(Self {
            scenario,
            stable,
            canary,
            app: Some(app),
            watch,
            users: None,
            folder,
            proxy,
            admin,
            quit,
        })
    }

    /// Lets the users in.
    pub fn open(&mut self, rps: f64, seed: u64) -> anyhow::Result<()> {
        let request = RequestTemplate::sentiment(MODEL)?;
        let load = Load { seed, duration: Duration::MAX, ..Load::new(self.proxy, rps, request) };
        self.users = Some(load.start()?);
        Ok(())
    }

    /// The moment at which the scenario's plot begins.
    pub fn turn_bad(&self) {
        // The canary last: were stable late by a hair, the canary would be blamed for it.
        set(&self.stable, self.scenario.stable_then());
        set(&self.canary, self.scenario.canary_then());
    }

    /// Waits until Serin has looked at its counts again, which it does at least every slot.
    pub async fn next_look(&mut self) {
        self.watch.changed().await;
    }

    /// How things stand.
    pub fn sample(&mut self, at: Tick) -> anyhow::Result<Sample> {
        let rollouts = self.watch.rollouts();
        let rollout = rollouts.into_iter().next().context("the demo's rollout is gone")?;
        let users = self.users.as_ref().map(LoadHandle::stats).unwrap_or_default();
        Ok(Sample {
            at,
            users: Users { ok: users.ok, errors: users.errors },
            stable: self.version(STABLE, &self.stable),
            canary: self.version(CANARY, &self.canary),
            rollout,
        })
    }

    fn version(&self, backend: &str, model: &ModelServer) -> VersionCounts {
        VersionCounts { requests: model.requests(), seen: self.watch.counts(backend) }
    }

    /// Lets no more users in. Those inside go on.
    pub fn close(&self) {
        if let Some(users) = &self.users {
            users.stop();
        }
    }

    /// Whether a user still waits for an answer.
    pub fn is_busy(&self) -> bool {
        self.users.as_ref().is_some_and(|users| users.stats().in_flight > 0)
    }

    /// Addresses of stable and of the canary.
    pub fn models(&self) -> [SocketAddr; 2] {
        [self.stable.address(), self.canary.address()]
    }

    /// The config file that Serin runs on.
    pub fn config(&self) -> PathBuf {
        self.folder.config()
    }
}

impl Drop for World {
    /// Users first, then Serin; the models and the folder follow by themselves.
    fn drop(&mut self) {
        self.users = None;
        if let Some(app) = self.app.take() {
            app.stop();
        }
    }
}

fn start_model(version: &str, manner: Manner, seed: u64) -> anyhow::Result<ModelServer> {
    let mut options = ModelOptions::new(MODEL, version).latency(manner.latency).seed(seed);
    options.error_ratio = manner.error_ratio;
    ModelServer::start(options).with_context(|| format!("cannot start model server {version}"))
}

fn set(model: &ModelServer, manner: Manner) {
    model.behaviour().set_error_ratio(manner.error_ratio);
    model.behaviour().set_latency(manner.latency);
}

/// A folder of its own that goes with it.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    /// Never takes one that is there already: it might be somebody else's.
    fn create() -> io::Result<Self> {
        let mut tries = 0;
        loop {
            let name = format!("serin-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
            let path = std::env::temp_dir().join(name);
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < 9 => {
                    tries += 1;
                }
                made => return made.map(|()| Self(path)),
            }
        }
    }

    fn config(&self) -> PathBuf {
        self.0.join("serin.yaml")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed now is the temporary folder's to clean up.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `config/canary.yaml` on free ports, with a ledger.
fn config(folder: &Path, stable: SocketAddr, canary: SocketAddr) -> String {
    // A JSON string is a YAML string, whatever stands in it.
    let ledger = serde_json::Value::from(folder.join("ledger.json").to_string_lossy());
    format!(
        "\
# What `serin demo` runs on. Edit it while the demo runs: Serin reads it again.
listeners:
  - name: http
    address: 127.0.0.1:0

admin:
  address: 127.0.0.1:0

state:
  file: {ledger}

workers: 2
response_headers: true

backends:
  - name: {STABLE}
    endpoints: [{stable}]
  - name: {CANARY}
    endpoints: [{canary}]

routes:
  - name: {MODEL}
    rules:
      - name: main
        matches:
          - path: /v2/models/{MODEL}
        backends:
          - name: {STABLE}
            weight: 90
          - name: {CANARY}
            weight: 10

rollouts:
  - name: {CANARY}
    rule: {MODEL}/main
    stable: {STABLE}
    canary: {CANARY}
    objectives:
      - errors: 1%
      - latency: {{ p99: 200ms }}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{Options, Source};

    #[test]
    fn the_config_is_one_without_defects_in_whatever_folder() {
        let address = "127.0.0.1:9".parse().unwrap();
        let folder = std::env::temp_dir().join("a b: \"c\" #d");
        std::fs::create_dir_all(&folder).unwrap();
        let text = config(&folder, address, address);
        let loaded = Source::of("demo", text).unwrap().load(Options::RUN);
        std::fs::remove_dir(&folder).unwrap();
        let loaded = loaded.unwrap();
        assert_eq!(loaded.warnings, []);
        // The introduction says so.
        assert!((loaded.config.rollouts[0].threshold() - 200.0).abs() < 1e-9);
    }
}
