//! What `serin top` shows, and what a key does to it.
//!
//! Never talks to anybody and never draws.

use std::collections::{BTreeMap, VecDeque};

use crate::control::api::RolloutView;

/// Looks that a sparkline remembers.
pub const HISTORY_MAX: usize = 120;

/// One look at a proxy.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// In the config's order.
    pub rollouts: Vec<RolloutView>,
    /// Of all backends.
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whose it is.
    pub backend: String,
    /// Where it is.
    pub address: String,
    /// Whether it gets requests.
    pub healthy: bool,
}

impl Endpoint {
    /// All that the metrics tell of.
    pub fn all_of(metrics: &str) -> Vec<Self> {
        metrics.lines().filter_map(Self::of).collect()
    }

    /// `serin_endpoint_healthy{backend="v1",endpoint="127.0.0.1:9001"} 1`
    fn of(line: &str) -> Option<Self> {
        let line = line.strip_prefix("serin_endpoint_healthy{")?;
        let (labels, value) = line.split_once("} ")?;
        let label = |name: &str| {
            let (_, rest) = labels.split_once(&format!("{name}=\""))?;
            Some(rest.split_once('"')?.0.to_owned())
        };
        let healthy = value.trim() == "1";
        Some(Self { backend: label("backend")?, address: label("endpoint")?, healthy })
    }
}

/// An operator's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Go on to the next step.
    Promote,
    /// Stay in this step.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Take the canary out.
    Abort,
    /// Begin afresh.
    Reset,
}

impl Verb {
    /// All of them, each with its key.
    pub const ALL: [(char, Self); 5] = [
        ('p', Self::Promote),
        ('s', Self::Pause),
        ('r', Self::Resume),
        ('a', Self::Abort),
        ('x', Self::Reset),
    ];

    /// As the admin port knows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
            Self::Reset => "reset",
        }
    }

    /// What it leads to.
    pub const fn means(self) -> &'static str {
        match self {
            Self::Promote => "goes on to the next step, without waiting for evidence",
            Self::Pause => "stays in its step; it is judged all the same",
            Self::Resume => "goes on",
            Self::Abort => "takes the canary out: it gets no more requests",
            Self::Reset => "begins afresh, without any evidence",
        }
    }
}

/// A key that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The one above.
    Up,
    /// The one below.
    Down,
    /// Away from here.
    Escape,
    /// A character.
    Letter(char),
}

/// What is to be done after a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Only draw.
    Nothing,
    /// End.
    Quit,
    /// Tell the proxy.
    Operate {
        /// Which rollout.
        rollout: String,
        /// What it is told.
        verb: Verb,
    },
}

/// Everything that is shown.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Which proxy.
    pub address: String,
    /// The last look that found it.
    pub seen: Seen,
    /// Why the last look found nobody.
    pub fault: Option<String>,
    /// Index into the rollouts.
    pub selected: usize,
    /// Whether help is shown.
    pub helps: bool,
    /// What is asked for once more, and of which rollout.
    pub asks: Option<(String, Verb)>,
    /// What came of the last word.
    pub note: Option<String>,
    /// The canary's p99 in microseconds by rollout, oldest first.
    pub p99: BTreeMap<String, VecDeque<u64>>,
}

impl Model {
    /// Nothing was seen yet.
    pub fn new(address: String) -> Self {
        Self { address, ..Self::default() }
    }

    /// Takes in a look; `Err` is why there was none.
    pub fn see(&mut self, looked: Result<Seen, String>) {
        match looked {
            Err(why) => self.fault = Some(why),
            Ok(seen) => {
                self.fault = None;
                let names: Vec<_> = seen.rollouts.iter().map(|one| one.name.as_str()).collect();
                self.p99.retain(|name, _| names.contains(&name.as_str()));
                for one in &seen.rollouts {
                    let canary = one.versions.iter().find(|version| version.role == "canary");
                    let ms = canary.and_then(|canary| canary.p99_ms).unwrap_or(0.0);
                    let history = self.p99.entry(one.name.clone()).or_default();
                    if history.len() == HISTORY_MAX {
                        history.pop_front();
                    }
                    history.push_back((ms * 1000.0) as u64);
                }
                self.selected = self.selected.min(seen.rollouts.len().saturating_sub(1));
                self.seen = seen;
            }
        }
    }

    /// The rollout that is looked at more closely.
    pub fn chosen(&self) -> Option<&RolloutView> {
        self.seen.rollouts.get(self.selected)
    }

    /// What a key leads to.
    pub fn press(&mut self, key: Key) -> Act {
        if let Some((rollout, verb)) = self.asks.take() {
            // Anything but yes is no.
            return match key {
                Key::Letter('y' | 'Y') => Act::Operate { rollout, verb },
                _ => Act::Nothing,
            };
        }
        self.note = None;
        if self.helps {
            self.helps = false;
            return Act::Nothing;
        }
        match key {
            Key::Up | Key::Letter('k') => self.selected = self.selected.saturating_sub(1),
            Key::Down | Key::Letter('j') => {
                let last = self.seen.rollouts.len().saturating_sub(1);
                self.selected = (self.selected + 1).min(last);
            }
            Key::Letter('?' | 'h') => self.helps = true,
            Key::Letter('q') | Key::Escape => return Act::Quit,
            Key::Letter(letter) => {
                let verb = Verb::ALL.iter().find(|(key, _)| *key == letter);
                let name = self.chosen().map(|one| one.name.clone());
                self.asks = name.zip(verb.map(|(_, verb)| *verb));
            }
        }
        Act::Nothing
    }

    /// Takes in what came of a word.
    pub fn told(&mut self, rollout: &str, verb: Verb, done: Result<(), String>) {
        let verb = verb.as_str();
        self.note = Some(match done {
            Ok(()) => format!("{rollout}: {verb} done"),
            Err(why) => format!("{rollout}: {verb} refused: {why}"),
        });
    }
}
