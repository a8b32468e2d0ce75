//! The way to the `ConfigMap` that every replica reads, and writes when it has to.
//!
//! Never waited for: what is to be told is told when the API is there.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::control::fleet::{Proposal, State};
use crate::control::kube::client::{Api, Fault};
use crate::control::kube::follow::Follower;
use crate::rollout::fleet::{End, Latch, Latched};

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
    /// write down what is `proposed`. With each of `losses` it is cut off until it can watch again.
    pub async fn run(
        mut self,
        mut raised: watch::Receiver<Latch>,
        mut proposed: watch::Receiver<Option<Proposal>>,
        mut losses: watch::Receiver<u64>,
        state: watch::Sender<State>,
    ) {
        // What was ever read, and what the object holds: it may be put back to what it was.
        let (mut known, mut held) = (Latch::default(), Latch::default());
        let mut pause = Duration::ZERO;
        let (mut is_away, mut is_known, mut is_late) = (false, false, false);
        loop {
            let own = raised.borrow_and_update().clone();
            let is_new = held.clone().merge(&own);
            tokio::select! {
                followed = self.follower.next() => match followed {
                    Ok(()) => {
                        if std::mem::take(&mut is_away) {
                            tracing::info!(
                                event = "latch_readable", "the fleet's latch can be read again"
                            );
                        }
                        is_known = true;
                        let object = self.follower.objects().get(&self.name);
                        held = object.map(|one| Held::of(one).latch).unwrap_or_default();
                        known.merge(&held);
                    }
                    Err(error) => is_alone(&mut is_away, &error),
                },
                changed = raised.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    pause = Duration::ZERO;
                    continue;
                }
                // The Lease is written all the time: where that fails, a watch that says nothing
                // is not to be trusted.
                Ok(()) = losses.changed() => {
                    self.follower.reconnect();
                    is_alone(&mut is_away, &"the fleet's Lease is out of reach");
                }
                changed = proposed.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let proposal = proposed.borrow_and_update().clone();
                    known.merge(&self.go_on(proposal, &own).await);
                }
                () = sleep(pause), if is_new => match self.write(&own).await {
                    Ok(written) => {
                        known.merge(&written);
                        // Not once more, until the object is seen to hold something else.
                        held = written;
                        held.merge(&own);
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
        let mut held = found.as_ref().map(Held::of).unwrap_or_default();
        if held.latch.merge(own) {
            self.put(found, &held).await?;
        }
        Ok(held.latch)
    }

    /// Tries once to write down how the fleet goes on. What it has come to, as far as that is
    /// known then.
    async fn go_on(&self, proposal: Option<Proposal>, own: &Latch) -> Latch {
        let in_time = |one: &Proposal| self.clock.now() < one.until;
        let Some(proposal) = proposal.filter(in_time) else { return Latch::default() };
        self.propose(&proposal, own).await.unwrap_or_else(|error| {
            // It is proposed again, if it is still so.
            tracing::warn!(
                event = "fleet_step_unwritten", %error, rollout = proposal.rollout,
                "the fleet cannot go on"
            );
            Latch::default()
        })
    }

    /// Writes down how the fleet goes on, if nothing has changed since that was decided: neither
    /// in the object nor in what this replica knows. What the object holds then.
    async fn propose(&self, proposal: &Proposal, own: &Latch) -> Result<Latch, Fault> {
        let found = self.read().await?;
        let mut held = found.as_ref().map(Held::of).unwrap_or_default();
        let latch = &mut held.latch;
        latch.merge(own);
        let of = (proposal.rollout.as_str(), proposal.version.as_str());
        let is_out = latch.find(of.0, of.1).is_some_and(|one| one.end.is_some());
        let is_same = (latch.era(of), latch.turn(of)) == (proposal.era, proposal.turn);
        if is_same && !is_out && self.clock.now() < proposal.until {
            latch.advance(of, proposal.to.clone(), (&proposal.by, &proposal.since));
            self.put(found, &held).await?;
        }
        Ok(held.latch)
    }

    async fn read(&self) -> Result<Option<Value>, Fault> {
        match self.api.get(&format!("{}/{}", self.folder, self.name)).await {
            Ok(object) => Ok(Some(object)),
            Err(fault) if fault.is_missing() => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn put(&self, found: Option<Value>, held: &Held) -> Result<(), Fault> {
        let text = json!(held.text());
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

/// The latch cannot be read; said once.
fn is_alone(is_away: &mut bool, error: &dyn std::fmt::Display) {
    if !std::mem::replace(is_away, true) {
        tracing::warn!(
            event = "latch_unreadable", %error,
            "the fleet's latch cannot be read: this replica is alone"
        );
    }
}

/// What an object holds.
#[derive(Debug, Default, PartialEq)]
struct Held {
    /// Of an entry that another version of Serin wrote and this one cannot read, only whether
    /// the version is out.
    latch: Latch,
    /// Such entries, as they are.
    unread: BTreeMap<String, Value>,
}

impl Held {
    /// Nothing, where nobody has written yet, or not what any Serin writes.
    fn of(object: &Value) -> Self {
        let Some(text) = object["data"][KEY].as_str() else { return Self::default() };
        let entries: BTreeMap<String, Value> = serde_json::from_str(text).unwrap_or_else(|error| {
            tracing::error!(
                event = "latch_damaged", %error,
                "the fleet's latch is damaged, and is written anew from what replicas know"
            );
            BTreeMap::new()
        });
        let mut unread = BTreeMap::new();
        let latched = entries.into_iter().map(|(key, value)| {
            let latched = serde_json::from_value(value.clone()).unwrap_or_else(|error| {
                tracing::warn!(
                    event = "latch_unread", %error, entry = key,
                    "an entry of the fleet's latch cannot be read, and is kept as it is"
                );
                let latched = careful(&value);
                unread.insert(key.clone(), value);
                latched
            });
            (key, latched)
        });
        let latch = latched.collect();
        Self { latch, unread }
    }

    /// What is to be written: an entry that cannot be read stays, until the version gets another
    /// chance.
    fn text(&self) -> String {
        let mut entries = match serde_json::to_value(&self.latch) {
            Ok(Value::Object(entries)) => entries,
            _ => Map::new(),
        };
        for (key, value) in &self.unread {
            let era = |value: &Value| value["era"].as_u64().unwrap_or_default();
            if entries.get(key).is_none_or(|own| era(own) <= era(value)) {
                entries.insert(key.clone(), value.clone());
            }
        }
        Value::Object(entries).to_string()
    }
}

/// A version that came out in a way that is not known here is out all the same.
fn careful(value: &Value) -> Latched {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    Latched {
        era: value["era"].as_u64().unwrap_or_default(),
        end: (!value["end"].is_null()).then_some(End::Aborted),
        by: text("by"),
        since: text("since"),
        number: value["number"].as_u64().unwrap_or_default(),
        course: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_version_wrote_is_out_and_stays_written() {
        let entry = json!({ "era": 2, "end": { "banished": "for good" }, "by": "b", "since": "1" });
        let text = json!({ "chat@1": { "era": 0, "end": "aborted", "by": "a", "since": "1" },
            "chat@2": entry, "chat@3": 7 });
        let mut held = Held::of(&json!({ "data": { KEY: text.to_string() } }));
        let end = |held: &Held, version| held.latch.find("chat", version).unwrap().end.clone();
        assert_eq!(end(&held, "1"), Some(End::Aborted));
        assert_eq!(end(&held, "2"), Some(End::Aborted));
        assert_eq!(end(&held, "3"), None);
        held.latch.raise(("chat", "4"), 0, End::Aborted, ("a", "2"));
        let written: Value = serde_json::from_str(&held.text()).unwrap();
        assert_eq!((&written["chat@2"], &written["chat@3"]), (&entry, &json!(7)));
        assert_eq!(written["chat@4"]["end"], "aborted");
        held.latch.reset(("chat", "2"), 0, ("a", "3"));
        let written: Value = serde_json::from_str(&held.text()).unwrap();
        assert_eq!(
            (&written["chat@2"]["era"], &written["chat@2"]["end"]),
            (&3.into(), &Value::Null)
        );
    }

    #[test]
    fn what_no_serin_wrote_is_nothing() {
        for object in [json!({}), json!({ "data": { KEY: "{\"chat" } })] {
            assert_eq!(Held::of(&object), Held::default());
        }
    }
}
