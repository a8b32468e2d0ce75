//! The file as written: its maps, their keys, and what each takes.
//!
//! Never says whether it makes sense. The texts here are those of the JSON Schema, so
//! they speak to whoever writes a config file.

mod kubernetes;
mod matches;
pub mod probe;
mod telling;
mod tls;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::config::quantity::{
    BalanceWord, CidrText, CookieName, Count, DnsTarget, Endpoint, ErrorLimit, FieldName,
    FieldValue, FilePath, Flag, HoldWord, Hostname, InFlightWord, LatencyWord, ListenAddress,
    MethodName, ModelName, Name, ObjectiveBreach, OffWord, Parameter, Percent, Protocol,
    QuantileKey, Rate, RatioNumber, RetryWord, RolloutBreach, RuleRef, ServicePort, Size, Span,
    SpanOrZero, StreamsWord, Target, Text, UntilWord, VersionText,
};
pub use crate::config::raw::kubernetes::{Fleet, Kubernetes};
pub use crate::config::raw::matches::{Match, ModelForm, PathForm};
pub use crate::config::raw::telling::{AccessLog, Notify, Tracing};
pub use crate::config::raw::tls::{BackendTls, ClientMatch, ListenerTls, ProxyProtocolForm};
use crate::config::read::{As, At, Form, Keys, ObjectSchema, Pairs, Read, maps};
use crate::config::tree::{Node, Report};
use crate::units::Weight;

/// A quantile and its limit, or stable as the measure.
pub type LatencyForm = Form<As<LatencyWord>, Pairs<QuantileKey, As<Span>>>;
/// `hold`, or a map that says after how long.
pub type DeadlineForm = Form<As<HoldWord>, Deadline>;
/// `off`, or a map with what differs.
pub type EjectionForm = Form<As<OffWord>, Ejection>;
/// A time, or a map with bounds.
pub type ForForm = Form<As<Span>, Bounds>;

