//! A snapshot as one worker sees it: with its own connections and its own counters.
//!
//! Never shared between threads, so nothing in it needs an atomic.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use foldhash::HashMap;

use crate::clock::Clock;
use crate::proxy::forward::Peer;
use crate::proxy::upstream::Endpoint;
use crate::snapshot::{self, Snapshot};
use crate::telemetry::sample::{WorkerArm, WorkerLeg};
use crate::telemetry::signs::WorkerSigns;
use crate::traffic::balance::{Balance, choose, in_turn, mix, ramp, ramp_takes, rendezvous};
use crate::traffic::matching::RequestView;
use crate::traffic::protocol::Protocol;
use crate::traffic::route::Found;
use crate::traffic::source::is_trusted;
use crate::traffic::warm_up::WarmUp;
use crate::units::{Ratio, Tick};

/// What makes an endpoint another one for whoever speaks with it: the last is where its TLS
/// lies, 0 for none. Whoever has such a number keeps what lies there, so it is not given to
/// another one meanwhile.
pub type EndpointKey = (SocketAddr, Protocol, usize);

/// A snapshot as one worker sees it.
#[derive(Debug)]
pub struct View {
    /// What it is a view of.
    pub snapshot: Arc<Snapshot>,
    /// Beside the snapshot's backends.
    endpoints: Vec<Vec<EndpointView>>,
    /// Beside the snapshot's backends: whose turn it is.
    turns: Vec<Cell<usize>>,
    /// Beside the snapshot's rules.
    rules: Vec<RuleView>,
    /// Counts requests that no rule fits.
    pub unrouted: Rc<WorkerLeg>,
}

/// An endpoint of a backend, as one worker sees it.
#[derive(Debug)]
pub struct EndpointView {
    /// Its connections.
    pub endpoint: Rc<Endpoint>,
    /// What this worker sees of it.
    pub signs: Rc<WorkerSigns>,
    /// When it appeared or came back; `None` has been there since Serin's start.
    since: Option<Tick>,
    /// Its number for a consistent hash, equal in every process.
    seed: u64,
}

/// By what an endpoint is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Pick {
    /// Any number.
    pub draw: u64,
    /// Equal for requests that belong to one endpoint; asked for by `balance: hash` alone.
    pub affinity: u64,
}

/// Endpoints that have failed a request: taken only if there is no other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Avoid<'t> {
    /// The last of them.
    pub last: Option<SocketAddr>,
    /// Those before it.
    pub before: &'t [SocketAddr],
}

impl Avoid<'_> {
    fn names(self, address: SocketAddr) -> bool {
        self.last == Some(address) || self.before.contains(&address)
    }
}

/// What a worker adds to a rule.
#[derive(Debug)]
struct RuleView {
    targets: Vec<TargetView>,
    shadows: Vec<Rc<WorkerLeg>>,
}

/// What a worker adds to a backend of a rule.
#[derive(Debug)]
pub struct TargetView {
    /// Its counters.
    pub leg: Rc<WorkerLeg>,
    /// Where its attempts count as evidence; `None` where they do not.
    pub arm: Option<Rc<WorkerArm>>,
}

/// A rule with what the worker adds to it.
#[derive(Clone, Copy, Debug)]
pub struct RuleRef<'a> {
    /// As published.
    pub rule: &'a snapshot::Rule,
    view: &'a RuleView,
}

impl View {
    /// Endpoints that are known keep their connections.
    pub fn new(
        snapshot: &Arc<Snapshot>,
        worker: usize,
        known: &mut HashMap<EndpointKey, Rc<Endpoint>>,
        clock: Clock,
    ) -> Self {
        let mut used = HashMap::default();
        let mut endpoint = |one: &snapshot::Endpoint, backend: &snapshot::Backend| {
            let (address, protocol, tls) = (one.address, backend.protocol, backend.tls.as_ref());
            let key = (address, protocol, tls.map_or(0, |tls| Arc::as_ptr(tls).addr()));
            let known = known.get(&key).cloned();
            let new = || Rc::new(Endpoint::new(address, protocol, tls.cloned(), clock));
            EndpointView {
                endpoint: Rc::clone(used.entry(key).or_insert_with(|| known.unwrap_or_else(new))),
                signs: Rc::new(WorkerSigns::new(Arc::clone(&one.signs), worker)),
                since: one.since,
                seed: seed_of(address),
            }
        };
        let endpoints = snapshot.backends.iter().map(|backend| {
            let addresses = backend.endpoints.iter();
            addresses.map(|one| endpoint(one, backend)).collect()
        });
        let endpoints = endpoints.collect();
        *known = used;
        let leg = |leg: &Arc<_>| Rc::new(WorkerLeg::new(Arc::clone(leg), worker));
        let rules = snapshot.rules.iter().map(|rule| RuleView {
            targets: rule
                .targets
                .iter()
                .map(|target| TargetView {
                    leg: leg(&target.leg),
                    arm: rule.rollout.as_ref().zip(target.arm).map(|(rollout, arm)| {
                        Rc::new(WorkerArm::new(Arc::clone(&rollout.evidence), arm, worker))
                    }),
                })
                .collect(),
            shadows: rule.mirrors.iter().map(|shadow| leg(&shadow.leg)).collect(),
        });
        let rules = rules.collect();
        // Not all workers begin with the first.
        let turns = snapshot.backends.iter().map(|_| Cell::new(worker)).collect();
        Self {
            endpoints,
            turns,
            rules,
            unrouted: leg(&snapshot.unrouted),
            snapshot: Arc::clone(snapshot),
        }
    }

    /// Whether what a client says of where its requests came from is kept.
    pub fn trusts(&self, peer: &Peer) -> bool {
        is_trusted(self.snapshot.trusted_proxies.as_deref(), peer.source)
    }

