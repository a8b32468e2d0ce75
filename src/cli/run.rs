//! `serin run`: the proxy, with its signals.
//!
//! Never does what the app does: it starts it, passes signals on and waits.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::app::{App, Drained, StartError};
use crate::cli::log::{Log, LogArgs, colours};
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
    /// How it is logged.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Runs the proxy until a signal or `/quitquitquit` ends it.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let log = Log::start(&args.log)?;
    take_all_files();
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
    app.count_log_drops(log.dropped());
    for (name, address) in &app.listeners {
        tracing::info!(event = "listening", listener = %name, %address, "listening");
    }
    tracing::info!(event = "admin", address = %app.admin, "admin");
    if let Some(address) = app.metrics {
        tracing::info!(event = "metrics", %address, "metrics");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        if until_ended(&app, &mut signals).await == End::LostWorker {
            tracing::error!(
                event = "worker_lost",
                "a worker has died; ending, so that whoever watches starts anew"
            );
            app.stop();
            return Ok(ExitCode::FAILURE);
        }
        tracing::info!(event = "draining", "draining");
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
                Drained::Whole => tracing::info!(event = "drained", cut = false, "drained"),
                Drained::Cut => {
                    tracing::warn!(event = "drained", cut = true, "drained; requests under way were cut");
                }
            },
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Every client is an open file, and the soft limit is often 1024 for the sake of programs that
/// could not tell more apart.
fn take_all_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Where it cannot be had, there are fewer: that is told when they are used up.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
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
