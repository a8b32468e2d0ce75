//! `loadtest saturate`: throughput, and the load under which CPU time is measured.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use serin_loadtest::saturate;

use super::{duration, header};

/// Sends as fast as answers come, over a fixed number of connections
///
/// A closed loop: good for throughput and CPU per request, wrong for latency (use
/// `loadtest load` for that).
#[derive(Args)]
pub struct Saturate {
    /// Address of the target; only loopback is allowed
    #[arg(long)]
    target: SocketAddr,
    /// Path to GET
    #[arg(long, default_value = "/v2/models/sentiment")]
    path: String,
    /// A header to send, may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Keep-alive connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How long
    #[arg(long, default_value = "5s", value_parser = duration)]
    duration: Duration,
    /// Stop each connection after so many requests
    #[arg(long)]
    requests_each: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Saturate {
    /// Runs to the end and prints what came of it.
    pub fn run(self) -> anyhow::Result<()> {
        let seen = saturate::Saturate {
            connections: self.connections,
            duration: self.duration,
            requests_max_each: self.requests_each.unwrap_or(u64::MAX),
            ..saturate::Saturate::get(self.target, &self.path, &self.headers)
        }
        .run()?;
        if self.json {
            println!("{}", serde_json::to_string(&seen)?);
        } else {
            println!(
                "{} answers in {:.2} s: {:.0} per second; {} not 2xx, {} connections broke",
                seen.requests,
                seen.seconds,
                seen.rps(),
                seen.errors,
                seen.broken
            );
        }
        Ok(())
    }
}