maps! {
    /// Serin's config file.
    File later ["limits" "notify"
                "feedback" "probe" "protocol" "tls"] {
        /// Addresses on which Serin accepts requests; at least one.
        must listeners: Vec<At<Listener>>,
        /// The admin port.
        may admin: Admin,
        /// A port for metrics and probes, read only. Default: none, the admin port has them too.
        may metrics: Metrics,
        /// What outlives a restart.
        may state: State,
        /// Where the Kubernetes API is, for backends with `service`. Default: that of the pod.
        may kubernetes: Kubernetes,
        /// Replicas that decide as one. Default: this process decides alone.
        may fleet: Fleet,
        /// Whether `x-serin-backend` and `x-serin-rollout` tell a client what served it.
        may response_headers: As<Flag> = false,
        /// Ranges of addresses whose `x-forwarded-*` fields are appended to; from elsewhere they
        /// are dropped first. Default: nobody's are dropped.
        may trusted_proxies: Vec<At<As<CidrText>>>,
        /// Threads for requests, 1 to 1024. Default: one per core.
        may workers: As<Count<1, 1024>>,
        /// A request's body up to this size is kept until the answer begins, to be sent again.
        may replay_body_max: As<Size> = "1MiB",
        /// How long a drain goes on accepting, with `/readyz` at 503, before it stops.
        may drain_delay: As<SpanOrZero> = "0s",
        /// How long a drain waits for requests in flight; `0s` cuts them at once.
        may drain_timeout: As<SpanOrZero> = "30s",
        /// A line of JSON for each request. Default: none.
        may access_log: AccessLog,
        /// Spans of requests, for an OpenTelemetry collector. Default: none.
        may tracing: Tracing,
        /// Model versions, each with a name.
        must backends: Vec<At<Backend>>,
        /// Hostnames and the rules for them.
        must routes: Vec<At<Route>>,
        /// Canaries that are judged, each on one rule.
        may rollouts: Vec<At<Rollout>>,
    }

    /// An address on which Serin accepts requests.
    Listener later ["protocol"] {
        /// Unique among listeners.
        must name: As<Name>,
        /// IP address and port; port 0 takes a free one.
        must address: As<ListenAddress>,
        /// Whether every connection begins with a PROXY protocol header, which tells who the
        /// client is; or a map that says who may send one.
        may proxy_protocol: ProxyProtocolForm = false,
        /// From the first byte of a request's head to its last; as long from the connection to
        /// HTTP, for a PROXY header and a TLS handshake.
        may head_timeout: As<Span> = "10s",
        /// TLS. Default: cleartext.
        may tls: ListenerTls,
        /// How many clients may be there at once.
        may limits: ListenerLimits,
    }

    /// How many clients may be there at once.
    ListenerLimits later ["rate"] {
        /// Connections over all workers, 1 to 1000000; another one waits. Default: any number.
        may connections: As<Count<1, 1_000_000>>,
    }

    /// The admin port.
    Admin later ["tls"] {
        /// IP address and port. Another address than loopback needs `token_file`.
        may address: As<ListenAddress> = "127.0.0.1:9901",
        /// A file whose content is the token that every call must bring.
        may token_file: As<FilePath>,
        /// More tokens, each with the name that the journal tells. The first one's is `admin`.
        may tokens: Vec<At<AdminToken>>,
    }

    /// A token, and whose it is.
    AdminToken later [] {
        /// Unique; who brings it.
        must name: As<Name>,
        /// A file whose content is the token.
        must file: As<FilePath>,
    }

    /// A port for metrics and probes, read only.
    Metrics later ["tls"] {
        /// IP address and port.
        must address: As<ListenAddress>,
    }

    /// What outlives a restart.
    State later [] {
        /// The ledger: what was rolled back stays rolled back. Its folder must exist.
        must file: As<FilePath>,
    }

    /// One model version.
    Backend later ["warm_up" "probe"] {
        /// Unique among backends.
        must name: As<Name>,
        /// IP addresses with ports, at most 1024. An empty list answers 503.
        may endpoints: Vec<At<As<Endpoint>>>,
        /// Instead of `endpoints`: a name whose addresses are the endpoints, and their port.
        may dns: As<DnsTarget>,
        /// Instead of `endpoints`: a port of a service of Kubernetes, whose pods are the
        /// endpoints: `namespace/name:port`.
        may service: As<ServicePort>,
        /// From one look for the name to the next, a tenth more or less; 1s at least.
        may dns_refresh: As<Span> = "5s",
        /// How Serin speaks to the endpoints: `http1`, `http2`, or what TLS chooses with `auto`.
        may protocol: As<Protocol> = "http1",
        /// TLS to the endpoints. Default: cleartext.
        may tls: BackendTls,
        /// How the endpoints share requests: `peak_ewma`, `least_request`, `round_robin` or `hash`.
        may balance: As<BalanceWord> = "peak_ewma",
        /// How long an endpoint that is new or came back gets less than its share. Default: it
        /// gets its share at once.
        may slow_start: As<Span>,
        /// How endpoints are asked whether they are well. Default: they are not asked.
        may health: Health,
        /// When an endpoint that fails gets no requests for a while; `off` is never.
        may ejection: EjectionForm,
        /// How many requests may be under way. Default: any number.
        may limits: BackendLimits,
    }

    /// How many requests of a backend may be under way, over all its endpoints.
    BackendLimits later [] {
        /// A number from 1 to 1000000, or `auto`, which goes by how long answers take.
        must in_flight: As<InFlightWord>,
        /// Requests that wait for one of those to end; 0 to 100000.
        may queue: As<Count<0, 100_000>> = 64,
        /// How long one waits.
        may queue_timeout: As<Span> = "2s",
    }

    /// How endpoints are asked whether they are well: exactly one of `path`, `grpc` and `tcp`.
    Health later ["port" "host"] {
        /// A GET of this path; 200 to 399 is well.
        may path: As<Target>,
        /// The gRPC health protocol, for this service; `""` is the server as a whole.
        may grpc: As<Text>,
        /// `true`: whether a connection stands.
        may tcp: As<Flag>,
        /// From one question to the next, a tenth more or less; 100ms at least.
        may interval: As<Span> = "5s",
        /// How long an answer may take. Default: 1s, or the interval if that is shorter.
        may timeout: As<Span>,
        /// Good answers in a row that make an unwell endpoint well; 1 to 100.
        may healthy_threshold: As<Count<1, 100>> = 1,
        /// Bad answers in a row that make a well endpoint unwell; 1 to 100.
        may unhealthy_threshold: As<Count<1, 100>> = 3,
    }

    /// When an endpoint that fails gets no requests for a while.
    Ejection later [] {
        /// Failures in a row; 1 to 1000.
        may consecutive_failures: As<Count<1, 1000>> = 5,
        /// How far its share of successes is below that of the others.
        may success_rate_gap: As<Percent> = "20%",
        /// Fewer attempts in an interval, its own or the others', are not compared; 1 to 1000000.
        may min_requests: As<Count<1, 1_000_000>> = 50,
        /// Over which successes are compared.
        may interval: As<Span> = "10s",
        /// How long it is out for the first time; each time after twice as long.
        may time: As<Span> = "10s",
        /// It is never out for longer.
        may max_time: As<Span> = "5m",
        /// The share of a backend's endpoints that may be out at once; never the last one.
        may max_share: As<Percent> = "50%",
    }

    /// Hostnames and the rules for them.
    Route later ["trusted_proxies"] {
        /// Unique among routes.
        must name: As<Name>,
        /// `example.com` or `*.example.com`, without port. Default: every hostname.
        may hostnames: Vec<At<As<Hostname>>>,
        /// At least one. The most specific match wins, not the first.
        must rules: Vec<At<Rule>>,
    }

    /// What is matched, and the backends that share it.
    Rule later ["on_no_endpoint"] {
        /// Unique within its route.
        must name: As<Name>,
        /// One of them must fit. Default: every request.
        may matches: Vec<At<Match>>,
        /// At least one with a weight above zero.
        must backends: Vec<At<RuleBackend>>,
        /// What keeps a user on one version. Default: every request is drawn anew.
        may sticky: Sticky,
        /// Backends that get copies, fire and forget.
        may mirrors: Vec<At<Mirror>>,
        /// How long each phase may take.
        may timeouts: Timeouts,
        /// How large a request may be.
        may limits: RuleLimits,
        /// What is tried again at the same backend. Default: nothing.
        may retry: Retry,
        /// Whether a request that a rollout's canary fails is answered by stable.
        may failover: As<Flag> = false,
    }

    /// How large a request may be.
    RuleLimits later ["in_flight" "rate"] {
        /// A request with a larger body is answered 413; at most 1GiB. Default: any size.
        may max_body: As<Size>,
    }

    /// What is tried again at the same backend, while nothing of an answer was sent.
    Retry later ["backoff"] {
        /// Further attempts after the first, 1 to 10.
        may attempts: As<Count<1, 10>> = 1,
        /// The share of the rule's live requests that may be retries; three a second always may.
        may budget: As<Percent> = "20%",
        /// What is tried again: `connect`, `reset`, `first_byte`, `5xx`, or a status.
        may on: Vec<At<As<RetryWord>>> = (["connect", "reset"]),
        /// Methods that may be sent twice. Default: those that are idempotent.
        may methods: Vec<At<As<MethodName>>> =
            (["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]),
    }

    /// A backend of a rule.
    RuleBackend later [] {
        /// One of `backends`.
        must name: As<Text>,
        /// Its share is weight / sum of weights; 0 to 1000000, and 0 gets nothing.
        may weight: As<Count<0, { Weight::MAX }>> = 1,
        /// The name that it knows its model by: put into the body in place of the `model` that was
        /// asked for. Default: the body stays as it is.
        may model: As<ModelName>,
    }

    /// What keeps a user on one version; exactly one of these keys.
    Sticky later [] {
        /// A header's name.
        may header: As<FieldName>,
        /// A cookie's name.
        may cookie: As<CookieName>,
        /// A query parameter's name.
        may query: As<Parameter>,
    }

    /// A backend that gets copies, fire and forget.
    Mirror later ["compare"] {
        /// One of `backends`.
        must backend: As<Text>,
        /// The share of requests that is copied.
        may percent: As<Percent> = "100%",
        /// Methods that are copied. A copy of another one may have side effects.
        may methods: Vec<At<As<MethodName>>> = (["GET", "HEAD"]),
        /// A request with a larger body is not copied; at most 1GiB.
        may max_body: As<Size> = "1MiB",
        /// Copies under way at once; one more is dropped.
        may max_in_flight: As<Count<1, 1_000_000>> = 64,
        /// What is changed in the copy's head.
        may headers: MirrorHeaders,
        /// The name that it knows its model by: put into the copy's body in place of the `model`
        /// that was asked for. Default: the body stays as it is.
        may model: As<ModelName>,
    }

    /// What is changed in a copy's head.
    MirrorHeaders later ["add"] {
        /// Headers that a copy does not have; removed before `set`.
        may remove: Vec<At<As<FieldName>>>,
        /// Headers and the values that they have in a copy.
        may set: Pairs<FieldName, As<FieldValue>>,
    }

    /// How long each phase may take.
    Timeouts later [] {
        /// Until a connection to the endpoint stands.
        may connect: As<Span> = "5s",
        /// From the request sent to the head of the answer.
        may first_byte: As<Span> = "60s",
        /// Between two pieces of a body, in either direction.
        may idle: As<Span> = "60s",
        /// The whole request with its answer. Default: no limit, for streams run for minutes.
        may request: As<Span>,
        /// Behind an upgrade (WebSocket): without a byte in either direction.
        may tunnel: As<Span> = "1h",
        /// Bytes a second that a client must send of its body, on average over the time it is
        /// waited for, after the first 5s; `0B` is no limit. Not asked of gRPC over
        /// HTTP/2.
        may upload_rate: As<Size> = "240B",
    }

    /// A canary that is judged. Without steps it keeps the rule's weights until it is rolled
    /// back.
    Rollout later ["drift"] {
        /// Unique among rollouts.
        must name: As<Name>,
        /// The rule whose traffic is split: `route/rule`. One rollout per rule.
        must rule: As<RuleRef>,
        /// The trusted backend; one of the rule's.
        must stable: As<Text>,
        /// The judged backend; another one of the rule's.
        must canary: As<Text>,
        /// A new value makes it a new rollout. Default: made from the canary's endpoints.
        may version: As<VersionText>,
        /// The chance to roll back a canary that keeps every objective, over its whole life.
        may false_rollback: As<Rate> = "1%",
        /// What the canary is held to; 1 to 8.
        must objectives: Vec<At<Objective>>,
        /// What a proven breach leads to.
        may on_breach: As<RolloutBreach> = "rollback",
        /// What becomes of a breach that stable shares: `hold`, `alert`, or a map.
        may on_shared_breach: DeadlineForm = { "rollback_after": "5m" },
        /// What becomes of a canary that too few requests reach: `hold`, `alert`, or a map.
        may on_no_traffic: DeadlineForm = "hold",
        /// What becomes of a canary that had endpoints and has none: `hold`, `alert`, or a map.
        may on_no_endpoint: DeadlineForm = { "rollback_after": "1m" },
        /// Steps from stable to canary, in order, at most 50. Default: the rule's weights stay.
        may steps: Vec<At<Step>>,
        /// No step is left before so many canary requests (or copies) were seen in it.
        may min_requests: As<Count<1, 1_000_000>> = 100,
        /// How long a slot is: failures within one are one event. 250ms to 10s.
        may burst: As<Span> = "250ms",
        /// What becomes of answers under way when the canary is taken out: `finish` or `cut`.
        may streams_on_rollback: As<StreamsWord> = "finish",
        /// Who is told of every change of its state. Default: nobody.
        may notify: Vec<At<Notify>>,
        /// How long the latency of an endpoint that appeared or came back is not judged.
        may warm_up: WarmUp,
        /// Requests of Serin's own to both versions. Default: none.
        may probe: probe::Probe,
    }

    /// While both last, but at most 2m, an endpoint is young.
    WarmUp later [] {
        /// At least so long; at most `2m`.
        may time: As<SpanOrZero> = "30s",
        /// And until it got so many requests.
        may requests: As<Count<0, 1_000_000>> = 20,
    }

    /// One step: exactly one of `mirror`, `weight` and `pause`.
    Step later ["compare"] {
        /// The share of the rule's requests that is copied to the canary.
        may mirror: As<Percent>,
        /// Methods that are copied. Default: those that the rule matches, or GET and HEAD.
        may methods: Vec<At<As<MethodName>>>,
        /// The canary's share of what goes to it or to stable; above 0% and never falling.
        may weight: As<Percent>,
        /// `true` waits for `serin promote` or `serin resume`.
        may pause: As<Flag>,
        /// How long the step lasts, or bounds.
        may r#for: ForForm,
        /// `proven` promotes by evidence only. Default where no `for` or `bake` stands.
        may until: As<UntilWord>,
        /// Of a last step with all the weight: how long it is still watched.
        may bake: As<Span>,
    }

    /// Bounds of a step.
    Bounds later [] {
        /// The step is not left before this.
        may at_least: As<SpanOrZero> = "1m",
        /// The step is left then if nothing is breached; with `until: proven` it holds.
        may at_most: As<Span>,
    }

    /// What becomes of a reason to hold that lasts, without a break: exactly one of these keys.
    Deadline later [] {
        /// Then the canary is taken out.
        may rollback_after: As<Span>,
        /// Then the state is `holding`, which is told.
        may alert_after: As<Span>,
    }

    /// What the canary is held to: exactly one of `errors`, `latency` and `feedback`.
    Objective later ["first_token" "inter_token" "disagreement" "drift"] {
        /// The share of attempts that may fail, above 0% and below 100%, or
        /// `not-worse-than-stable`.
        may errors: As<ErrorLimit>,
        /// One quantile, `p50` to `p99.9`, and the time that it may take, or
        /// `not-worse-than-stable`.
        may latency: LatencyForm,
        /// Outcomes that are told later, at `/api/feedback`.
        may feedback: Feedback,
        /// With `not-worse-than-stable`, the rate below which nothing is blamed. Default: half of
        /// the limit that stands beside it.
        may limit: As<Rate>,
        /// How many times worse than stable the canary is blamed for; 1 to 1000. Default: 1.5,
        /// and 2 with `not-worse-than-stable`.
        may ratio: As<RatioNumber>,
        /// What its breach leads to: `rollback`, or `hold`. Default: `rollback`, and `hold` with
        /// `not-worse-than-stable`.
        may on_breach: As<ObjectiveBreach>,
    }

    /// Outcomes that are told later.
    Feedback later [] {
        /// What a message calls it in `objective`; unique within the rollout.
        must name: As<Name>,
        /// The share that must be good, above 0% and below 100%.
        must min: As<Rate>,
    }
}
