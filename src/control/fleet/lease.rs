//! The lease of a fleet: one replica at a time judges the counts of all.
//!
//! Never acts on a lease that could not be renewed in time, whatever the API says later.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::clock::Clock;
use crate::control::fleet::State;
use crate::control::kube::client::{Api, Fault};
use crate::control::kube::follow::Follower;
use crate::rollout::fleet::election::{Act, Election, LEASE_LASTS, Seen};
use crate::units::Tick;

/// The annotation in which the holder leaves the evidence for the next one.
const EVIDENCE: &str = "serin-evidence";

/// A renewal that takes longer would be too late.
const CALL_TIME_MAX: Duration = Duration::from_secs(4);

/// After a call that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// How long it was not to be seen when it is looked at, beside being followed: a watch that lasts
/// tells nothing where nobody writes.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// All candidates wait up to so much longer, each its own time.
const PATIENCE_MAX: Duration = Duration::from_secs(2);

/// How long the end of the process waits for the lease to be given up.
pub const RELEASE_TIME_MAX: Duration = Duration::from_secs(1);

/// This replica's part in the election.
#[derive(Debug)]
pub struct Candidate {
    api: Api,
    folder: String,
    name: String,
    me: String,
    clock: Clock,
    election: Election,
    follower: Follower,
    /// As it was last seen or written.
    object: Option<Value>,
    can_see: bool,
    /// The API says that it may not be read, and that it may not be written: each is told once,
    /// until it can be.
    refused: Refused,
    /// Rises each time that it cannot be seen any more.
    losses: watch::Sender<u64>,
}

/// What the API was asked for.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Read,
    Write,
}

/// What it refuses for want of rights.
#[derive(Clone, Copy, Debug, Default)]
struct Refused {
    read: bool,
    write: bool,
}

impl Candidate {
    /// Of the lease `name` in `namespace`, as `me`.
    pub fn new(
        api: Api,
        (namespace, name): (&str, &str),
        me: String,
        clock: Clock,
        losses: watch::Sender<u64>,
    ) -> Self {
        let folder = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
        let query = format!("fieldSelector=metadata.name%3D{name}");
        let follower = Follower::new(api.clone(), folder.clone(), &query);
        let patience = PATIENCE_MAX.mul_f64(fastrand::f64());
        let election = Election::new(me.clone(), patience);
        let (name, object) = (name.to_owned(), None);
        let (can_see, refused) = (false, Refused::default());
        Self { api, folder, name, me, clock, election, follower, object, can_see, refused, losses }
    }

    /// Takes part until it is dropped, or `leave` says so; then gives the lease up.
    pub async fn run(
        mut self,
        state: watch::Sender<State>,
        evidence: watch::Receiver<Arc<str>>,
        mut leave: watch::Receiver<bool>,
    ) {
        loop {
            let wait = match self.election.act(self.clock.now()) {
                Act::Wait(span) => span,
                Act::Take => Duration::ZERO,
            };
            tokio::select! {
                followed = self.follower.next() => self.followed(followed),
                () = sleep(LOOK_AFTER), if !self.can_see => {
                    if let Err(fault) = self.look().await {
                        self.failed(&fault, Deed::Read);
                    }
                }
                // What cannot be seen cannot be taken.
                () = sleep(wait), if self.can_see => {
                    let text = Arc::clone(&evidence.borrow());
                    if let Err(fault) = self.take(&text).await {
                        self.failed(&fault, Deed::Write);
                        sleep(PAUSE).await;
                    }
                }
                left = leave.changed() => {
                    if left.is_ok() && self.election.holds_until().is_some() {
                        let text = Arc::clone(&evidence.borrow());
                        let _ = timeout(RELEASE_TIME_MAX, self.write("", &text)).await;
                    }
                    return;
                }
            }
            self.tell(&state);
        }
    }

    fn followed(&mut self, followed: Result<(), Fault>) {
        match followed {
            Ok(()) => {
                self.refused.read = false;
                self.saw(self.follower.objects().get(&self.name).cloned());
            }
            Err(fault) => self.failed(&fault, Deed::Read),
        }
    }

    /// Reads it.
    async fn look(&mut self) -> Result<(), Fault> {
        let path = format!("{}/{}", self.folder, self.name);
        let found = timeout(CALL_TIME_MAX, self.api.get(&path)).await;
        match found.unwrap_or_else(|_| Err(Fault::Away("no answer".to_owned()))) {
            Ok(object) => self.saw(Some(object)),
            Err(fault) if fault.is_missing() => self.saw(None),
            Err(fault) => return Err(fault),
        }
        Ok(())
    }

    fn saw(&mut self, object: Option<Value>) {
        self.can_see = true;
        let seen = object.as_ref().map(seen_of);
        self.object = object;
        self.election.see(seen, self.clock.now());
    }

