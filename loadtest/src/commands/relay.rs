//! `loadtest relay`: what a proxy costs that does nothing.

use std::net::SocketAddr;

use anyhow::ensure;
use clap::Args;

use crate::wire::relay;

/// Relays bytes, as cheaply as one thread with epoll can
///
/// The limit for every proxy: one connection to the target per client, bytes copied
/// both ways, nothing looked at. Runs until it is interrupted.
#[derive(Args)]
pub struct Relay {
    /// Port on 127.0.0.1
    #[arg(long)]
    port: u16,
    /// Where to; only loopback is allowed
    #[arg(long)]
    target: SocketAddr,
}

impl Relay {
    /// Runs until the process is ended.
    pub fn run(self) -> anyhow::Result<()> {
        ensure!(self.target.ip().is_loopback(), "{} is not a loopback address", self.target);
        Ok(relay::run(self.port, self.target)?)
    }
}
