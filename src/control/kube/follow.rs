//! Follows a list of objects: lists it once, watches what changes, lists again when it has to.
//!
//! Never forgets what it knows because the API is away, and never hurries an API that fails:
//! each failure in a row is waited for longer.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Sleep, sleep, timeout};

use crate::control::kube::client::{Api, Events, Fault};

/// How long a watch lasts by our wish. A connection that is dead and does not say so is found
/// out after this and [`GRACE`].
const WATCH_SECONDS: u64 = 240;

/// What the API is granted beyond that to end it.
const GRACE: Duration = Duration::from_secs(20);

/// After the first failure; doubled with each, a quarter more or less.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest, after failures.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The longest after a watch that ended as it should.
const CLEAN_FAILURES_MAX: u32 = 3;

/// Objects that are kept; the first ones by name.
const OBJECTS_MAX: usize = 10_000;

/// A list of objects that is followed.
#[derive(Debug)]
pub struct Follower {
    api: Api,
    path: String,
    /// With its `&` in front, or empty.
    query: String,
    /// By name.
    objects: BTreeMap<String, Value>,
    /// Up to where the list is known; `None` is not at all.
    version: Option<String>,
    events: Option<Events>,
    failures: u32,
    /// When it is tried again; who waits for it may look away meanwhile.
    due: Option<Pin<Box<Sleep>>>,
    /// Since the last failure no watch has begun.
    is_lost: bool,
    lists: u64,
}

impl Follower {
    /// Of the collection at `path`; `query` narrows it, as in `labelSelector=…`, encoded.
    pub fn new(api: Api, path: impl Into<String>, query: &str) -> Self {
        let query = if query.is_empty() { String::new() } else { format!("&{query}") };
        Self {
            api,
            path: path.into(),
            query,
            objects: BTreeMap::new(),
            version: None,
            events: None,
            failures: 0,
            due: None,
            is_lost: false,
            lists: 0,
        }
    }

    /// The same list, known from nothing, after as many failures and one more.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self {
            api: self.api.clone(),
            path: self.path.clone(),
            query: self.query.clone(),
            objects: BTreeMap::new(),
            version: None,
            events: None,
            failures: self.failures + 1,
            due: None,
            is_lost: false,
            lists: self.lists,
        }
    }

    /// What is known of it.
    pub fn objects(&self) -> &BTreeMap<String, Value> {
        &self.objects
    }

    /// How often it was listed.
    pub fn lists(&self) -> u64 {
        self.lists
    }

    /// Waits until something has changed, or can be seen again after a failure; at first, until
    /// it is known. After a failure what was known stays, and the next call goes on. May be
    /// dropped while it waits.
    pub async fn next(&mut self) -> Result<(), Fault> {
        loop {
            if self.events.is_none() && self.failures > 0 {
                let failures = self.failures;
                let due = self.due.get_or_insert_with(|| Box::pin(sleep(pause(failures))));
                due.as_mut().await;
            }
            if self.version.is_none() {
                let listed = self.list().await;
                self.due = None;
                self.failures += u32::from(listed.is_err());
                // The watch that follows is no news then.
                self.is_lost = listed.is_err();
                return listed;
            }
            let watched = self.watch().await;
            self.due = None;
            if let Some(changed) = watched.transpose() {
                if changed.is_err() {
                    self.failures += 1;
                    self.is_lost = true;
                }
                return changed;
            }
        }
    }

    /// Begins another watch: the present one may be dead without saying so.
    pub fn reconnect(&mut self) {
        self.failures += u32::from(self.events.take().is_some());
        self.is_lost = true;
    }

    async fn list(&mut self) -> Result<(), Fault> {
        // Version 0 would be answered from a cache, which may be older than what is known.
        let list = self.api.get(&format!("{}?limit=0{}", self.path, self.query)).await?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let named = items.into_iter().filter_map(|item| Some((name(&item)?, item)));
        self.objects = named.take(OBJECTS_MAX).collect();
        self.version = list["metadata"]["resourceVersion"].as_str().map(ToOwned::to_owned);
        self.lists += 1;
        if self.version.is_none() {
            return Err(Fault::Away("a list without a version".to_owned()));
        }
        Ok(())
    }

    /// One event; whether it has changed anything that is shown.
    async fn watch(&mut self) -> Result<Option<()>, Fault> {
        let Some(events) = &mut self.events else {
            let version = self.version.clone().unwrap_or_default();
            let path = format!(
                "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}\
                 &resourceVersion={version}{}",
                self.path, self.query
            );
            match self.api.watch(&path).await {
                Ok(events) => {
                    self.events = Some(events);
                    // Nothing may have changed, but it can be seen again.
                    return Ok(std::mem::take(&mut self.is_lost).then_some(()));
                }
                Err(fault) if fault.is_gone() => self.relist(),
                Err(fault) => return Err(fault),
            }
            return Ok(None);
        };
        let lasts = Duration::from_secs(WATCH_SECONDS) + GRACE;
        let event = match timeout(lasts, events.next()).await {
            Ok(Ok(Some(event))) => event,
            Ok(Ok(None)) | Err(_) => {
                self.events = None;
                self.failures = (self.failures + 1).min(CLEAN_FAILURES_MAX);
                return Ok(None);
            }
            Ok(Err(fault)) => {
                self.events = None;
                return Err(fault);
            }
        };
        Ok(self.take_in(event))
    }

    fn take_in(&mut self, mut event: Value) -> Option<()> {
        let object = event["object"].take();
        if event["type"] == "ERROR" {
            // Most often 410: what was missed is not remembered. Whatever it is, begin anew.
            self.relist();
            return None;
        }
        let version = object["metadata"]["resourceVersion"].as_str()?.to_owned();
        self.version = Some(version);
        self.failures = 0;
        match (event["type"].as_str()?, name(&object)) {
            ("ADDED" | "MODIFIED", Some(name)) => {
                if self.objects.len() < OBJECTS_MAX || self.objects.contains_key(&name) {
                    self.objects.insert(name, object);
                }
                Some(())
            }
            ("DELETED", Some(name)) => self.objects.remove(&name).map(|_| ()),
            // A bookmark: nothing happened up to here.
            _ => None,
        }
    }

    fn relist(&mut self) {
        (self.version, self.events) = (None, None);
        self.failures += 1;
    }
}

fn name(object: &Value) -> Option<String> {
    object["metadata"]["name"].as_str().map(ToOwned::to_owned)
}

fn pause(failures: u32) -> Duration {
    let pause = PAUSE.saturating_mul(1 << (failures - 1).min(10)).min(PAUSE_MAX);
    pause.mul_f64(0.75 + 0.5 * fastrand::f64())
}
