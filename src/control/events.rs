//! Events of Kubernetes: what became of a rollout or a config, for `kubectl get events`.
//!
//! Never waited for: what finds no room, repeats what was told, or comes too fast is left out
//! and counted. The journal and the log have it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use xxhash_rust::xxh3::xxh3_64;

use crate::clock::Clock;
use crate::config::{Config, Fleet, Kubernetes};
use crate::control::fleet::lease::micro_time;
use crate::control::kube::client::{Api, Fault, pod_namespace};
use crate::rollout::record::{Record, What};
use crate::units::Tick;

/// Events that wait for the API. When full, the next one is left out.
const EVENTS_MAX: usize = 64;

/// So many at once, and one more every so often.
const AT_ONCE_MAX: u32 = 20;
const ONE_MORE: Duration = Duration::from_secs(5);

/// The same is not told again within this time.
const SAME_LASTS: Duration = Duration::from_mins(10);

/// Tries of one event, and the pause after the first; doubled after each.
const TRIES_MAX: u32 = 4;
const PAUSE: Duration = Duration::from_secs(1);

/// The longest note, in bytes: what the API takes.
const NOTE_BYTES_MAX: usize = 1024;

/// Where events come from.
const REPORTER: &str = "serin";

/// Tells events, where the config wants it.
#[derive(Debug, Default)]
pub struct Events {
    recorder: Option<Recorder>,
    /// Rollouts whose next change was made by another replica: that one tells.
    followed: Vec<String>,
}

#[derive(Debug)]
struct Recorder {
    queue: mpsc::Sender<Told>,
    sieve: Sieve,
    results: Arc<Results>,
    clock: Clock,
    _task: AbortOnDropHandle<()>,
}

/// One event on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    is_warning: bool,
    /// In one word.
    reason: &'static str,
    /// Whether it is about this pod, and not about what the fleet shares.
    of_pod: bool,
    note: String,
    /// When, as the API writes it.
    at: String,
}

/// What became of events since the start.
#[derive(Debug, Default)]
struct Results {
    sent: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    repeated: AtomicU64,
}

/// Lets through what is new, and not too much of it.
#[derive(Debug, Default)]
struct Sieve {
    /// Hashes of what was told, oldest first.
    told: VecDeque<(u64, Tick)>,
    /// What was let through and is not made up for by time yet, and up to when that was counted.
    used: u32,
    counted: Tick,
}

/// What a sieve says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Let {
    Through,
    Repeated,
    TooMany,
}

impl Sieve {
    fn look(&mut self, what: u64, now: Tick) -> Let {
        self.told.retain(|(_, at)| now.since(*at) < SAME_LASTS);
        if self.told.iter().any(|(one, _)| *one == what) {
            return Let::Repeated;
        }
        while self.used > 0 && now.since(self.counted) >= ONE_MORE {
            self.used -= 1;
            self.counted = self.counted.after(ONE_MORE);
        }
        if self.used == 0 {
            self.counted = now;
        }
        if self.used >= AT_ONCE_MAX {
            return Let::TooMany;
        }
        self.used += 1;
        self.told.push_back((what, now));
        if self.told.len() > EVENTS_MAX {
            self.told.pop_front();
        }
        Let::Through
    }
}

impl Events {
    /// Starts. Within a runtime.
    pub fn start(&mut self, config: &Config, replica: &str, clock: Clock) {
        if config.kubernetes.events.unwrap_or(config.fleet.is_some()) {
            self.recorder = Some(Recorder::start(config, replica, clock));
        }
    }

    /// Events since the start, by what became of them; none where none are told.
    pub fn results(&self) -> Vec<(&'static str, u64)> {
        let Some(Recorder { results, .. }) = &self.recorder else { return Vec::new() };
        let Results { sent, failed, dropped, repeated } = &**results;
        let all =
            [("sent", sent), ("failed", failed), ("dropped", dropped), ("repeated", repeated)];
        all.into_iter().map(|(result, count)| (result, count.load(Relaxed))).collect()
    }

    /// What comes next of a rollout was made by another replica.
    pub fn is_followed(&mut self, rollout: &str) {
        if !self.followed.iter().any(|name| name == rollout) {
            self.followed.push(rollout.to_owned());
        }
    }

    /// Whether the change of a rollout that is to be told was made here. Asked once for each.
    pub fn is_own(&mut self, rollout: &str) -> bool {
        let found = self.followed.iter().position(|name| name == rollout);
        found.map(|index| self.followed.swap_remove(index)).is_none()
    }

    /// A rollout has changed; other records say nothing.
    pub fn tell(&mut self, record: &Record) {
        let What::Changed(change) = &record.what else { return };
        let Some(recorder) = &mut self.recorder else { return };
        let (reason, is_warning) = match change.state.as_str() {
            "rolled_back" => ("RolledBack", true),
            "aborted" => ("Aborted", true),
            "holding" => ("Holding", true),
            "paused" => ("Paused", change.reason.is_some()),
            "promoted" => ("Promoted", false),
            _ => ("Progressing", false),
        };
        let note = format!("{} (version {}): {change}", record.rollout, record.version);
        recorder.tell(reason, is_warning, false, &note);
    }

