//! The config file: as written (`raw`), as meant (`check`), and where it lies (`load`).
//!
//! `tree` reads YAML into nodes that know their place, `read` takes keys from them,
//! `quantity` reads single values, `defect` and `render` say what is wrong with them.
//!
//! Never opens a socket and never starts anything: `serin check` and `serin run`
//! read a file in just the same way.

mod check;
pub mod defect;
pub mod load;
mod manifest;
mod quantity;
mod raw;
mod read;
pub mod render;
mod schema;
mod tree;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Uri};

use crate::names::{BackendName, ListenerName, RolloutName, RouteName, RuleName};
use crate::rollout::plan::Plan;
use crate::tls::{EndpointTls, ServerTls};
use crate::traffic::balance::Balance;
use crate::traffic::draw::StickyKey;
use crate::traffic::ejection::Ejection;
use crate::traffic::health::HealthCheck;
use crate::traffic::limit::Limits;
use crate::traffic::matching::{HostPattern, Match};
use crate::traffic::mirror::Mirror;
use crate::traffic::probe::Probe;
use crate::traffic::protocol::Protocol;
use crate::traffic::retry::{Retry, Timeouts};
use crate::traffic::source::Cidr;
use crate::traffic::warm_up::WarmUp;
use crate::units::{Ratio, Weight};

/// A config file as meant: every name resolves, every number is within its limits.
#[derive(Clone, Debug)]
pub struct Config {
    /// At least one; addresses do not overlap.
    pub listeners: Vec<Listener>,
    /// The admin port.
    pub admin: Admin,
    /// The read-only port for metrics and probes; `None` is no such port.
    pub metrics: Option<SocketAddr>,
    /// Where the Kubernetes API is, for backends that are found there.
    pub kubernetes: Kubernetes,
    /// The replicas that decide as one; `None` is this process alone.
    pub fleet: Option<Fleet>,
    /// Where ended rollouts are remembered; `None` is memory only.
    pub state_file: Option<PathBuf>,
    /// Whose `x-forwarded-*` fields are appended to; `None` is everyone's.
    pub trusted_proxies: Option<Vec<Cidr>>,
    /// Data-plane threads; `None` is one per core.
    pub workers: Option<NonZeroUsize>,
    /// A request's body up to this size is kept until the answer begins.
    pub replay_body_bytes_max: usize,
    /// How long a drain goes on accepting after it has failed readiness.
    pub drain_delay: Duration,
    /// How long a drain waits for requests in flight.
    pub drain_timeout: Duration,
    /// Whether `x-serin-backend` and `x-serin-rollout` tell a client what served it.
    pub response_headers: bool,
    /// A line for each request; `None` is none.
    pub access_log: Option<AccessLog>,
    /// Spans of requests; `None` is none.
    pub tracing: Option<Tracing>,
    /// In the file's order.
    pub backends: Vec<Backend>,
    /// In the file's order, which is the last tie-break of matching.
    pub routes: Vec<Route>,
    /// In the file's order. At most one per rule.
    pub rollouts: Vec<Plan>,
    /// What goes with rollouts and is not judged, one for each.
    pub around: Vec<Around>,
}

/// Lines of requests.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    /// Where they are appended; `None` is stdout.
    pub file: Option<PathBuf>,
    /// What a line looks like.
    pub format: LineFormat,
    /// Of the requests that do not end badly.
    pub share: Ratio,
    /// Fields that are told; none that hold secrets.
    pub headers: Vec<HeaderName>,
    /// What else a line has; empty is everything.
    pub members: Vec<LineMember>,
}

/// A member of a line of the access log, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineMember(&'static str);