    /// Somebody who wrote first is no failure.
    fn failed(&mut self, fault: &Fault, deed: Deed) {
        if !fault.is_conflict() {
            tracing::debug!(
                event = "lease_failed", error = %fault,
                "the fleet's lease cannot be read or written"
            );
            let was_refused = match deed {
                Deed::Read => &mut self.refused.read,
                Deed::Write => &mut self.refused.write,
            };
            // Whoever is too busy, or ends, refuses as well, and grants it later.
            if fault.is_forbidden() && !std::mem::replace(was_refused, true) {
                tracing::warn!(
                    event = "lease_refused", error = %fault,
                    "this replica may not read or write the fleet's Lease, by which one judges for all"
                );
            }
            if self.can_see && matches!(fault, Fault::Away(_)) {
                self.can_see = false;
                self.follower.reconnect();
                self.losses.send_modify(|losses| *losses += 1);
            }
        }
    }

    fn tell(&self, state: &watch::Sender<State>) {
        let holds_until = self.election.holds_until();
        let holder = self.election.holder();
        state.send_if_modified(|state| {
            let same = state.holds_until == holds_until && state.holder == holder;
            if !same {
                let is_new = state.holds_until.is_none_or(|until| until < self.clock.now());
                if is_new && holds_until.is_some() {
                    state.inherited = self.object.as_ref().and_then(evidence_of);
                }
                holder.clone_into(&mut state.holder);
                state.holds_until = holds_until;
            }
            !same
        });
    }

    async fn take(&mut self, evidence: &str) -> Result<(), Fault> {
        let begun = self.clock.now();
        let me = self.me.clone();
        let written = timeout(CALL_TIME_MAX, self.write(&me, evidence)).await;
        let written = written.unwrap_or_else(|_| Err(Fault::Away("no answer".to_owned())));
        let object = match written {
            Ok(object) => object,
            Err(fault) => {
                if fault.is_conflict() {
                    // The watch may be behind: look, so that it is not written again in vain.
                    self.look().await?;
                }
                return Err(fault);
            }
        };
        self.refused.write = false;
        self.election.written(seen_of(&object), begun, self.clock.now());
        self.object = Some(object);
        Ok(())
    }

    /// Writes a holder into it; into what was seen last, unless somebody else wrote it since.
    async fn write(&self, holder: &str, evidence: &str) -> Result<Value, Fault> {
        let now = micro_time(self.clock);
        let before = self.object.as_ref();
        let old_holder = before.map_or("", |one| holder_of(one));
        let is_same = old_holder == holder;
        let spec = before.map(|one| one["spec"].clone()).unwrap_or_default();
        let transitions = spec["leaseTransitions"].as_u64().unwrap_or(0);
        let acquired = Some(&spec["acquireTime"]).filter(|time| is_same && time.is_string());
        // Who has just begun has not judged anything yet: what is there is kept.
        let kept = before.and_then(evidence_of);
        let evidence = if evidence.is_empty() { kept.as_deref().unwrap_or("") } else { evidence };
        let spec = json!({
            "holderIdentity": holder,
            "leaseDurationSeconds": LEASE_LASTS.as_secs(),
            "acquireTime": acquired.cloned().unwrap_or_else(|| json!(now)),
            "renewTime": now,
            "leaseTransitions": if is_same { transitions } else { transitions + 1 },
        });
        let annotations = json!({ EVIDENCE: evidence });
        if let Some(before) = before {
            let mut object = before.clone();
            object["spec"] = spec;
            object["metadata"]["annotations"] = annotations;
            let path = format!("{}/{}", self.folder, self.name);
            return self.api.replace(&path, &object).await;
        }
        let object = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self.name,
                "labels": { "app.kubernetes.io/part-of": "serin" },
                "annotations": annotations,
            },
            "spec": spec,
        });
        self.api.create(&self.folder, &object).await
    }
}

fn holder_of(object: &Value) -> &str {
    object["spec"]["holderIdentity"].as_str().unwrap_or_default()
}

fn seen_of(object: &Value) -> Seen {
    let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    Seen { holder: holder_of(object).to_owned(), version: version.to_owned() }
}

fn evidence_of(object: &Value) -> Option<Arc<str>> {
    let text = object["metadata"]["annotations"][EVIDENCE].as_str()?;
    (!text.is_empty()).then(|| text.into())
}

/// As the API writes such times; for people, and for no decision.
pub fn micro_time(clock: Clock) -> String {
    let micros = i64::try_from(clock.wall().as_micros()).unwrap_or_default();
    let time = jiff::Timestamp::from_microsecond(micros).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// A tick that is over holds nothing.
pub fn holds(until: Option<Tick>, now: Tick) -> bool {
    until.is_some_and(|until| now < until)
}
