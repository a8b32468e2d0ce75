//! `serin healthcheck`: a probe for images that have no shell and no curl.
//!
//! Never exits with anything but 0 and 1: that is all that container engines understand.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use http::Method;
use http::uri::Authority;
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::cli::client::{self, Answer};
use crate::config::Admin;
use crate::control::api::Problem;

/// What `serin healthcheck` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Exit codes: 0 ready; 1 not ready, or no answer.\n\nExamples:\n  \
    serin healthcheck -c /etc/serin/serin.yaml\n  serin healthcheck --address 127.0.0.1:9902\n\n\
    In a Dockerfile:\n  HEALTHCHECK CMD [\"serin\", \"healthcheck\"]")]
pub struct HealthcheckArgs {
    /// The admin or the metrics port, as `host:port`; goes before `--config`
    /// [default: 127.0.0.1:9901]
    #[arg(
        long,
        visible_alias = "admin",
        value_name = "ADDR",
        env = "SERIN_ADMIN",
        value_parser = client::address
    )]
    pub address: Option<Authority>,
    /// The config file that the proxy runs with; tells its metrics port or its admin port
    #[arg(short, long, value_name = "FILE", env = "SERIN_CONFIG")]
    pub config: Option<PathBuf>,
    /// Ask whether the process answers, not whether it takes requests
    #[arg(long, env = "SERIN_LIVE")]
    pub live: bool,
    /// How long to wait for the answer: seconds, or with a unit
    #[arg(
        long,
        value_name = "TIME",
        default_value = "2s",
        env = "SERIN_TIMEOUT",
        value_parser = client::span
    )]
    pub timeout: Duration,
}

/// Asks once.
pub fn run(args: &HealthcheckArgs) -> anyhow::Result<ExitCode> {
    let address = address(args.address.as_ref(), args.config.as_deref())?;
    let path = if args.live { "/livez" } else { "/readyz" };
    let call = async {
        let call = client::call(&address, None, &Method::GET, path);
        timeout(args.timeout, call).await
    };
    // Probes are asked without a token.
    let answer = match Builder::new_current_thread().enable_all().build()?.block_on(call) {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            eprintln!("serin: {error}");
            return Ok(ExitCode::FAILURE);
        }
        Err(_) => {
            let within = crate::units::duration_text(args.timeout);
            eprintln!("serin: no answer from {address} within {within}");
            return Ok(ExitCode::FAILURE);
        }
    };
    match verdict(&answer) {
        Ok(text) => {
            // The exit code is the answer, whoever reads.
            let _ = client::print(&format!("{text}\n"));
            Ok(ExitCode::SUCCESS)
        }
        Err(why) => {
            eprintln!("serin: {why}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Where probes are asked: `given`, or else by `config`, or else the admin port's default.
pub fn address(given: Option<&Authority>, config: Option<&Path>) -> anyhow::Result<Authority> {
    match (given, config) {
        (Some(address), _) => Ok(address.clone()),
        (None, Some(path)) => {
            let config = client::read_config(path)?;
            client::reachable(config.metrics.unwrap_or(config.admin.address))
        }
        (None, None) => Ok(Admin::ADDRESS.parse()?),
    }
}

/// What a probe's answer says; `Err` is why it is not well.
pub fn verdict(answer: &Answer) -> Result<String, String> {
    if answer.status.is_success() {
        return Ok(String::from_utf8_lossy(&answer.body).trim_end().to_owned());
    }
    let problem = serde_json::from_slice::<Problem>(&answer.body);
    Err(problem.map_or_else(|_| answer.status.to_string(), |problem| problem.detail))
}