impl LineMember {
    /// In the order in which a line has them. Headers come behind them, and are chosen by name.
    pub const ALL: [Self; 22] = [
        Self("time"),
        Self("method"),
        Self("host"),
        Self("path"),
        Self("protocol"),
        Self("tls"),
        Self("client"),
        Self("status"),
        Self("outcome"),
        Self("reason"),
        Self("route"),
        Self("rule"),
        Self("backend"),
        Self("endpoint"),
        Self("rollout"),
        Self("attempts"),
        Self("received"),
        Self("sent"),
        Self("duration_ms"),
        Self("first_byte_ms"),
        Self("request_id"),
        Self("trace_id"),
    ];

    /// In the config, and in a line.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

/// What a line of the access log looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineFormat {
    /// A JSON object.
    #[default]
    Json,
    /// Pairs of names and values.
    Text,
}

/// What OTLP is spoken over; protobuf either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// HTTP/1.1, to `/v1/traces`.
    #[default]
    Http,
    /// gRPC.
    Grpc,
}

/// Spans of requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// The collector; `http` or `https` with a host.
    pub otlp: Uri,
    /// What it is spoken over.
    pub protocol: OtlpProtocol,
    /// Of the traces that begin here.
    pub share: Ratio,
    /// Bad ones beyond that, a second and worker.
    pub bad_per_second: u32,
    /// `service.name`.
    pub service: String,
}

impl Tracing {
    /// Where the config names none.
    pub const SHARE: Ratio = Ratio::PERCENT;
    /// Where the config names none.
    pub const BAD_PER_SECOND: u32 = 10;
    /// Where the config names none.
    pub const SERVICE: &str = "serin";
}

/// What goes with a rollout and is not judged.
#[derive(Clone, Debug)]
pub struct Around {
    /// Whose it is.
    pub rollout: RolloutName,
    /// Who is told of its changes; `http` with a host.
    pub webhooks: Vec<Uri>,
    /// How long the latency of a new endpoint is no evidence.
    pub warm_up: WarmUp,
    /// Whether answers of a canary that is taken out are ended.
    pub cut_streams: bool,
    /// What is sent to both versions beside what users send.
    pub probe: Option<Arc<Probe>>,
}

impl Config {
    /// What goes with `rollout`.
    pub fn around(&self, rollout: &RolloutName) -> Option<&Around> {
        self.around.iter().find(|around| around.rollout == *rollout)
    }
}

/// An address and port on which Serin accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Unique.
    pub name: ListenerName,
    /// Port 0 takes a free one.
    pub address: SocketAddr,
    /// Whether a connection begins with a PROXY header.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// For a request's head, and for what comes before HTTP.
    pub head_timeout: Duration,
    /// `None` is cleartext.
    pub tls: Option<ServerTls>,
    /// Clients at once, over all workers; `None` is any number.
    pub connections_max: Option<u32>,
}

/// Connections begin with a PROXY header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Who may send one; `None` is everyone.
    pub from: Option<Vec<Cidr>>,
}

/// The admin port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Loopback, unless there is a token.
    pub address: SocketAddr,
    /// A file whose content is the bearer token that every call must carry.
    pub token_file: Option<PathBuf>,
    /// Further ones, each with the name of who brings it.
    pub tokens: Vec<(String, PathBuf)>,
}

impl Admin {
    /// Where the admin port is when the config names none.
    pub const ADDRESS: &str = "127.0.0.1:9901";

    /// Whose token that of `token_file` is.
    pub const TOKEN_NAME: &str = "admin";
}

/// One model version.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Unique.
    pub name: BackendName,
    /// May be empty: then the backend answers 503, or they are found by `dns`.
    pub endpoints: Vec<SocketAddr>,
    /// The name by which they are found.
    pub dns: Option<DnsName>,
    /// The service of Kubernetes whose pods they are.
    pub service: Option<ServiceName>,
    /// From one look for the name to the next.
    pub dns_refresh: Duration,
    /// How they share requests.
    pub balance: Balance,
    /// What is spoken with its endpoints.
    pub protocol: Protocol,
    /// `None` is cleartext.
    pub tls: Option<EndpointTls>,
    /// How long one that is new or came back gets less than its share.
    pub slow_start: Option<Duration>,
    /// How they are asked whether they are well; `None` is not at all.
    pub health: Option<HealthCheck>,
    /// When one that fails gets no requests for a while; `None` is never.
    pub ejection: Option<Ejection>,
    /// How many requests may be under way; `None` is any number.
    pub limits: Option<Limits>,
}

