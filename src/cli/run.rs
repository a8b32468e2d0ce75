//! `serin run`: the proxy, with its signals.
//!
//! Never does what the app does: it starts it, passes signals on and waits.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::app::{App, Drained, StartError};
use crate::config::render;
use crate::control::Command;

/// What `serin run` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Signals: SIGHUP reloads the config file; SIGTERM and SIGINT drain \
    (a second one stops at once).\n\nExample:\n  serin run -c config/canary.yaml")]
pub struct RunArgs {
    /// The config file; it is read again whenever it changes
    #[arg(short, long, value_name = "FILE", env = "SERIN_CONFIG")]
    pub config: PathBuf,
    /// Form of the log on stderr
    #[arg(long, value_name = "FORM", env = "SERIN_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, or a filter such as `serin=debug`
    #[arg(long, value_name = "FILTER", env = "SERIN_LOG", default_value = "info")]
    pub log: String,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Runs the proxy until a signal or `/quitquitquit` ends it.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    start_log(args)?;
    let app = match App::start(&args.config) {
        Ok(app) => app,
        Err(StartError::Config(defects)) => {
            let colour = colours();
            eprint!("{}", render::text(&defects.origin, &defects.text, &defects.list, colour));
            eprintln!("serin: not started: {} has defects", args.config.display());
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => return Err(error.into()),
    };
    for (name, address) in &app.listeners {
        tracing::info!(listener = %name, %address, "listening");
    }
    tracing::info!(address = %app.admin, "admin");
    if let Some(address) = app.metrics {
        tracing::info!(%address, "metrics");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        if until_ended(&app, &mut signals).await == End::LostWorker {
            tracing::error!("a worker has died; ending, so that whoever watches starts anew");
            app.stop();
            return Ok(ExitCode::FAILURE);
        }
        tracing::info!("draining");
        let hurry = CancellationToken::new();
        let drained = {
            let hurry = hurry.clone();
            tokio::task::spawn_blocking(move || app.drain(&hurry))
        };
        let again = async {
            signals.ended().await;
            hurry.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = again => unreachable!("it waits for ever"),
            drained = drained => match drained? {
                Drained::Whole => tracing::info!("drained"),
                Drained::Cut => tracing::warn!("drained; requests under way were cut"),
            },
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Why a proxy is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Somebody said so.
    Asked,
    /// There is less of it than there should be.
    LostWorker,
}

/// The signals that are heard, from here to the end: one that comes while another is
/// handled waits for its turn.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for SIGTERM or SIGINT.
    async fn ended(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Passes SIGHUP on until the proxy is to end.
async fn until_ended(app: &App, signals: &mut Signals) -> End {
    let commands = app.commands();
    let mut looks = tokio::time::interval(WORKER_LOOK);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return End::Asked,
            _ = signals.interrupt.recv() => return End::Asked,
            () = app.quit.cancelled() => return End::Asked,
            _ = looks.tick() => if app.has_lost_a_worker() {
                return End::LostWorker;
            },
            _ = signals.hangup.recv() => {
                let (reply, done) = oneshot::channel();
                // The controller tells what came of it.
                if commands.send(Command::Reload(reply)).await.is_ok() {
                    let _ = done.await;
                }
            }
        }
    }
}

/// How often the workers are looked at.
const WORKER_LOOK: Duration = Duration::from_secs(1);

fn start_log(args: &RunArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log)
        .map_err(|error| anyhow::anyhow!("--log {}: {error}", args.log))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(colours());
    match args.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Whether messages on stderr may have colours.
fn colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}
