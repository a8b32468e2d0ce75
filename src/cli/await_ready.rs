//! `serin await`: waits until a proxy takes requests, then becomes another command.
//!
//! Never stays around: the command takes its place, with its process number and its signals.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Args;
use http::Method;
use http::uri::Authority;
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

use crate::cli::{client, healthcheck};

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long one look may take.
const LOOK_TIME_MAX: Duration = Duration::from_secs(2);

/// What `serin await` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Exit codes: the command's own; 1 not ready in time, or the command \
    cannot be started. Without a command, 0 as soon as the proxy is ready.\n\nExamples:\n  \
    serin await -- python worker.py\n  \
    serin await --timeout 2m --address 127.0.0.1:9902 -- ./model-client --fast")]
pub struct AwaitArgs {
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
    /// How long to wait: seconds, or with a unit
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        env = "SERIN_TIMEOUT",
        value_parser = client::span
    )]
    pub timeout: Duration,
    /// The command to run then, with its arguments
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// Waits, and becomes the command.
pub fn run(args: &AwaitArgs) -> anyhow::Result<ExitCode> {
    let address = healthcheck::address(args.address.as_ref(), args.config.as_deref())?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    if let Err(why) = runtime.block_on(ready(&address, args.timeout)) {
        let within = crate::units::duration_text(args.timeout);
        eprintln!("serin: {address} was not ready within {within}: {why}");
        return Ok(ExitCode::FAILURE);
    }
    drop(runtime);
    let Some((program, rest)) = args.command.split_first() else { return Ok(ExitCode::SUCCESS) };
    // Comes back only if it fails.
    let error = Command::new(program).args(rest).exec();
    Err(anyhow::Error::new(error).context(format!("cannot start {}", program.display())))
}

/// Looks until the proxy is ready; `Err` is what the last look found when time was up.
async fn ready(address: &Authority, time: Duration) -> Result<(), String> {
    let mut why = "no answer".to_owned();
    let looks = async {
        loop {
            let call = client::call(address, None, &Method::GET, "/readyz");
            match timeout(LOOK_TIME_MAX, call).await {
                Ok(Ok(answer)) => match healthcheck::verdict(&answer) {
                    Ok(_) => return,
                    Err(not_yet) => why = not_yet,
                },
                Ok(Err(client::ClientError::Unreachable { why: gone, .. })) => why = gone,
                Ok(Err(error)) => why = error.to_string(),
                Err(_) => "no answer".clone_into(&mut why),
            }
            sleep(LOOK_EVERY).await;
        }
    };
    timeout(time, looks).await.map_err(|_| why)
}
