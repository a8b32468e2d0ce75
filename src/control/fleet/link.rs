//! The way to the `ConfigMap` that every replica reads, and writes when it has to.
//!
//! Never waited for: what is to be told is told when the API is there.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::control::fleet::{Proposal, State};
use crate::control::kube::client::{Api, Fault};
use crate::control::kube::follow::Follower;
use crate::rollout::fleet::Latch;

/// The key of the `ConfigMap` under which the latch is.
const KEY: &str = "latch.json";

/// From one try to write to the next; doubled with each failure in a row.
const PAUSE: Duration = Duration::from_millis(50);

/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The way to the `ConfigMap`.
#[derive(Debug)]
pub struct Link {
    api: Api,
    clock: Clock,
    folder: String,
    name: String,
    follower: Follower,
}

impl Link {
    /// To the one called `name` in `namespace`.
    pub fn new(api: Api, namespace: &str, name: &str, clock: Clock) -> Self {
        let folder = format!("/api/v1/namespaces/{namespace}/configmaps");
        let query = format!("fieldSelector=metadata.name%3D{name}");
        let follower = Follower::new(api.clone(), folder.clone(), &query);
        Self { api, clock, folder, name: name.to_owned(), follower }
    }

    /// Tells `state` what the others say, and the others what is `raised` here; tries once to
    /// write down what is `proposed`.
    pub async fn run(
        mut self,
        mut raised: watch::Receiver<Latch>,
        mut proposed: watch::Receiver<Option<Proposal>>,
        state: watch::Sender<State>,
    ) {
        let mut known = Latch::default();
        let mut pause = Duration::ZERO;
        let (mut is_away, mut is_known, mut is_late) = (false, false, false);
        loop {
            let own = raised.borrow_and_update().clone();
            let is_new = known.clone().merge(&own);
            tokio::select! {
                followed = self.follower.next() => match followed {
                    Ok(()) => {
                        if std::mem::take(&mut is_away) {
                            tracing::info!(
                                event = "latch_readable", "the fleet's latch can be read again"
                            );
                        }
                        is_known = true;
                        if let Some(object) = self.follower.objects().get(&self.name) {
                            known.merge(&latch_of(object));
                        }
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut is_away, true) {
                            tracing::warn!(
                                event = "latch_unreadable", %error,
                                "the fleet's latch cannot be read: this replica is alone"
                            );
                        }
                    }
                },
                changed = raised.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    pause = Duration::ZERO;
                    continue;
                }
                changed = proposed.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let proposal = proposed.borrow_and_update().clone();
                    known.merge(&self.go_on(proposal).await);
                }
                () = sleep(pause), if is_new => match self.write(&own).await {
                    Ok(written) => {
                        known.merge(&written);
                        (pause, is_late) = (Duration::ZERO, false);
                    }
                    Err(error) => {
                        if !error.is_conflict() && !std::mem::replace(&mut is_late, true) {
                            tracing::warn!(
                                event = "latch_late", %error,
                                "the fleet is not told yet what has changed"
                            );
                        }
                        pause = (pause * 2).clamp(PAUSE, PAUSE_MAX);
                    }
                },
            }
            let is_connected = is_known && !is_away;
            state.send_if_modified(|state| {
                let changed = (state.is_connected, state.is_known) != (is_connected, is_known);
                (state.is_connected, state.is_known) = (is_connected, is_known);
                state.latch.merge(&known) || changed
            });
        }
    }

    /// Puts what is new into the object, unless somebody else writes it meanwhile. What it
    /// holds then.
    async fn write(&self, own: &Latch) -> Result<Latch, Fault> {
        let found = self.read().await?;
        let mut latch = found.as_ref().map(latch_of).unwrap_or_default();
        if latch.merge(own) {
            self.put(found, &latch).await?;
        }
        Ok(latch)
    }

    /// Tries once to write down how the fleet goes on. What it has come to, as far as that is
    /// known then.
    async fn go_on(&self, proposal: Option<Proposal>) -> Latch {
        let in_time = |one: &Proposal| self.clock.now() < one.until;
        let Some(proposal) = proposal.filter(in_time) else { return Latch::default() };
        self.propose(&proposal).await.unwrap_or_else(|error| {
            // It is proposed again, if it is still so.
            tracing::warn!(
                event = "fleet_step_unwritten", %error, rollout = proposal.rollout,
                "the fleet cannot go on"
            );
            Latch::default()
        })
    }

    /// Writes down how the fleet goes on, if nothing has changed since that was decided. What
    /// the object holds then.
    async fn propose(&self, proposal: &Proposal) -> Result<Latch, Fault> {
        let found = self.read().await?;
        let mut latch = found.as_ref().map(latch_of).unwrap_or_default();
        let of = (proposal.rollout.as_str(), proposal.version.as_str());
        let is_out = latch.find(of.0, of.1).is_some_and(|one| one.end.is_some());
        let is_same = (latch.era(of), latch.turn(of)) == (proposal.era, proposal.turn);
        if is_same && !is_out && self.clock.now() < proposal.until {
            latch.advance(of, proposal.to.clone(), (&proposal.by, &proposal.since));
            self.put(found, &latch).await?;
        }
        Ok(latch)
    }

    async fn read(&self) -> Result<Option<Value>, Fault> {
        match self.api.get(&format!("{}/{}", self.folder, self.name)).await {
            Ok(object) => Ok(Some(object)),
            Err(fault) if fault.is_missing() => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn put(&self, found: Option<Value>, latch: &Latch) -> Result<(), Fault> {
        let text = json!(serde_json::to_string(latch).unwrap_or_default());
        if let Some(mut object) = found {
            object["data"][KEY] = text;
            self.api.replace(&format!("{}/{}", self.folder, self.name), &object).await?;
        } else {
            let object = json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {
                    "name": self.name,
                    "labels": { "app.kubernetes.io/part-of": "serin" },
                },
                "data": { KEY: text },
            });
            self.api.create(&self.folder, &object).await?;
        }
        Ok(())
    }
}

/// What an object says; nothing, where nobody has written yet, or not what Serin writes.
fn latch_of(object: &Value) -> Latch {
    let Some(text) = object["data"][KEY].as_str() else { return Latch::default() };
    serde_json::from_str(text).unwrap_or_else(|error| {
        tracing::error!(
            event = "latch_damaged", %error, "the fleet's latch is damaged, and is written anew"
        );
        Latch::default()
    })
}
