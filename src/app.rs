//! Wires the parts: config, sockets, workers, control thread, drain.
//!
//! Never handles a signal or prints: `cli` does, and tests and the demo run several of
//! these in one process.

pub mod explain;
pub mod survey;
pub mod watch;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::app::watch::Watch;
use crate::clock::Clock;
use crate::config::defect::Defects;
use crate::config::load::{self, Loaded};
use crate::config::{self, Config};
use crate::control::admin::feed::Feed;
use crate::control::admin::{self, AdminState, Readiness, Token};
use crate::control::certificates::Certificates;
use crate::control::controller::{Controller, Memory};
use crate::control::ledger::{Ledger, LedgerError};
use crate::control::{COMMANDS_MAX, Command, export, reload};
use crate::names::ListenerName;
use crate::proxy::listener::{self, Listener, Stop};
use crate::telemetry::registry::Registry;
use crate::telemetry::story::LogDrops;

/// How long a drain waits for the first request of clients that have asked nothing yet: as a rule
/// it is on its way.
const NEWCOMER_WAIT_MAX: Duration = Duration::from_secs(1);

/// How often a drain looks whether the workers have ended.
const DRAIN_LOOK: Duration = Duration::from_millis(10);

/// A running proxy. Dropping it does not stop it: call [`App::stop`] or [`App::drain`].
#[derive(Debug)]
pub struct App {
    /// Where each listener listens, in the config's order.
    pub listeners: Vec<(ListenerName, SocketAddr)>,
    /// The admin port.
    pub admin: SocketAddr,
    /// The metrics port, if there is one.
    pub metrics: Option<SocketAddr>,
    /// Asked for by `/quitquitquit`; whoever runs the app drains it then.
    pub quit: CancellationToken,
    commands: mpsc::Sender<Command>,
    watch: Watch,
    readiness: Arc<Readiness>,
    stop: Stop,
    workers: Vec<JoinHandle<()>>,
    control: JoinHandle<()>,
    control_stop: CancellationToken,
    export: export::Export,
}

