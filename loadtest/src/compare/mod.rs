//! `loadtest compare`: Serin and its peers doing the same work, side by side.
//!
//! The figure is CPU time per request: run time of the proxy's threads over
//! completed requests. It survives a noisy machine, where throughput and tails do
//! not. Runs are interleaved (A B C A B C) so that drift hits all alike.
//!
//! Never leaves a process behind: each child is ended by its id, and asks the
//! kernel to be ended with its parent.

mod peer;
mod process;
mod report;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use serin_loadtest::backend::COUNT_PATH;
use serin_loadtest::saturate::Saturated;
use tokio::signal::unix::{SignalKind, signal};

use crate::commands::duration;
use peer::{Peer, Ports};
use process::{Core, Process};
use report::{Report, Run};

/// What every peer is asked for.
const PATH: &str = "/v2/models/sentiment";
/// The header that the rule of every peer sends to the canary.
const RULE_HEADER: &str = "x-cohort: beta";
/// Requests with which each peer's split is checked before it is measured.
const SPLIT_CHECKED_OVER: u64 = 6_400;
const SPLIT_CHECKED_WITHIN: Duration = Duration::from_secs(30);

/// Compares the CPU time per request of Serin and its peers
///
/// Each does the same 90/10 split with a header rule, keep-alive on both sides and
/// no access log. The proxy has one core for itself; generator and backends have the
/// other. A peer that is not installed is left out, and said so.
#[derive(Args)]
pub struct Compare {
    /// The serin binary; build it with `cargo build --profile dist`
    #[arg(long, default_value = "target/dist/serin")]
    serin: PathBuf,
    /// Folder for the raw CSV and the summary
    #[arg(long)]
    out: PathBuf,
    /// Folder of the peers' configs
    #[arg(long, default_value = "loadtest/peers")]
    configs: PathBuf,
    /// Only these peers
    #[arg(long, value_delimiter = ',', default_value = "serin,haproxy,nginx")]
    peers: Vec<String>,
    /// How often each peer is measured; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(3..))]
    rounds: u32,
    /// Length of one measurement
    #[arg(long, default_value = "4s", value_parser = duration)]
    duration: Duration,
    /// Keep-alive connections of the generator
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Size of each answer's body
    #[arg(long, default_value_t = 1024)]
    body_bytes: usize,
    /// The core that the proxy has for itself
    #[arg(long, default_value_t = 0)]
    proxy_core: u32,
    /// The core of the generator and the backends
    #[arg(long, default_value_t = 1)]
    load_core: u32,
}

