//! `loadtest backend`: the cheapest endpoint there can be.

use std::time::Duration;

use clap::Args;

use super::duration;
use crate::wire::backend::{self, Options};

/// Answers every request with the same bytes, as cheaply as possible
///
/// To put behind a proxy whose CPU time is measured. GET /count tells how many
/// requests came to that port; a path that ends in /stream is answered with events
/// that carry the time they were sent. Runs until it is interrupted.
#[derive(Args)]
pub struct Backend {
    /// Port on 127.0.0.1, may be repeated
    #[arg(long = "port", required = true)]
    ports: Vec<u16>,
    /// On every loopback address, 127.0.0.0/8, instead: a port is as many endpoints
    #[arg(long)]
    all_addresses: bool,
    /// Size of each answer's body
    #[arg(long, default_value_t = 1024)]
    body_bytes: usize,
    /// Between two events of a stream
    #[arg(long, default_value = "10ms", value_parser = duration)]
    event_every: Duration,
}

impl Backend {
    /// Runs until the process is ended.
    pub fn run(self) -> anyhow::Result<()> {
        let Self { ports, all_addresses, body_bytes, event_every } = self;
        Ok(backend::run(&Options { ports, all_addresses, body_bytes, event_every })?)
    }
}
