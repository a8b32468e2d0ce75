//! Everything one request needs, of one age.
//!
//! Never changed once it is published: a change is another snapshot. Holds handles to
//! counters, so that a request counts where its own snapshot says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use rustls::ServerConfig;

use crate::names::{BackendName, ListenerName, RolloutName, RuleId};
use crate::telemetry::counts::{Arm, Evidence, Leg, RetryBudget};
use crate::telemetry::gate::Gate;
use crate::telemetry::listeners::Door;
use crate::telemetry::signs::Signs;
use crate::telemetry::story::Telling;
use crate::tls::client::Encryption;
use crate::traffic::balance::Balance;
use crate::traffic::draw::{Salt, StickyKey};
use crate::traffic::mirror::Mirror;
use crate::traffic::probe::Probe;
use crate::traffic::protocol::Protocol;
use crate::traffic::retry::{Retry, Timeouts};
use crate::traffic::route::Table;
use crate::traffic::source::Cidr;
use crate::traffic::split::Split;
use crate::traffic::warm_up::WarmUp;
use crate::units::Tick;

/// Everything one request needs, of one age.
#[derive(Debug)]
pub struct Snapshot {
    /// Rises by one with every published config; rollouts that move do not change it.
    pub generation: u64,
    /// Finds an index into `rules`.
    pub table: Table,
    /// In the config's order, over all routes.
    pub rules: Vec<Rule>,
    /// In the config's order.
    pub backends: Vec<Backend>,
    /// In the config's order.
    pub listeners: Vec<Arc<Listener>>,
    /// Whose `x-forwarded-*` fields are appended to; `None` is everyone's.
    pub trusted_proxies: Option<Vec<Cidr>>,
    /// Counts requests that no rule fits.
    pub unrouted: Arc<Leg>,
    /// Whether clients are told what served them.
    pub response_headers: bool,
    /// A request's body up to this size is kept until the answer begins.
    pub replay_body_bytes_max: usize,
    /// What is told of single requests; `None` is nothing.
    pub telling: Option<Arc<Telling>>,
}

/// How connections begin.
#[derive(Debug)]
pub struct Listener {
    /// Its name.
    pub name: ListenerName,
    /// Who may begin with a PROXY header, and has to; `None` is nobody.
    pub proxy_protocol: Option<Senders>,
    /// For a request's head, and for what comes before HTTP.
    pub head_timeout: Duration,
    /// TLS, with the certificates of now; `None` is cleartext.
    pub tls: Option<Arc<ServerConfig>>,
    /// Its counters.
    pub door: Arc<Door>,
}

/// Who may send a PROXY header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Senders {
    /// Whoever can connect.
    Everyone,
    /// These alone.
    Of(Vec<Cidr>),
}

impl Listener {
    /// Whether HTTP is spoken from the first byte on.
    pub fn is_plain(&self) -> bool {
        self.proxy_protocol.is_none() && self.tls.is_none()
    }
}

/// A rule, with its weights as they are now.
#[derive(Debug)]
pub struct Rule {
    /// Its full name.
    pub id: RuleId,
    /// Over indices into `targets`; the canary first.
    pub split: Split<usize>,
    /// The backends of the rule.
    pub targets: Vec<Target>,
    /// Whether a target or a shadow knows its model by another name: bodies are read then.
    pub renames: bool,
    /// What keeps a user on one version.
    pub sticky: Option<StickyKey>,
    /// Of the sticky hash.
    pub salt: Salt,
    /// Its shadows.
    pub mirrors: Vec<Shadow>,
    /// How long each phase may take.
    pub timeouts: Timeouts,
    /// Bytes of a request's body; `None` is any number.
    pub body_bytes_max: Option<u64>,
    /// What is tried again, and what is being tried again now.
    pub retry: Option<(Retry, Arc<RetryBudget>)>,
    /// Who answers what the canary fails.
    pub failover: Option<Failover>,
    /// The rollout that watches the rule.
    pub rollout: Option<Rollout>,
}

