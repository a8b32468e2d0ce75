//! What becomes of connections before their first request.

use crate::names::ListenerName;
use crate::telemetry::counts::Counter;

/// How a TLS handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// A new session.
    Full,
    /// A session from before.
    Resumed,
    /// Refused by one of the two sides.
    Failed,
}

impl Handshake {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Full, Self::Resumed, Self::Failed];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::Failed => "failed",
        }
    }
}

/// Why a connection was closed before a handshake, or in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// No PROXY header, not a proper one, or from somebody who may not send one.
    ProxyProtocol,
    /// No TLS on a port for it.
    NotTls,
    /// Too slow.
    Timeout,
    /// The oldest of too many at once.
    Crowded,
}

impl Turned {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::ProxyProtocol, Self::NotTls, Self::Timeout, Self::Crowded];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ProxyProtocol => "proxy_protocol",
            Self::NotTls => "not_tls",
            Self::Timeout => "timeout",
            Self::Crowded => "crowded",
        }
    }
}

/// A listener's counters, for each worker its own.
#[derive(Debug)]
pub struct Door {
    /// The label.
    pub name: ListenerName,
    workers: Box<[DoorCounters]>,
}

/// One worker's counters of a listener; on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct DoorCounters {
    /// Connections that were accepted.
    pub accepted: Counter,
    /// Of them, those that are over.
    pub closed: Counter,
    handshakes: [Counter; Handshake::ALL.len()],
    turned: [Counter; Turned::ALL.len()],
}

impl Door {
    /// With zero counts for `workers` workers.
    pub fn new(name: ListenerName, workers: usize) -> Self {
        Self { name, workers: (0..workers).map(|_| DoorCounters::default()).collect() }
    }

    /// The counters that `worker` alone may write.
    pub fn of(&self, worker: usize) -> &DoorCounters {
        &self.workers[worker]
    }

    /// Connections of all workers that were accepted, and of them those that are open.
    pub fn connections(&self) -> (u64, u64) {
        // In this order, so that none is over before it was accepted.
        let closed: u64 = self.workers.iter().map(|one| one.closed.get()).sum();
        let accepted: u64 = self.workers.iter().map(|one| one.accepted.get()).sum();
        (accepted, accepted.saturating_sub(closed))
    }

    /// Handshakes of all workers that ended so.
    pub fn handshakes(&self, how: Handshake) -> u64 {
        self.workers.iter().map(|one| one.handshake(how).get()).sum()
    }

    /// Connections of all workers that were closed for this.
    pub fn turned(&self, why: Turned) -> u64 {
        self.workers.iter().map(|one| one.turned(why).get()).sum()
    }
}

impl DoorCounters {
    /// Handshakes that ended so.
    pub fn handshake(&self, how: Handshake) -> &Counter {
        &self.handshakes[how as usize]
    }

    /// Connections that were closed for this.
    pub fn turned(&self, why: Turned) -> &Counter {
        &self.turned[why as usize]
    }
}