impl Compare {
    /// Measures, prints the table and writes it down.
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
        let folder = Folder::create()?;
        let stable = self.start_backend(folder.path()).await?;
        let canary = self.start_backend(folder.path()).await?;
        let mut racers = Vec::new();
        for peer in self.peers()? {
            let racer = self.start_peer(peer, &stable, &canary, folder.path()).await?;
            self.check_split(&racer, &canary).await?;
            racers.push(racer);
        }
        ensure!(!racers.is_empty(), "none of the peers is installed");
        let mut report = Report::new(self.conditions());
        for racer in &racers {
            report.add_peer(&racer.peer);
        }
        for round in 1..=self.rounds {
            let direct = self.saturate(stable.address, self.duration, &[]).await?;
            report.add(Run { round, peer: "direct".into(), seen: direct, cpu: None });
            for racer in &racers {
                let run = self.measure(round, racer).await?;
                eprintln!("{run}");
                report.add(run);
            }
        }
        for process in
            racers.into_iter().map(|racer| racer.process).chain([stable.process, canary.process])
        {
            process.end().await;
        }
        report.write(&self.out)?;
        print!("{}", report.summary());
        Ok(())
    }

    /// The peers that were asked for and are installed.
    fn peers(&self) -> anyhow::Result<Vec<Peer>> {
        let mut found = Vec::new();
        for name in &self.peers {
            match Peer::find(name, &self.serin, &self.configs)? {
                Some(peer) => found.push(peer),
                None => eprintln!("SKIPPED {name}: not installed"),
            }
        }
        Ok(found)
    }

    async fn measure(&self, round: u32, racer: &Racer) -> anyhow::Result<Run> {
        let before = racer.process.cpu_time()?;
        let seen = self.saturate(racer.address, self.duration, &[]).await?;
        let cpu = racer.process.cpu_time()?.saturating_sub(before);
        let name = &racer.peer.name;
        ensure!(seen.errors == 0 && seen.broken == 0, "{name} failed requests: {seen:?}");
        Ok(Run { round, peer: name.clone(), seen, cpu: Some(cpu) })
    }

    /// The generator, as a process of its own on the load core.
    async fn saturate(
        &self,
        target: SocketAddr,
        duration: Duration,
        more: &[&str],
    ) -> anyhow::Result<Saturated> {
        let target = target.to_string();
        let connections = self.connections.to_string();
        let duration = format!("{}ms", duration.as_millis());
        let mut arguments = vec!["saturate", "--json", "--target", &target, "--path", PATH];
        arguments.extend(["--connections", &connections, "--duration", &duration]);
        arguments.extend(more);
        let output = process::run_self(Core(self.load_core), &arguments).await?;
        serde_json::from_str(&output).context("output of loadtest saturate")
    }

    /// Asks with the rule's header and without, and counts what the canary got.
    async fn check_split(&self, racer: &Racer, canary: &Backend) -> anyhow::Result<()> {
        let each = (SPLIT_CHECKED_OVER / self.connections as u64).max(1);
        let asked = each * self.connections as u64;
        let each = each.to_string();
        for (headers, share) in [(&["-H", RULE_HEADER][..], 1.0), (&[][..], 0.1)] {
            let before = canary.count().await?;
            let more = [headers, &["--requests-each", &each]].concat();
            let seen = self.saturate(racer.address, SPLIT_CHECKED_WITHIN, &more).await?;
            let got = (canary.count().await? - before) as f64;
            let name = &racer.peer.name;
            ensure!(seen.requests == asked, "{name} lost requests: {seen:?}");
            let expected = asked as f64 * share;
            let sigma = (expected * (1.0 - share)).sqrt();
            ensure!(
                (got - expected).abs() <= 4.0 * sigma,
                "{name} sent {got} of {asked} to the canary, {expected} were expected"
            );
        }
        Ok(())
    }

    async fn start_backend(&self, folder: &Path) -> anyhow::Result<Backend> {
        let address = free_address()?;
        let (port, bytes) = (address.port().to_string(), self.body_bytes.to_string());
        let arguments = ["backend", "--port", &port, "--body-bytes", &bytes];
        let program = std::env::current_exe()?;
        let process = Process::start(
            Core(self.load_core),
            &program,
            &arguments,
            folder.join(format!("backend-{port}.log")),
        )?;
        process.wait_until_it_answers(address, COUNT_PATH).await?;
        Ok(Backend { process, address })
    }

    async fn start_peer(
        &self,
        peer: Peer,
        stable: &Backend,
        canary: &Backend,
        folder: &Path,
    ) -> anyhow::Result<Racer> {
        let address = free_address()?;
        let ports = Ports {
            listen: address.port(),
            admin: free_address()?.port(),
            stable: stable.address.port(),
            canary: canary.address.port(),
        };
        let arguments = peer.prepare(&ports, folder)?;
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let log = folder.join(format!("{}.log", peer.name));
        let process = Process::start(Core(self.proxy_core), &peer.program, &arguments, log)?;
        process.wait_until_it_answers(address, PATH).await.with_context(|| peer.name.clone())?;
        Ok(Racer { peer, process, address })
    }

    fn conditions(&self) -> String {
        format!(
            "{} keep-alive connections, {} byte bodies, {} rounds of {:.1} s, proxy on core {}, \
             generator and backends on core {}",
            self.connections,
            self.body_bytes,
            self.rounds,
            self.duration.as_secs_f64(),
            self.proxy_core,
            self.load_core
        )
    }
}

struct Backend {
    process: Process,
    address: SocketAddr,
}

impl Backend {
    async fn count(&self) -> anyhow::Result<u64> {
        let (_, body) = process::get(self.address, COUNT_PATH).await?;
        Ok(body.trim().parse()?)
    }
}

/// A peer that runs.
struct Racer {
    peer: Peer,
    process: Process,
    address: SocketAddr,
}

/// Binds a port for a moment to learn of one that is free.
fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// A folder for rendered configs and logs, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn create() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("loadtest-compare-{}", std::process::id()));
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