    /// The config file is refused, for this.
    pub fn tell_refused(&mut self, why: &str) {
        if let Some(recorder) = &mut self.recorder {
            recorder.tell("ConfigRefused", true, true, why);
        }
    }
}

impl Recorder {
    fn start(config: &Config, replica: &str, clock: Clock) -> Self {
        let of_fleet = config.fleet.as_ref();
        let namespace = of_fleet.and_then(|fleet| fleet.namespace.clone()).or_else(pod_namespace);
        let shared = of_fleet.map(Fleet::object);
        let (queue, told) = mpsc::channel(EVENTS_MAX);
        let results = Arc::<Results>::default();
        let sender = Sender {
            kubernetes: config.kubernetes.clone(),
            namespace,
            shared,
            replica: replica.to_owned(),
            results: Arc::clone(&results),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(sender.run(told)));
        Self { queue, sieve: Sieve::default(), results, clock, _task: task }
    }

    fn tell(&mut self, reason: &'static str, is_warning: bool, of_pod: bool, note: &str) {
        let mut note = note.to_owned();
        note.truncate(note.floor_char_boundary(NOTE_BYTES_MAX));
        let what = xxh3_64(format!("{reason} {note}").as_bytes());
        let told = Told { is_warning, reason, of_pod, note, at: micro_time(self.clock) };
        let left_out = match self.sieve.look(what, self.clock.now()) {
            Let::Repeated => Some(&self.results.repeated),
            Let::TooMany => Some(&self.results.dropped),
            Let::Through => self.queue.try_send(told).err().map(|_| &self.results.dropped),
        };
        if let Some(count) = left_out {
            count.fetch_add(1, Relaxed);
        }
    }
}

/// Sends what is told, one after the other.
struct Sender {
    kubernetes: Kubernetes,
    namespace: Option<String>,
    /// The `ConfigMap` of the fleet.
    shared: Option<String>,
    replica: String,
    results: Arc<Results>,
}

impl Sender {
    async fn run(self, mut told: mpsc::Receiver<Told>) {
        let mut is_failing = false;
        while let Some(event) = told.recv().await {
            match self.send(&event).await {
                Ok(()) => {
                    is_failing = false;
                    self.results.sent.fetch_add(1, Relaxed);
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(
                            event = "kubernetes_event_failed", %error,
                            "events of Kubernetes cannot be told"
                        );
                    }
                    self.results.failed.fetch_add(1, Relaxed);
                }
            }
        }
    }

    async fn send(&self, event: &Told) -> Result<(), Fault> {
        let namespace = self.namespace.as_deref().ok_or_else(|| {
            Fault::Away("this is not a pod of Kubernetes; set `fleet.namespace`".to_owned())
        })?;
        let api = Api::new(&self.kubernetes)?;
        let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        let object = self.object(event, namespace);
        let mut pause = PAUSE;
        for tried in 1.. {
            match api.create(&path, &object).await {
                Ok(_) => return Ok(()),
                // An answer got lost.
                Err(fault) if fault.is_conflict() => return Ok(()),
                Err(fault @ Fault::Refused { .. }) => return Err(fault),
                Err(fault) if tried >= TRIES_MAX => return Err(fault),
                Err(_) => sleep(pause).await,
            }
            pause *= 2;
        }
        Ok(())
    }

    fn object(&self, event: &Told, namespace: &str) -> Value {
        let mut regarding = match &self.shared {
            Some(name) if !event.of_pod => {
                json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": name })
            }
            _ => json!({ "apiVersion": "v1", "kind": "Pod", "name": self.replica }),
        };
        regarding["namespace"] = json!(namespace);
        let key = format!("{} {} {} {}", self.replica, event.at, event.reason, event.note);
        json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "name": format!("serin.{:016x}", xxh3_64(key.as_bytes())),
                "namespace": namespace,
            },
            "eventTime": event.at,
            "reportingController": REPORTER,
            "reportingInstance": self.replica,
            "action": if event.of_pod { "Reload" } else { "Rollout" },
            "reason": event.reason,
            "regarding": regarding,
            "note": event.note,
            "type": if event.is_warning { "Warning" } else { "Normal" },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_once_and_many_at_once_are_too_many() {
        let at = |seconds| Tick::new(Duration::from_secs(seconds));
        let mut sieve = Sieve::default();
        assert_eq!(sieve.look(1, at(0)), Let::Through);
        assert_eq!(sieve.look(1, at(599)), Let::Repeated);
        assert_eq!(sieve.look(1, at(600)), Let::Through);
        for what in 2..21 {
            assert_eq!(sieve.look(what, at(601)), Let::Through);
        }
        assert_eq!(sieve.look(100, at(601)), Let::TooMany);
        assert_eq!(sieve.look(100, at(606)), Let::Through);
        assert_eq!(sieve.look(101, at(606)), Let::TooMany);
        // What was left out is not taken for told.
        assert_eq!(sieve.look(101, at(700)), Let::Through);
    }
}
