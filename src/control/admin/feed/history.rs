//! What rollouts did of late, for people who come later.
//!
//! Never judged from, and never more than so many points: the oldest go.

use std::collections::VecDeque;

use serde::Serialize;

use crate::control::api::{RolloutView, VersionView};

/// Points of one rollout: ten minutes.
const POINTS_MAX: usize = 600;

/// Points of all rollouts together; with more than fifty, each has fewer.
const ALL_POINTS_MAX: usize = 30_000;

/// Of every rollout in the config.
#[derive(Debug, Default)]
pub(super) struct Histories(Vec<History>);

/// Of one version of a rollout.
#[derive(Debug, Serialize)]
pub(super) struct History {
    rollout: String,
    version: String,
    /// Names, in the order of each point's objectives.
    objectives: Vec<String>,
    /// Oldest first.
    points: VecDeque<Point>,
}

/// How a rollout stood at a moment.
#[derive(Debug, Serialize)]
struct Point {
    /// Milliseconds since the Unix epoch.
    at: u64,
    state: String,
    weight: f64,
    stable: Option<Arm>,
    canary: Option<Arm>,
    objectives: Vec<Figures>,
}

/// What a version did over the last ten seconds.
#[derive(Debug, Serialize)]
struct Arm {
    rps: f64,
    errors: f64,
    p99_ms: Option<f64>,
}

/// An objective's numbers, as in `/api/rollouts`.
#[derive(Debug, Serialize)]
struct Figures {
    ratio: f64,
    low: f64,
    high: f64,
    stable: f64,
    over_limit: f64,
    worse_than_stable: Option<f64>,
}

impl Histories {
    /// Takes a point of each of `rollouts`, and forgets all others.
    pub fn sample(&mut self, at: u64, rollouts: &[RolloutView]) {
        let most = POINTS_MAX.min(ALL_POINTS_MAX / rollouts.len().max(1)).max(1);
        let mut before = std::mem::take(&mut self.0);
        for view in rollouts {
            let old = before.iter().position(|one| one.goes_on_with(view));
            let mut one = old.map_or_else(|| History::new(view), |index| before.swap_remove(index));
            while one.points.len() >= most {
                one.points.pop_front();
            }
            one.points.push_back(Point::new(at, view));
            self.0.push(one);
        }
    }

    /// Of the rollout of this name.
    pub fn of(&self, name: &str) -> Option<&History> {
        self.0.iter().find(|one| one.rollout == name)
    }
}

impl History {
    fn new(view: &RolloutView) -> Self {
        Self {
            rollout: view.name.clone(),
            version: view.version.clone(),
            objectives: view.objectives.iter().map(|one| one.name.clone()).collect(),
            points: VecDeque::new(),
        }
    }

    /// Points of another version, or of other objectives, do not go with these.
    fn goes_on_with(&self, view: &RolloutView) -> bool {
        let names = view.objectives.iter().map(|one| one.name.as_str());
        self.rollout == view.name && self.version == view.version && names.eq(&self.objectives)
    }
}

impl Point {
    fn new(at: u64, view: &RolloutView) -> Self {
        let arm = |role: &str| view.versions.iter().find(|one| one.role == role).map(Arm::new);
        let objectives = view.objectives.iter().map(|one| Figures {
            ratio: one.canary.ratio,
            low: one.canary.low,
            high: one.canary.high,
            stable: one.stable.ratio,
            over_limit: one.over_limit,
            worse_than_stable: one.worse_than_stable,
        });
        Self {
            at,
            state: view.state.clone(),
            weight: view.weight,
            stable: arm("stable"),
            canary: arm("canary"),
            objectives: objectives.collect(),
        }
    }
}

impl Arm {
    fn new(version: &VersionView) -> Self {
        Self { rps: version.rps, errors: version.errors, p99_ms: version.p99_ms }
    }
}
