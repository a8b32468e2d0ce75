//! This replica's place in its fleet: what is agreed on lies in a `ConfigMap`, who decides in a
//! `Lease`, and what was counted is fetched from every replica.
//!
//! Never waited for: a replica takes its canary out first and tells the others then. While the
//! API is away it goes on by itself, promotes nothing, and tells them when it is back.

pub mod counts;
pub mod lease;
mod link;
pub mod pulls;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::clock::Clock;
use crate::config::{self, Kubernetes};
use crate::control::fleet::lease::Candidate;
use crate::control::fleet::link::Link;
use crate::control::fleet::pulls::{Asking, PULLED_MAX, Pulled};
use crate::control::kube::client::{Api, Fault, pod_namespace};
use crate::rollout::fleet::Latch;
use crate::rollout::fleet::course::Position;
use crate::rollout::fleet::pool::Source;
use crate::units::Tick;

/// From one try to find the API to the next.
const NOBODY_PAUSE: Duration = Duration::from_secs(10);

/// This replica's place in its fleet.
#[derive(Debug)]
pub struct Fleet {
    /// Which start of which replica this is.
    pub source: Source,
    /// Whether one replica judges the counts of all.
    pub is_pooled: bool,
    own: watch::Sender<Latch>,
    proposed: watch::Sender<Option<Proposal>>,
    evidence: watch::Sender<Arc<str>>,
    judged: watch::Sender<Arc<str>>,
    leave: watch::Sender<bool>,
    state: watch::Receiver<State>,
    task: AbortOnDropHandle<()>,
}

/// How things stand outside of this replica.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// What all have told.
    pub latch: Latch,
    /// Whether that was read at least once.
    pub is_known: bool,
    /// Whether the API can be reached.
    pub is_connected: bool,
    /// Until when this replica may act as the holder of the lease.
    pub holds_until: Option<Tick>,
    /// Who holds it, as far as is known; empty is nobody.
    pub holder: String,
    /// The evidence that the holder before has left.
    pub inherited: Option<Arc<str>>,
}

/// How the fleet is to go on, as it was decided on everybody's counts.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The rollout's name.
    pub rollout: String,
    /// Its version.
    pub version: String,
    /// The era and turn that it was decided in.
    pub era: u64,
    /// See `era`.
    pub turn: u64,
    /// Where it goes.
    pub to: Position,
    /// Who decided.
    pub by: String,
    /// When, RFC 3339.
    pub since: String,
    /// Not to be written any more after this.
    pub until: Tick,
}

/// What comes from outside.
#[derive(Debug)]
pub struct Inbox {
    state: watch::Receiver<State>,
    pulled: mpsc::Receiver<Pulled>,
}

/// One thing that does.
#[derive(Debug)]
pub enum Told {
    /// Things stand otherwise.
    State(Box<State>),
    /// A replica was asked.
    Pulled(Pulled),
}

/// What the parts of a fleet share on their way to their tasks.
struct Parts {
    settings: config::Fleet,
    kubernetes: Kubernetes,
    clock: Clock,
    me: String,
    raised: watch::Receiver<Latch>,
    proposals: watch::Receiver<Option<Proposal>>,
    evidence: watch::Receiver<Arc<str>>,
    asking: Asking,
    leave: watch::Receiver<bool>,
    tell: watch::Sender<State>,
    pulled: mpsc::Sender<Pulled>,
}

impl Fleet {
    /// Joins. Within a runtime.
    pub fn join(
        settings: &config::Fleet,
        kubernetes: &Kubernetes,
        source: Source,
        clock: Clock,
    ) -> (Self, Inbox) {
        let (own, raised) = watch::channel(Latch::default());
        let (proposed, proposals) = watch::channel(None);
        let (evidence, left) = watch::channel(Arc::<str>::from(""));
        let (judged, plans) = watch::channel(Arc::<str>::from(""));
        let (leave, leaving) = watch::channel(false);
        let (tell, state) = watch::channel(State::default());
        let (pulled, pulls) = mpsc::channel(PULLED_MAX);
        let parts = Parts {
            settings: settings.clone(),
            kubernetes: kubernetes.clone(),
            clock,
            me: format!("{}/{}", source.replica, source.boot),
            raised,
            proposals,
            evidence: left,
            asking: (source.boot.as_str().into(), plans),
            leave: leaving,
            tell,
            pulled,
        };
        let task = AbortOnDropHandle::new(tokio::spawn(parts.run()));
        let inbox = Inbox { state: state.clone(), pulled: pulls };
        let is_pooled = settings.replicas.is_some();
        (Self { source, is_pooled, own, proposed, evidence, judged, leave, state, task }, inbox)
    }