/// Who answers for whom: indices into a rule's targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failover {
    /// Whose failed attempts go to stable.
    pub canary: usize,
    /// Who answers them.
    pub stable: usize,
}

/// A backend as a rule uses it.
#[derive(Debug)]
pub struct Target {
    /// Index into the snapshot's backends.
    pub backend: usize,
    /// Its counters.
    pub leg: Arc<Leg>,
    /// Its side of the rollout, if it has one.
    pub arm: Option<Arm>,
    /// Becomes true when its answers are to be ended; `None` is never.
    pub cut: Option<Arc<AtomicBool>>,
    /// The name that it knows its model by; `None` is the one that was asked for.
    pub model: Option<Arc<str>>,
}

/// A mirror of a rule.
#[derive(Debug)]
pub struct Shadow {
    /// What is copied.
    pub mirror: Mirror,
    /// Index into the snapshot's backends.
    pub backend: usize,
    /// Its counters.
    pub leg: Arc<Leg>,
    /// Copies under way, over all workers and snapshots.
    pub in_flight: Arc<AtomicU32>,
}

/// What a rule knows of its rollout.
#[derive(Debug)]
pub struct Rollout {
    /// Its name.
    pub name: RolloutName,
    /// Where attempts under the rule's present weights are counted.
    pub evidence: Arc<Evidence>,
    /// How long the latency of a new endpoint is no evidence.
    pub warm_up: WarmUp,
    /// Requests of Serin's own; `None` is none, and none once the rollout has ended.
    pub probing: Option<Probing>,
}

impl Rollout {
    /// Where the canary stands among the targets of its rule.
    pub const CANARY: usize = 0;
    /// Where stable stands among them.
    pub const STABLE: usize = 1;
}

/// Requests of Serin's own to both versions of a rollout.
#[derive(Clone, Debug)]
pub struct Probing {
    /// What is sent.
    pub probe: Arc<Probe>,
    /// Where what becomes of it is counted, at stable and at the canary: by one worker.
    pub legs: [Arc<Leg>; 2],
}

/// One model version.
#[derive(Debug)]
pub struct Backend {
    /// Its name.
    pub name: BackendName,
    /// Those that may get requests; may be empty.
    pub endpoints: Vec<Endpoint>,
    /// How they share requests.
    pub balance: Balance,
    /// What is spoken with them.
    pub protocol: Protocol,
    /// TLS to them, with the certificates of now; `None` is cleartext.
    pub tls: Option<Arc<Encryption>>,
    /// How long one that is new or came back gets less than its share.
    pub slow_start: Option<Duration>,
    /// How many requests may be under way; `None` is any number.
    pub limit: Option<Limit>,
}

/// How many requests of a backend may be under way, and how long others wait.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Over all workers and snapshots.
    pub gate: Arc<Gate>,
    /// Longest wait.
    pub queue_timeout: Duration,
}

/// One address of a backend.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// When it appeared or came back; `None` has been there since Serin's start.
    pub since: Option<Tick>,
    /// What workers see of it.
    pub signs: Arc<Signs>,
}

/// Publishes snapshots. Not `Clone`: there is one writer, and the type says so.
#[derive(Debug)]
pub struct Publisher(Arc<ArcSwap<Snapshot>>);

/// Reads the snapshot published last. One per worker.
#[derive(Debug)]
pub struct Reader(Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>);

impl Publisher {
    /// Publishes the first snapshot.
    pub fn new(first: Snapshot) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(first)))
    }

    /// From here on every new request uses `next`.
    pub fn publish(&mut self, next: Snapshot) {
        self.0.store(Arc::new(next));
    }

    /// One more reader.
    pub fn reader(&self) -> Reader {
        Reader(Cache::new(Arc::clone(&self.0)))
    }
}

impl Reader {
    /// Call once per request and keep the answer, or halves of two ages will mix.
    pub fn load(&mut self) -> &Arc<Snapshot> {
        self.0.load()
    }
}
