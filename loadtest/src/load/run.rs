//! Runs a load: a pacing thread that knows when, a network thread that does it.
//!
//! The pacer sleeps on the system's clock, which is finer than a runtime's timer
//! (a millisecond in tokio), so that the intended start is met within the
//! scheduler's delay. Never outlives its handle.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use http::HeaderValue;
use tokio::sync::{Semaphore, mpsc, watch};

use super::LoadError;
use super::arrivals::{Arrivals, Schedule};
use super::connections::{Connections, Failure};
use super::request::RequestTemplate;
use super::stats::{Ending, LoadStats, Recorder, SecondStats};
use crate::time;

/// Requests in flight, waiting for a connection included. When full, a request is
/// not sent and counts as an error: the target has long lost.
pub const IN_FLIGHT_MAX: u32 = 10_000;
/// Starts between the pacer and the network. When full, the pacer waits: the starts
/// keep their intended times, so the delay shows in the latency.
const STARTS_MAX: usize = 1_024;
/// The pacer looks this often whether it should stop.
const NAP_MAX: Duration = Duration::from_millis(20);

/// An open-loop load on one loopback address.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where to; anything but loopback is refused.
    pub target: SocketAddr,
    /// Requests per second.
    pub rps: f64,
    /// How they are spread.
    pub arrivals: Arrivals,
    /// What is sent.
    pub request: RequestTemplate,
    /// Connections grow to this many when answers are slower than arrivals.
    pub connections_max: usize,
    /// Equal seeds give equal schedules.
    pub seed: u64,
    /// Sent at the same rate first, but not counted.
    pub warm_up: Duration,
    /// How long requests are started, warm-up left out.
    pub duration: Duration,
    /// No more requests than this are started, warm-up included.
    pub requests_max: u64,
    /// From the intended start to the end of the answer.
    pub timeout: Duration,
}

impl Load {
    /// Poisson arrivals for an hour over at most 256 connections, with a timeout of
    /// 10 s and no warm-up.
    pub fn new(target: SocketAddr, rps: f64, request: RequestTemplate) -> Self {
        Self {
            target,
            rps,
            arrivals: Arrivals::Poisson,
            request,
            connections_max: 256,
            seed: 1,
            warm_up: Duration::ZERO,
            duration: Duration::from_hours(1),
            requests_max: u64::MAX,
            timeout: Duration::from_secs(10),
        }
    }

    /// Starts to send. Fails when the target is not loopback or the rate is no rate.
    pub fn start(self) -> Result<LoadHandle, LoadError> {
        if !self.target.ip().is_loopback() {
            return Err(LoadError::NotLoopback(self.target));
        }
        if !(0.001..=1e6).contains(&self.rps) {
            return Err(LoadError::Rate(self.rps));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let started = time::now();
        let shared = Arc::new(Shared {
            recorder: Mutex::new(Recorder::new(started + self.warm_up)),
            stopping: AtomicBool::new(false),
            abandoned: watch::Sender::new(false),
        });
        let (starts, queue) = mpsc::channel(STARTS_MAX);
        let network = {
            let (load, shared) = (self.clone(), Arc::clone(&shared));
            thread::Builder::new().name("load-network".into()).spawn(move || {
                runtime.block_on(load.exchange_all(queue, shared));
            })?
        };
        let pacer = {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name("load-pacer".into())
                .spawn(move || self.pace(started, &starts, &shared.stopping))?
        };
        Ok(LoadHandle { shared, threads: vec![pacer, network] })
    }

    /// Hands out the intended starts, each when it has come.
    fn pace(&self, started: Instant, starts: &mpsc::Sender<Instant>, stopping: &AtomicBool) {
        let limit = self.warm_up.saturating_add(self.duration);
        let schedule = Schedule::new(self.arrivals, self.rps, self.seed);
        let count = usize::try_from(self.requests_max).unwrap_or(usize::MAX);
        for offset in schedule.take_while(|offset| *offset < limit).take(count) {
            let intended = started + offset;
            loop {
                if stopping.load(Relaxed) {
                    return;
                }
                let left = intended.saturating_duration_since(time::now());
                if left.is_zero() {
                    break;
                }
                thread::sleep(left.min(NAP_MAX));
            }
            if starts.blocking_send(intended).is_err() {
                return;
            }
        }
    }

    async fn exchange_all(self, mut starts: mpsc::Receiver<Instant>, shared: Arc<Shared>) {
        let mut abandoned = shared.abandoned.subscribe();
        let all = async {
            let sender = Arc::new(RequestSender::new(self, shared));
            let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX as usize));
            let mut number = 0;
            while let Some(intended) = starts.recv().await {
                sender.shared.recorder().start(intended, time::now());
                if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                    let sender = Arc::clone(&sender);
                    tokio::spawn(async move {
                        sender.send(number, intended).await;
                        drop(place);
                    });
                } else {
                    sender.shared.recorder().end(intended, time::now(), &Ending::Unsent);
                }
                number += 1;
            }
            // Everything in flight has ended when all places are free again.
            let _ = places.acquire_many(IN_FLIGHT_MAX).await;
        };
        tokio::select! {
            () = all => (),
            _ = abandoned.wait_for(|abandoned| *abandoned) => (),
        }
    }
}

/// What the network thread's tasks share.
struct RequestSender {
    load: Load,
    connections: Connections,
    host: HeaderValue,
    shared: Arc<Shared>,
}

impl RequestSender {
    fn new(load: Load, shared: Arc<Shared>) -> Self {
        let host = HeaderValue::try_from(load.target.to_string());
        Self {
            connections: Connections::new(load.target, load.connections_max.max(1)),
            host: host.unwrap_or_else(|_| HeaderValue::from_static("localhost")),
            load,
            shared,
        }
    }

    async fn send(&self, number: u64, intended: Instant) {
        let request = self.load.request.build(number, &self.host);
        let deadline = tokio::time::Instant::from_std(intended + self.load.timeout);
        let exchange = self.connections.exchange(request);
        let ending = match tokio::time::timeout_at(deadline, exchange).await {
            Ok(Ok(status)) => Ending::Answered(status),
            Ok(Err(failure)) => Ending::Failed(failure),
            Err(_) => Ending::Failed(Failure::Timeout),
        };
        self.shared.recorder().end(intended, time::now(), &ending);
    }
}

#[derive(Debug)]
struct Shared {
    recorder: Mutex<Recorder>,
    stopping: AtomicBool,
    abandoned: watch::Sender<bool>,
}

impl Shared {
    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running load, readable from any thread. Dropping it abandons what is in flight.
#[derive(Debug)]
pub struct LoadHandle {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl LoadHandle {
    /// Everything so far.
    pub fn stats(&self) -> LoadStats {
        self.shared.recorder().totals(time::now())
    }

    /// The whole seconds from this one on (0 for all), of the last
    /// [`SECONDS_MAX`](super::SECONDS_MAX).
    pub fn seconds_from(&self, first: u64) -> Vec<SecondStats> {
        self.shared.recorder().seconds_from(first, time::now())
    }

    /// Whether the load has ended and nothing is in flight.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Starts no more requests. Those in flight go on.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Relaxed);
    }

    /// Waits for the end of the load and of what is in flight. Blocks.
    pub fn wait(mut self) -> LoadStats {
        self.join();
        self.stats()
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}

impl Drop for LoadHandle {
    fn drop(&mut self) {
        self.stop();
        self.shared.abandoned.send_replace(true);
        self.join();
    }
}