/// A name whose addresses are endpoints, all at one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsName {
    /// As DNS knows it.
    pub host: String,
    /// Of every endpoint.
    pub port: u16,
}

impl std::fmt::Display for DnsName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// One port of a service of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName {
    /// Where the service is.
    pub namespace: String,
    /// What it is called.
    pub name: String,
    /// The port's number at the service, or its name.
    pub port: String,
}

impl ServiceName {
    /// What it is called within the cluster.
    pub fn host(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }
}

impl std::fmt::Display for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.name, self.port)
    }
}

/// Where the Kubernetes API is. What is `None` is that of the pod in which Serin runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kubernetes {
    /// `http` or `https` with a host.
    pub server: Option<Uri>,
    /// A file with the token that every call carries, read for each.
    pub token_file: Option<PathBuf>,
    /// The authorities that vouch for the API.
    pub ca: Option<PathBuf>,
    /// Whose endpoints are preferred, where all have hints.
    pub zone: Option<String>,
    /// Whether events are told; `None` is where there is a fleet.
    pub events: Option<bool>,
}

/// Replicas that decide as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// Tells one fleet from another in the same namespace.
    pub name: String,
    /// Where the latch is; `None` is the pod's own namespace.
    pub namespace: Option<String>,
    /// There are never more; at least 1.
    pub replicas_max: u32,
    /// The metrics port of every replica, where one of them judges the counts of all.
    pub replicas: Option<ServiceName>,
}

impl Fleet {
    /// Where the config does not say.
    pub const REPLICAS_MAX: u32 = 10;

    /// What the objects of the fleet are called.
    pub fn object(&self) -> String {
        format!("serin-{}", self.name)
    }
}

impl Backend {
    /// Whether its endpoints are not in the config but searched for.
    pub fn is_found(&self) -> bool {
        self.dns.is_some() || self.service.is_some()
    }

    /// Whether its endpoints are asked the same for their health, however often.
    pub fn asks_as(&self, other: &Self) -> bool {
        let probe = |one: &Self| one.health.as_ref().map(|check| check.probe.clone());
        probe(self) == probe(other)
    }

    /// Where the config does not say how often a name is looked up.
    pub const DNS_REFRESH: Duration = Duration::from_secs(5);
}

/// Hostnames and the rules for them.
#[derive(Clone, Debug)]
pub struct Route {
    /// Unique.
    pub name: RouteName,
    /// Empty is every hostname.
    pub hostnames: Vec<HostPattern>,
    /// At least one.
    pub rules: Vec<Rule>,
}

/// Matches and the backends that share what they match.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Unique within its route.
    pub name: RuleName,
    /// One of these must fit; empty is every request.
    pub matches: Vec<Match>,
    /// At least one with a weight over zero.
    pub backends: Vec<(BackendName, Weight)>,
    /// Names that some of them know their model by, beside the one that is asked for.
    pub models: Vec<(BackendName, Arc<str>)>,
    /// What keeps a user on one version.
    pub sticky: Option<StickyKey>,
    /// Shadows, each with a draw of its own.
    pub mirrors: Vec<Mirror>,
    /// How long each phase may take.
    pub timeouts: Timeouts,
    /// Bytes of a request's body; `None` is any number.
    pub body_bytes_max: Option<u64>,
    /// What is tried again at the same backend.
    pub retry: Option<Retry>,
    /// Whether stable answers what the canary of a rollout fails.
    pub failover: bool,
}

/// The JSON Schema of a config file, for editors.
pub fn schema() -> serde_json::Value {
    schema::schema()
}
