//! The latch of a fleet: a `ConfigMap` that every replica reads, and writes when it has to.
//!
//! Never waited for: a replica takes its canary out first and tells the others then. While the
//! API is away it goes on by itself, and tells them when it is back.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{self, Kubernetes};
use crate::control::kube::client::{Api, Fault, pod_namespace};
use crate::control::kube::follow::Follower;
use crate::rollout::fleet::Latch;

/// The key of the `ConfigMap` under which the latch is.
const KEY: &str = "latch.json";

/// From one try to write to the next; doubled with each failure in a row.
const PAUSE: Duration = Duration::from_millis(50);

/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// From one try to find the API to the next.
const NOBODY_PAUSE: Duration = Duration::from_secs(10);

/// This replica's place in its fleet.
#[derive(Debug)]
pub struct Fleet {
    /// What this replica is called.
    pub replica: String,
    own: watch::Sender<Latch>,
    heard: watch::Receiver<Latch>,
    _task: AbortOnDropHandle<()>,
}

impl Fleet {
    /// Joins. Within a runtime.
    pub fn join(settings: &config::Fleet, kubernetes: &Kubernetes) -> Self {
        let (own, raised) = watch::channel(Latch::default());
        let (tell, heard) = watch::channel(Latch::default());
        let (settings, kubernetes) = (settings.clone(), kubernetes.clone());
        let task = tokio::spawn(async move {
            let link = loop {
                match Link::new(&settings, &kubernetes) {
                    Ok(link) => break link,
                    Err(error) => tracing::error!(
                        event = "fleet_alone", %error, "this replica is alone"
                    ),
                }
                sleep(NOBODY_PAUSE).await;
            };
            link.run(raised, &tell).await;
        });
        Self { replica: replica_name(), own, heard, _task: AbortOnDropHandle::new(task) }
    }

    /// What this replica knows.
    pub fn known(&self) -> Latch {
        self.own.borrow().clone()
    }

    /// Changes what this replica knows; what is new is told to the others.
    pub fn change(&self, change: impl FnOnce(&mut Latch)) {
        self.own.send_modify(change);
    }

    /// What others have told.
    pub fn heard(&self) -> watch::Receiver<Latch> {
        self.heard.clone()
    }
}

/// What others tell next; never, outside a fleet.
pub async fn next(heard: &mut Option<watch::Receiver<Latch>>) -> Latch {
    if let Some(heard) = heard
        && heard.changed().await.is_ok()
    {
        return heard.borrow_and_update().clone();
    }
    std::future::pending().await
}

/// As the pod is called.
fn replica_name() -> String {
    let name = ["POD_NAME", "HOSTNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    name.unwrap_or_else(|| format!("process {}", std::process::id()))
}

/// The way to the `ConfigMap`.
struct Link {
    api: Api,
    folder: String,
    name: String,
    follower: Follower,
}

impl Link {
    fn new(settings: &config::Fleet, kubernetes: &Kubernetes) -> Result<Self, Fault> {
        let api = Api::new(kubernetes)?;
        let namespace = settings.namespace.clone().or_else(pod_namespace);
        let namespace = namespace.ok_or_else(|| {
            Fault::Away("this is not a pod of Kubernetes; set `fleet.namespace`".to_owned())
        })?;
        let folder = format!("/api/v1/namespaces/{namespace}/configmaps");
        let name = settings.object();
        let query = format!("fieldSelector=metadata.name%3D{name}");
        let follower = Follower::new(api.clone(), folder.clone(), &query);
        Ok(Self { api, folder, name, follower })
    }

    async fn run(mut self, mut raised: watch::Receiver<Latch>, tell: &watch::Sender<Latch>) {
        let mut known = Latch::default();
        let mut pause = Duration::ZERO;
        let mut is_away = false;
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
                        if let Some(object) = self.follower.objects().get(&self.name) {
                            known.merge(&latch_of(object));
                        }
                    }
                    Err(error) if !is_away => {
                        is_away = true;
                        tracing::warn!(
                            event = "latch_unreadable", %error,
                            "the fleet's latch cannot be read: this replica is alone"
                        );
                    }
                    Err(_) => {}
                },
                changed = raised.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    pause = Duration::ZERO;
                    continue;
                }
                () = sleep(pause), if is_new => match self.write(&own).await {
                    Ok(written) => {
                        known.merge(&written);
                        pause = Duration::ZERO;
                    }
                    Err(error) => {
                        if !error.is_conflict() {
                            tracing::warn!(
                                event = "latch_late", %error,
                                "the fleet is not told yet that a version is out"
                            );
                        }
                        pause = (pause * 2).clamp(PAUSE, PAUSE_MAX);
                    }
                },
            }
            tell.send_if_modified(|told| told.merge(&known));
        }
    }

    /// Puts what is new into the object, unless somebody else writes it meanwhile. What it
    /// holds then.
    async fn write(&self, own: &Latch) -> Result<Latch, Fault> {
        let path = format!("{}/{}", self.folder, self.name);
        let found = match self.api.get(&path).await {
            Ok(object) => Some(object),
            Err(fault) if fault.is_missing() => None,
            Err(fault) => return Err(fault),
        };
        let mut latch = found.as_ref().map(latch_of).unwrap_or_default();
        if !latch.merge(own) {
            return Ok(latch);
        }
        let text = json!(serde_json::to_string(&latch).unwrap_or_default());
        if let Some(mut object) = found {
            object["data"][KEY] = text;
            self.api.replace(&path, &object).await?;
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
        Ok(latch)
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
