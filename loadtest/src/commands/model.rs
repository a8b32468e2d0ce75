//! `loadtest model`: a model server to put behind a proxy.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;
use serin_loadtest::model::{LatencyShape, ModelOptions, ModelServer, StreamShape};
use tokio::signal::unix::{SignalKind, signal};

use super::{duration, ratio};

/// Answers the V2 inference protocol with a sentiment score
///
/// GET /v2/health/ready, GET /v2/models/NAME, POST /v2/models/NAME/infer, and for tokens
/// one by one POST `/v2/models/NAME/generate_stream`. Runs until it is interrupted.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    loadtest model --port 9002 --version v2 --error-ratio 5% --latency 20ms --sigma 0.5\n  \
    loadtest model --port 9003 --latency 20ms --servers 4   # saturated at 200 a second\n  \
    loadtest model --port 9004 --latency 300ms --tokens 200 --token-every 15ms\n  \
    curl -N -d '{\"text_input\": \"tell me more\"}' \
    127.0.0.1:9004/v2/models/sentiment/generate_stream")]
pub struct Model {
    /// IP address to listen on; any other than loopback lets others ask too
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    listen: IpAddr,
    /// Port; 0 takes a free one and prints it
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// The model's name in the paths
    #[arg(long, default_value = "sentiment")]
    name: String,
    /// The version in the answers
    #[arg(long, default_value = "v1")]
    version: String,
    /// The share of inferences answered with a 500, as 0.05 or 5%
    #[arg(long, default_value = "0", value_parser = ratio)]
    error_ratio: f64,
    /// The median time an inference takes, and the first token of a stream
    #[arg(long, default_value = "0ms", value_parser = duration)]
    latency: Duration,
    /// Spread of the latency, lognormal; 0 makes it fixed
    #[arg(long, default_value_t = 0.0)]
    sigma: f64,
    /// The share of inferences that are slower by --slow-by
    #[arg(long, default_value = "0", value_parser = ratio)]
    slow_ratio: f64,
    /// How much slower those are
    #[arg(long, default_value = "0ms", value_parser = duration)]
    slow_by: Duration,
    /// Tokens of an answer that comes as a stream
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// From one token to the next
    #[arg(long, default_value = "20ms", value_parser = duration)]
    token_every: Duration,
    /// So many inferences are worked on at once, others wait in their order, so that latency
    /// grows with load; any number without it
    #[arg(long)]
    servers: Option<NonZeroUsize>,
    /// Equal seeds give the n-th inference the same fate
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Goes on answering so long after SIGTERM, while who asks still has to hear of the end
    #[arg(long, default_value = "0ms", value_parser = duration)]
    linger: Duration,
}

impl Model {
    /// Runs until the process is interrupted or terminated.
    pub fn run(self) -> anyhow::Result<()> {
        let latency = LatencyShape::lognormal(self.latency, self.sigma)
            .with_slow(self.slow_ratio, self.slow_by)
            .with_servers(self.servers);
        let server = ModelServer::start(ModelOptions {
            name: self.name,
            version: self.version,
            listen: self.listen,
            port: self.port,
            seed: self.seed,
            error_ratio: self.error_ratio,
            latency,
            stream: StreamShape { tokens: self.tokens, token_every: self.token_every },
        })?;
        println!("http://{}", server.address());
        wait_until_ended(self.linger)
    }
}

/// The first process of a container is not ended by a signal that it does not handle.
fn wait_until_ended(linger: Duration) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        let mut interrupted = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminated.recv() => tokio::time::sleep(linger).await,
            _ = interrupted.recv() => (),
        }
        Ok(())
    })
}
