//! The generator: as fast as answers come, at a rate whatever they do, or listening to
//! streams. One thread.
//!
//! Never reports the latency of a closed loop as that of a target: it slows down with it.

use std::collections::VecDeque;
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::time::Duration;

use hdrhistogram::Histogram;
use mio::event::Source;
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};

use super::clock::{self, Timer};
use super::connection::{Connection, Request, Seen};
use super::pace::Pace;
use super::{EVENTS, SCRATCH_BYTES, poll, transport};

const TIMER: Token = Token(usize::MAX);
/// Answers that take longer than this after the end are given up.
const GRACE: u64 = 10_000_000_000;
/// Starts that wait for a free connection. When full, the target has long lost.
const WAITING_MAX: usize = 100_000;
/// Longer latencies count as this.
const LATENCY_NANOS_MAX: u64 = 60_000_000_000;

/// How a target is driven.
#[derive(Clone, Debug)]
pub struct Drive {
    /// Where to; anything but loopback is refused.
    pub target: SocketAddr,
    /// What is asked.
    pub request: Request,
    /// Over TLS.
    pub tls: bool,
    /// Connections, all open before anything is measured.
    pub connections: usize,
    /// Requests at a time on each.
    pub streams: usize,
    /// Requests a second; without it as fast as answers come.
    pub rps: Option<f64>,
    /// Not measured.
    pub warm_up: Duration,
    /// How long requests are started.
    pub duration: Duration,
    /// No more requests than this are measured; of events, those that come with the last are.
    pub requests_max: u64,
    /// Equal seeds give equal starts.
    pub seed: u64,
    /// Says `ready` on stdout before it measures, and waits for a line on stdin.
    pub hold: bool,
}

/// What came of it. Latencies of an open loop count from the intended start, those of streams
/// from the sending of the event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Driven {
    /// Complete answers, or events.
    pub requests: u64,
    /// Answers that were not 2xx, and requests that could not be sent.
    pub errors: u64,
    /// Connections that broke. They are not opened again.
    pub broken: u64,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Microseconds, as all that follow.
    pub p50: f64,
    /// Of a hundred, the slowest.
    pub p99: f64,
    /// Of a thousand.
    pub p999: f64,
    /// How late the generator itself was, of a hundred starts the worst.
    pub lag_p99: f64,
}

/// What a phase does.
enum Plan {
    Closed { until: u64, left: u64 },
    Open(Pace),
    Listen { until: u64, most: u64 },
}

impl Drive {
    /// Blocks until it is over. Fails when the target is not loopback or does not accept all
    /// connections.
    pub fn run(self) -> io::Result<Driven> {
        if !self.target.ip().is_loopback() {
            let refused = format!("{} is not a loopback address", self.target);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, refused));
        }
        let mut driver = Driver::new(&self)?;
        if !self.warm_up.is_zero() || matches!(self.request, Request::Events(_)) {
            driver.run(self.plan(self.warm_up, u64::MAX))?;
        }
        if self.hold {
            wait_for_the_word()?;
        }
        driver.forget();
        let began = clock::now();
        driver.run(self.plan(self.duration, self.requests_max))?;
        Ok(driver.driven(clock::now() - began))
    }

    fn plan(&self, duration: Duration, left: u64) -> Plan {
        let now = clock::now();
        let until = now + duration.as_nanos() as u64;
        match (&self.request, self.rps) {
            (Request::Events(_), _) => Plan::Listen { until, most: left },
            (_, Some(rps)) => Plan::Open(Pace::new(now, rps, duration, self.seed)),
            (_, None) => Plan::Closed { until, left },
        }
    }
}

/// Whoever measures reads the clock of the proxy's CPU in between.
fn wait_for_the_word() -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(b"ready\n")?;
    out.flush()?;
    io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

/// A connection, and how much is asked on it now.
struct Lane {
    connection: Connection,
    in_flight: usize,
}

struct Driver {
    poller: Poll,
    timer: Timer,
    lanes: Vec<Option<Lane>>,
    /// A lane stands here once for each request that it could take.
    free: Vec<usize>,
    in_flight: usize,
    waiting: VecDeque<u64>,
    scratch: Vec<u8>,
    latency: Histogram<u64>,
    lag: Histogram<u64>,
    seen: Driven,
}

impl Driver {
    fn new(drive: &Drive) -> io::Result<Self> {
        let poller = Poll::new()?;
        let timer = Timer::new(poller.registry(), TIMER)?;
        let tls = drive.tls.then(transport::tls_config).transpose()?;
        let mut lanes = Vec::new();
        for lane in 0..drive.connections {
            let mut connection = Connection::open(drive.target, &drive.request, tls.as_ref())?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            connection.socket().register(poller.registry(), Token(lane), interest)?;
            lanes.push(Some(Lane { connection, in_flight: 0 }));
        }
        let free = (0..drive.connections * drive.streams).map(|n| n % drive.connections).collect();
        Ok(Self {
            poller,
            timer,
            lanes,
            free,
            in_flight: 0,
            waiting: VecDeque::new(),
            scratch: vec![0; SCRATCH_BYTES],
            latency: histogram(),
            lag: histogram(),
            seen: Driven::default(),
        })
    }

