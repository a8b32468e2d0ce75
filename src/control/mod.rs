//! Makes happen what `rollout` decides: one task owns the snapshot, everything else asks it.
//!
//! Never knows that sockets of users exist, and is never waited for by a request.

pub mod admin;
pub mod api;
pub mod body;
pub mod build;
pub mod certificates;
pub mod controller;
pub mod discovery;
pub mod disk;
pub mod dump;
pub mod events;
pub mod export;
pub mod feedback;
pub mod fleet;
pub mod health;
pub mod journal;
pub mod kube;
pub mod ledger;
pub mod notify;
pub mod reload;
pub mod report;
pub mod roster;
pub mod running;
pub mod throttle;

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::config::Config;
use crate::control::api::RolloutView;
use crate::control::feedback::{Heard, Said};
use crate::names::RolloutName;
use crate::rollout::machine::Word;
use crate::rollout::record::Record;
use crate::telemetry::metrics::Gauges;

/// Commands that wait for the controller. When full, whoever asks waits: only the admin
/// port and the reload timer ask.
pub const COMMANDS_MAX: usize = 64;

/// What the controller is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Read the config file now, even if it looks the same.
    Reload(oneshot::Sender<ReloadResult>),
    /// Look again at files that could not be used, if there are any: some become good with time.
    LookAgain,
    /// Follow a person's word.
    Operate {
        /// Which rollout.
        rollout: RolloutName,
        /// What with it.
        word: Word,
        /// The name of the admin token; `None` where none is needed.
        by: Option<String>,
        /// The new state, or why not.
        reply: oneshot::Sender<Result<RolloutView, NotDone>>,
    },
    /// Count what is said about answers.
    Hear {
        /// In order.
        said: Vec<Said>,
        /// In the same order.
        reply: oneshot::Sender<HeardAll>,
    },
}

/// What became of judgements that came later, one for each.
pub type HeardAll = Vec<Heard>;

/// Why a person's word was not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// No such rollout in the config.
    #[error("there is no rollout of this name")]
    Unknown,
    /// Makes no sense in this state.
    #[error("{0}")]
    Refused(String),
    /// The ledger could not be written; nothing was changed.
    #[error("{0}")]
    Failed(String),
}

/// What became of a reload; the text of the defects, as `serin check` prints them as JSON.
#[derive(Clone, Debug, PartialEq)]
pub enum ReloadResult {
    /// Another config is in force.
    Reloaded,
    /// The file is the one in force.
    Unchanged,
    /// The old config stays.
    Refused(Vec<crate::config::defect::Defect>),
}

/// What the control plane shows, made anew at each slot's end and each change.
#[derive(Clone, Debug)]
pub struct Status {
    /// In force.
    pub config: Arc<Config>,
    /// Where it was read.
    pub origin: String,
    /// Of the file's content.
    pub hash: String,
    /// Rises with every published config.
    pub generation: u64,
    /// When it was published, RFC 3339.
    pub loaded_at: String,
    /// Defects of the last reload, if it failed.
    pub last_error: Vec<crate::config::defect::Defect>,
    /// In the config's order.
    pub rollouts: Vec<RolloutView>,
    /// Changes and words of all rollouts, oldest first.
    pub told: Arc<VecDeque<Record>>,
    /// For the metrics.
    pub gauges: Gauges,
}