    /// What this replica knows.
    pub fn known(&self) -> Latch {
        self.own.borrow().clone()
    }

    /// Changes what this replica knows; what is new is told to the others.
    pub fn change(&self, change: impl FnOnce(&mut Latch)) {
        self.own.send_modify(change);
    }

    /// Has it written down, if that can be done now.
    pub fn propose(&self, proposal: Proposal) {
        self.proposed.send_replace(Some(proposal));
    }

    /// What the next holder of the lease is to go on with.
    pub fn leave_evidence(&self, text: String) {
        self.evidence.send_replace(text.into());
    }

    /// Tells those that are asked by which plans their counts are judged here, if that is news.
    pub fn judges_by(&self, plans: &str) {
        self.judged.send_if_modified(|before| {
            let is_news = **before != *plans;
            if is_news {
                *before = plans.into();
            }
            is_news
        });
    }

    /// How things stand outside.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// The replica that holds the lease, as far as is known.
    pub fn holder(&self) -> Option<String> {
        let state = self.state.borrow();
        let replica = state.holder.split('/').next().filter(|name| !name.is_empty());
        replica.map(ToOwned::to_owned)
    }

    /// Which start of it that is; empty is none.
    pub fn holding_boot(&self) -> String {
        let state = self.state.borrow();
        state.holder.rsplit_once('/').map_or("", |(_, boot)| boot).to_owned()
    }

    /// Whether the API can be reached.
    pub fn is_connected(&self) -> bool {
        self.state.borrow().is_connected
    }

    /// Whether it is known what all have told.
    pub fn is_known(&self) -> bool {
        self.state.borrow().is_known
    }

    /// Whether this replica judges for all, `now`.
    pub fn holds(&self, now: Tick) -> bool {
        lease::holds(self.state.borrow().holds_until, now)
    }

    /// Leaves: gives the lease up, if it holds it, as far as that can be done soon.
    pub async fn leave(self) {
        self.leave.send_replace(true);
        let _ = timeout(lease::RELEASE_TIME_MAX, self.task).await;
    }
}

/// What comes next; nothing ever, outside a fleet.
pub async fn next(inbox: &mut Option<Inbox>) -> Told {
    let Some(Inbox { state, pulled }) = inbox else { return std::future::pending().await };
    tokio::select! {
        Ok(()) = state.changed() => Told::State(Box::new(state.borrow_and_update().clone())),
        Some(one) = pulled.recv() => Told::Pulled(one),
        else => std::future::pending().await,
    }
}

/// This start of this replica: as the pod is called, and a number of its own.
pub fn own_source() -> Source {
    let name = ["POD_NAME", "HOSTNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let replica = name.unwrap_or_else(|| format!("process-{}", std::process::id()));
    Source { replica, boot: format!("{:016x}", fastrand::u64(..)) }
}

impl Parts {
    async fn run(self) {
        let (api, namespace) = loop {
            match way(&self.settings, &self.kubernetes) {
                Ok(way) => break way,
                Err(error) => tracing::error!(
                    event = "fleet_alone", %error, "this replica is alone"
                ),
            }
            sleep(NOBODY_PAUSE).await;
        };
        let name = self.settings.object();
        let link = Link::new(api.clone(), &namespace, &name, self.clock);
        let (losses, lost) = watch::channel(0);
        let linked = link.run(self.raised, self.proposals, lost, self.tell.clone());
        let Some(service) = self.settings.replicas else { return linked.await };
        let state = self.tell.subscribe();
        let candidate = Candidate::new(api, (&namespace, &name), self.me, self.clock, losses);
        let elected = candidate.run(self.tell, self.evidence, self.leave);
        let asking = (self.clock, self.asking);
        let pulled = pulls::run((service, self.kubernetes), asking, state, self.pulled);
        tokio::select! {
            // It has left.
            () = elected => {}
            () = async { tokio::join!(linked, pulled); } => {}
        }
    }
}

/// To the API, and where in it the fleet's objects are.
fn way(settings: &config::Fleet, kubernetes: &Kubernetes) -> Result<(Api, String), Fault> {
    let api = Api::new(kubernetes)?;
    let namespace = settings.namespace.clone().or_else(pod_namespace);
    let namespace = namespace.ok_or_else(|| {
        Fault::Away("this is not a pod of Kubernetes; set `fleet.namespace`".to_owned())
    })?;
    Ok((api, namespace))
}