/// Why a proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The config file has defects.
    #[error("{0}")]
    Config(Box<Defects>),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({what}): {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the address is for.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The state file cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The token file cannot be used.
    #[error("admin token file {}: {source}", path.display())]
    Token {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A thread or its runtime could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// How a drain went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Everything under way was finished.
    Whole,
    /// Some was cut at the deadline.
    Cut,
}

impl App {
    /// Reads the config file and starts.
    pub fn start(path: &Path) -> Result<Self, StartError> {
        let loaded = load::load(path).map_err(|defects| StartError::Config(Box::new(defects)))?;
        for warning in &loaded.warnings {
            tracing::warn!(
                event = "config_warning", file = %path.display(), line = warning.place.line,
                key = %warning.path, code = warning.code.as_str(), "{}", warning.message
            );
        }
        Self::start_loaded(path, loaded)
    }

    /// Starts with what was read from `path`.
    pub fn start_loaded(path: &Path, loaded: Loaded) -> Result<Self, StartError> {
        let clock = Clock::start();
        let config = loaded.config.clone();
        let workers = config.workers.map_or_else(cores, NonZeroUsize::get);
        let tokens = read_tokens(&config)?;
        let certificates = read_certificates(path, &loaded, clock)?;
        let (sockets, listeners) = bind_listeners(&config, workers)?;
        let (admin_socket, admin) = bind(config.admin.address, "admin")?;
        let (metrics_socket, metrics) = bind_metrics(&config)?;
        // After the sockets: a second Serin started by mistake must not touch the first one's.
        let ledger = Ledger::open(config.state_file.clone())?;
        let memory = Memory::start(ledger).map_err(StartError::Thread)?;

        let registry = Arc::new(Registry::new(workers));
        let hash = loaded.hash.clone();
        let mut controller = Controller::new(
            clock,
            path.to_owned(),
            loaded,
            Arc::clone(&registry),
            memory,
            certificates,
        );
        let (known, all_known) = std::sync::mpsc::sync_channel(1);
        controller.tell_when_known(known);
        let readers: Vec<_> = (0..workers).map(|_| controller.reader()).collect();
        let (commands, asked) = mpsc::channel(COMMANDS_MAX);
        let (readiness, quit) = (Arc::<Readiness>::default(), CancellationToken::new());
        let control_stop = CancellationToken::new();
        let watch = Watch::new(controller.status(), Arc::clone(&registry));
        let export = start_export(&registry, &controller, clock)?;
        let state = AdminState {
            commands: commands.clone(),
            status: controller.status(),
            registry,
            tokens,
            published: controller.published(),
            feed: Feed::new(controller.status(), Arc::clone(&readiness), clock),
            readiness: Arc::clone(&readiness),
            quit: quit.clone(),
        };
        let control = Control {
            controller,
            asked,
            watch: (path.to_owned(), hash),
            state,
            admin: admin_socket,
            metrics: metrics_socket,
            stop: control_stop.clone(),
        };
        let control = control.start().map_err(StartError::Thread)?;
        await_endpoints(&config, &all_known);
        let stop = Stop::default();
        let workers = listener::start(sockets, readers, clock, &stop).map_err(|error| {
            control_stop.cancel();
            StartError::Thread(error)
        })?;
        readiness.set_listening();
        Ok(Self {
            listeners,
            admin,
            metrics,
            quit,
            commands,
            watch,
            readiness,
            stop,
            workers,
            control,
            control_stop,
            export,
        })
    }

    /// Asks the controller; used by signals.
    pub fn commands(&self) -> mpsc::Sender<Command> {
        self.commands.clone()
    }

    /// Lets the metrics tell of lines that the log had to leave out.
    pub fn count_log_drops(&self, drops: impl Fn() -> u64 + Send + Sync + 'static) {
        self.watch.outlets().count_log_drops(LogDrops(Box::new(drops)));
    }

    /// Shows what it does; used by the demo.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Whether a worker has ended that was not told to: there is one less to serve.
    pub fn has_lost_a_worker(&self) -> bool {
        self.workers.iter().any(JoinHandle::is_finished)
    }

    /// Fails readiness, stops accepting and finishes what is under way, for as long as the
    /// config says or until `hurry` is cancelled; then stops.
    pub fn drain(self, hurry: &CancellationToken) -> Drained {
        self.readiness.set_draining();
        let clock = Clock::start();
        let drain_delay = self.watch.drain_delay();
        // Whoever sends users here is told first, and goes on sending until they have heard.
        while clock.now().since_start() < drain_delay && !hurry.is_cancelled() {
            thread::sleep(DRAIN_LOOK);
        }
        self.stop.drain.cancel();
        let clock = Clock::start();
        let drain_timeout = self.watch.drain_timeout();
        let newcomer_wait = NEWCOMER_WAIT_MAX.min(drain_timeout / 2);
        let late = || clock.now().since_start() >= drain_timeout || hurry.is_cancelled();
        while !self.workers.iter().all(JoinHandle::is_finished) && !late() {
            if clock.now().since_start() >= newcomer_wait {
                self.stop.newcomers.cancel();
            }
            thread::sleep(DRAIN_LOOK);
        }
        let whole = self.workers.iter().all(JoinHandle::is_finished);
        self.stop();
        if whole { Drained::Whole } else { Drained::Cut }
    }

    /// Stops at once.
    pub fn stop(self) {
        self.stop.now.cancel();
        for worker in self.workers {
            // A worker that panicked has ended too.
            let _ = worker.join();
        }
        self.control_stop.cancel();
        let _ = self.control.join();
        // What the last requests told is written.
        self.export.stop();
    }
}

/// The control plane's parts, on their way to its thread.
struct Control {
    controller: Controller,
    asked: mpsc::Receiver<Command>,
    /// The config file and the hash of its content in force.
    watch: (PathBuf, String),
    state: AdminState,
    admin: TcpListener,
    metrics: Option<TcpListener>,
    stop: CancellationToken,
}

impl Control {
    fn start(self) -> io::Result<JoinHandle<()>> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("serin-control".to_owned());
        thread.spawn(move || {
            runtime.block_on(self.run());
            // A resolver that does not answer is not waited for.
            runtime.shutdown_background();
        })
    }

    async fn run(self) {
        let Self { controller, asked, watch, state, admin, metrics, stop } = self;
        let (files, commands) = (controller.files(), state.commands.clone());
        reload::warn_of_sub_path(&watch.0);
        let watching = tokio::spawn(reload::watch(watch.0, watch.1, files, commands));
        let feeding = tokio::spawn(Arc::clone(&state.feed).run(stop.clone()));
        let mut routers = vec![(admin, admin::admin_router(state.clone()))];
        routers.extend(metrics.map(|socket| (socket, admin::metrics_router(state))));
        let mut servers = Vec::new();
        for (socket, router) in routers {
            match tokio::net::TcpListener::from_std(socket) {
                Ok(socket) => {
                    servers.push(tokio::spawn(admin::serve(socket, router, stop.clone())));
                }
                Err(error) => tracing::error!(
                    event = "admin_failed", %error, "cannot serve the admin or metrics port"
                ),
            }
        }
        controller.run(asked, stop).await;
        watching.abort();
        // Readers of events are told, so that their connections end.
        let _ = feeding.await;
        // Whoever asked for the end gets an answer.
        for server in servers {
            let _ = server.await;
        }
    }
}

