//! A snapshot as one worker sees it: with its own connections and its own counters.
//!
//! Never shared between threads, so nothing in it needs an atomic.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::HashMap;

use crate::clock::Clock;
use crate::proxy::upstream::Endpoint;
use crate::snapshot::{self, Snapshot};
use crate::telemetry::sample::{WorkerArm, WorkerLeg};
use crate::traffic::balance::{Balance, choose, in_turn};
use crate::traffic::matching::RequestView;
use crate::units::Tick;

/// A snapshot as one worker sees it.
#[derive(Debug)]
pub struct View {
    /// What it is a view of.
    pub snapshot: Arc<Snapshot>,
    /// Beside the snapshot's backends.
    endpoints: Vec<Vec<Rc<Endpoint>>>,
    /// Beside the snapshot's backends: whose turn it is.
    turns: Vec<Cell<usize>>,
    /// Beside the snapshot's rules.
    rules: Vec<RuleView>,
    /// Counts requests that no rule fits.
    pub unrouted: Rc<WorkerLeg>,
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
    /// Endpoints that are known keep their connections and their age; others appeared at
    /// `born`, `None` with Serin itself.
    pub fn new(
        snapshot: &Arc<Snapshot>,
        worker: usize,
        known: &mut HashMap<SocketAddr, Rc<Endpoint>>,
        (clock, born): (Clock, Option<Tick>),
    ) -> Self {
        let mut used = HashMap::default();
        let mut endpoint = |address: &SocketAddr| {
            let known = known.get(address).cloned();
            let endpoint = known.unwrap_or_else(|| Rc::new(Endpoint::new(*address, clock, born)));
            Rc::clone(used.entry(*address).or_insert(endpoint))
        };
        let backends = snapshot.backends.iter();
        let endpoints = backends.map(|b| b.endpoints.iter().map(&mut endpoint).collect()).collect();
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

    /// The rule for `request`.
    pub fn find(&self, request: &RequestView<'_>) -> Option<RuleRef<'_>> {
        let found = self.snapshot.table.find(request)?;
        Some(RuleRef { rule: &self.snapshot.rules[found.rule], view: &self.rules[found.rule] })
    }

    /// An endpoint of the snapshot's `backend`, `avoid` only if it is drawn alone; `None`
    /// when it has none.
    pub fn endpoint(
        &self,
        backend: usize,
        draw: u64,
        avoid: Option<SocketAddr>,
    ) -> Option<&Rc<Endpoint>> {
        let endpoints = &self.endpoints[backend];
        let count = endpoints.len();
        let is_avoided = |index: usize| avoid == Some(endpoints[index].address());
        let index = match self.snapshot.backends[backend].balance {
            Balance::LeastRequest => {
                choose(count, draw, |index| (is_avoided(index), endpoints[index].in_flight()))
            }
            Balance::PeakEwma => {
                choose(count, draw, |index| (is_avoided(index), endpoints[index].cost()))
            }
            Balance::RoundRobin => {
                let turn = self.turns[backend].get();
                self.turns[backend].set(turn.wrapping_add(1));
                in_turn(count, turn)
            }
        };
        index.map(|index| &endpoints[index])
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
    pub fn takes_for_young(&self, endpoint: &Endpoint) -> bool {
        let rollout = self.rule.rollout.as_ref();
        rollout.is_some_and(|rollout| endpoint.is_young(rollout.warm_up))
    }

    /// Its shadows, each with its counters.
    pub fn shadows(&self) -> impl Iterator<Item = (&'a snapshot::Shadow, &'a Rc<WorkerLeg>)> {
        self.rule.mirrors.iter().zip(&self.view.shadows)
    }
}
