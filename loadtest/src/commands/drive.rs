//! `loadtest drive`: the lean generator, for measuring proxies.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use clap::{Args, ValueEnum};
use serde::Deserialize;

use super::{duration, header};
use crate::wire::connection::{self, Request};
use crate::wire::drive;

/// Drives a target: as fast as answers come, or at a rate whatever they do
///
/// With --rps an open loop: latency counts from each request's intended start.
/// Without it a closed loop, good for throughput and CPU per request and wrong for
/// latency. Leaner than `loadtest load`, and understands only answers with a
/// content-length and the streams of `loadtest backend`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    loadtest drive --target 127.0.0.1:8080 --duration 5s\n  \
    loadtest drive --target 127.0.0.1:8080 --rps 4000 --warm-up 1s --duration 10s\n  \
    loadtest drive --target 127.0.0.1:8080 --protocol http2 --connections 8 --streams 8")]
pub struct Drive {
    /// Address of the target; only loopback is allowed
    #[arg(long)]
    target: SocketAddr,
    /// What is spoken
    #[arg(long, value_enum, default_value_t = Protocol::Http1)]
    protocol: Protocol,
    /// Path to ask
    #[arg(long, default_value = "/v2/models/sentiment")]
    path: String,
    /// Read the path's answer as a stream of events, one per connection
    #[arg(long, conflicts_with_all = ["rps", "body_bytes"])]
    events: bool,
    /// A header to send, may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Size of each request's body
    #[arg(long, default_value_t = 0)]
    body_bytes: usize,
    /// Keep-alive connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests at a time on each connection; more than one needs http2
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Requests a second, at independent times
    #[arg(long)]
    rps: Option<f64>,
    /// Driven first and not counted
    #[arg(long, default_value = "0s", value_parser = duration)]
    warm_up: Duration,
    /// How long requests are started
    #[arg(long, default_value = "5s", value_parser = duration)]
    duration: Duration,
    /// Stop after so many requests, or events
    #[arg(long)]
    requests: Option<u64>,
    /// Equal seeds give equal starts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Say `ready` after the warm-up and wait for a line on stdin
    #[arg(long)]
    hold: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What the generator speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1
    #[default]
    Http1,
    /// HTTP/1.1 over TLS; no certificate is checked
    Tls,
    /// Cleartext HTTP/2 with prior knowledge
    Http2,
}

impl Protocol {
    /// As `--protocol` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Tls => "tls",
            Self::Http2 => "http2",
        }
    }
}

impl Drive {
    /// Runs to the end and prints what came of it.
    pub fn run(self) -> anyhow::Result<()> {
        let (json, open) = (self.json, self.rps.is_some() || self.events);
        let seen = self.drive()?.run()?;
        if json {
            println!("{}", serde_json::to_string(&seen)?);
            return Ok(());
        }
        println!(
            "{} answers in {:.2} s: {:.0} per second; {} not 2xx, {} connections broke",
            seen.requests,
            seen.seconds,
            seen.requests as f64 / seen.seconds,
            seen.errors,
            seen.broken
        );
        if open {
            println!(
                "latency p50 {:.0} µs, p99 {:.0}, p99.9 {:.0}; generator's own delay p99 {:.0}",
                seen.p50, seen.p99, seen.p999, seen.lag_p99
            );
        }
        Ok(())
    }

    fn drive(self) -> anyhow::Result<drive::Drive> {
        let Self { target, ref path, ref headers, body_bytes, .. } = self;
        ensure!(
            self.streams == 1 || self.protocol == Protocol::Http2,
            "several requests at a time need --protocol http2"
        );
        let http1 = || connection::http1(target, path, headers, body_bytes).into();
        let request = match self.protocol {
            Protocol::Http2 => {
                ensure!(!self.events && body_bytes == 0, "http2 only sends requests without body");
                Request::Http2(connection::http2(target, path, headers).into())
            }
            _ if self.events => Request::Events(http1()),
            _ => Request::Http1(http1()),
        };
        Ok(drive::Drive {
            target,
            request,
            tls: self.protocol == Protocol::Tls,
            connections: self.connections,
            streams: self.streams,
            rps: self.rps,
            warm_up: self.warm_up,
            duration: self.duration,
            requests_max: self.requests.unwrap_or(u64::MAX),
            seed: self.seed,
            hold: self.hold,
        })
    }
}