    /// What was seen until now does not count.
    fn forget(&mut self) {
        self.seen = Driven { broken: self.seen.broken, ..Driven::default() };
        self.latency.reset();
        self.lag.reset();
    }

    fn driven(&self, nanos: u64) -> Driven {
        let micros = |histogram: &Histogram<u64>, quantile| {
            histogram.value_at_quantile(quantile) as f64 / 1e3
        };
        Driven {
            seconds: nanos as f64 / 1e9,
            p50: micros(&self.latency, 0.5),
            p99: micros(&self.latency, 0.99),
            p999: micros(&self.latency, 0.999),
            lag_p99: micros(&self.lag, 0.99),
            ..self.seen
        }
    }

    fn run(&mut self, mut plan: Plan) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        let mut give_up = None;
        loop {
            let now = clock::now();
            let wake_at = self.start_what_is_due(&mut plan, now);
            if self.lanes.iter().all(Option::is_none) || self.is_over(&plan, now) {
                return Ok(());
            }
            // Nothing more is to start: what is in flight has some time left.
            let wake_at = wake_at.unwrap_or_else(|| *give_up.get_or_insert(now + GRACE));
            if give_up.is_some_and(|at| now >= at) {
                self.seen.errors += self.in_flight as u64;
                return Ok(());
            }
            self.timer.wake_at(wake_at)?;
            poll(&mut self.poller, &mut events)?;
            for event in &events {
                if event.token() != TIMER {
                    self.serve(event.token().0, event.is_readable());
                }
            }
        }
    }

    /// Starts what is to start now, and says when to look again at the latest.
    fn start_what_is_due(&mut self, plan: &mut Plan, now: u64) -> Option<u64> {
        let mut asked = Vec::new();
        let next = match plan {
            Plan::Closed { until, left } => {
                while now < *until && *left > 0 && !self.free.is_empty() {
                    *left -= 1;
                    self.ask(now, &mut asked);
                }
                (now < *until && *left > 0).then_some(*until)
            }
            Plan::Open(pace) => {
                while let Some(start) = pace.take(now) {
                    // What is late because the target is slow is no lag of the generator.
                    self.lag.saturating_record(now - start);
                    if self.waiting.len() < WAITING_MAX {
                        self.waiting.push_back(start);
                    } else {
                        self.seen.errors += 1;
                    }
                }
                while let (Some(start), false) = (self.waiting.front(), self.free.is_empty()) {
                    let start = *start;
                    self.waiting.pop_front();
                    self.ask(start, &mut asked);
                }
                pace.next_at()
            }
            Plan::Listen { until, .. } => {
                while !self.free.is_empty() {
                    self.ask(now, &mut asked);
                }
                Some(*until)
            }
        };
        for lane in asked {
            self.serve(lane, false);
        }
        next
    }

    fn is_over(&self, plan: &Plan, now: u64) -> bool {
        match plan {
            Plan::Closed { until, left } => self.in_flight == 0 && (now >= *until || *left == 0),
            Plan::Open(_) if self.in_flight > 0 || !self.waiting.is_empty() => false,
            Plan::Open(pace) => pace.next_at().is_none(),
            Plan::Listen { until, most } => now >= *until || self.seen.requests >= *most,
        }
    }

    /// Asks on a free lane; there has to be one.
    fn ask(&mut self, start: u64, asked: &mut Vec<usize>) {
        let Some(at) = self.free.pop() else { return };
        let Some(lane) = &mut self.lanes[at] else { return };
        if lane.connection.ask(start).is_err() {
            self.break_lane(at);
            return;
        }
        lane.in_flight += 1;
        self.in_flight += 1;
        asked.push(at);
    }

    /// Writes what a lane has to say, and reads what it was told.
    fn serve(&mut self, at: usize, readable: bool) {
        let Some(lane) = &mut self.lanes[at] else { return };
        let mut done = lane.connection.flush();
        if readable && done.is_ok() {
            let now = clock::now();
            let Self { scratch, latency, seen, free, in_flight, .. } = self;
            done = lane.connection.read(scratch, |what| match what {
                Seen::Answer { start, good } => {
                    seen.requests += 1;
                    seen.errors += u64::from(!good);
                    latency.saturating_record(now.saturating_sub(start));
                    lane.in_flight -= 1;
                    *in_flight -= 1;
                    free.push(at);
                }
                Seen::Event(sent) => {
                    seen.requests += 1;
                    latency.saturating_record(now.saturating_sub(sent));
                }
            });
            // HTTP/2 has something to say to what it reads.
            done = done.and_then(|()| lane.connection.flush());
        }
        if done.is_err() {
            self.break_lane(at);
        }
    }

    fn break_lane(&mut self, at: usize) {
        if let Some(lane) = self.lanes[at].take() {
            self.seen.broken += 1;
            self.in_flight -= lane.in_flight;
            self.free.retain(|free| *free != at);
        }
    }
}

fn histogram() -> Histogram<u64> {
    // Constant bounds that hdrhistogram accepts.
    Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, 3).expect("bounds are in order")
}
