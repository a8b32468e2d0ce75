//! `loadtest backend`: the cheapest endpoint there can be.

use clap::Args;
use serin_loadtest::backend::{self, BackendOptions};

/// Answers every request with the same bytes, as cheaply as possible
///
/// To put behind a proxy whose CPU time is measured. GET /count tells how many
/// requests came. Runs until it is interrupted.
#[derive(Args)]
pub struct Backend {
    /// Port on 127.0.0.1
    #[arg(long)]
    port: u16,
    /// Size of each answer's body
    #[arg(long, default_value_t = 1024)]
    body_bytes: usize,
    /// Threads, each with a listener of its own
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

impl Backend {
    /// Runs until the process is ended.
    pub fn run(self) -> anyhow::Result<()> {
        let Self { port, body_bytes, threads } = self;
        Ok(backend::run(BackendOptions { port, body_bytes, threads })?)
    }
}