/// What comes meanwhile waits in the kernel's queues. Who does not answer is unwell.
fn await_endpoints(config: &Config, all_known: &std::sync::mpsc::Receiver<()>) {
    if let Some(patience) = patience_of(config) {
        let _ = all_known.recv_timeout(patience);
    }
}

/// How long the start waits for endpoints to be asked for the first time: a request that came
/// before would be refused for want of an endpoint, or get a version that the fleet has taken
/// out. `None` where nobody is asked.
fn patience_of(config: &Config) -> Option<Duration> {
    let backends = config.backends.iter();
    let longest = backends.filter_map(|backend| {
        let resolver = backend.is_found().then_some(PATIENCE_FOUND);
        let asked = backend.health.as_ref().map(|check| check.timeout);
        resolver.into_iter().chain(asked).reduce(|one, other| one + other)
    });
    // What the fleet has taken out must not be served until that is heard.
    let fleet = config.fleet.as_ref().map(|_| PATIENCE_FOUND);
    Some((longest.chain(fleet).max()? + PATIENCE_MORE).min(PATIENCE_MAX))
}

/// For the system's resolver, or the Kubernetes API.
const PATIENCE_FOUND: Duration = Duration::from_secs(2);

/// For the control thread to take the answers in.
const PATIENCE_MORE: Duration = Duration::from_millis(250);

/// The start never waits for longer.
const PATIENCE_MAX: Duration = Duration::from_secs(5);

fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

fn read_tokens(config: &Config) -> Result<Vec<Token>, StartError> {
    let config::Admin { token_file, tokens, .. } = &config.admin;
    let first = token_file.iter().map(|path| (config::Admin::TOKEN_NAME, path));
    let all = first.chain(tokens.iter().map(|(name, path)| (name.as_str(), path)));
    let read = |(name, path): (&str, &PathBuf)| {
        let text = std::fs::read_to_string(path)
            .map_err(|source| StartError::Token { path: path.clone(), source })?;
        Ok(Token { name: name.to_owned(), secret: text.trim().to_owned() })
    };
    all.map(read).collect()
}

/// What was whole when the file was checked may not be any more.
fn read_certificates(
    path: &Path,
    loaded: &Loaded,
    clock: Clock,
) -> Result<Certificates, StartError> {
    let now = i64::try_from(clock.wall().as_secs()).unwrap_or(i64::MAX);
    let renewed = Certificates::default().renew(&loaded.config, now);
    if renewed.refused.is_empty() {
        return Ok(renewed.certificates);
    }
    let (origin, text) = (path.display().to_string(), loaded.text.clone());
    let hash = Some(loaded.hash.clone());
    Err(StartError::Config(Box::new(Defects { origin, text, hash, list: renewed.refused })))
}

type Bound = (Vec<Listener>, Vec<(ListenerName, SocketAddr)>);

fn bind_listeners(config: &Config, workers: usize) -> Result<Bound, StartError> {
    let mut sockets = Vec::new();
    let mut addresses = Vec::new();
    for listener in &config.listeners {
        let error = |source| StartError::Bind {
            address: listener.address,
            what: format!("listener {}", listener.name),
            source,
        };
        let (address, clients_max) = (listener.address, listener.connections_max);
        let socket = Listener::bind(address, workers, clients_max).map_err(error)?;
        addresses.push((listener.name.clone(), socket.address().map_err(error)?));
        sockets.push(socket);
    }
    Ok((sockets, addresses))
}

fn bind_metrics(config: &Config) -> Result<(Option<TcpListener>, Option<SocketAddr>), StartError> {
    let bound = config.metrics.map(|address| bind(address, "metrics"));
    Ok(bound.transpose()?.unzip())
}

fn start_export(
    registry: &Registry,
    controller: &Controller,
    clock: Clock,
) -> Result<export::Export, StartError> {
    export::start(registry, controller.status(), clock).map_err(StartError::Thread)
}

fn bind(address: SocketAddr, what: &str) -> Result<(TcpListener, SocketAddr), StartError> {
    let error = |source| StartError::Bind { address, what: what.to_owned(), source };
    let socket = TcpListener::bind(address).map_err(error)?;
    socket.set_nonblocking(true).map_err(error)?;
    let address = socket.local_addr().map_err(error)?;
    Ok((socket, address))
}
