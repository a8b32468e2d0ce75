//! The thread that writes down what workers tell of single requests: lines of the access log,
//! and spans for a collector.
//!
//! Never waited for by a request: a slow disk, or a collector that is away, costs what does not
//! fit into the queues, which is counted. A worker never wakes this thread: it looks by itself.

pub mod collector;
mod exemplars;
mod grpc;
pub mod lines;
mod members;
pub mod otlp;
pub mod writer;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{AccessLog, Tracing};
use crate::control::Status;
use crate::control::export::collector::Collector;
use crate::control::export::lines::Page;
use crate::control::export::writer::Writer;
use crate::telemetry::registry::Registry;
use crate::telemetry::story::QUEUE_MAX;
use crate::telemetry::told::Told;
use crate::units::Tick;

/// How often the queues are looked at, while something is asked for.
const LOOK: Duration = Duration::from_millis(25);

/// How often, while nothing is.
const LOOK_IDLE: Duration = Duration::from_millis(250);

/// How long the end waits for a collector.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

/// The running thread.
#[derive(Debug)]
pub struct Export {
    thread: JoinHandle<()>,
    stop: CancellationToken,
}

impl Export {
    /// Writes what was told so far, then ends.
    pub fn stop(self) {
        self.stop.cancel();
        // One that panicked has ended too.
        let _ = self.thread.join();
    }
}

/// Starts the thread.
pub fn start(
    registry: &Registry,
    status: watch::Receiver<Arc<Status>>,
    clock: Clock,
) -> io::Result<Export> {
    let stop = CancellationToken::new();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut exporter = Exporter {
        told: registry.take_told(),
        status,
        clock,
        page: Page::default(),
        writer: Some(Writer::start(Arc::clone(registry.outlets()), clock)?),
        collector: Collector::new(Arc::clone(registry.outlets())),
    };
    let stopped = stop.clone();
    let thread = thread::Builder::new().name("serin-export".to_owned());
    let thread = thread.spawn(move || {
        runtime.block_on(exporter.run(&stopped));
        // A resolver that does not answer is not waited for.
        runtime.shutdown_background();
    })?;
    Ok(Export { thread, stop })
}

struct Exporter {
    told: Vec<Receiver<Told>>,
    status: watch::Receiver<Arc<Status>>,
    clock: Clock,
    page: Page,
    /// `None` at the end.
    writer: Option<Writer>,
    collector: Collector,
}

impl Exporter {
    async fn run(&mut self, stop: &CancellationToken) {
        loop {
            let (access_log, tracing) = {
                let status = self.status.borrow();
                (status.config.access_log.clone(), status.config.tracing.clone())
            };
            self.look(access_log.as_ref(), tracing.as_ref());
            self.collector.go_on(self.clock.now(), false);
            let pause = if access_log.is_none() && tracing.is_none() { LOOK_IDLE } else { LOOK };
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => {
                    self.look(access_log.as_ref(), tracing.as_ref());
                    let writer = self.writer.take();
                    let _ = timeout(LAST_WORDS_MAX, self.collector.finish(self.clock)).await;
                    if let Some(writer) = writer {
                        writer.finish().await;
                    }
                    return;
                }
            }
        }
    }

    /// Takes in what waits in the queues.
    fn look(&mut self, access_log: Option<&AccessLog>, tracing: Option<&Tracing>) {
        let wall = Wall::of(self.clock);
        for queue in &self.told {
            // No more than was there: a busy worker must not keep the others waiting.
            for told in queue.try_iter().take(QUEUE_MAX) {
                if let Some(access_log) = access_log {
                    match &told {
                        Told::Request(request) if request.is_logged => {
                            self.page.line(request, access_log, wall);
                        }
                        Told::Refused(one) => self.page.refusal(one, access_log, wall),
                        Told::Request(_) | Told::Copy(_) => {}
                    }
                }
                let is_traced = match &told {
                    Told::Request(request) => request.is_traced,
                    Told::Copy(_) => true,
                    Told::Refused(_) => false,
                };
                if is_traced && tracing.is_some() {
                    if let Told::Request(request) = &told {
                        exemplars::keep(request, wall);
                    }
                    self.collector.take(&told, wall);
                }
            }
        }
        self.collector.aim_at(tracing);
        let path = access_log.and_then(|one| one.file.as_deref());
        if let (Some(writer), Some(lines)) = (&self.writer, self.page.take(path)) {
            writer.write(lines);
        }
    }
}

/// What makes a tick a time of day.
#[derive(Clone, Copy, Debug)]
pub struct Wall {
    /// At tick zero, since the Unix epoch.
    start: Duration,
}

impl Wall {
    /// As `clock` has it now.
    pub fn of(clock: Clock) -> Self {
        Self { start: clock.wall().saturating_sub(clock.now().since_start()) }
    }

    /// Since the Unix epoch.
    pub fn at(self, tick: Tick) -> Duration {
        self.start + tick.since_start()
    }
}
