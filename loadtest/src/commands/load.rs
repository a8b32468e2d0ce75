//! `loadtest load`: latency under a load that does not wait for answers.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::Method;
use serin_loadtest::load::{self, LoadHandle, LoadStats, RequestTemplate, SecondStats};

use super::{duration, header};

/// How often a line of seconds is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Sends requests when the schedule says, whatever the answers do
///
/// Latency counts from the intended start of each request, so a target that stalls
/// cannot hide it. Without --body or --path it asks the sentiment model.
#[derive(Args)]
#[command(after_help = "Example:\n  \
    loadtest load --target 127.0.0.1:8080 --rps 200 --duration 30s")]
pub struct Load {
    /// Address of the target; only loopback is allowed
    #[arg(long)]
    target: SocketAddr,
    /// Requests per second
    #[arg(long, default_value_t = 100.0)]
    rps: f64,
    /// How long
    #[arg(long, default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Sent first, at the same rate, and not counted
    #[arg(long, default_value = "0s", value_parser = duration)]
    warm_up: Duration,
    /// How arrivals are spread
    #[arg(long, value_enum, default_value_t = Spread::Poisson)]
    arrivals: Spread,
    /// No more connections than this
    #[arg(long, default_value_t = 256)]
    connections: usize,
    /// Path to ask; without it an inference of the model `sentiment`
    #[arg(long)]
    path: Option<String>,
    /// Method; GET without a body, POST with one
    #[arg(short = 'X', long, requires = "path")]
    method: Option<Method>,
    /// Body of each request
    #[arg(short = 'd', long, requires = "path")]
    body: Option<String>,
    /// A header, may be repeated; {n} in the value is the request's number
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// A request that takes longer is an error
    #[arg(long, default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Equal seeds give equal schedules
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// No line per second, only the summary
    #[arg(short, long)]
    quiet: bool,
}

/// How arrivals are spread.
#[derive(Clone, Copy, ValueEnum)]
enum Spread {
    /// Independent users: exponential gaps
    Poisson,
    /// Equal gaps
    Even,
}

impl Load {
    /// Runs to the end, prints a line per second and a summary.
    pub fn run(self) -> anyhow::Result<()> {
        let quiet = self.quiet;
        let handle = self.load()?.start()?;
        let mut printed = 0;
        while !handle.is_finished() {
            thread::sleep(LOOK_EVERY);
            if !quiet {
                printed = print_seconds(&handle, printed);
            }
        }
        print_summary(&handle.wait());
        Ok(())
    }

    fn load(self) -> anyhow::Result<load::Load> {
        let request = self.request()?;
        Ok(load::Load {
            arrivals: match self.arrivals {
                Spread::Poisson => load::Arrivals::Poisson,
                Spread::Even => load::Arrivals::Even,
            },
            connections_max: self.connections,
            seed: self.seed,
            warm_up: self.warm_up,
            duration: self.duration,
            timeout: self.timeout,
            ..load::Load::new(self.target, self.rps, request)
        })
    }

    fn request(&self) -> anyhow::Result<RequestTemplate> {
        let mut request = match &self.path {
            None => RequestTemplate::sentiment("sentiment")?,
            Some(path) => {
                let method = match (&self.method, &self.body) {
                    (Some(method), _) => method.clone(),
                    (None, Some(_)) => Method::POST,
                    (None, None) => Method::GET,
                };
                let bodies = self.body.clone().map(Bytes::from).into_iter().collect();
                RequestTemplate::new(method, path)?.bodies(bodies)
            }
        };
        for (name, value) in &self.headers {
            request = request.header(name, value)?;
        }
        Ok(request)
    }
}

fn print_seconds(handle: &LoadHandle, first: u64) -> u64 {
    let mut next = first;
    for SecondStats { second, sent, ok, errors, p50, p99 } in handle.seconds_from(first) {
        println!(
            "{second:>5} s  sent {sent:>6}  ok {ok:>6}  errors {errors:>5}  \
             p50 {:>8.2} ms  p99 {:>8.2} ms",
            millis(p50),
            millis(p99)
        );
        next = second + 1;
    }
    next
}

fn print_summary(stats: &LoadStats) {
    let [_, s2, s3, s4, s5] = stats.statuses;
    println!("sent {}, ok {}, errors {}", stats.sent, stats.ok, stats.errors);
    println!("  2xx {s2}, 3xx {s3}, 4xx {s4}, 5xx {s5}");
    println!(
        "  connect errors {}, broken {}, timeouts {}, unsent {}",
        stats.connect_errors, stats.broken, stats.timeouts, stats.unsent
    );
    println!(
        "latency p50 {:.2} ms, p90 {:.2}, p99 {:.2}, p99.9 {:.2}, max {:.2}",
        millis(stats.p50),
        millis(stats.p90),
        millis(stats.p99),
        millis(stats.p999),
        millis(stats.max)
    );
    println!("generator's own delay p99 {:.2} ms", millis(stats.lag_p99));
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