    /// Which rule `request` gets.
    pub fn find(&self, request: &RequestView<'_>) -> Option<Found> {
        self.snapshot.table.find(request)
    }

    /// The rule that was `found` here.
    pub fn rule(&self, found: Found) -> RuleRef<'_> {
        RuleRef { rule: &self.snapshot.rules[found.rule], view: &self.rules[found.rule] }
    }

    /// Whether this view, `before` which another one was, gives nothing any more to `target` of
    /// `rule`.
    pub fn has_taken_out(
        self: &Rc<Self>,
        before: &Rc<Self>,
        rule: RuleRef<'_>,
        target: &snapshot::Target,
    ) -> bool {
        if Rc::ptr_eq(self, before) {
            return false;
        }
        let name = &before.snapshot.backends[target.backend].name;
        let mut rules = self.snapshot.rules.iter();
        let Some(rule) = rules.find(|one| one.id == rule.rule.id) else { return false };
        rule.split.shares().any(|(index, share)| {
            let backend = rule.targets[*index].backend;
            self.snapshot.backends[backend].name == *name && share == Ratio::ZERO
        })
    }

    /// Where `backend` of the view `before` is now; there, if it is gone.
    pub fn backend_of<'v>(
        self: &'v Rc<Self>,
        before: &'v Rc<Self>,
        backend: usize,
    ) -> (&'v Self, usize) {
        if Rc::ptr_eq(self, before) {
            return (self, backend);
        }
        let name = &before.snapshot.backends[backend].name;
        let now = self.snapshot.backends.iter().position(|one| one.name == *name);
        now.map_or((before, backend), |now| (self, now))
    }

    /// Whether requests for the snapshot's `backend` are kept together by a key.
    pub fn wants_affinity(&self, backend: usize) -> bool {
        self.snapshot.backends[backend].balance == Balance::Hash
    }

    /// Whether the snapshot's `backend` has an endpoint that may be asked.
    pub fn has_endpoint(&self, backend: usize) -> bool {
        !self.endpoints[backend].is_empty()
    }

    /// An endpoint of the snapshot's `backend`; `None` when it has none that may be asked.
    pub fn endpoint(
        &self,
        backend: usize,
        pick: Pick,
        avoid: Avoid<'_>,
        now: Tick,
    ) -> Option<&EndpointView> {
        let all = &self.endpoints[backend];
        let snapshot::Backend { balance, slow_start, .. } = self.snapshot.backends[backend];
        let ramp = |index: usize| ramp(all[index].since, now, slow_start);
        let is_avoided = |index: usize| avoid.names(all[index].endpoint.address());
        let (chosen, other) = match balance {
            Balance::LeastRequest => choose(all.len(), pick.draw, |index| {
                (is_avoided(index), f64::from(all[index].endpoint.in_flight()))
            })?,
            Balance::PeakEwma => choose(all.len(), pick.draw, |index| {
                (is_avoided(index), all[index].endpoint.cost(now))
            })?,
            Balance::RoundRobin => {
                let turn = self.turns[backend].get();
                self.turns[backend].set(turn.wrapping_add(1));
                (in_turn(all.len(), turn)?, in_turn(all.len(), turn.wrapping_add(1))?)
            }
            Balance::Hash => {
                // In a slow start keys move to the new one little by little.
                let weight =
                    |index| if is_avoided(index) { f64::MIN_POSITIVE } else { ramp(index) };
                let index = rendezvous(all.len(), pick.affinity, |i| all[i].seed, weight)?;
                return all.get(index);
            }
        };
        let takes = is_avoided(other) || ramp_takes(ramp(chosen), pick.draw);
        let picked = if takes && !is_avoided(chosen) { chosen } else { other };
        // Of two that were drawn both may have failed, where others have not.
        let mut others = (1..all.len()).map(|step| (picked + step) % all.len());
        let another = if is_avoided(picked) { others.find(|one| !is_avoided(*one)) } else { None };
        all.get(another.unwrap_or(picked))
    }
}

/// A number of `address` that no other one has, but by a chance of one in 2^64.
fn seed_of(address: SocketAddr) -> u64 {
    let (ip, port) = (address.ip().to_canonical(), u64::from(address.port()));
    let ip = match ip {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => mix((ip.to_bits() >> 64) as u64) ^ ip.to_bits() as u64,
    };
    mix(mix(ip) ^ port)
}

impl EndpointView {
    /// Whether its latency is no evidence yet.
    fn is_young(&self, warm_up: WarmUp, now: Tick) -> bool {
        // Those that were always there are not counted.
        let Some(since) = self.since else { return false };
        warm_up.covers(Some(now.since(since)), self.signs.ended())
    }
}

impl<'a> RuleRef<'a> {
    /// The target that `draw` chooses, as an index.
    pub fn split(&self, draw: u64) -> usize {
        *self.rule.split.pick(draw)
    }

    /// A target with what the worker adds to it.
    pub fn target(&self, index: usize) -> (&'a snapshot::Target, &'a TargetView) {
        (&self.rule.targets[index], &self.view.targets[index])
    }

    /// Whether the latency of `endpoint` is no evidence yet.
    pub fn takes_for_young(&self, endpoint: &EndpointView, now: Tick) -> bool {
        let rollout = self.rule.rollout.as_ref();
        rollout.is_some_and(|rollout| endpoint.is_young(rollout.warm_up, now))
    }

    /// Its shadows, each with its counters.
    pub fn shadows(&self) -> impl Iterator<Item = (&'a snapshot::Shadow, &'a Rc<WorkerLeg>)> {
        self.rule.mirrors.iter().zip(&self.view.shadows)
    }
}
